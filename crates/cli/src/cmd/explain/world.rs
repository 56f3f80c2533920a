//! The world a request is explained on: the running mesh's, or one made of files.

use super::objects::Implied;
use super::request::inbound::Ports;
use crate::client::Client;
use crate::cmd::standing::{self, Told};
use crate::exit::Outcome;
use crate::{manifests, out};
use naka_api::networking::export::Export;
use naka_api::{Mode, Object, Spec};
use naka_control::registry::Health;
use naka_control::world::{Endpoint, Inputs, Port, Service, World};
use naka_store::Snapshot;
use naka_types::host::Host;
use naka_types::labels::Labels;
use naka_types::protocol::Protocol;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

/// A world and what the reader should know about it.
pub(crate) struct Found {
    /// For compile.
    pub(crate) world: World,
    /// Assumptions.
    pub(crate) notes: Vec<String>,
    /// Ports of programs by the address that callers dial.
    pub(crate) ports: Ports,
    /// What proxies found out about those they call.
    pub(crate) told: Vec<Told>,
}

/// The running mesh's.
pub(crate) async fn live(context: Option<&str>) -> Outcome<Found> {
    let mut client = Client::open(context).await?;
    let value = client.get("/naka/v1/world").await?;
    let workloads = client.get("/naka/v1/workloads").await?;
    Ok(Found {
        world: of_value(&value),
        notes: Vec::new(),
        ports: ports(&workloads),
        told: standing::read(workloads["items"].as_array().map_or(&[], Vec::as_slice)),
    })
}

/// What a list of workloads says of their ports.
fn ports(value: &Value) -> Ports {
    let items = value["items"].as_array().into_iter().flatten();
    let all = items.filter_map(|item| item["ports"].as_array()).flatten();
    all.filter_map(|served| {
        let port = served["port"].as_u64()?.try_into().ok()?;
        let protocol = served["protocol"].as_str().unwrap_or_default();
        let address = served["inbound_address"].as_str()?;
        Some((address.to_owned(), (port, protocol.to_owned())))
    })
    .collect()
}

/// The world that a control plane describes.
pub(crate) fn of_value(value: &Value) -> World {
    let list = |name: &str| {
        value
            .get(name)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let objects: Vec<Object> = list("objects")
        .iter()
        .filter_map(|raw| naka_api::decode_json(raw, Mode::Compat).0)
        .collect();
    let word = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
    let mut world = joined(objects.clone(), word("trust_domain"));
    world.redacted = true;
    let map = |name: &str| {
        value
            .get(name)
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default()
    };
    for (host, shown) in map("services") {
        // Hosts of ServiceEntries come from their objects.
        let entry = shown.get("entry").is_some_and(|entry| !entry.is_null());
        if let Ok(host) = Host::parse(&host)
            && !entry
        {
            world
                .services
                .insert(host.clone(), Arc::new(service(host, &shown)));
        }
    }
    for (host, ports) in map("endpoints") {
        let Ok(host) = Host::parse(&host) else {
            continue;
        };
        let ports = ports.as_object().into_iter().flatten();
        let all = ports
            .filter_map(|(port, all)| {
                let all = all.as_array()?.iter().map(endpoint).collect();
                Some((port.parse().ok()?, all))
            })
            .collect();
        world.endpoints.insert(host, Arc::new(all));
    }
    let keys = map("keys").into_iter();
    world.keys = keys.map(|(uri, keys)| (uri, Arc::new(keys))).collect();
    world.rejoin(&snapshot(objects));
    world
}

/// One made of files. Files say nothing of what runs, so every service and every subset is assumed to have one
/// endpoint; the note says so.
pub(crate) fn of_files(files: &[PathBuf], namespace: &str, asked: &str) -> Outcome<Found> {
    let decoded = manifests::decode(files, namespace, Mode::Compat)?;
    for finding in decoded.findings.iter().filter(|finding| finding.is_error()) {
        out::note(finding.to_string());
    }
    Ok(Found {
        world: of_objects(decoded.objects, namespace, asked),
        notes: vec![
            "from files: every service and every subset is taken to have one healthy endpoint"
                .to_owned(),
        ],
        ports: Ports::new(),
        told: Vec::new(),
    })
}

/// Services that these objects and a request for `asked` speak of.
pub(super) fn implied(objects: &[Object], namespace: &str, asked: &str) -> BTreeMap<Host, Implied> {
    let mut all: BTreeMap<Host, Implied> = BTreeMap::new();
    let mut called = |host: &Host, port: u16| {
        all.entry(host.clone()).or_default().ports.insert(port);
    };
    if let Ok(host) = Host::resolve(asked, namespace) {
        called(&host, 80);
    }
    for object in objects {
        if let Spec::VirtualService(spec) = &object.spec {
            let routes = || spec.http.iter();
            let copies = routes().flat_map(|route| &route.mirrors);
            let targets = routes().flat_map(|route| route.destinations());
            let targets = targets.map(|weighted| &weighted.destination);
            for target in targets.chain(copies.map(|copy| &copy.destination)) {
                called(&target.host, target.port.unwrap_or(80));
            }
            for host in spec.hosts.iter().filter(|host| !host.is_wildcard()) {
                called(host, 80);
            }
        }
    }
    for object in objects {
        if let Spec::DestinationRule(spec) = &object.spec
            && !spec.host.is_wildcard()
        {
            let labels = spec.subsets.iter().map(|subset| subset.labels.clone());
            let one = all.entry(spec.host.clone()).or_default();
            one.subsets.extend(labels);
        }
        if let Spec::ServiceEntry(spec) = &object.spec {
            let named = spec.endpoints.iter().map(|endpoint| &endpoint.address);
            let services = named.filter_map(|address| Host::parse(address).ok());
            for host in services.filter(|host| host.service().is_some()) {
                let ports = &mut all.entry(host).or_default().ports;
                ports.extend(spec.ports.iter().map(|p| p.target.unwrap_or(p.number)));
            }
        }
    }
    all
}

/// The world that these objects and a request for `asked` imply. Endpoints that the objects declare are taken as they
/// are; a service without any gets one for each of its subsets.
pub(crate) fn of_objects(objects: Vec<Object>, namespace: &str, asked: &str) -> World {
    let implied = implied(&objects, namespace, asked);
    let mut world = joined(objects.clone(), naka_types::spiffe::DEFAULT_TRUST_DOMAIN);
    let mut number = 0_u32;
    for (host, Implied { mut ports, subsets }) in implied {
        let known = world.endpoints.get(&host);
        if known.is_some_and(|ports| !ports.is_empty()) {
            continue;
        }
        let Some((name, namespace)) = host.service().map(|(n, ns)| (n.to_owned(), ns.to_owned()))
        else {
            continue;
        };
        if let Some(declared) = world.services.get(&host) {
            ports = declared.ports.keys().copied().collect();
        } else {
            ports.insert(80);
            let port = |number: &u16| {
                (
                    *number,
                    Port {
                        name: String::new(),
                        protocol: Protocol::Http,
                    },
                )
            };
            let made = Service {
                host: host.clone(),
                name: name.clone(),
                namespace: namespace.clone(),
                declared: false,
                created: String::new(),
                accounts: BTreeSet::from([name.clone()]),
                ports: ports.iter().map(port).collect(),
                export: Export::Everywhere,
                entry: None,
            };
            world.services.insert(host.clone(), Arc::new(made));
        }
        let mut labels = subsets;
        if labels.is_empty() {
            labels.push(Labels::new());
        }
        let endpoints: Vec<Endpoint> = labels
            .into_iter()
            .map(|labels| {
                number += 1;
                assumed(&name, &namespace, labels, number)
            })
            .collect();
        let all = ports
            .into_iter()
            .map(|port| (port, endpoints.clone()))
            .collect();
        world.endpoints.insert(host, Arc::new(all));
    }
    world.rejoin(&snapshot(objects));
    world
}

/// An endpoint that stands for whatever would run. The addresses are of a range reserved for documentation.
fn assumed(name: &str, namespace: &str, labels: Labels, number: u32) -> Endpoint {
    let [_, _, high, low] = number.to_be_bytes();
    Endpoint {
        address: format!("198.18.{high}.{low}:15006"),
        health: Health::Healthy,
        weight: 1,
        mtls: true,
        labels,
        workload: format!("{name}-assumed"),
        namespace: namespace.to_owned(),
        workload_id: String::new(),
    }
}

fn snapshot(objects: Vec<Object>) -> Snapshot {
    let objects: BTreeMap<_, _> = objects
        .into_iter()
        .map(|object| (object.reference(), Arc::new(object)))
        .collect();
    Snapshot {
        objects: Arc::new(objects),
        ..Snapshot::default()
    }
}

fn joined(objects: Vec<Object>, trust_domain: &str) -> World {
    let snapshot = snapshot(objects);
    World::build(Inputs {
        snapshot: &snapshot,
        secrets: naka_control::world::secrets::named(&snapshot, |_| None),
        members: Vec::new(),
        owners: &BTreeMap::new(),
        trust_domain: trust_domain.into(),
        roots: "".into(),
    })
}

fn service(host: Host, shown: &Value) -> Service {
    let word = |name: &str| {
        shown
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let ports = shown
        .get("ports")
        .and_then(Value::as_object)
        .into_iter()
        .flatten();
    Service {
        host,
        name: word("name"),
        namespace: word("namespace"),
        declared: shown
            .get("declared")
            .and_then(Value::as_bool)
            .unwrap_or(false),
        created: String::new(),
        accounts: shown
            .get("accounts")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|account| account.as_str().map(str::to_owned))
            .collect(),
        export: Export::Everywhere,
        entry: None,
        ports: ports
            .filter_map(|(number, port)| {
                let protocol = port.get("protocol").cloned().unwrap_or_default();
                let port = Port {
                    name: port
                        .get("name")
                        .and_then(Value::as_str)
                        .unwrap_or_default()
                        .to_owned(),
                    protocol: serde_json::from_value(protocol).unwrap_or(Protocol::Auto),
                };
                Some((number.parse().ok()?, port))
            })
            .collect(),
    }
}

fn endpoint(shown: &Value) -> Endpoint {
    let word = |name: &str| {
        shown
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    Endpoint {
        address: word("address"),
        health: match word("health").to_ascii_lowercase().as_str() {
            "healthy" => Health::Healthy,
            "draining" => Health::Draining,
            _ => Health::Unhealthy,
        },
        weight: shown
            .get("weight")
            .and_then(Value::as_u64)
            .and_then(|weight| u32::try_from(weight).ok())
            .unwrap_or(1),
        mtls: shown.get("mtls").and_then(Value::as_bool).unwrap_or(false),
        labels: shown
            .get("labels")
            .and_then(|labels| serde_json::from_value(labels.clone()).ok())
            .unwrap_or_default(),
        workload: word("workload"),
        namespace: word("namespace"),
        workload_id: word("workload_id"),
    }
}

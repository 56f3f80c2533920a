//! What runs in a case: the services and endpoints that its objects and its head speak of, as objects for the control
//! plane and as scripted servers.
//!
//! As `naka explain -f` takes it: every service and every subset that a case names has one healthy endpoint, unless the
//! head says what there is or manifests declare it. Services without a Service object get one; endpoints are
//! WorkloadEntry objects at ports of this process, called in plaintext.

use super::case::{File, Server};
use super::certs::Certs;
use super::upstream::{Endpoint, Upstreams};
use anyhow::{Result, anyhow};
use naka_api::{Object, Spec};
use naka_cli::explain::Implied;
use naka_types::host::Host;
use naka_types::labels::Labels;
use naka_types::protocol::Protocol;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

/// Label by which made services find made endpoints.
const LABEL: &str = "referee";

/// A case that can be asked: its objects and its running endpoints.
#[derive(Debug)]
pub struct Set {
    /// Its certificates.
    pub certs: Arc<Certs>,
    /// Manifests with everything that was made.
    pub text: String,
    /// The objects of `text`.
    pub objects: Vec<Object>,
    /// Servers; they end when this goes.
    pub endpoints: Vec<Endpoint>,
}

/// A service of a case.
struct Service {
    host: Host,
    ports: BTreeMap<u16, String>,
    /// Ports at which bytes are spoken.
    bytes: BTreeSet<u16>,
    selector: Labels,
    declared: bool,
    subsets: BTreeMap<String, Labels>,
}

fn yaml(value: &Value) -> String {
    // JSON is YAML.
    format!("---\n{value}\n")
}

/// All services that the requests and objects of a case speak of.
fn implied(file: &File, objects: &[Object]) -> Result<BTreeMap<Host, Implied>> {
    let mut all: BTreeMap<Host, Implied> = BTreeMap::new();
    for wanted in &file.case.requests {
        let mut question = wanted.question(file);
        let uri = wanted.uri()?;
        question.request = format!("GET http://{}/", uri.host().unwrap_or_default());
        let found = question.services(objects).map_err(|e| anyhow!(e))?;
        for (host, one) in found {
            let known = all.entry(host).or_default();
            known.ports.extend(one.ports);
            known.subsets = one.subsets;
        }
    }
    for name in file.case.topology.keys() {
        let host = Host::resolve(name, &file.case.namespace)?;
        all.entry(host).or_default();
    }
    Ok(all)
}

fn services(file: &File, objects: &[Object]) -> Result<Vec<Service>> {
    let mut all = Vec::new();
    for (host, implied) in implied(file, objects)? {
        let Some((name, namespace)) = host.service() else {
            continue;
        };
        let declared = objects.iter().find_map(|object| {
            let Spec::Service(spec) = &object.spec else {
                return None;
            };
            (object.meta.name == name && object.meta.namespace == namespace).then_some(spec)
        });
        let subsets = objects.iter().filter_map(|object| match &object.spec {
            Spec::DestinationRule(spec) if spec.host == host => Some(&spec.subsets),
            _ => None,
        });
        let subsets = subsets
            .flatten()
            .map(|s| (s.name.clone(), s.labels.clone()));
        let (ports, selector) = match declared {
            Some(spec) => (
                spec.ports
                    .iter()
                    .map(|p| (p.port, p.name.clone()))
                    .collect(),
                spec.selector.clone(),
            ),
            None => (
                implied
                    .ports
                    .into_iter()
                    .chain([80])
                    .map(|port| (port, format!("http-{port}")))
                    .collect(),
                [(LABEL.to_owned(), name.to_owned())].into(),
            ),
        };
        let ports_declared = declared.into_iter().flat_map(|spec| &spec.ports);
        let bytes = ports_declared
            .filter(|port| matches!(port.protocol, Protocol::Tcp | Protocol::Tls))
            .map(|port| port.port);
        all.push(Service {
            bytes: bytes.collect(),
            subsets: subsets.collect(),
            declared: declared.is_some(),
            ports,
            selector,
            host,
        });
    }
    Ok(all)
}

impl Service {
    fn name(&self) -> (&str, &str) {
        self.host.service().unwrap_or_default()
    }

    fn object(&self) -> Value {
        let (name, namespace) = self.name();
        let ports: Vec<Value> = self
            .ports
            .iter()
            .map(|(port, name)| json!({"name": name, "port": port}))
            .collect();
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"selector": self.selector, "ports": ports},
        })
    }

    /// Endpoints as the head has them, or one for each subset.
    fn servers(&self, file: &File) -> Vec<Server> {
        let said = file.case.topology.iter().find(|(name, _)| {
            Host::resolve(name, &file.case.namespace).is_ok_and(|host| host == self.host)
        });
        if let Some((_, servers)) = said {
            return servers.clone();
        }
        let mut labels: Vec<Labels> = self.subsets.values().cloned().collect();
        labels.dedup();
        if labels.is_empty() {
            labels.push(Labels::new());
        }
        let server = |labels| Server {
            labels,
            ..Server::default()
        };
        labels.into_iter().map(server).collect()
    }

    /// Clusters that an endpoint with these labels is a member of, at this port.
    fn clusters(&self, port: u16, labels: &Labels) -> BTreeSet<String> {
        let host = self.host.as_str();
        let within = |wanted: &Labels| wanted.iter().all(|(k, v)| labels.get(k) == Some(v));
        let subsets = self.subsets.iter().filter(|(_, wanted)| within(wanted));
        subsets
            .map(|(name, _)| format!("outbound|{port}|{name}|{host}"))
            .chain([format!("outbound|{port}||{host}")])
            .collect()
    }
}

/// Starts the endpoints of a case and writes its manifests.
///
/// # Errors
/// When a request of it cannot be read or a port is not to be had.
pub fn set(file: &File, upstreams: &Upstreams) -> Result<Set> {
    let certs = Arc::new(Certs::new(&file.case)?);
    let mut endpoints = Vec::new();
    for (name, server) in &file.case.servers {
        let mut server = server.clone();
        server.name.clone_from(name);
        endpoints.push(upstreams.open(&server, BTreeSet::new(), &certs)?);
    }
    let address = |wanted: &str| {
        let found = endpoints.iter().find(|one| one.name == wanted);
        found.map(|one| one.address)
    };
    let socket = |wanted: &str| {
        let found = endpoints.iter().find(|one| one.name == wanted);
        let path = found.and_then(|one| one.socket.as_ref());
        path.map_or_else(String::new, |path| path.display().to_string())
    };
    let manifests = file.filled(&certs, address, socket);
    let objects = file.decode(&manifests).objects;
    let mut made = String::new();
    for service in services(file, &objects)? {
        if !service.declared && !has_workload(file, &service) {
            made.push_str(&yaml(&service.object()));
        }
        let (name, namespace) = service.name();
        if has_entries(&objects, &service) || has_workload(file, &service) {
            continue;
        }
        for (index, server) in service.servers(file).into_iter().enumerate() {
            let mut labels = service.selector.clone();
            labels.extend(server.labels.clone());
            let mut ports = BTreeMap::new();
            for (number, port) in &service.ports {
                let clusters = service.clusters(*number, &labels);
                let mut server = server.clone();
                server.tcp |= service.bytes.contains(number);
                let endpoint = upstreams.open(&server, clusters, &certs)?;
                ports.insert(port.clone(), endpoint.address.port());
                endpoints.push(endpoint);
            }
            let mut spec = json!({"address": "127.0.0.1", "ports": ports, "labels": labels});
            if let Some(weight) = server.weight {
                spec["weight"] = json!(weight);
            }
            if let Some(locality) = &server.locality {
                spec["locality"] = json!(locality);
            }
            made.push_str(&yaml(&json!({
                "apiVersion": "networking.istio.io/v1", "kind": "WorkloadEntry",
                "metadata": {"name": format!("{name}-{index}"), "namespace": namespace},
                "spec": spec,
            })));
        }
    }
    let mut text = String::new();
    for (_, manifest) in &manifests {
        let _ = writeln!(text, "---\n{}", manifest.trim_start_matches("---\n"));
    }
    text.push_str(&made);
    let mut all = manifests;
    all.push(("made".to_owned(), made));
    let objects = file.decode(&all).objects;
    Ok(Set {
        certs,
        text,
        objects,
        endpoints,
    })
}

/// Whether a server of the head answers for a service, behind a sidecar.
fn has_workload(file: &File, service: &Service) -> bool {
    let (name, _) = service.name();
    let mut servers = file.case.servers.values();
    servers.any(|server| server.behind.as_deref() == Some(name))
}

/// Whether manifests say themselves who answers for a service.
fn has_entries(objects: &[Object], service: &Service) -> bool {
    let (_, namespace) = service.name();
    !service.selector.is_empty()
        && objects.iter().any(|object| match &object.spec {
            Spec::WorkloadEntry(entry) => {
                let selector = service.selector.iter();
                object.meta.namespace == namespace
                    && selector
                        .clone()
                        .all(|(k, v)| entry.labels.get(k) == Some(v))
            }
            _ => false,
        })
}

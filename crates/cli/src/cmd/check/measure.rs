//! What can be measured of an installation, for the items of a profile: how many of whom fulfil something, and who does
//! not.
//!
//! Pure: each measure is a function of the inventory, in one table by its name.

use naka_types::locality::LABEL;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Namespace whose objects hold for the whole mesh.
const ROOT: &str = "istio-system";
/// Longest life of a certificate that counts as rotating daily; the start is set back a little.
const A_DAY_S: u64 = 24 * 3600 + 120;

/// Everything that is looked at.
#[derive(Debug, Default)]
pub(crate) struct Inventory {
    /// Objects as they are stored.
    pub(crate) objects: Vec<Value>,
    /// Workloads, as `naka get workloads`.
    pub(crate) workloads: Vec<Value>,
    /// Certificates, as `naka get certs`.
    pub(crate) certificates: Vec<Value>,
    /// Tokens, as `naka token list`.
    pub(crate) tokens: Vec<Value>,
    /// How Secrets are sealed.
    pub(crate) seal: Value,
    /// Check, of what, and state of each line of `naka check`.
    pub(crate) checks: Vec<(String, String, String)>,
}

/// How many there are, who falls short, and what it means when there is nobody.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Measured {
    pub(crate) of: usize,
    pub(crate) short: Vec<String>,
    pub(crate) nothing: &'static str,
    /// Whether nobody at all counts as fulfilled.
    empty_is_good: bool,
}

impl Measured {
    /// Whether nobody falls short.
    pub(crate) fn fulfilled(&self) -> bool {
        self.short.is_empty() && (self.of > 0 || self.empty_is_good)
    }
}

type Measure = fn(&Inventory) -> Measured;

const TABLE: &[(&str, Measure)] = &[
    ("identities", identities),
    ("rotation", rotation),
    ("hand-made", hand_made),
    ("strict", strict),
    ("no-plaintext", no_plaintext),
    ("default-deny", default_deny),
    ("least-privilege", least_privilege),
    ("egress", egress),
    ("ingress", ingress),
    ("ingress-egress", |i| both(ingress(i), egress(i))),
    ("encrypted", |i| both(sealed(i), strict(i))),
    ("sealed", sealed),
    ("roles", roles),
    ("healthy", healthy),
    ("replicas", replicas),
    ("zones", zones),
    ("routes", routes),
    ("breakers", breakers),
    ("timeouts", timeouts),
    ("retries", retries),
    ("rates", |i| some(i, "LocalRateLimit", "no LocalRateLimit")),
    ("tokens", |i| {
        some(i, "RequestAuthentication", "no RequestAuthentication")
    }),
    ("log", |i| checked(i, &["store", "disk"])),
    ("files", |i| checked(i, &["files"])),
    ("authority", |i| checked(i, &["authority"])),
    ("programmed", |i| checked(i, &["proxy", "gateway"])),
    ("versions", |i| checked(i, &["control plane", "proxy"])),
    ("sound", |i| checked(i, &["finding"])),
];

/// Whether there is a measure of that name.
pub(crate) fn is_known(name: &str) -> bool {
    TABLE.iter().any(|(known, _)| *known == name)
}

/// All names.
pub(crate) fn names() -> Vec<&'static str> {
    TABLE.iter().map(|(name, _)| *name).collect()
}

/// Measures; an unknown name measures nothing.
pub(crate) fn of(name: &str, inventory: &Inventory) -> Measured {
    let known = TABLE.iter().find(|(known, _)| *known == name);
    known.map_or_else(
        || required(Vec::new(), "no such check"),
        |(_, measure)| measure(inventory),
    )
}

/// Of these, by name and whether they do; nobody is nothing good.
fn required(all: Vec<(String, bool)>, nothing: &'static str) -> Measured {
    Measured {
        of: all.len(),
        short: all
            .into_iter()
            .filter(|(_, good)| !good)
            .map(|(name, _)| name)
            .collect(),
        nothing,
        empty_is_good: false,
    }
}

/// Two in one: both must be fulfilled, and where one has nobody to ask, that is what is told.
fn both(mut one: Measured, mut other: Measured) -> Measured {
    if other.of == 0 && !other.fulfilled() {
        return other;
    }
    if one.of == 0 && !one.fulfilled() {
        return one;
    }
    one.of += other.of;
    one.short.append(&mut other.short);
    one.empty_is_good &= other.empty_is_good;
    one
}

/// Objects of a kind that have a field, `spec.http.retries`: one is enough. Lists are passed through.
pub(crate) fn having(kind: &str, path: &str, inventory: &Inventory) -> Measured {
    let found = inventory.kind(kind).filter(|object| has(object, path));
    required(
        found.map(|object| (object_name(object), true)).collect(),
        "no object of that kind has it",
    )
}

fn has(value: &Value, path: &str) -> bool {
    if let Value::Array(items) = value {
        return items.iter().any(|item| has(item, path));
    }
    if path.is_empty() {
        return !value.is_null();
    }
    let (key, rest) = path.split_once('.').unwrap_or((path, ""));
    value.get(key).is_some_and(|inner| has(inner, rest))
}

/// The same where nobody is as good as all.
fn fine(all: Vec<(String, bool)>, nothing: &'static str) -> Measured {
    Measured {
        empty_is_good: true,
        ..required(all, nothing)
    }
}

fn word<'a>(value: &'a Value, path: &str) -> &'a str {
    value
        .pointer(path)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn list<'a>(value: &'a Value, path: &str) -> &'a [Value] {
    value
        .pointer(path)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

impl Inventory {
    fn kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.objects
            .iter()
            .filter(move |object| word(object, "/kind") == kind)
    }

    /// Services that workloads serve, with those workloads.
    fn services(&self) -> BTreeMap<String, Vec<&Value>> {
        let mut all: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
        for workload in self
            .workloads
            .iter()
            .filter(|one| !word(one, "/service").is_empty())
        {
            let name = format!(
                "{}/{}",
                word(workload, "/namespace"),
                word(workload, "/service")
            );
            all.entry(name).or_default().push(workload);
        }
        all
    }

    fn each_service(&self, holds: impl Fn(&str, &[&Value]) -> bool) -> Vec<(String, bool)> {
        let all = self.services().into_iter();
        all.map(|(name, own)| (name.clone(), holds(&name, &own)))
            .collect()
    }

    fn each_workload(&self, holds: impl Fn(&Value) -> bool) -> Vec<(String, bool)> {
        let all = self.workloads.iter();
        all.map(|one| (name_of(one), holds(one))).collect()
    }
}

fn name_of(workload: &Value) -> String {
    format!(
        "{}.{}",
        word(workload, "/workload_name"),
        word(workload, "/namespace")
    )
}

/// Name of an object with its namespace.
fn object_name(object: &Value) -> String {
    format!(
        "{}/{}",
        word(object, "/metadata/namespace"),
        word(object, "/metadata/name")
    )
}

/// Whether an object without or with a selector is about a workload.
fn selects(object: &Value, workload: &Value) -> bool {
    let home = word(object, "/metadata/namespace");
    if home != ROOT && home != word(workload, "/namespace") {
        return false;
    }
    let wanted = object
        .pointer("/spec/selector/matchLabels")
        .and_then(Value::as_object);
    wanted.is_none_or(|wanted| {
        wanted
            .iter()
            .all(|(key, value)| workload["labels"].get(key) == Some(value))
    })
}

fn identities(inventory: &Inventory) -> Measured {
    let mut services: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for workload in &inventory.workloads {
        let service = format!(
            "{}/{}",
            word(workload, "/namespace"),
            word(workload, "/service")
        );
        services
            .entry(word(workload, "/identity"))
            .or_default()
            .insert(service);
    }
    let own = |one: &Value| {
        let identity = word(one, "/identity");
        !identity.is_empty() && services.get(identity).is_some_and(|all| all.len() == 1)
    };
    required(inventory.each_workload(own), "no workload is registered")
}

fn rotation(inventory: &Inventory) -> Measured {
    let number = |one: &Value, field: &str| one[field].as_u64().unwrap_or(0);
    let valid = inventory
        .certificates
        .iter()
        .filter(|one| one["state"] == "valid");
    let all = valid.map(|one| {
        let life = number(one, "not_after").saturating_sub(number(one, "not_before"));
        (word(one, "/identity").to_owned(), life <= A_DAY_S)
    });
    required(all.collect(), "no certificate is in use")
}

fn hand_made(inventory: &Inventory) -> Measured {
    let files = |object: &&Value| {
        let text = object["spec"].to_string();
        [
            "clientCertificate\":",
            "privateKey\":",
            "serverCertificate\":",
        ]
        .iter()
        .any(|key| text.contains(key))
    };
    let with = inventory
        .kind("DestinationRule")
        .chain(inventory.kind("Gateway"))
        .filter(files);
    fine(
        with.map(|object| (object_name(object), false)).collect(),
        "no object names files of keys",
    )
}

/// The mode of mutual TLS that holds for a workload; the nearest object that says one.
fn mode<'a>(inventory: &'a Inventory, workload: &Value) -> &'a str {
    let mut best: (u8, &str) = (0, "");
    for object in inventory
        .kind("PeerAuthentication")
        .filter(|one| selects(one, workload))
    {
        let own = word(object, "/metadata/namespace") == word(workload, "/namespace");
        let chosen = object.pointer("/spec/selector/matchLabels").is_some();
        let said = word(object, "/spec/mtls/mode");
        let rank = match (own, chosen) {
            (true, true) => 3,
            (true, false) => 2,
            (false, false) => 1,
            // Of the root namespace with a selector: for that namespace's own.
            (false, true) => 0,
        };
        let ports = object
            .pointer("/spec/portLevelMtls")
            .and_then(Value::as_object);
        let weaker =
            ports.is_some_and(|ports| ports.values().any(|port| word(port, "/mode") != "STRICT"));
        if weaker && rank == 3 {
            return "weaker at a port";
        }
        if rank > best.0 && !matches!(said, "" | "UNSET") {
            best = (rank, said);
        }
    }
    best.1
}

fn strict(inventory: &Inventory) -> Measured {
    let all = inventory.each_workload(|one| mode(inventory, one) == "STRICT");
    required(all, "no workload is registered")
}

fn no_plaintext(inventory: &Inventory) -> Measured {
    let all = inventory.kind("DestinationRule").map(|rule| {
        let off = rule["spec"].to_string().contains("\"mode\":\"DISABLE\"");
        (object_name(rule), !off)
    });
    fine(all.collect(), "no rule turns it off")
}

fn default_deny(inventory: &Inventory) -> Measured {
    let allows = |policy: &&Value| matches!(word(policy, "/spec/action"), "" | "ALLOW");
    let policies: Vec<&Value> = inventory
        .kind("AuthorizationPolicy")
        .filter(allows)
        .collect();
    let closed = |one: &Value| {
        policies
            .iter()
            .any(|policy| selects(policy, one) && policy.pointer("/spec/targetRefs").is_none())
    };
    // A gateway is there for strangers.
    let called = inventory
        .workloads
        .iter()
        .filter(|one| !word(one, "/service").is_empty() && list(one, "/gateway").is_empty());
    required(
        called.map(|one| (name_of(one), closed(one))).collect(),
        "no workload is called",
    )
}

fn least_privilege(inventory: &Inventory) -> Measured {
    let allows = |policy: &&Value| matches!(word(policy, "/spec/action"), "" | "ALLOW");
    let all = inventory
        .kind("AuthorizationPolicy")
        .filter(allows)
        .map(|policy| {
            let rules = list(policy, "/spec/rules");
            let names =
                |rule: &Value| !list(rule, "/from").is_empty() || !list(rule, "/when").is_empty();
            (object_name(policy), rules.iter().all(names))
        });
    required(all.collect(), "no policy allows anything")
}

fn egress(inventory: &Inventory) -> Measured {
    let declared = |object: &Value| object.to_string().contains("REGISTRY_ONLY");
    let of_mesh = inventory.kind("ConfigMap").chain(inventory.kind("Sidecar"));
    let mut of_mesh = of_mesh.filter(|object| word(object, "/metadata/namespace") == ROOT);
    let everywhere = of_mesh.any(declared);
    let own = |one: &Value| {
        everywhere
            || inventory
                .kind("Sidecar")
                .any(|object| selects(object, one) && declared(object))
    };
    required(inventory.each_workload(own), "no workload is registered")
}

fn ingress(inventory: &Inventory) -> Measured {
    let mut all = Vec::new();
    for gateway in inventory.kind("Gateway") {
        for server in list(gateway, "/spec/servers")
            .iter()
            .chain(list(gateway, "/spec/listeners"))
        {
            let protocol = [word(server, "/port/protocol"), word(server, "/protocol")].concat();
            let redirects = server.pointer("/tls/httpsRedirect") == Some(&Value::Bool(true));
            let good = matches!(protocol.as_str(), "HTTPS" | "TLS") || redirects;
            all.push((format!("{} {protocol}", object_name(gateway)), good));
        }
    }
    fine(all, "nothing comes in by a gateway")
}

fn sealed(inventory: &Inventory) -> Measured {
    let locked = inventory.seal["locked"].as_bool().unwrap_or(false);
    required(vec![("the key".to_owned(), locked)], "")
}

/// One admin's token is the owner's own, of the context that `naka up` made.
fn roles(inventory: &Inventory) -> Measured {
    let api = inventory
        .tokens
        .iter()
        .filter(|token| word(token, "/kind") == "api");
    let (admins, others): (Vec<&Value>, Vec<&Value>) =
        api.partition(|token| word(token, "/role") == "admin");
    let one = |(token, good): (&Value, bool)| (word(token, "/id").to_owned(), good);
    let admins = admins.into_iter().enumerate();
    let all = admins.map(|(number, token)| one((token, number == 0)));
    let others = others.into_iter().map(|token| one((token, true)));
    fine(all.chain(others).collect(), "no token but the owner's")
}

fn healthy(inventory: &Inventory) -> Measured {
    required(
        inventory.each_workload(|one| one["state"] == "healthy"),
        "no workload is registered",
    )
}

fn replicas(inventory: &Inventory) -> Measured {
    required(
        inventory.each_service(|_, own| own.len() >= 2),
        "no service is served",
    )
}

fn zones(inventory: &Inventory) -> Measured {
    let places = inventory
        .workloads
        .iter()
        .filter_map(|one| one["labels"][LABEL].as_str());
    let places: BTreeSet<&str> = places.filter(|place| !place.is_empty()).collect();
    required(
        vec![(format!("{} zones", places.len()), places.len() >= 2)],
        "",
    )
}

/// Whether an object of a kind is about a service by its host, as that is written in the service's namespace.
fn about(object: &Value, hosts: &[&str], service: &str) -> bool {
    let (namespace, name) = service.split_once('/').unwrap_or(("", service));
    let own = word(object, "/metadata/namespace") == namespace;
    let full = format!("{name}.{namespace}");
    hosts.iter().any(|host| {
        *host == name && own
            || *host == full
            || host
                .strip_prefix(&full)
                .is_some_and(|rest| rest.starts_with(".svc"))
    })
}

fn routed<'a>(inventory: &'a Inventory, service: &'a str) -> impl Iterator<Item = &'a Value> {
    inventory.kind("VirtualService").filter(move |object| {
        let mut hosts: Vec<&str> = list(object, "/spec/hosts")
            .iter()
            .filter_map(Value::as_str)
            .collect();
        let to = list(object, "/spec/http")
            .iter()
            .flat_map(|route| list(route, "/route"));
        hosts.extend(to.map(|route| word(route, "/destination/host")));
        about(object, &hosts, service)
    })
}

fn routes(inventory: &Inventory) -> Measured {
    required(
        inventory.each_service(|name, _| routed(inventory, name).next().is_some()),
        "no service is served",
    )
}

fn timeouts(inventory: &Inventory) -> Measured {
    let timed = |object: &Value| {
        let all = list(object, "/spec/http");
        !all.is_empty()
            && all
                .iter()
                .all(|route| route.get("timeout").is_some() || route.get("route").is_none())
    };
    required(
        inventory.each_service(|name, _| routed(inventory, name).any(timed)),
        "no service is served",
    )
}

fn retries(inventory: &Inventory) -> Measured {
    required(
        inventory.each_service(|name, _| {
            routed(inventory, name).any(|object| has(object, "spec.http.retries"))
        }),
        "no service is served",
    )
}

fn breakers(inventory: &Inventory) -> Measured {
    let guards = |object: &Value| {
        let text = object["spec"].to_string();
        text.contains("\"outlierDetection\":")
            || text.contains("\"connectionPool\":")
            || text.contains("\"breaker\":")
    };
    let rules: Vec<&Value> = inventory
        .kind("DestinationRule")
        .chain(inventory.kind("BackendPolicy"))
        .collect();
    let guarded = |name: &str, _: &[&Value]| {
        rules.iter().any(|rule| {
            let mut hosts = vec![word(rule, "/spec/host")];
            hosts.extend(
                list(rule, "/spec/targetRefs")
                    .iter()
                    .map(|target| word(target, "/name")),
            );
            guards(rule) && about(rule, &hosts, name)
        })
    };
    required(inventory.each_service(guarded), "no service is served")
}

fn some(inventory: &Inventory, kind: &str, nothing: &'static str) -> Measured {
    required(
        inventory
            .kind(kind)
            .map(|object| (object_name(object), true))
            .collect(),
        nothing,
    )
}

/// The lines of `naka check` of these names.
fn checked(inventory: &Inventory, names: &[&str]) -> Measured {
    let all = inventory
        .checks
        .iter()
        .filter(|(check, ..)| names.contains(&check.as_str()));
    let all = all.map(|(check, of, state)| {
        let name = if of.is_empty() {
            check.clone()
        } else {
            format!("{check} {of}")
        };
        (
            name,
            state != "error" && !(check == "proxy" && state == "warning"),
        )
    });
    fine(all.collect(), "nothing to find fault with")
}

#[cfg(test)]
mod tests;

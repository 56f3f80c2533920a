//! Networks: what cannot be dialled from everywhere, and the gateways that lead in.
//!
//! As in Istio the label `topology.istio.io/network` says which network something is in, and on the root namespace which
//! one all are in that say nothing. A Service with that label is the gateway of its network: reached from others at its
//! `externalIPs`, at port 15443 or the one that `networking.istio.io/gatewayPort` says. While no network has a gateway
//! everything is dialled directly. Not here: what callers get ([`crate::compile`]'s `network`); other ways in which Istio
//! learns of gateways (`meshNetworks`, addresses of load balancers).

use super::World;
use naka_api::{Object, Spec};
use naka_types::host::ROOT_NAMESPACE;
use naka_types::labels::Labels;
use naka_types::locality::NETWORK;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

/// Label with a gateway's port.
const PORT: &str = "networking.istio.io/gatewayPort";
/// Istio's port between networks.
const EAST_WEST: u16 = 15443;

/// All networks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Networks {
    /// Where the gateways of each are reached from the others.
    pub gateways: BTreeMap<String, BTreeSet<SocketAddr>>,
    /// The one of whoever names none; empty: all of them.
    pub default: String,
}

impl Networks {
    /// What objects say.
    #[must_use]
    pub fn of(objects: &[&Arc<Object>]) -> Self {
        Self::read(objects.iter().map(|object| &***object))
    }

    /// Whether an object says something of them.
    #[must_use]
    pub fn has(object: &Object) -> bool {
        Self::read(std::iter::once(object)) != Self::default()
    }

    fn read<'a>(objects: impl Iterator<Item = &'a Object>) -> Self {
        let mut networks = Self::default();
        for object in objects {
            let Some(network) = object.meta.labels.get(NETWORK).filter(|n| !n.is_empty()) else {
                continue;
            };
            match &object.spec {
                Spec::Service(service) => {
                    let port = object.meta.labels.get(PORT);
                    let port = port.and_then(|port| port.parse().ok()).unwrap_or(EAST_WEST);
                    let external = service.external_ips.iter();
                    let all = external.map(|ip| SocketAddr::new(*ip, port));
                    for address in all {
                        let gateways = networks.gateways.entry(network.clone());
                        gateways.or_default().insert(address);
                    }
                }
                Spec::Namespace if object.meta.name == ROOT_NAMESPACE => {
                    networks.default.clone_from(network);
                }
                _ => {}
            }
        }
        networks
    }

    /// The network of whatever has these labels; empty: it is not known to be in one.
    #[must_use]
    pub fn of_labels<'a>(&'a self, labels: &'a Labels) -> &'a str {
        labels.get(NETWORK).map_or(&self.default, String::as_str)
    }
}

impl World {
    /// The network of a caller with these labels, as far as it decides what is dialled: empty while no network has a
    /// gateway.
    #[must_use]
    pub fn network_of_caller(&self, labels: &Labels) -> String {
        match self.networks.gateways.is_empty() {
            true => String::new(),
            false => self.networks.of_labels(labels).to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Networks;
    use naka_types::labels::Labels;
    use std::sync::Arc;

    fn networks(text: &str) -> Networks {
        let decoded = naka_api::decode_yaml("f", text.as_bytes(), naka_api::Mode::Compat);
        let objects: Vec<_> = decoded.objects.into_iter().map(Arc::new).collect();
        Networks::of(&objects.iter().collect::<Vec<_>>())
    }

    #[test]
    fn services_with_the_label_are_gateways() {
        let service = |labels: &str, ips: &str| {
            networks(&format!(
                "{{apiVersion: v1, kind: Service, metadata: {{name: e, namespace: istio-system, labels: {labels}}}, spec: {{ports: [{{port: 1}}], externalIPs: {ips}}}}}"
            ))
        };
        for (labels, ips, want) in [
            (
                "{topology.istio.io/network: a}",
                "[192.0.2.1]",
                vec!["192.0.2.1:15443"],
            ),
            (
                "{topology.istio.io/network: a, networking.istio.io/gatewayPort: '443'}",
                "[192.0.2.1, '2001:db8::1']",
                vec!["192.0.2.1:443", "[2001:db8::1]:443"],
            ),
            ("{topology.istio.io/network: a}", "[]", vec![]),
            ("{topology.istio.io/network: ''}", "[192.0.2.1]", vec![]),
            ("{}", "[192.0.2.1]", vec![]),
        ] {
            let found = service(labels, ips).gateways;
            let found: Vec<String> = found.values().flatten().map(ToString::to_string).collect();
            assert_eq!(found, want, "{labels} {ips}");
        }
    }

    #[test]
    fn the_root_namespace_names_the_network_of_whoever_names_none() {
        let of = |namespace: &str| {
            networks(&format!(
                "{{apiVersion: v1, kind: Namespace, metadata: {{name: {namespace}, labels: {{topology.istio.io/network: a}}}}}}"
            ))
        };
        let own: Labels = [("topology.istio.io/network".to_owned(), "b".to_owned())].into();
        let none = Labels::new();
        let root = of("istio-system");
        assert_eq!((root.of_labels(&none), root.of_labels(&own)), ("a", "b"));
        let other = of("shop");
        assert_eq!((other.of_labels(&none), other.of_labels(&own)), ("", "b"));
    }
}

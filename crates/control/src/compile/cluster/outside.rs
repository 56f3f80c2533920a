//! What hosts of ServiceEntries need of a cluster beyond what services do: endpoints that are looked up, callers that
//! say the name themselves, and TLS of the outside world.
//!
//! A name is looked up by whoever calls it, never here: what a name means may differ by place, and a control plane
//! that looked names up for a mesh would be its bottleneck. Where the caller says the name (resolutions NONE and
//! DYNAMIC_DNS) the cluster is Envoy's dynamic forward proxy, for Naka too, because a program that uses a proxy has no
//! address to keep. Where one is known, our own proxies go on to it for NONE, as Envoy's original destination does.

use super::Target;
use crate::compile::credential::{self, Credential};
use crate::compile::envoy::dns;
use crate::compile::{Class, Dialect, Key, View, endpoint, network, tls};
use crate::world::{Endpoint, Entry, Service};
use naka_api::networking::destination_rule::{ClientTls, TlsMode, TrafficPolicy};
use naka_api::networking::service_entry::Resolution;
use naka_api::{Object, codes};
use naka_types::finding::Finding;
use naka_types::host::Host;
use naka_types::labels::{Labels, selects};
use naka_types::node::Role;
use naka_types::protocol::Protocol;
use naka_wire::envoy::config::cluster::v3::{Cluster, cluster};
use naka_wire::envoy::config::core::v3::TransportSocket;
use naka_wire::envoy::config::endpoint::v3::{ClusterLoadAssignment, LocalityLbEndpoints};
use naka_wire::envoy::extensions::clusters::dynamic_forward_proxy::v3::{
    ClusterConfig, cluster_config::ClusterImplementationSpecifier,
};
use naka_wire::time;
use std::borrow::Cow;
use std::time::Duration;

/// Names whose records say nothing else are looked up again after this time, as in Istio.
const REFRESH: Duration = Duration::from_secs(60);

/// How endpoints are found.
#[derive(Debug)]
pub(super) enum Found<'a> {
    /// They come apart from the cluster.
    Told,
    /// By looking these up.
    LookedUp {
        endpoints: Vec<Cow<'a, Endpoint>>,
        one_at_a_time: bool,
    },
    /// The caller says the name; with `kept`, calls go on to the address that they were made to, where that is known.
    ByCaller {
        kept: bool,
        /// Port there, if it is another.
        port: Option<u16>,
    },
}

/// How the endpoints of a service's port are found.
pub(super) fn found<'a>(service: &'a Service, port: u16, labels: Option<&Labels>) -> Found<'a> {
    let Some(entry) = &service.entry else {
        return Found::Told;
    };
    let by_name = |one_at_a_time| {
        let endpoints = chosen(entry, port, labels);
        // One address of several names at a time is no balance at all.
        Found::LookedUp {
            one_at_a_time: one_at_a_time && endpoints.len() == 1,
            endpoints: endpoints.into_iter().map(Cow::Borrowed).collect(),
        }
    };
    match entry.resolution {
        Resolution::Static => Found::Told,
        Resolution::Dns => by_name(false),
        Resolution::DnsRoundRobin => by_name(true),
        Resolution::None | Resolution::DynamicDns if entry.endpoints.is_empty() => {
            let kept = entry.keeps_addresses();
            let target = entry.targets.get(&port).copied();
            Found::ByCaller {
                kept,
                port: target.filter(|_| kept),
            }
        }
        Resolution::None => Found::Told,
        Resolution::DynamicDns => by_name(false),
    }
}

fn chosen<'a>(entry: &'a Entry, port: u16, labels: Option<&Labels>) -> Vec<&'a Endpoint> {
    let all = entry.endpoints.get(&port).into_iter().flatten();
    all.filter(|endpoint| labels.is_none_or(|labels| selects(labels, &endpoint.labels)))
        .collect()
}

impl<'a> Found<'a> {
    /// Whether an endpoint set of the cluster's name exists.
    pub(super) fn is_told(&self) -> bool {
        matches!(self, Self::Told)
    }

    /// What only our own proxies read of it.
    pub(super) fn own(&self) -> Vec<(&'static str, String)> {
        let Self::ByCaller { kept: true, port } = self else {
            return Vec::new();
        };
        let port = port.map(|port| ("port", port.to_string()));
        let kept = [("address", "kept".to_owned())];
        kept.into_iter().chain(port).collect()
    }

    /// The same as callers of a class reach it.
    pub(super) fn reached(
        mut self,
        view: &View<'a>,
        (service, port, labels): (&'a Service, u16, Option<&Labels>),
        class: &Class,
        policy: &TrafficPolicy,
    ) -> Self {
        if let (
            Self::LookedUp {
                endpoints,
                one_at_a_time,
            },
            Some(entry),
        ) = (&mut self, &service.entry)
        {
            let chosen = chosen(entry, port, labels);
            *endpoints = network::reached(view, chosen, class, Some(policy));
            *one_at_a_time &= endpoints.len() == 1;
        }
        self
    }

    /// Writes it into a cluster made for endpoints that are told.
    #[expect(
        deprecated,
        reason = "Envoy's newer form names a typed extension; every version reads these fields"
    )]
    pub(super) fn write(&self, message: &mut Cluster) {
        use cluster::{ClusterDiscoveryType, DiscoveryType, DnsLookupFamily};
        match self {
            Self::Told => {}
            Self::LookedUp {
                endpoints,
                one_at_a_time,
            } => {
                message.eds_cluster_config = None;
                let kind = if *one_at_a_time {
                    DiscoveryType::LogicalDns
                } else {
                    DiscoveryType::StrictDns
                };
                message.cluster_discovery_type = Some(ClusterDiscoveryType::Type(kind as i32));
                message.respect_dns_ttl = true;
                message.dns_refresh_rate = Some(time::to_wire(REFRESH));
                message.dns_lookup_family = DnsLookupFamily::V4Preferred as i32;
                message.load_assignment = Some(ClusterLoadAssignment {
                    cluster_name: message.name.clone(),
                    endpoints: vec![LocalityLbEndpoints {
                        lb_endpoints: endpoints
                            .iter()
                            .filter_map(|endpoint| endpoint::message(endpoint))
                            .collect(),
                        ..LocalityLbEndpoints::default()
                    }],
                    ..ClusterLoadAssignment::default()
                });
            }
            Self::ByCaller { .. } => {
                message.eds_cluster_config = None;
                message.lb_policy = cluster::LbPolicy::ClusterProvided as i32;
                message.load_balancing_policy = None;
                let config = ClusterConfig {
                    cluster_implementation_specifier: Some(
                        ClusterImplementationSpecifier::DnsCacheConfig(dns()),
                    ),
                    ..ClusterConfig::default()
                };
                message.cluster_discovery_type = Some(ClusterDiscoveryType::ClusterType(
                    cluster::CustomClusterType {
                        name: "envoy.clusters.dynamic_forward_proxy".to_owned(),
                        typed_config: Some(naka_wire::pack(&config)),
                    },
                ));
            }
        }
    }
}

/// TLS of the outside world towards a host.
#[derive(Debug)]
pub(super) struct Origination<'a> {
    tls: &'a ClientTls,
    /// Server name; `None` = the one that the caller says.
    sni: Option<String>,
    /// Names of which the certificate must carry one; empty = the server name.
    names: &'a [String],
    http2: Option<bool>,
    /// Secrets; `None`: one of them cannot be used, so no server is believed.
    secrets: Option<Secrets>,
}

/// What of TLS is in Secrets of the caller's namespace.
#[derive(Debug, Default)]
struct Secrets {
    certificate: Option<Credential>,
    roots: Option<Credential>,
}

/// The Secrets that TLS of a rule names, all of them usable; `None` when one is not.
///
/// As in Istio they are for gateways, unless the rule selects workloads; what a sidecar then makes of the rule without
/// them would believe servers that the rule does not, so it believes none.
fn secrets(
    view: &View<'_>,
    class: &Class,
    tls: &ClientTls,
    (object, field): (&Object, String),
) -> Option<Secrets> {
    let of = |name: &String, roots| Credential {
        namespace: class.namespace.clone(),
        name: name.clone(),
        roots,
    };
    let own = tls.credential_name.as_ref();
    let believed = tls.roots_name.as_ref().or(own);
    let secrets = Secrets {
        certificate: own
            .filter(|_| tls.mode == TlsMode::Mutual)
            .map(|name| of(name, false)),
        roots: believed
            .filter(|_| !tls.insecure_skip_verify)
            .map(|name| of(name, true)),
    };
    let selected = object
        .destination_rule()
        .is_some_and(|rule| rule.selector.is_some());
    if tls.secrets().next().is_some() && class.role == Role::Sidecar && !selected {
        // Said where the rule is read (W133).
        return None;
    }
    for credential in secrets.certificate.iter().chain(&secrets.roots) {
        if let Err(why) = credential::check(view, credential) {
            let message =
                format!("{why}: calls fail (503 tls-failed), so that none goes without TLS");
            view.finding(
                Finding::new(codes::E333.id, message)
                    .fix("create the Secret in the namespace of the proxy that calls")
                    .at(field)
                    .on(object.reference()),
            );
            return None;
        }
    }
    Some(secrets)
}

impl<'a> Origination<'a> {
    /// What a rule asks for, if it asks for any.
    pub(super) fn of(
        view: &View<'_>,
        class: &Class,
        target: &Target<'a>,
        tls: Option<&'a ClientTls>,
        (subset, port): (Option<&str>, u16),
    ) -> Option<Self> {
        let tls = tls.filter(|tls| tls.originates())?;
        let (service, protocol) = (target.service, target.protocol);
        let object = view.rule(service, class)?;
        let field = target.rule.map(|rule| rule.tls_field(subset, port));
        let secrets = secrets(view, class, tls, (object, field.unwrap_or_default()));
        let host: &Host = &service.host;
        let own = (!host.is_wildcard()).then(|| host.as_str().to_owned());
        let entry = service.entry.as_ref();
        Some(Self {
            tls,
            sni: tls.sni.clone().or(own),
            names: match (tls.subject_alt_names.as_slice(), entry) {
                ([], Some(entry)) => &entry.names,
                (written, _) => written,
            },
            secrets,
            http2: match protocol {
                Protocol::Http => Some(false),
                Protocol::Http2 | Protocol::Grpc | Protocol::GrpcWeb => Some(true),
                Protocol::Auto | Protocol::Tcp | Protocol::Tls => None,
            },
        })
    }

    /// Secrets it needs.
    pub(super) fn refers(&self) -> impl Iterator<Item = Key> + '_ {
        let secrets = self.secrets.iter();
        let all = secrets.flat_map(|secrets| secrets.certificate.iter().chain(&secrets.roots));
        all.cloned().map(Key::Credential)
    }

    /// Its transport socket.
    pub(super) fn socket(&self, dialect: Dialect) -> TransportSocket {
        let Some(secrets) = self
            .secrets
            .as_ref()
            .filter(|_| self.tls.mode != TlsMode::Unusable)
        else {
            return tls::nobody(self.sni.as_deref());
        };
        let alpn: &[&str] = match self.http2 {
            Some(true) => &["h2"],
            Some(false) => &["http/1.1"],
            None => &[],
        };
        tls::outside(
            &tls::Outside {
                sni: self.sni.as_deref(),
                names: self.names,
                roots: self.tls.ca_certificates.as_deref(),
                root_secret: secrets.roots.as_ref().map(ToString::to_string),
                certificate_secret: secrets.certificate.as_ref().map(ToString::to_string),
                revoked: self.tls.ca_crl.as_deref(),
                certificate: match self.tls.mode {
                    TlsMode::Mutual => self
                        .tls
                        .client_certificate
                        .as_deref()
                        .zip(self.tls.private_key.as_deref()),
                    _ => None,
                },
                verify: !self.tls.insecure_skip_verify,
                alpn,
            },
            dialect,
        )
    }
}

//! Destinations whose endpoints are found by name, as far as a request has to wait for it.
//!
//! Names that configuration gives are looked up before anybody calls; only a request that comes before the first
//! answer waits. Where the caller says the name (resolutions NONE and DYNAMIC_DNS) it is looked up for the request (or,
//! for NONE, is where the connection was made to, as Envoy's original destination), and the request gets a cluster of its own with these addresses: picks, limits and retries are those of any other.

use super::{Cx, Need};
use crate::model::{Cluster, ClusterId, Endpoint, Health, WorkloadMeta};
use crate::runtime::EndpointState;
use crate::why::{Stage, Why};
use std::net::SocketAddr;
use std::sync::Arc;

/// Port that plain HTTP means when TLS is begun on its behalf.
const HTTP: u16 = 80;
const HTTPS: u16 = 443;

/// What of its destination a request has found out.
#[derive(Debug, Default)]
pub(super) struct Lookup {
    /// Whether the first answer was waited for.
    waited: bool,
    /// The name that the caller said, and whether the address that it called stands for it.
    called: Option<(Arc<str>, u16, bool)>,
    /// The cluster with the addresses of that name.
    found: Option<Arc<Cluster>>,
}

impl Lookup {
    /// Keeps the name a caller said, if the destination needs it.
    pub(super) fn call(&mut self, id: ClusterId, host: &str, port: u16, cx: &Cx<'_>) {
        let Some(cluster) = cx.snapshot.cluster(id) else {
            return;
        };
        let spec = &cluster.spec;
        if spec.by_caller {
            let kept = spec.keeps_address && cx.origin.made_to.is_some();
            let begun = spec.outside.is_some() && port == HTTP && !kept;
            let port = spec.port.unwrap_or(if begun { HTTPS } else { port });
            self.called = Some((host.into(), port, kept));
        }
    }

    /// What has to be found out before an endpoint of a cluster can be picked.
    pub(super) fn needs(&mut self, id: ClusterId, cx: &Cx<'_>) -> Option<Need> {
        let cluster = cx.snapshot.cluster(id)?;
        if cluster.looking && !self.waited {
            self.waited = true;
            return Some(Need::Lookup(id));
        }
        if !cluster.spec.by_caller || self.found.is_some() {
            return None;
        }
        let (host, port, kept) = self.called.as_ref()?;
        Some(Need::Addresses {
            host: Arc::clone(host),
            port: *port,
            kept: *kept,
        })
    }

    /// Takes the addresses of the name.
    pub(super) fn addresses(&mut self, id: ClusterId, all: &[SocketAddr], cx: &mut Cx<'_>) {
        let Some(cluster) = cx.snapshot.cluster(id) else {
            return;
        };
        let nobody = Arc::new(WorkloadMeta::default());
        let endpoint = |address: &SocketAddr| {
            Arc::new(Endpoint {
                address: *address,
                weight: 1,
                health: Health::Healthy,
                mtls: false,
                workload: Arc::clone(&nobody),
                state: Arc::new(EndpointState::default()),
            })
        };
        let endpoints = all.iter().map(endpoint).collect();
        let (spec, runtime) = (Arc::clone(&cluster.spec), Arc::clone(&cluster.runtime));
        self.found = Some(Arc::new(Cluster::new(id, spec, endpoints, runtime)));
        let called = self.called.as_ref();
        let name = called.map_or_else(String::new, |(host, ..)| host.to_string());
        let kept = called.is_some_and(|(.., kept)| *kept);
        let because = if kept {
            "the connection goes on to the address that it was made to"
        } else {
            "the caller's own name is looked up"
        };
        cx.explain(|| Why::new(Stage::Endpoint, name, because));
    }

    /// The cluster made for this request.
    pub(super) fn cluster(&self) -> Option<&Arc<Cluster>> {
        self.found.as_ref()
    }
}

//! What a control plane is told when it starts, and where it ends up listening.

use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Settings of one control plane. `..Settings::new(dir, mesh)` fills in the defaults.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The mesh's directory: log, snapshot, ca/, control.sock, ports.json. Made (0700) when missing.
    pub dir: PathBuf,
    /// Name of the mesh.
    pub mesh: String,
    /// Trust domain of the identities.
    pub trust_domain: String,
    /// Address to listen on.
    pub host: IpAddr,
    /// Ports; 0 = the one of `ports.json`, else a free one.
    pub ports: Ports,
    /// Further addresses (`host` or IP) that workloads elsewhere reach this control plane at; they go into tokens
    /// and into the server certificate.
    pub advertise: Vec<String>,
    /// Lifetime of a workload's certificate.
    pub leaf_ttl: Duration,
    /// Times of the registry's leases.
    pub leases: Leases,
}

/// The three ports of a control plane.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// xDS, CA and registration over TLS.
    pub xds: u16,
    /// HTTP API over TLS.
    pub api: u16,
    /// Metrics in plain text.
    pub metrics: u16,
}

/// Times of the registry's leases (design decision 6); tests make them shorter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leases {
    /// A workload whose stream is lost counts as unhealthy after this.
    pub unhealthy_after: Duration,
    /// And is removed after this.
    pub removed_after: Duration,
    /// After a start nothing is removed for this long because it has not come back.
    pub grace: Duration,
    /// More than a third vanishing within this time stops all removals.
    pub guard_window: Duration,
}

impl Default for Leases {
    fn default() -> Self {
        Self {
            unhealthy_after: Duration::from_secs(5),
            removed_after: Duration::from_mins(1),
            grace: Duration::from_mins(1),
            guard_window: Duration::from_secs(10),
        }
    }
}

/// Where a control plane listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// xDS, CA and registration over TLS.
    pub xds: SocketAddr,
    /// HTTP API over TLS.
    pub api: SocketAddr,
    /// Metrics in plain text.
    pub metrics: SocketAddr,
    /// Unix socket of the API for this machine's users.
    pub control_sock: PathBuf,
}

impl Settings {
    /// Defaults: loopback, free ports, trust domain `cluster.local`, certificates of one day.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>, mesh: impl Into<String>) -> Self {
        Self {
            dir: dir.into(),
            mesh: mesh.into(),
            trust_domain: naka_types::spiffe::DEFAULT_TRUST_DOMAIN.to_owned(),
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            ports: Ports::default(),
            advertise: Vec::new(),
            leaf_ttl: Duration::from_hours(24),
            leases: Leases::default(),
        }
    }

    /// The file that remembers the ports.
    #[must_use]
    pub fn ports_file(&self) -> PathBuf {
        ports_file(&self.dir)
    }
}

/// The file of a mesh's directory that remembers the ports.
#[must_use]
pub fn ports_file(dir: &Path) -> PathBuf {
    dir.join("ports.json")
}

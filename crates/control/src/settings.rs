//! What a control plane is told when it starts, and where it ends up listening.

use crate::export::Place;
use crate::run::Error;
use naka_store::Passphrase;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
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
    /// Directory with root-cert.pem, ca-cert.pem, ca-key.pem and cert-chain.pem: the authority of a mesh that has none
    /// yet, instead of one made here.
    pub authority: Option<PathBuf>,
    /// What locks the key that seals Secrets, if anything does.
    pub seal_passphrase: Option<Passphrase>,
    /// Times of the registry's leases.
    pub leases: Leases,
    /// Directory of YAML that is a source of objects.
    pub source: Option<PathBuf>,
    /// How keys of issuers are fetched.
    pub jwks: Jwks,
    /// How the audit trail is kept.
    pub audit: Audit,
    /// Where spans go.
    pub tracing: Tracing,
}

/// How the audit trail is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// How long events of the log are kept; all of them unless given.
    pub keep: Option<Duration>,
    /// How long refused calls are kept.
    pub keep_denials: Duration,
    /// Bytes of refused calls that are kept at most.
    pub most_denials: u64,
    /// What happens when a stream cannot be written, or a place is too far behind.
    pub when_full: WhenFull,
    /// Where events go by themselves.
    pub to: Vec<Place>,
    /// PEM file of authorities that collectors may have besides the system's.
    pub authorities: Option<PathBuf>,
    /// Events that a place may be behind before changes are refused, where they are.
    pub most_behind: u64,
    /// Bytes of one file of events.
    pub file_bytes: u64,
    /// Full files that are kept.
    pub files: usize,
}

/// Where spans of traces that are kept go.
#[derive(Debug, Clone, Default)]
pub struct Tracing {
    /// Addresses of collectors.
    pub to: Vec<String>,
    /// PEM file of authorities that collectors may have besides the system's.
    pub authorities: Option<PathBuf>,
}

/// What happens when a stream of the audit trail cannot be written, or a place of its export is too far behind. Calls of programs never wait for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// Events are dropped and counted.
    #[default]
    Drop,
    /// That, and no change is taken by the API until that is over.
    Refuse,
}

impl WhenFull {
    /// As it is written.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Refuse => "refuse",
        }
    }
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            keep: None,
            keep_denials: Duration::from_hours(30 * 24),
            most_denials: 1 << 30,
            when_full: WhenFull::Drop,
            to: Vec::new(),
            authorities: None,
            most_behind: 10_000,
            file_bytes: 64 << 20,
            files: 8,
        }
    }
}

/// How keys of issuers (`jwksUri`) are fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jwks {
    /// Keys that came are asked for again after this time.
    pub refresh: Duration,
    /// PEM file of authorities that are believed besides the system's.
    pub authorities: Option<PathBuf>,
    /// Hosts that keys may come from, `*.example.com` for all below; none: any.
    pub hosts: Vec<String>,
}

impl Default for Jwks {
    fn default() -> Self {
        Self {
            refresh: Duration::from_mins(20),
            authorities: None,
            hosts: Vec::new(),
        }
    }
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
            authority: None,
            seal_passphrase: None,
            leases: Leases::default(),
            source: None,
            jwks: Jwks::default(),
            audit: Audit::default(),
            tracing: Tracing::default(),
        }
    }

    /// What earlier starts and a restore left behind is taken where the caller said nothing.
    ///
    /// # Errors
    /// See [`Remembered::load`].
    pub fn recall(
        mut self,
        trust_domain: Option<&str>,
        advertise: Option<&str>,
    ) -> Result<Self, Error> {
        let known = Remembered::load(&self.dir)?;
        if let Some(domain) = trust_domain.map(str::to_owned).or(known.trust_domain) {
            self.trust_domain = domain;
        }
        self.advertise = match advertise {
            // An empty address takes the remembered ones back.
            Some("") => Vec::new(),
            Some(address) => vec![address.to_owned()],
            None => known.advertise,
        };
        if !self.advertise.is_empty() {
            // A socket of IPv6 takes both families, but a machine may have none.
            self.host = if self.advertise.iter().any(|address| six(address)) {
                Ipv6Addr::UNSPECIFIED.into()
            } else {
                Ipv4Addr::UNSPECIFIED.into()
            };
        }
        Ok(self)
    }
}

/// Whether an advertised address is one of IPv6.
fn six(address: &str) -> bool {
    match address.parse::<SocketAddr>() {
        Ok(address) => address.is_ipv6(),
        Err(_) => address.trim_matches(['[', ']']).parse::<Ipv6Addr>().is_ok(),
    }
}

/// What a mesh directory remembers of how it is reached (`ports.json`): tokens and saved identities name it, so a
/// restart, or a restore on another machine, must answer there again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// Format of the file; files of before there was a number have none.
    #[serde(default)]
    pub format: u32,
    /// Ports.
    #[serde(flatten)]
    pub ports: Ports,
    /// Addresses for workloads elsewhere.
    #[serde(default)]
    pub advertise: Vec<String>,
    /// Trust domain of the authority.
    #[serde(default)]
    pub trust_domain: Option<String>,
}

impl Remembered {
    /// Format written by this version.
    const FORMAT: u32 = 1;
    /// Name in the mesh directory.
    const FILE: &str = "ports.json";

    /// Reads the file; a damaged one counts as absent, because all that is in it can be said again.
    ///
    /// # Errors
    /// When it is of a newer format.
    pub fn load(dir: &Path) -> Result<Self, Error> {
        let path = dir.join(Self::FILE);
        let Ok(bytes) = std::fs::read(&path) else {
            return Ok(Self::default());
        };
        // The number first: the rest of a newer file may have any shape.
        let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let format = value.get("format").and_then(Value::as_u64).unwrap_or(0);
        if format > u64::from(Self::FORMAT) {
            return Err(Error::Store(naka_store::Error::NewerFormat {
                file: path.display().to_string(),
                found: u32::try_from(format).unwrap_or(u32::MAX),
                known: Self::FORMAT,
            }));
        }
        Ok(serde_json::from_value(value).unwrap_or_else(|error| {
            tracing::warn!(%error, file = %path.display(), "not readable; new ports are chosen");
            Self::default()
        }))
    }

    /// Writes the file. One of an older format is kept beside it.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn save(mut self, dir: &Path) -> Result<(), Error> {
        let path = dir.join(Self::FILE);
        let file = |source| Error::File {
            path: path.clone(),
            source,
        };
        let before = Self::load(dir)?;
        if before.format < Self::FORMAT && path.exists() {
            let aside = dir.join(format!("{}.format-{}", Self::FILE, before.format));
            std::fs::copy(&path, aside).map_err(file)?;
        }
        self.format = Self::FORMAT;
        // The same again: a full disk is no reason not to serve what is known.
        if before == self {
            return Ok(());
        }
        let temporary = path.with_extension("new");
        std::fs::write(&temporary, json!(self).to_string()).map_err(file)?;
        std::fs::rename(&temporary, &path).map_err(file)
    }
}

#[cfg(test)]
mod tests {
    use super::{Ports, Remembered, Settings};

    #[test]
    fn addresses_are_remembered_and_newer_files_refused() {
        let dir = tempfile::tempdir().unwrap();
        let old = r#"{"xds":1,"api":2,"metrics":3}"#;
        std::fs::write(dir.path().join("ports.json"), old).unwrap();
        let known = Remembered::load(dir.path()).unwrap();
        assert_eq!((known.format, known.ports.api), (0, 2));
        let more = Remembered {
            advertise: vec!["10.0.0.5".to_owned()],
            trust_domain: Some("example.org".to_owned()),
            ..known
        };
        more.save(dir.path()).unwrap();
        let aside = std::fs::read_to_string(dir.path().join("ports.json.format-0")).unwrap();
        assert_eq!(aside, old, "the older file is kept");
        let settings = Settings::new(dir.path(), "m").recall(None, None).unwrap();
        assert_eq!(settings.advertise, ["10.0.0.5"]);
        assert_eq!(settings.trust_domain, "example.org");
        assert!(settings.host.is_unspecified());
        let forgot = Settings::new(dir.path(), "m")
            .recall(None, Some(""))
            .unwrap();
        assert!(forgot.advertise.is_empty() && forgot.host.is_loopback());
        for (address, six) in [("fd77::1", true), ("[fd77::1]:7", true), ("base:7", false)] {
            let told = Settings::new(dir.path(), "m").recall(None, Some(address));
            let host = told.unwrap().host;
            assert!(host.is_unspecified() && host.is_ipv6() == six, "{address}");
        }

        let newer = r#"{"format":2,"xds":"elsewhere"}"#;
        std::fs::write(dir.path().join("ports.json"), newer).unwrap();
        let refused = Remembered::load(dir.path()).unwrap_err().to_string();
        assert!(refused.contains("use a newer naka"), "{refused}");
        assert!(Remembered::default().save(dir.path()).is_err());
        let left = std::fs::read_to_string(dir.path().join("ports.json")).unwrap();
        assert_eq!(left, newer);
        std::fs::write(dir.path().join("ports.json"), "rubbish").unwrap();
        assert_eq!(
            Remembered::load(dir.path()).unwrap().ports,
            Ports::default()
        );
    }
}

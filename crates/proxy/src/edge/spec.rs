//! TLS of a gateway's servers as received, and the rustls configurations made of it.
//!
//! A [`Spec`] names certificates; a [`Table`] holds the configurations of one moment, one per chain. A configuration is
//! made anew when what it is made of differs and kept otherwise, so that a change of one certificate neither ends a
//! connection nor takes tickets of other servers back. Making one parses keys, which is work of the main thread.

use naka_identity::served::{Clients, Pin, Served, Settings, Version, server};
use naka_wire::envoy::config::core::v3::{DataSource, data_source::Specifier};
use naka_wire::envoy::extensions::transport_sockets::tls::v3::{Secret, secret};
use rustls::ServerConfig;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Where something is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// In a secret of the control plane.
    Secret(Arc<str>),
    /// In two files.
    Files {
        /// The chain.
        chain: Arc<str>,
        /// The key.
        key: Arc<str>,
    },
    /// In one file.
    File(Arc<str>),
}

/// What is asked of clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Their roots.
    pub roots: Source,
    /// File of what was revoked.
    pub revoked: Option<Arc<str>>,
    /// Whether one without a certificate is let in.
    pub optional: bool,
    /// Whether a certificate that cannot be verified is let in.
    pub unverified: bool,
    /// Names of which a certificate must have one; empty = any.
    pub names: Vec<String>,
    /// Certificates and keys known beforehand; empty = any.
    pub pins: Vec<Pin>,
}

/// TLS of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// Certificates, at least one.
    pub certificates: Vec<Source>,
    /// What is asked of clients.
    pub clients: Option<Asked>,
    /// Lowest version.
    pub lowest: Version,
    /// Highest version.
    pub highest: Version,
    /// Suites of TLS 1.2; empty = all.
    pub suites: Vec<String>,
    /// Key exchanges, the best first; empty = those of the mesh.
    pub curves: Vec<String>,
    /// Protocols offered.
    pub alpn: Vec<Vec<u8>>,
}

impl Spec {
    /// Whether some of it is in files, which change without a word.
    #[must_use]
    pub fn has_files(&self) -> bool {
        let file = |source: &Source| !matches!(source, Source::Secret(_));
        let asked = self.clients.as_ref();
        self.certificates.iter().any(file)
            || asked.is_some_and(|asked| asked.revoked.is_some() || file(&asked.roots))
    }
}

/// A secret of the control plane.
#[derive(Clone, PartialEq, Eq)]
pub enum Held {
    /// A certificate with its key.
    Certificate {
        /// PEM.
        chain: Vec<u8>,
        /// PEM.
        key: Vec<u8>,
    },
    /// Roots of clients.
    Roots {
        /// PEM.
        roots: Vec<u8>,
        /// Revocation lists, PEM; may be empty.
        revoked: Vec<u8>,
    },
}

impl std::fmt::Debug for Held {
    /// Without a byte of it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Certificate { .. } => "Certificate",
            Self::Roots { .. } => "Roots",
        })
    }
}

impl Held {
    /// Reads a secret that a gateway's server names.
    ///
    /// # Errors
    /// What is wrong with it, without any of its bytes.
    pub fn read(wire: &Secret) -> Result<Self, String> {
        match &wire.r#type {
            Some(secret::Type::TlsCertificate(one)) => {
                let chain = inline(one.certificate_chain.as_ref()).ok_or("no inline chain")?;
                let key = inline(one.private_key.as_ref()).ok_or("no inline key")?;
                Served::from_pem(&chain, &key).map_err(|error| error.to_string())?;
                Ok(Self::Certificate { chain, key })
            }
            Some(secret::Type::ValidationContext(context)) => Ok(Self::Roots {
                roots: inline(context.trusted_ca.as_ref()).ok_or("no inline roots")?,
                revoked: inline(context.crl.as_ref()).unwrap_or_default(),
            }),
            _ => Err("neither a certificate nor roots".to_owned()),
        }
    }
}

fn inline(source: Option<&DataSource>) -> Option<Vec<u8>> {
    match source?.specifier.as_ref()? {
        Specifier::InlineBytes(bytes) => Some(bytes.clone()),
        Specifier::InlineString(text) => Some(text.clone().into_bytes()),
        _ => None,
    }
}

/// Everything a configuration is made of; equal parts make no new one.
#[derive(Debug, Clone, PartialEq)]
struct Parts {
    spec: Spec,
    certificates: Vec<Held>,
    roots: Option<Held>,
    revoked: Vec<u8>,
}

#[derive(Debug, Clone)]
struct Entry {
    parts: Parts,
    config: Arc<ServerConfig>,
}

/// Configurations by port and chain.
#[derive(Debug, Clone, Default)]
pub struct Table(BTreeMap<(u16, Arc<str>), Entry>);

impl Table {
    /// The configuration of a chain; `None` while it has none, so that its connections are refused.
    pub(crate) fn get(&self, port: u16, chain: &str) -> Option<&Arc<ServerConfig>> {
        // Chains are few and handshakes dear: no need for a key that borrows.
        self.0
            .get(&(port, Arc::from(chain)))
            .map(|entry| &entry.config)
    }

    /// The table of these chains, with what is the same of this one; `None` when all of it is the same. What cannot
    /// be made is named.
    pub fn next<'a>(
        &self,
        specs: impl Iterator<Item = (u16, &'a Arc<str>, &'a Spec)>,
        held: &BTreeMap<String, Held>,
        failed: &mut Vec<String>,
    ) -> Option<Self> {
        let mut next = BTreeMap::new();
        let mut differs = false;
        for (port, chain, spec) in specs {
            let key = (port, Arc::clone(chain));
            let entry = parts(spec, held).and_then(|parts| match self.0.get(&key) {
                Some(known) if known.parts == parts => Ok(known.clone()),
                _ => {
                    differs = true;
                    entry(parts)
                }
            });
            match entry {
                Ok(entry) => drop(next.insert(key, entry)),
                Err(why) => failed.push(format!("{chain}: {why}")),
            }
        }
        differs |= next.len() != self.0.len() || !next.keys().eq(self.0.keys());
        differs.then_some(Self(next))
    }
}

fn parts(spec: &Spec, held: &BTreeMap<String, Held>) -> Result<Parts, String> {
    let certificates = spec.certificates.iter().map(|source| find(source, held));
    let certificates = certificates.collect::<Result<_, _>>()?;
    let asked = spec.clients.as_ref();
    let roots = asked.map(|asked| find(&asked.roots, held)).transpose()?;
    let list = asked.and_then(|asked| asked.revoked.as_deref());
    Ok(Parts {
        spec: spec.clone(),
        certificates,
        roots,
        revoked: list.map(read).transpose()?.unwrap_or_default(),
    })
}

fn find(source: &Source, held: &BTreeMap<String, Held>) -> Result<Held, String> {
    match source {
        Source::Secret(name) => held
            .get(&**name)
            .cloned()
            .ok_or_else(|| format!("{name} is not there")),
        Source::Files { chain, key } => Ok(Held::Certificate {
            chain: read(chain)?,
            key: read(key)?,
        }),
        Source::File(name) => Ok(Held::Roots {
            roots: read(name)?,
            revoked: Vec::new(),
        }),
    }
}

fn read(file: &str) -> Result<Vec<u8>, String> {
    std::fs::read(file).map_err(|error| format!("{file}: {error}"))
}

fn entry(parts: Parts) -> Result<Entry, String> {
    let word = |error: naka_identity::Error| error.to_string();
    let mut certificates = Vec::new();
    for one in &parts.certificates {
        match one {
            Held::Certificate { chain, key } => {
                certificates.push(Served::from_pem(chain, key).map_err(word)?);
            }
            Held::Roots { .. } => return Err("roots where a certificate belongs".to_owned()),
        }
    }
    let clients = match (&parts.spec.clients, &parts.roots) {
        (Some(asked), Some(Held::Roots { roots, revoked })) => Some(Clients {
            roots: roots.clone(),
            revoked: [revoked.as_slice(), parts.revoked.as_slice()].concat(),
            optional: asked.optional,
            unverified: asked.unverified,
            names: asked.names.clone(),
            pins: asked.pins.clone(),
        }),
        (None, _) => None,
        (Some(_), _) => return Err("no roots of clients".to_owned()),
    };
    let settings = Settings {
        certificates,
        clients,
        lowest: parts.spec.lowest,
        highest: parts.spec.highest,
        suites: parts.spec.suites.clone(),
        curves: parts.spec.curves.clone(),
        alpn: parts.spec.alpn.clone(),
    };
    let config = server(&settings).map_err(word)?;
    Ok(Entry { parts, config })
}

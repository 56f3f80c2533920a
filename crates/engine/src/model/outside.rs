//! What a cluster needs towards the world outside the mesh: TLS with a server's own certificate, a tunnel through a
//! proxy, a name that only the caller knows, a header that says who calls.

use std::sync::Arc;

/// TLS with a server that is no member of the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutsideTls {
    /// Server name sent; `None` = the host that is called.
    pub sni: Option<Arc<str>>,
    /// Names of which the certificate must carry one; empty = the server name.
    pub names: Arc<[String]>,
    /// Authorities believed; `None` = those of the system.
    pub roots: Option<Source>,
    /// Revoked certificates.
    pub revoked: Option<Source>,
    /// Our certificate and its key.
    pub certificate: Option<(Source, Source)>,
    /// Whether the certificate is verified at all.
    pub verify: bool,
    /// No server is believed: what was asked for cannot be carried out, and calls fail.
    pub nobody: bool,
}

/// Where bytes are.
#[derive(Clone, PartialEq, Eq)]
pub enum Source {
    /// In a file of this host.
    File(Arc<str>),
    /// Here.
    Inline(Arc<[u8]>),
}

impl std::fmt::Debug for Source {
    /// Never shows bytes: they may be a key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Inline(bytes) => write!(f, "Inline({} bytes)", bytes.len()),
        }
    }
}

/// Version of the PROXY header that connections begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyHeader {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// The destination is a proxy: connections lead on from there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnel {
    /// Host and port behind it.
    pub target: Arc<str>,
    /// POST instead of CONNECT.
    pub post: bool,
}

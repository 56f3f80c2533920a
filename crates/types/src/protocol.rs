//! Application protocols, declared by port name or appProtocol as in Istio.

/// Protocol of a service port.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Not declared: sniffed.
    Auto,
    /// HTTP/1.1.
    Http,
    /// HTTP/2 without TLS.
    Http2,
    /// gRPC, that is HTTP/2.
    Grpc,
    /// Opaque bytes.
    Tcp,
    /// TLS made by the application: opaque.
    Tls,
}

impl Protocol {
    /// From `appProtocol`, else from the port name's prefix up to the first `-` (Istio's rule); else [`Protocol::Auto`].
    #[must_use]
    pub fn declared(name: Option<&str>, app_protocol: Option<&str>) -> Self {
        let word = app_protocol.or_else(|| name.map(|n| n.split('-').next().unwrap_or(n)));
        match word.map(str::to_ascii_lowercase).as_deref() {
            Some("http") => Self::Http,
            Some("http2" | "kubernetes.io/h2c") => Self::Http2,
            Some("grpc" | "grpc-web") => Self::Grpc,
            Some("tcp" | "mongo" | "mysql" | "redis") => Self::Tcp,
            Some("tls" | "https") => Self::Tls,
            _ => Self::Auto,
        }
    }

    /// Whether requests are seen one by one once the protocol is believed.
    #[must_use]
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc)
    }

    /// The word used on the wire and in output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Http => "http",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }
}

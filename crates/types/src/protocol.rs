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
    /// gRPC, with gRPC-Web translated to it.
    #[serde(rename = "grpc-web")]
    GrpcWeb,
    /// Opaque bytes.
    Tcp,
    /// TLS made by the application: opaque.
    Tls,
}

impl Protocol {
    /// From `appProtocol`, else from the port name's prefix up to the first `-` or `grpc-web` (Istio's rule); else [`Protocol::Auto`].
    #[must_use]
    pub fn declared(name: Option<&str>, app_protocol: Option<&str>) -> Self {
        // Istio's one word with a dash in it comes before the rule.
        let prefix = |name: &str| match name.to_ascii_lowercase() {
            lower if lower.starts_with("grpc-web") => "grpc-web".to_owned(),
            lower => lower.split('-').next().unwrap_or_default().to_owned(),
        };
        let word = app_protocol.map(str::to_ascii_lowercase);
        match word.or_else(|| name.map(prefix)).as_deref() {
            Some("http") => Self::Http,
            Some("http2" | "kubernetes.io/h2c") => Self::Http2,
            Some("grpc") => Self::Grpc,
            Some("grpc-web") => Self::GrpcWeb,
            Some("tcp" | "mongo" | "mysql" | "redis") => Self::Tcp,
            Some("tls" | "https") => Self::Tls,
            _ => Self::Auto,
        }
    }

    /// What is spoken where a listener of its own says this of a destination that says `declared`: the listener decides
    /// whether there are requests, and nothing makes requests of what a destination declares as bytes.
    #[must_use]
    pub fn over(self, declared: Self) -> Self {
        match (self, declared) {
            (Self::Auto, _) => declared,
            (Self::Tcp | Self::Tls, _) | (_, Self::Auto) => self,
            _ => declared,
        }
    }

    /// Whether requests are seen one by one once the protocol is believed.
    #[must_use]
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc | Self::GrpcWeb)
    }

    /// The word used on the wire and in output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Http => "http",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::GrpcWeb => "grpc-web",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }
}

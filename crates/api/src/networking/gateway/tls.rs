//! `servers[].tls`, with Istio's rules for what goes with what.
//!
//! A setting that restricts callers and cannot be carried out takes its server out of force; one that only widens what
//! is offered (a suite that nobody here knows) is left out with a finding, as in Istio.

use crate::codes;
use crate::decode::Report;
use crate::networking::read;
use crate::tree::Node;

/// How TLS is handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TlsMode {
    /// Not opened: the server name decides.
    Passthrough,
    /// Opened; clients prove nothing.
    Simple,
    /// Opened; clients show a certificate.
    Mutual,
    /// Not opened: the server name itself names the service.
    AutoPassthrough,
    /// Opened with the mesh's own certificates; clients are of the mesh.
    IstioMutual,
    /// Opened; a certificate that a client shows is verified.
    OptionalMutual,
}

impl TlsMode {
    /// Whether bytes are decrypted here.
    #[must_use]
    pub fn opens(self) -> bool {
        !matches!(self, Self::Passthrough | Self::AutoPassthrough)
    }

    /// Whether clients are asked for a certificate that strangers issued.
    #[must_use]
    pub fn asks(self) -> bool {
        matches!(self, Self::Mutual | Self::OptionalMutual)
    }
}

/// A version of TLS as far as it is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TlsVersion {
    /// TLS 1.2.
    V12,
    /// TLS 1.3.
    V13,
}

/// Where a certificate and its key are.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Certificate {
    /// In a Secret of the gateway's namespace.
    Secret(String),
    /// In files of the gateway's machine.
    Files {
        /// The chain.
        chain: String,
        /// The key.
        key: String,
    },
}

/// Where the roots of clients' certificates are, when they are not beside the certificate.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Roots {
    /// In a Secret of the gateway's namespace.
    Secret(String),
    /// In a file of the gateway's machine.
    File(String),
}

/// TLS of a server.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerTls {
    /// How it is handled.
    pub mode: TlsMode,
    /// Certificates; at least one where TLS is opened, unless with the mesh's own.
    pub certificates: Vec<Certificate>,
    /// Roots of clients.
    pub roots: Option<Roots>,
    /// File of revoked certificates.
    pub revoked: Option<String>,
    /// Names accepted of clients; empty = any.
    pub names: Vec<String>,
    /// Whether a client certificate that cannot be verified is let in all the same.
    pub unverified: bool,
    /// Keys accepted of clients, SHA-256 in base64.
    pub spki: Vec<String>,
    /// Certificates accepted of clients, SHA-256 in hexadecimal.
    pub hashes: Vec<String>,
    /// Lowest version.
    pub lowest: TlsVersion,
    /// Highest version.
    pub highest: TlsVersion,
    /// Suites of TLS 1.2 by OpenSSL's names; empty = all.
    pub suites: Vec<String>,
    /// Key exchanges by Envoy's names, the best first; empty = the usual ones.
    pub curves: Vec<String>,
    /// Protocols offered, the best first; empty = what goes with what is served.
    pub alpn: Vec<String>,
}

impl ServerTls {
    /// Names of the Secrets it wants.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        let certificates = self.certificates.iter().filter_map(|one| match one {
            Certificate::Secret(name) => Some(name.as_str()),
            Certificate::Files { .. } => None,
        });
        let roots = match &self.roots {
            Some(Roots::Secret(name)) => Some(name.as_str()),
            Some(Roots::File(_)) | None => None,
        };
        certificates.chain(roots)
    }
}

/// Suites that are served, by OpenSSL's names; those of TLS 1.3 are always there.
const SUITES: [&str; 6] = [
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-RSA-CHACHA20-POLY1305",
];
/// Key exchanges that are served, by Envoy's names.
const CURVES: [&str; 4] = ["X25519MLKEM768", "X25519", "P-256", "P-384"];
const SUITES13: [&str; 3] = [
    "TLS_AES_256_GCM_SHA384",
    "TLS_AES_128_GCM_SHA256",
    "TLS_CHACHA20_POLY1305_SHA256",
];

struct Reader<'a> {
    report: &'a mut Report,
    node: &'a Node,
    at: String,
}

impl Reader<'_> {
    fn text(&self, key: &str) -> Option<String> {
        read::text(self.node.get(key))
    }

    fn invalid(&mut self, key: &str, message: String, fix: &str) {
        let node = self.node.get(key).unwrap_or(self.node);
        let at = if key.is_empty() {
            self.at.clone()
        } else {
            format!("{}.{key}", self.at)
        };
        self.report.invalid(&at, node, message, fix.to_owned());
    }

    fn missing(&mut self, key: &str, message: &str, fix: &str) {
        let at = format!("{}.{key}", self.at);
        self.report.error(
            codes::E006,
            &at,
            self.node.place,
            message.to_owned(),
            fix.to_owned(),
        );
    }
}

/// Reads the TLS of a server that has some.
pub(crate) fn build(report: &mut Report, node: &Node, at: &str) -> ServerTls {
    let mut reader = Reader {
        report,
        node,
        at: at.to_owned(),
    };
    let mode = match node.get("mode").and_then(Node::text) {
        Some("SIMPLE") => TlsMode::Simple,
        Some("MUTUAL") => TlsMode::Mutual,
        Some("AUTO_PASSTHROUGH") => TlsMode::AutoPassthrough,
        Some("ISTIO_MUTUAL") => TlsMode::IstioMutual,
        Some("OPTIONAL_MUTUAL") => TlsMode::OptionalMutual,
        _ => TlsMode::Passthrough,
    };
    let certificates = certificates(&mut reader, mode);
    let roots = roots(&mut reader, mode, &certificates);
    let unverified = unverified(&mut reader, mode);
    let (spki, hashes) = pins(&mut reader);
    let (lowest, highest) = versions(&mut reader);
    let suites = suites(&mut reader);
    let curves = curves(&mut reader);
    let alpn = alpn(&mut reader);
    ServerTls {
        mode,
        certificates,
        roots,
        revoked: reader.text("caCrl"),
        names: read::texts(node.get("subjectAltNames")),
        unverified,
        spki,
        hashes,
        lowest,
        highest,
        suites,
        curves,
        alpn,
    }
}

/// Key exchanges of which at least one is served. As with suites, one that nobody here knows is left out.
fn curves(reader: &mut Reader<'_>) -> Vec<String> {
    let written = read::texts(reader.node.get("ecdhCurves"));
    let mut known = Vec::new();
    for word in &written {
        if !CURVES.contains(&word.as_str()) {
            let node = reader.node.get("ecdhCurves").unwrap_or(reader.node);
            let at = format!("{}.ecdhCurves", reader.at);
            reader.report.error(
                codes::W131,
                &at,
                node.place,
                format!("{word:?} is not served and is left out"),
                format!("write some of {}", CURVES.join(", ")),
            );
        } else if !known.contains(word) {
            known.push(word.clone());
        }
    }
    if !written.is_empty() && known.is_empty() {
        reader.invalid(
            "ecdhCurves",
            "none of them is served".to_owned(),
            "write for example X25519",
        );
    }
    known
}

/// Protocols, each as TLS can carry it.
fn alpn(reader: &mut Reader<'_>) -> Vec<String> {
    let written = read::texts(reader.node.get("alpnProtocols"));
    if let Some(wrong) = written.iter().find(|word| !(1..=255).contains(&word.len())) {
        let message = format!("{wrong:?} is no name of a protocol");
        reader.invalid("alpnProtocols", message, "write 1 to 255 bytes, such as h2");
    }
    written
}

/// Certificates, in Istio's order of precedence: `credentialName(s)` before files.
fn certificates(reader: &mut Reader<'_>, mode: TlsMode) -> Vec<Certificate> {
    let node = reader.node;
    let one = reader.text("credentialName");
    let many = read::texts(node.get("credentialNames"));
    let files = files(reader);
    if one.is_some() && !many.is_empty() {
        reader.invalid(
            "credentialNames",
            "credentialName and credentialNames exclude each other".to_owned(),
            "keep one of them",
        );
    }
    let secrets: Vec<Certificate> = one
        .into_iter()
        .chain(many)
        .map(Certificate::Secret)
        .collect();
    if mode == TlsMode::IstioMutual && !(secrets.is_empty() && files.is_empty()) {
        reader.invalid(
            "mode",
            "ISTIO_MUTUAL serves the mesh's own certificate; others have no meaning".to_owned(),
            "remove them, or write MUTUAL",
        );
    }
    let all = if secrets.is_empty() { files } else { secrets };
    if all.len() > 2 {
        reader.invalid(
            "credentialNames",
            format!("{} certificates; two are the most", all.len()),
            "keep one of each kind of key",
        );
    }
    let needed = mode.opens() && mode != TlsMode::IstioMutual;
    if needed && all.is_empty() {
        reader.missing(
            "credentialName",
            "TLS is opened here, but there is no certificate",
            "name a Secret in credentialName",
        );
    }
    all
}

fn files(reader: &mut Reader<'_>) -> Vec<Certificate> {
    let node = reader.node;
    let listed = node
        .get("tlsCertificates")
        .map(Node::items)
        .unwrap_or_default();
    let mut all = Vec::new();
    let mut incomplete = false;
    for set in std::iter::once(node).chain(listed) {
        let chain = read::text(set.get("serverCertificate"));
        let key = read::text(set.get("privateKey"));
        match (chain, key) {
            (Some(chain), Some(key)) => all.push(Certificate::Files { chain, key }),
            (None, None) => {}
            _ => incomplete = true,
        }
    }
    if incomplete {
        reader.missing(
            "privateKey",
            "serverCertificate and privateKey belong together",
            "write both",
        );
    }
    all
}

fn roots(reader: &mut Reader<'_>, mode: TlsMode, certificates: &[Certificate]) -> Option<Roots> {
    let node = reader.node;
    let listed = node
        .get("tlsCertificates")
        .map(Node::items)
        .unwrap_or_default();
    let file = std::iter::once(node)
        .chain(listed)
        .find_map(|set| read::text(set.get("caCertificates")));
    let secret = reader.text("caCertCredentialName");
    let roots = secret.map(Roots::Secret).or(file.map(Roots::File));
    let beside = certificates
        .iter()
        .any(|one| matches!(one, Certificate::Secret(_)));
    if mode.asks() && roots.is_none() && !beside {
        reader.missing(
            "caCertificates",
            "clients are asked for certificates, but nothing says whose",
            "name the file of their authority, or a Secret",
        );
    }
    roots
}

/// `insecureSkipVerify`: as in Istio a certificate is asked for, and one that cannot be verified breaks nothing.
fn unverified(reader: &mut Reader<'_>, mode: TlsMode) -> bool {
    let written = reader.node.get("insecureSkipVerify");
    let Some(node) = written.filter(|node| node.truth() == Some(true)) else {
        return false;
    };
    let (message, fix) = if mode.asks() {
        let message = "whoever shows a certificate is let in, whoever issued it";
        (message, "remove insecureSkipVerify, or write SIMPLE")
    } else {
        let message = "no certificate is asked for, so there is none to verify or not";
        (message, "remove insecureSkipVerify")
    };
    let at = format!("{}.insecureSkipVerify", reader.at);
    let report = &mut *reader.report;
    report.error(
        codes::L350,
        &at,
        node.place,
        message.to_owned(),
        fix.to_owned(),
    );
    mode.asks()
}

fn pins(reader: &mut Reader<'_>) -> (Vec<String>, Vec<String>) {
    let spki = read::texts(reader.node.get("verifyCertificateSpki"));
    let hashes = read::texts(reader.node.get("verifyCertificateHash"));
    for text in &spki {
        use base64::Engine as _;
        let bytes = base64::engine::general_purpose::STANDARD.decode(text);
        if bytes.map(|bytes| bytes.len()) != Ok(32) {
            reader.invalid(
                "verifyCertificateSpki",
                format!("{text:?} is no SHA-256 in base64"),
                "write the 44 characters that `openssl dgst -sha256 -binary | base64` prints",
            );
        }
    }
    for text in &hashes {
        let plain: String = text.chars().filter(|c| *c != ':').collect();
        if plain.len() != 64 || !plain.bytes().all(|b| b.is_ascii_hexdigit()) {
            reader.invalid(
                "verifyCertificateHash",
                format!("{text:?} is no SHA-256 in hexadecimal"),
                "write the 64 digits that `openssl x509 -fingerprint -sha256` prints",
            );
        }
    }
    (spki, hashes)
}

fn versions(reader: &mut Reader<'_>) -> (TlsVersion, TlsVersion) {
    let old = |key: &str| {
        reader
            .node
            .get(key)
            .and_then(Node::text)
            .filter(|word| matches!(*word, "TLSV1_0" | "TLSV1_1"))
            .map(str::to_owned)
    };
    let (low, high) = (old("minProtocolVersion"), old("maxProtocolVersion"));
    if let Some(word) = low {
        let node = reader.node.get("minProtocolVersion").unwrap_or(reader.node);
        let at = format!("{}.minProtocolVersion", reader.at);
        reader.report.error(
            codes::W131,
            &at,
            node.place,
            format!("{word} is not served; the lowest version is TLS 1.2"),
            "write TLSV1_2".to_owned(),
        );
    }
    if let Some(word) = high {
        reader.invalid(
            "maxProtocolVersion",
            format!("{word} is not served, so no version would be left"),
            "write TLSV1_2 or TLSV1_3",
        );
    }
    let of = |key: &str, otherwise| match reader.node.get(key).and_then(Node::text) {
        Some("TLSV1_2") => TlsVersion::V12,
        Some("TLSV1_3") => TlsVersion::V13,
        _ => otherwise,
    };
    let lowest = of("minProtocolVersion", TlsVersion::V12);
    let highest = of("maxProtocolVersion", TlsVersion::V13);
    if lowest > highest {
        reader.invalid(
            "maxProtocolVersion",
            "it is below minProtocolVersion".to_owned(),
            "exchange the two",
        );
    }
    (lowest, highest)
}

fn suites(reader: &mut Reader<'_>) -> Vec<String> {
    let written = read::texts(reader.node.get("cipherSuites"));
    let mut known = Vec::new();
    for word in &written {
        if SUITES.contains(&word.as_str()) {
            known.push(word.clone());
        } else if !SUITES13.contains(&word.as_str()) {
            let node = reader.node.get("cipherSuites").unwrap_or(reader.node);
            let at = format!("{}.cipherSuites", reader.at);
            reader.report.error(
                codes::W131,
                &at,
                node.place,
                format!("{word:?} is not served and is left out"),
                format!("write some of {}", SUITES.join(", ")),
            );
        }
    }
    let only13 = written.iter().all(|word| SUITES13.contains(&word.as_str()));
    if !written.is_empty() && known.is_empty() && !only13 {
        reader.invalid(
            "cipherSuites",
            "none of them is served".to_owned(),
            "write suites with ECDHE and GCM or CHACHA20",
        );
    }
    known
}

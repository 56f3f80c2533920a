//! `tls` of a traffic policy: how a destination's TLS is begun, and what its certificate must show.
//!
//! Invariant: a block that cannot be carried out never reads as none, because calls without it would go in plaintext:
//! it is [`TlsMode::Unusable`], with which calls fail. Only a block that turns TLS off may fall out.

use crate::codes;
use crate::decode::Report;
use crate::networking::read;
use crate::schema::{Field, Now::Yes, TEXTS, Ty};
use crate::tree::{Node, join};
use naka_types::host::Host;

/// How a destination is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TlsMode {
    /// Plaintext.
    #[default]
    Disable,
    /// TLS without a certificate of our own.
    Simple,
    /// TLS with a certificate of our own.
    Mutual,
    /// Mesh mTLS.
    IstioMutual,
    /// What is written cannot be carried out: calls fail.
    Unusable,
}

/// TLS towards a destination.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct ClientTls {
    /// Which kind.
    pub mode: TlsMode,
    /// File with our certificate.
    pub client_certificate: Option<String>,
    /// File with its key.
    pub private_key: Option<String>,
    /// File with the authorities believed; none = those of the system.
    pub ca_certificates: Option<String>,
    /// File with revoked certificates.
    pub ca_crl: Option<String>,
    /// Secret of the caller's namespace that holds all of these.
    pub credential_name: Option<String>,
    /// Secret of the caller's namespace with the authorities believed.
    pub roots_name: Option<String>,
    /// Names of which the certificate must carry one; empty = the server name.
    pub subject_alt_names: Vec<String>,
    /// Server name sent; none = the host called.
    pub sni: Option<String>,
    /// The certificate is not verified.
    pub insecure_skip_verify: bool,
}

impl ClientTls {
    /// Names of the Secrets it wants.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        let wanted = match self.mode {
            TlsMode::Simple | TlsMode::Mutual => [&self.credential_name, &self.roots_name],
            TlsMode::Disable | TlsMode::IstioMutual | TlsMode::Unusable => [&None, &None],
        };
        wanted.into_iter().filter_map(|name| name.as_deref())
    }

    /// A block that cannot be carried out.
    #[must_use]
    pub fn unusable() -> Self {
        Self {
            mode: TlsMode::Unusable,
            ..Self::default()
        }
    }

    /// Whether TLS of the outside world is begun, or would be if what is written could be carried out.
    #[must_use]
    pub fn originates(&self) -> bool {
        match self.mode {
            TlsMode::Simple | TlsMode::Mutual | TlsMode::Unusable => true,
            TlsMode::Disable | TlsMode::IstioMutual => false,
        }
    }
}

const fn f(name: &'static str, ty: Ty, doc: &'static str) -> Field {
    Field::new(name, ty, Yes, doc)
}

pub(super) const FIELDS: Ty = Ty::Object(&[
    f(
        "mode",
        Ty::Enum(&["DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL"]),
        "ISTIO_MUTUAL (default between mesh workloads; written out, endpoints without a sidecar get no plaintext either), DISABLE, SIMPLE, or MUTUAL with a certificate of our own.",
    ),
    f(
        "clientCertificate",
        Ty::Str,
        "File with the certificate shown, for MUTUAL.",
    ),
    f("privateKey", Ty::Str, "File with its key, for MUTUAL."),
    f(
        "caCertificates",
        Ty::Str,
        "File with the authorities believed; default: the system's (`system` says so, too).",
    ),
    f("caCrl", Ty::Str, "File with revoked certificates."),
    f(
        "credentialName",
        Ty::Str,
        "Secret of the caller's namespace with the authorities believed (`ca.crt`, or in the Secret NAME-cacert) and, for MUTUAL, certificate and key. At sidecars only in a rule with workloadSelector (W133).",
    ),
    f(
        "caCertCredentialName",
        Ty::Str,
        "Secret of the caller's namespace with the authorities believed, instead of those of credentialName. At sidecars only in a rule with workloadSelector (W133).",
    ),
    f(
        "subjectAltNames",
        TEXTS,
        "Names of which the certificate must carry one; default: the server name.",
    ),
    f(
        "sni",
        Ty::Str,
        "Server name sent; default: the host called.",
    ),
    f(
        "insecureSkipVerify",
        Ty::Bool,
        "The certificate is not verified (L346).",
    ),
]);

pub(super) fn build(report: &mut Report, node: &Node, at: &str) -> Option<ClientTls> {
    let word = node.get("mode").and_then(Node::text);
    let mode = match word {
        None | Some("DISABLE") => TlsMode::Disable,
        Some("SIMPLE") => TlsMode::Simple,
        Some("MUTUAL") => TlsMode::Mutual,
        Some("ISTIO_MUTUAL") => TlsMode::IstioMutual,
        // Reported by the walk.
        Some(_) => TlsMode::Unusable,
    };
    let text = |field: &str| read::text(node.get(field));
    let tls = ClientTls {
        mode,
        client_certificate: text("clientCertificate"),
        private_key: text("privateKey"),
        ca_certificates: text("caCertificates").filter(|file| file != "system"),
        ca_crl: text("caCrl"),
        credential_name: text("credentialName"),
        roots_name: text("caCertCredentialName"),
        subject_alt_names: read::texts(node.get("subjectAltNames")),
        sni: text("sni"),
        insecure_skip_verify: node
            .get("insecureSkipVerify")
            .and_then(Node::truth)
            .unwrap_or(false),
    };
    check(report, node, at, &tls);
    if report.sound(at) {
        return Some(tls);
    }
    if word == Some("DISABLE") && !report.any_error(&join(at, "mode")) {
        return None;
    }
    cannot(
        report,
        node,
        at,
        "what is written here cannot be carried out",
    );
    Some(ClientTls::unusable())
}

/// Says what becomes of calls whose TLS cannot be begun.
pub(super) fn cannot(report: &mut Report, node: &Node, at: &str, why: &str) {
    report.error(
        codes::E333,
        at,
        node.place,
        format!("{why}: calls fail (503 tls-failed), so that none goes without TLS"),
        "correct the fields named in the other findings".to_owned(),
    );
}

fn check(report: &mut Report, node: &Node, at: &str, tls: &ClientTls) {
    let files = ["clientCertificate", "privateKey", "caCertificates", "caCrl"];
    if tls.mode == TlsMode::IstioMutual {
        for field in [
            "clientCertificate",
            "privateKey",
            "caCertificates",
            "credentialName",
            "caCertCredentialName",
        ] {
            if let Some(value) = node.get(field) {
                report.invalid(
                    &join(at, field),
                    value,
                    format!("{field} has no meaning with ISTIO_MUTUAL, whose certificates are the mesh's"),
                    format!("remove {field}, or write mode: MUTUAL"),
                );
            }
        }
        return;
    }
    if tls.credential_name.is_some() {
        for field in files.iter().filter(|field| node.get(field).is_some()) {
            report.invalid(
                &join(at, field),
                node.get(field).unwrap_or(node),
                format!("{field} and credentialName are both set; only one of them may be"),
                format!("keep {field} or credentialName"),
            );
        }
    }
    if tls.roots_name.is_some() {
        for field in ["caCertificates", "caCrl"] {
            if let Some(value) = node.get(field) {
                report.invalid(
                    &join(at, field),
                    value,
                    format!(
                        "{field} and caCertCredentialName are both set; only one of them may be"
                    ),
                    format!("remove {field}; the Secret holds both as ca.crt and ca.crl"),
                );
            }
        }
    }
    if tls.mode == TlsMode::Mutual && tls.credential_name.is_none() {
        for (field, value) in [
            ("clientCertificate", &tls.client_certificate),
            ("privateKey", &tls.private_key),
        ] {
            if value.is_none() {
                report.error(
                    codes::E006,
                    &join(at, field),
                    node.place,
                    format!("{field} is required with MUTUAL"),
                    format!("add {field}, or credentialName"),
                );
            }
        }
    }
    for (index, name) in tls.subject_alt_names.iter().enumerate() {
        if !is_name(name) {
            report.invalid(
                &format!("{}[{index}]", join(at, "subjectAltNames")),
                node.get("subjectAltNames").unwrap_or(node),
                format!("{name:?} is no name that a certificate can carry"),
                "write a DNS name (*.bank.example for any one label), an IP address or a URI"
                    .to_owned(),
            );
        }
    }
    if tls.originates() && tls.insecure_skip_verify {
        report.error(
            codes::L346,
            &join(at, "insecureSkipVerify"),
            node.place,
            "the server's certificate is not verified: whoever answers is believed".to_owned(),
            "remove insecureSkipVerify, or name the authority in caCertificates".to_owned(),
        );
    }
}

/// Whether a certificate can carry the name: a URI, an address, or a DNS name, of which the first label may be any.
fn is_name(name: &str) -> bool {
    name.contains("://")
        || name.parse::<std::net::IpAddr>().is_ok()
        || Host::parse(name).is_ok() && name != "*"
}

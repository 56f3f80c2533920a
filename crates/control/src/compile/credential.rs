//! Certificates of Secrets, for gateways and sidecars: what `credentialName` names.
//!
//! A proxy gets the Secrets of its own namespace that a Gateway, the Sidecar or the DestinationRule which holds for it
//! names, and no other: they come only with the listener or cluster that refers to them, never by their name alone. What
//! a Secret may hold is Istio's: `tls.crt` and `tls.key` (or `cert`, `key`); `ca.crt` or `cacert`, there or in the Secret `<name>-cacert`; `ca.crl` beside that.

use super::{Built, Class, View};
use crate::world::Read;
use naka_api::core::secret::Secret as Held;
use naka_identity::served::{Clients, Served, Settings, Version, server};
use naka_types::host::ROOT_NAMESPACE;
use naka_types::name::CREDENTIAL;
use naka_types::node::Role;
use naka_wire::envoy::config::core::v3::{DataSource, data_source::Specifier};
use naka_wire::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, TlsCertificate, secret,
};
use std::fmt;

/// What names of roots end with.
const ROOTS: &str = "/cacert";

/// A certificate or the roots of clients, in a Secret.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Credential {
    /// Namespace of the Secret.
    pub namespace: String,
    /// `credentialName`.
    pub name: String,
    /// Roots of clients, not a certificate.
    pub roots: bool,
}

impl fmt::Display for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ends = if self.roots { ROOTS } else { "" };
        write!(f, "{CREDENTIAL}{}/{}{ends}", self.namespace, self.name)
    }
}

impl Credential {
    /// The credential of that name on the wire.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let rest = name.strip_prefix(CREDENTIAL)?;
        let (rest, roots) = match rest.strip_suffix(ROOTS) {
            Some(rest) => (rest, true),
            None => (rest, false),
        };
        let (namespace, name) = rest.split_once('/')?;
        (!namespace.is_empty() && !name.is_empty() && !name.contains('/')).then(|| Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            roots,
        })
    }
}

fn held<'a>(view: &View<'a>, namespace: &str, name: &str) -> Option<&'a Held> {
    let key = (namespace.to_owned(), name.to_owned());
    let read = Read::Secret(key.0.clone(), key.1.clone());
    view.read(read).secrets.get(&key).map(|secret| &**secret)
}

fn value<'a>(secret: &'a Held, keys: &[&str]) -> Option<&'a [u8]> {
    keys.iter()
        .find_map(|key| secret.data.get(*key))
        .map(Vec::as_slice)
}

/// Chain and key of a certificate, checked.
fn certificate<'a>(
    view: &View<'a>,
    credential: &Credential,
) -> Result<(&'a [u8], &'a [u8], Served), String> {
    let Credential {
        namespace, name, ..
    } = credential;
    let secret = held(view, namespace, name)
        .ok_or_else(|| format!("no Secret {name} in namespace {namespace}, where the proxy is"))?;
    let missing = |what| format!("Secret {namespace}/{name} has no {what}");
    let chain = value(secret, &["tls.crt", "cert"]).ok_or_else(|| missing("tls.crt"))?;
    let key = value(secret, &["tls.key", "key"]).ok_or_else(|| missing("tls.key"))?;
    // No value of the Secret is in the message.
    let served = Served::from_pem(chain, key)
        .map_err(|error| format!("Secret {namespace}/{name} cannot be served: {error}"))?;
    Ok((chain, key, served))
}

/// Roots of clients, and the list of what they revoked.
fn roots<'a>(
    view: &View<'a>,
    credential: &Credential,
) -> Result<(&'a [u8], Option<&'a [u8]>), String> {
    let Credential {
        namespace, name, ..
    } = credential;
    let apart = format!("{name}-cacert");
    let secret = held(view, namespace, &apart).or_else(|| held(view, namespace, name));
    let secret = secret.ok_or_else(|| format!("no Secret {apart} in namespace {namespace}"))?;
    let roots = value(secret, &["cacert", "ca.crt"]).ok_or_else(|| {
        format!("neither Secret {apart} nor {name} of namespace {namespace} has cacert or ca.crt")
    })?;
    Ok((roots, value(secret, &["ca.crl", "crl"])))
}

/// Whether a server can use a credential, and why not.
pub(crate) fn check(view: &View<'_>, credential: &Credential) -> Result<(), String> {
    let there = held(view, &credential.namespace, &credential.name).is_some();
    if there && view.redacted() {
        return Ok(());
    }
    if !credential.roots {
        return certificate(view, credential).map(drop);
    }
    let (roots, revoked) = roots(view, credential)?;
    let clients = Clients {
        roots: roots.to_vec(),
        revoked: revoked.unwrap_or_default().to_vec(),
        ..Clients::default()
    };
    // A configuration without certificate is of no use, but says whether roots and list can be read.
    let settings = Settings {
        certificates: Vec::new(),
        clients: Some(clients),
        lowest: Version::Tls13,
        highest: Version::Tls13,
        suites: Vec::new(),
        curves: Vec::new(),
        alpn: Vec::new(),
    };
    let name = &credential.name;
    server(&settings)
        .map(drop)
        .map_err(|error| format!("the roots of Secret {name} cannot be used: {error}"))
}

fn inline(bytes: &[u8]) -> Option<DataSource> {
    Some(DataSource {
        specifier: Some(Specifier::InlineBytes(bytes.to_vec())),
        ..DataSource::default()
    })
}

/// Whether a proxy of the namespace may have it: of sidecars where a Sidecar of the namespace names it, or a
/// DestinationRule that selects workloads.
fn named(view: &View<'_>, credential: &Credential, class: &Class) -> bool {
    if class.role == Role::Gateway {
        return true;
    }
    let key = (credential.namespace.clone(), credential.name.clone());
    if view.read(Read::Shown).shown.contains(&key) {
        return true;
    }
    let own = Read::Sidecars(credential.namespace.clone());
    let root = view.read(Read::Sidecars(ROOT_NAMESPACE.to_owned()));
    let all = [credential.namespace.as_str(), ROOT_NAMESPACE].map(|name| root.sidecars.get(name));
    view.read(own);
    let sidecars = all.into_iter().flatten().flat_map(|all| all.iter());
    sidecars
        .filter_map(|object| object.sidecar())
        .flat_map(|sidecar| &sidecar.ingress)
        .filter_map(|entry| entry.tls.as_deref())
        .any(|tls| tls.secrets().any(|name| name == credential.name))
}

/// The secret, for proxies of its namespace.
pub(crate) fn resource(view: &View<'_>, credential: &Credential, class: &Class) -> Option<Built> {
    if class.namespace != credential.namespace || !named(view, credential, class) {
        return None;
    }
    let name = credential.to_string();
    let (kind, content) = if credential.roots {
        let (roots, revoked) = roots(view, credential).ok()?;
        let context = CertificateValidationContext {
            trusted_ca: inline(roots),
            crl: revoked.and_then(inline),
            ..CertificateValidationContext::default()
        };
        let content = [roots, revoked.unwrap_or_default()].concat();
        (secret::Type::ValidationContext(context), content)
    } else {
        let (chain, key, _) = certificate(view, credential).ok()?;
        let certificate = TlsCertificate {
            certificate_chain: inline(chain),
            private_key: inline(key),
            ..TlsCertificate::default()
        };
        (
            secret::Type::TlsCertificate(certificate),
            [chain, key].concat(),
        )
    };
    // A version is shown in status; it must not be a fast hash of a key.
    let digest = naka_identity::sha256_hex(&content);
    let message = Secret {
        name: name.clone(),
        r#type: Some(kind),
    };
    Some(Built::new(&(name, digest), naka_wire::pack(&message)))
}

#[cfg(test)]
mod tests {
    use super::Credential;

    #[test]
    fn names_on_the_wire() {
        for (name, roots) in [
            ("kubernetes://edge/shop", false),
            ("kubernetes://edge/shop/cacert", true),
            ("kubernetes://edge/shop-cacert", false),
        ] {
            let credential = Credential::parse(name).unwrap();
            assert_eq!(credential.roots, roots);
            assert_eq!(credential.to_string(), name);
        }
        for bad in [
            "default",
            "kubernetes://edge",
            "kubernetes:///a",
            "kubernetes://a/b/c",
        ] {
            assert_eq!(Credential::parse(bad), None, "{bad}");
        }
    }
}

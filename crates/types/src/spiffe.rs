//! SPIFFE identities: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.

use crate::host::check_label;
use std::fmt;

/// Trust domain used unless one is set.
pub const DEFAULT_TRUST_DOMAIN: &str = "cluster.local";

/// Why a text is no identity of a mesh.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a mesh identity: expected spiffe://<trust domain>/ns/<namespace>/sa/<service account>"
)]
pub struct Invalid(pub String);

/// Identity of a workload. Comparison is exact: SPIFFE ids are case-sensitive, and only lower case is accepted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    trust_domain: String,
    namespace: String,
    service_account: String,
}

impl SpiffeId {
    /// Builds an identity from its parts.
    ///
    /// # Errors
    /// [`Invalid`] when a part is not a DNS name.
    pub fn new(
        trust_domain: &str,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, Invalid> {
        let id = Self {
            trust_domain: trust_domain.to_owned(),
            namespace: namespace.to_owned(),
            service_account: service_account.to_owned(),
        };
        let domain_sound = trust_domain.len() <= 255
            && trust_domain
                .split('.')
                .all(|label| check_label(label).is_ok());
        let account_sound = service_account
            .split('.')
            .all(|label| check_label(label).is_ok());
        if domain_sound && check_label(namespace).is_ok() && account_sound {
            Ok(id)
        } else {
            Err(Invalid(id.to_string()))
        }
    }

    /// Reads the URI form.
    ///
    /// # Errors
    /// [`Invalid`] for every other shape, extra path segments, queries and upper case included.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let invalid = || Invalid(text.to_owned());
        let rest = text.strip_prefix("spiffe://").ok_or_else(invalid)?;
        let parts: Vec<&str> = rest.split('/').collect();
        match parts.as_slice() {
            [domain, "ns", namespace, "sa", account] => {
                Self::new(domain, namespace, account).map_err(|_| invalid())
            }
            _ => Err(invalid()),
        }
    }

    /// Trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// Namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Service account.
    #[must_use]
    pub fn service_account(&self) -> &str {
        &self.service_account
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "spiffe://{}/ns/{}/sa/{}",
            self.trust_domain, self.namespace, self.service_account
        )
    }
}

#[cfg(test)]
mod tests {
    use super::SpiffeId;

    #[test]
    fn only_the_mesh_form_is_an_identity() {
        let text = "spiffe://cluster.local/ns/default/sa/payment";
        assert_eq!(SpiffeId::parse(text).unwrap().to_string(), text);
        for bad in [
            "",
            "spiffe://cluster.local/ns/default/sa/",
            "spiffe://cluster.local/ns/default/sa/a/b",
            "SPIFFE://cluster.local/ns/default/sa/a",
            "spiffe://cluster.local/ns/Default/sa/a",
            "spiffe:///ns/default/sa/a",
            "spiffe://cluster.local/ns/default/sa/a?x",
            "spiffe://cluster.local/ns/default/sa/a\0b",
            "https://cluster.local/ns/default/sa/a",
        ] {
            assert!(SpiffeId::parse(bad).is_err(), "{bad}");
        }
    }
}

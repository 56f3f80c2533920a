//! Host names of the mesh: `<svc>.<ns>.svc.cluster.local`, and how short names resolve.

use std::fmt;

/// Suffix of every service host, also without Kubernetes.
pub const DOMAIN: &str = "svc.cluster.local";
/// Namespace used when none is given.
pub const DEFAULT_NAMESPACE: &str = "default";
/// Namespace whose objects hold for the whole mesh.
pub const ROOT_NAMESPACE: &str = "istio-system";

/// Why a text is no host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// A character or shape that DNS names do not have.
    #[error("{0:?} is not a host name: use letters, digits, '-' and '.', at most 253 characters")]
    Host(String),
    /// A namespace, service or workload name that Kubernetes would refuse.
    #[error(
        "{0:?} is not a name: use lower-case letters, digits and '-', start and end with a letter or digit, at most 63 characters"
    )]
    Label(String),
}

/// A lower-case DNS name or IP literal without port; may start with `*.` or be `*` where patterns are allowed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Host(String);

impl Host {
    /// Checks and lower-cases a host; one trailing dot is dropped.
    ///
    /// # Errors
    /// [`Invalid::Host`] when a label is empty, too long or has a character outside `[a-z0-9-_]`.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let invalid = || Invalid::Host(text.to_owned());
        let trimmed = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        if trimmed == "*" || trimmed.parse::<std::net::IpAddr>().is_ok() {
            return Ok(Self(trimmed));
        }
        let body = trimmed.strip_prefix("*.").unwrap_or(&trimmed);
        let sound = !body.is_empty()
            && trimmed.len() <= 253
            && body.split('.').all(|label| {
                !label.is_empty()
                    && label.len() <= 63
                    && label
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            });
        if sound {
            Ok(Self(trimmed))
        } else {
            Err(invalid())
        }
    }

    /// The host of a service: `<service>.<namespace>.svc.cluster.local`.
    #[must_use]
    pub fn of_service(service: &str, namespace: &str) -> Self {
        Self(format!("{service}.{namespace}.{DOMAIN}"))
    }

    /// Resolves a name as written in an object or by a program of `namespace`: `payment`, `payment.prod`,
    /// `payment.prod.svc` and the full name lead to one host; anything else is returned as it is.
    ///
    /// # Errors
    /// As [`Host::parse`].
    pub fn resolve(text: &str, namespace: &str) -> Result<Self, Invalid> {
        let host = Self::parse(text)?;
        if host.0.starts_with('*') || host.0.parse::<std::net::IpAddr>().is_ok() {
            return Ok(host);
        }
        let labels: Vec<&str> = host.0.split('.').collect();
        Ok(match labels.as_slice() {
            [service] if *service != "localhost" => Self::of_service(service, namespace),
            [service, ns, "svc"] => Self::of_service(service, ns),
            _ => host,
        })
    }

    /// `(service, namespace)` of a service host, `None` for any other host.
    #[must_use]
    pub fn service(&self) -> Option<(&str, &str)> {
        let rest = self.0.strip_suffix(DOMAIN)?.strip_suffix('.')?;
        let (service, namespace) = rest.split_once('.')?;
        (!service.is_empty() && !namespace.is_empty() && !namespace.contains('.'))
            .then_some((service, namespace))
    }

    /// Whether this is a pattern (`*` or `*.example.com`).
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with('*')
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Key of a host in the name filter that every proxy holds. Part of the wire format: it never changes.
#[must_use]
pub fn filter_key(host: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64(host.as_bytes())
}

/// Checks a Kubernetes-style name (DNS label, RFC 1123).
///
/// # Errors
/// [`Invalid::Label`] with the text.
pub fn check_label(text: &str) -> Result<(), Invalid> {
    let bytes = text.as_bytes();
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let sound = bytes.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes
            .iter()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-');
    if sound {
        Ok(())
    } else {
        Err(Invalid::Label(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::{Host, check_label};

    #[test]
    fn short_names_resolve_in_the_callers_namespace() {
        for (text, want) in [
            ("payment", "payment.shop.svc.cluster.local"),
            ("payment.prod.svc", "payment.prod.svc.cluster.local"),
            (
                "Payment.prod.svc.cluster.local.",
                "payment.prod.svc.cluster.local",
            ),
            ("example.com", "example.com"),
            ("localhost", "localhost"),
            ("127.0.0.1", "127.0.0.1"),
            ("*.example.com", "*.example.com"),
        ] {
            assert_eq!(
                Host::resolve(text, "shop").unwrap().as_str(),
                want,
                "{text}"
            );
        }
        for bad in ["", "a..b", "a b", "a/b", ".a", &"a".repeat(64)] {
            assert!(Host::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_service_host_names_its_service() {
        assert_eq!(Host::of_service("a", "b").service(), Some(("a", "b")));
        for other in [
            "svc.cluster.local",
            "a.svc.cluster.local",
            "a.b.c.svc.cluster.local",
            "x.y",
        ] {
            assert_eq!(Host::parse(other).unwrap().service(), None, "{other}");
        }
    }

    #[test]
    fn labels_are_checked() {
        assert!(check_label("a-1").is_ok());
        for bad in ["", "A", "-a", "a-", "a.b", &"a".repeat(64)] {
            assert!(check_label(bad).is_err(), "{bad}");
        }
    }
}

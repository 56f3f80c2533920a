//! From what a person types (`vs`, `VirtualService/payment`) to a kind, a name and an API path.

use crate::exit::{Exit, Outcome};
use naka_api::Kind;

/// A kind, and a name when one was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// Kind.
    pub(crate) kind: Kind,
    /// Name.
    pub(crate) name: Option<String>,
}

impl Target {
    /// Reads `KIND`, `KIND/NAME`, or `KIND` and `NAME`.
    pub(crate) fn parse(kind: &str, name: Option<&str>) -> Outcome<Self> {
        let (word, inner) = kind
            .split_once('/')
            .map_or((kind, None), |(word, name)| (word, Some(name)));
        if inner.is_some() && name.is_some() {
            return Err(Exit::usage(format!("{kind} already names one object")));
        }
        Ok(Self {
            kind: self::kind(word)?,
            name: inner.or(name).filter(|n| !n.is_empty()).map(str::to_owned),
        })
    }

    /// As [`Target::parse`], with a name.
    pub(crate) fn one(kind: &str, name: Option<&str>) -> Outcome<(Kind, String)> {
        let target = Self::parse(kind, name)?;
        let name = target
            .name
            .ok_or_else(|| Exit::usage(format!("which {}? write {kind}/NAME", target.kind)))?;
        Ok((target.kind, name))
    }
}

/// The kind a person means.
pub(crate) fn kind(word: &str) -> Outcome<Kind> {
    Kind::of_word(word).ok_or_else(|| {
        let known: Vec<&str> = Kind::all().map(|kind| kind.names().plural).collect();
        Exit::usage(format!("no kind {word:?}; known: {}", known.join(", ")))
    })
}

/// API path of a kind's collection; `namespace` empty = all namespaces.
pub(crate) fn collection(kind: Kind, namespace: &str) -> String {
    let names = kind.names();
    let root = if names.group.is_empty() {
        format!("/api/{}", names.storage_version)
    } else {
        format!("/apis/{}/{}", names.group, names.storage_version)
    };
    if names.namespaced && !namespace.is_empty() {
        format!("{root}/namespaces/{namespace}/{}", names.plural)
    } else {
        format!("{root}/{}", names.plural)
    }
}

/// API path of one object.
pub(crate) fn object(kind: Kind, namespace: &str, name: &str) -> String {
    format!("{}/{name}", collection(kind, namespace))
}

#[cfg(test)]
mod tests {
    use super::{Target, collection, object};
    use naka_api::Kind;

    #[test]
    fn kinds_are_read_as_people_type_them() {
        for (kind, name) in [
            ("vs/payment", None),
            ("VirtualService", Some("payment")),
            ("virtualservices", Some("payment")),
        ] {
            assert_eq!(
                Target::one(kind, name).unwrap(),
                (Kind::VirtualService, "payment".to_owned())
            );
        }
        assert_eq!(Target::parse("svc", None).unwrap().name, None);
        assert_eq!(Target::parse("nonsense", None).unwrap_err().code, 64);
        assert_eq!(Target::parse("vs/a", Some("b")).unwrap_err().code, 64);
        assert_eq!(Target::one("vs", None).unwrap_err().code, 64);
    }

    #[test]
    fn paths_are_those_of_kubernetes() {
        assert_eq!(
            collection(Kind::Service, "a"),
            "/api/v1/namespaces/a/services"
        );
        assert_eq!(collection(Kind::Namespace, "a"), "/api/v1/namespaces");
        assert_eq!(
            collection(Kind::VirtualService, ""),
            "/apis/networking.istio.io/v1/virtualservices"
        );
        assert_eq!(
            object(Kind::Gateway, "a", "b"),
            "/apis/networking.istio.io/v1/namespaces/a/gateways/b"
        );
    }
}

//! Header operations of routes and weighted destinations.
//!
//! Order as in Envoy: remove, then set, then add; the weighted destination's operations come before the route's.
//! Pseudo-headers, framing headers and `x-naka-*` cannot be edited: they belong to the mesh. A set of `Host` is
//! taken over by the intake as a host rewrite, as Istio does.

use super::Error;
use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Operations on one header map.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HeaderEdits {
    remove: Box<[HeaderName]>,
    set: Box<[(HeaderName, HeaderValue)]>,
    add: Box<[(HeaderName, HeaderValue)]>,
}

impl HeaderEdits {
    /// Checks and makes a list of operations.
    ///
    /// # Errors
    /// [`Error::Header`] with the name of a header that is none, may not be edited, or has an impossible value.
    pub fn new<'a>(
        set: impl IntoIterator<Item = (&'a str, &'a str)>,
        add: impl IntoIterator<Item = (&'a str, &'a str)>,
        remove: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, Error> {
        let pair = |(name, value): (&str, &str)| {
            let value = HeaderValue::from_str(value).map_err(|_| Error::Header(name.to_owned()))?;
            Ok((editable(name)?, value))
        };
        Ok(Self {
            remove: remove.into_iter().map(editable).collect::<Result<_, _>>()?,
            set: set.into_iter().map(pair).collect::<Result<_, _>>()?,
            add: add.into_iter().map(pair).collect::<Result<_, _>>()?,
        })
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    /// Carries the operations out.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name.clone(), value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name.clone(), value.clone());
        }
    }
}

fn editable(name: &str) -> Result<HeaderName, Error> {
    let fail = || Error::Header(name.to_owned());
    let name = HeaderName::try_from(name).map_err(|_| fail())?;
    let framing = [
        header::HOST,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::CONNECTION,
        header::UPGRADE,
    ];
    if framing.contains(&name) || name.as_str().starts_with("x-naka-") {
        return Err(fail());
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::HeaderEdits;
    use http::HeaderMap;

    #[test]
    fn remove_then_set_then_add() {
        let mut headers = HeaderMap::new();
        headers.append("a", "old".parse().unwrap());
        headers.append("b", "old".parse().unwrap());
        headers.append("b", "older".parse().unwrap());
        HeaderEdits::new(
            [("b", "new"), ("c", "1")],
            [("b", "more"), ("a", "back")],
            ["a"],
        )
        .unwrap()
        .apply(&mut headers);
        let b: Vec<_> = headers.get_all("b").iter().collect();
        assert_eq!(b, ["new", "more"]);
        assert_eq!(headers["a"], "back");
        assert_eq!(headers["c"], "1");
    }

    #[test]
    fn framing_pseudo_and_broken_headers_are_refused() {
        for bad in [
            "host",
            "Content-Length",
            ":path",
            "a b",
            "x-naka-reason",
            "",
        ] {
            assert!(HeaderEdits::new([(bad, "x")], [], []).is_err(), "{bad}");
            assert!(HeaderEdits::new([], [], [bad]).is_err(), "{bad}");
        }
        assert!(HeaderEdits::new([("a", "b\r\nc: d")], [], []).is_err());
    }
}

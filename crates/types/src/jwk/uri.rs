//! Where a set of keys is fetched from: an address of the web, taken apart once.
//!
//! No user and password (they would stand in findings and logs), no fragment, no letters that could end a request's
//! line: whoever writes the object must not be able to write a second request behind the first.

use std::fmt;

/// An address of keys.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyUri {
    text: String,
    tls: bool,
    host: String,
    port: u16,
    path: String,
}

/// Why a text is no address of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Neither http nor https.
    #[error("it begins with neither https:// nor http://")]
    Scheme,
    /// A user, maybe with a password.
    #[error("it names a user; what is behind it would be read by everybody who reads this object")]
    User,
    /// No host, or none that can be.
    #[error("its host is none")]
    Host,
    /// No port that can be.
    #[error("its port is none")]
    Port,
    /// A letter that stands in no address, or a fragment.
    #[error("it holds letters that stand in no address of a document (spaces, #, …)")]
    Letters,
}

impl KeyUri {
    /// Takes an address apart.
    ///
    /// # Errors
    /// [`Invalid`] names the part that is none.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        if !text.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
            return Err(Invalid::Letters);
        }
        let (tls, rest) = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
            _ => return Err(Invalid::Scheme),
        };
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.contains('@') {
            return Err(Invalid::User);
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(inside) => {
                let (host, after) = inside.split_once(']').ok_or(Invalid::Host)?;
                host.parse::<std::net::Ipv6Addr>()
                    .map_err(|_| Invalid::Host)?;
                let port = match after {
                    "" => None,
                    after => Some(after.strip_prefix(':').ok_or(Invalid::Port)?),
                };
                (host, port)
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let letter = |b: u8| b.is_ascii_alphanumeric() || b"-._:".contains(&b);
        if host.is_empty() || !host.bytes().all(letter) {
            return Err(Invalid::Host);
        }
        let port = match port {
            None => [80, 443][usize::from(tls)],
            Some(text) if text.bytes().all(|b| b.is_ascii_digit()) => {
                let port = text.parse().map_err(|_| Invalid::Port)?;
                if port == 0 {
                    return Err(Invalid::Port);
                }
                port
            }
            Some(_) => return Err(Invalid::Port),
        };
        let path = match path.as_bytes().first() {
            Some(b'/') => path.to_owned(),
            _ => format!("/{path}"),
        };
        Ok(Self {
            text: text.to_owned(),
            tls,
            host: host.to_ascii_lowercase(),
            port,
            path,
        })
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it is https.
    #[must_use]
    pub fn tls(&self) -> bool {
        self.tls
    }

    /// Host in lower case, an address of IPv6 without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Path and query, from the first slash.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Host and port as a request names them.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        };
        if self.port == [80, 443][usize::from(self.tls)] {
            host
        } else {
            format!("{host}:{}", self.port)
        }
    }
}

impl fmt::Display for KeyUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::{Invalid, KeyUri};

    #[test]
    fn parts_of_an_address() {
        for (text, tls, host, port, path, authority) in [
            (
                "https://a.example/keys?v=1",
                true,
                "a.example",
                443,
                "/keys?v=1",
                "a.example",
            ),
            (
                "HTTP://A.example:8080",
                false,
                "a.example",
                8080,
                "/",
                "a.example:8080",
            ),
            ("http://[::1]:81/k", false, "::1", 81, "/k", "[::1]:81"),
            ("https://[::1]?a", true, "::1", 443, "/?a", "[::1]"),
        ] {
            let uri = KeyUri::parse(text).unwrap();
            assert_eq!(
                (uri.tls(), uri.host(), uri.port()),
                (tls, host, port),
                "{text}"
            );
            assert_eq!(
                (uri.path(), uri.authority().as_str()),
                (path, authority),
                "{text}"
            );
            assert_eq!(uri.as_str(), text);
        }
    }

    #[test]
    fn what_is_no_address_is_named() {
        for (text, why) in [
            ("", Invalid::Scheme),
            ("ftp://a/", Invalid::Scheme),
            ("a.example/keys", Invalid::Scheme),
            ("file:///etc/passwd", Invalid::Scheme),
            ("https:///keys", Invalid::Host),
            ("https://a_%/keys", Invalid::Host),
            ("https://[::1/keys", Invalid::Host),
            ("https://[a]/keys", Invalid::Host),
            ("https://[::1]8/keys", Invalid::Port),
            ("https://a:0/", Invalid::Port),
            ("https://a:/", Invalid::Port),
            ("https://a:99999/", Invalid::Port),
            ("https://a:+8/", Invalid::Port),
            ("https://u:p@a/", Invalid::User),
            ("https://a/#k", Invalid::Letters),
            ("http://a/ HTTP/1.1\r\nx: y", Invalid::Letters),
            ("http://a/\u{e9}", Invalid::Letters),
        ] {
            assert_eq!(KeyUri::parse(text), Err(why), "{text}");
        }
    }
}

//! A request that asks for a WebSocket, in either version of HTTP, and how it is passed on in either.
//!
//! HTTP/1.1 says `Upgrade: websocket` and is answered 101; HTTP/2 says CONNECT with `:protocol` (RFC 8441) and is
//! answered 200. Between two versions the proxy is the other end of the handshake: towards HTTP/1.1 it brings the key
//! that HTTP/2 has not, towards an HTTP/1.1 caller it proves that it read the caller's. The request is made the one of
//! HTTP/1.1 first, so that routes and policies see one form.
//!
//! Only WebSocket passes. An upgrade to h2c is ignored, as RFC 9110 lets a server do, because a tunnel to a program
//! would go around every rule (Envoy does the same); any other one is refused.

use super::proxy::base64;
use http::header::{CONNECTION, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version, request, response};
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;

const WEBSOCKET: &str = "websocket";
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
/// Of RFC 6455, section 1.3.
const MAGIC: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The caller's end of a connection that is to change its protocol.
#[derive(Debug)]
pub(crate) struct Switch {
    caller: OnUpgrade,
    /// It asked by CONNECT.
    by_connect: bool,
    /// What it is to be proved that its request was read with.
    key: Option<HeaderValue>,
}

/// What a request wants its connection to become.
#[derive(Debug)]
pub(crate) enum Asked {
    /// Nothing else than it is.
    Nothing,
    /// A WebSocket.
    WebSocket(Switch),
    /// Something that does not pass here.
    Other,
}

/// Makes a CONNECT for a WebSocket the GET of HTTP/1.1; says whether it was one.
pub(crate) fn by_connect(parts: &mut request::Parts) -> bool {
    let asked = parts.method == Method::CONNECT
        && parts
            .extensions
            .get::<Protocol>()
            .is_some_and(|p| p.as_str().eq_ignore_ascii_case(WEBSOCKET));
    if asked {
        parts.method = Method::GET;
        parts.extensions.remove::<Protocol>();
    }
    asked
}

/// What is asked for; `upgrade` is what `Upgrade` said, if `Connection` named it.
pub(crate) fn asked(
    upgrade: Option<&HeaderValue>,
    by_connect: bool,
    caller: Option<OnUpgrade>,
    headers: &mut HeaderMap,
) -> Asked {
    let is =
        |word: &str| upgrade.is_some_and(|u| u.as_bytes().eq_ignore_ascii_case(word.as_bytes()));
    match caller {
        Some(caller) if by_connect || is(WEBSOCKET) => {
            let key = headers.get(SEC_WEBSOCKET_KEY).cloned();
            Asked::WebSocket(Switch {
                caller,
                by_connect,
                key,
            })
        }
        _ if upgrade.is_none() => Asked::Nothing,
        _ if is("h2c") => {
            headers.remove(HTTP2_SETTINGS);
            Asked::Nothing
        }
        _ => Asked::Other,
    }
}

/// Makes a request head ask the next hop for it.
pub(crate) fn ask(head: &mut Request<()>) {
    if head.version() == Version::HTTP_2 {
        *head.method_mut() = Method::CONNECT;
        head.extensions_mut()
            .insert(Protocol::from_static(WEBSOCKET));
        head.headers_mut().remove(SEC_WEBSOCKET_KEY);
        return;
    }
    let headers = head.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
    if !headers.contains_key(SEC_WEBSOCKET_KEY) {
        let key = base64(&naka_identity::random_bytes::<16>());
        if let Ok(key) = HeaderValue::from_str(&key) {
            headers.insert(SEC_WEBSOCKET_KEY, key);
        }
    }
}

/// Whether an answer says that the next hop switched.
pub(crate) fn switched(asked_in: Version, status: StatusCode) -> bool {
    match asked_in {
        Version::HTTP_2 => status.is_success(),
        _ => status == StatusCode::SWITCHING_PROTOCOLS,
    }
}

impl Switch {
    /// Whether it was asked for by CONNECT.
    pub(crate) fn by_connect(&self) -> bool {
        self.by_connect
    }

    /// Makes the answer to the caller, and gives its end of the connection.
    pub(crate) fn answer(self, head: &mut response::Parts) -> OnUpgrade {
        let headers = &mut head.headers;
        if self.by_connect {
            head.status = StatusCode::OK;
            for name in [CONNECTION, UPGRADE, SEC_WEBSOCKET_ACCEPT] {
                headers.remove(name);
            }
            return self.caller;
        }
        head.status = StatusCode::SWITCHING_PROTOCOLS;
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
        if !headers.contains_key(SEC_WEBSOCKET_ACCEPT)
            && let Some(key) = &self.key
        {
            let proof = naka_identity::sha1(&[key.as_bytes(), MAGIC].concat());
            if let Ok(proof) = HeaderValue::from_str(&base64(&proof)) {
                headers.insert(SEC_WEBSOCKET_ACCEPT, proof);
            }
        }
        self.caller
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connect_for_a_websocket_becomes_a_get_and_no_other_does() {
        for (method, protocol, want) in [
            ("CONNECT", Some("websocket"), true),
            ("CONNECT", Some("WebSocket"), true),
            ("CONNECT", Some("connect-udp"), false),
            ("CONNECT", None, false),
            ("GET", Some("websocket"), false),
        ] {
            let mut request = Request::builder().method(method).body(()).unwrap();
            if let Some(protocol) = protocol {
                request.extensions_mut().insert(Protocol::from(protocol));
            }
            let mut parts = request.into_parts().0;
            assert_eq!(by_connect(&mut parts), want, "{method} {protocol:?}");
            assert_eq!(parts.method == Method::GET, want || method == "GET");
        }
    }

    #[test]
    fn what_is_asked_of_either_version() {
        let mut one = Request::new(());
        ask(&mut one);
        assert_eq!(one.headers()["upgrade"], "websocket");
        assert_eq!(one.headers()["sec-websocket-key"].len(), 24);
        let mut two = Request::new(());
        *two.version_mut() = Version::HTTP_2;
        two.headers_mut()
            .insert(SEC_WEBSOCKET_KEY, HeaderValue::from_static("x"));
        ask(&mut two);
        assert_eq!(two.method(), Method::CONNECT);
        assert!(two.headers().is_empty());
        assert_eq!(
            two.extensions().get::<Protocol>().unwrap().as_str(),
            WEBSOCKET
        );
    }

    #[test]
    fn only_a_websocket_passes() {
        for (upgrade, want) in [
            (None, "Nothing"),
            (Some("h2c"), "Nothing"),
            (Some("H2C"), "Nothing"),
            // Without the caller's end there is nothing to switch.
            (Some("websocket"), "Other"),
            (Some("tls/1.0"), "Other"),
            (Some("h2c, websocket"), "Other"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(HTTP2_SETTINGS, HeaderValue::from_static("AA"));
            let value = upgrade.map(HeaderValue::from_static);
            let got = format!("{:?}", asked(value.as_ref(), false, None, &mut headers));
            assert_eq!(got, want, "{upgrade:?}");
        }
    }

    #[test]
    fn what_switched_means_depends_on_how_it_was_asked() {
        for (version, status, want) in [
            (Version::HTTP_11, 101, true),
            (Version::HTTP_11, 200, false),
            (Version::HTTP_2, 200, true),
            (Version::HTTP_2, 404, false),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(switched(version, status), want, "{version:?} {status}");
        }
    }
}

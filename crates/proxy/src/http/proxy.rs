//! The forward-proxy side of the outbound listener: who may use it, and CONNECT.
//!
//! Loopback is no authentication: a caller is the workload itself if the kernel says that its uid made the connection,
//! or if it shows the credential of the proxy variables. A tunnel to a mesh name is looked into and treated like a
//! captured connection; a tunnel elsewhere is bytes.

use super::body::RespBody;
use super::reply;
use crate::io::Io;
use crate::seen::count;
use crate::tcp::{dial, serve};
use crate::worker::{Conn, Own};
use http::header::{HeaderMap, HeaderName, PROXY_AUTHORIZATION};
use http::{Request, Response};
use hyper::body::Incoming;
use naka_engine::canonical::{Authority, Origin};
use naka_types::reason::Reason;
use std::rc::Rc;
use std::sync::Arc;

/// Whether the caller is the workload itself.
pub(crate) fn may_use(conn: &Conn, headers: &HeaderMap) -> bool {
    conn.by_owner
        || headers
            .get(PROXY_AUTHORIZATION)
            .is_some_and(|shown| is_credential(&conn.worker.own, shown.as_bytes()))
}

fn is_credential(own: &Own, shown: &[u8]) -> bool {
    let Some(wanted) = &own.credential else {
        return false;
    };
    let Some((scheme, token)) = shown.split_at_checked(6) else {
        return false;
    };
    let wanted = base64(wanted.as_bytes());
    let token = token.trim_ascii();
    // Compared in full whatever differs, so that time tells nothing.
    let differing = token
        .iter()
        .zip(wanted.as_bytes())
        .fold(0, |sum, (a, b)| sum | (a ^ b));
    scheme.eq_ignore_ascii_case(b"basic ") && token.len() == wanted.len() && differing == 0
}

pub(super) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = (0..3).fold(0usize, |bits, i| {
            bits << 8 | usize::from(group.get(i).copied().unwrap_or(0))
        });
        for place in 0..4 {
            let digit = DIGITS[bits >> (18 - 6 * place) & 63];
            text.push(if place <= group.len() {
                char::from(digit)
            } else {
                '='
            });
        }
    }
    text
}

/// Takes away what only a mesh proxy may send.
pub(crate) fn strip_internal(headers: &mut HeaderMap) {
    let internal: Vec<HeaderName> = headers
        .keys()
        .filter(|name| naka_types::header::is_internal(name.as_str()))
        .cloned()
        .collect();
    for name in internal {
        headers.remove(name);
    }
}

/// Answers CONNECT: 200 once it is clear that the tunnel leads somewhere.
pub(crate) async fn connect(conn: Rc<Conn>, mut request: Request<Incoming>) -> Response<RespBody> {
    let http1 = request.version() <= http::Version::HTTP_11;
    let refused = |reason, detail: &str| {
        super::serve::refuse(&conn, reason, detail);
        // What came for the tunnel already is no request.
        reply::last(reason, false, http1)
    };
    let target = request
        .uri()
        .authority()
        .map(|a| Authority::parse(a.as_str().as_bytes()));
    let Some(Ok(target)) = target else {
        return refused(Reason::BadRequest, "CONNECT without host and port");
    };
    let Some(port) = target.port() else {
        return refused(Reason::BadRequest, "CONNECT without port");
    };
    let host: Arc<str> = target.host().into();
    let tunnel = hyper::upgrade::on(&mut request);
    match dial::virtual_host(&conn, &host, port).await {
        Err(reason) => refused(reason, &host),
        Ok(Some(_)) => {
            count(&conn.worker.seen.tunnelled);
            conn.is_tunnel();
            tokio::task::spawn_local(async move {
                if let Ok(upgraded) = tunnel.await {
                    serve::captured(conn, Io::upgraded(upgraded), host, port).await;
                }
            });
            Response::new(RespBody::Empty)
        }
        Ok(None) => {
            // Connected first, so that the caller learns of a failure in a status and not by a closed tunnel.
            let mut origin = Origin::outbound(port);
            origin.address = Some(conn.remote.ip());
            origin.destination = Some((Arc::clone(&host), port));
            match dial::dial(&conn, &origin).await {
                Err(failed) => refused(failed.reason, &failed.detail),
                Ok(dialled) => {
                    count(&conn.worker.seen.tunnelled);
                    conn.is_tunnel();
                    tokio::task::spawn_local(async move {
                        if let Ok(upgraded) = tunnel.await {
                            serve::relay(conn, Io::upgraded(upgraded), dialled).await;
                        }
                    });
                    Response::new(RespBody::Empty)
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn base64_has_padding() {
        for (plain, want) in [
            ("", ""),
            ("a", "YQ=="),
            ("ab", "YWI="),
            ("user:password", "dXNlcjpwYXNzd29yZA=="),
        ] {
            assert_eq!(base64(plain.as_bytes()), want);
        }
    }
}

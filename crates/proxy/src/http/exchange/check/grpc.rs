//! Questions and answers of `envoy.service.auth.v3.Authorization`.
//!
//! Values of a header that came more than once are told together, with commas, as Envoy does; none is left out. Bytes of
//! a header that are no text are told as such.

use super::Run;
use crate::http::body::ReqBody;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, TE};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version, response,
};
use naka_engine::canonical::Canonical;
use naka_engine::exchange::{CHECK, Changes, Checked, Denial, Edit, How, PARTIAL_BODY, free};
use naka_types::header as names;
use naka_wire::envoy::config::core::v3::{
    Address, HeaderValueOption, SocketAddress, address, header_value_option::HeaderAppendAction,
    socket_address::PortSpecifier,
};
use naka_wire::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request as About};
use naka_wire::envoy::service::auth::v3::{
    AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
    check_response::HttpResponse,
};
use naka_wire::google::protobuf::Timestamp;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

const PATH: &str = "/envoy.service.auth.v3.Authorization/Check";
const STATUS: &str = "grpc-status";

/// The call, ready to be sent.
pub(super) fn request(authority: &HeaderValue, message: Bytes) -> Request<ReqBody> {
    let mut out = Request::new(ReqBody::Once(Some(message)));
    *out.method_mut() = Method::POST;
    *out.uri_mut() = Uri::from_static(PATH);
    let headers = out.headers_mut();
    headers.insert(HOST, authority.clone());
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.insert(CHECK, HeaderValue::from_static("1"));
    out
}

/// What is asked about a request.
pub(super) fn question(run: &Run, told: Option<&(Bytes, bool)>, as_bytes: bool) -> Bytes {
    let conn = &run.scope.conn;
    let origin = &run.scope.origin;
    let own = conn.worker.tls();
    let own = own.map_or_else(String::new, |set| set.svid().spiffe.to_string());
    let caller = origin.source.as_ref();
    let caller = caller.map_or_else(String::new, |source| source.identity.to_string());
    let remote = SocketAddr::new(
        origin.address.unwrap_or(conn.remote.ip()),
        conn.remote.port(),
    );
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let time = Timestamp {
        seconds: i64::try_from(now.as_secs()).unwrap_or_default(),
        nanos: i32::try_from(now.subsec_nanos()).unwrap_or_default(),
    };
    let scheme = if origin.tls { "https" } else { "http" };
    let attributes = AttributeContext {
        source: Some(peer(remote, caller)),
        destination: Some(peer(conn.local, own)),
        request: Some(About {
            time: Some(time),
            http: Some(http(
                &run.request,
                scheme,
                run.caller_version,
                told,
                as_bytes,
            )),
        }),
        ..AttributeContext::default()
    };
    naka_wire::grpc::frame(&CheckRequest {
        attributes: Some(attributes),
    })
}

fn peer(at: SocketAddr, principal: String) -> Peer {
    let socket = SocketAddress {
        address: at.ip().to_string(),
        port_specifier: Some(PortSpecifier::PortValue(u32::from(at.port()))),
        ..SocketAddress::default()
    };
    Peer {
        address: Some(Address {
            address: Some(address::Address::SocketAddress(socket)),
        }),
        principal,
        ..Peer::default()
    }
}

fn http(
    request: &Canonical,
    scheme: &str,
    version: Version,
    told: Option<&(Bytes, bool)>,
    as_bytes: bool,
) -> HttpRequest {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let mut headers: HashMap<String, String> = HashMap::new();
    for (name, value) in request.headers() {
        if *name == CHECK || *name == PARTIAL_BODY {
            continue;
        }
        headers
            .entry(name.as_str().to_owned())
            .and_modify(|all| {
                all.push(',');
                all.push_str(&text(value));
            })
            .or_insert_with(|| text(value));
    }
    let pseudo = [
        (":authority", request.authority()),
        (":method", request.method().as_str()),
        (":path", request.target()),
        (":scheme", scheme),
    ];
    headers.extend(pseudo.map(|(name, value)| (name.to_owned(), value.to_owned())));
    if let Some((_, partial)) = told {
        headers.insert(PARTIAL_BODY.as_str().to_owned(), partial.to_string());
    }
    let length = request.headers().get(http::header::CONTENT_LENGTH);
    let length = length.and_then(|value| value.to_str().ok()?.parse().ok());
    let body = told.map(|(bytes, _)| bytes);
    HttpRequest {
        id: headers.get(names::REQUEST_ID).cloned().unwrap_or_default(),
        method: request.method().to_string(),
        path: request.target().to_owned(),
        host: request.authority().to_owned(),
        scheme: scheme.to_owned(),
        size: length.unwrap_or(-1),
        protocol: match version {
            Version::HTTP_2 => "HTTP/2",
            Version::HTTP_10 => "HTTP/1.0",
            _ => "HTTP/1.1",
        }
        .to_owned(),
        body: body
            .filter(|_| !as_bytes)
            .map_or_else(String::new, |bytes| {
                String::from_utf8_lossy(bytes).into_owned()
            }),
        raw_body: body
            .filter(|_| as_bytes)
            .map_or_else(Vec::new, |bytes| bytes.to_vec()),
        headers,
        ..HttpRequest::default()
    }
}

/// What an answer says.
///
/// # Errors
/// Why it says nothing.
pub(super) fn answer(
    head: &response::Parts,
    body: &[u8],
    trailers: &HeaderMap,
) -> Result<Checked, String> {
    if head.status != StatusCode::OK {
        return Err(format!("it answered {}", head.status));
    }
    let status = trailers.get(STATUS).or_else(|| head.headers.get(STATUS));
    match status.map(HeaderValue::as_bytes) {
        Some(b"0") => {}
        Some(other) => return Err(format!("grpc-status {}", String::from_utf8_lossy(other))),
        None => return Err("its answer has no grpc-status".to_owned()),
    }
    let message: CheckResponse = naka_wire::grpc::unframe(body)
        .ok_or_else(|| "its answer is no CheckResponse".to_owned())?;
    let code = message.status.map_or(0, |status| status.code);
    Ok(match (code, message.http_response) {
        (0, Some(HttpResponse::OkResponse(ok))) => Checked::Allowed(Box::new(changes(ok))),
        (0, _) => Checked::Allowed(Box::default()),
        (_, Some(HttpResponse::DeniedResponse(denied))) => {
            Checked::Denied(Box::new(denial(denied)))
        }
        (_, Some(HttpResponse::ErrorResponse(_))) => {
            return Err("it says that it failed".to_owned());
        }
        (_, _) => Checked::Denied(Box::new(denial(DeniedHttpResponse::default()))),
    })
}

fn changes(ok: OkHttpResponse) -> Changes {
    let in_request = |option: HeaderValueOption| {
        let append = append(&option).unwrap_or(false);
        let how = if append { How::AddToOthers } else { How::Set };
        edit(option, how)
    };
    let in_answer = |option: HeaderValueOption| {
        let action = HeaderAppendAction::try_from(option.append_action);
        let how = match (append(&option), action) {
            (Some(false), _) => How::Set,
            (Some(true), _) => How::Add,
            (None, Ok(HeaderAppendAction::AddIfAbsent)) => How::IfAbsent,
            (None, Ok(HeaderAppendAction::OverwriteIfExistsOrAdd)) => How::Set,
            (None, Ok(HeaderAppendAction::OverwriteIfExists)) => How::Replace,
            (None, _) => How::Add,
        };
        edit(option, how)
    };
    let names = ok.headers_to_remove.iter();
    let set = ok.query_parameters_to_set.into_iter();
    Changes {
        remove: names.filter_map(|name| name.parse().ok()).collect(),
        request: ok.headers.into_iter().filter_map(in_request).collect(),
        response: ok
            .response_headers_to_add
            .into_iter()
            .filter_map(in_answer)
            .collect(),
        query_remove: ok.query_parameters_to_remove,
        query_set: set.map(|one| (one.key, one.value)).collect(),
    }
}

/// Whether a value is one more; `None`: it is not said in the old way.
#[expect(
    deprecated,
    reason = "authorizers go on to say it so, and Envoy to read it"
)]
fn append(option: &HeaderValueOption) -> Option<bool> {
    option.append.map(|append| append.value)
}

fn edit(option: HeaderValueOption, how: How) -> Option<Edit> {
    let header = option.header?;
    let name: HeaderName = header.key.parse().ok()?;
    let value = if header.raw_value.is_empty() {
        header.value.into_bytes()
    } else {
        header.raw_value
    };
    free(&name).then_some((name, HeaderValue::try_from(value).ok()?, how))
}

fn denial(denied: DeniedHttpResponse) -> Denial {
    let mut headers = HeaderMap::new();
    for option in denied.headers {
        let append = append(&option).unwrap_or(false);
        if let Some((name, value, _)) = edit(option, How::Set) {
            if append {
                headers.append(name, value);
            } else {
                headers.insert(name, value);
            }
        }
    }
    let code = denied.status.map_or(0, |status| status.code);
    let status = u16::try_from(code)
        .ok()
        .filter(|code| (200..600).contains(code));
    let status = status.and_then(|code| StatusCode::from_u16(code).ok());
    Denial {
        status: status.unwrap_or(StatusCode::FORBIDDEN),
        headers,
        body: denied.body.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Response;
    use naka_wire::envoy::config::core::v3::HeaderValue as Wire;
    use naka_wire::envoy::r#type::v3::HttpStatus;
    use naka_wire::google::protobuf::BoolValue;
    use naka_wire::google::rpc::Status;

    fn says(status: u16, grpc: Option<&str>, body: &[u8]) -> Result<Checked, String> {
        let head = Response::builder().status(status).body(()).unwrap();
        let head = head.into_parts().0;
        let mut trailers = HeaderMap::new();
        if let Some(grpc) = grpc {
            trailers.insert(STATUS, grpc.parse().unwrap());
        }
        answer(&head, body, &trailers)
    }

    fn message(code: i32, more: Option<HttpResponse>) -> Bytes {
        naka_wire::grpc::frame(&CheckResponse {
            status: Some(Status {
                code,
                ..Status::default()
            }),
            http_response: more,
            ..CheckResponse::default()
        })
    }

    fn option(name: &str, value: &str, action: HeaderAppendAction) -> HeaderValueOption {
        HeaderValueOption {
            header: Some(Wire {
                key: name.to_owned(),
                value: value.to_owned(),
                ..Wire::default()
            }),
            append_action: action as i32,
            ..HeaderValueOption::default()
        }
    }

    #[expect(deprecated, reason = "authorizers go on to say it so")]
    fn appended(name: &str, value: &str) -> HeaderValueOption {
        HeaderValueOption {
            append: Some(BoolValue { value: true }),
            ..option(name, value, HeaderAppendAction::default())
        }
    }

    #[test]
    fn what_is_no_answer_lets_nobody_in() {
        let sound = message(0, None);
        assert_eq!(
            says(200, Some("0"), &sound),
            Ok(Checked::Allowed(Box::default()))
        );
        let failed = message(
            7,
            Some(HttpResponse::ErrorResponse(DeniedHttpResponse::default())),
        );
        for (status, grpc, body) in [
            (200, None, &sound[..]),
            (200, Some("14"), &sound),
            (200, Some("00"), &sound),
            (403, Some("0"), &sound),
            (503, None, &[]),
            (200, Some("0"), &[]),
            (200, Some("0"), &sound[..sound.len() - 1]),
            (200, Some("0"), b"\0\0\0\0\x02\xff\xff"),
            (200, Some("0"), &failed),
        ] {
            assert!(
                says(status, grpc, body).is_err(),
                "{status} {grpc:?} {body:?}"
            );
        }
    }

    #[test]
    fn a_refusal_is_one_whatever_it_says_and_403_unless_it_says_a_status() {
        for (code, status) in [(0, 403), (401, 401), (600, 403), (100, 403)] {
            let denied = DeniedHttpResponse {
                status: Some(HttpStatus { code }),
                headers: vec![
                    option("x-why", "a", HeaderAppendAction::default()),
                    appended("x-why", "b"),
                    option("content-length", "9", HeaderAppendAction::default()),
                    option("x-naka-reason", "forged", HeaderAppendAction::default()),
                    option("x bad", "a", HeaderAppendAction::default()),
                ],
                body: "no".to_owned(),
            };
            let body = message(7, Some(HttpResponse::DeniedResponse(denied)));
            let Ok(Checked::Denied(denial)) = says(200, Some("0"), &body) else {
                panic!("{code} refuses");
            };
            assert_eq!(denial.status.as_u16(), status, "{code}");
            let why: Vec<_> = denial.headers.get_all("x-why").iter().collect();
            assert_eq!(why, ["a", "b"]);
            assert_eq!(denial.headers.len(), 2);
        }
        // A code that refuses is one beside an answer that would let pass, or none.
        for more in [
            None,
            Some(HttpResponse::OkResponse(OkHttpResponse::default())),
        ] {
            let said = says(200, Some("0"), &message(16, more));
            assert!(matches!(said, Ok(Checked::Denied(_))), "{said:?}");
        }
    }

    #[test]
    fn changes_are_read_as_an_envoy_reads_them() {
        let ok = OkHttpResponse {
            headers: vec![
                option("x-set", "a", HeaderAppendAction::default()),
                appended("x-add", "b"),
                option(":path", "/root", HeaderAppendAction::default()),
                option("host", "b", HeaderAppendAction::default()),
            ],
            headers_to_remove: vec!["x-gone".to_owned(), "x bad".to_owned()],
            response_headers_to_add: vec![
                option("x-1", "a", HeaderAppendAction::AppendIfExistsOrAdd),
                option("x-2", "a", HeaderAppendAction::AddIfAbsent),
                option("x-3", "a", HeaderAppendAction::OverwriteIfExistsOrAdd),
                option("x-4", "a", HeaderAppendAction::OverwriteIfExists),
            ],
            ..OkHttpResponse::default()
        };
        let body = message(0, Some(HttpResponse::OkResponse(ok)));
        let Ok(Checked::Allowed(changes)) = says(200, Some("0"), &body) else {
            panic!("it passes");
        };
        let hows = |all: &[Edit]| all.iter().map(|(_, _, how)| *how).collect::<Vec<_>>();
        assert_eq!(hows(&changes.request), [How::Set, How::AddToOthers]);
        assert_eq!(
            hows(&changes.response),
            [How::Add, How::IfAbsent, How::Set, How::Replace]
        );
        assert_eq!(changes.remove, ["x-gone"]);
    }
}

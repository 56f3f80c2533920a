//! The canonical form as a table, and as properties on random bytes.

use super::{Caller, Canonical, Origin};
use http::{HeaderMap, Method, Request, Version, header};
use naka_types::reason::Reason;
use proptest::prelude::{any, prop, proptest};

fn parts(method: &str, target: &str, headers: &[(&str, &str)]) -> http::request::Parts {
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn canonical(target: &str, headers: &[(&str, &str)]) -> Result<Canonical, Reason> {
    Canonical::from_parts(parts("GET", target, headers), &Origin::outbound(80))
        .map_err(|r| r.reason)
}

#[test]
fn one_form_for_every_spelling() {
    for (target, host, want_target, want_authority, port) in [
        ("/a", Some("payment"), "/a", "payment", 80),
        (
            "/a/../b?c=..",
            Some("Payment.:80"),
            "/b?c=..",
            "payment:80",
            80,
        ),
        ("http://payment/a", Some("payment"), "/a", "payment", 80),
        (
            "http://payment:80/a",
            Some("payment"),
            "/a",
            "payment:80",
            80,
        ),
        ("http://PAYMENT:8080", None, "/", "payment:8080", 8080),
        ("http://payment?x=1", None, "/?x=1", "payment", 80),
        ("/%61%2f", Some("[::1]:9"), "/a%2F", "[::1]:9", 9),
    ] {
        let headers: Vec<_> = host.iter().map(|h| ("host", *h)).collect();
        let got = canonical(target, &headers).unwrap();
        assert_eq!(
            (got.target(), got.authority(), got.port()),
            (want_target, want_authority, port),
            "{target}"
        );
        let again = Canonical::from_parts(
            got.head(Version::HTTP_11).into_parts().0,
            &Origin::outbound(80),
        );
        let again = again.unwrap();
        assert_eq!(
            (again.target(), again.authority()),
            (got.target(), got.authority())
        );
    }
}

#[test]
fn what_is_ambiguous_is_refused() {
    let host = ("host", "a");
    for (target, headers, why) in [
        ("/", &[][..], "no host"),
        ("/", &[host, host], "two hosts"),
        ("/", &[("host", "")], "empty host"),
        ("/", &[("host", "u@a")], "user name"),
        ("http://u@a/", &[host], "user name in target"),
        ("http://b/", &[host], "other host"),
        ("http://a:81/", &[host], "other port"),
        ("https://a/", &[host], "https in the clear"),
        ("/%00", &[host], "NUL"),
        ("/%zz", &[host], "broken escape"),
        ("/%c0%af", &[host], "overlong"),
        ("a:80", &[host], "authority form"),
        ("*", &[host], "asterisk"),
        (
            "/",
            &[host, ("content-length", "1"), ("content-length", "1")],
            "two lengths",
        ),
        ("/", &[host, ("content-length", "+1")], "signed length"),
        ("/", &[host, ("content-length", "1, 1")], "list of lengths"),
        (
            "/",
            &[
                host,
                ("content-length", "1"),
                ("transfer-encoding", "chunked"),
            ],
            "two framings",
        ),
        (
            "/",
            &[host, ("transfer-encoding", "gzip, chunked")],
            "coding",
        ),
        (
            "/",
            &[
                host,
                ("transfer-encoding", "chunked"),
                ("transfer-encoding", "x"),
            ],
            "two codings",
        ),
    ] {
        assert_eq!(
            canonical(target, headers).err(),
            Some(Reason::BadRequest),
            "{why}"
        );
    }
    assert!(canonical("/", &[host, ("transfer-encoding", "Chunked")]).is_ok());
    let connect = parts("CONNECT", "a:80", &[host]);
    assert!(Canonical::from_parts(connect, &Origin::outbound(80)).is_err());
    let options = parts("OPTIONS", "*", &[host]);
    let options = Canonical::from_parts(options, &Origin::outbound(80)).unwrap();
    assert_eq!(options.target(), "*");
}

#[test]
fn limits_hold() {
    let host = ("host", "a");
    assert!(canonical(&format!("/{}", "a".repeat(8000)), &[host]).is_ok());
    let long = canonical(&format!("/{}", "a".repeat(8192)), &[host]);
    assert_eq!(long.err(), Some(Reason::UriTooLong));
    let value = "v".repeat(1000);
    let many: Vec<_> = (0..70)
        .map(|_| ("x", value.as_str()))
        .chain([host])
        .collect();
    assert_eq!(canonical("/", &many).err(), Some(Reason::HeadersTooLarge));
    let fields: Vec<_> = (0..100).map(|_| ("x", "")).chain([host]).collect();
    assert_eq!(canonical("/", &fields).err(), Some(Reason::HeadersTooLarge));
    assert!(canonical("/", &fields[1..]).is_ok());
}

#[test]
fn the_head_goes_upstream_in_the_form_of_its_version() {
    let mut got = canonical("http://Payment:8080/a//b?q", &[("x", "1")]).unwrap();
    let two = got.head(Version::HTTP_2);
    assert_eq!(two.uri(), "http://payment:8080/a//b?q");
    assert!(!two.headers().contains_key(header::HOST));
    let one = got.take_head(Version::HTTP_11);
    assert_eq!(
        (one.uri().to_string().as_str(), &one.headers()["host"]),
        ("/a//b?q", &"payment:8080".parse().unwrap())
    );
    assert_eq!(
        (one.method(), one.version()),
        (&Method::GET, Version::HTTP_11)
    );
    assert!(got.headers().is_empty());
    got.give_back(one.into_parts().0.headers);
    assert_eq!(got.headers().len(), 1);
}

#[test]
fn http_1_0_needs_a_host_or_a_known_destination() {
    let mut old = parts("GET", "/", &[]);
    old.version = Version::HTTP_10;
    let mut origin = Origin::inbound(80, Caller::Outside, false);
    assert!(Canonical::from_parts(old.clone(), &origin).is_err());
    origin.destination = Some(("payment".into(), 80));
    assert_eq!(
        Canonical::from_parts(old, &origin).unwrap().host(),
        "payment"
    );
}

proptest! {
    #[test]
    fn random_heads_never_panic_and_what_is_taken_is_stable(
        target in prop::collection::vec(any::<u8>(), 0..80),
        host in prop::collection::vec(any::<u8>(), 0..40),
        name in "[a-z-]{1,12}", value in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let mut headers = HeaderMap::new();
        for (name, value) in [("host", &host), (name.as_str(), &value)] {
            if let (Ok(name), Ok(value)) = (
                http::HeaderName::try_from(name), http::HeaderValue::from_bytes(value)) {
                headers.append(name, value);
            }
        }
        if let Ok(uri) = http::Uri::try_from(&target[..]) {
            let mut parts = parts("GET", "/", &[]);
            (parts.uri, parts.headers) = (uri, headers);
            let origin = Origin::outbound(80);
            if let Ok(first) = Canonical::from_parts(parts, &origin) {
                let head = first.head(Version::HTTP_11).into_parts().0;
                let second = Canonical::from_parts(head, &origin).expect("a canonical head is canonical");
                assert_eq!((first.target(), first.authority()), (second.target(), second.authority()));
            }
        }
    }
}

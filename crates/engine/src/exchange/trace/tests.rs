//! What is read of a trace's headers, and what is said to the next hop.

use super::{Trace, b3, of_b3, uuid, w3c};
use crate::exchange::tests::{World, always, to, tried};
use http::{HeaderMap, HeaderValue};

const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

fn sent(given: &[(&str, &str)]) -> (HeaderMap, Trace) {
    let mut world = World::new();
    let cluster = world.cluster("a", &[1]);
    world.host(always(to(vec![cluster])));
    let mut request = world.request("GET", "/", given);
    let (exchange, effect) = world.begin(&mut request);
    let _try = tried(effect);
    (request.headers().clone(), *exchange.trace())
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> &'h str {
    headers
        .get(name)
        .map_or("", |value| value.to_str().unwrap())
}

#[test]
fn a_hop_is_the_parent_of_what_comes_after_it() {
    let given = format!("00-{ID}-{SPAN}-01");
    let state = "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE";
    let (headers, trace) = sent(&[("traceparent", &given), ("tracestate", state)]);
    assert_eq!(format!("{:032x}", trace.id), ID);
    assert_eq!(format!("{:016x}", trace.parent), SPAN);
    assert!(trace.sampled && trace.given && trace.span != trace.parent);
    let want = format!("00-{ID}-{:016x}-01", trace.span);
    assert_eq!(text(&headers, "traceparent"), want);
    assert_eq!(text(&headers, "tracestate"), state);
    assert!(!headers.contains_key("b3") && !headers.contains_key("x-b3-traceid"));
    // Later versions may say more; we say what we know.
    let later = format!("cc-{ID}-{SPAN}-00-what-the-future-brings");
    let (headers, trace) = sent(&[("traceparent", &later)]);
    assert!(!trace.sampled && trace.given);
    assert!(text(&headers, "traceparent").starts_with(&format!("00-{ID}-")));
}

#[test]
fn a_trace_that_cannot_be_read_begins_afresh_and_its_state_goes() {
    let upper = ID.to_uppercase();
    let zeros = "0".repeat(32);
    let long = "x".repeat(60_000);
    for hostile in [
        "",
        "00",
        long.as_str(),
        &format!("ff-{ID}-{SPAN}-01"),
        &format!("0x-{ID}-{SPAN}-01"),
        &format!("00-{upper}-{SPAN}-01"),
        &format!("00-{zeros}-{SPAN}-01"),
        &format!("00-{ID}-0000000000000000-01"),
        &format!("00-{ID}-{SPAN}-01-more"),
        &format!("00-{ID}-{SPAN}-0"),
        &format!("00-{ID}-{SPAN}-zz"),
        &format!("01-{ID}-{SPAN}-01more"),
        &format!("00_{ID}_{SPAN}_01"),
        &format!("00-{ID}-{SPAN} -01"),
    ] {
        let (headers, trace) = sent(&[("traceparent", hostile), ("tracestate", "a=b")]);
        assert!(
            !trace.given && trace.parent == 0 && trace.id != 0,
            "{hostile}"
        );
        assert_ne!(format!("{:032x}", trace.id), ID);
        assert!(w3c(text(&headers, "traceparent").as_bytes()).is_some());
        assert_eq!(headers.get_all("traceparent").iter().count(), 1);
        assert!(!headers.contains_key("tracestate"), "{hostile}");
    }
    let sound = format!("00-{ID}-{SPAN}-01");
    let (headers, trace) = sent(&[("traceparent", &sound), ("traceparent", &sound)]);
    assert!(!trace.given, "two of them");
    assert_eq!(headers.get_all("traceparent").iter().count(), 1);
}

#[test]
fn a_state_that_is_none_is_not_passed_on_and_the_trace_is() {
    let parent = format!("00-{ID}-{SPAN}-01");
    let many = vec!["a=b"; 33].join(",");
    let most = vec!["a=b"; 32].join(",");
    let long = format!("a={}", "x".repeat(5000));
    for (state, kept) in [
        (&*many, false),
        (&long, false),
        ("a=\u{e9}", false),
        (&most, true),
    ] {
        let (headers, trace) = sent(&[("traceparent", &parent), ("tracestate", state)]);
        assert_eq!(format!("{:032x}", trace.id), ID);
        assert_eq!(headers.contains_key("tracestate"), kept, "{state}");
    }
}

#[test]
fn b3_is_read_in_both_forms_and_written_as_it_came() {
    let one = format!("{ID}-{SPAN}-1-05e3ac9a4f6e3b90");
    let (headers, trace) = sent(&[("b3", &one)]);
    let span = format!("{:016x}", trace.span);
    assert_eq!(text(&headers, "b3"), format!("{ID}-{span}-1"));
    assert_eq!(text(&headers, "traceparent"), format!("00-{ID}-{span}-01"));
    let several = [
        ("x-b3-traceid", "a3ce929d0e0e4736"),
        ("x-b3-spanid", SPAN),
        ("x-b3-sampled", "0"),
    ];
    let (headers, trace) = sent(&several);
    assert_eq!(trace.id, 0xa3ce_929d_0e0e_4736);
    assert!(!trace.sampled);
    assert_eq!(text(&headers, "x-b3-traceid"), format!("{:032x}", trace.id));
    assert_eq!(
        text(&headers, "x-b3-spanid"),
        format!("{:016x}", trace.span)
    );
    assert_eq!(text(&headers, "x-b3-parentspanid"), SPAN);
    assert_eq!(text(&headers, "x-b3-sampled"), "0");
    // Both: W3C's counts, and both go on.
    let parent = format!("00-{}-{SPAN}-00", ID.replace("4736", "4737"));
    let (headers, trace) = sent(&[("traceparent", &parent), ("b3", &one)]);
    assert!(format!("{:032x}", trace.id).ends_with("4737"));
    assert!(text(&headers, "b3").contains("4737-"));
}

#[test]
fn b3_that_is_none_names_no_trace() {
    for (bad, why) in [
        ("0".to_owned(), "only a decision"),
        ("d".to_owned(), "only a decision"),
        (ID.to_owned(), "no span"),
        (format!("{ID}-{SPAN}-2"), "no decision"),
        (format!("{ID}-{SPAN}-1-05e3ac9a4f6e3b90-x"), "too much"),
        (format!("{ID}-{SPAN}-1-x"), "no parent"),
        (format!("{}-{SPAN}", &ID[1..]), "31 digits"),
        (format!("{}-{SPAN}", "0".repeat(32)), "zero"),
        (format!("{}-{SPAN}", ID.to_uppercase()), "upper case"),
    ] {
        assert_eq!(b3(bad.as_bytes()), None, "{why}");
    }
    let debug = HeaderMap::from_iter(
        [
            ("x-b3-traceid", ID),
            ("x-b3-spanid", SPAN),
            ("x-b3-sampled", "0"),
            ("x-b3-flags", "1"),
        ]
        .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))),
    );
    assert_eq!(of_b3(&debug).unwrap().sampled, Some(true));
}

#[test]
fn a_request_has_the_id_of_its_trace_unless_it_has_one() {
    let (headers, trace) = sent(&[]);
    assert_eq!(headers["x-request-id"], uuid(trace.id));
    assert_eq!(
        text(&headers, "x-request-id").replace('-', ""),
        format!("{:032x}", trace.id)
    );
    let (headers, _) = sent(&[("x-request-id", "mine")]);
    assert_eq!(text(&headers, "x-request-id"), "mine");
}

#[test]
fn chance_decides_where_nobody_did_and_as_often_as_it_was_told() {
    for (per_myriad, least, most) in [(0, 0, 0), (100, 1, 60), (10_000, 2000, 2000)] {
        let mut world = World::new();
        let cluster = world.cluster("a", &[1]);
        world.host(always(to(vec![cluster])));
        world.around.sampled_per_myriad = per_myriad;
        let sampled = (0..2000).filter(|_| {
            let mut request = world.request("GET", "/", &[]);
            world.begin(&mut request).0.trace().sampled
        });
        let sampled = sampled.count();
        assert!((least..=most).contains(&sampled), "{per_myriad}: {sampled}");
    }
}

//! Trees of spans, clocks that differ, what is missing, and the cause.

use super::{full, summary};
use crate::traces::{Held, Trace, Who};
use naka_wire::v1::Span;
use naka_wire::v1::span::Kind;
use serde_json::Value;
use std::collections::HashSet;
use std::sync::Arc;

/// A span: id, parent, whose, kind, start and duration in ms.
fn span(id: u64, parent: u64, kind: Kind, start: u64, took: u64) -> Span {
    Span {
        trace_id: 7u128.to_be_bytes().to_vec(),
        span_id: id,
        parent_id: parent,
        kind: kind.into(),
        start_us: 1_700_000_000_000_000 + start * 1000,
        duration_us: took * 1000,
        status: 200,
        method: "GET".to_owned(),
        path: "/".to_owned(),
        to_mesh: kind == Kind::Client,
        caller: if kind == Kind::Server && parent != 0 {
            "01".to_owned()
        } else {
            String::new()
        },
        attempts: 1,
        ..Span::default()
    }
}

fn put(trace: &mut Trace, who: &str, span: Span) {
    let who = Arc::new(Who {
        id: who.to_owned(),
        workload: format!("{who}-1"),
        service: who.to_owned(),
        version: "v1".to_owned(),
        account: who.to_owned(),
        namespace: "shop".to_owned(),
    });
    let key = (span.span_id, who.id.clone());
    trace.spans.insert(key, Held { span, who });
}

/// order → user ✓, order → payment → bank, which fails as the closure says.
fn chain(edit: impl Fn(&mut Span)) -> Trace {
    let mut trace = Trace::default();
    let mut all = [
        ("order", span(1, 0, Kind::Server, 0, 100)),
        ("order", span(2, 1, Kind::Client, 1, 5)),
        ("user", span(3, 2, Kind::Server, 2, 3)),
        ("order", span(4, 1, Kind::Client, 10, 80)),
        ("payment", span(5, 4, Kind::Server, 11, 78)),
        ("payment", span(6, 5, Kind::Client, 12, 70)),
        ("bank", span(7, 6, Kind::Server, 13, 68)),
    ];
    for (who, span) in &mut all {
        edit(span);
        put(&mut trace, who, span.clone());
    }
    trace
}

fn shown(trace: &Trace) -> Value {
    full(7, trace, &HashSet::new())
}

#[test]
fn calls_are_told_in_order_with_how_they_went() {
    let trace = chain(|span| {
        if span.span_id >= 4 || span.span_id == 1 {
            span.status = 503;
        }
    });
    let value = shown(&trace);
    assert_eq!(value["complete"], true, "{value}");
    let flow = value["flow"].as_array().unwrap();
    let lines: Vec<String> = flow
        .iter()
        .map(|call| {
            format!(
                "{} {} {} {}",
                call["from"], call["to"], call["outcome"], call["words"]
            )
            .replace('"', "")
        })
        .collect();
    let want = [
        "outside order error HTTP 503",
        "order user ok ",
        "order payment error HTTP 503",
        "payment bank error HTTP 503",
    ];
    assert_eq!(lines, want);
    assert_eq!(value["cause"]["service"], "bank");
    assert_eq!(value["cause"]["what"], "bank itself answered HTTP 503");
    let depths: Vec<u64> = value["tree"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["depth"].as_u64().unwrap())
        .collect();
    assert_eq!(depths, [0, 1, 2, 1, 2, 3, 4]);
}

#[test]
fn the_cause_is_the_deepest_that_failed_and_not_the_first_in_time() {
    // The first failure, of user, was survived; the one that decided is of bank.
    let trace = chain(|span| match span.span_id {
        2 | 3 => span.status = 500,
        1 | 4 | 5 => span.status = 502,
        6 => {
            span.status = 504;
            span.reason = "request-timeout".to_owned();
        }
        7 => {
            span.status = 0;
            span.reason = "client-gone".to_owned();
            span.slow = true;
        }
        _ => {}
    });
    let value = shown(&trace);
    assert_eq!(value["cause"]["service"], "bank");
    assert!(
        value["cause"]["what"]
            .as_str()
            .unwrap()
            .starts_with("bank took 68"),
        "{value}"
    );
    assert_eq!(value["complete"], true, "{value}");
    // What is only slow is no cause of an error that was made above it.
    let trace = chain(|span| match span.span_id {
        1 | 4 | 5 => span.status = 500,
        6 | 7 => span.slow = true,
        _ => {}
    });
    assert_eq!(shown(&trace)["cause"]["service"], "payment");
}

#[test]
fn whatever_is_not_there_is_named() {
    let mut trace = chain(|span| span.status = 503);
    trace.spans.remove(&(7, "bank".to_owned()));
    let missing = |trace: &Trace| summary(7, trace, &HashSet::new())["missing"].to_string();
    assert!(
        missing(&trace).contains("the request of payment at"),
        "{}",
        missing(&trace)
    );
    // A call that reached nobody has nobody who served it.
    let reached = |trace: &mut Trace, reason: &str| {
        let held = trace.spans.get_mut(&(6, "payment".to_owned())).unwrap();
        held.span.reason = reason.to_owned();
    };
    reached(&mut trace, "connect-failed");
    assert_eq!(missing(&trace), "[]");
    reached(&mut trace, "request-timeout");
    assert_ne!(missing(&trace), "[]");
    let mut above = chain(|_| ());
    above.spans.remove(&(4, "order".to_owned()));
    assert!(missing(&above).contains("the call of payment at its caller"));
    let silent = HashSet::from(["payment".to_owned()]);
    let value = summary(7, &chain(|_| ()), &silent);
    assert_eq!(value["complete"], false);
    assert!(
        value["missing"][0]
            .as_str()
            .unwrap()
            .contains("payment called: it does not pass traceparent on")
    );
    let orphan = chain(|span| span.orphan = span.span_id == 2);
    assert!(missing(&orphan).contains("order does not pass traceparent on"));
    let open = chain(|span| span.unfinished = span.span_id == 7);
    assert!(missing(&open).contains("a request at bank has not ended"));
}

#[test]
fn a_clock_that_is_wrong_moves_a_whole_proxy_and_nothing_else() {
    for hours in [-3i64, 3] {
        let skew = hours * 3_600_000_000;
        let trace = chain(|span| {
            if matches!(span.span_id, 5 | 6) {
                span.start_us = span.start_us.checked_add_signed(skew).unwrap();
            }
        });
        let value = shown(&trace);
        let tree = value["tree"].as_array().unwrap();
        let of = |id: u64| {
            tree.iter()
                .find(|s| s["id"] == format!("{id:016x}"))
                .unwrap()
        };
        let start = |id: u64| of(id)["time_us"].as_i64().unwrap();
        assert_eq!(start(5), start(4) + 1000, "in the middle of its call");
        assert_eq!(start(6), start(5) + 1000, "as far from it as it was");
        assert_eq!(
            start(7),
            of(7)["clock_us"].as_i64().unwrap(),
            "bank's clock is right"
        );
        assert!(
            (value["duration_ms"].as_f64().unwrap() - 100.0).abs() < 0.01,
            "{value}"
        );
    }
}

#[test]
fn circles_and_strangers_make_no_harm() {
    let mut trace = Trace::default();
    assert_eq!(shown(&trace)["complete"], false);
    for (id, parent) in [(1, 2), (2, 1), (3, 3), (4, 99)] {
        put(&mut trace, "a", span(id, parent, Kind::Client, id, 1));
    }
    put(
        &mut trace,
        "a",
        Span {
            start_us: u64::MAX,
            duration_us: u64::MAX,
            ..span(5, 1, Kind::Server, 0, 0)
        },
    );
    let value = shown(&trace);
    assert_eq!(value["tree"].as_array().unwrap().len(), 5);
}

#[test]
fn calls_under_spans_of_the_programs_own_belong_to_what_it_served() {
    let mut trace = Trace::default();
    put(&mut trace, "order", span(1, 0, Kind::Server, 0, 100));
    // Its parent is a span that the program made.
    put(&mut trace, "order", span(2, 77, Kind::Client, 10, 50));
    put(&mut trace, "bank", span(3, 2, Kind::Server, 11, 40));
    let value = shown(&trace);
    let depths: Vec<u64> = value["tree"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["depth"].as_u64().unwrap())
        .collect();
    assert_eq!(
        (depths, value["complete"].as_bool()),
        (vec![0, 1, 2], Some(true))
    );
}

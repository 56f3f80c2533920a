//! Traces of what went wrong, over six services at full speed: one request in so many fails at a hop drawn by chance, half
//! of these failures are swallowed by whoever called, and every one of the traces must arrive whole. How many requests
//! were served of each is counted by the programs.
//!
//! The twin: programs that do not pass `traceparent` on. None of their traces is whole, and `naka status` names them.

use crate::traces::collector::Collectors;
use crate::traces::programs::{Failing, Ground, SERVICES};
use naka_testkit::mesh::SOON;
use naka_testkit::size;
use naka_testkit::wait::until;
use serde_json::Value;
use std::collections::BTreeMap;

mod collector;
mod programs;

/// Requests that fail are one in this many.
const ONE_IN: usize = 1_000;

/// Traces that are held, by their id.
fn held(ground: &Ground) -> BTreeMap<String, Value> {
    let text = ground.mesh.ok(["get", "traces", "-o", "json"]);
    let list: Value = serde_json::from_str(&text).expect("JSON");
    let items = list["items"].as_array().cloned().unwrap_or_default();
    let id = |item: &Value| item["id"].as_str().unwrap_or_default().to_owned();
    items.into_iter().map(|item| (id(&item), item)).collect()
}

/// How many of the failing requests have a trace that is there with all its spans: two for each request that a program
/// served, one at either end.
fn whole(ground: &Ground, failing: &[Failing]) -> usize {
    let held = held(ground);
    let is_whole = |one: &&Failing| {
        held.get(&one.trace).is_some_and(|trace| {
            trace["complete"] == true && trace["spans"].as_u64() == Some(2 * one.served)
        })
    };
    failing.iter().filter(is_whole).count()
}

/// Services whose programs `naka status` says do not pass traces on.
fn named(ground: &Ground) -> Vec<String> {
    let text = ground.mesh.ok(["status", "-o", "json"]);
    let status: Value = serde_json::from_str(&text).expect("JSON");
    let findings = status["findings"].as_array().cloned().unwrap_or_default();
    let silent = findings.iter().filter(|finding| finding["code"] == "W953");
    let words = silent.map(|finding| finding["message"].as_str().unwrap_or_default().to_owned());
    let words: Vec<String> = words.collect();
    let is_named = |service: &&&str| {
        words
            .iter()
            .any(|text| text.contains(&format!("of {service}-")))
    };
    SERVICES
        .iter()
        .filter(is_named)
        .map(|service| (*service).to_owned())
        .collect()
}

#[test]
fn every_trace_that_fails_arrives_whole_from_programs_that_pass_it_on() {
    let mut collectors = Collectors::new();
    let ground = Ground::new(&collectors.options());
    assert_eq!(named(&ground), [""; 0]);

    // The twin.
    let failing = ground.load("/drop", 60, 3);
    assert!(failing.len() >= 20);
    until("the programs are named", SOON, || {
        (named(&ground) == ["order", "payment", "bank"]).then_some(())
    });
    assert_eq!(whole(&ground, &failing), 0, "none can be whole");

    // With those kept by chance no more than `naka get traces` lists.
    let requests = size().pick(2_000, 50_000);
    let one_in = size().pick(ONE_IN / 10, ONE_IN);
    let failing = ground.load("/pass", requests, one_in);
    assert!(failing.len() >= 10, "{} failed", failing.len());
    assert!(failing.iter().any(|one| one.swallowed) && failing.iter().any(|one| !one.swallowed));
    until("traces arrive", SOON, || {
        (whole(&ground, &failing) == failing.len()).then_some(())
    });
    println!(
        "{} of {} failing traces arrived complete, of {requests} requests",
        whole(&ground, &failing),
        failing.len()
    );
    until("who passes traces on is named no more", SOON, || {
        named(&ground).is_empty().then_some(())
    });
    what_is_slow(&ground);
    what_is_shown(&ground);
    what_is_hostile(&ground);
    collectors.have(&ground, &failing);
    collectors.stall(&ground);
}

/// A request that is slow is known of before it has ended.
fn what_is_slow(ground: &Ground) {
    let slow = |held: &BTreeMap<String, Value>| {
        let found = held
            .values()
            .find(|trace| trace["why"] == "slow" && trace["request"] == "POST /pass/slow");
        found.cloned()
    };
    std::thread::scope(|scope| {
        let call = scope.spawn(|| ground.call("/pass/slow", &[("x-slow", "bank")]));
        until("a trace that has not ended", SOON, || {
            let trace = slow(&held(ground))?;
            let missing = trace["missing"].to_string();
            missing.contains("has not ended").then_some(())
        });
        ground.go_on();
        assert_eq!(call.join().expect("a call"), 200);
    });
    until("the same trace, whole", SOON, || {
        (slow(&held(ground))?["complete"] == true).then_some(())
    });
}

/// The page of one request, by the id that its caller got or knows.
fn what_is_shown(ground: &Ground) {
    let id = "0af7651916cd43dd8448eb211c80319c";
    let parent = format!("00-{id}-b7ad6b7169203331-00");
    let headers = [("traceparent", parent.as_str()), ("x-fail", "ledger")];
    assert_eq!(ground.call("/pass/shown", &headers), 500);
    until("the trace", SOON, || {
        (held(ground).get(id)?["complete"] == true).then_some(())
    });
    let page = ground.mesh.ok(["trace", id]);
    let lines: Vec<&str> = page.lines().collect();
    let flow: Vec<String> = lines
        .iter()
        .filter_map(|line| line.split_once("] "))
        .map(|(_, rest)| {
            let (call, mark) = (
                rest.split(" (").next().unwrap_or_default(),
                rest.chars().last(),
            );
            format!("{call} {}", mark.unwrap_or(' '))
        })
        .collect();
    let want = [
        "mouth → order ✗",
        "order → user ✓",
        "order → inventory ✓",
        "order → payment ✗",
        "payment → bank ✗",
        "bank → ledger ✗",
    ];
    assert_eq!(flow, want, "{page}");
    assert!(
        page.contains("Root cause: ledger itself answered HTTP 500"),
        "{page}"
    );
    // A request's id is its trace's, also as a UUID.
    let uuid = "0af76519-16cd-43dd-8448-eb211c80319c";
    assert_eq!(ground.mesh.ok(["trace", uuid]), page);
    let nobody = ground.mesh.naka(["trace", "ffffffff"]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("no trace ffffffff is held"));
}

/// Headers that are none begin another trace; sound ones are followed to the last program.
fn what_is_hostile(ground: &Ground) {
    let id = "4bf92f3577b34da6a3ce929d0e0e4736";
    let sound = format!("00-{id}-00f067aa0ba902b7-00");
    let state = ("tracestate", "rojo=00f067aa0ba902b7");
    let zeros = format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32));
    let long = format!("{sound}-{}", "x".repeat(20_000));
    let upper = sound.to_uppercase();
    for (parent, followed) in [
        (sound.as_str(), true),
        ("00-nonsense", false),
        (zeros.as_str(), false),
        (upper.as_str(), false),
        (long.as_str(), false),
        ("ff", false),
    ] {
        assert_eq!(
            ground.call("/pass/state", &[("traceparent", parent), state]),
            200
        );
        let (got, kept) = ground.last();
        assert_eq!((got == id, kept), (followed, followed), "{parent:.80}");
    }
}

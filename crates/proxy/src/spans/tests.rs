//! The ring and the table of requests under way.

use super::{Flight, Flights, PATH, PLACES, Ring, Slot, is_error, method, number, reason};
use naka_types::reason::Reason;
use std::time::Instant;

fn slot(trace: u128) -> Slot {
    Slot {
        trace,
        span: 1,
        parent: 0,
        start_us: 0,
        duration_us: 0,
        cluster: 0,
        peer: [0; 16],
        port: 0,
        status: 0,
        reason: 0,
        bits: 0,
        method: 0,
        grpc: 0,
        attempts: 0,
        path: [0; PATH],
    }
}

#[test]
fn a_ring_holds_the_newest_in_a_mebibyte() {
    let mut ring = Ring {
        slots: Vec::with_capacity(PLACES),
        next: 0,
    };
    let bytes = ring.slots.capacity() * size_of::<Slot>();
    assert!(bytes <= 1 << 20, "{bytes}");
    let many = PLACES as u128 * 2 + 5;
    (0..many).for_each(|trace| ring.push(slot(trace)));
    assert_eq!(
        ring.slots.capacity() * size_of::<Slot>(),
        bytes,
        "it never grows"
    );
    let mut held: Vec<u128> = ring.slots.iter().map(|slot| slot.trace).collect();
    held.sort_unstable();
    assert!(held.iter().copied().eq(many - PLACES as u128..many));
}

#[test]
fn places_of_requests_that_ended_are_used_again() {
    let mut flights = Flights::default();
    let flight = |trace| Flight {
        slot: slot(trace),
        started: Instant::now(),
        taken: true,
    };
    let (first, second) = (flights.add(flight(1)), flights.add(flight(2)));
    assert_ne!(first, second);
    flights.free.push(first.0);
    assert_eq!(flights.add(flight(3)), first);
    assert_eq!(flights.all.len(), 2);
}

#[test]
fn a_long_path_is_cut_where_a_character_ends() {
    for (path, kept, cut) in [
        ("/pay", "/pay", false),
        ("/aaaaaaaaaaaaaaaaaaaaaa", "/aaaaaaaaaaaaaaaaaaaaaa", false),
        ("/aaaaaaaaaaaaaaaaaaaaaaa", "/aaaaaaaaaaaaaaaaaaaaaa", true),
        (
            "/aaaaaaaaaaaaaaaaaaaaa\u{e9}",
            "/aaaaaaaaaaaaaaaaaaaaa",
            true,
        ),
    ] {
        let mut slot = slot(1);
        slot.set_path(path);
        assert_eq!(slot.path(), kept);
        assert_eq!(slot.bits & super::CUT != 0, cut, "{path}");
    }
}

#[test]
fn only_what_is_not_the_callers_fault_is_an_error() {
    for (status, grpc, why, error) in [
        (200, None, None, false),
        (404, None, Some(Reason::NoRoute), false),
        (403, None, Some(Reason::PermissionDenied), false),
        (0, None, Some(Reason::ClientGone), false),
        (500, None, None, true),
        (503, None, Some(Reason::NoHealthyEndpoints), true),
        (200, None, Some(Reason::UpstreamReset), true),
        (200, Some(0), None, false),
        (200, Some(5), None, false),
        (200, Some(14), None, true),
    ] {
        assert_eq!(
            is_error(status, grpc, why),
            error,
            "{status} {grpc:?} {why:?}"
        );
    }
}

#[test]
fn words_come_back_from_their_numbers() {
    for one in Reason::ALL {
        assert_eq!(reason(number(*one)), Some(*one));
    }
    assert_eq!(reason(0), None);
    assert_eq!(
        super::METHODS.get(usize::from(method("PATCH"))),
        Some(&"PATCH")
    );
    assert_eq!(method("PROPFIND"), super::OTHER);
}

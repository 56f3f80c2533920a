//! Tables of leases: who keeps a name, who is kept, who is removed, and when.

use super::{Claim, Health, Note, Refused, Registration, Registry, ServedPort, State};
use crate::settings::Leases;

fn workload(id: &str, service: &str, account: &str) -> Registration {
    Registration {
        workload_id: id.to_owned(),
        namespace: "default".to_owned(),
        service: service.to_owned(),
        service_account: account.to_owned(),
        labels: [("app".to_owned(), service.to_owned())].into(),
        workload_name: format!("{service}-{id}"),
        ports: vec![ServedPort {
            port: 8080,
            inbound_address: format!(
                "127.0.0.1:{}",
                20_000 + id.len() * 7 + id.bytes().map(usize::from).sum::<usize>()
            ),
            protocol: "http".to_owned(),
            name: String::new(),
            first: true,
        }],
        ip: "127.0.0.1".to_owned(),
        gateway: false,
        capture: String::new(),
        seen_at: String::new(),
    }
}

fn ready(registry: &mut Registry, stream: u64, id: &str, now: u64) -> super::Outcome {
    let registration = workload(id, "payment", "payment");
    registry
        .register(stream, registration, State::Ready, &Claim::Undeclared, now)
        .unwrap()
}

fn health(registry: &Registry, id: &str) -> Option<Option<Health>> {
    registry
        .members()
        .into_iter()
        .find(|m| m.registration.workload_id == id)
        .map(|m| m.health)
}

#[test]
fn a_join_is_stored_and_a_repetition_is_not() {
    let mut registry = Registry::new(Leases::default());
    let first = ready(&mut registry, 1, "A", 0);
    assert!(matches!(
        first.notes.as_slice(),
        [
            Note::Own { .. },
            Note::Put {
                event: "registration.join",
                ready: true,
                ..
            }
        ]
    ));
    assert!(first.changed && !first.urgent);
    let second = ready(&mut registry, 1, "A", 5);
    assert!(second.notes.is_empty() && !second.changed);
}

#[test]
fn a_starting_workload_is_no_endpoint_until_it_is_ready() {
    let mut registry = Registry::new(Leases::default());
    let registration = workload("A", "payment", "payment");
    registry
        .register(1, registration, State::Starting, &Claim::Undeclared, 0)
        .unwrap();
    assert_eq!(health(&registry, "A"), Some(None));
    let outcome = ready(&mut registry, 1, "A", 1);
    assert!(matches!(
        outcome.notes.as_slice(),
        [Note::Put {
            event: "registration.change",
            ready: true,
            ..
        }]
    ));
    assert_eq!(health(&registry, "A"), Some(Some(Health::Healthy)));
}

#[test]
fn what_was_seen_is_shown_and_changes_nothing_else() {
    let mut registry = Registry::new(Leases::default());
    ready(&mut registry, 1, "A", 0);
    let seen = super::Seen {
        http: 3,
        bypassed: 1,
        ..super::Seen::default()
    };
    registry.saw("A", seen);
    registry.saw("nobody", seen);
    assert_eq!(registry.seen("A"), seen);
    assert_eq!(registry.seen("nobody"), super::Seen::default());
    let again = ready(&mut registry, 1, "A", 5);
    assert!(again.notes.is_empty() && !again.changed && !again.urgent);
    assert_eq!(registry.seen("A"), seen);
}

#[test]
fn what_a_proxy_found_out_is_shown_while_it_is_connected() {
    let mut registry = Registry::new(Leases::default());
    ready(&mut registry, 1, "A", 0);
    let verdict = super::Verdict {
        kind: "breaker",
        cluster: "outbound|80||a".to_owned(),
        address: String::new(),
        since_ms: 0,
        until_ms: 0,
    };
    registry.found("A", vec![verdict.clone()]);
    registry.found("nobody", vec![verdict.clone()]);
    assert_eq!(registry.verdicts("A"), [verdict]);
    assert_eq!(registry.verdicts("nobody"), []);
    let again = ready(&mut registry, 1, "A", 5);
    assert!(again.notes.is_empty() && !again.changed && !again.urgent);
    registry.lost(1, 6);
    assert_eq!(registry.verdicts("A"), []);
}

#[test]
fn a_lost_stream_is_unhealthy_after_5_s_and_gone_after_60() {
    let mut registry = Registry::new(Leases::default());
    ready(&mut registry, 1, "A", 0);
    registry.tick(60_000);
    registry.lost(1, 100_000);
    assert_eq!(health(&registry, "A"), Some(Some(Health::Healthy)));
    assert_eq!(registry.deadline(100_000), Some(105_000));
    assert!(!registry.tick(104_999).changed);
    assert!(registry.tick(105_000).urgent);
    assert_eq!(health(&registry, "A"), Some(Some(Health::Unhealthy)));
    assert_eq!(registry.deadline(105_000), Some(160_000));
    let gone = registry.tick(160_000);
    assert!(gone.urgent && matches!(gone.notes.as_slice(), [Note::Leave { .. }]));
    assert_eq!(health(&registry, "A"), None);
    // The name stays with its owner.
    assert_eq!(registry.owner("default", "payment"), Some("payment"));
}

#[test]
fn a_replaced_stream_does_not_count_as_lost_and_a_return_heals() {
    let mut registry = Registry::new(Leases::default());
    ready(&mut registry, 1, "A", 0);
    ready(&mut registry, 2, "A", 1);
    assert!(!registry.lost(1, 2).changed);
    registry.lost(2, 3);
    registry.tick(10_000);
    assert_eq!(health(&registry, "A"), Some(Some(Health::Unhealthy)));
    assert!(ready(&mut registry, 3, "A", 11_000).changed);
    assert_eq!(health(&registry, "A"), Some(Some(Health::Healthy)));
}

#[test]
fn nothing_restored_is_removed_or_worse_within_the_grace_time() {
    let mut registry = Registry::new(Leases::default());
    registry.restore(workload("A", "payment", "payment"), true);
    registry.restore(workload("BB", "order", "order"), true);
    assert!(!registry.tick(59_999).changed);
    assert_eq!(health(&registry, "A"), Some(Some(Health::Healthy)));
    // Coming back with the same words is no event.
    let back = ready(&mut registry, 1, "A", 30_000);
    assert!(
        back.notes
            .iter()
            .all(|note| matches!(note, Note::Own { .. }))
    );
    let over = registry.tick(60_000);
    assert!(over.urgent);
    assert_eq!(health(&registry, "A"), Some(Some(Health::Healthy)));
    assert_eq!(health(&registry, "BB"), None);
}

#[test]
fn a_mass_vanishing_removes_nothing_and_says_so() {
    let mut registry = Registry::new(Leases::default());
    let ids: Vec<String> = (0..12).map(|n| "X".repeat(n + 1)).collect();
    for (stream, id) in (0..).zip(&ids) {
        ready(&mut registry, stream, id, 0);
    }
    registry.tick(60_000);
    for stream in 0..5 {
        registry.lost(stream, 100_000 + stream);
    }
    registry.tick(500_000);
    assert_eq!(registry.members().len(), 12);
    assert_eq!(registry.guarded().len(), 5);
    assert_eq!(health(&registry, &ids[0]), Some(Some(Health::Unhealthy)));
    registry.tick(100_004 + 3_600_000);
    assert_eq!(registry.members().len(), 7);
    // The twin: four of twelve are no third, and are removed.
    for stream in 5..7 {
        registry.lost(stream, 5_000_000);
    }
    registry.tick(5_100_000);
    assert_eq!(registry.members().len(), 5);
}

#[test]
fn the_first_owner_keeps_an_undeclared_name() {
    let mut registry = Registry::new(Leases::default());
    ready(&mut registry, 1, "A", 0);
    let thief = workload("BB", "payment", "delivery");
    let refused = registry
        .register(2, thief.clone(), State::Ready, &Claim::Undeclared, 1)
        .unwrap_err();
    assert!(matches!(refused, Refused::Owned { ref owner, .. } if owner == "payment"));
    assert_eq!(registry.members().len(), 1);
    let claim = Claim::Declared(vec!["payment".into(), "delivery".into()]);
    assert!(registry.register(2, thief, State::Ready, &claim, 2).is_ok());
}

#[test]
fn draining_and_goodbye_are_urgent() {
    let mut registry = Registry::new(Leases::default());
    ready(&mut registry, 1, "A", 0);
    let registration = workload("A", "payment", "payment");
    let draining = registry
        .register(
            1,
            registration.clone(),
            State::Draining,
            &Claim::Undeclared,
            1,
        )
        .unwrap();
    assert!(draining.urgent && draining.notes.is_empty());
    assert_eq!(health(&registry, "A"), Some(Some(Health::Draining)));
    let gone = registry
        .register(1, registration, State::Gone, &Claim::Undeclared, 2)
        .unwrap();
    assert!(gone.urgent && registry.members().is_empty());
}

#[test]
fn a_workload_at_the_address_of_a_vanished_one_takes_its_place() {
    let mut registry = Registry::new(Leases::default());
    ready(&mut registry, 1, "A", 0);
    registry.lost(1, 1);
    let mut successor = workload("BB", "payment", "payment");
    successor.ports = workload("A", "payment", "payment").ports;
    registry
        .register(2, successor, State::Ready, &Claim::Undeclared, 2)
        .unwrap();
    assert_eq!(health(&registry, "A"), None);
    assert_eq!(registry.members().len(), 1);
}

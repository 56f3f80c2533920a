//! Tables of who is near to whom.

use super::{Caller, Distribute, LABEL, Locality, Nearness, REGION, Rank, Standing, ZONE};
use crate::labels::Labels;
use std::collections::BTreeMap;

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

/// Priorities and weights of endpoints at these places, each with these labels.
fn ranks(
    near: &Nearness,
    from: (&str, &[(&str, &str)]),
    to: &[(&str, &[(&str, &str)])],
) -> Vec<String> {
    with_siblings(near, from, to, &[])
}

fn with_siblings(
    near: &Nearness,
    (place, own): (&str, &[(&str, &str)]),
    to: &[(&str, &[(&str, &str)])],
    siblings: &[(&str, u64)],
) -> Vec<String> {
    let siblings: BTreeMap<Locality, u64> = siblings
        .iter()
        .map(|(place, n)| (Locality::parse(place), *n))
        .collect();
    let there: Vec<(Locality, Labels)> = to
        .iter()
        .map(|(place, own)| (Locality::parse(place), labels(own)))
        .collect();
    let standing: Vec<Standing<'_>> = there
        .iter()
        .map(|(locality, labels)| Standing {
            locality,
            labels,
            healthy: true,
        })
        .collect();
    let caller = Caller {
        locality: &Locality::parse(place),
        labels: &labels(own),
        siblings: &siblings,
    };
    near.rank(&caller, &standing)
        .into_iter()
        .map(|rank| match rank {
            None => "-".to_owned(),
            Some(Rank {
                priority,
                weight: 0,
            }) => format!("{priority}"),
            Some(Rank { priority, weight }) => format!("{priority}:{weight}"),
        })
        .collect()
}

#[test]
fn a_locality_is_read_from_text_and_labels() {
    let whole = Locality::parse("in/mumbai/rack1");
    assert_eq!(
        Locality::of_labels(&labels(&[(LABEL, "in.mumbai.rack1")])),
        whole
    );
    assert_eq!(
        Locality::of_labels(&labels(&[(REGION, "in"), (ZONE, "mumbai")])),
        Locality::parse("in/mumbai")
    );
    assert_eq!(whole.to_string(), "in/mumbai/rack1");
    assert_eq!(Locality::parse("in").to_string(), "in");
    assert!(Locality::of_labels(&Labels::new()).is_empty());
    for (pattern, takes) in [
        ("*", true),
        ("in", true),
        ("in/*", true),
        ("in/mumbai/*", true),
        ("in/mumbai/rack1", true),
        ("in/mumbai/rack2", false),
        ("in/pune", false),
        ("us/*", false),
    ] {
        assert_eq!(whole.matches(pattern), takes, "{pattern}");
    }
}

#[test]
fn places_rank_by_distance_without_gaps() {
    let near = Nearness::default();
    let from = ("in/mumbai/r1", &[][..]);
    let to: &[(&str, &[(&str, &str)])] = &[
        ("us/east", &[]),
        ("in/mumbai/r1", &[]),
        ("in/pune", &[]),
        ("in/mumbai/r2", &[]),
    ];
    assert_eq!(ranks(&near, from, to), ["3", "0", "2", "1"]);
    assert_eq!(ranks(&near, from, &to[..3]), ["2", "0", "1"]);
    assert_eq!(ranks(&near, ("", &[]), &[("", &[]), ("", &[])]), ["0", "0"]);
}

#[test]
fn a_named_region_takes_over_before_the_others() {
    let near = Nearness {
        failover: vec![("in".into(), "sg".into()), ("us".into(), "eu".into())],
        ..Nearness::default()
    };
    let to: &[(&str, &[(&str, &str)])] = &[("in", &[]), ("sg", &[]), ("us", &[])];
    assert_eq!(ranks(&near, ("in", &[]), to), ["0", "1", "2"]);
    assert_eq!(
        ranks(&near, ("eu", &[]), to),
        ["0", "0", "0"],
        "no rule: all alike"
    );
}

#[test]
fn labels_decide_in_their_order() {
    let near = Nearness {
        failover_priority: vec![REGION.into(), "version".into()],
        ..Nearness::default()
    };
    let to: &[(&str, &[(&str, &str)])] = &[
        ("in/a", &[("version", "v1")]),
        ("in/b", &[("version", "v2")]),
        ("us", &[("version", "v1")]),
    ];
    let from = ("in/x", &[("version", "v1")][..]);
    assert_eq!(ranks(&near, from, to), ["0", "1", "2"]);
    let fixed = Nearness {
        failover_priority: vec!["version=v2".into()],
        ..Nearness::default()
    };
    assert_eq!(ranks(&fixed, from, to), ["1", "0", "1"]);
}

#[test]
fn shares_go_where_they_are_named_and_nowhere_else() {
    let near = Nearness {
        distribute: vec![Distribute {
            from: "in/*".into(),
            to: vec![("in/mumbai".into(), 80), ("us/*".into(), 20)],
        }],
        ..Nearness::default()
    };
    let to: &[(&str, &[(&str, &str)])] = &[
        ("in/mumbai", &[]),
        ("us/east", &[]),
        ("us/west", &[]),
        ("us/west", &[]),
        ("sg", &[]),
    ];
    let from_in = ranks(&near, ("in/pune", &[]), to);
    assert_eq!(from_in, ["0:80", "0:7", "0:14", "0:14", "-"]);
    assert_eq!(ranks(&near, ("us", &[]), to), ["0", "0", "0", "0", "0"]);
}

#[test]
fn zones_keep_what_they_can_carry() {
    let near = |least| Nearness {
        zone_aware: Some(least),
        ..Nearness::default()
    };
    let to: &[(&str, &[(&str, &str)])] = &[
        ("in/a", &[]),
        ("in/b", &[]),
        ("in/b", &[]),
        ("in/b", &[]),
        ("us/a", &[]),
    ];
    // Two callers in a, two in b: a has a quarter of the endpoints for half of the calls.
    let from_a = with_siblings(&near(4), ("in/a", &[]), to, &[("in/a", 2), ("in/b", 2)]);
    assert_eq!(from_a, ["0:5000", "0:5000", "0:5000", "0:5000", "1"]);
    let from_b = with_siblings(&near(4), ("in/b", &[]), to, &[("in/a", 2), ("in/b", 2)]);
    assert_eq!(from_b, ["0", "0:10000", "0:10000", "0:10000", "1"]);
    let few = with_siblings(&near(5), ("in/a", &[]), to, &[("in/a", 2), ("in/b", 2)]);
    assert_eq!(few, ["0", "0", "0", "0", "1"], "too few endpoints");
}

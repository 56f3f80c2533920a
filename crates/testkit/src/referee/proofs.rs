//! Which field is proven by which case: without the field, or with another value, some request of the case gets
//! another verdict.
//!
//! `cases/proofs-by-case.txt` is the list, made by `NAKA_WRITE_DOCS=1 cargo test -p naka-testkit --lib proofs`; the page
//! `docs/reference/fields.md` names the cases from it. A case that sees a field both left out and changed is preferred.

use super::case::{File, paths, root};
use super::fields::{Field, Seen, listed, proven};
use naka_api::Kind;
use naka_api::schema::Now;
use naka_api::schema::flat::{Row, rows};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

fn enforced(kind: Kind) -> impl Iterator<Item = Field> {
    let does = |row: &Row| row.named() && !row.block() && matches!(row.now, Now::Yes);
    let all = rows(kind).into_iter().filter(does);
    all.map(move |row| (kind, row.path))
}

/// Looks through all cases for everything they prove: minutes, so only when the list is written. A field that no case
/// sees both left out and changed has a line for each of two cases.
fn search() -> String {
    let mut known: BTreeMap<Field, Vec<(Seen, String)>> = BTreeMap::new();
    for path in paths().expect("cases") {
        let file = File::read(&path).expect("a case");
        let all = file.objects().expect("objects");
        let wanted = all.objects.iter().flat_map(|object| enforced(object.kind));
        let done = |key: &Field| {
            let known = known.get(key).into_iter().flatten();
            known.into_iter().any(|(seen, _)| both(*seen))
        };
        let wanted = wanted.filter(|key| !done(key)).collect();
        for (key, seen) in proven(&file, &all, &wanted) {
            let cases = known.entry(key).or_default();
            if both(seen) {
                cases.clear();
            }
            let mut joined = Seen::default();
            cases.iter().for_each(|(seen, _)| joined.join(*seen));
            let before = joined;
            joined.join(seen);
            if joined != before {
                cases.push((seen, format!("cases/{}", file.name)));
            }
        }
    }
    let mut text = String::from(
        "# Fields and the case that proves each: with the field taken out or changed, a request of the case gets another\n\
         # verdict. Made by NAKA_WRITE_DOCS=1 cargo test -p naka-testkit --lib proofs; do not edit.\n",
    );
    for ((kind, path), cases) in &known {
        for (_, name) in cases {
            let _ = writeln!(text, "{kind} {path} {name}");
        }
    }
    text
}

fn both(seen: Seen) -> bool {
    seen.absent && seen.boundary
}

#[test]
fn every_case_proves_the_fields_it_is_named_for() {
    if std::env::var_os("NAKA_WRITE_DOCS").is_some() {
        std::fs::write(root().join("proofs-by-case.txt"), search()).expect("written");
    }
    let listed = listed().expect("the list");
    let count: usize = listed.values().map(BTreeSet::len).sum();
    assert!(count >= 36, "{count} fields");
    for (name, wanted) in listed {
        let file = File::read(&root().join(&name)).expect("a case");
        let all = file.objects().expect("objects");
        let proven = proven(&file, &all, &wanted);
        let unproven: Vec<_> = wanted
            .iter()
            .filter(|key| !proven.contains_key(*key))
            .collect();
        assert!(unproven.is_empty(), "{name} does not prove {unproven:?}");
    }
}

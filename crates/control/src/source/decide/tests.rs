//! Tables of looks: what is there now, what was given before, and what follows.

use super::super::scan::{Seen, View};
use super::{Decision, Given, Owns, decide};
use naka_types::name::ObjectRef;
use std::collections::BTreeMap;
use std::path::PathBuf;

fn object(name: &str) -> ObjectRef {
    ObjectRef {
        kind: "VirtualService".to_owned(),
        namespace: "default".to_owned(),
        name: name.to_owned(),
    }
}

/// `"a.yaml: x=1 y=2"`; `!x` = x is there and refused, `?` = a part cannot be read.
fn views(files: &[&str]) -> BTreeMap<PathBuf, View> {
    let file = |text: &&str| {
        let (name, rest) = text.split_once(':').expect("a file");
        let mut view = View::default();
        for (line, word) in rest.split_whitespace().enumerate() {
            match word.split_once('=') {
                Some((name, digest)) => view.objects.push(Seen {
                    object: object(name),
                    line: u32::try_from(line).expect("small") + 1,
                    digest: digest.parse().expect("a number"),
                }),
                None if word == "?" => view.broken = true,
                None => {
                    view.refused
                        .insert(object(word.trim_start_matches('!')).to_string());
                }
            }
        }
        (PathBuf::from(name), view)
    };
    files.iter().map(file).collect()
}

/// `"x=1 y"`: y was given before this process began.
fn owns(text: &str) -> Owns {
    let one = |word: &str| {
        let (name, digest) = word
            .split_once('=')
            .map_or((word, None), |(n, d)| (n, Some(d)));
        let digest = digest.map(|d| d.parse().expect("a number"));
        let place = "a.yaml:1".to_owned();
        (object(name), Given { place, digest })
    };
    text.split_whitespace().map(one).collect()
}

fn shown(decision: &Decision) -> String {
    let mut out: Vec<String> = decision
        .puts
        .iter()
        .map(|put| format!("+{}@{}", put.object.name, put.given.place))
        .collect();
    out.extend(decision.deletes.iter().map(|o| format!("-{}", o.name)));
    out.extend(
        decision
            .held
            .iter()
            .map(|(_, all)| format!("held:{}", all.len())),
    );
    out.extend(
        decision
            .moved
            .iter()
            .map(|(o, at)| format!("{}>{at}", o.name)),
    );
    out.extend(decision.findings.iter().map(|f| f.code.clone()));
    out.join(" ")
}

#[test]
fn looks() {
    let table: &[(&[&str], &str, &str)] = &[
        // New, changed, unchanged.
        (&["a.yaml: x=1"], "", "+x@a.yaml:1"),
        (&["a.yaml: x=2"], "x=1", "+x@a.yaml:1"),
        (&["a.yaml: x=1"], "x=1", ""),
        // After a start everything is handed in once; the store sees what is equal.
        (&["a.yaml: x=1"], "x", "+x@a.yaml:1"),
        // Moved within its file, and to another one.
        (&["a.yaml: y=1 x=1"], "x=1 y=1", "x>a.yaml:2"),
        (&["b.yaml: x=1"], "x=1", "x>b.yaml:1"),
        // Gone: one of four is believed, one of three is not.
        (
            &["a.yaml: x=1 y=1 z=1"],
            "w=1 x=1 y=1 z=1",
            "-w y>a.yaml:2 z>a.yaml:3",
        ),
        (
            &["a.yaml: x=1 y=1"],
            "w=1 x=1 y=1",
            "held:1 y>a.yaml:2 W961",
        ),
        (&[], "x=1", "held:1 W961"),
        // There, but broken: the last good version stays. Nothing known of it: nothing.
        (&["a.yaml: !x"], "x=1", ""),
        (&["a.yaml: !x y=1"], "", "+y@a.yaml:2"),
        // A file that cannot be read may hold what is gone.
        (
            &["a.yaml: x=1 y=1 z=1", "b.yaml: ?"],
            "w=1 x=1 y=1 z=1",
            "y>a.yaml:2 z>a.yaml:3 W962",
        ),
        (&["b.yaml: ?"], "x=1", "W962"),
        // Twice: equal is said, different is not decided.
        (&["a.yaml: x=1", "b.yaml: x=1"], "", "+x@a.yaml:1 W960"),
        (&["a.yaml: x=1", "b.yaml: x=2"], "x=1", "E961"),
        (&["a.yaml: x=1", "b.yaml: x=2"], "", "E961"),
    ];
    for (files, before, want) in table {
        let decision = decide(&views(files), &owns(before), None);
        assert_eq!(shown(&decision), *want, "{files:?} after {before:?}");
    }
}

#[test]
fn held_deletions_are_released_by_their_own_id() {
    let (files, before) = (views(&["a.yaml: x=1"]), owns("x=1 y=1 z=1"));
    let (id, _) = decide(&files, &before, None).held.expect("held");
    let released = decide(&files, &before, Some(&id));
    assert_eq!(released.deletes, [object("y"), object("z")]);
    // The twin: an id of another set does nothing.
    let other = owns("x=1 y=1 w=1");
    assert!(decide(&files, &other, Some(&id)).held.is_some());
}

#[test]
fn both_places_of_a_conflict_are_named() {
    let files = views(&["a.yaml: x=1", "b.yaml: y=1 x=2"]);
    let decision = decide(&files, &owns("x=1"), None);
    let said = decision.findings[0].to_string();
    assert!(
        said.contains("a.yaml:1 and b.yaml:2") && said.contains("last good version"),
        "{said}"
    );
}

//! Which field is proven by which case: without the field, or with another value, some request of the case gets
//! another verdict.
//!
//! `cases/proofs-by-case.txt` is the list, made by `NAKA_WRITE_DOCS=1 cargo test -p naka-testkit --lib proofs`; the page
//! `docs/reference/fields.md` names the cases from it. A change of value must decode without a new error: an object that
//! is refused shows that a field is checked, not that it does something.

use super::case::{Case, File, paths, root};
use super::explained;
use super::seen::Who;
use naka_api::schema::Now;
use naka_api::schema::flat::{Row, rows};
use naka_api::{Decoded, Kind, Mode, Object};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// A place in an object: keys and indexes.
type Place = Vec<String>;

/// All places of a value with their path in the field tables.
fn places(
    paths: &BTreeSet<String>,
    value: &Value,
    path: &str,
    at: &mut Place,
    out: &mut Vec<(String, Place)>,
) {
    let mut go = |path: String, key: &str, value: &Value| {
        at.push(key.to_owned());
        if paths.contains(&path) {
            out.push((path.clone(), at.clone()));
            places(paths, value, &path, at, out);
        }
        at.pop();
    };
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let named = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                let named = if paths.contains(&named) {
                    named
                } else {
                    format!("{path}.*")
                };
                go(named, key, value);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                go(format!("{path}[]"), &index.to_string(), value);
            }
        }
        _ => {}
    }
}

fn pointer(place: &[String]) -> String {
    place
        .iter()
        .map(|key| format!("/{}", key.replace('~', "~0").replace('/', "~1")))
        .collect()
}

/// Other values in place of one; `None` = the field is taken out.
fn others(value: &Value) -> Vec<Option<Value>> {
    let mut all = vec![None];
    match value {
        Value::String(text)
            if text.ends_with('s') && text.starts_with(|c: char| c.is_ascii_digit()) =>
        {
            all.push(Some(json!("7s")));
        }
        Value::String(text) => {
            all.extend([Some(json!(format!("{text}-other"))), Some(json!("/other"))])
        }
        Value::Number(number) => {
            all.push(Some(json!(0)));
            all.push(number.as_u64().map(|number| json!(number + 1)));
        }
        Value::Bool(value) => all.push(Some(json!(!value))),
        Value::Array(_) => all.push(Some(json!(["other"]))),
        Value::Object(_) => all.push(Some(json!({"other": "other"}))),
        Value::Null => {}
    }
    all
}

fn changed(raw: &Value, place: &[String], other: Option<Value>) -> Value {
    let mut raw = raw.clone();
    if let Some(value) = other {
        if let Some(slot) = raw.pointer_mut(&pointer(place)) {
            *slot = value;
        }
        return raw;
    }
    let Some((last, around)) = place.split_last() else {
        return raw;
    };
    if let Some(fields) = raw
        .pointer_mut(&pointer(around))
        .and_then(Value::as_object_mut)
    {
        fields.remove(last);
    }
    raw
}

/// The object with another value, if it decodes without an error that it had not before.
fn decoded(case: &Case, raw: &Value, before: usize) -> Option<Object> {
    let (object, findings) = naka_api::decode_json_in(raw, Mode::Compat, &case.namespace);
    let errors = findings.iter().filter(|finding| finding.is_error()).count();
    object.filter(|_| errors <= before)
}

fn notices(file: &File, all: &Decoded) -> bool {
    let via = file.case.caller.via;
    let mut asked = file.case.requests.iter();
    asked.any(|wanted| {
        if !wanted.explained(via) {
            return false;
        }
        let seen = explained::ask(file, wanted, &all.objects);
        seen.is_ok_and(|seen| wanted.verdict.differs(Who::Explain, &seen).is_some())
    })
}

fn enforced(kind: Kind) -> impl Iterator<Item = (Kind, String)> {
    let does = |row: &Row| row.named() && !row.block() && matches!(row.now, Now::Yes);
    let all = rows(kind).into_iter().filter(does);
    all.map(move |row| (kind, row.path))
}

/// Of the fields asked about, those that a case proves.
fn proven(
    file: &File,
    all: &Decoded,
    wanted: &BTreeSet<(Kind, String)>,
) -> BTreeSet<(Kind, String)> {
    let case = &file.case;
    let mut found = BTreeSet::new();
    for (index, object) in all.objects.iter().enumerate() {
        let kind = object.kind;
        let paths: BTreeSet<String> = rows(kind).into_iter().map(|row| row.path).collect();
        let before = naka_api::decode_json_in(&object.raw, Mode::Compat, &case.namespace).1;
        let before = before.iter().filter(|finding| finding.is_error()).count();
        let mut here = Vec::new();
        places(&paths, &object.raw, "", &mut Vec::new(), &mut here);
        for (path, place) in here {
            let key = (kind, path);
            if !wanted.contains(&key) || found.contains(&key) {
                continue;
            }
            let value = object
                .raw
                .pointer(&pointer(&place))
                .cloned()
                .unwrap_or_default();
            let noticed = others(&value).into_iter().any(|other| {
                let raw = changed(&object.raw, &place, other);
                let Some(object) = decoded(case, &raw, before) else {
                    return false;
                };
                let mut all = all.clone();
                all.objects[index] = object;
                notices(file, &all)
            });
            if noticed {
                found.insert(key);
            }
        }
    }
    found
}

/// What the list says: path by kind, by case.
fn listed(text: &str) -> BTreeMap<String, BTreeSet<(Kind, String)>> {
    let mut out: BTreeMap<String, BTreeSet<(Kind, String)>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split(' ').collect();
        let [kind, path, case] = words[..] else {
            panic!("{line}");
        };
        let kind = Kind::parse(kind).expect("a kind");
        let case = out.entry(case.to_owned()).or_default();
        case.insert((kind, path.to_owned()));
    }
    out
}

/// Looks through all cases for everything they prove: minutes, so only when the list is written.
fn search() -> String {
    let mut known: BTreeMap<(Kind, String), String> = BTreeMap::new();
    for path in paths().expect("cases") {
        let file = File::read(&path).expect("a case");
        let all = file.objects().expect("objects");
        let name = &file.name;
        let wanted = all.objects.iter().flat_map(|object| enforced(object.kind));
        let wanted = wanted.filter(|key| !known.contains_key(key)).collect();
        for key in proven(&file, &all, &wanted) {
            known.insert(key, format!("cases/{name}"));
        }
    }
    let mut text = String::from(
        "# Fields and the case that proves each: with the field taken out or changed, a request of the case gets another\n\
         # verdict. Made by NAKA_WRITE_DOCS=1 cargo test -p naka-testkit --lib proofs; do not edit.\n",
    );
    for ((kind, path), name) in &known {
        let _ = writeln!(text, "{kind} {path} {name}");
    }
    text
}

#[test]
fn every_case_proves_the_fields_it_is_named_for() {
    let file = root().join("proofs-by-case.txt");
    if std::env::var_os("NAKA_WRITE_DOCS").is_some() {
        std::fs::write(&file, search()).expect("written");
    }
    let listed = listed(&std::fs::read_to_string(&file).expect("the list"));
    let count: usize = listed.values().map(BTreeSet::len).sum();
    assert!(count >= 36, "{count} fields");
    for (name, wanted) in listed {
        let file = File::read(&root().join("..").join(&name)).expect("a case");
        let all = file.objects().expect("objects");
        let unproven: Vec<_> = wanted
            .difference(&proven(&file, &all, &wanted))
            .cloned()
            .collect();
        assert!(unproven.is_empty(), "{name} does not prove {unproven:?}");
    }
}

//! Which fields cases prove: a field counts when leaving it out and giving it another value each change a verdict.
//!
//! The fields are those of Istio's CRDs of the five kinds of traffic management (`cases/istio-crds/fields.txt`). A
//! field is proven in one of three ways: by a case that explain sees through (`cases/proofs-by-case.txt` says which;
//! looked at again in every run), by a `twins:` line of a case that Naka's proxies answered, or by a test that is named
//! for it (`cases/proofs-by-test.txt`). A change must decode without a new error: an object that is refused shows that
//! a field is checked, not that it does something. A required field has no value to be left out. Fields that decide
//! nothing in Istio either ([`idle`], each with Istio's reason) are no part of the matrix; tests show that they decide
//! nothing here.

use super::case::{Case, File, Twin, root};
use super::explained;
use super::seen::Who;
use anyhow::{Context, Result};
use naka_api::schema::Ty;
use naka_api::schema::flat::rows;
use naka_api::schema::inventory::Proofs;
use naka_api::{Decoded, Kind, Mode, Object};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// The kinds of the matrix.
const KINDS: [Kind; 5] = [
    Kind::VirtualService,
    Kind::DestinationRule,
    Kind::Gateway,
    Kind::ServiceEntry,
    Kind::Sidecar,
];

/// A field of a kind.
pub type Field = (Kind, String);

/// A place in an object: keys and indexes.
type Place = Vec<String>;

/// What has been seen of a field.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Left out, it gives another verdict.
    pub absent: bool,
    /// With another value, it gives another verdict.
    pub boundary: bool,
}

impl Seen {
    /// Adds what another case has seen.
    pub fn join(&mut self, other: Self) {
        self.absent |= other.absent;
        self.boundary |= other.boundary;
    }
}

/// Fields of the kinds of the matrix that decide nothing in Istio either, and why.
#[must_use]
pub fn idle() -> Vec<(Field, &'static str)> {
    let of = |kind: Kind| {
        let all = rows(kind).into_iter();
        all.filter_map(move |row| Some(((kind, row.path), row.now.idle()?)))
    };
    KINDS.into_iter().flat_map(of).collect()
}

/// All fields of the matrix that hold a value and decide something.
///
/// # Errors
/// When the list cannot be read.
pub fn wanted() -> Result<BTreeSet<Field>> {
    let text = std::fs::read_to_string(root().join("istio-crds/fields.txt")).context("the list")?;
    let mut all = BTreeSet::new();
    let mut kind: Option<(Kind, BTreeSet<String>)> = None;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if let Some(head) = line.strip_prefix('[') {
            let named = head.split(' ').nth(1).unwrap_or_default();
            let known = KINDS.into_iter().find(|kind| kind.as_str() == named);
            kind = known.map(|kind| (kind, holding(kind)));
            continue;
        }
        let path = line.split(' ').next().unwrap_or_default();
        if let Some((kind, holding)) = &kind
            && holding.contains(path)
        {
            all.insert((*kind, path.to_owned()));
        }
    }
    Ok(all)
}

/// Paths of a kind that hold a value.
fn holding(kind: Kind) -> BTreeSet<String> {
    let all = rows(kind).into_iter();
    let all = all.filter(|row| row.named() && !row.block() && row.path.starts_with("spec"));
    let all = all.filter(|row| row.now.idle().is_none());
    all.map(|row| row.path).collect()
}

fn required(field: &Field) -> bool {
    let mut all = rows(field.0).into_iter();
    all.any(|row| row.path == field.1 && row.required)
}

/// Fields that cases have proven in this run or a named test proves.
///
/// # Errors
/// When a list cannot be read.
pub fn full(wanted: &BTreeSet<Field>, seen: &BTreeMap<Field, Seen>) -> Result<BTreeSet<Field>> {
    let text = std::fs::read_to_string(root().join("proofs-by-test.txt"))?;
    let tests = Proofs::read(&[&text]).map_err(|line| anyhow::anyhow!("proofs-by-test: {line}"))?;
    let is_full = |field: &&Field| {
        let seen = seen.get(*field).copied().unwrap_or_default();
        let absent = seen.absent || required(field);
        absent && seen.boundary || tests.of(field.0, &field.1).is_some()
    };
    Ok(wanted.iter().filter(is_full).cloned().collect())
}

/// What `cases/proofs-by-case.txt` says: fields by case.
///
/// # Errors
/// When the list cannot be read.
pub fn listed() -> Result<BTreeMap<String, BTreeSet<Field>>> {
    let text = std::fs::read_to_string(root().join("proofs-by-case.txt")).context("the list")?;
    let mut out: BTreeMap<String, BTreeSet<Field>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split(' ').collect();
        let [kind, path, case] = words[..] else {
            anyhow::bail!("{line}");
        };
        let kind = Kind::parse(kind).with_context(|| line.to_owned())?;
        let case = case.strip_prefix("cases/").unwrap_or(case);
        let case = out.entry(case.to_owned()).or_default();
        case.insert((kind, path.to_owned()));
    }
    Ok(out)
}

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

fn places_of(object: &Object) -> Vec<(String, Place)> {
    let paths: BTreeSet<String> = rows(object.kind).into_iter().map(|row| row.path).collect();
    let mut here = Vec::new();
    places(&paths, &object.raw, "", &mut Vec::new(), &mut here);
    here
}

fn pointer(place: &[String]) -> String {
    place
        .iter()
        .map(|key| format!("/{}", key.replace('~', "~0").replace('/', "~1")))
        .collect()
}

/// Other values in place of one.
fn others(value: &Value, ty: Option<Ty>) -> Vec<Value> {
    if let Some(Ty::Enum(words)) = ty {
        let others = words.iter().map(|word| json!(word));
        return others.filter(|word| word != value).collect();
    }
    match value {
        Value::String(text)
            if text.ends_with('s') && text.starts_with(|c: char| c.is_ascii_digit()) =>
        {
            vec![json!("7s")]
        }
        Value::String(text) => vec![json!(format!("{text}-other")), json!("/other")],
        Value::Number(number) => {
            let next = number.as_u64().map(|number| json!(number + 1));
            std::iter::once(json!(0)).chain(next).collect()
        }
        Value::Bool(value) => vec![json!(!value)],
        Value::Array(_) => vec![json!(["other"])],
        Value::Object(_) => vec![json!({"other": "other"})],
        Value::Null => Vec::new(),
    }
}

fn changed(raw: &Value, place: &[String], value: &Value) -> Value {
    let mut raw = raw.clone();
    if let Some(slot) = raw.pointer_mut(&pointer(place)) {
        *slot = value.clone();
    }
    raw
}

/// Leaves a field or an entry of a list out. Whether the block stood empty without it?
fn leave_out(raw: &mut Value, place: &[String]) -> bool {
    let Some((last, around)) = place.split_last() else {
        return false;
    };
    match raw.pointer_mut(&pointer(around)) {
        Some(Value::Object(fields)) => {
            fields.remove(last);
            fields.is_empty()
        }
        Some(Value::Array(items)) => {
            if let Some(at) = last.parse().ok().filter(|at| *at < items.len()) {
                items.remove(at);
            }
            items.is_empty()
        }
        _ => false,
    }
}

/// The object without a field: the field alone left out; then with it the blocks that hold nothing else, since an empty
/// block is often none that may be written (`authority: {}`).
fn without(raw: &Value, place: &[String]) -> Vec<Value> {
    let mut now = raw.clone();
    let mut all = Vec::new();
    for depth in (1..=place.len()).rev() {
        let emptied = leave_out(&mut now, &place[..depth]);
        all.push(now.clone());
        if !emptied {
            break;
        }
    }
    all
}

fn errors(case: &Case, raw: &Value) -> (Option<Object>, usize) {
    let (object, findings) = naka_api::decode_json_in(raw, Mode::Compat, &case.namespace);
    let errors = findings.iter().filter(|finding| finding.is_error()).count();
    (object, errors)
}

/// The object with another value, if it decodes without an error that it had not before.
fn decoded(case: &Case, raw: &Value, before: usize) -> Option<Object> {
    let (object, errors) = errors(case, raw);
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

/// What explain sees of these fields in a case.
#[must_use]
pub fn proven(file: &File, all: &Decoded, wanted: &BTreeSet<Field>) -> BTreeMap<Field, Seen> {
    let case = &file.case;
    let mut found: BTreeMap<Field, Seen> = BTreeMap::new();
    for (index, object) in all.objects.iter().enumerate() {
        let before = errors(case, &object.raw).1;
        let noticed = |raw: &Value| {
            decoded(case, raw, before).is_some_and(|object| {
                let mut all = all.clone();
                all.objects[index] = object;
                notices(file, &all)
            })
        };
        let types: BTreeMap<String, Ty> = rows(object.kind)
            .into_iter()
            .map(|row| (row.path, row.ty))
            .collect();
        for (path, place) in places_of(object) {
            let key = (object.kind, path.clone());
            if !wanted.contains(&key) {
                continue;
            }
            let seen = found.entry(key).or_default();
            let value = object.raw.pointer(&pointer(&place)).cloned();
            let value = value.unwrap_or_default();
            seen.absent = seen.absent || without(&object.raw, &place).iter().any(noticed);
            let ty = types.get(&path).copied();
            seen.boundary = seen.boundary
                || others(&value, ty)
                    .iter()
                    .any(|other| noticed(&changed(&object.raw, &place, other)));
        }
    }
    found.retain(|_, seen| *seen != Seen::default());
    found
}

/// The objects of a twin: one of them gone, or a field of it left out or given another value. With it which field.
///
/// # Errors
/// When there is no such object or field.
pub fn twins(twin: &Twin, objects: &[Object]) -> Result<Vec<(Option<Value>, Vec<Value>)>> {
    let (kind, name) = twin.of.split_once('/').context("of: Kind/name")?;
    let is = |object: &&Object| object.kind.as_str() == kind && object.meta.name == name;
    let object = objects.iter().find(is);
    let object = object.with_context(|| format!("twin of {}: no such object", twin.of))?;
    let rest = || {
        let others = objects.iter().filter(|other| !std::ptr::eq(*other, object));
        others.map(|other| other.raw.clone())
    };
    let Some(path) = &twin.path else {
        return Ok(vec![(None, rest().collect())]);
    };
    let here: Vec<Place> = places_of(object)
        .into_iter()
        .filter(|(at, _)| at == path)
        .map(|(_, place)| place)
        .collect();
    if here.is_empty() {
        anyhow::bail!("twin of {}: it has no {path}", twin.of);
    }
    let with = |value: Option<&Value>| {
        // The last one first: an entry of a list that goes moves those behind it.
        let raw = here.iter().rev().fold(object.raw.clone(), |raw, place| {
            let gone = || without(&raw, place).pop().unwrap_or_default();
            value.map_or_else(gone, |value| changed(&raw, place, value))
        });
        (value.cloned(), rest().chain([raw]).collect())
    };
    let values = twin.values.iter().map(Some);
    // What is required has no value to be left out.
    let absent = (!required(&(object.kind, path.clone()))).then_some(None);
    Ok(absent.into_iter().chain(values).map(with).collect())
}

//! Every field of Istio's CRDs is in the field tables, with its type, and the tables have no field that the CRDs lack.
//!
//! The list of fields is `cases/istio-crds/fields.txt`, extracted from the Go module `istio.io/api`. The test that
//! extracts it again runs where `NAKA_ISTIO_CRDS` names the module's CRD file (`scripts/istio-fields.sh` does that, and
//! writes the list with `--write`).

use naka_api::schema::Ty;
use naka_api::schema::flat::{Row, rows};
use naka_api::tree::{self, Node};
use naka_api::{Kind, schema};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;

/// Fields of ours that Istio's CRDs do not have, beyond the old spellings.
const EXTENSIONS: &[(&str, &str)] = &[];

fn list() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../cases/istio-crds/fields.txt")
}

/// A kind of the list.
struct Known {
    group: String,
    kind: String,
    versions: BTreeSet<String>,
    /// Type by path; `!` at the end = required.
    fields: BTreeMap<String, String>,
}

fn known() -> Vec<Known> {
    let text = std::fs::read_to_string(list()).expect("the list");
    let mut out: Vec<Known> = Vec::new();
    for line in text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
    {
        if let Some(head) = line
            .strip_prefix('[')
            .and_then(|line| line.strip_suffix(']'))
        {
            let mut words = head.split(' ').map(str::to_owned);
            out.push(Known {
                group: words.next().expect("a group"),
                kind: words.next().expect("a kind"),
                versions: words.collect(),
                fields: BTreeMap::new(),
            });
        } else {
            let (path, ty) = line.split_once(' ').expect("path and type");
            let last = out.last_mut().expect("a heading");
            last.fields.insert(path.to_owned(), ty.to_owned());
        }
    }
    out
}

/// Whether a type of ours says what the CRD's says.
fn same(ours: Ty, theirs: &str) -> bool {
    let theirs = theirs.trim_end_matches('!');
    let words = |text: &str| -> Option<BTreeSet<String>> {
        let inside = text.strip_prefix("string{")?.strip_suffix('}')?;
        Some(inside.split('|').map(str::to_owned).collect())
    };
    match ours {
        Ty::Str | Ty::Duration => theirs == "string",
        Ty::Bool => theirs == "boolean",
        Ty::Int(..) => theirs == "integer",
        Ty::Percent | Ty::Number => theirs == "number" || theirs == "integer",
        Ty::Enum(ours) => {
            words(theirs) == Some(ours.iter().map(|word| (*word).to_owned()).collect())
        }
        Ty::IntOrStr => theirs == "int-or-string",
        Ty::List(_) => theirs == "array",
        Ty::Object(_) | Ty::Map(_) => theirs == "object",
        Ty::Any => theirs == "any",
    }
}

/// What is wrong with our table of a kind.
fn differences(kind: Kind, known: &Known, rows: &[Row]) -> Vec<String> {
    let mut wrong = Vec::new();
    let ours: BTreeMap<&str, &Row> = rows.iter().map(|row| (row.path.as_str(), row)).collect();
    for (path, ty) in &known.fields {
        match ours.get(path.as_str()) {
            None => wrong.push(format!("{kind} {path}: our table lacks it ({ty})")),
            Some(row) if !same(row.ty, ty) => {
                wrong.push(format!("{kind} {path}: {:?}, in the CRD {ty}", row.ty));
            }
            Some(row) if ty.ends_with('!') && !row.required => {
                wrong.push(format!("{kind} {path}: required in the CRD"));
            }
            Some(_) => {}
        }
    }
    for row in rows {
        let old = matches!(row.now, schema::Now::Alias(_));
        let own = EXTENSIONS.contains(&(kind.as_str(), row.path.as_str()));
        if !known.fields.contains_key(&row.path) && !old && !own {
            wrong.push(format!("{kind} {}: the CRD has no such field", row.path));
        }
    }
    wrong
}

#[test]
fn every_field_of_istios_crds_is_in_our_tables_and_no_other() {
    let all = known();
    assert!(all.len() >= 15, "{} kinds", all.len());
    let mut wrong = Vec::new();
    for known in &all {
        let version = known.versions.iter().next().expect("a version");
        let api_version = format!("{}/{version}", known.group);
        let Some(kind) = Kind::of_manifest(&known.kind, &api_version) else {
            wrong.push(format!("no kind {}", known.kind));
            continue;
        };
        for version in &known.versions {
            if !kind.reads(&format!("{}/{version}", known.group)) {
                wrong.push(format!("{kind} is not read from {version}"));
            }
        }
        for version in kind.names().versions {
            if !known.versions.contains(*version) {
                wrong.push(format!("{kind} has no version {version}"));
            }
        }
        wrong.extend(differences(kind, known, &rows(kind)));
    }
    let istio = Kind::all().filter(|kind| kind.names().group.ends_with(".istio.io"));
    for kind in istio {
        if !all.iter().any(|known| known.kind == kind.manifest()) {
            wrong.push(format!("{kind} is in no CRD"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} differences:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// The twin of the test above: it sees a field that is lacking, one too many, another type, another word.
#[test]
fn the_comparison_sees_differences() {
    let mut all = known();
    let gateway = all
        .iter_mut()
        .find(|known| known.kind == "Gateway")
        .expect("Gateway");
    let ours = rows(Kind::Gateway);
    assert!(differences(Kind::Gateway, gateway, &ours).is_empty());
    let fields = &mut gateway.fields;
    fields.insert("spec.servers[].new".to_owned(), "string".to_owned());
    fields.remove("spec.servers[].bind");
    fields.insert("spec.servers[].name".to_owned(), "integer".to_owned());
    let mode = fields.get_mut("spec.servers[].tls.mode").expect("mode");
    *mode = mode.replace("PASSTHROUGH|", "PASSTHROUGH|OTHER|");
    assert_eq!(differences(Kind::Gateway, gateway, &ours).len(), 4);
}

fn text<'n>(node: &'n Node, field: &str) -> Option<&'n str> {
    node.get(field).and_then(Node::text)
}

fn is_true(node: &Node, field: &str) -> bool {
    node.get(field).is_some_and(|value| value.to_json() == true)
}

fn walk(out: &mut BTreeMap<String, String>, schema: &Node, path: &str, required: bool) {
    let names = |field: &str| -> Vec<String> {
        let items = schema.get(field).map(Node::items).unwrap_or_default();
        items
            .iter()
            .filter_map(|item| item.text().map(str::to_owned))
            .collect()
    };
    let open = is_true(schema, "x-kubernetes-preserve-unknown-fields");
    let mut ty = if is_true(schema, "x-kubernetes-int-or-string") {
        "int-or-string".to_owned()
    } else if open && schema.get("properties").is_none() {
        "any".to_owned()
    } else {
        text(schema, "type").unwrap_or("any").to_owned()
    };
    let words = names("enum");
    if !words.is_empty() {
        let _ = write!(ty, "{{{}}}", words.join("|"));
    }
    if required {
        ty.push('!');
    }
    out.insert(path.to_owned(), ty);
    let required = names("required");
    for entry in schema
        .get("properties")
        .map(Node::entries)
        .unwrap_or_default()
    {
        let needed = required.contains(&entry.key);
        walk(out, &entry.value, &format!("{path}.{}", entry.key), needed);
    }
    if let Some(items) = schema.get("items") {
        walk(out, items, &format!("{path}[]"), false);
    }
    if let Some(values) = schema
        .get("additionalProperties")
        .filter(|one| !one.entries().is_empty())
    {
        walk(out, values, &format!("{path}.*"), false);
    }
}

/// The list that a CRD file stands for, without its header.
fn extract(bytes: &[u8]) -> String {
    let mut blocks = BTreeMap::new();
    for document in tree::read(bytes) {
        let Some(root) = document.root else {
            continue;
        };
        let Some(spec) = root.get("spec") else {
            continue;
        };
        let kind = spec
            .get("names")
            .and_then(|names| text(names, "kind"))
            .expect("kind");
        let group = text(spec, "group").expect("group");
        // Versions of the same fields share a block.
        let mut same: BTreeMap<BTreeMap<String, String>, Vec<String>> = BTreeMap::new();
        for version in spec.get("versions").map(Node::items).unwrap_or_default() {
            let root = version
                .get("schema")
                .and_then(|schema| schema.get("openAPIV3Schema"))
                .expect("a schema");
            let body = root
                .get("properties")
                .and_then(|properties| properties.get("spec"))
                .expect("spec");
            let needed = root.get("required").map(Node::items).unwrap_or_default();
            let needed = needed.iter().any(|field| field.text() == Some("spec"));
            let mut fields = BTreeMap::new();
            walk(&mut fields, body, "spec", needed);
            let name = text(version, "name").expect("version").to_owned();
            same.entry(fields).or_default().push(name);
        }
        for (fields, mut versions) in same {
            versions.sort();
            let mut out = format!("\n[{group} {kind} {}]\n", versions.join(" "));
            for (path, ty) in fields {
                let _ = writeln!(out, "{path} {ty}");
            }
            blocks.insert((group.to_owned(), kind.to_owned(), versions), out);
        }
    }
    blocks.into_values().collect()
}

/// Runs where the module is at hand: extracts the list again and compares, or writes it when `NAKA_ISTIO_HEADER` gives
/// the first lines.
#[test]
fn the_list_is_what_the_module_says() {
    let Some(file) = std::env::var_os("NAKA_ISTIO_CRDS") else {
        eprintln!("NAKA_ISTIO_CRDS is not set: run scripts/istio-fields.sh");
        return;
    };
    let fresh = extract(&std::fs::read(&file).expect("the CRD file"));
    if let Ok(header) = std::env::var("NAKA_ISTIO_HEADER") {
        std::fs::write(list(), format!("{header}\n{fresh}")).expect("written");
    }
    let kept = std::fs::read_to_string(list()).expect("the list");
    let kept: Vec<&str> = kept.lines().filter(|line| !line.starts_with('#')).collect();
    let fresh: Vec<&str> = fresh.lines().collect();
    assert!(fresh.len() > 900, "{} lines", fresh.len());
    assert_eq!(kept, fresh, "run scripts/istio-fields.sh --write");
}

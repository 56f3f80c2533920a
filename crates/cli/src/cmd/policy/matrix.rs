//! The service-call matrix: who may call whom, and who never.
//!
//! Each service that the document knows gets an ALLOW policy, one with nobody in it too, so that every cell of the
//! matrix is decided; what is forbidden by its own words gets a DENY policy besides, which no later ALLOW can open.
//! Of a cell that is both, a prohibition that is written more narrowly than the permission holds (W971); any other
//! pair contradicts itself and is an error. Conditions that one caller must meet are conditions of its rule; hours and
//! a second approval a rule cannot ask for, so they become a TrustModel, which asks every caller of the called service.

use super::Made;
use super::document::{Document, is_matrix};
use super::names::{Names, Service};
use super::objects;
use naka_api::codes;
use naka_api::tree::{Data, Entry, Node, Place};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const KEYS: &[&str] = &["allowed_to_call", "forbidden_to_call", "access_conditions"];

/// A line of the matrix, as it is about one cell.
#[derive(Debug, Clone)]
struct Word {
    place: Place,
    text: String,
    /// Of caller and called together; the smaller, the more exactly it was said.
    width: u8,
    /// Index of the row it stands in.
    row: usize,
}

/// What a caller must meet.
#[derive(Debug, Clone, Default, PartialEq)]
struct Conditions {
    user: bool,
    networks: Vec<String>,
    hours: Option<Value>,
    dual: bool,
    place: Place,
}

#[derive(Debug, Default)]
struct Cell {
    allow: Vec<Word>,
    deny: Vec<Word>,
}

#[derive(Debug, Default)]
struct Matrix {
    /// Called, then caller.
    cells: BTreeMap<Service, BTreeMap<Service, Cell>>,
    rows: Vec<Conditions>,
}

/// The objects of all matrices of a document, which count as one.
pub(crate) fn make(document: &mut Document, names: &Names) -> Vec<Made> {
    let root = document.root.clone();
    let nested = root.get("authorization_policies");
    let mut matrix = Matrix::default();
    let mut any = false;
    let all = root
        .entries()
        .iter()
        .chain(nested.map(Node::entries).unwrap_or_default());
    for entry in all.filter(|entry| is_matrix(&entry.key)) {
        any = true;
        for row in &document.map(&entry.value, &entry.key) {
            matrix.row(document, names, &entry.key, row);
        }
    }
    if !any {
        return Vec::new();
    }
    matrix.settle(document);
    let mut made = Vec::new();
    for service in names.known() {
        made.extend(matrix.policies(document, service));
    }
    made.extend(matrix.trust(document));
    made
}

impl Matrix {
    fn row(&mut self, document: &mut Document, names: &Names, matrix: &str, row: &Entry) {
        let field = format!("{matrix}.{}", row.key);
        let Some(callers) = names.meant(document, &row.key, row.place, &field) else {
            return;
        };
        for entry in &document.map(&row.value, &field) {
            if !KEYS.contains(&entry.key.as_str()) {
                document.unknown(entry.place, &format!("{field}.{}", entry.key), KEYS);
            }
        }
        let conditions = row.value.get("access_conditions");
        let conditions = conditions.map_or_else(Conditions::default, |node| {
            conditions_of(document, node, &format!("{field}.access_conditions"))
        });
        self.rows.push(conditions);
        for list in ["allowed_to_call", "forbidden_to_call"] {
            let Some(node) = row.value.get(list) else {
                continue;
            };
            let field = format!("{field}.{list}");
            for (name, place) in document.texts(node, &field) {
                let Some(called) = names.meant(document, &name, place, &field) else {
                    continue;
                };
                let word = Word {
                    place,
                    text: format!("{}.{list}: {name}", row.key),
                    width: callers.width + called.width,
                    row: self.rows.len() - 1,
                };
                for called in &called.services {
                    for caller in &callers.services {
                        let row = self.cells.entry(called.clone()).or_default();
                        let cell = row.entry(caller.clone()).or_default();
                        let words = if list == "allowed_to_call" {
                            &mut cell.allow
                        } else {
                            &mut cell.deny
                        };
                        words.push(word.clone());
                    }
                }
            }
        }
    }

    /// Finds cells that are allowed and forbidden, and lets the prohibition hold.
    fn settle(&mut self, document: &mut Document) {
        let mut told = BTreeSet::new();
        for (called, row) in &mut self.cells {
            for (caller, cell) in row {
                for allow in &cell.allow {
                    for deny in &cell.deny {
                        // One finding for each pair of lines, however many cells it is about.
                        let pair = (
                            allow.place.line,
                            allow.place.column,
                            deny.place.line,
                            deny.place.column,
                        );
                        if told.insert(pair) {
                            contradiction(document, caller, called, allow, deny);
                        }
                    }
                }
                if !cell.deny.is_empty() {
                    cell.allow.clear();
                }
            }
        }
    }

    /// ALLOW and DENY of one called service.
    fn policies(&self, document: &Document, service: &Service) -> Vec<Made> {
        let empty = BTreeMap::new();
        let row = self.cells.get(service).unwrap_or(&empty);
        let mut rules: BTreeMap<usize, (BTreeSet<String>, BTreeSet<String>)> = BTreeMap::new();
        let mut never = (BTreeSet::new(), BTreeSet::new());
        for (caller, cell) in row {
            for word in &cell.allow {
                let rule = rules.entry(word.row).or_default();
                rule.0.insert(caller.principal());
                rule.1.insert(line(document, word));
            }
            for word in &cell.deny {
                never.0.insert(caller.principal());
                never.1.insert(line(document, word));
            }
        }
        let lines: BTreeSet<String> = rules.values().flat_map(|rule| rule.1.clone()).collect();
        let rules: Vec<Value> = rules
            .iter()
            .map(|(row, (principals, _))| self.rule(*row, principals))
            .collect();
        let mut spec = json!({"selector": objects::selector(service), "action": "ALLOW"});
        let mut comments: Vec<String> = in_order(lines);
        if rules.is_empty() {
            comments.push(format!("nobody is allowed to call {}", service.name));
        } else {
            spec["rules"] = Value::Array(rules);
        }
        let name = format!("matrix-{}", service.name);
        let mut made = vec![objects::policy(&service.namespace, &name, spec, comments)];
        if !never.0.is_empty() {
            let source = json!({"source": {"principals": never.0}});
            let spec = json!({"selector": objects::selector(service), "action": "DENY", "rules": [{"from": [source]}]});
            let name = format!("matrix-{}-never", service.name);
            made.push(objects::policy(
                &service.namespace,
                &name,
                spec,
                in_order(never.1),
            ));
        }
        made
    }

    fn rule(&self, row: usize, principals: &BTreeSet<String>) -> Value {
        let conditions = &self.rows[row];
        let mut source = json!({"principals": principals});
        if conditions.user {
            source["requestPrincipals"] = json!(["*"]);
        }
        if !conditions.networks.is_empty() {
            source["ipBlocks"] = json!(conditions.networks);
        }
        json!({"from": [{"source": source}]})
    }

    /// Hours and approvals, for each service that a row with such conditions may call.
    fn trust(&self, document: &mut Document) -> Vec<Made> {
        let mut models: BTreeMap<String, (Vec<Value>, BTreeSet<String>)> = BTreeMap::new();
        let mut others = Vec::new();
        for (called, row) in &self.cells {
            let allowed = row
                .iter()
                .flat_map(|(caller, cell)| cell.allow.iter().map(move |word| (caller, word)));
            let asks =
                |word: &Word| self.rows[word.row].dual || self.rows[word.row].hours.is_some();
            let (bound, free): (Vec<_>, Vec<_>) = allowed.partition(|(_, word)| asks(word));
            let rows: BTreeSet<usize> = bound.iter().map(|(_, word)| word.row).collect();
            for row in &rows {
                let conditions = &self.rows[*row];
                let mut operation = json!({
                    "name": format!("{}-{row}", called.name),
                    "hosts": [format!("{}.{}.svc.cluster.local", called.name, called.namespace)],
                });
                if let Some(hours) = &conditions.hours {
                    operation["hours"] = json!([hours]);
                }
                if conditions.dual {
                    operation["dualAuthorization"] = json!(true);
                }
                let model = models.entry(called.namespace.clone()).or_default();
                model.0.push(operation);
                model.1.insert(format!(
                    "{} access_conditions",
                    document.at(conditions.place)
                ));
                let names: BTreeSet<&str> = free
                    .iter()
                    .map(|(caller, _)| caller.name.as_str())
                    .collect();
                if !names.is_empty() {
                    let names: Vec<&str> = names.into_iter().collect();
                    others.push((conditions.place, called.name.clone(), names.join(", ")));
                }
            }
        }
        for (place, called, names) in others {
            let said = format!(
                "hours and approvals are asked of every caller of {called}, so of {names} too"
            );
            document.found(
                &codes::W972,
                place,
                "access_conditions",
                said,
                "Let those who have to meet them call a service of their own.",
            );
        }
        let model = |(namespace, (operations, lines)): (String, (Vec<Value>, BTreeSet<String>))| {
            objects::trust_model(
                &namespace,
                "matrix-conditions",
                json!({ "operations": operations }),
                in_order(lines),
            )
        };
        models.into_iter().map(model).collect()
    }
}

fn line(document: &Document, word: &Word) -> String {
    format!("{} {}", document.at(word.place), word.text)
}

/// Lines of a file in its order, which is not that of their texts (9 before 10).
fn in_order(lines: BTreeSet<String>) -> Vec<String> {
    let mut lines: Vec<String> = lines.into_iter().collect();
    lines.sort_by_key(|line| {
        let place = line.split(' ').next().unwrap_or_default();
        let mut numbers = place
            .rsplit(':')
            .map(|number| number.parse::<u32>().unwrap_or(0));
        let column = numbers.next();
        (numbers.next(), column)
    });
    lines
}

fn contradiction(
    document: &mut Document,
    caller: &Service,
    called: &Service,
    allow: &Word,
    deny: &Word,
) {
    let cell = format!("{} calling {}", caller.name, called.name);
    if deny.width < allow.width {
        let said = format!(
            "{cell} is forbidden here and allowed by the wider {:?} at line {}: it stays forbidden",
            allow.text, allow.place.line
        );
        document.found(
            &codes::W971,
            deny.place,
            &deny.text,
            said,
            "Leave it out of what is allowed, so that the matrix says one thing.",
        );
        return;
    }
    let said = if allow.width < deny.width {
        format!(
            "{cell} is allowed here and forbidden by the wider {:?} at line {}: a prohibition has no exceptions",
            deny.text, deny.place.line
        )
    } else {
        format!(
            "{cell} is allowed here and forbidden at line {} ({})",
            deny.place.line, deny.text
        )
    };
    document.found(
        &codes::E971,
        allow.place,
        &allow.text,
        said,
        "Keep one of the two lines.",
    );
}

/// Conditions in the source's words; the first words of each decide.
fn conditions_of(document: &mut Document, node: &Node, field: &str) -> Conditions {
    const KNOWN: &[&str] = &[
        "admin user authentication",
        "time-based access",
        "location-based access",
        "dual authorization",
    ];
    let mut all = Conditions {
        place: node.place,
        ..Conditions::default()
    };
    for (text, place) in document.texts(node, field) {
        let lower = text
            .to_ascii_lowercase()
            .replace('_', "-")
            .replace("dual-authorization", KNOWN[3]);
        match KNOWN.iter().position(|known| lower.starts_with(known)) {
            Some(0) => all.user = true,
            Some(1) => all.hours = Some(hours(document)),
            Some(2) => all.networks = networks(document, place, field),
            Some(3) => all.dual = true,
            _ => {
                let said = format!("{text:?}: nobody knows how to ask for this");
                let fix = format!("Begin with one of: {}.", KNOWN.join(", "));
                document.found(&codes::E973, place, field, said, &fix);
            }
        }
    }
    all
}

/// `definitions.business_hours`, else those of an office.
fn hours(document: &Document) -> Value {
    let own = document.root.at(&["definitions", "business_hours"]);
    own.map_or_else(
        || json!({"days": ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday"], "from": "09:00", "to": "18:00"}),
        Node::to_json,
    )
}

fn networks(document: &mut Document, place: Place, field: &str) -> Vec<String> {
    let own = document
        .root
        .at(&["definitions", "office_networks"])
        .cloned();
    let Some(own) = own.filter(|own| matches!(own.data, Data::List(_))) else {
        let said = "which addresses the offices have is not said".to_owned();
        document.found(
            &codes::E973,
            place,
            field,
            said,
            "Write `definitions: {office_networks: [10.0.0.0/8]}`.",
        );
        return Vec::new();
    };
    let texts = document.texts(&own, "definitions.office_networks");
    texts.into_iter().map(|(text, _)| text).collect()
}

//! The file that policies are made from: its tree, and findings that say where in it.
//!
//! The source of such matrices is often a program: a Python dictionary is YAML of the flow style, so `True` counts as
//! true here, and underscores of names as the hyphens of services.

use naka_api::codes::{self, Code};
use naka_api::tree::{self, Data, Entry, Node, Place, Problem};
use naka_types::finding::Finding;

/// A document and what was found in it.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) file: String,
    pub(crate) root: Node,
    pub(crate) findings: Vec<Finding>,
}

/// Sections that a document may have.
const SECTIONS: &[&str] = &[
    "namespace",
    "groups",
    "services",
    "definitions",
    "jurisdiction",
    "identity_verification",
    "authorization_policies",
    "network_segmentation",
    "data_protection",
    "monitoring_and_detection",
];

/// Whether a key names a service-call matrix.
pub(crate) fn is_matrix(key: &str) -> bool {
    key == "matrix" || key.ends_with("_matrix")
}

impl Document {
    /// Reads one; what cannot be read is a finding.
    pub(crate) fn read(file: &str, bytes: &[u8]) -> Self {
        let mut own = Self {
            file: if file == "-" { "stdin" } else { file }.to_owned(),
            root: Node::bare(Data::Null),
            findings: Vec::new(),
        };
        let documents = tree::read(bytes);
        if documents.len() != 1 {
            let said = format!("{} documents: a matrix is one", documents.len());
            own.found(
                &codes::E003,
                Place::default(),
                "",
                said,
                "Write one document.",
            );
        }
        for document in documents.into_iter().take(1) {
            for problem in document.problems {
                match problem {
                    Problem::Broken { place, message } => {
                        own.found(&codes::E001, place, "", message, "")
                    }
                    Problem::Duplicate {
                        place,
                        field,
                        first,
                    } => own.found(
                        &codes::E004,
                        place,
                        &field,
                        format!("written twice, first at line {first}"),
                        "Keep one of the two.",
                    ),
                }
            }
            if let Some(root) = document.root {
                own.root = root;
            }
        }
        let root = own.root.clone();
        if !matches!(root.data, Data::Map(_)) {
            own.found(
                &codes::E003,
                root.place,
                "",
                "not a map".to_owned(),
                "Write sections such as `service_matrix`.",
            );
        }
        for entry in root.entries() {
            if !SECTIONS.contains(&entry.key.as_str()) && !is_matrix(&entry.key) {
                own.unknown(entry.place, &entry.key, SECTIONS);
            }
        }
        own
    }

    /// Notes something at a place.
    pub(crate) fn found(
        &mut self,
        code: &Code,
        place: Place,
        field: &str,
        message: String,
        fix: &str,
    ) {
        let mut finding = Finding::new(code.id, message).at(field).fix(fix);
        finding.file.clone_from(&self.file);
        finding.line = place.line;
        finding.column = place.column;
        self.findings.push(finding);
    }

    /// A key that is none.
    pub(crate) fn unknown(&mut self, place: Place, field: &str, known: &[&str]) {
        let key = field.rsplit('.').next().unwrap_or(field);
        let near = naka_api::schema::nearest(key, known.iter().copied());
        let fix = near.map_or_else(
            || format!("There are: {}.", known.join(", ")),
            |near| format!("Did you mean {near}?"),
        );
        self.found(
            &codes::E002,
            place,
            field,
            format!("unknown key {key}"),
            &fix,
        );
    }

    /// `FILE:LINE:COLUMN`.
    pub(crate) fn at(&self, place: Place) -> String {
        format!("{}:{}:{}", self.file, place.line, place.column)
    }

    /// Findings in the order of the lines.
    pub(crate) fn sort(&mut self) {
        self.findings
            .sort_by(|a, b| (a.line, a.column, &a.code).cmp(&(b.line, b.column, &b.code)));
    }

    /// Text of a node; anything else is a finding.
    pub(crate) fn text(&mut self, node: &Node, field: &str) -> Option<String> {
        if let Data::Text(text) = &node.data {
            return Some(text.clone());
        }
        self.found(
            &codes::E003,
            node.place,
            field,
            "not a text".to_owned(),
            "Write a text.",
        );
        None
    }

    /// Fields of a map; anything else is a finding, nothing at all is none.
    pub(crate) fn map(&mut self, node: &Node, field: &str) -> Vec<Entry> {
        if !matches!(node.data, Data::Map(_) | Data::Null) {
            self.found(
                &codes::E003,
                node.place,
                field,
                "not a map".to_owned(),
                "Write `key: value` lines.",
            );
        }
        node.entries().to_vec()
    }

    /// Texts of a list with their places, or one text.
    pub(crate) fn texts(&mut self, node: &Node, field: &str) -> Vec<(String, Place)> {
        let items = match &node.data {
            Data::List(items) => items.clone(),
            Data::Null => Vec::new(),
            _ => vec![node.clone()],
        };
        items
            .iter()
            .enumerate()
            .filter_map(|(index, item)| {
                let text = self.text(item, &format!("{field}[{index}]"))?;
                Some((text, item.place))
            })
            .collect()
    }
}

/// Whether a node says yes.
pub(crate) fn yes(node: &Node) -> bool {
    match &node.data {
        Data::Bool(value) => *value,
        Data::Text(text) => text == "True",
        _ => false,
    }
}

/// What a node says, for a comment.
pub(crate) fn said(node: &Node) -> String {
    match &node.data {
        Data::Text(text) => text.clone(),
        _ => node.to_json().to_string(),
    }
}

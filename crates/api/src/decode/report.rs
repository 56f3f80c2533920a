//! Findings of one object while it is decoded, and which of its parts they put out of force.

use super::Mode;
use crate::codes::{self, Code};
use crate::kind::Kind;
use crate::object::Meta;
use crate::tree::{Node, Place, Problem};
use naka_types::finding::Finding;
use std::collections::BTreeSet;

/// Lists whose items fall out one by one. Everything else falls out as a whole object.
const PARTS: &[(Kind, &str)] = &[
    (Kind::VirtualService, "spec.http["),
    (Kind::VirtualService, "spec.tcp["),
    (Kind::VirtualService, "spec.tls["),
    (Kind::DestinationRule, "spec.subsets["),
    (Kind::Gateway, "spec.servers["),
    (Kind::Service, "spec.ports["),
    (Kind::RequestGuard, "spec.guards["),
    (Kind::LocalRateLimit, "spec.targetRefs["),
    (Kind::LocalRateLimit, "spec.rules["),
    (Kind::ServiceEntry, "spec.endpoints["),
    (Kind::ConfigMap, "data.mesh.extensionProviders["),
    (Kind::ConfigMap, "data.mesh.trustDomainAliases["),
];

/// Collects findings.
#[derive(Debug)]
pub(crate) struct Report {
    /// All so far.
    pub(crate) findings: Vec<Finding>,
    /// How old spellings are taken.
    pub(crate) mode: Mode,
    /// Kind, once known.
    pub(crate) kind: Option<Kind>,
    file: String,
    /// Parts with an error, for example `spec.http[2]`; the empty text stands for the object.
    broken: BTreeSet<String>,
}

impl Report {
    pub(crate) fn new(file: &str, mode: Mode) -> Self {
        Self {
            findings: Vec::new(),
            mode,
            kind: None,
            file: file.to_owned(),
            broken: BTreeSet::new(),
        }
    }

    /// Adds a finding of any code; an E-code puts the part that holds `field` out of force.
    pub(crate) fn error(
        &mut self,
        code: Code,
        field: &str,
        place: Place,
        message: String,
        fix: String,
    ) {
        let mut finding = Finding::new(code.id, message).at(field).fix(fix);
        finding.file.clone_from(&self.file);
        finding.line = place.line;
        finding.column = place.column;
        if finding.is_error() {
            self.broken.insert(self.part_of(field).to_owned());
        }
        self.findings.push(finding);
    }

    /// As [`Report::error`], for a field outside of the parts that it puts out of force; none of them: the object.
    pub(crate) fn error_in(
        &mut self,
        parts: &[String],
        code: Code,
        field: &str,
        place: Place,
        message: String,
        fix: String,
    ) {
        let outside = self.part_of(field).to_owned();
        let was = self.broken.contains(&outside);
        self.error(code, field, place, message, fix);
        if !parts.is_empty() && !was {
            self.broken.remove(&outside);
        }
        self.broken.extend(parts.iter().cloned());
    }

    /// E007 at a value.
    pub(crate) fn invalid(&mut self, field: &str, node: &Node, message: String, fix: String) {
        self.error(codes::E007, field, node.place, message, fix);
    }

    /// What the text itself had wrong.
    pub(crate) fn problem(&mut self, problem: &Problem) {
        match problem {
            Problem::Broken { place, message } => self.error(
                codes::E001,
                "",
                *place,
                message.clone(),
                "correct the text at this line; the other documents of the file are not affected"
                    .to_owned(),
            ),
            Problem::Duplicate {
                place,
                field,
                first,
            } => self.error(
                codes::E004,
                field,
                *place,
                format!("this key is written twice; the first is in line {first}"),
                "keep one of the two".to_owned(),
            ),
        }
    }

    /// The part that holds a field.
    fn part_of<'f>(&self, field: &'f str) -> &'f str {
        let in_list =
            |(kind, prefix): &&(Kind, &str)| Some(*kind) == self.kind && field.starts_with(prefix);
        if self.kind == Some(Kind::PrometheusRule) {
            // A rule of a group.
            let ends = field.match_indices(']').nth(1);
            return ends.map_or("", |(end, _)| &field[..=end]);
        }
        if self.kind == Some(Kind::DestinationRule)
            && let Some(block) = tls_block(field)
        {
            return block;
        }
        match PARTS.iter().find(in_list) {
            Some(_) => field.find(']').map_or("", |end| &field[..=end]),
            None => "",
        }
    }

    /// Whether a part (`spec.http[2]`) has no error so far.
    pub(crate) fn sound(&self, part: &str) -> bool {
        !self.broken.contains(part)
    }

    /// Whether a field, or one below it, has an error of its own.
    pub(crate) fn any_error(&self, field: &str) -> bool {
        let mut errors = self.findings.iter().filter(|finding| finding.is_error());
        errors.any(|finding| below(&finding.field, field))
    }

    /// Whether exactly this field is written twice, so that some of it is lost.
    pub(crate) fn is_double(&self, field: &str) -> bool {
        let mut all = self.findings.iter();
        all.any(|finding| finding.code == codes::E004.id && finding.field == field)
    }

    /// Whether nothing outside the parts has an error.
    pub(crate) fn object_sound(&self) -> bool {
        self.sound("")
    }

    /// Names the object in all findings.
    pub(crate) fn finish(&mut self, meta: &Meta) {
        let Some(kind) = self.kind else { return };
        let name = if meta.name.is_empty() {
            "(no name)"
        } else {
            &meta.name
        };
        let object = if meta.namespace.is_empty() {
            format!("{kind} {name}")
        } else {
            format!("{kind} {}/{name}", meta.namespace)
        };
        for finding in &mut self.findings {
            finding.object.clone_from(&object);
        }
    }
}

fn below(field: &str, above: &str) -> bool {
    let rest = field.strip_prefix(above);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// The `tls` block of a traffic policy that a field lies in. It falls out alone, to calls that fail.
fn tls_block(field: &str) -> Option<&str> {
    let rest = field.strip_prefix("spec.")?;
    let rest = match rest.strip_prefix("subsets[") {
        Some(subset) => subset.split_once("].")?.1,
        None => rest,
    };
    let rest = rest.strip_prefix("trafficPolicy.")?;
    let rest = match rest.strip_prefix("portLevelSettings[") {
        Some(port) => port.split_once("].")?.1,
        None => rest,
    };
    let end = field.len() - rest.len() + "tls".len();
    below(rest, "tls").then(|| &field[..end])
}

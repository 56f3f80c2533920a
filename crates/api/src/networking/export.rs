//! `exportTo`: from which namespaces an object is seen.
//!
//! One reading for all kinds that have it (ServiceEntry, DestinationRule, VirtualService, and a Service's annotation):
//! `*` everybody, `.` the own namespace, `~` nobody, else a namespace by name. Nothing written means everybody.
//!
//! Invariant: a list with a word that means nothing is seen from the own namespace at most, never from more.

use crate::decode::Report;
use crate::tree::Node;
use naka_types::host::check_label;
use std::collections::BTreeSet;

/// Annotation by which a Service says the same.
pub const ANNOTATION: &str = "networking.istio.io/exportTo";

/// From which namespaces an object is seen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Export {
    /// From all.
    #[default]
    Everywhere,
    /// From these; none: from nowhere.
    To(BTreeSet<String>),
}

impl Export {
    /// Reads words as written in an object of `own`; an error names the word that means nothing.
    ///
    /// # Errors
    /// The first word that is no namespace and none of `*`, `.`, `~`, or that does not go with the others.
    pub fn read<'w>(words: impl IntoIterator<Item = &'w str>, own: &str) -> Result<Self, String> {
        let words: Vec<&str> = words.into_iter().collect();
        let mut to = BTreeSet::new();
        for word in &words {
            match *word {
                "*" | "~" if words.len() > 1 => {
                    return Err(format!("{word:?} cannot stand beside other words"));
                }
                "*" => return Ok(Self::Everywhere),
                "~" => return Ok(Self::To(BTreeSet::new())),
                "." => to.insert(own.to_owned()),
                name if check_label(name).is_ok() => to.insert(name.to_owned()),
                other => return Err(format!("{other:?} is no namespace")),
            };
        }
        Ok(if to.is_empty() {
            Self::Everywhere
        } else {
            Self::To(to)
        })
    }

    /// Whether any namespace sees both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Everywhere, Self::Everywhere) => true,
            (Self::To(to), Self::Everywhere) | (Self::Everywhere, Self::To(to)) => !to.is_empty(),
            (Self::To(one), Self::To(two)) => !one.is_disjoint(two),
        }
    }

    /// Whether a namespace sees it.
    #[must_use]
    pub fn reaches(&self, namespace: &str) -> bool {
        match self {
            Self::Everywhere => true,
            Self::To(to) => to.contains(namespace),
        }
    }
}

/// Reads `spec.exportTo` of an object in `namespace`; what cannot be meant puts the object out of force.
pub(crate) fn read(report: &mut Report, spec: &Node, namespace: &str) -> Export {
    let Some(node) = spec.get("exportTo") else {
        return Export::Everywhere;
    };
    let words = node.items().iter().filter_map(Node::text);
    Export::read(words, namespace).unwrap_or_else(|message| {
        report.invalid(
            "spec.exportTo",
            node,
            message,
            "write \"*\", \".\", \"~\" or names of namespaces".to_owned(),
        );
        Export::To(BTreeSet::from([namespace.to_owned()]))
    })
}

#[cfg(test)]
mod tests {
    use super::Export;

    #[test]
    fn words_say_from_where_an_object_is_seen() {
        for (words, own, other) in [
            (&[][..], true, true),
            (&["*"], true, true),
            (&["."], true, false),
            (&["~"], false, false),
            (&["b"], false, true),
            (&[".", "b"], true, true),
        ] {
            let export = Export::read(words.iter().copied(), "a").unwrap();
            assert_eq!(export.reaches("a"), own, "{words:?}");
            assert_eq!(export.reaches("b"), other, "{words:?}");
        }
        for wrong in [&["*", "."][..], &["~", "a"], &["A b"], &[""]] {
            assert!(
                Export::read(wrong.iter().copied(), "a").is_err(),
                "{wrong:?}"
            );
        }
    }
}

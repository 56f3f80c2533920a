//! The page of all fields of all kinds: which are enforced, by what proof, and which are not yet.
//!
//! Only fields that hold a value are counted: a block does what its fields do. "Enforced" is claimed only where a case or
//! a test is named; a field that is used but that nothing named proves is counted apart.

use super::Now;
use super::flat::{Row, rows};
use crate::kind::Kind;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What proves a field: a case file, or `file#test`.
#[derive(Debug)]
pub struct Proofs {
    exact: BTreeMap<(String, String), String>,
    /// Ends of paths, for blocks that stand in several places.
    ends: Vec<(String, String, String)>,
}

impl Proofs {
    /// From lists of `Kind path proof`; a path that begins with `*` is an end of paths.
    ///
    /// # Errors
    ///
    /// The line that is not of this form.
    pub fn read(lists: &[&str]) -> Result<Self, String> {
        let mut out = Self {
            exact: BTreeMap::new(),
            ends: Vec::new(),
        };
        let lines = lists.iter().flat_map(|list| list.lines());
        for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let words: Vec<&str> = line.split(' ').collect();
            let [kind, path, proof] = words[..] else {
                return Err(line.to_owned());
            };
            let (kind, proof) = (kind.to_owned(), proof.to_owned());
            match path.strip_prefix('*') {
                Some(end) => out.ends.push((kind, end.to_owned(), proof)),
                None => {
                    out.exact.insert((kind, path.to_owned()), proof);
                }
            }
        }
        Ok(out)
    }

    /// The proof of a field.
    #[must_use]
    pub fn of(&self, kind: Kind, path: &str) -> Option<&str> {
        let key = (kind.as_str().to_owned(), path.to_owned());
        let ends = || {
            let fits = |(of, end, _): &&(String, String, String)| {
                of == kind.as_str() && path.ends_with(end.as_str())
            };
            self.ends.iter().find(fits).map(|(_, _, proof)| proof)
        };
        self.exact.get(&key).or_else(ends).map(String::as_str)
    }

    /// Every entry: kind, path or its end, proof.
    pub fn all(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        let exact = self.exact.iter();
        let exact =
            exact.map(|((kind, path), proof)| (kind.as_str(), path.as_str(), proof.as_str()));
        let ends = self.ends.iter();
        exact.chain(ends.map(|(kind, end, proof)| (kind.as_str(), end.as_str(), proof.as_str())))
    }
}

/// Numbers of a kind, or of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Enforced, with a proof that is named.
    pub enforced: usize,
    /// Used, but nothing named proves it.
    pub unproven: usize,
    /// Not enforced: W900 at each use, or E901 on the part.
    pub not_yet: usize,
}

impl Totals {
    fn add(&mut self, other: Self) {
        self.enforced += other.enforced;
        self.unproven += other.unproven;
        self.not_yet += other.not_yet;
    }

    fn cells(self) -> String {
        let all = self.enforced + self.unproven + self.not_yet;
        format!(
            "{all} | {} | {} | {}",
            self.enforced, self.unproven, self.not_yet
        )
    }
}

/// Fields of a kind that hold a value, old spellings left out.
fn counted(kind: Kind) -> Vec<Row> {
    let mut all = rows(kind);
    all.retain(|row| row.named() && !row.block() && !extra(row));
    all
}

/// Old spellings that no CRD has.
fn extra(row: &Row) -> bool {
    matches!(row.now, Now::Alias(code) if code != "W111")
}

/// Totals of a kind.
#[must_use]
pub fn totals(kind: Kind, proofs: &Proofs) -> Totals {
    let mut out = Totals::default();
    for row in counted(kind) {
        match (row.now, proofs.of(kind, &row.path)) {
            // That a field does nothing, as in Istio, and says so, is a promise like any other.
            (Now::NotYet | Now::Default(_) | Now::Refused(_), _) => out.not_yet += 1,
            (_, Some(_)) => out.enforced += 1,
            (_, None) => out.unproven += 1,
        }
    }
    out
}

/// Whether the kind is one of Istio's CRDs.
#[must_use]
pub fn is_istio(kind: Kind) -> bool {
    kind.names().group.ends_with(".istio.io")
}

/// The page `docs/reference/fields.md`.
#[must_use]
pub fn page(proofs: &Proofs) -> String {
    let mut out = String::from(
        "# Fields\n\n\
         Every field of every kind that Naka reads, and what it does today. **Enforced** names the case (`cases/…`, run by \
         `make referee`, which also takes the field out and sees another verdict) or the test \
         (`file#test`) that shows it. **Used, unproven** does what its page says, but nothing named here shows it. **Not yet**: \
         the field is read, checked and kept, and each use is reported by `naka check`, by `naka apply` and in the object's \
         status (W900); where leaving it out would let more through, the part that holds it is out of force (E901).\n\n\
         **No effect, as in Istio** and **a label, as in Istio** are read and checked and decide nothing in Istio either, for \
         the reason given; they count as enforced where a test shows that, and are no part of the matrix of `make referee`. \
         A field counts once for every place it stands in; blocks are not counted, their fields are. The lists of fields of \
         Istio's kinds are compared with the CRDs of `istio.io/api` (`cases/istio-crds/fields.txt`, \
         `scripts/istio-fields.sh`).\n\n\
         Generated by `NAKA_WRITE_DOCS=1 cargo test -p naka-api --test fields`; a test compares.\n\n\
         ## Totals\n\n| kinds | fields | enforced | used, unproven | not yet |\n|---|---|---|---|---|\n",
    );
    let mut sums = [Totals::default(); 2];
    for kind in Kind::all() {
        sums[usize::from(!is_istio(kind))].add(totals(kind, proofs));
    }
    // Writing to a String cannot fail.
    let _ = writeln!(out, "| **Istio's CRDs** | {} |", sums[0].cells());
    let _ = writeln!(out, "| **others** | {} |", sums[1].cells());
    for kind in Kind::all() {
        let _ = writeln!(out, "| {kind} | {} |", totals(kind, proofs).cells());
    }
    for kind in Kind::all() {
        section(&mut out, kind, proofs);
    }
    out
}

/// The test that shows what is claimed of an old spelling, or of a field without effect.
fn shown(proof: Option<&str>) -> String {
    proof.map_or_else(|| ", unproven".to_owned(), |proof| format!(": `{proof}`"))
}

fn section(out: &mut String, kind: Kind, proofs: &Proofs) {
    let names = kind.names();
    let group = if names.group.is_empty() {
        "core"
    } else {
        names.group
    };
    let _ = writeln!(
        out,
        "\n## {kind}\n\n`{group}`, {}; see [its page]({}.md).\n\n| field | today |\n|---|---|",
        names.versions.join(", "),
        kind.page_name()
    );
    for row in counted(kind) {
        let today = match (row.now, proofs.of(kind, &row.path)) {
            (Now::Yes, Some(proof)) => format!("enforced: `{proof}`"),
            (Now::Yes, None) => "used, unproven".to_owned(),
            (Now::NotYet, _) => "not yet".to_owned(),
            (Now::Default(only), _) => format!("not yet: only `{only}`"),
            (Now::Refused(_), _) => "not yet: refused (E901)".to_owned(),
            (Now::Alias(code), proof) => format!("old spelling ({code}){}", shown(proof)),
            (Now::Ignored(why), proof) => {
                format!("no effect, as in Istio: {why} (W902){}", shown(proof))
            }
            (Now::Label(why), proof) => format!("a label, as in Istio: {why}{}", shown(proof)),
        };
        let _ = writeln!(out, "| `{}` | {today} |", row.path);
    }
}

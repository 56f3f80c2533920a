//! Workloads whose certificates count no more, although their time is not over.
//!
//! A list by workload id, not by serial number: a certificate's subject carries the id, renewals keep it, so one line
//! takes out every certificate of a workload, those that nobody remembers too, whichever intermediate signed them.
//!
//! The text has a line for each: the id, and the word `compromised` behind it where somebody else may hold the key, so
//! that connections that are open must end, too.
//!
//! Not here: certificates of others than workloads (a gateway's clients have lists of their own, see
//! [`crate::served`]), and who decides; the list is as good as the channel it came by, which is that of the roots.

use crate::Error;
use naka_types::workload::Ulid;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// The word of a key that somebody else may hold.
const COMPROMISED: &str = "compromised";
/// More than any mesh revokes within the life of a certificate.
const MOST: usize = 100_000;

/// Workload ids, each with whether its key may be in other hands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revoked(BTreeMap<Ulid, bool>);

impl Revoked {
    /// Reads the text.
    ///
    /// # Errors
    /// [`Error::Malformed`] when a line is none of its kind; half a list is not believed.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut all = BTreeMap::new();
        for line in text.lines() {
            let (id, word) = line.split_once(' ').unwrap_or((line, ""));
            let id = Ulid::parse(id).filter(|_| word.is_empty() || word == COMPROMISED);
            let id = id.ok_or(Error::Malformed("list of revoked workloads"))?;
            all.insert(id, word == COMPROMISED);
        }
        match all.len() > MOST {
            true => Err(Error::Malformed(
                "list of revoked workloads: it is too long",
            )),
            false => Ok(Self(all)),
        }
    }

    /// As text, in the order of ids.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for (id, compromised) in &self.0 {
            let word = if *compromised { " compromised" } else { "" };
            let _ = writeln!(text, "{id}{word}");
        }
        text
    }

    /// Adds a workload.
    pub fn insert(&mut self, id: Ulid, compromised: bool) {
        self.0.insert(id, compromised);
    }

    /// Whether a workload's certificates count no more.
    #[must_use]
    pub fn contains(&self, id: Ulid) -> bool {
        self.0.contains_key(&id)
    }

    /// Whether connections of a workload must end now.
    #[must_use]
    pub fn cuts(&self, id: Ulid) -> bool {
        self.0.get(&id).copied().unwrap_or(false)
    }

    /// Whether nobody is on it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::Revoked;
    use naka_types::workload::Ulid;

    #[test]
    fn a_list_reads_as_it_was_written_and_not_by_halves() {
        let (one, two, other) = (Ulid::new(1, 1), Ulid::new(2, 2), Ulid::new(3, 3));
        let mut list = Revoked::default();
        list.insert(two, true);
        list.insert(one, false);
        let text = list.to_text();
        assert_eq!(text, format!("{one}\n{two} compromised\n"));
        let read = Revoked::parse(&text).unwrap();
        assert_eq!(read, list);
        assert!(read.contains(one) && !read.cuts(one));
        assert!(read.contains(two) && read.cuts(two));
        assert!(!read.contains(other) && !read.cuts(other));
        assert!(Revoked::parse("").unwrap().is_empty());
        for bad in ["x", "\n", " compromised"] {
            assert!(Revoked::parse(bad).is_err(), "{bad:?}");
        }
        assert!(Revoked::parse(&format!("{one} perhaps")).is_err());
        assert!(Revoked::parse(&format!("{text}{one}x\n")).is_err());
    }
}

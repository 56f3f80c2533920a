//! How sensitive the data of a workload is: a label that switches demands on.
//!
//! The label only ever makes things stricter, so that it counts whoever says it, the workload itself too. A word that is
//! none of the four is read as the strictest.

use crate::labels::Labels;

/// The label, of a workload or of a Namespace for all of its workloads.
pub const DATA_CLASS: &str = "naka.dev/data-class";

/// Classes; each has the demands of those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DataClass {
    /// Nothing is demanded.
    Public,
    /// Calls are logged.
    Internal,
    /// Calls are encrypted and by verified callers.
    Confidential,
    /// Two others approve, and each call is told of.
    Restricted,
}

impl DataClass {
    /// From its word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "public" => Self::Public,
            "internal" => Self::Internal,
            "confidential" => Self::Confidential,
            "restricted" => Self::Restricted,
            _ => return None,
        })
    }

    /// That of labels; without the label nothing is demanded.
    #[must_use]
    pub fn of(labels: &Labels) -> Self {
        labels.get(DATA_CLASS).map_or(Self::Public, |word| {
            Self::parse(word).unwrap_or(Self::Restricted)
        })
    }

    /// Whether calls must be logged.
    #[must_use]
    pub fn wants_log(self) -> bool {
        self >= Self::Internal
    }

    /// Whether calls must be encrypted.
    #[must_use]
    pub fn wants_encryption(self) -> bool {
        self >= Self::Confidential
    }
}

#[cfg(test)]
mod tests {
    use super::{DATA_CLASS, DataClass};
    use crate::labels::Labels;

    #[test]
    fn each_class_demands_what_the_one_before_does() {
        for (word, log, encryption) in [
            ("public", false, false),
            ("internal", true, false),
            ("confidential", true, true),
            ("restricted", true, true),
            ("Secret", true, true),
        ] {
            let labels: Labels = [(DATA_CLASS.to_owned(), word.to_owned())].into();
            let class = DataClass::of(&labels);
            assert_eq!(
                (class.wants_log(), class.wants_encryption()),
                (log, encryption),
                "{word}"
            );
        }
        assert_eq!(DataClass::of(&Labels::new()), DataClass::Public);
    }
}

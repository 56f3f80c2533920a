//! What can go wrong with the store, one variant per decision a caller can take.

use naka_types::name::ObjectRef;
use std::io;

/// Why the store refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written; `what` names it and the step.
    #[error("{what}")]
    Io {
        /// File and step.
        what: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The file was written by a newer Naka; it is left untouched.
    #[error("{file} has format {found}, this naka knows formats up to {known}: use a newer naka")]
    NewerFormat {
        /// Which file.
        file: String,
        /// Format found.
        found: u32,
        /// Newest format known here.
        known: u32,
    },
    /// Another process has the mesh open.
    #[error("{dir} is in use by another process{holder}")]
    Locked {
        /// Mesh directory.
        dir: String,
        /// ` (pid N)` where known, else empty.
        holder: String,
    },
    /// A write or sync failed earlier: nothing is written until the process is started again.
    #[error("writing stopped until restart: {0}")]
    Stopped(String),
    /// The log is damaged: its sound part is served, nothing is written until it is repaired.
    #[error("read-only until `naka store repair`: {0}")]
    ReadOnly(String),
    /// The object is no longer at the revision the caller expected.
    #[error(
        "{object} is at resourceVersion {actual}, not at {expected}: read it again and repeat the change"
    )]
    Conflict {
        /// Which object.
        object: ObjectRef,
        /// Revision the caller had.
        expected: u64,
        /// Revision it has.
        actual: u64,
    },
    /// The object exists, the caller asked for a new one.
    #[error("{0} exists already")]
    AlreadyExists(ObjectRef),
    /// The object belongs to a source; it is changed there.
    #[error("{object} comes from {place}: change it there")]
    Owned {
        /// Which object.
        object: ObjectRef,
        /// File and line.
        place: String,
    },
    /// No such object.
    #[error("{0} does not exist")]
    NotFound(ObjectRef),
    /// No commit has this revision.
    #[error("there is no revision {0}")]
    NoSuchRevision(u64),
    /// A later change touched the same object, so taking the older one back would lose it.
    #[error(
        "revision {revision} cannot be undone alone: revision {later} ({actor}) changed {object} after it; undo that one first"
    )]
    UndoConflict {
        /// Revision to undo.
        revision: u64,
        /// Later revision.
        later: u64,
        /// Who made the later change.
        actor: String,
        /// Object both changed.
        object: ObjectRef,
    },
    /// The revision changed no object, so there is nothing to take back.
    #[error("revision {0} changed no object: nothing to undo")]
    NothingToUndo(u64),
    /// Events before `oldest` are no longer held for watching.
    #[error("events after revision {asked} are gone, the oldest held is {oldest}: list again")]
    Gone {
        /// Revision asked for.
        asked: u64,
        /// Oldest revision a watch can start from.
        oldest: u64,
    },
    /// The commit went by its age.
    #[error("revision {asked} went by its age, the oldest that can be asked for is {oldest}")]
    Outlived {
        /// Revision asked for.
        asked: u64,
        /// Oldest revision whose state is known.
        oldest: u64,
    },
    /// The draft cannot become an event.
    #[error("{0}")]
    Invalid(String),
    /// A secret could not be sealed or opened.
    #[error("secret {object}: {why}")]
    Seal {
        /// Which secret.
        object: ObjectRef,
        /// What is wrong.
        why: String,
    },
}

impl Error {
    /// An I/O error of a file and a step.
    pub(crate) fn io(what: impl Into<String>, source: io::Error) -> Self {
        let what = format!("{}: {source}", what.into());
        Self::Io { what, source }
    }
}

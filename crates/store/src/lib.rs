//! The event log and its folds: everything that happens to the mesh is an [`Event`], and the state is what the
//! events add up to (design decision 7).
//!
//! [`Store::open`] replays the log of a mesh directory and says what it met ([`Recovery`]); [`Store::commit`] answers
//! only once the change is on disk; [`Store::snapshot`] hands out the state without waiting for anybody. History,
//! `get --at`, undo and audit are queries on the same events.
//!
//! Why a log of our own rather than an embedded database: an append-only file whose records carry length, checksum
//! and the hash of their predecessor is 300 lines, can be read by eye, and makes audit and undo the storage format
//! instead of a feature on top.
//!
//! Invariants: one process per directory (lock file); one thread writes; nothing is answered before `fdatasync`;
//! after a failed write or sync nothing is written again; a secret value enters a record only sealed.
//!
//! Not here: what objects mean (`naka-api`), status of any kind, the wire.

mod archive;
mod backup;
mod checkpoint;
mod cut;
mod error;
mod event;
mod fold;
mod keyfile;
mod log;
mod owned;
mod passphrase;
mod place;
mod plan;
mod query;
mod reseal;
mod seal;
mod stamp;
mod store;
mod stream;
mod verify;
mod writer;

pub use backup::{Contents, backup, restore};
pub use cut::Cut;
pub use error::Error;
pub use event::{Action, Commit, Draft, Event, Filter, RecordKey};
pub use fold::Snapshot;
pub use keyfile::{Lock, Sealing};
pub use log::{Damage, Recovery};
pub use owned::{Owned, SOURCE};
pub use passphrase::Passphrase;
pub use seal::{REDACTED, redact};
pub use stamp::{parse_rfc3339, rfc3339};
pub use store::{OnSync, Preview, Repaired, Settings, Store};
pub use stream::{Entry, Stream, StreamSettings};
pub use verify::{Broken, Head, Verified, VerifiedStream, verify};

#[cfg(test)]
mod tests;

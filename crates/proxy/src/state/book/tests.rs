//! Updates against snapshots.

//! Naka store.

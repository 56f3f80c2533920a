//! Naka identity.

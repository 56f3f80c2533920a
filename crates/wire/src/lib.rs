//! Naka wire.

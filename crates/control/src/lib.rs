//! Naka control.

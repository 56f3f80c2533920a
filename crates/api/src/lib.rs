//! Naka api.

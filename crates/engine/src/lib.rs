//! Naka engine.

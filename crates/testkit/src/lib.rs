//! Naka testkit.

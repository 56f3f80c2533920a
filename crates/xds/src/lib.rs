//! Naka xds.

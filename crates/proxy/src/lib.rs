//! Naka proxy.

//! Naka telemetry.

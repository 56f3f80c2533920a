//! The naka command.

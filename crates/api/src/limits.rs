//! `naka.dev` kinds that limit.

pub mod local_rate_limit;

//! Every bound of an expression, in one place.

/// Longest text of an expression, in bytes.
pub const SOURCE_BYTES: usize = 4 * 1024;
/// How deep an expression may be nested.
pub const DEPTH: usize = 32;
/// Most parts of an expression.
pub const NODES: usize = 256;
/// Most that one evaluation may cost; a comparison costs 1, a body field 100.
pub const COST: u32 = 1000;
/// Longest request body that is read for a condition. A longer one is unknown.
pub const BODY_BYTES: usize = 64 * 1024;
/// Longest regular expression.
pub const PATTERN_BYTES: usize = 1024;
/// Memory a compiled regular expression may take.
pub const PATTERN_NFA_BYTES: usize = 256 * 1024;
/// Memory its lazy automaton may take while matching.
pub const PATTERN_CACHE_BYTES: usize = 128 * 1024;

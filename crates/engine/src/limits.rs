//! Every cap the engine enforces, in one place.

/// Longest request target in bytes; longer ones get `uri-too-long`.
pub const TARGET_BYTES: usize = 8 * 1024;
/// All header names and values together, in bytes; more gets `headers-too-large`.
pub const HEADER_BYTES: usize = 64 * 1024;
/// Number of header fields; more gets `headers-too-large`.
pub const HEADER_FIELDS: usize = 100;
/// Longest host name.
pub const HOST_BYTES: usize = 253;
/// Longest request id taken over from a caller; a longer one is replaced.
pub const REQUEST_ID_BYTES: usize = 128;
/// Longest regular expression taken from configuration.
pub const PATTERN_BYTES: usize = 4 * 1024;
/// Memory a compiled regular expression may take.
pub const PATTERN_NFA_BYTES: usize = 512 * 1024;
/// Memory one regular expression's lazy automaton may take while matching.
pub const PATTERN_CACHE_BYTES: usize = 256 * 1024;
/// Slots of a weighted round-robin schedule; finer weights are rounded to it.
pub const SCHEDULE_SLOTS: usize = 4096;
/// Retries that may be under way to one cluster whatever its load.
pub const MIN_CONCURRENT_RETRIES: u32 = 3;
/// Share of a cluster's active requests that may be retries, in percent.
pub const RETRY_BUDGET_PERCENT: u32 = 20;
/// Retries that the default budget lets a destination have that answers nothing but errors.
pub const RESERVED_RETRIES: u32 = 50;
/// Longest token that is read.
pub const TOKEN_BYTES: usize = 16 * 1024;
/// Most tokens of one request that are looked at.
pub const TOKENS: usize = 4;
/// Most retries one request may have, whatever a route or header asks.
pub const MAX_RETRIES: u32 = 10;

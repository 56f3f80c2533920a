//! A gateway's side towards strangers: the first bytes of a connection, which server takes it, and its TLS.

pub(crate) mod hello;
pub(crate) mod serve;
pub mod spec;

/// Monotonic time, the same for all workers.
pub(crate) fn uptime() -> std::time::Duration {
    static BEGAN: std::sync::LazyLock<std::time::Instant> =
        std::sync::LazyLock::new(std::time::Instant::now);
    BEGAN.elapsed()
}

//! Every bound of the data path in one place: sizes, counts and times.
//!
//! Outside input meets a number from this file or it is not bounded at all; route and cluster settings may only be
//! tighter. Values follow Envoy's advice for edge proxies where it gives one, so that what passes an Envoy passes here.

use std::time::Duration;

/// Longest request or response head, in bytes.
pub const HEADER_BYTES: usize = 64 * 1024;
/// Most header fields of one message; also hyper's own limit, which is left alone because setting it costs a cleared
/// table per message.
pub const HEADER_FIELDS: usize = 100;
/// Time for a caller to send a request head.
pub const HEADER_READ: Duration = Duration::from_secs(10);
/// Time for a TLS handshake, either side.
pub const TLS_HANDSHAKE: Duration = Duration::from_secs(10);
/// Time for a connection outside the mesh.
pub const PASSTHROUGH_CONNECT: Duration = Duration::from_secs(10);
/// Time that a request may wait for configuration asked for on demand.
pub const CONFIG_WAIT: Duration = Duration::from_secs(1);
/// How long the first bytes of a connection of unknown protocol are awaited before the other side is asked as well.
pub const SNIFF_GRACE: Duration = Duration::from_millis(10);
/// Time that choosing a route may wait for a body; afterwards the body is unknown.
pub const BODY_WAIT: Duration = Duration::from_secs(10);
/// Request body kept for a second try; longer bodies are sent once.
pub const REPLAY_BYTES: usize = 64 * 1024;
/// Body bytes that wait for one copy of a request; a copy that falls further behind is cut off.
pub const COPY_BYTES: usize = 1024 * 1024;
/// The same for all copies of a worker.
pub const COPIES_BYTES: usize = 16 * 1024 * 1024;
/// Copies of one worker under way; more are not made.
pub const COPIES: usize = 1024;
/// Spans that a worker remembers, in bytes.
pub const TRACE_RING: usize = 1 << 20;
/// A request that waits longer for its answer has its trace kept.
pub const TRACE_SLOW: Duration = Duration::from_secs(1);
/// Longest life of a copy; the route's timeout may be shorter.
pub const COPY_TIME: Duration = Duration::from_secs(60);
/// Longest answer of who is asked whether a request may pass.
pub const CHECK_ANSWER: usize = 64 * 1024;
/// Idle HTTP/1 connections kept per endpoint and worker.
pub const H1_IDLE_PER_ENDPOINT: usize = 128;
/// How long an idle HTTP/1 connection to a program is kept: less than the 5 s of Node and uvicorn.
pub const H1_IDLE_PROGRAM: Duration = Duration::from_secs(4);
/// How long an idle connection to another mesh proxy is kept.
pub const MESH_IDLE: Duration = Duration::from_secs(90);
/// Streams on one of our HTTP/2 connections before another one is opened.
pub const H2_STREAMS_PER_CONNECTION: usize = 256;
/// Concurrent streams granted to verified mesh peers and to the own program.
pub const H2_STREAMS_MESH: u32 = 1024;
/// Concurrent streams granted to callers from outside.
pub const H2_STREAMS_EDGE: u32 = 100;
/// HTTP/2 flow-control window of one stream.
pub const H2_STREAM_WINDOW: u32 = 64 * 1024;
/// HTTP/2 flow-control window of one connection.
pub const H2_CONNECTION_WINDOW: u32 = 1024 * 1024;
/// The same where many callers' streams share a connection between our proxies: none of them can use it up for the
/// others, however little it reads.
pub const H2_SHARED_WINDOW: u32 = H2_STREAM_WINDOW * H2_STREAMS_PER_CONNECTION as u32;
/// Requests of a stranger's HTTP/2 connection before it is judged by how many of them it broke off (Envoy's default).
pub const H2_RESETS_JUDGED: u32 = 500;
/// A request that its caller breaks off within this time counts as one (Envoy's default).
pub const H2_RESET_EARLY: Duration = Duration::from_secs(1);
/// Resets that a mesh peer may have waiting: it passes on those of all its callers.
pub const H2_RESETS_MESH: usize = 1024;
/// How long a stranger may leave an answer where it is (Envoy's idle time of streams).
pub const STALLED: Duration = Duration::from_secs(300);
/// Response bytes that one HTTP/2 stream may hold back in memory.
pub const H2_SEND_BUFFER: usize = 64 * 1024;
/// An HTTP/2 connection with requests under way is asked for a sign of life this often.
pub const H2_PING: Duration = Duration::from_secs(30);
/// Longest wait for that sign.
pub const H2_PING_TIMEOUT: Duration = Duration::from_secs(20);
/// A connection without a byte in either direction for this long is closed (Envoy's default).
pub const CONNECTION_IDLE: Duration = Duration::from_secs(3600);
/// Messages waiting for one worker.
pub const WORKER_QUEUE: usize = 1024;
/// Length of the listen queue.
pub const BACKLOG: i32 = 4096;

/// Raises the limit of open files to the hard limit, because each relayed connection takes two. Returns the limit in
/// force afterwards.
#[must_use]
pub fn raise_open_files() -> u64 {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    if limit.current != limit.maximum {
        let wanted = rustix::process::Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        if rustix::process::setrlimit(rustix::process::Resource::Nofile, wanted).is_ok() {
            limit.current = limit.maximum;
        }
    }
    limit.current.unwrap_or(u64::MAX)
}

/// How long a call waits for the first answer about its destination's name.
pub const LOOK_UP: Duration = Duration::from_secs(5);

/// Label sets of metrics are forgotten when nothing was counted under them for so long.
pub const SERIES_IDLE: Duration = Duration::from_secs(30 * 60);

/// How often that is looked for.
pub const SERIES_SWEEP: Duration = Duration::from_secs(5 * 60);

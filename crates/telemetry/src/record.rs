//! One exchange, as the access log tells it: Istio's default JSON keys, and `reason`, `peer`, `direction`, `attempts`.
//!
//! A record borrows everything, so making one costs nothing when the log is off, and formatting it allocates nothing.

use crate::time::push_rfc3339;
use naka_types::reason::Reason;
use std::io::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

/// Which way the exchange went through the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Towards the workload.
    Inbound,
    /// From the workload.
    Outbound,
    /// Through a gateway.
    Gateway,
}

impl Direction {
    fn word(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
            Self::Gateway => "gateway",
        }
    }
}

/// One exchange: an HTTP request with its response, or a TCP connection (then method, path and code are empty).
/// Empty texts and `None` are written as `null`.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// When its first byte came.
    pub start: SystemTime,
    /// Which way it went.
    pub direction: Direction,
    /// Method.
    pub method: &'a str,
    /// Path and query as sent upstream.
    pub path: &'a str,
    /// `HTTP/1.1`, `HTTP/2`, or empty for bytes.
    pub protocol: &'a str,
    /// Status sent to the caller, 0 when none.
    pub response_code: u16,
    /// gRPC status, for gRPC.
    pub grpc_status: Option<u8>,
    /// Why the proxy answered itself or ended it.
    pub reason: Option<Reason>,
    /// The longer story behind `reason`, in words.
    pub details: &'a str,
    /// What policies noticed that decide nothing: outcome and rule of each.
    pub policies: &'a str,
    /// Body bytes from the caller.
    pub bytes_received: u64,
    /// Body bytes to the caller.
    pub bytes_sent: u64,
    /// First byte in to last byte out.
    pub duration: Duration,
    /// Request sent to response headers received.
    pub upstream_service_time: Option<Duration>,
    /// `x-forwarded-for`.
    pub x_forwarded_for: &'a str,
    /// `user-agent`.
    pub user_agent: &'a str,
    /// `x-request-id`.
    pub request_id: &'a str,
    /// Trace id.
    pub trace_id: &'a str,
    /// Authority.
    pub authority: &'a str,
    /// Endpoint that answered.
    pub upstream_host: Option<SocketAddr>,
    /// Cluster it belongs to.
    pub upstream_cluster: &'a str,
    /// Our address towards it.
    pub upstream_local_address: Option<SocketAddr>,
    /// Why TLS or the connection to it failed.
    pub upstream_failure: &'a str,
    /// Our address towards the caller.
    pub downstream_local_address: Option<SocketAddr>,
    /// The caller's address.
    pub downstream_remote_address: Option<SocketAddr>,
    /// Name the caller asked for in TLS.
    pub requested_server_name: &'a str,
    /// Route that decided.
    pub route_name: &'a str,
    /// Verified SPIFFE id of the other side.
    pub peer: &'a str,
    /// Tries made, 0 when none was.
    pub attempts: u32,
}

impl Default for Record<'_> {
    fn default() -> Self {
        Self {
            start: SystemTime::UNIX_EPOCH,
            direction: Direction::Outbound,
            method: "",
            path: "",
            protocol: "",
            response_code: 0,
            grpc_status: None,
            reason: None,
            details: "",
            policies: "",
            bytes_received: 0,
            bytes_sent: 0,
            duration: Duration::ZERO,
            upstream_service_time: None,
            x_forwarded_for: "",
            user_agent: "",
            request_id: "",
            trace_id: "",
            authority: "",
            upstream_host: None,
            upstream_cluster: "",
            upstream_local_address: None,
            upstream_failure: "",
            downstream_local_address: None,
            downstream_remote_address: None,
            requested_server_name: "",
            route_name: "",
            peer: "",
            attempts: 0,
        }
    }
}

impl Record<'_> {
    /// Appends the line, newline included.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"start_time\":\"");
        push_rfc3339(out, self.start);
        out.push(b'"');
        text(out, "direction", self.direction.word());
        text(out, "method", self.method);
        text(out, "path", self.path);
        text(out, "protocol", self.protocol);
        number(out, "response_code", Some(u64::from(self.response_code)));
        text(out, "response_flags", self.reason.map_or("-", Reason::flag));
        text(out, "response_code_details", self.details);
        text(out, "policies", self.policies);
        number(out, "grpc_status", self.grpc_status.map(u64::from));
        text(out, "reason", self.reason.map_or("", Reason::code));
        number(out, "bytes_received", Some(self.bytes_received));
        number(out, "bytes_sent", Some(self.bytes_sent));
        number(out, "duration", Some(millis(self.duration)));
        number(
            out,
            "upstream_service_time",
            self.upstream_service_time.map(millis),
        );
        text(out, "x_forwarded_for", self.x_forwarded_for);
        text(out, "user_agent", self.user_agent);
        text(out, "request_id", self.request_id);
        text(out, "trace_id", self.trace_id);
        text(out, "authority", self.authority);
        address(out, "upstream_host", self.upstream_host);
        text(out, "upstream_cluster", self.upstream_cluster);
        address(out, "upstream_local_address", self.upstream_local_address);
        text(
            out,
            "upstream_transport_failure_reason",
            self.upstream_failure,
        );
        address(
            out,
            "downstream_local_address",
            self.downstream_local_address,
        );
        address(
            out,
            "downstream_remote_address",
            self.downstream_remote_address,
        );
        text(out, "requested_server_name", self.requested_server_name);
        text(out, "route_name", self.route_name);
        text(out, "peer", self.peer);
        number(out, "attempts", Some(u64::from(self.attempts)));
        out.extend_from_slice(b"}\n");
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn key(out: &mut Vec<u8>, key: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\":");
}

fn number(out: &mut Vec<u8>, name: &str, value: Option<u64>) {
    key(out, name);
    let _ = match value {
        Some(value) => write!(out, "{value}"),
        None => write!(out, "null"),
    };
}

fn address(out: &mut Vec<u8>, name: &str, value: Option<SocketAddr>) {
    key(out, name);
    let _ = match value {
        Some(value) => write!(out, "\"{value}\""),
        None => write!(out, "null"),
    };
}

fn text(out: &mut Vec<u8>, name: &str, value: &str) {
    key(out, name);
    if value.is_empty() {
        out.extend_from_slice(b"null");
        return;
    }
    out.push(b'"');
    let bytes = value.as_bytes();
    let mut sound = 0;
    for (place, byte) in bytes.iter().enumerate() {
        if *byte >= 0x20 && !matches!(byte, b'"' | b'\\' | 0x7f) {
            continue;
        }
        out.extend_from_slice(&bytes[sound..place]);
        sound = place + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            other => {
                let _ = write!(out, "\\u{other:04x}");
            }
        }
    }
    out.extend_from_slice(&bytes[sound..]);
    out.push(b'"');
}

//! What is told of a request that took its way: the trail, the tries, the answer.

use http::HeaderMap;
use naka_engine::exchange::PassThrough;
use naka_engine::reply::LocalReply;
use naka_engine::why::Why;
use naka_types::finding::Finding;
use naka_types::reason::Reason;
use std::net::SocketAddr;
use std::time::Duration;

/// A request as it leaves for an endpoint.
#[derive(Debug)]
pub(crate) struct Sent {
    /// Cluster, as xDS names it.
    pub(crate) cluster: String,
    /// Endpoint.
    pub(crate) address: SocketAddr,
    /// Path and query.
    pub(crate) target: String,
    /// Host the endpoint sees.
    pub(crate) authority: String,
    /// Headers the endpoint sees.
    pub(crate) headers: HeaderMap,
    /// Time for the whole exchange.
    pub(crate) timeout: Option<Duration>,
    /// Time for this try.
    pub(crate) per_try_timeout: Option<Duration>,
}

/// What the caller gets.
#[derive(Debug)]
pub(crate) struct Got {
    /// Status.
    pub(crate) status: http::StatusCode,
    /// Headers.
    pub(crate) headers: HeaderMap,
    /// Reason, when the proxy answers itself.
    pub(crate) reason: Option<Reason>,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Explained {
    /// The request in one line.
    pub(crate) request: String,
    /// The engine's trail.
    pub(crate) trail: Vec<Why>,
    /// What is wrong with the objects on the way.
    pub(crate) findings: Vec<Finding>,
    /// The end of it in one line.
    pub(crate) verdict: String,
    /// The tries.
    pub(crate) sent: Vec<Sent>,
    /// Copies for other clusters: cluster and host.
    pub(crate) copies: Vec<(String, String)>,
    /// Time that the route injects.
    pub(crate) delay: Duration,
    /// What trust models say, each with all of its output fields.
    pub(crate) trust: Vec<serde_json::Value>,
    /// The answer; none when the request leaves the mesh.
    pub(crate) got: Option<Got>,
    /// The connection is closed before a request.
    pub(crate) closed: bool,
}

impl Explained {
    /// The request leaves the mesh.
    pub(super) fn outside(&mut self, to: &PassThrough) {
        self.verdict = format!(
            "passed through to {}:{}, outside the mesh, if that name can be resolved; else 503 {}",
            to.host,
            to.port,
            Reason::UnknownHost
        );
    }

    /// The proxy answers itself.
    pub(super) fn replied(&mut self, reply: LocalReply) {
        self.verdict = format!(
            "{} {}: {}",
            reply.status.as_u16(),
            reply.reason,
            reply.reason.meaning()
        );
        self.got = Some(Got {
            status: reply.status,
            headers: reply.headers,
            reason: Some(reply.reason),
        });
    }
}

/// Headers as one JSON object; values of the same name are joined by commas.
fn shown(headers: &HeaderMap) -> serde_json::Value {
    let mut all = serde_json::Map::new();
    for name in headers.keys() {
        let values: Vec<String> = headers
            .get_all(name)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .collect();
        all.insert(name.to_string(), values.join(", ").into());
    }
    all.into()
}

impl Sent {
    pub(super) fn to_json(&self) -> serde_json::Value {
        let time = |time: Option<Duration>| time.map(|t| naka_types::duration::Show(t).to_string());
        serde_json::json!({
            "cluster": self.cluster, "target": self.target, "authority": self.authority,
            "headers": shown(&self.headers), "timeout": time(self.timeout),
            "per_try_timeout": time(self.per_try_timeout),
        })
    }
}

impl Got {
    pub(super) fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "status": self.status.as_u16(), "headers": shown(&self.headers),
            "reason": self.reason.map(Reason::code),
        })
    }
}

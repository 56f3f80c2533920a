//! What keeps calls of one kind at one endpoint (the hash of a header, cookie, address or query parameter), and what
//! an answer tells about an endpoint's load.
//!
//! Hashes are Envoy's: xxHash64 of the value, of several values of a header in order; a query parameter's first value,
//! undecoded. A cookie that is wanted and absent is made here and goes out with the response.

use super::{Cx, Exchange, Outcome};
use crate::canonical::{Canonical, Origin};
use crate::model::{Cluster, Cookie, HashKey, Policy};
use crate::pick::orca;
use http::{HeaderMap, HeaderValue, header};
use smallvec::SmallVec;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use xxhash_rust::xxh64::{Xxh64, xxh64};

/// The key of a connection: only its caller's address is known.
pub(super) fn of_connection(key: &HashKey, cx: &mut Cx<'_>) -> Option<u64> {
    match key {
        HashKey::SourceIp => of_address(cx.origin.address?),
        HashKey::Header(_) | HashKey::Cookie(_) | HashKey::Query(_) => None,
    }
}

/// Where the caller meant to go, as an address.
pub(super) fn meant(cluster: &Cluster, origin: &Origin) -> Option<SocketAddr> {
    if cluster.spec.policy != Policy::Passthrough {
        return None;
    }
    let (host, port) = origin.destination.as_ref()?;
    let address: IpAddr = host.trim_matches(['[', ']']).parse().ok()?;
    Some(SocketAddr::new(address, *port))
}

fn of_address(address: IpAddr) -> Option<u64> {
    let mut text = SmallText::default();
    write!(text, "{address}").ok()?;
    Some(xxh64(&text.0, 0))
}

/// Room for an address without the heap.
#[derive(Default)]
struct SmallText(SmallVec<[u8; 48]>);

impl std::fmt::Write for SmallText {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

fn of_header(name: &str, request: &Canonical) -> Option<u64> {
    let text = match name {
        ":authority" | "host" => request.authority(),
        ":path" => request.target(),
        ":method" => request.method().as_str(),
        _ => {
            let mut values = request.headers().get_all(name).iter();
            let first = values.next()?.as_bytes();
            let mut all: SmallVec<[&[u8]; 4]> = values.map(HeaderValue::as_bytes).collect();
            if all.is_empty() {
                return Some(xxh64(first, 0));
            }
            all.push(first);
            all.sort_unstable();
            let mut hash = Xxh64::new(0);
            all.iter().for_each(|value| hash.update(value));
            return Some(hash.digest());
        }
    };
    Some(xxh64(text.as_bytes(), 0))
}

fn of_query(name: &str, request: &Canonical) -> Option<u64> {
    let pairs = request.query()?.split('&');
    let mut pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let (_, value) = pairs.find(|(key, _)| *key == name)?;
    Some(xxh64(value.as_bytes(), 0))
}

/// The first value of a cookie that is not empty.
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let lines = headers.get_all(header::COOKIE).iter();
    let pairs = lines.flat_map(|line| line.as_bytes().split(|b| *b == b';'));
    let found = pairs.filter_map(|pair| {
        let pair = pair.trim_ascii();
        let value = pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        Some(
            value
                .strip_prefix(b"\"")
                .and_then(|v| v.strip_suffix(b"\""))
                .unwrap_or(value),
        )
    });
    found.into_iter().next().filter(|value| !value.is_empty())
}

impl Exchange {
    /// The hash of what a cluster's policy hashes in this request.
    pub(super) fn key(
        &mut self,
        key: &HashKey,
        request: &Canonical,
        cx: &mut Cx<'_>,
    ) -> Option<u64> {
        match key {
            HashKey::Header(name) => of_header(name, request),
            HashKey::Query(name) => of_query(name, request),
            HashKey::SourceIp => of_address(cx.origin.address?),
            HashKey::Cookie(wanted) => match cookie(request.headers(), &wanted.name) {
                Some(value) => Some(xxh64(value, 0)),
                None => self.make_cookie(wanted, cx),
            },
        }
    }

    /// Makes the cookie that is wanted, once for all tries.
    fn make_cookie(&mut self, wanted: &Cookie, cx: &mut Cx<'_>) -> Option<u64> {
        wanted.ttl?;
        if let Some((hash, _)) = &self.cookie {
            return Some(*hash);
        }
        let value = format!("{:016x}", cx.rng.u64(..));
        let line = format!("{}=\"{value}\"{}", wanted.name, wanted.suffix);
        let hash = xxh64(value.as_bytes(), 0);
        self.cookie = HeaderValue::from_str(&line).ok().map(|line| (hash, line));
        Some(hash)
    }

    /// What the caller is told about the endpoint that was picked for it.
    pub(super) fn mark_response(&self, headers: &mut HeaderMap) {
        if let Some((_, cookie)) = &self.cookie {
            headers.append(header::SET_COOKIE, cookie.clone());
        }
    }

    /// Learns from how a try ended, where the cluster's policy wants to know.
    pub(super) fn learn(&self, outcome: &Outcome<'_>, cx: &Cx<'_>) {
        let (Some(cluster), Some(endpoint)) = (&self.cluster, &self.endpoint) else {
            return;
        };
        let load = endpoint.state.load();
        match cluster.spec.policy {
            Policy::PeakEwma => {
                let took: Duration = cx.now.saturating_sub(self.started);
                let (failed, counts) = match outcome {
                    Outcome::Response(parts) => (parts.status.is_server_error(), true),
                    Outcome::ClientGone | Outcome::CircuitOpen => (false, false),
                    _ => (true, true),
                };
                if counts {
                    load.answered(took, failed, cx.now);
                }
            }
            Policy::Utilization => {
                if let (Outcome::Response(parts), Some(rules)) =
                    (outcome, &cluster.spec.balance.utilization)
                    && let Some(weight) = orca::weight(&parts.headers, rules)
                {
                    load.reported(weight, cx.now);
                }
            }
            _ => {}
        }
    }
}

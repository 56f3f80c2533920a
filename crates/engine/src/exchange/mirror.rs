//! Copies of a request for other clusters, whose answers nobody sees.
//!
//! Drawn once, with the first try: the copy is of the request as the destination gets it, with `-shadow` after the name
//! of its host, as Envoy marks it. A copy is counted like any request of its cluster, and one that meets a limit, or has
//! no endpoint, is not made: it never hurts the request itself.

use super::attempt::{Avoid, choose};
use super::{Cx, Exchange};
use crate::canonical::Canonical;
use crate::model::{Action, Cluster, Endpoint};
use crate::runtime::Permit;
use crate::why::{Stage, Why};
use http::HeaderValue;
use std::sync::Arc;
use std::time::Duration;

/// A copy to send.
#[derive(Debug)]
pub struct Copy {
    /// Destination.
    pub cluster: Arc<Cluster>,
    /// Whom to call.
    pub endpoint: Arc<Endpoint>,
    /// Counts the copy; keep until it is over.
    pub permit: Permit,
    /// Host it carries.
    pub host: HeaderValue,
    /// The route's timeout.
    pub limit: Option<Duration>,
}

impl Exchange {
    /// Whether copies may be wanted with the try that was just given out.
    #[must_use]
    pub fn may_copy(&self) -> bool {
        self.attempts == 1
            && matches!(self.route.as_deref().map(|route| &route.action),
                Some(Action::Forward(forward)) if !forward.mirrors.is_empty())
    }

    /// Draws the copies of this request; ask once, after the first try was given out.
    pub fn copies(&self, request: &Canonical, cx: &mut Cx<'_>) -> Vec<Copy> {
        let route = self.route.clone();
        let Some(Action::Forward(forward)) = route.as_deref().map(|route| &route.action) else {
            return Vec::new();
        };
        let mut copies = Vec::new();
        for mirror in &forward.mirrors {
            if !mirror.share.drawn(cx.rng) {
                cx.explain(|| {
                    Why::new(
                        Stage::Mirror,
                        "none",
                        format!("not drawn: {}", mirror.share),
                    )
                });
                continue;
            }
            let Some(host) = shadow(request.authority()) else {
                continue;
            };
            match choose(
                mirror.cluster,
                &mirror.name,
                Avoid::default(),
                None,
                None,
                |_, _| None,
                cx,
            ) {
                Ok(chosen) => {
                    cx.explain(|| {
                        Why::new(
                            Stage::Mirror,
                            &*mirror.name,
                            format!("drawn: {}", mirror.share),
                        )
                    });
                    copies.push(Copy {
                        cluster: chosen.cluster,
                        endpoint: chosen.endpoint,
                        permit: chosen.permit,
                        host,
                        limit: forward.timeout,
                    });
                }
                Err(reason) => {
                    cx.explain(|| Why::new(Stage::Mirror, "none", reason.meaning()));
                }
            }
        }
        copies
    }
}

/// `payment:8080` → `payment-shadow:8080`.
fn shadow(authority: &str) -> Option<HeaderValue> {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let text = match port {
        Some(port) => format!("{host}-shadow:{port}"),
        None => format!("{host}-shadow"),
    };
    HeaderValue::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::shadow;

    #[test]
    fn the_host_of_a_copy_says_that_it_is_one() {
        for (host, wanted) in [
            ("payment", "payment-shadow"),
            ("payment:8080", "payment-shadow:8080"),
            ("[::1]", "[::1]-shadow"),
            ("[::1]:80", "[::1]-shadow:80"),
        ] {
            assert_eq!(shadow(host).unwrap(), wanted);
        }
    }
}

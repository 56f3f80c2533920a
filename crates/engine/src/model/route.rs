//! Virtual hosts, their routes, and what a route does.

use super::{
    ClaimCondition, ClusterId, Error, Extras, HeaderCondition, HeaderEdits, Mirror, PathCondition,
    Pattern, RateLimit, RetryPolicy, TextCondition,
};
use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use naka_expr::Expression;
use naka_types::cidr::Cidr;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// A host on a port with its routes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct VirtualHost {
    /// Name on the wire, e.g. `80/payment.default.svc.cluster.local:80`.
    pub name: Arc<str>,
    /// Service port; at a gateway the listener's.
    pub port: u16,
    /// Hosts, with or without this port: exact, `*.suffix` or `*`.
    pub domains: Box<[Arc<str>]>,
    /// In order; the first that matches wins.
    pub routes: Box<[Arc<Route>]>,
}

/// A rule: if this, then that.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// `<namespace>/<virtual service>/<http route name or index>`, or `default`.
    pub name: Arc<str>,
    /// Object it comes from, for explanations.
    pub config: Option<Arc<str>>,
    /// All of it must hold.
    pub matches: Match,
    /// What happens then.
    pub action: Action,
    /// On the request, after those of the weighted destination.
    pub request_headers: HeaderEdits,
    /// On the response, after those of the weighted destination.
    pub response_headers: HeaderEdits,
    /// Tokens a request needs, at gateways.
    pub limit: Option<Arc<RateLimit>>,
    /// What few routes have.
    pub extras: Extras,
}

/// Conditions that must all hold.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Match {
    /// Path.
    pub path: PathCondition,
    /// Whether case does not matter in the path (not for regular expressions).
    pub ignore_case: bool,
    /// Headers, pseudo-headers included.
    pub headers: Box<[HeaderCondition]>,
    /// Query parameters.
    pub query: Box<[QueryCondition]>,
    /// Claims of the verified token, and whether they must not be so.
    pub claims: Box<[(ClaimCondition, bool)]>,
    /// Method.
    pub method: Option<TextCondition>,
    /// Authority; the port is looked at only if the condition has one.
    pub authority: Option<TextCondition>,
    /// Addresses, one of which the connection must have been made to; empty: any. Where that is not known it is none.
    pub made_to: Box<[Cidr]>,
    /// An expression that must be satisfied as well; it is asked last.
    pub when: Option<Arc<Expression>>,
}

impl Match {
    /// Whether a connection that was made there satisfies it, whatever is said on it.
    #[must_use]
    pub fn takes_connection(&self, made_to: Option<IpAddr>) -> bool {
        self.asks_nothing_of_requests() && self.made_there(made_to)
    }

    /// Whether what it asks of the address holds.
    #[must_use]
    pub fn made_there(&self, made_to: Option<IpAddr>) -> bool {
        let within = |ip| self.made_to.iter().any(|range| range.contains(ip));
        self.made_to.is_empty() || made_to.is_some_and(within)
    }

    /// Whether every request satisfies it.
    #[must_use]
    pub fn is_catch_all(&self) -> bool {
        self.asks_nothing_of_requests() && self.made_to.is_empty()
    }

    fn asks_nothing_of_requests(&self) -> bool {
        let any_path = match &self.path {
            PathCondition::Any => true,
            PathCondition::Prefix(prefix) => matches!(&**prefix, "" | "/"),
            PathCondition::Exact(_) | PathCondition::Separated(_) | PathCondition::Regex(_) => {
                false
            }
        };
        any_path
            && self.headers.is_empty()
            && self.query.is_empty()
            && self.claims.is_empty()
            && self.method.is_none()
            && self.authority.is_none()
            && self.when.is_none()
    }
}

/// A rule on a query parameter; its first value counts, undecoded, as in Envoy.
#[derive(Debug, Clone, PartialEq)]
pub struct QueryCondition {
    /// Name.
    pub name: Arc<str>,
    /// What the value must be; `None`: present.
    pub value: Option<TextCondition>,
}

/// What a route does.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Calls a cluster.
    Forward(Forward),
    /// Sends the caller elsewhere.
    Redirect(Redirect),
    /// Answers.
    Direct(Direct),
}

/// A call of one of several clusters.
#[derive(Debug, Clone, PartialEq)]
pub struct Forward {
    pub(crate) clusters: Box<[WeightedCluster]>,
    pub(crate) total: u64,
    /// Time for the whole exchange up to the response's head; none by default, as Istio.
    pub timeout: Option<Duration>,
    /// Time without a byte in either direction.
    pub idle_timeout: Option<Duration>,
    /// Retries.
    pub retry: RetryPolicy,
    /// New path.
    pub path_rewrite: Option<PathRewrite>,
    /// New authority.
    pub host_rewrite: Option<HeaderValue>,
    /// Copies of the requests.
    pub mirrors: Box<[Mirror]>,
}

impl Forward {
    /// To weighted clusters; a single one counts whatever its weight.
    ///
    /// # Errors
    /// [`Error::Weights`] when there is no cluster, or there are several with no weight at all.
    pub fn new(mut clusters: Vec<WeightedCluster>) -> Result<Self, Error> {
        if let [only] = clusters.as_mut_slice() {
            only.weight = only.weight.max(1);
        }
        let total = clusters.iter().map(|c| u64::from(c.weight)).sum();
        if total == 0 {
            return Err(Error::Weights);
        }
        Ok(Self {
            clusters: clusters.into(),
            total,
            timeout: None,
            idle_timeout: None,
            retry: RetryPolicy::default(),
            path_rewrite: None,
            host_rewrite: None,
            mirrors: Box::default(),
        })
    }

    /// The destinations.
    #[must_use]
    pub fn clusters(&self) -> &[WeightedCluster] {
        &self.clusters
    }
}

/// One destination of a route.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightedCluster {
    /// Which.
    pub cluster: ClusterId,
    /// Its name, for logs and for a cluster that does not exist.
    pub name: Arc<str>,
    /// Share; 0 is never drawn.
    pub weight: u32,
    /// On the request.
    pub request_headers: HeaderEdits,
    /// On the response.
    pub response_headers: HeaderEdits,
    /// New authority for this destination.
    pub host_rewrite: Option<HeaderValue>,
}

impl WeightedCluster {
    /// Without header operations.
    #[must_use]
    pub fn new(cluster: ClusterId, name: &str, weight: u32) -> Self {
        Self {
            cluster,
            name: name.into(),
            weight,
            request_headers: HeaderEdits::default(),
            response_headers: HeaderEdits::default(),
            host_rewrite: None,
        }
    }
}

/// A new path; the query stays.
#[derive(Debug, Clone, PartialEq)]
pub enum PathRewrite {
    /// Replaces the matched prefix; after an exact or regex match, the whole path.
    Prefix(Arc<str>),
    /// Replaces the whole path.
    Full(Arc<str>),
    /// Replaces every match.
    Regex {
        /// What to look for.
        pattern: Pattern,
        /// What to put there; `\1` is the first group.
        substitution: Arc<str>,
    },
}

/// Where a caller is sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
    /// New scheme.
    pub scheme: Option<Arc<str>>,
    /// New host.
    pub host: Option<Arc<str>>,
    /// New port, written even where it is the default.
    pub port: Option<u16>,
    /// New path.
    pub path: Option<PathRewrite>,
    /// Whether the query is dropped.
    pub strip_query: bool,
}

impl Redirect {
    /// To the same address with a status.
    ///
    /// # Errors
    /// [`Error::Status`] when the status is no redirect.
    pub fn new(status: u16) -> Result<Self, Error> {
        match status {
            301 | 302 | 303 | 307 | 308 => Ok(Self {
                status: StatusCode::from_u16(status).map_err(|_| Error::Status(status))?,
                scheme: None,
                host: None,
                port: None,
                path: None,
                strip_query: false,
            }),
            _ => Err(Error::Status(status)),
        }
    }
}

/// An answer of the route itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Direct {
    /// Status.
    pub status: StatusCode,
    /// Body.
    pub body: Bytes,
}

impl Direct {
    /// An answer.
    ///
    /// # Errors
    /// [`Error::Status`] when the status is outside 200–599.
    pub fn new(status: u16, body: Bytes) -> Result<Self, Error> {
        match StatusCode::from_u16(status) {
            Ok(code) if (200..600).contains(&status) => Ok(Self { status: code, body }),
            _ => Err(Error::Status(status)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Direct, Error, Forward, Match, PathCondition, QueryCondition, Redirect};
    use super::{TextCondition, WeightedCluster};
    use crate::model::{ClusterId, HeaderCondition, HeaderRule, Subject};

    #[test]
    fn what_every_request_satisfies() {
        let path = |path| Match {
            path,
            ..Match::default()
        };
        let get = || Some(TextCondition::exact("GET"));
        let header = HeaderCondition::new(Subject::Method, HeaderRule::Present);
        let query = QueryCondition {
            name: "a".into(),
            value: None,
        };
        let rest = Match::default;
        let rows = [
            (rest(), true),
            (path(PathCondition::Prefix("/".into())), true),
            (path(PathCondition::Prefix("".into())), true),
            (path(PathCondition::Prefix("/a".into())), false),
            (path(PathCondition::Exact("/".into())), false),
            (
                Match {
                    method: get(),
                    ..rest()
                },
                false,
            ),
            (
                Match {
                    authority: get(),
                    ..rest()
                },
                false,
            ),
            (
                Match {
                    headers: Box::new([header]),
                    ..rest()
                },
                false,
            ),
            (
                Match {
                    query: Box::new([query]),
                    ..rest()
                },
                false,
            ),
        ];
        for (index, (matches, want)) in rows.into_iter().enumerate() {
            assert_eq!(matches.is_catch_all(), want, "row {index}");
        }
    }

    #[test]
    fn weights_add_up_and_a_single_destination_always_counts() {
        let to = |name, weight| WeightedCluster::new(ClusterId(1), name, weight);
        let weights = |clusters: Vec<WeightedCluster>| {
            let forward = Forward::new(clusters)?;
            let all = forward.clusters().iter().map(|c| c.weight).collect();
            Ok::<(u64, Vec<u32>), Error>((forward.total, all))
        };
        assert_eq!(weights(vec![to("a", 0)]), Ok((1, vec![1])));
        assert_eq!(weights(vec![to("a", 3), to("b", 1)]), Ok((4, vec![3, 1])));
        let none = Err(Error::Weights);
        assert_eq!(weights(vec![to("a", 0), to("b", 0)]), none);
        assert_eq!(weights(vec![]), none);
    }

    #[test]
    fn only_statuses_that_fit_the_action() {
        for (status, redirects, answers) in [
            (199, false, false),
            (200, false, true),
            (300, false, true),
            (301, true, true),
            (302, true, true),
            (303, true, true),
            (304, false, true),
            (307, true, true),
            (308, true, true),
            (599, false, true),
            (600, false, false),
        ] {
            assert_eq!(Redirect::new(status).is_ok(), redirects, "{status}");
            let answer = Direct::new(status, bytes::Bytes::new());
            assert_eq!(answer.is_ok(), answers, "{status}");
        }
    }
}

//! What came of a request, in one form whoever was asked, and how it is held against a verdict.
//!
//! Shares are judged by Chernoff's bound: a share that is right fails with a probability of at most `ERROR` per
//! request of a case.

use super::case::Verdict;
use naka_types::reason::Reason;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Probability that a right share is called wrong.
const ERROR: f64 = 1e-7;

/// Who was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// `naka explain`, without a network.
    Explain,
    /// Naka's proxies.
    Naka,
    /// A stock Envoy.
    Envoy,
}

impl std::fmt::Display for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Explain => "explain",
            Self::Naka => "naka",
            Self::Envoy => "envoy",
        })
    }
}

/// Where an Envoy answers by itself with another status than Naka's reason has: reason, Envoy's status. All others
/// are the same.
pub const ENVOY_STATUS: &[(Reason, u16)] = &[];

/// Headers that an Envoy adds to an answer of its own: reason, header. A direct response with 201 or a status of
/// redirection gets the request's own address.
pub const ENVOY_ADDS: &[(Reason, &str)] = &[(Reason::DirectResponse, "location")];

/// A request as it reached an endpoint.
#[derive(Debug, Clone, Default)]
pub struct Arrival {
    /// Clusters that the endpoint is a member of.
    pub clusters: BTreeSet<String>,
    /// Name of the endpoint, where it has one.
    pub endpoint: String,
    /// Method.
    pub method: String,
    /// Version of HTTP, `1.1` or `2`.
    pub version: String,
    /// Path and query.
    pub target: String,
    /// Host.
    pub authority: String,
    /// Headers; values of one name joined by commas.
    pub headers: BTreeMap<String, String>,
    /// PROXY header that its connection began with: `v1` where it names the caller's own connection to the proxy, else
    /// with the ends it names, `v1 192.0.2.7:80 > 192.0.2.1:443`.
    pub proxied: Option<String>,
    /// Whether it came by TLS.
    pub tls: bool,
    /// Name that the caller's TLS asked for.
    pub sni: Option<String>,
    /// Certificate that the caller showed.
    pub cert: Option<String>,
    /// Time that the caller's proxy gives it (the shorter one of whole call and try).
    pub time: Option<Duration>,
}

/// What came of a request once.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// It left the mesh (explain only: who else can know).
    pub outside: bool,
    /// Status of the answer; 0: none came.
    pub status: u16,
    /// Reason of a proxy's own answer, where the proxy says one.
    pub reason: Option<String>,
    /// Headers of the answer.
    pub headers: BTreeMap<String, String>,
    /// Body of the answer; `None`: not looked at.
    pub body: Option<String>,
    /// Whether the proxy keeps its reasons to itself, as gateways do.
    pub silent: bool,
    /// Certificate that the client was shown.
    pub certificate: Option<String>,
    /// Protocol agreed upon in TLS.
    pub alpn: Option<String>,
    /// The tries that reached an endpoint.
    pub arrivals: Vec<Arrival>,
    /// The copies that reached an endpoint.
    pub mirrored: Vec<Arrival>,
    /// The ends of the caller's connection to the proxy, `FROM > TO`.
    pub ends: Option<String>,
    /// How long the answer took; `None`: not looked at.
    pub took: Option<Duration>,
    /// What else helps a reader of a failure.
    pub trail: String,
}

impl Seen {
    /// Leaves the caller's own connection out of what PROXY headers name.
    pub fn own_ends(&mut self) {
        let Some(ends) = &self.ends else { return };
        for arrival in &mut self.arrivals {
            let said = arrival.proxied.as_mut();
            let own = said.and_then(|said| Some((said.strip_suffix(ends)?.trim_end().len(), said)));
            if let Some((length, said)) = own {
                said.truncate(length);
            }
        }
    }
}

fn headers_differ(
    wanted: &BTreeMap<String, Option<String>>,
    got: &BTreeMap<String, String>,
) -> Option<String> {
    wanted.iter().find_map(|(name, value)| {
        let is = got.get(&name.to_ascii_lowercase()).map(String::as_str);
        let fits = match (is, value.as_deref().and_then(|value| value.split_once('…'))) {
            (Some(is), Some((begin, end))) => {
                is.len() >= begin.len() + end.len() && is.starts_with(begin) && is.ends_with(end)
            }
            _ => is == value.as_deref(),
        };
        (!fits).then(|| format!("header {name} is {is:?}, not {value:?}"))
    })
}

/// Whether `hits` of `all` can be chance when the share is `share`.
fn plausible(hits: usize, all: usize, share: f64) -> bool {
    #[expect(clippy::cast_precision_loss, reason = "counts are small")]
    let (n, is) = (all as f64, hits as f64 / all.max(1) as f64);
    let part = |p: f64, q: f64| if p == 0.0 { 0.0 } else { p * (p / q).ln() };
    let distance = part(is, share) + part(1.0 - is, 1.0 - share);
    n * distance <= (2.0 / ERROR).ln()
}

impl Verdict {
    /// What is not as it should be.
    #[must_use]
    pub fn differs(&self, who: Who, all: &[Seen]) -> Option<String> {
        let arrivals = || all.iter().flat_map(|one| &one.arrivals);
        if !self.shares.is_empty() {
            return self.shares_differ(all).or_else(|| self.each(who, all));
        }
        let free = self.to.is_empty() && (!self.at.is_empty() || self.sticky);
        // A server that is no service's endpoint is known by its name alone.
        let foreign = |one: &Arrival| one.clusters.is_empty() && self.at.contains(&one.endpoint);
        let astray =
            arrivals().find(|one| !free && !foreign(one) && self.to.is_disjoint(&one.clusters));
        let missed = |cluster: &&String| !arrivals().any(|one| one.clusters.contains(*cluster));
        if let Some(astray) = astray {
            return Some(format!("goes to {:?} {}", astray.clusters, astray.endpoint));
        }
        // A connection that was refused reached nobody.
        let refused = who != Who::Explain && (self.never_arrives() || arrivals().any(foreign));
        if let Some(missed) = self.to.iter().find(missed).filter(|_| !refused) {
            let status: BTreeSet<u16> = all.iter().map(|one| one.status).collect();
            return Some(format!("never goes to {missed}; answered with {status:?}"));
        }
        if who != Who::Explain && !self.at.is_empty() {
            let at: BTreeSet<String> = arrivals().map(|one| one.endpoint.clone()).collect();
            if at != self.at {
                return Some(format!("goes to endpoints {at:?}"));
            }
        }
        if who != Who::Explain && self.sticky && Self::places(all).len() != 1 {
            return Some(format!("goes to endpoints {:?}", Self::places(all)));
        }
        self.copies_differ(all).or_else(|| self.each(who, all))
    }

    fn copies_differ(&self, all: &[Seen]) -> Option<String> {
        let wanted = self.mirrored.as_ref()?;
        let copies = || all.iter().flat_map(|one| &one.mirrored);
        if let Some(astray) = copies().find(|one| wanted.is_disjoint(&one.clusters)) {
            return Some(format!("is copied to {:?}", astray.clusters));
        }
        let missed = wanted
            .iter()
            .find(|cluster| !copies().any(|one| one.clusters.contains(*cluster)))?;
        Some(format!("is never copied to {missed}"))
    }

    /// Names of the endpoints that were reached.
    #[must_use]
    pub fn places(all: &[Seen]) -> BTreeSet<String> {
        let arrivals = all.iter().flat_map(|one| &one.arrivals);
        arrivals.map(|one| one.endpoint.clone()).collect()
    }

    fn never_arrives(&self) -> bool {
        let reply = self.reply.as_deref().unwrap_or_default();
        reply.ends_with("connect-failed")
    }

    fn each(&self, who: Who, all: &[Seen]) -> Option<String> {
        all.iter().find_map(|one| self.one_differs(who, one))
    }

    fn shares_differ(&self, all: &[Seen]) -> Option<String> {
        let last = || all.iter().filter_map(|one| one.arrivals.last());
        let count = last().count();
        // Of nothing every share would be right.
        if count == 0 {
            let status: BTreeSet<u16> = all.iter().map(|one| one.status).collect();
            return Some(format!("reaches nobody; answered with {status:?}"));
        }
        for (name, percent) in &self.shares {
            let hits = last()
                .filter(|one| one.endpoint == *name || one.clusters.contains(name))
                .count();
            if !plausible(hits, count, percent / 100.0) {
                return Some(format!("{name} gets {hits} of {count}, not {percent} %"));
            }
        }
        let known = |one: &super::seen::Arrival| {
            self.shares
                .keys()
                .any(|name| one.endpoint == *name || one.clusters.contains(name))
        };
        let astray = last().find(|one| !known(one));
        astray.map(|one| format!("goes to {:?} {}", one.clusters, one.endpoint))
    }

    fn one_differs(&self, who: Who, one: &Seen) -> Option<String> {
        let nowhere =
            self.to.is_empty() && self.at.is_empty() && self.shares.is_empty() && !self.sticky;
        if self.reply.is_none() && nowhere {
            return Some(format!("is answered with {}", said(one)));
        }
        if let Some(wanted) = &self.reply
            && !replied(who, wanted, one)
        {
            return Some(format!("is answered with {}", said(one)));
        }
        if let Some(last) = one.arrivals.last() {
            if let Some(why) = self.sends_differ(who, last) {
                return Some(why);
            }
            let wanted: BTreeMap<String, Option<String>> =
                serde_json::from_value(self.sends["headers"].clone()).unwrap_or_default();
            if let Some(why) = headers_differ(&wanted, &last.headers) {
                return Some(why);
            }
            if let Some(why) = self.time_differs(who, last) {
                return Some(why);
            }
        }
        let counted = who == Who::Explain || !self.never_arrives();
        if self
            .tries
            .is_some_and(|tries| counted && tries != one.arrivals.len())
        {
            return Some(format!("is tried {} times", one.arrivals.len()));
        }
        if let (Some(wanted), Some(is)) = (&self.answer_body, &one.body)
            && wanted != is
        {
            return Some(format!("the body is {is:?}"));
        }
        for (field, wanted, is) in [
            ("certificate", &self.certificate, &one.certificate),
            ("protocol", &self.alpn, &one.alpn),
        ] {
            if who != Who::Explain && wanted.is_some() && wanted != is {
                return Some(format!("the {field} is {is:?}"));
            }
        }
        if let Some(took) = one.took
            && (self.within.is_some_and(|most| took > most)
                || self.after.is_some_and(|least| took < least))
        {
            return Some(format!("took {took:?}"));
        }
        if who != Who::Envoy {
            return headers_differ(&self.answer_headers, &one.headers);
        }
        let reply = self.reply.as_deref().unwrap_or_default();
        let added = |name: &str| {
            let by = |(reason, header): &&(Reason, &str)| {
                reply.ends_with(reason.code()) && *header == name
            };
            ENVOY_ADDS.iter().any(|one| by(&one))
        };
        let mut wanted = self.answer_headers.clone();
        wanted.retain(|name, value| value.is_some() || !added(name));
        headers_differ(&wanted, &one.headers)
    }

    fn sends_differ(&self, who: Who, last: &Arrival) -> Option<String> {
        for (field, is) in [("target", &last.target), ("authority", &last.authority)] {
            let wanted = &self.sends[field];
            if !wanted.is_null() && wanted != is {
                return Some(format!("{field} is {is}"));
            }
        }
        if who == Who::Explain {
            return None;
        }
        let all = [
            ("method", json!(last.method)),
            ("version", json!(last.version)),
            ("proxied", json!(last.proxied)),
            ("tls", json!(last.tls)),
            ("sni", json!(last.sni)),
            ("cert", json!(last.cert)),
        ];
        let wrong = all.into_iter().find(|(field, is)| {
            let wanted = self.sends.get(field);
            wanted.is_some_and(|wanted| wanted != is)
        });
        wrong.map(|(field, is)| format!("{field} is {is}"))
    }

    /// The time of a call shows upstream as the shorter one of whole call and try; explain knows both.
    fn time_differs(&self, who: Who, last: &Arrival) -> Option<String> {
        let show = |time: Option<Duration>| {
            time.map_or("none".to_owned(), |t| {
                naka_types::duration::Show(t).to_string()
            })
        };
        if who == Who::Explain {
            let is = |name: &str| last.headers.get(name).cloned().unwrap_or("none".to_owned());
            return [
                (TIMEOUT, &self.timeout),
                (PER_TRY_TIMEOUT, &self.per_try_timeout),
            ]
            .into_iter()
            .find_map(|(name, wanted)| {
                let is = is(name);
                (wanted.as_ref()? != &is).then(|| format!("{name} is {is}"))
            });
        }
        let per_try = self.per_try_timeout.as_ref().filter(|time| *time != "none");
        let wanted = per_try.or(self.timeout.as_ref())?;
        let is = show(last.time);
        (*wanted != is).then(|| format!("the endpoint is given {is}"))
    }
}

/// Names under which explain's times travel among the headers of an arrival; no header can have them.
pub const TIMEOUT: &str = "(timeout)";
/// As [`TIMEOUT`], for each try.
pub const PER_TRY_TIMEOUT: &str = "(per-try timeout)";

fn said(one: &Seen) -> String {
    if one.outside {
        return "outside".to_owned();
    }
    match &one.reason {
        Some(reason) => format!("{} {reason}", one.status),
        None => one.status.to_string(),
    }
}

fn replied(who: Who, wanted: &str, one: &Seen) -> bool {
    if wanted == "outside" {
        return one.outside || (who != Who::Explain && one.arrivals.is_empty());
    }
    if wanted == "closed" {
        return one.status == 0;
    }
    let (status, reason) = wanted.split_once(' ').unwrap_or((wanted, ""));
    if who != Who::Envoy && !one.silent {
        return said(one) == wanted;
    }
    if who != Who::Envoy {
        return status == one.status.to_string();
    }
    let mapped = ENVOY_STATUS
        .iter()
        .find(|(known, _)| known.code() == reason)
        .map(|(_, status)| status.to_string());
    mapped.as_deref().unwrap_or(status) == one.status.to_string()
}

/// Reads a JSON object of headers.
#[must_use]
pub fn headers(value: &Value) -> BTreeMap<String, String> {
    serde_json::from_value(value.clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::plausible;

    #[test]
    fn shares_have_bounds() {
        assert!(plausible(100, 1000, 0.1));
        assert!(plausible(140, 1000, 0.1));
        assert!(!plausible(200, 1000, 0.1));
        assert!(!plausible(20, 1000, 0.1));
        assert!(plausible(0, 400, 0.0));
        assert!(!plausible(1, 400, 0.0));
    }
}

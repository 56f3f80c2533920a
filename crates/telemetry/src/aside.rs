//! What few proxies count: requests of routes and servers that have a name, copies of requests, what policies noticed.
//!
//! The names come from configuration, so there are few of them; the lock is the worker's own and only the exposition
//! ever waits for it.

use crate::metrics::lock;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

/// Names kept apart; more are counted as `other`.
const CAP: usize = 1_000;

/// What became of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copied {
    /// It was sent.
    Sent,
    /// It was not, or not all of it: a limit, no endpoint, or too slow a reader.
    Dropped,
}

impl Copied {
    const WORDS: [(Self, &'static str); 2] = [(Self::Sent, "sent"), (Self::Dropped, "dropped")];
}

/// Requests by name and class of status.
type Named = BTreeMap<(Arc<str>, u16), u64>;

/// One worker's counts.
#[derive(Debug, Default)]
pub(crate) struct Aside {
    copies: [AtomicU64; 2],
    routes: Mutex<Named>,
    servers: Mutex<Named>,
    policies: Mutex<BTreeMap<(Arc<str>, &'static str), u64>>,
}

impl Aside {
    pub(crate) fn copied(&self, what: Copied) {
        self.copies[what as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn route(&self, name: &Arc<str>, status: u16) {
        count(&self.routes, name, status);
    }

    pub(crate) fn server(&self, name: &Arc<str>, status: u16) {
        count(&self.servers, name, status);
    }
}

fn count(named: &Mutex<Named>, name: &Arc<str>, status: u16) {
    let mut named = lock(named);
    let mut key = (Arc::clone(name), status / 100);
    if named.len() >= CAP && !named.contains_key(&key) {
        key.0 = "other".into();
    }
    *named.entry(key).or_default() += 1;
}

impl Aside {
    pub(crate) fn policy(&self, rule: &Arc<str>, outcome: &'static str) {
        let mut policies = lock(&self.policies);
        let mut key = (Arc::clone(rule), outcome);
        if policies.len() >= CAP && !policies.contains_key(&key) {
            key.0 = "other".into();
        }
        *policies.entry(key).or_default() += 1;
    }
}

/// Sums over workers, as label pairs and counts.
#[derive(Debug, Default)]
pub(crate) struct Sums {
    copies: [u64; 2],
    routes: Named,
    servers: Named,
    policies: BTreeMap<(Arc<str>, &'static str), u64>,
}

impl Sums {
    pub(crate) fn add(&mut self, one: &Aside) {
        for (sum, count) in self.copies.iter_mut().zip(&one.copies) {
            *sum += count.load(Relaxed);
        }
        for (key, count) in lock(&one.routes).iter() {
            *self.routes.entry(key.clone()).or_default() += count;
        }
        for (key, count) in lock(&one.servers).iter() {
            *self.servers.entry(key.clone()).or_default() += count;
        }
        for (key, count) in lock(&one.policies).iter() {
            *self.policies.entry(key.clone()).or_default() += count;
        }
    }

    pub(crate) fn copies(&self) -> impl Iterator<Item = (String, u64)> {
        let each = Copied::WORDS.into_iter().zip(self.copies);
        each.filter(|(_, count)| *count > 0)
            .map(|((_, word), count)| (format!("outcome=\"{word}\""), count))
    }

    pub(crate) fn routes(&self) -> impl Iterator<Item = (String, u64)> {
        samples("route", &self.routes)
    }

    pub(crate) fn servers(&self) -> impl Iterator<Item = (String, u64)> {
        samples("server", &self.servers)
    }
}

fn samples(label: &'static str, named: &Named) -> impl Iterator<Item = (String, u64)> {
    named.iter().map(move |((name, class), count)| {
        let class = match class {
            0 => "none".to_owned(),
            class => format!("{class}xx"),
        };
        let name = quoted(name);
        (
            format!("{label}=\"{name}\",response_code_class=\"{class}\""),
            *count,
        )
    })
}

impl Sums {
    pub(crate) fn policies(&self) -> impl Iterator<Item = (String, u64)> {
        self.policies.iter().map(|((rule, outcome), count)| {
            let rule = quoted(rule);
            (format!("rule=\"{rule}\",outcome=\"{outcome}\""), *count)
        })
    }
}

/// A name as the value of a label.
fn quoted(name: &str) -> String {
    let name = name.replace('\\', "\\\\").replace('"', "\\\"");
    name.replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::{Aside, Copied, Sums};

    #[test]
    fn counts_of_workers_add_up_and_names_are_quoted() {
        let (one, two) = (Aside::default(), Aside::default());
        one.route(&"pay \"fast\"".into(), 204);
        two.route(&"pay \"fast\"".into(), 200);
        two.route(&"pay \"fast\"".into(), 503);
        two.server(&"shop".into(), 200);
        two.copied(Copied::Dropped);
        one.policy(&"ns[a]-policy[b]-rule[0]".into(), "audited");
        two.policy(&"ns[a]-policy[b]-rule[0]".into(), "audited");
        let mut sums = Sums::default();
        sums.add(&one);
        sums.add(&two);
        let routes: Vec<_> = sums.routes().collect();
        let labels =
            |class: &str| format!("route=\"pay \\\"fast\\\"\",response_code_class=\"{class}\"");
        assert_eq!(routes, [(labels("2xx"), 2), (labels("5xx"), 1)]);
        let servers: Vec<_> = sums.servers().collect();
        let labels = "server=\"shop\",response_code_class=\"2xx\"";
        assert_eq!(servers, [(labels.to_owned(), 1)]);
        let policies: Vec<_> = sums.policies().collect();
        let labels = "rule=\"ns[a]-policy[b]-rule[0]\",outcome=\"audited\"";
        assert_eq!(policies, [(labels.to_owned(), 2)]);
        let copies: Vec<_> = sums.copies().collect();
        assert_eq!(copies, [("outcome=\"dropped\"".to_owned(), 1)]);
    }
}

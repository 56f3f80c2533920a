//! What the called programs say happened, joined with what their callers say.
//!
//! Every program writes a line per request served and per call made. A served request counts as verified when its
//! receiver saw a peer identity that is the identity of the program whose log says that it made this call. So neither
//! the mesh's own word nor one side's word is enough.

use crate::demo::flow::{INGRESS, INGRESS_NAMESPACE, PARTS};
use crate::demo::program::PROBE;
use crate::demo::program::segment;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Halves of requests waiting for the other half; more than this and the oldest run is forgotten.
const MAX_HALVES: usize = 500_000;

/// Counts so far.
#[derive(Debug)]
pub(crate) struct Tally {
    tails: Vec<Tail>,
    trust_domain: String,
    /// Requests served and seen in a receiver's log.
    pub(crate) served: u64,
    /// Of these, joined with the caller's own line.
    pub(crate) joined: u64,
    /// Of these, with a verified peer equal to the caller.
    pub(crate) verified: u64,
    /// Requests per sidecar name.
    pub(crate) by_name: BTreeMap<String, u64>,
    /// Payment calls by version since the mark.
    pub(crate) payments: BTreeMap<String, u64>,
    /// `(service, id)` served, waiting for the caller's line: who the peer was.
    served_first: HashMap<(String, String), String>,
    /// `(service, id)` called, waiting for the receiver's line: who called.
    called_first: HashMap<(String, String), String>,
}

/// A log read as it grows.
#[derive(Debug)]
struct Tail {
    dir: PathBuf,
    stem: String,
    service: String,
    name: String,
    number: u64,
    offset: u64,
    rest: Vec<u8>,
}

impl Tally {
    /// Reads the logs in `dir`.
    pub(crate) fn new(dir: &Path, trust_domain: &str) -> Self {
        let tails = PARTS
            .iter()
            .map(|part| Tail {
                dir: dir.to_owned(),
                stem: part.stem(),
                service: part.service.to_owned(),
                name: part.name(),
                number: 0,
                offset: 0,
                rest: Vec::new(),
            })
            .collect();
        Self {
            tails,
            trust_domain: trust_domain.to_owned(),
            served: 0,
            joined: 0,
            verified: 0,
            by_name: BTreeMap::new(),
            payments: BTreeMap::new(),
            served_first: HashMap::new(),
            called_first: HashMap::new(),
        }
    }

    /// Reads what is new. `answered` are the ids of orders that the load got an answer for.
    pub(crate) fn read(&mut self, answered: Vec<String>) {
        for id in answered {
            let caller = format!(
                "spiffe://{}/ns/{INGRESS_NAMESPACE}/sa/{INGRESS}",
                self.trust_domain
            );
            self.called("order", &id, caller);
        }
        let mut tails = std::mem::take(&mut self.tails);
        for tail in &mut tails {
            for line in tail.lines() {
                self.line(tail, &line);
            }
        }
        self.tails = tails;
        if self.served_first.len() + self.called_first.len() > MAX_HALVES {
            self.served_first.clear();
            self.called_first.clear();
        }
    }

    fn line(&mut self, tail: &Tail, line: &Value) {
        let word = |field: &str| line.get(field).and_then(Value::as_str).unwrap_or_default();
        let (served, called) = (word("served"), word("called"));
        if served == PROBE || called == PROBE {
            return;
        }
        if !called.is_empty() {
            // A call that got no answer from the program has no receiver to join with.
            if line.get("status").and_then(Value::as_u64) == Some(200) {
                let caller = format!(
                    "spiffe://{}/ns/default/sa/{}",
                    self.trust_domain, tail.service
                );
                let to = word("to").to_owned();
                self.called(&to, called, caller);
            }
        } else if !served.is_empty() {
            self.served += 1;
            *self.by_name.entry(tail.name.clone()).or_default() += 1;
            if tail.service == "payment" {
                *self.payments.entry(word("version").to_owned()).or_default() += 1;
            }
            let key = (tail.service.clone(), served.to_owned());
            match self.called_first.remove(&key) {
                Some(caller) => self.join(word("peer"), &caller),
                None => {
                    self.served_first.insert(key, word("peer").to_owned());
                }
            }
        }
    }

    fn called(&mut self, service: &str, id: &str, caller: String) {
        let key = (service.to_owned(), id.to_owned());
        match self.served_first.remove(&key) {
            Some(peer) => self.join(&peer, &caller),
            None => {
                self.called_first.insert(key, caller);
            }
        }
    }

    fn join(&mut self, peer: &str, caller: &str) {
        self.joined += 1;
        self.verified += u64::from(peer == caller);
    }

    /// Share of served requests whose receiver verified the caller. While calls are open, only joined ones count;
    /// at the end all do.
    pub(crate) fn mtls_share(&self, at_end: bool) -> f64 {
        share(
            self.verified,
            if at_end { self.served } else { self.joined },
        )
    }

    /// Forgets the payment calls counted so far: the weight has changed.
    pub(crate) fn mark(&mut self) {
        self.payments.clear();
    }

    /// Payment calls since the mark, and the percentage of v2 among them.
    pub(crate) fn canary(&self) -> (u64, f64) {
        let calls = self.payments.values().sum();
        let v2 = self.payments.get("v2").copied().unwrap_or(0);
        (calls, share(v2, calls) * 100.0)
    }
}

/// `part / whole`, 0 when there is no whole.
#[expect(
    clippy::cast_precision_loss,
    reason = "counts of a demo are far below 2^52"
)]
pub(crate) fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

impl Tail {
    /// New whole lines. A segment that has a successor is complete; when read, it is removed.
    fn lines(&mut self) -> Vec<Value> {
        let mut lines = Vec::new();
        loop {
            let next = segment(&self.dir, &self.stem, self.number + 1);
            let complete = next.exists();
            self.drain(&mut lines);
            if !complete {
                return lines;
            }
            let _ = std::fs::remove_file(segment(&self.dir, &self.stem, self.number));
            self.number += 1;
            self.offset = 0;
            self.rest.clear();
        }
    }

    fn drain(&mut self, lines: &mut Vec<Value>) {
        let Ok(mut file) = File::open(segment(&self.dir, &self.stem, self.number)) else {
            return;
        };
        if file.seek(SeekFrom::Start(self.offset)).is_err() {
            return;
        }
        self.offset += file.read_to_end(&mut self.rest).unwrap_or(0) as u64;
        let end = self
            .rest
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        for line in self.rest[..end].split(|byte| *byte == b'\n') {
            lines.extend(serde_json::from_slice::<Value>(line));
        }
        self.rest.drain(..end);
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;
    use crate::demo::program::segment;
    use std::io::Write;

    fn write(dir: &std::path::Path, stem: &str, number: u64, text: &str) {
        let mut file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(segment(dir, stem, number))
            .unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn a_request_counts_when_both_sides_name_the_same_caller() {
        let dir = tempfile::tempdir().unwrap();
        let mut tally = Tally::new(dir.path(), "t");
        write(
            dir.path(),
            "order-v1",
            0,
            "{\"called\":\"1\",\"to\":\"payment\",\"status\":200}\n{\"called\":\"2\",\"to\":\"payment\",\"status\":200}\n",
        );
        write(
            dir.path(),
            "payment-v2",
            0,
            "{\"served\":\"1\",\"peer\":\"spiffe://t/ns/default/sa/order\",\"version\":\"v2\"}\n{\"served\":\"2\",\"peer\":\"spiffe://t/ns/default/sa/bank\",\"version\":\"v2\"}\n{\"served\":\"3\"",
        );
        tally.read(Vec::new());
        assert_eq!((tally.served, tally.joined, tally.verified), (2, 2, 1));
        assert_eq!(tally.canary(), (2, 100.0));
        assert!((tally.mtls_share(true) - 0.5).abs() < 1e-9);
        // The line that was cut is read when it is whole; it has no caller, so at the end it is not verified.
        write(
            dir.path(),
            "payment-v2",
            0,
            ",\"peer\":\"\",\"version\":\"v1\"}\n",
        );
        tally.read(Vec::new());
        assert_eq!((tally.served, tally.joined), (3, 2));
        assert!(tally.mtls_share(true) < tally.mtls_share(false));
    }

    #[test]
    fn the_ingress_is_the_caller_of_orders() {
        let dir = tempfile::tempdir().unwrap();
        let mut tally = Tally::new(dir.path(), "t");
        write(
            dir.path(),
            "order-v1",
            0,
            "{\"served\":\"1\",\"peer\":\"spiffe://t/ns/istio-system/sa/istio-ingressgateway\",\"version\":\"v1\"}\n",
        );
        tally.read(vec!["1".to_owned()]);
        assert_eq!((tally.joined, tally.verified), (1, 1));
    }

    #[test]
    fn finished_segments_are_read_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let mut tally = Tally::new(dir.path(), "t");
        write(dir.path(), "bank-v1", 0, "{\"served\":\"1\"}\n");
        write(dir.path(), "bank-v1", 1, "{\"served\":\"2\"}\n");
        tally.read(Vec::new());
        assert_eq!(tally.served, 2);
        assert!(
            !segment(dir.path(), "bank-v1", 0).exists()
                && segment(dir.path(), "bank-v1", 1).exists()
        );
    }
}

//! When names of clusters are looked up: at once, again when an answer's time is over, sooner after a failure.
//!
//! What a name meant last stays in force while no server answers; when servers say that it does not exist any more,
//! for ten minutes, because addresses are given to others in time. All of it runs on the main thread; a question that
//! takes long delays nobody but its name.

use crate::dns::forward::Host;
use crate::resolve::{self, Failed, Found};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// After a failure, doubled each time.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_AT_MOST: Duration = Duration::from_secs(30);
/// How long a name that is said not to exist keeps its last addresses.
const DENIED: Duration = Duration::from_secs(600);

/// News about a name.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) name: String,
    /// Its addresses; empty: it has none.
    pub(super) addresses: Vec<IpAddr>,
}

#[derive(Debug, Default)]
struct Known {
    failures: u32,
    addresses: Vec<IpAddr>,
    denied: Option<Instant>,
}

/// Names that are looked up.
#[derive(Debug)]
pub(super) struct Lookups {
    servers: Arc<Host>,
    known: BTreeMap<String, Known>,
    asking: JoinSet<(String, Result<Found, Failed>)>,
}

impl Lookups {
    pub(super) fn new(servers: Arc<Host>) -> Self {
        Self {
            servers,
            known: BTreeMap::new(),
            asking: JoinSet::new(),
        }
    }

    /// Looks up these names from now on, and no others.
    pub(super) fn want(&mut self, names: &BTreeSet<String>) {
        self.known.retain(|name, _| names.contains(name));
        for name in names {
            if !self.known.contains_key(name) {
                self.known.insert(name.clone(), Known::default());
                self.ask(name.clone(), Duration::ZERO);
            }
        }
    }

    fn ask(&mut self, name: String, after: Duration) {
        let servers = Arc::clone(&self.servers);
        self.asking.spawn(async move {
            if !after.is_zero() {
                tokio::time::sleep(after).await;
            }
            let found = resolve::look_up(&servers, &name).await;
            (name, found)
        });
    }

    /// The next news; never when nothing is looked up. Cancel-safe.
    pub(super) async fn next(&mut self) -> Answer {
        loop {
            match self.asking.join_next().await {
                None => std::future::pending::<()>().await,
                Some(Err(_)) => {}
                Some(Ok((name, found))) => {
                    if let Some(answer) = self.answered(name, found, Instant::now()) {
                        return answer;
                    }
                }
            }
        }
    }

    fn answered(
        &mut self,
        name: String,
        found: Result<Found, Failed>,
        now: Instant,
    ) -> Option<Answer> {
        // Not wanted any more.
        let known = self.known.get_mut(&name)?;
        let (addresses, after) = match found {
            Ok(mut found) => {
                // Servers turn the order on purpose; for a set of addresses it means nothing.
                known.failures = 0;
                known.denied = None;
                let keep = found.keep;
                let mut sorted = found.addresses.clone();
                sorted.sort();
                let mut before = known.addresses.clone();
                before.sort();
                if sorted == before {
                    found.addresses.clone_from(&known.addresses);
                }
                known.addresses.clone_from(&found.addresses);
                (found.addresses, keep)
            }
            Err(failed) => {
                let pause = AGAIN.saturating_mul(1 << known.failures.min(8));
                known.failures = known.failures.saturating_add(1);
                if failed == Failed::NoSuchName {
                    let since = *known.denied.get_or_insert(now);
                    if now.duration_since(since) >= DENIED {
                        known.addresses.clear();
                    }
                } else {
                    known.denied = None;
                }
                tracing::debug!(%name, ?failed, "a name has no new addresses");
                let kept = known.addresses.clone();
                (kept, pause.min(AGAIN_AT_MOST))
            }
        };
        self.ask(name.clone(), after);
        Some(Answer { name, addresses })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn lookups() -> Lookups {
        Lookups::new(Arc::new(Host::new(PathBuf::from("/nonexistent"))))
    }

    fn found(addresses: &[&str]) -> Result<Found, Failed> {
        Ok(Found {
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            keep: Duration::from_secs(3_600),
        })
    }

    #[tokio::test]
    async fn the_last_good_answer_stays_through_failures_and_ten_minutes_of_denial() {
        let mut lookups = lookups();
        lookups.known.insert("a.x".to_owned(), Known::default());
        let begin = Instant::now();
        let rows = [
            ("nothing known yet", 0, Err(Failed::NoAnswer), &[][..]),
            (
                "an answer",
                1,
                found(&["192.0.2.1", "192.0.2.2"]),
                &["192.0.2.1", "192.0.2.2"],
            ),
            (
                "the same, turned",
                2,
                found(&["192.0.2.2", "192.0.2.1"]),
                &["192.0.2.1", "192.0.2.2"],
            ),
            (
                "no server",
                3,
                Err(Failed::NoAnswer),
                &["192.0.2.1", "192.0.2.2"],
            ),
            (
                "no server for a day",
                90_000,
                Err(Failed::NoAnswer),
                &["192.0.2.1", "192.0.2.2"],
            ),
            (
                "denied",
                90_001,
                Err(Failed::NoSuchName),
                &["192.0.2.1", "192.0.2.2"],
            ),
            (
                "denied for 599 s",
                90_600,
                Err(Failed::NoSuchName),
                &["192.0.2.1", "192.0.2.2"],
            ),
            ("denied for 600 s", 90_601, Err(Failed::NoSuchName), &[]),
            ("back", 90_700, found(&["192.0.2.3"]), &["192.0.2.3"]),
        ];
        for (what, at, answer, expect) in rows {
            let now = begin + Duration::from_secs(at);
            let told = lookups.answered("a.x".to_owned(), answer, now).unwrap();
            let got: Vec<String> = told.addresses.iter().map(ToString::to_string).collect();
            assert_eq!(got, expect, "{what}");
        }
        let unwanted = lookups.answered("b.x".to_owned(), found(&["192.0.2.9"]), begin);
        assert!(unwanted.is_none());
    }
}

//! Who calls whom, counted: read from the admin sockets of this machine's proxies.
//!
//! All proxies of one home have their sockets below one run directory, whatever mesh they belong to; each page of
//! counters names its workload, and only this mesh's are taken. A proxy that does not answer in time keeps the
//! counters it showed last, so that a slow answer never looks like a burst of calls when it is followed by a quick one.
//!
//! Proxies on other machines are not seen here: they are named as unwatched. A band over their traffic needs a metrics
//! collector.

use crate::apiserver::live::{Counts, Edge, Observed};
use naka_types::header::WORKLOAD;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinSet;

const REQUEST: &[u8] =
    b"GET /stats/prometheus HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
const LIMIT: u64 = 16 << 20;
const PATIENCE: Duration = Duration::from_millis(500);
/// Sockets that are read at the same time.
const AT_ONCE: usize = 64;

type Counters = BTreeMap<Edge, Counts>;

/// Reads counters, and knows the last ones of every proxy.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) run_dir: PathBuf,
    last: Mutex<BTreeMap<String, Counters>>,
}

impl Reader {
    /// Of the proxies with a directory in this one.
    pub(super) fn new(run_dir: PathBuf) -> Self {
        Self {
            run_dir,
            last: Mutex::default(),
        }
    }

    /// The counters of the proxies in `members` (workload id to name); those in `connected` that showed none are
    /// unwatched.
    pub(super) async fn read(
        &self,
        members: &BTreeMap<String, String>,
        connected: &[String],
    ) -> Observed {
        let mut fresh = ask_all(&self.run_dir, REQUEST, counters).await;
        fresh.retain(|id, _| members.contains_key(id));
        let mut unwatched: Vec<String> = connected
            .iter()
            .filter(|id| !fresh.contains_key(*id))
            .map(|id| members.get(id).unwrap_or(id).clone())
            .collect();
        unwatched.sort();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.retain(|id, _| members.contains_key(id));
        last.extend(fresh);
        let edges = last
            .values()
            .flat_map(|counters| {
                counters
                    .iter()
                    .map(|(edge, counts)| (edge.clone(), *counts))
            })
            .collect();
        Observed { edges, unwatched }
    }
}

/// What every proxy that answers says to a request, by workload id.
pub(super) async fn ask_all<T: Send + 'static>(
    run_dir: &Path,
    request: &'static [u8],
    read: fn(&str) -> Option<(String, T)>,
) -> BTreeMap<String, T> {
    let mut sockets = std::fs::read_dir(run_dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("admin.sock"));
    let mut found = BTreeMap::new();
    let mut asking = JoinSet::new();
    loop {
        while asking.len() < AT_ONCE
            && let Some(socket) = sockets.next()
        {
            asking.spawn(async move {
                let told = tokio::time::timeout(PATIENCE, ask(&socket, request)).await;
                read(&told.ok()?.ok()?)
            });
        }
        match asking.join_next().await {
            // One that could not be asked is one that does not answer.
            Some(told) => found.extend(told.ok().flatten()),
            None => return found,
        }
    }
}

/// What an admin socket answers.
async fn ask(socket: &Path, request: &[u8]) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(request).await?;
    let mut bytes = Vec::new();
    stream.take(LIMIT).read_to_end(&mut bytes).await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The workload that answered, and its counters.
fn counters(response: &str) -> Option<(String, Counters)> {
    let (head, text) = response.split_once("\r\n\r\n")?;
    let id = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case(WORKLOAD))
        .map(|(_, value)| value.trim().to_owned())?;
    let mut edges = Counters::new();
    add(&id, text, &mut edges);
    Some((id, edges))
}

/// Adds the caller's side of `istio_requests_total`: a call that never arrived is counted there and nowhere else.
fn add(proxy: &str, text: &str, edges: &mut Counters) {
    for line in text.lines() {
        let Some((labels, value)) = line
            .strip_prefix("istio_requests_total{")
            .and_then(|rest| rest.rsplit_once('}'))
        else {
            continue;
        };
        let Ok(value) = value.trim().parse::<u64>() else {
            continue;
        };
        if label(labels, "reporter") != Some("source") {
            continue;
        }
        let text = |name: &str| label(labels, name).unwrap_or("unknown").to_owned();
        let service = match label(labels, "source_service_name") {
            None | Some("" | "unknown") => text("source_workload"),
            Some(service) => service.to_owned(),
        };
        let edge = Edge {
            from: format!("{}/{service}", text("source_workload_namespace")),
            to: text("destination_service"),
            proxy: proxy.to_owned(),
        };
        let code = label(labels, "response_code").and_then(|code| code.parse::<u16>().ok());
        let counts = edges.entry(edge).or_default();
        counts.requests += value;
        if code.is_none_or(|code| code == 0 || code >= 500) {
            counts.errors += value;
        }
    }
}

/// The value of a label; label values of these metrics never hold a quote.
fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    labels.split("\",").find_map(|pair| {
        let (key, value) = pair.split_once("=\"")?;
        (key.trim_start_matches(',') == name).then(|| value.trim_end_matches('"'))
    })
}

#[cfg(test)]
mod tests {
    use super::{Counters, Counts, Edge, Reader, add};
    use std::collections::BTreeMap;
    use std::path::Path;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    fn edge(proxy: &str) -> Edge {
        Edge {
            from: "a/order".into(),
            to: "p".into(),
            proxy: proxy.into(),
        }
    }

    #[test]
    fn the_callers_side_counts_and_errors_are_5xx_or_nothing() {
        let text = "# HELP istio_requests_total x\n\
            istio_requests_total{reporter=\"source\",source_workload_namespace=\"a\",source_service_name=\"order\",destination_service=\"p\",response_code=\"200\"} 7\n\
            istio_requests_total{reporter=\"source\",source_workload_namespace=\"a\",source_service_name=\"order\",destination_service=\"p\",response_code=\"503\"} 2\n\
            istio_requests_total{reporter=\"source\",source_workload_namespace=\"a\",source_service_name=\"order\",destination_service=\"p\",response_code=\"0\"} 1\n\
            istio_requests_total{reporter=\"destination\",source_workload_namespace=\"a\",source_service_name=\"order\",destination_service=\"p\",response_code=\"500\"} 9\n";
        let mut edges = Counters::new();
        add("1", text, &mut edges);
        let counts = Counts {
            requests: 10,
            errors: 3,
        };
        assert_eq!(edges, BTreeMap::from([(edge("1"), counts)]));
    }

    /// A proxy whose counters are its number of answers so far; after `answers` of them it accepts and says nothing.
    fn proxy(runs: &Path, name: &str, id: &'static str, answers: u32) {
        let dir = runs.join(name);
        std::fs::create_dir(&dir).unwrap();
        let listener = UnixListener::bind(dir.join("admin.sock")).unwrap();
        tokio::spawn(async move {
            let mut silent = Vec::new();
            for number in 1.. {
                let (mut stream, _) = listener.accept().await.unwrap();
                if number > answers {
                    silent.push(stream);
                    continue;
                }
                assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
                let page = format!(
                    "HTTP/1.1 200 OK\r\nX-Naka-Workload: {id}\r\n\r\nistio_requests_total{{reporter=\"source\",source_workload_namespace=\"a\",source_service_name=\"order\",destination_service=\"p\",response_code=\"200\"}} {number}\n"
                );
                stream.write_all(page.as_bytes()).await.unwrap();
            }
        });
    }

    #[tokio::test]
    async fn only_this_meshs_proxies_count_and_a_silent_one_keeps_its_counters() {
        let dir = tempfile::tempdir().unwrap();
        proxy(dir.path(), "m.default.order-0", "1", u32::MAX);
        proxy(dir.path(), "m.default.order-1", "2", 1);
        proxy(dir.path(), "other.default.order-0", "9", u32::MAX);
        std::fs::create_dir(dir.path().join("m.default.gone-0")).unwrap();
        let names = [("1", "order-0"), ("2", "order-1"), ("3", "away-0")];
        let members = names.map(|(id, name)| (id.to_owned(), name.to_owned()));
        let members = BTreeMap::from(members);
        let connected: Vec<String> = members.keys().cloned().collect();
        let reader = Reader::new(dir.path().to_owned());
        let counts = |requests| Counts {
            requests,
            errors: 0,
        };
        let first = reader.read(&members, &connected).await;
        assert_eq!(
            first.edges,
            BTreeMap::from([(edge("1"), counts(1)), (edge("2"), counts(1))])
        );
        assert_eq!(first.unwatched, ["away-0"]);
        let second = reader.read(&members, &connected).await;
        assert_eq!(
            second.edges,
            BTreeMap::from([(edge("1"), counts(2)), (edge("2"), counts(1))])
        );
        assert_eq!(second.unwatched, ["away-0", "order-1"]);
        let none = reader.read(&BTreeMap::new(), &[]).await;
        assert_eq!(
            none.edges,
            BTreeMap::new(),
            "a member that left is forgotten"
        );
    }
}

//! Who calls whom, counted: read from the admin sockets of this machine's proxies.
//!
//! A mesh on one machine has all its proxies below one run directory. Proxies elsewhere are not seen here; a band
//! over their traffic needs a metrics collector, which comes with telemetry.

use crate::apiserver::live::{Counts, Edge};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

const REQUEST: &[u8] =
    b"GET /stats/prometheus HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
const LIMIT: u64 = 16 << 20;
const PATIENCE: Duration = Duration::from_secs(1);

/// The counters of every proxy that answers.
pub(super) async fn read(run_dir: &Path) -> BTreeMap<Edge, Counts> {
    let mut edges = BTreeMap::new();
    let sockets: Vec<PathBuf> = std::fs::read_dir(run_dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("admin.sock"))
        .collect();
    for socket in sockets {
        if let Ok(Ok(text)) = tokio::time::timeout(PATIENCE, scrape(&socket)).await {
            add(&text, &mut edges);
        }
    }
    edges
}

async fn scrape(socket: &Path) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(REQUEST).await?;
    let mut bytes = Vec::new();
    stream.take(LIMIT).read_to_end(&mut bytes).await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Adds the caller's side of `istio_requests_total`: a call that never arrived is counted there and nowhere else.
fn add(text: &str, edges: &mut BTreeMap<Edge, Counts>) {
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
    use super::{Counts, Edge, add};
    use std::collections::BTreeMap;

    #[test]
    fn the_callers_side_counts_and_errors_are_5xx_or_nothing() {
        let text = "# HELP istio_requests_total x\n\
            istio_requests_total{reporter=\"source\",source_workload_namespace=\"a\",source_service_name=\"order\",destination_service=\"p\",response_code=\"200\"} 7\n\
            istio_requests_total{reporter=\"source\",source_workload_namespace=\"a\",source_service_name=\"order\",destination_service=\"p\",response_code=\"503\"} 2\n\
            istio_requests_total{reporter=\"source\",source_workload_namespace=\"a\",source_service_name=\"order\",destination_service=\"p\",response_code=\"0\"} 1\n\
            istio_requests_total{reporter=\"destination\",source_workload_namespace=\"a\",source_service_name=\"order\",destination_service=\"p\",response_code=\"500\"} 9\n";
        let mut edges = BTreeMap::new();
        add(text, &mut edges);
        let edge = Edge {
            from: "a/order".into(),
            to: "p".into(),
        };
        let counts = Counts {
            requests: 10,
            errors: 3,
        };
        assert_eq!(edges, BTreeMap::from([(edge, counts)]));
    }
}

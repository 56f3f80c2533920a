//! Where this machine's proxies serve their metrics, for Prometheus' service discovery over HTTP.
//!
//! Each proxy says so itself on its admin socket. Only proxies of this mesh that are connected are told; one on another
//! machine is found by whoever runs that machine.

use super::edges::ask_all;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;

const REQUEST: &[u8] = b"GET /server_info HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";

/// Groups of targets in the form of `http_sd_config`, in the order of their workload ids.
pub(super) async fn of(run_dir: &Path, connected: &BTreeSet<String>) -> Value {
    let mut found = ask_all(run_dir, REQUEST, group).await;
    found.retain(|id, _| connected.contains(id));
    Value::Array(found.into_values().collect())
}

/// The workload that answered, and its group.
fn group(response: &str) -> Option<(String, Value)> {
    let (_, body) = response.split_once("\r\n\r\n")?;
    let told: Value = serde_json::from_str(body).ok()?;
    let text = |name: &str| told.get(name).and_then(Value::as_str);
    let address = told.get("addresses")?.get("metrics")?.as_str()?;
    let group = json!({
        "targets": [address],
        "labels": {
            "namespace": text("namespace").unwrap_or_default(),
            "service": text("service").unwrap_or_default(),
            "workload": text("workload_name").unwrap_or_default(),
        },
    });
    Some((text("workload_id")?.to_owned(), group))
}

#[cfg(test)]
mod tests {
    use super::group;

    #[test]
    fn a_proxy_without_metrics_or_identity_is_no_target() {
        let page = |body: &str| format!("HTTP/1.1 200 OK\r\n\r\n{body}");
        let whole = r#"{"workload_id":"1","namespace":"a","service":null,"workload_name":"w","addresses":{"metrics":"127.0.0.1:9"}}"#;
        let (id, told) = group(&page(whole)).unwrap();
        assert_eq!(id, "1");
        assert_eq!(told["targets"][0], "127.0.0.1:9");
        assert_eq!(told["labels"]["workload"], "w");
        assert_eq!(told["labels"]["service"], "");
        for lacking in [
            r#"{"workload_id":null,"addresses":{"metrics":"127.0.0.1:9"}}"#,
            r#"{"workload_id":"1","addresses":{"metrics":null}}"#,
            r#"{"workload_id":"1"}"#,
            "no JSON",
        ] {
            assert!(group(&page(lacking)).is_none(), "{lacking}");
        }
    }
}

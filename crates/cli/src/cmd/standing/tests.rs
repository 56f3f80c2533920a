//! Whose verdicts a request meets.

use super::{Caller, read, seen_by};
use serde_json::{Value, json};

const CLUSTER: &str = "outbound|80||payment.default.svc.cluster.local";

fn workload(name: &str, account: &str, gateway: bool, since: u64) -> Value {
    json!({"workload_name": name, "namespace": "default", "service_account": account, "gateway": gateway,
        "labels": {"istio": "edge"}, "verdicts": [
            {"kind": "breaker", "cluster": CLUSTER, "address": "", "since_ms": since, "until_ms": since}]})
}

#[test]
fn a_request_meets_what_one_proxy_of_its_caller_says() {
    let all = read(&[
        workload("order-2", "order", false, 9),
        workload("order-1", "order", false, 0),
        workload("order-3", "order", false, 9),
        workload("edge-1", "edge", true, 9),
    ]);
    let edge = [("istio".to_owned(), "edge".to_owned())].into();
    let other = [("istio".to_owned(), "other".to_owned())].into();
    for (caller, expect) in [
        (Caller::Sidecar("default", "order"), Some("order-2.default")),
        (Caller::Sidecar("other", "order"), None),
        (Caller::Sidecar("default", "shop"), None),
        (Caller::Sidecar("default", "edge"), None),
        (Caller::Gateway(&edge), Some("edge-1.default")),
        (Caller::Gateway(&other), None),
    ] {
        let seen = seen_by(&all, caller);
        let found = seen.first().map(|told| told.proxy.as_str());
        assert_eq!(found, expect, "{caller:?}");
        assert!(seen.len() <= 1);
    }
}

//! The demo as a user starts it: a whole mesh of real processes for a few seconds, and its report.

use serde_json::Value;
use std::process::Command;

#[test]
fn the_report_has_the_shape_of_the_contracts() {
    let home = tempfile::Builder::new()
        .prefix("naka-demo-")
        .tempdir()
        .unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_naka"))
        .args(["demo", "--for", "5s", "--rate", "50", "--report", "json"])
        .env("NAKA_HOME", home.path())
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{stdout}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let report: Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    assert!(report["requests"].as_u64().unwrap() >= 200, "{report}");
    assert_eq!(report["errors"], 0, "{report}");
    assert_eq!(report["mtls_share"], 1.0, "{report}");
    assert!(report["latency_ms"]["p50"].as_f64().unwrap() > 0.0);
    assert!(
        report["latency_ms"]["p99"].as_f64().unwrap()
            >= report["latency_ms"]["p50"].as_f64().unwrap()
    );
    assert_eq!(report["canary"]["weight"], 10.0);
    assert!(report["canary"]["calls"].as_u64().unwrap() >= 200);
    assert!(report["canary"]["observed"].as_f64().unwrap() < 30.0);
    let names: Vec<&str> = report["sidecars"]
        .as_array()
        .unwrap()
        .iter()
        .map(|sidecar| {
            assert!(
                sidecar["rss_bytes"].as_u64().unwrap() > 0
                    && sidecar["start_ms"].as_f64().unwrap() > 0.0,
                "{sidecar}"
            );
            sidecar["service"].as_str().unwrap()
        })
        .collect();
    for name in [
        "order",
        "restaurant",
        "payment-v1",
        "payment-v2",
        "delivery",
        "notification",
        "inventory",
        "bank",
    ] {
        assert!(names.contains(&name), "{names:?}");
    }
    assert_eq!(names.len(), 8);
    assert!(report["control"]["rss_bytes"].as_u64().unwrap() > 0);
    // Nothing stays: no mesh, no run directory, no context.
    assert!(!home.path().join("mesh/demo").exists());
    let config = std::fs::read_to_string(home.path().join("config")).unwrap();
    assert!(!config.contains("demo"), "{config}");
}

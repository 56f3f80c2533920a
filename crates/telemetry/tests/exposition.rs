//! The exposition, read back by a strict reader of the text format, and the counts in it.
#![expect(clippy::unwrap_used, reason = "a test says by panicking")]

use naka_telemetry::{
    Exchange, Labels, Metrics, Reporter, Security, Service, Traffic, Workload, name,
};
use naka_types::reason::Reason;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

#[derive(Debug, Clone, PartialEq)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// Reads the format as strictly as Prometheus' own checker: HELP and TYPE once, before the samples, samples of a
/// family together, no sample twice, histograms cumulative with `+Inf` equal to the count.
fn read(text: &str) -> Vec<Sample> {
    assert!(text.ends_with('\n'));
    let mut samples: Vec<Sample> = Vec::new();
    let mut seen_families = BTreeSet::new();
    let mut family = String::new();
    let mut kind = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            family = rest.split(' ').next().unwrap().to_owned();
            assert!(seen_families.insert(family.clone()), "{family} twice");
            kind.clear();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (of, word) = rest.split_once(' ').unwrap();
            assert_eq!(of, family);
            word.clone_into(&mut kind);
        } else {
            let sample = sample(line);
            let stem = match kind.as_str() {
                "histogram" => ["_bucket", "_sum", "_count"]
                    .iter()
                    .find_map(|end| sample.name.strip_suffix(end))
                    .unwrap_or_else(|| panic!("{line}")),
                "counter" | "gauge" => sample.name.as_str(),
                other => panic!("{line}: type {other:?}"),
            };
            assert_eq!(stem, family, "{line}");
            samples.push(sample);
        }
    }
    let mut keys: Vec<_> = samples.iter().map(|s| (&s.name, &s.labels)).collect();
    keys.sort();
    let before = keys.len();
    keys.dedup();
    assert_eq!(keys.len(), before, "a sample stands twice");
    check_histograms(&samples);
    samples
}

fn sample(line: &str) -> Sample {
    let (head, value) = line.rsplit_once(' ').unwrap();
    let mut labels = BTreeMap::new();
    let name = match head.split_once('{') {
        None => head,
        Some((name, rest)) => {
            let mut chars = rest.strip_suffix('}').unwrap().chars().peekable();
            while chars.peek().is_some() {
                let key: String = chars.by_ref().take_while(|c| *c != '=').collect();
                assert_eq!(chars.next(), Some('"'), "{line}");
                let mut value = String::new();
                loop {
                    match chars.next().expect("a closing quote") {
                        '"' => break,
                        '\\' => value.push(match chars.next() {
                            Some('n') => '\n',
                            Some(c @ ('"' | '\\')) => c,
                            other => panic!("{line}: escape {other:?}"),
                        }),
                        c => value.push(c),
                    }
                }
                assert!(
                    labels.insert(key.clone(), value).is_none(),
                    "{line}: {key} twice"
                );
                assert!(matches!(chars.next(), None | Some(',')), "{line}");
            }
            name
        }
    };
    let sound = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit())
    };
    assert!(sound(name) && labels.keys().all(|key| sound(key)), "{line}");
    Sample {
        name: name.to_owned(),
        labels,
        value: value.parse().unwrap(),
    }
}

fn check_histograms(samples: &[Sample]) {
    let counts: BTreeMap<_, _> = samples
        .iter()
        .filter_map(|s| Some(((s.name.strip_suffix("_count")?, &s.labels), s.value)))
        .collect();
    let mut buckets: BTreeMap<_, Vec<(f64, f64)>> = BTreeMap::new();
    for sample in samples.iter().filter(|s| s.name.ends_with("_bucket")) {
        let mut labels = sample.labels.clone();
        let bound = labels
            .remove("le")
            .unwrap()
            .replace("+Inf", "inf")
            .parse()
            .unwrap();
        let stem = sample.name.trim_end_matches("_bucket").to_owned();
        buckets
            .entry((stem, labels))
            .or_default()
            .push((bound, sample.value));
    }
    for ((stem, labels), buckets) in buckets {
        assert!(
            buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1),
            "{stem}"
        );
        let count = counts[&(stem.as_str(), &labels)];
        assert_eq!(buckets.last(), Some(&(f64::INFINITY, count)));
    }
}

fn find<'a>(samples: &'a [Sample], name: &str, with: &[(&str, &str)]) -> Vec<&'a Sample> {
    samples
        .iter()
        .filter(|s| {
            s.name == name
                && with
                    .iter()
                    .all(|(k, v)| s.labels.get(*k).is_some_and(|have| have == v))
        })
        .collect()
}

fn labels(source: &str, host: &str) -> Labels {
    let of = |name: &str, version: &str| {
        let labels = [("app", name), ("version", version)];
        let labels = labels
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        let principal = format!("spiffe://cluster.local/ns/shop/sa/{name}");
        Arc::new(Workload::new(
            &format!("{name}-{version}"),
            "shop",
            &principal,
            "naka",
            &labels,
        ))
    };
    Labels {
        reporter: Reporter::Destination,
        source: of(source, "v1"),
        source_service_name: source.into(),
        destination: of("payment", "v2"),
        service: Arc::new(Service::of_host(host)),
        traffic: Traffic::Http,
        security: Security::MutualTls,
    }
}

const HOST: &str = "payment.shop.svc.cluster.local";

/// Every label that Istio's dashboards may ask for, and `source_service_name`.
fn istios_labels() -> BTreeMap<String, String> {
    [
        ("reporter", "destination"),
        ("source_workload", "order-v1"),
        ("source_workload_namespace", "shop"),
        (
            "source_principal",
            "spiffe://cluster.local/ns/shop/sa/order",
        ),
        ("source_app", "order"),
        ("source_version", "v1"),
        ("source_cluster", "naka"),
        ("source_canonical_service", "order"),
        ("source_canonical_revision", "v1"),
        ("source_service_name", "order"),
        ("destination_workload", "payment-v2"),
        ("destination_workload_namespace", "shop"),
        (
            "destination_principal",
            "spiffe://cluster.local/ns/shop/sa/payment",
        ),
        ("destination_app", "payment"),
        ("destination_version", "v2"),
        ("destination_cluster", "naka"),
        ("destination_canonical_service", "payment"),
        ("destination_canonical_revision", "v2"),
        ("destination_service", HOST),
        ("destination_service_name", "payment"),
        ("destination_service_namespace", "shop"),
        ("request_protocol", "http"),
        ("response_code", "200"),
        ("grpc_response_status", ""),
        ("response_flags", "-"),
        ("connection_security_policy", "mutual_tls"),
    ]
    .iter()
    .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
    .collect()
}

#[test]
fn requests_of_all_workers_are_summed_under_istios_labels() {
    let metrics = Metrics::new();
    let (one, two) = (metrics.shard(), metrics.shard());
    let fast = Exchange {
        code: 200,
        duration: Duration::from_micros(4_200),
        request_bytes: 10,
        response_bytes: 2_000,
        ..Exchange::default()
    };
    let failed = Exchange {
        code: 503,
        reason: Some(Reason::NoHealthyEndpoints),
        duration: Duration::from_millis(30),
        ..Exchange::default()
    };
    for shard in [&one, &two] {
        let handle = shard.resolve(&labels("order", HOST));
        handle.record(&fast);
        handle.record(&fast);
        shard.resolve(&labels("order", HOST)).record(&failed);
        shard.local_reply(Reason::NoHealthyEndpoints);
    }
    let samples = read(&metrics.render());
    let ok = find(
        &samples,
        "istio_requests_total",
        &[("response_code", "200"), ("response_flags", "-")],
    );
    assert_eq!(ok.len(), 1);
    assert_eq!(ok[0].value, 4.0);
    assert_eq!(ok[0].labels, istios_labels());
    let bad = find(
        &samples,
        "istio_requests_total",
        &[("response_code", "503")],
    );
    assert_eq!(
        (bad[0].value, bad[0].labels["response_flags"].as_str()),
        (2.0, "UH")
    );
    let bucket = |le| {
        let with = [("response_code", "200"), ("le", le)];
        find(
            &samples,
            "istio_request_duration_milliseconds_bucket",
            &with,
        )[0]
        .value
    };
    assert_eq!((bucket("1"), bucket("5"), bucket("+Inf")), (0.0, 4.0, 4.0));
    let sum = find(
        &samples,
        "istio_request_duration_milliseconds_sum",
        &[("response_code", "200")],
    );
    assert!((sum[0].value - 16.8).abs() < 1e-9);
    let bytes = find(
        &samples,
        "istio_response_bytes_sum",
        &[("response_code", "200")],
    );
    assert_eq!(bytes[0].value, 8_000.0);
    let replies = find(
        &samples,
        "naka_local_replies_total",
        &[("reason", "no-healthy-endpoints")],
    );
    assert_eq!(replies[0].value, 2.0);
    assert!(find(&samples, "naka_process_resident_bytes", &[])[0].value > 1e5);
}

#[test]
fn connections_certificates_and_hostile_label_values() {
    let metrics = Metrics::new();
    let shard = metrics.shard();
    let mut labels = labels("or\"d\\er\n{x=\"y\"}", HOST);
    labels.traffic = Traffic::Tcp;
    let handle = shard.resolve_tcp(&labels);
    handle.opened();
    handle.opened();
    handle.moved(100, 7);
    handle.moved(1, 1);
    handle.closed(None);
    handle.closed(Some(Reason::UpstreamReset));
    metrics.certificate_expires(
        "workload",
        "spiffe://cluster.local/ns/shop/sa/order",
        1_900_000_000,
    );
    let pushes = metrics.number(name::PUSHES, &[("type", "cds")]);
    pushes.add(2);
    metrics.number(name::PUSHES, &[("type", "cds")]).add(1);
    let samples = read(&metrics.render());
    let one = |name, with: &[(&str, &str)]| {
        let found = find(&samples, name, with);
        assert_eq!(found.len(), 1, "{name}");
        found[0].value
    };
    let source = [("source_app", "or\"d\\er\n{x=\"y\"}")];
    assert_eq!(one("istio_tcp_connections_opened_total", &source), 2.0);
    assert_eq!(one("istio_tcp_sent_bytes_total", &source), 101.0);
    assert_eq!(one("istio_tcp_received_bytes_total", &source), 8.0);
    assert_eq!(
        one(
            "istio_tcp_connections_closed_total",
            &[("response_flags", "UC")]
        ),
        1.0
    );
    assert_eq!(
        one(
            "istio_tcp_connections_closed_total",
            &[("response_flags", "-")]
        ),
        1.0
    );
    assert_eq!(
        one(
            "certificate_expiry_timestamp",
            &[("certificate", "workload")]
        ),
        1.9e9
    );
    assert_eq!(one("naka_xds_pushes_total", &[("type", "cds")]), 3.0);
}

#[test]
fn cardinality_is_bounded_and_nothing_is_lost() {
    let metrics = Metrics::new();
    let shard = metrics.shard_of(40);
    let exchange = Exchange {
        code: 200,
        ..Exchange::default()
    };
    for index in 0..50 {
        shard
            .resolve(&labels(&format!("s{index}"), HOST))
            .record(&exchange);
    }
    // More outcomes than are kept apart.
    let handle = shard.resolve(&labels("s1", HOST));
    for code in 200..300 {
        handle.record(&Exchange { code, ..exchange });
    }
    let samples = read(&metrics.render());
    let total: f64 = find(&samples, "istio_requests_total", &[])
        .iter()
        .map(|s| s.value)
        .sum();
    assert_eq!(total, 150.0);
    let sources: BTreeSet<_> = find(&samples, "istio_requests_total", &[])
        .iter()
        .map(|s| s.labels["source_app"].clone())
        .collect();
    assert_eq!(sources.len(), 41);
    assert_eq!(
        find(&samples, "istio_requests_total", &[("source_app", "other")])[0].value,
        10.0
    );
    let other = find(
        &samples,
        "istio_requests_total",
        &[("source_app", "s1"), ("response_code", "other")],
    );
    assert_eq!(
        other[0].value, 77.0,
        "23 outcomes are kept apart, the first of them is 200 twice"
    );
    assert_eq!(
        find(&samples, "naka_metric_capped_lookups_total", &[])[0].value,
        10.0
    );
}

/// However many label sets have however many outcomes each: what is kept is bounded, what is counted is not.
#[test]
fn outcomes_are_bounded_over_all_label_sets() {
    let metrics = Metrics::new();
    let shard = metrics.shard();
    for index in 0..500 {
        let handle = shard.resolve(&labels(&format!("s{index}"), HOST));
        for code in 200..220 {
            handle.record(&Exchange {
                code,
                ..Exchange::default()
            });
        }
    }
    let text = metrics.render();
    let samples: Vec<f64> = text
        .lines()
        .filter(|line| line.starts_with("istio_requests_total{"))
        .map(|line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
        .collect();
    assert_eq!(samples.len(), 4_000 + 300, "200 sets whole, 300 as `other`");
    assert_eq!(samples.iter().sum::<f64>(), 10_000.0);
}

/// A set that nothing is counted under is forgotten after the time, never while a handle of it is held; and makes room.
#[test]
fn idle_label_sets_are_forgotten() {
    let metrics = Metrics::new();
    let shard = metrics.shard_of(2);
    let once = Exchange {
        code: 200,
        ..Exchange::default()
    };
    let count = |source: &str| {
        let samples = read(&metrics.render());
        let found = find(&samples, "istio_requests_total", &[("source_app", source)]);
        found.first().map(|sample| sample.value)
    };
    let held = shard.resolve(&labels("held", HOST));
    held.record(&once);
    shard.resolve(&labels("idle", HOST)).record(&once);
    shard.expire(100, 60);
    shard.expire(159, 60);
    assert_eq!((count("held"), count("idle")), (Some(1.0), Some(1.0)));
    shard.resolve(&labels("idle", HOST)).record(&once);
    shard.expire(160, 60);
    assert_eq!(count("idle"), Some(2.0), "it moved since it was looked at");
    shard.resolve(&labels("late", HOST)).record(&once);
    assert_eq!((count("late"), count("other")), (None, Some(1.0)));
    shard.expire(220, 60);
    assert_eq!((count("held"), count("idle")), (Some(1.0), None));
    shard.resolve(&labels("late", HOST)).record(&once);
    assert_eq!(count("late"), Some(1.0), "there is room again");
    drop(held);
    shard.expire(300, 60);
    shard.expire(360, 60);
    assert_eq!(
        (count("held"), count("late"), count("other")),
        (None, None, None)
    );
    let samples = read(&metrics.render());
    let expired = find(&samples, "naka_metric_expired_label_sets_total", &[]);
    assert_eq!(expired[0].value, 4.0);
}

/// A kept trace stands at the bucket its request fell into, in the format that has room for it, and there alone.
#[test]
fn exemplars_are_in_openmetrics_alone() {
    let metrics = Metrics::new();
    let (one, two) = (metrics.shard(), metrics.shard());
    let exchange = |trace, ms| Exchange {
        code: 503,
        duration: Duration::from_millis(ms),
        trace,
        ..Exchange::default()
    };
    one.resolve(&labels("order", HOST))
        .record(&exchange(None, 7));
    assert!(
        !metrics.render_open().contains("trace_id"),
        "nothing is kept"
    );
    one.resolve(&labels("order", HOST))
        .record(&exchange(Some(0xabc), 7));
    two.resolve(&labels("order", HOST))
        .record(&exchange(None, 40));
    let (text, open) = (metrics.render(), metrics.render_open());
    assert!(!text.contains("trace_id") && !text.contains("# EOF"));
    assert!(open.ends_with("\n# EOF\n") && open.matches("# EOF").count() == 1);
    assert!(
        open.contains("# TYPE istio_requests counter\n")
            && open.contains("\nistio_requests_total{")
    );
    let with: Vec<&str> = open
        .lines()
        .filter(|line| line.contains("trace_id"))
        .collect();
    assert_eq!(with.len(), 1, "{with:?}");
    assert!(with[0].starts_with("istio_request_duration_milliseconds_bucket{"));
    assert!(
        with[0].contains(",le=\"10\"} 2 # {trace_id=\"00000000000000000000000000000abc\"} 7.000 1")
    );
    for (accept, wanted) in [
        (
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            true,
        ),
        ("text/plain;version=0.0.4", false),
        (
            "application/openmetrics-text; version=1.0.0; q=0, text/plain",
            false,
        ),
        ("application/openmetrics-text; version=0.0.1", false),
        ("*/*", false),
    ] {
        assert_eq!(
            naka_telemetry::wants_open_metrics(accept),
            wanted,
            "{accept}"
        );
    }
}

/// Gauges that are told anew as a whole keep nothing of what is gone.
#[test]
fn gauges_are_replaced_as_a_whole() {
    let metrics = Metrics::new();
    let row = |cluster: &str, value| (vec![("cluster", cluster.to_owned())], value);
    metrics.gauges(name::CLUSTER_QUEUED, [row("a", 1), row("b", 2)]);
    metrics.gauges(name::CLUSTER_QUEUED, [row("b", 3)]);
    let samples = read(&metrics.render());
    let found = find(&samples, "naka_cluster_queued_requests", &[]);
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].labels["cluster"].as_str(), found[0].value),
        ("b", 3.0)
    );
}

#[test]
fn recording_from_many_threads_loses_nothing() {
    let metrics = Metrics::new();
    let shard = metrics.shard();
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let handle = shard.resolve(&labels("order", HOST));
            std::thread::spawn(move || {
                for index in 0..20_000_u16 {
                    handle.record(&Exchange {
                        code: 200 + (index + thread) % 7,
                        ..Exchange::default()
                    });
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let samples = read(&metrics.render());
    let found = find(&samples, "istio_requests_total", &[]);
    assert_eq!(found.len(), 7);
    assert_eq!(found.iter().map(|s| s.value).sum::<f64>(), 80_000.0);
}

/// Not a gate: prints what counting one exchange costs.
#[test]
fn cost_of_recording() {
    let metrics = Metrics::new();
    let handle = metrics.shard().resolve(&labels("order", HOST));
    let exchange = Exchange {
        code: 200,
        duration: Duration::from_millis(3),
        ..Exchange::default()
    };
    let start = Instant::now();
    for _ in 0..100_000 {
        handle.record(&exchange);
    }
    println!("one record {:?}", start.elapsed() / 100_000);
    assert!(start.elapsed() < Duration::from_secs(20));
}

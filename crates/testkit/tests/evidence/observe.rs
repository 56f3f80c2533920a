//! The control plane's own metrics: each one moves for a reason that was made outside, and stays otherwise.

use naka_testkit::mesh::{Mesh, SOON};
use naka_testkit::program::Program;
use naka_testkit::wait::until;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};

/// Samples of the control plane's metrics port by name with labels, and the raw text.
fn scrape(mesh: &Mesh) -> (BTreeMap<String, f64>, String) {
    let ports = std::fs::read(mesh.home().join("mesh/local/ports.json")).expect("ports");
    let ports: serde_json::Value = serde_json::from_slice(&ports).expect("JSON");
    let port = u16::try_from(ports["metrics"].as_u64().expect("a port")).expect("a port");
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).expect("the metrics port");
    stream
        .write_all(b"GET /metrics HTTP/1.0\r\nhost: localhost\r\n\r\n")
        .expect("ask");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    let (_, body) = text.split_once("\r\n\r\n").expect("a body");
    let samples = body.lines().filter(|line| !line.starts_with('#'));
    let numbers = samples
        .filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        })
        .collect();
    (numbers, body.to_owned())
}

fn value(mesh: &Mesh, name: &str) -> f64 {
    scrape(mesh)
        .0
        .get(name)
        .copied()
        .unwrap_or_else(|| panic!("no sample {name}"))
}

fn phase(name: &str) -> String {
    format!("naka_push_phase_seconds_count{{phase=\"{name}\"}}")
}

/// A VirtualService that is sound but for a subset that nobody defines, if asked.
fn route(weight_timeout: u32, subset: bool) -> String {
    let subset = if subset { ", subset: v9" } else { "" };
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: payment\nspec:\n  hosts: [payment]\n  http:\n  - timeout: {weight_timeout}s\n    route:\n    - destination: {{host: payment{subset}}}\n"
    )
}

fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .expect("a pid");
    kill_process(pid, signal).expect("signal");
}

/// A mesh of two services, one of which has called the other and so holds its route.
fn mesh() -> (Mesh, Program, Program) {
    let mesh = Mesh::up();
    let payment = mesh.serve("payment", "v1");
    let load = mesh.load(
        "order",
        &["-s", "order"],
        &["--url", "http://payment/", "--rate", "20", "--for", "600"],
    );
    until("first answers", SOON, || {
        (mesh.logged("order").len() > 5).then_some(())
    });
    mesh.apply("route.yaml", &route(5, false));
    (mesh, payment, load)
}

/// Changes move every phase and the log's syncs; an equal change moves none of the log.
#[test]
fn push_phases_and_syncs_count_changes() {
    let (mesh, _payment, _load) = mesh();
    let phases = ["debounce", "compile", "queue", "write", "ack"];
    let syncs = || value(&mesh, "naka_log_fsync_seconds_count");
    let before: Vec<f64> = phases.iter().map(|p| value(&mesh, &phase(p))).collect();
    let (written, revision) = (syncs(), value(&mesh, "naka_config_revision_info"));
    mesh.apply("route.yaml", &route(6, false));
    until("all phases have counted the change", SOON, || {
        let more = |(name, before): (&&str, &f64)| value(&mesh, &phase(name)) > *before;
        phases.iter().zip(&before).all(more).then_some(())
    });
    assert!(syncs() > written && value(&mesh, "naka_config_revision_info") > revision);
    let written = syncs();
    mesh.apply("route.yaml", &route(6, false));
    assert!(
        (syncs() - written).abs() < 0.5,
        "the twin: an equal change writes nothing"
    );
    let (numbers, _) = scrape(&mesh);
    for phase in phases {
        let sum = numbers[&format!("naka_push_phase_seconds_sum{{phase=\"{phase}\"}}")];
        assert!(
            sum > 0.0 && sum < 60.0,
            "{phase}: {sum} are no seconds of this test"
        );
    }
}

/// A frozen sidecar is behind, by more with each change, and programmed again when it goes on; one that is killed with
/// its program is away; a broken reference is a finding, and gone with its repair.
#[test]
fn proxies_and_findings_are_counted_by_state() {
    let (mesh, payment, load) = mesh();
    let state = |name: &str| value(&mesh, &format!("naka_proxies{{state=\"{name}\"}}"));
    let behind = || value(&mesh, "naka_proxy_max_behind_revisions");
    until("both are programmed", SOON, || {
        (state("programmed") > 1.5 && behind() < 0.5).then_some(())
    });
    let sidecar = mesh.sidecar_of(&load).expect("a sidecar");
    signal(sidecar, Signal::STOP);
    let file = mesh.file("change.yaml", &route(7, false));
    mesh.ok(["apply".as_ref(), "-f".as_ref(), file.as_os_str()]);
    until("one is behind", SOON, || {
        (state("behind") > 0.5).then_some(())
    });
    let first = behind();
    assert!(first > 0.5);
    let file = mesh.file("change.yaml", &route(8, false));
    mesh.ok(["apply".as_ref(), "-f".as_ref(), file.as_os_str()]);
    until("further behind with the next change", SOON, || {
        (behind() > first + 0.5).then_some(())
    });
    signal(sidecar, Signal::CONT);
    until("it catches up", SOON, || {
        (state("behind") < 0.5 && behind() < 0.5).then_some(())
    });

    let findings = || value(&mesh, "naka_findings{severity=\"info\"}");
    let none = findings();
    mesh.apply("route.yaml", &route(9, true));
    until("a finding", SOON, || {
        (findings() > none + 0.5).then_some(())
    });
    mesh.apply("route.yaml", &route(9, false));
    until("repaired", SOON, || (findings() < none + 0.5).then_some(()));

    let connected = value(&mesh, "naka_connected_proxies");
    let served = mesh.sidecar_of(&payment).expect("a sidecar");
    signal(payment.pid(), Signal::KILL);
    signal(served, Signal::KILL);
    until("one is away", SOON, || {
        (state("away") > 0.5 && value(&mesh, "naka_connected_proxies") < connected).then_some(())
    });
}

/// Certificates count down to what the wire shows: with a short lifetime the workload's and the control plane's ends
/// are near and move on with each renewal, while those of the authority are a year away and stay.
#[test]
fn certificates_and_the_authority_say_when_they_end() {
    let mesh = Mesh::up_with(&["--leaf-ttl", "8s"]);
    let _payment = mesh.serve("payment", "v1");
    let end = |what: &str| {
        let (numbers, _) = scrape(&mesh);
        let prefix = format!("certificate_expiry_timestamp{{certificate=\"{what}\"");
        numbers
            .iter()
            .find(|(name, _)| name.starts_with(&prefix))
            .map(|(_, at)| *at)
    };
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970")
        .as_secs_f64();
    let first = until("a certificate in use", SOON, || end("workload"));
    assert!(first > now - 1.0 && first < now + 60.0, "{first} {now}");
    let root = end("root").expect("a root");
    let intermediate = end("intermediate").expect("an intermediate");
    assert!(intermediate > now + 300.0 * 86_400.0 && root > intermediate);
    until("a renewal moves the end on", SOON, || {
        (end("workload")? > first && end("control")? > now).then_some(())
    });
    assert!((end("root").expect("a root") - root).abs() < 0.5);
}

/// The rules of `promtool check metrics`, and no label that grows with the mesh.
#[test]
fn the_exposition_keeps_prometheus_rules() {
    let (mesh, _payment, _load) = mesh();
    let (_, text) = scrape(&mesh);
    assert_eq!(breaches(&text), Vec::<String>::new());
    let page = std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../docs/reference/metrics.md"
    ))
    .expect("the page of metrics");
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let name = line.split(' ').next().unwrap_or_default();
        assert!(
            page.contains(&format!("`{name}`")),
            "{name} is not in docs/reference/metrics.md"
        );
    }
    let bad = "# TYPE naka_x_count counter\nnaka_x_count{proxy=\"a\"} 1\n";
    assert!(breaches(bad).len() >= 3, "the twin: {:?}", breaches(bad));
}

fn breaches(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let helps: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# HELP ")?.split(' ').next())
        .collect();
    let mut known = BTreeMap::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap_or((line, ""));
        if known.insert(name, kind).is_some() {
            found.push(format!("{name}: twice"));
        }
        if !helps.contains(name) {
            found.push(format!("{name}: no help"));
        }
        if (kind == "counter") != name.ends_with("_total") {
            found.push(format!(
                "{name}: _total is for counters, and for all of them"
            ));
        }
        for end in ["_count", "_sum", "_bucket"] {
            if name.ends_with(end) {
                found.push(format!("{name}: {end} is for histograms' parts"));
            }
        }
        for unit in ["milliseconds", "minutes", "kilobytes", "percent"] {
            if name.ends_with(unit) {
                found.push(format!("{name}: {unit} is no base unit"));
            }
        }
    }
    let labels = [
        "phase",
        "state",
        "severity",
        "type",
        "reason",
        "certificate",
        "identity",
        "stream",
        "by",
        "to",
        "le",
    ];
    let mut series: BTreeMap<&str, usize> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap_or_default();
        let parts = ["_bucket", "_sum", "_count"];
        let base = parts.iter().find_map(|part| {
            let base = name.strip_suffix(part)?;
            (known.get(base) == Some(&"histogram")).then_some(base)
        });
        if !known.contains_key(base.unwrap_or(name)) {
            found.push(format!("{name}: no type"));
        }
        *series.entry(name).or_default() += 1;
        if let Some((_, rest)) = line.split_once('{') {
            let inside = rest.rsplit_once('}').map_or(rest, |(inside, _)| inside);
            for pair in inside.split("\",") {
                let label = pair.split('=').next().unwrap_or_default();
                if !labels.contains(&label) {
                    found.push(format!("{name}: label {label} is not of the closed list"));
                }
            }
        }
    }
    for (name, count) in series {
        if count > 100 {
            found.push(format!("{name}: {count} series"));
        }
    }
    found
}

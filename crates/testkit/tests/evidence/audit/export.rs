//! The trail that leaves by itself: into a file and to a real collector, which dies and comes back; a place that hangs,
//! and a disk that is full, under both modes. Programs never wait for any of it.

use super::{DENY, OBJECTS, calls, denials, dir, verify};
use crate::days::Disk;
use crate::newcomer::venv;
use naka_testkit::mesh::{Mesh, SOON};
use naka_testkit::program::{Program, free_port};
use naka_testkit::wait::until;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

/// The OpenTelemetry Collector, printing what it receives.
fn collector(mesh: &Mesh, name: &str, port: u16) -> Program {
    let config = format!(
        "{{receivers: {{otlp: {{protocols: {{http: {{endpoint: '127.0.0.1:{port}'}}}}}}}}, \
         exporters: {{debug: {{verbosity: detailed}}}}, \
         service: {{telemetry: {{metrics: {{level: none}}}}, \
         pipelines: {{logs: {{receivers: [otlp], exporters: [debug]}}}}}}}}"
    );
    let file = mesh.file("collector.yaml", &config);
    let mut command = Command::new(venv("collector-go"));
    command
        .arg("--config")
        .arg(format!("file:{}", file.display()));
    let program = Program::start(name, mesh.home(), &mut command).expect("the collector");
    until("the collector listens", SOON, || {
        TcpStream::connect(("127.0.0.1", port)).ok()
    });
    program
}

pub(super) fn lines(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

/// Numbers of a stream's events in the file.
pub(super) fn numbers(file: &Path, stream: &str) -> Vec<u64> {
    let all = lines(file);
    let of = all.iter().filter(|line| line["stream"] == stream);
    of.map(|line| line["seq"].as_u64().expect("a number"))
        .collect()
}

pub(super) fn status(mesh: &Mesh) -> Value {
    serde_json::from_str(&mesh.ok(["audit", "status", "-o", "json"])).expect("JSON")
}

/// Waits until a place has everything.
pub(super) fn caught_up(mesh: &Mesh, place: usize) {
    until("the place has everything", SOON, || {
        (status(mesh)["places"][place]["behind"] == 0).then_some(())
    });
}

/// The value of one series of the control plane's metrics.
fn series(mesh: &Mesh, name: &str) -> Option<u64> {
    let ports = std::fs::read_to_string(dir(mesh).join("ports.json")).expect("ports");
    let ports: Value = serde_json::from_str(&ports).expect("JSON");
    let url = format!("http://127.0.0.1:{}/metrics", ports["metrics"]);
    let output = Command::new("curl")
        .args(["-s", &url])
        .output()
        .expect("curl");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.rsplit(' ').next()?.parse().ok()
}

fn route(name: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}}}\nspec:\n  hosts: [{name}]\n  http:\n  - route: [{{destination: {{host: {name}}}}}]\n"
    )
}

/// Applies a route; what was said when it was not taken.
pub(super) fn change(mesh: &Mesh, name: &str) -> Result<(), String> {
    let file = mesh.file(&format!("{name}.yaml"), &route(name));
    let output = mesh.naka(["apply", "-f", file.to_str().expect("printable")]);
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// A login that fails, which is an event of the stream of refused calls.
fn login(mesh: &Mesh) {
    let output = Command::new("curl")
        .args([
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "-H",
            "authorization: Bearer no",
        ])
        .arg("--unix-socket")
        .arg(dir(mesh).join("control.sock"))
        .arg("http://localhost/naka/v1/history")
        .output()
        .expect("curl");
    assert_eq!(output.stdout, b"401");
}

/// Every event arrives by itself, masked, in a file and at a real collector. The collector dies: the file goes on, and
/// the collector gets what it missed when it is back. The control plane dies: nothing is missing afterwards, and
/// nothing comes twice that was noted as taken. The twin: without that note everything comes again.
#[test]
fn events_go_to_a_file_and_a_real_collector_by_themselves() {
    let port = free_port();
    let scratch = tempfile::tempdir().expect("a directory");
    let file = scratch.path().join("events.jsonl");
    let url = format!("http://127.0.0.1:{port}/v1/logs");
    let path = file.to_str().expect("printable");
    let mut mesh = Mesh::up_with(&["--audit-to", path, "--audit-to", &url]);
    let collecting = collector(&mesh, "collector", port);
    mesh.apply("objects", OBJECTS);
    login(&mesh);
    until("both streams in the file", SOON, || {
        let all = lines(&file);
        let has = |kind: &str| all.iter().any(|line| line["kind"] == kind);
        (has("object.put") && has("login.failed")).then_some(())
    });
    caught_up(&mesh, 1);
    until("the collector prints it", SOON, || {
        let said = collecting.err();
        (said.contains("naka.event.object: Str(VirtualService default/payment)")
            && said.contains("naka.event.kind: Str(login.failed)"))
        .then_some(())
    });
    let said = collecting.err() + &std::fs::read_to_string(&file).expect("the file");
    assert!(
        said.contains("gold") && said.contains("[masked]"),
        "masked, and no more than that"
    );
    assert!(!said.contains("c2VjcmV0") && !said.contains("9876543210"));
    let head = lines(&file)[0]["head"].as_str().expect("a head").to_owned();
    assert_eq!(verify(&mesh, &["--head", &head]).0, 0);

    drop(collecting);
    change(&mesh, "alone").expect("taken");
    caught_up(&mesh, 0);
    until("it is told", SOON, || {
        let all = status(&mesh);
        let place = &all["places"][1];
        let failing = place["failing"]
            .as_str()
            .is_some_and(|why| why.contains("no connection"));
        (failing && place["behind"].as_u64() > Some(0)).then_some(())
    });
    assert!(series(&mesh, "naka_audit_export_behind_events{to=\"otlp\"}") > Some(0));
    assert_eq!(
        series(&mesh, "naka_audit_export_behind_events{to=\"file\"}"),
        Some(0)
    );
    let back = collector(&mesh, "collector-again", port);
    caught_up(&mesh, 1);
    until("what it missed", SOON, || {
        back.err().contains("default/alone").then_some(())
    });
    assert!(
        !back.err().contains("Str(VirtualService default/payment)"),
        "and nothing else"
    );

    mesh.kill_control();
    mesh.start_control();
    change(&mesh, "restarted").expect("taken");
    caught_up(&mesh, 0);
    for stream in ["log", "denials"] {
        let all = numbers(&file, stream);
        let whole: Vec<u64> = (1..=all.len() as u64).collect();
        assert_eq!(all, whole, "{stream}: each once and in order");
    }
    let before = numbers(&file, "log").len();
    mesh.kill_control();
    std::fs::remove_file(dir(&mesh).join("export.json")).expect("the note");
    mesh.start_control();
    caught_up(&mesh, 0);
    assert!(
        numbers(&file, "log").len() >= 2 * before,
        "the twin: sent again from the first"
    );
}

/// Answers requests as a collector does, from now on.
fn answer(listener: TcpListener) {
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(stream.try_clone().expect("a copy"));
            let (mut line, mut length) = (String::new(), 0);
            while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().expect("a number");
                }
                line.clear();
            }
            // Whoever gave up waiting has gone.
            let read = reader.read_exact(&mut vec![0; length]);
            let close = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
            let _ = read.and_then(|()| stream.write_all(close.as_bytes()));
        }
    });
}

/// A collector takes connections and says nothing. With `refuse` no change is taken when it is too far behind, calls of
/// programs go on as before and the file beside it is served; when it answers, changes are taken. The twin: the same
/// collector under `drop`.
#[test]
fn a_place_that_hangs_holds_up_nobody_but_changes_where_that_is_asked_for() {
    let scratch = tempfile::tempdir().expect("a directory");
    let file = scratch.path().join("events.jsonl");
    let hangs = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = hangs.local_addr().expect("an address").port();
    let url = format!("http://127.0.0.1:{port}/v1/logs");
    let path = file.to_str().expect("printable");
    let options = [
        "--audit-to",
        &url,
        "--audit-to",
        path,
        "--audit-most-behind",
        "40",
    ];
    let refuse = Mesh::up_with(&[&options[..], &["--audit-when-full", "refuse"]].concat());
    let _payment = refuse.serve("payment", "v1");
    let said = (0..60).find_map(|number| change(&refuse, &format!("r{number}")).err());
    let said = said.expect("a change that is refused");
    assert!(
        said.contains(&url)
            && said.contains("--audit-most-behind")
            && said.contains("behind, more than 40"),
        "{said}"
    );
    assert_eq!(
        calls(&refuse, "order", &["http://payment/"]),
        ["200"],
        "a new program, and its call"
    );
    caught_up(&refuse, 1);
    assert_eq!(status(&refuse)["places"][0]["delivered"]["log"], 0);

    let drop = Mesh::up_with(&options);
    for number in 0..42 {
        change(&drop, &format!("d{number}")).expect("the twin takes it");
    }
    let place = &status(&drop)["places"][0];
    assert!(
        place["behind"].as_u64() > Some(40) && place["dropped"] == 0,
        "{place}"
    );

    answer(hangs);
    caught_up(&refuse, 0);
    change(&refuse, "back").expect("changes are taken again");
    caught_up(&drop, 0);
}

/// The disk of the refused calls is full, that of the log is not. They are counted, a metric has the count, calls are
/// answered as ever; `refuse` takes no change meanwhile and takes them again when there is room, without another
/// refused call. The twin: `drop` takes them.
#[test]
fn a_full_disk_drops_and_counts_and_refuses_changes_where_that_is_asked_for() {
    for (mode, taken) in [("refuse", false), ("drop", true)] {
        let mut mesh = Mesh::down_with(&["--audit-when-full", mode]);
        let disk = Disk::at(&mut mesh, "mesh/local/denials", "64k");
        mesh.start_control();
        change(&mesh, "before").expect("taken while there is room");
        let _payment = mesh.serve("payment", "v1");
        mesh.apply("policy", DENY);
        // Before anything is written: a file that is there has room in its last block.
        disk.fill();
        let dropped = "naka_audit_dropped_total{stream=\"denials\",by=\"disk\"}";
        assert_eq!(series(&mesh, dropped), Some(0));
        until("a call is refused as ever", SOON, || {
            let told = calls(&mesh, "order", &["http://payment/secret/a"]);
            (told.last()? == "403").then_some(())
        });
        until("they are dropped", SOON, || {
            let all = status(&mesh);
            let stream = &all["streams"][0];
            (stream["dropped"].as_u64() > Some(0) && stream["failing"].is_string()).then_some(())
        });
        assert!(series(&mesh, dropped) > Some(0));
        assert_eq!(calls(&mesh, "order-2", &["http://payment/"]), ["200"]);
        let said = change(&mesh, "full");
        assert_eq!(said.is_ok(), taken, "{mode}: {said:?}");
        if let Err(said) = said {
            assert!(said.contains("--audit-when-full refuse"), "{said}");
        }
        std::fs::remove_file(disk.path("fill")).expect("make room");
        until("it is recorded again", SOON, || {
            status(&mesh)["streams"][0]["failing"]
                .is_null()
                .then_some(())
        });
        change(&mesh, "room").expect("taken again");
        let all = denials(&mesh);
        let told = all.iter().filter(|one| one["kind"] == "audit.dropped");
        let told: u64 = told.filter_map(|one| one["events"].as_u64()).sum();
        assert_eq!(Some(told), series(&mesh, dropped), "the count is an event");
        let (code, said) = verify(&mesh, &[]);
        assert_eq!(code, 0, "{said}");
    }
}

//! The audit trail: an edited log is found with the control plane and without it, what leaves the mesh is masked, and
//! whoever was refused stands in it, without anybody waiting for that.

use naka_testkit::mesh::{Mesh, SOON};
use naka_testkit::wait::until;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

mod envoy;
mod export;
mod keep;

const OBJECTS: &str = r#"apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: payment, namespace: default, annotations: {owner-mobile: "+919876543210"}}
spec:
  hosts: [payment]
  http:
  - match: [{headers: {authorization: {exact: Basic c2VjcmV0}, x-tier: {exact: gold}}}]
    route: [{destination: {host: payment}}]
  - route: [{destination: {host: payment}}]
"#;

const DENY: &str = r#"apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-secrets, namespace: default}
spec:
  selector: {matchLabels: {app: payment}}
  action: DENY
  rules:
  - to: [{operation: {paths: [/secret*]}}]
"#;

/// The checksum of the log's records (CRC-32C), bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |mut crc, byte| {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ if crc & 1 == 1 { 0x82F6_3B78 } else { 0 };
        }
        crc
    })
}

/// The log with one word of its first record with such a word replaced by one as long, and its checksum mended; and the
/// number of the event that has it.
fn edited(log: &[u8], word: &str, other: &str) -> (Vec<u8>, u64) {
    let mut bytes = log.to_vec();
    let mut at = 16;
    while at < bytes.len() {
        let length = u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let begin = at + 12;
        let end = begin + usize::try_from(length).expect("it fits");
        let text = String::from_utf8(bytes[begin..end].to_vec()).expect("text");
        if let Some(line) = text.lines().find(|line| line.contains(word)) {
            let event: Value = serde_json::from_str(line).expect("an event");
            let payload = text.replacen(word, other, 1);
            assert_eq!(payload.len(), text.len());
            bytes[begin..end].copy_from_slice(payload.as_bytes());
            let crc = crc32c(payload.as_bytes());
            bytes[at + 4..at + 8].copy_from_slice(&crc.to_le_bytes());
            let crc = crc32c(&bytes[at..at + 8]);
            bytes[at + 8..at + 12].copy_from_slice(&crc.to_le_bytes());
            return (bytes, event["seq"].as_u64().expect("a number"));
        }
        at = end;
    }
    panic!("no record has {word}");
}

/// What `naka audit verify` says, and its exit code.
fn verify(mesh: &Mesh, more: &[&str]) -> (i32, String) {
    let words = ["audit", "verify"].iter().chain(more);
    let output = mesh.naka(words);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code().expect("an exit code"), said)
}

fn dir(mesh: &Mesh) -> PathBuf {
    mesh.home().join("mesh/local")
}

/// One event is changed on disk, with its checksum: the running control plane finds it, and so does whoever has the
/// files alone. The twin: the same files as they were written.
#[test]
fn an_edited_log_is_found_and_the_event_is_named() {
    let mesh = Mesh::up();
    mesh.apply("objects", OBJECTS);
    mesh.apply("policy", DENY);
    mesh.apply("policy", &DENY.replace("/secret*", "/hidden*"));
    let log = dir(&mesh).join("log");
    let place = dir(&mesh);
    let offline = ["--dir", place.to_str().expect("printable")];
    let head = mesh.ok(["audit", "head"]);
    let noted = ["--head", head.trim()];
    let sound = std::fs::read(&log).expect("the log");
    for way in [&[][..], &noted, &offline, &[offline, noted].concat()] {
        let (code, said) = verify(&mesh, way);
        assert_eq!(code, 0, "{said}");
        assert!(said.starts_with("as it was written"), "{said}");
    }
    let (bytes, seq) = edited(&sound, "\"exact\":\"gold\"", "\"exact\":\"lead\"");
    std::fs::write(&log, &bytes).expect("write the log");
    for way in [&[][..], &noted, &offline] {
        let (code, said) = verify(&mesh, way);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(&format!("event {seq}, ")), "{said}");
    }
    // The last event is gone: the files alone cannot know, a head of before can.
    let last = last_record(&sound);
    std::fs::write(&log, &sound[..last]).expect("write the log");
    assert_eq!(
        verify(&mesh, &[]).0,
        1,
        "the control plane knows what it wrote"
    );
    let (code, said) = verify(&mesh, &[offline, noted].concat());
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("missing at the end"), "{said}");
    std::fs::write(&log, &sound).expect("write the log");
    assert_eq!(verify(&mesh, &noted).0, 0, "the twin");
    println!("event {seq} of the log was found edited, by API and by files");
}

/// Where the last record begins.
fn last_record(log: &[u8]) -> usize {
    let (mut at, mut last) = (16, 16);
    while at < log.len() {
        last = at;
        let length = u32::from_le_bytes(log[at..at + 4].try_into().expect("four bytes"));
        at += 12 + usize::try_from(length).expect("it fits");
    }
    last
}

/// A collector of OpenTelemetry: takes one request after the other and keeps the bodies.
fn collector() -> (u16, Arc<Mutex<Vec<Value>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let kept: Arc<Mutex<Vec<Value>>> = Arc::default();
    let bodies = Arc::clone(&kept);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(stream.try_clone().expect("a copy"));
            let mut length = 0;
            let mut first = String::new();
            reader.read_line(&mut first).expect("a line");
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).expect("a line");
                let line = line.trim().to_ascii_lowercase();
                if let Some(value) = line.strip_prefix("content-length:") {
                    length = value.trim().parse().expect("a number");
                }
                if line.is_empty() {
                    break;
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).expect("the body");
            if first.starts_with("POST /v1/logs ") {
                let body = serde_json::from_slice(&body).expect("JSON");
                bodies.lock().expect("whole").push(body);
            }
            let mut stream = stream;
            write!(
                stream,
                "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}"
            )
            .expect("an answer");
        }
    });
    (port, kept)
}

/// What leaves the mesh says who did what and when, and neither credentials nor numbers of people, unless an admin asks
/// for them, which is an event itself.
#[test]
fn events_leave_masked_and_each_with_its_place_in_the_chain() {
    let mesh = Mesh::up();
    mesh.apply("objects", OBJECTS);
    let file = mesh.home().join("events.jsonl");
    let file = file.to_str().expect("printable");
    mesh.ok(["audit", "export", file]);
    let text = std::fs::read_to_string(file).expect("the export");
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    for (index, line) in lines.iter().enumerate() {
        assert_eq!(line["seq"], index + 1, "every event once, in order");
    }
    let put = lines
        .iter()
        .find(|line| line["object"]["kind"] == "VirtualService")
        .expect("the change");
    assert_eq!(put["kind"], "object.put");
    assert!(
        put["actor"]
            .as_str()
            .is_some_and(|actor| actor.starts_with("user:"))
    );
    let headers = &put["after"]["spec"]["http"][0]["match"][0]["headers"];
    assert_eq!(headers["authorization"]["exact"], "[masked]");
    assert_eq!(headers["x-tier"]["exact"], "gold");
    assert!(!text.contains("c2VjcmV0") && !text.contains("9876543210"));
    // Any line is a head to verify against.
    let head = put["head"].as_str().expect("a head");
    assert_eq!(verify(&mesh, &["--head", head]).0, 0);
    let other = head.replace(':', ":0").split_at(head.len()).0.to_owned();
    assert_eq!(verify(&mesh, &["--head", &other]).0, 1, "the twin: {other}");

    let plain = mesh.ok(["audit", "export", "--unmasked", "--kind", "object."]);
    assert!(plain.contains("c2VjcmV0") && plain.contains("+919876543210"));
    let told = mesh.ok(["audit", "export", "--kind", "audit.unmasked"]);
    assert!(told.contains("user:"), "{told}");
    assert!(
        !mesh.naka(["audit", "export", file]).status.success(),
        "it never writes over a file"
    );

    let (port, kept) = collector();
    let url = format!("http://127.0.0.1:{port}/v1/logs");
    mesh.ok(["audit", "export", "--otlp", &url]);
    let bodies = kept.lock().expect("whole");
    let records = |body: &Value| {
        let all = body["resourceLogs"][0]["scopeLogs"][0]["logRecords"].as_array();
        all.expect("records").clone()
    };
    let all: Vec<Value> = bodies.iter().flat_map(records).collect();
    assert!(all.len() >= lines.len(), "{} records", all.len());
    let body = all[0]["body"]["stringValue"].as_str().expect("a text");
    assert!(body.contains("\"seq\":1"), "{body}");
    assert!(!format!("{all:?}").contains("c2VjcmV0"));
    let gone = mesh.naka(["audit", "export", "--otlp", "http://127.0.0.1:1/v1/logs"]);
    assert_eq!(gone.status.code(), Some(2));
    let said = String::from_utf8_lossy(&gone.stderr);
    assert!(said.contains("go on with --from 1"), "{said}");
}

/// Refused calls as `naka get denials` has them.
fn denials(mesh: &Mesh) -> Vec<Value> {
    let all: Value =
        serde_json::from_str(&mesh.ok(["get", "denials", "-o", "json"])).expect("JSON");
    all["items"].as_array().cloned().unwrap_or_default()
}

fn calls(mesh: &Mesh, name: &str, urls: &[&str]) -> Vec<String> {
    let one = |url: &&str| format!("curl -s -m 5 -o /dev/null -w '%{{http_code}}\\n' {url}");
    let script = urls.iter().map(one).collect::<Vec<_>>().join("\n");
    let mut run = mesh.run(name, &["-s", "order"], &["sh", "-c", &script]);
    crate::traffic::finish(&mut run);
    run.out().lines().map(str::to_owned).collect()
}

/// A refused call stands in the trail, alike ones together, with who was refused what by which rule; one that passed
/// does not. Without a control plane refused calls are answered as fast, and are told when it is back. Whoever does not
/// get into the API is there, too.
#[test]
fn refused_calls_stand_in_the_trail_and_wait_for_nobody() {
    let mut mesh = Mesh::up();
    let _payment = mesh.serve("payment", "v1");
    mesh.apply("policy", DENY);
    until("the policy is in force", SOON, || {
        let status = calls(&mesh, "probe", &["http://payment/secret/probe"]);
        (status.last().is_some_and(|status| status == "403")).then_some(())
    });
    let urls = [
        "http://payment/secret/a?card=4111111111111111",
        "http://payment/secret/a",
        "http://payment/secret/a",
        "http://payment/open",
    ];
    assert_eq!(calls(&mesh, "order", &urls), ["403", "403", "403", "200"]);
    let counted = |mesh: &Mesh, path: &str| {
        let all = denials(mesh);
        let of = all.iter().filter(|one| one["request.path"] == path);
        of.filter_map(|one| one["count"].as_u64()).sum::<u64>()
    };
    until("three refused calls", SOON, || {
        (counted(&mesh, "/secret/a") == 3).then_some(())
    });
    let all = denials(&mesh);
    let one = all
        .iter()
        .find(|one| one["request.path"] == "/secret/a")
        .expect("one");
    assert_eq!(one["reason"], "permission-denied");
    assert!(
        one["from"]
            .as_str()
            .is_some_and(|from| from.ends_with("/sa/order")),
        "{one}"
    );
    assert!(
        one["rule"]
            .as_str()
            .is_some_and(|rule| rule.contains("no-secrets")),
        "{one}"
    );
    assert_eq!(one["source.address"], "[masked]");
    assert!(
        all.iter().all(|one| one["request.path"] != "/open"),
        "the twin"
    );
    let text = mesh.ok(["audit", "export", "--stream", "denials"]);
    assert!(!text.contains("4111111111111111"), "no query is kept");

    let token = mesh.ok(["token", "create", "--kind", "api"]);
    let wrong = format!("{}x", token.trim());
    let socket = dir(&mesh).join("control.sock");
    let refused = std::process::Command::new("curl")
        .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "-H"])
        .arg(format!("authorization: Bearer {wrong}"))
        .arg("--unix-socket")
        .arg(socket)
        .arg("http://localhost/naka/v1/history")
        .output()
        .expect("curl");
    assert_eq!(refused.stdout, b"401");
    until("the login that failed", SOON, || {
        let all = denials(&mesh);
        all.iter()
            .any(|one| one["kind"] == "login.failed")
            .then_some(())
    });

    let (code, said) = verify(&mesh, &[]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("denials: "), "{said}");
    let files = dir(&mesh).join("denials");
    let first = std::fs::read_dir(&files)
        .expect("files")
        .next()
        .expect("one")
        .expect("one");
    let sound = std::fs::read(first.path()).expect("a file");
    let (bytes, seq) = edited(&sound, "no-secrets", "no-sekrets");
    std::fs::write(first.path(), bytes).expect("write it");
    let (code, said) = verify(&mesh, &[]);
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains(&format!("event {seq}, ")) && said.contains("denials/"),
        "{said}"
    );
    std::fs::write(first.path(), sound).expect("write it");

    mesh.kill_control();
    assert_eq!(
        calls(&mesh, "order-alone", &["http://payment/secret/alone"]),
        ["403"]
    );
    mesh.start_control();
    until("what was refused meanwhile", SOON, || {
        (counted(&mesh, "/secret/alone") == 1).then_some(())
    });
    println!("refused calls are told within a second, and after an outage");
}

//! Objects that reach further than their author may (row 34), that cost more than they look like (33), and a right that
//! ends while a connection is open (31).
//!
//! Landed when calls of another namespace go astray, when an expression or a heap of rules holds calls up, when a call
//! gets through after its right is gone. Without the guard: the same objects by the service's own namespace, an engine
//! that goes back over its steps, a right that nobody took.

use crate::ground::{Ground, Side};
use crate::{Attack, Outcome, outcome};
use naka_testkit::mesh::SOON;
use naka_testkit::wait::until;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

const fn attack(row: u8, name: &'static str, run: fn(&Ground, Side) -> Outcome) -> Attack {
    Attack { row, name, run }
}

pub(crate) const ATTACKS: &[Attack] = &[
    attack(31, "a connection that outlives its right", outlived),
    attack(31, "a stream that outlives its right", stream),
    attack(33, "an expression that takes forever", expression),
    attack(
        33,
        "an expression of a megabyte, and ten thousand rules",
        heap,
    ),
    attack(
        34,
        "routes, rules and addresses for another namespace's service",
        another,
    ),
];

/// One request on an open connection; status of the answer.
fn on(stream: &mut TcpStream, target: &str) -> String {
    let request = format!("GET {target} HTTP/1.1\r\nhost: web\r\n\r\n");
    if stream.write_all(request.as_bytes()).is_err() {
        return "closed".to_owned();
    }
    let mut all = Vec::new();
    let mut more = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut more) {
        all.extend_from_slice(&more[..count]);
        let text = String::from_utf8_lossy(&all).to_ascii_lowercase();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head
            .split_once("content-length: ")
            .and_then(|(_, rest)| rest.split("\r\n").next()?.parse().ok());
        if body.len() >= length.unwrap_or(0) {
            break;
        }
    }
    let text = String::from_utf8_lossy(&all).into_owned();
    text.split(' ').nth(1).unwrap_or("closed").to_owned()
}

fn outlived(ground: &Ground, side: Side) -> Outcome {
    let mut stream = until("a right", SOON, || {
        let mut stream = crate::wire::connect(ground.published, Duration::from_secs(10));
        (on(&mut stream, "/right/before") == "200").then_some(stream)
    });
    if side == Side::Naka {
        ground.mesh.apply(
            "right.yaml",
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: right}\nspec:\n  selector: {matchLabels: {app: web}}\n  action: DENY\n  rules: [{to: [{operation: {paths: ['/right/*']}}]}]\n",
        );
    }
    let answer = on(&mut stream, "/right/after");
    ground.mesh.naka(["delete", "AuthorizationPolicy", "right"]);
    outcome(
        ground.program.saw("/right/after"),
        format!("the next request on it: {answer}"),
    )
}

/// What is under way when a DENY comes, where a PeerAuthentication wants its end; without the guard: where none does.
fn stream(ground: &Ground, side: Side) -> Outcome {
    let closes = side == Side::Naka;
    ground.mesh.apply(
        "under-way.yaml",
        &format!(
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: web, annotations: {{naka.dev/close-denied: '{closes}'}}}}\nspec: {{selector: {{matchLabels: {{app: web}}}}}}\n"
        ),
    );
    let mut stream = crate::wire::connect(ground.published, Duration::from_secs(10));
    let asks = b"GET /drip/stream HTTP/1.1\r\nhost: web\r\n\r\n";
    stream.write_all(asks).expect("it is open");
    let mut more = [0; 4096];
    let count = stream.read(&mut more).expect("an answer");
    let head = String::from_utf8_lossy(&more[..count]).into_owned();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    ground.mesh.apply(
        "right.yaml",
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: right}\nspec:\n  selector: {matchLabels: {app: web}}\n  action: DENY\n  rules: [{to: [{operation: {paths: ['/drip/*']}}]}]\n",
    );
    // A hundred parts more: nobody takes it away. Else the end, behind what was on its way.
    let mut parts = 0;
    while parts < 100
        && let Ok(count @ 1..) = stream.read(&mut more)
    {
        parts += more[..count].iter().filter(|byte| **byte == b'.').count();
    }
    let open = parts >= 100;
    for object in ["AuthorizationPolicy/right", "PeerAuthentication/web"] {
        ground.mesh.naka(["delete", object]);
    }
    let audited = closes && {
        until("the end of it in the trail", SOON, || {
            let told = ground.mesh.ok(["get", "denials"]);
            let of = |line: &&str| line.contains("/drip/stream") && line.contains("under way");
            told.lines().any(|line| of(&line)).then_some(())
        });
        true
    };
    outcome(
        open || closes && !audited,
        format!("{parts} parts after it, in the trail: {audited}"),
    )
}

/// Time of a call by a caller of the mesh, and its status.
fn call(ground: &Ground, name: &str, url: &str, header: &str) -> (String, f64) {
    let curl = [
        "curl",
        "-s",
        "-m",
        "20",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code} %{time_total}",
        "-H",
        header,
        url,
    ];
    let mut run = ground.mesh.run(name, &["-s", "regular"], &curl);
    run.wait(SOON + SOON).expect("the call ends");
    let out = run.out();
    let line = out.lines().last().unwrap_or_default();
    let (status, time) = line.split_once(' ').unwrap_or(("no answer", "99"));
    (status.to_owned(), time.parse().unwrap_or(99.0))
}

const FOREVER: &[&str] = &[
    "(a+)+b",
    "(a|aa)+b",
    "(a|a?)+b",
    "(.*a){20}b",
    "([a-z]+)*b",
    "(a*)*b",
];

fn expression(ground: &Ground, side: Side) -> Outcome {
    let text = "a".repeat(if side == Side::Naka { 8_000 } else { 40 });
    if side == Side::Open {
        let script = format!("import re; re.fullmatch('(a+)+b', '{text}')");
        let output = Command::new("timeout")
            .args(["3", "python3", "-c", &script])
            .output();
        let code = output.expect("python3").status.code();
        return outcome(
            code == Some(124),
            format!("python's re on 40 letters within 3 s: {code:?}"),
        );
    }
    let matches = FOREVER
        .iter()
        .map(|regex| format!("{{headers: {{x-long: {{regex: '{regex}'}}}}}}"));
    let matches = matches.collect::<Vec<_>>().join(", ");
    ground.mesh.apply(
        "forever.yaml",
        &format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: forever}}\nspec:\n  hosts: [queued.example]\n  http:\n  - match: [{matches}]\n    directResponse: {{status: 418}}\n  - directResponse: {{status: 204}}\n"
        ),
    );
    let url = "http://queued.example/";
    let (hit, _) = call(ground, "forever-hit", url, "x-long: aaab");
    let (status, time) = call(ground, "forever", url, &format!("x-long: {text}"));
    ground.mesh.ok(["delete", "VirtualService", "forever"]);
    let sound = hit == "418" && status == "204";
    outcome(
        !sound || time > 2.0,
        format!(
            "{} expressions on 8,000 letters: {status} after {time:.3} s, and {hit} where one matches",
            FOREVER.len()
        ),
    )
}

fn heap(ground: &Ground, side: Side) -> Outcome {
    let large = |regex: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: large}}\nspec:\n  hosts: [large.example]\n  http:\n  - match: [{{uri: {{regex: '{regex}'}}}}]\n    route: [{{destination: {{host: web}}}}]\n"
        )
    };
    if side == Side::Open {
        let file = ground.mesh.file("large.yaml", &large("/small"));
        let taken = ground
            .mesh
            .naka(["apply", "-f", file.to_str().expect("printable")])
            .status
            .success();
        ground.mesh.naka(["delete", "VirtualService", "large"]);
        return outcome(
            taken,
            format!("an expression of its right size is taken: {taken}"),
        );
    }
    let mut refused = 0;
    for regex in [
        "a".repeat(1 << 20),
        "(a{1,1000}){1,1000}".to_owned(),
        format!("({})", "a|".repeat(1 << 19)),
    ] {
        let file = ground.mesh.file("large.yaml", &large(&regex));
        let output = ground
            .mesh
            .naka(["apply", "-f", file.to_str().expect("printable")]);
        refused += usize::from(!output.status.success());
    }
    let rules: String = (0..10_000)
        .map(|n| format!("  - {{to: [{{operation: {{paths: ['/heap-{n}/*', '*.heap-{n}'], notMethods: [POST]}}}}]}}\n"))
        .collect();
    let began = Instant::now();
    ground.mesh.apply(
        "heap.yaml",
        &format!("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: heap}}\nspec:\n  selector: {{matchLabels: {{app: web}}}}\n  action: DENY\n  rules:\n{rules}"),
    );
    let applied = began.elapsed();
    let timed = |target: &str| {
        let began = Instant::now();
        let request = format!("GET {target} HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n");
        let (answer, _) = crate::wire::send(ground.published, request.as_bytes());
        (crate::wire::status(&answer).to_owned(), began.elapsed())
    };
    let (last, _) = until("the last rule", SOON, || {
        Some(timed("/heap-9999/x")).filter(|(status, _)| status == "403")
    });
    let (free, time) = timed("/free");
    ground.mesh.ok(["delete", "AuthorizationPolicy", "heap"]);
    let sound = refused == 3 && free == "200" && time < Duration::from_secs(1);
    outcome(
        !sound,
        format!(
            "{refused} of 3 expressions refused; ten thousand rules in force after {} ms, {last} by the last, {free} past all of them in {} ms",
            applied.as_millis(),
            time.as_millis()
        ),
    )
}

fn another(ground: &Ground, side: Side) -> Outcome {
    let mesh = &ground.mesh;
    let service = if side == Side::Naka {
        "victim"
    } else {
        "owned"
    };
    let _server = mesh.serve(service, "v1");
    let calls = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let heard = std::sync::Arc::clone(&calls);
    let thief = crate::naive::listen(move |mut stream| {
        heard.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let _ =
            stream.write_all(b"HTTP/1.1 299 T\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    });
    let namespace = if side == Side::Naka {
        "evil"
    } else {
        "default"
    };
    let host = format!("{service}.default.svc.cluster.local");
    let text = format!(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: thief-{service}, namespace: {namespace}}}
spec:
  hosts: [{host}, thief-{service}.example]
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  resolution: STATIC
  endpoints: [{{address: 127.0.0.1, ports: {{http: {}}}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: thief-{service}, namespace: {namespace}}}
spec:
  hosts: [{host}]
  exportTo: ['*']
  http: [{{route: [{{destination: {{host: thief-{service}.example}}}}]}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: thief-{service}, namespace: {namespace}}}
spec:
  host: {host}
  exportTo: ['*']
  trafficPolicy: {{tls: {{mode: DISABLE}}}}
",
        thief.port()
    );
    let file = mesh.file("thief.yaml", &text);
    mesh.naka(["apply", "--wait", "-f", file.to_str().expect("printable")]);
    let mut statuses = Vec::new();
    for number in 0..3 {
        statuses.push(
            call(
                ground,
                &format!("{service}-{number}"),
                &format!("http://{service}/"),
                "x-a: b",
            )
            .0,
        );
    }
    let verified = mesh.logged(&format!("{service}-v1"));
    let verified = verified
        .iter()
        .filter(|line| {
            line["peer"]
                .as_str()
                .is_some_and(|peer| peer.ends_with("/sa/regular"))
        })
        .count();
    let said = mesh.naka([
        "status",
        &format!("VirtualService/thief-{service}"),
        "-n",
        namespace,
    ]);
    let told = String::from_utf8_lossy(&said.stdout).contains("NotOwner");
    let astray = calls.load(std::sync::atomic::Ordering::SeqCst);
    mesh.naka(["delete", "-f", file.to_str().expect("printable")]);
    outcome(
        astray > 0 || verified < 3 || (side == Side::Naka && !told),
        format!(
            "answers {statuses:?}, {verified} of 3 at the owner by mutual TLS, {astray} astray, status says so: {told}"
        ),
    )
}

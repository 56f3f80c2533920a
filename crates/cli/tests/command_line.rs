//! The command line as a user meets it: the shipped binary, its words and its exit codes. No mesh runs here.

use std::path::Path;
use std::process::{Command, Output};

fn naka(home: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_naka"))
        .args(args)
        .env_clear()
        .env("NAKA_HOME", home)
        .output()
        .expect("naka starts")
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn without_a_mesh_every_command_says_how_to_get_one() {
    let home = tempfile::tempdir().unwrap();
    let words = "no mesh here: start one with \"naka up\" or join one with \"naka join TOKEN\"";
    for args in [
        &["status"][..],
        &["get", "vs"],
        &["run", "--", "true"],
        &["split", "payment", "v1=100"],
        &["context"],
        &["undo"],
        &["token", "list"],
    ] {
        let output = naka(home.path(), args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(err(&output).contains(words), "{args:?}: {}", err(&output));
    }
}

#[test]
fn exit_codes_say_what_kind_of_failure_it_was() {
    let home = tempfile::tempdir().unwrap();
    let code = |args: &[&str]| naka(home.path(), args).status.code();
    assert_eq!(code(&["--help"]), Some(0));
    assert_eq!(code(&["version"]), Some(0));
    assert_eq!(code(&["nonsense"]), Some(64));
    assert_eq!(code(&["run", "-s", "A!", "--", "true"]), Some(64));
    assert_eq!(code(&["run", "-p", "80", "--", "true"]), Some(64));
    assert_eq!(code(&["get", "nonsense"]), Some(64));
    assert_eq!(code(&["check", "-f", "no-such-file.yaml"]), Some(2));
}

#[test]
fn check_exits_one_on_an_error_and_prints_findings() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("a.yaml");
    let check = |text: &str, extra: &[&str]| {
        std::fs::write(&file, text).unwrap();
        let mut args = vec!["check", "-f", file.to_str().unwrap(), "-o", "json"];
        args.extend(extra);
        let output = naka(home.path(), &args);
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (
            output.status.code(),
            value["findings"].as_array().unwrap().clone(),
        )
    };
    let good = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\nspec:\n  host: a\n";
    assert_eq!(check(good, &[]).0, Some(0));
    let (code, findings) = check(&format!("{good}  hots: b\n"), &[]);
    assert_eq!(code, Some(1));
    let finding = findings.iter().find(|f| f["severity"] == "error").unwrap();
    assert_eq!(finding["line"], 6);
    assert!(finding["file"].as_str().unwrap().ends_with("a.yaml"));
    for field in [
        "code", "severity", "object", "file", "line", "column", "field", "message", "fix",
    ] {
        assert!(finding.get(field).is_some(), "{field}");
    }
    // An old spelling is a warning, and an error when asked to be strict.
    let old = format!("{good}  trafficPolicy:\n    loadBalancer: {{simple: LEAST_CONN}}\n");
    assert_eq!(check(&old, &[]).0, Some(0));
    assert_eq!(check(&old, &["--strict"]).0, Some(1));
}

#[test]
fn reasons_are_explained_without_a_mesh() {
    let home = tempfile::tempdir().unwrap();
    let output = naka(home.path(), &["explain", "no-healthy-endpoints"]);
    assert!(output.status.success(), "{}", err(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("503") && text.contains("UH"), "{text}");
}

#[test]
fn completion_scripts_are_printed() {
    let home = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let output = naka(home.path(), &["completion", shell]);
        assert!(output.status.success());
        let script = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            script.contains("split") && !script.contains("no-such-command"),
            "{shell}"
        );
    }
}

#[test]
fn the_makefile_has_the_targets_of_the_contracts() {
    let makefile =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Makefile"))
            .unwrap();
    let has = |target: &str| {
        makefile
            .lines()
            .any(|line| line.starts_with(&format!("{target}:")))
    };
    for target in [
        "demo",
        "test",
        "evidence",
        "check",
        "bench-quick",
        "install",
        "dist",
    ] {
        assert!(has(target), "{target}");
    }
    assert!(!has("no-such-target"));
}

#[test]
fn the_small_proxy_binary_takes_settings_and_nothing_else() {
    let run = |args: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_naka-proxy"))
            .args(args)
            .output()
            .unwrap()
    };
    for args in [
        &[][..],
        &["sidecar"],
        &["status"],
        &["sidecar", "--nonsense", "--settings", "x"],
    ] {
        assert_eq!(run(args).status.code(), Some(64), "{args:?}");
    }
    let missing = run(&["sidecar", "--settings", "no-such-file.json"]);
    assert_eq!(missing.status.code(), Some(2));
    assert!(err(&missing).contains("no-such-file.json"));
}

/// Files alone decide: no mesh, no network. The same walk as a request takes, on each match in turn.
#[test]
fn a_request_is_explained_from_files() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("routes.yaml");
    let routes = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: payment}\nspec:\n  hosts: [payment]\n  http:\n    - name: beta\n      match: [{headers: {beta: {exact: \"1\"}}}]\n      route: [{destination: {host: payment, subset: v2}}]\n    - name: old\n      match: [{uri: {prefix: /old}}]\n      redirect: {uri: /new}\n    - name: main\n      route: [{destination: {host: payment, subset: v1}}]\n---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: payment}\nspec:\n  host: payment\n  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]\n";
    std::fs::write(&file, routes).unwrap();
    let explain = |url: &str, headers: &[&str]| {
        let mut args = vec![
            "explain",
            "--from",
            "order",
            "GET",
            url,
            "-f",
            file.to_str().unwrap(),
            "-o",
            "json",
        ];
        args.extend(headers.iter().flat_map(|header| ["-H", header]));
        let output = naka(home.path(), &args);
        assert!(output.status.success(), "{}", err(&output));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()["verdict"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert!(
        explain("http://payment/pay", &[])
            .contains("outbound|80|v1|payment.default.svc.cluster.local")
    );
    assert!(explain("http://payment/pay", &["beta: 1"]).contains("|v2|"));
    assert!(explain("http://payment/pay", &["beta: 2"]).contains("|v1|"));
    assert!(explain("http://payment/old/x", &[]).starts_with("301 redirect"));
    assert!(explain("http://elsewhere.example/", &[]).contains("outside the mesh"));
    std::fs::write(&file, routes.replace("subset: v1", "subset: v9")).unwrap();
    assert!(explain("http://payment/pay", &[]).starts_with("503 unknown-cluster"));
}

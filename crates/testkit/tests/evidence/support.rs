//! A support bundle holds what a report needs and no secret: recognisable ones are planted wherever one can be.

use naka_testkit::mesh::{Mesh, SOON};
use naka_testkit::wait::until;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is planted, and where.
const IN_SECRET: &str = "cGxhbnRlZC1pbi1zZWNyZXQ=";
const IN_ENVIRONMENT: &str = "planted-in-environment";
const IN_QUERY: &str = "planted-in-query";
const IN_HEADER: &str = "planted-in-header";
const IN_LOG: &str = "planted-in-log";

/// Makes the bundle and returns everything in it, unpacked.
fn bundle(mesh: &Mesh, name: &str, options: &[&str]) -> PathBuf {
    let file = mesh.home().join(format!("{name}.tar.gz"));
    let out = mesh
        .command(["support", "-o"])
        .arg(&file)
        .args(options)
        .env("STRIPE_KEY", IN_ENVIRONMENT)
        .output()
        .expect("naka starts");
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let mode = file.metadata().expect("the bundle").permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let dir = mesh.home().join(name);
    std::fs::create_dir(&dir).expect("a directory");
    let unpacked = Command::new("tar")
        .arg("xzf")
        .arg(&file)
        .arg("-C")
        .arg(&dir)
        .status();
    assert!(unpacked.expect("tar is there").success());
    dir
}

/// Files below `dir` that hold `text`.
fn holds(dir: &Path, text: &str) -> Vec<String> {
    let out = Command::new("grep")
        .args(["-rlF", "--", text])
        .arg(dir)
        .output()
        .expect("grep is there");
    String::from_utf8_lossy(&out.stdout)
        .lines()
        .map(str::to_owned)
        .collect()
}

/// Secrets that the mesh itself made.
struct Planted {
    token: String,
    credential: String,
    key: String,
    api_token: String,
}

/// The credential of a proxy's variables, from its settings.
fn credential(settings: &std::path::Path) -> Option<String> {
    let settings: serde_json::Value =
        serde_json::from_slice(&std::fs::read(settings).ok()?).ok()?;
    settings["outbound"]["credential"]
        .as_str()
        .map(str::to_owned)
}

/// Uses the mesh so that secrets pass it, and has one logged.
fn plant(mesh: &Mesh) -> Planted {
    let token = mesh.ok(["token", "create", "-s", "payment", "--uses", "3"]);
    let token = token
        .split_whitespace()
        .find(|word| word.starts_with("naka1."))
        .expect("a token")
        .to_owned();
    let call = mesh
        .command(["run", "--", "curl", "-sf", "-H"])
        .arg(format!("authorization: Bearer {IN_HEADER}"))
        .args(["-H", &format!("cookie: session={IN_HEADER}")])
        .arg(format!("http://payment/pay?card={IN_QUERY}"))
        .output()
        .expect("naka starts");
    assert!(
        call.status.success(),
        "{}",
        String::from_utf8_lossy(&call.stderr)
    );

    let run = std::fs::read_dir(mesh.home().join("run"))
        .expect("the proxies' directory")
        .flatten()
        .map(|entry| entry.path())
        .find(|dir| dir.join("admin.sock").exists() && dir.to_string_lossy().contains("payment"))
        .expect("the running sidecar of payment");
    // Programs and libraries log what they should not.
    let mut log = std::fs::File::options()
        .append(true)
        .open(run.join("proxy.log"))
        .expect("its log");
    writeln!(log, "used {token}\nAuthorization: Bearer {IN_LOG}\nhttp://user:{IN_LOG}@db/ DB_PASSWORD={IN_LOG}").expect("written");
    until("the access log to be written", SOON, || {
        std::fs::read_to_string(run.join("access.log"))
            .ok()?
            .contains("/pay")
            .then_some(())
    });
    let credential = until("a proxy with a credential", SOON, || {
        std::fs::read_dir(mesh.home().join("run"))
            .ok()?
            .flatten()
            .find_map(|entry| credential(&entry.path().join("settings.json")))
    });
    let identity = std::fs::read_to_string(run.join("identity.pem")).expect("the identity");
    let key = identity
        .split("PRIVATE KEY-----")
        .nth(1)
        .and_then(|rest| rest.lines().find(|line| line.len() > 20))
        .expect("a key")
        .to_owned();
    let config = std::fs::read_to_string(mesh.home().join("config")).expect("contexts");
    let api_token = config
        .split(|c: char| c.is_whitespace() || c == '"')
        .find(|word| word.starts_with("naka1.api."))
        .expect("the owner's token")
        .to_owned();
    Planted {
        token,
        credential,
        key,
        api_token,
    }
}

#[test]
fn a_support_bundle_has_what_a_report_needs_and_no_secret() {
    let mesh = Mesh::up();
    let _payment = mesh.serve("payment", "v1");
    let _by_proxy = mesh.run("by-proxy", &["--capture", "proxy"], &["sleep", "1000"]);
    mesh.apply(
        "secret.yaml",
        &format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: pair, namespace: default}}\ndata: {{password: {IN_SECRET}}}\n"
        ),
    );
    let Planted {
        token,
        credential,
        key,
        api_token,
    } = plant(&mesh);
    let plants = [
        IN_SECRET,
        IN_ENVIRONMENT,
        IN_QUERY,
        IN_HEADER,
        IN_LOG,
        &token,
        &credential,
        &key,
        &api_token,
    ];

    let dir = bundle(&mesh, "redacted", &[]);
    for plant in plants {
        assert_eq!(holds(&dir, plant), Vec::<String>::new(), "{plant}");
    }
    for needed in [
        "programmed",
        "istio_requests_total",
        "payment.default.svc.cluster.local",
        "MemTotal",
        "STRIPE_KEY",
        "/pay?card=[redacted]",
        "naka_config_revision",
    ] {
        assert!(
            !holds(&dir, needed).is_empty(),
            "{needed} is not in the bundle"
        );
    }
    assert!(
        mesh.naka(["bug-report", "-o", "again.tar.gz"])
            .status
            .success(),
        "its other name"
    );

    // The twin: it is redaction that keeps them out, where they can be collected at all.
    let open = bundle(&mesh, "open", &["--no-redaction"]);
    for plant in [
        IN_ENVIRONMENT,
        IN_QUERY,
        IN_LOG,
        token.as_str(),
        &credential,
        &api_token,
    ] {
        assert!(
            !holds(&open, plant).is_empty(),
            "{plant} was never in reach"
        );
    }
    for never in [IN_SECRET, key.as_str()] {
        assert_eq!(
            holds(&open, never),
            Vec::<String>::new(),
            "what is never collected: {never}"
        );
    }
}

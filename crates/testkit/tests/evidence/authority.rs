//! The authority of a running mesh: a root that is kept elsewhere, and intermediates that are replaced while calls go on.
//! What signs is read by openssl from the wire.

use crate::traffic::joined;
use naka_identity::Authority;
use naka_testkit::mesh::{Mesh, SOON};
use naka_testkit::wait::until;
use rustix::process::Signal;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};

const DAY_S: u64 = 24 * 3600;

fn now() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970")
        .as_secs()
}

/// Where the control plane serves proxies.
fn xds(mesh: &Mesh) -> String {
    let ports = std::fs::read(mesh.home().join("mesh/local/ports.json")).expect("ports");
    let ports: Value = serde_json::from_slice(&ports).expect("JSON");
    format!("127.0.0.1:{}", ports["xds"])
}

/// Name of who signed the certificate that the control plane shows.
fn signer(mesh: &Mesh) -> String {
    let address = xds(mesh);
    let shown = format!(
        "openssl s_client -connect {address} -servername naka-control </dev/null 2>/dev/null \
         | openssl x509 -noout -issuer"
    );
    let out = Command::new("sh")
        .args(["-c", &shown])
        .stderr(Stdio::null())
        .output()
        .expect("openssl");
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

/// Whether openssl, which knows nothing but this root, believes the control plane.
fn believed(mesh: &Mesh, root: &Path) -> bool {
    let address = xds(mesh);
    Command::new("openssl")
        .args([
            "s_client",
            "-connect",
            &address,
            "-verify_return_error",
            "-CAfile",
        ])
        .arg(root)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("openssl")
        .success()
}

/// Signs what the mesh asks for with the root in `safe`, and installs it.
fn another_intermediate(mesh: &Mesh, safe: &Path) -> std::process::Output {
    let request = mesh.ok(["ca", "intermediate", "request"]);
    let request = mesh.file("request.pem", &request);
    let safe = safe.display().to_string();
    let request = request.display().to_string();
    let signed = mesh.ok([
        "ca",
        "intermediate",
        "sign",
        &request,
        "--root",
        &safe,
        "--days",
        "90",
    ]);
    let signed = mesh.file("signed.pem", &signed);
    mesh.naka([
        "ca",
        "intermediate",
        "install",
        &signed.display().to_string(),
    ])
}

/// A root never comes near the mesh; a second intermediate takes over under load; workloads of both call each other. The
/// twin: an intermediate of another root is refused, and nothing changes.
#[test]
fn a_root_that_is_elsewhere_signs_another_intermediate_under_load() {
    let home = tempfile::tempdir().expect("a directory");
    let [safe, prepared, foreign] =
        ["safe", "prepared", "foreign"].map(|name| home.path().join(name));
    let tool = Mesh::down_with(&[]);
    let path = |path: &Path| path.display().to_string();
    tool.ok(["ca", "root", "create", &path(&safe)]);
    tool.ok(["ca", "root", "create", &path(&foreign)]);
    let request = tool.ok(["ca", "intermediate", "request", "--out", &path(&prepared)]);
    let request = tool.file("request.pem", &request);
    let signed = tool.ok([
        "ca",
        "intermediate",
        "sign",
        &path(&request),
        "--root",
        &path(&safe),
    ]);
    std::fs::write(prepared.join("ca-cert.pem"), signed).expect("write");
    std::fs::copy(safe.join("root-cert.pem"), prepared.join("root-cert.pem")).expect("copy");

    let mesh = Mesh::up_with(&["--ca", &path(&prepared)]);
    let root = safe.join("root-cert.pem");
    assert!(believed(&mesh, &root));
    assert!(
        !believed(&mesh, &foreign.join("root-cert.pem")),
        "twin: another root"
    );
    let kept = std::fs::read_to_string(mesh.home().join("mesh/local/ca/root.pem")).expect("root");
    assert!(
        !kept.contains("PRIVATE KEY"),
        "the root's key is in the mesh"
    );

    let _old = mesh.serve("payment", "v1");
    let mut load = mesh.load(
        "load",
        &["-s", "order"],
        &["--url", "http://payment/", "--rate", "200", "--for", "600"],
    );
    until("first answers", SOON, || {
        (mesh.logged("load").len() > 50).then_some(())
    });
    let before = signer(&mesh);
    let refused = another_intermediate(&mesh, &foreign);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && told.contains("is not signed by"),
        "{told}"
    );
    assert_eq!(signer(&mesh), before);

    let taken = another_intermediate(&mesh, &safe);
    assert!(taken.status.success(), "{taken:?}");
    assert_ne!(signer(&mesh), before);
    assert!(believed(&mesh, &root));
    // One with a certificate of the new intermediate serves the old caller, and calls the old one.
    let _new = mesh.serve("payment", "v2");
    let seen = mesh.logged("load").len();
    until("calls after it", SOON, || {
        (mesh.logged("load").len() > seen + 200).then_some(())
    });
    load.signal(Signal::TERM);
    let _ = load.wait(SOON);
    let got = joined(&mesh, "load", &["payment-v1", "payment-v2"]);
    assert_eq!(got.failed.len(), 0, "{:?}", got.failed.first());
    assert!(
        !mesh.logged("payment-v2").is_empty(),
        "the new one was called"
    );
    let told = mesh.ok(["ca", "status"]);
    assert!(
        told.contains("its key is elsewhere") && told.contains("89d"),
        "{told}"
    );
}

/// An intermediate at two thirds of its time is replaced without a restart; the twin has a day more and keeps it.
#[test]
fn an_intermediate_is_replaced_before_it_ends_without_a_restart() {
    for (left, replaced) in [(40, true), (DAY_S, false)] {
        let mut mesh = Mesh::up();
        mesh.kill_control();
        let ca = mesh.home().join("mesh/local/ca");
        std::fs::remove_dir_all(&ca).expect("the authority");
        let made = now() + left - 365 * DAY_S * 2 / 3;
        Authority::open_or_create(&ca, "cluster.local", made).expect("an old one");
        let _ = std::fs::remove_file(mesh.home().join("config"));
        mesh.start_control();
        let before = signer(&mesh);
        let file = || std::fs::read(ca.join("intermediate.pem")).expect("the intermediate");
        let kept = file();
        if replaced {
            until("another intermediate", 4 * SOON, || {
                (signer(&mesh) != before).then_some(())
            });
            assert_ne!(file(), kept);
        } else {
            assert_eq!((signer(&mesh), file()), (before, kept));
        }
        let _program = mesh.serve("payment", "v1");
    }
}

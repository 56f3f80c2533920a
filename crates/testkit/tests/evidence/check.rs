//! `naka check` without arguments: each fault is made for real, and its check, and no other, fails.

use naka_identity::Authority;
use naka_testkit::mesh::{Mesh, SOON, naka, testprog};
use naka_testkit::program::Program;
use naka_testkit::wait::until;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

const DAY_S: u64 = 24 * 3600;

/// Exit code and codes of the findings.
fn check(mesh: &Mesh, more: &[&str]) -> (Option<i32>, Vec<String>) {
    let args = ["check", "-o", "json"].iter().chain(more);
    let output = mesh.naka(args);
    let value: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let findings = value["findings"].as_array().cloned().unwrap_or_default();
    let codes = findings
        .iter()
        .map(|f| f["code"].as_str().unwrap_or_default().to_owned());
    (output.status.code(), codes.collect())
}

#[track_caller]
fn finds(mesh: &Mesh, what: &str, exit: i32, codes: &[&str]) {
    until(what, SOON, || {
        let (code, found) = check(mesh, &[]);
        (code == Some(exit) && found == codes).then_some(())
    });
}

fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .expect("a pid");
    kill_process(pid, signal).expect("signal");
}

const GATEWAY: &str = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata:\n  name: edge\nspec:\n  selector: {istio: ingressgateway}\n  servers:\n  - port: {number: 80, name: http, protocol: HTTP}\n    hosts: ['*.example.com']\n";

fn now() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970")
        .as_secs()
}

/// A sound mesh has a line per check and exit code 0; a gateway without a proxy, a frozen proxy, one of a version far
/// away, an authority at its end, a name that does not resolve and a dead control plane are each found, and no longer
/// once repaired.
#[test]
fn each_fault_of_an_installation_is_found_and_gone_with_its_repair() {
    let mut mesh = Mesh::up();
    let payment = mesh.serve("payment", "v1");
    finds(&mesh, "a sound mesh", 0, &[]);
    let told = mesh.ok(["check"]);
    for word in [
        "control plane",
        "store",
        "disk",
        "authority",
        "dns",
        "proxy",
    ] {
        assert!(told.contains(word), "{told}");
    }

    let file = mesh.file("gateway.yaml", GATEWAY);
    mesh.ok(["apply".as_ref(), "-f".as_ref(), file.as_os_str()]);
    finds(&mesh, "a gateway without a proxy", 1, &["E915"]);
    let port = naka_testkit::program::free_port();
    let bind = format!("80=127.0.0.1:{port}");
    let mut command = mesh.command(["proxy", "gateway", "--port", &bind]);
    let edge = Program::start("edge", mesh.home(), &mut command).expect("a gateway");
    finds(&mesh, "served now", 0, &[]);

    let sidecar = mesh.sidecar_of(&payment).expect("a sidecar");
    signal(sidecar, Signal::STOP);
    let _other = mesh.serve("delivery", "v1");
    finds(&mesh, "a frozen proxy is behind", 0, &["W918"]);
    let name = mesh.ok(["get", "proxies", "-A", "-o", "json"]);
    let proxies: Value = serde_json::from_str(&name).expect("JSON");
    let named = |service: &str| {
        let all = proxies["items"].as_array().expect("items");
        let found = all.iter().find(|proxy| proxy["service"] == service);
        found.expect("the proxy")["name"]
            .as_str()
            .expect("a name")
            .to_owned()
    };
    assert_eq!(
        check(&mesh, &[&named("payment")]),
        (Some(0), vec!["W918".to_owned()])
    );
    assert_eq!(
        check(&mesh, &[&named("delivery")]),
        (Some(0), vec![]),
        "the twin"
    );
    assert_eq!(check(&mesh, &["nobody"]).0, Some(2));
    signal(sidecar, Signal::CONT);
    finds(&mesh, "it caught up", 0, &[]);

    let token = mesh.ok(["token", "create", "-s", "swarm", "--uses", "9"]);
    let mut command = Command::new(testprog().with_file_name("naka-swarm"));
    command.args([
        "nonces",
        "--for",
        "600",
        "--token",
        token.trim(),
        "--node-version",
        "7.0.0",
    ]);
    let old = Program::start("old", mesh.home(), &mut command).expect("naka-swarm");
    until("a proxy of a version far away", SOON, || {
        let (code, found) = check(&mesh, &[]);
        (code == Some(1) && found.contains(&"E916".to_owned())).then_some(())
    });
    assert!(
        mesh.ok(["status"]).contains("7.0.0"),
        "status shows each proxy's version"
    );
    drop(old);
    finds(&mesh, "it left", 0, &[]);

    mesh.kill_control();
    let (code, found) = check(&mesh, &[]);
    assert_eq!((code, found), (Some(1), vec!["E910".to_owned()]));
    drop(edge);
}

/// An authority of another age: ended, nearly ended, sound.
#[test]
fn the_end_of_an_authority_is_found_before_it_comes() {
    for (age, exit, wanted) in [
        (3651, 1, &["E913"][..]),
        (3600, 0, &["W913"]),
        (100, 0, &[]),
    ] {
        let mut mesh = Mesh::up();
        mesh.kill_control();
        let ca = mesh.home().join("mesh/local/ca");
        std::fs::remove_dir_all(&ca).expect("the authority");
        Authority::open_or_create(&ca, "cluster.local", now() - age * DAY_S).expect("an old one");
        let _ = std::fs::remove_file(mesh.home().join("config"));
        mesh.start_control();
        let (code, found) = check(&mesh, &[]);
        let kinds: std::collections::BTreeSet<&str> = found.iter().map(String::as_str).collect();
        assert_eq!(code, Some(exit), "{age}: {found:?}");
        assert!(
            wanted.iter().all(|code| kinds.contains(code)),
            "{age}: {found:?}"
        );
        assert_eq!(kinds.is_empty(), wanted.is_empty(), "{age}: {found:?}");
    }
}

/// A name that nobody knows is found; the twin resolves.
#[test]
fn an_advertised_name_must_resolve() {
    let mesh = Mesh::up_with(&["--advertise", "mesh.naka.invalid"]);
    let (code, found) = check(&mesh, &[]);
    assert_eq!((code, found), (Some(1), vec!["E914".to_owned()]));
    let twin = Mesh::up_with(&["--advertise", "localhost"]);
    assert_eq!(check(&twin, &[]), (Some(0), vec![]));
}

/// The mesh directory on a small disk of its own, in a mount namespace: sound, full, freed.
#[test]
fn a_full_disk_is_found() {
    let home = tempfile::tempdir().expect("a directory");
    let script = r#"
        set -e
        mkdir -p "$NAKA_HOME/mesh"
        mount -t tmpfs -o size=64m,mode=700 none "$NAKA_HOME/mesh"
        "$NAKA" up >/dev/null
        "$NAKA" check -o json >sound || true
        dd if=/dev/zero of="$NAKA_HOME/mesh/filler" bs=1M count=61 2>/dev/null
        "$NAKA" check -o json >full || true
        rm "$NAKA_HOME/mesh/filler"
        "$NAKA" check -o json >freed || true
        "$NAKA" down >/dev/null || true
    "#;
    let output = Command::new("unshare")
        .args(["-Urm", "sh", "-c", script])
        .env("NAKA_HOME", home.path().join("naka"))
        .env("NAKA", naka())
        .current_dir(home.path())
        .output()
        .expect("unshare");
    let codes = |name: &str| -> Vec<String> {
        let text = std::fs::read(home.path().join(name)).unwrap_or_default();
        let value: Value = serde_json::from_slice(&text)
            .unwrap_or_else(|error| panic!("{name}: {error}: {output:?}"));
        let findings = value["findings"].as_array().cloned().unwrap_or_default();
        findings
            .iter()
            .map(|f| f["code"].as_str().unwrap_or_default().to_owned())
            .collect()
    };
    assert_eq!(codes("sound"), Vec::<String>::new(), "{output:?}");
    assert_eq!(codes("full"), ["E912"]);
    assert_eq!(codes("freed"), Vec::<String>::new());
}

/// A directory that its owner may not write any more is found, and no longer once it may.
#[test]
fn a_directory_that_cannot_be_written_is_found() {
    let mesh = Mesh::up_unprivileged();
    let dir = mesh.home().join("user/.naka/mesh/local");
    let mode = |mode| {
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(mode)).expect("chmod");
    };
    assert_eq!(check(&mesh, &[]), (Some(0), vec![]));
    mode(0o500);
    assert_eq!(check(&mesh, &[]), (Some(1), vec!["E911".to_owned()]));
    mode(0o700);
    assert_eq!(check(&mesh, &[]), (Some(0), vec![]), "the twin");
}

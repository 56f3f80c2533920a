//! Commands seen from outside: what each does, and its twin, what it refuses and in which words.

use crate::identity::{run_with_token, served};
use crate::traffic::split;
use naka_testkit::mesh::{Mesh, SOON, testprog};
use naka_testkit::program::{Program, free_port};
use naka_testkit::wait;
use serde_json::Value;
use std::net::TcpListener;
use std::process::Output;

fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// A command that must not succeed; what it said.
#[track_caller]
fn refused(mesh: &Mesh, code: i32, args: &[&str]) -> String {
    let output = mesh.naka(args);
    assert_eq!(
        output.status.code(),
        Some(code),
        "naka {args:?}: {}",
        said(&output)
    );
    said(&output)
}

/// A damaged log is served and not written until it is repaired; then what lay before the damage is there and writes
/// go on. The twins: a sound log needs no repair, and one in use is left alone.
#[test]
fn a_damaged_log_is_repaired() {
    let mut mesh = Mesh::up();
    assert!(refused(&mesh, 2, &["store", "repair"]).contains("naka down"));
    mesh.apply("first.yaml", &split(90, 10));
    let path = mesh.home().join("mesh/local/log");
    let sound = std::fs::read(&path).expect("the log").len();
    for weight in [20, 30, 40] {
        mesh.apply("next.yaml", &split(100 - weight, weight));
    }
    mesh.kill_control();
    assert!(mesh.ok(["store", "repair"]).contains("nothing to repair"));

    let mut bytes = std::fs::read(&path).expect("the log");
    bytes[sound + 100] ^= 4;
    std::fs::write(&path, &bytes).expect("damage it");
    mesh.start_control();
    let file = mesh.file("last.yaml", &split(50, 50));
    let file = file.to_str().expect("printable");
    assert!(refused(&mesh, 2, &["apply", "-f", file]).contains("naka store repair"));
    let weights = |mesh: &Mesh| mesh.ok(["get", "virtualservice", "payment", "-o", "json"]);
    assert!(
        weights(&mesh).contains("\"weight\": 90"),
        "the sound part is served"
    );

    mesh.kill_control();
    let told = mesh.ok(["store", "repair"]);
    assert!(
        told.contains("lost:") && told.contains("log.damaged-"),
        "{told}"
    );
    mesh.start_control();
    mesh.ok(["apply", "-f", file]);
    assert!(weights(&mesh).contains("\"weight\": 50"));
}

/// A revoked token is refused; the twin that was made beside it is good.
#[test]
fn a_revoked_token_is_refused() {
    let mesh = Mesh::up();
    let token = || mesh.ok(["token", "create", "--service", "a"]);
    let (bad, good) = (token(), token());
    let id = bad
        .trim()
        .rsplit('.')
        .nth(1)
        .expect("a token has an id")
        .to_owned();
    assert!(mesh.ok(["token", "list"]).contains(&id));
    mesh.ok(["token", "revoke", &id]);
    assert!(!mesh.ok(["token", "list"]).contains(&id));
    let start = |name: &str, token: &str| {
        run_with_token(
            &mesh,
            &mesh.home().join(name),
            name,
            token.trim(),
            &["-s", "a"],
        )
    };
    let mut late = start("late", &bad);
    assert!(!late.wait(SOON).expect("a refused workload ends").success());
    assert!(late.err().contains("token"), "{}", late.err());
    assert!(!served(&mesh, "a"));
    let _good = start("good", &good);
    wait::until("the good token", SOON, || served(&mesh, "a").then_some(()));
}

/// `delete -f` removes what the file names and nothing else; the second time there is nothing to remove.
#[test]
fn delete_takes_files() {
    let mesh = Mesh::up();
    mesh.apply("payment.yaml", &split(90, 10));
    mesh.apply("cart.yaml", &split(90, 10).replace("payment", "cart"));
    let listed = || mesh.ok(["get", "vs"]) + &mesh.ok(["get", "dr"]);
    assert_eq!(listed().matches("\npayment ").count(), 2, "{}", listed());
    let told = mesh.ok(["delete", "-f", "payment.yaml"]);
    assert_eq!(told.matches("deleted").count(), 2, "{told}");
    assert!(!listed().contains("payment") && listed().contains("cart"));
    let again = refused(&mesh, 2, &["delete", "-f", "payment.yaml"]);
    assert!(
        again.contains("no VirtualService default/payment"),
        "{again}"
    );
}

/// `get -w` prints every change of its kind as it comes; what is of another namespace is not printed.
#[test]
fn get_watches() {
    let mesh = Mesh::up();
    let watch = |name: &str, extra: &[&str]| {
        let mut args = vec!["get", "virtualservices", "-w"];
        args.extend_from_slice(extra);
        Program::start(name, mesh.home(), &mut mesh.command(args)).expect("naka get")
    };
    let (own, other) = (watch("own", &[]), watch("other", &["-n", "shop"]));
    // The list comes before the watch, so both watches begin here or earlier.
    for program in [&own, &other] {
        wait::until("the list", SOON, || {
            program.err().contains("no virtualservices").then_some(())
        });
    }
    mesh.apply("payment.yaml", &split(90, 10));
    mesh.apply("payment.yaml", &split(80, 20));
    mesh.ok(["delete", "vs", "payment"]);
    mesh.apply(
        "shop.yaml",
        &split(90, 10)
            .replace("  name: payment\n", "  name: cart\n  namespace: shop\n")
            .replace("payment", "cart"),
    );
    for (program, words) in [
        (
            &own,
            ["ADDED   payment", "MODIFIED   payment", "DELETED   payment"].as_slice(),
        ),
        (&other, ["ADDED   cart"].as_slice()),
    ] {
        for word in words {
            wait::until(word, SOON, || program.out().contains(word).then_some(()));
        }
    }
    assert!(!own.out().contains("cart") && !other.out().contains("payment"));
}

/// `get --at` lists what was there at a revision: not yet the object made after it, still the one deleted since.
#[test]
fn get_reads_the_past() {
    let mesh = Mesh::up();
    mesh.apply("payment.yaml", &split(90, 10));
    let revision = mesh.ok(["get", "vs", "payment", "-o", "json"]);
    let revision: serde_json::Value = serde_json::from_str(&revision).expect("JSON");
    let revision = revision["metadata"]["resourceVersion"]
        .as_str()
        .expect("a revision")
        .to_owned();
    mesh.apply("cart.yaml", &split(90, 10).replace("payment", "cart"));
    mesh.ok(["delete", "vs", "payment"]);
    let then = mesh.ok(["get", "vs", "--at", &revision]);
    assert!(then.contains("payment") && !then.contains("cart"), "{then}");
    let now = mesh.ok(["get", "vs"]);
    assert!(!now.contains("payment") && now.contains("cart"), "{now}");
    refused(&mesh, 2, &["get", "vs", "--at", "999999"]);
}

/// `naka context` lists contexts and makes one current; an unknown one changes nothing.
#[test]
fn contexts_are_listed_and_chosen() {
    let mesh = Mesh::up();
    let token = mesh.ok(["token", "create", "--service", "a"]);
    mesh.ok(["context", "local"]);
    mesh.ok(["join", token.trim(), "--name", "other"]);
    let current = || {
        let list = mesh.ok(["context"]);
        let line = list.lines().find(|line| line.starts_with('*'));
        line.and_then(|line| line.split_whitespace().nth(1))
            .unwrap_or_default()
            .to_owned()
    };
    for name in ["local", "other", "local"] {
        mesh.ok(["context", name]);
        assert_eq!(current(), name);
    }
    let unknown = refused(&mesh, 2, &["context", "nowhere"]);
    assert!(unknown.contains("nowhere"), "{unknown}");
    assert_eq!(current(), "local");
    refused(&mesh, 2, &["--context", "nowhere", "status"]);

    // `naka up` finds the control plane running, leaves it alone and makes its context current.
    mesh.ok(["context", "other"]);
    let holder = || std::fs::read_to_string(mesh.home().join("mesh/local/lock"));
    let before = holder().expect("the lock names its holder");
    mesh.ok(["up"]);
    assert_eq!(current(), "local");
    assert_eq!(holder().expect("the lock"), before, "the same process");
}

/// A port in use is one plain message that names it; once it is free the same command works.
#[test]
fn a_port_in_use_is_named() {
    let mut mesh = Mesh::up();
    let taken = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = taken.local_addr().expect("bound").port().to_string();
    let prog = testprog();
    let prog = prog.to_str().expect("printable");
    let serve = |own: &str| {
        [
            "--",
            prog,
            "serve",
            "--port",
            own,
            "--name",
            "a",
            "--version",
            "v1",
        ]
        .map(str::to_owned)
    };
    let other = free_port().to_string();
    for (options, own, words) in [
        (["-p", &port], port.as_str(), "another program listens"),
        (["--publish", &port], other.as_str(), "in use"),
    ] {
        // A program with a network of its own has this machine's ports in nobody's way.
        let mut args: Vec<String> = ["run", "-s", "a", "--capture", "proxy"]
            .map(str::to_owned)
            .into();
        args.extend(options.map(str::to_owned));
        args.extend(serve(own));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let told = refused(&mesh, 2, &args);
        assert!(told.contains(words) && told.contains(&port), "{told}");
    }

    // The control plane keeps its ports: who has one of them in the meantime is in its way.
    let second = refused(&mesh, 2, &["control"]);
    assert!(second.contains("in use"), "{second}");
    mesh.kill_control();
    let ports = std::fs::read(mesh.home().join("mesh/local/ports.json")).expect("ports");
    let ports: serde_json::Value = serde_json::from_slice(&ports).expect("JSON");
    let api = u16::try_from(ports["api"].as_u64().expect("a port")).expect("a port");
    let in_the_way = TcpListener::bind(("127.0.0.1", api)).expect("the API's port");
    let told = refused(&mesh, 2, &["control"]);
    assert!(
        told.contains(&format!("cannot listen on 127.0.0.1:{api} (API)"))
            && told.contains("in use"),
        "{told}"
    );
    drop(in_the_way);
    mesh.start_control();
    drop(taken);
    let free = mesh.run(
        "free",
        &["-s", "a", "-p", &port],
        &[
            prog,
            "serve",
            "--port",
            &port,
            "--name",
            "a",
            "--version",
            "v1",
        ],
    );
    mesh.wait_ready("a", Some(&port), &free);
}

/// A service belongs to the identity that first served it: another one is refused, a second replica is not.
#[test]
fn a_service_has_one_identity() {
    let mesh = Mesh::up();
    let _first = mesh.serve("payment", "v1");
    let port = free_port().to_string();
    let prog = testprog();
    let mut other = mesh.run(
        "other",
        &[
            "-s",
            "payment",
            "--service-account",
            "intruder",
            "-p",
            &port,
        ],
        &[
            prog.to_str().expect("printable"),
            "serve",
            "--port",
            &port,
            "--name",
            "payment",
            "--version",
            "v1",
        ],
    );
    let status = other.wait(SOON).expect("a refused workload ends");
    assert!(!status.success());
    assert!(
        other
            .err()
            .contains("belongs to the service account payment"),
        "{}",
        other.err()
    );
    let intruders = mesh
        .workloads()
        .iter()
        .filter(|w| w.to_string().contains("/sa/intruder"))
        .count();
    assert_eq!(intruders, 0, "{:?}", mesh.workloads());
    let _second = mesh.serve("payment", "v2");
    let payments = || {
        let all = mesh.workloads();
        let ours = |w: &&serde_json::Value| w["service"] == "payment" && w["state"] == "healthy";
        all.iter().filter(ours).count()
    };
    wait::until("two replicas", SOON, || (payments() == 2).then_some(()));
}

/// Two namespaces are there from the start and stay; one of the user's own comes and goes.
#[test]
fn namespaces_are_there_from_the_start() {
    let mesh = Mesh::up();
    let list = || mesh.ok(["get", "namespaces"]);
    assert!(
        list().contains("default") && list().contains("istio-system"),
        "{}",
        list()
    );
    let told = refused(&mesh, 2, &["delete", "namespace", "default"]);
    assert!(told.contains("may not be deleted"), "{told}");
    mesh.apply(
        "shop.yaml",
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n",
    );
    assert!(list().contains("shop"));
    mesh.ok(["delete", "namespace", "shop"]);
    assert!(!list().contains("shop") && list().contains("default"));
}

/// What the control plane finds in an applied file names the file's line, as what is found in the file alone does.
#[test]
fn findings_of_apply_name_the_line() {
    let mesh = Mesh::up();
    let text = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: pay}\nspec:\n  hosts: [pay]\n  http:\n  - route: [{destination: {host: pay, subset: v9}}]\n";
    let file = mesh.file("pay.yaml", text);
    let file = file.to_str().expect("printable");
    for command in ["check", "apply"] {
        let told = said(&mesh.naka([command, "-f", file]));
        assert!(
            told.contains(&format!("{file}:7:")) && told.contains("L310"),
            "{command}: {told}"
        );
    }
    let sound = mesh.file("sound.yaml", &text.replace(", subset: v9", ""));
    let told = said(&mesh.naka(["apply".as_ref(), "-f".as_ref(), sound.as_os_str()]));
    assert!(!told.contains("L310"), "{told}");
}

/// Each file of the seeds by the command: exit code 1 exactly when an error is printed, what is not enforced yet apart
/// from what is wrong, a file and a line with each. What is found is compared, code by code, where it is found.
#[test]
fn the_seeds_are_checked_by_the_command() {
    let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/../../cases/seeds");
    let home = tempfile::tempdir().expect("a directory");
    let mut errors = [0, 0];
    for entry in std::fs::read_dir(seeds).expect("seeds").flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|e| e != "yaml") {
            continue;
        }
        for (mode, strict) in [None, Some("--strict")].into_iter().enumerate() {
            let mut command = std::process::Command::new(naka_testkit::mesh::naka());
            command
                .args(["check", "-o", "json", "-f"])
                .arg(&path)
                .args(strict);
            command.env("NAKA_HOME", home.path());
            let output = command.output().expect("naka starts");
            let all: Value = serde_json::from_slice(&output.stdout).expect("JSON");
            let list = |name: &str| all[name].as_array().cloned().expect("a list");
            let ours = |finding: &Value| finding["code"] == "W900" || finding["code"] == "E901";
            let (findings, not_yet) = (list("findings"), list("not_yet"));
            assert!(
                !findings.iter().any(ours) && not_yet.iter().all(ours),
                "{path:?}"
            );
            let all: Vec<&Value> = findings.iter().chain(&not_yet).collect();
            assert!(
                all.iter()
                    .all(|f| f["line"].as_u64() > Some(0) && f["file"] != "")
            );
            let bad = all.iter().filter(|f| f["severity"] == "error").count();
            errors[mode] += bad;
            assert_eq!(
                output.status.code(),
                Some(i32::from(bad > 0)),
                "{path:?} {strict:?}"
            );
        }
    }
    assert!(
        errors[0] > 0 && errors[1] > errors[0],
        "{errors:?}: strict mode refuses more"
    );
}

/// `naka down` takes the mesh that every other command means, a running control plane takes no late options, and what a
/// removed mesh's proxies kept goes with it. Twins: the other mesh still runs; an option in force is no fault.
#[test]
fn up_and_down_mean_the_current_mesh() {
    let mesh = Mesh::up_unprivileged();
    let up = |options: &[&str]| mesh.naka(["up"].iter().chain(options));
    assert!(up(&["--mesh", "other"]).status.success());
    for option in [
        "--advertise=192.0.2.9",
        "--dir=objects",
        "--jwks-refresh=1s",
        "--jwks-ca=ca.pem",
        "--jwks-hosts=a.example",
    ] {
        let late = up(&["--mesh", "other", option]);
        let said = String::from_utf8_lossy(&late.stderr).into_owned();
        assert_eq!(late.status.code(), Some(2), "{said}");
        assert!(said.contains("takes effect only when it starts"), "{said}");
    }
    assert!(
        up(&["--mesh", "other", "--advertise=127.0.0.1"])
            .status
            .success()
    );
    mesh.ok(["run", "--", "true"]);
    let kept = |name: &str| {
        let runs = mesh.home().join("user/.naka/run");
        let entries = std::fs::read_dir(runs).expect("run directories").flatten();
        entries
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(name))
            .count()
    };
    assert_eq!(kept("other."), 1);
    let said = mesh.ok(["down", "--purge"]);
    assert!(said.contains("mesh other is removed"), "{said}");
    assert_eq!(kept("other."), 0);
    assert!(mesh.naka(["status", "--context", "local"]).status.success());
}

/// What `naka up` is told of keys of issuers the control plane keeps to. The twin: one that was told nothing calls the
/// address, where nobody listens.
#[test]
fn up_hands_on_what_it_is_told_of_keys() {
    let mesh = Mesh::up_unprivileged();
    let objects = "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: users, namespace: default}\nspec:\n  jwtRules: [{issuer: a, jwksUri: 'http://127.0.0.1:1/keys'}]\n";
    let file = mesh.file("users.yaml", objects);
    let file = file.to_str().expect("printable");
    for (name, options, words) in [
        (
            "named",
            &["--jwks-hosts", "issuer.example", "--jwks-refresh", "90s"][..],
            "--jwks-hosts issuer.example",
        ),
        ("open", &[], "no connection"),
    ] {
        let up = ["up", "--mesh", name];
        mesh.ok(up.iter().chain(options));
        mesh.ok(["apply", "-f", file]);
        wait::until(format_args!("{name} says {words}"), SOON, || {
            let shown = mesh.ok(["describe", "requestauthentication", "users"]);
            shown.contains(words).then_some(())
        });
        mesh.ok(["down", "--purge"]);
    }
}

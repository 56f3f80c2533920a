//! Who may be whom: tokens, identities, plaintext, foreign certificates. Every refusal has its permitted twin.

use naka_testkit::http1::Client;
use naka_testkit::mesh::{Mesh, SOON, testprog};
use naka_testkit::program::{Program, free_port};
use naka_testkit::wait;
use std::path::Path;
use std::process::{Command, Stdio};

/// A workload started by somebody who holds only a token: another home directory, no control socket.
pub(crate) fn run_with_token(
    mesh: &Mesh,
    home: &Path,
    name: &str,
    token: &str,
    options: &[&str],
) -> Program {
    std::fs::create_dir_all(home).expect("a directory");
    let join = mesh
        .command(["join", token])
        .env("NAKA_HOME", home)
        .env("HOME", home)
        .output()
        .expect("naka join");
    let port = free_port().to_string();
    let prog = testprog();
    let mut args = vec!["run"];
    args.extend_from_slice(options);
    args.extend([
        "-p",
        &port,
        "--",
        prog.to_str().expect("printable"),
        "serve",
        "--port",
        &port,
        "--name",
        name,
        "--version",
        "v1",
    ]);
    let mut command = mesh.command(args);
    command.env("NAKA_HOME", home).env("HOME", home);
    let program = Program::start(name, mesh.home(), &mut command).expect("naka run");
    if !join.status.success() {
        std::fs::write(&program.stderr, &join.stderr).expect("note the refusal");
    }
    program
}

/// Whether a healthy workload serves `service`.
pub(crate) fn served(mesh: &Mesh, service: &str) -> bool {
    mesh.workloads()
        .iter()
        .any(|w| w["service"] == service && w["state"] == "healthy")
}

/// A token for `delivery` cannot serve `payment`, and says why; the twin: it does serve `delivery`.
#[test]
fn a_token_serves_only_what_it_names() {
    let mesh = Mesh::up();
    let token = mesh.ok(["token", "create", "--service", "delivery", "--uses", "2"]);
    let home = mesh.home().join("other");
    let mut thief = run_with_token(&mesh, &home, "thief", token.trim(), &["-s", "payment"]);
    let status = thief.wait(SOON).expect("a refused workload ends");
    assert!(!status.success());
    assert!(
        thief.err().contains("payment") && thief.err().contains("delivery"),
        "{}",
        thief.err()
    );
    assert!(!served(&mesh, "payment"));

    let _honest = run_with_token(&mesh, &home, "honest", token.trim(), &["-s", "delivery"]);
    wait::until("the honest workload", SOON, || {
        served(&mesh, "delivery").then_some(())
    });
}

/// A token for one use is refused the second time, an expired one at once, a forged secret always.
#[test]
fn used_up_expired_and_forged_tokens_are_refused() {
    let mesh = Mesh::up();
    let once = mesh.ok(["token", "create", "--service", "a", "--uses", "1"]);
    let _first = run_with_token(
        &mesh,
        &mesh.home().join("one"),
        "first",
        once.trim(),
        &["-s", "a"],
    );
    wait::until("the first use", SOON, || served(&mesh, "a").then_some(()));
    let forged = {
        let mut text = once.trim().to_owned();
        let last = text.pop().expect("a secret");
        text.push(if last == 'a' { 'b' } else { 'a' });
        text
    };
    let expired = mesh.ok([
        "token",
        "create",
        "--service",
        "a",
        "--uses",
        "5",
        "--ttl",
        "0s",
    ]);
    for (name, token, why) in [
        ("second", once.trim(), "used"),
        ("forged", &forged, "secret"),
        ("late", expired.trim(), "expired"),
    ] {
        let mut program = run_with_token(&mesh, &mesh.home().join(name), name, token, &["-s", "a"]);
        assert!(
            !program
                .wait(SOON)
                .expect("a refused workload ends")
                .success(),
            "{name}"
        );
        assert!(program.err().contains(why), "{name}: {}", program.err());
    }
}

/// Inbound address of a service's mTLS port.
fn inbound_address(mesh: &Mesh, service: &str) -> String {
    wait::until("an inbound address", SOON, || {
        let all = mesh.workloads();
        let found = all.iter().find(|w| w["service"] == service)?;
        Some(found["ports"][0]["inbound_address"].as_str()?.to_owned())
    })
}

/// Plaintext to the mTLS port is refused with its reason; the twin: a caller in the mesh gets through.
#[test]
fn plaintext_to_the_mutual_tls_port_is_refused() {
    let mesh = Mesh::up();
    let _payment = mesh.serve("payment", "v1");
    let url = format!("http://{}/", inbound_address(&mesh, "payment"));
    let mut stranger = Client::open(&url).expect("the port is open");
    let answer = stranger
        .request("GET", &url, &[], b"")
        .expect("an answer with a reason");
    assert_eq!(answer.status, 403);
    assert_eq!(answer.head.header("x-naka-reason"), Some("mtls-required"));
    assert!(
        mesh.logged("payment-v1").is_empty(),
        "the program must not see the call"
    );

    crate::traffic::load(
        &mesh,
        "twin",
        &["--url", "http://payment/", "--count", "3"],
        &["payment-v1"],
    )
    .assert_clean();
}

/// A certificate of another authority, and one of the right shape but expired, end in a failed handshake.
#[test]
fn foreign_certificates_are_refused() {
    let mesh = Mesh::up();
    let _payment = mesh.serve("payment", "v1");
    let address = inbound_address(&mesh, "payment");
    let dir = mesh.home();
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "1",
            "-subj",
            "/CN=x",
            "-addext",
            "subjectAltName=URI:spiffe://cluster.local/ns/default/sa/order",
        ])
        .arg("-keyout")
        .arg(dir.join("x.key"))
        .arg("-out")
        .arg(dir.join("x.crt"))
        .output()
        .expect("openssl");
    assert!(made.status.success());
    let handshake = |with: bool| {
        let mut command = Command::new("openssl");
        command
            .args(["s_client", "-connect", &address, "-tls1_3", "-ign_eof"])
            .stdin(Stdio::piped());
        if with {
            command
                .arg("-cert")
                .arg(dir.join("x.crt"))
                .arg("-key")
                .arg(dir.join("x.key"));
        }
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("openssl");
        use std::io::Write;
        let _ = child
            .stdin
            .take()
            .expect("piped")
            .write_all(b"GET / HTTP/1.1\r\nhost: payment\r\nconnection: close\r\n\r\n");
        let output = child.wait_with_output().expect("openssl ends");
        format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    };
    for with in [true, false] {
        let seen = handshake(with);
        assert!(seen.contains("alert"), "with certificate {with}: {seen}");
    }
    assert!(mesh.logged("payment-v1").is_empty());
}

/// A caller of the mesh that is told to use no TLS is refused like any stranger, in each version of HTTP, and is told
/// why; the twin: without the rule it gets through.
#[test]
fn a_rule_that_turns_tls_off_is_told_why_it_fails() {
    let mesh = Mesh::up();
    let _payment = mesh.serve("payment", "v1");
    let call = |name: &str, options: &[&str]| -> String {
        let mut command = vec!["curl", "-s", "-i", "-m", "10"];
        command.extend_from_slice(options);
        command.push("http://payment/");
        let mut run = mesh.run(name, &["-s", "order"], &command);
        run.wait(SOON).expect("it ends");
        run.out().to_ascii_lowercase()
    };
    let permitted = call("permitted", &[]);
    assert!(permitted.starts_with("http/1.1 200"), "{permitted}");
    mesh.apply(
        "plain.yaml",
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: payment}\nspec: {host: payment, trafficPolicy: {tls: {mode: DISABLE}}}\n",
    );
    for (name, options) in [("http1", &[][..]), ("http2", &["--http2-prior-knowledge"])] {
        let refused = call(name, options);
        assert!(
            refused.contains(" 403") && refused.contains("x-naka-reason: mtls-required"),
            "{name}: {refused}"
        );
    }
}

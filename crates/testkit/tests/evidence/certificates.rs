//! What CertificatePolicies say of certificates, read by openssl from the wire: keys, lifetimes, who approves, what is
//! run. Calls go on meanwhile.

use crate::envoy;
use crate::traffic::{finish, joined};
use naka_testkit::mesh::{Mesh, SOON, testprog};
use naka_testkit::program::{Program, free_port};
use naka_testkit::wait::until;
use serde_json::Value;
use std::process::{Command, Stdio};

#[path = "certificates/alias.rs"]
mod alias;

/// A CertificatePolicy in `default`.
fn policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: naka.dev/v1alpha1\nkind: CertificatePolicy\nmetadata: {{name: {name}}}\nspec: {spec}\n"
    )
}

/// Where a service's proxy takes calls of others.
fn address(mesh: &Mesh, service: &str) -> String {
    until(format_args!("an address of {service}"), SOON, || {
        let all = mesh.workloads();
        let found = all.iter().find(|one| one["service"] == service)?;
        found["ports"][0]["inbound_address"]
            .as_str()
            .map(str::to_owned)
    })
}

/// Key (`rsaEncryption 2048`, `id-ecPublicKey 256`, `ED25519`) and days of the certificate that is shown at an address.
fn shown(address: &str) -> (String, u64) {
    let script = format!(
        "openssl s_client -connect {address} -tls1_3 </dev/null 2>/dev/null | openssl x509 -noout -text"
    );
    let out = Command::new("sh")
        .args(["-c", &script])
        .stderr(Stdio::null())
        .output()
        .expect("openssl");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let after = |word: &str| {
        let rest = text.split_once(word).map_or("", |(_, rest)| rest);
        rest.lines().next().unwrap_or_default().trim().to_owned()
    };
    let algorithm = after("Public Key Algorithm:");
    let bits = after("Public-Key: (").trim_end_matches(" bit)").to_owned();
    let second = |word: &str| {
        let at = after(word);
        let out = Command::new("date").args(["-d", &at, "+%s"]).output();
        let out = out.expect("date").stdout;
        String::from_utf8_lossy(&out)
            .trim()
            .parse::<u64>()
            .unwrap_or(0)
    };
    let lifetime = second("Not After :").saturating_sub(second("Not Before:"));
    (
        format!("{algorithm} {bits}").trim().to_owned(),
        lifetime / 86_400,
    )
}

/// Waits until this is shown.
#[track_caller]
fn until_shown(address: &str, key: &str, days: u64) {
    let wanted = (key.to_owned(), days);
    until(
        format_args!("{wanted:?} at {address}: {:?}", shown(address)),
        SOON,
        || (shown(address) == wanted).then_some(()),
    );
}

/// Rows of `naka get certs` of an identity.
fn certs(mesh: &Mesh, account: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(&mesh.ok(["get", "certs", "-o", "json"])).expect("JSON");
    let end = format!("/sa/{account}");
    let all = all["items"].as_array().cloned().unwrap_or_default();
    let own = |one: &Value| {
        one["identity"]
            .as_str()
            .is_some_and(|id| id.ends_with(&end))
    };
    all.into_iter().filter(own).collect()
}

/// Workloads take up what a policy says while calls go on, a service that it does not name keeps what it had, and without
/// the policy things are as before.
#[test]
fn keys_and_lifetimes_are_those_of_the_policy() {
    let mesh = Mesh::up();
    let _servers = [mesh.serve("payment", "v1"), mesh.serve("cart", "v1")];
    let (payment, cart) = (address(&mesh, "payment"), address(&mesh, "cart"));
    let usual = "id-ecPublicKey 256";
    until_shown(&payment, usual, 1);
    let mut load = mesh.load(
        "load",
        &["-s", "order"],
        &["--url", "http://payment/", "--rate", "100", "--for", "600"],
    );
    let calls = || mesh.logged("load").len();
    until("first answers", SOON, || (calls() > 20).then_some(()));
    for (spec, key, days) in [
        (
            "{tier: medium, serviceAccounts: [payment, order]}",
            "rsaEncryption 2048",
            30,
        ),
        (
            "{tier: high, approval: Automatic, serviceAccounts: [payment]}",
            "rsaEncryption 4096",
            7,
        ),
        (
            "{duration: 2160h, privateKey: {size: 384}, serviceAccounts: [payment, order]}",
            "id-ecPublicKey 384",
            90,
        ),
        (
            "{duration: 48h, privateKey: {algorithm: Ed25519}, serviceAccounts: [payment, order]}",
            "ED25519",
            2,
        ),
    ] {
        mesh.apply("policy.yaml", &policy("payment", spec));
        until_shown(&payment, key, days);
        assert_eq!(shown(&cart), (usual.to_owned(), 1), "twin: it is not named");
        let before = calls();
        until("calls go on", SOON, || {
            (calls() > before + 20).then_some(())
        });
    }
    mesh.ok(["delete", "certificatepolicy", "payment"]);
    mesh.apply("policy.yaml", &policy("all", "{duration: 24h}"));
    until_shown(&payment, usual, 1);
    load.signal(rustix::process::Signal::TERM);
    load.wait(SOON).expect("it ends");
    let all = joined(&mesh, "load", &["payment-v1"]);
    all.assert_clean();
}

/// A new workload is held until somebody approves it, a running one keeps what it has. The twin: another service account
/// waits for nobody.
#[test]
fn somebody_approves_each_certificate() {
    let mesh = Mesh::up();
    let server = mesh.serve("payment", "v1");
    let at = address(&mesh, "payment");
    let spec = "{serviceAccounts: [payment], duration: 168h, renewBefore: 72h, approval: Manual}";
    mesh.apply("policy.yaml", &policy("payment", spec));
    // It lives as long as one of the policy may, and has the key: nothing to ask for. Another key it has to ask for.
    let other = spec.replace("approval", "privateKey: {size: 384}, approval");
    mesh.apply("policy.yaml", &policy("payment", &other));
    let waiting = |name: &str| {
        until(format_args!("{name} to wait"), SOON, || {
            let mut all = certs(&mesh, "payment").into_iter();
            let waits = |one: &Value| one["state"] == "waits for approval";
            let one = all.find(|one| waits(one) && one["workload_name"] == name)?;
            one["workload_id"].as_str().map(str::to_owned)
        })
    };
    waiting("payment-v1-0.default");
    assert_eq!(
        shown(&at),
        ("id-ecPublicKey 256".to_owned(), 1),
        "it keeps what it has"
    );
    let said = mesh.ok(["cert", "approve", "payment-v1-0.default"]);
    assert!(said.contains("ECDSA-P384"), "{said}");
    until_shown(&at, "id-ecPublicKey 384", 7);

    // A second one, which has nothing yet.
    let port = free_port().to_string();
    let prog = testprog();
    let prog = prog.to_str().expect("printable");
    let options = ["-s", "payment", "-p", &port, "-l", "version=v2"];
    let program = [
        prog,
        "serve",
        "--port",
        &port,
        "--name",
        "payment",
        "--version",
        "v2",
    ];
    let second = mesh.run("payment-v2", &options, &program);
    let id = waiting("payment-v2-0.default");
    until("it to say what it waits for", SOON, || {
        second
            .err()
            .contains(&format!("naka cert approve {id}"))
            .then_some(())
    });
    let mut twin = mesh.run("cart", &["-s", "cart"], &["curl", "-s", "http://payment/"]);
    finish(&mut twin);
    assert!(
        !mesh
            .workloads()
            .iter()
            .any(|w| w["labels"]["version"] == "v2"),
        "held"
    );
    mesh.ok(["cert", "approve", &id]);
    mesh.wait_version("payment", "v2");
    let nobody = mesh.naka(["cert", "approve", "payment-v2-0.default"]);
    assert_eq!(
        nobody.status.code(),
        Some(2),
        "an approval is for one certificate"
    );
    drop((second, server));
}

/// SHA-256 of a file, by a tool that is not ours.
fn sha256(path: &str) -> String {
    let out = Command::new("sha256sum")
        .arg(path)
        .output()
        .expect("sha256sum");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    text.split_whitespace().next().expect("a hash").to_owned()
}

/// Runs a program that calls `payment` as `till`; what it and `naka run` said.
fn till(mesh: &Mesh, name: &str, program: &[&str]) -> (bool, String) {
    let mut run: Program = mesh.run(name, &["-s", "till", "--no-saved-identity"], program);
    let ended = run.wait(SOON).expect("it ends");
    (
        ended.success() && run.out().ends_with("200"),
        run.said().to_string(),
    )
}

/// The program that a policy names gets a certificate and calls; another one, another user, and a token without a program
/// that anybody saw get none and are told why.
#[test]
fn a_program_that_is_not_the_one_named_gets_no_certificate() {
    let mesh = Mesh::up();
    let _server = mesh.serve("payment", "v1");
    let curl = String::from_utf8(
        Command::new("sh")
            .args(["-c", "command -v curl"])
            .output()
            .expect("sh")
            .stdout,
    );
    let curl = curl.expect("a path").trim().to_owned();
    let uid = rustix::process::getuid().as_raw();
    let words = [
        curl.as_str(),
        "-s",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "http://payment/",
    ];
    let other = mesh.home().join("till");
    std::fs::copy(&curl, &other).expect("a copy");
    // The same in all it does, and another build.
    let mut bytes = std::fs::read(&other).expect("a program");
    bytes.push(0);
    std::fs::write(&other, bytes).expect("written");
    let changed = [&[other.to_str().expect("printable")], &words[1..]].concat();
    let (called, said) = till(&mesh, "before", &changed);
    assert!(called, "twin: without a policy anything is run: {said}");
    let apply = |uid: u32| {
        let sha256 = sha256(&curl);
        let spec = format!(
            "{{serviceAccounts: [till], attestation: {{uid: {uid}, executables: ['sha256:{sha256}']}}}}"
        );
        mesh.apply("till.yaml", &policy("till", &spec));
    };
    apply(uid);
    let (called, said) = till(&mesh, "right", &words);
    assert!(called, "{said}");
    let (called, said) = till(&mesh, "by-name", &[&["curl"], &words[1..]].concat());
    assert!(called, "found by PATH: {said}");
    let (called, said) = till(&mesh, "changed", &changed);
    assert!(
        !called && said.contains("wants another executable"),
        "{said}"
    );
    apply(uid + 1);
    let (called, said) = till(&mesh, "user", &words);
    assert!(
        !called && said.contains(&format!("the program has {uid}")),
        "{said}"
    );
    apply(uid);
    // A token in other hands: nobody saw what it is used for.
    let token = mesh.ok(["token", "create", "--service", "till"]);
    let home = mesh.home().join("thief");
    let mut thief =
        crate::identity::run_with_token(&mesh, &home, "thief", token.trim(), &["-s", "till"]);
    assert!(!thief.wait(SOON).expect("it ends").success());
    assert!(
        thief.err().contains("nothing shows which one is run"),
        "{}",
        thief.err()
    );
}

/// Beside an Envoy everybody gets keys that it takes, and it takes RSA and P-384. The twin: without one, Ed25519.
#[test]
fn ed25519_gives_way_to_an_envoy() {
    let mesh = Mesh::up();
    let _naka = mesh.serve("payment", "v1");
    let at = address(&mesh, "payment");
    mesh.apply(
        "policy.yaml",
        &policy("all", "{privateKey: {algorithm: Ed25519}}"),
    );
    until_shown(&at, "ED25519", 1);
    let _server = envoy::serve(&mesh, "till", "v1");
    let beside = address(&mesh, "till");
    for at in [&at, &beside] {
        until_shown(at, "id-ecPublicKey 256", 1);
    }
    let found = mesh.ok(["status"]);
    assert!(found.contains("W380"), "{found}");
    for (spec, key) in [
        ("{privateKey: {algorithm: RSA}}", "rsaEncryption 2048"),
        ("{privateKey: {size: 384}}", "id-ecPublicKey 384"),
    ] {
        mesh.apply("policy.yaml", &policy("all", spec));
        for at in [&at, &beside] {
            until_shown(at, key, 1);
        }
        let calls = "for url in http://payment/ http://till/; do curl -s -m 10 -o /dev/null -w '%{http_code}\\n' $url; done";
        for proxy in ["naka", "envoy"] {
            let name = format!("{proxy}-{}", key.split(' ').next().unwrap_or_default());
            let options = ["--proxy", proxy, "-s", "order"];
            let mut run = envoy::run(&mesh, &name, &options, &["sh", "-c", calls]);
            finish(&mut run);
            assert_eq!(run.out(), "200\n200\n", "{name}: {}", run.said());
        }
    }
}

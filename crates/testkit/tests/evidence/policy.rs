//! `naka policy`: the policies of a service-call matrix hold in a mesh of real programs, cell by cell.

use crate::trust::issuer;
use naka_testkit::mesh::Mesh;
use naka_testkit::program::Program;
use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Output, Stdio};

/// The matrix of a bank as it was written down, and what a reader had to guess: who belongs to the groups, when
/// business hours are and where the offices. The machine is an office that never closes.
const MATRIX: &str = "authorization_policies:
  banking_service_matrix:
    customer_facing_services:
      allowed_to_call:
      - authentication_service
      - account_service
      - transaction_service
      forbidden_to_call:
      - internal_admin_services
      - core_banking_system
      - regulatory_reporting
    internal_services:
      allowed_to_call:
      - database_services
      - audit_service
      - logging_service
      forbidden_to_call:
      - customer_facing_apis
      - external_integrations
    admin_services:
      allowed_to_call:
      - all_internal_services
      - monitoring_services
      - configuration_services
      access_conditions:
      - Admin user authentication required
      - Time-based access (business hours only)
      - Location-based access (office networks only)
      - Dual authorization required
groups:
  customer_facing_services: [netbanking]
  customer_facing_apis: [customer_facing_services]
  internal_services: [ledger]
  admin_services: [console]
  internal_admin_services: [admin_services]
  all_internal_services: [internal_services, core_banking_system]
  database_services: [account-db]
  monitoring_services: [watcher]
  configuration_services: [settings]
  external_integrations: [partner]
services: [authentication_service, account_service, transaction_service, core_banking_system, regulatory_reporting, audit_service, logging_service]
definitions:
  office_networks: [127.0.0.0/8]
  business_hours: {days: [Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday], from: '00:00', to: '24:00'}
";

const CALLED: &[&str] = &[
    "netbanking",
    "ledger",
    "console",
    "account-db",
    "watcher",
    "settings",
    "partner",
    "authentication-service",
    "account-service",
    "transaction-service",
    "core-banking-system",
    "regulatory-reporting",
    "audit-service",
    "logging-service",
];

/// Caller, token, and whom it may call: by hand from the matrix, not by the generator.
const ROWS: &[(&str, Option<&str>, &[&str])] = &[
    (
        "netbanking",
        None,
        &[
            "authentication-service",
            "account-service",
            "transaction-service",
        ],
    ),
    (
        "ledger",
        None,
        &["account-db", "audit-service", "logging-service"],
    ),
    (
        "console",
        Some("FRESH"),
        &["ledger", "core-banking-system", "watcher", "settings"],
    ),
    ("console", None, &[]),
    ("stranger", Some("FRESH"), &[]),
];

/// Runs `naka apply --wait -f -` on a text.
fn piped(mesh: &Mesh, text: &[u8]) -> Output {
    let mut command = mesh.command(["apply", "--wait", "-f", "-"]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("naka apply");
    child
        .stdin
        .take()
        .expect("a pipe")
        .write_all(text)
        .expect("taken");
    child.wait_with_output().expect("an end")
}

/// Whom a caller reached, of all that can be called.
fn reached(mesh: &Mesh, turn: &str, caller: &str, token: Option<&str>) -> BTreeSet<String> {
    let header = token.map_or_else(String::new, |token| {
        format!("-H 'authorization: Bearer {token}'")
    });
    let calls = CALLED.iter().map(|called| {
        format!("curl -s -m 20 -o /dev/null {header} -H x-cell:{turn} -w '{called} %{{http_code}}\\n' http://{called}/")
    });
    let script = calls.collect::<Vec<_>>().join("\n");
    let mut run = mesh.run(
        &format!("{caller}-{turn}"),
        &["-s", caller],
        &["sh", "-c", &script],
    );
    crate::traffic::finish(&mut run);
    let answers = run.out();
    assert_eq!(answers.lines().count(), CALLED.len(), "{caller}: {answers}");
    let mut all = BTreeSet::new();
    for line in answers.lines() {
        match line.split_once(' ').expect("a name and a status") {
            (called, "200") => all.insert(called.to_owned()),
            (_, "403") => false,
            (called, status) => panic!("{caller} calling {called}: {status}"),
        };
    }
    all
}

/// Whose programs saw calls of that turn.
fn saw(mesh: &Mesh, turn: &str) -> BTreeSet<String> {
    let pair = serde_json::json!(["x-cell", turn]);
    let saw = |called: &&&str| {
        let lines = mesh.logged(&format!("{called}-v1"));
        lines.iter().any(|line| {
            line["headers"]
                .as_array()
                .is_some_and(|all| all.contains(&pair))
        })
    };
    CALLED
        .iter()
        .filter(saw)
        .map(|called| (*called).to_owned())
        .collect()
}

/// Each cell of the matrix, by callers of each group, an admin without what admins need, and a stranger: what is
/// allowed gets 200 and what is not gets 403 and reaches no program. The twin: without the policies every cell is open.
#[test]
fn each_cell_of_the_matrix_is_as_it_says() {
    let mesh = Mesh::up();
    let _programs: Vec<Program> = std::thread::scope(|scope| {
        let all: Vec<_> = CALLED
            .iter()
            .map(|called| scope.spawn(|| mesh.serve(called, "v1")))
            .collect();
        all.into_iter()
            .map(|one| one.join().expect("a program"))
            .collect()
    });
    let (people, tokens) = issuer();
    mesh.apply("people.yaml", &people);
    let token = |name: &str| {
        let found = tokens.iter().find(|(known, _)| *known == name);
        found.expect("a token").1.clone()
    };
    let everybody: BTreeSet<String> = CALLED.iter().map(|called| (*called).to_owned()).collect();
    assert_eq!(
        reached(&mesh, "open", "stranger", None),
        everybody,
        "the twin: no policies"
    );

    let file = mesh.file("matrix.yaml", MATRIX);
    let file = file.to_str().expect("printable");
    let policies = mesh.ok(["policy", "generate", "-f", file]);
    let line = "matrix.yaml:6:9 customer_facing_services.allowed_to_call: account_service";
    assert!(policies.contains(line), "{policies}");
    let applied = piped(&mesh, policies.as_bytes());
    assert!(
        applied.status.success(),
        "{}",
        String::from_utf8_lossy(&applied.stderr)
    );
    std::thread::scope(|scope| {
        for (index, (caller, bearer, may)) in ROWS.iter().enumerate() {
            let (mesh, bearer) = (&mesh, bearer.map(token));
            scope.spawn(move || {
                let turn = format!("row{index}");
                let wanted: BTreeSet<String> =
                    may.iter().map(|called| (*called).to_owned()).collect();
                let got = reached(mesh, &turn, caller, bearer.as_deref());
                assert_eq!(got, wanted, "{caller}, a token: {}", bearer.is_some());
                assert_eq!(
                    saw(mesh, &turn),
                    wanted,
                    "{caller}: whose program was reached"
                );
            });
        }
    });
    let cells = ROWS.len() * CALLED.len();

    // A matrix that says both makes nothing, and the pipe has nothing to apply.
    let torn = MATRIX.replace(
        "forbidden_to_call:\n      - internal_admin",
        "forbidden_to_call:\n      - account_service\n      - internal_admin",
    );
    let torn = mesh.file("torn.yaml", &torn);
    let said = mesh.naka([
        "policy",
        "generate",
        "-f",
        torn.to_str().expect("printable"),
    ]);
    let told = String::from_utf8_lossy(&said.stderr).into_owned();
    assert_eq!(
        (said.status.code(), said.stdout.len()),
        (Some(1), 0),
        "{told}"
    );
    assert!(
        told.contains("torn.yaml:6:9") && told.contains("E971"),
        "{told}"
    );
    println!("{cells} of {cells} cells as the matrix says; before it all were open");
}

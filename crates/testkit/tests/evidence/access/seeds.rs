//! The seeds' two AuthorizationPolicies: their rules as a matrix of caller, operation, labels and headers, at a Naka and
//! at an Envoy, which knows no labels. And labels: who gives them, who cannot, and how they are taken back.

use crate::envoy;
use naka_testkit::mesh::{Mesh, SOON, testprog};
use naka_testkit::program::{Program, free_port};
use naka_testkit::wait::until;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Name of a caller in the rows, its namespace, its service account, and the labels that its token grants.
const CALLERS: &[(&str, &str, &str, &[&str])] = &[
    (
        "processor-3",
        "payments",
        "payment-processor",
        &["security-clearance=level-3"],
    ),
    (
        "validator-4",
        "payments",
        "payment-validator",
        &["security-clearance=level-4"],
    ),
    (
        "processor-2",
        "payments",
        "payment-processor",
        &["security-clearance=level-2"],
    ),
    ("processor", "payments", "payment-processor", &[]),
    (
        "stranger-4",
        "payments",
        "other",
        &["security-clearance=level-4"],
    ),
    (
        "support",
        "support",
        "customer-service",
        &["department=customer-support"],
    ),
    (
        "sales",
        "support",
        "customer-service",
        &["department=sales"],
    ),
    ("nobody", "support", "customer-service", &[]),
    (
        "auditor",
        "audit",
        "audit-service",
        &["compliance-certification=rbi-approved"],
    ),
    (
        "applicant",
        "audit",
        "audit-service",
        &["compliance-certification=applied-for"],
    ),
    (
        "responder",
        "emergency",
        "incident-response",
        &["emergency-authorization=active"],
    ),
    (
        "off-duty",
        "emergency",
        "incident-response",
        &["emergency-authorization=over"],
    ),
    ("executive", "delivery", "delivery-executive", &[]),
    ("restaurant", "restaurant", "restaurant-service", &[]),
    ("cashier", "payment", "payment-service", &[]),
    ("impostor", "default", "delivery-executive", &[]),
];

/// Who may (`no`: nobody; `label`: who has the label, where labels are known; `yes`: wherever the policy holds), caller,
/// words of curl. `pay` is the payment gateway, `del` the delivery service.
const ROWS: &str = "
# Payments: clearance level-3 or level-4, any amount (N321), and a tier that is premium or private-banking (N322).
label processor-3 -X POST -H transaction-amount:10 -H customer-tier:premium pay/api/v1/payments/process
label validator-4 -X POST -H transaction-amount:1e9 -H customer-tier:private-banking pay/api/v1/payments/process
label validator-4 -X POST -H transaction-amount:none -H customer-tier:premium pay/api/v1/payments/process
no processor-3 -X POST -H transaction-amount:10 -H customer-tier:ordinary pay/api/v1/payments/process
no processor-3 -X POST -H customer-tier:premium pay/api/v1/payments/process
no processor-3 -X POST -H transaction-amount:10 pay/api/v1/payments/process
no processor-3 -H transaction-amount:10 -H customer-tier:premium pay/api/v1/payments/process
no processor-3 -X POST -H transaction-amount:10 -H customer-tier:premium pay/api/v1/payments/process/x
no processor-3 -X POST -H transaction-amount:10 -H customer-tier:premium pay/api/v1/payments
no processor-2 -X POST -H transaction-amount:10 -H customer-tier:premium pay/api/v1/payments/process
no processor -X POST -H transaction-amount:10 -H customer-tier:premium pay/api/v1/payments/process
no processor -X POST -H security-clearance:level-4 -H transaction-amount:1 -H customer-tier:premium pay/api/v1/payments/process
no stranger-4 -X POST -H transaction-amount:10 -H customer-tier:premium pay/api/v1/payments/process
no support -X POST -H transaction-amount:10 -H customer-tier:premium pay/api/v1/payments/process
# Customer service reads status and receipt, one segment in between.
label support -H support-agent-id:AGT-7 -H customer-consent:verified pay/api/v1/payments/p1/status
label support -H support-agent-id:AGT- -H customer-consent:verified pay/api/v1/payments/p1/receipt
no support -H support-agent-id:AGT-7 -H customer-consent:verified pay/api/v1/payments/p1/p2/status
no support -H support-agent-id:AGT-7 -H customer-consent:verified pay/api/v1/payments//status
no support -H support-agent-id:AGT-7 -H customer-consent:verified pay/api/v1/payments/p1/refund
no support -H support-agent-id:XAGT-7 -H customer-consent:verified pay/api/v1/payments/p1/status
no support -H support-agent-id:AGT-7 -H customer-consent:assumed pay/api/v1/payments/p1/status
no support -H support-agent-id:AGT-7 pay/api/v1/payments/p1/status
no support -X DELETE -H support-agent-id:AGT-7 -H customer-consent:verified pay/api/v1/payments/p1/status
no sales -H support-agent-id:AGT-7 -H customer-consent:verified pay/api/v1/payments/p1/status
no nobody -H support-agent-id:AGT-7 -H customer-consent:verified pay/api/v1/payments/p1/status
no executive -H support-agent-id:AGT-7 -H customer-consent:verified pay/api/v1/payments/p1/status
# Audit: everything below the path, which takes several segments.
label auditor -H audit-purpose:compliance pay/api/v1/audit/2026/11
label auditor -X POST -H audit-purpose:investigation pay/api/v1/audit/case
label auditor -H audit-purpose:reporting pay/api/v1/audit/
no auditor -X PUT -H audit-purpose:compliance pay/api/v1/audit/case
no auditor -H audit-purpose:curiosity pay/api/v1/audit/case
no auditor pay/api/v1/audit/case
no auditor -H audit-purpose:compliance pay/api/v1/payments/process
no applicant -H audit-purpose:compliance pay/api/v1/audit/case
# Emergency.
label responder -X PUT -H incident-id:INC-1 -H authorizer-level:director pay/api/v1/emergency/stop
label responder -H incident-id:INC-1 -H authorizer-level:ciso pay/api/v1/emergency/a/b
no responder -X DELETE -H incident-id:INC-1 -H authorizer-level:ciso pay/api/v1/emergency/stop
no responder -H incident-id:1 -H authorizer-level:ciso pay/api/v1/emergency/stop
no responder -H incident-id:INC-1 -H authorizer-level:manager pay/api/v1/emergency/stop
no responder -H incident-id:INC-1 pay/api/v1/emergency/stop
no off-duty -H incident-id:INC-1 -H authorizer-level:ciso pay/api/v1/emergency/stop
no impostor -H incident-id:INC-1 -H authorizer-level:ciso pay/api/v1/emergency/stop
# Delivery: executives by their id.
yes executive -X POST -H delivery-executive-id:DE-1 del/api/v1/delivery/d1/status
yes executive -X PUT -H delivery-executive-id:DE-1 del/api/v1/delivery/d1/location
no executive -H delivery-executive-id:DE-1 del/api/v1/delivery/d1/status
no executive -X POST -H delivery-executive-id:DX-1 del/api/v1/delivery/d1/status
no executive -X POST del/api/v1/delivery/d1/status
no executive -X POST -H delivery-executive-id:DE-1 del/api/v1/delivery/d1/x/status
no executive -X POST -H delivery-executive-id:DE-1 del/api/v1/delivery/d1/eta
no impostor -X POST -H delivery-executive-id:DE-1 del/api/v1/delivery/d1/status
# Customer service reads.
label support -H support-agent-id:AGT-7 -H customer-consent:verified del/api/v1/delivery/d1/eta
label support -H support-agent-id:AGT-7 -H customer-consent:verified del/api/v1/delivery/d1/status
no support -X POST -H support-agent-id:AGT-7 -H customer-consent:verified del/api/v1/delivery/d1/status
no sales -H support-agent-id:AGT-7 -H customer-consent:verified del/api/v1/delivery/d1/eta
no nobody -H support-agent-id:AGT-7 -H customer-consent:verified del/api/v1/delivery/d1/eta
no nobody -H department:customer-support -H support-agent-id:AGT-7 -H customer-consent:verified del/api/v1/delivery/d1/eta
# Restaurants.
yes restaurant -X POST -H restaurant-id:REST-9 del/api/v1/delivery/d1/food-ready
no restaurant -X POST -H restaurant-id:RES-9 del/api/v1/delivery/d1/food-ready
no restaurant -X PUT -H restaurant-id:REST-9 del/api/v1/delivery/d1/food-ready
no restaurant -X POST -H restaurant-id:REST-9 del/api/v1/delivery/d1/status
# Cash on delivery.
yes cashier -H payment-method:COD del/api/v1/delivery/d1/payment-status
yes cashier -X POST -H payment-method:COD del/api/v1/delivery/d1/payment-status
no cashier -H payment-method:UPI del/api/v1/delivery/d1/payment-status
no cashier -H payment-method:COD del/api/v1/delivery/d1/d2/payment-status
no restaurant -H payment-method:COD del/api/v1/delivery/d1/payment-status
";

/// One of them.
struct Row {
    may: &'static str,
    caller: &'static str,
    call: &'static str,
}

fn rows() -> Vec<Row> {
    let lines = ROWS.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let mut words = line.splitn(3, ' ');
            let mut word = || words.next().expect("three words");
            Row {
                may: word(),
                caller: word(),
                call: word(),
            }
        })
        .collect()
}

fn seed(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../cases/seeds")
        .join(format!("{name}.yaml"))
}

/// A server that the policies select by its label, under a service name of its own.
fn serve(mesh: &Mesh, namespace: &str, service: &str, app: &str, proxy: &str) -> Program {
    let port = free_port().to_string();
    let (prog, log) = (testprog(), mesh.log(service));
    let label = format!("app={app}");
    let options = [
        "-n", namespace, "--proxy", proxy, "-s", service, "-p", &port, "-l", &label,
    ];
    let server = [
        prog.to_str().expect("printable"),
        "serve",
        "--port",
        &port,
        "--name",
        service,
        "--version",
        "v1",
        "--log",
        log.to_str().expect("printable"),
    ];
    let program = envoy::run(mesh, service, &options, &server);
    until(
        format_args!("a healthy {service}: {}", program.said()),
        envoy::ENVOY_SOON,
        || {
            let all = mesh.workloads();
            let own = all.iter().find(|w| w["service"] == service)?;
            (own["state"] == "healthy").then_some(())
        },
    );
    program
}

/// `naka run` by somebody who has nothing but a token with these labels; more options say what it wears besides.
pub(crate) fn by_token(
    mesh: &Mesh,
    name: &str,
    (namespace, account, granted): (&str, &str, &[&str]),
    options: &[&str],
    command: &[&str],
) -> (String, Program) {
    let mut create = vec![
        "token",
        "create",
        "-n",
        namespace,
        "--service-account",
        account,
    ];
    create.extend(granted.iter().flat_map(|label| ["-l", label]));
    let token = mesh.ok(create);
    let home = mesh.home().join(format!("home-of-{name}"));
    std::fs::create_dir_all(&home).expect("a directory");
    let as_other = |args: &[&str]| {
        let mut command = mesh.command(args);
        command.env("NAKA_HOME", &home).env("HOME", &home);
        command
    };
    let joined = as_other(&["join", token.trim()]).output().expect("join");
    assert!(joined.status.success(), "{joined:?}");
    let mut args = vec!["run", "-n", namespace, "--service-account", account];
    args.extend_from_slice(options);
    args.push("--");
    args.extend_from_slice(command);
    let program = Program::start(name, mesh.home(), &mut as_other(&args)).expect("naka run");
    let id = token
        .trim()
        .split('.')
        .rev()
        .nth(1)
        .expect("an id")
        .to_owned();
    (id, program)
}

/// Answers of all rows of a service: its place stands for `pay` or `del`.
fn answers(mesh: &Mesh, turn: &str, places: &[(&str, &str)]) -> Vec<u16> {
    let mut by_caller: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    let all_rows = rows();
    for (index, row) in all_rows.iter().enumerate() {
        by_caller.entry(row.caller).or_default().push(index);
    }
    let mut all = vec![0; all_rows.len()];
    for (caller, rows) in by_caller {
        let calls = rows.iter().map(|index| {
            let mut words = all_rows[*index].call.to_owned();
            for (short, host) in places {
                words = words.replace(&format!(" {short}/"), &format!(" http://{host}/"));
                if let Some(rest) = words.strip_prefix(&format!("{short}/")) {
                    words = format!("http://{host}/{rest}");
                }
            }
            format!(
                "curl -s -m 20 -o /dev/null -H x-row:{index} -w '{index} %{{http_code}} %{{errormsg}}\\n' {words}"
            )
        });
        let script = calls.collect::<Vec<_>>().join("\n");
        let found = CALLERS.iter().find(|known| known.0 == caller);
        let (_, namespace, account, granted) = found.expect("a caller");
        let who = (*namespace, *account, *granted);
        let name = format!("{caller}-{turn}");
        let (_, mut run) = by_token(mesh, &name, who, &[], &["sh", "-c", &script]);
        crate::traffic::finish(&mut run);
        for line in run.out().lines() {
            let mut words = line.splitn(3, ' ');
            let mut number = || words.next().and_then(|word| word.parse::<u16>().ok());
            let (index, status) = (number().expect("a row"), number().expect("a status"));
            assert_ne!(status, 0, "{turn}: {line}\n{}", run.err());
            all[usize::from(index)] = status;
        }
    }
    all
}

/// Each row gets what the rules say: at a Naka with labels, at an Envoy without them. What is denied never reaches a
/// program. The twin: without the policies every row does.
#[test]
fn the_seeds_policies_give_the_matrix_of_their_rules() {
    let mesh = Mesh::up();
    let _servers = [
        serve(
            &mesh,
            "payments",
            "payment-gateway",
            "payment-gateway",
            "naka",
        ),
        serve(
            &mesh,
            "food-delivery",
            "delivery-service",
            "delivery-service",
            "naka",
        ),
        serve(
            &mesh,
            "payments",
            "envoy-payments",
            "payment-gateway",
            "envoy",
        ),
        serve(
            &mesh,
            "food-delivery",
            "envoy-delivery",
            "delivery-service",
            "envoy",
        ),
    ];
    let naka = [
        ("pay", "payment-gateway.payments"),
        ("del", "delivery-service.food-delivery"),
    ];
    let envoy = [
        ("pay", "envoy-payments.payments"),
        ("del", "envoy-delivery.food-delivery"),
    ];
    let seeds = [
        "hdfc-payment-gateway-authorization",
        "swiggy-delivery-authorization",
    ];
    let mut right = 0;
    for policed in [true, false] {
        for name in seeds.map(seed) {
            let verb = if policed { "apply" } else { "delete" };
            mesh.ok([verb, "-f", name.to_str().expect("printable")]);
        }
        if policed {
            let policy = "AuthorizationPolicy/hdfc-payment-gateway-access";
            let said = mesh.naka(["status", policy, "-n", "payments"]);
            let said = String::from_utf8_lossy(&said.stdout).into_owned();
            let told = said.contains("does not know") && said.contains("envoy-payments");
            assert!(told, "{said}");
        }
        for (side, places) in [("naka", naka), ("envoy", envoy)] {
            for (_, host) in places {
                let wanted = if policed { "403" } else { "200" };
                until(format_args!("{wanted} of {host}"), SOON, || {
                    let url = format!("http://{host}/no");
                    let curl = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", &url];
                    let mut run = mesh.run("probe", &["-s", "probe"], &curl);
                    crate::traffic::finish(&mut run);
                    run.out().ends_with(wanted).then_some(())
                });
            }
            let servers = places.map(|(_, host)| host.split_once('.').expect("a host").0);
            let seen = servers.map(|server| mesh.logged(server).len());
            let got = answers(&mesh, &format!("{side}-{policed}"), &places);
            let mut expected = Vec::new();
            for (index, Row { may, caller, call }) in rows().iter().enumerate() {
                let passes = *may == "yes" || *may == "label" && side == "naka";
                let status = if passes || !policed { 200 } else { 403 };
                assert_eq!(got[index], status, "{side}: {caller}: {call}: {got:?}");
                if status == 200 {
                    expected.push(index);
                }
                right += 1;
            }
            let mut arrived: Vec<usize> = std::iter::zip(servers, seen)
                .flat_map(|(server, seen)| super::arrived(&mesh, server, seen))
                .collect();
            arrived.sort_unstable();
            assert_eq!(arrived, expected, "{side}");
        }
    }
    println!(
        "{right} of {right} answers as the rules say, and without them; {} rows",
        rows().len()
    );
}

/// A label that only the workload itself claims is unknown to policies: it satisfies no ALLOW rule, and every DENY rule,
/// negated ones too. The twin's token grants the same label; when the token is revoked, the label is gone at once from
/// the calls of a program that is running.
#[test]
fn a_label_counts_only_while_a_token_grants_it() {
    const CLEARED: &str = "security-clearance=level-4";
    let mesh = Mesh::up();
    let _vault = mesh.serve("vault", "v1");
    let policy = |action: &str, field: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: cleared, namespace: default}}\nspec:\n  selector: {{matchLabels: {{app: vault}}}}\n  action: {action}\n  rules: [{{when: [{{key: 'source.labels[security-clearance]', {field}: [level-4]}}]}}]\n"
        )
    };
    let script = "while :; do curl -s -m 5 -o /dev/null -w '%{http_code}\\n' http://vault/; sleep 0.05; done";
    let call = ["sh", "-c", script];
    let of = |granted: &'static [&'static str]| ("default", "clerk", granted);
    let (_, claims) = by_token(&mesh, "claims", of(&[]), &["-l", CLEARED], &call);
    let (id, granted) = by_token(&mesh, "granted", of(&[CLEARED]), &[], &call);
    let last = |program: &Program| program.out().lines().last().unwrap_or_default().to_owned();
    let both = |what: &str, wanted: (&str, &str)| {
        let mut seen = (String::new(), String::new());
        until(format_args!("{what}: {wanted:?}"), SOON, || {
            seen = (last(&claims), last(&granted));
            (seen.0 == wanted.0 && seen.1 == wanted.1).then_some(())
        });
    };
    both("no policy", ("200", "200"));
    mesh.apply("cleared.yaml", &policy("ALLOW", "values"));
    both("allowed by label", ("403", "200"));
    mesh.apply("cleared.yaml", &policy("ALLOW", "notValues"));
    both("allowed unless labelled", ("403", "403"));
    mesh.apply("cleared.yaml", &policy("DENY", "notValues"));
    both("denied unless labelled", ("403", "200"));
    mesh.ok(["token", "revoke", &id]);
    both("after the token was revoked", ("403", "403"));
    mesh.ok(["delete", "AuthorizationPolicy", "cleared"]);
    both("no policy again", ("200", "200"));
}

/// What a WorkloadEntry says of who has its service account at its address counts as granted, though no token says it.
/// The twins: an entry of another address, one of another account, and none.
#[test]
fn a_workload_entry_grants_its_labels_to_who_is_there() {
    let mesh = Mesh::up();
    let _vault = mesh.serve("vault", "v1");
    let script = "while :; do curl -s -m 5 -o /dev/null -w '%{http_code}\\n' http://vault/; sleep 0.05; done";
    let of = ("default", "clerk", &[][..]);
    let (_, clerk) = by_token(&mesh, "clerk", of, &[], &["sh", "-c", script]);
    let becomes = |what: &str, wanted: &str| {
        until(format_args!("{what}: {wanted}"), SOON, || {
            let out = clerk.out();
            (out.lines().last() == Some(wanted)).then_some(())
        });
    };
    becomes("no policy", "200");
    mesh.apply(
        "cleared.yaml",
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: cleared, namespace: default}\nspec:\n  selector: {matchLabels: {app: vault}}\n  rules: [{when: [{key: 'source.labels[security-clearance]', values: [level-4]}]}]\n",
    );
    becomes("no entry", "403");
    let entry = |address: &str, account: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: desk, namespace: default}}\nspec: {{address: {address}, serviceAccount: {account}, labels: {{security-clearance: level-4}}}}\n"
        )
    };
    for _ in 0..2 {
        mesh.apply("desk.yaml", &entry("127.0.0.1", "clerk"));
        becomes("an entry for its address", "200");
        mesh.apply("desk.yaml", &entry("192.0.2.7", "clerk"));
        becomes("an entry for another address", "403");
        mesh.apply("desk.yaml", &entry("127.0.0.1", "clerk"));
        becomes("an entry for its address again", "200");
        mesh.apply("desk.yaml", &entry("127.0.0.1", "teller"));
        becomes("an entry for another account", "403");
    }
    mesh.apply("desk.yaml", &entry("127.0.0.1", "clerk"));
    becomes("an entry once more", "200");
    mesh.ok(["delete", "WorkloadEntry", "desk"]);
    becomes("the entry is gone", "403");
}

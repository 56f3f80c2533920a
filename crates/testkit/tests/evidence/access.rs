//! AuthorizationPolicy: who may call what, at a Naka sidecar and at an Envoy, counted by the called programs.

mod external;
pub(crate) mod seeds;
mod spread;
mod told;
mod tricks;

use crate::envoy;
use naka_testkit::mesh::{Mesh, SOON};
use naka_testkit::wait::until;
use std::collections::BTreeMap;

const POLICIES: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: never, namespace: default}
spec:
  action: DENY
  rules:
  - to: [{operation: {paths: [/admin*], notMethods: [HEAD]}}]
  - when: [{key: 'request.headers[x-evil]', values: ['*']}]
  - from: [{source: {namespaces: [shop], notServiceAccounts: [shop/cart]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: may, namespace: default}
spec:
  rules:
  - from: [{source: {principals: [cluster.local/ns/default/sa/order]}}]
    to:
    - {operation: {methods: [GET, POST], paths: [/pay/*, '/item/{*}/status', '*.json'], notPaths: [/pay/secret]}}
    - {operation: {hosts: ['*.default.svc.cluster.local'], paths: ['/deep/{**}']}}
  - from: [{source: {namespaces: [sho*]}}]
    to: [{operation: {paths: [/pay/shop]}}]
    when:
    - {key: 'request.headers[x-tier]', values: [gold, plat*]}
    - {key: 'request.headers[x-test]', notValues: ['*']}
  - to: [{operation: {paths: [/public]}}]
  - from: [{source: {principals: ['*'], notNamespaces: [shop]}}]
    to: [{operation: {paths: [/any], notPorts: ['1']}}]
  - to: [{operation: {paths: [/never], ports: ['1']}}]
  - from: [{source: {requestPrincipals: ['*']}}]
  - from: [{source: {notRequestPrincipals: ['*']}}]
  - when: [{key: 'source.labels[team]', notValues: [nobody]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: elsewhere, namespace: default}
spec:
  selector: {matchLabels: {app: nobody}}
  action: DENY
  rules: [{}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: tried, namespace: default, annotations: {istio.io/dry-run: 'true'}}
spec: {action: DENY, rules: [{}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: mesh-wide, namespace: istio-system}
spec:
  action: DENY
  rules: [{to: [{operation: {methods: [TRACE, DELETE]}}]}]
";

/// Who asks, how (words of curl, HOST for the service), and whether it may.
const ROWS: &[(&str, &str, bool)] = &[
    ("order", "http://HOST/pay/1", true),
    ("order", "http://HOST/pay/", true),
    ("order", "http://HOST/pay", false),
    ("order", "http://HOST/payments", false),
    ("order", "http://HOST/pay/secret", false),
    ("order", "http://HOST/pay/secret?x=1", false),
    ("order", "--path-as-is http://HOST/x/../pay/secret", false),
    ("order", "http://HOST/pay/secret/", true),
    ("order", "-X POST http://HOST/pay/1", true),
    ("order", "-X PUT http://HOST/pay/1", false),
    ("order", "-X DELETE http://HOST/pay/1", false),
    ("order", "http://HOST/item/7/status", true),
    ("order", "http://HOST/item/7/8/status", false),
    ("order", "http://HOST/item//status", false),
    ("order", "http://HOST/a/b.json", true),
    ("order", "http://HOST/a/b.json.exe", false),
    (
        "order",
        "http://HOST.default.svc.cluster.local/deep/a/b",
        true,
    ),
    ("order", "http://HOST/deep/a/b", false),
    ("order", "-H x-evil:1 http://HOST/pay/1", false),
    ("order", "http://HOST/admin", false),
    ("order", "-I http://HOST/admin", false),
    ("order", "http://HOST/never", false),
    ("order", "http://HOST/any", true),
    ("order", "http://HOST/public", true),
    ("order", "-X DELETE http://HOST/public", false),
    ("user", "http://HOST/pay/1", false),
    ("user", "http://HOST/any", true),
    ("user", "http://HOST/public", true),
    ("user", "-H x-evil: http://HOST/public", true),
    ("user", "http://HOST/public/x", false),
    ("user", "http://HOST/", false),
    ("cart", "-H x-tier:gold http://HOST.default/pay/shop", true),
    (
        "cart",
        "-H x-tier:platinum http://HOST.default/pay/shop",
        true,
    ),
    (
        "cart",
        "-H x-tier:silver http://HOST.default/pay/shop",
        false,
    ),
    ("cart", "http://HOST.default/pay/shop", false),
    (
        "cart",
        "-H x-tier:gold -H x-test:1 http://HOST.default/pay/shop",
        false,
    ),
    ("cart", "-H x-tier:gold http://HOST.default/pay/1", false),
    ("cart", "http://HOST.default/any", false),
    ("cart", "http://HOST.default/public", true),
    ("thief", "http://HOST.default/public", false),
    (
        "thief",
        "-H x-tier:gold http://HOST.default/pay/shop",
        false,
    ),
];

/// Answers of all rows of a service, asked by one program for each caller.
fn answers(mesh: &Mesh, service: &str) -> Vec<u16> {
    let mut by_caller: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, (caller, ..)) in ROWS.iter().enumerate() {
        by_caller.entry(caller).or_default().push(index);
    }
    let mut all = vec![0; ROWS.len()];
    for (caller, rows) in by_caller {
        let calls = rows.iter().map(|index| {
            let words = ROWS[*index].1.replace("HOST", service);
            format!(
                "curl -s -m 20 -o /dev/null -H x-row:{index} -w '{index} %{{http_code}}\\n' {words}"
            )
        });
        let script = calls.collect::<Vec<_>>().join("\n");
        let namespace = if matches!(caller, "cart" | "thief") {
            "shop"
        } else {
            "default"
        };
        let options = ["-n", namespace, "-s", caller];
        let name = format!("{caller}-{service}-{}", mesh.logged(service).len());
        let mut run = mesh.run(&name, &options, &["sh", "-c", &script]);
        crate::traffic::finish(&mut run);
        for line in run.out().lines() {
            let (index, status) = line.split_once(' ').expect("a row and its status");
            let index: usize = index.parse().expect("a row");
            all[index] = status.parse().expect("a status");
        }
    }
    all
}

/// Rows that got to the program since `seen` lines of its log.
fn arrived(mesh: &Mesh, server: &str, seen: usize) -> Vec<usize> {
    let lines = mesh.logged(server).split_off(seen);
    let row = |line: &serde_json::Value| {
        let headers = line["headers"].as_array()?;
        let own = headers.iter().find(|pair| pair[0] == "x-row")?;
        own[1].as_str()?.parse().ok()
    };
    let mut rows: Vec<usize> = lines.iter().filter_map(row).collect();
    rows.sort_unstable();
    rows
}

/// Each row gets what the policies say, at a Naka and at an Envoy alike, and what is denied never reaches the program.
/// The twin: without the policies every row does.
#[test]
fn policies_hold_at_a_naka_and_at_an_envoy() {
    let mesh = Mesh::up();
    let _payment = mesh.serve("payment", "v1");
    let _ledger = envoy::serve(&mesh, "ledger", "v1");
    let policies = mesh.file("policies.yaml", POLICIES);
    let mut right = 0;
    for policed in [true, false] {
        if policed {
            mesh.ok(["apply", "-f", policies.to_str().expect("printable")]);
        } else {
            mesh.ok(["delete", "-f", policies.to_str().expect("printable")]);
        }
        for service in ["payment", "ledger"] {
            let server = format!("{service}-v1");
            // The caller of nothing is denied once the policies hold, and only then.
            until(
                format_args!("policies at {service}: {policed}"),
                SOON,
                || {
                    let mut run = mesh.run(
                        &format!("probe-{service}"),
                        &["-s", "probe"],
                        &[
                            "curl",
                            "-s",
                            "-o",
                            "/dev/null",
                            "-w",
                            "%{http_code}",
                            &format!("http://{service}/no"),
                        ],
                    );
                    crate::traffic::finish(&mut run);
                    run.out()
                        .ends_with(if policed { "403" } else { "200" })
                        .then_some(())
                },
            );
            let seen = mesh.logged(&server).len();
            let got = answers(&mesh, service);
            let mut expected = Vec::new();
            for (index, (caller, call, may)) in ROWS.iter().enumerate() {
                let status = if *may || !policed { 200 } else { 403 };
                assert_eq!(got[index], status, "{service}: {caller}: {call}");
                if status == 200 {
                    expected.push(index);
                }
                right += 1;
            }
            assert_eq!(arrived(&mesh, &server, seen), expected, "{service}");
        }
    }
    println!("{right} of {right} answers as the policies say, and without them");
}

/// `naka explain --from NS/SA --to SVC` gives for each row the answer that the call gets, and names the rule that
/// refuses. The twin: without the policies it refuses nobody.
#[test]
fn explain_decides_routing_and_policy_in_one_answer() {
    let mesh = Mesh::up();
    let _payment = mesh.serve("payment", "v1");
    let policies = mesh.file("policies.yaml", POLICIES);
    let policies = policies.to_str().expect("printable");
    let explain = |caller: &str, call: &str| {
        let namespace = if matches!(caller, "cart" | "thief") {
            "shop"
        } else {
            "default"
        };
        let mut args = vec!["explain".to_owned(), "--from".to_owned()];
        args.push(format!("{namespace}/{caller}"));
        let mut method = "GET";
        let mut words = call.split(' ');
        while let Some(word) = words.next() {
            match word {
                "-I" => method = "HEAD",
                "-X" => method = words.next().expect("a method"),
                "-H" => args.extend(["-H".to_owned(), words.next().expect("a header").to_owned()]),
                url => {
                    let rest = url.strip_prefix("http://").expect("a URL");
                    let (host, path) = rest.split_once('/').expect("a path");
                    args.extend(["--to".to_owned(), host.replace("HOST", "payment")]);
                    args.push(format!("{method} /{path}"));
                }
            }
        }
        let said = mesh.naka(&args);
        String::from_utf8_lossy(&said.stdout).into_owned()
    };
    // What curl alone understands: a path as it stands, a header taken out.
    let rows = ROWS
        .iter()
        .filter(|(_, call, _)| !call.contains("--path-as-is") && !call.contains(": "));
    let mut asked = 0;
    for policed in [true, false] {
        let verb = if policed { "apply" } else { "delete" };
        mesh.ok([verb, "-f", policies]);
        for (caller, call, may) in rows.clone() {
            let said = explain(caller, call);
            let verdict = said.lines().last().unwrap_or_default();
            let refused = verdict.starts_with("=> 403 permission-denied");
            assert_eq!(refused, policed && !*may, "{caller}: {call}\n{said}");
            assert!(verdict.contains("outbound|80||payment"), "{said}");
            assert_eq!(verdict.contains("(rule: "), refused, "{said}");
            asked += 1;
        }
    }
    println!("{asked} answers of explain as the calls get them");
}

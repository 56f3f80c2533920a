//! Aliases of the trust domain: what a workload with an old name may, as caller and as called, beside a Naka and beside an
//! Envoy. The old certificates are made by openssl with the mesh's own intermediate.

use super::address;
use crate::envoy;
use naka_testkit::mesh::{Mesh, SOON};
use naka_testkit::program::free_port;
use naka_testkit::wait::until;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Who calls at the Naka and at the Envoy: trust domain, service account, and what they get without and with the alias.
const CALLERS: [(&str, &str, &str, &str); 5] = [
    ("new-td", "order", "200", "200"),
    ("old-td", "order", "none", "200"),
    ("old-td", "thief", "none", "403"),
    ("other-td", "order", "none", "none"),
    ("old-td.evil", "order", "none", "none"),
];

/// An intermediate whose key the test has, as an import for a mesh.
fn authority(tool: &Mesh, home: &Path) -> PathBuf {
    let path = |name: &str| home.join(name).display().to_string();
    let domain = ["--trust-domain", "new-td"];
    let create = ["ca", "root", "create", &path("safe")];
    tool.ok([&create[..], &domain].concat());
    let request = ["ca", "intermediate", "request", "--out", &path("prepared")];
    let request = tool.ok([&request[..], &domain].concat());
    let request = tool.file("request.pem", &request).display().to_string();
    let signed = tool.ok([
        "ca",
        "intermediate",
        "sign",
        &request,
        "--root",
        &path("safe"),
    ]);
    std::fs::write(path("prepared/ca-cert.pem"), signed).expect("write");
    std::fs::copy(path("safe/root-cert.pem"), path("prepared/root-cert.pem")).expect("copy");
    home.join("prepared")
}

/// A certificate of that identity with its chain; `NAME.pem` and `NAME.key`.
fn certificate(prepared: &Path, name: &str, identity: &str) -> (String, String) {
    let at = |end: &str| prepared.join(format!("{name}.{end}")).display().to_string();
    let extensions = format!(
        "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\nsubjectAltName=URI:{identity}\n"
    );
    std::fs::write(at("ext"), extensions).expect("write");
    let ca = |file: &str| prepared.join(file).display().to_string();
    let script = format!(
        "openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=old -keyout {key} -out {csr} && \
         openssl x509 -req -in {csr} -CA {signer} -CAkey {signing} -CAcreateserial -days 1 -extfile {ext} -out {leaf} && \
         cat {leaf} {signer} > {pem}",
        key = at("key"),
        csr = at("csr"),
        signer = ca("ca-cert.pem"),
        signing = ca("ca-key.pem"),
        ext = at("ext"),
        leaf = at("leaf"),
        pem = at("pem"),
    );
    let made = Command::new("sh")
        .args(["-c", &script])
        .output()
        .expect("openssl");
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    (at("pem"), at("key"))
}

/// What a caller with a certificate gets at an address: a status, or `none`.
fn answer(address: &str, (pem, key): &(String, String)) -> String {
    let url = format!("https://{address}/");
    let out = Command::new("curl")
        .args([
            "-s",
            "--http1.1",
            "-k",
            "-m",
            "10",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
        ])
        .args(["-H", "host: payment", "--cert", pem, "--key", key, &url])
        .output()
        .expect("curl");
    let status = String::from_utf8_lossy(&out.stdout).into_owned();
    match status.as_str() {
        "000" => "none".to_owned(),
        _ => status,
    }
}

fn mesh_config(aliases: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n    trustDomainAliases: {aliases}\n"
    )
}

/// Principals hold under each name of the trust domain, and no other name counts. The twin: without the alias the old
/// name is nobody. A clash (the trust domain itself, a name twice) is told and changes nothing.
#[test]
fn workloads_of_an_old_trust_domain_are_who_they_were() {
    let home = tempfile::tempdir().expect("a directory");
    let tool = Mesh::down_with(&[]);
    let prepared = authority(&tool, home.path());
    let from = prepared.display().to_string();
    let mesh = Mesh::up_with(&["--ca", &from, "--trust-domain", "new-td"]);
    let callers = CALLERS.map(|(domain, account, ..)| {
        let identity = format!("spiffe://{domain}/ns/default/sa/{account}");
        certificate(&prepared, &format!("{domain}-{account}"), &identity)
    });
    let _servers = [
        mesh.serve("payment", "v1"),
        envoy::serve(&mesh, "till", "v1"),
    ];
    let at = [address(&mesh, "payment"), address(&mesh, "till")];
    mesh.apply(
        "rule.yaml",
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: order}\nspec: {rules: [{from: [{source: {principals: [new-td/ns/default/sa/order]}}]}]}\n",
    );
    let table = |aliased: bool| {
        for address in &at {
            for ((domain, account, without, with), held) in CALLERS.iter().zip(&callers) {
                let wanted = if aliased { with } else { without };
                until(
                    format_args!(
                        "{wanted} for {domain}/{account} at {address}: {}",
                        answer(address, held)
                    ),
                    SOON,
                    || (answer(address, held) == **wanted).then_some(()),
                );
            }
        }
    };
    table(false);
    mesh.apply("mesh.yaml", &mesh_config("[old-td]"));
    table(true);
    // A clash: nothing more is believed, nothing less, and it is told.
    mesh.apply("mesh.yaml", &mesh_config("[new-td, old-td, old-td]"));
    table(true);
    let status = mesh.ok(["status"]);
    assert!(status.contains("L383"), "{status}");
    called(&mesh, &prepared);
    mesh.apply("mesh.yaml", &mesh_config("[]"));
    table(false);
}

/// A server that shows the old name is called by a Naka and by an Envoy. The twin: one of another name is not.
fn called(mesh: &Mesh, prepared: &Path) {
    let mut objects = String::new();
    let mut servers = Vec::new();
    for domain in ["old-td", "other-td"] {
        let name = format!("{domain}-ledger");
        let (pem, key) = certificate(
            prepared,
            &name,
            &format!("spiffe://{domain}/ns/default/sa/ledger"),
        );
        let port = free_port();
        let server = Command::new("openssl")
            .args(["s_server", "-www", "-quiet", "-tls1_3", "-cert_chain"])
            .arg(prepared.join("ca-cert.pem"))
            .args([
                "-cert",
                &pem,
                "-key",
                &key,
                "-accept",
                &format!("127.0.0.1:{port}"),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl");
        servers.push(server);
        until("openssl listens", SOON, || {
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        objects.push_str(&format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{selector: {{app: {name}}}, ports: [{{name: http, port: 80, targetPort: {port}}}]}}\n---\n\
             apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: {name}}}\nspec: {{address: 127.0.0.1, labels: {{app: {name}}}, serviceAccount: ledger}}\n---\n"
        ));
    }
    mesh.apply("ledger.yaml", &objects);
    let calls = "for url in http://old-td-ledger/ http://other-td-ledger/; do curl -s -m 10 -o /dev/null -w '%{http_code}\\n' $url; done";
    for proxy in ["naka", "envoy"] {
        let options = ["--proxy", proxy, "-s", "order"];
        let mut run = envoy::run(
            mesh,
            &format!("caller-{proxy}"),
            &options,
            &["sh", "-c", calls],
        );
        crate::traffic::finish(&mut run);
        assert_eq!(run.out(), "200\n503\n", "{proxy}: {}", run.said());
    }
    for mut server in servers {
        let _ = server.kill();
        let _ = server.wait();
    }
}

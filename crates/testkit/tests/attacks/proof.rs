//! Who wants more than a proof gives: a certificate for more than the token says, by a request that is forged, somebody
//! else's, or asks to be an authority; a token in two hands (rows of none); configuration, objects and sockets of others
//! (row 35); and keys of tokens fetched from an address of nobody (27).
//!
//! Landed when the certificate, the configuration or the answer comes. Without the guard: an authority that believes what
//! a request says, a token for two, the caller's own things, an address that is allowed.

use crate::ground::{Ground, Side};
use crate::{Attack, Outcome, outcome};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use naka_identity::{KeyAndCsr, tls};
use naka_proxy::certify::Asker;
use naka_proxy::control_client::{self, Link};
use naka_proxy::settings::Settings;
use naka_testkit::mesh::SOON;
use naka_testkit::wait::until;
use naka_types::token::Token;
use naka_wire::envoy::envoy::config::core::v3::Node;
use naka_wire::envoy::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
};
use naka_wire::istio_ca::IstioCertificateRequest;
use naka_wire::istio_ca::istio_certificate_service_client::IstioCertificateServiceClient;
use naka_wire::{type_url, values};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use tokio_stream::wrappers::ReceiverStream;

const fn attack(row: u8, name: &'static str, run: fn(&Ground, Side) -> Outcome) -> Attack {
    Attack { row, name, run }
}

pub(crate) const ATTACKS: &[Attack] = &[
    attack(
        0,
        "a signing request that wants to be an authority",
        authority,
    ),
    attack(0, "a signing request that names somebody else", names),
    attack(0, "a signing request whose signature is forged", forged),
    attack(0, "a signing request that was somebody else's", replayed),
    attack(0, "a token in the hands of another host", theft),
    attack(35, "configuration without a proof", nobody),
    attack(35, "configuration of somebody else", foreign),
    attack(35, "keys of somebody else", keys),
    attack(35, "objects without a token", api),
    attack(35, "local sockets of another user", sockets),
    attack(27, "keys of tokens from an address of nobody", jwks),
];

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().expect("a runtime")
}

fn token(ground: &Ground, account: &str, uses: &str) -> Token {
    let text = ground.mesh.ok([
        "token",
        "create",
        "--service-account",
        account,
        "--uses",
        uses,
    ]);
    Token::parse(text.trim()).expect("a token")
}

async fn dial(token: &Token) -> Link {
    let config = tls::token_client_config(&token.ca_sha256, &[b"h2"]).expect("a configuration");
    let address = token.addresses.first().expect("an address");
    control_client::dial(address, config)
        .await
        .expect("a connection")
}

/// The certificate (PEM) that a request gets, or the words of the refusal.
fn certify(token: &Token, bearer: bool, account: &str, csr: &str) -> Result<String, String> {
    runtime().block_on(async {
        let mut request = tonic::Request::new(IstioCertificateRequest {
            csr: csr.to_owned(),
            metadata: Some(values::fields([
                ("namespace", values::string("default")),
                ("service_account", values::string(account)),
            ])),
            ..IstioCertificateRequest::default()
        });
        if bearer {
            let value = format!("Bearer {}", token.reveal());
            request
                .metadata_mut()
                .insert("authorization", value.parse().expect("ASCII"));
        }
        let mut stub = IstioCertificateServiceClient::new(dial(token).await);
        let answer = stub.create_certificate(request).await;
        let answer = answer.map_err(|status| status.message().to_owned())?;
        Ok(answer
            .into_inner()
            .cert_chain
            .first()
            .cloned()
            .unwrap_or_default())
    })
}

/// A request as openssl makes it, with extensions.
fn request(ground: &Ground, name: &str, subject: &str, extensions: &[&str]) -> (PathBuf, String) {
    let (csr, key) = (
        ground.forge.file(&format!("{name}.csr")),
        ground.forge.file(&format!("{name}.key")),
    );
    let mut command = Command::new("openssl");
    command.args([
        "req",
        "-new",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ]);
    command
        .args(["-subj", subject])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&csr);
    for extension in extensions {
        command.args(["-addext", extension]);
    }
    let output = command.output().expect("openssl");
    assert!(output.status.success(), "{output:?}");
    let text = std::fs::read_to_string(&csr).expect("a request");
    (csr, text)
}

/// What an authority makes that copies whatever a request asks for.
fn copied(ground: &Ground, csr: &Path) -> String {
    let output = Command::new("openssl")
        .args([
            "x509",
            "-req",
            "-copy_extensions",
            "copyall",
            "-days",
            "1",
            "-CAcreateserial",
            "-in",
        ])
        .arg(csr)
        .arg("-CA")
        .arg(ground.forge.file("ca-cert.pem"))
        .arg("-CAkey")
        .arg(ground.forge.file("ca-key.pem"))
        .output()
        .expect("openssl");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A certificate as openssl reads it.
fn read(ground: &Ground, pem: &str) -> String {
    let file = ground.forge.file("read.pem");
    std::fs::write(&file, pem).expect("write");
    let output = Command::new("openssl")
        .args(["x509", "-noout", "-text", "-in"])
        .arg(&file)
        .output();
    String::from_utf8_lossy(&output.expect("openssl").stdout).into_owned()
}

/// The certificate that came of a request, as text; the token is good.
fn issued(ground: &Ground, side: Side, csr: &Path, text: &str) -> String {
    let pem = match side {
        Side::Naka => certify(&token(ground, "clerk", "1"), true, "clerk", text),
        Side::Open => Ok(copied(ground, csr)),
    };
    read(
        ground,
        &pem.expect("a certificate for the token's identity"),
    )
}

fn authority(ground: &Ground, side: Side) -> Outcome {
    let (csr, text) = request(
        ground,
        "authority",
        "/CN=clerk",
        &[
            "basicConstraints=critical,CA:TRUE,pathlen:3",
            "keyUsage=critical,keyCertSign,cRLSign,digitalSignature",
        ],
    );
    let seen = issued(ground, side, &csr, &text);
    let landed = seen.contains("CA:TRUE") || seen.contains("Certificate Sign");
    outcome(landed, format!("a certificate, an authority: {landed}"))
}

fn names(ground: &Ground, side: Side) -> Outcome {
    let (csr, text) = request(
        ground,
        "names",
        "/CN=01ARZ3NDEKTSV4RRFFQ69G5FAV/O=admin",
        &[
            "subjectAltName=URI:spiffe://cluster.local/ns/istio-system/sa/admin,DNS:naka-control,IP:127.0.0.1",
            "extendedKeyUsage=codeSigning",
        ],
    );
    let seen = issued(ground, side, &csr, &text);
    let wrong = [
        "sa/admin",
        "naka-control",
        "127.0.0.1",
        "01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "Code Signing",
    ];
    let taken: Vec<&str> = wrong
        .into_iter()
        .filter(|word| seen.contains(word))
        .collect();
    let own = side == Side::Open || seen.contains("spiffe://cluster.local/ns/default/sa/clerk");
    assert!(own, "{seen}");
    outcome(
        !taken.is_empty(),
        format!("taken from the request: {taken:?}"),
    )
}

/// Its last byte, which is of the signature, is another.
fn forged(ground: &Ground, side: Side) -> Outcome {
    let (_, text) = request(ground, "forged", "/CN=clerk", &[]);
    let body: String = text.lines().filter(|line| !line.starts_with('-')).collect();
    let mut der = STANDARD.decode(body).expect("base64");
    *der.last_mut().expect("bytes") ^= 1;
    let text = format!(
        "-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n",
        STANDARD.encode(&der)
    );
    let answer = match side {
        Side::Naka => certify(&token(ground, "clerk", "1"), true, "clerk", &text),
        // An authority that reads the key and asks for no proof of having its other half.
        Side::Open => {
            let key = Command::new("openssl")
                .args(["req", "-noout", "-pubkey", "-in"])
                .arg(ground.forge.file("forged.csr"))
                .output();
            Ok(String::from_utf8_lossy(&key.expect("openssl").stdout).into_owned())
        }
    };
    outcome(
        answer.is_ok(),
        answer.err().unwrap_or_else(|| "a certificate".to_owned()),
    )
}

/// Seen on its way, and sent again without a proof and with a proof of somebody else.
fn replayed(ground: &Ground, side: Side) -> Outcome {
    let subject = "subjectAltName=URI:spiffe://cluster.local/ns/default/sa/teller";
    let (csr, text) = request(ground, "replayed", "/CN=teller", &[subject]);
    let teller = token(ground, "teller", "1");
    certify(&teller, true, "teller", &text).expect("the teller's own");
    if side == Side::Open {
        let seen = read(ground, &copied(ground, &csr));
        return outcome(seen.contains("sa/teller"), "a certificate of the teller");
    }
    let thief = token(ground, "thief", "9");
    let tries = [
        ("no proof", certify(&thief, false, "teller", &text)),
        ("the used token", certify(&teller, true, "teller", &text)),
        ("a thief's token", certify(&thief, true, "teller", &text)),
        (
            "a thief's token for the thief",
            certify(&thief, true, "thief", &text),
        ),
    ];
    let mut landed = Vec::new();
    for (name, answer) in &tries {
        if let Ok(pem) = answer
            && read(ground, pem).contains("sa/teller")
        {
            landed.push(*name);
        }
    }
    let words: Vec<String> = tries
        .iter()
        .filter_map(|(_, answer)| answer.as_ref().err().cloned())
        .collect();
    outcome(
        !landed.is_empty(),
        format!("as the teller by {landed:?}; {words:?}"),
    )
}

fn theft(ground: &Ground, side: Side) -> Outcome {
    let uses = if side == Side::Naka { "1" } else { "2" };
    let token = token(ground, "courier", uses);
    let csr = |_| KeyAndCsr::generate().expect("a key").csr_pem().to_owned();
    let [own, other] = [0, 1].map(csr);
    certify(&token, true, "courier", &own).expect("its owner's use");
    let answer = certify(&token, true, "courier", &other);
    outcome(
        answer.is_ok(),
        answer
            .err()
            .unwrap_or_else(|| "a second certificate".to_owned()),
    )
}

/// Resources that somebody is sent who says to be this node.
fn sent(
    token: &Token,
    account: Option<&str>,
    node: impl FnOnce(&str) -> Node,
    wanted: (&str, &[&str]),
) -> Result<Vec<Vec<u8>>, String> {
    let ask = |type_url: &str, names: &[&str]| DeltaDiscoveryRequest {
        type_url: type_url.to_owned(),
        resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
        ..DeltaDiscoveryRequest::default()
    };
    runtime().block_on(async {
        let link = dial(token).await;
        let mut id = String::new();
        if let Some(account) = account {
            let settings = settings(account);
            let mut asker = Asker::new(Arc::new(settings));
            let made = asker.ask(&link, Some(token)).await;
            id = made
                .map_err(|error| error.to_string())?
                .svid
                .workload_id
                .to_string();
        }
        let (requests, queue) = tokio::sync::mpsc::channel(16);
        let first = DeltaDiscoveryRequest {
            node: Some(node(&id)),
            ..ask(type_url::CLUSTER, &["*"])
        };
        let rest = [
            (type_url::ENDPOINT, &[][..]),
            (type_url::LISTENER, &["*"]),
            (type_url::VIRTUAL_HOST, &[]),
            wanted,
        ];
        let rest = rest.map(|(type_url, names)| ask(type_url, names));
        for request in std::iter::once(first).chain(rest) {
            let _ = requests.send(request).await;
        }
        let mut client = AggregatedDiscoveryServiceClient::new(link);
        let stream = client
            .delta_aggregated_resources(ReceiverStream::new(queue))
            .await;
        let mut stream = stream
            .map_err(|status| status.message().to_owned())?
            .into_inner();
        let mut all = Vec::new();
        loop {
            match tokio::time::timeout(Duration::from_secs(2), stream.message()).await {
                Ok(Ok(Some(response))) => {
                    let done = response.type_url == wanted.0;
                    let bodies = response
                        .resources
                        .into_iter()
                        .filter_map(|one| one.resource);
                    all.extend(bodies.map(|body| body.value));
                    if done {
                        return Ok(all);
                    }
                }
                Ok(Ok(None)) => return Err("the stream ended".to_owned()),
                Ok(Err(status)) => return Err(status.message().to_owned()),
                Err(_) if all.is_empty() => return Err("nothing came".to_owned()),
                Err(_) => return Ok(all),
            }
        }
    })
}

fn settings(account: &str) -> Settings {
    let mut settings = Settings::new(PathBuf::new(), account, &format!("{account}-7"));
    settings.save_identity = false;
    settings
}

/// What came, as an outcome.
fn told(answer: Result<Vec<Vec<u8>>, String>) -> Outcome {
    match answer {
        Ok(all) => outcome(!all.is_empty(), format!("{} resources", all.len())),
        Err(words) => outcome(false, words),
    }
}

const LISTENERS: (&str, &[&str]) = (type_url::LISTENER, &["*"]);

fn nobody(ground: &Ground, side: Side) -> Outcome {
    let token = token(ground, "clerk", "1");
    let account = (side == Side::Open).then_some("clerk");
    told(sent(
        &token,
        account,
        |id| control_client::node(&settings("clerk"), id),
        LISTENERS,
    ))
}

fn foreign(ground: &Ground, side: Side) -> Outcome {
    let all = ground.mesh.workloads();
    let web = all
        .iter()
        .find(|one| one["service"] == "web")
        .expect("a workload");
    let web = web["workload_id"].as_str().expect("an id").to_owned();
    let ways: [(&str, &str); 3] = [("web", &web), ("web", ""), ("clerk", &web)];
    let token = token(ground, "clerk", "9");
    if side == Side::Open {
        return told(sent(
            &token,
            Some("clerk"),
            |id| control_client::node(&settings("clerk"), id),
            LISTENERS,
        ));
    }
    let mut seen = Vec::new();
    let mut landed = false;
    for (account, said) in ways {
        let node = |id: &str| {
            let id = if said.is_empty() { id } else { said };
            control_client::node(&settings(account), id)
        };
        let one = told(sent(&token, Some("clerk"), node, LISTENERS));
        landed |= one.landed;
        seen.push(one.seen);
    }
    outcome(landed, format!("{seen:?}"))
}

fn keys(ground: &Ground, side: Side) -> Outcome {
    let token = token(ground, "clerk", "1");
    let foreign: &[&str] = &[
        "secure",
        "kubernetes://secure",
        "kubernetes://istio-system/secure",
        "kubernetes-gateway://istio-system/secure",
        "default",
        "file-cert:/etc/passwd",
        "file-root:/etc/passwd",
    ];
    let wanted = if side == Side::Naka {
        foreign
    } else {
        &["ROOTCA"][..]
    };
    let node = |id: &str| control_client::node(&settings("clerk"), id);
    let answer = sent(&token, Some("clerk"), node, (type_url::SECRET, wanted));
    let all = answer.expect("a stream of its own");
    let of = |word: &str| {
        let has = |body: &&Vec<u8>| String::from_utf8_lossy(body).contains(word);
        all.iter().filter(has).count()
    };
    // What everybody may have is the twin: the question is understood.
    let landed = of("PRIVATE KEY")
        + of("root:x:")
        + if side == Side::Open {
            of("BEGIN CERTIFICATE")
        } else {
            0
        };
    outcome(landed > 0, format!("{landed} of {} came", wanted.len()))
}

fn api(ground: &Ground, side: Side) -> Outcome {
    let text = std::fs::read_to_string(ground.mesh.home().join("config")).expect("a kubeconfig");
    let config: serde_json::Value = serde_saphyr::from_str(&text).expect("YAML");
    let word = |at: &str| {
        config
            .pointer(at)
            .and_then(|value| value.as_str())
            .unwrap_or_default()
            .to_owned()
    };
    let (server, good) = (
        word("/clusters/0/cluster/server"),
        word("/users/0/user/token"),
    );
    let paths = [
        "GET /api/v1/secrets",
        "GET /api/v1/namespaces/istio-system/secrets/secure",
        "GET /apis/networking.istio.io/v1/virtualservices",
        "GET /apis/security.istio.io/v1/namespaces/default/authorizationpolicies",
        "GET /apis/naka.dev/v1alpha1/events",
        "GET /apis/naka.dev/v1alpha1/proxies",
        "GET /apis/naka.dev/v1alpha1/certs",
        "DELETE /apis/security.istio.io/v1/namespaces/istio-system/peerauthentications/default",
        "GET /debug/configz",
        "GET /config_dump",
    ];
    let forged = format!("{}x", &good[..good.len().saturating_sub(1)]);
    let proofs = match side {
        Side::Naka => vec![
            String::new(),
            "Bearer x".to_owned(),
            format!("Bearer {forged}"),
            format!("Basic {}", STANDARD.encode("admin:admin")),
        ],
        Side::Open => vec![format!("Bearer {good}")],
    };
    let (mut statuses, mut landed) = (Vec::new(), 0);
    for call in paths {
        let (method, path) = call.split_once(' ').expect("a method");
        // The owner's own look changes nothing.
        if side == Side::Open && method != "GET" {
            continue;
        }
        for proof in &proofs {
            let mut command = Command::new("curl");
            command.args([
                "-sk",
                "-m",
                "10",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
                "-X",
                method,
            ]);
            if !proof.is_empty() {
                command.args(["-H", &format!("authorization: {proof}")]);
            }
            let output = command
                .arg(format!("{server}{path}"))
                .output()
                .expect("curl");
            let status = String::from_utf8_lossy(&output.stdout).into_owned();
            landed += usize::from(status.starts_with('2'));
            statuses.push(status);
        }
    }
    let count = statuses.len();
    statuses.sort_unstable();
    statuses.dedup();
    outcome(
        landed > 0,
        format!("{landed} of {count} answered, statuses {statuses:?}"),
    )
}

/// The directories above are open to everybody, so that what Naka made itself is what stands in the way.
fn sockets(ground: &Ground, side: Side) -> Outcome {
    use std::os::unix::fs::PermissionsExt as _;
    let home = ground.mesh.home();
    std::fs::set_permissions(home, std::fs::Permissions::from_mode(0o755)).expect("our own");
    let runs = std::fs::read_dir(home.join("run")).expect("run directories");
    let dirs: Vec<PathBuf> = runs.flatten().map(|entry| entry.path()).collect();
    let admin = dirs.iter().map(|dir| dir.join("admin.sock"));
    let sockets = admin
        .chain([home.join("mesh/local/control.sock")])
        .filter(|path| path.exists());
    let secrets = dirs
        .iter()
        .map(|dir| dir.join("identity.pem"))
        .filter(|path| path.exists());
    let ca = home.join("mesh/local/ca/intermediate.pem");
    let as_other = |words: &[&std::ffi::OsStr]| {
        let mut command = if side == Side::Naka && naka_testkit::user::root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=23456", "--regid=23456", "--clear-groups"]);
            command
        } else {
            Command::new("env")
        };
        command
            .args(words)
            .output()
            .is_ok_and(|output| output.status.success())
    };
    let (mut tried, mut landed) = (0, 0);
    for socket in sockets {
        tried += 1;
        let curl: [&std::ffi::OsStr; 7] = [
            "curl".as_ref(),
            "-s".as_ref(),
            "-m".as_ref(),
            "5".as_ref(),
            "--unix-socket".as_ref(),
            socket.as_ref(),
            "http://localhost/".as_ref(),
        ];
        landed += usize::from(as_other(&curl));
    }
    for file in secrets.chain([ca]) {
        tried += 1;
        landed += usize::from(as_other(&["cat".as_ref(), file.as_ref()]));
    }
    if side == Side::Naka && !naka_testkit::user::root() {
        // Nobody else to be: the modes are looked at instead.
        let open = |dir: &PathBuf| {
            std::fs::metadata(dir).is_ok_and(|it| it.permissions().mode() & 0o077 != 0)
        };
        landed = dirs.iter().filter(|dir| open(dir)).count();
    }
    outcome(
        landed > 0,
        format!("{landed} of {tried} sockets and keys reached"),
    )
}

/// An object that makes the control plane call an address.
fn jwks(ground: &Ground, side: Side) -> Outcome {
    let calls = Arc::new(AtomicUsize::new(0));
    let heard = Arc::clone(&calls);
    let here = crate::naive::listen(move |_| {
        heard.fetch_add(1, SeqCst);
    });
    let port = here.port();
    let addresses = match side {
        Side::Naka => vec![
            format!("http://127.0.0.1:{port}/keys"),
            format!("http://[::ffff:127.0.0.1]:{port}/keys"),
            format!("http://2130706433:{port}/keys"),
            format!("http://127.1:{port}/keys"),
            format!("http://localhost@127.0.0.1:{port}/keys"),
            format!("http://localhost.evil.example:{port}/keys"),
            "http://169.254.169.254/latest/meta-data/".to_owned(),
        ],
        Side::Open => vec![format!("http://localhost:{port}/keys")],
    };
    let objects = addresses.iter().enumerate().map(|(number, uri)| {
        format!(
            "---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: fetched-{number}}}\nspec:\n  selector: {{matchLabels: {{app: nobody}}}}\n  jwtRules: [{{issuer: 'https://x-{number}.example', jwksUri: '{uri}'}}]\n"
        )
    });
    let file = ground
        .mesh
        .file("fetched.yaml", &objects.collect::<String>());
    let file = file.to_str().expect("printable");
    let applied = ground.mesh.naka(["apply", "-f", file]);
    let said = String::from_utf8_lossy(&[applied.stdout, applied.stderr].concat()).into_owned();
    if side == Side::Open {
        until("a call for the keys", SOON, || {
            (calls.load(SeqCst) > 0).then_some(())
        });
    } else {
        // Fetching begins with the change; a finding says what became of each.
        until("what became of them", SOON, || {
            let output = ground.mesh.naka(["check", "-o", "json"]);
            let all = String::from_utf8_lossy(&output.stdout).into_owned() + &said;
            all.contains("jwks").then_some(())
        });
    }
    let landed = calls.load(SeqCst);
    for number in 0..addresses.len() {
        ground.mesh.naka([
            "delete",
            "RequestAuthentication",
            &format!("fetched-{number}"),
        ]);
    }
    outcome(
        landed > 0,
        format!("{landed} calls for {} addresses", addresses.len()),
    )
}

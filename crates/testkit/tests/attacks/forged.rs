//! Certificates that the mesh's own authority signed and that say too much, or the wrong thing (rows 28 and 29), and ways
//! around a handshake (row 30): at the port of a program for peers of the mesh, and at a caller.
//!
//! Landed when a request gets to the program. Each attack begins with a sound certificate of the same make, which gets in.
//! Without the guard: a server that believes every certificate, a caller told to expect the impostor, a certificate that
//! nobody revoked.

use crate::forge::{Forge, ORDER, Pair, called, lives, present, uri};
use crate::ground::{Ground, Side};
use crate::{Attack, Outcome, outcome};
use naka_testkit::mesh::SOON;
use naka_testkit::wait::until;
use rcgen::string::Ia5String;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, OtherNameValue, SanType};
use std::net::SocketAddr;
use std::process::Command;

const fn attack(row: u8, name: &'static str, run: fn(&Ground, Side) -> Outcome) -> Attack {
    Attack { row, name, run }
}

pub(crate) const ATTACKS: &[Attack] = &[
    attack(28, "a certificate with two identities", two),
    attack(28, "a certificate with NUL in its identity", nul),
    attack(
        28,
        "a certificate with an identity that is nearly one",
        nearly,
    ),
    attack(29, "a certificate whose time is over or not come", time),
    attack(29, "a certificate for another purpose", purpose),
    attack(29, "a certificate that somebody else signed", signer),
    attack(29, "a certificate with SHA-1 or a short key", weak),
    attack(29, "a stolen certificate that was revoked", revoked),
    attack(30, "plain requests to a port for the mesh", plain),
    attack(30, "an older TLS", older),
    attack(30, "a server with somebody else's certificate", impostor),
    attack(30, "a session from before the revocation", resumed),
];

/// Where the mesh's peers come in, once a sound certificate did.
fn door(ground: &Ground, side: Side) -> SocketAddr {
    let address = match side {
        Side::Naka => ground.inbound,
        Side::Open => {
            let own = ground.forge.signed("believing", |_| {});
            crate::forge::believing(&own, ground.program.address)
        }
    };
    let sound = ground.forge.signed("sound", |_| {});
    let said = present(address, Some(&sound), &[], "/sound");
    assert!(ground.program.saw("/sound"), "a sound certificate: {said}");
    address
}

/// Shows some certificates; those that got in.
pub(crate) fn shown(ground: &Ground, side: Side, pairs: &[(&str, Pair)]) -> Outcome {
    let address = door(ground, side);
    let mut let_in = Vec::new();
    // Where everything is believed a few tell.
    let tried = if side == Side::Naka {
        pairs.len()
    } else {
        pairs.len().min(6)
    };
    for (index, (name, pair)) in pairs[..tried].iter().enumerate() {
        let target = format!("/forged/{index}/");
        present(address, Some(pair), &[], &target);
        if ground.program.saw(&target) {
            let_in.push(*name);
        }
    }
    outcome(
        !let_in.is_empty(),
        format!("{} of {tried} got in {let_in:?}", let_in.len()),
    )
}

fn named(forge: &Forge, name: &'static str, names: Vec<SanType>) -> (&'static str, Pair) {
    (name, forge.signed(name, |p| p.subject_alt_names = names))
}

fn two(ground: &Ground, side: Side) -> Outcome {
    let other = "spiffe://cluster.local/ns/default/sa/admin";
    let web = "https://order.example";
    let forge = &ground.forge;
    let pairs = [
        named(forge, "another behind", vec![uri(ORDER), uri(other)]),
        named(forge, "another before", vec![uri(other), uri(ORDER)]),
        named(forge, "twice the same", vec![uri(ORDER), uri(ORDER)]),
        named(forge, "an address behind", vec![uri(ORDER), uri(web)]),
        named(forge, "an address before", vec![uri(web), uri(ORDER)]),
    ];
    shown(ground, side, &pairs)
}

fn nul(ground: &Ground, side: Side) -> Outcome {
    let text = |text: &str| vec![SanType::URI(Ia5String::try_from(text).expect("ASCII"))];
    let forge = &ground.forge;
    let pairs = [
        named(forge, "NUL amid", text(&format!("{ORDER}\0.evil.example"))),
        named(forge, "NUL at the end", text(&format!("{ORDER}\0"))),
        named(forge, "NUL in front", text(&format!("\0{ORDER}"))),
        named(
            forge,
            "NUL in the domain",
            text("spiffe://cluster.local\0.evil/ns/default/sa/order"),
        ),
        named(forge, "a line feed", text(&format!("{ORDER}\n"))),
        named(forge, "a DEL", text(&format!("{ORDER}\x7f"))),
    ];
    shown(ground, side, &pairs)
}

fn nearly(ground: &Ground, side: Side) -> Outcome {
    const NEARLY: &[&str] = &[
        "SPIFFE://cluster.local/ns/default/sa/order",
        "spiffe://CLUSTER.LOCAL/ns/default/sa/order",
        "spiffe://cluster.local/NS/default/SA/order",
        "spiffe://cluster.local/ns/default/sa/order/",
        "spiffe://cluster.local//ns/default/sa/order",
        "spiffe://cluster.local/ns/default/sa/order/x",
        "spiffe://cluster.local/ns/default/sa/x/../order",
        "spiffe://cluster.local/ns/default/sa/%6frder",
        "spiffe://cluster.local/ns/default/sa/order?x",
        "spiffe://cluster.local/ns/default/sa/order#x",
        "spiffe://cluster.local:80/ns/default/sa/order",
        "spiffe://u@cluster.local/ns/default/sa/order",
        "spiffe://cluster.local/ns/default/sa/*",
        "spiffe://cluster.local/ns//sa/order",
        "spiffe://cluster.local/ns/default/sa/",
        "spiffe://cluster.local/",
        "spiffe://other.example/ns/default/sa/order",
        "spiffe://cluster.local.evil.example/ns/default/sa/order",
        "https://cluster.local/ns/default/sa/order",
        "",
    ];
    let forge = &ground.forge;
    let names = |names: Vec<SanType>| move |p: &mut CertificateParams| p.subject_alt_names = names;
    let mut pairs: Vec<(&str, Pair)> = NEARLY
        .iter()
        .enumerate()
        .map(|(index, text)| {
            (
                *text,
                forge.signed(&format!("nearly-{index}"), names(vec![uri(text)])),
            )
        })
        .collect();
    let dns = SanType::DnsName("order.default.svc.cluster.local".try_into().expect("ASCII"));
    let text = OtherNameValue::Utf8String(ORDER.to_owned());
    let other = SanType::OtherName((vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 3], text));
    pairs.push(("a host name", forge.signed("host-name", names(vec![dns]))));
    pairs.push((
        "another kind of name",
        forge.signed("other-name", names(vec![other])),
    ));
    pairs.push((
        "a subject alone",
        forge.signed("subject", |p| {
            p.subject_alt_names.clear();
            called(p, ORDER);
        }),
    ));
    shown(ground, side, &pairs)
}

fn time(ground: &Ground, side: Side) -> Outcome {
    const DAY: i64 = 86_400;
    let lived = |name, from, until| (name, ground.forge.signed(name, |p| lives(p, from, until)));
    let pairs = [
        lived("over a day ago", -2 * DAY, -DAY),
        lived("over a moment ago", -DAY, -2),
        lived("from tomorrow", DAY, 2 * DAY),
        lived("from in a minute", 60, DAY),
        lived("backwards", DAY, -DAY),
    ];
    shown(ground, side, &pairs)
}

fn purpose(ground: &Ground, side: Side) -> Outcome {
    let used = |name, usages: &[ExtendedKeyUsagePurpose]| {
        let usages = usages.to_vec();
        (
            name,
            ground
                .forge
                .signed(name, |p| p.extended_key_usages = usages),
        )
    };
    let pairs = [
        used("servers", &[ExtendedKeyUsagePurpose::ServerAuth]),
        used("code", &[ExtendedKeyUsagePurpose::CodeSigning]),
        used(
            "mail and time stamps",
            &[
                ExtendedKeyUsagePurpose::EmailProtection,
                ExtendedKeyUsagePurpose::TimeStamping,
            ],
        ),
    ];
    shown(ground, side, &pairs)
}

fn signer(ground: &Ground, side: Side) -> Outcome {
    let forge = &ground.forge;
    let foreign = forge.foreign();
    // A workload that signs for another with its own key.
    let workload = forge.signed("workload", |_| {});
    let text = std::fs::read_to_string(&workload.certificate).expect("a certificate");
    let key = std::fs::read_to_string(&workload.key).expect("a key");
    let key = KeyPair::from_pem(&key).expect("a key");
    let below = Issuer::from_ca_cert_pem(&text, key).expect("an issuer");
    let alone = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![uri(ORDER)];
    let own = params.self_signed(&alone).expect("a certificate");
    let pairs = [
        (
            "another authority",
            forge.signed_by("by-foreign", &foreign, "foreign.pem", |_| {}),
        ),
        (
            "another authority behind ours",
            forge.signed_by("by-both", &foreign, "ca-cert.pem", |_| {}),
        ),
        (
            "a workload",
            forge.signed_by("by-workload", &below, "workload.crt", |_| {}),
        ),
        ("itself", forge.kept("by-itself", &own.pem(), &alone)),
    ];
    shown(ground, side, &pairs)
}

/// What no library of ours would make.
fn weak(ground: &Ground, side: Side) -> Outcome {
    let forge = &ground.forge;
    let made = |name: &'static str, key: &str, digest: &str| {
        let dir = forge.dir();
        let script = format!(
            "openssl genpkey {key} -out {name}.key && \
             openssl req -new -key {name}.key -subj /CN=x -out {name}.csr && \
             printf 'subjectAltName=URI:{ORDER}\\nextendedKeyUsage=clientAuth\\n' > {name}.ext && \
             openssl x509 -req -in {name}.csr -CA ca-cert.pem -CAkey ca-key.pem -CAcreateserial -days 1 \
             {digest} -extfile {name}.ext -out {name}.crt && cat ca-cert.pem >> {name}.crt"
        );
        let output = Command::new("sh")
            .args(["-c", &script])
            .current_dir(dir)
            .output();
        let output = output.expect("openssl");
        assert!(output.status.success(), "{output:?}");
        let pair = Pair {
            certificate: forge.file(&format!("{name}.crt")),
            key: forge.file(&format!("{name}.key")),
        };
        (name, pair)
    };
    let pairs = [
        made(
            "sha1",
            "-algorithm EC -pkeyopt ec_paramgen_curve:P-256",
            "-sha1",
        ),
        made(
            "rsa1024",
            "-algorithm RSA -pkeyopt rsa_keygen_bits:1024",
            "-sha256",
        ),
        made(
            "rsa1024-sha1",
            "-algorithm RSA -pkeyopt rsa_keygen_bits:1024",
            "-sha1",
        ),
    ];
    shown(ground, side, &pairs)
}

/// The identity that a program's proxy saved, in the hands of somebody else; with the program's id.
fn stolen(ground: &Ground, name: &str) -> (Pair, String) {
    let mesh = &ground.mesh;
    let _run = mesh.run(name, &["-s", name], &["sleep", "100000"]);
    let id = until(format_args!("a workload of {name}"), SOON, || {
        let all = mesh.workloads();
        let one = all.iter().find(|one| one["service"] == name)?;
        one["workload_id"].as_str().map(str::to_owned)
    });
    let text = until("a saved identity", SOON, || {
        let runs = std::fs::read_dir(mesh.home().join("run")).ok()?;
        let of = |path: &std::path::PathBuf| path.to_string_lossy().contains(name);
        let dir = runs.flatten().map(|entry| entry.path()).find(of)?;
        std::fs::read_to_string(dir.join("identity.pem")).ok()
    });
    let own = text.split("\ntrusts\n").next().unwrap_or_default();
    let file = ground.forge.file(&format!("{name}.pem"));
    std::fs::write(&file, own).expect("write");
    let pair = Pair {
        certificate: file.clone(),
        key: file,
    };
    (pair, id)
}

fn revoked(ground: &Ground, side: Side) -> Outcome {
    let name = if side == Side::Naka {
        "robbed"
    } else {
        "unwary"
    };
    let (pair, id) = stolen(ground, name);
    let said = present(ground.inbound, Some(&pair), &[], "/before");
    assert!(ground.program.saw("/before"), "{said}");
    if side == Side::Naka {
        ground
            .mesh
            .ok(["cert", "revoke", &id, "--reason", "superseded"]);
    }
    present(ground.inbound, Some(&pair), &[], "/after");
    let landed = ground.program.saw("/after");
    outcome(
        landed,
        if landed {
            "it got in"
        } else {
            "let in before, refused after"
        },
    )
}

fn resumed(ground: &Ground, side: Side) -> Outcome {
    let name = if side == Side::Naka {
        "lender"
    } else {
        "sleeper"
    };
    let (pair, id) = stolen(ground, name);
    let file = ground.forge.file(&format!("{name}.session"));
    let file = file.to_str().expect("printable");
    let said = present(ground.inbound, Some(&pair), &["-sess_out", file], "/first");
    assert!(ground.program.saw("/first"), "{said}");
    let again = |target: &str| present(ground.inbound, None, &["-sess_in", file], target);
    if side == Side::Naka {
        ground
            .mesh
            .ok(["cert", "revoke", &id, "--reason", "superseded"]);
    }
    let said = again("/again");
    let landed = ground.program.saw("/again");
    let how = if said.contains("Reused") {
        "resumed"
    } else {
        "a full handshake"
    };
    outcome(landed, format!("{how}, got in: {landed}"))
}

fn plain(ground: &Ground, side: Side) -> Outcome {
    let address = match side {
        Side::Naka => ground.inbound,
        Side::Open => ground.published,
    };
    let requests: [&[u8]; 3] = [
        b"GET /plain HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n",
        b"GET /plain HTTP/1.0\r\n\r\n",
        b"GET /plain HTTP/1.1\r\nhost: web\r\nx-forwarded-client-cert: URI=spiffe://cluster.local/ns/default/sa/order\r\nconnection: close\r\n\r\n",
    ];
    let answers = requests.map(|bytes| crate::wire::send(address, bytes).0);
    let seen: Vec<&str> = answers.iter().map(|a| crate::wire::status(a)).collect();
    outcome(ground.program.saw("/plain"), format!("answers {seen:?}"))
}

fn older(ground: &Ground, side: Side) -> Outcome {
    let address = door(ground, side);
    let sound = ground.forge.signed("older", |_| {});
    let said = present(address, Some(&sound), &["-tls1_2"], "/older");
    let landed = ground.program.saw("/older");
    let alert = said
        .lines()
        .find(|line| line.contains("alert"))
        .unwrap_or_default();
    outcome(landed, format!("TLS 1.2 got in: {landed} {}", alert.trim()))
}

/// A server of the mesh under a name that is another's.
fn impostor(ground: &Ground, side: Side) -> Outcome {
    let other = "spiffe://cluster.local/ns/default/sa/impostor";
    let own = ground
        .forge
        .signed("impostor", |p| p.subject_alt_names = vec![uri(other)]);
    let address = crate::forge::believing(&own, ground.program.address);
    let (host, wanted) = match side {
        Side::Naka => ("bank.example", "spiffe://cluster.local/ns/default/sa/bank"),
        Side::Open => ("known.example", other),
    };
    ground.mesh.apply(
        &format!("{host}.yaml"),
        &format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {host}}}\nspec:\n  hosts: [{host}]\n  ports: [{{number: 80, name: http, protocol: HTTP}}]\n  resolution: STATIC\n  location: MESH_INTERNAL\n  subjectAltNames: ['{wanted}']\n  endpoints: [{{address: 127.0.0.1, ports: {{http: {}}}}}]\n---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {host}}}\nspec: {{host: {host}, trafficPolicy: {{tls: {{mode: ISTIO_MUTUAL}}}}}}\n",
            address.port()
        ),
    );
    let url = format!("http://{host}/told");
    let curl = ["curl", "-s", "-m", "10", "-o", "/dev/null", "-D", "-", &url];
    let mut run = ground.mesh.run(host, &["-s", "teller"], &curl);
    run.wait(SOON).expect("the call ends");
    let out = run.out().to_ascii_lowercase();
    let why = out
        .lines()
        .find(|line| line.starts_with("x-naka-reason"))
        .unwrap_or_default();
    let status = crate::wire::status(&out).to_owned();
    outcome(ground.program.saw("/told"), format!("{status} {why}"))
}

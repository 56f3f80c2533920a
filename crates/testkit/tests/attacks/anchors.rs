//! Names of certificates that reach further than they may (row 28), and certificates of other anchors while the mesh changes
//! its own (row 29).
//!
//! Landed when a request gets to the program, or a caller takes a server for another. Without the guard: a star that
//! stands where it may, an alias that is one, a server that believes everybody.

use crate::forge::{Forge, Pair, believing, present, uri};
use crate::forged::shown;
use crate::ground::{Ground, Side};
use crate::{Attack, Outcome, outcome};
use naka_testkit::mesh::{Mesh, SOON};
use naka_testkit::wait::until;
use rcgen::SanType;
use std::fmt::Write as _;
use std::net::SocketAddr;

const fn attack(row: u8, name: &'static str, run: fn(&Ground, Side) -> Outcome) -> Attack {
    Attack { row, name, run }
}

pub(crate) const ATTACKS: &[Attack] = &[
    attack(28, "stars in the identity of a certificate", stars),
    attack(28, "stars that stand for more than one label", depth),
    attack(28, "a trust domain that is nearly an alias", alias),
    attack(29, "another anchor while the root changes", rotation),
];

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().expect("ASCII"))
}

fn stars(ground: &Ground, side: Side) -> Outcome {
    let all: Vec<(&str, Pair)> = [
        ("all accounts", "spiffe://cluster.local/ns/default/sa/*"),
        ("all namespaces", "spiffe://cluster.local/ns/*/sa/order"),
        ("both", "spiffe://cluster.local/ns/*/sa/*"),
        ("all paths", "spiffe://cluster.local/*"),
        ("deep", "spiffe://cluster.local/**"),
        ("all domains", "spiffe://*/ns/default/sa/order"),
        (
            "part of an account",
            "spiffe://cluster.local/ns/default/sa/ord*",
        ),
        (
            "an escaped star",
            "spiffe://cluster.local/ns/default/sa/%2a",
        ),
    ]
    .into_iter()
    .enumerate()
    .map(|(index, (name, text))| {
        let file = format!("star-{index}");
        let pair = ground
            .forge
            .signed(&file, |p| p.subject_alt_names = vec![uri(text)]);
        (name, pair)
    })
    .chain([(
        "all hosts",
        ground.forge.signed("star-host", |p| {
            p.subject_alt_names = vec![dns("*"), dns("*.*"), dns("*.cluster.local")];
        }),
    )])
    .collect();
    shown(ground, side, &all)
}

/// Servers outside the mesh that are called by TLS; where a name of the certificate must be that of the host.
fn depth(ground: &Ground, side: Side) -> Outcome {
    const DEEP: &[(&str, &str)] = &[
        ("a.b.one.example", "*.one.example"),
        ("a.b.two.example", "*.*.two.example"),
        ("a.b.three.example", "a.*.three.example"),
        ("a.b.four.example", "*"),
        ("five.example", "*.example.evil"),
        ("shop.six.example", "s*.six.example"),
        ("seven.example", "*.seven.example"),
    ];
    const RIGHT: &[(&str, &str)] = &[("a.open.example", "*.open.example")];
    let pairs = if side == Side::Naka { DEEP } else { RIGHT };
    let issuer = ground.forge.foreign();
    let roots = ground.forge.file("foreign.pem");
    let mut objects = String::new();
    for (host, name) in pairs {
        let own = ground
            .forge
            .signed_by(&format!("deep-{host}"), &issuer, "foreign.pem", |p| {
                p.subject_alt_names = vec![dns(name)];
            });
        let port = believing(&own, ground.program.address).port();
        let _ = write!(
            objects,
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {host}}}\nspec:\n  hosts: [{host}]\n  ports: [{{number: 80, name: http, protocol: HTTP}}]\n  resolution: STATIC\n  location: MESH_EXTERNAL\n  endpoints: [{{address: 127.0.0.1, ports: {{http: {port}}}}}]\n---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {host}}}\nspec: {{host: {host}, trafficPolicy: {{tls: {{mode: SIMPLE, sni: {host}, caCertificates: {}}}}}}}\n---\n",
            roots.display()
        );
    }
    ground.mesh.apply("deep.yaml", &objects);
    let script: String = pairs
        .iter()
        .map(|(host, _)| {
            format!("curl -s -m 10 -o /dev/null -w '%{{http_code}} ' http://{host}/deep;")
        })
        .collect();
    // A caller of its own on each side: one that comes back knows the names of its last run until the newest arrive.
    let name = if side == Side::Naka { "deep" } else { "right" };
    let mut run = ground.mesh.run(name, &["-s", name], &["sh", "-c", &script]);
    run.wait(SOON).expect("the calls end");
    outcome(
        ground.program.saw("/deep"),
        format!("{} servers: {}", pairs.len(), run.out().trim()),
    )
}

/// Domains beside the aliases of the trust domain, which clash with each other and with the domain itself.
fn alias(ground: &Ground, side: Side) -> Outcome {
    const NEARLY: &[&str] = &[
        "old-td.evil",
        "evil.old-td",
        "OLD-TD",
        "old-td:80",
        "old-t",
        "old-td%2f",
        "cluster.local.old-td",
        "*",
    ];
    let aliases = match side {
        Side::Naka => "[cluster.local, old-td, old-td, older-td]",
        Side::Open => "[old-td.evil]",
    };
    ground.mesh.apply(
        "aliases.yaml",
        &format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n    trustDomainAliases: {aliases}\n"
        ),
    );
    let of = |domain: &str, name: &str| {
        let identity = format!("spiffe://{domain}/ns/default/sa/order");
        let forge = &ground.forge;
        forge.signed(name, |p| p.subject_alt_names = vec![uri(&identity)])
    };
    // The alias is in force.
    let known = of(
        if side == Side::Naka {
            "old-td"
        } else {
            "old-td.evil"
        },
        "alias",
    );
    until("the alias", SOON, || {
        present(ground.inbound, Some(&known), &[], "/alias");
        ground.program.saw("/alias").then_some(())
    });
    let mut let_in = Vec::new();
    for (index, domain) in NEARLY.iter().enumerate() {
        let target = format!("/nearly-alias/{index}/");
        let pair = of(domain, &format!("alias-{index}"));
        present(ground.inbound, Some(&pair), &[], &target);
        if ground.program.saw(&target) {
            let_in.push(*domain);
        }
    }
    ground
        .mesh
        .naka(["delete", "configmap", "istio", "-n", "istio-system"]);
    outcome(
        !let_in.is_empty(),
        format!("{} of {} got in {let_in:?}", let_in.len(), NEARLY.len()),
    )
}

/// A mesh of its own, whose root is changed by hand, step by step.
struct Turning {
    mesh: Mesh,
    inbound: SocketAddr,
    log: &'static str,
}

impl Turning {
    /// Whether a certificate gets in.
    fn takes(&self, pair: &Pair, target: &str) -> bool {
        present(self.inbound, Some(pair), &[], target);
        let all = self.mesh.logged(self.log);
        all.iter().any(|line| line["path"] == target)
    }
}

fn rotation(ground: &Ground, side: Side) -> Outcome {
    let stranger = ground.forge.foreign();
    let forged = |name: &str| {
        let forge = &ground.forge;
        forge.signed_by(name, &stranger, "foreign.pem", |_| {})
    };
    if side == Side::Open {
        let own = ground.forge.signed("believes", |_| {});
        let address = believing(&own, ground.program.address);
        present(address, Some(&forged("stranger")), &[], "/anchor");
        return outcome(ground.program.saw("/anchor"), "a stranger's got in");
    }
    let (before, after) = (Forge::new(), Forge::new());
    let directory = |forge: &Forge| forge.dir().display().to_string();
    let mesh = Mesh::up_with(&["--ca", &directory(&before)]);
    let _server = mesh.serve("payment", "v1");
    let all = mesh.workloads();
    let own = all.iter().find(|one| one["service"] == "payment");
    let address = own.and_then(|one| one["ports"][0]["inbound_address"].as_str());
    let inbound = address.and_then(|a| a.parse().ok()).expect("an address");
    let turning = Turning {
        mesh,
        inbound,
        log: "payment-v1",
    };
    let mesh = &turning.mesh;
    let [old, new] = [before.signed("old", |_| {}), after.signed("new", |_| {})];
    let other = forged("other");
    let script =
        "while :; do curl -s -m 5 -o /dev/null -w '%{http_code}\\n' http://payment/honest; done";
    let honest = mesh.run("honest", &["-s", "order"], &["sh", "-c", script]);
    let mut seen = Vec::new();
    // What gets in: the old root's, the next one's, a stranger's.
    let mut look = |step: &str| {
        let got = [(&old, "old"), (&new, "new"), (&other, "other")]
            .map(|(pair, who)| turning.takes(pair, &format!("/{step}/{who}")));
        seen.push((step.to_owned(), got));
    };
    look("before");
    let said = mesh.ok(["ca", "rotate", "--manual", "--from", &directory(&after)]);
    let name = said
        .split_whitespace()
        .nth(1)
        .expect("rollout NAME …")
        .to_owned();
    let waits = |word: &str| {
        until(format_args!("{word} of {name}"), 2 * SOON, || {
            let told = mesh.naka(["rollout", "status", &name]);
            let told = String::from_utf8_lossy(&told.stdout).into_owned();
            (told.contains(word) && told.contains("naka rollout promote")).then_some(())
        });
    };
    waits("trust");
    look("trust");
    mesh.ok(["rollout", "promote", &name]);
    waits("renew");
    look("renew");
    mesh.ok(["rollout", "promote", &name]);
    mesh.ok(["rollout", "status", &name, "--wait", "20s"]);
    look("done");
    let failed = honest
        .out()
        .lines()
        .filter(|status| *status != "200")
        .count();
    let wanted = [
        ("before", [true, false, false]),
        ("trust", [true, true, false]),
        ("renew", [true, true, false]),
        ("done", [false, true, false]),
    ]
    .map(|(step, got)| (step.to_owned(), got));
    let calls = honest.out().lines().count();
    outcome(
        seen != wanted || failed > 0 || calls == 0,
        format!("old, next, stranger: {seen:?}; {failed} of {calls} sound calls failed"),
    )
}

//! A program that tries to get out where it may not: what a Sidecar with REGISTRY_ONLY leaves open. What is observed is
//! what arrived at a server outside; what the program was told counts for nothing.

use crate::namespace::own_address;
use naka_testkit::dns::NameServer;
use naka_testkit::mesh::{Mesh, SOON};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A server outside the mesh: it notes the first bytes of each connection and closes it.
struct Outside {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Outside {
    fn start(ip: IpAddr) -> Self {
        let listener = TcpListener::bind((ip, 0)).expect("a port of this machine");
        let heard = Arc::<Mutex<Vec<u8>>>::default();
        let noted = Arc::clone(&heard);
        let address = listener.local_addr().expect("bound");
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut first = Vec::new();
                // A connection that says nothing holds nobody up.
                let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
                let mut part = [0; 4096];
                // As much as has a marker in it; a hello may come in pieces.
                while first.len() < 80 {
                    match stream.read(&mut part) {
                        Ok(0) | Err(_) => break,
                        Ok(count) => first.extend_from_slice(&part[..count]),
                    }
                }
                let mut heard = noted.lock().unwrap_or_else(PoisonError::into_inner);
                heard.extend_from_slice(&first);
                let _ = stream.write_all(b"HTTP/1.1 204 Reached\r\nconnection: close\r\n\r\n");
            }
        });
        Self { address, heard }
    }

    /// Forgets what it heard and gives it back.
    fn heard(&self) -> String {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&std::mem::take(&mut *heard)).into_owned()
    }
}

/// What may be called: a bank whose TLS and requests are looked at, one whose protocol is found out, and one whose
/// bytes are nobody's business.
fn objects(server: SocketAddr, mode: &str) -> String {
    let (ip, port) = (server.ip(), server.port());
    let ports = |all: &[(u16, &str)]| -> String {
        let one = |(number, protocol): &(u16, &str)| {
            let protocol = match *protocol {
                "" => String::new(),
                known => format!(", protocol: {known}"),
            };
            format!("{{number: {number}, name: p{number}{protocol}, targetPort: {port}}}, ")
        };
        all.iter().map(one).collect()
    };
    let entry = |name: &str, ports: String| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\nspec:\n  hosts: [api.{name}.example]\n  ports: [{ports}]\n  resolution: STATIC\n  endpoints: [{{address: {ip}}}]\n"
        )
    };
    let sidecar = format!(
        "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: default}}\nspec: {{outboundTrafficPolicy: {{mode: {mode}}}}}\n"
    );
    [
        sidecar,
        entry("bank", ports(&[(443, "TLS"), (80, "HTTP"), (8443, "")])),
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: any}}\nspec:\n  hosts: [api.any.example]\n  ports: [{{number: {port}, name: tls, protocol: TLS}}]\n  resolution: NONE\n"
        ),
        entry("open", ports(&[(443, "TCP"), (80, "TCP"), (8443, "TCP")])),
    ]
    .concat()
}

/// What a program tries, each with a marker of its own, and whether it gets through where unknown hosts are refused,
/// and where they are not.
fn attempts(server: SocketAddr) -> Vec<(String, bool, bool)> {
    let (ip, port) = (server.ip(), server.port());
    let (bank, open, rogue) = ("api.bank.example", "api.open.example", "api.rogue.example");
    let any = "api.any.example";
    let rows = [
        // What is allowed arrives, or the rest would show nothing.
        ("tls", bank, 443, bank, true, true),
        ("http", bank, 80, bank, true, true),
        ("tls", bank, 8443, bank, true, true),
        // A permitted name, and another one to the server behind it.
        ("tls", bank, 443, rogue, false, false),
        ("tls", bank, 8443, rogue, false, false),
        ("long", bank, 443, rogue, false, false),
        ("http", bank, 80, rogue, false, false),
        ("http", bank, 8443, rogue, false, false),
        // The same where the declaration says that bytes are not looked at.
        ("tls", open, 443, rogue, true, true),
        ("tls", open, 8443, rogue, true, true),
        ("long", open, 443, rogue, true, true),
        ("http", open, 80, rogue, true, true),
        // Which name is meant is hidden.
        ("hidden", bank, 443, bank, false, true),
        ("hidden", bank, 8443, bank, false, true),
        ("hidden", open, 443, bank, true, true),
        // Neither a name nor a permission.
        ("tls", rogue, port, rogue, false, true),
        ("http", rogue, port, rogue, false, true),
    ];
    let ip = ip.to_string();
    let bare = [
        // An address, under whatever name.
        ("tls", &*ip, port, bank, false, true),
        ("http", &*ip, port, bank, false, true),
        ("tls", &*ip, port, rogue, false, true),
        // A host without endpoints or addresses of its own is at every address, for whoever says its name plainly.
        ("tls", &*ip, port, any, true, true),
        ("hidden", &*ip, port, any, false, true),
        ("long", &*ip, port, any, false, true),
    ];
    let all = rows.into_iter().chain(bare).enumerate();
    all.map(|(number, (how, host, port, name, strict, lax))| {
        // Ends in a letter, so that none is the beginning of another.
        let attempt = format!("{how}:{host}:{port}:{name}:attempt-{number}x");
        (attempt, strict, lax)
    })
    .collect()
}

fn marker(attempt: &str) -> &str {
    attempt.rsplit(':').next().unwrap_or_default()
}

/// SNI, Host and address that do not go together, an encrypted hello, bare addresses, names looked up elsewhere and
/// over HTTPS. The twins: the same calls where unknown hosts may be called, or to a host whose bytes are not looked at.
#[test]
fn nothing_gets_out_but_what_is_declared() {
    let server = Outside::start(own_address());
    let dns = NameServer::start().expect("a name server");
    let mut mesh = Mesh::down_with(&[]);
    let conf = mesh.file("resolv.conf", &dns.line());
    mesh.set("NAKA_RESOLV_CONF", conf.as_os_str());
    mesh.start_control();
    let IpAddr::V4(own) = server.address.ip() else {
        panic!("{} is no IPv4 address", server.address)
    };
    dns.set("api.rogue.example", &[own], 60);
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/programs/egress.py");
    for strict in [true, false] {
        let mode = if strict { "REGISTRY_ONLY" } else { "ALLOW_ANY" };
        mesh.apply("egress.yaml", &objects(server.address, mode));
        let all = attempts(server.address);
        let mut command = vec!["python3", program];
        command.extend(all.iter().map(|(attempt, ..)| attempt.as_str()));
        // The sidecar answers for every name server there is.
        command.push("dns:192.0.2.53:53:api.bank.example:-");
        let options = ["-s", "clerk", "--capture", "namespace"];
        let mut run = mesh.run(&format!("clerk-{mode}"), &options, &command);
        run.wait(SOON * 6).expect("the attempts end");
        let (said, heard) = (run.out(), server.heard());
        let through: BTreeSet<&str> = all
            .iter()
            .map(|(attempt, ..)| attempt.as_str())
            .filter(|attempt| heard.contains(marker(attempt)))
            .collect();
        let expected: BTreeSet<&str> = all
            .iter()
            .filter(|(_, is_strict, lax)| if strict { *is_strict } else { *lax })
            .map(|(attempt, ..)| attempt.as_str())
            .collect();
        assert_eq!(through, expected, "{mode}: {said}{}", run.err());
        let answered = said.lines().last().unwrap_or_default();
        let virtual_address = answered.rsplit(' ').next().unwrap_or_default();
        let first = virtual_address.split('.').next().unwrap_or_default();
        let first: u8 = first.parse().unwrap_or(0);
        assert!((240..255).contains(&first), "{mode}: {answered}");

        // DNS over HTTPS, as curl does it: whoever cannot reach that server learns no address from it.
        let over = format!("https://{}/dns-query", server.address);
        let call = [
            "curl",
            "-sk",
            "-m",
            "5",
            "--doh-insecure",
            "--doh-url",
            &over,
        ];
        let call = [&call[..], &["http://secret.rogue.example/"]].concat();
        let mut run = mesh.run(&format!("doh-{mode}"), &options, &call);
        run.wait(SOON).expect("curl ends");
        let hello = server.heard();
        assert_eq!(hello.is_empty(), strict, "{mode}: {hello}");
    }
}

/// The same by a proxy's own words: CONNECT and absolute targets.
#[test]
fn nothing_gets_out_through_a_proxys_port_either() {
    let server = Outside::start(own_address());
    let mesh = Mesh::up();
    let (ip, port) = (server.address.ip(), server.address.port());
    let call = |name: &str, arguments: &[&str]| {
        let curl = [
            "curl",
            "-sk",
            "-m",
            "5",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code} %{http_connect}",
        ];
        let command = [&curl[..], arguments].concat();
        let options = ["-s", "clerk", "--capture", "proxy"];
        let mut run = mesh.run(name, &options, &command);
        run.wait(SOON).expect("curl ends");
        (run.out(), server.heard())
    };
    let bare = format!("http://{ip}:{port}/bare");
    let tunnel = format!("https://{ip}:{port}/tunnel");
    for strict in [true, false] {
        let mode = if strict { "REGISTRY_ONLY" } else { "ALLOW_ANY" };
        mesh.apply("egress.yaml", &objects(server.address, mode));
        let (said, heard) = call(&format!("bare-{mode}"), &[&bare]);
        assert_eq!(heard.contains("/bare"), !strict, "{mode}: {said} {heard}");
        assert_eq!(said.starts_with("502"), strict, "{mode}: {said}");
        let (said, heard) = call(&format!("tunnel-{mode}"), &[&tunnel]);
        assert_eq!(heard.is_empty(), strict, "{mode}: {said} {heard}");
        // The name of the tunnel and that of the hello inside it.
        for (name, through) in [("api.bank.example", true), ("api.rogue.example", false)] {
            let to = format!("{name}:443:api.bank.example:443");
            let url = format!("https://{name}/");
            let (said, heard) = call(
                &format!("inside-{name}-{mode}"),
                &["--connect-to", &to, &url],
            );
            assert_eq!(!heard.is_empty(), through, "{mode} {name}: {said} {heard}");
        }
    }
}

//! Where captured calls go on to: hosts of ServiceEntries with `resolution: NONE` keep the address that the program
//! called, and names are answered with the addresses that entries write. What is observed is which server answered, at
//! which address the program called, and whether the route of the host was passed.
//!
//! Not here: hosts whose endpoints the sidecar finds itself (`egress`), capture of a whole machine (`host`).

use crate::namespace::{own_address, script};
use naka_testkit::dns::NameServer;
use naka_testkit::mesh::{Mesh, SOON};
use naka_testkit::program::{Program, free_port};
use naka_testkit::wait::until;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// An address that nobody has (RFC 5737).
const NOBODY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
/// Prints what answered, the address called, and the header of the route.
const TOLD: &str = "%{http_code} %{remote_ip} [%header{x-route}]";

/// A server that answers every connection with its name.
pub(crate) fn server(address: IpAddr, name: &str) -> u16 {
    let name = name.to_owned();
    let listener = TcpListener::bind((address, 0)).expect("a port");
    let port = listener.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 1024]);
            let _ = write!(stream, "HTTP/1.0 200 OK\r\n\r\n{name} ");
        }
    });
    port
}

/// A mesh whose proxies ask this server for names.
fn mesh(dns: &NameServer) -> Mesh {
    let mut mesh = Mesh::down_with(&[]);
    let conf = mesh.file("resolv.conf", &dns.line());
    mesh.set("NAKA_RESOLV_CONF", conf.as_os_str());
    mesh.start_control();
    mesh
}

/// Runs a script in a captured program whose sidecar was never there before, so that it holds nothing but what the mesh
/// says now.
fn captured(mesh: &Mesh, name: &str, text: &str) -> Program {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let instance = NEXT.fetch_add(1, Ordering::Relaxed).to_string();
    let options = ["--capture", "namespace", "--instance", &instance];
    script(mesh, name, &options, text)
}

/// What a captured program saw of a call.
fn call(mesh: &Mesh, name: &str, options: &str) -> String {
    let text = format!("curl -s -k -m 5 -w '{TOLD}' {options}");
    captured(mesh, name, &text).out()
}

fn entry(host: &str, resolution: &str, ports: &str, more: &str) -> String {
    let name = host.replace('*', "any").replace('.', "-");
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\nspec:\n  hosts: ['{host}']\n  ports: [{ports}]\n  resolution: {resolution}\n{more}"
    )
}

fn port(number: u16, protocol: &str) -> String {
    format!("{{number: {number}, name: p{number}, protocol: {protocol}}}")
}

/// Only what the mesh knows may be called.
const ONLY_KNOWN: &str = "---\napiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: default}\nspec: {outboundTrafficPolicy: {mode: REGISTRY_ONLY}}\n";

/// The route of a host marks its answers.
fn route(host: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: marks}}\nspec:\n  hosts: [{host}]\n  http: [{{headers: {{response: {{set: {{x-route: taken}}}}}}, route: [{{destination: {{host: {host}}}}}]}}]\n"
    )
}

/// HTTP: the authority chooses the host and its route, the connection goes on to where it was made to, whatever the
/// name means to others. Twins: an authority that nobody declared, the same entry with endpoints of its own, and one
/// whose names the sidecar looks up.
#[test]
fn http_of_a_host_without_endpoints_goes_on_to_the_address_called() {
    let own = own_address();
    let (called, other) = (
        server(own, "called"),
        server(Ipv4Addr::LOCALHOST.into(), "other"),
    );
    let dns = NameServer::start().unwrap();
    let mesh = mesh(&dns);
    let IpAddr::V4(four) = own else {
        panic!("{own} is of IPv4")
    };
    dns.set("api.example.com", &[four], 1);
    let api = |resolution: &str, more: &str| {
        let entry = entry("api.example.com", resolution, &port(called, "HTTP"), more);
        mesh.apply("entry.yaml", &(entry + &route("api.example.com")));
    };
    let url = format!("http://api.example.com:{called}/");
    let at = |host: &str| format!("--resolve {host}:{called}:{own} http://{host}:{called}/");

    api("NONE", "");
    assert_eq!(
        call(&mesh, "by-name", &url),
        format!("called 200 {own} [taken]")
    );
    // The name now means somebody else; the program still calls the address.
    dns.set("api.example.com", &[NOBODY], 1);
    let kept = call(&mesh, "by-address", &at("api.example.com"));
    assert_eq!(kept, format!("called 200 {own} [taken]"));
    let undeclared = call(&mesh, "undeclared", &at("www.example.com"));
    assert_eq!(undeclared, format!("called 200 {own} []"));

    // Another port of the endpoint is called at the same address.
    let moved = free_port();
    let ports = format!("{{number: {moved}, name: http, protocol: HTTP, targetPort: {called}}}");
    mesh.apply(
        "entry.yaml",
        &(entry("api.example.com", "NONE", &ports, "") + &route("api.example.com")),
    );
    let options =
        format!("--resolve api.example.com:{moved}:{own} http://api.example.com:{moved}/");
    assert_eq!(
        call(&mesh, "moved", &options),
        format!("called 200 {own} [taken]")
    );

    let endpoints =
        format!("  endpoints: [{{address: 127.0.0.1, ports: {{p{called}: {other}}}}}]\n");
    api("STATIC", &endpoints);
    let found = call(&mesh, "endpoints", &url);
    assert!(
        found.starts_with("other 200 2") && found.ends_with("[taken]"),
        "{found}"
    );
    assert!(
        !found.contains(&own.to_string()),
        "an address of the proxy's own: {found}"
    );
    // As Envoy's dynamic forward proxy: nothing is declared about an address.
    api("DYNAMIC_DNS", "");
    let unknown = call(&mesh, "unknown", &at("api.example.com"));
    assert_eq!(unknown, format!("called 200 {own} []"));
}

/// An openssl that serves TLS at an address.
fn tls_server(mesh: &Mesh, address: IpAddr) -> (Child, u16) {
    let dir = mesh.home();
    let made = Command::new("openssl")
        .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout s.key -out s.pem -subj /CN=s -days 2".split(' '))
        .current_dir(dir)
        .output()
        .expect("openssl");
    assert!(made.status.success(), "{made:?}");
    let port = free_port();
    let server = Command::new("openssl")
        .args([
            "s_server", "-www", "-quiet", "-cert", "s.pem", "-key", "s.key",
        ])
        .args(["-accept", &SocketAddr::new(address, port).to_string()])
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl");
    until("openssl listens", SOON, || {
        TcpStream::connect((address, port)).ok()
    });
    (server, port)
}

/// TLS by server name, bytes by block of addresses and by port alone, where nothing else may be called. Twins: a server
/// name, a block and a port that nobody declared.
#[test]
fn tls_and_bytes_of_hosts_without_endpoints_go_on_to_the_address_called() {
    let own = own_address();
    let dns = NameServer::start().unwrap();
    let mesh = mesh(&dns);
    let (mut openssl, tls) = tls_server(&mesh, own);
    let (block, any, undeclared) = (
        server(own, "block"),
        server(own, "any"),
        server(own, "undeclared"),
    );
    let apply = |addresses: &str| {
        let within = entry(
            "block.example.com",
            "NONE",
            &port(block, "TCP"),
            &format!("  addresses: [{addresses}]\n"),
        );
        let objects = [
            ONLY_KNOWN,
            &entry("*.tls.example.com", "NONE", &port(tls, "TLS"), ""),
            &within,
            &entry("any.example.com", "NONE", &port(any, "TCP"), ""),
        ];
        mesh.apply("entries.yaml", &objects.concat());
    };
    apply(&format!("{own}/24"));
    let https =
        |host: &str| format!("-o /dev/null --resolve {host}:{tls}:{own} https://{host}:{tls}/");
    let plain = |port: u16| format!("http://{own}:{port}/");
    for (name, options, expect) in [
        (
            "declared-name",
            https("a.tls.example.com"),
            format!("200 {own} []"),
        ),
        ("other-name", https("a.example.com"), "000".to_owned()),
        (
            "declared-block",
            plain(block),
            format!("block 200 {own} []"),
        ),
        ("declared-port", plain(any), format!("any 200 {own} []")),
        ("other-port", plain(undeclared), "000".to_owned()),
    ] {
        let saw = call(&mesh, name, &options);
        assert!(saw.starts_with(&expect), "{name}: {saw}, not {expect}");
    }
    apply("203.0.113.0/24");
    let saw = call(&mesh, "other-block", &plain(block));
    assert!(saw.starts_with("000"), "{saw}");
    let _ = openssl.kill();
    let _ = openssl.wait();
}

/// The addresses that a captured program gets for a name.
fn resolved(mesh: &Mesh, name: &str, host: &str) -> Vec<String> {
    let text = format!("getent ahostsv4 {host} | cut -d ' ' -f 1 | sort -u");
    let run = captured(mesh, name, &text);
    run.out().lines().map(str::to_owned).collect()
}

/// A name is answered with the addresses that its entry writes, and they lead to its endpoints. Twins: without addresses
/// it has one that only this proxy knows; with a block it has what the name servers say.
#[test]
fn names_are_answered_with_the_addresses_that_their_entries_write() {
    let other = server(Ipv4Addr::LOCALHOST.into(), "endpoint");
    let dns = NameServer::start().unwrap();
    let mesh = mesh(&dns);
    dns.set("db.example.com", &[NOBODY], 1);
    let apply = |more: &str| {
        let endpoints =
            format!("  endpoints: [{{address: 127.0.0.1, ports: {{http: {other}}}}}]\n{more}");
        let ports = "{number: 80, name: http, protocol: HTTP}";
        mesh.apply(
            "entry.yaml",
            &entry("db.example.com", "STATIC", ports, &endpoints),
        );
    };
    apply("  addresses: [198.51.100.11, 198.51.100.10/32, '2001:db8::10']\n");
    assert_eq!(
        resolved(&mesh, "written", "db.example.com"),
        ["198.51.100.10", "198.51.100.11"]
    );
    let reached = call(&mesh, "reached", "http://db.example.com/");
    assert!(reached.starts_with("endpoint 200"), "{reached}");
    apply("  addresses: [198.51.100.0/24]\n");
    assert_eq!(
        resolved(&mesh, "block", "db.example.com"),
        [NOBODY.to_string()]
    );
    // Its HTTP names it, or the address that was called.
    let named = call(
        &mesh,
        "named",
        "-H 'host: db.example.com' http://198.51.100.77/",
    );
    assert!(named.starts_with("endpoint 200 198.51.100.77"), "{named}");
    let other = call(
        &mesh,
        "other",
        "-H 'host: other.example.com' http://198.51.100.77/",
    );
    assert!(other.contains("421 198.51.100.77"), "{other}");
    let within = call(&mesh, "within", "http://198.51.100.77/");
    assert!(within.starts_with("endpoint 200 198.51.100.77"), "{within}");
    apply("");
    let own = resolved(&mesh, "own", "db.example.com");
    let [only] = own.as_slice() else {
        panic!("{own:?}")
    };
    let first = only.parse::<Ipv4Addr>().unwrap().octets()[0];
    assert!(first >= 240, "an address of the proxy's own: {only}");
}

/// Routes of bytes by the address called: the narrowest range has the connection, wherever it stands in the list. Twins:
/// an address of no range, and a bind, which was made to no address of the entry.
#[test]
fn routes_of_bytes_by_the_address_called_hold_for_a_captured_program() {
    let local: IpAddr = Ipv4Addr::LOCALHOST.into();
    let dns = NameServer::start().unwrap();
    let mesh = mesh(&dns);
    let mut objects = String::new();
    for (name, more) in [
        ("own", "  addresses: [198.51.100.0/24]\n"),
        ("wide", ""),
        ("narrow", ""),
    ] {
        let ports = format!(
            "{{number: 9000, name: tcp, protocol: TCP, targetPort: {}}}",
            server(local, name)
        );
        let more = format!("  endpoints: [{{address: 127.0.0.1}}]\n{more}");
        objects += &entry(&format!("{name}.example.com"), "STATIC", &ports, &more);
    }
    objects += "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: ranges}\nspec:\n  hosts: [own.example.com]\n  tcp:\n  - {match: [{destinationSubnets: [198.51.100.0/25]}], route: [{destination: {host: wide.example.com}}]}\n  - {match: [{destinationSubnets: [198.51.100.64/26, 203.0.113.0/24]}], route: [{destination: {host: narrow.example.com}}]}\n";
    mesh.apply("ranges.yaml", &objects);
    for (address, expect) in [
        ("198.51.100.1", "wide"),
        ("198.51.100.70", "narrow"),
        ("198.51.100.200", "own"),
    ] {
        let saw = call(&mesh, expect, &format!("http://{address}:9000/"));
        assert!(
            saw.starts_with(&format!("{expect} 200 {address}")),
            "{address}: {saw}"
        );
    }
    let bind = free_port();
    let text = format!("curl -s -m 5 http://127.0.0.1:{bind}/");
    let upstream = format!("own.example.com:9000={bind}");
    let run = script(
        &mesh,
        "bound",
        &["--capture", "namespace", "--upstream", &upstream],
        &text,
    );
    assert!(run.out().starts_with("own "), "{}{}", run.out(), run.err());
}

//! Calls out of the mesh: names that are looked up, TLS with real servers. What is observed is which server answered.

use naka_testkit::dns::NameServer;
use naka_testkit::mesh::{Mesh, SOON};
use naka_testkit::program::{Program, free_port};
use naka_testkit::wait::until;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Command, Stdio};

const ONE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
const TWO: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Servers at one port of two addresses, each of which says its own.
fn servers() -> u16 {
    let (one, two) = until("two addresses with one port", SOON, || {
        let one = TcpListener::bind((ONE, 0)).ok()?;
        let two = TcpListener::bind((TWO, one.local_addr().ok()?.port())).ok()?;
        Some((one, two))
    });
    let port = one.local_addr().expect("an address").port();
    for listener in [one, two] {
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || serve(stream));
            }
        });
    }
    port
}

fn serve(mut stream: TcpStream) {
    let own = stream.local_addr().expect("an address").ip().to_string();
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
        line.clear();
    }
    let length = own.len();
    let _ = write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{own}"
    );
}

/// A program with a sidecar, and the address of the sidecar's proxy port.
fn caller(mesh: &Mesh) -> (Program, String) {
    let script = "printf '%s\\n' \"$http_proxy\"; exec sleep infinity";
    let program = mesh.run("caller", &["--capture", "proxy"], &["sh", "-c", script]);
    let proxy = until("the proxy variable", SOON, || {
        let out = std::fs::read_to_string(&program.stdout).ok()?;
        out.split_once('\n').map(|(line, _)| line.to_owned())
    });
    (program, proxy)
}

/// Status and body of a call.
fn get(proxy: &str, url: &str) -> (String, String) {
    let output = Command::new("curl")
        .args(["-s", "-m", "15", "-x", proxy, "-w", "\n%{http_code}", url])
        .output()
        .expect("curl");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').unwrap_or(("", "000"));
    (status.to_owned(), body.to_owned())
}

fn entry(host: &str, port: u16, resolution: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {}}}\nspec:\n  hosts: [{host}]\n  ports: [{{number: 80, name: http, protocol: HTTP, targetPort: {port}}}]\n  resolution: {resolution}\n",
        host.replace('.', "-")
    )
}

#[test]
fn names_are_looked_up_again_and_failures_keep_the_last_answer() {
    let port = servers();
    let dns = NameServer::start().unwrap();
    let mut mesh = Mesh::down_with(&[]);
    let conf = mesh.file("resolv.conf", &dns.line());
    mesh.set("NAKA_RESOLV_CONF", conf.as_os_str());
    mesh.start_control();
    dns.set("db.example.com", &[ONE], 1);
    dns.set("turn.example.com", &[ONE, TWO], 1);
    let objects = [
        entry("db.example.com", port, "DNS"),
        entry("nobody.example.com", port, "DNS"),
        entry("turn.example.com", port, "DNS_ROUND_ROBIN"),
    ];
    mesh.apply("entries.yaml", &objects.concat());
    let (_program, proxy) = caller(&mesh);
    let ask = |host: &str| get(&proxy, &format!("http://{host}/"));
    let ok = |address: Ipv4Addr| ("200".to_owned(), address.to_string());
    // The first call waits for the first answer; a name that does not exist has no endpoint.
    assert_eq!(ask("db.example.com"), ok(ONE));
    assert_eq!(ask("nobody.example.com").0, "503");
    // Another address takes effect within its predecessor's time.
    dns.set("db.example.com", &[TWO], 1);
    until("the new address is called", SOON, || {
        (ask("db.example.com") == ok(TWO)).then_some(())
    });
    // The name is taken away, then the server falls silent: the last answer stays.
    for silent in [false, true] {
        dns.set("db.example.com", &[], 1);
        dns.silent(silent);
        let before = dns.asked();
        until("it is asked in vain", SOON, || {
            (dns.asked() >= before + 4).then_some(())
        });
        assert_eq!(ask("db.example.com"), ok(TWO), "silent: {silent}");
        dns.silent(false);
    }
    // All addresses of a name are used ...
    dns.set("db.example.com", &[ONE, TWO], 1);
    let mut seen = BTreeSet::new();
    until("both addresses are called", SOON * 2, || {
        seen.insert(ask("db.example.com"));
        (seen.len() == 2).then_some(())
    });
    // ... but where one at a time is asked for.
    let turns: BTreeSet<_> = (0..20).map(|_| ask("turn.example.com")).collect();
    assert_eq!(turns.len(), 1, "{turns:?}");
}

#[test]
fn a_sidecar_begins_tls_with_a_real_server_and_only_with_the_right_one() {
    let mut mesh = Mesh::up();
    let dir = mesh.home().join("made");
    std::fs::create_dir(&dir).unwrap();
    let openssl = |words: &str| {
        let done = Command::new("openssl")
            .args(words.split(' '))
            .current_dir(&dir)
            .output()
            .unwrap();
        assert!(done.status.success(), "{words}: {done:?}");
    };
    std::fs::write(dir.join("san"), "subjectAltName=DNS:api.example.com\n").unwrap();
    openssl(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout ca.key -out ca.pem -subj /CN=authority -days 2",
    );
    openssl(
        "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout s.key -out s.csr -subj /CN=s",
    );
    openssl(
        "x509 -req -in s.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out s.pem -days 2 -extfile san",
    );
    let port = free_port();
    let mut server = Command::new("openssl")
        .args([
            "s_server", "-www", "-quiet", "-tls1_2", "-cert", "s.pem", "-key", "s.key",
        ])
        .args(["-accept", &format!("127.0.0.1:{port}")])
        .current_dir(&dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("openssl listens", SOON, || {
        TcpStream::connect((ONE, port)).ok()
    });
    let ca = dir.join("ca.pem");
    let rule = |tls: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: bank}}\nspec: {{host: api.example.com, trafficPolicy: {{tls: {tls}}}}}\n"
        )
    };
    let entry = format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: bank}}\nspec:\n  hosts: [api.example.com]\n  ports: [{{number: 80, name: http, protocol: HTTP, targetPort: {port}}}]\n  resolution: STATIC\n  endpoints: [{{address: 127.0.0.1}}]\n"
    );
    let (_program, proxy) = caller(&mesh);
    let ca = ca.display();
    for (what, tls, expect) in [
        (
            "its authority",
            format!("{{mode: SIMPLE, caCertificates: {ca}}}"),
            "200",
        ),
        (
            "the system's authorities",
            "{mode: SIMPLE}".to_owned(),
            "503",
        ),
        (
            "another name",
            format!("{{mode: SIMPLE, caCertificates: {ca}, sni: other.example.com}}"),
            "503",
        ),
        (
            "another name, and its own among those listed",
            format!(
                "{{mode: SIMPLE, caCertificates: {ca}, sni: other.example.com, subjectAltNames: [api.example.com]}}"
            ),
            "200",
        ),
        (
            "nobody verifies",
            "{mode: SIMPLE, insecureSkipVerify: true}".to_owned(),
            "200",
        ),
        ("no TLS", "{mode: DISABLE}".to_owned(), "503"),
    ] {
        mesh.apply("bank.yaml", &format!("{entry}{}", rule(&tls)));
        let (status, body) = get(&proxy, "http://api.example.com/");
        assert_eq!(status, expect, "{what}: {body}");
        if expect == "200" {
            assert!(body.contains("TLSv1.2"), "{what}: {body}");
        }
    }
    let _ = server.kill();
    let _ = server.wait();
    mesh.kill_control();
}

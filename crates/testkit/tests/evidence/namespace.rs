//! Capture without root, its edges: what a program sees in its namespace, what it cannot do there and what it is told.
//! What happens where no namespace is to be had is in `refused`; that whole programs of six runtimes work in one, in
//! `languages`.

use crate::traffic::finish;
use naka_testkit::mesh::{Mesh, SOON};
use naka_testkit::program::{Program, children, free_port};
use naka_testkit::{user, wait};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Command;

pub(crate) const PAYMENT: &str = "http://payment/";

/// A service "payment" on the port 8080 of its own namespace.
pub(crate) fn payment(mesh: &Mesh, options: &[&str]) -> Program {
    payment_on(mesh, "8080", options)
}

fn payment_on(mesh: &Mesh, port: &str, options: &[&str]) -> Program {
    let prog = naka_testkit::mesh::testprog();
    let mut all = vec!["-s", "payment", "-p", port];
    all.extend_from_slice(options);
    let serve = ["serve", "--port", port, "--name", "payment"];
    let command: Vec<&str> = prog.to_str().into_iter().chain(serve).collect();
    let run = mesh.run("payment", &all, &command);
    mesh.wait_ready("payment", Some(port), &run);
    run
}

/// What a shell script in the mesh printed.
#[track_caller]
pub(crate) fn script(mesh: &Mesh, name: &str, options: &[&str], text: &str) -> Program {
    let mut run = mesh.run(name, options, &["sh", "-c", text]);
    run.wait(SOON).expect("the script ends");
    run
}

/// A server on the host that answers each connection with its name.
fn host_server(bind: &str) -> SocketAddr {
    let listener = TcpListener::bind(bind).expect("a port of the host");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nthe host answers");
        }
    });
    address
}

/// The process of `naka run` that made the namespace.
pub(crate) fn door_of(run: &Program) -> u32 {
    let mut queue = vec![run.pid()];
    while let Some(pid) = queue.pop() {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if command.split(|byte| *byte == 0).any(|word| word == b"door") {
            return pid;
        }
        queue.extend(children(pid));
    }
    panic!("no door below {}: {}", run.pid(), run.err());
}

/// A name has an address of both families, a client that asks for only one of them gets there, and so does one that
/// goes by the bare address. Without the capture the same address leads nowhere.
#[test]
fn names_addresses_and_both_families_are_captured() {
    let mesh = Mesh::up_unprivileged();
    let _payment = payment(&mesh, &[]);
    for (name, option) in [("four", "-4"), ("six", "-6")] {
        let run = script(
            &mesh,
            name,
            &[],
            &format!("curl -s -m 10 {option} {PAYMENT}"),
        );
        assert!(
            run.out().contains("/sa/user-"),
            "{name}: {}{}",
            run.out(),
            run.err()
        );
    }
    let resolve =
        "import socket; print(socket.getaddrinfo('payment', 80, socket.AF_INET6)[0][4][0])";
    let six = script(&mesh, "resolve", &[], &format!("python3 -c \"{resolve}\""));
    let six = six.out().trim().to_owned();
    assert!(six.starts_with("2001:2:"), "{six}");
    let raw = script(
        &mesh,
        "raw",
        &[],
        &format!(
            "address=$(getent ahostsv4 payment | awk '{{print $1; exit}}'); echo $address >&2; curl -s -m 10 -H 'Host: payment' http://$address/ && curl -s -m 10 'http://[{six}]/'"
        ),
    );
    assert_eq!(
        raw.out().matches("/sa/user-").count(),
        2,
        "{}{}",
        raw.out(),
        raw.err()
    );
    let four = raw.err().trim().to_owned();
    let outside = Command::new("curl")
        .args(["-s", "-m", "1", &format!("http://{four}/")])
        .output()
        .expect("curl");
    assert!(
        !String::from_utf8_lossy(&outside.stdout).contains("payment"),
        "{four} is an address of the mesh only"
    );
}

/// A program that listens on IPv6's loopback alone is called like any other.
#[test]
fn a_program_that_listens_on_ipv6_alone_is_called() {
    let mesh = Mesh::up_unprivileged();
    let prog = naka_testkit::mesh::testprog();
    let serve = [
        "serve", "--bind", "::1", "--port", "8080", "--name", "ledger",
    ];
    let command: Vec<&str> = prog.to_str().into_iter().chain(serve).collect();
    let server = mesh.run("ledger", &["-s", "ledger"], &command);
    mesh.wait_ready("ledger", Some("8080"), &server);
    for option in ["-4", "-6"] {
        let call = format!("curl -s -m 10 {option} http://ledger/");
        let run = script(&mesh, "caller", &[], &call);
        assert!(
            run.out().contains("/sa/user-"),
            "{}{}",
            run.out(),
            run.err()
        );
    }
}

/// An address of this machine that is not loopback. No packet is sent: the kernel only says what it would send from.
pub(crate) fn own_address() -> IpAddr {
    let asked = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.connect("192.0.2.55:9")?;
        socket.local_addr()
    });
    asked.expect("this machine has an address").ip()
}

/// An address of the world is reached through the sidecar; a namespace without one reaches nothing.
#[test]
fn an_address_outside_the_mesh_is_passed_on() {
    let mesh = Mesh::up_unprivileged();
    let own = own_address();
    let server = host_server(&format!("{own}:0"));
    let call = format!("curl -s -m 5 http://{server}/");
    let run = script(&mesh, "caller", &[], &call);
    assert_eq!(run.out(), "the host answers", "{}", run.err());
    let bare = user::command("unshare".as_ref())
        .args(["-rn", "sh", "-c", &call])
        .output()
        .expect("unshare");
    assert!(!bare.status.success());
}

/// Inside, a program is who it was, without capabilities: it cannot remove the rules or leave. The twin: from outside
/// the rules can be removed, and then its calls go nowhere instead of around the mesh.
#[test]
fn a_program_cannot_undo_its_capture() {
    let mesh = Mesh::up_unprivileged();
    let _payment = payment(&mesh, &[]);
    let script_text = format!(
        "id -u; grep -E '^Cap(Prm|Eff|Bnd|Amb)' /proc/self/status | tr -d '\\t'; \
         nft flush ruleset 2>/dev/null && echo flushed; \
         unshare -Urn true 2>/dev/null; unshare -Ur nft flush ruleset 2>/dev/null && echo flushed; \
         ip link add dummy0 type dummy 2>/dev/null && echo linked; \
         nsenter -t {} -n true 2>/dev/null && echo left; \
         curl -s -m 10 {PAYMENT}",
        std::process::id()
    );
    let path = std::env::var("PATH").unwrap_or_default();
    let run = script(
        &mesh,
        "mallory",
        &[],
        &format!("PATH={path}:/usr/sbin:/sbin; {script_text}"),
    );
    let said = run.out();
    let mut lines = said.lines();
    if user::root() {
        assert_eq!(lines.next(), Some(user::UID.to_string().as_str()), "{said}");
    } else {
        lines.next();
    }
    for set in ["CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(
            lines.next(),
            Some(format!("{set}:0000000000000000").as_str()),
            "{said}"
        );
    }
    let rest: String = lines.collect();
    assert!(rest.contains("/sa/user-"), "{said} {}", run.err());
    for done in ["flushed", "linked", "left"] {
        assert!(!rest.contains(done), "{said}");
    }

    let mut twin = mesh.run(
        "twin",
        &[],
        &["sh", "-c", &format!("read go; curl -s -m 2 {PAYMENT}")],
    );
    let door = wait::until("the program runs", SOON, || {
        children(twin.pid())
            .iter()
            .any(|pid| command(*pid).starts_with("sh"))
            .then(|| door_of(&twin))
    });
    let flushed = if user::root() {
        Command::new("nsenter")
            .args(["-t", &door.to_string(), "-n"])
            .args(["/usr/sbin/nft", "flush", "ruleset"])
            .output()
    } else {
        // Nobody but root and the door itself can; without the door the calls are as lost.
        Command::new("kill")
            .args(["-9", &door.to_string()])
            .output()
    };
    let flushed = flushed.expect("the twin's fault");
    assert!(
        flushed.status.success(),
        "{}",
        String::from_utf8_lossy(&flushed.stderr)
    );
    twin.close_stdin();
    let status = twin.wait(SOON).expect("the twin ends");
    assert!(!status.success() && twin.out().is_empty(), "{}", twin.out());
}

/// A program of root keeps its users, but not the rights to change the rules, to look into other processes or to leave.
/// One of nobody's has none at all, so what must not be there is the same.
#[test]
fn a_program_of_root_cannot_undo_its_capture_either() {
    let mesh = Mesh::up();
    let _payment = payment(&mesh, &[]);
    let text = format!(
        "PATH=$PATH:/usr/sbin; grep CapBnd /proc/self/status | cut -f2; nft flush ruleset 2>/dev/null && echo flushed; \
         nsenter -t {} -n true 2>/dev/null && echo left; \
         unshare -Ur nft flush ruleset 2>/dev/null && echo flushed; curl -s -m 10 {PAYMENT}",
        std::process::id()
    );
    let run = script(&mesh, "mallory", &[], &text);
    let said = run.out();
    let bounds = u64::from_str_radix(said.lines().next().unwrap_or_default(), 16).expect("hex");
    // NET_ADMIN, NET_RAW, SYS_MODULE, SYS_RAWIO, SYS_PTRACE, SYS_ADMIN, PERFMON, BPF.
    for bit in [12, 13, 16, 17, 19, 21, 38, 39] {
        assert_eq!(bounds >> bit & 1, 0, "capability {bit}: {bounds:x}");
    }
    assert!(said.contains("/sa/user-"), "{said}{}", run.err());
    assert!(
        !said.contains("flushed") && !said.contains("left"),
        "{said}"
    );
}

fn command(pid: u32) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Nothing gets to a program but by its sidecar, and nothing but a mesh identity gets through that.
#[test]
fn there_is_no_side_door_to_a_program() {
    let mesh = Mesh::up_unprivileged();
    let _payment = payment(&mesh, &[]);
    let workloads = mesh.workloads();
    let inbound = workloads[0]["ports"][0]["inbound_address"]
        .as_str()
        .expect("an address")
        .to_owned();
    let port = inbound.rsplit(':').next().expect("a port").to_owned();
    assert!(
        TcpStream::connect("127.0.0.1:8080").is_err(),
        "the program's port is not the host's"
    );
    // In plaintext to the sidecar's own port: from the host, from another program, and from one that opened the way.
    let plain = format!("http://{inbound}/");
    let outside = Command::new("curl")
        .args(["-s", "-m", "3", &plain])
        .output()
        .expect("curl");
    assert!(!String::from_utf8_lossy(&outside.stdout).contains("payment"));
    for (name, options) in [
        ("closed", vec![]),
        ("open", vec!["--host-port", port.as_str()]),
    ] {
        let run = script(&mesh, name, &options, &format!("curl -s -m 3 {plain}"));
        assert!(!run.out().contains("payment"), "{name}: {}", run.out());
    }
    for address in [
        "http://127.0.0.1:8080/",
        "http://[::1]:8080/",
        "http://192.0.2.1:8080/",
        "http://[2001:db8::1]:8080/",
    ] {
        let run = script(
            &mesh,
            "direct",
            &[],
            &format!("curl -g -s -m 3 '{address}'"),
        );
        assert!(run.out().is_empty(), "{address}: {}", run.out());
    }
    // The twin: by its name.
    let mut run = mesh.run(
        "twin",
        &[],
        &["curl", "-s", "-m", "10", "http://payment:8080/"],
    );
    finish(&mut run);
    assert!(run.out().contains("/sa/user-"), "{}", run.out());
}

/// The host's loopback is another one; a call that is refused inside and would be answered there gets one hint, and
/// `--host-port` opens it.
#[test]
fn the_hosts_loopback_is_opened_by_port_and_hinted_at() {
    let mesh = Mesh::up_unprivileged();
    let port = host_server("127.0.0.1:0").port();
    let call = format!("curl -s -m 5 http://127.0.0.1:{port}/");
    // Until the hint has come, so that it must come; more calls afterwards bring no second one.
    let err = mesh.home().join("hinted.err");
    let text = format!(
        "for i in $(seq 200); do {call} && exit 1; grep -q host-port {} && break; sleep 0.05; done; {call}; {call}; true",
        err.display()
    );
    let hinted = script(&mesh, "hinted", &[], &text);
    let said = hinted.err();
    assert_eq!(
        said.matches(&format!("--host-port {port}")).count(),
        1,
        "{said}"
    );
    assert!(said.lines().count() <= 3, "{said}");

    // One call that ends the program is enough.
    let once = script(&mesh, "once", &[], &call);
    let said = once.err();
    assert_eq!(
        said.matches(&format!("--host-port {port}")).count(),
        1,
        "{said}"
    );

    let port_text = port.to_string();
    for (name, host) in [("opened4", "127.0.0.1"), ("opened6", "[::1]")] {
        let call = format!("curl -g -s -m 5 'http://{host}:{port}/'");
        let opened = script(&mesh, name, &["--host-port", &port_text], &call);
        assert_eq!(opened.out(), "the host answers", "{name}: {}", opened.err());
        assert!(opened.err().is_empty(), "{}", opened.err());
    }
    // Proxy mode shares the host's loopback: nothing to open, nothing to hint at.
    let shared = script(
        &mesh,
        "shared",
        &["--capture", "proxy", "--host-port", &port_text],
        &call,
    );
    assert_eq!(shared.out(), "the host answers", "{}", shared.err());
}

/// A refused call to the port of a service gets that service's name.
#[test]
fn a_hint_names_the_service_that_has_the_port() {
    let mesh = Mesh::up_unprivileged();
    let _payment = payment(&mesh, &[]);
    let err = mesh.home().join("hinted.err");
    let text = format!(
        "for i in $(seq 200); do curl -s -m 5 http://127.0.0.1:8080/; grep -q payment:8080 {} && break; sleep 0.05; done; true",
        err.display()
    );
    let hinted = script(&mesh, "hinted", &[], &text);
    assert_eq!(
        hinted.err().matches("payment:8080").count(),
        1,
        "{}",
        hinted.err()
    );
}

/// Explicit binds and published ports work in both modes.
#[test]
fn binds_and_published_ports_work_in_both_modes() {
    let mesh = Mesh::up_unprivileged();
    for mode in ["namespace", "proxy"] {
        // In proxy mode the port is this machine's.
        let (port, published) = (free_port().to_string(), free_port());
        let publish = format!("127.0.0.1:{published}");
        // A plain caller is let in by the published port alone.
        let options = ["--capture", mode, "--publish", &publish];
        let served = payment_on(&mesh, &port, &options);
        let url = format!("http://127.0.0.1:{published}/");
        wait::until("the published port answers", SOON, || {
            let answer = Command::new("curl")
                .args(["-s", "-m", "5", &url])
                .output()
                .expect("curl");
            String::from_utf8_lossy(&answer.stdout)
                .contains("payment")
                .then_some(())
        });
        let local = free_port();
        let bind = format!("payment:80={local}");
        let run = script(
            &mesh,
            &format!("bound-{mode}"),
            &["--capture", mode, "--upstream", &bind],
            &format!("curl --noproxy '*' -s -m 10 http://127.0.0.1:{local}/"),
        );
        assert!(
            run.out().contains("/sa/user-"),
            "{mode}: {}{}",
            run.out(),
            run.err()
        );
        served.signal(rustix::process::Signal::TERM);
        drop(served);
        wait::until("payment is gone", SOON, || {
            mesh.workloads().is_empty().then_some(())
        });
    }
}

/// The program's environment is what the user set, proxy variables included.
#[test]
fn the_environment_is_left_alone() {
    let mesh = Mesh::up_unprivileged();
    let environment = |name: &str, options: &[&str]| {
        let args = ["run"].iter().chain(options).chain(&["--", "env"]);
        let mut command = mesh.command(args);
        command
            .env("no_proxy", "kept")
            .env("ALL_PROXY", "socks5://kept");
        let mut run = Program::start(name, mesh.home(), &mut command).expect("naka run");
        finish(&mut run);
        run.out()
    };
    let inside = environment("inside", &[]);
    assert!(
        inside.contains("no_proxy=kept") && inside.contains("ALL_PROXY=socks5://kept"),
        "{inside}"
    );
    for variable in ["http_proxy", "JAVA_TOOL_OPTIONS", "NODE_USE_ENV_PROXY"] {
        assert!(!inside.contains(variable), "{inside}");
    }
    let twin = environment("twin", &["--capture", "proxy"]);
    assert!(
        twin.contains("http_proxy=http://naka:") && !twin.contains("socks5"),
        "{twin}"
    );
}

/// A sidecar that dies is started again with the same listeners: a call made meanwhile waits and is answered. Door and
/// sidecar end with `naka run`, however that ends.
#[test]
fn a_new_sidecar_takes_the_same_sockets_and_nothing_is_left_behind() {
    let mesh = Mesh::up_unprivileged();
    let _payment = payment(&mesh, &[]);
    let mut caller = mesh.run(
        "caller",
        &[],
        &[
            "sh",
            "-c",
            &format!(
                "curl -s {PAYMENT} && echo && read go; curl -s -m 30 {PAYMENT} && echo; sleep 600"
            ),
        ],
    );
    wait::until("the first answer", SOON, || {
        (caller.out().lines().count() == 1).then_some(())
    });
    let (door, sidecar) = (
        door_of(&caller),
        mesh.sidecar_of(&caller).expect("a sidecar"),
    );
    let pid =
        rustix::process::Pid::from_raw(i32::try_from(sidecar).expect("a pid")).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
    caller.close_stdin();
    wait::until("the second answer", SOON, || {
        (caller.out().lines().count() == 2).then_some(())
    });
    let next = mesh.sidecar_of(&caller).expect("a new sidecar");
    assert_ne!(sidecar, next);
    assert_eq!(door, door_of(&caller), "the door is the same");
    caller.signal(rustix::process::Signal::KILL);
    for pid in [door, next] {
        wait::until("its processes are gone", SOON, || {
            let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            (state.is_empty() || state.contains(") Z ")).then_some(())
        });
    }
}

/// In proxy mode a program that reads no variable goes around its proxy: that is noticed. The twin, whose connection
/// stays on this machine's loopback, is not counted.
#[test]
fn connections_around_the_proxy_are_noticed() {
    let mesh = Mesh::up_unprivileged();
    let hold = |name: &str, bind: &str| {
        let listener = TcpListener::bind(bind).expect("a port of the host");
        let address = listener.local_addr().expect("bound");
        let call = format!(
            "import socket, time; held = socket.create_connection(('{}', {})); time.sleep(600)",
            address.ip(),
            address.port()
        );
        let options = ["-s", name, "--capture", "proxy"];
        let run = mesh.run(name, &options, &["python3", "-c", &call]);
        let held = listener.accept().expect("the program connects");
        (run, held)
    };
    let twin = hold("twin", "127.0.0.1:0");
    let around = hold("around", &format!("{}:0", own_address()));
    let bypassed = |name: &str| seen(&mesh, name)["bypassed"].as_u64();
    wait::until("a connection around the proxy", SOON, || {
        bypassed("around").filter(|count| *count > 0)
    });
    assert_eq!(bypassed("around"), Some(1), "counted once");
    assert_eq!(bypassed("twin"), Some(0));
    drop((twin, around));
}

/// What the sidecar of a service's first instance has seen.
fn seen(mesh: &Mesh, service: &str) -> Value {
    let runs = runs(mesh).expect("instances");
    let stem = format!(".{service}-v1");
    let instance = std::fs::read_dir(runs)
        .expect("instances")
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.to_string_lossy().contains(&stem))
        .expect("an instance");
    let answer = user::command("curl".as_ref())
        .args(["-s", "--unix-socket"])
        .arg(instance.join("admin.sock"))
        .arg("http://admin/seen")
        .output()
        .expect("curl");
    serde_json::from_slice(&answer.stdout).unwrap_or_default()
}

/// Where the instances are.
fn runs(mesh: &Mesh) -> Option<PathBuf> {
    let homes = [mesh.home().join("user/.naka/run"), mesh.home().join("run")];
    homes.into_iter().find(|dir| dir.exists())
}

/// The time that a namespace takes is in `start.json`; it is a figure, not a gate.
#[test]
fn the_set_up_of_a_namespace_is_measured() {
    let mesh = Mesh::up_unprivileged();
    let mut took: Vec<f64> = (0..20)
        .map(|round| {
            let run = script(&mesh, &format!("round-{round}"), &[], "true");
            assert!(run.err().is_empty(), "{}", run.err());
            capture_ms(&mesh).expect("capture_ms in start.json")
        })
        .collect();
    took.sort_by(f64::total_cmp);
    println!(
        "set-up of a namespace: median {} ms, worst {} ms of {}",
        took[took.len() / 2],
        took[took.len() - 1],
        took.len()
    );
    script(&mesh, "twin", &["--capture", "proxy"], "true");
    assert_eq!(capture_ms(&mesh), None, "proxy mode makes none");
}

/// `capture_ms` of the only instance.
fn capture_ms(mesh: &Mesh) -> Option<f64> {
    let start = std::fs::read_dir(runs(mesh)?)
        .ok()?
        .flatten()
        .find_map(|entry| std::fs::read_to_string(entry.path().join("start.json")).ok())?;
    serde_json::from_str::<Value>(&start).ok()?["capture_ms"].as_f64()
}

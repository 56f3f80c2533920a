//! Bad days of the machine: clocks that jump, disks that fill up or turn read-only, clients that never say a word.
//! What is counted is counted by the programs and read from the disk and `/proc`.

use crate::api::kubectl;
use crate::traffic::joined;
use naka_testkit::clock::Clock;
use naka_testkit::mesh::{Mesh, SOON, testprog};
use naka_testkit::program::{Program, free_port};
use naka_testkit::{size, user, wait};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

const DAY: i64 = 86_400;
/// Longer than any part waits for bytes of a head or a handshake.
const CUT: Duration = Duration::from_secs(40);

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

/// Starts an endless load from `order` to `payment`.
fn load(mesh: &Mesh, name: &str) -> Program {
    let arguments = [
        "--url",
        "http://payment/",
        "--rate",
        "100",
        "--connections",
        "4",
        "--for",
        "600",
    ];
    let load = mesh.load(name, &["-s", "order", "--capture", "proxy"], &arguments);
    answered(mesh, name, 20);
    load
}

/// Waits for so many more good answers.
#[track_caller]
fn answered(mesh: &Mesh, name: &str, more: usize) {
    let good = || {
        let log = mesh.logged(name);
        log.iter().filter(|line| line["status"] == 200).count()
    };
    let before = good();
    wait::until("answers", SOON, || (good() > before + more).then_some(()));
}

fn end(mut load: Program) {
    load.signal(Signal::TERM);
    let _ = load.wait(SOON);
}

/// What lies in the identity file of each sidecar, by its path.
fn identities(mesh: &Mesh) -> Vec<(PathBuf, Vec<u8>)> {
    let runs = std::fs::read_dir(mesh.home().join("run"));
    let mut all: Vec<(PathBuf, Vec<u8>)> = runs
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("identity.pem"))
        .filter_map(|path| Some((path.clone(), std::fs::read(path).ok()?)))
        .collect();
    all.sort();
    all
}

/// The clock of a machine jumps beyond the life of every certificate, and back: calls under way are not disturbed,
/// every certificate is made anew, newcomers get in. The twin: without a jump no certificate changes.
#[test]
fn clocks_jump_forward_and_back() {
    let mut mesh = Mesh::down_with(&[]);
    let clock = Clock::new(mesh.home()).expect("a clock");
    for (name, value) in clock.environment() {
        mesh.set(name, value);
    }
    mesh.start_control();
    let _v1 = mesh.serve("payment", "v1");
    let load_all = load(&mesh, "load");
    let mut before = identities(&mesh);
    let lasting: Vec<PathBuf> = before.iter().map(|(path, _)| path.clone()).collect();
    assert_eq!(lasting.len(), 2);
    answered(&mesh, "load", 50);
    assert_eq!(identities(&mesh), before, "the twin");
    for (round, ahead) in [(1, 3 * DAY), (2, 0), (3, -30)] {
        clock.set(ahead).expect("set the clock");
        if ahead != -30 {
            wait::until("new certificates", SOON + SOON, || {
                let now = identities(&mesh);
                let all = before.iter().all(|old| !now.contains(old));
                all.then_some(())
            });
        }
        // A newcomer on either side: the control plane's certificate holds, and so do those of the others.
        let late = load(&mesh, &format!("late-{round}"));
        let _server = mesh.serve("payment", &format!("late{round}"));
        end(late);
        before = identities(&mesh);
        // Not those of newcomers that have left again.
        before.retain(|(path, _)| lasting.contains(path));
    }
    end(load_all);
    let got = joined(
        &mesh,
        "load",
        &[
            "payment-v1",
            "payment-late1",
            "payment-late2",
            "payment-late3",
        ],
    );
    println!(
        "clock jumps: {} requests, {} failed",
        got.sent,
        got.failed.len()
    );
    assert_eq!(got.failed.len(), 0, "of {}: {:?}", got.sent, got.failed);
}

/// A disk of its own for the mesh's directory, in a mount namespace that every command of the mesh enters.
pub(crate) struct Disk {
    keeper: Program,
    at: PathBuf,
}

impl Disk {
    fn of(mesh: &mut Mesh, size: &str) -> Self {
        Self::at(mesh, "mesh", size)
    }

    /// A disk for a directory of the mesh's home.
    pub(crate) fn at(mesh: &mut Mesh, place: &str, size: &str) -> Self {
        let at = mesh.home().join(place);
        let mut made = std::fs::DirBuilder::new();
        made.recursive(true).mode(0o700);
        made.create(&at).expect("a directory");
        let mut command = Command::new("unshare");
        if !user::root() {
            command.args(["--user", "--map-root-user"]);
        }
        command
            .args(["--mount", "--propagation", "private", "sh", "-ec"])
            .arg(r#"mount -t tmpfs -o "size=$2,mode=700" tmpfs "$1"; echo ready; exec sleep infinity"#)
            .args([Path::new("disk"), &at])
            .arg(size);
        let keeper = Program::start("disk", mesh.home(), &mut command).expect("unshare");
        wait::until("a disk of its own", SOON, || {
            keeper.out().contains("ready").then_some(())
        });
        let mut prefix = vec![
            "nsenter".to_owned(),
            format!("--target={}", keeper.pid()),
            "--mount".to_owned(),
        ];
        if !user::root() {
            prefix.extend(["--user".to_owned(), "--preserve-credentials".to_owned()]);
        }
        mesh.within(prefix);
        Self { keeper, at }
    }

    /// A file on it as the test sees it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.keeper.pid()));
        let inside = self.at.strip_prefix("/").expect("absolute");
        root.join(inside).join(name)
    }

    /// Takes every byte that is left.
    pub(crate) fn fill(&self) {
        let mut file = std::fs::File::create(self.path("fill")).expect("create");
        for size in [1 << 16, 1 << 10, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
    }

    fn remount(&self, how: &str) {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={}", self.keeper.pid()))
            .arg("--mount");
        if !user::root() {
            command.args(["--user", "--preserve-credentials"]);
        }
        command
            .args(["mount", "-o", &format!("remount,{how}")])
            .arg(&self.at);
        let output = command.output().expect("nsenter");
        assert!(output.status.success(), "{}", words(&output));
    }
}

/// Larger than what is left of the last block of a full disk.
fn route(name: &str) -> String {
    let note = "x".repeat(20_000);
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, annotations: {{note: {note}}}}}\nspec:\n  hosts: [{name}]\n  http:\n  - route: [{{destination: {{host: {name}}}}}]\n"
    )
}

fn apply(mesh: &Mesh, name: &str) -> Output {
    let file = mesh.file(&format!("{name}.yaml"), &route(name));
    mesh.naka(["apply", "-f", file.to_str().expect("printable")])
}

fn has(mesh: &Mesh, name: &str) -> bool {
    mesh.naka(["get", "virtualservice", name]).status.success()
}

/// The partition of the log is full: changes are refused with the reason, nothing that was acknowledged is lost, the
/// traffic goes on; a restart comes up and reads all of it while the disk is still full, and writes again when there is
/// room. The twin: room from the start, and the same change is taken.
#[test]
fn the_partition_of_the_log_is_full() {
    let mut mesh = Mesh::down_with(&[]);
    let disk = Disk::of(&mut mesh, "4m");
    mesh.start_control();
    let _server = mesh.serve("payment", "v1");
    let load = load(&mesh, "load");
    assert!(apply(&mesh, "before").status.success(), "the twin");
    disk.fill();
    let refused = apply(&mesh, "full");
    let said = words(&refused);
    assert!(
        refused.status.code() == Some(2) && said.contains("No space left"),
        "{said}"
    );
    assert!(has(&mesh, "before") && !has(&mesh, "full"));
    answered(&mesh, "load", 50);
    mesh.kill_control();
    mesh.start_control();
    assert!(has(&mesh, "before"), "read while the disk is full");
    assert!(!apply(&mesh, "full").status.success());
    answered(&mesh, "load", 50);
    std::fs::remove_file(disk.path("fill")).expect("make room");
    mesh.kill_control();
    mesh.start_control();
    let taken = apply(&mesh, "full");
    assert!(taken.status.success(), "{}", words(&taken));
    assert!(has(&mesh, "before") && has(&mesh, "full"));
    end(load);
    let got = joined(&mesh, "load", &["payment-v1"]);
    assert_eq!(got.failed.len(), 0, "of {}", got.sent);
}

/// The store's directory is read-only: the control plane says so at its start, in one line that names the directory,
/// and the traffic goes on without it. The twin: writable again, it starts.
#[test]
fn the_store_is_read_only() {
    let mut mesh = Mesh::down_with(&[]);
    let disk = Disk::of(&mut mesh, "4m");
    mesh.start_control();
    let _server = mesh.serve("payment", "v1");
    let load = load(&mesh, "load");
    assert!(apply(&mesh, "before").status.success());
    mesh.kill_control();
    disk.remount("ro");
    let output = mesh.naka(["control"]);
    let said = words(&output);
    assert!(
        output.status.code() == Some(2)
            && said.contains(disk.at.to_str().expect("printable"))
            && said.contains("Read-only"),
        "{:?}: {said}",
        output.status.code()
    );
    answered(&mesh, "load", 50);
    disk.remount("rw");
    mesh.start_control();
    assert!(has(&mesh, "before") && apply(&mesh, "after").status.success());
    end(load);
    let got = joined(&mesh, "load", &["payment-v1"]);
    assert_eq!(got.failed.len(), 0, "of {}", got.sent);
}

/// TCP ports that a process listens on.
fn listening(pid: u32) -> Vec<u16> {
    let links = std::fs::read_dir(format!("/proc/{pid}/fd"));
    let sockets: Vec<String> = links
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|fd| std::fs::read_link(fd.path()).ok())
        .filter_map(|link| {
            let link = link.to_string_lossy().into_owned();
            Some(
                link.strip_prefix("socket:[")?
                    .trim_end_matches(']')
                    .to_owned(),
            )
        })
        .collect();
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let mut ports: Vec<u16> = table
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let open = *fields.get(3)? == "0A"
                && sockets.iter().any(|s| Some(&s.as_str()) == fields.get(9));
            let port = fields.get(1)?.rsplit(':').next()?;
            open.then(|| u16::from_str_radix(port, 16).ok()).flatten()
        })
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// Connections that say nothing, or one byte.
enum Silent {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Silent {
    /// Whether the other side has closed it.
    fn closed(&mut self) -> bool {
        let mut byte = [0; 512];
        let read = match self {
            Self::Tcp(stream) => stream.read(&mut byte),
            Self::Unix(stream) => stream.read(&mut byte),
        };
        match read {
            Ok(0) => true,
            // A server may say why before it closes.
            Ok(_) => false,
            Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}

/// So many connections to a port: one half says nothing at all, the other begins and never goes on.
fn besiege(port: u16, count: usize, held: &mut Vec<(String, Silent)>) {
    for number in 0..count {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else {
            continue;
        };
        if number % 2 == 0 {
            let first: &[u8] = if number % 4 == 0 {
                b"GET / HT"
            } else {
                &[0x16, 3, 1, 2]
            };
            let _ = stream.write_all(first);
        }
        stream.set_nonblocking(true).expect("nonblocking");
        held.push((port.to_string(), Silent::Tcp(stream)));
    }
}

fn besiege_socket(path: &Path, count: usize, held: &mut Vec<(String, Silent)>) {
    for number in 0..count {
        let Ok(mut stream) = UnixStream::connect(path) else {
            continue;
        };
        if number % 2 == 0 {
            let _ = stream.write_all(b"GET / HT");
        }
        stream.set_nonblocking(true).expect("nonblocking");
        held.push((path.display().to_string(), Silent::Unix(stream)));
    }
}

/// The status line that a plain GET gets.
fn get(port: u16, host: &str, path: &str, patience: Duration) -> String {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(patience))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        )?;
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        let _ = stream.shutdown(Shutdown::Both);
        Ok(text.lines().next().unwrap_or_default().to_owned())
    };
    ask().unwrap_or_else(|error| error.to_string())
}

fn gateway(mesh: &Mesh, port: u16) -> Program {
    mesh.apply(
        "edge.yaml",
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: edge}\nspec:\n  selector: {istio: ingressgateway}\n  servers:\n  - port: {number: 80, name: http, protocol: HTTP}\n    hosts: [pay.example]\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: edge}\nspec:\n  hosts: [pay.example]\n  gateways: [edge]\n  http:\n  - route: [{destination: {host: payment}}]\n",
    );
    let at = format!("80=127.0.0.1:{port}");
    let mut command = mesh.command(["proxy", "gateway", "--port", &at]);
    let gateway = Program::start("gateway", mesh.home(), &mut command).expect("a gateway");
    wait::until(format_args!("the gateway: {}", gateway.err()), SOON, || {
        get(port, "pay.example", "/", SOON)
            .contains("200")
            .then_some(())
    });
    gateway
}

/// Raises this process's own limit of open files, for the connections it is about to hold.
fn many_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).expect("more open files");
}

/// Every part answers those who mean it: programs, the published port, the gateway, and all ports of the control plane.
fn everybody_gets_in(mesh: &Mesh, published: u16, edge: u16, control: &[u16]) {
    answered(mesh, "load", 100);
    assert!(get(published, "payment", "/", SOON).contains("200"));
    assert!(get(edge, "pay.example", "/", SOON).contains("200"));
    let metrics = control
        .iter()
        .filter(|port| get(**port, "localhost", "/metrics", SOON).contains("200"));
    assert_eq!(
        metrics.count(),
        1,
        "metrics are plain HTTP, xDS and API are not"
    );
    assert!(mesh.naka(["status"]).status.success());
    let listed = kubectl(mesh, &["get", "virtualservices"]);
    assert!(listed.status.success(), "{}", words(&listed));
    // A newcomer: certificate service, xDS, registration.
    let _late = mesh.serve("ledger", "v1");
}

/// None of the silent connections lives long.
fn all_are_cut(mut held: Vec<(String, Silent)>, start: Instant, ports: &[u16]) {
    let all = held.len();
    let end_by = start + CUT;
    while !held.is_empty() && Instant::now() < end_by {
        held.retain_mut(|(_, stream)| !stream.closed());
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut left: Vec<&str> = held.iter().map(|(at, _)| at.as_str()).collect();
    left.dedup();
    assert!(
        held.is_empty(),
        "{} of {all} are still open, at {left:?} of {ports:?}",
        held.len()
    );
}

/// Connections that never finish a head or a handshake, on every listener of every part: who means it gets in all the
/// while, and the silent ones are cut. The twin: a request that is only slow is not.
#[test]
fn slow_clients_on_every_listener_keep_nobody_out() {
    many_files();
    let count = size().pick(150, 1_500);
    let mesh = Mesh::up();
    let (own, published, edge) = (free_port(), free_port(), free_port());
    let (prog, log) = (testprog(), mesh.log("payment-v1"));
    let (prog, log) = (
        prog.to_str().expect("printable"),
        log.to_str().expect("printable"),
    );
    let (own_text, declared) = (own.to_string(), format!("{own}/http"));
    let server = mesh.run(
        "payment-v1",
        &[
            "-s",
            "payment",
            "-p",
            &declared,
            "--publish",
            &published.to_string(),
            "--capture",
            "proxy",
        ],
        &[
            prog,
            "serve",
            "--port",
            &own_text,
            "--name",
            "payment",
            "--version",
            "v1",
            "--log",
            log,
        ],
    );
    mesh.wait_ready("payment", Some(&own_text), &server);
    let gateway = gateway(&mesh, edge);
    let load = load(&mesh, "load");
    let mut ports = listening(mesh.control_pid());
    let control = ports.clone();
    for proxy in [
        mesh.sidecar_of(&server).expect("a sidecar"),
        mesh.sidecar_of(&load).expect("a sidecar"),
        gateway.pid(),
    ] {
        ports.extend(listening(proxy));
    }
    assert!(
        control.len() >= 3
            && ports.len() >= 8
            && ports.contains(&published)
            && ports.contains(&edge),
        "{ports:?}"
    );
    let mut held = Vec::new();
    let start = Instant::now();
    for port in &ports {
        besiege(*port, count, &mut held);
    }
    besiege_socket(
        &mesh.home().join("mesh/local/control.sock"),
        count.min(200),
        &mut held,
    );
    for entry in std::fs::read_dir(mesh.home().join("run"))
        .expect("runs")
        .flatten()
    {
        besiege_socket(&entry.path().join("admin.sock"), count.min(200), &mut held);
    }
    println!(
        "{} silent connections on {} ports: {:.1} s",
        held.len(),
        ports.len(),
        start.elapsed().as_secs_f64()
    );

    let slow = std::thread::spawn(move || get(published, "payment", "/slow/12000", CUT));
    everybody_gets_in(&mesh, published, edge, &control);
    println!(
        "everybody got in {:.1} s after the siege began",
        start.elapsed().as_secs_f64()
    );

    all_are_cut(held, start, &ports);
    println!(
        "all are cut {:.1} s after the siege began",
        start.elapsed().as_secs_f64()
    );
    assert!(slow.join().expect("no panic").contains("200"), "the twin");
    end(load);
    let got = joined(&mesh, "load", &["payment-v1"]);
    assert_eq!(got.failed.len(), 0, "of {}", got.sent);
}

//! Host-wide capture, on machines that are network namespaces: who gets where with the rules, and the twin without.
//!
//! `base` has the control plane, `vm` a service, `client` only calls, `plain` knows no mesh.

use naka_testkit::machines::{Machine, Wire};
use naka_testkit::mesh::{SOON, naka, testprog};
use naka_testkit::program::{Program, children};
use naka_testkit::{user, wait};
use rustix::process::{Pid, Signal, kill_process};
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;

/// What rules are loaded by, and how the other tools are taken away from a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tool {
    Nft,
    Iptables,
    Legacy,
}

impl Tool {
    fn hides(self) -> &'static str {
        match self {
            Self::Nft => "",
            Self::Iptables => "mount --bind /dev/null /usr/sbin/nft",
            Self::Legacy => {
                "mount --bind /dev/null /usr/sbin/nft; mount --bind /dev/null /usr/sbin/xtables-nft-multi"
            }
        }
    }

    /// All rules of a machine.
    fn list(self) -> &'static str {
        match self {
            Self::Nft => "nft list ruleset",
            Self::Iptables => "iptables-save; ip6tables-save",
            Self::Legacy => "iptables-legacy-save; ip6tables-legacy-save",
        }
    }

    /// Somebody takes all of them away.
    fn flush(self) -> &'static str {
        match self {
            Self::Nft => "nft flush ruleset",
            Self::Iptables => "for t in filter nat; do iptables -t $t -F; ip6tables -t $t -F; done",
            Self::Legacy => {
                "for t in filter nat; do iptables-legacy -t $t -F; ip6tables-legacy -t $t -F; done"
            }
        }
    }

    fn has_rules(self, machine: &Machine) -> bool {
        let rules = machine.sh(self.list());
        rules.contains("table inet naka") || rules.contains("NAKA_")
    }
}

struct Site {
    vm: Machine,
    client: Machine,
    plain: Machine,
    base: Machine,
    _wire: Wire,
    _control: Program,
    _names: Program,
    dir: TempDir,
}

impl Site {
    fn up(tool: Tool) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("naka-test-")
            .tempdir()
            .expect("a temporary directory");
        let wire = Wire::new(dir.path());
        let machine = |name, number, mounts| wire.machine(name, dir.path(), number, mounts);
        let (base, plain) = (machine("base", 1, ""), machine("plain", 4, ""));
        let mut names = plain.command("python3");
        let names = Program::start("names", dir.path(), names.args(["-c", NAMES])).expect("python");
        wait::until("names are answered", SOON, || {
            base.try_sh("getent ahostsv4 base.test").0.then_some(())
        });
        let control = Program::start(
            "control",
            dir.path(),
            &mut at(
                &dir,
                "base",
                &base,
                &["control", "--advertise", "base.test"],
            ),
        )
        .expect("naka control");
        let site = Self {
            vm: machine("vm", 2, tool.hides()),
            client: machine("client", 3, tool.hides()),
            plain,
            base,
            _wire: wire,
            _control: control,
            _names: names,
            dir,
        };
        wait::until("the control plane answers", SOON, || {
            let status = site.command("base", &["status"]).output();
            status.is_ok_and(|o| o.status.success()).then_some(())
        });
        site
    }

    fn machine(&self, name: &str) -> &Machine {
        match name {
            "vm" => &self.vm,
            "client" => &self.client,
            "plain" => &self.plain,
            _ => &self.base,
        }
    }

    fn command(&self, name: &str, args: &[&str]) -> Command {
        at(&self.dir, name, self.machine(name), args)
    }

    #[track_caller]
    fn naka(&self, name: &str, args: &[&str]) -> String {
        let output = self.command(name, args).output().expect("naka");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{args:?}: {out}{err}");
        out
    }

    /// Makes a machine know the mesh.
    fn join(&self, name: &str, token_options: &[&str]) {
        let create = [&["token", "create", "--uses", "9"], token_options].concat();
        let token = self.naka("base", &create);
        let token = token.split_whitespace().find(|w| w.starts_with("naka1."));
        self.naka(name, &["join", token.expect("a token")]);
    }

    /// `naka run --capture host` on a machine.
    fn capture(&self, name: &str, options: &[&str], program: &[&str]) -> Program {
        let args = [&["run", "--capture", "host"], options, &["--"], program].concat();
        Program::start(name, self.dir.path(), &mut self.command(name, &args)).expect("naka run")
    }

    fn log(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.jsonl"))
    }

    fn logged(&self, name: &str) -> String {
        std::fs::read_to_string(self.log(name)).unwrap_or_default()
    }

    /// What a server of both families is started with.
    fn serve(&self, name: &str, port: u16) -> Vec<String> {
        let prog = testprog();
        let log = self.log(name);
        let (prog, log) = (prog.to_str(), log.to_str());
        let (prog, log) = (prog.expect("printable"), log.expect("printable"));
        let port = port.to_string();
        let words = [
            prog, "serve", "--bind", "::", "--port", &port, "--name", name, "--log", log,
        ];
        words.map(str::to_owned).into()
    }

    /// A server that knows no mesh; it answers when this returns.
    fn server(&self, machine: &Machine, name: &str, port: u16) -> Program {
        let words = self.serve(name, port);
        let mut command = machine.command(&words[0]);
        let program = Program::start(name, self.dir.path(), command.args(&words[1..]));
        let program = program.expect("the test's program");
        wait::until(name, SOON, || {
            let up = machine.try_sh(&format!("exec 3<>/dev/tcp/127.0.0.1/{port}"));
            let up = up.0 || curl(machine, &format!("http://127.0.0.1:{port}/")).is_some();
            up.then_some(())
        });
        program
    }
}

/// `naka` on a machine, with a home of its own there.
pub(crate) fn at(dir: &TempDir, name: &str, machine: &Machine, args: &[&str]) -> Command {
    let home = dir.path().join(name);
    let mut command = machine.command(naka());
    command
        .args(args)
        .env("HOME", &home)
        .env("NAKA_HOME", &home);
    command
}

/// What a call from a machine is answered, if it is.
pub(crate) fn curl(machine: &Machine, url: &str) -> Option<String> {
    let (done, out, _) = machine.try_sh(&format!("curl -g -s -f -m 5 '{url}'"));
    done.then_some(out)
}

pub(crate) fn kill(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    kill_process(pid.expect("a pid"), signal).expect("signalled");
}

pub(crate) fn sidecar(run: &Program) -> u32 {
    let of = |pid: &u32| {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        command
            .split(|byte| *byte == 0)
            .any(|word| word == b"sidecar")
    };
    let found = children(run.pid()).into_iter().find(of);
    found.unwrap_or_else(|| panic!("no sidecar: {}", run.err()))
}

/// Marks a socket as the sidecar's are.
const MARK: &str =
    "python3 -c 'import socket; socket.socket().setsockopt(socket.SOL_SOCKET, 36, 0x4e616b61)'";

/// The nameserver of all machines: every name that ends in `.test` is that of `base`.
const NAMES: &str = r#"
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("0.0.0.0", 53))
while True:
    m, who = s.recvfrom(512)
    end = m.index(b"\0", 12) + 5
    known = m[12:end].endswith(b"\4test\0\0\1\0\1")
    head = m[:2] + (b"\x81\x80" if b"\4test\0" in m else b"\x81\x83") + m[4:6] + bytes([0, known, 0, 0, 0, 0])
    answer = b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4" + bytes([10, 77, 0, 1]) if known else b""
    s.sendto(head + m[12:end] + answer, who)
"#;

/// What the captured client's program tries before it only waits. It runs as root, and so does its sidecar.
const TRIES: &str = "
id -u
MARK 2>/dev/null && echo marked
nft flush ruleset 2>/dev/null && echo flushed
iptables -t nat -F 2>/dev/null && echo flushed
iptables-legacy -t nat -F 2>/dev/null && echo flushed
nsenter -t 1 -n true 2>/dev/null && echo left
echo tried
exec sleep 600";

fn proof(tool: Tool) {
    let site = Site::up(tool);
    site.join("vm", &["-s", "payment"]);
    site.join("client", &["--service-account", "shop"]);
    let _undeclared = site.server(&site.vm, "undeclared", 9090);
    let _near = site.server(&site.plain, "near", 8000);
    let _far = site.server(&site.base, "far", 8000);
    let _database = site.server(&site.base, "database", 7777);

    let both = [8080, 9091].map(|port| site.serve("payment", port).join(" "));
    let both = format!("{} & exec {}", both[0], both[1]);
    let ports = ["-s", "payment", "-p", "8080", "-p", "9091"];
    let mut payment = site.capture("vm", &ports, &["sh", "-c", &both]);
    let uid = format!("uid:{}", user::UID);
    let exclude = [
        "--exclude",
        "10.77.0.4/32",
        "--exclude",
        ":7777",
        "--exclude",
        &uid,
    ];
    let options = [&["--service-account", "shop"][..], &exclude].concat();
    let mut client = site.capture(
        "client",
        &options,
        &["sh", "-c", &TRIES.replace("MARK", MARK)],
    );
    wait::until("the client's program has tried", SOON, || {
        assert!(
            client.alive() && payment.alive(),
            "{}{}",
            client.err(),
            payment.err()
        );
        client.out().contains("tried").then_some(())
    });
    assert_eq!(client.out(), "0\ntried\n", "{}", client.err());
    // The twin: whom nothing was taken from can.
    site.client.sh(MARK);
    callers_arrive_with_identity(&site);
    hosts_without_endpoints_keep_the_address_called(&site);
    no_side_door_to_the_program(&site);
    without_a_sidecar_nothing_gets_through(&site, tool, &mut client, &options);
    changed_rules_are_put_right(&site, tool, &payment);

    // The orderly end takes the rules away; the same program without the mesh is open to everybody.
    payment.signal(Signal::TERM);
    payment.wait(SOON).expect("it ends");
    assert!(!tool.has_rules(&site.vm));
    let _open = site.server(&site.vm, "payment", 8080);
    for address in [site.vm.four.clone(), format!("[{}]", site.vm.six)] {
        let answer = curl(&site.plain, &format!("http://{address}:8080/"));
        assert!(answer.is_some(), "{address}");
    }
}

/// By name, by the address of the name, and whichever program of the machine calls.
fn callers_arrive_with_identity(site: &Site) {
    wait::until("payment answers", SOON, || {
        curl(&site.client, "http://payment/")
    });
    let address = site
        .client
        .sh("getent ahostsv4 payment | awk '{print $1; exit}'");
    for url in [
        "http://payment:8080/name",
        &format!("http://{}/address", address.trim()),
    ] {
        let answer = curl(&site.client, url).unwrap_or_else(|| panic!("{url}"));
        assert!(answer.contains("/sa/shop"), "{url}: {answer}");
    }
    // The second port of the same workload has a listener of its own.
    let second = curl(&site.client, "http://payment:9091/");
    assert!(second.is_some_and(|answer| answer.contains("/sa/shop")));
    // What is not the mesh's is passed on, by both families and by a name that this machine's nameserver knows.
    let six = format!("[{}]", site.base.six);
    for address in [&site.base.four, &six, "far.test"] {
        assert!(
            curl(&site.client, &format!("http://{address}:8000/")).is_some(),
            "{address}"
        );
    }
    assert_eq!(
        curl(&site.plain, "http://payment/"),
        None,
        "the twin knows no mesh"
    );
}

/// A host of `resolution: NONE` is called where the program called it, and its requests pass its route: by name, and by
/// an address that the name does not mean. The twin says another name.
fn hosts_without_endpoints_keep_the_address_called(site: &Site) {
    let objects = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: far}\nspec:\n  hosts: [far.test]\n  ports: [{number: 8000, name: http, protocol: HTTP}]\n  resolution: NONE\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: far}\nspec:\n  hosts: [far.test]\n  http: [{headers: {response: {set: {x-route: taken}}}, route: [{destination: {host: far.test}}]}]\n";
    let file = site.dir.path().join("far.yaml");
    std::fs::write(&file, objects).expect("a file");
    let file = file.to_str().expect("printable");
    site.naka("base", &["apply", "--wait", "-f", file]);
    let call = |options: &str| {
        let shown = "%{http_code} %{remote_ip} [%header{x-route}]";
        let line = format!("curl -g -s -o /dev/null -m 5 -w '{shown}' {options}");
        site.client.sh(&line)
    };
    let (four, six) = (&site.base.four, &site.base.six);
    let by_name = call("http://far.test:8000/");
    assert_eq!(by_name, format!("200 {four} [taken]"));
    let by_address = call(&format!("-H 'host: far.test' http://[{six}]:8000/"));
    assert_eq!(by_address, format!("200 {six} [taken]"));
    let other = call(&format!("-H 'host: other.test' http://[{six}]:8000/"));
    assert_eq!(other, format!("200 {six} []"));
    site.naka("base", &["delete", "-f", file]);
}

/// Plaintext from other machines does not reach the program; ports that were not declared are nobody's business.
fn no_side_door_to_the_program(site: &Site) {
    for address in [site.vm.four.clone(), format!("[{}]", site.vm.six)] {
        for from in [&site.plain, &site.client] {
            for port in [8080, 9091, 15_006, 15_101] {
                let url = format!("http://{address}:{port}/side-door");
                assert_eq!(curl(from, &url), None, "{url}");
            }
        }
        let undeclared = format!("http://{address}:9090/");
        assert!(curl(&site.plain, &undeclared).is_some(), "{undeclared}");
    }
    // It is the sidecar that answers, and counts.
    let refused = format!("curl -s -i -m 5 http://{}:8080/side-door", site.vm.four);
    let refused = site.plain.sh(&refused);
    assert!(refused.contains("mtls-required"), "{refused}");
    let home = site.dir.path().join("vm");
    let stats = "/run/*/admin.sock http://naka/stats/prometheus";
    let stats = format!("curl -s --unix-socket {}{stats}", home.display());
    let stats = site.vm.sh(&stats);
    let counted = "naka_local_replies_total{reason=\"mtls-required\"}";
    assert!(stats.contains(counted), "{stats}");
    let seen = site.logged("payment");
    assert!(
        !seen.contains("side-door") && seen.contains("/address"),
        "{seen}"
    );
}

/// A stopped sidecar, a killed one, and a killed `naka run`: captured calls are refused, excluded ones get through.
fn without_a_sidecar_nothing_gets_through(
    site: &Site,
    tool: Tool,
    client: &mut Program,
    options: &[&str],
) {
    let machine = &site.client;
    let captured = [
        format!("http://{}:8000/", site.base.four),
        format!("http://[{}]:8000/", site.base.six),
        format!("http://{}:8080/side-door", site.vm.four),
    ];
    let refused = |when: &str| {
        for url in &captured {
            assert_eq!(curl(machine, url), None, "{when}: {url}");
        }
        // The sidecar's user without its capabilities.
        let own = format!(
            "setpriv --bounding-set=-net_admin,-net_raw curl -s -m 5 '{}'",
            captured[0]
        );
        assert!(!machine.try_sh(&own).0, "{when}: {own}");
    };
    // `naka run` must not start another one meanwhile.
    client.signal(Signal::STOP);
    kill(sidecar(client), Signal::KILL);
    refused("without a sidecar");
    client.signal(Signal::CONT);
    wait::until("the next sidecar", SOON, || {
        curl(machine, "http://payment/")
    });

    client.signal(Signal::KILL);
    client.wait(SOON).expect("killed");
    wait::until("the sidecar has ended", SOON, || {
        curl(machine, &captured[0]).is_none().then_some(())
    });
    assert!(tool.has_rules(machine), "they stay");
    refused("after kill -9");
    let near = format!("http://{}:8000/", site.plain.four);
    let database = format!("http://{}:7777/", site.base.four);
    for url in [&near, &database] {
        assert!(curl(machine, url).is_some(), "excluded: {url}");
    }
    let id = user::UID;
    machine.sh(&format!(
        "setpriv --reuid={id} --clear-groups curl -s -f -m 5 '{}'",
        captured[0]
    ));

    // The next run takes their place.
    let mut again = site.capture("client", options, &["sleep", "600"]);
    wait::until("captured again", SOON, || curl(machine, "http://payment/"));
    // One at a time, and `down` leaves the rules of a run that lives alone.
    let mut second = site.capture("client", options, &["true"]);
    assert_eq!(second.wait(SOON).expect("it ends").code(), Some(2));
    assert!(
        second.err().contains("captured already"),
        "{}",
        second.err()
    );
    site.naka("client", &["down"]);
    assert!(tool.has_rules(machine));
    again.signal(Signal::KILL);
    again.wait(SOON).expect("killed");
    let said = wait::until("the leftovers are removed", SOON, || {
        let said = site.naka("client", &["down"]);
        said.contains("removed the capture rules").then_some(said)
    });
    assert!(!tool.has_rules(machine), "{said}");
    assert!(
        curl(machine, &captured[0]).is_some(),
        "the twin: without rules"
    );
}

/// Somebody flushes the rules: they are back within seconds, with a line and a finding.
fn changed_rules_are_put_right(site: &Site, tool: Tool, payment: &Program) {
    site.vm.sh(tool.flush());
    wait::until("the rules are back", SOON, || {
        payment
            .err()
            .contains("somebody changed the capture rules")
            .then_some(())
    });
    let url = format!("http://{}:8080/side-door-again", site.vm.four);
    assert_eq!(curl(&site.plain, &url), None);
    wait::until("status says it", SOON, || {
        site.naka("base", &["status"])
            .contains("W951")
            .then_some(())
    });
    assert!(!site.logged("payment").contains("side-door-again"));
}

#[test]
fn a_whole_machine_is_captured_by_nft() {
    proof(Tool::Nft);
}

#[test]
fn a_whole_machine_is_captured_by_iptables() {
    proof(Tool::Iptables);
}

#[test]
fn a_whole_machine_is_captured_by_the_old_iptables() {
    proof(Tool::Legacy);
}

/// A user who is not root and has the two capabilities of the systemd unit captures as well; the sidecar keeps those, the
/// program has none. Without them nothing is captured and nothing started.
#[test]
fn a_unit_with_two_capabilities_is_enough() {
    let site = Site::up(Tool::Nft);
    site.join("client", &["--service-account", "shop"]);
    site.join("vm", &["-s", "payment"]);
    let words = site.serve("payment", 8080);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let _payment = site.capture("vm", &["-s", "payment", "-p", "8080"], &words);

    let home = site.dir.path().join("client");
    user::give(site.dir.path());
    user::give(&home);
    let config = std::fs::read_dir(&home).expect("the home of the client");
    config.flatten().for_each(|entry| user::give(&entry.path()));
    let unit = |name: &str, capabilities: &str| {
        let mut inner = user::command(naka().as_os_str());
        inner.args([
            "run",
            "--capture",
            "host",
            "--service-account",
            "shop",
            "--",
        ]);
        inner.args(["sh", "-c", "grep Cap /proc/self/status; exec sleep 600"]);
        let mut words: Vec<_> = inner.get_args().map(ToOwned::to_owned).collect();
        // `user::command` ends in setpriv, which is where capabilities are kept over the change of the user.
        let at = words.iter().position(|word| *word == *"--clear-groups");
        if !capabilities.is_empty() {
            let at = at.expect("setpriv");
            words.insert(at, format!("--inh-caps={capabilities}").into());
            words.insert(at, format!("--ambient-caps={capabilities}").into());
        }
        let mut command = site.client.command(inner.get_program());
        command
            .args(words)
            .env("HOME", &home)
            .env("NAKA_HOME", &home);
        Program::start(name, site.dir.path(), &mut command).expect("nsenter")
    };
    let mut without = unit("without", "");
    assert_eq!(without.wait(SOON).expect("it ends").code(), Some(2));
    assert!(without.err().contains("CAP_NET_ADMIN"), "{}", without.err());
    assert!(without.out().is_empty() && !Tool::Nft.has_rules(&site.client));

    let mut with = unit("with", "-all,+net_admin,+net_bind_service");
    wait::until("captured", SOON, || {
        assert!(with.alive(), "{}", with.err());
        curl(&site.client, "http://payment/").filter(|answer| answer.contains("/sa/shop"))
    });
    wait::until("the program has looked at itself", SOON, || {
        with.out().contains("CapAmb").then_some(())
    });
    let none = |line: &str| line.contains("CapBnd") || line.ends_with("\t0000000000000000");
    assert!(with.out().lines().all(none), "{}", with.out());
    let status = std::fs::read_to_string(format!("/proc/{}/status", sidecar(&with)));
    let status = status.expect("a sidecar");
    // NET_BIND_SERVICE is 10, NET_ADMIN 12.
    assert!(status.contains("CapEff:\t0000000000001400"), "{status}");
    with.signal(Signal::TERM);
    with.wait(SOON).expect("it ends");
    assert!(!Tool::Nft.has_rules(&site.client));
}

/// Where the sidecar cannot listen, its program is not started, and the machine is left as it was.
#[test]
fn without_its_sidecar_a_program_is_not_started() {
    let site = Site::up(Tool::Nft);
    site.join("client", &["--service-account", "shop"]);
    let options = ["--service-account", "shop"];
    {
        let _squatter = site.server(&site.client, "squatter", 15_001);
        let mut run = site.capture("client", &options, &["echo", "started"]);
        assert_eq!(run.wait(SOON).expect("it ends").code(), Some(2));
        assert!(
            run.out().is_empty() && run.err().contains("15001"),
            "{}",
            run.err()
        );
        assert!(!Tool::Nft.has_rules(&site.client));
    }
    let mut twin = site.capture("client", &options, &["echo", "started"]);
    assert!(twin.wait(SOON).expect("it ends").success());
    assert!(twin.out().ends_with("started\n"), "{}", twin.err());
}

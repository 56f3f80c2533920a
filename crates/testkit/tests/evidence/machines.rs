//! Programs on several machines, captured as `naka run` does it by default: who reaches whom, at which addresses, and
//! the twin of a control plane that is there for its own machine only.
//!
//! `base` has the control plane and a service, `vm` joins it, `plain` knows no mesh.

use crate::envoy::ENVOY_SOON;
use crate::host::{at, curl, kill, sidecar};
use crate::newcomer::venv;
use naka_testkit::machines::{Machine, Wire};
use naka_testkit::mesh::{SOON, testprog};
use naka_testkit::program::Program;
use naka_testkit::wait;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Four,
    Six,
}

impl Family {
    /// The address of a machine, as it stands before a port.
    fn of(self, machine: &Machine) -> String {
        match self {
            Self::Four => machine.four.clone(),
            Self::Six => format!("[{}]", machine.six),
        }
    }

    /// Gives a machine another address; the new one.
    fn renumber(self, machine: &Machine) -> String {
        let (old, new) = match self {
            Self::Four => (format!("{}/24", machine.four), "10.77.0.9/24"),
            Self::Six => (format!("{}/64", machine.six), "fd77::9/64 nodad"),
        };
        machine.sh(&format!(
            "ip addr del {old} dev eth0; ip addr add {new} dev eth0"
        ));
        match self {
            Self::Four => "10.77.0.9".to_owned(),
            Self::Six => "[fd77::9]".to_owned(),
        }
    }
}

struct Site {
    base: Machine,
    vm: Machine,
    plain: Machine,
    _wire: Wire,
    dir: TempDir,
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = at(&self.dir, "base", &self.base, &["down"]).output();
    }
}

impl Site {
    fn up(advertise: Option<Family>) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("naka-test-")
            .tempdir()
            .expect("a temporary directory");
        let wire = Wire::new(dir.path());
        let machine = |name, number| wire.machine(name, dir.path(), number, "");
        let site = Self {
            base: machine("base", 1),
            vm: machine("vm", 2),
            plain: machine("plain", 3),
            _wire: wire,
            dir,
        };
        match advertise {
            None => site.ok("base", &["up"]),
            Some(family) => {
                let address = match family {
                    Family::Four => &site.base.four,
                    Family::Six => &site.base.six,
                };
                site.ok("base", &["up", "--advertise", address])
            }
        };
        site
    }

    fn machine(&self, name: &str) -> &Machine {
        match name {
            "base" => &self.base,
            "vm" => &self.vm,
            _ => &self.plain,
        }
    }

    /// A command that must succeed; what it printed.
    #[track_caller]
    fn ok(&self, name: &str, args: &[&str]) -> String {
        let (done, said) = self.naka(name, args);
        assert!(done, "{args:?}: {said}");
        said
    }

    fn naka(&self, name: &str, args: &[&str]) -> (bool, String) {
        let mut command = at(&self.dir, name, self.machine(name), args);
        let output = command.output().expect("naka");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        (output.status.success(), said)
    }

    /// A token for a service, as the control plane's owner creates it.
    fn token(&self, service: &str) -> String {
        let said = self.ok("base", &["token", "create", "-s", service, "--uses", "9"]);
        let token = said.split_whitespace().find(|w| w.starts_with("naka1."));
        token.expect("a token").to_owned()
    }

    /// A service that also calls another one until it is answered.
    fn serve(&self, machine: &str, service: &str, options: &[&str], calls: &str) -> Program {
        let version = if options.contains(&"version=v2") {
            "v2"
        } else {
            "v1"
        };
        let script = format!(
            "{} serve --port 8080 --name {service} --version {version} --log {} &
             until curl -s -f -m 5 http://{calls}/; do sleep 0.1; done; echo; wait",
            testprog().display(),
            self.log(service).display()
        );
        let words = [
            &["run", "-s", service, "-p", "8080"],
            options,
            &["--", "sh", "-c", &script],
        ];
        let name = format!("{machine}-{service}");
        let mut command = at(&self.dir, machine, self.machine(machine), &words.concat());
        if options.contains(&"envoy") {
            command.env("NAKA_ENVOY", venv("envoy"));
        }
        Program::start(&name, self.dir.path(), &mut command).expect("naka run")
    }

    fn log(&self, service: &str) -> std::path::PathBuf {
        self.dir.path().join(format!("{service}.jsonl"))
    }

    /// Where the healthy workload of a service and version is dialled.
    fn inbound(&self, service: &str, version: &str) -> Option<String> {
        let (_, said) = self.naka("base", &["get", "workloads", "-A", "-o", "json"]);
        let list: Value = serde_json::from_str(&said).unwrap_or_default();
        let workload = list["items"].as_array()?.iter().find(|workload| {
            workload["service"] == service
                && workload["labels"]["version"] == version
                && workload["state"] == "healthy"
        })?;
        let address = workload["ports"][0]["inbound_address"].as_str()?;
        Some(address.to_owned())
    }

    #[track_caller]
    fn wait_inbound(&self, service: &str, version: &str, run: &Program) -> String {
        let what = format!("{service} {version} is healthy: {}", run.err());
        wait::until(&what, SOON, || self.inbound(service, version))
    }

    /// The answers to many calls by name from a client on `base`.
    fn call(&self, service: &str, count: usize) -> Vec<String> {
        let script = format!(
            "for i in $(seq {count}); do curl -s -f -m 5 http://{service}/call; echo; done"
        );
        let words = [
            "run",
            "--service-account",
            "caller",
            "--",
            "sh",
            "-c",
            &script,
        ];
        let said = self.ok("base", &words);
        let answers = said.lines().filter(|line| !line.is_empty());
        answers.map(str::to_owned).collect()
    }
}

fn proof(family: Family) {
    let site = Site::up(Some(family));
    let joined = site.token("inventory");
    site.ok("vm", &["join", &joined]);
    let shop = site.serve("base", "shop", &[], "inventory");
    let mut inventory = site.serve("vm", "inventory", &[], "shop");
    for (run, caller, called) in [
        (&shop, "shop", "inventory"),
        (&inventory, "inventory", "shop"),
    ] {
        wait::until(
            format_args!("{caller} is answered: {}", run.said()),
            SOON,
            || {
                let said = run.out();
                (said.contains(&format!("/sa/{caller}")) && said.contains(&format!("{called:?}")))
                    .then_some(())
            },
        );
    }
    let inbound = site.wait_inbound("inventory", "v1", &inventory);
    let own = format!("{}:", family.of(&site.vm));
    assert!(inbound.starts_with(&own), "{inbound}");
    let on_base = site.wait_inbound("shop", "v1", &shop);
    assert!(on_base.starts_with(&family.of(&site.base)), "{on_base}");

    nothing_in_plaintext(&site, &[&inbound, &on_base]);
    let second = site.serve("base", "inventory", &["-l", "version=v2"], "shop");
    site.wait_inbound("inventory", "v2", &second);
    weights_over_both_machines(&site);
    drop(second);

    // The same address after a restart, also where the program is captured in another way.
    inventory.signal(Signal::TERM);
    inventory.wait(SOON).expect("it ends");
    let again = site.serve("vm", "inventory", &["--capture", "proxy"], "shop");
    assert_eq!(site.wait_inbound("inventory", "v1", &again), inbound);

    // A new one where that is gone.
    let new = family.renumber(&site.vm);
    kill(sidecar(&again), Signal::KILL);
    wait::until("the next sidecar has the new address", SOON, || {
        let inbound = site.inbound("inventory", "v1")?;
        inbound.starts_with(&format!("{new}:")).then_some(())
    });
    let answers = site.call("inventory", 1);
    assert!(answers[0].contains("/sa/caller"), "{answers:?}");
}

/// A machine outside the mesh gets as far as the sidecar, which refuses it; the program's own port is not there.
fn nothing_in_plaintext(site: &Site, inbound: &[&str]) {
    for address in inbound {
        let refused = format!("curl -g -s -i -m 5 'http://{address}/side-door'");
        let refused = site.plain.sh(&refused);
        assert!(refused.contains("mtls-required"), "{refused}");
        let host = address.rsplit_once(':').expect("a port").0;
        let direct = format!("http://{host}:8080/side-door");
        assert_eq!(curl(&site.plain, &direct), None, "{direct}");
    }
    for service in ["shop", "inventory"] {
        let seen = std::fs::read_to_string(site.log(service)).unwrap_or_default();
        assert!(
            !seen.contains("side-door") && seen.contains("/sa/"),
            "{seen}"
        );
    }
}

/// v1 is on `vm`, v2 on `base`.
fn weights_over_both_machines(site: &Site) {
    for (weights, expected) in [
        (["v1=50", "v2=50"], 25..=75),
        (["v1=100", "v2=0"], 100..=100),
    ] {
        site.ok("base", &["split", "inventory", weights[0], weights[1]]);
        let answers = site.call("inventory", 100);
        let of = |part: &str| {
            answers
                .iter()
                .filter(|answer| answer.contains(part))
                .count()
        };
        let (first, second) = (of("\"v1\""), of("\"v2\""));
        assert_eq!(
            (first + second, of("/sa/caller")),
            (100, 100),
            "{answers:?}"
        );
        assert!(
            expected.contains(&first),
            "{weights:?}: {first} and {second}"
        );
    }
}

#[test]
fn programs_on_two_machines_call_each_other() {
    proof(Family::Four);
}

#[test]
fn programs_on_two_machines_call_each_other_over_ipv6() {
    proof(Family::Six);
}

/// An Envoy listens at its machine's address as a sidecar does; a call without an identity ends in its handshake.
#[test]
fn an_envoy_on_another_machine_calls_and_is_called() {
    for family in [Family::Four, Family::Six] {
        let site = Site::up(Some(family));
        site.ok("vm", &["join", &site.token("ledger")]);
        let shop = site.serve("base", "shop", &[], "ledger");
        let ledger = site.serve("vm", "ledger", &["--proxy", "envoy"], "shop");
        for (run, caller) in [(&shop, "shop"), (&ledger, "ledger")] {
            let what = format!("{caller} is answered: {}", run.err());
            wait::until(&what, ENVOY_SOON, || {
                run.out().contains(&format!("/sa/{caller}")).then_some(())
            });
        }
        let inbound = site.wait_inbound("ledger", "v1", &ledger);
        let own = format!("{}:", family.of(&site.vm));
        assert!(inbound.starts_with(&own), "{inbound}");
        let plain = format!("http://{inbound}/side-door");
        assert_eq!(curl(&site.plain, &plain), None, "{plain}");
    }
}

/// The twin: a control plane that advertises nothing is not reached from elsewhere, and its programs listen for their own
/// machine alone.
#[test]
fn without_an_advertised_address_everything_stays_on_loopback() {
    let site = Site::up(None);
    let shop = site.serve("base", "shop", &[], "shop");
    let inbound = site.wait_inbound("shop", "v1", &shop);
    let port = inbound.strip_prefix("127.0.0.1:").expect("loopback");
    for machine in [&site.vm, &site.plain] {
        for host in [Family::Four, Family::Six].map(|family| family.of(&site.base)) {
            let (done, said, _) =
                machine.try_sh(&format!("curl -g -s -i -m 5 'http://{host}:{port}/'"));
            assert!(!done && said.is_empty(), "{host}: {said}");
        }
    }
    let (joined, said) = site.naka("vm", &["join", &site.token("inventory")]);
    assert!(!joined && said.contains("127.0.0.1"), "{said}");
    // It is the sidecar that listens there.
    let said = site.base.sh(&format!("curl -s -i -m 5 http://{inbound}/"));
    assert!(said.contains("mtls-required"), "{said}");
}

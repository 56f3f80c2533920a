//! Bad days of certificates and of who issues them (row 38): clocks a day ahead and behind, the authority away when
//! renewals are due, everything over at once, and labels that nobody can be asked about.
//!
//! The mesh here is its own, with a clock that the test sets for all its processes at once. Landed when calls stop, or when
//! a call gets in that should not. Without the guard: a caller that keeps its certificate, an authority that stays away, a
//! program without a policy.

use crate::forge::{Pair, present};
use crate::ground::{Ground, Side};
use crate::{Attack, Outcome, outcome};
use naka_testkit::clock::Clock;
use naka_testkit::mesh::{Mesh, SOON};
use naka_testkit::program::Program;
use naka_testkit::wait::until;
use rustix::process::{Pid, Signal, kill_process};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;

const fn attack(name: &'static str, run: fn(&Ground, Side) -> Outcome) -> Attack {
    Attack { row: 38, name, run }
}

pub(crate) const ATTACKS: &[Attack] = &[
    attack("clocks that jump by a day, either way", jumps),
    attack("an authority that is away when renewals are due", renewal),
    attack("a control plane that is dead for a day", day),
    attack("all certificates over at once", over),
    attack("labels that nobody can be asked about", unknown),
];

/// A server and a caller that goes on calling, under a clock.
struct Days {
    clock: Clock,
    caller: Program,
    _server: Program,
    mesh: Mesh,
}

impl Days {
    fn begin(options: &[&str]) -> Self {
        Self::begin_after(options, 0)
    }

    /// Whose authority was made so many seconds ago.
    fn begin_after(options: &[&str], age: i64) -> Self {
        let mut mesh = Mesh::down_with(options);
        let clock = Clock::new(mesh.home()).expect("a clock");
        for (name, value) in clock.environment() {
            mesh.set(name, value);
        }
        clock.set(-age).expect("set the clock");
        mesh.start_control();
        if age > 0 {
            // Started again: its own certificate would be over, and the clock is not looked at every moment.
            mesh.kill_control();
            clock.set(0).expect("set the clock");
            mesh.start_control();
        }
        let server = mesh.serve("payment", "v1");
        let script = "while :; do curl -s -m 5 -o /dev/null -w '%{http_code}\\n' http://payment/; sleep 0.05; done";
        let options = ["-s", "order", "--capture", "proxy"];
        let caller = mesh.run("order", &options, &["sh", "-c", script]);
        let days = Self {
            clock,
            caller,
            _server: server,
            mesh,
        };
        assert!(days.served(SOON), "{}", days.caller.err());
        days
    }

    fn set(&self, ahead: i64) {
        self.clock.set(ahead).expect("set the clock");
    }

    fn answers(&self) -> Vec<String> {
        self.caller.out().lines().map(str::to_owned).collect()
    }

    /// Whether ten good answers in a row come within that time.
    fn served(&self, within: Duration) -> bool {
        let (end, before) = (Instant::now() + within, self.answers().len());
        while Instant::now() < end {
            let all = self.answers();
            let new = &all[before.min(all.len())..];
            if new.len() >= 10 && new.iter().rev().take(10).all(|one| one == "200") {
                return true;
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        false
    }

    fn failures(&self) -> usize {
        self.answers().iter().filter(|one| *one != "200").count()
    }

    /// The caller's proxy begins anew: no connection of before is left, each call wants a handshake.
    fn handshakes_anew(&self) {
        let pid = self.mesh.sidecar_of(&self.caller).expect("a sidecar");
        let pid = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .expect("a pid");
        kill_process(pid, Signal::KILL).expect("kill it");
        until("another sidecar", SOON, || {
            let new = self.mesh.sidecar_of(&self.caller).ok()?;
            (Some(new) != u32::try_from(pid.as_raw_nonzero().get()).ok()).then_some(())
        });
    }

    /// What each sidecar holds.
    fn identities(&self) -> Vec<(PathBuf, String)> {
        let runs = std::fs::read_dir(self.mesh.home().join("run")).expect("run directories");
        let files = runs
            .flatten()
            .map(|entry| entry.path().join("identity.pem"));
        let mut all: Vec<(PathBuf, String)> = files
            .filter_map(|path| Some((path.clone(), std::fs::read_to_string(path).ok()?)))
            .collect();
        all.sort();
        all
    }

    /// Whether every identity of before is another within that time.
    fn renewed(&self, before: &[(PathBuf, String)], within: Duration) -> bool {
        let end = Instant::now() + within;
        while Instant::now() < end {
            let now = self.identities();
            if before.iter().all(|old| !now.contains(old)) {
                return true;
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        false
    }

    /// The caller's certificate as it is now, in a file of its own.
    fn kept(&self) -> Pair {
        let all = self.identities();
        let own = all
            .iter()
            .find(|(path, _)| path.to_string_lossy().contains("order"));
        let text = own
            .expect("an identity")
            .1
            .split("\ntrusts\n")
            .next()
            .unwrap_or_default();
        let file = self.mesh.file("kept.pem", text);
        Pair {
            certificate: file.clone(),
            key: file,
        }
    }

    fn inbound(&self) -> SocketAddr {
        let all = self.mesh.workloads();
        let payment = all
            .iter()
            .find(|one| one["service"] == "payment")
            .expect("payment");
        let address = payment["ports"][0]["inbound_address"].as_str();
        address
            .and_then(|text| text.parse().ok())
            .expect("an address")
    }

    /// Whether a certificate that was put aside still gets in.
    fn gets_in(&self, address: SocketAddr, pair: &Pair, target: &str) -> bool {
        present(address, Some(pair), &[], target);
        self.mesh
            .logged("payment-v1")
            .iter()
            .any(|line| line["path"] == target)
    }
}

/// How long is waited for what should come, and for what should not.
fn patience(side: Side) -> Duration {
    match side {
        Side::Naka => SOON,
        Side::Open => Duration::from_secs(5),
    }
}

fn jumps(_: &Ground, side: Side) -> Outcome {
    let days = Days::begin_after(&[], 2 * DAY);
    let (pair, address) = (days.kept(), days.inbound());
    assert!(
        days.gets_in(address, &pair, "/kept"),
        "a certificate of today"
    );
    let mut seen = Vec::new();
    let mut landed = false;
    // An authority is older than the clock is behind, or nothing that it signed could hold.
    for (word, ahead) in [("ahead", DAY + 1), ("behind", -DAY)] {
        let before = days.identities();
        days.set(ahead);
        match side {
            Side::Naka => {
                let renewed = days.renewed(&before, SOON + SOON);
                days.handshakes_anew();
                let served = days.served(SOON);
                landed |= !(renewed && served);
                seen.push(format!("{word}: renewed {renewed}, served {served}"));
            }
            Side::Open => {
                days.renewed(&before, SOON + SOON);
                let target = format!("/kept-{ahead}");
                let refused = !days.gets_in(address, &pair, &target);
                landed |= refused;
                seen.push(format!("{word}: refused {refused}"));
            }
        }
    }
    outcome(landed, seen.join("; "))
}

fn renewal(_: &Ground, side: Side) -> Outcome {
    let mut days = Days::begin(&[]);
    let before = days.identities();
    days.mesh.kill_control();
    // Each renews at half to four fifths of its day.
    let ahead = if side == Side::Naka {
        20 * HOUR
    } else {
        25 * HOUR
    };
    days.set(ahead);
    let under_way = days.failures();
    days.handshakes_anew();
    let served = days.served(patience(side));
    if side == Side::Open {
        return outcome(
            !served,
            format!("served after {} h without it: {served}", ahead / HOUR),
        );
    }
    days.mesh.start_control();
    let renewed = days.renewed(&before, SOON + SOON);
    let later = days.served(SOON);
    outcome(
        !(served && renewed && later && under_way == 0),
        format!(
            "new handshakes without it: {served}, renewed when it was back: {renewed}, {under_way} calls under way failed"
        ),
    )
}

fn day(_: &Ground, side: Side) -> Outcome {
    let ttl = if side == Side::Naka { "48h" } else { "12h" };
    let mut days = Days::begin(&["--leaf-ttl", ttl]);
    days.mesh.kill_control();
    days.set(DAY);
    let under_way = days.failures();
    days.handshakes_anew();
    let served = days.served(patience(side));
    outcome(
        !served || under_way > 0,
        format!(
            "certificates of {ttl}: new handshakes {served}, {under_way} calls under way failed"
        ),
    )
}

fn over(_: &Ground, side: Side) -> Outcome {
    let mut days = Days::begin(&[]);
    days.mesh.kill_control();
    days.set(3 * DAY);
    days.handshakes_anew();
    let broken = !days.served(Duration::from_secs(3));
    assert!(broken, "everything is over");
    if side == Side::Naka {
        // All that the page on bad days says to do.
        days.mesh.start_control();
    }
    let began = Instant::now();
    let served = days.served(patience(side) + patience(side));
    let took = began.elapsed().as_secs_f64();
    let how = if side == Side::Naka {
        "naka up"
    } else {
        "nothing done"
    };
    outcome(
        !served,
        format!("{how}: served again {served} after {took:.1} s"),
    )
}

fn unknown(_: &Ground, side: Side) -> Outcome {
    let mut mesh = Mesh::up();
    let names: &[&str] = match side {
        Side::Naka => &["deny-not", "deny", "allow", "allow-not"],
        Side::Open => &["no-policy"],
    };
    let _servers: Vec<Program> = names.iter().map(|name| mesh.serve(name, "v1")).collect();
    for name in names.iter().filter(|_| side == Side::Naka) {
        let action = if name.starts_with("deny") {
            "DENY"
        } else {
            "ALLOW"
        };
        let field = if name.ends_with("-not") {
            "notValues"
        } else {
            "values"
        };
        mesh.apply(
            "labels.yaml",
            &format!(
                "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}}}\nspec:\n  selector: {{matchLabels: {{app: {name}}}}}\n  action: {action}\n  rules: [{{when: [{{key: 'source.labels[security-clearance]', {field}: [level-4]}}]}}]\n"
            ),
        );
    }
    let token = mesh.ok(["token", "create", "--service-account", "clerk"]);
    let home = mesh.home().join("home-of-clerk");
    std::fs::create_dir_all(&home).expect("a directory");
    let go = mesh.home().join("go");
    let calls = names
        .iter()
        .map(|name| format!("curl -s -m 10 -o /dev/null -w '%{{http_code}} ' http://{name}/"));
    let script = format!(
        "echo ready; until [ -e {} ]; do sleep 0.02; done; {}",
        go.display(),
        calls.collect::<Vec<_>>().join("; ")
    );
    let as_clerk = |args: &[&str]| {
        let mut command = mesh.command(args);
        command.env("NAKA_HOME", &home).env("HOME", &home);
        command
    };
    let joined = as_clerk(&["join", token.trim()]).output().expect("join");
    assert!(joined.status.success(), "{joined:?}");
    let args = [
        "run",
        "--service-account",
        "clerk",
        "-l",
        "security-clearance=level-4",
        "--",
        "sh",
        "-c",
        &script,
    ];
    let mut clerk = Program::start("clerk", mesh.home(), &mut as_clerk(&args)).expect("naka run");
    until(format_args!("the clerk: {}", clerk.said()), SOON, || {
        clerk.out().contains("ready").then_some(())
    });
    mesh.kill_control();
    std::fs::write(&go, "").expect("write");
    clerk.wait(SOON + SOON).expect("the calls end");
    let reached: Vec<&str> = names
        .iter()
        .copied()
        .filter(|name| !mesh.logged(&format!("{name}-v1")).is_empty())
        .collect();
    let out = clerk.out();
    let statuses = out.lines().last().unwrap_or_default();
    outcome(
        !reached.is_empty(),
        format!("answers {statuses}, reached {reached:?}"),
    )
}

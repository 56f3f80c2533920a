//! Several machines of one test: network namespaces on one wire, each with addresses of both families, a default route,
//! a resolver's file and packet rules of its own. Needs root; nothing of the real machine's network is touched, and all
//! of it is gone with the processes that hold it.
//!
//! The wire is a namespace too: it has the bridge, and it is everybody's default route (10.77.0.254, fd77::fe).

use crate::program::Program;
use crate::wait::until;
use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);
/// Whom the machines ask for names, if somebody serves there.
pub const NAMESERVER: &str = "10.77.0.4";
/// Keeps the namespaces until its standard input ends.
const HOLD: &str = "ip link set lo up; echo ready; exec cat";

/// One machine.
#[derive(Debug)]
pub struct Machine {
    holder: Program,
    /// IPv4 address.
    pub four: String,
    /// IPv6 address.
    pub six: String,
}

/// What machines are connected by.
#[derive(Debug)]
pub struct Wire(Machine);

impl Wire {
    /// A new one; files of its machines are in `dir`.
    ///
    /// # Panics
    /// When the system refuses.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        let wire = Machine::hold("wire", dir, 254, "");
        wire.sh("ip link add wire0 type bridge; ip link set wire0 up
            ip addr add 10.77.0.254/24 dev wire0; ip addr add fd77::fe/64 dev wire0 nodad");
        Self(wire)
    }

    /// A machine with the addresses 10.77.0.N and fd77::N. `mounts` is a script that runs first, in its own mount
    /// namespace: it can hide programs.
    ///
    /// # Panics
    /// When the system refuses.
    #[must_use]
    pub fn machine(&self, name: &str, dir: &Path, number: u8, mounts: &str) -> Machine {
        let resolv = dir.join(format!("{name}.resolv"));
        std::fs::write(&resolv, format!("nameserver {NAMESERVER}\n")).expect("a file");
        let mounts = format!(
            "{mounts}\nmount --bind {} /etc/resolv.conf",
            resolv.display()
        );
        let machine = Machine::hold(name, dir, number, &mounts);
        self.0.sh(&format!(
            "ip link add v{number} type veth peer name eth0 netns {}; ip link set v{number} master wire0 up",
            machine.holder.pid()
        ));
        machine.sh(&format!(
            "ip addr add {}/24 dev eth0; ip addr add {}/64 dev eth0 nodad; ip link set eth0 up
            ip route add default via 10.77.0.254; ip -6 route add default via fd77::fe",
            machine.four, machine.six
        ));
        machine
    }
}

impl Machine {
    fn hold(name: &str, dir: &Path, number: u8, mounts: &str) -> Self {
        let mut command = Command::new("unshare");
        command
            .args(["--net", "--mount", "--propagation", "private", "sh", "-ec"])
            .arg(format!("{mounts}\n{HOLD}"));
        let holder =
            Program::start(&format!("machine-{name}"), dir, &mut command).expect("unshare");
        until(
            format_args!("the machine {name}: {}", holder.said()),
            SOON,
            || holder.out().contains("ready").then_some(()),
        );
        Self {
            holder,
            four: format!("10.77.0.{number}"),
            six: format!("fd77::{number:x}"),
        }
    }

    /// A command on this machine.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args([
                "--net",
                "--mount",
                "-t",
                &self.holder.pid().to_string(),
                "--",
            ])
            .arg(program);
        command
    }

    /// Runs a script that must succeed; what it printed.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        let (done, out, err) = self.try_sh(script);
        assert!(done, "{script}: {out}{err}");
        out
    }

    /// Runs a script: whether it succeeded, what it printed, what it complained of.
    ///
    /// # Panics
    /// When it cannot be run.
    #[must_use]
    pub fn try_sh(&self, script: &str) -> (bool, String, String) {
        let output = self
            .command("sh")
            .args(["-ec", script])
            .output()
            .expect("nsenter");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (
            output.status.success(),
            text(&output.stdout),
            text(&output.stderr),
        )
    }
}

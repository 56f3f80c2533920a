//! The rules of a namespace: what the program sends goes to the sidecar's listeners, or nowhere.
//!
//! Rendered by a pure function and loaded by `nft -f -`. Every address is local here (see [`super::links`]), so a call
//! arrives where it was made to, on loopback; the packet that opens it is given to the sidecar's listener (tproxy), and
//! the address it was made to is the accepted socket's own. No other packet of a call is looked at and none is tracked:
//! tracking and translating each of them cost several times what the capture may. Only questions of names over UDP are
//! translated; they come first, so that a resolver on loopback (127.0.0.53) is answered too. All other datagrams are
//! rejected at once: a QUIC client then falls back to TCP without waiting. Loopback is the program's own and stays as it
//! is; calls that it refuses are told to the door (`log`), which hints at what the program may have meant.
//!
//! A kernel that lacks a part of this gets [`Way::Translated`]: the same promises by NAT, for more work per packet and
//! without hints.

use super::{ADDRESS4, ADDRESS6, DNS, OUTBOUND};
use naka_proxy::door::REFUSED_GROUP;
use rustix::thread::{CapabilitySet, CapabilitySets};
use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where administrators' programs are; a user's PATH need not have them.
const SYSTEM: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// How calls are led to the sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Given to its listener; nothing is tracked.
    Given,
    /// Translated to its address; everything is tracked.
    Translated,
}

/// The ruleset as `nft` reads it.
pub(crate) fn render(ipv6: bool, way: Way) -> String {
    let mut own = format!("    ip daddr {{ 127.0.0.0/8, {ADDRESS4} }} accept\n");
    let family = if ipv6 {
        own.push_str(&format!("    ip6 daddr {{ ::1, {ADDRESS6} }} accept\n"));
        "inet"
    } else {
        "ip"
    };
    let chains = match way {
        Way::Given => given(ipv6, &own),
        Way::Translated => translated(&own),
    };
    format!("table {family} naka {{\n{chains}}}\n")
}

fn given(ipv6: bool, own: &str) -> String {
    let to = |port: u16, more: &str| {
        if ipv6 {
            format!(
                "    meta nfproto ipv4 {more} tproxy ip to 127.0.0.1:{port} accept
    meta nfproto ipv6 {more} tproxy ip6 to [::1]:{port} accept\n"
            )
        } else {
            format!("    {more} tproxy to 127.0.0.1:{port} accept\n")
        }
    };
    let (names, calls) = (to(DNS, "tcp dport 53"), to(OUTBOUND, "meta l4proto tcp"));
    format!(
        "  chain sent {{
    type filter hook output priority -300; policy accept;
    meta l4proto tcp notrack accept
    udp dport 53 accept
{own}    reject
  }}
  chain names {{
    type nat hook output priority -100; policy accept;
    udp dport 53 redirect to :{DNS}
  }}
  chain calls {{
{names}{own}{calls}    drop
  }}
  chain arrived {{
    type filter hook prerouting priority -150; policy accept;
    tcp flags & (syn | rst) == 0 accept
    tcp flags & (syn | ack) == syn jump calls
    tcp flags & (rst | ack) == (rst | ack) tcp sequence 0 log group {REFUSED_GROUP} queue-threshold 1
  }}
"
    )
}

fn translated(own: &str) -> String {
    format!(
        "  chain capture {{
    type nat hook output priority -100; policy accept;
    udp dport 53 redirect to :{DNS}
    tcp dport 53 redirect to :{DNS}
{own}    meta l4proto tcp redirect to :{OUTBOUND}
  }}
  chain rest {{
    type filter hook output priority 0; policy accept;
    meta l4proto tcp accept
{own}    reject
  }}
"
    )
}

/// Loads a ruleset into the namespace of this process.
pub(crate) fn load(rules: &str) -> io::Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let nft = find(&path).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    let mut child = with_net_admin(&mut Command::new(nft))
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut input) = child.stdin.take() {
        // One that ends before it has read has said why.
        let _ = input.write_all(rules.as_bytes());
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().next().unwrap_or_default().trim();
    Err(io::Error::other(format!("nft ({}): {said}", output.status)))
}

/// Outside uid 0 a program that is executed loses every capability that is not ambient.
#[expect(unsafe_code, reason = "Command has no safe way to say this")]
fn with_net_admin(command: &mut Command) -> &mut Command {
    let raise = || {
        let held = rustix::thread::capabilities(None)?;
        let sets = CapabilitySets {
            inheritable: held.inheritable | CapabilitySet::NET_ADMIN,
            ..held
        };
        rustix::thread::set_capabilities(None, sets)?;
        rustix::thread::configure_capability_in_ambient_set(CapabilitySet::NET_ADMIN, true)?;
        Ok(())
    };
    // SAFETY: three system calls on the child itself; nothing is allocated and no lock is taken.
    unsafe { command.pre_exec(raise) }
}

/// `nft` on the path, or where administrators' programs are.
fn find(path: &OsStr) -> Option<PathBuf> {
    let runs = |file: &Path| {
        std::fs::metadata(file)
            .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    std::env::split_paths(path)
        .chain(SYSTEM.iter().map(PathBuf::from))
        .map(|dir| dir.join("nft"))
        .find(|file| runs(file))
}

#[cfg(test)]
mod tests {
    use super::{Way, render};

    #[test]
    fn names_are_asked_before_loopback_is_let_be() {
        for (ipv6, way) in [
            (false, Way::Given),
            (true, Way::Given),
            (false, Way::Translated),
            (true, Way::Translated),
        ] {
            let rules = render(ipv6, way);
            let order = match way {
                Way::Given => ["udp dport 53", "reject", "tcp dport 53", "daddr", ":15001"],
                Way::Translated => ["udp dport 53", "tcp dport 53", "daddr", ":15001", "reject"],
            };
            let mut from = 0;
            for text in order {
                let found = rules[from..].find(text);
                from += found.unwrap_or_else(|| panic!("{text} after {from}: {rules}"));
            }
            assert_eq!(rules.contains("ip6"), ipv6);
            assert_eq!(rules.starts_with("table inet"), ipv6);
            assert_eq!(rules.contains("notrack"), way == Way::Given);
        }
    }
}

//! The rules of a namespace: what the program sends goes to the sidecar's listeners, or nowhere.
//!
//! Rendered by a pure function and loaded by `nft -f -`. Questions of names come first, so that a resolver on loopback
//! (127.0.0.53) is answered too. Datagrams that are not such questions are rejected at once: a QUIC client then falls
//! back to TCP without waiting. Loopback is the program's own and stays as it is.

use super::{ADDRESS4, ADDRESS6, DNS, OUTBOUND};
use rustix::thread::{CapabilitySet, CapabilitySets};
use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where administrators' programs are; a user's PATH need not have them.
const SYSTEM: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// The ruleset as `nft` reads it.
pub(crate) fn render(ipv6: bool) -> String {
    let mut own = format!("    ip daddr {{ 127.0.0.0/8, {ADDRESS4} }} accept\n");
    let family = if ipv6 {
        own.push_str(&format!("    ip6 daddr {{ ::1, {ADDRESS6} }} accept\n"));
        "inet"
    } else {
        "ip"
    };
    format!(
        "table {family} naka {{
  chain capture {{
    type nat hook output priority -100; policy accept;
    udp dport 53 redirect to :{DNS}
    tcp dport 53 redirect to :{DNS}
{own}    meta l4proto tcp redirect to :{OUTBOUND}
  }}
  chain rest {{
    type filter hook output priority 0; policy accept;
{own}    meta l4proto udp reject
  }}
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
    use super::render;

    #[test]
    fn names_are_asked_before_loopback_is_let_be() {
        for ipv6 in [false, true] {
            let rules = render(ipv6);
            let at = |text: &str| {
                rules
                    .find(text)
                    .unwrap_or_else(|| panic!("{text}: {rules}"))
            };
            assert!(at("udp dport 53") < at("127.0.0.0/8"));
            assert!(at("tcp dport 53") < at("127.0.0.0/8"));
            assert!(at("127.0.0.0/8") < at("redirect to :15001"));
            assert!(at("redirect to :15001") < at("udp reject"));
            assert_eq!(rules.contains("ip6"), ipv6);
            assert_eq!(rules.starts_with("table inet"), ipv6);
        }
    }
}

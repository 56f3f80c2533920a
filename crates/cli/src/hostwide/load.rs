//! Loads the rules, reads them back and takes them away, by whatever tool this machine has.
//!
//! nft first: one transaction for both families. Where it is missing or refuses (kernels without nftables), the tools
//! of iptables, whose plain names are what the distribution chose, then the old ones by their own names. With iptables
//! each table of each family is one transaction; the order is such that less gets through in between.

use super::rules::{self, Spec, TABLE};
use crate::exit::{Exit, Outcome};
use std::fmt;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where administrators' programs are; PATH need not have them.
const SYSTEM: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];
/// Seconds to wait for whoever else changes rules by iptables.
const WAIT: [&str; 2] = ["--wait", "5"];

/// What the rules are loaded by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tool {
    /// nftables.
    Nft,
    /// iptables under the names the distribution chose.
    Iptables,
    /// The iptables of old kernels, by its own name.
    Legacy,
}

const TOOLS: [Tool; 3] = [Tool::Nft, Tool::Iptables, Tool::Legacy];

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nft => "nft",
            Self::Iptables => "iptables",
            Self::Legacy => "iptables-legacy",
        })
    }
}

/// Loads the rules with the first tool that can, in place of older ones of ours, and says which it was.
pub(crate) fn load(spec: &Spec) -> Outcome<Tool> {
    let mut refused = Vec::new();
    for tool in TOOLS {
        match tool.load(spec) {
            Ok(()) => {
                // Left behind by a run with another tool.
                for other in TOOLS.into_iter().filter(|other| *other != tool) {
                    let _ = other.remove(spec.ipv6);
                }
                return Ok(tool);
            }
            Err(problem) => {
                // What it did before it failed.
                let _ = tool.remove(spec.ipv6);
                refused.push(problem);
            }
        }
    }
    Err(Exit::failed(format!(
        "--capture host: no tool of this machine loads the rules: {}; install nftables (or iptables)",
        refused.join("; ")
    )))
}

/// Takes away what is there by any tool; whether there was something.
pub(crate) fn remove_all(ipv6: bool) -> bool {
    let mut some = false;
    for tool in TOOLS {
        some |= tool.remove(ipv6).unwrap_or(false);
    }
    some
}

impl Tool {
    /// Loads the rules in place of older ones.
    pub(crate) fn load(self, spec: &Spec) -> Result<(), String> {
        if self == Self::Nft {
            return run("nft", &["-f", "-"], &rules::nft(spec)).map(drop);
        }
        for six in families(spec.ipv6) {
            let present = self.save(*six)?;
            self.restore(*six, &rules::iptables(spec, !six, &present))?;
        }
        Ok(())
    }

    /// The rules of ours that are there, in a form to be compared with what was there before.
    pub(crate) fn present(self, ipv6: bool) -> Result<String, String> {
        if self == Self::Nft {
            return run("nft", &["list", "table", rules::family(ipv6), TABLE], "");
        }
        let mut all = String::new();
        for six in families(ipv6) {
            let saved = self.save(*six)?;
            all.extend(
                rules::ours(&saved)
                    .into_iter()
                    .flat_map(|rule| [rule, "\n"]),
            );
        }
        Ok(all)
    }

    /// Takes the rules away; whether there were some.
    pub(crate) fn remove(self, ipv6: bool) -> Result<bool, String> {
        if self == Self::Nft {
            let mut some = false;
            for family in ["inet", "ip"] {
                some |= run("nft", &["delete", "table", family, TABLE], "").is_ok();
            }
            return Ok(some);
        }
        let mut some = false;
        for six in families(ipv6) {
            let present = self.save(*six)?;
            if !present.contains("NAKA_") {
                continue;
            }
            self.restore(*six, &rules::iptables_removal(&present))?;
            some = true;
        }
        Ok(some)
    }

    fn save(self, six: bool) -> Result<String, String> {
        run(&self.name(six, "save"), &[], "")
    }

    fn restore(self, six: bool, text: &str) -> Result<(), String> {
        let name = self.name(six, "restore");
        run(&name, &[&["--noflush"][..], &WAIT].concat(), text).map(drop)
    }

    fn name(self, six: bool, what: &str) -> String {
        let family = if six { "ip6tables" } else { "iptables" };
        match self {
            Self::Legacy => format!("{family}-legacy-{what}"),
            _ => format!("{family}-{what}"),
        }
    }
}

fn families(ipv6: bool) -> &'static [bool] {
    if ipv6 { &[false, true] } else { &[false] }
}

/// Runs one of the tools with this input and returns what it prints.
fn run(name: &str, args: &[&str], input: &str) -> Result<String, String> {
    let file = find(name).ok_or_else(|| format!("{name} is not installed"))?;
    let failed = |error: &dyn fmt::Display| format!("{name}: {error}");
    let mut child = Command::new(file)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(&error))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ends before it has read says why.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(|error| failed(&error))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().find(|line| !line.trim().is_empty());
    Err(failed(
        &said.unwrap_or("it failed and did not say why").trim(),
    ))
}

/// A program on the path, or where administrators' programs are.
fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let runs = |file: &Path| {
        std::fs::metadata(file)
            .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    std::env::split_paths(&path)
        .chain(SYSTEM.iter().map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| runs(file))
}

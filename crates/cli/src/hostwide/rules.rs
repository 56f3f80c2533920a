//! The rules of host-wide capture, for nft and for iptables: pure functions from a small value.
//!
//! Both say the same. What this machine sends by TCP goes to the sidecar, but not what the sidecar itself sends (its
//! sockets carry the mark, which takes CAP_NET_ADMIN or CAP_NET_RAW to set: its user alone is no way past it), not what
//! stays on this machine, and not what was excluded. Questions of names to the machine's own nameservers go to the
//! sidecar's DNS; only to those, because a forwarder on this machine (systemd-resolved) asks others itself and would be
//! asked again for ever. What comes from other machines to a port of the program goes to the sidecar's listener for it.
//!
//! A second pair of chains refuses connections that the redirect missed, so a rule that is lost makes less get through,
//! never more. Only beginnings of connections are looked at: those that exist when the rules come stay alive, the
//! administrator's own session among them.
//!
//! Not here: other UDP, traffic forwarded for containers, ports that were not declared (22 among them): all untouched.

use naka_proxy::settings::Port;
use std::fmt::Write;
use std::net::IpAddr;
use std::str::FromStr;

/// The nft table and the start of the names of iptables chains.
pub(super) const TABLE: &str = "naka";

/// Everything the rules depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spec {
    /// Whether this machine speaks IPv6.
    pub(crate) ipv6: bool,
    /// Mark of the sidecar's own sockets.
    pub(crate) mark: u32,
    /// Where the machine's calls are led.
    pub(crate) outbound: u16,
    /// Where its questions of names are led.
    pub(crate) dns: u16,
    /// Whom it asks for names.
    pub(crate) nameservers: Vec<IpAddr>,
    /// Port of the program, and where the sidecar listens for it.
    pub(crate) inbound: Vec<(u16, u16)>,
    /// What is left alone.
    pub(crate) exclude: Vec<Exclude>,
}

/// Outgoing traffic that is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exclude {
    /// To these addresses.
    Net(IpAddr, u8),
    /// To this port.
    Port(u16),
    /// Of this user.
    Uid(u32),
}

impl FromStr for Exclude {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?}: write addresses (10.0.0.0/8, fd00::/8, 10.1.2.3), a port (:5432) or a user (uid:997)"
            )
        };
        if let Some(uid) = text.strip_prefix("uid:") {
            return uid.parse().map(Self::Uid).map_err(|_| wrong());
        }
        // Not `::1`: that is an address.
        if let Some(Ok(port)) = text.strip_prefix(':').map(u16::from_str) {
            return match port {
                0 => Err(wrong()),
                port => Ok(Self::Port(port)),
            };
        }
        let (address, length) = text
            .split_once('/')
            .map_or((text, None), |(address, length)| (address, Some(length)));
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let length = length.map_or(Ok(most), |length| length.parse().map_err(|_| wrong()))?;
        if length > most {
            return Err(wrong());
        }
        Ok(Self::Net(address, length))
    }
}

/// Where the sidecar listens for the n-th port of the program: the contract's port for the first one.
pub(crate) fn inbound(ports: &[Port]) -> Vec<(u16, u16)> {
    const FIRST: u16 = 15_006;
    /// After the ports that have a meaning.
    const NEXT: u16 = 15_101;
    let others = NEXT..;
    let ours = std::iter::once(FIRST).chain(others);
    ports.iter().map(|port| port.port).zip(ours).collect()
}

impl Spec {
    fn nets(&self, four: bool) -> Vec<String> {
        let nets = self.exclude.iter().filter_map(|one| match one {
            Exclude::Net(address, length) if address.is_ipv4() == four => {
                Some(format!("{address}/{length}"))
            }
            _ => None,
        });
        nets.collect()
    }

    fn ports(&self) -> Vec<u16> {
        let ports = self.exclude.iter().filter_map(|one| match one {
            Exclude::Port(port) => Some(*port),
            _ => None,
        });
        ports.collect()
    }

    fn uids(&self) -> Vec<u32> {
        let uids = self.exclude.iter().filter_map(|one| match one {
            Exclude::Uid(uid) => Some(*uid),
            _ => None,
        });
        uids.collect()
    }

    /// The nameservers of a family whose questions are taken; none when port 53 is left alone.
    fn asked(&self, four: bool) -> Vec<IpAddr> {
        if self.ports().contains(&53) {
            return Vec::new();
        }
        let all = self.nameservers.iter().copied();
        all.filter(|server| server.is_ipv4() == four).collect()
    }
}

/// The ruleset as `nft -f -` reads it; it takes the place of an older one in the same instant.
pub(super) fn nft(spec: &Spec) -> String {
    let families: &[(&str, bool)] = if spec.ipv6 {
        &[("ip", true), ("ip6", false)]
    } else {
        &[("ip", true)]
    };
    let mut early = format!("    meta mark {:#x} accept\n", spec.mark);
    line(&mut early, "meta skuid", &spec.uids(), "accept");
    let mut names = String::new();
    let mut alone = String::from("    fib daddr type local accept\n");
    for (family, four) in families {
        let servers = spec.asked(*four);
        for protocol in ["udp", "tcp"] {
            let to = format!("{protocol} dport 53 redirect to :{}", spec.dns);
            line(&mut names, &format!("{family} daddr"), &servers, &to);
        }
        let nets = spec.nets(*four);
        line(&mut alone, &format!("{family} daddr"), &nets, "accept");
    }
    line(&mut alone, "tcp dport", &spec.ports(), "accept");
    let (mut taken, mut missed) = (String::new(), String::new());
    for (port, ours) in &spec.inbound {
        let _ = writeln!(
            taken,
            "    fib daddr type local tcp dport {port} redirect to :{ours}"
        );
        let _ = writeln!(missed, "    tcp dport {port} {FIRST_PACKET} {RESET}");
    }
    let family = family(spec.ipv6);
    let outbound = spec.outbound;
    // A table that is declared first can be deleted whether or not it was there.
    format!(
        "table {family} {TABLE}
delete table {family} {TABLE}
table {family} {TABLE} {{
  chain outbound {{
    type nat hook output priority -100; policy accept;
{early}{names}{alone}    meta l4proto tcp redirect to :{outbound}
  }}
  chain inbound {{
    type nat hook prerouting priority -100; policy accept;
    iif \"lo\" accept
{taken}  }}
  chain outbound-missed {{
    type filter hook output priority 0; policy accept;
{early}{alone}    {FIRST_PACKET} {RESET}
  }}
  chain inbound-missed {{
    type filter hook input priority 0; policy accept;
    iif \"lo\" accept
{missed}  }}
}}
"
    )
}

const FIRST_PACKET: &str = "tcp flags & (fin | syn | rst | ack) == syn";
const RESET: &str = "reject with tcp reset";

/// The table's family.
pub(super) fn family(ipv6: bool) -> &'static str {
    if ipv6 { "inet" } else { "ip" }
}

/// One rule about a set; none about an empty one.
fn line<T: ToString>(rules: &mut String, what: &str, set: &[T], verdict: &str) {
    if !set.is_empty() {
        let set: Vec<String> = set.iter().map(T::to_string).collect();
        let _ = writeln!(rules, "    {what} {{ {} }} {verdict}", set.join(", "));
    }
}

/// Our chains of iptables: table, built-in chain, ours.
const CHAINS: [(&str, &str, &str); 4] = [
    ("nat", "OUTPUT", "NAKA_OUTPUT"),
    ("nat", "PREROUTING", "NAKA_PREROUTING"),
    ("filter", "OUTPUT", "NAKA_OUTPUT_MISSED"),
    ("filter", "INPUT", "NAKA_INPUT_MISSED"),
];

/// The same for one family as `iptables-restore --noflush` reads it. `present` is what `iptables-save` says: jumps to
/// our chains that are there are put first again. The filter table comes first: between the two commits less gets
/// through.
pub(super) fn iptables(spec: &Spec, four: bool, present: &str) -> String {
    let mut text = String::new();
    for table in ["filter", "nat"] {
        let _ = writeln!(text, "*{table}");
        let ours = CHAINS.iter().filter(|(of, ..)| *of == table);
        for (_, _, chain) in ours.clone() {
            let _ = writeln!(text, ":{chain} - [0:0]");
        }
        for (_, built_in, chain) in ours {
            text.push_str(&unhooked(table, built_in, chain, present));
            let _ = writeln!(text, "-I {built_in} 1 -p tcp -j {chain}");
            if *chain == "NAKA_OUTPUT" {
                // Questions of names come as datagrams, too.
                let _ = writeln!(text, "-I {built_in} 1 -p udp --dport 53 -j {chain}");
            }
            for rule in chain_rules(spec, four, chain) {
                let _ = writeln!(text, "-A {chain} {rule}");
            }
        }
        text.push_str("COMMIT\n");
    }
    text
}

/// Takes all of ours away.
pub(super) fn iptables_removal(present: &str) -> String {
    let mut text = String::new();
    for table in ["nat", "filter"] {
        let _ = writeln!(text, "*{table}");
        let ours = CHAINS
            .iter()
            .filter(|(of, _, chain)| *of == table && declared(table, chain, present));
        for (_, built_in, chain) in ours {
            text.push_str(&unhooked(table, built_in, chain, present));
            let _ = writeln!(text, "-F {chain}\n-X {chain}");
        }
        text.push_str("COMMIT\n");
    }
    text
}

/// Every rule of ours in what `iptables-save` says.
pub(super) fn ours(present: &str) -> Vec<&str> {
    let rules = present.lines().filter(|line| line.starts_with("-A "));
    rules.filter(|line| line.contains("NAKA_")).collect()
}

/// Lines of one table of what `iptables-save` says.
fn of_table<'a>(table: &'a str, present: &'a str) -> impl Iterator<Item = &'a str> {
    let begin = present
        .lines()
        .skip_while(move |line| line.strip_prefix('*') != Some(table));
    begin.take_while(|line| *line != "COMMIT")
}

fn declared(table: &str, chain: &str, present: &str) -> bool {
    of_table(table, present).any(|line| {
        line.strip_prefix(':')
            .and_then(|line| line.split_whitespace().next())
            == Some(chain)
    })
}

/// Deletes each jump to `chain` that is there.
fn unhooked(table: &str, built_in: &str, chain: &str, present: &str) -> String {
    let (from, to) = (format!("-A {built_in} "), format!(" -j {chain}"));
    of_table(table, present)
        .filter(|line| line.starts_with(&from) && line.ends_with(&to))
        .fold(String::new(), |text, line| {
            text + &line.replacen("-A", "-D", 1) + "\n"
        })
}

fn chain_rules(spec: &Spec, four: bool, chain: &str) -> Vec<String> {
    let local = "-m addrtype --dst-type LOCAL";
    let reset = "-p tcp --tcp-flags FIN,SYN,RST,ACK SYN";
    let refuse = "-j REJECT --reject-with tcp-reset";
    let early = || {
        let mark = format!("-m mark --mark {:#x} -j RETURN", spec.mark);
        let users = spec.uids().into_iter();
        let users = users.map(|uid| format!("-m owner --uid-owner {uid} -j RETURN"));
        std::iter::once(mark).chain(users)
    };
    let alone = || {
        let nets = spec.nets(four).into_iter();
        let ports = spec.ports().into_iter();
        std::iter::once(format!("{local} -j RETURN"))
            .chain(nets.map(|net| format!("-d {net} -j RETURN")))
            .chain(ports.map(|port| format!("-p tcp --dport {port} -j RETURN")))
    };
    match chain {
        "NAKA_OUTPUT" => {
            let names = spec.asked(four).into_iter().flat_map(|server| {
                ["udp", "tcp"].map(|protocol| {
                    format!(
                        "-d {server} -p {protocol} --dport 53 -j REDIRECT --to-ports {}",
                        spec.dns
                    )
                })
            });
            let rest = format!("-p tcp -j REDIRECT --to-ports {}", spec.outbound);
            early().chain(names).chain(alone()).chain([rest]).collect()
        }
        "NAKA_PREROUTING" => {
            let ports = spec.inbound.iter().map(|(port, ours)| {
                format!("{local} -p tcp --dport {port} -j REDIRECT --to-ports {ours}")
            });
            std::iter::once("-i lo -j RETURN".to_owned())
                .chain(ports)
                .collect()
        }
        "NAKA_OUTPUT_MISSED" => {
            let rest = format!("{reset} {refuse}");
            early().chain(alone()).chain([rest]).collect()
        }
        _ => {
            let ports = spec
                .inbound
                .iter()
                .map(|(port, _)| format!("{reset} --dport {port} {refuse}"));
            std::iter::once("-i lo -j RETURN".to_owned())
                .chain(ports)
                .collect()
        }
    }
}

#[cfg(test)]
mod tests;

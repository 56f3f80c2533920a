//! Host-wide capture: rules that lead the traffic of a whole machine (or network namespace) through one sidecar.
//!
//! Order is the promise: the rules come before the sidecar and go after it, so a call that is made while no sidecar
//! listens is refused. They outlive a `naka run` that was killed: then everything captured is refused until the next
//! one takes its place or `naka down` takes them away. Somebody else's change of them is noticed within [`CHECK_EVERY`]
//! and undone. Who may change them is an administrator, whom nothing here can stop.
//!
//! One captured workload per network namespace: an abstract Unix socket says so, since the kernel keeps those per
//! namespace and drops them with their process.
//!
//! What the rules say is in [`rules`], how they get into the kernel in [`load`]; that the sidecar's own sockets pass
//! them is the proxy's business (`Capture::Host`).

mod load;
mod rules;

pub(crate) use rules::Exclude;

use crate::exit::{Exit, Outcome};
use crate::launch::inbound::{source, towards};
use load::Tool;
use naka_proxy::settings::{self, Capture, Port, Settings};
use rules::Spec;
use rustix::thread::CapabilitySet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener, UnixStream};
use std::time::Duration;

/// How often the rules are looked at.
pub(crate) const CHECK_EVERY: Duration = Duration::from_secs(2);
/// Mark of the sidecar's own sockets: "Naka".
const MARK: u32 = 0x4e61_6b61;
/// Where the machine's calls are led (the contract's ports).
const OUTBOUND: u16 = 15_001;
const DNS: u16 = 15_053;
/// Name of the abstract socket of whoever captures here.
const LOCK: &[u8] = b"naka-capture-host";
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The capture of this machine, as long as it lives.
#[derive(Debug)]
pub(crate) struct Hostwide {
    spec: Spec,
    tool: Tool,
    /// What the kernel says that is there.
    loaded: String,
    /// Address at which other machines reach the sidecar.
    address: IpAddr,
    _lock: UnixListener,
}

/// What a look at the rules found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// As they should be.
    Same,
    /// Changed by somebody, and put right.
    Repaired,
    /// This machine asks other nameservers now; the rules say so.
    Renewed,
}

impl Hostwide {
    /// Takes the capture of this network namespace and loads the rules; `settings` learn what the sidecar must know.
    pub(crate) fn take(
        settings: &mut Settings,
        ports: &[Port],
        exclude: &[Exclude],
    ) -> Outcome<Self> {
        let held = rustix::thread::capabilities(None).map_err(io::Error::from)?;
        if !held.effective.contains(CapabilitySet::NET_ADMIN) {
            return Err(Exit::failed(
                "--capture host changes the packet rules of this machine and needs CAP_NET_ADMIN: run it as root, or in a systemd unit with AmbientCapabilities=CAP_NET_ADMIN",
            ));
        }
        if settings.service.is_some() && ports.is_empty() {
            return Err(Exit::usage(
                "--capture host needs the program's port before it starts: add -p PORT",
            ));
        }
        let lock = lock()?;
        let address = address(&settings.control.addresses)?;
        let ipv6 = std::path::Path::new("/proc/net/if_inet6").exists();
        let spec = Spec {
            ipv6,
            mark: MARK,
            outbound: OUTBOUND,
            dns: DNS,
            nameservers: nameservers(),
            inbound: rules::inbound(ports),
            exclude: exclude.to_vec(),
        };
        let tool = load::load(&spec)?;
        let loaded = tool.present(ipv6).map_err(Exit::failed)?;
        settings.inbound_ip = address;
        settings.outbound = None;
        settings.capture = Some(Capture::Host(settings::Host {
            mark: MARK,
            outbound: OUTBOUND,
            dns: DNS,
        }));
        Ok(Self {
            spec,
            tool,
            loaded,
            address,
            _lock: lock,
        })
    }

    /// Where the sidecar listens for the program's ports and what others dial.
    pub(crate) fn place(&self, ports: &mut [Port]) {
        let any: IpAddr = if self.spec.ipv6 {
            Ipv6Addr::UNSPECIFIED.into()
        } else {
            Ipv4Addr::UNSPECIFIED.into()
        };
        for port in ports {
            let ours = self.spec.inbound.iter().find(|(of, _)| *of == port.port);
            if let Some((_, ours)) = ours {
                port.bind = Some(SocketAddr::new(any, *ours));
                port.advertise = Some(SocketAddr::new(self.address, *ours));
            }
        }
    }

    /// Looks at the rules and puts them right.
    pub(crate) fn look(&mut self) -> Outcome<Look> {
        let servers = nameservers();
        let renewed = servers != self.spec.nameservers;
        self.spec.nameservers = servers;
        // A tool that cannot read them finds none; then they are loaded again.
        let there = self.tool.present(self.spec.ipv6).unwrap_or_default();
        if there == self.loaded && !renewed {
            return Ok(Look::Same);
        }
        let touched = there != self.loaded;
        self.tool = load::load(&self.spec)?;
        self.loaded = self.tool.present(self.spec.ipv6).map_err(Exit::failed)?;
        Ok(if touched {
            Look::Repaired
        } else {
            Look::Renewed
        })
    }
}

impl Drop for Hostwide {
    fn drop(&mut self) {
        load::remove_all(self.spec.ipv6);
    }
}

/// Takes away the rules that a killed run left; whether there were some. Those of a run that lives stay.
pub(crate) fn remove_leftovers() -> bool {
    let held = rustix::thread::capabilities(None);
    let may = held.is_ok_and(|held| held.effective.contains(CapabilitySet::NET_ADMIN));
    may && lock().is_ok_and(|_lock| load::remove_all(true))
}

/// Says that this network namespace is captured by this process, as long as the listener lives.
fn lock() -> Outcome<UnixListener> {
    let name = UnixAddr::from_abstract_name(LOCK)?;
    UnixListener::bind_addr(&name).map_err(|error| {
        let holder = UnixStream::connect_addr(&name)
            .ok()
            .and_then(|stream| rustix::net::sockopt::socket_peercred(stream).ok());
        match holder {
            Some(holder) => Exit::failed(format!(
                "--capture host: this machine is captured already, by process {} of user {}; one workload can be",
                holder.pid.as_raw_nonzero(),
                holder.uid.as_raw()
            )),
            None => Exit::failed(format!("--capture host: {error}")),
        }
    })
}

/// The address of this machine that the control plane sees, or that its default route has. Nothing is sent.
fn address(control: &[String]) -> Outcome<IpAddr> {
    // Names of the mesh get addresses of 240.0.0.0/4: a call to one gets as far as the rules only where a route takes
    // it.
    let outside = SocketAddr::from(([240, 0, 0, 1], 9));
    let routed = source(outside).ok_or_else(|| {
        Exit::failed(
            "--capture host: this machine has no default route, so calls to names of the mesh would go nowhere; add one: ip route add default via GATEWAY",
        )
    })?;
    Ok(towards(control).unwrap_or(routed))
}

/// Whom this machine asks for names.
fn nameservers() -> Vec<IpAddr> {
    asked(&std::fs::read_to_string(RESOLV_CONF).unwrap_or_default())
}

/// The nameservers of a `resolv.conf`. With a forwarder on this machine, only that: it asks the others itself.
fn asked(resolv_conf: &str) -> Vec<IpAddr> {
    let all: Vec<IpAddr> = resolv_conf
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let server = words.next().filter(|word| *word == "nameserver");
            server.and(words.next())?.split('%').next()?.parse().ok()
        })
        .collect();
    let here: Vec<IpAddr> = all.iter().copied().filter(IpAddr::is_loopback).collect();
    if here.is_empty() { all } else { here }
}

#[cfg(test)]
mod tests {
    use super::asked;

    #[test]
    fn a_forwarder_on_this_machine_is_asked_alone() {
        let asked =
            |text: &str| -> Vec<String> { asked(text).iter().map(ToString::to_string).collect() };
        assert_eq!(
            asked("# x\nsearch a.b\nnameserver 10.0.0.2\n nameserver fe80::1%eth0\nnameserver x\n"),
            ["10.0.0.2", "fe80::1"]
        );
        assert_eq!(
            asked("nameserver 127.0.0.53\nnameserver 10.0.0.2\n"),
            ["127.0.0.53"]
        );
        assert!(asked("options edns0").is_empty());
    }
}

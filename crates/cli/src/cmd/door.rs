//! `naka proxy door`: the small process that makes a program's network namespace and hands its sockets to the sidecar.
//!
//! `naka run` starts it before the sidecar and ends it last. On its standard output it says one line of JSON, [`Word`]:
//! that it is ready, or why there is no namespace here. Then it serves the door socket (`naka_proxy::door`) until it is
//! killed, or until its parent is gone. It keeps the listeners open, so a sidecar that is started again gets the same.

use crate::exit::{Exit, Outcome};
use crate::namespace::{self, DNS, OUTBOUND, Refusal};
use crate::out;
use naka_proxy::door::{self, Handed, Kind};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;

/// What a door is told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Spec {
    /// Where it serves.
    pub(crate) socket: PathBuf,
    /// Addresses inside that lead to services, in the order of the sidecar's settings.
    pub(crate) upstreams: Vec<SocketAddr>,
    /// Ports of loopback inside that lead to the host's loopback.
    pub(crate) host_ports: Vec<u16>,
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Word {
    /// The namespace is there and the door serves.
    Ready,
    /// There is no namespace to be had.
    Refused(Refusal),
    /// There is one, but something else went wrong.
    Failed(String),
}

impl Spec {
    /// The arguments that say it.
    pub(crate) fn words(&self) -> Vec<OsString> {
        let mut words = vec!["--socket".into(), self.socket.clone().into()];
        for upstream in &self.upstreams {
            words.extend(["--upstream".into(), upstream.to_string().into()]);
        }
        for port in &self.host_ports {
            words.extend(["--host-port".into(), port.to_string().into()]);
        }
        words
    }

    /// Reads them. By hand: the proxy's own binary has no parser of command lines.
    pub(crate) fn read(argv: impl IntoIterator<Item = OsString>) -> Outcome<Self> {
        let mut spec = Self::default();
        let mut argv = argv.into_iter();
        while let Some(option) = argv.next() {
            let value = argv.next().unwrap_or_default();
            let text = value.to_str().unwrap_or_default();
            let wrong = || Exit::usage(format!("door: {} {text:?}", option.display()));
            match option.to_str() {
                Some("--socket") => spec.socket = value.into(),
                Some("--upstream") => spec.upstreams.push(text.parse().map_err(|_| wrong())?),
                Some("--host-port") => spec.host_ports.push(text.parse().map_err(|_| wrong())?),
                _ => return Err(wrong()),
            }
        }
        Ok(spec)
    }
}

/// Runs the door. Must be called while the process has one thread.
pub(crate) fn run(argv: impl IntoIterator<Item = OsString>) -> Outcome {
    let parent = std::os::unix::process::parent_id();
    let spec = Spec::read(argv)?;
    let made = match namespace::make() {
        Ok(made) => made,
        Err(refusal) => return say(&Word::Refused(refusal)),
    };
    // After the namespace: a change of credentials takes the wish away.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    if std::os::unix::process::parent_id() != parent {
        return Ok(());
    }
    let opened = open(&spec, made.ipv6);
    let opened = opened.and_then(|handed| Ok((handed, bind(&spec)?)));
    let (handed, listener) = match opened {
        Ok(opened) => opened,
        Err(problem) => return say(&Word::Failed(problem)),
    };
    let refusals = refusals(made.translated);
    say(&Word::Ready)?;
    match door::serve(&listener, &handed, refusals.as_ref()) {
        Ok(never) => match never {},
        Err(error) => Err(Exit::failed(format!("the door: {error}"))),
    }
}

/// Where calls that nobody listens for are told, if this system tells of them.
fn refusals(translated: Option<io::Error>) -> Option<std::os::fd::OwnedFd> {
    if let Some(error) = translated {
        out::note(format!(
            "door: calls are translated (NAT) for want of a part of the kernel (nft_tproxy, nft_log): {error}. Each \
             packet costs more and there are no hints about refused calls"
        ));
        return None;
    }
    door::watch()
        .inspect_err(|error| out::note(format!("door: no hints about refused calls: {error}")))
        .ok()
}

fn say(word: &Word) -> Outcome {
    let text = serde_json::to_string(word).map_err(|error| Exit::failed(error.to_string()))?;
    out::line(text);
    Ok(())
}

fn bind(spec: &Spec) -> Result<std::os::fd::OwnedFd, String> {
    door::bind(&spec.socket).map_err(|error| format!("{}: {error}", spec.socket.display()))
}

/// Opens every socket that is handed over, within the namespace.
fn open(spec: &Spec, ipv6: bool) -> Result<Vec<Handed>, String> {
    let mut loopback = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
    if ipv6 {
        loopback.push(IpAddr::V6(Ipv6Addr::LOCALHOST));
    }
    let mut handed = Vec::new();
    for ip in &loopback {
        let (outbound, dns) = (SocketAddr::new(*ip, OUTBOUND), SocketAddr::new(*ip, DNS));
        let calls = tcp(outbound, Kind::Outbound { address: outbound })?;
        let names = tcp(dns, Kind::DnsTcp { address: dns })?;
        for listener in [&calls, &names] {
            door::take_all(&listener.socket).map_err(|error| format!("the capture: {error}"))?;
        }
        handed.extend([calls, udp(dns, Kind::DnsUdp { address: dns })?, names]);
    }
    for (index, upstream) in spec.upstreams.iter().enumerate() {
        handed.push(tcp(*upstream, Kind::Upstream { index })?);
    }
    for port in &spec.host_ports {
        for ip in &loopback {
            let kind = Kind::HostPort { port: *port };
            handed.push(tcp(SocketAddr::new(*ip, *port), kind)?);
        }
    }
    Ok(handed)
}

fn tcp(address: SocketAddr, kind: Kind) -> Result<Handed, String> {
    let listener = TcpListener::bind(address)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .map_err(|error| taken(address, kind, &error))?;
    Ok(Handed {
        kind,
        socket: listener.into(),
    })
}

fn udp(address: SocketAddr, kind: Kind) -> Result<Handed, String> {
    let socket = UdpSocket::bind(address)
        .and_then(|socket| socket.set_nonblocking(true).map(|()| socket))
        .map_err(|error| taken(address, kind, &error))?;
    Ok(Handed {
        kind,
        socket: socket.into(),
    })
}

/// In a fresh namespace only our own listeners can be in each other's way.
fn taken(address: SocketAddr, kind: Kind, error: &io::Error) -> String {
    let option = match kind {
        Kind::Upstream { .. } => "--upstream",
        Kind::HostPort { .. } => "--host-port",
        _ => "the capture",
    };
    if error.kind() == io::ErrorKind::AddrInUse {
        format!(
            "{option}: {address} is taken inside already by another option, or by the capture itself ({OUTBOUND}, {DNS}); give the service another local port: --upstream NAME:PORT=LOCAL"
        )
    } else {
        format!("{option}: cannot listen on {address} inside: {error}")
    }
}

#[cfg(test)]
mod tests {
    use super::Spec;

    #[test]
    fn what_a_door_is_told_is_read_back() {
        let spec = Spec {
            socket: "/run/x/door.sock".into(),
            upstreams: vec!["127.0.0.1:5432".parse().unwrap()],
            host_ports: vec![6379, 80],
        };
        assert_eq!(Spec::read(spec.words()).unwrap(), spec);
        for bad in [
            &["--upstream", "x"][..],
            &["--host-port"],
            &["--other", "1"],
        ] {
            let read = Spec::read(bad.iter().map(|word| (*word).into()));
            assert_eq!(read.unwrap_err().code, 64, "{bad:?}");
        }
    }
}

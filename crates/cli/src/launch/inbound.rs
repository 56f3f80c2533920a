//! The address at which a sidecar takes the calls of other sidecars: bound and advertised.
//!
//! A mesh whose control plane is reached on this machine alone stays on loopback, so that nothing is open to a network
//! that nobody asked for. Where the control plane has an address for other machines, theirs may call, and then it is
//! this machine's address towards it: the one that the kernel would send from, which others that reach the control
//! plane can most likely reach as well. An address once taken is kept as long as this machine has it.
//!
//! Not here: the listeners themselves (the proxy's), and the choice of `--capture host`, which has rules to lead every
//! address of the machine.

use crate::exit::{Exit, Outcome};
use crate::out;
use naka_proxy::settings::{Capture, Settings};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Chooses the address for a workload that serves.
pub(crate) fn settle(settings: &mut Settings) -> Outcome {
    if settings.service.is_none() {
        return Ok(());
    }
    let control = &settings.control.addresses;
    let kept = naka_proxy::run::kept_inbound(&settings.run_dir);
    if let Some(address) = choose(control, kept, exists, || towards(control)) {
        settings.inbound_ip = address;
        return Ok(());
    }
    let all = control.iter().map(String::as_str);
    let away: Vec<&str> = all.filter(|address| elsewhere(address)).collect();
    let why = format!(
        "this machine has no address towards the control plane ({}), so programs on other machines could not call this one",
        away.join(", ")
    );
    if settings.control.socket.is_none() {
        return Err(Exit::failed(format!(
            "{why}; check its network and its names"
        )));
    }
    // The control plane is on this machine, and so may be everybody else.
    out::note(format!(
        "naka: {why}; it is called on this machine only until it is started again"
    ));
    settings.inbound_ip = LOOPBACK;
    Ok(())
}

/// Chooses anew for a sidecar that is started again, if this machine has lost the address meanwhile. Whether it did.
pub(crate) fn renew(settings: &mut Settings) -> Outcome<bool> {
    if matches!(settings.capture, Some(Capture::Host(_))) || exists(settings.inbound_ip) {
        return Ok(false);
    }
    settle(settings)?;
    Ok(true)
}

/// The address to take; none where there should be one and is not.
fn choose(
    control: &[String],
    kept: Option<IpAddr>,
    exists: impl Fn(IpAddr) -> bool,
    towards: impl FnOnce() -> Option<IpAddr>,
) -> Option<IpAddr> {
    if !control.iter().any(|address| elsewhere(address)) {
        return Some(LOOPBACK);
    }
    kept.filter(|ip| dialable(*ip) && exists(*ip))
        .or_else(towards)
}

/// Whether `HOST:PORT` can be dialled from other machines.
fn elsewhere(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    match host.trim_matches(['[', ']']).parse() {
        Ok(ip) => dialable(ip),
        Err(_) => host != "localhost",
    }
}

/// Whether others can dial it: an address of a link means nothing without the link.
fn dialable(ip: IpAddr) -> bool {
    let link = matches!(ip, IpAddr::V6(six) if six.is_unicast_link_local());
    !(ip.is_loopback() || ip.is_unspecified() || link)
}

/// The address of this machine that the control plane sees. Nothing is sent.
pub(crate) fn towards(control: &[String]) -> Option<IpAddr> {
    control
        .iter()
        .filter_map(|text| text.to_socket_addrs().ok())
        .flatten()
        .filter_map(source)
        .find(|ip| dialable(*ip))
}

/// The address that a datagram to there would be sent from.
pub(crate) fn source(to: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(to).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// Whether this machine has the address.
fn exists(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::{choose, elsewhere, exists, source};

    #[test]
    fn loopback_unless_the_control_plane_has_an_address_for_others() {
        let (here, there) = ("127.0.0.1:1", "10.0.0.5:1");
        let gone = "10.0.0.9";
        for (control, kept, towards, expected) in [
            (&[][..], None, Some("10.0.0.6"), Some("127.0.0.1")),
            (&[here], Some("10.0.0.7"), None, Some("127.0.0.1")),
            (&[there, here], None, Some("10.0.0.6"), Some("10.0.0.6")),
            (&["[fd77::1]:1"], None, Some("fd77::2"), Some("fd77::2")),
            // Kept while this machine has it.
            (&[there], Some("10.0.0.7"), None, Some("10.0.0.7")),
            (&[there], Some(gone), Some("10.0.0.6"), Some("10.0.0.6")),
            // Of a time before others could call, or of another way of capture.
            (
                &[there],
                Some("127.0.0.1"),
                Some("10.0.0.6"),
                Some("10.0.0.6"),
            ),
            (&[there], Some("::"), Some("10.0.0.6"), Some("10.0.0.6")),
            (
                &[there],
                Some("fe80::1"),
                Some("10.0.0.6"),
                Some("10.0.0.6"),
            ),
            (&[there], None, None, None),
        ] {
            let control: Vec<String> = control.iter().map(|&text| text.to_owned()).collect();
            let ip = |text: &str| text.parse().unwrap();
            let has = |address: std::net::IpAddr| address.to_string() != gone;
            let chosen = choose(&control, kept.map(ip), has, || towards.map(ip));
            assert_eq!(chosen, expected.map(ip), "{control:?} {kept:?}");
        }
    }

    #[test]
    fn names_and_addresses_of_other_machines() {
        for (address, expected) in [
            ("base.example:1", true),
            ("10.0.0.5:1", true),
            ("[fd77::1]:1", true),
            ("localhost:1", false),
            ("127.0.0.1:1", false),
            ("[::1]:1", false),
            ("0.0.0.0:1", false),
        ] {
            assert_eq!(elsewhere(address), expected, "{address}");
        }
    }

    #[test]
    fn the_kernel_is_asked_for_addresses() {
        let loopback = "127.0.0.1".parse().unwrap();
        assert_eq!(source("127.0.0.1:9".parse().unwrap()), Some(loopback));
        assert!(exists(loopback));
        // For examples only, so nobody's.
        assert!(!exists("192.0.2.1".parse().unwrap()));
    }
}

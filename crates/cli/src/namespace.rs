//! A network namespace for one program, made without root: all calls of Linux that this takes.
//!
//! The door process ([`crate::cmd::door`]) makes it with [`make`] and lives in it; the program is started into it by
//! [`Entry`], between fork and exec. In it there is a loopback device and nothing else: whatever leaves the program goes
//! to one of the listeners that the rules name, or nowhere. So a rule that is missing lets nothing out.
//!
//! An unprivileged user gets a user namespace as well, in which the uid and the gid are what they were and nobody has a
//! capability but the door: a program there can neither change the rules nor move to another namespace. Root gets a
//! network namespace alone, because a map of one uid would break programs that change their user; there the
//! capabilities that would undo the capture are taken out of the bounding set.
//!
//! Not here: sockets and their protocol (`naka_proxy::door`), when capture is used ([`crate::launch::capture`]).

mod links;
mod privileges;
mod refusal;
mod rules;

pub(crate) use privileges::{Entry, confine, confine_sidecar};
pub(crate) use refusal::Refusal;

use refusal::{Facts, Step};
use rules::Way;
use rustix::io::Errno;
use rustix::thread::UnshareFlags;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Address of the program in its namespace: no host of the world (RFC 5737).
pub(crate) const ADDRESS4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The same of IPv6 (RFC 3849). Not a unique local address: resolvers rank those below everything else.
pub(crate) const ADDRESS6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// Where the program's calls are led.
pub(crate) const OUTBOUND: u16 = 15_001;
/// Where its questions of names are led.
pub(crate) const DNS: u16 = 15_053;

/// What the new namespace has.
#[derive(Debug)]
pub(crate) struct Made {
    /// Whether it speaks IPv6.
    pub(crate) ipv6: bool,
    /// Why calls are translated here ([`Way::Translated`]), where they are.
    pub(crate) translated: Option<io::Error>,
}

/// Moves this process, which must have one thread only, into a namespace of its own and sets that up.
pub(crate) fn make() -> Result<Made, Refusal> {
    // Afterwards nobody can tell: an id that is not mapped yet looks like nobody's.
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    let refuse =
        |step: Step| move |error: io::Error| refusal::of(step, &error, &Facts::read(uid.is_root()));
    leave(uid.is_root()).map_err(refuse(Step::Leave))?;
    if !uid.is_root() {
        privileges::map(uid, gid).map_err(refuse(Step::Map))?;
    }
    let ipv6 = std::path::Path::new("/proc/net/if_inet6").exists();
    links::up(ipv6).map_err(refuse(Step::Links))?;
    // The port numbers below 1024 are this program's own to give away. A read-only /proc/sys (containers) costs only
    // that.
    let _ = std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
    let translated = load(ipv6).map_err(refuse(Step::Rules))?;
    Ok(Made { ipv6, translated })
}

/// Loads the rules in the best way that this system takes; why not in the first, if it was not that.
fn load(ipv6: bool) -> io::Result<Option<io::Error>> {
    let load = |way| rules::load(&rules::render(ipv6, way));
    match load(Way::Given) {
        Ok(()) => Ok(None),
        // No `nft`: nothing can be loaded.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(error),
        Err(error) => load(Way::Translated).map(|()| Some(error)),
    }
}

#[expect(unsafe_code, reason = "a system call")]
fn leave(root: bool) -> io::Result<()> {
    let mut flags = UnshareFlags::NEWNET;
    if !root {
        flags |= UnshareFlags::NEWUSER;
    }
    // SAFETY: without CLONE_FILES no descriptor table is shared or unshared.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(|error: Errno| error.into())
}

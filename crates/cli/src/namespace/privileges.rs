//! Who a captured program and its sidecar are: the same uid and gid, and no capability that could undo the capture.

use rustix::mount::MountPropagationFlags;
use rustix::process::{Gid, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets, LinkNameSpaceType, UnshareFlags};
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// What root's programs lose: with any of these a program could change the rules, look into other processes or leave.
const OF_ROOT: CapabilitySet = CapabilitySet::NET_ADMIN
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SYS_ADMIN)
    .union(CapabilitySet::SYS_MODULE)
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::SYS_RAWIO)
    .union(CapabilitySet::PERFMON)
    .union(CapabilitySet::BPF);

/// Sockets of daemons that the C library asks for names instead of DNS (systemd-resolved, nscd): they know no name of
/// the mesh.
const NAME_SERVICES: [&CStr; 2] = [
    c"/run/systemd/resolve/io.systemd.Resolve",
    c"/var/run/nscd/socket",
];

/// What the sidecar of a whole machine keeps: the mark of its sockets takes one, ports below 1024 the other.
const OF_SIDECAR: CapabilitySet = CapabilitySet::NET_ADMIN.union(CapabilitySet::NET_BIND_SERVICE);

/// Gives the new user namespace of this process the one uid and the one gid it had, each as what it was.
pub(super) fn map(uid: Uid, gid: Gid) -> io::Result<()> {
    let same = |id: u32| format!("{id} {id} 1");
    std::fs::write("/proc/self/uid_map", same(uid.as_raw()))?;
    // Whoever could drop groups could get at files that refuse one.
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/gid_map", same(gid.as_raw()))
}

/// The way into the namespace of a door, for a program that is about to be executed.
#[derive(Debug)]
pub(crate) struct Entry {
    /// None for root, whose programs stay in the user namespace they are in.
    user: Option<File>,
    net: File,
}

impl Entry {
    /// The namespace that the process `door` is in.
    pub(crate) fn of(door: u32) -> io::Result<Self> {
        let open = |kind: &str| File::open(format!("/proc/{door}/ns/{kind}"));
        let root = rustix::process::geteuid().is_root();
        Ok(Self {
            user: (!root).then(|| open("user")).transpose()?,
            net: open("net")?,
        })
    }

    /// Lets `command` begin inside, without the rights that would undo it.
    #[expect(unsafe_code, reason = "Command has no safe way to say this")]
    pub(crate) fn lead(self, command: &mut Command) {
        // SAFETY: between fork and exec only system calls on the child itself are made; nothing is allocated and no
        // lock is taken.
        unsafe { command.pre_exec(move || self.enter()) };
    }

    fn enter(&self) -> io::Result<()> {
        let into = rustix::thread::move_into_link_name_space;
        if let Some(user) = &self.user {
            into(user.as_fd(), Some(LinkNameSpaceType::User))?;
        }
        into(self.net.as_fd(), Some(LinkNameSpaceType::Network))?;
        hide_name_services();
        confined()
    }
}

/// Puts what cannot be connected to over the sockets of name services, for this process and its children only. Where the
/// system refuses that (a unit's hardening), they stay.
#[expect(unsafe_code, reason = "a system call")]
fn hide_name_services() {
    let mut alone = false;
    for socket in NAME_SERVICES {
        if rustix::fs::access(socket, rustix::fs::Access::EXISTS).is_err() {
            continue;
        }
        if !alone {
            // What is mounted outside later is seen here too, not the other way round.
            let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
            // SAFETY: without CLONE_FILES no descriptor table is shared or unshared.
            let unshared = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) };
            let left = unshared.and_then(|()| rustix::mount::mount_change(c"/", flags));
            if left.is_err() {
                return;
            }
            alone = true;
        }
        let _ = rustix::mount::mount_bind(c"/dev/null", socket);
    }
}

/// Lets a program begin where it is, without the rights that would undo its capture.
#[expect(unsafe_code, reason = "Command has no safe way to say this")]
pub(crate) fn confine(command: &mut Command) {
    let enter = || {
        hide_name_services();
        confined()
    };
    // SAFETY: between fork and exec only system calls on the child itself are made; nothing is allocated and no lock
    // is taken.
    unsafe { command.pre_exec(enter) };
}

/// Lets the sidecar of a whole machine keep what it needs there and nothing else.
#[expect(unsafe_code, reason = "Command has no safe way to say this")]
pub(crate) fn confine_sidecar(command: &mut Command) {
    let keep = || {
        drop_capabilities(CapabilitySet::all().difference(OF_SIDECAR))?;
        let held = rustix::thread::capabilities(None)?;
        let sets = CapabilitySets {
            inheritable: held.permitted,
            ..held
        };
        rustix::thread::set_capabilities(None, sets)?;
        // Who is not root keeps over exec only what is ambient.
        for one in [CapabilitySet::NET_ADMIN, CapabilitySet::NET_BIND_SERVICE] {
            if held.permitted.contains(one) {
                rustix::thread::configure_capability_in_ambient_set(one, true)?;
            }
        }
        Ok(())
    };
    // SAFETY: as above.
    unsafe { command.pre_exec(keep) };
}

fn confined() -> io::Result<()> {
    if rustix::process::geteuid().is_root() {
        return drop_capabilities(OF_ROOT);
    }
    // A program file with capabilities of its own must not get them back.
    rustix::thread::set_no_new_privs(true)?;
    drop_capabilities(CapabilitySet::all())
}

/// Takes capabilities out of every set, the bounding set first: that takes a capability itself.
fn drop_capabilities(lost: CapabilitySet) -> io::Result<()> {
    let held = rustix::thread::capabilities(None)?;
    // Only root, and a program file that has them, gets capabilities by the bounding set.
    let bounding =
        held.effective.contains(CapabilitySet::SETPCAP) || rustix::process::geteuid().is_root();
    for bit in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        if !bounding || !lost.contains(one) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(one) {
            // No capability of this kernel has this number or a higher one.
            Err(rustix::io::Errno::INVAL) => break,
            other => other?,
        }
    }
    rustix::thread::clear_ambient_capability_set()?;
    let sets = CapabilitySets {
        effective: held.effective.difference(lost),
        permitted: held.permitted.difference(lost),
        inheritable: held.inheritable.difference(lost),
    };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

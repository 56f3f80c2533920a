//! Why there is no namespace here, and what would change that: one sentence each, from what the system says of itself.
//!
//! Which remedy fits is decided by a pure function over the step that failed, the error and a few files of `/proc`.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::{self, ErrorKind};

/// Why a namespace cannot be made here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refusal {
    /// What the system refused.
    pub(crate) why: String,
    /// What to do about it.
    pub(crate) remedy: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; remedy: {}", self.why, self.remedy)
    }
}

/// Which part of the set-up failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// New namespaces.
    Leave,
    /// Uid and gid in them.
    Map,
    /// The loopback device.
    Links,
    /// The rules.
    Rules,
}

/// What decides whether namespaces are to be had; none where this kernel has no such switch.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Facts {
    root: bool,
    user_namespaces: Option<u64>,
    net_namespaces: Option<u64>,
    userns_clone: Option<u64>,
    apparmor: Option<u64>,
}

impl Facts {
    /// As they are now.
    pub(super) fn read(root: bool) -> Self {
        let number = |name: &str| {
            let text = std::fs::read_to_string(format!("/proc/sys/{name}")).ok()?;
            text.trim().parse().ok()
        };
        Self {
            root,
            user_namespaces: number("user/max_user_namespaces"),
            net_namespaces: number("user/max_net_namespaces"),
            userns_clone: number("kernel/unprivileged_userns_clone"),
            apparmor: number("kernel/apparmor_restrict_unprivileged_userns"),
        }
    }
}

/// What the failure of a step means here.
pub(super) fn of(step: Step, error: &io::Error, facts: &Facts) -> Refusal {
    let (why, remedy) = match step {
        Step::Rules if error.kind() == ErrorKind::NotFound => (
            "the program nft is not here".to_owned(),
            "install it: apt install nftables, or dnf install nftables".to_owned(),
        ),
        Step::Rules => (
            format!("the redirection rules are refused ({error})"),
            "load the kernel's parts: sudo modprobe -a nf_tables nft_tproxy nft_ct nft_log nfnetlink_log nft_chain_nat nft_redir nft_reject_inet".to_owned(),
        ),
        Step::Leave | Step::Map | Step::Links => namespaces(step, error, facts),
    };
    Refusal { why, remedy }
}

fn namespaces(step: Step, error: &io::Error, facts: &Facts) -> (String, String) {
    let switch = |name: &str, is: u64, set: &str| {
        (
            format!("network namespaces are refused here ({name} is {is})"),
            format!("sudo sysctl -w {name}={set}"),
        )
    };
    if !facts.root {
        if facts.userns_clone == Some(0) {
            return switch("kernel.unprivileged_userns_clone", 0, "1");
        }
        if facts.user_namespaces == Some(0) {
            return switch("user.max_user_namespaces", 0, "10000");
        }
        if facts.apparmor.is_some_and(|on| on != 0) && error.kind() == ErrorKind::PermissionDenied {
            let (why, remedy) = switch("kernel.apparmor_restrict_unprivileged_userns", 1, "0");
            return (
                why,
                format!("{remedy}, or an AppArmor profile for naka that has the rule \"userns,\""),
            );
        }
    }
    if facts.net_namespaces == Some(0) {
        return switch("user.max_net_namespaces", 0, "10000");
    }
    // ENOSPC: a limit is reached.
    if error.kind() == ErrorKind::StorageFull {
        return (
            "this user has as many namespaces as allowed".to_owned(),
            "sudo sysctl -w user.max_user_namespaces=10000 user.max_net_namespaces=10000"
                .to_owned(),
        );
    }
    let what = match step {
        Step::Links => "the loopback device of a new network namespace is refused",
        _ => "network namespaces are refused here",
    };
    let remedy = if facts.root {
        "in a container give it CAP_SYS_ADMIN and CAP_NET_ADMIN (docker run --cap-add SYS_ADMIN --cap-add NET_ADMIN)"
    } else {
        "in a container allow unshare (docker run --security-opt seccomp=unconfined); elsewhere a kernel with user and network namespaces"
    };
    (format!("{what} ({error})"), remedy.to_owned())
}

#[cfg(test)]
mod tests {
    use super::{Facts, Step, of};
    use std::io;

    #[test]
    fn each_cause_has_its_remedy() {
        let fine = Facts {
            root: false,
            user_namespaces: Some(9),
            net_namespaces: Some(9),
            userns_clone: None,
            apparmor: None,
        };
        let root = Facts { root: true, ..fine };
        let (eperm, enoent, enospc) = (1, 2, 28);
        for (step, error, facts, word) in [
            (
                Step::Leave,
                enospc,
                Facts {
                    user_namespaces: Some(0),
                    ..fine
                },
                "user.max_user_namespaces=",
            ),
            (
                Step::Leave,
                enospc,
                Facts {
                    net_namespaces: Some(0),
                    ..root
                },
                "user.max_net_namespaces=",
            ),
            (
                Step::Leave,
                eperm,
                Facts {
                    userns_clone: Some(0),
                    ..fine
                },
                "kernel.unprivileged_userns_clone=1",
            ),
            (
                Step::Map,
                eperm,
                Facts {
                    apparmor: Some(1),
                    ..fine
                },
                "kernel.apparmor_restrict_unprivileged_userns=0",
            ),
            (
                Step::Leave,
                eperm,
                Facts {
                    apparmor: Some(1),
                    ..root
                },
                "--cap-add SYS_ADMIN",
            ),
            (Step::Leave, eperm, fine, "seccomp"),
            (Step::Leave, enospc, fine, "user.max_net_namespaces="),
            (Step::Links, eperm, fine, "seccomp"),
            (Step::Rules, enoent, fine, "apt install nftables"),
            (Step::Rules, eperm, fine, "modprobe"),
        ] {
            let refusal = of(step, &io::Error::from_raw_os_error(error), &facts);
            assert!(
                refusal.remedy.contains(word),
                "{step:?} {error}: {refusal} has no {word}"
            );
            assert!(!refusal.to_string().contains('\n'));
        }
    }
}

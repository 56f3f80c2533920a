//! `GET installation`: facts about this control plane's own machine and proxies, for `naka check`.
//!
//! Only facts: what they mean (too little, too old, too late) is decided by the command, in one table.

use super::State;
use super::answer::{Outcome, ok};
use super::auth::Role;
use super::dispatch::Call;
use crate::rollout::driver::Driver;
use naka_identity::{Authority, ServerCert};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What the control plane stands on.
#[derive(Debug, Clone)]
pub struct Ground {
    /// Directory of the mesh.
    pub dir: PathBuf,
    /// Root and intermediate.
    pub authority: Arc<Authority>,
    /// The control plane's own certificate.
    pub certificate: Arc<ServerCert>,
    /// Changes in steps.
    pub rollouts: Arc<Driver>,
    /// Addresses for workloads elsewhere.
    pub advertise: Vec<String>,
}

/// Answers the facts.
pub(crate) async fn installation(call: &Call) -> Outcome {
    call.subject
        .need(Role::Viewer, "", "look at the whole installation")?;
    let state = Arc::clone(&call.state);
    let proxies = state.live.proxies().await;
    let findings = state.live.findings().await;
    // Looks at the disk, which may be slow when it is ill.
    let ground = tokio::task::spawn_blocking(move || ground(&state)).await;
    Ok(ok(&json!({
        "version": env!("CARGO_PKG_VERSION"),
        "now_s": naka_identity::now_s(),
        "ground": ground.unwrap_or_default(),
        "proxies": proxies,
        "gateways": call.state.live.gateways().await,
        "findings": findings,
    })))
}

fn ground(state: &State) -> Value {
    let Some(ground) = &state.mesh.ground else {
        return Value::Null;
    };
    let disk = rustix::fs::statvfs(&ground.dir).ok();
    let bytes = |blocks: u64| {
        disk.as_ref()
            .map(|disk| blocks.saturating_mul(disk.f_frsize))
    };
    json!({
        "dir": ground.dir,
        "not_writing": state.store.not_writing(),
        "not_writable": writable(&ground.dir).err().map(|error| error.to_string()),
        "disk_free_bytes": disk.as_ref().and_then(|disk| bytes(disk.f_bavail)),
        "disk_total_bytes": disk.as_ref().and_then(|disk| bytes(disk.f_blocks)),
        "trust_domain": ground.authority.trust_domain(),
        "begins_s": {
            "root": ground.authority.root_not_before(),
            "intermediate": ground.authority.intermediate_not_before(),
            "control": ground.certificate.not_before(),
        },
        "ends_s": {
            "root": ground.authority.root_not_after(),
            "intermediate": ground.authority.intermediate_not_after(),
            "control": ground.certificate.not_after(),
        },
        "advertise": ground.advertise,
        "unresolved": unresolved(&ground.advertise),
    })
}

/// Tries, because modes and mounts together say less than a file that could be made.
fn writable(dir: &Path) -> std::io::Result<()> {
    let probe = dir.join("probe.new");
    std::fs::File::create(&probe)?;
    std::fs::remove_file(probe)
}

/// Advertised names that this machine's resolver does not know.
fn unresolved(advertise: &[String]) -> Vec<String> {
    use std::net::ToSocketAddrs;
    let known = |address: &str| {
        let with_port = format!("{address}:0");
        address.to_socket_addrs().is_ok() || with_port.to_socket_addrs().is_ok()
    };
    let unknown = advertise.iter().filter(|address| !known(address));
    unknown.cloned().collect()
}

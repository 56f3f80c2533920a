//! What a gRPC program without a proxy finds: a bootstrap, and its keys as files that follow every rotation.
//!
//! The program's own xDS client reads configuration from the agent's socket and keys with the plugin `file_watcher`.
//! Key and chain are replaced one after the other, each by rename; a reader in between sees a pair that does not fit,
//! which gRPC refuses, and it reads again.

use super::envoy::node;
use crate::rotation::Identity;
use crate::saved;
use crate::settings::Settings;
use serde_json::{Value as Json, json};
use std::path::Path;

/// Name of the bootstrap in the run directory, which the command line hands to the program.
pub const BOOTSTRAP: &str = "grpc.json";
const KEY: &str = "grpc-key.pem";
const CHAIN: &str = "grpc-chain.pem";
const ROOTS: &str = "grpc-roots.pem";
/// How often the program looks at its files.
const REFRESH: &str = "5s";

/// Writes keys and bootstrap, all 0600.
///
/// # Errors
/// The system refuses.
pub(super) fn write(
    settings: &Settings,
    identity: &Identity,
    socket: &Path,
) -> Result<(), saved::Error> {
    let dir = &settings.run_dir;
    for (name, text) in [
        (ROOTS, identity.bundle.to_pem()),
        (KEY, identity.svid.key_pem()),
        (CHAIN, identity.svid.chain_pem()),
    ] {
        saved::replace(&dir.join(name), text.as_bytes())?;
    }
    let workload_id = identity.svid.workload_id.to_string();
    let text = bootstrap(settings, &workload_id, socket).to_string();
    saved::replace(&dir.join(BOOTSTRAP), text.as_bytes())
}

fn bootstrap(settings: &Settings, workload_id: &str, socket: &Path) -> Json {
    let dir = &settings.run_dir;
    json!({
        "xds_servers": [{
            "server_uri": format!("unix://{}", socket.display()),
            "channel_creds": [{"type": "insecure"}],
            "server_features": ["xds_v3"],
        }],
        "node": node(settings, workload_id),
        "certificate_providers": {"default": {"plugin_name": "file_watcher", "config": {
            "certificate_file": dir.join(CHAIN),
            "private_key_file": dir.join(KEY),
            "ca_certificate_file": dir.join(ROOTS),
            "refresh_interval": REFRESH,
        }}},
    })
}

//! `seal`: how Secrets are sealed, and the change of their key.

use super::answer::{Outcome, Problem, ok};
use super::auth::Role;
use super::dispatch::Call;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use naka_store::{Lock, Passphrase};
use serde::Deserialize;
use serde_json::json;

/// What is to lock the new key.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    /// `same`, `plain` or `passphrase`.
    lock: String,
    /// Base64 of the passphrase.
    #[serde(default)]
    passphrase: String,
}

/// `GET seal`.
pub(crate) fn show(call: &Call) -> Outcome {
    call.subject
        .need(Role::Viewer, "", "see how secrets are sealed")?;
    Ok(ok(&json!(call.state.store.sealing())))
}

/// `POST seal`: another key, and every secret sealed anew with it.
pub(crate) async fn rotate(call: &Call, wanted: Wanted) -> Outcome {
    call.subject
        .need(Role::Admin, "", "change the key that seals secrets")?;
    let lock = match wanted.lock.as_str() {
        "same" => Lock::Same,
        "plain" => Lock::Plain,
        "passphrase" => {
            let bytes = STANDARD
                .decode(&wanted.passphrase)
                .map_err(|_| Problem::bad_request("passphrase is not base64".to_owned()))?;
            let passphrase =
                Passphrase::new(bytes).map_err(|error| Problem::bad_request(error.to_string()))?;
            Lock::Passphrase(passphrase)
        }
        other => {
            return Err(Problem::bad_request(format!(
                "lock={other} is none of same, plain, passphrase"
            )));
        }
    };
    let sealing = call.state.store.reseal(lock, &call.subject.name).await?;
    Ok(ok(&json!(sealing)))
}

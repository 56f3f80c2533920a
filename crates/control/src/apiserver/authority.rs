//! `authority`: what signs in this mesh, how another intermediate gets here from a root that is kept elsewhere, and how
//! a change of the root begins.
//!
//! An installed intermediate is an event of the log, with who did it; the key it belongs to was made here and never left.

use super::answer::{Outcome, Problem, ok};
use super::auth::Role;
use super::dispatch::Call;
use super::installation::Ground;
use super::rollouts;
use crate::rollout::driver;
use naka_identity::now_s;
use naka_identity::rotate::Next;
use naka_store::Draft;
use serde::Deserialize;
use serde_json::{Value, json};

/// Kind of the store's record of what was installed last.
const RECORD: &str = "authority";
const NAME: &str = "intermediate";

/// A signed request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Signed {
    /// The intermediate and those between it and the root, PEM.
    chain_pem: String,
}

/// Another root.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rotation {
    /// What was made elsewhere; made here unless given.
    #[serde(default)]
    given: Option<Given>,
    /// Each step waits for `promote`.
    #[serde(default)]
    manual: bool,
    /// Somebody else may have the key of the present root: the seconds until it is dropped at the latest.
    #[serde(default)]
    compromised_within_s: Option<u64>,
}

/// The files of Istio's `cacerts`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Given {
    root_pem: String,
    chain_pem: String,
    key_pem: String,
}

impl std::fmt::Debug for Given {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Given").finish_non_exhaustive()
    }
}

/// `GET authority`.
pub(crate) fn show(call: &Call) -> Outcome {
    call.subject
        .need(Role::Viewer, "", "see what signs in this mesh")?;
    Ok(ok(&told(ground(call)?)))
}

fn told(ground: &Ground) -> Value {
    let authority = &ground.authority;
    let stage = authority.stage();
    json!({
        "trust_domain": authority.trust_domain(),
        "root": {
            "sha256": authority.root_sha256(),
            "not_after": authority.root_not_after(),
            "key_here": authority.root_here(),
        },
        "intermediate": {"not_after": authority.intermediate_not_after()},
        "signs": stage.signs,
        "prepared": stage.prepared,
        "retired": stage.retired,
    })
}

/// `POST authority/request`: a new key here, and the request to sign it.
pub(crate) async fn request(call: &Call) -> Outcome {
    call.subject
        .need(Role::Admin, "", "ask for another intermediate")?;
    let authority = ground(call)?.authority.clone();
    let csr = blocking(move || authority.request()).await?;
    Ok(ok(&json!({"csr_pem": csr})))
}

/// `POST authority/install`: from now on what was signed signs.
pub(crate) async fn install(call: &Call, signed: Signed) -> Outcome {
    call.subject
        .need(Role::Admin, "", "install another intermediate")?;
    let ground = ground(call)?.clone();
    let taken = ground.clone();
    blocking(move || {
        let now = now_s();
        taken.authority.install(&signed.chain_pem, now)?;
        // The control plane shows at once what it asks its proxies to believe.
        taken.certificate.reissue(&taken.authority, now)
    })
    .await?;
    let value = told(&ground);
    call.state
        .store
        .commit(vec![Draft::record(
            &call.subject.name,
            "",
            "authority.install",
            RECORD,
            NAME,
            Some(value.clone()),
        )])
        .await?;
    Ok(ok(&value))
}

/// `POST authority/rotate`: another root follows the present one, as a rollout.
pub(crate) async fn rotate(call: &Call, wanted: Rotation) -> Outcome {
    call.subject.need(Role::Admin, "", "change the root")?;
    if wanted.compromised_within_s == Some(0)
        || wanted.manual && wanted.compromised_within_s.is_some()
    {
        return Err(Problem::bad_request(
            "a root whose key others may have is replaced by itself within compromised_within_s, at least 1",
        ));
    }
    let next = match wanted.given {
        None => Next::Made,
        Some(given) => Next::Given {
            root_pem: given.root_pem,
            chain_pem: given.chain_pem,
            key_pem: given.key_pem,
        },
    };
    let wanted = driver::Wanted {
        next,
        manual: wanted.manual,
        compromised_within_s: wanted.compromised_within_s,
    };
    let rollouts = &ground(call)?.rollouts;
    let begun = rollouts.rotate(wanted, &call.subject.name).await;
    let begun = begun.map_err(rollouts::refused)?;
    Ok(ok(&rollouts::told(rollouts, &begun)))
}

pub(crate) fn ground(call: &Call) -> Result<&Ground, Problem> {
    let ground = call.state.mesh.ground.as_ref();
    ground.ok_or_else(|| Problem::bad_request("there is no authority here"))
}

/// Files are written and keys are made beside the threads that answer others.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, naka_identity::Error> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| Problem::bad_request(error.to_string())),
        Err(error) => Err(Problem::bad_request(error.to_string())),
    }
}

//! The HTTP API: Kubernetes-shaped paths for objects, `/naka/v1/` for everything Kubernetes has no word for.
//!
//! One walk for each request: who is it (`auth`) → what does it want (`route`) → may it (`auth`) → do it → answer,
//! errors always as Kubernetes `Status` objects. Dispatch is one `match` over a parsed path rather than a table of
//! routes, because the same path shape serves every kind of `naka-api`.
//!
//! Invariants: nothing but `/healthz` and `/version` is answered without a credential; a Secret's values leave only
//! through `reveal`; status is computed, never stored; every change carries its subject into the log.
//!
//! Not here: server-side apply, managedFields, finalizers, OpenAPI (they come with Kubernetes).

use crate::export::Shown;
use crate::settings::WhenFull;
use axum::Router;
use naka_store::{Store, Stream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

mod answer;
mod attest;
mod audit;
mod auth;
mod authority;
mod body;
mod certificates;
mod change;
mod confirm;
mod discovery;
mod dispatch;
mod installation;
pub mod live;
mod modes;
mod objects;
pub(crate) mod read;
mod revoked_tokens;
mod rollouts;
mod route;
mod seal;
mod select;
mod serve;
mod table;
mod tokens;
mod watch;

#[cfg(test)]
mod tests;

pub use auth::{Peer, Role, Subject};
pub use confirm::watch_pending;
pub use installation::Ground;
pub use live::Live;
pub(crate) use serve::plain;
pub use serve::{Listeners, serve};
pub use tokens::TOKEN_RECORD;

/// What the API tells about the mesh, and what goes into tokens.
#[derive(Debug, Clone, Default)]
pub struct Mesh {
    /// Name.
    pub name: String,
    /// Trust domain.
    pub trust_domain: String,
    /// `host:port` of the API, at least one.
    pub api: Vec<String>,
    /// `host:port` of xDS, CA and registration, at least one.
    pub xds: Vec<String>,
    /// Root certificate, where there is no ground.
    pub root_pem: String,
    /// SHA-256 of the root's DER, lower-case hex, where there is no ground.
    pub root_sha256: String,
    /// What it stands on; none in tests without a control plane.
    pub ground: Option<Ground>,
}

impl Mesh {
    /// All roots that are trusted now, PEM.
    pub(crate) fn roots(&self) -> String {
        let ground = self.ground.as_ref();
        ground.map_or_else(
            || self.root_pem.clone(),
            |ground| ground.authority.bundle().to_pem(),
        )
    }

    /// SHA-256 of the root that the control plane shows now, lower-case hex.
    pub(crate) fn shown(&self) -> String {
        let ground = self.ground.as_ref();
        ground.map_or_else(
            || self.root_sha256.clone(),
            |ground| ground.authority.root_sha256(),
        )
    }
}

/// The stream of refused calls, of programs and of this API.
#[derive(Debug, Clone)]
pub struct Trail {
    /// Where they go.
    pub stream: Arc<Stream>,
    /// How long they stay.
    pub keep: Duration,
    /// How long events of the log stay; all of them where it is not said.
    pub keep_log: Option<Duration>,
    /// What happens when they cannot be kept, or a place is too far behind.
    pub when_full: WhenFull,
    /// Where events go by themselves.
    pub places: Vec<Arc<Shown>>,
    /// Events that a place may be behind before changes are refused.
    pub most_behind: u64,
}

/// Everything a handler needs.
#[derive(Debug)]
pub struct State {
    pub(crate) store: Arc<Store>,
    pub(crate) live: Arc<dyn Live>,
    pub(crate) mesh: Mesh,
    /// Owner of the mesh: connections of this uid on the control socket are admin.
    pub(crate) owner: u32,
    pub(crate) pending: Mutex<confirm::Pending>,
    /// Held while a mode is switched: what is looked at is still so when it is written.
    pub(crate) switching: tokio::sync::Mutex<()>,
    /// None in tests without one.
    pub(crate) trail: Option<Trail>,
    pub(crate) refusals: audit::Refusals,
}

impl State {
    /// State of an API server whose mesh belongs to the user this process runs as.
    #[must_use]
    pub fn new(
        store: Arc<Store>,
        live: Arc<dyn Live>,
        mesh: Mesh,
        trail: Option<Trail>,
    ) -> Arc<Self> {
        Arc::new(Self {
            store,
            live,
            mesh,
            owner: rustix::process::geteuid().as_raw(),
            pending: Mutex::default(),
            switching: tokio::sync::Mutex::default(),
            trail,
            refusals: audit::Refusals::default(),
        })
    }
}

/// The API. Requests must carry a [`Peer`] extension, which [`serve`] sets; without one they count as anonymous.
pub fn router(state: Arc<State>) -> Router {
    Router::new().fallback(dispatch::handle).with_state(state)
}

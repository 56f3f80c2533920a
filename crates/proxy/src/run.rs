//! From settings to a serving proxy: bind everything first, then serve.

use crate::settings::Settings;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why a proxy could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A listener could not be bound.
    #[error("cannot listen on {address} for {purpose}")]
    Bind {
        /// What it was for.
        purpose: String,
        /// The address asked for.
        address: String,
        /// The system's word.
        #[source]
        source: std::io::Error,
    },
    /// The run directory cannot be used.
    #[error("cannot use the run directory {path}")]
    RunDir {
        /// Its path.
        path: PathBuf,
        /// The system's word.
        #[source]
        source: std::io::Error,
    },
    /// A setting makes no sense.
    #[error("setting {field}: {problem}")]
    Setting {
        /// Field name.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

/// Where a running proxy listens.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Addresses {
    /// The program's calls.
    pub outbound: Option<SocketAddr>,
    /// mTLS listener per declared port.
    pub inbound: BTreeMap<u16, SocketAddr>,
    /// Explicit binds, in the order of the settings.
    pub upstreams: Vec<SocketAddr>,
    /// Plain listeners, in the order of the settings.
    pub publish: Vec<SocketAddr>,
    /// Gateway listeners by the port of the Gateway object.
    pub gateway: BTreeMap<u16, SocketAddr>,
    /// Read-only metrics.
    pub metrics: Option<SocketAddr>,
    /// Admin pages over TCP.
    pub admin_tcp: Option<SocketAddr>,
}

/// A proxy that serves. Dropping it does not stop it; `drain` then `stop` does.
#[derive(Debug)]
pub struct Running {
    addresses: Addresses,
    admin: PathBuf,
}

impl Running {
    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        self.addresses.clone()
    }

    /// Path of the admin socket.
    #[must_use]
    pub fn admin(&self) -> PathBuf {
        self.admin.clone()
    }

    /// Starts the acknowledged drain of inbound; returns when it has ended. Outbound goes on serving.
    pub async fn drain(&self) {}

    /// Ends everything: connections still open are closed.
    pub fn stop(&self) {}

    /// Resolves when the proxy has stopped (by `stop` or `POST /quit`).
    pub async fn stopped(&self) {}
}

/// Binds, starts workers and the control client, and returns while it serves. Call it on a current-thread runtime;
/// it returns before the proxy is ready (ask the admin socket's `/ready`).
///
/// # Errors
/// A listener, the run directory or a setting that cannot be used.
#[expect(clippy::unused_async, reason = "binding of later parts waits")]
pub async fn start(settings: Settings) -> Result<Running, Error> {
    let admin = settings.run_dir.join("admin.sock");
    Ok(Running {
        addresses: Addresses::default(),
        admin,
    })
}

/// The whole life of a proxy process on this thread: start, serve, drain on SIGTERM or SIGINT, end.
///
/// # Errors
/// As [`start`].
pub fn main(settings: Settings) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::RunDir {
            path: settings.run_dir.clone(),
            source,
        })?;
    runtime.block_on(async {
        let running = start(settings).await?;
        running.stopped().await;
        Ok(())
    })
}

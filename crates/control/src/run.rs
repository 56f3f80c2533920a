//! From settings to a running control plane: bind everything first, then serve.
//!
//! Every listener is bound before any task starts, so a port in use is one plain error and callers learn the
//! addresses as a value. Ports that were chosen freely are written to `ports.json` and taken again at the next
//! start, because tokens and saved identities name them.

use crate::settings::{Addresses, Ports, Settings};
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use tokio::net::{TcpListener, UnixListener};

/// Why a control plane does not start or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory of the mesh.
    #[error("{path}: {source}")]
    File {
        /// Which one.
        path: PathBuf,
        /// What happened.
        source: std::io::Error,
    },
    /// A listener.
    #[error("cannot listen on {address} ({what}): {source}")]
    Bind {
        /// What for.
        what: &'static str,
        /// Where.
        address: String,
        /// What happened.
        source: std::io::Error,
    },
    /// Another control plane serves this mesh.
    #[error("a control plane for this mesh is running already ({0})")]
    Running(PathBuf),
}

/// A control plane whose listeners are bound and whose state is open.
#[derive(Debug)]
pub struct Bound {
    addresses: Addresses,
    listeners: Listeners,
}

#[derive(Debug)]
struct Listeners {
    xds: TcpListener,
    api: TcpListener,
    metrics: TcpListener,
    control: UnixListener,
}

/// Opens the state and binds all listeners.
///
/// # Errors
/// [`Error`] names the file or the address.
pub async fn run(settings: Settings) -> Result<Bound, Error> {
    let dir = &settings.dir;
    make_dir(dir)?;
    let (addresses, listeners) = bind(&settings).await?;
    Ok(Bound {
        addresses,
        listeners,
    })
}

impl Bound {
    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Serves until `shutdown` resolves, then stops in good order.
    ///
    /// # Errors
    /// [`Error`] when the state can no longer be kept.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), Error> {
        shutdown.await;
        let socket = self.addresses.control_sock;
        drop(self.listeners);
        // Nobody may find a socket that nobody answers.
        let _ = std::fs::remove_file(socket);
        Ok(())
    }
}

fn make_dir(dir: &std::path::Path) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| Error::File {
            path: dir.to_owned(),
            source,
        })
}

async fn bind(settings: &Settings) -> Result<(Addresses, Listeners), Error> {
    let saved: Ports = std::fs::read(settings.ports_file())
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default();
    let want = settings.ports;
    let xds = tcp(settings, "xDS", want.xds, saved.xds).await?;
    let api = tcp(settings, "API", want.api, saved.api).await?;
    let metrics = tcp(settings, "metrics", want.metrics, saved.metrics).await?;
    let control_sock = settings.dir.join("control.sock");
    let control = unix(&control_sock).await?;
    let addresses = Addresses {
        xds: local(&xds)?,
        api: local(&api)?,
        metrics: local(&metrics)?,
        control_sock,
    };
    let ports = Ports {
        xds: addresses.xds.port(),
        api: addresses.api.port(),
        metrics: addresses.metrics.port(),
    };
    save(
        &settings.ports_file(),
        &serde_json::json!(ports).to_string(),
    )?;
    let listeners = Listeners {
        xds,
        api,
        metrics,
        control,
    };
    Ok((addresses, listeners))
}

fn local(listener: &TcpListener) -> Result<SocketAddr, Error> {
    listener.local_addr().map_err(|source| Error::Bind {
        what: "address",
        address: String::new(),
        source,
    })
}

async fn tcp(
    settings: &Settings,
    what: &'static str,
    want: u16,
    saved: u16,
) -> Result<TcpListener, Error> {
    let port = if want == 0 { saved } else { want };
    let address = SocketAddr::new(settings.host, port);
    TcpListener::bind(address)
        .await
        .map_err(|source| Error::Bind {
            what,
            address: address.to_string(),
            source,
        })
}

async fn unix(path: &std::path::Path) -> Result<UnixListener, Error> {
    use std::os::unix::fs::PermissionsExt;
    let file = |source| Error::File {
        path: path.to_owned(),
        source,
    };
    if path.exists() {
        if tokio::net::UnixStream::connect(path).await.is_ok() {
            return Err(Error::Running(path.to_owned()));
        }
        std::fs::remove_file(path).map_err(file)?;
    }
    let listener = UnixListener::bind(path).map_err(file)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(file)?;
    Ok(listener)
}

fn save(path: &std::path::Path, text: &str) -> Result<(), Error> {
    let file = |source| Error::File {
        path: path.to_owned(),
        source,
    };
    let temporary = path.with_extension("new");
    std::fs::write(&temporary, text).map_err(file)?;
    std::fs::rename(&temporary, path).map_err(file)
}

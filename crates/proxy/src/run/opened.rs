//! Ports that configuration asks for while the proxy runs: a Sidecar's binds for calls, and ports for callers that the
//! program did not announce.
//!
//! A port that cannot be had (another program has it) is tried again until it is free or not wanted any more, and what
//! was in its way is said once. Where the program has a network namespace of its own, calls are bound inside it, on a
//! socket that the namespace's door made; a Unix socket is a file, which is the same inside and outside.

use super::unix::Place;
use crate::door;
use crate::intake::listener::{At, Opening};
use crate::limits::BACKLOG;
use crate::listen;
use crate::settings::Capture;
use crate::state::Shared;
use crate::worker::Entrance;
use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// How often a port that is not free is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Keeps open what is wanted, until the process ends or, for callers, until no caller is to come any more.
pub(super) async fn keep(shared: Arc<Shared>, callers: bool) {
    let mut wanted = shared.openings.subscribe();
    let mut open: BTreeMap<At, (Opening, JoinSet<()>)> = BTreeMap::new();
    let mut told: BTreeMap<At, String> = BTreeMap::new();
    loop {
        let mut now = wanted.borrow_and_update().clone();
        now.retain(|_, opening| matches!(opening, Opening::Callers { .. }) == callers);
        // Dropped: no connection is accepted any more; those that were go on.
        open.retain(|bind, (opening, _)| now.get(bind) == Some(opening));
        told.retain(|bind, _| now.contains_key(bind));
        for (bind, opening) in &now {
            if open.contains_key(bind) {
                continue;
            }
            match serve(&shared, bind, opening).await {
                Ok(serving) => {
                    told.remove(bind);
                    tracing::info!(%bind, "a port that a Sidecar asks for is open");
                    open.insert(bind.clone(), (opening.clone(), serving));
                }
                Err(error) => {
                    let why = error.to_string();
                    if told.get(bind) != Some(&why) {
                        tracing::warn!(%bind, %error, "a port that a Sidecar asks for cannot be opened");
                        told.insert(bind.clone(), why);
                    }
                }
            }
        }
        let all = open.len() == now.len();
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(AGAIN), if !all => {}
        }
    }
}

/// Opens one and accepts at it for as long as the set is there.
async fn serve(shared: &Arc<Shared>, bind: &At, opening: &Opening) -> io::Result<JoinSet<()>> {
    let door = shared.settings.capture.as_ref().and_then(Capture::door);
    let door = door.filter(|_| matches!(opening, Opening::Calls(_)));
    let inside = door.is_some();
    let entrance = Arc::new(entrance(opening, inside));
    let workers = Arc::clone(&shared.workers);
    let mut serving = JoinSet::new();
    let bind = match bind {
        At::Ip(address) => *address,
        At::Unix(path) => {
            let place = Place::bind(path, inside)?;
            serving.spawn(place.accept(entrance, workers));
            return Ok(serving);
        }
    };
    let listener = match door.map(Path::to_owned) {
        Some(door) => handed(door, bind).await?,
        None => listen::bind(bind)?,
    };
    serving.spawn(async move {
        if let Err(error) = listen::accept(listener, entrance, workers).await {
            tracing::error!(%error, "a listener cannot be served");
        }
    });
    Ok(serving)
}

fn entrance(opening: &Opening, inside: bool) -> Entrance {
    match opening {
        Opening::Callers { port } => Entrance::Inbound { port: *port },
        Opening::Calls(egress) => match &egress.host {
            Some(host) => Entrance::Bind {
                host: Arc::clone(host),
                port: egress.port,
                inside,
                protocol: egress.protocol,
            },
            None => Entrance::Egress {
                port: egress.port,
                inside,
            },
        },
    }
}

/// A listener inside the program's network namespace.
async fn handed(door: PathBuf, bind: SocketAddr) -> io::Result<TcpListener> {
    let asking = tokio::task::spawn_blocking(move || {
        let socket = door::Client::connect(&door)?.fresh(bind.is_ipv6())?;
        let socket = socket2::Socket::from(socket);
        socket.set_reuse_address(true)?;
        socket.bind(&bind.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    });
    asking.await.map_err(io::Error::other)?
}

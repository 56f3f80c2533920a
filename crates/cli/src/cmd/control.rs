//! `naka control`: the control plane in the foreground.

use crate::args;
use crate::cmd::up;
use crate::exit::{Exit, Outcome};
use crate::home::{Home, make_dir};
use naka_control::Settings;
use tokio::signal::unix::{SignalKind, signal};

/// Runs `naka control` until it is told to end.
pub(crate) fn run(args: &args::Control) -> Outcome {
    if args.detached {
        // Out of the terminal's session: closing it must not end the mesh.
        let _ = rustix::process::setsid();
    }
    if args.with_parent {
        end_with_parent();
    }
    logs();
    let home = Home::from_env()?;
    make_dir(home.dir())?;
    let mut settings = Settings::new(home.mesh(&args.mesh), &args.mesh)
        .recall(args.trust_domain.as_deref(), args.advertise.as_deref())
        .map_err(failed)?;
    settings.leaf_ttl = args.leaf_ttl;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(
            std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(1, 4)),
        )
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(serve(settings, home, args));
    // A task that still writes to a slow client must not hold the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    outcome
}

async fn serve(settings: Settings, home: Home, args: &args::Control) -> Outcome {
    let bound = naka_control::run(settings).await.map_err(failed)?;
    tracing::info!(addresses = ?bound.addresses(), "the control plane listens");
    if !args.detached {
        let mesh = args.mesh.clone();
        tokio::spawn(async move {
            if let Err(error) = up::record(&home, &mesh, false).await {
                tracing::warn!(%error, "the context could not be written");
            }
        });
    }
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    bound.serve(shutdown).await.map_err(failed)
}

fn failed(error: naka_control::run::Error) -> Exit {
    Exit::from(anyhow::Error::from(error))
}

/// Lets the kernel end this process when its parent is gone, however that ended.
pub(crate) fn end_with_parent() {
    let signal = Some(rustix::process::Signal::TERM);
    let _ = rustix::process::set_parent_process_death_signal(signal);
}

/// The program's own log, to stderr; `NAKA_LOG` = error, warn, info (default), debug or trace.
pub(crate) fn logs() {
    let level = std::env::var("NAKA_LOG")
        .ok()
        .and_then(|text| text.parse::<tracing::Level>().ok())
        .unwrap_or(tracing::Level::INFO);
    let _ = tracing::subscriber::set_global_default(
        tracing_subscriber::fmt()
            .with_max_level(level)
            .with_ansi(false)
            .with_writer(std::io::stderr)
            .finish(),
    );
}

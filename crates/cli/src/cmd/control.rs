//! `naka control`: the control plane in the foreground.

use crate::args;
use crate::client::ask_socket;
use crate::cmd::backup::passphrase;
use crate::cmd::up;
use crate::exit::{Exit, Outcome};
use crate::home::{Home, make_dir};
use crate::notify::Manager;
use naka_control::Settings;
use naka_control::export::Place;
use naka_control::readiness::Readiness;
use naka_control::settings::{Addresses, Audit, Jwks, Ports, Tracing, WhenFull};
use std::path::PathBuf;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Ports of a control plane of the whole machine (contracts).
const SYSTEM_PORTS: Ports = Ports {
    xds: 15012,
    api: 15080,
    metrics: 15014,
};
/// How often it is asked whether it is ready, until it is, and then how it stands.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// A control plane that does not answer a question of its own machine within this time is not alive.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

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
    // A proxy is a connection, and more of them come than a shell allows by default.
    let _ = naka_proxy::limits::raise_open_files();
    let home = Home::from_env()?;
    make_dir(home.dir())?;
    let mut settings = Settings::new(home.mesh(&args.mesh), &args.mesh)
        .recall(args.trust_domain.as_deref(), args.advertise.as_deref())
        .map_err(failed)?;
    settings.leaf_ttl = args.leaf_ttl;
    settings.jwks = jwks(args)?;
    settings.audit = audit(&args.trail)?;
    let authorities = args
        .tracing
        .traces_to_ca
        .as_deref()
        .map(std::path::absolute);
    settings.tracing = Tracing {
        to: args.tracing.traces_to.clone(),
        authorities: authorities.transpose()?,
    };
    if args.system {
        settings.ports = SYSTEM_PORTS;
    }
    if let Some(dir) = &args.dir {
        settings.source = Some(std::path::absolute(dir)?);
    }
    settings.authority.clone_from(&args.ca);
    let file = args.seal_passphrase_file.clone().or_else(credential);
    settings.seal_passphrase = file.as_deref().map(passphrase).transpose()?;
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

/// How keys of issuers are fetched.
fn jwks(args: &args::Control) -> Outcome<Jwks> {
    let hosts = args.jwks_hosts.iter().flat_map(|all| all.split(','));
    let hosts = hosts.map(|host| host.trim().to_ascii_lowercase());
    Ok(Jwks {
        refresh: args.jwks_refresh,
        authorities: args
            .jwks_ca
            .as_deref()
            .map(std::path::absolute)
            .transpose()?,
        hosts: hosts.collect(),
    })
}

/// How the audit trail is kept, and where it goes.
fn audit(args: &args::Trail) -> Outcome<Audit> {
    let usual = Audit::default();
    let to = args.audit_to.iter().map(|to| Place::parse(to));
    let to = to.collect::<Result<_, _>>().map_err(Exit::usage)?;
    let authorities = args.audit_to_ca.as_deref().map(std::path::absolute);
    Ok(Audit {
        keep: args.audit_keep,
        keep_denials: args.audit_keep_denials.unwrap_or(usual.keep_denials),
        when_full: match args.audit_when_full {
            Some(args::WhenFull::Refuse) => WhenFull::Refuse,
            Some(args::WhenFull::Drop) | None => WhenFull::Drop,
        },
        to,
        authorities: authorities.transpose()?,
        most_behind: args.audit_most_behind.unwrap_or(usual.most_behind),
        file_bytes: args
            .audit_file_mib
            .map_or(usual.file_bytes, |mib| mib << 20),
        ..usual
    })
}

/// The systemd credential that locks the key of Secrets, if the unit loads one (`LoadCredential=naka-seal:FILE`).
fn credential() -> Option<PathBuf> {
    let dir = std::env::var_os("CREDENTIALS_DIRECTORY")?;
    Some(PathBuf::from(dir).join("naka-seal")).filter(|file| file.exists())
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
    tokio::spawn(naka_proxy::memory::keep_control_small());
    let manager = Manager::from_env();
    if manager.listens() {
        let (addresses, readiness) = (bound.addresses().clone(), bound.readiness());
        tokio::spawn(stand(manager.clone(), addresses.clone(), readiness));
        tokio::spawn(live(manager.clone(), addresses));
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
        manager.stopping();
    };
    bound.serve(shutdown).await.map_err(failed)
}

/// Tells the service manager when it serves, and then how it stands.
async fn stand(manager: Manager, addresses: Addresses, readiness: Readiness) {
    let mut said: Option<String> = None;
    loop {
        let (missing, warnings) = readiness.now();
        let words = match missing.first().or(warnings.first()) {
            Some(lack) => format!("{}; {}", lack.why, lack.fix),
            None => format!(
                "serves {} proxies; xDS {}, API {}, metrics {}",
                readiness.proxies(),
                addresses.xds,
                addresses.api,
                addresses.metrics
            ),
        };
        match &said {
            None if missing.is_empty() && answers(&addresses).await => {
                manager.ready(&words);
                said = Some(words);
            }
            Some(before) if *before != words => {
                manager.status(&words);
                said = Some(words);
            }
            _ => {}
        }
        tokio::time::sleep(if said.is_some() {
            LOOK_AGAIN
        } else {
            LOOK_EVERY
        })
        .await;
    }
}

/// A sign of life for each answer that its own control socket gives, as a client would get it.
async fn live(manager: Manager, addresses: Addresses) {
    let Some(every) = manager.every() else { return };
    loop {
        if answers(&addresses).await {
            manager.alive();
        }
        tokio::time::sleep(every).await;
    }
}

async fn answers(addresses: &Addresses) -> bool {
    let asked = ask_socket(&addresses.control_sock, http::Method::GET, "/healthz", None);
    let answer = tokio::time::timeout(ANSWERS_WITHIN, asked).await;
    matches!(answer, Ok(Ok(answer)) if answer.status.is_success())
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

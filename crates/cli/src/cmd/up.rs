//! `naka up` and `naka down`: this machine's control plane in the background.
//!
//! Idempotent: a control plane that answers is left alone. No pid file: the kernel says who holds the other end of the
//! control socket, so `down` never signals a stranger.

use crate::args;
use crate::client::{Client, ask_socket};
use crate::cmd::apply::text;
use crate::contexts::{Context, Contexts};
use crate::exit::{Exit, Outcome};
use crate::home::{Home, make_dir};
use crate::{hostwide, launch, out};
use clap::ValueEnum;
use http::Method;
use naka_types::duration::Show;
use serde_json::{Value, json};
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A control plane that does not answer by then will not.
const UP_WITHIN: Duration = Duration::from_secs(20);
/// A control plane that was told to end and has not by then is named.
const DOWN_WITHIN: Duration = Duration::from_secs(10);
/// Lifetime of the token in the owner's own context file.
const TOKEN_TTL: Duration = Duration::from_hours(24 * 365);

/// Runs `naka up`.
pub(crate) async fn up(args: &args::Up) -> Outcome {
    let home = Home::from_env()?;
    let running = answers(&home.control_sock(&args.mesh)).await;
    if running {
        in_force(args, &home).await?;
    } else {
        let extra = options(args)?;
        start(&home, &args.mesh, &extra).await?;
    }
    let context = record(&home, &args.mesh, true).await?;
    let word = if running { "runs already" } else { "is up" };
    out::line(format!("mesh {} {word}; API {}", args.mesh, context.server));
    out::line("run a program in it: naka run -s NAME -- COMMAND");
    Ok(())
}

/// What the control plane is started with.
fn options(args: &args::Up) -> Outcome<Vec<String>> {
    let mut all = vec!["--detached".to_owned()];
    let refresh = args.jwks_refresh.map(|time| Show(time).to_string());
    let keep = args.trail.audit_keep_denials;
    let keep = keep.map(|time| Show(time).to_string());
    let keep_log = args.trail.audit_keep.map(|time| Show(time).to_string());
    let full = args
        .trail
        .audit_when_full
        .and_then(|what| what.to_possible_value());
    let full = full.map(|what| what.get_name().to_owned());
    let behind = args.trail.audit_most_behind.map(|most| most.to_string());
    let mib = args.trail.audit_file_mib.map(|mib| mib.to_string());
    for (option, value) in [
        ("--trust-domain", args.trust_domain.as_ref()),
        ("--advertise", args.advertise.as_ref()),
        ("--jwks-refresh", refresh.as_ref()),
        ("--jwks-hosts", args.jwks_hosts.as_ref()),
        ("--audit-keep", keep_log.as_ref()),
        ("--audit-keep-denials", keep.as_ref()),
        ("--audit-when-full", full.as_ref()),
        ("--audit-most-behind", behind.as_ref()),
        ("--audit-file-mib", mib.as_ref()),
    ]
    .into_iter()
    .chain(
        args.trail
            .audit_to
            .iter()
            .map(|to| ("--audit-to", Some(to))),
    )
    .chain(
        args.tracing
            .traces_to
            .iter()
            .map(|to| ("--traces-to", Some(to))),
    ) {
        if let Some(value) = value {
            all.extend([option.to_owned(), value.clone()]);
        }
    }
    for (option, path) in [
        ("--dir", args.dir.as_ref()),
        ("--seal-passphrase-file", args.seal_passphrase_file.as_ref()),
        ("--ca", args.ca.as_ref()),
        ("--jwks-ca", args.jwks_ca.as_ref()),
        ("--audit-to-ca", args.trail.audit_to_ca.as_ref()),
        ("--traces-to-ca", args.tracing.traces_to_ca.as_ref()),
    ] {
        if let Some(path) = path {
            // It runs in another directory.
            let path = std::path::absolute(path)?;
            let path = path.to_str().ok_or_else(|| {
                Exit::failed(format!("{} cannot be written as text", path.display()))
            })?;
            all.extend([option.to_owned(), path.to_owned()]);
        }
    }
    Ok(all)
}

/// Options of a control plane take effect at its start: asking one that runs for others must not look like success.
async fn in_force(args: &args::Up, home: &Home) -> Outcome {
    let mut client = Client::over_socket(&home.control_sock(&args.mesh)).await?;
    let info = client.get("/naka/v1/mesh").await?;
    let advertised = |address: &str| {
        let all = info.get("xds").and_then(Value::as_array);
        all.into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .any(|xds| {
                xds == address
                    || xds
                        .rsplit_once(':')
                        .is_some_and(|(host, _)| host == address)
            })
    };
    let late = [
        (
            "--advertise",
            args.advertise
                .as_deref()
                .is_some_and(|address| !advertised(address)),
        ),
        ("--dir", args.dir.is_some()),
        ("--trust-domain", args.trust_domain.is_some()),
        ("--ca", args.ca.is_some()),
        ("--jwks-refresh", args.jwks_refresh.is_some()),
        ("--jwks-ca", args.jwks_ca.is_some()),
        ("--jwks-hosts", args.jwks_hosts.is_some()),
        (
            "--audit-keep-denials",
            args.trail.audit_keep_denials.is_some(),
        ),
        ("--audit-when-full", args.trail.audit_when_full.is_some()),
        ("--audit-keep", args.trail.audit_keep.is_some()),
        ("--audit-to", !args.trail.audit_to.is_empty()),
        ("--traces-to", !args.tracing.traces_to.is_empty()),
        (
            "--seal-passphrase-file",
            args.seal_passphrase_file.is_some(),
        ),
    ];
    match late.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((option, _)) => Err(Exit::failed(format!(
            "mesh {} runs already, and {option} takes effect only when it starts: run \"naka down --mesh {}\" first; programs keep running meanwhile",
            args.mesh, args.mesh
        ))),
    }
}

/// The mesh of the current context if it is one of this machine, as every other command takes it.
fn current(home: &Home) -> Outcome<String> {
    let here = Contexts::open(home)?.choose(None).ok();
    let here = here.filter(|context| context.socket.is_some() && !context.mesh.is_empty());
    Ok(here.map_or_else(|| "local".to_owned(), |context| context.mesh))
}

/// Runs `naka down`.
pub(crate) async fn down(args: &args::Down) -> Outcome {
    let home = Home::from_env()?;
    let mesh = match &args.mesh {
        Some(mesh) => mesh.clone(),
        None => current(&home)?,
    };
    let socket = home.control_sock(&mesh);
    match tokio::net::UnixStream::connect(&socket).await {
        Err(_) => out::line(format!("mesh {mesh} is not running")),
        Ok(stream) => {
            let pid = stream
                .peer_cred()?
                .pid()
                .and_then(|pid| u32::try_from(pid).ok())
                .ok_or_else(|| {
                    Exit::failed("the kernel does not say who serves the control socket")
                })?;
            drop(stream);
            launch::signal(pid, rustix::process::Signal::TERM);
            let deadline = Instant::now() + DOWN_WITHIN;
            while Path::new(&format!("/proc/{pid}/exe")).exists() {
                if Instant::now() > deadline {
                    return Err(Exit::failed(format!(
                        "process {pid} does not end; see {}",
                        log(&home, &mesh).display()
                    )));
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            out::line(format!(
                "mesh {mesh} is down; its programs keep running on what they know"
            ));
        }
    }
    if hostwide::remove_leftovers() {
        out::line(
            "removed the capture rules that a killed \"naka run --capture host\" left on this machine",
        );
    }
    if args.purge {
        let dir = home.mesh(&mesh);
        if dir.exists() {
            std::fs::remove_dir_all(&dir).map_err(|error| {
                Exit::failed(format!("cannot remove {}: {error}", dir.display()))
            })?;
        }
        let mut contexts = Contexts::open(&home)?;
        contexts.remove(&mesh);
        contexts.save()?;
        forget_proxies(&home, &mesh)?;
        out::line(format!("mesh {mesh} is removed"));
    }
    Ok(())
}

/// Removes what proxies of the mesh that run no more kept: identities, saved configuration, logs.
fn forget_proxies(home: &Home, mesh: &str) -> Outcome {
    let Ok(entries) = std::fs::read_dir(home.runs()) else {
        return Ok(());
    };
    let stem = format!("{mesh}.");
    for dir in entries.flatten().map(|entry| entry.path()) {
        let named = dir.file_name().and_then(|name| name.to_str());
        let ours = named.is_some_and(|name| name.starts_with(&stem));
        let free = || {
            let lock = std::fs::File::open(dir.join("lock"));
            lock.is_ok_and(|lock| lock.try_lock().is_ok())
        };
        if ours && free() {
            std::fs::remove_dir_all(&dir).map_err(|error| {
                Exit::failed(format!("cannot remove {}: {error}", dir.display()))
            })?;
        }
    }
    Ok(())
}

fn log(home: &Home, mesh: &str) -> std::path::PathBuf {
    home.mesh(mesh).join("control.log")
}

/// Starts `naka control` with these further options and waits until it answers.
pub(crate) async fn start(home: &Home, mesh: &str, options: &[String]) -> Outcome<Child> {
    make_dir(&home.mesh(mesh))?;
    let log = log(home, mesh);
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&log)?;
    let mut child = Command::new(std::env::current_exe()?)
        .args(["control", "--mesh", mesh])
        .args(options)
        .env("NAKA_HOME", home.dir())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .process_group(0)
        .spawn()
        .map_err(|error| Exit::failed(format!("cannot start the control plane: {error}")))?;
    let socket = home.control_sock(mesh);
    let deadline = Instant::now() + UP_WITHIN;
    loop {
        if answers(&socket).await {
            return Ok(child);
        }
        if let Some(status) = child.try_wait()? {
            let said = launch::last_line(&log).map_or_else(String::new, |line| format!(": {line}"));
            return Err(Exit::failed(format!(
                "the control plane ended at its start ({status}){said}"
            )));
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            return Err(Exit::failed(format!(
                "the control plane does not answer after 20 s; its log: {}",
                log.display()
            )));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether a control plane answers at this socket.
pub(crate) async fn answers(socket: &Path) -> bool {
    let asked = ask_socket(socket, Method::GET, "/healthz", None);
    let answer = tokio::time::timeout(Duration::from_secs(2), asked).await;
    matches!(answer, Ok(Ok(answer)) if answer.status.is_success())
}

/// Writes the context of a mesh whose control plane runs here. It becomes current if asked, or if none is.
pub(crate) async fn record(home: &Home, mesh: &str, make_current: bool) -> Outcome<Context> {
    let socket = home.control_sock(mesh);
    let mut client = Client::over_socket(&socket).await?;
    let info = client.get("/naka/v1/mesh").await?;
    let mut contexts = Contexts::open(home)?;
    let known = contexts.choose(Some(mesh)).ok();
    let words = |field: &str| -> Vec<String> {
        match info.get(field) {
            Some(Value::Array(all)) => all
                .iter()
                .filter_map(|v| v.as_str().map(str::to_owned))
                .collect(),
            Some(Value::String(one)) => vec![one.clone()],
            _ => Vec::new(),
        }
    };
    let mut context = Context {
        name: mesh.to_owned(),
        mesh: mesh.to_owned(),
        server: format!(
            "https://{}",
            words("api").first().cloned().unwrap_or_default()
        ),
        root_pem: text(&info, "root_pem"),
        root_sha256: text(&info, "root_sha256"),
        socket: Some(socket),
        xds: words("xds"),
        ..Context::default()
    };
    context.token = match known {
        // The same mesh as last time: its token is still good.
        Some(known) if known.root_sha256 == context.root_sha256 && !known.token.is_empty() => {
            known.token
        }
        _ => {
            let wanted = json!({"kind": "api", "role": "admin", "namespaces": [], "ttl_seconds": TOKEN_TTL.as_secs()});
            text(&client.post("/naka/v1/tokens", &wanted).await?, "token")
        }
    };
    contexts.put(&context);
    if make_current || contexts.current().is_empty() {
        contexts.make_current(mesh);
    }
    contexts.save()?;
    Ok(context)
}

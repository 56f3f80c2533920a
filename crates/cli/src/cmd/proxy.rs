//! `naka proxy sidecar` and `naka proxy gateway`: the processes themselves.

use crate::args;
use crate::cmd::run::beside;
use crate::cmd::{control, token};
use crate::exit::{Exit, Outcome};
use crate::home::Home;
use crate::launch::{self, Who};
use crate::notify::Manager;
use naka_proxy::run::{Sign, Teller};
use naka_proxy::settings::{Beside, GatewayPort, Role, Settings};
use serde_json::json;
use std::ffi::OsString;
use std::path::Path;

/// Runs a sidecar with the settings that `naka run`, systemd or an injector wrote.
pub(crate) fn sidecar(args: &args::ProxyRun) -> Outcome {
    if args.with_parent {
        control::end_with_parent();
    }
    control::logs();
    serve(read(&args.settings)?)
}

/// Runs the agent of an Envoy or of a gRPC program with the settings that `naka run` wrote.
pub(crate) fn agent(args: &args::ProxyRun) -> Outcome {
    if args.with_parent {
        control::end_with_parent();
    }
    control::logs();
    agent_of(read(&args.settings)?)
}

/// A proxy process of its own, without the command line: `sidecar|gateway [--with-parent] --settings FILE`, or `door`.
pub(crate) fn standalone(argv: impl IntoIterator<Item = OsString>) -> Outcome {
    const USAGE: &str = "usage: naka-proxy sidecar|gateway [--with-parent] --settings FILE";
    let mut argv = argv.into_iter();
    let role = argv.next().unwrap_or_default();
    if role == "door" {
        return crate::cmd::door::run(argv);
    }
    let mut settings = None;
    while let Some(word) = argv.next() {
        match word.to_str() {
            Some("--with-parent") => control::end_with_parent(),
            Some("--settings") => settings = argv.next(),
            _ => return Err(Exit::usage(USAGE)),
        }
    }
    match (role.to_str(), settings) {
        (Some("sidecar" | "gateway"), Some(path)) => {
            control::logs();
            serve(read(Path::new(&path))?)
        }
        _ => Err(Exit::usage(USAGE)),
    }
}

/// Runs a gateway: with a settings file, or as the options say.
pub(crate) fn gateway(args: &args::GatewayRun, context: Option<&str>) -> Outcome {
    if args.with_parent {
        control::end_with_parent();
    }
    control::logs();
    if let Some(path) = &args.settings {
        return serve(read(path)?);
    }
    let home = Home::from_env()?;
    let given = launch::given_token(args.token.as_deref())?;
    let context = launch::context(&home, context, given.as_deref())?;
    let mut labels = token::labels(&args.labels)?;
    if labels.is_empty() {
        labels.insert("istio".to_owned(), json!("ingressgateway"));
        labels.insert("app".to_owned(), json!(args.service));
    }
    let who = Who {
        namespace: args.namespace.clone(),
        service: Some(args.service.clone()),
        account: args.service.clone(),
        labels,
        program: None,
    };
    let instance = launch::take_instance(&home, &context.mesh, &who, args.instance)?;
    let workload = format!("{}-{}", args.service, instance.number);
    let mut settings = Settings::new(instance.dir.clone(), &args.service, &workload);
    settings.role = Role::Gateway;
    if let Some(file) = crate::launch::resolv_conf() {
        settings.resolv_conf = file;
    }
    settings.lock_inherited = true;
    settings.namespace.clone_from(&who.namespace);
    settings.service.clone_from(&who.service);
    settings.outbound = None;
    settings.workers = args.workers;
    if args.proxy == args::GatewayProxy::Envoy {
        settings.beside = Beside::Envoy;
        settings.envoy = Some(beside::envoy()?);
    }
    settings.labels = who
        .labels
        .iter()
        .map(|(key, value)| (key.clone(), crate::cmd::apply::show(value)))
        .collect();
    settings.inbound_ip = args
        .bind
        .parse()
        .map_err(|_| Exit::usage(format!("--bind {}: no IP address", args.bind)))?;
    for text in &args.ports {
        settings.gateway_ports.push(gateway_port(text)?);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(launch::admit(
        &mut settings,
        &who,
        &context,
        given.as_deref(),
    ))?;
    drop(runtime);
    let outcome = if settings.beside == Beside::Naka {
        serve(settings)
    } else {
        agent_of(settings)
    };
    drop(instance);
    outcome
}

/// Reads `80=127.0.0.1:8080`.
fn gateway_port(text: &str) -> Outcome<GatewayPort> {
    text.split_once('=')
        .and_then(|(port, bind)| {
            Some(GatewayPort {
                port: port.parse().ok()?,
                bind: bind.parse().ok()?,
            })
        })
        .ok_or_else(|| Exit::usage(format!("-p {text}: write PORT=ADDR:PORT")))
}

fn read(path: &Path) -> Outcome<Settings> {
    let bytes = std::fs::read(path)
        .map_err(|error| Exit::failed(format!("{}: {error}", path.display())))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Exit::failed(format!("{}: {error}", path.display())))
}

fn serve(settings: Settings) -> Outcome {
    naka_proxy::run::main(settings, teller())
        .map_err(|error| Exit::from(anyhow::Error::from(error)))
}

fn agent_of(settings: Settings) -> Outcome {
    naka_proxy::agent::main(settings, teller())
        .map_err(|error| Exit::from(anyhow::Error::from(error)))
}

/// Tells the service manager, where one listens.
fn teller() -> Option<Teller> {
    let manager = Manager::from_env();
    manager.listens().then(|| Teller {
        every: manager.every(),
        to: Box::new(move |sign| match sign {
            Sign::Ready(status) => manager.ready(&status),
            Sign::Status(status) => manager.status(&status),
            Sign::Alive => manager.alive(),
            Sign::Stopping => manager.stopping(),
        }),
    })
}

//! How the calls of a program get into its sidecar, and what happens where the best way is refused.
//!
//! `auto` takes a network namespace of the program's own; where the system refuses one, a line says why and what would
//! change it, and proxy variables are used. `namespace` fails instead.

use crate::args;
use crate::cmd::door::Spec;
use crate::cmd::run::beside;
use crate::exit::{Exit, Outcome};
use crate::hostwide::Hostwide;
use crate::launch::door::{Closed, Door};
use crate::launch::environment;
use crate::launch::inbound;
use crate::launch::instance::Instance;
use crate::namespace::Refusal;
use crate::out;
use naka_proxy::settings::{Capture, Outbound, Port, Settings};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The way that was taken.
#[derive(Debug)]
pub(crate) enum Way {
    /// A network namespace of the program's own.
    Namespace(Door),
    /// Rules for the whole machine.
    Host(Hostwide),
    /// Proxy variables with this credential.
    Proxy(String),
    /// The proxy is not ours: by its own means.
    Beside,
}

impl Way {
    /// Takes the best way that works here and writes into `settings` what the sidecar must know of it.
    pub(crate) async fn take(
        args: &args::Run,
        ports: &[Port],
        instance: &Instance,
        settings: &mut Settings,
    ) -> Outcome<Self> {
        if args.proxy != args::ProxyChoice::Naka {
            beside::settle(args, settings)?;
            inbound::settle(settings)?;
            return Ok(Self::Beside);
        }
        if args.capture == args::Capture::Host {
            return Hostwide::take(settings, ports, &args.exclude).map(Self::Host);
        }
        if !args.exclude.is_empty() {
            return Err(Exit::usage("--exclude belongs to --capture host"));
        }
        inbound::settle(settings)?;
        if let Some(door) = door(args, instance, settings).await? {
            settings.outbound = None;
            settings.capture = Some(Capture::Namespace {
                door: door.socket().to_owned(),
            });
            return Ok(Self::Namespace(door));
        }
        let credential = environment::credential(&naka_identity::new_secret());
        settings.outbound = Some(Outbound {
            bind: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            credential: Some(credential.clone()),
        });
        Ok(Self::Proxy(credential))
    }
}

/// The door, where one is wanted and to be had.
async fn door(args: &args::Run, instance: &Instance, settings: &Settings) -> Outcome<Option<Door>> {
    match args.capture {
        args::Capture::Proxy | args::Capture::Host => return Ok(None),
        args::Capture::Auto | args::Capture::Namespace => {}
    }
    let spec = Spec {
        upstreams: settings.upstreams.iter().map(|one| one.bind).collect(),
        host_ports: args.host_port.clone(),
        ..Spec::default()
    };
    match Door::open(instance, spec).await {
        Ok(door) => Ok(Some(door)),
        Err(Closed::Failed(exit)) => Err(exit),
        Err(Closed::Refused(refusal)) if args.capture == args::Capture::Namespace => {
            Err(Exit::failed(format!("--capture namespace: {refusal}")))
        }
        Err(Closed::Refused(refusal)) => {
            out::note(fallen_back(&refusal));
            Ok(None)
        }
    }
}

fn fallen_back(refusal: &Refusal) -> String {
    format!("naka: using proxy variables, which not every program reads: {refusal}")
}

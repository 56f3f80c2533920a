//! Options of `naka run`.

use crate::hostwide::Exclude;
use clap::{Args as Group, ValueEnum};
use std::ffi::OsString;

#[derive(Debug, Group)]
pub(crate) struct Run {
    /// Namespace of the workload
    #[arg(short, long, value_name = "NS", default_value = "default")]
    pub(crate) namespace: String,
    /// Service the program serves under; without it the program is a client only
    #[arg(short, long, value_name = "NAME")]
    pub(crate) service: Option<String>,
    /// Service account; the service's name unless given
    #[arg(long, value_name = "SA")]
    pub(crate) service_account: Option<String>,
    /// Port the program listens on, `PORT` or `PORT/PROTOCOL`; found by itself when missing
    #[arg(short, long = "port", value_name = "PORT")]
    pub(crate) ports: Vec<String>,
    /// Label of the workload; app and version have defaults
    #[arg(short, long = "label", value_name = "K=V")]
    pub(crate) labels: Vec<String>,
    /// Where it runs, for rules that prefer near endpoints: `in/mumbai/rack1`
    #[arg(long, value_name = "REGION[/ZONE[/SUBZONE]]")]
    pub(crate) locality: Option<String>,
    /// Take plain calls from outside the mesh here
    #[arg(long, value_name = "[ADDR:]PORT")]
    pub(crate) publish: Vec<String>,
    /// Give the program a local port that leads to a service: `postgres:5432`, `postgres:5432=15432`
    #[arg(long, value_name = "NAME:PORT[=LOCAL]")]
    pub(crate) upstream: Vec<String>,
    /// Port of this machine's 127.0.0.1 that the program may call as its own (a database, a debugger)
    #[arg(long, value_name = "PORT")]
    pub(crate) host_port: Vec<u16>,
    /// Port that other sidecars dial instead of a free one.
    #[arg(long, value_name = "PORT", hide = true)]
    pub(crate) inbound_port: Option<u16>,
    /// Address others dial instead, when a relay stands in front of the inbound port.
    #[arg(long, value_name = "ADDR:PORT", hide = true)]
    pub(crate) advertise_port: Option<std::net::SocketAddr>,
    /// How the program's traffic gets into the sidecar
    #[arg(long, value_name = "WAY", default_value = "auto")]
    pub(crate) capture: Capture,
    /// Outgoing traffic that `--capture host` leaves alone: addresses (10.0.0.0/8), a port (:5432) or a user (uid:997)
    #[arg(long, value_name = "CIDR|:PORT|uid:N")]
    pub(crate) exclude: Vec<Exclude>,
    /// Which proxy stands beside the program; `grpc`: none, the program speaks xDS itself
    #[arg(long, value_name = "PROXY", default_value = "naka")]
    pub(crate) proxy: ProxyChoice,
    /// Number of this replica; the first free one unless given
    #[arg(long, value_name = "N")]
    pub(crate) instance: Option<u32>,
    /// Do not keep the identity on disk for a restart
    #[arg(long)]
    pub(crate) no_saved_identity: bool,
    /// Join token, when the mesh runs elsewhere
    #[arg(long, value_name = "TOKEN", hide = true)]
    pub(crate) token: Option<String>,
    /// End with the parent process: set by `naka demo`.
    #[arg(long, hide = true)]
    pub(crate) with_parent: bool,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// How a program's traffic gets into its sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Capture {
    /// The best way that works here
    Auto,
    /// A network namespace of its own
    Namespace,
    /// Proxy environment variables
    Proxy,
    /// Rules for the whole machine; needs root
    Host,
}

/// Which proxy a workload has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProxyChoice {
    /// Naka's own
    Naka,
    /// A stock Envoy with an agent beside it
    Envoy,
    /// None: a gRPC program that reads xDS through an agent
    Grpc,
}

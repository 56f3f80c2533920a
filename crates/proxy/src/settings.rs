//! What one proxy process is told at its start: who it is, where it listens, whom it asks.
//!
//! Resolved by the command line (or an installer) and handed over as one JSON file, because the command line knows
//! flags, environment and contexts and the proxy should know none of them. Everything has a sensible default but the
//! run directory. The file may hold a join token: whoever writes it makes it 0600.
//!
//! Does not hold mesh configuration (routes, policies): that comes over the wire.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// Settings of one sidecar or gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Sidecar of one program, or a gateway.
    #[serde(default)]
    pub role: Role,
    /// `$NAKA_HOME/run/<id>`: admin socket, saved identity, last good configuration, lock.
    pub run_dir: PathBuf,
    /// Which proxy the workload has: this process, or one that this process is the agent of.
    #[serde(default)]
    pub beside: Beside,
    /// Program of a stock Envoy, where that is the proxy.
    #[serde(default)]
    pub envoy: Option<PathBuf>,
    /// True when the parent already holds this instance's lock and keeps it open for us (as our standard input).
    #[serde(default)]
    pub lock_inherited: bool,
    /// Namespace of the workload.
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// Service the workload serves; none for a client only.
    #[serde(default)]
    pub service: Option<String>,
    /// Service account the identity is asked for.
    pub service_account: String,
    /// Labels of the workload.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Name of the workload (its instance), for metrics and status.
    pub workload_name: String,
    /// Istio's CLUSTER_ID.
    #[serde(default = "default_cluster")]
    pub cluster_id: String,
    /// Declared ports of the program, in order; the first is also the service's port 80.
    #[serde(default)]
    pub ports: Vec<Port>,
    /// True when ports will be announced later by `POST /ports`; until then the workload stays STARTING.
    #[serde(default)]
    pub ports_later: bool,
    /// Address the inbound mTLS listeners bind and are advertised at.
    #[serde(default = "loopback")]
    pub inbound_ip: IpAddr,
    /// Where the program's own calls come in; none for gateways.
    #[serde(default)]
    pub outbound: Option<Outbound>,
    /// How the program's traffic is captured; none = it is told where to go (proxy variables, explicit binds).
    #[serde(default)]
    pub capture: Option<Capture>,
    /// Explicit binds: a local address that leads to one service.
    #[serde(default)]
    pub upstreams: Vec<Upstream>,
    /// Addresses where plain callers from outside the mesh may reach the program.
    #[serde(default)]
    pub publish: Vec<Publish>,
    /// Gateways: where the ports named by Gateway objects are bound.
    #[serde(default)]
    pub gateway_ports: Vec<GatewayPort>,
    /// Whom to ask for identity and configuration.
    #[serde(default)]
    pub control: Control,
    /// Keep key and certificate in the run directory (0600) for restarts.
    #[serde(default = "yes")]
    pub save_identity: bool,
    /// Worker threads; none = one for a sidecar, one per core for a gateway.
    #[serde(default)]
    pub workers: Option<usize>,
    /// The longest wait for acknowledgements when draining, in milliseconds.
    #[serde(default = "default_drain_ms")]
    pub drain_timeout_ms: u64,
    /// Where the access log goes.
    #[serde(default)]
    pub access_log: AccessLog,
    /// The file that names the host's name servers.
    #[serde(default = "default_resolv_conf")]
    pub resolv_conf: PathBuf,
    /// Read-only metrics over TCP; port 0 = free. None turns it off.
    #[serde(default = "default_metrics")]
    pub metrics: Option<SocketAddr>,
    /// The admin pages (GET only) over loopback TCP as well; off by default.
    #[serde(default)]
    pub admin_tcp: Option<SocketAddr>,
}

/// How the program's traffic gets here without the program knowing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Capture {
    /// The program lives in a network namespace of its own: its listeners and explicit binds are handed over by the
    /// door inside, and sockets towards it come from there.
    Namespace {
        /// The door's socket (see `door`).
        door: PathBuf,
    },
    /// Rules lead the traffic of the whole machine here: we bind where they lead to, and our own sockets pass them.
    Host(Host),
}

/// What a proxy must know of the rules of its machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// Mark of our own sockets.
    pub mark: u32,
    /// Port of loopback that calls are led to.
    pub outbound: u16,
    /// Port of loopback that questions after names are led to.
    pub dns: u16,
}

impl Capture {
    /// The door's socket, if the program has a namespace of its own.
    #[must_use]
    pub fn door(&self) -> Option<&Path> {
        match self {
            Self::Namespace { door } => Some(door),
            Self::Host(_) => None,
        }
    }
}

/// What kind of proxy this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Beside one program.
    #[default]
    Sidecar,
    /// At the edge of the mesh.
    Gateway,
}

/// Which proxy a workload has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Beside {
    /// Naka's own.
    #[default]
    Naka,
    /// A stock Envoy.
    Envoy,
    /// None: a gRPC program that reads xDS itself.
    Grpc,
}

/// One declared port of the program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// The port the program listens on.
    pub port: u16,
    /// Protocol word of `types::Protocol`; `auto` when not declared.
    #[serde(default = "auto")]
    pub protocol: String,
    /// Istio's port name.
    #[serde(default)]
    pub name: String,
    /// Where our mTLS listener for it binds; none = a free port of `inbound_ip`.
    #[serde(default)]
    pub bind: Option<SocketAddr>,
    /// Address others dial, when it differs from the bound one.
    #[serde(default)]
    pub advertise: Option<SocketAddr>,
}

impl Port {
    /// A port with nothing declared but its number.
    #[must_use]
    pub fn plain(port: u16) -> Self {
        Self {
            port,
            protocol: auto(),
            name: String::new(),
            bind: None,
            advertise: None,
        }
    }
}

/// The listener for the program's calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outbound {
    /// Where it binds; port 0 = the port of the last run if free, else any free one.
    #[serde(default = "any_loopback")]
    pub bind: SocketAddr,
    /// `user:password` of the proxy variables; callers of another uid need it. None = only this uid.
    #[serde(default)]
    pub credential: Option<String>,
}

/// A local address leading to one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// Where it binds.
    pub bind: SocketAddr,
    /// Host as the user wrote it (short names resolve in the own namespace).
    pub host: String,
    /// Service port.
    pub port: u16,
}

/// A plain listener leading to the program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    /// Where it binds.
    pub bind: SocketAddr,
    /// The program's port; none = its first.
    #[serde(default)]
    pub port: Option<u16>,
}

/// One port of a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayPort {
    /// Port number in the Gateway object.
    pub port: u16,
    /// Where it is really bound.
    pub bind: SocketAddr,
}

/// The control plane as seen from here.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Control {
    /// `host:port` of every control plane; a token's addresses are used when this is empty.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Join token; needed when there is no saved identity.
    #[serde(default)]
    pub token: Option<String>,
    /// Control socket of a control plane on this machine, which gives its owner's sidecars a new token when their
    /// identity has expired.
    #[serde(default)]
    pub socket: Option<PathBuf>,
}

/// Where the access log goes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessLog {
    /// To `access.log` in the run directory.
    #[default]
    Run,
    /// Nowhere.
    Off,
    /// To the process's standard output.
    Stdout,
    /// To this file.
    File(PathBuf),
}

fn default_resolv_conf() -> PathBuf {
    PathBuf::from("/etc/resolv.conf")
}

fn default_namespace() -> String {
    naka_types::host::DEFAULT_NAMESPACE.to_owned()
}
fn default_cluster() -> String {
    "Kubernetes".to_owned()
}
fn auto() -> String {
    "auto".to_owned()
}
fn yes() -> bool {
    true
}
fn loopback() -> IpAddr {
    IpAddr::V4(Ipv4Addr::LOCALHOST)
}
fn any_loopback() -> SocketAddr {
    SocketAddr::new(loopback(), 0)
}
fn default_drain_ms() -> u64 {
    20_000
}
#[expect(clippy::unnecessary_wraps, reason = "the shape serde's default wants")]
fn default_metrics() -> Option<SocketAddr> {
    Some(any_loopback())
}

impl Settings {
    /// Settings with defaults for everything but these.
    #[must_use]
    pub fn new(run_dir: PathBuf, service_account: &str, workload_name: &str) -> Self {
        Self {
            role: Role::Sidecar,
            run_dir,
            beside: Beside::Naka,
            envoy: None,
            lock_inherited: false,
            namespace: default_namespace(),
            service: None,
            service_account: service_account.to_owned(),
            labels: BTreeMap::new(),
            workload_name: workload_name.to_owned(),
            cluster_id: default_cluster(),
            ports: Vec::new(),
            ports_later: false,
            inbound_ip: loopback(),
            outbound: Some(Outbound {
                bind: any_loopback(),
                credential: None,
            }),
            capture: None,
            upstreams: Vec::new(),
            publish: Vec::new(),
            gateway_ports: Vec::new(),
            control: Control::default(),
            save_identity: true,
            workers: None,
            drain_timeout_ms: default_drain_ms(),
            access_log: AccessLog::Run,
            resolv_conf: default_resolv_conf(),
            metrics: default_metrics(),
            admin_tcp: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_file_gets_the_defaults() {
        let read: Settings = serde_json::from_str(
            r#"{"run_dir":"/r","service_account":"pay","workload_name":"pay-1","outbound":{}}"#,
        )
        .unwrap();
        assert_eq!(read, Settings::new("/r".into(), "pay", "pay-1"));
    }

    #[test]
    fn an_unknown_field_is_refused() {
        let read = serde_json::from_str::<Settings>(
            r#"{"run_dir":"/r","service_account":"a","workload_name":"b","no_such":1}"#,
        );
        assert!(read.unwrap_err().to_string().contains("no_such"));
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut settings = Settings::new("/r".into(), "pay", "pay-1");
        settings.ports.push(Port::plain(8080));
        settings.access_log = AccessLog::File("/tmp/a".into());
        settings.capture = Some(Capture::Namespace {
            door: "/r/door.sock".into(),
        });
        let text = serde_json::to_string(&settings).unwrap();
        assert_eq!(serde_json::from_str::<Settings>(&text).unwrap(), settings);
    }
}

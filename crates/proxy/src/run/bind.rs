//! Every socket of a proxy, opened once, and the file that remembers where.

use super::{Addresses, Error};
use crate::door::{self, Handed, Kind};
use crate::settings::{Capture, Host as Machine, Port, Role, Settings, Upstream};
use crate::worker::Entrance;
use crate::{listen, saved, workload_api};
use naka_types::host::Host;
use naka_types::protocol::Protocol;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

const FORMAT: u32 = 1;

/// `ports.json`: where we listened, for the next run of this instance.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Kept {
    format: u32,
    /// Addresses of the last run.
    pub(crate) addresses: Addresses,
    /// Ports the program announced.
    #[serde(default)]
    pub(super) announced: Vec<Port>,
    /// The process that started us then: only under the same one is the program still the same.
    #[serde(default)]
    parent: u32,
}

impl Kept {
    pub(crate) fn load(dir: &Path) -> Self {
        let content = match saved::read(&dir.join(saved::PORTS)) {
            Ok(content) => content.unwrap_or_default(),
            Err(error) => {
                tracing::warn!(%error, "the addresses of the last run cannot be read");
                return Self::default();
            }
        };
        serde_json::from_slice::<Self>(&content)
            .ok()
            .filter(|kept| kept.format == FORMAT)
            .unwrap_or_default()
    }

    /// Remembers where we listen. Failing costs only the same addresses after a restart.
    pub(crate) fn save(dir: &Path, addresses: &Addresses, announced: &[Port]) {
        let kept = Self {
            format: FORMAT,
            addresses: addresses.clone(),
            announced: announced.to_vec(),
            parent: parent(),
        };
        let path = dir.join(saved::PORTS);
        let write = move || {
            let content = serde_json::to_vec_pretty(&kept).unwrap_or_default();
            if let Err(error) = saved::replace(&path, &content) {
                tracing::warn!(%error, "the addresses could not be saved");
            }
        };
        drop(tokio::task::spawn_blocking(write));
    }
}

fn parent() -> u32 {
    std::os::unix::process::parent_id()
}

/// Where a captured program's questions after names arrive.
#[derive(Debug, Default)]
pub(super) struct DnsSockets {
    pub(super) udp: Vec<UdpSocket>,
    pub(super) tcp: Vec<TcpListener>,
}

/// A bound socket with where its connections are from.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) listener: TcpListener,
    pub(super) entrance: Arc<Entrance>,
}

/// Everything bound at the start.
#[derive(Debug)]
pub(super) struct Bound {
    /// The program's own calls: served until the very end.
    pub(super) outbound: Vec<Door>,
    /// Handed over by the door of the program's namespace, or where the rules of the machine lead.
    pub(super) dns: DnsSockets,
    /// Whether that namespace has IPv6.
    pub(super) six: bool,
    /// The door's process: it is in that namespace.
    pub(super) inside: Option<u32>,
    /// Gateway ports: drained.
    pub(super) gateway: Vec<Door>,
    /// Plain entries; which of the program's ports they lead to may be known later.
    pub(super) publish: Vec<(TcpListener, Option<u16>)>,
    pub(super) metrics: Option<TcpListener>,
    pub(super) admin_tcp: Option<TcpListener>,
    pub(super) admin: tokio::net::UnixListener,
    /// Where the program learns who it is; gateways have no program.
    pub(super) workload_api: Option<tokio::net::UnixListener>,
    pub(super) addresses: Addresses,
    /// Of the last run.
    pub(super) kept: Kept,
    /// Ports announced to an earlier life of this very process.
    pub(super) announced: Vec<Port>,
}

impl Bound {
    pub(super) fn open(settings: &Settings) -> Result<Self, Error> {
        let kept = Kept::load(&settings.run_dir);
        let socket = |name: &str, purpose: &str| {
            let path = settings.run_dir.join(name);
            crate::admin::bind(&path).map_err(|source| Error::Bind {
                purpose: purpose.to_owned(),
                address: path.display().to_string(),
                source,
            })
        };
        let admin = socket(saved::ADMIN, "the admin socket")?;
        let workload_api = match settings.role {
            Role::Sidecar => Some(socket(workload_api::SOCKET, "the Workload API")?),
            Role::Gateway => None,
        };
        let same_parent = settings.lock_inherited && kept.parent == parent();
        let announced = if settings.ports_later && same_parent {
            kept.announced.clone()
        } else {
            Vec::new()
        };
        let mut bound = Self {
            outbound: Vec::new(),
            dns: DnsSockets::default(),
            six: false,
            inside: None,
            gateway: Vec::new(),
            publish: Vec::new(),
            metrics: None,
            admin_tcp: None,
            admin,
            workload_api,
            addresses: Addresses::default(),
            kept,
            announced,
        };
        match &settings.capture {
            None => bound.outbound(settings)?,
            Some(Capture::Namespace { door }) => bound.handed(settings, door)?,
            Some(Capture::Host(host)) => {
                bound.outbound(settings)?;
                bound.machine(*host)?;
            }
        }
        bound.edges(settings)?;
        Ok(bound)
    }

    fn outbound(&mut self, settings: &Settings) -> Result<(), Error> {
        if let Some(outbound) = &settings.outbound {
            let before = self.kept.addresses.outbound;
            let (listener, address) = open(outbound.bind, before, "the program's calls")?;
            self.addresses.outbound = Some(address);
            self.outbound.push(Door {
                listener,
                entrance: Arc::new(Entrance::Outbound),
            });
        }
        for (index, upstream) in settings.upstreams.iter().enumerate() {
            let before = self.kept.addresses.upstreams.get(index).copied();
            let purpose = format!("calls to {}:{}", upstream.host, upstream.port);
            let (listener, address) = open(upstream.bind, before, &purpose)?;
            self.addresses.upstreams.push(address);
            self.outbound.push(Door {
                listener,
                entrance: Arc::new(bind_to(upstream, settings, false)?),
            });
        }
        Ok(())
    }

    /// Takes the sockets that the door of the program's network namespace has opened: the same ones in each of our
    /// lives, so nothing that the program does meanwhile is lost.
    fn handed(&mut self, settings: &Settings, door: &Path) -> Result<(), Error> {
        let asked = door::Client::connect(door).and_then(|client| {
            let handed = client.list()?;
            Ok((handed, client.process()?))
        });
        let (handed, process) = asked.map_err(|source| Error::Door {
            path: door.to_owned(),
            source,
        })?;
        self.inside = Some(process);
        let problem = |problem: String| Error::Setting {
            field: "capture",
            problem,
        };
        for Handed { kind, socket } in handed {
            let entrance = match kind {
                Kind::Outbound { address } => {
                    self.six |= address.is_ipv6();
                    self.addresses.captured.push(address);
                    Entrance::Captured
                }
                Kind::HostPort { port } => Entrance::HostPort { port },
                Kind::Upstream { index } => {
                    let upstream = settings.upstreams.get(index);
                    let upstream = upstream.ok_or_else(|| {
                        problem(format!(
                            "the door has a bind for upstream {index}, which is none"
                        ))
                    })?;
                    self.addresses.upstreams.push(upstream.bind);
                    bind_to(upstream, settings, true)?
                }
                Kind::DnsUdp { .. } => {
                    self.dns.udp.push(socket.into());
                    continue;
                }
                Kind::DnsTcp { .. } => {
                    self.dns.tcp.push(socket.into());
                    continue;
                }
            };
            self.outbound.push(Door {
                listener: socket.into(),
                entrance: Arc::new(entrance),
            });
        }
        let sockets = self.outbound.iter().map(|door| door.listener.as_fd());
        let sockets = sockets.chain(self.dns.udp.iter().map(AsFd::as_fd));
        for socket in sockets.chain(self.dns.tcp.iter().map(AsFd::as_fd)) {
            rustix::io::ioctl_fionbio(socket, true)
                .map_err(|error| problem(format!("a socket of the door: {error}")))?;
        }
        if self.addresses.captured.is_empty() {
            return Err(problem("the door has no outbound listener".to_owned()));
        }
        Ok(())
    }

    /// Binds where the rules of the whole machine lead to.
    fn machine(&mut self, host: Machine) -> Result<(), Error> {
        let mut loopback = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
        if Path::new("/proc/net/if_inet6").exists() {
            loopback.push(IpAddr::V6(Ipv6Addr::LOCALHOST));
        }
        for ip in loopback {
            let calls = SocketAddr::new(ip, host.outbound);
            let (listener, address) = open(calls, None, "the machine's calls")?;
            self.addresses.captured.push(address);
            self.outbound.push(Door {
                listener,
                entrance: Arc::new(Entrance::Captured),
            });
            let names = SocketAddr::new(ip, host.dns);
            self.dns
                .tcp
                .push(open(names, None, "questions after names")?.0);
            let udp = UdpSocket::bind(names).and_then(|socket| {
                socket.set_nonblocking(true)?;
                Ok(socket)
            });
            self.dns.udp.push(udp.map_err(|source| Error::Bind {
                purpose: "questions after names".to_owned(),
                address: names.to_string(),
                source,
            })?);
        }
        Ok(())
    }

    fn edges(&mut self, settings: &Settings) -> Result<(), Error> {
        for (index, publish) in settings.publish.iter().enumerate() {
            let before = self.kept.addresses.publish.get(index).copied();
            let (listener, address) = open(publish.bind, before, "callers outside the mesh")?;
            self.addresses.publish.push(address);
            self.publish.push((listener, publish.port));
        }
        for gateway in &settings.gateway_ports {
            let before = self.kept.addresses.gateway.get(&gateway.port).copied();
            let purpose = format!("gateway port {}", gateway.port);
            let (listener, address) = open(gateway.bind, before, &purpose)?;
            self.addresses.gateway.insert(gateway.port, address);
            self.gateway.push(Door {
                listener,
                entrance: Arc::new(Entrance::Gateway { port: gateway.port }),
            });
        }
        if let Some(wanted) = settings.metrics {
            let (listener, address) = open(wanted, self.kept.addresses.metrics, "metrics")?;
            self.addresses.metrics = Some(address);
            self.metrics = Some(listener);
        }
        if let Some(wanted) = settings.admin_tcp {
            if !wanted.ip().is_loopback() {
                return Err(Error::Setting {
                    field: "admin_tcp",
                    problem: format!("{wanted} is not a loopback address"),
                });
            }
            let (listener, address) = open(wanted, self.kept.addresses.admin_tcp, "admin pages")?;
            self.addresses.admin_tcp = Some(address);
            self.admin_tcp = Some(listener);
        }
        Ok(())
    }

    /// Our mTLS listener for one of the program's ports.
    pub(super) fn inbound(
        kept: &Kept,
        settings: &Settings,
        port: &Port,
    ) -> Result<(Door, SocketAddr), Error> {
        let wanted = port
            .bind
            .unwrap_or_else(|| SocketAddr::new(settings.inbound_ip, 0));
        let before = kept.addresses.inbound.get(&port.port).copied();
        let purpose = format!("the program's port {}", port.port);
        let (listener, address) = open(wanted, before, &purpose)?;
        let door = Door {
            listener,
            entrance: Arc::new(Entrance::Inbound { port: port.port }),
        };
        Ok((door, address))
    }
}

/// The entrance of an explicit bind.
fn bind_to(upstream: &Upstream, settings: &Settings, inside: bool) -> Result<Entrance, Error> {
    let host =
        Host::resolve(&upstream.host, &settings.namespace).map_err(|error| Error::Setting {
            field: "upstreams",
            problem: error.to_string(),
        })?;
    Ok(Entrance::Bind {
        host: host.as_str().into(),
        port: upstream.port,
        inside,
        protocol: Protocol::Auto,
    })
}

/// Binds; a free port is the one of the last run if it is still free.
fn open(
    wanted: SocketAddr,
    before: Option<SocketAddr>,
    purpose: &str,
) -> Result<(TcpListener, SocketAddr), Error> {
    let again = before.filter(|before| wanted.port() == 0 && before.ip() == wanted.ip());
    let listener = match again.map(listen::bind) {
        Some(Ok(listener)) => Ok(listener),
        _ => listen::bind(wanted),
    };
    listener
        .and_then(|listener| {
            let address = listener.local_addr()?;
            Ok((listener, address))
        })
        .map_err(|source| Error::Bind {
            purpose: purpose.to_owned(),
            address: wanted.to_string(),
            source,
        })
}

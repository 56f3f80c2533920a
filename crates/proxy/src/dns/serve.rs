//! The sockets that a captured program's questions arrive on.

use super::forward::{self, Host, read_message, write_message};
use super::{Asked, Decision, answer, asked, code, decide};
use crate::settings::Capture;
use crate::state::Shared;
use crate::vip::Vips;
use simple_dns::RCODE;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Questions to the host's servers under way; further ones are answered with a failure.
const FORWARDED: usize = 256;
/// Connections at a time; more wait in the listen queue.
const CONNECTIONS: usize = 64;
const CONNECTION_IDLE: Duration = Duration::from_secs(10);
/// After a failure that may well come again at once.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_QUESTION: usize = 4 * 1024;
/// How long questions wait for a proxy that has just started to learn the names of its mesh: less than resolvers wait.
const NAMES_WITHIN: Duration = Duration::from_secs(4);
const NAMES_EVERY: Duration = Duration::from_millis(5);

/// What answering takes.
#[derive(Debug)]
pub(crate) struct Dns {
    shared: Arc<Shared>,
    vips: Arc<Vips>,
    /// Whether the program's namespace has IPv6.
    six: bool,
    host: Host,
    forwarded: Semaphore,
}

impl Dns {
    pub(crate) fn new(shared: Arc<Shared>, vips: Arc<Vips>, six: bool, resolv: PathBuf) -> Self {
        Self {
            shared,
            vips,
            six,
            host: Host::new(resolv),
            forwarded: Semaphore::new(FORWARDED),
        }
    }

    /// Until the names of the mesh are known. Questions wait in their sockets meanwhile: a program takes a failure for
    /// the last word. Not where the whole machine's questions come here: our own after the control plane is one of them.
    async fn names_known(&self) {
        if matches!(self.shared.settings.capture, Some(Capture::Host(_))) {
            return;
        }
        let known = async {
            while self.shared.names().is_none() {
                tokio::time::sleep(NAMES_EVERY).await;
            }
        };
        let _ = timeout(NAMES_WITHIN, known).await;
    }

    /// What is known without asking anybody; `Err(true)` is to be forwarded, `Err(false)` is not answered.
    fn known(&self, message: &[u8]) -> Result<Vec<u8>, bool> {
        let Asked { name, kind } = match asked(message) {
            Ok(asked) => asked,
            Err(Some(problem)) => return code(message, problem).ok_or(false),
            Err(None) => return Err(false),
        };
        let Some(names) = self.shared.names() else {
            // Where the whole machine's questions come here, so do our own after the control plane.
            if self.is_control(&name) {
                return Err(true);
            }
            return code(message, RCODE::ServerFailure).ok_or(false);
        };
        let resolv = self.host.resolv();
        let namespace = &self.shared.settings.namespace;
        let decision = decide(&name, namespace, &resolv.search, |host| {
            names.contains(host)
        });
        match decision {
            Decision::Elsewhere => Err(true),
            Decision::NoSuchName => code(message, RCODE::NameError).ok_or(false),
            Decision::Mesh(host) => match names.answer(&host) {
                Some([]) => Err(true),
                Some(all) => {
                    let fits = |ip: &&IpAddr| self.six || ip.is_ipv4();
                    let all: Vec<IpAddr> = all.iter().filter(fits).copied().collect();
                    answer(message, kind, &all).ok_or(false)
                }
                None => {
                    let (four, six) = self.vips.give(&host);
                    let all = [IpAddr::V4(four), IpAddr::V6(six)];
                    let known = if self.six { &all[..] } else { &all[..1] };
                    answer(message, kind, known).ok_or(false)
                }
            },
        }
    }

    fn is_control(&self, name: &str) -> bool {
        let addresses = &self.shared.settings.control.addresses;
        addresses.iter().any(|address| {
            let host = address
                .rsplit_once(':')
                .map_or(&**address, |(host, _)| host);
            host.eq_ignore_ascii_case(name.trim_end_matches('.'))
        })
    }

    async fn elsewhere(&self, message: &[u8], tcp: bool) -> Option<Vec<u8>> {
        let answered = match self.forwarded.try_acquire() {
            Ok(_permit) => forward::ask(&self.host.resolv(), message, tcp).await,
            Err(_) => None,
        };
        answered.or_else(|| code(message, RCODE::ServerFailure))
    }
}

/// Answers what arrives on a socket, for ever.
pub(crate) async fn serve_udp(dns: Arc<Dns>, socket: UdpSocket) {
    let socket = Arc::new(socket);
    let mut room = [0; LONGEST_QUESTION];
    dns.names_known().await;
    loop {
        let (length, from) = match socket.recv_from(&mut room).await {
            Ok(received) => received,
            Err(error) => {
                tracing::warn!(%error, "cannot receive a DNS question, pausing");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        match dns.known(&room[..length]) {
            Ok(reply) => say(&socket, &reply, from).await,
            Err(false) => {}
            Err(true) => {
                let (dns, socket) = (Arc::clone(&dns), Arc::clone(&socket));
                let message = room[..length].to_vec();
                tokio::spawn(async move {
                    if let Some(reply) = dns.elsewhere(&message, false).await {
                        say(&socket, &reply, from).await;
                    }
                });
            }
        }
    }
}

async fn say(socket: &UdpSocket, reply: &[u8], to: SocketAddr) {
    if let Err(error) = socket.send_to(reply, to).await {
        tracing::debug!(%error, %to, "a DNS answer could not be sent");
    }
}

/// The same over TCP.
pub(crate) async fn serve_tcp(dns: Arc<Dns>, listener: TcpListener) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    dns.names_known().await;
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let dns = Arc::clone(&dns);
                tokio::spawn(async move {
                    connection(&dns, stream).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a DNS connection, pausing");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn connection(dns: &Dns, mut stream: TcpStream) {
    loop {
        let Ok(Ok(message)) = timeout(CONNECTION_IDLE, read_message(&mut stream)).await else {
            return;
        };
        let reply = match dns.known(&message) {
            Ok(reply) => Some(reply),
            Err(false) => None,
            Err(true) => dns.elsewhere(&message, true).await,
        };
        let Some(reply) = reply else { return };
        let said = timeout(CONNECTION_IDLE, write_message(&mut stream, &reply)).await;
        if !matches!(said, Ok(Ok(()))) {
            return;
        }
    }
}

//! Connections whose bytes may be anything: captured ones (CONNECT, explicit binds) and those to our own ports.
//!
//! Where the protocol is not declared, both sides are listened to at once: the caller's first bytes decide, but if
//! it stays silent for [`SNIFF_GRACE`] the called side is connected, and when that speaks first (MySQL, SMTP, SSH)
//! its bytes are forwarded and the connection is opaque. A caller that sends HTTP later still gets HTTP.

use super::agree;
use super::copy::{self, Side};
use super::dial::{self, Dialled};
use crate::denials;
use crate::detect::{self, Speaks};
use crate::http::serve::{First, Scope, http, refuse};
use crate::io::{Io, Moved};
use crate::limits::SNIFF_GRACE;
use crate::proxy_header::Ends;
use crate::seen::count;
use crate::tls::Agreed;
use crate::vip;
use crate::worker::{Conn, Phase, right};
use bytes::Bytes;
use naka_engine::canonical::Origin;
use naka_engine::model::{Action, Keeping, Snapshot, VirtualHost};
use naka_telemetry::Record;
use naka_types::protocol::Protocol;
use naka_types::reason::Reason;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// How long a caller may dawdle over a first word that could still become HTTP once the called side waits too.
const UNDECIDED: Duration = Duration::from_secs(1);

/// Where a connection of the program goes.
struct To {
    host: Arc<str>,
    port: u16,
    /// Where it was made to, where the program chose that itself.
    made_to: Option<SocketAddr>,
    /// Several hosts have the address: requests say themselves which they mean.
    shared: bool,
    /// Nothing is declared about the address: what a connection says of itself may name a host.
    open: bool,
    /// What is spoken, where the way in says it.
    said: Protocol,
}

/// A connection of the program to a known host and port.
pub(crate) async fn captured(conn: Rc<Conn>, io: Io, host: Arc<str>, port: u16) {
    bound(conn, io, host, port, Protocol::Auto).await;
}

/// The same through a bind, which may say what is spoken.
pub(crate) async fn bound(conn: Rc<Conn>, io: Io, host: Arc<str>, port: u16, said: Protocol) {
    let to = To {
        host,
        port,
        made_to: None,
        shared: false,
        open: false,
        said,
    };
    lead(conn, io, to).await;
}

async fn lead(conn: Rc<Conn>, mut io: Io, to: To) {
    let To { host, port, .. } = to;
    conn.watch(io.moved(), false);
    let mut origin = Origin::outbound(port);
    origin.address = Some(conn.remote.ip());
    origin.destination = Some((Arc::clone(&host), port));
    origin.made_to = to.made_to;
    origin.agreeing = !to.shared && agree::applies(&conn, &host);
    let found = if to.open {
        Ok(None)
    } else {
        dial::virtual_host(&conn, &host, port).await
    };
    let protocol = match found {
        Ok(None) if to.open => Protocol::Auto,
        Ok(Some(vhost)) => to.said.over(protocol_of(&conn.worker.snapshot(), &vhost)),
        // Outside the mesh nothing is known, and nothing is looked into.
        Ok(None) => Protocol::Tcp,
        Err(reason) => {
            if let Some(called) = dial::called(&conn, &origin) {
                let handle = conn.worker.handles.tcp_host(&conn, &called);
                handle.opened();
                handle.closed(Some(reason));
            }
            return refuse(&conn, reason, &host);
        }
    };
    let mut said = origin.clone();
    if to.open || to.shared && protocol.is_http() {
        said.destination = None;
    }
    let scope = |conn| Scope {
        conn,
        origin: said,
        refuse: None,
        were_http1: false,
        inner: true,
    };
    match protocol {
        Protocol::Tls if to.shared => match by_server_name(&conn, &mut io, &mut origin).await {
            Ok(()) => opaque(conn, io, &origin).await,
            Err(Some(reason)) => refuse(&conn, reason, &host),
            Err(None) => {}
        },
        Protocol::Tls if origin.agreeing => match agree::hello(&conn, &mut io, &host).await {
            Ok(()) => opaque(conn, io, &origin).await,
            Err(Some(reason)) => disagreed(&conn, &origin, reason, &host),
            Err(None) => {}
        },
        Protocol::Tcp | Protocol::Tls => opaque(conn, io, &origin).await,
        Protocol::Http | Protocol::Http2 | Protocol::Grpc | Protocol::GrpcWeb => {
            let mut first = First::default();
            let spoken = first.spoken(&conn, &mut io).await;
            first.put_back(&mut io);
            match spoken {
                Some(Speaks::Http1) => http(scope(conn), io, false).await,
                Some(Speaks::Http2) => http(scope(conn), io, true).await,
                Some(_) => refuse(
                    &conn,
                    Reason::BadRequest,
                    "the first bytes are not the declared HTTP",
                ),
                None => {}
            }
        }
        Protocol::Auto => match either(&conn, io, &origin, to.open).await {
            Found::Http(io, http2) => http(scope(conn), io, http2).await,
            Found::Bytes(io, dialled) => relay(conn, io, *dialled).await,
            Found::Failed(failed) => told(&conn, &failed),
            Found::Gone => {}
        },
    }
}

/// What a connection says of itself and where it goes are not the same: counted under where it goes, and closed.
fn disagreed(conn: &Conn, origin: &Origin, reason: Reason, host: &str) {
    if let Some(called) = dial::called(conn, origin) {
        let handle = conn.worker.handles.tcp_host(conn, &called);
        handle.opened();
        handle.closed(Some(reason));
    }
    refuse(conn, reason, host);
}

/// A connection that the rules of the program's network namespace brought here: to the name that its address stands
/// for, or, as bytes, to where it was going.
pub(crate) async fn redirected(conn: Rc<Conn>, stream: TcpStream) {
    let to = original(&stream, conn.local);
    // The cell is empty: a connection begins once.
    let _ = conn.told.set(Ends {
        from: conn.remote,
        to,
    });
    let named = conn
        .worker
        .vips
        .as_ref()
        .and_then(|vips| vips.host(to.ip()));
    let declared = || conn.worker.called_by(to);
    let given = named.is_some();
    let (host, shared, open) = match (named, is_ours(to)) {
        (Some(host), _) => (host, false, false),
        (None, ours) => match (ours, declared()) {
            // An entry may stand for an address that means nothing else, never for this host itself.
            (None | Some((Reason::UnknownHost, _)), Some((host, shared))) => (host, shared, false),
            (Some((reason, detail)), _) => return refuse(&conn, reason, detail),
            (None, None) => {
                let at = conn.worker.open_at(to.port());
                let itself = || to.ip().to_string().into();
                let open = at.as_ref().is_some_and(|at| at.says);
                let bytes = at.and_then(|at| at.bytes);
                (bytes.unwrap_or_else(itself), open, open)
            }
        },
    };
    let to = To {
        host,
        port: to.port(),
        made_to: (!given).then_some(to),
        shared,
        open,
        said: Protocol::Auto,
    };
    lead(conn, Io::plain(stream), to).await;
}

/// TLS to an address that says nothing by itself belongs to the host of its server name, where that host's TLS is
/// declared at this port, and stays with the destination it has otherwise.
async fn by_server_name(
    conn: &Rc<Conn>,
    io: &mut Io,
    origin: &mut Origin,
) -> Result<(), Option<Reason>> {
    let said = agree::said(conn, io).await?;
    let (Some(name), Some((_, port))) = (said.name, &origin.destination) else {
        return Ok(());
    };
    let Some(host) = dial::known(&conn.worker, &name) else {
        return Ok(());
    };
    if said.encrypted && agree::is_strict(conn) {
        return Err(Some(Reason::EgressDenied));
    }
    // What cannot be had of a known name is refused, never passed on as if the name meant nothing.
    let vhost = dial::virtual_host(conn, &host, *port).await;
    if let Some(vhost) = vhost.map_err(Some)?
        && protocol_of(&conn.worker.snapshot(), &vhost) == Protocol::Tls
    {
        origin.destination = Some((host, *port));
    }
    Ok(())
}

/// Where the program connected to: the socket's own address where rules gave the connection to our listener, which is
/// on loopback; the one before, where they translated it. Of a connection that was made to the listener itself it is
/// that, which leads nowhere.
fn original(stream: &TcpStream, local: SocketAddr) -> SocketAddr {
    use rustix::net::sockopt;
    if !local.ip().to_canonical().is_loopback() {
        return local;
    }
    let before = if local.is_ipv4() {
        sockopt::ip_original_dst(stream).map(SocketAddr::V4)
    } else {
        sockopt::ipv6_original_dst(stream).map(SocketAddr::V6)
    };
    before.unwrap_or(local)
}

/// Why a connection to this address is never passed through: it would end at this host's own loopback, which the
/// program has no business with, or nowhere.
fn is_ours(to: SocketAddr) -> Option<(Reason, &'static str)> {
    let ip = to.ip().to_canonical();
    if vip::is_virtual(ip) {
        return Some((
            Reason::UnknownHost,
            "a virtual address that stands for no name (any more): resolve the name again",
        ));
    }
    let broadcast = matches!(ip, IpAddr::V4(four) if four.is_broadcast());
    let loops = ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || broadcast;
    loops.then_some((
        Reason::LoopDetected,
        "an address that would lead back to this host",
    ))
}

/// A connection of the program to a port that was opened to this host's loopback.
pub(crate) async fn host_port(conn: Rc<Conn>, io: Io, port: u16) {
    conn.watch(io.moved(), false);
    match dial::host_port(&conn, port).await {
        Ok(dialled) => relay(conn, io, dialled).await,
        Err(failed) => told(&conn, &failed),
    }
}

/// The protocol declared for a virtual host: that of the cluster its first forwarding route leads to.
fn protocol_of(snapshot: &Snapshot, vhost: &VirtualHost) -> Protocol {
    vhost
        .routes
        .iter()
        .find_map(|route| match &route.action {
            Action::Forward(forward) => forward
                .clusters()
                .iter()
                .find_map(|c| snapshot.cluster(c.cluster)),
            Action::Redirect(_) | Action::Direct(_) => None,
        })
        .map_or(Protocol::Auto, |cluster| cluster.spec.protocol)
}

/// A caller's bytes to one of our ports.
pub(crate) async fn to_program(conn: Rc<Conn>, io: Io, origin: &Origin) {
    conn.watch(io.moved(), false);
    opaque(conn, io, origin).await;
}

/// The same when nobody said what the bytes are.
pub(crate) async fn to_program_unknown(conn: Rc<Conn>, io: Io, origin: Origin) {
    conn.watch(io.moved(), false);
    match either(&conn, io, &origin, false).await {
        Found::Http(io, http2) => {
            let were_http1 = crate::tls::agreed(io.alpn()) == Agreed::Http1Mux;
            http(
                Scope {
                    conn,
                    origin,
                    refuse: None,
                    were_http1,
                    inner: false,
                },
                io,
                http2,
            )
            .await;
        }
        Found::Bytes(io, dialled) => relay(conn, io, *dialled).await,
        Found::Failed(failed) => told(&conn, &failed),
        Found::Gone => {}
    }
}

async fn opaque(conn: Rc<Conn>, io: Io, origin: &Origin) {
    match dial::dial(&conn, origin).await {
        Ok(dialled) => relay(conn, io, dialled).await,
        Err(failed) => told(&conn, &failed),
    }
}

/// A connection that led nowhere is counted and logged like one that did.
fn told(conn: &Conn, failed: &dial::Failed) {
    failed.handle.opened();
    failed.handle.closed(Some(failed.reason));
    refuse(conn, failed.reason, &failed.detail);
}

enum Found {
    Http(Io, bool),
    Bytes(Io, Box<Dialled>),
    Failed(Box<dial::Failed>),
    Gone,
}

/// Listens to both sides until it is clear what goes through; `names`: TLS goes by its server name.
async fn either(conn: &Rc<Conn>, mut io: Io, origin: &Origin, names: bool) -> Found {
    let mut first = First::default();
    let early = tokio::time::timeout(SNIFF_GRACE, first.spoken(conn, &mut io)).await;
    if let Ok(spoken) = early {
        return match spoken {
            None => Found::Gone,
            Some(Speaks::Http1) => http_found(first, io, false),
            Some(Speaks::Http2) => http_found(first, io, true),
            Some(Speaks::Tls) if names => {
                first.put_back(&mut io);
                tls_found(conn, io, origin).await
            }
            Some(spoken @ (Speaks::Tls | Speaks::Other | Speaks::More)) => {
                first.put_back(&mut io);
                bytes_found(conn, io, origin, spoken).await
            }
        };
    }
    let mut dialled = match dial::dial(conn, origin).await {
        Ok(dialled) => dialled,
        // What it will say may still name a host that can be called.
        Err(_) if names => return by_caller(conn, first, io, origin, names).await,
        Err(failed) => return Found::Failed(Box::new(failed)),
    };
    let mut theirs = [0; 1024];
    let started = first.any();
    let spoken = tokio::select! {
        spoken = first.spoken(conn, &mut io) => match spoken {
            None => return Found::Gone,
            Some(spoken) => spoken,
        },
        read = dialled.io.read(&mut theirs) => {
            if let Ok(count) = read && detect::is_http2_server(&theirs[..count]) {
                // It greets everybody so; what the caller will say still decides, and gets a connection of its own.
                drop(dialled);
                return by_caller(conn, first, io, origin, names).await;
            }
            // An end without a byte is the relay's business, too.
            if let Ok(count) = read {
                dialled.io.put_back(Bytes::copy_from_slice(&theirs[..count]));
            }
            Speaks::Other
        },
        () = tokio::time::sleep(UNDECIDED), if started => Speaks::Other,
    };
    match spoken {
        Speaks::Http1 => http_found(first, io, false),
        Speaks::Http2 => http_found(first, io, true),
        Speaks::Tls if names => {
            first.put_back(&mut io);
            tls_found(conn, io, origin).await
        }
        spoken @ (Speaks::Tls | Speaks::Other | Speaks::More) => {
            first.put_back(&mut io);
            match agrees(conn, &mut io, origin, spoken).await {
                true => Found::Bytes(io, Box::new(dialled)),
                false => Found::Gone,
            }
        }
    }
}

/// Waits for the caller's first bytes alone.
async fn by_caller(
    conn: &Rc<Conn>,
    mut first: First,
    mut io: Io,
    origin: &Origin,
    names: bool,
) -> Found {
    match first.spoken(conn, &mut io).await {
        None => Found::Gone,
        Some(Speaks::Http1) => http_found(first, io, false),
        Some(Speaks::Http2) => http_found(first, io, true),
        Some(Speaks::Tls) if names => {
            first.put_back(&mut io);
            tls_found(conn, io, origin).await
        }
        Some(spoken @ (Speaks::Tls | Speaks::Other | Speaks::More)) => {
            first.put_back(&mut io);
            bytes_found(conn, io, origin, spoken).await
        }
    }
}

fn http_found(first: First, mut io: Io, http2: bool) -> Found {
    first.put_back(&mut io);
    Found::Http(io, http2)
}

async fn tls_found(conn: &Rc<Conn>, mut io: Io, origin: &Origin) -> Found {
    let mut origin = origin.clone();
    match by_server_name(conn, &mut io, &mut origin).await {
        Ok(()) => bytes_found(conn, io, &origin, Speaks::Tls).await,
        Err(Some(reason)) => {
            refuse(conn, reason, "the server name of a client hello");
            Found::Gone
        }
        Err(None) => Found::Gone,
    }
}

/// Whether TLS of the program's own goes with the host that is called; where it does not, that is told.
async fn agrees(conn: &Conn, io: &mut Io, origin: &Origin, spoken: Speaks) -> bool {
    let host = match &origin.destination {
        Some((host, _)) if origin.agreeing && spoken == Speaks::Tls => host,
        _ => return true,
    };
    let agreed = agree::hello(conn, io, host).await;
    if let Err(Some(reason)) = agreed {
        disagreed(conn, origin, reason, host);
    }
    agreed.is_ok()
}

async fn bytes_found(conn: &Rc<Conn>, mut io: Io, origin: &Origin, spoken: Speaks) -> Found {
    if !agrees(conn, &mut io, origin, spoken).await {
        return Found::Gone;
    }
    match dial::dial(conn, origin).await {
        Ok(dialled) => Found::Bytes(io, Box::new(dialled)),
        Err(failed) => Found::Failed(Box::new(failed)),
    }
}

/// Relays and tells about it.
pub(crate) async fn relay(conn: Rc<Conn>, io: Io, dialled: Dialled) {
    let handle = dialled.handle.clone();
    let (started, started_at) = (Instant::now(), SystemTime::now());
    let seen = &conn.worker.seen;
    // Whatever is called inside the mesh has a permit of its endpoint.
    count(match dialled.permit {
        Some(_) => &seen.opaque,
        None => &seen.bypassed,
    });
    handle.opened();
    let _permit = dialled.permit;
    let moved = dialled.io.moved();
    let (read, written) = (moved.read(), moved.written());
    let ends = async {
        tokio::select! {
            reason = lasts(dialled.keeping, &moved) => reason,
            lost = right::lost(dialled.right) => {
                denials::of_connection(&conn, lost.reason, &lost.detail);
                lost.reason
            }
        }
    };
    let relaying = copy::both(io, dialled.io);
    let mut over = None;
    let total = tokio::select! {
        total = relaying => total,
        () = conn.reaches(Phase::Closing) => copy::Total::default(),
        reason = ends => {
            over = Some(reason);
            copy::Total {
                sent: moved.written() - written,
                received: moved.read() - read,
                broken: None,
            }
        }
    };
    handle.moved(total.received, total.sent);
    let reason = match total.broken {
        None => over,
        Some(Side::Upstream) => Some(Reason::UpstreamReset),
        Some(Side::Downstream) => Some(Reason::ClientGone),
    };
    handle.closed(reason);
    if let Some(lines) = &conn.worker.lines {
        lines.log(&Record {
            start: started_at,
            direction: crate::record::direction(&conn.entrance),
            reason,
            bytes_received: total.sent,
            bytes_sent: total.received,
            duration: started.elapsed(),
            upstream_host: Some(dialled.address),
            upstream_cluster: &dialled.cluster,
            downstream_local_address: Some(conn.local),
            downstream_remote_address: Some(conn.remote),
            peer: conn.peer.get().map_or("", |peer| &peer.text),
            attempts: dialled.attempts,
            ..Record::default()
        });
    }
}

/// Resolves when a connection of bytes has lasted as long as it may, or nothing has moved on it for too long.
async fn lasts(keeping: Keeping, moved: &Moved) -> Reason {
    let longest = async {
        match keeping.longest {
            Some(longest) => tokio::time::sleep(longest).await,
            None => std::future::pending().await,
        }
    };
    let silence = async {
        let Some(idle) = keeping.idle else {
            return std::future::pending().await;
        };
        let mut before = moved.read() + moved.written();
        // Looked at four times within the limit, so that moving a byte costs nothing.
        let (mut silent, look) = (Duration::ZERO, (idle / 4).max(Duration::from_millis(1)));
        while silent < idle {
            tokio::time::sleep(look).await;
            let now = moved.read() + moved.written();
            silent = if now == before {
                silent + look
            } else {
                Duration::ZERO
            };
            before = now;
        }
    };
    tokio::select! {
        () = longest => Reason::MaxConnectionDuration,
        () = silence => Reason::IdleTimeout,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_never_passed_through() {
        use Reason::{LoopDetected, UnknownHost};
        for (to, expect) in [
            ("93.184.216.34:443", None),
            ("10.0.0.1:80", None),
            ("169.254.169.254:80", None),
            ("[2606:2800:220:1::1]:443", None),
            ("127.0.0.1:5432", Some(LoopDetected)),
            ("127.8.9.1:80", Some(LoopDetected)),
            ("[::1]:80", Some(LoopDetected)),
            ("[::ffff:127.0.0.1]:80", Some(LoopDetected)),
            ("0.0.0.0:80", Some(LoopDetected)),
            ("[::]:80", Some(LoopDetected)),
            ("224.0.0.1:80", Some(LoopDetected)),
            ("[ff02::1]:80", Some(LoopDetected)),
            ("255.255.255.255:80", Some(LoopDetected)),
            ("240.0.0.1:80", Some(UnknownHost)),
            ("[2001:2::1]:80", Some(UnknownHost)),
        ] {
            let got = is_ours(to.parse().unwrap()).map(|(reason, _)| reason);
            assert_eq!(got, expect, "{to}");
        }
    }

    #[tokio::test]
    async fn a_connection_that_nobody_led_here_leads_nowhere() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = tokio::net::TcpListener::bind(address).await else {
                continue; // no IPv6 here
            };
            let address = listener.local_addr().unwrap();
            let (_caller, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
            let to = original(&accepted.unwrap().0, address);
            assert_eq!(to, address);
            assert!(is_ours(to).is_some(), "and leads nowhere");
        }
    }
}

//! The door process's end: answers questions until the process is killed.
//!
//! One thread, no runtime: the process exists beside every captured program and must cost next to nothing. A caller
//! that does not read is let go rather than waited for.

use super::{BATCH, FOUR, Handed, LIST, MOST, Refused, SIX, WATCH, refused, send};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::sockopt::socket_peercred;
use rustix::net::{AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::Uid;
use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

/// How long a door that has no descriptor or memory left waits for some: nobody could be served sooner.
const BREATHER: Duration = Duration::from_millis(100);

/// Connections at a time: the proxy's workers, the watcher, and the next proxy while the last one ends.
const CALLERS: usize = 64;

/// Binds the door's socket, 0600, replacing one left by an earlier run.
///
/// # Errors
/// The system refuses.
pub fn bind(path: &Path) -> io::Result<OwnedFd> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    // Nobody can connect before it listens.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    rustix::net::listen(&socket, i32::try_from(CALLERS).unwrap_or(i32::MAX))?;
    Ok(socket)
}

/// Serves for ever: hands over `handed`, makes sockets in this thread's network namespace, and tells of refused calls
/// where `refusals` (a socket of [`super::watch`]) sees them.
///
/// # Errors
/// More sockets than a message can carry, or what the system says when it cannot go on.
pub fn serve(
    listener: &OwnedFd,
    handed: &[Handed],
    refusals: Option<&OwnedFd>,
) -> io::Result<Infallible> {
    serve_user(rustix::process::getuid(), listener, handed, refusals)
}

pub(super) fn serve_user(
    user: Uid,
    listener: &OwnedFd,
    handed: &[Handed],
    refusals: Option<&OwnedFd>,
) -> io::Result<Infallible> {
    if handed.len() > MOST {
        let problem = format!("{} sockets to hand over, {MOST} at most", handed.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
    }
    let kinds: Vec<_> = handed.iter().map(|handed| handed.kind).collect();
    let door = Door {
        list: serde_json::to_vec(&kinds)?,
        sockets: handed.iter().map(|handed| handed.socket.as_fd()).collect(),
        watching: refusals.is_some(),
    };
    let mut callers: Vec<Caller> = Vec::new();
    loop {
        let ready = wait(listener, refusals, &callers)?;
        let (ours, theirs) = ready.split_at(2);
        let mut turn = theirs.iter();
        callers.retain_mut(|caller| match turn.next() {
            Some(true) => door.answer(caller),
            _ => true,
        });
        if ours[0] {
            take(user, listener, &mut callers)?;
        }
        if let Some(refusals) = refusals.filter(|_| ours[1]) {
            tell(refusals, &mut callers)?;
        }
    }
}

/// Who is connected.
struct Caller {
    socket: OwnedFd,
    /// Asked to be told of refused calls.
    watches: bool,
}

/// Which have something to read: the listener, the refusals, then each caller.
fn wait(
    listener: &OwnedFd,
    refusals: Option<&OwnedFd>,
    callers: &[Caller],
) -> io::Result<Vec<bool>> {
    // Without refusals the listener stands in their place; nobody looks at it there.
    let mut all = vec![
        PollFd::new(listener, PollFlags::IN),
        PollFd::new(refusals.unwrap_or(listener), PollFlags::IN),
    ];
    all.extend(
        callers
            .iter()
            .map(|caller| PollFd::new(&caller.socket, PollFlags::IN)),
    );
    match poll(&mut all, None) {
        Ok(_) => {}
        Err(rustix::io::Errno::INTR) => return Ok(vec![false; all.len()]),
        Err(error) if passes(error) => {
            std::thread::sleep(BREATHER);
            return Ok(vec![false; all.len()]);
        }
        Err(error) => return Err(error.into()),
    }
    Ok(all.iter().map(|one| !one.revents().is_empty()).collect())
}

fn take(user: Uid, listener: &OwnedFd, callers: &mut Vec<Caller>) -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = match rustix::net::accept_with(listener, flags) {
        Ok(socket) => socket,
        Err(
            rustix::io::Errno::AGAIN | rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED,
        ) => return Ok(()),
        // The caller stays in the queue of the listener.
        Err(error) if passes(error) => {
            std::thread::sleep(BREATHER);
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    let known = socket_peercred(&socket).is_ok_and(|peer| peer.uid == user);
    if known && callers.len() < CALLERS {
        callers.push(Caller {
            socket,
            watches: false,
        });
    }
    Ok(())
}

/// Whether it is a want that may end: a door that ended for it would cut its program off for good.
fn passes(error: rustix::io::Errno) -> bool {
    use rustix::io::Errno;
    matches!(
        error,
        Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM
    )
}

struct Door<'a> {
    list: Vec<u8>,
    sockets: Vec<BorrowedFd<'a>>,
    watching: bool,
}

impl Door<'_> {
    /// Answers one question; false when the caller is to be let go.
    fn answer(&self, caller: &mut Caller) -> bool {
        let mut question = [0; 2];
        let read = rustix::net::recv(&caller.socket, &mut question[..], RecvFlags::empty());
        let asked = match read {
            Ok((1, _)) => question[0],
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return true,
            Ok(_) | Err(_) => return false,
        };
        let to = caller.socket.as_fd();
        let sent = match asked {
            LIST => send(to, &self.list, &self.sockets),
            FOUR => fresh(to, FOUR, AddressFamily::INET),
            SIX => fresh(to, SIX, AddressFamily::INET6),
            WATCH if self.watching => {
                caller.watches = true;
                Ok(())
            }
            WATCH => send(to, b"refused calls cannot be seen here", &[]),
            _ => return false,
        };
        sent.is_ok()
    }
}

/// Makes a batch of sockets for the caller; ours are closed again.
fn fresh(to: BorrowedFd<'_>, answer: u8, family: AddressFamily) -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let make = || rustix::net::socket_with(family, SocketType::STREAM, flags, None);
    let made: Result<Vec<OwnedFd>, _> = (0..BATCH).map(|_| make()).collect();
    match made {
        Ok(made) => {
            let sockets: Vec<_> = made.iter().map(AsFd::as_fd).collect();
            send(to, &[answer], &sockets)
        }
        Err(error) => send(to, error.to_string().as_bytes(), &[]),
    }
}

/// Tells every watcher of the refused calls seen meanwhile. Who does not keep up misses some.
fn tell(refusals: &OwnedFd, callers: &mut Vec<Caller>) -> io::Result<()> {
    while let Some(port) = refused::next(refusals)? {
        let message = serde_json::to_vec(&Refused { refused: port })?;
        callers.retain(|caller| {
            !caller.watches
                || match send(caller.socket.as_fd(), &message, &[]) {
                    Ok(()) => true,
                    Err(error) => error.kind() == io::ErrorKind::WouldBlock,
                }
        });
    }
    Ok(())
}

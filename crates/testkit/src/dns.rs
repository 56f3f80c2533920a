//! A name server for tests: what names mean is said and changed by the test, and each question is counted.

use anyhow::Result;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Debug, Default)]
struct State {
    names: Mutex<BTreeMap<String, (Vec<Ipv4Addr>, u32)>>,
    asked: AtomicU64,
    silent: AtomicBool,
}

/// A running name server. It ends with the process.
#[derive(Debug)]
pub struct NameServer {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<State>,
}

impl NameServer {
    /// Starts one that knows nothing.
    ///
    /// # Errors
    /// When there is no port.
    pub fn start() -> Result<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        let address = socket.local_addr()?;
        let state = Arc::<State>::default();
        let own = Arc::clone(&state);
        std::thread::spawn(move || serve(&socket, &own));
        Ok(Self { address, state })
    }

    /// The line of a `resolv.conf` that names it.
    #[must_use]
    pub fn line(&self) -> String {
        format!(
            "nameserver [{}]:{}\n",
            self.address.ip(),
            self.address.port()
        )
    }

    /// What a name means from now on, for how many seconds; no address: there is no such name.
    pub fn set(&self, name: &str, addresses: &[Ipv4Addr], ttl: u32) {
        let mut names = self
            .state
            .names
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        names.insert(name.to_owned(), (addresses.to_vec(), ttl));
    }

    /// Whether it keeps silent.
    pub fn silent(&self, silent: bool) {
        self.state.silent.store(silent, SeqCst);
    }

    /// Questions so far.
    #[must_use]
    pub fn asked(&self) -> u64 {
        self.state.asked.load(SeqCst)
    }
}

fn serve(socket: &UdpSocket, state: &State) {
    let mut room = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut room) {
        state.asked.fetch_add(1, SeqCst);
        if state.silent.load(SeqCst) {
            continue;
        }
        if let Some(answer) = answer(&room[..length], state) {
            // Whoever asked may be gone.
            let _ = socket.send_to(&answer, from);
        }
    }
}

/// The answer to a question for one name (RFC 1035).
fn answer(question: &[u8], state: &State) -> Option<Vec<u8>> {
    let mut at = 12;
    let mut labels = Vec::new();
    while *question.get(at)? > 0 {
        let length = usize::from(question[at]);
        labels.push(String::from_utf8_lossy(question.get(at + 1..at + 1 + length)?).into_owned());
        at += 1 + length;
    }
    let end = at + 5;
    let four = question.get(at + 1..at + 3)? == [0, 1];
    let names = state.names.lock().unwrap_or_else(PoisonError::into_inner);
    let known = names.get(&labels.join(".").to_ascii_lowercase());
    let (addresses, ttl) = known.cloned().unwrap_or_default();
    let records = if four { addresses.as_slice() } else { &[] };
    let code = if addresses.is_empty() { 3 } else { 0 };
    let mut out = question.get(..2)?.to_vec();
    out.extend([0x81, 0x80 | code, 0, 1]);
    out.extend(u16::try_from(records.len()).ok()?.to_be_bytes());
    out.extend([0, 0, 0, 0]);
    out.extend(question.get(12..end)?);
    for address in records {
        out.extend([0xc0, 12, 0, 1, 0, 1]);
        out.extend(ttl.to_be_bytes());
        out.extend([0, 4]);
        out.extend(address.octets());
    }
    Some(out)
}

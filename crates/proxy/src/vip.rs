//! Virtual addresses: what a captured program gets for a name of the mesh, so that the name is known again when it
//! connects.
//!
//! An address belongs to one proxy and leads nowhere outside it. IPv4 addresses are of 240.0.0.0/4 (less 255.x), which
//! no network uses; IPv6 ones of 2001:2::/48 (benchmarking). Both are made of one number per name: the hash of the
//! name, or the next free number. So a proxy that lost its file gives the same addresses again, and with the file a
//! program that remembers an address gets there after a restart of the proxy.
//!
//! Invariants: a number never has two names; at most 4,096 names, the least recently used one leaves. The table itself
//! does no I/O; [`Vips`] loads and saves it.

use crate::saved;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// The most names with an address.
pub(crate) const CAPACITY: usize = 4_096;
const FORMAT: u32 = 1;
/// 240.0.0.0.
const FIRST: u32 = 0xf000_0000;
/// Up to 254.255.255.255.
const SPAN: u32 = 0x0f00_0000;
/// 2001:2::.
const FIRST6: u128 = 0x2001_0002 << 96;

/// Names and their numbers.
#[derive(Debug, Default)]
pub(crate) struct Table {
    hosts: HashMap<Arc<str>, Used>,
    numbers: HashMap<u32, Arc<str>>,
    clock: u64,
}

#[derive(Debug, Clone, Copy)]
struct Used {
    number: u32,
    at: u64,
}

/// The file: names with their numbers, least recently used first.
#[derive(Debug, Serialize, Deserialize)]
struct File {
    format: u32,
    names: Vec<(String, u32)>,
}

/// Whether a program can have got this address from us.
pub(crate) fn is_virtual(address: IpAddr) -> bool {
    number_of(address).is_some()
}

fn number_of(address: IpAddr) -> Option<u32> {
    match address {
        IpAddr::V4(four) => u32::from(four)
            .checked_sub(FIRST)
            .filter(|number| *number < SPAN),
        // All of the /48, so that what is not in use is refused and not passed on.
        IpAddr::V6(six) => {
            let rest = u128::from(six) ^ FIRST6;
            (rest >> 80 == 0).then(|| u32::try_from(rest).unwrap_or(u32::MAX))
        }
    }
}

fn four(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(FIRST + number)
}

fn six(number: u32) -> Ipv6Addr {
    Ipv6Addr::from(FIRST6 | u128::from(number))
}

/// Some programs take .0 and .255 for networks.
fn is_usable(number: u32) -> bool {
    number < SPAN && !matches!(number & 0xff, 0 | 0xff)
}

impl Table {
    /// The number of a name, and whether it is new.
    fn give(&mut self, host: &str) -> (u32, bool) {
        self.clock += 1;
        if let Some(used) = self.hosts.get_mut(host) {
            used.at = self.clock;
            return (used.number, false);
        }
        if self.hosts.len() >= CAPACITY {
            self.forget_oldest();
        }
        let hash = xxhash_rust::xxh3::xxh3_64(host.as_bytes()) % u64::from(SPAN);
        let mut number = u32::try_from(hash).unwrap_or(0);
        // Far more numbers than names: it ends.
        while !is_usable(number) || self.numbers.contains_key(&number) {
            number = (number + 1) % SPAN;
        }
        self.put(host, number);
        (number, true)
    }

    fn put(&mut self, host: &str, number: u32) {
        let host: Arc<str> = host.into();
        let at = self.clock;
        self.hosts.insert(Arc::clone(&host), Used { number, at });
        self.numbers.insert(number, host);
    }

    fn forget_oldest(&mut self) {
        let oldest = self.hosts.iter().min_by_key(|(_, used)| used.at);
        if let Some((host, used)) = oldest.map(|(host, used)| (Arc::clone(host), *used)) {
            self.hosts.remove(&host);
            self.numbers.remove(&used.number);
        }
    }

    /// The name of an address.
    fn host(&mut self, address: IpAddr) -> Option<Arc<str>> {
        let host = Arc::clone(self.numbers.get(&number_of(address)?)?);
        self.clock += 1;
        if let Some(used) = self.hosts.get_mut(&host) {
            used.at = self.clock;
        }
        Some(host)
    }

    fn file(&self) -> File {
        let mut all: Vec<_> = self.hosts.iter().collect();
        all.sort_by_key(|(_, used)| used.at);
        File {
            format: FORMAT,
            names: all
                .into_iter()
                .map(|(host, used)| (host.to_string(), used.number))
                .collect(),
        }
    }

    /// What is sound of a file: names with a number of their own, at most as many as there may be.
    fn of(file: File) -> Self {
        let mut table = Self::default();
        let skip = file.names.len().saturating_sub(CAPACITY);
        for (host, number) in file.names.into_iter().skip(skip) {
            let taken = table.numbers.contains_key(&number);
            if is_usable(number) && !taken && !table.hosts.contains_key(host.as_str()) {
                table.clock += 1;
                table.put(&host, number);
            }
        }
        table
    }
}

/// The table as main thread (which gives addresses) and workers (which look them up once per connection) share it.
#[derive(Debug)]
pub struct Vips {
    table: Mutex<Table>,
    path: PathBuf,
    changed: Notify,
}

impl Vips {
    /// As the last run left it. A file that is of no use costs only remembered addresses, and is replaced.
    #[must_use]
    pub fn load(dir: &Path) -> Self {
        let path = dir.join(saved::ADDRESSES);
        let table = match load(&path) {
            Ok(table) => table,
            Err(error) => {
                tracing::warn!(%error, "the saved virtual addresses are of no use");
                Table::default()
            }
        };
        Self {
            table: Mutex::new(table),
            path,
            changed: Notify::new(),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Both addresses of a full host.
    pub fn give(&self, host: &str) -> (Ipv4Addr, Ipv6Addr) {
        let (number, new) = self.table().give(host);
        if new {
            self.changed.notify_one();
        }
        (four(number), six(number))
    }

    /// The full host of an address.
    pub fn host(&self, address: IpAddr) -> Option<Arc<str>> {
        self.table().host(address)
    }

    /// Saves after each change, for ever.
    pub async fn keep(self: Arc<Self>) {
        loop {
            self.changed.notified().await;
            let vips = Arc::clone(&self);
            // A failed write is told there; the next change tries again.
            let _ = tokio::task::spawn_blocking(move || vips.save()).await;
        }
    }

    fn save(&self) {
        let file = self.table().file();
        let content = serde_json::to_vec(&file).unwrap_or_default();
        if let Err(error) = saved::replace(&self.path, &content) {
            tracing::warn!(%error, "the virtual addresses could not be saved");
        }
    }
}

fn load(path: &Path) -> Result<Table, saved::Error> {
    let Some(content) = saved::read(path)? else {
        return Ok(Table::default());
    };
    match serde_json::from_slice::<File>(&content) {
        Ok(file) if file.format == FORMAT => Ok(Table::of(file)),
        Ok(_) | Err(_) => Err(saved::Error::Format(path.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: usize) -> String {
        format!("s{n}.shop.svc.cluster.local")
    }

    #[test]
    fn what_is_virtual() {
        for (address, expect) in [
            ("239.255.255.255", false),
            ("240.0.0.0", true),
            ("254.255.255.255", true),
            ("255.0.0.0", false),
            ("255.255.255.255", false),
            ("127.0.0.1", false),
            ("2001:2::", true),
            ("2001:2:0:ffff:ffff:ffff:ffff:ffff", true),
            ("2001:2:1::", false),
            ("2001:1:ffff::", false),
            ("::1", false),
        ] {
            assert_eq!(is_virtual(address.parse().unwrap()), expect, "{address}");
        }
    }

    #[test]
    fn each_name_has_addresses_of_its_own_and_both_lead_back() {
        let mut table = Table::default();
        let mut seen = std::collections::BTreeSet::new();
        for n in 0..CAPACITY {
            let (number, new) = table.give(&name(n));
            assert!(new && seen.insert(number) && is_usable(number));
        }
        for n in 0..CAPACITY {
            let (number, new) = table.give(&name(n));
            assert!(!new);
            let (four, six) = (four(number), six(number));
            assert!(is_virtual(four.into()) && is_virtual(six.into()));
            assert_eq!(table.host(four.into()).as_deref(), Some(&*name(n)));
            assert_eq!(table.host(six.into()).as_deref(), Some(&*name(n)));
        }
        assert_eq!(table.host("2001:2:0:1::5".parse().unwrap()), None);
    }

    #[test]
    fn names_that_collide_get_numbers_next_to_each_other() {
        let mut table = Table::default();
        let (number, _) = Table::default().give("a");
        table.put("squatter", number);
        let (given, _) = table.give("a");
        assert_ne!(given, number);
        assert_eq!(table.host(four(number).into()).as_deref(), Some("squatter"));
        assert_eq!(table.host(four(given).into()).as_deref(), Some("a"));
    }

    #[test]
    fn the_least_recently_used_name_leaves_and_its_number_is_free() {
        let mut table = Table::default();
        let (first, _) = table.give(&name(0));
        let (second, _) = table.give(&name(1));
        for n in 2..CAPACITY {
            table.give(&name(n));
        }
        // Used by a connection, not by a question.
        table.host(four(first).into()).unwrap();
        table.give("new");
        assert!(table.host(four(first).into()).is_some());
        assert_eq!(table.host(four(second).into()), None);
        assert_eq!(table.hosts.len(), CAPACITY);
        assert_eq!(table.numbers.len(), CAPACITY);
    }

    #[test]
    fn a_restarted_proxy_gives_the_same_addresses_with_and_without_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let before = Vips::load(dir.path());
        let (number, _) = Table::default().give("a");
        before.table().put("squatter", number);
        let (four, six) = before.give("a");
        before.save();
        let after = Vips::load(dir.path());
        assert_eq!(after.host(four.into()).as_deref(), Some("a"));
        assert_eq!(after.host(six.into()).as_deref(), Some("a"));
        assert_eq!(after.give("a"), (four, six));
        let other = tempfile::tempdir().unwrap();
        let (again, fresh) = (Vips::load(other.path()), Vips::load(other.path()));
        assert_eq!(again.give("b"), fresh.give("b"));
        assert_eq!(again.host(four.into()), None, "the twin has no file");
    }

    #[test]
    fn of_a_file_only_what_is_sound_is_used() {
        let (one, two) = (FIRST + 1, 2);
        let table = Table::of(File {
            format: FORMAT,
            names: vec![
                ("far".into(), one),
                ("a".into(), two),
                ("twice".into(), two),
                ("a".into(), 3),
                ("network".into(), 0x100),
            ],
        });
        assert_eq!(table.file().names, [("a".to_owned(), two)]);
        let dir = tempfile::tempdir().unwrap();
        for content in [
            &b"{\"format\":2,\"names\":[]}"[..],
            b"{\"format\":1",
            b"",
            b"[]",
        ] {
            std::fs::write(dir.path().join(saved::ADDRESSES), content).unwrap();
            let vips = Vips::load(dir.path());
            assert!(vips.table().hosts.is_empty());
            vips.give("a");
            vips.save();
            assert_eq!(Vips::load(dir.path()).table().hosts.len(), 1);
        }
    }

    #[test]
    fn whatever_is_asked_in_whatever_order_no_number_has_two_names() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut table = Table::default();
        for _ in 0..20_000 {
            let host = name(rng.usize(..2 * CAPACITY));
            let (number, _) = table.give(&host);
            assert_eq!(table.host(four(number).into()).as_deref(), Some(&*host));
            assert_eq!(table.hosts.len(), table.numbers.len());
            assert!(table.hosts.len() <= CAPACITY);
        }
        let both_ways = |(number, host): (&u32, &Arc<str>)| table.hosts[host].number == *number;
        assert!(table.numbers.iter().all(both_ways));
        let restored = Table::of(table.file());
        assert_eq!(restored.file().names, table.file().names);
    }
}

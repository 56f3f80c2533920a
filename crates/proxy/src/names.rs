//! The names this proxy knows, may ask for, and has asked for.
//!
//! [`Filter`] is the compact set of every host name visible here: what is outside it is external and costs no
//! question; what is inside is in the mesh and never passes through unknown. [`Called`] remembers which names the
//! program called, most recent last, bounded, so that a restarted proxy holds them before they are called again.
//!
//! A false positive of the filter (1 in 65,536) costs one question to the control plane, never a wrong answer.
//! Nothing here talks to anybody.

use naka_types::host::{DOMAIN, Host, filter_key};
use naka_types::reason::Reason;
use naka_wire::v1::NameFilter;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// The most names one proxy holds on demand.
pub const CAPACITY: usize = 1_000;
const HEADER: usize = 20;

/// A name filter that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Shorter than its own header, or not whole fingerprints.
    #[error("fuse16: {0} bytes are no filter")]
    Length(usize),
    /// Lengths that do not belong together.
    #[error("fuse16: its lengths contradict each other")]
    Shape,
}

/// All host names visible to this proxy.
#[derive(Debug, Default)]
pub struct Filter {
    exact: BTreeSet<String>,
    fuse: Option<Fuse>,
    suffixes: Vec<String>,
    outside: Outside,
    /// The narrowest first.
    blocks: Vec<Block>,
    /// Ports of hosts in them; all of those that are not here.
    ports_of: BTreeMap<String, Vec<u16>>,
    answers: BTreeMap<String, Box<[IpAddr]>>,
    open: BTreeMap<u16, Open>,
}

/// Whose connections to a port are, whatever address they are made to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Open {
    /// HTTP and TLS say themselves which host they mean.
    pub says: bool,
    /// The host that all others belong to.
    pub bytes: Option<Arc<str>>,
}

impl Open {
    fn read(words: &str) -> Self {
        let mut words = words.split(',').map(str::trim);
        let mut open = Self::default();
        for word in words.by_ref() {
            match word.split_once('=') {
                Some(("bytes", host)) if !host.is_empty() => open.bytes = Some(host.into()),
                None if matches!(word, "http" | "tls") => open.says = true,
                _ => {}
            }
        }
        open
    }
}

/// Addresses that hosts are called by.
#[derive(Debug)]
struct Block {
    address: IpAddr,
    bits: u8,
    hosts: Vec<Arc<str>>,
}

impl Block {
    fn read(block: &str, hosts: &str) -> Option<Self> {
        let (address, bits) = block.split_once('/')?;
        Some(Self {
            address: address.parse().ok()?,
            bits: bits.parse().ok()?,
            hosts: hosts.split(',').map(Arc::from).collect(),
        })
    }

    fn holds(&self, address: IpAddr) -> bool {
        let shift = |most: u8| u32::from(most - self.bits.min(most));
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let apart = u32::from(own) ^ u32::from(other);
                apart.checked_shr(shift(32)).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let apart = u128::from(own) ^ u128::from(other);
                apart.checked_shr(shift(128)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// What becomes of calls to hosts that are not of the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Outside {
    /// They pass through.
    #[default]
    Allowed,
    /// They are refused.
    Denied,
    /// They go by this cluster.
    Through(String),
}

impl Filter {
    /// Reads the wire form.
    ///
    /// # Errors
    /// [`Error`] when the bytes are no filter; nothing of it is to be used then.
    pub fn decode(wire: &NameFilter) -> Result<Self, Error> {
        let fuse = if wire.fuse16.is_empty() {
            None
        } else {
            Some(decode_fuse(&wire.fuse16)?)
        };
        let blocks = wire.addresses.iter();
        let mut blocks: Vec<Block> = blocks
            .filter_map(|(block, hosts)| Block::read(block, hosts))
            .collect();
        blocks.sort_by_key(|block| std::cmp::Reverse(block.bits));
        Ok(Self {
            exact: wire.exact.iter().cloned().collect(),
            fuse,
            suffixes: wire.suffixes.clone(),
            blocks,
            ports_of: wire
                .ports_of
                .iter()
                .map(|(host, ports)| {
                    let ports = ports.split(',').filter_map(|port| port.parse().ok());
                    (host.clone(), ports.collect())
                })
                .collect(),
            answers: wire.answers.iter().filter_map(written).collect(),
            open: wire
                .ports
                .iter()
                .filter_map(|(port, words)| Some((u16::try_from(*port).ok()?, Open::read(words))))
                .collect(),
            outside: match wire.outside_cluster.as_str() {
                _ if wire.registry_only => Outside::Denied,
                "" => Outside::Allowed,
                cluster => Outside::Through(cluster.to_owned()),
            },
        })
    }

    /// The host that is called by an address at a port, and whether others are, too: then what is said inside decides.
    #[must_use]
    pub fn called_by(&self, address: IpAddr, port: u16) -> Option<(Arc<str>, bool)> {
        let here = |host: &&Arc<str>| {
            let ports = self.ports_of.get(&***host);
            ports.is_none_or(|ports| ports.contains(&port))
        };
        let blocks = self.blocks.iter().filter(|block| block.holds(address));
        blocks.into_iter().find_map(|block| {
            let mut hosts = block.hosts.iter().filter(here);
            Some((Arc::clone(hosts.next()?), hosts.next().is_some()))
        })
    }

    /// What the name of a full host is answered with, if that is no address of the proxy's own; nothing: what servers
    /// outside the mesh answer.
    #[must_use]
    pub fn answer(&self, host: &str) -> Option<&[IpAddr]> {
        if let Some(own) = self.answers.get(host) {
            return Some(own);
        }
        if self.answers.is_empty() || self.is_listed(host) {
            return None;
        }
        let dots = host.match_indices('.');
        let patterns = dots.map(|(at, _)| format!("*{}", &host[at..]));
        // The longest pattern counts, also one that has no answer of its own.
        let known = |pattern: &String| self.suffixes.iter().any(|suffix| *suffix == pattern[1..]);
        let pattern = patterns.into_iter().find(known)?;
        self.answers.get(&pattern).map(|all| &**all)
    }

    /// Whose connections to a port of any address are.
    #[must_use]
    pub fn open_at(&self, port: u16) -> Option<&Open> {
        self.open.get(&port)
    }

    /// What becomes of calls to all other hosts.
    #[must_use]
    pub fn outside(&self) -> &Outside {
        &self.outside
    }

    /// Whether a host (full name, lower case) may be in the mesh.
    #[must_use]
    pub fn contains(&self, host: &str) -> bool {
        let fits = |suffix: &String| host.len() > suffix.len() && host.ends_with(suffix.as_str());
        self.is_listed(host) || self.suffixes.iter().any(fits)
    }

    /// Whether it is a host by its own name.
    fn is_listed(&self, host: &str) -> bool {
        let fuse = self.fuse.as_ref();
        self.exact.contains(host) || fuse.is_some_and(|fuse| fuse.contains(filter_key(host)))
    }
}

/// A host with the addresses its name is answered with. Where none of those written is one, nothing is known of it.
fn written((host, addresses): (&String, &String)) -> Option<(String, Box<[IpAddr]>)> {
    let all: Box<[IpAddr]> = addresses
        .split(',')
        .filter_map(|one| one.parse().ok())
        .collect();
    (addresses.is_empty() || !all.is_empty()).then(|| (host.clone(), all))
}

/// Where a name belongs.
#[derive(Debug, PartialEq, Eq)]
pub enum InMesh {
    /// It may be this host of the mesh.
    Yes(Host),
    /// Somebody else's.
    No,
}

/// Whether a name, as a program of `namespace` says it, may be in the mesh; `knows` is asked about full hosts.
///
/// # Errors
/// [`Reason::UnknownHost`] for what is no name, and for a name of the mesh's own domain that does not exist.
pub fn in_mesh(
    name: &str,
    namespace: &str,
    knows: impl Fn(&str) -> bool,
) -> Result<InMesh, Reason> {
    let full = Host::resolve(name, namespace).map_err(|_| Reason::UnknownHost)?;
    if knows(full.as_str()) {
        return Ok(InMesh::Yes(full));
    }
    // `payment.shop` may be a service or a domain; the filter knows the services.
    if let Some((service, namespace)) = full.as_str().split_once('.')
        && !namespace.contains('.')
    {
        let service = Host::of_service(service, namespace);
        if knows(service.as_str()) {
            return Ok(InMesh::Yes(service));
        }
    }
    // Written out in the mesh's own domain, it can be nothing else; a plain word may still be a local host name.
    if is_of_mesh(full.as_str()) && name.contains('.') {
        return Err(Reason::UnknownHost);
    }
    Ok(InMesh::No)
}

/// Whether a full host is of the mesh's own domain.
#[must_use]
pub fn is_of_mesh(host: &str) -> bool {
    let rest = host.strip_suffix(DOMAIN);
    rest.is_some_and(|rest| rest.ends_with('.'))
}

/// A binary fuse filter of 16 bits, read only. The lookup is written out here so that the lengths, which come from
/// the network and index the fingerprints, are checked in the same place.
#[derive(Debug)]
struct Fuse {
    seed: u64,
    segment_length: u32,
    segment_count_length: u32,
    fingerprints: Box<[u16]>,
}

impl Fuse {
    fn contains(&self, key: u64) -> bool {
        let mut hash = key.wrapping_add(self.seed);
        hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        hash ^= hash >> 33;
        let mask = u64::from(self.segment_length) - 1;
        let length = u64::from(self.segment_length);
        let product = u128::from(hash) * u128::from(self.segment_count_length);
        let first = u64::try_from(product >> 64).unwrap_or(0);
        let second = (first + length) ^ (hash >> 18 & mask);
        let third = (first + 2 * length) ^ (hash & mask);
        let at = |index: u64| {
            usize::try_from(index)
                .ok()
                .and_then(|index| self.fingerprints.get(index))
                .copied()
                .unwrap_or(0)
        };
        let wanted = ((hash ^ hash >> 32) & 0xffff) as u16;
        wanted == at(first) ^ at(second) ^ at(third)
    }
}

fn decode_fuse(bytes: &[u8]) -> Result<Fuse, Error> {
    let (header, prints) = bytes
        .split_at_checked(HEADER)
        .ok_or(Error::Length(bytes.len()))?;
    if !prints.len().is_multiple_of(2) {
        return Err(Error::Length(bytes.len()));
    }
    let word = |at: usize| {
        let mut four = [0; 4];
        four.copy_from_slice(&header[at..at + 4]);
        u32::from_le_bytes(four)
    };
    let seed = u64::from(word(0)) | u64::from(word(4)) << 32;
    let (segment_length, segment_length_mask, segment_count_length) = (word(8), word(12), word(16));
    let reach = u64::from(segment_count_length) + 2 * u64::from(segment_length);
    let sound = segment_length.is_power_of_two()
        && segment_length_mask == segment_length - 1
        && segment_count_length.is_multiple_of(segment_length)
        && segment_count_length > 0
        && reach == u64::try_from(prints.len() / 2).unwrap_or(0);
    if !sound {
        return Err(Error::Shape);
    }
    Ok(Fuse {
        seed,
        segment_length,
        segment_count_length,
        fingerprints: prints
            .chunks_exact(2)
            .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
            .collect(),
    })
}

/// Names the program called, at most [`CAPACITY`]; the least recently used leaves.
#[derive(Debug, Default)]
pub struct Called {
    used: BTreeMap<String, u64>,
    clock: u64,
}

impl Called {
    /// Names as remembered by an earlier run, least recent first.
    pub fn restore(names: impl IntoIterator<Item = String>) -> Self {
        let mut called = Self::default();
        for name in names {
            called.touch(&name);
        }
        called
    }

    /// Notes a use. Returns whether the name is new, and the name that had to leave for it.
    pub fn touch(&mut self, name: &str) -> (bool, Option<String>) {
        self.clock += 1;
        if let Some(at) = self.used.get_mut(name) {
            *at = self.clock;
            return (false, None);
        }
        self.used.insert(name.to_owned(), self.clock);
        if self.used.len() <= CAPACITY {
            return (true, None);
        }
        let oldest = self
            .used
            .iter()
            .min_by_key(|(_, at)| **at)
            .map(|(name, _)| name.clone());
        if let Some(oldest) = &oldest {
            self.used.remove(oldest);
        }
        (true, oldest)
    }

    /// Takes a name out (it does not exist).
    pub fn forget(&mut self, name: &str) {
        self.used.remove(name);
    }

    /// All names, least recent first.
    #[must_use]
    pub fn in_order(&self) -> Vec<String> {
        let mut all: Vec<(&String, &u64)> = self.used.iter().collect();
        all.sort_by_key(|(_, at)| **at);
        all.into_iter().map(|(name, _)| name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use xorf::BinaryFuse16;

    fn encoded(hosts: &[String]) -> Vec<u8> {
        let keys: Vec<u64> = hosts.iter().map(|h| filter_key(h)).collect();
        let fuse = BinaryFuse16::try_from(&keys).unwrap();
        let mut bytes = fuse.descriptor.seed.to_le_bytes().to_vec();
        for word in [
            fuse.descriptor.segment_length,
            fuse.descriptor.segment_length_mask,
            fuse.descriptor.segment_count_length,
        ] {
            bytes.extend(word.to_le_bytes());
        }
        for print in &fuse.fingerprints {
            bytes.extend(print.to_le_bytes());
        }
        bytes
    }

    fn hosts(count: usize) -> Vec<String> {
        (0..count)
            .map(|n| format!("s{n}.default.svc.cluster.local"))
            .collect()
    }

    #[test]
    fn every_member_is_found_and_strangers_hardly_ever() {
        let members = hosts(5_000);
        let filter = Filter::decode(&NameFilter {
            fuse16: encoded(&members),
            ..NameFilter::default()
        })
        .unwrap();
        assert!(members.iter().all(|h| filter.contains(h)));
        let strangers = (0..20_000)
            .filter(|n| filter.contains(&format!("x{n}.example.com")))
            .count();
        assert!(strangers < 10, "{strangers} false positives of 20,000");
    }

    #[test]
    fn exact_names_and_suffixes_count_and_a_bare_suffix_does_not() {
        let filter = Filter::decode(&NameFilter {
            exact: vec!["a.b".into()],
            suffixes: vec![".example.com".into()],
            ..NameFilter::default()
        })
        .unwrap();
        for (host, expect) in [
            ("a.b", true),
            ("x.example.com", true),
            (".example.com", false),
            ("example.com", false),
            ("a.c", false),
        ] {
            assert_eq!(filter.contains(host), expect, "{host}");
        }
    }

    #[test]
    fn damaged_filters_are_refused_or_harmless_at_every_byte() {
        let whole = encoded(&hosts(100));
        for cut in 0..whole.len() {
            let wire = NameFilter {
                fuse16: whole[..cut].to_vec(),
                ..NameFilter::default()
            };
            assert!(cut == 0 || Filter::decode(&wire).is_err(), "cut at {cut}");
        }
        for at in 0..HEADER {
            for bit in 0..8 {
                let mut flipped = whole.clone();
                flipped[at] ^= 1 << bit;
                let wire = NameFilter {
                    fuse16: flipped,
                    ..NameFilter::default()
                };
                if let Ok(filter) = Filter::decode(&wire) {
                    for host in hosts(50) {
                        let _ = filter.contains(&host);
                    }
                }
            }
        }
    }

    #[test]
    fn the_least_recently_used_name_leaves() {
        let mut called = Called::default();
        for name in hosts(CAPACITY) {
            assert_eq!(called.touch(&name), (true, None));
        }
        called.touch("s0.default.svc.cluster.local");
        assert_eq!(
            called.touch("new"),
            (true, Some("s1.default.svc.cluster.local".to_owned()))
        );
        let order = called.in_order();
        assert_eq!(order.len(), CAPACITY);
        assert_eq!(order.last().map(String::as_str), Some("new"));
        assert_eq!(Called::restore(order.clone()).in_order(), order);
    }

    #[test]
    fn names_are_answered_as_their_entries_say_and_the_narrowest_entry_says_it() {
        let wire = NameFilter {
            exact: ["plain.example.com", "named.example.com", "kept.example.com"]
                .map(str::to_owned)
                .into(),
            suffixes: [".example.com", ".own.example.com", ".both.net"]
                .map(str::to_owned)
                .into(),
            answers: [
                ("named.example.com", "192.0.2.1,2001:db8::1"),
                ("kept.example.com", ""),
                ("*.example.com", ""),
                ("*.both.net", "192.0.2.9"),
                ("broken.example.com", "nonsense"),
            ]
            .map(|(host, all)| (host.to_owned(), all.to_owned()))
            .into(),
            ..NameFilter::default()
        };
        let filter = Filter::decode(&wire).unwrap();
        for (host, expect) in [
            ("named.example.com", Some(vec!["192.0.2.1", "2001:db8::1"])),
            ("kept.example.com", Some(vec![])),
            ("plain.example.com", None),
            ("other.example.com", Some(vec![])),
            ("a.b.example.com", Some(vec![])),
            ("a.own.example.com", None),
            ("a.both.net", Some(vec!["192.0.2.9"])),
            ("broken.example.com", Some(vec![])),
            ("payment", None),
            ("both.net", None),
        ] {
            let got = filter.answer(host);
            let got = got.map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>());
            let expect = expect.map(|all| all.into_iter().map(str::to_owned).collect());
            assert_eq!(got, expect, "{host}");
        }
        let silent = Filter::decode(&NameFilter {
            answers: BTreeMap::new(),
            ..wire
        });
        assert_eq!(silent.unwrap().answer("kept.example.com"), None);
    }

    #[test]
    fn a_port_says_whose_connections_it_has() {
        let open = |says, bytes: Option<&str>| Open {
            says,
            bytes: bytes.map(Arc::from),
        };
        for (words, expect) in [
            ("http", open(true, None)),
            ("tls", open(true, None)),
            (
                "http,tls,bytes=db.example.com",
                open(true, Some("db.example.com")),
            ),
            ("bytes=db.example.com", open(false, Some("db.example.com"))),
            ("", open(false, None)),
            ("bytes=,quic", open(false, None)),
        ] {
            let wire = NameFilter {
                ports: [(443, words.to_owned()), (70_000, "http".to_owned())].into(),
                ..NameFilter::default()
            };
            let filter = Filter::decode(&wire).unwrap();
            assert_eq!(filter.open_at(443), Some(&expect), "{words}");
            assert_eq!(filter.open_at(80), None);
        }
    }

    #[test]
    fn addresses_lead_to_the_narrowest_block_that_has_them() {
        let wire = NameFilter {
            addresses: [
                ("240.0.0.1/32", "a.global,b.global"),
                ("10.0.0.0/8", "*.corp.example"),
                ("10.1.0.0/16", "db.corp.example"),
                ("2001:db8::/32", "six.example"),
                ("0.0.0.0/0", "all.example"),
                ("nonsense", "x"),
            ]
            .map(|(block, hosts)| (block.to_owned(), hosts.to_owned()))
            .into(),
            ports_of: [("db.corp.example", "5432,5433"), ("b.global", "443")]
                .map(|(host, ports)| (host.to_owned(), ports.to_owned()))
                .into(),
            ..NameFilter::default()
        };
        let filter = Filter::decode(&wire).unwrap();
        for (address, port, expect) in [
            ("240.0.0.1", 443, Some(("a.global", true))),
            ("240.0.0.1", 80, Some(("a.global", false))),
            ("10.1.2.3", 5433, Some(("db.corp.example", false))),
            // At a port that it does not have the address is the wider block's.
            ("10.1.2.3", 80, Some(("*.corp.example", false))),
            ("10.2.2.3", 80, Some(("*.corp.example", false))),
            ("192.0.2.1", 80, Some(("all.example", false))),
            ("2001:db8::1", 80, Some(("six.example", false))),
            ("2001:db9::1", 80, None),
        ] {
            let got = filter.called_by(address.parse().unwrap(), port);
            let got = got.as_ref().map(|(host, shared)| (&**host, *shared));
            assert_eq!(got, expect, "{address}");
        }
    }
}

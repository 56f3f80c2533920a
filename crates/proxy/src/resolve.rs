//! Names outside the mesh become addresses: one question at a time to the host's own servers, with the time its answer
//! may be kept.
//!
//! The message is read without trust: an answer that is not to the question is not taken (`dns::forward` compares
//! number and question), aliases are followed within the one answer and a bounded number of times, addresses are
//! bounded, a time to live is held within limits. Names of the hosts file come first, as for every program of the host.
//!
//! Not here: when a name is looked up again and what happens to an old answer (`state::lookups`).

use crate::dns::forward::{Host, Resolv, ask};
use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, QTYPE, Question, RCODE, TYPE};
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::Instant;

/// Most addresses of one name that are used.
const MOST: usize = 64;
/// Aliases followed.
const ALIASES: usize = 16;
/// An answer is kept at least and at most this long, whatever it says of itself.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(3_600);
/// How long a name of the hosts file is kept.
const LOCAL: Duration = Duration::from_secs(60);
const HOSTS: &str = "/etc/hosts";

/// Addresses of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// In the order of the answer; never empty.
    pub(crate) addresses: Vec<IpAddr>,
    /// How long they may be kept.
    pub(crate) keep: Duration,
}

/// Why a name has no addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failed {
    /// A server says that it does not exist, or has no address.
    NoSuchName,
    /// No server answers, or not with sense.
    NoAnswer,
}

/// Looks a name up: IPv4 addresses, or IPv6 ones where there are none.
pub(crate) async fn look_up(host: &Host, name: &str) -> Result<Found, Failed> {
    if let Ok(address) = name.parse() {
        return Ok(Found {
            addresses: vec![address],
            keep: LONGEST,
        });
    }
    let local = std::fs::read_to_string(HOSTS).unwrap_or_default();
    if let Some(addresses) = in_hosts(&local, name) {
        return Ok(Found {
            addresses,
            keep: LOCAL,
        });
    }
    let resolv = host.resolv();
    let mut worst = Failed::NoSuchName;
    for candidate in candidates(name, &resolv.search) {
        for kind in [TYPE::A, TYPE::AAAA] {
            match question(&resolv, &candidate, kind).await {
                Ok(found) => return Ok(found),
                Err(Failed::NoAnswer) => worst = Failed::NoAnswer,
                Err(Failed::NoSuchName) => {}
            }
        }
    }
    Err(worst)
}

/// A plain word may be meant within one of the host's domains; anything with a dot is meant as it is.
fn candidates(name: &str, search: &[String]) -> Vec<String> {
    let name = name.trim_end_matches('.');
    if name.contains('.') {
        return vec![name.to_owned()];
    }
    let within = search.iter().map(|domain| format!("{name}.{domain}"));
    within.chain([name.to_owned()]).collect()
}

async fn question(resolv: &Resolv, name: &str, kind: TYPE) -> Result<Found, Failed> {
    let mut packet = Packet::new_query(0);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let asked = Name::new(name).map_err(|_| Failed::NoSuchName)?;
    let question = Question::new(asked, QTYPE::TYPE(kind), CLASS::IN.into(), false);
    packet.questions.push(question);
    let message = packet.build_bytes_vec().map_err(|_| Failed::NoSuchName)?;
    let mut answer = ask(resolv, &message, false).await.ok_or(Failed::NoAnswer)?;
    let cut = Packet::parse(&answer).is_ok_and(|packet| packet.has_flags(PacketFlag::TRUNCATION));
    if cut {
        answer = ask(resolv, &message, true).await.ok_or(Failed::NoAnswer)?;
    }
    read(&answer, name)
}

/// The addresses that an answer gives a name, aliases followed.
fn read(message: &[u8], name: &str) -> Result<Found, Failed> {
    let packet = Packet::parse(message).map_err(|_| Failed::NoAnswer)?;
    match packet.rcode() {
        RCODE::NoError => {}
        RCODE::NameError => return Err(Failed::NoSuchName),
        _ => return Err(Failed::NoAnswer),
    }
    let mut wanted = name.trim_end_matches('.').to_ascii_lowercase();
    let mut keep = LONGEST;
    let age = |ttl: u32| Duration::from_secs(u64::from(ttl));
    for _ in 0..ALIASES {
        let own: Vec<_> = packet
            .answers
            .iter()
            .filter(|record| record.name.to_string().eq_ignore_ascii_case(&wanted))
            .collect();
        let mut addresses = Vec::new();
        for record in &own {
            let address = match &record.rdata {
                RData::A(a) => IpAddr::V4(Ipv4Addr::from(a.address)),
                RData::AAAA(a) => IpAddr::V6(Ipv6Addr::from(a.address)),
                _ => continue,
            };
            keep = keep.min(age(record.ttl));
            if addresses.len() < MOST && !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        if !addresses.is_empty() {
            return Ok(Found {
                addresses,
                keep: keep.clamp(SHORTEST, LONGEST),
            });
        }
        let alias = own.iter().find_map(|record| match &record.rdata {
            RData::CNAME(alias) => Some((alias.0.to_string(), record.ttl)),
            _ => None,
        });
        let Some((alias, ttl)) = alias else {
            return Err(Failed::NoSuchName);
        };
        keep = keep.min(age(ttl));
        wanted = alias.trim_end_matches('.').to_ascii_lowercase();
    }
    // A circle of aliases.
    Err(Failed::NoAnswer)
}

/// Addresses of a name in the text of a hosts file: IPv4 where there are any.
fn in_hosts(text: &str, name: &str) -> Option<Vec<IpAddr>> {
    let mut all: Vec<IpAddr> = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_ascii_whitespace();
        let address: Option<IpAddr> = words.next().and_then(|word| word.parse().ok());
        if words.any(|word| word.eq_ignore_ascii_case(name)) {
            all.extend(address);
        }
    }
    if all.iter().any(IpAddr::is_ipv4) {
        all.retain(IpAddr::is_ipv4);
    }
    all.truncate(MOST);
    (!all.is_empty()).then_some(all)
}

/// What a worker has looked up for callers that say names themselves. Bounded; starts afresh when it is full.
#[derive(Debug)]
pub(crate) struct Cache {
    servers: Host,
    known: RefCell<HashMap<Box<str>, Kept>>,
}

/// Addresses, and until when they may be kept.
type Kept = (Instant, Vec<IpAddr>);

/// Names a worker remembers.
const KEPT: usize = 1_024;

impl Cache {
    pub(crate) fn new(resolv_conf: PathBuf) -> Self {
        Self {
            servers: Host::new(resolv_conf),
            known: RefCell::default(),
        }
    }

    /// Addresses of a name, remembered or looked up. An old answer is better than none.
    pub(crate) async fn look_up(&self, name: &str) -> Vec<IpAddr> {
        let now = Instant::now();
        let kept = self.known.borrow().get(name).cloned();
        if let Some((until, addresses)) = &kept
            && now < *until
        {
            return addresses.clone();
        }
        let found = look_up(&self.servers, name).await;
        let (addresses, keep) = match (found, kept) {
            (Ok(found), _) => (found.addresses, found.keep),
            (Err(Failed::NoAnswer), Some((_, old))) => (old, SHORTEST),
            (Err(_), _) => return Vec::new(),
        };
        let mut known = self.known.borrow_mut();
        if known.len() >= KEPT {
            known.clear();
        }
        known.insert(name.into(), (now + keep, addresses.clone()));
        addresses
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use simple_dns::ResourceRecord;
    use simple_dns::rdata::{A, AAAA, CNAME};

    fn answer(code: RCODE, records: &[(&str, u32, RData<'static>)]) -> Vec<u8> {
        let mut packet = Packet::new_reply(1);
        *packet.rcode_mut() = code;
        for (name, ttl, data) in records {
            let name = Name::new(name).unwrap().into_owned();
            let record = ResourceRecord::new(name, CLASS::IN, *ttl, data.clone());
            packet.answers.push(record);
        }
        packet.build_bytes_vec_compressed().unwrap()
    }

    fn four(text: &str) -> RData<'static> {
        RData::A(A::from(text.parse::<Ipv4Addr>().unwrap()))
    }

    fn alias(text: &'static str) -> RData<'static> {
        RData::CNAME(CNAME(Name::new(text).unwrap()))
    }

    #[test]
    fn answers_are_read_within_bounds() {
        let ok = |text: &str, keep: u64| {
            Ok(Found {
                addresses: vec![text.parse().unwrap()],
                keep: Duration::from_secs(keep),
            })
        };
        let six = RData::AAAA(AAAA::from("2001:db8::1".parse::<Ipv6Addr>().unwrap()));
        let many: Vec<_> = (0..10_000_u32)
            .map(|n| ("a.x", 30, RData::A(A { address: n })))
            .collect();
        let rows = [
            (
                "plain",
                RCODE::NoError,
                vec![("a.x", 30, four("192.0.2.1"))],
                ok("192.0.2.1", 30),
            ),
            (
                "another case",
                RCODE::NoError,
                vec![("A.X", 30, four("192.0.2.1"))],
                ok("192.0.2.1", 30),
            ),
            (
                "no time to live",
                RCODE::NoError,
                vec![("a.x", 0, four("192.0.2.1"))],
                ok("192.0.2.1", 1),
            ),
            (
                "for ever",
                RCODE::NoError,
                vec![("a.x", u32::MAX, four("192.0.2.1"))],
                ok("192.0.2.1", 3_600),
            ),
            (
                "IPv6",
                RCODE::NoError,
                vec![("a.x", 5, six)],
                ok("2001:db8::1", 5),
            ),
            (
                "an alias, which is short-lived",
                RCODE::NoError,
                vec![("a.x", 7, alias("b.x")), ("b.x", 30, four("192.0.2.2"))],
                ok("192.0.2.2", 7),
            ),
            (
                "somebody else's address beside it",
                RCODE::NoError,
                vec![
                    ("evil.x", 30, four("192.0.2.66")),
                    ("a.x", 30, four("192.0.2.1")),
                ],
                ok("192.0.2.1", 30),
            ),
            (
                "only somebody else's",
                RCODE::NoError,
                vec![("evil.x", 30, four("192.0.2.66"))],
                Err(Failed::NoSuchName),
            ),
            (
                "a circle",
                RCODE::NoError,
                vec![("a.x", 7, alias("b.x")), ("b.x", 7, alias("a.x"))],
                Err(Failed::NoAnswer),
            ),
            ("nothing", RCODE::NoError, vec![], Err(Failed::NoSuchName)),
            (
                "no such name",
                RCODE::NameError,
                vec![],
                Err(Failed::NoSuchName),
            ),
            (
                "a broken server",
                RCODE::ServerFailure,
                vec![],
                Err(Failed::NoAnswer),
            ),
        ];
        for (what, code, records, expect) in rows {
            assert_eq!(read(&answer(code, &records), "a.x"), expect, "{what}");
        }
        let found = read(&answer(RCODE::NoError, &many), "a.x").unwrap();
        assert_eq!(found.addresses.len(), MOST);
        assert_eq!(read(&[], "a.x"), Err(Failed::NoAnswer));
    }

    #[test]
    fn whatever_arrives_nothing_panics() {
        let mut rng = fastrand::Rng::with_seed(5);
        let sound = answer(
            RCODE::NoError,
            &[("a.x", 7, alias("b.x")), ("b.x", 30, four("192.0.2.2"))],
        );
        for _ in 0..50_000 {
            let mut message = sound.clone();
            for _ in 0..rng.usize(1..6) {
                let at = rng.usize(..message.len());
                message[at] = rng.u8(..);
            }
            message.truncate(rng.usize(..=message.len()));
            let _ = read(&message, "a.x");
        }
    }

    #[test]
    fn the_hosts_file_comes_first() {
        let text =
            "127.0.0.1 localhost # x\n::1 localhost\n192.0.2.7 Db.Example db\n2001:db8::7 six\n";
        for (name, expect) in [
            ("localhost", Some("127.0.0.1")),
            ("db.example", Some("192.0.2.7")),
            ("six", Some("2001:db8::7")),
            ("x", None),
        ] {
            let got = in_hosts(text, name).map(|all| all[0].to_string());
            assert_eq!(got.as_deref(), expect, "{name}");
        }
    }

    #[test]
    fn a_plain_word_is_tried_within_the_hosts_domains() {
        let search = ["corp.example".to_owned()];
        assert_eq!(candidates("db", &search), ["db.corp.example", "db"]);
        assert_eq!(candidates("db.x.", &search), ["db.x"]);
    }
}

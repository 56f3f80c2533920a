//! The filter of all host names: what is outside it is external, and nothing is asked about it.
//!
//! Up to 64 hosts are listed; more become a binary fuse filter of 16 bits per name (one false hit in 65,000, which
//! costs one question). Keys are [`naka_types::host::filter_key`] on both sides.

use super::{Built, Class, Key, View};
use crate::world::{Answer, Entry, Read, Service};
use naka_api::networking::sidecar::Outside;
use naka_types::host::{Host, filter_key};
use naka_types::name::ClusterName;
use naka_types::protocol::Protocol;
use naka_wire::v1::NameFilter;
use std::collections::BTreeMap;
use xorf::BinaryFuse16;

const LISTED: usize = 64;

/// The filter: hosts that callers of a class see and may call, and what becomes of all others.
pub(crate) fn names(view: &View<'_>, class: &Class) -> Built {
    let world = view.read(Read::Hosts);
    let sidecar = if class.narrow {
        view.sidecar(class)
    } else {
        None
    };
    let hosts = world.services.keys().filter(|host| {
        !class.narrow
            || world.holder(host, &class.namespace).is_some_and(|service| {
                sidecar.is_none_or(|sidecar| sidecar.admits(&service.namespace, host))
            })
    });
    let (patterns, hosts): (Vec<&str>, Vec<&str>) = hosts
        .map(|host| host.as_str())
        .partition(|host| host.starts_with('*'));
    let mut filter = NameFilter {
        suffixes: patterns
            .iter()
            .filter_map(|pattern| pattern.strip_prefix('*').map(str::to_owned))
            .collect(),
        ..NameFilter::default()
    };
    // A Sidecar may admit single hosts of a pattern; the virtual host decides then.
    if let Some(sidecar) = sidecar {
        let single = world.services.keys().filter(|host| host.is_wildcard());
        filter.suffixes.extend(single.filter_map(|pattern| {
            let service = world.holder(pattern, &class.namespace)?;
            let suffix = pattern.as_str().strip_prefix('*')?;
            let egress = sidecar.egress.as_ref()?;
            let named = egress.iter().flat_map(|entry| &entry.hosts).any(|one| {
                one.host.as_str().ends_with(suffix) && one.admits(&service.namespace, &one.host)
            });
            named.then(|| suffix.to_owned())
        }));
        filter.suffixes.sort();
        filter.suffixes.dedup();
    }
    let mut bytes = BTreeMap::new();
    for host in hosts.iter().chain(&patterns) {
        let service = Host::parse(host)
            .ok()
            .and_then(|host| world.holder(&host, &class.namespace));
        if let Some((service, entry)) = service.and_then(|s| Some((s, s.entry.as_ref()?))) {
            called(&mut filter, &mut bytes, service, entry);
        }
    }
    let outside = sidecar.and_then(|sidecar| sidecar.outside.as_ref());
    let through = outside.and_then(|outside| through(view, outside, class));
    filter.registry_only = outside.is_some_and(|outside| outside.registry_only);
    filter.outside_cluster = through
        .as_ref()
        .map(ToString::to_string)
        .unwrap_or_default();
    if hosts.len() <= LISTED {
        filter.exact = hosts.iter().map(|host| (*host).to_owned()).collect();
    } else {
        let mut keys: Vec<u64> = hosts.iter().map(|host| filter_key(host)).collect();
        keys.sort_unstable();
        keys.dedup();
        match BinaryFuse16::try_from(&keys) {
            Ok(fuse) => filter.fuse16 = encode(&fuse),
            // Construction fails only by chance of the hashes; the plain list is always right.
            Err(_) => filter.exact = hosts.iter().map(|host| (*host).to_owned()).collect(),
        }
    }
    let refers = through.map(Key::Cluster).into_iter().collect();
    let model = (
        &hosts,
        &filter.suffixes,
        filter.registry_only,
        &filter.outside_cluster,
        &filter.addresses,
        &filter.answers,
        &filter.ports,
        &filter.ports_of,
    );
    Built::new(&model, naka_wire::pack(&filter)).referring(refers)
}

/// The service that connections of bytes to a port belong to.
type Oldest<'a> = BTreeMap<u16, &'a Service>;

/// By which addresses a host of an entry is called, and what its name is answered with.
///
/// A host without an address of its own is called by any: its HTTP is known by the authority, its TLS by the server
/// name, and of several that speak neither at a port the oldest gets the connections, as in Istio.
fn called<'a>(
    filter: &mut NameFilter,
    oldest: &mut Oldest<'a>,
    service: &'a Service,
    entry: &'a Entry,
) {
    let host = service.host.as_str();
    for block in &entry.addresses {
        let hosts = filter.addresses.entry(block.to_string()).or_default();
        if !hosts.is_empty() {
            hosts.push(',');
        }
        hosts.push_str(host);
    }
    if !entry.addresses.is_empty() {
        let ports: Vec<String> = service.ports.keys().map(u16::to_string).collect();
        filter.ports_of.insert(host.to_owned(), ports.join(","));
    }
    match entry.answer() {
        Answer::Own => {}
        Answer::Written(all) => {
            let all: Vec<String> = all.iter().map(ToString::to_string).collect();
            filter.answers.insert(host.to_owned(), all.join(","));
        }
        Answer::Elsewhere => {
            filter.answers.insert(host.to_owned(), String::new());
        }
    }
    let anywhere = entry.addresses.is_empty();
    if !entry.keeps_addresses() && entry.answer() != Answer::Elsewhere {
        return;
    }
    for (number, port) in &service.ports {
        let (http, tls, bytes) = match port.protocol {
            Protocol::Tls => (false, anywhere, false),
            Protocol::Tcp => (false, false, anywhere),
            Protocol::Auto => (true, false, anywhere),
            Protocol::Http | Protocol::Http2 | Protocol::Grpc | Protocol::GrpcWeb => {
                (true, false, false)
            }
        };
        let older = |other: &&Service| service.age() < other.age();
        let bytes = bytes && oldest.get(number).is_none_or(older);
        if bytes {
            oldest.insert(*number, service);
        }
        if http || tls || bytes {
            let words = filter.ports.entry(u32::from(*number)).or_default();
            *words = with(words, (http, tls), bytes.then_some(host));
        }
    }
}

/// The words of a port with more of them.
fn with(words: &str, (http, tls): (bool, bool), bytes: Option<&str>) -> String {
    let known = |word: &str| words.split(',').any(|other| other == word);
    let mut all = Vec::new();
    if http || known("http") {
        all.push("http".to_owned());
    }
    if tls || known("tls") {
        all.push("tls".to_owned());
    }
    let before = words
        .split(',')
        .find_map(|word| word.strip_prefix("bytes="));
    all.extend(bytes.or(before).map(|host| format!("bytes={host}")));
    all.join(",")
}

/// The cluster that calls to unknown hosts go by, if one is named: also when there is none of that name, so that they
/// fail rather than go around it.
pub(crate) fn through(view: &View<'_>, outside: &Outside, class: &Class) -> Option<ClusterName> {
    let proxy = outside.proxy.as_ref().filter(|_| !outside.registry_only)?;
    let service = view.seen(&proxy.host, class);
    let only = || service.and_then(|service| service.ports.keys().next().copied());
    let port = proxy.port.or_else(only).unwrap_or(80);
    let subset = proxy.subset.as_deref().unwrap_or_default();
    Some(ClusterName::outbound(port, subset, proxy.host.as_str()))
}

fn encode(fuse: &BinaryFuse16) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(20 + 2 * fuse.fingerprints.len());
    bytes.extend(fuse.descriptor.seed.to_le_bytes());
    bytes.extend(fuse.descriptor.segment_length.to_le_bytes());
    bytes.extend(fuse.descriptor.segment_length_mask.to_le_bytes());
    bytes.extend(fuse.descriptor.segment_count_length.to_le_bytes());
    for fingerprint in &fuse.fingerprints {
        bytes.extend(fingerprint.to_le_bytes());
    }
    bytes
}

//! The filter of all host names: what is outside it is external, and nothing is asked about it.
//!
//! Up to 64 hosts are listed; more become a binary fuse filter of 16 bits per name (one false hit in 65,000, which
//! costs one question). Keys are [`naka_types::host::filter_key`] on both sides.

use super::{Built, Class, Key, View};
use crate::world::Read;
use naka_api::networking::sidecar::Outside;
use naka_types::host::{Host, filter_key};
use naka_types::name::ClusterName;
use naka_wire::v1::NameFilter;
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
    for host in hosts.iter().chain(&patterns) {
        let service = Host::parse(host)
            .ok()
            .and_then(|host| world.holder(&host, &class.namespace));
        let entry = service.and_then(|service| service.entry.as_ref());
        for block in entry.into_iter().flat_map(|entry| &entry.addresses) {
            let hosts = filter.addresses.entry(block.to_string()).or_default();
            if !hosts.is_empty() {
                hosts.push(',');
            }
            hosts.push_str(host);
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
    );
    Built::new(&model, naka_wire::pack(&filter)).referring(refers)
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

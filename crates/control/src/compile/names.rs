//! The filter of all host names: what is outside it is external, and nothing is asked about it.
//!
//! Up to 64 hosts are listed; more become a binary fuse filter of 16 bits per name (one false hit in 65,000, which
//! costs one question). Keys are [`naka_types::host::filter_key`] on both sides.

use super::{Built, View};
use crate::world::Read;
use naka_types::host::filter_key;
use naka_wire::v1::NameFilter;
use xorf::BinaryFuse16;

const LISTED: usize = 64;

/// The filter.
pub(crate) fn names(view: &View<'_>) -> Built {
    let world = view.read(Read::Hosts);
    let hosts: Vec<&str> = world.services.keys().map(|host| host.as_str()).collect();
    let mut filter = NameFilter::default();
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
    Built::new(&hosts, naka_wire::pack(&filter))
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

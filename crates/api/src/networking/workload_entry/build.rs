//! The typed WorkloadEntry from a checked tree.

use super::WorkloadEntry;
use crate::codes;
use crate::decode::Report;
use crate::decode::meta::labels;
use crate::networking::read;
use crate::tree::Node;
use naka_types::host::Host;

/// Builds; `None` without a usable address.
pub(crate) fn build(report: &mut Report, spec: &Node) -> Option<WorkloadEntry> {
    let node = spec.get("address")?;
    let address = node.text()?.to_owned();
    if address.starts_with("unix://") {
        report.error(
            codes::E901,
            "spec.address",
            node.place,
            "Unix sockets are not supported yet, and there is no other address to call".to_owned(),
            "write an IP address or a DNS name".to_owned(),
        );
    } else if !Host::parse(&address).is_ok_and(|host| !host.is_wildcard()) {
        report.invalid(
            "spec.address",
            node,
            format!("{address:?} is no address"),
            "write an IP address or a DNS name, without port".to_owned(),
        );
    }
    let ports = spec
        .get("ports")
        .map(Node::entries)
        .unwrap_or_default()
        .iter()
        .filter_map(|entry| Some((entry.key.clone(), read::port(Some(&entry.value))?)))
        .collect();
    let mut labels = labels(spec.get("labels"));
    // Where it is, is a label like any other to whoever asks.
    if let Some(locality) = read::text(spec.get("locality")) {
        labels.insert(naka_types::locality::LABEL.to_owned(), locality);
    }
    if let Some(network) = read::text(spec.get("network")) {
        labels.insert(naka_types::locality::NETWORK.to_owned(), network);
    }
    Some(WorkloadEntry {
        address,
        ports,
        labels,
        weight: read::count(spec.get("weight")),
        service_account: read::text(spec.get("serviceAccount")),
    })
}

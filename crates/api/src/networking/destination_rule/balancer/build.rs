//! The typed load balancer from a checked tree.

use super::{
    Algorithm, ConsistentHash, HashKey, LARGEST_RING, LARGEST_TABLE, Layout, LoadBalancer,
    Utilization, Warmup, is_prime, read,
};
use crate::decode::Report;
use crate::tree::{Data, Node};
use naka_types::locality::{Distribute, Nearness};

/// Envoy's default size of a ring, which Istio writes out.
const RING: u32 = 1024;
/// Envoy's default size of a table.
const TABLE: u32 = 65_537;
/// Envoy's default of slow start.
const MINIMUM_PERCENT: f64 = 10.0;
/// Envoy's default of zone awareness.
const MIN_CLUSTER_SIZE: u32 = 6;
/// Labels that say where something is: `failover` orders by them already.
const TOPOLOGY: [&str; 3] = [
    naka_types::locality::REGION,
    naka_types::locality::ZONE,
    naka_types::locality::SUBZONE,
];

/// Builds; what cannot be meant is left out with a finding.
pub(crate) fn build(report: &mut Report, node: &Node, at: &str) -> Option<Box<LoadBalancer>> {
    let alternatives = ["simple", "consistentHash", "backendUtilization"];
    let written: Vec<_> = alternatives
        .into_iter()
        .filter(|name| node.get(name).is_some())
        .collect();
    if let [one, other, ..] = *written {
        report.invalid(
            at,
            node,
            format!("{one} and {other} exclude each other"),
            "keep one of them".to_owned(),
        );
    }
    let algorithm = algorithm(report, node, at);
    let (near, near_off) = near(report, node, at);
    let balancer = LoadBalancer {
        algorithm,
        warmup: warmup(report, node, at),
        near,
        near_off,
    };
    let says_something = !written.is_empty()
        || balancer.warmup.is_some()
        || balancer.near.is_some()
        || balancer.near_off;
    says_something.then(|| Box::new(balancer))
}

fn algorithm(report: &mut Report, node: &Node, at: &str) -> Algorithm {
    if let Some(hash) = node.get("consistentHash") {
        let hash = consistent_hash(report, hash, &format!("{at}.consistentHash"));
        return hash.map_or(Algorithm::default(), Algorithm::Hash);
    }
    if let Some(block) = node.get("backendUtilization") {
        return Algorithm::Utilization(Utilization {
            blackout: read::duration(block.get("weightStabilizationPeriod")),
            expiry: read::duration(block.get("weightExpirationPeriod")),
            period: read::duration(block.get("weightUpdatePeriod")),
            penalty: number(block.get("errorUtilizationPenaltyPercent"))
                .map(|percent| percent / 100.0),
            metrics: read::texts(block.get("metricNamesForComputingUtilization")),
        });
    }
    match node.get("simple").and_then(Node::text) {
        Some("ROUND_ROBIN") => Algorithm::RoundRobin,
        Some("RANDOM") => Algorithm::Random,
        Some("PASSTHROUGH") => Algorithm::Passthrough,
        _ => Algorithm::LeastRequest,
    }
}

fn number(node: Option<&Node>) -> Option<f64> {
    match &node?.data {
        Data::Number(number) => number.as_f64().filter(|value| value.is_finite()),
        _ => None,
    }
}

fn consistent_hash(report: &mut Report, node: &Node, at: &str) -> Option<ConsistentHash> {
    let keys = [
        "httpHeaderName",
        "httpCookie",
        "useSourceIp",
        "httpQueryParameterName",
    ];
    let written: Vec<_> = keys
        .into_iter()
        .filter(|name| node.get(name).is_some())
        .collect();
    let [key] = *written else {
        report.invalid(
            at,
            node,
            if written.is_empty() {
                "nothing says what is hashed".to_owned()
            } else {
                format!("{} exclude each other", written.join(" and "))
            },
            "write one of httpHeaderName, httpCookie, useSourceIp, httpQueryParameterName"
                .to_owned(),
        );
        return None;
    };
    let layout = layout(report, node, at);
    let value = node.get(key)?;
    let key_at = format!("{at}.{key}");
    let key = match key {
        "httpHeaderName" => HashKey::Header(header(report, value, &key_at)?),
        "httpQueryParameterName" => HashKey::Query(read::text(Some(value))?),
        "httpCookie" => cookie(report, value, &key_at)?,
        _ if value.truth() == Some(true) => HashKey::SourceIp,
        _ => {
            report.invalid(
                &key_at,
                value,
                "nothing says what is hashed".to_owned(),
                "write useSourceIp: true, or another key".to_owned(),
            );
            return None;
        }
    };
    Some(ConsistentHash { key, layout })
}

fn header(report: &mut Report, value: &Node, at: &str) -> Option<String> {
    let name = read::text(Some(value))?.to_ascii_lowercase();
    let pseudo = matches!(&*name, ":authority" | ":path" | ":method");
    if pseudo || read::is_header_name(&name) {
        return Some(name);
    }
    report.invalid(
        at,
        value,
        format!("{name:?} is no header name"),
        "write a header's name".to_owned(),
    );
    None
}

fn cookie(report: &mut Report, node: &Node, at: &str) -> Option<HashKey> {
    let name = read::text(node.get("name"))?;
    let path = read::text(node.get("path")).unwrap_or_default();
    let attributes: Vec<(String, String)> = node
        .get("attributes")
        .map(Node::items)
        .unwrap_or_default()
        .iter()
        .filter_map(|one| {
            let value = read::text(one.get("value")).unwrap_or_default();
            Some((read::text(one.get("name"))?, value))
        })
        .collect();
    let texts = attributes.iter().flat_map(|(name, value)| [name, value]);
    let bad = |text: &String| text.bytes().any(|b| b.is_ascii_control() || b == b';');
    if !read::is_header_name(&name) || texts.chain([&path]).any(bad) {
        report.invalid(
            at,
            node,
            "a name, path or attribute that no cookie can have".to_owned(),
            "use letters, digits, '-' and '_' in the name, and no ';' anywhere".to_owned(),
        );
        return None;
    }
    Some(HashKey::Cookie {
        name,
        path,
        ttl: read::duration(node.get("ttl")),
        attributes,
    })
}

fn layout(report: &mut Report, node: &Node, at: &str) -> Layout {
    let (ring, maglev) = (node.get("ringHash"), node.get("maglev"));
    if ring.is_some() && maglev.is_some() {
        report.invalid(
            at,
            node,
            "ringHash and maglev exclude each other".to_owned(),
            "keep one of them".to_owned(),
        );
    }
    if let Some(maglev) = maglev {
        // 0 means not set, as in Istio.
        let size = read::count(maglev.get("tableSize")).filter(|size| *size > 0);
        let sound = |size: &u32| *size <= LARGEST_TABLE && is_prime(*size);
        if let Some(size) = size.filter(|size| !sound(size)) {
            report.invalid(
                &format!("{at}.maglev.tableSize"),
                maglev,
                format!("{size} is no prime up to {LARGEST_TABLE}"),
                format!("use a prime such as {TABLE}, the default"),
            );
        }
        return Layout::Maglev {
            table: size.filter(sound).unwrap_or(TABLE),
        };
    }
    let (own, field) = match ring.and_then(|ring| ring.get("minimumRingSize")) {
        Some(own) => (Some(own), "ringHash.minimumRingSize"),
        None => (node.get("minimumRingSize"), "minimumRingSize"),
    };
    // 0 means not set, as in Istio.
    let size = read::count(own).filter(|size| *size > 0);
    if let (Some(own), Some(size)) = (own, size.filter(|size| *size > LARGEST_RING)) {
        report.invalid(
            &format!("{at}.{field}"),
            own,
            format!("{size} points are more than a ring can have"),
            format!("use {LARGEST_RING} at most; the default is {RING}"),
        );
    }
    Layout::Ring {
        minimum: size.filter(|size| *size <= LARGEST_RING).unwrap_or(RING),
    }
}

fn warmup(report: &mut Report, node: &Node, at: &str) -> Option<Warmup> {
    let block = node.get("warmup");
    let duration = match block {
        Some(block) => read::duration(block.get("duration")),
        None => read::duration(node.get("warmupDurationSecs")),
    };
    let aggression = number(block.and_then(|block| block.get("aggression")));
    if let (Some(block), Some(value)) = (block, aggression.filter(|value| *value < 1.0)) {
        report.invalid(
            &format!("{at}.warmup.aggression"),
            block,
            format!("{value} would rise late; Envoy takes 1 and more"),
            "use 1 (a line, the default) or more".to_owned(),
        );
        return None;
    }
    Some(Warmup {
        duration: duration.filter(|duration| !duration.is_zero())?,
        minimum_percent: number(block.and_then(|block| block.get("minimumPercent")))
            .unwrap_or(MINIMUM_PERCENT),
        aggression: aggression.unwrap_or(1.0),
    })
}

/// `localityLbSetting` or `zoneAwareLbSetting`, and whether it is turned off.
fn near(report: &mut Report, node: &Node, at: &str) -> (Option<Nearness>, bool) {
    let (locality, zones) = (
        node.get("localityLbSetting"),
        node.get("zoneAwareLbSetting"),
    );
    let off =
        |block: Option<&Node>| block.and_then(|block| block.get("enabled")?.truth()) == Some(false);
    let zones = zones.filter(|block| !off(Some(block)));
    if let (Some(block), Some(_)) = (zones, locality.filter(|block| !off(Some(block)))) {
        report.invalid(
            &format!("{at}.zoneAwareLbSetting"),
            block,
            "zoneAwareLbSetting and localityLbSetting exclude each other".to_owned(),
            "keep one of them".to_owned(),
        );
    }
    let (block, name) = match (zones, locality) {
        (Some(block), _) => (block, "zoneAwareLbSetting"),
        (None, Some(block)) if !off(Some(block)) => (block, "localityLbSetting"),
        (None, _) => return (None, off(locality)),
    };
    let at = format!("{at}.{name}");
    let mut near = Nearness {
        distribute: distribute(report, block, &at),
        failover: failover(report, block, &at),
        failover_priority: read::texts(block.get("failoverPriority")),
        zone_aware: zones
            .map(|block| read::count(block.get("minClusterSize")).unwrap_or(MIN_CLUSTER_SIZE)),
    };
    let takes_over = !near.failover.is_empty() || !near.failover_priority.is_empty();
    if !near.distribute.is_empty() && takes_over {
        report.invalid(
            &at,
            block,
            "distribute excludes failover and failoverPriority".to_owned(),
            "keep distribute, or the other two".to_owned(),
        );
        near.failover.clear();
        near.failover_priority.clear();
    }
    if !near.failover.is_empty()
        && let Some(label) = TOPOLOGY
            .iter()
            .find(|label| near.failover_priority.iter().any(|own| own == *label))
    {
        report.invalid(
            &format!("{at}.failoverPriority"),
            block,
            format!("failover orders by place already, so {label} cannot stand here"),
            "leave the topology labels out, or failover".to_owned(),
        );
        near.failover.clear();
    }
    (Some(near), false)
}

fn failover(report: &mut Report, block: &Node, at: &str) -> Vec<(String, String)> {
    let mut all = Vec::new();
    let items = block.get("failover").map(Node::items).unwrap_or_default();
    for (index, one) in items.iter().enumerate() {
        let (Some(from), Some(to)) = (read::text(one.get("from")), read::text(one.get("to")))
        else {
            continue;
        };
        let star = from.contains('*') || to.contains('*') || from.contains('/') || to.contains('/');
        if from == to || star {
            report.invalid(
                &format!("{at}.failover[{index}]"),
                one,
                format!("from {from} to {to}: two different regions are meant"),
                "write two different regions, without zones and '*'".to_owned(),
            );
            continue;
        }
        all.push((from, to));
    }
    all
}

fn distribute(report: &mut Report, block: &Node, at: &str) -> Vec<Distribute> {
    let mut all: Vec<Distribute> = Vec::new();
    let items = block.get("distribute").map(Node::items).unwrap_or_default();
    for (index, one) in items.iter().enumerate() {
        let at = format!("{at}.distribute[{index}]");
        let Some(from) = read::text(one.get("from")) else {
            continue;
        };
        let to: Vec<(String, u32)> = one
            .get("to")
            .map(Node::entries)
            .unwrap_or_default()
            .iter()
            .filter_map(|entry| Some((entry.key.clone(), read::count(Some(&entry.value))?)))
            .collect();
        let sum: u64 = to.iter().map(|(_, share)| u64::from(*share)).sum();
        if sum != 100 || to.iter().any(|(_, share)| *share == 0) {
            report.invalid(
                &format!("{at}.to"),
                one,
                format!("the shares add up to {sum}; each is 1 to 100, all together 100"),
                "write shares that add up to 100".to_owned(),
            );
            continue;
        }
        if all.iter().any(|before| before.from == from) {
            report.invalid(
                &format!("{at}.from"),
                one,
                format!("{from} is distributed twice"),
                "merge the two".to_owned(),
            );
            continue;
        }
        all.push(Distribute { from, to });
    }
    all
}

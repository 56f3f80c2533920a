//! Old and misplaced spellings in a DestinationRule: a fixed list, rewritten in the tree before it is checked.
//!
//! Silent pruning is what turns `circuitBreaker` into "no circuit breaker at all"; so each is read as what it means and
//! reported (W), or refused (E) in strict mode and where two spellings contradict each other. `raw` keeps the original.

use crate::codes::{self, Code};
use crate::decode::{Mode, Report};
use crate::tree::{Data, Entry, Node};

const OUTLIER: &str = "outlierDetection";

/// Rewrites all traffic policies of the object.
pub(crate) fn rewrite(report: &mut Report, object: &mut Node) {
    let Some(spec) = object.get_mut("spec") else {
        return;
    };
    if let Some(policy) = spec.get_mut("trafficPolicy") {
        whole(report, policy, "spec.trafficPolicy");
    }
    let Some(Data::List(subsets)) = spec.get_mut("subsets").map(|node| &mut node.data) else {
        return;
    };
    for (index, subset) in subsets.iter_mut().enumerate() {
        if let Some(policy) = subset.get_mut("trafficPolicy") {
            whole(
                report,
                policy,
                &format!("spec.subsets[{index}].trafficPolicy"),
            );
        }
    }
}

fn whole(report: &mut Report, policy: &mut Node, at: &str) {
    blocks(report, policy, at);
    let Some(Data::List(ports)) = policy
        .get_mut("portLevelSettings")
        .map(|node| &mut node.data)
    else {
        return;
    };
    for (index, port) in ports.iter_mut().enumerate() {
        blocks(report, port, &format!("{at}.portLevelSettings[{index}]"));
    }
}

fn say(
    report: &mut Report,
    warning: Code,
    error: Code,
    at: &str,
    entry: &Entry,
    message: &str,
    fix: &str,
) -> bool {
    let code = if report.mode == Mode::Strict {
        error
    } else {
        warning
    };
    report.error(code, at, entry.place, message.to_owned(), fix.to_owned());
    report.mode == Mode::Compat
}

fn blocks(report: &mut Report, policy: &mut Node, at: &str) {
    circuit_breaker(report, policy, at);
    misplaced(report, policy, at);
    no_delay(report, policy, at);
    consecutive_errors(report, policy, at);
    least_conn(report, policy, at);
}

fn circuit_breaker(report: &mut Report, policy: &mut Node, at: &str) {
    let Some(entry) = policy.take("circuitBreaker") else {
        return;
    };
    let field = format!("{at}.circuitBreaker");
    if policy.get(OUTLIER).is_some() {
        report.error(
            codes::E201,
            &field,
            entry.place,
            "trafficPolicy.circuitBreaker and trafficPolicy.outlierDetection are both set; keep outlierDetection".to_owned(),
            "remove circuitBreaker".to_owned(),
        );
        return;
    }
    let message = match report.mode {
        Mode::Compat => {
            "unknown field trafficPolicy.circuitBreaker, read as trafficPolicy.outlierDetection"
        }
        Mode::Strict => {
            "unknown field trafficPolicy.circuitBreaker; use trafficPolicy.outlierDetection"
        }
    };
    say(
        report,
        codes::W101,
        codes::E101,
        &field,
        &entry,
        message,
        "rename circuitBreaker to outlierDetection",
    );
    // In strict mode too, so that what is inside is still checked.
    policy.put(OUTLIER, entry.place, entry.value);
}

/// Old key in `connectionPool.http`, the field it means.
const MOVED: &[(&str, &str)] = &[
    (
        "consecutiveGatewayFailureThreshold",
        "consecutiveGatewayErrors",
    ),
    ("interval", "interval"),
    ("baseEjectionTime", "baseEjectionTime"),
    ("maxEjectionPercent", "maxEjectionPercent"),
];

fn misplaced(report: &mut Report, policy: &mut Node, at: &str) {
    for (old, new) in MOVED {
        let Some(http) = policy
            .get_mut("connectionPool")
            .and_then(|pool| pool.get_mut("http"))
        else {
            return;
        };
        let Some(entry) = http.take(old) else {
            continue;
        };
        if entry.value.data == Data::Null {
            continue;
        }
        let field = format!("{at}.connectionPool.http.{old}");
        let (warning, error) = if old == new {
            (codes::W103, codes::E103)
        } else {
            (codes::W102, codes::E102)
        };
        let current = policy.at(&[OUTLIER, new]).cloned();
        if let Some(current) = current.filter(|current| !same(current, &entry.value)) {
            let thing = if old == new {
                *new
            } else {
                "consecutive gateway errors"
            };
            report.error(
                codes::E202,
                &field,
                entry.place,
                format!(
                    "conflicting values for {thing}: {} in connectionPool.http, {} in outlierDetection",
                    entry.value.to_json(),
                    current.to_json()
                ),
                format!("remove {old} from connectionPool.http"),
            );
            continue;
        }
        let message = match (old == new, report.mode) {
            (true, _) => {
                format!("unknown field connectionPool.http.{old}; it belongs to outlierDetection")
            }
            (false, Mode::Compat) => {
                format!("unknown field connectionPool.http.{old}, read as outlierDetection.{new}")
            }
            (false, Mode::Strict) => {
                format!("unknown field connectionPool.http.{old}; move to outlierDetection.{new}")
            }
        };
        say(
            report,
            warning,
            error,
            &field,
            &entry,
            &message,
            &format!("move it to outlierDetection.{new}"),
        );
        if policy.get(OUTLIER).is_none() {
            policy.put(
                OUTLIER,
                entry.place,
                Node {
                    data: Data::Map(Vec::new()),
                    place: entry.place,
                },
            );
        }
        if let Some(outlier) = policy.get_mut(OUTLIER) {
            outlier.put(new, entry.place, entry.value);
        }
    }
}

/// Equal values: `30s` and `0.5m` are the same duration.
fn same(a: &Node, b: &Node) -> bool {
    let duration = |node: &Node| {
        node.text()
            .and_then(|text| naka_types::duration::parse(text).ok())
    };
    match (duration(a), duration(b)) {
        (Some(a), Some(b)) => a == b,
        _ => a.to_json() == b.to_json(),
    }
}

fn no_delay(report: &mut Report, policy: &mut Node, at: &str) {
    let Some(tcp) = policy
        .get_mut("connectionPool")
        .and_then(|pool| pool.get_mut("tcp"))
    else {
        return;
    };
    let field = format!("{at}.connectionPool.tcp.tcpNoDelay");
    match tcp.get("tcpNoDelay").map(Node::truth) {
        Some(Some(true)) => {
            if let Some(entry) = tcp.take("tcpNoDelay") {
                let message = match report.mode {
                    Mode::Compat => {
                        "unknown field connectionPool.tcp.tcpNoDelay; small packets are always sent at once, so it changes nothing"
                    }
                    Mode::Strict => "unknown field connectionPool.tcp.tcpNoDelay",
                };
                say(
                    report,
                    codes::W104,
                    codes::E104,
                    &field,
                    &entry,
                    message,
                    "remove it",
                );
            }
        }
        Some(Some(false)) => {
            if let Some(entry) = tcp.take("tcpNoDelay") {
                report.error(
                    codes::E204,
                    &field,
                    entry.place,
                    "tcpNoDelay: false cannot be had: small packets are always sent at once"
                        .to_owned(),
                    "remove it".to_owned(),
                );
            }
        }
        // Ill-typed: the walk says so.
        Some(None) | None => {}
    }
}

fn consecutive_errors(report: &mut Report, policy: &mut Node, at: &str) {
    let Some(outlier) = policy.get_mut(OUTLIER) else {
        return;
    };
    if outlier
        .get("consecutiveErrors")
        .is_none_or(|value| value.integer().is_none())
    {
        return;
    }
    let Some(entry) = outlier.take("consecutiveErrors") else {
        return;
    };
    let newer = ["consecutive5xxErrors", "consecutiveGatewayErrors"]
        .into_iter()
        .find(|key| outlier.get(key).is_some());
    let message = match (report.mode, newer) {
        (Mode::Strict, _) => "consecutiveErrors is deprecated; choose consecutive5xxErrors or consecutiveGatewayErrors".to_owned(),
        (Mode::Compat, Some(newer)) => format!("consecutiveErrors is deprecated; {newer} beside it wins"),
        (Mode::Compat, None) => "consecutiveErrors is deprecated, read as consecutive5xxErrors".to_owned(),
    };
    let field = format!("{at}.{OUTLIER}.consecutiveErrors");
    say(
        report,
        codes::W111,
        codes::E111,
        &field,
        &entry,
        &message,
        "choose consecutive5xxErrors or consecutiveGatewayErrors",
    );
    if newer.is_none() {
        outlier.put("consecutive5xxErrors", entry.place, entry.value);
    }
}

fn least_conn(report: &mut Report, policy: &mut Node, at: &str) {
    let Some(balancer) = policy.get_mut("loadBalancer") else {
        return;
    };
    if balancer.get("simple").and_then(Node::text) != Some("LEAST_CONN") {
        return;
    }
    let Some(mut entry) = balancer.take("simple") else {
        return;
    };
    let message = match report.mode {
        Mode::Compat => "LEAST_CONN is deprecated, read as LEAST_REQUEST",
        Mode::Strict => "LEAST_CONN is deprecated; use LEAST_REQUEST",
    };
    say(
        report,
        codes::W110,
        codes::E110,
        &format!("{at}.loadBalancer.simple"),
        &entry,
        message,
        "write LEAST_REQUEST",
    );
    entry.value.data = Data::Text("LEAST_REQUEST".to_owned());
    balancer.put("simple", entry.place, entry.value);
}

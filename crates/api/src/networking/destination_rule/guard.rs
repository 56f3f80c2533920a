//! What is left of a DestinationRule that is not in force: its TLS.
//!
//! A rule falls out as a whole when a field outside its parts is wrong, a limit for example. If that took the TLS along,
//! calls of a host outside the mesh would go in plaintext because of a slip somewhere else. So TLS stays: as it is
//! written where that is certain, else as TLS with which calls fail.
//!
//! Invariants: what is left lets less through than the rule, never more; doubt about where TLS was meant, or for whom,
//! reads as everywhere and for all. Not here: a rule whose host cannot be read, which concerns nobody.

use super::{ClientTls, DestinationRule, TlsMode, TrafficPolicy, tls};
use crate::decode::Report;
use crate::networking::export::Export;
use crate::networking::read;
use crate::schema::nearest;
use crate::tree::{Node, join};

const POLICY: &str = "spec.trafficPolicy";
const PORTS: &str = "spec.trafficPolicy.portLevelSettings";

/// What stays in force of a rule that is not sound; `None`: nothing of it concerns TLS.
pub(crate) fn left(
    report: &mut Report,
    object: &Node,
    rule: &DestinationRule,
) -> Option<DestinationRule> {
    let nameless = ["metadata.name", "metadata.namespace"];
    if nameless.iter().any(|field| report.any_error(field)) || report.is_double("metadata") {
        return None;
    }
    let spec = object.get("spec")?;
    let top = begun(rule.policy.tls.as_deref());
    let mut ports: Vec<(u16, TrafficPolicy)> = Vec::new();
    for (port, policy) in &rule.policy.ports {
        let Some(tls) = begun(policy.tls.as_deref()) else {
            continue;
        };
        // Of a port that is set twice nobody knows what holds.
        let twice = rule.policy.ports.iter().filter(|(other, _)| other == port);
        let tls = if twice.count() > 1 {
            ClientTls::unusable()
        } else {
            tls.clone()
        };
        let policy = TrafficPolicy {
            tls: Some(Box::new(tls)),
            ..TrafficPolicy::default()
        };
        if ports.iter().all(|(other, _)| other != port) {
            ports.push((*port, policy));
        }
    }
    let lost = doubt(report, spec);
    if top.is_none() && ports.is_empty() && lost.is_none() {
        return None;
    }
    let top = match &lost {
        Some(at) => {
            tls::cannot(report, spec, at, "the TLS asked for here is lost");
            // Whatever a port says, it may be the one that was meant.
            ports.clear();
            Some(ClientTls::unusable())
        }
        None => top.cloned(),
    };
    Some(DestinationRule {
        host: rule.host.clone(),
        policy: TrafficPolicy {
            tls: top.map(Box::new),
            ports,
            ..TrafficPolicy::default()
        },
        subsets: Vec::new(),
        export: if report.any_error("spec.exportTo") {
            Export::Everywhere
        } else {
            rule.export.clone()
        },
        selector: rule
            .selector
            .clone()
            .filter(|_| !report.any_error("spec.workloadSelector")),
    })
}

fn begun(tls: Option<&ClientTls>) -> Option<&ClientTls> {
    tls.filter(|tls| tls.mode != TlsMode::Disable)
}

/// The field because of which nobody knows where TLS was meant.
fn doubt(report: &Report, spec: &Node) -> Option<String> {
    let doubles = ["spec", POLICY, PORTS];
    if let Some(double) = doubles.into_iter().find(|field| report.is_double(field)) {
        return Some(double.to_owned());
    }
    let ports = spec.at(&["trafficPolicy", "portLevelSettings"]);
    for (index, item) in ports
        .map(Node::items)
        .unwrap_or_default()
        .iter()
        .enumerate()
    {
        let at = format!("{PORTS}[{index}]");
        let unknown = read::port(item.at(&["port", "number"])).is_none()
            || report.any_error(&join(&at, "port"));
        let off = item.at(&["tls", "mode"]).and_then(Node::text) == Some("DISABLE");
        if report.is_double(&at) || unknown && item.get("tls").is_some() && !off {
            return Some(at);
        }
    }
    misplaced(spec, "spec")
}

/// A key that is `tls`, or a slip of it, where none is read.
fn misplaced(node: &Node, path: &str) -> Option<String> {
    let port = path
        .strip_prefix(PORTS)
        .and_then(|rest| rest.split_once(']'));
    let places = path == POLICY || port.is_some_and(|(_, rest)| rest.is_empty());
    let below = node.entries().iter().find_map(|entry| {
        let at = join(path, &entry.key);
        if at == "spec.subsets" || at == "spec.workloadSelector" {
            // A subset falls out with what is wrong in it, and then nobody calls it.
            return None;
        }
        if entry.key == "tls" && places {
            return None;
        }
        if nearest(&entry.key, std::iter::once("tls")).is_some() {
            return Some(at);
        }
        misplaced(&entry.value, &at)
    });
    below.or_else(|| {
        let mut items = node.items().iter().enumerate();
        items.find_map(|(index, item)| misplaced(item, &format!("{path}[{index}]")))
    })
}

#[cfg(test)]
mod tests {
    use crate::networking::destination_rule::TlsMode::{self, Simple, Unusable};
    use crate::networking::export::Export;
    use crate::{Mode, decode_yaml};

    /// Mode for the whole host, mode for port 80, number of subsets; none: nothing is left of the rule.
    type Left = Option<(Option<TlsMode>, Option<TlsMode>, usize)>;

    #[track_caller]
    fn check(spec: &str, expect: Left) {
        let head = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d}\nspec:\n  host: bank.example\n";
        let decoded = decode_yaml("f", format!("{head}{spec}").as_bytes(), Mode::Compat);
        let rule = decoded.objects.first().and_then(|o| o.destination_rule());
        let got = rule.map(|rule| {
            let mode = |policy: &super::TrafficPolicy| policy.tls.as_ref().map(|tls| tls.mode);
            let port = rule.policy.port(80).and_then(mode);
            (mode(&rule.policy), port, rule.subsets.len())
        });
        assert_eq!(got, expect, "{spec}\n{:?}", decoded.findings);
        let said = decoded.findings.iter().any(|f| f.code == "E333");
        let failing = matches!(
            expect,
            Some((Some(Unusable), _, _) | (_, Some(Unusable), _))
        );
        assert_eq!(said, failing, "{spec}\n{:?}", decoded.findings);
    }

    const SUBSET: &str = "  subsets: [{name: a, labels: {v: a}}]\n";

    #[test]
    fn a_block_falls_out_alone_to_calls_that_fail() {
        for tls in [
            "{mode: MUTUAL, clientCertificate: a}",
            "{mode: SIMPEL}",
            "{mode: 5}",
            "SIMPLE",
            "[SIMPLE]",
            "{mode: SIMPLE, mode: DISABLE}",
            "{mode: DISABLE, mode: SIMPLE}",
            "{mod: SIMPLE}",
            "{mode: SIMPLE, caCertificate: a}",
            "{mode: SIMPLE, caCertificates: {}}",
            "{mode: SIMPLE, sni: 5}",
            "{mode: SIMPLE, insecureSkipVerify: 'false'}",
            "{mode: SIMPLE, subjectAltNames: ['*']}",
            "{mode: SIMPLE, subjectAltNames: ['*bank.example']}",
            "{mode: SIMPLE, credentialName: a, caCertificates: b}",
            "{mode: ISTIO_MUTUAL, credentialName: a}",
        ] {
            let whole = format!("  trafficPolicy: {{tls: {tls}}}\n{SUBSET}");
            check(&whole, Some((Some(Unusable), None, 1)));
            let port = format!(
                "  trafficPolicy: {{portLevelSettings: [{{port: {{number: 80}}, tls: {tls}}}]}}\n{SUBSET}"
            );
            check(&port, Some((None, Some(Unusable), 1)));
        }
        let sound = "  trafficPolicy: {tls: {mode: SIMPLE, subjectAltNames: ['*.bank.example', 10.0.0.1, 'spiffe://a/b', bank.example]}}\n";
        check(sound, Some((Some(Simple), None, 0)));
        check(
            "  trafficPolicy: {tls: {mode: DISABLE, x: 1}}\n",
            Some((None, None, 0)),
        );
        check("  trafficPolicy: {tls: null}\n", Some((None, None, 0)));
    }

    #[test]
    fn tls_outlives_its_rule() {
        let bad = "connectionPool: {tcp: {maxConnections: -1}}";
        let simple = "tls: {mode: SIMPLE}";
        let rule = |policy: &str| format!("  trafficPolicy: {{{policy}}}\n{SUBSET}");
        check(&rule(bad), None);
        check(&rule(&format!("{bad}, tls: {{mode: DISABLE}}")), None);
        check(
            &rule(&format!("{bad}, {simple}")),
            Some((Some(Simple), None, 0)),
        );
        check(
            &rule(&format!("{bad}, tls: {{mode: A}}")),
            Some((Some(Unusable), None, 0)),
        );
        let ports = |ports: &str| rule(&format!("{bad}, portLevelSettings: [{ports}]"));
        let at = |port: &str, block: &str| format!("{{port: {{number: {port}}}, {block}}}");
        check(&ports(&at("80", simple)), Some((None, Some(Simple), 0)));
        let twice = format!(
            "{}, {}",
            at("80", "retryBudget: {percent: 5}"),
            at("80", simple)
        );
        check(&ports(&at("80", "retryBudget: {percent: 5}")), None);
        check(&ports(&twice), Some((Some(Unusable), None, 0)));
        check(&ports(&at("'80'", simple)), Some((Some(Unusable), None, 0)));
        check(&ports(&at("'80'", "tls: {mode: DISABLE}")), None);
        check(
            &ports(&at("80, x: 1", simple)),
            Some((Some(Unusable), None, 0)),
        );
    }

    #[test]
    fn tls_that_is_not_where_it_belongs() {
        for spec in [
            "  tls: {mode: SIMPLE}\n",
            "  trafficPolicy: {tsl: {mode: SIMPLE}}\n",
            "  trafficPolicy: {TLS: {mode: SIMPLE}}\n",
            "  trafficPolicy: [{tls: {mode: SIMPLE}}]\n",
            "  trafficPolicies: {tls: {mode: SIMPLE}}\n",
            "  trafficPolicy: {connectionPool: {tls: {mode: SIMPLE}}}\n",
            "  trafficPolicy: {portLevelSettings: {tls: {mode: SIMPLE}}}\n",
            "  trafficPolicy: {portLevelSettings: [{x: [{tls: {mode: SIMPLE}}]}]}\n",
            "  trafficPolicy: {}\n  trafficPolicy: {tls: {mode: SIMPLE}}\n",
        ] {
            check(spec, Some((Some(Unusable), None, 0)));
        }
        // Of subsets and labels the rule's own calls need nothing.
        check("  subsets: [{name: a, tls: {}}]\n", Some((None, None, 0)));
        check(
            "  x: 1\n  workloadSelector: {matchLabels: {tls: a}}\n",
            None,
        );
    }

    #[test]
    fn doubt_for_whom_is_for_all() {
        let text = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d}\nspec:\n  host: bank.example\n  trafficPolicy: {tls: {mode: SIMPLE}}\n";
        let of = |more: &str| {
            let decoded = decode_yaml("f", format!("{text}{more}").as_bytes(), Mode::Compat);
            let rule = decoded.objects[0].destination_rule().unwrap();
            (rule.export == Export::Everywhere, rule.selector.is_none())
        };
        assert_eq!(of("  exportTo: ['.']\n"), (false, true));
        assert_eq!(of("  exportTo: ['.', '?']\n"), (true, true));
        let selector = "  workloadSelector: {matchLabels: {app: a}}\n";
        assert_eq!(of(&format!("{selector}  x: 1\n")), (true, false));
        assert_eq!(
            of("  workloadSelector: {matchLabel: {app: a}}\n"),
            (true, true)
        );
    }
}

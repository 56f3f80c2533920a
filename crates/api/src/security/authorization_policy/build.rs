//! The typed AuthorizationPolicy from a checked tree.

use super::{Action, Attribute, AuthorizationPolicy, Condition, Rule, Text, Values};
use crate::codes;
use crate::decode::Report;
use crate::decode::meta::labels;
use crate::kept::one_segment;
use crate::security::attached;
use crate::tree::{Data, Node, join};
use naka_types::cidr::Cidr;

/// Positive and negated fields of a caller, with what they ask.
const SOURCE: [(&str, &str, Attribute); 7] = [
    ("principals", "notPrincipals", Attribute::Principal),
    ("namespaces", "notNamespaces", Attribute::Namespace),
    (
        "serviceAccounts",
        "notServiceAccounts",
        Attribute::ServiceAccount,
    ),
    ("trustDomains", "notTrustDomains", Attribute::TrustDomain),
    ("ipBlocks", "notIpBlocks", Attribute::PeerAddress),
    (
        "remoteIpBlocks",
        "notRemoteIpBlocks",
        Attribute::ClientAddress,
    ),
    (
        "requestPrincipals",
        "notRequestPrincipals",
        Attribute::RequestPrincipal,
    ),
];
const OPERATION: [(&str, &str, Attribute); 4] = [
    ("hosts", "notHosts", Attribute::Host),
    ("ports", "notPorts", Attribute::Port),
    ("methods", "notMethods", Attribute::Method),
    ("paths", "notPaths", Attribute::Path),
];
/// Attributes of Istio that a proxy of ours cannot know yet.
const UNKNOWN: [&str; 2] = ["destination.ip", "connection.sni"];

/// The annotation that puts a policy on trial, as in Istio.
const DRY_RUN: &str = "istio.io/dry-run";

/// What holds while rules are read.
struct Reading<'r> {
    report: &'r mut Report,
    namespace: &'r str,
    allows: bool,
}

/// Builds.
pub(crate) fn build(
    report: &mut Report,
    spec: &Node,
    annotations: Option<&Node>,
    namespace: &str,
) -> AuthorizationPolicy {
    let selector = spec
        .at(&["selector", "matchLabels"])
        .map(|node| labels(Some(node)))
        .filter(|labels| !labels.is_empty());
    let attached = attached::read(report, spec);
    let action = action(spec);
    let dry_run = annotations.and_then(|all| all.get(DRY_RUN));
    let dry_run = dry_run.and_then(Node::text) == Some("true");
    let provider = provider(report, spec, action);
    if let Some(node) = annotations.filter(|_| dry_run && action == Action::Custom) {
        let what = "a CUSTOM policy on trial asks nobody, and nothing is told of it";
        silent(report, "metadata.annotations", node, what);
    }
    let mut reading = Reading {
        report,
        namespace,
        allows: !matches!(action, Action::Deny | Action::Custom),
    };
    let rules = each(spec, "spec", "rules")
        .map(|(at, node)| reading.rule(&at, node))
        .collect();
    AuthorizationPolicy {
        selector,
        attached,
        action,
        provider,
        rules,
        dry_run,
    }
}

/// What operations of other kinds of objects ask, in the same words: ports, methods and paths.
pub(crate) fn asked(report: &mut Report, node: &Node, at: &str, namespace: &str) -> Vec<Condition> {
    let mut reading = Reading {
        report,
        namespace,
        allows: true,
    };
    let fields = OPERATION.iter().filter(|(field, ..)| *field != "hosts");
    let written = fields.filter(|(field, ..)| node.get(field).is_some());
    written
        .filter_map(|(field, _, attribute)| {
            reading.condition(node, at, field, attribute.clone(), false)
        })
        .collect()
}

fn action(spec: &Node) -> Action {
    match spec.get("action").and_then(Node::text) {
        Some("DENY") => Action::Deny,
        Some("AUDIT") => Action::Audit,
        Some("CUSTOM") => Action::Custom,
        _ => Action::Allow,
    }
}

/// Who is asked; CUSTOM needs it, and rules that say about what.
fn provider(report: &mut Report, spec: &Node, action: Action) -> String {
    let named = spec.at(&["provider", "name"]).and_then(Node::text);
    let named = named.unwrap_or_default();
    if action != Action::Custom {
        if let Some(node) = spec.get("provider") {
            let message = "only CUSTOM asks a provider; with this action it has no effect";
            let fix = "remove it, or write action: CUSTOM".to_owned();
            report.error(
                codes::W902,
                "spec.provider",
                node.place,
                message.to_owned(),
                fix,
            );
        }
        return String::new();
    }
    if named.is_empty() {
        let at = spec.get("provider").unwrap_or(spec).place;
        let message = "CUSTOM without provider.name asks nobody".to_owned();
        let fix = "add provider: {name: …}, a name of extensionProviders of the mesh".to_owned();
        report.error(codes::E006, "spec.provider.name", at, message, fix);
    }
    if spec
        .get("rules")
        .is_none_or(|rules| rules.items().is_empty())
    {
        let message = "CUSTOM without rules asks about nothing".to_owned();
        let fix = "add rules; rules: [{}] asks about every request".to_owned();
        report.error(codes::E006, "spec.rules", spec.place, message, fix);
    }
    named.to_owned()
}

/// W900 at something that does nothing today.
fn silent(report: &mut Report, at: &str, node: &Node, what: &str) {
    let fix = "nothing to change; do not rely on it today".to_owned();
    report.error(codes::W900, at, node.place, what.to_owned(), fix);
}

/// Items of a list with their paths.
fn each<'n>(
    node: &'n Node,
    at: &str,
    field: &str,
) -> impl Iterator<Item = (String, &'n Node)> + use<'n> {
    let at = join(at, field);
    let all = node.get(field).map(Node::items).unwrap_or_default();
    let place = move |(index, item)| (format!("{at}[{index}]"), item);
    all.iter().enumerate().map(place)
}

impl Reading<'_> {
    fn rule(&mut self, at: &str, node: &Node) -> Rule {
        Rule {
            from: self.side(node, at, ("from", "source"), &SOURCE),
            to: self.side(node, at, ("to", "operation"), &OPERATION),
            when: each(node, at, "when")
                .flat_map(|(at, node)| self.when(&at, node))
                .collect(),
        }
    }

    fn side(
        &mut self,
        node: &Node,
        at: &str,
        (list, inner): (&str, &str),
        fields: &[(&str, &str, Attribute)],
    ) -> Vec<Vec<Condition>> {
        let mut out = Vec::new();
        for (at, item) in each(node, at, list) {
            let at = join(&at, inner);
            let mut conditions = Vec::new();
            let Some(item) = item.get(inner).filter(|item| !item.entries().is_empty()) else {
                self.report.error(
                    codes::E007,
                    &at,
                    item.place,
                    format!("an empty {inner} is no condition"),
                    format!("write what the {inner} must be, or leave {list} out"),
                );
                continue;
            };
            for (positive, negative, attribute) in fields {
                for (field, not) in [(positive, false), (negative, true)] {
                    if item.get(field).is_some() {
                        let attribute = attribute.clone();
                        conditions.extend(self.condition(item, &at, field, attribute, not));
                    }
                }
            }
            out.push(conditions);
        }
        out
    }

    fn when(&mut self, at: &str, node: &Node) -> Vec<Condition> {
        let key_at = join(at, "key");
        let (Some(key), Some(text)) = (node.get("key"), node.get("key").and_then(Node::text))
        else {
            return Vec::new();
        };
        let Some(attribute) = attribute(text) else {
            self.report.invalid(
                &key_at,
                key,
                format!("{text:?} is no attribute"),
                "write source.principal, source.namespace, source.serviceAccount, source.ip, remote.ip, source.labels[KEY], destination.port, request.headers[NAME], request.auth.principal, request.auth.claims[NAME], …".to_owned(),
            );
            return Vec::new();
        };
        if let Attribute::Unknown(_) = attribute {
            let what = format!(
                "{text} is not known yet: a rule that asks for it never allows, and always denies"
            );
            silent(self.report, &key_at, key, &what);
        }
        let given = |field: &str| {
            let items = node.get(field).map(Node::items);
            items.is_some_and(|items| !items.is_empty())
        };
        if !given("values") && !given("notValues") {
            self.report.invalid(
                at,
                node,
                "neither values nor notValues".to_owned(),
                "write one of them".to_owned(),
            );
        }
        [("values", false), ("notValues", true)]
            .into_iter()
            .filter(|(field, _)| given(field))
            .filter_map(|(field, not)| self.condition(node, at, field, attribute.clone(), not))
            .collect()
    }

    /// The condition of a list of values; none where they are in error.
    fn condition(
        &mut self,
        node: &Node,
        at: &str,
        field: &str,
        attribute: Attribute,
        not: bool,
    ) -> Option<Condition> {
        let items: Vec<(String, &Node)> = each(node, at, field).collect();
        if items.is_empty() {
            self.report.invalid(
                &join(at, field),
                node.get(field).unwrap_or(node),
                "an empty list is no condition".to_owned(),
                format!("write values, or leave {field} out"),
            );
            return None;
        }
        let values = match attribute {
            Attribute::PeerAddress | Attribute::ClientAddress => {
                let read = |(at, item): &(String, &Node)| {
                    let parsed = Cidr::parse(item.text().unwrap_or_default());
                    self.wrong(
                        at,
                        item,
                        parsed.ok(),
                        "an address or a range like 10.0.0.0/8",
                    )
                };
                Values::Ranges(items.iter().filter_map(read).collect())
            }
            Attribute::Port => {
                let read = |(at, item): &(String, &Node)| {
                    let port = item.text().and_then(|text| text.parse::<u16>().ok());
                    self.wrong(
                        at,
                        item,
                        port.filter(|port| *port > 0),
                        "a port as text, like \"8080\"",
                    )
                };
                Values::Ports(items.iter().filter_map(read).collect())
            }
            _ => {
                let read = |(at, item): &(String, &Node)| self.text(at, item, &attribute);
                Values::Texts(items.iter().filter_map(read).collect())
            }
        };
        Some(Condition {
            attribute,
            values,
            not,
        })
    }

    fn wrong<T>(&mut self, at: &str, item: &Node, read: Option<T>, wanted: &str) -> Option<T> {
        if read.is_none() {
            let found = match &item.data {
                Data::Text(text) => format!("{text:?}"),
                _ => item.what().to_owned(),
            };
            self.report.invalid(
                at,
                item,
                format!("{found} is not {wanted}"),
                format!("write {wanted}"),
            );
        }
        read
    }

    fn text(&mut self, at: &str, item: &Node, attribute: &Attribute) -> Option<Text> {
        let text = item.text().unwrap_or_default();
        if text.is_empty() {
            return self.wrong(at, item, None, "a value: an empty one satisfies nothing");
        }
        match attribute {
            Attribute::Path => self.path(at, item, text),
            Attribute::ServiceAccount => {
                if text.contains('*') {
                    return self.wrong(at, item, None, "a service account, without *");
                }
                Some(Text::Exact(match text.split_once('/') {
                    Some(_) => text.to_owned(),
                    None => format!("{}/{text}", self.namespace),
                }))
            }
            _ => Some(plain(text)),
        }
    }

    fn path(&mut self, at: &str, item: &Node, text: &str) -> Option<Text> {
        // What is wrong with an inner `*` in a DENY rule has been said.
        let text = match self.allows {
            true => one_segment(text),
            false => text.to_owned(),
        };
        if !text.contains(['{', '}']) {
            return Some(plain(&text));
        }
        if sound_template(&text) {
            return Some(Text::Template(text));
        }
        self.wrong(
            at,
            item,
            None,
            "a template: {*} is one whole segment, {**} the last one, and no other * stands beside them",
        )
    }
}

/// `begin*`, `*end`, `*` or the text itself, as Istio reads them.
fn plain(text: &str) -> Text {
    if text == "*" {
        Text::Present
    } else if let Some(end) = text.strip_prefix('*') {
        Text::Suffix(end.to_owned())
    } else if let Some(begin) = text.strip_suffix('*') {
        Text::Prefix(begin.to_owned())
    } else {
        Text::Exact(text.to_owned())
    }
}

/// Whole segments `{*}`, and one `{**}` with none of them behind it; a `*` at the very end stands for the rest too.
fn sound_template(text: &str) -> bool {
    let Some(rest) = text.strip_prefix('/') else {
        return false;
    };
    let count = rest.split('/').count();
    let mut open = true;
    rest.split('/')
        .enumerate()
        .all(|(index, segment)| match segment {
            "{*}" => open,
            "{**}" => std::mem::replace(&mut open, false),
            "*" => open && index + 1 == count,
            other => !other.contains(['{', '}', '*']),
        })
}

fn attribute(key: &str) -> Option<Attribute> {
    let of = |begin: &str| key.strip_prefix(begin)?.strip_suffix(']');
    Some(match key {
        "source.principal" => Attribute::Principal,
        "source.namespace" => Attribute::Namespace,
        "source.serviceAccount" => Attribute::ServiceAccount,
        "source.trustDomain" => Attribute::TrustDomain,
        "source.ip" => Attribute::PeerAddress,
        "remote.ip" => Attribute::ClientAddress,
        "destination.port" => Attribute::Port,
        "request.auth.principal" => Attribute::RequestPrincipal,
        "request.auth.audiences" => Attribute::Claim(vec!["aud".to_owned()]),
        "request.auth.presenter" => Attribute::Claim(vec!["azp".to_owned()]),
        _ => {
            if let Some(name) = of("request.headers[") {
                http_name(name).then(|| Attribute::Header(name.to_ascii_lowercase()))?
            } else if let Some(name) = of("source.labels[") {
                (!name.is_empty()).then(|| Attribute::Label(name.to_owned()))?
            } else if let Some(names) = of("request.auth.claims[") {
                let names: Vec<String> = names.split("][").map(str::to_owned).collect();
                let sound = |name: &String| !name.is_empty() && !name.contains(['[', ']']);
                names.iter().all(sound).then_some(Attribute::Claim(names))?
            } else if UNKNOWN.contains(&key) || key.starts_with("experimental.envoy.filters.") {
                Attribute::Unknown(key.to_owned())
            } else {
                return None;
            }
        }
    })
}

fn http_name(name: &str) -> bool {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(token)
}

#[cfg(test)]
mod tests {
    use crate::{Mode, Object, decode_yaml};

    fn decode(spec: &str) -> (Option<Object>, Vec<(String, String)>) {
        let text = format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: a, namespace: shop}}\nspec: {spec}\n"
        );
        let decoded = decode_yaml("a.yaml", text.as_bytes(), Mode::Compat);
        let found = decoded.findings.into_iter();
        let found = found.map(|f| (f.code.to_string(), f.field)).collect();
        (decoded.objects.into_iter().next(), found)
    }

    #[test]
    fn what_is_wrong_is_named_and_puts_the_policy_out_of_force() {
        let path =
            |path: &str| format!("{{rules: [{{to: [{{operation: {{paths: ['{path}']}}}}]}}]}}");
        let paths = "spec.rules[0].to[0].operation.paths[0]";
        let when =
            |key: &str, rest: &str| format!("{{rules: [{{when: [{{key: '{key}'{rest}}}]}}]}}");
        for (spec, code, field) in [
            (
                "{rules: [{from: [{source: {}}]}]}".to_owned(),
                "E007",
                "spec.rules[0].from[0].source",
            ),
            (
                "{rules: [{from: [{}]}]}".to_owned(),
                "E007",
                "spec.rules[0].from[0].source",
            ),
            (
                "{rules: [{from: [{source: {principals: []}}]}]}".to_owned(),
                "E007",
                "spec.rules[0].from[0].source.principals",
            ),
            (
                "{rules: [{from: [{source: {principals: ['']}}]}]}".to_owned(),
                "E007",
                "spec.rules[0].from[0].source.principals[0]",
            ),
            (
                "{rules: [{from: [{source: {ipBlocks: [here]}}]}]}".to_owned(),
                "E007",
                "spec.rules[0].from[0].source.ipBlocks[0]",
            ),
            (
                "{rules: [{from: [{source: {serviceAccounts: ['a*']}}]}]}".to_owned(),
                "E007",
                "spec.rules[0].from[0].source.serviceAccounts[0]",
            ),
            (
                "{rules: [{to: [{operation: {ports: ['0']}}]}]}".to_owned(),
                "E007",
                "spec.rules[0].to[0].operation.ports[0]",
            ),
            (
                "{rules: [{to: [{operation: {ports: [http]}}]}]}".to_owned(),
                "E007",
                "spec.rules[0].to[0].operation.ports[0]",
            ),
            (path("/a/{x}"), "E007", paths),
            (path("/a{*}"), "E007", paths),
            (path("/{**}/{*}"), "E007", paths),
            (
                when("source.colour", ", values: [a]"),
                "E007",
                "spec.rules[0].when[0].key",
            ),
            (
                when("request.headers[a b]", ", values: [a]"),
                "E007",
                "spec.rules[0].when[0].key",
            ),
            (
                when("request.auth.claims[]", ", values: [a]"),
                "E007",
                "spec.rules[0].when[0].key",
            ),
            (
                when("source.namespace", ""),
                "E007",
                "spec.rules[0].when[0]",
            ),
        ] {
            out_of_force(&spec, code, field);
        }
    }

    fn out_of_force(spec: &str, code: &str, field: &str) {
        let (object, found) = decode(spec);
        assert!(object.is_none(), "{spec}");
        assert!(
            found.contains(&(code.to_owned(), field.to_owned())),
            "{spec}: {found:?}"
        );
    }

    #[test]
    fn a_policy_says_whom_it_asks_and_what_it_is_attached_to() {
        for (spec, code, field) in [
            (
                "{action: CUSTOM, rules: [{}]}",
                "E006",
                "spec.provider.name",
            ),
            (
                "{action: CUSTOM, provider: {name: ''}, rules: [{}]}",
                "E006",
                "spec.provider.name",
            ),
            (
                "{action: CUSTOM, provider: {name: a}}",
                "E006",
                "spec.rules",
            ),
            (
                "{targetRefs: [{kind: Gateway, name: a}]}",
                "E007",
                "spec.targetRefs[0].kind",
            ),
            (
                "{targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway}]}",
                "E006",
                "spec.targetRefs[0].name",
            ),
            (
                "{targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: a, namespace: b}}",
                "E007",
                "spec.targetRef.namespace",
            ),
        ] {
            out_of_force(spec, code, field);
        }
    }

    #[test]
    fn what_is_sound_is_in_force_and_what_is_not_known_yet_is_said() {
        for (spec, codes) in [
            ("{}", &[][..]),
            ("{action: DENY, rules: [{}]}", &[]),
            (
                "{rules: [{to: [{operation: {paths: ['/{**}/x', '/a/{*}', '/a/*']}}]}]}",
                &[],
            ),
            ("{action: AUDIT}", &[]),
            (
                "{targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: a}]}",
                &[],
            ),
            ("{targetRefs: [{kind: Service, name: a}]}", &["W902"]),
            (
                "{targetRef: {group: networking.istio.io, kind: ServiceEntry, name: a}}",
                &["W902"],
            ),
            ("{action: CUSTOM, provider: {name: a}, rules: [{}]}", &[]),
            (
                "{action: DENY, provider: {name: a}, rules: [{}]}",
                &["W902"],
            ),
            (
                "{rules: [{when: [{key: 'request.auth.claims[a][b]', values: [b]}]}]}",
                &[],
            ),
            (
                "{rules: [{when: [{key: 'connection.sni', values: [b]}]}]}",
                &["W900"],
            ),
            (
                "{rules: [{when: [{key: 'source.labels[a]', values: [b]}]}]}",
                &["W121"],
            ),
        ] {
            let (object, found) = decode(spec);
            let said: Vec<&str> = found.iter().map(|(code, _)| code.as_str()).collect();
            assert_eq!(said, codes, "{spec}");
            assert!(
                object.is_some_and(|o| o.authorization_policy().is_some()),
                "{spec}"
            );
        }
    }
}

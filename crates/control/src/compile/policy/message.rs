//! Policies as Envoy's RBAC filters, for our own proxies and for Envoys alike.
//!
//! A filter for CUSTOM that only notes which rule matched, with one that asks behind it, then one filter for AUDIT, one for DENY and one for ALLOW, as Istio writes them; an ALLOW filter without rules lets nobody
//! pass. Policies on trial are shadow rules of the filter of their action. Trust models are a filter of our own behind the
//! one that reads tokens; where labels of callers are not known they are rules that deny.

use super::{
    At, Compiled, Held, Policies, Question, Tree, authorizer, compiled, escaped, guard, trust,
};
use crate::revoked_tokens::RevokedToken;
use naka_api::security::authorization_policy::Text;
use naka_types::cidr::Cidr;
use naka_types::node::PEER_LABELS;
use naka_wire::envoy::config::core::v3::{CidrRange, TypedExtensionConfig};
use naka_wire::envoy::config::listener::v3::Filter;
use naka_wire::envoy::config::rbac::v3::permission::{Rule as May, Set as Rules};
use naka_wire::envoy::config::rbac::v3::principal::{Authenticated, Identifier, Set as Ids};
use naka_wire::envoy::config::rbac::v3::rbac::Action;
use naka_wire::envoy::config::rbac::v3::{
    MetadataSource, Permission, Policy, Principal, Rbac, SourcedMetadata,
};
use naka_wire::envoy::config::route::v3::{
    HeaderMatcher, header_matcher::HeaderMatchSpecifier as Header,
};
use naka_wire::envoy::extensions::filters::http::rbac::v3::Rbac as HttpRbac;
use naka_wire::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpFilter, http_filter,
};
use naka_wire::envoy::extensions::filters::network::rbac::v3::Rbac as BytesRbac;
use naka_wire::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;
use naka_wire::envoy::r#type::matcher::v3::{
    MetadataMatcher, PathMatcher, RegexMatcher, StringMatcher, ValueMatcher, metadata_matcher,
    path_matcher, string_matcher::MatchPattern, value_matcher,
};
use naka_wire::google::protobuf::UInt32Value;

/// Type of the filters of requests.
pub(crate) const HTTP: &str = "envoy.filters.http.rbac";
/// Filters of rules: AUDIT, DENY, ALLOW.
pub(crate) const ACTIONS: usize = 3;
const BYTES: &str = "envoy.filters.network.rbac";
const TEMPLATE: &str = "envoy.path.match.uri_template.uri_template_matcher";

/// Filters before the requests of a port, for a proxy that knows labels of callers or does not.
pub(crate) fn http(policies: &Policies, port: u16, labels: bool) -> Vec<HttpFilter> {
    let rules = rules_of_requests(policies, port, labels, &[]);
    let at = at_requests(policies, port, labels);
    let trust = labels.then(|| trust::of_requests(&policies.trust, at));
    let guards = labels.then(|| guard::of_requests(&policies.guards));
    guards
        .flatten()
        .into_iter()
        .chain(super::token::filter(&policies.tokens, super::token::NONE))
        .chain(trust.flatten())
        .chain(asked_about(policies, port, labels))
        .chain(asker(policies))
        .chain(rules.into_iter().flatten())
        .collect()
}

/// The rules of CUSTOM policies: which requests are asked about; where nobody can be asked, which are refused.
pub(crate) fn asked_about(policies: &Policies, port: u16, labels: bool) -> Option<HttpFilter> {
    let authorizer = policies.authorizer.as_ref()?;
    let at = at_requests(policies, port, labels);
    let rules = custom(policies, authorizer.found.is_err(), at);
    let rbac = if authorizer.found.is_ok() {
        HttpRbac {
            shadow_rules: Some(rules),
            shadow_rules_stat_prefix: authorizer::PREFIX.to_owned(),
            ..HttpRbac::default()
        }
    } else {
        HttpRbac {
            rules: Some(rules),
            ..HttpRbac::default()
        }
    };
    Some(HttpFilter {
        name: HTTP.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(naka_wire::pack(&rbac))),
        ..HttpFilter::default()
    })
}

/// The filter that asks.
pub(crate) fn asker(policies: &Policies) -> Option<HttpFilter> {
    authorizer::filter(policies.authorizer.as_ref()?)
}

/// The rules of CUSTOM policies, by the names that Istio gives them.
fn custom(policies: &Policies, bad: bool, at: At) -> Rbac {
    let mut all = Vec::new();
    for held in &policies.custom {
        let mark = format!("{}-{}", authorizer::MARK, held.policy.provider);
        let rules = compiled(std::slice::from_ref(held), &policies.domains, at);
        all.extend(rules.into_iter().map(|rule| Compiled {
            name: format!(
                "{mark}-{}{}",
                rule.name,
                if bad { authorizer::BAD } else { "" }
            ),
            ..rule
        }));
    }
    Rbac {
        action: Action::Deny as i32,
        policies: all.into_iter().map(policy).collect(),
        ..Rbac::default()
    }
}

fn at_requests(policies: &Policies, port: u16, labels: bool) -> At {
    At {
        port,
        http: true,
        labels,
        tokens: !policies.tokens.is_empty(),
    }
}

/// The filter that reads tokens, for an Envoy.
pub(crate) fn tokens(policies: &Policies) -> Option<HttpFilter> {
    super::token::filter(&policies.tokens, super::token::NO_POINT)
}

/// Filters by action, see [`rbac`]. `revoked` are tokens that were taken back: an Envoy has them as DENY rules, our own
/// proxies as a list of their own.
pub(crate) fn rules_of_requests(
    policies: &Policies,
    port: u16,
    labels: bool,
    revoked: &[RevokedToken],
) -> [Option<HttpFilter>; ACTIONS] {
    let at = at_requests(policies, port, labels);
    let filter = |both: Both| HttpFilter {
        name: HTTP.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(naka_wire::pack(
            &HttpRbac {
                rules: both.rules,
                shadow_rules: both.trial,
                shadow_rules_stat_prefix: both.prefix.to_owned(),
                ..HttpRbac::default()
            },
        ))),
        ..HttpFilter::default()
    };
    let [audit, deny, allow] = rbac(policies, at);
    let taken_back = (!revoked.is_empty()).then(|| Rbac {
        action: Action::Deny as i32,
        policies: revoked.iter().map(taken_back).map(policy).collect(),
        ..Rbac::default()
    });
    [audit, with_more(deny, taken_back), allow].map(|both| both.map(filter))
}

/// The rule that refuses a token.
fn taken_back(token: &RevokedToken) -> Compiled {
    let claim = |name: &str, text: &str| {
        let path = vec![name.to_owned()];
        Tree::Ask(Question::Claim(path, Text::Exact(text.to_owned()), false))
    };
    Compiled {
        name: format!("revoked-token[{}]", token.jti),
        who: Tree::All(vec![claim("iss", &token.issuer), claim("jti", &token.jti)]),
        what: Tree::Always,
    }
}

/// A DENY filter with more rules in it.
fn with_more(deny: Option<Both>, more: Option<Rbac>) -> Option<Both> {
    match (deny, more) {
        (deny, None) => deny,
        (None, more) => Some(Both {
            rules: more,
            trial: None,
            prefix: "istio_dry_run_deny_",
        }),
        (Some(mut deny), Some(more)) => {
            let all = deny.rules.get_or_insert_with(|| Rbac {
                action: Action::Deny as i32,
                ..Rbac::default()
            });
            all.policies.extend(more.policies);
            Some(deny)
        }
    }
}

/// Filters before the bytes of a port.
pub(crate) fn bytes(policies: &Policies, port: u16, labels: bool) -> Vec<Filter> {
    let rules = rules_of_bytes(policies, port, labels);
    let trust = labels.then(|| trust::of_bytes(&policies.trust, at_bytes(port, labels)));
    let guards = labels.then(|| guard::of_bytes(&policies.guards));
    let own = guards.flatten().into_iter().chain(trust.flatten());
    own.chain(rules.into_iter().flatten()).collect()
}

fn at_bytes(port: u16, labels: bool) -> At {
    At {
        port,
        http: false,
        labels,
        tokens: false,
    }
}

/// The same by action, see [`rbac`].
pub(crate) fn rules_of_bytes(
    policies: &Policies,
    port: u16,
    labels: bool,
) -> [Option<Filter>; ACTIONS] {
    let at = at_bytes(port, labels);
    // Nobody is asked about bytes: those that somebody would be asked about are refused.
    let refused = policies
        .authorizer
        .as_ref()
        .map(|_| custom(policies, true, at));
    let filter = |both: Both| {
        let rbac = BytesRbac {
            rules: both.rules,
            shadow_rules: both.trial,
            shadow_rules_stat_prefix: both.prefix.to_owned(),
            stat_prefix: "tcp.".to_owned(),
            ..BytesRbac::default()
        };
        super::super::listener::typed(BYTES, naka_wire::pack(&rbac))
    };
    let [audit, deny, allow] = rbac(policies, at);
    let deny = with_more(deny, refused.filter(|rules| !rules.policies.is_empty()));
    [audit, deny, allow].map(|both| both.map(filter))
}

/// Rules of one filter: those in force, and those on trial, counted under a prefix.
struct Both {
    rules: Option<Rbac>,
    trial: Option<Rbac>,
    prefix: &'static str,
}

/// In Istio's order: audits tell also of what is refused afterwards, and what a DENY rule refuses no ALLOW rule lets in.
fn rbac(policies: &Policies, at: At) -> [Option<Both>; ACTIONS] {
    let domains = &policies.domains;
    // Where no filter of ours judges by trust models.
    let models: &[trust::Held] = if at.labels { &[] } else { &policies.trust };
    // Nobody guards bytes there.
    let guards: &[guard::Held] = match (at.labels, at.http) {
        (false, true) => &policies.guards,
        _ => &[],
    };
    let one = |action: Action, held: &[Held], models: &[trust::Held], guards: &[guard::Held]| {
        let mut rules = compiled(held, domains, at);
        rules.extend(trust::denied(models, at));
        rules.extend(guard::rules(guards, action == Action::Log));
        // An ALLOW filter without rules lets nobody in; the others would do nothing.
        let idle = rules.is_empty() && (action != Action::Allow || held.is_empty());
        (!idle).then(|| Rbac {
            action: action as i32,
            policies: rules.into_iter().map(policy).collect(),
            ..Rbac::default()
        })
    };
    let all = [
        Both {
            rules: one(Action::Log, &policies.audit, &[], guards),
            trial: None,
            prefix: "",
        },
        Both {
            rules: one(Action::Deny, &policies.deny, models, guards),
            trial: one(Action::Deny, &policies.trial_deny, &[], &[]),
            prefix: "istio_dry_run_deny_",
        },
        Both {
            rules: one(Action::Allow, &policies.allow, &[], &[]),
            trial: one(Action::Allow, &policies.trial_allow, &[], &[]),
            prefix: "istio_dry_run_allow_",
        },
    ];
    let asks = |both: &Both| both.rules.is_some() || both.trial.is_some();
    all.map(|both| Some(both).filter(asks))
}

fn policy(rule: Compiled) -> (String, Policy) {
    let policy = Policy {
        permissions: vec![permission(&rule.what)],
        principals: vec![principal(&rule.who)],
        ..Policy::default()
    };
    (rule.name, policy)
}

pub(super) fn permission(tree: &Tree) -> Permission {
    let set = |trees: &[Tree]| Rules {
        rules: trees.iter().map(permission).collect(),
    };
    let rule = match tree {
        Tree::Always => May::Any(true),
        // Folded away before; as a message: nothing is everything's opposite.
        Tree::Never => May::NotRule(Box::new(permission(&Tree::Always))),
        Tree::All(trees) => May::AndRules(set(trees)),
        Tree::Any(trees) => May::OrRules(set(trees)),
        Tree::Not(tree) => May::NotRule(Box::new(permission(tree))),
        Tree::Ask(Question::Path(Text::Template(template))) => {
            let config = UriTemplateMatchConfig {
                path_template: as_envoy(template),
            };
            May::UriTemplate(TypedExtensionConfig {
                name: TEMPLATE.to_owned(),
                typed_config: Some(naka_wire::pack(&config)),
            })
        }
        Tree::Ask(Question::Path(text)) => May::UrlPath(PathMatcher {
            rule: Some(path_matcher::Rule::Path(string(text))),
        }),
        Tree::Ask(question) => May::Header(header(question)),
    };
    Permission { rule: Some(rule) }
}

fn principal(tree: &Tree) -> Principal {
    let set = |trees: &[Tree]| Ids {
        ids: trees.iter().map(principal).collect(),
    };
    let named = |name| {
        Identifier::Authenticated(Authenticated {
            principal_name: name,
        })
    };
    let identifier = match tree {
        Tree::Always => Identifier::Any(true),
        Tree::Never => Identifier::NotId(Box::new(principal(&Tree::Always))),
        Tree::All(trees) => Identifier::AndIds(set(trees)),
        Tree::Any(trees) => Identifier::OrIds(set(trees)),
        Tree::Not(tree) => Identifier::NotId(Box::new(principal(tree))),
        Tree::Ask(Question::Identified) => named(None),
        Tree::Ask(Question::Identity(text)) => named(Some(string(text))),
        Tree::Ask(Question::IdentityLike(regex)) => named(Some(like(regex))),
        Tree::Ask(Question::Peer(range)) => Identifier::DirectRemoteIp(cidr(range)),
        Tree::Ask(Question::Client(range)) => Identifier::RemoteIp(cidr(range)),
        Tree::Ask(Question::Label(name, text)) => Identifier::SourcedMetadata(label(name, text)),
        Tree::Ask(Question::Claim(path, text, lists)) => {
            Identifier::SourcedMetadata(SourcedMetadata {
                metadata_matcher: Some(super::token::claim(path, string(text), *lists)),
                metadata_source: MetadataSource::Dynamic as i32,
            })
        }
        Tree::Ask(question) => Identifier::Header(header(question)),
    };
    Principal {
        identifier: Some(identifier),
    }
}

/// A label as metadata of the connection: [`PEER_LABELS`], then its name.
fn label(name: &str, text: &Text) -> SourcedMetadata {
    let segment = metadata_matcher::path_segment::Segment::Key(name.to_owned());
    SourcedMetadata {
        metadata_matcher: Some(MetadataMatcher {
            filter: PEER_LABELS.to_owned(),
            path: vec![metadata_matcher::PathSegment {
                segment: Some(segment),
            }],
            value: Some(ValueMatcher {
                match_pattern: Some(value_matcher::MatchPattern::StringMatch(string(text))),
            }),
            invert: false,
        }),
        metadata_source: MetadataSource::Dynamic as i32,
    }
}

/// `{*}` and `{**}` are `*` and `**` there; a `*` at the end stands for the rest.
fn as_envoy(template: &str) -> String {
    let open = match template.strip_suffix("/*") {
        Some(head) => format!("{head}/{{**}}"),
        None => template.to_owned(),
    };
    open.replace("{**}", "**").replace("{*}", "*")
}

fn header(question: &Question) -> HeaderMatcher {
    let (name, specifier) = match question {
        Question::Method(text) => (":method", Header::StringMatch(string(text))),
        Question::Host(text) => (":authority", Header::StringMatch(host(text))),
        Question::Header(name, Text::Present) => (name.as_str(), Header::PresentMatch(true)),
        Question::Header(name, text) => (name.as_str(), Header::StringMatch(string(text))),
        // Never asked of a header.
        _ => (":path", Header::PresentMatch(false)),
    };
    HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(specifier),
        ..HeaderMatcher::default()
    }
}

/// A host in any case, with or without a port that the rule leaves open.
fn host(text: &Text) -> StringMatcher {
    // `host:` is a host with no port, too.
    const PORT: &str = "(:[0-9]*)?";
    let has_port = |text: &str| {
        text.rsplit_once(':')
            .is_some_and(|(_, port)| !port.contains(']'))
    };
    match text {
        Text::Exact(text) | Text::Template(text) if !has_port(text) => {
            like(&format!("(?i){}{PORT}", escaped(text)))
        }
        Text::Suffix(text) if !has_port(text) => like(&format!("(?i).*{}{PORT}", escaped(text))),
        other => StringMatcher {
            ignore_case: !matches!(other, Text::Present),
            ..string(other)
        },
    }
}

pub(super) fn string(text: &Text) -> StringMatcher {
    let pattern = match text {
        Text::Exact(text) | Text::Template(text) => MatchPattern::Exact(text.clone()),
        Text::Prefix(text) => MatchPattern::Prefix(text.clone()),
        Text::Suffix(text) => MatchPattern::Suffix(text.clone()),
        Text::Present => return like(".+"),
    };
    StringMatcher {
        match_pattern: Some(pattern),
        ..StringMatcher::default()
    }
}

fn like(regex: &str) -> StringMatcher {
    let regex = RegexMatcher {
        regex: regex.to_owned(),
        ..RegexMatcher::default()
    };
    StringMatcher {
        match_pattern: Some(MatchPattern::SafeRegex(regex)),
        ..StringMatcher::default()
    }
}

fn cidr(range: &Cidr) -> CidrRange {
    CidrRange {
        address_prefix: range.address().to_string(),
        prefix_len: Some(UInt32Value {
            value: u32::from(range.length()),
        }),
    }
}

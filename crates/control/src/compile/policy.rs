//! Who may call a workload's port: the AuthorizationPolicies that hold for it, as a tree of conditions.
//!
//! CUSTOM comes first, then DENY, then ALLOW; a rule is two trees, one of who calls and one of what is called, because Envoy's RBAC
//! keeps them apart. What is not known at a place (a path where no HTTP is spoken, a claim where no token is read) is
//! settled here: it never lets an ALLOW rule match and never keeps a DENY rule from it, negated or not, so that both
//! dialects get trees of things they know. The port is settled here too, since it is known.
//!
//! Policies that decide nothing (AUDIT, dry run) are kept apart from those that do. Not here: messages ([`message`]).

pub(crate) mod authorizer;
pub(crate) mod guard;
pub(crate) mod message;
mod token;
pub(crate) mod trust;

pub(crate) use authorizer::Authorizer;
pub(crate) use token::claim;

use super::View;
use crate::revoked_tokens::RevokedToken;
use crate::world::{Domains, Read};
use naka_api::security::attached::Attached;
use naka_api::security::authorization_policy::{
    Action, Attribute, AuthorizationPolicy, Condition, Rule, Text, Values,
};
use naka_api::security::request_authentication::{JwtRule, Keys};
use naka_types::cidr::Cidr;
use naka_types::host::ROOT_NAMESPACE;
use naka_types::labels::Labels;
use naka_types::name::ClusterName;
use naka_types::spiffe::DEFAULT_TRUST_DOMAIN;
use std::sync::Arc;

/// The policies of a workload.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Policies {
    /// What matches is asked about, before all else.
    custom: Vec<Held>,
    authorizer: Option<Authorizer>,
    /// One rule that matches refuses.
    deny: Vec<Held>,
    /// One rule must match, where there is any policy.
    allow: Vec<Held>,
    /// What matches is told of.
    audit: Vec<Held>,
    /// On trial: what these would do is told of.
    trial_deny: Vec<Held>,
    trial_allow: Vec<Held>,
    /// Guards, which look before all else.
    guards: Vec<guard::Held>,
    /// Trust models, which judge before anybody is asked.
    trust: Vec<trust::Held>,
    /// Issuers whose tokens are read before.
    tokens: Vec<Issuer>,
    domains: Domains,
}

/// An issuer with its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Issuer {
    rule: JwtRule,
    /// As JSON, once there are any.
    keys: Option<String>,
}

/// A policy with its name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    name: String,
    policy: AuthorizationPolicy,
}

/// Where rules are to hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct At {
    /// The workload's port.
    pub(crate) port: u16,
    /// Whether requests are seen there.
    pub(crate) http: bool,
    /// Whether labels of callers are known there.
    pub(crate) labels: bool,
    /// Whether their tokens are read.
    pub(crate) tokens: bool,
}

/// Policies that hold for a workload; `own` is what trust models want to know of it. They do not hold at gateways, whose
/// callers are of no zone: there it is `None`.
pub(crate) fn of(
    view: &View<'_>,
    namespace: &str,
    labels: &Labels,
    own: Option<trust::Called<'_>>,
) -> Policies {
    let mut found = Policies::default();
    let mut spaces = vec![namespace];
    if namespace != ROOT_NAMESPACE {
        spaces.push(ROOT_NAMESPACE);
    }
    for space in spaces {
        let world = view.read(Read::AuthorizationPolicies(space.to_owned()));
        let objects = world.policies.get(space).into_iter();
        for object in objects.flat_map(|all| all.iter()) {
            // What is attached to something is so within its own namespace.
            let here = |attached: &Option<Attached>| attached.is_none() || space == namespace;
            if let Some(own) = object.request_authentication()
                && own.holds_for(labels)
                && here(&own.attached)
            {
                found.tokens.extend(own.rules.iter().map(|rule| Issuer {
                    rule: rule.clone(),
                    keys: keys(view, rule),
                }));
            }
            if let Some(own) = object.request_guard()
                && own.holds_for(labels)
                && here(&own.attached)
            {
                found.guards.push(guard::Held {
                    name: format!("{space}/{}", object.meta.name),
                    guard: own.clone(),
                });
            }
            if let (Some(model), Some(own)) = (object.trust_model(), &own)
                && model.holds_for(labels)
            {
                let name = format!("{space}/{}", object.meta.name);
                let held = trust::Held::new(view, name, model, own);
                found.trust.push(held);
            }
            let Some(policy) = object.authorization_policy() else {
                continue;
            };
            if !policy.holds_for(labels) || !here(&policy.attached) {
                continue;
            }
            let held = Held {
                name: format!("ns[{space}]-policy[{}]", object.meta.name),
                policy: policy.clone(),
            };
            let list = match (policy.action, policy.dry_run) {
                (Action::Deny, false) => &mut found.deny,
                (Action::Allow, false) => &mut found.allow,
                (Action::Deny, true) => &mut found.trial_deny,
                (Action::Allow, true) => &mut found.trial_allow,
                // On trial or not, it decides nothing and tells the same.
                (Action::Audit, _) => &mut found.audit,
                (Action::Custom, false) => &mut found.custom,
                (Action::Custom, true) => continue,
            };
            list.push(held);
        }
    }
    // As Istio orders them, whichever object they come from.
    found
        .tokens
        .sort_by(|a, b| a.rule.issuer.cmp(&b.rule.issuer));
    found.tokens.dedup();
    let host = own.map(|own| own.host);
    found.authorizer = authorizer::of(view, &found.custom, namespace, host);
    if !found.is_empty() {
        let world = view.read(Read::Trust);
        found.domains = world.domains.clone();
    }
    found
}

fn keys(view: &View<'_>, rule: &JwtRule) -> Option<String> {
    match &rule.keys {
        Keys::Written(keys) => Some(keys.to_json()),
        Keys::Fetched { uri, .. } => {
            let world = view.read(Read::Keys(uri.as_str().to_owned()));
            world.keys.get(uri.as_str()).map(ToString::to_string)
        }
    }
}

impl Policies {
    /// The cluster of whom they ask, if they ask somebody.
    pub(crate) fn asked(&self) -> Option<&ClusterName> {
        self.authorizer.as_ref()?.cluster()
    }

    /// Of tokens that were taken back, those that an issuer here could have made; `None` where none are read.
    pub(crate) fn revokable(
        &self,
        all: impl FnOnce() -> Arc<Vec<RevokedToken>>,
    ) -> Option<Vec<RevokedToken>> {
        if self.tokens.is_empty() {
            return None;
        }
        let own = |token: &&RevokedToken| {
            let mut issuers = self.tokens.iter();
            issuers.any(|issuer| issuer.rule.issuer == token.issuer)
        };
        Some(all().iter().filter(own).cloned().collect())
    }

    /// Whether nothing is decided and nothing told.
    pub(crate) fn is_empty(&self) -> bool {
        let lists = [
            &self.custom,
            &self.deny,
            &self.allow,
            &self.audit,
            &self.trial_deny,
            &self.trial_allow,
        ];
        self.guards.is_empty() && self.trust.is_empty() && lists.into_iter().all(Vec::is_empty)
    }
}

/// A condition as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Tree {
    /// Holds.
    Always,
    /// Does not hold.
    Never,
    /// All of these hold; never empty.
    All(Vec<Tree>),
    /// One of these holds; never empty.
    Any(Vec<Tree>),
    /// This one does not hold.
    Not(Box<Tree>),
    /// A question to the connection or the request.
    Ask(Question),
}

/// One question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Question {
    /// Whether the peer showed any identity of the mesh.
    Identified,
    /// Its identity, `spiffe://…`.
    Identity(Text),
    /// Its identity by an expression.
    IdentityLike(String),
    /// Its address.
    Peer(Cidr),
    /// The client's address.
    Client(Cidr),
    /// A label of its workload that it was granted.
    Label(String, Text),
    /// Host of the request.
    Host(Text),
    /// Method.
    Method(Text),
    /// A header.
    Header(String, Text),
    /// Path.
    Path(Text),
    /// A claim, and whether a list with such a text counts.
    Claim(Vec<String>, Text, bool),
}

/// A rule as two trees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Compiled {
    pub(crate) name: String,
    pub(crate) who: Tree,
    pub(crate) what: Tree,
}

fn all(trees: impl IntoIterator<Item = Tree>) -> Tree {
    let mut kept = Vec::new();
    for tree in trees {
        match tree {
            Tree::Always => {}
            Tree::Never => return Tree::Never,
            other => kept.push(other),
        }
    }
    match kept.len() {
        0 => Tree::Always,
        1 => kept.remove(0),
        _ => Tree::All(kept),
    }
}

fn any(trees: impl IntoIterator<Item = Tree>) -> Tree {
    let mut kept = Vec::new();
    for tree in trees {
        match tree {
            Tree::Never => {}
            Tree::Always => return Tree::Always,
            other => kept.push(other),
        }
    }
    match kept.len() {
        0 => Tree::Never,
        1 => kept.remove(0),
        _ => Tree::Any(kept),
    }
}

fn not(tree: Tree) -> Tree {
    match tree {
        Tree::Always => Tree::Never,
        Tree::Never => Tree::Always,
        Tree::Not(inner) => *inner,
        other => Tree::Not(Box::new(other)),
    }
}

/// The rules of some policies at a place; those that never match are left out.
fn compiled(held: &[Held], domains: &Domains, at: At) -> Vec<Compiled> {
    let mut out = Vec::new();
    for Held { name, policy } in held {
        // An audit tells of what it cannot know, and somebody is asked about it.
        let denies = policy.action != Action::Allow;
        for (index, rule) in policy.rules.iter().enumerate() {
            let tree = |condition: &Condition| tree(condition, denies, domains, at);
            let (who, what) = sides(rule, tree);
            if who != Tree::Never && what != Tree::Never {
                let name = format!("{name}-rule[{index}]");
                out.push(Compiled { name, who, what });
            }
        }
    }
    out
}

fn sides(rule: &Rule, tree: impl Fn(&Condition) -> Tree) -> (Tree, Tree) {
    let one_of = |sets: &Vec<Vec<Condition>>| match sets.as_slice() {
        [] => Tree::Always,
        sets => any(sets.iter().map(|set| all(set.iter().map(&tree)))),
    };
    let (who, what): (Vec<&Condition>, Vec<&Condition>) = rule
        .when
        .iter()
        .partition(|condition| is_of_caller(&condition.attribute));
    (
        all(std::iter::once(one_of(&rule.from)).chain(who.into_iter().map(&tree))),
        all(std::iter::once(one_of(&rule.to)).chain(what.into_iter().map(&tree))),
    )
}

fn is_of_caller(attribute: &Attribute) -> bool {
    matches!(
        attribute,
        Attribute::Principal
            | Attribute::Namespace
            | Attribute::ServiceAccount
            | Attribute::TrustDomain
            | Attribute::PeerAddress
            | Attribute::ClientAddress
            | Attribute::Label(_)
            | Attribute::RequestPrincipal
            | Attribute::Claim(_)
    )
}

fn tree(condition: &Condition, denies: bool, domains: &Domains, at: At) -> Tree {
    let known = match &condition.attribute {
        Attribute::Unknown(_) => false,
        Attribute::Label(_) => at.labels,
        Attribute::Host | Attribute::Method | Attribute::Path | Attribute::Header(_) => at.http,
        Attribute::RequestPrincipal | Attribute::Claim(_) => at.http && at.tokens,
        _ => true,
    };
    if !known {
        return if denies { Tree::Always } else { Tree::Never };
    }
    let values = match &condition.values {
        Values::Ports(ports) if ports.contains(&at.port) => Tree::Always,
        Values::Ports(_) => Tree::Never,
        Values::Ranges(ranges) => {
            let ask = |range: &Cidr| match condition.attribute {
                Attribute::ClientAddress => Question::Client(*range),
                _ => Question::Peer(*range),
            };
            any(ranges.iter().map(|range| Tree::Ask(ask(range))))
        }
        Values::Texts(texts) if condition.attribute == Attribute::RequestPrincipal => {
            any(texts.iter().map(request_principal))
        }
        Values::Texts(texts) if condition.attribute == Attribute::Principal => {
            let each = texts.iter().flat_map(|text| principal(text, domains));
            any(each.map(Tree::Ask))
        }
        Values::Texts(texts) => any(texts
            .iter()
            .map(|text| Tree::Ask(question(&condition.attribute, text)))),
    };
    if condition.not { not(values) } else { values }
}

/// Identities of tokens are two claims, parted at the last slash, since an issuer may be a URL: so no issuer can pass
/// for another by what it calls its subjects.
fn request_principal(text: &Text) -> Tree {
    let ask =
        |name: &str, text: Text| Tree::Ask(Question::Claim(vec![name.to_owned()], text, false));
    let open = |text: &str, of: fn(String) -> Text| match text {
        "" => Text::Present,
        text => of(text.to_owned()),
    };
    let (issuer, subject) = match text {
        Text::Present => (Text::Present, Text::Present),
        Text::Exact(text) | Text::Template(text) => match text.rsplit_once('/') {
            Some((issuer, subject)) => (
                Text::Exact(issuer.to_owned()),
                Text::Exact(subject.to_owned()),
            ),
            None => return Tree::Never,
        },
        Text::Prefix(text) => match text.rsplit_once('/') {
            Some((issuer, subject)) => {
                (Text::Exact(issuer.to_owned()), open(subject, Text::Prefix))
            }
            None => (Text::Prefix(text.clone()), Text::Present),
        },
        Text::Suffix(text) => match text.rsplit_once('/') {
            Some((issuer, subject)) => {
                (open(issuer, Text::Suffix), Text::Exact(subject.to_owned()))
            }
            None => (Text::Present, Text::Suffix(text.clone())),
        },
    };
    all([ask("iss", issuer), ask("sub", subject)])
}

fn question(attribute: &Attribute, text: &Text) -> Question {
    // Parts of an identity: any text without a slash.
    let part = |text: &Text| match text {
        Text::Exact(text) | Text::Template(text) => escaped(text),
        Text::Prefix(text) => format!("{}[^/]*", escaped(text)),
        Text::Suffix(text) => format!("[^/]*{}", escaped(text)),
        Text::Present => "[^/]+".to_owned(),
    };
    match attribute {
        Attribute::Namespace => {
            Question::IdentityLike(format!("spiffe://[^/]+/ns/{}/sa/[^/]+", part(text)))
        }
        Attribute::ServiceAccount => {
            let (namespace, name) = match text {
                Text::Exact(text) => text.split_once('/').unwrap_or(("", text)),
                _ => ("", ""),
            };
            let (namespace, name) = (escaped(namespace), escaped(name));
            Question::IdentityLike(format!("spiffe://[^/]+/ns/{namespace}/sa/{name}"))
        }
        Attribute::TrustDomain => Question::IdentityLike(format!("spiffe://{}/.*", part(text))),
        Attribute::Label(name) => Question::Label(name.clone(), text.clone()),
        Attribute::Host => Question::Host(text.clone()),
        Attribute::Method => Question::Method(text.clone()),
        Attribute::Header(name) => Question::Header(name.clone(), text.clone()),
        Attribute::Claim(path) => Question::Claim(path.clone(), text.clone(), true),
        // Other attributes never come with texts.
        _ => Question::Path(text.clone()),
    }
}

/// Who a principal of a rule is: under the trust domain and each of its aliases, as in Istio.
fn principal(text: &Text, domains: &Domains) -> Vec<Question> {
    let all = |texts: Vec<String>, of: fn(String) -> Text| -> Vec<Question> {
        let of = |text| Question::Identity(of(text));
        texts.into_iter().map(of).collect()
    };
    match text {
        Text::Present => vec![Question::Identified],
        Text::Exact(text) => all(spiffe(text, domains), Text::Exact),
        Text::Prefix(text) => all(spiffe(text, domains), Text::Prefix),
        // `*-td/ns/a/sa/b`: the end of a trust domain, which the others may not have.
        Text::Suffix(end) => {
            let (part, rest) = end.split_once('/').unwrap_or(("", ""));
            let fits = |domain: &&str| domain.ends_with(part);
            let identity = rest.starts_with("ns/") && !part.is_empty();
            let mut out = vec![Question::Identity(text.clone())];
            if identity && domains.all().any(|domain| fits(&domain)) {
                let others = domains.all().filter(|domain| !fits(domain));
                out.extend(others.map(|domain| {
                    Question::Identity(Text::Exact(format!("spiffe://{domain}/{rest}")))
                }));
            }
            out
        }
        Text::Template(_) => vec![Question::Identity(text.clone())],
    }
}

/// The trust domain `cluster.local` stands for the mesh's own, whatever that is, and each of the mesh's names for all of
/// them. Any other means itself.
fn spiffe(text: &str, domains: &Domains) -> Vec<String> {
    match text.split_once('/') {
        Some((domain, rest)) if domain == DEFAULT_TRUST_DOMAIN || domains.has(domain) => domains
            .all()
            .map(|domain| format!("spiffe://{domain}/{rest}"))
            .collect(),
        _ => vec![format!("spiffe://{text}")],
    }
}

/// A text as an expression that means just that.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        if !letter.is_ascii_alphanumeric() && !"-_/ ".contains(letter) && letter.is_ascii() {
            out.push('\\');
        }
        out.push(letter);
    }
    out
}

#[cfg(test)]
mod tests;

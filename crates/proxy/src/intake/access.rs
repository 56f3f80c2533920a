//! Envoy's RBAC filters: who may call a port of the program.
//!
//! A filter, a principal or a permission that is not known here is an error of the chain that holds it, which is then
//! not served: without it more would get through.

use super::{Error, check, condition, guard, route, token, trust};
use naka_engine::model::{
    Access, AccessFilter, AccessRule, Check, Pattern, RequestGuard, Test, TextCondition, TextRule,
    Tokens, TrustModel, Verdict,
};
use naka_types::cidr::Cidr;
use naka_types::node::PEER_LABELS;
use naka_wire::envoy::config::core::v3::CidrRange;
use naka_wire::envoy::config::listener::v3::{Filter, filter};
use naka_wire::envoy::config::rbac::v3::{
    MetadataSource, Permission, Policy, Principal, Rbac, SourcedMetadata, permission::Rule,
    principal::Identifier, rbac::Action,
};
use naka_wire::envoy::extensions::filters::http::rbac::v3::Rbac as HttpRbac;
use naka_wire::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpFilter, http_filter,
};
use naka_wire::envoy::extensions::filters::network::rbac::v3::Rbac as BytesRbac;
use naka_wire::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;
use naka_wire::envoy::r#type::matcher::v3::{
    PathMatcher, metadata_matcher, path_matcher, value_matcher,
};
use std::sync::Arc;

/// Name of the filters of requests.
pub const HTTP: &str = "envoy.filters.http.rbac";
/// Name of the filters of bytes.
pub const BYTES: &str = "envoy.filters.network.rbac";

/// What filters of requests say.
///
/// # Errors
/// [`Error`] at what cannot be carried out.
pub fn of_requests(
    filters: &[HttpFilter],
    ids: route::Ids<'_>,
) -> Result<Option<Arc<Access>>, Error> {
    let own = filters.iter().filter(|filter| filter.name == HTTP);
    let read = own.map(|filter| {
        let wire = unpacked(filter)?;
        if check::says_what(&wire) {
            return Ok(Vec::new());
        }
        both(wire.shadow_rules.as_ref(), wire.rules.as_ref())
    });
    let tokens = token::of_requests(filters)?;
    let check = check::of_requests(filters, ids)?;
    let own = (guard::of_requests(filters)?, trust::of_requests(filters)?);
    together(read, tokens, check, own)
}

/// A filter of rules of requests.
pub(super) fn unpacked(filter: &HttpFilter) -> Result<HttpRbac, Error> {
    let Some(http_filter::ConfigType::TypedConfig(any)) = &filter.config_type else {
        return Err(Error::at("typed_config", "it is missing"));
    };
    let wire: HttpRbac =
        naka_wire::unpack(any).map_err(|error| Error::at("typed_config", error))?;
    if wire.matcher.is_some() {
        return Err(Error::at("matcher", "not supported"));
    }
    Ok(wire)
}

/// What filters before bytes say; others are somebody else's.
///
/// # Errors
/// [`Error`] at what cannot be carried out.
pub fn of_bytes(filters: &[Filter]) -> Result<Option<Arc<Access>>, Error> {
    let own = filters.iter().filter(|filter| filter.name == BYTES);
    let read = own.map(|filter| {
        let Some(filter::ConfigType::TypedConfig(any)) = &filter.config_type else {
            return Err(Error::at("typed_config", "it is missing"));
        };
        let wire: BytesRbac =
            naka_wire::unpack(any).map_err(|error| Error::at("typed_config", error))?;
        if wire.matcher.is_some() {
            return Err(Error::at("matcher", "not supported"));
        }
        both(wire.shadow_rules.as_ref(), wire.rules.as_ref())
    });
    let own = (guard::of_bytes(filters)?, trust::of_bytes(filters)?);
    together(read, None, None, own)
}

/// A filter's rules on trial, then those in force.
fn both(trial: Option<&Rbac>, rules: Option<&Rbac>) -> Result<Vec<AccessFilter>, Error> {
    let trial = trial.map(|wire| rbac(wire, true));
    let rules = rules.map(|wire| rbac(wire, false));
    trial.into_iter().chain(rules).collect()
}

fn together(
    read: impl Iterator<Item = Result<Vec<AccessFilter>, Error>>,
    tokens: Option<Tokens>,
    check: Option<Check>,
    (guards, trust): (Box<[RequestGuard]>, Box<[TrustModel]>),
) -> Result<Option<Arc<Access>>, Error> {
    let all: Vec<Vec<AccessFilter>> = read
        .collect::<Result<_, _>>()
        .map_err(|error| error.within("rbac"))?;
    let filters: Box<[AccessFilter]> = all.into_iter().flatten().collect();
    let own = !guards.is_empty() || !trust.is_empty();
    let any = !filters.is_empty() || tokens.is_some() || check.is_some() || own;
    let access = Access {
        guards,
        tokens,
        ..Access::new(filters).checked(check).trusting(trust)
    };
    Ok(any.then(|| Arc::new(access)))
}

fn rbac(wire: &Rbac, trial: bool) -> Result<AccessFilter, Error> {
    let verdict = match Action::try_from(wire.action) {
        Ok(Action::Allow) => Verdict::Allow,
        Ok(Action::Deny) => Verdict::Deny,
        Ok(Action::Log) => Verdict::Audit,
        Err(_) => return Err(Error::at("action", "not supported")),
    };
    Ok(AccessFilter {
        verdict,
        trial,
        rules: rules(wire)?,
    })
}

/// Rules in the order of their names.
pub(super) fn rules(wire: &Rbac) -> Result<Box<[AccessRule]>, Error> {
    let read = |(name, policy): (&String, &Policy)| {
        let test = rule(policy).map_err(|error| error.within(&format!("policies[{name:?}]")))?;
        let name = name.as_str().into();
        Ok(AccessRule { name, test })
    };
    let mut rules: Vec<AccessRule> = wire.policies.iter().map(read).collect::<Result<_, _>>()?;
    rules.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(rules.into())
}

fn rule(wire: &Policy) -> Result<Test, Error> {
    for (present, field) in [
        (wire.condition.is_some(), "condition"),
        (wire.checked_condition.is_some(), "checked_condition"),
    ] {
        if present {
            return Err(Error::at(field, "not supported"));
        }
    }
    let who = each(&wire.principals, principal).map_err(|e| e.within("principals"))?;
    let what = each(&wire.permissions, permission).map_err(|e| e.within("permissions"))?;
    // The cheaper side first: identities are one comparison.
    Ok(Test::All(Box::new([Test::Any(who), Test::Any(what)])))
}

fn each<T>(all: &[T], read: impl Fn(&T) -> Result<Test, Error>) -> Result<Box<[Test]>, Error> {
    all.iter().map(read).collect()
}

fn principal(wire: &Principal) -> Result<Test, Error> {
    let missing = || Error::at("identifier", "it is missing");
    Ok(match wire.identifier.as_ref().ok_or_else(missing)? {
        Identifier::AndIds(set) => Test::All(each(&set.ids, principal)?),
        Identifier::OrIds(set) => Test::Any(each(&set.ids, principal)?),
        Identifier::Any(true) => Test::Always,
        Identifier::NotId(inner) => Test::Not(Box::new(principal(inner)?)),
        Identifier::Authenticated(who) => {
            let name = who.principal_name.as_ref().map(condition::string);
            Test::Identity(name.transpose().map_err(|e| e.within("authenticated"))?)
        }
        Identifier::DirectRemoteIp(range) => Test::Peer(cidr(range)?),
        Identifier::RemoteIp(range) => Test::Client(cidr(range)?),
        Identifier::Header(header) => Test::Header(condition::header(header)?),
        Identifier::UrlPath(path) => url_path(path)?,
        Identifier::SourcedMetadata(asked) => {
            metadata(asked).map_err(|e| e.within("sourced_metadata"))?
        }
        _ => return Err(Error::at("identifier", "not supported")),
    })
}

/// A claim of the request's token, or a label of the caller's workload.
fn metadata(wire: &SourcedMetadata) -> Result<Test, Error> {
    if wire.metadata_source != MetadataSource::Dynamic as i32 {
        return Err(Error::at("metadata_source", "not supported"));
    }
    match &wire.metadata_matcher {
        Some(asked) if asked.filter == token::NAME => token::claim(asked).map(Test::Claim),
        _ => label(wire),
    }
}

/// A label of the caller's workload.
fn label(wire: &SourcedMetadata) -> Result<Test, Error> {
    let missing = || Error::at("metadata_matcher", "it is missing");
    let asked = wire.metadata_matcher.as_ref().ok_or_else(missing)?;
    let value = asked.value.as_ref().and_then(|v| v.match_pattern.as_ref());
    match (asked.path.as_slice(), value) {
        ([segment], Some(value_matcher::MatchPattern::StringMatch(text)))
            if asked.filter == PEER_LABELS && !asked.invert =>
        {
            let Some(metadata_matcher::path_segment::Segment::Key(name)) = &segment.segment else {
                return Err(Error::at("path", "it is missing"));
            };
            Ok(Test::Label(name.as_str().into(), condition::string(text)?))
        }
        _ => Err(Error::at("metadata_matcher", "not supported")),
    }
}

pub(super) fn permission(wire: &Permission) -> Result<Test, Error> {
    let missing = || Error::at("rule", "it is missing");
    Ok(match wire.rule.as_ref().ok_or_else(missing)? {
        Rule::AndRules(set) => Test::All(each(&set.rules, permission)?),
        Rule::OrRules(set) => Test::Any(each(&set.rules, permission)?),
        Rule::Any(true) => Test::Always,
        Rule::NotRule(inner) => Test::Not(Box::new(permission(inner)?)),
        Rule::Header(header) => Test::Header(condition::header(header)?),
        Rule::UrlPath(path) => url_path(path)?,
        Rule::UriTemplate(extension) => {
            let missing = || Error::at("uri_template", "it is missing");
            let any = extension.typed_config.as_ref().ok_or_else(missing)?;
            let config: UriTemplateMatchConfig =
                naka_wire::unpack(any).map_err(|error| Error::at("uri_template", error))?;
            template(&config.path_template)?
        }
        _ => return Err(Error::at("rule", "not supported")),
    })
}

fn url_path(wire: &PathMatcher) -> Result<Test, Error> {
    match &wire.rule {
        Some(path_matcher::Rule::Path(text)) => Ok(Test::Path(
            condition::string(text).map_err(|e| e.within("url_path"))?,
        )),
        None => Err(Error::at("url_path", "it is missing")),
    }
}

/// `*` is one segment, `**` what is left, which may be nothing.
fn template(text: &str) -> Result<Test, Error> {
    let segments = text.split('/').map(|segment| match segment {
        "*" => "[^/]+".to_owned(),
        "**" => ".*".to_owned(),
        other => literal(other),
    });
    let regex = segments.collect::<Vec<_>>().join("/");
    let pattern = Pattern::full(&regex).map_err(|error| Error::at("uri_template", error))?;
    Ok(Test::Path(TextCondition::new(TextRule::Regex(pattern))))
}

/// A text as an expression that means just that.
fn literal(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_ascii_punctuation() {
            out.push('\\');
        }
        out.push(letter);
    }
    out
}

fn cidr(wire: &CidrRange) -> Result<Cidr, Error> {
    let length = wire.prefix_len.as_ref().map_or(0, |length| length.value);
    let read = || {
        let address = wire.address_prefix.parse().ok()?;
        Cidr::new(address, u8::try_from(length).ok()?)
    };
    read().ok_or_else(|| Error::at("address_prefix", "not a range of addresses"))
}

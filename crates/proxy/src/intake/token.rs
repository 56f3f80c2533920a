//! Envoy's filter of tokens: whose are taken, and rules on their claims.
//!
//! Taken is the form in which our control plane writes it: one rule for every path, whose requirement is that each
//! issuer's token is sound or missing, or, of some, that it is sound. Anything else is an error of the chain that holds
//! it, as without it more would get through.

use super::{Error, condition};
use http::HeaderName;
use naka_engine::model::{ClaimCondition, ClaimPath, Issuer, TextCondition, TokenPlace, Tokens};
use naka_types::jwk::KeySet;
use naka_wire::envoy::config::core::v3::data_source::Specifier;
use naka_wire::envoy::config::route::v3::route_match::PathSpecifier;
use naka_wire::envoy::extensions::filters::http::jwt_authn::v3::{
    JwtAuthentication, JwtProvider, JwtRequirement, jwt_provider::JwksSourceSpecifier,
    jwt_requirement::RequiresType, requirement_rule::RequirementType,
};
use naka_wire::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpFilter, http_filter,
};
use naka_wire::envoy::r#type::matcher::v3::{
    MetadataMatcher, ValueMatcher, list_matcher, metadata_matcher::path_segment::Segment,
    value_matcher::MatchPattern,
};
use std::sync::Arc;
use std::time::Duration;

/// Name of the filter, and of its metadata.
pub const NAME: &str = "envoy.filters.http.jwt_authn";
const PAYLOAD: &str = "payload";
/// How far clocks may differ where nobody says, as in an Envoy.
const LEEWAY: Duration = Duration::from_secs(60);

/// Whose tokens are read before requests; none: nobody's.
///
/// # Errors
/// [`Error`] at what cannot be carried out.
pub fn of_requests(filters: &[HttpFilter]) -> Result<Option<Tokens>, Error> {
    let mut own = filters.iter().filter(|filter| filter.name == NAME);
    let Some(filter) = own.next() else {
        return Ok(None);
    };
    if own.next().is_some() {
        return Err(Error::at("jwt_authn", "there are two of it"));
    }
    let Some(http_filter::ConfigType::TypedConfig(any)) = &filter.config_type else {
        return Err(Error::at("jwt_authn.typed_config", "it is missing"));
    };
    let wire: JwtAuthentication =
        naka_wire::unpack(any).map_err(|error| Error::at("jwt_authn.typed_config", error))?;
    tokens(&wire)
        .map(Some)
        .map_err(|error| error.within("jwt_authn"))
}

fn tokens(wire: &JwtAuthentication) -> Result<Tokens, Error> {
    let [rule] = wire.rules.as_slice() else {
        return Err(Error::at("rules", "only one is supported"));
    };
    let path = rule
        .r#match
        .as_ref()
        .and_then(|m| m.path_specifier.as_ref());
    if path != Some(&PathSpecifier::Prefix("/".to_owned())) {
        return Err(Error::at(
            "rules[0].match",
            "only the prefix / is supported",
        ));
    }
    if wire.filter_state_rules.is_some() || !wire.bypass_cors_preflight {
        return Err(Error::at(
            "filter_state_rules",
            "only one rule, and preflights aside, is supported",
        ));
    }
    let Some(RequirementType::Requires(requirement)) = &rule.requirement_type else {
        return Err(Error::at("rules[0].requires", "it is missing"));
    };
    let (names, required) = demanded(requirement).ok_or_else(|| {
        Error::at(
            "rules[0].requires",
            "only \"each provider's token is sound or missing\" is supported, and of some that it is there",
        )
    })?;
    let read = |name: &&str| {
        let missing = || Error::at("providers", format!("there is no {name}"));
        let provider = wire.providers.get(*name).ok_or_else(missing)?;
        let issuer = issuer(provider, required.contains(name));
        issuer.map_err(|error| error.within(&format!("providers[{name:?}]")))
    };
    Ok(Tokens {
        issuers: names.iter().map(read).collect::<Result<_, _>>()?,
    })
}

/// Names of the providers of a requirement, and of those whose token must be there: these stand before the part about
/// all of them, the last first.
fn demanded(wire: &JwtRequirement) -> Option<(Vec<&str>, Vec<&str>)> {
    match &wire.requires_type {
        Some(RequiresType::ProviderName(name)) => Some((vec![name], vec![name])),
        Some(RequiresType::RequiresAll(all)) => {
            let (last, first) = all.requirements.split_last()?;
            let mut required: Vec<&str> = first.iter().map(provider_name).collect::<Option<_>>()?;
            if let Some(names) = sound_or_missing(last) {
                let known = required.iter().all(|name| names.contains(name));
                return known.then_some((names, required));
            }
            required.push(provider_name(last)?);
            required.reverse();
            Some((required.clone(), required))
        }
        _ => Some((sound_or_missing(wire)?, Vec::new())),
    }
}

/// Names of the providers of a requirement of Istio's form.
fn sound_or_missing(wire: &JwtRequirement) -> Option<Vec<&str>> {
    let Some(RequiresType::RequiresAny(outer)) = &wire.requires_type else {
        return None;
    };
    let (last, first) = outer.requirements.split_last()?;
    let missing =
        |wire: &JwtRequirement| matches!(wire.requires_type, Some(RequiresType::AllowMissing(_)));
    let names: Vec<&str> = first.iter().map(provider_name).collect::<Option<_>>()?;
    match &last.requires_type {
        Some(RequiresType::AllowMissing(_)) if names.len() == 1 => Some(names),
        Some(RequiresType::RequiresAll(every)) if every.requirements.len() == names.len() => {
            let mut pairs = every.requirements.iter().zip(&names);
            let fits = pairs.all(|(one, wanted)| {
                let Some(RequiresType::RequiresAny(pair)) = &one.requires_type else {
                    return false;
                };
                matches!(
                    pair.requirements.as_slice(),
                    [own, none] if provider_name(own) == Some(*wanted) && missing(none)
                )
            });
            fits.then_some(names)
        }
        _ => None,
    }
}

fn provider_name(wire: &JwtRequirement) -> Option<&str> {
    match &wire.requires_type {
        Some(RequiresType::ProviderName(name)) => Some(name),
        _ => None,
    }
}

fn issuer(wire: &JwtProvider, required: bool) -> Result<Issuer, Error> {
    for (present, field) in [
        (wire.issuer.is_empty(), "issuer"),
        (wire.subjects.is_some(), "subjects"),
        (wire.require_expiration, "require_expiration"),
        (wire.max_lifetime.is_some(), "max_lifetime"),
        (
            wire.pad_forward_payload_header,
            "pad_forward_payload_header",
        ),
        (wire.payload_in_metadata != PAYLOAD, "payload_in_metadata"),
    ] {
        if present {
            return Err(Error::at(field, "not supported so"));
        }
    }
    let header = |name: &str, field: &str| {
        HeaderName::try_from(name).map_err(|_| Error::at(field, "no name of a header"))
    };
    let mut places = Vec::new();
    for from in &wire.from_headers {
        let name = header(&from.name, "from_headers")?;
        places.push(TokenPlace::Header(name, from.value_prefix.as_str().into()));
    }
    let text = |text: &String| Arc::<str>::from(text.as_str());
    places.extend(wire.from_params.iter().map(text).map(TokenPlace::Parameter));
    places.extend(wire.from_cookies.iter().map(text).map(TokenPlace::Cookie));
    if places.is_empty() {
        places = vec![
            TokenPlace::Header(http::header::AUTHORIZATION, "Bearer ".into()),
            TokenPlace::Parameter("access_token".into()),
        ];
    }
    let claims = wire.claim_to_headers.iter().map(|one| {
        if !one.claim_path.is_empty() {
            return Err(Error::at("claim_to_headers.claim_path", "not supported"));
        }
        let path: ClaimPath = one.claim_name.split('.').map(Arc::from).collect();
        Ok((header(&one.header_name, "claim_to_headers")?, path))
    });
    let words = wire.normalize_payload_in_metadata.as_ref();
    let words = words.map(|own| own.space_delimited_claims.iter().map(text).collect());
    Ok(Issuer {
        name: wire.issuer.as_str().into(),
        audiences: wire.audiences.iter().map(text).collect(),
        keys: keys(wire)?,
        places: places.into(),
        forward: wire.forward,
        payload_header: match wire.forward_payload_header.as_str() {
            "" => None,
            name => Some(header(name, "forward_payload_header")?),
        },
        claim_headers: claims.collect::<Result<_, Error>>()?,
        word_lists: words.unwrap_or_default(),
        leeway: match wire.clock_skew_seconds {
            0 => LEEWAY,
            seconds => Duration::from_secs(seconds.into()),
        },
        required,
    })
}

/// A set in which no key can verify is one without keys: its issuer's tokens are refused, and all else goes on.
fn keys(wire: &JwtProvider) -> Result<Option<KeySet>, Error> {
    let Some(JwksSourceSpecifier::LocalJwks(source)) = &wire.jwks_source_specifier else {
        return Err(Error::at("local_jwks", "it is missing"));
    };
    match &source.specifier {
        Some(Specifier::InlineString(text)) => Ok(KeySet::parse(text).ok().map(|(keys, _)| keys)),
        _ => Err(Error::at("local_jwks", "only inline_string is supported")),
    }
}

/// A rule on a claim.
///
/// # Errors
/// [`Error`] when it is about anything else, or of a kind that cannot be carried out.
pub fn claim(wire: &MetadataMatcher) -> Result<ClaimCondition, Error> {
    if wire.invert {
        return Err(Error::at("invert", "not supported"));
    }
    asked(wire)
}

/// A rule of a route on a claim, and whether it must not hold instead.
///
/// # Errors
/// As [`claim`].
pub fn of_route(wire: &MetadataMatcher) -> Result<(ClaimCondition, bool), Error> {
    Ok((asked(wire)?, wire.invert))
}

fn asked(wire: &MetadataMatcher) -> Result<ClaimCondition, Error> {
    if wire.filter != NAME {
        return Err(Error::at("filter", "only claims of tokens are known"));
    }
    let keys: Option<Vec<&str>> = wire
        .path
        .iter()
        .map(|one| one.segment.as_ref().map(|Segment::Key(key)| key.as_str()))
        .collect();
    let keys = keys.unwrap_or_default();
    let [PAYLOAD, path @ ..] = keys.as_slice() else {
        return Err(Error::at("path", "it does not begin with the payload"));
    };
    if path.is_empty() {
        return Err(Error::at("path", "it names no claim"));
    }
    let value = wire.value.as_ref();
    let value = value.ok_or_else(|| Error::at("value", "it is missing"))?;
    let (wanted, lists) = match &value.match_pattern {
        Some(MatchPattern::StringMatch(text)) => (condition::string(text)?, false),
        Some(MatchPattern::OrMatch(or)) => match or.value_matchers.as_slice() {
            [one, list] if listed(list) == Some(one) => (text(one)?, true),
            _ => return Err(Error::at("value", "not supported")),
        },
        _ => return Err(Error::at("value", "not supported")),
    };
    Ok(ClaimCondition {
        path: path.iter().map(|name| Arc::from(*name)).collect(),
        wanted,
        lists,
    })
}

fn text(wire: &ValueMatcher) -> Result<TextCondition, Error> {
    match &wire.match_pattern {
        Some(MatchPattern::StringMatch(text)) => condition::string(text),
        _ => Err(Error::at("value", "not supported")),
    }
}

/// What one item of a list must be.
fn listed(wire: &ValueMatcher) -> Option<&ValueMatcher> {
    match &wire.match_pattern {
        Some(MatchPattern::ListMatch(list)) => match &list.match_pattern {
            Some(list_matcher::MatchPattern::OneOf(one)) => Some(one),
            None => None,
        },
        _ => None,
    }
}

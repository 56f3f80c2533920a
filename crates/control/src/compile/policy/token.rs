//! Issuers of tokens as Envoy's filter, and claims as it keeps them.
//!
//! The requirement is Istio's: a request without a token passes; one with a token passes when its issuer takes it, or,
//! where there are several, when one of them does. Issuers whose token is required (`presence`) come before that, the
//! last first: an Envoy keeps the claims that were proven last, under `payload` of the filter's metadata, and a token
//! that was taken is out of the request, so each of them wants one of its own.

use super::Issuer;
use naka_api::security::request_authentication::TokenPlace;
use naka_wire::envoy::config::core::v3::{DataSource, data_source};
use naka_wire::envoy::config::route::v3::{RouteMatch, route_match::PathSpecifier};
use naka_wire::envoy::extensions::filters::http::jwt_authn::v3::jwt_provider::{
    JwksSourceSpecifier, NormalizePayload,
};
use naka_wire::envoy::extensions::filters::http::jwt_authn::v3::{
    JwtAuthentication, JwtClaimToHeader, JwtHeader, JwtProvider, JwtRequirement,
    JwtRequirementAndList, JwtRequirementOrList, RequirementRule, jwt_requirement::RequiresType,
    requirement_rule::RequirementType,
};
use naka_wire::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpFilter, http_filter,
};
use naka_wire::envoy::r#type::matcher::v3::metadata_matcher::{PathSegment, path_segment::Segment};
use naka_wire::envoy::r#type::matcher::v3::{
    ListMatcher, MetadataMatcher, OrMatcher, StringMatcher, ValueMatcher, list_matcher,
    value_matcher::MatchPattern,
};

/// Type of the filter, and where its metadata stand.
pub(super) const NAME: &str = "envoy.filters.http.jwt_authn";
const PAYLOAD: &str = "payload";
/// Claims that are lists of words by their standards.
const WORD_LISTS: [&str; 2] = ["scope", "permission"];

/// Keys of an issuer before any were fetched, as our own proxies read them: there are none, and a token's refusal says so.
pub(super) const NONE: &str = r#"{"keys":[]}"#;
/// The same for an Envoy, which takes no filter whose set is empty: y = 2 is on no point of the curve, so there is no
/// private half of it, nor any signature that it bears out.
pub(super) const NO_POINT: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","alg":"EdDSA","x":"AgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}]}"#;

/// The filter that reads tokens, where there are issuers; `unknown` stands for keys that there are not yet.
pub(super) fn filter(rules: &[Issuer], unknown: &str) -> Option<HttpFilter> {
    if rules.is_empty() {
        return None;
    }
    let name = |index: usize| format!("origins-{index}");
    let one = |index| requirement(RequiresType::ProviderName(name(index)));
    let or_none = |index| any(vec![one(index), missing()]);
    let indices = 0..rules.len();
    let optional = match rules.len() {
        1 => or_none(0),
        _ => {
            let every = all(indices.clone().map(or_none).collect());
            any(indices.clone().map(one).chain([every]).collect())
        }
    };
    let is_required = |index: &usize| rules[*index].rule.required;
    let mut required: Vec<_> = indices.rev().filter(is_required).map(one).collect();
    let whole = match required.len() {
        0 => optional,
        1 if rules.len() == 1 => one(0),
        count => {
            if count < rules.len() {
                required.push(optional);
            }
            all(required)
        }
    };
    let message = JwtAuthentication {
        providers: rules
            .iter()
            .enumerate()
            .map(|(index, rule)| (name(index), provider(rule, unknown)))
            .collect(),
        rules: vec![RequirementRule {
            r#match: Some(RouteMatch {
                path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
                ..RouteMatch::default()
            }),
            requirement_type: Some(RequirementType::Requires(whole)),
        }],
        bypass_cors_preflight: true,
        ..JwtAuthentication::default()
    };
    Some(HttpFilter {
        name: NAME.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(naka_wire::pack(
            &message,
        ))),
        ..HttpFilter::default()
    })
}

fn requirement(requires: RequiresType) -> JwtRequirement {
    JwtRequirement {
        requires_type: Some(requires),
    }
}

fn any(requirements: Vec<JwtRequirement>) -> JwtRequirement {
    requirement(RequiresType::RequiresAny(JwtRequirementOrList {
        requirements,
    }))
}

fn all(requirements: Vec<JwtRequirement>) -> JwtRequirement {
    requirement(RequiresType::RequiresAll(JwtRequirementAndList {
        requirements,
    }))
}

fn missing() -> JwtRequirement {
    requirement(RequiresType::AllowMissing(
        naka_wire::google::protobuf::Empty::default(),
    ))
}

fn provider(Issuer { rule, keys }: &Issuer, unknown: &str) -> JwtProvider {
    let mut wire = JwtProvider {
        issuer: rule.issuer.clone(),
        audiences: rule.audiences.clone(),
        forward: rule.forward,
        forward_payload_header: rule.payload_header.clone().unwrap_or_default(),
        payload_in_metadata: PAYLOAD.to_owned(),
        normalize_payload_in_metadata: Some(NormalizePayload {
            space_delimited_claims: WORD_LISTS
                .iter()
                .map(|name| (*name).to_owned())
                .chain(rule.word_lists.iter().cloned())
                .collect(),
        }),
        claim_to_headers: rule
            .claim_headers
            .iter()
            .map(|(header, claim)| JwtClaimToHeader {
                header_name: header.clone(),
                claim_name: claim.clone(),
                ..JwtClaimToHeader::default()
            })
            .collect(),
        clear_route_cache: true,
        jwks_source_specifier: Some(JwksSourceSpecifier::LocalJwks(DataSource {
            specifier: Some(data_source::Specifier::InlineString(
                keys.clone().unwrap_or_else(|| unknown.to_owned()),
            )),
            ..DataSource::default()
        })),
        ..JwtProvider::default()
    };
    for place in &rule.places {
        match place {
            TokenPlace::Header(name, prefix) => wire.from_headers.push(JwtHeader {
                name: name.clone(),
                value_prefix: prefix.clone(),
            }),
            TokenPlace::Parameter(name) => wire.from_params.push(name.clone()),
            TokenPlace::Cookie(name) => wire.from_cookies.push(name.clone()),
        }
    }
    wire
}

/// A rule on a claim: a text, or a list with such a text in it.
pub(crate) fn claim(path: &[String], text: StringMatcher, lists: bool) -> MetadataMatcher {
    let segment = |key: &str| PathSegment {
        segment: Some(Segment::Key(key.to_owned())),
    };
    let value = |pattern| ValueMatcher {
        match_pattern: Some(pattern),
    };
    let one = value(MatchPattern::StringMatch(text));
    let wanted = if lists {
        let list = ListMatcher {
            match_pattern: Some(list_matcher::MatchPattern::OneOf(Box::new(one.clone()))),
        };
        let list = value(MatchPattern::ListMatch(Box::new(list)));
        value(MatchPattern::OrMatch(OrMatcher {
            value_matchers: vec![one, list],
        }))
    } else {
        one
    };
    let names = path.iter().map(|name| segment(name));
    MetadataMatcher {
        filter: NAME.to_owned(),
        path: std::iter::once(segment(PAYLOAD)).chain(names).collect(),
        value: Some(wanted),
        ..MetadataMatcher::default()
    }
}

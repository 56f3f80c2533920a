//! Conditions of routes: paths, headers, query parameters.
//!
//! Envoy's meaning, exactly: an absent header satisfies no value condition (unless missing counts as empty), regular
//! expressions match the whole value. A condition of a kind not known here is an error, never "true".

use super::{Error, token};
use naka_engine::model::{
    HeaderCondition, HeaderRule, Match, PathCondition, Pattern, QueryCondition, Subject,
    TextCondition, TextRule,
};
use naka_expr::{Expression, Place, Use};
use naka_types::cidr::Cidr;
use naka_types::node::MADE_TO;
use naka_wire::envoy::config::route::v3::{
    HeaderMatcher, QueryParameterMatcher, RouteMatch, header_matcher::HeaderMatchSpecifier,
    query_parameter_matcher::QueryParameterMatchSpecifier, route_match::PathSpecifier,
};
use naka_wire::envoy::r#type::matcher::v3::{
    FilterStateMatcher, StringMatcher, filter_state_matcher::Matcher, string_matcher::MatchPattern,
};
use naka_wire::envoy::xds::core::v3::CidrRange;
use naka_wire::google::protobuf::Any;
use naka_wire::v1::Condition;
use std::sync::Arc;

/// All conditions of a route.
///
/// # Errors
/// [`Error`] at the condition that cannot be carried out.
pub fn matches(wire: &RouteMatch) -> Result<Match, Error> {
    refuse_unsupported(wire)?;
    let ignore_case = wire.case_sensitive.as_ref().is_some_and(|flag| !flag.value);
    let path = match &wire.path_specifier {
        Some(PathSpecifier::Prefix(prefix)) if prefix.is_empty() => PathCondition::Any,
        Some(PathSpecifier::Prefix(prefix)) => PathCondition::Prefix(prefix.as_str().into()),
        Some(PathSpecifier::Path(path)) => PathCondition::Exact(path.as_str().into()),
        Some(PathSpecifier::PathSeparatedPrefix(prefix)) => PathCondition::separated(prefix)
            .map_err(|error| Error::at("path_separated_prefix", error))?,
        Some(PathSpecifier::SafeRegex(regex)) => PathCondition::Regex(
            Pattern::full(&regex.regex).map_err(|error| Error::at("safe_regex", error))?,
        ),
        Some(PathSpecifier::ConnectMatcher(_)) => {
            return Err(Error::at("connect_matcher", "not supported"));
        }
        Some(PathSpecifier::PathMatchPolicy(_)) => {
            return Err(Error::at("path_match_policy", "not supported"));
        }
        None => return Err(Error::at("path_specifier", "it is missing")),
    };
    let mut found = Match {
        path,
        ignore_case,
        ..Match::default()
    };
    let mut headers = Vec::new();
    for (index, wire) in wire.headers.iter().enumerate() {
        let condition = header(wire).map_err(|e| e.within(&format!("headers[{index}]")))?;
        // Method and authority have places of their own, where the engine knows what a port in an authority means.
        match (condition.subject.clone(), condition.rule.clone()) {
            (Subject::Method, HeaderRule::Value(text))
                if !condition.invert && found.method.is_none() =>
            {
                found.method = Some(text);
            }
            (Subject::Authority, HeaderRule::Value(text))
                if !condition.invert && found.authority.is_none() =>
            {
                found.authority = Some(text);
            }
            _ => headers.push(condition),
        }
    }
    let made_to = wire.filter_state.iter().enumerate().map(|(index, one)| {
        made_to(one).map_err(|error| error.within(&format!("filter_state[{index}]")))
    });
    found.made_to = match made_to.collect::<Result<Vec<_>, _>>()?.as_slice() {
        [] => Box::default(),
        [only] => only.clone(),
        _ => return Err(Error::at("filter_state", "only one is supported")),
    };
    let claims = wire
        .dynamic_metadata
        .iter()
        .enumerate()
        .map(|(index, one)| {
            let place = || format!("dynamic_metadata[{index}]");
            token::of_route(one).map_err(|error| error.within(&place()))
        });
    found.claims = claims.collect::<Result<_, _>>()?;
    found.headers = headers.into();
    found.query = wire
        .query_parameters
        .iter()
        .enumerate()
        .map(|(index, wire)| {
            query(wire).map_err(|e| e.within(&format!("query_parameters[{index}]")))
        })
        .collect::<Result<_, _>>()?;
    Ok(found)
}

/// Addresses that a connection must have been made to.
fn made_to(wire: &FilterStateMatcher) -> Result<Box<[Cidr]>, Error> {
    let Some(Matcher::AddressMatch(addresses)) = &wire.matcher else {
        return Err(Error::at("matcher", "only addresses are supported"));
    };
    if wire.key != MADE_TO || addresses.invert_match {
        return Err(Error::at("key", "this condition is not supported"));
    }
    let range = |range: &CidrRange| {
        let length = range.prefix_len.as_ref().map_or(0, |length| length.value);
        let length = u8::try_from(length).ok()?;
        Cidr::new(range.address_prefix.parse().ok()?, length)
    };
    let all: Option<Box<[Cidr]>> = addresses.ranges.iter().map(range).collect();
    // A condition without a range would hold for everybody here and for nobody at an Envoy.
    let all = all.filter(|all| !all.is_empty());
    all.ok_or_else(|| Error::at("address_match.ranges", "not ranges of addresses"))
}

/// An expression that narrows a route.
///
/// # Errors
/// [`Error`] when it is none that this proxy knows.
pub fn expression(wire: &Any) -> Result<Arc<Expression>, Error> {
    let condition: Condition =
        naka_wire::unpack(wire).map_err(|error| Error::at("condition", error))?;
    Expression::compile(&condition.cel, Use::Condition, Place::Route)
        .map(Arc::new)
        .map_err(|error| Error::at("condition.cel", error))
}

/// Conditions that narrow a route and that we do not have. Without them the route would take more than was meant.
fn refuse_unsupported(wire: &RouteMatch) -> Result<(), Error> {
    for (present, field) in [
        (wire.runtime_fraction.is_some(), "runtime_fraction"),
        (!wire.cookies.is_empty(), "cookies"),
        (wire.grpc.is_some(), "grpc"),
        (wire.tls_context.is_some(), "tls_context"),
    ] {
        if present {
            return Err(Error::at(field, "this condition is not supported"));
        }
    }
    Ok(())
}

/// A condition on a header.
///
/// # Errors
/// [`Error`] when its kind or its pattern cannot be carried out.
#[expect(
    deprecated,
    reason = "older control planes still write the older forms"
)]
pub fn header(wire: &HeaderMatcher) -> Result<HeaderCondition, Error> {
    let subject = Subject::parse(&wire.name).map_err(|error| Error::at("name", error))?;
    let text = |rule: TextRule| HeaderRule::Value(TextCondition::new(rule));
    let mut invert = wire.invert_match;
    let rule = match &wire.header_match_specifier {
        None | Some(HeaderMatchSpecifier::PresentMatch(true)) => HeaderRule::Present,
        Some(HeaderMatchSpecifier::PresentMatch(false)) => {
            invert = !invert;
            HeaderRule::Present
        }
        Some(HeaderMatchSpecifier::StringMatch(matcher)) => {
            HeaderRule::Value(string(matcher).map_err(|e| e.within("string_match"))?)
        }
        Some(HeaderMatchSpecifier::ExactMatch(want)) => text(TextRule::Exact(want.as_str().into())),
        Some(HeaderMatchSpecifier::PrefixMatch(want)) => {
            text(TextRule::Prefix(want.as_str().into()))
        }
        Some(HeaderMatchSpecifier::SuffixMatch(want)) => {
            text(TextRule::Suffix(want.as_str().into()))
        }
        Some(HeaderMatchSpecifier::ContainsMatch(want)) => {
            text(TextRule::Contains(want.as_str().into()))
        }
        Some(HeaderMatchSpecifier::SafeRegexMatch(regex)) => text(TextRule::Regex(
            Pattern::full(&regex.regex).map_err(|e| Error::at("safe_regex_match", e))?,
        )),
        Some(HeaderMatchSpecifier::RangeMatch(_)) => {
            return Err(Error::at("range_match", "not supported"));
        }
    };
    let mut condition = HeaderCondition::new(subject, rule);
    condition.invert = invert;
    condition.missing_is_empty = wire.treat_missing_header_as_empty;
    Ok(condition)
}

fn query(wire: &QueryParameterMatcher) -> Result<QueryCondition, Error> {
    let value = match &wire.query_parameter_match_specifier {
        None | Some(QueryParameterMatchSpecifier::PresentMatch(true)) => None,
        Some(QueryParameterMatchSpecifier::PresentMatch(false)) => {
            return Err(Error::at("present_match", "absence is not supported"));
        }
        Some(QueryParameterMatchSpecifier::StringMatch(matcher)) => {
            Some(string(matcher).map_err(|e| e.within("string_match"))?)
        }
    };
    Ok(QueryCondition {
        name: wire.name.as_str().into(),
        value,
    })
}

/// A rule on a text.
///
/// # Errors
/// [`Error`] when its kind or its pattern cannot be carried out.
pub fn string(wire: &StringMatcher) -> Result<TextCondition, Error> {
    let rule = match &wire.match_pattern {
        Some(MatchPattern::Exact(want)) => TextRule::Exact(want.as_str().into()),
        Some(MatchPattern::Prefix(want)) => TextRule::Prefix(want.as_str().into()),
        Some(MatchPattern::Suffix(want)) => TextRule::Suffix(want.as_str().into()),
        Some(MatchPattern::Contains(want)) => TextRule::Contains(want.as_str().into()),
        Some(MatchPattern::SafeRegex(regex)) => TextRule::Regex(
            Pattern::full(&regex.regex).map_err(|error| Error::at("safe_regex", error))?,
        ),
        Some(MatchPattern::Custom(_)) => return Err(Error::at("custom", "not supported")),
        None => return Err(Error::at("match_pattern", "it is missing")),
    };
    Ok(TextCondition {
        rule,
        ignore_case: wire.ignore_case,
    })
}

#[cfg(test)]
mod tests {
    use super::made_to;
    use naka_types::node::MADE_TO;
    use naka_wire::envoy::r#type::matcher::v3::{
        AddressMatcher, FilterStateMatcher, StringMatcher, filter_state_matcher::Matcher,
    };
    use naka_wire::envoy::xds::core::v3::CidrRange;
    use naka_wire::google::protobuf::UInt32Value;

    #[test]
    fn what_is_asked_of_an_address_is_read_whole_or_refused() {
        let range = |prefix: &str, length: u32| CidrRange {
            address_prefix: prefix.to_owned(),
            prefix_len: Some(UInt32Value { value: length }),
        };
        let addresses = |ranges: Vec<CidrRange>, invert_match| {
            Some(Matcher::AddressMatch(AddressMatcher {
                ranges,
                invert_match,
            }))
        };
        let read = |key: &str, matcher| {
            let key = key.to_owned();
            made_to(&FilterStateMatcher { key, matcher })
        };
        let one = vec![range("10.0.0.0", 8), range("2001:db8::", 32)];
        let all = read(MADE_TO, addresses(one.clone(), false)).unwrap();
        let all: Vec<String> = all.iter().map(ToString::to_string).collect();
        assert_eq!(all, ["10.0.0.0/8", "2001:db8::/32"]);
        for (key, matcher) in [
            ("other", addresses(one.clone(), false)),
            (MADE_TO, addresses(one, true)),
            (MADE_TO, addresses(vec![], false)),
            (MADE_TO, addresses(vec![range("10.0.0.0", 33)], false)),
            (MADE_TO, addresses(vec![range("ten", 8)], false)),
            (
                MADE_TO,
                Some(Matcher::StringMatch(StringMatcher::default())),
            ),
            (MADE_TO, None),
        ] {
            assert!(read(key, matcher.clone()).is_err(), "{key} {matcher:?}");
        }
    }
}

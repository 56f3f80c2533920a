//! A route model as Envoy's messages. One message per alternative match, all with the route's name.

use super::{Model, ModelAction, Share, policies, retries::retries};
use crate::compile::{limit, policy};
use naka_api::networking::virtual_service::{
    HeaderOps, HttpMatch, Redirect, Rewrite, StringMatch, claim_path,
};
use naka_types::cidr::Cidr;
use naka_types::node::{CONDITION, MADE_TO};
use naka_wire::envoy::config::core::v3::{
    DataSource, HeaderValue, HeaderValueOption, Metadata, data_source,
    header_value_option::HeaderAppendAction,
};
use naka_wire::envoy::config::route::v3::{
    DirectResponseAction, HeaderMatcher, QueryParameterMatcher, RedirectAction, Route, RouteAction,
    RouteMatch, WeightedCluster, header_matcher, query_parameter_matcher, redirect_action, route,
    route_action, route_match,
    weighted_cluster::{ClusterWeight, cluster_weight},
};
use naka_wire::envoy::r#type::matcher::v3::{
    AddressMatcher, FilterStateMatcher, MetadataMatcher, RegexMatchAndSubstitute, RegexMatcher,
    StringMatcher, filter_state_matcher, string_matcher::MatchPattern,
};
use naka_wire::envoy::xds::core::v3::CidrRange;
use naka_wire::google::protobuf::{Any, BoolValue, UInt32Value};
use naka_wire::v1::Condition;
use naka_wire::{time, values};
use std::collections::HashMap;
use std::time::Duration;

/// The messages of a route.
pub(crate) fn messages(model: &Model) -> Vec<Route> {
    let everything = [HttpMatch::default()];
    let matches = if model.matches.is_empty() {
        &everything[..]
    } else {
        &model.matches
    };
    matches
        .iter()
        .map(|wanted| message(model, wanted))
        .collect()
}

fn message(model: &Model, wanted: &HttpMatch) -> Route {
    let action = match &model.action {
        ModelAction::Clusters(shares) => route::Action::Route(forward(model, wanted, shares)),
        ModelAction::Redirect(redirect, port) => {
            route::Action::Redirect(redirection(redirect, *port))
        }
        ModelAction::Direct(status, body) => {
            let specifier = data_source::Specifier::InlineBytes(body.clone());
            route::Action::DirectResponse(DirectResponseAction {
                status: u32::from(*status),
                body: (!body.is_empty()).then(|| DataSource {
                    specifier: Some(specifier),
                    ..DataSource::default()
                }),
                ..DirectResponseAction::default()
            })
        }
    };
    let request = &model.headers.request;
    let response = &model.headers.response;
    // As in Istio: a match says its name after the route's.
    let name = match &wanted.name {
        Some(own) => format!("{}.{own}", model.name),
        None => model.name.clone(),
    };
    Route {
        name,
        r#match: Some(RouteMatch {
            filter_state: made_to(&model.destinations),
            ..condition(wanted)
        }),
        metadata: model.origin.as_ref().map(origin),
        request_headers_to_add: additions(request),
        request_headers_to_remove: request.remove.clone(),
        response_headers_to_add: additions(response),
        response_headers_to_remove: response.remove.clone(),
        action: Some(action),
        typed_per_filter_config: own(model)
            .into_iter()
            .chain(policies::per_filter(
                model.fault.as_ref(),
                model.cors.as_ref(),
            ))
            .collect(),
        stat_prefix: wanted.stat_prefix.clone().unwrap_or_default(),
        ..Route::default()
    }
}

/// What only our own proxies understand; the Envoy compile takes it out again.
fn own(model: &Model) -> HashMap<String, Any> {
    let condition = model.when.iter().map(|when| own_condition(when));
    condition.chain(limit::entry(&model.limits)).collect()
}

/// An expression, where a proxy that does not know it refuses the whole route.
fn own_condition(cel: &str) -> (String, Any) {
    let condition = Condition {
        cel: cel.to_owned(),
    };
    (CONDITION.to_owned(), naka_wire::pack(&condition))
}

fn origin((namespace, name): &(String, String)) -> Metadata {
    let path =
        format!("/apis/networking.istio.io/v1/namespaces/{namespace}/virtual-service/{name}");
    values::metadata([("istio", values::string_struct([("config", path)]))])
}

/// Where a connection must have been made to: a condition of Envoy's that older proxies refuse with the whole route.
fn made_to(all: &[Cidr]) -> Vec<FilterStateMatcher> {
    let range = |one: &Cidr| CidrRange {
        address_prefix: one.address().to_string(),
        prefix_len: Some(UInt32Value {
            value: u32::from(one.length()),
        }),
    };
    let matcher = FilterStateMatcher {
        key: MADE_TO.to_owned(),
        matcher: Some(filter_state_matcher::Matcher::AddressMatch(
            AddressMatcher {
                ranges: all.iter().map(range).collect(),
                ..AddressMatcher::default()
            },
        )),
    };
    if all.is_empty() {
        Vec::new()
    } else {
        vec![matcher]
    }
}

fn condition(wanted: &HttpMatch) -> RouteMatch {
    use route_match::PathSpecifier;
    let path = match &wanted.uri {
        None | Some(StringMatch::Present) => PathSpecifier::Prefix("/".to_owned()),
        Some(StringMatch::Exact(path)) => PathSpecifier::Path(path.clone()),
        Some(StringMatch::Prefix(prefix)) => PathSpecifier::Prefix(prefix.clone()),
        Some(StringMatch::Regex(regex)) => PathSpecifier::SafeRegex(pattern(regex)),
    };
    let pseudo = [
        (":scheme", &wanted.scheme),
        (":method", &wanted.method),
        (":authority", &wanted.authority),
    ];
    let claims = |all: &[(String, StringMatch)], invert: bool| {
        let asked = all.iter().filter_map(|(name, value)| {
            let path: Vec<String> = claim_path(name)?.into_iter().map(str::to_owned).collect();
            // Any text at all, where the claim only has to be there.
            let wanted = text(value).unwrap_or_else(|| StringMatcher {
                match_pattern: Some(MatchPattern::SafeRegex(pattern(".*"))),
                ..StringMatcher::default()
            });
            Some(MetadataMatcher {
                invert,
                ..policy::claim(&path, wanted, true)
            })
        });
        asked.collect::<Vec<_>>()
    };
    let dynamic_metadata = [
        claims(&wanted.headers, false),
        claims(&wanted.without_headers, true),
    ]
    .concat();
    let is_header = |(name, _): &&(String, StringMatch)| claim_path(name).is_none();
    let headers = pseudo
        .into_iter()
        .filter_map(|(name, value)| Some(header(name, value.as_ref()?)))
        .chain(
            wanted
                .headers
                .iter()
                .filter(is_header)
                .map(|(name, value)| header(name, value)),
        )
        .chain(
            wanted
                .without_headers
                .iter()
                .filter(is_header)
                .map(|(name, value)| HeaderMatcher {
                    invert_match: true,
                    // A header that is not there does not have the value.
                    treat_missing_header_as_empty: *value != StringMatch::Present,
                    ..header(name, value)
                }),
        )
        .collect();
    let query_parameters = wanted
        .query_params
        .iter()
        .map(|(name, value)| {
            use query_parameter_matcher::QueryParameterMatchSpecifier as Specifier;
            QueryParameterMatcher {
                name: name.clone(),
                query_parameter_match_specifier: Some(match text(value) {
                    None => Specifier::PresentMatch(true),
                    Some(matcher) => Specifier::StringMatch(matcher),
                }),
            }
        })
        .collect();
    RouteMatch {
        path_specifier: Some(path),
        case_sensitive: wanted.ignore_uri_case.then_some(BoolValue { value: false }),
        headers,
        query_parameters,
        dynamic_metadata,
        ..RouteMatch::default()
    }
}

fn header(name: &str, value: &StringMatch) -> HeaderMatcher {
    use header_matcher::HeaderMatchSpecifier as Specifier;
    HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(match text(value) {
            None => Specifier::PresentMatch(true),
            Some(matcher) => Specifier::StringMatch(matcher),
        }),
        ..HeaderMatcher::default()
    }
}

/// `None`: any value will do.
pub(super) fn text(value: &StringMatch) -> Option<StringMatcher> {
    let pattern = match value {
        StringMatch::Present => return None,
        StringMatch::Exact(text) => MatchPattern::Exact(text.clone()),
        StringMatch::Prefix(text) => MatchPattern::Prefix(text.clone()),
        StringMatch::Regex(regex) => MatchPattern::SafeRegex(pattern(regex)),
    };
    Some(StringMatcher {
        match_pattern: Some(pattern),
        ..StringMatcher::default()
    })
}

fn pattern(regex: &str) -> RegexMatcher {
    RegexMatcher {
        regex: regex.to_owned(),
        ..RegexMatcher::default()
    }
}

fn forward(model: &Model, wanted: &HttpMatch, shares: &[Share]) -> RouteAction {
    use route_action::{ClusterSpecifier, HostRewriteSpecifier};
    let specifier = match shares {
        [only] if only.headers == Default::default() => {
            ClusterSpecifier::Cluster(only.cluster.to_string())
        }
        _ => ClusterSpecifier::WeightedClusters(WeightedCluster {
            clusters: shares.iter().map(weighted).collect(),
            ..WeightedCluster::default()
        }),
    };
    let mut action = RouteAction {
        cluster_specifier: Some(specifier),
        // Said in any case: Envoy's own default is 15 s, Istio's is none.
        timeout: Some(time::to_wire(model.timeout.unwrap_or(Duration::ZERO))),
        retry_policy: retries(model.retries.as_ref()),
        request_mirror_policies: policies::mirrors(&model.mirrors),
        ..RouteAction::default()
    };
    bound_by_deadline(&mut action);
    if let Some(rewrite) = &model.rewrite {
        rewritten(&mut action, rewrite, wanted);
    }
    if let Some(value) = host_of(&model.headers.request) {
        action.host_rewrite_specifier =
            Some(HostRewriteSpecifier::HostRewriteLiteral(value.clone()));
    }
    action
}

/// A gRPC caller's own deadline bounds its call, as our own proxies do it; the route's timeout is the most.
#[expect(
    deprecated,
    reason = "its successor ends streams by another rule, without telling the endpoint its time"
)]
fn bound_by_deadline(action: &mut RouteAction) {
    action.max_grpc_timeout.clone_from(&action.timeout);
}

fn rewritten(action: &mut RouteAction, rewrite: &Rewrite, wanted: &HttpMatch) {
    if let Some((regex, substitution)) = &rewrite.uri_regex {
        action.regex_rewrite = Some(RegexMatchAndSubstitute {
            pattern: Some(pattern(regex)),
            substitution: substitution.clone(),
        });
    } else if let Some(uri) = &rewrite.uri {
        if matches!(wanted.uri, Some(StringMatch::Regex(_))) {
            // A regular expression has no prefix to replace: the whole path goes.
            action.regex_rewrite = Some(RegexMatchAndSubstitute {
                pattern: Some(pattern("^.*$")),
                substitution: uri.replace('\\', r"\\"),
            });
        } else {
            action.prefix_rewrite.clone_from(uri);
        }
    }
    if let Some(authority) = &rewrite.authority {
        action.host_rewrite_specifier = Some(
            route_action::HostRewriteSpecifier::HostRewriteLiteral(authority.clone()),
        );
    }
}

fn weighted(share: &Share) -> ClusterWeight {
    let request = &share.headers.request;
    let response = &share.headers.response;
    ClusterWeight {
        name: share.cluster.to_string(),
        weight: Some(UInt32Value {
            value: share.weight,
        }),
        request_headers_to_add: additions(request),
        request_headers_to_remove: request.remove.clone(),
        response_headers_to_add: additions(response),
        response_headers_to_remove: response.remove.clone(),
        host_rewrite_specifier: host_of(request)
            .cloned()
            .map(cluster_weight::HostRewriteSpecifier::HostRewriteLiteral),
        ..ClusterWeight::default()
    }
}

/// The host that header operations ask for: to set it is to rewrite it, as in Istio; `set` counts before `add`.
fn host_of(ops: &HeaderOps) -> Option<&String> {
    let named = ops.set.iter().chain(&ops.add);
    let mut hosts = named.filter(|(name, _)| is_host(name));
    hosts.next().map(|(_, value)| value)
}

fn is_host(name: &str) -> bool {
    name.eq_ignore_ascii_case("host") || name == ":authority"
}

fn additions(ops: &HeaderOps) -> Vec<HeaderValueOption> {
    let option = |key: &String, value: &String, action: HeaderAppendAction| HeaderValueOption {
        header: Some(HeaderValue {
            key: key.clone(),
            value: value.clone(),
            ..HeaderValue::default()
        }),
        append_action: action as i32,
        ..HeaderValueOption::default()
    };
    let set = ops
        .set
        .iter()
        .filter(|(key, _)| !is_host(key))
        .map(|(key, value)| option(key, value, HeaderAppendAction::OverwriteIfExistsOrAdd));
    let add = ops
        .add
        .iter()
        .filter(|(key, _)| !is_host(key))
        .map(|(key, value)| option(key, value, HeaderAppendAction::AppendIfExistsOrAdd));
    set.chain(add).collect()
}

fn redirection(redirect: &Redirect, port: u16) -> RedirectAction {
    use redirect_action::{
        PathRewriteSpecifier, RedirectResponseCode as Code, SchemeRewriteSpecifier,
    };
    let code = match redirect.code {
        302 => Code::Found,
        303 => Code::SeeOther,
        307 => Code::TemporaryRedirect,
        308 => Code::PermanentRedirect,
        _ => Code::MovedPermanently,
    };
    let path = match (&redirect.uri, &redirect.prefix) {
        (Some(uri), _) => Some(PathRewriteSpecifier::PathRedirect(uri.clone())),
        (None, Some(prefix)) => Some(PathRewriteSpecifier::PrefixRewrite(prefix.clone())),
        (None, None) => None,
    };
    RedirectAction {
        host_redirect: redirect.authority.clone().unwrap_or_default(),
        port_redirect: u32::from(port),
        response_code: code as i32,
        scheme_rewrite_specifier: redirect
            .scheme
            .clone()
            .map(SchemeRewriteSpecifier::SchemeRedirect),
        path_rewrite_specifier: path,
        ..RedirectAction::default()
    }
}

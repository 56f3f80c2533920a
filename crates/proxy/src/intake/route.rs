//! Virtual hosts and routes.

use super::{Error, Taken, condition, extras, headers, limit};
use bytes::Bytes;
use http::HeaderValue;
use naka_engine::model::{
    Action, ClusterId, Direct, Forward, PathRewrite, Pattern, Redirect, RetryOn, RetryPolicy,
    Route, VirtualHost, WeightedCluster,
};
use naka_types::name::VirtualHostName;
use naka_types::node::{CONDITION, LIMIT};
use naka_wire::envoy::config::core::v3::data_source::Specifier;
use naka_wire::envoy::config::route::v3 as pb;
use naka_wire::envoy::config::route::v3::{
    redirect_action, route as route_pb, route_action, weighted_cluster::cluster_weight,
};
use naka_wire::envoy::r#type::matcher::v3::RegexMatchAndSubstitute;
use naka_wire::google::protobuf;
use naka_wire::{time, values};
use std::sync::Arc;
use std::time::Duration;

/// Envoy's own, for routes that say nothing. A control plane of ours always says something.
const ENVOY_TIMEOUT: Duration = Duration::from_secs(15);
/// What our control plane writes when the user wrote nothing: the engine's own safe default takes its place, which
/// also repeats idempotent requests.
const SAFE_DEFAULT: &str = "connect-failure,refused-stream,reset-before-request";

/// Gives every cluster name its number.
pub type Ids<'a> = &'a mut dyn FnMut(&str) -> ClusterId;

/// A virtual host. `port` is the gateway's; a sidecar's is in the name (`<port>/<host>:<port>`).
///
/// # Errors
/// [`Error`] when the virtual host is unsound as a whole.
pub fn virtual_host(
    wire: &pb::VirtualHost,
    port: Option<u16>,
    ids: Ids<'_>,
) -> Result<Taken<VirtualHost>, Error> {
    let port = match port {
        Some(port) => port,
        None => VirtualHostName::parse(&wire.name)
            .map(|name| name.port)
            .ok_or_else(|| Error::at("name", "it is not <port>/<host>:<port>"))?,
    };
    for (present, field) in [
        (wire.require_tls != 0, "require_tls"),
        (wire.matcher.is_some(), "matcher"),
        (!wire.rate_limits.is_empty(), "rate_limits"),
        (
            !wire.typed_per_filter_config.is_empty(),
            "typed_per_filter_config",
        ),
        (!wire.route_specifiers.is_empty(), "route_specifiers"),
        (
            !wire.request_mirror_policies.is_empty(),
            "request_mirror_policies",
        ),
        (
            !wire.request_headers_to_add.is_empty() || !wire.request_headers_to_remove.is_empty(),
            "request_headers",
        ),
        (
            !wire.response_headers_to_add.is_empty() || !wire.response_headers_to_remove.is_empty(),
            "response_headers",
        ),
    ] {
        if present {
            return Err(Error::at(field, "not supported on a virtual host"));
        }
    }
    if let Some(index) = wire.domains.iter().position(|domain| !sound_domain(domain)) {
        return Err(Error::at(
            format!("domains[{index}]"),
            "not a host or *.suffix",
        ));
    }
    let mut left_out = Vec::new();
    let mut routes = Vec::with_capacity(wire.routes.len());
    for (index, wire) in wire.routes.iter().enumerate() {
        match route(wire, ids) {
            Ok(route) => routes.push(Arc::new(route)),
            Err(error) => left_out.push(error.within(&format!("routes[{index}]"))),
        }
    }
    let model = VirtualHost {
        name: wire.name.as_str().into(),
        port,
        domains: wire.domains.iter().map(|d| Arc::from(d.as_str())).collect(),
        routes: routes.into(),
    };
    Ok(Taken { model, left_out })
}

/// Exact, `*suffix` or `*`; Envoy's `prefix.*` is not understood by the engine.
fn sound_domain(domain: &str) -> bool {
    !domain.is_empty() && domain.rfind('*').is_none_or(|at| at == 0)
}

fn route(wire: &pb::Route, ids: Ids<'_>) -> Result<Route, Error> {
    if !wire.route_specifiers.is_empty() {
        return Err(Error::at("route_specifiers", "not supported"));
    }
    let wanted = wire
        .r#match
        .as_ref()
        .ok_or_else(|| Error::at("match", "it is missing"))?;
    let mut matches = condition::matches(wanted).map_err(|e| e.within("match"))?;
    matches.when = wire
        .typed_per_filter_config
        .get(CONDITION)
        .map(condition::expression)
        .transpose()
        .map_err(|e| e.within("typed_per_filter_config"))?;
    let limit = wire.typed_per_filter_config.get(LIMIT);
    let limit = limit
        .map(limit::limit)
        .transpose()
        .map_err(|e| e.within("typed_per_filter_config"))?;
    let action = match &wire.action {
        Some(route_pb::Action::Route(action)) => {
            Action::Forward(forward(action, ids).map_err(|e| e.within("route"))?)
        }
        Some(route_pb::Action::Redirect(action)) => {
            Action::Redirect(redirect(action).map_err(|e| e.within("redirect"))?)
        }
        Some(route_pb::Action::DirectResponse(action)) => {
            Action::Direct(direct(action).map_err(|e| e.within("direct_response"))?)
        }
        Some(route_pb::Action::FilterAction(_) | route_pb::Action::NonForwardingAction(_))
        | None => {
            return Err(Error::at(
                "action",
                "it is missing or of a kind not supported",
            ));
        }
    };
    let config = values::of_metadata(wire.metadata.as_ref(), "istio")
        .and_then(|istio| values::get_str(istio, "config"))
        .map(Arc::from);
    Ok(Route {
        name: wire.name.as_str().into(),
        config,
        matches,
        action,
        request_headers: headers::edits(
            &wire.request_headers_to_add,
            &wire.request_headers_to_remove,
            "request_headers",
        )?,
        response_headers: headers::edits(
            &wire.response_headers_to_add,
            &wire.response_headers_to_remove,
            "response_headers",
        )?,
        limit,
        extras: extras::extras(wire)?,
    })
}

fn forward(wire: &pb::RouteAction, ids: Ids<'_>) -> Result<Forward, Error> {
    for (present, field) in [
        (wire.metadata_match.is_some(), "metadata_match"),
        (wire.path_rewrite_policy.is_some(), "path_rewrite_policy"),
        (!wire.path_rewrite.is_empty(), "path_rewrite"),
        (
            wire.retry_policy_typed_config.is_some(),
            "retry_policy_typed_config",
        ),
        (!wire.rate_limits.is_empty(), "rate_limits"),
        (
            wire.internal_redirect_policy.is_some(),
            "internal_redirect_policy",
        ),
        (wire.max_stream_duration.is_some(), "max_stream_duration"),
    ] {
        if present {
            return Err(Error::at(field, "not supported"));
        }
    }
    let mut forward = Forward::new(clusters(wire, ids)?)
        .map_err(|error| Error::at("weighted_clusters", error))?;
    forward.timeout = match &wire.timeout {
        None => Some(ENVOY_TIMEOUT),
        Some(_) => limit(wire.timeout.as_ref(), "timeout")?,
    };
    forward.idle_timeout = limit(wire.idle_timeout.as_ref(), "idle_timeout")?;
    forward.retry = wire
        .retry_policy
        .as_ref()
        .map_or(Ok(RetryPolicy::off()), retry)?;
    forward.path_rewrite = match (&wire.regex_rewrite, wire.prefix_rewrite.as_str()) {
        (Some(regex), _) => Some(regex_rewrite(regex, "regex_rewrite")?),
        (None, "") => None,
        (None, prefix) => Some(PathRewrite::Prefix(prefix.into())),
    };
    forward.host_rewrite = match &wire.host_rewrite_specifier {
        None => None,
        Some(route_action::HostRewriteSpecifier::HostRewriteLiteral(host)) => {
            Some(authority(host, "host_rewrite_literal")?)
        }
        Some(_) => {
            return Err(Error::at(
                "host_rewrite_specifier",
                "only a literal is supported",
            ));
        }
    };
    forward.mirrors = extras::mirrors(&wire.request_mirror_policies, ids)?;
    Ok(forward)
}

fn clusters(wire: &pb::RouteAction, ids: Ids<'_>) -> Result<Vec<WeightedCluster>, Error> {
    match &wire.cluster_specifier {
        Some(route_action::ClusterSpecifier::Cluster(name)) => {
            Ok(vec![WeightedCluster::new(ids(name), name, 1)])
        }
        Some(route_action::ClusterSpecifier::WeightedClusters(weighted)) => weighted
            .clusters
            .iter()
            .enumerate()
            .map(|(index, wire)| {
                share(wire, ids)
                    .map_err(|e| e.within(&format!("weighted_clusters.clusters[{index}]")))
            })
            .collect(),
        _ => Err(Error::at(
            "cluster_specifier",
            "only names and weighted names are supported",
        )),
    }
}

fn share(
    wire: &pb::weighted_cluster::ClusterWeight,
    ids: Ids<'_>,
) -> Result<WeightedCluster, Error> {
    if wire.name.is_empty() {
        return Err(Error::at("name", "it is missing"));
    }
    if wire.metadata_match.is_some() || !wire.typed_per_filter_config.is_empty() {
        return Err(Error::at("metadata_match", "not supported"));
    }
    let weight = wire.weight.as_ref().map_or(0, |weight| weight.value);
    let mut share = WeightedCluster::new(ids(&wire.name), &wire.name, weight);
    share.request_headers = headers::edits(
        &wire.request_headers_to_add,
        &wire.request_headers_to_remove,
        "request_headers",
    )?;
    share.response_headers = headers::edits(
        &wire.response_headers_to_add,
        &wire.response_headers_to_remove,
        "response_headers",
    )?;
    if let Some(cluster_weight::HostRewriteSpecifier::HostRewriteLiteral(host)) =
        &wire.host_rewrite_specifier
    {
        share.host_rewrite = Some(authority(host, "host_rewrite_literal")?);
    }
    Ok(share)
}

fn authority(host: &str, field: &str) -> Result<HeaderValue, Error> {
    HeaderValue::from_str(host).map_err(|_| Error::at(field, "not a host"))
}

/// A time limit; zero and absence mean none.
fn limit(wire: Option<&protobuf::Duration>, field: &str) -> Result<Option<Duration>, Error> {
    let Some(wire) = wire else {
        return Ok(None);
    };
    let duration = time::from_wire(wire).ok_or_else(|| Error::at(field, "not a duration"))?;
    Ok((!duration.is_zero()).then_some(duration))
}

fn retry(wire: &pb::RetryPolicy) -> Result<RetryPolicy, Error> {
    // Envoy's default is one retry.
    let retries = wire.num_retries.as_ref().map_or(1, |n| n.value);
    if wire.retry_on == SAFE_DEFAULT && retries == 2 && wire.per_try_timeout.is_none() {
        return Ok(RetryPolicy::default());
    }
    // Words we do not know mean fewer retries, which is safe.
    let (mut policy, unknown) = RetryPolicy::explicit(&wire.retry_on, retries);
    if !unknown.is_empty() {
        tracing::debug!(?unknown, "retry conditions not supported; they never retry");
    }
    let mut statuses = policy.statuses.to_vec();
    statuses.extend(
        wire.retriable_status_codes
            .iter()
            .filter_map(|code| u16::try_from(*code).ok()),
    );
    statuses.dedup();
    policy.statuses = if policy.on.any(RetryOn::STATUS_CODES) {
        statuses.into()
    } else {
        Box::default()
    };
    policy.elsewhere = !wire.retry_host_predicate.is_empty();
    policy.other_priorities = wire.retry_priority.is_some();
    policy.per_try_timeout = limit(
        wire.per_try_timeout.as_ref(),
        "retry_policy.per_try_timeout",
    )?;
    if let Some(backoff) = &wire.retry_back_off {
        let base = limit(
            backoff.base_interval.as_ref(),
            "retry_policy.retry_back_off.base_interval",
        )?
        .ok_or_else(|| Error::at("retry_policy.retry_back_off.base_interval", "it is missing"))?;
        policy.base = base;
        policy.max = limit(
            backoff.max_interval.as_ref(),
            "retry_policy.retry_back_off.max_interval",
        )?
        .unwrap_or(base * 10);
    }
    Ok(policy)
}

fn regex_rewrite(wire: &RegexMatchAndSubstitute, field: &str) -> Result<PathRewrite, Error> {
    let regex = wire
        .pattern
        .as_ref()
        .ok_or_else(|| Error::at(field, "it has no pattern"))?;
    Ok(PathRewrite::Regex {
        pattern: Pattern::search(&regex.regex).map_err(|error| Error::at(field, error))?,
        substitution: wire.substitution.as_str().into(),
    })
}

fn redirect(wire: &pb::RedirectAction) -> Result<Redirect, Error> {
    use redirect_action::{
        PathRewriteSpecifier, RedirectResponseCode as Code, SchemeRewriteSpecifier,
    };
    let status = match Code::try_from(wire.response_code) {
        Ok(Code::MovedPermanently) => 301,
        Ok(Code::Found) => 302,
        Ok(Code::SeeOther) => 303,
        Ok(Code::TemporaryRedirect) => 307,
        Ok(Code::PermanentRedirect) => 308,
        Err(_) => return Err(Error::at("response_code", "unknown")),
    };
    let mut redirect = Redirect::new(status).map_err(|error| Error::at("response_code", error))?;
    redirect.host = (!wire.host_redirect.is_empty()).then(|| wire.host_redirect.as_str().into());
    redirect.port = match u16::try_from(wire.port_redirect) {
        Ok(0) => None,
        Ok(port) => Some(port),
        Err(_) => return Err(Error::at("port_redirect", "not a port")),
    };
    redirect.scheme = match &wire.scheme_rewrite_specifier {
        Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => Some("https".into()),
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => Some(scheme.as_str().into()),
        Some(SchemeRewriteSpecifier::HttpsRedirect(false)) | None => None,
    };
    redirect.path = match &wire.path_rewrite_specifier {
        Some(PathRewriteSpecifier::PathRedirect(path)) => {
            Some(PathRewrite::Full(path.as_str().into()))
        }
        Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => {
            Some(PathRewrite::Prefix(prefix.as_str().into()))
        }
        Some(PathRewriteSpecifier::RegexRewrite(regex)) => {
            Some(regex_rewrite(regex, "regex_rewrite")?)
        }
        Some(PathRewriteSpecifier::PathRewrite(_)) => {
            return Err(Error::at("path_rewrite", "not supported"));
        }
        None => None,
    };
    redirect.strip_query = wire.strip_query;
    Ok(redirect)
}

fn direct(wire: &pb::DirectResponseAction) -> Result<Direct, Error> {
    if wire.body_format.is_some() {
        return Err(Error::at("body_format", "not supported"));
    }
    let body = match wire.body.as_ref().and_then(|body| body.specifier.as_ref()) {
        None => Bytes::new(),
        Some(Specifier::InlineBytes(bytes)) => Bytes::copy_from_slice(bytes),
        Some(Specifier::InlineString(text)) => Bytes::copy_from_slice(text.as_bytes()),
        Some(Specifier::Filename(_) | Specifier::EnvironmentVariable(_)) => {
            return Err(Error::at("body", "only inline bodies are supported"));
        }
    };
    let status = u16::try_from(wire.status).unwrap_or(0);
    Direct::new(status, body).map_err(|error| Error::at("status", error))
}

#[cfg(test)]
mod tests;

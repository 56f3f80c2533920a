//! Envoy's filter of external authorization: who is asked about requests, and about which.
//!
//! Taken is the form in which Istio writes it: a filter of rules that only notes which one matched (shadow rules under a
//! prefix of their own), then one that asks where such a rule was noted. Anything else is an error of the chain that
//! holds it, as without it more would get through.

use super::{Error, access, condition, route};
use http::{HeaderName, HeaderValue, StatusCode};
use naka_engine::model::{
    AccessRule, Asks, Authorizer, Check, CheckBody, HttpCheck, TextCondition,
};
use naka_wire::envoy::config::core::v3::{grpc_service, http_uri};
use naka_wire::envoy::extensions::filters::http::ext_authz::v3::{
    AuthorizationRequest, AuthorizationResponse, ExtAuthz, HttpService, ext_authz::Services,
};
use naka_wire::envoy::extensions::filters::http::rbac::v3::Rbac as HttpRbac;
use naka_wire::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpFilter, http_filter,
};
use naka_wire::envoy::r#type::matcher::v3::ListStringMatcher;
use naka_wire::time;
use std::sync::Arc;
use std::time::Duration;

/// Name of the filter that asks.
pub const NAME: &str = "envoy.filters.http.ext_authz";
/// What shadow rules are counted under whose matches are asked about.
const PREFIX: &str = "istio_ext_authz_";
/// Envoy's time for an answer where nothing is said.
const TIMEOUT: Duration = Duration::from_millis(200);

/// Whether the rules of a filter say what is asked about.
#[must_use]
pub fn says_what(wire: &HttpRbac) -> bool {
    wire.shadow_rules_stat_prefix == PREFIX
}

/// Who is asked, and about which requests; none: nobody.
///
/// # Errors
/// [`Error`] at what cannot be carried out.
pub fn of_requests(filters: &[HttpFilter], ids: route::Ids<'_>) -> Result<Option<Check>, Error> {
    let mut rules: Option<Box<[AccessRule]>> = None;
    for filter in filters.iter().filter(|filter| filter.name == access::HTTP) {
        let wire = access::unpacked(filter)?;
        if !says_what(&wire) {
            continue;
        }
        let shadow = wire.shadow_rules.as_ref().filter(|_| wire.rules.is_none());
        let shadow = shadow.ok_or_else(|| Error::at("rbac", "of checks there are shadow rules"))?;
        if rules.replace(access::rules(shadow)?).is_some() {
            return Err(Error::at(
                "rbac",
                "there are two that say what is asked about",
            ));
        }
    }
    let mut own = filters.iter().filter(|filter| filter.name == NAME);
    let found = (rules, own.next(), own.next());
    let (rules, filter) = match found {
        (None, None, _) => return Ok(None),
        (Some(rules), Some(filter), None) => (rules, filter),
        _ => {
            let what = "it goes with one filter of rules that say what is asked about";
            return Err(Error::at("ext_authz", what));
        }
    };
    let Some(http_filter::ConfigType::TypedConfig(any)) = &filter.config_type else {
        return Err(Error::at("ext_authz.typed_config", "it is missing"));
    };
    let wire: ExtAuthz =
        naka_wire::unpack(any).map_err(|error| Error::at("ext_authz.typed_config", error))?;
    let authorizer = authorizer(&wire, ids).map_err(|error| error.within("ext_authz"))?;
    Ok(Some(Check {
        rules,
        authorizer: Arc::new(authorizer),
    }))
}

fn authorizer(wire: &ExtAuthz, ids: route::Ids<'_>) -> Result<Authorizer, Error> {
    refuse_unsupported(wire)?;
    let status = wire
        .status_on_error
        .as_ref()
        .map_or(403, |status| status.code);
    let status = u16::try_from(status).ok();
    let status = status.and_then(|status| StatusCode::from_u16(status).ok());
    let body = wire.with_request_body.as_ref().map(|body| CheckBody {
        most: usize::try_from(body.max_request_bytes).unwrap_or(usize::MAX),
        partial: body.allow_partial_message,
        as_bytes: body.pack_as_bytes,
    });
    let (name, timeout, asks) = match &wire.services {
        Some(Services::GrpcService(service)) => {
            let Some(grpc_service::TargetSpecifier::EnvoyGrpc(to)) = &service.target_specifier
            else {
                return Err(Error::at("grpc_service", "only envoy_grpc is supported"));
            };
            let authority = match to.authority.as_str() {
                "" => to.cluster_name.replace('|', "_."),
                given => given.to_owned(),
            };
            let authority = HeaderValue::try_from(authority);
            let authority = authority.map_err(|error| Error::at("grpc_service", error))?;
            let timeout = service.timeout.as_ref().and_then(time::from_wire);
            (&to.cluster_name, timeout, Asks::Grpc(authority))
        }
        Some(Services::HttpService(service)) => {
            let uri = service.server_uri.as_ref();
            let uri = uri.ok_or_else(|| Error::at("http_service.server_uri", "it is missing"))?;
            let Some(http_uri::HttpUpstreamType::Cluster(name)) = &uri.http_upstream_type else {
                return Err(Error::at("http_service.server_uri", "it names no cluster"));
            };
            let timeout = uri.timeout.as_ref().and_then(time::from_wire);
            let check = http(wire, service).map_err(|error| error.within("http_service"))?;
            (name, timeout, Asks::Http(Box::new(check)))
        }
        None => return Err(Error::at("services", "it is missing")),
    };
    Ok(Authorizer {
        cluster: ids(name),
        name: name.as_str().into(),
        timeout: timeout.unwrap_or(TIMEOUT),
        fail_open: wire.failure_mode_allow,
        status_on_error: status.ok_or_else(|| Error::at("status_on_error", "this is no status"))?,
        body,
        asks,
    })
}

/// What would change whom is asked, about what, or what the answer does.
fn refuse_unsupported(wire: &ExtAuthz) -> Result<(), Error> {
    for (present, field) in [
        (wire.filter_enabled.is_some(), "filter_enabled"),
        (wire.deny_at_disable.is_some(), "deny_at_disable"),
        (
            wire.filter_enabled_metadata.is_none(),
            "filter_enabled_metadata",
        ),
        (
            wire.failure_mode_allow_header_add,
            "failure_mode_allow_header_add",
        ),
        (wire.disallowed_headers.is_some(), "disallowed_headers"),
        (wire.include_peer_certificate, "include_peer_certificate"),
        (wire.encode_raw_headers, "encode_raw_headers"),
        (
            wire.decoder_header_mutation_rules.is_some(),
            "decoder_header_mutation_rules",
        ),
        (
            !wire.metadata_context_namespaces.is_empty(),
            "metadata_context_namespaces",
        ),
    ] {
        if present {
            return Err(Error::at(field, "not supported"));
        }
    }
    Ok(())
}

fn http(wire: &ExtAuthz, service: &HttpService) -> Result<HttpCheck, Error> {
    let request = service.authorization_request.clone().unwrap_or_default();
    let only_adds = AuthorizationRequest {
        headers_to_add: request.headers_to_add.clone(),
        ..AuthorizationRequest::default()
    };
    if request != only_adds || !service.path_override.is_empty() || service.retry_policy.is_some() {
        let what = "allowed_headers, path_override and retry_policy of it are not supported";
        return Err(Error::at("", what));
    }
    let mut added = Vec::new();
    for pair in &request.headers_to_add {
        let name = HeaderName::try_from(pair.key.as_str());
        let value = HeaderValue::try_from(pair.value.as_str());
        let (Ok(name), Ok(value)) = (name, value) else {
            let what = format!("{:?} cannot be sent", pair.key);
            return Err(Error::at("authorization_request.headers_to_add", what));
        };
        added.push((name, value));
    }
    let answer = service.authorization_response.clone().unwrap_or_default();
    let AuthorizationResponse {
        allowed_upstream_headers: on_allow,
        allowed_upstream_headers_to_append: appended,
        allowed_client_headers: on_deny,
        allowed_client_headers_on_success: back,
        dynamic_metadata_from_headers: metadata,
    } = &answer;
    if appended.is_some() || metadata.is_some() {
        let what = "headers to append, and metadata from headers, are not supported";
        return Err(Error::at("authorization_response", what));
    }
    Ok(HttpCheck {
        path_prefix: service.path_prefix.as_str().into(),
        request_headers: names(wire.allowed_headers.as_ref())?,
        added: added.into(),
        upstream_on_allow: names(on_allow.as_ref())?,
        downstream_on_deny: names(on_deny.as_ref())?,
        downstream_on_allow: names(back.as_ref())?,
    })
}

fn names(wire: Option<&ListStringMatcher>) -> Result<Box<[TextCondition]>, Error> {
    let all = wire.map_or(&[][..], |list| list.patterns.as_slice());
    all.iter().map(condition::string).collect()
}

#[cfg(test)]
mod tests;

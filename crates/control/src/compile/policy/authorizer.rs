//! Whom the CUSTOM policies of a workload ask, as Envoy's filter.
//!
//! Only a service of the mesh is ever asked, by its cluster, so no address that somebody writes is called. As in Istio a
//! workload has one provider; where policies name two, where the mesh has none of that name, where its service or port
//! does not exist, or where the workload is that service itself, what would be asked about is refused.

use super::Held;
use crate::compile::View;
use crate::world::Read;
use naka_api::Object;
use naka_api::codes;
use naka_api::mesh::{HttpCheck, Provider, Speaks};
use naka_api::security::authorization_policy::{Action, Text};
use naka_types::finding::Finding;
use naka_types::host::Host;
use naka_types::name::ClusterName;
use naka_wire::envoy::config::core::v3::{
    GrpcService, HeaderValue, HttpUri, grpc_service, http_uri,
};
use naka_wire::envoy::extensions::filters::http::ext_authz::v3::{
    AuthorizationRequest, AuthorizationResponse, BufferSettings, ExtAuthz, HttpService,
    ext_authz::Services,
};
use naka_wire::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpFilter, http_filter,
};
use naka_wire::envoy::r#type::matcher::v3::metadata_matcher::{PathSegment, path_segment::Segment};
use naka_wire::envoy::r#type::matcher::v3::{
    ListStringMatcher, MetadataMatcher, StringMatcher, ValueMatcher, string_matcher::MatchPattern,
    value_matcher,
};
use naka_wire::envoy::r#type::v3::HttpStatus;
use naka_wire::time;
use std::sync::Arc;

/// Type of the filter.
pub(crate) const NAME: &str = "envoy.filters.http.ext_authz";
/// What rules that are asked about begin with.
pub(super) const MARK: &str = "istio-ext-authz";
/// What they are counted under.
pub(super) const PREFIX: &str = "istio_ext_authz_";
/// Ends the names of those that refuse because nobody can be asked.
pub(super) const BAD: &str = "-deny-due-to-bad-CUSTOM-action";

/// Who is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Authorizer {
    /// `Err`: nobody can be, and why.
    pub(super) found: Result<Known, String>,
}

/// Somebody who can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    provider: Arc<Provider>,
    cluster: ClusterName,
}

impl Authorizer {
    /// The cluster it is asked by.
    pub(crate) fn cluster(&self) -> Option<&ClusterName> {
        self.found.as_ref().ok().map(|known| &known.cluster)
    }
}

/// Whom policies ask; `None`: nobody.
pub(super) fn of(
    view: &View<'_>,
    custom: &[Held],
    namespace: &str,
    own: Option<&Host>,
) -> Option<Authorizer> {
    let first = &custom.first()?.policy.provider;
    let other = custom.iter().find(|held| held.policy.provider != *first);
    let found = match other {
        Some(other) => Err(format!(
            "policies of one workload ask both {first:?} and {:?}",
            other.policy.provider
        )),
        None => known(view, first, namespace, own),
    };
    Some(Authorizer { found })
}

fn known(
    view: &View<'_>,
    name: &str,
    namespace: &str,
    own: Option<&Host>,
) -> Result<Known, String> {
    let world = view.read(Read::Provider(name.to_owned()));
    let provider = world.providers.get(name);
    let provider = provider.ok_or_else(|| format!("the mesh has no provider {name:?} in force"))?;
    let (host, port) = (&provider.service, provider.port);
    let world = view.read(Read::Service(host.clone()));
    let service = world.holder(host, namespace);
    let wanted = provider.namespace.as_ref();
    let service = service.filter(|found| wanted.is_none_or(|own| *own == found.namespace));
    let service = service.ok_or_else(|| {
        format!("nothing declares {host}, the service of provider {name:?}, for this namespace")
    })?;
    if !service.ports.contains_key(&port) {
        return Err(format!(
            "{host}, the service of provider {name:?}, has no port {port}"
        ));
    }
    if own == Some(host) {
        return Err(format!(
            "provider {name:?} would be asked about what it is asked"
        ));
    }
    Ok(Known {
        provider: Arc::clone(provider),
        cluster: ClusterName::Outbound {
            port,
            subset: String::new(),
            host: host.as_str().to_owned(),
        },
    })
}

/// Why nobody can be asked by a policy, whichever workload it holds for.
pub(crate) fn unresolved(view: &View<'_>, object: &Object) -> Option<Finding> {
    let policy = object.authorization_policy()?;
    if policy.action != Action::Custom || policy.dry_run {
        return None;
    }
    let why = known(view, &policy.provider, &object.meta.namespace, None).err()?;
    let fix = "add the provider to the ConfigMap istio-system/istio (data.mesh, extensionProviders), or correct its service and port";
    Some(
        Finding::new(
            codes::E334.id,
            format!("{why}: what it would be asked about gets 403"),
        )
        .on(object.reference())
        .at("spec.provider.name")
        .fix(fix.to_owned()),
    )
}

/// The filter that asks, where there is somebody.
pub(super) fn filter(authorizer: &Authorizer) -> Option<HttpFilter> {
    let known = authorizer.found.as_ref().ok()?;
    Some(HttpFilter {
        name: NAME.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(naka_wire::pack(
            &message(known),
        ))),
        ..HttpFilter::default()
    })
}

fn message(known: &Known) -> ExtAuthz {
    let provider = &known.provider;
    let (allowed, services) = match &provider.speaks {
        Speaks::Grpc => (None, Services::GrpcService(grpc(known))),
        Speaks::Http(check) => (
            names(&check.request_headers),
            Services::HttpService(http(known, check)),
        ),
    };
    ExtAuthz {
        services: Some(services),
        failure_mode_allow: provider.fail_open,
        status_on_error: Some(HttpStatus {
            code: i32::from(provider.status_on_error),
        }),
        with_request_body: provider.body.map(|body| BufferSettings {
            max_request_bytes: body.most,
            allow_partial_message: body.partial,
            pack_as_bytes: body.as_bytes,
        }),
        // Our own proxies choose routes afterwards.
        clear_route_cache: true,
        filter_enabled_metadata: Some(noted()),
        allowed_headers: allowed,
        ..ExtAuthz::default()
    }
}

/// Where one of the rules was noted to match.
fn noted() -> MetadataMatcher {
    let text = StringMatcher {
        match_pattern: Some(MatchPattern::Prefix(MARK.to_owned())),
        ..StringMatcher::default()
    };
    MetadataMatcher {
        filter: super::message::HTTP.to_owned(),
        path: vec![PathSegment {
            segment: Some(Segment::Key(format!("{PREFIX}shadow_effective_policy_id"))),
        }],
        value: Some(ValueMatcher {
            match_pattern: Some(value_matcher::MatchPattern::StringMatch(text)),
        }),
        ..MetadataMatcher::default()
    }
}

fn grpc(known: &Known) -> GrpcService {
    let cluster = known.cluster.to_string();
    GrpcService {
        timeout: Some(time::to_wire(known.provider.timeout)),
        target_specifier: Some(grpc_service::TargetSpecifier::EnvoyGrpc(
            grpc_service::EnvoyGrpc {
                // `|` is no letter of an authority.
                authority: cluster.replace('|', "_."),
                cluster_name: cluster,
                ..grpc_service::EnvoyGrpc::default()
            },
        )),
        ..GrpcService::default()
    }
}

fn http(known: &Known, check: &HttpCheck) -> HttpService {
    let added = check.added.iter().map(|(key, value)| HeaderValue {
        key: key.clone(),
        value: value.clone(),
        ..HeaderValue::default()
    });
    let added: Vec<HeaderValue> = added.collect();
    let answer = AuthorizationResponse {
        allowed_upstream_headers: names(&check.upstream_on_allow),
        allowed_client_headers: names(&check.downstream_on_deny),
        allowed_client_headers_on_success: names(&check.downstream_on_allow),
        ..AuthorizationResponse::default()
    };
    HttpService {
        server_uri: Some(HttpUri {
            uri: format!("http://{}", known.provider.service),
            http_upstream_type: Some(http_uri::HttpUpstreamType::Cluster(
                known.cluster.to_string(),
            )),
            timeout: Some(time::to_wire(known.provider.timeout)),
        }),
        path_prefix: check.path_prefix.clone(),
        authorization_request: (!added.is_empty()).then(|| AuthorizationRequest {
            headers_to_add: added,
            ..AuthorizationRequest::default()
        }),
        authorization_response: (answer != AuthorizationResponse::default()).then_some(answer),
        ..HttpService::default()
    }
}

fn names(patterns: &[Text]) -> Option<ListStringMatcher> {
    let one = |text: &Text| StringMatcher {
        ignore_case: !matches!(text, Text::Present),
        ..super::message::string(text)
    };
    (!patterns.is_empty()).then(|| ListStringMatcher {
        patterns: patterns.iter().map(one).collect(),
    })
}

#[cfg(test)]
mod tests;

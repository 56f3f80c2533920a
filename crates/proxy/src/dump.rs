//! Configuration in force as JSON, in the shape of Envoy's `config_dump`, so that people and tools who know one can
//! read the other.
//!
//! Written from the resources as received, field by field as far as this proxy understands them: what is not shown is
//! not in force. Secrets are not shown at all (keys never come over this wire; roots are on the `certs` page).

use naka_wire::envoy::config::cluster::v3::Cluster;
use naka_wire::envoy::config::core::v3::Metadata;
use naka_wire::envoy::config::endpoint::v3::{ClusterLoadAssignment, LbEndpoint, lb_endpoint};
use naka_wire::envoy::config::listener::v3::Listener;
use naka_wire::envoy::config::route::v3::{
    Route, RouteConfiguration, RouteMatch, VirtualHost, route, route_action, route_match,
};
use naka_wire::google::protobuf::{Duration, Struct, Value, value::Kind};
use naka_wire::{type_url, unpack};
use naka_xds::Resource;
use serde_json::{Map, Value as Json, json};

/// The whole dump: one section per kind, sorted by name.
#[must_use]
pub fn config<'a>(resources: impl Iterator<Item = &'a Resource>) -> Json {
    let (mut listeners, mut routes, mut clusters, mut endpoints, mut others) =
        (vec![], vec![], vec![], vec![], vec![]);
    for resource in resources {
        let entry = |kind: &str, body: Json| json!({ "name": resource.name, "version_info": resource.version, kind: body });
        match resource.type_url.as_str() {
            type_url::LISTENER => {
                if let Ok(message) = unpack::<Listener>(&resource.any) {
                    listeners.push(entry("active_state", listener(&message)));
                }
            }
            type_url::VIRTUAL_HOST => {
                if let Ok(message) = unpack::<VirtualHost>(&resource.any) {
                    routes.push(entry("virtual_host", virtual_host(&message)));
                }
            }
            type_url::ROUTE => {
                if let Ok(message) = unpack::<RouteConfiguration>(&resource.any) {
                    let hosts: Vec<Json> = message.virtual_hosts.iter().map(virtual_host).collect();
                    routes.push(entry(
                        "route_config",
                        json!({ "name": message.name, "virtual_hosts": hosts }),
                    ));
                }
            }
            type_url::CLUSTER => {
                if let Ok(message) = unpack::<Cluster>(&resource.any) {
                    clusters.push(entry("cluster", cluster(&message)));
                }
            }
            type_url::ENDPOINT => {
                if let Ok(message) = unpack::<ClusterLoadAssignment>(&resource.any) {
                    endpoints.push(entry("endpoint_config", assignment(&message)));
                }
            }
            type_url::SECRET => {}
            _ => others.push(json!({
                "name": resource.name,
                "version_info": resource.version,
                "@type": resource.type_url,
            })),
        }
    }
    json!({ "configs": [
        { "@type": "type.googleapis.com/envoy.admin.v3.ListenersConfigDump", "dynamic_listeners": listeners },
        { "@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump", "dynamic_active_clusters": clusters },
        { "@type": "type.googleapis.com/envoy.admin.v3.RoutesConfigDump", "dynamic_route_configs": routes },
        { "@type": "type.googleapis.com/envoy.admin.v3.EndpointsConfigDump", "dynamic_endpoint_configs": endpoints },
        { "@type": "naka.dev/OtherResources", "dynamic_resources": others },
    ]})
}

fn listener(message: &Listener) -> Json {
    let chains: Vec<Json> = message
        .filter_chains
        .iter()
        .map(|chain| {
            let matches = chain.filter_chain_match.as_ref();
            let filters: Vec<&str> = chain.filters.iter().map(|f| f.name.as_str()).collect();
            json!({
                "name": chain.name,
                "filter_chain_match": {
                    "destination_port": matches.and_then(|m| m.destination_port.as_ref()).map(|p| p.value),
                    "transport_protocol": matches.map(|m| m.transport_protocol.clone()),
                },
                "filters": filters,
                "transport_socket": chain.transport_socket.as_ref().map(|socket| socket.name.clone()),
                "metadata": metadata(chain.metadata.as_ref()),
            })
        })
        .collect();
    json!({ "name": message.name, "filter_chains": chains })
}

fn virtual_host(message: &VirtualHost) -> Json {
    let routes: Vec<Json> = message.routes.iter().map(one_route).collect();
    json!({ "name": message.name, "domains": message.domains, "routes": routes })
}

fn one_route(message: &Route) -> Json {
    let mut shown = Map::new();
    shown.insert("name".into(), json!(message.name));
    shown.insert(
        "match".into(),
        message.r#match.as_ref().map_or(Json::Null, matching),
    );
    match &message.action {
        Some(route::Action::Route(action)) => {
            let mut body = Map::new();
            match &action.cluster_specifier {
                Some(route_action::ClusterSpecifier::Cluster(name)) => {
                    body.insert("cluster".into(), json!(name));
                }
                Some(route_action::ClusterSpecifier::WeightedClusters(weighted)) => {
                    let clusters: Vec<Json> = weighted
                        .clusters
                        .iter()
                        .map(|c| json!({ "name": c.name, "weight": c.weight.as_ref().map(|w| w.value) }))
                        .collect();
                    body.insert("weighted_clusters".into(), json!({ "clusters": clusters }));
                }
                _ => {}
            }
            if let Some(timeout) = &action.timeout {
                body.insert("timeout".into(), duration(timeout));
            }
            if let Some(retry) = &action.retry_policy {
                body.insert(
                    "retry_policy".into(),
                    json!({
                        "retry_on": retry.retry_on,
                        "num_retries": retry.num_retries.as_ref().map(|n| n.value),
                        "per_try_timeout": retry.per_try_timeout.as_ref().map(duration),
                    }),
                );
            }
            if !action.prefix_rewrite.is_empty() {
                body.insert("prefix_rewrite".into(), json!(action.prefix_rewrite));
            }
            shown.insert("route".into(), Json::Object(body));
        }
        Some(route::Action::Redirect(action)) => {
            shown.insert(
                "redirect".into(),
                json!({ "host_redirect": action.host_redirect }),
            );
        }
        Some(route::Action::DirectResponse(action)) => {
            shown.insert("direct_response".into(), json!({ "status": action.status }));
        }
        _ => {}
    }
    shown.insert("metadata".into(), metadata(message.metadata.as_ref()));
    Json::Object(shown)
}

fn matching(message: &RouteMatch) -> Json {
    let mut shown = Map::new();
    let path = match &message.path_specifier {
        Some(route_match::PathSpecifier::Prefix(text)) => Some(("prefix", text.clone())),
        Some(route_match::PathSpecifier::Path(text)) => Some(("path", text.clone())),
        Some(route_match::PathSpecifier::PathSeparatedPrefix(text)) => {
            Some(("path_separated_prefix", text.clone()))
        }
        Some(route_match::PathSpecifier::SafeRegex(regex)) => {
            Some(("safe_regex", regex.regex.clone()))
        }
        _ => None,
    };
    if let Some((kind, text)) = path {
        shown.insert(kind.into(), json!(text));
    }
    let names: Vec<&str> = message.headers.iter().map(|h| h.name.as_str()).collect();
    if !names.is_empty() {
        shown.insert("headers".into(), json!(names));
    }
    let names: Vec<&str> = message
        .query_parameters
        .iter()
        .map(|q| q.name.as_str())
        .collect();
    if !names.is_empty() {
        shown.insert("query_parameters".into(), json!(names));
    }
    Json::Object(shown)
}

fn cluster(message: &Cluster) -> Json {
    let thresholds = message.circuit_breakers.as_ref().map(|breakers| {
        breakers
            .thresholds
            .iter()
            .map(|t| {
                json!({
                    "max_connections": t.max_connections.as_ref().map(|v| v.value),
                    "max_pending_requests": t.max_pending_requests.as_ref().map(|v| v.value),
                    "max_requests": t.max_requests.as_ref().map(|v| v.value),
                    "max_retries": t.max_retries.as_ref().map(|v| v.value),
                })
            })
            .collect::<Vec<_>>()
    });
    let sockets: Vec<&str> = message
        .transport_socket_matches
        .iter()
        .map(|m| m.name.as_str())
        .collect();
    json!({
        "name": message.name,
        "lb_policy": message.lb_policy().as_str_name(),
        "connect_timeout": message.connect_timeout.as_ref().map(duration),
        "circuit_breakers": { "thresholds": thresholds },
        "transport_socket_matches": sockets,
        "load_assignment": message.load_assignment.as_ref().map(assignment),
        "metadata": metadata(message.metadata.as_ref()),
    })
}

fn assignment(message: &ClusterLoadAssignment) -> Json {
    let localities: Vec<Json> = message
        .endpoints
        .iter()
        .map(|locality| {
            let endpoints: Vec<Json> = locality.lb_endpoints.iter().map(endpoint).collect();
            json!({ "priority": locality.priority, "lb_endpoints": endpoints })
        })
        .collect();
    json!({ "cluster_name": message.cluster_name, "endpoints": localities })
}

fn endpoint(message: &LbEndpoint) -> Json {
    let address = match &message.host_identifier {
        Some(lb_endpoint::HostIdentifier::Endpoint(endpoint)) => endpoint
            .address
            .as_ref()
            .and_then(crate::intake::socket_address)
            .map(|address| address.to_string()),
        _ => None,
    };
    json!({
        "address": address,
        "health_status": message.health_status().as_str_name(),
        "load_balancing_weight": message.load_balancing_weight.as_ref().map(|w| w.value),
        "metadata": metadata(message.metadata.as_ref()),
    })
}

fn metadata(message: Option<&Metadata>) -> Json {
    let Some(message) = message else {
        return Json::Null;
    };
    let mut sorted: Vec<(&String, &Struct)> = message.filter_metadata.iter().collect();
    sorted.sort_by_key(|(name, _)| *name);
    let spaces: Map<String, Json> = sorted
        .into_iter()
        .map(|(name, fields)| (name.clone(), object(fields)))
        .collect();
    json!({ "filter_metadata": spaces })
}

fn object(fields: &Struct) -> Json {
    Json::Object(
        fields
            .fields
            .iter()
            .map(|(key, value)| (key.clone(), plain(value)))
            .collect(),
    )
}

fn plain(value: &Value) -> Json {
    match &value.kind {
        Some(Kind::StringValue(text)) => json!(text),
        Some(Kind::BoolValue(flag)) => json!(flag),
        Some(Kind::NumberValue(number)) => json!(number),
        Some(Kind::StructValue(fields)) => object(fields),
        Some(Kind::ListValue(list)) => list.values.iter().map(plain).collect(),
        Some(Kind::NullValue(_)) | None => Json::Null,
    }
}

fn duration(wire: &Duration) -> Json {
    let millis = wire.seconds * 1_000 + i64::from(wire.nanos) / 1_000_000;
    json!(format!("{}.{:03}s", millis / 1_000, millis % 1_000))
}

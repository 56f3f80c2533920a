//! Envoy's HTTP connection manager, set as our own proxies behave.

use super::helper::dns;
use crate::compile::route::{CORS, FAULT};
use crate::compile::{listener, tls};
use naka_wire::envoy::config::core::v3::{
    CidrRange, Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions as Common,
};
use naka_wire::envoy::config::listener::v3::Filter;
use naka_wire::envoy::config::route::v3::RouteConfiguration;
use naka_wire::envoy::extensions::filters::http::cors::v3::Cors;
use naka_wire::envoy::extensions::filters::http::dynamic_forward_proxy::v3::{
    FilterConfig, filter_config::ImplementationSpecifier,
};
use naka_wire::envoy::extensions::filters::http::fault::v3::HttpFault;
use naka_wire::envoy::extensions::filters::http::router::v3::Router;
use naka_wire::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds,
    http_connection_manager::{
        ForwardClientCertDetails, InternalAddressConfig, PathWithEscapedSlashesAction,
        RouteSpecifier, ServerHeaderTransformation, SetCurrentClientCertDetails, UpgradeConfig,
    },
    http_filter,
};
use naka_wire::google::protobuf::{Any, BoolValue, UInt32Value};
use naka_wire::time;
use std::time::Duration;

/// Limits of a head, as in `engine::limits`.
const HEADER_KB: u32 = 64;
const HEADER_FIELDS: u32 = 100;
/// Streams of a connection, as in `proxy::limits`.
const STREAMS_MESH: u32 = 1024;
const STREAMS_EDGE: u32 = 100;
const CONNECTION_IDLE: Duration = Duration::from_secs(3600);

/// Where a listener stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Callers of the program.
    Inbound,
    /// The program as a caller, of one service.
    Outbound,
    /// The program as a caller, of anything.
    ForwardProxy,
    /// Strangers.
    Edge,
}

/// Where routes come from.
pub(super) enum Routes {
    /// Written here, because they never change.
    Inline(Box<RouteConfiguration>),
    /// Under this name over the stream.
    Named(String),
}

/// The filter of a listener; `first` is asked before all else.
pub(super) fn filter(
    stat_prefix: &str,
    place: Place,
    routes: Routes,
    first: Vec<HttpFilter>,
) -> Filter {
    let flag = |value| Some(BoolValue { value });
    let number = |value| Some(UInt32Value { value });
    let forward = place == Place::ForwardProxy;
    let own = matches!(place, Place::ForwardProxy | Place::Outbound);
    let upgrade = |kind: &str| UpgradeConfig {
        upgrade_type: kind.to_owned(),
        ..UpgradeConfig::default()
    };
    let manager = HttpConnectionManager {
        stat_prefix: stat_prefix.to_owned(),
        http_filters: first.into_iter().chain(filters(place)).collect(),
        upgrade_configs: std::iter::once(upgrade("websocket"))
            .chain(forward.then(|| upgrade("CONNECT")))
            .collect(),
        normalize_path: flag(true),
        merge_slashes: false,
        // `shop.example.` is `shop.example`, to policies and routes, as at our own proxies.
        strip_trailing_host_dot: true,
        path_with_escaped_slashes_action: PathWithEscapedSlashesAction::KeepUnchanged as i32,
        max_request_headers_kb: number(HEADER_KB),
        common_http_protocol_options: Some(Common {
            max_headers_count: number(HEADER_FIELDS),
            idle_timeout: Some(time::to_wire(CONNECTION_IDLE)),
            ..Common::default()
        }),
        // Old callers are answered as they ask; Istio does the same once PILOT_HTTP10 is set.
        http_protocol_options: Some(Http1ProtocolOptions {
            accept_http_10: true,
            ..Http1ProtocolOptions::default()
        }),
        http2_protocol_options: Some(Http2ProtocolOptions {
            allow_connect: true,
            max_concurrent_streams: number(match place {
                Place::Edge => STREAMS_EDGE,
                _ => STREAMS_MESH,
            }),
            ..Http2ProtocolOptions::default()
        }),
        // Calls may be as long as routes allow; a silent stream is not a broken one.
        stream_idle_timeout: Some(time::to_wire(Duration::ZERO)),
        use_remote_address: flag(place != Place::Inbound),
        xff_num_trusted_hops: u32::from(own),
        skip_xff_append: place != Place::Edge,
        internal_address_config: own.then(own_program),
        access_log: matches!(place, Place::Inbound | Place::Edge)
            .then(|| super::denied::log(stat_prefix))
            .into_iter()
            .collect(),
        local_reply_config: (place == Place::Edge).then(super::answers::bodies),
        server_header_transformation: ServerHeaderTransformation::PassThrough as i32,
        forward_client_cert_details: match place {
            Place::Inbound => ForwardClientCertDetails::SanitizeSet,
            Place::Edge => ForwardClientCertDetails::Sanitize,
            Place::Outbound | Place::ForwardProxy => ForwardClientCertDetails::Sanitize,
        } as i32,
        set_current_client_cert_details: (place == Place::Inbound).then(|| {
            SetCurrentClientCertDetails {
                subject: flag(true),
                uri: true,
                ..SetCurrentClientCertDetails::default()
            }
        }),
        route_specifier: Some(match routes {
            Routes::Inline(config) => RouteSpecifier::RouteConfig(*config),
            Routes::Named(name) => RouteSpecifier::Rds(Rds {
                config_source: Some(tls::ads()),
                route_config_name: name,
            }),
        }),
        ..HttpConnectionManager::default()
    };
    listener::typed(
        "envoy.filters.network.http_connection_manager",
        naka_wire::pack(&manager),
    )
}

/// The workload's own program may set timeouts and retries of its calls by header, as in Istio. An Envoy believes such
/// headers of internal addresses only, and no address is internal unless said. What the program says of its own callers
/// (`x-forwarded-proto`, `x-forwarded-for`) stays: the program is a trusted hop.
fn own_program() -> InternalAddressConfig {
    let range = |prefix: &str, bits| CidrRange {
        address_prefix: prefix.to_owned(),
        prefix_len: Some(UInt32Value { value: bits }),
    };
    InternalAddressConfig {
        unix_sockets: true,
        cidr_ranges: vec![range("127.0.0.0", 8), range("::1", 128)],
    }
}

/// Faults and cross-origin rules do nothing but where a route says so, in Istio's order.
fn filters(place: Place) -> Vec<HttpFilter> {
    let forward = place == Place::ForwardProxy;
    let filter = |name: &str, config: Any| HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(config)),
        ..HttpFilter::default()
    };
    let external = FilterConfig {
        implementation_specifier: Some(ImplementationSpecifier::DnsCacheConfig(dns())),
        ..FilterConfig::default()
    };
    let external = filter(
        "envoy.filters.http.dynamic_forward_proxy",
        naka_wire::pack(&external),
    );
    let router = filter(
        "envoy.filters.http.router",
        naka_wire::pack(&Router {
            // The time that the program's own caller has left, if the program passes it on.
            respect_expected_rq_timeout: matches!(place, Place::ForwardProxy | Place::Outbound),
            ..Router::default()
        }),
    );
    let by_route = [
        filter(FAULT, naka_wire::pack(&HttpFault::default())),
        filter(CORS, naka_wire::pack(&Cors {})),
    ];
    let by_route = by_route.into_iter().filter(|_| place != Place::Inbound);
    by_route
        .chain(forward.then_some(external))
        .chain([router])
        .collect()
}

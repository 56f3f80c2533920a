//! What an Envoy tells its agent of the calls that it refused: its access log over gRPC, of those alone.
//!
//! The agent tells them on as a sidecar does its own (`proxy::agent::denied`); it also tells what the Envoy refused from
//! what a program refused, which the filter here cannot. gRPC statuses and not HTTP ones are what it looks at: an Envoy
//! reads 401 and 403 as the two that a refused gRPC call has as well.
//!
//! Not here: connections of bytes, which have no access log.

use crate::compile::tls;
use naka_wire::envoy::config::accesslog::v3::access_log::ConfigType;
use naka_wire::envoy::config::accesslog::v3::access_log_filter::FilterSpecifier;
use naka_wire::envoy::config::accesslog::v3::grpc_status_filter::Status;
use naka_wire::envoy::config::accesslog::v3::{AccessLog, AccessLogFilter, GrpcStatusFilter};
use naka_wire::envoy::config::core::v3::ApiVersion;
use naka_wire::envoy::extensions::access_loggers::grpc::v3::{
    CommonGrpcAccessLogConfig, HttpGrpcAccessLogConfig,
};

/// The log of a listener's refused calls; its name says which port is called.
pub(super) fn log(name: &str) -> AccessLog {
    let config = HttpGrpcAccessLogConfig {
        common_config: Some(CommonGrpcAccessLogConfig {
            log_name: name.to_owned(),
            grpc_service: Some(tls::agent()),
            transport_api_version: ApiVersion::V3 as i32,
            ..CommonGrpcAccessLogConfig::default()
        }),
        ..HttpGrpcAccessLogConfig::default()
    };
    let refused = GrpcStatusFilter {
        statuses: vec![
            Status::PermissionDenied as i32,
            Status::Unauthenticated as i32,
        ],
        exclude: false,
    };
    AccessLog {
        name: "envoy.access_loggers.http_grpc".to_owned(),
        filter: Some(AccessLogFilter {
            filter_specifier: Some(FilterSpecifier::GrpcStatusFilter(refused)),
        }),
        config_type: Some(ConfigType::TypedConfig(naka_wire::pack(&config))),
    }
}

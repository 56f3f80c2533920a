//! What an Envoy refused, on its way to the mesh's audit trail.
//!
//! The Envoy sends its access log of refused calls to the agent's socket, and what it refused itself is told on as our
//! own proxies tell theirs. Why it refused stands in the details of its answer: the name of the filter, and of the rule
//! as our own proxies have it. A program that answers 403 has no such details.
//!
//! Not here: which calls it sends; the control plane says so (`control::compile::envoy::denied`).

use crate::denials::{Denials, Refused};
use naka_types::name::ClusterName;
use naka_types::reason::Reason;
use naka_wire::envoy::config::core::v3::{Address, RequestMethod, address, socket_address};
use naka_wire::envoy::data::accesslog::v3::tls_properties::certificate_properties::subject_alt_name::San;
use naka_wire::envoy::data::accesslog::v3::{AccessLogCommon, HttpAccessLogEntry};
use naka_wire::envoy::service::accesslog::v3::access_log_service_server::AccessLogService;
use naka_wire::envoy::service::accesslog::v3::stream_access_logs_message::LogEntries;
use naka_wire::envoy::service::accesslog::v3::{
    StreamAccessLogsMessage, StreamAccessLogsResponse,
};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tonic::{Request, Response, Status, Streaming};

/// Beginnings of details, and what they mean. Details with a blank are the Envoy's with a `_` for it.
const DETAILS: [(&str, Reason); 4] = [
    ("rbac_access_denied", Reason::PermissionDenied),
    ("ext_authz_denied", Reason::ExternalDenied),
    ("ext_authz_error", Reason::ExternalUnavailable),
    ("jwt_authn_access_denied", Reason::TokenInvalid),
];
/// What the Envoy says of a request without a token.
const NO_TOKEN: &str = "Jwt_is_missing";

/// Takes the access log of the Envoy beside it.
#[derive(Debug, Clone)]
pub(super) struct Ear(pub(super) Arc<Denials>);

#[tonic::async_trait]
impl AccessLogService for Ear {
    async fn stream_access_logs(
        &self,
        request: Request<Streaming<StreamAccessLogsMessage>>,
    ) -> Result<Response<StreamAccessLogsResponse>, Status> {
        let mut messages = request.into_inner();
        // The first message of a stream names the log.
        let mut port = None;
        while let Some(message) = messages.message().await? {
            if let Some(identifier) = message.identifier {
                port = named_port(&identifier.log_name);
            }
            if let Some(LogEntries::HttpLogs(entries)) = message.log_entries {
                for entry in &entries.log_entry {
                    hear(&self.0, port, entry);
                }
            }
        }
        Ok(Response::new(StreamAccessLogsResponse {}))
    }
}

/// The workload's port, which the name of the log has; a gateway's is where it listens.
fn named_port(log: &str) -> Option<u16> {
    match ClusterName::parse(log)? {
        ClusterName::Inbound { port } => Some(port),
        _ => None,
    }
}

fn hear(denials: &Denials, port: Option<u16>, entry: &HttpAccessLogEntry) {
    let details = entry
        .response
        .as_ref()
        .map(|r| r.response_code_details.as_str());
    let Some((reason, rule)) = details.and_then(why) else {
        return;
    };
    let (Some(request), Some(common)) = (&entry.request, &entry.common_properties) else {
        return;
    };
    let unknown = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let of = |address: &Option<Address>| address.as_ref().and_then(socket);
    let listens = || of(&common.downstream_local_address).map_or(0, |local| local.port());
    let method = RequestMethod::try_from(request.request_method);
    denials.add(&Refused {
        peer: peer(common),
        remote: of(&common.downstream_direct_remote_address)
            .or_else(|| of(&common.downstream_remote_address))
            .unwrap_or(unknown),
        port: port.unwrap_or_else(listens),
        method: match method {
            Ok(RequestMethod::MethodUnspecified) | Err(_) => "",
            Ok(method) => method.as_str_name(),
        },
        host: &request.authority,
        path: request.path.split(['?', '#']).next().unwrap_or_default(),
        reason,
        rule,
    });
}

/// The reason, and the rule where the details have one.
fn why(details: &str) -> Option<(Reason, &str)> {
    let (_, reason) = DETAILS
        .iter()
        .find(|(begin, _)| details.starts_with(begin))?;
    match reason {
        Reason::TokenInvalid if details.contains(NO_TOKEN) => Some((Reason::TokenMissing, details)),
        reason => Some((*reason, details)),
    }
}

/// The identity that the caller's certificate shows.
fn peer(common: &AccessLogCommon) -> &str {
    let tls = common.tls_properties.as_ref();
    let shown = tls.and_then(|tls| tls.peer_certificate_properties.as_ref());
    let mut names = shown.into_iter().flat_map(|shown| &shown.subject_alt_name);
    let uri = names.find_map(|name| match &name.san {
        Some(San::Uri(uri)) => Some(uri.as_str()),
        _ => None,
    });
    uri.unwrap_or_default()
}

fn socket(address: &Address) -> Option<SocketAddr> {
    let Some(address::Address::SocketAddress(socket)) = &address.address else {
        return None;
    };
    let Some(socket_address::PortSpecifier::PortValue(port)) = socket.port_specifier else {
        return None;
    };
    let ip: IpAddr = socket.address.parse().ok()?;
    Some(SocketAddr::new(ip, u16::try_from(port).ok()?))
}

#[cfg(test)]
mod tests {
    use super::{named_port, why};
    use naka_types::reason::Reason;

    #[test]
    fn what_a_program_answers_is_no_refusal_of_the_envoys() {
        let policy = "rbac_access_denied_matched_policy[ns[a]-policy[b]-rule[0]]";
        assert_eq!(why(policy), Some((Reason::PermissionDenied, policy)));
        for (details, reason) in [
            ("ext_authz_denied", Reason::ExternalDenied),
            ("ext_authz_error", Reason::ExternalUnavailable),
            (
                "jwt_authn_access_denied{Jwt_is_missing}",
                Reason::TokenMissing,
            ),
            (
                "jwt_authn_access_denied{Jwt_is_expired}",
                Reason::TokenInvalid,
            ),
        ] {
            assert_eq!(
                why(details).map(|(reason, _)| reason),
                Some(reason),
                "{details}"
            );
            assert!(reason.is_denial());
        }
        for details in ["via_upstream", "", "direct_response", "route_not_found"] {
            assert_eq!(why(details), None, "{details}");
        }
    }

    #[test]
    fn the_port_is_the_one_that_the_program_has() {
        assert_eq!(named_port("inbound|8080||"), Some(8080));
        assert_eq!(named_port("edge-server"), None);
        assert_eq!(named_port("outbound|80||a.b"), None);
    }
}

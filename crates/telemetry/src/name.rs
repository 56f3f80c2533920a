//! The one table of metric names. `docs/reference/metrics.md` follows it, and nothing outside it is exposed.

/// How a metric behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts in buckets.
    Histogram,
}

impl Kind {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name {
    /// Name in the exposition.
    pub name: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// One sentence.
    pub help: &'static str,
}

macro_rules! names {
    ($($constant:ident $name:literal $kind:ident $help:literal;)*) => {
        $(#[doc = $help]
        pub const $constant: Name = Name { name: $name, kind: Kind::$kind, help: $help };)*
        /// Every metric, in the order of exposition.
        pub const TABLE: &[Name] = &[$($constant,)*];
    };
}

names! {
    REQUESTS "istio_requests_total" Counter "Requests, by caller, called workload and outcome.";
    DURATION "istio_request_duration_milliseconds" Histogram "Time from the request's first byte to the response's last, in milliseconds.";
    REQUEST_BYTES "istio_request_bytes" Histogram "Size of request bodies in bytes.";
    RESPONSE_BYTES "istio_response_bytes" Histogram "Size of response bodies in bytes.";
    TCP_SENT "istio_tcp_sent_bytes_total" Counter "Bytes sent to the caller over TCP connections.";
    TCP_RECEIVED "istio_tcp_received_bytes_total" Counter "Bytes received from the caller over TCP connections.";
    TCP_OPENED "istio_tcp_connections_opened_total" Counter "TCP connections opened.";
    TCP_CLOSED "istio_tcp_connections_closed_total" Counter "TCP connections closed.";
    CERTIFICATE_EXPIRY "certificate_expiry_timestamp" Gauge "Last second of a certificate in use, in seconds since 1970.";
    LOCAL_REPLIES "naka_local_replies_total" Counter "Replies made and connections ended by the proxy itself, by reason.";
    POLICY_NOTICES "naka_policy_notices_total" Counter "Calls that an AUDIT rule matched, or that a policy on trial would allow or deny, by rule.";
    ROUTE_REQUESTS "naka_route_requests_total" Counter "Requests of routes that have a name for it (statPrefix of a VirtualService), by class of status.";
    SERVER_REQUESTS "naka_server_requests_total" Counter "Requests of a Gateway's servers that end TLS of HTTP and have a name, by class of status.";
    MIRROR_REQUESTS "naka_mirror_requests_total" Counter "Copies of requests, by what became of them: sent or dropped.";
    ACCESS_LOG_LOST "naka_access_log_lost_lines_total" Counter "Access-log lines lost because the writer could not keep up or the disk was full.";
    SERIES_CAPPED "naka_metric_capped_lookups_total" Counter "Handles given out under the label value other because the cap of label sets was reached.";
    SERIES_EXPIRED "naka_metric_expired_label_sets_total" Counter "Label sets forgotten because nothing was counted under them for half an hour.";
    CLUSTER_REQUESTS "naka_cluster_active_requests" Gauge "Requests under way, by destination.";
    CLUSTER_CONNECTIONS "naka_cluster_connections" Gauge "Open connections of the pool, by destination.";
    CLUSTER_QUEUED "naka_cluster_queued_requests" Gauge "Requests that wait for a connection, by destination.";
    CLUSTER_RETRIES "naka_cluster_active_retries" Gauge "Retries under way, by destination.";
    CLUSTER_ENDPOINTS "naka_cluster_endpoints" Gauge "Endpoints of a destination by state: healthy, draining, unhealthy, ejected (by outlier detection) or failing (its health checks).";
    BREAKER_STATE "naka_breaker_state" Gauge "1 for the state that the explicit breaker of a destination is in: closed, open or half_open.";
    CONFIG_REVISION "naka_config_revision_info" Gauge "Revision of the configuration in force.";
    CONTROL_CONNECTED "naka_control_connected_info" Gauge "1 while connected to the control plane.";
    CONNECTED_PROXIES "naka_connected_proxies" Gauge "Proxies connected to this control plane.";
    PROXIES "naka_proxies" Gauge "Proxies known to this control plane, by state: programmed, behind, refused or away.";
    BEHIND "naka_proxy_max_behind_revisions" Gauge "Changes on their way to the connected proxy that is furthest behind.";
    PUSH_PHASE "naka_push_phase_seconds" Histogram "Time that changes spend in each phase on their way to the proxies: debounce, compile, queue, write, ack.";
    LOG_SYNC "naka_log_fsync_seconds" Histogram "Time until written events are on disk, by group of commits.";
    FINDINGS "naka_findings" Gauge "Findings on the live configuration, by severity.";
    PUSHES "naka_xds_pushes_total" Counter "Configuration responses sent, by type.";
    NACKS "naka_xds_nacks_total" Counter "Configuration responses refused by a proxy, by type.";
    CERTIFICATES_ISSUED "naka_certificates_issued_total" Counter "Certificates signed.";
    CERTIFICATES_REFUSED "naka_certificate_refusals_total" Counter "Certificate requests refused, by reason.";
    AUDIT_DROPPED "naka_audit_dropped_total" Counter "Events of the audit trail that could not be kept (by disk), or that a place of --audit-to never gets (by file or otlp).";
    AUDIT_BEHIND "naka_audit_export_behind_events" Gauge "Events of the audit trail that a place of --audit-to has not got yet, of the place furthest behind, by its form: file or otlp.";
    TRACES_HELD "naka_traces_held" Gauge "Traces that the control plane holds.";
    TRACES_DROPPED "naka_traces_dropped_total" Counter "Traces that were to be kept and were too many: at a proxy (by proxy), or gave way to newer ones (by age).";
    SPANS_EXPORTED "naka_spans_exported_total" Counter "Spans that collectors took (--traces-to).";
    SPANS_DROPPED "naka_spans_dropped_total" Counter "Spans that had no room to wait for a collector, or that it refused.";
    RESIDENT "naka_process_resident_bytes" Gauge "Resident memory of the process.";
    CPU "naka_process_cpu_seconds_total" Counter "Processor time used by the process, user and system.";
    OPEN_FILES "naka_process_open_files" Gauge "Open file descriptors.";
    THREADS "naka_process_threads" Gauge "Threads of the process.";
    START_TIME "naka_process_start_time_seconds" Gauge "Start of the process, in seconds since 1970.";
}

#[cfg(test)]
mod tests {
    use super::{Kind, TABLE};
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_follow_the_rules_of_prometheus() {
        let unique: BTreeSet<_> = TABLE.iter().map(|n| n.name).collect();
        assert_eq!(unique.len(), TABLE.len());
        for name in TABLE {
            assert!(
                name.name
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b == b'_'),
                "{}",
                name.name
            );
            assert!(name.help.ends_with('.'), "{}", name.name);
            assert_eq!(
                name.kind == Kind::Counter,
                name.name.ends_with("_total"),
                "{}",
                name.name
            );
        }
    }
}

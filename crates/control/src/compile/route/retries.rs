//! Retries of a route as Envoy's message, with our safe default and with Istio's choice of another endpoint.

use naka_api::networking::virtual_service::Retries;
use naka_wire::envoy::config::route::v3::RetryPolicy;
use naka_wire::envoy::config::route::v3::retry_policy::{
    RetryBackOff, RetryHostPredicate, RetryPriority, retry_host_predicate, retry_priority,
};
use naka_wire::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use naka_wire::envoy::extensions::retry::priority::previous_priorities::v3::PreviousPrioritiesConfig;
use naka_wire::google::protobuf::UInt32Value;
use naka_wire::time;

/// Tries after the first when nothing is said.
const DEFAULT_RETRIES: u32 = 2;
/// Only what was provably not processed (design decision 12).
const DEFAULT_RETRY_ON: &str = "connect-failure,refused-stream,reset-before-request";
/// When a number of tries is written without conditions: Istio's list.
const WRITTEN_RETRY_ON: &str =
    "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";
const RETRIED_STATUS: u32 = 503;
/// How often another endpoint is looked for before one that was tried is taken all the same; Istio's number.
const LOOKS: i64 = 5;
/// Tries after which the priorities used so far are left out; Istio's number.
const TRIES_PER_PRIORITY: i32 = 2;

/// Where a retry goes: not to an endpoint that was tried, and to other priorities in the end.
fn elsewhere(ignore_previous_hosts: bool, remote_localities: bool) -> RetryPolicy {
    RetryPolicy {
        retry_host_predicate: ignore_previous_hosts
            .then(|| RetryHostPredicate {
                name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
                config_type: Some(retry_host_predicate::ConfigType::TypedConfig(
                    naka_wire::pack(&PreviousHostsPredicate {}),
                )),
            })
            .into_iter()
            .collect(),
        host_selection_retry_max_attempts: if ignore_previous_hosts { LOOKS } else { 0 },
        retry_priority: remote_localities.then(|| RetryPriority {
            name: "envoy.retry_priorities.previous_priorities".to_owned(),
            config_type: Some(retry_priority::ConfigType::TypedConfig(naka_wire::pack(
                &PreviousPrioritiesConfig {
                    update_frequency: TRIES_PER_PRIORITY,
                },
            ))),
        }),
        ..RetryPolicy::default()
    }
}

/// `None` = no retries at all.
pub(super) fn retries(written: Option<&Retries>) -> Option<RetryPolicy> {
    let tries = |value: u32| Some(UInt32Value { value });
    let Some(written) = written else {
        return Some(RetryPolicy {
            retry_on: DEFAULT_RETRY_ON.to_owned(),
            num_retries: tries(DEFAULT_RETRIES),
            ..elsewhere(true, false)
        });
    };
    if written.attempts == 0 {
        return None;
    }
    let (codes, words): (Vec<_>, Vec<_>) = written
        .on
        .iter()
        .partition(|word| word.parse::<u16>().is_ok());
    let mut retry_on = words.into_iter().cloned().collect::<Vec<_>>().join(",");
    let mut statuses: Vec<u32> = codes.iter().filter_map(|code| code.parse().ok()).collect();
    if written.on.is_empty() {
        retry_on = WRITTEN_RETRY_ON.to_owned();
        statuses = vec![RETRIED_STATUS];
    } else if !statuses.is_empty() && !retry_on.contains("retriable-status-codes") {
        if !retry_on.is_empty() {
            retry_on.push(',');
        }
        retry_on.push_str("retriable-status-codes");
    }
    Some(RetryPolicy {
        retry_on,
        num_retries: tries(written.attempts),
        per_try_timeout: written.per_try_timeout.map(time::to_wire),
        retriable_status_codes: statuses,
        retry_back_off: written.backoff.map(|base| RetryBackOff {
            base_interval: Some(time::to_wire(base)),
            max_interval: None,
        }),
        ..elsewhere(written.ignore_previous_hosts, written.remote_localities)
    })
}

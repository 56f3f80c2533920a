//! Load balancing and timeouts that do something else than they seem to.

use super::{policies, say};
use crate::codes;
use crate::networking::destination_rule::DestinationRule;
use crate::networking::destination_rule::balancer::Algorithm;
use crate::networking::virtual_service::VirtualService;
use crate::object::Object;
use naka_types::duration::Show;
use naka_types::finding::Finding;

pub(super) fn check_rule(out: &mut Vec<Finding>, object: &Object, rule: &DestinationRule) {
    for (at, policy) in policies::every_policy(rule) {
        let Some(balancer) = &policy.load_balancer else {
            continue;
        };
        if balancer.algorithm == Algorithm::Passthrough {
            say(
                out,
                codes::L340,
                object,
                &format!("{at}.loadBalancer.simple"),
                "PASSTHROUGH calls the address that a program names; calls by the service's name get 503".to_owned(),
                "use LEAST_REQUEST, unless programs call addresses of endpoints".to_owned(),
            );
        }
        if balancer.warmup.is_some() && !balancer.warms_up() {
            say(
                out,
                codes::L341,
                object,
                &format!("{at}.loadBalancer.warmup"),
                "only ROUND_ROBIN and LEAST_REQUEST warm endpoints up; here warmup does nothing"
                    .to_owned(),
                "remove it, or use one of those".to_owned(),
            );
        }
    }
}

/// Routes whose time ends before a connection of their destination may have come about.
pub(super) fn check_routes(
    out: &mut Vec<Finding>,
    object: &Object,
    service: &VirtualService,
    objects: &[&Object],
) {
    for route in &service.http {
        let Some(timeout) = route.timeout.filter(|timeout| !timeout.is_zero()) else {
            continue;
        };
        for weighted in route.destinations() {
            let target = &weighted.destination;
            let rules = objects.iter().filter_map(|other| other.destination_rule());
            let Some(rule) = rules.into_iter().find(|rule| rule.host == target.host) else {
                continue;
            };
            let port = target.port.unwrap_or(80);
            let pool = rule
                .effective(target.subset.as_deref(), port)
                .connection_pool;
            let Some(connect) = pool.and_then(|pool| pool.connect_timeout) else {
                continue;
            };
            if connect > timeout {
                say(
                    out,
                    codes::L305,
                    object,
                    &format!("spec.http[{}].timeout", route.index),
                    format!(
                        "the timeout of {} ends before the connectTimeout of {} towards {}: a host that does not answer uses up the whole call, without a retry",
                        Show(timeout),
                        Show(connect),
                        target.host
                    ),
                    format!("set connectTimeout well below {}", Show(timeout)),
                );
                break;
            }
        }
    }
}

//! What would make an Envoy refuse a whole route configuration for one value, taken out or written another way.
//!
//! Our own proxies take header values as they are written; Envoy reads `%` as the start of a variable and refuses
//! what is none. Headers that only the proxy itself may touch, and shares of nothing, are refused too.

use super::limit;
use naka_wire::envoy::config::core::v3::HeaderValueOption;
use naka_wire::envoy::config::route::v3::{
    DirectResponseAction, RouteAction, VirtualHost, WeightedCluster, route, route_action,
};
use naka_wire::google::protobuf::UInt32Value;

const UNAVAILABLE: u32 = 503;
/// Variables that manifests for Istio use and every Envoy knows; anything else is text.
const VARIABLES: [&str; 6] = [
    "%DOWNSTREAM_LOCAL_ADDRESS%",
    "%DOWNSTREAM_REMOTE_ADDRESS%",
    "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "%HOSTNAME%",
    "%PROTOCOL%",
    "%START_TIME%",
];

/// The same virtual host as Envoy takes it.
pub(super) fn acceptable(mut host: VirtualHost) -> VirtualHost {
    for route in &mut host.routes {
        limit::named(route);
        additions(&mut route.request_headers_to_add);
        additions(&mut route.response_headers_to_add);
        removals(&mut route.request_headers_to_remove);
        removals(&mut route.response_headers_to_remove);
        if let Some(route::Action::Route(action)) = &mut route.action
            && !shared(action)
        {
            route.action = Some(route::Action::DirectResponse(DirectResponseAction {
                status: UNAVAILABLE,
                ..DirectResponseAction::default()
            }));
        }
    }
    host
}

/// Puts the shares of an action right; false when nobody has one.
fn shared(action: &mut RouteAction) -> bool {
    let Some(route_action::ClusterSpecifier::WeightedClusters(WeightedCluster {
        clusters, ..
    })) = &mut action.cluster_specifier
    else {
        return true;
    };
    for share in clusters.iter_mut() {
        additions(&mut share.request_headers_to_add);
        additions(&mut share.response_headers_to_add);
        removals(&mut share.request_headers_to_remove);
        removals(&mut share.response_headers_to_remove);
    }
    let weight = |share: &Option<UInt32Value>| u64::from(share.map_or(0, |weight| weight.value));
    if clusters
        .iter()
        .map(|share| weight(&share.weight))
        .sum::<u64>()
        > 0
    {
        return true;
    }
    // One destination without weight gets everything, as in Istio.
    match clusters.as_mut_slice() {
        [only] => {
            only.weight = Some(UInt32Value { value: 1 });
            true
        }
        _ => false,
    }
}

fn own(name: &str) -> bool {
    name.starts_with(':') || name.eq_ignore_ascii_case("host")
}

fn removals(names: &mut Vec<String>) {
    names.retain(|name| !own(name));
}

fn additions(options: &mut Vec<HeaderValueOption>) {
    options.retain(|option| {
        let header = option.header.as_ref();
        !header.is_some_and(|header| own(&header.key))
    });
    for header in options
        .iter_mut()
        .filter_map(|option| option.header.as_mut())
    {
        if header.value.contains('%') {
            header.value = escaped(&header.value);
        }
    }
}

/// Text with `%` written twice, except where it is doubled already or starts a variable.
fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len() + 8);
    let mut rest = value;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let known = VARIABLES.iter().find(|known| rest.starts_with(**known));
        let taken = match known {
            Some(known) => {
                out.push_str(known);
                known.len()
            }
            None => {
                out.push_str("%%");
                if rest.starts_with("%%") { 2 } else { 1 }
            }
        };
        rest = &rest[taken..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::escaped;

    #[test]
    fn a_percent_sign_is_text_unless_it_starts_a_variable() {
        for (written, taken) in [
            ("%b", "%%b"),
            ("100%", "100%%"),
            ("a%%b", "a%%b"),
            ("%FOO%", "%%FOO%%"),
            ("by %PROTOCOL%!", "by %PROTOCOL%!"),
            ("%2F é%", "%%2F é%%"),
        ] {
            assert_eq!(escaped(written), taken);
        }
    }
}

//! Routes as received against routes as understood: Envoy's meaning, and what is refused with its place.

use super::*;
use naka_engine::model::{HeaderRule, PathCondition};
use naka_wire::envoy::config::core::v3::RuntimeFractionalPercent;
use naka_wire::envoy::config::route::v3::{
    HeaderMatcher, RouteAction, RouteMatch, header_matcher::HeaderMatchSpecifier,
    route_match::PathSpecifier, weighted_cluster::ClusterWeight,
};
use naka_wire::envoy::r#type::matcher::v3::RegexMatcher;
use naka_wire::google::protobuf::{Any, UInt32Value};

fn prefix(text: &str) -> RouteMatch {
    RouteMatch {
        path_specifier: Some(PathSpecifier::Prefix(text.into())),
        ..RouteMatch::default()
    }
}

fn to(cluster: &str) -> RouteAction {
    RouteAction {
        cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(cluster.into())),
        ..RouteAction::default()
    }
}

fn a_route(wanted: RouteMatch, action: RouteAction) -> pb::Route {
    pb::Route {
        name: "r".into(),
        r#match: Some(wanted),
        action: Some(route_pb::Action::Route(action)),
        ..pb::Route::default()
    }
}

fn a_host(routes: Vec<pb::Route>) -> pb::VirtualHost {
    pb::VirtualHost {
        name: "80/pay.default.svc.cluster.local:80".into(),
        domains: vec!["pay.default.svc.cluster.local".into()],
        routes,
        ..pb::VirtualHost::default()
    }
}

fn take(wire: &pb::VirtualHost) -> Result<Taken<VirtualHost>, Error> {
    let mut names: Vec<String> = Vec::new();
    virtual_host(wire, None, &mut |name| {
        let at = names.iter().position(|known| known == name);
        let at = at.unwrap_or_else(|| {
            names.push(name.to_owned());
            names.len() - 1
        });
        ClusterId(u32::try_from(at).unwrap())
    })
}

/// The one route of a host with this one, or what was said of it.
fn one(wire: pb::Route) -> Result<Route, String> {
    let taken = take(&a_host(vec![wire])).unwrap();
    match taken.model.routes.first() {
        Some(route) => Ok((**route).clone()),
        None => Err(taken.left_out[0].to_string()),
    }
}

#[track_caller]
fn forwarded(route: &Route) -> &Forward {
    match &route.action {
        Action::Forward(forward) => forward,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_plain_route_has_envoys_defaults() {
    let route = one(a_route(prefix("/"), to("outbound|80||pay"))).unwrap();
    let forward = forwarded(&route);
    assert_eq!(forward.timeout, Some(ENVOY_TIMEOUT));
    assert_eq!(forward.retry, RetryPolicy::off());
    assert_eq!(&*forward.clusters()[0].name, "outbound|80||pay");
}

#[test]
fn zero_means_no_timeout_and_the_safe_retry_default_is_the_engines() {
    let action = RouteAction {
        timeout: Some(time::to_wire(Duration::ZERO)),
        retry_policy: Some(pb::RetryPolicy {
            retry_on: SAFE_DEFAULT.into(),
            num_retries: Some(UInt32Value { value: 2 }),
            ..pb::RetryPolicy::default()
        }),
        ..to("c")
    };
    let route = one(a_route(prefix("/"), action.clone())).unwrap();
    assert_eq!(forwarded(&route).timeout, None);
    assert_eq!(forwarded(&route).retry, RetryPolicy::default());
    let mut written = action;
    written.retry_policy.as_mut().unwrap().retry_on = "5xx,retriable-status-codes".into();
    written
        .retry_policy
        .as_mut()
        .unwrap()
        .retriable_status_codes = vec![409, 503];
    let route = one(a_route(prefix("/"), written)).unwrap();
    let retry = &forwarded(&route).retry;
    assert!(retry.explicit && retry.on.any(RetryOn::FIVE_XX));
    assert_eq!(*retry.statuses, [409, 503]);
}

#[test]
fn weights_keep_their_clusters() {
    let share = |name: &str, value: u32| ClusterWeight {
        name: name.into(),
        weight: Some(UInt32Value { value }),
        ..ClusterWeight::default()
    };
    let action = |shares| RouteAction {
        cluster_specifier: Some(route_action::ClusterSpecifier::WeightedClusters(
            pb::WeightedCluster {
                clusters: shares,
                ..pb::WeightedCluster::default()
            },
        )),
        ..RouteAction::default()
    };
    let route = one(a_route(
        prefix("/"),
        action(vec![share("a", 90), share("b", 10)]),
    ))
    .unwrap();
    let got: Vec<(u32, u32)> = forwarded(&route)
        .clusters()
        .iter()
        .map(|c| (c.cluster.0, c.weight))
        .collect();
    assert_eq!(got, [(0, 90), (1, 10)]);
    let refused = one(a_route(
        prefix("/"),
        action(vec![share("a", 0), share("b", 0)]),
    ));
    assert!(
        refused
            .unwrap_err()
            .starts_with("routes[0].route.weighted_clusters")
    );
}

#[test]
#[expect(
    deprecated,
    reason = "older control planes still write the older forms"
)]
fn conditions_of_every_kind() {
    use HeaderMatchSpecifier as Kind;
    let header = |name: &str, kind| HeaderMatcher {
        name: name.into(),
        header_match_specifier: Some(kind),
        ..HeaderMatcher::default()
    };
    let wanted = RouteMatch {
        headers: vec![
            header(":method", Kind::ExactMatch("POST".into())),
            header(":authority", Kind::PrefixMatch("pay".into())),
            header("x-a", Kind::PresentMatch(false)),
            header("x-b", Kind::SuffixMatch("z".into())),
        ],
        ..prefix("/v1")
    };
    let route = one(a_route(wanted, to("c"))).unwrap();
    let matches = &route.matches;
    assert_eq!(matches.path, PathCondition::Prefix("/v1".into()));
    assert!(matches.method.as_ref().unwrap().holds(b"POST"));
    assert!(matches.authority.as_ref().unwrap().holds(b"payment"));
    assert_eq!(matches.headers.len(), 2);
    assert!(matches.headers[0].invert && matches.headers[0].rule == HeaderRule::Present);
    assert!(matches.headers[1].holds(Some(b"xyz")) && !matches.headers[1].holds(None));
}

#[test]
fn what_would_let_more_through_leaves_its_route_out_and_names_the_field() {
    let sound = || a_route(prefix("/"), to("c"));
    let narrowed = RouteMatch {
        runtime_fraction: Some(RuntimeFractionalPercent::default()),
        ..prefix("/a")
    };
    let broken = RouteMatch {
        path_specifier: Some(PathSpecifier::SafeRegex(RegexMatcher {
            regex: "(".into(),
            ..RegexMatcher::default()
        })),
        ..RouteMatch::default()
    };
    let filtered = pb::Route {
        typed_per_filter_config: [("rbac".to_owned(), Any::default())].into(),
        ..sound()
    };
    let by_header = RouteAction {
        cluster_specifier: Some(route_action::ClusterSpecifier::ClusterHeader("x".into())),
        ..RouteAction::default()
    };
    for (bad, field) in [
        (
            a_route(narrowed, to("c")),
            "routes[1].match.runtime_fraction",
        ),
        (a_route(broken, to("c")), "routes[1].match.safe_regex"),
        (
            a_route(RouteMatch::default(), to("c")),
            "routes[1].match.path_specifier",
        ),
        (filtered, "routes[1].typed_per_filter_config[rbac]"),
        (
            a_route(prefix("/"), by_header),
            "routes[1].route.cluster_specifier",
        ),
        (
            pb::Route {
                r#match: None,
                ..sound()
            },
            "routes[1].match",
        ),
        (
            pb::Route {
                action: None,
                ..sound()
            },
            "routes[1].action",
        ),
    ] {
        let taken = take(&a_host(vec![sound(), bad, sound()])).unwrap();
        assert_eq!(
            taken.model.routes.len(),
            2,
            "{field}: the sound rest stands"
        );
        assert_eq!(taken.left_out.len(), 1);
        assert_eq!(taken.left_out[0].field, field);
    }
}

#[test]
fn an_unsound_host_is_refused_whole() {
    let bad = [
        pb::VirtualHost {
            name: "pay".into(),
            ..a_host(vec![])
        },
        pb::VirtualHost {
            require_tls: 1,
            ..a_host(vec![])
        },
        pb::VirtualHost {
            domains: vec!["pay.*".into()],
            ..a_host(vec![])
        },
    ];
    let fields: Vec<String> = bad
        .iter()
        .map(|wire| take(wire).unwrap_err().field)
        .collect();
    assert_eq!(fields, ["name", "require_tls", "domains[0]"]);
}

#[test]
fn redirects_and_answers() {
    let mut wire = a_route(prefix("/"), to("c"));
    wire.action = Some(route_pb::Action::Redirect(pb::RedirectAction {
        response_code: 3,
        host_redirect: "new".into(),
        port_redirect: 8443,
        ..pb::RedirectAction::default()
    }));
    match one(wire.clone()).unwrap().action {
        Action::Redirect(redirect) => {
            assert_eq!(redirect.status.as_u16(), 307);
            assert_eq!(redirect.port, Some(8443));
        }
        other => panic!("{other:?}"),
    }
    for (status, sound) in [(503, true), (99, false), (70_000, false)] {
        wire.action = Some(route_pb::Action::DirectResponse(pb::DirectResponseAction {
            status,
            ..pb::DirectResponseAction::default()
        }));
        assert_eq!(one(wire.clone()).is_ok(), sound, "{status}");
    }
}

//! The filters that Istio writes for CUSTOM, and forms of them that would let more through if they were guessed at.

use super::*;
use naka_engine::model::ClusterId;
use naka_wire::envoy::config::core::v3::{HttpUri, RuntimeFractionalPercent};
use naka_wire::envoy::config::rbac::v3::{Policy, Rbac, rbac::Action};
use naka_wire::envoy::r#type::matcher::v3::MetadataMatcher;
use naka_wire::google::protobuf::Any;

fn filter(name: &str, any: Any) -> HttpFilter {
    HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(any)),
        ..HttpFilter::default()
    }
}

fn rules() -> HttpFilter {
    let shadow = Rbac {
        action: Action::Deny as i32,
        policies: [("istio-ext-authz-a".to_owned(), Policy::default())].into(),
        ..Rbac::default()
    };
    filter(
        access::HTTP,
        naka_wire::pack(&HttpRbac {
            shadow_rules: Some(shadow),
            shadow_rules_stat_prefix: PREFIX.to_owned(),
            ..HttpRbac::default()
        }),
    )
}

fn asks(change: impl FnOnce(&mut ExtAuthz)) -> HttpFilter {
    let uri = HttpUri {
        uri: "http://a".to_owned(),
        http_upstream_type: Some(http_uri::HttpUpstreamType::Cluster("a".to_owned())),
        ..HttpUri::default()
    };
    let mut wire = ExtAuthz {
        services: Some(Services::HttpService(HttpService {
            server_uri: Some(uri),
            path_prefix: "/check".to_owned(),
            ..HttpService::default()
        })),
        filter_enabled_metadata: Some(MetadataMatcher::default()),
        ..ExtAuthz::default()
    };
    change(&mut wire);
    filter(NAME, naka_wire::pack(&wire))
}

type Change = fn(&mut ExtAuthz);

fn take(filters: &[HttpFilter]) -> Result<Option<Check>, Error> {
    of_requests(filters, &mut |_| ClusterId(7))
}

#[test]
fn rules_and_who_is_asked_belong_together() {
    let check = take(&[rules(), asks(|_| ())]).unwrap().unwrap();
    assert_eq!(&*check.rules[0].name, "istio-ext-authz-a");
    let authorizer = &check.authorizer;
    assert_eq!((authorizer.cluster, &*authorizer.name), (ClusterId(7), "a"));
    assert_eq!((authorizer.timeout, authorizer.fail_open), (TIMEOUT, false));
    assert_eq!(authorizer.status_on_error, 403);
    let Asks::Http(http) = &authorizer.asks else {
        panic!("{authorizer:?}");
    };
    assert_eq!(&*http.path_prefix, "/check");
    assert_eq!(take(&[]), Ok(None));
    for wrong in [
        vec![rules()],
        vec![asks(|_| ())],
        vec![rules(), asks(|_| ()), asks(|_| ())],
        vec![rules(), rules(), asks(|_| ())],
    ] {
        assert!(take(&wrong).is_err(), "{wrong:?}");
    }
    let access = access::of_requests(&[rules(), asks(|_| ())], &mut |_| ClusterId(7));
    let access = access.unwrap().unwrap();
    assert!(access.filters.is_empty() && access.check.is_some());
}

#[test]
fn what_cannot_be_carried_out_is_refused() {
    let tries: [(&str, Change); 6] = [
        ("filter_enabled", |wire| {
            wire.filter_enabled = Some(RuntimeFractionalPercent::default());
        }),
        ("filter_enabled_metadata", |wire| {
            wire.filter_enabled_metadata = None
        }),
        ("services", |wire| wire.services = None),
        ("encode_raw_headers", |wire| wire.encode_raw_headers = true),
        ("http_service", |wire| {
            if let Some(Services::HttpService(service)) = &mut wire.services {
                service.server_uri = None;
            }
        }),
        ("http_service", |wire| {
            if let Some(Services::HttpService(service)) = &mut wire.services {
                service.path_override = "/x".to_owned();
            }
        }),
    ];
    for (field, change) in tries {
        let error = take(&[rules(), asks(change)]).unwrap_err();
        assert!(
            error.field.starts_with(&format!("ext_authz.{field}")),
            "{error}"
        );
    }
}

//! What comes out: which parts stay in force, how names resolve, what is kept.

use naka_api::core::service::TargetPort;
use naka_api::networking::destination_rule::{
    ClientTls, LoadBalancer, TlsMode, balancer::Algorithm,
};
use naka_api::networking::virtual_service::{Action, GatewayRef, RedirectPort, StringMatch};
use naka_api::security::peer_authentication::MtlsMode;
use naka_api::{Decoded, Kind, Mode, Object, decode_json, decode_yaml, diff};
use naka_types::protocol::Protocol;
use serde_json::json;
use std::time::Duration;

fn decode(text: &str) -> Decoded {
    decode_yaml("f.yaml", text.as_bytes(), Mode::Compat)
}

fn one(text: &str) -> Object {
    let decoded = decode(text);
    assert_eq!(decoded.objects.len(), 1, "{:#?}", decoded.findings);
    decoded.objects.into_iter().next().expect("one object")
}

fn codes(decoded: &Decoded) -> Vec<&str> {
    decoded
        .findings
        .iter()
        .map(|finding| finding.code.as_str())
        .collect()
}

const VS: &str = "apiVersion: networking.istio.io/v1beta1\nkind: VirtualService\nmetadata: {name: v, namespace: shop}\nspec:\n  hosts: [pay]\n  http:\n";

#[test]
fn one_broken_document_leaves_the_others() {
    for broken in ["a: [1, 2\n", "a: b: c\n", "'\n", "a: *missing\n"] {
        let good =
            |name: &str| format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n");
        let decoded = decode(&format!(
            "# first\n{}---\n{broken}---\n{}",
            good("a"),
            good("b")
        ));
        let names: Vec<&str> = decoded
            .objects
            .iter()
            .map(|object| object.meta.name.as_str())
            .collect();
        assert_eq!(names, ["a", "b"], "{broken:?}");
        assert_eq!(codes(&decoded), ["E001"], "{broken:?}");
        assert!(
            (5..=8).contains(&decoded.findings[0].line),
            "{broken:?}: line {}",
            decoded.findings[0].line
        );
    }
}

#[test]
fn a_bad_route_falls_out_alone_and_names_resolve() {
    let object = one(&format!(
        "{VS}  - match: [{{uri: {{prefix: /a}}}}]\n    route: [{{destination: {{host: pay.bank.svc, subset: v1}}}}]\n  - route: [{{destinatoin: {{host: x}}}}]\n  - name: last\n    route: [{{destination: {{host: other.com}}}}]\n  gateways: [mesh, edge, infra/main]\n"
    ));
    let service = object.virtual_service().unwrap();
    assert_eq!(service.hosts[0].as_str(), "pay.shop.svc.cluster.local");
    let labels: Vec<(usize, String)> = service
        .http
        .iter()
        .map(|route| (route.index, route.label()))
        .collect();
    assert_eq!(labels, [(0, "0".to_owned()), (2, "last".to_owned())]);
    let first = &service.http[0].destinations()[0];
    assert_eq!(
        (first.destination.host.as_str(), first.weight),
        ("pay.bank.svc.cluster.local", 100)
    );
    assert_eq!(
        service.http[1].destinations()[0].destination.host.as_str(),
        "other.com"
    );
    let named = |namespace: &str, name: &str| GatewayRef::Named {
        namespace: namespace.into(),
        name: name.into(),
    };
    assert_eq!(
        service.gateways,
        [
            GatewayRef::Mesh,
            named("shop", "edge"),
            named("infra", "main")
        ]
    );
    assert_eq!(
        object.raw["spec"]["http"].as_array().unwrap().len(),
        3,
        "raw keeps what was written"
    );
    assert_eq!(object.raw["apiVersion"], "networking.istio.io/v1");
}

/// Routes that fall out, and why.
const OUT_OF_FORCE: &[(&str, &str)] = &[
    ("{route: [{destination: {host: a}, weight: -1}]}", "E007"),
    ("{route: [{destination: {host: a}, weight: 0}]}", "E007"),
    (
        "{route: [{destination: {host: a}, weight: 1}, {destination: {host: b}}]}",
        "E006",
    ),
    (
        "{route: [{destination: {host: a}, weight: 4294967296}]}",
        "E007",
    ),
    ("{route: [{destination: {host: 'a b'}}]}", "E007"),
    ("{route: [{destination: {host: '*.a'}}]}", "E007"),
    (
        "{route: [{destination: {host: a, port: {number: 70000}}}]}",
        "E007",
    ),
    (
        "{route: [{destination: {host: a, port: {number: 0}}}]}",
        "E007",
    ),
    ("{route: []}", "E006"),
    ("{route: {destination: {host: a}}}", "E003"),
    (
        "{match: [{uri: {regex: '(?=a)'}}], route: [{destination: {host: a}}]}",
        "E007",
    ),
    (
        "{match: [{uri: {regex: '('}}], route: [{destination: {host: a}}]}",
        "E007",
    ),
    (
        "{match: [{uri: {regex: '(a{1000}){1000}'}}], route: [{destination: {host: a}}]}",
        "E007",
    ),
    (
        "{match: [{uri: {exact: a, prefix: b}}], route: [{destination: {host: a}}]}",
        "E007",
    ),
    (
        "{match: [{uri: {}}], route: [{destination: {host: a}}]}",
        "E006",
    ),
    (
        "{match: [{headers: {a: null}}], route: [{destination: {host: a}}]}",
        "E003",
    ),
    (
        "{match: [{headers: {'a b': {}}}], route: [{destination: {host: a}}]}",
        "E007",
    ),
    ("{delegate: {namespace: x}}", "E006"),
    (
        "{delegate: {name: x}, route: [{destination: {host: a}}]}",
        "E007",
    ),
    ("{fault: {}, route: [{destination: {host: a}}]}", "E006"),
    (
        "{fault: {delay: {percentage: {value: 1}}}, route: [{destination: {host: a}}]}",
        "E006",
    ),
    (
        "{fault: {delay: {fixedDelay: 0s}}, route: [{destination: {host: a}}]}",
        "E007",
    ),
    (
        "{fault: {delay: {fixedDelay: 1s, percentage: {value: 101}}}, route: [{destination: {host: a}}]}",
        "E007",
    ),
    (
        "{fault: {abort: {httpStatus: 199}}, route: [{destination: {host: a}}]}",
        "E007",
    ),
    (
        "{fault: {abort: {httpStatus: 600}}, route: [{destination: {host: a}}]}",
        "E007",
    ),
    (
        "{fault: {abort: {httpStatus: 503, grpcStatus: UNAVAILABLE}}, route: [{destination: {host: a}}]}",
        "E007",
    ),
    (
        "{fault: {abort: {grpcStatus: UNAVAILBLE}}, route: [{destination: {host: a}}]}",
        "E007",
    ),
    (
        "{fault: {abort: {percentage: {value: 1}}}, route: [{destination: {host: a}}]}",
        "E006",
    ),
    (
        "{mirror: {host: a}, mirrors: [{destination: {host: b}}], route: [{destination: {host: a}}]}",
        "E007",
    ),
    (
        "{mirror: {host: '*.a'}, route: [{destination: {host: a}}]}",
        "E007",
    ),
    (
        "{corsPolicy: {allowOrigins: [{regex: '('}]}, route: [{destination: {host: a}}]}",
        "E007",
    ),
    (
        "{corsPolicy: {allowMethods: ['GET, POST']}, route: [{destination: {host: a}}]}",
        "E007",
    ),
    (
        "{corsPolicy: {maxAge: 3}, route: [{destination: {host: a}}]}",
        "E003",
    ),
    ("{timeout: -3s, route: [{destination: {host: a}}]}", "E007"),
    ("{timeout: 3, route: [{destination: {host: a}}]}", "E003"),
    (
        "{retries: {attempts: 2, retryOn: 6xx}, route: [{destination: {host: a}}]}",
        "E007",
    ),
    ("{redirect: {redirectCode: 304}}", "E007"),
    (
        "{redirect: {uri: /a}, route: [{destination: {host: a}}]}",
        "E007",
    ),
    ("{redirect: {uri: \"/a\\r\\nx: y\"}}", "E007"),
    ("{directResponse: {status: 99}}", "E007"),
    ("{directResponse: {}}", "E006"),
    (
        "{directResponse: {status: 200, body: {bytes: '%'}}}",
        "E007",
    ),
    (
        "{headers: {request: {set: {transfer-encoding: chunked}}}, route: [{destination: {host: a}}]}",
        "E007",
    ),
    (
        "{headers: {request: {set: {a: \"b\\nc\"}}}, route: [{destination: {host: a}}]}",
        "E007",
    ),
    ("{}", "E006"),
];

/// Each puts exactly the first of two routes out of force.
#[test]
fn what_puts_a_route_out_of_force() {
    for (route, code) in OUT_OF_FORCE {
        let decoded = decode(&format!(
            "{VS}  - {route}\n  - route: [{{destination: {{host: ok}}}}]\n"
        ));
        assert!(
            codes(&decoded).contains(code),
            "{route}: {:?}",
            decoded.findings
        );
        assert!(
            decoded
                .findings
                .iter()
                .filter(|finding| finding.is_error())
                .all(|finding| finding.field.starts_with("spec.http[0]")),
            "{:?}",
            decoded.findings
        );
        let service = decoded.objects[0].virtual_service().unwrap();
        assert_eq!(
            service
                .http
                .iter()
                .map(|route| route.index)
                .collect::<Vec<_>>(),
            [1],
            "{route}"
        );
        // Alone, it takes the object with it: an object without a route would answer 404 to everything.
        assert_eq!(
            decode(&format!("{VS}  - {route}\n")).objects.len(),
            0,
            "{route}"
        );
    }
}

#[test]
fn an_error_outside_of_parts_refuses_the_object() {
    for text in [
        format!("{VS}  - route: [{{destination: {{host: a}}}}]\n  hots: [b]\n"),
        format!("{VS}  - route: [{{destination: {{host: a}}}}]\n").replace("hosts: [pay]", "gateways: [edge]"),
        format!("{VS}  - route: [{{destination: {{host: a}}}}]\n").replace("hosts: [pay]", "hosts: ['a/b']"),
        format!("{VS}  - route: [{{destination: {{host: a}}}}]\n").replace("name: v", "name: V_"),
        format!("{VS}  - route: [{{destination: {{host: a}}}}]\n").replace("name: v,", ""),
        format!("{VS}  - route: [{{destination: {{host: a}}}}]\n").replace("metadata: {name: v, namespace: shop}", "metadata: []"),
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d}\nspec: {host: a, trafficPolicy: {tunnel: {targetHost: a, targetPort: 1, protocol: UDP}}}\n".to_owned(),
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p}\nspec: {mtls: {mode: STRCIT}}\n".to_owned(),
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p}\nspec: {portLevelMtls: {80: {mode: STRICT}}}\n".to_owned(),
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: a, namespace: b}\n".to_owned(),
        "apiVersion: v1\nkind: Service\nmetadata: {name: a.b}\nspec: {}\n".to_owned(),
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {type: ExternalName, externalName: x.com}\n".to_owned(),
        "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: a}\nspec: {address: 'unix:///x'}\n".to_owned(),
    ] {
        let decoded = decode(&text);
        assert!(decoded.objects.is_empty(), "{text}");
        assert!(decoded.findings.iter().any(naka_types::finding::Finding::is_error), "{text}");
    }
}

#[test]
fn everything_a_route_can_say() {
    let object = one(&format!(
        "{VS}  - match:\n    - {{uri: {{prefix: /A}}, ignoreUriCase: true, method: {{exact: GET}}, scheme: {{exact: http}}, authority: {{regex: 'a.*'}}, headers: {{X-A: {{prefix: b}}, x-b: {{}}}}, withoutHeaders: {{x-c: {{}}}}, queryParams: {{Q: {{exact: '1'}}}}, port: 80, gateways: [mesh]}}\n    route: [{{destination: {{host: a, port: {{number: 8080}}}}, headers: {{response: {{remove: [Server]}}}}}}]\n    rewrite: {{uriRegexRewrite: {{match: '^/a/(.*)', rewrite: '/\\1'}}, authority: b}}\n    timeout: 0s\n    retries: {{attempts: 0, perTryTimeout: 250ms, backoff: 5ms}}\n    headers: {{request: {{set: {{X-S: s}}, add: {{x-a: a}}}}}}\n  - redirect: {{prefixRewrite: /b, authority: c, derivePort: FROM_REQUEST_PORT, scheme: https}}\n  - directResponse: {{status: 503, body: {{bytes: aGk=}}}}\n"
    ));
    let service = object.virtual_service().unwrap();
    let (route, condition) = (&service.http[0], &service.http[0].matches[0]);
    assert_eq!(
        condition.headers,
        [
            ("x-a".to_owned(), StringMatch::Prefix("b".into())),
            ("x-b".to_owned(), StringMatch::Present)
        ]
    );
    assert_eq!(condition.query_params[0].0, "Q");
    assert!(condition.ignore_uri_case && !condition.is_catch_all());
    assert_eq!(
        (condition.port, condition.gateways.as_slice()),
        (Some(80), [GatewayRef::Mesh].as_slice())
    );
    assert_eq!(route.timeout, Some(Duration::ZERO));
    let retries = route.retries.as_ref().unwrap();
    assert_eq!(
        (retries.attempts, retries.per_try_timeout, retries.backoff),
        (
            0,
            Some(Duration::from_millis(250)),
            Some(Duration::from_millis(5))
        )
    );
    assert_eq!(
        route.rewrite.as_ref().unwrap().uri_regex,
        Some(("^/a/(.*)".into(), "/\\1".into()))
    );
    assert_eq!(route.headers.request.set["x-s"], "s");
    assert_eq!(route.destinations()[0].headers.response.remove, ["server"]);
    assert_eq!(route.destinations()[0].destination.port, Some(8080));
    let Action::Redirect(redirect) = &service.http[1].action else {
        panic!("{:?}", service.http[1])
    };
    assert_eq!(
        (redirect.prefix.as_deref(), redirect.port, redirect.code),
        (Some("/b"), Some(RedirectPort::Request), 301)
    );
    let Action::Direct(direct) = &service.http[2].action else {
        panic!("{:?}", service.http[2])
    };
    assert_eq!(
        (direct.status, direct.body.as_slice()),
        (503, b"hi".as_slice())
    );
}

#[test]
fn policies_replace_and_do_not_merge() {
    let object = one(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d}\nspec:\n  host: pay\n  trafficPolicy:\n    loadBalancer: {simple: ROUND_ROBIN}\n    connectionPool: {tcp: {maxConnections: 7, connectTimeout: 2s}}\n    tls: {mode: DISABLE}\n    portLevelSettings: [{port: {number: 9}, tls: {mode: ISTIO_MUTUAL}}]\n  subsets:\n  - {name: a, labels: {version: v1}, trafficPolicy: {connectionPool: {http: {http2MaxRequests: 3}}}}\n  - {name: b, trafficPolicy: {portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: RANDOM}}]}}\n  - {name: c, trafficPolicy: {loadBalancer: {consistentHash: {}}}}\n",
    );
    let rule = object.destination_rule().unwrap();
    assert_eq!(
        rule.subsets
            .iter()
            .map(|subset| subset.name.as_str())
            .collect::<Vec<_>>(),
        ["a", "b"],
        "c is refused alone"
    );
    let a = rule.effective(Some("a"), 80);
    let pool = a.connection_pool.unwrap();
    assert_eq!(
        (
            pool.max_requests,
            pool.max_connections,
            pool.connect_timeout
        ),
        (Some(3), None, None)
    );
    assert_eq!(
        (a.load_balancer, a.tls),
        (Some(picked(Algorithm::RoundRobin)), Some(Box::default()))
    );
    let b = rule.effective(Some("b"), 80);
    assert_eq!(
        (b.load_balancer, b.tls, b.connection_pool),
        (Some(picked(Algorithm::Random)), None, None)
    );
    let mutual = Box::new(ClientTls {
        mode: TlsMode::IstioMutual,
        ..ClientTls::default()
    });
    assert_eq!(rule.effective(None, 9).tls, Some(mutual));
    assert_eq!(rule.effective(None, 9).load_balancer, None);
    assert_eq!(
        rule.effective(None, 80)
            .connection_pool
            .unwrap()
            .connect_timeout,
        Some(Duration::from_secs(2))
    );
}

#[test]
fn peer_authentication_modes() {
    let object = one(
        "apiVersion: security.istio.io/v1beta1\nkind: PeerAuthentication\nmetadata: {name: p, namespace: istio-system}\nspec:\n  selector: {matchLabels: {app: a}}\n  mtls: {mode: STRICT}\n  portLevelMtls:\n    8080: {mode: DISABLE}\n    9090: {mode: UNSET}\n",
    );
    let spec = object.peer_authentication().unwrap();
    assert_eq!(spec.mode, Some(MtlsMode::Strict));
    assert_eq!(
        spec.ports
            .iter()
            .map(|(port, mode)| (*port, *mode))
            .collect::<Vec<_>>(),
        [(8080, Some(MtlsMode::Disable)), (9090, None)]
    );
    assert!(spec.selects_workload(&[("app".to_owned(), "a".to_owned())].into()));
}

#[test]
fn services_and_their_ports() {
    let decoded = decode(
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  selector: {app: a}\n  ports:\n  - {name: grpc-x, port: 80, targetPort: web}\n  - {name: dns, port: 53, protocol: UDP}\n  - {name: again, port: 80}\n  - {name: b, port: 81, appProtocol: http2}\n",
    );
    let ports = &decoded.objects[0].service().unwrap().ports;
    assert_eq!(
        ports
            .iter()
            .map(|port| (port.port, port.protocol))
            .collect::<Vec<_>>(),
        [(80, Protocol::Grpc), (81, Protocol::Http2)]
    );
    assert_eq!(
        (&ports[0].target, &ports[1].target),
        (&TargetPort::Name("web".into()), &TargetPort::Number(81))
    );
    assert_eq!(codes(&decoded), ["E901", "E007"]);
}

#[test]
fn secret_values_are_shown_nowhere() {
    const PLANTED: &str = "cGxhbnRlZC1zZWNyZXQ=";
    for body in [
        format!("data: {{k: {PLANTED}, bad key: x}}\nstringData: {{t: planted-secret}}\n"),
        format!(
            "data: {{k: [{PLANTED}]}}\nstringData: {{t: {{planted-secret: planted-secret}}}}\ntype: 3\n"
        ),
        format!("data: {{k: '{PLANTED}%'}}\nstringdata: planted-secret\n"),
        format!("data: {{k: {PLANTED}}}\nstringData: {{t: planted-secret\n"),
    ] {
        let text = format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\n{body}");
        let decoded = decode(&text);
        let shown = format!(
            "{:?} {}",
            decoded,
            serde_json::to_string(&decoded.findings).unwrap()
        );
        let fields: String = decoded
            .findings
            .iter()
            .map(|finding| finding.field.as_str())
            .collect();
        assert!(!shown.replace(&fields, "").contains(PLANTED), "{shown}");
        assert!(
            !decoded
                .findings
                .iter()
                .any(|finding| finding.message.contains("planted")
                    || finding.fix.contains("planted")),
            "{shown}"
        );
    }
    let object = one(&format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\ndata: {{k: {PLANTED}}}\nstringData: {{t: planted-secret}}\n"
    ));
    assert_eq!(object.secret().unwrap().data["k"], b"planted-secret");
    assert_eq!(object.raw["data"]["t"], PLANTED, "stored as base64");
    assert!(object.raw.get("stringData").is_none());
    // kubectl keeps a copy of what it applied in an annotation.
    let mut copied = object.raw.clone();
    copied["metadata"]["annotations"] =
        json!({"kubectl.kubernetes.io/last-applied-configuration": format!("{{{PLANTED}}}")});
    let (kept, _) = decode_json(&copied, Mode::Compat);
    let shown = format!("{object:?} {kept:?} {}", naka_api::redacted(&copied));
    assert!(
        !shown.contains(PLANTED) && !shown.contains("planted-secret"),
        "{shown}"
    );
    let other = json!({"kind": "Secret", "data": {"k": "b3RoZXI="}});
    let changes = serde_json::to_string(&[
        diff(None, Some(&copied)),
        diff(Some(&copied), Some(&object.raw)),
        diff(Some(&object.raw), Some(&copied)),
        diff(Some(&object.raw), Some(&other)),
        diff(Some(&object.raw), None),
    ])
    .unwrap();
    assert!(
        changes.contains("(redacted)")
            && !changes.contains(PLANTED)
            && !changes.contains("b3RoZXI="),
        "{changes}"
    );
}

#[test]
fn yaml_as_people_write_it() {
    let object = one(
        "# comment\n%s---\napiVersion: v1\nkind: Service\nmetadata:\n  name: a\n  labels: &l {app: a, version: \"1\"}\n  annotations: {on: 'yes', note: |\n    x}\nspec:\n  selector: *l\n  ports: [{port: 0x50}]\nstatus: {anything: true}\n"
            .replace("%s", "")
            .replace("{on: 'yes', note: |\n    x}", "{on: yes}")
            .as_str(),
    );
    assert_eq!(object.service().unwrap().selector["version"], "1");
    assert_eq!(
        object.meta.annotations["on"], "yes",
        "YAML 1.2: yes is a text"
    );
    assert_eq!(object.service().unwrap().ports[0].port, 80);
    assert!(object.raw.get("status").is_none());
    let merged = one(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: a\n  labels: {<<: &b {x: '1', y: '2'}, x: '3'}\n  annotations: {<<: [*b]}\n",
    );
    assert_eq!(
        (
            merged.meta.labels["x"].as_str(),
            merged.meta.labels["y"].as_str()
        ),
        ("3", "2")
    );
    let list = decode(
        "kind: List\napiVersion: v1\nitems:\n- {apiVersion: v1, kind: Namespace, metadata: {name: a}}\n- {apiVersion: v1, kind: Namespace, metadata: {name: b, name: c}}\n",
    );
    assert_eq!(list.objects.len(), 1);
    assert_eq!(codes(&list), ["E004"]);
    assert_eq!(list.findings[0].object, "Namespace b");
    assert!(decode("# nothing\n---\n---\n").findings.is_empty());
    // JSON is read by the same reader.
    let json = decode(
        "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Namespace\",\n\t\"metadata\": {\"name\": \"a\"}\n}\n",
    );
    assert_eq!(json.objects.len(), 1, "{:?}", json.findings);
}

#[test]
fn defaults_of_kubernetes_are_no_news() {
    let decoded = decode(
        "apiVersion: v1\nkind: Service\nmetadata: {name: a, uid: u, resourceVersion: '7', creationTimestamp: null, managedFields: [{a: b}]}\nspec: {type: ClusterIP, clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], sessionAffinity: None, internalTrafficPolicy: Cluster, ipFamilies: [IPv4], ipFamilyPolicy: SingleStack, ports: [{port: 80, protocol: TCP, targetPort: 80}]}\n",
    );
    assert_eq!(decoded.findings, Vec::new());
    assert_eq!(decoded.objects[0].meta.resource_version, "7");
    let other = decode(
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {type: NodePort, sessionAffinity: ClientIP, ports: [{port: 80, nodePort: 30000}]}\n",
    );
    assert_eq!(codes(&other), ["W900", "W900", "W900"]);
}

#[test]
fn changes_are_named_by_field() {
    let before = json!({"metadata": {"name": "a", "generation": 1}, "spec": {"http": [{"name": "x", "route": [{"weight": 90}, {"weight": 10}]}, {"name": "y"}]}});
    let mut after = before.clone();
    after["metadata"]["generation"] = 2.into();
    after["spec"]["http"][0]["route"][1]["weight"] = 50.into();
    after["spec"]["http"]
        .as_array_mut()
        .unwrap()
        .insert(0, json!({"name": "z"}));
    let changes = diff(Some(&before), Some(&after));
    let paths: Vec<&str> = changes.iter().map(|change| change.path.as_str()).collect();
    assert_eq!(paths, ["spec.http[x].route[1].weight", "spec.http[z]"]);
    assert_eq!(
        (changes[0].before.as_ref(), changes[0].after.as_ref()),
        (Some(&10.into()), Some(&50.into()))
    );
    after["spec"]["http"].as_array_mut().unwrap().reverse();
    assert!(
        diff(Some(&before), Some(&after))
            .iter()
            .any(|change| change.path == "spec.http (order)")
    );
    assert!(diff(Some(&before), Some(&before)).is_empty());
    assert_eq!(diff(None, Some(&json!({"spec": {"a": 1}}))).len(), 1);
}

#[test]
fn kinds_have_one_row_each() {
    for kind in Kind::all() {
        let names = kind.names();
        assert_eq!(names.kind, kind);
        assert!(kind.reads(&kind.api_version()));
        assert_eq!(Kind::of_plural(names.group, names.plural), Some(kind));
        for word in [names.plural, names.singular].iter().chain(names.short) {
            let full = match names.group {
                "" => (*word).to_owned(),
                group => format!("{word}.{group}"),
            };
            assert_eq!(Kind::of_word(&full.to_uppercase()), Some(kind), "{full}");
        }
    }
    // A word of two kinds is the first one's; each has a word of its own.
    assert_eq!(Kind::of_word("services"), Some(Kind::Service));
    assert_eq!(Kind::of_word("ksvc"), Some(Kind::KnativeService));
    assert_eq!(
        Kind::of_manifest("Service", "serving.knative.dev/v1"),
        Some(Kind::KnativeService)
    );
    assert_eq!(Kind::of_manifest("Service", "v1"), Some(Kind::Service));
    assert_eq!(
        Kind::of_word("gateways.networking.istio.io"),
        Some(Kind::Gateway)
    );
    assert_eq!(Kind::of_word("gateways.gateway.networking.k8s.io"), None);
    let (object, findings) = decode_json(
        &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}}),
        Mode::Compat,
    );
    assert!(object.is_some() && findings.is_empty());
}

fn picked(algorithm: Algorithm) -> Box<LoadBalancer> {
    Box::new(LoadBalancer {
        algorithm,
        ..LoadBalancer::default()
    })
}

#[test]
fn forms_that_istio_ignores_are_named_and_the_rest_holds() {
    let fault = |delay: &str| {
        decode(&format!(
            "{VS}  - route: [{{destination: {{host: a}}}}]\n    fault: {{delay: {{{delay}, percentage: {{value: 5}}}}, abort: {{httpStatus: 503, percentage: {{value: 0.1}}}}}}\n"
        ))
    };
    let ignored = fault("exponentialDelay: 1s");
    assert_eq!(codes(&ignored), ["W902"]);
    let spec = ignored.objects[0].virtual_service().unwrap();
    let built = spec.http[0].fault.as_ref().unwrap();
    assert!(built.delay.is_none());
    assert_eq!(built.abort.as_ref().unwrap().share, 1_000);
    // Twin: the form that is carried out.
    let fixed = fault("fixedDelay: 1s");
    assert_eq!(codes(&fixed), Vec::<&str>::new());
    let spec = fixed.objects[0].virtual_service().unwrap();
    let built = spec.http[0].fault.as_ref().unwrap();
    assert_eq!(built.delay.as_ref().unwrap().share, 50_000);
}

/// Ten thousand routes, one of them broken: read at once, and only that one is out of force.
#[test]
fn ten_thousand_routes_are_read_and_one_bad_one_is_left_out() {
    let mut text = VS.to_owned();
    for index in 0..10_000 {
        let uri = if index == 5_000 { "(" } else { "/a" };
        text.push_str(&format!(
            "  - match: [{{uri: {{regex: '{uri}{index}'}}}}]\n    route: [{{destination: {{host: a}}}}]\n"
        ));
    }
    let decoded = decode(&text);
    let spec = decoded.objects[0].virtual_service().unwrap();
    assert_eq!(spec.http.len(), 9_999);
    assert_eq!(codes(&decoded), ["E007"]);
    assert_eq!(
        decoded.findings[0].field,
        "spec.http[5000].match[0].uri.regex"
    );
}

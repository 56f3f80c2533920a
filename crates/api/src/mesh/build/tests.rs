//! Providers as an Istio user writes them, and what is wrong with others.

use super::super::{Provider, Speaks, TIMEOUT};
use crate::security::authorization_policy::Text;
use crate::{Decoded, Mode, decode_yaml};
use std::collections::BTreeMap;
use std::time::Duration;

fn read(lines: &str) -> Decoded {
    let indented: String = lines.lines().map(|line| format!("    {line}\n")).collect();
    let text = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |-\n{indented}"
    );
    decode_yaml("mesh.yaml", text.as_bytes(), Mode::Compat)
}

fn providers(decoded: &Decoded) -> BTreeMap<String, Provider> {
    let object = decoded.objects.first();
    let config = object.and_then(|object| object.mesh_config());
    config
        .map(|config| config.providers.clone())
        .unwrap_or_default()
}

#[test]
fn providers_are_read_as_istio_has_them() {
    let decoded = read(
        "extensionProviders:\n- name: web\n  envoyExtAuthzHttp:\n    service: tools/authz.tools.svc.cluster.local\n    port: '8000'\n    timeout: 0.5s\n    failOpen: true\n    statusOnError: '503'\n    pathPrefix: /check\n    includeRequestHeadersInCheck: [X-Token, 'x-b*', '*-c']\n    includeAdditionalHeadersInCheck: {X-Mesh: naka}\n    includeRequestBodyInCheck: {maxRequestBytes: 10, allowPartialMessage: true, packAsBytes: true}\n    headersToUpstreamOnAllow: [x-user]\n    headersToDownstreamOnDeny: [x-why]\n    headersToDownstreamOnAllow: ['*']\n- name: rpc\n  envoyExtAuthzGrpc: {service: opa.example.com, port: 9191}\n",
    );
    assert!(decoded.findings.is_empty(), "{:?}", decoded.findings);
    let all = providers(&decoded);
    let web = &all["web"];
    assert_eq!(web.namespace.as_deref(), Some("tools"));
    assert_eq!(web.service.as_str(), "authz.tools.svc.cluster.local");
    assert_eq!((web.port, web.timeout), (8000, Duration::from_millis(500)));
    assert_eq!((web.fail_open, web.status_on_error), (true, 503));
    let body = web.body.unwrap();
    assert_eq!((body.most, body.partial, body.as_bytes), (10, true, true));
    let Speaks::Http(check) = &web.speaks else {
        panic!("{web:?}");
    };
    assert_eq!(check.path_prefix, "/check");
    assert_eq!(
        check.request_headers,
        [
            Text::Exact("x-token".to_owned()),
            Text::Prefix("x-b".to_owned()),
            Text::Suffix("-c".to_owned())
        ]
    );
    assert_eq!(check.added, [("x-mesh".to_owned(), "naka".to_owned())]);
    assert_eq!(check.downstream_on_allow, [Text::Present]);
    let rpc = &all["rpc"];
    assert_eq!((rpc.port, rpc.timeout), (9191, TIMEOUT));
    assert_eq!((rpc.fail_open, rpc.status_on_error), (false, 403));
    assert_eq!((rpc.body, &rpc.speaks), (None, &Speaks::Grpc));
}

#[test]
fn a_provider_with_an_error_is_left_out_alone() {
    for (fields, code, field) in [
        ("service: 169.254.169.254, port: 80", "E007", "service"),
        ("service: localhost, port: 80", "E007", "service"),
        ("service: '[::1]', port: 80", "E007", "service"),
        ("service: '*.example.com', port: 80", "E007", "service"),
        ("port: 80", "E006", "service"),
        ("service: a.example.com", "E006", "port"),
        ("service: a.example.com, port: 0", "E007", "port"),
        ("service: a.example.com, port: http", "E007", "port"),
        (
            "service: a.example.com, port: 80, timeout: 3",
            "E003",
            "timeout",
        ),
        (
            "service: a.example.com, port: 80, statusOnError: '99'",
            "E007",
            "statusOnError",
        ),
        (
            "service: a.example.com, port: 80, pathPrefix: check",
            "E007",
            "pathPrefix",
        ),
        (
            "service: a.example.com, port: 80, pathPrefix: /a/../b",
            "E007",
            "pathPrefix",
        ),
        (
            "service: a.example.com, port: 80, pathPrefix: '/a?b='",
            "E007",
            "pathPrefix",
        ),
        (
            "service: a.example.com, port: 80, timout: 3s",
            "E002",
            "timout",
        ),
        (
            "service: a.example.com, port: 80, includeRequestHeadersInCheck: ['a b']",
            "E007",
            "includeRequestHeadersInCheck[0]",
        ),
        (
            "service: a.example.com, port: 80, includeAdditionalHeadersInCheck: {host: b}",
            "E007",
            "includeAdditionalHeadersInCheck.host",
        ),
        (
            "service: a.example.com, port: 80, includeRequestBodyInCheck: {packAsBytes: true}",
            "E006",
            "includeRequestBodyInCheck.maxRequestBytes",
        ),
    ] {
        let decoded = read(&format!(
            "extensionProviders:\n- name: bad\n  envoyExtAuthzHttp: {{{fields}}}\n- name: good\n  envoyExtAuthzGrpc: {{service: b.example.com, port: 1}}\n"
        ));
        let all: Vec<String> = providers(&decoded).into_keys().collect();
        assert_eq!(all, ["good"], "{fields}");
        let wanted = format!("data.mesh.extensionProviders[0].envoyExtAuthzHttp.{field}");
        let found = decoded
            .findings
            .iter()
            .any(|finding| finding.code == code && finding.field == wanted && finding.line == 8);
        assert!(found, "{fields}: {:?}", decoded.findings);
    }
}

#[test]
fn what_is_not_read_is_said_and_other_config_maps_are_nobodys_business() {
    let decoded = read(
        "accessLogFile: /dev/stdout\nextensionProviders:\n- name: spans\n  zipkin: {service: a, port: 1}\n",
    );
    let fields: Vec<&str> = decoded.findings.iter().map(|f| f.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "data.mesh.accessLogFile",
            "data.mesh.extensionProviders[0].zipkin"
        ]
    );
    assert!(
        decoded
            .findings
            .iter()
            .all(|finding| finding.code == "W900")
    );
    assert!(decoded.objects[0].mesh_config().is_some());
    let twice = read(
        "extensionProviders:\n- name: a\n  envoyExtAuthzGrpc: {service: b.example.com, port: 1}\n- name: a\n  envoyExtAuthzGrpc: {service: c.example.com, port: 1}\n",
    );
    assert!(providers(&twice).is_empty());
    assert_eq!(
        twice.findings[0].field,
        "data.mesh.extensionProviders[1].name"
    );
    let broken = read("extensionProviders: [");
    assert_eq!(broken.findings[0].code, "E001");
    assert!(broken.objects.is_empty());
    let other = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: shop}\ndata: {mesh: '['}\n";
    let other = decode_yaml("other.yaml", other.as_bytes(), Mode::Compat);
    assert!(other.findings.is_empty() && other.objects[0].mesh_config().is_none());
}

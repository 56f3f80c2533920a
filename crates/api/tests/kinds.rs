//! Kinds that are read, checked and kept: every version is read, every use is reported as not enforced yet, and what
//! Istio's CRDs refuse is refused with the field, the reason and what to write.

use naka_api::schema::inventory::is_istio;
use naka_api::{Kind, Mode, Spec, decode_json, decode_yaml};
use serde_json::{Value, json};

const JWKS: &str =
    r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

fn object(kind: Kind, version: &str, spec: &Value) -> Value {
    json!({"apiVersion": format!("{}/{version}", kind.names().group), "kind": kind.manifest(),
        "metadata": {"name": "a"}, "spec": spec})
}

/// Something small that each kept kind takes.
fn sound(kind: Kind) -> Option<Value> {
    Some(match kind {
        Kind::ServiceEntry => json!({"hosts": ["a.example"], "resolution": "STATIC",
            "ports": [{"number": 80, "name": "http"}], "endpoints": [{"address": "192.0.2.1"}]}),
        Kind::Sidecar => json!({"egress": [{"hosts": ["./*"]}]}),
        Kind::WorkloadGroup => json!({"template": {"serviceAccount": "vm"}}),
        Kind::EnvoyFilter => {
            json!({"configPatches": [{"applyTo": "CLUSTER", "patch": {"operation": "ADD", "value": {"a": [1]}}}]})
        }
        Kind::ProxyConfig => json!({"concurrency": 2}),
        Kind::WasmPlugin => json!({"url": "oci://example.com/a"}),
        Kind::TrafficExtension => json!({"lua": {"inlineCode": "-- nothing"}}),
        Kind::Telemetry => json!({"tracing": [{"randomSamplingPercentage": 1.5}]}),
        Kind::RequestAuthentication => {
            json!({"jwtRules": [{"issuer": "a", "jwks": JWKS}]})
        }
        _ => return None,
    })
}

#[test]
fn every_version_is_read_and_every_use_is_reported() {
    let mut seen = 0;
    for kind in Kind::all().filter(|kind| is_istio(*kind)) {
        let Some(spec) = sound(kind) else { continue };
        for version in kind.names().versions {
            let (read, findings) = decode_json(&object(kind, version, &spec), Mode::Compat);
            let read = read.unwrap_or_else(|| panic!("{kind} {version}: {findings:?}"));
            assert_eq!(read.raw["apiVersion"], kind.api_version());
            if read.spec != Spec::Kept {
                continue;
            }
            seen += 1;
            let mut told: Vec<&str> = findings
                .iter()
                .map(|finding| finding.field.as_str())
                .collect();
            let mut used: Vec<String> = spec
                .as_object()
                .expect("a map")
                .keys()
                .map(|key| format!("spec.{key}"))
                .collect();
            told.sort_unstable();
            used.sort_unstable();
            assert_eq!(told, used, "{kind}");
            assert!(
                findings.iter().all(|finding| finding.code == "W900"),
                "{findings:?}"
            );
        }
    }
    assert!(seen >= 5, "{seen}");
}

#[test]
fn fields_of_kept_blocks_are_checked() {
    let spec = json!({"egress": [{"hosts": ["./*"], "captureMod": "NONE"}]});
    let (read, findings) = decode_json(&object(Kind::Sidecar, "v1", &spec), Mode::Compat);
    assert!(read.is_none());
    let finding = findings
        .iter()
        .find(|finding| finding.code == "E002")
        .expect("E002");
    assert_eq!(finding.field, "spec.egress[0].captureMod");
    assert!(
        finding.message.contains("did you mean captureMode?"),
        "{finding}"
    );
}

/// Kind, a change of its sound form, and the field that is found at fault.
#[test]
fn what_the_crds_refuse_is_refused() {
    let rows: &[(Kind, Value, &str)] = &[
        (Kind::ServiceEntry, json!({"hosts": ["*"]}), "spec.hosts[0]"),
        (Kind::ServiceEntry, json!({"hosts": []}), "spec.hosts"),
        (
            Kind::ServiceEntry,
            json!({"resolution": "NONE"}),
            "spec.resolution",
        ),
        (
            Kind::ServiceEntry,
            json!({"resolution": "SOMEHOW"}),
            "spec.resolution",
        ),
        (
            Kind::ServiceEntry,
            json!({"workloadSelector": {"labels": {"a": "b"}}}),
            "spec.endpoints",
        ),
        (
            Kind::ServiceEntry,
            json!({"resolution": "DNS", "addresses": ["192.0.2.0/24"]}),
            "spec.addresses[0]",
        ),
        (
            Kind::ServiceEntry,
            json!({"ports": [{"number": 80, "name": "a"}, {"number": 80, "name": "b"}]}),
            "spec.ports[1]",
        ),
        (
            Kind::TrafficExtension,
            json!({"wasm": {"url": "oci://a"}}),
            "spec.lua",
        ),
        (Kind::TrafficExtension, json!({"lua": null}), "spec"),
        (Kind::WasmPlugin, json!({"url": "ftp://a"}), "spec.url"),
        (
            Kind::WasmPlugin,
            json!({"selector": {}, "targetRefs": [{"kind": "Gateway", "name": "a"}]}),
            "spec.targetRefs",
        ),
        (
            Kind::EnvoyFilter,
            json!({"workloadSelector": {"labels": {"a": "*"}}}),
            "spec.workloadSelector.labels.a",
        ),
        (
            Kind::RequestAuthentication,
            json!({"jwtRules": [{"issuer": "a", "jwks": "{}"}]}),
            "spec.jwtRules[0].jwks",
        ),
        (
            Kind::WorkloadGroup,
            json!({"probe": {"httpGet": {"port": 80, "scheme": "FTP"}}}),
            "spec.probe.httpGet.scheme",
        ),
    ];
    for (kind, change, field) in rows {
        let mut spec = sound(*kind).expect("a sound form");
        for (key, value) in change.as_object().expect("a map") {
            spec[key] = value.clone();
        }
        let version = kind.names().storage_version;
        let (read, findings) = decode_json(&object(*kind, version, &spec), Mode::Compat);
        assert!(read.is_none(), "{kind} {change}");
        let errors: Vec<_> = findings
            .iter()
            .filter(|finding| finding.is_error())
            .collect();
        assert_eq!(errors.len(), 1, "{kind} {change}: {errors:?}");
        assert_eq!(errors[0].field, *field, "{kind} {change}");
        assert!(!errors[0].message.is_empty() && !errors[0].fix.is_empty());
    }
}

#[test]
fn services_of_two_groups_do_not_meet() {
    let text = "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80}]}\n";
    let decoded = decode_yaml("a.yaml", text.as_bytes(), Mode::Compat);
    let names: Vec<String> = decoded
        .objects
        .iter()
        .map(|object| object.reference().to_string())
        .collect();
    assert_eq!(names, ["KnativeService default/a", "Service default/a"]);
    assert_eq!(decoded.objects[0].raw["kind"], "Service");
}

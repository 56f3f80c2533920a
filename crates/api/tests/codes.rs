//! Each code has a case that has it, at the field and line where a person would look, and says what to write instead.

use naka_api::{Decoded, Mode, codes, decode_yaml};
use naka_types::finding::Finding;
use std::collections::BTreeSet;

const VS: &str = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v}\nspec:\n  hosts: [pay]\n  http:\n";
const DR: &str = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d}\nspec:\n  host: pay\n";
const GW: &str =
    "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec:\n  servers:\n";

fn all(decoded: &Decoded) -> Vec<Finding> {
    decoded
        .findings
        .iter()
        .cloned()
        .chain(decoded.lint())
        .collect()
}

/// Code, mode, text (`%VS` and the like stand for the beginnings above), field, line, words of the message.
type Case = (
    &'static str,
    Mode,
    &'static str,
    &'static str,
    u32,
    &'static str,
);

use Mode::{Compat, Strict};

#[path = "codes/access.rs"]
mod access;
#[path = "codes/balance.rs"]
mod balance;
#[path = "codes/certificates.rs"]
mod certificates;
#[path = "codes/routing.rs"]
mod routing;

const CASES: &[Case] = &[
    (
        "L370",
        Compat,
        "apiVersion: naka.dev/v1alpha1\nkind: LocalRateLimit\nmetadata: {name: l}\nspec:\n  targetRefs:\n  - {kind: Service, name: pay}\n  rules:\n  - name: each\n    requests: 10\n    keys: [\"request.headers['x-merchant']\"]\n",
        "spec.rules[0].keys[0]",
        10,
        "another value has another bucket",
    ),
    (
        "L371",
        Compat,
        "apiVersion: naka.dev/v1alpha1\nkind: LocalRateLimit\nmetadata: {name: l}\nspec:\n  targetRefs:\n  - {kind: Gateway, name: edge}\n  rules:\n  - {name: all, requests: 10}\n",
        "spec.targetRefs[0]",
        6,
        "there is no Gateway edge",
    ),
    (
        "E370",
        Compat,
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: v\n  annotations:\n    naka.dev/match.big: request.headers['x-amount'] > 100000\nspec:\n  hosts: [pay]\n  http:\n  - {name: big, route: [{destination: {host: pay}}]}\n  - route: [{destination: {host: pay}}]\n",
        "metadata.annotations[\"naka.dev/match.big\"]",
        6,
        "column 29: a string is compared with a int",
    ),
    (
        "E371",
        Compat,
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: v\n  annotations:\n    naka.dev/match.bulk: 'true'\nspec:\n  hosts: [pay]\n  http:\n  - {name: big, route: [{destination: {host: pay}}]}\n",
        "metadata.annotations[\"naka.dev/match.bulk\"]",
        6,
        "no route in force is named \"bulk\"",
    ),
    (
        "W120",
        Compat,
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a}\nspec:\n  action: ALLOW\n  rules:\n  - to:\n    - operation:\n        paths: [/a/*/b]\n",
        "spec.rules[0].to[0].operation.paths[0]",
        9,
        "read as /a/{*}/b",
    ),
    (
        "E120",
        Compat,
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a}\nspec:\n  action: DENY\n  rules:\n  - to:\n    - operation:\n        paths: [/a/*/b]\n",
        "spec.rules[0].to[0].operation.paths[0]",
        9,
        "not a wildcard",
    ),
    (
        "W121",
        Compat,
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a}\nspec:\n  rules:\n  - when:\n    - key: source.labels[team]\n      values: [a]\n",
        "spec.rules[0].when[0].key",
        7,
        "source.labels[team]",
    ),
    (
        "E121",
        Strict,
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a}\nspec:\n  rules:\n  - when:\n    - key: source.labels[team]\n      values: [a]\n",
        "spec.rules[0].when[0].key",
        7,
        "unknown attribute",
    ),
    (
        "L331",
        Compat,
        "%GW  - port: {number: 15443, name: tls, protocol: TLS}\n    tls: {mode: ISTIO_MUTUAL}\n    hosts: [a.local]\n",
        "spec.servers[0].tls.mode",
        7,
        "ends TLS",
    ),
    (
        "L346",
        Compat,
        "%DR  trafficPolicy:\n    tls: {mode: SIMPLE, insecureSkipVerify: true}\n",
        "spec.trafficPolicy.tls.insecureSkipVerify",
        7,
        "not verified",
    ),
    (
        "L347",
        Compat,
        "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: s}\nspec:\n  egress:\n  - hosts: [payment]\n",
        "spec.egress[0].hosts[0]",
        6,
        "names no namespace",
    ),
    (
        "L333",
        Compat,
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: s}\nspec:\n  hosts: [a.x, b.x]\n  ports: [{number: 80, name: a, protocol: HTTP}]\n  resolution: DNS\n  endpoints:\n  - address: c.x\n",
        "spec.endpoints[0]",
        9,
        "share endpoints",
    ),
    (
        "L334",
        Compat,
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: s}\nspec:\n  hosts: [a.x]\n  ports: [{number: 80, name: a, protocol: HTTP}]\n  resolution: DNS\n  endpoints:\n  - {address: c.x, network: a}\n  - {address: c.x, network: b}\n",
        "spec.endpoints[1]",
        10,
        "same address",
    ),
    (
        "L335",
        Compat,
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: s}\nspec:\n  hosts: [a.x]\n  location: MESH_EXTERNAL\n  ports: [{number: 80, name: a, protocol: HTTP}]\n  resolution: DNS\n  endpoints:\n  - address: a.b.svc.cluster.local\n",
        "spec.location",
        6,
        "without mTLS",
    ),
    (
        "L336",
        Compat,
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: s}\nspec:\n  hosts: [a.x, b.x]\n  addresses: [240.0.0.1]\n  ports: [{number: 80, name: a, protocol: TCP}]\n",
        "spec.addresses[0]",
        6,
        "have one address",
    ),
    (
        "E340",
        Compat,
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec:\n  template:\n    spec:\n      containers:\n      - name: istio-proxy\n        image: istio/proxyv2:1.19.0\n        env:\n        - name: PILOT_AGENT_MODE\n          value: a\n",
        "spec",
        5,
        "spec.selector",
    ),
    (
        "W341",
        Compat,
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec:\n  selector: {matchLabels: {a: b}}\n  template:\n    metadata: {labels: {a: b}}\n    spec:\n      containers:\n      - name: istio-proxy\n        image: istio/proxyv2:1.19.0\n        env:\n        - name: PILOT_AGENT_MODE\n          value: a\n",
        "spec.template.spec.containers[0].env[0].name",
        13,
        "PILOT_AGENT_MODE",
    ),
    (
        "E341",
        Strict,
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec:\n  selector: {matchLabels: {a: b}}\n  template:\n    metadata: {labels: {a: b}}\n    spec:\n      containers:\n      - name: istio-proxy\n        image: istio/proxyv2:1.19.0\n        env:\n        - name: PILOT_AGENT_MODE\n          value: a\n",
        "spec.template.spec.containers[0].env[0].name",
        13,
        "PILOT_AGENT_MODE",
    ),
    (
        "W342",
        Compat,
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec:\n  selector: {matchLabels: {a: b}}\n  template:\n    metadata: {labels: {a: b}}\n    spec:\n      containers:\n      - name: istio-proxy\n        image: istio/proxyv2:1.19.0\n        env:\n        - name: PILOT_AGENT_MODE\n          value: a\n",
        "spec.template.spec.containers[0].image",
        11,
        "by hand",
    ),
    (
        "E342",
        Strict,
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec:\n  selector: {matchLabels: {a: b}}\n  template:\n    metadata: {labels: {a: b}}\n    spec:\n      containers:\n      - name: istio-proxy\n        image: istio/proxyv2:1.19.0\n        env:\n        - name: PILOT_AGENT_MODE\n          value: a\n",
        "spec.template.spec.containers[0].image",
        11,
        "by hand",
    ),
    (
        "E350",
        Compat,
        "apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata: {name: p}\nspec:\n  groups:\n  - name: g\n    rules:\n    - expr: time() - on(a) b\n",
        "spec.groups[0].rules[0].expr",
        8,
        "vector matching only allowed",
    ),
    (
        "L352",
        Compat,
        "apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata: {name: p}\nspec:\n  groups:\n  - name: g\n    rules:\n    - expr: sum(a) by (source_service_name)\n",
        "spec.groups[0].rules[0].expr",
        8,
        "source_service_name",
    ),
    (
        "L353",
        Compat,
        "apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata: {name: p}\nspec:\n  groups:\n  - name: g\n    rules:\n    - expr: certificate_expiry_timestamp\n",
        "spec.groups[0].rules[0].expr",
        8,
        "must exist",
    ),
    (
        "W113",
        Compat,
        "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: k}\nspec:\n  template:\n    metadata:\n      annotations:\n        autoscaling.knative.dev/minScale: \"0\"\n",
        "spec.template.metadata.annotations[\"autoscaling.knative.dev/minScale\"]",
        8,
        "old spelling",
    ),
    (
        "E113",
        Strict,
        "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: k}\nspec:\n  template:\n    metadata:\n      annotations:\n        autoscaling.knative.dev/minScale: \"0\"\n",
        "spec.template.metadata.annotations[\"autoscaling.knative.dev/minScale\"]",
        8,
        "old spelling",
    ),
    (
        "E213",
        Compat,
        "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: k}\nspec:\n  template:\n    metadata:\n      annotations:\n        autoscaling.knative.dev/minScale: \"0\"\n        autoscaling.knative.dev/min-scale: \"1\"\n",
        "spec.template.metadata.annotations[\"autoscaling.knative.dev/minScale\"]",
        8,
        "different things",
    ),
    (
        "L360",
        Compat,
        "apiVersion: eventing.knative.dev/v1\nkind: Trigger\nmetadata: {name: t}\nspec:\n  broker: default\n  subscriber: {}\n",
        "spec.broker",
        5,
        "Broker default",
    ),
    ("E001", Compat, "hosts: [a, b\n", "", 1, "unclosed"),
    (
        "E002",
        Compat,
        "%VS  - route: [{destination: {host: a}}]\n    timout: 3s\n",
        "spec.http[0].timout",
        8,
        "did you mean timeout?",
    ),
    (
        "E003",
        Compat,
        "%VS  - route:\n    - destination: {host: a, port: {number: '80'}}\n",
        "spec.http[0].route[0].destination.port.number",
        8,
        "a whole number",
    ),
    (
        "E004",
        Compat,
        "%VS  - route:\n    - destination:\n        host: a\n        host: b\n",
        "spec.http[0].route[0].destination.host",
        10,
        "line 9",
    ),
    (
        "E005",
        Compat,
        "apiVersion: networking.istio.io/v1\nkind: VirtualServise\nmetadata: {name: a}\n",
        "kind",
        2,
        "did you mean VirtualService?",
    ),
    (
        "E005",
        Compat,
        "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: a}\n",
        "kind",
        2,
        "kind StatefulSet is not supported yet",
    ),
    (
        "E005",
        Compat,
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: a}\n",
        "apiVersion",
        1,
        "not supported yet",
    ),
    (
        "E005",
        Compat,
        "apiVersion: networking.istio.io/v2\nkind: Gateway\nmetadata: {name: a}\n",
        "apiVersion",
        1,
        "has no apiVersion",
    ),
    (
        "E006",
        Compat,
        "%VS  - route:\n    - destination: {subset: v1}\n",
        "spec.http[0].route[0].destination.host",
        8,
        "host is required",
    ),
    (
        "E007",
        Compat,
        "%VS  - timeout: 3\n    route: [{destination: {host: a}}]\n  - timeout: 3x\n    route: [{destination: {host: a}}]\n",
        "spec.http[1].timeout",
        9,
        "is not a duration",
    ),
    (
        "E101",
        Strict,
        "%DR  trafficPolicy:\n    circuitBreaker: {interval: 3s}\n",
        "spec.trafficPolicy.circuitBreaker",
        7,
        "use trafficPolicy.outlierDetection",
    ),
    (
        "W101",
        Compat,
        "%DR  trafficPolicy:\n    circuitBreaker: {interval: 3s}\n",
        "spec.trafficPolicy.circuitBreaker",
        7,
        "read as trafficPolicy.outlierDetection",
    ),
    (
        "E102",
        Strict,
        "%DR  trafficPolicy:\n    connectionPool: {http: {consecutiveGatewayFailureThreshold: 3}}\n",
        "spec.trafficPolicy.connectionPool.http.consecutiveGatewayFailureThreshold",
        7,
        "move to outlierDetection.consecutiveGatewayErrors",
    ),
    (
        "W102",
        Compat,
        "%DR  trafficPolicy:\n    connectionPool: {http: {consecutiveGatewayFailureThreshold: 3}}\n",
        "spec.trafficPolicy.connectionPool.http.consecutiveGatewayFailureThreshold",
        7,
        "read as",
    ),
    (
        "E103",
        Strict,
        "%DR  trafficPolicy:\n    connectionPool: {http: {interval: 30s}}\n",
        "spec.trafficPolicy.connectionPool.http.interval",
        7,
        "it belongs to outlierDetection",
    ),
    (
        "W103",
        Compat,
        "%DR  trafficPolicy:\n    connectionPool: {http: {interval: 30s}}\n    outlierDetection: {interval: 0.5m}\n",
        "spec.trafficPolicy.connectionPool.http.interval",
        7,
        "it belongs to outlierDetection",
    ),
    (
        "E104",
        Strict,
        "%DR  trafficPolicy:\n    connectionPool: {tcp: {tcpNoDelay: true}}\n",
        "spec.trafficPolicy.connectionPool.tcp.tcpNoDelay",
        7,
        "unknown field",
    ),
    (
        "W104",
        Compat,
        "%DR  trafficPolicy:\n    connectionPool: {tcp: {tcpNoDelay: true}}\n",
        "spec.trafficPolicy.connectionPool.tcp.tcpNoDelay",
        7,
        "changes nothing",
    ),
    (
        "E110",
        Strict,
        "%DR  trafficPolicy:\n    loadBalancer: {simple: LEAST_CONN}\n",
        "spec.trafficPolicy.loadBalancer.simple",
        7,
        "use LEAST_REQUEST",
    ),
    (
        "W110",
        Compat,
        "%DR  trafficPolicy:\n    loadBalancer: {simple: LEAST_CONN}\n",
        "spec.trafficPolicy.loadBalancer.simple",
        7,
        "read as LEAST_REQUEST",
    ),
    (
        "E111",
        Strict,
        "%DR  trafficPolicy:\n    outlierDetection: {consecutiveErrors: 3}\n",
        "spec.trafficPolicy.outlierDetection.consecutiveErrors",
        7,
        "choose consecutive5xxErrors",
    ),
    (
        "W111",
        Compat,
        "%DR  trafficPolicy:\n    outlierDetection: {consecutiveErrors: 3, consecutive5xxErrors: 4}\n",
        "spec.trafficPolicy.outlierDetection.consecutiveErrors",
        7,
        "consecutive5xxErrors beside it wins",
    ),
    (
        "E201",
        Compat,
        "%DR  trafficPolicy:\n    circuitBreaker: {interval: 3s}\n    outlierDetection: {interval: 3s}\n",
        "spec.trafficPolicy.circuitBreaker",
        7,
        "keep outlierDetection",
    ),
    (
        "E202",
        Compat,
        "%DR  trafficPolicy:\n    connectionPool: {http: {consecutiveGatewayFailureThreshold: 3}}\n    outlierDetection: {consecutiveGatewayErrors: 5}\n",
        "spec.trafficPolicy.connectionPool.http.consecutiveGatewayFailureThreshold",
        7,
        "conflicting values for consecutive gateway errors: 3 in connectionPool.http, 5 in outlierDetection",
    ),
    (
        "E204",
        Compat,
        "%DR  trafficPolicy:\n    connectionPool: {tcp: {tcpNoDelay: false}}\n",
        "spec.trafficPolicy.connectionPool.tcp.tcpNoDelay",
        7,
        "cannot be had",
    ),
    (
        "E312",
        Compat,
        "%VS  - route: [{destination: {host: a}}]\n  gateways: [edge]\n",
        "spec.gateways[0]",
        8,
        "gateway default/edge not found",
    ),
    (
        "E330",
        Compat,
        "%GW  - port: {number: 15021, name: h, protocol: HTTP}\n    hosts: ['*']\n",
        "spec.servers[0].port.number",
        6,
        "port 15021 is reserved for proxy health",
    ),
    (
        "W131",
        Compat,
        "%GW  - port: {number: 443, name: s, protocol: HTTPS}\n    tls: {mode: SIMPLE, credentialName: c, minProtocolVersion: TLSV1_0}\n    hosts: ['*']\n",
        "spec.servers[0].tls.minProtocolVersion",
        7,
        "TLSV1_0 is not served",
    ),
    (
        "E901",
        Compat,
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 53, protocol: UDP}]}\n",
        "spec.ports[0].protocol",
        4,
        "only TCP is carried yet",
    ),
    (
        "W900",
        Compat,
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  ports: [{port: 80}]\n  sessionAffinity: ClientIP\n",
        "spec.sessionAffinity",
        6,
        "not enforced yet",
    ),
    (
        "L301",
        Compat,
        "%DR  trafficPolicy:\n    connectionPool: {tcp: {maxConnections: 1, connectTimeout: 1s}}\n  subsets: [{name: a, trafficPolicy: {connectionPool: {tcp: {maxConnections: 2}}}}]\n",
        "spec.subsets[0].trafficPolicy",
        8,
        "connectionPool.tcp.connectTimeout",
    ),
    (
        "L301b",
        Compat,
        "%DR  trafficPolicy:\n    connectionPool: {tcp: {maxConnections: 1}}\n    portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: RANDOM}}]\n",
        "spec.trafficPolicy.portLevelSettings[0]",
        8,
        "connectionPool do not hold",
    ),
    (
        "L302",
        Compat,
        "%DR  trafficPolicy:\n    outlierDetection: {consecutiveGatewayErrors: 5}\n",
        "spec.trafficPolicy.outlierDetection.consecutiveGatewayErrors",
        7,
        "never reached",
    ),
    (
        "L303",
        Compat,
        "%DR  trafficPolicy:\n    connectionPool: {http: {maxRetries: 3}}\n",
        "spec.trafficPolicy.connectionPool.http.maxRetries",
        7,
        "not the tries of a request",
    ),
    (
        "L306",
        Compat,
        "%VS  - route: [{destination: {host: a}}]\n    timeout: 3s\n    retries: {attempts: 3, perTryTimeout: 1s}\n",
        "spec.http[0].retries",
        9,
        "1 + 3 tries of 1s exceed the timeout of 3s",
    ),
    (
        "L307",
        Compat,
        "%VS  - route: [{destination: {host: a}}]\n    retries: {attempts: 3, retryOn: 'connect-failure,503'}\n",
        "spec.http[0].retries.retryOn",
        8,
        "retries on 503",
    ),
    (
        "L308",
        Compat,
        "%VS  - match: [{uri: {prefix: /a}}]\n    route: [{destination: {host: a}}]\n",
        "spec.http",
        6,
        "404",
    ),
    (
        "L309",
        Compat,
        "%VS  - match: [{headers: {t: {regex: '^(09|10):'}}}]\n    route: [{destination: {host: a}}]\n",
        "spec.http[0].match[0].headers.t.regex",
        7,
        "regex needs a trailing .* to match more than \"09:\"",
    ),
    (
        "L310",
        Compat,
        "%VS  - route: [{destination: {host: a, subset: v9}}]\n",
        "spec.http[0].route[0].destination.subset",
        7,
        "subset v9 of a.default.svc.cluster.local",
    ),
    (
        "L311",
        Compat,
        "%DR  subsets: [{name: v0}]\n",
        "spec.subsets",
        6,
        "v0",
    ),
    (
        "L312",
        Compat,
        "%VS  - route: [{destination: {host: pay, subset: v1}}]\n  exportTo: ['*']\n---\n%OTHER  subsets: [{name: v1}]\n",
        "spec.http[0].route[0].destination.host",
        7,
        "the DestinationRule with the subsets is for pay.shop.svc.cluster.local",
    ),
    (
        "L313",
        Compat,
        "%VS  - match: [{uri: {prefix: /a}}]\n    route: [{destination: {host: a}}]\n  - match: [{uri: {exact: /a/b}, method: {exact: GET}}]\n    route: [{destination: {host: a}}]\n",
        "spec.http[1]",
        9,
        "spec.http[0] takes all its requests",
    ),
];

/// What the control plane and the command line find in a running mesh or an installation, not in a file.
const ELSEWHERE: &[&str] = &[
    "E331", "E332", "E902", "E910", "E911", "E912", "E913", "E914", "E915", "E916", "E917", "E918",
    "E920", "E921", "E922", "E923", "E924", "E952", "E960", "E961", "E962", "W901", "W911", "W912",
    "W913", "W917", "W918", "W919", "W920", "W921", "W922", "W950", "W951", "W952", "W953", "W960",
    "W961", "W962", "E970", "W970", "L314", "L345", "L348", "L349", "W132", "E925", "E926", "W923",
    "W924", "W975", "W976", "W925", "W926", "W927", "L354", "W380", "W381", "W382", "L380", "L383",
    "E971", "E972", "E973", "W971", "W972",
];

#[test]
fn every_code_has_a_case() {
    let mut covered = BTreeSet::from_iter(ELSEWHERE.iter().copied());
    for &(code, mode, text, field, line, words) in CASES
        .iter()
        .chain(access::CASES)
        .chain(balance::CASES)
        .chain(certificates::CASES)
        .chain(routing::CASES)
    {
        let text = text
            .replace("%VS", VS)
            .replace("%DR", DR)
            .replace("%GW", GW)
            .replace(
                "%OTHER",
                &DR.replace("{name: d}", "{name: d, namespace: shop}"),
            );
        let found = all(&decode_yaml("f.yaml", text.as_bytes(), mode));
        let finding = found
            .iter()
            .find(|finding| finding.code == code && finding.field == field)
            .unwrap_or_else(|| panic!("{code} at {field:?}: {found:#?}\n{text}"));
        assert_eq!(
            (finding.line, finding.file.as_str()),
            (line, "f.yaml"),
            "{finding}"
        );
        assert!(finding.column > 0, "{finding}");
        assert!(finding.message.contains(words), "{finding}");
        assert!(!finding.fix.is_empty(), "{finding}");
        covered.insert(code);
    }
    let wanted: BTreeSet<&str> = codes::TABLE.iter().map(|code| code.id).collect();
    assert_eq!(covered, wanted);
}

/// The twin: what is right has no finding at all.
#[test]
fn sound_objects_have_no_findings() {
    let text = format!(
        "{}---\n{}---\n{}---\n{}",
        format_args!(
            "{VS}  - match:\n    - uri: {{prefix: /v2}}\n      headers: {{x-tier: {{exact: gold}}, x-any: {{}}}}\n      withoutHeaders: {{x-no: {{}}}}\n      queryParams: {{q: {{regex: 'a.*'}}}}\n    name: gold\n    route:\n    - {{destination: {{host: pay, subset: v1, port: {{number: 80}}}}, weight: 90}}\n    - {{destination: {{host: pay, subset: v2}}, weight: 10, headers: {{request: {{set: {{a: b}}}}}}}}\n    timeout: 3s\n    retries: {{attempts: 2, perTryTimeout: 1s, retryOn: 'connect-failure,refused-stream'}}\n  - match: [{{uri: {{exact: /old}}}}]\n    redirect: {{uri: /new, redirectCode: 308}}\n  - match: [{{uri: {{exact: /teapot}}}}]\n    directResponse: {{status: 418, body: {{string: short}}}}\n  - match: [{{uri: {{prefix: /api/}}}}]\n    rewrite: {{uri: /}}\n    route: [{{destination: {{host: pay}}}}]\n  - route: [{{destination: {{host: pay, subset: v1}}}}]\n  gateways: [mesh, g]\n"
        ),
        format_args!(
            "{DR}  trafficPolicy: {{loadBalancer: {{simple: ROUND_ROBIN}}, tls: {{mode: ISTIO_MUTUAL}}, connectionPool: {{tcp: {{maxConnections: 9}}}}}}\n  subsets: [{{name: v1, labels: {{version: v1}}}}, {{name: v2, labels: {{version: v2}}}}]\n"
        ),
        format_args!(
            "{GW}  - port: {{number: 80, name: http, protocol: HTTP}}\n    hosts: ['*.example.com', './shop.example.com']\n  selector: {{app: edge}}\n"
        ),
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p}\nspec: {selector: {matchLabels: {app: a}}, mtls: {mode: STRICT}, portLevelMtls: {8080: {mode: PERMISSIVE}}}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: pay}\nspec: {selector: {app: pay}, ports: [{name: http, port: 80, targetPort: 8080}, {name: tcp-db, port: 5432}]}\n---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: db}\nspec: {address: 10.0.0.1, ports: {tcp-db: 5432}, labels: {app: pay}, weight: 2}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {a: b}}\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {k: aGk=}\nstringData: {t: hello}\n",
    );
    let decoded = decode_yaml("f.yaml", text.as_bytes(), Mode::Strict);
    assert_eq!(all(&decoded), Vec::new());
    assert_eq!(decoded.objects.len(), 8);
}

/// Findings of a text made with a code that is written out instead of taken from the table.
fn bare_codes(text: &str) -> usize {
    text.split("Finding::new(")
        .skip(1)
        .filter(|rest| rest.trim_start().starts_with('"'))
        .count()
}

/// Whoever makes a finding takes its code from the table, where it is explained. The twin: a bare code is seen.
#[test]
fn no_crate_makes_up_a_code() {
    let crates = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut dirs: Vec<_> = ["api", "control", "cli", "store"]
        .iter()
        .map(|name| crates.join(name).join("src"))
        .collect();
    let mut seen = 0;
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            assert_eq!(bare_codes(&text), 0, "{}", path.display());
            seen += text.matches("Finding::new(").count();
        }
    }
    assert!(seen > 4, "the scan must see the places that make findings");
    assert_eq!(
        bare_codes("Finding::new(\n    \"X1\", Finding::new(code.id)"),
        1
    );
}

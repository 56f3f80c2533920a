//! The one table of finding codes: what each means, an example, what to write instead.
//!
//! Findings are made only from these constants, and `docs/reference/findings.md` is compared with [`TABLE`] by a test,
//! so a code cannot be used without being explained. Codes are never reused.

/// A code with its explanation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code {
    /// For example `E002`.
    pub id: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// Input that has it, short.
    pub example: &'static str,
    /// What to write instead.
    pub fix: &'static str,
}

macro_rules! codes {
    (@id $id:ident) => { stringify!($id) };
    (@id $id:ident $text:literal) => { $text };
    ($($id:ident $(= $text:literal)?: $meaning:literal, $example:literal, $fix:literal;)*) => {
        $(
            #[doc = $meaning]
            pub const $id: Code = Code { id: codes!(@id $id $($text)?), meaning: $meaning, example: $example, fix: $fix };
        )*
        /// All codes this crate emits, by number within their letter.
        pub const TABLE: &[Code] = &[$($id),*];
    };
}

codes! {
    E001: "The text is not YAML or JSON, or is larger or deeper than what is read. Only this document is lost; the others of the file are applied.",
        "`hosts: [a, b`", "Close the bracket or quote, or correct the indentation, at the line named.";
    E002: "A field that the kind does not have. The part that holds it (route, server, subset, port, else the object) is not in force.",
        "`timout: 3s`", "Use the field named after \"did you mean\", or remove it.";
    E003: "A value of the wrong type. The part that holds it is not in force.",
        "`number: \"8080\"`", "Write the type named: a number without quotes, a text in quotes, a list with `-`.";
    E004: "A key is written twice in one map; which one was meant is unknown. The part that holds it is not in force.",
        "`host: a` and `host: b` in one destination", "Keep one of the two.";
    E005: "A kind or apiVersion that Naka does not serve: mistyped, or not supported yet. The object is not applied.",
        "`kind: VirtualServise`", "Correct the name; for kinds not supported yet leave the object out.";
    E006: "A required field is missing or empty. The part that lacks it is not in force.",
        "a destination without `host`", "Add the field.";
    E007: "A value outside of what is allowed: duration, regular expression, host, port, weight, status, name. The part that holds it is not in force.",
        "`timeout: 3`", "Write a value of the form named in the message.";
    E101: "Strict mode: W101 as an error.", "`trafficPolicy.circuitBreaker`", "Move it to `trafficPolicy.outlierDetection`.";
    E102: "Strict mode: W102 as an error.", "`connectionPool.http.consecutiveGatewayFailureThreshold`", "Move it to `outlierDetection.consecutiveGatewayErrors`.";
    E103: "Strict mode: W103 as an error.", "`connectionPool.http.interval`", "Move it to `outlierDetection`.";
    E104: "Strict mode: W104 as an error.", "`connectionPool.tcp.tcpNoDelay: true`", "Remove it: small packets are always sent at once.";
    E110: "Strict mode: W110 as an error.", "`simple: LEAST_CONN`", "Write `LEAST_REQUEST`.";
    E111: "Strict mode: W111 as an error.", "`outlierDetection.consecutiveErrors: 3`", "Choose `consecutive5xxErrors` or `consecutiveGatewayErrors`.";
    E113: "Strict mode: W113 as an error.", "`autoscaling.knative.dev/minScale`", "Write `min-scale`, `max-scale`.";
    E114: "Strict mode: W114 as an error.", "`mirrorPercent: 10`", "Write the field that the message names.";
    E120: "A `*` inside a path of a DENY or CUSTOM rule (strict mode: of any rule) is no wildcard: the rule would protect nothing. The policy is not in force.",
        "`paths: [/api/*/status]`", "Write `{*}` for one segment.";
    E121: "Strict mode: W121 as an error.", "`key: source.labels[team]`", "Use `source.principal` or `source.namespace`.";
    E201: "`circuitBreaker` and `outlierDetection` are both set; which one was meant is unknown.",
        "both in one `trafficPolicy`", "Keep `outlierDetection`.";
    E202: "A misplaced ejection setting in `connectionPool.http` contradicts the one in `outlierDetection`.",
        "`consecutiveGatewayFailureThreshold: 3` beside `consecutiveGatewayErrors: 5`", "Keep the one in `outlierDetection`.";
    E204: "`tcpNoDelay: false` cannot be had: small packets are always sent at once.",
        "`connectionPool.tcp.tcpNoDelay: false`", "Remove it.";
    E213: "An old and a new spelling of one annotation say different things.",
        "`minScale: \"0\"` beside `min-scale: \"1\"`", "Keep the new spelling.";
    E312: "A VirtualService names a Gateway that does not exist; it is bound to no gateway by this name.",
        "`gateways: [edge]` while the Gateway is `payments/edge`", "Write `namespace/name`.";
    E330: "A server uses a port that the proxy needs for itself. The server is not in force.",
        "`port: {number: 15021}`", "Use another port.";
    E331: "A server claims what another server of the port has: the same host inside TLS, or the port for another protocol. The older Gateway keeps it; this server, or the host named, is not in force.",
        "two Gateways with `*.example.com` on port 443", "Give each host to one Gateway, or use another port.";
    E332: "A server's certificate cannot be served: no such Secret in the gateway's namespace, no certificate in it, or a key that is not the certificate's. The server is not in force; the others are.",
        "`credentialName: upi-cert` without a Secret of that name", "Create the Secret (type kubernetes.io/tls) in the namespace of the gateway proxy.";
    E333: "TLS towards a destination cannot be carried out as it is written, or the rule that asks for it is not in force. Calls fail with 503 `tls-failed`, so that none goes without TLS; the rest of a sound rule holds.",
        "`tls: {mode: MUTUAL, clientCertificate: /etc/cert.pem}` without `privateKey`", "Correct the fields that the other findings of the block name.";
    E334: "A CUSTOM policy names a provider that the mesh does not have, whose entry is not sound, whose service does not exist, or beside another policy's provider for the same workload. Requests that it would be asked about get 403.",
        "`provider: {name: opa}` without `opa` among the `extensionProviders`", "Add the provider to the ConfigMap `istio` of `istio-system` (`data.mesh`), or correct the name, its service or its port.";
    E340: "A Deployment without `spec.selector` or without labels in its template: Kubernetes refuses it.",
        "`spec: {template: {spec: …}}`", "Add `spec.selector.matchLabels` and the same labels in the template.";
    E341: "Strict mode: W341 as an error.", "env `PILOT_AGENT_MODE`", "Remove it.";
    E342: "Strict mode: W342 as an error.", "`image: istio/proxyv2:1.19.0`", "Remove the container.";
    E350: "An expression that Prometheus refuses: `on(…)` or `ignoring(…)` between a scalar and a vector. The rule is not in force, the others of its group are.",
        "`time() - on(instance) expiry`", "Remove the matching; an expiry is `(expiry - time()) / 86400 < 7`.";
    E370: "An expression that cannot be taken: a word that is none, values of different types compared, too deep or too dear. The part that holds it (the route, the rule) is not in force.",
        "`naka.dev/match.big: request.headers['x-amount'] > 100000`", "Correct it at the column named; a number is made of a text by `int(…)`.";
    E371: "A condition for a route that the object does not have. The object is not in force: which route was to be narrowed is unknown.",
        "`naka.dev/match.bulk` while the route is named `big`", "Write the route's `name` after `naka.dev/match.`.";
    E901: "A field that exists but is not enforced yet, and leaving it out would let more through or change the meaning. The part that holds it is not in force.",
        "`match[].sourceLabels`", "Remove the field or the part until it is supported.";
    E902: "Objects that the control plane compiled are refused by the proxy's own check (seen by `naka explain`, which runs both). Traffic keeps the last good configuration.",
        "a control plane and a proxy of different versions", "Use the same version on both sides; report it if they are.";
    E910: "The control plane of the current context does not answer.",
        "`naka check` after `naka down`", "`naka up`, or choose another context with `naka context`.";
    E911: "The store takes no changes: its log is damaged, could not be written, or its directory is read-only. Traffic goes on.",
        "the log's partition is mounted read-only", "Repair what the message names; `naka store repair` for a damaged log, then start the control plane again.";
    E912: "The disk of the mesh directory is full, or will be with the next changes.",
        "less than 4 MiB free", "Free space; a log that could not be written needs a restart of the control plane afterwards.";
    E913: "A certificate of the control plane or its authority has ended.",
        "a root made ten years ago", "Set the clock right. An intermediate: `naka ca intermediate request`, `sign`, `install`; a root has to be replaced in time.";
    E914: "An advertised host name does not resolve on the control plane's machine.",
        "`naka up --advertise mesh.exmaple.com`", "Correct the name or its DNS record; `--advertise ''` takes it back.";
    E915: "A Gateway selects no connected gateway proxy: nobody serves its hosts.",
        "`selector: {istio: ingress}` while the proxy has `istio: ingressgateway`", "Start `naka proxy gateway`, or correct the selector or the proxy's labels.";
    E916: "A proxy's version is more than one off the control plane's: they are not made to work together.",
        "a proxy 0.1 at a control plane 0.3", "Upgrade the older side, one version at a time.";
    E917: "A proxy's certificate has ended: its peers refuse it.",
        "a proxy that could not reach the control plane for a day", "Let it reach the control plane; its log (`proxy.log`) says why it could not.";
    E918: "A proxy refuses a part of its configuration and keeps what it had.",
        "a proxy that knows less than the control plane sends", "See `naka status` for the proxy's words.";
    E920: "A service that nothing declares and no workload runs under. Found by `naka why`, as are E921 to E926 and W920 to W927; `naka explain` tells E924 to E926 and W923 to W925 too.",
        "`naka why paymnet`", "Correct the name or its namespace (`-n`), or start a workload under it.";
    E921: "A service without any endpoint: its selector fits no workload, or the workload that fits may not serve it.",
        "`selector: {app: payments}` while the workload has `app: payment`", "Correct the selector or the workload's labels (`naka run -l`), or name its service account in `naka.dev/service-accounts`.";
    E922: "A port without a ready endpoint: all workloads behind it are unhealthy or draining.",
        "the program crashed, or its port does not answer", "Look at the workloads named: does the program listen, does its sidecar run (`naka get workloads`)?";
    E923: "A service port that leads where no workload listens.",
        "`targetPort: 8081` while the program listens on 8080", "Correct `targetPort`, or the port of the workload (`naka run -p`).";
    E924: "A DestinationRule turns TLS off, or calls by TLS without the mesh's certificate, towards a service whose PeerAuthentication lets nobody in without it: calls are refused.",
        "`trafficPolicy.tls.mode: DISABLE` with `mtls.mode: STRICT`", "Remove `tls.mode`, or make the PeerAuthentication PERMISSIVE.";
    E925: "A route leads to a subset whose labels no workload of the service has: its requests get 503.",
        "`labels: {version: v3}` while workloads have `version: v1`", "Correct the subset's labels, or start a workload with them (`naka run -l`).";
    E926: "A host that is not served at a gateway because its objects do not fit together: the VirtualService is not bound to the Gateway, the Gateway has no server for its host, or other proxies are selected.",
        "a VirtualService for `shop.example.com` without `gateways`", "Bind the VirtualService (`gateways: [namespace/name]`), add the host to a server, or correct the Gateway's selector.";
    E952: "Keys of an issuer (`jwksUri`) were never fetched: every token of the issuer is refused.",
        "`jwksUri: https://issuer.example/keys`, and nobody answers there", "Make the address answer the control plane's machine with a JSON Web Key Set, or correct it.";
    E960: "The watched directory, or a file of it, cannot be read. What it gave stays in force.",
        "the directory was moved; a file is not UTF-8", "Bring it back, or correct the file named.";
    E961: "Two files of the watched directory hold different versions of one object; which one is meant is unknown. Its last good version stays in force.",
        "`VirtualService default/a` in a.yaml and in b.yaml", "Keep one of the two.";
    E962: "What the watched directory holds could not be stored. It is tried again.",
        "the disk of the store is full", "Look at the reason named.";
    E970: "An item that a profile (`naka check --profile`) demands is not fulfilled.",
        "a workload in a mesh whose PeerAuthentication is PERMISSIVE, under `--profile zero-trust`", "Do what the finding says.";
    E971: "A service-call matrix allows and forbids the same call. `naka policy generate` makes nothing of it.",
        "`allowed_to_call: [audit_service]` and `forbidden_to_call: [audit_service]`", "Keep one of the two lines.";
    E972: "A name of a service-call matrix that is neither a service nor a group, or a pattern that fits no service.",
        "`allowed_to_call: [acount_service]`", "Correct the name, or declare it under `services` or `groups`.";
    E973: "A demand of a service-call matrix that cannot be made an object: leaving it out would let more through.",
        "`access_conditions: [Only when it rains]`", "Write one of the demands that the finding names.";
    W101: "`trafficPolicy.circuitBreaker` is no field of today's API; read as `outlierDetection`.",
        "`circuitBreaker: {consecutiveErrors: 5}`", "Rename it to `outlierDetection`.";
    W102: "`consecutiveGatewayFailureThreshold` is no field of `connectionPool.http`; read as `outlierDetection.consecutiveGatewayErrors`.",
        "`connectionPool.http.consecutiveGatewayFailureThreshold: 3`", "Move it to `outlierDetection.consecutiveGatewayErrors`.";
    W103: "`interval`, `baseEjectionTime`, `maxEjectionPercent` are no fields of `connectionPool.http`; read as those of `outlierDetection`.",
        "`connectionPool.http.interval: 30s`", "Move it to `outlierDetection`.";
    W104: "`tcpNoDelay: true` is no field; small packets are always sent at once, so nothing is lost.",
        "`connectionPool.tcp.tcpNoDelay: true`", "Remove it.";
    W110: "`LEAST_CONN` is the deprecated name of `LEAST_REQUEST`; read as that.",
        "`simple: LEAST_CONN`", "Write `LEAST_REQUEST`.";
    W111: "`consecutiveErrors` is deprecated; read as `consecutive5xxErrors` unless one of the two newer fields is set, which then wins.",
        "`outlierDetection.consecutiveErrors: 3`", "Choose `consecutive5xxErrors` or `consecutiveGatewayErrors`.";
    W113: "`minScale` and `maxScale` are the old spellings of Knative's annotations; read as `min-scale` and `max-scale`.",
        "`autoscaling.knative.dev/minScale: \"0\"`", "Write `min-scale`, `max-scale`.";
    W114: "A deprecated field, read as the one that replaced it.",
        "`fault.delay.percent: 10`, `corsPolicy.allowOrigin`, `mirrorPercent`", "Write the field that the message names.";
    W120: "A `*` inside a path of an ALLOW rule: Istio takes it as itself, so that the rule never matches; read as `{*}`, one segment.",
        "`paths: [/api/*/status]`", "Write `{*}`.";
    W121: "A condition on the caller's labels: no attribute of Istio. Labels come from the control plane's record of the verified peer, never from a header.",
        "`key: source.labels[team]`", "Use `source.principal` or `source.namespace` where the policy must work elsewhere too.";
    W131: "A version or a suite of TLS that nobody here serves; it is left out.",
        "`minProtocolVersion: TLSV1_0`", "Write TLSV1_2 or a suite with ECDHE and GCM or CHACHA20.";
    W132: "A match of `tcp` or `tls` asks for addresses that are not known beside a program: callers' (`sourceSubnet`), or, beside a proxy that is not Naka's, those called (`destinationSubnets`). It holds at gateways only.",
        "`sourceSubnet: 10.0.0.0/8` in an object for `mesh`", "Match on `sourceLabels` instead, use a ServiceEntry with the `addresses`, or bind the object to a gateway.";
    W341: "An environment variable that no proxy reads.", "env `PILOT_AGENT_MODE`", "Remove it.";
    W342: "A sidecar written by hand into a Deployment: nothing redirects traffic to it, and it ages with the file.",
        "`image: istio/proxyv2:1.19.0`", "Remove the container and let the sidecar be injected.";
    W133: "A DestinationRule without `workloadSelector` names a Secret for its TLS. As in Istio that holds at gateways only; calls by sidecars fail with 503 `tls-failed`.",
        "`tls: {mode: SIMPLE, credentialName: bank}`", "Add `workloadSelector` if workloads are to call, or name files.";
    W900: "A field that exists but is not enforced yet. It is kept with the object and does nothing; the rest is in force.",
        "`fault:` in a route", "Nothing to do; leave it out if you rely on it.";
    W901: "A file that holds tokens can be read by other users of this machine.",
        "`$NAKA_HOME/config` with mode 644", "`chmod 600` the file named.";
    W902: "A field of Istio's API that has no effect in Istio either.",
        "`fault.delay.exponentialDelay`", "Remove it.";
    W903: "A key of a JSON Web Key Set is left out: a shared secret, an RSA key below 2048 bits, a key that is not for signatures or of a kind that nobody here knows. Tokens signed with it are refused.",
        "`{\"kty\": \"oct\"}` in `jwks`", "Sign tokens with RSA from 2048 bits, ECDSA or Ed25519, and write the public key.";
    W911: "The versions of this command and of the control plane, or of a proxy and of the control plane, differ by one.",
        "during an upgrade", "Finish the upgrade.";
    W912: "The disk of the mesh directory is nearly full.",
        "less than 5 % and less than 1 GiB free", "Free space before the log can not be written.";
    W913: "A certificate of the control plane or its authority ends soon.",
        "an intermediate with less than 30 days or a quarter of its life, a root with less than 90 days", "`naka ca intermediate request`, `sign` where the root's key is, `install`; with the root's key in the mesh it is renewed by itself. A root has to be replaced in time.";
    W917: "A proxy's certificate is in the last tenth of its life, or half of the time has passed between the renewal that its CertificatePolicy wants and its end: its renewals fail, or nobody approves them.",
        "a proxy whose requests for a certificate are refused", "See the proxy's log (`proxy.log`) and `naka events`.";
    W918: "A proxy does not have the newest configuration yet.",
        "a frozen proxy, or a change of this moment", "Ask again; if it stays so, look at the proxy's machine.";
    W919: "A registered proxy is not connected. It runs on what it knows, if it runs.",
        "a machine that is cut off", "Restore its line to the control plane; it leaves the list when its lease is over.";
    W920: "Some endpoints of a port are not ready; calls go to the others.",
        "one of three workloads is draining", "Look at the workloads named.";
    W921: "Outlier detection that throws endpoints out for very little, for long, or all at once.",
        "`consecutive5xxErrors: 1`", "Use 3 or more errors, a `baseEjectionTime` of 30s and a `maxEjectionPercent` of 50 or less.";
    W922: "A limit so small that the breaker is open whenever two callers come together.",
        "`http1MaxPendingRequests: 1`", "Raise the limit above the calls that come at the same time, or remove it.";
    W923: "A VirtualService for the host that the caller's namespace does not see: it decides nothing there.",
        "`exportTo: ['.']` and a caller in another namespace", "Widen `exportTo`, or remove it.";
    W924: "A VirtualService for a name that no service has, one or two letters off from one that exists.",
        "`hosts: [paymnet]`", "Correct the host, unless that name is meant.";
    W925: "A service that its caller cannot call by name: the caller's Sidecar leaves it out, or the service is not exported to the caller's namespace.",
        "`egress: [{hosts: [\"shop/*\"]}]` in the caller's namespace", "Add the host to the Sidecar's egress hosts, or export the service.";
    W926: "An endpoint that a proxy does not call because of what it found out by itself: outlier detection ejected it there, or it fails the health checks of a BackendPolicy. Other proxies may still call it.",
        "an endpoint that answered five calls in a row with 503", "Look at what the endpoint answers; it is called again when its time is over or its checks succeed.";
    W927: "A breaker of a BackendPolicy that is not closed in a proxy: open, it answers calls without making them; half open (a note), it lets a few through and closes when they succeed.",
        "five calls in a row that failed", "Mend the destination; the breaker closes by itself after trials that succeed.";
    W380: "A CertificatePolicy asks for Ed25519 while a proxy is known that takes no such keys (an Envoy, a program of gRPC's): workloads get ECDSA on P-256 meanwhile.",
        "`privateKey: {algorithm: Ed25519}` beside `naka run --proxy envoy`", "Write ECDSA, or use Naka's proxies only.";
    W381: "A workload runs whose program is not what a CertificatePolicy demands, or of which nothing is known (it joined before the policy, or by a token from elsewhere): it gets no further certificate.",
        "`attestation: {executables: [\"sha256:…\"]}` for a service account that runs another build", "Start the right program anew by `naka run` on the control plane's machine, or add its hash.";
    W382: "Certificates wait until somebody approves them, as their CertificatePolicy has it: new workloads do not start, and those that run keep theirs until it ends.",
        "`approval: Manual` and a workload that starts", "Look at `naka get certs`, and `naka cert approve` what is right.";
    W950: "Many workloads vanished at once, too many to be believed: none of them is removed until the control plane is sure. Their endpoints are still in use.",
        "the control plane restarts while half of the workloads cannot reach it", "Wait for them to return, or look for what cuts them off; those that really ended leave after their lease.";
    W951: "The packet rules that capture a whole machine (`--capture host`) were changed by somebody. They are put right within seconds; in between calls went around the mesh.",
        "`nft flush ruleset` by a firewall's reload", "Let the firewall leave the table `naka` (iptables: the chains `NAKA_…`) alone.";
    W952: "Keys of an issuer (`jwksUri`) cannot be fetched again. The last ones stay in force; keys that the issuer has since taken back do too.",
        "the issuer's server is down", "Bring it back; write the keys as `jwks` if it stays away.";
    W953: "A program does not pass `traceparent` on: more than one in ten of the calls that it makes while it is at work on requests begin a trace of their own. Traces end there, and what failed behind it is not found from before it.",
        "a program that calls others with headers of its own only", "Copy the header `traceparent` (and `tracestate`) of the request that is being served into each call made for it, or use a library of OpenTelemetry, which does so.";
    W960: "Two files of the watched directory hold the same version of one object.",
        "a copy of a.yaml beside it", "Keep one of the two.";
    W961: "A look at the watched directory would delete more than 30 % of the objects it has given. They stay until the files are back or the deletion is released.",
        "the directory is empty because a volume is not mounted", "Bring the files back, or release it with the `naka confirm` command named.";
    W962: "Objects are gone from the watched directory, but a file of it cannot be read and may hold them. They stay until it can.",
        "a file with a syntax error", "Correct the file named.";
    W970: "An item that a profile (`naka check --profile`) asks for is not fulfilled.",
        "a service that one instance serves, under `--profile production`", "Do what the finding says.";
    W971: "A service-call matrix forbids by name what it allows by a group or a pattern: it stays forbidden.",
        "`allowed_to_call: [all_internal_services]` and `forbidden_to_call: [core_banking_system]`, which is one of them", "Leave it out of what is allowed.";
    W972: "A line of a service-call matrix or of a zero-trust posture that no object says as it is written.",
        "`pii_detection: enabled`", "The finding says who keeps it, or what was taken instead.";
    W975: "A Mode is on: objects are in force in another form than they are stored. It ends by itself; `naka mode off NAME` ends it now.",
        "`naka mode on break-glass --incident INC-4711 --why …`, confirmed by a second person", "Nothing, if it is meant; end it as soon as it is not needed any more.";
    W976: "A Mode that is on cannot patch one of its targets: the object is gone, or would not be sound. It stays in force as it is stored.",
        "the AuthorizationPolicy that break-glass opens was deleted meanwhile", "Make the object again, or take the patch out of the Mode.";
    W982: "A data class (label `naka.dev/data-class`) that is none of the four is read as the strictest.",
        "`naka.dev/data-class: secret` of a Namespace", "Write public, internal, confidential or restricted.";
    W983: "A PeerAuthentication lets callers without mTLS in where the data class of a workload forbids it. The class counts: they are refused.",
        "`mtls: {mode: PERMISSIVE}` in a Namespace with `naka.dev/data-class: confidential`", "Write STRICT, or another class.";
    W984: "Data is restricted, and no TrustModel demands two approvals and a trail of each call to it.",
        "`naka.dev/data-class: restricted` alone", "Apply a TrustModel with `dualAuthorization: true` and `auditTrail: comprehensive`.";
    W985: "Data is confidential, and nobody approves who gets at it: neither a CertificatePolicy nor a TrustModel.",
        "`naka.dev/data-class: confidential` alone", "Apply a CertificatePolicy with `approval: Manual`, or a TrustModel with `dualAuthorization: true`.";
    L301: "A subset's or a port's block replaces the parent's block of the same name as a whole: settings of the parent are lost.",
        "`connectionPool` in a subset without the parent's `connectTimeout`", "Repeat the settings named in the subset.";
    L301B = "L301b": "Port-level settings replace everything, blocks they do not mention too.",
        "`portLevelSettings` with `loadBalancer` only", "Repeat the blocks named below the port.";
    L302: "`consecutiveGatewayErrors` is not below `consecutive5xxErrors` (default 5): the gateway threshold can never be the first to be reached.",
        "`consecutiveGatewayErrors: 3`, `consecutive5xxErrors: 2`", "Make it smaller, or set `consecutive5xxErrors: 0`.";
    L303: "`connectionPool.http.maxRetries` limits the retries in flight to the whole destination, not the tries of a request.",
        "`maxRetries: 3`", "Tries belong to the VirtualService's `retries.attempts`; remove it or use 10 or more.";
    L304: "`maxRequestsPerConnection` of 1 or 2 opens a new connection for nearly every request.",
        "`maxRequestsPerConnection: 1`", "Remove it or use a larger number.";
    L305: "A route's timeout ends before the `connectTimeout` of its destination: a host that does not answer uses up the whole call.",
        "`timeout: 80ms` with `connectTimeout: 5s`", "Set `connectTimeout` well below the timeout.";
    L306: "All tries together can last longer than the route's timeout: the last ones are cut off.",
        "`timeout: 30s` with 1 + 3 tries of 10s", "Raise `timeout` or lower `attempts` or `perTryTimeout`.";
    L307: "Retries on 5xx repeat requests that may have been processed, for methods that are not safe to repeat.",
        "`retryOn: 5xx` on a route that takes POST", "Use `connect-failure,refused-stream`, or match GET only, or use idempotency keys.";
    L308: "No route takes the requests that match none of the conditions: they get 404.",
        "every route has a `match`", "Add a last route without `match`.";
    L309: "The regular expression can match only a fixed beginning, but it must match the whole value.",
        "`regex: \"^(09|10):\"`", "Add `.*` at the end, or use `prefix`.";
    L310: "A route names a subset that no DestinationRule defines: its traffic gets 503.",
        "`subset: v2` without a DestinationRule", "Define the subset, or remove it from the route.";
    L311: "Subsets that no route leads to.",
        "`subsets: [{name: v0}]` with routes to v1 only", "Remove them, or add a route.";
    L312: "A short host name resolves in the object's own namespace: the VirtualService and the DestinationRule mean different services.",
        "VirtualService in `shop`, DestinationRule in `default`, both for `cart`", "Put both into one namespace, or write the full host.";
    L313: "A route can never be reached: an earlier one takes all its requests.",
        "a route after one without `match`", "Move it up, or remove it.";
    L314: "A route leads to a service that nothing declares and no workload runs under, or to a port it does not have: its traffic gets 503.",
        "`destination: {host: paymnet}`", "Correct the name or the port, or start the service.";
    L315: "A VirtualService for a service of another namespace holds for callers of its own namespace only, unless that service or its namespace lets it in.",
        "VirtualService in `shop` for `payment.bank`", "Write it in the service's namespace, or have its owner add the annotation `naka.dev/routes-from` with the VirtualService's namespace.";
    L316: "Two VirtualServices claim one host: the older holds for it as a whole, the younger does nothing there.",
        "two objects with `hosts: [payment]`", "Put the routes into one object, or delegate.";
    L317: "A delegated route has no effect: the delegate is missing, is not visible, delegates itself, or its conditions are not within the route's.",
        "`delegate: {name: pyament}`", "See the message for which of these; write conditions that are part of the route's.";
    L318: "A fault without a share: it happens to no request.",
        "`fault.delay` without `percentage`", "Add `percentage: {value: 100}`.";
    L319: "A VirtualService without hosts that nobody delegates to: it does nothing.",
        "`hosts` was forgotten", "Add `hosts`, or delegate to it from another VirtualService.";
    L320: "A decision rests on a header that the caller can set.",
        "`key: request.headers[customer-tier]`", "Have the gateway remove and set it, or use a claim of a token.";
    L323: "A policy compares the caller's identity, but nothing demands mTLS of callers.",
        "`principals` without a PeerAuthentication", "Add a PeerAuthentication with `mtls.mode: STRICT`.";
    L331: "ISTIO_MUTUAL on the port between clusters ends TLS there; calls between clusters pass through.",
        "port 15443 with `mode: ISTIO_MUTUAL`", "Write `AUTO_PASSTHROUGH`.";
    L333: "Hosts of one ServiceEntry share its endpoints: calls of each go to all of them.",
        "three `hosts`, one list of `endpoints`", "Write one ServiceEntry for each host.";
    L334: "Endpoints with one address that differ only in their network: without a gateway for each network they are the same.",
        "two endpoints `a.svc.cluster.local`", "Write the address of that network's gateway.";
    L335: "A service of the mesh declared MESH_EXTERNAL is called without mTLS.",
        "`location: MESH_EXTERNAL` with an endpoint `…svc.cluster.local`", "Write `MESH_INTERNAL`.";
    L336: "Several hosts have one address: outside of HTTP nothing tells which was meant.",
        "two `hosts`, one of `addresses`, a TCP port", "Give each host an address of its own.";
    L340: "`PASSTHROUGH` calls the address that a program names; calls by the service's name get 503.",
        "`loadBalancer: {simple: PASSTHROUGH}`", "Use `LEAST_REQUEST`, unless programs call addresses of endpoints.";
    L341: "`warmup` does nothing under this policy.",
        "`{simple: RANDOM, warmup: {duration: 60s}}`", "Remove it, or use `ROUND_ROBIN` or `LEAST_REQUEST`.";
    L345: "Another namespace's name: an entry for it has no effect without a grant of that namespace.",
        "in `shop` a ServiceEntry for `pay.bank.svc.cluster.local`", "Remove the host, or have the other namespace write the annotation `naka.dev/host-grants` on its Service or Namespace.";
    L346: "The certificate of a server that is called by TLS is not verified.",
        "`insecureSkipVerify: true`", "Remove it, or name the authority in `caCertificates`.";
    L347: "A pattern of hosts that means nothing, so nothing may be called by it.",
        "`hosts: [payment]` in a Sidecar", "Write `namespace/host`, `./*` or `*/*`.";
    L348: "An older entry has the same host: this one has no effect for it.",
        "two ServiceEntries for `api.example.com`", "Keep one, or limit both by `exportTo`.";
    L349: "Several Sidecars hold for the same workloads: the oldest alone does.",
        "two Sidecars of a namespace without `workloadSelector`", "Keep one of them.";
    L350: "The certificates of clients are not verified.",
        "`tls: {mode: MUTUAL, insecureSkipVerify: true}` of a Gateway's server", "Remove it, or write `SIMPLE`.";
    L351: "A call that may last longer than the call it is made for: its caller has given up before it ends. Who calls whom is read from `sourceLabels: {app: …}` of routes and from the `egress.hosts` of a Sidecar for `app: …`.",
        "`timeout: 1800ms` for calls of `payment` to `bank`, `timeout: 80ms` for calls to `payment`", "Shorten the inner call, give the outer one more time, or answer before the inner call has ended.";
    L352: "A label that Naka's metrics have and Istio's do not.",
        "`by (source_service_name)`", "Use `source_workload` where the rule must work elsewhere too.";
    L353: "A series or job that must exist, or the alert never fires.",
        "`up{job=\"istio-system\"}`", "Add a rule with `absent(…)`.";
    L354: "A bind for bytes could lead to several services: the oldest has all its connections, as in Istio.",
        "`egress: [{port: {number: 5432, protocol: TCP}, bind: 127.0.0.1, hosts: ['./*']}]` with two services of port 5432", "Write one host for each bind, with a port of its own.";
    L360: "A Trigger needs its Broker in its own namespace; nothing here declares one.",
        "`broker: default`", "Create the Broker, and write `metadata.namespace`.";
    L370: "A limit's key is something the caller says: with each new value it has a bucket of its own.",
        "`keys: [\"request.headers['x-merchant']\"]`", "Add a rule without keys as a bound for all, or use `source.principal`.";
    L371: "A limit's target is not there: nothing is limited by it.",
        "`targetRefs: [{kind: Gateway, name: edg}]`", "Correct the name, or apply the object it means.";
    L380: "Two CertificatePolicies hold for a workload just as much (priority, what they name, namespace): the older one decides.",
        "two objects for the whole namespace without `priority`", "Give the one that is meant a larger `priority`.";
    L381: "Somebody has to approve certificates faster than people do: manual approval contradicts rotation within hours. A certificate that nobody approved in time ends, and calls fail.",
        "`duration: 24h` with `approval: Manual`", "Write `approval: Automatic`, or a longer `duration` with a `renewBefore` of `24h` or more.";
    L382: "A policy whose certificates somebody has to approve chooses workloads by labels, which they say of themselves.",
        "`approval: Manual` with `selector`", "Name `serviceAccounts` instead.";
    L383: "A trust domain alias that adds nothing: it is the mesh's own trust domain, or is written twice.",
        "`trustDomainAliases: [cluster.local]` in the mesh `cluster.local`", "Remove it.";
    L390: "A guard's methods leave OPTIONS out where a corsPolicy stands: browsers ask by it before they call, and are refused.",
        "`methods: {allow: [GET, POST]}` beside a VirtualService with `corsPolicy`", "Add OPTIONS.";
    L391: "A guard looks at tokens, and no RequestAuthentication reads any: it finds nothing.",
        "`tokens: {faults: [expired]}` alone", "Add a RequestAuthentication, or remove the guard.";
}

impl Code {
    /// `error`, `warning` or `lint`, by its first letter.
    #[must_use]
    pub fn severity(&self) -> &'static str {
        match self.id.as_bytes().first() {
            Some(b'E') => "error",
            Some(b'W') => "warning",
            _ => "lint",
        }
    }
}

/// The code of that id.
#[must_use]
pub fn of(id: &str) -> Option<&'static Code> {
    TABLE.iter().find(|code| code.id == id)
}

/// The reference page, as committed in `docs/reference/findings.md`.
#[must_use]
pub fn page() -> String {
    use std::fmt::Write as _;
    let mut out = String::from(
        "# Findings\n\nEverything Naka has to say about an object has a code that never changes its meaning. **E** error: the part named \
         is not in force, the sound rest is. **W** warning: accepted, read as described. **L** lint: accepted, but probably not \
         what was meant. Where a lint and an error meet, both are reported.\n\n`naka check -f FILE` prints them with file, line, \
         column and field; exit code 1 if any is an error. `--strict` turns the warnings about old spellings (W1xx) into errors.\n\n\
         This page is the table in `crates/api/src/codes.rs`; a test compares the two.\n\n\
         | code | severity | meaning | example | fix |\n|---|---|---|---|---|\n",
    );
    let cell = |text: &str| text.replace('|', "\\|");
    for code in TABLE {
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} |",
            code.id,
            code.severity(),
            cell(code.meaning),
            cell(code.example),
            cell(code.fix)
        );
    }
    out
}

//! Gateways and routes of connections: what is read, what falls out and why.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use naka_api::{Mode, Object, decode_yaml};

fn one(yaml: &str) -> Object {
    let decoded = decode_yaml("test.yaml", yaml.as_bytes(), Mode::Compat);
    assert_eq!(decoded.objects.len(), 1, "{:?}", decoded.findings);
    decoded.objects.into_iter().next().unwrap()
}

#[test]
fn servers_of_gateways_and_their_tls() {
    let object = one(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g, namespace: edge}\nspec:\n  servers:\n  - {port: {number: 81, name: h, protocol: http}, hosts: ['*.a.com', ./b.com, shop/c.com, '*/d.com']}\n  - {port: {number: 80, name: r, protocol: HTTP}, hosts: [a.com], tls: {httpsRedirect: true}}\n  - {port: {number: 443, name: s, protocol: HTTPS}, hosts: [a.com], tls: {mode: SIMPLE, credentialName: c, minProtocolVersion: TLSV1_3}}\n  - {port: {number: 9000, name: t, protocol: TCP}, hosts: ['*'], bind: 127.0.0.1}\n",
    );
    let gateway = object.gateway().unwrap();
    let protocols: Vec<_> = gateway.servers.iter().map(|one| one.protocol).collect();
    use naka_api::networking::gateway::{Certificate, ServerProtocol, TlsMode, TlsVersion};
    assert_eq!(
        protocols,
        [
            ServerProtocol::Http,
            ServerProtocol::Http,
            ServerProtocol::Https,
            ServerProtocol::Tcp
        ]
    );
    assert!(!gateway.servers[0].https_redirect && gateway.servers[1].https_redirect);
    let tls = gateway.servers[2].tls.as_ref().unwrap();
    assert_eq!(
        (tls.mode, tls.lowest, tls.certificates.as_slice()),
        (
            TlsMode::Simple,
            TlsVersion::V13,
            &[Certificate::Secret("c".into())][..]
        )
    );
    assert_eq!(gateway.servers[3].bind, Some([127, 0, 0, 1].into()));
    let hosts: Vec<(Option<&str>, &str)> = gateway.servers[0]
        .hosts
        .iter()
        .map(|host| (host.namespace.as_deref(), host.host.as_str()))
        .collect();
    assert_eq!(
        hosts,
        [
            (None, "*.a.com"),
            (Some("edge"), "b.com"),
            (Some("shop"), "c.com"),
            (None, "d.com")
        ]
    );
    let host = |text: &str| naka_types::host::Host::parse(text).unwrap();
    let admits = |place: usize, namespace: &str, name: &str| {
        gateway.servers[0].hosts[place].admits(namespace, &host(name))
    };
    assert!(
        admits(0, "any", "x.a.com")
            && admits(0, "any", "*")
            && admits(0, "any", "*.x.a.com")
            && !admits(0, "any", "a.com")
    );
    assert!(admits(2, "shop", "c.com") && !admits(2, "other", "c.com"));
}

/// Servers that cannot be carried out as written are left out, each with its finding; the one beside them stays.
#[test]
fn a_server_whose_tls_is_unsound_is_out_of_force() {
    for (server, code) in [
        (
            "port: {number: 443, name: s, protocol: HTTPS}, hosts: [a.com]",
            "E006",
        ),
        (
            "port: {number: 443, name: s, protocol: HTTPS}, hosts: [a.com], tls: {mode: SIMPLE}",
            "E006",
        ),
        (
            "port: {number: 443, name: s, protocol: HTTPS}, hosts: [a.com], tls: {mode: MUTUAL, serverCertificate: /a, privateKey: /b}",
            "E006",
        ),
        (
            "port: {number: 443, name: s, protocol: HTTPS}, hosts: [a.com], tls: {mode: SIMPLE, serverCertificate: /a}",
            "E006",
        ),
        (
            "port: {number: 443, name: s, protocol: HTTPS}, hosts: [a.com], tls: {mode: ISTIO_MUTUAL, credentialName: c}",
            "E007",
        ),
        (
            "port: {number: 443, name: s, protocol: HTTPS}, hosts: [a.com], tls: {mode: SIMPLE, credentialName: c, maxProtocolVersion: TLSV1_1}",
            "E007",
        ),
        (
            "port: {number: 443, name: s, protocol: HTTPS}, hosts: [a.com], tls: {mode: SIMPLE, credentialName: c, minProtocolVersion: TLSV1_3, maxProtocolVersion: TLSV1_2}",
            "E007",
        ),
        (
            "port: {number: 443, name: s, protocol: HTTPS}, hosts: [a.com], tls: {mode: SIMPLE, credentialName: c, cipherSuites: [AES128-SHA]}",
            "E007",
        ),
        (
            "port: {number: 443, name: s, protocol: HTTPS}, hosts: [a.com], tls: {mode: MUTUAL, credentialName: c, verifyCertificateHash: [abc]}",
            "E007",
        ),
        (
            "port: {number: 443, name: s, protocol: HTTPS}, hosts: [a.com], tls: {mode: MUTUAL, credentialName: c, verifyCertificateSpki: [abc]}",
            "E007",
        ),
        (
            "port: {number: 443, name: s, protocol: HTTPS}, hosts: [a.com], tls: {mode: SIMPLE, credentialName: c, credentialNames: [d]}",
            "E007",
        ),
        (
            "port: {number: 80, name: s, protocol: HTTP}, hosts: [a.com], tls: {mode: SIMPLE, credentialName: c}",
            "E007",
        ),
        (
            "port: {number: 90, name: s, protocol: TCP}, hosts: [a.com], tls: {httpsRedirect: true}",
            "E007",
        ),
        (
            "port: {number: 90, name: s, protocol: QUIC}, hosts: [a.com]",
            "E007",
        ),
        (
            "port: {number: 80, name: s, protocol: HTTP}, hosts: [a.com], bind: 'unix:///x'",
            "E007",
        ),
    ] {
        let text = format!(
            "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: g}}\nspec:\n  servers:\n  - {{{server}}}\n  - {{port: {{number: 81, name: h, protocol: HTTP}}, hosts: [b.com]}}\n"
        );
        let decoded = naka_api::decode_yaml("g.yaml", text.as_bytes(), naka_api::Mode::Compat);
        let mut codes: Vec<&str> = decoded.findings.iter().map(|f| f.code.as_str()).collect();
        codes.dedup();
        codes.retain(|code| *code != "W131");
        assert_eq!(codes, [code], "{server}: {:?}", decoded.findings);
        let ports: Vec<u16> = decoded.objects[0]
            .gateway()
            .unwrap()
            .servers
            .iter()
            .map(|s| s.port)
            .collect();
        assert_eq!(ports, [81], "{server}");
    }
}

/// Istio's webhook refuses a Gateway with two ports of one name; here the earlier server stays, and a finding says so.
#[test]
fn two_servers_have_no_port_name_in_common() {
    for (second, served, code) in [("b", 2, None), ("a", 1, Some("E007"))] {
        let text = format!(
            "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: g}}\nspec:\n  servers:\n  - {{port: {{number: 80, name: a, protocol: HTTP}}, hosts: [a.com]}}\n  - {{port: {{number: 81, name: {second}, protocol: HTTP}}, hosts: [b.com]}}\n"
        );
        let decoded = decode_yaml("g.yaml", text.as_bytes(), Mode::Compat);
        let first = decoded.findings.first();
        assert_eq!(first.map(|one| one.code.as_str()), code);
        let field = first.map(|one| one.field.as_str());
        assert_eq!(field, code.map(|_| "spec.servers[1].port.name"));
        let gateway = decoded.objects[0].gateway().unwrap();
        assert_eq!(gateway.servers.len(), served);
        assert_eq!(gateway.servers[0].port, 80);
    }
}

/// What decides nothing in Istio decides nothing here: told apart are what is said of it and that the object is the same.
#[test]
fn fields_without_effect_are_named_and_change_nothing() {
    let gateway = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: a}\nspec:\n  servers:\n  - {port: {number: 80, name: a, protocol: HTTP%P}, hosts: [a.com]%S}\n";
    let sidecar = "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: a}\nspec:\n  ingress:\n  - {port: {number: 80, protocol: HTTP, name: a%P}, tls: {mode: SIMPLE, credentialName: a%T}}\n  egress:\n  - {port: {number: 81%E}, bind: 127.0.0.1, hosts: ['./*']}\n";
    for (of, place, words, said) in [
        (gateway, "%P", ", targetPort: 9", Some("W902")),
        (
            gateway,
            "%S",
            ", defaultEndpoint: '127.0.0.1:9'",
            Some("W902"),
        ),
        (gateway, "%S", ", bind: 127.0.0.1", None),
        (sidecar, "%P", ", targetPort: 9", Some("W902")),
        (sidecar, "%T", ", httpsRedirect: true", Some("W902")),
        (sidecar, "%E", ", targetPort: 9", Some("W902")),
        (sidecar, "%E", ", name: tcp-a", None),
        (sidecar, "%E", ", protocol: TCP", None),
    ] {
        let filled = |words: &str| {
            let text = of.replacen(place, words, 1);
            let text = ["%P", "%S", "%T", "%E"]
                .iter()
                .fold(text, |text, mark| text.replace(mark, ""));
            decode_yaml("a.yaml", text.as_bytes(), Mode::Compat)
        };
        let (with, without) = (filled(words), filled(""));
        assert!(without.findings.is_empty(), "{:?}", without.findings);
        let codes = with.findings.first().map(|one| one.code.as_str());
        assert_eq!(codes, said, "{words}: {:?}", with.findings);
        let built = |all: &naka_api::Decoded| {
            let gateway = all.objects[0].gateway().cloned();
            let mut sidecar = all.objects[0].sidecar().cloned();
            // The name itself is kept, for whoever looks.
            for one in sidecar
                .iter_mut()
                .flat_map(|one| one.egress.iter_mut().flatten())
            {
                one.port.iter_mut().for_each(|port| port.name.clear());
            }
            (gateway, sidecar)
        };
        let acts = words.contains("bind") || words.contains("protocol");
        assert_eq!(built(&with) != built(&without), acts, "{words}");
    }
}

/// Routes of connections: what falls out, and what stays.
#[test]
fn routes_of_connections() {
    for (lists, tls, tcp, code) in [
        (
            "tls: [{match: [{sniHosts: [a.com]}], route: [{destination: {host: x}}]}]",
            1,
            0,
            None,
        ),
        (
            "tls: [{match: [{sniHosts: [b.com]}], route: [{destination: {host: x}}]}, {match: [{sniHosts: [a.com]}], route: [{destination: {host: x}}]}]",
            1,
            0,
            Some("E007"),
        ),
        (
            "tls: [{match: [{sniHosts: ['*.com']}], route: [{destination: {host: x}}]}, {match: [{sniHosts: [a.com]}], route: [{destination: {host: x}}]}]",
            1,
            0,
            Some("E007"),
        ),
        (
            "tcp: [{match: [{port: 1, destinationSubnets: [10.0.0.0/8], sourceSubnet: 192.0.2.1}], route: [{destination: {host: x}}]}]",
            0,
            1,
            None,
        ),
        (
            "tcp: [{match: [{destinationSubnets: [10.0.0.0/99]}], route: [{destination: {host: x}}]}, {route: [{destination: {host: x}}]}]",
            0,
            1,
            Some("E007"),
        ),
        (
            "tcp: [{match: [{port: 1}]}, {route: [{destination: {host: x}}]}]",
            0,
            1,
            Some("E006"),
        ),
        (
            "tcp: [{route: [{destination: {host: x}, weight: 1}, {destination: {host: y}, weight: 3}]}]",
            0,
            1,
            None,
        ),
    ] {
        let text = format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: v}}\nspec: {{hosts: [a.com], {lists}}}\n"
        );
        let decoded = naka_api::decode_yaml("v.yaml", text.as_bytes(), naka_api::Mode::Compat);
        let codes: Vec<&str> = decoded.findings.iter().map(|f| f.code.as_str()).collect();
        assert_eq!(
            codes.first().copied(),
            code,
            "{lists}: {:?}",
            decoded.findings
        );
        let spec = decoded.objects[0].virtual_service().unwrap();
        assert_eq!((spec.tls.len(), spec.tcp.len()), (tls, tcp), "{lists}");
    }
}

//! Certificates of strangers, over handshakes in memory.

use super::*;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ClientConfig, ClientConnection, ServerConnection};
use rustls_pki_types::ServerName;

struct Made {
    chain: String,
    key: String,
    der: CertificateDer<'static>,
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn made(name: &str, by: &CertifiedIssuer<'static, KeyPair>) -> Made {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec![name.to_owned()])
        .unwrap()
        .signed_by(&key, by)
        .unwrap();
    Made {
        chain: certificate.pem(),
        key: key.serialize_pem(),
        der: certificate.der().clone(),
    }
}

fn settings(own: &Made, clients: Option<Clients>) -> Settings {
    Settings {
        certificates: vec![Served::from_pem(own.chain.as_bytes(), own.key.as_bytes()).unwrap()],
        clients,
        lowest: Version::Tls12,
        curves: Vec::new(),
        highest: Version::Tls13,
        suites: Vec::new(),
        alpn: vec![b"h2".to_vec()],
    }
}

/// Whether both sides agree, and on what.
fn shake(
    server: &Arc<ServerConfig>,
    roots: &str,
    own: Option<&Made>,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<rustls::ProtocolVersion, String> {
    let mut store = RootCertStore::empty();
    for root in bundle::certificates(roots).unwrap() {
        store.add(root).unwrap();
    }
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(store);
    let config = match own {
        None => builder.with_no_client_auth(),
        Some(own) => builder
            .with_client_auth_cert(
                vec![own.der.clone()],
                PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap(),
            )
            .unwrap(),
    };
    let name = ServerName::try_from("shop.example.com").unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut server = ServerConnection::new(Arc::clone(server)).unwrap();
    let word = |error: rustls::Error| error.to_string();
    for _ in 0..8 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut wire = wire.as_slice();
        while !wire.is_empty() {
            server.read_tls(&mut wire).unwrap();
            server.process_new_packets().map_err(word)?;
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut wire = wire.as_slice();
        while !wire.is_empty() {
            client.read_tls(&mut wire).unwrap();
            client.process_new_packets().map_err(word)?;
        }
    }
    assert!(!server.is_handshaking());
    Ok(server.protocol_version().unwrap())
}

const BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];

#[test]
fn a_key_that_is_not_the_certificates_is_refused() {
    let ca = authority();
    let (one, other) = (made("shop.example.com", &ca), made("shop.example.com", &ca));
    assert!(Served::from_pem(one.chain.as_bytes(), one.key.as_bytes()).is_ok());
    for (chain, key) in [
        (&one.chain, &other.key),
        (&one.chain, &one.chain),
        (&one.key, &one.key),
        (&String::new(), &one.key),
    ] {
        assert!(Served::from_pem(chain.as_bytes(), key.as_bytes()).is_err());
    }
}

#[test]
fn versions_and_suites_are_what_was_asked_for() {
    let ca = authority();
    let own = made("shop.example.com", &ca);
    let roots = ca.pem();
    let old: &[&SupportedProtocolVersion] = &[&TLS12];
    let base = settings(&own, None);
    let config = server(&base).unwrap();
    assert_eq!(
        shake(&config, &roots, None, BOTH),
        Ok(rustls::ProtocolVersion::TLSv1_3)
    );
    assert_eq!(
        shake(&config, &roots, None, old),
        Ok(rustls::ProtocolVersion::TLSv1_2)
    );
    let newest = Settings {
        lowest: Version::Tls13,
        ..base.clone()
    };
    assert!(shake(&server(&newest).unwrap(), &roots, None, old).is_err());
    let oldest = Settings {
        highest: Version::Tls12,
        ..base.clone()
    };
    let config = server(&oldest).unwrap();
    assert_eq!(
        shake(&config, &roots, None, BOTH),
        Ok(rustls::ProtocolVersion::TLSv1_2)
    );
    // The key is of ECDSA, so a suite of RSA alone leaves nothing for TLS 1.2.
    for (suite, works) in [
        ("ECDHE-ECDSA-AES128-GCM-SHA256", true),
        ("ECDHE-RSA-AES128-GCM-SHA256", false),
    ] {
        let chosen = Settings {
            suites: vec![suite.to_owned()],
            ..base.clone()
        };
        let got = shake(&server(&chosen).unwrap(), &roots, None, old);
        assert_eq!(got.is_ok(), works, "{suite}");
    }
}

#[test]
fn key_exchanges_are_what_was_asked_for() {
    let ca = authority();
    let own = made("shop.example.com", &ca);
    let roots = ca.pem();
    let base = settings(&own, None);
    // The client of these tests has those of the mesh, and P-384 is none of them.
    for (curves, works) in [
        (vec!["P-256"], true),
        (vec!["P-384", "X25519"], true),
        (vec!["P-384"], false),
        (vec!["unheard of"], false),
    ] {
        let chosen = Settings {
            curves: curves.iter().map(|name| (*name).to_owned()).collect(),
            ..base.clone()
        };
        let got = server(&chosen).map(|config| shake(&config, &roots, None, BOTH));
        assert_eq!(matches!(got, Ok(Ok(_))), works, "{curves:?}");
    }
}

#[test]
fn clients_are_who_they_must_be() {
    let (ca, theirs, strange) = (authority(), authority(), authority());
    let own = made("shop.example.com", &ca);
    let roots = ca.pem();
    let client = made("ops.example.com", &theirs);
    let stranger = made("ops.example.com", &strange);
    let asked = Clients {
        roots: theirs.pem().into_bytes(),
        ..Clients::default()
    };
    let key = |made: &Made| {
        let (_, parsed) = X509Certificate::from_der(&made.der).unwrap();
        Pin::Key(sha256_hex(parsed.public_key().raw))
    };
    let hash = |made: &Made| Pin::certificate(&sha256_hex(&made.der)).unwrap();
    for (asked, with, expect) in [
        (asked.clone(), Some(&client), true),
        (asked.clone(), Some(&stranger), false),
        (asked.clone(), None, false),
        (
            Clients {
                optional: true,
                ..asked.clone()
            },
            None,
            true,
        ),
        (
            Clients {
                optional: true,
                ..asked.clone()
            },
            Some(&stranger),
            false,
        ),
        (
            Clients {
                unverified: true,
                names: vec!["dev.example.com".into()],
                ..asked.clone()
            },
            Some(&stranger),
            true,
        ),
        (
            Clients {
                unverified: true,
                ..asked.clone()
            },
            None,
            false,
        ),
        (
            Clients {
                names: vec!["ops.example.com".into()],
                ..asked.clone()
            },
            Some(&client),
            true,
        ),
        (
            Clients {
                names: vec!["dev.example.com".into()],
                ..asked.clone()
            },
            Some(&client),
            false,
        ),
        (
            Clients {
                pins: vec![key(&client)],
                ..asked.clone()
            },
            Some(&client),
            true,
        ),
        (
            Clients {
                pins: vec![hash(&client)],
                ..asked.clone()
            },
            Some(&client),
            true,
        ),
        (
            Clients {
                pins: vec![hash(&own), key(&own)],
                ..asked.clone()
            },
            Some(&client),
            false,
        ),
    ] {
        let config = server(&settings(&own, Some(asked.clone()))).unwrap();
        let got = shake(&config, &roots, with, BOTH);
        assert_eq!(got.is_ok(), expect, "{asked:?} {got:?}");
    }
    let none = Clients::default();
    assert!(server(&settings(&own, Some(none))).is_err(), "no roots");
}

#[test]
fn a_revoked_client_is_refused() {
    let (ca, theirs) = (authority(), authority());
    let own = made("shop.example.com", &ca);
    let client = made("ops.example.com", &theirs);
    let (_, parsed) = X509Certificate::from_der(&client.der).unwrap();
    let serial = rcgen::SerialNumber::from_slice(parsed.raw_serial());
    let list = |serials: &[rcgen::SerialNumber]| {
        let revoked = serials.iter().map(|serial| rcgen::RevokedCertParams {
            serial_number: serial.clone(),
            revocation_time: rcgen::date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        rcgen::CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2024, 1, 1),
            next_update: rcgen::date_time_ymd(2099, 1, 1),
            crl_number: rcgen::SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        }
        .signed_by(&theirs)
        .unwrap()
        .pem()
        .unwrap()
    };
    for (revoked, expect) in [
        (list(&[serial]), false),
        (list(&[rcgen::SerialNumber::from(7_u64)]), true),
    ] {
        let asked = Clients {
            roots: theirs.pem().into_bytes(),
            revoked: revoked.into_bytes(),
            ..Clients::default()
        };
        let config = server(&settings(&own, Some(asked))).unwrap();
        let got = shake(&config, &ca.pem(), Some(&client), BOTH);
        assert_eq!(got.is_ok(), expect, "{got:?}");
    }
}

#[test]
fn pins_are_read_as_openssl_writes_them() {
    let colons = "AB:".repeat(31) + "AB";
    assert_eq!(
        Pin::certificate(&colons),
        Some(Pin::Certificate("ab".repeat(32)))
    );
    assert_eq!(Pin::certificate("abcd"), None);
    let base64 = "A".repeat(43) + "=";
    assert_eq!(Pin::key(&base64), Some(Pin::Key("00".repeat(32))));
    assert_eq!(Pin::key("!!"), None);
}

//! What the authority signs, keeps and refuses.
#![expect(clippy::unwrap_used, reason = "a test says by panicking")]

use naka_identity::{
    Authority, Error, IssueRequest, Issued, KeyAndCsr, Svid, dns_sans, now_s, peer_at, verify,
};
use naka_types::spiffe::SpiffeId;
use naka_types::workload::Ulid;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, SanType};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

fn payment() -> SpiffeId {
    SpiffeId::new("cluster.local", "shop", "payment").unwrap()
}

fn issue(authority: &Authority, csr_pem: &str, now: u64, ttl: Duration) -> Result<Issued, Error> {
    authority.issue(&IssueRequest {
        csr_pem,
        spiffe: &payment(),
        workload_id: Ulid::new(1, 2),
        dns_sans: &dns_sans(&["payment".to_owned()], "shop"),
        ttl,
        now,
    })
}

#[test]
fn a_rogue_request_gets_nothing_but_its_key_certified() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_create(dir.path(), "cluster.local", now_s()).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut wish = CertificateParams::new(vec!["bank.example".to_owned()]).unwrap();
    wish.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    wish.distinguished_name.push(DnType::CommonName, "root");
    wish.subject_alt_names.push(SanType::URI(
        "spiffe://cluster.local/ns/shop/sa/admin"
            .try_into()
            .unwrap(),
    ));
    let csr = wish.serialize_request(&key).unwrap().pem().unwrap();
    let now = now_s();
    let issued = issue(&authority, &csr, now, Duration::from_secs(600)).unwrap();

    let (_, leaf) = X509Certificate::from_der(&issued.chain[0]).unwrap();
    assert_eq!(
        leaf.public_key().subject_public_key.data.as_ref(),
        key.public_key_raw()
    );
    let constraints = leaf.basic_constraints().unwrap().unwrap();
    assert!(!constraints.value.ca, "never an authority");
    let names = &leaf
        .subject_alternative_name()
        .unwrap()
        .unwrap()
        .value
        .general_names;
    let uris: Vec<_> = names
        .iter()
        .filter_map(|n| match n {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    assert_eq!(uris, ["spiffe://cluster.local/ns/shop/sa/payment"]);
    let dns: Vec<_> = names
        .iter()
        .filter_map(|n| match n {
            GeneralName::DNSName(name) => Some(*name),
            _ => None,
        })
        .collect();
    assert_eq!(
        dns,
        [
            "payment",
            "payment.local",
            "payment.shop",
            "payment.shop.svc",
            "payment.shop.svc.cluster.local"
        ]
    );
    assert_eq!(
        leaf.subject().to_string(),
        format!("CN={}", Ulid::new(1, 2))
    );
    let usage = leaf.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && usage.key_encipherment() && !usage.key_cert_sign());
    let purposes = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(
        purposes.server_auth && purposes.client_auth && !purposes.any && !purposes.code_signing
    );
    assert_eq!(issued.not_before, now - 60);
    assert_eq!(issued.not_after, now + 600);
    assert_eq!(leaf.raw_serial_as_string().replace(':', ""), issued.serial);
}

#[test]
fn requests_that_are_not_their_own_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_create(dir.path(), "cluster.local", now_s()).unwrap();
    let sound = KeyAndCsr::generate().unwrap();
    let refused = |csr: &str| {
        matches!(
            issue(&authority, csr, now_s(), Duration::from_secs(60)),
            Err(Error::Request(_))
        )
    };
    assert!(!refused(sound.csr_pem()));
    for bad in [
        "",
        "x",
        "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
    ] {
        assert!(refused(bad), "{bad}");
    }
    assert!(refused(&format!(
        "{}{}",
        "#".repeat(20_000),
        sound.csr_pem()
    )));
    // Any changed character in the body breaks the signature or the encoding; where it does not (some bits of the
    // wrapper mean nothing), the key certified is still the one that signed.
    let key_of = |csr: &str| {
        let issued = issue(&authority, csr, now_s(), Duration::from_secs(60)).ok()?;
        let (_, leaf) = X509Certificate::from_der(&issued.chain[0]).ok()?;
        Some(leaf.public_key().subject_public_key.data.to_vec())
    };
    let text = sound.csr_pem();
    let own = key_of(text).unwrap();
    let body = text.find('\n').unwrap() + 1..text.rfind("\n-----END").unwrap();
    let mut passed = 0;
    for place in body {
        let mut changed = text.as_bytes().to_vec();
        if changed[place] == b'\n' {
            continue;
        }
        changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
        if let Some(key) = key_of(&String::from_utf8(changed).unwrap()) {
            assert_eq!(key, own, "place {place}");
            passed += 1;
        }
    }
    assert!(passed < 8, "{passed} changed requests were taken");
}

#[test]
fn the_authority_survives_restarts_and_says_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca");
    let now = now_s();
    let first = Authority::open_or_create(&ca, "cluster.local", now).unwrap();
    let again = Authority::open_or_create(&ca, "cluster.local", now).unwrap();
    assert_eq!(first.root_sha256(), again.root_sha256());
    assert_eq!(
        first.intermediate_not_after(),
        again.intermediate_not_after()
    );
    assert!(first.root_not_after() > now + 9 * 365 * 86_400);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&ca), 0o700);
    assert_eq!(mode(&ca.join("root.pem")), 0o600);
    assert_eq!(mode(&ca.join("intermediate.pem")), 0o600);

    // Late in its life the intermediate is replaced, the root stays, and what was signed before still leads to it.
    let later = Authority::open_or_create(&ca, "cluster.local", now + 300 * 86_400).unwrap();
    assert_eq!(later.root_sha256(), first.root_sha256());
    assert!(later.intermediate_not_after() > first.intermediate_not_after());

    assert!(matches!(
        Authority::open_or_create(&ca, "other.domain", now),
        Err(Error::Damaged { .. })
    ));
    std::fs::rename(ca.join("root.pem"), ca.join("away")).unwrap();
    let lost = Authority::open_or_create(&ca, "cluster.local", now).unwrap_err();
    assert!(lost.to_string().contains("root.pem"), "{lost}");
    std::fs::rename(ca.join("away"), ca.join("root.pem")).unwrap();
    // A start cut off after the root is completed.
    std::fs::remove_file(ca.join("intermediate.pem")).unwrap();
    let completed = Authority::open_or_create(&ca, "cluster.local", now).unwrap();
    assert_eq!(completed.root_sha256(), first.root_sha256());
    std::fs::write(ca.join("intermediate.pem"), "naka-authority 2\n").unwrap();
    let newer = Authority::open_or_create(&ca, "cluster.local", now).unwrap_err();
    assert!(newer.to_string().contains("format 2"), "{newer}");
}

#[test]
fn a_certificate_never_outlives_the_intermediate() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_create(dir.path(), "cluster.local", now_s()).unwrap();
    let key = KeyAndCsr::generate().unwrap();
    let long = Duration::from_secs(1_000 * 86_400);
    let issued = issue(&authority, key.csr_pem(), now_s(), long).unwrap();
    assert_eq!(issued.not_after, authority.intermediate_not_after());
}

#[test]
fn an_identity_is_saved_privately_and_loaded_whole() {
    let dir = tempfile::tempdir().unwrap();
    let authority =
        Authority::open_or_create(&dir.path().join("ca"), "cluster.local", now_s()).unwrap();
    let key = KeyAndCsr::generate().unwrap();
    let issued = issue(&authority, key.csr_pem(), now_s(), Duration::from_secs(600)).unwrap();
    let (svid, bundle) = Svid::from_answer(&issued.pems(), key.key()).unwrap();
    assert_eq!(svid.chain.len(), 2, "peers have the root");
    assert!(bundle.same_trust(&authority.bundle()));
    let path = dir.path().join("identity.pem");
    assert!(Svid::load(&path).unwrap().is_none());
    svid.save(&path, &bundle).unwrap();
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let (loaded, trusts) = Svid::load(&path).unwrap().unwrap();
    assert_eq!((&loaded.chain, &loaded.spiffe), (&svid.chain, &svid.spiffe));
    assert_eq!(loaded.key.secret_der(), svid.key.secret_der());
    assert!(trusts.same_trust(&bundle));

    // Cut anywhere, it is an error, never a panic and never half an identity.
    let whole = std::fs::read(&path).unwrap();
    for end in (0..whole.len() - 30).step_by(7) {
        std::fs::write(&path, &whole[..end]).unwrap();
        assert!(
            matches!(Svid::load(&path), Err(Error::Damaged { .. })),
            "cut at {end}"
        );
    }
    // Somebody else's key.
    let other = KeyAndCsr::generate().unwrap();
    assert!(Svid::from_answer(&issued.pems(), other.key()).is_err());
}

#[test]
fn peers_without_exactly_one_identity_are_nobody() {
    let key = KeyPair::generate().unwrap();
    let of = |uris: &[&str]| {
        let mut params = CertificateParams::default();
        for uri in uris {
            params
                .subject_alt_names
                .push(SanType::URI((*uri).try_into().unwrap()));
        }
        let der = params.self_signed(&key).unwrap().der().clone();
        peer_at(&[der], 2_000_000_000).map(|peer| peer.spiffe.to_string())
    };
    let good = "spiffe://cluster.local/ns/shop/sa/payment";
    assert_eq!(of(&[good]).as_deref(), Ok(good));
    assert_eq!(of(&[]), Err(verify::Error::NoIdentity));
    assert_eq!(of(&[good, good]), Err(verify::Error::SeveralIdentities));
    assert_eq!(
        of(&[good, "https://x"]),
        Err(verify::Error::SeveralIdentities)
    );
    for bad in [
        "spiffe://cluster.local/ns/shop/sa/payment\0.evil",
        "spiffe://cluster.local/ns/shop/sa/payment/x",
        "https://cluster.local/ns/shop/sa/payment",
    ] {
        assert!(
            matches!(of(&[bad]), Err(verify::Error::NotSpiffe(_))),
            "{bad}"
        );
    }
    assert_eq!(peer_at(&[], 0), Err(verify::Error::NoCertificate));
    assert_eq!(
        peer_at(&[vec![0x30, 0x00].into()], 0),
        Err(verify::Error::Malformed)
    );
}

/// Not a gate: prints what a first certificate costs, so a change for the worse is seen.
#[test]
fn time_of_key_and_issue() {
    let dir = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let authority = Authority::open_or_create(dir.path(), "cluster.local", now_s()).unwrap();
    let made = start.elapsed();
    let start = Instant::now();
    let keys: Vec<_> = (0..50).map(|_| KeyAndCsr::generate().unwrap()).collect();
    let key = start.elapsed() / 50;
    let start = Instant::now();
    for key in &keys {
        issue(&authority, key.csr_pem(), now_s(), Duration::from_secs(60)).unwrap();
    }
    let one = start.elapsed() / 50;
    println!("new authority {made:?}, key and request {key:?}, issue {one:?}");
    assert!(key < Duration::from_secs(1) && one < Duration::from_secs(1));
}

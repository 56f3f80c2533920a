//! Roots that are kept elsewhere, authorities that come from elsewhere, and intermediates that are replaced while
//! everything runs. Certificates of others are made by openssl, and what we make is verified by it.
#![expect(clippy::unwrap_used, reason = "a test says by panicking")]

use naka_identity::{
    Authority, IssueRequest, KeyAndCsr, Svid, dns_sans, now_s, offline, sha256_hex,
};
use naka_types::spiffe::SpiffeId;
use naka_types::workload::Ulid;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const DOMAIN: &str = "cluster.local";
const DAY: u64 = 86_400;

/// A leaf of an authority, with what a newcomer is to trust.
fn leaf(authority: &Authority, now: u64) -> (Svid, String) {
    let key = KeyAndCsr::generate().unwrap();
    let issued = authority
        .issue(&IssueRequest {
            csr_pem: key.csr_pem(),
            spiffe: &SpiffeId::new(DOMAIN, "shop", "payment").unwrap(),
            workload_id: Ulid::new(1, 2),
            dns_sans: &dns_sans(&["payment".to_owned()], "shop"),
            ttl: Duration::from_secs(600),
            now,
        })
        .unwrap();
    let (svid, bundle) = Svid::from_answer(&issued.pems(), key.key()).unwrap();
    (svid, bundle.to_pem())
}

/// Whether openssl believes a leaf with its chain under a root.
fn openssl_believes(dir: &Path, svid: &Svid, root_pem: &str) -> bool {
    let file = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let chain = file("leaf-and-chain.pem", &svid.chain_pem());
    let root = file("trusted.pem", root_pem);
    Command::new("openssl")
        .args(["verify", "-x509_strict", "-CAfile"])
        .arg(root)
        .arg("-untrusted")
        .args([&chain, &chain])
        .output()
        .unwrap()
        .status
        .success()
}

fn openssl(dir: &Path, line: &str) {
    let out = Command::new("openssl")
        .args(line.split(' '))
        .current_dir(dir)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "openssl {line}: {told}");
}

/// A root, an authority between and a signing one, as a company's own tools make them: RSA above, P-384 below.
fn company(dir: &Path, extra: &str) {
    let authority = |path_length: u8| {
        format!(
            "basicConstraints=critical,CA:TRUE,pathlen:{path_length}\nkeyUsage=critical,keyCertSign,cRLSign\n"
        )
    };
    std::fs::write(dir.join("policy.ext"), authority(1)).unwrap();
    std::fs::write(dir.join("signing.ext"), format!("{}{extra}", authority(0))).unwrap();
    for line in [
        "req -x509 -newkey rsa:2048 -nodes -keyout root.key -out root-cert.pem -days 30 -subj /O=Bank/CN=Root \
         -addext basicConstraints=critical,CA:TRUE,pathlen:2 -addext keyUsage=critical,keyCertSign",
        "req -newkey rsa:2048 -nodes -keyout policy.key -out policy.csr -subj /O=Bank/CN=Policy",
        "x509 -req -in policy.csr -CA root-cert.pem -CAkey root.key -days 20 -extfile policy.ext -out policy.pem",
        "ecparam -name secp384r1 -genkey -noout -out ca-key.pem",
        "req -new -key ca-key.pem -out ca.csr -subj /O=Bank/CN=Mesh",
        "x509 -req -in ca.csr -CA policy.pem -CAkey policy.key -days 10 -extfile signing.ext -out ca-cert.pem",
    ] {
        openssl(dir, line);
    }
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
    // As Istio has it: the signing certificate again, and the root.
    let chain = read("ca-cert.pem") + &read("policy.pem") + &read("root-cert.pem");
    std::fs::write(dir.join("cert-chain.pem"), chain).unwrap();
}

#[test]
fn a_root_can_stay_offline() {
    let dir = tempfile::tempdir().unwrap();
    let (safe, mesh) = (dir.path().join("safe"), dir.path().join("mesh"));
    let now = now_s();
    offline::create_root(&safe, DOMAIN, Duration::from_secs(3650 * DAY), now).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(
        (mode(&safe), mode(&safe.join("root-key.pem"))),
        (0o700, 0o600)
    );
    let again = offline::create_root(&safe, DOMAIN, Duration::from_secs(DAY), now).unwrap_err();
    assert!(again.to_string().contains("is there already"), "{again}");

    // A mesh that is to be made: its key is made on its own machine.
    let prepared = dir.path().join("prepared");
    let csr = offline::request(&prepared, DOMAIN).unwrap();
    let signed = offline::sign(&safe, &csr, Duration::from_secs(90 * DAY), now).unwrap();
    std::fs::write(prepared.join("ca-cert.pem"), &signed).unwrap();
    std::fs::copy(safe.join("root-cert.pem"), prepared.join("root-cert.pem")).unwrap();
    offline::import(&mesh, &prepared, DOMAIN, now).unwrap();
    let authority = Authority::open_or_create(&mesh, DOMAIN, now).unwrap();
    assert!(!authority.root_here());
    assert_eq!(authority.intermediate_not_after(), now + 90 * DAY);
    let (svid, root) = leaf(&authority, now);
    assert!(openssl_believes(dir.path(), &svid, &root));
    let there = std::fs::read_to_string(mesh.join("root.pem")).unwrap();
    assert!(
        !there.contains("PRIVATE KEY"),
        "the root's key never came here"
    );

    // Importing again, at the next start, changes nothing.
    offline::import(&mesh, &prepared, DOMAIN, now).unwrap();
    let again = Authority::open_or_create(&mesh, DOMAIN, now + 80 * DAY).unwrap();
    assert_eq!(
        again.intermediate_not_after(),
        now + 90 * DAY,
        "nobody here can sign another"
    );
    assert!(!again.renew(now + 80 * DAY).unwrap());

    // The next one, while the mesh runs.
    let csr = again.request().unwrap();
    let later = now + 80 * DAY;
    let next = offline::sign(&safe, &csr, Duration::from_secs(90 * DAY), later).unwrap();
    again.install(&next, later).unwrap();
    assert_eq!(again.intermediate_not_after(), later + 90 * DAY);
    let opened = Authority::open_or_create(&mesh, DOMAIN, later).unwrap();
    assert_eq!(opened.intermediate_not_after(), later + 90 * DAY);
    assert_eq!(
        opened.root_sha256(),
        authority.root_sha256(),
        "the same root"
    );
    let twice = again.install(&next, later).unwrap_err();
    assert!(twice.to_string().contains("no request is open"), "{twice}");
}

#[test]
fn an_authority_of_a_company_is_taken_up() {
    let dir = tempfile::tempdir().unwrap();
    let (theirs, mesh) = (dir.path().join("cacerts"), dir.path().join("mesh"));
    std::fs::create_dir(&theirs).unwrap();
    company(&theirs, "");
    let now = now_s();
    offline::import(&mesh, &theirs, DOMAIN, now).unwrap();
    let authority = Authority::open_or_create(&mesh, DOMAIN, now).unwrap();
    let (svid, root) = leaf(&authority, now);
    assert_eq!(svid.chain.len(), 3, "leaf, signing, policy");
    assert!(openssl_believes(dir.path(), &svid, &root));
    let until = authority.intermediate_not_after();
    assert!(
        until < now + 11 * DAY,
        "the one that ends first counts: {until}"
    );
    let pem = std::fs::read_to_string(theirs.join("root-cert.pem")).unwrap();
    let der = openssl_der(&theirs, &pem);
    assert_eq!(authority.root_sha256(), sha256_hex(&der));
}

fn openssl_der(dir: &Path, pem: &str) -> Vec<u8> {
    std::fs::write(dir.join("in.pem"), pem).unwrap();
    openssl(dir, "x509 -in in.pem -outform DER -out out.der");
    std::fs::read(dir.join("out.der")).unwrap()
}

/// What happens to the files, and what is said of it.
type Spoil<'a> = (&'a str, &'a dyn Fn(&Path), &'a str);

#[test]
fn what_may_not_sign_is_refused_and_nothing_is_kept() {
    let nothing = |_: &Path| {};
    let remove =
        |name: &'static str| move |dir: &Path| std::fs::remove_file(dir.join(name)).unwrap();
    let other_key = |dir: &Path| {
        openssl(
            dir,
            "ecparam -name prime256v1 -genkey -noout -out ca-key.pem",
        )
    };
    let no_link = remove("cert-chain.pem");
    let no_root = remove("root-cert.pem");
    let small_root = |dir: &Path| {
        openssl(
            dir,
            "req -x509 -newkey rsa:1024 -nodes -keyout root.key -out root-cert.pem -days 3 -subj /CN=Small",
        );
    };
    let stranger = |dir: &Path| {
        openssl(
            dir,
            "req -x509 -newkey rsa:2048 -nodes -keyout root.key -out root-cert.pem -days 3 -subj /O=Bank/CN=Root",
        );
    };
    let two_roots = |dir: &Path| {
        let one = std::fs::read_to_string(dir.join("root-cert.pem")).unwrap();
        std::fs::write(dir.join("root-cert.pem"), one.clone() + &one).unwrap();
    };
    let locked = |dir: &Path| {
        openssl(
            dir,
            "ec -in ca-key.pem -aes256 -passout pass:secret -out ca-key.pem",
        )
    };
    let cases: [Spoil<'_>; 8] = [
        (
            "key of another certificate",
            &other_key,
            "belongs to another key",
        ),
        ("a link is missing", &no_link, "is not signed by"),
        ("no root", &no_root, "root-cert.pem: it is not there"),
        ("a weak root", &small_root, "less than 2048 bits"),
        ("a root of the same name", &stranger, "is not signed by"),
        ("two roots", &two_roots, "holds 2 certificates"),
        ("a locked key", &locked, "not encrypted"),
        ("twin: as it is", &nothing, ""),
    ];
    for (what, spoil, said) in cases {
        let dir = tempfile::tempdir().unwrap();
        let (theirs, mesh) = (dir.path().join("cacerts"), dir.path().join("mesh"));
        std::fs::create_dir(&theirs).unwrap();
        company(&theirs, "");
        spoil(&theirs);
        let answer = offline::import(&mesh, &theirs, DOMAIN, now_s());
        if said.is_empty() {
            answer.unwrap();
            continue;
        }
        let error = answer.unwrap_err().to_string();
        assert!(error.contains(said), "{what}: {error}");
        assert!(!mesh.join("root.pem").exists(), "{what}: a root was kept");
        assert!(
            !mesh.join("intermediate.pem").exists(),
            "{what}: a signer was kept"
        );
    }
}

#[test]
fn other_times_domains_and_depths_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    company(dir.path(), "subjectAltName=URI:spiffe://other.domain\n");
    let now = now_s();
    let refused = |domain: &str, now: u64| {
        let mesh = dir.path().join("mesh");
        offline::import(&mesh, dir.path(), domain, now)
            .unwrap_err()
            .to_string()
    };
    assert!(refused(DOMAIN, now).contains("another trust domain"));
    assert!(refused("other.domain", now + 15 * DAY).contains("not now"));
    assert!(refused("other.domain", now - 2 * DAY).contains("not now"));
    let mesh = dir.path().join("mesh");
    offline::import(&mesh, dir.path(), "other.domain", now).unwrap();
    let second = tempfile::tempdir().unwrap();
    company(second.path(), "");
    let other = offline::import(&mesh, second.path(), "other.domain", now).unwrap_err();
    assert!(other.to_string().contains("holds another root"), "{other}");
    // A root of our own allows one authority below it.
    let safe = dir.path().join("safe");
    offline::create_root(&safe, DOMAIN, Duration::from_secs(100 * DAY), now).unwrap();
    let csr = offline::request(&dir.path().join("request"), DOMAIN).unwrap();
    let late = offline::sign(&safe, &csr, Duration::from_secs(DAY), now + 101 * DAY).unwrap_err();
    assert!(late.to_string().contains("not now"), "{late}");
    let changed = csr.replacen("M", "N", 1);
    assert!(offline::sign(&safe, &changed, Duration::from_secs(DAY), now).is_err());
}

#[test]
fn an_intermediate_is_replaced_in_time_while_everything_runs() {
    let dir = tempfile::tempdir().unwrap();
    let now = now_s();
    let authority = Authority::open_or_create(dir.path(), DOMAIN, now).unwrap();
    let (before, root) = leaf(&authority, now);
    assert!(!authority.renew(now + 200 * DAY).unwrap(), "not yet due");
    let late = now + 250 * DAY;
    assert!(authority.renew(late).unwrap());
    assert!(!authority.renew(late).unwrap(), "once is enough");
    assert_eq!(authority.intermediate_not_after(), late + 365 * DAY);
    let (after, same_root) = leaf(&authority, late);
    assert_eq!(root, same_root);
    assert_ne!(before.chain[1], after.chain[1]);
    for svid in [&before, &after] {
        assert!(svid.chain.len() == 2);
    }
    assert!(openssl_believes(dir.path(), &before, &root));
    let opened = Authority::open_or_create(dir.path(), DOMAIN, late).unwrap();
    assert_eq!(opened.intermediate_not_after(), late + 365 * DAY);
    // At the end of the root nothing later can be made: no new one each time it is asked.
    let end = now + 3600 * DAY;
    let old = Authority::open_or_create(dir.path(), DOMAIN, end).unwrap();
    assert_eq!(old.intermediate_not_after(), old.root_not_after());
    assert!(!old.renew(end + DAY).unwrap());
}

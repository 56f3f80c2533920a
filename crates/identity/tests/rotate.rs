//! Another root in steps: who believes whom at each of them, and what a start finds when a step was cut off.
#![expect(clippy::unwrap_used, reason = "a test says by panicking")]

use naka_identity::rotate::{Next, Stage};
use naka_identity::{
    Authority, Bundle, Error, IssueRequest, KeyAndCsr, ServerCert, Svid, names_root, now_s,
    offline, tls,
};
use naka_types::spiffe::SpiffeId;
use naka_types::workload::Ulid;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::ServerName;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::{TlsAcceptor, TlsConnector};

const DOMAIN: &str = "cluster.local";
const ALPN: &[&[u8]] = &[b"h2"];
const HOUR: Duration = Duration::from_secs(3600);

fn open(dir: &Path) -> Authority {
    Authority::open_or_create(dir, DOMAIN, now_s()).unwrap()
}

fn pems(authority: &Authority) -> (Vec<String>, KeyAndCsr) {
    let key = KeyAndCsr::generate().unwrap();
    let issued = authority
        .issue(&IssueRequest {
            csr_pem: key.csr_pem(),
            spiffe: &SpiffeId::new(DOMAIN, "shop", "payment").unwrap(),
            workload_id: Ulid::new(1, 2),
            dns_sans: &[],
            ttl: HOUR,
            now: now_s(),
        })
        .unwrap();
    (issued.pems(), key)
}

fn svid(authority: &Authority) -> Svid {
    let (pems, key) = pems(authority);
    Svid::from_answer(&pems, key.key()).unwrap().0
}

/// Whether both ends are content.
async fn meet(server: Arc<ServerConfig>, client: Arc<ClientConfig>) -> bool {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let accept = TlsAcceptor::from(server).accept(far);
    let name = ServerName::try_from("naka-control").unwrap();
    let connect = TlsConnector::from(client).connect(name, near);
    let (served, called) = tokio::join!(accept, async {
        use tokio::io::AsyncReadExt;
        let mut stream = connect.await?;
        // A server that refuses the caller says so after the handshake. Nothing is sent: it waits in vain otherwise.
        let read = stream.read_u8();
        match tokio::time::timeout(Duration::from_millis(50), read).await {
            Ok(Err(error)) if error.kind() != std::io::ErrorKind::UnexpectedEof => Err(error),
            _ => Ok(()),
        }
    });
    served.is_ok() && called.is_ok()
}

/// Whether a workload that trusts `bundle` and shows `own` believes one that shows `other`, as caller and as called.
async fn believes(own: &Svid, bundle: &Bundle, other: &Svid, others: &Bundle) -> bool {
    let allowed: Arc<[SpiffeId]> = [other.spiffe.clone()].into();
    let server = tls::inbound_tls(other, others, ALPN).unwrap();
    let client = tls::outbound_tls(own, bundle, Arc::clone(&allowed), ALPN).unwrap();
    let calls = meet(server, client).await;
    let server = tls::inbound_tls(own, bundle, ALPN).unwrap();
    let client = tls::outbound_tls(other, others, allowed, ALPN).unwrap();
    calls && meet(server, client).await
}

/// Whether who knows one root by its hash alone believes the control plane, and gets what leads to it.
async fn joins(authority: &Authority, sha256: &str) -> bool {
    let certificate = ServerCert::issue(authority, &[], &[], HOUR, now_s()).unwrap();
    let server = tls::control_server_tls(certificate, &authority.bundle(), ALPN).unwrap();
    let client = tls::token_client_config(sha256, ALPN).unwrap();
    meet(server, client).await && names_root(&pems(authority).0, sha256)
}

#[tokio::test]
async fn everybody_is_believed_until_the_root_before_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let authority = open(dir.path());
    let (first, alone) = (authority.stage().signs, authority.bundle());
    let old = svid(&authority);
    authority.prepare(&Next::Made, false, now_s()).unwrap();
    let both = authority.bundle();
    assert_eq!(both.roots().len(), 2);
    assert!(joins(&authority, &first).await, "prepared");
    let same = svid(&authority);
    assert!(
        believes(&same, &both, &old, &alone).await,
        "it does not sign yet"
    );

    authority.switch().unwrap();
    let new = svid(&authority);
    assert!(believes(&new, &both, &old, &both).await);
    assert!(
        !believes(&new, &both, &old, &alone).await,
        "twin: without the overlap"
    );
    assert!(joins(&authority, &first).await, "switched");
    let second = authority.stage().signs;
    assert!(joins(&authority, &second).await, "a token made now");
    assert_eq!(authority.root_sha256(), second);

    authority.drop_retired().unwrap();
    let last = authority.bundle();
    assert_eq!(last.roots().len(), 1);
    assert!(!believes(&new, &last, &old, &both).await, "dropped");
    // What was opened before with the old certificate is known by the last one that was shown.
    let top = |svid: &Svid| svid.chain.last().unwrap().clone();
    assert!(both.signed(&top(&old)) && both.signed(&top(&new)) && last.signed(&top(&new)));
    assert!(!last.signed(&top(&old)) && last.within(&both) && !both.within(&last));
    let again = svid(&authority);
    assert!(believes(&again, &last, &new, &both).await);
    // Tokens and kubeconfigs that name the root before go on: it vouched for the intermediate.
    assert!(joins(&authority, &first).await, "dropped");
    let known = tls::control_client_tls(None, &alone, ALPN).unwrap();
    let certificate = ServerCert::issue(&authority, &[], &[], HOUR, now_s()).unwrap();
    let server = tls::control_server_tls(certificate, &last, ALPN).unwrap();
    assert!(meet(server, known).await);
    assert!(!dir.path().join("old-root.pem").exists(), "its key is gone");
}

#[tokio::test]
async fn a_compromised_root_vouches_for_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let authority = open(dir.path());
    let first = authority.stage().signs;
    authority.prepare(&Next::Made, true, now_s()).unwrap();
    authority.switch().unwrap();
    // As long as it is trusted, who knows it alone has to get the news.
    assert_eq!(authority.root_sha256(), first);
    assert!(joins(&authority, &first).await);
    authority.drop_retired().unwrap();
    assert!(!joins(&authority, &first).await);
    let second = authority.stage().signs;
    assert!(joins(&authority, &second).await);
}

#[test]
fn a_start_finds_each_step_as_it_was_and_completes_a_switch() {
    let dir = tempfile::tempdir().unwrap();
    let authority = open(dir.path());
    let same = |what: &str| {
        let opened = open(dir.path());
        assert_eq!(opened.stage(), authority.stage(), "{what}");
        assert!(opened.bundle().same_trust(&authority.bundle()), "{what}");
        assert_eq!(opened.root_sha256(), authority.root_sha256(), "{what}");
    };
    let first = authority.stage().signs;
    authority.prepare(&Next::Made, false, now_s()).unwrap();
    same("prepared");
    authority.withdraw().unwrap();
    same("withdrawn");
    assert!(authority.switch().is_err(), "nothing is prepared");
    authority.prepare(&Next::Made, false, now_s()).unwrap();
    let twice = authority.prepare(&Next::Made, false, now_s());
    assert!(matches!(twice, Err(Error::Authority(_))));
    let file = |name: &str| dir.path().join(name);
    let kept: Vec<_> = ["next-root.pem", "next-intermediate.pem"]
        .map(|name| (name, std::fs::read(file(name)).unwrap()))
        .into();
    authority.switch().unwrap();
    same("switched");
    let switched = authority.stage();
    assert_eq!(switched.retired.as_deref(), Some(first.as_str()));

    // Cut off after the mark and the first file.
    for (name, bytes) in kept {
        std::fs::write(file(name), bytes).unwrap();
    }
    std::fs::copy(file("old-intermediate.pem"), file("intermediate.pem")).unwrap();
    std::fs::write(file("switch.pem"), "naka-authority 1\n").unwrap();
    same("cut off");
    assert!(!file("switch.pem").exists() && !file("next-root.pem").exists());

    authority.switch_back().unwrap();
    same("back");
    let back = Stage {
        signs: first.clone(),
        prepared: None,
        retired: Some(switched.signs.clone()),
    };
    assert_eq!(authority.stage(), back);
    authority.drop_retired().unwrap();
    same("dropped");
    assert_eq!(authority.stage().signs, first);
}

#[test]
fn what_may_not_follow_is_refused_and_nothing_changes() {
    let dir = tempfile::tempdir().unwrap();
    let (mesh, safe, other) = (
        dir.path().join("mesh"),
        dir.path().join("safe"),
        dir.path().join("other"),
    );
    let now = now_s();
    let made = |safe: &Path, of: &str| {
        offline::create_root(safe, DOMAIN, HOUR * 1000, now).unwrap();
        let prepared = dir.path().join(of);
        let csr = offline::request(&prepared, DOMAIN).unwrap();
        let signed = offline::sign(safe, &csr, HOUR * 100, now).unwrap();
        std::fs::write(prepared.join("ca-cert.pem"), &signed).unwrap();
        std::fs::copy(safe.join("root-cert.pem"), prepared.join("root-cert.pem")).unwrap();
        prepared
    };
    let given = |prepared: &Path| {
        let read = |name: &str| std::fs::read_to_string(prepared.join(name)).unwrap();
        Next::Given {
            root_pem: read("root-cert.pem"),
            chain_pem: read("ca-cert.pem"),
            key_pem: read("ca-key.pem"),
        }
    };
    let (first, second) = (made(&safe, "first"), made(&other, "second"));
    offline::import(&mesh, &first, DOMAIN, now).unwrap();
    let authority = open(&mesh);
    let refused = |next: &Next| {
        let error = authority.prepare(next, false, now).unwrap_err().to_string();
        assert_eq!(authority.stage().prepared, None);
        error
    };
    assert!(refused(&Next::Made).contains("kept elsewhere"));
    assert!(refused(&given(&first)).contains("signs already"));
    std::fs::copy(first.join("ca-key.pem"), second.join("wrong")).unwrap();
    let Next::Given {
        root_pem,
        chain_pem,
        ..
    } = given(&second)
    else {
        unreachable!()
    };
    let key_pem = std::fs::read_to_string(second.join("wrong")).unwrap();
    let wrong = Next::Given {
        root_pem,
        chain_pem,
        key_pem,
    };
    assert!(refused(&wrong).contains("belongs to another key"));
    authority.prepare(&given(&second), false, now).unwrap();
    authority.switch().unwrap();
    // The root before is elsewhere and cannot vouch: until it is dropped the control plane shows it.
    assert_eq!(Some(authority.root_sha256()), authority.stage().retired);
    authority.drop_retired().unwrap();
    assert!(refused(&given(&first)).contains("does not come back"));
    // A control plane that is told at each start where its authority came from starts.
    offline::import(&mesh, &first, DOMAIN, now).unwrap();
    assert_eq!(open(&mesh).stage(), authority.stage());
}

//! The mesh's authority in the hands of the test: its intermediate's key signs whatever an attack wants, so that what is
//! refused is refused for what it says and not for who signed it. And a server that believes every certificate.

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName as Subject, ServerConfig, SignatureScheme};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;

/// A caller whom everybody believes.
pub(crate) const ORDER: &str = "spiffe://cluster.local/ns/default/sa/order";

/// Root, intermediate and what they signed.
pub(crate) struct Forge {
    dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

/// Files of a certificate, its chain and its key.
pub(crate) struct Pair {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// Seconds since 1970, so many later.
pub(crate) fn second(later: i64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("after 1970")
        .as_secs()
        .saturating_add_signed(later)
}

impl Forge {
    /// An authority as `naka ca` makes one.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let (at, now) = (dir.path(), second(0));
        let day = Duration::from_secs(86_400);
        naka_identity::offline::create_root(at, "cluster.local", day * 30, now).expect("a root");
        let csr = naka_identity::offline::request(at, "cluster.local").expect("a key");
        let signed = naka_identity::offline::sign(at, &csr, day * 20, now).expect("a certificate");
        std::fs::write(at.join("ca-cert.pem"), &signed).expect("write");
        let key = std::fs::read_to_string(at.join("ca-key.pem")).expect("a key");
        let key = KeyPair::from_pem(&key).expect("a key");
        let issuer = Issuer::from_ca_cert_pem(&signed, key).expect("an issuer");
        Self { dir, issuer }
    }

    /// Files for `naka control --ca`.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A file of its directory.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A certificate of `order` as the mesh would make it, changed.
    pub(crate) fn signed(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Pair {
        self.signed_by(name, &self.issuer, "ca-cert.pem", change)
    }

    /// The same by somebody else, whose certificate is in this file.
    pub(crate) fn signed_by(
        &self,
        name: &str,
        issuer: &Issuer<'_, KeyPair>,
        chain: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Pair {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![uri(ORDER)];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        lives(&mut params, -60, 3_600);
        params.use_authority_key_identifier_extension = true;
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let signed = params.signed_by(&key, issuer).expect("a certificate");
        let chain = std::fs::read_to_string(self.file(chain)).expect("a chain");
        self.kept(name, &(signed.pem() + &chain), &key)
    }

    /// A certificate of another authority whose names are those of ours.
    pub(crate) fn foreign(&self) -> Issuer<'static, KeyPair> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let made = params.self_signed(&key).expect("a certificate");
        std::fs::write(self.file("foreign.pem"), made.pem()).expect("write");
        Issuer::new(params, key)
    }

    pub(crate) fn kept(&self, name: &str, certificate: &str, key: &KeyPair) -> Pair {
        let pair = Pair {
            certificate: self.file(&format!("{name}.crt")),
            key: self.file(&format!("{name}.key")),
        };
        std::fs::write(&pair.certificate, certificate).expect("write");
        std::fs::write(&pair.key, key.serialize_pem()).expect("write");
        pair
    }
}

/// A name of the kind that identities are.
pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("ASCII"))
}

/// Validity from and until so many seconds from now.
pub(crate) fn lives(params: &mut CertificateParams, from: i64, until: i64) {
    let at = |later| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(second(later));
    (params.not_before, params.not_after) = (at(from), at(until));
}

/// A common name.
pub(crate) fn called(params: &mut CertificateParams, name: &str) {
    params.distinguished_name.push(DnType::CommonName, name);
}

/// What `openssl s_client` says after it sent a request by TLS, with a certificate or without. Behind the target, after
/// a space, there may be one more header.
pub(crate) fn present(
    address: SocketAddr,
    pair: Option<&Pair>,
    options: &[&str],
    target: &str,
) -> String {
    let mut command = Command::new("timeout");
    command.args(["20", "openssl", "s_client", "-ign_eof", "-connect"]);
    command.arg(address.to_string());
    // It shows what it would refuse to show by default: weak keys, weak signatures.
    command.args(["-cipher", "DEFAULT@SECLEVEL=0"]);
    if let Some(pair) = pair {
        command
            .arg("-cert")
            .arg(&pair.certificate)
            .arg("-key")
            .arg(&pair.key);
        command.arg("-cert_chain").arg(&pair.certificate);
    }
    command.args(options);
    let (target, more) = target.split_once(' ').unwrap_or((target, ""));
    let more = if more.is_empty() {
        String::new()
    } else {
        format!("{more}\r\n")
    };
    let request = format!("GET {target} HTTP/1.1\r\nhost: web\r\nconnection: close\r\n{more}\r\n");
    let mut child = command
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("openssl");
    let mut input = child.stdin.take().expect("piped");
    // It may have ended already.
    let _ = input.write_all(request.as_bytes());
    let output = child.wait_with_output().expect("openssl ends");
    drop(input);
    let said = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&said).into_owned()
}

/// A server by TLS that believes whatever it is shown, any version, and passes requests on to the program.
pub(crate) fn believing(pair: &Pair, program: SocketAddr) -> SocketAddr {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = CertificateDer::pem_file_iter(&pair.certificate).expect("a file");
    let chain: Vec<_> = chain.collect::<Result<_, _>>().expect("certificates");
    let key = PrivateKeyDer::from_pem_file(&pair.key).expect("a key");
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(Arc::new(Believes))
        .with_single_cert(chain, key)
        .expect("a configuration");
    let config = Arc::new(config);
    crate::naive::listen(move |stream| {
        let _ = pass_on(&config, stream, program);
    })
}

fn pass_on(
    config: &Arc<ServerConfig>,
    mut socket: TcpStream,
    program: SocketAddr,
) -> std::io::Result<()> {
    let other = |error: rustls::Error| std::io::Error::other(error);
    let mut session = rustls::ServerConnection::new(Arc::clone(config)).map_err(other)?;
    let mut stream = rustls::Stream::new(&mut session, &mut socket);
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut more = [0; 4096];
        match stream.read(&mut more)? {
            0 => return Ok(()),
            count => head.extend_from_slice(&more[..count]),
        }
    }
    let mut called = TcpStream::connect(program)?;
    called.write_all(&head)?;
    called.set_read_timeout(Some(Duration::from_millis(200)))?;
    let mut answer = Vec::new();
    let _ = called.read_to_end(&mut answer);
    stream.write_all(&answer)?;
    stream.conn.send_close_notify();
    stream.flush()
}

/// Believes.
#[derive(Debug)]
struct Believes;

impl ClientCertVerifier for Believes {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[Subject] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::RSA_PSS_SHA256,
            SignatureScheme::RSA_PKCS1_SHA256,
            SignatureScheme::RSA_PKCS1_SHA1,
        ]
    }
}

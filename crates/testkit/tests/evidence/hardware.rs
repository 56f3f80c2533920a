//! A root whose key is in a PKCS#11 token: SoftHSM, opened as any device is. What was signed is read by openssl.

use naka_testkit::mesh::{Mesh, naka};
use std::path::Path;
use std::process::{Command, Output};

const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";

/// A token of its own in `dir`, and programs that see it alone.
struct Token<'a> {
    dir: &'a Path,
}

impl<'a> Token<'a> {
    fn new(dir: &'a Path) -> Self {
        std::fs::create_dir(dir.join("tokens")).expect("a directory");
        let tokens = dir.join("tokens").display().to_string();
        let text = format!("directories.tokendir = {tokens}\nobjectstore.backend = file\n");
        std::fs::write(dir.join("softhsm2.conf"), text).expect("write");
        let token = Self { dir };
        let made = token.run(
            Path::new("softhsm2-util"),
            "--init-token --free --label naka --so-pin 5678 --pin 1234",
        );
        assert!(made.status.success(), "{made:?}");
        token
    }

    fn run(&self, program: &Path, args: &str) -> Output {
        Command::new(program)
            .args(args.split_whitespace())
            .env("SOFTHSM2_CONF", self.dir.join("softhsm2.conf"))
            .env("HOME", self.dir)
            .current_dir(self.dir)
            .output()
            .expect("a program (scripts/setup.sh peers installs softhsm2)")
    }

    fn naka(&self, args: &str) -> Result<String, String> {
        let out = self.run(&naka(), args);
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        match out.status.success() {
            true => Ok(text(&out.stdout)),
            false => Err(text(&out.stderr)),
        }
    }

    /// The file of the PIN, with this mode.
    fn pin(&self, pin: &str, mode: u32) {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.dir.join("pin");
        std::fs::write(&path, pin).expect("write");
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(path, mode).expect("a mode");
    }
}

/// Whether a file below `dir` holds these bytes.
fn somewhere(dir: &Path, bytes: &[u8]) -> bool {
    let entries = std::fs::read_dir(dir).expect("a directory");
    entries.flatten().any(|entry| {
        let path = entry.path();
        match path.is_dir() {
            true => somewhere(&path, bytes),
            false => {
                std::fs::read(path).is_ok_and(|all| all.windows(bytes.len()).any(|w| w == bytes))
            }
        }
    })
}

fn believed(dir: &Path, root: &str) -> bool {
    let out = Command::new("openssl")
        .args(["verify", "-CAfile", root, "ca-cert.pem"])
        .current_dir(dir)
        .output()
        .expect("openssl");
    out.status.success()
}

/// The token signs an intermediate and a mesh comes up below it. The twins: another root in a file, whose key is found
/// on disk and whose certificate openssl does not believe; a wrong PIN, a PIN that others can read, a token that is
/// taken out (signing is refused, the mesh serves on) and put back.
#[test]
fn a_root_in_a_token_signs_and_nobody_has_its_key() {
    let home = tempfile::tempdir().expect("a directory");
    let dir = home.path();
    let token = Token::new(dir);
    token.pin("1234\n", 0o600);
    let pin = dir.join("pin").display().to_string();
    let uri = format!("pkcs11:token=naka;object=root?module-path={MODULE}&pin-source=file:{pin}");
    let made = token
        .naka(&format!("ca root create safe --key {uri}"))
        .expect("a root");
    assert!(made.contains("was made in the token"), "{made}");
    token
        .naka("ca root create other")
        .expect("a root in a file");
    assert!(
        somewhere(&dir.join("other"), b"PRIVATE KEY"),
        "twin: a key in a file"
    );
    assert!(!somewhere(&dir.join("safe"), b"PRIVATE KEY"));
    assert!(
        !somewhere(&dir.join("safe"), b"1234"),
        "the PIN stays where it is"
    );

    let request = token
        .naka("ca intermediate request --out prepared")
        .expect("a request");
    std::fs::write(dir.join("request.pem"), request).expect("write");
    let sign = || token.naka("ca intermediate sign request.pem --root safe");
    let signed = sign().expect("a certificate");
    std::fs::write(dir.join("ca-cert.pem"), &signed).expect("write");
    assert!(believed(dir, "safe/root-cert.pem"));
    assert!(!believed(dir, "other/root-cert.pem"), "twin: another root");

    let prepared = dir.join("prepared");
    std::fs::write(prepared.join("ca-cert.pem"), signed).expect("write");
    let root = dir.join("safe/root-cert.pem");
    std::fs::copy(root, prepared.join("root-cert.pem")).expect("copy");
    let mesh = Mesh::up_with(&["--ca", &prepared.display().to_string()]);

    let refused = |what: &str| {
        let said = sign().expect_err(what);
        assert!(
            said.contains(what) && said.contains("root-key.uri"),
            "{said}"
        );
    };
    token.pin("9999", 0o600);
    refused("refuses the PIN");
    token.pin("1234", 0o644);
    refused("others can read the PIN");
    token.pin("1234", 0o600);
    let (here, away) = (dir.join("tokens"), dir.join("away"));
    std::fs::rename(&here, &away).expect("take it out");
    std::fs::create_dir(&here).expect("an empty reader");
    refused("one is needed");
    let _served = mesh.serve("payment", "v1");
    std::fs::remove_dir_all(&here).expect("the empty reader");
    std::fs::rename(&away, &here).expect("put it back");
    sign().expect("it signs again");
}

//! The key of Secrets, from outside: locked by a passphrase or a systemd credential, changed while the mesh runs.

use naka_testkit::mesh::{Mesh, SOON};
use naka_testkit::program::Program;
use naka_testkit::wait::until;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;

const SECRET: &str = "apiVersion: v1\nkind: Secret\nmetadata:\n  name: card\nstringData:\n  pan: 4929-1234-5678-9012\n";
/// Base64 of the value, as the API shows it to an admin.
const PAN: &str = "NDkyOS0xMjM0LTU2NzgtOTAxMg==";

/// What the API reveals of the secret to the mesh's owner.
fn revealed(mesh: &Mesh) -> String {
    let socket = mesh.home().join("mesh/local/control.sock");
    let mut stream = UnixStream::connect(socket).expect("the control socket");
    stream
        .write_all(b"POST /naka/v1/reveal/default/card HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        .expect("ask");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

fn start(mesh: &Mesh, mut command: Command) -> Program {
    command.env("NAKA_LOG", "info");
    let program = Program::start("control", mesh.home(), &mut command).expect("naka control");
    until("the control plane answers", SOON, || {
        mesh.naka(["status"]).status.success().then_some(())
    });
    program
}

#[track_caller]
fn refused(command: &mut Command, says: &str) {
    let output = command.output().expect("naka control");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.code() == Some(2) && told.contains(says),
        "{told}"
    );
}

/// A change of key locks it with a passphrase; from then on the control plane starts with the passphrase, in a file or
/// as a systemd credential, and not without. The twin is the mesh before the change, and after the lock is taken off.
#[test]
fn a_locked_key_opens_by_passphrase_or_credential_only() {
    let mut mesh = Mesh::up();
    mesh.apply("secret.yaml", SECRET);
    assert!(revealed(&mesh).contains(PAN));
    let status = |mesh: &Mesh| mesh.ok(["store", "seal", "status"]);
    let first = status(&mesh);
    assert!(
        first.contains("not locked") && first.contains("seals 1 "),
        "{first}"
    );
    let words = mesh.file("words", "kanda batata\n");
    let rotated = mesh.ok([
        "store".as_ref(),
        "seal".as_ref(),
        "rotate".as_ref(),
        "--passphrase-file".as_ref(),
        words.as_os_str(),
    ]);
    assert!(
        rotated.contains("locked by a passphrase") && status(&mesh) == rotated,
        "{rotated}"
    );
    assert!(revealed(&mesh).contains(PAN), "while it runs");
    assert!(
        mesh.ok(["get", "secret", "card", "-o", "yaml"])
            .contains("UkVEQUNURUQ=")
    );

    mesh.kill_control();
    refused(&mut mesh.command(["control"]), "the sealing key is locked");
    let wrong = mesh.file("wrong", "vada pav\n");
    let with = |file: &std::path::Path| {
        let option = "--seal-passphrase-file".as_ref();
        mesh.command(["control".as_ref(), option, file.as_os_str()])
    };
    refused(&mut with(&wrong), "not the one");
    let control = start(&mesh, with(&words));
    assert!(revealed(&mesh).contains(PAN));
    drop(control);

    let credentials = mesh.home().join("credentials");
    std::fs::create_dir(&credentials).expect("a directory");
    std::fs::copy(&words, credentials.join("naka-seal")).expect("the credential");
    let mut command = mesh.command(["control"]);
    command.env("CREDENTIALS_DIRECTORY", &credentials);
    let control = start(&mesh, command);
    assert!(revealed(&mesh).contains(PAN));
    mesh.ok(["store", "seal", "rotate", "--plain"]);
    drop(control);
    mesh.start_control();
    assert!(status(&mesh).contains("not locked"));
    assert!(revealed(&mesh).contains(PAN));
}

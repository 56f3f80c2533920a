//! `naka backup` and `naka restore`: a mesh in one sealed file, and back.
//!
//! Both work on the files of this machine's mesh, as the user who owns them: the keys of the authority leave through no
//! API. A backup may be taken while the control plane runs; a restore makes the directory of a mesh that is not there.

use crate::args;
use crate::client::ask_socket;
use crate::exit::{Exit, Outcome};
use crate::home::Home;
use crate::out;
use http::Method;
use naka_store::{Contents, Error, Passphrase};
use serde_json::json;
use std::path::Path;

/// Runs `naka backup`.
pub(crate) fn backup(args: &args::Backup) -> Outcome {
    let home = Home::from_env()?;
    let dir = home.mesh(&args.mesh);
    if !dir.join("log").exists() {
        return Err(Exit::failed(format!(
            "there is no log of a mesh {} in {}",
            args.mesh,
            dir.display()
        )));
    }
    let secret = passphrase(&args.passphrase_file)?;
    let contents = naka_store::backup(&dir, &args.mesh, &args.file, &secret)
        .map_err(|error| failed(&error))?;
    out::line(format!(
        "{}: mesh {} at revision {}, {} bytes sealed",
        args.file.display(),
        contents.mesh,
        contents.revision,
        contents.bytes()
    ));
    if !noted(&home, args, &contents)? {
        out::note("no control plane runs: that a backup was taken is not in the log");
    }
    Ok(())
}

/// Tells the control plane, whose log is the audit trail: a backup holds the keys of the authority.
fn noted(home: &Home, args: &args::Backup, contents: &Contents) -> Outcome<bool> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let socket = home.control_sock(&args.mesh);
    let body = json!({"revision": contents.revision});
    let told = ask_socket(&socket, Method::POST, "/naka/v1/audit/backup", Some(&body));
    let answer = runtime.block_on(told);
    Ok(answer.is_ok_and(|answer| answer.status.is_success()))
}

/// Runs `naka restore`.
pub(crate) fn restore(args: &args::Restore) -> Outcome {
    let home = Home::from_env()?;
    let secret = passphrase(&args.passphrase_file)?;
    let name = |contents: &Contents| args.mesh.clone().unwrap_or_else(|| contents.mesh.clone());
    let (contents, dir) =
        naka_store::restore(&args.file, &secret, |contents| home.mesh(&name(contents)))
            .map_err(|error| failed(&error))?;
    let mesh = name(&contents);
    out::line(format!(
        "mesh {mesh} is at revision {} as of {}, in {}",
        contents.revision,
        naka_store::rfc3339(contents.time_ms),
        dir.display()
    ));
    out::line(format!("start it: naka up --mesh {mesh}"));
    Ok(())
}

/// The passphrase or key in a file.
pub(crate) fn passphrase(file: &Path) -> Outcome<Passphrase> {
    let bytes = passphrase_bytes(file)?;
    Passphrase::new(bytes).map_err(|error| Exit::failed(format!("{}: {error}", file.display())))
}

/// The bytes of that file.
pub(crate) fn passphrase_bytes(file: &Path) -> Outcome<Vec<u8>> {
    std::fs::read(file)
        .map_err(|error| Exit::failed(format!("cannot read {}: {error}", file.display())))
}

fn failed(error: &Error) -> Exit {
    Exit::failed(error.to_string())
}

//! `naka backup` and `naka restore`: a mesh in one sealed file, and back.
//!
//! Both work on the files of this machine's mesh, as the user who owns them: the keys of the authority leave through no
//! API. A backup may be taken while the control plane runs; a restore makes the directory of a mesh that is not there.

use crate::args;
use crate::exit::{Exit, Outcome};
use crate::home::Home;
use crate::out;
use naka_store::{Contents, Error, Passphrase};
use std::path::Path;

/// Runs `naka backup`.
pub(crate) fn backup(args: &args::Backup) -> Outcome {
    let dir = Home::from_env()?.mesh(&args.mesh);
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
    Ok(())
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

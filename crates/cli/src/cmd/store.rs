//! `naka store repair`: makes a damaged log writable again.
//!
//! A damaged log is served read-only, because only a person can decide that what lies behind the damage may go. Nothing
//! is deleted: the damaged file stays beside the log, and this command says what is no longer in force.

use crate::args::{self, StoreCommand};
use crate::exit::{Exit, Outcome};
use crate::home::Home;
use crate::out;
use naka_store::{Error, Store};

/// Runs `naka store`.
pub(crate) fn run(args: &args::Store) -> Outcome {
    let StoreCommand::Repair { mesh } = &args.command;
    let dir = Home::from_env()?.mesh(mesh);
    if !dir.join("log").exists() {
        return Err(Exit::failed(format!(
            "there is no log of a mesh {mesh} in {}",
            dir.display()
        )));
    }
    let repaired = Store::repair(&dir).map_err(|error| match error {
        Error::Locked { .. } => Exit::failed(format!(
            "{error}: stop the control plane first (naka down --mesh {mesh})"
        )),
        error => Exit::failed(error.to_string()),
    })?;
    let Some(damage) = repaired.damage else {
        out::line(format!(
            "the log of {mesh} is sound up to revision {}: nothing to repair",
            repaired.revision
        ));
        return Ok(());
    };
    out::line(format!("lost: {damage}"));
    if let Some(kept) = repaired.kept_as {
        out::line(format!("the damaged log is kept as {}", kept.display()));
    }
    out::line(format!(
        "kept: everything up to revision {}; start the control plane again (naka up --mesh {mesh})",
        repaired.revision
    ));
    Ok(())
}

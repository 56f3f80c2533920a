//! `naka store`: the log of a mesh (`repair`) and the key that seals its Secrets (`seal`).
//!
//! A damaged log is served read-only, because only a person can decide that what lies behind the damage may go. Nothing
//! is deleted: the damaged file stays beside the log, and this command says what is no longer in force.

use crate::args::{self, SealCommand, StoreCommand};
use crate::client::Client;
use crate::cmd::apply::text;
use crate::cmd::backup::passphrase_bytes;
use crate::exit::{Exit, Outcome};
use crate::home::Home;
use crate::out;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use naka_store::{Error, Store};
use serde_json::json;

/// Runs `naka store`.
pub(crate) async fn run(args: &args::Store, context: Option<&str>) -> Outcome {
    match &args.command {
        StoreCommand::Repair { mesh } => repair(mesh),
        StoreCommand::Seal { command } => seal(command, context).await,
    }
}

/// The control plane changes the key, because it alone writes the log.
async fn seal(command: &SealCommand, context: Option<&str>) -> Outcome {
    let mut client = Client::open(context).await?;
    let sealing = match command {
        SealCommand::Status => client.get("/naka/v1/seal").await?,
        SealCommand::Rotate {
            passphrase_file,
            plain,
        } => {
            let wanted = match passphrase_file {
                Some(file) => {
                    let bytes = passphrase_bytes(file)?;
                    json!({"lock": "passphrase", "passphrase": STANDARD.encode(bytes)})
                }
                None if *plain => json!({"lock": "plain"}),
                None => json!({"lock": "same"}),
            };
            client.post("/naka/v1/seal", &wanted).await?
        }
    };
    let locked = match text(&sealing, "locked").as_str() {
        "true" => "locked by a passphrase",
        _ => "not locked",
    };
    out::line(format!(
        "key {}, {locked}, seals {} Secrets",
        text(&sealing, "key"),
        text(&sealing, "secrets")
    ));
    Ok(())
}

fn repair(mesh: &str) -> Outcome {
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

//! `naka ca`: an authority whose root is kept away from the mesh.
//!
//! `root create` and `intermediate sign` are for the machine of the root and need no mesh; `intermediate request` and
//! `install` ask the running control plane, which makes the key and keeps it. Only a request and a certificate travel,
//! so that both can be mailed. `rotate` and `replace` let another root follow, as a rollout.

use crate::args::{self, CaCommand, IntermediateCommand, RootCommand};
use crate::client::Client;
use crate::cmd::apply::text;
use crate::cmd::history::now_ms;
use crate::cmd::rollout;
use crate::exit::{Exit, Outcome};
use crate::out;
use naka_identity::{now_s, offline};
use serde_json::{Value, json};
use std::io::Read;
use std::path::Path;
use std::time::Duration;

/// After a compromised root was dropped: time for proxies to say that they have it.
const AFTERWARDS: Duration = Duration::from_secs(15);
const DAY: Duration = Duration::from_hours(24);
/// Longer texts are no requests or chains.
const LONGEST: u64 = 256 * 1024;

/// Runs `naka ca`.
pub(crate) async fn run(args: &args::Ca, context: Option<&str>) -> Outcome {
    match &args.command {
        CaCommand::Status => {
            let mut client = Client::open(context).await?;
            status(&client.get("/naka/v1/authority").await?);
            Ok(())
        }
        CaCommand::Rotate { from, manual, wait } => {
            let wanted = json!({"given": given(from.as_deref())?, "manual": manual});
            let mut client = Client::open(context).await?;
            let begun = client.post("/naka/v1/authority/rotate", &wanted).await?;
            rollout::line(&begun);
            match wait {
                Some(time) => rollout::ended(&mut client, &text(&begun, "name"), *time).await,
                None => Ok(()),
            }
        }
        CaCommand::Replace { from, within, .. } => replace(from.as_deref(), *within, context).await,
        CaCommand::Root { command } => root(command),
        CaCommand::Intermediate { command } => intermediate(command, context).await,
    }
}

/// Another root at once. Those who do not follow are named, with what to do about them.
async fn replace(from: Option<&Path>, within: Duration, context: Option<&str>) -> Outcome {
    let wanted = json!({"given": given(from)?, "compromised_within_s": within.as_secs().max(1)});
    let mut client = Client::open(context).await?;
    let begun = client.post("/naka/v1/authority/rotate", &wanted).await?;
    rollout::line(&begun);
    let done = rollout::ended(&mut client, &text(&begun, "name"), within + AFTERWARDS).await;
    out::note(
        "tokens, kubeconfigs and contexts of other machines that were made before name the old root: make them anew (naka token create, naka join)",
    );
    done
}

/// The files of Istio's `cacerts`, as the API takes them.
fn given(dir: Option<&Path>) -> Outcome<Value> {
    let Some(dir) = dir else {
        return Ok(Value::Null);
    };
    let mut chain = read(&dir.join("ca-cert.pem"))?;
    let above = dir.join("cert-chain.pem");
    if above.exists() {
        chain.push_str(&read(&above)?);
    }
    Ok(json!({
        "root_pem": read(&dir.join(offline::ROOT_CERT))?,
        "chain_pem": chain,
        "key_pem": read(&dir.join(offline::CA_KEY))?,
    }))
}

fn root(command: &RootCommand) -> Outcome {
    let RootCommand::Create {
        dir,
        trust_domain,
        days,
        key,
    } = command;
    if let Some(uri) = key {
        let place = crate::pkcs11::Place::read(uri).map_err(Exit::failed)?;
        // Before the token gets a key that nothing would belong to.
        offline::nothing_in(dir).map_err(failed)?;
        let key = crate::pkcs11::Key::open(&place, true).map_err(Exit::failed)?;
        let where_it_is = (uri.as_str(), &key as &dyn offline::TokenKey);
        offline::create_root_in_token(dir, trust_domain, DAY * *days, now_s(), where_it_is)
            .map_err(failed)?;
        out::line(format!(
            "root of {trust_domain} in {}; its key {} in the token; {} is for everyone",
            dir.display(),
            if key.made { "was made" } else { "was found" },
            offline::ROOT_CERT
        ));
        return Ok(());
    }
    offline::create_root(dir, trust_domain, DAY * *days, now_s()).map_err(failed)?;
    out::line(format!(
        "root of {trust_domain} in {}; {} stays away from meshes, {} is for everyone",
        dir.display(),
        offline::ROOT_KEY,
        offline::ROOT_CERT
    ));
    Ok(())
}

async fn intermediate(command: &IntermediateCommand, context: Option<&str>) -> Outcome {
    match command {
        IntermediateCommand::Request {
            out: Some(dir),
            trust_domain,
        } => out::raw(offline::request(dir, trust_domain).map_err(failed)?),
        IntermediateCommand::Request { out: None, .. } => {
            let mut client = Client::open(context).await?;
            let answer = client
                .post("/naka/v1/authority/request", &json!({}))
                .await?;
            out::raw(text(&answer, "csr_pem"));
        }
        IntermediateCommand::Sign {
            request,
            root,
            days,
        } => {
            let csr = read(request)?;
            let (days, now) = (DAY * *days, now_s());
            let signed = match offline::token_of(root).map_err(failed)? {
                Some(uri) => {
                    let told = |why: String| {
                        let file = root.join(offline::ROOT_URI);
                        Exit::failed(format!("{}: {why}", file.display()))
                    };
                    let place = crate::pkcs11::Place::read(&uri).map_err(told)?;
                    let key = crate::pkcs11::Key::open(&place, false).map_err(told)?;
                    offline::sign_in_token(root, &csr, days, now, &key)
                }
                None => offline::sign(root, &csr, days, now),
            };
            out::raw(signed.map_err(failed)?);
        }
        IntermediateCommand::Install { chain } => {
            let mut client = Client::open(context).await?;
            let wanted = json!({"chain_pem": read(chain)?});
            let answer = client.post("/naka/v1/authority/install", &wanted).await?;
            status(&answer);
        }
    }
    Ok(())
}

fn status(answer: &Value) {
    let ends = |what: &str| {
        let end = answer
            .pointer(&format!("/{what}/not_after"))
            .and_then(Value::as_u64)
            .unwrap_or(0);
        let now = now_ms() / 1000;
        match end.checked_sub(now) {
            Some(left) => format!("ends in {}", out::age(left)),
            None => "has ended".to_owned(),
        }
    };
    let root = answer.get("root").unwrap_or(&Value::Null);
    let key = match text(root, "key_here").as_str() {
        "true" => "its key is here: intermediates are renewed by themselves",
        _ => "its key is elsewhere: intermediates come from there",
    };
    out::line(format!("trust domain {}", text(answer, "trust_domain")));
    out::line(format!(
        "root {} {}; {key}",
        text(root, "sha256"),
        ends("root")
    ));
    out::line(format!("intermediate {}", ends("intermediate")));
    for (what, words) in [
        ("prepared", "is trusted and does not sign yet"),
        ("retired", "is trusted and signs no more"),
    ] {
        let sha256 = text(answer, what);
        if !sha256.is_empty() {
            out::line(format!("root {sha256} {words} (naka rollout list)"));
        }
    }
}

fn read(path: &Path) -> Outcome<String> {
    let told = |error: std::io::Error| Exit::failed(format!("{}: {error}", path.display()));
    let mut all = String::new();
    if path == Path::new("-") {
        std::io::stdin()
            .take(LONGEST)
            .read_to_string(&mut all)
            .map_err(told)?;
    } else {
        std::fs::File::open(path)
            .and_then(|file| file.take(LONGEST).read_to_string(&mut all))
            .map_err(told)?;
    }
    Ok(all)
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(error: naka_identity::Error) -> Exit {
    Exit::failed(error.to_string())
}

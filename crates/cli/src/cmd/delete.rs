//! `naka delete`: by kind and name, or what files name.

use crate::args;
use crate::client::Client;
use crate::cmd::names::{self, Target};
use crate::exit::{Exit, FAILED, Outcome};
use crate::{manifests, out};
use http::{Method, StatusCode};
use naka_api::{Kind, Mode};

/// Runs `naka delete`.
pub(crate) async fn run(args: &args::Delete, context: Option<&str>) -> Outcome {
    let mut targets: Vec<(Kind, String, String)> = Vec::new();
    if let Some(kind) = &args.kind {
        if args.names.is_empty() || kind.contains('/') {
            for word in std::iter::once(kind).chain(&args.names) {
                let (kind, name) = Target::one(word, None)?;
                targets.push((kind, args.namespace.clone(), name));
            }
        } else {
            let kind = names::kind(kind)?;
            targets.extend(
                args.names
                    .iter()
                    .map(|name| (kind, args.namespace.clone(), name.clone())),
            );
        }
    } else {
        let decoded = manifests::decode(&args.files, &args.namespace, Mode::Compat)?;
        targets.extend(
            decoded
                .objects
                .into_iter()
                .rev()
                .map(|object| (object.kind, object.meta.namespace, object.meta.name)),
        );
    }
    let mut client = Client::open(context).await?;
    let mut failed = false;
    for (kind, namespace, name) in targets {
        let path = names::object(kind, &namespace, &name);
        let answer = client.send(Method::DELETE, &path, None).await?;
        if answer.status.is_success() {
            out::line(format!("{kind} {namespace}/{name} deleted"));
        } else {
            failed = true;
            let why = if answer.status == StatusCode::NOT_FOUND {
                format!("no {kind} {namespace}/{name}")
            } else {
                answer.refusal().message
            };
            out::note(format!("naka: {why}"));
        }
    }
    if failed {
        Err(Exit::silent(FAILED))
    } else {
        Ok(())
    }
}

//! `naka apply` and `naka confirm`.
//!
//! Files are decoded here, so that findings carry file and line; sound objects go to the control plane, which decodes
//! them again and decides. One bad document does not keep the good ones out: they are applied and the exit code is 1.

use crate::args;
use crate::client::Client;
use crate::exit::{Exit, Outcome};
use crate::{manifests, out};
use naka_api::{Mode, Object};
use naka_types::finding::Finding;
use serde_json::{Value, json};
use std::time::Duration;

/// Runs `naka apply`.
pub(crate) async fn apply(args: &args::Apply, context: Option<&str>) -> Outcome {
    let mut decoded = manifests::decode(&args.files.files, &args.files.namespace, Mode::Compat)?;
    let found = std::mem::take(&mut decoded.findings);
    let mut request = Request {
        dry_run: args.dry_run,
        confirm: args.confirm,
        cause: args.cause.clone(),
        prune: set(args)?,
    };
    if request.prune.is_some() {
        sure(&decoded, &found)?;
    }
    if request.cause.is_empty() {
        request.cause = "naka apply".to_owned();
    }
    let mut client = Client::open(context).await?;
    let mut applied = if decoded.objects.is_empty() {
        Applied::nothing(found)
    } else {
        send(&mut client, &decoded.objects, found, &request).await?
    };
    // The control plane judged these objects beside all others of the mesh, but never saw the file.
    decoded.place(&mut applied.findings);
    report(&applied, args.output, args.dry_run);
    if applied.changed() && !args.dry_run {
        if let Some(time) = args.confirm {
            out::note(format!(
                "naka: revision {} undoes itself in {} unless you say: naka confirm {}",
                applied.revision,
                naka_types::duration::Show(time),
                applied.confirm_id
            ));
            if let Some(blind) = blind_spots(&applied.unwatched) {
                out::note(blind);
            }
        }
        if args.wait {
            let quiet = args.output.is_some();
            wait(&mut client, applied.revision, args.timeout, quiet).await?;
        }
    }
    applied.verdict()
}

/// Name of the set of an apply that prunes: given, or the files as this machine names them.
fn set(args: &args::Apply) -> Outcome<Option<String>> {
    let Some(name) = &args.prune else {
        return Ok(None);
    };
    if !name.is_empty() {
        return Ok(Some(name.clone()));
    }
    let mut files = Vec::new();
    for file in &args.files.files {
        if file.as_os_str() == "-" {
            let why = "standard input has no name: name the set, --prune=NAME";
            return Err(Exit::usage(why));
        }
        files.push(std::fs::canonicalize(file)?.display().to_string());
    }
    files.sort();
    Ok(Some(files.join(" ")))
}

/// Refuses to prune when a document cannot be read: the object it holds would seem to be missing.
fn sure(decoded: &naka_api::Decoded, found: &[Finding]) -> Outcome {
    let sound: Vec<String> = decoded
        .objects
        .iter()
        .map(|object| object.reference().to_string())
        .collect();
    let lost = found
        .iter()
        .find(|finding| finding.is_error() && !sound.contains(&finding.object));
    match lost {
        Some(finding) => Err(Exit::bad(format!(
            "{finding}\nnaka: nothing is applied: with --prune a document that cannot be read would count as missing"
        ))),
        None => Ok(()),
    }
}

/// Whose errors nobody looks at while a change waits.
fn blind_spots(unwatched: &[String]) -> Option<String> {
    const NAMED: usize = 5;
    let named = unwatched.iter().take(NAMED).cloned().collect::<Vec<_>>();
    let more = match unwatched.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (!named.is_empty()).then(|| {
        format!(
            "naka: errors seen by {}{more} do not undo it: the control plane cannot read their counters (they run on other machines, or do not answer)",
            named.join(", ")
        )
    })
}

/// Runs `naka confirm`.
pub(crate) async fn confirm(args: &args::Confirm, context: Option<&str>) -> Outcome {
    let mut client = Client::open(context).await?;
    let id = match &args.id {
        Some(id) => id.clone(),
        None => only_open(&mut client).await?,
    };
    let answer = client
        .post(&format!("/naka/v1/confirm/{id}"), &json!({}))
        .await?;
    match answer.get("deleted").and_then(Value::as_u64) {
        Some(deleted) => out::line(format!("{deleted} objects are deleted")),
        None => out::line(format!("change {id} stays")),
    }
    Ok(())
}

async fn only_open(client: &mut Client) -> Outcome<String> {
    let status = client.get("/naka/v1/confirm").await?;
    let open: Vec<String> = status
        .get("items")
        .and_then(Value::as_array)
        .map(|items| items.iter().map(|item| text(item, "id")).collect())
        .unwrap_or_default();
    match open.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(Exit::failed("no change waits for a confirmation")),
        many => Err(Exit::usage(format!(
            "several changes wait; name one: {}",
            many.join(", ")
        ))),
    }
}

/// What goes with the objects of an apply.
#[derive(Debug, Default)]
pub(crate) struct Request {
    /// Change nothing.
    pub(crate) dry_run: bool,
    /// Undo unless confirmed within this time.
    pub(crate) confirm: Option<Duration>,
    /// Why.
    pub(crate) cause: String,
    /// Set to prune.
    pub(crate) prune: Option<String>,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Applied {
    /// Revision of the change; 0 when nothing changed.
    pub(crate) revision: u64,
    /// Id for `naka confirm`.
    pub(crate) confirm_id: String,
    /// Proxies whose errors do not take the change back.
    pub(crate) unwatched: Vec<String>,
    /// `(object, action)`.
    pub(crate) results: Vec<(String, String)>,
    /// Everything found, by us and by the control plane.
    pub(crate) findings: Vec<Finding>,
}

impl Applied {
    fn nothing(findings: Vec<Finding>) -> Self {
        Self {
            revision: 0,
            confirm_id: String::new(),
            unwatched: Vec::new(),
            results: Vec::new(),
            findings,
        }
    }

    /// Whether any object was created or configured.
    pub(crate) fn changed(&self) -> bool {
        self.results
            .iter()
            .any(|(_, action)| ["created", "configured", "pruned"].contains(&action.as_str()))
    }

    /// Exit code 1 when something was not applied.
    pub(crate) fn verdict(&self) -> Outcome {
        let bad = self.findings.iter().any(Finding::is_error)
            || self.results.iter().any(|(_, action)| action == "invalid");
        if bad {
            Err(Exit::silent(crate::exit::BAD))
        } else {
            Ok(())
        }
    }
}

/// Sends objects to the control plane.
pub(crate) async fn send(
    client: &mut Client,
    objects: &[Object],
    mut findings: Vec<Finding>,
    request: &Request,
) -> Outcome<Applied> {
    let mut body = json!({
        "objects": objects.iter().map(|object| &object.raw).collect::<Vec<_>>(),
        "dry_run": request.dry_run,
        "cause": request.cause,
    });
    if let Some(set) = &request.prune {
        body["prune"] = json!(set);
    }
    if let Some(time) = request.confirm {
        body["confirm_seconds"] = json!(time.as_secs().max(1));
    }
    let answer = client.post("/naka/v1/apply", &body).await?;
    let served: Vec<Finding> = answer
        .get("findings")
        .and_then(|list| serde_json::from_value(list.clone()).ok())
        .unwrap_or_default();
    for finding in served {
        let known = findings.iter().any(|f| {
            f.code == finding.code && f.object == finding.object && f.field == finding.field
        });
        if !known {
            findings.push(finding);
        }
    }
    let revision = answer.get("revision").and_then(Value::as_u64).unwrap_or(0);
    let results = answer.get("results").and_then(Value::as_array);
    Ok(Applied {
        revision,
        confirm_id: answer
            .get("confirm")
            .and_then(|id| {
                id.as_str()
                    .map(str::to_owned)
                    .or_else(|| id.get("id").map(show))
            })
            .unwrap_or_else(|| revision.to_string()),
        unwatched: answer
            .pointer("/confirm/unwatched")
            .and_then(|list| serde_json::from_value(list.clone()).ok())
            .unwrap_or_default(),
        results: results
            .map(|all| {
                all.iter()
                    .map(|one| (text(one, "object"), text(one, "action")))
                    .collect()
            })
            .unwrap_or_default(),
        findings,
    })
}

/// Prints results on stdout and findings on stderr, or everything as one value.
pub(crate) fn report(applied: &Applied, form: Option<args::Output>, dry_run: bool) {
    let value = || {
        let results: Vec<Value> = applied
            .results
            .iter()
            .map(|(object, action)| json!({"object": object, "action": action}))
            .collect();
        json!({"revision": applied.revision, "results": results, "findings": applied.findings})
    };
    match form {
        Some(args::Output::Json) => return out::json(&value()),
        Some(args::Output::Yaml) => return out::raw(out::yaml(&value())),
        Some(args::Output::Wide) | None => {}
    }
    for finding in &applied.findings {
        out::note(finding.to_string());
    }
    let suffix = if dry_run { " (dry run)" } else { "" };
    for (object, action) in &applied.results {
        out::line(format!("{object} {action}{suffix}"));
    }
}

/// Waits until every connected proxy that holds an affected resource has the revision.
pub(crate) async fn wait(
    client: &mut Client,
    revision: u64,
    timeout: Duration,
    quiet: bool,
) -> Outcome {
    let started = std::time::Instant::now();
    let path = format!(
        "/naka/v1/rollout?revision={revision}&timeout_ms={}",
        timeout.as_millis()
    );
    let rollout = client.get(&path).await?;
    let names = |field: &str| -> Vec<String> {
        rollout
            .get(field)
            .and_then(Value::as_array)
            .map(|all| all.iter().map(show).collect())
            .unwrap_or_default()
    };
    let nacks: Vec<String> = rollout
        .get("nacks")
        .and_then(Value::as_array)
        .map(|all| {
            all.iter()
                .map(|n| {
                    format!(
                        "{} refuses revision {revision}: {}",
                        text(n, "proxy"),
                        text(n, "message")
                    )
                })
                .collect()
        })
        .unwrap_or_default();
    if !nacks.is_empty() {
        return Err(Exit::bad(nacks.join("\nnaka: ")));
    }
    let yes = |field: &str| rollout.get(field).and_then(Value::as_bool).unwrap_or(false);
    if !yes("done") {
        return Err(Exit::failed(format!(
            "after {} revision {revision} has not reached: {}",
            naka_types::duration::Show(timeout),
            names("behind").join(", ")
        )));
    }
    if !quiet {
        let acked = names("acked").len();
        let took = started.elapsed().as_millis();
        out::note(if yes("none_affected") {
            format!("revision {revision}: no connected proxy holds what changed")
        } else {
            format!("revision {revision}: acknowledged by {acked} of {acked} proxies in {took} ms")
        });
    }
    Ok(())
}

/// A field as text, empty when missing.
pub(crate) fn text(value: &Value, field: &str) -> String {
    value.get(field).map(show).unwrap_or_default()
}

/// A value as a person reads it: strings without quotes.
pub(crate) fn show(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::blind_spots;

    #[test]
    fn proxies_that_are_not_watched_are_named() {
        assert_eq!(blind_spots(&[]), None);
        let all: Vec<String> = (0..7).map(|n| format!("w{n}")).collect();
        let said = blind_spots(&all).unwrap();
        assert!(said.contains("w0, w1, w2, w3, w4 and 2 more"), "{said}");
        assert!(!blind_spots(&all[..1]).unwrap().contains("more"));
    }
}

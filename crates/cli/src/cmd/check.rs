//! `naka check`: files with `-f`, else this installation, or one proxy of it by name.

mod measure;
mod profile;
mod verdict;

use crate::args::{self, Output};
use crate::client::Client;
use crate::cmd::history::items;
use crate::contexts::Contexts;
use crate::exit::{BAD, Exit, Outcome};
use crate::home::Home;
use crate::out::Table;
use crate::{manifests, out};
use naka_api::{Mode, codes};
use naka_types::finding::{Finding, Severity};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use verdict::Line;

/// Runs `naka check`.
pub(crate) async fn run(args: &args::Check, context: Option<&str>) -> Outcome {
    // A name that is no file is a proxy's.
    let (proxies, more): (Vec<&PathBuf>, Vec<&PathBuf>) =
        args.names.iter().partition(|name| is_proxy(name));
    let files: Vec<PathBuf> = args.files.iter().chain(more).cloned().collect();
    if let Some(name) = &args.profile {
        return profiled(name, args.output, context).await;
    }
    if files.is_empty() {
        let proxy = proxies.first().and_then(|name| name.to_str());
        return installation(proxy, args.output, context).await;
    }
    let (findings, checked) = of_files(&files, args)?;
    match args.output {
        Some(Output::Json) => out::json(&apart(&findings)),
        Some(Output::Yaml) => out::raw(out::yaml(&apart(&findings))),
        Some(Output::Wide) | None => {
            for finding in &findings {
                out::line(finding.to_string());
            }
            out::note(summary(&findings, &checked));
        }
    }
    verdict(&findings)
}

fn is_proxy(name: &Path) -> bool {
    let text = name.to_string_lossy();
    let file = text == "-" || text.contains('/') || name.exists();
    !file
        && name
            .extension()
            .is_none_or(|end| !["yaml", "yml", "json"].iter().any(|e| end == *e))
}

fn verdict(findings: &[Finding]) -> Outcome {
    if findings.iter().any(Finding::is_error) {
        Err(Exit::silent(BAD))
    } else {
        Ok(())
    }
}

/// What is wrong with the files, and apart from it what is not enforced yet, which is no fault of theirs.
fn apart(all: &[Finding]) -> Value {
    let ours = [codes::W900.id, codes::E901.id];
    let (not_yet, findings): (Vec<&Finding>, Vec<&Finding>) = all
        .iter()
        .partition(|finding| ours.contains(&finding.code.as_str()));
    json!({ "findings": findings, "not_yet": not_yet })
}

fn of_files(files: &[PathBuf], args: &args::Check) -> Outcome<(Vec<Finding>, String)> {
    let mode = if args.strict {
        Mode::Strict
    } else {
        Mode::Compat
    };
    let decoded = manifests::decode(files, &args.namespace, mode)?;
    let mut findings = decoded.lint();
    let count = decoded.objects.len();
    findings.extend(decoded.findings);
    findings.sort_by(|a, b| {
        (&a.file, a.line, a.column, &a.code).cmp(&(&b.file, b.line, b.column, &b.code))
    });
    let plural = if count == 1 { "" } else { "s" };
    Ok((findings, format!("{count} sound object{plural}")))
}

fn summary(findings: &[Finding], checked: &str) -> String {
    let count = |severity| findings.iter().filter(|f| f.severity == severity).count();
    format!(
        "{checked}: {} errors, {} warnings, {} notes",
        count(Severity::Error),
        count(Severity::Warning),
        count(Severity::Info)
    )
}

/// Looks at this installation, or at one of its proxies: a line per check, cheapest questions first.
async fn installation(
    proxy: Option<&str>,
    output: Option<Output>,
    context: Option<&str>,
) -> Outcome {
    let (lines, live) = looked_at(context).await?;
    let lines: Vec<Line> = match proxy {
        None => lines,
        Some(name) => of_proxy(lines, name)?,
    };
    let found = lines.iter().filter_map(|line| line.finding.clone());
    let live = live.into_iter().filter(|_| proxy.is_none());
    let findings: Vec<Finding> = found.chain(live.clone()).collect();
    let whole = json!({ "checks": lines, "findings": findings });
    match output {
        Some(Output::Json) => out::json(&whole),
        Some(Output::Yaml) => out::raw(out::yaml(&whole)),
        Some(Output::Wide) | None => {
            let mut table = Table::new(&["CHECK", "OF", "STATE", "SEEN"]);
            for line in &lines {
                let (check, state) = (line.check.to_owned(), line.state.to_owned());
                table.row([check, line.of.clone(), state, line.message.clone()]);
            }
            out::raw(table.render());
            for finding in &findings {
                out::line(finding.to_string());
            }
            out::note(summary(&findings, "installation"));
        }
    }
    verdict(&findings)
}

/// The lines about one proxy; whoever asks for a name must have meant somebody.
fn of_proxy(lines: Vec<Line>, name: &str) -> Outcome<Vec<Line>> {
    let is_it = |of: &str| of == name || of.split('.').next() == Some(name);
    let known: Vec<String> = lines
        .iter()
        .filter(|line| line.check == "proxy")
        .map(|line| line.of.clone())
        .collect();
    let unreachable = lines
        .iter()
        .any(|line| line.check == "control plane" && line.state == "error");
    if !unreachable && !known.iter().any(|of| is_it(of)) {
        return Err(Exit::failed(format!(
            "there is no proxy {name}; there are: {}",
            known.join(", ")
        )));
    }
    let wanted =
        |line: &Line| line.check == "control plane" || line.check == "proxy" && is_it(&line.of);
    Ok(lines.into_iter().filter(wanted).collect())
}

/// A checklist held against everything that the control plane knows.
async fn profiled(name: &str, output: Option<Output>, context: Option<&str>) -> Outcome {
    let profile = profile::named(name)?;
    let (lines, live) = looked_at(context).await?;
    let mut checks: Vec<(String, String, String)> = lines
        .iter()
        .map(|line| {
            (
                line.check.to_owned(),
                line.of.clone(),
                line.state.to_owned(),
            )
        })
        .collect();
    checks.extend(live.iter().map(|one| {
        let state = if one.is_error() { "error" } else { "warning" };
        ("finding".to_owned(), one.code.clone(), state.to_owned())
    }));
    let mut client = Client::open(context).await?;
    let world = client.get("/naka/v1/world").await?;
    let inventory = measure::Inventory {
        objects: world["objects"].as_array().cloned().unwrap_or_default(),
        workloads: items(&client.get("/naka/v1/workloads").await?).to_vec(),
        certificates: items(&client.get("/naka/v1/certificates").await?).to_vec(),
        tokens: items(&client.get("/naka/v1/tokens").await?).to_vec(),
        seal: client.get("/naka/v1/seal").await?,
        checks,
    };
    let lines = profile::held(&profile, &inventory);
    profile::show(name, &profile, &lines, output)
}

/// What is wrong with the installation of a control plane that answers.
pub(crate) async fn faults(client: &mut Client) -> Outcome<Vec<Finding>> {
    let facts = client.get("/naka/v1/installation").await?;
    let lines = verdict::lines(&facts, env!("CARGO_PKG_VERSION"));
    Ok(lines.into_iter().filter_map(|line| line.finding).collect())
}

/// Every line, and the findings on the live configuration.
async fn looked_at(context: Option<&str>) -> Outcome<(Vec<Line>, Vec<Finding>)> {
    let home = Home::from_env()?;
    let mut lines = vec![files(&home)];
    let chosen = Contexts::open(&home)?.choose(context)?;
    match Client::connect(chosen).await {
        Err(exit) => {
            lines.push(Line::bad("control plane", codes::E910, exit.message));
            Ok((lines, Vec::new()))
        }
        Ok(mut client) => {
            let facts = client.get("/naka/v1/installation").await?;
            lines.extend(verdict::lines(&facts, env!("CARGO_PKG_VERSION")));
            let live = facts.get("findings").cloned().unwrap_or_default();
            let live: Vec<Finding> = serde_json::from_value(live).unwrap_or_default();
            Ok((lines, live))
        }
    }
}

/// Files of the home directory that others may read.
fn files(home: &Home) -> Line {
    use std::os::unix::fs::PermissionsExt;
    let path = home.config();
    let mode = path
        .metadata()
        .map_or(0o600, |file| file.permissions().mode() & 0o777);
    if mode & 0o077 == 0 {
        return Line::ok("files", format!("{} is its owner's alone", path.display()));
    }
    Line::bad(
        "files",
        codes::W901,
        format!("{} holds tokens and has mode {mode:o}", path.display()),
    )
}

//! `naka check`: files with `-f`, else this installation.

use crate::args;
use crate::client::Client;
use crate::contexts::Contexts;
use crate::exit::{BAD, Exit, Outcome};
use crate::home::Home;
use crate::{manifests, out};
use naka_api::{Mode, codes};
use naka_types::finding::{Finding, Severity};
use serde_json::json;
use std::path::PathBuf;

/// Runs `naka check`.
pub(crate) async fn run(args: &args::Check, context: Option<&str>) -> Outcome {
    let files: Vec<PathBuf> = args.files.iter().chain(&args.more_files).cloned().collect();
    let (findings, checked) = if files.is_empty() {
        (installation(context).await?, "installation".to_owned())
    } else {
        of_files(&files, args)?
    };
    match args.output {
        Some(args::Output::Json) => out::json(&json!({ "findings": findings })),
        Some(args::Output::Yaml) => out::raw(out::yaml(&json!({ "findings": findings }))),
        Some(args::Output::Wide) | None => {
            for finding in &findings {
                out::line(finding.to_string());
            }
            out::note(summary(&findings, &checked));
        }
    }
    if findings.iter().any(Finding::is_error) {
        Err(Exit::silent(BAD))
    } else {
        Ok(())
    }
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

/// What can be wrong with this machine's installation, cheapest questions first.
async fn installation(context: Option<&str>) -> Outcome<Vec<Finding>> {
    let mut findings = Vec::new();
    let home = Home::from_env()?;
    findings.extend(too_open(&home));
    let chosen = Contexts::open(&home)?.choose(context)?;
    match Client::connect(chosen).await {
        Err(exit) => findings.push(
            Finding::new(codes::E910.id, exit.message).fix("start the control plane with naka up"),
        ),
        Ok(mut client) => {
            let status = client.get("/naka/v1/status").await?;
            let served = status.get("findings").cloned().unwrap_or_default();
            findings.extend(serde_json::from_value::<Vec<Finding>>(served).unwrap_or_default());
        }
    }
    Ok(findings)
}

/// Files of the home directory that others may read.
fn too_open(home: &Home) -> Option<Finding> {
    use std::os::unix::fs::PermissionsExt;
    let path = home.config();
    let mode = path.metadata().ok()?.permissions().mode() & 0o777;
    (mode & 0o077 != 0).then(|| {
        Finding::new(
            codes::W901.id,
            format!("{} holds tokens and has mode {mode:o}", path.display()),
        )
        .fix(format!("chmod 600 {}", path.display()))
    })
}

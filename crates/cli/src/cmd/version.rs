//! `naka version`, `naka completion` and the manual pages.

use crate::args::{self, Args, Shell};
use crate::client::Client;
use crate::exit::Outcome;
use crate::out;
use clap::CommandFactory;
use serde_json::json;

/// Runs `naka version`. A control plane that does not answer is no error: the question was the version.
pub(crate) async fn run(args: &args::Version, context: Option<&str>) -> Outcome {
    if args.sbom {
        out::json(&crate::cmd::sbom::document());
        return Ok(());
    }
    let own = env!("CARGO_PKG_VERSION");
    let control = match Client::open(context).await {
        Ok(mut client) => client.get("/version").await.ok(),
        Err(_) => None,
    };
    let control = control
        .as_ref()
        .and_then(|v| v.get("nakaVersion").or_else(|| v.get("gitVersion")))
        .and_then(|v| v.as_str());
    match args.output {
        Some(args::Output::Json) => out::json(&json!({"client": own, "control": control})),
        Some(args::Output::Yaml) => {
            out::raw(out::yaml(&json!({"client": own, "control": control})))
        }
        Some(args::Output::Wide) | None => {
            out::line(format!("naka {own}"));
            if let Some(control) = control {
                out::line(format!("control plane {control}"));
            }
        }
    }
    Ok(())
}

/// Writes a manual page for each command, `naka.1`, `naka-run.1`, and so on.
pub(crate) fn man(dir: &std::path::Path) -> Outcome {
    std::fs::create_dir_all(dir)?;
    clap_mangen::generate_to(Args::command().name("naka"), dir)?;
    Ok(())
}

/// Prints a completion script.
pub(crate) fn completion(shell: Shell) {
    let mut command = Args::command();
    let mut script = Vec::new();
    match shell {
        Shell::Bash => clap_complete::generate(
            clap_complete::shells::Bash,
            &mut command,
            "naka",
            &mut script,
        ),
        Shell::Zsh => clap_complete::generate(
            clap_complete::shells::Zsh,
            &mut command,
            "naka",
            &mut script,
        ),
        Shell::Fish => clap_complete::generate(
            clap_complete::shells::Fish,
            &mut command,
            "naka",
            &mut script,
        ),
    }
    out::raw(String::from_utf8_lossy(&script));
}

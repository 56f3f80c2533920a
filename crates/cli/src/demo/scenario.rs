//! `naka demo --scenario NAME`: a small mesh for one story, the claims it proves, and each claim's count.
//!
//! A scenario is data: programs, manifests, and a list of claims that send requests through the ingress and count what
//! the called programs logged. `--without KIND/NAME` leaves an object out; the claims that rest on it then fail, which
//! shows that they could. The mesh's own word is never asked.

mod delivery;
mod expired;
pub(crate) mod stage;
mod stories;
mod zero_trust;

use crate::args;
use crate::exit::{BAD, Exit, Outcome};
use crate::home::Home;
use crate::out;
use serde_json::json;
use stage::Stage;
use std::future::Future;
use std::pin::Pin;
use stories::STORIES;

/// What was claimed, what was seen, and whether it fits.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Claim {
    claim: String,
    observed: String,
    ok: bool,
}

impl Claim {
    pub(crate) fn new(claim: &str, ok: bool, observed: impl Into<String>) -> Self {
        Self {
            claim: claim.to_owned(),
            observed: observed.into(),
            ok,
        }
    }
}

type Proof<'a> = Pin<Box<dyn Future<Output = Vec<Claim>> + 'a>>;

/// One story.
pub(crate) struct Story {
    /// Name on the command line.
    pub(crate) name: &'static str,
    /// Region of the ingress; empty: not said.
    pub(crate) region: &'static str,
    /// Its programs.
    pub(crate) parts: &'static [stage::Program],
    /// Its objects, beside the ingress's Gateway.
    pub(crate) manifests: &'static str,
    /// Whether the root's key is kept apart from the mesh.
    pub(crate) root_elsewhere: bool,
    /// Asks and counts.
    pub(crate) prove: for<'a> fn(&'a Stage) -> Proof<'a>,
}

/// Runs a scenario by name.
pub(crate) async fn run(args: &args::Demo, name: &str) -> Outcome {
    let Some(story) = STORIES.iter().find(|story| story.name == name) else {
        let known: Vec<&str> = STORIES.iter().map(|story| story.name).collect();
        return Err(Exit::usage(format!(
            "no scenario {name}; there are {}",
            known.join(", ")
        )));
    };
    let stage = Stage::set(Home::from_env()?, story, &args.without).await?;
    let proved = (story.prove)(&stage).await;
    stage.end().await;
    if args.report.is_none() {
        for claim in &proved {
            let word = if claim.ok { "ok    " } else { "FAILED" };
            out::line(format!("{word} {}: {}", claim.claim, claim.observed));
        }
    } else {
        out::line(json!({"scenario": name, "proved": proved}).to_string());
    }
    if proved.iter().all(|claim| claim.ok) {
        Ok(())
    } else {
        Err(Exit::silent(BAD))
    }
}

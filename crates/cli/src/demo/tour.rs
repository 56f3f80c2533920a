//! `naka demo --tour`: a guided minute, each act with claim and evidence.

use crate::demo::Demo;
use crate::exit::Outcome;

/// Plays the acts.
pub(crate) async fn run(_demo: &mut Demo) -> Outcome {
    Ok(())
}

//! Attacks on a mesh of real processes, from outside.
//!
//! Every attack is one function that is run twice: against Naka, where it must not land, and against something that
//! lacks the guard in question (a relay that believes everything, a bare HTTP server with its limits raised), where it
//! must. An attack that lands nowhere proves nothing and counts as a failure. While Naka is attacked a bystander goes
//! on calling through the same proxies; each of its calls must be answered.
//!
//! A harness of its own, because the lines are the result: one per attack, the last one sums up. They are also written
//! to `target/attacks.txt`, the page `docs/reference/attacks.md` names the same rows. `cargo test … --test attacks WORD`
//! runs those whose name contains the word.

mod anchors;
mod asked;
mod bare;
mod bodies;
mod days;
mod disguise;
mod doors;
mod downgrade;
mod ejection;
mod flood;
mod forge;
mod forged;
mod framing;
mod ground;
mod guarded;
mod labels;
mod leave;
mod listener;
mod naive;
mod names;
mod nested;
mod owners;
mod program;
mod proof;
mod sizes;
mod slow;
mod smuggle;
mod stall;
mod storm;
mod syntax;
mod tokens;
mod upstream;
mod wire;

use ground::{Bystander, Ground, Side};
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

/// What became of an attack.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Whether the attacker got what it wanted.
    pub(crate) landed: bool,
    /// What was observed, in a few words.
    pub(crate) seen: String,
}

/// The outcome, with what was seen.
pub(crate) fn outcome(landed: bool, seen: impl Into<String>) -> Outcome {
    Outcome {
        landed,
        seen: seen.into(),
    }
}

/// One attack: the row of the list it is of, its name, and what it does to either side.
#[derive(Clone, Copy)]
pub(crate) struct Attack {
    pub(crate) row: u8,
    pub(crate) name: &'static str,
    pub(crate) run: fn(&Ground, Side) -> Outcome,
}

/// Runs one attack on one side; a panic of the attack itself is no outcome.
fn attempt(attack: Attack, ground: &Ground, side: Side) -> Result<Outcome, String> {
    ground.program.forget();
    catch_unwind(AssertUnwindSafe(|| (attack.run)(ground, side))).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let word = text.or_else(|| panic.downcast_ref::<&str>().copied());
        word.unwrap_or("the attack itself failed").to_owned()
    })
}

/// The line of one attack, and whether it was withstood and has its twin.
fn line(attack: Attack, ground: &Ground) -> (String, bool) {
    let bystander = Bystander::start(ground);
    let guarded = attempt(attack, ground, Side::Naka);
    let calls = bystander.stop();
    let open = attempt(attack, ground, Side::Open);
    let mut text = format!("row {:<2} {}: ", attack.row, attack.name);
    let withstood = match &guarded {
        Ok(outcome) if !outcome.landed && calls.failed.is_empty() => {
            let _ = write!(text, "withstood ({}; {calls})", outcome.seen);
            true
        }
        Ok(outcome) if !outcome.landed => {
            let _ = write!(text, "OTHERS SUFFERED ({}; {calls})", outcome.seen);
            false
        }
        Ok(outcome) => {
            let _ = write!(text, "LANDED ({}; {calls})", outcome.seen);
            false
        }
        Err(error) => {
            let _ = write!(text, "FAILED ({error})");
            false
        }
    };
    let twin = match &open {
        Ok(outcome) => {
            let _ = write!(text, " [without: {}]", outcome.seen);
            outcome.landed
        }
        Err(error) => {
            let _ = write!(text, " [without: {error}]");
            false
        }
    };
    let _ = write!(
        text,
        "; lands with guard off: {}",
        if twin { "yes" } else { "no" }
    );
    (text, withstood && twin)
}

#[expect(
    clippy::print_stdout,
    reason = "a test harness: its lines are the result"
)]
fn main() {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-') && word != "unstable-options")
        .collect();
    match words.as_slice() {
        [word] if word == "naive-json" => return bodies::naive_json(),
        [word] if word == "naive-protobuf" => return nested::naive_protobuf(),
        _ => {}
    }
    let attacks: Vec<Attack> = [
        flood::ATTACKS,
        stall::ATTACKS,
        smuggle::ATTACKS,
        syntax::ATTACKS,
        downgrade::ATTACKS,
        sizes::ATTACKS,
        slow::ATTACKS,
        upstream::ATTACKS,
        bodies::ATTACKS,
        nested::ATTACKS,
        labels::ATTACKS,
        leave::ATTACKS,
        doors::ATTACKS,
        names::ATTACKS,
        listener::ATTACKS,
        ejection::ATTACKS,
        storm::ATTACKS,
        tokens::ATTACKS,
        asked::ATTACKS,
        forged::ATTACKS,
        anchors::ATTACKS,
        disguise::ATTACKS,
        proof::ATTACKS,
        owners::ATTACKS,
        days::ATTACKS,
        guarded::ATTACKS,
    ]
    .concat();
    let chosen: Vec<Attack> = attacks
        .into_iter()
        .filter(|attack| words.is_empty() || words.iter().any(|w| attack.name.contains(w.as_str())))
        .collect();
    if chosen.is_empty() {
        println!("test result: ok. 0 passed; 0 failed; 0 ignored");
        return;
    }
    let _ = naka_proxy::limits::raise_open_files();
    let ground = Ground::up();
    let (mut withstood, mut lines) = (0, String::new());
    for attack in &chosen {
        let started = Instant::now();
        let (text, good) = line(*attack, &ground);
        withstood += usize::from(good);
        let seconds = started.elapsed().as_secs_f64();
        let word = if good { "ok" } else { "FAILED" };
        println!(
            "test attacks::{} ... {word} <{seconds:.3}s>\n  {text}",
            attack.name.replace(' ', "_")
        );
        lines += &text;
        lines.push('\n');
    }
    let sum = format!("attacks {withstood} of {} withstood", chosen.len());
    // The lines for whoever reads them later; that they cannot be kept fails nothing.
    let _ = std::fs::write(ground::kept_lines(), format!("{lines}{sum}\n"));
    let failed = chosen.len() - withstood;
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!("test result: {word}. {withstood} passed; {failed} failed; 0 ignored");
    println!("{sum}");
    drop(ground);
    if failed > 0 {
        std::process::exit(1);
    }
}

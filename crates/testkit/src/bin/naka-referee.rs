//! `naka-referee [FILTER]`: the cases whose names hold FILTER, through explain, Naka and Envoy; exit 1 on a difference.
//!
//! FILTER `generated`: only what is made by chance, of the seed that `NAKA_REFEREE_SEED` gives. `NAKA_REFEREE_FIELDS=1`
//! names the fields that no case proves; those that decide nothing in Istio either are named in each whole run.
//! `NAKA_ENVOY` names the Envoy, `NAKA_REFEREE_LANES` how many meshes run beside each other.
#![expect(
    clippy::print_stdout,
    reason = "a program of the tests, whose output is its purpose"
)]

use naka_testkit::referee::run::{Options, run};
use std::process::ExitCode;

fn main() -> anyhow::Result<ExitCode> {
    let lanes = std::env::var("NAKA_REFEREE_LANES").ok();
    let seed = std::env::var("NAKA_REFEREE_SEED").ok();
    let seed = seed.and_then(|text| text.parse().ok());
    let options = Options {
        seed: seed.unwrap_or_else(|| fastrand::u64(..1_000_000_000)),
        filter: std::env::args().nth(1).unwrap_or_default(),
        lanes: lanes.and_then(|text| text.parse().ok()).unwrap_or(3),
        envoy: std::env::var_os("NAKA_ENVOY").unwrap_or_default().into(),
    };
    anyhow::ensure!(options.envoy.is_file(), "NAKA_ENVOY names no Envoy");
    let started = std::time::Instant::now();
    let report = run(&options, &|line| println!("{line}"))?;
    for (took, name) in report.slowest.iter().take(5) {
        println!("{:7.2} s  {name}", took.as_secs_f64());
    }
    for told in &report.later {
        println!("at a later look only: {told}");
    }
    println!(
        "{:.0} s, {} verdicts met at a later look",
        started.elapsed().as_secs_f64(),
        report.later.len()
    );
    if report.fields.is_some() {
        for ((kind, path), why) in naka_testkit::referee::fields::idle() {
            println!("without effect, as in Istio: {kind} {path}: {why}");
        }
    }
    if let Some((full, all)) = &report.fields
        && std::env::var_os("NAKA_REFEREE_FIELDS").is_some()
    {
        for field in all.difference(full) {
            let seen = report.seen.get(field).copied().unwrap_or_default();
            let (kind, path) = field;
            println!(
                "unproven: {kind} {path} (absent {}, boundary {})",
                seen.absent, seen.boundary
            );
        }
    }
    let [made, agree] = report.generated;
    println!("generated {made} with seed {}, {agree} agree", options.seed);
    println!("{}", report.line());
    Ok(ExitCode::from(u8::from(!report.wrong.is_empty())))
}

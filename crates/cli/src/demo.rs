//! `naka demo`: a whole mesh with load, shown live, removed at the end.

mod flow;
mod load;
pub(crate) mod program;
mod scenario;
mod summary;
mod tally;
mod tour;
mod wire;

use crate::args;
use crate::exit::Outcome;
use crate::home::Home;
use crate::out;
use flow::Flow;
use load::Load;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use summary::Summary;
use tally::Tally;
use tokio::signal::unix::{SignalKind, signal};

/// Runs `naka demo`.
pub(crate) async fn run(args: &args::Demo) -> Outcome {
    if let Some(name) = &args.scenario {
        return scenario::run(args, name).await;
    }
    let home = Home::from_env()?;
    let began = Instant::now();
    let (mut interrupt, mut terminate) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    );
    let flow = tokio::select! {
        flow = Flow::start(home, args.tour) => flow?,
        // What was started ends with this process: each child asked the kernel for that.
        _ = interrupt.recv() => return Ok(()),
        _ = terminate.recv() => return Ok(()),
    };
    let mut demo = Demo::new(flow, args, began).await;
    let outcome = tokio::select! {
        outcome = demo.play(args) => outcome,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    };
    demo.end(args, outcome).await
}

/// A running demo.
#[derive(Debug)]
pub(crate) struct Demo {
    pub(crate) flow: Flow,
    pub(crate) load: Load,
    pub(crate) tally: Tally,
    pub(crate) summary: Summary,
}

impl Demo {
    async fn new(flow: Flow, args: &args::Demo, began: Instant) -> Self {
        let trust_domain = summary::trust_domain(&flow).await;
        let tally = Tally::new(&flow.logs(), &trust_domain);
        let load = Load::start(flow.ingress, "demo.example", args.rate);
        let summary = Summary::new(began.elapsed());
        Self {
            flow,
            load,
            tally,
            summary,
        }
    }

    async fn play(&mut self, args: &args::Demo) -> Outcome {
        self.first_answer().await;
        if args.tour {
            return tour::run(self, args.report).await;
        }
        if args.report.is_none() || out::is_terminal() {
            out::raw(self.summary.opening(&self.flow));
        }
        let begin = Instant::now();
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            self.look();
            self.summary.weight(&self.flow, &mut self.tally).await;
            if args.report.is_none() || out::is_terminal() {
                self.summary.show(&mut self.flow, &self.load, &self.tally);
            }
            if args.length.is_some_and(|length| begin.elapsed() >= length) {
                return Ok(());
            }
        }
    }

    /// Reads what the programs have logged since the last look.
    pub(crate) fn look(&mut self) {
        let answered = self.load.with(|seen| std::mem::take(&mut seen.answered));
        self.tally.read(answered);
    }

    /// Waits for the first answered order and prints how long a newcomer waited for it.
    async fn first_answer(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.load.with(|seen| seen.answered.is_empty()) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.summary.first_request(since_make());
        out::note(self.summary.timing());
    }

    async fn end(mut self, args: &args::Demo, outcome: Outcome) -> Outcome {
        self.load.finish();
        self.look();
        let report = self.summary.report(&mut self.flow, &self.load, &self.tally);
        if args.tour {
            self.flow.end().await;
            return outcome;
        }
        if args.report.is_none() {
            out::raw(summary::closing(&report, &self.load));
        }
        self.flow.end().await;
        if args.report.is_some() {
            out::line(report.to_string());
        }
        outcome
    }
}

/// Time since `make demo` was typed, when that is how we were started.
fn since_make() -> Option<Duration> {
    let started: f64 = std::env::var("NAKA_DEMO_STARTED").ok()?.parse().ok()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    now.checked_sub(Duration::try_from_secs_f64(started).ok()?)
}

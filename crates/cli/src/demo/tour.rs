//! `naka demo --tour`: a guided minute. Each act has a claim, evidence seen from outside, and ✓ or ✗.
//!
//! The evidence is never the mesh's own word: called programs' logs, bytes on the wire, `/proc`, the load's answers.

use crate::args::Report;
use crate::cmd::apply::{self, Request, text};
use crate::cmd::history::items;
use crate::demo::Demo;
use crate::demo::flow::{Part, Running, canary_yaml, free_port};
use crate::demo::program::{ORDER, PROBE};
use crate::demo::summary::rss_bytes;
use crate::demo::wire::Hello;
use crate::exit::{BAD, Exit, Outcome};
use crate::launch;
use crate::out::{self, mebibytes};
use naka_api::Mode;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Resident memory a sidecar may have under load.
const MAX_RSS: u64 = 12 * 1024 * 1024;
/// Time for a thing that should happen at once.
const SOON: Duration = Duration::from_secs(10);
/// Time a bad change may stay before it undoes itself.
const CONFIRM: Duration = Duration::from_secs(8);

/// A program the load never calls: its sidecar is killed and comes back while the control plane is dead.
const PROBER: Part = Part {
    service: "prober",
    version: "v1",
    calls: &["payment", "inventory"],
};

/// Plays the acts; exit 1 when any of them fails.
pub(crate) async fn run(demo: &mut Demo, report: Option<Report>) -> Outcome {
    let mut tour = Tour {
        proved: Vec::new(),
        quiet: report.is_some(),
    };
    let probe = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let mut prober = demo.flow.spawn_prober(PROBER, probe)?;
    tour.wire(demo).await;
    tour.stranger(demo).await;
    tour.canary(demo).await;
    tour.control_plane_dies(demo, &mut prober, probe).await;
    tour.bad_change(demo).await;
    tour.small(demo);
    tour.end(demo, prober, report)
}

struct Tour {
    proved: Vec<(String, String, bool)>,
    quiet: bool,
}

impl Tour {
    fn act(&mut self, claim: &str, evidence: String, ok: bool) {
        if !self.quiet {
            let mark = if ok { '✓' } else { '✗' };
            out::line(format!("{mark} {claim}\n    {evidence}"));
        }
        self.proved.push((claim.to_owned(), evidence, ok));
    }

    /// Act 1, first half: what an attacker on the wire sees.
    async fn wire(&mut self, demo: &mut Demo) {
        let deadline = Instant::now() + SOON;
        while Instant::now() < deadline
            && demo
                .flow
                .relays
                .iter()
                .any(|relay| relay.seen().bytes < 20_000)
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        demo.look();
        let seen: Vec<_> = demo
            .flow
            .relays
            .iter()
            .map(super::wire::Relay::seen)
            .collect();
        let hellos: Vec<Option<Hello>> = seen
            .iter()
            .map(|seen| Hello::read(&seen.from_caller, &seen.from_called))
            .collect();
        let bytes: u64 = seen.iter().map(|seen| seen.bytes).sum();
        let planted = seen.iter().any(|seen| seen.planted);
        let calls = demo.tally.canary().0;
        let said = hellos
            .iter()
            .map(|hello| hello.map_or_else(|| "no TLS".to_owned(), Hello::describe))
            .collect::<Vec<_>>()
            .join(" and ");
        let evidence = format!(
            "first bytes from order to payment v1 and v2: {said}; the card number of {calls} calls was seen {} in {} kB",
            if planted { "IN THE CLEAR" } else { "0 times" },
            bytes / 1000
        );
        let ok = hellos.len() == 2
            && hellos
                .iter()
                .all(|hello| hello.is_some_and(Hello::is_post_quantum))
            && !planted
            && calls > 0;
        self.act(
            "Everything between services is encrypted, against quantum computers too",
            evidence,
            ok,
        );
    }

    /// Act 1, second half: somebody without an identity.
    async fn stranger(&mut self, demo: &Demo) {
        let answer = match demo.flow.relays.first() {
            Some(relay) => stranger_asks(relay.address).await,
            None => Err("no address".to_owned()),
        };
        let (evidence, ok) = match answer {
            Ok(answer) => {
                let status = answer.lines().next().unwrap_or_default().to_owned();
                let reason = answer
                    .lines()
                    .find_map(|line| {
                        line.to_ascii_lowercase()
                            .strip_prefix("x-naka-reason:")
                            .map(|r| r.trim().to_owned())
                    })
                    .unwrap_or_default();
                let ok = status.contains(" 403") && reason == "mtls-required";
                (
                    format!("curl without identity to payment: {status}, reason {reason}"),
                    ok,
                )
            }
            Err(error) => (error, false),
        };
        self.act("A stranger is refused and told why", evidence, ok);
    }

    /// Act 2.
    async fn canary(&mut self, demo: &mut Demo) {
        let before = demo.tally.canary();
        let changed = change_weights(demo, 50).await;
        let took = match changed {
            Ok(took) => took,
            Err(error) => {
                self.act("A canary moves while traffic flows", error.message, false);
                return;
            }
        };
        // Requests that were under way keep their old choice; count those after it.
        tokio::time::sleep(Duration::from_millis(200)).await;
        demo.look();
        demo.tally.mark();
        let calls = wait_for_calls(demo, 1000).await;
        let (_, after) = demo.tally.canary();
        let evidence = format!(
            "weight 10: {:.1} % of {} calls; weight 50, acknowledged by every proxy in {} ms: {after:.1} % of {calls} calls",
            before.1,
            before.0,
            took.as_millis()
        );
        // Five standard deviations of a fair draw.
        let ok = (after - 50.0).abs() < 8.0 && (before.1 - 10.0).abs() < 8.0 && calls >= 500;
        self.act("A canary moves while traffic flows", evidence, ok);
    }

    /// Act 3.
    async fn control_plane_dies(
        &mut self,
        demo: &mut Demo,
        prober: &mut Running,
        probe: SocketAddr,
    ) {
        const CLAIM: &str = "Traffic outlives the control plane";
        let before = demo.load.with(|seen| (seen.requests, seen.errors));
        if let Err(error) = demo.flow.kill_control() {
            self.act(CLAIM, error.message, false);
            return;
        }
        let died = Instant::now();
        let old = prober.sidecar();
        if let Some(pid) = old {
            launch::signal(pid, Signal::KILL);
        }
        // `naka run` starts it again; it has nobody to ask but its own files.
        let mut answer = Value::Null;
        let deadline = Instant::now() + SOON;
        while Instant::now() < deadline {
            if prober.sidecar().is_some_and(|pid| Some(pid) != old)
                && let Ok(body) = ask(probe).await
                && body.contains("\"payment\":200")
            {
                answer = serde_json::from_str(&body).unwrap_or_default();
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        while died.elapsed() < Duration::from_secs(8) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let after = demo.load.with(|seen| (seen.requests, seen.errors));
        let restarted = demo.flow.restart_control().await.is_ok();
        let (requests, errors) = (after.0 - before.0, after.1 - before.1);
        let calls = answer
            .get("calls")
            .map(ToString::to_string)
            .unwrap_or_default();
        let evidence = format!(
            "control plane killed with -9 for {:.0} s: {requests} orders, {errors} errors; a sidecar killed meanwhile came back and calls {calls}",
            died.elapsed().as_secs_f64()
        );
        let served = answer.pointer("/calls/inventory").and_then(Value::as_u64) == Some(200);
        self.act(
            CLAIM,
            evidence,
            errors == 0 && requests > 0 && served && restarted,
        );
    }

    /// Act 4.
    async fn bad_change(&mut self, demo: &mut Demo) {
        const CLAIM: &str = "A bad change takes itself back";
        let before = demo.load.with(|seen| seen.errors);
        let applied = Instant::now();
        let bad = canary_yaml(50, 50).replacen("subset: v1}", "subset: no-such-version}", 1);
        if let Err(error) = apply_text(demo, &bad, Some(CONFIRM)).await {
            self.act(CLAIM, error.message, false);
            return;
        }
        let undone = wait_until_undone(demo, CONFIRM + SOON).await;
        let took = applied.elapsed();
        // What was under way may still fail; then nothing may.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let failed = demo.load.with(|seen| seen.errors) - before;
        let settled = demo.load.with(|seen| seen.errors);
        tokio::time::sleep(Duration::from_secs(2)).await;
        let later = demo.load.with(|seen| seen.errors) - settled;
        let evidence = format!(
            "a route to a version that does not exist, applied with --confirm {}: {failed} orders failed, {} after {:.1} s, {later} errors since",
            naka_types::duration::Show(CONFIRM),
            if undone { "undone" } else { "NOT UNDONE" },
            took.as_secs_f64()
        );
        self.act(CLAIM, evidence, undone && failed > 0 && later == 0);
    }

    /// Act 5: after all of the load and the changes, when it would show.
    fn small(&mut self, demo: &mut Demo) {
        let up = demo.summary.up().as_secs_f64();
        let sizes: Vec<u64> = demo
            .flow
            .runs
            .iter_mut()
            .filter_map(Running::sidecar)
            .map(rss_bytes)
            .collect();
        let largest = sizes.iter().copied().max().unwrap_or(0);
        let control = rss_bytes(demo.flow.control.id());
        let evidence = format!(
            "ready in {up:.2} s; {} sidecars, the largest with {}, the control plane {} (/proc)",
            sizes.len(),
            mebibytes(largest),
            mebibytes(control)
        );
        let ok = sizes.len() == demo.flow.runs.len() && largest > 0 && largest <= MAX_RSS;
        self.act(
            "A whole mesh starts in seconds and stays small",
            evidence,
            ok,
        );
    }

    fn end(self, demo: &mut Demo, prober: Running, report: Option<Report>) -> Outcome {
        demo.look();
        demo.flow.runs.push(prober);
        let (requests, errors) = demo.load.with(|seen| (seen.requests, seen.errors));
        let good = self.proved.iter().filter(|(_, _, ok)| *ok).count();
        let all = self.proved.len();
        if report.is_some() {
            let proved: Vec<Value> = self
                .proved
                .iter()
                .map(
                    |(claim, observed, ok)| json!({"claim": claim, "observed": observed, "ok": ok}),
                )
                .collect();
            out::line(json!({"scenario": "tour", "proved": proved}).to_string());
        } else {
            out::line(format!(
                "\n{good} of {all} claims hold; {requests} orders, {errors} errors (those of the bad change); \
                 {:.1} % of {} calls verified by their receiver",
                demo.tally.mtls_share(false) * 100.0,
                demo.tally.joined
            ));
        }
        if good == all {
            Ok(())
        } else {
            Err(Exit::silent(BAD))
        }
    }
}

/// A plain HTTP request to a port that takes mesh identities only.
async fn stranger_asks(address: SocketAddr) -> Result<String, String> {
    exchange(
        address,
        "GET /payment HTTP/1.1\r\nHost: payment\r\nConnection: close\r\n\r\n",
    )
    .await
}

/// Body of the answer to an order that counts nowhere.
pub(crate) async fn ask(address: SocketAddr) -> Result<String, String> {
    let answer = exchange(
        address,
        &format!("GET / HTTP/1.1\r\nHost: prober\r\n{ORDER}: {PROBE}\r\nConnection: close\r\n\r\n"),
    )
    .await?;
    Ok(answer
        .split_once("\r\n\r\n")
        .map_or(String::new(), |(_, body)| body.to_owned()))
}

async fn exchange(address: SocketAddr, request: &str) -> Result<String, String> {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        let mut piece = [0; 4096];
        while answer.len() < 64 * 1024 {
            match stream.read(&mut piece).await {
                Ok(length @ 1..) => answer.extend_from_slice(&piece[..length]),
                // A refusal may end with a reset; what came before it counts.
                Ok(_) => break,
                Err(error) if answer.is_empty() => return Err(error),
                Err(_) => break,
            }
        }
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    match tokio::time::timeout(SOON, ask).await {
        Ok(answer) => answer.map_err(|error: std::io::Error| error.to_string()),
        Err(_) => Err("no answer within 10 s".to_owned()),
    }
}

/// Applies the canary with this weight of v2 and waits for every proxy; returns how long that took.
async fn change_weights(demo: &Demo, v2: u32) -> Outcome<Duration> {
    let began = Instant::now();
    let revision = apply_text(demo, &canary_yaml(100 - v2, v2), None).await?;
    let mut client = demo.flow.client().await?;
    apply::wait(&mut client, revision, SOON, true).await?;
    Ok(began.elapsed())
}

async fn apply_text(demo: &Demo, yaml: &str, confirm: Option<Duration>) -> Outcome<u64> {
    let decoded = naka_api::decode_yaml("tour", yaml.as_bytes(), Mode::Compat);
    let request = Request {
        confirm,
        cause: "naka demo --tour".to_owned(),
        ..Request::default()
    };
    let mut client = demo.flow.client().await?;
    let applied = apply::send(&mut client, &decoded.objects, decoded.findings, &request).await?;
    if applied.changed() {
        Ok(applied.revision)
    } else {
        Err(Exit::failed(format!(
            "nothing was applied: {:?}",
            applied.results
        )))
    }
}

async fn wait_for_calls(demo: &mut Demo, wanted: u64) -> u64 {
    let deadline = Instant::now() + SOON;
    loop {
        demo.look();
        let (calls, _) = demo.tally.canary();
        if calls >= wanted || Instant::now() > deadline {
            return calls;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Whether the canary's object leads to known versions again within this time.
async fn wait_until_undone(demo: &Demo, within: Duration) -> bool {
    let deadline = Instant::now() + within;
    while Instant::now() < deadline {
        if let Ok(mut client) = demo.flow.client().await
            && let Ok(list) = client
                .get("/apis/networking.istio.io/v1/namespaces/default/virtualservices")
                .await
        {
            let canary = items(&list).iter().find(|object| {
                object
                    .get("metadata")
                    .is_some_and(|meta| text(meta, "name") == "payment")
            });
            if canary.is_some_and(|object| !object.to_string().contains("no-such-version")) {
                return true;
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    false
}

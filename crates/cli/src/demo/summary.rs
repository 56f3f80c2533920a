//! What the demo shows: opening, live block, report.

use crate::cmd::apply::text;
use crate::cmd::names;
use crate::demo::flow::{Flow, PARTS, Part};
use crate::demo::load::Load;
use crate::demo::tally::Tally;
use crate::out::{self, Table, mebibytes};
use naka_api::Kind;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

/// Without a terminal a line is printed this often.
const LINE_EVERY: u64 = 5;

/// State of the display.
#[derive(Debug)]
pub(crate) struct Summary {
    up: Duration,
    first: Option<Duration>,
    weight: f64,
    lines: usize,
    ticks: u64,
    last: (Instant, u64, BTreeMap<String, u64>),
}

/// The mesh's trust domain.
pub(crate) async fn trust_domain(flow: &Flow) -> String {
    let Ok(mut client) = flow.client().await else {
        return String::new();
    };
    client
        .get("/naka/v1/mesh")
        .await
        .map(|mesh| text(&mesh, "trust_domain"))
        .unwrap_or_default()
}

impl Summary {
    /// A display of a mesh that took this long to come up.
    pub(crate) fn new(up: Duration) -> Self {
        Self {
            up,
            first: None,
            weight: 10.0,
            lines: 0,
            ticks: 0,
            last: (Instant::now(), 0, BTreeMap::new()),
        }
    }

    /// Time to the first answered request, when it is known since when to count.
    pub(crate) fn first_request(&mut self, first: Option<Duration>) {
        self.first = first;
    }

    /// How long the mesh took to come up.
    pub(crate) fn up(&self) -> Duration {
        self.up
    }

    /// One line on how long it took.
    pub(crate) fn timing(&self) -> String {
        let up = format!(
            "naka: mesh with {} sidecars up in {:.2} s",
            PARTS.len(),
            self.up.as_secs_f64()
        );
        match self.first {
            Some(first) => format!(
                "{up}; first request {:.1} s after make demo",
                first.as_secs_f64()
            ),
            None => up,
        }
    }

    /// What the demo is, and three commands to try.
    pub(crate) fn opening(&self, flow: &Flow) -> String {
        let naka = command_name();
        let home = std::env::var_os("NAKA_HOME")
            .map_or_else(String::new, |home| format!("NAKA_HOME={} ", home.display()));
        let canary = flow.file("canary.yaml").display().to_string();
        format!(
            "\nOrders come in at http://{}/order and go on to restaurant, payment (v1 and v2, then bank),\n\
             delivery, notification and inventory; each program has its own sidecar.\n\n\
             Try in another terminal:\n  \
             {home}{naka} --context demo status\n  \
             {home}{naka} --context demo split payment v1=50 v2=50    # or edit {canary}\n  \
             {home}{naka} --context demo explain --from order POST http://payment/payment\n\n",
            flow.ingress
        )
    }

    /// Reads the canary's weight; when it has changed, the observed share starts anew.
    pub(crate) async fn weight(&mut self, flow: &Flow, tally: &mut Tally) {
        let path = names::object(Kind::VirtualService, "default", "payment");
        let Ok(mut client) = flow.client().await else {
            return;
        };
        let Ok(object) = client.get(&path).await else {
            return;
        };
        if let Some(weight) = weight_of(&object)
            && (weight - self.weight).abs() > f64::EPSILON
        {
            self.weight = weight;
            tally.mark();
        }
    }

    /// Redraws the block, or prints a line now and then when there is no terminal.
    pub(crate) fn show(&mut self, flow: &mut Flow, load: &Load, tally: &Tally) {
        self.ticks += 1;
        let rates = self.rates(load, tally);
        if !out::is_terminal() {
            if self.ticks.is_multiple_of(LINE_EVERY) {
                out::line(format!(
                    "{} · {} · {}",
                    orders(load, rates.0),
                    mtls(tally),
                    self.canary(tally)
                ));
            }
            return;
        }
        let mut block = format!(
            "  orders   {}\n  mTLS     {}\n  canary   {}\n\n",
            orders(load, rates.0),
            mtls(tally),
            self.canary(tally)
        );
        let mut table = Table::new(&["  SIDECAR", "REQUESTS/S", "MEMORY"]);
        for run in &mut flow.runs {
            let name = run.part.name();
            let rate = rates.1.get(&name).copied().unwrap_or(0);
            let memory = run
                .sidecar()
                .map_or_else(|| "gone".to_owned(), |pid| mebibytes(rss_bytes(pid)));
            table.row([format!("  {name}"), rate.to_string(), memory]);
        }
        let control = mebibytes(rss_bytes(flow.control.id()));
        table.row(["  (control plane)".to_owned(), String::new(), control]);
        block.push_str(&table.render());
        block.push_str("\n  Ctrl-C ends the demo and removes it.\n");
        let mut drawn = String::new();
        if self.lines > 0 {
            let _ = write!(drawn, "\x1b[{}A", self.lines);
        }
        for line in block.lines() {
            let _ = writeln!(drawn, "\x1b[2K{line}");
        }
        self.lines = block.lines().count();
        out::raw(drawn);
    }

    /// Orders per second, and requests per second by sidecar, since the last time.
    fn rates(&mut self, load: &Load, tally: &Tally) -> (u64, BTreeMap<String, u64>) {
        let requests = load.with(|seen| seen.requests);
        let elapsed = u64::try_from(self.last.0.elapsed().as_millis())
            .unwrap_or(1)
            .max(1);
        let per_second =
            |now: u64, before: u64| (now.saturating_sub(before) * 1000 + elapsed / 2) / elapsed;
        let by_name = tally
            .by_name
            .iter()
            .map(|(name, count)| {
                (
                    name.clone(),
                    per_second(*count, self.last.2.get(name).copied().unwrap_or(0)),
                )
            })
            .collect();
        let orders = per_second(requests, self.last.1);
        self.last = (Instant::now(), requests, tally.by_name.clone());
        (orders, by_name)
    }

    fn canary(&self, tally: &Tally) -> String {
        let (calls, observed) = tally.canary();
        format!(
            "payment v2 {observed:.1} % of {calls} calls (weight {})",
            self.weight
        )
    }

    /// The report of the contracts.
    pub(crate) fn report(&self, flow: &mut Flow, load: &Load, tally: &Tally) -> Value {
        let (calls, observed) = tally.canary();
        let sidecars: Vec<Value> = flow
            .runs
            .iter_mut()
            .map(|run| {
                let pid = run.sidecar();
                let dir = flow.home.runs();
                json!({
                    "service": run.part.name(),
                    "rss_bytes": pid.map_or(0, rss_bytes),
                    "start_ms": start_ms(&dir, &run.part),
                })
            })
            .collect();
        load.with(|seen| {
            json!({
                "requests": seen.requests,
                "errors": seen.errors,
                "latency_ms": {"p50": round(seen.latency_ms(0.5)), "p99": round(seen.latency_ms(0.99))},
                "mtls_share": tally.mtls_share(true),
                "canary": {"weight": self.weight, "observed": round(observed), "calls": calls},
                "sidecars": sidecars,
                "control": {"rss_bytes": rss_bytes(flow.control.id())},
            })
        })
    }
}

/// The last words on the terminal.
pub(crate) fn closing(report: &Value, load: &Load) -> String {
    let mut words = format!(
        "\n{} orders, {} errors, p50 {} ms, p99 {} ms; mTLS share {}\n",
        report["requests"],
        report["errors"],
        report["latency_ms"]["p50"],
        report["latency_ms"]["p99"],
        report["mtls_share"]
    );
    load.with(|seen| {
        for (why, count) in &seen.failures {
            let _ = writeln!(words, "  {count} × {why}");
        }
    });
    words
}

fn orders(load: &Load, rate: u64) -> String {
    load.with(|seen| {
        format!(
            "{rate}/s, {} in all, {} errors, p50 {:.1} ms, p99 {:.1} ms",
            seen.requests,
            seen.errors,
            seen.latency_ms(0.5),
            seen.latency_ms(0.99)
        )
    })
}

fn mtls(tally: &Tally) -> String {
    format!(
        "{:.1} % of {} calls: the receiver verified the caller",
        tally.mtls_share(false) * 100.0,
        tally.joined
    )
}

/// Percent of v2 in the canary's first route, as the object says it.
fn weight_of(object: &Value) -> Option<f64> {
    let routes = object
        .pointer("/spec/http")?
        .as_array()?
        .last()?
        .get("route")?
        .as_array()?;
    let weight = |route: &Value| route.get("weight").and_then(Value::as_f64);
    let total: f64 = routes.iter().filter_map(weight).sum();
    let v2: f64 = routes
        .iter()
        .filter(|route| route.pointer("/destination/subset").and_then(Value::as_str) == Some("v2"))
        .filter_map(weight)
        .sum();
    (total > 0.0).then(|| round(v2 * 100.0 / total))
}

/// Resident memory of a process; 0 when it is gone.
pub(crate) fn rss_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .map_or(0, |kilobytes| kilobytes * 1024)
}

/// Time from exec to ready with a fresh certificate, as the launcher measured it from outside; `null` when unknown.
pub(crate) fn start_ms(runs: &std::path::Path, part: &Part) -> Value {
    let stem = format!("demo.default.{}-", part.stem());
    std::fs::read_dir(runs)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&stem))
        .find_map(|entry| {
            let text = std::fs::read_to_string(entry.path().join("start.json")).ok()?;
            serde_json::from_str::<Value>(&text)
                .ok()?
                .get("ready_ms")
                .cloned()
        })
        .unwrap_or(Value::Null)
}

/// Two decimals.
fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// How the user calls this binary: its name when the PATH leads to it, else its path.
fn command_name() -> String {
    let Ok(exe) = std::env::current_exe() else {
        return "naka".to_owned();
    };
    let on_path = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|dir| {
            dir.join("naka")
                .canonicalize()
                .is_ok_and(|found| found == exe)
        })
    });
    if on_path {
        "naka".to_owned()
    } else {
        exe.display().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::{rss_bytes, weight_of};
    use crate::demo::flow::canary_yaml;

    #[test]
    fn the_weight_is_read_from_the_object() {
        for (v1, v2) in [(90, 10), (50, 50), (0, 100)] {
            let decoded =
                naka_api::decode_yaml("c", canary_yaml(v1, v2).as_bytes(), naka_api::Mode::Compat);
            assert_eq!(weight_of(&decoded.objects[0].raw), Some(f64::from(v2)));
        }
    }

    #[test]
    fn memory_comes_from_proc() {
        assert!(rss_bytes(std::process::id()) > 1024 * 1024);
        assert_eq!(rss_bytes(0), 0);
    }
}

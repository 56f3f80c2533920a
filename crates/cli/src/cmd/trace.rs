//! `naka trace [ID]`: one request on its way through the mesh, call by call, with where it went wrong.
//!
//! Everything is decided by the control plane, which holds the spans; here it is only written down.

use crate::args::{self, Output};
use crate::client::{Client, query};
use crate::cmd::apply::text;
use crate::exit::{Exit, Outcome};
use crate::out;
use http::{Method, StatusCode};
use serde_json::Value;

/// Runs `naka trace`.
pub(crate) async fn run(args: &args::Trace, context: Option<&str>) -> Outcome {
    let id = args.id.as_deref().unwrap_or("last");
    let path = format!("/naka/v1/traces/{}", query(id));
    let mut client = Client::open(context).await?;
    let answer = client.send(Method::GET, &path, None).await?;
    if answer.status == StatusCode::NOT_FOUND {
        let held = match &args.id {
            Some(id) => format!("no trace {id} is held; \"naka get traces\" lists those that are"),
            None => "no trace is held yet: errors and slow requests are kept, others by chance"
                .to_owned(),
        };
        return Err(Exit::bad(held));
    }
    if !answer.status.is_success() {
        return Err(answer.refusal());
    }
    match args.output {
        Some(Output::Json) => out::json(&answer.body),
        Some(Output::Yaml) => out::raw(out::yaml(&answer.body)),
        Some(Output::Wide) | None => out::raw(page(&answer.body)),
    }
    Ok(())
}

/// The view for people.
fn page(trace: &Value) -> String {
    let list = |name: &str| {
        trace
            .get(name)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let why = match text(trace, "why").as_str() {
        "error" => "kept for an error",
        "slow" => "kept for being slow",
        "sampled" => "kept by chance",
        _ => "kept for another's sake",
    };
    let mut page = format!(
        "trace {}\n{} at {}: {}, {} spans of {} proxies, {why}\n\n",
        text(trace, "id"),
        text(trace, "request"),
        text(trace, "service"),
        took(trace),
        text(trace, "spans"),
        text(trace, "proxies"),
    );
    for call in list("flow") {
        page.push_str(&line(&call));
    }
    if let Some(cause) = trace.get("cause").filter(|cause| !cause.is_null()) {
        page.push_str(&format!("\nRoot cause: {}\n", text(cause, "what")));
        page.push_str(&format!("  {}\n", text(cause, "fix")));
    }
    let missing = list("missing");
    if !missing.is_empty() {
        page.push_str("\nNot complete:\n");
    }
    for what in missing {
        page.push_str(&format!("  {}\n", what.as_str().unwrap_or_default()));
    }
    page
}

/// `[14:32:01.172] payment → bank (2.3s) ⚠ SLOW`.
fn line(call: &Value) -> String {
    let time = text(call, "time");
    let time = time
        .split_once('T')
        .map_or(time.as_str(), |(_, time)| time.trim_end_matches('Z'));
    let words = text(call, "words");
    let mark = match text(call, "outcome").as_str() {
        "error" => "✗".to_owned(),
        "slow" if words.is_empty() => "⚠ SLOW".to_owned(),
        "slow" => format!("⚠ SLOW, {words}"),
        _ => "✓".to_owned(),
    };
    let how = match (text(call, "outcome").as_str(), words.as_str()) {
        ("error", words) if !words.is_empty() => format!("{words}, {}", took(call)),
        ("ok", words) if !words.is_empty() => format!("{words}, {}", took(call)),
        _ => took(call),
    };
    let tries = call.get("attempts").and_then(Value::as_u64).unwrap_or(0);
    let tries = if tries > 1 {
        format!(", {tries} tries")
    } else {
        String::new()
    };
    let (from, to) = (text(call, "from"), text(call, "to"));
    format!("[{time}] {from} → {to} ({how}{tries}) {mark}\n")
}

fn took(value: &Value) -> String {
    match value
        .get("duration_ms")
        .and_then(Value::as_f64)
        .unwrap_or(0.0)
    {
        ms if ms >= 1000.0 => format!("{:.1}s", ms / 1000.0),
        ms if ms >= 100.0 => format!("{ms:.0}ms"),
        ms => format!("{ms:.1}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::page;
    use serde_json::json;

    #[test]
    fn a_page_says_who_called_whom_how_it_went_and_why() {
        let call = |time: &str, from: &str, to: &str, ms: f64, outcome: &str, words: &str| {
            json!({"time": format!("2026-11-27T{time}Z"), "from": from, "to": to, "duration_ms": ms,
                "outcome": outcome, "words": words, "attempts": 1})
        };
        let trace = json!({
            "id": "4bf92f3577b34da6a3ce929d0e0e4736", "request": "POST /pay", "service": "order", "duration_ms": 5085.0,
            "spans": 11, "proxies": 6, "why": "error",
            "flow": [
                call("14:32:01.123", "order", "user", 2.3, "ok", ""),
                call("14:32:01.172", "payment", "bank", 2300.0, "slow", ""),
                call("14:32:03.201", "payment", "notification", 3000.0, "error", "timeout"),
                call("14:32:06.205", "order", "user", 0.1, "error", "circuit breaker open"),
            ],
            "cause": {"what": "payment called notification: timeout after 3000.0 ms", "fix": "The route's timeout passed."},
            "missing": [],
        });
        let want = "\
trace 4bf92f3577b34da6a3ce929d0e0e4736
POST /pay at order: 5.1s, 11 spans of 6 proxies, kept for an error

[14:32:01.123] order → user (2.3ms) ✓
[14:32:01.172] payment → bank (2.3s) ⚠ SLOW
[14:32:03.201] payment → notification (timeout, 3.0s) ✗
[14:32:06.205] order → user (circuit breaker open, 0.1ms) ✗

Root cause: payment called notification: timeout after 3000.0 ms
  The route's timeout passed.
";
        assert_eq!(page(&trace), want);
    }
}

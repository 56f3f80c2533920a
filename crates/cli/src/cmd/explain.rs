//! `naka explain X`: a request, a reason or finding code, or a field path.
//!
//! A request takes the walk a real one takes: objects → the control plane's compile → the proxy's intake → the engine,
//! on the live state or on files, and no network either way. What is printed is the engine's own trail.

mod explained;
pub(crate) mod objects;
mod request;
pub(crate) mod world;

use crate::args::{self, Output};
use crate::exit::{Exit, Outcome};
use crate::out;
use explained::Explained;
use naka_types::reason::Reason;
use serde_json::json;

/// Runs `naka explain`.
pub(crate) async fn run(args: &args::Explain, context: Option<&str>) -> Outcome {
    if let ([word], None) = (args.what.as_slice(), &args.to) {
        if let Some(reason) = Reason::parse(word) {
            explain_reason(reason);
            return Ok(());
        }
        if let Some(code) = naka_api::codes::TABLE
            .iter()
            .find(|code| code.id.eq_ignore_ascii_case(word))
        {
            out::line(format!(
                "{}: {}\nfor example: {}\nfix: {}",
                code.id, code.meaning, code.example, code.fix
            ));
            return Ok(());
        }
        if !word.contains("://") {
            return explain_field(word);
        }
    }
    let asked = request::Asked::read(args)?;
    let mut found = if args.files.is_empty() {
        world::live(context).await?
    } else {
        world::of_files(&args.files, &args.namespace, &asked.host)?
    };
    let seen = asked.seen_by(&found.told);
    let mut explained = request::explain(&found.world, &asked, &seen);
    asked.causes(&found.world, &mut explained);
    if args.to.is_some() {
        request::inbound::decide(&mut found.world, &asked, &found.ports, &mut explained);
    }
    match args.output {
        Some(Output::Json) => out::json(&explained.to_json(&found.notes)),
        Some(Output::Yaml) => out::raw(out::yaml(&explained.to_json(&found.notes))),
        Some(Output::Wide) | None => {
            for note in &found.notes {
                out::note(note);
            }
            out::raw(explained.to_text());
        }
    }
    Ok(())
}

fn explain_reason(reason: Reason) {
    let status = match reason.http_status() {
        0 => "none".to_owned(),
        status => status.to_string(),
    };
    out::line(format!("{}: {}", reason.code(), reason.meaning()));
    out::line(format!(
        "HTTP status {status}, gRPC status {}, response flag {}",
        reason.grpc_status(),
        reason.flag()
    ));
}

/// A field path such as `virtualservice.spec.http.timeout`, as far as the kinds' own tables know it.
fn explain_field(path: &str) -> Outcome {
    let (kind, field) = path.split_once('.').unwrap_or((path, ""));
    let Some(kind) = naka_api::Kind::of_word(kind) else {
        return Err(Exit::usage(format!(
            "{path:?} is no request (GET http://payment/pay), no code and no field path (vs.spec.http.timeout)"
        )));
    };
    let page = naka_api::schema::page(kind);
    let wanted: String = field
        .split(['[', ']'])
        .filter(|part| part.parse::<u32>().is_err())
        .collect();
    let rows: Vec<&str> = page
        .lines()
        .filter(|line| line.starts_with("| `"))
        .filter(|line| {
            let name = line
                .trim_start_matches("| `")
                .split('`')
                .next()
                .unwrap_or_default();
            let name = name.replace("[]", "");
            name == wanted
                || name.ends_with(&format!(".{wanted}"))
                || name.starts_with(&format!("{wanted}."))
        })
        .collect();
    if rows.is_empty() {
        return Err(Exit::bad(format!("{kind} has no field {field}")));
    }
    for row in rows {
        let cells: Vec<&str> = row
            .trim_matches('|')
            .split(" | ")
            .map(|cell| cell.trim().trim_matches('`'))
            .collect();
        out::line(cells.join("   "));
    }
    Ok(())
}

/// Notes and trail as one JSON value.
impl Explained {
    fn to_json(&self, notes: &[String]) -> serde_json::Value {
        let trail: Vec<_> = self
            .trail
            .iter()
            .map(|why| json!({"stage": why.stage.to_string(), "decision": why.decision, "because": why.because}))
            .collect();
        let sent: Vec<_> = self.sent.iter().map(explained::Sent::to_json).collect();
        let got = self.got.as_ref().map(explained::Got::to_json);
        json!({
            "request": self.request, "verdict": self.verdict, "trail": trail, "sent": sent, "got": got, "closed": self.closed,
            "copies": self.copies.iter().map(|(cluster, host)| json!({"cluster": cluster, "authority": host})).collect::<Vec<_>>(),
            "delay": naka_types::duration::Show(self.delay).to_string(),
            "trust": self.trust, "findings": self.findings, "notes": notes,
        })
    }

    fn to_text(&self) -> String {
        let mut text = format!("{}\n", self.request);
        for why in &self.trail {
            text.push_str(&format!("  {why}\n"));
        }
        for finding in &self.findings {
            text.push_str(&format!("  {finding}\n"));
        }
        text.push_str(&format!("=> {}\n", self.verdict));
        text
    }
}

//! `naka audit`: the log as evidence. Its head to note down, whether it is as it was written, its events for elsewhere.

use crate::args::{self, AuditCommand, Output};
use crate::client::{Client, query};
use crate::cmd::apply::text;
use crate::cmd::history::items;
use crate::exit::{BAD, Exit, Outcome};
use crate::out;
use naka_control::export::Collector;
use naka_store::{Head, rfc3339, verify};
use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Runs `naka audit`.
pub(crate) async fn run(args: &args::Audit, context: Option<&str>) -> Outcome {
    match &args.command {
        AuditCommand::Status { output } => status(*output, context).await,
        AuditCommand::Head => {
            let answer = Client::open(context)
                .await?
                .get("/naka/v1/audit/head")
                .await?;
            out::line(text(&answer, "head"));
            Ok(())
        }
        AuditCommand::Verify(verify) => self::verified(verify, context).await,
        AuditCommand::Export(export) => self::export(export, context).await,
    }
}

async fn status(form: Option<Output>, context: Option<&str>) -> Outcome {
    let answer = Client::open(context)
        .await?
        .get("/naka/v1/audit/status")
        .await?;
    match form {
        Some(Output::Json) => out::json(&answer),
        Some(Output::Yaml) => out::raw(out::yaml(&answer)),
        Some(Output::Wide) | None => {
            let mut line = format!("log: head {}", text(&answer, "head"));
            if let Some(keep) = answer["keep_s"].as_u64() {
                line.push_str(&format!(", kept for {}", out::age(keep)));
            }
            if let Some(last @ 1..) = answer["begins_after"].as_u64() {
                line.push_str(&format!(", up to {last} gone by age"));
            }
            out::line(line);
            for stream in answer["streams"].as_array().into_iter().flatten() {
                out::line(of_stream(stream));
            }
            for place in answer["places"].as_array().into_iter().flatten() {
                out::line(of_place(place));
            }
        }
    }
    Ok(())
}

fn of_stream(stream: &Value) -> String {
    let events = match (&stream["events"][0], &stream["events"][1]) {
        (Value::Number(first), Value::Number(last)) => format!("events {first} to {last}"),
        _ => "no events".to_owned(),
    };
    let keep = stream["keep_s"].as_u64().unwrap_or_default();
    let mut line = format!(
        "{}: {events}, kept for {}, {} dropped since the start",
        text(stream, "name"),
        out::age(keep),
        text(stream, "dropped")
    );
    if let Some(why) = stream["failing"].as_str() {
        let what = match stream["when_full"].as_str() {
            Some("refuse") => "changes are refused",
            _ => "they are dropped and counted",
        };
        line.push_str(&format!("; NOT recorded now, {what}: {why}"));
    }
    line
}

fn of_place(place: &Value) -> String {
    let mut line = format!(
        "to {}: log up to {}, denials up to {}, {} behind, {} lost to it since the start",
        text(place, "to"),
        text(&place["delivered"], "log"),
        text(&place["delivered"], "denials"),
        text(place, "behind"),
        text(place, "dropped")
    );
    if let Some(why) = place["failing"].as_str() {
        let what = match place["when_full"].as_str() {
            Some("refuse") => format!(
                "more than {} behind and changes are refused",
                text(place, "most_behind")
            ),
            _ => "they are kept and sent again".to_owned(),
        };
        line.push_str(&format!("; NOT taken now, {what}: {why}"));
    }
    line
}

async fn verified(args: &args::AuditVerify, context: Option<&str>) -> Outcome {
    let answer = match &args.dir {
        Some(dir) => offline(dir, &args.head)?,
        None => {
            let heads = query(&args.head.join(","));
            let path = format!("/naka/v1/audit/verify?heads={heads}");
            Client::open(context).await?.get(&path).await?
        }
    };
    let broken = answer["told"].as_str();
    match args.output {
        Some(Output::Json) => out::json(&answer),
        Some(Output::Yaml) => out::raw(out::yaml(&answer)),
        Some(Output::Wide) | None => print(&answer, broken),
    }
    match broken {
        None => Ok(()),
        Some(_) => Err(Exit::silent(BAD)),
    }
}

fn print(answer: &Value, broken: Option<&str>) {
    let count = |field: &str| answer[field].as_u64().unwrap_or_default();
    if let Some(broken) = broken {
        out::line(format!("NOT as it was written: {broken}"));
        return;
    }
    let (from, until) = (text(answer, "from"), text(answer, "until"));
    out::line(format!(
        "as it was written: {} events, {from} to {until}",
        count("events")
    ));
    out::line(format!(
        "head {}, compared with {} known before",
        text(answer, "head"),
        match count("compared") {
            0 => "none".to_owned(),
            1 => "one".to_owned(),
            more => more.to_string(),
        }
    ));
    if count("cut") > 0 {
        out::line(format!(
            "up to {} gone by age, as the log tells",
            count("cut")
        ));
    }
    if count("outlived") > 0 {
        out::line(format!(
            "{} of the heads are of events that went by age, and say nothing any more",
            count("outlived")
        ));
    }
    for stream in answer["streams"].as_array().into_iter().flatten() {
        let count = |field: &str| stream[field].as_u64().unwrap_or_default();
        let mut line = format!(
            "{}: {} events in {} files, borne out by the log up to {}",
            text(stream, "name"),
            count("events"),
            count("files"),
            count("anchored")
        );
        if count("pruned") > 0 {
            line.push_str(&format!("; up to {} gone by age", count("pruned")));
        }
        for lost in stream["lost"].as_array().into_iter().flatten() {
            line.push_str(&format!("; LOST, says the log: {} to {}", lost[0], lost[1]));
        }
        out::line(line);
    }
    if count("torn") > 0 {
        out::line(format!(
            "the last {} bytes are of a record that was not finished, as a crash leaves one",
            count("torn")
        ));
    }
}

/// Verifies a directory without a control plane; in the form of the API's answer.
fn offline(dir: &Path, heads: &[String]) -> Outcome<Value> {
    let heads = heads
        .iter()
        .map(|text| {
            Head::parse(text).ok_or_else(|| {
                Exit::usage(format!(
                    "{text:?} is no head: write SEQ:HASH, as `naka audit head` prints it"
                ))
            })
        })
        .collect::<Outcome<Vec<_>>>()?;
    let found = verify(dir, &heads).map_err(|error| Exit::failed(error.to_string()))?;
    let mut value = json!(found);
    value["from"] = json!(found.from_ms.map(rfc3339));
    value["until"] = json!(found.until_ms.map(rfc3339));
    value["told"] = json!(found.broken.map(|broken| broken.to_string()));
    Ok(value)
}

/// Where events go.
enum Sink {
    Out,
    File(BufWriter<File>),
    Collector(Box<Collector>),
}

impl Sink {
    fn open(args: &args::AuditExport) -> Outcome<Self> {
        if let Some(url) = &args.otlp {
            let collector = Collector::new(url, args.otlp_ca.as_deref()).map_err(Exit::usage)?;
            return Ok(Self::Collector(Box::new(collector)));
        }
        let Some(path) = &args.file else {
            return Ok(Self::Out);
        };
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(|error| Exit::failed(format!("writing {}: {error}", path.display())))?;
        Ok(Self::File(BufWriter::new(file)))
    }

    async fn take(&mut self, events: &[Value]) -> Outcome {
        match self {
            Self::Out => events.iter().for_each(|event| out::line(event.to_string())),
            Self::File(file) => {
                for event in events {
                    writeln!(file, "{event}")?;
                }
            }
            Self::Collector(collector) => {
                let sent = collector.send(events).await;
                sent.map_err(|why| Exit::failed(why.to_string()))?;
            }
        }
        Ok(())
    }

    fn close(self) -> Outcome {
        if let Self::File(file) = self {
            let file = file.into_inner().map_err(|error| error.into_error())?;
            file.sync_all()?;
        }
        Ok(())
    }
}

async fn export(args: &args::AuditExport, context: Option<&str>) -> Outcome {
    let mut sink = Sink::open(args)?;
    let mut client = Client::open(context).await?;
    let status = client.get("/naka/v1/audit/status").await?;
    let of_log = args.stream == "log";
    // What is written meanwhile is for the next export: else one that is itself noted would never end.
    let head = text(&status, "head");
    let to = Head::parse(&head).map_or(0, |head| head.seq);
    let to = if of_log { to } else { u64::MAX };
    let kinds = query(&args.kind.join(","));
    let mut filter = format!("&stream={}&to={to}&kind={kinds}", query(&args.stream));
    for (name, value) in [("since", args.since), ("until", args.until)] {
        if let Some(value) = value {
            filter.push_str(&format!("&{name}={value}"));
        }
    }
    if args.unmasked {
        filter.push_str("&unmasked=true");
    }
    let (mut next, mut count) = ((args.from <= to).then_some(args.from), 0);
    let mut last = args.from.saturating_sub(1);
    while let Some(from) = next {
        let path = format!("/naka/v1/audit/events?from={from}{filter}");
        let answer = client.get(&path).await?;
        let events = items(&answer);
        sink.take(events).await.map_err(|exit| {
            Exit::failed(format!(
                "{exit}; {count} events got there, go on with --from {from}"
            ))
        })?;
        count += events.len();
        last = last.max(answer["last"].as_u64().unwrap_or(last));
        next = answer["next"].as_u64();
    }
    sink.close()?;
    out::note(format!(
        "{count} events; the log's head is {head}; the next export goes on with --from {}",
        last + 1
    ));
    Ok(())
}

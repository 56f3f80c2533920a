//! The mesh of a scenario, requests into it, and what its programs logged.

use super::Story;
use crate::cmd::check;
use crate::demo::flow::{Cast, Flow, Part, Running};
use crate::exit::{Exit, Outcome};
use crate::home::Home;
use crate::launch;
use naka_api::{Kind, Mode, Object};
use naka_types::finding::Finding;
use rustix::process::Signal;
use serde_json::Value;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A request without an answer for so long has none.
const PATIENCE: Duration = Duration::from_secs(10);
/// Until the first request goes all the way.
const READY: Duration = Duration::from_secs(20);

/// A program of a scenario.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Program {
    /// Service.
    pub(crate) service: &'static str,
    /// Label `version`, by which subsets tell programs apart.
    pub(crate) version: &'static str,
    /// Status of its answers; 200 unless it is ill.
    pub(crate) status: u16,
    /// How long it takes, in milliseconds.
    pub(crate) delay_ms: u64,
    /// Region it runs in; empty: not said.
    pub(crate) region: &'static str,
    /// Namespace; empty: `default`.
    pub(crate) namespace: &'static str,
    /// Services it calls for each request; it answers 502 unless all of them answer 200.
    pub(crate) calls: &'static [&'static str],
    /// Further labels, `key=value`.
    pub(crate) labels: &'static [&'static str],
}

/// A workload that only calls.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller {
    /// Namespace.
    pub(crate) namespace: &'static str,
    /// Service account.
    pub(crate) account: &'static str,
    /// A label, `key=value`; empty: none.
    pub(crate) label: &'static str,
}

/// What a caller is to ask.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(crate) struct Ask {
    /// By which the called program's log knows it.
    pub(crate) id: String,
    /// Service.
    pub(crate) host: String,
    /// Method.
    pub(crate) method: String,
    /// Target.
    pub(crate) path: String,
    /// Headers.
    pub(crate) headers: Vec<(String, String)>,
}

/// What came of it.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(crate) struct Asked {
    /// Of the question.
    pub(crate) id: String,
    /// 0: none.
    pub(crate) status: u16,
}

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    /// 0: none.
    pub(crate) status: u16,
    /// All of the head, lower case.
    pub(crate) head: String,
    /// How long it took.
    pub(crate) took: Duration,
}

/// The running mesh.
#[derive(Debug)]
pub(crate) struct Stage {
    flow: Flow,
    programs: &'static [Program],
}

impl Stage {
    /// Starts the programs and applies the objects, without those left out.
    pub(super) async fn set(home: Home, story: &Story, without: &[String]) -> Outcome<Self> {
        let mut objects = decode(story.manifests)?;
        for left in without {
            let (kind, name) = left
                .split_once('/')
                .ok_or_else(|| Exit::usage(format!("--without {left}: write KIND/NAME")))?;
            let kind = Kind::of_word(kind)
                .ok_or_else(|| Exit::usage(format!("--without {left}: no such kind")))?;
            let before = objects.len();
            objects.retain(|object| object.kind != kind || object.meta.name != name);
            if objects.len() == before {
                let known: Vec<String> = objects
                    .iter()
                    .map(|o| format!("{}/{}", o.kind, o.meta.name))
                    .collect();
                return Err(Exit::usage(format!(
                    "--without {left}: this scenario has {}",
                    known.join(", ")
                )));
            }
        }
        let parts = story.parts.iter().map(|program| {
            let part = Part {
                service: program.service,
                version: program.version,
                calls: program.calls,
            };
            Cast {
                part,
                labels: program.labels,
                status: program.status,
                delay_ms: program.delay_ms,
                region: program.region,
                namespace: program.namespace,
            }
        });
        let flow = Flow::start_scenario(home, parts.collect(), story, &objects).await?;
        let stage = Self {
            flow,
            programs: story.parts,
        };
        stage.warm().await;
        Ok(stage)
    }

    /// Until the ingress answers for the way that every scenario has.
    async fn warm(&self) {
        let end = Instant::now() + READY;
        while Instant::now() < end {
            if self.ask("/ready", &[]).await.status == 200 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// One request through the ingress, on a connection of its own.
    pub(crate) async fn ask(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let began = Instant::now();
        let mut text =
            format!("GET {path} HTTP/1.1\r\nHost: scenario.example\r\nConnection: close\r\n");
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        let exchange = async {
            let mut stream = TcpStream::connect(self.flow.ingress).await?;
            stream.write_all(text.as_bytes()).await?;
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).await?;
            Ok::<_, std::io::Error>(String::from_utf8_lossy(&bytes).into_owned())
        };
        let text = match tokio::time::timeout(PATIENCE, exchange).await {
            Ok(Ok(text)) => text,
            Ok(Err(_)) | Err(_) => String::new(),
        };
        let head = text
            .split("\r\n\r\n")
            .next()
            .unwrap_or_default()
            .to_lowercase();
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
        Answer {
            status: status.unwrap_or(0),
            head,
            took: began.elapsed(),
        }
    }

    /// Many requests, `at_once` at a time.
    pub(crate) async fn many(
        &self,
        count: usize,
        at_once: usize,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Vec<Answer> {
        // Lanes that do not wait for each other: a slow answer holds up its own lane only.
        let left = Cell::new(count);
        let lane = async || {
            let mut answers = Vec::new();
            while let Some(next) = left.get().checked_sub(1) {
                left.set(next);
                answers.push(self.ask(path, headers).await);
            }
            answers
        };
        let lanes = futures_util::future::join_all((0..at_once).map(|_| lane())).await;
        lanes.into_iter().flatten().collect()
    }

    /// Has a workload of its own ask all of it, one after the other; the status of each by its id.
    pub(crate) async fn ask_as(&self, who: Caller, asks: &[Ask]) -> Outcome<BTreeMap<String, u16>> {
        let lines = self.flow.run_caller(who, asks).await?;
        let asked = lines
            .lines()
            .filter_map(|line| serde_json::from_str::<Asked>(line).ok());
        Ok(asked.map(|one| (one.id, one.status)).collect())
    }

    /// Another intermediate, of this life, by the root that is kept elsewhere.
    pub(crate) async fn sign_again(&self, life: Duration) -> Outcome {
        self.flow.sign_again(life).await
    }

    /// What `naka check` finds.
    pub(crate) async fn faults(&self) -> Outcome<Vec<Finding>> {
        check::faults(&mut self.flow.client().await?).await
    }

    /// A handshake with the control plane by somebody who verifies it; the words of a refusal.
    pub(crate) async fn handshake(&self) -> Result<(), String> {
        self.flow.handshake().await.map_err(|exit| exit.message)
    }

    /// Kills the sidecar of a program; whether another one came.
    pub(crate) async fn restart_sidecar(&self, stem: &str) -> bool {
        let run = self.flow.runs.iter().find(|run| run.part.stem() == stem);
        let sidecar = || run.and_then(Running::find_sidecar);
        let Some(pid) = sidecar() else {
            return false;
        };
        launch::signal(pid, Signal::KILL);
        let end = Instant::now() + READY;
        while Instant::now() < end {
            if sidecar().is_some_and(|new| new != pid) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }

    /// Id and verified caller of each request that a program served.
    pub(crate) fn seen(&self, stem: &str) -> Vec<(String, String)> {
        let word = |line: &Value, name: &str| line[name].as_str().unwrap_or_default().to_owned();
        let lines = self.lines(stem);
        lines
            .iter()
            .map(|line| (word(line, "served"), word(line, "peer")))
            .collect()
    }

    /// Requests each program says it served, by `service-version`; the probe of readiness reaches none.
    pub(crate) fn served(&self) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::new();
        for program in self.programs {
            let stem = format!("{}-{}", program.service, program.version);
            all.insert(
                stem.clone(),
                u64::try_from(self.lines(&stem).len()).unwrap_or(u64::MAX),
            );
        }
        all
    }

    /// The peer of each request that a program served, as its sidecar verified it; empty: none.
    pub(crate) fn peers(&self) -> Vec<String> {
        let stems = self
            .programs
            .iter()
            .map(|p| format!("{}-{}", p.service, p.version));
        let lines = stems.flat_map(|stem| self.lines(&stem));
        lines
            .map(|line| line["peer"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    fn lines(&self, stem: &str) -> Vec<Value> {
        let path = crate::demo::program::segment(&self.flow.logs(), stem, 0);
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines = text
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line.get("served").is_some()).collect()
    }

    /// Ends everything.
    pub(super) async fn end(self) {
        self.flow.end().await;
    }
}

/// Objects of a story, with the ingress's Gateway.
pub(super) fn decode(manifests: &str) -> Outcome<Vec<Object>> {
    let decoded = naka_api::decode_yaml("scenario.yaml", manifests.as_bytes(), Mode::Compat);
    match decoded.findings.iter().find(|finding| finding.is_error()) {
        Some(error) => Err(Exit::failed(error.to_string())),
        None => Ok(decoded.objects),
    }
}

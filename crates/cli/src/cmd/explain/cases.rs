//! Case files: manifests and requests with the verdict each must get, through the same walk as `naka explain`.
//!
//! `cases/<area>/<name>.yaml`; its first document is the case, the others are manifests. `docs/tasks/case.md` explains
//! the form. A request with several possible clusters is asked often enough that every one with a weight of 5 % or more
//! is seen, so `to:` is the exact set of them.
//!
//! Every case holds requests with different verdicts, and each is held against the others' verdicts: one that would
//! accept any of them shows nothing and fails.

use super::request::{self, Asked, Explained};
use super::world;
use crate::args::{Args, Command};
use clap::Parser;
use naka_api::{Decoded, Mode};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

mod proofs;

/// Often enough for a share of 5 %: it is missed with a probability of 10⁻⁹.
const DRAWS: usize = 400;
/// Draws of a request that may go to one cluster only.
const FEW: usize = 4;
/// The issue asks for this many.
const LEAST: usize = 25;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// What it shows.
    about: String,
    /// Manifests of other files, relative to `cases/`.
    #[serde(default)]
    files: Vec<String>,
    /// Namespace of manifests and callers that name none.
    #[serde(default = "default_namespace")]
    namespace: String,
    requests: Vec<Wanted>,
}

fn default_namespace() -> String {
    "default".to_owned()
}

/// A request and what must come of it. Whatever is left out is not looked at.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    request: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// Namespace of the caller, if not the case's.
    namespace: Option<String>,
    /// How the tries end.
    #[serde(default)]
    answers: Vec<String>,
    #[serde(flatten)]
    verdict: Verdict,
}

#[derive(Debug, Clone, Deserialize, Default)]
struct Verdict {
    /// The exact set of clusters the request may go to.
    #[serde(default)]
    to: BTreeSet<String>,
    /// Status and reason, `503 unknown-cluster`, or `outside`.
    reply: Option<String>,
    /// What the endpoint sees: `target`, `authority`, `headers` (null: absent).
    #[serde(default)]
    sends: Value,
    /// Headers of the answer (null: absent).
    #[serde(default)]
    answer_headers: BTreeMap<String, Option<String>>,
    timeout: Option<String>,
    per_try_timeout: Option<String>,
    /// How many tries.
    tries: Option<usize>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("crates/cli lies two levels deep")
        .join("cases")
}

/// Case files below `cases/`, without the manifests of `cases/seeds`.
fn files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for area in std::fs::read_dir(root()).expect("cases").flatten() {
        if area.file_name() == "seeds" || area.file_name() == "istio-crds" || !area.path().is_dir()
        {
            continue;
        }
        let inside = std::fs::read_dir(area.path()).expect("an area");
        found.extend(inside.flatten().map(|entry| entry.path()));
    }
    found.sort();
    found
}

fn read(path: &Path) -> (Case, Decoded) {
    let text = std::fs::read_to_string(path).expect("a case file");
    let name = path.display().to_string();
    let (head, manifests) = text.split_once("\n---\n").unwrap_or((&text, ""));
    let case: Case = serde_saphyr::from_str(head).unwrap_or_else(|error| panic!("{name}: {error}"));
    let decode = |name: &str, bytes: &[u8]| {
        naka_api::decode_yaml_in(name, bytes, Mode::Compat, &case.namespace)
    };
    let mut all = decode(&name, manifests.as_bytes());
    for file in &case.files {
        let bytes = std::fs::read(root().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        all.append(decode(file, &bytes));
    }
    (case, all)
}

impl Wanted {
    /// Asks, by the command line that a user would type, until every destination must have been seen.
    fn outcomes(&self, case: &Case, decoded: &Decoded) -> Vec<Explained> {
        let mut line = vec!["naka".to_owned(), "explain".to_owned()];
        line.extend(self.request.split(' ').map(str::to_owned));
        for (name, value) in &self.headers {
            line.extend(["-H".to_owned(), format!("{name}: {value}")]);
        }
        for answer in &self.answers {
            line.extend(["--answer".to_owned(), answer.clone()]);
        }
        let namespace = self.namespace.as_ref().unwrap_or(&case.namespace);
        line.extend(["-n".to_owned(), namespace.clone()]);
        let Ok(Args {
            command: Command::Explain(args),
            ..
        }) = Args::try_parse_from(&line)
        else {
            panic!("{line:?}");
        };
        let asked = Asked::read(&args).expect("a request");
        let world = world::of_objects(decoded.objects.clone(), namespace, &asked.host);
        let draws = if self.verdict.to.len() > 1 {
            DRAWS
        } else {
            FEW
        };
        (0..draws)
            .map(|_| request::explain(&world, &asked))
            .collect()
    }
}

fn headers_differ(wanted: &BTreeMap<String, Option<String>>, got: &Value) -> Option<String> {
    wanted.iter().find_map(|(name, value)| {
        let is = got[name].as_str();
        (is != value.as_deref()).then(|| format!("header {name} is {is:?}, not {value:?}"))
    })
}

impl Verdict {
    /// What is not as it should be.
    fn differs(&self, outcomes: &[Explained]) -> Option<String> {
        let clusters: BTreeSet<String> = outcomes
            .iter()
            .flat_map(|one| one.sent.iter().map(|sent| sent.cluster.clone()))
            .collect();
        if clusters != self.to {
            return Some(format!("goes to {clusters:?}"));
        }
        outcomes.iter().find_map(|one| self.one_differs(one))
    }

    fn one_differs(&self, one: &Explained) -> Option<String> {
        let got = one.got.as_ref().map(request::Got::to_json);
        let reply = match &got {
            None => "outside".to_owned(),
            Some(got) => format!(
                "{}{}{}",
                got["status"],
                got["reason"].as_str().map_or("", |_| " "),
                got["reason"].as_str().unwrap_or_default()
            ),
        };
        let unasked = self.reply.is_none() && self.to.is_empty();
        if self.reply.as_ref().is_some_and(|wanted| *wanted != reply) || unasked {
            return Some(format!("is answered with {reply}"));
        }
        let last = one.sent.last().map(request::Sent::to_json);
        let last = last.unwrap_or_default();
        for field in ["target", "authority"] {
            let wanted = &self.sends[field];
            if !wanted.is_null() && *wanted != last[field] {
                return Some(format!("{field} is {}", last[field]));
            }
        }
        for (field, wanted) in [
            ("timeout", &self.timeout),
            ("per_try_timeout", &self.per_try_timeout),
        ] {
            let is = last[field].as_str().unwrap_or("none");
            if wanted.as_ref().is_some_and(|wanted| wanted != is) {
                return Some(format!("{field} is {is}"));
            }
        }
        if self.tries.is_some_and(|tries| tries != one.sent.len()) {
            return Some(format!("is tried {} times", one.sent.len()));
        }
        let sent: BTreeMap<String, Option<String>> =
            serde_json::from_value(self.sends["headers"].clone()).unwrap_or_default();
        headers_differ(&sent, &last["headers"])
            .or_else(|| headers_differ(&self.answer_headers, &got.unwrap_or(json!({}))["headers"]))
    }
}

#[test]
fn every_request_of_every_case_gets_its_verdict_and_no_other() {
    let files = files();
    assert!(files.len() >= LEAST, "{} cases", files.len());
    let mut wrong = Vec::new();
    for path in files {
        let (case, decoded) = read(&path);
        let name = path.strip_prefix(root()).unwrap_or(&path).display();
        if case.about.is_empty() || case.requests.len() < 2 {
            wrong.push(format!(
                "{name}: a case says what it is about and has two requests"
            ));
        }
        let asked: Vec<Vec<Explained>> = case
            .requests
            .iter()
            .map(|wanted| wanted.outcomes(&case, &decoded))
            .collect();
        for (index, wanted) in case.requests.iter().enumerate() {
            if let Some(why) = wanted.verdict.differs(&asked[index]) {
                let trail = asked[index][0].trail.iter().map(ToString::to_string);
                let trail = trail.collect::<Vec<_>>().join("\n    ");
                wrong.push(format!("{name}: {}: {why}\n    {trail}", wanted.request));
            }
            let told_apart = asked
                .iter()
                .any(|other| wanted.verdict.differs(other).is_some());
            if !told_apart {
                wrong.push(format!(
                    "{name}: {}: its verdict fits every request of the case, so it shows nothing",
                    wanted.request
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// The words of a case are checked: a misspelt one is an error, not an expectation that is never looked at.
#[test]
fn a_verdict_with_a_misspelt_word_is_refused() {
    let case = |word: &str| {
        serde_saphyr::from_str::<Case>(&format!(
            "about: x\nrequests:\n- {{request: GET http://a/, {word}: 503 no-route}}\n"
        ))
    };
    assert!(case("reply").is_ok());
    assert!(case("repyl").is_err());
}

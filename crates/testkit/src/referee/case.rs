//! The form of a case file: a head document, then manifests. `docs/tasks/case.md` explains every word.
//!
//! Words are checked: a misspelt one is an error, never an expectation that nobody looks at. The head never holds what
//! a manifest can say.

use anyhow::{Context, Result, bail};
use naka_api::{Decoded, Mode};
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Directories below `cases/` that hold no cases.
const NO_CASES: &[&str] = &["seeds", "istio-crds"];

/// The head of a case file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What it shows.
    pub about: String,
    /// Manifests of other files, relative to `cases/`.
    #[serde(default)]
    pub files: Vec<String>,
    /// Namespace of manifests and callers that name none.
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// Who calls, when it matters.
    #[serde(default)]
    pub caller: Caller,
    /// Endpoints of services, instead of one healthy one for each service and subset.
    #[serde(default)]
    pub topology: BTreeMap<String, Vec<Server>>,
    /// Servers that no service of the mesh stands before; manifests name them as `${NAME.address}` and `${NAME.port}`.
    #[serde(default)]
    pub servers: BTreeMap<String, Server>,
    /// `not expressible: FEATURE`, a line of `cases/not-expressible.txt`: an Envoy cannot do this.
    pub envoy: Option<String>,
    /// What is asked.
    pub requests: Vec<Wanted>,
}

/// Who calls.
#[derive(Debug, Clone, Default, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(deny_unknown_fields)]
pub struct Caller {
    /// Labels of the calling workload.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// `gateway`: requests come from outside, to a gateway with the labels `istio: ingressgateway`.
    #[serde(default)]
    pub via: Via,
}

/// Which way requests come in.
#[derive(Debug, Clone, Copy, Default, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum Via {
    /// From a program with a sidecar.
    #[default]
    Sidecar,
    /// From outside, through a gateway.
    Gateway,
}

/// An endpoint and what it does.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// How verdicts call it.
    pub name: String,
    /// Labels, which subsets select by.
    pub labels: BTreeMap<String, String>,
    /// Share among the endpoints.
    pub weight: Option<u32>,
    /// `region/zone/subzone`.
    pub locality: Option<String>,
    /// Status of its answers.
    pub status: u16,
    /// How long it takes over an answer.
    #[serde(deserialize_with = "optional_time")]
    pub delay: Option<std::time::Duration>,
    /// Headers of its answers.
    pub headers: BTreeMap<String, String>,
    /// Body of its answers.
    pub body: String,
    /// Nobody listens at its address.
    pub refused: bool,
    /// Breaks the connection instead of answering.
    pub reset: bool,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            name: String::new(),
            labels: BTreeMap::new(),
            weight: None,
            locality: None,
            status: 200,
            delay: None,
            headers: BTreeMap::new(),
            body: String::new(),
            refused: false,
            reset: false,
        }
    }
}

/// A request and what must come of it. Whatever is left out is not looked at.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// Method and address.
    pub request: String,
    /// Headers of the request.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Body of the request.
    #[serde(default)]
    pub body: String,
    /// Moment of the decision; proxies have a clock of their own, so only explain is asked.
    pub moment: Option<String>,
    /// Service that calls; the lanes' callers have names of their own, so only explain is asked.
    pub from: Option<String>,
    /// Namespace of the caller, if not the case's.
    pub namespace: Option<String>,
    /// How the tries end, in order: a status, `connect-failed`, `reset`; after the last as the endpoint does.
    #[serde(default)]
    pub answers: Vec<String>,
    /// How often it is asked; unless given, as often as the verdict needs.
    pub times: Option<usize>,
    /// `false`: what it shows lies beyond what `naka explain` looks at, so only proxies are asked.
    #[serde(default = "yes")]
    pub explain: bool,
    /// What must come of it.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// What must come of a request.
#[derive(Debug, Clone, Deserialize, Default)]
pub struct Verdict {
    /// The exact set of clusters it may go to.
    #[serde(default)]
    pub to: BTreeSet<String>,
    /// The exact set of named endpoints it may go to.
    #[serde(default)]
    pub at: BTreeSet<String>,
    /// Percent of the requests by cluster or named endpoint.
    #[serde(default)]
    pub shares: BTreeMap<String, f64>,
    /// Status and reason, `503 unknown-cluster`, or `outside`.
    pub reply: Option<String>,
    /// What the endpoint sees: `target`, `authority`, `method`, `headers` (null: absent).
    #[serde(default)]
    pub sends: Value,
    /// Headers of the answer (null: absent).
    #[serde(default)]
    pub answer_headers: BTreeMap<String, Option<String>>,
    /// Body of the answer.
    pub answer_body: Option<String>,
    /// Time for the whole call; `none`.
    pub timeout: Option<String>,
    /// Time for each try; `none`.
    pub per_try_timeout: Option<String>,
    /// How many tries.
    pub tries: Option<usize>,
    /// The answer comes within this time.
    #[serde(default, deserialize_with = "optional_time")]
    pub within: Option<std::time::Duration>,
    /// The answer takes at least this long.
    #[serde(default, deserialize_with = "optional_time")]
    pub after: Option<std::time::Duration>,
}

fn yes() -> bool {
    true
}

fn default_namespace() -> String {
    "default".to_owned()
}

fn optional_time<'de, D: serde::Deserializer<'de>>(
    from: D,
) -> Result<Option<std::time::Duration>, D::Error> {
    let text = String::deserialize(from)?;
    let time = naka_types::duration::parse(&text).map_err(serde::de::Error::custom)?;
    Ok(Some(time))
}

/// A case with its manifests, before they are decoded.
#[derive(Debug, Clone)]
pub struct File {
    /// Path below `cases/`.
    pub name: String,
    /// The head.
    pub case: Case,
    /// Name and text of its manifests, as written.
    pub manifests: Vec<(String, String)>,
}

/// The directory of the cases.
#[must_use]
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors()
        .nth(2)
        .map(|tree| tree.join("cases"))
        .unwrap_or_default()
}

/// Paths of all case files, sorted.
///
/// # Errors
/// When the directory cannot be read.
pub fn paths() -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for area in std::fs::read_dir(root()).context("cases")? {
        let area = area?;
        let none = NO_CASES.iter().any(|name| area.file_name() == *name);
        if none || !area.path().is_dir() {
            continue;
        }
        for entry in std::fs::read_dir(area.path())? {
            found.push(entry?.path());
        }
    }
    found.sort();
    Ok(found)
}

impl File {
    /// Reads a case file.
    ///
    /// # Errors
    /// When it is no case.
    pub fn read(path: &Path) -> Result<Self> {
        let name = path
            .strip_prefix(root())
            .unwrap_or(path)
            .display()
            .to_string();
        let text = std::fs::read_to_string(path).with_context(|| name.clone())?;
        Self::parse(&name, &text)
    }

    /// Reads the text of a case.
    ///
    /// # Errors
    /// When it is no case.
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let (head, own) = text.split_once("\n---\n").unwrap_or((text, ""));
        let case: Case =
            serde_saphyr::from_str(head).map_err(|e| anyhow::anyhow!("{name}: {e}"))?;
        if case.about.is_empty() || case.requests.len() < 2 {
            bail!("{name}: a case says what it is about and has two requests");
        }
        let mut manifests = vec![(name.to_owned(), own.to_owned())];
        for file in &case.files {
            let text = std::fs::read_to_string(root().join(file)).with_context(|| file.clone())?;
            manifests.push((file.clone(), text));
        }
        Ok(Self {
            name: name.to_owned(),
            case,
            manifests,
        })
    }

    /// Its manifests with the addresses of its servers in place.
    #[must_use]
    pub fn filled(
        &self,
        address: impl Fn(&str) -> Option<std::net::SocketAddr>,
    ) -> Vec<(String, String)> {
        let mut all = self.manifests.clone();
        for name in self.case.servers.keys() {
            let Some(at) = address(name) else { continue };
            for (_, text) in &mut all {
                *text = text
                    .replace(&format!("${{{name}.address}}"), &at.ip().to_string())
                    .replace(&format!("${{{name}.port}}"), &at.port().to_string());
            }
        }
        all
    }

    /// The objects of manifests.
    #[must_use]
    pub fn decode(&self, manifests: &[(String, String)]) -> Decoded {
        let mut all: Option<Decoded> = None;
        for (name, text) in manifests {
            let one =
                naka_api::decode_yaml_in(name, text.as_bytes(), Mode::Compat, &self.case.namespace);
            match &mut all {
                Some(all) => all.append(one),
                None => all = Some(one),
            }
        }
        all.unwrap_or_default()
    }

    /// Namespace a request comes from.
    #[must_use]
    pub fn namespace<'a>(&'a self, wanted: &'a Wanted) -> &'a str {
        wanted.namespace.as_deref().unwrap_or(&self.case.namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::File;

    /// A misspelt word is an error, not an expectation that is never looked at.
    #[test]
    fn a_verdict_with_a_misspelt_word_is_refused() {
        let case = |word: &str| {
            let line = format!("- {{request: GET http://a/, {word}: 503 no-route}}\n");
            File::parse("x", &format!("about: x\nrequests:\n{line}{line}"))
        };
        assert!(case("reply").is_ok());
        assert!(case("repyl").is_err());
    }
}

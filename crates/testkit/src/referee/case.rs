//! The form of a case file: a head document, then manifests. `docs/tasks/case.md` explains every word.
//!
//! Words are checked: a misspelt one is an error, never an expectation that nobody looks at. The head never holds what
//! a manifest can say.

use super::certs::Certs;
use anyhow::{Context, Result, bail};
use naka_api::{Decoded, Mode};
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
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
    /// Certificates to be made; manifests name them as `${NAME.crt}` and `${NAME.key}`.
    #[serde(default)]
    pub certs: BTreeMap<String, Certificate>,
    /// Changes of its objects, each of which must change a verdict at Naka's proxies.
    #[serde(default)]
    pub twins: Vec<Twin>,
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
    /// `gateway`: requests come from outside, to a gateway with the labels `istio: ingressgateway` and
    /// `gateway.networking.k8s.io/gateway-name: edge`.
    #[serde(default)]
    pub via: Via,
}

/// A change that must change a verdict: an object gone, or a field left out and given other values.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Twin {
    /// `Kind/name` of the object.
    pub of: String,
    /// Path of the field, as in `docs/reference/fields.md`, wherever it stands in the object; without it the object goes.
    pub path: Option<String>,
    /// Other values, each of which must change a verdict, too.
    #[serde(default)]
    pub values: Vec<Value>,
}

/// A certificate to be made.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// DNS names.
    pub names: Vec<String>,
    /// `ca` unless given, or `stranger`.
    pub authority: Option<String>,
}

/// How a client does TLS.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// Name it asks for, if not the address's; empty: none.
    pub sni: Option<String>,
    /// Certificate that it shows.
    pub cert: Option<String>,
    /// The only version it speaks: `1.2`, `1.3`.
    pub version: Option<String>,
    /// Protocols it offers.
    pub alpn: Vec<String>,
    /// Key exchanges it has, by Envoy's names; none: those of its library.
    pub curves: Vec<String>,
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
    /// Speaks bytes, not HTTP: says `greeting`, then sends each line back.
    pub tcp: bool,
    /// What it says first.
    pub greeting: String,
    /// Takes only connections that begin with a PROXY header.
    pub proxied: bool,
    /// Its certificate; without one it speaks no TLS.
    pub cert: Option<String>,
    /// Of `servers`: it is the program of a workload of this service, behind a sidecar of its own.
    pub behind: Option<String>,
    /// Of `servers`: it listens at a Unix socket, `${NAME.socket}`.
    pub socket: bool,
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
            tcp: false,
            greeting: String::new(),
            proxied: false,
            cert: None,
            behind: None,
            socket: false,
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
    /// Server behind a sidecar whose port is called from outside the mesh.
    pub direct: Option<String>,
    /// TLS of the client, for `https` and `tls`.
    pub tls: Option<Tls>,
    /// `2`: HTTP/2 without asking.
    pub http: Option<String>,
    /// Bytes sent before everything else.
    #[serde(default)]
    pub preamble: String,
    /// Of `tcp` and `tls`: the client waits until the server has spoken.
    #[serde(default)]
    pub server_first: bool,
    /// Namespace of the caller, if not the case's.
    pub namespace: Option<String>,
    /// How the tries end, in order: a status (with a header: `200 grpc-status: 14`), `connect-failed`,
    /// `refused-stream`, `reset`; after the last as the endpoint does.
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
    /// All requests go to one endpoint, whichever that is: the same one from Naka's proxies and from an Envoy.
    #[serde(default)]
    pub sticky: bool,
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
    /// Certificate that is shown to the client.
    pub certificate: Option<String>,
    /// Protocol agreed upon in TLS.
    pub alpn: Option<String>,
    /// Time for the whole call; `none`.
    pub timeout: Option<String>,
    /// Time for each try; `none`.
    pub per_try_timeout: Option<String>,
    /// How many tries.
    pub tries: Option<usize>,
    /// The exact set of clusters that get a copy.
    pub mirrored: Option<BTreeSet<String>>,
    /// The answer comes within this time.
    #[serde(default, deserialize_with = "optional_time")]
    pub within: Option<std::time::Duration>,
    /// The answer takes at least this long.
    #[serde(default, deserialize_with = "optional_time")]
    pub after: Option<std::time::Duration>,
}

impl Wanted {
    /// Its method.
    #[must_use]
    pub fn method(&self) -> &str {
        self.request
            .split_once(' ')
            .map_or("GET", |(method, _)| method)
    }

    /// Its address.
    ///
    /// # Errors
    /// When it has none.
    pub fn uri(&self) -> Result<http::Uri> {
        let url = self.request.rsplit(' ').next().unwrap_or_default();
        url.parse().with_context(|| self.request.clone())
    }

    /// Whether `naka explain` has something to say of it.
    #[must_use]
    pub fn explained(&self, via: Via) -> bool {
        let scheme = self.uri().ok();
        let scheme = scheme.as_ref().and_then(http::Uri::scheme_str);
        self.explain
            && self.direct.is_none()
            && match via {
                Via::Sidecar => scheme == Some("http"),
                Via::Gateway => matches!(scheme, Some("http" | "https")),
            }
    }
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

    /// Its manifests with certificates and the addresses of its servers in place.
    #[must_use]
    pub fn filled(
        &self,
        certs: &Certs,
        address: impl Fn(&str) -> Option<SocketAddr>,
        socket: impl Fn(&str) -> String,
    ) -> Vec<(String, String)> {
        let mut all = self.manifests.clone();
        for (_, text) in &mut all {
            *text = certs.fill(text);
        }
        for name in self.case.servers.keys() {
            let Some(at) = address(name) else { continue };
            for (_, text) in &mut all {
                *text = text
                    .replace(&format!("${{{name}.address}}"), &at.ip().to_string())
                    .replace(&format!("${{{name}.port}}"), &at.port().to_string())
                    .replace(&format!("${{{name}.socket}}"), &socket(name));
            }
        }
        all
    }

    /// The objects of its manifests where no server runs.
    ///
    /// # Errors
    /// When its certificates cannot be made.
    pub fn objects(&self) -> Result<Decoded> {
        let nobody = SocketAddr::from(([127, 0, 0, 1], 9));
        let certs = Certs::new(&self.case)?;
        Ok(self.decode(&self.filled(&certs, |_| Some(nobody), |name| format!("/{name}"))))
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

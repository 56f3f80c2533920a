//! What goes into a support bundle, and from where. Whatever cannot be had is named in the bundle instead.
//!
//! Private keys and saved certificates are never opened: `identity.pem`, `ca/` and the log of events (which holds
//! sealed Secrets) stay where they are. Logs are read from their end, a bounded part of each.

use super::redact::Redactor;
use crate::client::{Client, ask_socket};
use crate::contexts::Contexts;
use crate::home::Home;
use http::Method;
use serde_json::{Map, Value, json};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

/// The most that is read of one log.
const LOG_TAIL: u64 = 4 * 1024 * 1024;
/// The most of one answer that is kept.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// Questions to the control plane: file in the bundle, path.
const QUESTIONS: &[(&str, &str)] = &[
    ("mesh/version.json", "/version"),
    ("mesh/health.json", "/healthz"),
    ("mesh/mesh.json", "/naka/v1/mesh"),
    ("mesh/status.json", "/naka/v1/status"),
    ("mesh/proxies.json", "/naka/v1/proxies"),
    ("mesh/workloads.json", "/naka/v1/workloads"),
    ("mesh/edges.json", "/naka/v1/edges"),
    ("mesh/events.json", "/naka/v1/events?limit=500"),
    ("mesh/world.json", "/naka/v1/world"),
    ("mesh/tokens.json", "/naka/v1/tokens"),
];
/// Pages of a proxy's admin socket.
const PAGES: &[&str] = &[
    "ready?serving=1",
    "server_info",
    "addresses",
    "config_dump",
    "clusters",
    "certs",
    "memory",
    "stats/prometheus",
];
/// Files of the machine that say where we run.
const FACTS: &[&str] = &[
    "/etc/os-release",
    "/proc/version",
    "/proc/meminfo",
    "/proc/loadavg",
    "/proc/self/limits",
    "/proc/self/cgroup",
    "/proc/sys/user/max_user_namespaces",
    "/proc/sys/kernel/unprivileged_userns_clone",
    "/proc/sys/net/ipv4/ip_unprivileged_port_start",
    "/etc/resolv.conf",
];

/// The files of a bundle, as they will stand in it.
#[derive(Debug, Default)]
pub(super) struct Bundle {
    /// Name and content.
    pub(super) files: Vec<(String, Vec<u8>)>,
    /// What could not be had.
    pub(super) missing: Vec<String>,
}

impl Bundle {
    fn json(&mut self, redact: &Redactor, name: &str, value: &Value) {
        let mut text = serde_json::to_string_pretty(&redact.json(value)).unwrap_or_default();
        text.push('\n');
        self.files.push((name.to_owned(), text.into_bytes()));
    }

    fn text(&mut self, redact: &Redactor, name: &str, text: &str) {
        let lines: Vec<String> = text.lines().map(|line| redact.line(line)).collect();
        // Once more as a whole: a key may go over several lines.
        let whole = redact.text(&(lines.join("\n") + "\n"));
        self.files.push((name.to_owned(), whole.into_bytes()));
    }

    fn lacks(&mut self, name: &str, why: impl std::fmt::Display) {
        self.missing.push(format!("{name}: {why}"));
    }
}

/// Learns what is secret from the files that hold secrets.
pub(super) fn learn(home: &Home, redact: &mut Redactor) {
    let mut learn = |path: &Path| {
        if let Some(value) = std::fs::read_to_string(path)
            .ok()
            .and_then(|text| serde_saphyr::from_str::<Value>(&text).ok())
        {
            redact.learn(&value);
        }
    };
    learn(&home.config());
    for dir in dirs(&home.runs()) {
        learn(&dir.join("settings.json"));
    }
    for (name, value) in std::env::vars() {
        if super::redact::speaks_of_a_secret(&name) {
            redact.know(&value);
        }
    }
}

/// Facts about this machine and this process.
pub(super) fn machine(bundle: &mut Bundle, redact: &Redactor) {
    let variables: Map<String, Value> = std::env::vars()
        .map(|(name, value)| {
            let value = redact.variable(&name, &value);
            (name, Value::from(value))
        })
        .collect();
    bundle.files.push((
        "environment.json".to_owned(),
        format!("{:#}\n", Value::Object(variables)).into_bytes(),
    ));
    for path in FACTS {
        match std::fs::read_to_string(path) {
            Ok(text) => bundle.text(redact, &format!("machine{path}"), &text),
            Err(error) => bundle.lacks(path, error),
        }
    }
    let version = json!({
        "naka": env!("CARGO_PKG_VERSION"),
        "binary": std::env::current_exe().ok(),
        "cores": std::thread::available_parallelism().map(std::num::NonZero::get).ok(),
        "uid": rustix::process::getuid().as_raw(),
    });
    bundle.json(redact, "version.json", &version);
}

/// What the control plane says.
pub(super) async fn mesh(
    bundle: &mut Bundle,
    redact: &Redactor,
    home: &Home,
    context: Option<&str>,
) {
    match std::fs::read_to_string(home.config()) {
        Ok(text) => match serde_saphyr::from_str::<Value>(&text) {
            Ok(value) => bundle.json(redact, "contexts.json", &value),
            Err(error) => bundle.lacks("contexts.json", error),
        },
        Err(error) => bundle.lacks("contexts.json", error),
    }
    let chosen = Contexts::open(home).and_then(|contexts| contexts.choose(context));
    let client = match chosen {
        Ok(context) => Client::connect(context).await,
        Err(exit) => Err(exit),
    };
    let mut client = match client {
        Ok(client) => client,
        Err(exit) => return bundle.lacks("mesh", exit),
    };
    for (name, path) in QUESTIONS {
        match tokio::time::timeout(ANSWERS_WITHIN, client.get(path)).await {
            Ok(Ok(value)) => bundle.json(redact, name, &value),
            Ok(Err(exit)) => bundle.lacks(name, exit),
            Err(_) => return bundle.lacks(name, "no answer within 10 s"),
        }
    }
    // Metrics of the control plane, on its own port of this machine.
    for dir in dirs(&home.runs().with_file_name("mesh")) {
        let mesh = name_of(&dir);
        match metrics(&dir).await {
            Ok(text) => bundle.text(redact, &format!("mesh/{mesh}/metrics.txt"), &text),
            Err(why) => bundle.lacks(&format!("mesh/{mesh}/metrics.txt"), why),
        }
    }
}

async fn metrics(dir: &Path) -> Result<String, String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let ports = std::fs::read(dir.join("ports.json")).map_err(|error| error.to_string())?;
    let ports: Value = serde_json::from_slice(&ports).map_err(|error| error.to_string())?;
    let port = ports.get("metrics").and_then(Value::as_u64).unwrap_or(0);
    let port = u16::try_from(port).map_err(|error| error.to_string())?;
    let ask = async {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
        stream
            .write_all(b"GET /metrics HTTP/1.0\r\nhost: localhost\r\n\r\n")
            .await?;
        let mut text = String::new();
        stream.take(LOG_TAIL).read_to_string(&mut text).await?;
        Ok::<_, std::io::Error>(text)
    };
    match tokio::time::timeout(ANSWERS_WITHIN, ask).await {
        Ok(Ok(text)) => Ok(text),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer within 10 s".to_owned()),
    }
}

/// The proxies of this machine: what they say and what they wrote.
pub(super) async fn proxies(bundle: &mut Bundle, redact: &Redactor, home: &Home, lines: usize) {
    for dir in dirs(&home.runs()) {
        let run = name_of(&dir);
        let socket = dir.join("admin.sock");
        for page in PAGES {
            let name = format!(
                "run/{run}/{}",
                page.split('?').next().unwrap_or(page).replace('/', "_")
            );
            let path = format!("/{page}");
            let asked = ask_socket(&socket, Method::GET, &path, None);
            match tokio::time::timeout(ANSWERS_WITHIN, asked).await {
                Ok(Ok(answer)) => match answer.body {
                    Value::String(text) => bundle.text(redact, &format!("{name}.txt"), &text),
                    value => bundle.json(redact, &format!("{name}.json"), &value),
                },
                Ok(Err(exit)) => {
                    bundle.lacks(&format!("run/{run}"), exit);
                    break;
                }
                Err(_) => {
                    bundle.lacks(&name, "no answer within 10 s");
                    break;
                }
            }
        }
        if let Some(settings) = std::fs::read(dir.join("settings.json"))
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok())
        {
            bundle.json(redact, &format!("run/{run}/settings.json"), &settings);
        }
        for log in ["proxy.log", "access.log"] {
            tail(
                bundle,
                redact,
                &dir.join(log),
                &format!("run/{run}/{log}"),
                lines,
            );
        }
    }
    for dir in dirs(&home.runs().with_file_name("mesh")) {
        let name = format!("mesh/{}/control.log", name_of(&dir));
        tail(bundle, redact, &dir.join("control.log"), &name, lines);
    }
}

fn tail(bundle: &mut Bundle, redact: &Redactor, path: &Path, name: &str, lines: usize) {
    let read = || -> std::io::Result<String> {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match read() {
        Ok(text) => {
            let all: Vec<&str> = text.lines().collect();
            let last = all
                .get(all.len().saturating_sub(lines)..)
                .unwrap_or_default();
            bundle.text(redact, name, &last.join("\n"));
        }
        // Not every instance has every log.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => bundle.lacks(name, error),
    }
}

fn dirs(parent: &Path) -> Vec<std::path::PathBuf> {
    let mut all: Vec<_> = std::fs::read_dir(parent)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect();
    all.sort();
    all
}

fn name_of(dir: &Path) -> String {
    dir.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

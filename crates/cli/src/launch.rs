//! Everything around one proxy process that is not the proxy: its instance, its settings, its start, its end.
//!
//! `naka run`, `naka proxy gateway` and the demo all come through here. The parent takes the instance's lock and hands
//! it to the proxy as standard input, so that the instance stays taken for exactly as long as one of the two lives.
//!
//! Not here: the program beside the sidecar ([`crate::cmd::run`]).

pub(crate) mod bypass;
pub(crate) mod capture;
pub(crate) mod door;
pub(crate) mod environment;
pub(crate) mod hints;
pub(crate) mod inbound;
pub(crate) mod instance;
pub(crate) mod listening;

use crate::client::{Client, ask_socket};
use crate::cmd::token;
use crate::contexts::{Context, Contexts};
use crate::credential;
use crate::exit::{Exit, Outcome};
use crate::home::{Home, write_secret};
use crate::namespace;
use crate::out;
use http::Method;
use instance::Instance;
use naka_proxy::settings::{Capture, Settings};
use naka_types::token::Token;
use serde_json::{Map, Value, json};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Name of the context that a join token alone makes.
const JOINED: &str = "joined";
/// A proxy that is not ready by then will not be.
const READY_WITHIN: Duration = Duration::from_secs(15);
/// Time for a control plane that is connected to take or refuse a registration.
const ADMITTED_WITHIN: Duration = Duration::from_secs(1);
/// Time for a control plane that refuses to change its mind, or for one that is starting to answer.
const REFUSED_WITHIN: Duration = Duration::from_secs(3);
/// A proxy that does not answer a question of its own machine within this time is not alive.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// The longest a drain may take: the proxy's own limit and some.
const DRAIN_WITHIN: Duration = Duration::from_secs(25);
/// A proxy that was told to end and has not by then is killed.
const QUIT_WITHIN: Duration = Duration::from_secs(5);

/// Role of a process that joins a proxy that is not ours.
pub(crate) const AGENT: &str = "agent";

/// Who a workload is.
#[derive(Debug, Clone)]
pub(crate) struct Who {
    /// Namespace.
    pub(crate) namespace: String,
    /// Service; none for a client only.
    pub(crate) service: Option<String>,
    /// Service account.
    pub(crate) account: String,
    /// Labels.
    pub(crate) labels: Map<String, Value>,
    /// The program's file, where it is found.
    pub(crate) program: Option<PathBuf>,
}

impl Who {
    /// Name of the instances of this workload, such as `payment-v2`.
    pub(crate) fn stem(&self) -> String {
        let name = self.service.as_ref().unwrap_or(&self.account);
        match self.labels.get("version").and_then(Value::as_str) {
            Some(version) if self.service.is_some() => format!("{name}-{version}"),
            _ => name.clone(),
        }
    }
}

/// A running proxy process.
#[derive(Debug)]
pub(crate) struct Proxy {
    child: Child,
    instance: Instance,
    settings: PathBuf,
    role: &'static str,
    /// Whether it keeps what marking its sockets takes.
    marks: bool,
    started: Instant,
    /// What setting the program's namespace up took, when it has one.
    captured_in: Option<Duration>,
}

/// The join token of the command line, else of the service manager.
pub(crate) fn given_token(argument: Option<&str>) -> Outcome<Option<String>> {
    match argument {
        Some(token) => Ok(Some(token.to_owned())),
        None => credential::read(credential::JOIN_TOKEN),
    }
}

/// The mesh to join: of the context, or of the token where there is no context of that mesh. The latter is kept as a
/// context, so that a later start without the token knows its mesh.
pub(crate) fn context(home: &Home, name: Option<&str>, token: Option<&str>) -> Outcome<Context> {
    let mut contexts = Contexts::open(home)?;
    let chosen = contexts.choose(name);
    let Some(token) = token else { return chosen };
    let token =
        Token::parse(token).map_err(|error| Exit::failed(format!("join token: {error}")))?;
    match chosen {
        Ok(context) if context.root_sha256 == token.ca_sha256 => Ok(context),
        Ok(context) if name.is_some() => Err(Exit::failed(format!(
            "the join token is of another mesh than context {}",
            context.name
        ))),
        _ => {
            let context = Context {
                name: JOINED.to_owned(),
                mesh: JOINED.to_owned(),
                root_sha256: token.ca_sha256,
                xds: token.addresses,
                ..Context::default()
            };
            contexts.put(&context);
            contexts.make_current(JOINED);
            contexts.save()?;
            Ok(context)
        }
    }
}

/// Fills in what the mesh knows: addresses of the control plane and a one-use token, when it can be had.
///
/// Without a control plane a saved identity is enough; without that there is no way in.
pub(crate) async fn admit(
    settings: &mut Settings,
    who: &Who,
    context: &Context,
    given_token: Option<&str>,
) -> Outcome {
    settings.control.addresses.clone_from(&context.xds);
    settings.control.socket.clone_from(&context.socket);
    if let Some(token) = given_token.or(context.join_token.as_deref()) {
        settings.control.token = Some(token.to_owned());
        if let (true, Ok(token)) = (settings.control.addresses.is_empty(), Token::parse(token)) {
            settings.control.addresses = token.addresses;
        }
        return Ok(());
    }
    match one_use_token(who, context).await {
        Ok((token, xds)) => {
            settings.control.token = Some(token);
            if !xds.is_empty() {
                settings.control.addresses = xds;
            }
            Ok(())
        }
        Err(_) if settings.run_dir.join("identity.pem").exists() => Ok(()),
        Err(error) => Err(error),
    }
}

async fn one_use_token(who: &Who, context: &Context) -> Outcome<(String, Vec<String>)> {
    let mut client = Client::connect(context.clone()).await?;
    let services: Vec<String> = who.service.iter().cloned().collect();
    let mut body = token::join(
        &who.namespace,
        &who.account,
        &services,
        who.labels.clone(),
        1,
        3600,
    );
    // A control plane on this machine may ask what is run; one elsewhere cannot look.
    if let (Some(program), Some(_)) = (&who.program, &context.socket) {
        body["program"] = json!(program);
    }
    let answer = client.post("/naka/v1/tokens", &body).await?;
    let token = answer
        .get("token")
        .and_then(Value::as_str)
        .ok_or_else(|| Exit::failed("the control plane gave no token"))?;
    let xds = naka_types::token::Token::parse(token)
        .map(|token| token.addresses)
        .unwrap_or_default();
    Ok((token.to_owned(), xds))
}

impl Proxy {
    /// Writes the settings and starts the proxy as its own process.
    pub(crate) fn start(
        role: &'static str,
        settings: &Settings,
        instance: Instance,
    ) -> Outcome<Self> {
        let path = instance.dir.join("settings.json");
        write_settings(&path, settings)?;
        let started = Instant::now();
        let marks = matches!(settings.capture, Some(Capture::Host(_)));
        let child = spawn(role, marks, &path, &instance)?;
        Ok(Self {
            marks,
            child,
            instance,
            settings: path,
            role,
            started,
            captured_in: None,
        })
    }

    /// What it was started with.
    pub(crate) fn settings(&self) -> Outcome<Settings> {
        let bytes = std::fs::read(&self.settings)?;
        serde_json::from_slice(&bytes)
            .map_err(|error| Exit::failed(format!("{}: {error}", self.settings.display())))
    }

    /// Notes what its program's namespace took to set up, for reports.
    pub(crate) fn captured_in(&mut self, took: Duration) {
        self.captured_in = Some(took);
    }

    /// Starts it again after it ended, as the same instance. Where this machine has lost the address that others dial,
    /// it gets another one.
    pub(crate) fn restart(&mut self) -> Outcome {
        let mut settings = self.settings()?;
        if inbound::renew(&mut settings)? {
            write_settings(&self.settings, &settings)?;
        }
        self.started = Instant::now();
        self.child = spawn(self.role, self.marks, &self.settings, &self.instance)?;
        Ok(())
    }

    /// Whether it has ended, and how.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits until its admin socket says that it is ready. Without an identity, and with a control plane that refuses
    /// or does not answer, it gives up soon and says what the control plane said.
    pub(crate) async fn ready(&mut self) -> Outcome {
        let (mut began, mut told) = (Instant::now(), false);
        let mut missing = String::from("its admin socket does not answer");
        let mut problem = String::new();
        while began.elapsed() < READY_WITHIN
            && (problem.is_empty() || began.elapsed() < REFUSED_WITHIN)
        {
            if let Some(status) = self.ended() {
                let said = self.last_words();
                return Err(Exit::failed(format!(
                    "the {} ended at its start ({status}){said}",
                    self.role
                )));
            }
            match self.ask(Method::GET, "/ready?wait=200", None).await {
                Ok(answer) if answer.status.is_success() => {
                    self.note_start();
                    return Ok(());
                }
                Ok(answer) => {
                    missing = lacks(&answer.body);
                    let held;
                    (problem, held) = if missing.contains("certificate") {
                        self.problem().await
                    } else {
                        (String::new(), false)
                    };
                    if held {
                        // However long somebody takes.
                        began = Instant::now();
                        if !std::mem::replace(&mut told, true) {
                            out::note(format!("waiting: {problem}"));
                        }
                    }
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
        let why = if problem.is_empty() { missing } else { problem };
        Err(Exit::failed(format!(
            "the {} is not ready after {} s: {why}; its log: {}",
            self.role,
            began.elapsed().as_secs(),
            self.log().display()
        )))
    }

    /// Waits until the control plane has taken the registration, or has refused it: a workload that nobody is sent to
    /// must not look like one that runs. A control plane that is away cannot refuse, so then nothing is waited for.
    pub(crate) async fn admitted(&self) -> Outcome {
        let deadline = Instant::now() + ADMITTED_WITHIN;
        while Instant::now() < deadline {
            let answer = self.ask(Method::GET, "/server_info", None).await?;
            let control = answer.body.get("control").cloned().unwrap_or_default();
            let is = |field: &str| control.get(field).and_then(Value::as_bool).unwrap_or(false);
            if is("registered") || !is("connected") {
                return Ok(());
            }
            let problems = control.get("problems").and_then(Value::as_array);
            if let Some(first) = problems.and_then(|all| all.first()) {
                return Err(Exit::failed(crate::cmd::apply::show(first)));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    /// What stands between it and the control plane, in its own words, and whether that is somebody's approval.
    async fn problem(&self) -> (String, bool) {
        let Ok(answer) = self.ask(Method::GET, "/server_info", None).await else {
            return (String::new(), false);
        };
        let control = |field: &str| answer.body.pointer(&format!("/control/{field}"));
        let problem = control("problem").map(crate::cmd::apply::show);
        let held = control("held").and_then(Value::as_bool);
        (problem.unwrap_or_default(), held.unwrap_or(false))
    }

    /// Keeps the time from exec to ready, seen from outside, for reports. Losing it loses nothing else.
    fn note_start(&self) {
        let ms = |took: Duration| (took.as_micros() as f64 / 100.0).round() / 10.0;
        let mut start = json!({"format": 1, "ready_ms": ms(self.started.elapsed())});
        if let Some(took) = self.captured_in {
            start["capture_ms"] = json!(ms(took));
        }
        let _ = std::fs::write(self.instance.dir.join("start.json"), start.to_string());
    }

    /// Where it listens.
    pub(crate) async fn addresses(&self) -> Outcome<naka_proxy::run::Addresses> {
        let answer = self.ask(Method::GET, "/addresses", None).await?;
        serde_json::from_value(answer.body)
            .map_err(|error| Exit::failed(format!("admin /addresses: {error}")))
    }

    /// Where the program's calls go in.
    pub(crate) async fn outbound(&self) -> Outcome<SocketAddr> {
        self.addresses()
            .await?
            .outbound
            .ok_or_else(|| Exit::failed("the sidecar has no outbound listener"))
    }

    /// Tells it which ports the program listens on; from now on the workload takes calls.
    pub(crate) async fn announce(&self, ports: &[naka_proxy::settings::Port]) -> Outcome {
        let answer = self
            .ask(Method::POST, "/ports", Some(&json!({ "ports": ports })))
            .await?;
        if answer.status.is_success() {
            Ok(())
        } else {
            Err(answer.refusal())
        }
    }

    /// Tells it of connections that the program made around it. A sidecar that is away misses them.
    pub(crate) async fn bypassed(&self, new: usize) {
        let _ = self
            .ask(Method::POST, "/seen", Some(&json!({ "bypassed": new })))
            .await;
    }

    /// Whether its admin socket answers soon: its main thread is alive.
    pub(crate) async fn answers(&self) -> bool {
        let asked = self.ask(Method::GET, "/ready", None);
        matches!(tokio::time::timeout(ANSWERS_WITHIN, asked).await, Ok(Ok(_)))
    }

    /// Tells it that the capture rules were changed and put right again. A sidecar that is away misses it.
    pub(crate) async fn repaired(&self) {
        let _ = self
            .ask(Method::POST, "/seen", Some(&json!({ "repaired": 1 })))
            .await;
    }

    /// Drains inbound; returns when it has drained or the time is over.
    pub(crate) async fn drain(&self) {
        let drained = self.ask(Method::POST, "/drain?wait=1", None);
        let _ = tokio::time::timeout(DRAIN_WITHIN, drained).await;
    }

    /// Ends it: asks first, kills after a while.
    pub(crate) async fn stop(&mut self) {
        if self.ended().is_some() {
            return;
        }
        let asked = self.ask(Method::POST, "/quit", None);
        let asked = tokio::time::timeout(QUIT_WITHIN, asked).await;
        if !matches!(asked, Ok(Ok(ref answer)) if answer.status.is_success()) {
            signal(self.child.id(), rustix::process::Signal::TERM);
        }
        let deadline = Instant::now() + QUIT_WITHIN;
        while self.ended().is_none() {
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Its run directory.
    pub(crate) fn dir(&self) -> &std::path::Path {
        &self.instance.dir
    }

    /// Its log.
    pub(crate) fn log(&self) -> PathBuf {
        self.instance.dir.join("proxy.log")
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Outcome<crate::client::Answer> {
        ask_socket(&self.instance.dir.join("admin.sock"), method, path, body).await
    }

    /// The last line of the log, for an error message.
    fn last_words(&self) -> String {
        last_line(&self.log()).map_or_else(String::new, |line| format!(": {line}"))
    }
}

/// The file that names name servers instead of the host's own, for names outside the mesh.
pub(crate) fn resolv_conf() -> Option<std::path::PathBuf> {
    let file = std::env::var_os("NAKA_RESOLV_CONF").filter(|file| !file.is_empty())?;
    std::path::absolute(file).ok()
}

/// 0600: they may hold a token.
fn write_settings(path: &std::path::Path, settings: &Settings) -> Outcome {
    let text =
        serde_json::to_vec_pretty(settings).map_err(|error| Exit::failed(error.to_string()))?;
    write_secret(path, &text)
}

/// What a proxy says is missing, with what to do.
fn lacks(answer: &Value) -> String {
    let all = answer.get("why").and_then(Value::as_array);
    let words: Vec<String> = all
        .into_iter()
        .flatten()
        .map(|lack| {
            let word = |field: &str| {
                lack.get(field)
                    .map(crate::cmd::apply::show)
                    .unwrap_or_default()
            };
            format!("{}; {}", word("why"), word("fix"))
        })
        .collect();
    words.join("; ")
}

/// Last line of a log that is not empty.
pub(crate) fn last_line(log: &std::path::Path) -> Option<String> {
    let text = std::fs::read_to_string(log).ok()?;
    text.lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .map(|line| line.trim().to_owned())
}

/// Sends a signal to a process; one that is gone is no error.
pub(crate) fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

fn spawn(
    role: &str,
    marks: bool,
    settings: &std::path::Path,
    instance: &Instance,
) -> Outcome<Child> {
    let mut command = process(role, instance)?;
    if marks {
        namespace::confine_sidecar(&mut command);
    }
    command
        .args(["--with-parent", "--settings"])
        .arg(settings)
        .stdin(Stdio::from(instance.lock.try_clone()?))
        .spawn()
        .map_err(|error| Exit::failed(format!("cannot start the {role}: {error}")))
}

/// One of our own processes beside a program, its output in the instance's log.
///
/// In its own process group, so that Ctrl-C at the terminal reaches the program and us but not the proxy: it must
/// outlive the program.
fn process(role: &str, instance: &Instance) -> Outcome<Command> {
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(instance.dir.join("proxy.log"))?;
    let exe = std::env::current_exe()?;
    // The small binary when it is installed beside this one, else ourselves.
    let small = exe.with_file_name("naka-proxy");
    // It has no agent in it: of those there are few, and every sidecar would pay for the code.
    let mut command = if small.exists() && role != AGENT {
        Command::new(small)
    } else {
        let mut own = Command::new(exe);
        own.arg("proxy");
        own
    };
    // The service manager listens to whoever it started.
    for name in crate::notify::VARIABLES {
        command.env_remove(name);
    }
    command
        .arg(role)
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0);
    Ok(command)
}

/// Takes an instance in `$NAKA_HOME/run`.
pub(crate) fn take_instance(
    home: &Home,
    mesh: &str,
    who: &Who,
    number: Option<u32>,
) -> Outcome<Instance> {
    let mesh = if mesh.is_empty() { "mesh" } else { mesh };
    let stem = format!("{mesh}.{}.{}", who.namespace, who.stem());
    Instance::take(&home.runs(), &stem, number)
}

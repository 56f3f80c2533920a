//! `naka run`: a program and its sidecar, each its own process, and the order in which they begin and end.
//!
//! Begin: the door of the program's own network namespace (where that is to be had, [`crate::launch::capture`]), then
//! the sidecar, then (when it is ready) the program, then (when the program listens) its ports are announced, and only
//! now does the workload take calls. End: inbound drains while outbound keeps working, the program gets SIGTERM, and
//! when it is gone the sidecar goes, the door last. A program that ends by itself takes the others with it. The exit
//! code is the program's. A sidecar that dies alone is started again as the same instance at the same addresses; a door
//! that dies takes the way of every call with it, so the program is ended.
//!
//! The program's output is untouched; at most three lines of ours go to stderr.

pub(crate) mod beside;

use crate::args;
use crate::cmd::token;
use crate::credential;
use crate::exit::{Exit, Outcome, USAGE};
use crate::home::Home;
use crate::hostwide::{self, Look};
use crate::launch::bypass::{self, Bypass};
use crate::launch::capture::Way;
use crate::launch::hints::Hints;
use crate::launch::{self, Proxy, Who, environment, listening};
use crate::notify::{self, Manager};
use crate::{namespace, out};
use naka_proxy::settings::{Port, Publish, Settings, Upstream};
use naka_types::protocol::Protocol;
use rustix::process::Signal;
use serde_json::json;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

/// How often the program's sockets are looked at until it listens: at first, and one that may never do it.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const LOOK_AT_LEAST: Duration = Duration::from_millis(250);
/// A look for ports of the program may take one part in so many of the time: it reads every socket of the machine.
const LOOK_SHARE: u32 = 20;
/// But a program that listens is called no later than this.
const LOOK_AT_LAST: Duration = Duration::from_secs(2);
/// Exit code of a start that a signal ended, as shells say it.
const INTERRUPTED: u8 = 130;
/// Pause before a sidecar that died is started again.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// Runs `naka run`.
pub(crate) async fn run(args: &args::Run, context: Option<&str>) -> Outcome {
    if args.with_parent {
        crate::cmd::control::end_with_parent();
    }
    let home = Home::from_env()?;
    let who = who(args)?;
    let declared: Vec<Port> = args
        .ports
        .iter()
        .map(|text| port(text))
        .collect::<Outcome<_>>()?;
    if who.service.is_none() && !(declared.is_empty() && args.publish.is_empty()) {
        return Err(Exit::usage(
            "a port needs a name to be found under: add -s NAME",
        ));
    }
    let given = launch::given_token(args.token.as_deref())?;
    let context = launch::context(&home, context, given.as_deref())?;
    let instance = launch::take_instance(&home, &context.mesh, &who, args.instance)?;
    let workload_name = format!("{}-{}", who.stem(), instance.number);
    let mut settings = settings(args, &who, &workload_name)?;
    settings.run_dir.clone_from(&instance.dir);
    launch::admit(&mut settings, &who, &context, given.as_deref()).await?;
    // After that: rules for the whole machine would catch our own call for a token, too.
    let way = Way::take(args, &declared, &instance, &mut settings).await?;
    if !matches!(way, Way::Namespace(_)) && args.inbound_port.is_none() {
        declared.iter().try_for_each(|port| free(port.port))?;
    }
    let manager = Manager::from_env();
    let mut signals = Signals::new()?;
    let mut sidecar = Proxy::start(beside::role(args.proxy), &settings, instance)?;
    let begun = tokio::select! {
        begun = begin(&mut sidecar, &way, &who, &args.command) => begun,
        // It may be waiting for somebody's approval.
        () = signals.end() => Err(Exit::silent(INTERRUPTED)),
    };
    let program = match begun {
        Ok(program) => program,
        Err(error) => {
            sidecar.stop().await;
            return Err(error);
        }
    };
    let refusals = match &way {
        Way::Namespace(door) => door.refusals(),
        Way::Proxy(_) | Way::Host(_) | Way::Beside => None,
    };
    let pair = Pair {
        sidecar,
        program,
        way,
        hints: Hints::new(refusals, context, who.namespace),
        bypass: Bypass::default(),
        declared,
        serves: who.service.is_some(),
        inbound_port: args.inbound_port,
        advertise: args.advertise_port,
        announced: Vec::new(),
        began: Instant::now(),
        manager,
        repaired: false,
    };
    match code(pair.supervise(&mut signals).await?) {
        0 => Ok(()),
        code => Err(Exit::silent(code)),
    }
}

/// Where programs find the Workload API (SPIFFE Workload Endpoint, section 4).
const WORKLOAD_API: &str = "SPIFFE_ENDPOINT_SOCKET";

/// How long until the next look at a program that does not listen yet: a fiftieth of the time it has had. A look reads
/// all of the kernel's table of sockets, and a program that only calls others would be looked at for ever.
fn pace(had: Duration) -> Duration {
    (had / 50).clamp(LOOK_EVERY, LOOK_AT_LEAST)
}

/// Waits for the sidecar, then starts the program.
async fn begin(sidecar: &mut Proxy, way: &Way, who: &Who, command: &[OsString]) -> Outcome<Child> {
    if let Way::Namespace(door) = way {
        sidecar.captured_in(door.took);
    }
    sidecar.ready().await?;
    if who.service.is_some() {
        sidecar.admitted().await?;
    }
    let Some((program, arguments)) = command.split_first() else {
        return Err(Exit::usage("nothing to run: add -- COMMAND"));
    };
    // The very file that the control plane was told of; a program that is not found the system speaks of.
    let mut run = Command::new(who.program.as_deref().unwrap_or(Path::new(program)));
    run.arg0(program).args(arguments);
    // The service manager's socket and credentials are ours.
    for name in notify::VARIABLES.iter().chain([&credential::DIRECTORY]) {
        run.env_remove(name);
    }
    // As SPIFFE's libraries look for it; who is led elsewhere already stays there.
    if std::env::var_os(WORKLOAD_API).is_none() {
        let socket = sidecar.dir().join(naka_proxy::workload_api::SOCKET);
        run.env(WORKLOAD_API, format!("unix://{}", socket.display()));
    }
    match way {
        Way::Namespace(door) => door.entry()?.lead(&mut run),
        Way::Host(_) => namespace::confine(&mut run),
        Way::Proxy(credential) => {
            let outbound = sidecar.outbound().await?;
            environment::lead(&mut run, outbound, Some(credential));
        }
        Way::Beside => beside::lead(&mut run, sidecar).await?,
    }
    run.spawn().map_err(|error| Exit {
        code: if error.kind() == std::io::ErrorKind::NotFound {
            127
        } else {
            126
        },
        message: format!("cannot run {}: {error}", program.display()),
    })
}

/// A port that somebody listens on before the program has started would get its calls to somebody else.
fn free(port: u16) -> Outcome {
    match std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(Exit::failed(format!(
            "-p {port}: another program listens on this port already and would get the calls; end it or use another port"
        ))),
        // Whatever else is wrong with it, the program will say.
        _ => Ok(()),
    }
}

/// Who the workload is: names and labels with their defaults.
fn who(args: &args::Run) -> Outcome<Who> {
    let mut labels = token::labels(&args.labels)?;
    if let Some(service) = &args.service {
        labels.entry("app").or_insert_with(|| json!(service));
        labels.entry("version").or_insert_with(|| json!("v1"));
    }
    if let Some(place) = &args.locality {
        // A label's value has no slashes; Istio writes dots there.
        labels.insert(
            naka_types::locality::LABEL.to_owned(),
            json!(place.replace('/', ".")),
        );
    }
    let account = args
        .service_account
        .clone()
        .or_else(|| args.service.clone())
        .unwrap_or_else(|| format!("user-{}", login()));
    for name in args.service.iter().chain([&account, &args.namespace]) {
        let dns = !name.is_empty()
            && name.len() <= 63
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !name.starts_with('-')
            && !name.ends_with('-');
        if !dns {
            return Err(Exit::usage(format!(
                "{name:?} is no name: use up to 63 of a-z, 0-9 and -, not at the ends"
            )));
        }
    }
    Ok(Who {
        namespace: args.namespace.clone(),
        service: args.service.clone(),
        account,
        labels,
        program: args.command.first().and_then(|word| found(word)),
    })
}

/// The file that a word of a command stands for, as the system finds programs: as a path where it has a slash, else in
/// the directories of `PATH`.
fn found(word: &OsStr) -> Option<PathBuf> {
    if word.as_bytes().contains(&b'/') {
        return std::path::absolute(word).ok();
    }
    let path = std::env::var_os("PATH")?;
    let runs = |file: &PathBuf| {
        let about = std::fs::metadata(file);
        about.is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
    };
    let file = std::env::split_paths(&path)
        .map(|dir| dir.join(word))
        .find(runs)?;
    std::path::absolute(file).ok()
}

/// Login name in the letters a service account may have.
fn login() -> String {
    let name = std::env::var("USER")
        .or_else(|_| std::env::var("LOGNAME"))
        .unwrap_or_default();
    let clean: String = name
        .to_ascii_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let clean = clean.trim_matches('-');
    if clean.is_empty() {
        rustix::process::getuid().as_raw().to_string()
    } else {
        clean.chars().take(50).collect()
    }
}

/// `PORT` or `PORT/PROTOCOL`.
fn port(text: &str) -> Outcome<Port> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "auto"));
    let number = number
        .parse::<u16>()
        .ok()
        .filter(|n| *n > 0)
        .ok_or_else(|| Exit::usage(format!("-p {text}: {number:?} is no port")))?;
    let known = Protocol::declared(None, Some(protocol));
    if known == Protocol::Auto && protocol != "auto" {
        return Err(Exit::usage(format!("-p {text}: no protocol {protocol:?}")));
    }
    Ok(Port {
        protocol: known.as_str().to_owned(),
        ..Port::plain(number)
    })
}

fn settings(args: &args::Run, who: &Who, workload_name: &str) -> Outcome<Settings> {
    let mut settings = Settings::new(std::path::PathBuf::new(), &who.account, workload_name);
    settings.lock_inherited = true;
    settings.namespace.clone_from(&who.namespace);
    settings.service.clone_from(&who.service);
    settings.labels = who
        .labels
        .iter()
        .map(|(key, value)| (key.clone(), crate::cmd::apply::show(value)))
        .collect();
    // Ports are announced when the program listens, declared ones too: nobody is called before it can answer.
    settings.ports_later = who.service.is_some();
    settings.save_identity = !args.no_saved_identity;
    if let Some(file) = crate::launch::resolv_conf() {
        settings.resolv_conf = file;
    }
    for text in &args.publish {
        settings.publish.push(Publish {
            bind: published(text)?,
            port: None,
        });
    }
    for text in &args.upstream {
        settings.upstreams.push(upstream(text)?);
    }
    Ok(settings)
}

/// `NAME:PORT`, or `NAME:PORT=LOCAL` where this machine has other use for the port.
fn upstream(text: &str) -> Outcome<Upstream> {
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    let (target, local) = text
        .split_once('=')
        .map_or((text, None), |(target, local)| (target, Some(local)));
    let read = || {
        let (host, number) = target.rsplit_once(':')?;
        let number = port(number)?;
        let local = local.map_or(Some(number), port)?;
        (!host.is_empty()).then(|| Upstream {
            bind: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), local),
            host: host.to_owned(),
            port: number,
        })
    };
    read().ok_or_else(|| {
        Exit::usage(format!(
            "--upstream {text}: write NAME:PORT or NAME:PORT=LOCALPORT"
        ))
    })
}

fn published(text: &str) -> Outcome<SocketAddr> {
    let address = match text.parse::<u16>() {
        Ok(port) => Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)),
        Err(_) => text.parse().ok(),
    };
    address.ok_or_else(|| Exit::usage(format!("--publish {text}: write [ADDR:]PORT")))
}

/// Exit code of the program; death by signal n is 128 + n, as shells say it.
fn code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(i32::from(USAGE));
    u8::try_from(code & 0xff).unwrap_or(u8::MAX)
}

/// Signals to us, in the order they came.
struct Signals(mpsc::Receiver<Signal>);

impl Signals {
    fn new() -> Outcome<Self> {
        let (sender, receiver) = mpsc::channel(16);
        for (kind, same) in [
            (SignalKind::terminate(), Signal::TERM),
            (SignalKind::interrupt(), Signal::INT),
            (SignalKind::child(), Signal::CHILD),
            (SignalKind::hangup(), Signal::HUP),
            (SignalKind::user_defined1(), Signal::USR1),
            (SignalKind::user_defined2(), Signal::USR2),
            (SignalKind::quit(), Signal::QUIT),
        ] {
            let mut stream = signal(kind)?;
            let sender = sender.clone();
            tokio::spawn(async move {
                while stream.recv().await.is_some() && sender.send(same).await.is_ok() {}
            });
        }
        Ok(Self(receiver))
    }

    /// The next signal. The senders live as long as the runtime.
    async fn next(&mut self) -> Signal {
        match self.0.recv().await {
            Some(signal) => signal,
            None => std::future::pending().await,
        }
    }

    /// The next signal that asks us to end.
    async fn end(&mut self) {
        while !matches!(self.next().await, Signal::TERM | Signal::INT) {}
    }
}

/// A sidecar and its program.
struct Pair {
    sidecar: Proxy,
    program: Child,
    way: Way,
    hints: Hints,
    bypass: Bypass,
    declared: Vec<Port>,
    serves: bool,
    inbound_port: Option<u16>,
    advertise: Option<SocketAddr>,
    announced: Vec<Port>,
    began: Instant,
    manager: Manager,
    repaired: bool,
}

impl Pair {
    /// Until the program has ended; then the sidecar ends too.
    async fn supervise(mut self, signals: &mut Signals) -> Outcome<ExitStatus> {
        let mut restart: Option<Instant> = None;
        let watched = matches!(self.way, Way::Proxy(_));
        let (mut watch, mut look) = (Instant::now(), Instant::now());
        if !self.serves {
            self.manager.ready("a client: its sidecar is ready");
        }
        let every = self.manager.every();
        let mut beat = tokio::time::interval(every.unwrap_or(RESTART_AFTER));
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let guarded = matches!(self.way, Way::Host(_));
        let mut guard = tokio::time::interval(hostwide::CHECK_EVERY);
        loop {
            let alive = restart.is_none();
            let looking = alive && self.serves && self.announced.is_empty();
            let again = restart.unwrap_or_else(Instant::now);
            tokio::select! {
                came = signals.next() => match came {
                    Signal::TERM | Signal::INT => return self.end(signals).await,
                    // It may have been for either child; both are asked below.
                    Signal::CHILD => {}
                    other => launch::signal(self.program.id(), other),
                },
                () = tokio::time::sleep_until(again), if !alive => {
                    restart = None;
                    self.restart().await?;
                }
                // By the clock: whatever else happens here must not put it off.
                () = tokio::time::sleep_until(look), if looking => {
                    let began = Instant::now();
                    self.look().await?;
                    let pause = (began.elapsed() * LOOK_SHARE).min(LOOK_AT_LAST);
                    look = Instant::now() + pace(self.began.elapsed()).max(pause);
                }
                // The sidecar looks for the program's own ports on both loopback addresses.
                port = self.hints.next() => if self.announced.iter().all(|own| own.port != port) {
                    self.hints.tell(port).await;
                },
                () = tokio::time::sleep_until(watch), if watched && alive => {
                    let began = Instant::now();
                    self.watch().await;
                    watch = Instant::now() + bypass::pause(began.elapsed());
                }
                // While a sidecar that died is started again, this loop is what lives.
                _ = beat.tick(), if every.is_some() => {
                    if !alive || self.sidecar.answers().await {
                        self.manager.alive();
                    }
                }
                _ = guard.tick(), if guarded => if let Err(error) = self.guard().await {
                    out::note(format!("naka: {error}; ending the program"));
                    return self.end(signals).await;
                },
            }
            if let Some(status) = self.program.try_wait()? {
                if !status.success() {
                    self.hints.last().await;
                }
                self.sidecar.stop().await;
                return Ok(status);
            }
            if restart.is_none() && self.sidecar.ended().is_some() {
                restart = Some(Instant::now() + RESTART_AFTER);
            }
            if let Way::Namespace(door) = &mut self.way
                && let Some(status) = door.ended()
            {
                out::note(format!(
                    "naka: the door of the program's network namespace ended ({status}); ending the program"
                ));
                return self.end(signals).await;
            }
        }
    }

    /// Starts the sidecar again as the same instance. One that does not come up is tried again later.
    async fn restart(&mut self) -> Outcome {
        self.sidecar.restart()?;
        if self.sidecar.ready().await.is_ok() && !self.announced.is_empty() {
            self.sidecar.announce(&self.announced).await?;
        }
        Ok(())
    }

    /// Tells the sidecar of connections that the program made around it.
    async fn watch(&mut self) {
        let new = self.bypass.look(self.program.id());
        if new > 0 {
            self.sidecar.bypassed(new).await;
        }
    }

    /// Looks after the rules of the whole machine. Without them the program must not go on.
    async fn guard(&mut self) -> Outcome {
        let Way::Host(host) = &mut self.way else {
            return Ok(());
        };
        if host.look()? == Look::Repaired {
            if !self.repaired {
                out::note(
                    "naka: somebody changed the capture rules of this machine; they are as they were again",
                );
            }
            self.repaired = true;
            self.sidecar.repaired().await;
        }
        Ok(())
    }

    /// Announces the ports once the program listens.
    async fn look(&mut self) -> Outcome {
        let mut ports: Vec<Port> = if self.declared.is_empty() {
            let found: BTreeSet<u16> = listening::ports(self.program.id());
            // The first port is enough: others may be anything, debuggers included.
            found.into_iter().take(1).map(Port::plain).collect()
        } else if self
            .declared
            .iter()
            .all(|port| listening::anyone(self.program.id(), port.port))
        {
            self.declared.clone()
        } else {
            Vec::new()
        };
        if let Way::Host(host) = &self.way {
            host.place(&mut ports);
        }
        let Some(first) = ports.first_mut() else {
            return Ok(());
        };
        if let Some(inbound_port) = self.inbound_port {
            let ip = self.sidecar.settings()?.inbound_ip;
            first.bind = Some(SocketAddr::new(ip, inbound_port));
        }
        if self.advertise.is_some() {
            first.advertise = self.advertise;
        }
        self.sidecar.announce(&ports).await?;
        let numbers: Vec<String> = ports.iter().map(|port| port.port.to_string()).collect();
        self.manager
            .ready(&format!("the program listens on {}", numbers.join(" and ")));
        self.announced = ports;
        Ok(())
    }

    /// Drains inbound while outbound keeps working, then tells the program to end, then the sidecar. A second signal
    /// skips the drain, a third kills.
    async fn end(&mut self, signals: &mut Signals) -> Outcome<ExitStatus> {
        self.manager.stopping();
        if !self.announced.is_empty() {
            tokio::select! {
                () = self.sidecar.drain() => {}
                () = signals.end() => {}
            }
        }
        // SIGTERM whatever came: a SIGINT of the terminal has reached the program already.
        launch::signal(self.program.id(), Signal::TERM);
        loop {
            if let Some(status) = self.program.try_wait()? {
                self.sidecar.stop().await;
                return Ok(status);
            }
            match signals.next().await {
                Signal::TERM | Signal::INT => launch::signal(self.program.id(), Signal::KILL),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{code, pace, port, published};
    use std::process::Command;
    use std::time::Duration;

    #[test]
    fn a_program_that_never_listens_is_looked_at_less_often() {
        let after = |ms| pace(Duration::from_millis(ms)).as_millis();
        assert_eq!(
            [0, 900, 5_000, 60_000, 86_400_000].map(after),
            [20, 20, 100, 250, 250]
        );
    }

    #[test]
    fn exit_codes_are_the_programs() {
        let of = |script: &str| code(Command::new("sh").args(["-c", script]).status().unwrap());
        assert_eq!(of("exit 0"), 0);
        assert_eq!(of("exit 7"), 7);
        assert_eq!(of("kill -9 $$"), 137);
    }

    #[test]
    fn ports_carry_a_protocol_when_one_is_given() {
        assert_eq!(port("8080").unwrap().protocol, "auto");
        assert_eq!(port("50051/grpc").unwrap().protocol, "grpc");
        for bad in ["0", "x", "80/nonsense", "70000"] {
            assert_eq!(port(bad).unwrap_err().code, 64, "{bad}");
        }
    }

    #[test]
    fn published_addresses_may_leave_out_the_host() {
        assert_eq!(published("8080").unwrap().to_string(), "0.0.0.0:8080");
        assert_eq!(published("127.0.0.1:1").unwrap().port(), 1);
        assert!(published("here").is_err());
    }
}

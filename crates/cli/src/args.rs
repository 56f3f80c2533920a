//! The command line as typed. Parsing touches no file, no socket and no environment; the commands resolve.
//!
//! A command that does not exist yet is not here: `naka --help` never promises what the binary cannot do.

mod audit;
mod ca;
mod cert;
mod mode;
mod operate;
mod policy;
mod rollout;
mod run;
mod trace;

pub(crate) use audit::*;
pub(crate) use ca::*;
pub(crate) use cert::*;
pub(crate) use mode::*;
pub(crate) use operate::*;
pub(crate) use policy::*;
pub(crate) use rollout::*;
pub(crate) use run::*;
pub(crate) use trace::*;

use clap::{Args as Group, Parser, Subcommand, ValueEnum};
use naka_types::host::Host;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// A service mesh in one binary: sidecar, gateway, control plane, certificate authority and command line.
#[derive(Debug, Parser)]
#[command(
    name = "naka",
    version,
    disable_help_subcommand = true,
    arg_required_else_help = true,
    help_template = "{about}\n\n{usage-heading} {usage}\n\n{subcommands}\n\n{options}\n\nExit codes: 0 done, 1 the checked thing is bad, 2 failed to do it, 64 wrong usage."
)]
pub(crate) struct Args {
    /// Context to use instead of the current one
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// A whole mesh with load; Ctrl-C removes it
    Demo(Demo),
    /// Start this machine's mesh
    Up(Up),
    /// Stop this machine's mesh
    Down(Down),
    /// Run a program inside the mesh
    #[command(
        override_usage = "naka run [-n NS] [-s NAME] [-p PORT]... [-l k=v]... [OPTIONS] -- COMMAND..."
    )]
    Run(Run),
    /// Use a mesh that runs elsewhere
    Join(Join),
    /// Create or change objects from files
    Apply(Apply),
    /// What applying files would change, and whom it touches
    Diff(Diff),
    /// Remove objects
    Delete(Delete),
    /// Keep a change made with `apply --confirm`
    Confirm(Confirm),
    /// Split a service's calls over its versions: `split payment v1=90 v2=10`
    Split(Split),
    /// What changed, when and by whom
    History(History),
    /// Take a change back
    Undo(Undo),
    /// Modes: prepared changes that are in force for a time (break-glass)
    Mode(Mode),
    /// What has reached whom
    #[command(alias = "proxy-status")]
    Status(Status),
    /// What is wrong with a service now, its cause, and the fix
    Why(Why),
    /// One request on its way through the mesh, and where it went wrong
    Trace(Trace),
    /// List objects and live kinds (proxies, workloads, traces, revisions, events)
    Get(Get),
    /// Everything about one object
    Describe(Describe),
    /// Which rule decides about a request, and why; or what a code or a field means
    Explain(Explain),
    /// Check this installation, or files with -f
    #[command(alias = "analyze")]
    Check(Check),
    /// Create, list and revoke tokens
    Token(Token),
    /// Take certificates of workloads back
    Cert(Cert),
    /// Policies out of a matrix of who may call whom
    Policy(Policy),
    /// The certificate authority: what signs, a root that is kept elsewhere, and another root
    Ca(Ca),
    /// Changes in steps: where they are, why they wait, on or back
    Rollout(Rollout),
    /// The log of events as evidence: verify it, take events out
    Audit(Audit),
    /// Write log, authority, keys and tokens of a mesh into one sealed file; the mesh may run
    Backup(Backup),
    /// Make a mesh from a backup, where none is
    Restore(Restore),
    /// The event log of a mesh on this machine
    Store(Store),
    /// The control plane in the foreground
    Control(Control),
    /// The proxies
    Proxy(Proxy),
    /// Units for systemd: print or apply them
    Install(Install),
    /// A redacted bundle for a bug report
    #[command(alias = "bug-report")]
    Support(Support),
    /// List contexts, or choose one
    Context(Context),
    /// Version of this binary and of the control plane
    Version(Version),
    /// Completion script for a shell
    Completion(Completion),
    /// Manual pages into a directory: for packaging.
    #[command(hide = true)]
    Man(Man),
    /// One program of the demo.
    #[command(hide = true)]
    DemoProgram(DemoProgram),
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// One JSON value
    Json,
    /// YAML documents
    Yaml,
    /// A table with more columns
    Wide,
}

/// Where objects come from.
#[derive(Debug, Group)]
pub(crate) struct Files {
    /// File, directory, or - for standard input
    #[arg(short = 'f', long = "filename", value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// Namespace of objects that name none
    #[arg(short, long, value_name = "NS", default_value = "default")]
    pub(crate) namespace: String,
}

#[derive(Debug, Group)]
pub(crate) struct Demo {
    /// End after this time
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    pub(crate) length: Option<Duration>,
    /// Orders per second
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) rate: u32,
    /// Form of the report at the end
    #[arg(long, value_name = "FORM")]
    pub(crate) report: Option<Report>,
    /// A story with claims that are proved: upi, tiers, zones, merchants, bank-failover, booking, zero-trust
    #[arg(long, value_name = "NAME", conflicts_with_all = ["tour", "length"])]
    pub(crate) scenario: Option<String>,
    /// Leave an object of the scenario out, KIND/NAME: the claims that rest on it must fail
    #[arg(long, value_name = "KIND/NAME", requires = "scenario")]
    pub(crate) without: Vec<String>,
    /// A guided minute: each claim is shown with its evidence
    #[arg(long)]
    pub(crate) tour: bool,
}

/// Form of the demo's report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Report {
    /// One JSON object as the last line
    Json,
}

#[derive(Debug, Group)]
pub(crate) struct Up {
    /// Name of the mesh
    #[arg(long, value_name = "NAME", default_value = "local")]
    pub(crate) mesh: String,
    /// Trust domain of new identities, `cluster.local` unless given (only when the mesh is made)
    #[arg(long, value_name = "DOMAIN")]
    pub(crate) trust_domain: Option<String>,
    /// Address that other machines reach this one by, remembered; without one the mesh serves this machine only
    #[arg(long, value_name = "ADDR", value_parser = advertised)]
    pub(crate) advertise: Option<String>,
    /// Directory of YAML that is watched and owns the objects it holds
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// File with the passphrase that locks the key of Secrets
    #[arg(long, value_name = "FILE")]
    pub(crate) seal_passphrase_file: Option<PathBuf>,
    /// Directory with root-cert.pem, ca-cert.pem, ca-key.pem and cert-chain.pem, the authority of a mesh that has none
    #[arg(long, value_name = "DIR")]
    pub(crate) ca: Option<PathBuf>,
    /// Keys of issuers (jwksUri) are fetched again after this time, 20m unless given
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) jwks_refresh: Option<Duration>,
    /// PEM file of authorities that servers of such keys may have, besides the system's
    #[arg(long, value_name = "FILE")]
    pub(crate) jwks_ca: Option<PathBuf>,
    /// Hosts that such keys may come from, *.example.com for all below; any unless given
    #[arg(long, value_name = "HOST,…")]
    pub(crate) jwks_hosts: Option<String>,
    #[command(flatten)]
    pub(crate) trail: Trail,
    #[command(flatten)]
    pub(crate) tracing: Tracing,
}

#[derive(Debug, Group)]
pub(crate) struct Down {
    /// Name of the mesh; that of the current context unless given
    #[arg(long, value_name = "NAME")]
    pub(crate) mesh: Option<String>,
    /// Remove the mesh's files too: its authority, its log, its objects, and what its proxies kept
    #[arg(long)]
    pub(crate) purge: bool,
}

#[derive(Debug, Group)]
pub(crate) struct Join {
    /// Token made by `naka token create` on the mesh's machine
    pub(crate) token: String,
    /// Name of the context to add
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
}

#[derive(Debug, Group)]
pub(crate) struct Apply {
    #[command(flatten)]
    pub(crate) files: Files,
    /// Say what would happen and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Wait until every proxy that holds an affected resource has it
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long --wait waits
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub(crate) timeout: Duration,
    /// Take the change back unless `naka confirm` comes within this time
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) confirm: Option<Duration>,
    /// Delete what was applied with this set before and is in no file now; the set is named by the files unless named
    #[arg(long, value_name = "SET", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub(crate) prune: Option<String>,
    /// Why, for the history
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) cause: String,
    /// How to print
    #[arg(short, long, value_name = "FORM")]
    pub(crate) output: Option<Output>,
}

#[derive(Debug, Group)]
pub(crate) struct Diff {
    #[command(flatten)]
    pub(crate) files: Files,
    /// How to print
    #[arg(short, long, value_name = "FORM")]
    pub(crate) output: Option<Output>,
}

#[derive(Debug, Group)]
pub(crate) struct Delete {
    /// Kind, or KIND/NAME
    #[arg(required_unless_present = "files")]
    pub(crate) kind: Option<String>,
    /// Names
    pub(crate) names: Vec<String>,
    /// Remove the objects these files name
    #[arg(
        short = 'f',
        long = "filename",
        value_name = "FILE",
        conflicts_with = "kind"
    )]
    pub(crate) files: Vec<PathBuf>,
    /// Namespace
    #[arg(short, long, value_name = "NS", default_value = "default")]
    pub(crate) namespace: String,
}

#[derive(Debug, Group)]
pub(crate) struct Confirm {
    /// Id that `apply --confirm` printed; the only open one unless given
    pub(crate) id: Option<String>,
}

#[derive(Debug, Group)]
pub(crate) struct Split {
    /// Service
    pub(crate) service: String,
    /// Version and percent: `v1=90 v2=10`
    #[arg(required = true, value_name = "VERSION=PERCENT")]
    pub(crate) weights: Vec<String>,
    /// Namespace
    #[arg(short, long, value_name = "NS", default_value = "default")]
    pub(crate) namespace: String,
    /// Print the objects and change nothing
    #[arg(short, long, value_name = "FORM")]
    pub(crate) output: Option<Output>,
}

#[derive(Debug, Group)]
pub(crate) struct History {
    /// Object, KIND/NAME; everything unless given
    pub(crate) object: Option<String>,
    /// Namespace of the object
    #[arg(short, long, value_name = "NS", default_value = "default")]
    pub(crate) namespace: String,
    /// How many, newest last
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(crate) limit: u32,
    /// Not older than this
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) since: Option<Duration>,
    /// How to print
    #[arg(short, long, value_name = "FORM")]
    pub(crate) output: Option<Output>,
}

#[derive(Debug, Group)]
pub(crate) struct Undo {
    /// Revision to take back; the last change unless given
    pub(crate) revision: Option<u64>,
}

#[derive(Debug, Group)]
pub(crate) struct Status {
    /// Object, KIND/NAME; the whole mesh unless given
    pub(crate) object: Option<String>,
    /// Namespace of the object
    #[arg(short, long, value_name = "NS", default_value = "default")]
    pub(crate) namespace: String,
    /// How to print
    #[arg(short, long, value_name = "FORM")]
    pub(crate) output: Option<Output>,
}

#[derive(Debug, Group)]
pub(crate) struct Why {
    /// Service; all of them unless given
    pub(crate) service: Option<String>,
    /// Namespace of the service
    #[arg(short, long, value_name = "NS", default_value = "default")]
    pub(crate) namespace: String,
    /// How to print
    #[arg(short, long, value_name = "FORM")]
    pub(crate) output: Option<Output>,
}

#[derive(Debug, Group)]
pub(crate) struct Get {
    /// Kind (also short and plural names), or KIND/NAME
    pub(crate) kind: String,
    /// Name
    pub(crate) name: Option<String>,
    /// Namespace
    #[arg(short, long, value_name = "NS", default_value = "default")]
    pub(crate) namespace: String,
    /// All namespaces
    #[arg(short = 'A', long)]
    pub(crate) all_namespaces: bool,
    /// Label selector, `k=v,k2=v2`
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub(crate) selector: Option<String>,
    /// As it was at this revision
    #[arg(long, value_name = "REVISION")]
    pub(crate) at: Option<u64>,
    /// Print changes as they come
    #[arg(short, long)]
    pub(crate) watch: bool,
    /// How to print
    #[arg(short, long, value_name = "FORM")]
    pub(crate) output: Option<Output>,
}

#[derive(Debug, Group)]
pub(crate) struct Describe {
    /// Kind, or KIND/NAME
    pub(crate) kind: String,
    /// Name
    pub(crate) name: Option<String>,
    /// Namespace
    #[arg(short, long, value_name = "NS", default_value = "default")]
    pub(crate) namespace: String,
}

#[derive(Debug, Group)]
pub(crate) struct Explain {
    /// A method and an address (`GET http://payment/pay`), a reason or finding code, or a field path
    #[arg(required = true, value_name = "X")]
    pub(crate) what: Vec<String>,
    /// Header of the request, `name: value`
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    pub(crate) headers: Vec<String>,
    /// Service that calls, or NAMESPACE/SERVICE-ACCOUNT
    #[arg(long, value_name = "SERVICE")]
    pub(crate) from: Option<String>,
    /// Service that is called (`payment`, `payment.shop:8080`): X is then a method and a path, and the policies of the
    /// called workload are asked too
    #[arg(long, value_name = "SERVICE", requires = "from")]
    pub(crate) to: Option<String>,
    /// Namespace of the caller
    #[arg(short, long, value_name = "NS", default_value = "default")]
    pub(crate) namespace: String,
    /// Ask a gateway with this label instead of a sidecar: `istio=ingressgateway`
    #[arg(long, value_name = "K=V")]
    pub(crate) gateway: Vec<String>,
    /// Label of the caller, `key=value`
    #[arg(short = 'l', long = "label", value_name = "LABEL", value_parser = label)]
    pub(crate) labels: Vec<(String, String)>,
    /// Decide on these files instead of the running mesh
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Body of the request
    #[arg(short = 'd', long, value_name = "TEXT")]
    pub(crate) body: Option<String>,
    /// Moment at which it is decided, for example 2026-11-26T10:00:00+05:30; now unless given
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(crate) at: Option<Duration>,
    /// How a try ends: a status (`503`, with a header: `200 grpc-status: 14`), connect-failed, refused-stream or reset;
    /// 200 unless given
    #[arg(long = "answer", value_name = "ANSWER")]
    pub(crate) answers: Vec<String>,
    /// How to print
    #[arg(short, long, value_name = "FORM")]
    pub(crate) output: Option<Output>,
}

#[derive(Debug, Group)]
pub(crate) struct Check {
    /// Proxy to check alone; the whole installation unless given
    #[arg(value_name = "PROXY")]
    pub(crate) names: Vec<PathBuf>,
    /// File, directory, or - for standard input
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Every alias and deprecated spelling is an error
    #[arg(long)]
    pub(crate) strict: bool,
    /// A checklist with a score: zero-trust, production, or a file
    #[arg(long, value_name = "NAME", conflicts_with_all = ["files", "names", "strict"])]
    pub(crate) profile: Option<String>,
    /// Namespace of objects that name none
    #[arg(short, long, value_name = "NS", default_value = "default")]
    pub(crate) namespace: String,
    /// How to print
    #[arg(short, long, value_name = "FORM")]
    pub(crate) output: Option<Output>,
}

/// Reads `key=value`.
fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write key=value")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Reads a duration as users write it (`60s`, `1h30m`).
fn duration(text: &str) -> Result<Duration, String> {
    naka_types::duration::parse(text).map_err(|error| error.to_string())
}

/// Reads an address that others reach us by: a name or an IP address, with a port or without; empty forgets it.
fn advertised(text: &str) -> Result<String, String> {
    let bare = text.trim_matches(['[', ']']);
    let host = match text.rsplit_once(':') {
        Some((host, port)) if bare.parse::<IpAddr>().is_err() => {
            let port = port.parse::<u16>().ok().filter(|port| *port > 0);
            port.map(|_| host.trim_matches(['[', ']']))
                .ok_or("what follows the last colon is no port")?
        }
        _ => bare,
    };
    let fits = text.is_empty() || host != "*" && Host::parse(host).is_ok();
    if fits {
        Ok(text.to_owned())
    } else {
        Err(
            "want NAME, IP, NAME:PORT or IP:PORT, such as mesh.example.com or [2001:db8::1]:15012"
                .to_owned(),
        )
    }
}

/// Reads a moment, as the time since 1970.
fn moment(text: &str) -> Result<Duration, String> {
    let moment: jiff::Timestamp = text
        .parse()
        .map_err(|_| format!("{text:?} is not a moment such as 2026-11-26T10:00:00+05:30"))?;
    Duration::try_from(moment.as_duration()).map_err(|_| "a moment before 1970".to_owned())
}

#[cfg(test)]
mod tests {
    use super::{Args, Command, advertised};
    use clap::{CommandFactory, Parser};

    #[test]
    fn an_address_for_others_is_one() {
        for good in [
            "",
            "10.0.0.5",
            "10.0.0.5:15012",
            "mesh",
            "mesh.example.com:443",
            "2001:db8::1",
            "[2001:db8::1]:15012",
            "[::1]",
        ] {
            assert_eq!(advertised(good).as_deref(), Ok(good));
        }
        for bad in [
            "a b",
            "mesh:x",
            "mesh:0",
            ":15012",
            "*",
            "http://mesh",
            "mesh:70000",
            "a\"b",
        ] {
            assert!(advertised(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn run_takes_everything_after_the_dashes_as_the_program() {
        let args = Args::parse_from([
            "naka",
            "run",
            "-s",
            "order",
            "-p",
            "80",
            "-p",
            "81/grpc",
            "-l",
            "version=v2",
            "--",
            "prog",
            "-p",
            "1",
        ]);
        let Command::Run(run) = args.command else {
            panic!("not run")
        };
        assert_eq!(run.service.as_deref(), Some("order"));
        assert_eq!(run.ports, ["80", "81/grpc"]);
        assert_eq!(run.command, ["prog", "-p", "1"]);
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            vec!["naka", "run", "-s", "a"],
            vec!["naka", "nonsense"],
            vec!["naka", "apply"],
            vec!["naka", "demo", "--for", "soon"],
            vec!["naka", "demo", "--rate", "0"],
            vec!["naka", "split", "payment"],
        ] {
            assert!(Args::try_parse_from(&line).is_err(), "{line:?}");
        }
    }
}

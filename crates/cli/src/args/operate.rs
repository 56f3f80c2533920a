//! Options of the commands that secure and operate a mesh: tokens, the log, the processes themselves.

use super::{Output, advertised, duration};
use clap::{Args as Group, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Group)]
pub(crate) struct Token {
    #[command(subcommand)]
    pub(crate) command: TokenCommand,
}

/// What to do with tokens.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token; it is shown once
    Create(TokenCreate),
    /// List tokens, without their secrets
    List {
        /// How to print
        #[arg(short, long, value_name = "FORM")]
        output: Option<Output>,
    },
    /// Refuse a token of a user (JWT) from now on, although its time is not over; `naka get revoked-tokens` lists them
    RevokeJwt(RevokeJwt),
    /// Revoke a token
    Revoke {
        /// Id of the token
        id: String,
    },
}

#[derive(Debug, Group)]
pub(crate) struct RevokeJwt {
    /// File with the token itself, or - for standard input: issuer, jti and end are read from it, nothing is verified
    #[arg(conflicts_with_all = ["issuer", "jti", "until"], required_unless_present_any = ["jti", "take_back"])]
    pub(crate) token: Option<PathBuf>,
    /// Its claim `iss`
    #[arg(long, value_name = "ISSUER", requires = "jti")]
    pub(crate) issuer: Option<String>,
    /// Its claim `jti`
    #[arg(long, value_name = "ID", requires = "issuer")]
    pub(crate) jti: Option<String>,
    /// When it ends by itself (claim `exp`), 2026-01-31T12:00:00Z; the entry is forgotten a day later. Never, unless given
    #[arg(long, value_name = "TIME", requires = "jti")]
    pub(crate) until: Option<String>,
    /// Why, for the log
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) reason: String,
    /// Take the token again; ID as `naka get revoked-tokens` has it
    #[arg(long, value_name = "ID", conflicts_with_all = ["token", "issuer", "jti", "until"])]
    pub(crate) take_back: Option<String>,
    /// How long to wait until every proxy has it
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Group)]
pub(crate) struct TokenCreate {
    /// join: lets a proxy get its certificate. api: lets a person or program use the API
    #[arg(long, value_name = "KIND", default_value = "join")]
    pub(crate) kind: TokenKind,
    /// Namespace of the workload
    #[arg(short, long, value_name = "NS", default_value = "default")]
    pub(crate) namespace: String,
    /// Service that may be served (join); its service account too unless --service-account is given
    #[arg(short, long, value_name = "NAME")]
    pub(crate) service: Vec<String>,
    /// Service account (join)
    #[arg(long, value_name = "SA")]
    pub(crate) service_account: Option<String>,
    /// Label that counts in policies (join)
    #[arg(short, long = "label", value_name = "K=V")]
    pub(crate) labels: Vec<String>,
    /// How often it may be used (join)
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) uses: u32,
    /// How long it is good
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration)]
    pub(crate) ttl: Duration,
    /// Role (api)
    #[arg(long, value_name = "ROLE", default_value = "viewer")]
    pub(crate) role: TokenRole,
}

/// Kind of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TokenKind {
    /// For proxies
    Join,
    /// For people and programs
    Api,
}

/// Role of an API token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TokenRole {
    /// Reads
    Viewer,
    /// Changes objects
    Operator,
    /// Everything
    Admin,
}

#[derive(Debug, Group)]
pub(crate) struct Backup {
    /// File to write; it must not exist
    pub(crate) file: PathBuf,
    /// Name of the mesh
    #[arg(long, value_name = "NAME", default_value = "local")]
    pub(crate) mesh: String,
    /// File with the passphrase or key that seals the backup; /dev/stdin reads it from there
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: PathBuf,
}

#[derive(Debug, Group)]
pub(crate) struct Restore {
    /// File made by `naka backup`
    pub(crate) file: PathBuf,
    /// Name of the mesh to make; the one it had unless given
    #[arg(long, value_name = "NAME")]
    pub(crate) mesh: Option<String>,
    /// File with the passphrase or key that the backup was sealed with; /dev/stdin reads it from there
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: PathBuf,
}

#[derive(Debug, Group)]
pub(crate) struct Store {
    #[command(subcommand)]
    pub(crate) command: StoreCommand,
}

/// What to do with a log.
#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Cut damage off a log so that it can be written again; says what is lost and keeps the damaged file
    Repair {
        /// Name of the mesh
        #[arg(long, value_name = "NAME", default_value = "local")]
        mesh: String,
    },
    /// The key that seals Secrets
    Seal {
        #[command(subcommand)]
        command: SealCommand,
    },
}

/// What to do with the sealing key.
#[derive(Debug, Subcommand)]
pub(crate) enum SealCommand {
    /// Name of the key, whether a passphrase locks it, and how many Secrets it seals
    Status,
    /// Make a new key and seal every Secret anew, past values too; the old key opens nothing any more
    Rotate {
        /// Lock the new key with the passphrase of this file; unless given it is locked as the old one was
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
        /// Keep the new key as it is, in a file of its owner's alone
        #[arg(long, conflicts_with = "passphrase_file")]
        plain: bool,
    },
}

#[derive(Debug, Group)]
pub(crate) struct Control {
    /// Name of the mesh
    #[arg(long, value_name = "NAME", default_value = "local")]
    pub(crate) mesh: String,
    /// Trust domain of new identities, `cluster.local` unless given (only when the mesh is made)
    #[arg(long, value_name = "DOMAIN")]
    pub(crate) trust_domain: Option<String>,
    /// Address that other machines reach this one by; remembered, and forgotten when it is empty
    #[arg(long, value_name = "ADDR", value_parser = advertised)]
    pub(crate) advertise: Option<String>,
    /// The control plane of the whole machine: xDS on 15012, API on 15080, metrics on 15014 instead of free ports
    #[arg(long)]
    pub(crate) system: bool,
    /// Directory of YAML that is watched and owns the objects it holds
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// File with the passphrase that locks the key of Secrets; else the systemd credential naka-seal, if there is one
    #[arg(long, value_name = "FILE")]
    pub(crate) seal_passphrase_file: Option<PathBuf>,
    /// Directory with root-cert.pem, ca-cert.pem, ca-key.pem and cert-chain.pem, the authority of a mesh that has none
    #[arg(long, value_name = "DIR")]
    pub(crate) ca: Option<PathBuf>,
    /// Lifetime of workload certificates; they are renewed at half to four fifths of it
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = duration)]
    pub(crate) leaf_ttl: Duration,
    /// Keys of issuers (jwksUri) are fetched again after this time
    #[arg(long, value_name = "TIME", default_value = "20m", value_parser = duration)]
    pub(crate) jwks_refresh: Duration,
    /// PEM file of authorities that servers of such keys may have, besides the system's
    #[arg(long, value_name = "FILE")]
    pub(crate) jwks_ca: Option<PathBuf>,
    /// Hosts that such keys may come from, *.example.com for all below; any unless given
    #[arg(long, value_name = "HOST,…")]
    pub(crate) jwks_hosts: Option<String>,
    #[command(flatten)]
    pub(crate) trail: super::Trail,
    #[command(flatten)]
    pub(crate) tracing: super::Tracing,
    /// Leave the terminal's session: set by `naka up`.
    #[arg(long, hide = true)]
    pub(crate) detached: bool,
    /// End with the parent process: set by `naka demo`.
    #[arg(long, hide = true)]
    pub(crate) with_parent: bool,
}

#[derive(Debug, Group)]
pub(crate) struct Proxy {
    #[command(subcommand)]
    pub(crate) command: ProxyCommand,
}

/// The processes of a data plane.
#[derive(Debug, Subcommand)]
pub(crate) enum ProxyCommand {
    /// Beside one workload
    Sidecar(ProxyRun),
    /// At the edge
    Gateway(GatewayRun),
    /// Beside a stock Envoy or a gRPC program, which it joins to the mesh
    Agent(ProxyRun),
    /// Inside a program's network namespace: started by `naka run`.
    #[command(hide = true)]
    Door(DoorRun),
}

#[derive(Debug, Group)]
pub(crate) struct DoorRun {
    /// Read by the door itself
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) words: Vec<OsString>,
}

#[derive(Debug, Group)]
pub(crate) struct ProxyRun {
    /// Settings file (JSON)
    #[arg(long, value_name = "FILE")]
    pub(crate) settings: PathBuf,
    /// End with the parent process: set by `naka run`.
    #[arg(long, hide = true)]
    pub(crate) with_parent: bool,
}

/// Which proxy a gateway is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum GatewayProxy {
    /// Naka's own
    Naka,
    /// A stock Envoy with an agent beside it
    Envoy,
}

#[derive(Debug, Group)]
pub(crate) struct GatewayRun {
    /// Settings file (JSON) instead of the options
    #[arg(long, value_name = "FILE", hide = true)]
    pub(crate) settings: Option<PathBuf>,
    /// Namespace of the gateway
    #[arg(short, long, value_name = "NS", default_value = "istio-system")]
    pub(crate) namespace: String,
    /// Name and service account of the gateway
    #[arg(
        short,
        long,
        value_name = "NAME",
        default_value = "istio-ingressgateway"
    )]
    pub(crate) service: String,
    /// Label that Gateway objects select; `istio: ingressgateway` unless given
    #[arg(short, long = "label", value_name = "K=V")]
    pub(crate) labels: Vec<String>,
    /// Address that listeners bind
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1")]
    pub(crate) bind: String,
    /// Where a port of the Gateway objects is really bound: `80=127.0.0.1:8080`
    #[arg(short, long = "port", value_name = "PORT=ADDR:PORT")]
    pub(crate) ports: Vec<String>,
    /// Which proxy stands at the edge
    #[arg(long, value_name = "PROXY", default_value = "naka")]
    pub(crate) proxy: GatewayProxy,
    /// Worker threads; one per core of the quota unless given
    #[arg(long, value_name = "N")]
    pub(crate) workers: Option<usize>,
    /// Join token, when the mesh runs elsewhere
    #[arg(long, value_name = "TOKEN", hide = true)]
    pub(crate) token: Option<String>,
    /// Number of this replica; the first free one unless given
    #[arg(long, value_name = "N")]
    pub(crate) instance: Option<u32>,
    /// End with the parent process: set by `naka demo`.
    #[arg(long, hide = true)]
    pub(crate) with_parent: bool,
}

#[derive(Debug, Group)]
pub(crate) struct Context {
    /// Context to make current; lists them unless given
    pub(crate) name: Option<String>,
}

#[derive(Debug, Group)]
pub(crate) struct Version {
    /// Print what this program is built of (CycloneDX JSON), for a scanner
    #[arg(long, conflicts_with = "output")]
    pub(crate) sbom: bool,
    /// How to print
    #[arg(short, long, value_name = "FORM")]
    pub(crate) output: Option<Output>,
}

#[derive(Debug, Group)]
pub(crate) struct Completion {
    /// Shell
    pub(crate) shell: Shell,
}

/// Shells with a completion script.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shell {
    /// GNU Bash
    Bash,
    /// Z shell
    Zsh,
    /// fish
    Fish,
}

#[derive(Debug, Group)]
pub(crate) struct DemoProgram {
    /// Name of the service
    #[arg(long)]
    pub(crate) name: String,
    /// Version
    #[arg(long, default_value = "v1")]
    pub(crate) version: String,
    /// Directory of the request logs
    #[arg(long)]
    pub(crate) log_dir: PathBuf,
    /// Status of its answers, when it is to be ill
    #[arg(long, default_value_t = 200)]
    pub(crate) status: u16,
    /// How long it takes over an answer, in milliseconds
    #[arg(long, default_value_t = 0)]
    pub(crate) delay_ms: u64,
    /// Services to call for each order, one after the other
    #[arg(long)]
    pub(crate) call: Vec<String>,
    /// Ask what this file (JSON) says instead of serving, and end
    #[arg(long)]
    pub(crate) ask: Option<PathBuf>,
}

#[derive(Debug, Group)]
pub(crate) struct Install {
    #[command(subcommand)]
    pub(crate) command: InstallCommand,
}

/// Where to install.
#[derive(Debug, Subcommand)]
pub(crate) enum InstallCommand {
    /// Units of the control plane and of workloads, for this machine
    Systemd(InstallSystemd),
    /// Not yet.
    #[command(hide = true)]
    Kubernetes,
}

#[derive(Debug, Group)]
pub(crate) struct InstallSystemd {
    /// Print the files and write nothing
    #[arg(long)]
    pub(crate) print: bool,
    /// Address that other machines reach the control plane by
    #[arg(long, value_name = "ADDR", value_parser = advertised)]
    pub(crate) advertise: Option<String>,
    /// Write below this directory instead of / and leave systemd alone, for images
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
}

#[derive(Debug, Group)]
pub(crate) struct Support {
    /// File to write; naka-support-<time>.tar.gz unless given
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Lines of each log, from its end
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub(crate) lines: usize,
    /// Leave everything in: only for the test that shows that redaction is what takes it out.
    #[arg(long, hide = true)]
    pub(crate) no_redaction: bool,
}

#[derive(Debug, Group)]
pub(crate) struct Man {
    /// Directory for the pages
    pub(crate) dir: PathBuf,
}

//! Options of `naka audit`.

use super::{Output, duration};
use clap::{Args as Group, Subcommand, ValueEnum};
use naka_control::export::Place;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How a control plane keeps the audit trail, and where it sends it.
#[derive(Debug, Group)]
pub(crate) struct Trail {
    /// Events of the log are kept for this time (8760h), all of them unless given; what is in force is always kept
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) audit_keep: Option<Duration>,
    /// Refused calls are kept for this time, 30 days (720h) unless given
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) audit_keep_denials: Option<Duration>,
    /// When refused calls cannot be recorded, or a place of --audit-to is too far behind: drop and count, which it does
    /// unless given, or refuse changes too
    #[arg(long, value_name = "WHAT", value_enum)]
    pub(crate) audit_when_full: Option<WhenFull>,
    /// Where every event goes by itself, masked: a file of JSON lines, or a collector of OpenTelemetry
    /// (http://collector:4318/v1/logs); may be given again
    #[arg(long, value_name = "FILE|URL", value_parser = place)]
    pub(crate) audit_to: Vec<String>,
    /// PEM file of authorities that the servers of collectors may have, besides the system's
    #[arg(long, value_name = "FILE", requires = "audit_to")]
    pub(crate) audit_to_ca: Option<PathBuf>,
    /// Events that a place of --audit-to may be behind before --audit-when-full refuse does so, 10000 unless given
    #[arg(long, value_name = "EVENTS", requires = "audit_to")]
    pub(crate) audit_most_behind: Option<u64>,
    /// MiB of a file of --audit-to before a new one is begun, 64 unless given; 8 full ones are kept
    #[arg(long, value_name = "MIB", requires = "audit_to", value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    pub(crate) audit_file_mib: Option<u64>,
}

/// Reads where events go; a file of a relative name lies where the command was given.
fn place(text: &str) -> Result<String, String> {
    match Place::parse(text)? {
        Place::Collector(url) => Ok(url),
        Place::File(path) => {
            let path = std::path::absolute(path).map_err(|error| error.to_string())?;
            let text = path.to_str().ok_or("the path cannot be written as text")?;
            Ok(text.to_owned())
        }
    }
}

/// What happens when a stream cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum WhenFull {
    /// Events are dropped and counted
    Drop,
    /// That, and no change is taken until that is over
    Refuse,
}

#[derive(Debug, Group)]
pub(crate) struct Audit {
    #[command(subcommand)]
    pub(crate) command: AuditCommand,
}

/// The log as evidence.
#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// How the log ends, what is kept beside it, and what could not be kept
    Status {
        /// How to print
        #[arg(short, long, value_name = "FORM")]
        output: Option<Output>,
    },
    /// How the log ends now: to be noted down where nobody who could edit the log can write
    Head,
    /// Whether the log is as it was written; exit code 1 when it is not
    Verify(AuditVerify),
    /// Events as lines of JSON, or to a collector of OpenTelemetry
    Export(AuditExport),
}

#[derive(Debug, Group)]
pub(crate) struct AuditVerify {
    /// A head noted before (SEQ:HASH); of an export, the field `head` of any line
    #[arg(long, value_name = "HEAD")]
    pub(crate) head: Vec<String>,
    /// Verify the directory of a mesh, in use or not, without asking a control plane: ~/.naka/mesh/NAME, or a copy
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// How to print
    #[arg(short, long, value_name = "FORM")]
    pub(crate) output: Option<Output>,
}

#[derive(Debug, Group)]
pub(crate) struct AuditExport {
    /// File to write, which must not exist; standard output unless given
    #[arg(conflicts_with = "otlp")]
    pub(crate) file: Option<PathBuf>,
    /// The log, or denials: refused calls of programs and of the API
    #[arg(long, value_name = "STREAM", default_value = "log")]
    pub(crate) stream: String,
    /// Not before: a length of time ago (24h), or a moment (2026-01-31T12:00:00Z)
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(crate) since: Option<u64>,
    /// Not after
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(crate) until: Option<u64>,
    /// First event; what the last export said where to go on
    #[arg(long, value_name = "SEQ", default_value_t = 1)]
    pub(crate) from: u64,
    /// Events whose kind begins so: object., certificate., token., secret., …
    #[arg(long, value_name = "KIND")]
    pub(crate) kind: Vec<String>,
    /// Values about people and credentials too; for admins, and remembered in the log
    #[arg(long)]
    pub(crate) unmasked: bool,
    /// Send them to a collector, OTLP over HTTP in JSON: http://collector:4318/v1/logs
    #[arg(long, value_name = "URL")]
    pub(crate) otlp: Option<String>,
    /// PEM file of authorities that the collector's server may have, besides the system's
    #[arg(long, value_name = "FILE", requires = "otlp")]
    pub(crate) otlp_ca: Option<PathBuf>,
}

/// Reads a moment, in milliseconds since 1970.
fn moment(text: &str) -> Result<u64, String> {
    if let Some(at) = naka_store::parse_rfc3339(text) {
        return Ok(at);
    }
    let ago = naka_types::duration::parse(text).map_err(|_| {
        "want a length of time ago (24h) or a moment in UTC (2026-01-31T12:00:00Z)".to_owned()
    })?;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let at = now.saturating_sub(ago).as_millis();
    Ok(u64::try_from(at).unwrap_or(u64::MAX))
}

//! `naka trace`, and where traces go.

use super::Output;
use clap::Args as Group;
use std::path::PathBuf;

#[derive(Debug, Group)]
pub(crate) struct Trace {
    /// Id of the trace or of the request, or its beginning; the newest that is held unless given
    pub(crate) id: Option<String>,
    /// How to print
    #[arg(short, long, value_name = "FORM")]
    pub(crate) output: Option<Output>,
}

#[derive(Debug, Group)]
pub(crate) struct Tracing {
    /// Where spans of traces that are kept go: a collector of OpenTelemetry (grpc://collector:4317,
    /// http://collector:4318/v1/traces; grpcs://, https://); may be given again
    #[arg(long, value_name = "URL", value_parser = place)]
    pub(crate) traces_to: Vec<String>,
    /// PEM file of authorities that the servers of these collectors may have, besides the system's
    #[arg(long, value_name = "FILE", requires = "traces_to")]
    pub(crate) traces_to_ca: Option<PathBuf>,
}

/// Reads an address of a collector.
fn place(text: &str) -> Result<String, String> {
    naka_control::traces::otlp::Place::new(text, None).map(|_| text.to_owned())
}

//! Options of `naka policy`.

use clap::{Args as Group, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Group)]
pub(crate) struct Policy {
    #[command(subcommand)]
    pub(crate) command: PolicyCommand,
}

/// What to do about policies.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Policies of a service-call matrix, on standard output: `naka policy generate -f matrix.yaml | naka apply -f -`
    Generate(Generate),
}

#[derive(Debug, Group)]
pub(crate) struct Generate {
    /// The matrix, or - for standard input
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Namespace of services that name none
    #[arg(short, long, value_name = "NS", default_value = "default")]
    pub(crate) namespace: String,
    /// How to print
    #[arg(short, long, value_name = "FORM", default_value = "yaml")]
    pub(crate) output: super::Output,
}

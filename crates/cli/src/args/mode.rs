//! Options of `naka mode`.

use super::{Output, duration};
use clap::{Args as Group, Subcommand};
use std::time::Duration;

#[derive(Debug, Group)]
pub(crate) struct Mode {
    #[command(subcommand)]
    pub(crate) command: ModeCommand,
}

/// What to do with modes.
#[derive(Debug, Subcommand)]
pub(crate) enum ModeCommand {
    /// All modes, and which of them are on
    List {
        /// How to print
        #[arg(short, long, value_name = "FORM")]
        output: Option<Output>,
    },
    /// Switch a mode on, or ask for the approvals that it needs
    On {
        #[command(flatten)]
        which: Which,
        /// Why, for the log
        #[arg(long, value_name = "TEXT")]
        why: String,
        /// Id of the incident, where the mode asks for one
        #[arg(long, value_name = "ID", default_value = "")]
        incident: String,
        /// How long it is on; the longest it may be unless given
        #[arg(long = "for", value_name = "TIME", value_parser = duration)]
        length: Option<Duration>,
    },
    /// Approve a mode that somebody else asked for
    Approve {
        #[command(flatten)]
        which: Which,
    },
    /// End a mode now, or take a request back
    Off {
        #[command(flatten)]
        which: Which,
        /// Why, for the log
        #[arg(long, value_name = "TEXT", default_value = "")]
        why: String,
    },
}

/// Which mode.
#[derive(Debug, Group)]
pub(crate) struct Which {
    /// Name of the mode
    pub(crate) name: String,
    /// Its namespace
    #[arg(short, long, value_name = "NS", default_value = "default")]
    pub(crate) namespace: String,
    /// How long to wait until every proxy has it
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub(crate) timeout: Duration,
}

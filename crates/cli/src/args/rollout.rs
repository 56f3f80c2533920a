//! Options of `naka rollout`.

use clap::{Args as Group, Subcommand};
use std::time::Duration;

#[derive(Debug, Group)]
pub(crate) struct Rollout {
    #[command(subcommand)]
    pub(crate) command: RolloutCommand,
}

/// What to do with rollouts.
#[derive(Debug, Subcommand)]
pub(crate) enum RolloutCommand {
    /// All of them, the oldest first
    List {
        /// How to print
        #[arg(short, long, value_enum)]
        output: Option<super::Output>,
    },
    /// Where one is, and why it waits
    Status {
        /// Its name
        name: String,
        /// Wait so long for its end
        #[arg(long, value_name = "TIME", value_parser = super::duration)]
        wait: Option<Duration>,
    },
    /// Let one that waits for a word go on; its gate has to be open
    Promote {
        /// Its name
        name: String,
    },
    /// Take one back
    Abort {
        /// Its name
        name: String,
    },
}

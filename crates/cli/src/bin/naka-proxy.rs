//! The proxy alone: what `naka run` and the demo start beside each program.
//!
//! The same code as `naka proxy sidecar` and `naka proxy gateway`, without the control plane and the command line
//! around it: their code would cost every sidecar several MiB of resident memory (design §9).

use std::process::ExitCode;

fn main() -> ExitCode {
    naka_cli::run_proxy(std::env::args_os().skip(1))
}

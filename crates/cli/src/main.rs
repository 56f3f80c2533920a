//! The `naka` binary: one line, so that everything it does can be tested as a library.

use std::process::ExitCode;

fn main() -> ExitCode {
    naka_cli::run(std::env::args_os())
}

//! The command line: the only crate that knows argv, the environment and exit codes.
//!
//! [`run`] parses, picks a command and turns its outcome into an exit code. Commands hold no logic that is worth a
//! unit test elsewhere: they read files, talk to the control plane's API and print. The two exceptions are here
//! because only they own processes: `naka run` (a program and its sidecar) and `naka demo` (a whole mesh).
//!
//! Invariants: nothing but `out` writes to the terminal; nothing but `exit` knows exit codes; nothing below this
//! crate reads an environment variable.

mod args;
mod client;
mod cmd;
mod contexts;
mod credential;
mod demo;
mod exit;
mod home;
mod hostwide;
mod launch;
mod manifests;
mod namespace;
mod notify;
mod out;
mod pkcs11;

/// Requests explained without a network, for the referee of the tests.
pub mod explain {
    pub use crate::cmd::explain::objects::{Implied, Question};
}

use crate::args::{Args, Command, ProxyCommand};
use crate::exit::{DONE, Exit, Outcome, USAGE};
use clap::Parser;
use std::ffi::OsString;
use std::process::ExitCode;

/// Runs the command line and returns its exit code.
#[must_use]
pub fn run(argv: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args = match Args::try_parse_from(argv) {
        Ok(args) => args,
        Err(error) => {
            let asked = !error.use_stderr();
            if asked {
                out::raw(error.render().to_string());
            } else {
                out::note(error.render().to_string().trim_end());
            }
            return ExitCode::from(if asked { DONE } else { USAGE });
        }
    };
    match dispatch(args) {
        Ok(()) => ExitCode::from(DONE),
        Err(exit) => {
            if !exit.message.is_empty() {
                out::note(format!("naka: {exit}"));
            }
            exit.into()
        }
    }
}

/// Runs one proxy process: `naka-proxy sidecar|gateway [--with-parent] --settings FILE`, as `naka run` starts it, or
/// `naka-proxy door …`, the process in the program's network namespace.
///
/// Read by hand, not by the parser of the command line: this is the entry of a binary that is kept small.
#[must_use]
pub fn run_proxy(argv: impl IntoIterator<Item = OsString>) -> ExitCode {
    match cmd::proxy::standalone(argv) {
        Ok(()) => ExitCode::from(DONE),
        Err(exit) => {
            out::note(format!("naka-proxy: {exit}"));
            exit.into()
        }
    }
}

/// Commands that own their threads come first; all others share one current-thread runtime.
fn dispatch(args: Args) -> Outcome {
    let context = args.context.as_deref();
    match args.command {
        Command::Control(control) => cmd::control::run(&control),
        Command::Backup(backup) => cmd::backup::backup(&backup),
        Command::Restore(restore) => cmd::backup::restore(&restore),
        Command::Proxy(proxy) => match proxy.command {
            ProxyCommand::Sidecar(sidecar) => cmd::proxy::sidecar(&sidecar),
            ProxyCommand::Agent(agent) => cmd::proxy::agent(&agent),
            ProxyCommand::Gateway(gateway) => cmd::proxy::gateway(&gateway, context),
            ProxyCommand::Door(door) => cmd::door::run(door.words),
        },
        Command::Completion(completion) => {
            cmd::version::completion(completion.shell);
            Ok(())
        }
        Command::Man(man) => cmd::version::man(&man.dir),
        Command::Install(install) => cmd::install::run(&install.command),
        Command::DemoProgram(program) => demo::program::run(&program),
        command => runtime()?.block_on(with_runtime(command, context)),
    }
}

async fn with_runtime(command: Command, context: Option<&str>) -> Outcome {
    match command {
        Command::Demo(demo) => demo::run(&demo).await,
        Command::Up(up) => cmd::up::up(&up).await,
        Command::Down(down) => cmd::up::down(&down).await,
        Command::Run(run) => cmd::run::run(&run, context).await,
        Command::Join(join) => cmd::join::run(&join).await,
        Command::Apply(apply) => cmd::apply::apply(&apply, context).await,
        Command::Diff(diff) => cmd::diff::run(&diff, context).await,
        Command::Delete(delete) => cmd::delete::run(&delete, context).await,
        Command::Confirm(confirm) => cmd::apply::confirm(&confirm, context).await,
        Command::Split(split) => cmd::split::run(&split, context).await,
        Command::History(history) => cmd::history::history(&history, context).await,
        Command::Undo(undo) => cmd::history::undo(&undo, context).await,
        Command::Mode(mode) => cmd::mode::run(&mode, context).await,
        Command::Status(status) => cmd::status::run(&status, context).await,
        Command::Why(why) => cmd::why::run(&why, context).await,
        Command::Trace(trace) => cmd::trace::run(&trace, context).await,
        Command::Get(get) => cmd::get::run(&get, context).await,
        Command::Describe(describe) => cmd::describe::run(&describe, context).await,
        Command::Explain(explain) => cmd::explain::run(&explain, context).await,
        Command::Check(check) => cmd::check::run(&check, context).await,
        Command::Support(support) => cmd::support::run(&support, context).await,
        Command::Policy(policy) => cmd::policy::run(&policy),
        Command::Cert(cert) => cmd::cert::run(&cert, context).await,
        Command::Rollout(rollout) => cmd::rollout::run(&rollout, context).await,
        Command::Audit(audit) => cmd::audit::run(&audit, context).await,
        Command::Ca(ca) => cmd::ca::run(&ca, context).await,
        Command::Store(store) => cmd::store::run(&store, context).await,
        Command::Token(token) => cmd::token::run(&token, context).await,
        Command::Context(choose) => cmd::context::run(&choose),
        Command::Version(version) => cmd::version::run(&version, context).await,
        Command::Control(_)
        | Command::Backup(_)
        | Command::Restore(_)
        | Command::Proxy(_)
        | Command::Completion(_)
        | Command::Man(_)
        | Command::Install(_)
        | Command::DemoProgram(_) => Err(Exit::failed("not a command of the shared runtime")),
    }
}

fn runtime() -> Outcome<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}

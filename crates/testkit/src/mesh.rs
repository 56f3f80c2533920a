//! One mesh under its own `NAKA_HOME`: control plane, workloads under `naka run`, and the command line.

use crate::program::{Program, children, free_port};
use crate::user;
use crate::wait::until;
use anyhow::{Context, Result};
use serde_json::Value;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;
use tempfile::TempDir;

/// How long anything that should happen at once may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(20);

/// A mesh of its own. Everything it started ends with it.
#[derive(Debug)]
pub struct Mesh {
    home: TempDir,
    control: Option<Program>,
    control_options: Vec<String>,
    unprivileged: bool,
    environment: Vec<(String, OsString)>,
    prefix: Vec<OsString>,
}

/// The shipped binary, built beside the tests.
///
/// # Panics
/// When it was not built.
#[must_use]
pub fn naka() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let beside = test.parent().expect("a file has a directory");
    // Tests live in target/<profile>/deps, programs one above.
    let dir = if beside.ends_with("deps") {
        beside.parent().expect("above deps")
    } else {
        beside
    };
    let binary = dir.join("naka");
    assert!(
        binary.exists(),
        "{} is missing: build it first with `cargo build -p naka-cli` in the same profile",
        binary.display()
    );
    binary
}

/// The program of the tests; see its own help.
///
/// # Panics
/// When it was not built.
#[must_use]
pub fn testprog() -> PathBuf {
    let binary = naka().with_file_name("naka-testprog");
    assert!(
        binary.exists(),
        "{} is missing: build it with `cargo build -p naka-testkit`",
        binary.display()
    );
    binary
}

impl Mesh {
    /// Starts a control plane and waits until it answers.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn up() -> Self {
        Self::up_with(&[])
    }

    /// As [`Mesh::up`], with options of `naka control`.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn up_with(control_options: &[&str]) -> Self {
        let mut mesh = Self::new(control_options, false);
        mesh.start_control();
        mesh
    }

    /// `naka up` by a user without rights whose home is empty, and so is everything that follows, see [`user`].
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn up_unprivileged() -> Self {
        let mesh = Self::new(&[], true);
        let account = mesh.home.path().join("user");
        std::fs::create_dir(&account).expect("a home directory");
        user::give(mesh.home.path());
        user::give(&account);
        mesh.ok(["up"]);
        mesh
    }

    fn new(control_options: &[&str], unprivileged: bool) -> Self {
        let home = tempfile::Builder::new()
            .prefix("naka-test-")
            .tempdir()
            .expect("a temporary directory");
        Self {
            home,
            control: None,
            control_options: control_options.iter().map(|o| (*o).to_owned()).collect(),
            unprivileged,
            environment: Vec::new(),
            prefix: Vec::new(),
        }
    }

    /// A mesh that is not started yet, for [`Mesh::set`], [`Mesh::within`] and [`Mesh::start_control`].
    ///
    /// # Panics
    /// When the disk refuses.
    #[must_use]
    pub fn down_with(control_options: &[&str]) -> Self {
        Self::new(control_options, false)
    }

    /// Adds a variable to the environment of every command from now on.
    pub fn set(&mut self, name: &str, value: impl Into<OsString>) {
        self.environment.push((name.to_owned(), value.into()));
    }

    /// Runs every command from now on by way of this one, for example `nsenter …`; none unless given.
    pub fn within<I: Into<OsString>>(&mut self, prefix: impl IntoIterator<Item = I>) {
        self.prefix = prefix.into_iter().map(Into::into).collect();
    }

    /// Starts the control plane in the foreground of the test (so that it can be killed), after [`Mesh::kill_control`] too.
    ///
    /// # Panics
    /// When it does not answer soon.
    pub fn start_control(&mut self) {
        let program = Program::start(
            "control",
            self.home.path(),
            &mut self.command(
                std::iter::once("control").chain(self.control_options.iter().map(String::as_str)),
            ),
        )
        .expect("start naka control");
        self.control = Some(program);
        until("the control plane answers", SOON, || {
            self.naka(["status"]).status.success().then_some(())
        });
    }

    /// Kills the control plane with SIGKILL.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill_control(&mut self) {
        let mut control = self.control.take().expect("the control plane runs");
        control.signal(rustix::process::Signal::KILL);
        control.wait(SOON).expect("a killed process ends");
    }

    /// Process id of the control plane.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn control_pid(&self) -> u32 {
        self.control.as_ref().expect("the control plane runs").pid()
    }

    /// Directory of the mesh and of all logs.
    #[must_use]
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// A `naka` command with this mesh's environment and no other.
    pub fn command<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Command {
        let mut command = if self.unprivileged {
            user::command(naka().as_os_str())
        } else if let Some((first, rest)) = self.prefix.split_first() {
            let mut command = Command::new(first);
            command.args(rest).arg(naka());
            command
        } else {
            Command::new(naka())
        };
        command
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(self.home.path());
        if self.unprivileged {
            command.env("HOME", self.home.path().join("user"));
        } else {
            command
                .env("HOME", self.home.path())
                .env("NAKA_HOME", self.home.path());
        }
        command
    }

    /// Runs a command to its end.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn naka<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Output {
        self.command(args).output().expect("naka starts")
    }

    /// Runs a command that must succeed and returns its stdout.
    ///
    /// # Panics
    /// When it exits with anything but 0.
    #[track_caller]
    pub fn ok<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> String {
        let args: Vec<_> = args.into_iter().map(|a| a.as_ref().to_owned()).collect();
        let output = self.naka(&args);
        assert!(
            output.status.success(),
            "naka {args:?} exited with {:?}\nstdout: {}\nstderr: {}",
            output.status.code(),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Writes a file into the mesh's directory.
    ///
    /// # Panics
    /// When the disk refuses.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.home.path().join(name);
        std::fs::write(&path, text).expect("write a test file");
        path
    }

    /// Applies manifests and waits until every proxy has them.
    #[track_caller]
    pub fn apply(&self, name: &str, manifests: &str) {
        let file = self.file(name, manifests);
        self.ok([
            OsStr::new("apply"),
            OsStr::new("--wait"),
            OsStr::new("-f"),
            file.as_os_str(),
        ]);
    }

    /// Starts `naka run … -- COMMAND` under a name for its log files.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn run(&self, name: &str, options: &[&str], command: &[&str]) -> Program {
        let args = ["run"].iter().chain(options).chain(&["--"]).chain(command);
        Program::start(name, self.home.path(), &mut self.command(args)).expect("start naka run")
    }

    /// Starts an HTTP server of service `service` and version `version` in the mesh; [`Mesh::logged`] reads its log.
    ///
    /// # Panics
    /// When it does not become ready soon.
    pub fn serve(&self, service: &str, version: &str) -> Program {
        let port = free_port().to_string();
        let name = format!("{service}-{version}");
        let log = self.log(&name);
        let label = format!("version={version}");
        let prog = testprog();
        let prog = prog.to_str().expect("a printable path");
        let program = self.run(
            &name,
            &["-s", service, "-p", &port, "-l", &label],
            &[
                prog,
                "serve",
                "--port",
                &port,
                "--name",
                service,
                "--version",
                version,
                "--log",
                log.to_str().expect("printable"),
            ],
        );
        self.wait_ready(service, Some(&port), &program);
        program
    }

    /// Waits until the control plane calls a workload of `service` healthy; with a port, the one with that port.
    ///
    /// # Panics
    /// When that does not happen soon.
    pub fn wait_ready(&self, service: &str, port: Option<&str>, program: &Program) {
        let is_it = |workload: &Value| {
            let ports = workload["ports"].as_array().map_or(&[][..], Vec::as_slice);
            workload["service"] == service
                && workload["state"] == "healthy"
                && port.is_none_or(|port| {
                    ports
                        .iter()
                        .any(|p| p["port"].as_u64() == port.parse().ok())
                })
        };
        until(
            format_args!("a healthy workload of {service}: {}", program.said()),
            SOON,
            || self.workloads().iter().any(is_it).then_some(()),
        );
    }

    /// Waits until a workload of `service` with the label `version` is healthy.
    ///
    /// # Panics
    /// When that does not happen soon.
    pub fn wait_version(&self, service: &str, version: &str) {
        until(format_args!("a healthy {service} {version}"), SOON, || {
            self.workloads()
                .iter()
                .any(|workload| {
                    workload["service"] == service
                        && workload["labels"]["version"] == version
                        && workload["state"] == "healthy"
                })
                .then_some(())
        });
    }

    /// The workloads that the control plane knows.
    #[must_use]
    pub fn workloads(&self) -> Vec<Value> {
        let output = self.naka(["get", "workloads", "-A", "-o", "json"]).stdout;
        let list: Value = serde_json::from_slice(&output).unwrap_or_default();
        list["items"].as_array().cloned().unwrap_or_default()
    }

    /// Path of a program's own log.
    #[must_use]
    pub fn log(&self, name: &str) -> PathBuf {
        self.home.path().join(format!("{name}.jsonl"))
    }

    /// Lines that a program logged.
    #[must_use]
    pub fn logged(&self, name: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.log(name)).unwrap_or_default();
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// A load from inside the mesh: `options` of `naka run`, then the load's own arguments; its log is `name`.
    pub fn load(&self, name: &str, options: &[&str], arguments: &[&str]) -> Program {
        let (prog, log) = (testprog(), self.log(name));
        let mut command = vec![
            prog.to_str().unwrap_or_default(),
            "load",
            "--log",
            log.to_str().unwrap_or_default(),
        ];
        command.extend_from_slice(arguments);
        self.run(name, options, &command)
    }

    /// Process id of the sidecar that `naka run` started beside its program.
    ///
    /// # Errors
    /// When there is none.
    pub fn sidecar_of(&self, run: &Program) -> Result<u32> {
        let mut queue = vec![run.pid()];
        while let Some(pid) = queue.pop() {
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if command.split(|b| *b == 0).any(|word| word == b"sidecar") {
                return Ok(pid);
            }
            queue.extend(children(pid));
        }
        Err(anyhow::anyhow!("no sidecar below process {}", run.pid())).context(run.err())
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        // The other control planes are children of the test and end with it.
        if self.unprivileged {
            let _ = self.naka(["down"]);
        }
    }
}

//! `naka install systemd`: the units of this installation, printed or written.
//!
//! The units are the files of `packaging/`, the same that `make install` and the tarball carry; only the path of the
//! binary is filled in. Applying is idempotent and says of each file what happened to it. A file of options that
//! exists is the operator's and is kept as it is.

use crate::args::{InstallCommand, InstallSystemd};
use crate::exit::{Exit, Outcome};
use crate::out;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Path of the binary as it stands in the files of `packaging/`.
const BINARY: &str = "/usr/local/bin/naka";
const CONTROL: &str = include_str!("../../../../packaging/systemd/naka-control.service");
const RUN: &str = include_str!("../../../../packaging/systemd/naka-run@.service");
const HOST_CAPTURE: &str = include_str!("../../../../packaging/systemd/host-capture.conf");
const USER: &str = include_str!("../../../../packaging/sysusers.d/naka.conf");

/// One file of the installation.
struct Part {
    path: &'static str,
    text: String,
    mode: u32,
    /// Belongs to the operator once it exists.
    kept: bool,
}

/// What happened to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Happened {
    Written,
    Changed,
    Unchanged,
    Kept,
}

/// Runs `naka install`.
pub(crate) fn run(command: &InstallCommand) -> Outcome {
    match command {
        InstallCommand::Systemd(args) => systemd(args),
        InstallCommand::Kubernetes => Err(Exit::failed(
            "naka install kubernetes: not yet; Naka runs beside programs on machines (naka install systemd)",
        )),
    }
}

fn systemd(args: &InstallSystemd) -> Outcome {
    let binary = std::env::current_exe()?;
    let parts = parts(&binary, args.advertise.as_deref())?;
    if args.print {
        for part in &parts {
            out::line(format!("# {}", part.path));
            out::line(&part.text);
        }
        return Ok(());
    }
    let root = args.root.clone().unwrap_or_else(|| PathBuf::from("/"));
    if args.root.is_none() && !rustix::process::geteuid().is_root() {
        return Err(Exit::failed(
            "naka install systemd writes below /etc and needs root; see what it would write with --print",
        ));
    }
    for part in &parts {
        let happened = apply(&root, part)?;
        let word = match happened {
            Happened::Written => "written",
            Happened::Changed => "changed",
            Happened::Unchanged => "unchanged",
            Happened::Kept => "kept as it is",
        };
        out::line(format!("{}: {word}", part.path));
    }
    make_dir(&root.join("etc/naka/run"))?;
    if args.root.is_none() {
        tell_systemd();
    }
    out::line("next: systemctl enable --now naka-control; then a workload: docs/tasks/systemd.md");
    Ok(())
}

fn parts(binary: &Path, advertise: Option<&str>) -> Outcome<Vec<Part>> {
    let binary = binary
        .to_str()
        .filter(|path| !path.contains(char::is_whitespace) && !path.contains(['%', '$', '"', '\\']))
        .ok_or_else(|| {
            Exit::failed(format!(
                "{} cannot stand in a unit: install naka under a path without blanks, %, $ and quotes",
                binary.display()
            ))
        })?;
    let unit = |path, text: &str| Part {
        path,
        text: text.replace(BINARY, binary),
        mode: 0o644,
        kept: false,
    };
    let options = advertise.map_or_else(String::new, |address| format!("--advertise {address}"));
    Ok(vec![
        Part {
            path: "/etc/sysusers.d/naka.conf",
            ..unit("", USER)
        },
        unit("/etc/systemd/system/naka-control.service", CONTROL),
        unit("/etc/systemd/system/naka-run@.service", RUN),
        unit("/etc/naka/host-capture.conf", HOST_CAPTURE),
        Part {
            path: "/etc/naka/control.env",
            text: format!(
                "# Options of `naka control`, see naka control --help.\nNAKA_CONTROL_OPTIONS=\"{options}\"\n"
            ),
            mode: 0o644,
            kept: true,
        },
    ])
}

fn apply(root: &Path, part: &Part) -> Outcome<Happened> {
    let path = root.join(part.path.trim_start_matches('/'));
    let failed =
        |error: std::io::Error| Exit::failed(format!("cannot write {}: {error}", path.display()));
    let before = match std::fs::read_to_string(&path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(error)),
    };
    match &before {
        Some(_) if part.kept => return Ok(Happened::Kept),
        Some(text) if *text == part.text => return Ok(Happened::Unchanged),
        _ => {}
    }
    if let Some(dir) = path.parent() {
        make_dir(dir)?;
    }
    let temporary = path.with_extension("naka-new");
    let write = || -> std::io::Result<()> {
        use std::io::Write;
        let _ = std::fs::remove_file(&temporary);
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(part.mode)
            .open(&temporary)?;
        file.write_all(part.text.as_bytes())?;
        file.sync_data()?;
        std::fs::rename(&temporary, &path)
    };
    write().map_err(failed)?;
    Ok(if before.is_some() {
        Happened::Changed
    } else {
        Happened::Written
    })
}

fn make_dir(dir: &Path) -> Outcome {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(dir)
        .map_err(|error| Exit::failed(format!("cannot make {}: {error}", dir.display())))
}

/// Makes the user and has the units read. What does not work is said: the files are there all the same.
fn tell_systemd() {
    for command in [
        &["systemd-sysusers", "/etc/sysusers.d/naka.conf"][..],
        &["systemctl", "daemon-reload"],
    ] {
        let line = command.join(" ");
        if command[0] == "systemctl" && !Path::new("/run/systemd/system").exists() {
            out::line("systemd does not run here: units are read when it does");
            continue;
        }
        match Command::new(command[0]).args(&command[1..]).status() {
            Ok(status) if status.success() => out::line(format!("{line}: done")),
            Ok(status) => out::note(format!("naka: {line}: {status}; run it yourself")),
            Err(error) => out::note(format!("naka: {line}: {error}; run it yourself")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Happened, apply, parts};
    use std::path::Path;

    #[test]
    fn units_name_the_binary_and_are_written_once() {
        let root = tempfile::tempdir().unwrap();
        let files = parts(Path::new("/opt/naka/bin/naka"), Some("10.0.0.5")).unwrap();
        for part in &files {
            assert!(!part.text.contains("/usr/local"), "{}", part.path);
            assert_eq!(apply(root.path(), part).unwrap(), Happened::Written);
        }
        let again: Vec<Happened> = files
            .iter()
            .map(|part| apply(root.path(), part).unwrap())
            .collect();
        assert!(
            again
                .iter()
                .all(|h| matches!(h, Happened::Unchanged | Happened::Kept)),
            "{again:?}"
        );

        let unit = root.path().join("etc/systemd/system/naka-control.service");
        let options = root.path().join("etc/naka/control.env");
        assert!(
            std::fs::read_to_string(&options)
                .unwrap()
                .contains("--advertise 10.0.0.5")
        );
        for file in [&unit, &options] {
            std::fs::write(file, "# by hand\n").unwrap();
        }
        let mended: Vec<Happened> = files
            .iter()
            .map(|part| apply(root.path(), part).unwrap())
            .filter(|happened| *happened != Happened::Unchanged)
            .collect();
        assert_eq!(
            mended,
            [Happened::Changed, Happened::Kept],
            "the unit is ours, the options are the operator's"
        );
        assert!(parts(Path::new("/opt/my naka"), None).is_err());
    }
}

//! What is installed: units that systemd's own tools find sound and tight, the ports of a system-wide control plane,
//! and a tarball that is the same each time and from which a mesh runs.

use naka_testkit::mesh::{Mesh, SOON, naka, testprog};
use naka_testkit::program::{Program, free_port};
use naka_testkit::user;
use naka_testkit::wait::until;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// `systemd-analyze security` counts in tenths: 3.0 is what the units promise.
const EXPOSURE: &str = "--threshold=30";

fn tree() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("crates/testkit").to_owned()
}

fn analyze(args: &[&str], unit: &Path) -> Output {
    Command::new("systemd-analyze")
        .args(args)
        .arg(unit)
        .env("SYSTEMD_LOG_TARGET", "console")
        .output()
        .expect("systemd-analyze is installed by scripts/setup.sh")
}

fn sound(unit: &Path) -> Result<(), String> {
    let verified = analyze(&["verify", "--man=no"], unit);
    let said = String::from_utf8_lossy(&verified.stderr).into_owned();
    let name = unit.file_name().expect("a name").to_string_lossy();
    // Other units of the machine are none of ours.
    let ours: Vec<&str> = said.lines().filter(|line| line.contains(&*name)).collect();
    if verified.status.success() && ours.is_empty() {
        Ok(())
    } else {
        Err(said)
    }
}

fn tight(unit: &Path) -> Result<(), String> {
    let out = analyze(
        &["security", "--offline=true", "--no-pager", EXPOSURE],
        unit,
    );
    let said = String::from_utf8_lossy(&out.stdout);
    match (out.status.success(), said.contains("Overall exposure")) {
        (true, true) => Ok(()),
        _ => Err(format!("{said}{}", String::from_utf8_lossy(&out.stderr))),
    }
}

/// Each unit as `naka install systemd` writes it, an instance of the template among them.
fn installed(root: &Path) -> [PathBuf; 2] {
    let out = Command::new(naka())
        .args(["install", "systemd", "--advertise", "10.0.0.5", "--root"])
        .arg(root)
        .output()
        .expect("naka starts");
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let units = root.join("etc/systemd/system");
    let instance = units.join("naka-run@payment.service");
    std::fs::copy(units.join("naka-run@.service"), &instance).expect("the template");
    [units.join("naka-control.service"), instance]
}

#[test]
fn units_are_sound_and_tight() {
    let root = tempfile::tempdir().expect("a directory");
    for unit in installed(root.path()) {
        sound(&unit).expect("systemd reads it without a word");
        tight(&unit).expect("3.0 or less");
        let text = std::fs::read_to_string(&unit).expect("the unit");
        for directory in ["/etc/naka", "NAKA_HOME=/var/lib/naka"] {
            assert!(text.contains(directory), "{directory}");
        }
        assert!(
            text.contains(&format!("ExecStart={} ", naka().display())),
            "{text}"
        );

        // The twins: a wrong word is found, and without its hardening a unit is exposed.
        let directory = root.path().join("twin");
        std::fs::create_dir_all(&directory).expect("a directory");
        let twin = directory.join(unit.file_name().expect("a name"));
        std::fs::write(&twin, text.replace("WatchdogSec=", "WatchdogSecs=")).expect("the twin");
        sound(&twin).expect_err("a word that systemd does not know");
        let bare: String = text
            .lines()
            .filter(|line| !line.starts_with("Protect") && !line.starts_with("SystemCall"))
            .map(|line| format!("{line}\n"))
            .collect();
        std::fs::write(&twin, bare).expect("the twin");
        tight(&twin).expect_err("more exposed than 3.0");
    }
    let run = std::fs::read_to_string(root.path().join("etc/systemd/system/naka-run@.service"))
        .expect("the template");
    for needed in [
        "RestrictNamespaces=user net",
        "PrivateUsers=no",
        "AF_NETLINK",
    ] {
        assert!(run.contains(needed), "capture without root needs {needed}");
    }
    let printed = Command::new(naka())
        .args(["install", "systemd", "--print"])
        .output()
        .expect("naka starts");
    let printed = String::from_utf8_lossy(&printed.stdout).into_owned();
    assert!(
        printed.contains(run.trim()),
        "what is printed is what is written"
    );
    let not_yet = Command::new(naka())
        .args(["install", "kubernetes"])
        .output()
        .expect("naka starts");
    assert_eq!(not_yet.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&not_yet.stderr).contains("not yet"));
}

/// In a network of its own, as the ports are fixed: what listens is read from the kernel's own table.
#[test]
fn a_system_wide_control_plane_has_the_ports_of_the_contracts() {
    let home = tempfile::tempdir().expect("a directory");
    let script = r#"
        set -e
        ip link set lo up
        "$1" control --system & first=$!
        until curl -sf http://127.0.0.1:15014/healthz/ready; do
            kill -0 $first || exit 3
            curl -s -o /dev/null --retry 1 --retry-delay 0 http://127.0.0.1:1/ || true
        done
        cat /proc/net/tcp
        "$1" control --system --mesh other && exit 4
        kill $first; wait $first
    "#;
    let ways: &[&str] = if user::root() {
        &["--net"]
    } else {
        &["--user", "--map-root-user", "--net"]
    };
    let out = Command::new("unshare")
        .args(ways)
        .args(["sh", "-c", script, "sh"])
        .arg(naka())
        .env("NAKA_HOME", home.path())
        .output()
        .expect("unshare is there");
    let (said, errors) = (
        String::from_utf8_lossy(&out.stdout).into_owned(),
        String::from_utf8_lossy(&out.stderr).into_owned(),
    );
    assert!(out.status.success(), "{said}{errors}");
    assert!(said.contains("\"ready\":true"), "{said}");
    for port in [15012, 15014, 15080] {
        let listens = format!("0100007F:{port:04X} 00000000:0000 0A");
        assert!(said.contains(&listens), "{port}: {said}");
    }
    assert!(
        errors.contains("15012") && errors.contains("ss -ltnp"),
        "the twin finds the port taken and says what to do: {errors}"
    );
}

/// As the unit does it: a home of its own, and the token in a directory of credentials. Once joined the saved
/// certificate is enough; the twin is the same start before there was a token.
#[test]
fn a_credential_of_the_service_manager_joins_a_workload_once() {
    let mesh = Mesh::up();
    let (home, credentials) = (
        mesh.home().join("workload"),
        mesh.home().join("credentials"),
    );
    for directory in [&home, &credentials] {
        std::fs::create_dir(directory).expect("a directory");
    }
    let give = |token: &str| {
        std::fs::write(credentials.join("join-token"), token).expect("a credential");
    };
    let run = || {
        mesh.command(["run", "-s", "payment", "--", "sh", "-c", "env; echo ran"])
            .env("NAKA_HOME", &home)
            .env("CREDENTIALS_DIRECTORY", &credentials)
            .output()
            .expect("naka starts")
    };
    give("none");
    let refused = run();
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    give(&mesh.ok(["token", "create", "-s", "payment"]));
    let joined = run();
    let said = String::from_utf8_lossy(&joined.stdout).into_owned();
    assert!(
        joined.status.success() && said.contains("ran"),
        "{joined:?}"
    );
    assert!(
        !said.contains("CREDENTIALS_DIRECTORY"),
        "credentials are not the program's: {said}"
    );
    give("none");
    let again = run();
    assert!(
        again.status.success(),
        "the certificate is saved: {again:?}"
    );
    std::fs::remove_dir_all(home.join("run")).expect("the saved certificate");
    assert_eq!(run().status.code(), Some(2), "without both nobody gets in");
}

fn dist() -> PathBuf {
    let built = naka().parent().expect("a directory").to_owned();
    let out = Command::new("scripts/dist.sh")
        .current_dir(tree())
        .env("NAKA_BUILT", built)
        .env("SOURCE_DATE_EPOCH", "1700000000")
        .output()
        .expect("scripts/dist.sh starts");
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let said = String::from_utf8_lossy(&out.stdout);
    tree().join(said.lines().last().expect("the file's name"))
}

#[track_caller]
fn ok(command: &mut Command) -> String {
    let out = command.output().expect("it starts");
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(
        out.status.success(),
        "{command:?}: {said}{}",
        String::from_utf8_lossy(&out.stderr)
    );
    said
}

#[test]
fn a_tarball_is_the_same_each_time_and_a_mesh_runs_from_it() {
    let file = dist();
    let first = std::fs::read(&file).expect("the tarball");
    assert!(
        first == std::fs::read(dist()).expect("again"),
        "the same tree gives the same bytes"
    );

    let root = tempfile::tempdir().expect("an empty root");
    ok(Command::new("tar")
        .arg("xzf")
        .arg(&file)
        .args(["--strip-components=1", "-C"])
        .arg(root.path()));
    ok(Command::new("sha256sum")
        .args(["--quiet", "-c", "SHA256SUMS"])
        .current_dir(root.path()));
    for part in [
        "LICENSE",
        "README.md",
        "bin/naka-proxy",
        "lib/systemd/system/naka-control.service",
        "lib/systemd/system/naka-run@.service",
        "lib/sysusers.d/naka.conf",
        "share/bash-completion/completions/naka",
        "share/zsh/site-functions/_naka",
        "share/fish/vendor_completions.d/naka.fish",
        "share/man/man1/naka.1",
        "share/man/man1/naka-run.1",
    ] {
        let found = root.path().join(part).metadata().expect(part);
        assert!(
            found.len() > 50 && found.permissions().mode() & 0o022 == 0,
            "{part}"
        );
    }
    let man = Command::new("man")
        .args(["-l", "--warnings", "share/man/man1/naka-run.1"])
        .current_dir(root.path())
        .output();
    if let Ok(man) = man {
        assert!(
            String::from_utf8_lossy(&man.stdout).contains("--service"),
            "{man:?}"
        );
    }
    ok(Command::new("bash")
        .arg("-n")
        .arg(root.path().join("share/bash-completion/completions/naka")));
    runs_a_mesh(root.path());
}

/// A mesh of nothing but what was unpacked.
fn runs_a_mesh(root: &Path) {
    let home = tempfile::tempdir().expect("a home");
    let binary = root.join("bin/naka");
    let command = |args: &[&str]| {
        let mut command = Command::new(&binary);
        command
            .args(args)
            .env("NAKA_HOME", home.path())
            .env("HOME", home.path());
        command
    };
    assert!(ok(&mut command(&["version"])).starts_with("naka "));
    let _control =
        Program::start("control", home.path(), &mut command(&["control"])).expect("starts");
    until("the control plane answers", SOON, || {
        command(&["status"])
            .output()
            .ok()?
            .status
            .success()
            .then_some(())
    });
    let port = free_port().to_string();
    let log = home.path().join("payment.jsonl");
    let (prog, log) = (testprog(), log.to_str().expect("printable"));
    let prog = prog.to_str().expect("printable");
    let serve = [
        "run",
        "-s",
        "payment",
        "-p",
        &port,
        "--",
        prog,
        "serve",
        "--port",
        &port,
        "--name",
        "payment",
        "--version",
        "v1",
        "--log",
        log,
    ];
    let serving = Program::start("payment", home.path(), &mut command(&serve)).expect("starts");
    let answer = until(
        format_args!("an answer through the mesh: {}", serving.said()),
        SOON,
        || {
            let call = ["run", "--", "curl", "-sf", "http://payment/"];
            let out = command(&call).output().ok()?;
            out.status
                .success()
                .then(|| String::from_utf8_lossy(&out.stdout).into_owned())
        },
    );
    assert!(answer.contains("payment"), "{answer}");
    let proxy = serving_proxy(serving.pid());
    assert_eq!(
        proxy,
        root.join("bin/naka-proxy"),
        "the small binary of the tarball stands beside it"
    );
}

/// The program that the sidecar of `naka run` is, from `/proc`.
fn serving_proxy(run: u32) -> PathBuf {
    naka_testkit::program::children(run)
        .into_iter()
        .filter_map(|pid| std::fs::read_link(format!("/proc/{pid}/exe")).ok())
        .find(|exe| exe.ends_with("naka-proxy"))
        .unwrap_or_default()
}

/// The check that `make dist` makes of its own binaries finds what it is for: a binary built without the remapped
/// paths names the machine's cargo directory.
#[test]
fn paths_of_the_building_machine_are_found() {
    let dir = tempfile::tempdir().expect("a directory");
    let check = |path: &str| {
        Command::new(tree().join("scripts/paths.sh"))
            .arg(dir.path())
            .arg(path)
            .output()
            .expect("it starts")
            .status
            .success()
    };
    std::fs::write(dir.path().join("clean"), b"\0/cargo/registry/src/x.rs\0").expect("a file");
    assert!(check("/home/somebody/.cargo"));
    std::fs::write(
        dir.path().join("leak"),
        b"\0/home/somebody/.cargo/registry/x.rs\0",
    )
    .expect("a file");
    assert!(!check("/home/somebody/.cargo"));
}

#[test]
fn make_install_puts_everything_below_its_prefix() {
    let root = tempfile::tempdir().expect("a directory");
    let built = naka().parent().expect("a directory").display().to_string();
    ok(Command::new("make")
        .current_dir(tree())
        .args(["-s", "install", "PREFIX=/opt/naka"])
        .arg(format!("DESTDIR={}", root.path().display()))
        .arg(format!("NAKA_BUILT={built}")));
    let below = root.path().join("opt/naka");
    assert!(
        ok(Command::new(below.join("bin/naka"))
            .arg("version")
            .env("NAKA_HOME", root.path()))
        .starts_with("naka ")
    );
    let unit = std::fs::read_to_string(below.join("lib/systemd/system/naka-control.service"))
        .expect("the unit");
    assert!(
        unit.contains("ExecStart=/opt/naka/bin/naka control"),
        "{unit}"
    );
}

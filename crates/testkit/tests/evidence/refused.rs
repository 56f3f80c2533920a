//! Capture without root on machines with something in its way: namespaces are refused, the tool is missing, or a daemon
//! answers for names. The machine is changed in a mount or user namespace of the test's own; each twin is without it.

use crate::namespace::{PAYMENT, payment, script};
use naka_testkit::mesh::{Mesh, SOON};
use naka_testkit::program::Program;
use naka_testkit::user;
use naka_testkit::wait::until;
use std::process::Command;

/// Where the system refuses a namespace `naka run` says in one line why and what to change, and proxy variables are
/// used; `--capture namespace` fails. Each refusal is real: a limit of zero, and no `nft`.
#[test]
fn where_namespaces_are_refused_proxy_mode_takes_over() {
    let mesh = Mesh::up_unprivileged();
    let _payment = payment(&mesh, &[]);
    for (name, remedy) in [
        ("limits", "user.max_user_namespaces"),
        ("nft", "apt install nftables"),
    ] {
        let run = |capture: &str| {
            let mut run = refused_run(&mesh, name, capture);
            let status = run.wait(SOON).expect("it ends");
            (status.code(), run.out(), run.err())
        };
        let (code, out, err) = run("auto");
        assert_eq!(code, Some(0), "{name}: {err}");
        assert!(out.contains("/sa/user-"), "{name}: {out}");
        assert_eq!(err.lines().count(), 1, "{name}: {err}");
        assert!(err.contains(remedy), "{name}: {err}");
        let (code, out, err) = run("namespace");
        assert_eq!(code, Some(2), "{name}: {err}");
        assert!(
            out.is_empty() && err.contains(remedy) && err.lines().count() == 1,
            "{name}: {err}"
        );
    }
    // The twin: without the limits.
    let run = script(
        &mesh,
        "twin",
        &["--capture", "namespace"],
        &format!("curl -s -m 10 {PAYMENT}"),
    );
    assert!(
        run.out().contains("/sa/user-") && run.err().is_empty(),
        "{}{}",
        run.out(),
        run.err()
    );
}

/// `naka run -- curl payment` where namespaces are refused: by limits of zero, or for want of `nft`.
fn refused_run(mesh: &Mesh, name: &str, capture: &str) -> Program {
    let run = [
        "run",
        "--capture",
        capture,
        "--",
        "curl",
        "-s",
        "-m",
        "10",
        PAYMENT,
    ];
    let log = format!("{name}-{capture}");
    if name == "nft" {
        let hide = "for dir in /usr/sbin /usr/local/sbin; do mount -t tmpfs none $dir; done";
        return elsewhere(mesh, &log, hide, &run);
    }
    let limits = "echo 0 >/proc/sys/user/max_user_namespaces; echo 0 >/proc/sys/user/max_net_namespaces; exec \"$@\"";
    let mut outer = user::command("unshare".as_ref());
    outer
        .args(["--user", "--map-current-user", "--keep-caps"])
        .args(["sh", "-ec", limits, "sh"])
        .arg(naka_testkit::mesh::naka())
        .args(run);
    start_like(mesh, &log, outer)
}

/// `naka` with these arguments where the script `prepare` has changed what is mounted. It runs before the user is
/// changed, because a mount takes root, if only of a user namespace.
fn elsewhere(mesh: &Mesh, log: &str, prepare: &str, args: &[&str]) -> Program {
    let mut inner = user::command(naka_testkit::mesh::naka().as_os_str());
    inner.args(args);
    let mut outer = Command::new("unshare");
    outer
        .arg(if user::root() { "-m" } else { "-Urm" })
        .args(["sh", "-ec", &format!("{prepare}\nexec \"$@\""), "sh"])
        .arg(inner.get_program())
        .args(inner.get_args());
    start_like(mesh, log, outer)
}

/// Starts a command with the environment of the mesh's own.
fn start_like(mesh: &Mesh, log: &str, mut command: Command) -> Program {
    command.env_clear().current_dir(mesh.home());
    let mut like = mesh.command(["run"]);
    for (key, value) in like.env("PATH", "/usr/bin:/bin").get_envs() {
        command.env(key, value.unwrap_or_default());
    }
    Program::start(log, mesh.home(), &mut command).expect("unshare")
}

/// A kernel that lacks a part of the quick way (its `nft` says so) captures by translation: the call arrives as the same
/// caller, the door says why, and only the hints are missing. The twin has the whole kernel, and its door is silent.
#[test]
fn where_calls_cannot_be_given_they_are_translated() {
    let mesh = Mesh::up_unprivileged();
    let _payment = payment(&mesh, &[]);
    let without = "tools=$PWD/tools; mkdir -m 755 $tools; cp /usr/sbin/nft $tools/nft
cat >$tools/less <<END
#!/bin/sh
rules=\\$(cat)
case \\$rules in *tproxy*) echo 'Error: Could not process rule: No such file or directory' >&2; exit 1;; esac
printf '%s' \"\\$rules\" | $tools/nft -f -
END
chmod 755 $tools/less; mount --bind $tools/less /usr/sbin/nft";
    // Somebody listens there on this machine, nobody does inside: that makes a hint.
    let host = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = host.local_addr().expect("bound").port();
    for (name, prepare, translated) in [("less", without, true), ("whole", "true", false)] {
        let look = format!(
            "curl -s -m 10 {PAYMENT}; curl -s http://127.0.0.1:{port}/ || echo refused; exec sleep infinity"
        );
        let service = format!("look-{name}");
        let args = ["run", "-s", &service, "--", "sh", "-c", &look];
        let run = elsewhere(&mesh, name, prepare, &args);
        until(format_args!("{name}: {}", run.said()), SOON, || {
            run.out().contains("refused").then_some(())
        });
        assert!(
            run.out().contains(&format!("/sa/{service}")),
            "{}",
            run.said()
        );
        let hint = format!("127.0.0.1:{port}");
        if translated {
            assert!(!run.err().contains(&hint), "{}", run.said());
        } else {
            until("the hint", SOON, || run.err().contains(&hint).then_some(()));
        }
        let log = door_log(&mesh, &service);
        assert_eq!(
            log.contains("calls are translated (NAT)"),
            translated,
            "{log}"
        );
    }
}

/// What the door of a service's run has said.
fn door_log(mesh: &Mesh, service: &str) -> String {
    // `naka up` without NAKA_HOME keeps it below the user's home directory.
    let runs = std::fs::read_dir(mesh.home().join("user/.naka/run")).expect("runs");
    runs.flatten()
        .filter(|run| run.file_name().to_string_lossy().contains(service))
        .map(|run| std::fs::read_to_string(run.path().join("proxy.log")).unwrap_or_default())
        .collect()
}

/// A daemon of the machine that answers for names without DNS does not get in the way: inside, its socket is not there.
/// The twin is the same look in proxy mode.
#[test]
fn name_services_of_the_machine_are_not_asked() {
    let mesh = Mesh::up_unprivileged();
    let daemon = "mount -t tmpfs none /run; mkdir /run/nscd; \
        python3 -c 'import socket; s = socket.socket(socket.AF_UNIX); s.bind(\"/run/nscd/socket\"); s.listen(); [s.accept()[0].close() for _ in range(1000)]' & \
        while ! [ -S /run/nscd/socket ]; do sleep 0.05; done; chmod 777 /run/nscd/socket";
    let look =
        "import socket; socket.socket(socket.AF_UNIX).connect('/run/nscd/socket'); print('asked')";
    for (capture, expected) in [("namespace", ""), ("proxy", "asked\n")] {
        let args = ["run", "--capture", capture, "--", "python3", "-c", look];
        let mut run = elsewhere(&mesh, capture, daemon, &args);
        run.wait(SOON).expect("it ends");
        assert_eq!(run.out(), expected, "{capture}: {}", run.err());
        assert!(
            expected.is_empty() == run.err().contains("ConnectionRefused"),
            "{}",
            run.err()
        );
    }
}

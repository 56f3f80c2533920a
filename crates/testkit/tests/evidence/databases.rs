//! Databases of Debian behind the mesh, with their own clients: PostgreSQL and Redis, whose clients speak first, and
//! MariaDB, whose server does. None of them knows of a mesh; nobody declares a protocol.

use crate::traffic::finish;
use naka_testkit::mesh::{Mesh, SOON};
use naka_testkit::program::{Program, free_port};
use naka_testkit::user;
use naka_testkit::wait::until;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A tool of a package; Debian keeps some of them outside the path.
fn tool(name: &str) -> PathBuf {
    let usual = ["/usr/bin", "/usr/sbin", "/usr/local/bin"].map(|dir| Path::new(dir).join(name));
    let postgres = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let postgres = postgres.map(|version| version.path().join("bin").join(name));
    let mut all = usual.into_iter().chain(postgres);
    all.find(|path| path.exists())
        .unwrap_or_else(|| panic!("{name} is missing: run `make setup`"))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("printable")
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Runs a tool as the unprivileged user; it must succeed.
fn set_up(command: &mut Command) {
    let output = command.output().expect("it starts");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

struct Database {
    service: &'static str,
    /// The command that serves, with everything it needs made before.
    serve: Vec<String>,
    /// A client's command for a host and a port.
    client: fn(&str, u16) -> Vec<String>,
    /// What the client prints.
    expect: &'static str,
}

fn postgres(dir: &Path, port: u16) -> Database {
    let data = dir.join("postgres");
    let initdb = tool("initdb");
    std::fs::create_dir(&data).expect("a directory");
    // It wants a user with a name; the server does not.
    let root = user::root();
    let mut command = Command::new(if root { Path::new("setpriv") } else { &initdb });
    if root {
        set_up(Command::new("chown").args(["postgres", text(&data)]));
        set_up(Command::new("chmod").args(["711", text(dir), text(dir.parent().unwrap_or(dir))]));
        command.args([
            "--reuid=postgres",
            "--regid=postgres",
            "--clear-groups",
            "--",
            text(&initdb),
        ]);
    }
    set_up(command.current_dir("/").args([
        "-A",
        "trust",
        "-U",
        "naka",
        "--no-sync",
        "-D",
        text(&data),
    ]));
    if root {
        let owner = format!("{0}:{0}", user::UID);
        set_up(Command::new("chown").args(["-R", &owner, text(&data)]));
    }
    let program = tool("postgres");
    let serve = words(&[
        text(&program),
        "-D",
        text(&data),
        "-p",
        &port.to_string(),
        "-k",
        text(dir),
        "-c",
        "fsync=off",
    ]);
    Database {
        service: "postgres",
        serve,
        client: |host, port| {
            let url = format!("postgresql://naka@{host}:{port}/postgres?sslmode=prefer");
            let sql = "select sum(n) from generate_series(1, 1000) n";
            ["psql", &url, "-At", "-c", sql].map(str::to_owned).to_vec()
        },
        expect: "500500",
    }
}

fn redis(dir: &Path, port: u16) -> Database {
    let program = tool("redis-server");
    let serve = words(&[
        text(&program),
        "--port",
        &port.to_string(),
        "--save",
        "",
        "--dir",
        text(dir),
        "--protected-mode",
        "no",
    ]);
    Database {
        service: "redis",
        serve,
        client: |host, port| {
            let script = "redis.call('set', 'n', 41) return redis.call('incr', 'n')";
            [
                "redis-cli",
                "-h",
                host,
                "-p",
                &port.to_string(),
                "eval",
                script,
                "0",
            ]
            .map(str::to_owned)
            .to_vec()
        },
        expect: "42",
    }
}

fn mariadb(dir: &Path, port: u16) -> Database {
    let data = dir.join("mariadb");
    let data_dir = format!("--datadir={}", text(&data));
    let install = tool("mariadb-install-db");
    set_up(user::command(install.as_os_str()).args([
        "--no-defaults",
        "--auth-root-authentication-method=normal",
        "--skip-test-db",
        &data_dir,
    ]));
    // Without tables of rights everybody is let in: what is tried is the connection.
    let program = tool("mariadbd");
    let serve = words(&[
        text(&program),
        "--no-defaults",
        &data_dir,
        &format!("--socket={}/mariadb.sock", text(dir)),
        &format!("--pid-file={}/mariadb.pid", text(dir)),
        &format!("--port={port}"),
        "--bind-address=0.0.0.0",
        "--skip-grant-tables",
        "--skip-networking=0",
        "--skip-name-resolve",
    ]);
    Database {
        service: "mariadb",
        serve,
        client: |host, port| {
            let port = format!("-P{port}");
            [
                "mariadb",
                "--no-defaults",
                "-h",
                host,
                &port,
                "-u",
                "root",
                "-N",
                "-e",
                "select 6 * 7",
            ]
            .map(str::to_owned)
            .to_vec()
        },
        expect: "42",
    }
}

/// The time of one client, from its start to its end, by a name of the mesh.
fn asked(mesh: &Mesh, database: &Database, name: &str, host: &str, port: u16) -> Duration {
    let command = (database.client)(host, port);
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    let began = Instant::now();
    let mut run = mesh.run(name, &["-s", "order"], &words);
    finish(&mut run);
    assert_eq!(run.out().trim(), database.expect, "{name}: {}", run.err());
    began.elapsed()
}

#[expect(clippy::print_stdout, reason = "a time that the evidence shows")]
fn passes(make: fn(&Path, u16) -> Database) {
    let mesh = Mesh::up_unprivileged();
    let dir = mesh.home().join("database");
    std::fs::create_dir(&dir).expect("a directory");
    user::give(&dir);
    let port = free_port();
    let database = make(&dir, port);
    let words: Vec<&str> = database.serve.iter().map(String::as_str).collect();
    let number = port.to_string();
    let served: Program = mesh.run(database.service, &["-s", database.service], &words);
    mesh.wait_ready(database.service, Some(&number), &served);
    // Ready says that it listens; that it answers takes some of them longer.
    until(
        format_args!("{} answers: {}", database.service, served.said()),
        SOON,
        || {
            let command = (database.client)(database.service, port);
            let words: Vec<&str> = command.iter().map(String::as_str).collect();
            let mut run = mesh.run("first", &["-s", "order"], &words);
            let status = run.wait(SOON).ok()?;
            status.success().then_some(())
        },
    );
    for n in 0..3 {
        let time = asked(
            &mesh,
            &database,
            &format!("client-{n}"),
            database.service,
            port,
        );
        println!(
            "{} answered its own client within {} ms",
            database.service,
            time.as_millis()
        );
    }
    // The twin: without the program the same client fails.
    drop(served);
    let command = (database.client)(database.service, port);
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    let mut run = mesh.run("twin", &["-s", "order"], &words);
    assert!(!run.wait(SOON).expect("it ends").success(), "{}", run.out());
}

#[test]
fn postgresql_passes() {
    passes(postgres);
}

#[test]
fn redis_passes() {
    passes(redis);
}

/// Its server speaks first, and its client waits for that.
#[test]
fn mariadb_passes() {
    passes(mariadb);
}

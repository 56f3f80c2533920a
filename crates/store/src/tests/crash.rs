//! Processes that die, and disks that are full. The child is this very test binary, told by an environment variable.

use super::{full, named, open, put, runtime};
use crate::{Error, Settings, Store};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

const DIR: &str = "NAKA_STORE_CHILD_DIR";
const HOW: &str = "NAKA_STORE_CHILD_HOW";
const WRITERS: usize = 1000;

pub(super) fn child(dir: &Path, how: &str) -> Command {
    // The limit of file size is for the child that fills its disk; others never reach it. Ignored signals stay ignored.
    let script = r#"if [ "$NAKA_STORE_CHILD_HOW" = full ]; then trap '' XFSZ; ulimit -f 128; fi; exec "$0" "$@""#;
    let mut command = Command::new("sh");
    command
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "tests::crash::child_body",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(DIR, dir)
        .env(HOW, how)
        .stdout(Stdio::piped());
    command
}

/// Does nothing unless started by one of the tests below.
#[test]
fn child_body() {
    let (Ok(dir), Ok(how)) = (std::env::var(DIR), std::env::var(HOW)) else {
        return;
    };
    let dir = Path::new(&dir);
    match how.as_str() {
        "full" => fill_the_disk(dir),
        "reseal" => super::reseal::change_for_ever(dir),
        _ => write_until_killed(dir, how == "early"),
    }
}

pub(super) fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).unwrap();
}

/// A thousand writers, each with writes one after the other, without end. `early` acknowledges before the answer: the
/// mistake the test must be able to see.
fn write_until_killed(dir: &Path, early: bool) {
    let store = open(dir);
    runtime().block_on(async {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let store = store.clone();
                tokio::spawn(async move {
                    for round in 0.. {
                        let name = format!("w{writer}-{round}");
                        if early {
                            say(&format!("ack {name}"));
                        }
                        store.commit(vec![put(&name, 80)]).await.unwrap();
                        if !early {
                            say(&format!("ack {name}"));
                        }
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await.unwrap();
        }
    });
}

/// Lets a child work until it has printed `wanted`, and kills it with -9 once `now` says so.
pub(super) fn kill_when(mut command: Command, wanted: &str, now: impl Fn() -> bool) {
    let mut child: Child = command.spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut seen = lines.map_while(Result::ok).filter(|line| line == wanted);
    assert!(seen.next().is_some(), "the child works");
    let began = std::time::Instant::now();
    while !now() {
        assert!(began.elapsed().as_secs() < 20, "the moment came");
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Lets a child write, kills it with -9 after `acks` acknowledgements and returns all that came out of it.
fn kill_after(dir: &Path, how: &str, acks: usize) -> BTreeSet<String> {
    let mut child: Child = child(dir, how).spawn().unwrap();
    let mut acknowledged = BTreeSet::new();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for line in lines.by_ref().map_while(Result::ok) {
        if let Some(name) = line.strip_prefix("ack ") {
            acknowledged.insert(name.to_owned());
            if acknowledged.len() == acks {
                child.kill().unwrap();
                break;
            }
        }
    }
    // A last line may be cut in the middle of a name, but only by the pipe's end: it then lacks its newline.
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    child.wait().unwrap();
    let whole = rest.len().saturating_sub(1);
    acknowledged.extend(
        rest[..whole]
            .iter()
            .filter_map(|line| line.strip_prefix("ack ").map(str::to_owned)),
    );
    acknowledged
}

fn lost(dir: &Path, acknowledged: &BTreeSet<String>) -> usize {
    let (store, recovery) = Store::open(dir, Settings::default()).unwrap();
    assert_eq!(recovery.damage, None);
    let state = store.snapshot();
    acknowledged
        .iter()
        .filter(|name| state.value(&named("Service", name)).is_none())
        .count()
}

#[test]
fn kill_9_during_a_thousand_concurrent_writes_loses_no_acknowledged_one() {
    let mut rng = fastrand::Rng::with_seed(9);
    for _ in 0..if full() { 20 } else { 3 } {
        let dir = tempfile::tempdir().unwrap();
        let acks = rng.usize(500..4000);
        let acknowledged = kill_after(dir.path(), "sound", acks);
        assert!(acknowledged.len() >= acks);
        assert_eq!(
            lost(dir.path(), &acknowledged),
            0,
            "of {}",
            acknowledged.len()
        );
    }
    // The twin: a store that acknowledges first does lose writes, and this test sees it.
    let dir = tempfile::tempdir().unwrap();
    let acknowledged = kill_after(dir.path(), "early", 3000);
    assert!(lost(dir.path(), &acknowledged) > 0);
}

fn fill_the_disk(dir: &Path) {
    let store = open(dir);
    runtime().block_on(async {
        for index in 0u16.. {
            let name = format!("f{index}");
            match store.commit(vec![put(&name, index)]).await {
                Ok(_) => say(&format!("ack {name}")),
                Err(error) => {
                    assert!(matches!(error, Error::Stopped(_)), "{error}");
                    say(&format!("full {error}"));
                    break;
                }
            }
        }
        let state = store.snapshot().revision;
        let again = store.commit(vec![put("later", 1)]).await.unwrap_err();
        assert!(again.to_string().contains("until restart"), "{again}");
        assert!(store.not_writing().unwrap().contains("until restart"));
        assert_eq!(
            store.snapshot().revision,
            state,
            "what failed is not shown either"
        );
        assert!(
            store.history(&crate::Filter::default(), 5).unwrap().len() == 5,
            "reading goes on"
        );
        say("read on");
    });
}

#[test]
fn a_full_disk_stops_writing_with_a_plain_error_until_restart() {
    let dir = tempfile::tempdir().unwrap();
    let output = child(dir.path(), "full").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && text.contains("read on"),
        "{text}"
    );
    let told = text
        .lines()
        .find_map(|line| line.strip_prefix("full "))
        .unwrap();
    assert!(told.contains("File too large"), "{told}");
    let acknowledged: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("ack ").map(str::to_owned))
        .collect();
    assert!(acknowledged.len() > 10);
    assert_eq!(lost(dir.path(), &acknowledged), 0);
    let store = open(dir.path());
    runtime()
        .block_on(store.commit(vec![put("later", 1)]))
        .unwrap();
}

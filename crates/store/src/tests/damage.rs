//! Logs that were cut, flipped, mixed up or written by somebody else.

use super::{full, named, open, put, runtime, written};
use crate::event::Event;
use crate::fold::Folded;
use crate::log::{self, Checks, FILE_HEAD, RECORD_HEAD, Span};
use crate::store::Replay;
use crate::{Error, Filter, Settings, Store};
use std::fs::{self, File};
use std::path::Path;

/// The sound log: bytes, records, and the state after each record (index 0: empty).
struct Sound {
    bytes: Vec<u8>,
    spans: Vec<Span>,
    states: Vec<Folded>,
}

fn sound(count: u16) -> Sound {
    let dir = written(count);
    let bytes = fs::read(dir.path().join("log")).unwrap();
    let mut states = vec![Folded::default()];
    let mut folded = Folded::default();
    let file = File::open(dir.path().join("log")).unwrap();
    let scan = log::scan(&file, "log", Checks::ALL, |line| {
        folded.apply(&serde_json::from_slice::<Event>(line.bytes).unwrap());
        states.push(folded.clone());
        Ok(())
    })
    .unwrap();
    assert_eq!(scan.end, bytes.len() as u64);
    assert_eq!(scan.spans.len(), usize::from(count));
    Sound {
        bytes,
        spans: scan.spans,
        states,
    }
}

fn read(dir: &Path, bytes: &[u8], checks: Checks) -> Result<Replay, Error> {
    let path = dir.join("log");
    fs::write(&path, bytes).unwrap();
    Replay::read(dir, &File::open(&path).unwrap(), checks)
}

#[test]
fn cut_at_any_byte_every_record_before_it_is_there_and_the_loss_is_named() {
    let sound = sound(60);
    let dir = tempfile::tempdir().unwrap();
    let length = sound.bytes.len();
    assert!(length > 8192, "the last 4 kB must not be the whole file");
    let step = if full() { 1 } else { 37 };
    for cut in length - 4096..=length {
        let whole = sound
            .spans
            .iter()
            .filter(|s| s.offset + u64::from(s.length) <= cut as u64)
            .count();
        let boundary = sound.spans[whole - 1].offset + u64::from(sound.spans[whole - 1].length);
        let replay = read(dir.path(), &sound.bytes[..cut], Checks::ALL).unwrap();
        assert_eq!(replay.folded, sound.states[whole], "cut at {cut}");
        assert_eq!(replay.recovery.damage, None, "cut at {cut}");
        let torn = replay.recovery.torn.map(|torn| (torn.offset, torn.bytes));
        let lost = cut as u64 - boundary;
        assert_eq!(torn, (lost > 0).then_some((boundary, lost)), "cut at {cut}");
        if cut % step == 0 {
            opens_and_writes_on(&sound.bytes[..cut], whole as u64, lost);
        }
    }
}

/// The whole store on a cut log: the log itself names the loss, and writing goes on.
fn opens_and_writes_on(bytes: &[u8], whole: u64, lost: u64) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("log"), bytes).unwrap();
    let (store, recovery) = Store::open(dir.path(), Settings::default()).unwrap();
    assert_eq!(recovery.is_clean(), lost == 0);
    let told = store
        .history(
            &Filter {
                kind_prefix: Some("store.loss".to_owned()),
                ..Filter::default()
            },
            9,
        )
        .unwrap();
    if lost > 0 {
        assert_eq!(told[0].after.as_ref().unwrap()["bytes"], lost);
        assert!(
            recovery.to_string().contains(&format!("{lost} bytes")),
            "{recovery}"
        );
    } else {
        assert!(told.is_empty());
    }
    let next = runtime()
        .block_on(store.commit(vec![put("next", 1)]))
        .unwrap()
        .revision;
    assert_eq!(next, whole + told.len() as u64 + 1);
    drop(store);
    let (store, recovery) = Store::open(dir.path(), Settings::default()).unwrap();
    assert!(recovery.is_clean() && store.snapshot().value(&named("Service", "next")).is_some());
}

#[test]
fn a_flipped_bit_anywhere_is_found_and_the_sound_prefix_is_served_read_only() {
    let sound = sound(40);
    let dir = tempfile::tempdir().unwrap();
    let (mut undetected, rounds) = (0, if full() { 5000 } else { 200 });
    let seed = 0x6e61_6b61;
    let mut rng = fastrand::Rng::with_seed(seed);
    for round in 0..rounds {
        let (at, bit) = (rng.usize(..sound.bytes.len()), rng.u8(..8));
        let mut bytes = sound.bytes.clone();
        bytes[at] ^= 1 << bit;
        let whole = if at < FILE_HEAD {
            sound.spans.len()
        } else {
            sound
                .spans
                .iter()
                .filter(|s| s.offset + u64::from(s.length) <= at as u64)
                .count()
        };
        let told = format!("seed {seed} round {round}: bit {bit} of byte {at}");
        let replay = read(dir.path(), &bytes, Checks::ALL).unwrap();
        let damage = replay
            .recovery
            .damage
            .clone()
            .unwrap_or_else(|| panic!("{told} not found"));
        assert_eq!(replay.folded, sound.states[whole], "{told}");
        if at >= FILE_HEAD {
            assert_eq!(
                damage.stranded,
                (sound.spans.len() - whole - 1) as u64,
                "{told}"
            );
        }
        if round % 20 == 0 {
            served_read_only_until_repaired(&bytes, whole as u64);
        }
        // The twin: a reader without checks takes some of these logs for sound.
        let unchecked = Checks {
            crc: false,
            chain: false,
        };
        let blind = read(dir.path(), &bytes, unchecked);
        undetected += u32::from(blind.is_ok_and(|blind| {
            blind.recovery.is_clean() && blind.folded != *sound.states.last().unwrap()
        }));
    }
    assert!(
        undetected > 0,
        "without its guard the reader must be fooled, else this test shows nothing"
    );
}

fn served_read_only_until_repaired(bytes: &[u8], whole: u64) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("log"), bytes).unwrap();
    let (store, recovery) = Store::open(dir.path(), Settings::default()).unwrap();
    assert_eq!(
        (store.snapshot().revision, recovery.is_clean()),
        (whole, false)
    );
    let refused = runtime()
        .block_on(store.commit(vec![put("x", 1)]))
        .unwrap_err();
    assert!(
        matches!(refused, Error::ReadOnly(_)) && refused.to_string().contains("store repair"),
        "{refused}"
    );
    assert!(store.not_writing().is_some());
    assert!(matches!(
        Store::repair(dir.path()),
        Err(Error::Locked { .. })
    ));
    drop(store);
    assert_eq!(
        fs::read(dir.path().join("log")).unwrap(),
        bytes,
        "opening a damaged log changes nothing in it"
    );
    let repaired = Store::repair(dir.path()).unwrap();
    assert_eq!(repaired.revision, whole);
    assert_eq!(fs::read(repaired.kept_as.unwrap()).unwrap(), bytes);
    let store = open(dir.path());
    assert_eq!(
        runtime()
            .block_on(store.commit(vec![put("x", 1)]))
            .unwrap()
            .revision,
        whole + 1
    );
    drop(store);
    assert_eq!(Store::repair(dir.path()).unwrap().damage, None);
}

#[test]
fn sectors_that_never_reached_the_disk_are_a_torn_end_not_damage() {
    let sound = sound(20);
    let dir = tempfile::tempdir().unwrap();
    let last = sound.spans[19];
    let start = usize::try_from(last.offset).unwrap() - RECORD_HEAD;
    // The file was made longer, but neither head nor payload came to be.
    let mut unwritten = sound.bytes.clone();
    unwritten[start..].fill(0);
    // The head came, the payload's end did not.
    let mut half = sound.bytes.clone();
    let sector = (half.len() - 8) / 512 * 512;
    assert!(sector > start + RECORD_HEAD);
    half[sector..].fill(0);
    for bytes in [unwritten, half] {
        let replay = read(dir.path(), &bytes, Checks::ALL).unwrap();
        assert_eq!(replay.folded, sound.states[19]);
        assert_eq!(replay.recovery.torn.unwrap().offset, start as u64);
        assert_eq!(replay.recovery.damage, None);
    }
}

#[test]
fn a_record_taken_out_or_put_elsewhere_breaks_the_chain() {
    let sound = sound(20);
    let dir = tempfile::tempdir().unwrap();
    let record = |index: usize| {
        let span = sound.spans[index];
        let end = usize::try_from(span.offset + u64::from(span.length)).unwrap();
        usize::try_from(span.offset).unwrap() - RECORD_HEAD..end
    };
    let mut without = sound.bytes.clone();
    without.drain(record(10));
    let mut forged = sound.bytes[..record(19).start].to_vec();
    let mut event: serde_json::Value =
        serde_json::from_slice(&sound.bytes[record(19)][RECORD_HEAD..]).unwrap();
    event["actor"] = "user:nobody".into();
    event["prev"] = "0".repeat(64).into();
    log::frame(event.to_string().as_bytes(), &mut forged);
    for (bytes, whole) in [(without, 10), (forged, 19)] {
        let replay = read(dir.path(), &bytes, Checks::ALL).unwrap();
        assert!(replay.recovery.damage.unwrap().what.contains("chain"));
        assert_eq!(replay.folded, sound.states[whole]);
        let blind = read(
            dir.path(),
            &bytes,
            Checks {
                crc: true,
                chain: false,
            },
        )
        .unwrap();
        assert_eq!(
            blind.recovery.damage, None,
            "without the chain nobody would notice"
        );
    }
}

#[test]
fn newer_formats_are_refused_and_left_alone() {
    let dir = written(3);
    let path = dir.path().join("log");
    let mut bytes = fs::read(&path).unwrap();
    bytes[8..12].copy_from_slice(&3u32.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..12]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    for error in [
        Store::open(dir.path(), Settings::default()).unwrap_err(),
        Store::repair(dir.path()).unwrap_err(),
    ] {
        assert!(
            matches!(
                error,
                Error::NewerFormat {
                    found: 3,
                    known: 2,
                    ..
                }
            ),
            "{error}"
        );
    }
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[test]
fn snapshots_shorten_the_start_and_never_overrule_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let settings = || Settings {
        checkpoint_every: 10,
        ..Settings::default()
    };
    let (store, _) = Store::open(dir.path(), settings()).unwrap();
    runtime().block_on(async {
        for port in 0..25 {
            store.commit(vec![put("a", port)]).await.unwrap();
        }
    });
    let before = store.snapshot();
    drop(store);
    let (store, recovery) = Store::open(dir.path(), settings()).unwrap();
    let from = recovery.from_snapshot.unwrap();
    assert!(from >= 10 && recovery.is_clean());
    assert_eq!(store.snapshot().objects, before.objects);
    assert_eq!(
        store.at(3).unwrap().revision,
        3,
        "older states come from the log"
    );
    drop(store);

    // A log that ends before its snapshot lost acknowledged events.
    let log = fs::read(dir.path().join("log")).unwrap();
    let third = log::scan(
        &File::open(dir.path().join("log")).unwrap(),
        "log",
        Checks::ALL,
        |_| Ok(()),
    )
    .unwrap()
    .spans[2];
    let end = usize::try_from(third.offset + u64::from(third.length)).unwrap();
    fs::write(dir.path().join("log"), &log[..end]).unwrap();
    let (store, recovery) = Store::open(dir.path(), settings()).unwrap();
    assert!(
        recovery
            .damage
            .unwrap()
            .what
            .contains(&format!("events 4 to {from} are lost"))
    );
    assert_eq!(store.snapshot().revision, 3);
    drop(store);
    Store::repair(dir.path()).unwrap();
    assert!(Store::open(dir.path(), settings()).unwrap().1.is_clean());

    // A damaged snapshot file costs time, nothing else.
    fs::write(dir.path().join("log"), &log).unwrap();
    fs::write(
        dir.path().join("snapshot"),
        b"NAKASNP\n\x01\0\0\0\0\0\0\0{}",
    )
    .unwrap();
    let (store, recovery) = Store::open(dir.path(), settings()).unwrap();
    assert!(
        recovery.damage.is_none() && recovery.to_string().contains("snapshot file is damaged"),
        "{recovery}"
    );
    assert_eq!(store.snapshot().objects, before.objects);
    drop(store);
    fs::remove_file(dir.path().join("log")).unwrap();
    assert!(
        Store::open(dir.path(), settings())
            .unwrap_err()
            .to_string()
            .contains("missing")
    );
}

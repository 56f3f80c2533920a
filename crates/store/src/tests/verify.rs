//! Logs that somebody edited with care: checksums mended, links mended, records taken out. Each is found and named; its
//! twin, the log as it was written, passes.

use super::{full, open, put, runtime};
use crate::log::{self, FILE_HEAD, RECORD_HEAD, line_hash};
use crate::{Broken, Head, Lock, Settings, Store, verify};
use std::fs;
use std::path::Path;

/// Records, each with its lines.
type Records = Vec<Vec<Vec<u8>>>;

/// A log of commits of one to three events.
fn sound(commits: u16) -> (tempfile::TempDir, Records) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    runtime().block_on(async {
        for index in 0..commits {
            let drafts = (0..=index % 3).map(|part| put(&format!("s{part}"), 1000 + index));
            store.commit(drafts.collect()).await.unwrap();
        }
    });
    drop(store);
    let records = parsed(&fs::read(dir.path().join("log")).unwrap());
    (dir, records)
}

fn parsed(bytes: &[u8]) -> Records {
    let mut at = FILE_HEAD;
    let mut records = Vec::new();
    while at < bytes.len() {
        let length = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let begin = at + RECORD_HEAD;
        at = begin + usize::try_from(length).unwrap();
        records.push(log::lines(&bytes[begin..at]).map(<[u8]>::to_vec).collect());
    }
    records
}

/// Writes the records with checksums that are right; where each line begins, in order.
fn write(dir: &Path, records: &Records) -> Vec<u64> {
    let mut bytes = log::file_head().to_vec();
    let mut places = Vec::new();
    for record in records {
        let mut payload = Vec::new();
        for line in record {
            places.push((bytes.len() + RECORD_HEAD + payload.len()) as u64);
            payload.extend_from_slice(line);
            payload.push(b'\n');
        }
        log::frame(&payload, &mut bytes);
    }
    fs::write(dir.join("log"), bytes).unwrap();
    places
}

fn found(dir: &Path, heads: &[Head]) -> Option<Broken> {
    verify(dir, heads).unwrap().broken
}

fn flat(records: &Records) -> Vec<&Vec<u8>> {
    records.iter().flatten().collect()
}

/// The head at the event of this number.
fn head(records: &Records, seq: usize) -> Head {
    Head {
        seq: seq as u64,
        hash: line_hash(flat(records)[seq - 1]),
    }
}

/// Changes a line in place.
fn edit(records: &mut Records, seq: usize, change: impl FnOnce(&mut Vec<u8>)) {
    change(records.iter_mut().flatten().nth(seq - 1).unwrap());
}

/// Another letter somewhere in a line's actor, cause or value, so that it stays an event.
fn scribble(line: &mut Vec<u8>) {
    let text = String::from_utf8(line.clone()).unwrap();
    *line = text.replacen("user:test", "user:tess", 1).into_bytes();
}

/// Mends every link behind an event, as somebody does who can write the whole file.
fn mend(records: &mut Records) {
    let mut hash = [0; 32];
    for line in records.iter_mut().flatten() {
        let mut event: crate::Event = serde_json::from_slice(line).unwrap();
        event.prev_hash = hash;
        *line = serde_json::to_vec(&event).unwrap();
        hash = line_hash(line);
    }
}

#[test]
fn any_edit_is_found_and_the_event_is_named() {
    let (dir, records) = sound(20);
    let count = flat(&records).len();
    let dir = dir.path();
    let seed = 0x6175_6469;
    let mut rng = fastrand::Rng::with_seed(seed);
    for round in 0..if full() { 3000 } else { 150 } {
        let mut edited = records.clone();
        let seq = rng.usize(2..count);
        let (how, wanted) = match round % 5 {
            0 => {
                edit(&mut edited, seq, scribble);
                ("an event that was edited", seq)
            }
            1 => {
                edit(&mut edited, seq, |line| {
                    let text = String::from_utf8(line.clone()).unwrap();
                    let (start, rest) = text.split_once("\"prev\":\"").unwrap();
                    let other = if rest.starts_with('0') { '1' } else { '0' };
                    *line = format!("{start}\"prev\":\"{other}{}", &rest[1..]).into_bytes();
                });
                ("a link that was edited", seq)
            }
            2 => {
                let record = rng.usize(..edited.len() - 1);
                let before = edited[..record].iter().flatten().count();
                edited.remove(record);
                ("a record that was taken out", before + 1)
            }
            3 => {
                let record = rng.usize(..edited.len() - 1);
                let before = edited[..record].iter().flatten().count();
                edited.swap(record, record + 1);
                ("two records that changed places", before + 1)
            }
            _ => {
                // An event of the middle, put in again behind a later one.
                let record = rng.usize(..edited.len() - 2);
                let first = edited[..record].iter().flatten().count() + 1;
                let again = edited[record].clone();
                edited.insert(record + 2, again);
                ("a record that came twice", first)
            }
        };
        let places = write(dir, &edited);
        let told = format!("seed {seed} round {round}: {how}, event {wanted}");
        let broken = found(dir, &[]).unwrap_or_else(|| panic!("{told}: not found"));
        assert_eq!(broken.seq, wanted as u64, "{told}: {broken}");
        if round % 5 < 2 {
            assert_eq!(broken.offset, places[wanted - 1], "{told}: {broken}");
            assert!(broken.time_ms.is_some(), "{told}: {broken}");
        }
        // The twin.
        write(dir, &records);
        let known = [head(&records, rng.usize(1..=count)), head(&records, count)];
        assert_eq!(found(dir, &known), None, "{told}: the twin");
    }
}

#[test]
fn of_the_last_two_events_one_is_named_and_a_head_says_which() {
    let (dir, records) = sound(9);
    let count = flat(&records).len();
    let last = head(&records, count);
    for seq in [count - 1, count] {
        let mut edited = records.clone();
        edit(&mut edited, seq, scribble);
        write(dir.path(), &edited);
        let alone = found(dir.path(), &[]);
        // Nothing bears the last event out.
        assert_eq!(alone.is_none(), seq == count);
        if let Some(alone) = alone {
            assert_eq!((alone.seq, alone.until), (count as u64 - 1, count as u64));
        }
        let told = found(dir.path(), &[last]).unwrap();
        assert_eq!(told.until, seq as u64, "{told}");
        assert_eq!(told.seq == told.until, seq < count, "{told}");
    }
}

#[test]
fn what_is_missing_at_the_end_and_a_log_written_anew_are_told_by_a_head() {
    let (dir, records) = sound(20);
    let dir = dir.path();
    let count = flat(&records).len();
    let mut rng = fastrand::Rng::with_seed(7);
    for _ in 0..30 {
        let noted = rng.usize(4..=count);
        let known = [head(&records, 2), head(&records, noted)];

        let mut short = records.clone();
        while short.iter().flatten().count() >= noted {
            short.pop();
        }
        let left = short.iter().flatten().count() as u64;
        write(dir, &short);
        assert_eq!(
            found(dir, &[]),
            None,
            "nothing in the log itself tells of it"
        );
        let broken = found(dir, &known).unwrap();
        assert_eq!((broken.seq, broken.until), (left + 1, noted as u64));

        let mut anew = records.clone();
        let seq = rng.usize(3..=noted);
        edit(&mut anew, seq, scribble);
        mend(&mut anew);
        write(dir, &anew);
        assert_eq!(found(dir, &[]), None, "it is whole in itself");
        let broken = found(dir, &known).unwrap();
        assert_eq!((broken.seq, broken.until), (3, noted as u64), "{broken}");
    }
    write(dir, &records);
    assert_eq!(found(dir, &[head(&records, count)]), None);
}

#[test]
fn checksums_that_are_wrong_and_lines_that_are_no_events_are_named_too() {
    let (dir, records) = sound(12);
    let dir = dir.path();
    let mut edited = records.clone();
    edited[6] = vec![b"not an event".to_vec()];
    let before = edited[..6].iter().flatten().count() as u64;
    write(dir, &edited);
    let broken = found(dir, &[]).unwrap();
    assert_eq!(broken.seq, before + 1);
    assert!(broken.what.contains("not an event"), "{broken}");

    let places = write(dir, &records);
    let mut bytes = fs::read(dir.join("log")).unwrap();
    let first = usize::try_from(places[usize::try_from(before).unwrap()]).unwrap();
    bytes[first + 20] ^= 1;
    fs::write(dir.join("log"), &bytes).unwrap();
    let broken = found(dir, &[]).unwrap();
    assert_eq!(
        (broken.seq, broken.offset),
        (before + 1, (first - RECORD_HEAD) as u64)
    );
    assert!(broken.what.contains("checksum"), "{broken}");
}

#[test]
fn the_snapshot_file_and_a_running_store_are_heads_by_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings {
        checkpoint_every: 5,
        ..Settings::default()
    };
    let (store, _) = Store::open(dir.path(), settings).unwrap();
    runtime().block_on(async {
        for port in 0..8 {
            store.commit(vec![put("a", port)]).await.unwrap();
        }
    });
    assert_eq!(store.verify(&[store.head()]).unwrap().broken, None);
    assert_eq!(store.head().seq, 8);
    let bytes = fs::read(dir.path().join("log")).unwrap();
    let mut records = parsed(&bytes);
    records.iter_mut().flatten().for_each(scribble);
    mend(&mut records);
    write(dir.path(), &records);
    let broken = store.verify(&[]).unwrap().broken.unwrap();
    assert!(
        broken.what.contains("the running control plane"),
        "{broken}"
    );
    assert_eq!((broken.seq, broken.until), (1, 8));
    drop(store);
    let broken = found(dir.path(), &[]).unwrap();
    assert!(broken.what.contains("the snapshot file"), "{broken}");
    fs::remove_file(dir.path().join("snapshot")).unwrap();
    assert_eq!(
        found(dir.path(), &[]),
        None,
        "the twin: nothing knows better"
    );
    fs::write(dir.path().join("log"), &bytes).unwrap();
    assert_eq!(found(dir.path(), &[]), None);
}

#[test]
fn a_change_of_the_sealing_key_is_told_apart_from_an_edit() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (early, last) = runtime().block_on(async {
        store
            .commit(vec![super::reseal::secret("s", "1")])
            .await
            .unwrap();
        let early = store.head();
        store.commit(vec![put("b", 2)]).await.unwrap();
        let last = store.head();
        store.reseal(Lock::Same, "user:test").await.unwrap();
        store.commit(vec![put("b", 3)]).await.unwrap();
        (early, last)
    });
    let found = store.verify(&[last, store.head()]).unwrap();
    assert_eq!(
        found.broken, None,
        "the end of the chain before is in the log"
    );
    let broken = store.verify(&[early]).unwrap().broken.unwrap();
    assert!(
        broken
            .what
            .contains("before the sealing key was changed by event 3"),
        "{broken}"
    );
    assert!(broken.what.contains(&last.to_string()), "{broken}");
}

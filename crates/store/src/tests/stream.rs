//! The stream beside the log: what it takes, what it cannot take, what goes, and that nobody edits it unseen.

use super::{open, put, runtime};
use crate::event::Event;
use crate::log::{self, FILE_HEAD, RECORD_HEAD};
use crate::{Entry, Filter, Store, Stream, StreamSettings, verify};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const NAME: &str = "denials";

fn entry(time_ms: u64, path: &str) -> Entry {
    Entry {
        time_ms,
        actor: "workload:a".to_owned(),
        kind: "request.denied".to_owned(),
        value: json!({"request.path": path}),
    }
}

fn now() -> u64 {
    crate::stamp::now_ms()
}

fn small() -> StreamSettings {
    StreamSettings {
        segment_bytes: 2000,
        ..StreamSettings::default()
    }
}

fn stream(store: &Arc<Store>, settings: StreamSettings) -> Stream {
    Stream::open(store, NAME, settings).unwrap()
}

/// A stream of so many events in several files, at rest.
fn written(count: u64) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let stream = stream(&store, small());
    for index in 0..count {
        assert_eq!(stream.offer(vec![entry(now(), &format!("/{index}"))]), 0);
        if index % 10 == 9 {
            stream.settle();
        }
    }
    drop(stream);
    drop(store);
    dir
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.join(NAME)).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

#[test]
fn events_stand_in_files_of_their_own_and_the_log_bears_them_out() {
    let dir = written(45);
    let found = verify(dir.path(), &[]).unwrap();
    assert_eq!(found.broken, None);
    let of = &found.streams[0];
    assert_eq!(
        (of.name.as_str(), of.events, of.anchored, of.pruned),
        (NAME, 45, 45, 0)
    );
    assert!(of.files > 3, "{of:?}");
    let store = open(dir.path());
    let anchors = Filter {
        kind_prefix: Some("audit.anchor".to_owned()),
        ..Filter::default()
    };
    let told = store.history(&anchors, 99).unwrap().len();
    assert!((2..=6).contains(&told), "{told} anchors");
    // It goes on where it stood, over a start.
    let stream = stream(&store, small());
    assert_eq!(stream.offer(vec![entry(1, "/x"), entry(2, "/y")]), 0);
    stream.settle();
    let page = stream.page(44, 3).unwrap();
    let seqs: Vec<u64> = page.iter().map(|(head, _)| head.seq).collect();
    assert_eq!(seqs, [44, 45, 46]);
    let newest = stream.newest(2).unwrap();
    assert_eq!(newest[0].1.after.as_ref().unwrap()["request.path"], "/y");
    assert_eq!(newest.len(), 2);
    assert_eq!(store.verify(&[]).unwrap().broken, None);
    assert_eq!((stream.dropped(), stream.failing()), (0, None));
}

#[test]
fn an_edit_of_a_stream_is_found_and_its_file_is_named() {
    let dir = written(45);
    let all = files(dir.path());
    let middle = &all[all.len() / 2];
    let sound = fs::read(middle).unwrap();
    let length = u32::from_le_bytes(sound[FILE_HEAD..FILE_HEAD + 4].try_into().unwrap());
    let begin = FILE_HEAD + RECORD_HEAD;
    let line = &sound[begin..begin + usize::try_from(length).unwrap()];
    let event: Event = serde_json::from_slice(line).unwrap();
    // One event is another one, with a checksum that is right.
    let text = String::from_utf8(line.to_vec()).unwrap();
    let mut edited = log::file_head().to_vec();
    log::frame(
        text.replace("workload:a", "workload:b").as_bytes(),
        &mut edited,
    );
    edited.extend_from_slice(&sound[begin + usize::try_from(length).unwrap()..]);
    fs::write(middle, &edited).unwrap();
    let broken = verify(dir.path(), &[]).unwrap().broken.unwrap();
    assert_eq!(broken.seq, event.seq, "{broken}");
    let name = middle.file_name().unwrap().to_str().unwrap();
    assert_eq!(broken.file, format!("{NAME}/{name}"));
    assert_eq!(broken.offset, begin as u64);
    // A whole file is gone.
    fs::remove_file(middle).unwrap();
    let broken = verify(dir.path(), &[]).unwrap().broken.unwrap();
    assert_eq!(broken.seq, event.seq);
    assert!(broken.what.contains("missing"), "{broken}");
    fs::write(middle, &sound).unwrap();
    assert_eq!(verify(dir.path(), &[]).unwrap().broken, None, "the twin");
    // The end is gone: the log knows better.
    let last = all.last().unwrap();
    let kept = fs::read(last).unwrap();
    fs::remove_file(last).unwrap();
    let broken = verify(dir.path(), &[]).unwrap().broken.unwrap();
    assert!(broken.what.contains("an anchor in the log"), "{broken}");
    fs::write(last, kept).unwrap();
    assert_eq!(verify(dir.path(), &[]).unwrap().broken, None);
}

#[test]
fn what_is_too_old_goes_by_itself_and_the_rest_stays_verifiable() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let day = Duration::from_hours(24);
    let settings = StreamSettings {
        keep: 2 * day,
        ..small()
    };
    let stream = stream(&store, settings);
    let day = u64::try_from(day.as_millis()).unwrap();
    for index in 0..40 {
        stream.offer(vec![entry(now() - 3 * day, &format!("/old/{index}"))]);
    }
    for index in 0..20 {
        stream.offer(vec![entry(now(), &format!("/new/{index}"))]);
    }
    stream.settle();
    let page = stream.page(0, 100).unwrap();
    let old = |event: &Event| {
        event.after.as_ref().unwrap()["request.path"]
            .as_str()
            .unwrap()
            .starts_with("/old")
    };
    let left = page.iter().filter(|(_, event)| old(event)).count();
    // What stands in a file with newer events goes with that.
    assert!(left < 12, "{left} old ones are left");
    assert_eq!(page.len() - left, 20);
    let found = store.verify(&[]).unwrap();
    assert_eq!(found.broken, None);
    assert_eq!(found.streams[0].pruned + page.len() as u64, 60);
    // The twin: the same files, removed by somebody.
    drop(stream);
    fs::remove_file(&files(dir.path())[0]).unwrap();
    let broken = store.verify(&[]).unwrap().broken.unwrap();
    assert_eq!(broken.seq, found.streams[0].pruned + 1, "{broken}");
}

#[test]
fn more_than_is_kept_goes_oldest_first() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let settings = StreamSettings {
        most_bytes: 6000,
        ..small()
    };
    let stream = stream(&store, settings);
    for index in 0..100 {
        stream.offer(vec![entry(now(), &format!("/{index}"))]);
    }
    stream.settle();
    let bytes: u64 = files(dir.path())
        .iter()
        .map(|path| path.metadata().unwrap().len())
        .sum();
    assert!((2000..=6000).contains(&bytes), "{bytes}");
    assert_eq!(store.verify(&[]).unwrap().broken, None);
}

#[test]
fn what_cannot_be_kept_is_counted_and_told_and_the_log_is_not_held_up() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let stream = stream(&store, small());
    stream.settle();
    let place = dir.path().join(NAME);
    fs::remove_dir_all(&place).unwrap();
    stream.offer(vec![entry(now(), "/1"), entry(now(), "/2")]);
    stream.settle();
    assert_eq!(stream.dropped(), 2);
    assert!(stream.failing().unwrap().contains("making"));
    // A change is taken all the same.
    runtime().block_on(store.commit(vec![put("a", 1)])).unwrap();
    fs::create_dir(&place).unwrap();
    stream.offer(vec![entry(now(), "/3")]);
    stream.settle();
    assert_eq!(stream.failing(), None);
    let page = stream.page(0, 9).unwrap();
    let kinds: Vec<&str> = page.iter().map(|(_, event)| event.kind.as_str()).collect();
    assert_eq!(kinds, ["audit.dropped", "request.denied"]);
    assert_eq!(page[0].1.after.as_ref().unwrap()["events"], 2);
    assert_eq!(store.verify(&[]).unwrap().broken, None);
}

#[test]
fn a_log_that_came_back_without_its_stream_says_so() {
    let dir = written(20);
    fs::remove_dir_all(dir.path().join(NAME)).unwrap();
    assert!(
        verify(dir.path(), &[]).unwrap().broken.is_some(),
        "nobody told of it yet"
    );
    let store = open(dir.path());
    let stream = stream(&store, small());
    stream.offer(vec![entry(now(), "/after")]);
    stream.settle();
    let found = store.verify(&[]).unwrap();
    assert_eq!(found.broken, None);
    assert_eq!(found.streams[0].lost, [(1, 20)]);
    assert_eq!(stream.page(0, 9).unwrap()[0].0.seq, 21);
    let lost = Filter {
        kind_prefix: Some("audit.lost".to_owned()),
        ..Filter::default()
    };
    assert_eq!(store.history(&lost, 9).unwrap().len(), 1);
}

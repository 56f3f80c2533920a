//! Events that go by their age: what is left folds, answers and verifies as before, cut off anywhere; and what somebody
//! took out is told apart from it.

use super::backup::{authority, word};
use super::reseal::{all_open, opened_by, secret, with_secrets};
use super::{full, named, open, put, runtime};
use crate::fold::Folded;
use crate::log::{self, Checks, FILE_HEAD, RECORD_HEAD};
use crate::store::Replay;
use crate::{
    Cut, Draft, Error, Filter, Head, Lock, Settings, Store, backup, keyfile, restore, verify,
};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Commits of one or two events; the one of this number happened at so many seconds.
fn aged(commits: u64) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    runtime().block_on(async {
        for index in 1..=commits {
            let drafts = (0..=index % 2).map(|part| Draft {
                time_ms: index * 1000,
                ..put(
                    &format!("s{}", (index + part) % 7),
                    1000 + u16::try_from(index).unwrap(),
                )
            });
            store.commit(drafts.collect()).await.unwrap();
        }
    });
    dir
}

fn cut(store: &Store, before_ms: u64) -> Option<Cut> {
    runtime().block_on(store.cut(before_ms)).unwrap()
}

fn state(store: &Store) -> Folded {
    Folded::from(store.snapshot().as_ref())
}

fn objects(store: &Store) -> Vec<(String, String)> {
    let snapshot = store.snapshot();
    let all = snapshot
        .values()
        .map(|(object, value)| (object.to_string(), value.to_string()));
    all.collect()
}

fn base_of(dir: &Path) -> PathBuf {
    let (_, name) = crate::cut::bases(dir).unwrap().pop().expect("a base");
    dir.join(name)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() && !path.ends_with("lock") {
            fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
}

#[test]
fn what_is_left_folds_answers_and_verifies_as_before() {
    let dir = aged(60);
    let store = open(dir.path());
    let (before, events) = (objects(&store), store.head().seq);
    let then: Vec<Folded> = (1..=events)
        .map(|seq| Folded::from(&store.at(seq).unwrap()))
        .collect();
    let page = store.page(1, 1000).unwrap();
    let heads = [page[4].0, page[80].0];
    assert_eq!(cut(&store, 1000), None, "nothing is as old");
    assert_eq!(cut(&store, 5000), None, "too little to be worth it");
    let gone = cut(&store, 40_500).expect("it is worth it");
    assert_eq!((gone.seq, gone.events), (60, 60));
    assert_eq!(store.start(), page[59].0, "the chain goes on from it");
    let copied = tempfile::tempdir().unwrap();
    copy(dir.path(), &copied.path().join("m"));
    drop(fs::remove_file(copied.path().join("m/snapshot")));
    let (other, recovery) = Store::open(&copied.path().join("m"), Settings::default()).unwrap();
    assert!(recovery.is_clean(), "{recovery}");
    for store in [&store, &other] {
        assert_eq!(objects(store), before);
        answers(store, &then);
        let found = store.verify(&heads).unwrap();
        assert_eq!((found.broken, found.cut, found.outlived), (None, 60, 1));
        let next = runtime()
            .block_on(store.commit(vec![put("next", 1)]))
            .unwrap();
        assert_eq!(next.revision, events + 2);
    }
    // It goes on: what was left goes, too, and the base of before with it.
    let gone = cut(&store, 60_500).expect("more is old");
    assert_eq!((gone.seq, gone.events), (90, 30));
    assert_eq!(crate::cut::bases(dir.path()).unwrap().len(), 1);
    assert_eq!(store.verify(&[]).unwrap().broken, None);
    let now = state(&store);
    drop(store);
    assert_eq!(state(&open(dir.path())), now);
}

/// History, states of then and undo of a log whose first 60 events went.
fn answers(store: &Store, then: &[Folded]) {
    let kept = store
        .events(1..=u64::MAX, &Filter::default(), 1000)
        .unwrap();
    assert_eq!((kept[0].seq, kept.len()), (61, then.len() - 60 + 1));
    assert_eq!(kept.last().unwrap().kind, "log.cut");
    for seq in 60..=then.len() {
        let at = store.at(seq as u64).unwrap();
        assert_eq!(Folded::from(&at), then[seq - 1], "{seq}");
    }
    let told = store.at(59).unwrap_err().to_string();
    assert!(
        told.contains("went by its age") && told.contains("is 60"),
        "{told}"
    );
    let undone = store.undo(60, "a", "");
    assert!(matches!(
        undone,
        Err(Error::Outlived {
            asked: 60,
            oldest: 61
        })
    ));
    let last = store.last_change().unwrap().unwrap();
    assert!(!store.undo(last, "a", "").unwrap().is_empty());
    let of = Filter::object(&named("Service", "s3"));
    let history = store.history(&of, 100).unwrap();
    assert!(!history.is_empty() && history.iter().all(|event| event.seq > 60));
}

/// Power is cut at any moment of a cut: each state of the directory in between opens with everything that was in force.
#[test]
fn cut_off_at_any_byte_nothing_is_lost() {
    let dir = aged(40);
    let cuts = tempfile::tempdir().unwrap();
    let (a, b) = (cuts.path().join("a"), cuts.path().join("b"));
    copy(dir.path(), &a);
    let store = open(dir.path());
    let before = objects(&store);
    cut(&store, 30_500).expect("it is worth it");
    drop(store);
    copy(dir.path(), &b);
    let (whole, shorter) = (
        fs::read(a.join("log")).unwrap(),
        fs::read(b.join("log")).unwrap(),
    );
    let base = base_of(&b);
    let state = fs::read(&base).unwrap();
    let mut told = whole.clone();
    told.extend(records(&shorter).last().unwrap());
    let step = if full() { 1 } else { 1999 };
    let mut places = 0;
    let mut check = |what: String, files: &[(&Path, &[u8])]| {
        let place = cuts.path().join("now");
        copy(&a, &place);
        for (name, bytes) in files {
            fs::write(place.join(name.file_name().unwrap()), bytes).unwrap();
        }
        let (store, recovery) = Store::open(&place, Settings::default()).unwrap();
        assert_eq!(recovery.damage, None, "{what}");
        assert_eq!(objects(&store), before, "{what}");
        runtime()
            .block_on(store.commit(vec![put("next", 1)]))
            .unwrap();
        assert_eq!(store.verify(&[]).unwrap().broken, None, "{what}");
        cut(&store, 30_500);
        assert_eq!(store.verify(&[]).unwrap().broken, None, "{what}, once more");
        drop(store);
        let left = fs::read_dir(&place)
            .unwrap()
            .map(|entry| entry.unwrap().file_name());
        let left: Vec<String> = left.map(|name| name.into_string().unwrap()).collect();
        assert_eq!(
            left.iter().filter(|name| name.starts_with("base-")).count(),
            1,
            "{left:?}"
        );
        assert!(!left.iter().any(|name| name == "log.cut"), "{left:?}");
        fs::remove_dir_all(&place).unwrap();
        places += 1;
    };
    let (log, new) = (Path::new("log"), Path::new("log.cut"));
    check("the base is there".to_owned(), &[(&base, &state)]);
    for end in (whole.len()..=told.len()).step_by(step.min(97)) {
        check(
            format!("the event, {end} bytes"),
            &[(&base, &state), (log, &told[..end])],
        );
    }
    for end in (0..=shorter.len()).step_by(step) {
        let files = [
            (base.as_path(), &state[..]),
            (log, &told),
            (new, &shorter[..end]),
        ];
        check(format!("the new log, {end} bytes"), &files);
    }
    check("in place".to_owned(), &[(&base, &state), (log, &shorter)]);
    println!("{places} states in between opened");
}

/// The bytes of each record.
fn records(log: &[u8]) -> Vec<Vec<u8>> {
    let mut at = FILE_HEAD;
    let mut all = Vec::new();
    while at < log.len() {
        let length = u32::from_le_bytes(log[at..at + 4].try_into().unwrap());
        let end = at + RECORD_HEAD + usize::try_from(length).unwrap();
        all.push(log[at..end].to_vec());
        at = end;
    }
    all
}

/// A log that was cut by its age and then by a crash: the records before are there, as in one that was not.
#[test]
fn a_cut_log_that_a_crash_cuts_keeps_every_record_before() {
    let dir = aged(40);
    let store = open(dir.path());
    cut(&store, 20_500).expect("it is worth it");
    let then: Vec<Folded> = (30..=store.head().seq)
        .map(|seq| Folded::from(&store.at(seq).unwrap()))
        .collect();
    drop(store);
    drop(fs::remove_file(dir.path().join("snapshot")));
    let log = fs::read(dir.path().join("log")).unwrap();
    let mut ends = vec![FILE_HEAD];
    for record in records(&log) {
        ends.push(ends.last().unwrap() + record.len());
    }
    // At every byte of the end, and elsewhere here and there.
    let step = if full() { 1 } else { 211 };
    let most = log.len() - 700;
    for end in (FILE_HEAD..most).step_by(step).chain(most..=log.len()) {
        fs::write(dir.path().join("log"), &log[..end]).unwrap();
        let file = File::open(dir.path().join("log")).unwrap();
        let replay = Replay::read(dir.path(), &file, Checks::ALL).unwrap();
        assert_eq!(replay.recovery.damage, None, "cut at {end}");
        let seq = replay.folded.revision;
        assert_eq!(replay.scan.last, seq, "cut at {end}");
        assert_eq!(
            replay.folded,
            then[usize::try_from(seq).unwrap() - 30],
            "cut at {end}"
        );
        let whole = ends.iter().rev().find(|whole| **whole <= end).unwrap();
        assert_eq!(replay.scan.end, *whole as u64, "cut at {end}");
    }
}

#[test]
fn what_somebody_took_out_is_told_apart_from_what_went_by_age() {
    let dir = aged(40);
    let store = open(dir.path());
    cut(&store, 20_500).expect("it is worth it");
    drop(store);
    let log = dir.path().join("log");
    let (sound, base) = (fs::read(&log).unwrap(), base_of(dir.path()));
    let state = fs::read(&base).unwrap();
    let found = |dir: &Path| {
        verify(dir, &[])
            .unwrap()
            .broken
            .map(|broken| broken.to_string())
    };
    assert_eq!(found(dir.path()), None, "the twin");

    // One more record goes at the beginning, and the base is made to fit.
    let shorter: Vec<u8> = [&sound[..FILE_HEAD], &records(&sound)[1..].concat()].concat();
    fs::write(&log, &shorter).unwrap();
    let told = found(dir.path()).expect("found");
    assert!(told.contains("restore it from a backup"), "{told}");
    let start = match log::start(&File::open(&log).unwrap()).unwrap() {
        log::Start::After(start) => start,
        other => panic!("{other:?}"),
    };
    let Ok((forged, _)) =
        crate::checkpoint::load_from(dir.path(), base.file_name().unwrap().to_str().unwrap())
            .unwrap()
            .unwrap()
    else {
        panic!("the base is sound");
    };
    let folded = Folded {
        revision: start.seq,
        ..forged.folded
    };
    crate::checkpoint::save_as(dir.path(), &crate::cut::name(start), folded, start.hash).unwrap();
    let told = found(dir.path()).expect("found");
    assert!(
        told.contains("no event tells") && told.contains(&format!("behind event {}", start.seq)),
        "{told}"
    );
    fs::remove_file(dir.path().join(crate::cut::name(start))).unwrap();
    fs::write(&log, &sound).unwrap();
    assert_eq!(found(dir.path()), None, "the twin");

    // The base says something else, with its checksum mended.
    let text = String::from_utf8_lossy(&state[16..]).replacen("\"port\":10", "\"port\":20", 1);
    let mut edited = state[..12].to_vec();
    edited.extend(crc32c::crc32c(text.as_bytes()).to_le_bytes());
    edited.extend(text.as_bytes());
    assert_ne!(edited, state);
    fs::write(&base, &edited).unwrap();
    let told = found(dir.path()).expect("found");
    assert!(told.contains("not the one that was written"), "{told}");

    // Without it the log is served read-only, and says why.
    fs::remove_file(&base).unwrap();
    drop(fs::remove_file(dir.path().join("snapshot")));
    let (store, recovery) = Store::open(dir.path(), Settings::default()).unwrap();
    let told = recovery.damage.expect("damage").what;
    assert!(
        told.contains("is missing: restore it from a backup"),
        "{told}"
    );
    assert!(store.not_writing().is_some());
    drop(store);
    fs::write(&base, &state).unwrap();
    assert!(
        Store::open(dir.path(), Settings::default())
            .unwrap()
            .1
            .is_clean(),
        "the twin"
    );
    // A head of what is left tells an edited log as ever.
    let wrong = Head {
        seq: 35,
        hash: [7; 32],
    };
    assert!(verify(dir.path(), &[wrong]).unwrap().broken.is_some());
}

#[test]
fn secrets_of_the_base_are_sealed_anew_and_a_backup_has_it() {
    let dir = with_secrets();
    authority(dir.path());
    let old = keyfile::open(dir.path(), false, None, true, |_| None).unwrap();
    let store = open(dir.path());
    let now = crate::stamp::now_ms() + 1;
    let later = Draft {
        time_ms: now + 10_000,
        ..secret("late", "six")
    };
    runtime().block_on(store.commit(vec![later])).unwrap();
    cut(&store, now + 1).expect("it is worth it");
    all_open(&store);
    assert!(
        opened_by(&old, &store).0 > 0,
        "the twin: the old key opens what is left"
    );
    let first = store.start();
    runtime()
        .block_on(store.reseal(Lock::Same, "user:test"))
        .unwrap();
    all_open(&store);
    assert_eq!(opened_by(&old, &store).0, 0);
    assert_ne!(store.start(), first, "another chain");
    let base = base_of(dir.path());
    let (checkpoint, _) =
        crate::checkpoint::load_from(dir.path(), base.file_name().unwrap().to_str().unwrap())
            .unwrap()
            .unwrap()
            .unwrap();
    for (object, value) in checkpoint
        .folded
        .objects
        .iter()
        .filter(|(object, _)| object.kind == "Secret")
    {
        assert!(old.reveal(object, value).is_err(), "{object}");
    }
    assert_eq!(store.verify(&[]).unwrap().broken, None);
    let before = objects(&store);
    let out = tempfile::tempdir().unwrap();
    let (file, to) = (out.path().join("backup"), out.path().join("home/m"));
    backup(dir.path(), "m", &file, &word("a")).unwrap();
    drop(store);
    for dir in [
        dir.path(),
        &restore(&file, &word("a"), |_| to.clone()).unwrap().1,
    ] {
        let (store, recovery) = Store::open(dir, Settings::default()).unwrap();
        assert!(recovery.is_clean(), "{recovery}");
        assert_eq!(objects(&store), before);
        all_open(&store);
        assert_eq!(store.verify(&[]).unwrap().broken, None);
    }
}

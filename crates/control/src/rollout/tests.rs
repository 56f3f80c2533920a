//! What is done next, by phase, counts and time.

use super::strict::Watched;
use super::{Action, Change, Counts, Live, Phase, Plain, Rollout, gate, step};
use naka_identity::rotate::Stage;

const STARTED: u64 = 1_000;

fn rollout(phase: Phase) -> Rollout {
    Rollout {
        name: "root".to_owned(),
        uid: String::new(),
        problem: String::new(),
        change: Change::RootRotation {
            compromised_within_s: None,
            from: "a".to_owned(),
            to: "b".to_owned(),
        },
        manual: false,
        started_by: "user:me".to_owned(),
        started_s: STARTED,
        phase,
        since_s: STARTED,
        promoted: false,
        aborted_by: None,
        left_behind: Vec::new(),
    }
}

fn stage(signs: &str, prepared: Option<&str>, retired: Option<&str>) -> Stage {
    Stage {
        signs: signs.to_owned(),
        prepared: prepared.map(str::to_owned),
        retired: retired.map(str::to_owned),
    }
}

fn prepared() -> Stage {
    stage("a", Some("b"), None)
}

fn switched() -> Stage {
    stage("b", None, Some("a"))
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn counts(stage: Stage, behind: Option<&[&str]>, live: &[&str]) -> Counts {
    Counts {
        stage,
        behind: behind.map(names),
        live: live
            .iter()
            .map(|of| Live {
                of: (*of).to_owned(),
                until: "noon".to_owned(),
            })
            .collect(),
        plain: Plain::default(),
    }
}

const NOBODY: Option<&[&str]> = Some(&[]);

#[test]
fn each_step_waits_for_its_gate_and_is_taken_once() {
    let live = ["order.default"];
    let wait = |words: &str| Action::Wait(words.to_owned());
    let table = [
        (
            Phase::Trust,
            counts(prepared(), None, &live),
            wait("the trust bundle is on its way"),
        ),
        (
            Phase::Trust,
            counts(prepared(), Some(&["order.default"]), &live),
            wait("1 proxy without the trust bundle of this step: order.default"),
        ),
        (
            Phase::Trust,
            counts(prepared(), NOBODY, &live),
            Action::Switch,
        ),
        // The switch was made, and the record of it was lost.
        (
            Phase::Trust,
            counts(switched(), NOBODY, &live),
            Action::Enter(Phase::Renew),
        ),
        // What was prepared is gone: nothing to go on with.
        (
            Phase::Trust,
            counts(stage("a", None, None), NOBODY, &[]),
            Action::Withdraw,
        ),
        (
            Phase::Renew,
            counts(switched(), NOBODY, &live),
            wait(
                "1 certificate leads to the root that is to be dropped: order.default until noon; it is dropped when they are renewed, have ended or are revoked (naka cert revoke)",
            ),
        ),
        (
            Phase::Renew,
            counts(switched(), NOBODY, &[]),
            Action::Drop(Phase::Settle, Vec::new()),
        ),
        (
            Phase::Renew,
            counts(stage("b", None, None), NOBODY, &[]),
            Action::Enter(Phase::Settle),
        ),
        (
            Phase::Settle,
            counts(stage("b", None, None), Some(&["x.y"]), &[]),
            wait("1 proxy without the trust bundle of this step: x.y"),
        ),
        (
            Phase::Settle,
            counts(stage("b", None, None), NOBODY, &[]),
            Action::Enter(Phase::Done),
        ),
        (
            Phase::Done,
            counts(stage("b", None, None), None, &[]),
            wait(""),
        ),
    ];
    for (phase, counts, expect) in table {
        assert_eq!(
            step(&rollout(phase), &counts, STARTED),
            expect,
            "{phase:?} {counts:?}"
        );
    }
}

#[test]
fn a_manual_rollout_stops_behind_its_gates_and_never_before() {
    for (phase, stage, then) in [
        (Phase::Trust, prepared(), Action::Switch),
        (
            Phase::Renew,
            switched(),
            Action::Drop(Phase::Settle, Vec::new()),
        ),
    ] {
        let mut manual = rollout(phase);
        manual.manual = true;
        let open = counts(stage.clone(), NOBODY, &[]);
        let Action::Wait(why) = step(&manual, &open, STARTED) else {
            panic!("{phase:?} does not stop");
        };
        assert!(
            why.starts_with("for \"naka rollout promote root\""),
            "{why}"
        );
        manual.promoted = true;
        assert_eq!(step(&manual, &open, STARTED), then);
        // By hand nobody gets past the gate.
        let shut = counts(stage, Some(&["x.y"]), &["x.y"]);
        assert!(gate(&manual, &shut, STARTED).is_err());
        assert!(matches!(step(&manual, &shut, STARTED), Action::Wait(_)));
    }
}

#[test]
fn it_is_taken_back_from_each_step_but_the_last() {
    let aborted = |phase| {
        let mut one = rollout(phase);
        one.aborted_by = Some("user:me".to_owned());
        one
    };
    let live = ["order.default"];
    let table = [
        (
            Phase::Trust,
            counts(prepared(), NOBODY, &live),
            Action::Withdraw,
        ),
        (
            Phase::Renew,
            counts(switched(), NOBODY, &live),
            Action::SwitchBack,
        ),
        // The switch back was made, and the record of it was lost.
        (
            Phase::Renew,
            counts(stage("a", None, Some("b")), NOBODY, &live),
            Action::Enter(Phase::Revert),
        ),
        (
            Phase::Revert,
            counts(stage("a", None, Some("b")), NOBODY, &[]),
            Action::Drop(Phase::Aborted, Vec::new()),
        ),
        (
            Phase::Revert,
            counts(stage("a", None, None), NOBODY, &[]),
            Action::Enter(Phase::Aborted),
        ),
    ];
    for (phase, counts, expect) in table {
        assert_eq!(step(&aborted(phase), &counts, STARTED), expect, "{phase:?}");
    }
    // Certificates of the root that is taken back are in use until they are renewed.
    let in_use = counts(stage("a", None, Some("b")), NOBODY, &live);
    assert!(matches!(
        step(&aborted(Phase::Revert), &in_use, STARTED),
        Action::Wait(_)
    ));
}

#[test]
fn a_compromised_root_is_dropped_in_time_whoever_still_needs_it() {
    let emergency = |phase| {
        let mut one = rollout(phase);
        one.change = Change::RootRotation {
            compromised_within_s: Some(30),
            from: "a".to_owned(),
            to: "b".to_owned(),
        };
        one
    };
    let late = counts(prepared(), Some(&["x.y"]), &["x.y"]);
    assert!(matches!(
        step(&emergency(Phase::Trust), &late, STARTED + 14),
        Action::Wait(_)
    ));
    assert_eq!(
        step(&emergency(Phase::Trust), &late, STARTED + 15),
        Action::Switch
    );
    let late = counts(switched(), Some(&["x.y"]), &["x.y"]);
    assert!(matches!(
        step(&emergency(Phase::Renew), &late, STARTED + 29),
        Action::Wait(_)
    ));
    assert_eq!(
        step(&emergency(Phase::Renew), &late, STARTED + 30),
        Action::Drop(Phase::Settle, names(&["x.y until noon"]))
    );
    // Earlier, when nobody needs it.
    let ready = counts(switched(), NOBODY, &[]);
    assert_eq!(
        step(&emergency(Phase::Renew), &ready, STARTED + 1),
        Action::Drop(Phase::Settle, Vec::new())
    );
}

fn strict(phase: Phase) -> Rollout {
    Rollout {
        change: Change::PeerAuthentication {
            namespace: "shop".to_owned(),
            name: "default".to_owned(),
            quiet_s: 60,
            without_counts: Vec::new(),
        },
        ..rollout(phase)
    }
}

fn plain(quiet_s: u64, taken: &[&str], refused: &[&str], uncounted: &[&str]) -> Counts {
    Counts {
        behind: Some(Vec::new()),
        plain: Plain {
            quiet_s,
            taken: names(taken),
            refused: names(refused),
            uncounted: names(uncounted),
        },
        ..Counts::default()
    }
}

#[test]
fn strict_comes_after_a_quiet_time_and_goes_when_it_hurts() {
    let wait = |words: &str| Action::Wait(words.to_owned());
    let late = STARTED + 60;
    let table = [
        (
            Phase::Watch,
            plain(59, &[], &[], &[]),
            late,
            wait("no plain call for 59 of 60 seconds"),
        ),
        (
            Phase::Watch,
            plain(3, &["pay.shop (2)"], &[], &[]),
            late,
            wait("the last plain call was 3 seconds ago, 60 are wanted; they came to pay.shop (2)"),
        ),
        (
            Phase::Watch,
            plain(60, &["pay.shop (2)"], &[], &[]),
            STARTED,
            Action::Strict,
        ),
        (
            Phase::Watch,
            plain(99, &[], &[], &["old.shop"]),
            late,
            wait(
                "these proxies do not count plain calls, so nobody knows whether some come: old.shop; where you know that none do, name them in spec.peerAuthentication.withoutCounts of another Rollout",
            ),
        ),
        (
            Phase::Enforce,
            plain(0, &[], &[], &[]),
            late - 1,
            wait("it is STRICT; if a plain call comes within 60 seconds it is taken back"),
        ),
        (
            Phase::Enforce,
            plain(0, &[], &[], &[]),
            late,
            Action::Enter(Phase::Done),
        ),
        (
            Phase::Enforce,
            plain(0, &[], &["pay.shop (1)"], &[]),
            late,
            Action::Permissive("taken back, because plain calls came: pay.shop (1)".to_owned()),
        ),
    ];
    for (phase, counts, now, expect) in table {
        assert_eq!(
            step(&strict(phase), &counts, now),
            expect,
            "{phase:?} {counts:?}"
        );
    }
    let behind = Counts {
        behind: Some(names(&["x.y"])),
        ..plain(0, &[], &[], &[])
    };
    assert_eq!(
        step(&strict(Phase::Enforce), &behind, late),
        wait("not yet at x.y")
    );
    let mut aborted = strict(Phase::Watch);
    aborted.aborted_by = Some("user:me".to_owned());
    let quiet = plain(99, &[], &[], &[]);
    assert_eq!(step(&aborted, &quiet, late), Action::Enter(Phase::Aborted));
    aborted.phase = Phase::Enforce;
    assert_eq!(
        step(&aborted, &quiet, late),
        Action::Permissive("taken back by user:me".to_owned())
    );
}

#[test]
fn what_was_counted_before_the_step_began_does_not_count() {
    let mut watched = Watched::default();
    watched.begin("uid", Phase::Watch);
    watched.saw("1", "old.shop", [7, 0]);
    watched.begun();
    let taken = |watched: &Watched| watched.told(Vec::new()).taken;
    assert!(taken(&watched).is_empty());
    // One that came later tells what it took since its start; one that was started again begins at nothing.
    watched.saw("2", "new.shop", [2, 0]);
    watched.saw("1", "old.shop", [1, 0]);
    assert_eq!(taken(&watched), ["new.shop (2)", "old.shop (1)"]);
    watched.begin("uid", Phase::Watch);
    watched.saw("1", "old.shop", [3, 1]);
    assert_eq!(taken(&watched), ["new.shop (2)", "old.shop (3)"]);
    assert_eq!(watched.told(Vec::new()).refused, ["old.shop (1)"]);
    watched.begin("uid", Phase::Enforce);
    assert_eq!(watched.told(Vec::new()), Plain::default());
}

//! `phi_above`: how surprising is a silence, given the rhythm so far?

use coroner::model::{
    Condition,
    Truth::{False, True, Unknown},
    policy::{Observers, SignalKind, SignalPolicy, Subjects},
};

use crate::{
    court::Court,
    policy::{is, ms, secs, signal},
};

fn court() -> Court {
    let policy = SignalPolicy {
        every: secs(1),
        fresh_for: secs(3),
        ..signal(SignalKind::Heartbeat, Observers::Members, Subjects::Primary)
    };
    Court::about(policy, is("s", Condition::PhiAbove(8.0)))
}

#[test]
fn too_few_beats_say_nothing() {
    let mut court = court();
    assert_eq!(court.truth(), Unknown);
    for n in 0..5 {
        court.at(secs(n)).beat(n);
        assert_eq!(court.truth(), Unknown, "{n} gaps");
    }
    court.at(secs(60));
    assert_eq!(court.truth(), Unknown, "four gaps are no rhythm");
    assert!(court.tree().seen.contains("too few heartbeats"), "{}", court.tree().seen);
}

#[test]
fn a_silence_that_the_rhythm_does_not_explain_is_suspicious_and_the_engine_wakes_for_it() {
    let mut court = court();
    for n in 0..30 {
        court.at(secs(n)).beat(n);
    }
    assert_eq!(court.truth(), False);
    court.at(secs(30));
    assert_eq!(court.truth(), False, "on time");
    let wake = court.engine.poll_timeout().unwrap();
    assert!(wake.since(court.now) < secs(2));
    // A steady rhythm: the floor of a tenth of the period makes 8 come within two periods.
    let mut fired = None;
    for tenth in 1..40 {
        court.at(secs(30) + ms(100) * tenth);
        if court.truth() == True && fired.is_none() {
            fired = Some(tenth);
        }
    }
    let fired = fired.expect("a silence of four periods is suspicious");
    assert!((3..=15).contains(&fired), "after {fired} tenths beyond a period");
    assert!(court.tree().seen.starts_with("phi "), "{}", court.tree().seen);
    court.beat(99);
    assert_eq!(court.truth(), False);
}

#[test]
fn a_stream_that_beats_irregularly_is_given_more_time() {
    let first_true = |gaps: [u64; 2]| {
        let mut court = court();
        let mut at = 0;
        for n in 0..40 {
            court.at(ms(at)).beat(n);
            at += gaps[usize::try_from(n % 2).unwrap()];
        }
        let last = at - gaps[1];
        (0..200).map(|i| 50 * i).find(|d| court.at(ms(last.max(at - gaps[1]) + d)).truth() == True).unwrap()
    };
    assert!(first_true([500, 1500]) > first_true([1000, 1000]));
}

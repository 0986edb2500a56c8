//! The rules, one by one.

use std::time::Duration;

use coroner::{
    election::{Action, Candidate, Notice, Settings, Standing},
    model::{
        Time,
        time::{Moment, Mono},
    },
    registry::{Beat, Beaten, Leader, RegistryError},
};

use crate::{
    database::Database,
    world::{MS, SECOND, World},
};

fn settings(instance: &str) -> Settings {
    Settings::new("g", instance)
}

fn at(ms: u64) -> Moment {
    Moment { boot: Time::from_millis(ms), mono: Mono(ms * 1_000_000) }
}

fn beat(candidate: &mut Candidate, ms: u64) -> Beat {
    match candidate.poll_action(at(ms)) {
        Some(Action::Beat(beat)) => beat,
        other => panic!("a heartbeat at {ms} ms, not {other:?}"),
    }
}

/// One heartbeat, sent at `ms` and answered `took` later.
fn beats(candidate: &mut Candidate, database: &mut Database, ms: u64, took: u64) -> Beaten {
    let beat = beat(candidate, ms);
    database.now_ms = i64::try_from(ms).unwrap();
    let beaten = database.beat(&beat);
    candidate.handle_beaten(at(ms), at(ms + took), Ok(beaten.clone()));
    beaten
}

fn claims(candidate: &mut Candidate, database: &mut Database, ms: u64) {
    let Some(Action::Claim(leader)) = candidate.poll_action(at(ms)) else { panic!("a claim at {ms} ms") };
    candidate.handle_claimed(at(ms), at(ms), &database.claim(&leader));
}

fn looks(candidate: &mut Candidate, database: &Database, ms: u64) {
    let Some(Action::Look) = candidate.poll_action(at(ms)) else { panic!("a look at {ms} ms") };
    candidate.handle_looked(at(ms), at(ms), &Ok(database.instances("g", Candidate::LOOK_ROWS)));
}

/// A leader in epoch 1 since 1000 ms.
fn leader(database: &mut Database) -> Candidate {
    let mut candidate = Candidate::new(settings("app1"));
    beats(&mut candidate, database, 1_000, 0);
    claims(&mut candidate, database, 1_000);
    beats(&mut candidate, database, 1_000, 0);
    looks(&mut candidate, database, 1_000);
    assert!(matches!(candidate.standing(at(1_000)), Standing::Leader { epoch: 1, .. }));
    candidate
}

fn is_leader(candidate: &Candidate, ms: u64) -> bool {
    matches!(candidate.standing(at(ms)), Standing::Leader { .. })
}

#[test]
fn the_lease_counts_from_before_the_heartbeat_was_sent() {
    let mut database = Database::default();
    let mut candidate = leader(&mut database);
    // Sent at 2000, answered at 3500: 4.5 s from 2000, less a second to stop.
    beats(&mut candidate, &mut database, 2_000, 1_500);
    let Standing::Leader { until, .. } = candidate.standing(at(3_500)) else { panic!("it leads") };
    assert_eq!(until, at(5_500));
    assert!(is_leader(&candidate, 5_499));
    assert!(!is_leader(&candidate, 5_500));
}

#[test]
fn a_lost_answer_to_a_claim_makes_no_leader_before_a_heartbeat_shows_it() {
    let mut database = Database::default();
    let mut candidate = Candidate::new(settings("app1"));
    beats(&mut candidate, &mut database, 1_000, 0);
    let Some(Action::Claim(claim)) = candidate.poll_action(at(1_000)) else { panic!("a claim") };
    database.claim(&claim).unwrap();
    candidate.handle_claimed(at(1_000), at(1_500), &Err(RegistryError::Unknown("lost".into())));
    assert!(!is_leader(&candidate, 1_500));
    beats(&mut candidate, &mut database, 1_500, 0);
    looks(&mut candidate, &database, 1_500);
    assert!(is_leader(&candidate, 1_500));
}

#[test]
fn whoever_follows_waits_by_an_own_clock_although_the_database_lets_it() {
    let mut database = Database::default();
    let mut first = leader(&mut database);
    let mut second = Candidate::new(settings("app2"));
    beats(&mut second, &mut database, 1_100, 0);
    beats(&mut first, &mut database, 2_000, 0);
    beats(&mut second, &mut database, 2_100, 100);
    // The database's clock leaps an hour ahead: the first row lapses there at once.
    let hour = 3_600_000;
    for row in database.rows.values_mut() {
        row.heartbeat_ms -= hour;
    }
    // The own row lapsed as well: a new one.
    let beaten = beats(&mut second, &mut database, 3_100, 0);
    assert_eq!(beaten.id, 3);
    assert!(matches!(second.poll_notice(), Some(Notice::Lapsed { old: 2, new: 3 })));
    let mut now = 3_100;
    while now < 7_690 {
        assert_eq!(second.poll_action(at(now)), None, "at {now}");
        let wait = second.poll_timeout(at(now)).unwrap();
        now += u64::try_from(wait.as_millis()).unwrap().max(1);
        beats(&mut second, &mut database, now, 0);
    }
    // Seen at 2200, so over at 7700 by its own clock; it comes exactly then.
    assert_eq!(now, 7_700);
    claims(&mut second, &mut database, now);
    beats(&mut second, &mut database, now, 0);
    looks(&mut second, &database, now);
    assert!(is_leader(&second, now) && !is_leader(&first, now));
}

/// It beats whenever it is time to, until it is about to claim; when that is.
fn until_it_claims(candidate: &mut Candidate, database: &mut Database, mut ms: u64) -> u64 {
    for _ in 0..100 {
        let wait = candidate.poll_timeout(at(ms)).unwrap();
        if wait.is_zero() {
            return ms;
        }
        ms += u64::try_from(wait.as_millis()).unwrap().max(1);
        beats(candidate, database, ms, 0);
    }
    panic!("it never claims");
}

/// Step 4: a row that beat between the last answer and the claim may act. The look after the claim finds it out, and the
/// lease is not acted on until every older one is over by an own clock.
#[test]
fn a_row_that_beat_just_before_the_claim_is_waited_for() {
    let mut database = Database::default();
    let _dies = leader(&mut database);
    let mut second = Candidate::new(settings("app2"));
    beats(&mut second, &mut database, 1_100, 0);
    let now = until_it_claims(&mut second, &mut database, 1_100);
    // The database's clock was back for a moment, and the row beat in it.
    database.rows.get_mut(&1).unwrap().beats += 1;
    claims(&mut second, &mut database, now);
    beats(&mut second, &mut database, now, 0);
    looks(&mut second, &database, now);
    assert_eq!(second.poll_notice(), Some(Notice::Unproven { epoch: 2 }));
    // Stopped now, it does not tell the others that nobody has to wait: an older lease may run.
    let mut stopped = second.clone();
    stopped.leave();
    assert_eq!((stopped.poll_action(at(now)), stopped.has_left()), (None, true));
    let mut led_at = now;
    while !is_leader(&second, led_at) {
        led_at += u64::try_from(second.poll_timeout(at(led_at)).unwrap().as_millis()).unwrap().max(1);
        if second.poll_timeout(at(led_at)).is_some_and(|wait| wait.is_zero()) {
            beats(&mut second, &mut database, led_at, 0);
        }
        assert!(led_at < now + 10_000, "in the end it leads");
    }
    assert_eq!(led_at - now, 5_500, "five seconds, counted on a clock that may be a tenth too fast");
}

/// The wait begins anew with every heartbeat that was seen, not with the first.
#[test]
fn the_last_heartbeat_that_was_seen_counts() {
    let mut database = Database::default();
    let mut first = leader(&mut database);
    let mut second = Candidate::new(settings("app2"));
    beats(&mut second, &mut database, 1_150, 0);
    beats(&mut first, &mut database, 2_000, 0);
    beats(&mut second, &mut database, 2_150, 0);
    assert_eq!(until_it_claims(&mut second, &mut database, 2_150), 2_150 + 5_500);
}

/// A leader that was written down and died at once: whoever led before it may act on, and its row is shown no more.
#[test]
fn the_leader_before_the_last_one_is_waited_for() {
    let mut database = Database::default();
    let mut first = leader(&mut database);
    let (mut second, mut third) = (Candidate::new(settings("app2")), Candidate::new(settings("app3")));
    beats(&mut second, &mut database, 1_100, 0);
    beats(&mut third, &mut database, 1_150, 0);
    for second in 2..=6 {
        beats(&mut first, &mut database, second * 1_000, 0);
        beats(&mut third, &mut database, second * 1_000 + 150, 0);
    }
    // A leap of the database's clock let app2 claim; app1 acts until 9500.
    database.leader = Some(2);
    beats(&mut third, &mut database, 7_150, 0);
    assert!(is_leader(&first, 9_000));
    let claims_at = until_it_claims(&mut third, &mut database, 7_150);
    assert_eq!(claims_at, 7_150 + 5_500, "counted from when app2 was seen to lead");
}

#[test]
fn a_row_that_left_needs_no_wait() {
    let mut database = Database::default();
    let mut first = leader(&mut database);
    let mut second = Candidate::new(settings("app2"));
    beats(&mut second, &mut database, 1_900, 0);
    first.leave();
    let Some(Action::Leave { id }) = first.poll_action(at(1_950)) else { panic!("it leaves") };
    database.leave(id);
    first.handle_left(at(1_950));
    assert!(first.has_left() && first.poll_action(at(9_000)).is_none() && !is_leader(&first, 1_950));
    beats(&mut second, &mut database, 2_900, 0);
    claims(&mut second, &mut database, 2_900);
    beats(&mut second, &mut database, 2_900, 0);
    looks(&mut second, &database, 2_900);
    assert!(is_leader(&second, 2_900));
}

#[test]
fn a_new_id_ends_the_leadership_at_once() {
    let mut database = Database::default();
    let mut candidate = leader(&mut database);
    database.rows.clear();
    let beaten = beats(&mut candidate, &mut database, 2_000, 0);
    assert_eq!(beaten.id, 2);
    assert!(!is_leader(&candidate, 2_000));
    assert_eq!(candidate.poll_notice(), Some(Notice::Lapsed { old: 1, new: 2 }));
    // The row of the leader is gone, and whoever had it may act on: an own clock waits all the same.
    assert_eq!(candidate.poll_action(at(2_000)), None);
}

#[test]
fn whoever_comes_late_comes_back_under_a_new_id() {
    let mut database = Database::default();
    let mut candidate = leader(&mut database);
    let beat = beat(&mut candidate, 2_000);
    assert_eq!(beat.id, Some(1));
    database.now_ms = 2_000;
    let beaten = database.beat(&beat);
    // It slept: the lease of the former heartbeat ended at 4500.
    candidate.handle_beaten(at(2_000), at(8_000), Ok(beaten));
    assert!(!is_leader(&candidate, 8_000));
    assert_eq!(candidate.poll_notice(), Some(Notice::Expired { epoch: 1 }));
    let beaten = beats(&mut candidate, &mut database, 8_000, 0);
    assert_eq!(beaten.id, 2, "an epoch is one uninterrupted leadership");
}

#[test]
fn a_database_that_was_set_back_is_left_alone() {
    let mut database = Database::default();
    let mut candidate = leader(&mut database);
    beats(&mut candidate, &mut database, 2_000, 0);
    for set_back in [Database { leader: None, ..database.clone() }, Database::default(), {
        let mut older = database.clone();
        older.rows.get_mut(&1).unwrap().beats = 1;
        older
    }] {
        let (mut candidate, mut database) = (candidate.clone(), set_back);
        beats(&mut candidate, &mut database, 3_000, 0);
        let Standing::Outside { reason } = candidate.standing(at(3_000)) else { panic!("outside") };
        assert!(reason.contains("the database was set back"), "{reason}");
        assert_eq!(candidate.poll_action(at(100_000)), None, "for good");
        candidate.leave();
        candidate.poll_action(at(100_000));
        assert!(candidate.has_left());
    }
}

#[test]
fn whoever_was_overtaken_gives_its_row_up() {
    let mut database = Database::default();
    let mut first = Candidate::new(settings("app1"));
    beats(&mut first, &mut database, 1_000, 0);
    database.leader = Some(7);
    database.last_id = 7;
    let _ = first.poll_action(at(1_000));
    first.handle_claimed(at(1_000), at(1_000), &database.claim(&Leader { group: "g".into(), id: 1 }));
    beats(&mut first, &mut database, 2_000, 0);
    assert_eq!(first.poll_notice(), Some(Notice::Overtaken { id: 1, leader: 7 }));
    assert_eq!(first.poll_action(at(2_000)), Some(Action::Leave { id: 1 }));
    first.handle_left(at(2_000));
    assert_eq!(beats(&mut first, &mut database, 2_000, 0).id, 8);
}

#[test]
fn steps_of_the_databases_clock_are_told() {
    let mut database = Database::default();
    let mut candidate = leader(&mut database);
    let beat = beat(&mut candidate, 2_000);
    database.now_ms = 1_500;
    let beaten = database.beat(&beat);
    candidate.handle_beaten(at(2_000), at(2_000), Ok(beaten));
    let Some(Notice::ClockStepped { by_ms }) = candidate.poll_notice() else { panic!("a notice") };
    assert!((-450..=-300).contains(&by_ms), "{by_ms}");
    assert!(is_leader(&candidate, 2_000), "an own lease does not depend on it");
}

#[test]
fn a_database_that_fails_is_asked_again_sooner_and_nobody_leads_in_the_end() {
    let mut database = Database::default();
    let mut candidate = leader(&mut database);
    let mut now = 2_000;
    while is_leader(&candidate, now) {
        beat(&mut candidate, now);
        candidate.handle_beaten(at(now), at(now), Err(RegistryError::Failed("refused".into())));
        assert_eq!(candidate.poll_timeout(at(now)), Some(Duration::from_millis(250)));
        now += 250;
    }
    assert_eq!(now, 4_500);
    let Standing::Standby { .. } = candidate.standing(at(4_500)) else { panic!("its row is valid yet") };
    assert_eq!(candidate.standing(at(5_500)), Standing::Outside { reason: "refused".into() });
}

/// Two, three, ten: the first leads, the others stand by, and one of them follows a leader that died.
#[test]
fn two_three_and_ten_instances() {
    for number in [2, 3, 10] {
        let mut world = World::new(number as u64, number, &settings("app"));
        for who in 0..number {
            world.start(who);
            world.run_for(100 * MS);
        }
        world.run_for(10 * SECOND);
        assert_eq!(world.leaders(), [0]);
        world.kill(0);
        world.run_for(9 * SECOND);
        assert_eq!(world.leaders(), [1], "the smallest id among the valid");
        world.start(0);
        world.run_for(3 * SECOND);
        world.leave(1);
        world.run_for(3 * SECOND);
        assert_eq!(world.leaders().len(), 1, "a clean stop costs no wait");
        let epochs: Vec<u64> = world.history.iter().map(|(_, epoch, _)| *epoch).collect();
        assert!(epochs.is_sorted(), "{epochs:?}");
    }
}

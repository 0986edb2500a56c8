//! Is a firing called true, false or unclear as it should be, and the difference between two files?

use std::{path::Path, time::Duration};

use coroner::{
    backtest::{self, BacktestError, Question, Report, RuleTally, Side},
    config::{self, WithoutSecrets},
    journal::{Bounds, Journal},
    model::{Policy, Truth, explain::Guard},
};

use crate::generator::{ANCHOR, BOOT, CAREFUL, HASTY, Weather, World, file, stormy_day};

pub(crate) fn policy_of(rules: &str) -> Policy {
    let text = file(Path::new("/nowhere"), rules);
    config::load_text(&text, "coroner.yaml", &WithoutSecrets).unwrap_or_else(|e| panic!("{e}\n{text}")).policy
}

fn ask(dir: &Path, in_force: &str, other: &str, change: impl FnOnce(&mut Question<'_>)) -> Report {
    let (in_force, other) = (policy_of(in_force), policy_of(other));
    let mut question = Question {
        in_force: &in_force,
        other: &other,
        clusters: vec!["orders".into()],
        from_unix_ms: ANCHOR.unix_ms,
        to_unix_ms: ANCHOR.unix_ms + 86_400_000,
        window: Duration::from_secs(60),
        outage: Duration::from_secs(3),
        disowned: Vec::new(),
        threads: 2,
    };
    change(&mut question);
    backtest::run(&Journal::open(dir).unwrap(), &question, &|_| {}).unwrap()
}

fn rule<'r>(report: &'r Report, side: Side, name: &str) -> &'r RuleTally {
    let mut rules = report.clusters[0].rules.iter();
    rules.find(|rule| rule.side == side && rule.rule.as_str() == name).unwrap()
}

fn counts(rule: &RuleTally) -> (u64, Option<u64>, Option<u64>, Option<u64>) {
    (rule.fired, rule.truly, rule.falsely, rule.unclear)
}

#[test]
fn a_hasty_rule_is_earlier_and_wrong_once() {
    let dir = tempfile::tempdir().unwrap();
    let world = stormy_day(dir.path());
    let report = ask(dir.path(), CAREFUL, HASTY, |_| {});
    let cluster = &report.clusters[0];
    assert_eq!(cluster.observations, world.observations);
    assert_eq!(counts(rule(&report, Side::InForce, "silent to everyone")), (2, Some(2), Some(0), Some(0)));
    assert_eq!(counts(rule(&report, Side::New, "no heartbeat")), (4, Some(2), Some(1), Some(1)));
    // An alert calls nobody dead: it is counted, and not judged.
    let late = rule(&report, Side::InForce, "late");
    assert!(late.fired >= 4 && late.truly.is_none(), "{late:?}");

    assert_eq!(cluster.events.len(), 2, "{:?}", cluster.events);
    for event in &cluster.events {
        let earlier = event.earlier_ms.unwrap();
        assert!((6_500..8_000).contains(&earlier), "{earlier}");
    }
    assert_eq!(cluster.events[0].incidents[0].id.as_str(), "01JSTORM");
    assert!(cluster.events[1].incidents.is_empty());
    assert!(cluster.events[1].outage.unwrap() > Duration::from_secs(18));
    let [wrong] = cluster.false_firings.as_slice() else { panic!("{:?}", cluster.false_firings) };
    assert!(wrong.why.contains("2 of 2 nodes went on receiving"), "{}", wrong.why);
    let [unclear] = cluster.unclear_firings.as_slice() else { panic!("{:?}", cluster.unclear_firings) };
    assert!(unclear.why.contains("nobody is known to have sent"), "{}", unclear.why);
    assert!(report.is_worse_than_wished);
    assert!(report.troubles.is_empty());
}

#[test]
fn a_slow_rule_is_later_and_misses_what_is_short() {
    let dir = tempfile::tempdir().unwrap();
    stormy_day(dir.path());
    let slow = CAREFUL.replace("silent: 10s", "silent: 15s");
    let report = ask(dir.path(), CAREFUL, &slow, |_| {});
    let events = &report.clusters[0].events;
    // The failover came after twelve seconds: by fifteen there was another primary.
    assert!(events[0].in_force.is_some() && events[0].new.is_none(), "{events:?}");
    assert_eq!(events[1].earlier_ms.map(|ms| ms / 1_000), Some(-5));
    assert!(report.is_worse_than_wished && report.clusters[0].false_firings.is_empty());
    // The same rules are as good as they are.
    let same = ask(dir.path(), CAREFUL, CAREFUL, |_| {});
    assert!(!same.is_worse_than_wished);
    assert!(same.clusters[0].events.iter().all(|event| event.earlier_ms == Some(0)));
}

#[test]
fn a_recorded_failover_may_be_named_a_false_alarm() {
    let dir = tempfile::tempdir().unwrap();
    stormy_day(dir.path());
    let report = ask(dir.path(), CAREFUL, CAREFUL, |question| question.disowned = vec!["01JST".into()]);
    assert_eq!(counts(rule(&report, Side::New, "silent to everyone")), (2, Some(1), Some(1), Some(0)));
    assert_eq!(report.clusters[0].events.len(), 1);
    assert!(report.is_worse_than_wished);
}

#[test]
fn a_rule_that_only_watches_is_judged_as_if_it_acted() {
    let dir = tempfile::tempdir().unwrap();
    stormy_day(dir.path());
    let shadow = HASTY.replace("then: failover", "then: failover, mode: shadow");
    let report = ask(dir.path(), CAREFUL, &format!("{CAREFUL}{shadow}"), |_| {});
    let hasty = rule(&report, Side::New, "no heartbeat");
    assert!(hasty.shadow);
    assert_eq!(counts(hasty), (4, Some(2), Some(1), Some(1)));
    assert!(report.is_worse_than_wished);
}

#[test]
fn only_the_time_that_is_asked_about_counts() {
    let dir = tempfile::tempdir().unwrap();
    stormy_day(dir.path());
    let report = ask(dir.path(), CAREFUL, HASTY, |question| {
        question.from_unix_ms = ANCHOR.unix_ms + 200_000;
        question.to_unix_ms = ANCHOR.unix_ms + 400_000;
    });
    assert_eq!(counts(rule(&report, Side::New, "no heartbeat")), (1, Some(1), Some(0), Some(0)));
    assert!(!report.is_worse_than_wished);
    let nothing = policy_of(CAREFUL);
    let question = Question {
        in_force: &nothing,
        other: &nothing,
        clusters: vec!["orders".into()],
        from_unix_ms: 0,
        to_unix_ms: ANCHOR.unix_ms - 1,
        window: Duration::from_secs(60),
        outage: Duration::from_secs(3),
        disowned: Vec::new(),
        threads: 1,
    };
    let error = backtest::run(&Journal::open(dir.path()).unwrap(), &question, &|_| {}).unwrap_err();
    assert!(matches!(error, BacktestError::Nothing), "{error}");
}

#[test]
fn a_hole_in_the_recording_kills_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::begin(dir.path(), Bounds::default());
    world.seconds(60, Weather::Fair);
    // The disk was full for half a minute, and the arbiter went on.
    world.recorder.lost(180);
    world.now = world.now + Duration::from_secs(30);
    world.seconds(60, Weather::Fair);
    drop(world);
    // Then it was stopped for an hour; in the second life, the primary is dead from the beginning.
    let mut world = World::live(dir.path(), Bounds::default(), BOOT + Duration::from_secs(3_750));
    world.seconds(30, Weather::Dead);
    drop(world);
    let report = ask(dir.path(), CAREFUL, HASTY, |_| {});
    let hasty = rule(&report, Side::New, "no heartbeat");
    let [only] = hasty.firings.as_slice() else { panic!("{:?}", hasty.firings) };
    // What was heard in the life before counts from the start of this one.
    let after = only.firing.from_unix_ms - ANCHOR.unix_ms_at(BOOT + Duration::from_secs(3_750));
    assert!((4_000..4_010).contains(&after), "{after}");
    assert_eq!(report.clusters[0].holes, 2);
}

#[test]
fn what_cannot_be_known_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::begin(dir.path(), Bounds::default());
    world.seconds(30, Weather::Fair).seconds(20, Weather::Dead);
    drop(world);
    let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    let segment = names.iter().find(|path| path.extension().is_some_and(|e| e == "journal")).unwrap();
    let length = std::fs::metadata(segment).unwrap().len();
    std::fs::File::options().write(true).open(segment).unwrap().set_len(length - 3).unwrap();

    let with_write = "
      - { name: no writes, when: { all: [{ ping: { failing: 3 of 5 } }, { role: failing }] }, verdict: dead, then: failover }
";
    let report = ask(dir.path(), CAREFUL, with_write, |_| {});
    assert!(report.troubles.iter().any(|trouble| trouble.contains("are cut off")), "{:?}", report.troubles);
    let remarks = report.clusters[0].remarks.join("\n");
    assert!(remarks.contains("policies feedbeef were in force"), "{remarks}");
    // With the standby's link down and its role stale, nobody could have been promoted: the guards say so.
    let rule = rule(&report, Side::New, "no writes");
    assert!(rule.fired >= 1 && rule.firings[0].truth != Truth::False, "{rule:?}");
    assert!(!rule.firings[0].firing.guards.contains(&Guard::NotLeading));
}

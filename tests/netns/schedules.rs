//! Schedules of the simulator's own faults, drawn by chance, played on real processes: and what came of each compared with
//! what the simulator says of the same schedule.
//!
//! Chance is not the same in both: a schedule that ends near an edge may end either way. So the simulator plays it many
//! times, with clocks, delays and moments drawn anew, and what the real processes did must be among what it did. No
//! schedule may show two primaries, in neither.

use std::{collections::BTreeSet, thread::sleep, time::Duration};

use coroner::{
    cli::simulate::setting,
    config::{self, WithoutSecrets},
    sim::{self, Fault, Schedule, Setting, explore, fault::Timed},
    sys::clock::Stopwatch,
};

use crate::{
    client::monotonic,
    faults::Random,
    lab::{Lab, MEMBERS, Options, other},
    net::NODES,
    scenarios::one_at_a_time,
};

/// How often the simulator plays each schedule.
const PLAYS: u64 = 60;

/// One or two faults of those that the lab can play too. Hosts: 0 the arbiter, 1 the primary, 2 the standby, then nodes.
fn draw(random: &mut Random) -> Schedule {
    let count = 1 + random.next() % 2;
    let mut at = 500;
    let mut faults = Vec::new();
    for _ in 0..count {
        let member = usize::from(random.next().is_multiple_of(3));
        let host = usize::try_from(random.next() % 3).unwrap();
        let fault = match random.next() % 9 {
            0 | 1 => Fault::KillBroker { member },
            2 => Fault::Freeze { member },
            3 => Fault::Isolate { host },
            4 => Fault::Cut { a: host, b: (host + 1) % 3 },
            5 => Fault::CutOneWay { from: host, to: (host + 1) % 3 },
            6 => Fault::KillArbiter { arbiter: 0 },
            7 => Fault::PauseAgent { member },
            _ => Fault::Isolate { host: 3 },
        };
        // Clearly shorter than anything that waits, or clearly longer.
        let long = 1_500 + random.next() % 1_500;
        let for_ms = if random.next().is_multiple_of(4) { 60 } else { long };
        faults.push(Timed { at: Duration::from_millis(at), fault, for_: Some(Duration::from_millis(for_ms)) });
        at += random.next() % 1_200;
    }
    let end = faults.iter().map(|timed| timed.at + timed.for_.unwrap_or_default()).max().unwrap_or_default();
    Schedule { seed: 1, faults, heal_after: end + Duration::from_millis(300) }
}

/// What may come of it: whether another is primary in the end.
fn foretold(setting: &Setting, schedule: &Schedule) -> BTreeSet<bool> {
    let mut ends = BTreeSet::new();
    for seed in 0..PLAYS {
        let schedule = Schedule { seed, ..schedule.clone() };
        let outcome = sim::run(setting, &schedule);
        if !outcome.violations.is_empty() {
            let told = sim::run_told(setting, &schedule);
            panic!("{:?}\n{}\n{}", told.violations, serde_json::to_string(&schedule).unwrap(), told.story.join("\n"));
        }
        ends.insert(outcome.ending.contains("primary s "));
    }
    ends
}

/// Does it to the lab. `primary` is who is meant by member 0.
fn strike(lab: &Lab, fault: &Fault, primary: &str, is_begin: bool) {
    let member = |index: usize| if index == 0 { primary.to_owned() } else { other(primary).to_owned() };
    let host = |index: usize| match index {
        0 => "a".to_owned(),
        1 | 2 => member(index - 1),
        node => NODES[node - 3].to_owned(),
    };
    match (fault, is_begin) {
        (Fault::KillBroker { member: m }, true) => lab.kill(&member(*m)),
        (Fault::Freeze { member: m }, true) => lab.freeze(&member(*m)),
        (Fault::Freeze { member: m }, false) => lab.thaw(&member(*m)),
        (Fault::PauseAgent { member: m }, true) => lab.freeze(&format!("agent-{}", member(*m))),
        (Fault::PauseAgent { member: m }, false) => lab.thaw(&format!("agent-{}", member(*m))),
        (Fault::Isolate { host: h }, true) => lab.net.isolate(&host(*h)),
        (Fault::Cut { a, b }, true) => lab.net.cut(&host(*a), &host(*b)),
        (Fault::CutOneWay { from, to }, true) => lab.net.cut_one_way(&host(*from), &host(*to)),
        (Fault::Isolate { .. } | Fault::Cut { .. } | Fault::CutOneWay { .. }, false) => lab.net.heal(),
        (Fault::KillArbiter { .. }, true) => lab.kill("a"),
        (Fault::KillArbiter { .. }, false) => lab.start_arbiter(),
        (_, false) => {}
        (fault, true) => panic!("the lab cannot play {fault:?}"),
    }
}

fn play(lab: &Lab, schedule: &Schedule, primary: &str) {
    let mut acts: Vec<(Duration, &Fault, bool)> = Vec::new();
    for timed in &schedule.faults {
        acts.push((timed.at, &timed.fault, true));
        acts.extend(timed.for_.map(|for_| (timed.at + for_, &timed.fault, false)));
    }
    acts.sort_by_key(|(at, ..)| *at);
    let watch = Stopwatch::start();
    let mut cuts: Vec<&Fault> = Vec::new();
    for (at, fault, is_begin) in acts {
        sleep(at.saturating_sub(watch.elapsed()));
        strike(lab, fault, primary, is_begin);
        let is_cut = matches!(fault, Fault::Isolate { .. } | Fault::Cut { .. } | Fault::CutOneWay { .. });
        match (is_cut, is_begin) {
            (true, true) => cuts.push(fault),
            (true, false) => {
                // The lab mends all cuts at once: those that are not over are made again.
                cuts.retain(|cut| *cut != fault);
                cuts.iter().for_each(|cut| strike(lab, cut, primary, true));
            }
            (false, _) => {}
        }
    }
    sleep(schedule.heal_after.saturating_sub(watch.elapsed()));
}

/// `CORONER_LAB_SCHEDULES`: how many (3); `CORONER_LAB_SEED`: which.
#[test]
fn what_the_processes_do_is_what_the_simulator_foretold() {
    let number = |name: &str, default: u64| {
        std::env::var(name).ok().map_or(default, |text| text.parse().unwrap_or_else(|e| panic!("{name}: {e}")))
    };
    let (count, seed) = (number("CORONER_LAB_SCHEDULES", 3), number("CORONER_LAB_SEED", monotonic()));
    let _one = one_at_a_time();
    let lab = Lab::new(&Options::agents());
    let config = config::load_with(&lab.path("lab.yaml"), &WithoutSecrets).unwrap();
    let cluster = config.policy.clusters.values().next().unwrap();
    let mut setting = setting(&config, cluster);
    // Nobody restarts a server here; the lab itself does so once everything heals.
    setting.restarts_after = None;
    assert_eq!(setting.cluster_policy().members.len(), MEMBERS.len());
    let mut random = Random(seed);
    println!("SEED {seed}, {count} schedules");
    for turn in 1..=count {
        let schedule = draw(&mut random);
        let before = lab.status();
        let primary = before.primary.as_ref().unwrap().as_str().to_owned();
        let words = explore::words(&setting, &schedule);
        let foretold = foretold(&setting, &schedule);
        play(&lab, &schedule, &primary);
        lab.heal();
        for member in MEMBERS {
            lab.thaw(&format!("agent-{member}"));
        }
        lab.whole();
        let after = lab.status();
        let has_moved = after.primary != before.primary;
        println!("{turn:3} of {count}: {words} (m is {primary}): moved {has_moved}, foretold {foretold:?}");
        lab.findings().assert_clean();
        assert!(
            foretold.contains(&has_moved),
            "moved: {has_moved}; the simulator says {foretold:?} of {words} (CORONER_LAB_SEED={seed}, {turn} of {count}): {}\n{}",
            serde_json::to_string(&schedule).unwrap(),
            lab.story()
        );
    }
    let found = lab.findings();
    assert!(found.overlap.is_zero(), "{:?}", found.overlap);
}

//! A1 to A9: the arbiter dies after every single record and every single act, and starts again: the same end.

use coroner::model::{
    ClusterPolicy, Command,
    record::{LogEntry, Record},
};

use crate::{
    bench::{Bench, Crash, Script},
    policy::{full, leased, method, policy, secs},
};

/// One story, from a quiet cluster to its end.
struct Story {
    name: &'static str,
    cluster: fn() -> ClusterPolicy,
    setup: fn(&mut Bench),
    /// Said again after a restart that forgot it, as a person would.
    command: Option<fn() -> Command>,
    ends: fn(&Bench) -> bool,
}

fn two() -> ClusterPolicy {
    let mut cluster = full(&["a", "b"]);
    cluster.failover.fence = vec![
        vec![method("claim", secs(1), coroner::model::Proof::Claim)],
        vec![method("gate", secs(1), coroner::model::Proof::Gate)],
    ];
    cluster
}

fn three() -> ClusterPolicy {
    full(&["a", "b", "c"])
}

fn switchover() -> Command {
    Command::Switchover { cluster: "orders".into(), to: None, reason: "work".into(), skip_guards: Vec::new() }
}

/// The lease alone proves anything: every fence is refuted.
fn by_lease() -> ClusterPolicy {
    leased(&["a", "b"])
}

const STORIES: [Story; 10] = [
    Story {
        name: "failover and rejoin",
        cluster: two,
        setup: |bench| {
            bench.kill("a");
            bench.event_after(secs(40), coroner::model::Event::WallClockRead(coroner::model::WallAnchor::default()));
        },
        command: None,
        ends: |b| b.is_quiet() && b.store.state().primary == Some("b".into()),
    },
    Story {
        name: "failover among three",
        cluster: three,
        setup: |bench| bench.kill("a"),
        command: None,
        ends: |b| b.is_quiet() && b.store.state().primary == Some("b".into()),
    },
    Story {
        name: "failover to the second choice",
        cluster: three,
        setup: |bench| {
            bench.default_script.insert("promote b".into(), Script::Refuse);
            bench.kill("a");
        },
        command: None,
        ends: |b| b.is_quiet() && b.store.state().primary == Some("c".into()),
    },
    Story {
        name: "switchover",
        cluster: three,
        setup: |_| {},
        command: Some(switchover),
        ends: |b| b.is_quiet() && b.store.state().primary == Some("b".into()),
    },
    Story {
        name: "failover by the lease and rejoin",
        cluster: by_lease,
        setup: |bench| {
            bench.default_script.insert("fence a 0.0".into(), Script::Refuse);
            bench.default_script.insert("fence a 1.0".into(), Script::Refuse);
            bench.default_script.insert("await lease".into(), Script::Slow(secs(1)));
            bench.kill("a");
        },
        command: None,
        ends: |b| b.is_quiet() && b.store.state().primary == Some("b".into()),
    },
    Story {
        name: "failover by the gate, sealed late",
        cluster: by_lease,
        setup: |bench| {
            bench.default_script.insert("seal".into(), Script::Slow(secs(2)));
            bench.default_script.insert("await lease".into(), Script::Unknown);
            bench.kill("a");
        },
        command: None,
        ends: |b| b.is_quiet() && b.store.state().primary == Some("b".into()),
    },
    Story {
        name: "switchover under a lease",
        cluster: || leased(&["a", "b", "c"]),
        setup: |_| {},
        command: Some(switchover),
        ends: |b| b.is_quiet() && b.store.state().primary == Some("b".into()),
    },
    Story {
        name: "switchover under a lease given up",
        cluster: by_lease,
        setup: |bench| {
            bench.default_script.insert("promote b".into(), Script::Refuse);
        },
        command: Some(switchover),
        ends: |b| b.is_quiet() && b.store.newest().is_some(),
    },
    Story {
        name: "switchover of a rule that becomes a failover",
        cluster: || {
            let mut cluster = leased(&["a", "b"]);
            cluster.rules[0].then = coroner::model::rule::Reaction::Switchover;
            cluster
        },
        setup: |bench| {
            bench.default_script.insert("read-only a".into(), Script::Unknown);
            bench.member("a").only_by_agent = true;
        },
        command: None,
        ends: |b| b.is_quiet() && b.store.state().primary == Some("b".into()),
    },
    Story {
        name: "switchover given up",
        cluster: three,
        setup: |bench| {
            bench.default_script.insert("catch up b".into(), Script::Refuse);
        },
        command: Some(switchover),
        ends: |b| b.is_quiet() && b.store.newest().is_some(),
    },
];

fn play(story: &Story, crash: Option<Crash>, twice: bool) -> Bench {
    let mut bench = Bench::settled(policy(vec![(story.cluster)()]));
    (bench.persists, bench.acts) = (0, 0);
    bench.done.clear();
    bench.every_act_twice = twice;
    bench.crash = crash;
    (story.setup)(&mut bench);
    if let Some(command) = story.command {
        bench.ask_later(command());
    }
    let until = bench.now + secs(120);
    let mut crashes = 0;
    while !(story.ends)(&bench) {
        assert!(bench.now < until, "{}, {crash:?}: no end\n{}", story.name, bench.story());
        bench.step();
        if bench.crashes > crashes {
            crashes = bench.crashes;
            // The members are seen again first; then the person asks again, if nothing came of it.
            bench.run_for(secs(3));
            if let (Some(command), true) = (story.command, bench.store.incidents.is_empty()) {
                bench.ask_later(command());
            }
        }
    }
    if story.name.contains("rejoin") {
        bench.revive("a");
        bench.run_until(secs(120), "a is back", |b| b.is_quiet() && b.store.state().quarantined.is_empty());
    }
    bench.run_for(secs(5));
    assert!((story.ends)(&bench), "{}, {crash:?}: it did not stay so", story.name);
    bench
}

#[test]
fn whatever_the_moment_of_the_crash_the_end_is_the_same() {
    for story in &STORIES {
        let quiet = play(story, None, false);
        let (ending, persists, acts) = (quiet.ending(), quiet.persists, quiet.acts);
        assert!(persists >= 4 && acts >= 3, "{}: {persists} records, {acts} acts", story.name);
        assert!(quiet.writers().len() == 1);
        let mut crashes = Vec::new();
        for k in 1..=persists {
            crashes.extend([Crash::BeforePersisted(k), Crash::AfterPersisted(k)]);
        }
        for k in 1..=acts {
            crashes.extend([Crash::BeforeAct(k), Crash::AfterAct(k)]);
        }
        for crash in crashes {
            let bench = play(story, Some(crash), false);
            assert_eq!(bench.crashes, 1, "{}: {crash:?} did not happen", story.name);
            assert_eq!(bench.ending(), ending, "{}, {crash:?}\n{}", story.name, bench.story());
        }
    }
}

/// Every act is idempotent under its token: done twice and answered twice, with or without a crash, the end is the same.
#[test]
fn every_act_done_twice_is_harmless() {
    for story in &STORIES {
        let ending = play(story, None, false).ending();
        let doubled = play(story, None, true);
        assert_eq!(doubled.ending(), ending, "{}", story.name);
        for k in [1, doubled.acts / 2, doubled.acts] {
            assert_eq!(play(story, Some(Crash::AfterAct(k)), true).ending(), ending, "{}, act {k}", story.name);
        }
    }
}

/// A held incident stays held over a restart, and a person can let it go on.
#[test]
fn held_is_held_over_a_restart() {
    let mut bench = Bench::settled(policy(vec![full(&["a", "b"])]));
    bench.default_script.insert("fence a 0.0".into(), Script::Unknown);
    bench.default_script.insert("fence a 1.0".into(), Script::Unknown);
    bench.kill("a");
    bench.run_until(secs(30), "it is held", Bench::is_held);
    let acts = bench.acts;
    bench.restart(secs(1));
    bench.run_for(secs(60));
    assert!(bench.is_held());
    assert_eq!(bench.acts, acts);
    assert!(bench.incident().unwrap().timeline.iter().any(|t| t.text.contains("started again")));
    bench.default_script.clear();
    bench.ask(Command::Continue { cluster: "orders".into(), accept_loss: false }).unwrap().unwrap();
    bench.run_until(secs(30), "it is over", Bench::is_over);
    assert_eq!(bench.writers(), ["b"]);
}

/// A9, H10: a restart in the middle of the redirect still waits for the nodes: silence after a start is not consent.
#[test]
fn a_restart_in_the_middle_of_the_redirect_waits_for_the_nodes() {
    let mut bench = Bench::settled(policy(vec![full(&["a", "b"])]));
    bench.nodes.get_mut("n2").unwrap().is_deaf = true;
    bench.kill("a");
    bench.run_until(secs(10), "nodes are told", |b| b.done.contains(&"redirect 0".to_owned()));
    bench.run_for(secs(2));
    bench.restart(secs(1));
    bench.run_until(secs(60), "it is over", Bench::is_over);
    let (incident, _) = bench.store.newest().unwrap();
    assert_eq!(incident.outage.laggards, ["n2".into()], "{:?}", incident.outage);
}

/// An incident whose cluster left the file is left alone. One whose log no saga wrote (it is empty, opens twice, leaves a
/// number out) may have fenced or promoted somebody: nothing is done before a person has looked.
#[test]
fn what_cannot_be_taken_up_stops_its_cluster() {
    use coroner::{
        engine::Engine,
        model::{Time, WallAnchor, explain::Guard, record::LogEntry},
    };
    let mut bench = Bench::settled(policy(vec![full(&["a", "b"])]));
    bench.default_script.insert("fence a 0.0".into(), Script::Hang);
    bench.kill("a");
    bench.run_until(secs(10), "it began", |b| b.done.len() == 1);
    let mut recovered = bench.store.recovered();
    assert_eq!(recovered.open.len(), 1);
    let engine = |policy, recovered| Engine::new(Time(5_000_000_000_000), WallAnchor::default(), 9, policy, recovered);
    assert!(engine(bench.policy.clone(), recovered.clone()).incident(&"orders".into()).is_some());
    assert!(engine(policy(Vec::new()), recovered.clone()).incident(&"orders".into()).is_none());
    let log = std::mem::take(&mut recovered.open[0].log);
    let twice = [log.clone(), vec![log[0].clone()]].concat();
    let mut gap = log.clone();
    for entry in &mut gap {
        if let LogEntry::Started { act, .. } = entry {
            *act = u32::MAX;
        }
    }
    assert_ne!(gap, log, "an act was begun");
    for log in [Vec::new(), twice, gap] {
        recovered.open[0].log = log;
        let mut engine = engine(bench.policy.clone(), recovered.clone());
        assert!(engine.incident(&"orders".into()).is_none());
        let why_not = engine.why_not(Time(5_000_000_000_000), &"orders".into()).unwrap();
        let guard = why_not.guards.iter().find(|guard| guard.guard == Guard::StoreLost).unwrap();
        assert!(guard.blocks && guard.reason.contains("its log was written by no saga"), "{guard:?}");
        for second in 1..60 {
            engine.handle_timeout(Time(5_000_000_000_000) + secs(second));
            while let Some(effect) = engine.poll_effect() {
                assert!(!matches!(effect, coroner::model::Effect::Run(_)), "{effect:?}");
            }
        }
    }
}

/// A3, H8: only what has no end in the log is done again; what has one is not, however harmless it would be.
#[test]
fn what_has_ended_is_not_done_again_after_a_restart() {
    let mut bench = Bench::settled(policy(vec![by_lease()]));
    bench.nodes.get_mut("n2").unwrap().is_deaf = true;
    bench.kill("a");
    bench.run_until(secs(10), "b serves", |b| b.store.state().primary == Some("b".into()));
    let ended = ["fence a 0.0", "seal", "await lease", "forbidden write 0", "catch up b", "promote b"];
    let count = |bench: &Bench| ended.map(|what| bench.done.iter().filter(|d| *d == what).count());
    assert_eq!(count(&bench), [1; 6], "{:?}", bench.done);
    bench.restart(secs(1));
    bench.run_until(secs(60), "it is over", Bench::is_over);
    assert_eq!(count(&bench), [1; 6], "{:?}", bench.done);
}

/// However it came into the log: what asks to give up is not heeded once the standby may have been promoted.
#[test]
fn a_request_to_give_up_found_behind_a_promotion_gives_nothing_up() {
    let mut bench = Bench::settled(policy(vec![two()]));
    bench.default_script.insert("promote b".into(), Script::Unknown);
    bench.kill("a");
    bench.run_until(secs(120), "it is held", Bench::is_held);
    let (incident, log) = bench.store.newest().unwrap();
    let record = Record::Log {
        incident: incident.id.clone(),
        cluster: incident.cluster.clone(),
        number: u32::try_from(log.len()).unwrap() + 1,
        entry: LogEntry::AbortRequested { reason: "a person was tired".into() },
    };
    bench.store.persist(&[record]).unwrap();
    bench.restart(secs(1));
    bench.run_for(secs(60));
    assert!(bench.log().iter().all(|entry| !matches!(entry, LogEntry::Aborted { .. })), "{}", bench.story());
    assert!(!bench.is_over());
}

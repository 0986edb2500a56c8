//! P1 to P28: what becomes of members and nodes, and what follows.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::world::{ARRIVALS, ASKED, Options, RULES, World};

const WRITE: &str = "write: { broker: { ask: write, of: primary, every: 100ms, timeout: 90ms } }";

#[test]
fn p1_a_killed_primary_is_replaced_and_the_incident_tells_it() {
    let mut world = World::start(Options::default());
    world.member_mut("broker-a").kill();
    world.wait_primary("broker-b");
    let incident = world.incident(&world.failovers()[0]["id"]);
    assert_eq!(incident["state"], "resolved");
    assert_eq!((incident["epoch_before"].as_u64(), incident["epoch"].as_u64()), (Some(1), Some(2)));
    assert!(incident["outage"]["last_good"].is_u64() && incident["outage"]["first_new"].is_u64(), "{incident:#}");
    assert!(incident["outage"]["laggards"].as_array().unwrap().is_empty());
    assert_eq!(incident["outage"]["following"].as_array().unwrap().len(), 3);
    assert!(incident["loss"]["behind"].is_u64(), "{:#}", incident["loss"]);
}

#[test]
fn p5_a_frozen_primary_is_killed_and_never_wakes() {
    let mut world = World::start(Options::default());
    let pid = world.member("broker-a").pid();
    world.member("broker-a").freeze();
    world.wait_primary("broker-b");
    // Whoever thaws it now comes too late.
    let _ = kill(Pid::from_raw(pid), Signal::SIGCONT);
    assert!(world.member("broker-a").try_command(&["PING"]).is_err());
    world.member_mut("broker-a").restart();
    world.wait_standby("broker-a");
}

#[test]
fn p5_a_primary_that_is_frozen_for_a_moment_is_left_alone() {
    let mut world = World::start(Options::default());
    world.member("broker-a").freeze();
    thread::sleep(Duration::from_millis(500));
    world.member("broker-a").thaw();
    world.stays_untouched(Duration::from_secs(2));
}

fn refuse_writes(world: &World) {
    world.member("broker-a").command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    world.member("broker-a").command(&["CONFIG", "SET", "maxmemory", "1"]);
}

fn gray(then: &str) -> Options {
    Options {
        signals: format!("{ARRIVALS}\n{ASKED}\n{WRITE}"),
        rules: format!(
            "{RULES}\n- name: takes no writes\n  when:\n    all:\n      - ping: ok\n      - write: {{ failing: 3 of 3 }}\n      \
             - at_least: {{ count: majority, of: arrivals, are: {{ silent: 600ms }} }}\n  for: 300ms\n  verdict: gray\n  \
             then: {then}"
        ),
        ..Options::default()
    }
}

#[test]
fn p9_a_primary_that_answers_and_takes_no_writes_is_replaced_where_the_rule_says_so() {
    let mut world = World::start(gray("failover"));
    refuse_writes(&world);
    world.wait_primary("broker-b");
    let incident = world.incident(&world.failovers()[0]["id"]);
    assert_eq!(incident["trigger"]["rule"]["rule"], "takes no writes");
    assert_eq!(incident["trigger"]["rule"]["verdict"], "gray");
}

#[test]
fn p9_and_only_told_where_the_rule_says_so() {
    let mut world = World::start(gray("alert"));
    refuse_writes(&world);
    world.wait_until("it is gray", |world| world.cluster().is_some_and(|c| c["verdict"] == "gray"));
    assert_eq!(world.cluster().unwrap()["rule"], "takes no writes");
    world.stays_untouched(Duration::from_secs(2));
    world.member("broker-a").command(&["CONFIG", "SET", "maxmemory", "0"]);
    world.wait_ready();
}

/// A process that runs only a part of the time: fail-slow.
struct Slow(Arc<AtomicBool>, Option<thread::JoinHandle<()>>);

impl Slow {
    fn begin(pid: i32) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&over);
        let thread = thread::spawn(move || {
            while !flag.load(Ordering::Relaxed) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGSTOP);
                thread::sleep(Duration::from_millis(90));
                let _ = kill(Pid::from_raw(pid), Signal::SIGCONT);
                thread::sleep(Duration::from_millis(10));
            }
        });
        Self(over, Some(thread))
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        let _ = self.1.take().map(thread::JoinHandle::join);
    }
}

#[test]
fn p10_a_slow_primary_is_switched_over_and_not_killed() {
    let mut world = World::start(Options {
        signals: format!("{ARRIVALS}\nping: {{ broker: {{ ask: ping, of: primary, every: 500ms, timeout: 450ms }} }}\nrole: {{ broker: {{ ask: role, of: members, every: 500ms, timeout: 450ms }} }}"),
        rules: "- name: slow\n  when: { ping: { latency_above: 20ms } }\n  within: { true_for: 2s, of: 5s }\n  verdict: gray\n  then: switchover".into(),
        ..Options::default()
    });
    let pid = world.member("broker-a").pid();
    let slow = Slow::begin(pid);
    world.wait_end("broker-b");
    drop(slow);
    world.wait_primary("broker-b");
    world.wait_standby("broker-a");
    let incident = world.incident(&world.failovers()[0]["id"]);
    assert_eq!(incident["kind"], "switchover");
    assert_eq!(incident["trigger"]["rule"]["rule"], "slow");
    assert_eq!(world.member("broker-a").pid(), pid, "nobody killed it");
}

#[test]
fn p19_a_standby_that_is_too_far_behind_is_not_promoted_without_a_word() {
    let mut world = World::start(Options { max_loss: "{ bytes: 1000 }", ..Options::default() });
    // More than the sockets between them hold.
    world.member("broker-b").freeze();
    let big = "x".repeat(1 << 20);
    let mut client = world.member("broker-a").client();
    for part in 0..40 {
        client.command(&["SET", &format!("big-{part}"), &big]).unwrap();
    }
    world.wait_until("the primary's position is known", |world| {
        let members = world.cluster().map(|c| c["members"].clone()).unwrap_or_default();
        let a = members.as_array().and_then(|list| list.iter().find(|m| m["member"] == "broker-a").cloned());
        a.is_some_and(|a| a["position"].as_u64() > Some(40 << 20))
    });
    world.member_mut("broker-a").kill();
    world.member("broker-b").thaw();
    let held = world.wait_held();
    let reason = held["state_reason"].as_str().unwrap();
    assert!(reason.contains("lose") && reason.contains("--accept-loss"), "{reason}");
    assert!(held["loss"]["behind"].as_u64() > Some(1_000), "{:#}", held["loss"]);
    assert_eq!(world.role("broker-b"), Some("slave"));
    // Without a word it stays so.
    world.cli(&["continue"]).ok();
    world.wait_held();
    world.cli(&["continue", "--accept-loss", "--wait"]).ok();
    world.wait_primary("broker-b");
    let incident = world.incident(&world.failovers()[0]["id"]);
    assert!(incident["bypassed"].to_string().contains("loss"), "{:#}", incident["bypassed"]);
}

#[test]
fn p19_without_a_standby_the_primary_is_left_alone() {
    let mut world = World::start(Options::default());
    world.member_mut("broker-b").kill();
    world.wait_until("no standby is fit", |world| world.blocking().iter().any(|g| g == "no_candidate"));
    let pid = world.member("broker-a").pid();
    world.member("broker-a").freeze();
    world.wait_until("it is believed dead", |world| world.cluster().is_some_and(|c| c["verdict"] == "dead"));
    world.stays("nothing is done", Duration::from_secs(2), |world| {
        world.incidents().is_empty() && std::path::Path::new(&format!("/proc/{pid}")).exists()
    });
    world.member("broker-a").thaw();
    world.member_mut("broker-b").restart();
    world.wait_ready();
}

#[test]
fn p22_when_a_person_promotes_the_standby_there_is_an_alarm_and_hands_stay_off_until_it_is_adopted() {
    let mut world = World::start(Options::default());
    world.member("broker-b").command(&["REPLICAOF", "NO", "ONE"]);
    world.wait_until("it stops", |world| world.blocking().iter().any(|g| g == "primary_unclear"));
    world.wait_until("the alarm", |world| world.metric("coroner_two_primaries{cluster=\"orders\"}") == Some(1.0));
    assert_eq!(world.metric("coroner_writers{cluster=\"orders\"}"), Some(2.0));
    let ran = world.cli(&["failover", "--yes"]);
    assert_eq!(ran.code, 107, "what keeps two primaries apart cannot be passed: {ran:?}\n{}", world.portrait());
    world.member("broker-a").freeze();
    world.wait_until("it is believed dead", |world| world.cluster().is_some_and(|c| c["verdict"] == "dead"));
    world.stays("nothing is done", Duration::from_secs(1), |world| world.incidents().is_empty());
    world.member("broker-a").thaw();
    // The person says which it is, and makes the other one follow.
    world.cli(&["adopt", "broker-b", "--yes", "--reason", "promoted by hand"]).ok();
    let port = world.member("broker-b").port.to_string();
    world.member("broker-a").command(&["REPLICAOF", "127.0.0.1", &port]);
    world.wait_primary("broker-b");
    assert_eq!(world.cluster().unwrap()["epoch"], 2);
    world.wait_ready();
    // And it watches on.
    world.member_mut("broker-b").kill();
    world.wait_primary("broker-a");
    assert_eq!(world.cluster().unwrap()["epoch"], 3);
}

/// Only what nodes say counts here.
fn nodes_alone() -> Options {
    Options {
        signals: format!("arrivals: {{ push: {{ from: nodes, every: 100ms, traffic: attempted }} }}\n{ASKED}"),
        rules: "- name: nothing arrives\n  when:\n    at_least: { count: majority, of: arrivals, are: { silent: 600ms } }\n  verdict: dead\n  then: failover".into(),
        ..Options::default()
    }
}

#[test]
fn p26_idle_nodes_are_no_death() {
    let mut world = World::start(nodes_alone());
    // The one that sends has nothing to send; all go on listening.
    world.nodes[0].is_idle(true);
    world.stays_untouched(Duration::from_secs(3));
    assert_ne!(world.cluster().unwrap()["verdict"], "dead");
    // Attempts that go unanswered are.
    world.member("broker-a").freeze();
    world.stays_untouched(Duration::from_secs(1));
    world.nodes[0].is_idle(false);
    world.wait_primary("broker-b");
}

#[test]
fn p27_nodes_that_are_gone_all_at_once_are_no_death() {
    let mut world = World::start(nodes_alone());
    for node in &world.nodes {
        node.is_gone(true);
    }
    world.wait_until("it is isolated", |world| world.blocking().iter().any(|g| g == "isolated"));
    world.stays_untouched(Duration::from_secs(2));
    for node in &world.nodes {
        node.is_gone(false);
    }
    world.wait_ready();
}

#[test]
fn p28_one_lying_node_is_no_majority() {
    let mut world = World::start(nodes_alone());
    world.nodes[0].lies(true);
    world.stays_untouched(Duration::from_secs(3));
    let why = world.cli_text(&["why"]).ok().out;
    assert!(why.contains("1 of 3"), "{why}");
    // Nor is one lying node beside one that is gone.
    world.nodes[1].is_gone(true);
    world.stays_untouched(Duration::from_secs(2));
    world.nodes[1].is_gone(false);
    world.nodes[1].lies(true);
    world.wait_until("two are", |world| !world.failovers().is_empty());
}

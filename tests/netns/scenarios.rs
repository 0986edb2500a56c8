//! Scenarios by name, each on a lab of its own.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    thread::sleep,
    time::Duration,
};

use crate::{
    checker::Findings,
    lab::{FIREWALL, Lab, Options, check_file},
    net::NODES,
};

/// One lab at a time: two cores do not carry more of them in real time.
static ONE: Mutex<()> = Mutex::new(());

struct Scene {
    lab: Lab,
    _one: MutexGuard<'static, ()>,
}

/// Waits until no other lab stands.
pub(crate) fn one_at_a_time() -> MutexGuard<'static, ()> {
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn lab() -> Scene {
    lab_with(&Options::default())
}

fn lab_with(options: &Options) -> Scene {
    let one = one_at_a_time();
    Scene { lab: Lab::new(options), _one: one }
}

/// Longer than any silence that the rules of the lab allow, three times over.
const THREE_SILENCES: Duration = Duration::from_millis(3_000);

fn end(lab: &Lab, epochs: &[u64]) -> Findings {
    let found = lab.findings();
    found.assert_clean();
    assert_eq!(found.terms.iter().map(|t| t.epoch).collect::<Vec<_>>(), epochs, "{:#?}", found.terms);
    found
}

#[test]
fn the_labs_file_is_checked() {
    let Scene { lab, .. } = &lab();
    check_file(&lab.path("lab.yaml"));
}

#[test]
fn p1_the_primary_is_killed() {
    let Scene { lab, .. } = &lab();
    lab.kill("m");
    lab.moved("m", 1);
    lab.heal();
    lab.whole();
    // H17: back as a standby; and a second failover, back to it, works as well.
    lab.kill("s");
    lab.moved("s", 2);
    lab.heal();
    lab.whole();
    end(lab, &[0, 2, 3]);
}

#[test]
fn p4_restarted_by_a_supervisor_within_the_window() {
    let Scene { lab, .. } = &lab();
    lab.kill("m");
    sleep(Duration::from_millis(250));
    lab.start_redis("m");
    // Either it keeps its epoch, or it is replaced; never both.
    sleep(Duration::from_secs(2));
    lab.heal();
    lab.whole();
    lab.findings().assert_clean();
}

#[test]
fn p5_frozen_and_thawed_after_the_promotion() {
    let Scene { lab, .. } = &lab();
    lab.freeze("m");
    lab.moved("m", 1);
    lab.thaw("m");
    lab.whole();
    sleep(Duration::from_millis(500));
    end(lab, &[0, 2]);
}

#[test]
fn p26_an_idle_night_kills_nobody() {
    let Scene { lab, .. } = &lab();
    lab.stop_writers();
    lab.holds_for(THREE_SILENCES);
    assert_eq!(lab.status().verdict.to_string(), "alive");
}

#[test]
fn p27_all_nodes_die_at_once() {
    let Scene { lab, .. } = &lab();
    for node in NODES {
        lab.kill(node);
    }
    lab.holds_for(THREE_SILENCES);
}

#[test]
fn p27_all_nodes_and_the_arbiters_sight_of_the_primary_are_lost() {
    let Scene { lab, .. } = &lab();
    for node in NODES {
        lab.kill(node);
    }
    lab.net.cut("a", "m");
    lab.holds_for(THREE_SILENCES);
    assert!(lab.coroner(&["why-not", "lab"]).1.contains("isolated"));
}

#[test]
fn p29_clients_that_keep_the_old_connection_are_cut() {
    let Scene { lab, .. } = &lab();
    // Alive and able to write all the time, reached by nobody but the writers on its own host.
    lab.net.isolate("m");
    lab.moved("m", 1);
    let at = lab.now();
    sleep(Duration::from_secs(1));
    let found = lab.findings();
    found.assert_clean();
    assert!(found.acks.iter().all(|ack| ack.acked < at || ack.server == "s"), "{:#?}", found.terms);
    lab.heal();
    lab.whole();
    end(lab, &[0, 2]);
}

#[test]
fn g1_the_arbiter_alone_does_not_see_the_primary() {
    let Scene { lab, .. } = &lab();
    lab.net.cut("a", "m");
    lab.until("it is suspected", || lab.status().verdict.to_string() == "suspect");
    lab.holds_for(THREE_SILENCES);
    lab.heal();
    lab.whole();
    end(lab, &[0]);
}

#[test]
fn g5_the_primary_is_cut_from_its_nodes_and_switched_over() {
    let Scene { lab, .. } = &lab();
    NODES.iter().for_each(|node| lab.net.cut("m", node));
    lab.moved("m", 1);
    let incident = lab.incidents();
    assert_eq!(incident[0]["incident"]["kind"], "switchover");
    lab.heal();
    lab.whole();
    end(lab, &[0, 2]);
}

#[test]
fn g7_g24_an_isolated_arbiter_does_nothing() {
    let Scene { lab, .. } = &lab();
    lab.net.isolate("a");
    lab.holds_for(THREE_SILENCES);
    let said = lab.coroner(&["why-not", "lab"]).1;
    assert!(said.contains("isolated"), "{said}");
    lab.heal();
    lab.whole();
    end(lab, &[0]);
}

#[test]
fn g22_an_isolated_primary_is_fenced_out_of_band() {
    let Scene { lab, .. } = &lab();
    lab.net.isolate("m");
    lab.moved("m", 1);
    lab.heal();
    lab.whole();
    end(lab, &[0, 2]);
}

#[test]
fn g25_a_one_way_cut_is_a_cut() {
    let Scene { lab, .. } = &lab();
    // What the primary says is lost; what is said to it arrives.
    for host in NODES.iter().chain(&["a"]) {
        lab.net.cut_one_way("m", host);
    }
    lab.moved("m", 1);
    lab.heal();
    lab.whole();
    // What is said to it is lost; what it says arrives.
    for host in NODES.iter().chain(&["a"]) {
        lab.net.cut_one_way(host, "s");
    }
    lab.moved("s", 2);
    lab.heal();
    lab.whole();
    end(lab, &[0, 2, 3]);
}

#[test]
fn h1_a_fence_that_hangs_is_followed_by_the_next_level() {
    let Scene { lab, .. } = &lab();
    lab.cut_management("m");
    lab.freeze("m");
    lab.moved("m", 1);
    assert!(lab.is_off("m"), "the power went off");
    lab.heal();
    lab.whole();
    end(lab, &[0, 2]);
}

#[test]
fn h2_a_fence_that_lies_promotes_nobody() {
    let lie = "\n        - { exec: { command: [\"true\"], status: [\"true\"], proof: gate }, deadline: 2s }";
    let Scene { lab, .. } = &lab_with(&Options { fence: lie.into(), ..Options::default() });
    // The primary is well, and takes writes, as the forbidden write shows.
    let (_, said) = lab.coroner(&["failover", "lab", "--yes", "--reason", "to see the fence lie"]);
    lab.until(&format!("held: {said}"), || {
        lab.status().incident.is_some_and(|incident| incident.state.to_string() == "held")
    });
    let status = lab.status();
    assert_eq!(status.primary.as_ref().map(|p| p.as_str().to_owned()), Some("m".into()));
    let incident = status.incident.unwrap();
    assert!(incident.state_reason.as_deref().is_some_and(|r| r.contains("no fence gave the proof")), "{incident:?}");
    sleep(Duration::from_secs(1));
    end(lab, &[0]);
}

#[test]
fn h10_a_node_that_does_not_follow_is_named() {
    let Scene { lab, .. } = &lab_with(&Options { stuck_node: true, ..Options::default() });
    lab.kill("m");
    lab.moved("m", 1);
    lab.until("the failover is over", || {
        lab.incidents().iter().any(|i| i["incident"]["kind"] == "failover" && i["incident"]["state"] == "resolved")
    });
    let incidents = lab.incidents();
    let timeline = incidents[0]["incident"]["timeline"].to_string();
    assert!(timeline.contains("n3"), "{timeline}");
}

#[test]
fn f5_a_planned_stop_under_a_pause_is_no_failover() {
    let Scene { lab, .. } = &lab();
    let (ok, said) = lab.coroner(&["pause", "lab", "--for", "5m", "--reason", "planned restart"]);
    assert!(ok, "{said}");
    lab.kill("m");
    sleep(THREE_SILENCES);
    let status = lab.status();
    assert_eq!(status.epoch.0, 1, "{}", lab.story());
    assert!(status.incident.is_none());
    lab.start_redis("m");
    lab.until("it is alive again", || lab.status().verdict.to_string() == "alive");
    assert!(lab.coroner(&["resume", "lab"]).0);
    lab.whole();
    end(lab, &[0]);
}

#[test]
fn the_fence_alone_without_a_second_level() {
    let Scene { lab, .. } = &lab_with(&Options { fence: FIREWALL.into(), ..Options::default() });
    lab.kill("m");
    sleep(Duration::from_millis(400));
    lab.start_redis("m");
    lab.freeze("m");
    lab.moved("m", 1);
    lab.thaw("m");
    lab.whole();
    end(lab, &[0, 2]);
}

#[test]
fn a_healthy_primary_is_failed_over_by_hand() {
    let Scene { lab, .. } = &lab();
    // It takes writes from everybody up to the moment at which the fence stands.
    let (ok, said) = lab.coroner(&["failover", "lab", "--yes", "--reason", "a drill"]);
    assert!(ok, "{said}");
    lab.moved("m", 1);
    lab.heal();
    lab.whole();
    end(lab, &[0, 2]);
}

//! F3: the file is loaded again, in an open incident too, and may be bad. F5: hands off.

use std::{fs, time::Duration};

use nix::sys::signal::Signal;

use crate::{
    pause::slow_fence,
    world::{Options, World},
};

fn policy_hash(world: &World) -> String {
    world.status().unwrap()["policy_hash"].as_str().unwrap().to_owned()
}

#[test]
fn f3_an_open_incident_keeps_the_policy_that_it_began_with() {
    let mut world = World::start(slow_fence());
    let before = policy_hash(&world);
    world.member_mut("broker-a").kill();
    world.wait_until("the fence runs", |world| world.dir().join("fencing").exists());
    // The new file has another fence in the same place, which could never work, and would never promote.
    let text = fs::read_to_string(&world.config).unwrap();
    let text = text.replace("/slow\"", "/not-there\"").replace("{ bytes: 1000000 }", "{ bytes: 0 }");
    fs::write(&world.config, text).unwrap();
    world.signal(Signal::SIGHUP);
    world.wait_until("the new policy is in force", |world| policy_hash(world) != before);
    assert!(world.cluster().unwrap()["incident"].is_object(), "it was loaded while the fence ran");
    world.wait_primary("broker-b");
    let incident = world.incident(&world.failovers()[0]["id"]);
    assert_eq!(incident["policy_hash"], before.as_str());
    let label = incident["steps"][0]["label"].as_str().unwrap();
    assert!(label.contains("/slow"), "{label}");
    // From now on the new file counts: its fence cannot work.
    world.member_mut("broker-a").restart();
    // And it does not know the fence that lies on the member: another by the same place is not lifted instead.
    let held = world.wait_held();
    assert!(held["state_reason"].as_str().is_some_and(|why| why.contains("no longer has")), "{held:#}");
    world.cli(&["continue"]).ok();
    world.wait_standby("broker-a");
    world.wait_until("the guard no_fence stands", |world| world.blocking().iter().any(|guard| guard == "no_fence"));
}

#[test]
fn f3_an_incident_that_survives_a_crash_and_a_changed_file_does_not_use_another_fence_by_the_same_place() {
    let mut world = World::start(slow_fence());
    world.member_mut("broker-a").kill();
    world.wait_until("the fence runs", |world| world.dir().join("fencing").exists());
    world.kill_arbiter();
    let text = fs::read_to_string(&world.config).unwrap();
    fs::write(world.dir().join("other"), "#!/bin/sh\ntouch \"@DIR@/other-ran\"\n").unwrap();
    fs::write(&world.config, text.replace("/slow\"", "/other\"")).unwrap();
    world.run(&[]);
    let held = world.wait_held();
    let reason = held["steps"].to_string();
    assert!(reason.contains("the file changed"), "{reason}");
    assert!(!world.dir().join("other-ran").exists());
    // The former file is back: it goes on.
    fs::write(&world.config, text).unwrap();
    world.cli(&["reload"]).ok();
    world.cli(&["continue"]).ok();
    world.wait_primary("broker-b");
    assert_eq!(world.cluster().unwrap()["epoch"], 2);
}

#[test]
fn f1_f3_a_bad_file_changes_nothing_and_says_so() {
    let mut world = World::start(Options::default());
    let before = policy_hash(&world);
    let text = fs::read_to_string(&world.config).unwrap();
    fs::write(&world.config, text.replace("verdict: dead", "verdict: deadish")).unwrap();
    let ran = world.cli(&["reload"]);
    assert_eq!(ran.code, 78, "{ran:?}");
    assert!(ran.err.contains("deadish"), "{ran:?}");
    world.wait_until("the metric says so", |world| world.metric("coroner_config_last_reload_success") == Some(0.0));
    world.signal(Signal::SIGHUP);
    world.wait_until("the log says so", |world| world.log_text().matches("the old policy stays").count() >= 2);
    assert_eq!(policy_hash(&world), before);
    world.member_mut("broker-a").kill();
    world.wait_primary("broker-b");
    fs::write(&world.config, text).unwrap();
    world.cli(&["reload"]).ok();
    world.wait_until("the metric is well again", |world| {
        world.metric("coroner_config_last_reload_success") == Some(1.0)
    });
}

/// The cluster `other` over the same pair, with keys of its own. It only watches.
fn second_cluster(text: &str) -> String {
    let (head, orders) = text.split_once("  orders:\n").unwrap();
    let other = orders
        .replace("mode: auto", "mode: shadow")
        .replace("broker: { redis: {} }", "broker: { redis: { key_prefix: other } }");
    format!("{head}  orders:\n{orders}  other:\n{other}")
}

#[test]
fn f3_a_cluster_that_leaves_the_file_and_comes_back_keeps_its_epoch() {
    let mut world = World::start(Options::default());
    let alone = fs::read_to_string(&world.config).unwrap();
    let both = second_cluster(&alone);
    let epoch = |world: &World| world.get("/v1/epoch").unwrap()["other"]["epoch"].as_u64();
    fs::write(&world.config, &both).unwrap();
    world.cli(&["reload"]).ok();
    world.wait_until("the new cluster is watched", |world| epoch(world) == Some(1));
    world.cli(&["adopt", "broker-a", "other", "--yes"]).ok();
    world.wait_until("its epoch has grown", |world| epoch(world) == Some(2));
    fs::write(&world.config, &alone).unwrap();
    world.cli(&["reload"]).ok();
    world.wait_until("it is gone", |world| epoch(world).is_none());
    assert_eq!(world.cli(&["status", "other"]).code, 65);
    fs::write(&world.config, &both).unwrap();
    world.cli(&["reload"]).ok();
    world.wait_until("it is back with its epoch", |world| epoch(world) == Some(2));
    world.cli(&["pause", "other", "--reason", "a test"]).ok();
    assert!(world.status().unwrap()["store_lost"].is_null());
    world.wait_ready();
}

#[test]
fn f5_a_pause_keeps_hands_off_until_it_expires() {
    let mut world = World::start(Options::default());
    world.cli(&["pause", "orders", "--reason", "new kernel", "--owner", "ops", "--for", "5s"]).ok();
    world.member_mut("broker-a").kill();
    world.wait_until("it is believed dead", |world| world.cluster().is_some_and(|c| c["verdict"] == "dead"));
    let why_not = world.cli_text(&["why-not"]).ok().out;
    assert!(why_not.contains("paused by ops") && why_not.contains("new kernel"), "{why_not}");
    world.stays_untouched(Duration::from_secs(1));
    world.wait_primary("broker-b");
    let incident = world.incident(&world.failovers()[0]["id"]);
    assert_eq!(incident["trigger"]["rule"]["rule"], "the port is closed");
}

#[test]
fn f5_a_pause_survives_a_restart_of_the_arbiter_and_ends_with_resume() {
    let mut world = World::start(Options::default());
    world.cli(&["pause", "--reason", "planned stop"]).ok();
    world.kill_arbiter();
    world.run(&[]);
    world.wait_until("it is paused still", |world| world.cluster().is_some_and(|c| c["pause"].is_object()));
    world.member_mut("broker-a").kill();
    world.wait_until("it is believed dead", |world| world.cluster().is_some_and(|c| c["verdict"] == "dead"));
    world.stays_untouched(Duration::from_secs(2));
    // A planned stop: the primary is back before anybody has to act.
    world.member_mut("broker-a").restart();
    world.wait_until("it is well, and its standby follows again", |world| {
        let is_well = |c: serde_json::Value| c["verdict"] == "alive" && World::positions_are_known(&c);
        world.blocking() == ["paused"] && world.cluster().is_some_and(is_well)
    });
    world.member_mut("broker-a").kill();
    world.wait_until("it is believed dead", |world| world.cluster().is_some_and(|c| c["verdict"] == "dead"));
    world.cli(&["resume"]).ok();
    world.wait_primary("broker-b");
}

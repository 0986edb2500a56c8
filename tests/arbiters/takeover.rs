//! Who leads, what the others do meanwhile, and what becomes of a failover when its arbiter is gone.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::world::{Options, World};

/// After the failover: one incident, done, in the next epoch; one primary.
#[track_caller]
fn check_end(world: &mut World, by: usize) {
    world.wait("the failover is over", |w| {
        w.arbiters[by].incidents().first().is_some_and(|incident| incident["state"] == "resolved")
    });
    let incidents = world.arbiters[by].incidents();
    assert_eq!(incidents.len(), 1, "one incident, whoever went on with it\n{}", world.portrait());
    assert_eq!((&incidents[0]["old_primary"], &incidents[0]["candidate"]), (&json!("broker-a"), &json!("broker-b")));
    assert_eq!(incidents[0]["epoch"], 2);
    let cluster = world.arbiters[by].cluster().unwrap();
    assert_eq!((&cluster["primary"], &cluster["epoch"]), (&json!("broker-b"), &json!(2)));
    assert_eq!(world.role(&world.b), Some("master"));
    assert_ne!(world.role(&world.a), Some("master"));
    assert!(world.fences().iter().all(|line| line == "broker-a 2"), "{:?}", world.fences());
}

/// A14: one leads, one watches; who watches can be read, says who leads and where, and takes no command.
#[test]
fn a14_one_leads_and_the_other_says_so() {
    let mut world = World::start(2, &Options::default(), &[]);
    world.wait_followed();
    let address = world.arbiters[0].http.to_string();
    world.wait("the watcher says who leads, and where", |w| {
        w.arbiters[1].reason("not_leading").is_some_and(|why| why.contains("arbiter-1") && why.contains(&address))
    });
    let watcher = &world.arbiters[1];
    let (status, answer) = watcher.command(&json!({ "command": "failover", "cluster": "orders", "reason": "x" }));
    assert_eq!(status, 409, "{answer}");
    let text = answer["text"].as_str().unwrap();
    assert!(text.contains("arbiter-1 leads") && text.contains(&address), "{text}");
    let why_not = watcher.get("/v1/clusters/orders/why-not").unwrap();
    let guard = why_not["guards"].as_array().unwrap().iter().find(|g| g["guard"] == "not_leading").unwrap().clone();
    assert_eq!(guard["blocks"], true);
    let (_, metrics) = crate::http::tcp(watcher.http, "GET", "/metrics", None, b"").unwrap();
    assert!(metrics.contains("coroner_guard{cluster=\"orders\",guard=\"not_leading\"} 1"), "{metrics}");
    world.wait("both see both", |w| {
        w.arbiters.iter().all(|a| {
            let status = a.get("/v1/status").unwrap_or_default();
            status["arbiters"]["instances"].as_array().is_some_and(|all| all.len() == 2)
        })
    });
    assert!(world.fences().is_empty());
    assert_eq!(world.arbiters[1].incidents().len(), 0);
}

/// A10: the leader dies at each step of a failover, and does not come back: the other one finishes the same incident
/// with the same target.
fn dies_at(point: &str) {
    let mut world = World::start(2, &Options::default(), &[("CORONER_CRASH_AT", point)]);
    world.wait_followed();
    world.a.kill();
    world.wait("the leader dies", |w| w.arbiters[0].has_ended());
    world.wait("the other one leads", |w| w.arbiters[1].leads());
    check_end(&mut world, 1);
}

#[test]
fn a10_the_leader_dies_before_it_fences() {
    dies_at("before-act:fence");
}

#[test]
fn a10_the_leader_dies_between_fence_and_promotion() {
    dies_at("before-act:promote");
}

#[test]
fn a10_the_leader_dies_after_the_promotion_and_before_it_is_written_down() {
    dies_at("after-act:promote");
}

#[test]
fn a10_the_leader_dies_behind_its_first_record() {
    dies_at("after-persist:1");
}

/// A10: nothing was begun yet: who watched saw the same, and knows what the primary had.
#[test]
fn a10_the_leader_dies_together_with_the_primary() {
    let options = Options { failover: "", ..Options::default() };
    let mut world = World::start(2, &options, &[]);
    world.wait_followed();
    world.wait("the watcher knows the positions", |w| {
        w.arbiters[1]
            .cluster()
            .is_some_and(|c| c["members"].as_array().unwrap().iter().all(|m| m["position"].as_u64() > Some(0)))
    });
    world.arbiters[0].kill();
    world.a.kill();
    world.wait("the other one leads", |w| w.arbiters[1].leads());
    check_end(&mut world, 1);
}

/// A14: the leader is stopped in the middle of a failover; the other one finishes it. Once the first one goes on, it does
/// nothing more.
#[test]
fn a14_a_leader_that_was_stopped_does_nothing_more() {
    let mut world = World::start(2, &Options::default(), &[]);
    world.wait_followed();
    world.hold_fences(true);
    world.a.kill();
    world.wait("the failover is fencing", |w| {
        w.arbiters[0].incidents().first().is_some_and(|incident| incident["state"] == "fencing")
    });
    world.stop(0);
    world.wait("the other one leads", |w| w.arbiters[1].leads());
    world.hold_fences(false);
    check_end(&mut world, 1);
    let (records, fences) = (world.arbiters[1].incidents(), world.fences());
    world.arbiters[0].signal(Signal::SIGCONT);
    world.wait("the first one knows that it does not lead", |w| {
        w.arbiters[0].reason("not_leading").is_some_and(|why| why.contains("arbiter-2"))
    });
    world.stays("nothing more is done", Duration::from_secs(2), |w| {
        w.arbiters[0].incidents() == records && w.role(&w.b) == Some("master") && !w.arbiters[0].leads()
    });
    // The step that was under way ends, and is not written down again.
    assert!(world.fences().len() <= fences.len() + 1, "{:?}", world.fences());
    world.wait("the first one knows the new primary", |w| {
        w.arbiters[0].cluster().is_some_and(|c| c["primary"] == "broker-b" && c["epoch"] == 2)
    });
}

/// A13: two arbiters with one name: one leads at most, and both alarm.
#[test]
fn a13_two_arbiters_with_one_name_are_told() {
    let mut world = World::new(2, &Options::default());
    world.arbiters[0].start_as("same", &[]);
    world.arbiters[1].start_as("same", &[]);
    world.wait("both alarm", |w| w.arbiters.iter().all(|a| a.log().contains("2 processes call themselves `same`")));
    world.wait("one leads", |w| w.arbiters.iter().filter(|a| a.leads()).count() == 1);
    world.stays("one leads", Duration::from_secs(2), |w| w.arbiters.iter().filter(|a| a.leads()).count() <= 1);
}

/// A leader that is stopped in order leaves the election: the next one need not wait for the lease.
#[test]
fn three_arbiters_hand_on_in_order() {
    let options = Options { leadership: "heartbeat: 1s, valid_for: 60s", ..Options::default() };
    let mut world = World::start(3, &options, &[]);
    world.arbiters[0].signal(Signal::SIGTERM);
    world.wait("it ends", |w| w.arbiters[0].has_ended());
    world.wait("another one leads", |w| w.arbiters[1..].iter().filter(|a| a.leads()).count() == 1);
    assert!(world.fences().is_empty());
    assert_eq!(world.role(&world.a), Some("master"));
}

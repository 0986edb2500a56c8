//! A1 to A9: the arbiter dies at every point of a saga, is started again, and the end is the same.
//!
//! One world takes many crashes: each round ends with the old primary as the standby, ready for the next.

use serde_json::{Value, json};

use crate::{
    http::{Answer, Server},
    world::{Options, World},
};

/// The acts of a failover and of the rejoin after it.
const FAILOVER: [&str; 7] = ["fence", "forbidden_write", "catch_up", "promote", "redirect", "rejoin", "unfence"];
const SWITCHOVER: [&str; 5] = ["make_read_only", "catch_up", "promote", "redirect", "rejoin"];

fn other(member: &str) -> &'static str {
    if member == "broker-a" { "broker-b" } else { "broker-a" }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Failover,
    Switchover,
}

/// How people were told that each of the newest incidents stands.
fn told(pager: &Server, incidents: &[Value]) -> Vec<Option<String>> {
    let requests = pager.requests();
    let last_of = |id: &Value| {
        let mut of_it = requests.iter().rev().map(|request| request.json()["subject"]["incident"].clone());
        Some(of_it.find(|incident| incident["id"] == *id)?["state"].as_str()?.to_owned())
    };
    incidents.iter().map(|incident| last_of(&incident["id"])).collect()
}

/// One round with this crash point: what came of it, as seen from outside, and how often the arbiter died.
fn round(world: &mut World, pager: &Server, kind: Kind, crash_at: Option<&str>) -> (Value, u32) {
    world.kill_arbiter();
    world.revive = false;
    match crash_at {
        Some(point) => world.run(&[("CORONER_CRASH_AT", point)]),
        None => world.run(&[]),
    }
    world.wait_ready();
    let before = world.cluster().unwrap();
    let incidents_before = world.incidents().len();
    let old = before["primary"].as_str().unwrap().to_owned();
    let new = other(&old);
    let epoch = before["epoch"].as_u64().unwrap();
    // The cooldown of the round before is over for whoever takes note of it.
    if let Some(last) = world.failovers().first() {
        world.cli(&["incidents", "ack", last["id"].as_str().unwrap()]).ok();
    }

    (world.revive, world.deaths) = (true, 0);
    match kind {
        Kind::Failover => world.member_mut(&old).kill(),
        // The answer is lost where the arbiter dies before it.
        Kind::Switchover => drop(world.cli(&["switchover", "--yes"])),
    }
    world.wait_end(new);
    if kind == Kind::Failover {
        world.member_mut(&old).restart();
    }
    world.wait_standby(&old);
    world.wait_primary(new);
    world.wait_ready();
    world.revive = false;

    let incidents = world.incidents();
    let newest = &incidents[..incidents.len() - incidents_before];
    world.wait_until("people were told how each incident ended", |_| {
        told(pager, newest).iter().zip(newest).all(|(told, incident)| told.as_deref() == incident["state"].as_str())
    });
    let mut list: Vec<Value> =
        newest.iter().map(|i| json!([i["kind"], i["state"], i["epoch"].as_u64().unwrap() - epoch])).collect();
    list.sort_by_key(Value::to_string);
    let after = world.cluster().unwrap();
    let stored = world.member(new).command(&["GET", "coroner:epoch"]);
    let stored: u64 = stored.lines().nth(1).unwrap().parse().unwrap();
    let found = json!({
        "primary_moved": after["primary"] == new,
        "epoch": after["epoch"].as_u64().unwrap() - epoch,
        "stored_epoch": stored - epoch,
        "incidents": list,
        "roles": [world.role(&old), world.role(new)],
        "nodes": world.nodes.iter().map(|n| (n.following().primary == new, n.following().epoch - epoch)).collect::<Vec<_>>(),
        "takes_writes": world.member(new).command(&["SET", "after", "1"]),
        "old_refuses": world.member(&old).command(&["SET", "after", "2"]).starts_with("-READONLY"),
    });
    (found, world.deaths)
}

fn world() -> (World, Server) {
    let pager = Server::start(|_| Answer::Status(200, "{}".into()));
    let report = format!("- {{ webhook: {{ url: \"http://{}/\" }} }}", pager.address);
    (World::start(Options { report, ..Options::default() }), pager)
}

/// Every point in `points` ends as an undisturbed round does.
fn check(kind: Kind, points: &[String]) {
    let (mut world, pager) = world();
    let (expected, _) = round(&mut world, &pager, kind, None);
    assert_eq!(expected["epoch"], 1);
    for point in points {
        let (found, deaths) = round(&mut world, &pager, kind, Some(point));
        assert_eq!(found, expected, "after a crash at {point}\n{}", world.portrait());
        assert_eq!(deaths, 1, "the arbiter did not die at {point}");
    }
}

/// After every record, one by one, until a saga ends before the crash comes.
fn check_records(kind: Kind, from: u32, by: usize) {
    let (mut world, pager) = world();
    let (expected, _) = round(&mut world, &pager, kind, None);
    for number in (from..).step_by(by) {
        let (found, deaths) = round(&mut world, &pager, kind, Some(&format!("after-persist:{number}")));
        assert_eq!(found, expected, "after a crash at record {number}\n{}", world.portrait());
        if deaths == 0 {
            assert!(number > 5, "a saga has more than {number} records");
            return;
        }
        assert!(number < 60, "a saga has fewer than {number} records");
    }
}

fn points(place: &str, acts: &[&str]) -> Vec<String> {
    acts.iter().map(|act| format!("{place}:{act}")).collect()
}

#[test]
fn a1_to_a9_dying_after_any_odd_record_of_a_failover_changes_nothing() {
    check_records(Kind::Failover, 1, 2);
}

#[test]
fn a1_to_a9_dying_after_any_even_record_of_a_failover_changes_nothing() {
    check_records(Kind::Failover, 2, 2);
}

#[test]
fn a1_to_a9_dying_before_any_act_of_a_failover_changes_nothing() {
    check(Kind::Failover, &points("before-act", &FAILOVER));
}

#[test]
fn a1_to_a9_dying_after_any_act_of_a_failover_changes_nothing() {
    check(Kind::Failover, &points("after-act", &FAILOVER));
}

#[test]
fn a1_to_a9_dying_after_any_record_of_a_switchover_changes_nothing() {
    check_records(Kind::Switchover, 1, 1);
}

#[test]
fn a1_to_a9_dying_around_any_act_of_a_switchover_changes_nothing() {
    let mut all = points("before-act", &SWITCHOVER);
    all.extend(points("after-act", &SWITCHOVER));
    check(Kind::Switchover, &all);
}

/// A1: nothing is durable yet when it dies: the next life finds the death by itself. What the primary had is known to
/// nobody then, so the file decides.
#[test]
fn a1_an_arbiter_that_died_before_it_knew_finds_the_death_when_it_is_back() {
    let mut world = World::start(Options { failover: "unknown_loss: accept".into(), ..Options::default() });
    world.member_mut("broker-a").kill();
    world.kill_arbiter();
    world.run(&[]);
    world.wait_primary("broker-b");
    assert_eq!(world.failovers().len(), 1);
    assert_eq!(world.cluster().unwrap()["epoch"], 2);
}

#[test]
fn a1_p19_a_loss_that_nobody_can_tell_is_held_until_a_person_accepts_it() {
    let (mut world, _pager) = world();
    world.member_mut("broker-a").kill();
    world.kill_arbiter();
    world.run(&[]);
    let held = world.wait_held();
    assert!(held["state_reason"].as_str().unwrap().contains("not known"), "{held:#}");
    world.cli(&["continue", "--accept-loss", "--wait"]).ok();
    world.wait_primary("broker-b");
    assert_eq!(world.cluster().unwrap()["epoch"], 2);
}

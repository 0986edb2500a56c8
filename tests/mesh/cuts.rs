//! Who serves when links are cut: as long as two of three can speak by any path, the primary does; when it cannot, it
//! stops in time, and another may take over.

use coroner::{
    mesh::party::{Input, Output},
    model::{
        Epoch,
        agent::{Deed, LeaseState},
    },
};

use crate::world::{MS, World, cluster};

const VOTERS: [&str; 3] = ["arbiter", "a", "b"];

/// `a` serves in epoch 1, and has for a while.
fn serving(seed: u64, names: &[&str]) -> World {
    let mut world = World::new(seed, names, &VOTERS);
    world.start_all();
    world.appoint_first("a");
    let now = world.now;
    world.run_until(now + 500 * MS);
    world
}

fn assert_serves_on(world: &mut World, what: &str) {
    let (from, a) = (world.now, world.index("a"));
    world.run_until(from + 1_500 * MS);
    assert!(world.is_open(a), "{what}: the primary serves");
    assert_eq!(world.lapses, [], "{what}: and did all the time");
    assert!(world.is_lease_over.is_empty(), "{what}");
    world.assert_sound(what);
}

#[test]
fn a_single_link_cut_costs_nothing() {
    let names = ["arbiter", "a", "b", "node-1"];
    for one in 0..names.len() {
        for other in one + 1..names.len() {
            for way in 0..3 {
                let mut world = serving(1, &names);
                if way != 1 {
                    world.network.cuts.insert((one, other));
                }
                if way != 0 {
                    world.network.cuts.insert((other, one));
                }
                assert_serves_on(&mut world, &format!("{} - {}, way {way}", names[one], names[other]));
            }
        }
    }
}

/// Whoever is heard and does not answer is told apart from whoever is not heard: there the way out is cut.
#[test]
fn a_link_that_carries_one_way_is_known_at_its_sending_end() {
    for (way, expected) in [((0, 1), (true, false)), ((1, 0), (false, true))] {
        let mut world = serving(3, &["arbiter", "a", "b", "node-1"]);
        let one_way = |world: &World, from: usize, to: &str| {
            let health = world.hosts[from].party.health(world.moment(from));
            (health.links[to].is_one_way, health.links[to].is_up)
        };
        assert_eq!((one_way(&world, 0, "a"), one_way(&world, 1, "arbiter")), ((false, true), (false, true)));
        world.network.cuts.insert(way);
        let now = world.now;
        world.run_until(now + 2_000 * MS);
        let told = world.told.iter().rev().find_map(|(_, _, told)| match told {
            Output::Heard { from, beat, .. } if from.as_str() == "a" => Some(!beat.one_way.is_empty()),
            _ => None,
        });
        assert_eq!((one_way(&world, 0, "a").0, told), (expected.0, Some(expected.1)), "{way:?}");
        assert!(!one_way(&world, 0, "a").1 && !one_way(&world, 1, "arbiter").1, "neither is up");
        // Cut both ways, it is silent at both ends.
        world.cut("arbiter", "a");
        let now = world.now;
        world.run_until(now + 2_000 * MS);
        assert_eq!((one_way(&world, 0, "a"), one_way(&world, 1, "arbiter")), ((false, false), (false, false)));
    }
}

#[test]
fn a_dead_arbiter_or_standby_costs_nothing() {
    for dead in ["arbiter", "b"] {
        let mut world = serving(2, &["arbiter", "a", "b", "node-1"]);
        let dead_host = world.index(dead);
        world.kill(dead_host);
        assert_serves_on(&mut world, dead);
    }
}

#[test]
fn an_agent_that_is_started_again_goes_on_even_with_the_arbiter_dead() {
    let mut world = serving(3, &["arbiter", "a", "b"]);
    world.kill(0);
    let a = world.index("a");
    world.kill(a);
    let now = world.now;
    world.run_until(now + 20 * MS);
    world.start(a);
    assert_serves_on(&mut world, "the kernel's gate bridges the agent's restart");
}

#[test]
fn a_lease_lives_by_way_of_a_node() {
    for seed in 0..5 {
        let mut world = serving(seed, &["arbiter", "a", "b", "node-1"]);
        world.cut("a", "arbiter");
        world.cut("a", "b");
        assert_serves_on(&mut world, "both direct links of the primary are cut");
        // And orders take that way too.
        let a = world.index("a");
        let id = world.order(a, 77, Epoch(1), Deed::Position);
        let now = world.now;
        world.run_until(now + 300 * MS);
        assert!(world.answer(&id).is_some(), "an order and its answer go by way of the node");
        assert_eq!(world.report_of("a").unwrap().appointed, Some(Epoch(1)), "and so do beats");
    }
}

#[test]
fn without_relays_a_node_passes_nothing_on() {
    let mut world = World::new(4, &["arbiter", "a", "b", "node-1"], &VOTERS);
    world.relays = false;
    world.start_all();
    world.appoint_first("a");
    world.cut("a", "arbiter");
    world.cut("a", "b");
    let now = world.now;
    world.run_until(now + 500 * MS);
    let a = world.index("a");
    assert!(!world.is_open(a));
    for host in 0..4 {
        let now = world.moment(host);
        assert_eq!(world.hosts[host].party.health(now).counts.get("relayed"), None);
    }
}

#[test]
fn a_primary_that_reaches_nobody_stops_in_time_and_another_takes_over() {
    for seed in 0..20 {
        let mut world = serving(seed, &["arbiter", "a", "b", "node-1"]);
        let (a, b) = (world.index("a"), world.index("b"));
        for other in ["arbiter", "b", "node-1"] {
            world.cut("a", other);
        }
        let cut_at = world.now;
        // Counted on a clock that is 10 % slow, 200 ms are 223 ms at most.
        world.run_while(cut_at + 400 * MS, |world| world.is_open(a));
        assert!(world.now <= cut_at + 224 * MS, "seed {seed}: closed after {} ms", (world.now - cut_at) / MS);
        assert_eq!(world.is_lease_over.len(), 1, "and the agent was told once");
        assert!(world.is_lease_over[0].2.contains("was not granted again"), "{}", world.is_lease_over[0].2);

        let mut world = serving(seed, &["arbiter", "a", "b", "node-1"]);
        for other in ["arbiter", "b", "node-1"] {
            world.cut("a", other);
        }
        let cut_at = world.now;
        world.feed(0, Input::Seal { cluster: cluster(), epoch: Epoch(2) });
        world.run_while(cut_at + 600 * MS, |world| !world.is_over(2));
        // W = 258 ms, counted on a clock that is 10 % slow, and two ways.
        assert!(world.now <= cut_at + 295 * MS, "seed {seed}: over after {} ms", (world.now - cut_at) / MS);
        world.order(b, 9, Epoch(2), Deed::Appoint);
        let now = world.now;
        world.run_while(now + 400 * MS, |world| !world.is_open(b));
        assert!(world.is_open(b), "seed {seed}");
        assert!(!world.is_open(a), "seed {seed}");

        // Healed, the old primary learns that it is none, and does not come back by itself.
        world.network.cuts.clear();
        let now = world.now;
        world.run_until(now + 500 * MS);
        let moment = world.moment(a);
        assert_eq!(world.hosts[a].party.lease(moment, &cluster()), LeaseState::None);
        assert_eq!(world.hosts[a].durable.clusters[&cluster()].sealed, Epoch(2));
        assert!(world.is_open(b));
        world.assert_sound(seed);
    }
}

#[test]
fn a_healed_network_restores_service_if_nobody_sealed() {
    let mut world = serving(5, &["arbiter", "a", "b"]);
    let a = world.index("a");
    world.cut("a", "arbiter");
    world.cut("a", "b");
    let now = world.now;
    world.run_until(now + 600 * MS);
    assert!(!world.is_open(a));
    world.network.cuts.clear();
    let now = world.now;
    world.run_until(now + 100 * MS);
    assert!(world.is_open(a));
}

#[test]
fn a_lease_runs_out_when_the_evidence_says_no() {
    let mut world = serving(6, &["arbiter", "a", "b"]);
    let a = world.index("a");
    world.hosts[a].may_renew = false;
    world.tell_member(a);
    let from = world.now;
    world.run_while(from + 500 * MS, |world| world.is_open(a));
    assert!(world.now > from + 100 * MS && world.now <= from + 224 * MS);
    assert!(world.is_lease_over[0].2.contains("the evidence"));
    // It is started again soon enough: the lease is asked for before it runs.
    world.feed(a, Input::Starting { cluster: cluster() });
    let now = world.now;
    world.run_until(now + 50 * MS);
    assert!(world.is_open(a));
}

/// Grants that are on their way when the evidence says no come too late: they were asked for by a broker that lived.
#[test]
fn a_grant_that_comes_after_the_evidence_extends_nothing() {
    for phase_ms in [0, 7, 19, 33, 48] {
        let mut world = serving(6, &["arbiter", "a", "b"]).with_clocks(1_000);
        let a = world.index("a");
        world.network.delay = (40 * MS, 41 * MS);
        let now = world.now;
        world.run_until(now + (500 + phase_ms) * MS);
        assert!(world.is_open(a));
        world.hosts[a].may_renew = false;
        world.tell_member(a);
        let from = world.now;
        world.run_while(from + 500 * MS, |world| world.is_open(a));
        // What was granted by then was asked for 80 ms before.
        let closed_ms = (world.now - from) / MS;
        assert!(closed_ms <= 200 - 80 + 14, "phase {phase_ms} ms: closed after {closed_ms} ms");
    }
}

#[test]
fn giving_up_closes_at_once_and_for_this_appointment() {
    let mut world = serving(7, &["arbiter", "a", "b"]);
    let a = world.index("a");
    world.feed(a, Input::GiveUp { cluster: cluster() });
    assert!(!world.is_open(a));
    let now = world.now;
    world.run_until(now + 500 * MS);
    assert!(!world.is_open(a));
    let id = world.order(a, 50, Epoch(1), Deed::Appoint);
    let now = world.now;
    world.run_until(now + 100 * MS);
    assert!(world.is_open(a) && world.answer(&id).is_some(), "an arbiter may appoint it again");
}

#[test]
fn a_holder_that_slept_wakes_up_without_a_lease() {
    let mut world = serving(8, &["arbiter", "a", "b"]);
    let a = world.index("a");
    world.sleep(a, 500 * MS);
    let from = world.now;
    world.feed(0, Input::Seal { cluster: cluster(), epoch: Epoch(2) });
    world.run_until(from + 499 * MS);
    assert!(world.is_over(2));
    // What lay in its queues is handled first, and opens nothing.
    world.run_until(from + 900 * MS);
    assert!(!world.is_open(a));
    world.assert_sound("woken");
}

#[test]
fn voters_that_were_started_again_wait_for_what_they_forgot() {
    for seed in 0..10 {
        let mut world = serving(seed, &["arbiter", "a", "b"]);
        world.cut("a", "arbiter");
        world.cut("a", "b");
        for voter in [0, 2] {
            world.kill(voter);
            world.start(voter);
        }
        world.feed(0, Input::Seal { cluster: cluster(), epoch: Epoch(2) });
        let from = world.now;
        world.run_while(from + 600 * MS, |world| !world.is_over(2));
        assert!(world.is_over(2) && world.now >= from + 230 * MS, "seed {seed}: {} ms", (world.now - from) / MS);
        world.assert_sound(seed);
    }
}

#[test]
fn messages_go_round_no_loops() {
    let names = ["arbiter", "a", "b", "node-1", "node-2", "node-3"];
    let mut world = World::new(9, &names, &VOTERS);
    world.start_all();
    world.appoint_first("a");
    let count = |world: &mut World| {
        let (from, sent) = (world.now, world.sent);
        world.run_until(from + 1_000 * MS);
        world.sent - sent
    };
    let quiet = count(&mut world);
    world.cut("a", "arbiter");
    world.cut("a", "b");
    world.cut("arbiter", "b");
    let _settles = count(&mut world);
    let cut = count(&mut world);
    let a = world.index("a");
    assert!(world.is_open(a), "by way of the nodes");
    assert!(quiet < 1_600, "{quiet} datagrams a second among six, all links up");
    assert!(cut < quiet * 4, "{cut} datagrams a second instead of {quiet}: three links cut multiply without end");
}

/// The arbiter's own grant counts like any other: it waits for the lease that it gave itself a moment ago, though the other
/// voter gave none for long.
#[test]
fn an_arbiter_waits_for_what_it_granted_itself() {
    let mut world = World::new(8, &["arbiter", "a", "b"], &VOTERS);
    world.relays = false;
    world.start_all();
    world.appoint_first("a");
    world.cut("a", "b");
    let now = world.now;
    world.run_until(now + 800 * MS);
    assert!(world.is_open(1), "on the arbiter's grants");
    world.cut("arbiter", "a");
    let from = world.now;
    world.feed(0, Input::Seal { cluster: cluster(), epoch: Epoch(2) });
    world.run_while(from + 1_000 * MS, |world| !world.is_over(2));
    assert!(world.now - from > 150 * MS, "over after {} ms", (world.now - from) / MS);
    world.assert_sound("its own grant");
}

/// What was granted in one epoch opens nothing in the next: an appointment begins with a shut gate and with no vote.
#[test]
fn a_lease_is_not_carried_over_into_a_new_epoch() {
    let mut world = serving(9, &["arbiter", "a", "b"]);
    let (arbiter, a, b) = (0, 1, 2);
    // It hears, and nobody hears it.
    world.network.cuts.extend([(a, arbiter), (a, b)]);
    world.order(a, 50, Epoch(2), Deed::Appoint);
    let from = world.now;
    world.run_while(from + 20 * MS, |world| world.is_open(a));
    assert!(!world.is_open(a), "the order came");
    let lease = world.hosts[a].party.lease(world.moment(a), &cluster());
    assert!(!matches!(lease, LeaseState::Held { .. }), "nobody granted it: {lease:?}");
    world.run_while(from + 400 * MS, |world| !world.is_open(a));
    assert!(!world.is_open(a), "opened after {} ms by nobody's grant but its own", (world.now - from) / MS);
}

/// A holder that slept learns that its lease is over before it believes anything that came in meanwhile.
#[test]
fn a_lease_that_ran_out_in_sleep_is_over_before_anything_else() {
    let mut world = serving(10, &["arbiter", "a", "b"]);
    let a = world.index("a");
    let mut now = world.moment(a);
    now.boot = now.boot + std::time::Duration::from_secs(1);
    let party = &mut world.hosts[a].party;
    party.handle(now, Input::Persisted(0));
    let outputs: Vec<Output> = std::iter::from_fn(|| party.poll_output()).collect();
    let is_over = |output: &Output| matches!(output, Output::LeaseOver { .. });
    assert!(outputs.iter().any(is_over), "{outputs:?}");
}

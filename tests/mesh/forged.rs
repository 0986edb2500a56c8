//! What others make of messages: forged, recorded, played again, sent by who may not.

use std::time::Duration;

use coroner::{
    mesh::{
        envelope,
        message::{Body, DeedOrder, Life, Message, Renew},
        party::{Input, Output},
    },
    model::{
        Epoch,
        agent::{Deed, OrderId},
    },
};

use crate::world::{MS, World, cluster, key_of};

const NAMES: [&str; 4] = ["arbiter", "a", "b", "node-1"];

fn serving(seed: u64) -> World {
    let mut world = World::new(seed, &NAMES, &["arbiter", "a", "b"]);
    world.recorded = Some(Vec::new());
    world.start_all();
    world.appoint_first("a");
    let now = world.now;
    world.run_until(now + 300 * MS);
    world
}

/// A message in the name of `from`, to `to`, as fresh as can be, signed by whoever has that key.
fn say(world: &mut World, from: usize, to: usize, key: usize, body: Body) {
    let life = Life(world.hosts[to].life);
    say_to(world, from, to, key, life, body);
}

fn say_to(world: &mut World, from: usize, to: usize, key: usize, to_life: Life, body: Body) {
    let message = Message {
        from: world.hosts[from].name.clone(),
        from_life: Life(world.hosts[from].life),
        to: world.hosts[to].name.clone(),
        to_life,
        seq: 1_000_000 + world.random.within(0, 1_000),
        body,
    };
    let bytes = envelope::write(&message, &key_of(key)).unwrap();
    let source = crate::world::address(from);
    world.feed(to, Input::Datagram { bytes, source });
}

fn fence(challenge: u64, epoch: u64) -> DeedOrder {
    DeedOrder {
        id: OrderId { incident: "evil".into(), number: 666 },
        cluster: cluster(),
        member: "a".into(),
        epoch: Epoch(epoch),
        challenge,
        deed: Deed::Fence { name: "kill".into(), preserve: Duration::ZERO },
        deadline: Duration::from_secs(1),
    }
}

/// The newest challenge of `a`, as anyone who listens knows it.
fn overheard(world: &World) -> u64 {
    let challenge = world.told.iter().rev().find_map(|(_, _, told)| match told {
        Output::Heard { from, beat, .. } if from.as_str() == "a" => Some(beat.challenge),
        _ => None,
    });
    challenge.unwrap()
}

fn count(world: &World, host: usize, what: &str) -> u64 {
    world.hosts[host].party.health(world.moment(host)).counts.get(what).copied().unwrap_or(0)
}

#[test]
fn a_nodes_key_gives_no_orders_in_its_own_or_in_anothers_name() {
    let mut world = serving(1);
    let (arbiter, a, node) = (0, 1, 3);
    let order = || Body::Order(Box::new(fence(overheard(&serving(1)), 9)));
    say(&mut world, arbiter, a, node, order());
    assert_eq!(count(&world, a, "bad_signature"), 1);
    // It is told in whose name, so that the key to compare is known.
    let health = world.hosts[a].party.health(world.moment(a));
    let blamed = health.links.iter().filter(|(_, link)| link.bad_signature_age_ms.is_some());
    assert_eq!(blamed.map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["arbiter"]);
    say(&mut world, node, a, node, order());
    assert_eq!(count(&world, a, "not_allowed"), 1);
    // Nor seals, nor epochs by a request for a member that is not its own.
    say(&mut world, node, a, node, Body::Seal { cluster: cluster(), epoch: Epoch(9), safety: 0 });
    let renew = Renew { cluster: cluster(), member: "a".into(), epoch: Epoch(9), request: 1, safety: 0 };
    say(&mut world, node, arbiter, node, Body::Renew(renew));
    let now = world.now;
    world.run_until(now + 100 * MS);
    assert!(world.executed.is_empty() && world.is_open(a));
    assert!(world.hosts.iter().all(|host| host.durable.clusters[&cluster()].sealed <= Epoch(1)));
    // The arbiter's own order is none the worse for the other of the same name.
    let real = DeedOrder { challenge: overheard(&world), ..fence(0, 2) };
    say(&mut world, arbiter, a, arbiter, Body::Order(Box::new(real)));
    assert!(!world.is_open(a));
}

#[test]
fn an_order_to_no_challenge_of_ours_is_refused_and_so_is_a_late_one() {
    let mut world = serving(2);
    say(&mut world, 0, 1, 0, Body::Order(Box::new(fence(12_345, 2))));
    let old = overheard(&world);
    let now = world.now;
    world.run_until(now + 700 * MS);
    say(&mut world, 0, 1, 0, Body::Order(Box::new(fence(old, 2))));
    assert_eq!(count(&world, 1, "expired"), 2);
    assert!(world.executed.is_empty() && world.is_open(1));
    assert_eq!(world.hosts[1].durable.clusters[&cluster()].sealed, Epoch(1), "it did not even teach an epoch");
}

#[test]
fn a_message_for_another_life_is_not_handled() {
    let mut world = serving(3);
    let challenge = overheard(&world);
    let before = count(&world, 1, "wrong_life");
    for life in [0, 1, world.hosts[1].life + 2] {
        say_to(&mut world, 0, 1, 0, Life(life), Body::Order(Box::new(fence(challenge, 2))));
    }
    assert_eq!(count(&world, 1, "wrong_life"), before + 3);
    // A sender whose life is not the known one is asked, not believed.
    let known = world.hosts[0].life;
    world.hosts[0].life = known + 2;
    say(&mut world, 0, 1, 0, Body::Order(Box::new(fence(challenge, 2))));
    world.hosts[0].life = known;
    assert_eq!(count(&world, 1, "wrong_life"), before + 4);
    let now = world.now;
    world.run_until(now + 300 * MS);
    assert!(world.executed.is_empty() && world.is_open(1));
}

#[test]
fn what_was_recorded_changes_nothing_when_it_is_played_again() {
    let mut world = serving(4);
    world.order(1, 5, Epoch(1), Deed::Position);
    let now = world.now;
    world.run_until(now + 300 * MS);
    // `b` is started again: it has forgotten what it heard, and knows a new life.
    world.kill(2);
    world.start(2);
    let now = world.now;
    world.run_until(now + 300 * MS);
    let mut recorded = world.recorded.take().unwrap();
    assert!(recorded.len() > 500);
    // What is on its way arrives first.
    world.run_while(now + 500 * MS, |_| true);
    let durable: Vec<_> = world.hosts.iter().map(|host| host.party.durable()).collect();
    let (told, executed, sent) = (world.told.len(), world.executed.len(), world.sent);
    let leases = |world: &World| -> Vec<_> {
        (0..4).map(|host| world.hosts[host].party.lease(world.moment(host), &cluster())).collect()
    };
    let before = leases(&world);
    // In any order, and from a stranger's address.
    for at in (1..recorded.len()).rev() {
        let other = usize::try_from(world.random.within(0, at as u64 + 1)).unwrap();
        recorded.swap(at, other);
    }
    for (to, _, bytes) in recorded {
        let source = "192.0.2.1:9".parse().unwrap();
        world.feed(to, Input::Datagram { bytes, source });
    }
    assert_eq!(leases(&world), before);
    assert_eq!(world.hosts.iter().map(|host| host.party.durable()).collect::<Vec<_>>(), durable);
    assert_eq!(world.told.len(), told, "{:?}", &world.told[told..]);
    assert_eq!(world.executed.len(), executed);
    assert!(world.sent - sent < 100, "{} answers to what was played again", world.sent - sent);
    let (now, lapses) = (world.now, world.lapses.len());
    world.run_until(now + 500 * MS);
    assert!(world.is_open(1) && world.lapses.len() == lapses, "and all goes on");
    world.assert_sound("replayed");
}

#[test]
fn what_a_former_life_said_late_does_not_bring_it_back() {
    let mut world = serving(5);
    let (a, former) = (1, world.hosts[1].life);
    // Said by the former life to the arbiter's present one, and held back on the way.
    let message = |world: &World| Message {
        from: "a".into(),
        from_life: Life(former),
        to: "arbiter".into(),
        to_life: Life(world.hosts[0].life),
        seq: 1_000_000,
        body: Body::BeatHeard { seq: 1 },
    };
    let late = envelope::write(&message(&world), &key_of(a)).unwrap();
    world.kill(a);
    world.start(a);
    let now = world.now;
    world.run_until(now + 200 * MS);
    let handled = count(&world, 0, "handled");
    let source = crate::world::address(a);
    world.feed(0, Input::Datagram { bytes: late, source });
    assert_eq!(count(&world, 0, "handled"), handled);
    let now = world.now;
    world.run_until(now + 300 * MS);
    assert!(count(&world, 0, "handled") > handled, "the present life is heard as before");
    assert!(world.is_open(a) && world.lapses.is_empty());
}

/// What makes a majority is the word of a voter on the very epoch: not a node's, not a late one on another.
#[test]
fn only_a_voters_word_on_the_epoch_that_is_sealed_counts() {
    let mut world = serving(7);
    for other in ["a", "b", "node-1"] {
        world.cut("arbiter", other);
    }
    world.feed(0, Input::Seal { cluster: cluster(), epoch: Epoch(5) });
    for (from, epoch) in [(2, 3), (1, 4), (3, 5)] {
        let body = Body::Sealed { cluster: cluster(), epoch: Epoch(epoch), wait: Duration::ZERO };
        say(&mut world, from, 0, from, body);
        let now = world.now;
        world.run_until(now + 20 * MS);
        let sealing = world.sealing(5).unwrap();
        let sealed: Vec<_> = sealing.sealed.iter().map(|voter| voter.as_str()).collect();
        assert_eq!((sealed, sealing.is_sealed), (vec!["arbiter"], false), "after {} said {epoch}", NAMES[from]);
    }
    // One more voter's word on it makes two of three.
    let body = Body::Sealed { cluster: cluster(), epoch: Epoch(5), wait: Duration::from_secs(1) };
    say(&mut world, 2, 0, 2, body);
    assert!(world.sealing(5).is_some_and(|sealing| sealing.is_sealed && !sealing.is_over));
}

#[test]
fn two_files_that_disagree_grant_nothing() {
    let mut world = World::new(6, &NAMES, &["arbiter", "a", "b"]);
    world.start_all();
    world.appoint_first("a");
    // The primary's agent is started again with another file: a longer lease.
    world.kill(1);
    let (before, longer) = (world.lease.clone(), Duration::from_millis(400));
    world.lease.length = longer;
    world.start(1);
    world.lease = before;
    let now = world.now;
    world.run_until(now + 700 * MS);
    assert!(!world.is_open(1));
    assert!(count(&world, 0, "safety_differs") > 3 && count(&world, 1, "safety_differs") > 3);
    let health = world.hosts[0].party.health(world.moment(0));
    let differs = health.links.iter().filter(|(_, link)| link.differs_age_ms.is_some_and(|age| age < 500.0));
    assert_eq!(differs.map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["a"]);
    // Nor is an epoch sealed by a voter whose wait may be another.
    world.feed(0, Input::Seal { cluster: cluster(), epoch: Epoch(2) });
    let now = world.now;
    world.run_until(now + 700 * MS);
    let sealing = world.sealing(2).unwrap();
    assert!(!sealing.sealed.contains("a") && sealing.is_over, "{sealing:?}");
}

/// The lease of a dead primary is renewed by nobody else in its name, though everything else in the request is right.
#[test]
fn nobody_asks_for_anothers_lease() {
    let mut world = serving(9);
    let (a, node) = (1, 3);
    let asked = world.recorded.as_ref().unwrap().iter().rev();
    let mut renewals = asked.filter(|(_, from, _)| *from == a).filter_map(|(_, _, bytes)| {
        match envelope::Envelope::read(bytes).unwrap().message.body {
            Body::Renew(renew) => Some(renew),
            _ => None,
        }
    });
    let last = renewals.next().unwrap();
    world.kill(a);
    for more in 1..12 {
        for voter in [0, 2] {
            let renew = Renew { request: last.request + more, ..last.clone() };
            say(&mut world, node, voter, node, Body::Renew(renew));
        }
        let now = world.now;
        world.run_until(now + 40 * MS);
    }
    world.feed(0, Input::Seal { cluster: cluster(), epoch: Epoch(2) });
    let now = world.now;
    world.run_until(now + 30 * MS);
    assert!(world.is_over(2), "its lease was over long ago: {:?}", world.sealing(2));
}

//! Orders: each is carried out once, at the right time, or refused with the reason.

use std::time::Duration;

use coroner::{
    mesh::party::{Input, MayStart, Output},
    model::{
        Epoch, StepResult,
        agent::{Deed, DeedResult, LeaseState, OrderId, Refusal},
    },
};

use crate::world::{MS, World, cluster};

fn serving(seed: u64) -> World {
    let mut world = World::new(seed, &["arbiter", "a", "b"], &["arbiter", "a", "b"]);
    world.start_all();
    world.appoint_first("a");
    let now = world.now;
    world.run_until(now + 300 * MS);
    world
}

fn fence() -> Deed {
    Deed::Fence { name: "gate".into(), preserve: Duration::ZERO }
}

fn run(world: &mut World, ms: u64) {
    let until = world.now + ms * MS;
    world.run_until(until);
}

fn refusal(world: &World, id: &OrderId) -> Option<Refusal> {
    match world.answer(id) {
        Some(DeedResult::Refused { why, .. }) => Some(*why),
        _ => None,
    }
}

#[test]
fn a_fence_closes_before_any_disk_answers_and_is_handed_out_after() {
    let mut world = serving(1);
    world.disk = (300 * MS, 301 * MS);
    let from = world.now;
    let id = world.order(1, 9, Epoch(2), fence());
    world.run_while(from + 100 * MS, |world| world.is_open(1));
    assert!(world.now <= from + 4 * MS, "closed after {} ms", (world.now - from) / MS);
    run(&mut world, 200);
    assert!(world.executed.is_empty() && !world.is_open(1), "its epoch is not durable yet");
    run(&mut world, 200);
    assert_eq!(world.executed.len(), 1);
    assert!(matches!(world.answer(&id), Some(DeedResult::Ended(_))));
    let durable = &world.hosts[1].durable.clusters[&cluster()];
    assert_eq!((durable.sealed, durable.appointed, durable.fenced), (Epoch(2), None, Some(Epoch(2))));
    // Neither time nor a restart brings it back.
    world.kill(1);
    world.start(1);
    run(&mut world, 600);
    assert!(!world.is_open(1));
    let now = world.moment(1);
    assert_eq!(world.hosts[1].party.lease(now, &cluster()), LeaseState::GivenUp);
    assert_eq!(world.hosts[1].party.may_start(now, &cluster()), MayStart::No(Epoch(2)));
    // Brought back as a standby: it may run, and is no primary.
    world.order(1, 10, Epoch(2), Deed::Unfence { name: "gate".into() });
    run(&mut world, 800);
    let now = world.moment(1);
    assert_eq!(world.hosts[1].party.may_start(now, &cluster()), MayStart::AsStandby(Epoch(2)));
    assert!(!world.is_open(1));
}

#[test]
fn a_fast_failover_needs_no_wait_when_the_fence_is_proven() {
    let mut world = serving(2);
    let from = world.now;
    world.feed(0, Input::Seal { cluster: cluster(), epoch: Epoch(2) });
    let id = world.order(1, 9, Epoch(2), fence());
    world.run_while(from + 200 * MS, |world| {
        world.answer(&id).is_none() || !world.sealing(2).is_some_and(|sealing| sealing.is_sealed)
    });
    world.order(2, 10, Epoch(2), Deed::Appoint);
    world.run_while(from + 400 * MS, |world| !world.is_open(2));
    assert!(world.now < from + 70 * MS, "the standby serves after {} ms", (world.now - from) / MS);
    world.assert_sound("fenced and promoted");
}

#[test]
fn an_order_is_carried_out_once_however_often_it_is_sent() {
    let mut world = serving(3);
    world.network.loss_percent = 40;
    world.network.twice_percent = 50;
    for number in 100..140 {
        world.order(1, number, Epoch(1), Deed::Position);
        run(&mut world, 30);
    }
    run(&mut world, 800);
    let mut ids: Vec<_> = world.executed.iter().map(|(_, order)| order.id.number).collect();
    assert!(ids.len() >= 38, "{} of 40 orders came through", ids.len());
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), world.executed.len());
    world.assert_sound("lossy");
}

#[test]
fn an_old_epoch_is_refused_and_another_members_too() {
    let mut world = serving(4);
    world.feed(0, Input::Seal { cluster: cluster(), epoch: Epoch(5) });
    run(&mut world, 400);
    assert!(!world.is_open(1), "a larger epoch is in force: the primary stepped down");
    let old = world.order(1, 9, Epoch(4), fence());
    let appoint = world.order(1, 10, Epoch(5), Deed::Appoint);
    run(&mut world, 100);
    assert_eq!(refusal(&world, &old), Some(Refusal::OldEpoch));
    assert!(world.answer(&appoint).is_some() && world.is_open(1));
    let other = world.order(2, 11, Epoch(5), Deed::Appoint);
    run(&mut world, 100);
    assert_eq!(refusal(&world, &other), Some(Refusal::OtherHolder));
    assert!(world.executed.is_empty() && !world.is_open(2));
}

#[test]
fn an_appointment_that_no_seal_went_before_waits_for_the_old_lease() {
    // An arbiter that forgets to seal, and appoints the standby while the primary serves.
    for seed in 0..30 {
        let mut world = serving(seed);
        world.order(2, 9, Epoch(2), Deed::Appoint);
        run(&mut world, 600);
        assert!(world.is_open(2), "seed {seed}: in the end it serves");
        world.assert_sound(seed);
    }
}

#[test]
fn a_promotion_that_no_seal_went_before_waits_too() {
    let mut world = serving(5);
    let from = world.now;
    world.order(2, 9, Epoch(2), Deed::Promote);
    world.run_while(from + 700 * MS, |world| world.executed.is_empty());
    assert_eq!(world.executed.len(), 1);
    let wait = u64::try_from(world.lease.wait.as_nanos()).unwrap();
    assert!(world.now >= from + wait * 8 / 10, "after {} ms", (world.now - from) / MS);
}

#[test]
fn an_arbiter_that_slept_orders_nothing() {
    let mut world = serving(6);
    world.cut("arbiter", "a");
    world.cut("arbiter", "b");
    world.order(1, 9, Epoch(2), fence());
    world.sleep(0, 900 * MS);
    run(&mut world, 850);
    world.network.cuts.clear();
    run(&mut world, 500);
    assert!(world.executed.is_empty(), "its time was over when it woke");
}

#[test]
fn a_beat_tells_lease_and_epoch_at_once_and_is_heard_once() {
    let mut world = serving(7);
    let report = world.report_of("a").unwrap();
    assert_eq!((report.epoch, report.appointed), (Epoch(1), Some(Epoch(1))));
    assert!(matches!(report.lease, LeaseState::Held { .. }));
    world.hosts[1].may_renew = false;
    let told = world.told.len();
    world.tell_member(1);
    run(&mut world, 5);
    assert!(
        world.told[told..]
            .iter()
            .any(|(_, _, told)| matches!(told, Output::Heard { from, .. } if from.as_str() == "a")),
        "news do not wait for the next beat"
    );
}

/// The agent took an order, died over it, and refuses it in its next life: whether it was done is not known.
#[test]
fn a_refusal_in_a_new_life_says_nothing_of_the_former() {
    let mut world = serving(8);
    let (arbiter, a, b) = (0, 1, 2);
    // Its answers are lost.
    world.network.cuts.extend([(a, arbiter), (a, b)]);
    let id = world.order(a, 9, Epoch(2), Deed::Appoint);
    run(&mut world, 60);
    world.kill(a);
    world.feed(arbiter, Input::Seal { cluster: cluster(), epoch: Epoch(3) });
    run(&mut world, 20);
    world.start(a);
    world.network.cuts.clear();
    run(&mut world, 600);
    let Some(DeedResult::Ended(result)) = world.answer(&id) else { panic!("{:?}", world.answer(&id)) };
    let StepResult::Failed(error) = &**result else { panic!("{result:?}") };
    assert!(error.may_have_happened && error.detail.contains("started again"), "{error}");
}

//! Hundreds of worlds in which everything goes wrong at once. `CORONER_MESH_SEEDS=10000 cargo test --test mesh chaos`
//! tries more; `CORONER_MESH_SEED=17` tries one.

use std::{collections::BTreeSet, env, thread, time::Duration};

use coroner::{
    mesh::party::{Input, Output, Sealing},
    model::{
        Epoch,
        agent::{Deed, DeedResult, OrderId},
    },
};

use crate::world::{MS, Network, Random, World, cluster};

/// A small arbiter's engine: it only ever appoints with proof T, or with every member that may hold an older lease
/// fenced in the new epoch and the epoch sealed by a majority.
struct Engine {
    epoch: Epoch,
    phase: Phase,
    /// Members that may hold a lease of an older epoch.
    may_serve: BTreeSet<usize>,
    orders: u32,
    appointed: u32,
}

enum Phase {
    Idle,
    Sealing { since: u64, told_from: usize, target: usize, fences: Vec<(usize, OrderId)> },
    Appointing { since: u64, id: OrderId },
}

impl Engine {
    fn step(&mut self, world: &mut World, random: &mut Random, members: &[usize]) {
        match &mut self.phase {
            Phase::Idle => {
                if self.appointed > 0 && !random.one_in(15) {
                    return;
                }
                self.epoch = self.epoch.next();
                let told_from = world.told.len();
                world.feed(0, Input::Seal { cluster: cluster(), epoch: self.epoch });
                let target = members[usize::try_from(random.within(0, members.len() as u64)).unwrap()];
                let mut fences = Vec::new();
                if random.one_in(2) {
                    // A member is not fenced and appointed in one epoch: the one could overtake the other.
                    for member in self.may_serve.iter().copied().filter(|member| *member != target) {
                        self.orders += 1;
                        let deed = Deed::Fence { name: "gate".into(), preserve: Duration::ZERO };
                        fences.push((member, world.order(member, self.orders, self.epoch, deed)));
                    }
                }
                self.phase = Phase::Sealing { since: world.now, told_from, target, fences };
            }
            Phase::Sealing { since, told_from, target, fences } => {
                let epoch = self.epoch;
                let sealing = world.told[*told_from..].iter().rev().find_map(|(_, _, told)| match told {
                    Output::Sealing(sealing) if sealing.epoch == epoch => Some(sealing.clone()),
                    _ => None,
                });
                let Some(Sealing { is_sealed, is_over, larger, .. }) = sealing else {
                    if world.now > *since + 1_200 * MS {
                        self.phase = Phase::Idle;
                    }
                    return;
                };
                if let Some(larger) = larger {
                    self.epoch = self.epoch.max(larger);
                    self.phase = Phase::Idle;
                    return;
                }
                let fenced: BTreeSet<usize> = fences
                    .iter()
                    .filter(|(_, id)| matches!(world.answer(id), Some(DeedResult::Ended(_))))
                    .map(|(member, _)| *member)
                    .collect();
                let is_proven =
                    is_sealed && self.may_serve.iter().all(|member| *member == *target || fenced.contains(member));
                if is_over || is_proven {
                    let target = *target;
                    self.may_serve = BTreeSet::from([target]);
                    self.orders += 1;
                    let id = world.order(target, self.orders, epoch, Deed::Appoint);
                    self.phase = Phase::Appointing { since: world.now, id };
                } else if world.now > *since + 1_200 * MS {
                    world.feed(0, Input::WithdrawSeal { cluster: cluster() });
                    self.phase = Phase::Idle;
                }
            }
            Phase::Appointing { since, id } => {
                if world.answer(id).is_some() {
                    self.appointed += 1;
                    self.phase = Phase::Idle;
                } else if world.now > *since + 900 * MS {
                    self.phase = Phase::Idle;
                }
            }
        }
    }
}

fn disturb(world: &mut World, random: &mut Random, down: &mut Vec<(u64, usize)>) {
    let hosts = world.hosts.len() as u64;
    let mut host = || usize::try_from(random.within(0, hosts)).unwrap();
    let (one, other) = (host(), host());
    match random.within(0, 40) {
        0..=2 if one != other => {
            world.network.cuts.insert((one, other));
            if random.one_in(2) {
                world.network.cuts.insert((other, one));
            }
        }
        // Cut off from all.
        3 => world.network.cuts.extend((0..world.hosts.len()).flat_map(|peer| [(one, peer), (peer, one)])),
        4..=6 => world.network.cuts.clear(),
        7 => world.network.loss_percent = random.within(0, 30),
        8 => world.network.straggler_percent = random.within(0, 10),
        9 => world.network.twice_percent = random.within(0, 30),
        10 => world.network.delay = (MS / 10, random.within(MS, 30 * MS)),
        11 => world.sleep(one, random.within(10 * MS, 600 * MS)),
        12 if world.hosts[one].is_up => {
            world.kill(one);
            down.push((world.now + random.within(0, 300 * MS), one));
        }
        13 => {
            world.hosts[one].may_renew = !world.hosts[one].may_renew;
            world.tell_member(one);
        }
        14 => world.feed(one, Input::GiveUp { cluster: cluster() }),
        _ => {}
    }
}

fn restart(world: &mut World, down: &mut Vec<(u64, usize)>) {
    let now = world.now;
    down.retain(|(at, host)| {
        if *at > now {
            return true;
        }
        if !world.hosts[*host].is_asleep {
            world.start(*host);
            return false;
        }
        true
    });
}

/// One world; how often somebody was appointed in it.
fn run(seed: u64) -> u32 {
    let mut random = Random::new(seed ^ 0x5eed);
    let (names, voters): (&[&str], &[&str]) = match seed % 4 {
        0 | 1 => (&["arbiter", "a", "b"], &["arbiter", "a", "b"]),
        2 => (&["arbiter", "a", "b", "node-1"], &["arbiter", "a", "b"]),
        _ => (&["arbiter", "a", "b", "c", "arbiter-2"], &["arbiter", "a", "b", "c", "arbiter-2"]),
    };
    let mut world = World::new(seed, names, voters);
    world.relays = !seed.is_multiple_of(5);
    let members: Vec<usize> =
        (0..names.len()).filter(|index| !names[*index].contains('r') && !names[*index].contains("node")).collect();
    world.start_all();
    let mut engine =
        Engine { epoch: Epoch::ZERO, phase: Phase::Idle, may_serve: BTreeSet::new(), orders: 0, appointed: 0 };
    let mut down = Vec::new();
    while world.now < 2_000 * MS {
        let step = world.now + random.within(3 * MS, 25 * MS);
        world.run_until(step);
        engine.step(&mut world, &mut random, &members);
        if world.now > 400 * MS {
            disturb(&mut world, &mut random, &mut down);
        }
        restart(&mut world, &mut down);
        world.assert_sound(format!("seed {seed}"));
    }
    // Everything is well again: somebody can be made primary, and serves.
    world.network = Network::good();
    for host in &mut world.hosts {
        host.may_renew = true;
    }
    world.run_until(world.now + 700 * MS);
    for (_, host) in std::mem::take(&mut down) {
        world.start(host);
    }
    for host in 0..world.hosts.len() {
        world.tell_member(host);
    }
    engine.phase = Phase::Idle;
    let before = engine.appointed;
    engine.appointed = 0;
    let until = world.now + 3_000 * MS;
    while world.now < until && engine.appointed == 0 {
        let step = world.now + 5 * MS;
        world.run_until(step);
        engine.step(&mut world, &mut random, &members);
        world.assert_sound(format!("seed {seed}"));
    }
    assert!(members.iter().any(|member| world.is_open(*member)), "seed {seed}: nobody serves though all is well again");
    before + engine.appointed
}

fn seeds() -> Vec<u64> {
    let number = |name| env::var(name).ok().map(|text: String| text.parse::<u64>().unwrap());
    number("CORONER_MESH_SEED")
        .map_or_else(|| (0..number("CORONER_MESH_SEEDS").unwrap_or(200)).collect(), |one| vec![one])
}

#[test]
fn chaos_never_makes_two_primaries_and_leaves_nobody_stuck() {
    let seeds = seeds();
    let half = seeds.len() / 2;
    let (first, second) = seeds.split_at(half);
    let appointed: u32 = thread::scope(|scope| {
        let other = scope.spawn(|| first.iter().copied().map(run).sum::<u32>());
        let mine: u32 = second.iter().copied().map(run).sum();
        mine + other.join().unwrap()
    });
    assert!(appointed as usize >= seeds.len(), "{appointed} appointments in {} worlds try nothing", seeds.len());
}

/// The world's own check can fail: with `W = L` and clocks at their bounds, proof T comes while the old lease runs.
#[test]
fn the_check_finds_a_wait_that_is_too_short() {
    let overlaps = |shorten: bool| {
        let mut world = World::new(7, &["arbiter", "a", "b"], &["arbiter", "a", "b"]).with_clocks(1_100);
        if shorten {
            world.lease.wait = world.lease.length;
        }
        let primary = world.index("a");
        world.hosts[primary] = {
            let mut slow = World::new(7, &["arbiter", "a", "b"], &["arbiter", "a", "b"]).with_clocks(900);
            slow.hosts.swap_remove(primary)
        };
        world.start_all();
        world.appoint_first("a");
        let now = world.now;
        world.run_until(now + 300 * MS);
        world.cut("a", "arbiter");
        world.cut("a", "b");
        world.feed(0, Input::Seal { cluster: cluster(), epoch: Epoch(2) });
        let now = world.now;
        world.run_until(now + 600 * MS);
        assert!(world.is_over(2));
        world.broken
    };
    assert_eq!(overlaps(false), Vec::<String>::new());
    assert!(!overlaps(true).is_empty());
}

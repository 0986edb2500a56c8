//! Faults and schedules by the dozen: every fault that a setting can have, and whole schedules by chance.

use std::time::Duration;

use super::{
    fault::{Behaviour, Fault, Order, Schedule, Timed},
    hands,
    host::{MS, SEC},
    random::Random,
    setting::Setting,
    store::StoreMode,
};

/// Every fault that can happen to such a setting, once each: what `coroner simulate` plays alone and in pairs.
#[must_use]
pub fn singles(setting: &Setting) -> Vec<Fault> {
    let policy = setting.cluster_policy();
    let (arbiters, members, nodes) = (setting.arbiters, policy.members.len(), policy.nodes.len());
    let hosts = arbiters + members + nodes;
    let mut all = Vec::new();
    for member in 0..members {
        all.extend([
            Fault::KillBroker { member },
            Fault::Freeze { member },
            Fault::FillDisk { member },
            Fault::PowerOff { host: arbiters + member },
            Fault::Suspend { host: arbiters + member },
            Fault::Isolate { host: arbiters + member },
        ]);
        if member > 0 {
            all.push(Fault::Lag { member });
        }
        if policy.members[member].has_agent {
            all.extend([Fault::KillAgent { member }, Fault::PauseAgent { member }]);
        }
        // Who comes back after it was stopped: what people and boot scripts do.
        all.extend([Fault::PowerOn { host: arbiters + member }, Fault::StartBroker { member }]);
    }
    for arbiter in 0..arbiters {
        all.extend([
            Fault::KillArbiter { arbiter },
            Fault::PauseHost { host: arbiter },
            Fault::Isolate { host: arbiter },
            Fault::Suspend { host: arbiter },
        ]);
        if arbiters > 1 {
            all.push(Fault::CutStore { arbiter });
        }
    }
    // Nodes are alike: the first stands for one of them, all of them for the network in front of them.
    let ends: Vec<usize> = (0..arbiters + members).chain((nodes > 0).then_some(arbiters + members)).collect();
    for (index, a) in ends.iter().enumerate() {
        for b in ends.iter().skip(index + 1) {
            all.push(Fault::Cut { a: *a, b: *b });
            all.push(Fault::CutOneWay { from: *a, to: *b });
            all.push(Fault::CutOneWay { from: *b, to: *a });
        }
    }
    if nodes > 0 {
        all.extend([Fault::KillNode { node: 0 }, Fault::Deafen { node: 0 }, Fault::Idle]);
        all.push(Fault::Isolate { host: hosts - 1 });
    }
    all.extend([Fault::Lose { percent: 30 }, Fault::Repeat { percent: 30 }, Fault::Slow { ms: 100 }]);
    all.extend(
        [StoreMode::Fails, StoreMode::Hangs, StoreMode::Slow, StoreMode::LosesAnswers]
            .map(|mode| Fault::Store { mode }),
    );
    for kind in ["fence", "catch up", "promote", "redirect", "rejoin"] {
        for behaviour in [Behaviour::Hangs, Behaviour::LosesAnswer, Behaviour::Late, Behaviour::Refuses] {
            all.push(Fault::Act { kind: kind.into(), behaviour });
        }
    }
    all.push(Fault::Act { kind: "fence".into(), behaviour: Behaviour::Lies });
    all.extend([Fault::CutPowerControl, Fault::Person { order: Order::Switchover }]);
    all
}

impl Schedule {
    /// A run in which nothing goes wrong but this, from the start and until it heals.
    #[must_use]
    pub fn of(seed: u64, faults: &[(Duration, Fault)], heal_after: Duration) -> Self {
        let faults = faults.iter().map(|(at, fault)| Timed { at: *at, fault: fault.clone(), for_: None });
        Self { seed, faults: faults.collect(), heal_after }
    }

    /// What that seed gives: up to six faults within some seconds, most of which pass by themselves.
    #[must_use]
    pub fn random(setting: &Setting, seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x5eed_0fa1);
        let wait = u64::try_from(setting.longest_wait().as_nanos()).unwrap_or(SEC).min(60 * SEC);
        let span = 2 * SEC + wait + random.within(0, 2 * SEC);
        let count = 1 + random.index(6);
        let mut faults = Vec::with_capacity(count);
        for _ in 0..count {
            let fault = draw(setting, &mut random);
            // Near each other as often as not: what falls into a failover is what is looked for.
            let at = match faults.last() {
                Some(Timed { at, .. }) if random.one_in(2) => {
                    let last = u64::try_from(at.as_nanos()).unwrap_or(0);
                    last + if random.one_in(2) { random.within(0, 300 * MS) } else { random.within(0, 3 * SEC) }
                }
                _ => random.within(0, span),
            };
            let for_ = (!random.one_in(3)).then(|| match random.index(3) {
                0 => random.within(10 * MS, 500 * MS),
                1 => random.within(500 * MS, 3 * SEC),
                _ => random.within(3 * SEC, 3 * SEC + wait),
            });
            let whole = |ns: u64| Duration::from_millis(ns / MS);
            faults.push(Timed { at: whole(at), fault, for_: for_.map(whole) });
        }
        faults.sort_by_key(|timed| timed.at);
        let last = faults.last().map(|timed| timed.at).unwrap_or_default();
        let heal_after = last + Duration::from_nanos(wait) + Duration::from_millis(random.within(100, 4_000));
        Self { seed, faults, heal_after }
    }
}

fn draw(setting: &Setting, random: &mut Random) -> Fault {
    let policy = setting.cluster_policy();
    let (arbiters, members, nodes) = (setting.arbiters, policy.members.len(), policy.nodes.len());
    let hosts = arbiters + members + nodes;
    // The primary is hit more often than the others.
    let member = if random.one_in(2) { 0 } else { random.index(members) };
    let arbiter = random.index(arbiters);
    match random.within(0, 100) {
        0..7 => Fault::KillBroker { member },
        7..14 => Fault::KillPrimary,
        14..22 => Fault::Freeze { member },
        22..25 => Fault::FillDisk { member },
        25..28 => Fault::Lag { member: random.index(members) },
        28..32 => Fault::KillAgent { member },
        32..35 => Fault::PauseAgent { member },
        35..40 => Fault::PowerOff { host: arbiters + member },
        40..43 => Fault::Suspend { host: random.index(arbiters + members) },
        43..46 => Fault::PauseHost { host: random.index(arbiters + members) },
        46..51 => Fault::CutOneWay { from: random.index(hosts), to: random.index(hosts) },
        51..57 => Fault::Cut { a: random.index(hosts), b: random.index(hosts) },
        57..63 => Fault::Isolate { host: if random.one_in(2) { arbiters + member } else { random.index(hosts) } },
        63..65 if arbiters > 1 => Fault::CutStore { arbiter },
        63..66 => Fault::Lose { percent: random.within(5, 50) },
        66..68 => Fault::Repeat { percent: random.within(5, 50) },
        68..70 => Fault::Slow { ms: random.within(5, 300) },
        70..77 => Fault::KillArbiter { arbiter },
        77..82 => {
            let modes = [StoreMode::Fails, StoreMode::Hangs, StoreMode::Slow, StoreMode::LosesAnswers];
            Fault::Store { mode: modes[random.index(modes.len())] }
        }
        82..84 if nodes > 0 => Fault::KillNode { node: random.index(nodes) },
        84..86 if nodes > 0 => Fault::Deafen { node: random.index(nodes) },
        86..87 => Fault::Idle,
        87..95 => {
            let all = [Behaviour::Hangs, Behaviour::LosesAnswer, Behaviour::Late, Behaviour::Refuses];
            let kind = hands::KINDS[random.index(hands::KINDS.len())].to_owned();
            Fault::Act { kind, behaviour: all[random.index(all.len())] }
        }
        95..96 => Fault::CutPowerControl,
        _ => {
            let all =
                [Order::Switchover, Order::Failover, Order::Abort, Order::Continue, Order::Pause, Order::Acknowledge];
            Fault::Person { order: all[random.index(all.len())] }
        }
    }
}

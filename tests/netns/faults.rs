//! Random faults: what can happen to the pair, to the network, to the arbiter, and what has to come of it.

use std::{fmt, thread::sleep, time::Duration};

use crate::{
    lab::{Lab, other},
    net::NODES,
};

/// Sebastiano Vigna's splitmix64: the same seed gives the same faults.
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn ms(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.next() % (to - from))
    }
}

/// What may come of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// The primary stays.
    Hold,
    /// Another becomes primary.
    Moved,
    /// Either is right.
    Either,
}

/// A fault. `Primary` and `Standby` are those of the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    KillPrimary,
    /// A supervisor starts it again.
    KillPrimaryRestart(Duration),
    KillPrimaryAndArbiter(Duration),
    KillPrimaryStopArbiter(Duration),
    /// Frozen for long, and thawed while the failover may be under way or done.
    FreezePrimary(Duration),
    FreezePrimaryShortly(Duration),
    FreezePrimaryKillArbiter(Duration),
    CutPrimaryFromNodes,
    CutNodesToPrimary,
    CutPrimaryToNodes,
    CutPrimaryFromNodesAndArbiter,
    IsolatePrimary,
    IsolatePrimaryShortly(Duration),
    CutPrimaryFromArbiter(Duration),
    CutArbiterToPrimary(Duration),
    CutPrimaryFromStandby(Duration),
    IsolateArbiter(Duration),
    IsolateStandby(Duration),
    KillStandby,
    FreezeStandby(Duration),
    FlapPrimaryNodes,
    FlapPrimaryArbiter,
    FillPrimary,
    PrimaryWantsReplicas,
    /// The management network hangs, so the firewall cannot be reached: the power goes off.
    KillPrimaryWithoutManagement,
    FreezePrimaryWithoutManagement(Duration),
    StopArbiter(Duration),
    KillArbiter(Duration),
    IsolateNode(Duration),
}

impl Fault {
    /// Any of them, with random times.
    pub(crate) fn random(random: &mut Random) -> Self {
        match random.next() % 29 {
            0 => Self::KillPrimary,
            1 => Self::KillPrimaryRestart(random.ms(200, 500)),
            2 => Self::KillPrimaryAndArbiter(random.ms(1, 1_500)),
            3 => Self::KillPrimaryStopArbiter(random.ms(1, 1_200)),
            4 => Self::FreezePrimary(random.ms(1_000, 5_000)),
            5 => Self::FreezePrimaryShortly(random.ms(50, 350)),
            6 => Self::FreezePrimaryKillArbiter(random.ms(800, 1_500)),
            7 => Self::CutPrimaryFromNodes,
            8 => Self::CutNodesToPrimary,
            9 => Self::CutPrimaryToNodes,
            10 => Self::CutPrimaryFromNodesAndArbiter,
            11 => Self::IsolatePrimary,
            12 => Self::IsolatePrimaryShortly(random.ms(700, 1_600)),
            13 => Self::CutPrimaryFromArbiter(random.ms(1_500, 3_000)),
            14 => Self::CutArbiterToPrimary(random.ms(1_500, 3_000)),
            15 => Self::CutPrimaryFromStandby(random.ms(1_000, 3_000)),
            16 => Self::IsolateArbiter(random.ms(1_500, 3_000)),
            17 => Self::IsolateStandby(random.ms(1_000, 3_000)),
            18 => Self::KillStandby,
            19 => Self::FreezeStandby(random.ms(1_000, 3_000)),
            20 => Self::FlapPrimaryNodes,
            21 => Self::FlapPrimaryArbiter,
            22 => Self::FillPrimary,
            23 => Self::PrimaryWantsReplicas,
            24 => Self::KillPrimaryWithoutManagement,
            25 => Self::FreezePrimaryWithoutManagement(random.ms(1_000, 5_000)),
            26 => Self::StopArbiter(random.ms(600, 2_500)),
            27 => Self::KillArbiter(random.ms(1, 1_000)),
            _ => Self::IsolateNode(random.ms(1_000, 3_000)),
        }
    }

    /// What has to come of it.
    pub(crate) const fn expected(self) -> Expected {
        match self {
            Self::KillPrimary
            | Self::KillPrimaryAndArbiter(_)
            | Self::KillPrimaryStopArbiter(_)
            | Self::FreezePrimaryKillArbiter(_)
            | Self::CutPrimaryFromNodes
            | Self::CutNodesToPrimary
            | Self::CutPrimaryToNodes
            | Self::CutPrimaryFromNodesAndArbiter
            | Self::IsolatePrimary
            | Self::FillPrimary
            | Self::PrimaryWantsReplicas
            | Self::KillPrimaryWithoutManagement => Expected::Moved,
            Self::KillPrimaryRestart(_)
            | Self::FreezePrimary(_)
            | Self::FreezePrimaryWithoutManagement(_)
            | Self::IsolatePrimaryShortly(_)
            | Self::FlapPrimaryNodes => Expected::Either,
            _ => Expected::Hold,
        }
    }

    /// Does it to the lab, until it is to be healed.
    fn strike(self, lab: &Lab, primary: &str) {
        let (net, standby, epoch) = (&lab.net, other(primary), lab.status().epoch.0);
        let from_nodes = || NODES.iter().for_each(|node| net.cut(primary, node));
        match self {
            Self::KillPrimary => lab.kill(primary),
            Self::KillPrimaryRestart(after) => {
                lab.kill(primary);
                sleep(after);
                lab.start_redis(primary);
                sleep(Duration::from_millis(1_500));
            }
            Self::KillPrimaryAndArbiter(after) => {
                lab.kill(primary);
                sleep(after);
                lab.kill("a");
                sleep(Duration::from_millis(300));
                lab.start_arbiter();
            }
            Self::KillPrimaryStopArbiter(after) => {
                lab.kill(primary);
                sleep(after);
                lab.freeze("a");
                sleep(Duration::from_secs(2));
                lab.thaw("a");
            }
            Self::FreezePrimary(time) | Self::FreezePrimaryShortly(time) => {
                lab.freeze(primary);
                sleep(time);
                lab.thaw(primary);
                sleep(Duration::from_millis(500));
            }
            Self::FreezePrimaryKillArbiter(after) => {
                lab.freeze(primary);
                sleep(after);
                lab.kill("a");
                sleep(Duration::from_millis(300));
                lab.start_arbiter();
            }
            Self::CutPrimaryFromNodes => from_nodes(),
            Self::CutNodesToPrimary => NODES.iter().for_each(|node| net.cut_one_way(node, primary)),
            Self::CutPrimaryToNodes => NODES.iter().for_each(|node| net.cut_one_way(primary, node)),
            Self::CutPrimaryFromNodesAndArbiter => {
                from_nodes();
                net.cut(primary, "a");
            }
            Self::IsolatePrimary => net.isolate(primary),
            Self::IsolatePrimaryShortly(time) => {
                net.isolate(primary);
                sleep(time);
            }
            Self::CutPrimaryFromArbiter(time) => {
                net.cut(primary, "a");
                sleep(time);
            }
            Self::CutArbiterToPrimary(time) => {
                net.cut_one_way("a", primary);
                sleep(time);
            }
            Self::CutPrimaryFromStandby(time) => {
                net.cut(primary, standby);
                sleep(time);
            }
            Self::IsolateArbiter(time) => {
                net.isolate("a");
                sleep(time);
            }
            Self::IsolateStandby(time) => {
                net.isolate(standby);
                sleep(time);
            }
            Self::KillStandby => {
                lab.kill(standby);
                sleep(Duration::from_millis(1_500));
            }
            Self::FreezeStandby(time) => {
                lab.freeze(standby);
                sleep(time);
            }
            Self::FlapPrimaryNodes => {
                for _ in 0..8 {
                    from_nodes();
                    sleep(Duration::from_millis(150));
                    net.heal();
                    sleep(Duration::from_millis(150));
                }
            }
            Self::FlapPrimaryArbiter => {
                for _ in 0..8 {
                    net.cut(primary, "a");
                    sleep(Duration::from_millis(200));
                    net.heal();
                    sleep(Duration::from_millis(150));
                }
            }
            Self::FillPrimary => drop(lab.ask(primary, &["CONFIG", "SET", "maxmemory", "1"])),
            Self::PrimaryWantsReplicas => drop(lab.ask(primary, &["CONFIG", "SET", "min-replicas-to-write", "5"])),
            Self::KillPrimaryWithoutManagement => {
                lab.cut_management(primary);
                lab.kill(primary);
            }
            Self::FreezePrimaryWithoutManagement(time) => {
                lab.cut_management(primary);
                lab.freeze(primary);
                sleep(time);
                lab.thaw(primary);
                sleep(Duration::from_millis(500));
            }
            Self::StopArbiter(time) => {
                lab.freeze("a");
                sleep(time);
                lab.thaw("a");
                sleep(Duration::from_millis(500));
            }
            Self::KillArbiter(time) => {
                lab.kill("a");
                sleep(time);
                lab.start_arbiter();
                sleep(Duration::from_millis(500));
            }
            Self::IsolateNode(time) => {
                net.isolate(NODES[0]);
                sleep(time);
            }
        }
        if self.expected() == Expected::Moved {
            lab.moved(primary, epoch);
        }
    }
}

/// How one fault went.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    fault: Fault,
    primary: String,
    outcome: String,
    pub(crate) span: (u64, u64),
    pub(crate) has_moved: bool,
}

/// One fault from beginning to end: strike, heal, wait until the pair is whole.
pub(crate) fn run(lab: &Lab, fault: Fault) -> Row {
    let before = lab.status();
    let primary = before.primary.as_ref().unwrap().as_str().to_owned();
    let begun = lab.now();
    fault.strike(lab, &primary);
    lab.heal();
    lab.whole();
    let after = lab.status();
    let has_moved = after.primary != before.primary;
    let name = after.primary.as_ref().unwrap();
    let outcome = if has_moved {
        format!("moved to {name}, epoch {}", after.epoch)
    } else if after.epoch == before.epoch {
        "held".to_owned()
    } else {
        format!("moved and moved back, epoch {}", after.epoch)
    };
    match fault.expected() {
        Expected::Hold => assert_eq!(after.epoch, before.epoch, "{fault:?}: it had to hold\n{}", lab.story()),
        Expected::Moved => assert!(after.epoch > before.epoch, "{fault:?}: it had to move\n{}", lab.story()),
        Expected::Either => {}
    }
    Row { fault, primary, outcome, span: (begun, lab.now()), has_moved }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fault = format!("{:?}", self.fault);
        write!(f, "{fault:45} {} {:30}", self.primary, self.outcome)
    }
}

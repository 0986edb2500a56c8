//! What one run of the checker is about: a configuration, its bounds, and what is deliberately wrong in it.

use std::{collections::BTreeMap, time::Duration};

use coroner::{
    lease::arithmetic,
    model::{
        ClusterPolicy, Condition, Epoch, Observer, Policy, Proof, Verdict,
        policy::{ArbiterPolicy, LeasePolicy, MethodPolicy, Observers, Rejoin, SignalKind, SignalPolicy, Subjects},
        record::ClusterState,
        rule::Reaction,
    },
};

use crate::policy::{bare, is, method, ms, nodes, rule, secs, signal};
use crate::{moves::Move, world::World};

pub const ORDERS: &str = "orders";
pub const ARBITERS: [&str; 2] = ["x", "y"];
pub const MEMBERS: [&str; 2] = ["a", "b"];
pub const NODE: &str = "n";
/// The parties by number: both arbiters, both members' agents, the node group.
pub const PARTIES: [&str; 5] = ["x", "y", "a", "b", "n"];
/// The party of a member.
pub const fn party(member: usize) -> usize {
    2 + member
}
/// The node group's party.
pub const NODE_PARTY: usize = 4;

/// Links that can be cut, by the numbers of their parties.
pub const LINKS: [(usize, usize); 10] =
    [(0, 2), (1, 2), (0, 3), (1, 3), (2, 3), (2, 4), (3, 4), (0, 4), (1, 4), (0, 1)];

/// Ages beyond this are all alike: the longest that anything in the policies asks about is four seconds.
pub const OLD: Duration = Duration::from_secs(5);

/// Something deliberately wrong, in the world around the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    None,
    /// The registry writes without conditions: both arbiters are elected, and each overwrites what the other wrote.
    NoSwap,
    /// Agents carry out whatever they are ordered to, in whichever epoch.
    ObeysOldEpochs,
    /// Fences say that they stopped the member, and do nothing.
    FalseFence,
    /// Voters wait for less than a lease may last.
    ShortWait,
    /// The holder counts its lease from the answer, not from before it asked.
    CountsFromAnswer,
}

/// How many faults of each kind there may be in one history, and how many in all. What undoes a fault is free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Faults {
    /// In all.
    pub all: u8,
    /// A member's host dies.
    pub die: u8,
    /// A member's host freezes, broker and agent.
    pub freeze: u8,
    /// Links are cut; one fault may cut several.
    pub cut: u8,
    /// An arbiter dies.
    pub crash: u8,
    /// An arbiter is stopped for a while.
    pub pause: u8,
    /// Another arbiter is elected though the leader is well.
    pub usurp: u8,
    /// An act is not done, or done unheard of, or done late, or twice.
    pub act: u8,
    /// A write is not taken, or its answer is lost.
    pub store: u8,
    /// The answers to a renewal come late.
    pub slow: u8,
    /// A person asks for something.
    pub command: u8,
}

impl Faults {
    pub const NONE: Self =
        Self { all: 0, die: 0, freeze: 0, cut: 0, crash: 0, pause: 0, usurp: 0, act: 0, store: 0, slow: 0, command: 0 };

    /// Those that there are, in words.
    pub fn names(&self) -> String {
        let all = [
            ("die", self.die),
            ("freeze", self.freeze),
            ("cut", self.cut),
            ("crash", self.crash),
            ("pause", self.pause),
            ("usurp", self.usurp),
            ("act", self.act),
            ("store", self.store),
            ("slow", self.slow),
            ("command", self.command),
        ];
        let named = all.iter().filter(|(_, count)| *count > 0);
        named.map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
    }

    /// Any kind, that many in all.
    pub const fn any(all: u8) -> Self {
        Self {
            all,
            die: all,
            freeze: all,
            cut: all,
            crash: all,
            pause: all,
            usurp: all,
            act: all,
            store: all,
            slow: all,
            command: all,
        }
    }
}

/// One run.
#[derive(Clone, Debug)]
pub struct Setup {
    pub name: &'static str,
    /// The primary has a lease; else fences alone are the proof.
    pub has_lease: bool,
    /// Holders' clocks run so much too slow, and voters' too fast, in thousandths.
    pub clock_rate: u64,
    pub bounds: Faults,
    /// What undoes a fault comes within so many seconds of the newest one, or not at all.
    pub mends_within: u32,
    /// What one fault may cut.
    pub cuts: Vec<u16>,
    pub bug: Bug,
    /// Which of the faults within the bounds are drawn at all.
    pub draws: fn(&World, Move) -> bool,
    /// By arbiter.
    pub policies: [Policy; 2],
    pub lease: Option<LeasePolicy>,
    /// What each fence method is, at its place.
    pub ways: Vec<Vec<Way>>,
}

/// What a fence does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The member's agent shuts the gate: proof 3.
    Gate,
    /// The member's agent kills the broker and keeps it from being started: proof 4.
    Kill,
    /// A power switch on a network of its own, which knows of no epochs: proof 5.
    Power,
}

/// The links of these parties, as a set.
pub fn links_of(parties: &[usize]) -> u16 {
    let is_of = |(p, q): &(usize, usize)| parties.contains(p) || parties.contains(q);
    LINKS.iter().enumerate().filter(|(_, link)| is_of(link)).fold(0, |all, (bit, _)| all | 1 << bit)
}

/// One link, as a set.
pub fn link(p: usize, q: usize) -> u16 {
    let at = LINKS.iter().position(|link| *link == (p, q) || *link == (q, p)).expect("a link that can be cut");
    1 << at
}

impl Setup {
    pub fn new(name: &'static str, has_lease: bool, bounds: Faults) -> Self {
        Self::with(name, has_lease, bounds, 0, Bug::None)
    }

    pub fn with(name: &'static str, has_lease: bool, bounds: Faults, clock_rate: u64, bug: Bug) -> Self {
        let mut lease = has_lease.then(|| lease_policy(clock_rate));
        if let (Some(lease), Bug::ShortWait) = (&mut lease, bug) {
            lease.wait = secs(1);
        }
        let ways = if has_lease { vec![vec![Way::Gate]] } else { vec![vec![Way::Kill], vec![Way::Power]] };
        let policies = ARBITERS.map(|arbiter| Policy {
            hash: name.into(),
            arbiter: ArbiterPolicy {
                name: arbiter.into(),
                tilt_for: secs(1),
                storm_within: secs(1),
                ..ArbiterPolicy::default()
            },
            clusters: BTreeMap::from([(ORDERS.into(), cluster(&ways, lease.clone()))]),
        });
        // The single links on which something hangs, each whole host, and the primary from all but the other arbiter.
        let cuts = vec![
            link(0, 2),
            link(2, 3),
            link(2, NODE_PARTY),
            link(0, 3),
            links_of(&[2]),
            links_of(&[3]),
            links_of(&[0]) & !link(0, 1),
            links_of(&[2]) & !link(1, 2),
        ];
        Self {
            name,
            has_lease,
            clock_rate,
            bounds,
            mends_within: 8,
            cuts,
            bug,
            draws: |_, _| true,
            policies,
            lease,
            ways,
        }
    }

    /// What the store holds at the beginning.
    pub fn state(&self) -> ClusterState {
        let arbiter = |signal: &str, member: &str| (signal.into(), Observer::Arbiter, Some(member.into()));
        let own = |member: &str| ("role".into(), Observer::Member(member.into()), Some(member.into()));
        ClusterState {
            cluster: ORDERS.into(),
            epoch: Epoch(1),
            primary: Some("a".into()),
            primary_epoch: Epoch(1),
            heard: vec![
                arbiter("role", "a"),
                arbiter("role", "b"),
                own("a"),
                own("b"),
                arbiter("ping", "a"),
                arbiter("ping", "b"),
                ("arrivals".into(), Observer::Node(NODE.into()), None),
            ],
            ..ClusterState::default()
        }
    }

    pub fn way(&self, level: usize, method: usize) -> Way {
        self.ways[level][method]
    }
}

/// In whole seconds: three of lease, renewed every second, shut within one.
fn lease_policy(clock_rate: u64) -> LeasePolicy {
    let rate = u32::try_from(clock_rate).unwrap();
    let policy = LeasePolicy {
        length: secs(3),
        renew_every: secs(1),
        enforced_within: secs(1),
        clock_rate_permille: rate,
        wait: arithmetic::wait(secs(3), secs(1), rate),
        voters: PARTIES[..NODE_PARTY].iter().map(|name| (*name).into()).collect(),
    };
    arithmetic::check(&policy).expect("a lease that is safe");
    policy
}

fn cluster(ways: &[Vec<Way>], lease: Option<LeasePolicy>) -> ClusterPolicy {
    let mut cluster = bare(&MEMBERS);
    cluster.has_broker = true;
    cluster.initial_primary = None;
    cluster.nodes = vec![NODE.into()];
    cluster.role_signal = Some("role".into());
    let fresh = |signal: SignalPolicy| SignalPolicy { every: secs(1), fresh_for: ms(1_500), ..signal };
    cluster.signals = BTreeMap::from([
        ("role".into(), fresh(signal(SignalKind::Role, Observers::Arbiter, Subjects::Members))),
        ("ping".into(), fresh(signal(SignalKind::Check, Observers::Arbiter, Subjects::Primary))),
        ("arrivals".into(), fresh(signal(SignalKind::Arrivals, nodes(&[NODE]), Subjects::Service))),
    ]);
    // A rash rule on purpose: one cut between the leader and the primary makes it act.
    cluster.rules = vec![rule("no answer", is("ping", Condition::Failing), Verdict::Dead, Reaction::Failover)];
    for member in &mut cluster.members {
        member.has_agent = true;
    }
    let spec = |way: &Way| match way {
        Way::Gate => MethodPolicy { is_by_agent: true, ..method("agent gate", secs(1), Proof::Gate) },
        Way::Kill => MethodPolicy { is_by_agent: true, ..method("agent kill", secs(1), Proof::Stopped) },
        Way::Power => method("power", secs(1), Proof::PowerOff),
    };
    let failover = &mut cluster.failover;
    failover.fence = ways.iter().map(|level| level.iter().map(spec).collect()).collect();
    failover.catch_up_within = secs(1);
    failover.promote_within = secs(2);
    failover.redirect = vec![method("mesh", secs(1), Proof::Nothing)];
    failover.redirect_within = secs(2);
    failover.rejoin = Rejoin::Follow;
    failover.candidate_fresh_for = ms(1_500);
    failover.cooldown = secs(2);
    failover.budget = 2;
    failover.lease = lease;
    cluster
}

//! What goes wrong, in words that a schedule can be written in, struck at, undone, drawn by chance, and replayed.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    hands,
    host::{MS, SEC},
    random::Random,
    setting::Setting,
    store::StoreMode,
    world::{Happening, World},
};
use crate::model::{Command, Event, Operator};

/// The number of the store among the ends of a link: arbiters reach it over the network if they are several.
pub(super) const STORE: usize = usize::MAX;

/// How an act goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Behaviour {
    /// It is not done, and nothing is heard of it.
    Hangs,
    /// It is done, and nothing is heard of it.
    LosesAnswer,
    /// It is done near its deadline, or after it.
    Late,
    /// It is not done, and that is said.
    Refuses,
    /// It is not done, and the opposite is said. Only where a claim is all there is.
    Lies,
}

impl Behaviour {
    pub(super) const fn covers(self) -> &'static str {
        match self {
            Self::Hangs => "act: hangs",
            Self::LosesAnswer => "act: loses its answer",
            Self::Late => "act: comes late",
            Self::Refuses => "act: is refused",
            Self::Lies => "act: lies",
        }
    }
}

/// What a person does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// `coroner switchover`.
    Switchover,
    /// `coroner failover`.
    Failover,
    /// `coroner abort`.
    Abort,
    /// `coroner continue`.
    Continue,
    /// `coroner pause --for 10s`.
    Pause,
    /// `coroner incidents ack`.
    Acknowledge,
}

/// One thing that goes wrong. Members, nodes and arbiters are counted from 0 in the order of the file; hosts are counted
/// through: arbiters, members, nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// SIGKILL of a broker.
    KillBroker {
        /// Which.
        member: usize,
    },
    /// SIGKILL of the broker that serves at that moment, whoever it is.
    KillPrimary,
    /// A broker is stopped, or hangs; undone: it goes on.
    Freeze {
        /// Which.
        member: usize,
    },
    /// A broker's disk is full: it answers and takes nothing.
    FillDisk {
        /// Which.
        member: usize,
    },
    /// A standby gets nothing from its primary.
    Lag {
        /// Which.
        member: usize,
    },
    /// An agent dies.
    KillAgent {
        /// Whose.
        member: usize,
    },
    /// An agent is stopped; the kernel and the broker go on.
    PauseAgent {
        /// Whose.
        member: usize,
    },
    /// A host loses its power.
    PowerOff {
        /// Which.
        host: usize,
    },
    /// Somebody turns a host on that was off.
    PowerOn {
        /// Which.
        host: usize,
    },
    /// Somebody starts a broker that was ended, as its files say.
    StartBroker {
        /// Which.
        member: usize,
    },
    /// A host is suspended; its boot clock goes on.
    Suspend {
        /// Which.
        host: usize,
    },
    /// Nothing on a host is scheduled.
    PauseHost {
        /// Which.
        host: usize,
    },
    /// Nothing passes from one host to another; the way back carries.
    CutOneWay {
        /// From.
        from: usize,
        /// To.
        to: usize,
    },
    /// Nothing passes between two hosts.
    Cut {
        /// One.
        a: usize,
        /// The other.
        b: usize,
    },
    /// Nothing passes to or from a host.
    Isolate {
        /// Which.
        host: usize,
    },
    /// An arbiter does not reach the store that it shares with others.
    CutStore {
        /// Which.
        arbiter: usize,
    },
    /// Messages are lost everywhere.
    Lose {
        /// Of a hundred.
        percent: u64,
    },
    /// Messages come twice, and overtake each other.
    Repeat {
        /// Of a hundred.
        percent: u64,
    },
    /// Messages take long everywhere.
    Slow {
        /// Up to so many milliseconds.
        ms: u64,
    },
    /// An arbiter dies.
    KillArbiter {
        /// Which.
        arbiter: usize,
    },
    /// The store does badly.
    Store {
        /// How.
        mode: StoreMode,
    },
    /// A node's program dies.
    KillNode {
        /// Which.
        node: usize,
    },
    /// A node takes no notice of a new primary.
    Deafen {
        /// Which.
        node: usize,
    },
    /// Nobody sends anything.
    Idle,
    /// The next act of a kind goes wrong.
    Act {
        /// The kind, by its name.
        kind: String,
        /// How.
        behaviour: Behaviour,
    },
    /// Power controllers cannot be reached.
    CutPowerControl,
    /// A person acts.
    Person {
        /// How.
        order: Order,
    },
}

/// A fault with its time. Times count from the moment at which everything was well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timed {
    /// When it strikes.
    #[serde(with = "ms", rename = "at_ms")]
    pub at: Duration,
    /// What.
    pub fault: Fault,
    /// After how long it is undone; `None`: when everything heals.
    #[serde(default, with = "ms::option", rename = "for_ms")]
    pub for_: Option<Duration>,
}

/// A run: which chance, what goes wrong, and when everything is made well again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// Of all chance in the run.
    pub seed: u64,
    /// What goes wrong.
    pub faults: Vec<Timed>,
    /// When everything is healed: links, disks, processes, hosts.
    #[serde(with = "ms", rename = "heal_after_ms")]
    pub heal_after: Duration,
}

mod ms {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    fn whole(d: &Duration) -> u64 {
        u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn serialize<S: Serializer>(d: &Duration, s: S) -> Result<S::Ok, S::Error> {
        whole(d).serialize(s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        Ok(Duration::from_millis(u64::deserialize(d)?))
    }

    pub(super) mod option {
        use super::{Deserialize, Deserializer, Duration, Serialize, Serializer, whole};

        pub(in super::super) fn serialize<S: Serializer>(d: &Option<Duration>, s: S) -> Result<S::Ok, S::Error> {
            d.as_ref().map(whole).serialize(s)
        }

        pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
            Ok(Option::<u64>::deserialize(d)?.map(Duration::from_millis))
        }
    }
}

/// The kinds of faults, as coverage names them.
pub(super) const KINDS: [&str; 27] = [
    "kill broker",
    "kill primary",
    "freeze",
    "fill disk",
    "lag",
    "kill agent",
    "pause agent",
    "power off",
    "power on",
    "start broker",
    "suspend",
    "pause host",
    "cut one way",
    "cut",
    "isolate",
    "cut store",
    "lose",
    "repeat",
    "slow",
    "kill arbiter",
    "store",
    "kill node",
    "deafen",
    "idle",
    "act",
    "cut power control",
    "person",
];

/// The scenarios of the project's table that a kind of fault belongs to.
pub(super) fn scenarios(kind: &str) -> &'static [&'static str] {
    match kind {
        "kill broker" => &["P1", "P4", "P21"],
        "kill primary" => &["P1", "P12", "H18"],
        "freeze" => &["P5", "P6", "P7"],
        "fill disk" => &["P9", "P23"],
        "lag" => &["P19", "P20", "G4"],
        "kill agent" => &["P17", "P18"],
        "pause agent" => &["P18"],
        "power off" => &["P13", "P15"],
        "power on" => &["P15"],
        "start broker" => &["P4", "H17"],
        "suspend" => &["C3", "A11"],
        "pause host" => &["A11", "A12", "P10"],
        "cut one way" => &["G25-36"],
        "cut" => &["G1", "G2", "G3", "G4", "G5", "G6", "G38"],
        "isolate" => &["G22", "G24", "G37"],
        "cut store" => &["A14"],
        "lose" => &["G40"],
        "repeat" => &["G40"],
        "slow" => &["G39"],
        "kill arbiter" => &["A1-A9", "A10", "A13"],
        "store" => &["A17", "A19", "A20"],
        "kill node" => &["P27"],
        "deafen" => &["P29", "H10"],
        "idle" => &["P26"],
        "act" => &["H1", "H2", "H3", "H5", "H8", "H9"],
        "cut power control" => &["H6", "G43"],
        "person" => &["F5"],
        _ => &[],
    }
}

impl Fault {
    /// Its kind, as coverage names it.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::KillBroker { .. } => "kill broker",
            Self::KillPrimary => "kill primary",
            Self::Freeze { .. } => "freeze",
            Self::FillDisk { .. } => "fill disk",
            Self::Lag { .. } => "lag",
            Self::KillAgent { .. } => "kill agent",
            Self::PauseAgent { .. } => "pause agent",
            Self::PowerOff { .. } => "power off",
            Self::PowerOn { .. } => "power on",
            Self::StartBroker { .. } => "start broker",
            Self::Suspend { .. } => "suspend",
            Self::PauseHost { .. } => "pause host",
            Self::CutOneWay { .. } => "cut one way",
            Self::Cut { .. } => "cut",
            Self::Isolate { .. } => "isolate",
            Self::CutStore { .. } => "cut store",
            Self::Lose { .. } => "lose",
            Self::Repeat { .. } => "repeat",
            Self::Slow { .. } => "slow",
            Self::KillArbiter { .. } => "kill arbiter",
            Self::Store { .. } => "store",
            Self::KillNode { .. } => "kill node",
            Self::Deafen { .. } => "deafen",
            Self::Idle => "idle",
            Self::Act { .. } => "act",
            Self::CutPowerControl => "cut power control",
            Self::Person { .. } => "person",
        }
    }

    /// In words, with the names of the setting.
    #[must_use]
    pub fn words(&self, setting: &Setting) -> String {
        let policy = setting.cluster_policy();
        let member = |n: &usize| policy.members.get(*n).map_or_else(|| format!("member {n}"), |m| m.name.to_string());
        let node = |n: &usize| policy.nodes.get(*n).map_or_else(|| format!("node {n}"), ToString::to_string);
        let host = |n: &usize| {
            let (arbiters, members) = (setting.arbiters, policy.members.len());
            match *n {
                n if n < arbiters && arbiters == 1 => "the arbiter".to_owned(),
                n if n < arbiters => format!("arbiter {}", n + 1),
                n if n < arbiters + members => member(&(n - arbiters)),
                n => node(&(n - arbiters - members)),
            }
        };
        match self {
            Self::KillBroker { member: m } => format!("the broker of {} is killed", member(m)),
            Self::KillPrimary => "the broker that serves is killed".into(),
            Self::Freeze { member: m } => format!("the broker of {} hangs", member(m)),
            Self::FillDisk { member: m } => format!("the disk of {} is full", member(m)),
            Self::Lag { member: m } => format!("{} gets nothing from its primary", member(m)),
            Self::KillAgent { member: m } => format!("the agent of {} dies", member(m)),
            Self::PauseAgent { member: m } => format!("the agent of {} is stopped", member(m)),
            Self::PowerOff { host: h } => format!("{} loses its power", host(h)),
            Self::PowerOn { host: h } => format!("somebody turns {} on", host(h)),
            Self::StartBroker { member: m } => format!("somebody starts the broker of {}", member(m)),
            Self::Suspend { host: h } => format!("{} is suspended", host(h)),
            Self::PauseHost { host: h } => format!("nothing runs on {}", host(h)),
            Self::CutOneWay { from, to } => format!("nothing passes from {} to {}", host(from), host(to)),
            Self::Cut { a, b } => format!("{} and {} are cut off from each other", host(a), host(b)),
            Self::Isolate { host: h } => format!("{} is cut off from all others", host(h)),
            Self::CutStore { arbiter } => format!("{} is cut off from the store", host(arbiter)),
            Self::Lose { percent } => format!("{percent} % of all messages are lost"),
            Self::Repeat { percent } => format!("{percent} % of all messages come twice"),
            Self::Slow { ms } => format!("messages take up to {ms} ms"),
            Self::KillArbiter { arbiter } => format!("the process of {} dies", host(arbiter)),
            Self::Store { mode } => match mode {
                StoreMode::Works => "the store works".into(),
                StoreMode::Fails => "the store takes nothing".into(),
                StoreMode::Hangs => "the store gives no answer".into(),
                StoreMode::Slow => "the store takes two seconds for each answer".into(),
                StoreMode::LosesAnswers => "the store's answers are lost".into(),
            },
            Self::KillNode { node: n } => format!("{} dies", node(n)),
            Self::Deafen { node: n } => format!("{} takes no notice of a new primary", node(n)),
            Self::Idle => "nobody sends anything".into(),
            Self::Act { kind, behaviour } => format!(
                "the next “{kind}” {}",
                match behaviour {
                    Behaviour::Hangs => "hangs",
                    Behaviour::LosesAnswer => "is done, and its answer is lost",
                    Behaviour::Late => "is done late",
                    Behaviour::Refuses => "is refused",
                    Behaviour::Lies => "claims that it was done",
                }
            ),
            Self::CutPowerControl => "power controllers cannot be reached".into(),
            Self::Person { order } => format!(
                "a person says `coroner {}`",
                match order {
                    Order::Switchover => "switchover",
                    Order::Failover => "failover",
                    Order::Abort => "abort",
                    Order::Continue => "continue",
                    Order::Pause => "pause",
                    Order::Acknowledge => "incidents ack",
                }
            ),
        }
    }
}

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

impl World<'_> {
    /// Puts the schedule's faults before the world, from `start` on.
    pub(super) fn schedule(&mut self, start: u64, schedule: &Schedule) {
        self.faults.clone_from(&schedule.faults);
        for (index, timed) in schedule.faults.iter().enumerate() {
            let at = start + self.ns(timed.at);
            self.at(at, Happening::Fault(index));
            if let Some(for_) = timed.for_ {
                self.at(at + self.ns(for_), Happening::Undo(index));
            }
        }
        self.at(start + self.ns(schedule.heal_after), Happening::Heal);
    }

    /// Whether the hosts that a fault names exist in this world.
    fn is_possible(&self, fault: &Fault) -> bool {
        let (hosts, members, nodes) = (self.hosts.len(), self.members.len(), self.nodes.len());
        match fault {
            Fault::KillBroker { member }
            | Fault::Freeze { member }
            | Fault::FillDisk { member }
            | Fault::Lag { member }
            | Fault::StartBroker { member }
            | Fault::KillAgent { member }
            | Fault::PauseAgent { member } => *member < members,
            Fault::PowerOff { host }
            | Fault::PowerOn { host }
            | Fault::Suspend { host }
            | Fault::PauseHost { host }
            | Fault::Isolate { host } => *host < hosts,
            Fault::CutOneWay { from: a, to: b } | Fault::Cut { a, b } => *a < hosts && *b < hosts && a != b,
            Fault::CutStore { arbiter } | Fault::KillArbiter { arbiter } => *arbiter < self.arbiters.len(),
            Fault::KillNode { node } | Fault::Deafen { node } => *node < nodes,
            _ => true,
        }
    }

    pub(super) fn strike(&mut self, index: usize) {
        let Some(timed) = self.faults.get(index).cloned() else { return };
        if !self.is_possible(&timed.fault) {
            return;
        }
        self.coverage.pair(timed.fault.kind(), self.step());
        let words = timed.fault.words(self.setting);
        self.tell(|| format!("FAULT: {words}"));
        let until = timed.for_.map_or(u64::MAX, |for_| self.now + self.ns(for_));
        match timed.fault {
            Fault::KillBroker { member } => self.kill_broker(member),
            Fault::KillPrimary => {
                if let Some(member) = (0..self.members.len()).find(|member| self.serves(*member)) {
                    self.kill_broker(member);
                }
            }
            Fault::Freeze { member } => {
                let now = self.now;
                self.members[member].frozen_since.get_or_insert(now);
                if self.agent_runs(member) {
                    self.schedule_evidence(member);
                }
            }
            Fault::FillDisk { member } => self.members[member].is_full = true,
            Fault::Lag { member } => self.members[member].is_lagging = true,
            Fault::KillAgent { member } => {
                if let Some(agent) = &mut self.members[member].agent {
                    agent.is_up = false;
                }
            }
            Fault::PauseAgent { member } => {
                if let Some(agent) = &mut self.members[member].agent {
                    agent.paused_until = agent.paused_until.max(until);
                }
            }
            Fault::PowerOff { host } => self.power_off(host),
            Fault::PowerOn { host } => self.power_on(host),
            Fault::StartBroker { member } => {
                self.members[member].is_inhibited = false;
                self.revive(member);
            }
            Fault::Suspend { host } => {
                if self.hosts[host].is_on && host < self.arbiters.len() + self.members.len() {
                    let now = self.now;
                    self.hosts[host].asleep_since.get_or_insert(now);
                    self.host_stops(host);
                }
            }
            Fault::PauseHost { host } => {
                let until = until.min(self.now + 600 * SEC);
                self.hosts[host].paused_until = self.hosts[host].paused_until.max(until);
                self.host_stops(host);
                self.at(until, Happening::Resume { host });
            }
            Fault::CutOneWay { from, to } => {
                self.network.cuts.insert((from, to));
            }
            Fault::Cut { a, b } => self.network.cuts.extend([(a, b), (b, a)]),
            Fault::Isolate { host } => {
                for other in (0..self.hosts.len()).filter(|other| *other != host) {
                    self.network.cuts.extend([(host, other), (other, host)]);
                }
                self.network.cuts.extend([(host, STORE), (STORE, host)]);
            }
            Fault::CutStore { arbiter } => self.network.cuts.extend([(arbiter, STORE), (STORE, arbiter)]),
            Fault::Lose { percent } => self.network.loss_percent = percent.min(90),
            Fault::Repeat { percent } => {
                self.network.twice_percent = percent;
                self.network.delay.1 = self.network.delay.1.max(30 * MS);
            }
            Fault::Slow { ms } => self.network.delay.1 = (ms * MS).max(2 * MS),
            Fault::KillArbiter { arbiter } => self.stop_arbiter(arbiter),
            Fault::Store { mode } => {
                self.store.mode = mode;
                self.store_is(!matches!(mode, StoreMode::Fails | StoreMode::Hangs));
            }
            Fault::KillNode { node } => self.nodes[node].is_alive = false,
            Fault::Deafen { node } => self.nodes[node].is_deaf = true,
            Fault::Idle => self.nodes.iter_mut().for_each(|node| node.is_idle = true),
            Fault::Act { kind, behaviour } => {
                if let Some(kind) = hands::KINDS.iter().find(|known| **known == kind) {
                    self.act_faults.push((kind, behaviour));
                }
            }
            Fault::CutPowerControl => self.is_power_cut_off = true,
            Fault::Person { order } => self.person(order),
        }
    }

    fn host_stops(&mut self, host: usize) {
        if host < self.arbiters.len() {
            self.falls_asleep(host);
        }
    }

    /// Of one fault, what passes by itself.
    pub(super) fn undo(&mut self, index: usize) {
        let Some(timed) = self.faults.get(index).cloned() else { return };
        if !self.is_possible(&timed.fault) {
            return;
        }
        match timed.fault {
            Fault::Freeze { member } => self.thaw(member),
            Fault::FillDisk { member } => self.members[member].is_full = false,
            Fault::Lag { member } => self.members[member].is_lagging = false,
            Fault::KillAgent { member } => {
                if self.hosts[self.members[member].host].is_on
                    && self.members[member].agent.as_ref().is_some_and(|agent| !agent.is_up)
                {
                    self.start_agent(member);
                }
            }
            Fault::PauseAgent { member } => self.agent_goes_on(member),
            Fault::PowerOff { host } => self.people_power_on(host),
            Fault::Suspend { host } => self.wake(host),
            Fault::CutOneWay { from, to } => {
                self.network.cuts.remove(&(from, to));
            }
            Fault::Cut { a, b } => self.mend(|cut| *cut == (a, b) || *cut == (b, a)),
            Fault::Isolate { host } => self.mend(|(a, b)| *a == host || *b == host),
            Fault::CutStore { arbiter } => {
                self.mend(|(a, b)| (*a == arbiter && *b == STORE) || (*a == STORE && *b == arbiter));
            }
            Fault::Lose { .. } => self.network.loss_percent = 0,
            Fault::Repeat { .. } => self.network.twice_percent = 0,
            Fault::Slow { .. } => self.network.delay = super::host::Network::good().delay,
            Fault::KillArbiter { arbiter } => self.start_arbiter(arbiter),
            Fault::Store { .. } => {
                self.store.mode = StoreMode::Works;
                self.store_is(true);
            }
            Fault::KillNode { node } => self.nodes[node].is_alive = true,
            Fault::Deafen { node } => self.nodes[node].is_deaf = false,
            Fault::Idle => self.nodes.iter_mut().for_each(|node| node.is_idle = false),
            Fault::CutPowerControl => self.is_power_cut_off = false,
            Fault::KillBroker { .. }
            | Fault::KillPrimary
            | Fault::PowerOn { .. }
            | Fault::StartBroker { .. }
            | Fault::PauseHost { .. }
            | Fault::Act { .. }
            | Fault::Person { .. } => return,
        }
        let words = timed.fault.words(self.setting);
        self.tell(|| format!("over: {words}"));
    }

    fn mend(&mut self, is_it: impl Fn(&(usize, usize)) -> bool) {
        self.network.cuts.retain(|cut| !is_it(cut));
    }

    fn thaw(&mut self, member: usize) {
        if self.members[member].frozen_since.take().is_some() && self.agent_runs(member) {
            self.schedule_evidence(member);
            self.renew_soon(member);
        }
    }

    fn agent_goes_on(&mut self, member: usize) {
        if let Some(agent) = &mut self.members[member].agent {
            agent.paused_until = 0;
        }
        self.beat_soon(member);
        self.renew_soon(member);
    }

    fn wake(&mut self, host: usize) {
        if self.hosts[host].asleep_since.is_some() {
            self.after(0, Happening::Resume { host });
        }
    }

    /// People turn a host on again: not one that Coroner had turned off and that nothing would keep from serving at once.
    /// That they should not is what the incident told them; `Fault::PowerOn` plays that they do.
    fn people_power_on(&mut self, host: usize) {
        let is_safe = match self.member_on(host) {
            Some(member) => self.members[member].has_gate || !self.is_quarantined(member),
            None => true,
        };
        if is_safe {
            self.power_on(host);
        }
    }

    fn is_quarantined(&self, member: usize) -> bool {
        let was_fenced = self.store.state.as_ref().is_some_and(|s| s.quarantined.contains_key(&self.names[member]));
        let is_being =
            self.store.incidents.values().any(|kept| {
                kept.incident.as_ref().is_some_and(|i| !i.is_closed() && i.old_primary == self.names[member])
            });
        was_fenced || is_being
    }

    fn store_is(&mut self, ok: bool) {
        for arbiter in 0..self.arbiters.len() {
            if self.arbiter_runs(arbiter) {
                self.event(arbiter, Event::StoreHealth { ok, detail: String::new() });
            }
        }
    }

    fn person(&mut self, order: Order) {
        let cluster = self.setting.cluster.clone();
        let reason = || "because they say so".to_owned();
        let command = match order {
            Order::Switchover => Command::Switchover { cluster, to: None, reason: reason(), skip_guards: Vec::new() },
            Order::Failover => {
                Command::Failover { cluster, to: None, reason: reason(), accept_loss: false, skip_guards: Vec::new() }
            }
            Order::Abort => Command::Abort { cluster },
            Order::Continue => Command::Continue { cluster, accept_loss: true },
            Order::Pause => Command::Pause {
                cluster: Some(cluster),
                owner: String::new(),
                reason: reason(),
                for_: Some(Duration::from_secs(10)),
            },
            Order::Acknowledge => {
                let Some(id) = self.store.newest().and_then(|kept| kept.incident.as_ref()).map(|i| i.id.clone()) else {
                    return;
                };
                Command::Acknowledge { incident: id, cluster: Some(cluster), note: String::new() }
            }
        };
        if let Some(arbiter) = (0..self.arbiters.len()).find(|a| self.arbiter_runs(*a) && self.leads(*a)) {
            let by = Operator("ann".into());
            self.event(arbiter, Event::Commanded { by, command, reply_to: self.events });
        }
    }

    /// Everything is made well again. What is fenced stays so.
    pub(super) fn heal(&mut self) {
        self.tell(|| "everything heals".to_owned());
        self.network = super::host::Network::good();
        self.act_faults.clear();
        self.is_power_cut_off = false;
        self.store.mode = StoreMode::Works;
        for host in 0..self.hosts.len() {
            self.people_power_on(host);
            self.wake(host);
            if self.hosts[host].paused_until > self.now {
                self.hosts[host].paused_until = self.now;
                self.after(0, Happening::Resume { host });
            }
        }
        for arbiter in 0..self.arbiters.len() {
            self.start_arbiter(arbiter);
        }
        self.store_is(true);
        for member in 0..self.members.len() {
            let m = &mut self.members[member];
            m.is_full = false;
            m.is_lagging = false;
            let is_agent_down = m.agent.as_ref().is_some_and(|agent| !agent.is_up) && self.hosts[m.host].is_on;
            if is_agent_down {
                self.start_agent(member);
            }
            self.agent_goes_on(member);
            self.thaw(member);
            self.revive(member);
        }
        for node in &mut self.nodes {
            node.is_alive = true;
            node.is_deaf = false;
            node.is_idle = false;
        }
    }

    /// Into which step of a failover this moment falls.
    fn step(&self) -> &'static str {
        use crate::model::incident::IncidentState;
        let open = self.store.incidents.values().rev().filter_map(|kept| kept.incident.as_ref());
        match open
            .map(|incident| incident.state)
            .find(|state| !matches!(state, IncidentState::Resolved | IncidentState::Aborted))
        {
            None => "quiet",
            Some(IncidentState::Fencing) => "fencing",
            Some(IncidentState::CatchingUp) => "catching up",
            Some(IncidentState::Promoting) => "promoting",
            Some(IncidentState::Redirecting) => "redirecting",
            Some(IncidentState::Rejoining) => "rejoining",
            Some(_) => "held",
        }
    }
}

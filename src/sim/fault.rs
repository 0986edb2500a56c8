//! What goes wrong, in words that a schedule can be written in and replayed.

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use super::draw::singles;
use super::{setting::Setting, store::StoreMode};

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

//! Tests of death rules, as data: what is seen and for how long, and what is expected of it. The file's `tests:` come
//! out as these; `trial` plays them.

use std::{collections::BTreeMap, fmt, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    ClusterName, ClusterPolicy, FailureKind, MemberName, Observer, Role, RuleName, SignalName, Verdict,
    explain::Guard,
    observation::AGENTS_SIGNAL,
    policy::{Observers, Subjects},
    rule::Reaction,
    time::human,
};

/// One test. All its times count from the beginning of its story, before which everything was well.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    /// Its name.
    pub name: String,
    /// The line of the file where it stands.
    pub line: u32,
    /// The cluster whose rules are tested.
    pub cluster: ClusterName,
    /// Who is primary, all the time.
    pub primary: MemberName,
    /// The arbiter that judges; of several, one of them.
    pub arbiter: String,
    /// The other arbiters.
    pub peers: Vec<String>,
    /// The signals of arrivals that are read off a counter: they know no ages and no attempts.
    pub counters: Vec<SignalName>,
    /// How long the story lasts.
    pub lasts: Duration,
    /// What is seen on the streams that are not simply well. Phases in their order; before the first one all is well.
    pub given: BTreeMap<StreamId, Vec<Phase>>,
    /// What is expected.
    pub expect: Vec<Expectation>,
}

/// One signal as seen by one observer of one subject.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId {
    /// The signal; [`AGENTS_SIGNAL`] for what agents tell of themselves.
    pub signal: SignalName,
    /// Who looks.
    pub observer: Observer,
    /// At whom; `None`: the service as a whole.
    pub subject: Option<MemberName>,
}

/// What is seen from a moment on.
#[derive(Clone, Debug, PartialEq)]
pub struct Phase {
    /// When it begins.
    pub from: Duration,
    /// What is seen then.
    pub sight: Sight,
}

/// What is seen of a stream for a while.
#[derive(Clone, Debug, PartialEq)]
pub enum Sight {
    /// All is well.
    Well,
    /// Nothing is looked at, nothing is told: it becomes unknown.
    Absent,
    /// The last good word comes when it begins. Heartbeats and agents: none after that. Looks: they fail after that.
    /// Arrivals: the node goes on reporting that nothing reaches it, though somebody sends.
    Silent,
    /// Arrivals: nothing reaches the node, and nobody sends.
    Idle,
    /// Heartbeats come, and do not prove that echoes reach their sender.
    Unechoed,
    /// Looks fail in this way.
    Failing(FailureKind),
    /// It answers, and takes so long.
    OkIn(Duration),
    /// It claims this role.
    Role(Role),
    /// It is so far behind the primary.
    Behind(u64),
    /// Its position is this, and does not move.
    Position(u64),
    /// Its position does not move.
    Stalled,
    /// The replication link is up, or down.
    Link(bool),
    /// The link calls itself up, and nothing comes over it.
    Quiet,
    /// What came last was always so long ago.
    Lag(Duration),
    /// Writes are taken, or refused.
    Writable(bool),
    /// The process runs, or has ended.
    Running(bool),
    /// It fires, or does not.
    Firing(bool),
    /// The number is this.
    Number(f64),
    /// The text is this.
    Text(String),
}

/// What is expected, and when.
#[derive(Clone, Debug, PartialEq)]
pub struct Expectation {
    /// The line of the file where it stands.
    pub line: u32,
    /// When.
    pub when: When,
    /// All of these.
    pub claims: Vec<Claim>,
}

/// When something is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// At this moment.
    At(Duration),
    /// It becomes so for the first time in this span.
    First {
        /// Not earlier.
        not_before: Duration,
        /// Not later.
        by: Duration,
    },
    /// It is never so in this span.
    Never {
        /// Its beginning.
        from: Duration,
        /// Its end.
        until: Duration,
    },
}

/// One thing that is claimed of a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The verdict is this.
    Verdict(Verdict),
    /// This would be done.
    Then(Response),
    /// This rule decides the verdict.
    Rule(RuleName),
    /// This rule holds, whether it decides anything or not.
    Fires(RuleName),
    /// This guard stands against what a rule wants.
    BlockedBy(Guard),
    /// This standby would be promoted.
    Candidate(MemberName),
}

/// What would be done: what the rules ask for, after the guards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// No rule holds.
    #[default]
    Nothing,
    /// People are told.
    Alert,
    /// People, nodes and clients are told.
    Redirect,
    /// A rule holds that forbids every act.
    Hold,
    /// A rule asks for a failover or a switchover, and a guard stands against it.
    Blocked,
    /// A switchover would begin.
    Switchover,
    /// A failover would begin.
    Failover,
}

impl From<Reaction> for Response {
    fn from(reaction: Reaction) -> Self {
        match reaction {
            Reaction::Alert => Self::Alert,
            Reaction::Redirect => Self::Redirect,
            Reaction::Hold => Self::Hold,
            Reaction::Failover => Self::Failover,
            Reaction::Switchover => Self::Switchover,
        }
    }
}

impl fmt::Display for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Nothing => "nothing",
            Self::Alert => "alert",
            Self::Redirect => "redirect",
            Self::Hold => "hold",
            Self::Blocked => "blocked",
            Self::Switchover => "switchover",
            Self::Failover => "failover",
        })
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Verdict(verdict) => write!(f, "verdict {verdict}"),
            Self::Then(then) => write!(f, "then {then}"),
            Self::Rule(rule) => write!(f, "by the rule `{rule}`"),
            Self::Fires(rule) => write!(f, "`{rule}` holds"),
            Self::BlockedBy(guard) => write!(f, "blocked by {guard}"),
            Self::Candidate(member) => write!(f, "{member} would be promoted"),
        }
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(at) => write!(f, "at {}", moment(*at)),
            Self::First { not_before, by } if not_before.is_zero() => write!(f, "by {}", moment(*by)),
            Self::First { not_before, by } => write!(f, "between {} and {}", moment(*not_before), moment(*by)),
            Self::Never { from, until } if from.is_zero() => write!(f, "never until {}", moment(*until)),
            Self::Never { from, until } => write!(f, "never from {} until {}", moment(*from), moment(*until)),
        }
    }
}

/// A moment of a story, exactly: `60s`, `12.5s`, `2m 30s`.
#[must_use]
pub fn moment(at: Duration) -> String {
    let secs = at.as_secs();
    if at.subsec_nanos() == 0 && secs > 120 && (secs < 3_600 || secs.is_multiple_of(60)) {
        return human(at);
    }
    let text = format!("{:.3}", at.as_secs_f64());
    format!("{}s", text.trim_end_matches('0').trim_end_matches('.'))
}

/// All streams that a cluster has while that member is primary, agents' own words among them.
#[must_use]
pub fn streams(policy: &ClusterPolicy, primary: &MemberName, peers: &[String]) -> Vec<StreamId> {
    let mut all = Vec::new();
    for (signal, spec) in &policy.signals {
        let members = || policy.members.iter().map(|m| &m.name);
        let subjects: Vec<Option<MemberName>> = match &spec.subjects {
            Subjects::Service => vec![None],
            Subjects::Primary => vec![Some(primary.clone())],
            Subjects::Member(name) => vec![Some(name.clone())],
            Subjects::Members => members().cloned().map(Some).collect(),
            Subjects::Standbys => members().filter(|m| *m != primary).cloned().map(Some).collect(),
        };
        for subject in subjects {
            let observers: Vec<Observer> = match (&spec.observers, &subject) {
                // What nobody looks at, because it is pushed to one arbiter, the others do not see.
                (Observers::Arbiter, None) => vec![Observer::Arbiter],
                (Observers::Arbiter, Some(_)) => {
                    std::iter::once(Observer::Arbiter).chain(peers.iter().cloned().map(Observer::Peer)).collect()
                }
                (Observers::Nodes(nodes), _) => nodes.iter().cloned().map(Observer::Node).collect(),
                (Observers::Members, Some(member)) => vec![Observer::Member(member.clone())],
                (Observers::Members, None) => Vec::new(),
            };
            let ids = observers.into_iter().map(|observer| StreamId {
                signal: signal.clone(),
                observer,
                subject: subject.clone(),
            });
            all.extend(ids);
        }
    }
    let agents = policy.members.iter().filter(|m| m.has_agent).map(|m| StreamId {
        signal: AGENTS_SIGNAL.into(),
        observer: Observer::Member(m.name.clone()),
        subject: Some(m.name.clone()),
    });
    all.extend(agents);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_lose_nothing() {
        for (ms, text) in [
            (0, "0s"),
            (60_000, "60s"),
            (12_500, "12.5s"),
            (1_250, "1.25s"),
            (150_000, "2m 30s"),
            (3_661_000, "3661s"),
            (3_660_000, "1h 1m"),
            (125_001, "125.001s"),
        ] {
            assert_eq!(moment(Duration::from_millis(ms)), text);
        }
    }
}

//! What is seen: every stream of the cluster, moment by moment, as probes, members, nodes and agents would tell it.
//!
//! Each state of a stream begins with an observation of it, and goes on at the signal's own `every`. Before the story,
//! all is well for as long as windows and rhythms need.

use std::time::Duration;

use crate::model::{
    ClusterPolicy, Epoch, Fact, Failure, FailureKind, Observation, Observer, Outcome, Role, SignalName, Time, Trial,
    agent::MemberReport,
    observation::{Arrivals, RoleReport},
    policy::{Observers, SignalKind, Traffic},
    rule::{Condition, Expr, ExprKind},
    trial::{Sight, StreamId, streams},
};

/// How often agents speak of themselves.
const AGENT_EVERY: Duration = Duration::from_millis(250);
/// Other arbiters' looks are told at least so often.
const PEER_EVERY: Duration = Duration::from_secs(1);
/// So many good looks before the story: windows are full, rhythms are known.
const WELL_LOOKS: u32 = 20;
/// Signals that are looked at rarely have fewer, but never less than two.
const WELL_FOR: Duration = Duration::from_secs(60);
/// What messages a period brings.
const MESSAGES: u64 = 10;

/// The whole world of a story.
pub(super) struct World {
    trial: Trial,
    policy: ClusterPolicy,
    /// The beginning of the story.
    zero: Time,
    flows: Vec<Flow>,
    /// What comes, in its order.
    coming: Vec<Coming>,
    next: usize,
}

/// An observation to come.
#[derive(Clone, Copy)]
struct Coming {
    at: Time,
    flow: usize,
    phase: usize,
    /// The first of its phase.
    is_first: bool,
}

/// One stream.
struct Flow {
    id: StreamId,
    kind: Kind,
    traffic: Traffic,
    phases: Vec<(Time, Sight)>,
    /// What is well, for a number or a text.
    well_number: f64,
    /// How far it moves, if rules ask whether it moves.
    well_move: f64,
    well_text: String,
    beats: u64,
    received: u64,
    attempted: u64,
    last_arrival: Time,
    /// When this stream was told last.
    told: Time,
    /// Whether the newest word of an alert was that it fires.
    is_firing: bool,
}

/// What kind of facts a stream brings.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Signal(SignalKind),
    /// Arrivals read off a counter.
    Counter,
    /// An alert that another system pushes when it changes.
    Webhook,
    /// What an agent tells of itself.
    Agent,
}

impl World {
    /// The world of that test, and when it begins.
    pub(super) fn new(policy: &ClusterPolicy, trial: &Trial, zero: Time) -> (Self, Time) {
        let mut flows = Vec::new();
        let mut coming = Vec::new();
        let mut begins = zero.before(Duration::from_secs(1));
        for id in streams(policy, &trial.primary, &trial.peers) {
            let (kind, every, traffic) = flow_kind(policy, trial, &id);
            let looks = looks_before(policy, &id.signal, every);
            let before = if kind == Kind::Webhook { Duration::ZERO } else { every.saturating_mul(looks) };
            let mut phases = vec![(zero.before(before), Sight::Well)];
            for phase in trial.given.get(&id).into_iter().flatten() {
                let from = zero + phase.from;
                if phases.last().is_some_and(|(at, _)| *at == from) {
                    phases.pop();
                }
                phases.push((from, phase.sight.clone()));
            }
            begins = begins.min(zero.before(before));
            let flow = flows.len();
            // The end belongs to the story.
            let after = zero + trial.lasts.saturating_add(Duration::from_nanos(1));
            for (phase, (from, _)) in phases.iter().enumerate() {
                let until = phases.get(phase + 1).map_or(after, |(next, _)| *next);
                let mut at = *from;
                while at < until {
                    coming.push(Coming { at, flow, phase, is_first: at == *from });
                    at = if kind == Kind::Webhook { until } else { at + every.max(Duration::from_millis(1)) };
                }
            }
            flows.push(Flow {
                kind,
                traffic,
                well_number: well_number(policy, &id.signal),
                well_move: well_move(policy, &id.signal),
                well_text: well_text(policy, &id.signal),
                beats: 0,
                received: 1_000,
                attempted: 1_000,
                last_arrival: zero.before(before),
                told: zero.before(before),
                is_firing: false,
                phases,
                id,
            });
        }
        coming.sort_by_key(|next| (next.at, next.flow));
        (Self { trial: trial.clone(), policy: policy.clone(), zero, flows, coming, next: 0 }, begins)
    }

    /// When the next observation comes.
    pub(super) fn due(&self) -> Option<Time> {
        self.coming.get(self.next).map(|next| next.at)
    }

    /// All that is seen at the moment of the next observation.
    pub(super) fn look(&mut self, now: Time) -> Vec<Observation> {
        let mut seen = Vec::new();
        while let Some(coming) = self.coming.get(self.next).copied().filter(|next| next.at <= now) {
            self.next += 1;
            let Some(outcome) = self.outcome(coming) else { continue };
            let Some(flow) = self.flows.get(coming.flow) else { continue };
            seen.push(Observation {
                at: coming.at,
                cluster: self.policy.name.clone(),
                signal: flow.id.signal.clone(),
                observer: flow.id.observer.clone(),
                subject: flow.id.subject.clone(),
                outcome,
            });
        }
        seen
    }

    fn outcome(&mut self, coming: Coming) -> Option<Outcome> {
        let Coming { at, flow, phase, is_first } = coming;
        let position = position(at, self.zero);
        let (trial, policy) = (&self.trial, &self.policy);
        let flow = self.flows.get_mut(flow)?;
        let (from, sight) = flow.phases.get(phase).cloned()?;
        let outcome = match (flow.kind, sight) {
            (_, Sight::Absent) => None,
            (_, Sight::Failing(kind)) => Some(failure(kind)),
            (Kind::Webhook, sight) => flow.webhook(&sight),
            (Kind::Agent, sight) => (is_first || sight != Sight::Silent).then(|| agent(trial, &flow.id)),
            (Kind::Counter, sight) => Some(flow.counted(&sight, is_first)),
            (Kind::Signal(SignalKind::Heartbeat), sight) => flow.beat(&sight, is_first),
            (Kind::Signal(SignalKind::Arrivals), sight) => Some(flow.arrivals(trial, &sight, at, is_first)),
            (Kind::Signal(kind), Sight::Silent) if !is_first => {
                // Looks go on and fail; what agents push does not come. A node that cannot be read is no evidence.
                match (&flow.id.observer, kind) {
                    (Observer::Member(_), _) => None,
                    (Observer::Node(_), kind) if kind != SignalKind::Canary => Some(failure(FailureKind::Local)),
                    _ => Some(failure(FailureKind::TimedOut)),
                }
            }
            (Kind::Signal(kind), sight) => {
                let since = at.since(from);
                flow.fact(kind, &sight, since, position, from, self.zero, trial, policy).map(Outcome::Fact)
            }
        };
        if outcome.is_some() {
            flow.told = at;
        }
        outcome
    }
}

impl Flow {
    /// Alertmanager pushes what changed, and repeats it by its own mind. What never fired was never told.
    fn webhook(&mut self, sight: &Sight) -> Option<Outcome> {
        let firing = match sight {
            Sight::Firing(firing) => *firing,
            // It ends.
            _ if self.is_firing => false,
            _ => return None,
        };
        self.is_firing = firing;
        Some(Outcome::Fact(Fact::Alert { firing }))
    }

    fn beat(&mut self, sight: &Sight, is_first: bool) -> Option<Outcome> {
        let echoed = match sight {
            Sight::Silent if !is_first => return None,
            Sight::Unechoed => false,
            _ => true,
        };
        self.beats += 1;
        Some(Outcome::Fact(Fact::Beat { seq: self.beats, echoed }))
    }

    /// A counter tells no ages and no attempts.
    fn counted(&mut self, sight: &Sight, is_first: bool) -> Outcome {
        if *sight == Sight::Well || is_first {
            self.received += MESSAGES;
        }
        Outcome::Fact(Fact::Arrivals(Arrivals { received: self.received, ..Arrivals::default() }))
    }

    fn arrivals(&mut self, trial: &Trial, sight: &Sight, now: Time, is_first: bool) -> Outcome {
        let (arrives, attempts) = match sight {
            // The silence counts from the first attempt that is known to lie in it. That is told with the first report,
            // so what arrived last arrived with the report before.
            Sight::Silent => (is_first && self.traffic == Traffic::Constant, true),
            Sight::Idle => (is_first, is_first),
            Sight::Lag(_) => (false, true),
            _ => (true, true),
        };
        if arrives {
            self.received += MESSAGES;
            self.last_arrival = now;
        }
        if attempts {
            self.attempted += MESSAGES;
        }
        let age = if let Sight::Lag(age) = sight { *age } else { now.since(self.last_arrival) };
        Outcome::Fact(Fact::Arrivals(Arrivals {
            received: self.received,
            last_age: Some(age),
            attempted: Some(self.attempted),
            acknowledged: Some(self.received.min(self.attempted)),
            primary: Some(trial.primary.clone()),
            epoch: Epoch(1),
        }))
    }

    #[expect(clippy::too_many_arguments, reason = "each is one fact of the moment; a struct would only rename them")]
    fn fact(
        &mut self,
        kind: SignalKind,
        sight: &Sight,
        since: Duration,
        ahead: u64,
        from: Time,
        zero: Time,
        trial: &Trial,
        policy: &ClusterPolicy,
    ) -> Option<Fact> {
        let position_seen = match sight {
            Sight::Behind(behind) => ahead.saturating_sub(*behind),
            Sight::Position(exact) => *exact,
            Sight::Stalled => position(from, zero),
            _ => ahead,
        };
        Some(match kind {
            SignalKind::Heartbeat | SignalKind::Arrivals => return None,
            SignalKind::Canary => Fact::Canary { latency: latency(sight, Duration::from_millis(5)) },
            SignalKind::Check => Fact::Ok { latency: latency(sight, Duration::from_millis(1)) },
            SignalKind::Role => {
                let member = self.id.subject.as_ref()?;
                let own = if *member == trial.primary { Role::Primary } else { Role::Standby };
                let role = if let Sight::Role(role) = sight { *role } else { own };
                Fact::Role(role_report(role, position_seen, sight, trial, policy))
            }
            SignalKind::Position => Fact::Position { position: position_seen },
            SignalKind::Link => {
                let up = *sight != Sight::Link(false);
                let last_io = match sight {
                    Sight::Lag(age) => *age,
                    Sight::Quiet | Sight::Link(false) => since,
                    _ => Duration::from_millis(50),
                };
                Fact::Link { up, last_io: Some(last_io) }
            }
            SignalKind::Write => Fact::Writable(*sight != Sight::Writable(false)),
            SignalKind::Process => {
                let running = *sight != Sight::Running(false);
                Fact::Process { running, detail: if running { "" } else { "exited" }.into() }
            }
            SignalKind::Value => {
                self.beats += 1;
                Fact::Value(match sight {
                    Sight::Number(number) => *number,
                    Sight::Stalled => self.well_number,
                    _ if self.beats.is_multiple_of(2) => self.well_number + self.well_move,
                    _ => self.well_number,
                })
            }
            SignalKind::Text => Fact::Text(match sight {
                Sight::Text(text) => text.clone(),
                _ => self.well_text.clone(),
            }),
            SignalKind::Alert => Fact::Alert { firing: *sight == Sight::Firing(true) },
        })
    }
}

/// The primary's position: it moves on by one each millisecond.
fn position(at: Time, zero: Time) -> u64 {
    let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    // More of them lie before the story than it can be long.
    (1_000_000_000_000 + ms(at.since(zero))).saturating_sub(ms(zero.since(at)))
}

fn role_report(role: Role, position: u64, sight: &Sight, trial: &Trial, policy: &ClusterPolicy) -> RoleReport {
    let is_standby = role == Role::Standby;
    let primary = policy.member(&trial.primary).map(|m| m.address.clone());
    RoleReport {
        role,
        position: Some(position),
        link_up: is_standby.then_some(*sight != Sight::Link(false)),
        follows: primary.filter(|_| is_standby),
        lineage: None,
        epoch: None,
        priority: None,
    }
}

const fn latency(sight: &Sight, well: Duration) -> Duration {
    if let Sight::OkIn(latency) = sight { *latency } else { well }
}

fn failure(kind: FailureKind) -> Outcome {
    Outcome::Failure(Failure::new(kind, "as the test says"))
}

fn agent(trial: &Trial, id: &StreamId) -> Outcome {
    let appointed = (id.subject.as_ref() == Some(&trial.primary)).then_some(Epoch(1));
    Outcome::Fact(Fact::Agent(Box::new(MemberReport { epoch: Epoch(1), appointed, ..MemberReport::default() })))
}

fn flow_kind(policy: &ClusterPolicy, trial: &Trial, id: &StreamId) -> (Kind, Duration, Traffic) {
    let Some(spec) = policy.signals.get(&id.signal) else { return (Kind::Agent, AGENT_EVERY, Traffic::default()) };
    let kind = match (spec.kind, &spec.observers) {
        (SignalKind::Alert, Observers::Arbiter) => Kind::Webhook,
        (SignalKind::Arrivals, _) if trial.counters.contains(&id.signal) => Kind::Counter,
        (kind, _) => Kind::Signal(kind),
    };
    let is_peer = matches!(id.observer, Observer::Peer(_));
    let every = if is_peer { spec.every.min(PEER_EVERY) } else { spec.every };
    (kind, every, spec.traffic)
}

/// How many looks the engine has seen when the story begins.
fn looks_before(policy: &ClusterPolicy, signal: &SignalName, every: Duration) -> u32 {
    let mut window = 2;
    conditions(policy, signal, &mut |condition, _| {
        if let Condition::FailingOf { of, .. } = condition {
            window = window.max(*of);
        }
    });
    let fit = WELL_FOR.as_millis() / every.as_millis().max(1);
    window.max(WELL_LOOKS.min(u32::try_from(fit).unwrap_or(WELL_LOOKS)))
}

/// Visits the conditions of the rules over that signal, and whether each speaks for its rule rather than against it.
fn conditions<'p>(policy: &'p ClusterPolicy, signal: &SignalName, visit: &mut impl FnMut(&'p Condition, bool)) {
    fn branch<'p>(expr: &'p Expr, wanted: &SignalName, speaks_for: bool, visit: &mut impl FnMut(&'p Condition, bool)) {
        match &expr.kind {
            ExprKind::Signal { signal, condition } | ExprKind::Observers { signal, are: condition, .. } => {
                if signal == wanted {
                    visit(condition, speaks_for);
                }
            }
            ExprKind::Not(inner) => branch(inner, wanted, !speaks_for, visit),
            _ => expr.children().iter().for_each(|child| branch(child, wanted, speaks_for, visit)),
        }
    }
    policy.rules.iter().for_each(|rule| branch(&rule.when, signal, true, visit));
}

/// A number at which no condition over that signal speaks for its rule; 0 if there is none such.
fn well_number(policy: &ClusterPolicy, signal: &SignalName) -> f64 {
    let mut bounds: Vec<(bool, f64, bool)> = Vec::new();
    conditions(policy, signal, &mut |condition, speaks_for| match condition {
        Condition::Above(bound) => bounds.push((true, *bound, speaks_for)),
        Condition::Below(bound) => bounds.push((false, *bound, speaks_for)),
        _ => {}
    });
    let by = well_move(policy, signal);
    let is_well = |number: f64| {
        [number, number + by].iter().all(|number| {
            bounds.iter().all(|(is_above, bound, speaks_for)| {
                let holds = if *is_above { number > bound } else { number < bound };
                holds != *speaks_for
            })
        })
    };
    let of_one = bounds.iter().flat_map(|(_, b, _)| [b / 2.0, b * 2.0, b - 1.0, b + 1.0]);
    let of_two = bounds.iter().flat_map(|(_, a, _)| bounds.iter().map(move |(_, b, _)| f64::midpoint(*a, *b)));
    of_one.chain(of_two).find(|number| is_well(*number)).unwrap_or_default()
}

/// By how much a number that is well moves from look to look.
fn well_move(policy: &ClusterPolicy, signal: &SignalName) -> f64 {
    let mut is_asked = false;
    conditions(policy, signal, &mut |condition, _| is_asked |= matches!(condition, Condition::Stalled(_)));
    if is_asked { 1e-6 } else { 0.0 }
}

/// A text for which no condition over that signal speaks for its rule.
fn well_text(policy: &ClusterPolicy, signal: &SignalName) -> String {
    let mut good = None;
    conditions(policy, signal, &mut |condition, speaks_for| {
        if let (Condition::TextIs(text), false) = (condition, speaks_for) {
            good.get_or_insert_with(|| text.clone());
        }
    });
    good.unwrap_or_else(|| "all is well".into())
}

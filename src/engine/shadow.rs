//! One cluster judged and never acted upon, fast: for observations by the million.
//!
//! The judging is the engine's own: the same view takes every single observation, and `Cluster::judge` alone decides what is
//! true. What is left out are judgements that cannot differ from the one before. An observation touches few conditions; each of
//! those is asked at once, by the code that a judgement would ask it with, and only if one of them answers otherwise than at the
//! last judgement, or a time has come at which an answer changes by itself, the cluster is judged.
//!
//! That this is the same as judging after every observation rests on three things, which `tests/backtest` holds against the
//! plain engine on random rules and random journals:
//!
//! - A judgement at which every condition answers as it did at the one before changes nothing that a rule remembers: spans and
//!   holds begin and end with answers.
//! - What a condition answers depends on its own stream, and besides on the primary's position (`lag_above`), on attempts
//!   (silence and stall of arrivals), and on whether anything was ever heard of the member. Those are looked at too. What
//!   depends on other arbiters is not followed: while a rule asks `unreachable_by` and other arbiters are heard, the cluster is
//!   judged every time.
//! - Every answer says when it changes by itself, and `for:` and windows say when they are due.
//!
//! Who is primary is told, and not found out: nothing is adopted, as in an arbiter that does not lead.

use std::collections::{HashMap, VecDeque};

use super::{
    cluster::Cluster,
    condition::{self, Answer, Context},
    judge::Evidence,
    own::Own,
    view::View,
};
use crate::model::{
    Condition, Effect, Epoch, MemberName, Mode, Notice, Observation, Observer, Policy, SignalName, Time, WallAnchor,
    explain::{Guard, GuardState, RuleExplanation},
    policy::{SignalKind, SignalPolicy, Traffic},
    record::ClusterState,
    rule::ExprKind,
};

/// Nothing changes by itself before the end of time.
const NEVER: Time = Time(u64::MAX);

/// A stream of a [`Shadow`], to be named by without its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamKey(usize);

/// One cluster, judged and never acted upon.
#[derive(Clone, Debug)]
pub struct Shadow {
    cluster: Cluster,
    own: Own,
    now: Time,
    streams: Vec<Watched>,
    keys: HashMap<(SignalName, Observer, Option<MemberName>), StreamKey>,
    /// The streams whose conditions depend on attempts, on the primary's position.
    by_attempts: Vec<usize>,
    by_position: Vec<usize>,
    primary_position: Option<u64>,
    /// For whom as primary the conditions were found; `None`: not yet.
    watched_for: Option<Option<MemberName>>,
    /// A rule asks `unreachable_by`.
    asks_peers: bool,
    /// Something answers otherwise than at the last judgement.
    is_due: bool,
    /// The first moment at which anything may change by itself.
    timers: Time,
    /// The part of it that `for:` and windows have.
    held_until: Time,
    out: VecDeque<Effect>,
    told: VecDeque<(Time, Notice)>,
}

/// One stream, and the conditions that rules ask of it.
#[derive(Clone, Debug)]
struct Watched {
    signal: SignalName,
    observer: Observer,
    subject: Option<MemberName>,
    /// `None`: the policy does not know the signal.
    policy: Option<SignalPolicy>,
    leaves: Vec<Leaf>,
    has_success: bool,
    is_of_primary: bool,
}

#[derive(Clone, Debug)]
struct Leaf {
    condition: Condition,
    answer: Answer,
}

impl Shadow {
    /// Begins to judge a cluster of the policy, as an arbiter does that starts at `now`. `None`: there is no such cluster.
    #[must_use]
    pub fn new(now: Time, anchor: WallAnchor, policy: &Policy, state: ClusterState) -> Option<Self> {
        let cluster = policy.clusters.get(&state.cluster)?.clone();
        let mut own = Own::new(policy, anchor, 0);
        own.not_leading = Some("this is a recording".into());
        let mut asks_peers = false;
        for rule in &cluster.rules {
            rule.when.walk(&mut |expr| {
                asks_peers |= matches!(condition_of(&expr.kind), Some((_, Condition::UnreachableBy(_))));
            });
        }
        let mut shadow = Self {
            cluster: Cluster::new(cluster, Some(state), now),
            own,
            now,
            streams: Vec::new(),
            keys: HashMap::new(),
            by_attempts: Vec::new(),
            by_position: Vec::new(),
            primary_position: None,
            watched_for: None,
            asks_peers,
            is_due: true,
            timers: NEVER,
            held_until: NEVER,
            out: VecDeque::new(),
            told: VecDeque::new(),
        };
        shadow.ask_all();
        Some(shadow)
    }

    /// The key of a stream.
    pub fn stream(&mut self, signal: &SignalName, observer: &Observer, subject: Option<&MemberName>) -> StreamKey {
        let name = (signal.clone(), observer.clone(), subject.cloned());
        if let Some(key) = self.keys.get(&name) {
            return *key;
        }
        let key = StreamKey(self.streams.len());
        self.streams.push(Watched {
            signal: signal.clone(),
            observer: observer.clone(),
            subject: subject.cloned(),
            policy: self.cluster.policy.signals.get(signal).cloned(),
            leaves: Vec::new(),
            has_success: false,
            is_of_primary: subject.is_some() && subject == self.cluster.state.primary.as_ref(),
        });
        self.keys.insert(name, key);
        key
    }

    /// Takes an observation of a stream, at a moment that is not before the last one.
    pub fn observe(&mut self, now: Time, key: StreamKey, seen: Observation) {
        self.come_to(now);
        let attempt = self.cluster.view.newest_attempt();
        let is_news = {
            let Cluster { view, policy, .. } = &mut self.cluster;
            view.take(policy, seen)
        };
        if self.is_due {
            return;
        }
        if is_news || (self.asks_peers && self.cluster.view.has_peers()) {
            self.is_due = true;
            return;
        }
        self.look_at(key.0);
        if self.cluster.view.newest_attempt() != attempt {
            for place in 0..self.by_attempts.len() {
                self.look_at(self.by_attempts[place]);
            }
        }
        if !self.by_position.is_empty() && self.streams.get(key.0).is_some_and(|stream| stream.is_of_primary) {
            let primary = self.cluster.state.primary.as_ref();
            let position = primary.and_then(|p| self.cluster.view.position(p)).map(|(_, position)| position);
            if position != self.primary_position {
                self.primary_position = position;
                for place in 0..self.by_position.len() {
                    self.look_at(self.by_position[place]);
                }
            }
        }
    }

    /// The arbiter noticed that it ran late by so much.
    pub fn ran_late(&mut self, now: Time, by: std::time::Duration, detail: String) {
        self.come_to(now);
        if by >= self.own.arbiter.tilt_after {
            self.own.begin_tilt(now, detail);
            self.cluster.forget_suspicion(now);
            self.is_due = true;
        }
    }

    /// Nothing is known of the time up to now: nothing that would have happened in it by itself did, and nothing that was seen
    /// before counts any more.
    pub fn skip_to(&mut self, now: Time) {
        self.finish_moment();
        self.now = self.now.max(now);
        self.cluster.forget_suspicion(self.now);
        self.is_due = true;
    }

    /// Who is primary changed.
    pub fn primary_is(&mut self, now: Time, primary: Option<MemberName>, epoch: Epoch) {
        self.come_to(now);
        if (self.cluster.state.primary.as_ref(), self.cluster.state.primary_epoch) == (primary.as_ref(), epoch) {
            return;
        }
        let mut state = self.cluster.state.clone();
        if let Some(primary) = &primary {
            state.quarantined.remove(primary);
        }
        (state.primary, state.primary_epoch, state.epoch) = (primary, epoch, state.epoch.max(epoch));
        self.cluster.follow(now, Some(state), Epoch::ZERO);
        self.is_due = true;
    }

    /// Lets time pass up to `now`, judging whatever changes by itself on the way, and at `now`.
    pub fn finish(&mut self, now: Time) {
        self.come_to(now);
        self.finish_moment();
    }

    /// What was told, oldest first: rules that became true or no longer are, verdicts, and other notices.
    pub fn poll_told(&mut self) -> Option<(Time, Notice)> {
        self.told.pop_front()
    }

    /// The moment up to which it was judged.
    #[must_use]
    pub const fn now(&self) -> Time {
        self.now
    }

    /// The rules, explained as they stand.
    #[must_use]
    pub fn rules(&self) -> Vec<RuleExplanation> {
        (0..self.cluster.policy.rules.len()).map(|index| self.cluster.explain(index, self.now)).collect()
    }

    /// Who is primary.
    #[must_use]
    pub const fn primary(&self) -> Option<&MemberName> {
        self.cluster.state.primary.as_ref()
    }

    /// The guards that stand now against acting. Of those that rest on more than observations (the store, leadership, former
    /// failovers, rehearsals of fences, other clusters, approval) nothing is said.
    #[must_use]
    pub fn guards(&self) -> Vec<GuardState> {
        let candidates = self.cluster.candidates(self.now);
        let mut guards = self.cluster.guards(self.now, &self.own, Mode::Auto, &candidates);
        guards.retain(|state| {
            let is_seen = matches!(
                state.guard,
                Guard::HeldByRule
                    | Guard::Tilt
                    | Guard::Isolated
                    | Guard::PrimaryUnclear
                    | Guard::NoCandidate
                    | Guard::NoLease
            );
            state.blocks && is_seen
        });
        guards
    }

    // ---- time -------------------------------------------------------------------------------------------------

    /// Ends the moment before, and lets everything happen that happens by itself before `now`.
    #[inline]
    fn come_to(&mut self, now: Time) {
        if now <= self.now {
            return;
        }
        self.finish_moment();
        while self.timers < now {
            self.now = self.timers;
            self.wake();
        }
        self.now = now;
    }

    fn finish_moment(&mut self) {
        if self.is_due || self.timers <= self.now {
            self.wake();
        }
    }

    /// Judges, if anything answers otherwise than at the last judgement.
    fn wake(&mut self) {
        let now = self.now;
        self.is_due |= self.held_until <= now;
        self.timers = self.held_until;
        for place in 0..self.streams.len() {
            let stream = &self.streams[place];
            if !self.is_due && stream.leaves.iter().any(|leaf| leaf.answer.changes_at.is_some_and(|at| at <= now)) {
                self.look_at(place);
            }
            let next = self.streams[place].leaves.iter().filter_map(|leaf| leaf.answer.changes_at).min();
            self.timers = self.timers.min(next.unwrap_or(NEVER));
        }
        if std::mem::take(&mut self.is_due) {
            self.judge();
        }
        // What says that it changes now did so.
        self.timers = self.timers.max(Time(now.0.saturating_add(1)));
    }

    fn judge(&mut self) {
        let now = self.now;
        self.cluster.judge(now, &mut self.own);
        let judges_always = self.asks_peers && self.cluster.view.has_peers();
        if judges_always {
            // What an arbiter does that only watches; it looks again when the engine would.
            self.cluster.act(now, &mut self.own);
        }
        self.cluster.release(now, &mut self.out);
        while let Some(effect) = self.out.pop_front() {
            if let Effect::Tell(notice) = effect {
                self.told.push_back((now, *notice));
            }
        }
        self.ask_all();
        let evidence =
            Evidence::new(now, &self.cluster.policy, &self.cluster.view, self.cluster.state.primary.as_ref());
        let rules = self.cluster.policy.rules.iter().zip(&self.cluster.rules);
        let held_until = rules.filter_map(|(rule, state)| state.held_until(rule, &evidence)).min();
        self.held_until = held_until.unwrap_or(NEVER);
        let next = self.streams.iter().flat_map(|s| &s.leaves).filter_map(|leaf| leaf.answer.changes_at).min();
        self.timers = self.held_until.min(next.unwrap_or(NEVER));
        if judges_always {
            self.timers = self.timers.min(self.cluster.wake);
            self.held_until = self.held_until.min(self.cluster.wake);
        }
    }

    // ---- conditions -------------------------------------------------------------------------------------------

    /// Asks the conditions of one stream.
    #[inline]
    fn look_at(&mut self, place: usize) {
        let (now, view, primary_position) = (self.now, &self.cluster.view, self.primary_position);
        let Some(watched) = self.streams.get_mut(place) else { return };
        if watched.leaves.is_empty() && watched.has_success {
            return;
        }
        let Some(seen) = ask(watched, view, now, primary_position) else { return };
        self.is_due |= seen.differs;
        self.timers = self.timers.min(seen.changes_at);
    }

    /// Asks all conditions: what they answer now is what the judgement of this moment saw.
    fn ask_all(&mut self) {
        if self.watched_for.as_ref() != Some(&self.cluster.state.primary) {
            self.watched_for = Some(self.cluster.state.primary.clone());
            self.find_conditions();
        }
        let primary = self.cluster.state.primary.as_ref();
        self.primary_position = primary.and_then(|p| self.cluster.view.position(p)).map(|(_, position)| position);
        let (now, view, primary_position) = (self.now, &self.cluster.view, self.primary_position);
        for watched in &mut self.streams {
            ask(watched, view, now, primary_position);
        }
    }

    /// Finds the conditions that rules ask of each stream, as long as the primary is who it is.
    fn find_conditions(&mut self) {
        let primary = self.cluster.state.primary.clone();
        for stream in &mut self.streams {
            stream.leaves.clear();
            stream.is_of_primary = stream.subject.is_some() && stream.subject == primary;
        }
        let mut asked: Vec<(SignalName, Condition)> = Vec::new();
        for rule in &self.cluster.policy.rules {
            rule.when.walk(&mut |expr| {
                if let Some((signal, condition)) = condition_of(&expr.kind)
                    && !asked.iter().any(|(s, c)| s == signal && c == condition)
                {
                    asked.push((signal.clone(), condition.clone()));
                }
            });
        }
        for (signal, condition) in asked {
            let names: Vec<(Observer, Option<MemberName>)> = {
                let evidence = Evidence::new(self.now, &self.cluster.policy, &self.cluster.view, primary.as_ref());
                evidence.streams(&signal).into_iter().map(|(observer, subject, _)| (observer, subject)).collect()
            };
            for (observer, subject) in names {
                let StreamKey(place) = self.stream(&signal, &observer, subject.as_ref());
                let leaf = Leaf { condition: condition.clone(), answer: Answer::UNKNOWN };
                self.streams[place].leaves.push(leaf);
            }
        }
        let by_attempts = |w: &Watched| {
            let is_arrivals = |p: &SignalPolicy| p.kind == SignalKind::Arrivals && p.traffic == Traffic::Attempted;
            w.policy.as_ref().is_some_and(is_arrivals) && !w.leaves.is_empty()
        };
        let by_position = |w: &Watched| w.leaves.iter().any(|l| matches!(l.condition, Condition::LagAbove(_)));
        let places = |test: &dyn Fn(&Watched) -> bool| {
            self.streams.iter().enumerate().filter(|(_, w)| test(w)).map(|(place, _)| place).collect()
        };
        (self.by_attempts, self.by_position) = (places(&by_attempts), places(&by_position));
    }
}

/// What came of asking.
struct Asked {
    differs: bool,
    changes_at: Time,
}

#[inline]
fn ask(watched: &mut Watched, view: &View, now: Time, primary_position: Option<u64>) -> Option<Asked> {
    let signal = watched.policy.as_ref()?;
    let stream = view.find(&watched.signal, &watched.observer, watched.subject.as_ref());
    let mut asked = Asked { differs: false, changes_at: NEVER };
    if !watched.has_success && stream.is_some_and(|stream| stream.success.is_some()) {
        // What never answered before is heard now: so is its subject.
        watched.has_success = true;
        asked.differs = true;
    }
    let context = Context { now, view, signal, primary_position };
    for leaf in &mut watched.leaves {
        let answer = condition::judge(&leaf.condition, stream, &context);
        asked.differs |= answer.truth != leaf.answer.truth;
        asked.changes_at = asked.changes_at.min(answer.changes_at.unwrap_or(NEVER));
        leaf.answer = answer;
    }
    Some(asked)
}

/// What a branch asks of a signal.
const fn condition_of(kind: &ExprKind) -> Option<(&SignalName, &Condition)> {
    match kind {
        ExprKind::Observers { signal, are: condition, .. } | ExprKind::Signal { signal, condition } => {
            Some((signal, condition))
        }
        _ => None,
    }
}

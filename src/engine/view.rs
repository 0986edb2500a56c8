//! What is known: the newest of every stream of observations, and what rules need of its past.
//!
//! A stream is one signal as seen by one observer of one subject. Memory is bounded: streams exist only for
//! observers and subjects that the policy names, and each keeps a fixed number of outcomes.

mod fingerprint;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::suspicion::Rhythm;
use crate::model::{
    ClusterPolicy, Epoch, Fact, Failure, MemberName, NodeName, Observation, Observer, Outcome, PartyName, Role,
    SignalName, Time,
    agent::MemberReport,
    observation::{AGENTS_SIGNAL, Arrivals, RoleReport},
    policy::{Observers, SignalKind, SignalPolicy, Subjects},
    rule::{Condition, ExprKind},
};

/// A member whose agent told nothing for this long is not counted as heard by that path.
pub(super) const AGENT_HEARD_WITHIN: Duration = Duration::from_secs(1);

/// Another arbiter whose view did not come for this long is not counted.
pub(super) const PEER_HEARD_WITHIN: Duration = Duration::from_secs(4);
/// Memory stays bounded, whatever the store holds.
const PEERS_MAX: usize = 16;

/// What another arbiter saw last: by signal and subject, when it saw it and how it ended.
#[derive(Clone, Debug, Default)]
struct Peer {
    heard: Time,
    seen: BTreeMap<(SignalName, Option<MemberName>), (Time, Outcome)>,
}

/// All streams of one cluster.
#[derive(Clone, Debug)]
pub(super) struct View {
    /// The streams of each signal, in the order of [`place_of`].
    signals: BTreeMap<SignalName, Vec<Stream>>,
    /// What the agents of members tell, and when they told it.
    agents: BTreeMap<MemberName, (Time, MemberReport)>,
    /// Whom agents reach directly, and when they told it.
    reaches: BTreeMap<Observer, (Time, Vec<PartyName>)>,
    /// What other arbiters see, by their names.
    peers: BTreeMap<String, Peer>,
    /// When somebody was seen to attempt something, spaced and bounded; oldest first.
    attempts: VecDeque<Attempt>,
    attempt_spacing: Duration,
    /// How many outcomes each stream keeps: what the largest `k of n` needs.
    keep: usize,
    /// Evidence from before this moment does not count: the arbiter started, the primary changed, or the
    /// arbiter's own clock was not to be trusted.
    pub(super) floor: Time,
}

/// One signal as seen by one observer of one subject.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    pub(super) observer: Observer,
    pub(super) subject: Option<MemberName>,
    /// The newest outcome.
    pub(super) newest: Option<(Time, Outcome)>,
    /// The newest success.
    pub(super) success: Option<(Time, Fact)>,
    /// The newest outcomes, newest last: `Some(true)` success, `Some(false)` failure that counts, `None` neither.
    pub(super) recent: VecDeque<Option<bool>>,
    /// When the counter, position or text last moved, and what it is.
    pub(super) progress: Option<(Time, Progress)>,
    /// The sender's attempts when last reported.
    attempted: Option<u64>,
    pub(super) rhythm: Rhythm,
    /// It was heard in an earlier life of this arbiter.
    pub(super) heard_before: bool,
}

/// What moves in a stream.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Progress {
    Number(f64),
    Text(String),
}

impl Stream {
    fn new(observer: Observer, subject: Option<MemberName>) -> Self {
        Self {
            observer,
            subject,
            newest: None,
            success: None,
            recent: VecDeque::new(),
            progress: None,
            attempted: None,
            rhythm: Rhythm::default(),
            heard_before: false,
        }
    }

    /// Whether anything was ever heard, in this life or an earlier one.
    pub(super) const fn is_known(&self) -> bool {
        self.success.is_some() || self.heard_before
    }

    /// The newest outcome, if it is still fresh.
    pub(super) fn fresh(&self, now: Time, fresh_for: Duration) -> Option<(Time, &Outcome)> {
        self.newest.as_ref().filter(|(at, _)| now.since(*at) <= fresh_for).map(|(at, outcome)| (*at, outcome))
    }

    /// The newest outcome if it is fresh and a success.
    pub(super) fn fresh_fact(&self, now: Time, fresh_for: Duration) -> Option<(Time, &Fact)> {
        match self.fresh(now, fresh_for)? {
            (at, Outcome::Fact(fact)) => Some((at, fact)),
            (_, Outcome::Failure(_)) => None,
        }
    }

    fn take(&mut self, at: Time, outcome: Outcome, keep: usize) {
        self.recent.push_back(match &outcome {
            Outcome::Fact(_) => Some(true),
            Outcome::Failure(Failure { kind, .. }) => kind.is_evidence().then_some(false),
        });
        while self.recent.len() > keep {
            self.recent.pop_front();
        }
        if let Outcome::Fact(fact) = &outcome {
            if let (Some((last, _)), Fact::Beat { .. }) = (&self.success, fact) {
                self.rhythm.learn(at.since(*last));
            }
            #[expect(clippy::cast_precision_loss, reason = "only compared for having moved")]
            let progress = match fact {
                Fact::Arrivals(a) => Some(Progress::Number(a.received as f64)),
                Fact::Position { position } => Some(Progress::Number(*position as f64)),
                Fact::Role(RoleReport { position: Some(position), .. }) => Some(Progress::Number(*position as f64)),
                Fact::Value(value) => Some(Progress::Number(*value)),
                Fact::Text(text) => Some(Progress::Text(text.clone())),
                _ => None,
            };
            if let Some(progress) = progress
                && self.progress.as_ref().is_none_or(|(_, before)| *before != progress)
            {
                self.progress = Some((at, progress));
            }
            self.success = Some((at, fact.clone()));
        }
        self.newest = Some((at, outcome));
    }
}

impl View {
    /// An empty view for a policy. `heard`: the streams known from an earlier life.
    pub(super) fn new(policy: &ClusterPolicy, heard: &[(SignalName, Observer, Option<MemberName>)], now: Time) -> Self {
        let mut keep = 1;
        let mut longest = Duration::ZERO;
        let mut look = |condition: &Condition| match condition {
            Condition::FailingOf { of, .. } => keep = keep.max(*of as usize),
            Condition::Silent(d) | Condition::Stalled(d) => longest = longest.max(*d),
            _ => {}
        };
        for rule in &policy.rules {
            rule.when.walk(&mut |expr| match &expr.kind {
                ExprKind::Observers { are, .. } => look(are),
                ExprKind::Signal { condition, .. } => look(condition),
                _ => {}
            });
        }
        let mut view = Self {
            signals: policy.signals.keys().map(|name| (name.clone(), Vec::new())).collect(),
            agents: BTreeMap::new(),
            reaches: BTreeMap::new(),
            peers: BTreeMap::new(),
            attempts: VecDeque::new(),
            attempt_spacing: (longest / 128).max(Duration::from_millis(50)),
            keep,
            floor: now,
        };
        for (signal, observer, subject) in heard {
            if let Some(stream) = view.stream_mut(policy, signal, observer, subject.as_ref()) {
                stream.heard_before = true;
            }
        }
        view
    }

    /// Carries what is known over to a new policy: streams that it still names stay.
    pub(super) fn adopt(&mut self, policy: &ClusterPolicy) {
        let mut next = Self::new(policy, &[], self.floor);
        for (signal, streams) in std::mem::take(&mut self.signals) {
            let Some(signal_policy) = policy.signals.get(&signal) else { continue };
            let kept = streams.into_iter().filter(|s| admits(policy, signal_policy, &s.observer, s.subject.as_ref()));
            next.signals.insert(signal, kept.collect());
        }
        next.attempts = std::mem::take(&mut self.attempts);
        next.peers = std::mem::take(&mut self.peers);
        for peer in next.peers.values_mut() {
            peer.seen.retain(|(signal, _), _| policy.signals.contains_key(signal));
        }
        next.agents = std::mem::take(&mut self.agents);
        next.agents.retain(|member, _| policy.member(member).is_some());
        next.reaches = std::mem::take(&mut self.reaches);
        next.reaches.retain(|observer, _| is_agent(policy, observer));
        *self = next;
    }

    /// Takes an observation. `true` if the stream was never heard before and now is: worth remembering.
    /// Observations that the policy does not name are dropped.
    pub(super) fn take(&mut self, policy: &ClusterPolicy, seen: Observation) -> bool {
        if seen.signal.as_str() == AGENTS_SIGNAL
            && let Outcome::Fact(fact @ (Fact::Agent(_) | Fact::Reaches(_))) = seen.outcome
        {
            self.take_of_agent(policy, seen.at, seen.observer, seen.subject.as_ref(), fact);
            return false;
        }
        if let Observer::Peer(name) = &seen.observer {
            self.take_of_peer(policy, name.clone(), seen);
            return false;
        }
        let keep = self.keep;
        let Some(stream) = self.stream_mut(policy, &seen.signal, &seen.observer, seen.subject.as_ref()) else {
            return false;
        };
        let was_known = stream.is_known();
        let before = stream.newest.as_ref().map_or(seen.at, |(at, _)| *at);
        let attempt = Attempt { not_before: before, told: seen.at };
        let is_attempt = match &seen.outcome {
            Outcome::Fact(Fact::Arrivals(Arrivals { attempted: Some(n), .. })) => {
                let before = stream.attempted.replace(*n);
                before.is_some_and(|before| *n > before)
            }
            // A canary was sent, and its way to a live node failed: somebody attempted.
            Outcome::Failure(failure) if failure.kind.is_evidence() => {
                matches!(policy.signals.get(&seen.signal).map(|s| s.kind), Some(SignalKind::Canary))
            }
            _ => false,
        };
        // A heartbeat whose echo is not proved says nothing: the link may carry one way only.
        if matches!(seen.outcome, Outcome::Fact(Fact::Beat { echoed: false, .. })) {
            return false;
        }
        stream.take(seen.at, seen.outcome, keep);
        let is_news = !was_known && stream.is_known();
        if is_attempt {
            self.note_attempt(attempt);
        }
        is_news
    }

    fn take_of_agent(
        &mut self,
        policy: &ClusterPolicy,
        at: Time,
        observer: Observer,
        subject: Option<&MemberName>,
        fact: Fact,
    ) {
        match (fact, observer) {
            (Fact::Agent(report), Observer::Member(name))
                if subject == Some(&name) && policy.member(&name).is_some() =>
            {
                self.agents.insert(name, (at, *report));
            }
            (Fact::Reaches(parties), observer) if is_agent(policy, &observer) => {
                self.reaches.insert(observer, (at, parties));
            }
            _ => {}
        }
    }

    fn take_of_peer(&mut self, policy: &ClusterPolicy, name: String, seen: Observation) {
        let is_counted = policy.signals.get(&seen.signal).is_some_and(|signal| {
            signal.observers == Observers::Arbiter && admits(policy, signal, &Observer::Arbiter, seen.subject.as_ref())
        });
        if !is_counted || (self.peers.len() >= PEERS_MAX && !self.peers.contains_key(&name)) {
            return;
        }
        let peer = self.peers.entry(name).or_default();
        peer.heard = peer.heard.max(seen.at);
        peer.seen.insert((seen.signal, seen.subject), (seen.at, seen.outcome));
    }

    /// When another arbiter's view came last.
    pub(super) fn peer_seen(&self, name: &str) -> Option<Time> {
        self.peers.get(name).map(|peer| peer.heard)
    }

    /// Whether any other arbiter was ever heard.
    pub(super) fn has_peers(&self) -> bool {
        !self.peers.is_empty()
    }

    /// When the newest attempt that is remembered was told.
    pub(super) fn newest_attempt(&self) -> Option<Time> {
        self.attempts.back().map(|attempt| attempt.told)
    }

    /// What the other arbiters that are heard saw last of this signal and subject, if that is recent.
    pub(super) fn of_peers(
        &self,
        signal: &SignalName,
        subject: Option<&MemberName>,
        now: Time,
    ) -> impl Iterator<Item = (&str, Option<(Time, &Outcome)>)> {
        let key = (signal.clone(), subject.cloned());
        let is_recent = move |at: Time| now.since(at) <= PEER_HEARD_WITHIN;
        self.peers.iter().filter(move |(_, peer)| is_recent(peer.heard)).map(move |(name, peer)| {
            let newest = peer.seen.get(&key).filter(|(at, _)| is_recent(*at) && *at >= self.floor);
            (name.as_str(), newest.map(|(at, outcome)| (*at, outcome)))
        })
    }

    /// These streams were heard by whoever led before.
    pub(super) fn heard_before(
        &mut self,
        policy: &ClusterPolicy,
        heard: &[(SignalName, Observer, Option<MemberName>)],
    ) {
        for (signal, observer, subject) in heard {
            if let Some(stream) = self.stream_mut(policy, signal, observer, subject.as_ref()) {
                stream.heard_before = true;
            }
        }
    }

    /// What the agent of a member told last, however old.
    pub(super) fn agent(&self, member: &MemberName) -> Option<(Time, &MemberReport)> {
        self.agents.get(member).map(|(at, report)| (*at, report))
    }

    /// When the agent of a member was last heard, by whatever path.
    pub(super) fn agent_seen(&self, member: &MemberName) -> Option<Time> {
        let reaches = self.reaches.get(&Observer::Member(member.clone())).map(|(at, _)| *at);
        self.agents.get(member).map(|(at, _)| *at).max(reaches)
    }

    /// When the agent of a node was last heard, by whatever path.
    pub(super) fn node_agent_seen(&self, node: &NodeName) -> Option<Time> {
        self.reaches.get(&Observer::Node(node.clone())).map(|(at, _)| *at)
    }

    /// How many nodes reach the agent of a member directly, of how many that say whom they reach.
    pub(super) fn reached_by_nodes(
        &self,
        policy: &ClusterPolicy,
        member: &MemberName,
        now: Time,
        within: Duration,
    ) -> (usize, usize) {
        let party = PartyName::from(member);
        let told = policy.nodes.iter().filter_map(|node| self.reaches.get(&Observer::Node(node.clone())));
        told.filter(|(at, _)| now.since(*at) <= within)
            .fold((0, 0), |(reached, asked), (_, parties)| (reached + usize::from(parties.contains(&party)), asked + 1))
    }

    /// Whether a member is heard by some path: one that it answers on, or on which it or its agent speaks. `None`: there
    /// never was such a path.
    pub(super) fn hears(&self, policy: &ClusterPolicy, member: &MemberName, now: Time) -> Option<bool> {
        let agent = self.agent_seen(member);
        if agent.is_some_and(|at| now.since(at) <= AGENT_HEARD_WITHIN) {
            return Some(true);
        }
        let mut is_known = agent.is_some();
        for (name, stream) in self.all().filter(|(_, s)| s.subject.as_ref() == Some(member)) {
            let Some(signal) = policy.signals.get(name).filter(|s| is_spoken(s.kind)) else { continue };
            if stream.fresh_fact(now, signal.fresh_for).is_some() {
                return Some(true);
            }
            is_known |= stream.newest.is_some();
        }
        is_known.then_some(false)
    }

    fn note_attempt(&mut self, attempt: Attempt) {
        if self.attempts.back().is_none_or(|last| attempt.told.since(last.told) >= self.attempt_spacing) {
            self.attempts.push_back(attempt);
            while self.attempts.len() > 256 {
                self.attempts.pop_front();
            }
        }
    }

    /// When the first attempt that was surely made after `since`, and is still remembered, was told of. A counter
    /// that rose between two reports says of the attempt only that it lies between them: one that may have been made
    /// before `since` may have been answered by what arrived then. Forgetting makes it later, never earlier.
    pub(super) fn first_attempt_after(&self, since: Time) -> Option<Time> {
        let from = self.attempts.partition_point(|attempt| attempt.told <= since);
        self.attempts.iter().skip(from).find(|attempt| attempt.not_before >= since).map(|attempt| attempt.told)
    }

    /// Nothing that was seen before counts any more: windows start anew, silences count from now.
    pub(super) fn forget_suspicion(&mut self, now: Time) {
        self.floor = now;
        self.attempts.clear();
        for stream in self.signals.values_mut().flatten() {
            stream.recent.clear();
            if let Some((at, _)) = &mut stream.progress {
                *at = (*at).max(now);
            }
        }
    }

    fn stream_mut(
        &mut self,
        policy: &ClusterPolicy,
        signal: &SignalName,
        observer: &Observer,
        subject: Option<&MemberName>,
    ) -> Option<&mut Stream> {
        let signal_policy = policy.signals.get(signal)?;
        let streams = self.signals.get_mut(signal)?;
        let at = match place_of(streams, observer, subject) {
            Ok(at) => at,
            Err(at) if admits(policy, signal_policy, observer, subject) => {
                streams.insert(at, Stream::new(observer.clone(), subject.cloned()));
                at
            }
            Err(_) => return None,
        };
        streams.get_mut(at)
    }

    /// All streams of a signal.
    pub(super) fn streams(&self, signal: &SignalName) -> &[Stream] {
        self.signals.get(signal).map_or(&[], Vec::as_slice)
    }

    /// All streams of all signals.
    pub(super) fn all(&self) -> impl Iterator<Item = (&SignalName, &Stream)> {
        self.signals.iter().flat_map(|(name, streams)| streams.iter().map(move |s| (name, s)))
    }

    /// The stream of one observer and subject.
    pub(super) fn find(
        &self,
        signal: &SignalName,
        observer: &Observer,
        subject: Option<&MemberName>,
    ) -> Option<&Stream> {
        let streams = self.streams(signal);
        streams.get(place_of(streams, observer, subject).ok()?)
    }

    /// The newest role report of a member within `within`.
    pub(super) fn role(
        &self,
        policy: &ClusterPolicy,
        member: &MemberName,
        now: Time,
        within: Duration,
    ) -> Option<(Time, &RoleReport)> {
        let reports = self.roles(policy, member).filter_map(|stream| match stream.fresh_fact(now, within)? {
            (at, Fact::Role(report)) => Some((at, report)),
            _ => None,
        });
        reports.max_by_key(|(at, _)| *at)
    }

    /// What the arbiter was told of a member's role, and what the member's agent was: a member that only the agent
    /// reaches is known all the same.
    fn roles(&self, policy: &ClusterPolicy, member: &MemberName) -> impl Iterator<Item = &Stream> + use<'_> {
        let streams = policy.role_signal.as_ref().map_or(&[][..], |signal| self.streams(signal));
        let of = |observer: &Observer| streams.get(place_of(streams, observer, Some(member)).ok()?);
        [of(&Observer::Arbiter), of(&Observer::Member(member.clone()))].into_iter().flatten()
    }

    /// The newest role report of a member, however old.
    pub(super) fn last_role(&self, policy: &ClusterPolicy, member: &MemberName) -> Option<(Time, &RoleReport)> {
        self.last_roles(policy, member).max_by_key(|(at, _)| *at)
    }

    fn last_roles(
        &self,
        policy: &ClusterPolicy,
        member: &MemberName,
    ) -> impl Iterator<Item = (Time, &RoleReport)> + use<'_> {
        self.roles(policy, member).filter_map(|stream| match stream.success.as_ref()? {
            (at, Fact::Role(report)) => Some((*at, report)),
            _ => None,
        })
    }

    /// The newest known position of a member, by any signal that tells positions, and when it was told.
    pub(super) fn position(&self, member: &MemberName) -> Option<(Time, u64)> {
        self.signals
            .values()
            .flatten()
            .filter(|s| s.subject.as_ref() == Some(member))
            .filter_map(|s| match s.success.as_ref()? {
                (at, Fact::Position { position }) => Some((*at, *position)),
                (at, Fact::Role(RoleReport { position: Some(position), .. })) => Some((*at, *position)),
                _ => None,
            })
            .max()
    }

    /// When anything succeeded that is about this member.
    pub(super) fn member_seen(&self, member: &MemberName) -> Option<Time> {
        self.signals
            .values()
            .flatten()
            .filter(|s| s.subject.as_ref() == Some(member))
            .filter_map(|s| s.success.as_ref().map(|(at, _)| *at))
            .max()
    }

    /// The streams in which this node is the observer.
    pub(super) fn of_node(&self, node: &NodeName) -> impl Iterator<Item = (&SignalName, &Stream)> {
        let observer = Observer::Node(node.clone());
        self.signals.iter().flat_map(move |(name, streams)| {
            let from = streams.partition_point(|s| s.observer < observer);
            let count = streams[from..].iter().take_while(|s| s.observer == observer).count();
            streams[from..from + count].iter().map(move |stream| (name, stream))
        })
    }

    /// When this node itself last said anything.
    pub(super) fn node_seen(&self, node: &NodeName) -> Option<Time> {
        self.of_node(node).filter_map(|(_, s)| s.success.as_ref().map(|(at, _)| *at)).max()
    }

    /// Whether this node reported in an earlier life of the arbiter, and is still to be heard in this one.
    pub(super) fn awaits_node(&self, node: &NodeName) -> bool {
        let own = |s: &&Stream| matches!(&s.observer, Observer::Node(n) if n == node);
        self.node_seen(node).is_none() && self.signals.values().flatten().filter(own).any(|s| s.heard_before)
    }

    /// The newest arrivals report of this node.
    pub(super) fn arrivals(&self, node: &NodeName) -> Option<(Time, &Arrivals)> {
        self.of_node(node)
            .filter_map(|(_, s)| match s.success.as_ref()? {
                (at, Fact::Arrivals(arrivals)) => Some((*at, arrivals)),
                _ => None,
            })
            .max_by_key(|(at, _)| *at)
    }

    /// The members that claim to be primary, freshly, and said so after `since`.
    pub(super) fn claims_of_primary(&self, policy: &ClusterPolicy, now: Time, since: Time) -> Vec<MemberName> {
        let Some(signal) = policy.role_signal.as_ref().and_then(|name| policy.signals.get(name)) else {
            return Vec::new();
        };
        policy
            .members
            .iter()
            .filter(|m| {
                let report = self.role(policy, &m.name, now, signal.fresh_for);
                report.is_some_and(|(at, r)| at >= since && r.role == Role::Primary)
            })
            .map(|m| m.name.clone())
            .collect()
    }

    /// The largest epoch that any member, or its agent, said it has stored.
    pub(super) fn largest_stored_epoch(&self, policy: &ClusterPolicy) -> Epoch {
        let members = policy.members.iter();
        let stored = members.flat_map(|m| self.last_roles(policy, &m.name)).filter_map(|(_, report)| report.epoch);
        stored.chain(self.agents.values().map(|(_, report)| report.epoch)).max().unwrap_or_default()
    }
}

/// Where the stream of one observer and subject is among those of its signal, or where it belongs.
fn place_of(streams: &[Stream], observer: &Observer, subject: Option<&MemberName>) -> Result<usize, usize> {
    streams.binary_search_by(|s| s.observer.cmp(observer).then_with(|| s.subject.as_ref().cmp(&subject)))
}

/// Somebody attempted something between these two moments.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    not_before: Time,
    told: Time,
}

/// Whether it is the agent of one of the cluster's.
fn is_agent(policy: &ClusterPolicy, observer: &Observer) -> bool {
    match observer {
        Observer::Member(name) => policy.member(name).is_some(),
        Observer::Node(name) => policy.nodes.contains(name),
        Observer::Arbiter | Observer::Peer(_) => false,
    }
}

/// Whether a fact of this kind says that its subject itself was heard. What a third party keeps (a metric, an alert) does
/// not.
const fn is_spoken(kind: SignalKind) -> bool {
    matches!(
        kind,
        SignalKind::Heartbeat
            | SignalKind::Check
            | SignalKind::Role
            | SignalKind::Position
            | SignalKind::Link
            | SignalKind::Write
            | SignalKind::Process
    )
}

/// Whether the policy knows such a stream. Keeps memory bounded and strangers out.
fn admits(policy: &ClusterPolicy, signal: &SignalPolicy, observer: &Observer, subject: Option<&MemberName>) -> bool {
    let observer_fits = match (&signal.observers, observer) {
        (Observers::Arbiter, Observer::Arbiter) => true,
        (Observers::Members, Observer::Member(name)) => subject == Some(name),
        (Observers::Nodes(nodes), Observer::Node(name)) => nodes.contains(name),
        // The role is told by the member's own agent, too.
        (Observers::Arbiter, Observer::Member(name)) => signal.kind == SignalKind::Role && subject == Some(name),
        _ => false,
    };
    let subject_fits = match (subject, &signal.subjects) {
        (None, Subjects::Service) => true,
        (None, _) | (Some(_), Subjects::Service) => false,
        (Some(name), Subjects::Member(only)) => name == only,
        (Some(name), _) => policy.member(name).is_some(),
    };
    observer_fits && subject_fits
}

//! What is seen: probes of the arbiters, heartbeats of members, reports of nodes, the canary.

use std::time::Duration;

use super::{
    host::MS,
    setting::{Setting, Source},
    world::{Happening, Message, World},
};
use crate::model::{
    Fact, Failure, FailureKind, MemberName, Observer, Outcome, Role, SignalName,
    observation::Arrivals,
    policy::{SignalKind, Subjects},
};

/// One signal, as it is looked at.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    pub(super) signal: SignalName,
    pub(super) source: Source,
    kind: SignalKind,
    subjects: Subjects,
    pub(super) every: Duration,
    pub(super) fresh_for: Duration,
    /// How long one look may take. The policy does not say it; what is fresh allows for the period and one look.
    timeout: Duration,
}

impl Stream {
    /// Whether the arbiter has to do something for it.
    pub(super) const fn is_looked_at(&self) -> bool {
        matches!(self.source, Source::Ask(_) | Source::Canary | Source::Constant)
    }

    pub(super) const fn is_of_nodes(&self) -> bool {
        matches!(self.source, Source::Arrivals | Source::Canary)
    }
}

/// What was seen, to be handed in later.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    stream: usize,
    observer: Observer,
    subject: Option<MemberName>,
    outcome: Outcome,
}

pub(super) fn streams(setting: &Setting) -> Vec<Stream> {
    let all = setting.cluster_policy().signals.iter().filter_map(|(name, signal)| {
        let source = setting.sources.get(name).copied()?;
        let spare = signal.fresh_for.saturating_sub(signal.every);
        Some(Stream {
            signal: name.clone(),
            source,
            kind: signal.kind,
            subjects: signal.subjects.clone(),
            every: signal.every,
            fresh_for: signal.fresh_for,
            timeout: spare.min(signal.every).max(Duration::from_millis(20)),
        })
    });
    all.collect()
}

impl World<'_> {
    /// Members push, from the start.
    pub(super) fn start_pushes(&mut self, member: usize) {
        for stream in 0..self.streams.len() {
            if matches!(self.streams[stream].source, Source::Heartbeat) {
                let after = self.random.within(0, 100 * MS);
                self.after(after, Happening::Push { member, stream });
            }
        }
    }

    pub(super) fn start_node(&mut self, node: usize) {
        let after = self.random.within(0, self.write_every);
        self.after(after, Happening::Write { node });
        for stream in 0..self.streams.len() {
            if matches!(self.streams[stream].source, Source::Arrivals) {
                let after = self.random.within(0, 100 * MS);
                self.after(after, Happening::Report { node, stream });
            }
        }
    }

    /// A member that lives says so.
    pub(super) fn push(&mut self, member: usize, stream: usize) {
        self.after(self.ns(self.streams[stream].every), Happening::Push { member, stream });
        let m = &self.members[member];
        if !m.answers(&self.hosts[m.host], self.now) {
            return;
        }
        let from = m.host;
        for arbiter in 0..self.arbiters.len() {
            if self.network.carries(from, arbiter) {
                self.send(from, arbiter, Message::Heartbeat { member, stream });
            }
        }
    }

    pub(super) fn heartbeat_came(&mut self, arbiter: usize, member: usize, stream: usize) {
        let s = &self.streams[stream];
        let is_about = match &s.subjects {
            Subjects::Primary => self.arbiters[arbiter].primary == Some(member),
            Subjects::Standbys => self.arbiters[arbiter].primary != Some(member),
            Subjects::Member(name) => *name == self.names[member],
            Subjects::Members | Subjects::Service => true,
        };
        if !is_about {
            return;
        }
        let signal = s.signal.clone();
        let name = self.names[member].clone();
        // An echo comes back only where both ways carry.
        let echoed = self.network.both_ways(self.members[member].host, arbiter);
        let fact = Outcome::Fact(Fact::Beat { seq: self.now / MS, echoed });
        self.observe(arbiter, &signal, Observer::Member(name.clone()), Some(name), fact);
    }

    pub(super) fn report_arrivals(&mut self, node: usize, stream: usize) {
        self.after(self.ns(self.streams[stream].every), Happening::Report { node, stream });
        let n = &self.nodes[node];
        if !n.is_alive || !self.hosts[n.host].runs(self.now) {
            return;
        }
        let from = n.host;
        let arrivals = Box::new(n.arrivals(self.now, &self.names));
        for arbiter in 0..self.arbiters.len() {
            let arrivals = arrivals.clone();
            self.send(from, arbiter, Message::Arrivals { node, stream, arrivals });
        }
    }

    pub(super) fn arrivals_came(&mut self, arbiter: usize, node: usize, stream: usize, arrivals: Arrivals) {
        self.arbiters[arbiter].nodes_heard[node] = self.now;
        let signal = self.streams[stream].signal.clone();
        let observer = Observer::Node(self.setting.cluster_policy().nodes[node].clone());
        let told = arrivals.epoch;
        self.observe(arbiter, &signal, observer, None, Outcome::Fact(Fact::Arrivals(arrivals)));
        // The answer tells whom to follow.
        if self.leads(arbiter)
            && let Some((member, epoch)) = self.primary_view(arbiter)
            && epoch > told
        {
            let to = self.nodes[node].host;
            self.send(arbiter, to, Message::Primary { node, member, epoch });
        }
    }

    /// An arbiter looks.
    pub(super) fn look(&mut self, arbiter: usize, life: u32, stream: usize) {
        if !self.is_life(arbiter, life) {
            return;
        }
        if !self.arbiter_runs(arbiter) {
            return self.after(50 * MS, Happening::Look { arbiter, life, stream });
        }
        self.after(self.ns(self.streams[stream].every), Happening::Look { arbiter, life, stream });
        match self.streams[stream].source {
            Source::Ask(_) => {
                for member in self.subjects(arbiter, stream) {
                    self.ask(arbiter, life, stream, member);
                }
            }
            Source::Canary => self.canary(arbiter, life, stream),
            Source::Constant => self.constant(arbiter, stream),
            Source::Heartbeat | Source::Arrivals | Source::Agent(_) => {}
        }
    }

    fn subjects(&self, arbiter: usize, stream: usize) -> Vec<usize> {
        let primary = self.arbiters[arbiter].primary;
        let all = 0..self.members.len();
        match &self.streams[stream].subjects {
            Subjects::Primary | Subjects::Service => primary.into_iter().collect(),
            Subjects::Standbys => all.filter(|member| primary.is_some() && Some(*member) != primary).collect(),
            Subjects::Members => all.collect(),
            Subjects::Member(name) => self.member_at(name).into_iter().collect(),
        }
    }

    fn ask(&mut self, arbiter: usize, life: u32, stream: usize, member: usize) {
        let name = Some(self.names[member].clone());
        let m = &self.members[member];
        let is_lost = self.network.loss_percent > 0 && self.random.within(0, 100) < self.network.loss_percent;
        let is_reached = self.network.both_ways(arbiter, m.host) && self.hosts[m.host].runs(self.now) && !is_lost;
        let is_gated = m.role == Role::Primary && !m.is_gate_open(&self.hosts[m.host], self.now);
        let is_shut_out = m.is_shut_for_arbiters() || is_gated;
        let timeout = self.ns(self.streams[stream].timeout);
        let round_trip = 2 * self.random.within(self.network.delay.0, self.network.delay.1);
        let (outcome, after) = if !is_reached || is_shut_out || (m.is_alive && m.frozen_since.is_some()) {
            (Outcome::Failure(Failure::new(FailureKind::TimedOut, "no answer")), timeout)
        } else if !m.is_alive {
            (Outcome::Failure(Failure::new(FailureKind::Refused, "connection refused")), round_trip)
        } else if round_trip > timeout {
            (Outcome::Failure(Failure::new(FailureKind::TimedOut, "no answer")), timeout)
        } else {
            (self.answer_to(stream, member, round_trip), round_trip)
        };
        let seen = Seen { stream, observer: Observer::Arbiter, subject: name, outcome };
        self.see(arbiter, life, seen, after);
    }

    fn answer_to(&self, stream: usize, member: usize, round_trip: u64) -> Outcome {
        let m = &self.members[member];
        let fact = match self.streams[stream].kind {
            SignalKind::Role => Fact::Role(self.role_report(member)),
            SignalKind::Position => Fact::Position { position: m.position() },
            SignalKind::Link => {
                let up = m.follows.is_some_and(|leader| self.is_fed(member, leader));
                Fact::Link { up, last_io: None }
            }
            SignalKind::Write => match (m.is_read_only, m.is_full) {
                (true, _) => Fact::Writable(false),
                (false, true) => return Outcome::Failure(Failure::new(FailureKind::Full, "no space left")),
                (false, false) => Fact::Writable(true),
            },
            _ => Fact::Ok { latency: Duration::from_nanos(round_trip) },
        };
        Outcome::Fact(fact)
    }

    /// A message through the broker, to each node.
    fn canary(&mut self, arbiter: usize, life: u32, stream: usize) {
        let Some(member) = self.arbiters[arbiter].primary else { return };
        let m = &self.members[member];
        let is_sent = self.network.both_ways(arbiter, m.host) && m.could_acknowledge(&self.hosts[m.host], self.now);
        let from = m.host;
        let timeout = self.ns(self.streams[stream].timeout);
        for node in 0..self.nodes.len() {
            let n = &self.nodes[node];
            // Nothing is known of the broker by a node that is not there.
            let is_there = n.is_alive && self.hosts[n.host].runs(self.now) && self.network.both_ways(arbiter, n.host);
            let comes = is_sent
                && self.network.carries(from, n.host)
                && !n.drops.contains(&member)
                && n.follows == Some(member);
            let (outcome, after) = match (is_there, comes) {
                (true, true) => (Outcome::Fact(Fact::Canary { latency: Duration::from_millis(2) }), 2 * MS),
                (true, false) => (Outcome::Failure(Failure::new(FailureKind::TimedOut, "it did not come")), timeout),
                (false, _) => {
                    (Outcome::Failure(Failure::new(FailureKind::Local, "the node is not heard itself")), timeout)
                }
            };
            let observer = Observer::Node(self.setting.cluster_policy().nodes[node].clone());
            self.see(arbiter, life, Seen { stream, observer, subject: None, outcome }, after);
        }
    }

    /// What nothing is known of stays as it is on a good day.
    fn constant(&mut self, arbiter: usize, stream: usize) {
        let outcome = match self.streams[stream].kind {
            SignalKind::Alert => Fact::Alert { firing: false },
            SignalKind::Value => return,
            _ => return,
        };
        let signal = self.streams[stream].signal.clone();
        self.observe(arbiter, &signal, Observer::Arbiter, None, Outcome::Fact(outcome));
    }

    fn see(&mut self, arbiter: usize, life: u32, seen: Seen, after: u64) {
        if after <= 4 * MS {
            // Too short to matter to anything but the number of events.
            self.hand_in(arbiter, seen);
        } else {
            self.after(after, Happening::Seen { arbiter, life, seen: Box::new(seen) });
        }
    }

    pub(super) fn seen_late(&mut self, arbiter: usize, life: u32, seen: Seen) {
        if !self.is_life(arbiter, life) {
            return;
        }
        if !self.arbiter_runs(arbiter) {
            return self.after(50 * MS, Happening::Seen { arbiter, life, seen: Box::new(seen) });
        }
        self.hand_in(arbiter, seen);
    }

    fn hand_in(&mut self, arbiter: usize, seen: Seen) {
        let signal = self.streams[seen.stream].signal.clone();
        if matches!(seen.observer, Observer::Node(_))
            && !matches!(&seen.outcome, Outcome::Failure(f) if f.kind == FailureKind::Local)
            && let Observer::Node(name) = &seen.observer
            && let Some(node) = self.setting.cluster_policy().nodes.iter().position(|n| n == name)
        {
            self.arbiters[arbiter].nodes_heard[node] = self.now;
        }
        self.observe(arbiter, &signal, seen.observer, seen.subject, seen.outcome);
    }
}

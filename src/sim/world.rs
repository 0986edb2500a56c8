//! The world: its queue of what will happen, its one true time, and the loop.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    time::Duration,
};

use super::{
    agent::{Agent, OrderKey},
    arbiter::Arbiter,
    check::Checks,
    coverage::Coverage,
    fault::Behaviour,
    hands::{Answer, Deed},
    host::{Host, MS, Network, SEC},
    look::Stream,
    member::Member,
    node::Node,
    random::Random,
    setting::Setting,
    store::Store,
};
use crate::model::{Epoch, MemberName, PartyName, Role, Time, agent::MemberReport, observation::Arrivals};

/// Who speaks as a voter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Voice {
    Arbiter(usize),
    Member(usize),
}

/// What goes from host to host.
#[derive(Clone, Debug)]
pub(super) enum Message {
    Beat {
        member: usize,
        life: u32,
        challenge: Time,
        report: Box<MemberReport>,
    },
    Heartbeat {
        member: usize,
        stream: usize,
    },
    Arrivals {
        node: usize,
        stream: usize,
        arrivals: Box<Arrivals>,
    },
    Renew {
        voice: Voice,
        member: usize,
        /// The agent's: what answers it is for that life alone, as every datagram of the mesh is for one of its receiver's.
        life: u32,
        epoch: Epoch,
        request: u64,
    },
    Granted {
        member: usize,
        life: u32,
        by: usize,
        epoch: Epoch,
        request: u64,
    },
    Seal {
        voice: Voice,
        arbiter: usize,
        epoch: Epoch,
    },
    Sealed {
        by: usize,
        epoch: Epoch,
        is_over: bool,
    },
    Order {
        member: usize,
        key: OrderKey,
        epoch: Epoch,
        challenge: (u32, Time),
        deed: Deed,
        /// It is not carried out for longer.
        until: u64,
    },
    Answer {
        member: usize,
        key: OrderKey,
        answer: Answer,
    },
    /// To a node, directly or as the answer to what it reported.
    Primary {
        node: usize,
        member: usize,
        epoch: Epoch,
    },
}

/// What will happen.
#[derive(Clone, Debug)]
pub(super) enum Happening {
    Deliver { from: usize, to: usize, message: Message },
    Look { arbiter: usize, life: u32, stream: usize },
    Seen { arbiter: usize, life: u32, seen: Box<super::look::Seen> },
    Beat { member: usize },
    Push { member: usize, stream: usize },
    Report { node: usize, stream: usize },
    Write { node: usize },
    Replicate { from: usize, to: usize },
    Renew { member: usize },
    TellSealed { voice: Voice, arbiter: usize },
    Restart { member: usize, life: u32 },
    StoreAnswer { arbiter: usize, life: u32, term: Option<u64>, id: u64, records: Vec<crate::model::Record> },
    Tells { arbiter: usize, life: u32, incident: Box<crate::model::Incident> },
    Elect { arbiter: usize, life: u32 },
    Elected { arbiter: usize, life: u32, sent: Time, term: Option<u64> },
    Sealing { arbiter: usize, life: u32 },
    SendOrder { arbiter: usize, life: u32, number: u32 },
    Carry { member: usize, life: u32, key: OrderKey, epoch: Epoch, deed: Deed, until: u64 },
    Do { arbiter: usize, life: u32, act: u32 },
    ActOver { arbiter: usize, life: u32, act: u32 },
    ActEnds { arbiter: usize, life: u32, act: u32, result: Box<crate::model::StepResult> },
    Fault(usize),
    Undo(usize),
    Resume { host: usize },
    Heal,
}

#[derive(Debug)]
struct Item {
    at: u64,
    number: u64,
    what: Happening,
}

impl PartialEq for Item {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Item {}

impl PartialOrd for Item {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Item {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

pub(super) struct World<'s> {
    pub(super) setting: &'s Setting,
    pub(super) now: u64,
    pub(super) random: Random,
    pub(super) hosts: Vec<Host>,
    pub(super) network: Network,
    pub(super) arbiters: Vec<Arbiter>,
    pub(super) members: Vec<Member>,
    pub(super) nodes: Vec<Node>,
    pub(super) store: Store,
    pub(super) names: Vec<MemberName>,
    pub(super) voices: BTreeMap<PartyName, Voice>,
    pub(super) streams: Vec<Stream>,
    /// How the next acts of a kind go.
    pub(super) act_faults: Vec<(&'static str, Behaviour)>,
    /// Acts of the power controllers reach nobody.
    pub(super) is_power_cut_off: bool,
    pub(super) write_every: u64,
    pub(super) writes: u32,
    pub(super) checks: Checks,
    pub(super) coverage: Coverage,
    pub(super) story: Option<Vec<(u64, String)>>,
    pub(super) faults: Vec<super::fault::Timed>,
    queue: BinaryHeap<Reverse<Item>>,
    number: u64,
    pub(super) events: u64,
}

impl<'s> World<'s> {
    pub(super) fn new(setting: &'s Setting, seed: u64, is_told: bool) -> Self {
        let mut random = Random::new(seed);
        let policy = setting.cluster_policy();
        let rho = policy.failover.lease.as_ref().map_or(0, |lease| u64::from(lease.clock_rate_permille));
        let mut hosts = Vec::new();
        // An agent's clock may lie off by as much as the lease allows for; those of a good day hardly do.
        let drift = if rho > 0 && random.one_in(4) { rho } else { 1 };
        let names = (0..setting.arbiters).map(|n| format!("arbiter-{}", n + 1));
        let names = names.chain(policy.members.iter().map(|m| m.name.as_str().to_owned()));
        for name in names.chain(policy.nodes.iter().map(|n| n.as_str().to_owned())) {
            let rate = random.within(1_000 - drift, 1_001 + drift);
            let offset = random.within(1_000 * SEC, 1_000_000 * SEC);
            hosts.push(Host::new(name, rate, offset));
        }
        let lease = policy.failover.lease.as_ref();
        let members = policy.members.iter().enumerate().map(|(index, m)| {
            let host = setting.arbiters + index;
            let mono = hosts[host].moment(0).mono;
            Member {
                host,
                agent: m.has_agent.then(|| Agent::new(mono, lease)),
                is_alive: true,
                life: 0,
                frozen_since: None,
                is_full: false,
                is_lagging: false,
                is_inhibited: false,
                role: if index == 0 { Role::Primary } else { Role::Standby },
                is_read_only: index > 0,
                epoch: Epoch::ZERO,
                follows: (index > 0).then_some(0),
                log: Vec::new(),
                kept_apart: Vec::new(),
                shut_out: BTreeSet::new(),
                admitted: BTreeSet::new(),
                gate: None,
                gate_epoch: Epoch::ZERO,
                gate_lag: 0,
                has_gate: m.has_agent && setting.gates.contains(&m.name),
                did_serve: false,
            }
        });
        let members: Vec<Member> = members.collect();
        let first_node = setting.arbiters + members.len();
        let mut nodes: Vec<Node> = (0..policy.nodes.len()).map(|n| Node::new(first_node + n)).collect();
        nodes.iter_mut().for_each(|node| node.follows = Some(0));
        let arrivals = policy.signals.values().filter(|s| s.kind == crate::model::policy::SignalKind::Arrivals);
        let every = arrivals.map(|s| s.every).min().unwrap_or(Duration::from_millis(500));
        let write_every = u64::try_from(every.as_nanos() / 2).unwrap_or(SEC).clamp(20 * MS, 250 * MS);
        let mut world = Self {
            now: 0,
            random,
            network: Network::good(),
            arbiters: Vec::new(),
            store: Store::default(),
            names: policy.members.iter().map(|m| m.name.clone()).collect(),
            voices: voices(setting),
            streams: super::look::streams(setting),
            act_faults: Vec::new(),
            is_power_cut_off: false,
            write_every,
            writes: 0,
            checks: Checks::new(members.len()),
            coverage: Coverage::default(),
            story: is_told.then(Vec::new),
            faults: Vec::new(),
            queue: BinaryHeap::new(),
            number: 0,
            events: 0,
            setting,
            hosts,
            members,
            nodes,
        };
        for arbiter in 0..setting.arbiters {
            let first = world.new_arbiter(arbiter);
            world.arbiters.push(first);
        }
        for arbiter in 0..setting.arbiters {
            world.begin(arbiter);
        }
        for member in 0..world.members.len() {
            world.beat_soon(member);
            world.start_pushes(member);
        }
        for node in 0..world.nodes.len() {
            world.start_node(node);
        }
        world
    }

    // ---- small words -------------------------------------------------------------------------------------------

    #[expect(clippy::unused_self, reason = "reads as a word of the world")]
    pub(super) fn ns(&self, d: Duration) -> u64 {
        u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
    }

    pub(super) fn host_of(&self, voice: Voice) -> usize {
        match voice {
            Voice::Arbiter(arbiter) => arbiter,
            Voice::Member(member) => self.members[member].host,
        }
    }

    /// The party that speaks from that host.
    pub(super) fn party_at(&self, host: usize) -> PartyName {
        let found = self.voices.iter().find(|(_, voice)| self.host_of(**voice) == host);
        found.map_or_else(|| self.hosts[host].name.as_str().into(), |(name, _)| name.clone())
    }

    pub(super) fn member_at(&self, name: &MemberName) -> Option<usize> {
        self.names.iter().position(|n| n == name)
    }

    /// A line of the story, if anybody listens.
    pub(super) fn tell(&mut self, text: impl FnOnce() -> String) {
        if let Some(story) = &mut self.story {
            story.push((self.now, text()));
        }
    }

    pub(super) fn tell_with(&mut self, member: usize, text: impl FnOnce(&str) -> String) {
        if let Some(story) = &mut self.story {
            story.push((self.now, text(self.names[member].as_str())));
        }
    }

    // ---- time --------------------------------------------------------------------------------------------------

    pub(super) fn at(&mut self, at: u64, what: Happening) {
        self.number += 1;
        self.queue.push(Reverse(Item { at: at.max(self.now), number: self.number, what }));
    }

    pub(super) fn after(&mut self, after: u64, what: Happening) {
        self.at(self.now.saturating_add(after), what);
    }

    /// Sends a message by whatever path is left: directly, or through one party that both reach.
    pub(super) fn send(&mut self, from: usize, to: usize, message: Message) {
        let is_direct = self.network.carries(from, to);
        let hops = match (is_direct, self.setting.has_relays) {
            (true, _) => 1,
            (false, true) if self.relay_between(from, to) => 2,
            _ => return,
        };
        let copies =
            1 + u64::from(self.network.twice_percent > 0 && self.random.within(0, 100) < self.network.twice_percent);
        for _ in 0..copies {
            let mut delay = 0;
            let mut is_lost = from == to;
            if from != to {
                for _ in 0..hops {
                    match self.network.send(&mut self.random) {
                        Some(more) => delay += more,
                        None => is_lost = true,
                    }
                }
            } else {
                is_lost = false;
            }
            if !is_lost {
                self.after(delay, Happening::Deliver { from, to, message: message.clone() });
            }
        }
    }

    /// Whether some party is reached by the one and reaches the other.
    pub(super) fn relay_between(&self, from: usize, to: usize) -> bool {
        let has_agent = |host: usize| match host.checked_sub(self.arbiters.len()) {
            None => true,
            Some(member) => self.members.get(member).is_none_or(|_| self.agent_runs(member)),
        };
        (0..self.hosts.len()).any(|via| {
            via != from
                && via != to
                && self.hosts[via].runs(self.now)
                && has_agent(via)
                && self.network.carries(from, via)
                && self.network.carries(via, to)
        })
    }

    /// Whether a party on that host reaches the other host, directly or through one other.
    pub(super) fn reaches(&self, from: usize, to: usize) -> bool {
        self.network.both_ways(from, to)
            || (self.setting.has_relays
                && !self.network.cuts.is_empty()
                && self.relay_between(from, to)
                && self.relay_between(to, from))
    }

    /// Runs until that true time, or until something was found that must not be.
    pub(super) fn run_until(&mut self, until: u64) {
        loop {
            let event = self.queue.peek().map(|Reverse(item)| item.at);
            let wake = (0..self.arbiters.len()).filter_map(|a| Some((self.wake_of(a)?, a))).min();
            let is_wake = match (wake, event) {
                (Some((at, _)), Some(event)) => at <= event,
                (Some(_), None) => true,
                (None, _) => false,
            };
            let next = if is_wake { wake.map(|(at, _)| at) } else { event };
            let Some(next) = next.filter(|at| *at <= until) else {
                self.now = until;
                return;
            };
            self.now = self.now.max(next);
            self.events += 1;
            match (is_wake, wake) {
                (true, Some((_, arbiter))) => self.timeout(arbiter),
                _ => {
                    let Some(Reverse(item)) = self.queue.pop() else { return };
                    self.happen(item.what);
                }
            }
            self.look_who_serves();
            if self.checks.is_enough() {
                return;
            }
        }
    }

    pub(super) fn happen(&mut self, what: Happening) {
        match what {
            Happening::Deliver { from, to, message } => self.deliver(from, to, message),
            Happening::Look { arbiter, life, stream } => self.look(arbiter, life, stream),
            Happening::Seen { arbiter, life, seen } => self.seen_late(arbiter, life, *seen),
            Happening::Beat { member } => self.beat(member),
            Happening::Push { member, stream } => self.push(member, stream),
            Happening::Report { node, stream } => self.report_arrivals(node, stream),
            Happening::Write { node } => self.write(node),
            Happening::Replicate { from, to } => self.replicate(from, to),
            Happening::Renew { member } => self.renew(member),
            Happening::TellSealed { voice, arbiter } => {
                if self.speaks(voice) {
                    self.tell_sealed(voice, arbiter);
                }
            }
            Happening::Restart { member, life } => self.restart_broker(member, life),
            Happening::StoreAnswer { arbiter, life, term, id, records } => {
                self.store_answers(arbiter, life, term, id, records);
            }
            Happening::Tells { arbiter, life, incident } => self.tells(arbiter, life, incident),
            Happening::Elect { arbiter, life } => self.elect(arbiter, life),
            Happening::Elected { arbiter, life, sent, term } => self.elected(arbiter, life, sent, term),
            Happening::Sealing { arbiter, life } => self.drive_seal(arbiter, life),
            Happening::SendOrder { arbiter, life, number } => self.send_order(arbiter, life, number),
            Happening::Carry { member, life, key, epoch, deed, until } => {
                self.carry(member, life, key, epoch, deed, until);
            }
            Happening::Do { arbiter, life, act } => self.do_act(arbiter, life, act),
            Happening::ActOver { arbiter, life, act } => self.act_is_over(arbiter, life, act),
            Happening::ActEnds { arbiter, life, act, result } => self.act_ends(arbiter, life, act, *result),
            Happening::Fault(index) => self.strike(index),
            Happening::Undo(index) => self.undo(index),
            Happening::Resume { host } => self.resume(host),
            Happening::Heal => self.heal(),
        }
    }

    pub(super) fn speaks(&self, voice: Voice) -> bool {
        match voice {
            Voice::Arbiter(arbiter) => self.arbiter_runs(arbiter),
            Voice::Member(member) => self.agent_runs(member),
        }
    }

    pub(super) fn deliver(&mut self, from: usize, to: usize, message: Message) {
        let host = &self.hosts[to];
        if !host.is_on {
            return;
        }
        // What comes to a host that sleeps lies in its queue; what comes to one that is paused as well.
        if host.asleep_since.is_some() {
            return self.after(100 * MS, Happening::Deliver { from, to, message });
        }
        if host.paused_until > self.now {
            let at = host.paused_until;
            return self.at(at, Happening::Deliver { from, to, message });
        }
        match &message {
            Message::Renew { voice: Voice::Member(member), .. }
            | Message::Granted { member, .. }
            | Message::Seal { voice: Voice::Member(member), .. }
            | Message::Order { member, .. } => {
                let Some(agent) = &self.members[*member].agent else { return };
                if !agent.is_up {
                    return;
                }
                if agent.paused_until > self.now {
                    let at = agent.paused_until;
                    return self.at(at, Happening::Deliver { from, to, message });
                }
            }
            _ => {}
        }
        let is_for_arbiter = to < self.arbiters.len();
        if is_for_arbiter && !self.arbiters[to].is_up {
            return;
        }
        match message {
            Message::Beat { member, life, challenge, report } => {
                self.beat_came(to, from, member, life, challenge, *report);
            }
            Message::Heartbeat { member, stream } => self.heartbeat_came(to, member, stream),
            Message::Arrivals { node, stream, arrivals } => self.arrivals_came(to, node, stream, *arrivals),
            Message::Renew { voice, member, life, epoch, request } => {
                self.renew_came(voice, member, life, epoch, request);
            }
            Message::Granted { member, life, by, epoch, request } => {
                if self.members[member].agent.as_ref().is_some_and(|agent| agent.life == life) {
                    self.granted(member, by, epoch, request);
                } else {
                    self.coverage.hit("agent: a grant for a former life was refused");
                }
            }
            Message::Seal { voice, arbiter, epoch } => self.seal_came(voice, arbiter, epoch),
            Message::Sealed { by, epoch, is_over } => self.sealed_came(to, by, epoch, is_over),
            Message::Order { member, key, epoch, challenge, deed, until } => {
                self.order_came(member, key, epoch, challenge, deed, until);
            }
            Message::Answer { member, key, answer } => self.answer_came(to, member, key, answer),
            Message::Primary { node, member, epoch } => {
                let taken = self.nodes[node].told(member, epoch);
                if taken {
                    self.coverage.hit("node: told who is primary");
                }
            }
        }
    }

    // ---- the judge ---------------------------------------------------------------------------------------------

    /// Who could acknowledge a write at this moment.
    pub(super) fn serves(&self, member: usize) -> bool {
        let m = &self.members[member];
        m.could_acknowledge(&self.hosts[m.host], self.now)
            && (self.nodes.is_empty() || self.nodes.iter().any(|node| !node.drops.contains(&member)))
    }

    pub(super) fn look_who_serves(&mut self) {
        let mut serving = 0;
        let mut is_changed = false;
        for member in 0..self.members.len() {
            let serves = self.serves(member);
            serving += usize::from(serves);
            is_changed |= self.members[member].did_serve != serves;
        }
        if !is_changed {
            return;
        }
        for member in 0..self.members.len() {
            let serves = self.serves(member);
            if self.members[member].did_serve != serves {
                self.members[member].did_serve = serves;
                let what = if serves { "can acknowledge writes" } else { "acknowledges nothing any more" };
                self.tell_with(member, |name| format!("{name}: {what}"));
            }
        }
        if serving > 1 {
            let who: Vec<&str> =
                (0..self.members.len()).filter(|m| self.serves(*m)).map(|m| self.names[m].as_str()).collect();
            let text = format!("{} could acknowledge writes at once", who.join(" and "));
            self.checks.broken(self.now, super::Invariant::OnePrimary, text);
        }
    }
}

/// Which party speaks from where: agents bear their members' names unless the setting says otherwise; the others are the
/// arbiters, in their order.
fn voices(setting: &Setting) -> BTreeMap<PartyName, Voice> {
    let policy = setting.cluster_policy();
    let mut voices = BTreeMap::new();
    for (index, member) in policy.members.iter().enumerate().filter(|(_, m)| m.has_agent) {
        let party = setting.agents.iter().find(|(_, of)| **of == member.name).map(|(party, _)| party.clone());
        voices.insert(party.unwrap_or_else(|| PartyName::from(&member.name)), Voice::Member(index));
    }
    let mine: PartyName = setting.policy.arbiter.name.as_str().into();
    let listed = policy.failover.lease.iter().flat_map(|lease| &lease.voters);
    let others: Vec<&PartyName> = listed.filter(|voter| !voices.contains_key(*voter) && **voter != mine).collect();
    let arbiters = std::iter::once(&mine).chain(others).enumerate().take(setting.arbiters);
    let arbiters: Vec<_> = arbiters.map(|(index, name)| (name.clone(), Voice::Arbiter(index))).collect();
    voices.extend(arbiters);
    voices
}

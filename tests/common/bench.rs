//! A bench: the engine in a small world with its own time. Members that die, freeze and come back; nodes that follow;
//! executors that hang, lie and come late; a store that keeps what it took; and a judge who looks at every effect.
//!
//! The judge knows what must never happen:
//! - an act is handed out whose intent is not in the store, or while a record before it is unanswered,
//! - a promotion is handed out without the proof that the policy needs,
//! - an epoch shrinks, a log number is used twice, a command is answered twice,
//! - two members could take writes under Coroner's own hand.
#![allow(dead_code, unreachable_pub, reason = "each test crate uses its part")]

#[path = "mem_store.rs"]
mod mem_store;
#[path = "script.rs"]
mod script;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use coroner::{
    engine::Engine,
    failover::SagaState,
    model::{
        ActError, Action, ClusterName, Command, CommandError, CommandReply, Done, Effect, Epoch, Event, Fact, Failure,
        FailureKind, FenceReport, Incident, MemberName, NodeName, Notice, Observation, Observer, Operator, Outcome,
        Policy, Proof, Record, Role, StepResult, Time, WallAnchor, WriteAttempt, WriteOutcome,
        agent::MemberReport,
        effect::Run,
        observation::{AGENTS_SIGNAL, Arrivals, RoleReport},
        record::{LogEntry, Recovered, SagaKind},
    },
};

use crate::policy::{ms, secs};

pub use mem_store::{MemStore, StoreMode};
pub use script::{Script, label};

pub const ORDERS: &str = "orders";
const BEGIN: Time = Time(1_000_000_000_000);
const ANCHOR: WallAnchor = WallAnchor { boot: BEGIN, unix_ms: 1_700_000_000_000 };

#[derive(Clone, Debug)]
pub struct Member {
    pub role: Role,
    pub position: u64,
    pub alive: bool,
    pub frozen: bool,
    pub read_only: bool,
    pub fences: BTreeSet<(usize, usize)>,
    pub follows: Option<MemberName>,
    pub epoch: Epoch,
    /// Neither the arbiter nor anyone else reaches it, though it runs.
    pub cut_off: bool,
    /// Its agent reaches the arbiter; the arbiter's own probes do not reach it.
    pub only_by_agent: bool,
    /// The epoch in which its agent was appointed, where there are leases.
    pub appointed: Option<Epoch>,
    /// The lease is over: its gate is closed by the kernel.
    pub is_lease_over: bool,
}

impl Member {
    /// Whether a client that reaches it could get a write acknowledged, now or when it thaws.
    pub fn could_take_writes(&self) -> bool {
        self.alive && self.role == Role::Primary && !self.read_only && self.fences.is_empty() && !self.is_lease_over
    }

    fn answers(&self) -> bool {
        self.alive && !self.frozen && self.fences.is_empty() && !self.cut_off && !self.only_by_agent
    }
}

#[derive(Clone, Debug)]
pub struct Node {
    pub primary: Option<MemberName>,
    pub epoch: Epoch,
    pub received: u64,
    pub attempted: u64,
    pub last: Option<Time>,
    pub alive: bool,
    /// It does not take notices of a new primary.
    pub is_deaf: bool,
}

#[derive(Clone, Debug)]
enum Coming {
    Look,
    Nodes,
    StoreAnswers { id: u64, records: Vec<Record> },
    ActEnds { run: Box<Run>, script: Script, ordinal: usize },
    ActDone { run: Box<Run>, result: StepResult },
    Event(Box<Event>),
}

/// Where the arbiter dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The k-th record was handed out and never written.
    BeforePersisted(usize),
    /// The k-th record was written, and the arbiter never heard of it.
    AfterPersisted(usize),
    /// The k-th act was handed out and never done.
    BeforeAct(usize),
    /// The k-th act was done, and the arbiter never heard of it.
    AfterAct(usize),
}

pub struct Bench {
    pub engine: Engine,
    pub now: Time,
    pub policy: Policy,
    pub store: MemStore,
    pub store_mode: StoreMode,
    pub members: BTreeMap<MemberName, Member>,
    pub nodes: BTreeMap<NodeName, Node>,
    pub effects: Vec<(Time, Effect)>,
    pub replies: HashMap<u64, Result<CommandReply, CommandError>>,
    /// What executors do, by `label` of the act; the next act of that label takes the first. Default: work.
    scripts: BTreeMap<String, VecDeque<Script>>,
    /// What executors do when nothing is scripted.
    pub default_script: BTreeMap<String, Script>,
    pub every_act_twice: bool,
    /// Epochs below this one are granted to nobody.
    pub sealed: Epoch,
    pub crash: Option<Crash>,
    pub crashes: usize,
    pub persists: usize,
    pub acts: usize,
    coming: BTreeMap<(Time, u64), Coming>,
    number: u64,
    next_command: u64,
    outstanding: Option<u64>,
    seed: u64,
    /// Acts that were handed out, as `label`.
    pub done: Vec<String>,
    /// Nobody watches whether two members could take writes: the script lies on purpose.
    pub may_lie: bool,
    pub latency: Duration,
}

impl Bench {
    pub fn new(policy: Policy) -> Self {
        let cluster = &policy.clusters[ORDERS];
        let members: BTreeMap<MemberName, Member> = cluster
            .members
            .iter()
            .enumerate()
            .map(|(i, m)| {
                let follows = (i > 0).then(|| cluster.members[0].name.clone());
                let role = if i == 0 { Role::Primary } else { Role::Standby };
                let member = Member {
                    role,
                    position: 1000,
                    alive: true,
                    frozen: false,
                    read_only: i > 0,
                    fences: BTreeSet::new(),
                    follows,
                    epoch: Epoch::ZERO,
                    cut_off: false,
                    only_by_agent: false,
                    appointed: None,
                    is_lease_over: false,
                };
                (m.name.clone(), member)
            })
            .collect();
        let first = cluster.members[0].name.clone();
        let nodes = cluster.nodes.iter().map(|n| {
            let node = Node {
                primary: Some(first.clone()),
                epoch: Epoch::ZERO,
                received: 0,
                attempted: 0,
                last: None,
                alive: true,
                is_deaf: false,
            };
            (n.clone(), node)
        });
        let nodes = nodes.collect();
        let mut bench = Self {
            engine: Engine::new(BEGIN, ANCHOR, 1, policy.clone(), Recovered::default()),
            now: BEGIN,
            policy,
            store: MemStore::default(),
            store_mode: StoreMode::Works,
            members,
            nodes,
            effects: Vec::new(),
            replies: HashMap::new(),
            scripts: BTreeMap::new(),
            default_script: BTreeMap::new(),
            every_act_twice: false,
            sealed: Epoch::ZERO,
            crash: None,
            crashes: 0,
            persists: 0,
            acts: 0,
            coming: BTreeMap::new(),
            number: 0,
            next_command: 0,
            outstanding: None,
            seed: 1,
            done: Vec::new(),
            may_lie: false,
            latency: ms(10),
        };
        bench.later(Duration::ZERO, Coming::Look);
        bench.later(Duration::ZERO, Coming::Nodes);
        bench.drain();
        bench
    }

    /// A bench that has run until the primary is known and everything is quiet.
    pub fn settled(policy: Policy) -> Self {
        let mut bench = Self::new(policy);
        bench.run_for(secs(4));
        assert_eq!(bench.store.state().primary, Some("a".into()), "the first member was not taken for primary");
        for node in bench.nodes.values_mut() {
            node.epoch = bench.store.state().primary_epoch;
        }
        bench
    }

    // ---- the world -------------------------------------------------------------------------------------------

    pub fn member(&mut self, name: &str) -> &mut Member {
        self.members.get_mut(name).expect("a member of the world")
    }

    /// SIGKILL.
    pub fn kill(&mut self, name: &str) {
        self.member(name).alive = false;
    }

    /// It starts again, as its files say.
    pub fn revive(&mut self, name: &str) {
        let member = self.member(name);
        member.alive = true;
        member.frozen = false;
        member.cut_off = false;
        member.only_by_agent = false;
    }

    pub fn script(&mut self, label: &str, scripts: &[Script]) {
        self.scripts.entry(label.into()).or_default().extend(scripts);
    }

    fn later(&mut self, after: Duration, what: Coming) {
        self.number += 1;
        self.coming.insert((self.now + after, self.number), what);
    }

    pub fn event(&mut self, event: Event) {
        self.engine.handle(self.now, event);
        self.drain();
    }

    pub fn event_after(&mut self, after: Duration, event: Event) {
        self.later(after, Coming::Event(Box::new(event)));
    }

    /// Asks for something; the answer, if it comes at once.
    pub fn ask(&mut self, command: Command) -> Option<Result<CommandReply, CommandError>> {
        let to = self.ask_later(command);
        self.run_for(ms(1));
        self.replies.get(&to).cloned()
    }

    pub fn ask_later(&mut self, command: Command) -> u64 {
        self.next_command += 1;
        let reply_to = self.next_command;
        self.event(Event::Commanded { by: Operator("ann".into()), command, reply_to });
        reply_to
    }

    fn look(&mut self) {
        self.later(ms(500), Coming::Look);
        let (now, cluster) = (self.now, ClusterName::from(ORDERS));
        let policy = &self.policy.clusters[ORDERS];
        let primary = self.engine.primaries().iter().find(|v| v.cluster == cluster).and_then(|v| v.primary.clone());
        let mut seen = Vec::new();
        for (name, member) in &self.members {
            let outcome = |fact: Fact| {
                if member.answers() {
                    Outcome::Fact(fact)
                } else if member.alive || !member.fences.is_empty() {
                    Outcome::Failure(Failure::new(FailureKind::TimedOut, "no answer"))
                } else {
                    Outcome::Failure(Failure::new(FailureKind::Refused, "connection refused"))
                }
            };
            let report = RoleReport {
                role: member.role,
                position: Some(member.position),
                link_up: None,
                follows: None,
                lineage: None,
                epoch: Some(member.epoch),
                priority: None,
            };
            // A fence keeps clients out, not the broker kind's own look at a member that came back.
            let has_agent = policy.members.iter().any(|m| m.name == *name && m.has_agent);
            if has_agent && member.alive && !member.cut_off {
                let own = Observer::Member(name.clone());
                let agent = MemberReport { epoch: self.sealed, appointed: member.appointed, ..MemberReport::default() };
                seen.push((
                    AGENTS_SIGNAL,
                    own.clone(),
                    Some(name.clone()),
                    Outcome::Fact(Fact::Agent(Box::new(agent))),
                ));
                if !member.frozen {
                    seen.push(("role", own, Some(name.clone()), Outcome::Fact(Fact::Role(report.clone()))));
                }
            }
            let role = match member {
                Member { alive: true, frozen: false, cut_off: false, only_by_agent: false, .. } => {
                    Outcome::Fact(Fact::Role(report))
                }
                _ => outcome(Fact::Role(report)),
            };
            seen.push(("role", Observer::Arbiter, Some(name.clone()), role));
            if primary.as_ref() == Some(name) {
                let fact = Fact::Ok { latency: ms(1) };
                seen.push(("ping", Observer::Arbiter, Some(name.clone()), outcome(fact)));
                if member.answers() {
                    let beat = Outcome::Fact(Fact::Beat { seq: now.0, echoed: true });
                    seen.push(("heartbeat", Observer::Member(name.clone()), Some(name.clone()), beat));
                }
            } else if primary.is_some() {
                let leader = member.follows.as_ref().and_then(|l| self.members.get(l));
                let up = leader.is_some_and(|l| l.alive && !l.frozen);
                let fact = Fact::Link { up, last_io: None };
                seen.push(("link", Observer::Arbiter, Some(name.clone()), outcome(fact)));
            }
        }
        for (signal, observer, subject, outcome) in seen {
            if signal == AGENTS_SIGNAL || policy.signals.contains_key(signal) {
                let seen = Observation {
                    at: now,
                    cluster: cluster.clone(),
                    signal: signal.into(),
                    observer,
                    subject,
                    outcome,
                };
                self.engine.handle(now, Event::Observed(seen));
            }
        }
        self.drain();
        self.keep_leases();
        // Standbys that follow a primary that runs keep up.
        let positions: BTreeMap<MemberName, u64> = self.members.iter().map(|(n, m)| (n.clone(), m.position)).collect();
        for member in self.members.values_mut().filter(|m| m.alive && m.role == Role::Standby) {
            if let Some(ahead) = member.follows.as_ref().and_then(|l| positions.get(l)) {
                member.position = member.position.max(*ahead);
            }
        }
    }

    /// Agents hold the lease of the epoch in which they were appointed, while that is not sealed.
    fn keep_leases(&mut self) {
        if self.policy.clusters[ORDERS].failover.lease.is_none() {
            return;
        }
        let appointment = self.engine.appointment(&ORDERS.into());
        for open in self.store.recovered().open {
            let state = SagaState::from_log(&open.log).expect("a log that opens");
            let is_being_replaced = state.kind != SagaKind::Rejoin && state.promoted.is_none() && state.is_replacing();
            assert!(
                !is_being_replaced || self.outstanding.is_some() || appointment.is_none(),
                "{appointment:?} is appointed while it is replaced\n{}",
                self.story()
            );
        }
        for (name, member) in &mut self.members {
            let reached = member.alive && !member.cut_off;
            if let Some((_, epoch)) = appointment.as_ref().filter(|(who, _)| who == name && reached)
                && *epoch >= self.sealed
            {
                self.sealed = *epoch;
                member.appointed = Some(*epoch);
                member.is_lease_over = false;
            }
        }
        for member in self.members.values_mut() {
            member.is_lease_over |= member.appointed.is_some_and(|epoch| epoch < self.sealed);
        }
        let held: Vec<_> =
            self.members.iter().filter(|(_, m)| m.appointed.is_some() && !m.is_lease_over).map(|(n, _)| n).collect();
        assert!(held.len() <= 1, "{held:?} all hold a lease\n{}", self.story());
    }

    fn report(&mut self) {
        self.later(secs(1), Coming::Nodes);
        let now = self.now;
        let mut seen = Vec::new();
        for (name, node) in self.nodes.iter_mut().filter(|(_, n)| n.alive) {
            node.attempted += 1;
            if let Some(primary) = node.primary.as_ref().and_then(|p| self.members.get_mut(p))
                && primary.could_take_writes()
                && primary.answers()
            {
                primary.position += 1;
                node.received += 1;
                node.last = Some(now);
            }
            seen.push((
                name.clone(),
                Arrivals {
                    received: node.received,
                    last_age: node.last.map(|at| now.since(at)),
                    attempted: Some(node.attempted),
                    acknowledged: Some(node.received),
                    primary: node.primary.clone(),
                    epoch: node.epoch,
                },
            ));
        }
        for (node, report) in seen {
            let seen = Observation {
                at: now,
                cluster: ORDERS.into(),
                signal: "arrivals".into(),
                observer: Observer::Node(node),
                subject: None,
                outcome: Outcome::Fact(Fact::Arrivals(report)),
            };
            self.engine.handle(now, Event::Observed(seen));
        }
        self.drain();
    }

    // ---- time ------------------------------------------------------------------------------------------------

    /// Goes to whatever comes next.
    pub fn step(&mut self) {
        let wake = self.engine.poll_timeout();
        let next = self.coming.first_key_value().map(|((at, _), _)| *at);
        let at = wake.into_iter().chain(next).min().expect("something always comes").max(self.now);
        self.now = at;
        if wake.is_some_and(|wake| wake <= at) {
            self.engine.handle_timeout(at);
            self.drain();
        }
        while let Some(entry) = self.coming.first_entry() {
            if entry.key().0 > at {
                break;
            }
            let what = entry.remove();
            self.happens(what);
        }
    }

    pub fn run_for(&mut self, d: Duration) {
        let until = self.now + d;
        self.run_to(until);
    }

    fn run_to(&mut self, until: Time) {
        let mut steps = 0;
        loop {
            let wake = self.engine.poll_timeout();
            let next = self.coming.first_key_value().map(|((at, _), _)| *at);
            if wake.into_iter().chain(next).min().is_none_or(|at| at > until) {
                break;
            }
            self.step();
            steps += 1;
            assert!(steps < 200_000, "the engine spins at {}", self.now);
        }
        self.now = until;
    }

    /// Runs until it is so, or says what it came to.
    #[track_caller]
    pub fn run_until(&mut self, limit: Duration, what: &str, is_so: impl Fn(&Self) -> bool) {
        let until = self.now + limit;
        while !is_so(self) {
            assert!(self.now < until, "never came to be: {what}\n{}", self.story());
            self.step();
        }
    }

    fn happens(&mut self, what: Coming) {
        match what {
            Coming::Look => self.look(),
            Coming::Nodes => self.report(),
            Coming::Event(event) => self.event(*event),
            Coming::StoreAnswers { id, records } => self.store_answers(id, &records),
            Coming::ActEnds { run, script, ordinal } => {
                let result = self.act(&run, script);
                self.check_world(&run);
                if let Some(result) = result {
                    if self.dies_at(|c, _| c == Crash::AfterAct(ordinal)) {
                        return;
                    }
                    self.happens(Coming::ActDone { run, result });
                }
            }
            Coming::ActDone { run, result } => {
                self.event(Event::StepEnded { token: run.token.clone(), result: result.clone() });
                if self.every_act_twice {
                    self.event(Event::StepEnded { token: run.token.clone(), result });
                }
            }
        }
    }

    fn store_answers(&mut self, id: u64, records: &[Record]) {
        let result = match self.store_mode {
            StoreMode::Hangs => {
                self.later(secs(1), Coming::StoreAnswers { id, records: records.to_vec() });
                return;
            }
            StoreMode::Fails => Err((false, "disk full".to_owned())),
            StoreMode::Conflicts => Err((true, "a newer epoch".to_owned())),
            StoreMode::Works | StoreMode::Slow(_) => self.store.persist(records).map_err(|why| (true, why)),
        };
        if self.dies_at(|c, bench| c == Crash::AfterPersisted(bench.persists)) {
            return;
        }
        self.outstanding = None;
        match result {
            Ok(()) => self.event(Event::Persisted(id)),
            Err((conflict, reason)) => self.event(Event::PersistFailed { id, conflict, reason }),
        }
    }

    // ---- effects ---------------------------------------------------------------------------------------------

    fn drain(&mut self) {
        while let Some(effect) = self.engine.poll_effect() {
            self.effects.push((self.now, effect.clone()));
            // What the arbiter tells of itself belongs to no cluster and waits for no record.
            let is_own = matches!(&effect, Effect::Tell(n) if matches!(**n, Notice::Own { .. }));
            assert!(is_own || self.outstanding.is_none(), "handed out behind an unanswered record: {effect:?}");
            match effect {
                Effect::Persist { id, records } => {
                    self.persists += 1;
                    self.outstanding = Some(id);
                    if self.dies_at(|c, bench| c == Crash::BeforePersisted(bench.persists)) {
                        return;
                    }
                    let wait = if let StoreMode::Slow(d) = self.store_mode { d } else { ms(1) };
                    self.later(wait, Coming::StoreAnswers { id, records });
                }
                Effect::Run(run) => {
                    self.check_run(&run);
                    self.acts += 1;
                    let label = label(&run);
                    self.done.push(label.clone());
                    if self.dies_at(|c, bench| c == Crash::BeforeAct(bench.acts)) {
                        return;
                    }
                    let script = self
                        .scripts
                        .get_mut(&label)
                        .and_then(VecDeque::pop_front)
                        .or_else(|| self.default_script.get(&label).copied())
                        .unwrap_or(Script::Work);
                    let wait = if let Script::Slow(d) = script { d } else { self.latency };
                    let ordinal = self.acts;
                    if self.every_act_twice {
                        self.later(wait / 2, Coming::ActEnds { run: run.clone(), script, ordinal });
                    }
                    self.later(wait, Coming::ActEnds { run, script, ordinal });
                }
                Effect::Tell(_) => {}
                Effect::Reply { to, result } => {
                    assert!(self.replies.insert(to, result).is_none(), "command {to} was answered twice");
                }
            }
        }
    }

    fn dies_at(&mut self, is_here: impl Fn(Crash, &Self) -> bool) -> bool {
        let dies = self.crash.is_some_and(|c| is_here(c, self));
        if dies {
            self.crash = None;
            self.restart(ms(500));
        }
        dies
    }

    /// The arbiter dies and starts again after `down`, with what the store kept.
    pub fn restart(&mut self, down: Duration) {
        self.crashes += 1;
        self.outstanding = None;
        self.coming.retain(|_, what| matches!(what, Coming::Look | Coming::Nodes));
        // While it is down nobody looks.
        self.now = self.now + down;
        let coming = std::mem::take(&mut self.coming);
        for ((at, number), what) in coming {
            self.coming.insert((at.max(self.now), number), what);
        }
        self.seed += 1;
        self.engine = Engine::new(self.now, ANCHOR, self.seed, self.policy.clone(), self.store.recovered());
        self.drain();
    }

    fn check_run(&self, run: &Run) {
        let (_, _, log) = self.store.incidents.get(&run.token.incident).expect("an act of an incident that is kept");
        let intent = log.iter().any(|e| {
            matches!(e, LogEntry::Started { act, action, member }
                if *act == run.token.number && *action == run.action && *member == run.order.target.member)
        });
        assert!(intent, "handed out without a durable intent: {run:?}");
        let state = SagaState::from_log(log).expect("a log that opens");
        assert_eq!(run.order.epoch, state.epoch);
        if run.action == Action::Promote {
            let policy = &self.store.incidents[&run.token.incident].1.as_ref().unwrap().clusters[ORDERS].failover;
            assert!(policy.lease.is_none() || state.is_sealed(), "promoted before the seal\n{}", self.story());
            match state.kind {
                SagaKind::Failover => {
                    let proof = state.proof(policy);
                    assert!(proof.meets(policy.proof_needed), "promoted on proof {proof}\n{}", self.story());
                }
                SagaKind::Switchover => {
                    let drained =
                        log.iter().rposition(|e| matches!(e, LogEntry::Started { action: Action::MakeReadOnly, .. }));
                    let undone =
                        log.iter().rposition(|e| matches!(e, LogEntry::Started { action: Action::MakeWritable, .. }));
                    assert!(drained > undone, "promoted beside a primary that may be writable\n{}", self.story());
                }
                SagaKind::Rejoin => panic!("a rejoin promotes nobody"),
            }
        }
    }

    /// At most one member could take writes, once Coroner has begun to change who is primary.
    fn check_world(&self, run: &Run) {
        let who: Vec<&MemberName> =
            self.members.iter().filter(|(_, m)| m.could_take_writes()).map(|(n, _)| n).collect();
        if !self.may_lie {
            assert!(who.len() <= 1, "{who:?} could both take writes after {}\n{}", label(run), self.story());
        }
    }

    // ---- executors -------------------------------------------------------------------------------------------

    /// Does the act as scripted; the answer, if there is one.
    fn act(&mut self, run: &Run, script: Script) -> Option<StepResult> {
        let does = matches!(script, Script::Work | Script::Slow(_) | Script::DoneUnknown | Script::DoneHang);
        let result = if does { self.do_it(run) } else { Ok(Done::new("as scripted")) };
        if let Script::Outbid(sealed) = script {
            return Some(StepResult::Outbid { sealed: Epoch(sealed) });
        }
        if matches!(run.action, Action::Seal | Action::AwaitLease) && self.sealed > run.order.epoch {
            return Some(StepResult::Outbid { sealed: self.sealed });
        }
        if matches!(script, Script::Hang | Script::DoneHang) {
            return None;
        }
        let what = label(run);
        Some(match &run.action {
            Action::Fence { level, method } => {
                let best = self.policy.clusters[ORDERS]
                    .failover
                    .fence
                    .get(*level)
                    .and_then(|l| l.get(*method))
                    .map_or(Proof::Claim, |m| m.best_proof);
                StepResult::Fenced(match script {
                    Script::Refuse => FenceReport::refuted("it runs"),
                    Script::Unknown | Script::DoneUnknown => FenceReport::unknown("no answer"),
                    _ => FenceReport::confirmed(best, "it is stopped"),
                })
            }
            Action::MakeReadOnly => StepResult::Fenced(match (script, result) {
                (Script::Refuse, _) | (_, Err(_)) => FenceReport::refuted("it takes writes"),
                (Script::Unknown | Script::DoneUnknown, _) => FenceReport::unknown("no answer"),
                _ => FenceReport::confirmed(Proof::ReadBack, "it refuses writes"),
            }),
            Action::AwaitLease => StepResult::Fenced(match script {
                Script::Refuse | Script::Unknown | Script::DoneUnknown => FenceReport::unknown("no majority answers"),
                _ => FenceReport::confirmed(Proof::LeaseOver, "by the count of a majority"),
            }),
            Action::ForbiddenWrite { .. } => {
                let member = &self.members[&run.order.target.member];
                let outcome = match (script, member) {
                    (Script::Lie, _) => WriteOutcome::Refused,
                    (Script::Refuse, _) => WriteOutcome::Accepted,
                    (Script::Unknown, _) => WriteOutcome::NoAnswer,
                    (_, m) if m.frozen || m.cut_off => WriteOutcome::NoAnswer,
                    (_, m) if m.could_take_writes() => WriteOutcome::Accepted,
                    _ => WriteOutcome::Refused,
                };
                let detail = format!("{outcome:?}");
                StepResult::WriteTried(WriteAttempt { on_new: outcome, on_open: Some(outcome), detail })
            }
            Action::Redirect { .. } => {
                let deaf = self.nodes.iter().filter(|(_, n)| n.is_deaf || !n.alive).map(|(n, _)| n.clone());
                match script {
                    Script::Refuse => StepResult::Failed(ActError::nothing_done(what, "refused")),
                    Script::Unknown => StepResult::Failed(ActError::uncertain(what, "no answer")),
                    _ => StepResult::Told {
                        acknowledged: self
                            .nodes
                            .iter()
                            .filter(|(_, n)| !n.is_deaf && n.alive)
                            .map(|(n, _)| n.clone())
                            .collect(),
                        failed: deaf.map(|n| (n, "no answer".to_owned())).collect(),
                    },
                }
            }
            _ => match (script, result) {
                // Told by whoever compares it with the end of a drained primary.
                (Script::Reached(position), _) if matches!(run.action, Action::CatchUp { exact_from: Some(_), .. }) => {
                    StepResult::FellShort { reached: Some(position), end: position + 7 }
                }
                (Script::Reached(position), _) => {
                    let done = Done { position: Some(position), ..Done::new("as far as it went") };
                    StepResult::Done(done)
                }
                (Script::Refuse, _) => StepResult::Failed(ActError::nothing_done(what, "refused")),
                (Script::Unknown | Script::DoneUnknown, _) => {
                    StepResult::Failed(ActError::uncertain(what, "no answer"))
                }
                (_, Err(error)) => StepResult::Failed(error),
                (_, Ok(done)) => StepResult::Done(done),
            },
        })
    }

    fn do_it(&mut self, run: &Run) -> Result<Done, ActError> {
        let name = run.order.target.member.clone();
        let what = label(run);
        let epoch = run.order.epoch;
        let positions: BTreeMap<MemberName, u64> = self.members.iter().map(|(n, m)| (n.clone(), m.position)).collect();
        let Some(member) = self.members.get_mut(&name) else {
            return Err(ActError::nothing_done(what, "no such member"));
        };
        let reachable = member.alive && !member.frozen && !member.cut_off;
        let unreachable = || ActError::nothing_done(what.clone(), "it does not answer");
        match &run.action {
            Action::Fence { level, method } => {
                member.fences.insert((*level, *method));
            }
            Action::Unfence { level, method } => {
                member.fences.remove(&(*level, *method));
            }
            Action::ForbiddenWrite { .. } | Action::Admit { .. } => {}
            Action::Seal => self.sealed = self.sealed.max(epoch),
            Action::AwaitLease => {
                self.sealed = self.sealed.max(epoch);
                member.is_lease_over |= member.appointed.is_some_and(|appointed| appointed < epoch);
            }
            Action::MakeReadOnly if reachable => member.read_only = true,
            Action::MakeWritable if reachable && member.role == Role::Primary => member.read_only = false,
            Action::CatchUp { exact_from, .. } if reachable => {
                if let Some(end) = exact_from.as_ref().and_then(|f| positions.get(f)) {
                    member.position = *end;
                }
                return Ok(Done { position: Some(member.position), ..Done::new("caught up") });
            }
            Action::Promote if reachable => {
                assert!(epoch >= member.epoch, "an order of epoch {epoch} at a member that saw {}", member.epoch);
                member.role = Role::Primary;
                member.read_only = false;
                member.follows = None;
                member.epoch = epoch;
                return Ok(Done { position: Some(member.position), ..Done::new("primary, wrote, read back") });
            }
            Action::Repoint { primary } | Action::Rejoin { primary, .. } if reachable => {
                let divergent = member.position.saturating_sub(positions[primary]);
                member.role = Role::Standby;
                member.read_only = true;
                member.follows = Some(primary.clone());
                member.position = positions[primary];
                member.epoch = epoch;
                return Ok(Done { divergent: Some(divergent), ..Done::new("follows") });
            }
            Action::Redirect { .. } => {
                for node in self.nodes.values_mut().filter(|n| !n.is_deaf && epoch >= n.epoch) {
                    node.primary = Some(name.clone());
                    node.epoch = epoch;
                }
            }
            _ => return Err(unreachable()),
        }
        Ok(Done::new("done"))
    }

    // ---- what came of it -------------------------------------------------------------------------------------

    pub fn incident(&self) -> Option<&Incident> {
        self.engine.incident(&ORDERS.into())
    }

    /// Nothing is under way, and the store says so too.
    pub fn is_quiet(&self) -> bool {
        self.incident().is_none() && self.outstanding.is_none() && self.store.recovered().open.is_empty()
    }

    /// There was an incident, and nothing is under way.
    pub fn is_over(&self) -> bool {
        self.is_quiet() && !self.store.incidents.is_empty()
    }

    /// The newest incident is held.
    pub fn is_held(&self) -> bool {
        self.outstanding.is_none()
            && self.store.newest().is_some_and(|(i, _)| i.state == coroner::model::incident::IncidentState::Held)
    }

    pub fn log(&self) -> Vec<LogEntry> {
        self.store.newest().map(|(_, log)| log.to_vec()).unwrap_or_default()
    }

    pub fn notices(&self) -> impl Iterator<Item = &Notice> {
        self.effects.iter().filter_map(|(_, e)| match e {
            Effect::Tell(notice) => Some(&**notice),
            _ => None,
        })
    }

    /// Who could take writes.
    pub fn writers(&self) -> Vec<&str> {
        self.members.iter().filter(|(_, m)| m.could_take_writes()).map(|(n, _)| n.as_str()).collect()
    }

    /// The end of it all, to be compared with other ends.
    pub fn ending(&self) -> String {
        let state = self.store.state();
        let members: Vec<String> = self
            .members
            .iter()
            .map(|(n, m)| {
                format!("{n}: {} fences {:?} read-only {} follows {:?}", m.role, m.fences, m.read_only, m.follows)
            })
            .collect();
        let open: Vec<String> = self
            .store
            .incidents
            .values()
            .filter_map(|(i, ..)| i.as_ref())
            .filter(|i| !i.is_closed())
            .map(|i| format!("{:?} {}", i.kind, i.state))
            .collect();
        format!(
            "primary {:?} epoch {} appointed {:?} quarantined {:?} open {open:?} {members:?}",
            state.primary,
            state.primary_epoch,
            self.engine.appointment(&ORDERS.into()),
            state.quarantined.keys().collect::<Vec<_>>()
        )
    }

    pub fn story(&self) -> String {
        let mut out = format!("now {}\n", self.now);
        for (incident, _, log) in self.store.incidents.values() {
            let Some(incident) = incident else { continue };
            out.push_str(&format!(
                "{} {:?} {} {:?}\n",
                incident.id, incident.kind, incident.state, incident.state_reason
            ));
            for entry in log {
                out.push_str(&format!("    {entry:?}\n"));
            }
        }
        out.push_str(&format!(
            "{:#?}",
            self.engine.why_not(self.now, &ORDERS.into()).map(|w| (w.guards, w.least_change))
        ));
        out
    }
}

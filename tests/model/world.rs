//! The world: two arbiters over one store, a primary, a standby, a node group, the links between them, and the acts that
//! are on their way. One value; to go on from it twice, clone it.
//!
//! Time is counted in whole seconds of the world. Every host's clocks are functions of it.

use std::{hash::Hash, sync::Arc, time::Duration};

use coroner::{
    engine::Engine,
    failover::Print,
    lease::{holder::Holder, voter::Voter},
    model::{
        Epoch, Event, Incident, IncidentId, MemberName, Policy, Record, StepResult, Time, WallAnchor,
        effect::Run,
        incident::IncidentState,
        record::{ClusterState, LogEntry, OpenIncident, Recovered, SagaKind},
        time::Mono,
    },
};

use crate::{
    print::Print128,
    setup::{Bug, Faults, LINKS, MEMBERS, NODE_PARTY, OLD, ORDERS, PARTIES, Setup, party},
};

const SECOND: u64 = 1_000_000_000;
/// The world begins this long after its hosts were booted.
const BEGIN: u64 = 1_000 * SECOND;
const ANCHOR: WallAnchor = WallAnchor { boot: Time(BEGIN), unix_ms: 1_700_000_000_000 };

/// What happened on the way, and what of it is wrong.
#[derive(Debug, Default)]
pub struct Notes {
    /// For a story; `None`: nobody reads it.
    pub lines: Option<Vec<String>>,
    /// What was reached, as bits of [`crate::goals::Goal`].
    pub reached: u32,
    /// The first property that does not hold.
    pub wrong: Option<String>,
}

impl Notes {
    pub fn say(&mut self, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            lines.push(line());
        }
    }

    pub fn reach(&mut self, goal: crate::goals::Goal) {
        self.reached |= goal.bit();
    }

    pub fn wrong(&mut self, what: impl FnOnce() -> String) {
        self.wrong.get_or_insert_with(what);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Life {
    Up,
    /// Stopped since that second: nothing of it runs, its clocks go on.
    Paused(u32),
    Down,
}

/// One arbiter: the real engine, and what its driver knows.
#[derive(Clone)]
pub struct Arbiter {
    pub engine: Engine,
    pub life: Life,
    /// How often it was started.
    pub lives: u8,
    /// The term in which its engine was told that it leads.
    pub term: Option<u8>,
    /// The record that the engine waits for.
    pub writing: Option<Writing>,
    /// The largest epoch that it ever saw in the store.
    pub seen: Epoch,
    /// It has looked at the members in this second.
    pub has_looked: bool,
    /// A write failed, and the store was not found well since.
    pub doubts_store: bool,
    /// What it told people last of the open incident.
    pub told: Option<(SagaKind, Epoch, IncidentState)>,
    /// Its fingerprint, if nothing changed since.
    print: Option<u128>,
}

/// A batch of records on its way to the store.
#[derive(Clone)]
pub struct Writing {
    pub id: u64,
    pub records: Arc<Vec<Record>>,
    /// What the store answered; on its way back.
    pub answer: Option<Answer>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    Taken,
    Failed,
    /// Refused, or nobody can say: everything has to be read anew.
    Conflict,
}

/// A member: host, agent and broker.
#[derive(Clone)]
pub struct Member {
    /// The host runs.
    pub up: bool,
    /// Neither broker nor agent moves; the kernel does.
    pub frozen: bool,
    /// A power switch holds it off.
    pub off: bool,
    /// Its agent killed the broker, which is not started again.
    pub killed: bool,
    /// The broker's own state, in its files.
    pub is_primary: bool,
    pub read_only: bool,
    pub broker_epoch: Epoch,
    /// The agent's durable state beside its voter's memory.
    pub appointed: Option<Epoch>,
    pub fenced: Option<Epoch>,
    /// The agent's lease.
    pub holder: Option<Holder>,
    /// Until then the kernel lets clients through, on the host's CLOCK_BOOTTIME. Without leases nobody asks for it.
    pub gate_until: Option<Time>,
    /// The answers to the next renewal come late.
    pub is_slow: bool,
    /// A renewal whose answers are on their way: its number, when it was sent, and who granted it.
    pub late: Option<(u64, u32, u8)>,
}

/// What survives everybody.
#[derive(Clone)]
pub struct Store {
    /// The row of whoever leads: grows with every election.
    pub term: u8,
    pub leader: Option<u8>,
    pub state: ClusterState,
    /// Incidents that are not closed.
    pub open: Vec<Kept>,
    /// Epochs in which a failover or switchover was opened, as bits.
    pub opened: u32,
    /// By epoch, who was primary in it.
    pub owners: [u8; 16],
}

/// An incident as the store keeps it.
#[derive(Clone)]
pub struct Kept {
    pub incident: Arc<Incident>,
    pub policy: Option<Arc<Policy>>,
    pub log: Vec<Arc<LogEntry>>,
}

/// An act on its way.
#[derive(Clone)]
pub struct Flight {
    pub by: usize,
    pub lives: u8,
    pub term: u8,
    pub what: Arc<What>,
    pub issued: u32,
    pub step: Step,
    /// Voters that were asked and have sealed, and those of them by whose count no older lease runs.
    pub sealed: u8,
    pub over: u8,
    /// A promotion that waits for the candidate's lease.
    pub is_appointed: bool,
}

/// What is carried out.
pub enum What {
    /// An act of a saga.
    Run(Run),
    /// The standing order of a leader: this member is primary in this epoch.
    Appoint(usize, Epoch),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// To be carried out in time.
    Due,
    /// Held up: it may be carried out at any time, in time or not.
    Late,
    /// Carried out; the answer is on its way.
    Done(StepResult),
}

/// See the module.
#[derive(Clone)]
pub struct World {
    pub now: u32,
    pub arbiters: [Arc<Arbiter>; 2],
    pub members: [Arc<Member>; 2],
    /// Of the arbiters and the members' agents. Without leases only the members' count: they remember epochs.
    pub voters: [Voter; 4],
    /// Whom the nodes follow.
    pub node: (usize, Epoch),
    pub store: Arc<Store>,
    pub cuts: u16,
    pub flights: Vec<Flight>,
    pub spent: Faults,
    /// When the newest fault was.
    pub hurt_at: u32,
}

impl World {
    /// Everything is well: `a` is primary in epoch 1, `x` leads, all have looked once.
    pub fn new(setup: &Setup, notes: &mut Notes) -> Self {
        let state = setup.state();
        let now = Time(BEGIN);
        let arbiter = |index: usize| {
            let engine = Engine::new(now, ANCHOR, seed(index, 0), setup.policies[index].clone(), Recovered::default());
            Arc::new(Arbiter {
                engine,
                life: Life::Up,
                lives: 0,
                term: None,
                writing: None,
                seen: Epoch(1),
                has_looked: false,
                doubts_store: false,
                told: None,
                print: None,
            })
        };
        let member = |index: usize| {
            Arc::new(Member {
                up: true,
                frozen: false,
                off: false,
                killed: false,
                is_primary: index == 0,
                read_only: false,
                broker_epoch: Epoch(1),
                appointed: (index == 0 && setup.has_lease).then_some(Epoch(1)),
                fenced: None,
                holder: setup.lease.clone().map(Holder::new),
                gate_until: None,
                is_slow: false,
                late: None,
            })
        };
        let voter = |_| {
            // The voters have run for long: their first wait is over.
            let mut voter = Voter::new(Mono(0), setup.lease.as_ref(), coroner::lease::voter::Memory::default());
            voter.seal(Epoch(1));
            if setup.has_lease {
                let granted = voter.grant(Mono(0), &"a".into(), Epoch(1));
                assert_eq!(granted, Ok(()), "the first lease");
            }
            voter
        };
        let mut owners = [0; 16];
        owners[1] = 1;
        let mut world = Self {
            now: 0,
            arbiters: [arbiter(0), arbiter(1)],
            members: [member(0), member(1)],
            voters: [0, 1, 2, 3].map(voter),
            node: (0, Epoch(1)),
            store: Arc::new(Store { term: 1, leader: Some(0), state, open: Vec::new(), opened: 0b10, owners }),
            cuts: 0,
            flights: Vec::new(),
            spent: Faults::NONE,
            hurt_at: 0,
        };
        world.renew_all(setup, notes);
        for index in 0..2 {
            world.follow(index, "the election has not ended yet");
            world.drain(setup, index, notes);
        }
        world.lead(setup, 0, notes);
        if setup.bug == Bug::NoSwap {
            world.lead(setup, 1, notes);
        }
        world.look(setup, 0, notes);
        world.look(setup, 1, notes);
        world.check(setup, notes);
        world.refresh();
        world
    }

    // ---- clocks ----------------------------------------------------------------------------------------------

    /// An arbiter's CLOCK_BOOTTIME.
    pub fn time(&self) -> Time {
        Time(BEGIN + u64::from(self.now) * SECOND)
    }

    /// A member's CLOCK_BOOTTIME, by which its holder counts: too slow.
    pub fn boot(&self, setup: &Setup) -> Time {
        Time(BEGIN + u64::from(self.now) * SECOND * (1_000 - setup.clock_rate) / 1_000)
    }

    /// A voter's CLOCK_MONOTONIC: too fast.
    pub fn mono(&self, setup: &Setup) -> Mono {
        Mono(BEGIN + u64::from(self.now) * SECOND * (1_000 + setup.clock_rate) / 1_000)
    }

    // ---- who reaches whom ------------------------------------------------------------------------------------

    /// Whether the two reach each other directly, as far as it depends on the links.
    pub fn is_linked(&self, p: usize, q: usize) -> bool {
        p == q
            || !LINKS
                .iter()
                .enumerate()
                .any(|(bit, link)| (*link == (p, q) || *link == (q, p)) && self.cuts & 1 << bit != 0)
    }

    /// Whether the party's process answers.
    pub fn answers(&self, who: usize) -> bool {
        match who {
            0 | 1 => self.arbiters[who].life == Life::Up,
            NODE_PARTY => true,
            _ => self.members[who - 2].has_agent(),
        }
    }

    /// Whether a signed message gets from one to the other, over one of the others if need be.
    pub fn has_path(&self, p: usize, q: usize) -> bool {
        self.is_linked(p, q)
            || (0..PARTIES.len())
                .any(|r| r != p && r != q && self.answers(r) && self.is_linked(p, r) && self.is_linked(r, q))
    }

    /// Whether an arbiter's order reaches the member's agent, and is looked at.
    pub fn reaches(&self, arbiter: usize, member: usize) -> bool {
        self.members[member].has_agent() && self.has_path(arbiter, party(member))
    }

    pub fn index(&self, member: &MemberName) -> usize {
        MEMBERS.iter().position(|name| *name == member.as_str()).expect("a member of the world")
    }

    pub fn member(&mut self, member: usize) -> &mut Member {
        Arc::make_mut(&mut self.members[member])
    }

    pub fn arbiter(&mut self, index: usize) -> &mut Arbiter {
        let arbiter = Arc::make_mut(&mut self.arbiters[index]);
        arbiter.print = None;
        arbiter
    }

    // ---- what must hold --------------------------------------------------------------------------------------

    /// Whether a client that reaches it may get a write acknowledged at this moment.
    pub fn may_acknowledge(&self, setup: &Setup, member: usize) -> bool {
        let it = &self.members[member];
        let serves = it.up && !it.off && !it.frozen && !it.killed && it.is_primary && !it.read_only;
        serves && (!setup.has_lease || self.may_pass_gate(setup, member))
    }

    /// Whether anything may leave the host: the gate's element stands, or the time is not over that the kernel may take
    /// to do without it.
    fn may_pass_gate(&self, setup: &Setup, member: usize) -> bool {
        let Some(until) = self.members[member].gate_until else { return false };
        let enforced = setup.lease.as_ref().map_or(Duration::ZERO, |lease| lease.enforced_within);
        let true_until = u128::from(until.0 - BEGIN) * 1_000 / u128::from(1_000 - setup.clock_rate);
        u128::from(self.now) * u128::from(SECOND) < true_until + enforced.as_nanos()
    }

    /// What must hold at every moment.
    pub fn check(&self, setup: &Setup, notes: &mut Notes) {
        if self.may_acknowledge(setup, 0) && self.may_acknowledge(setup, 1) {
            notes.wrong(|| "TWO MASTERS: a and b may both acknowledge writes at this moment".into());
        }
    }

    /// Who is primary in an epoch stays so.
    pub fn owns(&mut self, member: usize, epoch: Epoch, notes: &mut Notes) {
        let Ok(epoch_at) = usize::try_from(epoch.0) else { return };
        let Some(owner) = self.store.owners.get(epoch_at).copied() else { return };
        let me = u8::try_from(member + 1).unwrap_or_default();
        if owner == 0 {
            Arc::make_mut(&mut self.store).owners[epoch_at] = me;
        } else if owner != me {
            notes.wrong(|| {
                format!("epoch {epoch} has two primaries: {} and {}", MEMBERS[usize::from(owner) - 1], MEMBERS[member])
            });
        }
    }

    // ---- the fingerprint -------------------------------------------------------------------------------------

    /// Brings the arbiters' fingerprints up to date. To be called after every change.
    pub fn refresh(&mut self) {
        let now = self.time();
        for index in 0..2 {
            if self.arbiters[index].print.is_some() {
                continue;
            }
            let arbiter = Arc::make_mut(&mut self.arbiters[index]);
            let mut to = Print128::new();
            (arbiter.life == Life::Down, arbiter.seen, arbiter.has_looked, arbiter.doubts_store).hash(&mut to);
            if let Life::Paused(since) = arbiter.life {
                now_since(self.now, since).min(8).hash(&mut to);
            }
            if arbiter.life != Life::Down {
                arbiter.engine.fingerprint(now, OLD, &mut to);
            }
            arbiter.print = Some(to.value());
        }
    }

    /// Of two worlds with the same fingerprint, the same can happen in both.
    pub fn print(&self, setup: &Setup) -> u128 {
        let now = self.time();
        let mut to = Print128::new();
        for index in 0..2 {
            self.print_of_arbiter(index, &mut to);
        }
        for member in &self.members {
            member.print(self, setup, &mut to);
        }
        for voter in &self.voters {
            let mono = self.mono(setup);
            let memory = voter.memory();
            (memory.sealed, &memory.holder, memory.is_unproven).hash(&mut to);
            (voter.older_runs_for(mono), voter.current_runs_for(mono)).hash(&mut to);
        }
        now_since(self.now, self.hurt_at).min(setup.mends_within + 1).hash(&mut to);
        (self.node, self.cuts, self.spent, self.store.leader, self.store.opened, self.store.owners).hash(&mut to);
        let mut print = Print::new(now, OLD, &mut to);
        print.cluster(&self.store.state, |at| wall_age(now, at));
        for kept in &self.store.open {
            print.incident(&kept.incident);
            print.count(kept.log.len());
            kept.log.iter().for_each(|entry| print.entry(entry));
        }
        // In whichever order they were handed out.
        let mut flights = (0_u64, 0_u64);
        for flight in &self.flights {
            let value = self.print_of(flight);
            flights.0 = flights.0.wrapping_add(value as u64);
            flights.1 = flights.1.wrapping_add((value >> 64) as u64);
        }
        (self.flights.len(), flights).hash(&mut to);
        to.value()
    }

    /// An arbiter, and how it stands to the store.
    fn print_of_arbiter(&self, index: usize, to: &mut Print128) {
        let arbiter = &self.arbiters[index];
        arbiter.print.hash(to);
        if arbiter.life == Life::Down {
            return;
        }
        let stored = |id: &IncidentId| self.store.open.iter().position(|kept| kept.incident.id == *id);
        let open = arbiter.engine.incident(&ORDERS.into()).map(|incident| stored(&incident.id));
        (arbiter.term.is_some(), arbiter.term == Some(self.store.term), arbiter.told, open).hash(to);
        let Some(writing) = &arbiter.writing else { return };
        writing.answer.hash(to);
        let now = self.time();
        let mut print = Print::new(now, OLD, to);
        print.count(writing.records.len());
        for record in writing.records.iter() {
            print.record(record, |at| wall_age(now, at));
            if let Record::Log { incident, .. } = record {
                print.plain(stored(incident));
            }
        }
    }

    fn print_of(&self, flight: &Flight) -> u128 {
        let mut to = Print128::new();
        (flight.by, self.is_heard(flight), flight.sealed, flight.over, flight.is_appointed).hash(&mut to);
        // Beyond the longest deadline its age makes no difference.
        now_since(self.now, flight.issued).min(64).hash(&mut to);
        match &*flight.what {
            What::Run(run) => {
                (run.token.number, &run.action, run.order.epoch, &run.order.target.member).hash(&mut to);
                self.store.open.iter().position(|kept| kept.incident.id == run.token.incident).hash(&mut to);
            }
            What::Appoint(member, epoch) => (member, epoch).hash(&mut to),
        }
        match &flight.step {
            Step::Due => 0_u8.hash(&mut to),
            Step::Late => 1_u8.hash(&mut to),
            Step::Done(result) => Print::new(self.time(), OLD, &mut to).result(result),
        }
        to.value()
    }

    /// Whether the arbiter that handed it out would take its answer: it lives on, and leads as it did.
    pub fn is_heard(&self, flight: &Flight) -> bool {
        let arbiter = &self.arbiters[flight.by];
        arbiter.life != Life::Down && arbiter.lives == flight.lives && arbiter.term == Some(flight.term)
    }
}

impl Member {
    /// Whether its agent runs.
    pub const fn has_agent(&self) -> bool {
        self.up && !self.off && !self.frozen
    }

    /// Whether its broker runs and answers.
    pub const fn has_broker(&self) -> bool {
        self.has_agent() && !self.killed
    }

    fn print(&self, world: &World, setup: &Setup, to: &mut Print128) {
        (self.up, self.frozen, self.off, self.killed, self.is_primary, self.read_only, self.is_slow).hash(to);
        (self.broker_epoch, self.appointed, self.fenced).hash(to);
        let boot = world.boot(setup);
        // What is over for longer than the kernel may take is over.
        let left =
            self.gate_until.map(|until| until.0 as i64 - boot.0 as i64).filter(|left| *left > -(2 * SECOND as i64));
        (left, self.late.map(|(_, sent, granted)| (now_since(world.now, sent).min(8), granted))).hash(to);
        let held = self.holder.as_ref().and_then(|holder| holder.remaining(boot));
        let asks_in = self.holder.as_ref().map(|holder| holder.next_ask().since(boot));
        (held, asks_in).hash(to);
    }
}

impl Store {
    /// What whoever leads from here on reads.
    pub fn recovered(&self) -> Recovered {
        let open = |kept: &Kept| {
            Some(OpenIncident {
                incident: (*kept.incident).clone(),
                policy: (**kept.policy.as_ref()?).clone(),
                log: kept.log.iter().map(|entry| (**entry).clone()).collect(),
            })
        };
        Recovered { clusters: vec![self.state.clone()], open: self.open.iter().filter_map(open).collect() }
    }
}

impl World {
    /// A new life of an arbiter's process.
    pub fn start(&mut self, setup: &Setup, index: usize) {
        let now = self.time();
        let arbiter = self.arbiter(index);
        arbiter.lives += 1;
        let seed = seed(index, arbiter.lives);
        arbiter.engine = Engine::new(now, ANCHOR, seed, setup.policies[index].clone(), Recovered::default());
        arbiter.life = Life::Up;
        arbiter.term = None;
        arbiter.writing = None;
        arbiter.has_looked = false;
        arbiter.doubts_store = false;
        arbiter.told = None;
        self.restart_voter(setup, index);
    }

    /// A voter that starts remembers what it sealed, and nothing that it granted.
    pub fn restart_voter(&mut self, setup: &Setup, who: usize) {
        let mono = self.mono(setup);
        self.voters[who] = Voter::new(mono, setup.lease.as_ref(), self.voters[who].memory().clone());
    }

    /// The engine is told something.
    pub fn tell(&mut self, index: usize, event: Event) {
        let now = self.time();
        self.arbiter(index).engine.handle(now, event);
    }
}

fn seed(index: usize, life: u8) -> u64 {
    1 + index as u64 + 16 * u64::from(life)
}

/// How long a moment of the wall clock is over.
pub fn wall_age(now: Time, unix_ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ANCHOR.unix_ms_at(now) - unix_ms).unwrap_or(0))
}

pub const fn now_since(now: u32, since: u32) -> u32 {
    now.saturating_sub(since)
}

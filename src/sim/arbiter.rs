//! The arbiter: the real engine with a driver around it that persists, then acts; its voter, its seals, and, among
//! several, its leadership.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    check::Invariant,
    hands::Act,
    host::{MS, SEC},
    leading::LEAD_EVERY,
    store::{Refused, StoreMode},
    world::{Happening, Voice, World},
};
use crate::{
    engine::Engine,
    lease::{
        arithmetic::majority,
        voter::{Memory, Voter},
    },
    model::{
        Effect, Epoch, Event, Incident, MemberName, Notice, Observation, Observer, Outcome, PartyName, SignalName,
        Time, WallAnchor,
        effect::Run,
        incident::Trigger,
        record::{LogEntry, Record, Recovered, SagaKind},
    },
};

/// What an arbiter heard last of an agent.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    pub(super) at: u64,
    pub(super) life: u32,
    pub(super) challenge: Time,
}

/// A sealing under way.
#[derive(Clone, Debug)]
pub(super) struct Sealing {
    pub(super) epoch: Epoch,
    pub(super) sealed: BTreeSet<PartyName>,
    pub(super) over: BTreeSet<PartyName>,
    pub(super) larger: Option<Epoch>,
    /// The acts that wait for it, and whether they wait for the end of older leases too.
    pub(super) waiting: Vec<(u32, bool)>,
}

impl Sealing {
    /// An act waits no longer.
    pub(super) fn forget(&mut self, act: u32) {
        self.waiting.retain(|(waiting, _)| *waiting != act);
    }
}

#[derive(Debug)]
pub(super) struct Arbiter {
    pub(super) is_up: bool,
    pub(super) life: u32,
    pub(super) engine: Engine,
    /// When the engine wants to be looked at, on its clock.
    pub(super) wake: Option<Time>,
    pub(super) outstanding: Option<u64>,
    pub(super) primary: Option<usize>,
    /// Acts under way, by a number of this arbiter's own.
    pub(super) acts: BTreeMap<u32, Act>,
    pub(super) next_act: u32,
    pub(super) voter: Option<Voter>,
    pub(super) memory: Memory,
    pub(super) sealing: Option<Sealing>,
    pub(super) heard: Vec<Option<Heard>>,
    pub(super) told: Vec<(Epoch, u64)>,
    /// When it was last awake, by true time: what came later than that ran late.
    pub(super) late_since: Option<u64>,
    /// In which term it leads, and until when by its own clock; `None` among several: it does not.
    pub(super) term: Option<(u64, Time)>,
    pub(super) seen: Epoch,
    /// When each node was last heard, by true time.
    pub(super) nodes_heard: Vec<u64>,
}

impl World<'_> {
    pub(super) fn new_arbiter(&mut self, arbiter: usize) -> Arbiter {
        let boot = self.hosts[arbiter].boot(self.now);
        let engine = self.new_engine(arbiter, boot, Recovered::default());
        Arbiter {
            is_up: true,
            life: 0,
            engine,
            wake: None,
            outstanding: None,
            primary: None,
            acts: BTreeMap::new(),
            next_act: 0,
            voter: None,
            memory: Memory::default(),
            sealing: None,
            heard: vec![None; self.members.len()],
            told: vec![(Epoch::ZERO, 0); self.members.len()],
            late_since: None,
            term: None,
            seen: Epoch::ZERO,
            nodes_heard: vec![0; self.nodes.len()],
        }
    }

    pub(super) fn new_engine(&mut self, arbiter: usize, boot: Time, recovered: Recovered) -> Engine {
        let mut policy = self.setting.policy.clone();
        if arbiter > 0 {
            policy.arbiter.name = self.party_at(arbiter).to_string();
        }
        let unix_ms = 1_700_000_000_000 + i64::try_from(self.now / MS).unwrap_or(0);
        let seed = self.random.draw();
        Engine::new(boot, WallAnchor { boot, unix_ms }, seed, policy, recovered)
    }

    /// What a start begins with: looking, voting, standing for election.
    pub(super) fn begin(&mut self, arbiter: usize) {
        let life = self.arbiters[arbiter].life;
        let moment = self.hosts[arbiter].moment(self.now);
        let lease = self.setting.cluster_policy().failover.lease.as_ref();
        let is_voter = self.voices.values().any(|voice| *voice == Voice::Arbiter(arbiter));
        let me = &mut self.arbiters[arbiter];
        me.voter = lease.filter(|_| is_voter).map(|lease| Voter::new(moment.mono, Some(lease), me.memory.clone()));
        if self.setting.arbiters > 1 {
            let (reason, seen) = ("nobody is known to lead yet".to_owned(), BTreeMap::new());
            self.event(arbiter, Event::Follows { reason, clusters: None, seen });
            let after = self.random.within(0, LEAD_EVERY);
            self.after(after, Happening::Elect { arbiter, life });
        }
        self.learn_primary(arbiter);
        for stream in 0..self.streams.len() {
            let every = self.ns(self.streams[stream].every);
            if self.streams[stream].is_looked_at() {
                let after = self.random.within(0, every.max(1));
                self.after(after, Happening::Look { arbiter, life, stream });
            }
        }
        self.drain(arbiter);
    }

    pub(super) fn arbiter_runs(&self, arbiter: usize) -> bool {
        self.arbiters[arbiter].is_up && self.hosts[arbiter].runs(self.now)
    }

    pub(super) fn is_life(&self, arbiter: usize, life: u32) -> bool {
        self.arbiters[arbiter].is_up && self.arbiters[arbiter].life == life
    }

    pub(super) fn stop_arbiter(&mut self, arbiter: usize) {
        let me = &mut self.arbiters[arbiter];
        if !me.is_up {
            return;
        }
        me.is_up = false;
        me.life += 1;
        me.acts.clear();
        me.sealing = None;
        me.outstanding = None;
        me.term = None;
        me.wake = None;
        me.heard.iter_mut().for_each(|heard| *heard = None);
        if let Some(voter) = &me.voter {
            me.memory = voter.memory().clone();
        }
        self.tell_host(arbiter, "the arbiter ends");
    }

    pub(super) fn start_arbiter(&mut self, arbiter: usize) {
        if self.arbiters[arbiter].is_up || !self.hosts[arbiter].is_on {
            return;
        }
        self.tell_host(arbiter, "the arbiter starts");
        self.coverage.hit("world: an arbiter starts again");
        let boot = self.hosts[arbiter].boot(self.now);
        let is_alone = self.setting.arbiters == 1;
        let recovered = if is_alone { self.store.recovered() } else { Recovered::default() };
        self.checks.recovers(self.now, &recovered);
        let engine = self.new_engine(arbiter, boot, recovered);
        let me = &mut self.arbiters[arbiter];
        me.engine = engine;
        me.is_up = true;
        me.primary = None;
        me.told.iter_mut().for_each(|told| *told = (Epoch::ZERO, 0));
        self.begin(arbiter);
        if is_alone {
            self.tell_what_is_untold(arbiter);
        }
    }

    /// It goes on after a pause or a suspend. What its loop noticed of it comes before whatever lies in its queues.
    pub(super) fn arbiter_goes_on(&mut self, arbiter: usize) {
        let Some(since) = self.arbiters[arbiter].late_since.take() else { return };
        if !self.arbiters[arbiter].is_up {
            return;
        }
        let by = Duration::from_nanos(self.now - since);
        self.event(arbiter, Event::RanLate { by, detail: "the loop ran late".into() });
    }

    pub(super) fn falls_asleep(&mut self, arbiter: usize) {
        self.arbiters[arbiter].late_since.get_or_insert(self.now);
    }

    pub(super) fn wake_of(&self, arbiter: usize) -> Option<u64> {
        let me = &self.arbiters[arbiter];
        let wake = me.wake?;
        let host = &self.hosts[arbiter];
        (me.is_up && host.runs(self.now)).then(|| host.true_time_of(wake).max(self.now))
    }

    pub(super) fn timeout(&mut self, arbiter: usize) {
        let boot = self.hosts[arbiter].boot(self.now);
        self.arbiters[arbiter].engine.handle_timeout(boot);
        self.drain(arbiter);
    }

    pub(super) fn event(&mut self, arbiter: usize, event: Event) {
        let boot = self.hosts[arbiter].boot(self.now);
        self.arbiters[arbiter].engine.handle(boot, event);
        self.drain(arbiter);
    }

    pub(super) fn observe(
        &mut self,
        arbiter: usize,
        signal: &SignalName,
        observer: Observer,
        subject: Option<MemberName>,
        outcome: Outcome,
    ) {
        self.hand_over(arbiter, signal, observer, subject, outcome);
        self.drain(arbiter);
    }

    /// The engine is told, and judges once all that came together is told.
    pub(super) fn hand_over(
        &mut self,
        arbiter: usize,
        signal: &SignalName,
        observer: Observer,
        subject: Option<MemberName>,
        outcome: Outcome,
    ) {
        let at = self.hosts[arbiter].boot(self.now);
        let cluster = self.setting.cluster.clone();
        let seen = Observation { at, cluster, signal: signal.clone(), observer, subject, outcome };
        self.arbiters[arbiter].engine.handle(at, Event::Observed(seen));
    }

    pub(super) fn learn_primary(&mut self, arbiter: usize) {
        let views = self.arbiters[arbiter].engine.primaries();
        let primary = views.first().and_then(|view| view.primary.clone());
        self.arbiters[arbiter].primary = primary.and_then(|name| self.member_at(&name));
    }

    /// Whom this arbiter would tell a node to follow.
    pub(super) fn primary_view(&self, arbiter: usize) -> Option<(usize, Epoch)> {
        let view = self.arbiters[arbiter].engine.primaries().into_iter().next()?;
        Some((self.member_at(&view.primary?)?, view.epoch))
    }

    /// Takes what the engine asks for.
    pub(super) fn drain(&mut self, arbiter: usize) {
        while let Some(effect) = self.arbiters[arbiter].engine.poll_effect() {
            self.effect(arbiter, effect);
            if !self.arbiters[arbiter].is_up {
                return;
            }
        }
        let me = &mut self.arbiters[arbiter];
        me.wake = me.engine.poll_timeout();
    }

    pub(super) fn effect(&mut self, arbiter: usize, effect: Effect) {
        let is_own = matches!(&effect, Effect::Tell(notice) if matches!(**notice, Notice::Own { .. }));
        let is_reply = matches!(&effect, Effect::Reply { .. });
        if !is_own && !is_reply && self.arbiters[arbiter].outstanding.is_some() {
            let text = format!("handed out behind an unanswered record: {}", name_of(&effect));
            self.checks.broken(self.now, Invariant::IntentFirst, text);
        }
        match effect {
            Effect::Persist { id, records } => self.persist(arbiter, id, records),
            Effect::Run(run) => self.run_act(arbiter, *run),
            Effect::Tell(notice) => self.notice(arbiter, &notice),
            Effect::Reply { .. } => {}
        }
    }

    pub(super) fn notice(&mut self, arbiter: usize, notice: &Notice) {
        self.coverage.notice(notice);
        match notice {
            Notice::PrimaryChanged { .. } => self.learn_primary(arbiter),
            Notice::IncidentUpdated(incident) if incident.is_closed() => self.tells_soon(arbiter, (**incident).clone()),
            Notice::IncidentUpdated(incident) => self.checks.told(incident),
            _ => {}
        }
        if self.story.is_some()
            && let Some(text) = super::run::words_of(notice)
        {
            self.tell_host(arbiter, &text);
        }
    }

    /// The end of an incident is on its way to people, and once it is, that is written down. An arbiter that dies before
    /// told nobody.
    fn tells_soon(&mut self, arbiter: usize, incident: Incident) {
        let life = self.arbiters[arbiter].life;
        let after = self.random.within(MS / 2, 4 * MS);
        self.after(after, Happening::Tells { arbiter, life, incident: Box::new(incident) });
    }

    pub(super) fn tells(&mut self, arbiter: usize, life: u32, incident: Box<Incident>) {
        if !self.is_life(arbiter, life) {
            self.coverage.hit("arbiter: dies before it told of an end");
            return;
        }
        if !self.arbiter_runs(arbiter) {
            return self.after(50 * MS, Happening::Tells { arbiter, life, incident });
        }
        self.checks.told(&incident);
        if !matches!(self.store.mode, StoreMode::Fails | StoreMode::Hangs) {
            self.store.untold.remove(&incident.id);
        }
    }

    /// What an arbiter does that starts, or begins to lead: it tells of the ends that perhaps nobody was told of.
    pub(super) fn tell_what_is_untold(&mut self, arbiter: usize) {
        let untold: Vec<_> =
            self.store.untold.iter().filter_map(|id| self.store.incidents.get(id)?.incident.clone()).collect();
        for incident in untold {
            self.coverage.hit("arbiter: tells of an end that perhaps nobody was told of");
            self.tells_soon(arbiter, incident);
        }
    }

    // ---- the store ---------------------------------------------------------------------------------------------

    pub(super) fn persist(&mut self, arbiter: usize, id: u64, records: Vec<Record>) {
        self.coverage.hit("arbiter: persists");
        let me = &mut self.arbiters[arbiter];
        me.outstanding = Some(id);
        let (life, term) = (me.life, me.term.map(|(term, _)| term));
        let after = match self.store.mode {
            StoreMode::Slow => 2 * SEC,
            _ => self.random.within(MS / 2, 4 * MS),
        };
        self.after(after, Happening::StoreAnswer { arbiter, life, term, id, records });
    }

    pub(super) fn store_answers(
        &mut self,
        arbiter: usize,
        life: u32,
        term: Option<u64>,
        id: u64,
        records: Vec<Record>,
    ) {
        if !self.is_life(arbiter, life) {
            // It died with the write under way: half of those are on the disk.
            let is_dead = !self.arbiters[arbiter].is_up && life + 1 == self.arbiters[arbiter].life;
            if is_dead && self.random.one_in(2) && self.setting.arbiters == 1 {
                self.coverage.hit("store: keeps what an arbiter died over");
                let _ = self.take(&records, None);
            }
            return;
        }
        if !self.arbiter_runs(arbiter) {
            return self.after(50 * MS, Happening::StoreAnswer { arbiter, life, term, id, records });
        }
        let result = match self.store.mode {
            StoreMode::Hangs => {
                return self.after(SEC, Happening::StoreAnswer { arbiter, life, term, id, records });
            }
            StoreMode::Fails => Err(Refused { is_conflict: false, reason: "no space left on the device".into() }),
            _ if self.setting.arbiters > 1 && term.is_none() => {
                Err(Refused { is_conflict: false, reason: "it does not lead".into() })
            }
            StoreMode::LosesAnswers if self.random.one_in(2) => {
                // Whoever asks looks before it goes on: what it had written is there, or it writes it again.
                self.coverage.hit("store: an answer was lost");
                return self.after(SEC, Happening::StoreAnswer { arbiter, life, term, id, records });
            }
            _ => self.take(&records, term),
        };
        if self.arbiters[arbiter].outstanding != Some(id) {
            // It stopped leading meanwhile: nobody waits for this any more. Who leads next tells what it ended.
            return;
        }
        self.arbiters[arbiter].outstanding = None;
        match result {
            Ok(()) => self.event(arbiter, Event::Persisted(id)),
            Err(Refused { is_conflict, reason }) => {
                self.coverage.hit(if is_conflict { "store: conflict" } else { "store: refused" });
                self.event(arbiter, Event::PersistFailed { id, conflict: is_conflict, reason });
            }
        }
    }

    pub(super) fn take(&mut self, records: &[Record], term: Option<u64>) -> Result<(), Refused> {
        self.store.persist(term, records)?;
        self.checks.stored(self.now, &self.store);
        for record in records {
            let Record::Log { incident, entry, .. } = record else { continue };
            self.coverage.entry(entry);
            self.logged(incident, entry);
        }
        Ok(())
    }

    /// Something was written down of an incident: what the judge wants to know of that moment.
    pub(super) fn logged(&mut self, incident: &crate::model::IncidentId, entry: &LogEntry) {
        match entry {
            LogEntry::Opened { kind: SagaKind::Failover, .. } => self.checks.opened(self.now),
            LogEntry::Promoted { .. } => self.judge_promotion(incident),
            _ => {}
        }
    }

    /// The first act of a failover that a rule began is handed out. Was the old primary of use to its nodes, and could the
    /// arbiter know anything at all?
    pub(super) fn judge_beginning(&mut self, arbiter: usize, incident: &crate::model::IncidentId) {
        let kept = self.store.incidents.get(incident).and_then(|kept| kept.incident.as_ref());
        let by_rule = kept.filter(|i| matches!(i.trigger, Trigger::Rule(_)) && i.kind == SagaKind::Failover);
        let Some(old) = by_rule.and_then(|incident| self.member_at(&incident.old_primary)) else { return };
        if !self.checks.begins(incident) {
            return;
        }
        let lately = 3 * self.write_every;
        let live: Vec<_> = self.nodes.iter().filter(|node| node.is_alive && !node.is_idle).collect();
        let served = live
            .iter()
            .filter(|node| node.follows == Some(old) && node.last_received.is_some_and(|at| self.now - at <= lately))
            .count();
        if self.serves(old) && !live.is_empty() && served * 2 > live.len() {
            self.checks.false_failovers += 1;
            let (served, live) = (served, live.len());
            self.tell_with(old, |name| {
                format!("{name} was still serving {served} of {live} nodes when it was called dead")
            });
        }
        let fresh = self.streams.iter().filter(|s| s.is_of_nodes()).map(|s| self.ns(s.fresh_for)).max();
        if let Some(fresh) = fresh {
            let heard = self.arbiters[arbiter].nodes_heard.iter();
            // Twice the time: what was heard before the rule looked is still good at that moment.
            let heard = heard.filter(|at| self.now - **at <= 2 * fresh).count();
            let needed = majority(self.nodes.len());
            if heard < needed {
                let text = format!("a failover began while {heard} of {} nodes were heard", self.nodes.len());
                self.checks.broken(self.now, Invariant::HandsOff, text);
            }
        }
    }

    // ---- acts --------------------------------------------------------------------------------------------------

    /// An act is handed out.
    pub(super) fn run_act(&mut self, arbiter: usize, run: Run) {
        self.judge_act(arbiter, &run);
        if !self.leads(arbiter) {
            self.coverage.hit("arbiter: an act is not begun, for it leads no more");
            return;
        }
        self.begin_act(arbiter, run);
    }
}

const fn name_of(effect: &Effect) -> &'static str {
    match effect {
        Effect::Persist { .. } => "a record",
        Effect::Run(_) => "an act",
        Effect::Tell(_) => "a notice",
        Effect::Reply { .. } => "a reply",
    }
}

//! An arbiter's driver, as `src/arbiter/driver.rs` and `src/arbiter/several` are: what its engine is told, what becomes of
//! its effects, and the store, which takes writes of whoever leads alone (`src/store/shared.rs`).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use coroner::{
    failover::SagaState,
    model::{
        Action, Effect, Epoch, Event, Notice, Record, StepResult,
        effect::Run,
        incident::IncidentState,
        record::{LogEntry, SagaKind},
    },
};

use crate::{
    goals::Goal,
    setup::{ARBITERS, Bug, ORDERS, Setup},
    world::{Answer, Flight, Kept, Life, Notes, Step, Store, What, World, Writing},
};

impl World {
    /// Whether the arbiter leads at this moment, by the store and by its own clock: asked before every act and every
    /// record. Whoever is elected is so only once the lease of the one before is over on any clock (decision 13).
    pub fn leads(&self, setup: &Setup, index: usize) -> bool {
        let arbiter = &self.arbiters[index];
        if setup.bug == Bug::NoSwap {
            return arbiter.term.is_some();
        }
        arbiter.term == Some(self.store.term) && self.store.leader == u8::try_from(index).ok()
    }

    /// Whether it was elected and has still to read how things stand.
    pub fn is_to_lead(&self, index: usize) -> bool {
        let arbiter = &self.arbiters[index];
        arbiter.life == Life::Up
            && self.store.leader == u8::try_from(index).ok()
            && arbiter.term != Some(self.store.term)
    }

    fn seen(&self, index: usize) -> BTreeMap<coroner::model::ClusterName, Epoch> {
        BTreeMap::from([(ORDERS.into(), self.arbiters[index].seen)])
    }

    /// The first thing of every turn: one that leads no more is told so, before anything else.
    pub fn turn(&mut self, setup: &Setup, index: usize, notes: &mut Notes) {
        if self.arbiters[index].term.is_some() && !self.leads(setup, index) {
            notes.say(|| format!("    {} notices that it leads no more", ARBITERS[index]));
            self.follow(index, "another arbiter leads");
        }
    }

    /// It watches from here on, and knows what the store holds.
    pub fn follow(&mut self, index: usize, reason: &str) {
        let clusters = Some(vec![self.store.state.clone()]);
        let epoch = self.store.state.epoch;
        let arbiter = self.arbiter(index);
        arbiter.term = None;
        arbiter.writing = None;
        arbiter.told = None;
        arbiter.seen = arbiter.seen.max(epoch);
        let seen = self.seen(index);
        self.tell(index, Event::Follows { reason: reason.into(), clusters, seen });
    }

    /// It has read everything, and leads.
    pub fn lead(&mut self, setup: &Setup, index: usize, notes: &mut Notes) {
        let recovered = Box::new(self.store.recovered());
        let (term, epoch) = (self.store.term, self.store.state.epoch);
        for open in &recovered.open {
            if let Some(why) = why_not_recoverable(&open.log) {
                notes.wrong(|| format!("a log that cannot be taken up: {why}: {:?}", open.log));
            }
        }
        let arbiter = self.arbiter(index);
        arbiter.term = Some(term);
        arbiter.writing = None;
        arbiter.told = None;
        arbiter.seen = arbiter.seen.max(epoch);
        let seen = self.seen(index);
        self.tell(index, Event::Leads { recovered, seen });
        self.drain(setup, index, notes);
    }

    /// Takes the engine's effects, and looks at each.
    pub fn drain(&mut self, setup: &Setup, index: usize, notes: &mut Notes) {
        while let Some(effect) = self.arbiter(index).engine.poll_effect() {
            let is_waiting = self.arbiters[index].writing.is_some();
            match effect {
                Effect::Persist { id, records } => {
                    if is_waiting {
                        notes.wrong(|| "a record was handed out behind one that is not answered yet".into());
                    }
                    // Where it leads no more, its next turn forgets what was to be written.
                    if self.leads(setup, index) {
                        notes.say(|| format!("    {} hands out a record: {}", ARBITERS[index], words(&records)));
                        self.arbiter(index).writing = Some(Writing { id, records: Arc::new(records), answer: None });
                    }
                }
                Effect::Run(run) => {
                    if is_waiting {
                        notes.wrong(|| "an act was handed out behind a record that is not answered yet".into());
                    }
                    if self.leads(setup, index) {
                        self.begin(setup, index, *run, notes);
                    }
                }
                Effect::Tell(notice) => {
                    if let Notice::IncidentUpdated(incident) = *notice {
                        let told = (incident.kind, incident.epoch, incident.state);
                        if self.arbiters[index].told != Some(told) {
                            notes.say(|| {
                                let why = incident.state_reason.as_deref().unwrap_or_default();
                                let of = &incident.old_primary;
                                format!(
                                    "    {} tells: {:?} of {of}, epoch {}: {} {why}",
                                    ARBITERS[index], incident.kind, incident.epoch, incident.state
                                )
                            });
                        }
                        self.arbiter(index).told = Some(told);
                    }
                }
                Effect::Reply { result, .. } => {
                    notes.say(|| match result {
                        Ok(reply) => format!("    {} answers: {}", ARBITERS[index], reply.text),
                        Err(error) => format!("    {} refuses: {}", ARBITERS[index], error.text),
                    });
                }
            }
        }
    }

    /// An act was handed out. Nothing may be done whose intent is not in the store, and nobody promoted without proof.
    fn begin(&mut self, setup: &Setup, index: usize, run: Run, notes: &mut Notes) {
        notes.say(|| format!("    {} hands out: {}, epoch {}", ARBITERS[index], act(&run), run.order.epoch));
        self.judge_act(setup, &run, notes);
        let lives = self.arbiters[index].lives;
        let term = self.arbiters[index].term.unwrap_or_default();
        if self.flights.iter().any(|flight| matches!(&*flight.what, What::Run(other) if other.token == run.token)) {
            notes.reach(Goal::Repeats);
        }
        self.flights.push(Flight {
            by: index,
            lives,
            term,
            what: Arc::new(What::Run(run)),
            issued: self.now,
            step: Step::Due,
            sealed: 0,
            over: 0,
            is_appointed: false,
        });
    }

    fn judge_act(&self, setup: &Setup, run: &Run, notes: &mut Notes) {
        // What a store without conditions holds is nobody's word.
        if setup.bug == Bug::NoSwap {
            return;
        }
        let Some(kept) = self.store.open.iter().find(|kept| kept.incident.id == run.token.incident) else {
            return notes.wrong(|| format!("an act of an incident that is not in the store: {}", act(run)));
        };
        let is_intended = kept.log.iter().any(|entry| {
            matches!(&**entry, LogEntry::Started { act, action, member }
                if *act == run.token.number && *action == run.action && *member == run.order.target.member)
        });
        if !is_intended {
            notes.wrong(|| format!("an act was handed out before its intent was durable: {}", act(run)));
        }
        let log: Vec<LogEntry> = kept.log.iter().map(|entry| (**entry).clone()).collect();
        let Some(state) = SagaState::from_log(&log) else {
            return notes.wrong(|| "a log that does not open".into());
        };
        if run.order.epoch != state.epoch || run.order.epoch > self.store.state.epoch {
            notes.wrong(|| format!("an act in epoch {}, while the saga has {}", run.order.epoch, state.epoch));
        }
        if run.action != Action::Promote {
            return;
        }
        let Some(policy) = kept.policy.as_ref().and_then(|policy| policy.clusters.get(ORDERS)) else {
            return notes.wrong(|| "an act without the policy that its incident began with".into());
        };
        let failover = &policy.failover;
        if failover.lease.is_some() && !state.is_sealed() {
            notes.wrong(|| "PROMOTED BEFORE THE SEAL".into());
        }
        match state.kind {
            SagaKind::Failover => {
                let proof = state.proof(failover);
                if !proof.meets(failover.proof_needed) {
                    notes.wrong(|| format!("PROMOTED ON PROOF {proof}, and {} is needed", failover.proof_needed));
                }
                let is_by_lease = proof == coroner::model::Proof::LeaseOver;
                notes.reach(if is_by_lease { Goal::ProvedByLease } else { Goal::ProvedByFence });
            }
            SagaKind::Switchover => {
                let last = |wanted: &Action| {
                    log.iter().rposition(|e| matches!(e, LogEntry::Started { action, .. } if action == wanted))
                };
                let drained = last(&Action::MakeReadOnly);
                if drained.is_none() || last(&Action::MakeWritable) > drained {
                    notes.wrong(|| "promoted beside a primary that may take writes".into());
                }
            }
            SagaKind::Rejoin => notes.wrong(|| "a rejoin promotes nobody".into()),
        }
    }

    // ---- the store -------------------------------------------------------------------------------------------

    /// The store takes the arbiter's write, or refuses it.
    pub fn store_takes(&mut self, setup: &Setup, index: usize, notes: &mut Notes) {
        let Some(writing) = self.arbiters[index].writing.clone() else { return };
        let answer = if setup.bug == Bug::NoSwap {
            self.overwrite(&writing.records);
            Answer::Taken
        } else if self.leads(setup, index) {
            match self.write(index, &writing.records, notes) {
                Ok(()) => Answer::Taken,
                Err(why) => {
                    notes.say(|| format!("    the store refuses: {why}"));
                    Answer::Conflict
                }
            }
        } else {
            notes.reach(Goal::RefusesWrite);
            notes.say(|| format!("    the store refuses: {} is not written down as the leader", ARBITERS[index]));
            Answer::Conflict
        };
        if let Some(writing) = &mut self.arbiter(index).writing {
            writing.answer = Some(answer);
        }
    }

    /// All or nothing.
    fn write(&mut self, index: usize, records: &[Record], notes: &mut Notes) -> Result<(), String> {
        let mut store = Store::clone(&self.store);
        let mut primaries = Vec::new();
        for record in records {
            match record {
                Record::Cluster { expected, state } => {
                    let stored = store.state.epoch;
                    if stored != *expected {
                        return Err(format!("it is at epoch {stored}, and {expected} was expected"));
                    }
                    if state.epoch < stored || state.primary_epoch < store.state.primary_epoch {
                        notes.wrong(|| format!("the epoch shrinks from {stored} to {}", state.epoch));
                    }
                    if state.primary_epoch > state.epoch {
                        notes.wrong(|| "a primary of an epoch that was never taken".into());
                    }
                    store.state = state.clone();
                    primaries.extend(state.primary.clone().map(|primary| (primary, state.primary_epoch)));
                }
                Record::Incident(incident) => {
                    match store.open.iter_mut().find(|kept| kept.incident.id == incident.id) {
                        Some(kept) => kept.incident = Arc::new((**incident).clone()),
                        None => store.open.push(Kept {
                            incident: Arc::new((**incident).clone()),
                            policy: None,
                            log: Vec::new(),
                        }),
                    }
                }
                Record::IncidentPolicy { incident, policy } => {
                    let kept = store.open.iter_mut().find(|kept| kept.incident.id == *incident);
                    let kept = kept.ok_or("a policy of an incident that has no record")?;
                    kept.policy = Some(Arc::new((**policy).clone()));
                }
                Record::Log { incident, number, entry, .. } => {
                    let kept = store.open.iter_mut().find(|kept| kept.incident.id == *incident);
                    let kept = kept.ok_or("an entry of an incident that has no record")?;
                    if *number as usize != kept.log.len() + 1 {
                        return Err(format!("entry {number} does not follow {}", kept.log.len()));
                    }
                    if let LogEntry::Opened { kind, epoch, .. } = entry
                        && *kind != SagaKind::Rejoin
                    {
                        let bit = 1_u32 << epoch.0.min(31);
                        if store.opened & bit != 0 {
                            notes.wrong(|| format!("two incidents act in epoch {epoch}"));
                        }
                        store.opened |= bit;
                    }
                    kept.log.push(Arc::new(entry.clone()));
                }
            }
        }
        for kept in store.open.extract_if(.., |kept| kept.incident.is_closed()) {
            reach_end(index, &kept, notes);
        }
        if store.open.len() > 1 {
            notes.wrong(|| "two incidents of one cluster are open at once".into());
        }
        if store.open.iter().any(|kept| kept.incident.state == IncidentState::Held) {
            notes.reach(Goal::Holds);
        }
        self.store = Arc::new(store);
        let epoch = self.store.state.epoch;
        let arbiter = self.arbiter(index);
        arbiter.seen = arbiter.seen.max(epoch);
        for (primary, epoch) in primaries {
            let member = self.index(&primary);
            self.owns(member, epoch, notes);
        }
        Ok(())
    }

    /// Whatever was there.
    fn overwrite(&mut self, records: &[Record]) {
        let store = Arc::make_mut(&mut self.store);
        for record in records {
            match record {
                Record::Cluster { state, .. } => store.state = state.clone(),
                Record::Incident(incident) => {
                    store.open.retain(|kept| kept.incident.id != incident.id || !incident.is_closed());
                    match store.open.iter_mut().find(|kept| kept.incident.id == incident.id) {
                        Some(kept) => kept.incident = Arc::new((**incident).clone()),
                        None if incident.is_closed() => {}
                        None => store.open.push(Kept {
                            incident: Arc::new((**incident).clone()),
                            policy: None,
                            log: Vec::new(),
                        }),
                    }
                }
                Record::IncidentPolicy { incident, policy } => {
                    if let Some(kept) = store.open.iter_mut().find(|kept| kept.incident.id == *incident) {
                        kept.policy = Some(Arc::new((**policy).clone()));
                    }
                }
                Record::Log { incident, entry, .. } => {
                    if let Some(kept) = store.open.iter_mut().find(|kept| kept.incident.id == *incident) {
                        kept.log.push(Arc::new(entry.clone()));
                    }
                }
            }
        }
    }

    /// The store's answer arrives.
    pub fn store_answers(&mut self, setup: &Setup, index: usize, notes: &mut Notes) {
        self.turn(setup, index, notes);
        // What was written in a term that is over is forgotten with it.
        if let Some(writing) = self.arbiter(index).writing.take() {
            match writing.answer {
                Some(Answer::Taken) => self.tell(index, Event::Persisted(writing.id)),
                Some(Answer::Failed) => {
                    self.arbiter(index).doubts_store = true;
                    let reason = "it cannot be reached".into();
                    self.tell(index, Event::PersistFailed { id: writing.id, conflict: false, reason });
                }
                // Everything is read anew before anything more is done; it is still elected.
                Some(Answer::Conflict) => self.follow(index, "a write was refused"),
                None => self.arbiter(index).writing = Some(writing),
            }
        }
        self.drain(setup, index, notes);
    }

    /// The answer of an act arrives.
    pub fn act_answers(&mut self, setup: &Setup, flight: &Flight, result: StepResult, notes: &mut Notes) {
        self.turn(setup, flight.by, notes);
        // What a former term had begun is looked at again by whoever leads now.
        if let (What::Run(run), true) = (&*flight.what, self.is_heard(flight)) {
            self.tell(flight.by, Event::StepEnded { token: run.token.clone(), result });
        }
        self.drain(setup, flight.by, notes);
    }

    /// Time passes for an arbiter.
    pub fn wakes(&mut self, setup: &Setup, index: usize, late: u32, notes: &mut Notes) {
        if self.arbiters[index].life != Life::Up {
            return;
        }
        if late > 0 {
            let by = Duration::from_secs(late.into());
            self.tell(index, Event::RanLate { by, detail: "it was stopped".into() });
        }
        self.turn(setup, index, notes);
        let now = self.time();
        let arbiter = self.arbiter(index);
        arbiter.engine.handle_timeout(now);
        arbiter.has_looked = false;
        if std::mem::take(&mut arbiter.doubts_store) {
            self.tell(index, Event::StoreHealth { ok: true, detail: String::new() });
        }
        self.drain(setup, index, notes);
    }
}

/// What the end of an incident is the first of.
fn reach_end(index: usize, kept: &Kept, notes: &mut Notes) {
    let incident = &kept.incident;
    notes.reach(match (incident.state, incident.kind) {
        (IncidentState::Aborted, _) => Goal::Aborts,
        (_, SagaKind::Failover) => Goal::FailsOver,
        (_, SagaKind::Switchover) => Goal::SwitchesOver,
        (_, SagaKind::Rejoin) => Goal::Rejoins,
    });
    if incident.arbiter != ARBITERS[index] && incident.state == IncidentState::Resolved {
        notes.reach(Goal::TakesOver);
    }
}

/// Every prefix of a log opens, and the rest leads to the same state from it: nothing is known that is not in the log.
fn why_not_recoverable(log: &[LogEntry]) -> Option<String> {
    let Some(whole) = SagaState::from_log(log) else { return Some("it does not open".into()) };
    for length in 1..=log.len() {
        let Some(mut state) = SagaState::from_log(&log[..length]) else {
            return Some(format!("its first {length} entries do not open"));
        };
        log[length..].iter().for_each(|entry| state.apply(entry));
        if state != whole {
            return Some(format!(
                "what its first {length} entries and then the others lead to is not what all lead to"
            ));
        }
    }
    None
}

/// An act in words.
pub fn act(run: &Run) -> String {
    let member = &run.order.target.member;
    match &run.action {
        Action::Fence { level, method } => format!("fence {member} ({level}.{method})"),
        Action::Seal => "have a majority seal".into(),
        Action::AwaitLease => format!("wait for the end of the lease of {member}"),
        Action::ForbiddenWrite { .. } => format!("try a forbidden write at {member}"),
        Action::MakeReadOnly => format!("make {member} read-only"),
        Action::MakeWritable => format!("make {member} writable"),
        Action::CatchUp { .. } => format!("let {member} catch up"),
        Action::Promote => format!("promote {member}"),
        Action::Repoint { primary } => format!("point {member} at {primary}"),
        Action::Redirect { .. } => format!("redirect the nodes to {member}"),
        Action::Rejoin { primary, .. } => format!("make {member} follow {primary}"),
        Action::Admit { .. } => format!("admit the arbiter to {member}"),
        Action::Unfence { .. } => format!("lift the fence from {member}"),
    }
}

fn words(records: &[Record]) -> String {
    let each = records.iter().filter_map(|record| match record {
        Record::Cluster { state, .. } => Some(format!(
            "epoch {}, primary {} of epoch {}",
            state.epoch,
            state.primary.as_ref().map_or("nobody", |primary| primary.as_str()),
            state.primary_epoch
        )),
        Record::Log { number, entry, .. } => Some(format!("{number}: {}", entry_in_words(entry))),
        Record::Incident(_) | Record::IncidentPolicy { .. } => None,
    });
    each.collect::<Vec<_>>().join("; ")
}

fn entry_in_words(entry: &LogEntry) -> String {
    match entry {
        LogEntry::Opened { kind, epoch, old_primary, candidate, .. } => {
            format!("{kind:?} of {old_primary} to {candidate} opened in epoch {epoch}")
        }
        LogEntry::Started { act, action, member } => format!("act {act} at {member} is begun: {action:?}"),
        LogEntry::Ended { act, .. } => format!("act {act} has ended"),
        LogEntry::Promoted { .. } => "promoted".into(),
        LogEntry::Followed { .. } => "followed".into(),
        LogEntry::Resolved => "resolved".into(),
        other => format!("{other:?}"),
    }
}

//! What can happen next, and what comes of it.
//!
//! Within a second everything may happen in any order: a look of the leader, an act carried out, its answer, a write, its
//! answer, a reading of the store, a fault, a recovery. A second ends when nothing is due in it any more: what can be done
//! in time is done in time, unless a fault says otherwise. Who does not lead looks once, as the second begins.

use std::{fmt, sync::Arc};

use coroner::model::{Command, Event, Operator};

use crate::{
    acts::{not_done, out_of_time},
    arbiters::act,
    setup::{ARBITERS, Faults, LINKS, MEMBERS, ORDERS, PARTIES, Setup},
    world::{Answer, Flight, Life, Notes, Step, What, World},
};

/// One thing that happens. Flights by their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// The leader looks at everything.
    Look(u8),
    /// It tells the primary's agent that its member is primary.
    TellPrimary(u8),
    Carry(u8),
    ActAnswers(u8),
    StoreTakes(u8),
    StoreAnswers(u8),
    /// Whoever was elected has read the store.
    Lead(u8),
    Elect(u8),
    /// The next second begins.
    Tick,
    /// Late grants arrive.
    Granted(u8),
    // What undoes a fault.
    Restart(u8),
    Resume(u8),
    Thaw(u8),
    Revive(u8),
    Heal,
    // Faults.
    Die(u8),
    Freeze(u8),
    Cut(u8),
    Crash(u8),
    Pause(u8),
    /// Another one is elected though the leader is well.
    Usurp(u8),
    /// Not done, and says so.
    NotDone(u8),
    /// Done, and nobody hears of it.
    DoneUnheard(u8),
    /// Neither done nor answered.
    Lost(u8),
    /// Held up: done at any later time.
    Delay(u8),
    /// Done now, and once more at any later time, with a second answer.
    Twice(u8),
    /// A write fails; nothing of it was written.
    StoreFails(u8),
    /// A write is taken, and its answer is lost.
    StoreForgets(u8),
    /// The answers to a member's next renewal come late.
    Slow(u8),
    Switchover(u8),
    Abort(u8),
    Continue(u8),
}

const RUNS_AT_MOST: usize = 24;

impl World {
    fn may(&self, setup: &Setup, kind: impl Fn(&Faults) -> u8) -> bool {
        self.spent.all < setup.bounds.all && kind(&self.spent) < kind(&setup.bounds)
    }

    /// Everything that can happen now: first what goes its way, then recoveries, then faults.
    pub fn moves(&self, setup: &Setup, out: &mut Vec<Move>) {
        out.clear();
        self.moves_in_order(setup, out);
        if self.may_tick(setup) {
            out.push(Move::Tick);
        }
        self.moves_late(setup, out);
        if self.spent.all == 0 || self.now <= self.hurt_at + setup.mends_within {
            self.recoveries(out);
        }
        let harmless = out.len();
        self.faults(setup, out);
        let mut at = 0;
        out.retain(|what| {
            at += 1;
            at <= harmless || (setup.draws)(self, *what)
        });
    }

    /// What goes its way within this second.
    pub fn moves_in_order(&self, setup: &Setup, out: &mut Vec<Move>) {
        for index in 0..2_usize {
            let at = index as u8;
            let arbiter = &self.arbiters[index];
            if arbiter.life == Life::Up {
                match arbiter.writing.as_ref().map(|writing| writing.answer) {
                    Some(None) => out.push(Move::StoreTakes(at)),
                    Some(Some(_)) => out.push(Move::StoreAnswers(at)),
                    None => {}
                }
                if self.is_to_lead(index) {
                    out.push(Move::Lead(at));
                }
            }
        }
        for (at, flight) in self.flights.iter().enumerate() {
            let at = at as u8;
            match &flight.step {
                Step::Done(_) if self.arbiters[flight.by].life == Life::Up => out.push(Move::ActAnswers(at)),
                Step::Due if self.can_carry(setup, flight) => out.push(Move::Carry(at)),
                _ => {}
            }
        }
        for index in 0..2_usize {
            let at = index as u8;
            if self.arbiters[index].life == Life::Up && self.leads(setup, index) {
                if self.tells_primary(setup, index) {
                    out.push(Move::TellPrimary(at));
                }
                if !self.arbiters[index].has_looked {
                    out.push(Move::Look(at));
                }
            }
        }
    }

    /// What was held up by a fault may come at any time, or never.
    fn moves_late(&self, setup: &Setup, out: &mut Vec<Move>) {
        for (at, flight) in self.flights.iter().enumerate() {
            if flight.step == Step::Late && self.can_carry(setup, flight) {
                out.push(Move::Carry(at as u8));
            }
        }
        for member in 0..2 {
            if self.members[member].late.is_some() && self.members[member].has_agent() {
                out.push(Move::Granted(member as u8));
            }
        }
    }

    /// Whether the leader would tell the primary's agent that it is: its beats do not say that it knows.
    fn tells_primary(&self, setup: &Setup, index: usize) -> bool {
        if !setup.has_lease {
            return false;
        }
        let Some((name, epoch)) = self.arbiters[index].engine.appointment(&ORDERS.into()) else { return false };
        let member = self.index(&name);
        let is_told = self.members[member].appointed == Some(epoch);
        let is_asked = |flight: &Flight| flight.by == index && matches!(*flight.what, What::Appoint(..));
        !is_told && self.reaches(index, member) && !self.flights.iter().any(is_asked)
            // One whose agent refuses for good is not asked again and again within a second.
            && self.voters[crate::setup::party(member)].sealed() <= epoch
    }

    /// Whether nothing is due in this second any more.
    fn may_tick(&self, setup: &Setup) -> bool {
        let is_busy = |index: usize| {
            let arbiter = &self.arbiters[index];
            arbiter.life == Life::Up
                && (arbiter.writing.is_some()
                    || self.is_to_lead(index)
                    || (self.leads(setup, index) && !arbiter.has_looked))
        };
        let is_due = |flight: &Flight| {
            let is_up = self.arbiters[flight.by].life == Life::Up;
            match &flight.step {
                Step::Done(_) => is_up && self.is_heard(flight),
                Step::Due => is_up && self.is_heard(flight) && self.can_carry(setup, flight),
                Step::Late => false,
            }
        };
        !is_busy(0) && !is_busy(1) && !self.flights.iter().any(is_due)
    }

    fn leader_is_well(&self) -> bool {
        self.store.leader.is_some_and(|leader| self.arbiters[usize::from(leader)].life == Life::Up)
    }

    fn recoveries(&self, out: &mut Vec<Move>) {
        for index in 0..2_usize {
            let at = index as u8;
            match self.arbiters[index].life {
                Life::Down => out.push(Move::Restart(at)),
                Life::Paused(_) => out.push(Move::Resume(at)),
                Life::Up if !self.leader_is_well() => out.push(Move::Elect(at)),
                Life::Up => {}
            }
            let member = &self.members[index];
            if member.frozen {
                out.push(Move::Thaw(at));
            } else if !member.up && !member.off {
                out.push(Move::Revive(at));
            }
        }
        if self.cuts != 0 {
            out.push(Move::Heal);
        }
    }

    fn faults(&self, setup: &Setup, out: &mut Vec<Move>) {
        if self.spent.all >= setup.bounds.all {
            return;
        }
        for index in 0..2_usize {
            let at = index as u8;
            let (member, arbiter) = (&self.members[index], &self.arbiters[index]);
            let mut push = |is_so: bool, what: Move, kind: fn(&Faults) -> u8| {
                if is_so && self.may(setup, kind) {
                    out.push(what);
                }
            };
            push(member.up && !member.off, Move::Die(at), |f| f.die);
            push(member.has_agent(), Move::Freeze(at), |f| f.freeze);
            let asks = setup.has_lease && member.appointed.is_some() && !member.is_slow && member.late.is_none();
            push(asks && member.has_agent(), Move::Slow(at), |f| f.slow);
            let is_up = arbiter.life == Life::Up;
            push(arbiter.life != Life::Down, Move::Crash(at), |f| f.crash);
            push(is_up, Move::Pause(at), |f| f.pause);
            push(is_up && self.leader_is_well() && self.store.leader != Some(at), Move::Usurp(at), |f| f.usurp);
            let writes = is_up && arbiter.writing.as_ref().is_some_and(|writing| writing.answer.is_none());
            push(writes && self.leads(setup, index), Move::StoreFails(at), |f| f.store);
            push(writes && self.leads(setup, index), Move::StoreForgets(at), |f| f.store);
            if is_up && self.leads(setup, index) && arbiter.writing.is_none() {
                let incident = arbiter.engine.incident(&ORDERS.into());
                push(incident.is_none(), Move::Switchover(at), |f| f.command);
                let is_held = incident.is_some_and(|i| i.state == coroner::model::incident::IncidentState::Held);
                push(incident.is_some(), Move::Abort(at), |f| f.command);
                push(is_held, Move::Continue(at), |f| f.command);
            }
        }
        if self.may(setup, |f| f.cut) {
            out.extend(
                (0..setup.cuts.len()).filter(|cut| setup.cuts[*cut] & !self.cuts != 0).map(|cut| Move::Cut(cut as u8)),
            );
        }
        if self.may(setup, |f| f.act) && self.flights.len() < RUNS_AT_MOST {
            for (at, flight) in self.flights.iter().enumerate().filter(|(_, flight)| flight.step == Step::Due) {
                let at = at as u8;
                let is_run = matches!(*flight.what, What::Run(_));
                if !self.can_carry(setup, flight) {
                    continue;
                }
                out.push(Move::Delay(at));
                if is_run && self.is_heard(flight) {
                    out.extend([Move::NotDone(at), Move::DoneUnheard(at), Move::Lost(at), Move::Twice(at)]);
                }
            }
        }
    }

    /// It happens.
    pub fn apply(&mut self, setup: &Setup, what: Move, notes: &mut Notes) {
        notes.say(|| format!("{:>4} s  {}", self.now, self.in_words(setup, what)));
        self.spend(what);
        let at = |index: u8| usize::from(index);
        match what {
            Move::Look(index) => self.look(setup, at(index), notes),
            Move::TellPrimary(index) => self.tell_primary(at(index)),
            Move::Carry(flight) => {
                let result = self.carry(setup, at(flight), notes);
                self.carried(at(flight), result);
            }
            Move::ActAnswers(flight) => {
                let flight = self.flights.remove(at(flight));
                if let Step::Done(result) = &flight.step {
                    self.act_answers(setup, &flight, result.clone(), notes);
                }
            }
            Move::StoreTakes(index) => self.store_takes(setup, at(index), notes),
            Move::StoreAnswers(index) => self.store_answers(setup, at(index), notes),
            Move::Lead(index) => self.lead(setup, at(index), notes),
            Move::Elect(index) | Move::Usurp(index) => {
                let store = Arc::make_mut(&mut self.store);
                store.leader = Some(index);
                store.term = store.term.wrapping_add(1);
            }
            Move::Tick => self.tick(setup, notes),
            Move::Granted(member) => {
                if let Some((number, _, granted)) = self.member(at(member)).late.take() {
                    self.count(setup, at(member), number, granted);
                }
            }
            Move::Restart(index) => {
                self.start(setup, at(index));
                self.follow(at(index), "the election has not ended yet");
                self.drain(setup, at(index), notes);
                self.look(setup, at(index), notes);
            }
            Move::Resume(index) => self.resume(setup, at(index), notes),
            Move::Thaw(member) => self.member(at(member)).frozen = false,
            Move::Revive(member) => self.boot_up(setup, at(member)),
            Move::Heal => self.cuts = 0,
            Move::Die(member) => {
                let member = self.member(at(member));
                member.up = false;
                member.frozen = false;
                member.gate_until = None;
            }
            Move::Freeze(member) => self.member(at(member)).frozen = true,
            Move::Cut(cut) => self.cuts |= setup.cuts[at(cut)],
            Move::Crash(index) => {
                let arbiter = self.arbiter(at(index));
                arbiter.life = Life::Down;
                arbiter.writing = None;
                if self.store.leader == Some(index) {
                    Arc::make_mut(&mut self.store).leader = None;
                }
            }
            Move::Pause(index) => {
                let now = self.now;
                self.arbiter(at(index)).life = Life::Paused(now);
            }
            Move::NotDone(flight) => {
                if let What::Run(run) = &*Arc::clone(&self.flights[at(flight)].what) {
                    self.flights[at(flight)].step = Step::Done(not_done(run));
                }
            }
            Move::DoneUnheard(flight) => {
                if self.carry(setup, at(flight), notes).is_some() {
                    self.flights.remove(at(flight));
                } else {
                    self.flights[at(flight)].step = Step::Late;
                }
            }
            Move::Lost(flight) => {
                self.flights.remove(at(flight));
            }
            Move::Delay(flight) => self.flights[at(flight)].step = Step::Late,
            Move::Twice(flight) => {
                let again = Flight { step: Step::Late, ..self.flights[at(flight)].clone() };
                let result = self.carry(setup, at(flight), notes);
                self.carried(at(flight), result);
                self.flights.push(again);
            }
            Move::StoreFails(index) => {
                if let Some(writing) = &mut self.arbiter(at(index)).writing {
                    writing.answer = Some(Answer::Failed);
                }
            }
            Move::StoreForgets(index) => {
                self.store_takes(setup, at(index), notes);
                if let Some(writing) = &mut self.arbiter(at(index)).writing {
                    writing.answer = Some(Answer::Conflict);
                }
            }
            Move::Slow(member) => self.member(at(member)).is_slow = true,
            Move::Switchover(index) => {
                let command = Command::Switchover {
                    cluster: ORDERS.into(),
                    to: None,
                    reason: "maintenance".into(),
                    skip_guards: Vec::new(),
                };
                self.command(setup, at(index), command, notes);
            }
            Move::Abort(index) => self.command(setup, at(index), Command::Abort { cluster: ORDERS.into() }, notes),
            Move::Continue(index) => {
                let command = Command::Continue { cluster: ORDERS.into(), accept_loss: true };
                self.command(setup, at(index), command, notes);
            }
        }
        self.check(setup, notes);
        self.refresh();
    }

    fn spend(&mut self, what: Move) {
        let spent = &mut self.spent;
        let kind = match what {
            Move::Die(_) => &mut spent.die,
            Move::Freeze(_) => &mut spent.freeze,
            Move::Cut(_) => &mut spent.cut,
            Move::Crash(_) => &mut spent.crash,
            Move::Pause(_) => &mut spent.pause,
            Move::Usurp(_) => &mut spent.usurp,
            Move::NotDone(_) | Move::DoneUnheard(_) | Move::Lost(_) | Move::Delay(_) | Move::Twice(_) => &mut spent.act,
            Move::StoreFails(_) | Move::StoreForgets(_) => &mut spent.store,
            Move::Slow(_) => &mut spent.slow,
            Move::Switchover(_) | Move::Abort(_) | Move::Continue(_) => &mut spent.command,
            _ => return,
        };
        *kind += 1;
        spent.all += 1;
        self.hurt_at = self.now;
    }

    /// Who waits for the answer gets it; an answer that nobody waits for is lost.
    fn carried(&mut self, at: usize, result: Option<coroner::model::StepResult>) {
        let Some(result) = result else { return };
        let flight = &self.flights[at];
        if self.is_heard(flight) && matches!(*flight.what, What::Run(_)) {
            self.flights[at].step = Step::Done(result);
        } else {
            self.flights.remove(at);
        }
    }

    fn tell_primary(&mut self, index: usize) {
        let Some((name, epoch)) = self.arbiters[index].engine.appointment(&ORDERS.into()) else { return };
        let member = self.index(&name);
        let arbiter = &self.arbiters[index];
        self.flights.push(Flight {
            by: index,
            lives: arbiter.lives,
            term: arbiter.term.unwrap_or_default(),
            what: Arc::new(What::Appoint(member, epoch)),
            issued: self.now,
            step: Step::Due,
            sealed: 0,
            over: 0,
            is_appointed: false,
        });
    }

    fn command(&mut self, setup: &Setup, index: usize, command: Command, notes: &mut Notes) {
        self.turn(setup, index, notes);
        self.tell(index, Event::Commanded { by: Operator("ann".into()), command, reply_to: 1 });
        self.drain(setup, index, notes);
    }

    fn resume(&mut self, setup: &Setup, index: usize, notes: &mut Notes) {
        let Life::Paused(since) = self.arbiters[index].life else { return };
        self.arbiter(index).life = Life::Up;
        self.expire(setup, Some(index), notes);
        self.wakes(setup, index, self.now - since, notes);
    }

    /// The next second: leases and voters count on, executors whose time is over are given up, drivers wake.
    fn tick(&mut self, setup: &Setup, notes: &mut Notes) {
        // Whom nobody listens to any more is cut off with its process, or has done what it was sent to do.
        let flights = std::mem::take(&mut self.flights);
        self.flights = flights.into_iter().filter(|f| f.step == Step::Late || self.is_heard(f)).collect();
        self.now += 1;
        self.renew_all(setup, notes);
        self.expire(setup, None, notes);
        for index in 0..2 {
            self.wakes(setup, index, 0, notes);
            if self.arbiters[index].life == Life::Up && !self.leads(setup, index) {
                self.look(setup, index, notes);
            }
        }
        for index in 0..2 {
            // Ages have grown for everybody.
            self.arbiter(index);
        }
    }

    /// The hands give up what has no time left. What was held up may come all the same.
    fn expire(&mut self, setup: &Setup, only: Option<usize>, notes: &mut Notes) {
        let mut at = 0;
        while at < self.flights.len() {
            let flight = &self.flights[at];
            let is_meant = only.is_none_or(|only| only == flight.by) && self.arbiters[flight.by].life == Life::Up;
            let age = std::time::Duration::from_secs((self.now - flight.issued).into());
            match &*flight.what {
                What::Run(run)
                    if is_meant
                        && flight.lives != u8::MAX
                        && !matches!(flight.step, Step::Done(_))
                        && age >= run.deadline =>
                {
                    let result = out_of_time(run);
                    notes.say(|| format!("    {}: no answer in time", act(run)));
                    let flight = if flight.step == Step::Late {
                        let flight = flight.clone();
                        // Nobody waits for its answer any more.
                        self.flights[at].lives = u8::MAX;
                        at += 1;
                        flight
                    } else {
                        self.flights.remove(at)
                    };
                    if self.is_heard(&flight) {
                        self.act_answers(setup, &flight, result, notes);
                    }
                }
                // A standing order is told anew while it is not known.
                What::Appoint(..) if flight.step == Step::Due && age.as_secs() > 0 => {
                    self.flights.remove(at);
                }
                _ => at += 1,
            }
        }
    }

    /// What happens, in words.
    pub fn in_words(&self, setup: &Setup, what: Move) -> String {
        let of = |at: u8| match self.flights.get(usize::from(at)).map(|flight| (&*flight.what, flight.by)) {
            Some((What::Run(run), by)) => format!("“{}” (epoch {}, of {})", act(run), run.order.epoch, ARBITERS[by]),
            Some((What::Appoint(member, epoch), by)) => {
                format!("“{} is primary of epoch {epoch}” (of {})", MEMBERS[*member], ARBITERS[by])
            }
            None => "an act that is not there".into(),
        };
        let arbiter = |index: u8| ARBITERS[usize::from(index)];
        let member = |index: u8| MEMBERS[usize::from(index)];
        match what {
            Move::Look(i) => format!("{} looks", arbiter(i)),
            Move::TellPrimary(i) => format!("{} tells the primary that it is one", arbiter(i)),
            Move::Carry(f) => format!("{} is carried out", of(f)),
            Move::ActAnswers(f) => format!("the answer of {} arrives", of(f)),
            Move::StoreTakes(i) => format!("the store gets {}'s record", arbiter(i)),
            Move::StoreAnswers(i) => format!("the store's answer reaches {}", arbiter(i)),
            Move::Lead(i) => format!("{} has read the store, and leads", arbiter(i)),
            Move::Elect(i) => format!("{} is elected", arbiter(i)),
            Move::Tick => "a second passes".into(),
            Move::Granted(m) => format!("late grants reach {}", member(m)),
            Move::Restart(i) => format!("{} is started again", arbiter(i)),
            Move::Resume(i) => format!("{} goes on", arbiter(i)),
            Move::Thaw(m) => format!("{} thaws", member(m)),
            Move::Revive(m) => format!("{}'s host starts again", member(m)),
            Move::Heal => "all links are back".into(),
            Move::Die(m) => format!("FAULT: {}'s host dies", member(m)),
            Move::Freeze(m) => format!("FAULT: {}'s host freezes", member(m)),
            Move::Cut(c) => format!("FAULT: cut: {}", link_names(setup.cuts[usize::from(c)])),
            Move::Crash(i) => format!("FAULT: {} dies", arbiter(i)),
            Move::Pause(i) => format!("FAULT: {} is stopped", arbiter(i)),
            Move::Usurp(i) => format!("FAULT: {} is elected though the leader is well", arbiter(i)),
            Move::NotDone(f) => format!("FAULT: {} is not done, and says so", of(f)),
            Move::DoneUnheard(f) => format!("FAULT: {} is done, and its answer is lost", of(f)),
            Move::Lost(f) => format!("FAULT: {} is lost, and nobody answers", of(f)),
            Move::Delay(f) => format!("FAULT: {} is held up", of(f)),
            Move::Twice(f) => format!("FAULT: {} is done, and lies in a queue once more", of(f)),
            Move::StoreFails(i) => format!("FAULT: {}'s record does not reach the store", arbiter(i)),
            Move::StoreForgets(i) => format!("FAULT: the store takes {}'s record, and its answer is lost", arbiter(i)),
            Move::Slow(m) => format!("FAULT: the answers to the next renewal of {} are held up", member(m)),
            Move::Switchover(i) => format!("a person asks {} for a switchover", arbiter(i)),
            Move::Abort(i) => format!("a person asks {} to give up", arbiter(i)),
            Move::Continue(i) => format!("a person tells {} to continue", arbiter(i)),
        }
    }
}

fn link_names(cut: u16) -> String {
    let names = LINKS.iter().enumerate().filter(|(bit, _)| cut & 1 << bit != 0);
    names.map(|(_, (p, q))| format!("{}–{}", PARTIES[*p], PARTIES[*q])).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (member, name) in self.members.iter().zip(MEMBERS) {
            let role = if member.is_primary { "primary" } else { "standby" };
            write!(f, "{name}: {role}, epoch {}", member.broker_epoch)?;
            for (is_so, word) in [
                (!member.up && !member.off, "dead"),
                (member.frozen, "frozen"),
                (member.off, "power off"),
                (member.killed, "killed"),
                (member.read_only, "read-only"),
                (member.gate_until.is_some(), "gate open"),
                (member.fenced.is_some(), "fenced"),
            ] {
                if is_so {
                    write!(f, ", {word}")?;
                }
            }
            write!(f, "; ")?;
        }
        let state = &self.store.state;
        write!(
            f,
            "the store: epoch {}, primary {} of epoch {}, {} open",
            state.epoch,
            state.primary.as_ref().map_or("nobody", |primary| primary.as_str()),
            state.primary_epoch,
            self.store.open.len()
        )
    }
}

//! How acts are carried out: by the members' agents, which refuse what is older than the largest epoch they saw
//! (`src/mesh/party/agent.rs`), by their brokers (`src/broker`), by voters, by a power switch, by the nodes.

use std::sync::Arc;

use coroner::{
    lease::arithmetic::majority,
    model::{ActError, Action, Done, Epoch, FenceReport, Proof, StepResult, WriteAttempt, WriteOutcome, effect::Run},
};

use crate::{
    arbiters::act,
    goals::Goal,
    setup::{ARBITERS, Bug, MEMBERS, NODE, Setup, party},
    world::{Flight, Life, Notes, Step, What, World},
};

/// Where everybody's log ends: loss is not what this checker is about.
pub const POSITION: u64 = 5;

impl World {
    /// Whether carrying it out now would come to anything. What reaches nobody waits until its time is over.
    pub fn can_carry(&self, setup: &Setup, flight: &Flight) -> bool {
        if matches!(flight.step, Step::Done(_)) {
            return false;
        }
        let run = match &*flight.what {
            What::Appoint(member, _) => return self.reaches(flight.by, *member),
            What::Run(run) => run,
        };
        let member = self.index(&run.order.target.member);
        match &run.action {
            Action::Fence { level, method } => match setup.way(*level, *method) {
                _ if setup.bug == Bug::FalseFence => true,
                crate::setup::Way::Power => true,
                _ => self.reaches(flight.by, member),
            },
            Action::Seal | Action::AwaitLease => {
                // One that has died asks nobody any more; what it asked lies with the voters.
                let asks = self.arbiters[flight.by].life != Life::Down;
                let all = if asks { self.voters_of(flight.by) } else { 0 };
                let is_new = all & !flight.sealed != 0;
                let over = self.over(all & flight.sealed, self.mono(setup)) & !flight.over != 0;
                is_new || (run.action == Action::AwaitLease && over)
            }
            Action::ForbiddenWrite { .. } | Action::Redirect { .. } | Action::Admit { .. } => true,
            Action::Promote if flight.is_appointed => self.reaches(flight.by, member) && self.is_held(setup, member),
            Action::Promote => self.reaches(flight.by, member) && !self.breaks_promise(setup, member, run.order.epoch),
            Action::Unfence { level, method } if setup.way(*level, *method) == crate::setup::Way::Power => true,
            Action::MakeReadOnly
            | Action::MakeWritable
            | Action::CatchUp { .. }
            | Action::Repoint { .. }
            | Action::Rejoin { .. }
            | Action::Unfence { .. } => self.reaches(flight.by, member),
        }
    }

    /// A voter that learned of an epoch otherwise than by a seal helps nobody to serve in it before its own wait is over.
    fn breaks_promise(&self, setup: &Setup, member: usize, epoch: Epoch) -> bool {
        let mut voter = self.voters[party(member)].clone();
        voter.adopt(epoch);
        setup.has_lease && voter.memory().is_unproven && !voter.older_runs_for(self.mono(setup)).is_zero()
    }

    /// Carries out the act at that place. `true`: it has come to an end, by an answer or without one.
    pub fn carry(&mut self, setup: &Setup, at: usize, notes: &mut Notes) -> Option<StepResult> {
        let what = Arc::clone(&self.flights[at].what);
        let by = self.flights[at].by;
        let result = match &*what {
            What::Appoint(member, epoch) => {
                let is_refused = self.judge(setup, by, *member, *epoch, notes)
                    || self.appoint(setup, *member, *epoch, notes).is_none();
                notes.say(|| {
                    let how = if is_refused { "refuses to be" } else { "is" };
                    format!("    the agent of {} {how} primary of epoch {epoch}, by {}", MEMBERS[*member], ARBITERS[by])
                });
                Some(StepResult::Done(Done::new("")))
            }
            What::Run(run) => self.act(setup, at, run, notes),
        };
        if let (Some(result), What::Run(run)) = (&result, &*what) {
            notes.say(|| format!("    {}: {}", act(run), in_words(result)));
            if matches!(result, StepResult::WriteTried(tried) if tried.is_accepted()) {
                notes.reach(Goal::WriteAccepted);
            }
        }
        result
    }

    /// The agent looks at an order's epoch. `true`: it refuses.
    fn judge(&mut self, setup: &Setup, by: usize, member: usize, epoch: Epoch, notes: &mut Notes) -> bool {
        let voter = party(member);
        if epoch < self.voters[voter].sealed() && setup.bug != Bug::ObeysOldEpochs {
            if !self.leads(setup, by) {
                notes.reach(Goal::RefusesStale);
            }
            return true;
        }
        self.voters[voter].adopt(epoch);
        self.learned(voter);
        false
    }

    fn act(&mut self, setup: &Setup, at: usize, run: &Run, notes: &mut Notes) -> Option<StepResult> {
        let by = self.flights[at].by;
        let epoch = run.order.epoch;
        let member = self.index(&run.order.target.member);
        let what = act(run);
        let refused = || StepResult::Failed(ActError::nothing_done(what.clone(), "its agent saw a larger epoch"));
        let nothing = |why: &str| StepResult::Failed(ActError::nothing_done(what.clone(), why));
        let done = || StepResult::Done(Done::new("done"));
        Some(match &run.action {
            Action::Fence { level, method } => {
                let way = setup.way(*level, *method);
                StepResult::Fenced(self.fence(setup, by, member, epoch, way, notes))
            }
            Action::Seal | Action::AwaitLease => return self.ask_voters(setup, at, run),
            Action::ForbiddenWrite { .. } => {
                let outcome = self.forbidden_write(setup, by, member);
                let detail = format!("{outcome:?}");
                StepResult::WriteTried(WriteAttempt { on_new: outcome, on_open: Some(outcome), detail })
            }
            Action::Redirect { .. } => {
                if epoch >= self.node.1 {
                    self.node = (member, epoch);
                    StepResult::Told { acknowledged: vec![NODE.into()], failed: Vec::new() }
                } else {
                    StepResult::Told { acknowledged: Vec::new(), failed: vec![(NODE.into(), "an old epoch".into())] }
                }
            }
            Action::Admit { .. } => done(),
            Action::Promote if self.flights[at].is_appointed => {
                StepResult::Done(Done { position: Some(POSITION), ..Done::new("it is primary and holds the lease") })
            }
            Action::Promote => {
                if self.judge(setup, by, member, epoch, notes) {
                    return Some(refused());
                }
                if self.members[member].killed {
                    return Some(nothing("its broker does not run"));
                }
                let is_larger = self.members[member].broker_epoch > epoch;
                if is_larger && setup.bug != Bug::ObeysOldEpochs {
                    return Some(nothing("its broker has stored a larger epoch"));
                }
                let it = self.member(member);
                it.is_primary = true;
                it.read_only = false;
                it.broker_epoch = epoch;
                if setup.bug != Bug::ObeysOldEpochs {
                    self.owns(member, epoch, notes);
                }
                if setup.has_lease {
                    if self.appoint(setup, member, epoch, notes).is_none() {
                        return Some(StepResult::Failed(ActError::uncertain(what, "it does not get the lease")));
                    }
                    if !self.is_held(setup, member) {
                        self.flights[at].is_appointed = true;
                        return None;
                    }
                }
                StepResult::Done(Done { position: Some(POSITION), ..Done::new("it is primary") })
            }
            Action::MakeReadOnly => {
                if self.judge(setup, by, member, epoch, notes) {
                    return Some(StepResult::Fenced(FenceReport::refuted("its agent saw a larger epoch")));
                }
                if self.members[member].killed {
                    return Some(StepResult::Fenced(FenceReport::unknown("its broker does not run")));
                }
                self.member(member).read_only = true;
                StepResult::Fenced(FenceReport::confirmed(Proof::ReadBack, "it refuses writes"))
            }
            Action::MakeWritable => {
                if self.judge(setup, by, member, epoch, notes) {
                    return Some(refused());
                }
                if self.members[member].killed {
                    return Some(nothing("its broker does not run"));
                }
                self.member(member).read_only = false;
                done()
            }
            Action::CatchUp { exact_from, .. } => {
                if self.judge(setup, by, member, epoch, notes) {
                    return Some(refused());
                }
                if self.members[member].killed {
                    return Some(nothing("its broker does not run"));
                }
                if let Some(from) = exact_from.as_ref().map(|from| self.index(from)) {
                    if !self.reaches(by, from) || self.members[from].killed {
                        return Some(nothing("the old primary does not tell its position"));
                    }
                    if !self.is_linked(party(0), party(1)) {
                        return Some(StepResult::FellShort { reached: Some(POSITION - 1), end: POSITION });
                    }
                }
                StepResult::Done(Done { position: Some(POSITION), ..Done::new("it has all") })
            }
            Action::Repoint { .. } => nothing("there is no third member"),
            Action::Rejoin { primary, .. } => {
                if self.judge(setup, by, member, epoch, notes) {
                    return Some(refused());
                }
                let leader = self.index(primary);
                let leads = self.members[leader].has_broker() && self.members[leader].is_primary;
                let it = &self.members[member];
                if it.killed || !leads || !self.is_linked(party(0), party(1)) {
                    return Some(nothing("the two do not reach each other"));
                }
                if it.is_primary && it.broker_epoch >= epoch {
                    return Some(nothing("it is itself the primary of that epoch"));
                }
                let it = self.member(member);
                it.is_primary = false;
                it.read_only = false;
                it.broker_epoch = epoch;
                done()
            }
            Action::Unfence { level, method } => {
                let way = setup.way(*level, *method);
                if way == crate::setup::Way::Power {
                    if self.members[member].off {
                        self.boot_up(setup, member);
                    }
                    return Some(done());
                }
                if self.judge(setup, by, member, epoch, notes) {
                    return Some(refused());
                }
                let it = self.member(member);
                it.fenced = None;
                it.killed = false;
                done()
            }
        })
    }

    fn fence(
        &mut self,
        setup: &Setup,
        by: usize,
        member: usize,
        epoch: Epoch,
        way: crate::setup::Way,
        notes: &mut Notes,
    ) -> FenceReport {
        use crate::setup::Way;
        let proof = match way {
            Way::Gate => Proof::Gate,
            Way::Kill => Proof::Stopped,
            Way::Power => Proof::PowerOff,
        };
        if setup.bug == Bug::FalseFence {
            return FenceReport::confirmed(proof, "so it says");
        }
        if way == Way::Power {
            let it = self.member(member);
            it.off = true;
            it.up = false;
            it.frozen = false;
            it.gate_until = None;
            return FenceReport::confirmed(proof, "the power is off");
        }
        if self.judge(setup, by, member, epoch, notes) {
            return FenceReport::refuted("its agent saw a larger epoch");
        }
        self.step_down(member);
        let it = self.member(member);
        it.fenced = Some(epoch);
        it.killed |= way == Way::Kill;
        FenceReport::confirmed(proof, "it is stopped")
    }

    /// What a client of the arbiter's own meets.
    fn forbidden_write(&self, setup: &Setup, by: usize, member: usize) -> WriteOutcome {
        let it = &self.members[member];
        if !it.has_agent() || !self.is_linked(by, party(member)) {
            return WriteOutcome::NoAnswer;
        }
        if it.killed {
            return WriteOutcome::Refused;
        }
        // A shut gate drops what comes to a primary; a standby is open to the arbiter, and takes no writes.
        match (it.is_primary, self.may_acknowledge(setup, member)) {
            (true, true) => WriteOutcome::Accepted,
            (true, false) if !it.read_only => WriteOutcome::NoAnswer,
            _ => WriteOutcome::Refused,
        }
    }

    /// Sealing, and waiting for the end of older leases: asks whom it reaches, and comes to an end with a majority.
    fn ask_voters(&mut self, setup: &Setup, at: usize, run: &Run) -> Option<StepResult> {
        let by = self.flights[at].by;
        let all = self.voters_of(by);
        let (sealed, larger) = self.seal(all, run.order.epoch);
        let mono = self.mono(setup);
        let over = self.over(sealed, mono);
        let flight = &mut self.flights[at];
        flight.sealed |= sealed;
        flight.over |= over;
        let enough = majority(self.voters.len());
        if larger > run.order.epoch {
            return Some(StepResult::Outbid { sealed: larger });
        }
        if run.action == Action::Seal {
            let is_enough = flight.sealed.count_ones() as usize >= enough;
            return is_enough.then(|| StepResult::Done(Done::new("sealed")));
        }
        let is_over = flight.over.count_ones() as usize >= enough;
        is_over.then(|| StepResult::Fenced(FenceReport::confirmed(Proof::LeaseOver, "no older lease runs")))
    }
}

/// What the hands say of an act whose time is over.
pub fn out_of_time(run: &Run) -> StepResult {
    let why = "no answer within the deadline";
    match &run.action {
        Action::Fence { .. } | Action::MakeReadOnly | Action::AwaitLease => {
            StepResult::Fenced(FenceReport::unknown(why))
        }
        Action::ForbiddenWrite { .. } => {
            StepResult::WriteTried(WriteAttempt { on_new: WriteOutcome::NoAnswer, on_open: None, detail: why.into() })
        }
        _ => StepResult::Failed(ActError::uncertain(act(run), why)),
    }
}

/// An act that provably did nothing.
pub fn not_done(run: &Run) -> StepResult {
    let why = "refused";
    match &run.action {
        Action::Fence { .. } | Action::MakeReadOnly => StepResult::Fenced(FenceReport::refuted(why)),
        Action::ForbiddenWrite { .. } | Action::AwaitLease => out_of_time(run),
        _ => StepResult::Failed(ActError::nothing_done(act(run), why)),
    }
}

fn in_words(result: &StepResult) -> String {
    match result {
        StepResult::Fenced(report) => format!("{}, proof {}: {}", report.verdict, report.proof, report.detail),
        StepResult::WriteTried(attempt) => attempt.detail.clone(),
        StepResult::Done(done) => done.detail.clone(),
        StepResult::Told { failed, .. } if failed.is_empty() => "they follow".into(),
        StepResult::Told { .. } => "they refuse: an old epoch".into(),
        StepResult::Outbid { sealed } => format!("epoch {sealed} is sealed"),
        StepResult::FellShort { .. } => "it does not reach the end".into(),
        StepResult::Failed(error) => error.to_string(),
    }
}

//! What people ask for: carried out, or refused with the reason and the remedy.

use super::{candidate, cluster::Cluster, own::Own};
use crate::model::{
    Command, CommandError, CommandReply, Effect, Incident, IncidentId, MemberName, Mode, Operator, Time,
    command::CommandErrorCode,
    explain::Guard,
    incident::{Acknowledgement, Trigger},
    record::{LogEntry, Overrides, Pause, SagaKind},
};

type Answer = Result<CommandReply, CommandError>;

fn error(code: CommandErrorCode, text: impl Into<String>) -> CommandError {
    CommandError::new(code, text)
}

fn reply(text: impl Into<String>, incident: Option<IncidentId>) -> CommandReply {
    CommandReply { text: text.into(), incident }
}

impl Cluster {
    /// Carries out a command on this cluster. The answer comes out as an effect, behind what it has to wait for.
    pub(super) fn command(&mut self, now: Time, by: &Operator, command: Command, to: u64, own: &mut Own) {
        let result = match command {
            Command::Pause { owner, reason, for_, .. } => {
                let before = self.state.clone();
                let owner = if owner.is_empty() { by.to_string() } else { owner };
                let until_unix_ms = for_.map(|d| own.write_down(now + d));
                self.state.pause = Some(Pause { owner, reason, until_unix_ms });
                self.persist_state(before, own);
                Ok(reply(format!("{} is paused", self.policy.name), None))
            }
            Command::Resume { .. } => {
                let before = self.state.clone();
                let was_paused = self.state.pause.take().is_some();
                self.persist_state(before, own);
                Ok(reply(
                    format!("{} {}", self.policy.name, if was_paused { "goes on" } else { "was not paused" }),
                    None,
                ))
            }
            Command::Failover { to: named, reason, accept_loss, skip_guards, .. } => {
                let overrides = Overrides { accept_loss, skipped_guards: skip_guards };
                self.begin_by_hand(now, by, SagaKind::Failover, named, reason, overrides, own)
            }
            Command::Switchover { to: named, reason, skip_guards, .. } => {
                let overrides = Overrides { accept_loss: false, skipped_guards: skip_guards };
                self.begin_by_hand(now, by, SagaKind::Switchover, named, reason, overrides, own)
            }
            Command::Rejoin { member, .. } => self.rejoin_by_hand(now, by, &member, own),
            Command::FenceConfirm { checked, .. } => self.confirm_fence(now, by, checked, own),
            Command::Continue { accept_loss, .. } => self.continue_held(now, by, accept_loss, own),
            Command::Abort { .. } => self.abort(now, by, own),
            Command::Adopt { primary, reason, .. } => self.adopt(now, by, &primary, &reason, own),
            Command::Acknowledge { incident, note, .. } => self.acknowledge(now, by, &incident, note, own),
        };
        self.is_dirty = true;
        self.emit(Effect::Reply { to, result });
    }

    #[expect(clippy::too_many_arguments, reason = "each is one fact of the request")]
    fn begin_by_hand(
        &mut self,
        now: Time,
        by: &Operator,
        kind: SagaKind,
        named: Option<MemberName>,
        reason: String,
        overrides: Overrides,
        own: &mut Own,
    ) -> Answer {
        if let Some(guard) = overrides.skipped_guards.iter().find(|g| !g.may_be_skipped()) {
            let text = format!("the guard {guard} cannot be passed: it keeps two primaries apart");
            return Err(error(CommandErrorCode::Invalid, text));
        }
        self.settled_or_refused()?;
        let candidates = self.candidates(now);
        // A person is the approval, and decides how often is too often.
        let automatic_only = [Guard::Approval, Guard::Cooldown, Guard::Budget, Guard::Storm, Guard::HeldByRule];
        let named_is_judged_below = named.is_some();
        let blocking: Vec<(Guard, String)> = Guard::ALL
            .into_iter()
            .filter(|g| !automatic_only.contains(g) && !overrides.skipped_guards.contains(g))
            .filter(|g| !(*g == Guard::NoFence && kind == SagaKind::Switchover))
            .filter(|g| !(*g == Guard::NoCandidate && named_is_judged_below))
            .filter_map(|g| Some((g, self.blocks(g, now, own, Mode::Auto, &candidates)?)))
            .collect();
        if !blocking.is_empty() {
            let mut refusal = error(CommandErrorCode::Blocked, "not done: guards stand against it");
            refusal.guards = blocking;
            return Err(refusal);
        }
        let candidate =
            candidate::choose(&candidates, named.as_ref()).map_err(|why| error(CommandErrorCode::Blocked, why))?;
        let guards = self.guards(now, own, self.policy.mode, &candidates);
        let trigger = Trigger::Operator { by: by.clone(), reason };
        self.open(now, kind, trigger, None, candidate.clone(), guards, overrides, own);
        let incident = self.saga.as_ref().map(|s| s.incident.id.clone());
        let what = if kind == SagaKind::Failover { "failover" } else { "switchover" };
        Ok(reply(format!("{what} of {} to {candidate} has begun", self.policy.name), incident))
    }

    fn rejoin_by_hand(&mut self, now: Time, by: &Operator, member: &MemberName, own: &mut Own) -> Answer {
        if self.policy.member(member).is_none() {
            return Err(error(CommandErrorCode::NotFound, format!("{} has no member {member}", self.policy.name)));
        }
        if !self.state.quarantined.contains_key(member) {
            let text = format!("{member} is not quarantined: there is nothing to bring back");
            return Err(error(CommandErrorCode::WrongState, text));
        }
        if let Some(saga) = &self.saga {
            let text = format!("incident {} is {}; let it end first", saga.incident.id, saga.incident.state);
            return Err(error(CommandErrorCode::WrongState, text));
        }
        self.settled_or_refused()?;
        for guard in [Guard::Tilt, Guard::NotLeading, Guard::StoreLost, Guard::PrimaryUnclear] {
            if let Some(why) = self.blocks(guard, now, own, Mode::Auto, &[]) {
                return Err(error(CommandErrorCode::Blocked, format!("not done: {guard}: {why}")));
            }
        }
        let trigger = Trigger::Operator { by: by.clone(), reason: "rejoin".into() };
        self.open_rejoin(now, member, trigger, own);
        let incident = self.saga.as_ref().map(|s| s.incident.id.clone());
        Ok(reply(format!("{member} is being brought back as a standby"), incident))
    }

    fn confirm_fence(&mut self, now: Time, by: &Operator, checked: String, own: &mut Own) -> Answer {
        let held = self.held_saga()?;
        let (kind, promoted) = (self.saga_kind(), self.saga.as_ref().is_some_and(|s| s.state().promoted.is_some()));
        if kind != Some(SagaKind::Failover) || promoted {
            return Err(error(CommandErrorCode::WrongState, "no fence is waited for"));
        }
        if checked.trim().is_empty() {
            return Err(error(CommandErrorCode::Invalid, "say what you checked: it stands in the report"));
        }
        let steps = self.decide(now, LogEntry::FenceConfirmed { by: by.clone(), checked }, own);
        self.carry_out(now, steps, own);
        Ok(reply("taken: the failover goes on, on your word", Some(held)))
    }

    fn continue_held(&mut self, now: Time, by: &Operator, accept_loss: bool, own: &mut Own) -> Answer {
        let held = self.held_saga()?;
        let largest = self.state.epoch.max(self.view.largest_stored_epoch(&self.policy)).max(self.set_back);
        let outbid = self.saga.as_ref().and_then(|s| s.state().outbid());
        let raised = outbid.map(|sealed| LogEntry::EpochRaised { epoch: largest.max(sealed).next() });
        let released = LogEntry::Released { reason: format!("{by} says so"), accept_loss };
        let steps = self.decide_all(now, raised.into_iter().chain([released]), own);
        self.carry_out(now, steps, own);
        Ok(reply("it goes on from where it stands", Some(held)))
    }

    fn abort(&mut self, now: Time, by: &Operator, own: &mut Own) -> Answer {
        let Some(saga) = &self.saga else {
            return Err(error(CommandErrorCode::WrongState, "no incident is under way"));
        };
        let id = saga.incident.id.clone();
        let state = saga.state();
        let refusal = match state.kind {
            SagaKind::Failover if state.may_have_fenced() => Some(
                "the old primary may be fenced already: from there it only goes forward. Mend what holds it, then `coroner continue`",
            ),
            SagaKind::Failover | SagaKind::Switchover if state.may_have_promoted() => {
                Some("the standby may be promoted already: from there it only goes forward")
            }
            _ => None,
        };
        if let Some(text) = refusal {
            return Err(error(CommandErrorCode::WrongState, text));
        }
        let steps = self.decide(now, LogEntry::AbortRequested { reason: format!("{by} asked for it") }, own);
        self.carry_out(now, steps, own);
        Ok(reply("it is being given up", Some(id)))
    }

    fn adopt(&mut self, now: Time, by: &Operator, primary: &MemberName, reason: &str, own: &mut Own) -> Answer {
        if self.policy.member(primary).is_none() {
            return Err(error(CommandErrorCode::NotFound, format!("{} has no member {primary}", self.policy.name)));
        }
        if let Some(saga) = &self.saga {
            let text = format!("incident {} is {}; let it end first", saga.incident.id, saga.incident.state);
            return Err(error(CommandErrorCode::WrongState, text));
        }
        self.settled_or_refused()?;
        let largest = self.state.epoch.max(self.view.largest_stored_epoch(&self.policy)).max(self.set_back);
        self.make_primary(now, primary, largest.next(), own);
        Ok(reply(
            format!("{primary} is primary of {} in epoch {}, says {by}: {reason}", self.policy.name, largest.next()),
            None,
        ))
    }

    fn acknowledge(&mut self, now: Time, by: &Operator, incident: &IncidentId, note: String, own: &mut Own) -> Answer {
        // A closed incident's record is in the store: the driver changes it there. Here the cooldown ends.
        if let Some(saga) = self.saga.as_mut().filter(|s| s.incident.id == *incident) {
            saga.incident.acknowledged = Some(Acknowledgement { by: by.clone(), at: now, note });
        }
        let before = self.state.clone();
        // Names of incidents sort by the time of their opening. Whoever took note of an older one has not of the newest.
        let is_newest = self.state.newest_failover.as_ref().is_none_or(|newest| incident >= newest);
        self.state.cooldown_over |= is_newest;
        self.persist_state_and_incident(before, own);
        let text = match is_newest {
            true => "acknowledged; the cooldown is over",
            false => "acknowledged; the cooldown of a newer incident goes on",
        };
        Ok(reply(text, Some(incident.clone())))
    }

    /// Nothing is begun while a record is unanswered: it could not be taken back any more.
    fn settled_or_refused(&self) -> Result<(), CommandError> {
        if self.is_settled() {
            return Ok(());
        }
        Err(error(CommandErrorCode::Store, "the store has not answered the record before this; ask again in a moment"))
    }

    fn held_saga(&self) -> Result<IncidentId, CommandError> {
        match &self.saga {
            Some(saga) if saga.state().held.is_some() => Ok(saga.incident.id.clone()),
            Some(saga) => {
                let text = format!("incident {} is not held: it is {}", saga.incident.id, saga.incident.state);
                Err(error(CommandErrorCode::WrongState, text))
            }
            None => Err(error(CommandErrorCode::WrongState, "no incident is under way")),
        }
    }

    fn saga_kind(&self) -> Option<SagaKind> {
        self.saga.as_ref().map(|s| s.incident.kind)
    }

    /// The open incident's record.
    pub(super) fn incident(&self) -> Option<&Incident> {
        self.saga.as_ref().map(|s| &s.incident)
    }
}

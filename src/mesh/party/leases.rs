//! A party as a holder of a lease and as a voter.

use std::time::Duration;

use super::{Output, Party, cluster::Cluster};
use crate::{
    lease::{arithmetic::majority, holder::Extended, voter::No},
    mesh::message::{Body, GrantRefusal, Renew},
    model::{
        ActError, ClusterName, Done, Epoch, PartyName, StepResult, Time,
        agent::{Deed, DeedResult, MemberReport, Refusal},
        time::{Moment, human},
    },
};

/// What is not answered is asked again this often: leases that are wanted and not held, seals, orders.
pub(super) const REPEAT_EVERY: Duration = Duration::from_millis(20);

/// The end of time: how long a gate stays open that no lease bounds.
const FOR_EVER: Time = Time(u64::MAX);

impl Party {
    /// What a start says at once. An appointed member's gate is left as the kernel has it: it closes by itself when the
    /// lease of the former life ends.
    pub(super) fn start(&mut self, now: Moment) {
        let mut is_dirty = false;
        for (name, cluster) in &mut self.clusters {
            is_dirty |= cluster.voter.take_dirty();
            match &cluster.guard {
                Some(guard) if guard.appointed.is_none() => self.queue.close(name),
                Some(_) if cluster.setup.lease.is_none() => {
                    self.queue.push(Output::Gate { cluster: name.clone(), until: Some(FOR_EVER) });
                }
                _ => {}
            }
        }
        if is_dirty {
            self.persist();
        }
        self.advance(now);
    }

    /// Leases that ran out close their gates before anything else is looked at.
    pub(super) fn expire(&mut self, now: Moment) {
        let mut is_over = Vec::new();
        for (name, cluster) in &mut self.clusters {
            let Some(guard) = &mut cluster.guard else { continue };
            if guard.holder.as_mut().is_some_and(|holder| holder.expire(now.boot)) {
                is_over.push((name.clone(), why_over(cluster)));
            }
        }
        for (name, why) in is_over {
            self.queue.close(&name);
            self.queue.push_urgent(Output::LeaseOver { cluster: name, why });
            self.beats.changed(now.boot);
        }
    }

    /// Asks for the lease when it is time.
    pub(super) fn drive_lease(&mut self, now: Moment, name: &ClusterName) {
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        let grace = cluster.setup.restart_grace;
        let (Some(guard), Some(lease)) = (&mut cluster.guard, &cluster.setup.lease) else { return };
        if guard.is_starting && now.boot > guard.ran_at + grace {
            guard.is_starting = false;
        }
        let (Some(epoch), true) = (guard.appointed, guard.asks(now.boot, grace)) else { return };
        if guard.renew_at > now.boot {
            return;
        }
        let is_held = guard.remaining(now.boot).is_some();
        let every = if is_held { lease.renew_every } else { lease.renew_every.min(REPEAT_EVERY) };
        guard.renew_at = now.boot + every;
        let Some(holder) = &mut guard.holder else { return };
        let request = holder.ask(now.boot);
        guard.health.rounds += 1;
        let renew =
            Renew { cluster: name.clone(), member: guard.member.clone(), epoch, request, safety: cluster.safety };
        // A voter that did not answer the last time may be out of direct reach.
        let others: Vec<_> = lease.voters.iter().filter(|voter| **voter != self.setup.me).cloned().collect();
        let doubted = |voter: &PartyName| request > 1 && guard.answered.get(voter).copied().unwrap_or(0) + 1 < request;
        let others: Vec<_> = others.into_iter().map(|voter| (doubted(&voter), voter)).collect();
        // The own vote is one like the others: it is given only if this voter sealed nothing larger.
        let own = cluster.is_voter.then(|| cluster.voter.grant(now.mono, &guard.member, epoch));
        self.epoch_may_have_changed(now, name);
        for (is_doubted, voter) in others {
            self.post(now, &voter, Body::Renew(renew.clone()), is_doubted);
        }
        if own == Some(Ok(())) {
            let me = self.setup.me.clone();
            self.count_vote(now, &me, name, request);
        }
    }

    fn count_vote(&mut self, now: Moment, by: &PartyName, name: &ClusterName, request: u64) {
        let Some(guard) = self.clusters.get_mut(name).and_then(|cluster| cluster.guard.as_mut()) else { return };
        let Some(holder) = &mut guard.holder else { return };
        let Some(Extended { deadline, left_before }) = holder.granted(now.boot, by, request) else { return };
        guard.health.granted += 1;
        if let Some(left) = left_before {
            let ms = left.as_secs_f64() * 1e3;
            guard.health.least_left_ms = Some(guard.health.least_left_ms.map_or(ms, |least| least.min(ms)));
        } else {
            self.beats.changed(now.boot);
        }
        let detail = guard
            .appointed
            .map_or_else(String::new, |epoch| format!("{} holds the lease of epoch {epoch}", guard.member));
        let answered = std::mem::take(&mut guard.unanswered);
        self.queue.push(Output::Gate { cluster: name.clone(), until: Some(deadline) });
        for id in answered {
            let done = DeedResult::Ended(Box::new(StepResult::Done(Done::new(detail.clone()))));
            self.finish(now, &id, done);
        }
    }

    /// A voter granted a request of ours.
    pub(super) fn granted(&mut self, now: Moment, from: &PartyName, name: &ClusterName, epoch: Epoch, request: u64) {
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        let Some(guard) = &mut cluster.guard else { return };
        if !guard.note_answer(from, request) {
            return;
        }
        guard.refused.remove(from);
        // Once the evidence says no, what was asked before extends nothing.
        if guard.appointed == Some(epoch) && guard.asks(now.boot, cluster.setup.restart_grace) {
            self.count_vote(now, from, name, request);
        }
    }

    /// A voter refused. It alone decides nothing: the lease goes on while a majority grants it.
    pub(super) fn refused(
        &mut self,
        now: Moment,
        from: &PartyName,
        name: &ClusterName,
        request: u64,
        _sealed: Epoch,
        why: GrantRefusal,
    ) {
        if why == GrantRefusal::SafetyDiffers {
            self.route.note_difference(now.boot, from);
        }
        let Some(guard) = self.clusters.get_mut(name).and_then(|cluster| cluster.guard.as_mut()) else { return };
        if !guard.note_answer(from, request) {
            return;
        }
        guard.refused.insert(from.clone(), why);
    }

    /// Another member's agent asks for this voter's grant.
    pub(super) fn renew_came(&mut self, now: Moment, from: &PartyName, renew: &Renew) {
        let name = &renew.cluster;
        let answer = self.vote(now, from, renew);
        // A larger epoch is durable, and this party's own lease given up, before the answer leaves.
        self.epoch_may_have_changed(now, name);
        let sealed = self.clusters.get(name).map_or(Epoch::ZERO, |cluster| cluster.voter.sealed());
        let (cluster, request) = (name.clone(), renew.request);
        let body = match answer {
            Ok(()) => Body::Granted { cluster, epoch: renew.epoch, request },
            Err(why) => Body::Refused { cluster, request, sealed, why },
        };
        self.post(now, from, body, false);
    }

    fn vote(&mut self, now: Moment, from: &PartyName, renew: &Renew) -> Result<(), GrantRefusal> {
        let cluster = self.clusters.get_mut(&renew.cluster).ok_or(GrantRefusal::NotMine)?;
        if cluster.setup.members.get(&renew.member) != Some(from) {
            return Err(GrantRefusal::NotMine);
        }
        if !cluster.is_voter {
            // Not asked, and still told of a larger epoch by the agent whose member has it.
            cluster.voter.adopt(renew.epoch);
            return Err(GrantRefusal::NotMine);
        }
        if renew.safety != cluster.safety {
            self.route.note_difference(now.boot, from);
            return Err(GrantRefusal::SafetyDiffers);
        }
        cluster.voter.grant(now.mono, &renew.member, renew.epoch).map_err(|no| match no {
            No::Sealed => GrantRefusal::Sealed,
            No::Other => GrantRefusal::Other,
            No::LeaseRuns => GrantRefusal::LeaseRuns,
        })
    }

    /// To be called whenever a voter's memory may have changed: the old lease is given up at once, and the new epoch is
    /// on its way to the disk before anything else is said.
    pub(super) fn epoch_may_have_changed(&mut self, now: Moment, name: &ClusterName) {
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        let sealed = cluster.voter.sealed();
        let is_old = |guard: &super::cluster::Guard| guard.appointed.is_some_and(|epoch| epoch < sealed);
        let is_dirty = cluster.voter.take_dirty();
        if cluster.guard.as_ref().is_some_and(is_old) {
            let why = format!("epoch {sealed} is in force: this member is primary no more");
            self.step_down(now, name);
            self.queue.push_urgent(Output::LeaseOver { cluster: name.clone(), why });
            self.persist();
        } else if is_dirty {
            self.persist();
        }
        if is_dirty {
            self.larger_epoch(name, sealed);
        }
    }

    /// Closes the gate and forgets lease and appointment. The caller makes it durable.
    pub(super) fn step_down(&mut self, now: Moment, name: &ClusterName) {
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        let epoch = cluster.voter.sealed();
        let Some(guard) = &mut cluster.guard else { return };
        guard.appointed = None;
        guard.refused.clear();
        if let Some(holder) = &mut guard.holder {
            holder.reset();
        }
        let unanswered = std::mem::take(&mut guard.unanswered);
        self.queue.close(name);
        self.beats.changed(now.boot);
        for id in unanswered {
            self.finish(now, &id, DeedResult::Refused { why: Refusal::OldEpoch, epoch });
        }
    }

    /// An arbiter appoints the guarded member.
    pub(super) fn appoint(&mut self, now: Moment, name: &ClusterName, epoch: Epoch) -> Result<(), Refusal> {
        let cluster = self.clusters.get_mut(name).ok_or(Refusal::NotMine)?;
        let guard = cluster.guard.as_mut().ok_or(Refusal::NotMine)?;
        match cluster.voter.claim(&guard.member, epoch) {
            Ok(()) | Err(No::LeaseRuns) => {}
            Err(No::Other) => return Err(Refusal::OtherHolder),
            Err(No::Sealed) => return Err(Refusal::OldEpoch),
        }
        if guard.appointed != Some(epoch) {
            guard.appointed = Some(epoch);
            guard.refused.clear();
            // What was granted in an older epoch says nothing about this one.
            if let Some(holder) = &mut guard.holder {
                holder.reset();
            }
            self.queue.close(name);
        }
        guard.fenced = None;
        guard.has_given_up = false;
        guard.renew_at = now.boot;
        if !guard.may_renew {
            guard.ran_at = now.boot;
        }
        cluster.voter.take_dirty();
        let is_unbounded = cluster.setup.lease.is_none();
        self.persist();
        self.larger_epoch(name, epoch);
        if is_unbounded {
            self.queue.push(Output::Gate { cluster: name.clone(), until: Some(FOR_EVER) });
        }
        self.beats.changed(now.boot);
        Ok(())
    }

    /// The driver says what the host knows.
    pub(super) fn member(&mut self, now: Moment, name: &ClusterName, report: MemberReport, may_renew: bool) {
        let Some(guard) = self.clusters.get_mut(name).and_then(|cluster| cluster.guard.as_mut()) else { return };
        // The age of an answer grows by itself; that is no change.
        let same = MemberReport { role_age: guard.report.role_age, ..report.clone() } == guard.report;
        let is_changed = !guard.was_told || !same || guard.may_renew != may_renew;
        if may_renew && !guard.may_renew && guard.remaining(now.boot).is_none() {
            guard.renew_at = now.boot;
        }
        if may_renew || guard.may_renew {
            guard.ran_at = now.boot;
        }
        if may_renew {
            guard.is_starting = false;
        }
        guard.report = report;
        guard.told_at = now.boot;
        guard.was_told = true;
        guard.may_renew = may_renew;
        if is_changed {
            self.beats.changed(now.boot);
        }
    }

    /// The service manager is about to start the guarded broker.
    pub(super) fn starting(&mut self, now: Moment, name: &ClusterName) {
        let Some(guard) = self.clusters.get_mut(name).and_then(|cluster| cluster.guard.as_mut()) else { return };
        guard.is_starting = !guard.may_renew;
        if guard.remaining(now.boot).is_none() {
            guard.renew_at = now.boot;
        }
    }

    /// The gate was closed for good reason: no more of this lease.
    pub(super) fn give_up(&mut self, now: Moment, name: &ClusterName) {
        let Some(guard) = self.clusters.get_mut(name).and_then(|cluster| cluster.guard.as_mut()) else { return };
        guard.has_given_up = true;
        if let Some(holder) = &mut guard.holder {
            holder.reset();
        }
        let unanswered = std::mem::take(&mut guard.unanswered);
        let attempted = format!("appoint {}", guard.member);
        self.queue.close(name);
        self.beats.changed(now.boot);
        for id in unanswered {
            let error = ActError::nothing_done(attempted.clone(), "the agent gave the lease up");
            self.finish(now, &id, DeedResult::Ended(Box::new(StepResult::Failed(error))));
        }
    }

    /// An arbiter asks this voter to refuse older epochs.
    pub(super) fn seal_came(&mut self, now: Moment, from: &PartyName, name: &ClusterName, epoch: Epoch, safety: u64) {
        if !self.is_order_giver(from) {
            return self.route.count("not_allowed");
        }
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        if !cluster.is_voter {
            cluster.voter.adopt(epoch);
            return self.epoch_may_have_changed(now, name);
        }
        if safety != cluster.safety {
            let sealed = cluster.voter.sealed();
            self.route.note_difference(now.boot, from);
            let why = GrantRefusal::SafetyDiffers;
            self.post(now, from, Body::Refused { cluster: name.clone(), request: 0, sealed, why }, false);
            return;
        }
        cluster.voter.seal(epoch);
        self.epoch_may_have_changed(now, name);
        self.tell_sealed(now, from, name);
    }

    fn tell_sealed(&mut self, now: Moment, to: &PartyName, name: &ClusterName) {
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        let left = cluster.voter.older_runs_for(now.mono);
        if !left.is_zero() {
            cluster.awaiting.insert(to.clone());
            cluster.look_at = Some(now.boot + left);
        }
        // Durations travel in microseconds: what is left must not become nothing on the way.
        let wait = Duration::from_nanos(u64::try_from(left.as_nanos().div_ceil(1_000) * 1_000).unwrap_or(u64::MAX));
        let body = Body::Sealed { cluster: name.clone(), epoch: cluster.voter.sealed(), wait };
        self.post(now, to, body, false);
    }

    /// Tells those who wait once older leases are over by this voter's count.
    pub(super) fn drive_wait(&mut self, now: Moment, name: &ClusterName) {
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        cluster.voter.settle(now.mono);
        let is_dirty = cluster.voter.take_dirty();
        if cluster.look_at.is_some_and(|at| at <= now.boot) {
            let left = cluster.voter.older_runs_for(now.mono);
            if left.is_zero() {
                cluster.look_at = None;
                for to in std::mem::take(&mut cluster.awaiting) {
                    self.tell_sealed(now, &to, name);
                }
            } else {
                cluster.look_at = Some(now.boot + left);
            }
        }
        if is_dirty {
            self.persist();
        }
    }

    /// Whether doing this would break this voter's promise not to help another to serve.
    pub(super) fn breaks_promise(&self, now: Moment, name: &ClusterName, deed: &Deed) -> bool {
        let is_promotion = matches!(deed, Deed::Promote);
        is_promotion
            && self.clusters.get(name).is_some_and(|cluster| {
                cluster.is_voter
                    && cluster.voter.memory().is_unproven
                    && !cluster.voter.older_runs_for(now.mono).is_zero()
            })
    }
}

fn why_over(cluster: &Cluster) -> String {
    let (Some(guard), Some(lease)) = (&cluster.guard, &cluster.setup.lease) else {
        return "the cluster has no lease".to_owned();
    };
    if !guard.may_renew {
        return "the lease was not renewed: the evidence calls the broker dead, stuck or gone".to_owned();
    }
    let voters = lease.voters.len();
    let refused: Vec<_> = guard.refused.iter().map(|(voter, why)| format!("{voter} refused: {why}")).collect();
    let mut text = format!(
        "the lease of {} was not granted again by a majority ({} of {voters})",
        human(lease.length),
        majority(voters)
    );
    if !refused.is_empty() {
        text.push_str("; ");
        text.push_str(&refused.join("; "));
    }
    text
}

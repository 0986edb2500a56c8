//! A party as an arbiter: it hears beats, has epochs sealed, gives orders.

use std::{collections::BTreeSet, time::Duration};

use super::{Output, Party, Sealing, leases::REPEAT_EVERY};
use crate::{
    lease::arithmetic::majority,
    mesh::message::{Beat, Body, DeedOrder, Life},
    model::{
        ActError, ClusterName, Epoch, PartyName, StepResult, Time,
        agent::{DeedResult, OrderId, Refusal},
        time::Moment,
    },
};

/// An answer that comes this long after an order's deadline is still heard: the agent may have ended at its very end.
const ANSWERED_WITHIN: Duration = Duration::from_millis(500);

/// The newest beat of an agent.
#[derive(Debug)]
pub(super) struct HeardBeat {
    seq: u64,
    challenge: u64,
    at: Time,
}

/// A sealing under way.
#[derive(Debug)]
pub(super) struct Sealer {
    epoch: Epoch,
    sealed: BTreeSet<PartyName>,
    over: BTreeSet<PartyName>,
    larger: Option<Epoch>,
    rounds: u64,
    answered: BTreeSet<PartyName>,
    told: Option<Sealing>,
    /// When to ask again; `None`: no more.
    pub(super) send_at: Option<Time>,
}

/// An order under way.
#[derive(Debug)]
pub(super) struct GivenOrder {
    to: PartyName,
    order: DeedOrder,
    pub(super) send_at: Time,
    pub(super) ends_at: Time,
    attempts: u64,
    is_taken: bool,
    lives: BTreeSet<Life>,
}

impl Party {
    /// An agent's beat.
    pub(super) fn beat_came(&mut self, now: Moment, from: &PartyName, seq: u64, beat: Box<Beat>, is_direct: bool) {
        if !self.is_arbiter {
            return self.route.count("not_allowed");
        }
        // One that was overtaken would bring back what is no longer so.
        if self.heard.get(from).is_some_and(|heard| heard.seq > seq) {
            return self.route.count("overtaken");
        }
        self.heard.insert(from.clone(), HeardBeat { seq, challenge: beat.challenge, at: now.boot });
        self.post(now, from, Body::BeatHeard { seq }, false);
        self.queue.push_urgent(Output::Heard { from: from.clone(), beat, is_direct });
        // An order that waited for a challenge waits no longer.
        for given in self.given.values_mut().filter(|given| given.to == *from && given.attempts == 0) {
            given.send_at = given.send_at.min(now.boot);
        }
    }

    /// The engine wants an epoch sealed.
    pub(super) fn begin_seal(&mut self, now: Moment, name: &ClusterName, epoch: Epoch) {
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        if cluster.setup.lease.is_none() || !self.is_arbiter {
            return self.route.count("not_allowed");
        }
        if cluster.sealing.as_ref().is_some_and(|sealing| sealing.epoch == epoch) {
            return;
        }
        if cluster.is_voter {
            cluster.voter.seal(epoch);
        }
        let larger = Some(cluster.voter.sealed()).filter(|sealed| *sealed > epoch);
        cluster.sealing = Some(Sealer {
            epoch,
            sealed: BTreeSet::new(),
            over: BTreeSet::new(),
            larger,
            rounds: 0,
            answered: BTreeSet::new(),
            told: None,
            send_at: Some(now.boot),
        });
        // Durable here before anyone else is asked, and before it is counted.
        self.epoch_may_have_changed(now, name);
    }

    /// Asks for the seal when it is time, and tells how far it is.
    pub(super) fn drive_seal(&mut self, now: Moment, name: &ClusterName) {
        self.count_own_seal(now, name);
        self.tell_sealing(name);
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        let (Some(sealing), Some(lease)) = (&mut cluster.sealing, &cluster.setup.lease) else { return };
        if sealing.send_at.is_none_or(|at| at > now.boot) {
            return;
        }
        sealing.send_at = Some(now.boot + REPEAT_EVERY);
        sealing.rounds += 1;
        let (epoch, safety) = (sealing.epoch, cluster.safety);
        let doubted = sealing.rounds > 1;
        let ask: Vec<_> = lease
            .voters
            .iter()
            .filter(|voter| **voter != self.setup.me && !sealing.over.contains(*voter))
            .map(|voter| (voter.clone(), doubted && !sealing.answered.contains(voter)))
            .collect();
        sealing.answered.clear();
        for (voter, is_doubted) in ask {
            self.post(now, &voter, Body::Seal { cluster: name.clone(), epoch, safety }, is_doubted);
        }
    }

    fn count_own_seal(&mut self, now: Moment, name: &ClusterName) {
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        let Some(sealing) = &mut cluster.sealing else { return };
        if !cluster.is_voter || cluster.voter.sealed() != sealing.epoch {
            return;
        }
        sealing.sealed.insert(self.setup.me.clone());
        if cluster.voter.older_runs_for(now.mono).is_zero() {
            sealing.over.insert(self.setup.me.clone());
        }
    }

    /// A voter has sealed.
    pub(super) fn sealed_came(&mut self, from: &PartyName, name: &ClusterName, epoch: Epoch, wait: Duration) {
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        let (Some(sealing), Some(lease)) = (&mut cluster.sealing, &cluster.setup.lease) else { return };
        if !lease.voters.contains(from) {
            return self.route.count("not_allowed");
        }
        sealing.answered.insert(from.clone());
        if epoch > sealing.epoch {
            sealing.larger = sealing.larger.max(Some(epoch));
        } else if epoch == sealing.epoch {
            sealing.sealed.insert(from.clone());
            // Only its own count tells; this party does no arithmetic with another's time.
            if wait.is_zero() {
                sealing.over.insert(from.clone());
            }
        }
        self.tell_sealing(name);
    }

    /// This voter has adopted that epoch itself.
    pub(super) fn larger_epoch(&mut self, name: &ClusterName, sealed: Epoch) {
        let Some(sealing) = self.clusters.get_mut(name).and_then(|cluster| cluster.sealing.as_mut()) else { return };
        if sealed > sealing.epoch {
            sealing.larger = sealing.larger.max(Some(sealed));
            self.tell_sealing(name);
        }
    }

    fn tell_sealing(&mut self, name: &ClusterName) {
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        let (Some(sealing), Some(lease)) = (&mut cluster.sealing, &cluster.setup.lease) else { return };
        let needed = majority(lease.voters.len());
        let state = Sealing {
            cluster: name.clone(),
            epoch: sealing.epoch,
            is_sealed: sealing.sealed.len() >= needed,
            is_over: sealing.over.len() >= needed,
            sealed: sealing.sealed.clone(),
            over: sealing.over.clone(),
            larger: sealing.larger,
        };
        if state.is_over || state.larger.is_some() {
            sealing.send_at = None;
        }
        if sealing.told.as_ref() != Some(&state) {
            sealing.told = Some(state.clone());
            self.queue.push(Output::Sealing(state));
        }
    }

    /// The engine gives an order.
    pub(super) fn give_order(&mut self, now: Moment, to: PartyName, order: DeedOrder) {
        if !self.is_arbiter || to == self.setup.me || !self.setup.parties.contains_key(&to) {
            return self.route.count("unknown_party");
        }
        let ends_at = now.boot + order.deadline + ANSWERED_WITHIN;
        let id = order.id.clone();
        self.given.entry(id).or_insert_with(|| GivenOrder {
            to,
            order,
            send_at: now.boot,
            ends_at,
            attempts: 0,
            is_taken: false,
            lives: BTreeSet::new(),
        });
    }

    /// Sends orders that wait for an answer, each with the newest challenge. Without a fresh one nothing is sent: the
    /// agent would refuse it. An order whose time is over is dropped in silence: what became of it is not known here.
    pub(super) fn drive_orders(&mut self, now: Moment) {
        self.given.retain(|_, given| given.ends_at > now.boot);
        let is_due = |given: &&mut GivenOrder| given.send_at <= now.boot;
        let mut sends = Vec::new();
        for given in self.given.values_mut().filter(is_due) {
            given.send_at = now.boot + if given.is_taken { REPEAT_EVERY * 5 } else { REPEAT_EVERY };
            let Some(heard) = self.heard.get(&given.to) else { continue };
            if heard.at + self.setup.order_valid_for <= now.boot {
                continue;
            }
            let Some(life) = self.route.life_of(&given.to) else { continue };
            given.lives.insert(life);
            given.attempts += 1;
            // What is left of its time: an order that gets through late is not carried out for long.
            let left = given.ends_at.since(now.boot).saturating_sub(ANSWERED_WITHIN).min(given.order.deadline);
            if left.is_zero() {
                continue;
            }
            let order = DeedOrder { challenge: heard.challenge, deadline: left, ..given.order.clone() };
            sends.push((given.to.clone(), order, given.attempts > 1));
        }
        for (to, order, is_doubted) in sends {
            self.post(now, &to, Body::Order(Box::new(order)), is_doubted);
        }
    }

    /// An agent's answer to an order.
    pub(super) fn answer_came(&mut self, _now: Moment, from: &PartyName, id: &OrderId, result: DeedResult) {
        let Some(given) = self.given.get_mut(id).filter(|given| given.to == *from) else { return };
        let result = match result {
            // Not for good: the next repetition carries a newer challenge, or comes when the wait is over. Told to
            // nobody, for an earlier copy of the same order may have been taken meanwhile.
            DeedResult::Refused { why: Refusal::Expired | Refusal::LeaseRuns, .. } => return,
            DeedResult::Taken if given.is_taken => return,
            DeedResult::Taken => {
                given.is_taken = true;
                DeedResult::Taken
            }
            // It refuses in this life; what its former life did with the same order it has forgotten.
            DeedResult::Refused { why, .. } if given.lives.len() > 1 => {
                let attempted = format!("order {} of {} to {from}", id.number, id.incident);
                let detail = format!("the agent was started again meanwhile, and now says: {why}");
                DeedResult::Ended(Box::new(StepResult::Failed(ActError::uncertain(attempted, detail))))
            }
            result => result,
        };
        if result != DeedResult::Taken {
            self.given.remove(id);
        }
        self.queue.push_urgent(Output::Answer { from: from.clone(), id: id.clone(), result });
    }
}

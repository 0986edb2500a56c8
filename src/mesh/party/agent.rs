//! A party as an agent: its beats, the challenges in them, the orders that answer those.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use ring::hmac;

use super::{Output, Party, cluster::Guard, leases::REPEAT_EVERY};
use crate::{
    mesh::{
        keys::PrivateKey,
        message::{Beat, Body, DeedOrder, Life},
    },
    model::{
        ClusterName, Epoch, MemberName, PartyName, Time,
        agent::{Deed, DeedResult, MemberReport, OrderId, Refusal},
        observation::Arrivals,
        time::Moment,
    },
};

/// Beats are at least this far apart.
const BEAT_APART: Duration = Duration::from_millis(1);

/// How often news that nobody confirmed are told again at once; afterwards with the ordinary beat.
const NEWS_REPEATS: u32 = 3;

/// Challenges remembered at most: those of a few seconds of the fastest beats.
const CHALLENGES: usize = 4_096;

/// Orders remembered at most.
const ORDERS: usize = 1_024;

/// When beats go out, and who heard them.
#[derive(Debug)]
pub(super) struct Beats {
    pub(super) due: Time,
    last: Option<Time>,
    repeats_left: u32,
    has_news: bool,
    links: BTreeMap<PartyName, BeatLink>,
}

#[derive(Debug, Default)]
struct BeatLink {
    /// The first beat with news that it did not confirm yet.
    owed: Option<u64>,
    /// Since when it confirmed nothing.
    silent_since: Option<Time>,
}

impl Beats {
    pub(super) fn new(now: Time) -> Self {
        Self { due: now, last: None, repeats_left: 0, has_news: false, links: BTreeMap::new() }
    }

    /// Beat as soon as may be.
    pub(super) fn soon(&mut self, now: Time) {
        let at = self.last.map_or(now, |last| now.max(last + BEAT_APART));
        self.due = self.due.min(at);
    }

    /// There is something new to tell.
    pub(super) fn changed(&mut self, now: Time) {
        self.has_news = true;
        self.repeats_left = NEWS_REPEATS;
        self.soon(now);
    }

    pub(super) fn heard(&mut self, by: &PartyName, seq: u64) {
        let Some(link) = self.links.get_mut(by) else { return };
        link.silent_since = None;
        if link.owed.is_some_and(|owed| seq >= owed) {
            link.owed = None;
        }
    }
}

/// The challenges that this party issued of late. Nobody can foretell the next.
#[derive(Debug)]
pub(super) struct Challenges {
    key: hmac::Key,
    counter: u64,
    issued: VecDeque<(u64, Time)>,
}

impl Challenges {
    pub(super) fn new(keys: &PrivateKey, life: Life) -> Self {
        let secret = keys.derive(format!("challenges of life {}", life.0).as_bytes());
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, &secret), counter: 0, issued: VecDeque::new() }
    }

    fn issue(&mut self, now: Time) -> u64 {
        self.counter += 1;
        let tag = hmac::sign(&self.key, &self.counter.to_be_bytes());
        let challenge = tag.as_ref().iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        if self.issued.len() >= CHALLENGES {
            self.issued.pop_front();
        }
        self.issued.push_back((challenge, now));
        challenge
    }

    fn is_good(&mut self, now: Time, challenge: u64, valid_for: Duration) -> bool {
        while self.issued.front().is_some_and(|(_, at)| *at + valid_for < now) {
            self.issued.pop_front();
        }
        self.issued.iter().any(|(issued, _)| *issued == challenge)
    }
}

/// Orders that were taken, so that none is carried out twice in this life.
#[derive(Debug, Default)]
pub(super) struct TakenOrders {
    known: BTreeMap<OrderId, TakenOrder>,
    order: VecDeque<OrderId>,
}

#[derive(Debug)]
struct TakenOrder {
    result: DeedResult,
    askers: BTreeSet<PartyName>,
}

impl TakenOrders {
    fn remember(&mut self, id: &OrderId, asker: &PartyName, result: DeedResult) {
        let askers = BTreeSet::from([asker.clone()]);
        self.known.insert(id.clone(), TakenOrder { result, askers });
        self.order.push_back(id.clone());
        if self.order.len() > ORDERS
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

/// What becomes of an order before anything is done.
enum Judged {
    /// Hand it out.
    Carry,
    /// An appointment, which is the party's own business.
    Appoint,
    /// Refused for good: the same order will never be taken.
    Never(Refusal),
    /// Refused as it came; the next repetition may be taken.
    NotNow(Refusal),
}

impl Party {
    /// Beats when it is time.
    pub(super) fn drive_beats(&mut self, now: Moment) {
        if self.is_arbiter || self.beats.due > now.boot {
            return;
        }
        let arbiters: Vec<_> =
            self.setup.parties.iter().filter(|(_, peer)| peer.is_arbiter).map(|(name, _)| name.clone()).collect();
        let challenge = self.challenges.issue(now.boot);
        let parts = self.beat_parts(now, challenge);
        let has_news = std::mem::take(&mut self.beats.has_news);
        for arbiter in &arbiters {
            let silent_since = self.beats.links.get(arbiter).and_then(|link| link.silent_since);
            let is_doubted = silent_since.is_some_and(|since| since + REPEAT_EVERY <= now.boot);
            for beat in &parts {
                let seq = self.post(now, arbiter, Body::Beat(Box::new(beat.clone())), is_doubted);
                let link = self.beats.links.entry(arbiter.clone()).or_default();
                let Some(seq) = seq else { continue };
                link.silent_since.get_or_insert(now.boot);
                if has_news {
                    link.owed = Some(seq);
                }
            }
        }
        self.beats.last = Some(now.boot);
        let is_owed = self.beats.links.values().any(|link| link.owed.is_some());
        let mut next = self.setup.beat_every.max(BEAT_APART);
        if is_owed && self.beats.repeats_left > 0 {
            self.beats.repeats_left -= 1;
            next = next.min(REPEAT_EVERY);
        }
        self.beats.due = now.boot + next;
    }

    /// The beat; in several parts where one datagram cannot hold it, all with the same challenge.
    fn beat_parts(&self, now: Moment, challenge: u64) -> Vec<Beat> {
        // A member's report is cut to size if need be; two of them may still be too much for one datagram.
        const TOGETHER: usize = 2_500;
        let (reaches, one_way) = (self.route.reaches(now.boot), self.route.one_way(now.boot));
        let empty = || Beat {
            challenge,
            reaches: reaches.clone(),
            one_way: one_way.clone(),
            members: Vec::new(),
            nodes: Vec::new(),
        };
        let mut parts = vec![empty()];
        let mut size = 0;
        for (name, cluster) in &self.clusters {
            let member = cluster.guard.as_ref().filter(|guard| guard.was_told || guard.appointed.is_some());
            let report = member.map(|guard| (guard.member.clone(), self.report(now, name, guard)));
            // Ages grow while a report waits for the beat.
            let arrivals = cluster.arrivals.clone().map(|(at, arrivals)| Arrivals {
                last_age: arrivals.last_age.map(|age| age.saturating_add(now.boot.since(at))),
                ..arrivals
            });
            let node = cluster.setup.observes_for.clone().zip(arrivals);
            if report.is_none() && node.is_none() {
                continue;
            }
            // Plain data; what cannot be measured counts as large and goes alone.
            let length = serde_json::to_vec(&(&report, &node)).map_or(TOGETHER, |bytes| bytes.len());
            if size > 0 && size + length > TOGETHER {
                parts.push(empty());
                size = 0;
            }
            size += length;
            if let Some(beat) = parts.last_mut() {
                beat.members.extend(report.map(|(member, report)| (name.clone(), member, report)));
                beat.nodes.extend(node.map(|(node, arrivals)| (name.clone(), node, arrivals)));
            }
        }
        parts
    }

    fn report(&self, now: Moment, name: &ClusterName, guard: &Guard) -> MemberReport {
        let waited = now.boot.since(guard.told_at);
        MemberReport {
            epoch: self.clusters.get(name).map_or(Epoch::ZERO, |cluster| cluster.voter.sealed()),
            appointed: guard.appointed,
            lease: self.lease(now, name),
            renewals: Some(guard.health.clone()).filter(|health| health.rounds > 0),
            role_age: guard.report.role_age.map(|age| age.saturating_add(waited)),
            ..guard.report.clone()
        }
    }

    /// An order came. Whatever it says, it is done at most once in this life, and refused if anything about it is amiss.
    pub(super) fn order_came(&mut self, now: Moment, from: &PartyName, order: DeedOrder) {
        let id = order.id.clone();
        let name = order.cluster.clone();
        let epoch_seen = |party: &Self| party.clusters.get(&name).map_or(Epoch::ZERO, |cluster| cluster.voter.sealed());
        if !self.is_order_giver(from) {
            self.route.count("not_allowed");
            let result = DeedResult::Refused { why: Refusal::NotAllowed, epoch: epoch_seen(self) };
            self.post(now, from, Body::Answer { id, result }, false);
            return;
        }
        if let Some(known) = self.taken.known.get_mut(&id) {
            known.askers.insert(from.clone());
            let result = known.result.clone();
            self.post(now, from, Body::Answer { id, result }, false);
            return;
        }
        let judged = self.judge(now, &order);
        let result = match judged {
            Judged::Carry | Judged::Appoint => DeedResult::Taken,
            Judged::Never(why) | Judged::NotNow(why) => DeedResult::Refused { why, epoch: epoch_seen(self) },
        };
        match judged {
            Judged::NotNow(_) => {
                // The larger epoch that it may have brought is durable before the answer leaves.
                self.epoch_may_have_changed(now, &name);
                self.post(now, from, Body::Answer { id, result }, false);
            }
            Judged::Never(_) => {
                self.taken.remember(&id, from, result.clone());
                self.post(now, from, Body::Answer { id, result }, false);
            }
            Judged::Appoint => {
                self.taken.remember(&id, from, result.clone());
                self.post(now, from, Body::Answer { id: id.clone(), result }, false);
                self.appoint_by_order(now, &order);
            }
            Judged::Carry => {
                self.taken.remember(&id, from, result.clone());
                self.prepare(now, &order);
                self.queue.push(Output::Ordered(Box::new(order)));
                self.post(now, from, Body::Answer { id, result }, false);
            }
        }
    }

    /// Whether the order may be carried out. A larger epoch that it names is adopted.
    fn judge(&mut self, now: Moment, order: &DeedOrder) -> Judged {
        let valid_for = self.setup.order_valid_for;
        let Some(cluster) = self.clusters.get_mut(&order.cluster) else { return Judged::Never(Refusal::NotMine) };
        let is_mine = match &order.deed {
            Deed::Redirect { .. } | Deed::Drop { .. } => cluster.setup.observes_for.is_some(),
            _ => cluster.setup.guards.as_ref() == Some(&order.member),
        };
        if !is_mine {
            return Judged::Never(Refusal::NotMine);
        }
        if !self.challenges.is_good(now.boot, order.challenge, valid_for) {
            self.route.count("expired");
            return Judged::NotNow(Refusal::Expired);
        }
        if order.epoch < cluster.voter.sealed() {
            return Judged::Never(Refusal::OldEpoch);
        }
        if matches!(order.deed, Deed::Appoint) {
            return Judged::Appoint;
        }
        cluster.voter.adopt(order.epoch);
        if self.breaks_promise(now, &order.cluster, &order.deed) {
            return Judged::NotNow(Refusal::LeaseRuns);
        }
        Judged::Carry
    }

    /// What the party itself does before an order is handed out.
    fn prepare(&mut self, now: Moment, order: &DeedOrder) {
        let name = &order.cluster;
        match &order.deed {
            // Whatever the fence: the lease ends with it, the gate closes before anything else, and it is durable that
            // this member was fenced.
            Deed::Fence { .. } => {
                self.step_down(now, name);
                self.set_fenced(name, Some(order.epoch));
            }
            Deed::Unfence { .. } => self.set_fenced(name, None),
            _ => {}
        }
        self.epoch_may_have_changed(now, name);
    }

    fn set_fenced(&mut self, name: &ClusterName, fenced: Option<Epoch>) {
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        let Some(guard) = &mut cluster.guard else { return };
        guard.fenced = fenced;
        // One record holds both.
        let sealed = cluster.voter.sealed();
        let is_new_epoch = cluster.voter.take_dirty();
        self.persist();
        if is_new_epoch {
            self.larger_epoch(name, sealed);
        }
    }

    fn appoint_by_order(&mut self, now: Moment, order: &DeedOrder) {
        match self.appoint(now, &order.cluster, order.epoch) {
            Ok(()) => {
                let Some(cluster) = self.clusters.get_mut(&order.cluster) else { return };
                let is_bounded = cluster.setup.lease.is_some();
                let Some(guard) = &mut cluster.guard else { return };
                if is_bounded {
                    guard.unanswered.insert(order.id.clone());
                } else {
                    let member: MemberName = guard.member.clone();
                    self.finish(now, &order.id, appointed_without_lease(&member, order.epoch));
                }
            }
            Err(why) => {
                let epoch = self.clusters.get(&order.cluster).map_or(Epoch::ZERO, |cluster| cluster.voter.sealed());
                self.finish(now, &order.id, DeedResult::Refused { why, epoch });
            }
        }
    }

    /// What came of an order: kept for whoever asks again, and told to those who gave it.
    pub(super) fn finish(&mut self, now: Moment, id: &OrderId, result: DeedResult) {
        let Some(known) = self.taken.known.get_mut(id) else { return };
        known.result = result.clone();
        for to in known.askers.clone() {
            self.post(now, &to, Body::Answer { id: id.clone(), result: result.clone() }, false);
        }
    }
}

fn appointed_without_lease(member: &MemberName, epoch: Epoch) -> DeedResult {
    let detail = format!("{member} is primary of epoch {epoch}; the cluster has no lease");
    DeedResult::Ended(Box::new(crate::model::StepResult::Done(crate::model::Done::new(detail))))
}

//! THE DECISION. Pure: no socket, no file, no clock; time is an argument, effects are data.
//!
//! Four verbs: [`Engine::handle`] takes what happened, [`Engine::handle_timeout`] lets time pass,
//! [`Engine::poll_timeout`] says when to come back, [`Engine::poll_effect`] hands out what to do. The driver calls
//! `handle` for everything that has come in, then drains `poll_effect`, then waits until `poll_timeout`.
//!
//! Contract on time: `now` never goes back; several events may share one moment.
//!
//! Contract on disks: what follows an [`Effect::Persist`] in the same cluster is not handed out before
//! [`Event::Persisted`] came in. So "the intent is durable before the act" is a property of the engine, and the
//! simulator and the model checker see it as it is in production.
//!
//! Judging comes before acting: all clusters that changed are judged first, then they act, so that a storm is seen
//! before its first victim is shot, if its members fall in the same moment. Those that fell before it was a storm
//! may have been acted upon.

mod candidate;
mod cluster;
mod condition;
mod fingerprint;
mod guard;
mod judge;
mod operator;
mod own;
mod shadow;
mod status;
mod suspicion;
mod view;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

pub use self::shadow::{Shadow, StreamKey};
use self::{cluster::Cluster, own::Own};
use crate::model::{
    ClusterName, Command, CommandError, CommandReply, Effect, Epoch, Event, Incident, MemberName, Notice, Operator,
    Policy, Time, WallAnchor,
    command::CommandErrorCode,
    record::{ClusterState, Recovered},
    status::{PrimaryView, SignalStatus, Status, Why, WhyNot},
};

/// The decision.
#[derive(Clone, Debug)]
pub struct Engine {
    now: Time,
    own: Own,
    policy: Arc<Policy>,
    clusters: Vec<Cluster>,
    by_name: HashMap<ClusterName, usize>,
    /// What is stored of clusters that are not in the file: one that comes back keeps its epoch.
    absent: HashMap<ClusterName, ClusterState>,
    /// Clusters to look at now.
    dirty: BTreeSet<usize>,
    /// When each cluster has to be looked at again.
    wakes: BTreeSet<(Time, usize)>,
    wake_of: Vec<Time>,
    out: VecDeque<Effect>,
}

impl Engine {
    /// An engine at its start. `recovered` is what the store kept; incidents that were under way are taken up
    /// where their logs stand. `seed` makes names of incidents differ between lives.
    #[must_use]
    pub fn new(now: Time, anchor: WallAnchor, seed: u64, policy: Policy, recovered: Recovered) -> Self {
        let mut engine = Self {
            now,
            own: Own::new(&policy, anchor, seed),
            policy: Arc::new(Policy::default()),
            clusters: Vec::new(),
            by_name: HashMap::new(),
            absent: recovered.clusters.into_iter().map(|state| (state.cluster.clone(), state)).collect(),
            dirty: BTreeSet::new(),
            wakes: BTreeSet::new(),
            wake_of: Vec::new(),
            out: VecDeque::new(),
        };
        for (name, cluster) in &policy.clusters {
            let state = engine.absent.remove(name);
            engine.add(Cluster::new(cluster.clone(), state, now));
        }
        for open in &recovered.open {
            if let Some(index) = engine.by_name.get(&open.incident.cluster).copied() {
                engine.clusters[index].take_up(now, open, &mut engine.own);
                engine.dirty.insert(index);
            }
        }
        engine.policy = Arc::new(policy);
        engine
    }

    fn add(&mut self, cluster: Cluster) {
        let index = self.clusters.len();
        self.by_name.insert(cluster.policy.name.clone(), index);
        self.clusters.push(cluster);
        self.wake_of.push(self.now);
        self.wakes.insert((self.now, index));
        self.dirty.insert(index);
    }

    /// Takes what happened at `now`.
    pub fn handle(&mut self, now: Time, event: Event) {
        self.now = now;
        match event {
            Event::Observed(seen) => {
                if let Some(index) = self.by_name.get(&seen.cluster).copied() {
                    self.clusters[index].observe(now, seen);
                    self.dirty.insert(index);
                }
            }
            Event::Persisted(id) => {
                let released = (0..self.clusters.len()).find(|i| self.clusters[*i].persisted(id));
                if let Some(index) = released {
                    self.dirty.insert(index);
                    self.store_is(true, String::new());
                }
            }
            Event::PersistFailed { id, conflict, reason } => {
                for (index, cluster) in self.clusters.iter_mut().enumerate() {
                    cluster.persist_failed(now, id, conflict, &reason);
                    if cluster.is_dirty {
                        self.dirty.insert(index);
                    }
                }
                if !conflict {
                    self.store_is(false, reason);
                }
            }
            Event::StepEnded { token, result } => {
                if let Some(index) = self.by_name.get(&token.cluster).copied() {
                    self.clusters[index].step_ended(now, &token.incident, token.number, result, &mut self.own);
                    self.dirty.insert(index);
                }
            }
            Event::Commanded { by, command, reply_to } => self.command(now, &by, command, reply_to),
            Event::FenceChecked { cluster, member, level, method, health } => {
                if let Some(index) = self.by_name.get(&cluster).copied() {
                    self.clusters[index].fence_health.insert((member, level, method), (now, health));
                    self.dirty.insert(index);
                }
            }
            Event::RanLate { by, detail } => {
                if by >= self.own.arbiter.tilt_after {
                    self.tilt(now, detail);
                }
            }
            Event::StoreHealth { ok, detail } => self.store_is(ok, detail),
            Event::Leads { recovered, seen } => self.lead(now, *recovered, &seen),
            Event::Follows { reason, clusters, seen } => self.follow(now, reason, clusters, &seen),
            Event::PolicyLoaded(policy) => self.load(now, *policy),
            Event::WallClockRead(anchor) => self.own.anchor = anchor,
        }
    }

    /// Lets time pass.
    pub fn handle_timeout(&mut self, now: Time) {
        self.now = now;
        while let Some((at, index)) = self.wakes.first().copied() {
            if at > now {
                break;
            }
            self.wakes.pop_first();
            // Out of the way until it is looked at, which sets it anew.
            self.wake_of[index] = Time(u64::MAX);
            self.dirty.insert(index);
        }
        if self.own.end_tilt(now) {
            self.tell_own("tilt", true, "own clock and loop are on time again".into());
            self.dirty.extend(0..self.clusters.len());
        }
    }

    /// When to call `handle_timeout`, at the latest.
    pub fn poll_timeout(&mut self) -> Option<Time> {
        self.settle();
        let wake = self.wakes.first().map(|(at, _)| *at);
        wake.into_iter().chain(self.own.tilt_ends()).min()
    }

    /// The next thing to do, if there is one now.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        if let Some(effect) = self.out.pop_front() {
            return Some(effect);
        }
        self.settle();
        self.out.pop_front()
    }

    /// Looks at every cluster that changed: judges all, then lets all act.
    fn settle(&mut self) {
        // What one act changes (a promotion, an end) may want another look at the same moment.
        for _ in 0..8 {
            let dirty = std::mem::take(&mut self.dirty);
            if dirty.is_empty() {
                return;
            }
            for index in &dirty {
                self.clusters[*index].judge(self.now, &mut self.own);
            }
            for index in dirty {
                let cluster = &mut self.clusters[index];
                cluster.act(self.now, &mut self.own);
                cluster.release(self.now, &mut self.out);
                let wake = cluster.wake.max(Time(self.now.0 + 1));
                if cluster.is_dirty {
                    self.dirty.insert(index);
                }
                self.wakes.remove(&(self.wake_of[index], index));
                self.wake_of[index] = wake;
                self.wakes.insert((wake, index));
            }
        }
    }

    /// What was believed stays, for this arbiter looked all the while; what is under way is as the store has it.
    fn lead(&mut self, now: Time, recovered: Recovered, seen: &BTreeMap<ClusterName, Epoch>) {
        let was_following = self.own.not_leading.take().is_some();
        self.own.store_lost = None;
        self.drop_acts();
        let mut states: HashMap<ClusterName, ClusterState> =
            recovered.clusters.into_iter().map(|state| (state.cluster.clone(), state)).collect();
        for cluster in &mut self.clusters {
            let name = cluster.policy.name.clone();
            cluster.stand_by(now, "this arbiter has just begun to lead: ask again");
            cluster.follow(now, states.remove(&name), seen.get(&name).copied().unwrap_or_default());
        }
        self.absent = states;
        for open in &recovered.open {
            if let Some(index) = self.by_name.get(&open.incident.cluster).copied() {
                self.clusters[index].take_up(now, open, &mut self.own);
            }
        }
        self.dirty.extend(0..self.clusters.len());
        if was_following {
            self.tell_own("leading", true, "this arbiter leads".into());
        }
    }

    fn follow(
        &mut self,
        now: Time,
        reason: String,
        clusters: Option<Vec<ClusterState>>,
        seen: &BTreeMap<ClusterName, Epoch>,
    ) {
        if self.own.not_leading.is_none() {
            self.tell_own("leading", false, reason.clone());
        }
        self.drop_acts();
        for cluster in &mut self.clusters {
            cluster.stand_by(now, &reason);
        }
        self.own.not_leading = Some(reason);
        if let Some(clusters) = clusters {
            let mut states: HashMap<ClusterName, ClusterState> =
                clusters.into_iter().map(|state| (state.cluster.clone(), state)).collect();
            for cluster in &mut self.clusters {
                let name = cluster.policy.name.clone();
                cluster.follow(now, states.remove(&name), seen.get(&name).copied().unwrap_or_default());
            }
            self.absent = states;
        }
        self.dirty.extend(0..self.clusters.len());
    }

    /// What was not handed out yet is not done by who does not lead, nor before all is read anew.
    fn drop_acts(&mut self) {
        self.out.retain(|effect| !matches!(effect, Effect::Run(_) | Effect::Persist { .. }));
    }

    fn tilt(&mut self, now: Time, detail: String) {
        self.own.begin_tilt(now, detail.clone());
        for cluster in &mut self.clusters {
            cluster.forget_suspicion(now);
        }
        self.dirty.extend(0..self.clusters.len());
        self.tell_own("tilt", false, detail);
    }

    fn store_is(&mut self, ok: bool, detail: String) {
        let was_ok = self.own.store_lost.is_none();
        if was_ok == ok {
            return;
        }
        self.own.store_lost = (!ok).then(|| detail.clone());
        let detail = if ok { "the store takes intents again".to_owned() } else { detail };
        self.tell_own("store", ok, detail);
        self.dirty.extend(0..self.clusters.len());
    }

    fn tell_own(&mut self, what: &str, ok: bool, detail: String) {
        self.out.push_back(Effect::Tell(Box::new(Notice::Own { what: what.into(), ok, detail })));
    }

    fn load(&mut self, now: Time, policy: Policy) {
        self.own.arbiter = policy.arbiter.clone();
        self.own.policy_hash.clone_from(&policy.hash);
        for (name, cluster) in &policy.clusters {
            match self.by_name.get(name).copied() {
                Some(index) => self.clusters[index].replace_policy(cluster.clone(), now),
                None => {
                    let state = self.absent.remove(name);
                    self.add(Cluster::new(cluster.clone(), state, now));
                }
            }
        }
        // A cluster that left the file is no longer judged; one with an open incident stays until that is over.
        let gone: Vec<ClusterName> = self
            .by_name
            .iter()
            .filter(|(name, index)| !policy.clusters.contains_key(*name) && self.clusters[**index].saga.is_none())
            .map(|(name, _)| name.clone())
            .collect();
        if !gone.is_empty() {
            let (left, kept): (Vec<Cluster>, Vec<Cluster>) =
                std::mem::take(&mut self.clusters).into_iter().partition(|c| gone.contains(&c.policy.name));
            self.absent.extend(left.into_iter().map(|c| (c.policy.name.clone(), c.state)));
            self.by_name.clear();
            self.wakes.clear();
            self.wake_of.clear();
            self.dirty.clear();
            for cluster in kept {
                self.add(cluster);
            }
        }
        self.tell_own("policy", true, format!("policy {} is in force", policy.hash));
        self.policy = Arc::new(policy);
        self.dirty.extend(0..self.clusters.len());
    }

    fn command(&mut self, now: Time, by: &Operator, command: Command, to: u64) {
        let named = match &command {
            Command::Pause { cluster, .. } | Command::Resume { cluster } => cluster.clone(),
            Command::Failover { cluster, .. }
            | Command::Switchover { cluster, .. }
            | Command::Rejoin { cluster, .. }
            | Command::FenceConfirm { cluster, .. }
            | Command::Continue { cluster, .. }
            | Command::Abort { cluster }
            | Command::Adopt { cluster, .. } => Some(cluster.clone()),
            Command::Acknowledge { incident, cluster, .. } => {
                let open = self.clusters.iter().find(|c| c.incident().is_some_and(|i| i.id == *incident));
                open.map(|c| c.policy.name.clone()).or_else(|| cluster.clone())
            }
        };
        if let Some(reason) = &self.own.not_leading {
            let text =
                format!("this arbiter ({}) does not lead: {reason}; ask the one that does", self.own.arbiter.name);
            return self.reply(to, Err(CommandError::new(CommandErrorCode::WrongState, text)));
        }
        let every = matches!(command, Command::Pause { cluster: None, .. } | Command::Resume { cluster: None });
        if every {
            // One answer for all: the first cluster's, which fails if the store does.
            for (index, cluster) in self.clusters.iter_mut().enumerate() {
                cluster.command(now, by, command.clone(), if index == 0 { to } else { u64::MAX }, &mut self.own);
                self.dirty.insert(index);
            }
            if self.clusters.is_empty() {
                self.reply(to, Ok(CommandReply { text: "no clusters".into(), incident: None }));
            }
            return;
        }
        match named.as_ref().and_then(|name| self.by_name.get(name).copied()) {
            Some(index) => {
                self.clusters[index].command(now, by, command, to, &mut self.own);
                self.dirty.insert(index);
            }
            None => {
                let text = match &named {
                    Some(name) => format!("there is no cluster {name}; `coroner status` lists them"),
                    None => "there is no such open incident; `coroner incidents list` lists them".into(),
                };
                self.reply(to, Err(CommandError::new(CommandErrorCode::NotFound, text)));
            }
        }
    }

    fn reply(&mut self, to: u64, result: Result<CommandReply, CommandError>) {
        self.out.push_back(Effect::Reply { to, result });
    }

    // ---- views ------------------------------------------------------------------------------------------------

    /// Everything, in brief.
    #[must_use]
    pub fn status(&self, now: Time) -> Status {
        let mut clusters: Vec<_> = self.clusters.iter().map(|c| c.status(now, &self.own)).collect();
        clusters.sort_by(|a, b| a.cluster.cmp(&b.cluster));
        Status {
            arbiter: self.own.arbiter.name.clone(),
            policy_hash: self.own.policy_hash.clone(),
            tilt: self.own.tilt(now).map(|(_, why)| why.to_owned()),
            store_lost: self.own.store_lost.clone(),
            clusters,
            arbiters: None,
        }
    }

    /// The rules of one cluster, explained.
    #[must_use]
    pub fn why(&self, now: Time, cluster: &ClusterName) -> Option<Why> {
        Some(self.cluster(cluster)?.why(now))
    }

    /// What stands between now and a failover.
    #[must_use]
    pub fn why_not(&self, now: Time, cluster: &ClusterName) -> Option<WhyNot> {
        Some(self.cluster(cluster)?.why_not(now, &self.own))
    }

    /// The signals of one cluster, stream by stream.
    #[must_use]
    pub fn signals(&self, now: Time, cluster: &ClusterName) -> Option<Vec<SignalStatus>> {
        Some(self.cluster(cluster)?.signals(now))
    }

    /// Whom to follow in each cluster.
    #[must_use]
    pub fn primaries(&self) -> Vec<PrimaryView> {
        self.clusters.iter().map(Cluster::primary_view).collect()
    }

    /// Who should hold the lease of a cluster now, and in which epoch. `None`: nobody is to be appointed, because who is
    /// primary is not known, or because it is being replaced.
    #[must_use]
    pub fn appointment(&self, cluster: &ClusterName) -> Option<(MemberName, Epoch)> {
        // Whoever only watches appoints nobody: what it knows may be over.
        self.cluster(cluster).filter(|_| self.own.not_leading.is_none())?.appointment()
    }

    /// The members of a cluster that were fenced and are not back.
    #[must_use]
    pub fn quarantined(&self, cluster: &ClusterName) -> Vec<MemberName> {
        self.cluster(cluster).map(Cluster::quarantined).unwrap_or_default()
    }

    /// The open incident of a cluster.
    #[must_use]
    pub fn incident(&self, cluster: &ClusterName) -> Option<&Incident> {
        self.cluster(cluster)?.incident()
    }

    /// Whether this arbiter leads, as far as it was told; one that is alone does.
    #[must_use]
    pub const fn leads(&self) -> bool {
        self.own.not_leading.is_none()
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy)
    }

    /// The translation to wall time in force; for people only.
    #[must_use]
    pub const fn anchor(&self) -> WallAnchor {
        self.own.anchor
    }

    fn cluster(&self, name: &ClusterName) -> Option<&Cluster> {
        self.by_name.get(name).map(|index| &self.clusters[*index])
    }
}

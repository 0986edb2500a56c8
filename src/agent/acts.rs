//! What an agent does when it is ordered to: on its own host, by its own file, at its own broker.
//!
//! The party has checked an order by the time it comes here: signed by an arbiter, fresh, of no older epoch, not done yet.
//! What a name means stands in this host's file, so that a captured arbiter can stop this broker, and run nothing.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::{sync::Mutex, time::timeout};

use super::{driver::PartyHandle, observe::NodeHandle, state::Reports};
use crate::{
    broker::{Ask, Broker},
    fence::{Fence, agent::Agent},
    mesh::{message::DeedOrder, party::Input},
    model::{
        ActError, ClusterName, Done, Fact, FenceHealth, FenceReport, FenceVerdict, MemberName, Order, Outcome, Proof,
        StepResult, Target,
        agent::{Deed, DeedResult, Refusal},
        time::human,
    },
};

/// A rehearsal asks the broker for no longer than this.
const ASK_WITHIN: Duration = Duration::from_secs(2);

/// What only the broker's host can do. Every call ends by itself, soon.
#[async_trait]
pub trait HostActs: Send + Sync {
    /// At the agent's start: what makes the acts below quicker. In words, what was done.
    ///
    /// # Errors
    /// They will take longer.
    async fn prepare(&self) -> Result<String, String>;

    /// Keeps the service manager from starting the broker again. Idempotent. In words, how.
    ///
    /// # Errors
    /// It may be started again.
    async fn inhibit_restart(&self) -> Result<String, String>;

    /// Kills all processes of the broker and waits until none is left. In words, what was.
    ///
    /// # Errors
    /// Some may be left.
    async fn kill(&self, within: Duration) -> Result<String, String>;

    /// Undoes [`Self::inhibit_restart`], and has the broker started if the service manager is asked to run it.
    ///
    /// # Errors
    /// It is inhibited yet.
    async fn lift(&self) -> Result<String, String>;

    /// Gathers evidence of the dying, for at most that long. Where it was put, or why there is none.
    async fn preserve(&self, order: &Order, within: Duration) -> String;

    /// What of the broker's is there to be kept, in words; nothing where nothing is to be.
    async fn announce_kept(&self) -> String {
        String::new()
    }

    /// Copies what the broker had, once for each epoch, before it is started again. In words, where it is; nothing where
    /// nothing is to be kept.
    ///
    /// # Errors
    /// It is not kept, and may be lost by what comes next.
    async fn keep(&self, order: &Order) -> Result<String, String> {
        let _ = order;
        Ok(String::new())
    }

    /// Whether [`Self::kill`] could work, found without harm.
    async fn rehearse_kill(&self) -> FenceHealth;

    /// Closes the gate and reads back that it is closed.
    ///
    /// # Errors
    /// There is none, or it may be open.
    async fn close_gate(&self) -> Result<(), String>;

    /// Proves on a scratch port, from the clients' paths, that the gate stops traffic. In words, what was tried.
    ///
    /// # Errors
    /// Why it proves nothing.
    async fn drill_gate(&self) -> Result<String, String>;
}

/// One guarded broker, as acts see it.
pub struct GuardedActs {
    /// The broker's address.
    pub target: Target,
    /// The broker kind, if one is configured.
    pub broker: Option<Arc<dyn Broker>>,
    /// The host.
    pub host: Arc<dyn HostActs>,
    /// The sockets by which the host changes its gate.
    pub gate_ports: Vec<u32>,
    /// Whether there is a gate.
    pub has_gate: bool,
    /// Whether the last drill proved the gate.
    pub is_gate_proven: AtomicBool,
    /// Held by whoever stops the broker, or lets it run again: one order would undo half of the other.
    pub stopping: Mutex<()>,
    /// Fences of the host's own.
    pub fences: BTreeMap<String, Box<dyn Fence>>,
}

/// All that the agent can do.
pub struct Acts {
    /// By cluster.
    pub guarded: BTreeMap<ClusterName, GuardedActs>,
    /// The nodes it observes for, by cluster.
    pub nodes: BTreeMap<ClusterName, NodeHandle>,
    /// The other members' addresses.
    pub members: BTreeMap<(ClusterName, MemberName), Target>,
    /// The party.
    pub party: PartyHandle,
    /// What is known of the brokers.
    pub reports: Arc<Reports>,
}

impl Acts {
    /// Carries out one order and answers the party.
    pub async fn carry_out(&self, order: DeedOrder) {
        let started = crate::sys::clock::Stopwatch::start();
        tracing::info!(
            incident = %order.id.incident, act = order.id.number, cluster = %order.cluster, member = %order.member,
            epoch = %order.epoch, deed = ?order.deed, "ordered"
        );
        let result = self.act(&order).await;
        tracing::info!(
            incident = %order.id.incident, act = order.id.number, took_ms = started.elapsed().as_secs_f64() * 1e3,
            result = ?result, "done with an order"
        );
        self.party.send(Input::Answered { id: order.id, result });
    }

    async fn act(&self, order: &DeedOrder) -> DeedResult {
        if let Deed::Redirect { primary, address, fenced } = &order.deed {
            return self.redirect(order, primary, address, fenced).await;
        }
        if let Deed::Drop { fenced, lift } = &order.deed {
            return self.drop_member(order, fenced, *lift).await;
        }
        let refused = |why| DeedResult::Refused { why, epoch: order.epoch };
        let Some(guarded) = self.guarded.get(&order.cluster) else { return refused(Refusal::NotMine) };
        if guarded.target.member != order.member {
            return refused(Refusal::NotMine);
        }
        let context = Order { target: guarded.target.clone(), epoch: order.epoch, incident: order.id.incident.clone() };
        let within = order.deadline;
        let ended = |result| DeedResult::Ended(Box::new(result));
        match &order.deed {
            Deed::Fence { name, preserve } => {
                if !guarded.knows(name) {
                    return refused(Refusal::Unknown);
                }
                // A fenced member asks for no lease, and the party shuts its gate, before anything slower is done.
                self.party.send(Input::GiveUp { cluster: order.cluster.clone() });
                let _ = self.party.look(|_| ()).await;
                let report = async {
                    // The gate is shut already, and waits for nobody.
                    let _one = if name == Agent::GATE { None } else { Some(guarded.stopping.lock().await) };
                    guarded.fence(name, &context, *preserve, within).await
                };
                let late = || FenceReport::unknown(format!("it was not done within {}", human(within)));
                ended(StepResult::Fenced(timeout(within, report).await.unwrap_or_else(|_| late())))
            }
            Deed::Rehearse { name } => {
                if !guarded.knows(name) {
                    return refused(Refusal::Unknown);
                }
                let late = || FenceHealth { usable: None, detail: format!("it took longer than {}", human(within)) };
                let health = timeout(within, guarded.rehearse(name, within)).await;
                DeedResult::Rehearsed(health.unwrap_or_else(|_| late()))
            }
            deed => {
                let attempted = format!("{} {}", verb(deed), order.member);
                let late = || ActError::uncertain(attempted, format!("it was not done within {}", human(within)));
                match timeout(within, self.at_broker(guarded, &context, deed, within * 9 / 10)).await {
                    Ok(Ok(result)) => ended(result),
                    Ok(Err(BrokerActError::Unknown)) => refused(Refusal::Unknown),
                    Ok(Err(BrokerActError::Failed(error))) => ended(StepResult::Failed(error)),
                    Err(_) => ended(StepResult::Failed(late())),
                }
            }
        }
    }

    async fn at_broker(
        &self,
        guarded: &GuardedActs,
        order: &Order,
        deed: &Deed,
        within: Duration,
    ) -> Result<StepResult, BrokerActError> {
        let done = match deed {
            // The party holds the lease from now on, by itself; nothing is to be done at the broker.
            Deed::Appoint => Done::new("it asks for its lease"),
            Deed::Unfence { name } => {
                let _one = guarded.stopping.lock().await;
                guarded.unfence(name, order, within).await?
            }
            Deed::MakeReadOnly => {
                let report = guarded.broker()?.make_read_only(order, within).await;
                return Ok(StepResult::Fenced(report));
            }
            Deed::MakeWritable => guarded.broker()?.make_writable(order, within).await?,
            Deed::Position => guarded.position(within).await?,
            Deed::CatchUp { upto } => guarded.broker()?.catch_up(order, *upto, within).await?,
            Deed::Promote => {
                let done = guarded.broker()?.promote(order, within * 4 / 5).await?;
                guarded.starts_as_primary(order, within / 5, done).await
            }
            Deed::Follow { primary, promoted_at, rejoin } => {
                let key = (order.target.cluster.clone(), primary.clone());
                let attempted = || format!("make {} follow {}", order.target.member, key.1);
                let primary = self.members.get(&key).ok_or_else(|| {
                    ActError::nothing_done(attempted(), "this host's file knows no such member; make the files equal")
                })?;
                // Whatever starts it from now on starts a standby; and what it alone had is safe.
                let nothing = |why| ActError::nothing_done(attempted(), why);
                let mut before = guarded.starts_as_standby(order, within / 5).await.map_err(nothing)?;
                if *rejoin {
                    before.push(guarded.host.keep(order).await.map_err(nothing)?);
                }
                let mut done = guarded.broker()?.follow(order, primary, *promoted_at, within * 4 / 5).await?;
                before.push(std::mem::take(&mut done.detail));
                done.detail = said(&before);
                done
            }
            // Handled before.
            Deed::Fence { .. } | Deed::Rehearse { .. } | Deed::Redirect { .. } | Deed::Drop { .. } => {
                return Err(BrokerActError::Unknown);
            }
        };
        Ok(StepResult::Done(done))
    }

    async fn redirect(
        &self,
        order: &DeedOrder,
        primary: &MemberName,
        address: &str,
        fenced: &[MemberName],
    ) -> DeedResult {
        let Some(node) = self.nodes.get(&order.cluster) else {
            return DeedResult::Refused { why: Refusal::NotMine, epoch: order.epoch };
        };
        let name = node.name().clone();
        let told = match node.redirect(order.epoch, primary.clone(), address.to_owned(), fenced.to_vec()).await {
            Ok(()) => StepResult::Told { acknowledged: vec![name], failed: Vec::new() },
            Err(why) => StepResult::Told { acknowledged: Vec::new(), failed: vec![(name, why)] },
        };
        DeedResult::Ended(Box::new(told))
    }

    async fn drop_member(&self, order: &DeedOrder, fenced: &MemberName, lift: bool) -> DeedResult {
        let Some(node) = self.nodes.get(&order.cluster) else {
            return DeedResult::Refused { why: Refusal::NotMine, epoch: order.epoch };
        };
        let verb = if lift { "take the traffic" } else { "drop the traffic" };
        DeedResult::Ended(Box::new(match node.drop_member(order.epoch, fenced.clone(), lift).await {
            Ok(()) if lift => StepResult::Done(Done::new(format!("it takes the traffic of {fenced} again"))),
            Ok(()) => StepResult::Done(Done::new(format!("it drops the traffic of {fenced}, read back"))),
            Err(why) => StepResult::Failed(ActError::uncertain(format!("{verb} of {fenced}"), why)),
        }))
    }

    /// The lease is over: what is to be done besides the gate, which the kernel has shut by now.
    pub async fn lease_over(&self, cluster: &ClusterName, why: &str) {
        let Some(guarded) = self.guarded.get(cluster) else { return };
        if guarded.has_gate && guarded.is_gate_proven.load(Ordering::Relaxed) {
            tracing::warn!(%cluster, why, "the lease is over; the gate is shut until it is granted again");
            return;
        }
        // Whether it serves: what is gone or silent cannot, and killing what just starts would keep it from ever coming up.
        let serves = self.reports.load().get(cluster).is_some_and(|(_, may_renew)| *may_renew);
        if !serves {
            tracing::error!(%cluster, why, "the lease is over; the broker does not answer; its gate is not proved to hold");
            return;
        }
        tracing::error!(%cluster, why, "the lease is over, and no gate was proved to hold: the broker is killed");
        // Not inhibited: nobody may have been promoted, and then it has to come back. What starts it asks `coroner gate`.
        match guarded.host.kill(KILL_WITHIN).await {
            Ok(how) => tracing::warn!(%cluster, how, "the broker was stopped"),
            Err(error) => tracing::error!(%cluster, error, "the broker may run yet, without a lease"),
        }
    }

    /// The gate cannot be held: the broker is stopped instead.
    pub async fn stop_without_gate(&self, cluster: &ClusterName) {
        let Some(guarded) = self.guarded.get(cluster) else { return };
        guarded.is_gate_proven.store(false, Ordering::Relaxed);
        match guarded.host.kill(KILL_WITHIN).await {
            Ok(how) => tracing::warn!(%cluster, how, "the broker was stopped, since its gate does not hold"),
            Err(error) => tracing::error!(%cluster, error, "the broker may run yet, and its gate does not hold"),
        }
    }

    /// Rehearses everything of one cluster, for `coroner fence test` on the host.
    pub async fn rehearse_all(&self, cluster: &ClusterName, within: Duration) -> BTreeMap<String, FenceHealth> {
        let mut found = BTreeMap::new();
        let Some(guarded) = self.guarded.get(cluster) else { return found };
        for name in guarded.names() {
            let late = || FenceHealth { usable: None, detail: format!("it took longer than {}", human(within)) };
            let health = timeout(within, guarded.rehearse(&name, within)).await.unwrap_or_else(|_| late());
            found.insert(name, health);
        }
        found
    }
}

/// A broker that has to be stopped at once is waited for no longer than this.
const KILL_WITHIN: Duration = Duration::from_secs(10);

enum BrokerActError {
    /// There is no such fence, or no broker kind.
    Unknown,
    Failed(ActError),
}

impl From<ActError> for BrokerActError {
    fn from(error: ActError) -> Self {
        Self::Failed(error)
    }
}

const fn verb(deed: &Deed) -> &'static str {
    match deed {
        Deed::Appoint => "appoint",
        Deed::Fence { .. } => "fence",
        Deed::Unfence { .. } => "lift the fence from",
        Deed::Rehearse { .. } => "rehearse the fence of",
        Deed::MakeReadOnly => "make read-only",
        Deed::MakeWritable => "make writable",
        Deed::Position => "tell the position of",
        Deed::CatchUp { .. } => "catch up",
        Deed::Promote => "promote",
        Deed::Follow { .. } => "make follow",
        Deed::Redirect { .. } => "redirect to",
        Deed::Drop { .. } => "drop the traffic of",
    }
}

/// What was said of several things, without those of which nothing was.
fn said(parts: &[String]) -> String {
    parts.iter().filter(|part| !part.is_empty()).map(String::as_str).collect::<Vec<_>>().join("; ")
}

impl GuardedActs {
    /// Sees to it that whatever starts the broker starts a standby, where its host can say so.
    async fn starts_as_standby(&self, order: &Order, within: Duration) -> Result<Vec<String>, String> {
        let mut told = Vec::new();
        for (name, fence) in self.fences.iter().filter(|(_, fence)| fence.follows_role()) {
            let report = fence.fence(order, within).await;
            if report.verdict != FenceVerdict::Confirmed {
                return Err(format!("it could be started as a primary: {name}: {}", report.detail));
            }
            told.push(format!("{name}: {}", report.detail));
        }
        Ok(told)
    }

    /// The same for a primary. It is one by now, so that its failure is told and undoes nothing: started again, it would be
    /// a standby, and take no writes until a person looks.
    async fn starts_as_primary(&self, order: &Order, within: Duration, done: Done) -> Done {
        let mut told = vec![done.detail];
        for (name, fence) in self.fences.iter().filter(|(_, fence)| fence.follows_role()) {
            told.push(match fence.become_primary(order, within).await {
                Ok(done) => format!("{name}: {}", done.detail),
                Err(error) => format!("{name}: {}; A RESTART WOULD MAKE IT READ-ONLY", error.detail),
            });
        }
        Done { detail: said(&told), ..done }
    }

    fn knows(&self, name: &str) -> bool {
        match name {
            "kill" => true,
            "gate" => self.has_gate,
            "read_only" => self.broker.is_some(),
            other => self.fences.contains_key(other),
        }
    }

    fn names(&self) -> Vec<String> {
        let own = ["gate", "kill", "read_only"].into_iter().filter(|name| self.knows(name));
        own.map(str::to_owned).chain(self.fences.keys().cloned()).collect()
    }

    fn broker(&self) -> Result<&dyn Broker, BrokerActError> {
        self.broker.as_deref().ok_or(BrokerActError::Unknown)
    }

    async fn fence(&self, name: &str, order: &Order, preserve: Duration, within: Duration) -> FenceReport {
        match name {
            "gate" => self.fence_by_gate().await,
            "kill" => self.fence_by_kill(order, preserve, within).await,
            "read_only" => match &self.broker {
                Some(broker) => broker.make_read_only(order, within).await,
                None => FenceReport::refuted("no broker kind is configured"),
            },
            other => match self.fences.get(other) {
                Some(fence) => fence.fence(order, within).await,
                None => FenceReport::refuted("this host's file knows no such fence"),
            },
        }
    }

    async fn fence_by_gate(&self) -> FenceReport {
        match self.host.close_gate().await {
            Ok(()) if self.is_gate_proven.load(Ordering::Relaxed) => {
                FenceReport::confirmed(Proof::Gate, "the gate is shut, read back from the kernel; its drill passed")
            }
            Ok(()) => FenceReport::confirmed(Proof::Claim, "the gate is shut, but its drill has not passed: no proof"),
            Err(why) => FenceReport::unknown(why),
        }
    }

    /// First what is quick and certain, then what takes its time: restart inhibited, gate shut, evidence kept, all killed.
    async fn fence_by_kill(&self, order: &Order, preserve: Duration, within: Duration) -> FenceReport {
        let inhibited = self.host.inhibit_restart();
        let closed = async { if self.has_gate { Some(self.fence_by_gate().await) } else { None } };
        let kept = async { if preserve.is_zero() { String::new() } else { self.host.preserve(order, preserve).await } };
        let (inhibited, closed, kept) = tokio::join!(inhibited, closed, kept);
        let killed = self.host.kill(within).await;
        let mut detail = match (&inhibited, &killed) {
            (Ok(how), Ok(what)) => format!("{how}; {what}"),
            (Err(why), Ok(what)) => format!("{what}; but it may be started again: {why}"),
            (_, Err(why)) => format!("it may run yet: {why}"),
        };
        let left = if killed.is_ok() { self.host.announce_kept().await } else { String::new() };
        detail = said(&[detail, kept, left]);
        let gate = closed.filter(|report| report.proof == Proof::Gate);
        match (inhibited, killed, gate) {
            (Ok(_), Ok(_), _) => FenceReport::confirmed(Proof::Stopped, detail),
            (_, _, Some(gate)) => FenceReport::confirmed(Proof::Gate, format!("{}; {detail}", gate.detail)),
            (Err(_), Ok(_), None) => FenceReport::confirmed(Proof::Claim, detail),
            (_, Err(_), None) => FenceReport::unknown(detail),
        }
    }

    async fn unfence(&self, name: &str, order: &Order, within: Duration) -> Result<Done, BrokerActError> {
        let attempted = || format!("lift {name} from {}", order.target.member);
        match name {
            "gate" if self.has_gate => {
                Ok(Done::new("nothing to lift: the gate opens by a lease alone, and only for the primary"))
            }
            "kill" => {
                // Somebody else is primary by now.
                let nothing = |why| ActError::nothing_done(attempted(), why);
                let mut told = self.starts_as_standby(order, within / 5).await.map_err(nothing)?;
                told.push(self.host.keep(order).await.map_err(nothing)?);
                told.push(self.host.lift().await.map_err(|why| ActError::uncertain(attempted(), why))?);
                Ok(Done::new(said(&told)))
            }
            "read_only" => Ok(self.broker()?.make_writable(order, within).await?),
            other => {
                let fence = self.fences.get(other).ok_or(BrokerActError::Unknown)?;
                Ok(fence.unfence(order, within).await?)
            }
        }
    }

    async fn position(&self, within: Duration) -> Result<Done, BrokerActError> {
        let attempted = format!("tell the position of {}", self.target.member);
        match self.broker()?.ask(Ask::Position, &self.target, within).await {
            Outcome::Fact(Fact::Position { position }) => {
                let detail = format!("its position is {position}");
                Ok(Done { detail, position: Some(position), divergent: None })
            }
            Outcome::Fact(_) => Err(ActError::nothing_done(attempted, "it told something else").into()),
            Outcome::Failure(failure) => Err(ActError::nothing_done(attempted, failure.to_string()).into()),
        }
    }

    /// Whether that fence could work now.
    pub async fn rehearse(&self, name: &str, within: Duration) -> FenceHealth {
        match name {
            "gate" => match self.host.drill_gate().await {
                Ok(detail) => FenceHealth { usable: Some(true), detail },
                Err(detail) => FenceHealth { usable: Some(false), detail },
            },
            "kill" => self.host.rehearse_kill().await,
            "read_only" => match &self.broker {
                Some(broker) => match broker.ask(Ask::Ping, &self.target, ASK_WITHIN.min(within)).await {
                    Outcome::Fact(_) => FenceHealth { usable: Some(true), detail: "it answers".into() },
                    Outcome::Failure(failure) => FenceHealth { usable: Some(false), detail: failure.to_string() },
                },
                None => FenceHealth { usable: Some(false), detail: "no broker kind is configured".into() },
            },
            other => match self.fences.get(other) {
                Some(fence) => fence.check(&self.target, within).await,
                None => FenceHealth { usable: Some(false), detail: "this host's file knows no such fence".into() },
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;
    use crate::{fence::AnyFence, model::Epoch};

    /// A host on which everything works, but for keeping, if it is told so.
    #[derive(Default)]
    struct Host {
        cannot_keep: AtomicBool,
        lifted: AtomicU32,
    }

    #[async_trait]
    impl HostActs for Host {
        async fn prepare(&self) -> Result<String, String> {
            Ok(String::new())
        }
        async fn inhibit_restart(&self) -> Result<String, String> {
            Ok("inhibited".into())
        }
        async fn kill(&self, _: Duration) -> Result<String, String> {
            Ok("killed".into())
        }
        async fn lift(&self) -> Result<String, String> {
            self.lifted.fetch_add(1, Ordering::Relaxed);
            Ok("told to start".into())
        }
        async fn preserve(&self, _: &Order, _: Duration) -> String {
            String::new()
        }
        async fn announce_kept(&self) -> String {
            "it leaves its log".into()
        }
        async fn keep(&self, _: &Order) -> Result<String, String> {
            if self.cannot_keep.load(Ordering::Relaxed) { Err("the disk is full".into()) } else { Ok("kept".into()) }
        }
        async fn rehearse_kill(&self) -> FenceHealth {
            FenceHealth { usable: Some(true), detail: String::new() }
        }
        async fn close_gate(&self) -> Result<(), String> {
            Err("none".into())
        }
        async fn drill_gate(&self) -> Result<String, String> {
            Err("none".into())
        }
    }

    fn guarded(path: &std::path::Path, host: &Arc<Host>) -> (GuardedActs, Order) {
        let flag: AnyFence = serde_json::from_value(serde_json::json!({ "file_flag": {
            "path": path, "key": "read-only", "fenced": "true", "unfenced": "false",
            "format": "java_properties", "follows_role": true,
        }}))
        .unwrap();
        let target = Target { cluster: "c".into(), member: "a".into(), address: "127.0.0.1:1".into() };
        let acts = GuardedActs {
            target: target.clone(),
            broker: None,
            host: Arc::<Host>::clone(host),
            gate_ports: Vec::new(),
            has_gate: false,
            is_gate_proven: AtomicBool::new(false),
            stopping: Mutex::new(()),
            fences: [("properties".to_owned(), flag.build(None, None).unwrap())].into(),
        };
        (acts, Order { target, epoch: Epoch(2), incident: "01TEST".into() })
    }

    #[tokio::test]
    async fn what_was_killed_starts_as_a_standby_and_only_once_its_log_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("cluster.properties");
        std::fs::write(&file, "# mine\nread-only : false\n").unwrap();
        let host = Arc::<Host>::default();
        let (acts, order) = guarded(&file, &host);
        let within = Duration::from_secs(5);
        let report = acts.fence("kill", &order, Duration::ZERO, within).await;
        assert!(report.proof == Proof::Stopped && report.detail.contains("it leaves its log"), "{report:?}");

        host.cannot_keep.store(true, Ordering::Relaxed);
        let Err(BrokerActError::Failed(error)) = acts.unfence("kill", &order, within).await else { panic!() };
        assert!(!error.may_have_happened && error.detail.contains("the disk is full"), "{error}");
        assert_eq!(host.lifted.load(Ordering::Relaxed), 0, "it may not run before");
        host.cannot_keep.store(false, Ordering::Relaxed);
        let Ok(done) = acts.unfence("kill", &order, within).await else { panic!() };
        assert!(done.detail.contains("kept; told to start"), "{}", done.detail);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "# mine\nread-only : true\n");

        // Lifting the flag's own fence leaves it; a promotion takes it away.
        assert!(acts.unfence("properties", &order, within).await.is_ok());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "# mine\nread-only : true\n");
        let done = acts.starts_as_primary(&order, within, Done::new("promoted")).await;
        assert!(done.detail.starts_with("promoted; properties: put back"), "{}", done.detail);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "# mine\nread-only : false\n");
    }

    #[tokio::test]
    async fn nothing_is_started_whose_file_cannot_say_that_it_is_a_standby() {
        let directory = tempfile::tempdir().unwrap();
        let host = Arc::<Host>::default();
        let (acts, order) = guarded(&directory.path().join("missing"), &host);
        let Err(BrokerActError::Failed(error)) = acts.unfence("kill", &order, Duration::from_secs(5)).await else {
            panic!()
        };
        assert!(!error.may_have_happened && error.detail.contains("could be started as a primary"), "{error}");
        assert_eq!(host.lifted.load(Ordering::Relaxed), 0);
        let done = acts.starts_as_primary(&order, Duration::from_secs(5), Done::new("promoted")).await;
        assert!(done.detail.contains("A RESTART WOULD MAKE IT READ-ONLY"), "{}", done.detail);
    }
}

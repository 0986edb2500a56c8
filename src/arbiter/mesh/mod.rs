//! The arbiter's end of the mesh: hears the agents, gives them orders, has the voters seal, and sees to it that whoever
//! should hold the lease is told so.
//!
//! The party itself runs on a thread of its own ([`PartyThread`]): grants to a primary must not wait for the arbiter's
//! disk or its HTTP clients.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

use super::handle::Handle;
use crate::{
    agent::driver::{Event, PartyHandle},
    fence::agent::Agents,
    mesh::{
        message::{Beat, DeedOrder, Life},
        party::{Input, Output, Sealing},
    },
    model::{
        ActError, ClusterName, Done, Epoch, FenceHealth, FenceReport, IncidentId, MemberName, NodeName, Order,
        PartyName, Proof, StepResult, Target, Time,
        agent::{Deed, DeedResult, MemberReport, OrderId},
        status::PrimaryView,
        time::human,
    },
    sys::clock,
};

mod feed;
mod start;
mod view;

pub use start::MeshError;
pub(super) use start::start;

/// An agent that was not heard for so long is not asked first: the direct way is tried.
const HEARD_WITHIN: Duration = Duration::from_secs(1);
/// An agent's last answer needs no longer to come back.
const ANSWER_TAKES: Duration = Duration::from_millis(250);
/// What an agent was told and does not show in its beats is told again after this.
const TELL_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// How things should stand in one cluster, as the engine has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    /// Who should hold the lease, and in which epoch.
    pub(super) appointed: Option<(MemberName, Epoch)>,
    /// Whom nodes should follow.
    pub(super) primary: PrimaryView,
    /// Members whose traffic nodes drop.
    pub(super) fenced: Vec<MemberName>,
}

/// How things should stand in all clusters.
pub(super) type Standings = BTreeMap<ClusterName, Standing>;

/// The arbiter's end of the mesh.
pub struct Link {
    party: PartyHandle,
    /// Makes the names of orders that belong to no incident differ from those of the arbiter's former lives.
    life: Life,
    state: Mutex<State>,
    sealing: watch::Sender<BTreeMap<ClusterName, Sealing>>,
}

#[derive(Default)]
struct State {
    /// Who waits for the answers to which order.
    waiting: HashMap<OrderId, mpsc::UnboundedSender<DeedResult>>,
    heard: HashMap<PartyName, Heard>,
    /// Numbers the orders that belong to no incident.
    next: u32,
    standings: Standings,
    /// What each was told last, and when: it is not repeated with every beat.
    told: HashMap<(ClusterName, PartyName), (Epoch, Deed, Time)>,
    /// What the party's thread does without; each is told once.
    troubles: Vec<String>,
}

struct Heard {
    at: Time,
    beat: Box<Beat>,
    is_direct: bool,
}

impl Link {
    /// Takes up what the party's thread tells.
    #[must_use]
    pub fn new(party: PartyHandle, life: Life) -> Arc<Self> {
        Arc::new(Self { party, life, state: Mutex::default(), sealing: watch::channel(BTreeMap::new()).0 })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the state is whole when the lock is given back.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something came from the party's thread.
    pub(super) fn take(&self, handle: &Handle, event: Event) {
        let told = match event {
            Event::Told(told) => told,
            Event::Disk { error: Some(error) } => {
                tracing::error!(
                    "the epochs that this voter sealed cannot be written, so it grants and seals nothing: {error}"
                );
                return;
            }
            Event::Disk { error: None } => {
                tracing::info!("the epochs that this voter sealed are written again");
                return;
            }
            Event::Trouble(text) => {
                tracing::warn!("{text}");
                self.state().troubles.push(text);
                return;
            }
            // The arbiter's own stop; else the process is told by the missing grants, and by this line.
            Event::Ended => {
                tracing::info!("the thread of leases has ended");
                return;
            }
            // An arbiter has no gate.
            Event::Gate { .. } => return,
        };
        match told {
            Output::Heard { from, beat, is_direct } => {
                for seen in feed::observations(&handle.config(), &from, &beat) {
                    // A full queue drops it; the next beat says the same.
                    let _ = handle.observe(seen);
                }
                self.state().heard.insert(from, Heard { at: clock::now(), beat, is_direct });
                self.see_to_it(handle);
            }
            Output::Answer { id, result, .. } => {
                let is_last = !matches!(result, DeedResult::Taken);
                let mut state = self.state();
                if let Some(waiting) = state.waiting.get(&id) {
                    drop(waiting.send(result));
                }
                if is_last {
                    state.waiting.remove(&id);
                }
            }
            Output::Sealing(sealing) => {
                self.sealing.send_modify(|all| drop(all.insert(sealing.cluster.clone(), sealing)));
            }
            // An arbiter guards no member.
            _ => {}
        }
    }

    /// How things should stand, after every turn of the driver.
    pub(super) fn set_standings(&self, handle: &Handle, standings: Standings) {
        let mut state = self.state();
        if state.standings == standings {
            return;
        }
        state.standings = standings;
        drop(state);
        self.see_to_it(handle);
    }

    /// Tells the agent of a primary that it is one, and the agents of nodes whom to follow, until their beats say that
    /// they know.
    fn see_to_it(&self, handle: &Handle) {
        let config = handle.config();
        let now = clock::now();
        let mut orders = Vec::new();
        let mut state = self.state();
        for (cluster, standing) in &state.standings {
            let has_lease = config.policy.clusters.get(cluster).is_some_and(|c| c.failover.lease.is_some());
            if let Some((member, epoch)) = standing.appointed.as_ref().filter(|_| has_lease) {
                let to = PartyName::from(member);
                let report = state.heard.get(&to).and_then(|heard| report(heard, cluster, member));
                if report.is_some_and(|report| report.appointed != Some(*epoch)) {
                    orders.push((to, cluster.clone(), member.clone(), *epoch, Deed::Appoint));
                }
            }
            let PrimaryView { epoch, primary: Some(primary), address: Some(address), .. } = &standing.primary else {
                continue;
            };
            for (party, heard) in &state.heard {
                let deed = Deed::Redirect {
                    primary: primary.clone(),
                    address: address.clone(),
                    fenced: standing.fenced.clone(),
                };
                // Beats do not say whom a node drops. What was told last does: a member that came back is dropped no more.
                let was_told_other =
                    state.told.get(&(cluster.clone(), party.clone())).is_some_and(|(e, d, _)| e == epoch && *d != deed);
                let mut nodes = heard.beat.nodes.iter().filter(|(c, ..)| c == cluster);
                let differs = nodes.any(|(_, _, told)| {
                    told.epoch < *epoch || told.primary.as_ref() != Some(primary) || was_told_other
                });
                if differs {
                    orders.push((party.clone(), cluster.clone(), primary.clone(), *epoch, deed));
                }
            }
        }
        orders.retain(|(to, cluster, _, epoch, deed)| {
            let key = (cluster.clone(), to.clone());
            let was_told = state
                .told
                .get(&key)
                .is_some_and(|(e, d, at)| (e, d) == (epoch, deed) && now.since(*at) < TELL_AGAIN_AFTER);
            if !was_told {
                state.told.insert(key, (*epoch, deed.clone(), now));
            }
            !was_told
        });
        drop(state);
        for (to, cluster, member, epoch, deed) in orders {
            let id = self.fresh_id("standing");
            let order = order(id, cluster, member, epoch, deed, TELL_AGAIN_AFTER);
            self.party.send(Input::Order { to, order });
        }
    }

    /// Whether the member's agent was heard of late, by any path.
    #[must_use]
    pub fn is_heard(&self, member: &MemberName) -> bool {
        let state = self.state();
        let heard = state.heard.get(&PartyName::from(member));
        heard.is_some_and(|heard| clock::now().since(heard.at) < HEARD_WITHIN)
    }

    /// Has a majority seal an epoch.
    pub async fn seal(&self, order: &Order, deadline: Duration) -> StepResult {
        let sealing = self.sealed(order, deadline, |sealing| sealing.is_sealed).await;
        let attempted = format!("seal epoch {}", order.epoch);
        match sealing {
            Some(Sealing { larger: Some(sealed), .. }) => StepResult::Outbid { sealed },
            Some(sealing) if sealing.is_sealed => {
                StepResult::Done(Done::new(format!("sealed by {}", names(&sealing.sealed))))
            }
            Some(sealing) => {
                let why = format!("no majority of the voters answered; sealed by {}", names(&sealing.sealed));
                StepResult::Failed(ActError::uncertain(attempted, why))
            }
            None => StepResult::Failed(ActError::uncertain(attempted, "no voter answered")),
        }
    }

    /// Waits until, by the count of a majority that has sealed the epoch, no older lease runs.
    pub async fn await_lease(&self, order: &Order, deadline: Duration) -> StepResult {
        let started = clock::now();
        let sealing = self.sealed(order, deadline, |sealing| sealing.is_over).await;
        StepResult::Fenced(match sealing {
            Some(Sealing { larger: Some(sealed), .. }) => return StepResult::Outbid { sealed },
            Some(sealing) if sealing.is_over => {
                let took = human(clock::now().since(started));
                let detail = format!("by the count of {} no older lease runs, after {took}", names(&sealing.over));
                FenceReport::confirmed(Proof::LeaseOver, detail)
            }
            Some(sealing) => FenceReport::unknown(format!(
                "no majority could say that the lease is over: sealed by {}, over for {}",
                names(&sealing.sealed),
                names(&sealing.over)
            )),
            None => FenceReport::unknown("no voter answered"),
        })
    }

    async fn sealed(&self, order: &Order, deadline: Duration, is_enough: fn(&Sealing) -> bool) -> Option<Sealing> {
        let (cluster, epoch) = (order.target.cluster.clone(), order.epoch);
        let mut changes = self.sealing.subscribe();
        self.party.send(Input::Seal { cluster: cluster.clone(), epoch });
        let of_epoch = |all: &BTreeMap<ClusterName, Sealing>| {
            all.get(&cluster).filter(|s| s.epoch == epoch).is_some_and(|s| is_enough(s) || s.larger.is_some())
        };
        drop(timeout(deadline, changes.wait_for(of_epoch)).await);
        let now = changes.borrow().get(&cluster).filter(|s| s.epoch == epoch).cloned();
        if now.as_ref().is_some_and(|sealing| sealing.is_over) {
            self.party.send(Input::WithdrawSeal { cluster });
        }
        now
    }

    /// Gives an order, and waits for its end.
    async fn give(&self, to: PartyName, mut order: DeedOrder) -> Option<DeedResult> {
        let (answers, mut heard) = mpsc::unbounded_channel();
        let (id, deadline) = (order.id.clone(), order.deadline);
        // The agent ends early enough for its answer to be heard, over a detour if need be.
        order.deadline = deadline.saturating_sub((deadline / 8).min(ANSWER_TAKES));
        self.state().waiting.insert(id.clone(), answers);
        self.party.send(Input::Order { to, order: Box::new(order) });
        let last = timeout(deadline, async {
            let mut last = None;
            while let Some(result) = heard.recv().await {
                let is_taken = matches!(result, DeedResult::Taken);
                last = Some(result);
                if !is_taken {
                    break;
                }
            }
            last
        });
        let result = last.await;
        self.state().waiting.remove(&id);
        result.unwrap_or(None)
    }

    /// Gives an order about a member to the agents of these nodes, side by side.
    pub async fn order_nodes(
        &self,
        order: &Order,
        nodes: &[NodeName],
        deed: Deed,
        deadline: Duration,
    ) -> Vec<(NodeName, Result<StepResult, ActError>)> {
        let one = async |node: &NodeName| {
            let attempted = format!("order the agent of {node}");
            let target = &order.target;
            let id = OrderId { incident: order.incident.clone(), ..self.fresh_id("") };
            let order =
                self::order(id, target.cluster.clone(), target.member.clone(), order.epoch, deed.clone(), deadline);
            let result = match self.give(PartyName::from(node), *order).await {
                Some(DeedResult::Ended(result)) => Ok(*result),
                Some(DeedResult::Refused { why, epoch }) => {
                    Err(ActError::nothing_done(attempted, format!("it refused: {why} (its epoch is {epoch})")))
                }
                Some(other) => Err(ActError::uncertain(attempted, format!("it answered {other:?}"))),
                None => Err(ActError::uncertain(attempted, "it did not answer in time")),
            };
            (node.clone(), result)
        };
        futures::future::join_all(nodes.iter().map(one)).await
    }

    /// Which of these nodes' agents were not heard of late.
    #[must_use]
    pub fn unheard(&self, nodes: &[NodeName]) -> Vec<NodeName> {
        let state = self.state();
        let is_heard = |node: &&NodeName| {
            state.heard.get(&PartyName::from(*node)).is_some_and(|heard| clock::now().since(heard.at) < HEARD_WITHIN)
        };
        nodes.iter().filter(|node| !is_heard(node)).cloned().collect()
    }

    fn fresh_id(&self, what: &str) -> OrderId {
        let mut state = self.state();
        state.next = state.next.wrapping_add(1);
        OrderId { incident: IncidentId::from(format!("{what}-{:016x}", self.life.0)), number: state.next }
    }
}

#[async_trait]
impl Agents for Link {
    async fn order(&self, order: &Order, deed: Deed, deadline: Duration) -> Result<StepResult, ActError> {
        let member = &order.target.member;
        let attempted = format!("order the agent of {member}");
        // One act of an incident may need several orders: the number is drawn anew, and the deed is idempotent.
        let id = OrderId { incident: order.incident.clone(), ..self.fresh_id("") };
        let order = self::order(id, order.target.cluster.clone(), member.clone(), order.epoch, deed, deadline);
        match self.give(PartyName::from(member), *order).await {
            Some(DeedResult::Ended(result)) => Ok(*result),
            Some(DeedResult::Rehearsed(health)) => Ok(StepResult::Done(Done::new(health.detail))),
            Some(DeedResult::Refused { why, epoch }) => {
                Err(ActError::nothing_done(attempted, format!("it refused: {why} (its epoch is {epoch})")))
            }
            Some(DeedResult::Taken) => Err(ActError::uncertain(attempted, "it took the order and did not end in time")),
            None => Err(ActError::uncertain(attempted, "it did not answer in time")),
        }
    }

    async fn rehearse(&self, target: &Target, name: &str, deadline: Duration) -> FenceHealth {
        let unknown = |detail: String| FenceHealth { usable: None, detail };
        let epoch = {
            let state = self.state();
            let heard = state.heard.get(&PartyName::from(&target.member));
            match heard.and_then(|heard| report(heard, &target.cluster, &target.member)) {
                Some(report) => report.epoch,
                None => return unknown("its agent was never heard".into()),
            }
        };
        let deed = Deed::Rehearse { name: name.to_owned() };
        let id = self.fresh_id("rehearsal");
        let order = order(id, target.cluster.clone(), target.member.clone(), epoch, deed, deadline);
        match self.give(PartyName::from(&target.member), *order).await {
            Some(DeedResult::Rehearsed(health)) => health,
            Some(DeedResult::Refused { why, .. }) => FenceHealth { usable: Some(false), detail: why.to_string() },
            Some(other) => unknown(format!("its agent answered {other:?}")),
            None => unknown("its agent did not answer in time".into()),
        }
    }

    /// The link itself serves all clusters, and knows of none which nodes it has: see [`Link::order_nodes`].
    async fn at_all_nodes(&self, _: &Order, _: Deed, _: Duration) -> Vec<(NodeName, Result<StepResult, ActError>)> {
        Vec::new()
    }

    async fn nodes_health(&self, _: &Target, _: Duration) -> FenceHealth {
        FenceHealth { usable: None, detail: "the nodes are not known here".into() }
    }
}

fn order(
    id: OrderId,
    cluster: ClusterName,
    member: MemberName,
    epoch: Epoch,
    deed: Deed,
    deadline: Duration,
) -> Box<DeedOrder> {
    // The challenge is filled in by the party, with each repetition anew.
    Box::new(DeedOrder { id, cluster, member, epoch, challenge: 0, deed, deadline })
}

fn report<'a>(heard: &'a Heard, cluster: &ClusterName, member: &MemberName) -> Option<&'a MemberReport> {
    heard.beat.members.iter().find(|(c, m, _)| (c, m) == (cluster, member)).map(|(_, _, report)| report)
}

fn names<'a>(parties: impl IntoIterator<Item = &'a PartyName>) -> String {
    let names: Vec<&str> = parties.into_iter().map(PartyName::as_str).collect();
    if names.is_empty() { "nobody".into() } else { names.join(", ") }
}

//! The hands of the arbiter: turns an act that the engine asks for into calls of the edges, and their answers into
//! a result. Decides nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::timeout;

use super::{
    mesh::Link,
    rehearsal::{Rehearsed, is_meant},
};
use crate::{
    broker::{Ask, Broker},
    config::{ClusterConfig, Config},
    fence::{Fence, ReadOnlyFlag, agent::Agents},
    model::{
        ActError, Action, ClusterName, ClusterPolicy, Done, Fact, FenceHealth, FenceReport, MemberName, NodeName,
        NodeTarget, Order, Outcome, StepResult, Target, WriteAttempt, WriteOutcome, agent::Deed, doctor::FenceTest,
        effect::Run, policy::MethodPolicy,
    },
    redirect::Redirect,
    sys::clock::Stopwatch,
};

/// What one cluster's acts are carried out with.
pub struct Hands {
    broker: Option<Arc<dyn Broker>>,
    members: BTreeMap<MemberName, Target>,
    nodes: Vec<NodeTarget>,
    fences: Vec<Vec<Arc<dyn Fence>>>,
    /// What the policy calls them, which is what an open incident remembers of them.
    labels: Vec<Vec<String>>,
    redirects: Vec<Arc<dyn Redirect>>,
    /// The way to the agents, and the members beside which one stands.
    link: Option<Arc<Link>>,
    with_agent: BTreeSet<MemberName>,
    has_lease: bool,
}

/// The hands of all clusters of one configuration.
pub type AllHands = BTreeMap<ClusterName, Arc<Hands>>;

/// Makes the hands of a configuration. Touches nothing.
///
/// # Errors
/// What in the file cannot work, by cluster.
pub fn build(config: &Config, link: Option<&Arc<Link>>) -> Result<AllHands, String> {
    let mut all = AllHands::new();
    for (name, cluster) in &config.clusters {
        let policy = config.policy.clusters.get(name);
        let hands = Hands::new(cluster, policy, link).map_err(|error| format!("cluster {name}: {error}"))?;
        all.insert(name.clone(), Arc::new(hands));
    }
    Ok(all)
}

impl Hands {
    fn new(config: &ClusterConfig, policy: Option<&ClusterPolicy>, link: Option<&Arc<Link>>) -> Result<Self, String> {
        let broker: Option<Arc<dyn Broker>> = match &config.broker {
            Some(kind) => Some(Arc::from(kind.build()?)),
            None => None,
        };
        let flag = broker.clone().map(|broker| Arc::new(Flag(broker)) as Arc<dyn ReadOnlyFlag>);
        let preserve_within = policy.map_or(Duration::ZERO, |policy| policy.failover.preserve_within);
        let mut fences = Vec::new();
        for level in &config.fence {
            // Without a mesh there is nobody to order; `check` builds without one as well, and gives no orders.
            let agents = || -> Arc<dyn Agents> {
                match link {
                    Some(link) => Arc::new(Preserving {
                        link: Arc::clone(link),
                        within: preserve_within,
                        nodes: config.nodes.iter().map(|node| node.node.clone()).collect(),
                    }),
                    None => Arc::new(Nobody),
                }
            };
            let methods: Result<Vec<Arc<dyn Fence>>, String> =
                level.iter().map(|method| method.build(flag.clone(), Some(agents())).map(Arc::from)).collect();
            fences.push(methods?);
        }
        let redirects: Result<Vec<Arc<dyn Redirect>>, String> =
            config.redirect.iter().map(|method| method.build().map(Arc::from)).collect();
        Ok(Self {
            broker,
            members: config.members.iter().map(|m| (m.member.clone(), m.clone())).collect(),
            nodes: config.nodes.clone(),
            fences,
            labels: policy.map_or_else(Vec::new, |policy| {
                let level = |level: &Vec<MethodPolicy>| level.iter().map(|method| method.label.clone()).collect();
                policy.failover.fence.iter().map(level).collect()
            }),
            redirects: redirects?,
            link: link.cloned(),
            with_agent: policy.map_or_else(BTreeSet::new, |policy| {
                policy.members.iter().filter(|m| m.has_agent).map(|m| m.name.clone()).collect()
            }),
            has_lease: policy.is_some_and(|policy| policy.failover.lease.is_some()),
        })
    }

    /// The broker kind.
    #[must_use]
    pub fn broker(&self) -> Option<Arc<dyn Broker>> {
        self.broker.clone()
    }

    /// Carries out one act. Ends by its deadline, whatever it calls.
    pub async fn carry_out(&self, run: &Run, frozen: Option<&ClusterPolicy>) -> StepResult {
        // What an edge promises about its deadline is checked here once more: the saga waits for the answer.
        let bound = run.deadline + Duration::from_millis(500);
        match timeout(bound, self.act(run, frozen)).await {
            Ok(result) => result,
            Err(_) => match &run.action {
                Action::Fence { .. } | Action::MakeReadOnly => {
                    StepResult::Fenced(FenceReport::unknown("no answer within the deadline"))
                }
                Action::ForbiddenWrite { .. } => StepResult::WriteTried(WriteAttempt {
                    on_new: WriteOutcome::NoAnswer,
                    on_open: None,
                    detail: "no answer within the deadline".into(),
                }),
                _ => failed(run, "no answer within the deadline", true),
            },
        }
    }

    async fn act(&self, run: &Run, frozen: Option<&ClusterPolicy>) -> StepResult {
        let (order, deadline) = (&run.order, run.deadline);
        match &run.action {
            Action::Fence { level, method } => match self.fence(*level, *method, frozen) {
                Ok(fence) => StepResult::Fenced(fence.fence(order, deadline).await),
                Err(why) => StepResult::Fenced(FenceReport::unknown(why)),
            },
            Action::Admit { level, method } => match self.fence(*level, *method, frozen) {
                Ok(fence) => outcome(fence.admit(order, deadline).await),
                Err(why) => failed(run, &why, false),
            },
            Action::Unfence { level, method } => match self.fence(*level, *method, frozen) {
                Ok(fence) => outcome(fence.unfence(order, deadline).await),
                Err(why) => failed(run, &why, false),
            },
            Action::Seal => match &self.link {
                Some(link) => link.seal(order, deadline).await,
                None => failed(run, "the file has no mesh any more: nobody can seal", false),
            },
            Action::AwaitLease => match &self.link {
                Some(link) => link.await_lease(order, deadline).await,
                None => StepResult::Fenced(FenceReport::unknown("the file has no mesh any more")),
            },
            Action::Promote if self.has_lease => self.promote_and_appoint(run).await,
            Action::Redirect { method } => match self.redirects.get(*method) {
                Some(redirect) => redirect.redirect(order, &self.nodes, deadline).await,
                None => failed(run, "the file no longer has this redirect", false),
            },
            _ => self.at_member(run).await,
        }
    }

    /// Runs all redirect methods outside a saga: the same primary is told once more.
    pub async fn redirect_again(&self, order: &Order, methods: &[MethodPolicy]) -> Vec<(String, StepResult)> {
        let one = async |(redirect, method): (&Arc<dyn Redirect>, &MethodPolicy)| {
            let result = redirect.redirect(order, &self.nodes, method.deadline).await;
            (method.label.clone(), result)
        };
        let all = self.redirects.iter().zip(methods).filter(|(_, m)| m.applies_to(&order.target.member));
        futures::future::join_all(all.map(one)).await
    }

    /// An act at a member: by its agent where one is heard, since that takes whatever path is left; else directly.
    async fn at_member(&self, run: &Run) -> StepResult {
        let (order, deadline) = (&run.order, run.deadline);
        if let (Some(link), Some(deed)) = (self.agent_of(&order.target.member), deed_of(&run.action)) {
            let deed = match self.with_exact_end(run, deed).await {
                Ok(deed) => deed,
                Err(error) => return StepResult::Failed(error),
            };
            let end = match (&run.action, &deed) {
                (Action::CatchUp { exact_from: Some(_), .. }, Deed::CatchUp { upto }) => *upto,
                _ => None,
            };
            return match link.order(order, deed, deadline).await {
                Ok(StepResult::Done(done)) if end.is_some() => reached(done, end),
                Ok(result) => result,
                Err(error) if matches!(run.action, Action::MakeReadOnly) => {
                    StepResult::Fenced(FenceReport::unknown(error.to_string()))
                }
                Err(error) => StepResult::Failed(error),
            };
        }
        match &self.broker {
            Some(broker) => self.ask_broker(broker.as_ref(), run).await,
            None => failed(run, "the cluster has no broker kind that could do it", false),
        }
    }

    /// The way to the member's agent, if one stands there and was heard of late.
    fn agent_of(&self, member: &MemberName) -> Option<&Arc<Link>> {
        self.link.as_ref().filter(|link| self.with_agent.contains(member) && link.is_heard(member))
    }

    /// Catching up to the exact end of a drained primary needs that end first.
    async fn with_exact_end(&self, run: &Run, deed: Deed) -> Result<Deed, ActError> {
        let Action::CatchUp { exact_from: Some(from), .. } = &run.action else { return Ok(deed) };
        let end = self.end_of(from, &run.order, run.deadline / 4).await?;
        Ok(Deed::CatchUp { upto: Some(end) })
    }

    /// Where a member's log ends, told by its agent or by itself.
    async fn end_of(&self, member: &MemberName, order: &Order, deadline: Duration) -> Result<u64, ActError> {
        let nothing = |why: String| ActError::nothing_done(format!("ask {member} for its position"), why);
        let target = self.members.get(member).ok_or_else(|| nothing(format!("{member} is not in the file")))?;
        if let Some(link) = self.agent_of(member) {
            let order = Order { target: target.clone(), ..order.clone() };
            return match link.order(&order, Deed::Position, deadline).await? {
                StepResult::Done(Done { position: Some(position), .. }) => Ok(position),
                other => Err(nothing(format!("its agent answered {other:?}"))),
            };
        }
        let Some(broker) = &self.broker else { return Err(nothing("the cluster has no broker kind".into())) };
        match broker.ask(Ask::Position, target, deadline).await {
            Outcome::Fact(Fact::Position { position }) => Ok(position),
            Outcome::Fact(_) => Err(nothing(format!("{member} did not tell its position"))),
            Outcome::Failure(why) => Err(nothing(format!("{member} did not tell its position: {why}"))),
        }
    }

    /// The broker is made primary, and its agent is told to hold the lease of the new epoch, which opens its gate. The
    /// saga comes here only once a majority has sealed the epoch and the old primary is provably out.
    async fn promote_and_appoint(&self, run: &Run) -> StepResult {
        let promoted = self.at_member(run).await;
        let StepResult::Done(mut done) = promoted else { return promoted };
        let Some(link) = &self.link else { return failed(run, "the file has no mesh any more", true) };
        match link.order(&run.order, Deed::Appoint, run.deadline).await {
            Ok(StepResult::Done(appointed)) => {
                done.detail = format!("{}; {}", done.detail, appointed.detail);
                StepResult::Done(done)
            }
            Ok(other) => failed(run, &format!("it is primary, and its agent did not get the lease: {other:?}"), true),
            Err(error) => failed(run, &format!("it is primary, and its agent did not get the lease: {error}"), true),
        }
    }

    async fn ask_broker(&self, broker: &dyn Broker, run: &Run) -> StepResult {
        let (order, deadline) = (&run.order, run.deadline);
        match &run.action {
            Action::ForbiddenWrite { .. } => StepResult::WriteTried(broker.forbidden_write(order, deadline).await),
            Action::MakeReadOnly => StepResult::Fenced(broker.make_read_only(order, deadline).await),
            Action::MakeWritable => outcome(broker.make_writable(order, deadline).await),
            Action::Promote => outcome(broker.promote(order, deadline).await),
            Action::CatchUp { upto, exact_from } => {
                match self.catch_up(broker, order, *upto, exact_from.as_ref(), deadline).await {
                    Ok((done, end)) => reached(done, end),
                    Err(error) => StepResult::Failed(error),
                }
            }
            Action::Repoint { primary } => match self.members.get(primary) {
                Some(primary) => outcome(broker.follow(order, primary, None, deadline).await),
                None => failed(run, "the new primary is not in the file", false),
            },
            Action::Rejoin { primary, promoted_at } => match self.members.get(primary) {
                Some(primary) => outcome(broker.follow(order, primary, *promoted_at, deadline).await),
                None => failed(run, "the new primary is not in the file", false),
            },
            Action::Fence { .. }
            | Action::Seal
            | Action::AwaitLease
            | Action::Admit { .. }
            | Action::Unfence { .. }
            | Action::Redirect { .. } => failed(run, "not the broker's to do", false),
        }
    }

    /// Catching up to the exact end of a drained primary needs that end, read after it refused writes.
    async fn catch_up(
        &self,
        broker: &dyn Broker,
        order: &Order,
        upto: Option<u64>,
        exact_from: Option<&MemberName>,
        deadline: Duration,
    ) -> Result<(Done, Option<u64>), ActError> {
        let Some(exact_from) = exact_from else {
            return Ok((broker.catch_up(order, upto, deadline).await?, None));
        };
        let end = self.end_of(exact_from, order, deadline / 4).await?;
        Ok((broker.catch_up(order, Some(end), deadline * 3 / 4).await?, Some(end)))
    }

    /// The method at its place. An incident that began under another file may mean another method by the same
    /// place; then it is not used.
    fn fence(&self, level: usize, method: usize, frozen: Option<&ClusterPolicy>) -> Result<&Arc<dyn Fence>, String> {
        let found = self.fences.get(level).and_then(|l| l.get(method));
        let fence = found.ok_or("the file no longer has this fence; put it back, or confirm the fence by hand")?;
        let meant = frozen.and_then(|p| p.failover.fence.get(level)?.get(method)).map(|m| &m.label);
        let have = self.labels.get(level).and_then(|l| l.get(method));
        match (meant, have) {
            (Some(meant), Some(have)) if meant != have => Err(format!(
                "the file changed: this place held {meant}, now {have}; put it back, or confirm the fence by hand"
            )),
            _ => Ok(fence),
        }
    }

    /// Exercises fence paths without harm: every method at every member that it is for, or the ones asked for. Members
    /// side by side, so that one that does not answer keeps no other waiting.
    pub async fn rehearse(&self, policy: &ClusterPolicy, only: &FenceTest, deadline: Duration) -> Vec<Rehearsed> {
        let members = self.members.iter().filter(|(name, _)| only.member.as_ref().is_none_or(|member| member == *name));
        let all =
            members.map(|(name, target)| self.rehearse_at(policy, name, target, only.method.as_deref(), deadline));
        futures::future::join_all(all).await.into_iter().flatten().collect()
    }

    async fn rehearse_at(
        &self,
        policy: &ClusterPolicy,
        name: &MemberName,
        target: &Target,
        only: Option<&str>,
        deadline: Duration,
    ) -> Vec<Rehearsed> {
        let mut found = Vec::new();
        for (level, methods) in self.fences.iter().enumerate() {
            for (method, fence) in methods.iter().enumerate() {
                let spec = policy.failover.fence.get(level).and_then(|l| l.get(method));
                let Some(spec) = spec.filter(|spec| spec.applies_to(name)) else { continue };
                if only.is_some_and(|only| !is_meant(&spec.label, only)) {
                    continue;
                }
                let watch = Stopwatch::start();
                let health = match timeout(deadline + Duration::from_millis(500), fence.check(target, deadline)).await {
                    Ok(health) => health,
                    Err(_) => FenceHealth { usable: None, detail: "the check did not end".into() },
                };
                found.push(Rehearsed { member: name.clone(), level, method, health, took: watch.elapsed() });
            }
        }
        found
    }
}

fn outcome(result: Result<Done, ActError>) -> StepResult {
    match result {
        Ok(done) => StepResult::Done(done),
        Err(error) => StepResult::Failed(error),
    }
}

/// Whether a standby came as far as it had to.
fn reached(done: Done, end: Option<u64>) -> StepResult {
    match end {
        Some(end) if done.position.is_none_or(|position| position < end) => {
            StepResult::FellShort { reached: done.position, end }
        }
        _ => StepResult::Done(done),
    }
}

fn failed(run: &Run, why: &str, may_have_happened: bool) -> StepResult {
    let attempted = format!("{:?} at {}", run.action, run.order.target.member);
    StepResult::Failed(ActError { attempted, detail: why.into(), may_have_happened })
}

/// The order that stands for an act at a member.
fn deed_of(action: &Action) -> Option<Deed> {
    match action {
        Action::MakeReadOnly => Some(Deed::MakeReadOnly),
        Action::MakeWritable => Some(Deed::MakeWritable),
        Action::CatchUp { upto, .. } => Some(Deed::CatchUp { upto: *upto }),
        Action::Promote => Some(Deed::Promote),
        Action::Repoint { primary } => {
            Some(Deed::Follow { primary: primary.clone(), promoted_at: None, rejoin: false })
        }
        Action::Rejoin { primary, promoted_at } => {
            Some(Deed::Follow { primary: primary.clone(), promoted_at: *promoted_at, rejoin: true })
        }
        // The forbidden write is tried from here: it is the second vantage point.
        _ => None,
    }
}

/// The link, with what one cluster adds: the policy's budget for gathering evidence before a kill, and its nodes.
struct Preserving {
    link: Arc<Link>,
    within: Duration,
    nodes: Vec<NodeName>,
}

#[async_trait]
impl Agents for Preserving {
    async fn order(&self, order: &Order, deed: Deed, deadline: Duration) -> Result<StepResult, ActError> {
        let deed = match deed {
            Deed::Fence { name, .. } => Deed::Fence { name, preserve: self.within },
            other => other,
        };
        self.link.order(order, deed, deadline).await
    }

    async fn rehearse(&self, target: &Target, name: &str, deadline: Duration) -> FenceHealth {
        self.link.rehearse(target, name, deadline).await
    }

    async fn at_all_nodes(
        &self,
        order: &Order,
        deed: Deed,
        deadline: Duration,
    ) -> Vec<(NodeName, Result<StepResult, ActError>)> {
        self.link.order_nodes(order, &self.nodes, deed, deadline).await
    }

    async fn nodes_health(&self, _: &Target, _: Duration) -> FenceHealth {
        let unheard = self.link.unheard(&self.nodes);
        let names = unheard.iter().map(NodeName::as_str).collect::<Vec<_>>().join(", ");
        match unheard.is_empty() {
            true => FenceHealth { usable: Some(true), detail: format!("all {} nodes are heard", self.nodes.len()) },
            false => FenceHealth { usable: Some(false), detail: format!("not heard, and all are needed: {names}") },
        }
    }
}

/// No way to any agent.
struct Nobody;

#[async_trait]
impl Agents for Nobody {
    async fn order(&self, order: &Order, _: Deed, _: Duration) -> Result<StepResult, ActError> {
        let attempted = format!("order the agent of {}", order.target.member);
        Err(ActError::nothing_done(attempted, "this process has no part in the mesh"))
    }

    async fn rehearse(&self, _: &Target, _: &str, _: Duration) -> FenceHealth {
        FenceHealth { usable: None, detail: "this process has no part in the mesh".into() }
    }

    async fn at_all_nodes(&self, _: &Order, _: Deed, _: Duration) -> Vec<(NodeName, Result<StepResult, ActError>)> {
        Vec::new()
    }

    async fn nodes_health(&self, _: &Target, _: Duration) -> FenceHealth {
        FenceHealth { usable: None, detail: "this process has no part in the mesh".into() }
    }
}

/// The broker kind's read-only flag, as the `read_only` fence wants it.
struct Flag(Arc<dyn Broker>);

#[async_trait]
impl ReadOnlyFlag for Flag {
    async fn set(&self, order: &Order, deadline: Duration) -> FenceReport {
        self.0.make_read_only(order, deadline).await
    }

    async fn clear(&self, order: &Order, deadline: Duration) -> Result<Done, ActError> {
        self.0.make_writable(order, deadline).await
    }

    async fn check(&self, target: &Target, deadline: Duration) -> FenceHealth {
        match self.0.ask(Ask::Ping, target, deadline).await {
            Outcome::Fact(_) => FenceHealth { usable: Some(true), detail: "the member answers".into() },
            Outcome::Failure(why) => FenceHealth { usable: None, detail: format!("the member does not answer: {why}") },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{WithoutSecrets, load_with};

    /// What the guard `no_fence` counts on is what the methods can give.
    #[test]
    fn the_policy_and_the_methods_promise_the_same_proof() {
        crate::sys::http::install_crypto();
        for file in ["config/coroner.yaml", "config/examples/redis.yaml"] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
            let config = load_with(&path, &WithoutSecrets).unwrap_or_else(|e| panic!("{e}"));
            for (name, parts) in &config.clusters {
                let broker: Option<Arc<dyn Broker>> = parts.broker.as_ref().and_then(|b| b.build().ok()).map(Arc::from);
                let flag = broker.map(|broker| Arc::new(Flag(broker)) as Arc<dyn ReadOnlyFlag>);
                for (level, methods) in parts.fence.iter().enumerate() {
                    for (method, kind) in methods.iter().enumerate() {
                        // What an agent's fence proves stands in the agent's part of the file; see `config`.
                        if kind.as_agent().is_some() {
                            continue;
                        }
                        let spec = &config.policy.clusters[name].failover.fence[level][method];
                        let fence = kind.build(flag.clone(), None).unwrap_or_else(|e| panic!("{}: {e}", spec.label));
                        assert_eq!(spec.best_proof, fence.best_proof(), "{file}: {}", spec.label);
                    }
                }
            }
        }
    }
}

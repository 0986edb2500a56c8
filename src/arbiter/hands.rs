//! The hands of the arbiter: turns an act that the engine asks for into calls of the edges, and their answers into
//! a result. Decides nothing.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::time::timeout;

use crate::{
    broker::{Ask, Broker},
    config::{ClusterConfig, Config},
    fence::{Fence, ReadOnlyFlag},
    model::{
        ActError, Action, ClusterName, ClusterPolicy, Done, Fact, FenceHealth, FenceReport, MemberName, NodeTarget,
        Order, Outcome, StepResult, Target, WriteAttempt, WriteOutcome, effect::Run, policy::MethodPolicy,
    },
    redirect::Redirect,
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
}

/// The hands of all clusters of one configuration.
pub type AllHands = BTreeMap<ClusterName, Arc<Hands>>;

/// Makes the hands of a configuration. Touches nothing.
///
/// # Errors
/// What in the file cannot work, by cluster.
pub fn build(config: &Config) -> Result<AllHands, String> {
    let mut all = AllHands::new();
    for (name, cluster) in &config.clusters {
        let policy = config.policy.clusters.get(name);
        let hands = Hands::new(cluster, policy).map_err(|error| format!("cluster {name}: {error}"))?;
        all.insert(name.clone(), Arc::new(hands));
    }
    Ok(all)
}

impl Hands {
    fn new(config: &ClusterConfig, policy: Option<&ClusterPolicy>) -> Result<Self, String> {
        let broker: Option<Arc<dyn Broker>> = match &config.broker {
            Some(kind) => Some(Arc::from(kind.build()?)),
            None => None,
        };
        let flag = broker.clone().map(|broker| Arc::new(Flag(broker)) as Arc<dyn ReadOnlyFlag>);
        let mut fences = Vec::new();
        for level in &config.fence {
            let methods: Result<Vec<Arc<dyn Fence>>, String> =
                level.iter().map(|method| method.build(flag.clone(), None).map(Arc::from)).collect();
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
            Action::Seal | Action::AwaitLease => failed(run, "there is no mesh", false),
            Action::Redirect { method } => match self.redirects.get(*method) {
                Some(redirect) => redirect.redirect(order, &self.nodes, deadline).await,
                None => failed(run, "the file no longer has this redirect", false),
            },
            _ => match &self.broker {
                Some(broker) => self.ask_broker(broker.as_ref(), run).await,
                None => failed(run, "the cluster has no broker kind that could do it", false),
            },
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
                outcome(self.catch_up(broker, order, *upto, exact_from.as_ref(), deadline).await)
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
    ) -> Result<Done, ActError> {
        let attempted = format!("let {} catch up", order.target.member);
        let Some(exact_from) = exact_from else { return broker.catch_up(order, upto, deadline).await };
        let nothing = |why: String| ActError::nothing_done(attempted.clone(), why);
        let from = self.members.get(exact_from).ok_or_else(|| nothing(format!("{exact_from} is not in the file")))?;
        let end = match broker.ask(Ask::Position, from, deadline / 4).await {
            Outcome::Fact(Fact::Position { position }) => position,
            Outcome::Fact(_) => return Err(nothing(format!("{exact_from} did not tell its position"))),
            Outcome::Failure(why) => return Err(nothing(format!("{exact_from} did not tell its position: {why}"))),
        };
        let done = broker.catch_up(order, Some(end), deadline * 3 / 4).await?;
        match done.position {
            Some(position) if position >= end => Ok(done),
            reached => Err(nothing(format!("it reached {reached:?}, and {exact_from} ends at {end}"))),
        }
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

    /// Exercises every fence path without harm, for every member that could need it.
    pub async fn check_fences(
        &self,
        policy: &ClusterPolicy,
        deadline: Duration,
    ) -> Vec<(MemberName, usize, usize, FenceHealth)> {
        let mut found = Vec::new();
        for (level, methods) in self.fences.iter().enumerate() {
            for (method, fence) in methods.iter().enumerate() {
                for (name, target) in &self.members {
                    let spec = policy.failover.fence.get(level).and_then(|l| l.get(method));
                    if spec.is_some_and(|s| !s.applies_to(name)) {
                        continue;
                    }
                    let health =
                        match timeout(deadline + Duration::from_millis(500), fence.check(target, deadline)).await {
                            Ok(health) => health,
                            Err(_) => FenceHealth { usable: None, detail: "the check did not end".into() },
                        };
                    found.push((name.clone(), level, method, health));
                }
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

fn failed(run: &Run, why: &str, may_have_happened: bool) -> StepResult {
    let attempted = format!("{:?} at {}", run.action, run.order.target.member);
    StepResult::Failed(ActError { attempted, detail: why.into(), may_have_happened })
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
                        let spec = &config.policy.clusters[name].failover.fence[level][method];
                        let fence = kind.build(flag.clone(), None).unwrap_or_else(|e| panic!("{}: {e}", spec.label));
                        assert_eq!(spec.best_proof, fence.best_proof(), "{file}: {}", spec.label);
                    }
                }
            }
        }
    }
}

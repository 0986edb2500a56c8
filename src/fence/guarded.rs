//! What every method gets around it: an end by the deadline whatever it calls, and a memory of the largest epoch.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::timeout;

use super::Fence;
use crate::model::{
    ActError, ClusterName, Done, Epoch, FenceHealth, FenceReport, MemberName, Order, Proof, Target, time::human,
};

/// A method with its bounds. The memory lasts as long as the process; over restarts the saga's log keeps the epoch,
/// and where the method leaves a trace of its own (the firewall's comment), that trace does.
pub(super) struct Guarded {
    inner: Box<dyn Fence>,
    largest: Mutex<HashMap<(ClusterName, MemberName), Epoch>>,
}

impl Guarded {
    pub(super) fn new(inner: Box<dyn Fence>) -> Self {
        Self { inner, largest: Mutex::default() }
    }

    /// Refuses an order that is older than one already carried out on that member.
    fn is_newest(&self, order: &Order) -> Result<(), String> {
        let mut largest: MutexGuard<'_, _> = self.largest.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = largest.entry((order.target.cluster.clone(), order.target.member.clone())).or_default();
        if order.epoch < *seen {
            let (cluster, member) = (&order.target.cluster, &order.target.member);
            return Err(format!(
                "nothing was done: the order is of epoch {}, and epoch {seen} of {cluster} has already acted on {member}",
                order.epoch
            ));
        }
        *seen = order.epoch;
        Ok(())
    }
}

/// What a method is told, so that it can still say itself what it knows when its time is over.
fn inner_deadline(deadline: Duration) -> Duration {
    deadline - (deadline / 10).min(Duration::from_millis(250))
}

#[async_trait]
impl Fence for Guarded {
    fn label(&self) -> String {
        self.inner.label()
    }

    fn best_proof(&self) -> Proof {
        self.inner.best_proof()
    }

    async fn check(&self, target: &Target, deadline: Duration) -> FenceHealth {
        timeout(deadline, self.inner.check(target, inner_deadline(deadline))).await.unwrap_or_else(|_| FenceHealth {
            usable: None,
            detail: format!("the check did not end within {}", human(deadline)),
        })
    }

    async fn fence(&self, order: &Order, deadline: Duration) -> FenceReport {
        if let Err(why) = self.is_newest(order) {
            return FenceReport::refuted(why);
        }
        timeout(deadline, self.inner.fence(order, inner_deadline(deadline))).await.unwrap_or_else(|_| {
            FenceReport::unknown(format!("{} did not end within {}", self.label(), human(deadline)))
        })
    }

    async fn admit(&self, order: &Order, deadline: Duration) -> Result<Done, ActError> {
        let attempted = || format!("let the arbiter through {} at {}", self.label(), order.target.member);
        self.is_newest(order).map_err(|why| ActError::nothing_done(attempted(), why))?;
        timeout(deadline, self.inner.admit(order, inner_deadline(deadline)))
            .await
            .unwrap_or_else(|_| Err(ActError::uncertain(attempted(), format!("no end within {}", human(deadline)))))
    }

    async fn unfence(&self, order: &Order, deadline: Duration) -> Result<Done, ActError> {
        let attempted = || format!("lift {} on {}", self.label(), order.target.member);
        self.is_newest(order).map_err(|why| ActError::nothing_done(attempted(), why))?;
        timeout(deadline, self.inner.unfence(order, inner_deadline(deadline)))
            .await
            .unwrap_or_else(|_| Err(ActError::uncertain(attempted(), format!("no end within {}", human(deadline)))))
    }

    fn follows_role(&self) -> bool {
        self.inner.follows_role()
    }

    async fn become_primary(&self, order: &Order, deadline: Duration) -> Result<Done, ActError> {
        let attempted = || format!("let {} on {} say that it is primary", self.label(), order.target.member);
        self.is_newest(order).map_err(|why| ActError::nothing_done(attempted(), why))?;
        timeout(deadline, self.inner.become_primary(order, inner_deadline(deadline)))
            .await
            .unwrap_or_else(|_| Err(ActError::uncertain(attempted(), format!("no end within {}", human(deadline)))))
    }
}

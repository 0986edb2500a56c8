//! What every method gets around it: an end by the deadline whatever it calls, and a memory of the largest epoch.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::timeout;

use super::Redirect;
use crate::model::{ActError, ClusterName, Epoch, NodeTarget, Order, StepResult, time::human};

/// A method with its bounds. The memory lasts as long as the process; nodes remember the epoch for themselves.
pub(super) struct Guarded {
    inner: Box<dyn Redirect>,
    largest: Mutex<HashMap<ClusterName, Epoch>>,
}

impl Guarded {
    pub(super) fn new(inner: Box<dyn Redirect>) -> Self {
        Self { inner, largest: Mutex::default() }
    }

    fn admit(&self, order: &Order) -> Result<(), String> {
        let mut largest = self.largest.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = largest.entry(order.target.cluster.clone()).or_default();
        if order.epoch < *seen {
            return Err(format!("the order is of epoch {}, and epoch {seen} was already announced", order.epoch));
        }
        *seen = order.epoch;
        Ok(())
    }
}

#[async_trait]
impl Redirect for Guarded {
    fn label(&self) -> String {
        self.inner.label()
    }

    async fn redirect(&self, order: &Order, nodes: &[NodeTarget], deadline: Duration) -> StepResult {
        let attempted = || format!("redirect by {}", self.label());
        if let Err(why) = self.admit(order) {
            return StepResult::Failed(ActError::nothing_done(attempted(), why));
        }
        let inner = deadline - (deadline / 10).min(Duration::from_millis(250));
        timeout(deadline, self.inner.redirect(order, nodes, inner)).await.unwrap_or_else(|_| {
            StepResult::Failed(ActError::uncertain(attempted(), format!("no end within {}", human(deadline))))
        })
    }
}

//! The broker's own read-only flag.
//!
//! When it lies: a flag binds only those who ask the broker; a frozen broker cannot be asked, and one that restarts
//! may forget. So it suffices alone only where the policy says so for the broker kind.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Fence, ReadOnlyFlag};
use crate::model::{ActError, Done, FenceHealth, FenceReport, Order, Proof, Target};

/// Asks the broker kind to refuse writes. A cooperative fence: it works only on a primary that answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReadOnly {}

impl ReadOnly {
    pub(super) fn build(self, flag: Option<Arc<dyn ReadOnlyFlag>>) -> Result<Box<dyn Fence>, String> {
        let flag = flag.ok_or("this broker kind has no read-only flag: use another fence method")?;
        Ok(Box::new(Method(flag)))
    }
}

struct Method(Arc<dyn ReadOnlyFlag>);

#[async_trait]
impl Fence for Method {
    fn label(&self) -> String {
        "read_only".into()
    }

    fn best_proof(&self) -> Proof {
        // The second vantage point, the forbidden write, is the saga's to add.
        Proof::ReadBack
    }

    async fn check(&self, target: &Target, deadline: Duration) -> FenceHealth {
        self.0.check(target, deadline).await
    }

    async fn fence(&self, order: &Order, deadline: Duration) -> FenceReport {
        self.0.set(order, deadline).await
    }

    async fn unfence(&self, order: &Order, deadline: Duration) -> Result<Done, ActError> {
        self.0.clear(order, deadline).await
    }
}

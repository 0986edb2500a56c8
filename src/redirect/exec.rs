//! A program of the operator's.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;

use super::Redirect;
use crate::{
    model::{ActError, Done, NodeTarget, Order, StepResult},
    sys::{
        command::{Ended, Run},
        hook,
    },
};

/// Runs a program without a shell; its environment names the new primary, its address and the epoch
/// (`CORONER_ACTION=redirect`, `CORONER_CLUSTER`, `CORONER_MEMBER`, `CORONER_ADDRESS`, `CORONER_EPOCH`,
/// `CORONER_INCIDENT`). Exit 0: told. It may be run twice for one redirect. What it leaves running in its process
/// group is killed when it ends.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Exec {
    /// Program and arguments. `{member}`, `{address}`, `{host}` and `{port}` of the new primary are put in.
    pub command: Vec<String>,
    /// More environment.
    pub environment: BTreeMap<String, String>,
}

impl Exec {
    pub(super) fn build(&self) -> Result<Box<dyn Redirect>, String> {
        if self.command.first().is_none_or(String::is_empty) {
            return Err("`command` names no program".into());
        }
        Ok(Box::new(self.clone()))
    }
}

#[async_trait]
impl Redirect for Exec {
    fn label(&self) -> String {
        format!("exec {}", self.command[0])
    }

    async fn redirect(&self, order: &Order, _: &[NodeTarget], deadline: Duration) -> StepResult {
        let words = self.command.iter().map(|word| order.target.expand(word));
        let environment = hook::environment("redirect", order, &self.environment);
        let output = Run::new(words, deadline).envs(environment).output().await;
        let said = format!("the program {}", output.describe());
        let attempted = || format!("redirect by {}", self.label());
        match output.ended {
            Ended::Exited(0) => StepResult::Done(Done::new(said)),
            Ended::NotStarted(_) => StepResult::Failed(ActError::nothing_done(attempted(), said)),
            _ => StepResult::Failed(ActError::uncertain(attempted(), said)),
        }
    }
}

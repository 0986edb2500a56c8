//! A program of the operator's.
//!
//! When it lies: an exit code is what the program believes. So exit 0 is a claim; `status`, a second program that
//! looks independently, can make more of it, up to what the operator vouches for.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;

use super::Fence;
use crate::{
    model::{ActError, Done, FenceHealth, FenceReport, Order, Proof, Target},
    sys::{
        clock::Stopwatch,
        command::{Ended, Output, Run, find_program},
        hook,
    },
};

/// Runs a program with arguments, without a shell. Its environment says whom, why and in which epoch:
/// `CORONER_ACTION` (`fence`, `status`, `unfence`, `check`), `CORONER_CLUSTER`, `CORONER_MEMBER`, `CORONER_ADDRESS`,
/// and for an act `CORONER_EPOCH` and `CORONER_INCIDENT`; besides `PATH`, `LANG` and `environment` there is nothing
/// else in it. What the program leaves running in its process group is killed when it ends or when its time is over.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Exec {
    /// Program and arguments that fence. Exit 0: claims to have fenced. `{member}` and the like are put in. It may
    /// be run twice for one fence, and has to be content with that.
    pub command: Vec<String>,
    /// Reads back, independently of `command`: exit 0 fenced, 1 not fenced, anything else unknown. It is asked even
    /// if `command` failed or hung.
    pub status: Vec<String>,
    /// Lifts the fence. Without it, nothing is to be lifted.
    pub unfence: Vec<String>,
    /// Finds out without harm whether `command` could work: exit 0 it could.
    pub check: Vec<String>,
    /// More environment.
    pub environment: BTreeMap<String, String>,
    /// What the operator vouches for when `status` confirms: default `claim`; `power_off` for a program that
    /// cuts power and reads it back, `gate` for one that cuts the port at a switch.
    pub proof: Option<Proof>,
}

/// What an operator may vouch for with `proof`, given that there is something to read back with.
pub(super) fn vouched(proof: Option<Proof>, has_status: bool) -> Result<Proof, String> {
    match proof {
        None | Some(Proof::Claim) => Ok(Proof::Claim),
        Some(_) if !has_status => Err("`proof` needs `status`: without reading back there is only a claim".into()),
        Some(proof @ (Proof::ReadBack | Proof::Gate | Proof::Stopped | Proof::PowerOff)) => Ok(proof),
        Some(_) => Err("`proof` is one of `claim`, `read_back`, `gate`, `stopped`, `power_off`".into()),
    }
}

impl Exec {
    pub(super) fn build(&self) -> Result<Box<dyn Fence>, String> {
        if self.command.first().is_none_or(String::is_empty) {
            return Err("`command` names no program".into());
        }
        let proof = vouched(self.proof, !self.status.is_empty())?;
        Ok(Box::new(Method { config: self.clone(), proof }))
    }
}

struct Method {
    config: Exec,
    proof: Proof,
}

impl Method {
    async fn run(&self, words: &[String], action: &str, order: &Order, deadline: Duration) -> Output {
        let words = words.iter().map(|word| order.target.expand(word));
        Run::new(words, deadline).envs(hook::environment(action, order, &self.config.environment)).output().await
    }
}

#[async_trait]
impl Fence for Method {
    fn label(&self) -> String {
        format!("exec {}", self.config.command[0])
    }

    fn best_proof(&self) -> Proof {
        self.proof
    }

    async fn check(&self, target: &Target, deadline: Duration) -> FenceHealth {
        let health = |usable, detail| FenceHealth { usable, detail };
        let missing = [&self.config.command, &self.config.status, &self.config.unfence, &self.config.check]
            .into_iter()
            .filter_map(|words| words.first())
            .find_map(|program| find_program(&target.expand(program)).err());
        if let Some(missing) = missing {
            return health(Some(false), missing);
        }
        if self.config.check.is_empty() {
            return health(None, "the program is there; without `check` nothing more is known".into());
        }
        let words = self.config.check.iter().map(|word| target.expand(word));
        let environment = hook::target_environment("check", target, &self.config.environment);
        let output = Run::new(words, deadline).envs(environment).output().await;
        let usable = match output.ended {
            Ended::Exited(code) => Some(code == 0),
            Ended::NotStarted(_) => Some(false),
            Ended::Signalled(_) | Ended::TimedOut(_) => None,
        };
        health(usable, format!("`check` {}", output.describe()))
    }

    async fn fence(&self, order: &Order, deadline: Duration) -> FenceReport {
        let watch = Stopwatch::start();
        let has_status = !self.config.status.is_empty();
        // A program that hangs must leave time to find out what it did before it hung.
        let own = if has_status { deadline * 3 / 4 } else { deadline };
        let output = self.run(&self.config.command, "fence", order, own).await;
        let said = format!("the program {}", output.describe());
        if !has_status {
            return match output.ended {
                Ended::Exited(0) => FenceReport::confirmed(Proof::Claim, said),
                Ended::NotStarted(_) => FenceReport::refuted(said),
                _ => FenceReport::unknown(said),
            };
        }
        let status = self.run(&self.config.status, "status", order, deadline.saturating_sub(watch.elapsed())).await;
        let read = format!("{said}; `status` {}", status.describe());
        match status.ended {
            Ended::Exited(0) => FenceReport::confirmed(self.proof, format!("{read}: fenced")),
            Ended::Exited(1) => FenceReport::refuted(format!("{read}: not fenced")),
            _ => FenceReport::unknown(read),
        }
    }

    async fn unfence(&self, order: &Order, deadline: Duration) -> Result<Done, ActError> {
        if self.config.unfence.is_empty() {
            return Ok(Done::new("nothing to lift: no `unfence` is configured"));
        }
        let output = self.run(&self.config.unfence, "unfence", order, deadline).await;
        let said = format!("`unfence` {}", output.describe());
        let attempted = format!("lift {} on {}", self.label(), order.target.member);
        match output.ended {
            Ended::Exited(0) => Ok(Done::new(said)),
            Ended::NotStarted(_) => Err(ActError::nothing_done(attempted, said)),
            _ => Err(ActError::uncertain(attempted, said)),
        }
    }
}

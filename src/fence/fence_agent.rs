//! A ClusterLabs fence agent.
//!
//! When it lies: an agent that says `off` after switching the wrong outlet. The read-back asks the same device about
//! the same plug, so a wrong plug in the options is not noticed here; `check` shows what the agent is able to see.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;

use super::Fence;
use crate::{
    model::{ActError, Done, FenceHealth, FenceReport, Order, Proof, Secret, Target},
    sys::{
        clock::Stopwatch,
        command::{Ended, Output, Run, find_program},
    },
};

/// Speaks the standard input protocol of the fence agents: `action=off`, options one a line, `status` read back.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FenceAgent {
    /// The agent: `fence_ipmilan`, found in PATH, or a path.
    pub name: String,
    /// Its options, as on its standard input. `{member}` and `{host}` are put in.
    pub options: BTreeMap<String, Secret>,
    /// What switches off: `off` (default) or `reboot`. Only `off` proves anything.
    pub action: Option<String>,
    /// Switch the power on again when the fence is lifted. Default false.
    pub power_on_after: bool,
}

/// The agents' answer to `action=status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Power {
    On,
    Off,
    Unknown,
}

impl FenceAgent {
    pub(super) fn build(&self) -> Result<Box<dyn Fence>, String> {
        if self.name.is_empty() {
            return Err("`name` names no fence agent: write for example `fence_ipmilan`".into());
        }
        if self.options.contains_key("action") {
            return Err("`action` is not an option of the agent here: write it beside `options`".into());
        }
        if self.options.iter().any(|(key, value)| key.contains(['\n', '=']) || value.expose().contains('\n')) {
            return Err("an option of a fence agent is one line, `key=value`".into());
        }
        let reboots = match self.action.as_deref() {
            None | Some("off") => false,
            Some("reboot") => true,
            Some(other) => return Err(format!("`action: {other}` is not one of `off`, `reboot`")),
        };
        Ok(Box::new(Method { config: self.clone(), reboots }))
    }
}

struct Method {
    config: FenceAgent,
    reboots: bool,
}

impl Method {
    async fn ask(&self, action: &str, target: &Target, deadline: Duration) -> Output {
        let mut lines = format!("action={action}\n");
        for (key, value) in &self.config.options {
            lines.push_str(&format!("{key}={}\n", target.expand(value.expose())));
        }
        let mut output = Run::new([self.config.name.clone()], deadline).stdin(lines).output().await;
        for stream in [&mut output.stdout, &mut output.stderr] {
            *stream = self.without_secrets(stream);
        }
        output
    }

    /// Agents like to repeat what they were given.
    fn without_secrets(&self, said: &[u8]) -> Vec<u8> {
        let mut text = String::from_utf8_lossy(said).into_owned();
        for (key, value) in &self.config.options {
            let is_secret = ["pass", "secret", "token", "key", "community"].iter().any(|word| key.contains(word));
            if is_secret && !value.expose().is_empty() {
                text = text.replace(value.expose(), "<secret>");
            }
        }
        text.into_bytes()
    }

    async fn power(&self, target: &Target, deadline: Duration) -> (Power, String) {
        let output = self.ask("status", target, deadline).await;
        let power = match output.ended {
            Ended::Exited(0) => Power::On,
            Ended::Exited(2) => Power::Off,
            _ => Power::Unknown,
        };
        (power, format!("`status` {}", output.describe()))
    }
}

#[async_trait]
impl Fence for Method {
    fn label(&self) -> String {
        format!("fence_agent {}", self.config.name)
    }

    fn best_proof(&self) -> Proof {
        if self.reboots { Proof::Claim } else { Proof::PowerOff }
    }

    async fn check(&self, target: &Target, deadline: Duration) -> FenceHealth {
        if let Err(missing) = find_program(&self.config.name) {
            return FenceHealth { usable: Some(false), detail: missing };
        }
        let (power, said) = self.power(target, deadline).await;
        let (usable, what) = match power {
            Power::On => (Some(true), "power is on"),
            Power::Off => (Some(true), "power is off"),
            Power::Unknown => (Some(false), "the agent cannot read the power"),
        };
        FenceHealth { usable, detail: format!("{what}; {said}") }
    }

    async fn fence(&self, order: &Order, deadline: Duration) -> FenceReport {
        let watch = Stopwatch::start();
        let action = if self.reboots { "reboot" } else { "off" };
        // An agent that hangs must leave time to read what became of it.
        let own = if self.reboots { deadline } else { deadline * 3 / 4 };
        let output = self.ask(action, &order.target, own).await;
        let said = format!("`{action}` {}", output.describe());
        if self.reboots {
            return match output.ended {
                Ended::Exited(0) => {
                    FenceReport::confirmed(Proof::Claim, format!("{said}; a reboot cannot be read back"))
                }
                Ended::NotStarted(_) => FenceReport::refuted(said),
                _ => FenceReport::unknown(said),
            };
        }
        let (power, read) = self.power(&order.target, deadline.saturating_sub(watch.elapsed())).await;
        match power {
            Power::Off => FenceReport::confirmed(Proof::PowerOff, format!("{said}; {read}: power is off")),
            Power::On => FenceReport::refuted(format!("{said}; {read}: power is on")),
            Power::Unknown if matches!(output.ended, Ended::NotStarted(_)) => FenceReport::refuted(said),
            Power::Unknown => FenceReport::unknown(format!("{said}; {read}: the power cannot be read")),
        }
    }

    async fn unfence(&self, order: &Order, deadline: Duration) -> Result<Done, ActError> {
        if !self.config.power_on_after {
            return Ok(Done::new("nothing to lift: the power stays as it is, because `power_on_after` is not set"));
        }
        let watch = Stopwatch::start();
        let output = self.ask("on", &order.target, deadline * 3 / 4).await;
        let (power, read) = self.power(&order.target, deadline.saturating_sub(watch.elapsed())).await;
        let said = format!("`on` {}; {read}", output.describe());
        match power {
            Power::On => Ok(Done::new(format!("{said}: power is on"))),
            _ => {
                let attempted = format!("switch {} on by {}", order.target.member, self.config.name);
                Err(ActError::uncertain(attempted, said))
            }
        }
    }
}

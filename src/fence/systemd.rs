//! Stop and mask a local systemd unit.
//!
//! When it lies: a unit whose file lies in /etc is not masked by a runtime mask, and a unit that left its control
//! group runs on. So whether starting is inhibited is read back, and so is that no process of the unit is left.

use std::time::Duration;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::time::{sleep, timeout};

use super::Fence;
use crate::{
    model::{ActError, Done, FenceHealth, FenceReport, Order, Proof, Target},
    sys::{clock::Stopwatch, systemd::Unit},
};

/// Masks the unit for this boot, stops it, and requires its control group to be empty. Lifting the fence unmasks it
/// and does not start it: whether and how the member comes back is the rejoin's and the operator's to say.
///
/// Where a runtime mask has no effect, because the unit's file lies in /etc, a drop-in below /run keeps the unit from
/// starting instead.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Systemd {
    /// The unit, with its ending: `redis@{port}.service`.
    pub unit: String,
}

impl Systemd {
    pub(super) fn build(&self) -> Result<Box<dyn Fence>, String> {
        let unit = &self.unit;
        let (name, ending) = unit.rsplit_once('.').unwrap_or((unit, ""));
        if name.is_empty() || !["service", "scope", "slice", "socket", "target"].contains(&ending) {
            return Err(format!("`unit: {unit}` needs its ending: write for example `redis-server.service`"));
        }
        if unit.contains(['/', '\n']) {
            return Err(format!("`unit: {unit}` is no name of a unit"));
        }
        Ok(Box::new(Method { unit: unit.clone() }))
    }
}

struct Method {
    unit: String,
}

/// How often we look whether the unit has stopped.
const POLL: Duration = Duration::from_millis(20);

impl Method {
    fn name(&self, target: &Target) -> String {
        target.expand(&self.unit)
    }

    async fn stop(&self, order: &Order, deadline: Duration) -> Result<FenceReport, String> {
        let watch = Stopwatch::start();
        let name = self.name(&order.target);
        let unit = Unit::open(name.clone()).await?;
        let load = unit.text("LoadState").await?;
        if !matches!(load.as_str(), "loaded" | "masked") {
            return Err(format!("the unit {name} is `{load}`: is this its name, and this its host?"));
        }
        // Restart inhibited first: what is killed before may be up again before it is masked.
        let inhibited = unit.inhibit().await;
        let mut said = match &inhibited {
            Ok(how) => format!("{name}: {how}"),
            Err(e) => format!("{name}: starting cannot be inhibited: {e}"),
        };
        // Stopping is asked for even if it is inactive: an automatic restart may be scheduled.
        let mut stop = unit.stop().await;
        let mut killed = false;
        loop {
            let state = unit.state().await?;
            if state.has_stopped() && stop.is_ok() {
                said = format!("{said}; {}", state.describe());
                if killed {
                    said.push_str(", after KILL");
                }
                let proof = if inhibited.is_ok() { Proof::Stopped } else { Proof::Claim };
                return Ok(FenceReport::confirmed(proof, said));
            }
            if !killed && (watch.elapsed() >= deadline / 2 || stop.is_err()) {
                killed = true;
                let kill = unit.kill().await;
                stop = if stop.is_err() { unit.stop().await } else { stop };
                if let (Err(e), Err(kill)) = (&stop, &kill) {
                    return Err(format!("{said}; {}; {e}; {kill}", state.describe()));
                }
            }
            if watch.elapsed() + POLL >= deadline {
                let why = stop.err().map_or_else(String::new, |e| format!("; {e}"));
                let hint = if killed { "; even KILL did not end it by the deadline" } else { "" };
                return Err(format!("{said}; {}{hint}{why}", state.describe()));
            }
            sleep(POLL).await;
        }
    }
}

#[async_trait]
impl Fence for Method {
    fn label(&self) -> String {
        format!("systemd {}", self.unit)
    }

    fn best_proof(&self) -> Proof {
        Proof::Stopped
    }

    async fn check(&self, target: &Target, deadline: Duration) -> FenceHealth {
        let health = |usable, detail| FenceHealth { usable, detail };
        let name = self.name(target);
        let look = async {
            let unit = Unit::open(name.clone()).await?;
            Ok::<_, String>((unit.text("LoadState").await?, unit.state().await?))
        };
        match timeout(deadline, look).await {
            Err(_) => health(None, "the system bus did not answer in time".into()),
            Ok(Err(e)) => health(Some(false), e),
            Ok(Ok((load, state))) if matches!(load.as_str(), "loaded" | "masked") => {
                let detail = format!("{name} is {load}; {}", state.describe());
                if rustix::process::geteuid().is_root() {
                    health(Some(true), detail)
                } else {
                    health(None, format!("{detail}; whether this user may stop it is not known"))
                }
            }
            Ok(Ok((load, _))) => health(Some(false), format!("the unit {name} is `{load}`")),
        }
    }

    async fn fence(&self, order: &Order, deadline: Duration) -> FenceReport {
        match timeout(deadline, self.stop(order, deadline)).await {
            Ok(Ok(report)) => report,
            Ok(Err(e)) => FenceReport::unknown(e),
            Err(_) => FenceReport::unknown("systemd did not answer in time"),
        }
    }

    async fn unfence(&self, order: &Order, deadline: Duration) -> Result<Done, ActError> {
        let name = self.name(&order.target);
        let attempted = format!("unmask {name}");
        let unmask = async {
            let nothing_done = |e| ActError::nothing_done(attempted.clone(), e);
            let unit = Unit::open(name.clone()).await.map_err(nothing_done)?;
            if unit.text("LoadState").await.map_err(nothing_done)? == "not-found" {
                return Err(nothing_done(format!("there is no unit {name} on this host")));
            }
            unit.allow().await.map_err(|e| ActError::uncertain(attempted.clone(), e))
        };
        match timeout(deadline, unmask).await {
            Ok(Ok(())) => Ok(Done::new(format!("{name} may start again; it was not started"))),
            Ok(Err(e)) => Err(e),
            Err(_) => Err(ActError::uncertain(attempted, "systemd did not answer in time")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_named_in_full() {
        for (unit, ok) in [("redis@{port}.service", true), ("redis", false), ("", false), ("a/b.service", false)] {
            assert_eq!(Systemd { unit: unit.into() }.build().is_ok(), ok, "{unit}");
        }
    }
}

//! The read-only fence: `min-replicas-to-write` raised beyond any number of replicas.
//!
//! It refuses every write of every client at once, on connections that were open before as well, scripts and
//! transactions included, while replicas keep following. The former value is kept in the setting itself (it is
//! raised by a million), so that lifting needs no memory of ours.
//!
//! What it does not bind: published messages (they are no writes), keys that expire, a `CONFIG SET` by somebody
//! else, and a restart, unless `CONFIG REWRITE` could write it into the configuration file. So its proof is
//! `ReadBack`, never more. `CLIENT PAUSE` was refused as the means: it delays writes and lets them through later.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use redis::cmd;
use tokio::time::timeout;

use super::{super::act::act, Connection, RedisBroker, text};
use crate::model::{
    ActError, Done, Failure, FailureKind, FenceReport, Order, Proof, WriteAttempt, WriteOutcome, time::human,
};

/// Added to the former value; no pair of instances has that many replicas.
const FENCED: u64 = 1_000_000;
/// Stands for a former `min-replicas-max-lag` of 0, which would switch the whole check off.
const LAG_WAS_OFF: u64 = 1_000_000;

/// The two settings that make up the fence.
#[derive(Clone, Copy, Debug)]
pub(super) struct MinReplicas {
    to_write: u64,
    max_lag: u64,
}

impl MinReplicas {
    pub(super) async fn read(connection: &mut Connection) -> Result<Self, Failure> {
        let reply = connection.call(cmd("CONFIG").arg("GET").arg("min-replicas-*")).await?;
        let redis::Value::Array(items) = &reply else { return Err(super::unexpected("CONFIG GET", &reply)) };
        let value = |name: &str| {
            items
                .chunks_exact(2)
                .find(|pair| text(&pair[0]).as_deref() == Some(name))
                .and_then(|pair| text(&pair[1])?.parse::<u64>().ok())
        };
        value("min-replicas-to-write")
            .zip(value("min-replicas-max-lag"))
            .map(|(to_write, max_lag)| Self { to_write, max_lag })
            .ok_or_else(|| super::unexpected("CONFIG GET min-replicas-*", &reply))
    }

    pub(super) const fn is_fenced(self) -> bool {
        self.to_write >= FENCED
    }

    async fn raise(self, connection: &mut Connection) -> Result<(), Failure> {
        if self.max_lag == 0 {
            set(connection, "min-replicas-max-lag", LAG_WAS_OFF).await?;
        }
        if !self.is_fenced() {
            set(connection, "min-replicas-to-write", self.to_write + FENCED).await?;
        }
        Ok(())
    }

    /// Restores the former values. Does nothing if the fence is not there.
    pub(super) async fn lower(self, connection: &mut Connection) -> Result<(), Failure> {
        if self.is_fenced() {
            set(connection, "min-replicas-to-write", self.to_write - FENCED).await?;
        }
        if self.max_lag == LAG_WAS_OFF {
            set(connection, "min-replicas-max-lag", 0).await?;
        }
        Ok(())
    }
}

async fn set(connection: &mut Connection, name: &str, value: u64) -> Result<(), Failure> {
    connection.call(cmd("CONFIG").arg("SET").arg(name).arg(value)).await.map(drop)
}

impl RedisBroker {
    pub(super) async fn fence(&self, order: &Order, deadline: Duration) -> FenceReport {
        let touched = AtomicBool::new(false);
        match timeout(deadline, self.raise_fence(order, deadline, &touched)).await {
            Ok(Ok(report)) => report,
            Ok(Err(failure)) if touched.load(Ordering::Relaxed) => FenceReport::unknown(failure.to_string()),
            Ok(Err(failure)) => FenceReport::refuted(format!("nothing was done: {failure}")),
            Err(_) if touched.load(Ordering::Relaxed) => FenceReport::unknown(format!(
                "it was told to refuse writes, and did not answer within {}",
                human(deadline)
            )),
            Err(_) => FenceReport::refuted(format!("nothing was done: no answer within {}", human(deadline))),
        }
    }

    async fn raise_fence(
        &self,
        order: &Order,
        deadline: Duration,
        touched: &AtomicBool,
    ) -> Result<FenceReport, Failure> {
        let mut connection = self.door.open(&order.target).await?;
        if let Some(stored) = self.epoch_unless_cut_off(&mut connection).await? {
            if stored > order.epoch {
                return Ok(FenceReport::refuted(format!(
                    "nothing was done: it has stored epoch {stored}, and the order is of epoch {}",
                    order.epoch
                )));
            }
            let holder = self.holder(&mut connection).await?;
            if stored == order.epoch && holder.as_deref() == Some(order.target.member.as_str()) {
                return Ok(FenceReport::refuted(format!(
                    "nothing was done: it is the primary of epoch {stored}, in whose name it was to be fenced"
                )));
            }
        }
        let settings = MinReplicas::read(&mut connection).await?;
        touched.store(true, Ordering::Relaxed);
        settings.raise(&mut connection).await?;

        // This connection was open before the setting, so it stands for the service's own; the one held since
        // before the incident and a new one are tried as well.
        let tripwire = self.tripwire(order);
        let (ours, attempt) =
            futures::join!(connection.call(&tripwire), self.try_forbidden_write(order, deadline.mul_f64(0.5)),);
        let (ours, ours_text) = judge(Ok(ours));
        let detail = format!("after min-replicas-to-write was raised: {}; on ours: {ours_text}", attempt.detail);
        if ours == WriteOutcome::Accepted || attempt.is_accepted() {
            return Ok(FenceReport::refuted(format!("it still takes writes {detail}")));
        }
        let refused = WriteOutcome::Refused;
        if ours != refused || attempt.on_new != refused || attempt.on_open.is_some_and(|open| open != refused) {
            return Ok(FenceReport::unknown(format!("not every write was answered {detail}")));
        }
        let kept = self.persist(&mut connection, deadline).await;
        Ok(FenceReport::confirmed(Proof::ReadBack, format!("writes are refused {detail}; {kept}")))
    }

    pub(super) async fn unfence(&self, order: &Order, deadline: Duration) -> Result<Done, ActError> {
        let touched = AtomicBool::new(false);
        let attempted = format!("make {} writable", order.target.member);
        act(&attempted, deadline, &touched, async {
            let mut connection = self.door.open(&order.target).await?;
            if let Some(stored) = self.epoch_unless_cut_off(&mut connection).await?
                && stored > order.epoch
            {
                return Err(format!("it has stored epoch {stored}, and the order is of epoch {}", order.epoch).into());
            }
            let settings = MinReplicas::read(&mut connection).await?;
            if !settings.is_fenced() {
                return Ok(Done::new("it was not fenced"));
            }
            touched.store(true, Ordering::Relaxed);
            settings.lower(&mut connection).await?;
            if MinReplicas::read(&mut connection).await?.is_fenced() {
                return Err("the setting was restored, and reads as fenced all the same".to_owned().into());
            }
            let kept = self.persist(&mut connection, deadline).await;
            Ok(Done::new(format!("min-replicas-to-write has its former value again; {kept}")))
        })
        .await
    }

    pub(super) async fn try_forbidden_write(&self, order: &Order, deadline: Duration) -> WriteAttempt {
        let command = self.tripwire(order);
        let on_new = async {
            let write = async { self.door.open(&order.target).await?.call(&command).await };
            judge(timeout(deadline, write).await)
        };
        let on_open = async {
            let held = self.held(&order.target);
            let write = async {
                let mut held = held.lock().await;
                match held.as_mut() {
                    Some(connection) => Some(connection.call(&command).await),
                    None => None,
                }
            };
            match timeout(deadline, write).await {
                Ok(None) => None,
                Ok(Some(result)) => Some(judge(Ok(result))),
                Err(elapsed) => Some(judge(Err(elapsed))),
            }
        };
        let ((on_new, new_text), open) = futures::join!(on_new, on_open);
        let open_text = open.as_ref().map_or("there was none", |(_, text)| text);
        let detail = format!("a write on a new connection: {new_text}; on one open before: {open_text}");
        WriteAttempt { on_new, on_open: open.map(|(outcome, _)| outcome), detail }
    }
}

type Tried = Result<Result<redis::Value, Failure>, tokio::time::error::Elapsed>;

/// What an attempt proves. Only words that stand are a refusal: an instance that loads its data, is full, or turned
/// away our credentials may take the service's writes a moment later.
fn judge(tried: Tried) -> (WriteOutcome, String) {
    match tried {
        Ok(Ok(_)) => (WriteOutcome::Accepted, "accepted".into()),
        Ok(Err(failure)) => {
            let outcome = match failure.kind {
                FailureKind::ReadOnly | FailureKind::Refused | FailureKind::Reset => WriteOutcome::Refused,
                _ => WriteOutcome::NoAnswer,
            };
            (outcome, failure.to_string())
        }
        Err(_) => (WriteOutcome::NoAnswer, "no answer".into()),
    }
}

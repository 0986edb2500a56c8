//! The relay's read-only flag: senders are refused, nodes go on receiving what is in the log.
//!
//! It binds every sender at once, on connections that were open before as well, because the relay looks at it before
//! each commit. What it does not bind: a relay that is frozen, and one that is started again by hand. So its proof is
//! `ReadBack`, never more.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tokio::time::timeout;

use super::{super::act::act, RelayBroker, RelayRole, acts::refuse_stale, probe, refusal};
use crate::{
    model::{ActError, Done, Failure, FailureKind, FenceReport, Order, Proof, WriteAttempt, WriteOutcome, time::human},
    relay::control::{Answer, Reason, Request},
};

impl RelayBroker {
    pub(super) async fn raise_flag(&self, order: &Order, deadline: Duration) -> FenceReport {
        let touched = AtomicBool::new(false);
        let told = match timeout(deadline, self.raise(order, deadline, &touched)).await {
            Ok(Ok(report)) => return report,
            Ok(Err(failure)) => failure.to_string(),
            Err(_) => format!("no answer within {}", human(deadline)),
        };
        if touched.load(Ordering::Relaxed) {
            FenceReport::unknown(format!("it was told to refuse senders: {told}"))
        } else {
            FenceReport::refuted(format!("nothing was done: {told}"))
        }
    }

    async fn raise(&self, order: &Order, deadline: Duration, touched: &AtomicBool) -> Result<FenceReport, Failure> {
        let before = self.status(&order.target).await?;
        if before.role == RelayRole::Primary && before.epoch >= order.epoch.0 {
            return Ok(FenceReport::refuted(format!(
                "nothing was done: it is the primary of epoch {}, and the order is of epoch {}",
                before.epoch, order.epoch
            )));
        }
        // One that retired, or follows, refuses senders by itself, and keeps to the flag besides. A larger epoch than the
        // order's on the storage refuses the order.
        touched.store(true, Ordering::Relaxed);
        let answer = self.once(&order.target, &Request::ReadOnly { on: true, epoch: order.epoch.0 }).await?;
        match &answer {
            Answer::Ok { .. } => {}
            Answer::Refused { .. } => {
                return Ok(FenceReport::refuted(format!("nothing was done: {}", refusal(&answer))));
            }
            Answer::Failed { .. } => return Err(refusal(&answer)),
        }
        let attempt = self.try_forbidden_write(order, deadline.mul_f64(0.5)).await;
        if attempt.is_accepted() {
            return Ok(FenceReport::refuted(format!("it still takes writes: {}", attempt.detail)));
        }
        let refused = WriteOutcome::Refused;
        if attempt.on_new != refused || attempt.on_open.is_some_and(|open| open != refused) {
            return Ok(FenceReport::unknown(format!("not every write was answered: {}", attempt.detail)));
        }
        Ok(FenceReport::confirmed(Proof::ReadBack, format!("it is read-only: {}", attempt.detail)))
    }

    pub(super) async fn lower_flag(&self, order: &Order, deadline: Duration) -> Result<Done, ActError> {
        let touched = AtomicBool::new(false);
        let attempted = format!("make {} writable", order.target.member);
        act(&attempted, deadline, &touched, async {
            let before = self.status(&order.target).await?;
            refuse_stale(order, &before)?;
            if !before.read_only {
                return Ok(Done::new("it was not read-only"));
            }
            touched.store(true, Ordering::Relaxed);
            let answer = self.once(&order.target, &Request::ReadOnly { on: false, epoch: order.epoch.0 }).await?;
            match &answer {
                Answer::Ok { status, .. } if !status.read_only => Ok(Done::new("it is no more read-only")),
                Answer::Ok { .. } => Err("the flag was lowered, and reads as raised all the same".to_owned().into()),
                refused @ Answer::Refused { .. } => {
                    touched.store(false, Ordering::Relaxed);
                    Err(refusal(refused).into())
                }
                failed @ Answer::Failed { .. } => Err(refusal(failed).into()),
            }
        })
        .await
    }

    pub(super) async fn try_forbidden_write(&self, order: &Order, deadline: Duration) -> WriteAttempt {
        let on_new = async { judge(timeout(deadline, self.once(&order.target, &probe())).await) };
        let on_open = async {
            let held = self.held(&order.target);
            let write = async {
                let mut held = held.lock().await;
                match held.as_mut() {
                    Some(line) => Some(line.ask(&probe()).await),
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

type Tried = Result<Result<Answer, Failure>, tokio::time::error::Elapsed>;

/// What an attempt proves. Only words that stand are a refusal: a full storage may take the service's writes a moment
/// later.
fn judge(tried: Tried) -> (WriteOutcome, String) {
    match tried {
        Ok(Ok(Answer::Ok { .. })) => (WriteOutcome::Accepted, "accepted".into()),
        Ok(Ok(Answer::Refused {
            reason: Reason::ReadOnly | Reason::NotPrimary | Reason::OldEpoch, detail, ..
        })) => (WriteOutcome::Refused, format!("refused: {detail}")),
        Ok(Ok(other)) => (WriteOutcome::NoAnswer, refusal(&other).to_string()),
        Ok(Err(failure)) => {
            let outcome = match failure.kind {
                FailureKind::Refused | FailureKind::Reset => WriteOutcome::Refused,
                _ => WriteOutcome::NoAnswer,
            };
            (outcome, failure.to_string())
        }
        Err(_) => (WriteOutcome::NoAnswer, "no answer".into()),
    }
}

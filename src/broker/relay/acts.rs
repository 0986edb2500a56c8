//! Promotion, following, catching up. Each looks, acts if needed, and looks again.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tokio::time::sleep;

use super::{
    super::act::{Why, act},
    RelayBroker, RelayRole, is_linked, probe, refusal,
};
use crate::{
    model::{ActError, Done, Order, Target},
    relay::control::{Answer, Request, Status},
    sys::clock::Stopwatch,
};

/// Between two looks at one relay.
const POLL: Duration = Duration::from_millis(20);

impl RelayBroker {
    pub(super) async fn make_primary(&self, order: &Order, deadline: Duration) -> Result<Done, ActError> {
        let touched = AtomicBool::new(false);
        let attempted = format!("promote {}", order.target.member);
        act(&attempted, deadline, &touched, async {
            let before = self.status(&order.target).await?;
            refuse_stale(order, &before)?;
            let already = before.role == RelayRole::Primary && before.epoch == order.epoch.0;
            if already && before.read_only {
                return Err("it was promoted in this epoch, and made read-only since, by a later order".to_owned().into());
            }
            if before.role == RelayRole::Shadow && before.epoch == order.epoch.0 {
                let whose = before.following.as_deref().unwrap_or("another");
                return Err(format!("{whose} was made primary in epoch {} already", order.epoch).into());
            }
            if before.corrupt > 0 {
                return Err(format!(
                    "{} entries inside its log are corrupt, and what lies behind them would be lost without a word; restore \
                     the log, or begin a new one on a copy of it",
                    before.corrupt
                )
                .into());
            }
            // Raising the epoch on the storage is the first thing it does, and is not taken back.
            touched.store(true, Ordering::Relaxed);
            // Ends before the act's own deadline, so that the reason can be told.
            let within_ms = milliseconds(deadline.mul_f64(0.8));
            let answer = self.once(&order.target, &Request::Promote { epoch: order.epoch.0, within_ms }).await?;
            let Answer::Ok { replayed, status, detail, .. } = answer else {
                touched.store(!matches!(answer, Answer::Refused { .. }), Ordering::Relaxed);
                return Err(refusal(&answer).into());
            };
            let began_at = status.position;
            self.verify_primary(order).await?;
            let how = if already { "it was primary of this epoch already" } else { "it is primary, and took a write" };
            let replayed = replayed.map(|n| format!("; {n} entries were replayed for it")).unwrap_or_default();
            let detail = if detail.is_empty() { String::new() } else { format!("; {detail}") };
            Ok(Done { detail: format!("{how}{replayed}{detail}"), position: Some(began_at), divergent: None })
        })
        .await
    }

    /// Read back on a connection of its own: role, epoch, and a write.
    async fn verify_primary(&self, order: &Order) -> Result<(), Why> {
        let after = self.status(&order.target).await?;
        if after.role != RelayRole::Primary || after.epoch != order.epoch.0 {
            return Err(format!("read back: it is {:?} in epoch {}", after.role, after.epoch).into());
        }
        match self.once(&order.target, &probe()).await? {
            Answer::Ok { .. } => Ok(()),
            other => Err(format!("it says that it is primary, but takes no write: {}", refusal(&other)).into()),
        }
    }

    pub(super) async fn make_shadow(
        &self,
        order: &Order,
        primary: &Target,
        promoted_at: Option<u64>,
        deadline: Duration,
    ) -> Result<Done, ActError> {
        let touched = AtomicBool::new(false);
        let attempted = format!("make {} follow {}", order.target.member, primary.member);
        act(&attempted, deadline, &touched, async {
            if primary.address == order.target.address {
                return Err("a member cannot follow itself".to_owned().into());
            }
            // Nobody is made to follow a relay that is not the primary of this epoch.
            let new = self.status(primary).await.map_err(|f| format!("{} does not answer: {f}", primary.member))?;
            if new.role != RelayRole::Primary {
                return Err(format!("{} is no primary, it is {:?}", primary.member, new.role).into());
            }
            if new.epoch > order.epoch.0 {
                return Err(format!("{} is primary of a larger epoch than {}", primary.member, order.epoch).into());
            }
            let before = self.status(&order.target).await?;
            refuse_stale(order, &before)?;
            if before.role == RelayRole::Primary && before.epoch == order.epoch.0 {
                return Err(format!("it is itself the primary of epoch {}", order.epoch).into());
            }
            let follows_already = before.role == RelayRole::Shadow
                && before.following.as_deref() == Some(primary.address.as_str())
                && before.epoch == new.epoch;
            touched.store(true, Ordering::Relaxed);
            let follow = Request::Follow { primary: primary.address.clone(), epoch: order.epoch.0 };
            let answer = self.once(&order.target, &follow).await?;
            let Answer::Ok { set_apart, detail, .. } = answer else {
                touched.store(!matches!(answer, Answer::Refused { .. }), Ordering::Relaxed);
                return Err(refusal(&answer).into());
            };
            let linked = self.wait_for_link(order, primary, deadline).await?;
            let how = if follows_already { "it followed already" } else { "it follows, and its link is up" };
            let beginning = promoted_at.map(|at| format!(", which began at {at}")).unwrap_or_default();
            let apart = match set_apart {
                Some(0) => "; it had nothing beyond the beginning of the epoch".to_owned(),
                Some(n) => format!(
                    "; {n} entries that it wrote beyond the beginning of the epoch{beginning}, and acknowledged to nobody, \
                     are set apart"
                ),
                None => String::new(),
            };
            let detail = if detail.is_empty() { String::new() } else { format!("; {detail}") };
            Ok(Done { detail: format!("{how}{apart}{detail}"), position: Some(linked.position), divergent: set_apart })
        })
        .await
    }

    async fn wait_for_link(&self, order: &Order, primary: &Target, deadline: Duration) -> Result<Status, Why> {
        let watch = Stopwatch::start();
        let mut last = None;
        // Ends before the act's own deadline, so that the reason can be told.
        while watch.elapsed() < deadline.mul_f64(0.8) {
            let status = self.status(&order.target).await?;
            if is_linked(&status) && status.following.as_deref() == Some(primary.address.as_str()) {
                return Ok(status);
            }
            last = Some(status);
            sleep(POLL).await;
        }
        let seen = last.map_or_else(String::new, |s| {
            format!("; it says: {:?}, {} entries behind, {} corrupt", s.role, s.lag_entries, s.corrupt)
        });
        Err(format!(
            "it was told to follow {}, but no heartbeat of it comes or its log cannot be replayed{seen}. Look whether it \
             reaches that address and mounts the same storage",
            primary.address
        )
        .into())
    }

    pub(super) async fn replay(&self, order: &Order, upto: Option<u64>, deadline: Duration) -> Result<Done, ActError> {
        // It only reads, so nothing can have happened.
        let touched = AtomicBool::new(false);
        let attempted = format!("catch up {}", order.target.member);
        act(&attempted, deadline, &touched, async {
            let watch = Stopwatch::start();
            // Ends before the act's own deadline, so that how far it came can be told.
            let limit = deadline.mul_f64(0.8);
            let before = self.status(&order.target).await?.position;
            loop {
                // The end of the log is looked for anew each time: the old primary may have been stopped only now.
                let within_ms = milliseconds(limit.saturating_sub(watch.elapsed()).max(POLL));
                let answer = self.once(&order.target, &Request::CatchUp { upto: None, within_ms }).await?;
                let status = match answer {
                    Answer::Ok { status, .. } => status,
                    // It ran out of its time; the position tells how far it came.
                    Answer::Failed { .. } => self.status(&order.target).await?,
                    other => return Err(refusal(&other).into()),
                };
                let is_short = status.lag_entries > 0 || upto.is_some_and(|upto| status.position < upto);
                // Whoever is primary has nothing to replay; for a shadow, more can come while there is time.
                if !is_short || status.role == RelayRole::Primary || watch.elapsed() >= limit {
                    let short = match upto {
                        Some(upto) if status.position < upto => format!(", short of {upto}"),
                        _ if is_short => format!(", {} entries short of its end", status.lag_entries),
                        _ => String::new(),
                    };
                    let detail = format!(
                        "it has replayed the log to position {}{short}; {} entries were replayed for it",
                        status.position,
                        status.position.saturating_sub(before)
                    );
                    return Ok(Done { detail, position: Some(status.position), divergent: None });
                }
                sleep(POLL).await;
            }
        })
        .await
    }
}

pub(super) fn refuse_stale(order: &Order, status: &Status) -> Result<(), Why> {
    if status.stored_epoch > order.epoch.0 {
        let text = format!("it has stored epoch {}, and the order is of epoch {}", status.stored_epoch, order.epoch);
        return Err(text.into());
    }
    Ok(())
}

fn milliseconds(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

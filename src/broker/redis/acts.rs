//! Promotion, following, catching up. Each looks, acts if needed, and looks again.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use redis::cmd;
use tokio::time::{sleep, timeout};

use super::{
    super::act::{Why, act},
    Connection, Info, RedisBroker,
    fence::MinReplicas,
    replication,
    tail::Tail,
};
use crate::model::{ActError, Done, Epoch, Failure, FailureKind, Order, Role, Target, time::human};

/// Between two looks at one instance, on one connection.
const POLL: Duration = Duration::from_millis(5);

impl RedisBroker {
    pub(super) async fn make_primary(&self, order: &Order, deadline: Duration) -> Result<Done, ActError> {
        let touched = AtomicBool::new(false);
        let attempted = format!("promote {}", order.target.member);
        act(&attempted, deadline, &touched, async {
            let mut connection = self.door.open(&order.target).await?;
            let before = replication(&mut connection).await?;
            let stored = self.epoch_unless_cut_off(&mut connection).await?;
            self.refuse_stale(order, stored, &mut connection).await?;
            // Without the right to read settings there can be no fence of ours either.
            let settings = MinReplicas::read(&mut connection).await.ok();
            let is_fenced = settings.is_some_and(MinReplicas::is_fenced);
            let already = before.role == Role::Primary && stored == Some(order.epoch);
            if already && is_fenced {
                return Err("it was promoted in this epoch, and fenced since, by a later order".to_owned().into());
            }

            touched.store(true, Ordering::Relaxed);
            if let (true, Some(settings)) = (is_fenced, settings) {
                // Its own fence, from when it was the old primary. While it follows, it is read-only anyway.
                settings.lower(&mut connection).await?;
            }
            if before.role == Role::Standby {
                connection.call(cmd("REPLICAOF").arg("NO").arg("ONE")).await?;
            }
            let after = loop {
                let info = replication(&mut connection).await?;
                if info.role == Role::Primary {
                    break info;
                }
                sleep(POLL).await;
            };
            if let Some(larger) = self.epoch(&mut connection).await?.filter(|stored| *stored > order.epoch) {
                return Err(format!("it is primary now, but has stored the larger epoch {larger}").into());
            }
            self.claim(order, &mut connection).await?;
            let kept = if already { String::new() } else { self.persist(&mut connection, deadline).await };
            let how = match (before.role, already) {
                (_, true) => "it was primary of this epoch already",
                (Role::Primary, false) => "it was primary already, and has stored the epoch now",
                (Role::Standby, false) => "it says that it is primary, and took a write",
            };
            Ok(Done {
                detail: format!("{how}; {kept}").trim_end_matches("; ").to_owned(),
                position: after.promoted_at.or(before.position),
                divergent: None,
            })
        })
        .await
    }

    /// Stores the epoch and who holds it, and reads them back on a connection of its own.
    async fn claim(&self, order: &Order, connection: &mut Connection) -> Result<(), Why> {
        let mut store = cmd("MSET");
        store.arg(self.key("epoch")).arg(order.epoch.0);
        store.arg(self.key("holder")).arg(order.target.member.as_str());
        if let Err(failure) = connection.call(&store).await {
            let remedy = match failure.kind {
                FailureKind::ReadOnly => {
                    ". If it says NOREPLICAS, its own `min-replicas-to-write` asks for more standbys than there are"
                }
                _ => "",
            };
            return Err(format!("it says that it is primary, but takes no write: {failure}{remedy}").into());
        }
        let mut second = self.door.open(&order.target).await?;
        let stored = self.epoch(&mut second).await?;
        let role = replication(&mut second).await?.role;
        if stored == Some(order.epoch) && role == Role::Primary {
            Ok(())
        } else {
            let stored = stored.map_or_else(|| "none".to_owned(), |epoch| epoch.to_string());
            Err(format!("read back on a new connection: role {role}, epoch {stored}").into())
        }
    }

    async fn refuse_stale(&self, order: &Order, stored: Option<Epoch>, connection: &mut Connection) -> Result<(), Why> {
        let Some(stored) = stored else { return Ok(()) };
        if stored > order.epoch {
            return Err(format!("it has stored epoch {stored}, and the order is of epoch {}", order.epoch).into());
        }
        if stored == order.epoch
            && let Some(holder) = self.holder(connection).await?
            && holder != order.target.member.as_str()
        {
            return Err(format!("{holder} was made primary in epoch {stored} already").into());
        }
        Ok(())
    }

    /// The stored epoch; none where a standby without its primary refuses to read (`replica-serve-stale-data no`).
    pub(super) async fn epoch_unless_cut_off(&self, connection: &mut Connection) -> Result<Option<Epoch>, Failure> {
        match self.epoch(connection).await {
            Err(failure) if failure.text.starts_with("MASTERDOWN") => Ok(None),
            other => other,
        }
    }

    pub(super) async fn make_standby(
        &self,
        order: &Order,
        primary: &Target,
        promoted_at: Option<u64>,
        deadline: Duration,
    ) -> Result<Done, ActError> {
        let touched = AtomicBool::new(false);
        let attempted = format!("make {} follow {}", order.target.member, primary.member);
        act(&attempted, deadline, &touched, async {
            let port = primary.port().ok_or_else(|| format!("`{}` has no port", primary.address))?;
            if primary.address == order.target.address {
                return Err("a member cannot follow itself".to_owned().into());
            }
            let ahead = self.look_at_new_primary(order, primary).await?;
            let mut connection = self.door.open(&order.target).await?;
            let before = replication(&mut connection).await?;
            let stored = self.epoch_unless_cut_off(&mut connection).await?;
            if let Some(larger) = stored.filter(|stored| *stored > order.epoch) {
                return Err(format!("it has stored epoch {larger}, and the order is of epoch {}", order.epoch).into());
            }
            if before.role == Role::Primary
                && stored == Some(order.epoch)
                && self.holder(&mut connection).await?.as_deref() == Some(order.target.member.as_str())
            {
                return Err(format!("it is itself the primary of epoch {}", order.epoch).into());
            }
            let follows_already = before.follows.as_deref() == Some(primary.address.as_str());
            let (divergent, tail) = if follows_already {
                (None, String::new())
            } else {
                let counted = divergence(&before, &ahead, promoted_at);
                (counted, self.keep_or_describe(order, &before, counted).await?)
            };
            touched.store(true, Ordering::Relaxed);
            if !follows_already {
                connection.call(cmd("REPLICAOF").arg(primary.host()).arg(port)).await?;
            }
            // As a standby it refuses writes by itself, so its fence may go.
            if let Some(settings) = MinReplicas::read(&mut connection).await.ok().filter(|s| s.is_fenced()) {
                settings.lower(&mut connection).await?;
            }
            if !follows_already {
                // Clients that still hold a connection learn to look for the new primary. Failing is harmless: a
                // standby refuses their writes.
                for kind in ["normal", "pubsub"] {
                    let mut kill = cmd("CLIENT");
                    kill.arg("KILL").arg("TYPE").arg(kind).arg("SKIPME").arg("yes");
                    let _ = connection.call(&kill).await;
                }
            }
            let position = self.wait_for_link(&mut connection, primary, deadline).await?;
            let kept = self.persist(&mut connection, deadline).await;
            let how = if follows_already { "it followed already" } else { "it follows, and its link is up" };
            Ok(Done { detail: format!("{how}; {tail}{kept}"), position, divergent })
        })
        .await
    }

    /// What becomes of the divergent tail, in words. It is kept before anything is thrown away.
    async fn keep_or_describe(&self, order: &Order, info: &Info, divergent: Option<u64>) -> Result<String, Why> {
        let Some(bytes) = divergent else {
            let text = "what it had beyond the new primary cannot be counted or kept, as its history is another one; ";
            return Ok(text.into());
        };
        if bytes == 0 {
            return Ok("it had nothing that the new primary had not got; ".into());
        }
        let fate = match &self.keep_tail_in {
            None => "lost with the full copy, as no `keep_tail_in` is written".into(),
            Some(directory) => match self.keep_tail(order, info, bytes, directory).await? {
                Tail::Kept(path) => format!("kept in {}", path.display()),
                Tail::Lost(why) => format!("lost with the full copy: {why}"),
            },
        };
        Ok(format!("{bytes} bytes of its replication stream never reached the new primary; they are {fate}; "))
    }

    /// Nobody is made to follow an instance that is not the primary of this epoch.
    async fn look_at_new_primary(&self, order: &Order, primary: &Target) -> Result<Info, Why> {
        let look = async {
            let mut connection = self.door.open(primary).await?;
            let info = replication(&mut connection).await?;
            Ok::<_, Failure>((info, self.epoch_unless_cut_off(&mut connection).await?))
        };
        let (info, stored) = look.await.map_err(|failure| format!("{} does not answer: {failure}", primary.member))?;
        if info.role != Role::Primary {
            return Err(format!("{} is no primary, it is a {}", primary.member, info.role).into());
        }
        if stored.is_some_and(|stored| stored > order.epoch) {
            return Err(format!("{} is primary of a larger epoch than {}", primary.member, order.epoch).into());
        }
        Ok(info)
    }

    async fn wait_for_link(
        &self,
        connection: &mut Connection,
        primary: &Target,
        deadline: Duration,
    ) -> Result<Option<u64>, Why> {
        // Ends before the act's own deadline, so that the reason can be told.
        let wait = async {
            loop {
                match replication(connection).await {
                    Ok(info) if info.role == Role::Standby && info.link_up == Some(true) => return Ok(info.position),
                    Ok(_) => {}
                    Err(failure) if failure.kind == FailureKind::Loading => {}
                    Err(failure) => return Err(Why::from(failure)),
                }
                sleep(4 * POLL).await;
            }
        };
        match timeout(deadline.mul_f64(0.8), wait).await {
            Ok(ended) => ended,
            Err(_) => Err(format!(
                "it was told to follow {}, but its replication link did not come up. If the instances have passwords, \
                 it needs `masterauth` (and `masteruser`); with TLS, `tls-replication yes`; its log tells which",
                primary.address
            )
            .into()),
        }
    }

    pub(super) async fn wait_for_position(
        &self,
        order: &Order,
        upto: Option<u64>,
        deadline: Duration,
    ) -> Result<Done, ActError> {
        let mut last: Option<Info> = None;
        let look = async {
            let mut connection = self.door.open(&order.target).await?;
            let mut still = 0;
            loop {
                let info = replication(&mut connection).await?;
                let is_same = last.as_ref().is_some_and(|l| (l.position, l.received) == (info.position, info.received));
                still = if is_same { still + 1 } else { 0 };
                let applied_all = info.received.is_none_or(|received| info.position >= Some(received));
                let is_enough = upto.is_none_or(|upto| info.position >= Some(upto));
                let can_grow = info.link_up == Some(true);
                last = Some(info);
                // Two looks that agree: what was under way has been counted.
                if applied_all && still >= 1 && (is_enough || !can_grow) {
                    return Ok::<_, Failure>(());
                }
                // Without a link nothing more can come in, only be applied what came.
                sleep(if can_grow { POLL } else { POLL / 5 }).await;
            }
        };
        let ended = timeout(deadline, look).await;
        let Some(info) = last else {
            let why = match ended {
                Ok(Err(failure)) => failure.to_string(),
                _ => format!("no answer within {}", human(deadline)),
            };
            // It only looks, so nothing can have happened.
            return Err(ActError::nothing_done(format!("catch up {}", order.target.member), why));
        };
        let position = info.position.map_or_else(|| "an unknown position".into(), |at| format!("position {at}"));
        let link = if info.link_up == Some(true) { "up" } else { "down" };
        let short = match upto {
            Some(upto) if info.position < Some(upto) => format!(", short of {upto}"),
            _ => String::new(),
        };
        let detail = format!("it has applied what it received: {position}{short}; its link is {link}");
        Ok(Done { detail, position: info.position, divergent: None })
    }

    /// Writes roles and the fence into the instance's own file, where it has one. Its failure undoes nothing.
    pub(super) async fn persist(&self, connection: &mut Connection, deadline: Duration) -> String {
        if !self.persist_role {
            return "a restart of the instance undoes this (`persist_role: false`)".into();
        }
        match timeout(deadline.mul_f64(0.1), connection.call(cmd("CONFIG").arg("REWRITE"))).await {
            Ok(Ok(_)) => "its configuration file says so too".into(),
            Ok(Err(failure)) => format!("a restart of the instance undoes this: {}", failure.text),
            Err(_) => "whether a restart undoes this is not known".into(),
        }
    }
}

/// How much the member has that the new primary never got. `None` where their histories cannot be compared: after a
/// restart an instance begins a history of its own.
fn divergence(old: &Info, new: &Info, promoted_at: Option<u64>) -> Option<u64> {
    let same = |theirs: &Option<String>| old.replid.is_some() && old.replid == *theirs;
    let forked_at = if same(&new.replid2) {
        new.promoted_at.or(promoted_at)
    } else if same(&new.replid) {
        promoted_at
    } else {
        None
    };
    Some(old.position?.saturating_sub(forked_at?))
}

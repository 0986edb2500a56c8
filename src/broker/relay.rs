//! The in-house broker of this package: one primary, a shadow that replays its log on shared storage, nodes that receive.
//!
//! What it sees: what the relay answers on its one port, each question on a connection of its own. Positions are entries
//! of the log (sequences). A shadow says how many entries it has not applied and for how long the oldest of them waits.
//! `write` is an entry that no node sees, made durable like a message; a canary goes to all nodes like a message.
//!
//! When it lies: a shadow's link tells that it replays and hears the primary's heartbeats. The heartbeats come over the
//! network and the log over the storage, so one may be well while the other is not; the lag tells the latter.
//!
//! What it fences by itself: a relay asks the epoch on the shared storage after each commit and before it acknowledges,
//! so a promotion alone makes the old primary's acknowledgements impossible, frozen or cut off as it may be. The read-only
//! flag is the other means; it binds only a relay that answers, and a restart forgets nothing but it.
//!
//! What the operator provides: an address that the arbiter and the other member reach. There is no password: keep the port
//! inside the network that the storage is in.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::time::timeout;

use super::{Ask, Broker, Listen};
use crate::{
    model::{
        ActError, Done, Epoch, Fact, Failure, FailureKind, FenceReport, Order, Outcome, Role, Target, WriteAttempt,
        observation::RoleReport,
    },
    relay::control::{Answer, Reason, Request, Role as RelayRole, Status},
    sys::{clock::Stopwatch, net::Connector},
};

mod acts;
mod fence;
mod line;

use line::Line;

/// A relay needs no setting: it has one port and no password.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Relay {}

/// The kind at work for one cluster.
#[derive(Default)]
pub struct RelayBroker {
    connector: Connector,
    /// Connections opened before a fence, by address.
    held: Mutex<HashMap<String, Held>>,
}

type Held = Arc<tokio::sync::Mutex<Option<Line>>>;

impl RelayBroker {
    /// Makes the kind usable. Opens no connection.
    #[must_use]
    pub fn new(_: Relay) -> Self {
        Self::default()
    }

    async fn open(&self, target: &Target) -> Result<Line, Failure> {
        Line::open(&self.connector, target).await
    }

    /// One question on a connection of its own.
    async fn once(&self, target: &Target, request: &Request) -> Result<Answer, Failure> {
        self.open(target).await?.ask(request).await
    }

    async fn status(&self, target: &Target) -> Result<Status, Failure> {
        status_of(self.once(target, &Request::Status).await?)
    }

    async fn look(&self, ask: Ask, target: &Target) -> Result<Fact, Failure> {
        let watch = Stopwatch::start();
        if ask == Ask::Write {
            return match self.once(target, &probe()).await? {
                Answer::Ok { .. } => Ok(Fact::Writable(true)),
                Answer::Refused { reason: Reason::ReadOnly | Reason::NotPrimary | Reason::OldEpoch, .. } => {
                    Ok(Fact::Writable(false))
                }
                other => Err(refusal(&other)),
            };
        }
        let status = self.status(target).await?;
        Ok(match ask {
            Ask::Ping | Ask::Write => Fact::Ok { latency: watch.elapsed() },
            Ask::Role => Fact::Role(report(&status)),
            Ask::Position => Fact::Position { position: status.position },
            Ask::ReplicationLink => link(&status),
        })
    }

    fn held(&self, target: &Target) -> Held {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(held.entry(target.address.clone()).or_default())
    }
}

/// A write that no node sees.
fn probe() -> Request {
    Request::Probe { id: format!("coroner-{}", ulid::Ulid::generate()) }
}

/// The state out of an answer that may say anything.
fn status_of(answer: Answer) -> Result<Status, Failure> {
    match answer {
        Answer::Ok { status, .. } | Answer::Refused { status, .. } => Ok(status),
        failed @ Answer::Failed { .. } => Err(refusal(&failed)),
    }
}

/// What an answer other than yes means.
fn refusal(answer: &Answer) -> Failure {
    match answer {
        Answer::Refused { reason, detail, .. } => {
            let kind = match reason {
                Reason::ReadOnly | Reason::NotPrimary | Reason::OldEpoch => FailureKind::ReadOnly,
                Reason::StorageFull => FailureKind::Full,
                Reason::Storage => FailureKind::WrongAnswer,
                Reason::BadRequest => FailureKind::Parse,
            };
            Failure::new(kind, detail.clone())
        }
        Answer::Failed { detail } => Failure::new(FailureKind::WrongAnswer, detail.clone()),
        Answer::Ok { detail, .. } => Failure::new(FailureKind::WrongAnswer, format!("it answered yes: {detail}")),
    }
}

const fn role(status: &Status) -> Role {
    match status.role {
        RelayRole::Primary => Role::Primary,
        // A retired one serves nobody and follows nobody yet: a standby without a link.
        RelayRole::Shadow | RelayRole::Retired => Role::Standby,
    }
}

fn report(status: &Status) -> RoleReport {
    let is_primary = status.role == RelayRole::Primary;
    RoleReport {
        role: role(status),
        position: Some(status.position),
        link_up: (!is_primary).then_some(is_linked(status)),
        follows: status.following.clone(),
        lineage: None,
        epoch: Some(Epoch(status.stored_epoch)),
        // A corrupt log ends where the corruption begins: whoever replays it must not serve what is left.
        priority: (status.corrupt > 0).then_some(0),
    }
}

/// A log that cannot be read on is no link, whatever the heartbeats say.
fn is_linked(status: &Status) -> bool {
    status.role == RelayRole::Shadow && status.is_linked && status.corrupt == 0
}

fn link(status: &Status) -> Fact {
    match status.role {
        // A primary follows nobody, so its link is not up.
        RelayRole::Primary | RelayRole::Retired => Fact::Link { up: false, last_io: None },
        // The older of the two is told: what waits in the log, and the last word of the primary.
        RelayRole::Shadow => Fact::Link {
            up: is_linked(status),
            last_io: Some(Duration::from_millis(status.silent_ms.max(status.lag_ms))),
        },
    }
}

#[async_trait]
impl Broker for RelayBroker {
    fn kind(&self) -> &'static str {
        "relay"
    }

    async fn ask(&self, ask: Ask, target: &Target, limit: Duration) -> Outcome {
        match timeout(limit, self.look(ask, target)).await {
            Ok(Ok(fact)) => Outcome::Fact(fact),
            Ok(Err(failure)) => Outcome::Failure(failure),
            Err(_) => Outcome::Failure(Failure::no_answer_within(limit)),
        }
    }

    async fn send_canary(&self, target: &Target, id: &str, limit: Duration) -> Result<(), Failure> {
        let send = async {
            match self.once(target, &Request::Canary { id: id.to_owned() }).await? {
                Answer::Ok { .. } => Ok(()),
                other => Err(refusal(&other)),
            }
        };
        timeout(limit, send).await.unwrap_or_else(|_| Err(Failure::no_answer_within(limit)))
    }

    async fn hold_open(&self, target: &Target, limit: Duration) {
        let held = self.held(target);
        let hold = async {
            let mut held = held.lock().await;
            if held.as_ref().is_none_or(Line::is_closed) {
                *held = None;
                *held = self.open(target).await.ok();
            }
        };
        // Nothing to tell on failure: the forbidden write will say that no connection was open.
        let _ = timeout(limit, hold).await;
    }

    async fn forbidden_write(&self, order: &Order, deadline: Duration) -> WriteAttempt {
        self.try_forbidden_write(order, deadline).await
    }

    async fn make_read_only(&self, order: &Order, deadline: Duration) -> FenceReport {
        self.raise_flag(order, deadline).await
    }

    async fn make_writable(&self, order: &Order, deadline: Duration) -> Result<Done, ActError> {
        self.lower_flag(order, deadline).await
    }

    async fn catch_up(&self, order: &Order, upto: Option<u64>, deadline: Duration) -> Result<Done, ActError> {
        self.replay(order, upto, deadline).await
    }

    async fn promote(&self, order: &Order, deadline: Duration) -> Result<Done, ActError> {
        self.make_primary(order, deadline).await
    }

    async fn follow(
        &self,
        order: &Order,
        primary: &Target,
        promoted_at: Option<u64>,
        deadline: Duration,
    ) -> Result<Done, ActError> {
        self.make_shadow(order, primary, promoted_at, deadline).await
    }

    async fn stored_epoch(&self, target: &Target, limit: Duration) -> Option<Epoch> {
        let status = timeout(limit, self.status(target)).await.ok()?.ok()?;
        Some(Epoch(status.stored_epoch))
    }

    async fn listen(&self, target: &Target, to: &Listen, came: &(dyn Fn(u64) + Send + Sync)) -> Failure {
        line::listen(&self.connector, target, to, came).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(role: RelayRole) -> Status {
        Status {
            name: "relay-a".into(),
            role,
            epoch: 3,
            stored_epoch: 4,
            read_only: false,
            position: 100,
            lag_entries: 5,
            lag_ms: 200,
            following: Some("10.0.0.11:7500".into()),
            is_linked: true,
            silent_ms: 40,
            nodes: Vec::new(),
            corrupt: 0,
        }
    }

    #[test]
    fn a_shadow_with_a_corrupt_log_is_not_linked_and_not_promoted() {
        let shadow = status(RelayRole::Shadow);
        assert_eq!(link(&shadow), Fact::Link { up: true, last_io: Some(Duration::from_millis(200)) });
        let corrupt = Status { corrupt: 1, ..shadow };
        assert!(matches!(link(&corrupt), Fact::Link { up: false, .. }));
        assert_eq!(report(&corrupt).priority, Some(0));
    }

    #[test]
    fn a_retired_primary_is_a_standby_without_a_link() {
        let retired = report(&status(RelayRole::Retired));
        assert_eq!((retired.role, retired.link_up, retired.epoch), (Role::Standby, Some(false), Some(Epoch(4))));
        let primary = report(&status(RelayRole::Primary));
        assert_eq!((primary.role, primary.link_up), (Role::Primary, None));
    }

    #[test]
    fn trouble_of_the_question_is_no_evidence_of_death() {
        let refused = |reason| {
            refusal(&Answer::Refused { reason, detail: "words".into(), status: status(RelayRole::Primary) }).kind
        };
        assert_eq!(refused(Reason::StorageFull), FailureKind::Full);
        assert!(!refused(Reason::BadRequest).is_evidence());
        assert!(refused(Reason::Storage).is_evidence());
    }
}

//! What we know of one kind of broker: how to ask it, and how to make it primary, read-only, or a follower.
//!
//! One file per kind, plus one line in [`AnyBroker`]. A kind answers questions with outcomes (facts or failures
//! that keep their kind) and carries out acts that look first, act if needed, and look again.

use std::time::Duration;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::{ActError, Done, Epoch, Failure, FailureKind, FenceReport, Order, Outcome, Target, WriteAttempt};

mod act;
pub mod jolokia;
pub mod redis;
pub mod relay;

/// The broker kinds, as a file writes them: `broker: { redis: { … } }`.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "one for each cluster, and a box would spoil its reading")]
pub enum AnyBroker {
    /// Redis, Valkey and what speaks like them.
    Redis(redis::Redis),
    /// The in-house broker of this package, with its shadow on shared storage.
    Relay(relay::Relay),
    /// Anything controlled by JMX over Jolokia; with a preset for GraphDB EE up to 9.x.
    Jolokia(jolokia::Jolokia),
}

impl AnyBroker {
    /// Makes the kind usable. Opens no connection.
    ///
    /// # Errors
    /// A certificate or key file that cannot be used.
    pub fn build(&self) -> Result<Box<dyn Broker>, String> {
        match self {
            Self::Redis(config) => Ok(Box::new(redis::RedisBroker::new(config)?)),
            Self::Relay(config) => Ok(Box::new(relay::RelayBroker::new(*config))),
            Self::Jolokia(config) => Ok(Box::new(jolokia::JolokiaBroker::new(config)?)),
        }
    }
}

/// What can be asked of any kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// Does it answer? `Fact::Ok`.
    Ping,
    /// What does it say it is? `Fact::Role`.
    Role,
    /// How far does its log reach? `Fact::Position`.
    Position,
    /// Is a standby's link up? `Fact::Link`.
    ReplicationLink,
    /// Is a write taken and read back, on a new connection? `Fact::Writable(true)`; a read-only refusal is
    /// `Fact::Writable(false)`; a full disk and the like are failures.
    Write,
}

/// What is listened to at a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// Messages published on these channels.
    Channels(Vec<String>),
    /// Entries added to these streams, from now on.
    Streams(Vec<String>),
}

/// One kind of broker. Every call opens what it needs, ends by its deadline, and leaves nothing behind.
#[async_trait]
pub trait Broker: Send + Sync {
    /// The kind's name.
    fn kind(&self) -> &'static str;

    /// Asks one question.
    async fn ask(&self, ask: Ask, target: &Target, timeout: Duration) -> Outcome;

    /// Sends a canary message through the service's usual way, to whoever subscribes at the nodes.
    async fn send_canary(&self, target: &Target, id: &str, timeout: Duration) -> Result<(), Failure>;

    /// Keeps one connection to the member open, for the forbidden write after a fence. Idempotent; cheap when it
    /// is open already.
    async fn hold_open(&self, target: &Target, timeout: Duration);

    /// Tries a write at a member that must refuse it: on a new connection, and on the one held open. The write
    /// changes nothing that the service uses.
    async fn forbidden_write(&self, order: &Order, deadline: Duration) -> WriteAttempt;

    /// Makes the member refuse the service's writes, and reads back that it does. At best `Proof::ReadBack`.
    async fn make_read_only(&self, order: &Order, deadline: Duration) -> FenceReport;

    /// Undoes `make_read_only`.
    async fn make_writable(&self, order: &Order, deadline: Duration) -> Result<Done, ActError>;

    /// Waits until the member has applied what it received, and at least `upto` if given; says how far it is.
    /// Reaching the deadline below `upto` is not an error: the position tells.
    async fn catch_up(&self, order: &Order, upto: Option<u64>, deadline: Duration) -> Result<Done, ActError>;

    /// Makes the member primary; verified by its role and by a write that stores the epoch where the kind can.
    /// Refused (nothing done) if the member has stored a larger epoch.
    async fn promote(&self, order: &Order, deadline: Duration) -> Result<Done, ActError>;

    /// Makes the member follow `primary`; verified by its role and by the link coming up. `promoted_at`: the
    /// position at which `primary` was promoted, from which the divergent tail is counted.
    async fn follow(
        &self,
        order: &Order,
        primary: &Target,
        promoted_at: Option<u64>,
        deadline: Duration,
    ) -> Result<Done, ActError>;

    /// The largest epoch stored at the member, if the kind can store one and the member answers.
    async fn stored_epoch(&self, target: &Target, timeout: Duration) -> Option<Epoch>;

    /// Listens like a consumer, and says how many messages came whenever some did. Ends only when it cannot go on: with
    /// why. A way that went silent is found out, and ends it as well.
    async fn listen(&self, target: &Target, to: &Listen, came: &(dyn Fn(u64) + Send + Sync)) -> Failure {
        let _ = (target, to, came);
        Failure::new(FailureKind::Local, format!("a {} cannot be listened to: count arrivals otherwise", self.kind()))
    }
}

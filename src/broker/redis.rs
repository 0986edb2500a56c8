//! Redis, Valkey and what speaks like them.
//!
//! What it sees: what `PING`, `INFO replication` and a small write say, each on a connection of its own, so that a
//! connection limit or an expired password shows. Positions are offsets in the replication stream, in bytes; the
//! probes' own writes and Redis's own pings count in them.
//!
//! When it lies: a standby calls its link up until its `repl-timeout` is over, even when the primary is frozen; look
//! at the age of the last thing that came over it instead. An idle primary sends something only every
//! `repl-ping-replica-period` (10 s by default).
//!
//! What the operator provides: `masterauth` and `masteruser` on every instance, if there are passwords, and
//! `tls-replication` where it applies: Coroner never hands its own credentials to an instance. The user needs the
//! commands `ping info get set mset config replicaof client publish xadd psync` (those that apply) and the keys `<key_prefix>:*`.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use redis::{Cmd, Value, cmd};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::time::timeout;

use super::{Ask, Broker, Listen};
use crate::{
    model::{
        ActError, Done, Epoch, Fact, Failure, FailureKind, FenceReport, Order, Outcome, Secret, Target, WriteAttempt,
    },
    sys::clock::Stopwatch,
};

mod acts;
mod connection;
mod fence;
pub mod info;
mod listen;
pub mod reply;
mod tail;

use connection::{Connection, Door};
use info::Info;

/// How to talk to the instances of one cluster.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Redis {
    /// User name (ACL). Without one, the default user.
    pub user: Option<String>,
    /// Password.
    pub password: Option<Secret>,
    /// TLS to the instances.
    pub tls: Option<Tls>,
    /// Key under which probes and proofs write and under which the epoch is stored. Default `coroner`.
    pub key_prefix: Option<String>,
    /// Pub/sub channel of the canary. Default `coroner:canary`.
    pub canary_channel: Option<String>,
    /// Stream of the canary, instead of the channel.
    pub canary_stream: Option<String>,
    /// Write changes of role, and the read-only fence, into the instance's own configuration file (`CONFIG
    /// REWRITE`), so that a restart keeps them. Default true. An instance without such a file is left as it is.
    pub persist_role: Option<bool>,
    /// Directory, on the arbiter's host, that keeps what an old primary had beyond the new one, before it is made to
    /// follow: one file per rejoin, in the protocol of Redis. Without it, such writes are counted, told, and lost with
    /// the full copy. Needs the right to `psync`.
    pub keep_tail_in: Option<String>,
}

/// TLS towards the instances.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// PEM file of the authorities to trust. Without it, the system's.
    pub ca: Option<String>,
    /// PEM file of our certificate.
    pub cert: Option<String>,
    /// PEM file of our key.
    pub key: Option<String>,
    /// Name to expect in the instance's certificate instead of its address.
    pub server_name: Option<String>,
}

/// The kind at work for one cluster.
pub struct RedisBroker {
    door: Door,
    prefix: String,
    canary: Canary,
    persist_role: bool,
    keep_tail_in: Option<PathBuf>,
    /// Connections opened before a fence, by address.
    held: Mutex<HashMap<String, Held>>,
}

type Held = Arc<tokio::sync::Mutex<Option<Connection>>>;

enum Canary {
    Channel(String),
    Stream(String),
}

/// A key that is written to prove something is forgotten by the instance after this long.
const PROOF_KEY_SECONDS: u64 = 60;

impl RedisBroker {
    /// Makes the kind usable. Opens no connection.
    ///
    /// # Errors
    /// A certificate or key file that cannot be used.
    pub fn new(config: &Redis) -> Result<Self, String> {
        let prefix = config.key_prefix.clone().unwrap_or_else(|| "coroner".into());
        let canary = match (&config.canary_channel, &config.canary_stream) {
            (Some(_), Some(_)) => {
                return Err("redis: `canary_channel` and `canary_stream` exclude each other; write one of them".into());
            }
            (None, Some(stream)) => Canary::Stream(stream.clone()),
            (channel, None) => Canary::Channel(channel.clone().unwrap_or_else(|| "coroner:canary".into())),
        };
        Ok(Self {
            door: Door::new(config)?,
            prefix,
            canary,
            persist_role: config.persist_role.unwrap_or(true),
            keep_tail_in: config.keep_tail_in.as_ref().map(PathBuf::from),
            held: Mutex::default(),
        })
    }

    fn key(&self, name: &str) -> String {
        format!("{}:{name}", self.prefix)
    }

    async fn look(&self, ask: Ask, target: &Target) -> Result<Fact, Failure> {
        let watch = Stopwatch::start();
        let mut connection = self.door.open(target).await?;
        match ask {
            Ask::Ping => {
                let reply = connection.call(&cmd("PING")).await?;
                match reply {
                    Value::SimpleString(text) if text == "PONG" => Ok(Fact::Ok { latency: watch.elapsed() }),
                    other => Err(unexpected("PING", &other)),
                }
            }
            Ask::Role => {
                let (info, epoch) = (cmd("INFO").arg("replication").clone(), cmd("GET").arg(self.key("epoch")).clone());
                let [info, epoch] = connection.call_each([&info, &epoch]).await?;
                let epoch = epoch.ok().and_then(|reply| self.epoch_in(&reply).ok().flatten());
                Ok(Fact::Role(replication_in(&info?)?.report(epoch)))
            }
            Ask::Position => {
                let info = replication(&mut connection).await?;
                let unknown = "it does not know its position: its last full copy did not finish";
                let position = info.position.ok_or_else(|| Failure::new(FailureKind::NotFound, unknown))?;
                Ok(Fact::Position { position })
            }
            Ask::ReplicationLink => {
                // A primary follows nobody, so its link is not up.
                let info = replication(&mut connection).await?;
                Ok(Fact::Link { up: info.link_up.unwrap_or(false), last_io: info.last_io })
            }
            Ask::Write => self.write_and_read_back(&mut connection).await.map(Fact::Writable),
        }
    }

    async fn write_and_read_back(&self, connection: &mut Connection) -> Result<bool, Failure> {
        let (key, nonce) = (self.key("probe"), format!("coroner {}", ulid::Ulid::generate()));
        match connection.call(cmd("SET").arg(&key).arg(&nonce).arg("EX").arg(PROOF_KEY_SECONDS)).await {
            Ok(_) => {}
            Err(failure) if failure.kind == FailureKind::ReadOnly => return Ok(false),
            Err(failure) => return Err(failure),
        }
        let read = text(&connection.call(cmd("GET").arg(&key)).await?);
        // Another arbiter's probe may have written in between; that proves as much.
        if read.as_ref().is_some_and(|value| value.starts_with("coroner ")) {
            Ok(true)
        } else {
            Err(Failure::new(FailureKind::WrongAnswer, "a write was acknowledged, but could not be read back"))
        }
    }

    /// The largest epoch stored at the instance.
    async fn epoch(&self, connection: &mut Connection) -> Result<Option<Epoch>, Failure> {
        self.epoch_in(&connection.call(cmd("GET").arg(self.key("epoch"))).await?)
    }

    fn epoch_in(&self, reply: &Value) -> Result<Option<Epoch>, Failure> {
        let Some(text) = text(reply) else { return Ok(None) };
        let number = text.trim().parse().map(Epoch);
        number.map(Some).map_err(|_| {
            let key = self.key("epoch");
            Failure::new(FailureKind::Parse, format!("the key {key} holds no number; someone else writes to it"))
        })
    }

    /// The member that was made primary in that epoch.
    async fn holder(&self, connection: &mut Connection) -> Result<Option<String>, Failure> {
        Ok(text(&connection.call(cmd("GET").arg(self.key("holder"))).await?))
    }

    fn held(&self, target: &Target) -> Held {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(held.entry(target.address.clone()).or_default())
    }

    fn tripwire(&self, order: &Order) -> Cmd {
        let mut set = cmd("SET");
        set.arg(self.key("tripwire")).arg(order.epoch.0).arg("EX").arg(PROOF_KEY_SECONDS);
        set
    }
}

#[async_trait]
impl Broker for RedisBroker {
    fn kind(&self) -> &'static str {
        "redis"
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
            let mut connection = self.door.open(target).await?;
            let mut command = match &self.canary {
                Canary::Channel(channel) => {
                    let mut publish = cmd("PUBLISH");
                    publish.arg(channel);
                    publish
                }
                Canary::Stream(stream) => {
                    let mut add = cmd("XADD");
                    add.arg(stream).arg("MAXLEN").arg("~").arg(100).arg("*").arg("id");
                    add
                }
            };
            connection.call(command.arg(id)).await.map(drop)
        };
        timeout(limit, send).await.unwrap_or_else(|_| Err(Failure::no_answer_within(limit)))
    }

    async fn hold_open(&self, target: &Target, limit: Duration) {
        let held = self.held(target);
        let hold = async {
            let mut held = held.lock().await;
            if held.as_ref().is_none_or(Connection::is_closed) {
                *held = None;
                *held = self.door.open(target).await.ok();
            }
        };
        // Nothing to tell on failure: the forbidden write will say that no connection was open.
        let _ = timeout(limit, hold).await;
    }

    async fn forbidden_write(&self, order: &Order, deadline: Duration) -> WriteAttempt {
        self.try_forbidden_write(order, deadline).await
    }

    async fn make_read_only(&self, order: &Order, deadline: Duration) -> FenceReport {
        self.fence(order, deadline).await
    }

    async fn make_writable(&self, order: &Order, deadline: Duration) -> Result<Done, ActError> {
        self.unfence(order, deadline).await
    }

    async fn catch_up(&self, order: &Order, upto: Option<u64>, deadline: Duration) -> Result<Done, ActError> {
        self.wait_for_position(order, upto, deadline).await
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
        self.make_standby(order, primary, promoted_at, deadline).await
    }

    async fn listen(&self, target: &Target, to: &Listen, came: &(dyn Fn(u64) + Send + Sync)) -> Failure {
        match to {
            Listen::Channels(channels) => self.listen_to_channels(target, channels, came).await,
            Listen::Streams(streams) => self.listen_to_streams(target, streams, came).await,
        }
    }

    async fn stored_epoch(&self, target: &Target, limit: Duration) -> Option<Epoch> {
        let read = async { self.epoch(&mut self.door.open(target).await.ok()?).await.ok().flatten() };
        timeout(limit, read).await.ok().flatten()
    }
}

async fn replication(connection: &mut Connection) -> Result<Info, Failure> {
    replication_in(&connection.call(cmd("INFO").arg("replication")).await?)
}

fn replication_in(reply: &Value) -> Result<Info, Failure> {
    let info = text(reply).and_then(|text| Info::parse(&text));
    info.ok_or_else(|| Failure::new(FailureKind::Parse, "INFO replication tells no role that is known"))
}

fn unexpected(command: &str, reply: &Value) -> Failure {
    let mut seen = format!("{reply:?}");
    seen.truncate(seen.floor_char_boundary(120));
    Failure::new(FailureKind::WrongAnswer, format!("{command} was answered with {seen}"))
}

/// A reply as text; `None` for nil, numbers and what is not UTF-8.
fn text(reply: &Value) -> Option<String> {
    match reply {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).ok(),
        Value::SimpleString(text) => Some(text.clone()),
        _ => None,
    }
}

//! What is controlled by JMX, over Jolokia: JSON over HTTP to any MBean. The operator writes which attribute says what,
//! and which operations make a member primary or read-only; a preset writes it for clusters that are known.
//!
//! What it sees: attributes, each look on a connection of its own. Errors that an agent tells inside its HTTP 200 keep
//! their kind; a right that is missing, an MBean that is not there (yet) and a timeout that the MBean had elsewhere say
//! nothing of the member's health, and never count towards a death.
//!
//! When it lies: an attribute is what the program says of itself. A master that calls itself read-only may still have
//! work in hand, and a JVM that answers may be of no use. So a flag that was set and read back is a claim; only a write
//! of the service that was refused (`try_write`) makes it proof 2.
//!
//! What it cannot do: no MBean is known that keeps an epoch, so that the kind itself refuses no stale order. The arbiter
//! and the agents do, each by its own memory; order such members through their agents.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::{Ask, Broker};
use crate::{
    model::{
        ActError, Done, Epoch, Fact, Failure, FailureKind, FenceReport, Order, Outcome, Proof, Role, Secret, Target,
        WriteAttempt, WriteOutcome, observation::RoleReport, time::human,
    },
    sys::clock::Stopwatch,
};

mod acts;
mod client;
mod preset;
pub mod protocol;
mod words;

use client::Door;
pub use preset::Preset;
use protocol::{Request, is_read_only};
pub use words::{At, Check, Exec, Read, Step, TryWrite, Write};
use words::{Facts, Other, Words};

/// How to talk to the members of one cluster, and what their attributes mean.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Jolokia {
    /// Fills in all questions and steps that are not written here: `graphdb`, for GraphDB EE up to 9.x.
    pub preset: Option<Preset>,
    /// The Jolokia agent's URL. `{address}`, `{host}`, `{port}`, `{member}` are put in. Default `http://{address}/jolokia`.
    pub url: Option<String>,
    /// User name, for basic authentication.
    pub user: Option<String>,
    /// Password.
    pub password: Option<Secret>,
    /// A bearer token, instead of a user.
    pub token: Option<Secret>,
    /// Trust only the authorities in this PEM file. Default: those of the system.
    pub ca: Option<String>,
    /// Longest answer that is read, in bytes. Default 1 MiB.
    pub max_answer: Option<u64>,
    /// Ask by GET, for agents behind something that lets no POST through. Orders are posted all the same. Default false.
    pub reads_by_get: Option<bool>,
    /// The name of the repository, put into texts as `{repository}`.
    pub repository: Option<String>,
    /// Further words of each member by its name, put into texts: `{node}` of the member an act is about, `{other.node}`
    /// of the other.
    pub members: BTreeMap<String, BTreeMap<String, String>>,
    /// The MBean of every question and step that names none.
    pub mbean: Option<String>,
    /// What `ping` asks. Default: whether a Jolokia agent answers.
    pub alive: Option<Check>,
    /// True of a primary, and false of a standby.
    pub primary: Option<Check>,
    /// True of a member that takes writes, as far as its attributes tell.
    pub writable: Option<Check>,
    /// How far its log reaches: a number that grows with each transaction, the same at all members for the same one.
    pub position: Option<Read>,
    /// True while a standby's link to the other is up.
    pub link: Option<Check>,
    /// A write of the service's own that changes nothing, for the `write` question and the forbidden write.
    pub try_write: Option<TryWrite>,
    /// Read and told beside what was done: the state of the workers.
    pub describe: Vec<Read>,
    /// What makes a member refuse writes.
    pub make_read_only: Vec<Step>,
    /// What lets it take writes again.
    pub make_writable: Vec<Step>,
    /// What makes a standby primary while the other may be dead.
    pub promote: Vec<Step>,
    /// What makes a member a standby of the new primary, and ends with a look that it is one.
    pub follow: Vec<Step>,
}

/// The kind at work for one cluster.
pub struct JolokiaBroker {
    config: Jolokia,
    door: Door,
    shared: Facts,
}

impl JolokiaBroker {
    /// Makes the kind usable. Opens no connection.
    ///
    /// # Errors
    /// A step that nobody could verify, a preset that lacks what it needs, credentials that exclude each other, an
    /// authority's file that cannot be used.
    pub fn new(config: &Jolokia) -> Result<Self, String> {
        let mut config = config.clone();
        if let Some(preset) = config.preset {
            preset.fill(&mut config).map_err(|why| format!("jolokia: {why}"))?;
        }
        if config.primary.is_none() {
            return Err(
                "jolokia: `primary` is missing: how is a primary told from a standby? Write it, or a `preset`".into()
            );
        }
        let checks = [&config.alive, &config.primary, &config.writable, &config.link];
        let sound = checks.into_iter().flatten().try_for_each(Check::check);
        let steps = [&config.make_read_only, &config.make_writable, &config.promote, &config.follow];
        let sound = sound.and_then(|()| steps.into_iter().flatten().try_for_each(Step::check));
        sound.map_err(|why| format!("jolokia: {why}"))?;
        let alone = [&config.make_read_only, &config.make_writable, &config.promote];
        if alone.into_iter().flatten().any(|step| step.at == At::Other) {
            return Err("jolokia: only `follow` may have steps `at: other`; elsewhere the other may be dead".into());
        }
        let shared = config.repository.iter().map(|name| ("repository".to_owned(), name.clone())).collect();
        Ok(Self { door: Door::new(&config)?, config, shared })
    }

    fn words<'a>(&'a self, member: &'a Target, other: Option<&'a Other>) -> Words<'a> {
        Words { shared: &self.shared, members: &self.config.members, member, other }
    }

    /// The MBean of those questions that name none, as it is called at that member.
    fn mbean_at(&self, target: &Target) -> String {
        self.words(target, None).put_into(self.config.mbean.as_deref().unwrap_or_default())
    }

    /// All others that the operator named. Their addresses are not known here.
    fn others(&self, target: &Target) -> Vec<Other> {
        let others = self.config.members.keys().filter(|name| *name != target.member.as_str());
        others.map(|name| Other { name: name.as_str().into(), target: None }).collect()
    }

    fn read_of(&self, target: &Target, check: &Check, other: Option<&Other>) -> Request {
        self.words(target, other).read(&check.read(), &self.mbean_at(target))
    }

    async fn look(&self, ask: Ask, target: &Target, limit: Duration) -> Result<Fact, Failure> {
        let watch = Stopwatch::start();
        let one = async |request: Request| self.door.ask(target, &request, limit).await.map_err(|(failure, _)| failure);
        match ask {
            Ask::Ping => {
                let Some(alive) = &self.config.alive else {
                    one(Request::Version).await?;
                    return Ok(Fact::Ok { latency: watch.elapsed() });
                };
                let value = one(self.read_of(target, alive, None)).await?;
                if alive.is_met(&value, &self.words(target, None)) {
                    Ok(Fact::Ok { latency: watch.elapsed() })
                } else {
                    let wanted = alive.describe(&self.words(target, None));
                    Err(Failure::new(
                        FailureKind::WrongAnswer,
                        format!("{} is {}, wanted: {wanted}", alive.attribute, shown(&value)),
                    ))
                }
            }
            Ask::Role => self.role(target, limit).await.map(Fact::Role),
            Ask::Position => {
                let read = self.config.position.as_ref().ok_or_else(|| not_written("position"))?;
                let value = one(self.words(target, None).read(read, &self.mbean_at(target))).await?;
                let position = number(&value).ok_or_else(|| not_a_position(&value))?;
                Ok(Fact::Position { position })
            }
            Ask::ReplicationLink => {
                let link = self.config.link.as_ref().ok_or_else(|| not_written("link"))?;
                let up = self.link_of(target, link, limit).await?;
                Ok(Fact::Link { up, last_io: None })
            }
            Ask::Write => self.is_writable(target, limit).await.map(Fact::Writable),
        }
    }

    /// What is asked to learn a member's role: role, position and links in one request, so that they belong together.
    #[must_use]
    pub fn questions_of_role(&self, target: &Target) -> Vec<Request> {
        let Some(primary) = &self.config.primary else { return Vec::new() };
        let position = self.config.position.as_ref();
        let mut requests = vec![self.read_of(target, primary, None)];
        requests.extend(position.map(|read| self.words(target, None).read(read, &self.mbean_at(target))));
        if let Some(link) = &self.config.link {
            requests.extend(self.others(target).iter().map(|other| self.read_of(target, link, Some(other))));
        }
        requests
    }

    /// What the answers to [`Self::questions_of_role`] tell, given in the same order.
    ///
    /// # Errors
    /// The role cannot be told. What else cannot be read is only not known.
    pub fn role_of(&self, target: &Target, answers: Vec<Result<Value, Failure>>) -> Result<RoleReport, Failure> {
        let Some(primary) = &self.config.primary else { return Err(not_written("primary")) };
        let others = self.others(target);
        let mut answers = answers.into_iter();
        let says = answers.next().unwrap_or(Ok(Value::Null))?;
        let is_primary = primary.is_met(&says, &self.words(target, None));
        let position = self.config.position.as_ref().and_then(|_| answers.next()?.ok()).as_ref().and_then(number);
        let links: Vec<_> = answers.collect();
        let link_up = self.config.link.as_ref().filter(|_| !is_primary && !links.is_empty()).and_then(|link| {
            let known: Vec<bool> = others
                .iter()
                .zip(&links)
                .filter_map(|(other, value)| Some(link.is_met(value.as_ref().ok()?, &self.words(target, Some(other)))))
                .collect();
            (!known.is_empty()).then(|| known.contains(&true))
        });
        Ok(RoleReport {
            role: if is_primary { Role::Primary } else { Role::Standby },
            position,
            link_up,
            follows: None,
            lineage: None,
            epoch: None,
            priority: None,
        })
    }

    async fn role(&self, target: &Target, limit: Duration) -> Result<RoleReport, Failure> {
        let answers = self.door.ask_all(target, &self.questions_of_role(target), limit).await?;
        self.role_of(target, answers)
    }

    /// Whether the link to any other is up.
    async fn link_of(&self, target: &Target, link: &Check, limit: Duration) -> Result<bool, Failure> {
        let others = self.others(target);
        let asked: Vec<Option<&Other>> = if others.is_empty() { vec![None] } else { others.iter().map(Some).collect() };
        let requests: Vec<Request> = asked.iter().map(|other| self.read_of(target, link, *other)).collect();
        let mut is_up = false;
        for (other, answer) in asked.iter().zip(self.door.ask_all(target, &requests, limit).await?) {
            is_up |= link.is_met(&answer?, &self.words(target, *other));
        }
        Ok(is_up)
    }

    /// By a write, where one is written; else by what the attribute says.
    async fn is_writable(&self, target: &Target, limit: Duration) -> Result<bool, Failure> {
        if self.config.try_write.is_some() {
            return match self.try_to_write(target, limit).await {
                (WriteOutcome::Accepted, _, _) => Ok(true),
                (_, Some(FailureKind::ReadOnly), _) => Ok(false),
                (_, kind, text) => Err(Failure::new(kind.unwrap_or(FailureKind::WrongAnswer), text)),
            };
        }
        let check = self.config.writable.as_ref().ok_or_else(|| not_written("try_write` or `writable"))?;
        let request = self.read_of(target, check, None);
        let value = self.door.ask(target, &request, limit).await.map_err(|(failure, _)| failure)?;
        Ok(check.is_met(&value, &self.words(target, None)))
    }

    /// Tries the service's own write. What refuses it without saying why may take the next one, so that only words that
    /// stand are a refusal: read-only, or a connection that its kernel refused.
    async fn try_to_write(&self, target: &Target, limit: Duration) -> (WriteOutcome, Option<FailureKind>, String) {
        let Some(write) = &self.config.try_write else {
            return (WriteOutcome::NoAnswer, None, "no `try_write` is written, so that none was tried".into());
        };
        let words = self.words(target, None);
        let (url, body) = (words.put_into(&write.url), words.put_into(&write.body));
        match self.door.post(&url, &write.content_type, body, limit).await {
            Ok((200..=299, _)) => (WriteOutcome::Accepted, None, "accepted".into()),
            Ok((status, text)) if is_read_only(&text) => (
                WriteOutcome::Refused,
                Some(FailureKind::ReadOnly),
                format!("refused with HTTP {status}: {}", first_line(&text)),
            ),
            Ok((status, text)) => {
                let kind = protocol::judge_http(status).err().map(|failure| failure.kind);
                let said = format!("HTTP {status}, which does not say that it is read-only: {}", first_line(&text));
                (WriteOutcome::NoAnswer, kind, said)
            }
            Err((failure, _)) => {
                let outcome = match failure.kind {
                    FailureKind::Refused | FailureKind::Reset => WriteOutcome::Refused,
                    _ => WriteOutcome::NoAnswer,
                };
                (outcome, Some(failure.kind), failure.to_string())
            }
        }
    }

    async fn fence(&self, order: &Order, deadline: Duration) -> FenceReport {
        if self.config.make_read_only.is_empty() {
            return FenceReport::refuted("nothing was done: no step stands under `make_read_only`");
        }
        let others = self.others(&order.target);
        let steps = self.run("make read-only", &self.config.make_read_only, order, &others, deadline.mul_f64(0.7));
        let done = match steps.await {
            Ok(done) => done,
            Err(error) if error.may_have_happened => return FenceReport::unknown(error.detail),
            Err(error) => return FenceReport::refuted(format!("nothing was done: {}", error.detail)),
        };
        let (outcome, kind, text) = self.try_to_write(&order.target, deadline.mul_f64(0.25)).await;
        let said = format!("{}; a write of the service: {text}", done.detail);
        match (outcome, kind) {
            (WriteOutcome::Accepted, _) => FenceReport::refuted(format!("it still takes writes: {said}")),
            // By a reset no more is known than by silence: another connection may get through.
            (WriteOutcome::Refused, Some(FailureKind::ReadOnly)) => FenceReport::confirmed(Proof::ReadBack, said),
            _ => FenceReport::confirmed(Proof::Claim, said),
        }
    }
}

#[async_trait]
impl Broker for JolokiaBroker {
    fn kind(&self) -> &'static str {
        "jolokia"
    }

    async fn ask(&self, ask: Ask, target: &Target, limit: Duration) -> Outcome {
        match tokio::time::timeout(limit, self.look(ask, target, limit)).await {
            Ok(Ok(fact)) => Outcome::Fact(fact),
            Ok(Err(failure)) => Outcome::Failure(failure),
            Err(_) => {
                Outcome::Failure(Failure::new(FailureKind::TimedOut, format!("no answer within {}", human(limit))))
            }
        }
    }

    async fn send_canary(&self, _: &Target, _: &str, _: Duration) -> Result<(), Failure> {
        Err(Failure::new(FailureKind::Local, "no message can be sent over Jolokia: use another signal than `canary`"))
    }

    async fn hold_open(&self, _: &Target, _: Duration) {
        // HTTP: whoever holds a connection open sends each request anew, and the member judges each of them.
    }

    async fn forbidden_write(&self, order: &Order, deadline: Duration) -> WriteAttempt {
        let (on_new, _, text) = self.try_to_write(&order.target, deadline).await;
        WriteAttempt { on_new, on_open: None, detail: format!("a write of the service on a new connection: {text}") }
    }

    async fn make_read_only(&self, order: &Order, deadline: Duration) -> FenceReport {
        self.fence(order, deadline).await
    }

    async fn make_writable(&self, order: &Order, deadline: Duration) -> Result<Done, ActError> {
        let others = self.others(&order.target);
        self.run("make writable", &self.config.make_writable, order, &others, deadline).await
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

    async fn stored_epoch(&self, _: &Target, _: Duration) -> Option<Epoch> {
        None
    }
}

/// Says of an act that failed whether it may have happened: `touched` is set before the first request that changes
/// anything.
fn act_error(attempted: &str, touched: &AtomicBool, why: String) -> ActError {
    if touched.load(Ordering::Relaxed) {
        ActError::uncertain(attempted, why)
    } else {
        ActError::nothing_done(attempted, why)
    }
}

/// A position: a whole number, which may have come as text.
fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.trim().parse().ok())
}

fn not_a_position(value: &Value) -> Failure {
    Failure::new(FailureKind::Parse, format!("`position` reads {}, which is no whole number", shown(value)))
}

/// A value for words: an attribute may be as long as an answer.
fn shown(value: &Value) -> String {
    value.to_string().chars().take(80).collect()
}

fn not_written(what: &str) -> Failure {
    Failure::new(FailureKind::Local, format!("the broker kind has no `{what}`: write it, or do not ask for it"))
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(160).collect()
}

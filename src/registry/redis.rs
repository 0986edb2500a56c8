//! Redis: one Lua script per operation, which runs alone, asks the server's own clock, and writes all or nothing.
//!
//! What Redis does **not** promise, and so a leader that is elected there cannot have:
//!
//! - It answers before anything is on disk, unless it runs with `appendfsync always`. With `everysec`, a power cut takes
//!   the last second or two of acknowledged writes with it; without an append-only file, a mere restart takes all since
//!   the last snapshot.
//! - It replicates after it answered. Where replicas are connected, writes other than a mere heartbeat wait (`WAIT`) for
//!   one of them (`?replicas=N`: for so many), and the answer is [`RegistryError::Unknown`] when they do not confirm in
//!   time. Even so, a replica that has not confirmed may be the one that is promoted. Sentinel and Redis Cluster can
//!   therefore set the database back, and two leaders can be written down one after the other under one epoch.
//! - `WAIT` asks for memory, not for disks, and the cut-off primary's own clients see its writes until it is demoted.
//!
//! A leader elected there is only as durable as that. What the settings lack, [`Redis::prepare`] logs as a warning, and
//! [`Redis::warnings`] tells. What was lost is noticed by who had seen it: each change counts up `changes`, each process
//! sends along the count that it saw, and a smaller one refuses everything, for good, until the process is started
//! again. Heartbeats do not count: a restart that loses nothing but some of them harms nobody.
//!
//! Time is `TIME` within the script. A clock that is set back leaves heartbeats in the future; one that lies further ahead
//! than it lasts is shown as lapsed, so that a failover waits for no clock to come back. Its own instance still renews it.
//!
//! The keys, all with one hash tag, so that a node of a cluster holds them together: `{coroner}:changes`, `:id` (the
//! counter), `:row` (id → JSON), `:rows` and `:rows:GROUP` (ids in order), `:leader` (group → id), `:text` and `:version`
//! (of each document), `:keys` (in order). `HGETALL {coroner}:row` shows the table. The user needs the commands `evalsha
//! eval script time get incr hget hset hdel hincrby zadd zrem zrangebyscore zrevrange zrangebylex wait info config|get
//! select` (those that apply) and the keys `{coroner}:*`. Rows stay for ever: one of about 150 bytes per start.

use std::time::Duration;

use async_trait::async_trait;
use redis::{Cmd, Value, cmd};
use serde::Deserialize;
use tokio::{sync::Mutex, time::timeout};

use super::{
    Beat, Beaten, Document, Instance, Leader, Options, Put, Registry, RegistryError,
    address::{self, Address, milliseconds},
    names,
    seen::Seen,
};
use crate::{
    model::time::human,
    sys::{clock::Stopwatch, net::Connector},
};

mod connection;

use connection::{Connection, Door, Refused};

macro_rules! script {
    ($name:literal) => {
        concat!(include_str!("redis/prelude.lua"), include_str!(concat!("redis/", $name, ".lua")))
    };
}

/// One of the operations: its script, and what is known when its answer does not come.
#[derive(Clone, Copy)]
struct Operation {
    name: &'static str,
    script: &'static str,
    /// Whether it writes: a lost answer leaves it unknown.
    writes: bool,
    /// Whether replicas are waited for.
    waits: bool,
}

const BEAT: Operation = Operation { name: "heartbeat", script: script!("beat"), writes: true, waits: false };
const CLAIM: Operation = Operation { name: "claim", script: script!("claim"), writes: true, waits: true };
const LEAVE: Operation = Operation { name: "leave", script: script!("leave"), writes: true, waits: false };
const INSTANCES: Operation =
    Operation { name: "list of instances", script: script!("instances"), writes: false, waits: false };
const GET: Operation = Operation { name: "read", script: script!("get"), writes: false, waits: false };
const LIST: Operation = Operation { name: "list", script: script!("list"), writes: false, waits: false };
const PUT: Operation = Operation { name: "write", script: script!("put"), writes: true, waits: true };

/// Errors of the server that say that it did not begin: the first command that writes is refused, and a script that was
/// let through there is let through to its end.
const REFUSALS: [&str; 17] = [
    "READONLY",
    "MISCONF",
    "OOM",
    "NOAUTH",
    "WRONGPASS",
    "DENIED",
    "LOADING",
    "BUSY",
    "MASTERDOWN",
    "MOVED",
    "ASK",
    "CLUSTERDOWN",
    "CROSSSLOT",
    "TRYAGAIN",
    "NOREPLICAS",
    "NOPROTO",
    "NOSCRIPT",
];

/// The server.
pub struct Redis {
    door: Door,
    prefix: String,
    timeout: Duration,
    /// How many replicas must confirm; `None`: one, where any is connected.
    replicas: Option<u32>,
    /// Connections that nobody uses now.
    idle: Mutex<Vec<Connection>>,
    seen: Seen,
}

/// What counts every change, as it is named to people.
const CHANGES: &str = "the count of changes";

/// A row as it is stored.
#[derive(Deserialize)]
struct Row {
    id: u64,
    group: String,
    instance: String,
    start_time_ms: i64,
    heartbeat_ms: i64,
    valid_for_ms: i64,
    beats: u64,
}

impl Redis {
    /// From `redis://user:password@host:port/number?replicas=1`, or `rediss://` with `ca=`, `cert=`, `key=` (PEM files).
    /// Opens no connection.
    ///
    /// # Errors
    /// What is wrong with the address, without its password.
    pub fn open(url: &str, options: &Options) -> Result<Self, String> {
        let mut address = Address::parse(url, 6379)?;
        let [place] = address.hosts.as_slice() else {
            return Err("a redis address names one server: the one that takes writes".into());
        };
        let place = place.clone();
        let database = match address.path.as_str() {
            "" => 0,
            number => {
                number.parse().map_err(|_| "a redis address ends in the number of a database: `/0`".to_owned())?
            }
        };
        let replicas = address.number("replicas")?;
        let (ca, cert, key) = (address.take("ca"), address.take("cert"), address.take("key"));
        let tls = match address.scheme.as_str() {
            "rediss" => Some(address::tls(ca.as_deref(), cert.as_deref(), key.as_deref())?),
            _ if ca.is_some() || cert.is_some() || key.is_some() => {
                return Err("`ca`, `cert` and `key` are for TLS: write the address as rediss://".into());
            }
            _ => None,
        };
        let user = address.user.take();
        let password = address.password.take().or_else(|| options.password.clone());
        if user.is_some() && password.is_none() {
            return Err("the redis address names a user without a password; write both, or neither".into());
        }
        address.finish()?;
        Ok(Self {
            door: Door { connector: Connector::default(), place, user, password, tls, database },
            prefix: options.prefix.clone(),
            timeout: options.timeout,
            replicas,
            idle: Mutex::default(),
            seen: Seen::default(),
        })
    }

    /// What the server's settings do not protect a leader from, in full sentences with the remedy.
    ///
    /// # Errors
    /// The server cannot be asked.
    pub async fn warnings(&self) -> Result<Vec<String>, RegistryError> {
        let look = async {
            let mut connection = self.door.open().await?;
            let failed = |e: Refused| RegistryError::Failed(format!("{} did not tell: {}", self.label(), e.text));
            let info = connection.ask(cmd("INFO").arg("replication")).await.map_err(failed)?;
            let replicas = number_of(&text_of(&info), "connected_slaves").unwrap_or(0);
            let mut found = Vec::new();
            let mut setting = async |name: &str| {
                let answer = connection.ask(cmd("CONFIG").arg("GET").arg(name)).await.ok()?;
                strings(&answer).get(1).cloned()
            };
            let aof = setting("appendonly").await;
            let fsync = setting("appendfsync").await;
            let policy = setting("maxmemory-policy").await;
            match (aof.as_deref(), fsync.as_deref()) {
                (Some("yes"), Some("always")) => {}
                (Some("yes"), Some("everysec")) => found.push(
                    "It syncs its append-only file once a second (`appendfsync everysec`): a power cut takes up to two \
                     seconds of acknowledged writes, an election among them. Set `appendfsync always`."
                        .into(),
                ),
                (Some("yes"), _) => found.push(
                    "It leaves the syncing of its append-only file to the system: a power cut takes acknowledged writes, \
                     an election among them. Set `appendfsync always`."
                        .into(),
                ),
                (Some(_), _) => found.push(
                    "It writes no append-only file (`appendonly no`): a restart takes all since the last snapshot, \
                     elections among them. Set `appendonly yes` and `appendfsync always`."
                        .into(),
                ),
                (None, _) => found.push(
                    "It does not tell whether it writes an append-only file (`CONFIG GET` is refused): make sure of \
                     `appendonly yes` and `appendfsync always`."
                        .into(),
                ),
            }
            if let Some(policy) = policy.filter(|policy| policy != "noeviction") {
                found.push(format!(
                    "It may throw keys away when its memory is full (`maxmemory-policy {policy}`), the leader's too: set \
                     `noeviction`, or give the registry a server of its own."
                ));
            }
            if replicas > 0 && self.replicas == Some(0) {
                found.push(format!(
                    "It has {replicas} replicas and is told to wait for none (`replicas=0`): the one that is promoted may \
                     lack the last election."
                ));
            }
            Ok(found)
        };
        timeout(self.timeout, look).await.unwrap_or_else(|_| Err(RegistryError::Failed(self.no_answer("settings"))))
    }

    fn no_answer(&self, what: &str) -> String {
        format!("{} gave no answer to a {what} within {}", self.label(), human(self.timeout))
    }

    async fn connection(&self) -> Result<Connection, RegistryError> {
        let mut idle = self.idle.lock().await;
        while let Some(connection) = idle.pop() {
            if !connection.is_closed() {
                return Ok(connection);
            }
        }
        drop(idle);
        let mut connection = self.door.open().await?;
        connection.replicas = match self.replicas {
            Some(count) => count,
            None => match connection.ask(cmd("INFO").arg("replication")).await {
                Ok(info) => number_of(&text_of(&info), "connected_slaves").unwrap_or(0).min(1),
                Err(e) if e.code == "NOPERM" => 0,
                Err(e) => return Err(RegistryError::Failed(format!("{} refused: {}", self.label(), e.text))),
            },
        };
        Ok(connection)
    }

    /// Runs an operation. The answer is what its script said behind `ok` and the count of changes.
    async fn run(&self, operation: Operation, group: &str, arguments: &[&[u8]]) -> Result<Vec<Value>, RegistryError> {
        self.seen.check()?;
        let watch = Stopwatch::start();
        let unknown_or_failed = |text: String| match operation.writes {
            true => RegistryError::Unknown(text),
            false => RegistryError::Failed(text),
        };
        let mut connection = timeout(self.timeout, self.connection())
            .await
            .unwrap_or_else(|_| Err(RegistryError::Failed(self.no_answer("connection"))))?;
        // Nothing is sent once there is no time left to hear of it.
        let left = self.timeout.saturating_sub(watch.elapsed());
        if left.is_zero() {
            return Err(RegistryError::Failed(self.no_answer("connection")));
        }
        let floor = self.seen.mark(CHANGES);
        let answer = timeout(left, self.call(&mut connection, operation, group, floor, arguments))
            .await
            .map_err(|_| unknown_or_failed(self.no_answer(operation.name)))?;
        let answer = answer.map_err(|e| {
            let text = format!("{} did not take the {}: {}", self.label(), operation.name, e.text);
            let never_began = REFUSALS.contains(&e.code.as_str()) || e.text.contains("'eval");
            if never_began { RegistryError::Failed(text) } else { unknown_or_failed(text) }
        })?;
        let Value::Array(parts) = answer else { return Err(self.garbage(operation, &answer)) };
        let mut parts = parts.into_iter();
        let (Some(how), Some(changes)) = (parts.next(), parts.next()) else {
            return Err(self.garbage(operation, &Value::Nil));
        };
        let Ok(changes) = text_of(&changes).parse::<u64>() else { return Err(self.garbage(operation, &changes)) };
        self.seen.note(CHANGES, floor, changes)?;
        match text_of(&how).as_str() {
            "ok" => {
                let rest: Vec<Value> = parts.collect();
                // A first heartbeat makes an id, which must not be handed out again.
                let waits = operation.waits || (operation.name == BEAT.name && changes > floor);
                if waits && connection.replicas > 0 {
                    self.wait(&mut connection, self.timeout.saturating_sub(watch.elapsed())).await?;
                }
                self.idle.lock().await.push(connection);
                Ok(rest)
            }
            "no" => {
                self.idle.lock().await.push(connection);
                Err(RegistryError::NotLeader(parts.next().map(|why| text_of(&why)).unwrap_or_default()))
            }
            "conflict" => {
                self.idle.lock().await.push(connection);
                Err(RegistryError::Conflict { key: parts.next().map(|key| text_of(&key)).unwrap_or_default() })
            }
            _ => Err(self.garbage(operation, &how)),
        }
    }

    async fn call(
        &self,
        connection: &mut Connection,
        operation: Operation,
        group: &str,
        floor: u64,
        arguments: &[&[u8]],
    ) -> Result<Value, Refused> {
        let mut by_hash = cmd("EVALSHA");
        by_hash.arg(hash(operation.script));
        self.arguments(&mut by_hash, group, floor, arguments);
        match connection.ask(&by_hash).await {
            Err(e) if e.code == "NOSCRIPT" => {
                let mut whole = cmd("EVAL");
                whole.arg(operation.script);
                self.arguments(&mut whole, group, floor, arguments);
                connection.ask(&whole).await
            }
            other => other,
        }
    }

    fn arguments(&self, command: &mut Cmd, group: &str, floor: u64, arguments: &[&[u8]]) {
        let key = |name: &str| format!("{{{}}}:{name}", self.prefix);
        command.arg(9);
        for name in ["changes", "id", "row", "rows"] {
            command.arg(key(name));
        }
        command.arg(key(&format!("rows:{group}")));
        for name in ["leader", "text", "version", "keys"] {
            command.arg(key(name));
        }
        command.arg(floor);
        for argument in arguments {
            command.arg(*argument);
        }
    }

    /// Waits until replicas have it. The write is on the server in any case.
    async fn wait(&self, connection: &mut Connection, left: Duration) -> Result<(), RegistryError> {
        // What the server needs to say that nobody confirmed is kept back.
        let within = (left.as_millis() * 3 / 4).max(1);
        let unknown = |text: String| {
            RegistryError::Unknown(format!(
                "{}: {text}; if that one is replaced by a replica now, it is lost",
                self.label()
            ))
        };
        let wanted = connection.replicas;
        let wait = cmd("WAIT").arg(wanted).arg(within.to_string()).to_owned();
        let answer = timeout(left, connection.ask(&wait))
            .await
            .map_err(|_| unknown("it was written, and nobody said whether a replica has it".into()))?
            .map_err(|e| {
                unknown(format!("it was written, and whether a replica has it cannot be asked ({})", e.text))
            })?;
        match answer {
            Value::Int(count) if count >= i64::from(wanted) => Ok(()),
            other => Err(unknown(format!(
                "it was written, and of the {wanted} replicas that must have it, {} confirmed",
                text_of(&other)
            ))),
        }
    }

    fn garbage(&self, operation: Operation, answer: &Value) -> RegistryError {
        let text = format!("{} answered a {} with what is no answer to it: {answer:?}", self.label(), operation.name);
        if operation.writes { RegistryError::Unknown(text) } else { RegistryError::Failed(text) }
    }

    fn rows(&self, operation: Operation, value: Option<&Value>) -> Result<Vec<Instance>, RegistryError> {
        let Some(Value::Array(rows)) = value else { return Err(self.garbage(operation, &Value::Nil)) };
        rows.iter()
            .map(|row| {
                let parts = strings(row);
                let [json, is_valid, is_leader] = parts.as_slice() else { return Err(self.garbage(operation, row)) };
                let row: Row = serde_json::from_str(json).map_err(|_| self.garbage(operation, row))?;
                Ok(Instance {
                    id: row.id,
                    group: row.group,
                    instance: row.instance,
                    start_time_ms: row.start_time_ms,
                    heartbeat_ms: row.heartbeat_ms,
                    valid_for_ms: row.valid_for_ms,
                    is_valid: is_valid == "1",
                    is_leader: is_leader == "1",
                    beats: row.beats,
                })
            })
            .collect()
    }
}

/// What a script is called by the server: SHA-1 is the protocol's choice, and protects nothing here.
fn hash(script: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, script.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text_of(value: &Value) -> String {
    match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::SimpleString(text) => text.clone(),
        Value::Int(number) => number.to_string(),
        _ => String::new(),
    }
}

fn strings(value: &Value) -> Vec<String> {
    match value {
        Value::Array(parts) => parts.iter().map(text_of).collect(),
        _ => Vec::new(),
    }
}

/// A number in an answer to `INFO`.
fn number_of(info: &str, name: &str) -> Option<u32> {
    let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().parse().ok()
}

fn number(value: Option<&Value>) -> Option<u64> {
    text_of(value?).parse().ok()
}

fn document(key: &str, parts: &[String]) -> Option<Document> {
    let [version, text] = parts else { return None };
    Some(Document { key: key.to_owned(), version: version.parse().ok()?, text: text.clone() })
}

#[async_trait]
impl Registry for Redis {
    fn label(&self) -> String {
        format!("redis at {}/{}", self.door.place, self.door.database)
    }

    async fn prepare(&self) -> Result<(), RegistryError> {
        // There is nothing to make; a read shows that the server is there and runs scripts.
        self.run(GET, "", &[b""]).await?;
        for warning in self.warnings().await? {
            tracing::warn!(store = %self.label(), "{warning}");
        }
        Ok(())
    }

    async fn beat(&self, beat: &Beat) -> Result<Beaten, RegistryError> {
        names::name("group", &beat.group)?;
        names::name("instance", &beat.instance)?;
        let id = beat.id.map_or_else(String::new, |id| id.to_string());
        let valid_for = milliseconds(beat.valid_for).to_string();
        let arguments: [&[u8]; 4] =
            [beat.group.as_bytes(), beat.instance.as_bytes(), id.as_bytes(), valid_for.as_bytes()];
        let answer = self.run(BEAT, &beat.group, &arguments).await?;
        let (Some(id), Some(now), Some(leader)) =
            (number(answer.first()), number(answer.get(1)), number(answer.get(2)))
        else {
            return Err(self.garbage(BEAT, &Value::Array(answer)));
        };
        let rows = self.rows(BEAT, answer.get(3))?;
        let now_ms = i64::try_from(now).unwrap_or(i64::MAX);
        Ok(Beaten { id, now_ms, leader: Some(leader).filter(|leader| *leader > 0), rows })
    }

    async fn claim(&self, leader: &Leader) -> Result<(), RegistryError> {
        names::name("group", &leader.group)?;
        let id = leader.id.to_string();
        self.run(CLAIM, &leader.group, &[leader.group.as_bytes(), id.as_bytes()]).await.map(drop)
    }

    async fn leave(&self, group: &str, id: u64) -> Result<(), RegistryError> {
        names::name("group", group)?;
        self.run(LEAVE, group, &[group.as_bytes(), id.to_string().as_bytes()]).await.map(drop)
    }

    async fn instances(&self, group: Option<&str>, limit: u32) -> Result<Vec<Instance>, RegistryError> {
        if let Some(group) = group {
            names::name("group", group)?;
        }
        if limit == 0 {
            return Ok(Vec::new());
        }
        let which: &[u8] = if group.is_some() { b"one" } else { b"all" };
        let group = group.unwrap_or_default();
        let answer = self.run(INSTANCES, group, &[group.as_bytes(), which, limit.to_string().as_bytes()]).await?;
        self.rows(INSTANCES, answer.first())
    }

    async fn get(&self, key: &str) -> Result<Option<Document>, RegistryError> {
        names::key(key)?;
        let answer = self.run(GET, "", &[key.as_bytes()]).await?;
        if answer.is_empty() {
            return Ok(None);
        }
        let answer = Value::Array(answer);
        document(key, &strings(&answer)).map(Some).ok_or_else(|| self.garbage(GET, &answer))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Document>, RegistryError> {
        names::prefix(prefix)?;
        let answer = self.run(LIST, "", &[prefix.as_bytes()]).await?;
        let Some(Value::Array(documents)) = answer.first() else { return Err(self.garbage(LIST, &Value::Nil)) };
        documents
            .iter()
            .map(|value| {
                let parts = strings(value);
                let found = parts.split_first().and_then(|(key, rest)| document(key, rest));
                found.ok_or_else(|| self.garbage(LIST, value))
            })
            .collect()
    }

    async fn put(&self, batch: &[Put], leader: Option<&Leader>) -> Result<(), RegistryError> {
        names::batch(batch)?;
        let group = leader.map_or("", |leader| leader.group.as_str());
        let mut arguments =
            vec![group.as_bytes().to_vec(), leader.map_or_else(Vec::new, |leader| leader.id.to_string().into_bytes())];
        for put in batch {
            let is_kept: &[u8] = if put.text.is_some() { b"1" } else { b"0" };
            arguments.extend([
                put.key.as_bytes().to_vec(),
                put.expected.to_string().into_bytes(),
                is_kept.to_vec(),
                put.text.clone().unwrap_or_default().into_bytes(),
            ]);
        }
        let arguments: Vec<&[u8]> = arguments.iter().map(Vec::as_slice).collect();
        self.run(PUT, group, &arguments).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_called_by_its_hash() {
        assert_eq!(hash("return 1"), "e0e1f9fabfc9d4800c877a703b823ac0578ff8db");
    }

    #[test]
    fn an_address_says_what_it_lacks() {
        let open = |url| Redis::open(url, &Options::default());
        assert_eq!(open("redis://:pw@h").map(|r| r.label()), Ok("redis at h:6379/0".into()));
        assert_eq!(
            open("redis://h:1/3?replicas=2").map(|r| (r.label(), r.replicas)),
            Ok(("redis at h:1/3".into(), Some(2)))
        );
        for (url, complaint) in [
            ("redis://a,b", "one server"),
            ("redis://a/x", "number of a database"),
            ("redis://user@a", "without a password"),
            ("redis://a?ca=/x", "rediss://"),
            ("redis://a?replicas=some", "whole number"),
        ] {
            let told = open(url).err().unwrap();
            assert!(told.contains(complaint), "{url}: {told}");
        }
    }
}

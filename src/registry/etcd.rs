//! etcd, through its JSON gateway: what it promises is on the disks of a majority before it answers.
//!
//! Its transactions know no clock. The only time that it compares by itself is that of its **leases**, so a heartbeat is
//! valid as long as the lease of its `alive` key lives; the row itself has no lease, so that the history of starts stays:
//!
//! | key (behind the prefix) | holds |
//! |---|---|
//! | `rows/GROUP/ID` | the row, JSON; ID in 20 digits; etcd's own version of the key counts the beats |
//! | `alive/GROUP/ID` | nothing; attached to the row's lease |
//! | `leader/GROUP` | the id |
//! | `id` | the newest id |
//! | `docs/KEY` | a document; etcd's own version of the key is its version |
//! | `changes` | nothing; written with every change but heartbeats, so that its revision tells whether the cluster was set back |
//!
//! What that costs:
//!
//! - A lease lasts whole seconds, at least 2 with etcd's default settings, and etcd looks for dead ones twice a second.
//!   A heartbeat that is valid for 1 s lapses after 2 to 3 s, one for 3 s after 3 to 4 s. Never earlier than asked.
//! - After an election among etcd's own members, all leases begin anew: a failover may take one lease longer.
//! - A member that was cut off may still renew a lease that the others let end. The row lapses early then, which is why
//!   who claims also watches the heartbeats by an own clock (`crate::election`).
//! - **There is no clock of the database.** `start_time_ms`, `heartbeat_ms` and `now_ms` are the writing instance's wall
//!   clock: for people only. Nothing here compares them, and nobody should.
//!
//! A write is refused, before it happens, by a cluster whose `changes` are older than this process saw; a restoration that
//! others have written past meanwhile is not noticed by that, but by the id of the cluster, if it was given a new one.
//! A batch may hold 100 documents, and 1.5 MB (etcd's own limits). With authentication the user needs read and write on
//! the prefix. Compaction harms nothing: no history of etcd's is used.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Beat, Beaten, Document, Instance, Leader, Options, Put, Registry, RegistryError,
    address::{self, Address, encode, milliseconds},
    names,
    seen::Seen,
};
use crate::sys::{clock, http};

mod gateway;

use gateway::{Deadline, Gateway, after, ask, exists, found, from, number, put, range, span, to, unchanged};

/// etcd refuses 128 operations in a transaction; some are ours.
const BATCH_MAX: usize = 100;

/// What the age of a cluster is measured by, as it is named to people.
const CHANGES: &str = "the revision of the newest change";

/// The cluster.
pub struct Etcd {
    gateway: Gateway,
    prefix: String,
    timeout: Duration,
    seen: Seen,
    /// The id that the cluster answered with first; 0: not yet.
    cluster: AtomicU64,
    /// What never changes of rows that beat through this process.
    own: Mutex<HashMap<u64, Row>>,
}

/// A row as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Row {
    id: u64,
    group: String,
    instance: String,
    start_time_ms: i64,
    heartbeat_ms: i64,
    valid_for_ms: i64,
    lease: String,
}

/// What a transaction found.
struct Done {
    succeeded: bool,
    /// One per operation of the branch that was taken.
    responses: Vec<Value>,
}

impl Etcd {
    /// From `etcd://user:password@host:port,host:port`, or `etcds://` with `ca=`, `cert=`, `key=` (PEM files). Opens no
    /// connection.
    ///
    /// # Errors
    /// What is wrong with the address, without its password.
    pub fn open(url: &str, options: &Options) -> Result<Self, String> {
        let mut address = Address::parse(url, 2379)?;
        let (ca, cert, key) = (address.take("ca"), address.take("cert"), address.take("key"));
        let (scheme, client) = match address.scheme.as_str() {
            "etcds" => {
                http::install_crypto();
                let config = address::tls(ca.as_deref(), cert.as_deref(), key.as_deref())?;
                let builder = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy();
                let client = builder
                    .pool_max_idle_per_host(0)
                    .tcp_nodelay(true)
                    .tls_backend_preconfigured((*config).clone())
                    .build()
                    .map_err(|e| format!("TLS towards etcd cannot be set up: {e}"))?;
                ("https", client)
            }
            _ if ca.is_some() || cert.is_some() || key.is_some() => {
                return Err("`ca`, `cert` and `key` are for TLS: write the address as etcds://".into());
            }
            _ => ("http", http::client(None)?),
        };
        if !address.path.is_empty() {
            return Err(
                "an etcd address ends with the last host; what all keys begin with is the store's prefix".into()
            );
        }
        let password = address.password.take().or_else(|| options.password.clone());
        let user = match (address.user.take(), password) {
            (Some(user), Some(password)) => Some((user, password)),
            (None, None) => None,
            (Some(_), None) => {
                return Err("the etcd address names a user without a password; write both, or neither".into());
            }
            (None, Some(_)) => return Err("there is a password for etcd and no user; write both, or neither".into()),
        };
        let endpoints = address.hosts.iter().map(|host| format!("{scheme}://{host}")).collect();
        address.finish()?;
        Ok(Self {
            gateway: Gateway::new(client, endpoints, user),
            prefix: options.prefix.clone(),
            timeout: options.timeout,
            seen: Seen::default(),
            cluster: AtomicU64::new(0),
            own: Mutex::default(),
        })
    }

    fn key(&self, rest: &str) -> String {
        format!("{}/{rest}", self.prefix)
    }

    fn row(&self, group: &str, id: u64) -> String {
        self.key(&format!("rows/{}/{id:020}", encode(group)))
    }

    fn alive(&self, group: &str, id: u64) -> String {
        self.key(&format!("alive/{}/{id:020}", encode(group)))
    }

    fn leader(&self, group: &str) -> String {
        self.key(&format!("leader/{}", encode(group)))
    }

    /// The end of a group's rows, or of its `alive` keys.
    fn end(&self, what: &str, group: &str) -> Vec<u8> {
        after(&self.key(&format!("{what}/{}/", encode(group))))
    }

    async fn request(
        &self,
        path: &str,
        body: &Value,
        writes: bool,
        deadline: &Deadline,
    ) -> Result<Value, RegistryError> {
        self.seen.check()?;
        let answer = self.gateway.ask(path, body, writes, deadline).await?;
        let cluster = number(&answer["header"]["cluster_id"]);
        if cluster != 0 {
            let first = self.cluster.compare_exchange(0, cluster, Ordering::Relaxed, Ordering::Relaxed);
            if first.is_err_and(|known| known != cluster) {
                // A write that such a cluster took was conditional on nothing that we know of.
                let text = format!(
                    "{} is another cluster than before: it was made anew, perhaps from a backup; stop everything that \
                     uses it, compare what it says with what was done since, and start it again",
                    self.label()
                );
                return Err(if writes { RegistryError::Unknown(text) } else { RegistryError::Failed(text) });
            }
        }
        Ok(answer)
    }

    /// One transaction. It also holds that the cluster is not older than what this process saw of it.
    async fn txn(
        &self,
        compare: Vec<Value>,
        success: Vec<Value>,
        failure: Vec<Value>,
        changes: Changes,
        deadline: &Deadline,
    ) -> Result<Done, RegistryError> {
        let floor = self.seen.mark(CHANGES);
        let key = self.key("changes");
        let writes = success.iter().any(|operation| operation.get("request_range").is_none());
        let (mut compare, mut success, mut failure) = (compare, success, failure);
        if floor > 0 && !compare.is_empty() {
            let least = (floor - 1).to_string();
            compare.push(json!({"key": to(&key), "target": "MOD", "result": "GREATER", "mod_revision": least}));
        }
        if changes == Changes::Yes {
            success.push(put(&key, ""));
        }
        success.push(ask(range(&key)));
        failure.push(ask(range(&key)));
        let body = json!({"compare": compare, "success": success, "failure": failure});
        let mut answer = self.request("kv/txn", &body, writes, deadline).await?;
        let succeeded = answer["succeeded"].as_bool().unwrap_or(false);
        let Value::Array(mut responses) = answer["responses"].take() else {
            let text = format!("{} answered a transaction with what is no answer to it", self.label());
            return Err(if writes { RegistryError::Unknown(text) } else { RegistryError::Failed(text) });
        };
        let newest = responses.pop().unwrap_or(Value::Null);
        if succeeded && changes == Changes::Yes {
            // Of the write of `changes` itself.
            responses.pop();
        }
        let newest = found(&newest).first().map_or(0, |kv| number(&kv["mod_revision"]));
        self.seen.note(CHANGES, floor, newest)?;
        Ok(Done { succeeded, responses })
    }

    /// Questions of one moment.
    async fn look(&self, questions: Vec<Value>, deadline: &Deadline) -> Result<Vec<Value>, RegistryError> {
        let questions = questions.into_iter().map(ask).collect();
        // Without a condition the first branch is taken.
        Ok(self.txn(Vec::new(), questions, Vec::new(), Changes::No, deadline).await?.responses)
    }

    /// Touches a row whose lease lives; `None`: it lapsed.
    async fn touch(&self, beat: &Beat, id: u64, deadline: &Deadline) -> Result<Option<Beaten>, RegistryError> {
        let known = self.own.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned();
        let row = match known {
            Some(row) => Some(row),
            None => {
                let answers = self.look(vec![range(&self.row(&beat.group, id))], deadline).await?;
                answers.first().and_then(|answer| found(answer).first()).and_then(parse).map(|(row, _)| row)
            }
        };
        let Some(mut row) = row.filter(|row| row.group == beat.group && row.instance == beat.instance) else {
            return Ok(None);
        };
        // A lease that is asked for longer than it was granted for cannot be stretched: a new row can.
        if milliseconds(beat.valid_for) > row.valid_for_ms {
            return Ok(None);
        }
        // Renewing may be repeated, and says by itself whether there is something left to renew.
        let renewed = self.request("lease/keepalive", &json!({"ID": row.lease}), false, deadline).await?;
        if number(&renewed["result"]["TTL"]) == 0 {
            return Ok(None);
        }
        row.heartbeat_ms = clock::anchor().unix_ms;
        let (row_key, alive) = (self.row(&beat.group, id), self.alive(&beat.group, id));
        let mut success = vec![put(&row_key, &text(&row))];
        success.extend(self.table(&beat.group));
        let done = self
            .txn(vec![exists(&row_key, true), exists(&alive, true)], success, Vec::new(), Changes::No, deadline)
            .await?;
        if !done.succeeded {
            return Ok(None);
        }
        self.own.lock().unwrap_or_else(PoisonError::into_inner).insert(id, row);
        self.beaten(&beat.group, id, &done.responses[1..]).map(Some)
    }

    async fn insert(&self, beat: &Beat, deadline: &Deadline) -> Result<Beaten, RegistryError> {
        let valid_for_ms = milliseconds(beat.valid_for);
        let seconds = u64::try_from(valid_for_ms).unwrap_or(1).div_ceil(1_000);
        // A lease that nobody hears of ends by itself.
        let granted = self.request("lease/grant", &json!({"TTL": seconds.to_string()}), false, deadline).await?;
        let Some(lease) = granted["ID"].as_str().map(str::to_owned) else {
            return Err(RegistryError::Failed(format!("{} granted no lease", self.label())));
        };
        let counter = self.key("id");
        let mut answers = self.look(vec![range(&counter)], deadline).await?;
        loop {
            let (newest, modified) = answers
                .first()
                .and_then(|answer| found(answer).first())
                .map_or((0, 0), |kv| (from(&kv["value"]).parse::<u64>().unwrap_or(0), number(&kv["mod_revision"])));
            let id = newest + 1;
            let now = clock::anchor().unix_ms;
            let row = Row {
                id,
                group: beat.group.clone(),
                instance: beat.instance.clone(),
                start_time_ms: now,
                heartbeat_ms: now,
                valid_for_ms,
                lease: lease.clone(),
            };
            let alive = json!({"request_put":
                {"key": to(self.alive(&beat.group, id)), "value": "", "lease": lease}});
            let mut success = vec![put(&counter, &id.to_string()), put(&self.row(&beat.group, id), &text(&row)), alive];
            success.extend(self.table(&beat.group));
            let compare = vec![unchanged(&counter, modified)];
            let done = self.txn(compare, success, vec![ask(range(&counter))], Changes::Yes, deadline).await?;
            if done.succeeded {
                let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
                // The row before this one is history.
                if let Some(before) = beat.id {
                    own.remove(&before);
                }
                own.insert(id, row);
                drop(own);
                return self.beaten(&beat.group, id, &done.responses[3..]);
            }
            answers = done.responses;
        }
    }

    /// What a heartbeat reads: the leader, the rows from the one on that this process knows, and which are alive.
    fn table(&self, group: &str) -> [Value; 3] {
        // It only grows: what the table is read from may be too early, and never too late.
        let from = self.seen.mark(&leader_of(group));
        [
            ask(range(&self.leader(group))),
            ask(span(&self.row(group, from), self.end("rows", group))),
            ask(keys(span(&self.alive(group, from), self.end("alive", group)))),
        ]
    }

    fn beaten(&self, group: &str, id: u64, table: &[Value]) -> Result<Beaten, RegistryError> {
        let [leader, rows, alive] = table else {
            return Err(RegistryError::Unknown(format!("{} answered a heartbeat without the table", self.label())));
        };
        let leader = self.leader_in(group, leader)?;
        let alive: Vec<String> = found(alive).iter().map(|kv| from(&kv["key"])).collect();
        let rows = found(rows).iter().filter_map(parse);
        let rows = rows.filter(|(row, _)| leader.is_none_or(|leader| row.id >= leader));
        let rows = rows.map(|(row, beats)| self.instance(row, beats, &alive, leader)).collect();
        Ok(Beaten { id, now_ms: clock::anchor().unix_ms, leader, rows })
    }

    fn leader_in(&self, group: &str, response: &Value) -> Result<Option<u64>, RegistryError> {
        let before = self.seen.mark(&leader_of(group));
        let leader = found(response).first().and_then(|kv| from(&kv["value"]).parse::<u64>().ok());
        // Another answer may have overtaken this one; what is truly older was refused by the count of changes.
        let _ = self.seen.note(&leader_of(group), before.min(leader.unwrap_or(0)), leader.unwrap_or(0));
        Ok(leader)
    }

    fn instance(&self, row: Row, beats: u64, alive: &[String], leader: Option<u64>) -> Instance {
        let is_valid = alive.contains(&self.alive(&row.group, row.id));
        Instance {
            is_valid,
            is_leader: leader == Some(row.id),
            id: row.id,
            group: row.group,
            instance: row.instance,
            start_time_ms: row.start_time_ms,
            heartbeat_ms: row.heartbeat_ms,
            valid_for_ms: row.valid_for_ms,
            beats,
        }
    }
}

/// Whether a transaction is a change, by which the age of the cluster is known.
#[derive(Clone, Copy, PartialEq)]
enum Changes {
    Yes,
    No,
}

fn leader_of(group: &str) -> String {
    format!("the leader of {group}")
}

fn keys(mut range: Value) -> Value {
    range["keys_only"] = true.into();
    range
}

/// A row, and how often it was written.
fn parse(kv: &Value) -> Option<(Row, u64)> {
    Some((serde_json::from_str(&from(&kv["value"])).ok()?, number(&kv["version"])))
}

fn text(row: &Row) -> String {
    // A struct of numbers and strings always has a JSON.
    serde_json::to_string(row).unwrap_or_default()
}

#[async_trait]
impl Registry for Etcd {
    fn label(&self) -> String {
        format!("etcd at {}, below {}/", self.gateway.places(), self.prefix)
    }

    async fn prepare(&self) -> Result<(), RegistryError> {
        // There is nothing to make; this shows that it answers, and that the user may read and write there.
        let deadline = Deadline::start(self.timeout);
        let changes = self.key("changes");
        self.txn(vec![exists(&changes, false)], Vec::new(), Vec::new(), Changes::Yes, &deadline).await.map(drop)
    }

    async fn beat(&self, beat: &Beat) -> Result<Beaten, RegistryError> {
        names::name("group", &beat.group)?;
        names::name("instance", &beat.instance)?;
        let deadline = Deadline::start(self.timeout);
        if let Some(id) = beat.id
            && let Some(beaten) = self.touch(beat, id, &deadline).await?
        {
            return Ok(beaten);
        }
        self.insert(beat, &deadline).await
    }

    async fn claim(&self, leader: &Leader) -> Result<(), RegistryError> {
        names::name("group", &leader.group)?;
        let deadline = Deadline::start(self.timeout);
        let (group, id) = (leader.group.as_str(), leader.id);
        let (leader_key, own) = (self.leader(group), self.alive(group, id));
        loop {
            let answers = self.look(vec![range(&leader_key)], &deadline).await?;
            let found_leader = answers.first().and_then(|answer| found(answer).first());
            let modified = found_leader.map_or(0, |kv| number(&kv["mod_revision"]));
            let written = answers.first().map_or(Ok(None), |answer| self.leader_in(group, answer))?.unwrap_or(0);
            if written > id {
                return Err(RegistryError::NotLeader(format!("row {written} is written down as the leader")));
            }
            let mut compare = vec![unchanged(&leader_key, modified), exists(&own, true)];
            let before = span(&self.alive(group, written), &own);
            if written < id {
                // A range without keys compares as a key that was never made.
                let mut nobody = exists(&self.alive(group, written), false);
                nobody["range_end"] = to(&own).into();
                compare.push(nobody);
            }
            let (success, changes) = match written == id {
                true => (Vec::new(), Changes::No),
                false => (vec![put(&leader_key, &id.to_string())], Changes::Yes),
            };
            let failure = vec![ask(range(&leader_key)), ask(range(&own)), ask(keys(before))];
            let done = self.txn(compare, success, failure, changes, &deadline).await?;
            if done.succeeded {
                return Ok(());
            }
            let [leader_now, own_now, before_now] = done.responses.as_slice() else { continue };
            if found(own_now).is_empty() {
                return Err(RegistryError::NotLeader(format!("the heartbeat of row {id} lapsed")));
            }
            let is_same = found(leader_now).first().map_or(0, |kv| number(&kv["mod_revision"])) == modified;
            if let (true, Some(valid)) = (is_same, found(before_now).first()) {
                let key = from(&valid["key"]);
                let row = key.rsplit('/').next().unwrap_or_default().trim_start_matches('0');
                return Err(RegistryError::NotLeader(format!("row {row} stands before it and is valid")));
            }
        }
    }

    async fn leave(&self, group: &str, id: u64) -> Result<(), RegistryError> {
        names::name("group", group)?;
        let deadline = Deadline::start(self.timeout);
        let key = self.row(group, id);
        loop {
            let answers = self.look(vec![range(&key)], &deadline).await?;
            let Some(kv) = answers.first().and_then(|answer| found(answer).first()) else { return Ok(()) };
            let Some((mut row, _)) = parse(kv) else { return Ok(()) };
            if row.valid_for_ms == 0 {
                return Ok(());
            }
            row.valid_for_ms = 0;
            let success =
                vec![put(&key, &text(&row)), json!({"request_delete_range": {"key": to(self.alive(group, id))}})];
            let compare = vec![unchanged(&key, number(&kv["mod_revision"]))];
            if self.txn(compare, success, Vec::new(), Changes::No, &deadline).await?.succeeded {
                self.own.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                // Only tidiness: nothing hangs on the lease any more, and it ends by itself.
                let _ = self.request("lease/revoke", &json!({"ID": row.lease}), false, &deadline).await;
                return Ok(());
            }
        }
    }

    async fn instances(&self, group: Option<&str>, limit: u32) -> Result<Vec<Instance>, RegistryError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let below = |what: &str| match group {
            Some(group) => self.key(&format!("{what}/{}/", encode(group))),
            None => self.key(&format!("{what}/")),
        };
        if let Some(group) = group {
            names::name("group", group)?;
        }
        let deadline = Deadline::start(self.timeout);
        let mut rows = span(&below("rows"), after(&below("rows")));
        rows["limit"] = limit.to_string().into();
        // An id is made with its row: the order of their making is that of the ids.
        rows["sort_target"] = "CREATE".into();
        rows["sort_order"] = "DESCEND".into();
        let all_leaders = self.key("leader/");
        let leaders = span(&all_leaders, after(&all_leaders));
        let alive = keys(span(&below("alive"), after(&below("alive"))));
        let answers = self.look(vec![rows, leaders, alive], &deadline).await?;
        let [rows, leaders, alive] = answers.as_slice() else {
            return Err(RegistryError::Failed(format!("{} did not tell its instances", self.label())));
        };
        let leaders: HashMap<String, u64> =
            found(leaders).iter().filter_map(|kv| Some((from(&kv["key"]), from(&kv["value"]).parse().ok()?))).collect();
        let alive: Vec<String> = found(alive).iter().map(|kv| from(&kv["key"])).collect();
        let rows = found(rows).iter().filter_map(parse);
        let leader_of = |row: &Row| leaders.get(&self.leader(&row.group)).copied();
        Ok(rows
            .map(|(row, beats)| (leader_of(&row), row, beats))
            .map(|(l, r, b)| self.instance(r, b, &alive, l))
            .collect())
    }

    async fn get(&self, key: &str) -> Result<Option<Document>, RegistryError> {
        names::key(key)?;
        let deadline = Deadline::start(self.timeout);
        let answers = self.look(vec![range(&self.key(&format!("docs/{key}")))], &deadline).await?;
        let kv = answers.first().and_then(|answer| found(answer).first());
        Ok(kv.map(|kv| Document { key: key.to_owned(), version: number(&kv["version"]), text: from(&kv["value"]) }))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Document>, RegistryError> {
        names::prefix(prefix)?;
        let deadline = Deadline::start(self.timeout);
        let (root, from_key) = (self.key("docs/"), self.key(&format!("docs/{prefix}")));
        let answers = self.look(vec![span(&from_key, after(&from_key))], &deadline).await?;
        let documents = answers.first().map_or(&[][..], found).iter().map(|kv| {
            let key = from(&kv["key"]);
            let key = key.strip_prefix(&root).unwrap_or(&key).to_owned();
            Document { key, version: number(&kv["version"]), text: from(&kv["value"]) }
        });
        Ok(documents.collect())
    }

    async fn put(&self, batch: &[Put], leader: Option<&Leader>) -> Result<(), RegistryError> {
        names::batch(batch)?;
        if batch.len() > BATCH_MAX {
            return Err(RegistryError::Failed(format!(
                "etcd takes at most {BATCH_MAX} documents at once, and these are {}; nothing was written",
                batch.len()
            )));
        }
        let deadline = Deadline::start(self.timeout);
        let (mut compare, mut success, mut failure) = (Vec::new(), Vec::new(), Vec::new());
        for change in batch {
            let key = self.key(&format!("docs/{}", change.key));
            let version = change.expected.to_string();
            compare.push(json!({"key": to(&key), "target": "VERSION", "result": "EQUAL", "version": version}));
            match &change.text {
                Some(text) => success.push(put(&key, text)),
                None => success.push(json!({"request_delete_range": {"key": to(&key)}})),
            }
            failure.push(ask(keys(range(&key))));
        }
        if let Some(leader) = leader {
            names::name("group", &leader.group)?;
            let (key, alive) = (self.leader(&leader.group), self.alive(&leader.group, leader.id));
            let id = to(leader.id.to_string());
            compare.push(json!({"key": to(&key), "target": "VALUE", "result": "EQUAL", "value": id}));
            compare.push(exists(&alive, true));
            failure.extend([ask(range(&key)), ask(keys(range(&alive)))]);
        }
        let done = self.txn(compare, success, failure, Changes::Yes, &deadline).await?;
        if done.succeeded {
            return Ok(());
        }
        if let (Some(leader), [written, alive]) = (leader, done.responses.get(batch.len()..).unwrap_or_default()) {
            let written = found(written).first().map(|kv| from(&kv["value"]));
            if written.as_deref() != Some(leader.id.to_string().as_str()) {
                return Err(RegistryError::NotLeader(format!("row {} is not written down as the leader", leader.id)));
            }
            if found(alive).is_empty() {
                return Err(RegistryError::NotLeader(format!("the heartbeat of row {} lapsed", leader.id)));
            }
        }
        let other = batch
            .iter()
            .zip(&done.responses)
            .find(|(put, response)| found(response).first().map_or(0, |kv| number(&kv["version"])) != put.expected);
        // Somebody else's write may be undone again before it is looked at; the answer stays: not as expected.
        let key = other.map_or_else(|| batch.first().map(|p| p.key.clone()), |(put, _)| Some(put.key.clone()));
        Err(RegistryError::Conflict { key: key.unwrap_or_default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_what_it_lacks() {
        let open = |url| Etcd::open(url, &Options::default());
        assert_eq!(open("etcd://a,b:1").map(|e| e.label()), Ok("etcd at a:2379,b:1, below coroner/".into()));
        for (url, complaint) in [
            ("etcd://", "names a host"),
            ("etcd://user@a", "without a password"),
            ("etcd://a/x", "prefix"),
            ("etcd://a?cert=/x", "etcds://"),
        ] {
            let told = open(url).err().unwrap();
            assert!(told.contains(complaint), "{url}: {told}");
        }
    }
}

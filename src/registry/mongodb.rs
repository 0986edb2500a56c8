//! MongoDB: a replica set, majority-acknowledged and journaled writes, the primary's own clock.
//!
//! | collection (behind the prefix) | holds |
//! |---|---|
//! | `_groups` | one document per group: the leader, the rows from the leader's on, a count of changes |
//! | `_instances` | the rows before the leader's: history |
//! | `_documents` | the documents: `_id`, `version`, `text` |
//! | `_counters` | the newest id |
//!
//! A group is one document, so a heartbeat and a claim are one `findAndModify` each, whose pipeline the primary
//! evaluates in one step with its own `$$NOW`: no transaction, no clock of ours. One document without a leader is
//! written in one step, too. A batch, and whatever is written in a leader's name, is a **transaction**, which MongoDB has
//! on replica sets and sharded clusters only: a standalone server is refused, with the remedy (a replica set of one
//! member will do). A transaction that writes in a leader's name also writes the group's document, so that a claim at the
//! same time conflicts with it.
//!
//! Each answer waits for the journals of a majority. A read is linearizable, or follows an own majority-acknowledged
//! write, so that a deposed primary cannot tell the past. When another member becomes primary, its clock is the clock: a
//! step, which the election is made for; a heartbeat that lies further ahead than it lasts is shown as lapsed.
//!
//! Set back is noticed for what this process saw: the newest id, and the count of changes of each group. A document that
//! was written in nobody's name has its version only.
//!
//! Rows move from the group's document to the history when a later one leads. A group where one leader stays and other
//! instances start tens of thousands of times meanwhile grows towards MongoDB's limit of 16 MB for a document, at about
//! 150 bytes per start; a batch has the same limit.
//!
//! **No MongoDB server can be had on the machines on which this is tested.** The wire, the pipelines and the transactions
//! are tested through the official driver against a stand-in that speaks MongoDB's protocol and evaluates what is used
//! here, written from MongoDB's manual: it shows that this does what the manual says, not that MongoDB does.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use ::mongodb::{
    Client, ClientSession, Collection,
    bson::{Document as Fields, doc},
    error::{Error, ErrorKind, TRANSIENT_TRANSACTION_ERROR, UNKNOWN_TRANSACTION_COMMIT_RESULT, WriteFailure},
    options::{
        Acknowledgment, ClientOptions, ConnectionString, FindOneAndUpdateOptions, ReadConcern, ReturnDocument,
        SelectionCriteria, WriteConcern,
    },
};
use async_trait::async_trait;
use futures::TryStreamExt as _;
use tokio::{sync::OnceCell, time::timeout};

use super::{
    Beat, Beaten, Document, Instance, Leader, Options, Put, Registry, RegistryError, address::milliseconds, names,
    seen::Seen,
};
use crate::{model::time::human, sys::http};

mod pipeline;

/// A document is there already.
const DUPLICATE: i32 = 11_000;

/// Errors that say that nothing was done: not allowed, no authentication, not for this kind of server, not the primary,
/// no disk.
const REFUSALS: [i32; 10] = [DUPLICATE, 13, 18, 20, 72, 263, 10_107, 13_435, 13_436, 14_031];

/// What the newest id is called, for people.
const IDS: &str = "the newest id";

/// The deployment.
pub struct Mongodb {
    address: ConnectionString,
    places: String,
    database: String,
    prefix: String,
    timeout: Duration,
    client: OnceCell<Client>,
    seen: Seen,
}

/// A group as an update left it.
struct Group {
    ok: bool,
    now_ms: i64,
    leader: Option<u64>,
    rows: Vec<Instance>,
}

impl Mongodb {
    /// From a connection string of MongoDB's: `mongodb://user:password@host:port,host:port/database?replicaSet=rs0`, with
    /// its options. Opens no connection.
    ///
    /// # Errors
    /// What is wrong with the address, without its password.
    pub fn open(url: &str, options: &Options) -> Result<Self, String> {
        let mut address = ConnectionString::parse(url).map_err(|e| {
            let text = e.to_string();
            let secret = url.split_once("://").and_then(|(_, rest)| rest.rsplit_once('@')).map(|(who, _)| who);
            let secret = secret.and_then(|who| who.split_once(':')).map_or("", |(_, password)| password);
            if secret.is_empty() || !text.contains(secret) { text } else { "the address is not well-formed".into() }
        })?;
        if let (Some(password), Some(credential)) = (&options.password, &mut address.credential) {
            credential.password.get_or_insert_with(|| password.expose().to_owned());
        }
        // A second attempt that the driver makes would hide whether the first one did it.
        address.retry_writes = Some(false);
        address.retry_reads = Some(false);
        let place = url.split_once("://").map_or(url, |(_, rest)| rest);
        let place = place.split(['/', '?']).next().unwrap_or_default();
        let places = place.rsplit_once('@').map_or(place, |(_, hosts)| hosts).to_owned();
        Ok(Self {
            database: address.default_database.clone().unwrap_or_else(|| options.prefix.clone()),
            address,
            places,
            prefix: options.prefix.clone(),
            timeout: options.timeout,
            client: OnceCell::new(),
            seen: Seen::default(),
        })
    }

    async fn connect(&self) -> Result<Client, RegistryError> {
        http::install_crypto();
        let mut options = ClientOptions::parse(self.address.clone()).await.map_err(|e| self.told(&e, false))?;
        options.app_name = Some("coroner".into());
        options.connect_timeout = Some(self.timeout);
        // Within our own time, so that "there is no server" is known, and not a time-out of ours.
        options.server_selection_timeout = Some(self.timeout * 3 / 4);
        let majority =
            WriteConcern::builder().w(Acknowledgment::Majority).journal(true).w_timeout(self.timeout).build();
        options.write_concern = Some(majority);
        options.read_concern = Some(ReadConcern::majority());
        options.selection_criteria =
            Some(SelectionCriteria::ReadPreference(::mongodb::options::ReadPreference::Primary));
        let client = Client::with_options(options).map_err(|e| self.told(&e, false))?;
        let hello =
            client.database("admin").run_command(doc! { "hello": 1 }).await.map_err(|e| self.told(&e, false))?;
        if !hello.contains_key("setName") && hello.get_str("msg").ok() != Some("isdbgrid") {
            return Err(RegistryError::Failed(format!(
                "{} is a standalone server, which has no transactions: start it with --replSet and run rs.initiate(); one \
                 member is enough",
                self.label()
            )));
        }
        Ok(client)
    }

    async fn collection(&self, name: &str) -> Result<Collection<Fields>, RegistryError> {
        let client = self.client.get_or_try_init(|| self.connect()).await?;
        Ok(client.database(&self.database).collection(&format!("{}_{name}", self.prefix)))
    }

    /// Bounds an operation. `may_have`: whether something was sent that may have been done.
    async fn within<T>(
        &self,
        may_have: &AtomicBool,
        operation: impl Future<Output = Result<T, RegistryError>>,
    ) -> Result<T, RegistryError> {
        self.seen.check()?;
        timeout(self.timeout, operation).await.unwrap_or_else(|_| {
            let text = format!("{} gave no answer within {}", self.label(), human(self.timeout));
            Err(match may_have.load(Ordering::Relaxed) {
                true => RegistryError::Unknown(text),
                false => RegistryError::Failed(text),
            })
        })
    }

    /// What an error of the driver's says of a write, or of a read.
    fn told(&self, error: &Error, writes: bool) -> RegistryError {
        let text = format!("{} did not do it: {}", self.label(), error.kind);
        let did_nothing = match error.kind.as_ref() {
            ErrorKind::ServerSelection { .. }
            | ErrorKind::Authentication { .. }
            | ErrorKind::DnsResolve { .. }
            | ErrorKind::InvalidArgument { .. }
            | ErrorKind::InvalidTlsConfig { .. }
            | ErrorKind::IncompatibleServer { .. }
            | ErrorKind::SessionsNotSupported => true,
            ErrorKind::Command(command) => REFUSALS.contains(&command.code),
            ErrorKind::Write(WriteFailure::WriteError(write)) => REFUSALS.contains(&write.code),
            _ => false,
        };
        if writes && !did_nothing { RegistryError::Unknown(text) } else { RegistryError::Failed(text) }
    }

    fn garbage(&self, what: &str) -> RegistryError {
        RegistryError::Unknown(format!("{} answered with a {what} that is none", self.label()))
    }

    /// Updates a group's document and tells what is in it then.
    async fn update(
        &self,
        group: &str,
        make: impl Fn(i64) -> pipeline::Pipeline,
        is_made: bool,
        session: Option<&mut ClientSession>,
        may_have: &AtomicBool,
    ) -> Result<Option<Group>, Update> {
        let changes = changes_of(group);
        let floor = self.seen.mark(&changes);
        let in_transaction = session.is_some();
        let groups = self.collection("groups").await?;
        let options = FindOneAndUpdateOptions::builder().return_document(ReturnDocument::After).upsert(is_made).build();
        let pipeline = make(i64::try_from(floor).unwrap_or(i64::MAX));
        let update = groups.find_one_and_update(doc! { "_id": group }, pipeline).with_options(options);
        let found = match session {
            Some(session) => update.session(session).await,
            None => {
                may_have.store(true, Ordering::Relaxed);
                update.await
            }
        };
        let Some(found) = found.map_err(Update::Driver)? else {
            self.seen.note(&changes, floor, 0)?;
            return Ok(None);
        };
        let count = found.get_i64("changes").ok().and_then(|count| u64::try_from(count).ok());
        let is_ok = found.get_bool("ok").unwrap_or(false);
        // What a transaction counted is not there before its commit: only what it found is.
        let uncommitted = u64::from(in_transaction && is_ok);
        let count = count.map(|count| count.saturating_sub(uncommitted));
        self.seen.note(&changes, floor, count.ok_or_else(|| self.garbage("group"))?)?;
        Ok(Some(self.group(group, &found).ok_or_else(|| self.garbage("group"))?))
    }

    fn group(&self, group: &str, found: &Fields) -> Option<Group> {
        let now_ms = found.get_datetime("now").ok()?.timestamp_millis();
        let leader = u64::try_from(found.get_i64("leader").ok()?).ok().filter(|leader| *leader > 0);
        let rows = found.get_array("rows").ok()?.iter();
        let mut rows: Vec<Instance> =
            rows.map(|row| instance(group, row.as_document()?, Some(now_ms), leader)).collect::<Option<_>>()?;
        rows.sort_by_key(|row| row.id);
        Some(Group { ok: found.get_bool("ok").ok()?, now_ms, leader, rows })
    }

    async fn insert(&self, beat: &Beat, may_have: &AtomicBool) -> Result<(u64, Group), RegistryError> {
        let counters = self.collection("counters").await?;
        loop {
            let floor = self.seen.mark(IDS);
            // An id that nobody hears of is left out.
            let counted = counters
                .find_one_and_update(doc! { "_id": "id" }, doc! { "$inc": { "n": 1_i64 } })
                .upsert(true)
                .return_document(ReturnDocument::After)
                .await;
            let counted = match counted {
                // Two make the counter at once.
                Err(e) if code(&e) == Some(DUPLICATE) => continue,
                other => other.map_err(|e| self.told(&e, true))?,
            };
            let id = counted.and_then(|fields| fields.get_i64("n").ok()).ok_or_else(|| self.garbage("counter"))?;
            let epoch = u64::try_from(id).map_err(|_| self.garbage("counter"))?;
            self.seen.note(IDS, floor, epoch)?;
            let valid_for = milliseconds(beat.valid_for);
            let make = |floor| pipeline::insert(floor, id, &beat.instance, valid_for);
            match self.update(&beat.group, make, true, None, may_have).await {
                Ok(Some(group)) if group.ok => return Ok((epoch, group)),
                // A larger one leads by now.
                Ok(_) => {}
                // Two make the group at once.
                Err(Update::Driver(e)) if code(&e) == Some(DUPLICATE) => {}
                Err(e) => return Err(self.update_told(e)),
            }
        }
    }

    fn update_told(&self, error: Update) -> RegistryError {
        match error {
            Update::Driver(e) => self.told(&e, true),
            Update::Registry(e) => e,
        }
    }

    /// Moves the rows before the leader's to the history. What fails here is done at the next opportunity.
    async fn tidy(&self, group: &str, found: &Group) -> Result<(), RegistryError> {
        let leader = found.leader.unwrap_or(0);
        let old: Vec<&Instance> = found.rows.iter().filter(|row| row.id < leader).collect();
        if old.is_empty() {
            return Ok(());
        }
        let (groups, history) = (self.collection("groups").await?, self.collection("instances").await?);
        let mut ids = Vec::new();
        for row in old {
            let Ok(id) = i64::try_from(row.id) else { continue };
            let fields = doc! {
                "_id": id,
                "id": id,
                "group": group,
                "instance": &row.instance,
                "start_time": ::mongodb::bson::DateTime::from_millis(row.start_time_ms),
                "heartbeat": ::mongodb::bson::DateTime::from_millis(row.heartbeat_ms),
                "valid_for_ms": row.valid_for_ms,
                "beats": i64::try_from(row.beats).unwrap_or(i64::MAX),
            };
            history.replace_one(doc! { "_id": id }, fields).upsert(true).await.map_err(|e| self.told(&e, true))?;
            ids.push(id);
        }
        let pull = doc! { "$pull": { "rows": { "id": { "$in": ids } } } };
        groups.update_one(doc! { "_id": group }, pull).await.map(drop).map_err(|e| self.told(&e, true))
    }

    /// Writes one document, in a transaction or alone.
    async fn put_one(&self, put: &Put, session: Option<&mut ClientSession>) -> Result<(), Update> {
        let documents = self.collection("documents").await?;
        let expected = i64::try_from(put.expected).unwrap_or(i64::MAX);
        let key = put.key.as_str();
        let filter = doc! { "_id": key, "version": expected };
        macro_rules! run {
            ($action:expr) => {
                match session {
                    Some(session) => $action.session(session).await,
                    None => $action.await,
                }
                .map_err(Update::Driver)?
            };
        }
        let is_as_expected = match (&put.text, expected) {
            (Some(text), 0) => {
                run!(documents.insert_one(doc! { "_id": key, "version": 1_i64, "text": text }));
                true
            }
            (Some(text), _) => {
                let update = doc! { "$set": { "text": text }, "$inc": { "version": 1_i64 } };
                run!(documents.update_one(filter, update)).matched_count > 0
            }
            (None, 0) => run!(documents.find_one(doc! { "_id": key })).is_none(),
            (None, _) => run!(documents.delete_one(filter)).deleted_count > 0,
        };
        if is_as_expected { Ok(()) } else { Err(RegistryError::Conflict { key: put.key.clone() }.into()) }
    }

    async fn transaction(
        &self,
        batch: &[Put],
        leader: Option<&Leader>,
        may_have: &AtomicBool,
    ) -> Result<(), RegistryError> {
        let client = self.client.get_or_try_init(|| self.connect()).await?;
        let mut session = client.start_session().await.map_err(|e| self.told(&e, false))?;
        loop {
            session
                .start_transaction()
                .read_concern(ReadConcern::snapshot())
                .await
                .map_err(|e| self.told(&e, false))?;
            match self.in_transaction(batch, leader, &mut session, may_have).await {
                Ok(()) => {}
                Err(Update::Driver(e)) if e.contains_label(TRANSIENT_TRANSACTION_ERROR) => {
                    // Somebody else writes the same at the same time, or the primary changed.
                    let _ = session.abort_transaction().await;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    continue;
                }
                Err(other) => {
                    let _ = session.abort_transaction().await;
                    return Err(match other {
                        // Without a commit nothing of it will be there.
                        Update::Driver(e) => self.told(&e, false),
                        Update::Registry(e) => e,
                    });
                }
            }
            may_have.store(true, Ordering::Relaxed);
            loop {
                match session.commit_transaction().await {
                    Ok(()) => return Ok(()),
                    // Asking again is how one learns of it.
                    Err(e) if e.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT) && !self.is_final(&e) => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    Err(e) if e.contains_label(TRANSIENT_TRANSACTION_ERROR) => break,
                    Err(e) => return Err(self.told(&e, true)),
                }
            }
            may_have.store(false, Ordering::Relaxed);
        }
    }

    /// Nothing more can be learnt by asking again.
    fn is_final(&self, error: &Error) -> bool {
        matches!(error.kind.as_ref(), ErrorKind::Write(WriteFailure::WriteConcernError(_)))
    }

    async fn in_transaction(
        &self,
        batch: &[Put],
        leader: Option<&Leader>,
        session: &mut ClientSession,
        may_have: &AtomicBool,
    ) -> Result<(), Update> {
        if let Some(Leader { group, id }) = leader {
            let number = i64::try_from(*id).unwrap_or(i64::MAX);
            let make = |floor| pipeline::lead(floor, number);
            let found = self.update(group, make, false, Some(&mut *session), may_have).await?;
            match found {
                Some(found) if found.ok => {}
                Some(found) if found.leader == Some(*id) => {
                    return Err(RegistryError::NotLeader(format!("the heartbeat of row {id} lapsed")).into());
                }
                _ => {
                    let text = format!("row {id} is not written down as the leader");
                    return Err(RegistryError::NotLeader(text).into());
                }
            }
        }
        for put in batch {
            match self.put_one(put, Some(&mut *session)).await {
                Err(Update::Driver(e)) if code(&e) == Some(DUPLICATE) => {
                    return Err(RegistryError::Conflict { key: put.key.clone() }.into());
                }
                other => other?,
            }
        }
        Ok(())
    }
}

/// Why an update came to nothing.
enum Update {
    Driver(Error),
    Registry(RegistryError),
}

impl From<RegistryError> for Update {
    fn from(error: RegistryError) -> Self {
        Self::Registry(error)
    }
}

fn changes_of(group: &str) -> String {
    format!("the count of changes of the group {group}")
}

fn code(error: &Error) -> Option<i32> {
    match error.kind.as_ref() {
        ErrorKind::Command(command) => Some(command.code),
        ErrorKind::Write(WriteFailure::WriteError(write)) => Some(write.code),
        _ => None,
    }
}

/// A row. Without a time it is history, and lapsed.
fn instance(group: &str, fields: &Fields, now_ms: Option<i64>, leader: Option<u64>) -> Option<Instance> {
    let number = |name: &str| fields.get_i64(name).ok();
    let time = |name: &str| fields.get_datetime(name).ok().map(|at| at.timestamp_millis());
    let (heartbeat_ms, valid_for_ms) = (time("heartbeat")?, number("valid_for_ms")?);
    let id = u64::try_from(number("id")?).ok()?;
    Some(Instance {
        id,
        group: group.to_owned(),
        instance: fields.get_str("instance").ok()?.to_owned(),
        start_time_ms: time("start_time")?,
        heartbeat_ms,
        valid_for_ms,
        is_valid: now_ms.is_some_and(|now| {
            now < heartbeat_ms.saturating_add(valid_for_ms) && heartbeat_ms <= now.saturating_add(valid_for_ms)
        }),
        is_leader: leader == Some(id),
        beats: u64::try_from(number("beats")?).ok()?,
    })
}

fn document(fields: &Fields) -> Option<Document> {
    Some(Document {
        key: fields.get_str("_id").ok()?.to_owned(),
        version: u64::try_from(fields.get_i64("version").ok()?).ok()?,
        text: fields.get_str("text").ok()?.to_owned(),
    })
}

#[async_trait]
impl Registry for Mongodb {
    fn label(&self) -> String {
        format!("mongodb at {}/{}", self.places, self.database)
    }

    async fn prepare(&self) -> Result<(), RegistryError> {
        let nothing = AtomicBool::new(false);
        let make = async {
            let failed = |e: Error| self.told(&e, false);
            // A collection is made by its first write; in a transaction older servers refuse that.
            let counters = self.collection("counters").await?;
            let database = counters.client().database(&self.database);
            for name in ["groups", "instances", "documents"] {
                let made = database.create_collection(format!("{}_{name}", self.prefix)).await;
                // 48: it is there.
                if let Err(e) = made
                    && code(&e) != Some(48)
                {
                    return Err(failed(e));
                }
            }
            let touch = doc! { "$max": { "n": 0_i64 } };
            match counters.update_one(doc! { "_id": "id" }, touch).upsert(true).await {
                Err(e) if code(&e) == Some(DUPLICATE) => Ok(()),
                other => other.map(drop).map_err(failed),
            }
        };
        self.within(&nothing, make).await
    }

    async fn beat(&self, beat: &Beat) -> Result<Beaten, RegistryError> {
        names::name("group", &beat.group)?;
        names::name("instance", &beat.instance)?;
        let may_have = AtomicBool::new(false);
        let work = async {
            let mut touched = None;
            if let Some(id) = beat.id.and_then(|id| i64::try_from(id).ok()) {
                let make = |floor| pipeline::touch(floor, id, &beat.instance, milliseconds(beat.valid_for));
                let found = self.update(&beat.group, make, false, None, &may_have).await;
                let found = found.map_err(|e| self.update_told(e))?;
                touched = found.filter(|found| found.ok).and_then(|found| Some((beat.id?, found)));
            }
            match touched {
                Some(touched) => Ok(touched),
                None => self.insert(beat, &may_have).await,
            }
        };
        let (id, found) = self.within(&may_have, work).await?;
        if let Ok(Err(e)) = timeout(self.timeout, self.tidy(&beat.group, &found)).await {
            tracing::debug!(error = %e, "Rows before the leader's were not moved to the history yet.");
        }
        let leader = found.leader;
        let rows = found.rows.into_iter().filter(|row| leader.is_none_or(|leader| row.id >= leader)).collect();
        Ok(Beaten { id, now_ms: found.now_ms, leader, rows })
    }

    async fn claim(&self, leader: &Leader) -> Result<(), RegistryError> {
        names::name("group", &leader.group)?;
        let may_have = AtomicBool::new(false);
        let Ok(id) = i64::try_from(leader.id) else {
            return Err(RegistryError::NotLeader(format!("row {} is not in the table", leader.id)));
        };
        let work = async {
            let update = self.update(&leader.group, |floor| pipeline::claim(floor, id), false, None, &may_have).await;
            update.map_err(|e| self.update_told(e))
        };
        let Some(found) = self.within(&may_have, work).await? else {
            return Err(RegistryError::NotLeader(format!("the group {} has no rows", leader.group)));
        };
        if found.ok {
            return Ok(());
        }
        let own = found.rows.iter().find(|row| row.id == leader.id);
        let before = found.rows.iter().find(|row| row.is_valid && row.id < leader.id);
        Err(RegistryError::NotLeader(match (found.leader, own, before) {
            (Some(other), ..) if other > leader.id => format!("row {other} is written down as the leader"),
            (_, None, _) => format!("row {} is not in the table", leader.id),
            (_, Some(own), _) if !own.is_valid => format!("the heartbeat of row {} lapsed", leader.id),
            (_, _, Some(before)) => format!("row {} stands before it and is valid", before.id),
            _ => format!("row {} cannot lead", leader.id),
        }))
    }

    async fn leave(&self, group: &str, id: u64) -> Result<(), RegistryError> {
        names::name("group", group)?;
        let Ok(id) = i64::try_from(id) else { return Ok(()) };
        let may_have = AtomicBool::new(false);
        let work = async {
            let update = self.update(group, |floor| pipeline::leave(floor, id), false, None, &may_have).await;
            update.map(drop).map_err(|e| self.update_told(e))
        };
        self.within(&may_have, work).await
    }

    async fn instances(&self, group: Option<&str>, limit: u32) -> Result<Vec<Instance>, RegistryError> {
        if let Some(group) = group {
            names::name("group", group)?;
        }
        let nothing = AtomicBool::new(false);
        let work = async {
            let failed = |e: Error| self.told(&e, false);
            let (groups, history) = (self.collection("groups").await?, self.collection("instances").await?);
            let (one, of) = match group {
                Some(group) => (doc! { "_id": group }, doc! { "group": group }),
                None => (doc! {}, doc! {}),
            };
            // The server's time comes with its answer to a greeting; what is valid is for people here.
            let hello = groups.client().database("admin").run_command(doc! { "hello": 1 }).await.map_err(failed)?;
            let now_ms = hello.get_datetime("localTime").ok().map(|at| at.timestamp_millis());
            let mut rows = Vec::new();
            // The groups first: a row that is moved meanwhile is seen twice rather than not at all.
            let mut found: Vec<Fields> = groups.find(one).await.map_err(failed)?.try_collect().await.map_err(failed)?;
            for fields in found.drain(..) {
                let name = fields.get_str("_id").unwrap_or_default();
                let leader = fields.get_i64("leader").ok().and_then(|id| u64::try_from(id).ok()).filter(|id| *id > 0);
                let own = fields.get_array("rows").map_or(&[][..], Vec::as_slice).iter();
                rows.extend(own.filter_map(|row| instance(name, row.as_document()?, now_ms, leader)));
            }
            let old: Vec<Fields> = history
                .find(of)
                .sort(doc! { "_id": -1 })
                .limit(i64::from(limit))
                .await
                .map_err(failed)?
                .try_collect()
                .await
                .map_err(failed)?;
            rows.extend(old.iter().filter_map(|row| instance(row.get_str("group").ok()?, row, None, None)));
            // Of a row that stands in both, the living one.
            rows.sort_by_key(|row| (std::cmp::Reverse(row.id), !row.is_valid));
            rows.dedup_by_key(|row| row.id);
            rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
            Ok(rows)
        };
        self.within(&nothing, work).await
    }

    async fn get(&self, key: &str) -> Result<Option<Document>, RegistryError> {
        names::key(key)?;
        let nothing = AtomicBool::new(false);
        let work = async {
            let documents = self.collection("documents").await?;
            let found = documents.find_one(doc! { "_id": key }).read_concern(ReadConcern::linearizable()).await;
            let found = found.map_err(|e| self.told(&e, false))?;
            Ok(found.as_ref().and_then(document))
        };
        self.within(&nothing, work).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Document>, RegistryError> {
        names::prefix(prefix)?;
        let nothing = AtomicBool::new(false);
        let work = async {
            let failed = |e: Error| self.told(&e, false);
            let (documents, counters) = (self.collection("documents").await?, self.collection("counters").await?);
            let mut session = documents.client().start_session().await.map_err(failed)?;
            // A write that a majority has proves that this is the primary still, and what was before it.
            let barrier = doc! { "$inc": { "n": 1_i64 } };
            counters
                .update_one(doc! { "_id": "reads" }, barrier)
                .upsert(true)
                .session(&mut session)
                .await
                .map_err(failed)?;
            // Keys are printable ASCII: the first byte beyond them ends all that begin so.
            let range = doc! { "_id": { "$gte": prefix, "$lt": format!("{prefix}\u{7f}") } };
            let mut cursor =
                documents.find(range).sort(doc! { "_id": 1 }).session(&mut session).await.map_err(failed)?;
            let mut found = Vec::new();
            while let Some(fields) = cursor.next(&mut session).await {
                found.extend(document(&fields.map_err(failed)?));
            }
            Ok(found)
        };
        self.within(&nothing, work).await
    }

    async fn put(&self, batch: &[Put], leader: Option<&Leader>) -> Result<(), RegistryError> {
        names::batch(batch)?;
        if let Some(leader) = leader {
            names::name("group", &leader.group)?;
        }
        let may_have = AtomicBool::new(false);
        let work = async {
            match (batch, leader) {
                ([], None) => Ok(()),
                ([put], None) => {
                    // Nothing is sent before there is a connection.
                    self.collection("documents").await?;
                    may_have.store(true, Ordering::Relaxed);
                    match self.put_one(put, None).await {
                        Ok(()) => Ok(()),
                        Err(Update::Registry(e)) => Err(e),
                        Err(Update::Driver(e)) if code(&e) == Some(DUPLICATE) => {
                            Err(RegistryError::Conflict { key: put.key.clone() })
                        }
                        Err(Update::Driver(e)) => Err(self.told(&e, true)),
                    }
                }
                _ => self.transaction(batch, leader, &may_have).await,
            }
        };
        self.within(&may_have, work).await
    }
}

#[cfg(test)]
mod tests {
    use ::mongodb::bson::Bson;

    use super::*;

    #[test]
    fn an_address_is_mongodbs_own_and_shows_no_password() {
        let open = |url: &str| Mongodb::open(url, &Options::default());
        let label = open("mongodb://me:hunter2@a:1,b:2/orders?replicaSet=rs0").map(|m| m.label());
        assert_eq!(label, Ok("mongodb at a:1,b:2/orders".into()));
        assert_eq!(open("mongodb://a").map(|m| m.label()), Ok("mongodb at a/coroner".into()));
        for url in ["mongodb://me:hunter2@", "mongodb://me:hunter2@a/?w=x&w=y&retryWrites=perhaps"] {
            let told = open(url).err().unwrap();
            assert!(!told.contains("hunter2"), "{told}");
        }
    }

    #[test]
    fn a_row_is_valid_by_the_servers_clock() {
        let at = |ms| Bson::DateTime(::mongodb::bson::DateTime::from_millis(ms));
        let row = doc! { "id": 3_i64, "instance": "a", "start_time": at(0), "heartbeat": at(1_000),
        "valid_for_ms": 100_i64, "beats": 1_i64 };
        let valid_at = |now| instance("g", &row, Some(now), None).unwrap().is_valid;
        assert_eq!([899, 900, 1_099, 1_100].map(valid_at), [false, true, true, false]);
        assert!(!instance("g", &row, None, None).unwrap().is_valid, "history");
    }
}

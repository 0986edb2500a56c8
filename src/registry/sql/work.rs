//! What is done within the transactions.

use async_trait::async_trait;

use super::{Arg, Cell, Meaning, Session, SqlRegistry, Stop, Work, session::number};
use crate::registry::{Beat, Beaten, Document, Instance, Leader, Put, Registry, RegistryError, names};

const INSTANCES: &str = "instances";
const DOCUMENTS: &str = "documents";
const NEWEST_ID: &str = "the newest id";
const WRITES: &str = "the number of writes to documents";

fn leader_mark(group: &str) -> String {
    format!("the leader of {group}")
}

fn beats_mark(id: u64) -> String {
    format!("the number of heartbeats of row {id}")
}

#[async_trait]
impl Registry for SqlRegistry {
    fn label(&self) -> String {
        self.dialect.label()
    }

    async fn prepare(&self) -> Result<(), RegistryError> {
        // Who may not make tables may still use those that are there.
        let budget = self.budget();
        if self.perform_within(&Probe, &budget).await? {
            return Ok(());
        }
        self.perform_within(&Prepare, &budget).await?;
        match self.perform_within(&Probe, &budget).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(RegistryError::Failed(format!(
                "{}: rows of the counters are missing though the tables are there: restore the tables from a backup, \
                 or drop them all",
                self.label()
            ))),
            Err(error) => Err(error),
        }
    }

    async fn beat(&self, beat: &Beat) -> Result<Beaten, RegistryError> {
        names::name("group", &beat.group)?;
        names::name("instance", &beat.instance)?;
        let beaten = self.perform(&Beating(beat)).await?;
        // What was written is a mark only once it is committed.
        self.seen.note(NEWEST_ID, 0, beaten.id)?;
        if let Some(own) = beaten.rows.iter().find(|row| row.id == beaten.id) {
            self.seen.note(&beats_mark(own.id), 0, own.beats)?;
        }
        if let Some(former) = beat.id.filter(|id| *id != beaten.id) {
            self.seen.forget(&beats_mark(former));
        }
        Ok(beaten)
    }

    async fn claim(&self, leader: &Leader) -> Result<(), RegistryError> {
        names::name("group", &leader.group)?;
        self.perform(&Claim(leader)).await?;
        self.seen.note(&leader_mark(&leader.group), 0, leader.id)
    }

    async fn leave(&self, group: &str, id: u64) -> Result<(), RegistryError> {
        names::name("group", group)?;
        self.perform(&Leave { group, id }).await?;
        self.seen.forget(&beats_mark(id));
        Ok(())
    }

    async fn instances(&self, group: Option<&str>, limit: u32) -> Result<Vec<Instance>, RegistryError> {
        if let Some(group) = group {
            names::name("group", group)?;
        }
        self.perform(&Newest { group, limit }).await
    }

    async fn get(&self, key: &str) -> Result<Option<Document>, RegistryError> {
        names::key(key)?;
        Ok(self.perform(&Read { from: key, below: None }).await?.pop())
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Document>, RegistryError> {
        names::prefix(prefix)?;
        // Keys are printable ASCII: all that begin with the prefix stand before it with a DEL.
        self.perform(&Read { from: prefix, below: Some(format!("{prefix}\u{7f}")) }).await
    }

    async fn put(&self, batch: &[Put], leader: Option<&Leader>) -> Result<(), RegistryError> {
        names::batch(batch)?;
        if let Some(leader) = leader {
            names::name("group", &leader.group)?;
        }
        let writes = self.perform(&Putting { batch, leader }).await?;
        self.seen.note(WRITES, 0, writes)
    }
}

/// Whether the tables are there, of a schema that this program knows.
struct Probe;

#[async_trait]
impl Work for Probe {
    type Output = bool;

    fn name(&self) -> String {
        "looking at the tables".into()
    }

    fn is_read(&self) -> bool {
        true
    }

    async fn run(&self, registry: &SqlRegistry, session: &mut dyn Session) -> Result<bool, Stop> {
        let rows = match session.rows(&registry.statements.probe, &[]).await {
            Ok(rows) => rows,
            Err(error) if registry.dialect.meaning(&error) == Meaning::NoTable => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let first = rows.first().map(Vec::as_slice).unwrap_or_default();
        let schema = first.first().map_or(Ok(0), Cell::whole)?;
        if schema > 1 {
            return Err(RegistryError::Failed(format!(
                "{}: a newer Coroner made its tables (schema {schema}, this one knows 1): run that version",
                registry.label()
            ))
            .into());
        }
        Ok(schema == 1 && first.get(1).map_or(Ok(0), Cell::whole)? == 2)
    }
}

struct Prepare;

#[async_trait]
impl Work for Prepare {
    type Output = ();

    fn name(&self) -> String {
        "making the tables".into()
    }

    async fn run(&self, registry: &SqlRegistry, session: &mut dyn Session) -> Result<(), Stop> {
        Ok(session.script(&registry.statements.schema).await?)
    }
}

/// A group, as one statement saw it.
struct Look {
    now_ms: i64,
    leader: u64,
    newest_id: u64,
    rows: Vec<Instance>,
}

fn instance(row: Vec<Cell>) -> Result<(Instance, u64, i64, u64), sqlx::Error> {
    let short = |row: Vec<Cell>| sqlx::Error::Protocol(format!("a row of instances has {} columns", row.len()));
    let [id, group, name, start, heartbeat, valid_for, is_valid, beats, leader, now, newest] =
        <[Cell; 11]>::try_from(row).map_err(short)?;
    let (id, leader) = (id.whole()?, leader.whole()?);
    let found = Instance {
        id,
        group: group.text()?.unwrap_or_default(),
        instance: name.text()?.unwrap_or_default(),
        start_time_ms: start.signed()?,
        heartbeat_ms: heartbeat.signed()?,
        valid_for_ms: valid_for.signed()?,
        is_valid: is_valid.signed()? == 1,
        is_leader: id == leader,
        beats: beats.whole()?,
    };
    Ok((found, leader, now.signed()?, newest.whole()?))
}

async fn look(registry: &SqlRegistry, session: &mut dyn Session, group: &str) -> Result<Look, Stop> {
    let mark = leader_mark(group);
    let before = registry.seen.mark(&mark);
    let mut look = Look { now_ms: 0, leader: 0, newest_id: 0, rows: Vec::new() };
    for row in session.rows(&registry.statements.look, &[Arg::Text(group)]).await? {
        let (found, leader, now_ms, newest_id) = instance(row)?;
        (look.leader, look.now_ms, look.newest_id) = (leader, now_ms, newest_id);
        look.rows.push(found);
    }
    // Without a row nothing was read of the rest.
    if !look.rows.is_empty() {
        registry.seen.note(&mark, before, look.leader)?;
    }
    Ok(look)
}

struct Beating<'a>(&'a Beat);

impl Beating<'_> {
    /// A new row, with an id that was never there.
    async fn insert(&self, registry: &SqlRegistry, session: &mut dyn Session, valid_for: i64) -> Result<u64, Stop> {
        let (statements, beat) = (&registry.statements, self.0);
        let before = registry.seen.mark(NEWEST_ID);
        let counter = session.rows(&statements.counter, &[Arg::Text(INSTANCES)]).await?;
        let counter = counter.first().and_then(|row| row.first()).ok_or_else(|| registry.no_counter(INSTANCES))?;
        let mut newest = counter.whole()?;
        registry.seen.note(NEWEST_ID, before, newest)?;
        for cell in session.rows(&statements.largest, &[]).await?.iter().flatten() {
            newest = newest.max(cell.whole()?);
        }
        let id = newest + 1;
        session.change(&statements.set_counter, &[number(id), Arg::Text(INSTANCES)]).await?;
        let args = [number(id), Arg::Text(&beat.group), Arg::Text(&beat.instance), Arg::Number(valid_for)];
        session.change(&statements.insert, &args).await?;
        let group = [Arg::Text(&beat.group)];
        if let Some(oldest) = session.rows(&statements.oldest, &group).await?.first().and_then(|row| row.first()) {
            session.change(&statements.trim, &[group[0], Arg::Number(oldest.signed()?)]).await?;
        }
        Ok(id)
    }
}

#[async_trait]
impl Work for Beating<'_> {
    type Output = Beaten;

    fn name(&self) -> String {
        format!("the heartbeat of {} in {}", self.0.instance, self.0.group)
    }

    async fn run(&self, registry: &SqlRegistry, session: &mut dyn Session) -> Result<Beaten, Stop> {
        let (statements, beat) = (&registry.statements, self.0);
        let valid_for = i64::try_from(beat.valid_for.as_millis()).unwrap_or(i64::MAX / 4).max(1);
        let newest_before = registry.seen.mark(NEWEST_ID);
        let mut touched = None;
        let mut beats_before = 0;
        if let Some(id) = beat.id {
            beats_before = registry.seen.mark(&beats_mark(id));
            let args = [Arg::Number(valid_for), number(id), Arg::Text(&beat.group)];
            if session.change(&statements.touch, &args).await? > 0 {
                touched = Some(id);
            } else {
                // It lapsed, was deleted, or the database was set back to before it.
                let rows = session.rows(&statements.beats, &[number(id), Arg::Text(&beat.group)]).await?;
                if let Some(cell) = rows.first().and_then(|row| row.first()) {
                    registry.seen.note(&beats_mark(id), beats_before, cell.whole()?)?;
                }
            }
        }
        let id = match touched {
            Some(id) => id,
            None => self.insert(registry, session, valid_for).await?,
        };
        let mut found = look(registry, session, &beat.group).await?;
        if found.rows.iter().any(|row| row.heartbeat_ms > found.now_ms + 1_000) {
            session.change(&statements.restamp, &[Arg::Text(&beat.group)]).await?;
            found = look(registry, session, &beat.group).await?;
        }
        let Some(own) = found.rows.iter().find(|row| row.id == id) else {
            // Deleted, or overtaken by a leader, between two statements.
            return Err(Stop::Again);
        };
        if touched.is_some() {
            registry.seen.note(&beats_mark(id), beats_before, own.beats.saturating_sub(1))?;
            registry.seen.note(NEWEST_ID, newest_before, found.newest_id)?;
        }
        let leader = (found.leader > 0).then_some(found.leader);
        Ok(Beaten { id, now_ms: found.now_ms, leader, rows: found.rows })
    }
}

/// The id that is written down, kept from others until the transaction ends; 0 if there is none.
async fn locked_leader(registry: &SqlRegistry, session: &mut dyn Session, group: &str) -> Result<Option<u64>, Stop> {
    let mark = leader_mark(group);
    let before = registry.seen.mark(&mark);
    let rows = session.rows(&registry.statements.leader, &[Arg::Text(group)]).await?;
    let leader = rows.first().and_then(|row| row.first()).map(Cell::whole).transpose()?;
    registry.seen.note(&mark, before, leader.unwrap_or(0))?;
    Ok(leader)
}

struct Claim<'a>(&'a Leader);

#[async_trait]
impl Work for Claim<'_> {
    type Output = ();

    fn name(&self) -> String {
        format!("writing down row {} as the leader of {}", self.0.id, self.0.group)
    }

    async fn run(&self, registry: &SqlRegistry, session: &mut dyn Session) -> Result<(), Stop> {
        let (statements, Leader { group, id }) = (&registry.statements, self.0);
        let refuse = |why: String| Err(Stop::Answer(RegistryError::NotLeader(why)));
        let written = match locked_leader(registry, session, group).await? {
            Some(leader) => leader,
            None => match session.change(&statements.first_leader, &[Arg::Text(group)]).await {
                Ok(_) => 0,
                Err(error) if registry.dialect.meaning(&error) == Meaning::Taken => return Err(Stop::Again),
                Err(error) => return Err(error.into()),
            },
        };
        if written > *id {
            return refuse(format!("row {written} leads {group} already, which is newer than row {id}"));
        }
        let found = look(registry, session, group).await?;
        let Some(own) = found.rows.iter().find(|row| row.id == *id) else {
            return refuse(format!("row {id} is not in {group}"));
        };
        if !own.is_valid {
            return refuse(format!("the heartbeat of row {id} of {group} lapsed"));
        }
        if let Some(other) = found.rows.iter().find(|row| row.id < *id && row.is_valid) {
            return refuse(format!(
                "row {} of {group} ({}) stands before row {id} and is valid",
                other.id, other.instance
            ));
        }
        if written < *id {
            session.change(&statements.set_leader, &[number(*id), Arg::Text(group)]).await?;
        }
        Ok(())
    }
}

struct Leave<'a> {
    group: &'a str,
    id: u64,
}

#[async_trait]
impl Work for Leave<'_> {
    type Output = ();

    fn name(&self) -> String {
        format!("letting row {} of {} lapse", self.id, self.group)
    }

    async fn run(&self, registry: &SqlRegistry, session: &mut dyn Session) -> Result<(), Stop> {
        // By the length of its validity, not by its heartbeat: no clock that is set back makes it valid again.
        session.change(&registry.statements.leave, &[number(self.id), Arg::Text(self.group)]).await?;
        Ok(())
    }
}

struct Newest<'a> {
    group: Option<&'a str>,
    limit: u32,
}

#[async_trait]
impl Work for Newest<'_> {
    type Output = Vec<Instance>;

    fn name(&self) -> String {
        "listing instances".into()
    }

    fn is_read(&self) -> bool {
        true
    }

    async fn run(&self, registry: &SqlRegistry, session: &mut dyn Session) -> Result<Vec<Instance>, Stop> {
        let limit = Arg::Number(self.limit.into());
        let rows = match self.group {
            Some(group) => session.rows(&registry.statements.newest, &[Arg::Text(group), limit]).await?,
            None => session.rows(&registry.statements.newest_of_all, &[limit]).await?,
        };
        Ok(rows.into_iter().map(|row| instance(row).map(|found| found.0)).collect::<Result<_, _>>()?)
    }
}

struct Read<'a> {
    from: &'a str,
    below: Option<String>,
}

#[async_trait]
impl Work for Read<'_> {
    type Output = Vec<Document>;

    fn name(&self) -> String {
        format!("reading {}", self.from)
    }

    fn is_read(&self) -> bool {
        true
    }

    async fn run(&self, registry: &SqlRegistry, session: &mut dyn Session) -> Result<Vec<Document>, Stop> {
        let before = registry.seen.mark(WRITES);
        let rows = match &self.below {
            Some(below) => session.rows(&registry.statements.list, &[Arg::Text(self.from), Arg::Text(below)]).await?,
            None => session.rows(&registry.statements.get, &[Arg::Text(self.from)]).await?,
        };
        let mut documents = Vec::new();
        let mut writes = None;
        for row in rows {
            let [count, key, version, text] = <[Cell; 4]>::try_from(row)
                .map_err(|row| sqlx::Error::Protocol(format!("a row of documents has {} columns", row.len())))?;
            writes = Some(count.whole()?);
            if let Some(key) = key.text()? {
                documents.push(Document { key, version: version.whole()?, text: text.text()?.unwrap_or_default() });
            }
        }
        registry.seen.note(WRITES, before, writes.ok_or_else(|| registry.no_counter(DOCUMENTS))?)?;
        Ok(documents)
    }
}

struct Putting<'a> {
    batch: &'a [Put],
    leader: Option<&'a Leader>,
}

#[async_trait]
impl Work for Putting<'_> {
    type Output = u64;

    fn name(&self) -> String {
        let keys: Vec<&str> = self.batch.iter().map(|put| put.key.as_str()).take(3).collect();
        format!("writing {}{}", keys.join(", "), if self.batch.len() > 3 { ", …" } else { "" })
    }

    async fn run(&self, registry: &SqlRegistry, session: &mut dyn Session) -> Result<u64, Stop> {
        let statements = &registry.statements;
        if let Some(Leader { group, id }) = self.leader {
            let refuse = |why: String| Err(Stop::Answer(RegistryError::NotLeader(why)));
            let written = locked_leader(registry, session, group).await?.unwrap_or(0);
            if written != *id {
                return refuse(format!("row {id} does not lead {group}: row {written} is written down"));
            }
            let rows = session.rows(&statements.is_valid, &[number(*id), Arg::Text(group)]).await?;
            if rows.first().and_then(|row| row.first()) != Some(&Cell::Number(1)) {
                return refuse(format!("the heartbeat of row {id}, which led {group}, lapsed"));
            }
        }
        let before = registry.seen.mark(WRITES);
        let counter = session.rows(&statements.counter, &[Arg::Text(DOCUMENTS)]).await?;
        let counter = counter.first().and_then(|row| row.first()).ok_or_else(|| registry.no_counter(DOCUMENTS))?;
        let writes = counter.whole()?;
        registry.seen.note(WRITES, before, writes)?;
        for put in self.batch {
            let (key, expected) = (Arg::Text(&put.key), number(put.expected));
            let is_as_expected = match (&put.text, put.expected) {
                (Some(text), 0) => match session.change(&statements.insert_document, &[key, Arg::Text(text)]).await {
                    Ok(_) => true,
                    Err(error) if registry.dialect.meaning(&error) == Meaning::Taken => false,
                    Err(error) => return Err(error.into()),
                },
                (None, 0) => session.rows(&statements.has_document, &[key]).await?.is_empty(),
                (Some(text), _) => {
                    session.change(&statements.update_document, &[Arg::Text(text), key, expected]).await? == 1
                }
                (None, _) => session.change(&statements.delete_document, &[key, expected]).await? == 1,
            };
            if !is_as_expected {
                return Err(RegistryError::Conflict { key: put.key.clone() }.into());
            }
        }
        session.change(&statements.set_counter, &[number(writes + 1), Arg::Text(DOCUMENTS)]).await?;
        Ok(writes + 1)
    }
}

impl SqlRegistry {
    fn no_counter(&self, name: &str) -> Stop {
        Stop::Answer(RegistryError::Failed(format!(
            "{}: the row `{name}` of the counters is missing, and without it nothing is safe: restore it, with a \
             number that is larger than any that was used; nothing was written",
            self.label()
        )))
    }
}

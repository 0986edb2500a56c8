//! What may be lost in a power cut and is bounded: observations, verdicts, spooled reports. And the trimming.

use std::collections::HashMap;

use serde::Serialize;
use sqlx::SqliteConnection;

use super::{Inner, STAGE, Writers, connect, fault, rows};
use crate::{
    model::{Fact, Observation, Observer, Outcome, observation::RoleReport},
    store::{StoreError, VerdictLine},
};

/// Rows of one transaction: an intent waits for at most one of these.
const CHUNK: usize = 1_000;
/// The same for deleting.
const TRIM_CHUNK: i64 = 2_000;
/// Reports older than this are not worth sending any more.
const SPOOL_FOR_MS: i64 = 40 * 24 * 3_600 * 1_000;

/// One row of the history: like outcomes of one stream that followed one another in one batch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HistoryLine {
    /// The first of them, in milliseconds since 1970.
    pub first_ms: i64,
    /// The last of them.
    pub last_ms: i64,
    /// How many.
    pub count: u64,
    /// The cluster.
    pub cluster: String,
    /// The signal.
    pub signal: String,
    /// Who looked: `arbiter`, `member broker-a`, `node node-1`.
    pub observer: String,
    /// At whom.
    pub subject: Option<String>,
    /// Whether looking succeeded; `None` for a failure that says nothing of the subject.
    pub ok: Option<bool>,
    /// The last one's number: sequence, counter, position, latency in milliseconds, 0 or 1 for a state.
    pub value: Option<f64>,
    /// What was seen, without its number.
    pub text: String,
}

/// Observations as rows. What follows one another in one stream of the batch and tells the same, apart from its number,
/// becomes one row with a count: a hundred thousand heartbeats are as many rows as there are senders.
#[must_use]
pub fn coalesce(unix_ms: i64, batch: &[Observation]) -> Vec<HistoryLine> {
    let Some(newest) = batch.iter().map(|o| o.at).max() else { return Vec::new() };
    let mut lines: Vec<HistoryLine> = Vec::new();
    let mut last_of = HashMap::new();
    for seen in batch {
        let age_ms = i64::try_from(newest.since(seen.at).as_millis()).unwrap_or(i64::MAX);
        let at_ms = unix_ms.saturating_sub(age_ms);
        let stream = (&seen.cluster, &seen.signal, &seen.observer, &seen.subject);
        let (ok, value, text) = words(&seen.outcome);
        if let Some(line) = last_of.get(&stream).and_then(|&i: &usize| lines.get_mut(i))
            && line.ok == ok
            && line.text == text
        {
            line.count += 1;
            line.last_ms = line.last_ms.max(at_ms);
            line.value = value;
            continue;
        }
        last_of.insert(stream, lines.len());
        lines.push(HistoryLine {
            first_ms: at_ms,
            last_ms: at_ms,
            count: 1,
            cluster: seen.cluster.to_string(),
            signal: seen.signal.to_string(),
            observer: match &seen.observer {
                Observer::Arbiter => "arbiter".into(),
                Observer::Member(name) => format!("member {name}"),
                Observer::Node(name) => format!("node {name}"),
                Observer::Peer(name) => format!("arbiter {name}"),
            },
            subject: seen.subject.as_ref().map(ToString::to_string),
            ok,
            value,
            text,
        });
    }
    lines
}

#[expect(clippy::cast_precision_loss, reason = "for people; a counter beyond 2^53 loses its last digits here only")]
fn words(outcome: &Outcome) -> (Option<bool>, Option<f64>, String) {
    let fact = match outcome {
        Outcome::Fact(fact) => fact,
        Outcome::Failure(failure) => return (failure.kind.is_evidence().then_some(false), None, failure.to_string()),
    };
    let state = |is: bool| Some(if is { 1.0 } else { 0.0 });
    let (value, text) = match fact {
        Fact::Beat { seq, echoed } => (Some(*seq as f64), if *echoed { "beat, echoed" } else { "beat" }.into()),
        Fact::Arrivals(report) => {
            let of = report.primary.as_ref().map_or_else(String::new, |p| format!(" from {p}"));
            (Some(report.received as f64), format!("arrivals{of}, epoch {}", report.epoch))
        }
        Fact::Ok { latency } => (Some(latency.as_secs_f64() * 1e3), "answered".into()),
        Fact::Role(report) => (report.position.map(|p| p as f64), role(report)),
        Fact::Position { position } => (Some(*position as f64), "position".into()),
        Fact::Link { up, .. } => (state(*up), if *up { "link up" } else { "link down" }.into()),
        Fact::Writable(yes) => (state(*yes), if *yes { "writable" } else { "not writable" }.into()),
        Fact::Value(value) => (Some(*value), "value".into()),
        Fact::Text(text) => (None, text.clone()),
        Fact::Process { running, detail } => {
            (state(*running), format!("{}: {detail}", if *running { "running" } else { "ended" }))
        }
        Fact::Canary { latency } => (Some(latency.as_secs_f64() * 1e3), "canary arrived".into()),
        Fact::Alert { firing } => (state(*firing), if *firing { "firing" } else { "resolved" }.into()),
        Fact::Agent(report) => (Some(report.epoch.0 as f64), format!("agent, epoch {}", report.epoch)),
        Fact::Reaches(parties) => {
            let names: Vec<&str> = parties.iter().map(crate::model::PartyName::as_str).collect();
            (Some(parties.len() as f64), format!("reaches {}", names.join(", ")))
        }
    };
    (Some(true), value, text)
}

fn role(report: &RoleReport) -> String {
    let mut text = report.role.to_string();
    if let Some(follows) = &report.follows {
        text = format!("{text} of {follows}");
    }
    match report.link_up {
        Some(true) => text + ", link up",
        Some(false) => text + ", link down",
        None => text,
    }
}

async fn history<'w>(inner: &Inner, writers: &'w mut Writers) -> Result<&'w mut SqliteConnection, StoreError> {
    if writers.history.is_none() {
        writers.history = Some(connect::open(&inner.path, connect::Use::History).await?);
    }
    writers.history.as_mut().ok_or_else(|| fault::failed(&inner.path, "opening it", "no connection"))
}

/// Runs single statements on the history's connection, bounded in time. Each statement is a transaction of its own, or
/// `work` begins and ends one.
async fn with_history<T>(
    inner: &Inner,
    doing: &str,
    work: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T, sqlx::Error>,
) -> Result<T, StoreError> {
    let mut writers = inner.writers().await?;
    let conn = history(inner, &mut writers).await?;
    match tokio::time::timeout(STAGE, work(&mut *conn)).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(e)) => {
            // Whatever was begun is rolled back when the connection closes.
            writers.history = None;
            Err(fault::sql(&inner.path, doing, &e))
        }
        Err(_) => {
            writers.history = None;
            Err(fault::failed(&inner.path, doing, "the disk does not answer"))
        }
    }
}

/// Adds lines, a bounded number in each transaction.
pub(super) async fn append(inner: &Inner, lines: &[HistoryLine]) -> Result<(), StoreError> {
    for chunk in lines.chunks(CHUNK) {
        let json = rows::json(&chunk)?;
        with_history(inner, "adding observations", async |conn: &mut SqliteConnection| {
            let query = "INSERT INTO observations \
                         (first_ms, last_ms, count, cluster, signal, observer, subject, ok, value, text) \
                         SELECT value ->> 'first_ms', value ->> 'last_ms', value ->> 'count', value ->> 'cluster', \
                         value ->> 'signal', value ->> 'observer', value ->> 'subject', value ->> 'ok', \
                         value ->> 'value', value ->> 'text' FROM json_each(?1)";
            sqlx::query(query).bind(&json).execute(conn).await
        })
        .await?;
    }
    Ok(())
}

pub(super) async fn append_verdict(inner: &Inner, line: &VerdictLine) -> Result<(), StoreError> {
    with_history(inner, "adding a verdict", async |conn: &mut SqliteConnection| {
        let query =
            "INSERT INTO verdicts (unix_ms, cluster, from_verdict, to_verdict, rule) VALUES (?1, ?2, ?3, ?4, ?5)";
        let query = sqlx::query(query).bind(line.unix_ms).bind(line.cluster.as_str());
        let query = query.bind(line.from.as_str()).bind(line.to.as_str());
        query.bind(line.rule.as_ref().map(crate::model::RuleName::as_str)).execute(conn).await
    })
    .await?;
    Ok(())
}

/// Keeps a report. It gets a new number even if it replaces an older one, so that removing the older one, which may be
/// on its way just now, does not remove this.
pub(super) async fn spool(inner: &Inner, reporter: &str, key: &str, json: &str) -> Result<(), StoreError> {
    let sum = rows::checksum(&["spool", &format!("{reporter}: {key}"), json]);
    with_history(inner, "spooling a report", async |conn: &mut SqliteConnection| {
        let query = "INSERT OR REPLACE INTO spool (reporter, key, json, sha256) VALUES (?1, ?2, ?3, ?4)";
        sqlx::query(query).bind(reporter).bind(key).bind(json).bind(&sum).execute(conn).await
    })
    .await?;
    Ok(())
}

pub(super) async fn unspool(inner: &Inner, number: i64) -> Result<(), StoreError> {
    with_history(inner, "removing a sent report", async |conn: &mut SqliteConnection| {
        sqlx::query("DELETE FROM spool WHERE number = ?1").bind(number).execute(conn).await
    })
    .await?;
    Ok(())
}

/// Forgets what is beyond the bounds, in small steps between which intents get through.
pub(super) async fn trim(inner: &Inner) -> Result<(), StoreError> {
    let keep_ms = i64::try_from(inner.bounds.keep_for.as_millis()).unwrap_or(i64::MAX);
    let at_most = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let bounds = inner.bounds;

    let observations = "DELETE FROM observations WHERE id IN (SELECT id FROM observations ORDER BY id LIMIT ?1) \
                        AND (last_ms < unixepoch('subsec') * 1000 - ?2 \
                             OR id <= (SELECT max(id) FROM observations) - ?3)";
    trim_all(inner, observations, keep_ms, at_most(bounds.observations)).await?;
    let verdicts = "DELETE FROM verdicts WHERE id IN (SELECT id FROM verdicts ORDER BY id LIMIT ?1) \
                    AND (unix_ms < unixepoch('subsec') * 1000 - ?2 OR id <= (SELECT max(id) FROM verdicts) - ?3)";
    trim_all(inner, verdicts, keep_ms, at_most(bounds.verdicts)).await?;
    let spool = "DELETE FROM spool WHERE number IN (SELECT number FROM ( \
                     SELECT number, unixepoch(written, 'subsec') * 1000 AS written_ms, \
                            row_number() OVER (PARTITION BY reporter ORDER BY number DESC) AS place FROM spool) \
                 WHERE written_ms < unixepoch('subsec') * 1000 - ?2 OR place > ?3 LIMIT ?1)";
    trim_all(inner, spool, SPOOL_FOR_MS, at_most(bounds.spooled)).await?;

    trim_incidents(inner, at_most(bounds.incidents)).await?;
    with_history(inner, "giving space back", async |conn: &mut SqliteConnection| {
        sqlx::query("PRAGMA incremental_vacuum(4000)").fetch_all(&mut *conn).await?;
        sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").fetch_all(conn).await
    })
    .await?;
    Ok(())
}

async fn trim_all(inner: &Inner, query: &'static str, keep_ms: i64, at_most: i64) -> Result<(), StoreError> {
    loop {
        let gone = with_history(inner, "trimming the history", async |conn: &mut SqliteConnection| {
            sqlx::query(query).bind(TRIM_CHUNK).bind(keep_ms).bind(at_most).execute(conn).await
        })
        .await?
        .rows_affected();
        if gone == 0 {
            return Ok(());
        }
    }
}

/// The oldest closed incidents go, with their log and policy, except those that a quarantined member still needs: its
/// fences are named by the policy of that incident.
async fn trim_incidents(inner: &Inner, at_most: i64) -> Result<(), StoreError> {
    with_history(inner, "trimming incidents", async |conn: &mut SqliteConnection| {
        let query = "SELECT id FROM incidents WHERE state IN ('resolved', 'aborted') AND id NOT IN ( \
                         SELECT json_extract(q.value, '$.incident') FROM clusters, \
                         json_each(clusters.json, '$.quarantined') AS q) \
                     ORDER BY opened_unix_ms DESC, id DESC LIMIT 500 OFFSET ?1";
        let gone: Vec<String> = sqlx::query_scalar(query).bind(at_most).fetch_all(&mut *conn).await?;
        if gone.is_empty() {
            return Ok(());
        }
        sqlx::query("BEGIN IMMEDIATE").execute(&mut *conn).await?;
        for id in &gone {
            sqlx::query("DELETE FROM saga_log WHERE incident = ?1").bind(id).execute(&mut *conn).await?;
            sqlx::query("DELETE FROM incident_policies WHERE incident = ?1").bind(id).execute(&mut *conn).await?;
            sqlx::query("DELETE FROM incidents WHERE id = ?1").bind(id).execute(&mut *conn).await?;
        }
        sqlx::query("COMMIT").execute(conn).await?;
        Ok(())
    })
    .await
}

//! Intents: all or none, synced, by compare-and-swap.

use std::path::Path;

use sqlx::{Row as _, SqliteConnection, sqlite::SqliteRow};

use super::{
    Inner, STAGE, Writers, connect, fault,
    rows::{self, IncidentRow, Row},
};
use crate::store::StoreError;

/// Makes the rows durable, all or none.
pub(super) async fn persist(inner: &Inner, rows: Vec<Row>) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    let mut writers = inner.writers().await?;
    settle(inner, &mut writers).await?;
    let outcome = transact(inner, &mut writers, async |conn: &mut SqliteConnection| {
        // A batch that is there already is the repetition of one whose commit looked uncertain to the caller. Only a
        // log entry names its incident and number, so only a batch with one can be told from somebody else's.
        if rows.iter().any(|row| matches!(row, Row::Log { .. })) && all_there(&inner.path, conn, &rows).await? {
            return Ok(());
        }
        for row in &rows {
            write(&inner.path, conn, row).await?;
        }
        no_orphans(&inner.path, conn, &rows).await
    })
    .await;
    match outcome {
        Err(Trouble::Clear(error)) => Err(error),
        Err(Trouble::AtCommit(error)) => {
            let there = match writers.durable.as_mut() {
                Some(conn) => all_there(&inner.path, conn, &rows).await.unwrap_or(false),
                None => false,
            };
            if there {
                return Ok(());
            }
            writers.unsettled = true;
            let _ = settle(inner, &mut writers).await;
            Err(error)
        }
        Ok(()) => Ok(()),
    }
}

/// Replaces an incident's record that must exist.
pub(super) async fn replace(inner: &Inner, row: Row) -> Result<(), StoreError> {
    let Row::Incident(incident) = &row else { return Ok(()) };
    let id = incident.brief.id.clone();
    {
        let mut writers = inner.writers().await?;
        let conn = durable(inner, &mut writers).await?;
        if !incident_exists(&inner.path, conn, id.as_str()).await? {
            return Err(StoreError::Failed(format!("{} holds no incident {id}", fault::at(&inner.path))));
        }
    }
    persist(inner, vec![row]).await
}

/// Writes and syncs something, and sees that the file is still where people look for it.
pub(super) async fn check(inner: &Inner) -> Result<(), StoreError> {
    if connect::identity(&inner.path)? != inner.identity {
        let why = "it was replaced by another file while open; restart the arbiter";
        return Err(fault::failed(&inner.path, "checking it", why));
    }
    let mut writers = inner.writers().await?;
    touch(inner, &mut writers).await
}

/// A commit that failed may have left frames in the log file. As long as nothing was written over them, a restart could
/// take them for committed; so this comes before anything else.
async fn settle(inner: &Inner, writers: &mut Writers) -> Result<(), StoreError> {
    if writers.unsettled { touch(inner, writers).await } else { Ok(()) }
}

async fn touch(inner: &Inner, writers: &mut Writers) -> Result<(), StoreError> {
    let outcome = transact(inner, writers, async |conn: &mut SqliteConnection| {
        let query = "INSERT INTO health (id, checked) VALUES (1, strftime('%Y-%m-%dT%H:%M:%fZ', 'now')) \
                     ON CONFLICT (id) DO UPDATE SET checked = excluded.checked";
        sqlx::query(query).execute(conn).await.map_err(|e| fault::sql(&inner.path, "checking it", &e))?;
        Ok(())
    })
    .await;
    match outcome {
        Ok(()) => {
            writers.unsettled = false;
            Ok(())
        }
        Err(Trouble::Clear(error)) => Err(error),
        Err(Trouble::AtCommit(error)) => {
            writers.unsettled = true;
            Err(error)
        }
    }
}

/// How a transaction failed.
enum Trouble {
    /// Before its commit: nothing of it is written.
    Clear(StoreError),
    /// In its commit.
    AtCommit(StoreError),
}

/// The connection for intents, opened again if the former one was given up.
async fn durable<'w>(inner: &Inner, writers: &'w mut Writers) -> Result<&'w mut SqliteConnection, StoreError> {
    if writers.durable.is_none() {
        writers.durable = Some(connect::open(&inner.path, connect::Use::Durable).await?);
    }
    writers.durable.as_mut().ok_or_else(|| fault::failed(&inner.path, "opening it", "no connection"))
}

/// Runs `stage` between BEGIN and COMMIT. Everything before the COMMIT is bounded in time; a connection that does not
/// answer is dropped, which rolls back whenever it wakes up.
async fn transact(
    inner: &Inner,
    writers: &mut Writers,
    stage: impl AsyncFnOnce(&mut SqliteConnection) -> Result<(), StoreError>,
) -> Result<(), Trouble> {
    let path = &inner.path;
    let conn = durable(inner, writers).await.map_err(Trouble::Clear)?;
    let staged = tokio::time::timeout(STAGE, async {
        let begun = sqlx::query("BEGIN IMMEDIATE").execute(&mut *conn).await;
        begun.map_err(|e| fault::sql(path, "beginning to write", &e))?;
        stage(&mut *conn).await
    })
    .await;
    match staged {
        Err(_) => {
            writers.durable = None;
            Err(Trouble::Clear(fault::failed(path, "writing", "the disk does not answer; the write was given up")))
        }
        Ok(Err(error)) => {
            roll_back(writers).await;
            Err(Trouble::Clear(error))
        }
        Ok(Ok(())) => match sqlx::query("COMMIT").execute(&mut *conn).await {
            Ok(_) => Ok(()),
            Err(e) => {
                let error = fault::sql(path, "committing", &e);
                roll_back(writers).await;
                Err(Trouble::AtCommit(error))
            }
        },
    }
}

/// Ends the transaction, or gives up the connection. SQLite may have rolled back by itself, and then says so.
async fn roll_back(writers: &mut Writers) {
    let Some(conn) = writers.durable.as_mut() else { return };
    let ended = tokio::time::timeout(STAGE, async {
        let _ = sqlx::query("ROLLBACK").execute(&mut *conn).await;
        // Succeeds only outside a transaction.
        sqlx::query("BEGIN").execute(&mut *conn).await.is_ok() && sqlx::query("ROLLBACK").execute(conn).await.is_ok()
    });
    if !ended.await.unwrap_or(false) {
        writers.durable = None;
    }
}

async fn write(path: &Path, conn: &mut SqliteConnection, row: &Row) -> Result<(), StoreError> {
    match row {
        Row::Cluster { expected, cluster, epoch, primary, quarantined, paused_by, json, sum } => {
            let stored = cluster_row(path, conn, cluster).await?;
            let stored = stored.as_ref().map(|row| rows::read_cluster(path, row)).transpose()?;
            let now = stored.map_or(0, |state| state.epoch.0);
            if now != expected.0 {
                return Err(StoreError::Conflict(format!("cluster {cluster} is at epoch {now}, not {expected}")));
            }
            if *epoch < i64::try_from(now).unwrap_or(i64::MAX) {
                return Err(StoreError::Conflict(format!(
                    "cluster {cluster} is at epoch {now}; it cannot go back to {epoch}"
                )));
            }
            let query = "INSERT INTO clusters (cluster, epoch, primary_member, quarantined, paused_by, json, sha256) \
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (cluster) DO UPDATE SET epoch = excluded.epoch, \
                         primary_member = excluded.primary_member, quarantined = excluded.quarantined, \
                         paused_by = excluded.paused_by, json = excluded.json, sha256 = excluded.sha256, \
                         written = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')";
            let query = sqlx::query(query).bind(cluster).bind(epoch).bind(primary).bind(quarantined);
            done(path, "writing a cluster", query.bind(paused_by).bind(json).bind(sum).execute(conn).await)
        }
        Row::Incident(incident) => write_incident(path, conn, incident).await,
        Row::Policy { incident, hash, json, sum } => {
            if let Some(stored) = policy_row(path, conn, incident).await? {
                return match same(&stored, "sha256", sum) {
                    true => Ok(()),
                    false => Err(StoreError::Conflict(format!("incident {incident} began with another policy"))),
                };
            }
            let query = "INSERT INTO incident_policies (incident, hash, json, sha256) VALUES (?1, ?2, ?3, ?4)";
            let query = sqlx::query(query).bind(incident).bind(hash).bind(json).bind(sum);
            done(path, "writing a policy", query.execute(conn).await)
        }
        Row::Log { incident, cluster, number, kind, json, sum } => {
            if let Some(stored) = log_row(path, conn, incident, *number).await? {
                return match same(&stored, "entry", json) && same(&stored, "sha256", sum) {
                    true => Ok(()),
                    false => Err(StoreError::Conflict(format!("incident {incident} has another log entry {number}"))),
                };
            }
            let newest: i64 = sqlx::query_scalar("SELECT coalesce(max(number), 0) FROM saga_log WHERE incident = ?1")
                .bind(incident)
                .fetch_one(&mut *conn)
                .await
                .map_err(|e| fault::sql(path, "reading the log", &e))?;
            if i64::from(*number) != newest + 1 {
                return Err(StoreError::Conflict(format!(
                    "the log of incident {incident} ends at {newest}; entry {number} does not follow"
                )));
            }
            let query = "INSERT INTO saga_log (incident, number, cluster, kind, entry, sha256) \
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
            let query = sqlx::query(query).bind(incident).bind(number).bind(cluster).bind(kind).bind(json).bind(sum);
            done(path, "writing the log", query.execute(conn).await)
        }
    }
}

async fn write_incident(path: &Path, conn: &mut SqliteConnection, row: &IncidentRow) -> Result<(), StoreError> {
    let brief = &row.brief;
    let query = "INSERT INTO incidents (id, cluster, kind, state, state_reason, opened, opened_unix_ms, closed, \
                 closed_unix_ms, old_primary, candidate, epoch, acknowledged, json, sha256) VALUES (?1, ?2, ?3, ?4, ?5, \
                 strftime('%Y-%m-%dT%H:%M:%fZ', ?6 / 1000.0, 'unixepoch'), ?6, \
                 strftime('%Y-%m-%dT%H:%M:%fZ', ?7 / 1000.0, 'unixepoch'), ?7, ?8, ?9, ?10, ?11, ?12, ?13) \
                 ON CONFLICT (id) DO UPDATE SET cluster = excluded.cluster, kind = excluded.kind, \
                 state = excluded.state, state_reason = excluded.state_reason, opened = excluded.opened, \
                 opened_unix_ms = excluded.opened_unix_ms, closed = excluded.closed, \
                 closed_unix_ms = excluded.closed_unix_ms, old_primary = excluded.old_primary, \
                 candidate = excluded.candidate, epoch = excluded.epoch, acknowledged = excluded.acknowledged, \
                 json = excluded.json, sha256 = excluded.sha256, written = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')";
    let query = sqlx::query(query)
        .bind(brief.id.as_str())
        .bind(brief.cluster.as_str())
        .bind(&row.kind)
        .bind(&row.state)
        .bind(&brief.state_reason)
        .bind(brief.opened_unix_ms)
        .bind(brief.closed_unix_ms)
        .bind(brief.old_primary.as_str())
        .bind(brief.candidate.as_str())
        .bind(row.epoch)
        .bind(brief.acknowledged)
        .bind(&row.json)
        .bind(&row.sum);
    done(path, "writing an incident", query.execute(conn).await)
}

/// A log entry or a policy of an incident that has no record would be lost at the next start.
async fn no_orphans(path: &Path, conn: &mut SqliteConnection, rows: &[Row]) -> Result<(), StoreError> {
    for row in rows {
        let (Row::Log { incident, .. } | Row::Policy { incident, .. }) = row else { continue };
        if !incident_exists(path, conn, incident).await? {
            let why =
                format!("incident {incident} has no record; it must be written with or before its log and policy");
            return Err(fault::failed(path, "writing", &why));
        }
    }
    Ok(())
}

/// Whether every row is stored exactly so.
async fn all_there(path: &Path, conn: &mut SqliteConnection, rows: &[Row]) -> Result<bool, StoreError> {
    for row in rows {
        let (stored, sum) = match row {
            Row::Cluster { cluster, sum, .. } => (cluster_row(path, conn, cluster).await?, sum),
            Row::Incident(incident) => {
                let found = sqlx::query("SELECT sha256 FROM incidents WHERE id = ?1")
                    .bind(incident.brief.id.as_str())
                    .fetch_optional(&mut *conn)
                    .await;
                (found.map_err(|e| fault::sql(path, "reading an incident", &e))?, &incident.sum)
            }
            Row::Policy { incident, sum, .. } => (policy_row(path, conn, incident).await?, sum),
            Row::Log { incident, number, sum, .. } => (log_row(path, conn, incident, *number).await?, sum),
        };
        if !stored.is_some_and(|stored| same(&stored, "sha256", sum)) {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn cluster_row(path: &Path, conn: &mut SqliteConnection, name: &str) -> Result<Option<SqliteRow>, StoreError> {
    let query = sqlx::query("SELECT cluster, epoch, json, sha256 FROM clusters WHERE cluster = ?1").bind(name);
    query.fetch_optional(conn).await.map_err(|e| fault::sql(path, "reading a cluster", &e))
}

async fn policy_row(path: &Path, conn: &mut SqliteConnection, incident: &str) -> Result<Option<SqliteRow>, StoreError> {
    let query = sqlx::query("SELECT sha256 FROM incident_policies WHERE incident = ?1").bind(incident);
    query.fetch_optional(conn).await.map_err(|e| fault::sql(path, "reading a policy", &e))
}

async fn log_row(
    path: &Path,
    conn: &mut SqliteConnection,
    incident: &str,
    number: u32,
) -> Result<Option<SqliteRow>, StoreError> {
    let query = sqlx::query("SELECT entry, sha256 FROM saga_log WHERE incident = ?1 AND number = ?2");
    let found = query.bind(incident).bind(number).fetch_optional(conn).await;
    found.map_err(|e| fault::sql(path, "reading the log", &e))
}

async fn incident_exists(path: &Path, conn: &mut SqliteConnection, id: &str) -> Result<bool, StoreError> {
    sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM incidents WHERE id = ?1)")
        .bind(id)
        .fetch_one(conn)
        .await
        .map_err(|e| fault::sql(path, "reading an incident", &e))
}

fn same(row: &SqliteRow, column: &str, wanted: &str) -> bool {
    row.try_get::<String, _>(column).is_ok_and(|stored| stored == wanted)
}

fn done<T>(path: &Path, doing: &str, result: Result<T, sqlx::Error>) -> Result<(), StoreError> {
    result.map(|_| ()).map_err(|e| fault::sql(path, doing, &e))
}

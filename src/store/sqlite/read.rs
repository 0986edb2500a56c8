//! Reading: what an arbiter goes on from, and what people ask for.

use sqlx::{Row as _, SqliteConnection, sqlite::SqliteRow};
use tokio::sync::MutexGuard;

use super::{Inner, STAGE, connect, fault, rows};
use crate::{
    model::{
        ClusterName, Incident, IncidentId, Report,
        record::{ClusterState, LogEntry, OpenIncident, Recovered},
        status::IncidentBrief,
    },
    store::StoreError,
};

/// Reads with the reading connection, bounded in time; one that does not answer is dropped and opened again.
async fn with_reader<T>(
    inner: &Inner,
    read: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let mut guard: MutexGuard<'_, Option<SqliteConnection>> = inner.reader().await?;
    let mut conn = match guard.take() {
        Some(conn) => conn,
        None => connect::open(&inner.path, connect::Use::Read).await?,
    };
    let answer = tokio::time::timeout(STAGE, read(&mut conn)).await;
    let answer = answer.map_err(|_| fault::failed(&inner.path, "reading", "the disk does not answer"))?;
    *guard = Some(conn);
    answer
}

/// Everything needed to go on, as of one moment.
pub(super) async fn recover(inner: &Inner) -> Result<Recovered, StoreError> {
    with_reader(inner, async |conn: &mut SqliteConnection| {
        let begun = sqlx::query("BEGIN").execute(&mut *conn).await;
        begun.map_err(|e| fault::sql(&inner.path, "beginning to read", &e))?;
        let recovered = recover_inside(inner, conn).await;
        let ended = sqlx::query("ROLLBACK").execute(&mut *conn).await;
        ended.map_err(|e| fault::sql(&inner.path, "ending to read", &e))?;
        recovered
    })
    .await
}

async fn recover_inside(inner: &Inner, conn: &mut SqliteConnection) -> Result<Recovered, StoreError> {
    let path = &inner.path;
    let trouble = |e: sqlx::Error| fault::sql(path, "recovering", &e);

    let query = "SELECT cluster, epoch, json, sha256 FROM clusters ORDER BY cluster";
    let found = sqlx::query(query).fetch_all(&mut *conn).await.map_err(trouble)?;
    let clusters = found.iter().map(|row| rows::read_cluster(path, row)).collect::<Result<Vec<_>, _>>()?;

    let query = "SELECT incident, min(number) AS number FROM saga_log \
                 WHERE incident NOT IN (SELECT id FROM incidents) GROUP BY incident LIMIT 1";
    if let Some(row) = sqlx::query(query).fetch_optional(&mut *conn).await.map_err(trouble)? {
        let id: String = rows::get(path, "saga_log", "?", &row, "incident")?;
        return Err(fault::damaged(path, "incidents", &id, "it has a saga log, but no record"));
    }

    // A state that is none of these two counts as open: damage to the column cannot hide an incident.
    let query = "SELECT id, cluster, state, json, sha256 FROM incidents \
                 WHERE state NOT IN ('resolved', 'aborted') ORDER BY opened_unix_ms, id";
    let found = sqlx::query(query).fetch_all(&mut *conn).await.map_err(trouble)?;
    let mut open = Vec::with_capacity(found.len());
    for row in &found {
        let incident = rows::read_incident(path, row)?;
        let log = log(inner, conn, &incident.id).await?;
        let query = sqlx::query("SELECT json, sha256 FROM incident_policies WHERE incident = ?1");
        let policy = query.bind(incident.id.as_str()).fetch_optional(&mut *conn).await.map_err(trouble)?;
        let Some(policy) = policy else {
            let why = "the policy that the incident began with is missing";
            return Err(fault::damaged(path, "incident_policies", incident.id.as_str(), why));
        };
        let policy = rows::read_plain(path, "incident_policies", incident.id.as_str(), &policy)?;
        open.push(OpenIncident { incident, policy, log });
    }
    Ok(Recovered { clusters, open })
}

async fn log(inner: &Inner, conn: &mut SqliteConnection, id: &IncidentId) -> Result<Vec<LogEntry>, StoreError> {
    let query = sqlx::query("SELECT number, entry, sha256 FROM saga_log WHERE incident = ?1 ORDER BY number");
    let found = query.bind(id.as_str()).fetch_all(conn).await;
    let found = found.map_err(|e| fault::sql(&inner.path, "reading the log", &e))?;
    rows::read_log(&inner.path, id, &found)
}

pub(super) async fn cluster(inner: &Inner, name: &ClusterName) -> Result<Option<ClusterState>, StoreError> {
    with_reader(inner, async |conn: &mut SqliteConnection| {
        let query = sqlx::query("SELECT cluster, epoch, json, sha256 FROM clusters WHERE cluster = ?1");
        let row = query.bind(name.as_str()).fetch_optional(conn).await;
        let row = row.map_err(|e| fault::sql(&inner.path, "reading a cluster", &e))?;
        row.as_ref().map(|row| rows::read_cluster(&inner.path, row)).transpose()
    })
    .await
}

pub(super) async fn incidents(
    inner: &Inner,
    cluster: Option<&ClusterName>,
    limit: u32,
) -> Result<Vec<IncidentBrief>, StoreError> {
    with_reader(inner, async |conn: &mut SqliteConnection| {
        let query = "SELECT id, cluster, state, json, sha256 FROM incidents WHERE ?1 IS NULL OR cluster = ?1 \
                     ORDER BY opened_unix_ms DESC, id DESC LIMIT ?2";
        let query = sqlx::query(query).bind(cluster.map(ClusterName::as_str)).bind(limit);
        let found = query.fetch_all(conn).await.map_err(|e| fault::sql(&inner.path, "listing incidents", &e))?;
        found.iter().map(|row| Ok(IncidentBrief::from(&rows::read_incident(&inner.path, row)?))).collect()
    })
    .await
}

pub(super) async fn incident(inner: &Inner, id: &str) -> Result<Option<(Incident, Vec<LogEntry>)>, StoreError> {
    if id.is_empty() {
        return Ok(None);
    }
    with_reader(inner, async |conn: &mut SqliteConnection| {
        let query = "SELECT id, cluster, state, json, sha256 FROM incidents \
                     WHERE substr(id, 1, length(?1)) = ?1 COLLATE NOCASE ORDER BY length(id), id LIMIT 2";
        let found = sqlx::query(query).bind(id).fetch_all(&mut *conn).await;
        let found = found.map_err(|e| fault::sql(&inner.path, "looking for an incident", &e))?;
        let row = match found.as_slice() {
            [] => return Ok(None),
            [one] => one,
            [one, other] if !is_named(one, id) => {
                let name = |row: &SqliteRow| row.try_get::<String, _>("id").unwrap_or_default();
                return Err(StoreError::Failed(format!(
                    "more than one incident begins with {id}: {}, {}, …; write more of the name",
                    name(one),
                    name(other)
                )));
            }
            [one, ..] => one,
        };
        let incident = rows::read_incident(&inner.path, row)?;
        let log = log(inner, conn, &incident.id).await?;
        Ok(Some((incident, log)))
    })
    .await
}

fn is_named(row: &SqliteRow, id: &str) -> bool {
    row.try_get::<String, _>("id").is_ok_and(|name| name.eq_ignore_ascii_case(id))
}

pub(super) async fn spooled(inner: &Inner, reporter: &str) -> Result<Vec<(i64, Report)>, StoreError> {
    with_reader(inner, async |conn: &mut SqliteConnection| {
        let query = sqlx::query("SELECT number, key, json, sha256 FROM spool WHERE reporter = ?1 ORDER BY number");
        let found = query.bind(reporter).fetch_all(conn).await;
        let found = found.map_err(|e| fault::sql(&inner.path, "reading the spool", &e))?;
        let mut reports = Vec::with_capacity(found.len());
        for row in &found {
            let number: i64 = rows::get(&inner.path, "spool", "?", row, "number")?;
            let key: String = rows::get(&inner.path, "spool", &number.to_string(), row, "key")?;
            let name = format!("{reporter}: {key}");
            reports.push((number, rows::read_plain(&inner.path, "spool", &name, row)?));
        }
        Ok(reports)
    })
    .await
}

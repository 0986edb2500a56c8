//! Records as rows: the JSON, its checksum, and the columns that people read.

use std::path::Path;

use ring::digest;
use serde::{Serialize, de::DeserializeOwned};
use sqlx::{Row as _, sqlite::SqliteRow};

use super::fault;
use crate::{
    model::{
        Epoch, Incident, IncidentId, Record,
        record::{ClusterState, LogEntry},
        status::IncidentBrief,
    },
    store::StoreError,
};

/// One record, ready to be written. Made before a lock is taken.
#[derive(Clone, Debug)]
pub(super) enum Row {
    Cluster {
        expected: Epoch,
        cluster: String,
        epoch: i64,
        primary: Option<String>,
        quarantined: Option<String>,
        paused_by: Option<String>,
        json: String,
        sum: String,
    },
    Incident(Box<IncidentRow>),
    Policy {
        incident: String,
        hash: String,
        json: String,
        sum: String,
    },
    Log {
        incident: String,
        cluster: String,
        number: u32,
        kind: String,
        json: String,
        sum: String,
    },
}

/// An incident with its columns.
#[derive(Clone, Debug)]
pub(super) struct IncidentRow {
    pub(super) brief: IncidentBrief,
    pub(super) kind: String,
    pub(super) state: String,
    pub(super) epoch: i64,
    pub(super) json: String,
    pub(super) sum: String,
}

impl Row {
    /// All records as rows, in order.
    pub(super) fn all(records: &[Record]) -> Result<Vec<Self>, StoreError> {
        records.iter().map(Self::of).collect()
    }

    fn of(record: &Record) -> Result<Self, StoreError> {
        match record {
            Record::Cluster { expected, state } => Self::cluster(*expected, state),
            Record::Incident(incident) => Self::incident(incident),
            Record::IncidentPolicy { incident, policy } => {
                let json = json(policy)?;
                let sum = checksum(&["incident_policies", incident.as_str(), &json]);
                Ok(Self::Policy { incident: incident.to_string(), hash: policy.hash.clone(), json, sum })
            }
            Record::Log { incident, cluster, number, entry } => {
                let value = serde_json::to_value(entry).map_err(|e| unwritable(&e))?;
                let kind = word(&value);
                let json = value.to_string();
                let sum = log_checksum(incident.as_str(), *number, &json);
                let (incident, cluster) = (incident.to_string(), cluster.to_string());
                Ok(Self::Log { incident, cluster, number: *number, kind, json, sum })
            }
        }
    }

    fn cluster(expected: Epoch, state: &ClusterState) -> Result<Self, StoreError> {
        let json = json(state)?;
        let epoch = column(state.epoch)?;
        let members: Vec<&str> = state.quarantined.keys().map(crate::model::MemberName::as_str).collect();
        Ok(Self::Cluster {
            expected,
            cluster: state.cluster.to_string(),
            epoch,
            primary: state.primary.as_ref().map(ToString::to_string),
            quarantined: (!members.is_empty()).then(|| members.join(", ")),
            paused_by: state.pause.as_ref().map(|p| p.owner.clone()),
            sum: checksum(&["clusters", state.cluster.as_str(), &epoch.to_string(), &json]),
            json,
        })
    }

    pub(super) fn incident(incident: &Incident) -> Result<Self, StoreError> {
        let json = json(incident)?;
        let kind = word(&serde_json::to_value(incident.kind).map_err(|e| unwritable(&e))?);
        let state = word(&serde_json::to_value(incident.state).map_err(|e| unwritable(&e))?);
        let sum = incident_checksum(incident.id.as_str(), incident.cluster.as_str(), &state, &json);
        let epoch = column(incident.epoch)?;
        Ok(Self::Incident(Box::new(IncidentRow { brief: incident.into(), kind, state, epoch, json, sum })))
    }
}

/// Reads a cluster's row: `cluster, epoch, json, sha256`.
pub(super) fn read_cluster(path: &Path, row: &SqliteRow) -> Result<ClusterState, StoreError> {
    let table = "clusters";
    let cluster: String = get(path, table, "?", row, "cluster")?;
    let epoch: i64 = get(path, table, &cluster, row, "epoch")?;
    let json: String = get(path, table, &cluster, row, "json")?;
    let sum: String = get(path, table, &cluster, row, "sha256")?;
    if checksum(&[table, &cluster, &epoch.to_string(), &json]) != sum {
        return Err(fault::damaged(path, table, &cluster, "its checksum does not match"));
    }
    decode(path, table, &cluster, &json)
}

/// Reads an incident's row: `id, cluster, state, json, sha256`.
pub(super) fn read_incident(path: &Path, row: &SqliteRow) -> Result<Incident, StoreError> {
    let table = "incidents";
    let id: String = get(path, table, "?", row, "id")?;
    let cluster: String = get(path, table, &id, row, "cluster")?;
    let state: String = get(path, table, &id, row, "state")?;
    let json: String = get(path, table, &id, row, "json")?;
    let sum: String = get(path, table, &id, row, "sha256")?;
    if incident_checksum(&id, &cluster, &state, &json) != sum {
        return Err(fault::damaged(path, table, &id, "its checksum does not match"));
    }
    decode(path, table, &id, &json)
}

/// Reads the rows of one incident's log, in order, `number, entry, sha256`; a gap is damage.
pub(super) fn read_log(path: &Path, incident: &IncidentId, rows: &[SqliteRow]) -> Result<Vec<LogEntry>, StoreError> {
    let table = "saga_log";
    let mut log = Vec::with_capacity(rows.len());
    for (row, due) in rows.iter().zip(1_u32..) {
        let number: i64 = get(path, table, &format!("{incident}, number {due}"), row, "number")?;
        let name = format!("{incident}, number {number}");
        if number != i64::from(due) {
            return Err(fault::damaged(path, table, &name, &format!("number {due} is missing before it")));
        }
        let json: String = get(path, table, &name, row, "entry")?;
        let sum: String = get(path, table, &name, row, "sha256")?;
        if log_checksum(incident.as_str(), due, &json) != sum {
            return Err(fault::damaged(path, table, &name, "its checksum does not match"));
        }
        log.push(decode(path, table, &name, &json)?);
    }
    Ok(log)
}

/// Reads `json, sha256` of a row whose checksum covers its table, its name and its JSON.
pub(super) fn read_plain<T: DeserializeOwned>(
    path: &Path,
    table: &str,
    name: &str,
    row: &SqliteRow,
) -> Result<T, StoreError> {
    let json: String = get(path, table, name, row, "json")?;
    let sum: String = get(path, table, name, row, "sha256")?;
    if checksum(&[table, name, &json]) != sum {
        return Err(fault::damaged(path, table, name, "its checksum does not match"));
    }
    decode(path, table, name, &json)
}

/// One column; a wrong type or broken text is damage.
pub(super) fn get<'r, T>(
    path: &Path,
    table: &str,
    name: &str,
    row: &'r SqliteRow,
    column: &str,
) -> Result<T, StoreError>
where
    T: sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
{
    row.try_get(column).map_err(|e| fault::damaged(path, table, name, &format!("column {column} cannot be read: {e}")))
}

fn decode<T: DeserializeOwned>(path: &Path, table: &str, name: &str, json: &str) -> Result<T, StoreError> {
    serde_json::from_str(json)
        .map_err(|e| fault::damaged(path, table, name, &format!("its JSON is not understood: {e}")))
}

/// The JSON of a record.
pub(super) fn json<T: Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|e| unwritable(&e))
}

fn unwritable(e: &serde_json::Error) -> StoreError {
    StoreError::Failed(format!("a record cannot be written as JSON: {e}"))
}

/// SHA-256 over the parts, each with its length, so that no two different lists of parts are alike.
pub(super) fn checksum(parts: &[&str]) -> String {
    use std::fmt::Write as _;
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
        context.update(part.as_bytes());
    }
    context.finish().as_ref().iter().fold(String::with_capacity(64), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

fn incident_checksum(id: &str, cluster: &str, state: &str, json: &str) -> String {
    checksum(&["incidents", id, cluster, state, json])
}

fn log_checksum(incident: &str, number: u32, json: &str) -> String {
    checksum(&["saga_log", incident, &number.to_string(), json])
}

/// The tag of an enum as serde writes it: the text itself, or the only key.
fn word(value: &serde_json::Value) -> String {
    let key = value.as_object().and_then(|map| map.keys().next());
    value.as_str().or_else(|| key.map(String::as_str)).unwrap_or("?").to_owned()
}

fn column(epoch: Epoch) -> Result<i64, StoreError> {
    i64::try_from(epoch.0).map_err(|_| StoreError::Failed(format!("epoch {epoch} does not fit into the store")))
}

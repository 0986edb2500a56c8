//! Opening: the lock, the settings (read back), the schema's version, the integrity of what decisions are built on.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Seek as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};
use sqlx::{
    ConnectOptions as _, SqliteConnection,
    sqlite::{SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use super::fault;
use crate::store::StoreError;

/// The schema, version by version; the file's `user_version` is how many of them it has. A program reads files of
/// every older version by applying the rest.
const VERSIONS: [&str; 1] = [include_str!("schema.sql")];

/// Marks the file as Coroner's: "CORN".
const APPLICATION_ID: i64 = 0x434f_524e;

/// How long a statement waits for a lock that another program holds.
const BUSY_DURABLE: Duration = Duration::from_secs(1);
/// The same for history, which an intent may have to wait for.
const BUSY_HISTORY: Duration = Duration::from_millis(200);
/// How long opening may take, settings included.
const OPEN: Duration = Duration::from_secs(10);

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// Intents: every commit is synced.
    Durable,
    /// Spooled reports and trimming: synced with the next intent or checkpoint.
    History,
    /// Reading only.
    Read,
}

/// Which file was opened, to notice that it was removed or replaced under us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
}

/// The identity of the file that stands at `path` now.
pub(super) fn identity(path: &Path) -> Result<Identity, StoreError> {
    let meta = std::fs::metadata(path).map_err(|e| fault::failed(path, "looking at the file", &e.to_string()))?;
    Ok(Identity { device: meta.dev(), inode: meta.ino() })
}

/// Takes the advisory lock beside the file: two arbiters on one file would each believe the other's intents theirs.
pub(super) fn take_lock(path: &Path) -> Result<File, StoreError> {
    let lock_path = PathBuf::from(format!("{}.lock", path.display()));
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o640).open(&lock_path);
    let mut file = opened.map_err(|e| {
        let why = format!("{e}; check that the directory exists and may be written");
        fault::failed(path, &format!("opening {}", lock_path.display()), &why)
    })?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut holder = String::new();
        let _ = file.read_to_string(&mut holder);
        let holder = holder.trim();
        let holder = if holder.is_empty() { String::new() } else { format!(" (process {holder})") };
        return Err(StoreError::Failed(format!(
            "another coroner holds {}{holder}: one store serves one arbiter; stop the other, or give this one its own",
            fault::at(path)
        )));
    }
    // The number is a hint for people; the lock itself is what counts.
    let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(file)
}

/// Opens one connection and reads back that it is what was asked for.
pub(super) async fn open(path: &Path, purpose: Use) -> Result<SqliteConnection, StoreError> {
    tokio::time::timeout(OPEN, open_unbounded(path, purpose))
        .await
        .map_err(|_| fault::failed(path, "opening it", "the disk does not answer"))?
}

async fn open_unbounded(path: &Path, purpose: Use) -> Result<SqliteConnection, StoreError> {
    if purpose == Use::Durable {
        // Made here for its mode; SQLite gives its log files the mode of the file.
        let made = OpenOptions::new().read(true).append(true).create(true).mode(0o640).open(path);
        made.map_err(|e| fault::failed(path, "opening it", &e.to_string()))?;
    }
    let options = SqliteConnectOptions::new()
        .filename(path)
        .disable_statement_logging()
        .busy_timeout(if purpose == Use::Durable { BUSY_DURABLE } else { BUSY_HISTORY })
        .auto_vacuum(SqliteAutoVacuum::Incremental)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(if purpose == Use::Durable { SqliteSynchronous::Full } else { SqliteSynchronous::Normal })
        // Checkpoints are the history's business, so that an intent seldom has to wait for one.
        .pragma("wal_autocheckpoint", if purpose == Use::History { "1000" } else { "8000" })
        .pragma("journal_size_limit", "16777216")
        .pragma("query_only", if purpose == Use::Read { "1" } else { "0" });
    let mut conn = options.connect().await.map_err(|e| fault::sql(path, "opening it", &e))?;

    let journal: String = sqlx::query_scalar("PRAGMA journal_mode")
        .fetch_one(&mut conn)
        .await
        .map_err(|e| fault::sql(path, "reading back journal_mode", &e))?;
    let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous")
        .fetch_one(&mut conn)
        .await
        .map_err(|e| fault::sql(path, "reading back synchronous", &e))?;
    let wanted = if purpose == Use::Durable { 2 } else { 1 };
    if journal != "wal" || synchronous != wanted {
        let why = format!("journal_mode is {journal} and synchronous is {synchronous}, not wal and {wanted}");
        return Err(fault::failed(path, "setting it up to survive a power cut", &why));
    }
    Ok(conn)
}

/// Creates the tables, or brings those of an older version up to date; refuses a newer one and a foreign file.
pub(super) async fn prepare(path: &Path, conn: &mut SqliteConnection) -> Result<(), StoreError> {
    let version = number(path, conn, "PRAGMA user_version").await?;
    let application = number(path, conn, "PRAGMA application_id").await?;
    let tables = number(path, conn, "SELECT count(*) FROM sqlite_schema WHERE type = 'table'").await?;
    let known = i64::try_from(VERSIONS.len()).unwrap_or(i64::MAX);
    if application != APPLICATION_ID && (application != 0 || tables > 0) {
        return Err(fault::failed(path, "opening it", "this SQLite file is not Coroner's; give another `store`"));
    }
    if version > known {
        let why = format!(
            "a newer Coroner wrote it (schema {version}, this one knows up to {known}); run that version, or restore \
             the backup from before the upgrade"
        );
        return Err(fault::failed(path, "opening it", &why));
    }
    if version == known {
        return Ok(());
    }
    let upgrade = async {
        sqlx::query("BEGIN IMMEDIATE").execute(&mut *conn).await?;
        for script in VERSIONS.iter().skip(usize::try_from(version).unwrap_or(0)).copied() {
            sqlx::raw_sql(script).execute(&mut *conn).await?;
        }
        // Pragmas take no parameters; the numbers are asserted below.
        sqlx::raw_sql("PRAGMA application_id = 1129271886; PRAGMA user_version = 1").execute(&mut *conn).await?;
        sqlx::query("COMMIT").execute(&mut *conn).await
    };
    upgrade.await.map_err(|e| fault::sql(path, "creating the tables", &e))?;
    let written = (
        number(path, conn, "PRAGMA application_id").await?,
        number(path, conn, "PRAGMA user_version").await?,
        number(path, conn, "PRAGMA auto_vacuum").await?,
    );
    if written == (APPLICATION_ID, known, 2) {
        return Ok(());
    }
    Err(fault::failed(path, "creating the tables", &format!("its marks read back as {written:?}")))
}

/// Structure and indexes of the small tables that decisions are built on. The history is not worth the time.
pub(super) async fn check_integrity(path: &Path, conn: &mut SqliteConnection) -> Result<(), StoreError> {
    for (table, pragma) in [
        ("clusters", "PRAGMA integrity_check(clusters)"),
        ("incidents", "PRAGMA integrity_check(incidents)"),
        ("saga_log", "PRAGMA integrity_check(saga_log)"),
        ("incident_policies", "PRAGMA integrity_check(incident_policies)"),
    ] {
        let doing = format!("checking table {table}");
        let found: Vec<String> =
            sqlx::query_scalar(pragma).fetch_all(&mut *conn).await.map_err(|e| fault::sql(path, &doing, &e))?;
        if found != ["ok"] {
            let why = format!("the file is damaged ({}); restore it from a backup", found.join("; "));
            return Err(fault::failed(path, &doing, &why));
        }
    }
    Ok(())
}

async fn number(path: &Path, conn: &mut SqliteConnection, query: &'static str) -> Result<i64, StoreError> {
    sqlx::query_scalar(query).fetch_one(conn).await.map_err(|e| fault::sql(path, "opening it", &e))
}

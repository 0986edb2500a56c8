//! SQLite: one file for several processes on one host.
//!
//! Its clock is the host's own, read by SQLite in the statement that compares it; all who use the file must run on that
//! host, and the file must lie on a local disk (network file systems do not keep its locks). Every commit is synced.
//!
//! A process that is stopped inside of a transaction, which takes some milliseconds, holds the file's one lock until it
//! runs again or is killed: meanwhile nobody's heartbeat succeeds, so that nobody leads. No server is there that could
//! throw it out.
//!
//! A file that was removed or replaced while it is in use is noticed before each transaction: two processes that lead by
//! two files under one name would be the worst outcome.

use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use sqlx::{
    ConnectOptions as _, Sqlite, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use super::{
    OpenError, Options, Registry,
    sql::{Arg, Cell, ConnectError, Dialect, Meaning, Session, SqlRegistry, Words, session},
};

/// How long SQLite itself waits for a lock; after that the whole transaction is tried again, within the time-out.
const BUSY: Duration = Duration::from_millis(100);

const WORDS: Words = Words {
    begin: "BEGIN IMMEDIATE",
    now: "strftime('%Y-%m-%d %H:%M:%f', 'now')",
    milliseconds: "CAST(ROUND((julianday({}) - 2440587.5) * 86400000.0) AS INTEGER)",
    lock: "",
    is_numbered: false,
    schema: "
CREATE TABLE IF NOT EXISTS {p}_instances (
    id INTEGER PRIMARY KEY, grp TEXT NOT NULL, instance TEXT NOT NULL, start_time TEXT NOT NULL,
    heartbeat TEXT NOT NULL, valid_for_ms INTEGER NOT NULL, beats INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS {p}_instances_by_group ON {p}_instances (grp, id);
CREATE TABLE IF NOT EXISTS {p}_leaders (grp TEXT PRIMARY KEY, leader INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS {p}_documents (
    doc_key TEXT PRIMARY KEY, version INTEGER NOT NULL, doc TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS {p}_counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
INSERT OR IGNORE INTO {p}_counters (name, value) VALUES ('schema', 1), ('instances', 0), ('documents', 0);
",
};

struct File {
    path: PathBuf,
}

/// A connection, and which file it has open.
struct Open {
    connection: SqliteConnection,
    path: PathBuf,
    identity: (u64, u64),
}

session!(SqliteConnection, Sqlite);

/// Opens `sqlite:/path` or `sqlite:///path`.
pub(super) fn open(url: &str, options: &Options) -> Result<Arc<dyn Registry>, OpenError> {
    let rest = url.strip_prefix("sqlite:").unwrap_or(url);
    let path = rest.strip_prefix("//").unwrap_or(rest);
    if path.is_empty() || path.contains(":memory:") || path.contains('?') || path.ends_with('/') {
        return Err(OpenError::Invalid(
            "the store's URL names no file that several processes can share: write sqlite:/path/to/file, without \
             parameters"
                .into(),
        ));
    }
    let file = File { path: path.into() };
    Ok(Arc::new(SqlRegistry::new(Box::new(file), options)))
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino()))
}

fn code(error: &sqlx::Error) -> Option<u32> {
    error.as_database_error()?.code()?.parse().ok()
}

#[async_trait]
impl Dialect for File {
    fn label(&self) -> String {
        format!("sqlite at {}", self.path.display())
    }

    fn words(&self) -> &'static Words {
        &WORDS
    }

    async fn connect(&self) -> Result<Box<dyn Session>, ConnectError> {
        let options = SqliteConnectOptions::new()
            .filename(&self.path)
            .create_if_missing(true)
            .disable_statement_logging()
            .busy_timeout(BUSY)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full);
        let connection = options.connect().await?;
        let identity = identity(&self.path).ok_or_else(|| ConnectError::Unfit(REPLACED.into()))?;
        Ok(Box::new(Open { connection, path: self.path.clone(), identity }))
    }

    fn meaning(&self, error: &sqlx::Error) -> Meaning {
        match code(error) {
            // BUSY and LOCKED leave the transaction open, for us to roll back.
            Some(code) if matches!(code & 0xff, 5 | 6) => Meaning::Again,
            Some(1555 | 2067) => Meaning::Taken,
            Some(1) if error.to_string().contains("no such table") => Meaning::NoTable,
            _ => Meaning::Other,
        }
    }

    fn remedy(&self, error: &sqlx::Error) -> Option<&'static str> {
        let code = code(error)?;
        match code & 0xff {
            1 if error.to_string().contains("no such table") => Some("the tables are not made yet"),
            5 | 6 => Some("another process holds it; is one stopped inside of a transaction?"),
            8 => Some("it is read-only; check the file system, and the owner of the file and of its directory"),
            10 => Some("the disk fails, or is full; look at the kernel's log"),
            11 | 26 => Some("the file is damaged, or no SQLite file; restore it from a backup"),
            13 => Some("the disk is full; make room"),
            14 => Some("check that the directory exists and may be written"),
            _ => None,
        }
    }
}

const REPLACED: &str = "the file was removed or replaced while it was in use; stop everything that uses it, put the \
                        right one there, and start it again";

impl Open {
    fn check(&self) -> Result<(), sqlx::Error> {
        if identity(&self.path) == Some(self.identity) {
            Ok(())
        } else {
            Err(sqlx::Error::InvalidArgument(REPLACED.into()))
        }
    }
}

#[async_trait]
impl Session for Open {
    async fn rows(&mut self, sql: &str, args: &[Arg<'_>]) -> Result<Vec<Vec<Cell>>, sqlx::Error> {
        self.check()?;
        self.connection.rows(sql, args).await
    }

    async fn change(&mut self, sql: &str, args: &[Arg<'_>]) -> Result<u64, sqlx::Error> {
        self.check()?;
        self.connection.change(sql, args).await
    }

    async fn script(&mut self, sql: &str) -> Result<(), sqlx::Error> {
        self.connection.script(sql).await
    }
}

//! What SQLite says, in words that tell an operator what to do.

use std::path::Path;

use crate::store::StoreError;

/// How the store names itself in errors.
pub(super) fn at(path: &Path) -> String {
    format!("the store {}", path.display())
}

/// A failure in words.
pub(super) fn failed(path: &Path, doing: &str, why: &str) -> StoreError {
    StoreError::Failed(format!("{}: {doing}: {why}", at(path)))
}

/// A failure that SQLite reported.
pub(super) fn sql(path: &Path, doing: &str, error: &sqlx::Error) -> StoreError {
    failed(path, doing, &words(error))
}

/// A row that cannot be trusted.
pub(super) fn damaged(path: &Path, table: &str, row: &str, why: &str) -> StoreError {
    StoreError::Failed(format!(
        "{}: table {table}, row {row}: {why}: the row is damaged or was edited; restore the file from a backup, or move \
         it, with its -wal and -shm files, away and declare the primary with `coroner adopt`",
        at(path)
    ))
}

/// The primary result code of SQLite, if the error comes from it.
pub(super) fn code(error: &sqlx::Error) -> Option<i64> {
    error.as_database_error()?.code()?.parse::<i64>().ok().map(|code| code & 0xff)
}

fn words(error: &sqlx::Error) -> String {
    let text = error.as_database_error().map_or_else(|| error.to_string(), |e| e.message().to_owned());
    match code(error) {
        Some(5 | 6) => format!("it is locked by another program ({text}); end that program or its transaction"),
        Some(8) => format!("it is read-only ({text}); check the file system and the owner of the file"),
        Some(10) => format!("the disk fails ({text}); look at the kernel's log"),
        Some(11 | 26) => format!("the file is damaged ({text}); restore it from a backup"),
        Some(13) => format!("the disk is full ({text}); make room"),
        Some(14) => format!("it cannot be opened ({text}); check that the directory exists and may be written"),
        _ => text,
    }
}

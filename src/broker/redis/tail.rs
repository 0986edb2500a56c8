//! Keeping the divergent tail: what an old primary has in its replication stream beyond the new one.
//!
//! Redis hands that stream to whoever asks as a replica, as far back as its backlog reaches: it is written to a file
//! as it comes, as commands in the protocol of Redis, which a person can read and `redis-cli --pipe` can replay.
//! Database numbers are as in the stream: the first commands are of the database selected before, unless a `SELECT`
//! comes first.

use std::{
    io,
    path::{Path, PathBuf},
};

use redis::{Value, cmd};
use tokio::io::AsyncWriteExt as _;

use super::{Connection, Info, RedisBroker};
use crate::model::{Failure, FailureKind, Order, Role};

/// What became of the tail.
pub(super) enum Tail {
    /// It is in this file.
    Kept(PathBuf),
    /// It cannot be had, and why. Trying again would not help.
    Lost(String),
}

impl RedisBroker {
    /// Writes `divergent` bytes before the end of the member's stream to a file of its own.
    ///
    /// # Errors
    /// The file cannot be written, or the member stopped answering: trying again may help.
    pub(super) async fn keep_tail(
        &self,
        order: &Order,
        info: &Info,
        divergent: u64,
        directory: &Path,
    ) -> Result<Tail, Failure> {
        let (Role::Primary, Some(history), Some(end)) = (info.role, &info.replid, info.position) else {
            return Ok(Tail::Lost("it is a standby, which hands out nothing".into()));
        };
        let first = end.saturating_sub(divergent) + 1;
        // Asking for more than the backlog has would make it write a full copy for us.
        if info.backlog_from.is_none_or(|from| from > first) {
            return Ok(Tail::Lost("its replication backlog does not reach back that far".into()));
        }
        let mut connection = self.door.open(&order.target).await?;
        let reply = connection.call(cmd("PSYNC").arg(history).arg(first)).await;
        match reply {
            Ok(Value::SimpleString(text)) if text.starts_with("CONTINUE") => {}
            Ok(_) => return Ok(Tail::Lost("its replication backlog does not reach back that far any more".into())),
            Err(failure) if failure.kind == FailureKind::Auth => {
                return Ok(Tail::Lost(format!("our user may not read it: {}", failure.text)));
            }
            Err(failure) => return Err(failure),
        }
        let path = directory.join(file_name(order));
        let written = write(&mut connection, divergent, &path).await?;
        written.map_err(|e| {
            let remedy = "make room or correct `keep_tail_in`; until then it is not made to follow";
            Failure::new(FailureKind::Local, format!("its tail cannot be kept in {}: {e}; {remedy}", path.display()))
        })?;
        Ok(Tail::Kept(path))
    }
}

/// Copies `left` bytes of the stream into the file. The outer error is the member's, the inner one the file's.
async fn write(connection: &mut Connection, mut left: u64, path: &Path) -> Result<io::Result<()>, Failure> {
    // It may hold what only the service should see. An attempt before this one left a part at most.
    let opened = tokio::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).await;
    let mut file = match opened {
        Ok(file) => file,
        Err(error) => return Ok(Err(error)),
    };
    while left > 0 {
        let mut chunk = connection.raw().await?;
        let take = usize::try_from(left).map_or(chunk.len(), |left| left.min(chunk.len()));
        chunk.truncate(take);
        if let Err(error) = file.write_all(&chunk).await {
            return Ok(Err(error));
        }
        left -= take as u64;
    }
    Ok(file.sync_all().await)
}

fn file_name(order: &Order) -> String {
    let name = format!("{}-{}-epoch-{}-{}", order.target.cluster, order.target.member, order.epoch, order.incident);
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    name.chars().map(plain).collect::<String>() + ".resp"
}

//! A node's connection. Each reads the log at its own pace: a slow one costs one batch of memory, and nobody waits for it.

use std::{io, time::Duration};

use tokio::{net::tcp::OwnedWriteHalf, task::spawn_blocking, time::timeout};

use super::{Common, Frames, Kind, Refusal, Why, gone, refuse_with, until_no_primary, wire, write};
use crate::relay::{
    entry::EntryKind,
    reader::{ReadError, Reader},
    shared::{NodeSeen, Serving},
    wire::Welcome,
};

/// If there is nothing to send, it is said that the relay lives.
const BEAT_EVERY: Duration = Duration::from_millis(500);

pub(super) async fn serve(
    mut frames: Frames,
    mut writer: OwnedWriteHalf,
    common: &Common,
    name: &str,
    after: Option<u64>,
    known: u64,
) -> io::Result<()> {
    let mut serving = common.shared.serving.subscribe();
    let now = *serving.borrow_and_update();
    let refusal = |why, detail: String| Refusal { why, detail, epoch: common.shared.lock().stored_epoch };
    let Some(epoch) = now.epoch else {
        return refuse_with(writer, &refusal(Why::NotPrimary, "it is no primary".into())).await;
    };
    if known > epoch {
        let detail = format!("it is primary in epoch {epoch}, but {known} has begun");
        return refuse_with(writer, &refusal(Why::OldEpoch, detail)).await;
    }
    let after = after.unwrap_or(now.end);
    if after > now.end {
        let detail = format!(
            "the log ends with sequence {}, and this node has {after}: is this an older copy of the storage?",
            now.end
        );
        return refuse_with(writer, &refusal(Why::Ahead { last: now.end }, detail)).await;
    }
    let dir = common.dir.clone();
    let reader = match spawn_blocking(move || Reader::after(&dir, after)).await.map_err(gone)? {
        Ok(reader) => reader,
        Err(error) => return refuse_with(writer, &refusal(why(&error), error.to_string())).await,
    };
    let welcome = Welcome { name: common.shared.name.clone(), epoch, last: after };
    write(&mut writer, &wire::json(Kind::Welcome, &welcome)?).await?;
    let _leave = Leave::enter(common, name, after);
    let received = async {
        while let Some(frame) = frames.next().await? {
            if frame.kind != Kind::Received {
                return Err(wire::bad(format!("{:?} from a node", frame.kind)));
            }
            let [sequence, _] = wire::read_numbers(&frame)?;
            // It cannot have what is not in the log.
            let end = common.shared.serving.borrow().end;
            common.shared.node(name, |seen| seen.received = seen.received.max(sequence.min(end)));
        }
        Ok(None)
    };
    let mut again = common.shared.serving.subscribe();
    let ended = tokio::select! {
        ended = received => ended,
        ended = send(&mut writer, common, reader, epoch) => ended.map(Some),
        () = until_no_primary(&mut again, epoch) => Ok(Some(refusal(Why::NotPrimary, "it is no primary any more".into()))),
    };
    match ended? {
        None => Ok(()),
        // Behind half a frame it is garbage; the node notices by the checksum, and connects anew.
        Some(refusal) => refuse_with(writer, &refusal).await,
    }
}

fn why(error: &ReadError) -> Why {
    match error {
        ReadError::TooFarBehind { oldest } => Why::TooFarBehind { oldest: *oldest },
        _ => Why::Storage,
    }
}

/// Sends what the log has, and what comes; ends with what stands in the way.
async fn send(writer: &mut OwnedWriteHalf, common: &Common, mut reader: Reader, epoch: u64) -> io::Result<Refusal> {
    let mut serving = common.shared.serving.subscribe();
    loop {
        let Serving { epoch: now, end } = *serving.borrow_and_update();
        if now != Some(epoch) {
            return std::future::pending().await;
        }
        if reader.last() >= end {
            if timeout(BEAT_EVERY, serving.changed()).await.is_err() {
                write(writer, &wire::numbers(Kind::Beat, [epoch, end])).await?;
            }
            continue;
        }
        let (back, result) = spawn_blocking(move || {
            let result = next(&mut reader, end);
            (reader, result)
        })
        .await
        .map_err(gone)?;
        reader = back;
        match result {
            // The end of the log is known to be further: it comes in a moment.
            Ok((_, 0)) => tokio::time::sleep(Duration::from_millis(1)).await,
            Ok((frame, _)) => {
                let last = reader.last();
                write(writer, &frame).await?;
                common.shared.sent(last);
            }
            Err(error) => {
                common.shared.note(&error);
                let stored = common.shared.lock().stored_epoch;
                return Ok(Refusal { why: why(&error), detail: error.to_string(), epoch: stored });
            }
        }
    }
}

fn next(reader: &mut Reader, end: u64) -> Result<(Vec<u8>, usize), ReadError> {
    let mut frame = wire::begin(Kind::Entries, wire::BATCH + 64 * 1024);
    let mut size = 0;
    let result = reader.read(wire::BATCH, |entry, raw| {
        if entry.sequence > end {
            return false;
        }
        if entry.kind == EntryKind::Snapshot {
            return true;
        }
        // A batch ends before it would be too large for a frame.
        if size > 0 && size + raw.len() > wire::BATCH {
            return false;
        }
        size += raw.len();
        frame.extend_from_slice(raw);
        true
    });
    match result {
        Ok(count) => Ok((wire::finish(frame), count)),
        // What lies before the place is sound, and is sent; the next time the error comes alone.
        Err(_) if size > 0 => Ok((wire::finish(frame), 1)),
        Err(error) => Err(error),
    }
}

struct Leave<'a> {
    common: &'a Common,
    name: &'a str,
}

impl<'a> Leave<'a> {
    fn enter(common: &'a Common, name: &'a str, after: u64) -> Self {
        common.shared.node(name, |seen: &mut NodeSeen| {
            seen.received = after;
            seen.connections += 1;
        });
        Self { common, name }
    }
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.common.shared.node(self.name, |seen| seen.connections = seen.connections.saturating_sub(1));
    }
}

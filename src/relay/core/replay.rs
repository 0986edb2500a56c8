//! Replaying: what a shadow does all the time, and what a promotion ends with.

use std::time::Duration;

use super::{Core, EntryKind, ReadError, Reader, Stopwatch, Table, anchor, disk};

/// How much is applied between two looks at the orders.
const STEP_BYTES: usize = 4 * 1024 * 1024;

/// What came of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// So many entries were applied; there may be more.
    Applied(u64),
    /// The end of the log, as it is now.
    End,
    /// There is more, but it is too young.
    Delayed,
}

impl Core {
    /// Goes on replaying, for a moment.
    pub(super) fn replay_on(&mut self) {
        let delay = self.storage.replay_delay;
        match self.step(delay) {
            Ok(step) => {
                self.stuck = None;
                self.note_lag(step);
            }
            Err(error) => self.note_trouble(&error),
        }
    }

    fn note_trouble(&mut self, error: &ReadError) {
        self.shared.note(error);
        let text = error.to_string();
        if self.stuck.as_ref() != Some(&text) {
            tracing::warn!(relay = self.shared.name, "the replay does not go on: {text}");
            self.stuck = Some(text);
        }
        self.shared.lock().is_replaying = false;
    }

    fn note_lag(&self, step: Step) {
        let (bytes, has_more) = match (&self.reader, step) {
            (Some(reader), Step::Applied(_) | Step::Delayed) => reader.remaining().unwrap_or((0, false)),
            _ => (0, false),
        };
        let mut inner = self.shared.lock();
        inner.is_replaying = true;
        // An estimate: the primary says it exactly while it lives. A message is rarely shorter.
        inner.unread = (bytes / 128).max(u64::from(has_more || step == Step::Delayed));
        let known = inner.heard.map_or(0, |heard| heard.position);
        let is_behind = inner.unread > 0 || known > inner.position;
        if !is_behind {
            inner.behind_since = None;
        } else if inner.behind_since.is_none() {
            inner.behind_since = Some(Stopwatch::start());
        }
    }

    /// Applies what comes next. A reader that lost its way begins anew, with the table that the oldest segment has.
    pub(super) fn step(&mut self, delay: Duration) -> Result<Step, ReadError> {
        match self.step_once(delay) {
            Err(error @ (ReadError::Diverged | ReadError::TooFarBehind { .. })) => {
                tracing::info!(relay = self.shared.name, "the replay begins anew: {error}");
                self.rewind();
                self.step_once(delay)
            }
            other => other,
        }
    }

    /// Forgets what was applied.
    pub(super) fn rewind(&mut self) {
        self.reader = None;
        self.table = Table::default();
        self.shared.lock().position = 0;
    }

    fn step_once(&mut self, delay: Duration) -> Result<Step, ReadError> {
        if self.reader.is_none() {
            let reader = Reader::from_oldest(&self.storage.dir)?;
            self.needs_snapshot = reader.last() > 0;
            self.reader = Some(reader);
            self.table = Table::default();
        }
        let Some(reader) = &mut self.reader else { return Ok(Step::End) };
        let (table, needs_snapshot) = (&mut self.table, &mut self.needs_snapshot);
        let oldest = reader.last();
        let young =
            anchor().unix_ms.unsigned_abs().saturating_sub(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
        let (mut is_delayed, mut is_whole) = (false, true);
        let result = reader.read(STEP_BYTES, |entry, _| {
            if !delay.is_zero() && entry.time_ms > young && entry.kind != EntryKind::Snapshot {
                is_delayed = true;
                return false;
            }
            // A log that does not begin with its first entry has to say what was before.
            is_whole &= !*needs_snapshot || entry.kind == EntryKind::Snapshot;
            *needs_snapshot = false;
            is_whole &= table.apply(entry);
            is_whole
        });
        let (last, epoch) = (reader.last(), reader.epoch());
        {
            let mut inner = self.shared.lock();
            inner.position = last;
            inner.epoch = epoch.max(inner.epoch);
            inner.stored_epoch = inner.stored_epoch.max(epoch);
        }
        let count = result?;
        if !is_whole {
            return Err(ReadError::Corrupt {
                file: reader.path().map_or_else(Default::default, ToOwned::to_owned),
                offset: 0,
                sequence: oldest + 1,
                detail: "the table of senders that belongs before it is missing".into(),
            });
        }
        Ok(match count {
            _ if is_delayed => Step::Delayed,
            0 => Step::End,
            count => Step::Applied(count as u64),
        })
    }

    /// Replays to the end of the log as it is now, or to `upto`. Answers how many entries that took, and whether it got
    /// there in time.
    pub(super) fn replay_to(&mut self, upto: Option<u64>, within: Duration) -> Result<(u64, bool), ReadError> {
        let watch = Stopwatch::start();
        let mut replayed = 0;
        // The former primary may have begun a segment, and acknowledged from it, just before the epoch was raised.
        if let Some(reader) = &mut self.reader {
            reader.look_again();
        }
        loop {
            if upto.is_some_and(|upto| self.shared.lock().position >= upto) {
                return Ok((replayed, true));
            }
            match self.step(Duration::ZERO)? {
                Step::Applied(count) => replayed += count,
                Step::End if upto.is_none() => return Ok((replayed, true)),
                Step::End => disk::sleep(super::POLL),
                // There is no delay here.
                Step::Delayed => {}
            }
            if watch.elapsed() > within {
                return Ok((replayed, false));
            }
        }
    }
}

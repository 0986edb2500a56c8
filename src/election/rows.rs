//! What an own clock saw of the rows before the own one.

use std::{collections::BTreeMap, time::Duration};

use super::Settings;
use crate::{model::time::Mono, registry::Instance};

/// A row before the own one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    /// How often it beat; `None`: it is not in the table any more, so that it cannot beat.
    beats: Option<u64>,
    /// Since when that was seen: from the receipt of the first answer that said so.
    since: Mono,
    /// Of its heartbeats.
    valid_for: Duration,
    /// What the database's clock says.
    is_valid: bool,
}

impl Row {
    /// Its program told that it was stopped: nobody has to wait.
    const fn has_left(&self) -> bool {
        self.valid_for.is_zero() && !self.is_valid
    }
}

/// The rows before the own one, by id.
#[derive(Clone, Debug, Default)]
pub(super) struct Rows {
    rows: BTreeMap<u64, Row>,
    /// From which id on the first answer showed them.
    shown_from: Option<u64>,
}

/// A row has fewer heartbeats than it had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shrunk {
    pub(super) id: u64,
    pub(super) was: u64,
    pub(super) is: u64,
}

impl Rows {
    /// A former row of one's own, whose last heartbeat was answered at `since`.
    pub(super) fn remember(&mut self, id: u64, beats: u64, since: Mono, valid_for: Duration) {
        self.rows.insert(id, Row { beats: Some(beats), since, valid_for, is_valid: false });
    }

    /// Takes in an answer received at `now`: the rows from `from` on. Those before `own` are kept.
    pub(super) fn see(
        &mut self,
        now: Mono,
        own: u64,
        from: Option<u64>,
        answer: &[Instance],
        valid_for: Duration,
    ) -> Result<(), Shrunk> {
        self.rows.retain(|id, _| *id < own);
        self.shown_from.get_or_insert_with(|| from.unwrap_or(0));
        for seen in answer.iter().filter(|row| row.id < own) {
            let row = self.rows.entry(seen.id).or_insert_with(|| Row {
                beats: Some(seen.beats),
                since: now,
                valid_for: milliseconds(seen.valid_for_ms),
                is_valid: seen.is_valid,
            });
            match row.beats {
                Some(was) if was > seen.beats => return Err(Shrunk { id: seen.id, was, is: seen.beats }),
                Some(was) if was == seen.beats => {}
                _ => {
                    row.beats = Some(seen.beats);
                    row.since = now;
                }
            }
            // A row that left is valid for nothing. Otherwise the longest counts: that is what its lease was made of.
            let valid_for = milliseconds(seen.valid_for_ms);
            row.valid_for = if valid_for.is_zero() { valid_for } else { valid_for.max(row.valid_for) };
            row.is_valid = seen.is_valid;
        }
        // The leader's row may have been deleted: whoever had it may act until its lease ends.
        let first = from.unwrap_or(0);
        if let Some(leader) = from.filter(|id| *id < own) {
            self.rows.entry(leader).or_insert(Row { beats: None, since: now, valid_for, is_valid: false });
        }
        for (id, row) in self.rows.range_mut(first..) {
            if row.beats.is_some() && !answer.iter().any(|seen| seen.id == *id) {
                row.beats = None;
                row.since = now;
                row.is_valid = false;
            }
        }
        Ok(())
    }

    /// Whether the database says that none of them is valid.
    pub(super) fn have_lapsed(&self, from: Option<u64>) -> bool {
        self.rows.range(from.unwrap_or(0)..).all(|(_, row)| !row.is_valid)
    }

    /// When an own clock has seen each of them unchanged for long enough, those before `from` left out; `None`: there
    /// is nothing to wait for.
    pub(super) fn waited_at(&self, settings: &Settings, from: Option<u64>) -> Option<Mono> {
        let rows = self.rows.range(from.unwrap_or(0)..).filter(|(_, row)| !row.has_left());
        rows.map(|(_, row)| row.since + settings.wait(row.valid_for)).max()
    }

    /// Whether their programs all told that they were stopped.
    pub(super) fn all_left(&self) -> bool {
        self.rows.values().all(Row::has_left)
    }

    /// The longest validity of any of them.
    pub(super) fn longest_valid_for(&self) -> Duration {
        self.rows.values().map(|row| row.valid_for).max().unwrap_or_default()
    }

    /// Whether a look, answered at `now`, finds each of them as it was for long enough.
    pub(super) fn are_unchanged(&self, now: Mono, settings: &Settings, own: u64, look: &[Instance]) -> bool {
        let has_left = |seen: &Instance| seen.valid_for_ms <= 0 && !seen.is_valid;
        // An id that was handed out before the own one may have been inserted after it.
        let shown_from = self.shown_from.unwrap_or(0);
        let is_stranger = |seen: &Instance| {
            (shown_from..own).contains(&seen.id) && !self.rows.contains_key(&seen.id) && !has_left(seen)
        };
        if look.iter().any(is_stranger) {
            return false;
        }
        self.rows.iter().all(|(id, row)| {
            let has_waited = row.has_left() || row.since + settings.wait(row.valid_for) <= now;
            let found = look.iter().find(|seen| seen.id == *id);
            let has_left_since = found.is_some_and(has_left);
            let is_same =
                row.has_left() || row.beats.is_none() || has_left_since || found.map(|seen| seen.beats) == row.beats;
            has_waited && is_same
        })
    }
}

fn milliseconds(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

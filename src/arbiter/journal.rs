//! The history of observations and verdicts: written in batches, bounded, and never waited for.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::mpsc;

use crate::{
    model::Observation,
    store::{Store, VerdictLine},
};

/// Observations in one batch, at most.
const BATCH: usize = 4_096;
/// A batch that is not full is written after this.
const EVERY: Duration = Duration::from_millis(500);
const TRIM_EVERY: Duration = Duration::from_secs(60);

/// The way into the history.
pub(super) struct Journal {
    lines: mpsc::Sender<Line>,
    batch: Vec<Observation>,
    dropped: Arc<AtomicU64>,
}

enum Line {
    Observations(i64, Vec<Observation>),
    Verdict(VerdictLine),
}

impl Journal {
    /// Starts the writer.
    #[must_use]
    pub(super) fn start(store: Arc<dyn Store>) -> Self {
        let (lines, mut received) = mpsc::channel::<Line>(64);
        let dropped = Arc::new(AtomicU64::new(0));
        let lost = Arc::clone(&dropped);
        tokio::spawn(async move {
            let mut trim = tokio::time::interval(TRIM_EVERY);
            trim.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    line = received.recv() => match line {
                        None => return,
                        Some(Line::Observations(unix_ms, batch)) => {
                            if let Err(error) = store.append_observations(unix_ms, &batch).await {
                                lost.fetch_add(batch.len() as u64, Ordering::Relaxed);
                                tracing::debug!(%error, "observations were not kept");
                            }
                        }
                        Some(Line::Verdict(line)) => {
                            if let Err(error) = store.append_verdict(&line).await {
                                tracing::warn!(%error, "a verdict was not kept in the history");
                            }
                        }
                    },
                    _ = trim.tick() => {
                        if let Err(error) = store.trim().await {
                            tracing::warn!(%error, "the history could not be trimmed");
                        }
                    }
                }
            }
        });
        Self { lines, batch: Vec::new(), dropped }
    }

    /// Takes an observation. When the writer is behind, the history has gaps; memory stays bounded.
    pub(super) fn take(&mut self, unix_ms: i64, seen: &Observation) {
        self.batch.push(seen.clone());
        if self.batch.len() >= BATCH {
            self.flush(unix_ms);
        }
    }

    /// Hands the batch to the writer.
    pub(super) fn flush(&mut self, unix_ms: i64) {
        if self.batch.is_empty() {
            return;
        }
        let batch = std::mem::take(&mut self.batch);
        let count = batch.len() as u64;
        if self.lines.try_send(Line::Observations(unix_ms, batch)).is_err() {
            self.dropped.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Takes a change of verdict.
    pub(super) fn verdict(&self, line: VerdictLine) {
        if self.lines.try_send(Line::Verdict(line)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often to flush.
    #[must_use]
    pub(super) const fn every() -> Duration {
        EVERY
    }

    /// Lines that were not kept.
    #[must_use]
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

//! The journal's two ends in the arbiter: what the decision loop hands in, and the thread that writes it.
//!
//! The loop copies and goes on. What the writer cannot take in time is dropped, counted, and said in the journal; memory stays
//! bounded. A directory that cannot be written keeps nobody from deciding: it is tried again.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::Duration,
};

use tokio::sync::oneshot;

use crate::{
    config::JournalConfig,
    journal::{Bounds, IncidentMark, Life, Mark, Recorder},
    model::{IncidentId, Notice, Observation, Time, WallAnchor},
    sys::clock,
};

/// Things in one batch, at most.
const BATCH: usize = 4_096;
/// Batches that may wait for the writer.
const WAITING: usize = 64;
/// A batch that is not full is handed over after this.
const EVERY: Duration = Duration::from_millis(500);
/// A directory that could not be used is tried again after this.
const AGAIN: Duration = Duration::from_secs(10);
/// Incidents of which it is remembered how much of their story was recorded.
const INCIDENTS: usize = 256;

/// The way into the journal.
pub(super) struct Journal {
    batches: SyncSender<Batch>,
    batch: Vec<(Time, Line)>,
    dropped: Arc<AtomicU64>,
    /// Dropped here, and not said to the writer yet.
    unsaid: u64,
    /// How many lines of each incident's story were recorded.
    recorded: HashMap<IncidentId, usize>,
    written: oneshot::Receiver<()>,
}

enum Line {
    Seen(Observation),
    Mark(Mark),
}

struct Batch {
    anchor: WallAnchor,
    lines: Vec<(Time, Line)>,
    /// So many things before these were dropped.
    lost: u64,
}

impl Journal {
    /// Starts the writer.
    ///
    /// # Errors
    /// There are no threads left.
    pub(super) fn start(config: &JournalConfig, life: Life) -> std::io::Result<Self> {
        let (batches, received) = sync_channel(WAITING);
        let dropped = Arc::new(AtomicU64::new(0));
        let (all_written, written) = oneshot::channel();
        let writer =
            Writer { config: config.clone(), life, dropped: Arc::clone(&dropped), recorder: None, tried: None };
        std::thread::Builder::new().name("journal".into()).spawn(move || {
            writer.run(&received);
            // Nobody may wait for it any more.
            let _ = all_written.send(());
        })?;
        Ok(Self { batches, batch: Vec::new(), dropped, unsaid: 0, recorded: HashMap::new(), written })
    }

    /// Takes an observation.
    pub(super) fn seen(&mut self, now: Time, seen: &Observation) {
        self.take(now, Line::Seen(seen.clone()));
    }

    /// Takes what was told. Of an incident, what is new of its story.
    pub(super) fn told(&mut self, now: Time, notice: &Notice) {
        let Notice::IncidentUpdated(incident) = notice else {
            return self.take(now, Line::Mark(Mark::Told(Box::new(notice.clone()))));
        };
        if self.recorded.len() >= INCIDENTS && !self.recorded.contains_key(&incident.id) {
            self.recorded.clear();
        }
        let before = self.recorded.insert(incident.id.clone(), incident.timeline.len());
        let mark = IncidentMark::of(incident, before.unwrap_or_default());
        self.take(now, Line::Mark(Mark::Incident(Box::new(mark))));
    }

    /// Takes something else.
    pub(super) fn mark(&mut self, now: Time, mark: Mark) {
        self.take(now, Line::Mark(mark));
    }

    fn take(&mut self, now: Time, line: Line) {
        self.batch.push((now, line));
        if self.batch.len() >= BATCH {
            self.flush(clock::anchor());
        }
    }

    /// Hands the batch to the writer.
    pub(super) fn flush(&mut self, anchor: WallAnchor) {
        if self.batch.is_empty() {
            return;
        }
        let lines = std::mem::take(&mut self.batch);
        let count = lines.len() as u64;
        match self.batches.try_send(Batch { anchor, lines, lost: self.unsaid }) {
            Ok(()) => self.unsaid = 0,
            Err(_) => {
                self.unsaid += count;
                self.dropped.fetch_add(count, Ordering::Relaxed);
            }
        }
    }

    /// Hands over what is left, and waits for the writer, but not for long.
    pub(super) async fn end(mut self, within: Duration) {
        self.flush(clock::anchor());
        let Self { batches, written, .. } = self;
        drop(batches);
        if tokio::time::timeout(within, written).await.is_err() {
            tracing::warn!("the last part of the journal could not be written before the end");
        }
    }

    /// How often to flush.
    #[must_use]
    pub(super) const fn every() -> Duration {
        EVERY
    }

    /// Things that were not recorded.
    #[must_use]
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

struct Writer {
    config: JournalConfig,
    life: Life,
    dropped: Arc<AtomicU64>,
    recorder: Option<Recorder>,
    /// When the directory was tried last, in vain.
    tried: Option<Time>,
}

impl Writer {
    fn run(mut self, batches: &Receiver<Batch>) {
        let mut lost = 0;
        loop {
            match batches.recv_timeout(EVERY * 4) {
                Ok(batch) => lost = self.record(batch, lost),
                Err(RecvTimeoutError::Timeout) => self.write(true),
                Err(RecvTimeoutError::Disconnected) => return self.write(true),
            }
        }
    }

    /// Records a batch. Answers what was lost and could not be said yet.
    fn record(&mut self, batch: Batch, lost: u64) -> u64 {
        let lost = lost + batch.lost;
        let count = batch.lines.len() as u64;
        let Some(recorder) = self.recorder() else {
            self.dropped.fetch_add(count, Ordering::Relaxed);
            return lost + count;
        };
        let missing = recorder.missing();
        recorder.lost(lost);
        recorder.wall(batch.anchor);
        for (now, line) in batch.lines {
            match line {
                Line::Seen(seen) => recorder.seen(now, &seen),
                Line::Mark(mark) => recorder.mark(now, &mark),
            }
        }
        // What the recorder itself could not take; `lost` was counted where it was lost.
        let more = recorder.missing().saturating_sub(missing + lost);
        self.dropped.fetch_add(more, Ordering::Relaxed);
        self.write(false);
        0
    }

    fn write(&mut self, is_urgent: bool) {
        let Some(recorder) = &mut self.recorder else { return };
        let missing = recorder.missing();
        if let Err(error) = recorder.flush(is_urgent) {
            self.dropped.fetch_add(recorder.missing().saturating_sub(missing), Ordering::Relaxed);
            let path = self.config.path.display();
            tracing::warn!(%path, %error, "the journal could not be written; it is tried again");
        }
    }

    fn recorder(&mut self) -> Option<&mut Recorder> {
        if self.recorder.is_none() {
            let now = clock::now();
            if self.tried.is_some_and(|at| now.since(at) < AGAIN) {
                return None;
            }
            let bounds =
                Bounds { keep_for: self.config.keep_for, most_bytes: self.config.most_bytes, ..Bounds::default() };
            match Recorder::open(&self.config.path, bounds, self.life.clone()) {
                Ok(recorder) => self.recorder = Some(recorder),
                Err(error) => {
                    self.tried = Some(now);
                    let path = self.config.path.display();
                    tracing::warn!(%path, %error, "nothing is recorded: the journal's directory cannot be used");
                }
            }
        }
        self.recorder.as_mut()
    }
}

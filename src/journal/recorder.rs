//! Writing: one thread records, into one segment at a time; nothing that decides waits for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    decode::{Fault, Reader, StreamName},
    encode::{Encoder, file_name},
    mark::Mark,
    segment::{Header, Known, files, sequence_of},
};
use crate::model::{ClusterName, Notice, Observation, Time, WallAnchor};

/// A frame is written at least this often; at once if anything but observations is in it.
pub const FRAME_EVERY: Duration = Duration::from_secs(2);
/// Where the wall clock is off by more than this from what the segment says, that is recorded.
const DRIFT_MS: u64 = 20;

/// A segment that could not be begun or written is tried anew after this.
const AGAIN: Duration = Duration::from_secs(1);

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Segments that ended longer ago than this go.
    pub keep_for: Duration,
    /// The oldest go when all together are larger than this.
    pub most_bytes: u64,
    /// A segment ends when it is larger than this.
    pub segment_bytes: u64,
    /// And after this.
    pub segment_for: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            keep_for: Duration::from_hours(30 * 24),
            most_bytes: 1 << 30,
            segment_bytes: 4 << 20,
            segment_for: Duration::from_hours(6),
        }
    }
}

/// Who records.
#[derive(Clone, Debug, Default)]
pub struct Life {
    /// The arbiter's name.
    pub arbiter: String,
    /// Hash of the policy in force.
    pub policy: String,
    /// Which boot of the host this is.
    pub boot_id: String,
    /// When the decision began, on its clock.
    pub began: Time,
    /// Ties that to the wall clock.
    pub anchor: WallAnchor,
    /// What was known of the clusters then.
    pub clusters: Vec<Known>,
}

/// Writes a journal.
#[derive(Debug)]
pub struct Recorder {
    dir: PathBuf,
    bounds: Bounds,
    life: Life,
    /// Held, not read: a second arbiter would write the same files.
    _lock: File,
    /// The segment that is written; `None`: none could be begun, or the last one is complete.
    open: Option<Open>,
    sequence: u64,
    part: u64,
    lost: u64,
    clusters: BTreeMap<ClusterName, Known>,
    heard: BTreeSet<StreamName>,
    newest: Time,
    anchor: WallAnchor,
    /// A segment could not be begun then; it is not tried again at once.
    failed: Option<Time>,
}

#[derive(Debug)]
struct Open {
    file: File,
    encoder: Encoder,
    began: Time,
    bytes: u64,
    /// By which the segment's readers translate moments.
    anchor: WallAnchor,
    written: Time,
    /// Something else than an observation waits.
    is_urgent: bool,
}

impl Recorder {
    /// Takes the directory, made if it is missing, and cuts what the last life could not write whole.
    ///
    /// # Errors
    /// It cannot be written, or another process records there.
    pub fn open(dir: &Path, bounds: Bounds, life: Life) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o750).create(dir)?;
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o640).open(dir.join("lock"))?;
        lock.try_lock().map_err(|e| match e {
            fs::TryLockError::WouldBlock => {
                io::Error::new(io::ErrorKind::ResourceBusy, "another process records there: each arbiter needs its own")
            }
            fs::TryLockError::Error(e) => e,
        })?;
        let files = files(dir)?;
        if let Some(last) = files.last() {
            cut(last)?;
        }
        let sequence = files.last().and_then(|path| sequence_of(path)).map_or(0, |last| last + 1);
        let clusters = life.clusters.iter().map(|known| (known.cluster.clone(), known.clone())).collect();
        let heard = life.clusters.iter().flat_map(|known| {
            known.heard.iter().map(|(signal, observer, subject)| StreamName {
                cluster: known.cluster.clone(),
                signal: signal.clone(),
                observer: observer.clone(),
                subject: subject.clone(),
            })
        });
        Ok(Self {
            dir: dir.to_owned(),
            bounds,
            _lock: lock,
            open: None,
            sequence,
            part: 0,
            lost: 0,
            clusters,
            heard: heard.collect(),
            newest: life.began,
            anchor: life.anchor,
            failed: None,
            life,
        })
    }

    /// Records an observation that the decision loop took at `now`.
    pub fn seen(&mut self, now: Time, seen: &Observation) {
        match self.segment(now) {
            Some(open) => open.encoder.seen(now, seen),
            None => self.lost += 1,
        }
        self.newest = now;
    }

    /// Records something else.
    pub fn mark(&mut self, now: Time, mark: &Mark) {
        if let Mark::Told(notice) = mark
            && let Notice::PrimaryChanged { cluster, primary, epoch } = &**notice
        {
            let known = self.clusters.entry(cluster.clone()).or_default();
            known.cluster = cluster.clone();
            (known.primary, known.epoch) = (primary.clone(), *epoch);
        }
        match self.segment(now) {
            Some(open) => {
                open.encoder.mark(now, mark);
                open.is_urgent = true;
            }
            None => self.lost += 1,
        }
        self.newest = now;
    }

    /// So many things never came here. The next segment begins anew.
    pub fn lost(&mut self, count: u64) {
        if count > 0 {
            self.end();
            self.lost += count;
        }
    }

    /// The wall clock says this. Call it before what was seen since is recorded.
    pub fn wall(&mut self, anchor: WallAnchor) {
        self.anchor = anchor;
        let newest = self.newest;
        if let Some(open) = &mut self.open {
            let off_ms = open.anchor.unix_ms_at(anchor.boot).abs_diff(anchor.unix_ms);
            if off_ms > DRIFT_MS {
                open.anchor = anchor;
                open.encoder.mark(newest, &Mark::Wall(anchor));
            }
        }
    }

    /// Writes what waits, if it has waited long enough or `is_urgent`. What cannot be written is lost, counted, and said by
    /// the next segment.
    ///
    /// # Errors
    /// It could not be written.
    pub fn flush(&mut self, is_urgent: bool) -> io::Result<()> {
        let newest = self.newest;
        let Some(open) = &mut self.open else { return Ok(()) };
        let is_due = is_urgent || open.is_urgent || newest.since(open.written) >= FRAME_EVERY;
        if !is_due || open.encoder.is_empty() {
            return Ok(());
        }
        let count = open.encoder.waiting();
        let frames = open.encoder.take();
        if let Err(error) = open.file.write_all(&frames) {
            // A part of it may stand there: nothing may follow it.
            self.lost += count.max(1);
            self.heard.extend(open.encoder.heard().iter().cloned());
            self.open = None;
            self.failed = Some(newest);
            return Err(error);
        }
        open.bytes += frames.len() as u64;
        (open.written, open.is_urgent) = (newest, false);
        if open.bytes >= self.bounds.segment_bytes || newest.since(open.began) >= self.bounds.segment_for {
            self.end();
        }
        Ok(())
    }

    /// How many things are missing since the last complete segment; they are said by the next one.
    #[must_use]
    pub const fn missing(&self) -> u64 {
        self.lost
    }

    /// Completes the segment.
    fn end(&mut self) {
        let Some(mut open) = self.open.take() else { return };
        self.heard.extend(open.encoder.heard().iter().cloned());
        let count = open.encoder.waiting();
        let frames = open.encoder.take();
        if open.file.write_all(&frames).is_err() {
            self.lost += count;
        }
        // Nobody waits for it here; what is not on the disk after a power cut is a torn tail.
        let _ = open.file.sync_data();
    }

    /// The segment that is written, begun if there is none.
    fn segment(&mut self, now: Time) -> Option<&mut Open> {
        if self.open.is_none() {
            if self.failed.is_some_and(|at| now.since(at) < AGAIN) {
                return None;
            }
            self.failed = self.begin(now).is_err().then_some(now);
        }
        self.open.as_mut()
    }

    fn begin(&mut self, now: Time) -> io::Result<()> {
        // A life's first segment begins with the decision, though nothing was seen then.
        let began = if self.part == 0 && self.lost == 0 { self.life.began.min(now) } else { now };
        let mut clusters = self.clusters.clone();
        for known in clusters.values_mut() {
            known.heard.clear();
        }
        for stream in &self.heard {
            let known = clusters.entry(stream.cluster.clone()).or_default();
            known.cluster = stream.cluster.clone();
            known.heard.push((stream.signal.clone(), stream.observer.clone(), stream.subject.clone()));
        }
        let header = Header {
            sequence: self.sequence,
            arbiter: self.life.arbiter.clone(),
            program: env!("CARGO_PKG_VERSION").into(),
            policy: self.life.policy.clone(),
            life: self.life.anchor.unix_ms.unsigned_abs(),
            boot_id: self.life.boot_id.clone(),
            part: self.part,
            lost: self.lost,
            began,
            anchor: self.anchor,
            clusters: clusters.into_values().collect(),
        };
        let path = self.dir.join(file_name(self.sequence, header.began_unix_ms()));
        let file = OpenOptions::new().append(true).create_new(true).mode(0o640).open(&path);
        // A number is used once, even if nothing could be written under it.
        self.sequence += 1;
        let encoder = Encoder::new(&header);
        let open = Open { file: file?, encoder, began, bytes: 0, anchor: self.anchor, written: now, is_urgent: true };
        self.open = Some(open);
        self.part += 1;
        self.lost = 0;
        self.trim(&path);
        Ok(())
    }

    /// The oldest segments go, never the one that is written.
    fn trim(&self, written: &Path) {
        let Ok(files) = files(&self.dir) else { return };
        let mut all: Vec<(PathBuf, u64, i64)> = Vec::new();
        for path in files {
            let Ok(meta) = fs::metadata(&path) else { continue };
            let ended = meta.modified().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
            let ended_ms = ended.map_or(0, |at| i64::try_from(at.as_millis()).unwrap_or(i64::MAX));
            all.push((path, meta.len(), ended_ms));
        }
        let mut total: u64 = all.iter().map(|(_, bytes, _)| bytes).sum();
        let keep_ms = i64::try_from(self.bounds.keep_for.as_millis()).unwrap_or(i64::MAX);
        let oldest_ms = self.anchor.unix_ms.saturating_sub(keep_ms);
        for (path, bytes, ended_ms) in all {
            // The one that is begun now will grow.
            let is_too_much = total.saturating_add(self.bounds.segment_bytes) > self.bounds.most_bytes;
            if path == written || !(is_too_much || ended_ms < oldest_ms) {
                continue;
            }
            if fs::remove_file(&path).is_ok() {
                total -= bytes;
            }
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.end();
    }
}

/// Cuts the torn tail of a segment, so that what stands there is whole.
fn cut(path: &Path) -> io::Result<()> {
    let bytes = fs::read(path)?;
    let good = match Reader::over(&bytes) {
        Ok(mut reader) => {
            while reader.next_entry().is_some() {}
            match reader.fault() {
                Some(Fault::Torn(_)) => reader.good(),
                // What is corrupt is left for people to look at.
                _ => return Ok(()),
            }
        }
        Err(Fault::Torn(_)) => 0,
        Err(_) => return Ok(()),
    };
    if good == 0 {
        return fs::remove_file(path);
    }
    OpenOptions::new().write(true).open(path)?.set_len(good as u64)
}

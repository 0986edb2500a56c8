//! Writes the segments of one epoch.

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use super::{
    disk::{self, File, How},
    entry::{Entry, EntryKind},
    segment::{self, Begins, Header, Segment, list},
    table::Table,
};

/// What came of an append.
#[derive(Debug)]
pub(super) enum Appended {
    /// All of it is durable.
    All,
    /// The storage is full: so many entries are durable, the rest is not in the log.
    Full(usize),
}

/// The one who appends.
#[derive(Debug)]
pub struct Writer {
    dir: PathBuf,
    header: Header,
    file: File,
    path: PathBuf,
    length: u64,
    /// The sequence of the next entry.
    next: u64,
}

/// Whether an error says that the storage is full.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

impl Writer {
    /// Begins a segment. It appears under its name once header and snapshot are durable.
    ///
    /// # Errors
    /// The storage; the segment is not there then, or has no entries.
    pub fn begin(dir: &Path, epoch: u64, begins: Begins, member: &str, first: u64, table: &Table) -> io::Result<Self> {
        let header = Header { epoch, first, begins, member: member.to_owned() };
        let wal = segment::wal(dir);
        disk::create_dir_all(&wal)?;
        let path = wal.join(segment::file_name(epoch, first));
        let temporary = wal.join(format!(".{}.new", segment::file_name(epoch, first)));
        let mut bytes = header.write();
        let snapshot = table.encode();
        let entry = Entry {
            epoch,
            sequence: first - 1,
            number: 0,
            time_ms: crate::sys::clock::anchor().unix_ms.unsigned_abs(),
            kind: EntryKind::Snapshot,
            sender: "",
            payload: &snapshot,
        };
        entry.write(&mut bytes);
        let write = || {
            let file = File::open(&temporary, How::Create)?;
            file.write_all_at(&bytes, 0)?;
            file.sync()?;
            disk::rename(&temporary, &path)?;
            disk::sync_dir(&wal)?;
            Ok(file)
        };
        let file = write().inspect_err(|_: &io::Error| {
            // What it took is given back; the error that counts is the first one.
            let _ = disk::remove(&temporary);
        })?;
        Ok(Self { dir: dir.to_owned(), header, file, path, length: bytes.len() as u64, next: first })
    }

    /// Goes on in a segment that has no entries yet, and nothing torn: whoever has it open reads on. One of the same name in
    /// its place would be another file, and who has the former one open would wait for ever at its end.
    ///
    /// # Errors
    /// The storage; nothing was changed.
    pub(super) fn go_on(dir: &Path, segment: &Segment) -> io::Result<Self> {
        // Whoever made it may have died before its name was durable.
        disk::sync_dir(&segment::wal(dir))?;
        let file = File::open(&segment.path, How::Write)?;
        let (header, path, length) = (segment.header.clone(), segment.path.clone(), file.len()?);
        let next = header.first;
        Ok(Self { dir: dir.to_owned(), header, file, path, length, next })
    }

    /// The sequence of the next entry.
    #[must_use]
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// The epoch.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.header.epoch
    }

    /// How long the present segment is.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// Goes on in a new segment.
    pub(super) fn rotate(&mut self, table: &Table) -> io::Result<()> {
        let header = &self.header;
        *self = Self::begin(&self.dir, header.epoch, header.begins, &header.member, self.next, table)?;
        Ok(())
    }

    /// Appends entries and makes them durable. `ends`: where each ends in `bytes`.
    ///
    /// What is written completely stays in the log even if the storage is full behind it: somebody else may have read it
    /// already and count on it. Only the torn rest is cut, which nobody counts.
    ///
    /// # Errors
    /// Whether it is durable is not known, and no later success could tell: nothing may be appended by this process any
    /// more.
    pub(super) fn append(&mut self, bytes: &[u8], ends: &[usize]) -> io::Result<Appended> {
        let mut written = 0;
        let mut full = None;
        while written < bytes.len() {
            match self.file.write_at(&bytes[written..], self.length + written as u64) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(more) => written += more,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if is_full(&e) => {
                    full = Some(ends.partition_point(|end| *end <= written));
                    break;
                }
                Err(e) => return Err(e),
            }
        }
        let count = full.unwrap_or(ends.len());
        let kept = count.checked_sub(1).and_then(|last| ends.get(last)).copied().unwrap_or(0) as u64;
        if kept < written as u64 {
            self.file.set_len(self.length + kept)?;
        }
        self.file.sync()?;
        self.length += kept;
        self.next += count as u64;
        Ok(full.map_or(Appended::All, Appended::Full))
    }

    /// Removes the oldest segments while there is more than `bytes`. Only the history's own: what a former primary wrote
    /// beyond it is nobody's to remove.
    ///
    /// # Errors
    /// The storage.
    pub(super) fn retain(&self, bytes: u64) -> io::Result<()> {
        let spans = segment::history(&list(&self.dir)?);
        let segments: Vec<&Segment> = spans.iter().flat_map(|span| &span.segments).collect();
        let mut sizes = Vec::with_capacity(segments.len());
        for segment in &segments {
            sizes.push(File::open(&segment.path, How::Read)?.len()?);
        }
        let mut total: u64 = sizes.iter().sum();
        for (segment, size) in segments.iter().zip(sizes) {
            if total <= bytes || segment.path == self.path {
                break;
            }
            disk::remove(&segment.path)?;
            total -= size;
        }
        Ok(())
    }
}

/// Cuts a torn end, durably.
pub(super) fn cut(path: &Path, length: u64) -> io::Result<()> {
    let file = File::open(path, How::Write)?;
    file.set_len(length)?;
    file.sync()
}

/// Makes what another process wrote durable before one counts on it.
pub(super) fn make_durable(path: &Path) -> io::Result<()> {
    File::open(path, How::Read)?.sync()
}

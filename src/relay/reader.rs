//! Reads the history, entry by entry, and goes on where it stopped: a shadow lives on it, and each node.
//!
//! What is not a whole entry at the very end of the log is not there (yet). What is none and has something valid behind
//! it, or must have something behind it since a later epoch says so, is corruption: it is reported with its place and
//! nothing beyond it is read.
//!
//! The storage has to be coherent: what one process has written, another one reads. A local disk is, and a cluster file
//! system; NFS is only with `actimeo=0,lookupcache=none` or the like.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    disk::{self, File, How, Since},
    entry::{Bad, Entry, EntryKind, MAX_ENTRY, u32_at, u64_at},
    segment::{self, Segment, Span, history, list},
    writer::cut,
};

/// How much is read at once.
const CHUNK: usize = 1024 * 1024;
/// The directory is looked at anew after this time even if it does not seem to have changed.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Why reading ends.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The storage.
    #[error("the log cannot be read: {0}")]
    Io(#[from] io::Error),
    /// An entry is corrupt, or missing, and something lies behind it.
    #[error("the log is corrupt: sequence {sequence} in {} at byte {offset}: {detail}", file.display())]
    Corrupt {
        /// Where.
        file: PathBuf,
        /// Where in it.
        offset: u64,
        /// Which sequence should be there.
        sequence: u64,
        /// What is there.
        detail: String,
    },
    /// The history begins behind what is wanted.
    #[error("the log begins with sequence {oldest}: what is before it was removed")]
    TooFarBehind {
        /// Its first sequence.
        oldest: u64,
    },
    /// What was read is not part of the history any more: a later epoch begins before it.
    #[error("a later epoch begins before what was read")]
    Diverged,
}

#[derive(Debug)]
struct Open {
    file: File,
    segment: Segment,
    /// The end of the segment's epoch, where it is known.
    end: Option<u64>,
    /// Where in the file `buffer` begins.
    offset: u64,
    buffer: Vec<u8>,
    /// How much of the buffer is used up.
    used: usize,
}

/// What lies at the place of the next entry.
enum Next {
    /// A whole entry, in the buffer.
    Entry(usize),
    /// Nothing, or the beginning of something.
    Nothing(Option<Bad>),
}

/// A reader.
#[derive(Debug)]
pub struct Reader {
    dir: PathBuf,
    spans: Vec<Span>,
    /// A file that should be a segment, and is none.
    unreadable: Option<PathBuf>,
    open: Option<Open>,
    /// The last sequence that was read (or skipped on the way to the first one).
    last: u64,
    /// Entries up to this one are of no interest.
    after: u64,
    looked: Option<(Since, (i64, i64))>,
    /// A torn end that was examined: the file's length, and where.
    examined: Option<(u64, u64)>,
}

impl Reader {
    /// A reader that gives what comes after a sequence.
    ///
    /// # Errors
    /// The storage; or the history begins too late.
    pub fn after(dir: &Path, after: u64) -> Result<Self, ReadError> {
        let mut reader = Self {
            dir: dir.to_owned(),
            spans: Vec::new(),
            unreadable: None,
            open: None,
            last: 0,
            after,
            looked: None,
            examined: None,
        };
        reader.look()?;
        let oldest = segment::oldest(&reader.spans);
        if after.saturating_add(1) < oldest {
            return Err(ReadError::TooFarBehind { oldest });
        }
        Ok(reader)
    }

    /// A reader from the oldest entry that there is: first comes the snapshot, if there is one.
    ///
    /// # Errors
    /// The storage.
    pub fn from_oldest(dir: &Path) -> Result<Self, ReadError> {
        let mut reader = Self::after(dir, u64::MAX - 1)?;
        reader.after = segment::oldest(&reader.spans).saturating_sub(1);
        Ok(reader)
    }

    /// The last sequence that was read.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.last.max(self.after)
    }

    /// The epoch of the segment that is being read; 0: none.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| open.segment.header.epoch)
    }

    /// The newest epoch's part of the history, as this reader knows it: what it has read to the end. Others may have begun
    /// since.
    pub(super) fn newest(&self) -> Option<&Span> {
        self.spans.last()
    }

    /// The file that is being read.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.open.as_ref().map(|open| open.segment.path.as_path())
    }

    /// Looks at the directory before it reads on, however short the last look is ago. That a directory seems unchanged says
    /// little: two changes within a tick of the storage's clock look like one.
    pub(super) fn look_again(&mut self) {
        self.looked = None;
    }

    /// How many bytes of the file that is being read are not read yet, and whether there is another file behind it.
    pub(super) fn remaining(&self) -> io::Result<(u64, bool)> {
        let Some(open) = &self.open else { return Ok((0, false)) };
        let length = open.file.len()?;
        Ok((length.saturating_sub(open.offset + open.used as u64), self.following().is_some()))
    }

    /// Gives entries, in order, until `take` refuses one (which is then the next one), `bytes` were given, or there is
    /// no more. Answers how many were given. Snapshots are given only at the very beginning.
    ///
    /// # Errors
    /// The storage, or the log is corrupt here: all before it was given.
    pub fn read(&mut self, bytes: usize, mut take: impl FnMut(&Entry<'_>, &[u8]) -> bool) -> Result<usize, ReadError> {
        let (mut count, mut given) = (0, 0);
        while given < bytes {
            if self.open.is_none() && !self.advance()? {
                break;
            }
            let last = self.last;
            let Some(open) = &mut self.open else { break };
            if open.end.is_some_and(|end| last >= end) && !self.advance()? {
                break;
            }
            let Some(open) = &mut self.open else { break };
            match open.next()? {
                Next::Entry(length) => {
                    let raw = &open.buffer[open.used..open.used + length];
                    // It was read a moment ago; the same bytes are an entry again.
                    let Ok(entry) = Entry::read(raw) else { continue };
                    let header = &open.segment.header;
                    let is_snapshot = entry.kind == EntryKind::Snapshot;
                    let expected = if is_snapshot { last } else { last + 1 };
                    if entry.epoch != header.epoch || entry.sequence != expected {
                        let detail = format!("there is sequence {} of epoch {}", entry.sequence, entry.epoch);
                        return Err(open.corrupt(expected, detail));
                    }
                    // A snapshot says what all before it says; it is needed where nothing is before it.
                    let is_wanted = if is_snapshot { count == 0 && last == self.after } else { expected > self.after };
                    if is_wanted {
                        if !take(&entry, raw) {
                            break;
                        }
                        count += usize::from(!is_snapshot);
                        given += length;
                    }
                    open.used += length;
                    self.last = expected;
                }
                Next::Nothing(bad) => {
                    if !self.end_of_file(bad)? {
                        break;
                    }
                }
            }
        }
        Ok(count)
    }

    /// There is no whole entry here. Answers whether to go on in another file.
    fn end_of_file(&mut self, bad: Option<Bad>) -> Result<bool, ReadError> {
        self.look_if_changed()?;
        let wanted = self.last + 1;
        let following = self.following().cloned();
        let Some(open) = &mut self.open else { return Ok(false) };
        let length = open.file.len()?;
        let at = open.offset + open.used as u64;
        if let Some(next) = following {
            // The segment ended before the next one began, but this reader may have looked before that.
            open.forget();
            if let Next::Entry(_) = open.next()? {
                return Ok(true);
            }
            let is_same_epoch = next.header.epoch == open.segment.header.epoch;
            if next.header.first != wanted {
                let detail = format!("nothing more is here, but sequence {} follows", next.header.first);
                return Err(open.corrupt(wanted, detail));
            }
            // What a former primary left half written behind its end is no matter.
            if is_same_epoch && open.file.len()? > open.offset {
                return Err(open.corrupt(wanted, bad.unwrap_or(Bad::Incomplete).to_string()));
            }
            return self.advance();
        }
        if let Some(end) = open.end.filter(|end| *end >= wanted) {
            open.forget();
            if let Next::Entry(_) = open.next()? {
                return Ok(true);
            }
            let detail = format!("the log ends here, but the next epoch begins after sequence {end}");
            return Err(open.corrupt(wanted, detail));
        }
        if length > at && bad.is_some() && self.examined != Some((length, at)) {
            open.forget();
            if let Next::Entry(_) = open.next()? {
                return Ok(true);
            }
            if let Some((place, sequence)) = open.valid_behind(wanted)? {
                let detail =
                    format!("{}, and sequence {sequence} lies behind it at byte {place}", bad.unwrap_or(Bad::Checksum));
                return Err(open.corrupt(wanted, detail));
            }
            self.examined = Some((length, at));
        }
        self.check_unreadable()?;
        let Some(open) = &mut self.open else { return Ok(false) };
        // Read anew the next time: a half entry in the buffer may have become a whole one, or another one.
        open.forget();
        Ok(false)
    }

    /// At the end of what can be read: is it the end? Segments appear with their header, so one without has lost it.
    fn check_unreadable(&self) -> Result<(), ReadError> {
        match &self.unreadable {
            None => Ok(()),
            Some(file) => Err(ReadError::Corrupt {
                file: file.clone(),
                offset: 0,
                sequence: self.last + 1,
                detail: "the header of the segment is damaged".into(),
            }),
        }
    }

    /// Cuts the torn end before which the reader stands, durably: of which file, and where. Only for whoever alone writes in
    /// this epoch, and does not write now: to everybody else a torn end may be an entry that is just being written.
    ///
    /// # Errors
    /// The storage; it may have been cut all the same.
    pub fn cut_torn(&self) -> io::Result<Option<(PathBuf, u64)>> {
        let torn = self.torn()?;
        if let Some((path, length)) = &torn {
            cut(path, *length)?;
        }
        Ok(torn)
    }

    /// Where a torn end begins, if the reader stands before one.
    fn torn(&self) -> io::Result<Option<(PathBuf, u64)>> {
        let Some(open) = &self.open else { return Ok(None) };
        let at = open.offset + open.used as u64;
        Ok((open.file.len()? > at).then(|| (open.segment.path.clone(), at)))
    }

    /// The segment behind the one that is being read, or the first one.
    fn following(&self) -> Option<&Segment> {
        let Some(open) = &self.open else { return None };
        let header = &open.segment.header;
        let place = self.spans.iter().position(|span| span.epoch == header.epoch)?;
        let same = self.spans[place].segments.iter().find(|s| s.header.first > header.first);
        same.or_else(|| self.spans.get(place + 1).and_then(|span| span.segments.first()))
    }

    /// Opens the next file; answers whether there is one.
    fn advance(&mut self) -> Result<bool, ReadError> {
        self.look_if_changed()?;
        let next = match &self.open {
            Some(_) => self.following(),
            None => {
                let wanted = self.after.saturating_add(1);
                let mut all = self.spans.iter().flat_map(|span| &span.segments);
                let first = all.clone().rev().find(|s| s.header.first <= wanted);
                if first.is_none() && all.next().is_some() {
                    // They were removed between the first look and this one.
                    return Err(ReadError::TooFarBehind { oldest: segment::oldest(&self.spans) });
                }
                first
            }
        };
        let Some(segment) = next.cloned() else {
            self.check_unreadable()?;
            return Ok(false);
        };
        if let Some(open) = &self.open
            && segment.header.first != self.last + 1
        {
            let detail = format!("the next segment begins with sequence {}", segment.header.first);
            return Err(open.corrupt(self.last + 1, detail));
        }
        let end = self.spans.iter().find(|span| span.epoch == segment.header.epoch).and_then(|span| span.end);
        let file = match File::open(&segment.path, How::Read) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.look()?;
                return Err(ReadError::TooFarBehind { oldest: segment::oldest(&self.spans) });
            }
            file => file?,
        };
        self.last = segment.header.first - 1;
        let offset = segment.start;
        self.open = Some(Open { file, segment, end, offset, buffer: Vec::new(), used: 0 });
        self.examined = None;
        Ok(true)
    }

    fn look_if_changed(&mut self) -> Result<(), ReadError> {
        if let Some((since, changed)) = &self.looked
            && since.elapsed() < LOOK_AGAIN
            && *changed == changed_at(&self.dir)?
        {
            return Ok(());
        }
        self.look()
    }

    /// Looks which segments there are.
    fn look(&mut self) -> Result<(), ReadError> {
        // Whoever reads on after an error meets it again.
        self.looked = None;
        let (since, changed) = (Since::now(), changed_at(&self.dir)?);
        let listing = list(&self.dir)?;
        self.spans = history(&listing);
        let newest = self.spans.last().map_or(0, |span| span.epoch);
        self.unreadable =
            listing.unreadable.into_iter().find(|path| segment::epoch_of(path).is_none_or(|e| e >= newest));
        let (last, oldest) = (self.last, segment::oldest(&self.spans));
        if let Some(open) = &mut self.open {
            let is_there = self.spans.iter().flat_map(|span| &span.segments).any(|s| s.path == open.segment.path);
            if !is_there && oldest > last + 1 {
                // The oldest segments were removed under a reader that was slow.
                return Err(ReadError::TooFarBehind { oldest });
            }
            let epoch = open.segment.header.epoch;
            match self.spans.iter().find(|span| span.epoch == epoch) {
                Some(span) if span.end.is_none_or(|end| last <= end) => open.end = span.end,
                _ => return Err(ReadError::Diverged),
            }
        }
        self.looked = Some((since, changed));
        Ok(())
    }
}

fn changed_at(dir: &Path) -> io::Result<(i64, i64)> {
    match disk::changed_at(&segment::wal(dir)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok((0, 0)),
        changed => changed,
    }
}

impl Open {
    fn corrupt(&self, sequence: u64, detail: String) -> ReadError {
        let offset = self.offset + self.used as u64;
        ReadError::Corrupt { file: self.segment.path.clone(), offset, sequence, detail }
    }

    /// Forgets what was read ahead.
    fn forget(&mut self) {
        self.offset += self.used as u64;
        self.used = 0;
        self.buffer.clear();
    }

    fn next(&mut self) -> io::Result<Next> {
        let mut want = CHUNK;
        loop {
            let bad = match Entry::read(&self.buffer[self.used..]) {
                Ok(entry) => return Ok(Next::Entry(entry.len())),
                Err(bad) => bad,
            };
            if bad != Bad::Incomplete {
                return Ok(Next::Nothing(Some(bad)));
            }
            let have = self.buffer.len() - self.used;
            if !self.fill(want)? {
                return Ok(Next::Nothing((have > 0).then_some(bad)));
            }
            // The longest entry is longer than a chunk.
            want = MAX_ENTRY + CHUNK;
        }
    }

    /// Reads on, until so much is in the buffer. Answers whether something came.
    fn fill(&mut self, want: usize) -> io::Result<bool> {
        self.buffer.drain(..self.used);
        self.offset += self.used as u64;
        self.used = 0;
        let before = self.buffer.len();
        // Whoever stands at the end asks again and again: no room is made for what is not there.
        let there = self.file.len()?.saturating_sub(self.offset);
        self.buffer.resize(want.min(usize::try_from(there).unwrap_or(usize::MAX)).max(before), 0);
        let filled = self.file.fill_at(&mut self.buffer[before..], self.offset + before as u64);
        self.buffer.truncate(before + filled.as_ref().copied().unwrap_or(0));
        Ok(filled? > 0)
    }

    /// Looks for an entry behind the place where there is none.
    fn valid_behind(&self, wanted: u64) -> io::Result<Option<(u64, u64)>> {
        let start = self.offset + self.used as u64;
        // Bounded by the size of a segment.
        let rest = self.file.rest(start)?;
        for at in 1..rest.len() {
            let Some(size) = u32_at(&rest, at) else { break };
            let fits = size as usize <= MAX_ENTRY && at + 8 + size as usize <= rest.len();
            // Cheap before dear: the checksum is computed only where the epoch is right.
            if fits
                && u64_at(&rest, at + 8) == Some(self.segment.header.epoch)
                && let Ok(entry) = Entry::read(&rest[at..])
                && entry.sequence >= wanted
            {
                return Ok(Some((start + at as u64, entry.sequence)));
            }
        }
        Ok(None)
    }
}

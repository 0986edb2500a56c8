//! Segments: the files of the log, and which of them make up its history.
//!
//! `<epoch>-<first sequence>.wal`: a header, a snapshot of the table of senders, entries. A segment appears under its name
//! with header and snapshot already durable. Each header says after which sequence of which former epoch its epoch begins;
//! from the largest epoch backwards that gives one history. What a former primary wrote beyond it is read by nobody.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{
    disk::{self, File, How},
    entry::{checksum_of, u32_at, u64_at},
    wire::MAX_NAME,
};

const MAGIC: &[u8; 8] = b"CRNWAL01";
/// Magic, length, checksum.
const HEAD: usize = 16;
const MAX_HEADER: usize = HEAD + 33 + MAX_NAME;
/// No log gets so far, at any rate. So no sequence within a segment comes near the end of the numbers.
const LAST_FIRST: u64 = u64::MAX / 2;
/// A listing begins anew so often, where segments are removed meanwhile.
const MOST_LOOKS: usize = 100;

/// Where an epoch begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Begins {
    /// The epoch before it; 0: none.
    pub epoch: u64,
    /// The last sequence before it.
    pub after: u64,
}

/// What a segment says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The epoch in which it was written.
    pub epoch: u64,
    /// The sequence of its first entry.
    pub first: u64,
    /// Where that epoch begins.
    pub begins: Begins,
    /// Who wrote it.
    pub member: String,
}

impl Header {
    pub(super) fn write(&self) -> Vec<u8> {
        let mut rest = Vec::with_capacity(MAX_HEADER);
        for number in [self.epoch, self.first, self.begins.epoch, self.begins.after] {
            rest.extend_from_slice(&number.to_le_bytes());
        }
        // Bounded where the relay was given its name.
        rest.push(u8::try_from(self.member.len()).unwrap_or(u8::MAX));
        rest.extend_from_slice(self.member.as_bytes());
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&u32::try_from(rest.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend_from_slice(&checksum_of(&rest).to_le_bytes());
        out.extend_from_slice(&rest);
        out
    }

    fn read(bytes: &[u8]) -> Option<(Self, usize)> {
        if !bytes.starts_with(MAGIC) {
            return None;
        }
        let end = HEAD.checked_add(u32_at(bytes, 8)? as usize)?;
        let rest = bytes.get(HEAD..end)?;
        if checksum_of(rest) != u32_at(bytes, 12)? || rest.len() != 33 + usize::from(*rest.get(32)?) {
            return None;
        }
        let header = Self {
            epoch: u64_at(rest, 0)?,
            first: u64_at(rest, 8)?,
            begins: Begins { epoch: u64_at(rest, 16)?, after: u64_at(rest, 24)? },
            member: std::str::from_utf8(rest.get(33..)?).ok()?.to_owned(),
        };
        (1..=LAST_FIRST).contains(&header.first).then_some((header, end))
    }
}

/// A segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its file.
    pub path: PathBuf,
    /// What it says of itself.
    pub header: Header,
    /// Where its entries begin.
    pub start: u64,
}

/// The directory of the segments.
pub(super) fn wal(dir: &Path) -> PathBuf {
    dir.join("wal")
}

pub(super) fn file_name(epoch: u64, first: u64) -> String {
    format!("{epoch:020}-{first:020}.wal")
}

fn numbers_of(name: &str) -> Option<(u64, u64)> {
    let (epoch, first) = name.strip_suffix(".wal")?.split_once('-')?;
    Some((epoch.parse().ok()?, first.parse().ok()?))
}

/// The epoch that a segment's name says.
pub(super) fn epoch_of(path: &Path) -> Option<u64> {
    path.file_name().and_then(|n| n.to_str()).and_then(numbers_of).map(|(epoch, _)| epoch)
}

/// What is in the directory.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// The segments, by epoch and first sequence.
    pub segments: Vec<Segment>,
    /// Files that are named like segments and whose header cannot be read or does not fit the name.
    pub unreadable: Vec<PathBuf>,
}

/// Lists the segments below `dir`.
///
/// # Errors
/// The directory or a header cannot be read.
pub fn list(dir: &Path) -> io::Result<Listing> {
    for _ in 0..MOST_LOOKS {
        if let Some(listing) = list_once(dir)? {
            return Ok(listing);
        }
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, "segments are removed faster than they can be listed"))
}

/// None: a segment was removed, being too old, since the directory was read. What is listed then may have a hole, since the
/// one before it was there still.
fn list_once(dir: &Path) -> io::Result<Option<Listing>> {
    let mut listing = Listing::default();
    let entries = match disk::list(&wal(dir)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Some(listing)),
        entries => entries?,
    };
    for path in entries {
        let Some(named) = path.file_name().and_then(|n| n.to_str()).and_then(numbers_of) else { continue };
        let read = match read_header(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read?,
        };
        match read {
            Some((header, start)) if (header.epoch, header.first) == named => {
                listing.segments.push(Segment { path, header, start: start as u64 });
            }
            _ => listing.unreadable.push(path),
        }
    }
    listing.segments.sort_by_key(|s| (s.header.epoch, s.header.first));
    listing.unreadable.sort();
    Ok(Some(listing))
}

fn read_header(path: &Path) -> io::Result<Option<(Header, usize)>> {
    let mut bytes = [0; MAX_HEADER];
    let length = File::open(path, How::Read)?.fill_at(&mut bytes, 0)?;
    Ok(Header::read(&bytes[..length]))
}

/// One epoch's part of the history.
#[derive(Clone, Debug)]
pub struct Span {
    /// The epoch.
    pub epoch: u64,
    /// Its last sequence; none: it is the newest, and goes on.
    pub end: Option<u64>,
    /// Its segments.
    pub segments: Vec<Segment>,
}

/// The history: spans from the oldest to the newest epoch.
#[must_use]
pub fn history(listing: &Listing) -> Vec<Span> {
    let mut spans = Vec::new();
    let Some(newest) = listing.segments.last() else { return spans };
    let (mut epoch, mut end) = (newest.header.epoch, None);
    loop {
        let of_epoch = || listing.segments.iter().filter(|s| s.header.epoch == epoch);
        let Some(begins) = of_epoch().next().map(|s| s.header.begins) else { break };
        // A segment that begins beyond the end was written by somebody who was no primary any more.
        let segments: Vec<_> = of_epoch().filter(|s| end.is_none_or(|end| s.header.first <= end)).cloned().collect();
        // An epoch in which nothing lies within the history still hands on to the one before it.
        spans.push(Span { epoch, end, segments });
        if begins.epoch == 0 || begins.epoch >= epoch {
            break;
        }
        (epoch, end) = (begins.epoch, Some(begins.after));
    }
    spans.retain(|span| !span.segments.is_empty());
    spans.reverse();
    spans
}

/// The first sequence that the history still has.
#[must_use]
pub(super) fn oldest(spans: &[Span]) -> u64 {
    spans.first().and_then(|span| span.segments.first()).map_or(1, |s| s.header.first)
}

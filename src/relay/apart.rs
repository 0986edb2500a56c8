//! What a former primary wrote beyond the beginning of the next epoch: set apart when it comes back, with a report, and
//! never deleted. It was acknowledged to nobody, and the senders have repeated it to the new primary; but that is for
//! people to look at, not for a program to assume.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    disk::{self, File, How},
    entry::{Entry, EntryKind},
    segment::{Segment, history, list},
    writer::cut,
};

/// One sender's part in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// How many messages.
    pub messages: u64,
    /// The smallest number.
    pub first: u64,
    /// The largest number.
    pub last: u64,
}

/// What was set apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Whose.
    pub member: String,
    /// The epoch in which it was written.
    pub epoch: u64,
    /// The file with the entries, as they stood in the log.
    pub file: PathBuf,
    /// How many whole entries.
    pub entries: u64,
    /// How many bytes, with a torn rest if there is one.
    pub bytes: u64,
    /// The smallest and the largest sequence.
    pub sequences: Option<(u64, u64)>,
    /// Who had sent them.
    pub senders: BTreeMap<String, Part>,
}

/// Sets apart what `member` wrote beyond the history. Whoever stops halfway loses nothing: doing it again may set the
/// same entries apart twice.
///
/// # Errors
/// The storage; what was not set apart is where it was.
pub(super) fn set_apart(dir: &Path, member: &str) -> io::Result<Vec<Report>> {
    let listing = list(dir)?;
    let spans = history(&listing);
    let mut by_epoch: BTreeMap<u64, Vec<(&Segment, u64)>> = BTreeMap::new();
    let newest = spans.last().map_or(0, |span| span.epoch);
    for segment in listing.segments.iter().filter(|s| s.header.member == member && s.header.epoch < newest) {
        let epoch = segment.header.epoch;
        let span = spans.iter().find(|span| span.epoch == epoch);
        let end = match span {
            Some(span) => span.end,
            // Older than what is kept: a part of the history whose later part is kept, perhaps. Not to be touched.
            None if spans
                .first()
                .is_some_and(|first| epoch < first.epoch && first.segments[0].header.begins.epoch >= epoch) =>
            {
                continue;
            }
            None => Some(0),
        };
        let Some(end) = end else { continue };
        let from = beyond(segment, end)?;
        if from < File::open(&segment.path, How::Read)?.len()? {
            by_epoch.entry(epoch).or_default().push((segment, from));
        }
    }
    by_epoch.into_iter().map(|(epoch, parts)| one(dir, member, epoch, &parts)).collect()
}

/// Where the entries beyond `end` begin in a segment.
fn beyond(segment: &Segment, end: u64) -> io::Result<u64> {
    let bytes = disk::read(&segment.path)?;
    let mut at = usize::try_from(segment.start).unwrap_or(usize::MAX);
    while let Some(Ok(entry)) = bytes.get(at..).map(Entry::read)
        && entry.sequence <= end.max(segment.header.first - 1)
    {
        at += entry.len();
    }
    Ok(at as u64)
}

fn one(dir: &Path, member: &str, epoch: u64, parts: &[(&Segment, u64)]) -> io::Result<Report> {
    let apart = dir.join("set-apart");
    disk::create_dir_all(&apart)?;
    let (out, file) = create(&apart, member, epoch)?;
    let mut report = Report {
        member: member.to_owned(),
        epoch,
        file: file.clone(),
        entries: 0,
        bytes: 0,
        sequences: None,
        senders: BTreeMap::new(),
    };
    for (segment, from) in parts {
        // At most a segment.
        let bytes = File::open(&segment.path, How::Read)?.rest(*from)?;
        out.write_all_at(&bytes, report.bytes)?;
        report.bytes += bytes.len() as u64;
        let mut at = 0;
        while let Ok(entry) = Entry::read(&bytes[at..]) {
            at += entry.len();
            note(&mut report, &entry);
        }
    }
    out.sync()?;
    let text = serde_json::to_vec_pretty(&report)?;
    disk::replace(&file.with_extension("json"), &text)?;
    // Only now, from the end backwards: whatever stays behind is still beyond the history.
    for (segment, from) in parts.iter().rev() {
        cut(&segment.path, *from)?;
    }
    Ok(report)
}

fn note(report: &mut Report, entry: &Entry<'_>) {
    report.entries += 1;
    let (first, last) = report.sequences.unwrap_or((entry.sequence, entry.sequence));
    report.sequences = Some((first.min(entry.sequence), last.max(entry.sequence)));
    if entry.kind == EntryKind::Message {
        let part = report.senders.entry(entry.sender.to_owned()).or_default();
        part.first = if part.messages == 0 { entry.number } else { part.first.min(entry.number) };
        part.last = part.last.max(entry.number);
        part.messages += 1;
    }
}

/// A new file, under the first name that is free.
fn create(apart: &Path, member: &str, epoch: u64) -> io::Result<(File, PathBuf)> {
    for number in 1_u32.. {
        let more = if number == 1 { String::new() } else { format!("-{number}") };
        let path = apart.join(format!("{member}-{epoch}{more}.wal"));
        match File::open(&path, How::CreateNew) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            file => return Ok((file?, path)),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

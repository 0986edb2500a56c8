//! The relay's log: whatever lies in its files, no entry comes back that was not written, none is left out in silence, a
//! torn end is not there, and damage before the end is said. After a repair what is appended comes back behind the rest.
//!
//! What has to come back is told by a reader of this file's own, which knows one segment, its checksums and nothing else.

use std::{
    cell::RefCell,
    fs,
    ops::Range,
    path::{Path, PathBuf},
};

use coroner::relay::{
    Begins, ReadError, Reader, Table, Writer,
    entry::{Entry, EntryKind},
    list,
};

use super::{Reached, draw::Draw};

const MAX_ENTRY: usize = 4 * 1024 * 1024;
const MAGIC: &[u8; 8] = b"CRNWAL01";

thread_local! {
    /// A directory of this thread's own, emptied before each input. It is removed with the thread.
    static SCRATCH: RefCell<Option<Scratch>> = const { RefCell::new(None) };
}

struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn scratch() -> PathBuf {
    SCRATCH.with_borrow_mut(|scratch| {
        let dir = scratch.get_or_insert_with(|| {
            let name = format!("coroner-fuzz-{}-{:?}", std::process::id(), std::thread::current().id());
            let name = name.replace(['(', ')'], "-");
            // In memory where there is such a place: each segment is synced.
            let memory = Path::new("/dev/shm");
            let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
            Scratch(base.join(name))
        });
        let wal = dir.0.join("wal");
        let _ = fs::remove_dir_all(&wal);
        fs::create_dir_all(&wal).expect("a scratch directory can be made");
        dir.0.clone()
    })
}

pub fn run(input: &[u8]) -> Reached {
    let mut draw = Draw::new(input);
    let dir = scratch();
    match draw.below(4) {
        0 => one_segment(&dir, &mut draw, false),
        1 => one_segment(&dir, &mut draw, true),
        _ => damaged(&dir, &mut draw),
    }
}

// ---- one segment of any bytes ------------------------------------------------------------------------------------

/// What a segment holds, as far as it can be told.
struct Expected {
    epoch: u64,
    first: u64,
    /// The places of the entries, in order, snapshots at the beginning among them.
    entries: Vec<Range<usize>>,
    /// The last sequence.
    last: u64,
    /// Where the first byte lies that is no entry; none: there is none.
    stop: Option<usize>,
    is_corrupt: bool,
}

fn one_segment(dir: &Path, draw: &mut Draw<'_>, is_mended: bool) -> Reached {
    let budget = 1 + usize::from(draw.byte()) * 8;
    let begins_anew = draw.flag();
    let mut bytes = draw.rest().to_vec();
    if is_mended {
        mend(&mut bytes);
    }
    let header = header(&bytes);
    let (epoch, first) = header.map_or((1, 1), |(epoch, first, _)| (epoch, first));
    let file = dir.join("wal").join(format!("{epoch:020}-{first:020}.wal"));
    fs::write(&file, &bytes).expect("a scratch file can be written");

    let (raw, error) = read(dir, budget);
    let Some(expected) = header.map(|(epoch, first, start)| expect(&bytes, epoch, first, start)) else {
        assert!(raw.is_empty(), "there is no segment, and entries came");
        assert!(matches!(error, Some(ReadError::Corrupt { .. })), "a segment without a header: {error:?}");
        return Reached::Refused;
    };
    let places: Vec<&[u8]> = expected.entries.iter().map(|place| &bytes[place.clone()]).collect();
    assert_eq!(raw, places, "other entries came back than there are");
    match (&error, expected.is_corrupt) {
        (Some(ReadError::Corrupt { .. }), true) | (None, false) => {}
        other => panic!("it is corrupt, and that is not said, or the other way round: {other:?}"),
    }
    if error.is_none() {
        go_on(dir, &file, &expected, &raw, begins_anew);
    }
    Reached::of(!raw.is_empty())
}

/// A torn end is cut, or left behind by a new epoch; what is then appended comes back behind what was there.
fn go_on(dir: &Path, file: &Path, expected: &Expected, before: &[Vec<u8>], begins_anew: bool) {
    let next = expected.last + 1;
    let (epoch, begins) = if begins_anew && expected.epoch < u64::MAX {
        (expected.epoch + 1, Begins { epoch: expected.epoch, after: expected.last })
    } else {
        let mut reader = Reader::from_oldest(dir).expect("it was read a moment ago");
        while reader.read(MAX_ENTRY, |_, _| true).expect("it was read a moment ago") > 0 {}
        let cut = reader.cut_torn().expect("a scratch file can be cut");
        let stop = expected.stop.map(|at| (file.to_owned(), at as u64));
        assert_eq!(cut, stop, "it was cut elsewhere");
        if let Some((_, at)) = stop {
            assert_eq!(fs::metadata(file).expect("it is there").len(), at);
        }
        let begins = list(dir).expect("it was read a moment ago").segments[0].header.begins;
        (expected.epoch, begins)
    };
    // An epoch without a number cannot begin behind one that has entries.
    if begins.epoch == 0 && begins_anew && expected.epoch == 0 {
        return;
    }
    drop(Writer::begin(dir, epoch, begins, "a", next, &Table::default()).expect("a segment can be begun"));
    let path = list(dir).expect("it can be listed").segments.pop().expect("the segment that was begun").path;
    let mut bytes = fs::read(&path).expect("it can be read");
    let mut new = Vec::new();
    for sequence in next..next + 2 {
        let entry =
            Entry { epoch, sequence, number: 1, time_ms: 1, kind: EntryKind::Message, sender: "s", payload: b"new" };
        let mut one = Vec::new();
        entry.write(&mut one);
        bytes.extend_from_slice(&one);
        new.push(one);
    }
    fs::write(&path, bytes).expect("it can be written");
    let (after, error) = read(dir, MAX_ENTRY);
    assert!(error.is_none(), "after the repair: {error:?}");
    let without_snapshots = |all: &[Vec<u8>]| -> Vec<Vec<u8>> {
        all.iter().filter(|raw| entry_at(raw, 0).is_some_and(|entry| entry.kind != 5)).cloned().collect()
    };
    let wanted = [without_snapshots(before), new].concat();
    assert_eq!(without_snapshots(&after), wanted, "what was appended after the repair does not come back");
}

/// Reads all there is, a little at a time; each entry with its checksum.
fn read(dir: &Path, budget: usize) -> (Vec<Vec<u8>>, Option<ReadError>) {
    let mut raw: Vec<Vec<u8>> = Vec::new();
    let mut reader = match Reader::from_oldest(dir) {
        Ok(reader) => reader,
        Err(error) => return (raw, Some(error)),
    };
    loop {
        let before = raw.len();
        let result = reader.read(budget, |entry, bytes| {
            let own = entry_at(bytes, 0).expect("an entry was given whose checksum does not hold");
            assert_eq!((own.end, own.epoch, own.sequence), (bytes.len(), entry.epoch, entry.sequence));
            raw.push(bytes.to_vec());
            true
        });
        match result {
            Ok(_) if raw.len() > before => {}
            Ok(_) => return (raw, None),
            Err(error) => {
                let count = raw.len();
                let again = reader.read(budget, |_, _| panic!("nothing lies beyond what is corrupt"));
                assert!(again.is_err(), "it is not corrupt any more");
                assert_eq!(raw.len(), count);
                return (raw, Some(error));
            }
        }
    }
}

// ---- what one segment holds, told by nobody else's code ------------------------------------------------------------

struct Own {
    epoch: u64,
    sequence: u64,
    kind: u8,
    end: usize,
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}

/// CRC-32C, bit by bit.
fn crc(parts: &[&[u8]]) -> u32 {
    let mut crc = !0_u32;
    for byte in parts.iter().copied().flatten() {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

fn entry_at(bytes: &[u8], at: usize) -> Option<Own> {
    let size = u32_at(bytes, at)? as usize;
    let body = bytes.get(at + 8..(at + 8).checked_add(size)?).filter(|_| (34..=MAX_ENTRY).contains(&size))?;
    if crc(&[&bytes[at..at + 4], body]) != u32_at(bytes, at + 4)? {
        return None;
    }
    let name = body.get(34..34 + usize::from(body[33]))?;
    let is_known = (1..=5).contains(&body[32]) && std::str::from_utf8(name).is_ok();
    is_known.then(|| Own {
        epoch: u64_at(body, 0).unwrap_or(0),
        sequence: u64_at(body, 8).unwrap_or(0),
        kind: body[32],
        end: at + 8 + size,
    })
}

/// Epoch, first sequence, and where the entries begin.
fn header(bytes: &[u8]) -> Option<(u64, u64, usize)> {
    let length = u32_at(bytes, 8)? as usize;
    let rest = bytes.get(16..16_usize.checked_add(length)?)?;
    let is_sound = bytes.starts_with(MAGIC)
        && crc(&[rest]) == u32_at(bytes, 12)?
        && (33..=33 + 64).contains(&length)
        && length == 33 + usize::from(rest[32])
        && std::str::from_utf8(&rest[33..]).is_ok();
    let (epoch, first) = (u64_at(rest, 0)?, u64_at(rest, 8)?);
    (is_sound && (1..=u64::MAX / 2).contains(&first)).then_some((epoch, first, 16 + length))
}

fn expect(bytes: &[u8], epoch: u64, first: u64, start: usize) -> Expected {
    let mut expected = Expected { epoch, first, entries: Vec::new(), last: first - 1, stop: None, is_corrupt: false };
    let mut at = start;
    while at < bytes.len() {
        let Some(entry) = entry_at(bytes, at) else {
            expected.stop = Some(at);
            // Something that could follow lies behind it.
            expected.is_corrupt = (at + 1..bytes.len()).any(|place| {
                entry_at(bytes, place).is_some_and(|entry| entry.epoch == epoch && entry.sequence > expected.last)
            });
            break;
        };
        let is_snapshot = entry.kind == 5;
        let wanted = expected.last + u64::from(!is_snapshot);
        if (entry.epoch, entry.sequence) != (epoch, wanted) {
            expected.is_corrupt = true;
            break;
        }
        // A snapshot between entries says nothing that they do not.
        if !is_snapshot || expected.last + 1 == expected.first {
            expected.entries.push(at..entry.end);
        }
        expected.last = wanted;
        at = entry.end;
    }
    expected
}

/// Makes the checksums fit, so that what they guard is reached.
fn mend(bytes: &mut [u8]) {
    if bytes.len() < 16 + 33 {
        return;
    }
    bytes[..8].copy_from_slice(MAGIC);
    let name = usize::from(bytes[16 + 32] % 8);
    bytes[16 + 32] = name as u8;
    let end = 16 + 33 + name;
    if bytes.len() < end {
        return;
    }
    bytes[8..12].copy_from_slice(&(33 + name as u32).to_le_bytes());
    let sum = crc(&[&bytes[16..end]]);
    bytes[12..16].copy_from_slice(&sum.to_le_bytes());
    let mut at = end;
    while let Some(size) = u32_at(bytes, at) {
        let end = at + 8 + size as usize;
        if end > bytes.len() {
            break;
        }
        let sum = crc(&[&bytes[at..at + 4], &bytes[at + 8..end]]);
        bytes[at + 4..at + 8].copy_from_slice(&sum.to_le_bytes());
        at = end;
    }
}

// ---- a real log, and something done to it ---------------------------------------------------------------------------

/// A log of several segments and epochs, then one thing done to its files.
fn damaged(dir: &Path, draw: &mut Draw<'_>) -> Reached {
    let (mut epoch, mut begins, mut next) = (1, Begins::default(), 1);
    // Of each segment: its file, and where its entries begin and end.
    let mut files: Vec<(PathBuf, Vec<Range<usize>>)> = Vec::new();
    for index in 0..1 + draw.below(3) {
        if index > 0 && draw.flag() {
            begins = Begins { epoch, after: next - 1 };
            epoch += 1 + u64::from(draw.byte() % 3);
        }
        drop(Writer::begin(dir, epoch, begins, "a", next, &Table::default()).expect("a segment can be begun"));
        let path = list(dir).expect("it can be listed").segments.pop().expect("the segment that was begun").path;
        let mut bytes = fs::read(&path).expect("it can be read");
        let mut places = Vec::new();
        // A segment without entries is followed by one of its own name.
        for _ in 0..1 + draw.below(5) {
            let payload = vec![draw.byte(); usize::from(draw.byte() % 64)];
            let kind = draw.one_of(&[EntryKind::Message, EntryKind::Message, EntryKind::Canary, EntryKind::Probe]);
            let entry = Entry { epoch, sequence: next, number: next, time_ms: 1, kind, sender: "s", payload: &payload };
            let from = bytes.len();
            entry.write(&mut bytes);
            places.push(from..bytes.len());
            next += 1;
        }
        fs::write(&path, &bytes).expect("it can be written");
        files.push((path, places));
    }
    let (whole, error) = read(dir, MAX_ENTRY);
    assert!(error.is_none(), "a log as it was written: {error:?}");
    let is_message = |raw: &Vec<u8>| entry_at(raw, 0).is_some_and(|entry| entry.kind != 5);
    let whole: Vec<Vec<u8>> = whole.into_iter().filter(is_message).collect();
    assert_eq!(whole.len() as u64, next - 1, "not all that was written came back");

    let at = draw.below(files.len());
    let is_last = at + 1 == files.len();
    let (path, places) = &files[at];
    let mut bytes = fs::read(path).expect("it can be read");
    let head = places.first().expect("there is an entry").start;
    let end_of_former = places.len().checked_sub(2).map_or(head, |last| places[last].end);
    // What has to be said of it: nothing, that it is corrupt, or either.
    let must_be_said = match draw.below(4) {
        0 => {
            let cut = head + usize::from(draw.short()) % (bytes.len() - head);
            bytes.truncate(cut);
            Some(!is_last)
        }
        1 => {
            let place = head + usize::from(draw.short()) % (bytes.len() - head);
            let change = draw.byte();
            bytes[place] ^= change;
            match change {
                0 => Some(false),
                // The last entry of all cannot be told from a torn one.
                _ => Some(!is_last || place < end_of_former),
            }
        }
        2 => {
            let garbage = draw.rest();
            bytes.extend_from_slice(garbage);
            // Behind the end of an epoch nobody looks; within one it may be an entry by chance, or none.
            None
        }
        _ => {
            fs::remove_file(path).expect("it can be removed");
            let (left, error) = read(dir, MAX_ENTRY);
            // Behind an epoch of which nothing is left, the log begins anew.
            let begins_later = check_prefix(&whole, &left, true);
            let is_said = begins_later || is_last || error.is_some();
            assert!(is_said, "a segment in the middle is missing, and that is not said");
            return Reached::of(!left.is_empty());
        }
    };
    fs::write(path, &bytes).expect("it can be written");
    let (left, error) = read(dir, 1 + usize::from(draw.byte()) * 16);
    let mut left: Vec<Vec<u8>> = left.into_iter().filter(is_message).collect();
    if must_be_said.is_none() {
        // What was appended may be whole entries, for all this knows.
        left.truncate(whole.len());
    }
    check_prefix(&whole, &left, false);
    match must_be_said {
        Some(true) => {
            assert!(matches!(error, Some(ReadError::Corrupt { .. })), "damage before the end is not said: {error:?}")
        }
        Some(false) => assert!(error.is_none(), "a torn end is no damage: {error:?}"),
        None => {}
    }
    Reached::of(!left.is_empty())
}

/// What came back is what was written: from the beginning (or, where that is gone, from anywhere), without a gap. Answers
/// whether it begins later.
fn check_prefix(whole: &[Vec<u8>], left: &[Vec<u8>], may_begin_later: bool) -> bool {
    let left: Vec<&Vec<u8>> = left.iter().filter(|raw| entry_at(raw, 0).is_some_and(|entry| entry.kind != 5)).collect();
    let from = match left.first() {
        Some(first) if may_begin_later => whole.iter().position(|raw| raw == *first).expect("it was written"),
        _ => 0,
    };
    for (place, raw) in left.iter().enumerate() {
        assert_eq!(whole.get(from + place), Some(*raw), "entry {place} is not the one that was written there");
    }
    from > 0 || left.is_empty()
}

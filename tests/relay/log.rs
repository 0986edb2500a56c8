//! The log without servers: what is written comes back, what is torn is not there, what is damaged is said.

use std::{fs, path::Path};

use coroner::relay::{Begins, ReadError, Reader, Table, Writer, list};
use proptest::prelude::*;

/// A log of segments with so many messages each, made through the server's own entries.
fn log(dir: &Path, segments: &[u64]) {
    use coroner::relay::entry::{Entry, EntryKind};
    let mut next = 1;
    for count in segments {
        let writer = Writer::begin(dir, 1, Begins::default(), "a", next, &Table::default()).unwrap();
        drop(writer);
        let path = list(dir).unwrap().segments.last().unwrap().path.clone();
        let mut bytes = fs::read(&path).unwrap();
        for sequence in next..next + count {
            let payload = vec![b'x'; usize::try_from(sequence % 50).unwrap()];
            let entry = Entry {
                epoch: 1,
                sequence,
                number: sequence,
                time_ms: 1,
                kind: EntryKind::Message,
                sender: "s",
                payload: &payload,
            };
            entry.write(&mut bytes);
        }
        fs::write(&path, bytes).unwrap();
        next += count;
    }
}

/// What can be read, and what stands in the way of more.
fn read(dir: &Path) -> (Vec<u64>, Option<ReadError>) {
    let mut sequences = Vec::new();
    let mut reader = match Reader::after(dir, 0) {
        Ok(reader) => reader,
        Err(error) => return (sequences, Some(error)),
    };
    loop {
        let step = reader.read(300, |entry, _| {
            if entry.kind == coroner::relay::entry::EntryKind::Message {
                sequences.push(entry.sequence);
            }
            true
        });
        match step {
            Ok(0) => return (sequences, None),
            Ok(_) => {}
            Err(error) => return (sequences, Some(error)),
        }
    }
}

fn upto(last: u64) -> Vec<u64> {
    (1..=last).collect()
}

#[test]
fn a_log_comes_back_over_its_segments() {
    let dir = tempfile::tempdir().unwrap();
    log(dir.path(), &[10, 1, 20]);
    let (sequences, error) = read(dir.path());
    assert!(error.is_none(), "{error:?}");
    assert_eq!(sequences, upto(31));
    let mut reader = Reader::after(dir.path(), 15).unwrap();
    let mut first = None;
    reader.read(1, |entry, _| first.replace(entry.sequence).is_none()).unwrap();
    assert_eq!(first, Some(16));
}

#[test]
fn a_missing_segment_is_said() {
    let dir = tempfile::tempdir().unwrap();
    log(dir.path(), &[10, 5, 20]);
    fs::remove_file(&list(dir.path()).unwrap().segments[1].path).unwrap();
    let (sequences, error) = read(dir.path());
    assert_eq!(sequences, upto(10));
    assert!(matches!(error, Some(ReadError::Corrupt { sequence: 11, .. })), "{error:?}");
}

/// The oldest segments are removed while somebody reads them: it was too slow, and nothing is corrupt. It hears so however
/// often it asks; it used to hear of corruption the second time.
#[test]
fn whoever_reads_slower_than_segments_are_removed_is_too_far_behind_and_stays_it() {
    let dir = tempfile::tempdir().unwrap();
    log(dir.path(), &[10, 5, 20]);
    let segments = list(dir.path()).unwrap().segments;
    let mut slow = Reader::after(dir.path(), 0).unwrap();
    assert!(slow.read(100, |_, _| true).unwrap() > 0);
    // This one has looked, and read nothing yet.
    let mut fresh = Reader::from_oldest(dir.path()).unwrap();
    for segment in &segments[..2] {
        fs::remove_file(&segment.path).unwrap();
    }
    for _ in 0..3 {
        let error = loop {
            match slow.read(1 << 20, |entry, _| entry.sequence <= 10) {
                Ok(0) => std::thread::sleep(std::time::Duration::from_millis(5)),
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert!(matches!(error, ReadError::TooFarBehind { oldest: 16 }), "{error:?}");
    }
    let mut given = 0;
    let error = loop {
        match fresh.read(1 << 20, |_, _| true) {
            Ok(count) => given += count,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ReadError::TooFarBehind { oldest: 16 }) && given == 0, "{error:?} after {given}");
}

/// Numbers that no log has: the segment is damaged, and nobody counts beyond the end of the numbers for it.
#[test]
fn a_segment_from_the_end_of_the_numbers_is_damaged() {
    for first in [u64::MAX, u64::MAX / 2 + 1] {
        let dir = tempfile::tempdir().unwrap();
        drop(Writer::begin(dir.path(), 1, Begins::default(), "a", first, &Table::default()).unwrap());
        assert!(list(dir.path()).unwrap().segments.is_empty());
        let (sequences, error) = read(dir.path());
        assert!(sequences.is_empty() && matches!(error, Some(ReadError::Corrupt { offset: 0, .. })), "{error:?}");
        assert!(Reader::after(dir.path(), u64::MAX).is_ok());
    }
}

/// What is torn is cut, once, by whoever writes on.
#[test]
fn a_torn_end_is_cut_where_the_last_whole_entry_ends() {
    let dir = tempfile::tempdir().unwrap();
    log(dir.path(), &[3]);
    let path = list(dir.path()).unwrap().segments[0].path.clone();
    let whole = fs::read(&path).unwrap();
    fs::write(&path, [whole.as_slice(), b"half an entry"].concat()).unwrap();
    let mut reader = Reader::from_oldest(dir.path()).unwrap();
    while reader.read(1 << 20, |_, _| true).unwrap() > 0 {}
    assert_eq!(reader.cut_torn().unwrap(), Some((path.clone(), whole.len() as u64)));
    assert_eq!(fs::read(&path).unwrap(), whole);
    assert_eq!(reader.cut_torn().unwrap(), None);
    assert_eq!(read(dir.path()).0, upto(3));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// A crash leaves a torn end: what is before it is there, and nothing else, and nobody complains.
    #[test]
    fn cut_anywhere_in_the_last_segment_leaves_a_prefix(cut in 0.0_f64..1.0) {
        let dir = tempfile::tempdir().unwrap();
        log(dir.path(), &[7, 9]);
        let last = list(dir.path()).unwrap().segments.pop().unwrap();
        let bytes = fs::read(&last.path).unwrap();
        // The header and the snapshot are durable before the file appears under its name.
        let head = usize::try_from(last.start).unwrap() + 42;
        let at = head + ((bytes.len() - head) as f64 * cut) as usize;
        fs::write(&last.path, &bytes[..at]).unwrap();
        let (sequences, error) = read(dir.path());
        prop_assert!(error.is_none(), "{error:?}");
        prop_assert_eq!(&sequences, &upto(sequences.len() as u64));
        prop_assert!((7..=16).contains(&sequences.len()));
    }

    /// A flipped bit is never skipped: what comes back is a prefix that ends before it, and it is said, unless it lies in
    /// the very last entry, which cannot be told from a torn one.
    #[test]
    fn a_flipped_bit_is_said_and_nothing_behind_it_is_given(place in 0.0_f64..1.0, bit in 0_u8..8, segment in 0_usize..2) {
        let dir = tempfile::tempdir().unwrap();
        log(dir.path(), &[7, 9]);
        let segment = list(dir.path()).unwrap().segments.swap_remove(segment);
        let mut bytes = fs::read(&segment.path).unwrap();
        let at = ((bytes.len() - 1) as f64 * place) as usize;
        bytes[at] ^= 1 << bit;
        // 42 bytes, a sender of one letter, a payload of 16 letters.
        let is_last_entry = segment.header.first > 1 && at >= bytes.len() - 59;
        fs::write(&segment.path, bytes).unwrap();
        let (sequences, error) = read(dir.path());
        prop_assert_eq!(&sequences, &upto(sequences.len() as u64));
        prop_assert!(sequences.len() < 16);
        if is_last_entry {
            prop_assert_eq!(sequences.len(), 15);
        } else {
            let is_said = matches!(error, Some(ReadError::Corrupt { .. } | ReadError::TooFarBehind { .. }));
            prop_assert!(is_said, "{:?} after {}", error, sequences.len());
        }
    }
}

//! One entry of the log. All numbers are little-endian.
//!
//! | offset | bytes | |
//! |---|---|---|
//! | 0 | 4 | length of what follows the checksum |
//! | 4 | 4 | CRC-32C over the length and all that follows the checksum |
//! | 8 | 8 | epoch |
//! | 16 | 8 | sequence |
//! | 24 | 8 | the sender's number |
//! | 32 | 8 | wall time in milliseconds, for people |
//! | 40 | 1 | kind |
//! | 41 | 1 | length of the sender's name |
//! | 42 | … | the sender's name, then the payload |
//!
//! Nodes get entries in this very form: the checksum that was made when the message came is the one they verify.

use crc::{CRC_32_ISCSI, Crc, Table};

/// Length and checksum.
const HEAD: usize = 8;
/// The fields of fixed size behind the head.
const FIXED: usize = 34;
/// The largest entry that can be: a snapshot of the table of senders.
pub(super) const MAX_ENTRY: usize = 4 * 1024 * 1024;

static CRC: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EntryKind {
    /// A sender's message.
    Message = 1,
    /// A canary: to all nodes, to be confirmed.
    Canary = 2,
    /// A probe: no node hands it to anybody.
    Probe = 3,
    /// The first entry of an epoch. The number is the epoch before.
    EpochBegin = 4,
    /// The table of senders at the beginning of a segment. It has the sequence of the entry before, and goes to nobody.
    Snapshot = 5,
}

/// An entry; name and payload are borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The epoch of the primary that wrote it.
    pub epoch: u64,
    /// Its place in the log.
    pub sequence: u64,
    /// The sender's own number.
    pub number: u64,
    /// Wall time in milliseconds, for people.
    pub time_ms: u64,
    /// What it is.
    pub kind: EntryKind,
    /// The sender.
    pub sender: &'a str,
    /// What it says.
    pub payload: &'a [u8],
}

/// Why there is no entry here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    /// It goes on behind the end.
    #[error("it is cut off")]
    Incomplete,
    /// The length cannot be.
    #[error("its length is impossible")]
    Length,
    /// The checksum is wrong.
    #[error("its checksum is wrong")]
    Checksum,
    /// The checksum is right and the content cannot be: written by another version.
    #[error("its content is not understood")]
    Content,
}

fn checksum(length: [u8; 4], body: &[u8]) -> u32 {
    let mut digest = CRC.digest();
    digest.update(&length);
    digest.update(body);
    digest.finalize()
}

/// The checksum of other things.
pub(super) fn checksum_of(bytes: &[u8]) -> u32 {
    CRC.checksum(bytes)
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}

impl<'a> Entry<'a> {
    /// How long it is, written.
    #[must_use]
    pub const fn len(&self) -> usize {
        HEAD + FIXED + self.sender.len() + self.payload.len()
    }

    /// Never.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// Appends it.
    pub fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        // Names and payloads are bounded where they come in, far below these sizes.
        let length = u32::try_from(self.len() - HEAD).unwrap_or(u32::MAX).to_le_bytes();
        out.extend_from_slice(&length);
        out.extend_from_slice(&[0; 4]);
        for number in [self.epoch, self.sequence, self.number, self.time_ms] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.push(self.kind as u8);
        out.push(u8::try_from(self.sender.len()).unwrap_or(u8::MAX));
        out.extend_from_slice(self.sender.as_bytes());
        out.extend_from_slice(self.payload);
        let sum = checksum(length, &out[start + HEAD..]);
        out[start + 4..start + HEAD].copy_from_slice(&sum.to_le_bytes());
    }

    /// Reads the entry at the beginning of `bytes`.
    ///
    /// # Errors
    /// There is none.
    pub fn read(bytes: &'a [u8]) -> Result<Self, Bad> {
        let head = bytes.get(..HEAD).ok_or(Bad::Incomplete)?;
        let [a, b, c, d, e, f, g, h] = head else { return Err(Bad::Incomplete) };
        let length = [*a, *b, *c, *d];
        let size = u32::from_le_bytes(length) as usize;
        if !(FIXED..=MAX_ENTRY).contains(&size) {
            return Err(Bad::Length);
        }
        let body = bytes.get(HEAD..HEAD + size).ok_or(Bad::Incomplete)?;
        if checksum(length, body) != u32::from_le_bytes([*e, *f, *g, *h]) {
            return Err(Bad::Checksum);
        }
        Self::content(body).ok_or(Bad::Content)
    }

    fn content(body: &'a [u8]) -> Option<Self> {
        let number = |place: usize| u64_at(body, place * 8);
        let kind = match body.get(32)? {
            1 => EntryKind::Message,
            2 => EntryKind::Canary,
            3 => EntryKind::Probe,
            4 => EntryKind::EpochBegin,
            5 => EntryKind::Snapshot,
            _ => return None,
        };
        let (sender, payload) = body.get(FIXED..)?.split_at_checked(usize::from(*body.get(33)?))?;
        Some(Self {
            epoch: number(0)?,
            sequence: number(1)?,
            number: number(2)?,
            time_ms: number(3)?,
            kind,
            sender: std::str::from_utf8(sender).ok()?,
            payload,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_noticed() {
        let entry = Entry {
            epoch: 3,
            sequence: 17,
            number: 4,
            time_ms: 99,
            kind: EntryKind::Message,
            sender: "s1",
            payload: b"hello",
        };
        let mut bytes = Vec::new();
        entry.write(&mut bytes);
        assert_eq!(bytes.len(), entry.len());
        assert_eq!(Entry::read(&bytes), Ok(entry));
        for bit in 0..bytes.len() * 8 {
            let mut other = bytes.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(Entry::read(&other).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert_eq!(Entry::read(&bytes[..length]), Err(Bad::Incomplete));
        }
    }
}

//! Frames, as they go over TCP: a length of four bytes (little-endian, of what follows), a kind of one byte, a body.
//!
//! The first frame of a client is a [`Hello`]; the answer is a [`Welcome`] or a [`Refusal`]. What is rare is JSON, what is
//! frequent is binary. Every length is bounded before anything is set aside for it.

use std::io;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::control::Reason;

/// The largest payload of one message, bytes.
pub const MAX_PAYLOAD: usize = 256 * 1024;
/// The longest name of a sender or a node, bytes.
pub const MAX_NAME: usize = 64;
/// The largest frame, kind and body, bytes.
pub const MAX_FRAME: usize = 1024 * 1024;
/// The largest first frame: whoever has not said who it is gets no memory.
pub const MAX_FIRST_FRAME: usize = 4 * 1024;
/// How much a batch collects before it is sent, bytes.
pub(super) const BATCH: usize = 256 * 1024;
/// How much is asked of the socket at once.
const READ: usize = 64 * 1024;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Who comes. JSON.
    Hello = 1,
    /// It may stay. JSON.
    Welcome = 2,
    /// It may not, or not further. JSON.
    Refused = 3,
    /// A question or an order of a controller. JSON.
    Ask = 4,
    /// The answer to it. JSON.
    Answer = 5,
    /// Messages of a sender with consecutive numbers.
    Messages = 6,
    /// Everything up to a number is durable.
    Acked = 7,
    /// Entries for a node, as they stand in the log, checksums and all.
    Entries = 8,
    /// A node has taken everything up to a sequence.
    Received = 9,
    /// Nothing to send; the epoch and the end of the log.
    Beat = 10,
}

impl Kind {
    const ALL: [Self; 10] = [
        Self::Hello,
        Self::Welcome,
        Self::Refused,
        Self::Ask,
        Self::Answer,
        Self::Messages,
        Self::Acked,
        Self::Entries,
        Self::Received,
        Self::Beat,
    ];
}

/// Who comes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "hello", rename_all = "snake_case")]
pub enum Hello {
    /// Somebody who sends messages.
    Sender {
        /// The first half of the idempotency key.
        name: String,
        /// The largest epoch that it was told; a relay with a smaller one refuses.
        epoch: u64,
    },
    /// Somebody who receives them all.
    Node {
        /// Its name.
        name: String,
        /// The last sequence that it has; none: whatever comes from now on.
        after: Option<u64>,
        /// The largest epoch that it has seen; a relay with a smaller one refuses.
        epoch: u64,
    },
    /// Somebody who asks and orders.
    Control,
}

/// It may stay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The relay's name.
    pub name: String,
    /// The epoch in which it is primary.
    pub epoch: u64,
    /// Sender: its last number that is in the log. Node: the sequence after which it gets entries.
    pub last: u64,
}

/// It may not stay. The connection ends after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Why.
    pub why: Why,
    /// In words.
    pub detail: String,
    /// The largest epoch that the relay has seen.
    pub epoch: u64,
}

/// Why a sender or a node was sent away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// It refuses senders.
    ReadOnly,
    /// It is no primary.
    NotPrimary,
    /// The client knows a larger epoch than the relay.
    OldEpoch,
    /// The storage is full.
    StorageFull,
    /// The storage fails, or what comes next in the log is corrupt.
    Storage,
    /// It could not be understood, or breaks the rules.
    BadRequest,
    /// A newer connection of the same name came.
    Replaced,
    /// The log begins behind what this node has; the number in words.
    TooFarBehind {
        /// The first sequence that can still be had.
        oldest: u64,
    },
    /// The node has more than the log: the storage is not the one it read from, or an older copy.
    Ahead {
        /// The last sequence of the log.
        last: u64,
    },
}

impl From<Reason> for Why {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::ReadOnly => Self::ReadOnly,
            Reason::NotPrimary => Self::NotPrimary,
            Reason::OldEpoch => Self::OldEpoch,
            Reason::StorageFull => Self::StorageFull,
            Reason::Storage => Self::Storage,
            Reason::BadRequest => Self::BadRequest,
        }
    }
}

/// A frame that came.
#[derive(Clone, Debug)]
pub struct Frame {
    /// What it is.
    pub kind: Kind,
    /// What it says.
    pub body: Bytes,
}

impl Frame {
    /// Reads its body as JSON.
    ///
    /// # Errors
    /// It is none, or says something else.
    pub fn json<T: DeserializeOwned>(&self) -> io::Result<T> {
        serde_json::from_slice(&self.body)
            .map_err(|e| bad(format!("a {:?} frame with a body that is none: {e}", self.kind)))
    }
}

pub(super) fn bad(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

/// A whole frame.
#[must_use]
pub fn frame(kind: Kind, body: &[u8]) -> Vec<u8> {
    let mut out = begin(kind, body.len());
    out.extend_from_slice(body);
    finish(out)
}

/// A frame with JSON in it.
///
/// # Errors
/// The value cannot be written as JSON.
pub fn json<T: Serialize>(kind: Kind, value: &T) -> io::Result<Vec<u8>> {
    Ok(frame(kind, &serde_json::to_vec(value)?))
}

/// A frame whose body is appended by the caller; then comes [`finish`].
pub(super) fn begin(kind: Kind, capacity: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(capacity + 5);
    out.extend_from_slice(&[0; 4]);
    out.push(kind as u8);
    out
}

/// Writes the length of a frame that [`begin`] began.
pub(super) fn finish(mut out: Vec<u8>) -> Vec<u8> {
    // Our own frames are far below 4 GiB; were one not, the reader's bound would refuse it.
    let length = u32::try_from(out.len() - 4).unwrap_or(u32::MAX);
    out[..4].copy_from_slice(&length.to_le_bytes());
    out
}

/// Two numbers as a frame.
#[must_use]
pub fn numbers(kind: Kind, numbers: [u64; 2]) -> Vec<u8> {
    let mut out = begin(kind, 16);
    for number in numbers {
        out.put_u64_le(number);
    }
    finish(out)
}

/// Two numbers out of a frame.
///
/// # Errors
/// It is longer or shorter.
pub fn read_numbers(frame: &Frame) -> io::Result<[u64; 2]> {
    let mut body = frame.body.clone();
    if body.len() != 16 {
        return Err(bad(format!("a {:?} frame of {} bytes instead of 16", frame.kind, body.len())));
    }
    Ok([body.get_u64_le(), body.get_u64_le()])
}

/// Messages with consecutive numbers as a frame.
pub fn messages<'a>(first: u64, payloads: impl Iterator<Item = &'a Bytes>) -> Vec<u8> {
    let mut out = begin(Kind::Messages, BATCH + 1024);
    out.put_u64_le(first);
    for payload in payloads {
        // Bounded by MAX_PAYLOAD where it was taken.
        out.put_u32_le(u32::try_from(payload.len()).unwrap_or(u32::MAX));
        out.extend_from_slice(payload);
    }
    finish(out)
}

/// The messages of a frame: the first number, and the payloads.
///
/// # Errors
/// There are none, one is too long or cut off, or their numbers cannot be.
pub fn read_messages(frame: &Frame) -> io::Result<(u64, Vec<Bytes>)> {
    let mut body = frame.body.clone();
    if body.len() < 8 {
        return Err(bad("messages without a number"));
    }
    let first = body.get_u64_le();
    let mut payloads = Vec::new();
    while body.has_remaining() {
        if body.remaining() < 4 {
            return Err(bad("a message without a length"));
        }
        let length = body.get_u32_le() as usize;
        if length > MAX_PAYLOAD || length > body.remaining() {
            return Err(bad(format!("a message of {length} bytes: more than {MAX_PAYLOAD}, or than there are")));
        }
        payloads.push(body.split_to(length));
    }
    if first == 0 || payloads.is_empty() || first.checked_add(payloads.len() as u64).is_none() {
        return Err(bad("no messages, or numbers that do not begin with 1"));
    }
    Ok((first, payloads))
}

/// Whether a name may be one.
pub(super) fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:/".contains(c))
}

/// Takes frames from a stream. Whoever drops a call to [`next`](Self::next) loses nothing.
#[derive(Debug)]
pub struct FrameReader<R> {
    reader: R,
    buffer: BytesMut,
    limit: usize,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads frames that are no longer than `limit`.
    pub fn new(reader: R, limit: usize) -> Self {
        Self { reader, buffer: BytesMut::new(), limit }
    }

    /// What it reads from.
    pub(super) const fn get_ref(&self) -> &R {
        &self.reader
    }

    /// From now on frames may be so large.
    pub const fn allow(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// The next frame; none: the other side has closed the stream between frames.
    ///
    /// # Errors
    /// The stream's, or what comes is no frame: nothing behind it can be understood.
    pub async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.take()? {
                return Ok(Some(frame));
            }
            self.buffer.reserve(READ);
            if self.reader.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    fn take(&mut self) -> io::Result<Option<Frame>> {
        let Some(head) = self.buffer.get(..4) else { return Ok(None) };
        let length = head.iter().rev().fold(0, |all, byte| all << 8 | usize::from(*byte));
        if length == 0 || length > self.limit {
            return Err(bad(format!("a frame of {length} bytes; at most {} are taken here", self.limit)));
        }
        if self.buffer.len() < 4 + length {
            return Ok(None);
        }
        self.buffer.advance(4);
        let mut body = self.buffer.split_to(length);
        let byte = body.get_u8();
        let kind = Kind::ALL.into_iter().find(|kind| *kind as u8 == byte);
        let kind = kind.ok_or_else(|| bad(format!("a frame of the unknown kind {byte}")))?;
        Ok(Some(Frame { kind, body: body.freeze() }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read_all(bytes: &[u8]) -> io::Result<Vec<Frame>> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut reader = FrameReader::new(bytes, MAX_FRAME);
            let mut frames = Vec::new();
            while let Some(frame) = reader.next().await? {
                frames.push(frame);
            }
            Ok(frames)
        })
    }

    #[test]
    fn frames_come_back_as_they_were() {
        let payloads = [Bytes::from_static(b"one"), Bytes::new(), Bytes::from_static(b"three")];
        let mut bytes = messages(7, payloads.iter());
        bytes.extend(numbers(Kind::Acked, [9, 2]));
        bytes.extend(json(Kind::Hello, &Hello::Control).unwrap());
        let frames = read_all(&bytes).unwrap();
        assert_eq!(read_messages(&frames[0]).unwrap(), (7, payloads.to_vec()));
        assert_eq!(read_numbers(&frames[1]).unwrap(), [9, 2]);
        assert_eq!(frames[2].json::<Hello>().unwrap(), Hello::Control);
    }

    proptest! {
        #[test]
        fn garbage_is_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut framed = begin(Kind::Messages, 0);
            framed.extend_from_slice(&bytes);
            for bytes in [bytes, finish(framed)] {
                for frame in read_all(&bytes).unwrap_or_default() {
                    let _ = (read_messages(&frame), read_numbers(&frame), frame.json::<Hello>());
                }
            }
        }
    }
}

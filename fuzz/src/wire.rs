//! Frames of the relay's connections: the same however they come in pieces, none longer than was allowed, each written
//! back to the very bytes that came; and what is in them read, or refused.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use coroner::relay::{
    MAX_NAME, MAX_PAYLOAD,
    control::{Answer, Request},
    entry::Entry,
    wire::{self, Frame, FrameReader, Hello, Kind, Refusal, Welcome},
};
use futures::FutureExt as _;
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, ReadBuf};

use super::{Reached, draw::Draw};

/// A stream that gives so many bytes at a time, and never lets anybody wait.
struct Pieces<'a> {
    rest: &'a [u8],
    size: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let size = self.size.min(self.rest.len()).min(into.remaining());
        let (piece, rest) = self.rest.split_at(size);
        into.put_slice(piece);
        self.rest = rest;
        Poll::Ready(Ok(()))
    }
}

pub fn run(input: &[u8]) -> Reached {
    let mut draw = Draw::new(input);
    let limit = [64, wire::MAX_FIRST_FRAME, wire::MAX_FRAME][draw.below(3)];
    let size = 1 + usize::from(draw.byte() % 32);
    let bytes = draw.rest();
    let (frames, end) = read(bytes, limit, bytes.len().max(1));
    let (again, other_end) = read(bytes, limit, size);
    assert_eq!(written(&frames), written(&again), "in pieces of {size} bytes other frames come");
    assert_eq!(end, other_end, "in pieces of {size} bytes it ends otherwise");
    let whole = written(&frames);
    assert!(bytes.starts_with(&whole), "the frames are not those that came");
    match end {
        None => assert_eq!(whole.len(), bytes.len(), "bytes were left, and it is said that none were"),
        Some(kind) => {
            assert!(matches!(kind, io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof), "it ends with {kind}")
        }
    }
    let mut is_taken = false;
    for frame in &frames {
        assert!(frame.body.len() < limit, "a frame of {} bytes where {limit} are allowed", frame.body.len() + 1);
        is_taken |= look_into(frame);
    }
    Reached::of(is_taken)
}

/// The frames, and how it ended; none: between two of them.
fn read(bytes: &[u8], limit: usize, size: usize) -> (Vec<Frame>, Option<io::ErrorKind>) {
    let mut reader = FrameReader::new(Pieces { rest: bytes, size }, limit);
    let mut frames = Vec::new();
    loop {
        match reader.next().now_or_never().expect("nobody has to wait") {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) => return (frames, None),
            Err(error) => return (frames, Some(error.kind())),
        }
    }
}

fn written(frames: &[Frame]) -> Vec<u8> {
    frames.iter().flat_map(|frame| wire::frame(frame.kind, &frame.body)).collect()
}

/// Reads what is in a frame, as whoever gets it does. Answers whether it could be.
fn look_into(frame: &Frame) -> bool {
    match frame.kind {
        Kind::Hello => json::<Hello>(frame),
        Kind::Welcome => json::<Welcome>(frame),
        Kind::Refused => json::<Refusal>(frame),
        Kind::Ask => json::<Request>(frame),
        Kind::Answer => json::<Answer>(frame),
        Kind::Messages => {
            let Ok((first, payloads)) = wire::read_messages(frame) else { return false };
            assert!(first > 0 && !payloads.is_empty());
            assert!(payloads.iter().all(|payload| payload.len() <= MAX_PAYLOAD));
            assert!(first.checked_add(payloads.len() as u64).is_some(), "their numbers have no room");
            let again = wire::messages(first, payloads.iter());
            assert_eq!(again, wire::frame(Kind::Messages, &frame.body), "other messages were read than were sent");
            true
        }
        Kind::Acked | Kind::Received | Kind::Beat => {
            let Ok(numbers) = wire::read_numbers(frame) else { return false };
            assert_eq!(wire::numbers(frame.kind, numbers), wire::frame(frame.kind, &frame.body));
            true
        }
        Kind::Entries => {
            let mut rest = &frame.body[..];
            while !rest.is_empty() {
                let Ok(entry) = Entry::read(rest) else { return false };
                let mut again = Vec::new();
                entry.write(&mut again);
                // The name's length is one byte, so what was read is never longer than can be written.
                assert!(entry.sender.len() <= 255 && MAX_NAME <= 255);
                assert!(rest.starts_with(&again), "another entry was read than was sent");
                rest = &rest[again.len()..];
            }
            true
        }
    }
}

/// What can be read can be written, and is then read as the same.
fn json<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(frame: &Frame) -> bool {
    let Ok(read) = frame.json::<T>() else { return false };
    let written = wire::json(frame.kind, &read).expect("what was read can be written");
    let back: T = serde_json::from_slice(&written[5..]).expect("what was written can be read");
    assert_eq!(back, read, "it is read as something else");
    true
}

//! nfnetlink, as far as the gate speaks it: messages and attributes in, messages and attributes out.
//!
//! The kernel works on a request while it is being sent: when `send` returns, the batch is committed or undone and its
//! answers lie in the socket. A program to spawn would cost ten milliseconds; this costs some tens of microseconds.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, getsockname,
        netlink::{self, SocketAddrNetlink},
        recv, send, socket_with, sockopt,
    },
};

use super::GateError;

/// `NFPROTO_INET`: IPv4 and IPv6 in one table.
pub(super) const INET: u8 = 1;
const UNSPEC: u8 = 0;

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// Flags of a netlink message.
pub(super) mod flag {
    pub(in super::super) const REQUEST: u16 = 0x1;
    pub(in super::super) const ACK: u16 = 0x4;
    pub(in super::super) const DUMP_INTERRUPTED: u16 = 0x10;
    pub(in super::super) const DUMP: u16 = 0x300;
    pub(in super::super) const CREATE: u16 = 0x400;
    pub(in super::super) const APPEND: u16 = 0x800;
}

/// What a message of nf_tables is about (`enum nf_tables_msg_types`).
pub(super) mod op {
    pub(in super::super) const NEW_TABLE: u16 = 0;
    pub(in super::super) const GET_TABLE: u16 = 1;
    pub(in super::super) const DEL_TABLE: u16 = 2;
    pub(in super::super) const NEW_CHAIN: u16 = 3;
    pub(in super::super) const GET_CHAIN: u16 = 4;
    pub(in super::super) const NEW_RULE: u16 = 6;
    pub(in super::super) const GET_RULE: u16 = 7;
    pub(in super::super) const NEW_SET: u16 = 9;
    pub(in super::super) const GET_SET: u16 = 10;
    pub(in super::super) const NEW_SET_ELEMENT: u16 = 12;
    pub(in super::super) const GET_SET_ELEMENT: u16 = 13;
    pub(in super::super) const DEL_SET_ELEMENT: u16 = 14;
    pub(in super::super) const NEW_GENERATION: u16 = 15;
}

/// Group of all changes to nf_tables (`NFNLGRP_NFTABLES`), as a bit of the old bind mask.
pub(super) const GROUP_NFTABLES: u32 = 1 << (7 - 1);

const HEADER: usize = 16;
/// `struct nfgenmsg` behind the header.
pub(super) const GENERIC: usize = 4;
const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;

/// Attributes being written.
pub(super) struct Attributes<'a> {
    bytes: &'a mut Vec<u8>,
}

impl Attributes<'_> {
    pub(super) fn bytes(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        // Everything written here is a name, a number, an address: far below 64 KiB. A longer one would be cut, and the
        // kernel would refuse the message.
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    pub(super) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    pub(super) fn number(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(super) fn long(&mut self, kind: u16, value: u64) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(super) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes<'_>)) -> &mut Self {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        fill(&mut Attributes { bytes: self.bytes });
        let length = u16::try_from(self.bytes.len() - at).unwrap_or(u16::MAX);
        self.bytes[at..at + 2].copy_from_slice(&length.to_ne_bytes());
        self.bytes[at + 2..at + 4].copy_from_slice(&(kind | NESTED).to_ne_bytes());
        self
    }
}

fn message(bytes: &mut Vec<u8>, kind: u16, flags: u16, seq: u32, generic: [u8; GENERIC]) -> usize {
    let at = bytes.len();
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&flags.to_ne_bytes());
    bytes.extend_from_slice(&seq.to_ne_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&generic);
    at
}

fn finish(bytes: &mut [u8], at: usize) {
    let length = u32::try_from(bytes.len() - at).unwrap_or(u32::MAX);
    bytes[at..at + 4].copy_from_slice(&length.to_ne_bytes());
}

/// A transaction being written: all of it happens, or nothing.
#[derive(Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    /// What each message does, for errors; the sequence number is the index counted from the batch's first.
    doing: Vec<&'static str>,
}

impl Batch {
    /// Adds a message. `doing` completes "the kernel refused to …".
    pub(super) fn add(
        &mut self,
        doing: &'static str,
        operation: u16,
        flags: u16,
        fill: impl FnOnce(&mut Attributes<'_>),
    ) -> &mut Self {
        let seq = u32::try_from(self.doing.len()).unwrap_or(u32::MAX);
        self.doing.push(doing);
        let at = message(
            &mut self.bytes,
            SUBSYSTEM << 8 | operation,
            flag::REQUEST | flag::ACK | flags,
            seq,
            [INET, 0, 0, 0],
        );
        fill(&mut Attributes { bytes: &mut self.bytes });
        finish(&mut self.bytes, at);
        self
    }

    /// The whole batch, its messages numbered from `first + 1` on; `first` is the begin of the batch.
    fn seal(&self, first: u32) -> Vec<u8> {
        let subsystem = SUBSYSTEM.to_be_bytes();
        let generic = [UNSPEC, 0, subsystem[0], subsystem[1]];
        let mut bytes = Vec::with_capacity(self.bytes.len() + 2 * (HEADER + GENERIC));
        let at = message(&mut bytes, BATCH_BEGIN, flag::REQUEST, first, generic);
        finish(&mut bytes, at);
        let mut rest = bytes.len();
        bytes.extend_from_slice(&self.bytes);
        for index in 0..self.doing.len() {
            let seq = first.wrapping_add(1).wrapping_add(u32::try_from(index).unwrap_or(u32::MAX));
            bytes[rest + 8..rest + 12].copy_from_slice(&seq.to_ne_bytes());
            rest += number_ne(&bytes, rest) as usize;
        }
        let at = message(&mut bytes, BATCH_END, flag::REQUEST, first.wrapping_add(self.count() + 1), generic);
        finish(&mut bytes, at);
        bytes
    }

    fn count(&self) -> u32 {
        u32::try_from(self.doing.len()).unwrap_or(u32::MAX)
    }
}

/// The number at a place, in the host's order; 0 where there is none.
fn number_ne(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

fn short_ne(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|two| two.try_into().ok()).map_or(0, u16::from_ne_bytes)
}

/// A message that came in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message<'a> {
    kind: u16,
    pub(super) flags: u16,
    seq: u32,
    /// Whose request caused it.
    pub(super) port: u32,
    payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// What it is about, if it is one of nf_tables.
    pub(super) const fn operation(&self) -> Option<u16> {
        if self.kind >> 8 == SUBSYSTEM { Some(self.kind & 0xff) } else { None }
    }

    /// Its attributes.
    pub(super) fn attributes(&self) -> Parsed<'a> {
        Parsed::of(self.payload.get(GENERIC..).unwrap_or_default())
    }
}

/// Takes a datagram apart. What does not parse ends it.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = number_ne(bytes, 0) as usize;
        if length < HEADER || length > bytes.len() {
            return None;
        }
        let message = Message {
            kind: short_ne(bytes, 4),
            flags: short_ne(bytes, 6),
            seq: number_ne(bytes, 8),
            port: number_ne(bytes, 12),
            payload: &bytes[HEADER..length],
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// Attributes that came in.
#[derive(Clone, Debug, Default)]
pub(super) struct Parsed<'a> {
    all: Vec<(u16, &'a [u8])>,
}

impl<'a> Parsed<'a> {
    pub(super) fn of(mut bytes: &'a [u8]) -> Self {
        let mut all = Vec::new();
        loop {
            let length = usize::from(short_ne(bytes, 0));
            if length < 4 || length > bytes.len() {
                return Self { all };
            }
            all.push((short_ne(bytes, 2) & TYPE_MASK, &bytes[4..length]));
            bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }

    pub(super) fn get(&self, kind: u16) -> Option<&'a [u8]> {
        self.all.iter().find(|(own, _)| *own == kind).map(|(_, value)| *value)
    }

    pub(super) fn each(&self) -> impl Iterator<Item = (u16, &'a [u8])> {
        self.all.iter().copied()
    }

    pub(super) fn nested(&self, kind: u16) -> Option<Self> {
        self.get(kind).map(Self::of)
    }

    pub(super) fn text(&self, kind: u16) -> Option<String> {
        let bytes = self.get(kind)?;
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }

    pub(super) fn number(&self, kind: u16) -> Option<u32> {
        self.get(kind)?.try_into().ok().map(u32::from_be_bytes)
    }

    pub(super) fn long(&self, kind: u16) -> Option<u64> {
        self.get(kind)?.try_into().ok().map(u64::from_be_bytes)
    }
}

/// A socket to the kernel's netfilter, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    port: u32,
    seq: u32,
    buffer: Vec<u8>,
}

/// The kernel fills a dump's datagrams up to 32 KiB.
const BUFFER: usize = 64 * 1024;
/// A dump that does not go on. Never seen; it bounds the wait.
const PATIENCE: Duration = Duration::from_millis(200);

impl Socket {
    /// `groups`: what it hears of unasked.
    pub(super) fn open(groups: u32) -> Result<Self, GateError> {
        let failed = |doing| move |errno| GateError::from_errno(doing, errno);
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(netlink::NETFILTER))
            .map_err(failed("open a netfilter socket"))?;
        bind(&fd, &SocketAddrNetlink::new(0, groups)).map_err(failed("bind a netfilter socket"))?;
        sockopt::set_socket_timeout(&fd, sockopt::Timeout::Recv, Some(PATIENCE))
            .map_err(failed("set a socket's timeout"))?;
        let own = getsockname(&fd).map_err(failed("name a netfilter socket"))?;
        let port = SocketAddrNetlink::try_from(own).map_err(failed("name a netfilter socket")).map(|own| own.pid())?;
        Ok(Self { fd, port, seq: 0, buffer: Vec::with_capacity(BUFFER) })
    }

    /// The number under which the kernel knows this socket.
    pub(super) const fn port(&self) -> u32 {
        self.port
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The next datagram.
    pub(super) fn receive(&mut self, flags: RecvFlags) -> Result<&[u8], Errno> {
        loop {
            self.buffer.clear();
            match recv(&self.fd, rustix::buffer::spare_capacity(&mut self.buffer), flags) {
                Ok(_) => return Ok(&self.buffer),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Errno> {
        loop {
            match send(&self.fd, bytes, SendFlags::empty()) {
                Ok(sent) if sent == bytes.len() => return Ok(()),
                Ok(_) => return Err(Errno::MSGSIZE),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Commits a batch: all of it happened when this returns `Ok`, nothing of it when it returns a refusal.
    pub(super) fn commit(&mut self, batch: &Batch) -> Result<(), GateError> {
        let first = self.seq;
        let count = batch.count();
        self.seq = self.seq.wrapping_add(count + 2);
        self.send(&batch.seal(first)).map_err(|errno| GateError::from_errno("take a transaction", errno))?;
        let mut acknowledged = 0;
        let mut refusal = None;
        loop {
            let bytes = match self.receive(RecvFlags::DONTWAIT) {
                Ok(bytes) => bytes,
                Err(Errno::AGAIN) => break,
                Err(errno) => return Err(GateError::from_errno("answer a transaction", errno)),
            };
            for message in messages(bytes) {
                let index = message.seq.wrapping_sub(first);
                // An answer to something earlier, or no answer.
                if message.kind != ERROR || index > count + 1 {
                    continue;
                }
                match errno(message.payload) {
                    None => acknowledged += 1,
                    Some(errno) => {
                        let doing = batch.doing.get((index as usize).wrapping_sub(1)).copied();
                        let doing = doing.unwrap_or("commit a transaction");
                        refusal = refusal.or(Some((doing, errno)));
                    }
                }
            }
        }
        match refusal {
            Some((doing, errno)) => Err(GateError::from_errno(doing, errno)),
            None if acknowledged == count => Ok(()),
            // Not silent in any kernel known; nothing is claimed then.
            None => Err(GateError::from_errno("acknowledge a transaction", Errno::NOMSG)),
        }
    }

    /// Lists, and hands each entry's attributes to `take`. A list that changed meanwhile is read again.
    pub(super) fn dump(
        &mut self,
        doing: &'static str,
        operation: u16,
        fill: impl Fn(&mut Attributes<'_>),
        mut take: impl FnMut(&Parsed<'_>),
    ) -> Result<(), GateError> {
        self.seq = self.seq.wrapping_add(1);
        let seq = self.seq;
        self.seq = self.seq.wrapping_add(1);
        let mut bytes = Vec::with_capacity(128);
        let at = message(&mut bytes, SUBSYSTEM << 8 | operation, flag::REQUEST | flag::DUMP, seq, [INET, 0, 0, 0]);
        fill(&mut Attributes { bytes: &mut bytes });
        finish(&mut bytes, at);
        let failed = |errno| GateError::from_errno(doing, errno);
        self.send(&bytes).map_err(failed)?;
        loop {
            let bytes = self.receive(RecvFlags::empty()).map_err(failed)?;
            for message in messages(bytes).filter(|message| message.seq == seq) {
                if message.flags & flag::DUMP_INTERRUPTED != 0 {
                    return Err(failed(Errno::INTR));
                }
                match message.kind {
                    DONE => return Ok(()),
                    ERROR => return errno(message.payload).map_or(Ok(()), |errno| Err(failed(errno))),
                    _ => take(&message.attributes()),
                }
            }
        }
    }
}

/// The error that a message of kind `ERROR` carries; `None`: an acknowledgement.
fn errno(payload: &[u8]) -> Option<Errno> {
    let code = number_ne(payload, 0).cast_signed();
    (code != 0).then(|| Errno::from_raw_os_error(code.saturating_neg()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let mut batch = Batch::default();
        batch.add("a", op::NEW_TABLE, flag::CREATE, |a| {
            a.text(1, "orders").number(2, 7).nest(3, |a| {
                a.long(4, 5_000);
            });
        });
        batch.add("b", op::DEL_TABLE, 0, |a| {
            a.text(1, "orders");
        });
        let bytes = batch.seal(40);
        let all: Vec<_> = messages(&bytes).collect();
        assert_eq!(all.iter().map(|m| m.seq).collect::<Vec<_>>(), [40, 41, 42, 43]);
        assert_eq!(all.iter().map(Message::operation).collect::<Vec<_>>(), [None, Some(0), Some(2), None]);
        let attributes = all[1].attributes();
        assert_eq!(attributes.text(1).as_deref(), Some("orders"));
        assert_eq!(attributes.number(2), Some(7));
        assert_eq!(attributes.nested(3).and_then(|nested| nested.long(4)), Some(5_000));
        assert_eq!(attributes.number(9), None);
    }

    #[test]
    fn garbage_ends_it() {
        assert_eq!(messages(&[255; 40]).count(), 0);
        assert_eq!(messages(&[0; 40]).count(), 0);
        assert_eq!(Parsed::of(&[3, 0, 1, 0]).each().count(), 0);
        assert_eq!(Parsed::of(&[200, 0, 1, 0, 9]).each().count(), 0);
        assert_eq!(messages(&[]).count(), 0);
    }
}

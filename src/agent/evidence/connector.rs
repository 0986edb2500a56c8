//! Notices of the kernel's process connector: that a process begins to dump core, and that one has exited and how.
//!
//! The core-dump notice comes seconds before the process is gone (its port still takes connections meanwhile); the exit
//! notice brings the status, which a pidfd of somebody else's child does not. It needs CAP_NET_ADMIN, the first network
//! namespace and the first process-number namespace; so at start it is tried on a thread of our own. Where notices were
//! lost for want of buffer, that is told, and everything has to be looked at again.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netlink, netlink::SocketAddrNetlink, recv,
        send, socket_with, sockopt,
    },
};

use crate::sys::clock::Stopwatch;

/// A number for the process connector among the kernel's connectors.
const PROCESSES: u32 = 1;
const LISTEN: u32 = 1;
const NONE: u32 = 0;
const CORE_DUMP: u32 = 0x4000_0000;
const EXIT: u32 = 0x8000_0000;
/// Length of the headers: netlink's, the connector's, the event's.
const NETLINK: usize = 16;
const CONNECTOR: usize = 20;
const EVENT: usize = 16;
/// Tens of thousands of notices; the default of 208 KiB was seen to overflow.
const BUFFER: usize = 4 * 1024 * 1024;
/// The kernel answers at once, if it answers.
const ANSWER: Duration = Duration::from_millis(100);

/// A subscription.
#[derive(Debug)]
pub struct Connector {
    socket: OwnedFd,
}

/// What was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The process begins to dump core.
    CoreDump {
        /// Its number.
        pid: i32,
    },
    /// A thread exited.
    Exit {
        /// The thread.
        thread: i32,
        /// Its process.
        pid: i32,
        /// Wait status.
        status: i32,
    },
    /// Notices were lost.
    Lost,
}

impl Connector {
    /// Subscribes, and requires to hear a thread of our own exit.
    ///
    /// # Errors
    /// Why it cannot be used here.
    pub fn open() -> Result<Self, String> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(netlink::CONNECTOR))
            .map_err(|e| format!("no socket (it needs the first network namespace): {e}"))?;
        if sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER).is_err() {
            // Without the right to force it, as much as is allowed.
            let _ = sockopt::set_socket_recv_buffer_size(&socket, BUFFER);
        }
        // To a bound group only root may send, so what arrives is the kernel's word.
        bind(&socket, &SocketAddrNetlink::new(0, PROCESSES))
            .map_err(|e| format!("no subscription (it needs CAP_NET_ADMIN): {e}"))?;
        let connector = Self { socket };
        // Kernels from 6.6 filter at the source; older ones do not answer to that, and send every fork.
        connector.subscribe(Some(EXIT | CORE_DUMP))?;
        if connector.hears_us()? {
            return Ok(connector);
        }
        connector.subscribe(None)?;
        if connector.hears_us()? {
            return Ok(connector);
        }
        Err("a thread of our own exited and no notice came (it needs the first process-number namespace)".into())
    }

    fn subscribe(&self, events: Option<u32>) -> Result<(), String> {
        let payload: Vec<u8> = [Some(LISTEN), events].into_iter().flatten().flat_map(u32::to_ne_bytes).collect();
        let mut message = Vec::new();
        let length = u32::try_from(NETLINK + CONNECTOR + payload.len()).unwrap_or(0);
        message.extend(length.to_ne_bytes());
        // NLMSG_DONE, no flags; sequence and sender are nobody's.
        message.extend([3_u16, 0].into_iter().flat_map(u16::to_ne_bytes));
        message.extend([0_u32, 0].into_iter().flat_map(u32::to_ne_bytes));
        message.extend([PROCESSES, 1, 0, 0].into_iter().flat_map(u32::to_ne_bytes));
        let length = u16::try_from(payload.len()).unwrap_or(0);
        message.extend([length, 0].into_iter().flat_map(u16::to_ne_bytes));
        message.extend(payload);
        send(&self.socket, &message, SendFlags::empty()).map(drop).map_err(|e| match e {
            Errno::CONNREFUSED => "nobody answers (it needs the first network namespace)".into(),
            e => format!("no subscription: {e}"),
        })
    }

    fn hears_us(&self) -> Result<bool, String> {
        let own = i32::try_from(std::process::id()).unwrap_or(0);
        let thread = std::thread::Builder::new().name("coroner-drill".into()).spawn(|| {});
        let _ = thread.map_err(|e| format!("no thread: {e}"))?.join();
        let watch = Stopwatch::start();
        while let Some(left) = ANSWER.checked_sub(watch.elapsed()) {
            let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
            let left = Timespec { tv_sec: 0, tv_nsec: i64::from(left.subsec_nanos()) };
            if matches!(poll(&mut fds, Some(&left)), Ok(0)) {
                return Ok(false);
            }
            if self.read().iter().any(|notice| matches!(notice, Notice::Exit { pid, .. } if *pid == own)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Everything that has arrived. Does not wait.
    #[must_use]
    pub fn read(&self) -> Vec<Notice> {
        let mut notices = Vec::new();
        let mut buffer = [0_u8; 512];
        loop {
            match recv(&self.socket, &mut buffer[..], RecvFlags::empty()) {
                Ok((length, _)) => notices.extend(parse(&buffer[..length.min(buffer.len())])),
                Err(Errno::NOBUFS) => notices.push(Notice::Lost),
                Err(Errno::INTR) => {}
                Err(_) => return notices,
            }
        }
    }
}

impl AsFd for Connector {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn parse(message: &[u8]) -> Option<Notice> {
    let word = |at: usize| {
        let bytes = message.get(at..at + 4)?;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?))
    };
    let number = |at| word(at).map(u32::cast_signed);
    let event = NETLINK + CONNECTOR;
    if word(NETLINK)? != PROCESSES {
        return None;
    }
    let body = event + EVENT;
    match word(event)? {
        CORE_DUMP => Some(Notice::CoreDump { pid: number(body + 4)? }),
        EXIT => Some(Notice::Exit { thread: number(body)?, pid: number(body + 4)?, status: number(body + 8)? }),
        NONE => None,
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(what: u32, body: &[u32]) -> Vec<u8> {
        let mut bytes = vec![0; NETLINK];
        bytes.extend([PROCESSES, 1, 0, 0, 0].into_iter().flat_map(u32::to_ne_bytes));
        bytes.extend([what, 0, 0, 0].into_iter().chain(body.iter().copied()).flat_map(u32::to_ne_bytes));
        bytes
    }

    #[test]
    fn notices_are_read_and_rubbish_is_not() {
        assert_eq!(
            parse(&message(EXIT, &[7, 5, 9, 17])),
            Some(Notice::Exit { thread: 7, pid: 5, status: 9 }),
            "thread before process"
        );
        assert_eq!(parse(&message(CORE_DUMP, &[7, 5])), Some(Notice::CoreDump { pid: 5 }));
        assert_eq!(parse(&message(NONE, &[0])), None);
        assert_eq!(parse(&message(EXIT, &[7])), None, "too short");
        assert_eq!(parse(&[]), None);
    }
}

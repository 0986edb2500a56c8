//! The clients: one that knows both servers and tries each of them every millisecond, and one beside each server, whom no
//! cut of the network reaches.
//!
//! No write waits for another: what is not answered is left alone, and asked again on a new connection. So the client's
//! own patience is not part of what is measured, as far as a millisecond goes.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread::{JoinHandle, sleep},
    time::Duration,
};

use nix::sched::{CloneFlags, setns};
use rustix::{
    net::{AddressFamily, SocketFlags, SocketType},
    time::{ClockId, clock_gettime},
};

/// Nanoseconds of `CLOCK_MONOTONIC`.
pub(crate) fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap()
}

const MS: u64 = 1_000_000;
/// A server that has not answered for so long is tried on one more connection.
const ANOTHER_AFTER: u64 = 5 * MS;
/// New connections to one server are at least this far apart.
const CONNECT_APART: u64 = 2 * MS;
/// A connection on which nothing was ever answered is given up after this.
const YOUNG_FOR: u64 = 10 * MS;
/// One that was in use is listened to for so long yet: an answer that comes late is heard.
const LISTENED_FOR: u64 = 5_000 * MS;

/// An acknowledged write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ack {
    /// Which server, by its number.
    pub(crate) server: usize,
    /// When it was acknowledged.
    pub(crate) at: u64,
    /// Whether it went over the network, rather than on the server's own host.
    pub(crate) is_remote: bool,
}

/// Servers by number: the members, in order.
pub(crate) type Log = Arc<Mutex<Vec<Ack>>>;

/// The clients at work. They end when this is dropped.
pub(crate) struct Clients {
    log: Log,
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// Where one client stands, and what it writes to.
pub(crate) struct Place {
    /// Its network namespace.
    pub(crate) namespace: PathBuf,
    /// The addresses it knows, with the server's number; without, the server says who it is.
    pub(crate) addresses: Vec<(SocketAddr, Option<usize>)>,
    pub(crate) is_remote: bool,
    pub(crate) every: Duration,
}

impl Clients {
    pub(crate) fn start(places: Vec<Place>) -> Self {
        let (log, is_over) = (Log::default(), Arc::new(AtomicBool::new(false)));
        let threads = places
            .into_iter()
            .map(|place| {
                let (log, is_over) = (Arc::clone(&log), Arc::clone(&is_over));
                std::thread::spawn(move || run(&place, &log, &is_over))
            })
            .collect();
        Self { log, is_over, threads }
    }

    pub(crate) fn log(&self) -> MutexGuard<'_, Vec<Ack>> {
        self.log.lock().unwrap()
    }

    /// The first write that a server acknowledged over the network since.
    pub(crate) fn first(&self, server: usize, since: u64) -> Option<u64> {
        self.log().iter().find(|ack| ack.server == server && ack.is_remote && ack.at > since).map(|ack| ack.at)
    }

    /// The last write that a server acknowledged; `is_remote`: over the network, or anywhere.
    pub(crate) fn last(&self, server: usize, is_remote: bool) -> Option<u64> {
        self.log().iter().filter(|ack| ack.server == server && (ack.is_remote || !is_remote)).map(|ack| ack.at).max()
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn run(place: &Place, log: &Log, is_over: &AtomicBool) {
    let namespace = std::fs::File::open(&place.namespace).unwrap();
    // Of this thread alone: the sockets that it opens belong there.
    setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
    let mut servers: Vec<Server> =
        place.addresses.iter().map(|(address, number)| Server::new(*address, *number)).collect();
    while !is_over.load(Ordering::Relaxed) {
        for server in &mut servers {
            for number in server.turn(now()) {
                log.lock().unwrap().push(Ack { server: number, at: now(), is_remote: place.is_remote });
            }
        }
        sleep(place.every);
    }
}

struct Server {
    address: SocketAddr,
    number: Option<usize>,
    connections: Vec<Connection>,
    answered: u64,
    connected: u64,
    value: u64,
}

struct Connection {
    stream: TcpStream,
    opened: u64,
    /// Whether a write is under way on it.
    is_asked: bool,
    answered: Option<u64>,
    /// Who answers, once it has said so.
    number: Option<usize>,
    buffer: Vec<u8>,
}

enum Said {
    Accepted,
    Refused,
}

impl Server {
    const fn new(address: SocketAddr, number: Option<usize>) -> Self {
        Self { address, number, connections: Vec::new(), answered: 0, connected: 0, value: 0 }
    }

    /// Takes in what has come, and writes once more. The servers that acknowledged something.
    fn turn(&mut self, now: u64) -> Vec<usize> {
        let mut acknowledged = Vec::new();
        let (answered, value) = (&mut self.answered, &mut self.value);
        self.connections.retain_mut(|connection| {
            match connection.take() {
                Ok(said) if !said.is_empty() => {
                    *answered = now;
                    connection.answered = Some(now);
                    let accepted = said.iter().filter(|said| matches!(said, Said::Accepted)).count();
                    if let Some(number) = connection.number {
                        acknowledged.extend(std::iter::repeat_n(number, accepted));
                    }
                }
                Ok(_) => {}
                Err(_) => return false,
            }
            let is_kept = match connection.answered {
                None => now - connection.opened < YOUNG_FOR,
                Some(at) => now - at < LISTENED_FOR,
            };
            if is_kept && !connection.is_asked {
                *value += 1;
                return connection.ask(*value).is_ok();
            }
            is_kept
        });
        if now - self.answered > ANOTHER_AFTER && now - self.connected > CONNECT_APART {
            self.connected = now;
            self.connections.extend(Connection::open(self.address, self.number, now).ok());
        }
        acknowledged
    }
}

impl Connection {
    /// Begins to connect, and waits for nothing.
    fn open(address: SocketAddr, number: Option<usize>, now: u64) -> std::io::Result<Self> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket: OwnedFd = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        rustix::net::sockopt::set_tcp_nodelay(&socket, true)?;
        // What is given up shall not linger in the kernel.
        rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
        let stream = TcpStream::from(socket);
        Ok(Self { stream, opened: now, is_asked: false, answered: None, number, buffer: Vec::new() })
    }

    fn ask(&mut self, value: u64) -> std::io::Result<()> {
        let who = if self.number.is_none() && self.answered.is_none() { "CONFIG GET syslog-ident\r\n" } else { "" };
        let text = format!("{who}XADD rivals MAXLEN ~ 100 * n {value}\r\n");
        match self.stream.write(text.as_bytes()) {
            Ok(_) => {
                self.is_asked = true;
                Ok(())
            }
            // Not connected yet.
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// What was answered since the last time.
    fn take(&mut self) -> std::io::Result<Vec<Said>> {
        let mut chunk = [0; 4_096];
        match self.stream.read(&mut chunk) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(length) => self.buffer.extend_from_slice(&chunk[..length]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {}
            Err(error) => return Err(error),
        }
        let mut said = Vec::new();
        while let Some(end) = self.buffer.windows(2).position(|two| two == b"\r\n") {
            let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
            match &line[..line.len() - 2] {
                // The name of the server; a stream's entry is `123-0`.
                [b'r', b'i', b'v', b'a', b'l', b'-', digit] => self.number = Some(usize::from(digit - b'0')),
                [b'-', ..] => said.push(Said::Refused),
                [first, rest @ ..] if first.is_ascii_digit() && rest.contains(&b'-') => said.push(Said::Accepted),
                _ => {}
            }
        }
        if !said.is_empty() {
            self.is_asked = false;
        }
        Ok(said)
    }
}

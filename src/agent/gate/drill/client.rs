//! A client of the drill: it sends all the time, and listens all the time.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use crate::sys::clock::Stopwatch;

/// Between two bytes of a client, and of the listener.
pub(super) const PACE: Duration = Duration::from_millis(2);

/// One attempt among several.
const ATTEMPT: Duration = Duration::from_millis(100);

/// What came through one connection in a stretch of time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Observed {
    pub(super) count: usize,
    /// When the last byte came.
    pub(super) last: Duration,
}

/// An established connection.
pub(super) struct Client {
    stream: TcpStream,
}

impl Client {
    pub(super) fn connect(address: SocketAddr, within: Duration) -> io::Result<Self> {
        Self::of(TcpStream::connect_timeout(&address, within)?)
    }

    /// Tries again and again: the first packets over a new cable may be lost, and TCP repeats them after a second.
    pub(super) fn connect_patiently(address: SocketAddr, within: Duration) -> io::Result<Self> {
        let watch = Stopwatch::start();
        loop {
            match TcpStream::connect_timeout(&address, ATTEMPT) {
                Ok(stream) => return Self::of(stream),
                Err(e) if watch.elapsed() >= within => return Err(e),
                Err(_) => std::thread::sleep(PACE),
            }
        }
    }

    fn of(stream: TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream })
    }

    /// Sends a byte, and reads what has come.
    fn turn(&mut self) -> usize {
        // A full buffer is what a shut gate leads to.
        let _ = self.stream.write(b".");
        let mut bytes = [0; 512];
        let mut count = 0;
        while let Ok(more @ 1..) = self.stream.read(&mut bytes) {
            count += more;
        }
        count
    }

    /// Whether anything comes within this time.
    pub(super) fn hears(&mut self, within: Duration) -> bool {
        let watch = Stopwatch::start();
        while watch.elapsed() < within {
            if self.turn() > 0 {
                return true;
            }
            std::thread::sleep(PACE);
        }
        false
    }
}

/// Lets all of them send and listen until the watch shows `until`.
pub(super) fn observe(clients: &mut [io::Result<Client>], watch: &Stopwatch, until: Duration) -> Vec<Observed> {
    let mut seen = vec![Observed::default(); clients.len()];
    while watch.elapsed() < until {
        for (client, seen) in clients.iter_mut().zip(&mut seen) {
            let came = client.as_mut().map_or(0, Client::turn);
            if came > 0 {
                seen.count += came;
                seen.last = watch.elapsed();
            }
        }
        std::thread::sleep(PACE);
    }
    seen
}

/// Throws away what came before now and was not read yet, where this thread got no processor.
pub(super) fn forget(clients: &mut [io::Result<Client>]) {
    for client in clients.iter_mut().flatten() {
        client.turn();
    }
}

//! A TCP proxy on loopback that passes, cuts, delays, and breaks a connection around a word that goes through it. To be
//! included by path: `#[path = "../common/proxy.rs"] mod proxy;`.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "every test binary uses a part of it")]

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

/// What it does with every connection, new ones and those that are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Passes everything on.
    Pass,
    /// Passes nothing on, and keeps all connections open: a cable that was pulled.
    Swallow,
    /// Ends all connections, and takes no new one.
    Refuse,
    /// Passes each piece on after a while.
    Delay(Duration),
    /// What holds this word goes to the server; once the server answers, the connection is ended without the answer.
    BreakAfter(&'static str),
    /// What holds this word goes nowhere, and the connection is ended.
    BreakBefore(&'static str),
    /// What holds this word goes nowhere, nor does anything of that connection later; it stays open on both sides.
    StallBefore(&'static str),
}

struct Shared {
    mode: Mutex<Mode>,
    is_over: AtomicBool,
    broken: AtomicUsize,
    stranded: AtomicUsize,
    connections: AtomicUsize,
}

impl Shared {
    fn mode(&self) -> Mode {
        self.mode.lock().unwrap().clone()
    }
}

/// Runs until it is dropped.
pub struct Proxy {
    /// Where it listens.
    pub port: u16,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Starts one in front of a port of loopback.
    pub fn start(upstream: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        listener.set_nonblocking(true).unwrap();
        let (is_over, broken) = (AtomicBool::new(false), AtomicUsize::new(0));
        let (stranded, connections) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let shared = Arc::new(Shared { mode: Mutex::new(Mode::Pass), is_over, broken, stranded, connections });
        let accepting = shared.clone();
        std::thread::spawn(move || {
            while !accepting.is_over.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((client, _)) => {
                        if accepting.mode() != Mode::Refuse {
                            let shared = accepting.clone();
                            std::thread::spawn(move || serve(&shared, client, upstream));
                        }
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(2)),
                }
            }
        });
        Self { port, shared }
    }

    /// From now on.
    pub fn set(&self, mode: Mode) {
        *self.shared.mode.lock().unwrap() = mode;
    }

    /// The connections that are there stay open and pass nothing on ever again; new ones are not affected.
    pub fn strand(&self) {
        self.shared.stranded.store(self.connections(), Ordering::SeqCst);
    }

    /// How many connections were made through it.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// How many connections were broken at the word.
    pub fn broken(&self) -> usize {
        self.shared.broken.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
    }
}

fn serve(shared: &Arc<Shared>, client: TcpStream, upstream: u16) {
    let number = shared.connections.fetch_add(1, Ordering::SeqCst);
    let Ok(server) = TcpStream::connect(("127.0.0.1", upstream)) else { return };
    for stream in [&client, &server] {
        // What is accepted from a listener that does not block may inherit that.
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        stream.set_nodelay(true).unwrap();
    }
    let is_breaking = Arc::new(AtomicBool::new(false));
    let (other_shared, other_breaking) = (shared.clone(), is_breaking.clone());
    let (from, to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    std::thread::spawn(move || pump(&other_shared, number, from, to, &other_breaking));
    pump_from_client(shared, number, client, server, &is_breaking);
}

/// Whether it is to end. Waits for as long as nothing may pass.
fn is_over(shared: &Shared, number: usize) -> bool {
    loop {
        let mode = shared.mode();
        if shared.is_over.load(Ordering::Relaxed) || mode == Mode::Refuse {
            return true;
        }
        if mode != Mode::Swallow && number >= shared.stranded.load(Ordering::SeqCst) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The next piece. What a pulled cable holds back comes through later, if it is plugged in again.
fn next(shared: &Shared, number: usize, from: &mut TcpStream, buffer: &mut [u8]) -> Option<usize> {
    loop {
        if is_over(shared, number) {
            return None;
        }
        match from.read(buffer) {
            Ok(0) => return None,
            Ok(count) => return (!is_over(shared, number)).then_some(count),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return None,
        }
    }
}

fn end(one: &TcpStream, other: &TcpStream) {
    let _ = one.shutdown(Shutdown::Both);
    let _ = other.shutdown(Shutdown::Both);
}

fn pump(shared: &Shared, number: usize, mut from: TcpStream, mut to: TcpStream, is_breaking: &AtomicBool) {
    let mut buffer = vec![0; 65_536];
    while let Some(count) = next(shared, number, &mut from, &mut buffer) {
        if is_breaking.load(Ordering::SeqCst) {
            // The server answered: it did it. Nobody hears of it.
            shared.broken.fetch_add(1, Ordering::SeqCst);
            break;
        }
        if let Mode::Delay(delay) = shared.mode() {
            std::thread::sleep(delay);
        }
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    end(&from, &to);
}

fn pump_from_client(shared: &Shared, number: usize, mut from: TcpStream, mut to: TcpStream, is_breaking: &AtomicBool) {
    let mut buffer = vec![0; 65_536];
    while let Some(count) = next(shared, number, &mut from, &mut buffer) {
        let holds = |word: &str| buffer[..count].windows(word.len()).any(|w| w == word.as_bytes());
        match shared.mode() {
            Mode::Delay(delay) => std::thread::sleep(delay),
            Mode::BreakAfter(word) if holds(word) => is_breaking.store(true, Ordering::SeqCst),
            Mode::BreakBefore(word) if holds(word) => {
                shared.broken.fetch_add(1, Ordering::SeqCst);
                break;
            }
            Mode::StallBefore(word) if holds(word) => {
                shared.broken.fetch_add(1, Ordering::SeqCst);
                while !shared.is_over.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(5));
                }
                break;
            }
            _ => {}
        }
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    end(&from, &to);
}

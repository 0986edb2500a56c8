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
}

struct Shared {
    mode: Mutex<Mode>,
    is_over: AtomicBool,
    broken: AtomicUsize,
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
        let shared = Arc::new(Shared { mode: Mutex::new(Mode::Pass), is_over, broken });
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
    std::thread::spawn(move || pump(&other_shared, from, to, &other_breaking, true));
    pump(shared, client, server, &is_breaking, false);
}

fn pump(shared: &Shared, mut from: TcpStream, mut to: TcpStream, is_breaking: &AtomicBool, is_from_server: bool) {
    let mut buffer = vec![0; 65_536];
    loop {
        if shared.is_over.load(Ordering::Relaxed) || shared.mode() == Mode::Refuse {
            break;
        }
        // What a pulled cable holds back is not read either; it comes through later, if it is plugged in again.
        if shared.mode() == Mode::Swallow {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        }
        let count = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
            Err(_) => break,
        };
        while shared.mode() == Mode::Swallow {
            std::thread::sleep(Duration::from_millis(5));
        }
        if is_from_server && is_breaking.load(Ordering::SeqCst) {
            // The server answered: it did it. Nobody hears of it.
            shared.broken.fetch_add(1, Ordering::SeqCst);
            break;
        }
        let holds = |word: &str| !is_from_server && buffer[..count].windows(word.len()).any(|w| w == word.as_bytes());
        match shared.mode() {
            Mode::Delay(delay) => std::thread::sleep(delay),
            Mode::BreakAfter(word) if holds(word) => is_breaking.store(true, Ordering::SeqCst),
            Mode::BreakBefore(word) if holds(word) => {
                shared.broken.fetch_add(1, Ordering::SeqCst);
                break;
            }
            _ => {}
        }
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

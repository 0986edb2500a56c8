//! Two hosts on one cable, each a network namespace that belongs to a thread of the test and ends with it; a broker that
//! talks without being asked; clients that note what they hear.

use std::{
    fs::File,
    io::{self, ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, AsRawFd as _},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use coroner::{agent::spec::GateSpec, model::Time, sys::clock};
use nix::sched::{CloneFlags, setns, unshare};

pub(crate) const MS: fn(u64) -> Duration = Duration::from_millis;
/// Of the lease's end, to the last byte.
pub(crate) const LATE_MAX: Duration = Duration::from_millis(20);
/// Nothing comes for this long: it is shut.
pub(crate) const QUIET: Duration = Duration::from_millis(80);
pub(crate) const CONNECT: Duration = Duration::from_secs(2);

/// The broker's host.
pub(crate) const BROKER_V4: &str = "10.99.0.1";
pub(crate) const BROKER_V6: &str = "fd00:99::1";
/// The other host has two addresses per family; the second ones are the arbiter's.
pub(crate) const CLIENT_V4: &str = "10.99.0.2";
pub(crate) const ARBITER_V4: &str = "10.99.0.3";
pub(crate) const ARBITER_V6: &str = "fd00:99::3";

pub(crate) struct Lab {
    clients: File,
}

fn enter(namespace: impl AsFd) {
    setns(namespace, CloneFlags::CLONE_NEWNET).expect("the lab needs root (CAP_SYS_ADMIN)");
}

fn own_namespace() -> File {
    File::open("/proc/thread-self/ns/net").unwrap()
}

fn new_namespace() -> File {
    unshare(CloneFlags::CLONE_NEWNET).expect("the lab needs root (CAP_SYS_ADMIN), and kernels with network namespaces");
    ip("link set lo up");
    own_namespace()
}

pub(crate) fn ip(words: &str) {
    let output =
        Command::new("ip").args(words.split(' ')).output().expect("the lab needs iproute2: apt install iproute2");
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Runs `nft` in the caller's namespace, as an operator or a firewall would.
pub(crate) fn nft(words: &str) -> String {
    let output = Command::new("nft").args(words.split(' ')).output().expect("the lab needs nft: apt install nftables");
    assert!(output.status.success(), "nft {words}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Lab {
    /// Runs a test on the broker's host.
    pub(crate) fn run(test: impl FnOnce(&Self) + Send) {
        thread::scope(|scope| {
            let host = scope.spawn(|| {
                let clients = new_namespace();
                let broker = new_namespace();
                enter(&clients);
                let outside = format!("/proc/{}/fd/{}", std::process::id(), broker.as_raw_fd());
                ip(&format!("link add eth0 type veth peer name eth0 netns {outside}"));
                for address in [CLIENT_V4, ARBITER_V4] {
                    ip(&format!("addr add {address}/24 dev eth0"));
                }
                ip("addr add fd00:99::2/64 dev eth0 nodad");
                // Deprecated: never the source of its own accord.
                ip(&format!("addr add {ARBITER_V6}/64 dev eth0 nodad preferred_lft 0"));
                ip("link set eth0 up");
                enter(&broker);
                ip(&format!("addr add {BROKER_V4}/24 dev eth0"));
                ip(&format!("addr add {BROKER_V6}/64 dev eth0 nodad"));
                ip("link set eth0 up");
                let lab = Self { clients };
                // Links and neighbours take a moment to come up.
                for address in [BROKER_V4, BROKER_V6] {
                    let nobody = (address.parse::<IpAddr>().unwrap(), 1).into();
                    until("the cable works", || {
                        lab.at_clients(|| connect(nobody, QUIET))
                            .is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused)
                    });
                }
                test(&lab);
            });
            if let Err(panic) = host.join() {
                std::panic::resume_unwind(panic);
            }
        });
    }

    /// Runs something on the clients' host.
    pub(crate) fn at_clients<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                enter(&self.clients);
                work()
            });
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A client that connects from the other host.
    pub(crate) fn client(&self, to: SocketAddr) -> Option<Client> {
        self.at_clients(|| connect(to, CONNECT)).ok().map(Client::new)
    }

    /// Whether a new client on the other host is served within a moment.
    pub(crate) fn is_served(&self, to: SocketAddr) -> bool {
        self.at_clients(|| is_served(to))
    }
}

fn connect(to: SocketAddr, within: Duration) -> io::Result<TcpStream> {
    TcpStream::connect_timeout(&to, within)
}

/// Whether a new client here is served within a moment.
pub(crate) fn is_served(to: SocketAddr) -> bool {
    let Ok(mut stream) = connect(to, QUIET) else { return false };
    stream.set_read_timeout(Some(QUIET)).unwrap();
    stream.read_exact(&mut [0]).is_ok()
}

/// A local client.
pub(crate) fn local_client(to: SocketAddr) -> Client {
    Client::new(connect(to, CONNECT).unwrap())
}

/// The broker: sends a byte every millisecond to everybody, and counts what it gets.
pub(crate) struct Broker {
    pub(crate) port: u16,
    received: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Broker {
    /// On all addresses of this namespace.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (received, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let own = Self { port: listener.local_addr().unwrap().port(), received, stop };
        let (received, stop) = (Arc::clone(&own.received), Arc::clone(&own.stop));
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                if let Ok((stream, _)) = listener.accept() {
                    let (received, stop) = (Arc::clone(&received), Arc::clone(&stop));
                    thread::spawn(move || talk(stream, &received, &stop));
                }
                thread::sleep(MS(1));
            }
        });
        own
    }

    pub(crate) fn v4(&self) -> SocketAddr {
        format!("{BROKER_V4}:{}", self.port).parse().unwrap()
    }

    pub(crate) fn v6(&self) -> SocketAddr {
        format!("[{BROKER_V6}]:{}", self.port).parse().unwrap()
    }

    pub(crate) fn local(&self) -> SocketAddr {
        format!("127.0.0.1:{}", self.port).parse().unwrap()
    }

    pub(crate) fn local_v6(&self) -> SocketAddr {
        format!("[::1]:{}", self.port).parse().unwrap()
    }

    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    pub(crate) fn spec(&self) -> GateSpec {
        GateSpec {
            table: "coroner_orders_a".into(),
            ports: vec![self.port],
            local: coroner::agent::spec::LocalClients::Open,
            peers: Vec::new(),
            admit: Vec::new(),
        }
    }
}

fn talk(mut stream: TcpStream, received: &AtomicU64, stop: &AtomicBool) {
    stream.set_nonblocking(true).unwrap();
    stream.set_nodelay(true).unwrap();
    while !stop.load(Ordering::Relaxed) {
        let _ = stream.write(b"!");
        match stream.read(&mut [0; 512]) {
            Ok(0) => return,
            Ok(count) => {
                received.fetch_add(count as u64, Ordering::Relaxed);
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
        thread::sleep(MS(1));
    }
}

/// A client with a connection that stands; it talks as well, and remembers when it last heard something.
pub(crate) struct Client {
    last: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Client {
    pub(crate) fn new(mut stream: TcpStream) -> Self {
        let own = Self { last: Arc::new(AtomicU64::new(0)), stop: Arc::new(AtomicBool::new(false)) };
        let (last, stop) = (Arc::clone(&own.last), Arc::clone(&own.stop));
        stream.set_read_timeout(Some(MS(2))).unwrap();
        stream.set_write_timeout(Some(MS(2))).unwrap();
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let _ = stream.write(b".");
                if matches!(stream.read(&mut [0; 512]), Ok(1..)) {
                    last.store(clock::now().0, Ordering::Relaxed);
                }
            }
        });
        let client = own;
        until("the client hears the broker", || client.last().0 > 0);
        client
    }

    /// When it last heard something.
    pub(crate) fn last(&self) -> Time {
        Time(self.last.load(Ordering::Relaxed))
    }

    /// Whether it hears something now.
    pub(crate) fn hears(&self) -> bool {
        let before = self.last();
        let watch = clock::Stopwatch::start();
        while watch.elapsed() < QUIET {
            if self.last() > before {
                return true;
            }
            thread::sleep(MS(1));
        }
        false
    }

    /// Waits until it hears nothing any more, and says when it last did.
    pub(crate) fn falls_silent(&self) -> Time {
        until("the client hears nothing any more", || clock::now().since(self.last()) > QUIET);
        self.last()
    }
}

/// Waits until it holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let watch = clock::Stopwatch::start();
    while !holds() {
        assert!(watch.elapsed() < Duration::from_secs(20), "still not: {what}");
        thread::sleep(MS(1));
    }
}

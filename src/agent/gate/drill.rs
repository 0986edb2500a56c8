//! The drill: does a gate on this host really stop traffic, seen from where clients are?
//!
//! It uses a scratch table of the same shape before a throwaway listener on a port of its own, and never touches the
//! broker's. Clients come over the loopback, if it is to be shut, and over a network cable: a veth pair into a network
//! namespace that a thread makes for itself, and that ends with it. What the drill could not prove is not proven: then the
//! gate is offered as proof of nothing.
//!
//! It proves that this kernel drops by such a table, for established and new connections, for both directions and both
//! families. It cannot prove that the broker's packets take the path of the drill's; [`bypasses`] looks for what is known
//! to go by.

use std::{
    fmt, fs,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    os::fd::AsRawFd as _,
    process::Command,
    sync::{
        Barrier, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use nix::sched::{CloneFlags, setns, unshare};

use super::{Gate, GateError};
use crate::{
    agent::spec::{GateSpec, LocalClients},
    sys::clock::Stopwatch,
};

mod bypass;
mod client;
mod listener;

pub use bypass::{Bypass, bypasses};
use client::{Client, Observed};

/// The gate of the drill stands open this long at first: long enough on a busy host, and bounded if we are killed.
const OPEN: Duration = Duration::from_secs(10);
/// The lease whose end is measured.
const LEASE: Duration = Duration::from_millis(60);
/// The kernel counts in ticks, of 10 ms at most; a busy host reads later. After this, nothing may pass.
const SLACK: Duration = Duration::from_millis(20);
/// For so long nothing passes.
const QUIET: Duration = Duration::from_millis(60);
/// A connection that should succeed.
const CONNECT: Duration = Duration::from_millis(500);

/// How a client comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ClientPath {
    /// From this host, IPv4.
    LoopbackV4,
    /// From this host, IPv6.
    LoopbackV6,
    /// From another, IPv4.
    NetworkV4,
    /// From another, IPv6.
    NetworkV6,
}

impl fmt::Display for ClientPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LoopbackV4 => "this host's clients over IPv4",
            Self::LoopbackV6 => "this host's clients over IPv6",
            Self::NetworkV4 => "other hosts' clients over IPv4",
            Self::NetworkV6 => "other hosts' clients over IPv6",
        })
    }
}

/// What the drill found about one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathProof {
    /// An established connection was cut and a new one failed; both worked before, and a new one after.
    Proven {
        /// From the end of the element's time to the last byte that passed; zero: none came later.
        late: Duration,
    },
    /// Something did not go as it has to.
    Failed(String),
    /// The path could not be tried, and why.
    NotTried(String),
    /// This host has no such path, or it is meant to stay open.
    NotNeeded,
}

/// What the drill found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrillReport {
    /// Every path.
    pub paths: Vec<(ClientPath, PathProof)>,
    /// How long it all took.
    pub took: Duration,
}

impl DrillReport {
    /// Whether every path that is needed was proven; otherwise the gate is [`crate::model::GateState::Unproven`].
    #[must_use]
    pub fn is_proven(&self) -> bool {
        let mut proven = false;
        for (_, proof) in &self.paths {
            match proof {
                PathProof::Proven { .. } => proven = true,
                PathProof::NotNeeded => {}
                PathProof::Failed(_) | PathProof::NotTried(_) => return false,
            }
        }
        proven
    }

    /// The longest that anything passed beyond an element's time.
    #[must_use]
    pub fn late(&self) -> Option<Duration> {
        let each = self.paths.iter().filter_map(|(_, proof)| match proof {
            PathProof::Proven { late } => Some(*late),
            _ => None,
        });
        each.max()
    }
}

impl fmt::Display for DrillReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (path, proof)) in self.paths.iter().enumerate() {
            let comma = if index == 0 { "" } else { "; " };
            match proof {
                PathProof::Proven { late } => {
                    write!(f, "{comma}{path}: proven, shut {:.1} ms after the end", late.as_secs_f64() * 1e3)?;
                }
                PathProof::Failed(why) => write!(f, "{comma}{path}: NOT proven, {why}")?,
                PathProof::NotTried(why) => write!(f, "{comma}{path}: not tried, {why}")?,
                PathProof::NotNeeded => write!(f, "{comma}{path}: not needed")?,
            }
        }
        Ok(())
    }
}

/// What all parts of a drill share.
struct Stage {
    /// All clients stand at the same step: connected; told of the lease's end; done with the quiet; reopened.
    steps: Barrier,
    port: u16,
    received: AtomicU64,
    stop: AtomicBool,
}

/// Runs the drill, in about a third of a second. It needs CAP_NET_ADMIN; for the network paths also CAP_SYS_ADMIN, to make a
/// network namespace, and iproute2.
///
/// # Errors
/// The scratch gate could not be installed, or its listener not be opened: then nothing is known.
pub fn drill(spec: &GateSpec) -> Result<DrillReport, GateError> {
    // Two at once would take each other's scratch table away, and each would see a gate that leaks.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let watch = Stopwatch::start();
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0))
        .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)))
        .map_err(|e| unusable("no listener for the drill", &e))?;
    let port = listener.local_addr().map_err(|e| unusable("no listener for the drill", &e))?.port();
    // A fixed name: the table of a drill that was killed is replaced by the next one.
    let scratch = GateSpec {
        table: format!("{}_drill", spec.table.chars().take(200).collect::<String>()),
        ports: vec![port],
        local: spec.local,
        peers: Vec::new(),
        admit: Vec::new(),
    };
    let mut gate = Gate::install(&scratch)?;
    let paths = drill_at(&mut gate, scratch.local, &listener, port);
    gate.remove()?;
    Ok(DrillReport { paths: paths?, took: watch.elapsed() })
}

fn unusable(what: &str, e: &dyn fmt::Display) -> GateError {
    GateError::Spec { why: format!("{what}: {e}") }
}

fn drill_at(
    gate: &mut Gate,
    local: LocalClients,
    listener: &TcpListener,
    port: u16,
) -> Result<Vec<(ClientPath, PathProof)>, GateError> {
    let closes_loopback = local == LocalClients::Closed;
    let has_v6 = listener.local_addr().is_ok_and(|own| own.is_ipv6());
    let stage = Stage {
        steps: Barrier::new(2 + usize::from(closes_loopback)),
        port,
        received: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    };
    let cable = Cable::new();
    thread::scope(|scope| {
        scope.spawn(|| listener::serve(listener, &stage, scope));
        let network = scope.spawn(|| cable.clients(&stage, has_v6));
        let loopback = closes_loopback.then(|| {
            scope.spawn(|| {
                let v4 = (ClientPath::LoopbackV4, (Ipv4Addr::LOCALHOST, port).into());
                let v6 = (ClientPath::LoopbackV6, (Ipv6Addr::LOCALHOST, port).into());
                // A host without ::1 has no IPv6 clients of its own.
                let has_v6 = has_v6 && interfaces_v6().iter().any(|name| name == "lo");
                let mut found = run(&stage, &if has_v6 { vec![v4, v6] } else { vec![v4] });
                if !has_v6 {
                    found.push((ClientPath::LoopbackV6, PathProof::NotNeeded));
                }
                found
            })
        });
        let acted = act(gate, &stage);
        let mut found = match loopback {
            None => [ClientPath::LoopbackV4, ClientPath::LoopbackV6].map(|p| (p, PathProof::NotNeeded)).to_vec(),
            Some(thread) => thread.join().unwrap_or_else(|_| {
                vec![(ClientPath::LoopbackV4, PathProof::NotTried("the drill's client panicked".into()))]
            }),
        };
        found.extend(network.join().unwrap_or_else(|_| {
            vec![(ClientPath::NetworkV4, PathProof::NotTried("the drill's client panicked".into()))]
        }));
        stage.stop.store(true, Ordering::Relaxed);
        acted.map(|()| found)
    })
}

/// The gate's part. Every barrier is passed whatever fails, or the clients would wait for ever.
fn act(gate: &mut Gate, stage: &Stage) -> Result<(), GateError> {
    let opened = gate.open_for(OPEN);
    stage.steps.wait();
    // Connected.
    stage.steps.wait();
    let watch = Stopwatch::start();
    let leased = gate.open_for(LEASE);
    thread::sleep((LEASE + SLACK).saturating_sub(watch.elapsed()));
    let before = stage.received.load(Ordering::Relaxed);
    stage.steps.wait();
    // Quiet.
    stage.steps.wait();
    let leaked = stage.received.load(Ordering::Relaxed) - before;
    let reopened = gate.open_for(OPEN);
    stage.steps.wait();
    // Reopened and tried.
    stage.steps.wait();
    opened.and(leased).and(reopened)?;
    if leaked > 0 {
        return Err(unusable(
            "the drill's gate leaks",
            &format!("{leaked} bytes reached the listener while it was shut"),
        ));
    }
    Ok(())
}

/// One side's clients, all paths of it, through all steps.
fn run(stage: &Stage, paths: &[(ClientPath, SocketAddr)]) -> Vec<(ClientPath, PathProof)> {
    stage.steps.wait();
    let mut clients: Vec<_> = paths.iter().map(|(_, address)| Client::connect(*address, CONNECT)).collect();
    stage.steps.wait();
    let watch = Stopwatch::start();
    let seen: Vec<Observed> = client::observe(&mut clients, &watch, LEASE + SLACK);
    stage.steps.wait();
    let quiet = client::observe(&mut clients, &watch, LEASE + SLACK + QUIET);
    let passed: Vec<bool> =
        paths.iter().map(|(_, address)| Client::connect(*address, QUIET).is_ok_and(|mut c| c.hears(QUIET))).collect();
    stage.steps.wait();
    stage.steps.wait();
    let again: Vec<_> = paths
        .iter()
        .map(|(_, address)| Client::connect(*address, CONNECT).is_ok_and(|mut client| client.hears(CONNECT)))
        .collect();
    stage.steps.wait();
    let each = paths.iter().enumerate().map(|(index, (path, _))| {
        let proof = match &clients[index] {
            Err(e) => PathProof::Failed(format!(
                "while the gate was open, no connection came about ({e}): is another firewall in the way?"
            )),
            Ok(_) if seen[index].count == 0 => {
                PathProof::Failed("while the gate was open, nothing came through".into())
            }
            Ok(_) if quiet[index].count > 0 => PathProof::Failed("an established connection was not cut".into()),
            Ok(_) if passed[index] => PathProof::Failed("a new connection was let in".into()),
            Ok(_) if !again[index] => {
                PathProof::Failed("it did not open again: something else than the gate shut it".into())
            }
            Ok(_) => PathProof::Proven { late: seen[index].last.saturating_sub(LEASE) },
        };
        (*path, proof)
    });
    each.collect()
}

/// A veth pair: one end here, one in a network namespace that a thread made for itself.
struct Cable {
    near: String,
    v4: [Ipv4Addr; 2],
    v6: [Ipv6Addr; 2],
}

impl Drop for Cable {
    fn drop(&mut self) {
        // It goes with the namespace, but that takes the kernel a while.
        let _ = ip(&format!("link delete {}", self.near));
    }
}

impl Cable {
    fn new() -> Self {
        let pid = std::process::id();
        let [_, _, high, low] = pid.to_be_bytes();
        // The range for benchmarks of networks, and a private one: nobody routes them.
        let v4 = |last: u8| Ipv4Addr::new(198, 18 | (high >> 7), low, (high << 2) | last);
        let v6 = |last: u16| Ipv6Addr::new(0xfd43, 0x6f72, 0x6f6e, 0x6572, 0, 0, (pid & 0xffff) as u16, last);
        Self { near: format!("crdrill{pid}"), v4: [v4(1), v4(2)], v6: [v6(1), v6(2)] }
    }

    /// Runs in a thread that is given away to a namespace of its own.
    fn clients(&self, stage: &Stage, has_v6: bool) -> Vec<(ClientPath, PathProof)> {
        // What counts is whether this host speaks IPv6 with others at all.
        let needs_v6 = has_v6 && interfaces_v6().iter().any(|name| name != "lo" && *name != self.near);
        let (mut paths, mut found) = (Vec::new(), Vec::new());
        match self.plug() {
            Err(why) => found.push((ClientPath::NetworkV4, PathProof::NotTried(why))),
            Ok(v6) => {
                paths.push((ClientPath::NetworkV4, (self.v4[0], stage.port).into()));
                if v6.is_ok() && has_v6 {
                    paths.push((ClientPath::NetworkV6, (self.v6[0], stage.port).into()));
                } else if needs_v6 {
                    found.push((ClientPath::NetworkV6, PathProof::NotTried(v6.err().unwrap_or_default())));
                }
            }
        }
        found.extend(run(stage, &paths));
        if !found.iter().any(|(path, _)| *path == ClientPath::NetworkV6) {
            let proof =
                if needs_v6 { PathProof::NotTried("without the namespace".into()) } else { PathProof::NotNeeded };
            found.push((ClientPath::NetworkV6, proof));
        }
        found
    }

    /// Lays the cable; within, whether IPv6 could be had.
    fn plug(&self) -> Result<Result<(), String>, String> {
        let here = fs::File::open("/proc/thread-self/ns/net").map_err(|e| format!("/proc/thread-self/ns/net: {e}"))?;
        unshare(CloneFlags::CLONE_NEWNET)
            .map_err(|e| format!("no network namespace for a client: {e}; the drill needs CAP_SYS_ADMIN"))?;
        let there = fs::File::open("/proc/thread-self/ns/net").map_err(|e| format!("/proc/thread-self/ns/net: {e}"))?;
        let Self { near, v4, v6 } = self;
        // Made from within, so that the near end is handed to the namespace that the file stands for.
        let outside = format!("/proc/{}/fd/{}", std::process::id(), here.as_raw_fd());
        ip(&format!("link add eth0 type veth peer name {near} netns {outside}"))?;
        ip(&format!("addr add {}/30 dev eth0", v4[1]))?;
        ip("link set eth0 up")?;
        let far_v6 = ip(&format!("addr add {}/126 dev eth0 nodad", v6[1]));
        let enter = |which: &fs::File| {
            setns(which, CloneFlags::CLONE_NEWNET).map_err(|e| format!("between two network namespaces: {e}"))
        };
        enter(&here)?;
        let near_is_up =
            ip(&format!("addr add {}/30 dev {near}", v4[0])).and_then(|()| ip(&format!("link set {near} up")));
        let near_v6 = ip(&format!("addr add {}/126 dev {near} nodad", v6[0]));
        enter(&there)?;
        near_is_up.map(|()| far_v6.and(near_v6))
    }
}

/// Runs `ip` in the calling thread's network namespace.
fn ip(words: &str) -> Result<(), String> {
    let output = Command::new("ip")
        .args(words.split(' '))
        .output()
        .map_err(|e| format!("`ip` could not be run: {e}; install iproute2"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("`ip {words}`: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// The interfaces of this thread's namespace that have an IPv6 address.
fn interfaces_v6() -> Vec<String> {
    let text = fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap_or_default();
    text.lines().filter_map(|line| line.split_whitespace().last()).map(str::to_owned).collect()
}

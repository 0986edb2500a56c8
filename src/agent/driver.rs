//! The thread that owns a [`Party`]: its socket, its timer, its file, its gates. The agent and the arbiter each run one.
//!
//! A thread of its own and no runtime: a lease is renewed every few tens of milliseconds, and nothing else of the process
//! may stand before it. One turn: wait for the socket, the timer, the host or a command; take in what has come; **then**
//! read the clocks, once; hand all of it to the party; carry out what it asks for.
//!
//! The clocks are read after the datagrams were taken from the kernel, never before: a voter's promise counts from the
//! receipt of a request, and a moment read earlier could lie before the request was even sent. To the party's other
//! counts a later moment is the safe side as well, and what it sends in a turn leaves after the moment it was stamped with.
//!
//! What is not guaranteed: a thread that is stopped just between reading the clock and programming the gate opens it for
//! the time that was left then. It looks again right after, and shortens; the allowance for local enforcement (`T_enf`)
//! covers what that takes at real-time priority.

use std::{
    collections::BTreeMap,
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        mpsc::{self, Receiver, Sender, TryRecvError},
    },
    thread::JoinHandle,
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt};
use ring::rand::{SecureRandom, SystemRandom};
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, eventfd, poll},
    io::Errno,
    time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime},
};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::{
    durable::{Disk, Written, write_all},
    realtime,
};
use crate::{
    mesh::{
        message::Life,
        party::{Durable, Health, Input, MayStart, Output, Party},
    },
    model::{ClusterName, Time, agent::LeaseState, time::Moment},
    sys::clock,
};

/// Datagrams taken in one turn, so that a flood cannot keep the thread from its timer.
const DATAGRAMS_A_TURN: usize = 128;
/// Commands taken in one turn.
const COMMANDS_A_TURN: usize = 256;
/// Larger than any envelope; what is longer is cut, and fails its signature.
const DATAGRAM_MAX: usize = 65_536;
/// Room in the kernel for datagrams that wait while the thread does.
const RECEIVE_BUFFER: usize = 1 << 20;
/// Programming the gate may take this long before it is done again with what is left then.
const GATE_SLACK: Duration = Duration::from_millis(1);
/// How often that is tried in one turn.
const GATE_TRIES: usize = 4;
/// Stacks are small: they are locked in memory.
const STACK: usize = 512 * 1024;

/// What the thread needs of a party: [`Party`], or a test's own.
pub trait Machine: Send + 'static {
    /// See [`Party::handle`].
    fn handle(&mut self, now: Moment, input: Input);
    /// See [`Party::handle_timeout`].
    fn handle_timeout(&mut self, now: Moment);
    /// See [`Party::poll_timeout`].
    fn poll_timeout(&self) -> Option<Time>;
    /// See [`Party::poll_output`].
    fn poll_output(&mut self) -> Option<Output>;
    /// See [`Party::lease`].
    fn lease(&self, now: Moment, cluster: &ClusterName) -> LeaseState;
    /// See [`Party::may_start`].
    fn may_start(&self, now: Moment, cluster: &ClusterName) -> MayStart;
    /// See [`Party::health`].
    fn health(&self, now: Moment) -> Health;
}

impl Machine for Party {
    fn handle(&mut self, now: Moment, input: Input) {
        Self::handle(self, now, input);
    }
    fn handle_timeout(&mut self, now: Moment) {
        Self::handle_timeout(self, now);
    }
    fn poll_timeout(&self) -> Option<Time> {
        Self::poll_timeout(self)
    }
    fn poll_output(&mut self) -> Option<Output> {
        Self::poll_output(self)
    }
    fn lease(&self, now: Moment, cluster: &ClusterName) -> LeaseState {
        Self::lease(self, now, cluster)
    }
    fn may_start(&self, now: Moment, cluster: &ClusterName) -> MayStart {
        Self::may_start(self, now, cluster)
    }
    fn health(&self, now: Moment) -> Health {
        Self::health(self, now)
    }
}

/// What the thread needs of its host: gates to program, and what the kernel tells of the broker. An arbiter has none of
/// it: [`NoHost`].
pub trait Host: Send + 'static {
    /// Descriptors that become readable when there is something to take in.
    fn descriptors(&self) -> Vec<BorrowedFd<'_>>;

    /// When [`Self::turn`] is wanted at the latest.
    fn poll_timeout(&self) -> Option<Time>;

    /// Called in every turn. `is_ready`: one of the descriptors is readable. Must not block.
    fn turn(&mut self, now: Moment, is_ready: bool) -> Vec<Input>;

    /// Opens the cluster's gate for that long and no longer, counted from when the kernel takes it.
    ///
    /// # Errors
    /// Why the gate is not open.
    fn open_for(&mut self, cluster: &ClusterName, left: Duration) -> Result<(), String>;

    /// Closes the cluster's gate.
    ///
    /// # Errors
    /// Why it may be open yet; then it closes when what stands in it runs out.
    fn close(&mut self, cluster: &ClusterName) -> Result<(), String>;
}

/// Nothing to guard.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHost;

impl Host for NoHost {
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }
    fn poll_timeout(&self) -> Option<Time> {
        None
    }
    fn turn(&mut self, _: Moment, _: bool) -> Vec<Input> {
        Vec::new()
    }
    fn open_for(&mut self, _: &ClusterName, _: Duration) -> Result<(), String> {
        Ok(())
    }
    fn close(&mut self, _: &ClusterName) -> Result<(), String> {
        Ok(())
    }
}

/// What the thread tells its owner. Called on the thread itself: hand it on, and return at once.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// What the party tells: `LeaseOver`, `Ordered`, `Heard`, `Answer`, `Sealing`.
    Told(Output),
    /// A gate could not be programmed; `None`: it can again. Told when it changes.
    Gate {
        /// Whose.
        cluster: ClusterName,
        /// Why.
        error: Option<String>,
    },
    /// What must be durable could not be written, and what waits for it waits on; `None`: it was written. Told when it
    /// changes.
    Disk {
        /// Why.
        error: Option<String>,
    },
    /// Something that the thread does without, in words. Told once.
    Trouble(String),
    /// The thread is no more. Without [`PartyThread::stop`] this is a fault: end the process, and start anew.
    Ended,
}

/// Takes what the thread tells.
pub type Sink = Box<dyn FnMut(Event) + Send>;

/// The thread could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ThreadError {
    /// The address cannot be bound.
    #[error(
        "UDP {address} cannot be bound: {source}; the party's `address` must be one of this host's own, and its port free"
    )]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The operating system gave no thread, timer or descriptor.
    #[error("the thread of leases cannot be started: {0}")]
    System(#[source] io::Error),
    /// There is no randomness.
    #[error("the operating system gives no random numbers")]
    Random,
}

/// What the thread counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Turns of the loop.
    pub turns: u64,
    /// Datagrams taken in.
    pub received: u64,
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams that the kernel did not take, by its reason.
    pub send_errors: BTreeMap<String, u64>,
    /// The furthest that a turn came behind its timer, in microseconds.
    pub latest_turn_us: u64,
    /// The longest that programming a gate took, in microseconds.
    pub slowest_gate_us: u64,
    /// States written.
    pub written: u64,
}

/// What may be looked at from outside.
pub struct Look<'a> {
    /// The clocks, now.
    pub now: Moment,
    /// The party.
    pub party: &'a dyn Machine,
    /// What the thread counts.
    pub counts: &'a Counts,
}

type Looker = Box<dyn FnOnce(&Look<'_>) + Send>;

enum Command {
    Input(Box<Input>),
    Look(Looker),
    Written(Written),
    Wake,
    Stop,
}

/// The way to the thread, from any other. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PartyHandle {
    commands: Sender<Command>,
    wake: Arc<OwnedFd>,
}

impl PartyHandle {
    /// Tells the party. After the thread's end it goes nowhere.
    pub fn send(&self, input: Input) {
        self.command(Command::Input(Box::new(input)));
    }

    /// Has the host's [`Host::turn`] called.
    pub fn wake(&self) {
        self.command(Command::Wake);
    }

    /// Looks at the party on its own thread; `None`: the thread has ended.
    pub async fn look<R: Send + 'static>(&self, look: impl FnOnce(&Look<'_>) -> R + Send + 'static) -> Option<R> {
        let (answer, answered) = oneshot::channel();
        // Nobody waits for the answer any more: fine.
        self.command(Command::Look(Box::new(move |seen| drop(answer.send(look(seen))))));
        answered.await.ok()
    }

    fn command(&self, command: Command) {
        if self.commands.send(command).is_ok() {
            // The counter is at its end only if the thread has not looked for ages; then it is readable anyway.
            let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
        }
    }
}

/// The thread.
#[derive(Debug)]
pub struct PartyThread {
    handle: PartyHandle,
    address: SocketAddr,
    thread: JoinHandle<()>,
}

/// How the thread runs.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Where it listens, and what it sends from.
    pub address: SocketAddr,
    /// Real-time priority and locked memory, where permitted.
    pub is_real_time: bool,
}

impl PartyThread {
    /// Starts it.
    ///
    /// # Errors
    /// The address cannot be bound, or the system has no more of what is needed.
    pub fn start(
        options: Options,
        party: impl Machine,
        host: impl Host,
        disk: impl Disk,
        sink: Sink,
    ) -> Result<Self, ThreadError> {
        let bind = |source| ThreadError::Bind { address: options.address, source };
        let socket = UdpSocket::bind(options.address).map_err(bind)?;
        socket.set_nonblocking(true).map_err(bind)?;
        let address = socket.local_addr().map_err(bind)?;
        // Best effort: with less room, more is lost in a burst, and sent again.
        let _ = setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER);

        let system = |errno: Errno| ThreadError::System(errno.into());
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(system)?);
        let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK);
        let timer = timer.map_err(system)?;
        let (commands, inbox) = mpsc::channel();
        let handle = PartyHandle { commands, wake: Arc::clone(&wake) };

        let (to_disk, states) = mpsc::channel();
        let written = handle.clone();
        let spawn = |name: &str| std::thread::Builder::new().name(name.into()).stack_size(STACK);
        spawn("coroner-disk")
            .spawn(move || write_all(disk, &states, |what| written.command(Command::Written(what))))
            .map_err(ThreadError::System)?;
        let worker = Worker {
            party,
            host,
            socket,
            timer,
            armed: None,
            wake,
            inbox,
            to_disk,
            sink: Ending(sink),
            counts: Counts::default(),
            gates_failed: BTreeMap::new(),
            has_disk_failed: false,
            buffer: vec![0; DATAGRAM_MAX],
        };
        let is_real_time = options.is_real_time;
        let thread = spawn("coroner-party").spawn(move || worker.run(is_real_time)).map_err(ThreadError::System)?;
        Ok(Self { handle, address, thread })
    }

    /// The way to it.
    #[must_use]
    pub fn handle(&self) -> PartyHandle {
        self.handle.clone()
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it, once what it was told before was handled. Gates stay as they are: what stands open in them runs out by
    /// itself.
    pub fn stop(self) {
        self.handle.command(Command::Stop);
        // A thread that panicked has ended as well; the sink has heard of it.
        let _ = self.thread.join();
    }
}

/// A life for [`crate::mesh::party::Setup::life`]: random, never zero.
///
/// # Errors
/// The operating system gives no random numbers.
pub fn draw_life() -> Result<Life, ThreadError> {
    let random = SystemRandom::new();
    let mut bytes = [0; 8];
    // Zero comes up once in 2^64; a source that gives nothing else is none.
    for _ in 0..3 {
        random.fill(&mut bytes).map_err(|_| ThreadError::Random)?;
        match u64::from_ne_bytes(bytes) {
            0 => {}
            life => return Ok(Life(life)),
        }
    }
    Err(ThreadError::Random)
}

/// Says so when the thread ends, in whatever way.
struct Ending(Sink);

impl Drop for Ending {
    fn drop(&mut self) {
        (self.0)(Event::Ended);
    }
}

struct Worker<M, H> {
    party: M,
    host: H,
    socket: UdpSocket,
    /// On CLOCK_BOOTTIME: fires at once after a suspend in which its time came. `poll` counts without suspend.
    timer: OwnedFd,
    armed: Option<Time>,
    wake: Arc<OwnedFd>,
    inbox: Receiver<Command>,
    to_disk: Sender<(u64, Durable)>,
    sink: Ending,
    counts: Counts,
    gates_failed: BTreeMap<ClusterName, String>,
    has_disk_failed: bool,
    buffer: Vec<u8>,
}

/// Whether the loop goes on.
enum Next {
    Wait,
    /// More lies there than one turn takes.
    Again,
    Stop,
}

impl<M: Machine, H: Host> Worker<M, H> {
    fn run(mut self, is_real_time: bool) {
        if is_real_time {
            for trouble in realtime::claim() {
                self.tell(Event::Trouble(trouble));
            }
        }
        let mut is_ready = true;
        loop {
            let is_hurried = match self.turn(is_ready) {
                Next::Stop => return,
                Next::Again => true,
                Next::Wait => false,
            };
            is_ready = self.wait(is_hurried);
        }
    }

    /// Waits for something to happen; says whether the host has something to take in.
    fn wait(&mut self, is_hurried: bool) -> bool {
        let wanted = [self.party.poll_timeout(), self.host.poll_timeout()].into_iter().flatten().min();
        self.arm(wanted);
        let host = self.host.descriptors();
        let mut polled = Vec::with_capacity(3 + host.len());
        polled.push(PollFd::new(&self.socket, PollFlags::IN));
        polled.push(PollFd::new(&*self.wake, PollFlags::IN));
        polled.push(PollFd::new(&self.timer, PollFlags::IN));
        polled.extend(host.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)));
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        // An interrupted wait is a turn with nothing in it. Any other error is a bug here; turning on is the safe answer,
        // and the pause below keeps it from eating the processor.
        match poll(&mut polled, is_hurried.then_some(&at_once)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
        let is_set = |fd: &PollFd<'_>| !fd.revents().is_empty();
        let (is_woken, has_rung) = (is_set(&polled[1]), is_set(&polled[2]));
        let is_ready = polled[3..].iter().any(is_set);
        let mut count = [0; 8];
        if is_woken {
            let _ = rustix::io::read(&*self.wake, &mut count);
        }
        if has_rung {
            let _ = rustix::io::read(self.timer.as_fd(), &mut count);
            self.armed = None;
        }
        is_ready
    }

    fn arm(&mut self, wanted: Option<Time>) {
        if self.armed == wanted {
            return;
        }
        // A value of zero would disarm: the first nanosecond after boot is as past as any.
        let at = wanted.map_or(0, |at| at.0.max(1));
        let it_value = Timespec {
            tv_sec: i64::try_from(at / 1_000_000_000).unwrap_or(i64::MAX),
            // Below a billion.
            tv_nsec: i64::try_from(at % 1_000_000_000).unwrap_or_default(),
        };
        let value = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
        if timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &value).is_ok() {
            self.armed = wanted;
        }
    }

    fn turn(&mut self, is_ready: bool) -> Next {
        self.counts.turns += 1;
        let (mut inputs, mut next) = (Vec::new(), Next::Wait);
        if self.receive(&mut inputs) == DATAGRAMS_A_TURN {
            next = Next::Again;
        }
        let mut lookers = Vec::new();
        let mut is_stopped = false;
        for taken in 0.. {
            if taken == COMMANDS_A_TURN {
                next = Next::Again;
                break;
            }
            match self.inbox.try_recv() {
                Ok(Command::Input(input)) => inputs.push(*input),
                Ok(Command::Look(looker)) => lookers.push(looker),
                Ok(Command::Written(written)) => inputs.extend(self.written(written)),
                Ok(Command::Wake) => {}
                Ok(Command::Stop) => {
                    is_stopped = true;
                    break;
                }
                // All handles are gone; the thread's own is not among them, so nobody can stop it any more.
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }

        let now = clock::moment();
        for input in inputs {
            self.party.handle(now, input);
        }
        for input in self.host.turn(now, is_ready) {
            self.party.handle(now, input);
        }
        if let Some(wanted) = self.party.poll_timeout().filter(|at| *at <= now.boot) {
            let late = u64::try_from(now.boot.since(wanted).as_micros()).unwrap_or(u64::MAX);
            self.counts.latest_turn_us = self.counts.latest_turn_us.max(late);
            self.party.handle_timeout(now);
        }
        while let Some(output) = self.party.poll_output() {
            self.carry_out(output);
        }
        for look in lookers {
            look(&Look { now, party: &self.party, counts: &self.counts });
        }
        if is_stopped { Next::Stop } else { next }
    }

    /// Takes datagrams from the kernel; says how many.
    fn receive(&mut self, inputs: &mut Vec<Input>) -> usize {
        for taken in 0..DATAGRAMS_A_TURN {
            match self.socket.recv_from(&mut self.buffer) {
                Ok((length, source)) => {
                    self.counts.received += 1;
                    inputs.push(Input::Datagram { bytes: self.buffer[..length].to_vec(), source });
                }
                // Nothing more, or the echo of something sent in vain; the next turn looks again.
                Err(_) => return taken,
            }
        }
        DATAGRAMS_A_TURN
    }

    fn written(&mut self, written: Written) -> Option<Input> {
        match written {
            Written::Durable(id) => {
                self.counts.written += 1;
                if std::mem::take(&mut self.has_disk_failed) {
                    self.tell(Event::Disk { error: None });
                }
                Some(Input::Persisted(id))
            }
            Written::Failed(error) => {
                self.has_disk_failed = true;
                self.tell(Event::Disk { error: Some(error) });
                None
            }
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Send { to, bytes } => match self.socket.send_to(&bytes, to) {
                Ok(_) => self.counts.sent += 1,
                Err(error) => *self.counts.send_errors.entry(error.kind().to_string()).or_default() += 1,
            },
            Output::Persist { id, durable } => {
                // The writer lives as long as this thread, unless it panicked; then nothing behind it ever leaves.
                if self.to_disk.send((id, durable)).is_err() {
                    self.tell(Event::Disk { error: Some("the thread that writes has ended".into()) });
                }
            }
            Output::Gate { cluster, until } => self.program(cluster, until),
            told @ (Output::LeaseOver { .. }
            | Output::Ordered(_)
            | Output::Heard { .. }
            | Output::Answer { .. }
            | Output::Sealing(_)) => self.tell(Event::Told(told)),
        }
    }

    fn program(&mut self, cluster: ClusterName, until: Option<Time>) {
        let started = clock::now();
        let result = match until {
            Some(until) => self.open_until(&cluster, until),
            None => self.host.close(&cluster),
        };
        let took = u64::try_from(clock::now().since(started).as_micros()).unwrap_or(u64::MAX);
        self.counts.slowest_gate_us = self.counts.slowest_gate_us.max(took);
        let before = self.gates_failed.get(&cluster);
        match result {
            Ok(()) if before.is_some() => {
                self.gates_failed.remove(&cluster);
                self.tell(Event::Gate { cluster, error: None });
            }
            Err(error) if before != Some(&error) => {
                self.gates_failed.insert(cluster.clone(), error.clone());
                self.tell(Event::Gate { cluster, error: Some(error) });
            }
            _ => {}
        }
    }

    /// The kernel counts what is left from when it takes it: what was lost on the way there is made good by programming
    /// again. Too short is safe, too long is not.
    fn open_until(&mut self, cluster: &ClusterName, until: Time) -> Result<(), String> {
        let mut margin = Duration::ZERO;
        for _ in 0..GATE_TRIES {
            let before = clock::now();
            let left = until.since(before).saturating_sub(margin);
            if left.is_zero() {
                return self.host.close(cluster);
            }
            self.host.open_for(cluster, left)?;
            let took = clock::now().since(before);
            if took <= margin + GATE_SLACK {
                return Ok(());
            }
            margin = took;
        }
        // Each try was slower than the one before: it may stay open for longer than it should. Shut is safe.
        self.host.close(cluster)
    }

    fn tell(&mut self, event: Event) {
        (self.sink.0)(event);
    }
}

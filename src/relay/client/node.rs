//! Somebody who receives: remembers the last sequence, asks for what it missed, drops duplicates, refuses smaller epochs.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::{Buf as _, Bytes};
use serde::{Deserialize, Serialize};
use tokio::{
    io::AsyncWriteExt as _,
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{Backoff, Greeted, Hello, Kind, Link, SILENT_AT_MOST, Target, Why, wire};
use crate::relay::entry::{Entry, EntryKind};

/// Batches that wait for the application; then the relay has to wait.
const WAITING_BATCHES: usize = 4;

/// How a node is to be.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Its name.
    pub name: String,
    /// The primary.
    pub address: String,
    /// The largest epoch that it has seen; 0: none.
    pub epoch: u64,
    /// The last sequence that it has; none: whatever comes from now on.
    pub after: Option<u64>,
}

impl NodeOptions {
    /// A node that wants everything that the log has.
    #[must_use]
    pub fn from_the_beginning(name: &str, address: &str) -> Self {
        Self { name: name.to_owned(), address: address.to_owned(), epoch: 0, after: Some(0) }
    }
}

/// A message, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The epoch of the primary that took it.
    pub epoch: u64,
    /// Its place in the log. Whoever wants to go on here after a restart stores it together with what the message did.
    pub sequence: u64,
    /// Who sent it.
    pub sender: String,
    /// The sender's number.
    pub number: u64,
    /// When it was taken, wall time in milliseconds of the primary.
    pub time_ms: u64,
    /// What it says.
    pub payload: Bytes,
}

/// What reaches a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Messages, in order.
    Messages(Vec<Message>),
    /// A canary, to be confirmed to the arbiter.
    Canary {
        /// Its id.
        id: String,
        /// The epoch.
        epoch: u64,
    },
    /// A new epoch began.
    Epoch {
        /// It.
        epoch: u64,
    },
    /// The log begins behind what this node has: something is missed for good unless another source has it. Nothing more
    /// comes until [`NodeClient::skip_to`].
    TooFarBehind {
        /// The first sequence that can still be had.
        oldest: u64,
    },
}

/// How a node stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeState {
    /// The last sequence that came.
    pub last: Option<u64>,
    /// The largest epoch that it has seen.
    pub epoch: u64,
    /// The epoch of the entry that came last.
    pub entry_epoch: u64,
    /// Messages that came.
    pub received: u64,
    /// Entries that came again and were dropped.
    pub duplicates: u64,
    /// Whether a primary sends to it at this moment.
    pub connected: bool,
    /// To whom it turns.
    pub address: String,
    /// How often it connected.
    pub connections: u64,
    /// The end of the log, as far as it was told.
    pub end: u64,
    /// Why it was sent away the last time.
    pub refused: Option<Why>,
    /// The newest trouble, in words.
    pub trouble: Option<String>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<NodeState>,
    target: watch::Sender<Target>,
    skipped: watch::Sender<u64>,
}

impl Shared {
    /// A panic while it was held leaves whole numbers behind; they are used on.
    fn lock(&self) -> MutexGuard<'_, NodeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A node. It works in a task of its own, which ends when this is dropped.
#[derive(Debug)]
pub struct NodeClient {
    shared: Arc<Shared>,
    arrivals: mpsc::Receiver<Arrival>,
    task: JoinHandle<()>,
}

impl Drop for NodeClient {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl NodeClient {
    /// Starts it, within a tokio runtime. It connects by itself, again and again.
    #[must_use]
    pub fn start(options: NodeOptions) -> Self {
        let state = NodeState { last: options.after, epoch: options.epoch, ..NodeState::default() };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            target: watch::Sender::new(Target { address: options.address, epoch: options.epoch }),
            skipped: watch::Sender::new(0),
        });
        let (out, arrivals) = mpsc::channel(WAITING_BATCHES);
        let task = tokio::spawn(run(Arc::clone(&shared), options.name, out));
        Self { shared, arrivals, task }
    }

    /// What comes next. Dropping the call loses nothing.
    pub async fn next(&mut self) -> Option<Arrival> {
        self.arrivals.recv().await
    }

    /// Another primary. Refused (false) if `epoch` is smaller than the largest it has seen.
    pub fn follow(&self, address: &str, epoch: u64) -> bool {
        follow(&self.shared, address, epoch)
    }

    /// A handle with which others can tell it of a new primary and look at it, while one waits for arrivals.
    #[must_use]
    pub fn handle(&self) -> NodeHandle {
        NodeHandle(Arc::clone(&self.shared))
    }

    /// Goes on after this sequence, knowing that what lies before it is missed.
    pub fn skip_to(&self, after: u64) {
        self.shared.lock().last = Some(after);
        self.shared.skipped.send_modify(|count| *count += 1);
    }

    /// How it stands.
    #[must_use]
    pub fn state(&self) -> NodeState {
        state(&self.shared)
    }
}

/// See [`NodeClient::handle`]. Cheap to clone.
#[derive(Clone, Debug)]
pub struct NodeHandle(Arc<Shared>);

impl NodeHandle {
    /// As [`NodeClient::follow`].
    pub fn follow(&self, address: &str, epoch: u64) -> bool {
        follow(&self.0, address, epoch)
    }

    /// As [`NodeClient::state`].
    #[must_use]
    pub fn state(&self) -> NodeState {
        state(&self.0)
    }
}

fn follow(shared: &Shared, address: &str, epoch: u64) -> bool {
    let seen = shared.lock().epoch;
    let mut taken = false;
    shared.target.send_if_modified(|target| {
        let before = target.clone();
        taken = epoch >= seen && target.offer(address, epoch);
        *target != before
    });
    taken
}

fn state(shared: &Shared) -> NodeState {
    let address = shared.target.borrow().address.clone();
    NodeState { address, ..shared.lock().clone() }
}

async fn run(shared: Arc<Shared>, name: String, out: mpsc::Sender<Arrival>) {
    let (mut target, mut skipped) = (shared.target.subscribe(), shared.skipped.subscribe());
    let mut backoff = Backoff::new();
    let mut told_behind = None;
    // What counts as received and the application has not taken yet: it outlives the connection that brought it.
    let mut waiting = VecDeque::new();
    loop {
        if hand_over(&mut waiting, &out).await.is_err() {
            return;
        }
        let at = target.borrow_and_update().clone();
        let before = shared.lock().last;
        let moved = async {
            // The node itself is the other end; it ends this task before it goes.
            let _ = target.wait_for(|now| now.address != at.address).await;
        };
        let ended = tokio::select! {
            ended = converse(&shared, &name, &at, &mut waiting, &out) => ended,
            () = moved => {
                shared.lock().connected = false;
                backoff = Backoff::new();
                continue;
            }
        };
        let behind = {
            let mut state = shared.lock();
            state.connected = false;
            if let Err(error) = &ended {
                state.trouble = Some(format!("{}: {error}", at.address));
            }
            if state.last > before {
                backoff = Backoff::new();
            }
            match state.refused {
                Some(Why::TooFarBehind { oldest }) if told_behind != Some(oldest) => Some(oldest),
                _ => None,
            }
        };
        if let Some(oldest) = behind {
            told_behind = Some(oldest);
            if out.send(Arrival::TooFarBehind { oldest }).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = sleep(backoff.next()) => {}
            _ = target.changed() => backoff = Backoff::new(),
            _ = skipped.changed() => backoff = Backoff::new(),
        }
    }
}

/// One connection, until it ends.
async fn converse(
    shared: &Shared,
    name: &str,
    at: &Target,
    waiting: &mut VecDeque<Arrival>,
    out: &mpsc::Sender<Arrival>,
) -> io::Result<()> {
    let (after, epoch) = {
        let state = shared.lock();
        (state.last, state.epoch.max(at.epoch))
    };
    let hello = Hello::Node { name: name.to_owned(), after, epoch };
    let (mut link, welcome) = match Link::greet(&at.address, &hello).await? {
        Greeted::Welcome(link, welcome) => (link, welcome),
        Greeted::Refused(refusal) => {
            shared.lock().refused = Some(refusal.why);
            return Err(io::Error::other(refusal.detail));
        }
    };
    take_epoch(shared, welcome.epoch)?;
    {
        let mut state = shared.lock();
        if state.last.is_none() {
            state.last = Some(welcome.last);
        }
        state.connected = true;
        state.connections += 1;
        state.refused = None;
    }
    loop {
        let frame = match timeout(SILENT_AT_MOST, link.next()).await {
            Ok(frame) => frame?,
            Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "it sends nothing, not even that it lives")),
        };
        match frame.kind {
            Kind::Beat => {
                let [epoch, end] = wire::read_numbers(&frame)?;
                take_epoch(shared, epoch)?;
                shared.lock().end = end;
            }
            Kind::Entries => {
                let (arrivals, last) = take_entries(shared, frame.body)?;
                waiting.extend(arrivals);
                // Where the application is slow the relay has to wait, and nobody else.
                hand_over(waiting, out).await?;
                link.writer.write_all(&wire::numbers(Kind::Received, [last, 0])).await?;
            }
            Kind::Refused => {
                let refusal: wire::Refusal = frame.json()?;
                shared.lock().refused = Some(refusal.why);
                return Err(io::Error::other(refusal.detail));
            }
            other => return Err(wire::bad(format!("{other:?} for a node"))),
        }
    }
}

/// Gives the application what waits. Dropping the call loses nothing.
async fn hand_over(waiting: &mut VecDeque<Arrival>, out: &mpsc::Sender<Arrival>) -> io::Result<()> {
    while !waiting.is_empty() {
        let place = out.reserve().await.map_err(|_| io::Error::other("the node has ended"))?;
        if let Some(arrival) = waiting.pop_front() {
            place.send(arrival);
        }
    }
    Ok(())
}

fn take_epoch(shared: &Shared, epoch: u64) -> io::Result<()> {
    let known = shared.target.borrow().epoch;
    let mut state = shared.lock();
    let known = state.epoch.max(known);
    if epoch < known {
        return Err(io::Error::other(format!("it sends in epoch {epoch}, but {known} has begun: refused")));
    }
    state.epoch = epoch;
    Ok(())
}

/// The entries of one frame that are new, grouped; and the last sequence now.
///
/// What stands in a log was written in an epoch of its time: while a node catches up, smaller epochs than that of the
/// primary are in order. What may not be is one that is smaller than that of the entry before.
fn take_entries(shared: &Shared, mut body: Bytes) -> io::Result<(Vec<Arrival>, u64)> {
    let mut state = shared.lock();
    let mut last = state.last.unwrap_or(0);
    let (mut out, mut messages) = (Vec::new(), Vec::new());
    while body.has_remaining() {
        let entry =
            Entry::read(&body).map_err(|bad| wire::bad(format!("after sequence {last} comes an entry, but {bad}")))?;
        if entry.epoch > state.epoch || entry.epoch < state.entry_epoch && entry.sequence > last {
            let text =
                format!("an entry of epoch {} in epoch {} after {}", entry.epoch, state.epoch, state.entry_epoch);
            return Err(wire::bad(text));
        }
        let length = entry.len();
        if entry.sequence <= last {
            state.duplicates += 1;
        } else if last.checked_add(1) != Some(entry.sequence) {
            return Err(wire::bad(format!("sequence {} after {last}: something is missing", entry.sequence)));
        } else {
            (last, state.entry_epoch) = (entry.sequence, entry.epoch);
            match entry.kind {
                EntryKind::Message => {
                    let payload_at = length - entry.payload.len();
                    messages.push(Message {
                        epoch: entry.epoch,
                        sequence: entry.sequence,
                        sender: entry.sender.to_owned(),
                        number: entry.number,
                        time_ms: entry.time_ms,
                        payload: body.slice(payload_at..length),
                    });
                }
                EntryKind::Canary => {
                    group(&mut out, &mut messages);
                    let id = String::from_utf8_lossy(entry.payload).into_owned();
                    out.push(Arrival::Canary { id, epoch: entry.epoch });
                }
                EntryKind::EpochBegin => {
                    group(&mut out, &mut messages);
                    out.push(Arrival::Epoch { epoch: entry.epoch });
                }
                EntryKind::Probe | EntryKind::Snapshot => {}
            }
        }
        body.advance(length);
    }
    group(&mut out, &mut messages);
    state.received += out.iter().map(|a| if let Arrival::Messages(m) = a { m.len() as u64 } else { 0 }).sum::<u64>();
    state.last = Some(last);
    Ok((out, last))
}

fn group(out: &mut Vec<Arrival>, messages: &mut Vec<Message>) {
    if !messages.is_empty() {
        out.push(Arrival::Messages(std::mem::take(messages)));
    }
}

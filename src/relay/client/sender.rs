//! Somebody who sends: numbers its messages, keeps them until they are acknowledged, and repeats what was not.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::{
    io::AsyncWriteExt as _,
    sync::{Notify, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{Backoff, Greeted, Hello, Kind, Link, SILENT_AT_MOST, Target, Why, wire};

/// How a sender is to be.
#[derive(Clone, Debug)]
pub struct SenderOptions {
    /// Its name: with the number the idempotency key. Two senders must not share one.
    pub name: String,
    /// The primary.
    pub address: String,
    /// The epoch in which that is the primary; 0: not known.
    pub epoch: u64,
    /// The last number that it gave before. None: go on behind what the log has of this name; the first message then
    /// waits for the first connection.
    pub after: Option<u64>,
    /// How many messages may wait for their acknowledgement.
    pub window: usize,
}

impl SenderOptions {
    /// A sender that goes on behind what the log has of its name.
    #[must_use]
    pub fn new(name: &str, address: &str) -> Self {
        Self { name: name.to_owned(), address: address.to_owned(), epoch: 0, after: None, window: 20_000 }
    }
}

/// Why a message was not taken from the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// It is larger than [`MAX_PAYLOAD`](crate::relay::MAX_PAYLOAD).
    #[error("the message is larger than {} bytes; nothing was sent", wire::MAX_PAYLOAD)]
    TooLarge,
    /// The window is full.
    #[error("too many messages wait for their acknowledgement; this one was not taken")]
    WindowFull,
    /// The sender has ended.
    #[error("the sender has ended; the message was not taken")]
    Ended,
}

/// How a sender stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SenderState {
    /// The last number that was given to a message.
    pub last: u64,
    /// Everything up to this number is durable.
    pub acknowledged: u64,
    /// Whether a primary takes messages at this moment.
    pub connected: bool,
    /// To whom it turns.
    pub address: String,
    /// The largest epoch that it has heard of.
    pub epoch: u64,
    /// How often it connected.
    pub connections: u64,
    /// Messages that were sent again after a new connection.
    pub repeated: u64,
    /// Why it was sent away the last time.
    pub refused: Option<Why>,
    /// The newest trouble, in words.
    pub trouble: Option<String>,
}

#[derive(Debug, Default)]
struct Inner {
    state: SenderState,
    /// Whether numbers may be given.
    is_numbered: bool,
    /// Not acknowledged; the first one has the number `state.acknowledged + 1`.
    waiting: VecDeque<Bytes>,
    /// The largest number that was ever written to a socket.
    sent_ever: u64,
}

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    /// There is something to send.
    more: Notify,
    acknowledged: watch::Sender<u64>,
    target: watch::Sender<Target>,
}

impl Shared {
    /// A panic while it was held leaves whole numbers behind; they are used on.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A sender. It works in a task of its own, which ends when this is dropped.
#[derive(Debug)]
pub struct Sender {
    shared: Arc<Shared>,
    window: usize,
    task: JoinHandle<()>,
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Sender {
    /// Starts it, within a tokio runtime. It connects by itself, again and again.
    #[must_use]
    pub fn start(options: SenderOptions) -> Self {
        let mut inner = Inner { is_numbered: options.after.is_some(), ..Inner::default() };
        let after = options.after.unwrap_or(0);
        (inner.state.last, inner.state.acknowledged, inner.sent_ever) = (after, after, after);
        let target = Target { address: options.address, epoch: options.epoch };
        let shared = Arc::new(Shared {
            inner: Mutex::new(inner),
            more: Notify::new(),
            acknowledged: watch::Sender::new(after),
            target: watch::Sender::new(target),
        });
        let task = tokio::spawn(run(Arc::clone(&shared), options.name));
        Self { shared, window: options.window.max(1), task }
    }

    /// Takes a message and gives it a number; waits while the window is full (or, at first, for the first connection).
    /// It is durable once [`acknowledged`](Self::acknowledged) has reached the number.
    ///
    /// # Errors
    /// It was not taken.
    pub async fn send(&self, payload: impl Into<Bytes>) -> Result<u64, SendError> {
        let payload = payload.into();
        let mut acknowledged = self.shared.acknowledged.subscribe();
        loop {
            acknowledged.borrow_and_update();
            match self.try_send(payload.clone()) {
                Err(SendError::WindowFull) => acknowledged.changed().await.map_err(|_| SendError::Ended)?,
                other => return other,
            }
        }
    }

    /// The same, without waiting.
    ///
    /// # Errors
    /// It was not taken.
    pub fn try_send(&self, payload: impl Into<Bytes>) -> Result<u64, SendError> {
        let payload = payload.into();
        if payload.len() > wire::MAX_PAYLOAD {
            return Err(SendError::TooLarge);
        }
        if self.task.is_finished() {
            return Err(SendError::Ended);
        }
        let mut inner = self.shared.lock();
        if !inner.is_numbered || inner.waiting.len() >= self.window {
            return Err(SendError::WindowFull);
        }
        inner.waiting.push_back(payload);
        inner.state.last += 1;
        let number = inner.state.last;
        drop(inner);
        self.shared.more.notify_one();
        Ok(number)
    }

    /// The number up to which everything is durable, now and whenever it grows.
    #[must_use]
    pub fn acknowledged(&self) -> watch::Receiver<u64> {
        self.shared.acknowledged.subscribe()
    }

    /// Waits until `number` is durable. Answers whether it is.
    pub async fn wait_for(&self, number: u64, within: Duration) -> bool {
        let mut acknowledged = self.acknowledged();
        let reached = timeout(within, acknowledged.wait_for(|reached| *reached >= number)).await;
        matches!(reached, Ok(Ok(_)))
    }

    /// Another primary. Refused (false) if `epoch` is smaller than the largest it has heard of.
    pub fn move_to(&self, address: &str, epoch: u64) -> bool {
        let mut taken = false;
        self.shared.target.send_if_modified(|target| {
            let before = target.clone();
            taken = target.offer(address, epoch);
            *target != before
        });
        taken
    }

    /// How it stands.
    #[must_use]
    pub fn state(&self) -> SenderState {
        let target = self.shared.target.borrow().clone();
        SenderState { address: target.address, epoch: target.epoch, ..self.shared.lock().state.clone() }
    }
}

async fn run(shared: Arc<Shared>, name: String) {
    let mut target = shared.target.subscribe();
    let mut backoff = Backoff::new();
    loop {
        let at = target.borrow_and_update().clone();
        let before = shared.lock().state.acknowledged;
        let moved = async {
            // The sender itself is the other end; it ends this task before it goes.
            let _ = target.wait_for(|now| now.address != at.address).await;
        };
        tokio::select! {
            ended = converse(&shared, &name, &at) => {
                let mut inner = shared.lock();
                inner.state.connected = false;
                if let Err(error) = ended {
                    inner.state.trouble = Some(format!("{}: {error}", at.address));
                }
                if inner.state.acknowledged > before {
                    backoff = Backoff::new();
                }
            }
            () = moved => {
                shared.lock().state.connected = false;
                backoff = Backoff::new();
                continue;
            }
        }
        tokio::select! {
            () = sleep(backoff.next()) => {}
            _ = target.changed() => backoff = Backoff::new(),
        }
    }
}

/// One connection, until it ends.
async fn converse(shared: &Shared, name: &str, at: &Target) -> io::Result<()> {
    let hello = Hello::Sender { name: name.to_owned(), epoch: at.epoch };
    let (link, welcome) = match Link::greet(&at.address, &hello).await? {
        Greeted::Welcome(link, welcome) => (link, welcome),
        Greeted::Refused(refusal) => return Err(refused(shared, refusal)),
    };
    raise(shared, welcome.epoch)?;
    let mut sent = {
        let mut inner = shared.lock();
        if !inner.is_numbered {
            inner.is_numbered = true;
            (inner.state.last, inner.state.acknowledged, inner.sent_ever) = (welcome.last, welcome.last, welcome.last);
        }
        if welcome.last < inner.state.acknowledged {
            // Numbers without a gap are what keeps a repeated message from being taken for a new one: nothing is sent.
            let text = format!(
                "its log has {} as the last message of `{name}`, but {} was acknowledged: is this an older copy of the storage?",
                welcome.last, inner.state.acknowledged
            );
            return Err(io::Error::other(text));
        }
        if welcome.last > inner.state.last {
            let text = format!(
                "its log has message {} of `{name}`, and this sender has given numbers up to {}: another one sends under its name",
                welcome.last, inner.state.last
            );
            return Err(io::Error::other(text));
        }
        take_acknowledgement(&mut inner, welcome.last);
        inner.state.connected = true;
        inner.state.connections += 1;
        inner.state.refused = None;
        inner.state.acknowledged
    };
    // Also wakes whoever waits for the first connection.
    shared.acknowledged.send_replace(sent);
    let Link { mut reader, mut writer } = link;
    let receive = async {
        loop {
            let frame = reader.next().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
            match frame.kind {
                Kind::Acked => {
                    let [number, _] = wire::read_numbers(&frame)?;
                    let mut inner = shared.lock();
                    take_acknowledgement(&mut inner, number);
                    let reached = inner.state.acknowledged;
                    drop(inner);
                    shared.acknowledged.send_replace(reached);
                }
                Kind::Refused => return Err(refused(shared, frame.json()?)),
                other => return Err(wire::bad(format!("{other:?} for a sender"))),
            }
        }
    };
    let send = async {
        loop {
            let frame = next_batch(&mut shared.lock(), &mut sent);
            match frame {
                Some(frame) => writer.write_all(&frame).await?,
                None => shared.more.notified().await,
            }
        }
    };
    let stalled = async {
        let mut acknowledged = shared.acknowledged.subscribe();
        loop {
            let changed = timeout(SILENT_AT_MOST, acknowledged.changed()).await;
            if changed.is_err() && !shared.lock().waiting.is_empty() {
                return io::Error::new(io::ErrorKind::TimedOut, "it acknowledges nothing");
            }
        }
    };
    tokio::select! {
        ended = receive => ended,
        ended = send => ended,
        error = stalled => Err(error),
    }
}

fn raise(shared: &Shared, epoch: u64) -> io::Result<()> {
    let mut heard = 0;
    shared.target.send_if_modified(|target| {
        heard = target.epoch;
        target.epoch = target.epoch.max(epoch);
        false
    });
    if epoch < heard {
        return Err(io::Error::other(format!("it is primary in epoch {epoch}, but {heard} has begun")));
    }
    Ok(())
}

fn refused(shared: &Shared, refusal: wire::Refusal) -> io::Error {
    shared.lock().state.refused = Some(refusal.why);
    io::Error::other(refusal.detail)
}

fn take_acknowledgement(inner: &mut Inner, number: u64) {
    // Never beyond what was given: a relay that says so is wrong.
    let number = number.min(inner.state.last);
    while inner.state.acknowledged < number {
        inner.waiting.pop_front();
        inner.state.acknowledged += 1;
    }
}

/// What comes after `sent`, as one frame.
fn next_batch(inner: &mut Inner, sent: &mut u64) -> Option<Vec<u8>> {
    *sent = (*sent).max(inner.state.acknowledged);
    // Lies within the window, which lies in memory.
    let skip = usize::try_from(*sent - inner.state.acknowledged).unwrap_or(usize::MAX);
    let mut size = 0;
    let count = inner
        .waiting
        .iter()
        .skip(skip)
        .take_while(|payload| {
            let is_first = size == 0;
            size += payload.len() + 4;
            is_first || size <= wire::BATCH
        })
        .count();
    if count == 0 {
        return None;
    }
    let first = *sent + 1;
    let frame = wire::messages(first, inner.waiting.iter().skip(skip).take(count));
    *sent += count as u64;
    inner.state.repeated += (inner.sent_ever + 1).saturating_sub(first).min(count as u64);
    inner.sent_ever = inner.sent_ever.max(*sent);
    Some(frame)
}

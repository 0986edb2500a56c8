//! The one thread that touches the storage: as primary it appends what came, many at a time; as shadow it replays.
//!
//! Why nothing that was acknowledged is lost by a takeover, even if the former primary lives on: a primary appends, makes
//! durable, *then* reads the epoch file, and acknowledges only if that is still its own. Whoever promotes raises the epoch
//! file durably, *then* looks which segments there are and reads the log to its end. If the primary read the file before it was
//! raised, its entry had been appended before, and the other one reads it. If it read it after, it acknowledges nothing and
//! retires. In between there is nothing.
//!
//! Why nothing comes twice: a sender's numbers are taken without gaps only, and the last one of each sender is part of what
//! is replayed.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
    time::timeout,
};

use super::{
    control::{Answer, Reason, Request, Role},
    disk,
    entry::{Entry, EntryKind},
    epoch::{self, EpochFile},
    reader::{ReadError, Reader},
    shared::Shared,
    table::Table,
    wire::{Refusal, Welcome, Why},
    writer::{Appended, Writer},
};
use crate::sys::clock::{Stopwatch, anchor};

#[cfg(test)]
mod chance;
mod orders;
mod replay;

/// A primary looks at the epoch file at least so often.
const IDLE: Duration = Duration::from_millis(50);
/// A shadow looks for new entries so often.
const POLL: Duration = Duration::from_millis(4);
/// What one commit takes at most.
const COMMIT_BYTES: usize = 4 * 1024 * 1024;
const COMMIT_JOBS: usize = 1024;

/// How the storage is to be used.
#[derive(Clone, Debug)]
pub(super) struct Storage {
    /// Shared by all members.
    pub(super) dir: PathBuf,
    /// This member's own.
    pub(super) own: PathBuf,
    /// How long a segment grows.
    pub(super) segment_bytes: u64,
    /// How much is kept.
    pub(super) retain_bytes: u64,
    /// A shadow applies entries only when they are so old.
    pub(super) replay_delay: Duration,
}

/// Something to do for the storage thread.
#[derive(Debug)]
pub(super) enum Job {
    /// A sender comes.
    Hello { sender: String, epoch: u64, reply: oneshot::Sender<Result<Welcome, Refusal>> },
    /// A sender's messages.
    Append(Append),
    /// A probe or a canary.
    Special { kind: EntryKind, id: String, reply: oneshot::Sender<Result<(), (Reason, String)>> },
    /// An order of a controller.
    Order { request: Request, reply: oneshot::Sender<Answer> },
}

#[derive(Debug)]
pub(super) struct Append {
    pub(super) sender: Arc<str>,
    pub(super) generation: u64,
    pub(super) first: u64,
    pub(super) payloads: Vec<Bytes>,
    /// The memory that the payloads take, given back when they are done.
    pub(super) memory: OwnedSemaphorePermit,
    pub(super) reply: oneshot::Sender<Result<u64, Refusal>>,
}

/// Whom to answer after a commit, and which of its entries have to be durable for it.
enum Waiting {
    Number { until: usize, number: u64, reply: oneshot::Sender<Result<u64, Refusal>>, _memory: OwnedSemaphorePermit },
    Special { until: usize, reply: oneshot::Sender<Result<(), (Reason, String)>> },
    Hello { reply: oneshot::Sender<Result<Welcome, Refusal>>, last: u64 },
}

/// What goes into the log together.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    waiting: Vec<Waiting>,
}

/// Why the epoch file does not say that this member is primary.
#[derive(Debug, thiserror::Error)]
enum Unnamed {
    #[error("epoch {} of `{}` has begun", .0.epoch, .0.primary)]
    Other(EpochFile),
    #[error("the epoch file is gone")]
    Gone,
    #[error("the epoch file cannot be read: {0}")]
    Unreadable(#[from] std::io::Error),
}

pub(super) struct Core {
    storage: Storage,
    shared: Arc<Shared>,
    jobs: mpsc::Receiver<Job>,
    table: Table,
    writer: Option<Writer>,
    reader: Option<Reader>,
    /// The log does not begin with its first entry; the first thing to be read has to say what was before.
    needs_snapshot: bool,
    /// Why the replay does not go on.
    stuck: Option<String>,
    ended: Arc<AtomicBool>,
}

impl Core {
    pub(super) fn new(
        storage: Storage,
        shared: Arc<Shared>,
        jobs: mpsc::Receiver<Job>,
        ended: Arc<AtomicBool>,
    ) -> Self {
        Self {
            storage,
            shared,
            jobs,
            table: Table::default(),
            writer: None,
            reader: None,
            needs_snapshot: false,
            stuck: None,
            ended,
        }
    }

    /// Works until nobody can send jobs any more.
    pub(super) fn run(mut self, runtime: &Handle) {
        loop {
            let patience = match self.shared.lock().role {
                Role::Shadow => POLL,
                Role::Primary | Role::Retired => IDLE,
            };
            match runtime.block_on(async { timeout(patience, self.jobs.recv()).await }) {
                Ok(Some(job)) => self.work(job),
                Ok(None) => break,
                Err(_) => self.idle(),
            }
        }
        self.ended.store(true, std::sync::atomic::Ordering::Release);
    }

    fn idle(&mut self) {
        match self.role() {
            Role::Primary => {
                // Whoever has no messages to commit hears of a successor all the same.
                self.is_still_primary();
            }
            Role::Shadow => self.replay_on(),
            Role::Retired => {}
        }
    }

    fn role(&self) -> Role {
        self.shared.lock().role
    }

    /// Works off what waits: appends together, orders one by one.
    fn work(&mut self, first: Job) {
        let mut batch = Batch::default();
        let mut next = Some(first);
        let mut count = 0;
        let mut order = None;
        while let Some(job) = next {
            match job {
                Job::Order { request, reply } => {
                    order = Some((request, reply));
                    break;
                }
                Job::Append(append) => self.stage(append, &mut batch),
                Job::Special { kind, id, reply } => self.stage_special(kind, &id, reply, &mut batch),
                Job::Hello { sender, epoch, reply } => self.stage_hello(&sender, epoch, reply, &mut batch),
            }
            count += 1;
            next =
                if count < COMMIT_JOBS && batch.bytes.len() < COMMIT_BYTES { self.jobs.try_recv().ok() } else { None };
        }
        self.commit(batch);
        if let Some((request, reply)) = order {
            let answer = self.order(&request);
            // Whoever asked may have gone; the order is done all the same.
            let _ = reply.send(answer);
        }
        if self.role() == Role::Shadow {
            self.replay_on();
        }
    }

    fn refusal(&self, why: Why, detail: impl Into<String>) -> Refusal {
        Refusal { why, detail: detail.into(), epoch: self.shared.lock().stored_epoch }
    }

    /// Whether senders are taken.
    fn takes_senders(&self) -> Result<(), Refusal> {
        let (role, read_only) = {
            let inner = self.shared.lock();
            (inner.role, inner.read_only)
        };
        if role != Role::Primary || self.writer.is_none() {
            let name = &self.shared.name;
            return Err(self.refusal(Why::NotPrimary, format!("`{name}` is no primary (it is {role:?})")));
        }
        if read_only {
            return Err(self.refusal(Why::ReadOnly, "it was told to refuse senders"));
        }
        Ok(())
    }

    fn stage_hello(
        &self,
        sender: &str,
        epoch: u64,
        reply: oneshot::Sender<Result<Welcome, Refusal>>,
        batch: &mut Batch,
    ) {
        let own = self.shared.lock().epoch;
        let refusal = match self.takes_senders() {
            Err(refusal) => Some(refusal),
            Ok(()) if epoch > own => {
                Some(self.refusal(Why::OldEpoch, format!("it is primary in epoch {own}, but {epoch} has begun")))
            }
            Ok(()) if !self.table.has_room_for(sender) => {
                Some(self.refusal(Why::BadRequest, "it remembers too many senders already"))
            }
            Ok(()) => None,
        };
        match refusal {
            Some(refusal) => {
                let _ = reply.send(Err(refusal));
            }
            // What the table says is true only once what it counts is durable.
            None => batch.waiting.push(Waiting::Hello { reply, last: self.table.last(sender) }),
        }
    }

    fn stage(&mut self, append: Append, batch: &mut Batch) {
        let Append { sender, generation, first, payloads, memory, reply } = append;
        let newest = self.shared.lock().senders.get(&*sender).map(|(newest, _)| *newest);
        let last = self.table.last(&sender);
        let refusal = match self.takes_senders() {
            Err(refusal) => Some(refusal),
            Ok(()) if newest != Some(generation) => {
                Some(self.refusal(Why::Replaced, "a newer connection of this sender came"))
            }
            Ok(()) if first > last + 1 => Some(self.refusal(
                Why::BadRequest,
                format!("message {first} after {last}: a number is missing, and numbers have no gaps"),
            )),
            Ok(()) => None,
        };
        let epoch = self.writer.as_ref().map_or(0, Writer::epoch);
        if let Some(refusal) = refusal {
            let _ = reply.send(Err(refusal));
            return;
        }
        let mut number = first;
        for payload in &payloads {
            if number > last {
                self.put(batch, EntryKind::Message, epoch, &sender, number, payload);
            }
            number += 1;
        }
        // Checked for overflow where the frame was read.
        let number = number - 1;
        if number > last {
            self.table.set(&sender, number);
        }
        batch.waiting.push(Waiting::Number { until: batch.ends.len(), number, reply, _memory: memory });
    }

    fn stage_special(
        &self,
        kind: EntryKind,
        id: &str,
        reply: oneshot::Sender<Result<(), (Reason, String)>>,
        batch: &mut Batch,
    ) {
        if let Err(refusal) = self.takes_senders() {
            let reason = if refusal.why == Why::ReadOnly { Reason::ReadOnly } else { Reason::NotPrimary };
            let _ = reply.send(Err((reason, refusal.detail)));
            return;
        }
        let epoch = self.writer.as_ref().map_or(0, Writer::epoch);
        self.put(batch, kind, epoch, "", 0, id.as_bytes());
        batch.waiting.push(Waiting::Special { until: batch.ends.len(), reply });
    }

    fn put(&self, batch: &mut Batch, kind: EntryKind, epoch: u64, sender: &str, number: u64, payload: &[u8]) {
        let next = self.writer.as_ref().map_or(1, Writer::next);
        let entry = Entry {
            epoch,
            sequence: next + batch.ends.len() as u64,
            number,
            time_ms: anchor().unix_ms.unsigned_abs(),
            kind,
            sender,
            payload,
        };
        entry.write(&mut batch.bytes);
        batch.ends.push(batch.bytes.len());
    }

    /// Makes a batch durable, looks whether this is still the primary, and only then answers.
    fn commit(&mut self, batch: Batch) {
        if batch.waiting.is_empty() {
            return;
        }
        let appended = self.append(&batch);
        let committed = match &appended {
            Ok(Appended::All) => batch.ends.len(),
            Ok(Appended::Full(count)) => *count,
            Err(_) => 0,
        };
        if let Err(error) = &appended {
            self.retire(format!("the log cannot be made durable: {error}"));
        } else if committed < batch.ends.len() {
            uncount(&mut self.table, &batch, committed);
        }
        let is_primary = appended.is_ok() && self.is_still_primary();
        if is_primary && committed > 0 {
            let end = self.writer.as_ref().map_or(0, |writer| writer.next() - 1);
            self.shared.grew(end);
        }
        let refusal = if is_primary {
            self.refusal(Why::StorageFull, "the storage is full; send it again later")
        } else {
            self.refusal(Why::NotPrimary, "it is no primary any more; whether it is in the log, the new one knows")
        };
        let epoch = self.shared.lock().epoch;
        for waiting in batch.waiting {
            // Whoever has gone does not hear it, and will ask again.
            match waiting {
                Waiting::Number { until, number, reply, .. } => {
                    let is_in = is_primary && until <= committed;
                    let _ = reply.send(if is_in { Ok(number) } else { Err(refusal.clone()) });
                }
                Waiting::Special { until, reply } => {
                    let reason = if is_primary { Reason::StorageFull } else { Reason::NotPrimary };
                    let is_in = is_primary && until <= committed;
                    let _ = reply.send(if is_in { Ok(()) } else { Err((reason, refusal.detail.clone())) });
                }
                Waiting::Hello { reply, last } => {
                    let is_in = is_primary && committed == batch.ends.len();
                    let name = self.shared.name.clone();
                    let _ = reply.send(if is_in { Ok(Welcome { name, epoch, last }) } else { Err(refusal.clone()) });
                }
            }
        }
    }

    fn append(&mut self, batch: &Batch) -> std::io::Result<Appended> {
        if batch.ends.is_empty() {
            return Ok(Appended::All);
        }
        let Some(writer) = &mut self.writer else { return Err(std::io::Error::other("there is no writer")) };
        if writer.length() >= self.storage.segment_bytes {
            // The table counts this batch already; the snapshot stands before it, and must not.
            match writer.rotate(&uncounted(&self.table, batch)) {
                Ok(()) => {
                    if let Err(error) = writer.retain(self.storage.retain_bytes) {
                        tracing::warn!(relay = self.shared.name, "old segments cannot be removed: {error}");
                    }
                }
                Err(error) if super::writer::is_full(&error) => return Ok(Appended::Full(0)),
                Err(error) => return Err(error),
            }
        }
        writer.append(&batch.bytes, &batch.ends)
    }

    /// Reads the epoch file, which has to name this member in `epoch`: after what it wrote is durable, and before anybody has
    /// it from this member.
    fn is_named(&self, epoch: u64) -> Result<(), Unnamed> {
        match epoch::read(&self.storage.dir)? {
            Some(file) if file.epoch == epoch && file.primary == self.shared.name => Ok(()),
            Some(file) => {
                let mut inner = self.shared.lock();
                inner.stored_epoch = inner.stored_epoch.max(file.epoch);
                Err(Unnamed::Other(file))
            }
            None => Err(Unnamed::Gone),
        }
    }

    /// Whoever finds a larger epoch in the epoch file, or cannot read it, is no primary any more.
    fn is_still_primary(&mut self) -> bool {
        let (role, epoch) = {
            let inner = self.shared.lock();
            (inner.role, inner.epoch)
        };
        if role != Role::Primary {
            return false;
        }
        self.is_named(epoch).map_err(|why| self.retire(why.to_string())).is_ok()
    }

    /// Serves nobody any more.
    fn retire(&mut self, why: String) {
        let epoch = self.shared.lock().epoch;
        tracing::error!(relay = self.shared.name, epoch, "retired: {why}");
        self.shared.set_role(Role::Retired, epoch);
        // After a failed fsync nothing that this process writes can be relied on; with the file goes the temptation.
        self.writer = None;
        self.stuck = Some(why);
        self.remember();
    }

    /// Writes down what has to outlive the process. Answers what went wrong.
    fn remember(&self) -> Option<String> {
        let written = epoch::write_own(&self.storage.own, &self.shared.own());
        written.err().map(|error| {
            let text = format!("what it is cannot be remembered over a restart: {error}");
            tracing::warn!(relay = self.shared.name, "{text}");
            text
        })
    }
}

/// The table without what a batch adds to it.
fn uncounted(table: &Table, batch: &Batch) -> Table {
    let mut table = table.clone();
    uncount(&mut table, batch, 0);
    table
}

/// Takes back what the entries of a batch from the one at `place` on added to the table.
fn uncount(table: &mut Table, batch: &Batch, place: usize) {
    let mut at = place.checked_sub(1).and_then(|last| batch.ends.get(last)).copied().unwrap_or(0);
    for end in batch.ends.iter().skip(place) {
        // It was written by us a moment ago: it is an entry.
        if let Ok(entry) = Entry::read(&batch.bytes[at..*end])
            && entry.kind == EntryKind::Message
            && table.last(entry.sender) >= entry.number
        {
            table.set(entry.sender, entry.number - 1);
        }
        at = *end;
    }
}

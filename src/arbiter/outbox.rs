//! Reports on their way to people: queued, spooled, retried, never in anybody's way.
//!
//! ```text
//! send() ── queue (newest per key) ── spooler ──┬─ lane: spool + memory ── worker ── reporter
//!                                               └─ lane: …
//! ```
//!
//! `send` only puts a report into a bounded queue. The spooler writes it to the store once for each reporter, and keeps
//! it in that reporter's memory until the worker has seen it in the spool, so that a store that takes nothing, or cannot
//! be read, loses nothing as long as the process lives. Each reporter has a lane and a worker of its own, so
//! that one that hangs (H13) delays nobody else. A worker sends what is spooled, oldest first; what fails is
//! tried again after 1 s, 2 s, … 5 min, and what comes after it is not held up by it.
//!
//! What is promised: the newest report of each key reaches each reporter at least once, over restarts too, unless the
//! store is lost and the process ends, or the reporter refuses it for good. Older reports of the same key may be
//! skipped; after a restart, or when the store could not forget it, a report may come twice.
//!
//! A reporter that wants active reports again and again (`Reporter::repeats_every`) keeps them spooled until a resolved
//! report of the same key was sent.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    model::Report,
    report::{Reporter, SendError},
    store::Store,
};

/// How many keys a queue in memory holds.
const MEMORY_MAX: usize = 1_000;

/// The times that the outbox keeps.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How long a reporter may take for one report.
    pub deadline: Duration,
    /// How long the store may take for one report.
    pub spool_within: Duration,
    /// The first pause after a failure; also the shortest time between two tries while a reporter fails.
    pub backoff_min: Duration,
    /// The longest pause.
    pub backoff_max: Duration,
    /// When a spool that cannot be read is read again, if nothing else happens.
    pub read_again: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(10),
            spool_within: Duration::from_secs(5),
            backoff_min: Duration::from_secs(1),
            backoff_max: Duration::from_mins(5),
            read_again: Duration::from_secs(30),
        }
    }
}

/// Counters, for metrics.
#[derive(Debug, Default)]
pub struct OutboxStats {
    /// One for each reporter, in the order of the file.
    pub reporters: Vec<ReporterStats>,
    /// Reports thrown away because the queue held too many keys.
    pub overflowed: AtomicU64,
}

/// Counters of one reporter.
#[derive(Debug, Default)]
pub struct ReporterStats {
    /// Its label.
    pub label: String,
    /// Reports it took, repetitions included.
    pub sent: AtomicU64,
    /// Tries that failed.
    pub failed: AtomicU64,
    /// Reports it refused for good.
    pub refused: AtomicU64,
    /// Reports written to the spool.
    pub spooled: AtomicU64,
    /// Reports kept in memory only, because the store did not take them.
    pub unspooled: AtomicU64,
    /// Reports waiting now to be sent for the first time.
    pub waiting: AtomicU64,
}

/// The way to all reporters. Dropping it ends the workers; what is spooled is sent by the next life.
pub struct Outbox {
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

struct Shared {
    queue: Mutex<Newest>,
    queued: Notify,
    /// Whether the spooler holds reports that it took from the queue. Set before it takes them.
    spooling: AtomicBool,
    stats: Arc<OutboxStats>,
}

impl Outbox {
    /// Starts the spooler and one worker for each reporter. Must be called inside the runtime.
    #[must_use]
    pub fn start(store: Arc<dyn Store>, reporters: Vec<Box<dyn Reporter>>) -> Self {
        Self::start_with(store, reporters, Timing::default())
    }

    /// The same with other times.
    #[must_use]
    pub fn start_with(store: Arc<dyn Store>, reporters: Vec<Box<dyn Reporter>>, timing: Timing) -> Self {
        let labels = unique(reporters.iter().map(|r| r.label()));
        let stats = OutboxStats {
            reporters: labels
                .iter()
                .map(|label| ReporterStats { label: label.clone(), ..Default::default() })
                .collect(),
            ..Default::default()
        };
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            queued: Notify::new(),
            spooling: AtomicBool::new(false),
            stats: Arc::new(stats),
        });
        let mut tasks = JoinSet::new();
        let mut lanes = Vec::new();
        for (index, (reporter, label)) in reporters.into_iter().zip(labels).enumerate() {
            let lane = Arc::new(Lane {
                label,
                index,
                gate: tokio::sync::Mutex::default(),
                memory: Mutex::default(),
                wake: Notify::new(),
                stats: shared.stats.clone(),
            });
            tasks.spawn(Worker::new(lane.clone(), store.clone(), reporter, timing).run());
            lanes.push(lane);
        }
        tasks.spawn(spooler(shared.clone(), store, lanes, timing));
        Self { shared, _tasks: tasks }
    }

    /// Hands in a report. Never waits; a report that is still queued under the same key is replaced.
    pub fn send(&self, report: Report) {
        if locked(&self.shared.queue).put(report) {
            self.shared.stats.overflowed.fetch_add(1, Relaxed);
        }
        self.shared.queued.notify_one();
    }

    /// Hands in a report, and answers whether the store holds it for each reporter. `false`: it may be in this process's
    /// memory only, for the store did not take it, or not within the time.
    pub fn send_and_keep(&self, report: Report, within: Duration) -> impl Future<Output = bool> + Send + 'static {
        let stats = self.stats();
        let not_kept = move || {
            let of_each: u64 = stats.reporters.iter().map(|reporter| reporter.unspooled.load(Relaxed)).sum();
            of_each + stats.overflowed.load(Relaxed)
        };
        let before = not_kept();
        self.send(report);
        let flushed = self.flush(within);
        async move { flushed.await && not_kept() == before }
    }

    /// Waits until everything handed in so far went through the spooler, for an orderly end. What the store did not take is
    /// in memory then. `false`: the time was over first.
    pub fn flush(&self, within: Duration) -> impl Future<Output = bool> + Send + 'static {
        let shared = Arc::clone(&self.shared);
        let flushed = async move {
            // In this order: what is no longer queued and not yet spooled is marked.
            while !locked(&shared.queue).by_order.is_empty() || shared.spooling.load(SeqCst) {
                sleep(Duration::from_millis(2)).await;
            }
        };
        async move { timeout(within, flushed).await.is_ok() }
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> Arc<OutboxStats> {
        self.shared.stats.clone()
    }
}

/// The newest report of each key, in the order in which they came. Bounded.
#[derive(Default)]
struct Newest {
    by_order: BTreeMap<u64, Report>,
    order_of: HashMap<String, u64>,
    next: u64,
}

impl Newest {
    /// Says whether the oldest one had to go.
    fn put(&mut self, report: Report) -> bool {
        self.remove_key(&report.key);
        let overflow = self.by_order.len() >= MEMORY_MAX;
        if overflow && let Some((_, oldest)) = self.by_order.pop_first() {
            self.order_of.remove(&oldest.key);
        }
        self.order_of.insert(report.key.clone(), self.next);
        self.by_order.insert(self.next, report);
        self.next += 1;
        overflow
    }

    fn remove_key(&mut self, key: &str) {
        if let Some(order) = self.order_of.remove(key) {
            self.by_order.remove(&order);
        }
    }

    fn remove_order(&mut self, order: u64) -> Option<Report> {
        let report = self.by_order.remove(&order)?;
        self.order_of.remove(&report.key);
        Some(report)
    }

    fn get(&self, key: &str) -> Option<(u64, &Report)> {
        let order = *self.order_of.get(key)?;
        Some((order, self.by_order.get(&order)?))
    }

    fn take(&mut self) -> Vec<Report> {
        self.order_of.clear();
        std::mem::take(&mut self.by_order).into_values().collect()
    }
}

/// What belongs to one reporter.
struct Lane {
    label: String,
    index: usize,
    /// Held while a report is put into spool and memory, and while the two are compared.
    gate: tokio::sync::Mutex<()>,
    /// What was not seen in the spool yet.
    memory: Mutex<Newest>,
    wake: Notify,
    stats: Arc<OutboxStats>,
}

impl Lane {
    fn stats(&self) -> Option<&ReporterStats> {
        self.stats.reporters.get(self.index)
    }

    fn count(&self, counter: impl FnOnce(&ReporterStats) -> &AtomicU64) {
        if let Some(stats) = self.stats() {
            counter(stats).fetch_add(1, Relaxed);
        }
    }
}

/// Moves reports from the queue to the spool and the memory of each reporter.
async fn spooler(shared: Arc<Shared>, store: Arc<dyn Store>, lanes: Vec<Arc<Lane>>, timing: Timing) {
    loop {
        shared.queued.notified().await;
        shared.spooling.store(true, SeqCst);
        let reports = locked(&shared.queue).take();
        // A store that failed once is not waited for again for the rest of these.
        let mut trouble = None;
        for report in reports {
            for lane in &lanes {
                let gate = lane.gate.lock().await;
                if trouble.is_none() {
                    trouble = match timeout(timing.spool_within, store.spool(&lane.label, &report)).await {
                        Ok(Ok(())) => None,
                        Ok(Err(e)) => Some(e.to_string()),
                        Err(_) => Some("the store does not answer".into()),
                    };
                    if let Some(error) = &trouble {
                        tracing::warn!(%error, "Reports cannot be spooled; they are kept in memory.");
                    }
                }
                lane.count(|s| if trouble.is_none() { &s.spooled } else { &s.unspooled });
                if locked(&lane.memory).put(report.clone()) && trouble.is_some() {
                    shared.stats.overflowed.fetch_add(1, Relaxed);
                }
                drop(gate);
                lane.wake.notify_one();
            }
        }
        shared.spooling.store(false, SeqCst);
    }
}

/// Where a report waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// In the store, under this number.
    Spool(i64),
    /// In the lane's memory, under this number.
    Memory(u64),
}

/// How a round ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    /// Nothing is left to be sent.
    Clear,
    /// The spool could not be read; what is in memory was sent.
    NoSpool,
    /// The reporter failed.
    Failed,
}

/// Sends the reports of one lane.
struct Worker {
    lane: Arc<Lane>,
    store: Arc<dyn Store>,
    reporter: Box<dyn Reporter>,
    timing: Timing,
    /// Sent, and kept to be repeated.
    settled: BTreeSet<Place>,
    /// Over, and still spooled because the store could not forget them.
    over: BTreeSet<i64>,
    /// The report that failed last; the next try begins behind it, so that it holds nothing up.
    after: Option<Place>,
    spool_failed: bool,
}

impl Worker {
    fn new(lane: Arc<Lane>, store: Arc<dyn Store>, reporter: Box<dyn Reporter>, timing: Timing) -> Self {
        let (settled, over) = (BTreeSet::new(), BTreeSet::new());
        Self { lane, store, reporter, timing, settled, over, after: None, spool_failed: false }
    }

    async fn run(mut self) {
        let lane = self.lane.clone();
        let mut pause = self.timing.backoff_min;
        loop {
            let round = self.round().await;
            if round == Round::Failed {
                let least = self.timing.backoff_min;
                tokio::select! {
                    () = sleep(pause) => {}
                    // Something new may pass where the last one did not, but never more often than this.
                    () = async { lane.wake.notified().await; sleep(least).await } => {}
                }
                pause = (pause * 2).min(self.timing.backoff_max);
                continue;
            }
            pause = self.timing.backoff_min;
            let repeats = self.reporter.repeats_every();
            let come_back = if round == Round::NoSpool { repeats.or(Some(self.timing.read_again)) } else { repeats };
            match come_back {
                Some(every) => tokio::select! {
                    () = lane.wake.notified() => {}
                    () = sleep(every) => self.settled.clear(),
                },
                None => lane.wake.notified().await,
            }
        }
    }

    /// Sends what is due.
    async fn round(&mut self) -> Round {
        let mut due = self.due().await;
        self.waiting(due.len());
        if let Some(after) = self.after.take() {
            let behind = due.iter().position(|(place, _)| *place > after).unwrap_or(0);
            due.rotate_left(behind);
        }
        let count = due.len();
        for ((place, report), done) in due.into_iter().zip(1..) {
            match self.send(&report).await {
                Ok(()) => {
                    self.lane.count(|s| &s.sent);
                    if self.reporter.repeats_every().is_some() && !report.resolved {
                        self.settled.insert(place);
                    } else {
                        self.forget(place).await;
                    }
                }
                Err(SendError { retryable: false, detail }) => {
                    tracing::error!(reporter = %self.lane.label, key = %report.key, error = %detail,
                        "A report was refused for good; look at the reporter's configuration.");
                    self.lane.count(|s| &s.failed);
                    self.lane.count(|s| &s.refused);
                    self.forget(place).await;
                }
                Err(SendError { retryable: true, detail }) => {
                    tracing::warn!(reporter = %self.lane.label, key = %report.key, error = %detail,
                        "A report was not taken; it will be tried again.");
                    self.lane.count(|s| &s.failed);
                    self.after = Some(place);
                    return Round::Failed;
                }
            }
            self.waiting(count - done);
        }
        if self.spool_failed { Round::NoSpool } else { Round::Clear }
    }

    fn waiting(&self, count: usize) {
        if let Some(stats) = self.lane.stats() {
            stats.waiting.store(u64::try_from(count).unwrap_or(u64::MAX), Relaxed);
        }
    }

    /// The deadline holds even for a reporter that does not keep it.
    async fn send(&self, report: &Report) -> Result<(), SendError> {
        let grace = self.timing.deadline + self.timing.deadline / 10;
        timeout(grace, self.reporter.send(report, self.timing.deadline))
            .await
            .unwrap_or_else(|_| Err(SendError::later("it did not end by its deadline")))
    }

    /// What is spooled, then what is in memory only, without what was sent.
    async fn due(&mut self) -> Vec<(Place, Report)> {
        let lane = self.lane.clone();
        let gate = lane.gate.lock().await;
        let spooled = self.read_spool().await;
        let mut due: Vec<(Place, Report)> = Vec::new();
        let mut forget = Vec::new();
        {
            let mut memory = locked(&lane.memory);
            for (number, report) in spooled {
                let place = Place::Spool(number);
                let newer = memory.get(&report.key);
                match newer {
                    _ if self.over.contains(&number) => forget.push(place),
                    // The spool has it: memory need not.
                    Some((order, kept)) if is_same(kept, &report) => {
                        memory.remove_order(order);
                        if self.settled.remove(&Place::Memory(order)) {
                            self.settled.insert(place);
                        }
                        due.push((place, report));
                    }
                    // The store did not take the newer one. This one stays spooled for the next life, until that is sent.
                    Some((order, _)) if self.settled.contains(&Place::Memory(order)) => forget.push(place),
                    Some(_) => {}
                    None => due.push((place, report)),
                }
            }
            due.extend(memory.by_order.iter().map(|(order, report)| (Place::Memory(*order), report.clone())));
        }
        drop(gate);
        due.retain(|(place, _)| !self.settled.contains(place));
        for place in forget {
            self.forget(place).await;
        }
        due
    }

    async fn read_spool(&mut self) -> Vec<(i64, Report)> {
        let error = match timeout(self.timing.spool_within, self.store.spooled(&self.lane.label)).await {
            Ok(Ok(spooled)) => {
                self.spool_failed = false;
                let there: BTreeSet<i64> = spooled.iter().map(|(number, _)| *number).collect();
                self.over.retain(|number| there.contains(number));
                self.settled.retain(|place| !matches!(place, Place::Spool(number) if !there.contains(number)));
                return spooled;
            }
            Ok(Err(e)) => e.to_string(),
            Err(_) => "the store does not answer".into(),
        };
        if !self.spool_failed {
            tracing::warn!(reporter = %self.lane.label, %error, "The spool cannot be read; reports are sent from memory.");
        }
        self.spool_failed = true;
        Vec::new()
    }

    async fn forget(&mut self, place: Place) {
        self.settled.remove(&place);
        match place {
            Place::Memory(order) => {
                let lane = self.lane.clone();
                let _gate = lane.gate.lock().await;
                // If it was replaced meanwhile, the newer one is in memory, and nothing is to be forgotten.
                let Some(report) = locked(&lane.memory).remove_order(order) else { return };
                // An older one of the same key may still be spooled.
                let older = self.read_spool().await.into_iter().find(|(_, old)| old.key == report.key);
                if let Some((number, _)) = older {
                    self.unspool(number).await;
                }
            }
            Place::Spool(number) => self.unspool(number).await,
        }
    }

    async fn unspool(&mut self, number: i64) {
        let forgotten = timeout(self.timing.spool_within, self.store.unspool(number)).await;
        if matches!(forgotten, Ok(Ok(()))) {
            self.over.remove(&number);
        } else {
            self.over.insert(number);
        }
    }
}

/// Compared as they are written: what is read back has lost what the JSON does not keep.
fn is_same(a: &Report, b: &Report) -> bool {
    match (serde_json::to_value(a), serde_json::to_value(b)) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}

/// A panic while one of these was held leaves nothing half done that matters.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Two reporters with the same label have spools of their own.
fn unique(labels: impl Iterator<Item = String>) -> Vec<String> {
    let mut seen: HashMap<String, u32> = HashMap::new();
    labels
        .map(|label| {
            let count = seen.entry(label.clone()).or_default();
            *count += 1;
            if *count == 1 { label } else { format!("{label} #{count}") }
        })
        .collect()
}

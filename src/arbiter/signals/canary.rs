//! Canaries: a message through the broker, the service's usual way, received at each node.
//!
//! A node that does not report is itself silent: what it did not receive says nothing of the primary.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::{sync::mpsc, time::timeout};

use super::schedule::Context;
use crate::{
    arbiter::handle::Seen,
    broker::Broker,
    model::{ClusterName, Fact, Failure, FailureKind, NodeName, Observer, Outcome, SignalName, Target, time::human},
    sys::clock::Stopwatch,
};

/// Canaries under way per signal; beyond that none is sent until some are over.
const UNDER_WAY_MAX: usize = 64;

/// What nodes say of the canaries that reached them. Shared between the sources and the API's ingest; cheap to clone.
///
/// It holds the canaries under way and one number per configured node, so nothing that is sent to it makes it grow.
#[derive(Clone, Debug, Default)]
pub struct Receipts(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    /// How many reports each configured node has sent.
    reports: HashMap<ClusterName, HashMap<NodeName, u64>>,
    under_way: HashMap<String, UnderWay>,
}

#[derive(Debug)]
struct UnderWay {
    cluster: ClusterName,
    sent: Stopwatch,
    /// Who has not received it yet, and how many reports each had sent when it was sent.
    waiting: BTreeMap<NodeName, u64>,
    arrivals: mpsc::Sender<(NodeName, Duration)>,
}

impl Receipts {
    /// A node received a canary. `false`: no such canary is under way, or not for this node, or it said so before;
    /// to be counted as a replayed or forged receipt, or as one that came too late.
    pub fn received(&self, cluster: &ClusterName, node: &NodeName, id: &str) -> bool {
        self.node_reported(cluster, node);
        let mut inner = self.lock();
        let Some(canary) = inner.under_way.get_mut(id).filter(|canary| canary.cluster == *cluster) else {
            return false;
        };
        if canary.waiting.remove(node).is_none() {
            return false;
        }
        let latency = canary.sent.elapsed();
        // It has room for every node that waits.
        canary.arrivals.try_send((node.clone(), latency)).is_ok()
    }

    /// A node reported anything at all: it is alive. Unknown nodes are ignored.
    pub fn node_reported(&self, cluster: &ClusterName, node: &NodeName) {
        let mut inner = self.lock();
        if let Some(count) = inner.reports.get_mut(cluster).and_then(|nodes| nodes.get_mut(node)) {
            *count += 1;
        }
    }

    /// Says which nodes there are. What is known of those that stay is kept.
    pub(super) fn expect_nodes(&self, clusters: &BTreeMap<ClusterName, Vec<NodeName>>) {
        let mut inner = self.lock();
        let mut old = std::mem::take(&mut inner.reports);
        inner.reports = clusters
            .iter()
            .map(|(cluster, nodes)| {
                let mut known = old.remove(cluster).unwrap_or_default();
                let nodes = nodes.iter().map(|node| (node.clone(), known.remove(node).unwrap_or_default()));
                (cluster.clone(), nodes.collect())
            })
            .collect();
    }

    /// From now on receipts of `id` are taken. Ends with the guard.
    fn expect(&self, cluster: &ClusterName, id: &str, nodes: &[NodeName]) -> Expecting {
        let (sender, arrivals) = mpsc::channel(nodes.len().max(1));
        let mut inner = self.lock();
        let reports = inner.reports.get(cluster);
        let count = |node: &NodeName| reports.and_then(|r| r.get(node)).copied().unwrap_or_default();
        let waiting = nodes.iter().map(|node| (node.clone(), count(node))).collect();
        let under_way = UnderWay { cluster: cluster.clone(), sent: Stopwatch::start(), waiting, arrivals: sender };
        inner.under_way.insert(id.to_owned(), under_way);
        Expecting { receipts: self.clone(), id: id.to_owned(), arrivals }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Each change is complete before the lock goes, so a panic elsewhere leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Expecting {
    receipts: Receipts,
    id: String,
    arrivals: mpsc::Receiver<(NodeName, Duration)>,
}

impl Expecting {
    /// Who has not received it, and whether it reported anything since the canary was sent.
    fn missing(&self) -> Vec<(NodeName, bool)> {
        let inner = self.receipts.lock();
        let Some(canary) = inner.under_way.get(&self.id) else { return Vec::new() };
        let reports = inner.reports.get(&canary.cluster);
        canary
            .waiting
            .iter()
            .map(|(node, before)| {
                let now = reports.and_then(|r| r.get(node)).copied().unwrap_or_default();
                (node.clone(), now > *before)
            })
            .collect()
    }
}

impl Drop for Expecting {
    fn drop(&mut self) {
        self.receipts.lock().under_way.remove(&self.id);
    }
}

/// The canary of one cluster.
pub(super) struct Canary {
    pub(super) signal: SignalName,
    pub(super) broker: Arc<dyn Broker>,
    pub(super) nodes: Vec<NodeName>,
    pub(super) every: Duration,
    pub(super) timeout: Duration,
    pub(super) receipts: Receipts,
}

/// Sends canaries at their period to whoever is primary, until it is dropped.
pub(super) async fn run(context: Context, canary: Canary) {
    let mut ticks = context.beats(canary.every, &canary.signal);
    let mut under_way = FuturesUnordered::new();
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                if under_way.len() < UNDER_WAY_MAX && let Some(primary) = context.target_of_primary() {
                    under_way.push(canary.send_one(&context, primary));
                }
            }
            Some(()) = under_way.next() => {}
        }
    }
}

impl Canary {
    /// Each node gives one observation: received, not received, or the reason why it cannot be told.
    async fn send_one(&self, context: &Context, primary: Target) {
        let id = ulid::Ulid::generate().to_string();
        let mut expecting = self.receipts.expect(&context.cluster, &id, &self.nodes);
        let whole = async {
            // A receipt may come before the broker has answered the sender, so both are awaited together.
            let mut send = std::pin::pin!(self.broker.send_canary(&primary, &id, self.timeout));
            let (mut is_sent, mut left) = (false, self.nodes.len());
            while left > 0 {
                tokio::select! {
                    biased;
                    arrival = expecting.arrivals.recv() => {
                        let Some((node, latency)) = arrival else { break };
                        self.tell(context, node, Outcome::Fact(Fact::Canary { latency }));
                        left -= 1;
                    }
                    sent = &mut send, if !is_sent => {
                        sent?;
                        is_sent = true;
                    }
                }
            }
            Ok::<(), Failure>(())
        };
        let ended = timeout(self.timeout, whole).await;
        // Arrivals in the very last moment count.
        while let Ok((node, latency)) = expecting.arrivals.try_recv() {
            self.tell(context, node, Outcome::Fact(Fact::Canary { latency }));
        }
        let unsent = match ended {
            Ok(Ok(())) => return,
            Ok(Err(failure)) => Some(failure),
            Err(_) => None,
        };
        for (node, is_alive) in expecting.missing() {
            let failure = match &unsent {
                Some(failure) => Failure::new(failure.kind, format!("the canary could not be sent: {}", failure.text)),
                None if is_alive => {
                    let text = format!("the canary did not reach {node} within {}", human(self.timeout));
                    Failure::new(FailureKind::TimedOut, text)
                }
                None => Failure::new(FailureKind::Local, format!("{node} itself is silent")),
            };
            self.tell(context, node, Outcome::Failure(failure));
        }
    }

    fn tell(&self, context: &Context, node: NodeName, outcome: Outcome) {
        (context.observe)(Seen {
            cluster: context.cluster.clone(),
            signal: self.signal.clone(),
            observer: Observer::Node(node),
            subject: None,
            outcome,
        });
    }
}

//! The sources that the arbiter pulls: probes, questions to the broker kind, canaries. Each look is one observation
//! handed to the driver; nothing is judged here.
//!
//! One task per signal and subject, no thread. A task whose subject has not the role that the signal is about waits
//! for the roles to change and costs nothing.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{sync::watch, task::JoinSet};

use super::handle::{Handle, Seen};
use crate::{
    broker::Broker,
    config::{ClusterConfig, Source},
    model::{ClusterName, NodeName, status::PrimaryView},
};

pub mod canary;
mod schedule;

pub use canary::Receipts;

/// Where observations go. `false`: the driver's queue was full.
type Observe = dyn Fn(Seen) -> bool + Send + Sync;

/// The running sources. Dropping it ends them all, looks under way included.
#[derive(Debug)]
pub struct Running {
    tasks: JoinSet<()>,
    dropped: Arc<AtomicU64>,
}

impl Running {
    /// Ends all sources and waits until they are gone.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
    }

    /// How many observations were lost because the driver's queue was full.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// Starts the sources of all clusters by the configuration in force. After a reload the driver stops them and starts
/// them anew; until then they follow every change of roles by themselves. The receipts are the ones that the API
/// hands in; those of canaries under way across a reload are not counted.
#[must_use]
pub fn start(handle: &Handle, brokers: BTreeMap<ClusterName, Arc<dyn Broker>>, receipts: &Receipts) -> Running {
    let config = handle.config();
    let clusters = config.clusters.iter().filter_map(|(name, cluster)| {
        let primary = handle.primary(name)?;
        Some((name.clone(), cluster, primary))
    });
    let sink = handle.clone();
    start_with(clusters, &brokers, receipts, Arc::new(move |seen| sink.observe(seen).is_ok()))
}

fn start_with<'a>(
    clusters: impl IntoIterator<Item = (ClusterName, &'a ClusterConfig, watch::Receiver<PrimaryView>)>,
    brokers: &BTreeMap<ClusterName, Arc<dyn Broker>>,
    receipts: &Receipts,
    observe: Arc<Observe>,
) -> Running {
    let dropped = Arc::new(AtomicU64::new(0));
    let counted: Arc<Observe> = {
        let dropped = Arc::clone(&dropped);
        Arc::new(move |seen| {
            let taken = observe(seen);
            if !taken {
                dropped.fetch_add(1, Ordering::Relaxed);
            }
            taken
        })
    };
    // The runtime's own idea of now; nothing is measured with it.
    let started = tokio::time::sleep(std::time::Duration::ZERO).deadline();
    let mut tasks = JoinSet::new();
    let mut expected: BTreeMap<ClusterName, Vec<NodeName>> = BTreeMap::new();
    for (name, cluster, primary) in clusters {
        let context = schedule::Context {
            cluster: name.clone(),
            members: cluster.members.as_slice().into(),
            primary,
            observe: Arc::clone(&counted),
            started,
        };
        let broker = brokers.get(&name);
        if let Some(broker) = broker {
            tasks.spawn(schedule::hold_open(context.clone(), Arc::clone(broker)));
        }
        expected.insert(name, cluster.nodes.iter().map(|node| node.node.clone()).collect());
        for (signal, source) in &cluster.sources {
            match source {
                Source::Heartbeats | Source::Arrivals | Source::Alert { .. } | Source::Agent { .. } => {}
                Source::Canary { every, timeout } => {
                    let nodes: Vec<_> = cluster.nodes.iter().map(|node| node.node.clone()).collect();
                    if let Some(broker) = broker {
                        let canary = canary::Canary {
                            signal: signal.clone(),
                            broker: Arc::clone(broker),
                            nodes,
                            every: *every,
                            timeout: *timeout,
                            receipts: receipts.clone(),
                        };
                        tasks.spawn(canary::run(context.clone(), canary));
                    }
                }
                Source::Broker { .. } | Source::Probe { .. } => {
                    for look in schedule::looks(&context, cluster, broker, signal, source) {
                        tasks.spawn(look.run());
                    }
                }
            }
        }
    }
    receipts.expect_nodes(&expected);
    Running { tasks, dropped }
}

#[cfg(test)]
mod tests;

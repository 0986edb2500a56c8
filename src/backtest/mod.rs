//! Recorded observations judged by other rules: when would those have fired, how much earlier or later, how often falsely.
//!
//! The journal's observations go through the engine's own judging twice: with the rules in force and with others
//! ([`crate::engine::Shadow`]; nothing is ever done). A firing is then held against what the nodes went through and against the
//! incidents that were recorded:
//!
//! | a firing is | if |
//! |---|---|
//! | false | most of the nodes that reported went on receiving, if a failover was recorded then: until that was opened |
//! | true | otherwise a failover was recorded, or most nodes received nothing for longer than [`Question::outage`] although somebody sent |
//! | unclear | nothing was being sent, or no node reported, and no failover was recorded |
//!
//! A recorded failover that was a false alarm has to be named ([`Question::disowned`]): what happened after it cannot tell.
//!
//! What this cannot know: the recording is of the world as it went on under the rules in force. After a failover it shows the
//! new primary; what a rule would have seen that failed over earlier, or not at all, nobody knows. Pauses, cooldowns, budgets and
//! rehearsals of fences are not applied: a firing is what a rule says, not what would have been done.

mod compare;
mod judge;
mod service;

use std::{
    collections::BTreeMap,
    io,
    sync::{Mutex, PoisonError, atomic::AtomicUsize, atomic::Ordering},
    time::Duration,
};

use schemars::JsonSchema;
use serde::Serialize;

pub use compare::{Event, RuleTally, Sight, Sighting};
pub use judge::{Ended, Firing};

use crate::{
    journal::{Journal, Trouble},
    model::{ClusterName, Policy, RuleName, time::millis},
};

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    /// The rules in force.
    pub in_force: &'a Policy,
    /// The others.
    pub other: &'a Policy,
    /// Of which clusters.
    pub clusters: Vec<ClusterName>,
    /// From when on, in milliseconds since 1970.
    pub from_unix_ms: i64,
    /// Until when.
    pub to_unix_ms: i64,
    /// What lies no further apart than this is about the same event.
    pub window: Duration,
    /// A node that received nothing for longer than this was without service.
    pub outage: Duration,
    /// Recorded failovers that were false alarms, by the beginnings of their names.
    pub disowned: Vec<String>,
    /// Threads, at most.
    pub threads: usize,
}

/// By which rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Those in force.
    InForce,
    /// The others.
    New,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Report {
    /// From when on, in milliseconds since 1970: not before the journal begins.
    pub from_unix_ms: i64,
    /// Until when.
    pub to_unix_ms: i64,
    /// The clusters.
    pub clusters: Vec<ClusterReport>,
    /// What could not be read.
    pub troubles: Vec<String>,
    /// Whether the new rules that act fired falsely, or missed something true.
    pub is_worse_than_wished: bool,
}

/// One cluster.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ClusterReport {
    /// The cluster.
    pub cluster: ClusterName,
    /// Observations that were judged.
    pub observations: u64,
    /// How much time the recordings cover.
    #[serde(with = "millis", rename = "covered_ms")]
    #[schemars(with = "f64")]
    pub covered: Duration,
    /// Holes, starts of the arbiter, and lost observations in that time.
    pub holes: u64,
    /// The rules, those in force first.
    pub rules: Vec<RuleTally>,
    /// What happened, and when each of the two saw it.
    pub events: Vec<Event>,
    /// Firings of new rules that act, while most nodes went on receiving.
    pub false_firings: Vec<Sight>,
    /// Firings of new rules that act, of which nobody can say.
    pub unclear_firings: Vec<Sight>,
    /// What was recorded when it happened, by the rules that were in force then: how often each fired.
    pub recorded: BTreeMap<RuleName, u64>,
    /// What to know about these numbers.
    pub remarks: Vec<String>,
}

/// It could not be answered.
#[derive(Debug, thiserror::Error)]
pub enum BacktestError {
    /// A segment could not be read.
    #[error("{path}: {source}")]
    Read {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// Nothing was recorded in that time.
    #[error("the journal holds nothing of that time")]
    Nothing,
}

/// Answers. `progress` is called with the share that is done, from 0 to 1, from any thread.
///
/// # Errors
/// The journal cannot be read, or holds nothing of that time.
pub fn run(
    journal: &Journal,
    question: &Question<'_>,
    progress: &(dyn Fn(f64) + Sync),
) -> Result<Report, BacktestError> {
    let segments = journal.between(question.from_unix_ms, question.to_unix_ms);
    if segments.is_empty() {
        return Err(BacktestError::Nothing);
    }
    let tasks: Vec<(&ClusterName, Side)> =
        question.clusters.iter().flat_map(|cluster| [(cluster, Side::InForce), (cluster, Side::New)]).collect();
    let done = AtomicUsize::new(0);
    let total = tasks.len() * segments.len();
    let step = || {
        let done = done.fetch_add(1, Ordering::Relaxed) + 1;
        #[expect(clippy::cast_precision_loss, reason = "a share for people")]
        progress(done as f64 / total.max(1) as f64);
    };
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..question.threads.clamp(1, tasks.len().max(1)) {
            scope.spawn(|| {
                while let Some((cluster, side)) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let policy = if *side == Side::InForce { question.in_force } else { question.other };
                    let judged = judge::judge(segments, policy, cluster, question, &step);
                    results.lock().unwrap_or_else(PoisonError::into_inner).push(((*cluster).clone(), *side, judged));
                }
            });
        }
    });
    let mut judged: BTreeMap<(ClusterName, Side), judge::Judged> = BTreeMap::new();
    for (cluster, side, result) in results.into_inner().unwrap_or_else(PoisonError::into_inner) {
        judged.insert((cluster, side), result?);
    }
    let mut troubles: Vec<Trouble> = journal.troubles.clone();
    let mut clusters = Vec::new();
    for cluster in &question.clusters {
        let (Some(old), Some(new)) =
            (judged.remove(&(cluster.clone(), Side::InForce)), judged.remove(&(cluster.clone(), Side::New)))
        else {
            continue;
        };
        for trouble in &old.troubles {
            if !troubles.contains(trouble) {
                troubles.push(trouble.clone());
            }
        }
        clusters.push(compare::compare(segments, question, cluster, old, new)?);
    }
    let began = journal.began_unix_ms().unwrap_or(question.from_unix_ms);
    let is_worse_than_wished = clusters.iter().any(compare::is_worse_than_wished);
    Ok(Report {
        from_unix_ms: question.from_unix_ms.max(began),
        to_unix_ms: question.to_unix_ms,
        clusters,
        troubles: troubles.iter().map(ToString::to_string).collect(),
        is_worse_than_wished,
    })
}

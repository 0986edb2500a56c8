//! The examination of the whole deployment: what `coroner doctor` prints.
//!
//! Asks everything that the arbiter can ask without harm, then judges. Touches nothing: fences are not rehearsed for it,
//! for that is done all the time, and `coroner fence test` does it at once.

mod judge;
mod timeline;

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use tokio::{task::spawn_blocking, time::timeout};

use super::handle::Handle;
use crate::{
    config::{self, Config},
    model::{
        ClusterName, Incident,
        doctor::{DoctorReport, MeshView, Rehearsal},
        status::{SignalStatus, Status},
    },
    sys::clock::{self, Stopwatch},
    telemetry::Metrics,
};

/// So many of the newest incidents of each cluster are looked at for measured times.
const INCIDENTS: u32 = 8;
/// Nothing that is asked may take longer than this.
const ASK_WITHIN: Duration = Duration::from_secs(3);

/// What was found out, before it is judged.
#[derive(Debug)]
struct Facts {
    config: Arc<Config>,
    status: Status,
    signals: BTreeMap<ClusterName, Vec<SignalStatus>>,
    on_disk: OnDisk,
    /// How long the store took to write and sync something, or why it did not.
    store: Result<Duration, String>,
    /// How long the decision loop took to answer.
    answered_in: Duration,
    loop_late: Duration,
    tilts: u64,
    history_dropped: i64,
    /// For how long the machine slept since its boot.
    slept: Duration,
    clock_source: Option<String>,
    mesh: Option<MeshView>,
    rehearsals: Vec<Rehearsal>,
    /// The newest first.
    incidents: BTreeMap<ClusterName, Vec<Incident>>,
}

/// The file as it lies on the disk, compared with what is in force.
#[derive(Debug, PartialEq, Eq)]
enum OnDisk {
    /// It means the same.
    Same,
    /// It means something else.
    Changed,
    /// It would be refused.
    Refused(String),
    /// Nobody knows where it is.
    Unknown,
}

/// Examines the deployment; only of one cluster, if one is named. `None`: the decision loop does not answer, or there is
/// no such cluster.
pub async fn examine(handle: &Handle, metrics: &Metrics, only: Option<&ClusterName>) -> Option<DoctorReport> {
    let watch = Stopwatch::start();
    let mut status = timeout(ASK_WITHIN, handle.status()).await.ok().flatten()?;
    let answered_in = watch.elapsed();
    let config = handle.config();
    if let Some(only) = only {
        status.clusters.retain(|cluster| cluster.cluster == *only);
        if status.clusters.is_empty() {
            return None;
        }
    }
    let (mut signals, mut incidents) = (BTreeMap::new(), BTreeMap::new());
    for cluster in status.clusters.iter().map(|cluster| &cluster.cluster) {
        let streams = timeout(ASK_WITHIN, handle.signals(cluster.clone())).await.ok().flatten();
        signals.insert(cluster.clone(), streams.unwrap_or_default());
        incidents.insert(cluster.clone(), newest_incidents(handle, cluster).await);
    }
    let now = clock::moment();
    let is_meant = |cluster: &ClusterName| only.is_none_or(|only| only == cluster);
    let facts = Facts {
        on_disk: on_disk(handle.file.as_deref(), &config).await,
        store: check_store(handle).await,
        answered_in,
        loop_late: Duration::try_from_secs_f64(metrics.loop_late.get()).unwrap_or_default(),
        tilts: metrics.tilts.get(),
        history_dropped: metrics.history_dropped.get(),
        slept: Duration::from_nanos(now.boot.0.saturating_sub(now.mono.0)),
        clock_source: clock_source(),
        mesh: timeout(ASK_WITHIN, handle.mesh()).await.ok().flatten(),
        rehearsals: handle.rehearsals().into_iter().filter(|rehearsal| is_meant(&rehearsal.cluster)).collect(),
        config,
        status,
        signals,
        incidents,
    };
    let timelines = facts.status.clusters.iter().filter_map(|cluster| timeline::timeline(&facts, &cluster.cluster));
    Some(DoctorReport {
        arbiter: facts.status.arbiter.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        policy_hash: facts.status.policy_hash.clone(),
        findings: judge::judge(&facts),
        timelines: timelines.collect(),
        rehearsals: facts.rehearsals.clone(),
        mesh: facts.mesh.clone(),
    })
}

async fn newest_incidents(handle: &Handle, cluster: &ClusterName) -> Vec<Incident> {
    let store = handle.store();
    let mut found = Vec::new();
    // What cannot be read was not measured; that the store is unwell is found elsewhere.
    let Ok(Ok(list)) = timeout(ASK_WITHIN, store.incidents(Some(cluster), INCIDENTS)).await else { return found };
    for brief in list {
        if let Ok(Ok(Some((incident, _)))) = timeout(ASK_WITHIN, store.incident(brief.id.as_str())).await {
            found.push(incident);
        }
    }
    found
}

async fn check_store(handle: &Handle) -> Result<Duration, String> {
    let watch = Stopwatch::start();
    match timeout(ASK_WITHIN, handle.store().check()).await {
        Ok(Ok(())) => Ok(watch.elapsed()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("it did not answer in time".into()),
    }
}

async fn on_disk(file: Option<&Path>, config: &Config) -> OnDisk {
    let Some(file) = file.map(Path::to_owned) else { return OnDisk::Unknown };
    match spawn_blocking(move || config::load(&file)).await {
        Ok(Ok(loaded)) if loaded.policy.hash == config.policy.hash => OnDisk::Same,
        Ok(Ok(_)) => OnDisk::Changed,
        Ok(Err(mistakes)) => OnDisk::Refused(mistakes.to_string()),
        Err(_) => OnDisk::Unknown,
    }
}

/// What the kernel counts time by; `None`: it does not say.
fn clock_source() -> Option<String> {
    let path = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    Some(std::fs::read_to_string(path).ok()?.trim().to_owned())
}

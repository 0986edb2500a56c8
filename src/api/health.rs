//! `/livez`, `/readyz`, `/metrics`: open to all, so what they cost is bounded by remembering the state for a moment.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
};
use serde_json::json;
use tokio::{sync::Mutex, time::timeout};

use super::Shared;
use crate::{
    model::{Mode, status::Status},
    sys::clock::Stopwatch,
    telemetry::{agents, events},
};

/// A state that is not older than this is good enough for a health check.
const STATUS_AGE: Duration = Duration::from_millis(200);
/// Metrics that are not older than this are good enough for a scrape.
const SCRAPE_AGE: Duration = Duration::from_secs(1);
/// Incidents looked at for `coroner_incidents_unacknowledged`.
const INCIDENTS: u32 = 500;

/// The newest state, and the newest rendered metrics.
#[derive(Default)]
pub(super) struct StatusCache {
    status: Mutex<Option<(Stopwatch, Arc<Status>)>>,
    scrape: Mutex<Option<(Stopwatch, Arc<str>)>>,
}

/// The state, not older than a moment. `None`: the decision loop does not answer.
async fn status(shared: &Shared) -> Option<Arc<Status>> {
    let mut cached = shared.status.status.lock().await;
    if let Some((age, status)) = &*cached
        && age.elapsed() < STATUS_AGE
    {
        return Some(Arc::clone(status));
    }
    let fresh = timeout(shared.options.limits.answer, shared.handle.status()).await.ok().flatten().map(Arc::new);
    *cached = fresh.clone().map(|status| (Stopwatch::start(), status));
    fresh
}

const UNANSWERED: &str = "the decision loop does not answer";

/// `GET /livez`: the decision loop turns.
pub(super) async fn livez(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    match status(&shared).await {
        Some(_) => (StatusCode::OK, Json(json!({ "live": true }))),
        None => (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "live": false, "error": UNANSWERED }))),
    }
}

/// `GET /readyz`: every cluster that is not in shadow mode could be failed over now.
pub(super) async fn readyz(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    let Some(status) = status(&shared).await else {
        return (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "ready": false, "error": UNANSWERED })));
    };
    let mut reasons = Vec::new();
    reasons.extend(status.tilt.iter().map(|reason| format!("tilt: {reason}")));
    reasons.extend(status.store_lost.iter().map(|reason| format!("store lost: {reason}")));
    for cluster in status.clusters.iter().filter(|cluster| cluster.mode != Mode::Shadow && !cluster.ready) {
        let blocking = cluster.blocking.iter().filter(|guard| guard.blocks);
        let guards: Vec<_> = blocking.map(|guard| format!("{}: {}", guard.guard, guard.reason)).collect();
        let why = if guards.is_empty() { "a failover could not be done now".to_owned() } else { guards.join("; ") };
        reasons.push(format!("{}: {why}", cluster.cluster));
    }
    if reasons.is_empty() {
        (StatusCode::OK, Json(json!({ "ready": true })))
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "ready": false, "reasons": reasons })))
    }
}

/// `GET /metrics`.
pub(super) async fn metrics(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    let mut cached = shared.status.scrape.lock().await;
    let text = match &*cached {
        Some((age, text)) if age.elapsed() < SCRAPE_AGE => Arc::clone(text),
        _ => {
            let text: Arc<str> = scrape(&shared).await.into();
            *cached = Some((Stopwatch::start(), Arc::clone(&text)));
            text
        }
    };
    ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text.to_string())
}

async fn scrape(shared: &Shared) -> String {
    let limit = shared.options.limits.answer;
    let Some(status) = status(shared).await else {
        return shared.metrics.scrape(|metrics| metrics.refreshed.set(0));
    };
    let signals = async {
        let mut signals = Vec::with_capacity(status.clusters.len());
        for cluster in &status.clusters {
            if let Some(streams) = shared.handle.signals(cluster.cluster.clone()).await {
                signals.push((cluster.cluster.clone(), streams));
            }
        }
        signals
    };
    let signals = timeout(limit, signals).await;
    let store = shared.handle.store();
    let incidents = timeout(limit, store.incidents(None, INCIDENTS)).await;
    let mesh = timeout(limit, shared.handle.mesh()).await.ok().flatten();
    let (config, rehearsals) = (shared.handle.config(), shared.handle.rehearsals());
    shared.metrics.scrape(|metrics| {
        metrics.refreshed.set(signals.is_ok().into());
        events::refresh(metrics, &status, signals.as_deref().unwrap_or_default());
        agents::refresh_fences(metrics, &config.policy, &rehearsals);
        agents::refresh_mesh(metrics, &config.policy, &status, mesh.as_ref());
        if let Ok(Ok(incidents)) = &incidents {
            events::refresh_incidents(metrics, &status, incidents);
        }
    })
}

//! Waiting for news: the long poll for the primary, and the stream of notices.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::StatusCode,
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use futures::stream;
use serde::Deserialize;
use serde_json::json;
use tokio::{
    sync::{OwnedSemaphorePermit, broadcast::error::RecvError},
    time::timeout,
};

use super::{
    Shared,
    auth::{Anyone, Viewer},
    control::bad_query,
    error::ApiError,
};
use crate::{
    arbiter::handle::TimedNotice,
    model::{ClusterName, Epoch, Notice, Span, status::PrimaryView},
};

const KEEP_ALIVE: Duration = Duration::from_secs(15);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PollQuery {
    /// The epoch of the primary that the asker follows.
    #[serde(default)]
    epoch: Option<Epoch>,
    #[serde(default)]
    wait: Option<Span>,
}

/// One place among the waiters, given back when dropped.
struct Waiting {
    _permit: OwnedSemaphorePermit,
    shared: Arc<Shared>,
}

impl Waiting {
    fn begin(shared: &Arc<Shared>) -> Result<Self, ApiError> {
        let permit = Arc::clone(&shared.waiters).try_acquire_owned().map_err(|_| {
            let text = "too many wait already: ask again in a second, or without `wait`";
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "waiters", text)
        })?;
        shared.metrics.api_waiters.inc();
        Ok(Self { _permit: permit, shared: Arc::clone(shared) })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.shared.metrics.api_waiters.dec();
    }
}

/// `GET /v1/clusters/{cluster}/primary?epoch=N&wait=30s`: answers at once when a primary of an epoch above N is known,
/// otherwise as soon as it is, or after `wait`: 304 if the asker has the newest, 200 without a primary if there is none
/// to follow. Without `epoch`, any known primary is news.
pub(super) async fn primary(
    State(shared): State<Arc<Shared>>,
    _: Anyone,
    Path(cluster): Path<String>,
    query: Result<Query<PollQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(|error| bad_query(&error, "epoch=NUMBER and wait=DURATION, such as wait=30s"))?;
    let mut view = shared.handle.primary(&cluster.as_str().into()).ok_or_else(|| ApiError::cluster(&cluster))?;
    let is_news = |view: &PrimaryView| view.primary.is_some() && query.epoch.is_none_or(|epoch| view.epoch > epoch);
    let mut now = view.borrow_and_update().clone();
    let wait = query.wait.map_or(Duration::ZERO, |wait| wait.0).min(shared.options.limits.wait);
    if !is_news(&now) && !wait.is_zero() {
        let _waiting = Waiting::begin(&shared)?;
        let news = timeout(wait, view.wait_for(is_news));
        tokio::select! {
            found = news => if let Ok(Ok(found)) = found { now = found.clone() },
            () = shared.stopping.cancelled() => {}
        }
        if !is_news(&now) {
            now = view.borrow().clone();
        }
    }
    let has_newest = now.primary.is_some() && !is_news(&now);
    Ok(if has_newest { StatusCode::NOT_MODIFIED.into_response() } else { Json(now).into_response() })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventsQuery {
    #[serde(default)]
    cluster: Option<ClusterName>,
}

/// `GET /v1/events`: notices from now on. Whoever reads too slowly gets an event `lagged` with the number missed.
pub(super) async fn events(
    State(shared): State<Arc<Shared>>,
    _: Viewer,
    query: Result<Query<EventsQuery>, QueryRejection>,
) -> Result<impl IntoResponse, ApiError> {
    let Query(query) = query.map_err(|error| bad_query(&error, "cluster=NAME"))?;
    let place = Waiting::begin(&shared)?;
    let notices = shared.handle.notices();
    let stream = stream::unfold((notices, place), move |(mut notices, place)| {
        let cluster = query.cluster.clone();
        async move {
            loop {
                let next = tokio::select! {
                    next = notices.recv() => next,
                    () = place.shared.stopping.cancelled() => return None,
                };
                let event = match next {
                    Ok(timed)
                        if cluster.is_none() || about(&timed.notice).is_none_or(|c| Some(c) == cluster.as_ref()) =>
                    {
                        notice_event(&timed)
                    }
                    Ok(_) => continue,
                    Err(RecvError::Lagged(missed)) => Event::default().event("lagged").data(missed.to_string()),
                    Err(RecvError::Closed) => return None,
                };
                return Some((Ok::<_, Infallible>(event), (notices, place)));
            }
        }
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

fn notice_event(timed: &TimedNotice) -> Event {
    let body = json!({ "at": timed.at, "unix_ms": timed.anchor.unix_ms_at(timed.at), "notice": timed.notice });
    Event::default().event("notice").data(body.to_string())
}

/// The cluster that a notice is about; `None`: the arbiter itself.
fn about(notice: &Notice) -> Option<&ClusterName> {
    match notice {
        Notice::VerdictChanged { cluster, .. }
        | Notice::RuleFired { cluster, .. }
        | Notice::RuleCleared { cluster, .. }
        | Notice::ActBlocked { cluster, .. }
        | Notice::GuardChanged { cluster, .. }
        | Notice::PrimaryChanged { cluster, .. }
        | Notice::TwoPrimaries { cluster, .. } => Some(cluster),
        Notice::IncidentUpdated(incident) => Some(&incident.cluster),
        Notice::Own { .. } => None,
    }
}

//! Views of the state, incidents, and commands.

use std::{collections::BTreeMap, future::Future, sync::Arc};

use axum::{
    Json,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::{
    Shared,
    auth::{Anyone, Operating, Viewer},
    error::ApiError,
    routes::WholeBody,
};
use crate::{
    arbiter::doctor::examine,
    model::{ClusterName, Command, doctor::FenceTest, status::PrimaryView},
    store::StoreError,
};

/// Incidents listed unless `limit` says otherwise, and at most.
const INCIDENTS: u32 = 50;
const INCIDENTS_MAX: u32 = 1_000;

/// Asks the decision loop, but not for ever.
pub(super) async fn ask<T>(shared: &Shared, question: impl Future<Output = Option<T>>) -> Result<Option<T>, ApiError> {
    timeout(shared.options.limits.answer, question).await.map_err(|_| ApiError::unanswered())
}

fn json<T: Serialize>(answer: Option<T>, cluster: &str) -> Result<Json<T>, ApiError> {
    answer.map(Json).ok_or_else(|| ApiError::cluster(cluster))
}

/// `GET /v1/status`.
pub(super) async fn status(State(shared): State<Arc<Shared>>, _: Viewer) -> Result<impl IntoResponse, ApiError> {
    ask(&shared, shared.handle.status()).await?.map(Json).ok_or_else(ApiError::unanswered)
}

/// `GET /v1/clusters/{cluster}/why`.
pub(super) async fn why(
    State(shared): State<Arc<Shared>>,
    _: Viewer,
    Path(cluster): Path<String>,
) -> Result<impl IntoResponse, ApiError> {
    json(ask(&shared, shared.handle.why(cluster.as_str().into())).await?, &cluster)
}

/// `GET /v1/clusters/{cluster}/why-not`.
pub(super) async fn why_not(
    State(shared): State<Arc<Shared>>,
    _: Viewer,
    Path(cluster): Path<String>,
) -> Result<impl IntoResponse, ApiError> {
    json(ask(&shared, shared.handle.why_not(cluster.as_str().into())).await?, &cluster)
}

/// `GET /v1/clusters/{cluster}/signals`.
pub(super) async fn signals(
    State(shared): State<Arc<Shared>>,
    _: Viewer,
    Path(cluster): Path<String>,
) -> Result<impl IntoResponse, ApiError> {
    json(ask(&shared, shared.handle.signals(cluster.as_str().into())).await?, &cluster)
}

/// `GET /v1/epoch`.
pub(super) async fn epoch(State(shared): State<Arc<Shared>>, _: Anyone) -> impl IntoResponse {
    let all: BTreeMap<ClusterName, PrimaryView> =
        shared.handle.primaries.load().iter().map(|(cluster, view)| (cluster.clone(), view.borrow().clone())).collect();
    Json(all)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    #[serde(default)]
    cluster: Option<ClusterName>,
    #[serde(default)]
    limit: Option<u32>,
}

/// `GET /v1/incidents`.
pub(super) async fn incidents(
    State(shared): State<Arc<Shared>>,
    _: Viewer,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<impl IntoResponse, ApiError> {
    let Query(query) = query.map_err(|error| bad_query(&error, "cluster=NAME and limit=NUMBER"))?;
    let limit = query.limit.unwrap_or(INCIDENTS).min(INCIDENTS_MAX);
    let list = shared.handle.store().incidents(query.cluster.as_ref(), limit).await.map_err(|error| store(&error))?;
    Ok(Json(list))
}

pub(super) fn bad_query(error: &QueryRejection, takes: &str) -> ApiError {
    ApiError::malformed(format!("{}; this takes {takes}", error.body_text()))
}

fn store(error: &StoreError) -> ApiError {
    let text = format!("the store cannot be read: {error}; look at its disk");
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "store", text)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IncidentQuery {
    #[serde(default)]
    format: IncidentFormat,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum IncidentFormat {
    #[default]
    Json,
    Markdown,
}

/// `GET /v1/incidents/{id}`. A unique beginning of the id is enough.
pub(super) async fn incident(
    State(shared): State<Arc<Shared>>,
    _: Viewer,
    Path(id): Path<String>,
    query: Result<Query<IncidentQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(|error| bad_query(&error, "format=json or format=markdown"))?;
    let found = shared.handle.store().incident(&id).await.map_err(|error| store(&error))?;
    let (incident, log) = found.ok_or_else(|| {
        ApiError::not_found(format!("there is no incident `{id}`, or several begin so: `GET /v1/incidents` lists them"))
    })?;
    match (query.format, shared.options.markdown) {
        (IncidentFormat::Json, _) => Ok(Json(serde_json::json!({ "incident": incident, "log": log })).into_response()),
        (IncidentFormat::Markdown, Some(render)) => {
            Ok(([(header::CONTENT_TYPE, "text/markdown; charset=utf-8")], render(&incident, &log)).into_response())
        }
        (IncidentFormat::Markdown, None) => {
            let text = "this arbiter renders no Markdown: ask for format=json";
            Err(ApiError::new(StatusCode::NOT_ACCEPTABLE, "malformed", text))
        }
    }
}

/// `POST /v1/command`.
pub(super) async fn command(
    State(shared): State<Arc<Shared>>,
    Operating(identity): Operating,
    WholeBody(body): WholeBody,
) -> Result<impl IntoResponse, ApiError> {
    let command: Command = serde_json::from_slice(&body).map_err(|error| {
        ApiError::malformed(format!("the body is no command: {error}; send {{\"command\": \"…\", …}}"))
    })?;
    let by = identity.operator();
    tracing::info!(%by, ?command, "A command came in.");
    // No deadline: whoever gave up waiting would not know whether it was done.
    Ok(Json(shared.handle.command(by, command).await?))
}

/// `POST /v1/clusters/{cluster}/fence-test`.
pub(super) async fn fence_test(
    State(shared): State<Arc<Shared>>,
    Operating(identity): Operating,
    Path(cluster): Path<String>,
    WholeBody(body): WholeBody,
) -> Result<impl IntoResponse, ApiError> {
    let test: FenceTest = if body.is_empty() { Ok(FenceTest::default()) } else { serde_json::from_slice(&body) }
        .map_err(|error| {
            let text = format!("the body does not say what to test: {error}; send {{}}, or `member` and `method`");
            ApiError::malformed(text)
        })?;
    tracing::info!(by = %identity.operator(), cluster, ?test, "A rehearsal of fences was asked for.");
    // Each method has its own deadline.
    Ok(Json(shared.handle.rehearse(cluster.as_str().into(), test).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DoctorQuery {
    #[serde(default)]
    cluster: Option<ClusterName>,
}

/// `GET /v1/doctor`.
pub(super) async fn doctor(
    State(shared): State<Arc<Shared>>,
    _: Viewer,
    query: Result<Query<DoctorQuery>, QueryRejection>,
) -> Result<impl IntoResponse, ApiError> {
    let Query(DoctorQuery { cluster }) = query.map_err(|error| bad_query(&error, "cluster=NAME"))?;
    // A cluster that is not in the file is told apart from a decision loop that does not answer.
    if let Some(cluster) = cluster.as_ref().filter(|cluster| shared.handle.primary(cluster).is_none()) {
        return Err(ApiError::cluster(cluster.as_str()));
    }
    let report = examine(&shared.handle, &shared.metrics, cluster.as_ref()).await;
    report.map(Json).ok_or_else(ApiError::unanswered)
}

/// `POST /v1/reload`.
pub(super) async fn reload(
    State(shared): State<Arc<Shared>>,
    operator: Operating,
) -> Result<impl IntoResponse, ApiError> {
    tracing::info!(by = %operator.0.operator(), "A reload was asked for.");
    match shared.handle.reload().await {
        Ok(text) => Ok(Json(serde_json::json!({ "text": text }))),
        Err(text) => Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "config", text)),
    }
}

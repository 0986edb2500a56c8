//! The routes, and what is common to all of them.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{FromRequest, MatchedPath, Request, State},
    http::{StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::Response,
    routing::{get, post},
};
use tokio::time::timeout;

use super::{
    Shared, control,
    error::{ApiError, Reason},
    health, ingest,
    limit::MAX_BODY,
    watch,
};

pub(super) fn router(shared: &Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/heartbeat", post(ingest::heartbeat))
        .route("/v1/arrivals", post(ingest::arrivals))
        .route("/v1/canary", post(ingest::canary))
        .route("/v1/alerts", post(ingest::alerts))
        .route("/v1/clusters/{cluster}/primary", get(watch::primary))
        .route("/v1/clusters/{cluster}/why", get(control::why))
        .route("/v1/clusters/{cluster}/why-not", get(control::why_not))
        .route("/v1/clusters/{cluster}/signals", get(control::signals))
        .route("/v1/clusters/{cluster}/fence-test", post(control::fence_test))
        .route("/v1/doctor", get(control::doctor))
        .route("/v1/events", get(watch::events))
        .route("/v1/epoch", get(control::epoch))
        .route("/v1/status", get(control::status))
        .route("/v1/incidents", get(control::incidents))
        .route("/v1/incidents/{id}", get(control::incident))
        .route("/v1/command", post(control::command))
        .route("/v1/reload", post(control::reload))
        .route("/metrics", get(health::metrics))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(no_such_route)
        .layer(from_fn_with_state(Arc::clone(shared), count))
        .with_state(Arc::clone(shared))
}

async fn no_such_route(request: Request) -> ApiError {
    ApiError::new(
        StatusCode::NOT_FOUND,
        "unknown_route",
        format!(
            "there is no `{}` here: the interface is under `/v1/`, with `/metrics`, `/livez`, `/readyz`",
            request.uri().path()
        ),
    )
}

async fn method_not_allowed(request: Request) -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method",
        format!("`{}` does not take {}: the `Allow` header says what it takes", request.uri().path(), request.method()),
    )
}

/// Counts every answer, and every refusal by its reason.
async fn count(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    let route = path.as_ref().map_or("other", MatchedPath::as_str);
    shared.metrics.api_requests.with_label_values(&[route, response.status().as_str()]).inc();
    if let Some(Reason(reason)) = response.extensions().get() {
        shared.metrics.rejected.with_label_values(&["http", reason]).inc();
    }
    response
}

/// A whole body within its bounds of size and time.
pub(super) struct WholeBody(pub(super) Bytes);

impl FromRequest<Arc<Shared>> for WholeBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, shared: &Arc<Shared>) -> Result<Self, ApiError> {
        let oversized = || {
            let text = format!("the body is longer than {MAX_BODY} bytes: send fewer elements at once");
            ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "oversized", text)
        };
        let announced =
            request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        if announced.is_some_and(|length: u64| length > MAX_BODY as u64) {
            return Err(oversized());
        }
        let limit: Duration = shared.options.limits.body;
        let body: Body = request.into_body();
        match timeout(limit, to_bytes(body, MAX_BODY)).await {
            Ok(Ok(bytes)) => Ok(Self(bytes)),
            Ok(Err(error)) if is_too_long(&error) => Err(oversized()),
            Ok(Err(error)) => Err(ApiError::malformed(format!("the body broke off: {error}"))),
            Err(_) => {
                let text = format!("the body was not complete after {limit:?}: send it at once");
                Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "slow", text))
            }
        }
    }
}

/// The bound of `to_bytes` shows only as an inner error.
fn is_too_long(error: &axum::Error) -> bool {
    std::error::Error::source(error).is_some_and(|inner| inner.to_string().contains("length limit"))
}

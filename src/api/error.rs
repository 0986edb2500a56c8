//! Refusals as JSON: `{"error": "…"}`, naming the mistake and the remedy.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;

use crate::model::{CommandError, command::CommandErrorCode};

/// A refused request.
#[derive(Debug)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    /// The label in `coroner_ingest_rejected_total`.
    pub(super) reason: &'static str,
    pub(super) text: String,
    pub(super) command: Option<Box<CommandError>>,
}

/// The reason of a refusal, left in the response for the layer that counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reason(pub(super) &'static str);

impl ApiError {
    pub(super) fn new(status: StatusCode, reason: &'static str, text: impl Into<String>) -> Self {
        Self { status, reason, text: text.into(), command: None }
    }

    pub(super) fn malformed(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed", text)
    }

    pub(super) fn not_found(text: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "unknown_name", text)
    }

    pub(super) fn forbidden(text: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", text)
    }

    pub(super) fn flood() -> Self {
        let text = "this identity sends too much: send less often, or in arrays of fewer elements";
        Self::new(StatusCode::TOO_MANY_REQUESTS, "flood", text)
    }

    pub(super) fn overloaded() -> Self {
        let text = "the arbiter is overloaded and did not take it: send it again in a second";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", text)
    }

    pub(super) fn unanswered() -> Self {
        let text = "the decision loop does not answer: the arbiter is starting, stopping, or overloaded";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", text)
    }

    pub(super) fn cluster(name: &str) -> Self {
        Self::not_found(format!("there is no cluster `{name}`: `GET /v1/epoch` lists those that there are"))
    }
}

impl From<CommandError> for ApiError {
    fn from(error: CommandError) -> Self {
        let status = match error.code {
            CommandErrorCode::NotFound => StatusCode::NOT_FOUND,
            CommandErrorCode::WrongState | CommandErrorCode::Blocked => StatusCode::CONFLICT,
            CommandErrorCode::Invalid => StatusCode::BAD_REQUEST,
            CommandErrorCode::Store => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self { status, reason: "command", text: error.text.clone(), command: Some(Box::new(error)) }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = match &self.command {
            Some(command) => {
                json!({ "error": self.text, "code": command.code, "text": command.text, "guards": command.guards })
            }
            None => json!({ "error": self.text }),
        };
        let mut response = (self.status, Json(body)).into_response();
        response.extensions_mut().insert(Reason(self.reason));
        let headers = response.headers_mut();
        match self.status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}

//! The way to one member's Jolokia agent: HTTP, credentials, bounded answers.

use std::{path::Path, time::Duration};

use reqwest::{Client, RequestBuilder, Url};
use serde_json::Value;

use super::{
    Jolokia,
    protocol::{self, Request, judge, judge_all},
};
use crate::{
    model::{Failure, FailureKind, Secret, Target},
    sys::http,
};

const MAX_ANSWER: usize = 1024 * 1024;

/// Opens a new connection for each request, so that what refuses new ones shows.
pub(super) struct Door {
    client: Client,
    url: String,
    credentials: Credentials,
    max_answer: usize,
    reads_by_get: bool,
}

enum Credentials {
    None,
    Basic(String, Option<Secret>),
    Bearer(Secret),
}

impl Door {
    pub(super) fn new(config: &Jolokia) -> Result<Self, String> {
        let credentials = match (&config.user, &config.token) {
            (Some(_), Some(_)) => {
                return Err("jolokia: `user` and `token` exclude each other; write one of them".into());
            }
            (None, None) if config.password.is_some() => {
                // Some agents are set up with an empty user name; that has to be meant.
                return Err("jolokia: `password` without `user`; write `user: \"\"` if it is empty".into());
            }
            (None, None) => Credentials::None,
            (Some(user), None) => Credentials::Basic(user.clone(), config.password.clone()),
            (None, Some(token)) => Credentials::Bearer(token.clone()),
        };
        let max_answer = config.max_answer.map_or(MAX_ANSWER, |bytes| usize::try_from(bytes).unwrap_or(MAX_ANSWER));
        Ok(Self {
            client: http::client(config.ca.as_deref().map(Path::new))?,
            url: config.url.clone().unwrap_or_else(|| "http://{address}/jolokia".into()),
            credentials,
            max_answer,
            reads_by_get: config.reads_by_get.unwrap_or(false),
        })
    }

    fn with_credentials(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.credentials {
            Credentials::None => request,
            Credentials::Basic(user, password) => request.basic_auth(user, password.as_ref().map(Secret::expose)),
            Credentials::Bearer(token) => request.bearer_auth(token.expose()),
        }
    }

    fn base(&self, target: &Target) -> Result<Url, Failure> {
        let url = target.expand(&self.url);
        // The agent answers below its own path; without the slash some servers redirect.
        let url = format!("{}/", url.trim_end_matches('/'));
        Url::parse(&url)
            .map_err(|e| Failure::new(FailureKind::Local, format!("`url` gives no URL for {}: {e}", target.member)))
    }

    /// Sends one request; the failure, and whether the request may have arrived.
    pub(super) async fn ask(
        &self,
        target: &Target,
        request: &Request,
        limit: Duration,
    ) -> Result<Value, (Failure, bool)> {
        let base = self.base(target).map_err(|failure| (failure, false))?;
        let is_question = !matches!(request, Request::Write { .. } | Request::Exec { .. });
        let path = if self.reads_by_get && is_question { request.get_path() } else { None };
        let built = match path {
            // Already encoded; `join` would take the escapes apart.
            Some(path) => self.client.get(format!("{base}{path}")),
            None => self.client.post(base).json(&request.body()),
        };
        let answer = self.send(built, limit).await?;
        judge(request, &answer).map_err(|failure| (failure, true))
    }

    /// Several questions in one request; each has its own answer.
    pub(super) async fn ask_all(
        &self,
        target: &Target,
        requests: &[Request],
        limit: Duration,
    ) -> Result<Vec<Result<Value, Failure>>, Failure> {
        if self.reads_by_get || requests.len() == 1 {
            let mut answers = Vec::with_capacity(requests.len());
            for request in requests {
                let answer = self.ask(target, request, limit).await.map_err(|(failure, _)| failure);
                // Whoever does not answer once is not asked the rest.
                match answer {
                    Err(failure) if !says_something(&failure) => return Err(failure),
                    answer => answers.push(answer),
                }
            }
            return Ok(answers);
        }
        let body: Vec<Value> = requests.iter().map(Request::body).collect();
        let request = self.client.post(self.base(target)?).json(&body);
        let answer = self.send(request, limit).await.map_err(|(failure, _)| failure)?;
        judge_all(requests, &answer)
    }

    async fn send(&self, request: RequestBuilder, limit: Duration) -> Result<Value, (Failure, bool)> {
        let (status, body) = http::ask(self.with_credentials(request), limit, self.max_answer).await?;
        protocol::read(status, &body).map_err(|failure| (failure, true))
    }

    /// A plain request to the service itself: status and the beginning of the answer.
    pub(super) async fn post(
        &self,
        url: &str,
        content_type: &str,
        body: String,
        limit: Duration,
    ) -> Result<(u16, String), (Failure, bool)> {
        let request = self.client.post(url).header("content-type", content_type).body(body);
        let (status, body) = http::ask(self.with_credentials(request), limit, self.max_answer).await?;
        Ok((status, String::from_utf8_lossy(&body).chars().take(300).collect()))
    }
}

/// Whether the agent itself said it, rather than nobody.
fn says_something(failure: &Failure) -> bool {
    !matches!(
        failure.kind,
        FailureKind::Refused
            | FailureKind::TimedOut
            | FailureKind::Unreachable
            | FailureKind::Reset
            | FailureKind::Tls
            | FailureKind::Local
    )
}

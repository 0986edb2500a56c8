//! A node's way to the arbiter: reports, acknowledged canaries, and the question whom to follow.

use std::time::Duration;

use serde::Serialize;

use crate::{
    cli::{
        client::{innermost, segment},
        exit::{Code, Failure},
    },
    model::{ClusterName, Epoch, NodeName, Secret, observation::Arrivals, status::PrimaryView},
};

/// How long the arbiter may hold the question for the primary open.
const LONG_POLL: Duration = Duration::from_secs(20);
/// How long a report may take. The next one comes soon.
const REPORT_WITHIN: Duration = Duration::from_secs(1);

/// One node's way to the arbiter. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    http: reqwest::Client,
    base: String,
    token: Option<Secret>,
    cluster: ClusterName,
    node: NodeName,
    signal: Option<String>,
}

#[derive(Serialize)]
struct Report<'a> {
    cluster: &'a ClusterName,
    node: &'a NodeName,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<&'a str>,
    #[serde(flatten)]
    arrivals: &'a Arrivals,
}

#[derive(Serialize)]
struct Canary<'a> {
    cluster: &'a ClusterName,
    node: &'a NodeName,
    id: &'a str,
}

impl Link {
    /// Prepares the way; nothing is opened yet.
    pub(crate) fn new(
        base: &str,
        token: Option<Secret>,
        cluster: &str,
        node: &str,
        signal: Option<String>,
    ) -> Result<Self, Failure> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .connect_timeout(Duration::from_millis(500))
            .tls_certs_only([])
            .build()
            .map_err(|e| Failure::new(Code::Internal, format!("The HTTP client cannot be made: {}.", innermost(&e))))?;
        let base = base.trim_end_matches('/').to_owned();
        Ok(Self { http, base, token, cluster: cluster.into(), node: node.into(), signal })
    }

    /// Tells what arrived and what was tried.
    pub(crate) async fn report(&self, arrivals: &Arrivals) -> Result<(), String> {
        let body = Report { cluster: &self.cluster, node: &self.node, signal: self.signal.as_deref(), arrivals };
        self.tell("/v1/arrivals", &body).await
    }

    /// Tells that a canary arrived.
    pub(crate) async fn canary(&self, id: &str) -> Result<(), String> {
        let body = Canary { cluster: &self.cluster, node: &self.node, id };
        self.tell("/v1/canary", &body).await
    }

    /// Asks whom to follow; answers when it is something newer than `epoch`, or after a while with nothing.
    pub(crate) async fn primary(&self, epoch: Epoch) -> Result<Option<PrimaryView>, String> {
        let cluster = segment(self.cluster.as_str());
        // Epoch 0 is a guess of ours: whatever the arbiter knows is news then.
        let newer = if epoch == Epoch::ZERO { String::new() } else { format!("&epoch={epoch}") };
        let url = format!("{}/v1/clusters/{cluster}/primary?wait={}s{newer}", self.base, LONG_POLL.as_secs());
        let request = self.authorised(self.http.get(url)).timeout(LONG_POLL + Duration::from_secs(5));
        let response = request.send().await.map_err(|e| innermost(&e))?;
        match response.status().as_u16() {
            304 => Ok(None),
            200 => {
                let body = response.bytes().await.map_err(|e| innermost(&e))?;
                serde_json::from_slice(&body).map(Some).map_err(|e| e.to_string())
            }
            status => Err(format!("HTTP {status}")),
        }
    }

    async fn tell(&self, path: &str, body: &impl Serialize) -> Result<(), String> {
        let request = self.http.post(format!("{}{path}", self.base)).json(body).timeout(REPORT_WITHIN);
        let response = self.authorised(request).send().await.map_err(|e| innermost(&e))?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let words: String = response.text().await.unwrap_or_default().chars().take(200).collect();
        Err(format!("HTTP {}: {words}", status.as_u16()))
    }

    fn authorised(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match &self.token {
            Some(token) => request.bearer_auth(token.expose()),
            None => request,
        }
    }
}

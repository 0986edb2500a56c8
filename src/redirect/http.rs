//! A notice to each node.

use std::{collections::BTreeMap, path::Path, time::Duration};

use async_trait::async_trait;
use futures::future::join_all;
use reqwest::{
    Client, Method, Url,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::Redirect;
use crate::{
    model::{ActError, Done, NodeName, NodeTarget, Order, Secret, StepResult},
    sys::{clock::Stopwatch, hook, http},
};

/// Sends `{"cluster","primary","address","epoch","incident"}` to every node that has an address, and to `urls`.
/// A node acknowledges with a 2xx status; one that has seen a larger epoch answers 409. All are told side by side,
/// and those that do not answer are told again until the time is over.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// Path at each node. Default `/primary`.
    pub path: Option<String>,
    /// More URLs to tell, such as a proxy's.
    pub urls: Vec<String>,
    /// Default `POST`.
    pub method: Option<String>,
    /// Headers.
    pub headers: BTreeMap<String, Secret>,
    /// The body, a template; default: the JSON above.
    pub body: Option<String>,
    /// Use `https` for the nodes. Default false: plain `http`.
    pub tls: bool,
    /// Trust only the authorities in this PEM file. Default: those of the system.
    pub ca_file: Option<String>,
}

/// Longest answer that is read.
const ANSWER: usize = 64 * 1024;

/// One try may take this long, if there is time for another one after it.
const TRY: Duration = Duration::from_secs(2);

impl Http {
    pub(super) fn build(&self) -> Result<Box<dyn Redirect>, String> {
        let method = match self.method.as_deref() {
            None | Some("POST") => Method::POST,
            Some("PUT") => Method::PUT,
            Some("PATCH") => Method::PATCH,
            Some("GET") => Method::GET,
            Some(other) => return Err(format!("`method: {other}` is not one of POST, PUT, PATCH, GET")),
        };
        let path = self.path.clone().unwrap_or_else(|| "/primary".into());
        if !path.starts_with('/') {
            return Err(format!("`path: {path}` has to begin with a slash"));
        }
        if let Some(body) = &self.body {
            hook::check_template(body)?;
        }
        for url in &self.urls {
            Url::parse(url).map_err(|e| format!("one of `urls` is not understood: {e}"))?;
        }
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("application/json"));
        for (name, value) in &self.headers {
            let mut value =
                HeaderValue::from_str(value.expose()).map_err(|_| format!("header `{name}` has no legal value"))?;
            value.set_sensitive(true);
            let name =
                HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("`{name}` is no name of a header"))?;
            headers.insert(name, value);
        }
        let client = http::client(self.ca_file.as_deref().map(Path::new))?;
        Ok(Box::new(Notice { config: self.clone(), client, method, path, headers }))
    }
}

struct Notice {
    config: Http,
    client: Client,
    method: Method,
    path: String,
    headers: HeaderMap,
}

/// One to be told.
struct Receiver {
    name: NodeName,
    url: String,
}

impl Notice {
    fn receivers(&self, nodes: &[NodeTarget]) -> Vec<Receiver> {
        let scheme = if self.config.tls { "https" } else { "http" };
        let nodes = nodes.iter().filter_map(|node| {
            let url = format!("{scheme}://{}{}", node.address.as_ref()?, self.path);
            Some(Receiver { name: node.node.clone(), url })
        });
        let urls = self.config.urls.iter().map(|url| Receiver { name: shown(url).into(), url: url.clone() });
        nodes.chain(urls).collect()
    }

    fn body(&self, order: &Order) -> Result<String, String> {
        match &self.config.body {
            Some(template) => hook::render(template, order),
            None => Ok(json!({
                "cluster": order.target.cluster,
                "primary": order.target.member,
                "address": order.target.address,
                "epoch": order.epoch,
                "incident": order.incident,
            })
            .to_string()),
        }
    }

    /// Tells one until it acknowledges, refuses for good, or the time is over.
    async fn tell(&self, receiver: &Receiver, body: &str, deadline: Duration) -> Result<(), String> {
        let watch = Stopwatch::start();
        let mut pause = Duration::from_millis(50);
        loop {
            let left = deadline.saturating_sub(watch.elapsed());
            let request = self
                .client
                .request(self.method.clone(), receiver.url.as_str())
                .headers(self.headers.clone())
                .body(body.to_owned());
            let why = match http::ask(request, left.min(TRY), ANSWER).await {
                Ok((200..=299, _)) => return Ok(()),
                Ok((409, _)) => return Err("it knows a larger epoch (status 409)".into()),
                // Told once more, it would say the same.
                Ok((status @ (400..=407 | 410..=424 | 501), _)) => {
                    return Err(format!("it refused with status {status}"));
                }
                Ok((status, _)) => format!("it answered with status {status}"),
                Err((failure, _)) => failure.to_string(),
            };
            if watch.elapsed() + pause >= deadline {
                return Err(why);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }
}

/// The URL without what may be secret in it.
fn shown(url: &str) -> String {
    let Ok(mut url) = Url::parse(url) else { return "an URL".into() };
    // Both fail only for URLs that can have neither.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    url.into()
}

#[async_trait]
impl Redirect for Notice {
    fn label(&self) -> String {
        format!("http {}", self.path)
    }

    async fn redirect(&self, order: &Order, nodes: &[NodeTarget], deadline: Duration) -> StepResult {
        let body = match self.body(order) {
            Ok(body) => body,
            Err(e) => return StepResult::Failed(ActError::nothing_done(format!("redirect by {}", self.label()), e)),
        };
        let receivers = self.receivers(nodes);
        if receivers.is_empty() {
            return StepResult::Done(Done::new("nobody was told: no node has an address"));
        }
        let results = join_all(receivers.iter().map(|receiver| self.tell(receiver, &body, deadline))).await;
        let (mut acknowledged, mut failed) = (Vec::new(), Vec::new());
        for (receiver, result) in receivers.into_iter().zip(results) {
            match result {
                Ok(()) => acknowledged.push(receiver.name),
                Err(why) => failed.push((receiver.name, why)),
            }
        }
        StepResult::Told { acknowledged, failed }
    }
}

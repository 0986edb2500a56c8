//! A request to something that can stop it.
//!
//! When it lies: a 2xx says that the order was taken, and often the work only begins then. So it is a claim, and
//! `status` is asked again and again until it confirms or the time is over.

use std::{collections::BTreeMap, path::Path, time::Duration};

use async_trait::async_trait;
use reqwest::{
    Client, Method as Verb, Url,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::{net::TcpStream, time::timeout};

use super::{Fence, exec::vouched};
use crate::{
    model::{ActError, Done, FenceHealth, FenceReport, Order, Proof, Secret, Target, time::human},
    sys::{clock::Stopwatch, hook, http},
};

/// Longest answer that is looked at.
const ANSWER: usize = 1024 * 1024;

/// Sends a request that fences, and one that reads back.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// The request that fences.
    pub fence: Request,
    /// The request that reads back: all its expectations met means fenced.
    pub status: Option<Request>,
    /// The request that lifts the fence.
    pub unfence: Option<Request>,
    /// What the operator vouches for when `status` confirms. Default `claim`.
    pub proof: Option<Proof>,
    /// Trust only the authorities in this PEM file. Default: those of the system.
    pub ca_file: Option<String>,
}

/// One request, and what its answer must be.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Request {
    /// `GET`, `POST`, `PUT`, `PATCH`, `DELETE`. Default `POST`, and `GET` for `status`.
    pub method: Option<String>,
    /// The URL. `{member}`, `{host}`, `{port}` are put in.
    pub url: String,
    /// Headers.
    pub headers: BTreeMap<String, Secret>,
    /// The body, a template: `{{ cluster }}`, `{{ member }}`, `{{ address }}`, `{{ epoch }}`, `{{ incident }}`.
    pub body: Option<String>,
    /// Statuses that are right. Default: any 2xx.
    pub status: Vec<u16>,
    /// JSON pointers into the answer and the values they must have: `/state: "off"`.
    pub json: BTreeMap<String, serde_json::Value>,
}

impl Http {
    pub(super) fn build(&self) -> Result<Box<dyn Fence>, String> {
        let proof = vouched(self.proof, self.status.is_some())?;
        let client = http::client(self.ca_file.as_deref().map(Path::new))?;
        let call = |what: &str, request: &Request, verb| {
            Call::new(request, verb, &client).map_err(|e| format!("`{what}`: {e}"))
        };
        Ok(Box::new(Method {
            url: self.fence.url.clone(),
            fence: call("fence", &self.fence, Verb::POST)?,
            status: self.status.as_ref().map(|r| call("status", r, Verb::GET)).transpose()?,
            unfence: self.unfence.as_ref().map(|r| call("unfence", r, Verb::POST)).transpose()?,
            proof,
        }))
    }
}

struct Method {
    url: String,
    fence: Call,
    status: Option<Call>,
    unfence: Option<Call>,
    proof: Proof,
}

/// A request, understood.
struct Call {
    client: Client,
    verb: Verb,
    headers: HeaderMap,
    request: Request,
}

/// What came of a request.
enum Answer {
    /// All that was expected.
    Right(String),
    /// The right status, and then something else than expected.
    Other(String),
    /// Another status.
    Status(String),
    /// No answer; `true`: the request may have arrived.
    None(String, bool),
}

impl Call {
    fn new(request: &Request, verb: Verb, client: &Client) -> Result<Self, String> {
        if request.url.is_empty() {
            return Err("`url` is missing".into());
        }
        let verb = match request.method.as_deref() {
            None => verb,
            Some("GET") => Verb::GET,
            Some("POST") => Verb::POST,
            Some("PUT") => Verb::PUT,
            Some("PATCH") => Verb::PATCH,
            Some("DELETE") => Verb::DELETE,
            Some(other) => return Err(format!("`method: {other}` is not one of GET, POST, PUT, PATCH, DELETE")),
        };
        if let Some(body) = &request.body {
            hook::check_template(body)?;
        }
        Ok(Self { client: client.clone(), verb, headers: headers(&request.headers)?, request: request.clone() })
    }

    async fn send(&self, order: &Order, deadline: Duration) -> Answer {
        let url = match Url::parse(&order.target.expand(&self.request.url)) {
            Ok(url) => url,
            Err(e) => return Answer::None(format!("the URL is not understood: {e}"), false),
        };
        let mut request = self.client.request(self.verb.clone(), url).headers(self.headers.clone());
        match self.request.body.as_deref().map(|body| hook::render(body, order)).transpose() {
            Ok(Some(body)) => request = request.body(body),
            Ok(None) => {}
            Err(e) => return Answer::None(e, false),
        }
        let (status, body) = match http::ask(request, deadline, ANSWER).await {
            Ok(answer) => answer,
            Err((failure, may_have_arrived)) => return Answer::None(failure.to_string(), may_have_arrived),
        };
        let is_right = if self.request.status.is_empty() {
            (200..300).contains(&status)
        } else {
            self.request.status.contains(&status)
        };
        if !is_right {
            return Answer::Status(format!("answered with status {status}"));
        }
        if self.request.json.is_empty() {
            return Answer::Right(format!("answered with status {status}"));
        }
        let Ok(value) = serde_json::from_slice(&body) else {
            return Answer::Status(format!("answered with status {status} and no JSON"));
        };
        match http::json_matches(&value, &self.request.json) {
            Ok(()) => Answer::Right(format!("answered with status {status} and as expected")),
            Err(e) => Answer::Other(format!("answered with status {status}, but {e}")),
        }
    }
}

/// Headers as the wire wants them, their values kept out of every log.
fn headers(texts: &BTreeMap<String, Secret>) -> Result<HeaderMap, String> {
    let mut map = HeaderMap::new();
    for (name, value) in texts {
        let mut value =
            HeaderValue::from_str(value.expose()).map_err(|_| format!("header `{name}` has no legal value"))?;
        value.set_sensitive(true);
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("`{name}` is no name of a header"))?;
        map.insert(name, value);
    }
    // A body without a type is refused by many; a template is most often JSON.
    map.entry("content-type").or_insert(HeaderValue::from_static("application/json"));
    Ok(map)
}

/// The URL without what may be secret in it.
fn shown(url: &str) -> String {
    let end = url.find(['?', '#']).unwrap_or(url.len());
    match url[..end].split_once("://") {
        Some((scheme, rest)) => {
            let host = rest.find('/').map_or(rest, |slash| &rest[..slash]);
            let rest = host.rfind('@').map_or(rest, |at| &rest[at + 1..]);
            format!("{scheme}://{rest}")
        }
        None => url[..end].to_owned(),
    }
}

#[async_trait]
impl Fence for Method {
    fn label(&self) -> String {
        format!("http {}", shown(&self.url))
    }

    fn best_proof(&self) -> Proof {
        self.proof
    }

    async fn check(&self, target: &Target, deadline: Duration) -> FenceHealth {
        let health = |usable, detail| FenceHealth { usable, detail };
        // Reading back changes nothing, so it may be tried; the order's epoch and incident are left at nothing.
        if let Some(status) = &self.status
            && status.verb == Verb::GET
        {
            let order = Order { target: target.clone(), epoch: Default::default(), incident: "check".into() };
            return match status.send(&order, deadline).await {
                Answer::Right(said) | Answer::Other(said) => health(Some(true), format!("`status` {said}")),
                Answer::Status(said) | Answer::None(said, _) => health(Some(false), format!("`status`: {said}")),
            };
        }
        let Some((host, port)) = Url::parse(&target.expand(&self.url))
            .ok()
            .and_then(|url| Some((url.host_str()?.trim_matches(['[', ']']).to_owned(), url.port_or_known_default()?)))
        else {
            return health(Some(false), "the URL is not understood".into());
        };
        match timeout(deadline, TcpStream::connect((host.as_str(), port))).await {
            Ok(Ok(_)) => health(None, format!("{host}:{port} can be reached; without `status` nothing more is known")),
            Ok(Err(e)) => health(Some(false), format!("{host}:{port} cannot be reached: {e}")),
            Err(_) => health(Some(false), format!("{host}:{port} did not answer within {}", human(deadline))),
        }
    }

    async fn fence(&self, order: &Order, deadline: Duration) -> FenceReport {
        let watch = Stopwatch::start();
        let own = if self.status.is_some() { deadline * 3 / 4 } else { deadline };
        let answer = self.fence.send(order, own).await;
        let Some(status) = &self.status else {
            return match answer {
                Answer::Right(said) => FenceReport::confirmed(Proof::Claim, said),
                Answer::None(said, false) => FenceReport::refuted(format!("nothing was done: {said}")),
                Answer::Other(said) | Answer::Status(said) | Answer::None(said, true) => FenceReport::unknown(said),
            };
        };
        let (Answer::Right(said) | Answer::Other(said) | Answer::Status(said) | Answer::None(said, _)) = answer;
        let mut pause = Duration::from_millis(50);
        loop {
            let left = deadline.saturating_sub(watch.elapsed());
            let read = status.send(order, left).await;
            let is_last = deadline.saturating_sub(watch.elapsed()) <= pause;
            match read {
                Answer::Right(read) => {
                    return FenceReport::confirmed(self.proof, format!("{said}; `status` {read}: fenced"));
                }
                Answer::Other(read) if is_last => {
                    return FenceReport::refuted(format!("{said}; `status` {read}: not fenced"));
                }
                Answer::Status(read) | Answer::None(read, _) if is_last => {
                    return FenceReport::unknown(format!("{said}; `status`: {read}"));
                }
                _ => {}
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    async fn unfence(&self, order: &Order, deadline: Duration) -> Result<Done, ActError> {
        let Some(unfence) = &self.unfence else {
            return Ok(Done::new("nothing to lift: no `unfence` is configured"));
        };
        let attempted = format!("lift {} on {}", self.label(), order.target.member);
        match unfence.send(order, deadline).await {
            Answer::Right(said) => Ok(Done::new(said)),
            Answer::None(said, false) => Err(ActError::nothing_done(attempted, said)),
            Answer::Other(said) | Answer::Status(said) | Answer::None(said, true) => {
                Err(ActError::uncertain(attempted, said))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_holds_no_secret() {
        assert_eq!(shown("https://user:hunter2@bmc/off?token=hunter2"), "https://bmc/off");
        assert_eq!(shown("http://10.0.0.1:80/a@b"), "http://10.0.0.1:80/a@b");
    }

    #[test]
    fn what_cannot_work_is_said_beforehand() {
        let url = "http://127.0.0.1/off".to_owned();
        let with = |f: fn(&mut Http)| {
            let mut config = Http { fence: Request { url: url.clone(), ..Request::default() }, ..Http::default() };
            f(&mut config);
            config.build().err().unwrap_or_default()
        };
        assert_eq!(with(|_| {}), "");
        assert!(with(|c| c.fence.url.clear()).contains("`url` is missing"));
        assert!(with(|c| c.fence.method = Some("BREW".into())).contains("BREW"));
        assert!(with(|c| c.fence.body = Some("{{ member".into())).contains("template"));
        assert!(with(|c| c.proof = Some(Proof::PowerOff)).contains("needs `status`"));
        assert!(with(|c| c.ca_file = Some("/no/such/file".into())).contains("/no/such/file"));
    }
}

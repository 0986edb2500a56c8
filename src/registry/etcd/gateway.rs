//! etcd's own HTTP: JSON in and out, keys and values in base64, over several endpoints.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::{
    model::{Secret, time::human},
    registry::RegistryError,
    sys::{clock::Stopwatch, http},
};

/// No answer that we ask for is longer.
const ANSWER_MAX: usize = 64 * 1024 * 1024;

/// What etcd says when it did nothing and will not: refused before it was proposed, or by what was applied.
const REFUSALS: [&str; 11] = [
    "permission denied",
    "user name is empty",
    "user name not found",
    "authentication failed",
    "auth: ",
    "database space exceeded",
    "no leader",
    "too many requests",
    "duplicate key",
    "too many operations",
    "request is too large",
];

/// One operation's time.
pub(super) struct Deadline {
    watch: Stopwatch,
    limit: Duration,
}

impl Deadline {
    pub(super) fn start(limit: Duration) -> Self {
        Self { watch: Stopwatch::start(), limit }
    }

    fn left(&self) -> Duration {
        self.limit.saturating_sub(self.watch.elapsed())
    }
}

/// The members of one cluster.
pub(super) struct Gateway {
    client: reqwest::Client,
    endpoints: Vec<String>,
    /// The one that answered last.
    preferred: AtomicUsize,
    user: Option<(String, Secret)>,
    token: Mutex<Option<String>>,
}

enum Answer {
    /// The answer.
    Ok(Value),
    /// The token is not known (any more). Nothing was done.
    Stranger,
    /// It refused. Nothing was done.
    Refused(String),
    /// It never arrived.
    Nowhere(String),
    /// It may have been done.
    Lost(String),
}

impl Gateway {
    pub(super) fn new(client: reqwest::Client, endpoints: Vec<String>, user: Option<(String, Secret)>) -> Self {
        Self { client, endpoints, preferred: AtomicUsize::new(0), user, token: Mutex::new(None) }
    }

    /// The members, for people.
    pub(super) fn places(&self) -> String {
        let hosts: Vec<&str> =
            self.endpoints.iter().map(|e| e.split_once("://").map_or(e.as_str(), |(_, host)| host)).collect();
        hosts.join(",")
    }

    /// Asks one member after the other until one answers. What writes is sent to a second one only if the first never
    /// got it.
    pub(super) async fn ask(
        &self,
        path: &str,
        body: &Value,
        writes: bool,
        deadline: &Deadline,
    ) -> Result<Value, RegistryError> {
        let mut told = String::new();
        let mut is_stranger = false;
        let mut tried = 0;
        while tried < self.endpoints.len() {
            let index = self.preferred.load(Ordering::Relaxed) % self.endpoints.len();
            // One that is silent must leave the others time for an answer.
            let share = deadline.left() / u32::try_from(self.endpoints.len() - tried).unwrap_or(1);
            if share.is_zero() {
                break;
            }
            if self.user.is_some() && self.token().is_none() {
                match self.enter(index, share).await {
                    Answer::Ok(answer) => {
                        let token = answer["token"].as_str().map(str::to_owned);
                        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = token;
                        if self.token().is_none() {
                            return Err(RegistryError::Failed("etcd gave no token for the user".into()));
                        }
                        continue;
                    }
                    Answer::Refused(text) => {
                        return Err(RegistryError::Failed(format!("the user of etcd is refused: {text}")));
                    }
                    Answer::Stranger => return Err(RegistryError::Failed("the user of etcd is refused".into())),
                    Answer::Nowhere(text) | Answer::Lost(text) => {
                        told = text;
                        tried += 1;
                        self.next(index);
                        continue;
                    }
                }
            }
            match self.once(index, path, body, share).await {
                Answer::Ok(answer) => return Ok(answer),
                Answer::Stranger if !is_stranger && self.user.is_some() => {
                    is_stranger = true;
                    *self.token.lock().unwrap_or_else(PoisonError::into_inner) = None;
                }
                Answer::Stranger => return Err(RegistryError::Failed("etcd does not take its own token".into())),
                Answer::Refused(text) => return Err(RegistryError::Failed(format!("etcd refused: {text}"))),
                Answer::Nowhere(text) => {
                    told = text;
                    tried += 1;
                    self.next(index);
                }
                Answer::Lost(text) => {
                    self.next(index);
                    if writes {
                        return Err(RegistryError::Unknown(format!("etcd at {}: {text}", self.places())));
                    }
                    told = text;
                    tried += 1;
                }
            }
        }
        if told.is_empty() {
            told = format!("no time was left to ask, of {}", human(deadline.limit));
        }
        Err(RegistryError::Failed(format!("etcd at {} cannot be used: {told}", self.places())))
    }

    fn next(&self, from: usize) {
        // If somebody else moved on already, that is as good.
        let _ = self.preferred.compare_exchange(from, from + 1, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn token(&self) -> Option<String> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn enter(&self, index: usize, share: Duration) -> Answer {
        let Some((name, password)) = &self.user else { return Answer::Refused("nobody is named".into()) };
        let body = json!({"name": name, "password": password.expose()});
        self.once(index, "auth/authenticate", &body, share).await
    }

    async fn once(&self, index: usize, path: &str, body: &Value, share: Duration) -> Answer {
        let mut request = self.client.post(format!("{}/v3/{path}", self.endpoints[index])).body(body.to_string());
        if let Some(token) = self.token() {
            request = request.header("authorization", token);
        }
        let (status, bytes) = match http::ask(request, share, ANSWER_MAX).await {
            Ok(answer) => answer,
            Err((failure, true)) => return Answer::Lost(failure.to_string()),
            Err((failure, false)) => return Answer::Nowhere(failure.to_string()),
        };
        let Ok(answer) = serde_json::from_slice::<Value>(&bytes) else {
            return Answer::Lost(format!("what answers does not speak etcd's JSON (status {status})"));
        };
        if status == 200 && answer.get("error").is_none() {
            return Answer::Ok(answer);
        }
        // A stream's error stands below `error`, another's is `error`.
        let error = &answer["error"];
        let text = error.as_str().or_else(|| error["message"].as_str()).unwrap_or("an error without words").to_owned();
        if text.contains("invalid auth token") || text.contains("auth: revision in header is old") {
            Answer::Stranger
        } else if text.contains("lease not found") || REFUSALS.iter().any(|known| text.contains(known)) {
            Answer::Refused(text)
        } else {
            Answer::Lost(text)
        }
    }
}

/// To base64.
pub(super) fn to(text: impl AsRef<[u8]>) -> String {
    STANDARD.encode(text)
}

/// From base64; what is none is nothing.
pub(super) fn from(value: &Value) -> String {
    let bytes = value.as_str().and_then(|text| STANDARD.decode(text).ok()).unwrap_or_default();
    String::from_utf8(bytes).unwrap_or_default()
}

/// A number, which etcd writes as a string, or leaves out when it is 0.
pub(super) fn number(value: &Value) -> u64 {
    value.as_str().and_then(|text| text.parse().ok()).or_else(|| value.as_u64()).unwrap_or(0)
}

/// The key after all that begin so.
pub(super) fn after(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    // Our prefixes are ASCII: the last byte has a successor.
    if let Some(last) = end.last_mut() {
        *last = last.saturating_add(1);
    }
    end
}

/// A question within a transaction, or alone.
pub(super) fn range(key: &str) -> Value {
    json!({"key": to(key)})
}

/// From `key` up to and without `end`.
pub(super) fn span(key: &str, end: impl AsRef<[u8]>) -> Value {
    json!({"key": to(key), "range_end": to(end)})
}

/// Its place in a transaction.
pub(super) fn ask(range: Value) -> Value {
    json!({"request_range": range})
}

/// A write in a transaction.
pub(super) fn put(key: &str, text: &str) -> Value {
    json!({"request_put": {"key": to(key), "value": to(text)}})
}

/// That a key is there, or is not.
pub(super) fn exists(key: &str, is: bool) -> Value {
    let result = if is { "GREATER" } else { "EQUAL" };
    json!({"key": to(key), "target": "CREATE", "result": result, "create_revision": "0"})
}

/// That a key is as it was when it was read: changed last then.
pub(super) fn unchanged(key: &str, modified: u64) -> Value {
    json!({"key": to(key), "target": "MOD", "result": "EQUAL", "mod_revision": modified.to_string()})
}

/// What a range found.
pub(super) fn found(response: &Value) -> &[Value] {
    response["response_range"]["kvs"].as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_strings_or_left_out() {
        assert_eq!(number(&json!("12")), 12);
        assert_eq!(number(&json!(12)), 12);
        assert_eq!(number(&Value::Null), 0);
    }

    #[test]
    fn a_prefix_ends_before_its_successor() {
        assert_eq!(after("coroner/rows/"), b"coroner/rows0");
        assert_eq!(from(&json!(to("ä"))), "ä");
    }
}

//! The Jolokia protocol, pure: requests as JSON and as paths, answers and what their errors mean.
//!
//! A Jolokia agent answers HTTP 200 to nearly everything; what became of the request stands in the body, as `status`,
//! `error_type` and `error`. So the body alone is believed, and only where it is missing the HTTP status.

use serde_json::{Map, Value, json};

use crate::model::{Failure, FailureKind};

/// One question or order.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Whether an agent is there, and which.
    Version,
    /// One attribute, or all of them without a name; the path leads into its value.
    Read {
        /// The MBean's name.
        mbean: String,
        /// The attribute.
        attribute: Option<String>,
        /// Steps into the value, not escaped.
        path: Vec<String>,
    },
    /// Sets an attribute, or what the path leads to inside it.
    Write {
        /// The MBean's name.
        mbean: String,
        /// The attribute.
        attribute: String,
        /// Steps into the value, not escaped.
        path: Vec<String>,
        /// The new value.
        value: Value,
    },
    /// Calls an operation.
    Exec {
        /// The MBean's name.
        mbean: String,
        /// The operation; with its signature where it is overloaded: `addSyncPeer(java.lang.String,java.lang.String)`.
        operation: String,
        /// The arguments, in their order.
        arguments: Vec<Value>,
    },
    /// What MBeans there are with what they offer; the path narrows it (`[domain, properties, attr]`).
    List {
        /// Steps into the answer, not escaped.
        path: Vec<String>,
    },
    /// The names of MBeans that match a pattern.
    Search {
        /// The pattern: `ReplicationCluster:*`.
        mbean: String,
    },
}

impl Request {
    /// The body of a POST, which has no trouble with any character of a name.
    #[must_use]
    pub fn body(&self) -> Value {
        let mut map = Map::new();
        let mut set = |key: &str, value: Value| drop(map.insert(key.to_owned(), value));
        set("type", json!(self.word()));
        let inner = match self {
            Self::Version => None,
            Self::Read { mbean, attribute, path } => {
                set("mbean", json!(mbean));
                if let Some(attribute) = attribute {
                    set("attribute", json!(attribute));
                }
                Some(path)
            }
            Self::Write { mbean, attribute, path, value } => {
                set("mbean", json!(mbean));
                set("attribute", json!(attribute));
                set("value", value.clone());
                Some(path)
            }
            Self::Exec { mbean, operation, arguments } => {
                set("mbean", json!(mbean));
                set("operation", json!(operation));
                set("arguments", json!(arguments));
                None
            }
            Self::List { path } => Some(path),
            Self::Search { mbean } => {
                set("mbean", json!(mbean));
                None
            }
        };
        if let Some(path) = inner.filter(|path| !path.is_empty()) {
            set("path", json!(inner_path(path)));
        }
        Value::Object(map)
    }

    /// The path of a GET below the agent's URL. For agents behind something that lets no POST through. `None` for what
    /// a path cannot say: a value or argument that is no plain text, number or truth value.
    #[must_use]
    pub fn get_path(&self) -> Option<String> {
        // Escaped as the protocol wants; for the URL they are encoded at the end.
        let mut parts = vec![self.word().to_owned()];
        let mut push = |text: &str| parts.push(escape(text));
        match self {
            Self::Version => {}
            Self::Read { mbean, attribute, path } => {
                push(mbean);
                attribute.iter().chain(path).for_each(|step| push(step));
            }
            Self::Write { mbean, attribute, path, value } => {
                push(mbean);
                push(attribute);
                parts.push(plain(value)?);
                parts.extend(path.iter().map(|step| escape(step)));
            }
            Self::Exec { mbean, operation, arguments } => {
                push(mbean);
                push(operation);
                for argument in arguments {
                    parts.push(plain(argument)?);
                }
            }
            Self::List { path } => path.iter().for_each(|step| push(step)),
            Self::Search { mbean } => push(mbean),
        }
        Some(parts.iter().map(|part| percent(part)).collect::<Vec<_>>().join("/"))
    }

    const fn word(&self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::Read { .. } => "read",
            Self::Write { .. } => "write",
            Self::Exec { .. } => "exec",
            Self::List { .. } => "list",
            Self::Search { .. } => "search",
        }
    }

    /// In words, for errors.
    #[must_use]
    pub fn describe(&self) -> String {
        let into = |path: &[String]| if path.is_empty() { String::new() } else { format!("/{}", inner_path(path)) };
        match self {
            Self::Version => "version".into(),
            Self::Read { mbean, attribute: Some(attribute), path } => {
                format!("read {attribute}{} of {mbean}", into(path))
            }
            Self::Read { mbean, attribute: None, .. } => format!("read all of {mbean}"),
            Self::Write { mbean, attribute, path, value } => {
                format!("write {attribute}{} = {value} at {mbean}", into(path))
            }
            Self::Exec { mbean, operation, .. } => format!("exec {operation} at {mbean}"),
            Self::List { path } => format!("list{}", into(path)),
            Self::Search { mbean } => format!("search {mbean}"),
        }
    }
}

/// A value as a step of a path, escaped; `[null]` and `""` are how the protocol writes nothing and the empty text there.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::Null => Some("[null]".into()),
        Value::String(text) if text.is_empty() => Some("\"\"".into()),
        Value::String(text) => Some(escape(text)),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::Array(_) | Value::Object(_) => None,
    }
}

/// Steps into a value as the `path` of a POST takes them.
#[must_use]
pub fn inner_path(steps: &[String]) -> String {
    steps.iter().map(|step| escape(step)).collect::<Vec<_>>().join("/")
}

/// One step of a path: `!` is the protocol's own escape, for itself, for slashes and for quotes.
#[must_use]
pub fn escape(step: &str) -> String {
    let mut out = String::with_capacity(step.len());
    for c in step.chars() {
        if matches!(c, '!' | '/' | '"') {
            out.push('!');
        }
        out.push(c);
    }
    out
}

/// Takes an escaped path apart again.
#[must_use]
pub fn unescape(path: &str) -> Vec<String> {
    let mut steps = vec![String::new()];
    let mut is_escaped = false;
    for c in path.chars() {
        let last = steps.len() - 1;
        match c {
            '!' if !is_escaped => is_escaped = true,
            '/' if !is_escaped => steps.push(String::new()),
            _ => {
                is_escaped = false;
                steps[last].push(c);
            }
        }
    }
    steps
}

/// For a URL: everything but letters, digits and what MBean names commonly hold. The escape `!/` keeps its slash
/// encoded, so that no server in between takes it for a step.
fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~!:=,*()".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// What one answer says: its value, or how asking failed.
///
/// # Errors
/// The failure, by what the agent tells of it.
pub fn judge(request: &Request, answer: &Value) -> Result<Value, Failure> {
    let failed = |kind, text: String| Err(Failure::new(kind, format!("{}: {text}", request.describe())));
    let Some(status) = answer.get("status").and_then(Value::as_u64) else {
        return failed(FailureKind::Parse, "the answer has no `status`: is this a Jolokia agent?".into());
    };
    if status == 200 {
        return match answer.get("value") {
            Some(value) => Ok(value.clone()),
            None => failed(FailureKind::Parse, "the answer has no `value`".into()),
        };
    }
    let word = |key: &str| answer.get(key).and_then(Value::as_str).unwrap_or_default();
    let (kind, error) = (word("error_type"), word("error"));
    let text = format!("status {status}, {}", short(if error.is_empty() { kind } else { error }));
    failed(kind_of_error(status, kind, error, word("stacktrace")), text)
}

/// Which failure an error inside an answer is. The JVM has answered, so nothing here but an error of the MBean itself may
/// count towards a death: not a right that is missing, not a name that is not there (yet), not a request of ours that is
/// wrong, and not a timeout that the MBean had elsewhere.
fn kind_of_error(status: u64, kind: &str, error: &str, stacktrace: &str) -> FailureKind {
    let class = kind.rsplit('.').next().unwrap_or(kind);
    let says = |text: &str| error.contains(text) || stacktrace.contains(text);
    if matches!(status, 401 | 403) || class == "SecurityException" || class.contains("Authentication") {
        return FailureKind::Auth;
    }
    if status == 404 || matches!(class, "InstanceNotFoundException" | "AttributeNotFoundException") {
        return FailureKind::NotFound;
    }
    if class.contains("Timeout") || says("TimeoutException") {
        // The nearest of those that say nothing of the subject's health.
        return FailureKind::Parse;
    }
    if is_read_only(error) {
        return FailureKind::ReadOnly;
    }
    if status == 400 || matches!(class, "IllegalArgumentException" | "MalformedObjectNameException") {
        return FailureKind::Parse;
    }
    if class == "OutOfMemoryError" || says("No space left on device") {
        return FailureKind::Full;
    }
    FailureKind::WrongAnswer
}

/// Whether a refusal says in so many words that it is for being read-only.
#[must_use]
pub fn is_read_only(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    ["read-only", "read only", "readonly"].iter().any(|word| text.contains(word))
}

/// Reads an answer: the body alone is believed, and only where it is none of the protocol's, the HTTP status.
///
/// # Errors
/// Nobody answered who speaks the protocol.
pub fn read(http_status: u16, body: &[u8]) -> Result<Value, Failure> {
    match serde_json::from_slice::<Value>(body) {
        Ok(value) if value.is_array() || value.get("status").is_some() => Ok(value),
        _ => {
            judge_http(http_status)?;
            Err(Failure::new(FailureKind::Parse, "the answer is no JSON of a Jolokia agent: correct `url`"))
        }
    }
}

/// What the answer to several questions in one request says: to each its own.
///
/// # Errors
/// The request was answered as a whole, or not all of it was.
pub fn judge_all(requests: &[Request], answer: &Value) -> Result<Vec<Result<Value, Failure>>, Failure> {
    let Value::Array(list) = answer else {
        // A policy that refuses the whole request answers with one object.
        return Err(requests.first().map_or_else(
            || Failure::new(FailureKind::Parse, "an empty question"),
            |first| match judge(first, answer) {
                Err(failure) => failure,
                Ok(_) => Failure::new(FailureKind::Parse, "several questions got one answer"),
            },
        ));
    };
    if list.len() != requests.len() {
        let text = format!("{} questions got {} answers", requests.len(), list.len());
        return Err(Failure::new(FailureKind::Parse, text));
    }
    Ok(requests.iter().zip(list).map(|(request, answer)| judge(request, answer)).collect())
}

/// What an HTTP status without a body of the protocol means.
///
/// # Errors
/// Always, but for 2xx.
pub fn judge_http(status: u16) -> Result<(), Failure> {
    let (kind, text) = match status {
        200..=299 => return Ok(()),
        401 | 403 => (FailureKind::Auth, "our credentials were refused"),
        404 | 405 => (FailureKind::NotFound, "no Jolokia agent answers at that URL"),
        300..=399 => (FailureKind::NotFound, "it leads elsewhere, and redirects are not followed: correct `url`"),
        408 | 504 => (FailureKind::Parse, "something in between had a timeout"),
        429 | 503 => (FailureKind::Overloaded, "it is busy, or not ready"),
        _ => (FailureKind::WrongAnswer, "it failed"),
    };
    Err(Failure::new(kind, format!("HTTP {status}: {text}")))
}

fn short(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEAN: &str = "ReplicationCluster:name=ClusterInfo/master-1";

    fn read(attribute: &str, path: &[&str]) -> Request {
        let path = path.iter().map(|p| (*p).to_owned()).collect();
        Request::Read { mbean: BEAN.into(), attribute: Some(attribute.into()), path }
    }

    #[test]
    fn names_are_escaped_as_the_protocol_wants() {
        assert_eq!(
            read("NodeStatus", &[]).get_path().unwrap(),
            "read/ReplicationCluster:name=ClusterInfo!%2Fmaster-1/NodeStatus"
        );
        assert_eq!(escape(r#"a/b!c"d"#), r#"a!/b!!c!"d"#);
        assert_eq!(unescape(&inner_path(&["a/b".into(), "!".into(), "\"".into()])), ["a/b", "!", "\""]);
        assert_eq!(read("X", &["a/b", "c"]).body()["path"], "a!/b/c");
        assert!(read("X", &[]).body().get("path").is_none());
        let exec = Request::Exec {
            mbean: BEAN.into(),
            operation: "op".into(),
            arguments: vec![json!(""), json!(null), json!(1)],
        };
        assert!(exec.get_path().unwrap().ends_with("/op/%22%22/%5Bnull%5D/1"), "{:?}", exec.get_path());
        let list = Request::Exec { mbean: BEAN.into(), operation: "op".into(), arguments: vec![json!([1])] };
        assert_eq!(list.get_path(), None);
        assert_eq!(
            Request::List { path: vec!["java.lang".into(), "type=Memory".into()] }.get_path().unwrap(),
            "list/java.lang/type=Memory"
        );
    }

    #[test]
    fn an_error_inside_a_200_keeps_its_kind() {
        let cases = [
            (404, "javax.management.InstanceNotFoundException", "no such bean", FailureKind::NotFound),
            (404, "javax.management.AttributeNotFoundException", "No such attribute", FailureKind::NotFound),
            (403, "java.lang.Exception", "not allowed by policy", FailureKind::Auth),
            (500, "java.lang.SecurityException", "no access", FailureKind::Auth),
            (500, "java.util.concurrent.TimeoutException", "waited 30s", FailureKind::Parse),
            (400, "java.lang.IllegalArgumentException", "Invalid operation", FailureKind::Parse),
            (500, "java.lang.IllegalStateException", "The cluster is in READ-ONLY mode", FailureKind::ReadOnly),
            (500, "javax.management.MBeanException", "it broke", FailureKind::WrongAnswer),
            (500, "java.lang.OutOfMemoryError", "Java heap space", FailureKind::Full),
        ];
        for (status, kind, error, expected) in cases {
            let answer =
                json!({"status": status, "error_type": kind, "error": error, "stacktrace": format!("{kind}: {error}")});
            let failure = judge(&Request::Version, &answer).unwrap_err();
            assert_eq!(failure.kind, expected, "{kind}: {failure}");
        }
        for never in [FailureKind::Auth, FailureKind::NotFound, FailureKind::Parse] {
            assert!(!never.is_evidence());
        }
        assert_eq!(judge(&Request::Version, &json!({"status": 200, "value": null})), Ok(Value::Null));
        assert_eq!(judge(&Request::Version, &json!({"hello": 1})).unwrap_err().kind, FailureKind::Parse);
        assert_eq!(judge_http(401).unwrap_err().kind, FailureKind::Auth);
        assert!(judge_http(200).is_ok());
    }
}

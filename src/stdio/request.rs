//! Requests: a body's fields, with their types. Fields that a request does not know are passed over, as Maelstrom does.

use serde_json::{Map, Value};

use super::{
    Entry,
    error::{Code, Refusal, quoted},
};

/// So many messages are read unless a `limit` is given.
pub const READ_DEFAULT: usize = 1_000;
/// A `limit` may be this large.
pub const READ_MAX: usize = 10_000;
/// So many nodes may be named.
const NODES_MAX: usize = 9;
/// A name may be this long.
const NAME_MAX: usize = 63;

/// What somebody asks.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Request {
    Init { node_id: String, node_ids: Vec<String> },
    ShadowStatus,
    TriggerFailover { failed_master: String },
    Append(Entry),
    Read { from: u64, limit: usize },
    PauseShadow,
    ResumeShadow,
}

/// All types, for the words of an error.
const TYPES: &str = "init, shadow_status, trigger_failover, append, read, pause_shadow, resume_shadow";

impl Request {
    /// Reads a body.
    pub(super) fn read(body: &Map<String, Value>) -> Result<Self, Refusal> {
        match string(body, "type")?.as_str() {
            "init" => Self::init(body),
            "shadow_status" => Ok(Self::ShadowStatus),
            "trigger_failover" => Ok(Self::TriggerFailover { failed_master: string(body, "failed_master")? }),
            "append" => Self::append(body),
            "read" => Self::read_from(body),
            "pause_shadow" => Ok(Self::PauseShadow),
            "resume_shadow" => Ok(Self::ResumeShadow),
            other => {
                let text = format!("there is no request of the type {}; there are {TYPES}.", quoted(other));
                Err(Refusal::new(Code::NotSupported, text))
            }
        }
    }

    fn init(body: &Map<String, Value>) -> Result<Self, Refusal> {
        let node_id = string(body, "node_id")?;
        let no_list = || Refusal::malformed("`node_ids` is to be a list of strings.");
        let Some(Value::Array(list)) = body.get("node_ids") else { return Err(no_list()) };
        if list.len() > NODES_MAX {
            return Err(Refusal::malformed(format!("`node_ids` names {} nodes; {NODES_MAX} may be.", list.len())));
        }
        let mut node_ids: Vec<String> = Vec::new();
        for value in list {
            let name = value.as_str().ok_or_else(no_list)?;
            let is_fit = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(is_fit) {
                let text = format!(
                    "{} cannot be a node's name: use 1 to {NAME_MAX} of the characters a-z, A-Z, 0-9, `-`, `_` and `.`.",
                    quoted(name)
                );
                return Err(Refusal::malformed(text));
            }
            if node_ids.iter().any(|other| other == name) {
                return Err(Refusal::malformed(format!("`node_ids` names {} twice.", quoted(name))));
            }
            node_ids.push(name.to_owned());
        }
        if !node_ids.contains(&node_id) {
            return Err(Refusal::malformed(format!("`node_id` {} is not among `node_ids`.", quoted(&node_id))));
        }
        Ok(Self::Init { node_id, node_ids })
    }

    fn append(body: &Map<String, Value>) -> Result<Self, Refusal> {
        let key = match body.get("key") {
            None | Some(Value::Null) => None,
            Some(Value::String(key)) => Some(key.clone()),
            Some(_) => return Err(Refusal::malformed("`key` is to be a string.")),
        };
        let message = match (body.get("message"), body.get("value")) {
            (Some(message), None) | (None, Some(message)) => message.clone(),
            (None, None) => return Err(Refusal::malformed("`message` is missing: any JSON, or `value` instead.")),
            (Some(_), Some(_)) => return Err(Refusal::malformed("`message` and `value` mean the same: write one.")),
        };
        Ok(Self::Append(Entry { key, message }))
    }

    fn read_from(body: &Map<String, Value>) -> Result<Self, Refusal> {
        let number = |name: &str, default: u64| match body.get(name) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => value
                .as_u64()
                .ok_or_else(|| Refusal::malformed(format!("`{name}` is to be a whole number that is not negative."))),
        };
        let from = number("from", 0)?;
        let limit = number("limit", READ_DEFAULT as u64)?;
        match usize::try_from(limit) {
            Ok(limit @ 1..=READ_MAX) => Ok(Self::Read { from, limit }),
            _ => Err(Refusal::malformed(format!("`limit` is to be a number from 1 to {READ_MAX}."))),
        }
    }
}

fn string(body: &Map<String, Value>, name: &str) -> Result<String, Refusal> {
    match body.get(name) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(Refusal::malformed(format!("`{name}` is to be a string."))),
        None => Err(Refusal::malformed(format!("`{name}` is missing in the body."))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(body: Value) -> Result<Request, (u16, String)> {
        let Value::Object(body) = body else { panic!("an object") };
        Request::read(&body).map_err(|refusal| (refusal.code.number(), refusal.text))
    }

    #[test]
    fn good_bodies_are_read() {
        for (body, request) in [
            (
                json!({ "type": "init", "node_id": "n1", "node_ids": ["n1", "n2"] }),
                Request::Init { node_id: "n1".into(), node_ids: vec!["n1".into(), "n2".into()] },
            ),
            (json!({ "type": "shadow_status", "more": 7 }), Request::ShadowStatus),
            (
                json!({ "type": "trigger_failover", "failed_master": "m" }),
                Request::TriggerFailover { failed_master: "m".into() },
            ),
            (
                json!({ "type": "append", "value": [1, null] }),
                Request::Append(Entry { key: None, message: json!([1, null]) }),
            ),
            (
                json!({ "type": "append", "key": "k", "message": null }),
                Request::Append(Entry { key: Some("k".into()), message: Value::Null }),
            ),
            (json!({ "type": "read" }), Request::Read { from: 0, limit: READ_DEFAULT }),
            (json!({ "type": "read", "from": 7, "limit": 1 }), Request::Read { from: 7, limit: 1 }),
            (json!({ "type": "pause_shadow" }), Request::PauseShadow),
            (json!({ "type": "resume_shadow" }), Request::ResumeShadow),
        ] {
            assert_eq!(read(body), Ok(request));
        }
    }

    #[test]
    fn bad_bodies_say_what_is_wrong_with_them() {
        let init = |node_ids: Value| json!({ "type": "init", "node_id": "n1", "node_ids": node_ids });
        for (body, code, words) in [
            (json!({}), 12, "`type` is missing"),
            (json!({ "type": 7 }), 12, "`type` is to be a string"),
            (json!({ "type": "echo" }), 10, "no request of the type `echo`"),
            (json!({ "type": "init" }), 12, "`node_id` is missing"),
            (init(json!("n1")), 12, "list of strings"),
            (init(json!(["n1", 2])), 12, "list of strings"),
            (init(json!(["n1", "n1"])), 12, "twice"),
            (init(json!(["n1", "a b"])), 12, "cannot be a node's name"),
            (init(json!(["n1", "x".repeat(64)])), 12, "cannot be a node's name"),
            (init(json!([])), 12, "not among"),
            (init(json!(["n2"])), 12, "not among"),
            (init(json!(vec!["n"; 10])), 12, "10 nodes"),
            (json!({ "type": "trigger_failover" }), 12, "`failed_master` is missing"),
            (json!({ "type": "append" }), 12, "`message` is missing"),
            (json!({ "type": "append", "message": 1, "value": 1 }), 12, "write one"),
            (json!({ "type": "append", "message": 1, "key": 1 }), 12, "`key`"),
            (json!({ "type": "read", "from": -1 }), 12, "`from`"),
            (json!({ "type": "read", "limit": 0 }), 12, "`limit`"),
            (json!({ "type": "read", "limit": 10_001 }), 12, "`limit`"),
        ] {
            let (found, text) = read(body.clone()).unwrap_err();
            assert_eq!(found, code, "{body}: {text}");
            assert!(text.contains(words), "{body}: {text}");
        }
    }
}

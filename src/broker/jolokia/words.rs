//! What the operator writes: questions, conditions, steps; and the texts that are put into them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::protocol::Request;
use crate::model::{MemberName, Target};

/// One value of an MBean.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Read {
    /// The MBean. Default: `mbean` of the kind.
    pub mbean: Option<String>,
    /// The attribute.
    pub attribute: String,
    /// Steps into its value, where that is composite: `[HeapMemoryUsage, used]`.
    pub path: Vec<String>,
}

/// A condition on one value of an MBean: exactly one of `is`, `not`, `has`, `lacks`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Check {
    /// The MBean. Default: `mbean` of the kind.
    pub mbean: Option<String>,
    /// The attribute.
    pub attribute: String,
    /// Steps into its value, where that is composite.
    pub path: Vec<String>,
    /// It is this, or one of this list.
    pub is: Option<Value>,
    /// It is none of these.
    pub not: Option<Value>,
    /// This stands somewhere in it as a word of its own: in a text, a list, or a map.
    pub has: Option<String>,
    /// This stands nowhere in it.
    pub lacks: Option<String>,
}

/// An attribute to set.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Write {
    /// The MBean. Default: `mbean` of the kind.
    pub mbean: Option<String>,
    /// The attribute.
    pub attribute: String,
    /// Steps into its value, where that is composite.
    pub path: Vec<String>,
    /// What it becomes.
    pub value: Value,
}

/// An operation to call.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Exec {
    /// The MBean. Default: `mbean` of the kind.
    pub mbean: Option<String>,
    /// The operation; with its signature where it is overloaded.
    pub operation: String,
    /// Its arguments.
    pub arguments: Vec<Value>,
}

/// A write of the service's own, which a read-only member refuses: the proof that no flag can give.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TryWrite {
    /// The URL to post to.
    pub url: String,
    /// The `content-type`.
    pub content_type: String,
    /// The body. It has to change nothing that the service uses: take away what is not there.
    pub body: String,
}

/// At whom a step is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum At {
    /// At the member that the act is about.
    #[default]
    Member,
    /// At the other: in `follow` the new primary. In `promote` the others may be dead, so that nothing is done there.
    Other,
}

/// One step: it looks, acts if what it is for is not so yet, and looks again until it is. A step that only looks waits.
/// Where its texts speak of `{other…}` it is done for each other member that the act knows.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Step {
    /// What it is for, in words for the report.
    pub name: String,
    /// At whom.
    pub at: At,
    /// Left out unless this is so when its turn comes.
    pub only_if: Option<Check>,
    /// Sets an attribute.
    pub write: Option<Write>,
    /// Calls an operation.
    pub exec: Option<Exec>,
    /// When it is done. Default for `write`: the attribute reads as what was written.
    pub until: Option<Check>,
}

impl Step {
    /// When it is done.
    pub(super) fn goal(&self) -> Option<Check> {
        self.until.clone().or_else(|| {
            let Write { mbean, attribute, path, value } = self.write.clone()?;
            Some(Check { mbean, attribute, path, is: Some(value), ..Check::default() })
        })
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if self.name.is_empty() {
            return Err("every step needs a `name`, which stands in the report".into());
        }
        let fail = |what: &str| Err(format!("the step `{}`: {what}", self.name));
        if self.write.is_some() && self.exec.is_some() {
            return fail("`write` and `exec` exclude each other; make two steps of them");
        }
        let Some(goal) = self.goal() else {
            return fail("`until` is missing: nobody could say whether it was done");
        };
        if self.exec.as_ref().is_some_and(|exec| exec.operation.is_empty()) {
            return fail("`operation` is missing");
        }
        let checks = [Some(&goal), self.only_if.as_ref()];
        checks
            .into_iter()
            .flatten()
            .try_for_each(Check::check)
            .map_err(|why| format!("the step `{}`: {why}", self.name))
    }

    /// Whether it speaks of the other members, and has to be done for each of them.
    pub(super) fn is_for_each_other(&self) -> bool {
        let text = format!("{:?}{:?}{:?}", self.write, self.exec, self.until);
        self.at == At::Other || text.contains("{other")
    }
}

impl Check {
    pub(super) fn check(&self) -> Result<(), String> {
        if self.attribute.is_empty() {
            return Err("`attribute` is missing".into());
        }
        let ways = [self.is.is_some(), self.not.is_some(), self.has.is_some(), self.lacks.is_some()];
        match ways.into_iter().filter(|way| *way).count() {
            1 => Ok(()),
            _ => Err(format!("`{}` needs exactly one of `is`, `not`, `has`, `lacks`", self.attribute)),
        }
    }

    pub(super) fn read(&self) -> Read {
        Read { mbean: self.mbean.clone(), attribute: self.attribute.clone(), path: self.path.clone() }
    }

    /// Whether the value meets it.
    pub(super) fn is_met(&self, value: &Value, words: &Words<'_>) -> bool {
        let one_of = |wanted: &Value| {
            let wanted = words.put_into_value(wanted);
            // A list may be meant as the value itself, too.
            same(value, &wanted) || wanted.as_array().is_some_and(|list| list.iter().any(|w| same(value, w)))
        };
        match (&self.is, &self.not, &self.has, &self.lacks) {
            (Some(is), ..) => one_of(is),
            (_, Some(not), ..) => !one_of(not),
            (_, _, Some(has), _) => holds(value, &words.put_into(has)),
            (.., Some(lacks)) => !holds(value, &words.put_into(lacks)),
            (None, None, None, None) => false,
        }
    }

    /// In words.
    pub(super) fn describe(&self, words: &Words<'_>) -> String {
        let (verb, what) = match (&self.is, &self.not, &self.has, &self.lacks) {
            (Some(is), ..) => ("is", words.put_into_value(is).to_string()),
            (_, Some(not), ..) => ("is not", words.put_into_value(not).to_string()),
            (_, _, Some(has), _) => ("has", words.put_into(has)),
            (.., Some(lacks)) => ("lacks", words.put_into(lacks)),
            (None, None, None, None) => ("", String::new()),
        };
        format!("{} {verb} {what}", self.attribute)
    }
}

/// Numbers are equal when their values are; a truth value or number may have come as text.
fn same(have: &Value, want: &Value) -> bool {
    let as_text = |v: &Value| match v {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(v.to_string()),
        _ => None,
    };
    have == want
        || matches!((have.as_f64(), want.as_f64()), (Some(a), Some(b)) if a == b)
        || matches!((as_text(have), as_text(want)), (Some(a), Some(b)) if a == b)
}

/// Whether the word stands in the value, not as a part of a longer one: `…/master-1` is not in `…/master-10`.
fn holds(value: &Value, word: &str) -> bool {
    match value {
        Value::String(text) => has_word(text, word),
        Value::Array(list) => list.iter().any(|v| holds(v, word)),
        Value::Object(map) => map.iter().any(|(key, v)| has_word(key, word) || holds(v, word)),
        Value::Bool(_) | Value::Number(_) => {
            let text = value.to_string();
            text == word
        }
        Value::Null => false,
    }
}

fn has_word(text: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | ':');
    // Only where the word itself begins or ends with such a character does its neighbour matter.
    let (first, last) = (word.chars().next(), word.chars().next_back());
    !word.is_empty()
        && text.match_indices(word).any(|(at, _)| {
            let before = text[..at].chars().next_back().filter(|_| first.is_some_and(is_part));
            let after = text[at + word.len()..].chars().next().filter(|_| last.is_some_and(is_part));
            !before.is_some_and(is_part) && !after.is_some_and(is_part)
        })
}

/// What is known of a member beyond its name and address, by the operator's word.
pub(super) type Facts = BTreeMap<String, String>;

/// What is put into texts: `{repository}`, the member's `{member}`, `{address}`, `{host}` and own words, and the other's
/// as `{other}`, `{other.address}`, `{other.WORD}`.
#[derive(Clone, Copy)]
pub(super) struct Words<'a> {
    pub(super) shared: &'a Facts,
    pub(super) members: &'a BTreeMap<String, Facts>,
    /// Whom the act is about.
    pub(super) member: &'a Target,
    pub(super) other: Option<&'a Other>,
}

/// Another member; its address is known only where the act names it.
#[derive(Clone, Debug)]
pub(super) struct Other {
    pub(super) name: MemberName,
    pub(super) target: Option<Target>,
}

impl Words<'_> {
    pub(super) fn put_into(&self, text: &str) -> String {
        if !text.contains('{') {
            return text.to_owned();
        }
        let mut out = text.to_owned();
        if let Some(other) = self.other {
            for (word, value) in self.members.get(other.name.as_str()).into_iter().flatten() {
                out = out.replace(&format!("{{other.{word}}}"), value);
            }
            if let Some(target) = &other.target {
                out = out.replace("{other.address}", &target.address).replace("{other.host}", target.host());
            }
            out = out.replace("{other}", other.name.as_str());
        }
        for (word, value) in self.members.get(self.member.member.as_str()).into_iter().flatten().chain(self.shared) {
            out = out.replace(&format!("{{{word}}}"), value);
        }
        self.member.expand(&out)
    }

    pub(super) fn put_into_value(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.put_into(text)),
            Value::Array(list) => Value::Array(list.iter().map(|v| self.put_into_value(v)).collect()),
            Value::Object(map) => map.iter().map(|(k, v)| (k.clone(), self.put_into_value(v))).collect(),
            other => other.clone(),
        }
    }

    fn mbean(&self, own: Option<&String>, default: &str) -> String {
        self.put_into(own.map_or(default, String::as_str))
    }

    pub(super) fn read(&self, read: &Read, default: &str) -> Request {
        Request::Read {
            mbean: self.mbean(read.mbean.as_ref(), default),
            attribute: Some(self.put_into(&read.attribute)),
            path: read.path.iter().map(|step| self.put_into(step)).collect(),
        }
    }

    pub(super) fn write(&self, write: &Write, default: &str) -> Request {
        Request::Write {
            mbean: self.mbean(write.mbean.as_ref(), default),
            attribute: self.put_into(&write.attribute),
            path: write.path.iter().map(|step| self.put_into(step)).collect(),
            value: self.put_into_value(&write.value),
        }
    }

    pub(super) fn exec(&self, exec: &Exec, default: &str) -> Request {
        Request::Exec {
            mbean: self.mbean(exec.mbean.as_ref(), default),
            operation: self.put_into(&exec.operation),
            arguments: exec.arguments.iter().map(|v| self.put_into_value(v)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn met(check: Value, value: Value) -> bool {
        let (shared, members) = (
            Facts::new(),
            BTreeMap::from([("b".to_owned(), Facts::from([("node".into(), "http://b/repositories/m-1".into())]))]),
        );
        let member = Target { cluster: "c".into(), member: "a".into(), address: "10.0.0.1:7200".into() };
        let other = Other { name: "b".into(), target: None };
        let words = Words { shared: &shared, members: &members, member: &member, other: Some(&other) };
        serde_json::from_value::<Check>(check).unwrap().is_met(&value, &words)
    }

    #[test]
    fn a_value_is_compared_as_people_mean_it() {
        assert!(met(json!({"attribute": "x", "is": false}), json!(false)));
        assert!(met(json!({"attribute": "x", "is": false}), json!("false")));
        assert!(met(json!({"attribute": "x", "is": [0, 1]}), json!(1.0)));
        assert!(!met(json!({"attribute": "x", "not": 2}), json!(2)));
    }

    #[test]
    fn a_word_is_no_part_of_a_longer_one() {
        let has = |list: Value| met(json!({"attribute": "x", "has": "{other.node}"}), list);
        assert!(has(json!(["http://b/repositories/m-1"])));
        assert!(has(json!(["[ON] http://b/repositories/m-1"])) && has(json!({"http://b/repositories/m-1": "[OFF]"})));
        assert!(
            !has(json!(["http://b/repositories/m-10", "http://bb/repositories/m-1"]))
                || !has(json!(["http://b/repositories/m-10"]))
        );
        assert!(!has(json!([])) && !has(json!(null)));
        assert!(met(json!({"attribute": "x", "lacks": "{other.node}"}), json!(["http://b/repositories/m-10"])));
        assert!(met(json!({"attribute": "x", "has": "[ON] {other.node}"}), json!(["[ON] http://b/repositories/m-1"])));
        assert!(!met(
            json!({"attribute": "x", "has": "[ON] {other.node}"}),
            json!(["[OFF] http://b/repositories/m-1"])
        ));
    }

    #[test]
    fn a_step_that_nobody_could_verify_is_refused() {
        let step = |value: Value| serde_json::from_value::<Step>(value).unwrap().check();
        assert!(step(json!({"name": "x", "exec": {"operation": "op"}})).unwrap_err().contains("until"));
        assert!(step(json!({"name": "x", "write": {"attribute": "ReadOnly", "value": false}})).is_ok());
        assert!(step(json!({"name": "x"})).is_err() && step(json!({"until": {"attribute": "a", "is": 1}})).is_err());
        assert!(step(json!({"name": "x", "until": {"attribute": "a", "is": 1, "not": 2}})).is_err());
    }
}

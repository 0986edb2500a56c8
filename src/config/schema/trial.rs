//! `tests:` as they are written.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use crate::{
    config::shape::{At, Entries, OneOrMany, Raw},
    model::{FailureKind, Span, Verdict, explain::Guard, trial::Response},
};

/// A test of the death rules: given that this is seen, that is expected.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Test {
    /// Its name: what it shows, as a sentence.
    #[schemars(required)]
    pub(in crate::config) name: Option<At<String>>,
    /// The cluster whose rules are tested. May be left out if the file has one.
    pub(in crate::config) cluster: Option<At<String>>,
    /// Who is primary. Default: the cluster's `primary`, or its first member.
    pub(in crate::config) primary: Option<At<String>>,
    /// How long the story lasts. Default: what `given` and `expect` say, or until no rule changes by itself any more.
    #[serde(rename = "for")]
    pub(in crate::config) for_: Option<At<Span>>,
    /// What is seen, by signal; or what becomes of somebody: `primary: frozen`, `arbiter: cut off`. All else is well.
    #[schemars(with = "Option<std::collections::BTreeMap<String, Given>>")]
    pub(in crate::config) given: Option<At<Entries<Raw>>>,
    /// What is expected, or a list of it for several moments.
    #[schemars(required)]
    pub(in crate::config) expect: Option<OneOrMany<At<Expect>>>,
}

/// What is expected at one moment, or over a span.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Expect {
    /// What the primary is said to be.
    pub(in crate::config) verdict: Option<At<Verdict>>,
    /// What would be done, guards considered. Approval is no matter: `mode` does not change what a test says.
    pub(in crate::config) then: Option<At<Response>>,
    /// The rule that decides the verdict.
    pub(in crate::config) rule: Option<At<String>>,
    /// Rules that hold, whether they decide or not; also those with `mode: shadow`.
    pub(in crate::config) fires: Option<OneOrMany<At<String>>>,
    /// Guards that stand against what a rule wants.
    pub(in crate::config) blocked_by: Option<OneOrMany<At<Guard>>>,
    /// The standby that would be promoted.
    pub(in crate::config) candidate: Option<At<String>>,
    /// When. Default: the end of the story.
    pub(in crate::config) at: Option<At<Span>>,
    /// At the latest: it becomes so by then.
    pub(in crate::config) by: Option<At<Span>>,
    /// It becomes so then or later, for the first time.
    pub(in crate::config) not_before: Option<At<Span>>,
    /// What never happens: a verdict, a reaction, or the name of a rule; or `{ verdict: … }`, `{ then: … }`, `{ rule: … }`.
    #[schemars(with = "Option<OneOrMany<Never>>")]
    pub(in crate::config) never: Option<Raw>,
    /// For `never`: from then on. Default: from the beginning.
    pub(in crate::config) from: Option<At<Span>>,
    /// For `never`: until then. Default: to the end.
    pub(in crate::config) until: Option<At<Span>>,
}

/// What never happens; read by hand, described here for editors.
pub(in crate::config) enum Never {}

impl JsonSchema for Never {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Never".into()
    }

    fn json_schema(g: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A verdict, a reaction, or the name of a rule.",
            "anyOf": [
                { "type": "string" },
                {
                    "type": "object",
                    "minProperties": 1,
                    "maxProperties": 1,
                    "additionalProperties": false,
                    "properties": {
                        "verdict": g.subschema_for::<Verdict>(),
                        "then": g.subschema_for::<Response>(),
                        "rule": { "type": "string" }
                    }
                }
            ]
        })
    }
}

/// What is seen; read by hand, described here for editors.
pub(in crate::config) enum Given {}

impl JsonSchema for Given {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Given".into()
    }

    fn json_schema(g: &mut SchemaGenerator) -> Schema {
        let kinds = g.subschema_for::<FailureKind>();
        let phrase = serde_json::json!({
            "description": "What is seen, by the signal's kind: fresh, ok, silent, absent, a failure such as refused, up, down, running, exited, firing, a number, a text; with `for 60s`, `from 20s`, `until 30s` behind it.",
            "anyOf": [kinds, { "type": ["string", "number", "boolean"] }]
        });
        let phases = serde_json::json!({
            "anyOf": [
                phrase,
                { "description": "One after the other; each but the last with `for`.", "type": "array", "minItems": 1, "items": phrase }
            ]
        });
        json_schema!({
            "anyOf": [
                phases,
                {
                    "description": "By observer or member, and `others`.",
                    "type": "object",
                    "minProperties": 1,
                    "additionalProperties": phases
                }
            ]
        })
    }
}

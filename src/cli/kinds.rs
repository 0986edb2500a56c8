//! `coroner kinds`: what a file may name. Made from the very types that read the file, so it cannot be out of date.

use std::fmt::Write as _;

use schemars::{JsonSchema, SchemaGenerator};
use serde::Serialize;
use serde_json::Value;

use super::{
    Context,
    exit::{Code, Exit, Failure},
    style::Paint,
};
use crate::{
    broker::{AnyBroker, Ask},
    fence::AnyFence,
    probe::AnyProbe,
    redirect::AnyRedirect,
    report::AnyReport,
};

/// List what a file may name.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only of this place: broker, ask, probe, fence, redirect, report.
    place: Option<String>,
    /// This kind, with its settings.
    kind: Option<String>,
}

/// One place of the file, with the kinds that may stand there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// One word.
    pub place: &'static str,
    /// Where that is in the file.
    pub at: &'static str,
    /// What may stand there.
    pub kinds: Vec<Kind>,
}

/// One kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Kind {
    /// As the file writes it.
    pub name: String,
    /// What it is.
    pub text: String,
    /// Its settings.
    pub settings: Vec<Setting>,
}

/// One setting of a kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// As the file writes it.
    pub name: String,
    /// What it is.
    pub text: String,
}

/// All places and kinds.
#[must_use]
pub fn all() -> Vec<Place> {
    vec![
        Place { place: "broker", at: "clusters.*.broker", kinds: kinds_of::<AnyBroker>() },
        Place { place: "ask", at: "clusters.*.signals.*.broker.ask", kinds: kinds_of::<Ask>() },
        Place { place: "probe", at: "clusters.*.signals.*", kinds: kinds_of::<AnyProbe>() },
        Place { place: "fence", at: "clusters.*.failover.fence", kinds: kinds_of::<AnyFence>() },
        Place { place: "redirect", at: "clusters.*.failover.redirect", kinds: kinds_of::<AnyRedirect>() },
        Place { place: "report", at: "report", kinds: kinds_of::<AnyReport>() },
    ]
}

/// Reads the kinds off an enum's schema: one `oneOf` branch a kind, one-key map or plain word.
fn kinds_of<T: JsonSchema>() -> Vec<Kind> {
    let mut generator = SchemaGenerator::default();
    let schema = generator.root_schema_for::<T>().to_value();
    let empty = Vec::new();
    let branches = schema["oneOf"].as_array().unwrap_or(&empty);
    branches.iter().flat_map(|branch| kinds_of_branch(branch, &schema)).collect()
}

fn kinds_of_branch(branch: &Value, root: &Value) -> Vec<Kind> {
    let text = description(branch);
    // Plain words: `{"const": "ping"}`, or `{"enum": ["ping", …]}` where they have no words of their own.
    let words = branch["const"]
        .as_str()
        .into_iter()
        .chain(branch["enum"].as_array().into_iter().flatten().filter_map(Value::as_str));
    let plain = words.map(|name| Kind { name: name.to_owned(), text: text.clone(), settings: Vec::new() });
    let maps = branch["properties"].as_object().into_iter().flatten().map(|(name, inner)| Kind {
        name: name.clone(),
        text: text.clone(),
        settings: settings(resolve(inner, root)),
    });
    plain.chain(maps).collect()
}

fn resolve<'a>(schema: &'a Value, root: &'a Value) -> &'a Value {
    let target = schema["$ref"].as_str().and_then(|r| r.strip_prefix('#')).and_then(|pointer| root.pointer(pointer));
    target.unwrap_or(schema)
}

fn settings(schema: &Value) -> Vec<Setting> {
    let properties = schema["properties"].as_object();
    properties.into_iter().flatten().map(|(name, s)| Setting { name: name.clone(), text: description(s) }).collect()
}

fn description(schema: &Value) -> String {
    schema["description"].as_str().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

pub(super) fn run(context: &Context, args: &Args) -> Result<Exit, Failure> {
    let mut places = all();
    if let Some(wanted) = &args.place {
        let names: Vec<&str> = places.iter().map(|p| p.place).collect();
        let error = format!("There is no place `{wanted}`; there are {}.", names.join(", "));
        places.retain(|p| p.place == wanted);
        if places.is_empty() {
            return Err(Failure::new(Code::Data, error));
        }
    }
    if let Some(wanted) = &args.kind {
        for place in &mut places {
            let names: Vec<&str> = place.kinds.iter().map(|k| k.name.as_str()).collect();
            let error = format!("There is no {} `{wanted}`; there are {}.", place.place, names.join(", "));
            place.kinds.retain(|k| k.name == *wanted);
            if place.kinds.is_empty() {
                return Err(Failure::new(Code::Data, error));
            }
        }
    }
    let detailed = args.kind.is_some();
    context.emit(&places, |paint| render(&places, detailed, paint))
}

fn render(places: &[Place], detailed: bool, paint: Paint) -> String {
    let mut out = String::new();
    for (i, place) in places.iter().enumerate() {
        if i > 0 {
            out.push('\n');
        }
        let _ = writeln!(out, "{} ({})", paint.bold(place.place), place.at);
        let width = place.kinds.iter().map(|k| k.name.len()).max().unwrap_or(0);
        for kind in &place.kinds {
            let _ = writeln!(out, "  {:width$}  {}", kind.name, kind.text);
            let width = kind.settings.iter().map(|s| s.name.len()).max().unwrap_or(0);
            for setting in kind.settings.iter().filter(|_| detailed) {
                let _ = writeln!(out, "      {:width$}  {}", setting.name, setting.text);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_has_kinds_and_every_kind_has_words() {
        for place in all() {
            assert!(!place.kinds.is_empty(), "{}", place.place);
            for kind in place.kinds {
                assert!(!kind.text.is_empty(), "{} {}", place.place, kind.name);
                for setting in kind.settings {
                    assert!(!setting.text.is_empty(), "{} {} {}", place.place, kind.name, setting.name);
                }
            }
        }
    }

    #[test]
    fn the_names_are_those_that_the_file_takes() {
        let names = |place: &str| -> Vec<String> {
            let found = all().into_iter().find(|p| p.place == place).unwrap();
            found.kinds.into_iter().map(|k| k.name).collect()
        };
        assert_eq!(names("broker"), ["redis", "relay", "jolokia"]);
        assert_eq!(names("ask"), ["ping", "role", "position", "replication_link", "write"]);
        assert_eq!(names("report"), ["alertmanager", "webhook", "exec"]);
        for name in names("fence") {
            // The agent's list is the file's own, so that its kind takes a name.
            let settings = if name == "agent" { serde_json::json!("cut") } else { serde_json::json!({}) };
            let parsed = serde_json::from_value::<AnyFence>(serde_json::json!({ &name: settings }));
            assert!(parsed.is_ok(), "{name}: {parsed:?}");
        }
    }
}

//! A request with a JSON body.
//!
//! *The body* is the report as JSON, or a template (Jinja) over it:
//!
//! ```yaml
//! webhook:
//!   url: "${file:slack-url}"
//!   body: '{"text": "{{ summary }}"}'
//! ```
//!
//! A template sees `summary` (one line), `markdown` (the whole report; for anything but an incident, the summary),
//! `report` (as in the JSON; for example `report.subject.incident.candidate`), `resolved`, `key`. If it begins with `{`
//! or `[`, it is taken for JSON: texts are escaped for use between quotes, `| tojson` gives a whole value, and what does
//! not come out as JSON is refused when the configuration is read, not in the night when it is needed.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use minijinja::{Environment, UndefinedBehavior, context, value::ValueKind};
use reqwest::{
    Client, Url,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue},
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Reporter, SendError, http, render};
use crate::{
    model::{Report, Secret, Time, WallAnchor, report::ReportSubject},
    sys,
};

/// Where to send.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Webhook {
    /// The URL.
    pub url: Secret,
    /// Headers.
    pub headers: BTreeMap<String, Secret>,
    /// The body, a template over the report (`{{ summary }}`, `{{ markdown }}`, `{{ report.… }}`); default: the
    /// report as JSON.
    pub body: Option<String>,
}

impl Webhook {
    pub(super) fn build(&self) -> Result<Box<dyn Reporter>, String> {
        let url = http::url(self.url.expose())?;
        let mut headers = http::headers(&self.headers)?;
        let body = self.body.as_deref().map(Template::new).transpose()?;
        let is_json = body.as_ref().is_none_or(|b| b.is_json);
        let kind = if is_json { "application/json" } else { "text/plain; charset=utf-8" };
        headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static(kind));
        Ok(Box::new(Sender { client: sys::http::client(None)?, url, headers, body }))
    }
}

struct Sender {
    client: Client,
    url: Url,
    headers: HeaderMap,
    body: Option<Template>,
}

#[async_trait]
impl Reporter for Sender {
    fn label(&self) -> String {
        // The path and the query are often the secret.
        format!("webhook {}", http::place(&self.url))
    }

    async fn send(&self, report: &Report, deadline: Duration) -> Result<(), SendError> {
        let body = match &self.body {
            Some(template) => template.fill(report),
            None => serde_json::to_string(report).map_err(|e| e.to_string()),
        };
        let body = body.map_err(SendError::never)?;
        let request = self.client.post(self.url.clone()).headers(self.headers.clone()).body(body);
        http::send(request, deadline).await
    }
}

/// A body template that was tried out.
struct Template {
    engine: Environment<'static>,
    is_json: bool,
}

const BODY: &str = "body";

impl Template {
    fn new(text: &str) -> Result<Self, String> {
        let is_json = text.trim_start().starts_with(['{', '['])
            && !text.trim_start().starts_with("{{")
            && !text.trim_start().starts_with("{%");
        let mut engine = Environment::new();
        // A report that is no incident has no candidate: such a place stays empty.
        engine.set_undefined_behavior(UndefinedBehavior::Chainable);
        if is_json {
            engine.set_formatter(|out, state, value| match value.as_str() {
                Some(text) if !value.is_safe() => {
                    let quoted = serde_json::Value::from(text).to_string();
                    // serde_json writes a text between two quotes, always.
                    out.write_str(&quoted[1..quoted.len() - 1]).map_err(minijinja::Error::from)
                }
                _ if value.kind() == ValueKind::Undefined => Ok(()),
                _ => minijinja::escape_formatter(out, state, value),
            });
        }
        engine.add_template_owned(BODY, text.to_owned()).map_err(|e| format!("`body` is not understood: {e}"))?;
        let template = Self { engine, is_json };
        for report in trials() {
            let body = template.fill(&report)?;
            if is_json && let Err(e) = serde_json::from_str::<serde_json::Value>(&body) {
                return Err(format!("`body` does not come out as JSON ({e}): quote texts, or write `| tojson`"));
            }
        }
        Ok(template)
    }

    fn fill(&self, report: &Report) -> Result<String, String> {
        let summary = render::summary(report);
        let markdown = match &report.subject {
            ReportSubject::Incident(incident) => render::markdown(incident),
            _ => summary.clone(),
        };
        let values = context! {
            summary, markdown, report => minijinja::Value::from(minijinja::value::Serde(report)),
            resolved => report.resolved, key => report.key.as_str(),
        };
        let template = self.engine.get_template(BODY).map_err(|e| format!("`body` is not understood: {e}"))?;
        template.render(values).map_err(|e| format!("`body` cannot be filled: {e}"))
    }
}

/// Reports to try a template on, with texts that break what is not escaped.
fn trials() -> [Report; 2] {
    let text = "a \"quoted\" text\nof two lines with a \\ in it";
    let report = |subject| Report {
        key: "arbiter/trial".into(),
        at: Time::ZERO,
        anchor: WallAnchor::default(),
        arbiter: "arbiter".into(),
        subject,
        resolved: false,
    };
    [
        report(ReportSubject::Warning { cluster: None, what: "trial".into(), text: text.into() }),
        report(ReportSubject::Rule { cluster: "trial".into(), rule: text.into(), explanation: None }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::samples;

    #[test]
    fn a_json_template_stays_json_whatever_the_texts_hold() {
        let text = r#"{"text": "{{ summary }}", "long": {{ markdown | tojson }}, "to": "{{ report.subject.incident.candidate }}"}"#;
        let body = Template::new(text).unwrap().fill(&samples::incident_report()).unwrap();
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["to"], "broker-b");
        assert_eq!(body["text"], render::summary(&samples::incident_report()));
        assert_eq!(body["long"], render::markdown(&samples::incident()));
    }

    #[test]
    fn a_text_template_is_left_as_it_is() {
        let template = Template::new("{{ key }}: {{ markdown }}").unwrap();
        assert!(!template.is_json);
        assert!(template.fill(&samples::incident_report()).unwrap().contains("\n## Timeline\n"));
    }

    #[test]
    fn what_cannot_work_is_said_when_it_is_built() {
        for bad in ["{{ summary", "{{ summary | nosuchfilter }}", r#"{"text": {{ summary }}}"#, "{% if %}"] {
            assert!(Template::new(bad).is_err(), "{bad}");
        }
        let webhook = Webhook { url: Secret::new("not a url, but a secret".into()), ..Webhook::default() };
        let error = webhook.build().err().unwrap();
        assert!(!error.contains("secret"), "{error}");
        let webhook = Webhook { url: Secret::new("https://hooks.example/secret".into()), ..Webhook::default() };
        assert_eq!(webhook.build().unwrap().label(), "webhook hooks.example");
    }
}

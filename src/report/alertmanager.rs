//! Alertmanager, API v2: one alert that updates and stays until acknowledged.
//!
//! *One alert per key.* Alertmanager takes two alerts for the same if their labels are the same, so everything that may
//! change in the life of a report (state, candidate, reason) stands in the annotations; the labels are `alertname`,
//! `cluster`, `coroner_key`, `severity` and those of the file.
//!
//! *It stays.* A report that is not resolved is sent with an end 30 days ahead, and the outbox sends it again each
//! minute. The far end keeps the alert while Coroner itself is down or cut off (with no end, Alertmanager would call it
//! resolved after its `resolve_timeout`, five minutes); the repetition brings it back after Alertmanager lost its memory
//! in a restart. An incident is resolved here when its report says so, which it does once a person acknowledged it.
//!
//! *When it lies:* if Coroner is taken down for good with an alert open, the alert stays for up to 30 days; silence it.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use reqwest::{Client, Url, header::HeaderMap};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Reporter, SendError, http, render};
use crate::{
    model::{Incident, Report, Secret, Time, WallAnchor, record::SagaKind, report::ReportSubject},
    sys,
};

/// How far ahead the end of an alert lies that is not resolved.
const STAYS_FOR: Duration = Duration::from_hours(30 * 24);
/// How often such an alert is sent again.
const REPEATED_EVERY: Duration = Duration::from_mins(1);
/// Annotations are for reading; the whole report is in the store.
const ANNOTATION_MAX: usize = 4_000;

/// Where Alertmanager is.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Alertmanager {
    /// Its base URL.
    pub url: String,
    /// More labels.
    pub labels: BTreeMap<String, String>,
    /// Headers.
    pub headers: BTreeMap<String, Secret>,
}

impl Alertmanager {
    pub(super) fn build(&self) -> Result<Box<dyn Reporter>, String> {
        let url = http::url(self.url.trim_end_matches('/'))?;
        for name in self.labels.keys() {
            let first = name.bytes().next().unwrap_or(b'0');
            let is_name = !first.is_ascii_digit() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            if !is_name {
                return Err(format!("`{name}` is not the name of a label: use letters, digits and `_`"));
            }
            if matches!(name.as_str(), "alertname" | "cluster" | "coroner_key") {
                return Err(format!("the label `{name}` is Coroner's own; choose another name"));
            }
        }
        let place = http::place(&url);
        let mut alerts = url;
        alerts
            .path_segments_mut()
            .map_err(|()| "`url` cannot be a base".to_owned())?
            .pop_if_empty()
            .extend(["api", "v2", "alerts"]);
        let headers = http::headers(&self.headers)?;
        let client = sys::http::client(None)?;
        Ok(Box::new(Sender { client, alerts, place, headers, labels: self.labels.clone() }))
    }
}

struct Sender {
    client: Client,
    alerts: Url,
    place: String,
    headers: HeaderMap,
    labels: BTreeMap<String, String>,
}

/// An alert as API v2 takes it.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Alert {
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    starts_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ends_at: Option<Timestamp>,
}

#[async_trait]
impl Reporter for Sender {
    fn label(&self) -> String {
        format!("alertmanager {}", self.place)
    }

    async fn send(&self, report: &Report, deadline: Duration) -> Result<(), SendError> {
        let request = self.client.post(self.alerts.clone()).headers(self.headers.clone());
        http::send(request.json(&[alert(report, &self.labels)]), deadline).await
    }

    fn repeats_every(&self) -> Option<Duration> {
        Some(REPEATED_EVERY)
    }
}

fn alert(report: &Report, more: &BTreeMap<String, String>) -> Alert {
    // The severity comes from what the report is about, not from how it stands: a label that changed would make a
    // second alert and leave the first one behind.
    let (name, severity, cluster, opened) = match &report.subject {
        ReportSubject::Incident(incident) => {
            let (name, severity) = match incident.kind {
                SagaKind::Failover => ("CoronerFailover", "critical"),
                SagaKind::Switchover => ("CoronerSwitchover", "warning"),
                SagaKind::Rejoin => ("CoronerRejoin", "warning"),
            };
            let opened = moment(&incident.anchor, incident.opened);
            (name.to_owned(), severity, Some(&incident.cluster), opened)
        }
        ReportSubject::Rule { cluster, explanation, .. } => {
            let since = explanation.as_ref().map(|e| report.at.before(e.since));
            let opened = since.and_then(|at| moment(&report.anchor, at));
            ("CoronerRuleTrue".to_owned(), "warning", Some(cluster), opened)
        }
        ReportSubject::Warning { cluster, what, .. } => {
            let severity = if what == "two_primaries" { "critical" } else { "warning" };
            // Only a warning that begins has its beginning now; its end does not know it, and Alertmanager does.
            let opened = if report.resolved { None } else { moment(&report.anchor, report.at) };
            (format!("Coroner{}", camel(what)), severity, cluster.as_ref(), opened)
        }
    };
    let mut labels: BTreeMap<String, String> =
        [("alertname".into(), name), ("severity".into(), severity.into()), ("coroner_key".into(), report.key.clone())]
            .into();
    labels.extend(cluster.map(|cluster| ("cluster".to_owned(), cluster.to_string())));
    labels.extend(more.iter().map(|(name, value)| (name.clone(), value.clone())));

    let ends = if report.resolved { report.at } else { report.at + STAYS_FOR };
    Alert { labels, annotations: annotations(report), starts_at: opened, ends_at: moment(&report.anchor, ends) }
}

fn annotations(report: &Report) -> BTreeMap<String, String> {
    let (description, runbook) = match &report.subject {
        ReportSubject::Incident(incident) => (render::happened(incident), next_step(incident)),
        ReportSubject::Rule { cluster, explanation, .. } => {
            let tree = explanation.as_ref().map_or_else(String::new, |e| e.tree.to_text());
            (tree, format!("coroner why {cluster}; coroner why-not {cluster}"))
        }
        ReportSubject::Warning { cluster, text, .. } => {
            let cluster = cluster.as_ref().map_or("", |c| c.as_str());
            (text.clone(), format!("coroner status; coroner why-not {cluster}").trim_end().to_owned())
        }
    };
    let cut = |text: String| text.chars().take(ANNOTATION_MAX).collect::<String>();
    [
        ("summary".into(), cut(render::summary(report))),
        ("description".into(), cut(description)),
        ("runbook".into(), runbook),
        ("arbiter".into(), report.arbiter.clone()),
    ]
    .into()
}

fn next_step(incident: &Incident) -> String {
    let id = &incident.id;
    if incident.acknowledged.is_some() {
        return format!("coroner incidents show {id}");
    }
    format!("coroner incidents show {id}; then coroner incidents ack {id}")
}

/// `two_primaries` as `TwoPrimaries`.
fn camel(word: &str) -> String {
    word.split(|c: char| !c.is_ascii_alphanumeric())
        .filter_map(|part| {
            let mut chars = part.chars();
            Some(chars.next()?.to_ascii_uppercase().to_string() + chars.as_str())
        })
        .collect()
}

/// `None` for a moment that no calendar knows, which Alertmanager then sets itself.
fn moment(anchor: &WallAnchor, at: Time) -> Option<Timestamp> {
    Timestamp::from_millisecond(anchor.unix_ms_at(at)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::incident::{Acknowledgement, IncidentState},
        report::samples,
    };

    #[test]
    fn the_alert_keeps_its_labels_over_its_whole_life() {
        let mut report = samples::incident_report();
        let alert_of = |report: &Report| alert(report, &BTreeMap::new());
        let first = alert_of(&report);
        let ReportSubject::Incident(incident) = &mut report.subject else { panic!("an incident") };
        incident.state = IncidentState::Held;
        incident.state_reason = Some("no proof".into());
        incident.candidate = "broker-c".into();
        report.at = report.at + Duration::from_secs(100);
        let second = alert_of(&report);
        assert_eq!(first.labels, second.labels);
        assert_eq!(first.starts_at, second.starts_at);
        assert_ne!(first.annotations, second.annotations);
        assert!(second.ends_at.unwrap() > second.starts_at.unwrap() + STAYS_FOR);

        let ReportSubject::Incident(incident) = &mut report.subject else { panic!("an incident") };
        let by = crate::model::Operator("alice".into());
        incident.acknowledged = Some(Acknowledgement { by, at: report.at, note: String::new() });
        report.resolved = true;
        let last = alert_of(&report);
        assert_eq!(first.labels, last.labels);
        assert_eq!(last.ends_at, moment(&report.anchor, report.at));
    }

    #[test]
    fn labels_are_checked() {
        let with = |name: &str| Alertmanager {
            url: "http://127.0.0.1:9093/".into(),
            labels: [(name.to_owned(), "x".to_owned())].into(),
            ..Alertmanager::default()
        };
        assert_eq!(with("team").build().unwrap().label(), "alertmanager 127.0.0.1:9093");
        assert!(with("severity").build().is_ok());
        for bad in ["1st", "", "a-b", "alertname", "coroner_key"] {
            assert!(with(bad).build().is_err(), "{bad}");
        }
    }

    #[test]
    fn words_become_names() {
        assert_eq!(camel("two_primaries"), "TwoPrimaries");
        assert_eq!(camel("tilt"), "Tilt");
    }
}

//! What members, nodes and alert systems push over HTTP.
//!
//! A completed exchange over HTTP proves the link both ways as far as TCP can tell: the sender's kernel has acknowledged
//! our side of the handshake. So a heartbeat over HTTP counts as echoed.
//!
//! `session` and `seq` are optional in reports: where given, a number seen before is refused.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};

use super::{
    Shared,
    auth::{Identity, Reporter},
    error::ApiError,
    limit::{MAX_BATCH, MAX_CANARIES},
    routes::WholeBody,
};
use crate::{
    arbiter::handle::Seen,
    config::{ClusterConfig, Config, Source},
    model::{
        ClusterName, Epoch, Fact, MemberName, NodeName, Observer, Outcome, SignalName, observation,
        policy::{ClusterPolicy, Observers},
        time::millis,
    },
};

/// The longest name or number of a canary.
const MAX_ID: usize = 128;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Heartbeat<'a> {
    #[serde(borrow)]
    cluster: Cow<'a, str>,
    #[serde(borrow)]
    member: Cow<'a, str>,
    seq: u64,
    #[serde(default)]
    signal: Option<String>,
    #[serde(default)]
    session: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Arrivals<'a> {
    #[serde(borrow)]
    cluster: Cow<'a, str>,
    #[serde(borrow)]
    node: Cow<'a, str>,
    #[serde(default)]
    signal: Option<String>,
    received: u64,
    #[serde(default, with = "millis::option", rename = "last_age_ms")]
    last_age: Option<std::time::Duration>,
    #[serde(default)]
    attempted: Option<u64>,
    #[serde(default)]
    acknowledged: Option<u64>,
    #[serde(default)]
    primary: Option<MemberName>,
    #[serde(default)]
    epoch: Epoch,
    #[serde(default)]
    canaries: Vec<String>,
    #[serde(default)]
    session: Option<u64>,
    #[serde(default)]
    seq: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Canary<'a> {
    #[serde(borrow)]
    cluster: Cow<'a, str>,
    #[serde(borrow)]
    node: Cow<'a, str>,
    id: String,
}

/// What Alertmanager sends; everything else in it is ignored.
#[derive(Deserialize)]
struct Webhook {
    alerts: Vec<Alert>,
}

#[derive(Deserialize)]
struct Alert {
    status: AlertStatus,
    labels: BTreeMap<String, String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum AlertStatus {
    Firing,
    Resolved,
}

/// The answer to a heartbeat or a report: whom to follow.
#[derive(Serialize)]
struct Answer {
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    epoch: Epoch,
    primary: Option<MemberName>,
    address: Option<String>,
}

/// One element's fate in an array.
#[derive(Serialize)]
#[serde(untagged)]
enum Each {
    Taken(Answer),
    Refused { error: String },
}

/// `POST /v1/heartbeat`.
pub(super) async fn heartbeat(
    State(shared): State<Arc<Shared>>,
    reporter: Reporter,
    WholeBody(body): WholeBody,
) -> Result<Response, ApiError> {
    let shape = "{\"cluster\", \"member\", \"seq\"}, with \"signal\" and \"session\" if wanted";
    each(&shared, &reporter, &body, "heartbeat", shape, take_heartbeat)
}

/// `POST /v1/arrivals`.
pub(super) async fn arrivals(
    State(shared): State<Arc<Shared>>,
    reporter: Reporter,
    WholeBody(body): WholeBody,
) -> Result<Response, ApiError> {
    let shape = "{\"cluster\", \"node\", \"received\", \"last_age_ms\"}, with \"attempted\", \"acknowledged\", \
                 \"primary\", \"epoch\", \"canaries\", \"signal\", \"session\", \"seq\" if wanted";
    each(&shared, &reporter, &body, "arrivals", shape, take_arrivals)
}

/// `POST /v1/canary`.
pub(super) async fn canary(
    State(shared): State<Arc<Shared>>,
    Reporter(identity, table): Reporter,
    WholeBody(body): WholeBody,
) -> Result<impl IntoResponse, ApiError> {
    let canary: Canary<'_> = parse(&body, "canary receipt", "{\"cluster\", \"node\", \"id\"}")?;
    let at = At { shared: &shared, identity: &identity, config: &table.config };
    let (cluster, policy, _) = at.cluster(&canary.cluster)?;
    let node = at.node(policy, &canary.node)?;
    check_id(&canary.id)?;
    shared.receipts.node_reported(cluster, node);
    shared.receipts.received(cluster, node, &canary.id);
    shared.metrics.ingested.with_label_values(&["http", "canary"]).inc();
    Ok(Json(answer(&shared, cluster, None)))
}

/// `POST /v1/alerts`. Each signal whose labels an alert has is told; it fires if any such alert of this message fires.
/// Alertmanager sends one message per group, so group by the labels that a signal names.
pub(super) async fn alerts(
    State(shared): State<Arc<Shared>>,
    Reporter(identity, table): Reporter,
    WholeBody(body): WholeBody,
) -> Result<impl IntoResponse, ApiError> {
    let webhook: Webhook = parse(&body, "webhook", "Alertmanager's: {\"alerts\": [{\"status\", \"labels\"}]}")?;
    let mut told = 0;
    let mut forbidden = None;
    for (cluster, parts) in &table.config.clusters {
        for (signal, source) in &parts.sources {
            let Source::Alert { labels } = source else { continue };
            let has_all = |alert: &&Alert| labels.iter().all(|(name, value)| alert.labels.get(name) == Some(value));
            let mut fitting = webhook.alerts.iter().filter(has_all).map(|alert| alert.status).peekable();
            if fitting.peek().is_none() {
                continue;
            }
            if !identity.may_alert(signal.as_str()) {
                forbidden = Some(signal);
                continue;
            }
            let firing = fitting.any(|status| status == AlertStatus::Firing);
            observe(
                &shared,
                Seen {
                    cluster: cluster.clone(),
                    signal: signal.clone(),
                    observer: Observer::Arbiter,
                    subject: None,
                    outcome: Outcome::Fact(Fact::Alert { firing }),
                },
            )?;
            told += 1;
            shared.metrics.ingested.with_label_values(&["http", "alert"]).inc();
        }
    }
    match forbidden {
        Some(signal) if told == 0 => Err(ApiError::forbidden(format!(
            "`{}` is a member or a node and may not raise the alert `{signal}`: give the alert system its own entry under \
             `arbiter.access`, with `reports_as: [{signal}]`",
            identity.name
        ))),
        _ => Ok(Json(serde_json::json!({ "signals": told }))),
    }
}

/// Takes one element or an array of them.
fn each<'a, T: Deserialize<'a>>(
    shared: &Shared,
    Reporter(identity, table): &Reporter,
    body: &'a [u8],
    what: &'static str,
    shape: &str,
    take: impl Fn(&At<'_>, &T) -> Result<Answer, ApiError>,
) -> Result<Response, ApiError> {
    let at = At { shared, identity, config: &table.config };
    let taken = shared.metrics.ingested.with_label_values(&["http", what]);
    if body.trim_ascii_start().first() != Some(&b'[') {
        let answer = take(&at, &parse(body, what, shape)?)?;
        taken.inc();
        return Ok(Json(answer).into_response());
    }
    let items: Vec<T> = parse(body, what, shape)?;
    if items.len() > MAX_BATCH {
        let text = format!("the array has {} elements, more than {MAX_BATCH}: send fewer at once", items.len());
        return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "oversized", text));
    }
    // The request itself was counted already.
    identity.charge(shared.clock.elapsed(), items.len().saturating_sub(1))?;
    let mut status = StatusCode::OK;
    let answers: Vec<_> = items
        .iter()
        .map(|item| match take(&at, item) {
            Ok(answer) => {
                taken.inc();
                Each::Taken(answer)
            }
            Err(error) => {
                status = StatusCode::MULTI_STATUS;
                shared.metrics.rejected.with_label_values(&["http", error.reason]).inc();
                Each::Refused { error: error.text }
            }
        })
        .collect();
    Ok((status, Json(answers)).into_response())
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8], what: &str, shape: &str) -> Result<T, ApiError> {
    serde_json::from_slice(body)
        .map_err(|error| ApiError::malformed(format!("the body is no {what}: {error}; send JSON: {shape}")))
}

/// Where and for whom an element is taken.
struct At<'a> {
    shared: &'a Shared,
    identity: &'a Identity,
    config: &'a Config,
}

impl<'a> At<'a> {
    fn cluster(&self, name: &str) -> Result<(&'a ClusterName, &'a ClusterPolicy, &'a ClusterConfig), ApiError> {
        let (name, policy) = self.config.policy.clusters.get_key_value(name).ok_or_else(|| ApiError::cluster(name))?;
        let parts = self.config.clusters.get(name).ok_or_else(|| ApiError::cluster(name.as_str()))?;
        Ok((name, policy, parts))
    }

    fn node<'p>(&self, policy: &'p ClusterPolicy, name: &str) -> Result<&'p NodeName, ApiError> {
        self.check_name(name)?;
        policy.nodes.iter().find(|node| node.as_str() == name).ok_or_else(|| {
            ApiError::not_found(format!("`{name}` is no node of `{}`: add it under `nodes`", policy.name))
        })
    }

    fn member<'p>(&self, policy: &'p ClusterPolicy, name: &str) -> Result<&'p MemberName, ApiError> {
        self.check_name(name)?;
        policy.members.iter().map(|member| &member.name).find(|member| member.as_str() == name).ok_or_else(|| {
            ApiError::not_found(format!("`{name}` is no member of `{}`: add it under `members`", policy.name))
        })
    }

    fn check_name(&self, name: &str) -> Result<(), ApiError> {
        if self.identity.may_report_as(name) {
            return Ok(());
        }
        let own = &self.identity.name;
        Err(ApiError::forbidden(format!("`{own}` may not report as `{name}`: add it to `reports_as` of `{own}`")))
    }

    fn check_new(
        &self,
        (cluster, signal, from): (&ClusterName, &SignalName, &str),
        session: Option<u64>,
        seq: Option<u64>,
    ) -> Result<(), ApiError> {
        match (session, seq) {
            (Some(session), Some(seq)) if !self.shared.replays.is_new(cluster, signal, from, session, seq) => {
                let text = format!("number {seq} of this session was seen before: count up, or begin a new `session`");
                Err(ApiError::new(StatusCode::CONFLICT, "replayed", text))
            }
            _ => Ok(()),
        }
    }
}

/// The signal that was named, or the only one of its kind that the reporter belongs to.
pub(super) fn signal<'c>(
    policy: &ClusterPolicy,
    parts: &'c ClusterConfig,
    named: Option<&str>,
    node: Option<&NodeName>,
    is_kind: fn(&Source) -> bool,
) -> Result<&'c SignalName, String> {
    let expects = |name: &SignalName| match (node, policy.signals.get(name).map(|s| &s.observers)) {
        (Some(node), Some(Observers::Nodes(nodes))) => nodes.contains(node),
        _ => true,
    };
    let mut fitting =
        parts.sources.iter().filter(|(name, source)| is_kind(source) && expects(name)).map(|(name, _)| name);
    match (named, fitting.next(), fitting.next()) {
        (Some(named), Some(_), _) => parts
            .sources
            .get_key_value(named)
            .filter(|(_, source)| is_kind(source))
            .map(|(name, _)| name)
            .ok_or_else(|| format!("`{named}` is no pushed signal of this kind in this cluster: see `signals`")),
        (_, None, _) => Err("no signal of this cluster takes such reports: add one with `push` under `signals`".into()),
        (None, Some(only), None) => Ok(only),
        (None, Some(one), Some(other)) => {
            Err(format!("several signals take such reports (`{one}`, `{other}`): name one as `signal`"))
        }
    }
}

fn take_heartbeat(at: &At<'_>, beat: &Heartbeat<'_>) -> Result<Answer, ApiError> {
    let (cluster, policy, parts) = at.cluster(&beat.cluster)?;
    let member = at.member(policy, &beat.member)?;
    let signal = signal(policy, parts, beat.signal.as_deref(), None, |source| matches!(source, Source::Heartbeats))
        .map_err(ApiError::not_found)?;
    at.check_new((cluster, signal, member.as_str()), beat.session, Some(beat.seq))?;
    observe(
        at.shared,
        Seen {
            cluster: cluster.clone(),
            signal: signal.clone(),
            observer: Observer::Member(member.clone()),
            subject: Some(member.clone()),
            outcome: Outcome::Fact(Fact::Beat { seq: beat.seq, echoed: true }),
        },
    )?;
    Ok(answer(at.shared, cluster, Some(beat.seq)))
}

fn take_arrivals(at: &At<'_>, report: &Arrivals<'_>) -> Result<Answer, ApiError> {
    let (cluster, policy, parts) = at.cluster(&report.cluster)?;
    let node = at.node(policy, &report.node)?;
    let signal =
        signal(policy, parts, report.signal.as_deref(), Some(node), |source| matches!(source, Source::Arrivals))
            .map_err(ApiError::not_found)?;
    if report.canaries.len() > MAX_CANARIES {
        let text = format!("the report confirms more than {MAX_CANARIES} canaries: confirm each once");
        return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "oversized", text));
    }
    report.canaries.iter().try_for_each(|id| check_id(id))?;
    if report.primary.as_ref().is_some_and(|primary| primary.as_str().len() > MAX_ID) {
        return Err(ApiError::malformed(format!("the name of the primary is longer than {MAX_ID} bytes")));
    }
    at.check_new((cluster, signal, node.as_str()), report.session, report.seq)?;
    at.shared.receipts.node_reported(cluster, node);
    for id in &report.canaries {
        at.shared.receipts.received(cluster, node, id);
    }
    observe(
        at.shared,
        Seen {
            cluster: cluster.clone(),
            signal: signal.clone(),
            observer: Observer::Node(node.clone()),
            subject: None,
            outcome: Outcome::Fact(Fact::Arrivals(observation::Arrivals {
                received: report.received,
                last_age: report.last_age,
                attempted: report.attempted,
                acknowledged: report.acknowledged,
                primary: report.primary.clone(),
                epoch: report.epoch,
            })),
        },
    )?;
    Ok(answer(at.shared, cluster, None))
}

fn check_id(id: &str) -> Result<(), ApiError> {
    if (1..=MAX_ID).contains(&id.len()) {
        return Ok(());
    }
    Err(ApiError::malformed(format!("a canary's id has 1 to {MAX_ID} bytes: send it back as it was received")))
}

fn observe(shared: &Shared, seen: Seen) -> Result<(), ApiError> {
    shared.handle.observe(seen).map_err(|_| ApiError::overloaded())
}

fn answer(shared: &Shared, cluster: &ClusterName, seq: Option<u64>) -> Answer {
    let view = shared.handle.primary(cluster);
    let view = view.as_ref().map(|view| view.borrow());
    Answer {
        seq,
        epoch: view.as_ref().map_or(Epoch::ZERO, |view| view.epoch),
        primary: view.as_ref().and_then(|view| view.primary.clone()),
        address: view.as_ref().and_then(|view| view.address.clone()),
    }
}

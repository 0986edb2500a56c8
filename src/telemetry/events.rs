//! One place where a notice becomes a log line and a metric, and where the state becomes gauges.

use std::{collections::BTreeSet, sync::PoisonError};

use tracing::{error, info, warn};

use super::{
    agents,
    metrics::{MAX_SIGNAL_SERIES, Metrics},
};
use crate::{
    arbiter::handle::TimedNotice,
    model::{
        ClusterName, Incident, IncidentId, Mode, Notice, Role, Verdict,
        explain::Guard,
        incident::IncidentState,
        record::SagaKind,
        status::{ClusterStatus, IncidentBrief, SignalStatus, Status},
    },
};

/// What the newest notices on one cluster's incident told, so that a repeated one counts once.
#[derive(Debug, Default)]
pub(super) struct Told {
    incident: Option<IncidentId>,
    state: Option<IncidentState>,
    /// The acts whose end was counted.
    acts: BTreeSet<u32>,
    closed: bool,
}

/// Turns a notice into a log line and metrics. Error level means: a person must act.
pub fn emit(timed: &TimedNotice, metrics: &Metrics) {
    match &timed.notice {
        Notice::VerdictChanged { cluster, member, from, to, rule } => {
            metrics.verdict_changes.with_label_values(&[cluster.as_str(), to.as_str()]).inc();
            let (member, rule) = (member.as_ref().map(display), rule.as_ref().map(display));
            match to {
                Verdict::Suspect | Verdict::Gray | Verdict::Dead => {
                    warn!(%cluster, member, %from, %to, rule, "The verdict on the primary changed.");
                }
                Verdict::Unknown | Verdict::Alive => {
                    info!(%cluster, member, %from, %to, rule, "The verdict on the primary changed.");
                }
            }
        }
        Notice::RuleFired { cluster, explanation } => {
            let (rule, shadow) = (explanation.rule.as_str(), explanation.shadow);
            metrics.rule_true.with_label_values(&[cluster.as_str(), rule]).set(1);
            metrics
                .rule_fired
                .with_label_values(&[cluster.as_str(), rule, if shadow { "true" } else { "false" }])
                .inc();
            let tree = explanation.tree.to_text();
            warn!(%cluster, rule, verdict = %explanation.verdict, then = %explanation.then, shadow, tree, "A rule fired.");
        }
        Notice::RuleCleared { cluster, rule, after } => {
            metrics.rule_true.with_label_values(&[cluster.as_str(), rule.as_str()]).set(0);
            info!(%cluster, %rule, after_seconds = after.as_secs_f64(), "A rule holds no more.");
        }
        Notice::ActBlocked { cluster, rule, guards } => {
            for (guard, _) in guards {
                metrics.act_blocked.with_label_values(&[cluster.as_str(), guard.as_str()]).inc();
            }
            let guards: Vec<_> = guards.iter().map(|(guard, reason)| format!("{guard}: {reason}")).collect();
            error!(%cluster, %rule, guards = guards.join("; "), "A rule wants to act, and guards stand against it.");
        }
        Notice::GuardChanged { cluster, guard, blocks, reason } => {
            metrics.guard.with_label_values(&[cluster.as_str(), guard.as_str()]).set((*blocks).into());
            if *blocks {
                warn!(%cluster, %guard, reason, "A guard stands against acting.");
            } else {
                info!(%cluster, %guard, reason, "A guard stands no more.");
            }
        }
        Notice::PrimaryChanged { cluster, primary, epoch } => {
            metrics.epoch.with_label_values(&[cluster.as_str()]).set(epoch.0.try_into().unwrap_or(i64::MAX));
            metrics.primary_known.with_label_values(&[cluster.as_str()]).set(primary.is_some().into());
            info!(%cluster, primary = primary.as_ref().map(display), %epoch, "Who is primary changed.");
        }
        Notice::TwoPrimaries { cluster, members, now } => {
            metrics.two_primaries.with_label_values(&[cluster.as_str()]).set((*now).into());
            let members: Vec<_> = members.iter().map(display).collect();
            if *now {
                error!(%cluster, members = members.join(", "), "More than one member takes writes or claims to be primary.");
            } else {
                info!(%cluster, members = members.join(", "), "There is one primary again.");
            }
        }
        Notice::IncidentUpdated(incident) => incident_updated(incident, metrics),
        Notice::Own { what, ok, detail } => own(what, *ok, detail, metrics),
    }
}

fn display(value: &impl ToString) -> String {
    value.to_string()
}

fn own(what: &str, ok: bool, detail: &str, metrics: &Metrics) {
    match what {
        "tilt" => {
            metrics.tilt.set((!ok).into());
            if !ok {
                metrics.tilts.inc();
            }
        }
        "store" => metrics.store_lost.set((!ok).into()),
        "policy" => metrics.config_reload_ok.set(ok.into()),
        _ => {}
    }
    if what == "leading" {
        // To watch is no fault.
        info!("Leading: {ok}: {detail}.");
    } else if ok {
        info!(what, detail, "The arbiter is well in this again.");
    } else {
        error!(what, detail, "The arbiter itself is unwell.");
    }
}

fn incident_updated(incident: &Incident, metrics: &Metrics) {
    let cluster = incident.cluster.as_str();
    let mut all = metrics.told.lock().unwrap_or_else(PoisonError::into_inner);
    let told = all.entry(incident.cluster.clone()).or_default();
    if told.incident.as_ref() != Some(&incident.id) {
        *told = Told { incident: Some(incident.id.clone()), ..Told::default() };
    }
    for step in &incident.steps {
        let ended = step.outcome != "running";
        if ended && told.acts.insert(step.act) {
            let name = step_name(&step.label);
            metrics.step_results.with_label_values(&[cluster, name, outcome_name(&step.outcome)]).inc();
            if let Some(took) = step.took {
                metrics.step_duration.with_label_values(&[name]).observe(took.as_secs_f64());
            }
            let took_seconds = step.took.map(|took| took.as_secs_f64());
            info!(
                cluster, incident = %incident.id, epoch = %incident.epoch, step = step.label, outcome = step.outcome,
                took_seconds, detail = step.detail, "A step ended."
            );
        }
    }
    if let Some(behind) = incident.loss.as_ref().and_then(|loss| loss.behind) {
        metrics.estimated_loss.with_label_values(&[cluster]).set(as_f64(behind));
    }
    if incident.is_closed() && !told.closed {
        told.closed = true;
        metrics.failovers.with_label_values(&[cluster, kind_name(incident.kind), state_name(incident.state)]).inc();
    }
    if told.state == Some(incident.state) {
        return;
    }
    told.state = Some(incident.state);
    drop(all);
    metrics.incident_open.with_label_values(&[cluster]).set((!incident.is_closed()).into());
    let held = incident.state == IncidentState::Held;
    metrics.incident_held.with_label_values(&[cluster]).set(held.into());
    let (id, state, epoch) = (&incident.id, incident.state, incident.epoch);
    let (kind, reason) = (kind_name(incident.kind), incident.state_reason.as_deref());
    let (old, new) = (&incident.old_primary, &incident.candidate);
    if held {
        error!(cluster, incident = %id, kind, %epoch, %old, %new, reason, "The incident waits for a person.");
    } else {
        warn!(cluster, incident = %id, kind, %state, %epoch, %old, %new, reason, "The incident moved on.");
    }
}

/// Sets the gauges that follow from the state. Whatever is no longer configured disappears.
pub fn refresh(metrics: &Metrics, status: &Status, signals: &[(ClusterName, Vec<SignalStatus>)]) {
    metrics.tilt.set(status.tilt.is_some().into());
    metrics.store_lost.set(status.store_lost.is_some().into());
    metrics.config_hash.reset();
    metrics.config_hash.with_label_values(&[&status.policy_hash]).set(1);
    let ints = [
        &metrics.epoch,
        &metrics.mode,
        &metrics.primary,
        &metrics.primary_known,
        &metrics.verdict,
        &metrics.writers,
        &metrics.failover_ready,
        &metrics.guard,
        &metrics.paused,
        &metrics.member_quarantined,
        &metrics.nodes_following,
        &metrics.nodes_total,
        &metrics.signal_up,
        &metrics.incident_open,
        &metrics.incident_held,
        &metrics.agent_heard,
        &metrics.agent_epoch,
        &metrics.agent_evidence,
        &metrics.lease_held,
        &metrics.lease_renewals,
        &metrics.gate,
    ];
    ints.iter().for_each(|vec| vec.reset());
    let floats = [
        &metrics.verdict_since,
        &metrics.pause_expires,
        &metrics.member_seen,
        &metrics.member_position,
        &metrics.node_seen,
        &metrics.node_last_arrival,
        &metrics.signal_age,
        &metrics.signal_value,
        &metrics.agent_beat_age,
        &metrics.lease_left,
        &metrics.lease_least_left,
    ];
    floats.iter().for_each(|vec| vec.reset());
    for cluster in &status.clusters {
        refresh_cluster(metrics, cluster);
    }
    refresh_signals(metrics, signals);
}

/// Sets the gauge of unacknowledged failovers from the newest incidents of the store.
pub fn refresh_incidents(metrics: &Metrics, status: &Status, incidents: &[IncidentBrief]) {
    metrics.incidents_unacknowledged.reset();
    for cluster in &status.clusters {
        let open = incidents
            .iter()
            .filter(|i| i.cluster == cluster.cluster && i.kind == SagaKind::Failover && !i.acknowledged)
            .filter(|i| i.state != IncidentState::Aborted)
            .count();
        metrics.incidents_unacknowledged.with_label_values(&[cluster.cluster.as_str()]).set(int(open));
    }
}

fn refresh_cluster(metrics: &Metrics, status: &ClusterStatus) {
    let cluster = status.cluster.as_str();
    let set = |vec: &prometheus::IntGaugeVec, value: i64| vec.with_label_values(&[cluster]).set(value);
    set(&metrics.epoch, status.epoch.0.try_into().unwrap_or(i64::MAX));
    set(&metrics.primary_known, status.primary.is_some().into());
    set(&metrics.failover_ready, status.ready.into());
    set(&metrics.paused, status.pause.is_some().into());
    set(&metrics.nodes_total, int(status.nodes.len()));
    for (mode, word) in [(Mode::Shadow, "shadow"), (Mode::Manual, "manual"), (Mode::Auto, "auto")] {
        metrics.mode.with_label_values(&[cluster, word]).set((status.mode == mode).into());
    }
    for verdict in Verdict::ALL {
        metrics.verdict.with_label_values(&[cluster, verdict.as_str()]).set((status.verdict == verdict).into());
    }
    metrics.verdict_since.with_label_values(&[cluster]).set(status.verdict_since.as_secs_f64());
    for guard in Guard::ALL {
        let blocks = status.blocking.iter().any(|state| state.guard == guard && state.blocks);
        metrics.guard.with_label_values(&[cluster, guard.as_str()]).set(blocks.into());
    }
    if let Some(pause) = &status.pause {
        let expires = pause.until_unix_ms.map_or(f64::INFINITY, |ms| as_f64(ms.unsigned_abs()) / 1e3);
        metrics.pause_expires.with_label_values(&[cluster]).set(expires);
    }
    set(&metrics.writers, int(status.members.iter().filter(|m| m.claims == Some(Role::Primary)).count()));
    for member in &status.members {
        let labels = [cluster, member.member.as_str()];
        metrics.primary.with_label_values(&labels).set((status.primary.as_ref() == Some(&member.member)).into());
        metrics.member_quarantined.with_label_values(&labels).set(member.quarantined.into());
        if let Some(seen) = member.seen {
            metrics.member_seen.with_label_values(&labels).set(seen.as_secs_f64());
        }
        if let Some(position) = member.position {
            metrics.member_position.with_label_values(&labels).set(as_f64(position));
        }
        if let Some(agent) = &member.agent {
            agents::refresh_agent(metrics, labels, agent);
        }
    }
    let follows = |node: &crate::model::status::NodeStatus| {
        status.primary.is_some() && node.follows == status.primary && node.epoch == Some(status.epoch)
    };
    set(&metrics.nodes_following, int(status.nodes.iter().filter(|node| follows(node)).count()));
    for node in &status.nodes {
        let labels = [cluster, node.node.as_str()];
        if let Some(seen) = node.seen {
            metrics.node_seen.with_label_values(&labels).set(seen.as_secs_f64());
        }
        if let Some(age) = node.last_arrival {
            metrics.node_last_arrival.with_label_values(&labels).set(age.as_secs_f64());
        }
    }
    let held = status.incident.as_ref().is_some_and(|incident| incident.state == IncidentState::Held);
    set(&metrics.incident_open, status.incident.is_some().into());
    set(&metrics.incident_held, held.into());
}

fn refresh_signals(metrics: &Metrics, signals: &[(ClusterName, Vec<SignalStatus>)]) {
    let total: usize = signals.iter().map(|(_, streams)| streams.len()).sum();
    metrics.signal_series_left_out.set(int(total.saturating_sub(MAX_SIGNAL_SERIES)));
    let streams = signals.iter().flat_map(|(cluster, streams)| streams.iter().map(move |stream| (cluster, stream)));
    for (cluster, stream) in streams.take(MAX_SIGNAL_SERIES) {
        let subject = stream.subject.as_ref().map_or("", |subject| subject.as_str());
        let labels = [cluster.as_str(), stream.signal.as_str(), &stream.observer, subject];
        if let Some(up) = stream.up {
            metrics.signal_up.with_label_values(&labels).set(up.into());
        }
        if let Some(age) = stream.age {
            metrics.signal_age.with_label_values(&labels).set(age.as_secs_f64());
        }
        if let Some(value) = stream.value {
            metrics.signal_value.with_label_values(&labels).set(value);
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus knows floats only; beyond 2^53 the last digits go")]
const fn as_f64(value: u64) -> f64 {
    value as f64
}

pub(super) fn int(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The first word of a step's label, if it is one of ours: labels of metrics are a closed set.
fn step_name(label: &str) -> &'static str {
    const KNOWN: [&str; 14] = [
        "fence",
        "unfence",
        "forbidden",
        "make",
        "read",
        "writable",
        "catch",
        "promote",
        "repoint",
        "redirect",
        "rejoin",
        "lift",
        "choose",
        "verify",
    ];
    let first = label.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
    KNOWN.iter().find(|known| **known == first).copied().unwrap_or("other")
}

fn outcome_name(outcome: &str) -> &'static str {
    const KNOWN: [&str; 5] = ["done", "confirmed", "refuted", "unknown", "failed"];
    KNOWN.iter().find(|known| **known == outcome).copied().unwrap_or("other")
}

const fn kind_name(kind: SagaKind) -> &'static str {
    match kind {
        SagaKind::Failover => "failover",
        SagaKind::Switchover => "switchover",
        SagaKind::Rejoin => "rejoin",
    }
}

const fn state_name(state: IncidentState) -> &'static str {
    match state {
        IncidentState::Aborted => "aborted",
        IncidentState::Resolved => "resolved",
        _ => "open",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Epoch, Time, WallAnchor, explain::GuardState};

    fn timed(notice: Notice) -> TimedNotice {
        TimedNotice { at: Time::ZERO, anchor: WallAnchor::default(), notice }
    }

    fn cluster(name: &str) -> ClusterStatus {
        ClusterStatus {
            cluster: name.into(),
            mode: Mode::Auto,
            primary: Some("broker-a".into()),
            epoch: Epoch(7),
            verdict: Verdict::Dead,
            verdict_since: std::time::Duration::from_secs(3),
            rule: None,
            ready: false,
            blocking: vec![GuardState { guard: Guard::Cooldown, blocks: true, reason: String::new() }],
            pause: None,
            members: Vec::new(),
            nodes: Vec::new(),
            incident: None,
            rules: Vec::new(),
        }
    }

    #[test]
    fn every_guard_has_its_gauge() {
        let metrics = Metrics::new();
        refresh(&metrics, &Status { clusters: vec![cluster("orders")], ..Status::default() }, &[]);
        let text = metrics.render();
        for guard in Guard::ALL {
            let value = i32::from(guard == Guard::Cooldown);
            let line = format!("coroner_guard{{cluster=\"orders\",guard=\"{guard}\"}} {value}");
            assert!(text.contains(&line), "{line}\n{text}");
        }
        assert!(text.contains("coroner_verdict{cluster=\"orders\",verdict=\"dead\"} 1"));
    }

    #[test]
    fn a_cluster_that_is_gone_disappears() {
        let metrics = Metrics::new();
        refresh(&metrics, &Status { clusters: vec![cluster("gone")], ..Status::default() }, &[]);
        refresh(&metrics, &Status { clusters: vec![cluster("orders")], ..Status::default() }, &[]);
        assert!(!metrics.render().contains("\"gone\""));
    }

    #[test]
    fn streams_beyond_the_bound_are_counted_and_left_out() {
        let metrics = Metrics::new();
        let stream = |n: usize| SignalStatus {
            signal: "ping".into(),
            observer: format!("node-{n}"),
            subject: None,
            up: Some(true),
            age: None,
            seen: String::new(),
            value: None,
        };
        let streams = (0..MAX_SIGNAL_SERIES + 3).map(stream).collect();
        refresh(&metrics, &Status::default(), &[("orders".into(), streams)]);
        assert_eq!(metrics.signal_series_left_out.get(), 3);
    }

    #[test]
    fn our_own_trouble_is_counted() {
        let metrics = Metrics::new();
        emit(&timed(Notice::Own { what: "tilt".into(), ok: false, detail: "2s late".into() }), &metrics);
        assert_eq!((metrics.tilt.get(), metrics.tilts.get()), (1, 1));
        emit(&timed(Notice::TwoPrimaries { cluster: "orders".into(), members: vec![], now: true }), &metrics);
        assert_eq!(metrics.two_primaries.with_label_values(&["orders"]).get(), 1);
    }
}

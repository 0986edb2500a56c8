//! How long a failover takes: each step with its bound by the file, and as it was measured last.
//!
//! The bounds are those of one try of each step with everybody answering as the file expects. What is tried again, or
//! waits for a person, has none.

use std::time::Duration;

use super::Facts;
use crate::{
    config::{ClusterConfig, Source},
    failover::deadline_of,
    model::{
        Action, ClusterName, ClusterPolicy, Condition, Expr, Incident, MemberName, Mode, Rule, SignalName,
        agent::Watch,
        doctor::{Rehearsal, Timeline, TimelineStep},
        incident::{StepRecord, Trigger},
        policy::{MethodPolicy, SignalKind},
        record::SagaKind,
        rule::{ExprKind, Reaction},
        time::human,
    },
};

/// What was measured, and where.
type Measured = Option<(Duration, String)>;

/// The timeline of one cluster; `None`: it is not in the file any more.
pub(super) fn timeline(facts: &Facts, name: &ClusterName) -> Option<Timeline> {
    let policy = facts.config.policy.clusters.get(name)?;
    let parts = facts.config.clusters.get(name)?;
    let incidents = facts.incidents.get(name).map(Vec::as_slice).unwrap_or_default();
    let status = facts.status.clusters.iter().find(|cluster| cluster.cluster == *name)?;
    let mut steps = Vec::new();
    let detection = detect(policy, parts, incidents, &mut steps);
    let fencing = fence(facts, policy, status.primary.as_ref(), incidents, &mut steps);
    let after = after_fence(policy, incidents, &mut steps);
    let (measured, measured_in) = incidents.iter().find_map(outage).unzip();
    let worst = detection.map(|detection| detection + fencing + after);
    Some(Timeline { cluster: name.clone(), steps, worst, measured, measured_in })
}

/// One row for every rule that acts; the slowest bound. The slowest rule alone is in the sum.
fn detect(
    policy: &ClusterPolicy,
    parts: &ClusterConfig,
    incidents: &[Incident],
    steps: &mut Vec<TimelineStep>,
) -> Option<Duration> {
    let is_acting = |rule: &&Rule| {
        matches!(rule.then, Reaction::Failover | Reaction::Switchover) && rule.mode != Some(Mode::Shadow)
    };
    let from = steps.len();
    for rule in policy.rules.iter().filter(is_acting) {
        let measured = incidents.iter().find_map(|incident| detected(incident, rule));
        let worst = delay(&rule.when, policy, parts);
        let note = match worst {
            Some(_) if rule.then == Reaction::Switchover => "then a switchover, if the primary still answers".into(),
            Some(_) => String::new(),
            None => "by the rhythm of what was heard before".into(),
        };
        steps.push(step(format!("detect: {}", rule.name), worst, measured, note));
    }
    let rows = &mut steps[from..];
    let slowest = rows.iter().filter_map(|row| row.worst).max();
    for row in rows.iter_mut() {
        row.counts = false;
    }
    if let Some(row) = rows.iter_mut().find(|row| row.worst.is_some() && row.worst == slowest) {
        row.counts = true;
    }
    slowest
}

/// How long after the fault a branch is true at the latest, if what it asks about has died with the fault. `None`: the
/// file does not say.
fn delay(expr: &Expr, policy: &ClusterPolicy, parts: &ClusterConfig) -> Option<Duration> {
    let all = |list: &[Expr]| list.iter().try_fold(Duration::ZERO, |most, e| Some(most.max(delay(e, policy, parts)?)));
    let asked = match &expr.kind {
        // Of `any` and `at_least` the slowest branch too: which of them a fault makes true is not known.
        ExprKind::All(list) | ExprKind::Any(list) | ExprKind::AtLeast { of: list, .. } => all(list)?,
        ExprKind::Not(inner) => delay(inner, policy, parts)?,
        ExprKind::Observers { signal, are, .. } => delay_of(signal, are, policy, parts)?,
        ExprKind::Signal { signal, condition } => delay_of(signal, condition, policy, parts)?,
    };
    Some(asked + expr.hold.unwrap_or_default() + expr.window.map_or(Duration::ZERO, |window| window.true_for))
}

fn delay_of(
    signal: &SignalName,
    condition: &Condition,
    policy: &ClusterPolicy,
    parts: &ClusterConfig,
) -> Option<Duration> {
    let spec = policy.signals.get(signal)?;
    let look = spec.fresh_for.max(spec.every);
    if let Some(Source::Agent { watch }) = parts.sources.get(signal)
        && *watch != Watch::Beat
    {
        // Told at once when it changes.
        let guards = parts.guards.values();
        let slowest = guards.map(|guard| guard.progress_every + guard.progress_timeout).max();
        return Some(if *watch == Watch::Progress { slowest.unwrap_or(look) } else { Duration::ZERO });
    }
    Some(match condition {
        // Counted from the last success, which lies before the fault. A node tells of it with its next report.
        Condition::Silent(within) | Condition::Stalled(within) => {
            if spec.kind == SignalKind::Arrivals {
                *within + spec.every
            } else {
                *within
            }
        }
        Condition::LagLongerThan(within) => *within + look,
        Condition::FailingOf { failures, .. } => spec.every.saturating_mul(*failures) + look.saturating_sub(spec.every),
        Condition::PhiAbove(_) => return None,
        // One look after the fault; without an answer, what was known before is no longer fresh.
        _ => look,
    })
}

/// From the last message that a node received to the incident's beginning.
fn detected(incident: &Incident, rule: &Rule) -> Measured {
    let Trigger::Rule(explanation) = &incident.trigger else { return None };
    let last_good = incident.outage.last_good.filter(|at| *at <= incident.opened && explanation.rule == rule.name)?;
    Some((incident.opened.since(last_good), incident.id.to_string()))
}

/// The levels one after the other, and the lease beside them; what of both is shorter bounds the fencing.
fn fence(
    facts: &Facts,
    policy: &ClusterPolicy,
    primary: Option<&MemberName>,
    incidents: &[Incident],
    steps: &mut Vec<TimelineStep>,
) -> Duration {
    let failover = &policy.failover;
    let is_used = |method: &&MethodPolicy| primary.is_none_or(|primary| method.applies_to(primary));
    let from = steps.len();
    for (level, methods) in failover.fence.iter().enumerate() {
        let Some(slowest) = methods.iter().filter(is_used).map(|method| method.deadline).max() else { continue };
        let label = |method: &MethodPolicy| method.label.clone();
        let labels: Vec<String> = methods.iter().filter(is_used).map(label).collect();
        let suffix = format!("(level {})", level + 1);
        let done = measured(incidents, |step| step.label.starts_with("fence ") && step.label.ends_with(&suffix));
        let rehearsed = || rehearsed(&facts.rehearsals, policy, primary, level + 1);
        let note = if level > 0 { "only if the level above does not prove it" } else { "" };
        steps.push(step(
            format!("fence, level {}: {}", level + 1, labels.join(" + ")),
            Some(slowest),
            done.or_else(rehearsed),
            note.into(),
        ));
        if policy.has_broker {
            let worst = deadline_of(&Action::ForbiddenWrite { level }, policy);
            let done = measured(incidents, |step| {
                step.label.starts_with("try a forbidden write") && step.label.ends_with(&suffix)
            });
            steps.push(step(format!("forbidden write, level {}", level + 1), Some(worst), done, String::new()));
        }
    }
    let levels: Duration = steps[from..].iter().filter_map(|row| row.worst).sum();
    let Some(lease) = &failover.lease else { return levels };
    let is_shorter = lease.wait < levels || failover.fence.is_empty();
    for row in &mut steps[from..] {
        row.counts = !is_shorter;
    }
    let done = measured(incidents, |step| step.label.starts_with("wait until the lease"));
    let mut wait = step(
        "wait until the lease is over".into(),
        Some(lease.wait),
        done,
        format!("beside the fences, while a majority of {} voters answers; the first proof counts", lease.voters.len()),
    );
    wait.counts = is_shorter;
    steps.push(wait);
    let done = measured(incidents, |step| step.label.starts_with("have a majority of the voters seal"));
    let mut seal =
        step("seal the new epoch".into(), None, done, "beside the fences; once to a majority and back".into());
    seal.counts = false;
    steps.push(seal);
    if is_shorter { lease.wait } else { levels }
}

fn after_fence(policy: &ClusterPolicy, incidents: &[Incident], steps: &mut Vec<TimelineStep>) -> Duration {
    let failover = &policy.failover;
    let from = steps.len();
    let done = measured(incidents, |step| step.label.starts_with("let ") && step.label.ends_with(" catch up"));
    steps.push(step("let the standby catch up".into(), Some(failover.catch_up_within), done, String::new()));
    let done = measured(incidents, |step| step.label.starts_with("promote "));
    steps.push(step("promote".into(), Some(failover.promote_within), done, "verified by role and write".into()));
    if let Some(slowest) = failover.redirect.iter().map(|method| method.deadline).max() {
        let done = measured(incidents, |step| step.label.starts_with("redirect by "));
        steps.push(step("redirect nodes and clients".into(), Some(slowest), done, String::new()));
    }
    steps[from..].iter().filter_map(|row| row.worst).sum()
}

fn step(step: String, worst: Option<Duration>, measured: Measured, note: String) -> TimelineStep {
    let (measured, measured_in) = measured.unzip();
    TimelineStep { step, counts: true, worst, measured, measured_in, note }
}

/// The slowest of such steps in the newest incident that has one. What failed or was not answered is no measure.
fn measured(incidents: &[Incident], is_such: impl Fn(&StepRecord) -> bool) -> Measured {
    let well = |step: &StepRecord| {
        ["done", "confirmed", "refused twice", "not accepted"].iter().any(|outcome| step.outcome.starts_with(outcome))
    };
    incidents.iter().filter(|incident| incident.kind != SagaKind::Rejoin).find_map(|incident| {
        let took = incident.steps.iter().filter(|step| is_such(step) && well(step)).filter_map(|step| step.took).max();
        took.map(|took| (took, incident.id.to_string()))
    })
}

/// The slowest rehearsal of a level at the primary.
fn rehearsed(all: &[Rehearsal], policy: &ClusterPolicy, primary: Option<&MemberName>, level: usize) -> Measured {
    let of_level = |r: &&Rehearsal| {
        r.cluster == policy.name && r.level == level && r.usable == Some(true) && primary.is_none_or(|p| r.member == *p)
    };
    let slowest = all.iter().filter(of_level).max_by_key(|rehearsal| rehearsal.took)?;
    let age = slowest.age.map_or_else(String::new, |age| format!(" {} ago", human(age)));
    Some((slowest.took?, format!("a rehearsal{age}")))
}

fn outage(incident: &Incident) -> Option<(Duration, crate::model::IncidentId)> {
    let (last, first) = (incident.outage.last_good?, incident.outage.first_new?);
    (first > last && incident.kind == SagaKind::Failover).then(|| (first.since(last), incident.id.clone()))
}

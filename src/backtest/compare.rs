//! The firings of two files, held against one another and against what happened.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use super::{
    BacktestError, ClusterReport, Question, Side,
    judge::{Firing, Judged},
    service::{Served, Service},
};
use crate::{
    journal::Segment,
    model::{
        ClusterName, ClusterPolicy, MemberName, RuleName, SignalName, Truth, Verdict,
        explain::Guard,
        incident::IncidentState,
        record::SagaKind,
        rule::{ExprKind, Reaction},
        status::IncidentBrief,
        time::millis,
    },
};

/// Firings of one rule that are listed one by one, at most.
const LISTED: usize = 1_000;

/// One rule of one of the files.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct RuleTally {
    /// Of which file.
    pub side: Side,
    /// The rule.
    pub rule: RuleName,
    /// What it says.
    pub verdict: Verdict,
    /// What it asks for.
    pub then: Reaction,
    /// Whether it only watches, by its file.
    pub shadow: bool,
    /// How often it became true.
    pub fired: u64,
    /// Of these: something was wrong; `None`: the rule calls nothing dead, and asks for nothing.
    pub truly: Option<u64>,
    /// Nothing was.
    pub falsely: Option<u64>,
    /// Nobody can say.
    pub unclear: Option<u64>,
    /// When a guard stood against acting, as far as observations tell.
    pub held_back: u64,
    /// For how long it was true, all in all.
    #[serde(with = "millis", rename = "total_ms")]
    #[schemars(with = "f64")]
    pub total: Duration,
    /// For how long at most.
    #[serde(with = "millis", rename = "longest_ms")]
    #[schemars(with = "f64")]
    pub longest: Duration,
    /// The firings, with what is known of each; the first thousand.
    pub firings: Vec<Sight>,
}

/// A firing, and whether it was right.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Sight {
    /// The firing.
    #[serde(flatten)]
    pub firing: Firing,
    /// Whether something was wrong with the primary then.
    pub truth: Truth,
    /// How that is known.
    pub why: String,
}

/// Something that was wrong with the primary.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Event {
    /// The first sign of it, in milliseconds since 1970.
    pub unix_ms: i64,
    /// What happened.
    pub what: String,
    /// Failovers that were recorded.
    pub incidents: Vec<IncidentBrief>,
    /// For how long the node in the middle received nothing.
    #[serde(with = "millis::option", rename = "outage_ms")]
    #[schemars(with = "Option<f64>")]
    pub outage: Option<Duration>,
    /// When the rules in force would have acted first; `None`: they missed it.
    pub in_force: Option<Sighting>,
    /// When the new ones would have.
    pub new: Option<Sighting>,
    /// How much earlier the new ones are, in milliseconds; negative: later.
    pub earlier_ms: Option<i64>,
}

/// Which rule saw it first.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Sighting {
    /// The rule.
    pub rule: RuleName,
    /// When.
    pub unix_ms: i64,
    /// Who was primary.
    pub primary: Option<MemberName>,
    /// The guards that stood against acting.
    pub guards: Vec<Guard>,
}

const fn acts(then: Reaction) -> bool {
    matches!(then, Reaction::Failover | Reaction::Switchover)
}

fn is_judged(firing: &Firing) -> bool {
    acts(firing.then) || firing.verdict == Verdict::Dead
}

/// Whether the new rules that act fired falsely, or missed something.
pub(super) fn is_worse_than_wished(report: &ClusterReport) -> bool {
    !report.false_firings.is_empty() || report.events.iter().any(|event| event.new.is_none())
}

pub(super) fn compare(
    segments: &[Segment],
    question: &Question<'_>,
    cluster: &ClusterName,
    mut old: Judged,
    mut new: Judged,
) -> Result<ClusterReport, BacktestError> {
    let window_ms = i64::try_from(question.window.as_millis()).unwrap_or(i64::MAX);
    let is_disowned =
        |brief: &IncidentBrief| question.disowned.iter().any(|id| brief.id.as_str().starts_with(id.as_str()));
    let (disowned, failovers): (Vec<IncidentBrief>, Vec<IncidentBrief>) = std::mem::take(&mut old.recorded.incidents)
        .into_values()
        .filter(|brief| brief.kind == SagaKind::Failover && brief.state != IncidentState::Aborted)
        .filter(|brief| (question.from_unix_ms..=question.to_unix_ms).contains(&brief.opened_unix_ms))
        .partition(is_disowned);
    let (old_firings, new_firings) = (std::mem::take(&mut old.firings), std::mem::take(&mut new.firings));
    let judged = old_firings.iter().chain(&new_firings).filter(|firing| is_judged(firing));
    let moments = judged.map(|firing| firing.from_unix_ms).chain(failovers.iter().map(|brief| brief.opened_unix_ms));
    let in_force = question.in_force.clusters.get(cluster);
    let service = Service::read(segments, cluster, in_force, moments, window_ms)?;
    let assess =
        Assess { service: &service, failovers: &failovers, disowned: &disowned, window_ms, outage: question.outage };
    let sights = |firings: Vec<Firing>| firings.into_iter().map(|firing| assess.sight(firing)).collect::<Vec<_>>();
    let (old_sights, new_sights) = (sights(old_firings), sights(new_firings));

    let mut remarks = Vec::new();
    let mut truths: Vec<(i64, Option<IncidentBrief>, String, Option<Duration>)> = Vec::new();
    for brief in &failovers {
        let (_, _, outage) = service.at(brief.opened_unix_ms, window_ms, question.outage, None);
        let what = format!("failover from {} to {}, {}", brief.old_primary, brief.candidate, brief.state);
        truths.push((brief.opened_unix_ms, Some(brief.clone()), what, outage));
    }
    for sight in old_sights.iter().chain(&new_sights) {
        if acts(sight.firing.then) && sight.truth == Truth::True {
            let (_, _, outage) = service.at(sight.firing.from_unix_ms, window_ms, question.outage, None);
            truths.push((sight.firing.from_unix_ms, None, sight.why.clone(), outage));
        }
    }
    let events = events(truths, &old_sights, &new_sights, window_ms);
    let of_new = |truth: Truth| {
        let found = new_sights.iter().filter(move |sight| acts(sight.firing.then) && sight.truth == truth);
        found.take(LISTED).cloned().collect::<Vec<_>>()
    };
    let (false_firings, unclear_firings) = (of_new(Truth::False), of_new(Truth::Unknown));
    let other = question.other.clusters.get(cluster);
    remarks.extend(unrecorded(&old, in_force, "in force"));
    remarks.extend(unrecorded(&new, other, "new"));
    let others: Vec<&str> =
        old.recorded.policies.iter().filter(|hash| **hash != question.in_force.hash).map(String::as_str).collect();
    if !others.is_empty() {
        remarks.push(format!(
            "the file was another one then, in part: policies {} were in force, and {} is what it says now",
            others.join(", "),
            question.in_force.hash
        ));
    }
    let mut rules = tallies(Side::InForce, in_force, old_sights);
    rules.extend(tallies(Side::New, other, new_sights));
    Ok(ClusterReport {
        cluster: cluster.clone(),
        observations: old.observations,
        covered: old.covered,
        holes: old.holes,
        rules,
        events,
        false_firings,
        unclear_firings,
        recorded: old.recorded.fired,
        remarks,
    })
}

struct Assess<'a> {
    service: &'a Service,
    failovers: &'a [IncidentBrief],
    disowned: &'a [IncidentBrief],
    window_ms: i64,
    outage: Duration,
}

impl Assess<'_> {
    fn sight(&self, firing: Firing) -> Sight {
        if !is_judged(&firing) {
            return Sight { firing, truth: Truth::Unknown, why: String::new() };
        }
        let at = firing.from_unix_ms;
        let near = |brief: &&IncidentBrief| brief.opened_unix_ms.abs_diff(at) <= self.window_ms.unsigned_abs();
        if let Some(brief) = self.disowned.iter().find(near) {
            let why = format!("incident {} was a false alarm, as was said", brief.id);
            return Sight { firing, truth: Truth::False, why };
        }
        let incident = self.failovers.iter().find(near);
        let until = incident.map(|brief| brief.opened_unix_ms);
        let (served, why, _) = self.service.at(at, self.window_ms, self.outage, until);
        let (truth, why) = match (served, incident) {
            (Served::Yes, Some(brief)) => (Truth::False, format!("{why}, until incident {} was opened", brief.id)),
            (Served::Yes, None) => (Truth::False, why),
            (_, Some(brief)) => (Truth::True, format!("incident {} was opened", brief.id)),
            (Served::No, None) => (Truth::True, why),
            (Served::Unclear, None) => (Truth::Unknown, why),
        };
        Sight { firing, truth, why }
    }
}

/// What lies close together is one event.
fn events(
    mut truths: Vec<(i64, Option<IncidentBrief>, String, Option<Duration>)>,
    old: &[Sight],
    new: &[Sight],
    window_ms: i64,
) -> Vec<Event> {
    truths.sort_by_key(|(at, ..)| *at);
    let mut groups: Vec<(i64, i64, Event)> = Vec::new();
    for (at, incident, what, outage) in truths {
        match groups.last_mut() {
            Some((_, last, event)) if at.saturating_sub(*last) <= window_ms => {
                *last = at;
                if incident.is_some() && event.incidents.is_empty() {
                    // What was done says more than what was seen.
                    event.what = what;
                }
                event.incidents.extend(incident);
                event.outage = event.outage.max(outage);
            }
            _ => {
                let incidents = incident.into_iter().collect();
                let event = Event { unix_ms: at, what, incidents, outage, in_force: None, new: None, earlier_ms: None };
                groups.push((at, at, event));
            }
        }
    }
    let first_of = |sights: &[Sight], from: i64, to: i64| {
        let near = sights.iter().filter(|sight| acts(sight.firing.then) && sight.truth != Truth::False);
        let near = near.filter(|sight| {
            let length_ms = i64::try_from(sight.firing.length.as_millis()).unwrap_or(i64::MAX);
            let end = sight.firing.from_unix_ms.saturating_add(length_ms);
            sight.firing.from_unix_ms <= to.saturating_add(window_ms) && end.saturating_add(window_ms) >= from
        });
        near.min_by_key(|sight| sight.firing.from_unix_ms).map(|sight| Sighting {
            rule: sight.firing.rule.clone(),
            unix_ms: sight.firing.from_unix_ms,
            primary: sight.firing.primary.clone(),
            guards: sight.firing.guards.clone(),
        })
    };
    groups
        .into_iter()
        .map(|(from, to, mut event)| {
            event.in_force = first_of(old, from, to);
            event.new = first_of(new, from, to);
            event.earlier_ms =
                event.in_force.as_ref().zip(event.new.as_ref()).map(|(old, new)| old.unix_ms - new.unix_ms);
            let first = [&event.in_force, &event.new].into_iter().flatten().map(|sighting| sighting.unix_ms).min();
            event.unix_ms = first.map_or(event.unix_ms, |first| first.min(event.unix_ms));
            event
        })
        .collect()
}

fn tallies(side: Side, policy: Option<&ClusterPolicy>, sights: Vec<Sight>) -> Vec<RuleTally> {
    let rules = policy.map(|policy| policy.rules.as_slice()).unwrap_or_default();
    let mut tallies: Vec<RuleTally> = rules
        .iter()
        .map(|rule| {
            let counts = (acts(rule.then) || rule.verdict == Verdict::Dead).then_some(0);
            RuleTally {
                side,
                rule: rule.name.clone(),
                verdict: rule.verdict,
                then: rule.then,
                shadow: rule.mode == Some(crate::model::Mode::Shadow),
                fired: 0,
                truly: counts,
                falsely: counts,
                unclear: counts,
                held_back: 0,
                total: Duration::ZERO,
                longest: Duration::ZERO,
                firings: Vec::new(),
            }
        })
        .collect();
    for sight in sights {
        let Some(tally) = tallies.iter_mut().find(|tally| tally.rule == sight.firing.rule) else { continue };
        tally.fired += 1;
        let count = match sight.truth {
            Truth::True => &mut tally.truly,
            Truth::False => &mut tally.falsely,
            Truth::Unknown => &mut tally.unclear,
        };
        *count = count.map(|count| count + 1);
        tally.held_back += u64::from(!sight.firing.guards.is_empty());
        tally.total += sight.firing.length;
        tally.longest = tally.longest.max(sight.firing.length);
        if tally.firings.len() < LISTED {
            tally.firings.push(sight);
        }
    }
    tallies
}

/// Signals that rules ask and of which nothing was recorded: they are unknown all the time.
fn unrecorded(judged: &Judged, policy: Option<&ClusterPolicy>, file: &str) -> Vec<String> {
    let mut asked: Vec<(&SignalName, &RuleName)> = Vec::new();
    for rule in policy.iter().flat_map(|policy| &policy.rules) {
        rule.when.walk(&mut |expr| {
            if let ExprKind::Signal { signal, .. } | ExprKind::Observers { signal, .. } = &expr.kind
                && !judged.signals.contains_key(signal)
                && !asked.iter().any(|(known, _)| *known == signal)
            {
                asked.push((signal, &rule.name));
            }
        });
    }
    let words = |(signal, rule)| {
        format!("nothing was recorded of `{signal}`, which the rule “{rule}” ({file}) asks: it is unknown all the time")
    };
    asked.into_iter().map(words).collect()
}

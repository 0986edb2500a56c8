//! One run, from its schedule to what came of it.

use std::{fmt::Write as _, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    check::{Invariant, Violation},
    coverage::Coverage,
    fault::Schedule,
    host::{MS, SEC},
    setting::Setting,
    world::World,
};
use crate::model::{Notice, Verdict, incident::IncidentState, record::SagaKind, time::human};

/// How long everything is left alone at the start, so that who is primary is known.
const SETTLE: u64 = 3 * SEC;
/// After everything healed, so often it is looked whether there is nothing left to do.
const LOOK_EVERY: u64 = 500 * MS;
/// After so many looks in vain, and again and again, a person does what the reports say is left to do.
const PERSON_AFTER: u32 = 40;
/// And for so long at most, beyond the longest wait of the rules: failed acts are tried again with growing delays.
const HEALS_WITHIN: u64 = 180 * SEC;

/// What came of a run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Outcome {
    /// What must not be, and was: the first of each kind. Empty: all is well.
    pub violations: Vec<Violation>,
    /// Promotions by failover or switchover.
    pub promotions: u32,
    /// Incidents that were begun to replace a primary.
    pub opened: u32,
    /// Of those that a rule began, how many began while most nodes were still served.
    pub false_failovers: u32,
    /// Incidents that wait for a person at the end.
    pub held: u32,
    /// Incidents that were given up.
    pub aborted: u32,
    /// The longest that a node waited for a write to be acknowledged, in nanoseconds.
    pub outage_ns: u64,
    /// Nobody served for longer than the rules wait, although a standby could have, and nothing was begun.
    pub is_missed: bool,
    /// The most acknowledged writes that a promotion lost.
    pub lost: usize,
    /// Events played.
    pub events: u64,
    /// How it stood at the end: to compare runs.
    pub ending: String,
    /// The story, if it was asked for.
    pub story: Vec<String>,
    /// What was reached.
    #[serde(skip)]
    pub coverage: Coverage,
}

impl Outcome {
    /// Whether that was violated.
    #[must_use]
    pub fn breaks(&self, invariant: Invariant) -> bool {
        self.violations.iter().any(|violation| violation.invariant == invariant)
    }
}

/// A run as it is kept: with what was played, and where.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recorded {
    /// The setting.
    pub setting: Setting,
    /// The schedule.
    pub schedule: Schedule,
}

/// Plays a schedule.
#[must_use]
pub fn run(setting: &Setting, schedule: &Schedule) -> Outcome {
    play(setting, schedule, false)
}

/// Plays it, and tells the story.
#[must_use]
pub fn run_told(setting: &Setting, schedule: &Schedule) -> Outcome {
    play(setting, schedule, true)
}

fn play(setting: &Setting, schedule: &Schedule, is_told: bool) -> Outcome {
    let mut world = World::new(setting, schedule.seed, is_told);
    world.run_until(SETTLE);
    world.checks.counts_from = world.now;
    world.schedule(SETTLE, schedule);
    let healed = SETTLE + world.ns(schedule.heal_after);
    world.run_until(healed.saturating_sub(1));
    let is_missed = !world.checks.is_enough() && is_missed(&world, schedule);
    world.run_until(healed);
    let bound = healed + HEALS_WITHIN + world.ns(setting.longest_wait());
    let (mut was_well, mut looks) = (false, 0);
    while world.now < bound && !world.checks.is_enough() {
        let next = world.now + LOOK_EVERY;
        world.run_until(next);
        // Twice in a row: what was begun in the last moment shows, and its report arrives.
        let is_well = world.is_well();
        if is_well && was_well {
            break;
        }
        was_well = is_well;
        looks += 1;
        if !is_well && looks % PERSON_AFTER == 0 {
            world.a_person_brings_back();
        }
    }
    world.conclude(is_missed)
}

/// Whether nobody was served for long, nothing was begun, people were not told either, and it was not the arbiter that was
/// out of order. A rule that calls the primary gray or dead and only alerts is what the operator wants.
fn is_missed(world: &World<'_>, schedule: &Schedule) -> bool {
    let patience = 3 * world.ns(world.setting.longest_wait()) + 5 * SEC;
    let waits_since = world.checks.last_served().max(SETTLE);
    let is_waiting = world.now.saturating_sub(waits_since) > patience;
    let is_begun = world.checks.opened.iter().any(|at| *at >= SETTLE);
    let arbiter_works = (0..world.arbiters.len()).any(|a| world.arbiter_runs(a) && world.leads(a));
    let is_called = |a: usize| {
        let status = world.arbiters[a].engine.status(world.hosts[a].boot(world.now));
        status.clusters.first().is_some_and(|cluster| cluster.verdict >= Verdict::Gray)
    };
    let is_told = (0..world.arbiters.len()).any(|a| world.arbiter_runs(a) && world.leads(a) && is_called(a));
    let is_idle = world.nodes.iter().all(|node| node.is_idle || !node.is_alive);
    !world.nodes.is_empty()
        && is_waiting
        && !is_begun
        && !is_told
        && arbiter_works
        && !is_idle
        && !schedule.faults.is_empty()
}

impl World<'_> {
    /// Nothing is left to do: no incident is open, and the nodes are served by whom the store calls primary.
    fn is_well(&self) -> bool {
        // An end is told some milliseconds after its record is durable.
        let is_open = self.store.incidents.values().filter_map(|kept| kept.incident.as_ref()).any(|incident| {
            if incident.is_closed() { !self.checks.is_told(incident) } else { incident.state != IncidentState::Held }
        });
        !is_open && self.is_everybody_served() && self.awaits_nobody()
    }

    fn is_everybody_served(&self) -> bool {
        let lately = 2 * self.write_every + 100 * MS;
        self.nodes.iter().all(|node| node.last_received.is_some_and(|at| self.now - at <= lately))
    }

    /// No quarantined member could come back by itself.
    fn awaits_nobody(&self) -> bool {
        let Some(state) = &self.store.state else { return false };
        state.quarantined.keys().all(|name| {
            self.member_at(name).is_none_or(|member| {
                let m = &self.members[member];
                !m.is_alive || self.setting.cluster_policy().failover.rejoin != crate::model::policy::Rejoin::Follow
            })
        })
    }

    /// Whether somebody has to come: an incident is held, or a guard that only a person lifts stands.
    fn needs_a_person(&self) -> Option<String> {
        let held = self.store.incidents.values().filter_map(|kept| kept.incident.as_ref());
        if let Some(held) = held.into_iter().find(|i| i.state == IncidentState::Held) {
            return Some(format!("held: {}", held.state_reason.clone().unwrap_or_default()));
        }
        let leader = (0..self.arbiters.len()).find(|a| self.arbiter_runs(*a) && self.leads(*a))?;
        let boot = self.hosts[leader].boot(self.now);
        let why_not = self.arbiters[leader].engine.why_not(boot, &self.setting.cluster)?;
        use crate::model::explain::Guard;
        let stands = why_not.guards.into_iter().find(|g| {
            g.blocks
                && matches!(
                    g.guard,
                    Guard::PrimaryUnclear | Guard::Approval | Guard::Cooldown | Guard::Budget | Guard::StoreLost
                )
        });
        stands.map(|guard| guard.reason)
    }

    fn conclude(mut self, is_missed: bool) -> Outcome {
        let now = self.now;
        self.checks.ends(now);
        if !self.checks.is_enough() {
            let mut checks = std::mem::take(&mut self.checks);
            checks.incidents_end(now, &self.store);
            self.checks = checks;
            let is_served = self.is_everybody_served();
            if !is_served && self.needs_a_person().is_none() {
                let serving: Vec<&str> =
                    (0..self.members.len()).filter(|m| self.serves(*m)).map(|m| self.names[m].as_str()).collect();
                let text = format!("long after everything healed the nodes are not served ({serving:?} could)");
                self.checks.broken(now, Invariant::Serves, text);
            }
        }
        let kept: Vec<_> = self.store.incidents.values().filter_map(|kept| kept.incident.as_ref()).collect();
        let count =
            |state: IncidentState| u32::try_from(kept.iter().filter(|i| i.state == state).count()).unwrap_or(u32::MAX);
        let promoted = self.store.incidents.values().flat_map(|kept| &kept.log);
        let promoted =
            promoted.filter(|entry| matches!(entry, crate::model::record::LogEntry::Promoted { .. })).count();
        let opened = kept.iter().filter(|i| i.kind != SagaKind::Rejoin).count();
        let mut ending = String::new();
        if let Some(state) = &self.store.state {
            let primary = state.primary.as_ref().map_or("nobody", |name| name.as_str());
            let _ = write!(ending, "primary {primary} in epoch {}", state.primary_epoch);
            if !state.quarantined.is_empty() {
                let _ = write!(ending, ", quarantined {:?}", state.quarantined.keys().collect::<Vec<_>>());
            }
        }
        if let Some(why) = self.needs_a_person() {
            let _ = write!(ending, ", {why}");
        }
        let story = self.story.take().unwrap_or_default();
        Outcome {
            promotions: u32::try_from(promoted).unwrap_or(u32::MAX),
            opened: u32::try_from(opened).unwrap_or(u32::MAX),
            false_failovers: self.checks.false_failovers,
            held: count(IncidentState::Held),
            aborted: count(IncidentState::Aborted),
            outage_ns: self.checks.longest_outage,
            is_missed,
            lost: self.checks.lost,
            events: self.events,
            ending,
            story: story.into_iter().map(|(at, text)| line(at, &text)).collect(),
            violations: std::mem::take(&mut self.checks.violations),
            coverage: std::mem::take(&mut self.coverage),
        }
    }
}

/// A line of a story: seconds from the moment at which everything was well.
fn line(at: u64, text: &str) -> String {
    if at < SETTLE {
        return format!("  -{:<8} {text}", human(Duration::from_nanos(SETTLE - at)));
    }
    let since = at - SETTLE;
    format!("{:>4}.{:03} s  {text}", since / SEC, since % SEC / MS)
}

/// What people are told, in one line; `None`: nothing that belongs into a story.
pub(super) fn words_of(notice: &Notice) -> Option<String> {
    Some(match notice {
        Notice::VerdictChanged { member: Some(member), to, rule, .. } => match rule {
            Some(rule) => format!("calls {member} {to}, by the rule “{rule}”"),
            None => format!("calls {member} {to}"),
        },
        Notice::ActBlocked { rule, guards, .. } if !guards.is_empty() => {
            let guards: Vec<String> = guards.iter().map(|(_, why)| why.clone()).collect();
            format!("the rule “{rule}” may not act: {}", guards.join("; "))
        }
        Notice::PrimaryChanged { primary: Some(primary), epoch, .. } => {
            format!("{primary} is primary in epoch {epoch}")
        }
        Notice::TwoPrimaries { members, now: true, .. } => format!("sees two primaries: {members:?}"),
        Notice::Own { ok, detail, .. } if !detail.is_empty() => {
            format!("of itself: {detail}{}", if *ok { " (well)" } else { "" })
        }
        Notice::IncidentUpdated(incident) => {
            let what = match incident.kind {
                SagaKind::Failover => "failover",
                SagaKind::Switchover => "switchover",
                SagaKind::Rejoin => "rejoin",
            };
            let last = incident.timeline.last().map_or_else(String::new, |entry| format!(": {}", entry.text));
            format!("{what} of {}, epoch {}, is {}{last}", incident.old_primary, incident.epoch, incident.state)
        }
        _ => return None,
    })
}

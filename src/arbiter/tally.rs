//! How often rules fired in this life, and what of those that only watch would have come.

use std::collections::BTreeMap;

use crate::{
    engine::Engine,
    model::{
        ClusterName, RuleName, Time,
        explain::{Guard, RuleExplanation},
        rule::Reaction,
        status::Status,
    },
};

/// One rule.
#[derive(Clone, Debug, Default)]
struct Tally {
    fired: u64,
    would_have_acted: u64,
    /// The guards that stood when it would have acted last.
    held_back_by: Vec<Guard>,
    last: Time,
}

/// All rules.
#[derive(Clone, Debug, Default)]
pub(super) struct Tallies(BTreeMap<(ClusterName, RuleName), Tally>);

impl Tallies {
    /// Counts a rule that became true. Answers the guards that stood against it, for one that only watches and asks for an act.
    pub(super) fn fired(
        &mut self,
        now: Time,
        engine: &Engine,
        cluster: &ClusterName,
        fired: &RuleExplanation,
    ) -> Option<Vec<Guard>> {
        let tally = self.0.entry((cluster.clone(), fired.rule.clone())).or_default();
        tally.fired += 1;
        tally.last = now;
        if !fired.shadow || !matches!(fired.then, Reaction::Failover | Reaction::Switchover) {
            return None;
        }
        let guards = engine.why_not(now, cluster).map(|why_not| why_not.guards).unwrap_or_default();
        // That nobody approves is what only watching means.
        let stands = |guard: &Guard| *guard != Guard::Approval;
        let guards: Vec<Guard> = guards.iter().filter(|g| g.blocks).map(|g| g.guard).filter(stands).collect();
        tally.would_have_acted += u64::from(guards.is_empty());
        tally.held_back_by.clone_from(&guards);
        Some(guards)
    }

    /// Writes the counts into a status. What is no longer configured is forgotten.
    pub(super) fn fill(&mut self, now: Time, status: &mut Status) {
        let is_there = |cluster: &ClusterName, rule: &RuleName| {
            status.clusters.iter().any(|c| c.cluster == *cluster && c.rules.iter().any(|r| r.rule == *rule))
        };
        self.0.retain(|(cluster, rule), _| is_there(cluster, rule));
        for cluster in &mut status.clusters {
            for rule in &mut cluster.rules {
                let Some(tally) = self.0.get(&(cluster.cluster.clone(), rule.rule.clone())) else { continue };
                rule.fired = tally.fired;
                rule.would_have_acted = tally.would_have_acted;
                rule.held_back_by.clone_from(&tally.held_back_by);
                rule.last_fired = Some(now.since(tally.last));
            }
        }
    }
}

//! What the rehearsals of the fences showed: the newest of each, and when each was last proved. For metrics, `fence test`
//! and `doctor`; the engine keeps its own, and decides by that.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::model::{
    ClusterName, ClusterPolicy, Event, FenceHealth, MemberName, Policy, Time, doctor::Rehearsal, policy::MethodPolicy,
};

/// One method at one member was rehearsed.
#[derive(Clone, Debug, PartialEq)]
pub struct Rehearsed {
    /// The member.
    pub member: MemberName,
    /// The level, from 0.
    pub level: usize,
    /// The method in the level, from 0.
    pub method: usize,
    /// What came of it.
    pub health: FenceHealth,
    /// How long it took.
    pub took: Duration,
}

impl Rehearsed {
    /// As the engine is told.
    #[must_use]
    pub fn event(self, cluster: ClusterName) -> Event {
        let Self { member, level, method, health, .. } = self;
        Event::FenceChecked { cluster, member, level, method, health }
    }
}

#[derive(Debug)]
struct Newest {
    /// What the file called the method then: another one may have come to its place.
    label: String,
    at: Time,
    proved: Option<Time>,
    took: Duration,
    health: FenceHealth,
}

type Place = (MemberName, usize, usize);

/// The newest rehearsals. Cheap to clone; all clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Rehearsals(Arc<Mutex<BTreeMap<ClusterName, BTreeMap<Place, Newest>>>>);

impl Rehearsals {
    fn all(&self) -> MutexGuard<'_, BTreeMap<ClusterName, BTreeMap<Place, Newest>>> {
        // Every change of it is whole when the lock is given back.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One was done. `policy`: the cluster's, at that time.
    pub fn note(&self, now: Time, policy: &ClusterPolicy, rehearsed: &Rehearsed) {
        let Rehearsed { member, level, method, health, took } = rehearsed;
        let Some(spec) = place(policy, *level, *method) else { return };
        let mut all = self.all();
        let of_cluster = all.entry(policy.name.clone()).or_default();
        let key = (member.clone(), *level, *method);
        let before = of_cluster.get(&key).filter(|newest| newest.label == spec.label).and_then(|newest| newest.proved);
        let proved = if health.usable == Some(true) { Some(now) } else { before };
        let newest = Newest { label: spec.label.clone(), at: now, proved, took: *took, health: health.clone() };
        of_cluster.insert(key, newest);
    }

    /// Every method of the policy at every member that it applies to, rehearsed or not yet.
    #[must_use]
    pub fn view(&self, now: Time, policy: &ClusterPolicy) -> Vec<Rehearsal> {
        let all = self.all();
        let of_cluster = all.get(&policy.name);
        let mut found = Vec::new();
        for member in &policy.members {
            for (level, methods) in policy.failover.fence.iter().enumerate() {
                for (method, spec) in methods.iter().enumerate().filter(|(_, spec)| spec.applies_to(&member.name)) {
                    let key = (member.name.clone(), level, method);
                    let newest = of_cluster.and_then(|all| all.get(&key)).filter(|newest| newest.label == spec.label);
                    found.push(Rehearsal {
                        cluster: policy.name.clone(),
                        member: member.name.clone(),
                        level: level + 1,
                        method: spec.label.clone(),
                        usable: newest.and_then(|newest| newest.health.usable),
                        detail: newest
                            .map_or_else(|| "not rehearsed yet".into(), |newest| newest.health.detail.clone()),
                        best_proof: spec.best_proof,
                        took: newest.map(|newest| newest.took),
                        age: newest.map(|newest| now.since(newest.at)),
                        proof_age: newest.and_then(|newest| newest.proved).map(|at| now.since(at)),
                    });
                }
            }
        }
        found
    }

    /// The same of all clusters.
    #[must_use]
    pub fn views(&self, now: Time, policy: &Policy) -> Vec<Rehearsal> {
        policy.clusters.values().flat_map(|cluster| self.view(now, cluster)).collect()
    }
}

fn place(policy: &ClusterPolicy, level: usize, method: usize) -> Option<&MethodPolicy> {
    policy.failover.fence.get(level)?.get(method)
}

/// Whether a method is meant by a word: its whole name, or the word that the name begins with (`exec`, `gate`).
#[must_use]
pub fn is_meant(label: &str, word: &str) -> bool {
    label == word || label.split_whitespace().any(|part| part == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_is_named_by_its_whole_name_or_by_one_of_its_words() {
        for word in ["agent gate", "gate", "agent"] {
            assert!(is_meant("agent gate", word), "{word}");
        }
        assert!(!is_meant("agent gate", "kill") && !is_meant("agent gate", "gat"));
    }
}

//! The lease: who votes, and whether its times keep its promise.

use std::time::Duration;

use super::{ClusterView, Resolver};
use crate::{
    config::{
        schema::{Cluster, Lease, LeaseText},
        shape::{At, WordOrMap},
    },
    lease::arithmetic,
    model::{MemberName, PartyName, policy::LeasePolicy, time::human},
};

/// The kernel was seen to close an expired gate within 12 ms; this is more.
const ENFORCED_WITHIN: Duration = Duration::from_millis(20);
/// Short leases make a paranoid bound cheap.
const CLOCK_RATE_PERMILLE: u32 = 100;
/// So many renewals in a row may be lost before the lease ends.
const LOST_RENEWALS: u32 = 2;

impl Resolver<'_> {
    pub(super) fn lease(
        &mut self,
        view: &ClusterView,
        cluster: &At<Cluster>,
        at: &At<LeaseText>,
    ) -> Option<LeasePolicy> {
        let none = Lease::default();
        let (length, l) = match &at.value {
            WordOrMap::Word(length) => (Some(length), &none),
            WordOrMap::Map(map) => (self.need(at.id, "length", &map.length), map),
        };
        let voters = self.voters(view, cluster, at);
        let clock_rate_permille = l.clock_rate.as_ref().map_or(CLOCK_RATE_PERMILLE, |rate| self.clock_rate(rate));
        let enforced_within = self.span(&l.enforced_within, ENFORCED_WITHIN);
        let length_at = length?;
        let length = self.span(&Some(length_at.clone()), Duration::ZERO);
        if !length.is_zero() && length < Duration::from_millis(40) {
            let help = "write 40ms or more; 200ms suits most networks";
            self.error_help(length_at, format!("a lease of {} ends at every hiccup", human(length)), help);
        }
        let renew_every = self.span(&l.renew_every, length / 4);
        let lost = LOST_RENEWALS + 1;
        if let Some(at) = l.renew_every.as_ref().filter(|_| renew_every.saturating_mul(lost) > length) {
            let message = format!(
                "renewed every {}, a lease of {} ends when {LOST_RENEWALS} messages are lost",
                human(renew_every),
                human(length)
            );
            let help =
                format!("write `renew_every: {}` or less (default: a quarter of the length)", human(length / lost));
            self.error_help(at, message, help);
        }
        let needed = arithmetic::wait(length, enforced_within, clock_rate_permille);
        let wait = self.span(&l.wait, round_up(needed));
        if let Some(at) = l.wait.as_ref().filter(|_| wait < needed) {
            let message = format!(
                "after {}, a lease of {} may still run: two primaries would take writes at once",
                human(wait),
                human(length)
            );
            let help = format!(
                "write `wait: {}` or more, or leave it out: clocks may lie {} % apart, and the gate closes within {}",
                human(round_up(needed)),
                f64::from(clock_rate_permille) / 10.0,
                human(enforced_within)
            );
            self.error_help(at, message, help);
        }
        // With a watchdog of its shortest time in the gate's place.
        self.watchdog(cluster, wait, arithmetic::wait(length, Duration::from_secs(1), clock_rate_permille));
        self.progress_against(cluster, length);
        let policy = LeasePolicy { length, renew_every, enforced_within, clock_rate_permille, wait, voters };
        // What the arithmetic itself refuses beyond the above, such as a local fence that leaves no time to renew.
        if !self.notes.is_refused()
            && let Err(why) = arithmetic::check(&policy)
        {
            self.error(length_at, why.to_string());
        }
        Some(policy)
    }

    /// The arbiters, and the agents of the members that may become primary.
    fn voters(&mut self, view: &ClusterView, cluster: &At<Cluster>, at: &At<LeaseText>) -> Vec<PartyName> {
        let place = self.tree.node(at.id).key.map_or_else(|| self.tree.head(at.id), |key| self.tree.place(key));
        let Some(mesh) = &self.mesh else {
            let help = "add `mesh` to the file and `agent` to the cluster";
            self.notes.error_help(place, "a lease is kept by the agents, and the file has no `mesh`", help);
            return Vec::new();
        };
        let mut voters = mesh.arbiters.clone();
        if !view.has_agent_section {
            let help = "add `agent: { broker: …, gate: … }` to the cluster";
            self.notes.error_help(place, "a lease is kept by the agents, and the cluster has no `agent`", help);
            return Vec::new();
        }
        if !view.has_gate {
            let message =
                "without a gate nothing keeps a lease when the agent itself hangs: the kernel has to close the port";
            self.notes.error_help(place, message, "add `gate: {}` to the cluster's `agent`");
        }
        let may_be_primary: Vec<MemberName> = cluster
            .value
            .members
            .iter()
            .flat_map(|m| &m.value.0)
            .filter(|(_, m)| m.value.priority != Some(0))
            .map(|(name, _)| name.value.as_str().into())
            .collect();
        let mut lack_agents = false;
        for member in &may_be_primary {
            if view.agents.contains(member) {
                voters.push(member.into());
            } else {
                lack_agents = true;
                let message = format!("`{member}` may become primary and has no agent to hold the lease");
                let help = "add it to `mesh.parties`; or write `priority: 0`, so that it is never promoted";
                self.notes.error_help(place, message, help);
            }
        }
        let listed = voters.iter().map(|v| format!("`{v}`")).collect::<Vec<_>>().join(", ");
        if lack_agents {
            return voters;
        }
        if voters.len() < 3 {
            self.notes.error_help(
                place,
                format!(
                    "there are {} voters ({listed}), and it takes 3: of two, neither can tell a broken link from a dead \
                     peer, and neither is a majority alone",
                    voters.len()
                ),
                "add an arbiter on a third host (`arbiter: true` under its party), or a member with an agent",
            );
        } else if voters.len() % 2 == 0 {
            let message = format!(
                "{} voters ({listed}) survive no more losses than {} would: an even number only makes a tie possible",
                voters.len(),
                voters.len() - 1
            );
            self.notes.warning(place, message);
        }
        voters
    }

    /// In thousandths.
    fn clock_rate(&mut self, at: &At<String>) -> u32 {
        let percent = at.value.trim().strip_suffix('%').and_then(|n| n.trim().parse::<f64>().ok());
        match percent.filter(|p| (0.1..=50.0).contains(p)) {
            // In range, so that it fits; rounded up, which is the safe side.
            Some(percent) => (percent * 10.0).ceil() as u32,
            None => {
                let help =
                    "write a share between `0.1%` and `50%`; clocks of virtual machines are worse than one thinks";
                self.error_help(at, format!("`{}` is no rate by which clocks differ", self.shown(at.id)), help);
                CLOCK_RATE_PERMILLE
            }
        }
    }

    fn watchdog(&mut self, cluster: &At<Cluster>, wait: Duration, needed: Duration) {
        let device = cluster.value.agent.as_ref().and_then(|a| a.value.watchdog.as_ref());
        if let Some(at) = device.filter(|_| wait < needed) {
            let message = format!(
                "a watchdog counts whole seconds: it would reset the host after others may promote ({} after the lease)",
                human(wait)
            );
            let help = format!(
                "it is a second line only from `lease: {{ wait: {} }}` on; until then, it only bounds how long a broken gate stays unnoticed",
                human(round_up(needed))
            );
            self.notes.push(crate::config::Severity::Warning, self.tree.head(at.id), message, Some(help));
        }
    }

    fn progress_against(&mut self, cluster: &At<Cluster>, length: Duration) {
        let timeout = cluster.value.agent.as_ref().and_then(|a| a.value.progress.timeout.as_ref());
        if let Some(at) = timeout.filter(|t| t.value.0 > length.saturating_mul(10)) {
            let message = format!(
                "a broker that hangs keeps its lease of {} for {}: nothing is gained by the short lease",
                human(length),
                human(at.value.0)
            );
            self.notes.warning(self.tree.head(at.id), message);
        }
    }
}

/// To whole milliseconds, as people write them.
fn round_up(time: Duration) -> Duration {
    Duration::from_millis(u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX))
}

//! What of a cluster decides what it does next. What was told already decides only what is told again, and is left out.

use std::hash::Hasher;

use super::{Cluster, Purpose};
use crate::{
    engine::own::Own,
    failover::Print,
    model::{Effect, Time},
};

impl Cluster {
    pub(in crate::engine) fn fingerprint<H: Hasher>(&self, now: Time, own: &Own, print: &mut Print<'_, H>) {
        let age = |at: i64| own.wall_age(now, at);
        print.cluster(&self.state, age);
        self.view.fingerprint(print);
        self.rules.iter().for_each(|rule| rule.fingerprint(print));
        print.plain((self.verdict, &self.deciding_rule, self.set_back, self.conflict.is_some(), self.is_dirty));
        print.plain((self.is_opened_now, self.takes_opening_back));
        print.count(self.fence_health.len());
        for (place, (at, health)) in &self.fence_health {
            print.plain((place, health.usable));
            print.moment(*at);
        }
        print.plain((&self.rejoin_given_up, &self.appointed, self.persist_again.is_some()));
        print.perhaps(self.persist_again.map(|(at, _)| at));
        print.perhaps(self.heard_dirty_since);
        print.moment(self.primary_since);
        print.moment(self.settled_at);
        print.plain(self.saga.is_some());
        if let Some(saga) = &self.saga {
            saga.fingerprint(print);
            // Whoever was there when it began is waited for, however long ago that is.
            for node in &saga.policy.nodes {
                let seen = self.view.arrivals(node).map(|(at, _)| at);
                print.plain(seen.map(|at| at + self.longest_fresh() >= saga.incident.opened));
            }
        }
        // Numbers of records only tell them apart; their order is kept.
        print.count(self.pending.len());
        for (id, pending) in &self.pending {
            let purpose = match pending.purpose {
                Purpose::Open => 0_u8,
                Purpose::Saga => 1,
                Purpose::State => 2,
            };
            print.plain((
                purpose,
                self.waiting == Some(*id),
                self.persist_again.is_some_and(|(_, again)| again == *id),
            ));
            print.cluster(&pending.before, age);
            print.count(pending.records.len());
            pending.records.iter().for_each(|record| print.record(record, age));
        }
        for effect in &self.queue {
            match effect {
                Effect::Persist { records, .. } => print.plain((0_u8, records.len())),
                Effect::Run(run) => print.plain((1_u8, run.token.number)),
                Effect::Tell(_) => {}
                Effect::Reply { to, result } => print.plain((2_u8, to, result.is_ok())),
            }
        }
    }
}

//! A fingerprint of the whole decision, for tools that explore what can happen: see [`crate::failover::Print`].

use std::{hash::Hasher, time::Duration};

use super::Engine;
use crate::{failover::Print, model::Time};

impl Engine {
    /// Feeds everything of it that decides what it does next, as of `now`. Ages beyond `old` count as equal: it must be at
    /// least as long as all that the policy measures ages by. Of two engines with the same policy and the same
    /// fingerprint, each answers what happens as the other does, in all but words.
    ///
    /// To be called when no effect is left to be polled.
    pub fn fingerprint<H: Hasher>(&self, now: Time, old: Duration, to: &mut H) {
        let mut print = Print::new(now, old, to);
        let print = &mut print;
        print.plain(&self.policy.hash);
        self.own.fingerprint(now, print);
        print.count(self.clusters.len());
        for cluster in &self.clusters {
            cluster.fingerprint(now, &self.own, print);
        }
        let mut absent: Vec<_> = self.absent.values().collect();
        absent.sort_by(|a, b| a.cluster.cmp(&b.cluster));
        print.count(absent.len());
        for state in absent {
            print.cluster(state, |at| self.own.wall_age(now, at));
        }
        print.plain(&self.dirty);
        print.count(self.wakes.len());
        for (at, index) in &self.wakes {
            print.plain(index);
            print.moment(*at);
        }
        print.count(self.out.len());
    }
}

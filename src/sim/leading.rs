//! Who leads among several arbiters: a row with a lease in the store, asked for again and again.

use std::{collections::BTreeMap, time::Duration};

use super::{
    fault::STORE,
    host::{MS, SEC},
    store::StoreMode,
    world::{Happening, World},
};
use crate::model::{Epoch, Event, Time};

/// How often an arbiter that is one of several asks to lead, for how long that is valid in the store, and when by its own
/// clock it stops to act.
pub(super) const LEAD_EVERY: u64 = 500 * MS;
const LEAD_FOR: u64 = 2 * SEC;
const LEAD_FOR_OWN: Duration = Duration::from_millis(1_500);

impl World<'_> {
    /// Asks the store to lead.
    pub(super) fn elect(&mut self, arbiter: usize, life: u32) {
        if !self.is_life(arbiter, life) {
            return;
        }
        self.after(LEAD_EVERY, Happening::Elect { arbiter, life });
        let boot = self.hosts[arbiter].boot(self.now);
        if self.arbiter_runs(arbiter) {
            self.look_at_term(arbiter);
        }
        let is_reached = self.network.both_ways(arbiter, STORE);
        if !self.arbiter_runs(arbiter) || !is_reached || !matches!(self.store.mode, StoreMode::Works) {
            return;
        }
        let holds = self.arbiters[arbiter].term.map(|(term, _)| term);
        let term = self.store.lead(self.now, arbiter, holds, LEAD_FOR);
        let delay = self.random.within(MS, 5 * MS);
        self.after(delay, Happening::Elected { arbiter, life, sent: boot, term });
    }

    pub(super) fn elected(&mut self, arbiter: usize, life: u32, sent: Time, term: Option<u64>) {
        if !self.is_life(arbiter, life) {
            return;
        }
        if !self.arbiter_runs(arbiter) {
            return self.after(50 * MS, Happening::Elected { arbiter, life, sent, term });
        }
        let held_before = self.arbiters[arbiter].term.is_some();
        self.look_at_term(arbiter);
        if held_before && self.arbiters[arbiter].term.is_none() {
            // The answer came when the leadership had run out: whoever let it go begins another one.
            return;
        }
        let boot = self.hosts[arbiter].boot(self.now);
        let held = self.arbiters[arbiter].term.map(|(term, _)| term);
        match term {
            Some(term) if sent + LEAD_FOR_OWN > boot => {
                self.arbiters[arbiter].term = Some((term, sent + LEAD_FOR_OWN));
                if held != Some(term) {
                    self.coverage.hit("arbiter: begins to lead");
                    self.tell_host(arbiter, "leads");
                    let recovered = Box::new(self.store.recovered());
                    self.checks.recovers(self.now, &recovered);
                    let seen = self.seen(arbiter);
                    self.event(arbiter, Event::Leads { recovered, seen });
                    self.learn_primary(arbiter);
                    self.tell_what_is_untold(arbiter);
                }
            }
            _ if held.is_some() => self.stops_leading(arbiter, "another arbiter leads"),
            _ => {
                let clusters = self.store.state.clone().map(|state| vec![state]);
                let (reason, seen) = ("another arbiter leads".to_owned(), self.seen(arbiter));
                self.event(arbiter, Event::Follows { reason, clusters, seen });
                self.learn_primary(arbiter);
            }
        }
    }

    pub(super) fn seen(&mut self, arbiter: usize) -> BTreeMap<crate::model::ClusterName, Epoch> {
        let me = &mut self.arbiters[arbiter];
        me.seen = me.seen.max(self.store.epoch());
        BTreeMap::from([(self.setting.cluster.clone(), me.seen)])
    }

    /// Whether it leads now, by its own clock; one that is alone does.
    pub(super) fn leads(&self, arbiter: usize) -> bool {
        let boot = self.hosts[arbiter].boot(self.now);
        self.setting.arbiters == 1 || self.arbiters[arbiter].term.is_some_and(|(_, until)| until > boot)
    }

    pub(super) fn look_at_term(&mut self, arbiter: usize) {
        if self.arbiters[arbiter].term.is_some() && !self.leads(arbiter) {
            self.stops_leading(arbiter, "the leadership ran out");
        }
    }

    pub(super) fn stops_leading(&mut self, arbiter: usize, why: &str) {
        self.coverage.hit("arbiter: stops leading");
        self.tell_host(arbiter, "leads no more");
        let me = &mut self.arbiters[arbiter];
        me.term = None;
        me.outstanding = None;
        me.sealing = None;
        let seen = self.seen(arbiter);
        self.event(arbiter, Event::Follows { reason: why.into(), clusters: None, seen });
    }
}

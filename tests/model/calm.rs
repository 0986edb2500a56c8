//! What comes of a state in which nothing more goes wrong: processes that were stopped or had died run again, and one way of
//! going on is followed to its end. Links that are cut and members that are dead stay so.

use crate::{
    moves::Move,
    setup::{ARBITERS, Setup},
    world::{Life, Notes, Step, World},
};

/// Within this many seconds every incident has an end, or a person knows of it.
const ENDS_WITHIN: u32 = 1_000;

impl World {
    /// Goes on until every incident is resolved, given up, or held and told. `known` are states from which that is known;
    /// it takes note of those on the way.
    ///
    /// # Errors
    /// It never comes to that.
    pub fn calm(mut self, setup: &Setup, notes: &mut Notes, mut known: impl FnMut(u128) -> bool) -> Result<(), String> {
        let until = self.now + ENDS_WITHIN;
        let mut moves = Vec::new();
        loop {
            if known(self.print(setup)) {
                return Ok(());
            }
            moves.clear();
            for index in 0..2_u8 {
                match self.arbiters[usize::from(index)].life {
                    Life::Down => moves.push(Move::Restart(index)),
                    Life::Paused(_) => moves.push(Move::Resume(index)),
                    Life::Up => {}
                }
            }
            let leads = |index: u8| self.store.leader == Some(index);
            if moves.is_empty() && !leads(0) && !leads(1) {
                moves.push(Move::Elect(0));
            }
            if moves.is_empty() {
                self.moves_in_order(setup, &mut moves);
            }
            match moves.first() {
                Some(next) => self.apply(setup, *next, notes),
                None if self.is_settled() => return Ok(()),
                None if self.now >= until => return Err(self.unsettled()),
                None => self.apply(setup, Move::Tick, notes),
            }
            if let Some(wrong) = notes.wrong.take() {
                return Err(format!("{wrong}, with nothing more going wrong"));
            }
        }
    }

    /// Nothing is under way, or people know that they are waited for.
    fn is_settled(&self) -> bool {
        let told = |index: usize| {
            let leads = self.store.leader == Some(index as u8) && self.arbiters[index].term == Some(self.store.term);
            leads
                && self.store.open.iter().all(|kept| {
                    let incident = &kept.incident;
                    incident.state == coroner::model::incident::IncidentState::Held
                        && self.arbiters[index].told == Some((incident.kind, incident.epoch, incident.state))
                })
        };
        let is_idle = self.flights.iter().all(|flight| flight.step == Step::Late);
        (self.store.open.is_empty() || is_idle) && (told(0) || told(1))
    }

    fn unsettled(&self) -> String {
        let open: Vec<String> = self
            .store
            .open
            .iter()
            .map(|kept| format!("{:?} in epoch {} is {}", kept.incident.kind, kept.incident.epoch, kept.incident.state))
            .collect();
        let told: Vec<String> = (0..2).map(|i| format!("{} told {:?}", ARBITERS[i], self.arbiters[i].told)).collect();
        format!("AN INCIDENT WITHOUT END: after {ENDS_WITHIN} s {}; {}", open.join(", "), told.join(", "))
    }
}

//! One instance that stands for election.
//!
//! # How a leader is made
//!
//! 1. It beats. The answer shows the rows before its own.
//! 2. Once the database says that all of them lapsed, and an own clock saw each unchanged for its validity and the bound on
//!    clock rates, it *claims*: the database writes it down, if nobody before it is valid there.
//! 3. It beats again. Only a heartbeat whose answer names it leader begins a lease, counted from before it was sent.
//! 4. It *looks* once: had a row before it beaten between 2 and the claim, because the database's clock stepped back and
//!    forth in that moment, then its number of beats differs, and the lease is not acted on until every lease that was
//!    given before the claim is over by an own clock. A heartbeat after the claim gives no lease to anybody else.
//!
//! An epoch is one uninterrupted leadership: whoever let its lease run out comes back under a new id.

use std::{collections::VecDeque, time::Duration};

use super::{
    Settings, Standing,
    rows::{Rows, Shrunk},
};
use crate::{
    model::{
        Time,
        time::{Moment, Mono},
    },
    registry::{Beat, Beaten, Instance, Leader, RegistryError},
};

/// What is to be asked of the database. One at a time: the next is told once this one's answer was handled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// [`crate::registry::Registry::beat`], then [`Candidate::handle_beaten`].
    Beat(Beat),
    /// [`crate::registry::Registry::claim`], then [`Candidate::handle_claimed`].
    Claim(Leader),
    /// [`crate::registry::Registry::instances`] of the group with [`Candidate::LOOK_ROWS`], then [`Candidate::handle_looked`].
    Look,
    /// [`crate::registry::Registry::leave`], then [`Candidate::handle_left`].
    Leave {
        /// The row.
        id: u64,
    },
}

/// What people should hear of.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Notice {
    /// The row lapsed or was deleted; another was inserted.
    #[error("the row {old} lapsed, or was deleted: this instance goes on as {new}")]
    Lapsed {
        /// The former one.
        old: u64,
        /// The new one.
        new: u64,
    },
    /// The lease ran out before a heartbeat was answered.
    #[error("the lease of epoch {epoch} ran out: no heartbeat was answered in time")]
    Expired {
        /// Whose.
        epoch: u64,
    },
    /// Somebody after it was written down: its row can never lead again.
    #[error("{leader} leads, which is after the own row {id}: this row can never lead again and is given up")]
    Overtaken {
        /// The own one.
        id: u64,
        /// Who leads.
        leader: u64,
    },
    /// The database's clock did not go as this host's.
    #[error("the database's clock stepped by {by_ms} ms")]
    ClockStepped {
        /// How far, at least.
        by_ms: i64,
    },
    /// A row before it beat while it claimed: its lease has to run out first.
    #[error("a row before {epoch} changed while it claimed: it leads once every older lease is over")]
    Unproven {
        /// The own one.
        epoch: u64,
    },
    /// Numbers that only grow shrank.
    #[error("{0}")]
    SetBack(String),
}

/// Steps smaller than this are rounding and slewing.
const CLOCK_SLACK_MS: i128 = 50;

/// The state of one instance. See the module's text for how a leader is made.
#[derive(Clone, Debug)]
pub struct Candidate {
    settings: Settings,
    /// The own row.
    id: Option<u64>,
    /// Until when it is valid, by an own clock.
    valid_until: Time,
    rows: Rows,
    /// Who is written down, by the last answer.
    leader: Option<u64>,
    leader_name: Option<String>,
    /// Since when that one is.
    leader_since: Mono,
    /// The end of the lease: nothing may be done after it.
    lease_end: Option<Time>,
    /// Since when the own row is known to be written down.
    named_at: Option<Mono>,
    /// Every older lease is known to be over.
    is_proven: bool,
    has_looked: bool,
    /// The look failed: again after the next heartbeat.
    looks_again: bool,
    wants_claim: bool,
    is_busy: bool,
    next_beat: Time,
    give_up: Option<u64>,
    is_leaving: bool,
    has_left: bool,
    highest_id: u64,
    own_beats: u64,
    beaten_at: Mono,
    /// The database's clock, and between which moments it was read.
    clock: Option<(i64, Time, Time)>,
    trouble: Option<String>,
    set_back: Option<String>,
    notices: VecDeque<Notice>,
}

impl Candidate {
    /// How many rows a look asks for. If those before the own one are not among them, the look proves nothing, and waiting
    /// does.
    pub const LOOK_ROWS: u32 = 1_000;

    /// One that has not begun. The first action is a heartbeat. The settings were checked.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            id: None,
            valid_until: Time::ZERO,
            rows: Rows::default(),
            leader: None,
            leader_name: None,
            leader_since: Mono::default(),
            lease_end: None,
            named_at: None,
            is_proven: false,
            has_looked: false,
            looks_again: false,
            wants_claim: false,
            is_busy: false,
            next_beat: Time::ZERO,
            give_up: None,
            is_leaving: false,
            has_left: false,
            highest_id: 0,
            own_beats: 0,
            beaten_at: Mono::default(),
            clock: None,
            trouble: None,
            set_back: None,
            notices: VecDeque::new(),
        }
    }

    /// Its own row.
    #[must_use]
    pub const fn row(&self) -> Option<u64> {
        self.id
    }

    /// The numbers it goes by.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What is to be asked now. It is under way from here on, sent at a moment read before it is sent.
    pub fn poll_action(&mut self, now: Moment) -> Option<Action> {
        if self.is_busy || self.has_left {
            return None;
        }
        let action = self.next_action(now)?;
        self.is_busy = true;
        Some(action)
    }

    fn next_action(&mut self, now: Moment) -> Option<Action> {
        if self.is_leaving {
            // Who claimed without proof must not tell the others that nobody has to wait.
            let Some(id) = self.id.filter(|_| self.named_at.is_none() || self.is_proven_at(now.mono)) else {
                self.has_left = true;
                return None;
            };
            return Some(Action::Leave { id });
        }
        if self.set_back.is_some() {
            return None;
        }
        if let Some(id) = self.give_up {
            return Some(Action::Leave { id });
        }
        if self.wants_claim {
            self.wants_claim = false;
            // Time has passed since the answer that allowed it, and the database checks for itself.
            return self.id.map(|id| Action::Claim(self.as_leader(id)));
        }
        if self.named_at.is_some() && !self.is_proven && !self.has_looked {
            self.has_looked = true;
            return Some(Action::Look);
        }
        (self.next_beat <= now.boot).then(|| {
            let Settings { group, instance, valid_for, .. } = &self.settings;
            Action::Beat(Beat { group: group.clone(), instance: instance.clone(), id: self.id, valid_for: *valid_for })
        })
    }

    fn as_leader(&self, id: u64) -> Leader {
        Leader { group: self.settings.group.clone(), id }
    }

    /// When to come again at the latest if nothing is under way: for the next action, or because the standing changes.
    #[must_use]
    pub fn poll_timeout(&self, now: Moment) -> Option<Duration> {
        if self.has_left {
            return None;
        }
        let has_work = self.give_up.is_some()
            || self.wants_claim
            || self.is_leaving
            || (self.named_at.is_some() && !self.is_proven && !self.has_looked);
        if !self.is_busy && has_work {
            return Some(Duration::ZERO);
        }
        let beat = (!self.is_busy && self.set_back.is_none()).then(|| self.next_beat.since(now.boot));
        let ends = self.acts_until().filter(|at| *at > now.boot).map(|at| at.since(now.boot));
        let lapses = Some(self.valid_until).filter(|at| *at > now.boot).map(|at| at.since(now.boot));
        let proven = self.proven_at().filter(|at| *at > now.mono).map(|at| at.since(now.mono));
        [beat, ends, lapses, proven].into_iter().flatten().min()
    }

    /// What people should hear of, in order.
    pub fn poll_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    /// Where it stands.
    #[must_use]
    pub fn standing(&self, now: Moment) -> Standing {
        if let Some(reason) = &self.set_back {
            return Standing::Outside { reason: reason.clone() };
        }
        if self.is_leaving {
            return Standing::Outside { reason: "it left the election".into() };
        }
        let Some(id) = self.id.filter(|_| self.valid_until > now.boot) else {
            let reason =
                self.trouble.clone().unwrap_or_else(|| "no heartbeat was answered for as long as one is valid".into());
            return Standing::Outside { reason };
        };
        if let Some(until) = self.acts_until().filter(|at| *at > now.boot && self.is_proven_at(now.mono)) {
            return Standing::Leader { epoch: id, until: now + until.since(now.boot) };
        }
        Standing::Standby { id, leader: self.leader_name.clone() }
    }

    /// When a leader has to begin to stop.
    fn acts_until(&self) -> Option<Time> {
        self.lease_end.map(|end| end.before(self.settings.stop_time))
    }

    fn is_proven_at(&self, now: Mono) -> bool {
        self.is_proven || self.proven_at().is_some_and(|at| at <= now)
    }

    /// When every lease that was given before the own claim is over, whatever the looks found.
    fn proven_at(&self) -> Option<Mono> {
        self.named_at.map(|at| at + self.longest_wait())
    }

    fn longest_wait(&self) -> Duration {
        self.settings.wait(self.settings.valid_for.max(self.rows.longest_valid_for()))
    }

    /// A heartbeat was answered, or is given up on; `sent_at` was read before it was sent, `now` after the answer came.
    pub fn handle_beaten(&mut self, sent_at: Moment, now: Moment, result: Result<Beaten, RegistryError>) {
        self.is_busy = false;
        if self.has_left || self.set_back.is_some() {
            return;
        }
        self.next_beat = sent_at.boot + self.settings.heartbeat_every;
        let answer = match result {
            Ok(answer) => answer,
            Err(error) => return self.fail(now, &error),
        };
        self.trouble = None;
        if let Err(reason) = self.check_growth(&answer) {
            return self.fall_out(reason);
        }
        self.watch_clock(sent_at.boot, now.boot, answer.now_ms);
        self.take_row(answer.id);
        let own = answer.rows.iter().find(|row| row.id == answer.id);
        self.own_beats = own.map_or(0, |row| row.beats);
        self.beaten_at = now.mono;
        let valid_for = own.map_or(self.settings.valid_for, |row| {
            let ms = u64::try_from(row.valid_for_ms).unwrap_or(0);
            self.settings.valid_for.min(Duration::from_millis(ms))
        });
        let lease_end = sent_at.boot + self.settings.lease(valid_for);
        if answer.leader != self.leader {
            self.leader = answer.leader;
            self.leader_since = now.mono;
        }
        let leader = answer.rows.iter().find(|row| Some(row.id) == answer.leader);
        self.leader_name = leader.map(|row| row.instance.clone());
        let longest = self.settings.valid_for;
        if let Err(Shrunk { id, was, is }) = self.rows.see(now.mono, answer.id, answer.leader, &answer.rows, longest) {
            return self.fall_out(set_back(&format!("the heartbeats of row {id}"), was, is));
        }
        self.valid_until = lease_end;
        match answer.leader {
            Some(leader) if leader == answer.id => self.lead(now, leader, lease_end),
            Some(leader) if leader > answer.id => {
                self.notices.push_back(Notice::Overtaken { id: answer.id, leader });
                self.give_up_row(now);
            }
            _ => self.consider(now),
        }
    }

    /// The answer names the own row.
    fn lead(&mut self, now: Moment, epoch: u64, lease_end: Time) {
        if self.acts_until().is_some_and(|until| until <= now.boot) {
            self.notices.push_back(Notice::Expired { epoch });
            return self.give_up_row(now);
        }
        if self.named_at.is_none() {
            self.named_at = Some(now.mono);
            self.has_looked = false;
        }
        if std::mem::take(&mut self.looks_again) {
            self.has_looked = false;
        }
        self.lease_end = self.lease_end.max(Some(lease_end));
    }

    /// Somebody before it is written down, or nobody.
    fn consider(&mut self, now: Moment) {
        if !self.rows.have_lapsed(self.leader) {
            return;
        }
        // Whoever led before the leader that is written down may act on for as long as its own heartbeats were valid.
        let leaders = match self.leader {
            Some(_) if !self.rows.all_left() => self.leader_since + self.longest_wait(),
            _ => Mono::default(),
        };
        let rows = self.rows.waited_at(&self.settings, self.leader).unwrap_or_default();
        let waits_until = rows.max(leaders);
        if waits_until <= now.mono {
            self.wants_claim = true;
        } else {
            // The moment the wait is over, it asks again and claims.
            let soon = now.boot + waits_until.since(now.mono);
            self.next_beat = self.next_beat.min(soon);
        }
    }

    /// The claim was answered. What it did is seen by the next heartbeat only.
    pub fn handle_claimed(&mut self, _sent_at: Moment, now: Moment, result: &Result<(), RegistryError>) {
        self.is_busy = false;
        match result {
            Ok(()) | Err(RegistryError::Unknown(_)) => self.next_beat = now.boot,
            Err(RegistryError::NotLeader(_) | RegistryError::Conflict { .. } | RegistryError::Failed(_)) => {}
        }
    }

    /// The look was answered.
    pub fn handle_looked(&mut self, _sent_at: Moment, now: Moment, result: &Result<Vec<Instance>, RegistryError>) {
        self.is_busy = false;
        let Some(epoch) = self.id.filter(|_| self.named_at.is_some()) else { return };
        match result {
            Ok(rows) if self.rows.are_unchanged(now.mono, &self.settings, epoch, rows) => self.is_proven = true,
            Ok(_) => self.notices.push_back(Notice::Unproven { epoch }),
            Err(_) => self.looks_again = true,
        }
    }

    /// The row was left, or not: then it lapses by itself.
    pub fn handle_left(&mut self, now: Moment) {
        self.is_busy = false;
        if self.is_leaving {
            self.has_left = true;
        }
        self.give_up = None;
        self.next_beat = now.boot;
    }

    /// Stops for good. To be called once everything that a leader does was stopped: nobody waits for its lease any more.
    pub const fn leave(&mut self) {
        self.is_leaving = true;
    }

    /// Whether it has left, or has nothing to leave.
    #[must_use]
    pub const fn has_left(&self) -> bool {
        self.has_left
    }

    fn fail(&mut self, now: Moment, error: &RegistryError) {
        self.trouble = Some(error.to_string());
        // Sooner than usual: a lease runs.
        self.next_beat = self.next_beat.min(now.boot + self.settings.heartbeat_every / 4);
    }

    fn take_row(&mut self, id: u64) {
        if let Some(old) = self.id.filter(|old| *old != id) {
            self.notices.push_back(Notice::Lapsed { old, new: id });
            self.rows.remember(old, self.own_beats, self.beaten_at, self.settings.valid_for);
            self.forget_leadership();
        }
        self.id = Some(id);
    }

    fn forget_leadership(&mut self) {
        self.lease_end = None;
        self.named_at = None;
        self.is_proven = false;
        self.has_looked = false;
        self.looks_again = false;
        self.wants_claim = false;
    }

    /// The own row will never lead (again). If it did, the others are not told: they wait for the end of its lease, however
    /// long the program takes to stop.
    fn give_up_row(&mut self, now: Moment) {
        if let Some(id) = self.id.take() {
            self.rows.remember(id, self.own_beats, self.beaten_at, self.settings.valid_for);
            if self.lease_end.is_none() && self.named_at.is_none() {
                self.give_up = Some(id);
            }
        }
        self.valid_until = Time::ZERO;
        self.forget_leadership();
        self.trouble = Some("its row was given up, and it comes back under a new id".into());
        self.next_beat = now.boot;
    }

    /// What only grows may not shrink.
    fn check_growth(&mut self, answer: &Beaten) -> Result<(), String> {
        if let Some(was) = self.leader
            && answer.leader < Some(was)
        {
            return Err(set_back("the leader", was, answer.leader.unwrap_or(0)));
        }
        let own = answer.rows.iter().find(|row| row.id == answer.id);
        if self.id != Some(answer.id) {
            if answer.id <= self.highest_id {
                return Err(set_back("the largest id", self.highest_id, answer.id));
            }
        } else if let Some(own) = own.filter(|row| row.beats < self.own_beats) {
            return Err(set_back("the own heartbeats", self.own_beats, own.beats));
        }
        let seen = answer.rows.iter().map(|row| row.id).chain([answer.id]).chain(answer.leader).max();
        self.highest_id = self.highest_id.max(seen.unwrap_or(0));
        Ok(())
    }

    fn fall_out(&mut self, reason: String) {
        self.notices.push_back(Notice::SetBack(reason.clone()));
        self.forget_leadership();
        self.valid_until = Time::ZERO;
        self.id = None;
        self.give_up = None;
        self.set_back = Some(reason);
    }

    /// Tells if the database's clock went otherwise than this host's, by more than rates explain.
    fn watch_clock(&mut self, sent: Time, received: Time, now_ms: i64) {
        if let Some((was_ms, was_sent, was_received)) = self.clock.replace((now_ms, sent, received)) {
            let went = i128::from(now_ms) - i128::from(was_ms);
            let rate = u128::from(self.settings.clock_rate_permille);
            let ms = |ns: u128| i128::try_from(ns / 1_000_000).unwrap_or(i128::MAX);
            let least = ms(sent.since(was_received).as_nanos() * (1_000 - rate.min(1_000)) / 1_000) - CLOCK_SLACK_MS;
            let most = ms(received.since(was_sent).as_nanos() * (1_000 + rate) / 1_000) + CLOCK_SLACK_MS;
            let by = if went < least { went - least } else { (went - most).max(0) };
            if by != 0 {
                let by_ms = i64::try_from(by).unwrap_or(if by < 0 { i64::MIN } else { i64::MAX });
                self.notices.push_back(Notice::ClockStepped { by_ms });
            }
        }
    }
}

fn set_back(what: &str, was: u64, is: u64) -> String {
    format!(
        "the database was set back: {what} was at {was} and is at {is}. It was restored from an older backup, or replaced \
         by a replica that lagged; stop everything that uses it, compare what it says with what was done since, and start \
         it again"
    )
}

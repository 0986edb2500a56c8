//! What the runs reached: faults, acts and how they ended, states, guards, entries of the saga's log; and which fault fell
//! into which step. What they did not reach is printed, for nobody else would notice.

use std::{collections::BTreeMap, fmt::Write as _};

use super::{fault, hands::KINDS};
use crate::model::{FenceVerdict, Notice, StepResult, explain::Guard, incident::IncidentState, record::LogEntry};

/// What runs reached, and how often.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    hits: BTreeMap<&'static str, u64>,
    acts: BTreeMap<(&'static str, &'static str), u64>,
    pairs: BTreeMap<(&'static str, &'static str), u64>,
}

/// The steps into which a fault can fall.
pub(super) const STEPS: [&str; 7] =
    ["quiet", "fencing", "catching up", "promoting", "redirecting", "rejoining", "held"];

/// What can be reached beside acts, faults and pairs.
const PLACES: [&str; 65] = [
    "agent: a promotion waits for an older lease",
    "agent: an old epoch's order was refused",
    "agent: a grant for a former life was refused",
    "agent: an order came too late",
    "arbiter: an act is not begun, for it leads no more",
    "arbiter: appoints who is primary",
    "arbiter: begins to lead",
    "arbiter: persists",
    "arbiter: stops leading",
    "entry: aborted",
    "entry: became failover",
    "entry: candidate changed",
    "entry: ended",
    "entry: epoch raised",
    "entry: followed",
    "entry: held",
    "entry: opened",
    "entry: promoted",
    "entry: released",
    "entry: resolved",
    "entry: started",
    "entry: abort requested",
    "guard: paused",
    "guard: held_by_rule",
    "guard: tilt",
    "guard: isolated",
    "guard: not_leading",
    "guard: store_lost",
    "guard: cooldown",
    "guard: budget",
    "guard: primary_unclear",
    "guard: no_candidate",
    "guard: no_fence",
    "guard: no_lease",
    "guard: approval",
    "guard: busy",
    "incident: fencing",
    "incident: catching up",
    "incident: promoting",
    "incident: redirecting",
    "incident: rejoining",
    "incident: held",
    "incident: resolved",
    "incident: aborted",
    "node: told who is primary",
    "notice: two primaries",
    "notice: own trouble",
    "notice: blocked",
    "notice: a rule fired",
    "notice: a rule cleared",
    "notice: the primary changed",
    "store: an answer was lost",
    "store: conflict",
    "store: keeps what an arbiter died over",
    "arbiter: dies before it told of an end",
    "arbiter: tells of an end that perhaps nobody was told of",
    "store: refused",
    "act: hangs",
    "act: loses its answer",
    "act: comes late",
    "act: is refused",
    "act: lies",
    "world: a supervisor restarts the broker",
    "world: an arbiter starts again",
    "world: a person brings back who stayed away",
];

impl Coverage {
    pub(super) fn hit(&mut self, place: &'static str) {
        *self.hits.entry(place).or_default() += 1;
    }

    pub(super) fn act(&mut self, kind: &'static str) {
        *self.acts.entry((kind, "begun")).or_default() += 1;
    }

    pub(super) fn result(&mut self, kind: &'static str, result: &StepResult) {
        let how = match result {
            StepResult::Fenced(report) => match report.verdict {
                FenceVerdict::Confirmed => "confirmed",
                FenceVerdict::Refuted => "refuted",
                FenceVerdict::Unknown => "unknown",
            },
            StepResult::WriteTried(attempt) if attempt.is_accepted() => "accepted",
            StepResult::WriteTried(_) => "not accepted",
            StepResult::Done(_) => "done",
            StepResult::Told { .. } => "told",
            StepResult::Outbid { .. } => "outbid",
            StepResult::FellShort { .. } => "fell short",
            StepResult::Failed(_) => "failed",
        };
        *self.acts.entry((kind, how)).or_default() += 1;
    }

    pub(super) fn pair(&mut self, fault: &'static str, step: &'static str) {
        *self.pairs.entry((fault, step)).or_default() += 1;
    }

    pub(super) fn entry(&mut self, entry: &LogEntry) {
        self.hit(match entry {
            LogEntry::Opened { .. } => "entry: opened",
            LogEntry::Started { .. } => "entry: started",
            LogEntry::Ended { .. } => "entry: ended",
            LogEntry::FenceConfirmed { .. } => "entry: fence confirmed",
            LogEntry::CandidateChanged { .. } => "entry: candidate changed",
            LogEntry::AbortRequested { .. } => "entry: abort requested",
            LogEntry::BecameFailover { .. } => "entry: became failover",
            LogEntry::EpochRaised { .. } => "entry: epoch raised",
            LogEntry::Held { .. } => "entry: held",
            LogEntry::Released { .. } => "entry: released",
            LogEntry::Promoted { .. } => "entry: promoted",
            LogEntry::Followed { .. } => "entry: followed",
            LogEntry::Aborted { .. } => "entry: aborted",
            LogEntry::Resolved => "entry: resolved",
        });
    }

    pub(super) fn notice(&mut self, notice: &Notice) {
        match notice {
            Notice::GuardChanged { guard, blocks: true, .. } => self.hit(guard_place(*guard)),
            Notice::ActBlocked { guards, .. } => {
                self.hit("notice: blocked");
                for (guard, _) in guards {
                    self.hit(guard_place(*guard));
                }
            }
            Notice::RuleFired { .. } => self.hit("notice: a rule fired"),
            Notice::RuleCleared { .. } => self.hit("notice: a rule cleared"),
            Notice::PrimaryChanged { .. } => self.hit("notice: the primary changed"),
            Notice::TwoPrimaries { now: true, .. } => self.hit("notice: two primaries"),
            Notice::IncidentUpdated(incident) => self.hit(state_place(incident.state)),
            Notice::Own { ok: false, .. } => self.hit("notice: own trouble"),
            _ => {}
        }
    }

    /// Adds what another run reached.
    pub fn add(&mut self, other: &Self) {
        for (place, times) in &other.hits {
            *self.hits.entry(place).or_default() += times;
        }
        for (act, times) in &other.acts {
            *self.acts.entry(*act).or_default() += times;
        }
        for (pair, times) in &other.pairs {
            *self.pairs.entry(*pair).or_default() += times;
        }
    }

    /// How often a place was reached.
    #[must_use]
    pub fn times(&self, place: &str) -> u64 {
        self.hits.get(place).copied().unwrap_or(0)
    }

    /// The places that can be reached and were not.
    #[must_use]
    pub fn unreached(&self) -> Vec<&'static str> {
        let places = PLACES.into_iter().filter(|place| !self.hits.contains_key(place));
        let acts = KINDS.into_iter().filter(|kind| !self.acts.contains_key(&(*kind, "begun")));
        places.chain(acts).collect()
    }

    /// The pairs of fault and step that were not reached.
    #[must_use]
    pub fn unreached_pairs(&self) -> Vec<(&'static str, &'static str)> {
        let all = fault::KINDS.iter().flat_map(|fault| STEPS.into_iter().map(move |step| (*fault, step)));
        all.filter(|pair| !self.pairs.contains_key(pair)).collect()
    }

    /// The scenarios that the faults which fell belong to, by the names of the project's table of faults.
    #[must_use]
    pub fn scenarios(&self) -> Vec<&'static str> {
        let mut all: Vec<&'static str> =
            self.pairs.keys().flat_map(|(fault, _)| fault::scenarios(fault)).copied().collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// All of it as text: what was reached, how often, and what was not.
    #[must_use]
    pub fn report(&self) -> String {
        let mut text = String::new();
        let count = |list: usize| list.to_string();
        let _ = writeln!(text, "acts and how they ended");
        for kind in KINDS {
            let ends = self.acts.iter().filter(|((of, _), _)| *of == kind);
            let ends: Vec<String> = ends.map(|((_, how), times)| format!("{how} {times}")).collect();
            let _ = writeln!(text, "  {kind:<16} {}", ends.join(", "));
        }
        let _ = writeln!(text, "places: {} of {}", count(PLACES.len() - self.missing_places()), PLACES.len());
        let unreached = self.unreached();
        if !unreached.is_empty() {
            let _ = writeln!(text, "  not reached: {}", unreached.join(", "));
        }
        let pairs = self.unreached_pairs();
        let all = fault::KINDS.len() * STEPS.len();
        let _ = writeln!(text, "pairs of fault and step: {} of {all}", all - pairs.len());
        for fault in fault::KINDS {
            let steps: Vec<&str> = pairs.iter().filter(|(of, _)| *of == fault).map(|(_, step)| *step).collect();
            if !steps.is_empty() {
                let _ = writeln!(text, "  {fault} did not fall into: {}", steps.join(", "));
            }
        }
        let _ = writeln!(text, "scenarios: {}", self.scenarios().join(" "));
        text
    }

    fn missing_places(&self) -> usize {
        PLACES.into_iter().filter(|place| !self.hits.contains_key(place)).count()
    }
}

const fn guard_place(guard: Guard) -> &'static str {
    match guard {
        Guard::Paused => "guard: paused",
        Guard::HeldByRule => "guard: held_by_rule",
        Guard::Tilt => "guard: tilt",
        Guard::Isolated => "guard: isolated",
        Guard::NotLeading => "guard: not_leading",
        Guard::StoreLost => "guard: store_lost",
        Guard::Cooldown => "guard: cooldown",
        Guard::Budget => "guard: budget",
        Guard::Storm => "guard: storm",
        Guard::PrimaryUnclear => "guard: primary_unclear",
        Guard::NoCandidate => "guard: no_candidate",
        Guard::NoFence => "guard: no_fence",
        Guard::NoLease => "guard: no_lease",
        Guard::Approval => "guard: approval",
        Guard::Busy => "guard: busy",
    }
}

const fn state_place(state: IncidentState) -> &'static str {
    match state {
        IncidentState::Fencing => "incident: fencing",
        IncidentState::CatchingUp => "incident: catching up",
        IncidentState::Promoting => "incident: promoting",
        IncidentState::Redirecting => "incident: redirecting",
        IncidentState::Rejoining => "incident: rejoining",
        IncidentState::Held => "incident: held",
        IncidentState::Resolved => "incident: resolved",
        IncidentState::Aborted => "incident: aborted",
    }
}

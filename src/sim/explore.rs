//! All faults alone, all in pairs, and thousands by chance, over one setting: what an operator wants to know of a file
//! before the night does. The cases are data; whoever has threads plays them ([`crate::sim::run()`]) and adds up
//! what came of each.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::Serialize;

use super::{
    check::Invariant,
    coverage::Coverage,
    fault::{self, Fault, Schedule},
    random::Random,
    run::Outcome,
    setting::Setting,
};

/// How a case was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// Nothing goes wrong.
    Quiet,
    /// One fault.
    Single,
    /// Two.
    Double,
    /// Up to six, by chance.
    Random,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Quiet => "nothing goes wrong",
            Self::Single => "one fault",
            Self::Double => "two faults",
            Self::Random => "by chance",
        })
    }
}

/// One case to play.
#[derive(Clone, Debug)]
pub struct Case {
    /// Where it comes from.
    pub family: Family,
    /// What is played.
    pub schedule: Schedule,
}

/// What can be wrong with a configuration, worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Danger {
    /// Two members could acknowledge writes at once.
    TwoMasters,
    /// Another promise was broken, by its name.
    Promise(Invariant),
    /// A primary that most nodes were served by was called dead.
    FalseFailover,
    /// Nobody was served for long, a standby was there, and nothing was begun.
    Missed,
}

impl fmt::Display for Danger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TwoMasters => f.pad("two masters"),
            Self::Promise(invariant) => write!(f, "broken: {invariant}"),
            Self::FalseFailover => f.pad("false failover"),
            Self::Missed => f.pad("failover missed"),
        }
    }
}

/// What is wrong with one outcome.
#[must_use]
pub fn dangers(outcome: &Outcome) -> Vec<Danger> {
    let mut all: Vec<Danger> = outcome
        .violations
        .iter()
        .map(|violation| match violation.invariant {
            // Clients saw what the judge saw.
            Invariant::OnePrimary | Invariant::EpochRegister => Danger::TwoMasters,
            other => Danger::Promise(other),
        })
        .collect();
    if outcome.false_failovers > 0 {
        all.push(Danger::FalseFailover);
    }
    if outcome.is_missed {
        all.push(Danger::Missed);
    }
    all.sort_unstable();
    all.dedup();
    all
}

/// The cases for a setting: the quiet one, each fault alone, each pair in both orders, and so many by chance.
#[must_use]
pub fn cases(setting: &Setting, seed: u64, random: u64) -> Vec<Case> {
    let singles = fault::singles(setting);
    let wait = setting.longest_wait();
    // Alone, a fault is left for so long that a failover that does not come was missed.
    let patience = 3 * wait + Duration::from_secs(8);
    let first = Duration::from_millis(500);
    let mut chance = Random::new(seed);
    let mut all = vec![Case { family: Family::Quiet, schedule: Schedule::of(seed, &[], patience) }];
    for fault in &singles {
        let schedule = Schedule::of(chance.draw(), &[(first, fault.clone())], patience);
        all.push(Case { family: Family::Single, schedule });
    }
    for one in &singles {
        for other in singles.iter().filter(|other| *other != one) {
            // At once, in the middle of what the first began, and after that.
            let apart = match chance.index(4) {
                0 => Duration::ZERO,
                1 => Duration::from_millis(chance.within(5, 200)),
                2 => wait.mul_f64(0.9) + Duration::from_millis(chance.within(0, 400)),
                _ => wait + Duration::from_millis(chance.within(500, 3_000)),
            };
            let apart = Duration::from_millis(u64::try_from(apart.as_millis()).unwrap_or(0));
            let faults = [(first, one.clone()), (first + apart, other.clone())];
            let schedule = Schedule::of(chance.draw(), &faults, first + apart + wait + Duration::from_secs(2));
            all.push(Case { family: Family::Double, schedule });
        }
    }
    for number in 0..random {
        let schedule = Schedule::random(setting, seed.wrapping_add(number));
        all.push(Case { family: Family::Random, schedule });
    }
    all
}

/// The pairs among them, thinned so that no more than `most` cases are left of them: chance decides which.
pub fn thin(cases: &mut Vec<Case>, most: usize, seed: u64) {
    let doubles = cases.iter().filter(|case| case.family == Family::Double).count();
    if doubles <= most {
        return;
    }
    let mut chance = Random::new(seed);
    let (mut left, mut wanted) = (doubles, most);
    cases.retain(|case| {
        if case.family != Family::Double {
            return true;
        }
        let keeps = chance.index(left) < wanted;
        left -= 1;
        wanted -= usize::from(keeps);
        keeps
    });
}

/// One danger, as often as it was met, with the case that shows it best.
#[derive(Clone, Debug)]
pub struct Finding {
    /// In how many cases.
    pub times: u64,
    /// The one with the fewest faults.
    pub case: Case,
}

/// What came of many cases.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Cases played, by family.
    pub played: BTreeMap<Family, u64>,
    /// Cases in which a primary was replaced.
    pub promoted: u64,
    /// Cases at whose end a person had to come.
    pub held: u64,
    /// What was found.
    pub findings: BTreeMap<Danger, Finding>,
    /// By family, the longest time without service of cases that ended in a promotion without a person, with its case.
    pub worst_outage: BTreeMap<Family, (Duration, Case)>,
    /// The most acknowledged writes that were lost, with its case.
    pub worst_loss: Option<(usize, Case)>,
    /// Events played.
    pub events: u64,
    /// Promotions.
    pub promotions: u64,
    /// What was reached.
    pub coverage: Coverage,
}

impl Tally {
    /// Adds what came of a case.
    pub fn add(&mut self, case: &Case, outcome: &Outcome) {
        *self.played.entry(case.family).or_default() += 1;
        self.promoted += u64::from(outcome.promotions > 0);
        self.promotions += u64::from(outcome.promotions);
        self.held += u64::from(outcome.held > 0);
        self.events += outcome.events;
        self.coverage.add(&outcome.coverage);
        for danger in dangers(outcome) {
            let finding = Finding { times: 1, case: case.clone() };
            self.find(danger, finding);
        }
        let outage = Duration::from_nanos(outcome.outage_ns);
        let is_own = outcome.promotions > 0 && outcome.held == 0 && outcome.violations.is_empty();
        if is_own && self.worst_outage.get(&case.family).is_none_or(|(worst, _)| outage > *worst) {
            self.worst_outage.insert(case.family, (outage, case.clone()));
        }
        if outcome.lost > 0 && self.worst_loss.as_ref().is_none_or(|(most, _)| outcome.lost > *most) {
            self.worst_loss = Some((outcome.lost, case.clone()));
        }
    }

    /// Adds what another thread counted.
    pub fn merge(&mut self, other: Self) {
        for (family, times) in other.played {
            *self.played.entry(family).or_default() += times;
        }
        self.promoted += other.promoted;
        self.promotions += other.promotions;
        self.held += other.held;
        self.events += other.events;
        self.coverage.add(&other.coverage);
        for (danger, finding) in other.findings {
            self.find(danger, finding);
        }
        for (family, (outage, case)) in other.worst_outage {
            if self.worst_outage.get(&family).is_none_or(|(worst, _)| outage > *worst) {
                self.worst_outage.insert(family, (outage, case));
            }
        }
        if let Some((lost, case)) = other.worst_loss
            && self.worst_loss.as_ref().is_none_or(|(most, _)| lost > *most)
        {
            self.worst_loss = Some((lost, case));
        }
    }

    fn find(&mut self, danger: Danger, finding: Finding) {
        match self.findings.get_mut(&danger) {
            Some(known) => {
                known.times += finding.times;
                if size(&finding.case) < size(&known.case) {
                    known.case = finding.case;
                }
            }
            None => {
                self.findings.insert(danger, finding);
            }
        }
    }

    /// Cases played.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.played.values().sum()
    }
}

/// Fewer faults first, then whichever came first in the list, so that two runs of the same cases show the same one.
fn size(case: &Case) -> (usize, u64) {
    (case.schedule.faults.len(), case.schedule.seed)
}

/// The faults of a case in words.
#[must_use]
pub fn words(setting: &Setting, schedule: &Schedule) -> String {
    let faults: Vec<String> = schedule
        .faults
        .iter()
        .map(|timed| {
            let at = crate::model::time::human(timed.at);
            let until = timed.for_.map_or_else(String::new, |d| format!(" for {}", crate::model::time::human(d)));
            format!("at {at} {}{until}", words_of(&timed.fault, setting))
        })
        .collect();
    if faults.is_empty() { "nothing goes wrong".into() } else { faults.join("; ") }
}

fn words_of(fault: &Fault, setting: &Setting) -> String {
    fault.words(setting)
}

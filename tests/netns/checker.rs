//! Reads what the writers logged and looks for a moment with two primaries.
//!
//! What has to hold, over all writers of all sides:
//! 1. Every acknowledgement belongs to one epoch and comes from the one who held it. Between its promotion and the
//!    moment at which the epoch is stored a new primary still shows the former epoch: such acknowledgements belong to
//!    the epoch that it gets next.
//! 2. On the servers' own clock, no epoch's last executed write comes after the first one of a later epoch.
//! 3. By the clients' clock, no acknowledgement of an epoch arrives after one of a later epoch, unless it was given in
//!    time (2.) and came late: a packet that was on its way when a cable was cut arrives when it is mended, and no
//!    fence calls it back. Such answers are counted.

use std::{collections::BTreeMap, path::Path, time::Duration};

use crate::client::Ack;

/// A writer on a busy machine may read an answer this much later than it came, in nanoseconds.
const STARVED: u64 = 250_000_000;

/// One epoch, as the writers saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Term {
    pub(crate) epoch: u64,
    pub(crate) holder: String,
    /// Acknowledged writes.
    pub(crate) count: usize,
    /// First and last execution, on the servers' clock.
    pub(crate) executed: (u64, u64),
    /// First and last acknowledgement, on the clients' clock, in nanoseconds.
    pub(crate) acked: (u64, u64),
}

/// What the logs say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings {
    pub(crate) terms: Vec<Term>,
    pub(crate) violations: Vec<String>,
    /// Answers that were given in time and came after the first one of a later epoch.
    pub(crate) late: usize,
    /// The longest overlap of two epochs.
    pub(crate) overlap: Duration,
    pub(crate) acks: Vec<Ack>,
}

/// Reads all logs of a directory.
pub(crate) fn read(directory: &Path) -> Vec<Ack> {
    let mut acks = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "acks") {
            let text = std::fs::read_to_string(&path).unwrap();
            // The last line may be torn where the process was killed.
            acks.extend(
                text.split_inclusive('\n')
                    .filter(|l| l.ends_with('\n'))
                    .map(|line| Ack::parse(line.trim_end()).unwrap_or_else(|| panic!("{}: {line:?}", path.display()))),
            );
        }
    }
    acks
}

/// Judges them. `first`: who was primary before any epoch was stored.
pub(crate) fn check(mut acks: Vec<Ack>, first: &str) -> Findings {
    acks.sort_by_key(|ack| (ack.executed, ack.acked));
    let mut found = Findings::default();
    let mut holders: BTreeMap<u64, String> = BTreeMap::from([(0, first.to_owned())]);
    for ack in &acks {
        if ack.holder != "-" {
            let holder = holders.entry(ack.epoch).or_insert_with(|| ack.holder.clone());
            if *holder != ack.holder {
                found
                    .violations
                    .push(format!("epoch {} is held by {holder} and by {}: {ack:?}", ack.epoch, ack.holder));
            }
        }
    }
    let mut terms: BTreeMap<u64, Term> = BTreeMap::new();
    let mut late: BTreeMap<u64, Vec<&Ack>> = BTreeMap::new();
    for ack in &acks {
        let epoch = if holders.get(&ack.epoch) == Some(&ack.server) {
            ack.epoch
        } else {
            // Promoted, and the epoch not stored yet.
            match holders.range(ack.epoch + 1..).find(|(_, holder)| **holder == ack.server) {
                Some((next, _)) => *next,
                None => {
                    let text = format!("{} took a write and holds no epoch from {} on: {ack:?}", ack.server, ack.epoch);
                    found.violations.push(text);
                    continue;
                }
            }
        };
        let term = terms.entry(epoch).or_insert_with(|| Term {
            epoch,
            holder: ack.server.clone(),
            count: 0,
            executed: (ack.executed, ack.executed),
            acked: (ack.acked, ack.acked),
        });
        term.count += 1;
        term.executed = (term.executed.0.min(ack.executed), term.executed.1.max(ack.executed));
        term.acked = (term.acked.0.min(ack.acked), term.acked.1.max(ack.acked));
        late.entry(epoch).or_default().push(ack);
    }
    let all: Vec<Term> = terms.into_values().collect();
    for (index, term) in all.iter().enumerate() {
        for later in &all[index + 1..] {
            let overlap = Duration::from_micros(term.executed.1.saturating_sub(later.executed.0));
            if !overlap.is_zero() {
                found.overlap = found.overlap.max(overlap);
                found.violations.push(format!("two primaries for {overlap:?}: {term:?} and {later:?}"));
            }
            let is_late = |ack: &&&Ack| ack.acked > later.acked.0 && ack.acked - ack.sent > STARVED;
            found.late += late[&term.epoch].iter().filter(is_late).count();
        }
    }
    found.terms = all;
    acks.sort_by_key(|ack| ack.acked);
    found.acks = acks;
    found
}

impl Findings {
    /// The longest time without an acknowledgement to any follower, between two moments of the clients' clock.
    pub(crate) fn outage(&self, from: u64, until: u64) -> Duration {
        let all = self
            .acks
            .iter()
            .filter(|ack| ack.writer.ends_with("follow") || ack.writer.ends_with("seek"))
            .map(|ack| ack.acked);
        let (mut before, mut longest) = (None, 0);
        for at in all.take_while(|at| *at <= until).chain([until]) {
            if at >= from {
                longest = longest.max(before.map_or(0, |before| at - before));
            }
            before = Some(at);
        }
        Duration::from_nanos(longest)
    }

    /// Stops at violations, and shows the first ones.
    pub(crate) fn assert_clean(&self) {
        assert!(self.violations.is_empty(), "{} violations:\n{}", self.violations.len(), {
            self.violations.iter().take(10).cloned().collect::<Vec<_>>().join("\n")
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(server: &str, epoch: u64, holder: &str, ms: u64) -> Ack {
        Ack {
            writer: "n1-follow".into(),
            server: server.into(),
            epoch,
            holder: holder.into(),
            value: ms,
            sent: ms * 1_000_000,
            acked: ms * 1_000_000 + 400_000,
            executed: ms * 1_000 + 200,
        }
    }

    #[test]
    fn a_line_reads_as_it_was_written() {
        let ack = ack("m", 3, "m", 7);
        assert_eq!(Ack::parse(ack.line().trim_end()), Some(ack));
        assert_eq!(Ack::parse("w m 3"), None);
    }

    #[test]
    fn a_clean_failover_is_clean_and_its_outage_is_measured() {
        let acks = vec![ack("m", 0, "-", 10), ack("m", 0, "-", 20), ack("s", 0, "-", 620), ack("s", 2, "s", 630)];
        let found = check(acks, "m");
        found.assert_clean();
        assert_eq!(found.terms.len(), 2);
        assert_eq!(found.terms[1].count, 2, "the write before the epoch was stored belongs to it");
        assert_eq!(found.outage(15_000_000, 631_000_000), Duration::from_millis(600));
    }

    #[test]
    fn two_primaries_are_seen() {
        let acks = vec![ack("m", 0, "-", 10), ack("s", 2, "s", 20), ack("m", 0, "-", 30)];
        let found = check(acks, "m");
        assert_eq!(found.overlap, Duration::from_millis(10));
        assert!(!found.violations.is_empty());
    }

    #[test]
    fn a_returned_primary_that_takes_a_write_under_the_old_epoch_is_seen() {
        let acks = vec![
            ack("m", 1, "m", 10),
            ack("s", 2, "s", 20),
            ack("m", 3, "m", 30),
            ack("s", 4, "s", 40),
            ack("m", 3, "m", 50),
        ];
        assert!(!check(acks, "m").violations.is_empty());
    }

    #[test]
    fn a_standby_that_takes_writes_without_an_epoch_is_seen() {
        let found = check(vec![ack("m", 0, "-", 10), ack("s", 0, "-", 20), ack("m", 0, "-", 30)], "m");
        assert_eq!(found.violations.len(), 1);
    }

    #[test]
    fn two_holders_of_one_epoch_are_seen() {
        assert!(!check(vec![ack("m", 2, "m", 10), ack("s", 2, "s", 20)], "m").violations.is_empty());
    }

    #[test]
    fn an_answer_that_was_given_in_time_and_comes_late_is_counted() {
        let mut late = ack("m", 0, "-", 10);
        late.acked = 5_000_000_000;
        let found = check(vec![late, ack("s", 2, "s", 600)], "m");
        found.assert_clean();
        assert_eq!(found.late, 1);
    }
}

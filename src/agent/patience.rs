//! When silence is the broker's own. Pure.
//!
//! A broker that gives no answer is suspected after a time of some 200 ms. On a host whose processors are all taken, that
//! much passes without anybody having done wrong: the broker is ready to run and is not run, or the agent's own question
//! lies in a queue. The kernel tells both apart from a hang: a thread that hangs sleeps or is stopped, one in an endless
//! loop runs, and one that is *runnable and hardly ran* waits for a processor. While that is so the broker is not
//! suspected, for [`MOST`] times the usual at most: a host on which nothing runs for a second serves nobody.
//!
//! Not promised: of a broker with several threads the main one alone is looked at; a host whose kernel counts no
//! processor time (`/proc/PID/schedstat`) is judged by the agent's own lateness alone.

use std::time::Duration;

use crate::model::Time;

/// How often the agent's ordinary threads show that they are run.
pub const PULSE_EVERY: Duration = Duration::from_millis(20);
/// Without a sign for this long they are not run.
const PULSE_MISSING: Duration = Duration::from_millis(60);
/// Nor are they run as they should if, of the time since the last answer, this part passed in waiting: a
/// question and its answer wait for a processor three times, the agent's thread twice.
const LATE_PART: u32 = 8;
/// Silence is excused for so many times the timeout, counted from the last answer.
const MOST: u32 = 5;

/// How a process stands with the processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Processor {
    /// It runs, or waits for a processor.
    pub is_runnable: bool,
    /// How long it has run in its life.
    pub ran: Duration,
}

/// How the agent's ordinary threads, those that ask, stand with the processors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pulse {
    /// When they showed last that they are run; zero: they never did.
    pub at: Time,
    /// How much too late all their signs together came.
    pub late: Duration,
}

impl Pulse {
    /// They show it now.
    #[must_use]
    pub fn shown(self, now: Time) -> Self {
        let gap = if self.at == Time::ZERO { PULSE_EVERY } else { now.since(self.at) };
        Self { at: now, late: self.late + gap.saturating_sub(PULSE_EVERY) }
    }

    fn is_known(self) -> bool {
        self.at != Time::ZERO
    }
}

/// The last answer. It proves that the broker was well at some moment between the question and its coming; it counts from
/// when it came, for on a busy host each takes a good part of the timeout.
#[derive(Clone, Copy, Debug)]
struct Answered {
    came: Time,
    /// How long the broker had run in its life then.
    ran: Option<Duration>,
    late: Duration,
}

/// What is known of one broker's answers.
#[derive(Debug)]
pub struct Patience {
    timeout: Duration,
    answered: Option<Answered>,
    excused_until: Option<Time>,
}

impl Patience {
    /// Of a broker that is suspected after this long.
    #[must_use]
    pub const fn new(timeout: Duration) -> Self {
        Self { timeout, answered: None, excused_until: None }
    }

    /// When its last answer came.
    #[must_use]
    pub fn answered(&self) -> Option<Time> {
        self.answered.map(|answered| answered.came)
    }

    /// It answers. `ran`: how long it has run in its life.
    pub fn has_answered(&mut self, now: Time, pulse: Pulse, ran: Option<Duration>) {
        self.answered = Some(Answered { came: now, ran, late: pulse.late });
        self.excused_until = None;
    }

    /// Whether it counts as silent now. `processor`: how the broker stands with the processors, if that is known.
    pub fn is_silent(&mut self, now: Time, pulse: Pulse, processor: impl FnOnce() -> Option<Processor>) -> bool {
        let Some(last) = self.answered else { return true };
        if now < last.came + self.timeout {
            return false;
        }
        if now >= last.came + self.timeout * MOST {
            return true;
        }
        let missing = now.since(pulse.at);
        let late = pulse.late.saturating_sub(last.late) + missing.saturating_sub(PULSE_EVERY);
        let is_late = missing > PULSE_MISSING || late * LATE_PART >= now.since(last.came);
        let waits = |then: Duration| {
            // Less than a quarter of the time, though it wants to run. One that ran for less than before is another process.
            let hardly_ran = |ran: Duration| ran * 4 < now.since(last.came);
            processor().is_some_and(|p| p.is_runnable && p.ran.checked_sub(then).is_some_and(hardly_ran))
        };
        if (pulse.is_known() && is_late) || last.ran.is_some_and(waits) {
            // Once it is run again, it needs a moment to answer.
            self.excused_until = Some(now + self.timeout / 2);
        }
        self.excused_until.is_none_or(|until| until <= now)
    }

    /// When it is to be looked at again, if it does not answer.
    #[must_use]
    pub fn looks_again(&self) -> Option<Time> {
        let came = self.answered?.came;
        let end = came + self.timeout * MOST;
        Some((came + self.timeout).max(self.excused_until.unwrap_or_default()).min(end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(200);

    fn at(ms: u64) -> Time {
        Time::ZERO + Duration::from_millis(1_000 + ms)
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// It answered at 0, having run for 50 ms in its life.
    fn answered() -> Patience {
        let mut patience = Patience::new(TIMEOUT);
        patience.has_answered(at(0), pulse(0), Some(ms(50)));
        patience
    }

    /// The last sign came then, and none too late.
    fn pulse(ms: u64) -> Pulse {
        Pulse { at: at(ms), late: Duration::ZERO }
    }

    const fn waiting() -> Option<Processor> {
        Some(Processor { is_runnable: true, ran: Duration::from_millis(51) })
    }

    const fn sleeping() -> Option<Processor> {
        Some(Processor { is_runnable: false, ran: Duration::from_millis(51) })
    }

    #[test]
    fn silence_is_the_brokers_own_where_everybody_is_run() {
        let mut patience = answered();
        assert!(!patience.is_silent(at(199), pulse(190), sleeping));
        assert_eq!(patience.looks_again(), Some(at(200)));
        assert!(patience.is_silent(at(200), pulse(190), sleeping), "it sleeps, or is stopped");
        let busy = Processor { is_runnable: true, ran: ms(250) };
        assert!(patience.is_silent(at(200), pulse(190), || Some(busy)), "it runs in a circle");
        assert!(patience.is_silent(at(200), Pulse::default(), || None), "nothing is known");
        let other = Processor { is_runnable: true, ran: ms(9) };
        assert!(patience.is_silent(at(200), pulse(190), || Some(other)), "it is another process");
        assert!(Patience::new(TIMEOUT).is_silent(at(0), Pulse::default(), || None), "it never answered");
    }

    #[test]
    fn who_waits_for_a_processor_is_not_suspected_but_not_for_ever() {
        let mut patience = answered();
        assert!(!patience.is_silent(at(200), pulse(190), waiting));
        assert_eq!(patience.looks_again(), Some(at(300)));
        assert!(!patience.is_silent(at(299), pulse(290), sleeping), "it has a moment to answer");
        assert!(patience.is_silent(at(300), pulse(290), sleeping), "and did not");
        assert!(!patience.is_silent(at(300), pulse(290), waiting));
        assert!(!patience.is_silent(at(999), pulse(990), waiting));
        assert_eq!(patience.looks_again(), Some(at(1_000)));
        assert!(patience.is_silent(at(1_000), pulse(990), waiting));
    }

    #[test]
    fn an_agent_that_is_not_run_itself_suspects_nobody() {
        let mut patience = answered();
        assert!(!patience.is_silent(at(200), pulse(130), sleeping), "its question may lie in a queue");
        assert!(!patience.is_silent(at(250), pulse(245), sleeping));
        assert!(patience.is_silent(at(300), pulse(295), sleeping));
        patience.has_answered(at(310), pulse(309), Some(ms(60)));
        assert!(!patience.is_silent(at(509), pulse(500), sleeping));
        assert!(patience.is_silent(at(510), pulse(500), sleeping));
        // Each of its turns comes a little late: a question and its answer need several.
        let mut busy = answered();
        let signs = [40, 65, 88, 112, 135, 160, 185].into_iter().map(at);
        let late = signs.fold(pulse(15), Pulse::shown);
        assert_eq!((late.at, late.late), (at(185), ms(30)));
        assert!(!busy.is_silent(at(200), late, sleeping));
    }
}

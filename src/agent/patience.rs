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

/// How often the agent's ordinary thread shows that it runs.
pub const PULSE_EVERY: Duration = Duration::from_millis(20);
/// One that showed nothing for this long is itself not run.
const PULSE_LATE: Duration = Duration::from_millis(60);
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

/// What is known of one broker's answers.
#[derive(Debug)]
pub struct Patience {
    timeout: Duration,
    /// When it was asked what it answered last; when that came, and how long it had run then.
    answered: Option<(Time, Time, Option<Duration>)>,
    excused_until: Option<Time>,
}

impl Patience {
    /// Of a broker that is suspected after this long.
    #[must_use]
    pub const fn new(timeout: Duration) -> Self {
        Self { timeout, answered: None, excused_until: None }
    }

    /// When it was asked what it answered last.
    #[must_use]
    pub fn answered(&self) -> Option<Time> {
        self.answered.map(|(asked, ..)| asked)
    }

    /// It answered, now, what it was asked then. `ran`: how long it has run in its life.
    pub fn has_answered(&mut self, now: Time, asked: Time, ran: Option<Duration>) {
        if self.answered.is_none_or(|(before, ..)| before <= asked) {
            self.answered = Some((asked, now, ran));
            // An answer that came too late says that it was slow, and excuses what excused it.
            if now < asked + self.timeout {
                self.excused_until = None;
            }
        }
    }

    /// Whether it counts as silent now. `pulse`: when the agent's ordinary thread showed last that it runs, if it ever
    /// did; `processor`: how the broker stands with the processors, if that is known.
    pub fn is_silent(&mut self, now: Time, pulse: Option<Time>, processor: impl FnOnce() -> Option<Processor>) -> bool {
        let Some((asked, came, ran)) = self.answered else { return true };
        if now < asked + self.timeout {
            return false;
        }
        if now >= asked + self.timeout * MOST {
            return true;
        }
        let is_late = pulse.is_some_and(|pulse| now.since(pulse) > PULSE_LATE);
        let waits = |then: Duration| {
            // Less than a quarter of the time, though it wants to run.
            processor().is_some_and(|p| p.is_runnable && p.ran.saturating_sub(then) * 4 < now.since(came))
        };
        if is_late || ran.is_some_and(waits) {
            // Once it is run again, it needs a moment to answer.
            self.excused_until = Some(now + self.timeout / 2);
        }
        self.excused_until.is_none_or(|until| until <= now)
    }

    /// When it is to be looked at again, if it does not answer.
    #[must_use]
    pub fn looks_again(&self) -> Option<Time> {
        let (asked, ..) = self.answered?;
        let end = asked + self.timeout * MOST;
        Some((asked + self.timeout).max(self.excused_until.unwrap_or_default()).min(end))
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
        patience.has_answered(at(0), at(0), Some(ms(50)));
        patience
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
        assert!(!patience.is_silent(at(199), Some(at(190)), sleeping));
        assert_eq!(patience.looks_again(), Some(at(200)));
        assert!(patience.is_silent(at(200), Some(at(190)), sleeping), "it sleeps, or is stopped");
        let busy = Processor { is_runnable: true, ran: ms(250) };
        assert!(patience.is_silent(at(200), Some(at(190)), || Some(busy)), "it runs in a circle");
        assert!(patience.is_silent(at(200), None, || None), "nothing is known");
        assert!(Patience::new(TIMEOUT).is_silent(at(0), None, || None), "it never answered");
    }

    #[test]
    fn who_waits_for_a_processor_is_not_suspected_but_not_for_ever() {
        let mut patience = answered();
        assert!(!patience.is_silent(at(200), Some(at(190)), waiting));
        assert_eq!(patience.looks_again(), Some(at(300)));
        assert!(!patience.is_silent(at(299), Some(at(290)), sleeping), "it has a moment to answer");
        assert!(patience.is_silent(at(300), Some(at(290)), sleeping), "and did not");
        assert!(!patience.is_silent(at(300), Some(at(290)), waiting));
        assert!(!patience.is_silent(at(999), Some(at(990)), waiting));
        assert_eq!(patience.looks_again(), Some(at(1_000)));
        assert!(patience.is_silent(at(1_000), Some(at(990)), waiting));
    }

    #[test]
    fn an_agent_that_is_not_run_itself_suspects_nobody() {
        let mut patience = answered();
        assert!(!patience.is_silent(at(200), Some(at(130)), sleeping), "its question may lie in a queue");
        assert!(!patience.is_silent(at(250), Some(at(245)), sleeping));
        patience.has_answered(at(260), at(5), Some(ms(60)));
        assert!(!patience.is_silent(at(260), Some(at(255)), sleeping), "the next answer is on its way");
        assert!(patience.is_silent(at(300), Some(at(295)), sleeping), "what it answered late it was asked early");
        patience.has_answered(at(262), at(261), Some(ms(60)));
        assert!(!patience.is_silent(at(460), Some(at(455)), sleeping));
        // An older answer takes nothing back.
        patience.has_answered(at(301), at(200), Some(ms(60)));
        assert_eq!(patience.answered(), Some(at(261)));
    }
}

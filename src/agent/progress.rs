//! Asks the guarded broker whether it makes progress: an answer to a question is progress, a process that runs is none.

use std::{sync::Arc, time::Duration};

use tokio::time::{MissedTickBehavior, interval};

use super::{
    patience::PULSE_EVERY,
    state::{StateHandle, Told},
};
use crate::{
    broker::{Ask, Broker},
    model::{Fact, Failure, FailureKind, Outcome, Target, observation::RoleReport},
    sys::clock,
};

/// Asks for ever. One question at a time: a broker that hangs is asked again once the question timed out.
pub async fn ask(broker: Arc<dyn Broker>, target: Target, every: Duration, timeout: Duration, state: StateHandle) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // Before the question: an answer proves that it was well then, and maybe no later.
        let asked = clock::now();
        let answer = answer(broker.ask(Ask::Role, &target, timeout).await);
        state.tell(Told::Progress { cluster: target.cluster.clone(), asked, answer });
    }
}

/// Shows for ever that threads like those that ask are run: where they are not, a missing answer says nothing.
pub async fn show_pulse(state: StateHandle) {
    let mut ticks = interval(PULSE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        state.show_pulse(clock::now());
    }
}

/// What an answer says of progress. `Ok(None)`: it goes on, and its role is not known.
fn answer(outcome: Outcome) -> Result<Option<RoleReport>, String> {
    match outcome {
        Outcome::Fact(Fact::Role(role)) => Ok(Some(role)),
        Outcome::Fact(_) => Ok(None),
        Outcome::Failure(failure) if is_sign_of_life(&failure) => Ok(None),
        Outcome::Failure(failure) => Err(failure.to_string()),
    }
}

/// Whether the broker works all the same: it answered, only not what was hoped for; or the fault is the agent's own, and
/// the broker shall not be stopped for that. A dead one among the latter is found by the nodes, and by the arbiter.
const fn is_sign_of_life(failure: &Failure) -> bool {
    match failure.kind {
        FailureKind::Auth
        | FailureKind::Tls
        | FailureKind::Parse
        | FailureKind::NotFound
        | FailureKind::WrongAnswer
        | FailureKind::ReadOnly
        | FailureKind::Full
        | FailureKind::Overloaded
        | FailureKind::Local => true,
        FailureKind::Refused
        | FailureKind::TimedOut
        | FailureKind::Unreachable
        | FailureKind::Reset
        | FailureKind::Loading => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expired_password_stops_no_broker() {
        let failure = |kind| answer(Outcome::Failure(Failure::new(kind, "x")));
        assert_eq!(failure(FailureKind::Auth), Ok(None));
        assert_eq!(failure(FailureKind::Local), Ok(None));
        assert_eq!(failure(FailureKind::TimedOut), Err("timed_out: x".into()));
        assert!(failure(FailureKind::Refused).is_err() && failure(FailureKind::Loading).is_err());
    }
}

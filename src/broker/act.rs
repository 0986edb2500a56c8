//! What all kinds' acts share: a bound in time, and an honest word on whether a failed act may have happened.

use std::{
    future::Future,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tokio::time::timeout;

use crate::model::{ActError, Done, Failure, time::human};

/// Why an act did not go on.
pub(super) struct Why(String);

impl From<Failure> for Why {
    fn from(failure: Failure) -> Self {
        Self(failure.to_string())
    }
}

impl From<String> for Why {
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// Bounds an act in time, and says of its failure whether it may have happened: `touched` is set before the first
/// command that changes anything.
pub(super) async fn act(
    attempted: &str,
    deadline: Duration,
    touched: &AtomicBool,
    work: impl Future<Output = Result<Done, Why>>,
) -> Result<Done, ActError> {
    let why = match timeout(deadline, work).await {
        Ok(Ok(done)) => return Ok(done),
        Ok(Err(Why(why))) => why,
        Err(_) => format!("it was not done within {}", human(deadline)),
    };
    Err(if touched.load(Ordering::Relaxed) {
        ActError::uncertain(attempted, why)
    } else {
        ActError::nothing_done(attempted, why)
    })
}

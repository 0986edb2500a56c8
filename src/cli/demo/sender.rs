//! `coroner demo-sender`: the one who sends the service's messages. It follows the primary as nodes do, and tells the
//! arbiter what it attempts, so that silence at the nodes means something.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use redis::{aio::MultiplexedConnection, cmd};
use serde::{Deserialize, Serialize};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{
    broker::{STREAM, open},
    follow::{Following, listen},
    gaps::Arrived,
    node::{Common, ask},
};
use crate::{
    cli::exit::{Exit, Failure},
    model::observation::Arrivals,
    sys::clock::now,
};

/// A sender of the demo.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Messages a second.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    rate: u64,
}

/// What the sender shows of itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct SenderState {
    /// Whom it follows.
    pub(crate) following: Following,
    /// How many messages it tried to send. Each has its own number and is tried once.
    pub(crate) attempted: u64,
    /// What was acknowledged, and when nothing was.
    pub(crate) acknowledged: Arrived,
    /// The numbers of the acknowledged messages, as ranges with both ends.
    pub(crate) acknowledged_numbers: Vec<(u64, u64)>,
    /// Why the newest refused message was refused.
    pub(crate) refused_with: Option<String>,
}

type Shared = Arc<Mutex<SenderState>>;

/// A panic while it was held leaves whole numbers behind; they are used on.
fn lock(shared: &Shared) -> MutexGuard<'_, SenderState> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A message whose answer takes longer is given up; whether it was taken is not known.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);

pub(crate) async fn run(args: Args) -> Result<Exit, Failure> {
    let common = args.common;
    let (follower, link) = (common.follower(), common.link()?);
    let shared = Shared::default();
    let state = {
        let (shared, follower) = (Arc::clone(&shared), follower.clone());
        move || SenderState { following: follower.current(), ..lock(&shared).clone() }
    };
    let (address, serve) = listen(common.listen, follower.clone(), state).await?;
    common.announce(address)?;
    let arrivals = || {
        let (following, state) = (follower.current(), lock(&shared));
        Arrivals {
            received: 0,
            last_age: None,
            attempted: Some(state.attempted),
            acknowledged: Some(state.acknowledged.count),
            primary: following.primary,
            epoch: following.epoch,
        }
    };
    let send = async {
        let mut following = follower.watch();
        let mut tick = interval(Duration::from_nanos(1_000_000_000 / args.rate));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut connection = None;
        let mut number = 0;
        loop {
            tick.tick().await;
            if following.has_changed().unwrap_or(false) {
                connection = None;
            }
            let at = following.borrow_and_update().clone();
            number += 1;
            lock(&shared).attempted += 1;
            let Some(address) = at.address else { continue };
            let sent = tokio::select! {
                sent = timeout(ANSWER_WITHIN, send(&address, &mut connection, number)) => sent,
                // Nobody waits for the old primary once the new one is known.
                Ok(()) = following.changed() => {
                    following.mark_changed();
                    connection = None;
                    continue;
                }
            };
            match sent {
                Ok(Ok(())) => acknowledge(&mut lock(&shared), number),
                Ok(Err(error)) => {
                    connection = None;
                    lock(&shared).refused_with = Some(error.to_string());
                }
                Err(_) => {
                    connection = None;
                    lock(&shared).refused_with = Some("no answer".into());
                }
            }
        }
    };
    tokio::select! {
        () = serve => {}
        () = send => {}
        () = common.report(link.clone(), arrivals) => {}
        () = ask(&follower, link.clone()) => {}
        () = common.until_the_end() => {}
    }
    Ok(Exit::OK)
}

fn acknowledge(state: &mut SenderState, number: u64) {
    state.acknowledged.note(now(), 1);
    match state.acknowledged_numbers.last_mut() {
        Some((_, last)) if *last + 1 == number => *last = number,
        _ => state.acknowledged_numbers.push((number, number)),
    }
}

async fn send(address: &str, connection: &mut Option<MultiplexedConnection>, number: u64) -> redis::RedisResult<()> {
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(open(address, ANSWER_WITHIN).await?),
    };
    let mut xadd = cmd("XADD");
    xadd.arg(STREAM).arg("MAXLEN").arg("~").arg(100_000).arg("*").arg("n").arg(number);
    xadd.query_async::<String>(connection).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledged_numbers_are_kept_as_ranges() {
        let mut state = SenderState::default();
        for number in [1, 2, 3, 7, 8, 12] {
            acknowledge(&mut state, number);
        }
        assert_eq!(state.acknowledged_numbers, [(1, 3), (7, 8), (12, 12)]);
        assert_eq!(state.acknowledged.count, 6);
    }
}

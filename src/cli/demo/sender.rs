//! `coroner demo-sender`: the one who sends the service's messages. It follows the primary as nodes do, and tells the
//! arbiter what it attempts, so that silence at the nodes means something.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::time::{MissedTickBehavior, interval};

use super::{
    follow::{Follower, Following, listen},
    gaps::Arrived,
    kind::At,
    node::{Common, ask},
    ranges::Ranges,
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
    /// How often it tried to send. Each message has its own number. What is not acknowledged is sent again where the
    /// broker knows it again by that number, and given up where it does not.
    pub(crate) attempted: u64,
    /// Of these, how many were sent again.
    pub(crate) repeated: u64,
    /// What was acknowledged, and when nothing was.
    pub(crate) acknowledged: Arrived,
    /// The numbers of the acknowledged messages, as ranges with both ends.
    pub(crate) acknowledged_numbers: Ranges,
    /// Why the newest message that was not acknowledged was not.
    pub(crate) refused_with: Option<String>,
}

type Shared = Arc<Mutex<SenderState>>;

/// A panic while it was held leaves whole numbers behind; they are used on.
fn lock(shared: &Shared) -> MutexGuard<'_, SenderState> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

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
    tokio::select! {
        () = serve => {}
        () = send(&common, args.rate, &follower, &shared) => {}
        () = common.report(link.clone(), arrivals) => {}
        () = ask(&follower, link.clone()) => {}
        () = common.until_the_end() => {}
    }
    Ok(Exit::OK)
}

/// Sends without end, one message after the other.
async fn send(common: &Common, rate: u64, follower: &Follower, shared: &Shared) {
    let mut sender = common.broker.kind().sender(&common.name);
    let mut following = follower.watch();
    let mut tick = interval(Duration::from_nanos(1_000_000_000 / rate));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut number, mut is_open) = (0, false);
    loop {
        tick.tick().await;
        if following.has_changed().unwrap_or(false) {
            sender.hang_up();
        }
        let at = following.borrow_and_update().clone();
        let is_again = is_open && sender.is_repeatable();
        if !is_again {
            number += 1;
        }
        {
            let mut state = lock(shared);
            state.attempted += 1;
            state.repeated += u64::from(is_again);
        }
        is_open = true;
        let Some(address) = at.address else { continue };
        let sent = tokio::select! {
            sent = sender.send(At { address: &address, epoch: at.epoch.0 }, number) => sent,
            // Nobody waits for the old primary once the new one is known.
            Ok(()) = following.changed() => {
                following.mark_changed();
                sender.hang_up();
                continue;
            }
        };
        match sent {
            Ok(()) => {
                is_open = false;
                let mut state = lock(shared);
                state.acknowledged.note(now(), 1);
                state.acknowledged_numbers.insert(number);
            }
            Err(error) => {
                sender.hang_up();
                lock(shared).refused_with = Some(error);
            }
        }
    }
}

//! `coroner demo-node`: a node that receives the service's messages, follows the primary, and tells the arbiter what
//! reaches it. Small, and complete: it is what an operator's own nodes have to do.
//!
//! - It reads the stream `demo:messages` at the primary it follows, from the last message it has seen.
//! - It reports every 200 ms: messages so far, age of the last one, whom it follows in which epoch.
//! - It acknowledges the canaries that reach it.
//! - It takes notices at `POST /primary`, refuses those with a smaller epoch (409), and asks the arbiter as well.
//! - It shows its own counters at `GET /state`.

use std::{
    collections::BTreeMap,
    io::Write as _,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::StreamExt as _;
use redis::{RedisResult, Value, cmd};
use serde::{Deserialize, Serialize};
use tokio::{sync::oneshot, time::sleep};

use super::{
    broker::{STREAM, messages_of_xread, open},
    follow::{Follower, Following, listen},
    gaps::Arrived,
    link::Link,
};
use crate::{
    cli::exit::{Code, Exit, Failure},
    model::{Secret, observation::Arrivals},
    sys::clock::now,
};

/// A node of the demo.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) common: Common,
    /// The pub/sub channel of the canary.
    #[arg(long, default_value = "coroner:canary")]
    canary_channel: String,
}

/// What nodes and the sender have in common.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Common {
    /// Its name, as the configuration file says it.
    #[arg(long)]
    pub(crate) name: String,
    /// The cluster.
    #[arg(long)]
    pub(crate) cluster: String,
    /// The arbiter's HTTP address, such as http://127.0.0.1:7400. Without one, only notices are followed.
    #[arg(long, value_name = "URL")]
    pub(crate) arbiter: Option<String>,
    /// The environment variable that holds the bearer token.
    #[arg(long, value_name = "NAME")]
    pub(crate) token_env: Option<String>,
    /// The signal that its reports belong to. May be left out if only one takes them from this node.
    #[arg(long)]
    pub(crate) signal: Option<String>,
    /// A member's address as this node reaches it; may be repeated. The first one is followed until somebody says
    /// who is primary.
    #[arg(long = "redis", value_name = "MEMBER=HOST:PORT", value_parser = pair, value_delimiter = ',')]
    pub(crate) redis: Vec<(String, String)>,
    /// Where to take notices. Port 0: any free one; the address is the first line on standard output.
    #[arg(long, default_value = "127.0.0.1:0", value_name = "HOST:PORT")]
    pub(crate) listen: SocketAddr,
    /// How often to report, in milliseconds.
    #[arg(long, default_value_t = 200, value_name = "MS")]
    pub(crate) report_every_ms: u64,
    /// End when standard input ends, so that no node outlives the one who started it.
    #[arg(long)]
    pub(crate) until_stdin_ends: bool,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, address)) if !name.is_empty() && address.contains(':') => Ok((name.to_owned(), address.to_owned())),
        _ => Err("write MEMBER=HOST:PORT".into()),
    }
}

impl Common {
    /// Whom to follow: the first member until somebody says who is primary.
    pub(crate) fn follower(&self) -> Follower {
        let follower = Follower::new(self.redis.iter().cloned().collect::<BTreeMap<_, _>>());
        if let Some((name, address)) = self.redis.first() {
            follower.offer(crate::model::Epoch::ZERO, name, Some(address));
        }
        follower
    }

    /// The way to the arbiter, if there is one.
    pub(crate) fn link(&self) -> Result<Option<Link>, Failure> {
        let token = match &self.token_env {
            Some(name) => Some(Secret::new(std::env::var(name).map_err(|_| {
                Failure::new(Code::Usage, format!("The environment variable {name} with the token is not set."))
            })?)),
            None => None,
        };
        let signal = self.signal.clone();
        self.arbiter.as_deref().map(|url| Link::new(url, token, &self.cluster, &self.name, signal)).transpose()
    }

    /// Reports every so often what `arrivals` says; ends never.
    pub(crate) async fn report(&self, link: Option<Link>, arrivals: impl Fn() -> Arrivals) {
        let Some(link) = link else { return std::future::pending().await };
        let mut tick = tokio::time::interval(Duration::from_millis(self.report_every_ms.max(1)));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut told = None;
        loop {
            tick.tick().await;
            let error = link.report(&arrivals()).await.err();
            // Said once per change: a report that does not get through is repeated all the time.
            if let Some(error) = error.as_ref().filter(|e| told.as_ref() != Some(*e)) {
                let _ = writeln!(std::io::stderr(), "{}: the arbiter did not take the report: {error}", self.name);
            }
            told = error;
        }
    }

    /// Says on standard output where it listens.
    pub(crate) fn announce(&self, address: SocketAddr) -> Result<(), Failure> {
        let mut out = std::io::stdout();
        writeln!(out, "listening {address}").and_then(|()| out.flush()).map_err(|e| Failure::writing("the address", &e))
    }

    /// Ends when standard input does, if that is wanted.
    pub(crate) async fn until_the_end(&self) {
        if !self.until_stdin_ends {
            return std::future::pending().await;
        }
        let (end, ended) = oneshot::channel::<()>();
        // A thread, since reading standard input blocks and must not hold up the end of the process.
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            drop(end);
        });
        let _ = ended.await;
    }
}

/// What a node shows of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct NodeState {
    /// Its name.
    pub(crate) node: String,
    /// Whom it follows.
    pub(crate) following: Following,
    /// What arrived.
    pub(crate) arrived: Arrived,
    /// What arrived in the epoch that it follows now.
    pub(crate) in_epoch: u64,
    /// The largest number among the messages.
    pub(crate) largest: u64,
}

#[derive(Debug, Default)]
struct Counters {
    arrived: Arrived,
    in_epoch: u64,
    largest: u64,
    last_id: Option<String>,
}

type Shared = Arc<Mutex<Counters>>;

/// A panic while it was held leaves whole numbers behind; they are used on.
fn lock(shared: &Shared) -> MutexGuard<'_, Counters> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) async fn run(args: Args) -> Result<Exit, Failure> {
    let common = args.common;
    let (follower, link) = (common.follower(), common.link()?);
    let shared = Shared::default();
    let state = {
        let (shared, follower, node) = (Arc::clone(&shared), follower.clone(), common.name.clone());
        move || {
            let counters = lock(&shared);
            NodeState {
                node: node.clone(),
                following: follower.current(),
                arrived: counters.arrived.clone(),
                in_epoch: counters.in_epoch,
                largest: counters.largest,
            }
        }
    };
    let (address, serve) = listen(common.listen, follower.clone(), state).await?;
    common.announce(address)?;
    let arrivals = || {
        let (following, counters) = (follower.current(), lock(&shared));
        Arrivals {
            received: counters.arrived.count,
            last_age: counters.arrived.last.map(|last| now().since(last)),
            attempted: None,
            acknowledged: None,
            primary: following.primary,
            epoch: following.epoch,
        }
    };
    tokio::select! {
        () = serve => {}
        () = read(&follower, &shared) => {}
        () = answer_canaries(&follower, link.as_ref(), &args.canary_channel) => {}
        () = common.report(link.clone(), arrivals) => {}
        () = ask(&follower, link.clone()) => {}
        () = common.until_the_end() => {}
    }
    Ok(Exit::OK)
}

/// Asks the arbiter whom to follow, if there is an arbiter.
pub(crate) async fn ask(follower: &Follower, link: Option<Link>) {
    match link {
        Some(link) => follower.clone().ask(link).await,
        None => std::future::pending().await,
    }
}

async fn read(follower: &Follower, shared: &Shared) {
    let mut following = follower.watch();
    loop {
        let at = following.borrow_and_update().clone();
        lock(shared).in_epoch = 0;
        let Some(address) = at.address.clone() else {
            if following.changed().await.is_err() {
                return;
            }
            continue;
        };
        // Whoever hangs on a connection to the old primary hears of the new one all the same.
        let moved = async { while following.changed().await.is_ok() && *following.borrow() == at {} };
        tokio::select! {
            () = moved => {}
            () = read_from(&address, shared) => {}
        }
    }
}

/// Reads at one primary, through errors, without end.
async fn read_from(address: &str, shared: &Shared) {
    loop {
        // Whatever the error is, there is one answer to it: try again, soon, at whom we follow then.
        let _ = read_once(address, shared).await;
        sleep(Duration::from_millis(20)).await;
    }
}

async fn read_once(address: &str, shared: &Shared) -> RedisResult<()> {
    let mut connection = open(address, Duration::from_secs(2)).await?;
    loop {
        // A node that starts reads from the end: what was before is not its business.
        let from = lock(shared).last_id.clone();
        let mut xread = cmd("XREAD");
        xread
            .arg("COUNT")
            .arg(1_000)
            .arg("BLOCK")
            .arg(500)
            .arg("STREAMS")
            .arg(STREAM)
            .arg(from.as_deref().unwrap_or("$"));
        let answer: Value = xread.query_async(&mut connection).await?;
        let messages = messages_of_xread(&answer);
        let Some(last) = messages.last() else { continue };
        let mut counters = lock(shared);
        let count = messages.len() as u64;
        counters.arrived.note(now(), count);
        counters.in_epoch += count;
        counters.largest = messages.iter().map(|m| m.number).max().unwrap_or(0).max(counters.largest);
        counters.last_id = Some(last.id.clone());
    }
}

async fn answer_canaries(follower: &Follower, link: Option<&Link>, channel: &str) {
    let Some(link) = link else { return std::future::pending().await };
    let mut following = follower.watch();
    loop {
        let at = following.borrow_and_update().clone();
        let listen = async {
            if let Some(address) = &at.address {
                let _ = answer_canaries_at(address, link, channel).await;
            }
            sleep(Duration::from_millis(100)).await;
        };
        tokio::select! {
            changed = following.changed() => if changed.is_err() { return },
            () = listen => {}
        }
    }
}

async fn answer_canaries_at(address: &str, link: &Link, channel: &str) -> RedisResult<()> {
    let mut pubsub = redis::Client::open(format!("redis://{address}"))?.get_async_pubsub().await?;
    pubsub.subscribe(channel).await?;
    let mut messages = pubsub.on_message();
    while let Some(message) = messages.next().await {
        let id: String = message.get_payload()?;
        // A canary that is not acknowledged counts as failed; the next one comes soon.
        let _ = link.canary(&id).await;
    }
    Ok(())
}

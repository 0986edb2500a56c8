//! `coroner demo-node`: a node that receives the service's messages, follows the primary, and tells the arbiter what
//! reaches it. Small, and complete: it is what an operator's own nodes have to do.
//!
//! - It receives at the primary that it follows, from the last message it has seen.
//! - It reports every 200 ms: messages so far, age of the last one, whom it follows in which epoch.
//! - It acknowledges the canaries that reach it.
//! - It takes notices at `POST /primary`, refuses those with a smaller epoch (409), and asks the arbiter as well.
//! - It shows its own counters at `GET /state`.

use std::{collections::BTreeMap, io::Write as _, net::SocketAddr, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};

use super::{
    follow::{Follower, Following, listen},
    kind::{At, Broker, Inbox, Received},
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
    #[arg(long = "member", value_name = "MEMBER=HOST:PORT", value_parser = pair, value_delimiter = ',')]
    pub(crate) members: Vec<(String, String)>,
    /// What the members are.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) broker: Broker,
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
        let follower = Follower::new(self.members.iter().cloned().collect::<BTreeMap<_, _>>());
        if let Some((name, address)) = self.members.first() {
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
    /// What it got.
    #[serde(flatten)]
    pub(crate) received: Received,
}

/// Canaries that wait to be acknowledged. They come one a second or so.
const CANARIES: usize = 16;

pub(crate) async fn run(args: Args) -> Result<Exit, Failure> {
    let common = args.common;
    let (follower, link) = (common.follower(), common.link()?);
    let (canaries, mut came) = mpsc::channel(CANARIES);
    let inbox = Arc::new(Inbox::new(canaries));
    let state = {
        let (inbox, follower, node) = (Arc::clone(&inbox), follower.clone(), common.name.clone());
        move || NodeState { node: node.clone(), following: follower.current(), received: inbox.lock().clone() }
    };
    let (address, serve) = listen(common.listen, follower.clone(), state).await?;
    common.announce(address)?;
    let arrivals = || {
        let (following, received) = (follower.current(), inbox.lock());
        Arrivals {
            received: received.arrived.count,
            last_age: received.heard.map(|last| now().since(last)),
            attempted: None,
            acknowledged: None,
            primary: following.primary,
            epoch: following.epoch,
        }
    };
    let acknowledge_canaries = async {
        while let Some(id) = came.recv().await {
            if let Some(link) = &link {
                // A canary that is not acknowledged counts as failed; the next one comes soon.
                let _ = link.canary(&id).await;
            }
        }
    };
    tokio::select! {
        () = serve => {}
        () = receive(&common, &follower, &inbox) => {}
        () = acknowledge_canaries => {}
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

/// Receives at whoever is primary, through errors, without end.
async fn receive(common: &Common, follower: &Follower, inbox: &Inbox) {
    let mut receiver = common.broker.kind().receiver(&common.name);
    let mut following = follower.watch();
    let mut told = None;
    loop {
        let at = following.borrow_and_update().clone();
        inbox.lock().in_epoch = 0;
        let Some(address) = at.address.clone() else {
            if following.changed().await.is_err() {
                return;
            }
            continue;
        };
        let through_errors = async {
            loop {
                // Whatever the error is, there is one answer to it: try again, soon, at whom we follow then.
                let error = receiver.receive(At { address: &address, epoch: at.epoch.0 }, inbox).await;
                if told.as_ref() != Some(&error) {
                    let _ = writeln!(std::io::stderr(), "{}: receiving at {address} ended: {error}", common.name);
                    told = Some(error);
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        // Whoever hangs on a connection to the old primary hears of the new one all the same.
        let moved = async { while following.changed().await.is_ok() && *following.borrow() == at {} };
        tokio::select! {
            () = moved => {}
            () = through_errors => {}
        }
    }
}

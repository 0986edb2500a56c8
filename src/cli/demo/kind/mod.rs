//! What the demo needs of a kind of broker, and the two that it knows. Everything else in the demo is the same for both.

use std::{
    collections::BTreeSet,
    fmt,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tokio::{process::Command, sync::mpsc};

use super::{gaps::Arrived, ranges::Ranges};
use crate::{cli::exit::Failure, model::Time, sys::clock::now};

pub(crate) mod redis;
pub(crate) mod relay;
mod stream;

/// Which broker plays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Broker {
    /// The broker of this package: a primary, and a shadow that replays its log. Nothing to install.
    #[default]
    Relay,
    /// A Redis pair. Needs `redis-server`.
    Redis,
}

impl Broker {
    /// The kind, ready to be used.
    pub(crate) fn kind(self) -> Arc<dyn Kind> {
        match self {
            Self::Relay => Arc::new(relay::Relay),
            Self::Redis => Arc::new(redis::Redis),
        }
    }

    /// As the command line writes it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::Redis => "redis",
        }
    }
}

/// One kind of broker, as the demo plays it: its servers, its nodes, its sender.
#[async_trait]
pub(crate) trait Kind: fmt::Debug + Send + Sync {
    /// Which one it is.
    fn broker(&self) -> Broker;

    /// What the primary and the standby are, as a sentence begins with them.
    fn cast(&self) -> &'static str;

    /// Says what is missing on this machine, with the remedy.
    fn check(&self) -> Result<(), Failure>;

    /// The name under which the kernel knows the server's program.
    fn executable(&self) -> Result<String, Failure>;

    /// What the configuration file says of it.
    fn words(&self) -> Words;

    /// How a server is started.
    fn command(&self, launch: &Launch<'_>) -> Result<Command, Failure>;

    /// What a server of this machine says of itself.
    async fn look(&self, at: SocketAddr) -> Result<Look, String>;

    /// Lets a server refuse writes while it answers everything else; says how, for people.
    async fn refuse_writes(&self, at: SocketAddr) -> Result<(), String>;

    /// What that fault is, for people.
    fn refusal(&self) -> &'static str;

    /// A node's way to receive.
    fn receiver(&self, node: &str) -> Box<dyn Receive>;

    /// A sender's way to send.
    fn sender(&self, name: &str) -> Box<dyn Transmit>;

    /// The numbers of all messages that this server has.
    async fn kept(&self, at: SocketAddr) -> Result<BTreeSet<u64>, String>;
}

/// What the configuration file says of a kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Words {
    /// First line of the file.
    pub(crate) title: &'static str,
    /// The value of `broker`.
    pub(crate) broker: &'static str,
    /// The value of `max_loss`, and why.
    pub(crate) max_loss: &'static str,
    /// What a comment says of `rejoin`.
    pub(crate) rejoin: &'static str,
}

/// How a server is to be started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Launch<'a> {
    /// The demo's directory.
    pub(crate) dir: &'a Path,
    /// The server's name.
    pub(crate) name: &'a str,
    /// The port of loopback to listen at.
    pub(crate) port: u16,
    /// Whom it follows at first; `None`: it is, or believes that it is, the primary.
    pub(crate) follows: Option<SocketAddr>,
}

/// What a server says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    /// Its process, where it tells: somebody else's server may sit on the port.
    pub(crate) process: Option<i32>,
    /// `primary` or `standby`.
    pub(crate) role: &'static str,
    /// Whether it follows a primary that it hears.
    pub(crate) is_linked: bool,
}

/// Whom to turn to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At<'a> {
    /// Where.
    pub(crate) address: &'a str,
    /// In which epoch it is primary, as far as is known; 0 is a guess.
    pub(crate) epoch: u64,
}

/// A node's way to receive: one at a time, and it remembers how far it is over all primaries.
#[async_trait]
pub(crate) trait Receive: Send {
    /// Receives at one primary into the inbox, until that breaks: says why. May be given up at any moment.
    async fn receive(&mut self, at: At<'_>, inbox: &Inbox) -> String;
}

/// A sender's way to send.
#[async_trait]
pub(crate) trait Transmit: Send {
    /// Sends one message; `Ok` once it is acknowledged. May be given up at any moment.
    async fn send(&mut self, at: At<'_>, number: u64) -> Result<(), String>;

    /// Whether a message whose fate is not known may be sent again under the same number, and is delivered once.
    fn is_repeatable(&self) -> bool;

    /// Lets go of the connection: the next message opens a new one.
    fn hang_up(&mut self);
}

/// What a node got so far.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Received {
    /// When, and how many.
    pub(crate) arrived: Arrived,
    /// When anything at all came through the broker, canaries included.
    pub(crate) heard: Option<Time>,
    /// What arrived in the epoch that it follows now.
    pub(crate) in_epoch: u64,
    /// The numbers.
    pub(crate) numbers: Ranges,
    /// Messages whose number had come before.
    pub(crate) twice: u64,
    /// Messages whose number was smaller than the one before, and new all the same.
    pub(crate) out_of_order: u64,
    /// How often it was told to follow somebody in a smaller epoch than it had seen.
    pub(crate) refused_epochs: u64,
}

/// Where what arrives at a node goes.
#[derive(Debug)]
pub(crate) struct Inbox {
    received: Mutex<Received>,
    canaries: mpsc::Sender<String>,
}

impl Inbox {
    pub(crate) fn new(canaries: mpsc::Sender<String>) -> Self {
        Self { received: Mutex::default(), canaries }
    }

    /// What arrived so far. A panic while it was held leaves whole numbers behind; they are used on.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Messages came, in this order.
    pub(crate) fn take(&self, numbers: &[u64]) {
        if numbers.is_empty() {
            return;
        }
        let (mut received, at) = (self.lock(), now());
        received.arrived.note(at, numbers.len() as u64);
        received.heard = Some(at);
        received.in_epoch += numbers.len() as u64;
        for number in numbers {
            let largest = received.numbers.largest().unwrap_or(0);
            if received.numbers.insert(*number) {
                received.out_of_order += u64::from(*number < largest);
            } else {
                received.twice += 1;
            }
        }
    }

    /// Something came that is no message, the same way as messages.
    pub(crate) fn heard(&self) {
        self.lock().heard = Some(now());
    }

    /// A canary came. One that finds no room is not acknowledged, and counts as failed; the next comes soon.
    pub(crate) fn canary(&self, id: String) {
        let _ = self.canaries.try_send(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_twice_and_out_of_order_is_counted() {
        let (canaries, _) = mpsc::channel(1);
        let inbox = Inbox::new(canaries);
        inbox.take(&[1, 2, 3, 6]);
        inbox.take(&[]);
        inbox.take(&[5, 6, 7]);
        let received = inbox.lock();
        assert_eq!((received.arrived.count, received.twice, received.out_of_order), (7, 1, 1));
        assert_eq!(received.numbers.missing_of(&[(1, 8)].into_iter().collect()), 2, "4 and 8");
    }
}

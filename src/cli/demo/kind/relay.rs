//! The demo on the broker of this package: a primary, a shadow that replays its log on shared storage (a directory, here),
//! nodes that remember their last sequence, a sender that repeats what was not acknowledged.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use async_trait::async_trait;
use tokio::{process::Command, time::timeout};

use super::{super::stage::ourselves, At, Broker, Inbox, Kind, Launch, Look, Receive, Transmit, Words};
use crate::{
    cli::exit::{Code, Failure},
    relay::{
        client::{Arrival, Control, Message, NodeClient, NodeOptions, Sender, SenderOptions},
        control::{Answer, Request, Role, Status},
    },
};

/// A server of this machine answers within this, or does not.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
/// The whole log of a demo is read within this.
const READ_WITHIN: Duration = Duration::from_secs(15);

/// The kind.
#[derive(Debug)]
pub(crate) struct Relay;

async fn ask(at: SocketAddr, request: &Request) -> Result<Status, String> {
    match Control::ask_once(&at.to_string(), request, ANSWER_WITHIN).await {
        Ok(Answer::Ok { status, .. }) => Ok(status),
        Ok(Answer::Refused { detail, .. } | Answer::Failed { detail }) => Err(detail),
        Err(error) => Err(error.to_string()),
    }
}

#[async_trait]
impl Kind for Relay {
    fn broker(&self) -> Broker {
        Broker::Relay
    }

    fn cast(&self) -> &'static str {
        "A relay (the broker of this package) and its shadow on shared storage"
    }

    fn check(&self) -> Result<(), Failure> {
        Ok(())
    }

    fn executable(&self) -> Result<String, Failure> {
        let program = std::env::current_exe()
            .map_err(|e| Failure::new(Code::Internal, format!("Where this program lies cannot be told: {e}.")))?;
        Ok(program.file_name().unwrap_or_default().to_string_lossy().into_owned())
    }

    fn words(&self) -> Words {
        Words {
            title: "the broker of this package, its primary and its shadow on one machine, three nodes, a sender",
            broker: "{ relay: {} }",
            max_loss: "{ entries: 0 }     # The log is on storage that both share: nothing acknowledged is lost.",
            rejoin: "an old primary that comes back becomes the shadow",
        }
    }

    fn command(&self, launch: &Launch<'_>) -> Result<Command, Failure> {
        let Launch { dir, name, port, follows } = *launch;
        let storage = dir.join("storage");
        std::fs::create_dir_all(&storage)
            .map_err(|e| Failure::new(Code::CannotCreate, format!("Cannot create {}: {e}.", storage.display())))?;
        let mut command = ourselves()?;
        command.args(["relay", "serve", "--name", name, "--listen", &format!("127.0.0.1:{port}")]);
        command.arg("--storage").arg(storage);
        if let Some(primary) = follows {
            command.args(["--follow", &primary.to_string()]);
        }
        Ok(command)
    }

    async fn look(&self, at: SocketAddr) -> Result<Look, String> {
        let status = ask(at, &Request::Status).await?;
        Ok(Look {
            process: None,
            role: if status.role == Role::Primary { "primary" } else { "standby" },
            is_linked: status.role == Role::Shadow && status.is_linked,
        })
    }

    async fn refuse_writes(&self, at: SocketAddr) -> Result<(), String> {
        let epoch = ask(at, &Request::Status).await?.stored_epoch;
        ask(at, &Request::ReadOnly { on: true, epoch }).await.map(drop)
    }

    fn refusal(&self) -> &'static str {
        "somebody set its read-only flag"
    }

    fn receiver(&self, node: &str) -> Box<dyn Receive> {
        Box::new(Node { name: node.to_owned(), client: None })
    }

    fn sender(&self, name: &str) -> Box<dyn Transmit> {
        Box::new(Numbered { name: name.to_owned(), client: None, given: None })
    }

    async fn kept(&self, at: SocketAddr) -> Result<BTreeSet<u64>, String> {
        // Like a node that wants everything, up to where the log ends now.
        let end = ask(at, &Request::Status).await?.position;
        let mut node = NodeClient::start(NodeOptions::from_the_beginning("auditor", &at.to_string()));
        let mut kept = BTreeSet::new();
        let read = async {
            while node.state().last.unwrap_or(0) < end {
                // Entries that are no messages count as well, and nothing comes of them here.
                if let Ok(Some(Arrival::Messages(messages))) = timeout(Duration::from_millis(50), node.next()).await {
                    kept.extend(messages.iter().filter_map(number));
                }
            }
            // It has come, and may wait in the client's queue. Senders go on, so that the queue may never be empty.
            while let Ok(Some(arrival)) = timeout(Duration::from_millis(50), node.next()).await {
                if let Arrival::Messages(messages) = arrival {
                    kept.extend(messages.iter().filter_map(number));
                    if messages.iter().any(|message| message.sequence >= end) {
                        break;
                    }
                }
            }
        };
        if timeout(READ_WITHIN, read).await.is_err() {
            let trouble = node.state().trouble.unwrap_or_else(|| "it is too slow".into());
            return Err(format!("its log cannot be read: {trouble}"));
        }
        Ok(kept)
    }
}

/// Messages say their number in words, so that what is counted is what was delivered and not what a header says.
fn number(message: &Message) -> Option<u64> {
    std::str::from_utf8(&message.payload).ok()?.parse().ok()
}

/// A node. Its client lives on over all primaries, with the last sequence and the largest epoch.
struct Node {
    name: String,
    client: Option<NodeClient>,
}

#[async_trait]
impl Receive for Node {
    async fn receive(&mut self, at: At<'_>, inbox: &Inbox) -> String {
        let start = || {
            let options = NodeOptions::from_the_beginning(&self.name, at.address);
            NodeClient::start(NodeOptions { epoch: at.epoch, ..options })
        };
        let client = self.client.get_or_insert_with(start);
        if !client.follow(at.address, at.epoch) {
            inbox.lock().refused_epochs += 1;
        }
        loop {
            match client.next().await {
                Some(Arrival::Messages(messages)) => {
                    inbox.take(&messages.iter().filter_map(number).collect::<Vec<_>>());
                }
                // It went through the log like any message: something was sent to this node.
                Some(Arrival::Canary { id, .. }) => {
                    inbox.heard();
                    inbox.canary(id);
                }
                Some(Arrival::Epoch { .. }) => {}
                Some(Arrival::TooFarBehind { oldest }) => client.skip_to(oldest.saturating_sub(1)),
                None => {
                    self.client = None;
                    return "the client ended".into();
                }
            }
        }
    }
}

/// A sender. Its client keeps what is not acknowledged, and repeats it at whoever is primary then.
struct Numbered {
    name: String,
    client: Option<Sender>,
    /// The message that is under way: its number, and the client's number of it.
    given: Option<(u64, u64)>,
}

#[async_trait]
impl Transmit for Numbered {
    async fn send(&mut self, at: At<'_>, number: u64) -> Result<(), String> {
        let start = || {
            let options = SenderOptions::new(&self.name, at.address);
            Sender::start(SenderOptions { epoch: at.epoch, after: Some(0), ..options })
        };
        let client = self.client.get_or_insert_with(start);
        client.move_to(at.address, at.epoch);
        let given = match self.given.filter(|(ours, _)| *ours == number) {
            Some((_, given)) => given,
            None => client.try_send(number.to_string()).map_err(|e| e.to_string())?,
        };
        self.given = Some((number, given));
        if client.wait_for(given, ANSWER_WITHIN).await {
            return Ok(());
        }
        Err(client.state().trouble.unwrap_or_else(|| "no acknowledgement".into()))
    }

    fn is_repeatable(&self) -> bool {
        true
    }

    /// The client moves by itself.
    fn hang_up(&mut self) {}
}

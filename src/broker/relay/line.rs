//! One connection to one relay, with every failure under its name; and listening like a node.

use std::{io::ErrorKind, time::Duration};

use tokio::{
    net::TcpStream,
    time::{interval, timeout},
};

use super::super::Listen;
use crate::{
    model::{Failure, FailureKind, Target},
    relay::{
        client::{Arrival, ClientError, Control, NodeClient, NodeOptions},
        control::{Answer, Request},
    },
    sys::net::Connector,
};

/// Longer than any caller waits: each bounds its call itself, so that the failure says its own limit.
const LONGEST: Duration = Duration::from_secs(3_600);
/// How often a way to listen is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Opening a way to listen may take this long. Below a second: before the kernel repeats a first packet that a shut gate
/// threw away, a new attempt may find the gate open.
const OPEN_WITHIN: Duration = Duration::from_millis(800);

/// An open connection. Once a question was given up or broke, it is of no more use, and remembers why.
pub(super) struct Line {
    control: Option<Control>,
    end: Failure,
}

impl Line {
    /// Opens a connection. The caller bounds it in time.
    pub(super) async fn open(connector: &Connector, target: &Target) -> Result<Self, Failure> {
        let stream: TcpStream = connector.connect(&target.address).await?;
        let control = Control::over(stream, &target.address).await.map_err(|e| failure_of(&e))?;
        let end = Failure::new(FailureKind::TimedOut, "an earlier question on this connection was never answered");
        Ok(Self { control: Some(control), end })
    }

    /// Asks. Giving up in the middle is harmless: nothing is read on this connection any more, so that a late answer is
    /// never taken for that to a later question.
    pub(super) async fn ask(&mut self, request: &Request) -> Result<Answer, Failure> {
        let Some(mut control) = self.control.take() else { return Err(self.end.clone()) };
        match control.ask(request, LONGEST).await {
            Ok(answer) => {
                self.control = Some(control);
                Ok(answer)
            }
            Err(error) => {
                self.end = failure_of(&error);
                Err(self.end.clone())
            }
        }
    }

    /// Whether it is of no more use.
    pub(super) fn is_closed(&self) -> bool {
        self.control.as_ref().is_none_or(Control::is_closed)
    }
}

/// What an error of the connection means.
fn failure_of(error: &ClientError) -> Failure {
    let kind = match error.kind() {
        ErrorKind::ConnectionRefused => FailureKind::Refused,
        ErrorKind::TimedOut => FailureKind::TimedOut,
        // It answers, but not in the relay's words: whoever it is, its answer says nothing of the relay.
        ErrorKind::InvalidData => FailureKind::Parse,
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => FailureKind::Unreachable,
        _ => FailureKind::Reset,
    };
    Failure::new(kind, error.to_string())
}

/// Receives like a node, from now on. A relay sends everything to everyone: there are no channels to choose.
pub(super) async fn listen(
    connector: &Connector,
    target: &Target,
    _: &Listen,
    came: &(dyn Fn(u64) + Send + Sync),
) -> Failure {
    // The first connection is ours, so that its failure has a name.
    match timeout(OPEN_WITHIN, connector.connect(&target.address)).await {
        Ok(Ok(_)) => {}
        Ok(Err(failure)) => return failure,
        Err(_) => return Failure::no_answer_within(OPEN_WITHIN),
    }
    let mut node = NodeClient::start(NodeOptions {
        // Two of one name would push each other out.
        name: format!("coroner-{}", ulid::Ulid::generate()),
        address: target.address.clone(),
        epoch: 0,
        after: None,
    });
    let mut looks = interval(LOOK_EVERY);
    let mut waited = Duration::ZERO;
    loop {
        tokio::select! {
            arrival = node.next() => match arrival {
                Some(Arrival::Messages(messages)) => came(messages.len() as u64),
                Some(Arrival::Canary { .. } | Arrival::Epoch { .. } | Arrival::TooFarBehind { .. }) => {}
                None => return Failure::new(FailureKind::Reset, "it ended"),
            },
            _ = looks.tick() => {
                let state = node.state();
                if state.connected {
                    continue;
                }
                waited += LOOK_EVERY;
                if let Some(trouble) = state.trouble {
                    return Failure::new(FailureKind::Reset, trouble);
                }
                if state.connections > 0 || waited > OPEN_WITHIN {
                    return Failure::no_answer_within(waited);
                }
            }
        }
    }
}

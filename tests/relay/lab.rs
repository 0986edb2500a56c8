//! Relays in processes of their own, each in a session of its own, killed with it when dropped.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use coroner::{
    relay::{
        client::{Arrival, Control, NodeClient, Sender},
        control::{Answer, Request, Role, Status},
    },
    sys::clock::Stopwatch,
};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

use crate::freeze::freeze;

/// Generous: a loaded machine pauses for seconds.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Relay {
    child: Child,
    pub address: String,
}

impl Relay {
    pub fn start(dir: &Path, name: &str, follow: Option<&str>, more: &[&str]) -> Self {
        Self::try_start(dir, name, "127.0.0.1:0", follow, more)
            .unwrap_or_else(|log| panic!("{name} did not start: {log}"))
    }

    pub fn start_at(dir: &Path, name: &str, address: &str) -> Self {
        Self::try_start(dir, name, address, None, &[]).unwrap_or_else(|log| panic!("{name} did not start: {log}"))
    }

    pub fn try_start(dir: &Path, name: &str, at: &str, follow: Option<&str>, more: &[&str]) -> Result<Self, String> {
        // Beside the storage, which may be full.
        let log = std::env::temp_dir().join(format!(
            "relay-{}-{name}-{:?}.log",
            std::process::id(),
            std::thread::current().id()
        ));
        // A session of its own: one that is stopped is not continued when a shell exits. It becomes the program itself.
        let mut command = Command::new("setsid");
        command.arg(env!("CARGO_BIN_EXE_coroner-relay"));
        command.args(["serve", "--name", name, "--listen", at, "--storage"]).arg(dir).args(more);
        if let Some(primary) = follow {
            command.args(["--follow", primary]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&log).unwrap());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        let _ = std::fs::remove_file(&log);
        match line.trim().strip_prefix("listening ") {
            Some(address) => Ok(Self { child, address: address.to_owned() }),
            None => {
                let _ = child.wait();
                Err(said)
            }
        }
    }

    pub fn signal(&self, signal: Signal) {
        killpg(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    pub fn freeze(&self) {
        freeze(self.child.id());
    }

    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.child.wait().unwrap();
    }

    pub async fn ask(&self, request: &Request) -> Answer {
        Control::ask_once(&self.address, request, PATIENCE).await.unwrap()
    }

    pub async fn status(&self) -> Status {
        match self.ask(&Request::Status).await {
            Answer::Ok { status, .. } => status,
            other => panic!("{other:?}"),
        }
    }

    pub async fn promote(&self, epoch: u64) -> Answer {
        self.ask(&Request::Promote { epoch, within_ms: 30_000 }).await
    }

    pub async fn until(&self, what: &str, is_so: impl Fn(&Status) -> bool) -> Status {
        let watch = Stopwatch::start();
        loop {
            let status = self.status().await;
            if is_so(&status) {
                return status;
            }
            assert!(watch.elapsed() < PATIENCE, "{what}: {status:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = killpg(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

pub fn is_ok(answer: &Answer) -> bool {
    matches!(answer, Answer::Ok { .. })
}

/// A primary `a` and its shadow `b`, linked.
pub async fn pair(dir: &Path) -> (Relay, Relay) {
    let a = Relay::start(dir, "a", None, &[]);
    let b = Relay::start(dir, "b", Some(&a.address), &[]);
    assert_eq!(a.status().await.role, Role::Primary);
    b.until("the shadow is linked", |s| s.is_linked && s.role == Role::Shadow).await;
    (a, b)
}

/// What a node got: for each sender the numbers, in the order of their coming, and the sequences.
#[derive(Debug, Default)]
pub struct Got {
    pub numbers: BTreeMap<String, Vec<u64>>,
    pub sequences: Vec<u64>,
    pub canaries: Vec<String>,
    pub epochs: Vec<u64>,
}

impl Got {
    pub fn take(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Messages(messages) => {
                for message in messages {
                    assert_eq!(message.payload, format!("message {}", message.number).as_bytes());
                    self.numbers.entry(message.sender).or_default().push(message.number);
                    self.sequences.push(message.sequence);
                }
            }
            Arrival::Canary { id, .. } => self.canaries.push(id),
            Arrival::Epoch { epoch } => self.epochs.push(epoch),
            Arrival::TooFarBehind { oldest } => panic!("too far behind: {oldest}"),
        }
    }

    pub fn last(&self, sender: &str) -> u64 {
        self.numbers.get(sender).and_then(|n| n.last()).copied().unwrap_or(0)
    }

    /// Every number from 1 to the last, once, in order.
    pub fn assert_exact(&self, sender: &str) {
        let numbers = self.numbers.get(sender).cloned().unwrap_or_default();
        let expected: Vec<u64> = (1..=numbers.len() as u64).collect();
        assert_eq!(numbers, expected, "each once, in order, none missing");
        assert!(self.sequences.is_sorted_by(|a, b| a < b), "sequences grow");
    }
}

/// Receives until `sender`'s message `number` came.
pub async fn receive_until(node: &mut NodeClient, got: &mut Got, sender: &str, number: u64) {
    let watch = Stopwatch::start();
    while got.last(sender) < number {
        assert!(watch.elapsed() < PATIENCE, "message {number}: only {} came; {:?}", got.last(sender), node.state());
        if let Ok(Some(arrival)) = tokio::time::timeout(Duration::from_millis(200), node.next()).await {
            got.take(arrival);
        }
    }
}

/// Sends the messages up to `upto` and waits until they are acknowledged.
pub async fn send_upto(sender: &Sender, upto: u64) {
    while sender.state().last < upto {
        send_one(sender).await;
    }
    assert!(sender.wait_for(upto, PATIENCE).await, "{:?}", sender.state());
}

/// One more message; its number is in it.
pub async fn send_one(sender: &Sender) -> u64 {
    // The number is known once the first connection is there.
    let next = sender.state().last + 1;
    let number = sender.send(format!("message {next}")).await.unwrap();
    assert_eq!(number, next);
    number
}

//! Nodes and senders: the client library, notices over HTTP, reports to the arbiter. A node looks at every message.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Json, Router, extract::State, http::StatusCode, routing::post};
use coroner::{
    relay::client::{Arrival, Message, NodeClient, NodeHandle, NodeOptions, Sender, SenderOptions},
    sys::clock::Stopwatch,
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

/// What a node or a sender is told of whom to follow goes here; it answers whether it was taken.
type Follow = Arc<dyn Fn(&str, u64) -> bool + Send + Sync>;

/// A member's address as a client reaches it, by its name.
pub type Ways = BTreeMap<String, SocketAddr>;

/// The token of a party, by its name.
pub fn token_of(name: &str) -> String {
    format!("token-of-{name}-0123456789abcdef")
}

/// The way to the arbiter. Its port may be known before it listens.
#[derive(Clone)]
pub struct Arbiter {
    pub http: reqwest::Client,
    pub address: SocketAddr,
}

impl Arbiter {
    async fn tell(&self, name: &str, path: &str, body: &Value) -> Option<Value> {
        let request = self.http.post(format!("http://{}{path}", self.address)).bearer_auth(token_of(name)).json(body);
        request.timeout(Duration::from_secs(2)).send().await.ok()?.json().await.ok()
    }
}

/// Listens for notices. A smaller epoch, and a second primary of one epoch, are the follower's to refuse.
async fn listen(ways: Ways, follow: Follow) -> (SocketAddr, JoinHandle<()>) {
    async fn notice(State((ways, follow)): State<(Ways, Follow)>, Json(notice): Json<Value>) -> StatusCode {
        let address = notice["primary"].as_str().and_then(|name| ways.get(name));
        let taken = address.zip(notice["epoch"].as_u64()).is_some_and(|(at, epoch)| follow(&at.to_string(), epoch));
        if taken { StatusCode::OK } else { StatusCode::CONFLICT }
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().route("/primary", post(notice)).with_state((ways, follow));
    let task = tokio::spawn(async move {
        let _ = axum::serve(listener, router).await;
    });
    (address, task)
}

/// What a node got.
#[derive(Clone, Debug, Default)]
pub struct Got {
    /// The last number of each sender. They came one after the other, or `wrong` says so.
    pub last: BTreeMap<String, u64>,
    /// Messages.
    pub count: u64,
    /// The epoch of the newest message, and of the newest beginning.
    pub epoch: u64,
    /// What must not be.
    pub wrong: Vec<String>,
    last_sequence: u64,
    heard: Option<Stopwatch>,
}

impl Got {
    fn take(&mut self, message: &Message) {
        let before = self.last.insert(message.sender.clone(), message.number).unwrap_or(0);
        if message.number != before + 1 {
            self.wrong.push(format!("number {} of {} after {before}", message.number, message.sender));
        }
        if message.payload.as_ref() != payload(&message.sender, message.number, message.payload.len()) {
            self.wrong.push(format!("number {} of {} says something else", message.number, message.sender));
        }
        if message.sequence <= self.last_sequence || message.epoch < self.epoch {
            self.wrong.push(format!(
                "sequence {} of epoch {} after {} of epoch {}",
                message.sequence, message.epoch, self.last_sequence, self.epoch
            ));
        }
        (self.last_sequence, self.epoch) = (message.sequence, message.epoch.max(self.epoch));
        self.count += 1;
        self.heard = Some(Stopwatch::start());
    }
}

/// A payload that says whose and which it is, of a length that is at least as much.
pub fn payload(sender: &str, number: u64, length: usize) -> Vec<u8> {
    let mut text = format!("{sender} {number} ").into_bytes();
    let filler = text.len()..length;
    text.extend(filler.map(|at| b'a' + u8::try_from(at % 26).unwrap()));
    text
}

/// A node; ends with this value.
pub struct Node {
    pub name: String,
    pub notices: SocketAddr,
    handle: NodeHandle,
    got: Arc<Mutex<Got>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Node {
    pub async fn start(name: &str, ways: &Ways, primary: &str, arbiter: &Arbiter) -> Self {
        let mut client = NodeClient::start(NodeOptions::from_the_beginning(name, &ways[primary].to_string()));
        let handle = client.handle();
        let got: Arc<Mutex<Got>> = Arc::default();
        let follow: Follow = {
            let handle = handle.clone();
            Arc::new(move |address, epoch| handle.follow(address, epoch))
        };
        let (notices, listener) = listen(ways.clone(), Arc::clone(&follow)).await;
        let receive = {
            let (got, arbiter, name) = (Arc::clone(&got), arbiter.clone(), name.to_owned());
            tokio::spawn(async move {
                while let Some(arrival) = client.next().await {
                    match arrival {
                        Arrival::Messages(messages) => {
                            let mut got = got.lock().unwrap();
                            messages.iter().for_each(|message| got.take(message));
                        }
                        Arrival::Canary { id, .. } => {
                            got.lock().unwrap().heard = Some(Stopwatch::start());
                            let (arbiter, name) = (arbiter.clone(), name.clone());
                            // Beside the messages: none of them waits for the arbiter.
                            tokio::spawn(async move {
                                let body = json!({ "cluster": "messages", "node": name, "id": id });
                                let _ = arbiter.tell(&name, "/v1/canary", &body).await;
                            });
                        }
                        Arrival::Epoch { epoch } => {
                            let mut got = got.lock().unwrap();
                            if epoch <= got.epoch && got.count > 0 {
                                let text = format!("epoch {epoch} begins after {}", got.epoch);
                                got.wrong.push(text);
                            }
                            got.epoch = epoch.max(got.epoch);
                        }
                        Arrival::TooFarBehind { oldest } => {
                            got.lock().unwrap().wrong.push(format!("the log begins at {oldest}"));
                        }
                    }
                }
            })
        };
        let report = {
            let (got, handle, arbiter, name) = (Arc::clone(&got), handle.clone(), arbiter.clone(), name.to_owned());
            let (ways, names) = (ways.clone(), ways.clone());
            tokio::spawn(async move {
                loop {
                    let (state, now) = (handle.state(), got.lock().unwrap().clone());
                    let primary = names.iter().find(|(_, at)| at.to_string() == state.address).map(|(name, _)| name);
                    let body = json!({
                        "cluster": "messages", "node": name, "received": now.count,
                        "last_age_ms": now.heard.map(|heard| heard.elapsed().as_millis() as u64),
                        "primary": primary, "epoch": state.epoch,
                    });
                    // The second way to hear of a new primary.
                    if let Some(answer) = arbiter.tell(&name, "/v1/arrivals", &body).await
                        && let (Some(primary), Some(epoch)) = (answer["primary"].as_str(), answer["epoch"].as_u64())
                        && let Some(address) = ways.get(primary)
                    {
                        handle.follow(&address.to_string(), epoch);
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            })
        };
        Self { name: name.to_owned(), notices, handle, got, tasks: vec![listener, receive, report] }
    }

    pub fn got(&self) -> MutexGuard<'_, Got> {
        self.got.lock().unwrap()
    }

    /// The last number of a sender that came.
    pub fn last_of(&self, sender: &str) -> u64 {
        self.got().last.get(sender).copied().unwrap_or(0)
    }

    pub fn portrait(&self) -> String {
        format!("{}: {:?}\n  {:?}", self.name, self.handle.state(), self.got())
    }
}

/// A sender that sends as fast as its window allows, or what it is told to; ends with this value.
pub struct Source {
    pub name: String,
    pub notices: SocketAddr,
    pub sender: Arc<Sender>,
    size: usize,
    load: Option<JoinHandle<()>>,
    listener: JoinHandle<()>,
    given: Arc<AtomicU64>,
}

impl Drop for Source {
    fn drop(&mut self) {
        self.listener.abort();
        if let Some(load) = &self.load {
            load.abort();
        }
    }
}

impl Source {
    /// `window`: how many messages are under way at once.
    pub async fn start(name: &str, ways: &Ways, primary: &str, window: usize, size: usize) -> Self {
        let options = SenderOptions::new(name, &ways[primary].to_string());
        let sender = Arc::new(Sender::start(SenderOptions { window, after: Some(0), ..options }));
        let moves = Arc::clone(&sender);
        let (notices, listener) =
            listen(ways.clone(), Arc::new(move |address, epoch| moves.move_to(address, epoch))).await;
        let given = Arc::default();
        Self { name: name.to_owned(), notices, sender, size, load: None, listener, given }
    }

    /// Sends one message; its number.
    pub async fn send(&self) -> u64 {
        send(&self.sender, &self.name, self.size, &self.given).await
    }

    /// Sends without end.
    pub async fn load(&mut self) {
        self.rest().await;
        let (sender, name, size, given) =
            (Arc::clone(&self.sender), self.name.clone(), self.size, Arc::clone(&self.given));
        self.load = Some(tokio::spawn(async move {
            loop {
                send(&sender, &name, size, &given).await;
            }
        }));
    }

    /// Sends nothing new any more; what is under way is repeated until it is acknowledged.
    pub async fn rest(&mut self) {
        if let Some(load) = self.load.take() {
            load.abort();
            let _ = load.await;
        }
    }

    pub fn acknowledged(&self) -> u64 {
        *self.sender.acknowledged().borrow()
    }

    /// The last number that was given.
    pub fn last(&self) -> u64 {
        self.sender.state().last
    }
}

/// The payload says the number, so it is guessed before; one task at a time sends.
async fn send(sender: &Sender, name: &str, size: usize, given: &AtomicU64) -> u64 {
    let next = given.load(Relaxed) + 1;
    let number = sender.send(payload(name, next, size)).await.unwrap();
    assert_eq!(number, next, "{name} numbers its messages one after the other");
    given.store(number, Relaxed);
    number
}

//! A node: sees the messages that arrive at the primary that it follows, reports that with its token, takes notices.
//! The first node is the sender as well: it writes the messages that all of them see. It can fall silent, idle, lie, or refuse to follow.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use coroner::sys::clock::Stopwatch;
use serde_json::{Value, json};

use crate::http::{self, Answer, Server};

/// Whom it follows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Following {
    pub epoch: u64,
    pub primary: String,
    pub address: String,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    silent: AtomicBool,
    idle: AtomicBool,
    lies: AtomicBool,
    stubborn: AtomicBool,
    following: Mutex<Following>,
    received: AtomicU64,
    attempted: AtomicU64,
    last: Mutex<Option<Stopwatch>>,
}

/// A running node; ends with this value.
pub struct Node {
    pub name: String,
    pub listener: Server,
    shared: Arc<Shared>,
}

/// The node that sends.
const SENDER: &str = "node-1";

/// The token of a node or member, by its name.
pub fn token_of(name: &str) -> String {
    format!("token-of-{name}-0123456789abcdef")
}

impl Node {
    pub fn start(name: &str, primary: &str, address: &str, arbiter: SocketAddr) -> Self {
        let shared = Arc::new(Shared::default());
        *shared.following.lock().unwrap() = Following { epoch: 0, primary: primary.into(), address: address.into() };
        let listener = {
            let shared = Arc::clone(&shared);
            Server::start(move |request| {
                if shared.stubborn.load(Relaxed) {
                    return Answer::Status(500, String::new());
                }
                let taken = follow(&shared, &request.json());
                Answer::Status(if taken { 200 } else { 409 }, String::new())
            })
        };
        let node = Self { name: name.into(), listener, shared };
        let shared = Arc::clone(&node.shared);
        let is_sender = name == SENDER;
        thread::spawn(move || work(&shared, is_sender));
        let (shared, name) = (Arc::clone(&node.shared), name.to_owned());
        thread::spawn(move || report(&shared, &name, arbiter));
        node
    }

    /// Reports nothing and attempts nothing: the node is gone.
    pub fn is_gone(&self, gone: bool) {
        self.shared.silent.store(gone, Relaxed);
        self.shared.idle.store(gone, Relaxed);
    }

    /// Attempts nothing, and says so.
    pub fn is_idle(&self, idle: bool) {
        self.shared.idle.store(idle, Relaxed);
    }

    /// Says that nothing arrives.
    pub fn lies(&self, lies: bool) {
        self.shared.lies.store(lies, Relaxed);
    }

    /// Follows nobody else, whatever it is told.
    pub fn is_stubborn(&self, stubborn: bool) {
        self.shared.stubborn.store(stubborn, Relaxed);
    }

    pub fn following(&self) -> Following {
        self.shared.following.lock().unwrap().clone()
    }

    pub fn received(&self) -> u64 {
        self.shared.received.load(Relaxed)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
    }
}

/// The largest epoch counts; in one epoch there is one primary.
fn follow(shared: &Shared, told: &Value) -> bool {
    let (Some(epoch), Some(primary)) = (told["epoch"].as_u64(), told["primary"].as_str()) else { return false };
    let mut now = shared.following.lock().unwrap();
    if epoch < now.epoch || (epoch == now.epoch && epoch > 0 && primary != now.primary) {
        return false;
    }
    let address = told["address"].as_str().unwrap_or_default().to_owned();
    *now = Following { epoch, primary: primary.into(), address };
    true
}

fn work(shared: &Shared, is_sender: bool) {
    let mut seen = Vec::new();
    let mut open: Option<(String, TcpStream)> = None;
    while !shared.stop.load(Relaxed) {
        thread::sleep(Duration::from_millis(40));
        if shared.idle.load(Relaxed) {
            continue;
        }
        if is_sender {
            shared.attempted.fetch_add(1, Relaxed);
        }
        let address = shared.following.lock().unwrap().address.clone();
        if open.as_ref().is_none_or(|(at, _)| *at != address) {
            open = connect(&address).map(|stream| (address, stream));
        }
        let Some((_, stream)) = &mut open else { continue };
        let asked = if is_sender { "INCR messages\r\n" } else { "GET messages\r\n" };
        match ask(stream, asked) {
            // The counter stands where it stood: nothing arrived.
            Some(reply) if reply == seen => {}
            Some(reply) if reply.starts_with(b":") || reply.starts_with(b"$") => {
                seen = reply;
                shared.received.fetch_add(1, Relaxed);
                *shared.last.lock().unwrap() = Some(Stopwatch::start());
            }
            _ => open = None,
        }
    }
}

fn connect(address: &str) -> Option<TcpStream> {
    let stream = TcpStream::connect_timeout(&address.parse().ok()?, Duration::from_millis(200)).ok()?;
    stream.set_read_timeout(Some(Duration::from_millis(300))).ok()?;
    Some(stream)
}

fn ask(stream: &mut TcpStream, command: &str) -> Option<Vec<u8>> {
    stream.write_all(command.as_bytes()).ok()?;
    let mut reply = [0; 256];
    let length = stream.read(&mut reply).ok().filter(|length| *length > 0)?;
    Some(reply[..length].to_vec())
}

fn report(shared: &Shared, name: &str, arbiter: SocketAddr) {
    let token = token_of(name);
    while !shared.stop.load(Relaxed) {
        thread::sleep(Duration::from_millis(100));
        if shared.silent.load(Relaxed) {
            continue;
        }
        let following = shared.following.lock().unwrap().clone();
        let age = shared.last.lock().unwrap().as_ref().map(|last| last.elapsed().as_millis() as u64);
        let lies = shared.lies.load(Relaxed);
        let body = json!({
            "cluster": "orders",
            "node": name,
            "received": if lies { 0 } else { shared.received.load(Relaxed) },
            "last_age_ms": if lies { Some(60_000) } else { age },
            "attempted": (name == SENDER).then(|| shared.attempted.load(Relaxed)),
            "primary": following.primary,
            "epoch": following.epoch,
        });
        let Ok((200, answer)) = http::tcp(arbiter, "POST", "/v1/arrivals", Some(&token), body.to_string().as_bytes())
        else {
            continue;
        };
        let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
        if !shared.stubborn.load(Relaxed) && answer["epoch"].as_u64() > Some(following.epoch) {
            follow(shared, &answer);
        }
    }
}

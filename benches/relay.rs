//! How many messages of 100 bytes a relay takes, makes durable and sends to three nodes; and how fast a shadow catches up.
//!
//! `cargo bench --bench relay`. Runs `CORONER_BENCH_SECONDS` (default 5), then fills the log to `CORONER_BENCH_ENTRIES`
//! (default 1 000 000). Targets: 100 000 messages a second at each of three nodes, and less than 2 s. The storage lies in
//! `CORONER_BENCH_DIR` (default: the directory for temporary files), with the fsync that it has.

#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark may stop")]

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use coroner::{
    relay::{
        Options, Server,
        client::{Arrival, Control, NodeClient, NodeOptions, Sender, SenderOptions},
        control::{Answer, Request},
    },
    sys::clock::Stopwatch,
};

const SENDERS: usize = 4;
const NODES: usize = 3;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let dir = match std::env::var("CORONER_BENCH_DIR") {
        Ok(dir) => tempfile::tempdir_in(dir).unwrap(),
        Err(_) => tempfile::tempdir().unwrap(),
    };
    runtime.block_on(run(dir.path()));
}

async fn run(dir: &Path) {
    let local = "127.0.0.1:0".parse().unwrap();
    let a = Server::start(Options { may_found: true, ..Options::new("a", dir, local) }).await.unwrap();
    let at = a.address().to_string();
    // It applies nothing until it is told to catch up.
    let delay = Duration::from_secs(100_000);
    let shadow = Options { follow: Some(at.clone()), replay_delay: delay, ..Options::new("b", dir, local) };
    let b = Server::start(shadow).await.unwrap();
    let received: Vec<_> = (0..NODES).map(|_| Arc::new(AtomicU64::new(0))).collect();
    for (n, counter) in received.iter().enumerate() {
        let mut node = NodeClient::start(NodeOptions::from_the_beginning(&format!("n{n}"), &at));
        let counter = Arc::clone(counter);
        tokio::spawn(async move {
            while let Some(arrival) = node.next().await {
                if let Arrival::Messages(messages) = arrival {
                    counter.fetch_add(messages.len() as u64, Ordering::Relaxed);
                }
            }
        });
    }
    for n in 0..SENDERS {
        let sender = Sender::start(SenderOptions::new(&format!("s{n}"), &at));
        tokio::spawn(async move { while sender.send(vec![b'x'; 100]).await.is_ok() {} });
    }
    let slowest = || received.iter().map(|c| c.load(Ordering::Relaxed)).min().unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (watch, before) = (Stopwatch::start(), slowest());
    tokio::time::sleep(Duration::from_secs(number("CORONER_BENCH_SECONDS", 5))).await;
    let rate = (slowest() - before) as f64 / watch.elapsed().as_secs_f64();
    println!("{rate:.0} messages of 100 bytes a second, durable and at each of {NODES} nodes (target: 100000)");
    while slowest() < number("CORONER_BENCH_ENTRIES", 1_000_000) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Nothing more comes, so that the end of the log stays where it is.
    let mut control = Control::connect(&at, Duration::from_secs(5)).await.unwrap();
    control.ask(&Request::ReadOnly { on: true, epoch: 1 }, Duration::from_secs(30)).await.unwrap();
    let mut control = Control::connect(&b.address().to_string(), Duration::from_secs(5)).await.unwrap();
    let watch = Stopwatch::start();
    let order = Request::CatchUp { upto: None, within_ms: 300_000 };
    let answer = control.ask(&order, Duration::from_secs(300)).await.unwrap();
    let elapsed = watch.elapsed();
    let Answer::Ok { replayed: Some(replayed), .. } = answer else { panic!("{answer:?}") };
    let million = elapsed.as_secs_f64() * 1e6 / replayed as f64;
    println!("{replayed} entries replayed in {elapsed:.2?}: {million:.2} s for a million (target: 2 s)");
    let _ = (a.status(), b.status());
}

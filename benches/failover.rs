//! End to end on real Redis: from the fault to the first write that the new primary acknowledges to a client that
//! follows the arbiter by long poll, beyond the silence that the rule allows.
//!
//! `cargo bench --bench failover`. `CORONER_BENCH_RUNS` (default 20) of each fault, each on fresh servers and a fresh
//! arbiter; `CORONER_BENCH_STEPS=1` prints the incident and the log of the last run of each; of a
//! run that took half a second more than it should, they are printed always.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, reason = "a benchmark may stop")]

#[path = "common/mod.rs"]
mod common;
#[path = "../tests/common/redis.rs"]
mod redis;

use std::{net::SocketAddr, process::Command, sync::mpsc, thread, time::Duration};

use common::{Arbiter, Http};
use coroner::sys::clock::Stopwatch;
use redis::{Client, RedisServer};

const TOKEN: &str = "a-token-of-some-length";

const CONFIG: &str = r#"
arbiter:
  name: bench
  @ARBITER@
  access: [{ name: client, role: view, token: a-token-of-some-length }]
clusters:
  orders:
    mode: auto
    broker: { redis: { persist_role: false } }
    members:
      a: { address: "@A@" }
      b: { address: "@B@" }
    signals:
      ping: { broker: { ask: ping, of: primary, every: 20ms, timeout: 15ms } }
      link: { broker: { ask: replication_link, of: standbys, every: 20ms, timeout: 15ms } }
      role: { broker: { ask: role, of: members, every: 100ms, timeout: 90ms } }
    death_rules:
      - name: the port is closed, and the standby has lost it too
        when: { all: [{ ping: { failed_with: refused } }, { link: down }] }
        verdict: dead
        then: failover
      - name: silent
        when: { ping: { silent: 1s } }
        verdict: dead
        then: failover
    failover:
      fence: [{ signal: { pid_file: "@PID@", supervisor: none }, deadline: 2s }]
      max_loss: any
      rejoin: ask
"#;

#[derive(Clone, Copy)]
enum Fault {
    Kill,
    Freeze,
}

/// Waits for news of the primary, as a client does, and writes to it until a write is acknowledged.
fn follow(arbiter: SocketAddr, watch: Stopwatch, old: String, done: mpsc::Sender<(Duration, Duration)>) {
    let mut poll = Http::connect(arbiter);
    let mut epoch = 1;
    let address = loop {
        let path = format!("/v1/clusters/orders/primary?epoch={epoch}&wait=30s");
        let (status, body) = poll.call("GET", &path, TOKEN, "");
        if status != 200 {
            continue;
        }
        let view: serde_json::Value = serde_json::from_str(&body).unwrap();
        epoch = view["epoch"].as_u64().unwrap();
        match view["address"].as_str() {
            Some(address) if address != old => break address.to_owned(),
            _ => {}
        }
    };
    let told = watch.elapsed();
    loop {
        let answer = Client::connect(&address).and_then(|mut c| c.command(&["SET", "first", "write"]));
        if answer.is_ok_and(|text| text.starts_with("+OK")) {
            break;
        }
        thread::sleep(Duration::from_millis(1));
    }
    done.send((told, watch.elapsed())).unwrap();
}

/// From the fault to: the client was told, the first write was acknowledged.
fn run(fault: Fault, silence: Duration, show_steps: bool) -> (Duration, Duration) {
    let (mut a, b) = (RedisServer::start(), RedisServer::start());
    b.replica_of(&a);
    a.command(&["SET", "some", "data"]);
    // A primary sends nothing to a standby that has not acknowledged its copy yet: a pair of a second ago is none.
    let end = a.command(&["INFO", "replication"]);
    let end = end.lines().find_map(|line| line.strip_prefix("master_repl_offset:")).unwrap().trim().to_owned();
    b.wait_info(&format!("slave_repl_offset:{end}"));
    let pids = tempfile::tempdir().unwrap();
    std::fs::write(pids.path().join("a.pid"), a.pid().to_string()).unwrap();
    std::fs::write(pids.path().join("b.pid"), b.pid().to_string()).unwrap();
    let config = CONFIG
        .replace("@A@", &a.address())
        .replace("@B@", &b.address())
        .replace("@PID@", &pids.path().join("{member}.pid").display().to_string());
    let arbiter = Arbiter::start(&config);
    let ready = || {
        let body = Http::connect(arbiter.http).call("GET", "/v1/status", TOKEN, "").1;
        serde_json::from_str::<serde_json::Value>(&body).is_ok_and(|status| status["clusters"][0]["ready"] == true)
    };
    (0..1_000)
        .find(|_| {
            ready() || {
                thread::sleep(Duration::from_millis(10));
                false
            }
        })
        .expect("ready for a failover");
    // So that the fault falls anywhere between two looks.
    thread::sleep(Duration::from_millis(300) + Duration::from_micros(u64::from(std::process::id()) * 137 % 20_000));

    let watch = Stopwatch::start();
    let (send, done) = mpsc::channel();
    let (address, old) = (arbiter.http, a.address());
    let client_watch = watch;
    let client = thread::spawn(move || follow(address, client_watch, old, send));
    thread::sleep(Duration::from_millis(50));
    let at = watch.elapsed();
    match fault {
        Fault::Kill => a.kill(),
        Fault::Freeze => a.freeze(),
    }
    let (told, written) = done.recv_timeout(Duration::from_secs(20)).unwrap_or_else(|_| {
        panic!("no failover:\n{}", arbiter.log());
    });
    client.join().unwrap();
    let is_slow = told - at > silence + Duration::from_millis(500);
    if show_steps || is_slow {
        let socket = common::path(&arbiter.dir, "socket");
        let coroner = |args: &[&str]| {
            let output = Command::new(common::program()).arg("--socket").arg(&socket).args(args).output().unwrap();
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let list: serde_json::Value = serde_json::from_str(&coroner(&["incidents", "list", "-o", "json"])).unwrap();
        println!("{}", coroner(&["incidents", "show", list[0]["id"].as_str().unwrap()]));
        println!("{}", arbiter.log());
    }
    (told - at, written - at)
}

fn main() {
    let runs = std::env::var("CORONER_BENCH_RUNS").ok().and_then(|s| s.parse().ok()).unwrap_or(20);
    let runs = if common::is_test() { 1 } else { runs };
    let steps = std::env::var_os("CORONER_BENCH_STEPS").is_some();
    for (what, fault, silence) in [
        ("kill -9", Fault::Kill, Duration::ZERO),
        ("frozen, beyond the silence of 1 s", Fault::Freeze, Duration::from_secs(1)),
    ] {
        let mut told = Vec::new();
        let mut written = Vec::new();
        for n in 0..runs {
            let (a, b) = run(fault, silence, steps && n + 1 == runs);
            told.push(a.saturating_sub(silence));
            written.push(b.saturating_sub(silence));
        }
        common::row(&format!("{what}: the client is told"), told);
        common::row(&format!("{what}: the first write is acknowledged"), written);
    }
}

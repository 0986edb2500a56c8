//! How many heartbeats the real arbiter takes, over loopback: per second of its own processor time (which is what one
//! core gives) and per second of the clock (which the load generator on the same machine shares).
//!
//! `cargo bench --bench ingest`. Runs 2 × `CORONER_BENCH_SECONDS` (default 10).

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, reason = "a benchmark may stop")]

#[path = "common/mod.rs"]
mod common;

use std::{
    fmt::Write as _,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use common::{Arbiter, Http};
use coroner::{
    api::beat::{Beat, BeatKey, decode_echo, encode_beat},
    sys::clock::Stopwatch,
};

/// Members, each an identity with a sender of its own.
const MEMBERS: usize = 8;
/// Connections of each sender over HTTP, each with one request at a time.
const CONNECTIONS: usize = 8;

fn config() -> String {
    let mut text = String::from("arbiter:\n  name: bench\n  @ARBITER@\n  access:\n");
    for n in 0..MEMBERS {
        writeln!(text, "    - {{ name: m{n}, role: report, token: \"a-token-of-some-length-{n}\" }}").unwrap();
    }
    text.push_str("clusters:\n  orders:\n    mode: shadow\n    primary: m0\n    members:\n");
    for n in 0..MEMBERS {
        writeln!(text, "      m{n}: {{ address: \"127.0.0.1:{}\" }}", n + 1).unwrap();
    }
    text.push_str(
        "    signals:\n      heartbeat: { push: { from: members, every: 1s } }\n    death_rules:\n      - { name: \
         silent, when: { heartbeat: { silent: 10s } }, verdict: suspect, then: alert }\n",
    );
    text
}

fn token(member: usize) -> String {
    format!("a-token-of-some-length-{member}")
}

/// Sends as fast as it can, as a member would: the newest challenge and echo come back in the next beat.
fn beat_over_udp(to: SocketAddr, member: usize, stop: &AtomicBool) -> u64 {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(to).unwrap();
    socket.set_nonblocking(true).unwrap();
    let (name, key) = (format!("m{member}"), BeatKey::new(&token(member)));
    let (mut seq, mut echoed, mut challenge) = (0, 0, 0);
    let mut buffer = [0; 512];
    while !stop.load(Ordering::Relaxed) {
        seq += 1;
        let beat = Beat {
            sender: &name,
            cluster: "orders",
            member: &name,
            signal: "heartbeat",
            session: member as u64 + 1,
            seq,
            echoed,
            challenge,
        };
        let _ = socket.send(&encode_beat(&key, &beat).unwrap());
        // Only the newest echo is looked at: the sender must not be what is measured.
        if seq % 64 == 0 {
            let mut newest = 0;
            while let Ok(length) = socket.recv(&mut buffer) {
                newest = length;
            }
            if let Ok(echo) = decode_echo(&key, &buffer[..newest]) {
                (echoed, challenge) = (echo.seq, echo.challenge);
            }
        }
    }
    seq
}

fn beat_over_http(to: SocketAddr, member: usize, stop: &AtomicBool) -> u64 {
    let mut connections: Vec<_> = (0..CONNECTIONS).map(|_| Http::connect(to)).collect();
    let (mut seq, mut refused) = (0, 0_u64);
    while !stop.load(Ordering::Relaxed) {
        for connection in &mut connections {
            seq += 1;
            let body = format!("{{\"cluster\":\"orders\",\"member\":\"m{member}\",\"seq\":{seq}}}");
            connection.send(&Http::request("POST", "/v1/heartbeat", &token(member), &body));
        }
        for connection in &mut connections {
            refused += u64::from(connection.answer().0 != 200);
        }
    }
    if refused > 0 {
        println!("  (m{member}: {refused} refused)");
    }
    seq
}

fn measure(what: &str, label: &str, senders: usize, sender: fn(SocketAddr, usize, &AtomicBool) -> u64) {
    let seconds = std::env::var("CORONER_BENCH_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(10);
    let seconds = if common::is_test() { 1 } else { seconds };
    let arbiter = Arbiter::start(&config());
    let to = if label == "udp" { arbiter.udp } else { arbiter.http };
    let stop = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..senders)
        .map(|member| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || sender(to, member, &stop))
        })
        .collect();
    // What only the beginning costs is not measured.
    thread::sleep(Duration::from_millis(500));
    let taken = || arbiter.metric("coroner_ingest_total", &format!("\"{label}\""));
    let (watch, cpu, before) = (Stopwatch::start(), arbiter.cpu(), taken());
    thread::sleep(Duration::from_secs(seconds));
    let (wall, cpu, count) = (watch.elapsed(), arbiter.cpu() - cpu, taken() - before);
    let rss = arbiter.rss();
    stop.store(true, Ordering::Relaxed);
    let sent: u64 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    println!(
        "{what:<34} {:>9.0} accepted per core-second   {:>9.0} per second   arbiter {:>3.0} % of a core, {rss:.1} MB   (sent \
         {sent})",
        count / cpu.as_secs_f64(),
        count / wall.as_secs_f64(),
        100.0 * cpu.as_secs_f64() / wall.as_secs_f64(),
    );
}

fn main() {
    measure("heartbeats over UDP, 2 senders", "udp", 2, beat_over_udp);
    measure("heartbeats over HTTP, 8 senders", "http", MEMBERS, beat_over_http);
}

//! What the real arbiter uses while it watches 1, 10, 100 and 1,000 clusters, each with five signals at one second: a
//! pushed heartbeat (UDP), pushed arrivals of a node (HTTP), and three TCP connects that it makes itself. And what one
//! cluster takes after a minute.
//!
//! `cargo bench --bench scale`. `CORONER_BENCH_SECONDS` (default 20) is measured for each size; `CORONER_BENCH_PULL=0`
//! measures five pushed signals and no connects; `CORONER_BENCH_CLUSTERS` names other sizes.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, reason = "a benchmark may stop")]

#[path = "common/mod.rs"]
mod common;

use std::{
    fmt::Write as _,
    net::{SocketAddr, TcpListener, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use common::{Arbiter, Http};
use coroner::{
    api::beat::{Beat, BeatKey, decode_echo, encode_beat},
    sys::clock::Stopwatch,
};

const TOKEN: &str = "a-token-of-some-length";

/// Members of cluster `n` have addresses of their own in 127.0.0.0/8, where one listener takes all.
fn address(n: usize, member: usize, port: u16) -> String {
    format!("127.{}.{}.{}:{port}", member, n / 250, n % 250 + 1)
}

fn config(clusters: usize, port: u16, pull: bool) -> String {
    let mut text = String::from("arbiter:\n  name: bench\n  @ARBITER@\n  access:\n");
    writeln!(text, "    - {{ name: all, role: report, token: {TOKEN}, reports_as: [a, b, n] }}\nclusters:").unwrap();
    for n in 0..clusters {
        let others = if pull {
            "      port: { tcp: {}, of: primary, every: 1s, timeout: 500ms }\n      other: { tcp: {}, of: standbys, every: \
             1s, timeout: 500ms }\n      third: { tcp: {}, of: b, every: 1s, timeout: 500ms }\n"
        } else {
            "      second: { push: { from: primary, every: 1s } }\n      third: { push: { from: primary, every: 1s } \
             }\n      fourth: { push: { from: primary, every: 1s } }\n"
        };
        let and = if pull { "port: { failing: 3 of 5 }" } else { "third: { silent: 3s }" };
        writeln!(
            text,
            "  c{n}:\n    mode: shadow\n    primary: a\n    members:\n      a: {{ address: \"{}\" }}\n      b: {{ address: \
             \"{}\" }}\n    nodes: [n]\n    signals:\n      heartbeat: {{ push: {{ from: primary, every: 1s }} }}\n      \
             arrivals: {{ push: {{ from: nodes, every: 1s }} }}\n{others}    death_rules:\n      - {{ name: silent, when: \
             {{ all: [{{ heartbeat: {{ silent: 10s }} }}, {{ arrivals: {{ silent: 5s }} }}, {{ {and} }}] }}, verdict: \
             suspect, then: alert }}",
            address(n, 1, port),
            address(n, 2, port),
        )
        .unwrap();
    }
    text
}

/// One after the other, evenly over the second.
fn evenly(clusters: usize, stop: &AtomicBool, mut each: impl FnMut(usize, u64)) {
    let watch = Stopwatch::start();
    for round in 1.. {
        for n in 0..clusters {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let share = u32::try_from(n).unwrap() * (Duration::from_secs(1) / u32::try_from(clusters).unwrap());
            let due = Duration::from_secs(round) + share;
            thread::sleep(due.saturating_sub(watch.elapsed()));
            each(n, round);
        }
    }
}

fn beats(to: SocketAddr, clusters: usize, signals: &[&str], stop: &AtomicBool) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let key = BeatKey::new(TOKEN);
    let mut echoes = vec![(0, 0); clusters * signals.len()];
    let mut buffer = [0; 512];
    evenly(clusters, stop, |n, seq| {
        for (place, signal) in signals.iter().enumerate() {
            let cluster = format!("c{n}");
            let (echoed, challenge) = echoes[n * signals.len() + place];
            let (cluster, session) = (cluster.as_str(), n as u64 + 1);
            let beat = Beat { sender: "all", cluster, member: "a", signal, session, seq, echoed, challenge };
            socket.send(&encode_beat(&key, &beat).unwrap()).unwrap();
            if let Ok(Ok(echo)) = socket.recv(&mut buffer).map(|length| decode_echo(&key, &buffer[..length])) {
                echoes[n * signals.len() + place] = (echo.seq, echo.challenge);
            }
        }
    });
}

fn arrivals(to: SocketAddr, clusters: usize, stop: &AtomicBool) {
    let mut connection = Http::connect(to);
    evenly(clusters, stop, |n, round| {
        let body = format!("{{\"cluster\":\"c{n}\",\"node\":\"n\",\"received\":{round},\"last_age_ms\":1}}");
        let (status, text) = connection.call("POST", "/v1/arrivals", TOKEN, &body);
        assert!(status == 200, "{status} {text}");
    });
}

/// Takes every connection and closes it when the other side has.
fn listen(listener: &TcpListener, accepted: &AtomicU64) {
    for stream in listener.incoming() {
        if stream.is_ok() {
            accepted.fetch_add(1, Ordering::Relaxed);
        }
    }
}

struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Load {
    fn start(arbiter: &Arbiter, clusters: usize, pull: bool) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (http, udp) = (arbiter.http, arbiter.udp);
        let signals: &[&str] = if pull { &["heartbeat"] } else { &["heartbeat", "second", "third", "fourth"] };
        let threads = vec![
            thread::spawn({
                let stop = Arc::clone(&stop);
                move || beats(udp, clusters, signals, &stop)
            }),
            thread::spawn({
                let stop = Arc::clone(&stop);
                move || arrivals(http, clusters, &stop)
            }),
        ];
        Self { stop, threads }
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

fn main() {
    let seconds = std::env::var("CORONER_BENCH_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(20);
    let seconds = if common::is_test() { 2 } else { seconds };
    let pull = std::env::var_os("CORONER_BENCH_PULL").is_none_or(|value| value != "0");
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let accepted = Arc::new(AtomicU64::new(0));
    thread::spawn({
        let accepted = Arc::clone(&accepted);
        move || listen(&listener, &accepted)
    });
    println!("five signals of each cluster at 1 s, {}", if pull { "two pushed, three pulled" } else { "all pushed" });
    let sizes = if common::is_test() { "1,10" } else { "1,10,100,1000" };
    let sizes = std::env::var("CORONER_BENCH_CLUSTERS").unwrap_or_else(|_| sizes.into());
    for clusters in sizes.split(',').map(|size| size.parse::<usize>().unwrap()) {
        let arbiter = Arbiter::start(&config(clusters, port, pull));
        let load = Load::start(&arbiter, clusters, pull);
        // The first rounds learn streams and make sessions.
        thread::sleep(Duration::from_secs(5));
        let seen = || arbiter.metric("coroner_observations_total", "");
        let (watch, cpu, before, connects) =
            (Stopwatch::start(), arbiter.cpu(), seen(), accepted.load(Ordering::Relaxed));
        thread::sleep(Duration::from_secs(seconds));
        let (wall, cpu) = (watch.elapsed().as_secs_f64(), (arbiter.cpu() - cpu).as_secs_f64());
        println!(
            "{clusters:>5} clusters   {:>6.2} % of a core   {:>6.1} MB resident   {:>7.0} observations/s   {:>6.0} connects/s",
            100.0 * cpu / wall,
            arbiter.rss(),
            (seen() - before) / wall,
            (accepted.load(Ordering::Relaxed) - connects) as f64 / wall,
        );
        load.end();
    }
    let minute = if common::is_test() { 2 } else { 60 };
    let arbiter = Arbiter::start(&config(1, port, pull));
    let load = Load::start(&arbiter, 1, pull);
    thread::sleep(Duration::from_secs(minute));
    println!("    1 cluster, after {minute} s: {:.1} MB resident", arbiter.rss());
    load.end();
}

//! Heartbeats over HTTP, UDP and the Unix socket, and canaries, from their senders to a death; and what is forged.

use std::{
    io::{Read as _, Write as _},
    net::{TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use coroner::api::beat::{Beat, BeatKey, Echo, MAX_BEAT, decode_echo, encode_beat};
use serde_json::json;

use crate::{
    http,
    node::token_of,
    world::{ARRIVALS, ASKED, Options, World},
};

const HEARTBEAT: &str = "heartbeat: { push: { from: primary, every: 200ms } }";

/// A primary whose heart stopped, and whose nodes receive nothing.
fn by_heartbeat() -> Options {
    Options {
        signals: format!("{ARRIVALS}\n{ASKED}\n{HEARTBEAT}"),
        rules: "- name: no heartbeat\n  when:\n    all:\n      - heartbeat: { silent: 1s }\n      - at_least: { count: majority, of: arrivals, are: { silent: 600ms } }\n  verdict: dead\n  then: failover".into(),
        ..Options::default()
    }
}

/// Beats until dropped.
struct Heart(Arc<AtomicBool>);

impl Heart {
    fn start(mut beat: impl FnMut(u64) + Send + 'static) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&over);
        thread::spawn(move || {
            for seq in 1.. {
                if flag.load(Ordering::Relaxed) {
                    return;
                }
                beat(seq);
                thread::sleep(Duration::from_millis(150));
            }
        });
        Self(over)
    }
}

impl Drop for Heart {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn body(seq: u64) -> String {
    json!({ "cluster": "orders", "member": "broker-a", "seq": seq, "session": 7 }).to_string()
}

fn is_known(world: &mut World) {
    world.wait_until("the heart is heard", |world| {
        let signals = world.get("/v1/clusters/orders/signals").unwrap();
        signals.as_array().unwrap().iter().any(|s| s["signal"] == "heartbeat" && s["up"] == true)
    });
}

/// With a heart that beats, a frozen primary whose nodes receive nothing is not dead; without, it is.
fn check_heart(mut world: World, heart: Heart) {
    is_known(&mut world);
    world.member("broker-a").freeze();
    world.stays_untouched(Duration::from_secs(2));
    drop(heart);
    world.wait_primary("broker-b");
    let incident = world.incident(&world.failovers()[0]["id"]);
    assert_eq!(incident["trigger"]["rule"]["rule"], "no heartbeat");
}

#[test]
fn heartbeats_over_http_feed_the_signal() {
    let world = World::start(by_heartbeat());
    let address = world.http;
    let heart = Heart::start(move |seq| {
        let token = token_of("broker-a");
        drop(http::tcp(address, "POST", "/v1/heartbeat", Some(&token), body(seq).as_bytes()));
    });
    check_heart(world, heart);
}

#[test]
fn heartbeats_over_the_unix_socket_feed_the_signal() {
    let world = World::start(by_heartbeat());
    let socket = world.socket.clone();
    let heart = Heart::start(move |seq| drop(http::unix(&socket, "POST", "/v1/heartbeat", body(seq).as_bytes())));
    check_heart(world, heart);
}

fn beat(session: u64, seq: u64, echo: Option<Echo>) -> Beat<'static> {
    let (echoed, challenge) = echo.map_or((0, 0), |echo| (echo.seq, echo.challenge));
    Beat { sender: "broker-a", cluster: "orders", member: "broker-a", signal: "", session, seq, echoed, challenge }
}

#[test]
fn heartbeats_over_udp_feed_the_signal_and_are_echoed() {
    let world = World::start(by_heartbeat());
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(world.udp).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let key = BeatKey::new(&token_of("broker-a"));
    let mut echo = None;
    let heart = Heart::start(move |seq| {
        socket.send(&encode_beat(&key, &beat(9, seq, echo)).unwrap()).unwrap();
        let mut buffer = [0; 256];
        if let Ok(length) = socket.recv(&mut buffer) {
            echo = decode_echo(&key, &buffer[..length]).ok();
        }
    });
    check_heart(world, heart);
}

#[test]
fn a_forged_replayed_or_malformed_heartbeat_hides_no_death_and_is_counted() {
    let mut world = World::start(by_heartbeat());
    let (own, other) = (token_of("broker-a"), token_of("node-1"));
    let post = |world: &World, token: Option<&str>, body: &[u8]| {
        http::tcp(world.http, "POST", "/v1/heartbeat", token, body).map_or(0, |(status, _)| status)
    };
    assert_eq!(post(&world, Some(&own), body(1).as_bytes()), 200);
    is_known(&mut world);
    world.member("broker-a").freeze();

    // Whoever would hide the death: without a token, with a wrong one, with another's, with what was said before.
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.connect(world.udp).unwrap();
    let forged = encode_beat(&BeatKey::new("not the token"), &beat(5, 1, None)).unwrap();
    let own_key = BeatKey::new(&own);
    let before = encode_beat(&own_key, &beat(5, 1, None)).unwrap();
    let stranger = Beat { sender: "nobody", ..beat(5, 2, None) };
    let stranger = encode_beat(&own_key, &stranger).unwrap();
    let as_other = Beat { sender: "node-1", ..beat(5, 2, None) };
    let as_other = encode_beat(&BeatKey::new(&other), &as_other).unwrap();
    let mut statuses = Vec::new();
    world.wait_until("the death is seen all the same", |world| {
        statuses.push(post(world, None, body(2).as_bytes()));
        statuses.push(post(world, Some("not the token"), body(2).as_bytes()));
        statuses.push(post(world, Some(&other), body(2).as_bytes()));
        statuses.push(post(world, Some(&own), body(1).as_bytes()));
        statuses.push(post(world, Some(&own), b"{\"cluster\": \"orders\""));
        statuses.push(post(world, Some(&own), &vec![b'['; 2 << 20]));
        for datagram in [&forged, &stranger, &as_other] {
            udp.send(datagram).unwrap();
        }
        udp.send(b"CRN1 something else").unwrap();
        udp.send(&[b'x'; MAX_BEAT + 1]).unwrap();
        !world.failovers().is_empty()
    });
    assert_eq!(statuses[..5], [401, 401, 403, 409, 400]);
    assert!([413, 0].contains(&statuses[5]), "{}: refused, or the connection closed before all was sent", statuses[5]);
    world.wait_primary("broker-b");
    // A beat that was recorded, sent again: taken once, then refused.
    for _ in 0..3 {
        udp.send(&before).unwrap();
    }
    for (via, reason) in [
        ("http", "replayed"),
        ("http", "malformed"),
        ("udp", "bad_mac"),
        ("udp", "unknown_sender"),
        ("udp", "forbidden"),
        ("udp", "malformed"),
        ("udp", "oversized"),
        ("udp", "replayed"),
    ] {
        world.wait_until(&format!("{reason} over {via} is counted"), |world| {
            let name = format!("coroner_ingest_rejected_total{{reason=\"{reason}\",via=\"{via}\"}}");
            world.metric(&name) >= Some(1.0)
        });
    }
    assert!(world.metric("process_resident_memory_bytes").unwrap() < 200e6);
}

#[test]
fn p28_a_forged_report_of_a_node_causes_no_death() {
    let mut world = World::start(Options {
        rules: "- name: nothing arrives\n  when:\n    at_least: { count: majority, of: arrivals, are: { silent: 600ms } }\n  verdict: dead\n  then: failover".into(),
        ..Options::default()
    });
    let mut statuses = Vec::new();
    world.stays("no death is caused", Duration::from_secs(2), |world| {
        for (node, token) in
            [("node-1", None), ("node-2", Some(token_of("node-1"))), ("node-3", Some(token_of("viewer")))]
        {
            let report = json!({ "cluster": "orders", "node": node, "received": 0, "last_age_ms": 60_000 });
            let answer = http::tcp(world.http, "POST", "/v1/arrivals", token.as_deref(), report.to_string().as_bytes());
            statuses.push(answer.map_or(0, |(status, _)| status));
        }
        world.incidents().is_empty()
    });
    assert_eq!(statuses[..3], [401, 403, 403]);
}

#[test]
fn p8_a_primary_that_takes_writes_and_delivers_nothing_is_found_by_canaries() {
    let mut world = World::start(Options {
        signals: format!("{ARRIVALS}\n{ASKED}\ncanary: {{ canary: {{ to: nodes, every: 200ms, timeout: 150ms }} }}"),
        rules: "- name: answers, but delivers nothing\n  when:\n    all:\n      - ping: ok\n      - at_least: { count: majority, of: canary, are: { failing: 3 of 3 } }\n  for: 500ms\n  verdict: gray\n  then: alert".into(),
        ..Options::default()
    });
    let deaf = Arc::new(AtomicBool::new(false));
    let over = Arc::new(AtomicBool::new(false));
    let (is_deaf, is_over) = (Arc::clone(&deaf), Arc::clone(&over));
    let (address, arbiter) = (world.member("broker-a").address(), world.http);
    let listener = thread::spawn(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        stream.write_all(b"SUBSCRIBE coroner:canary\r\n").unwrap();
        let mut chunk = [0; 4096];
        while !is_over.load(Ordering::Relaxed) {
            let Ok(length) = stream.read(&mut chunk) else { continue };
            // The last element of `message`, channel, payload.
            let text = String::from_utf8_lossy(&chunk[..length]).into_owned();
            let Some(id) = text.split("coroner:canary\r\n").nth(1).and_then(|rest| rest.split("\r\n").nth(1)) else {
                continue;
            };
            if is_deaf.load(Ordering::Relaxed) || text.contains("subscribe") {
                continue;
            }
            for node in ["node-1", "node-2", "node-3"] {
                let receipt = json!({ "cluster": "orders", "node": node, "id": id }).to_string();
                drop(http::tcp(arbiter, "POST", "/v1/canary", Some(&token_of(node)), receipt.as_bytes()));
            }
        }
    });
    let up = |world: &World, wanted: bool| {
        let signals = world.get("/v1/clusters/orders/signals").unwrap();
        let canaries: Vec<_> =
            signals.as_array().unwrap().iter().filter(|s| s["signal"] == "canary").cloned().collect();
        canaries.len() == 3 && canaries.iter().all(|s| s["up"] == wanted)
    };
    world.wait_until("canaries reach the nodes", |world| up(world, true));
    deaf.store(true, Ordering::Relaxed);
    world.wait_until("it is gray", |world| world.cluster().is_some_and(|c| c["verdict"] == "gray"));
    deaf.store(false, Ordering::Relaxed);
    world.wait_until("it is well", |world| world.cluster().is_some_and(|c| c["verdict"] == "alive"));
    assert!(world.incidents().is_empty());
    over.store(true, Ordering::Relaxed);
    listener.join().unwrap();
}

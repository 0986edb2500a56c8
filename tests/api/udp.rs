//! Heartbeats over UDP.

use std::{sync::atomic::Ordering, time::Duration};

use coroner::{
    api::beat::{Beat, BeatKey, Echo, MAX_BEAT, decode_echo, encode_beat},
    model::{Fact, Outcome},
};
use tokio::{net::UdpSocket, time::timeout};

use crate::lab::{Lab, until};

struct Sender {
    socket: UdpSocket,
    key: BeatKey,
    session: u64,
}

impl Sender {
    async fn new(lab: &Lab, token: &str, session: u64) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(lab.running.udp.unwrap()).await.unwrap();
        Self { socket, key: BeatKey::new(token), session }
    }

    fn beat(&self, seq: u64, echo: Option<Echo>) -> Beat<'static> {
        let (echoed, challenge) = echo.map_or((0, 0), |echo| (echo.seq, echo.challenge));
        let (sender, member) = ("broker-a", "broker-a");
        Beat { sender, cluster: "orders", member, signal: "", session: self.session, seq, echoed, challenge }
    }

    async fn send(&self, beat: &Beat<'_>) -> Vec<u8> {
        let wire = encode_beat(&self.key, beat).unwrap();
        self.socket.send(&wire).await.unwrap();
        wire
    }

    async fn echo(&self) -> Echo {
        let mut buffer = [0; 600];
        let length = timeout(Duration::from_secs(10), self.socket.recv(&mut buffer)).await.expect("no echo").unwrap();
        decode_echo(&self.key, &buffer[..length]).unwrap()
    }
}

fn beats(lab: &Lab) -> Vec<(u64, bool)> {
    let seen = lab.seen.lock().unwrap();
    let beat = |seen: &coroner::arbiter::handle::Seen| match seen.outcome {
        Outcome::Fact(Fact::Beat { seq, echoed }) => (seq, echoed),
        ref other => panic!("{other:?}"),
    };
    seen.iter().map(beat).collect()
}

#[tokio::test]
async fn a_beat_that_carries_our_echo_back_proves_the_link_both_ways() {
    let lab = Lab::start().await;
    let sender = Sender::new(&lab, "token-a", 1).await;
    let mut echo = None;
    for seq in 1..=3 {
        sender.send(&sender.beat(seq, echo)).await;
        let answer = sender.echo().await;
        assert_eq!((answer.session, answer.seq, answer.epoch), (1, seq, 3));
        echo = Some(answer);
        until("the beat", || beats(&lab).len() as u64 == seq).await;
    }
    assert_eq!(beats(&lab), [(1, false), (2, true), (3, true)]);
    assert_eq!(lab.metrics.udp_sessions.get(), 1);
}

#[tokio::test]
async fn what_is_forged_replayed_or_broken_is_refused_and_counted() {
    let lab = Lab::start().await;
    let sender = Sender::new(&lab, "token-a", 1).await;
    let recorded = sender.send(&sender.beat(5, None)).await;
    sender.echo().await;

    let liar = Sender::new(&lab, "guessed", 2).await;
    let other = Beat { member: "broker-b", ..sender.beat(6, None) };
    let cases: [(&str, Vec<u8>); 8] = [
        ("replayed", recorded.clone()),
        ("replayed", encode_beat(&sender.key, &sender.beat(4, None)).unwrap()),
        ("bad_mac", encode_beat(&liar.key, &liar.beat(6, None)).unwrap()),
        ("unknown_sender", encode_beat(&liar.key, &Beat { sender: "mallory", ..liar.beat(6, None) }).unwrap()),
        ("forbidden", encode_beat(&sender.key, &other).unwrap()),
        ("unknown_name", encode_beat(&sender.key, &Beat { cluster: "nope", ..sender.beat(6, None) }).unwrap()),
        ("malformed", b"hello".to_vec()),
        ("oversized", vec![0; MAX_BEAT + 1]),
    ];
    let mut expected = std::collections::BTreeMap::<&str, u64>::new();
    for (reason, datagram) in &cases {
        *expected.entry(reason).or_default() += 1;
        sender.socket.send(datagram).await.unwrap();
        until(reason, || lab.rejected("udp", reason) == expected[reason]).await;
    }
    // Operators' tokens are no keys for heartbeats.
    let alice = Sender::new(&lab, "token-operate", 3).await;
    alice.send(&Beat { sender: "alice", ..alice.beat(1, None) }).await;
    until("refused", || lab.rejected("udp", "unknown_sender") == 2).await;
    assert_eq!(beats(&lab), [(5, false)]);
}

#[tokio::test]
async fn a_recorded_session_replayed_later_never_counts_as_echoed() {
    let recorded = {
        let lab = Lab::start().await;
        let sender = Sender::new(&lab, "token-a", 1).await;
        let first = sender.send(&sender.beat(1, None)).await;
        let echo = sender.echo().await;
        let second = sender.send(&sender.beat(2, Some(echo))).await;
        until("the beats", || beats(&lab) == [(1, false), (2, true)]).await;
        [first, second]
    };
    let lab = Lab::start().await;
    let attacker = Sender::new(&lab, "", 0).await;
    for (count, datagram) in recorded.iter().enumerate() {
        attacker.socket.send(datagram).await.unwrap();
        until("the replay", || beats(&lab).len() == count + 1).await;
    }
    assert_eq!(beats(&lab), [(1, false), (2, false)]);
}

#[tokio::test]
async fn when_the_decision_is_behind_only_the_newest_beat_of_a_sender_is_kept() {
    let lab = Lab::start().await;
    lab.stuck.store(true, Ordering::Relaxed);
    // The queue holds 64; fill it.
    for seq in 0..200 {
        let body = format!(r#"{{"cluster":"orders","member":"broker-a","seq":{seq}}}"#);
        if lab.ask_socket("POST", "/v1/heartbeat", &body).await.code == 503 {
            break;
        }
    }
    let before = 64;
    let sender = Sender::new(&lab, "token-a", 1).await;
    for seq in 1000..1500 {
        sender.send(&sender.beat(seq, None)).await;
        sender.echo().await;
    }
    assert!(lab.metrics.coalesced.get() >= 499, "{}", lab.metrics.coalesced.get());
    lab.stuck.store(false, Ordering::Relaxed);
    until("the newest", || beats(&lab).last() == Some(&(1499, false))).await;
    assert!(beats(&lab).len() <= before + 3, "{}", beats(&lab).len());
}

#[tokio::test]
async fn a_flood_of_sessions_keeps_memory_bounded() {
    let lab = Lab::start().await;
    let mut sender = Sender::new(&lab, "token-a", 1).await;
    for session in 1..300 {
        sender.session = session;
        sender.send(&sender.beat(1, None)).await;
        sender.echo().await;
    }
    assert!(lab.metrics.udp_sessions.get() <= 4, "{}", lab.metrics.udp_sessions.get());
}

#[tokio::test]
async fn garbage_does_not_stop_the_listener() {
    let lab = Lab::start().await;
    let sender = Sender::new(&lab, "token-a", 1).await;
    for round in 0..2_000u32 {
        let length = (round as usize * 7) % 600;
        let garbage: Vec<u8> = (0..length).map(|i| (i as u32).wrapping_mul(round).to_le_bytes()[1]).collect();
        sender.socket.send(&garbage).await.unwrap();
    }
    sender.send(&sender.beat(1, None)).await;
    sender.echo().await;
    assert_eq!(beats(&lab).len(), 1);
}

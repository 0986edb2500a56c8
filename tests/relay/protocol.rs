//! What senders, nodes and controllers get from one relay.

use std::time::Duration;

use coroner::relay::{
    Why,
    client::{Control, NodeClient, NodeOptions, Sender, SenderOptions},
    control::{Answer, Reason, Request, Role},
};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::lab::{Got, PATIENCE, Relay, is_ok, pair, receive_until, send_one, send_upto};

#[tokio::test]
async fn messages_reach_every_node_once_in_order_and_a_probe_reaches_none() {
    let dir = tempfile::tempdir().unwrap();
    let a = Relay::start(dir.path(), "a", None, &[]);
    let sender = Sender::start(SenderOptions::new("s", &a.address));
    let mut nodes: Vec<_> =
        ["n1", "n2", "n3"].map(|n| NodeClient::start(NodeOptions::from_the_beginning(n, &a.address))).into();
    send_upto(&sender, 500).await;
    assert!(is_ok(&a.ask(&Request::Probe { id: "p1".into() }).await));
    assert!(is_ok(&a.ask(&Request::Canary { id: "c1".into() }).await));
    send_upto(&sender, 600).await;
    for node in &mut nodes {
        let mut got = Got::default();
        receive_until(node, &mut got, "s", 600).await;
        got.assert_exact("s");
        assert_eq!((got.canaries.as_slice(), got.epochs.as_slice()), (["c1".to_owned()].as_slice(), [1].as_slice()));
    }
    let status =
        a.until("three nodes have it all", |s| s.nodes.iter().filter(|n| n.1 == s.position).count() == 3).await;
    assert_eq!((status.role, status.epoch, status.silent_ms, status.corrupt), (Role::Primary, 1, 0, 0));
    // The beginning of the epoch, 600 messages, a probe and a canary.
    assert_eq!(status.position, 603);
}

#[tokio::test]
async fn a_repeated_number_is_acknowledged_and_delivered_once_and_the_newest_connection_wins() {
    let dir = tempfile::tempdir().unwrap();
    let a = Relay::start(dir.path(), "a", None, &[]);
    let first = Sender::start(SenderOptions::new("s", &a.address));
    send_upto(&first, 10).await;
    // A sender that remembers less than the log has: it sends 6 to 10 again, which are in the log.
    let stale = SenderOptions { after: Some(5), ..SenderOptions::new("s", &a.address) };
    let second = Sender::start(stale);
    for _ in 0..8 {
        send_one(&second).await;
    }
    assert!(second.wait_for(13, PATIENCE).await, "{:?}", second.state());
    drop((first, second));
    let mut node = NodeClient::start(NodeOptions::from_the_beginning("n", &a.address));
    let mut got = Got::default();
    receive_until(&mut node, &mut got, "s", 13).await;
    got.assert_exact("s");
}

#[tokio::test]
async fn the_read_only_flag_refuses_senders_and_outlives_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let mut a = Relay::start(dir.path(), "a", None, &[]);
    let sender = Sender::start(SenderOptions::new("s", &a.address));
    send_upto(&sender, 5).await;
    assert!(is_ok(&a.ask(&Request::ReadOnly { on: true, epoch: 1 }).await));
    let late = send_one(&sender).await;
    assert!(!sender.wait_for(late, Duration::from_millis(300)).await);
    let probe = a.ask(&Request::Probe { id: "p".into() }).await;
    assert!(matches!(probe, Answer::Refused { reason: Reason::ReadOnly, .. }), "{probe:?}");
    let address = a.address.clone();
    a.kill();
    a = Relay::start_at(dir.path(), "a", &address);
    assert!(a.status().await.read_only);
    assert!(!sender.wait_for(late, Duration::from_millis(300)).await);
    let mut node = NodeClient::start(NodeOptions::from_the_beginning("n", &a.address));
    let mut got = Got::default();
    receive_until(&mut node, &mut got, "s", 5).await;
    assert!(is_ok(&a.ask(&Request::ReadOnly { on: false, epoch: 2 }).await));
    assert!(sender.wait_for(late, PATIENCE).await);
    let old = a.ask(&Request::ReadOnly { on: true, epoch: 1 }).await;
    assert!(matches!(old, Answer::Refused { reason: Reason::OldEpoch, .. }), "{old:?}");
}

#[tokio::test]
async fn a_slow_node_holds_up_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let a = Relay::start(dir.path(), "a", None, &[]);
    // Takes nothing from its connection at all.
    let slow = NodeClient::start(NodeOptions::from_the_beginning("slow", &a.address));
    let sender = Sender::start(SenderOptions::new("s", &a.address));
    let filler = Sender::start(SenderOptions::new("filler", &a.address));
    for _ in 0..400 {
        filler.send(vec![0; 100_000]).await.unwrap();
    }
    send_upto(&sender, 100).await;
    let mut quick =
        NodeClient::start(NodeOptions { after: Some(0), ..NodeOptions::from_the_beginning("quick", &a.address) });
    let watch = coroner::sys::clock::Stopwatch::start();
    while quick.state().last < Some(a.status().await.position) {
        assert!(watch.elapsed() < PATIENCE);
        let _ = tokio::time::timeout(Duration::from_millis(100), quick.next()).await;
    }
    // How much of it the kernel and the client's own queue hold is their matter; nobody waited for it.
    drop(slow);
}

#[tokio::test]
async fn a_node_that_is_too_far_behind_is_told_and_one_with_more_than_the_log_too() {
    let dir = tempfile::tempdir().unwrap();
    let a = Relay::start(dir.path(), "a", None, &["--segment-mib", "1", "--retain-mib", "4"]);
    let sender = Sender::start(SenderOptions::new("s", &a.address));
    for _ in 0..120 {
        let number = sender.send(vec![7; 100_000]).await.unwrap();
        assert!(sender.wait_for(number, PATIENCE).await);
    }
    let mut node = NodeClient::start(NodeOptions::from_the_beginning("n", &a.address));
    let told = tokio::time::timeout(PATIENCE, node.next()).await.unwrap();
    let Some(coroner::relay::client::Arrival::TooFarBehind { oldest }) = told else { panic!("{told:?}") };
    assert!(oldest > 1);
    node.skip_to(oldest - 1);
    assert!(matches!(
        tokio::time::timeout(PATIENCE, node.next()).await.unwrap(),
        Some(coroner::relay::client::Arrival::Messages(_))
    ));
    let ahead =
        NodeClient::start(NodeOptions { after: Some(1_000_000), ..NodeOptions::from_the_beginning("x", &a.address) });
    let watch = coroner::sys::clock::Stopwatch::start();
    while !matches!(ahead.state().refused, Some(Why::Ahead { .. })) {
        assert!(watch.elapsed() < PATIENCE, "{:?}", ahead.state());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // What was removed is still counted: the table of senders is in each segment.
    let mut a = a;
    let address = a.address.clone();
    a.kill();
    let a = Relay::start_at(dir.path(), "a", &address);
    let again = Sender::start(SenderOptions::new("s", &a.address));
    let number = again.send("more").await.unwrap();
    assert_eq!(number, 121);
}

#[tokio::test]
async fn garbage_on_the_port_harms_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let (a, _b) = pair(dir.path()).await;
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let mut idle = Vec::new();
    for round in 0..200_u64 {
        let Ok(mut stream) = TcpStream::connect(&a.address).await else { continue };
        let mut bytes: Vec<u8> = match round % 4 {
            // Somebody who may come, and then raves.
            0 => frame(1, br#"{"hello":"sender","name":"evil","epoch":0}"#),
            1 => frame(1, br#"{"hello":"node","name":"evil","after":0,"epoch":0}"#),
            2 => frame(1, br#"{"hello":"control"}"#),
            _ => Vec::new(),
        };
        for _ in 0..random() % 8 {
            let kind = u8::try_from(random() % 12).unwrap();
            let body: Vec<u8> = (0..random() % 200).map(|_| random().to_le_bytes()[0]).collect();
            bytes.extend(frame(kind, &body));
        }
        bytes.extend(random().to_le_bytes());
        let _ = stream.write_all(&bytes).await;
        if round % 10 == 0 {
            idle.push(stream);
        }
    }
    let sender = Sender::start(SenderOptions::new("s", &a.address));
    send_upto(&sender, 20).await;
    let mut control = Control::connect(&a.address, PATIENCE).await.unwrap();
    let status = control.ask(&Request::Status, PATIENCE).await.unwrap();
    assert!(is_ok(&status), "{status:?}");
    assert_eq!(a.status().await.corrupt, 0);
}

fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = u32::try_from(body.len() + 1).unwrap().to_le_bytes().to_vec();
    out.push(kind);
    out.extend_from_slice(body);
    out
}

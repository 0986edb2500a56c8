//! Kill -9 of the real process under load, again and again, with restart and with takeover.

use std::time::Duration;

use coroner::relay::client::{NodeClient, NodeOptions, Sender, SenderOptions};

use crate::lab::{Got, PATIENCE, Relay, is_ok, pair, receive_until, send_one};

/// Rounds; more by `CORONER_RELAY_ROUNDS`.
fn rounds() -> u64 {
    std::env::var("CORONER_RELAY_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(6)
}

#[tokio::test]
async fn kill_nine_and_restart_loses_nothing_acknowledged_and_doubles_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut a = Relay::start(dir.path(), "a", None, &["--segment-mib", "1"]);
    let address = a.address.clone();
    let sender = Sender::start(SenderOptions::new("s", &address));
    let mut node = NodeClient::start(NodeOptions::from_the_beginning("n", &address));
    let mut got = Got::default();
    send_one(&sender).await;
    for round in 1..=rounds() {
        let load = async {
            // Faster than it can be acknowledged: there is always something under way.
            while sender.state().acknowledged < round * 400 {
                for _ in 0..50 {
                    send_one(&sender).await;
                }
                while let Ok(Some(arrival)) = tokio::time::timeout(Duration::from_millis(1), node.next()).await {
                    got.take(arrival);
                }
            }
        };
        tokio::time::timeout(PATIENCE, load).await.unwrap();
        a.kill();
        a = Relay::start_at(dir.path(), "a", &address);
    }
    let last = sender.state().last;
    assert!(sender.wait_for(last, PATIENCE).await, "{:?}", sender.state());
    receive_until(&mut node, &mut got, "s", last).await;
    got.assert_exact("s");
    // From the log itself, by somebody new.
    let mut auditor = NodeClient::start(NodeOptions::from_the_beginning("auditor", &address));
    let mut kept = Got::default();
    receive_until(&mut auditor, &mut kept, "s", last).await;
    kept.assert_exact("s");
    assert_eq!(a.status().await.corrupt, 0);
}

#[tokio::test]
async fn kill_nine_and_takeover_in_turn_loses_nothing_acknowledged_and_doubles_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = pair(dir.path()).await;
    let (mut primary, mut shadow) = (("a", a), ("b", b));
    let sender = Sender::start(SenderOptions::new("s", &primary.1.address));
    let mut node = NodeClient::start(NodeOptions::from_the_beginning("n", &primary.1.address));
    let mut got = Got::default();
    send_one(&sender).await;
    for round in 1..=rounds() {
        let load = async {
            while sender.state().acknowledged < round * 300 {
                for _ in 0..50 {
                    send_one(&sender).await;
                }
                while let Ok(Some(arrival)) = tokio::time::timeout(Duration::from_millis(1), node.next()).await {
                    got.take(arrival);
                }
            }
        };
        tokio::time::timeout(PATIENCE, load).await.unwrap();
        primary.1.kill();
        let epoch = round + 1;
        let answer = shadow.1.promote(epoch).await;
        assert!(is_ok(&answer), "{answer:?}");
        assert!(sender.move_to(&shadow.1.address, epoch) && node.follow(&shadow.1.address, epoch));
        primary.1 = Relay::start(dir.path(), primary.0, None, &[]);
        let follow = coroner::relay::control::Request::Follow { primary: shadow.1.address.clone(), epoch };
        let answer = primary.1.ask(&follow).await;
        assert!(is_ok(&answer), "{answer:?}");
        std::mem::swap(&mut primary, &mut shadow);
    }
    // One in the last epoch, in which nothing may be left to send.
    send_one(&sender).await;
    let last = sender.state().last;
    assert!(sender.wait_for(last, PATIENCE).await, "{:?}", sender.state());
    receive_until(&mut node, &mut got, "s", last).await;
    got.assert_exact("s");
    assert_eq!(got.epochs.last(), Some(&(rounds() + 1)));
}

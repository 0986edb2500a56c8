//! The shadow takes over while the former primary is dead, paused, or alive; and the former primary comes back.

use std::time::Duration;

use coroner::relay::{
    client::{NodeClient, NodeOptions, Sender, SenderOptions},
    control::{Answer, Reason, Request, Role},
};
use nix::sys::signal::Signal;

use crate::lab::{Got, Relay, is_ok, pair, receive_until, send_one, send_upto};

#[tokio::test]
async fn nothing_is_lost_or_doubled_when_the_shadow_takes_over_from_one_that_lives() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = pair(dir.path()).await;
    let sender = Sender::start(SenderOptions::new("s", &a.address));
    let mut node = NodeClient::start(NodeOptions::from_the_beginning("n", &a.address));
    let mut got = Got::default();
    send_upto(&sender, 300).await;
    receive_until(&mut node, &mut got, "s", 100).await;
    for _ in 0..200 {
        send_one(&sender).await;
    }
    // The former primary is not asked and not stopped.
    let answer = b.promote(2).await;
    assert!(is_ok(&answer), "{answer:?}");
    a.until("it finds out", |s| s.role == Role::Retired && s.stored_epoch == 2).await;
    let refused = a.ask(&Request::Probe { id: "p".into() }).await;
    assert!(matches!(refused, Answer::Refused { reason: Reason::NotPrimary, .. }), "{refused:?}");
    assert!(sender.move_to(&b.address, 2) && node.follow(&b.address, 2));
    assert!(!sender.move_to(&a.address, 1) && !node.follow(&a.address, 1));
    send_upto(&sender, 600).await;
    receive_until(&mut node, &mut got, "s", 600).await;
    got.assert_exact("s");
    assert_eq!(got.epochs, [1, 2]);
    // The same order again is no other epoch, and an old one is refused.
    assert!(is_ok(&b.promote(2).await));
    let old = a.promote(2).await;
    assert!(matches!(old, Answer::Refused { reason: Reason::OldEpoch, .. }), "{old:?}");
}

#[tokio::test]
async fn a_paused_primary_acknowledges_nothing_after_it_wakes_up_and_what_it_wrote_is_set_apart() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = pair(dir.path()).await;
    let sender = Sender::start(SenderOptions::new("s", &a.address));
    send_upto(&sender, 50).await;
    b.until("the shadow has it", |s| s.position == 51 && s.lag_entries == 0).await;
    a.freeze();
    // These lie in the socket of the one that is paused.
    for _ in 0..30 {
        send_one(&sender).await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(is_ok(&b.promote(2).await));
    assert_eq!(b.status().await.position, 52);
    a.signal(Signal::SIGCONT);
    a.until("it finds out", |s| s.role == Role::Retired).await;
    assert!(!sender.wait_for(51, Duration::from_millis(500)).await, "it acknowledged after its end");
    let follow = Request::Follow { primary: b.address.clone(), epoch: 2 };
    let answer = a.ask(&follow).await;
    let Answer::Ok { set_apart: Some(entries), .. } = answer else { panic!("{answer:?}") };
    // Whether it wrote before it found out is a matter of which came first; if so, it is apart, with its report.
    if entries > 0 {
        let report = std::fs::read_to_string(dir.path().join("set-apart/a-1.json")).unwrap();
        assert!(report.contains("\"s\""), "{report}");
        assert!(std::fs::metadata(dir.path().join("set-apart/a-1.wal")).unwrap().len() > 0);
    }
    assert!(sender.move_to(&b.address, 2));
    send_upto(&sender, 100).await;
    let shadow = a.until("it follows", |s| s.role == Role::Shadow && s.is_linked && s.position == 102).await;
    assert_eq!((shadow.epoch, shadow.following.as_deref()), (2, Some(b.address.as_str())));
    // And back again.
    assert!(is_ok(&a.promote(3).await));
    let answer = b.ask(&Request::Follow { primary: a.address.clone(), epoch: 3 }).await;
    assert!(matches!(answer, Answer::Ok { set_apart: Some(0), .. }), "{answer:?}");
    assert!(sender.move_to(&a.address, 3));
    send_upto(&sender, 150).await;
    let mut node = NodeClient::start(NodeOptions::from_the_beginning("n", &a.address));
    let mut got = Got::default();
    receive_until(&mut node, &mut got, "s", 150).await;
    got.assert_exact("s");
    assert_eq!(got.epochs, [1, 2, 3]);
}

#[tokio::test]
async fn what_lies_beyond_the_beginning_of_the_next_epoch_is_read_by_nobody_and_set_apart() {
    let dir = tempfile::tempdir().unwrap();
    let (mut a, b) = pair(dir.path()).await;
    let sender = Sender::start(SenderOptions::new("s", &a.address));
    send_upto(&sender, 20).await;
    a.kill();
    assert!(is_ok(&b.promote(2).await));
    // What a former primary may do between its write and its look at the epoch file.
    use coroner::relay::entry::{Entry, EntryKind};
    let path =
        coroner::relay::list(dir.path()).unwrap().segments.into_iter().rfind(|s| s.header.epoch == 1).unwrap().path;
    let mut bytes = std::fs::read(&path).unwrap();
    let whole = bytes.len();
    for number in 21..=25 {
        let (sequence, payload) = (number + 1, b"divergent");
        Entry { epoch: 1, sequence, number, time_ms: 1, kind: EntryKind::Message, sender: "s", payload }
            .write(&mut bytes);
    }
    bytes.extend(b"torn");
    std::fs::write(&path, &bytes).unwrap();
    assert!(sender.move_to(&b.address, 2));
    send_upto(&sender, 40).await;
    let a = Relay::start(dir.path(), "a", None, &[]);
    assert_eq!(a.status().await.role, Role::Retired, "never primary by itself");
    let answer = a.ask(&Request::Follow { primary: b.address.clone(), epoch: 2 }).await;
    assert!(matches!(answer, Answer::Ok { set_apart: Some(5), .. }), "{answer:?}");
    assert_eq!(std::fs::read(&path).unwrap().len(), whole);
    assert_eq!(std::fs::read(dir.path().join("set-apart/a-1.wal")).unwrap(), bytes[whole..]);
    let report: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dir.path().join("set-apart/a-1.json")).unwrap()).unwrap();
    assert_eq!(report["sequences"], serde_json::json!([22, 26]));
    assert_eq!(report["senders"]["s"], serde_json::json!({ "messages": 5, "first": 21, "last": 25 }));
    a.until("it has the history", |s| s.position == 42 && s.corrupt == 0).await;
    let mut node = NodeClient::start(NodeOptions::from_the_beginning("n", &b.address));
    let mut got = Got::default();
    // `take` checks that no divergent payload comes.
    receive_until(&mut node, &mut got, "s", 40).await;
    got.assert_exact("s");
}

#[tokio::test]
async fn a_member_starts_as_what_it_was_and_two_processes_are_not_one_member() {
    let dir = tempfile::tempdir().unwrap();
    let (mut a, mut b) = pair(dir.path()).await;
    let twice = Relay::try_start(dir.path(), "a", "127.0.0.1:0", None, &[]);
    assert!(twice.err().unwrap().contains("another process"));
    b.kill();
    let b = Relay::start(dir.path(), "b", None, &[]);
    assert_eq!(b.status().await.following.as_deref(), Some(a.address.as_str()), "it remembers whom it followed");
    let address = a.address.clone();
    a.kill();
    let a = Relay::start_at(dir.path(), "a", &address);
    assert_eq!(a.status().await.role, Role::Primary, "it is the recorded primary of the present epoch");
    b.until("linked again", |s| s.is_linked).await;
}

/// Each restart of a primary begins a segment, and one that nothing was written to used to be replaced by a new file of the
/// same name. A shadow that had the former one open waited at its end for ever, called itself replaying and not behind, and
/// when it was promoted, what had been acknowledged since was beyond its epoch.
#[tokio::test]
async fn a_shadow_reads_on_in_a_segment_that_was_empty_when_the_primary_was_restarted() {
    let dir = tempfile::tempdir().unwrap();
    let (mut a, b) = pair(dir.path()).await;
    let address = a.address.clone();
    for _ in 0..2 {
        a.kill();
        a = Relay::start_at(dir.path(), "a", &address);
        // Longer than until the shadow looks which segments there are.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let sender = Sender::start(SenderOptions::new("s", &address));
    send_upto(&sender, 20).await;
    b.until("it has it", |s| s.position == 21).await;
    assert!(is_ok(&b.promote(2).await));
    let mut node = NodeClient::start(NodeOptions::from_the_beginning("n", &b.address));
    let mut got = Got::default();
    receive_until(&mut node, &mut got, "s", 20).await;
    got.assert_exact("s");
}

#[tokio::test]
async fn a_shadow_says_how_far_it_is_behind_and_catches_up_when_told() {
    let dir = tempfile::tempdir().unwrap();
    let a = Relay::start(dir.path(), "a", None, &[]);
    let b = Relay::start(dir.path(), "b", Some(&a.address), &["--replay-delay-ms", "3600000"]);
    let sender = Sender::start(SenderOptions::new("s", &a.address));
    send_upto(&sender, 40).await;
    let behind = b.until("it is behind", |s| s.lag_entries == 41 && s.lag_ms > 0).await;
    assert!(behind.is_linked && behind.position == 0);
    let answer = b.ask(&Request::CatchUp { upto: None, within_ms: 30_000 }).await;
    assert!(matches!(answer, Answer::Ok { replayed: Some(41), .. }), "{answer:?}");
    b.until("it is not behind", |s| s.lag_entries == 0 && s.lag_ms == 0).await;
}

#[tokio::test]
async fn corruption_inside_the_log_is_reported_and_nobody_is_promoted_over_it() {
    let dir = tempfile::tempdir().unwrap();
    let (mut a, mut b) = pair(dir.path()).await;
    let sender = Sender::start(SenderOptions::new("s", &a.address));
    send_upto(&sender, 30).await;
    a.kill();
    b.kill();
    let path = coroner::relay::list(dir.path()).unwrap().segments.pop().unwrap().path;
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let b = Relay::start(dir.path(), "b", None, &[]);
    let status = b.until("it is found", |s| s.corrupt == 1).await;
    assert!(!status.is_linked && status.position < 30);
    let answer = b.promote(2).await;
    assert!(matches!(answer, Answer::Refused { reason: Reason::Storage, .. }), "{answer:?}");
    let a = Relay::start(dir.path(), "a", None, &[]);
    let status = a.status().await;
    assert_eq!((status.role, status.corrupt, status.stored_epoch), (Role::Retired, 1, 1));
}

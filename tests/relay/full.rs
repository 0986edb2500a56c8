//! The storage is full: a small file system in memory, in a mount of its own.

use std::{path::Path, time::Duration};

use coroner::{
    relay::{
        Why,
        client::{NodeClient, NodeOptions, Sender, SenderOptions},
        control::{Answer, Reason, Request, Role},
    },
    sys::clock::Stopwatch,
};
use tempfile::TempDir;

use crate::lab::{Got, PATIENCE, Relay, is_ok, send_upto};

/// A file system of so many KiB. Unmounted when dropped.
struct Small(TempDir);

impl Small {
    fn mount(kib: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={kib}k");
        let status = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "relay-test"])
            .arg(dir.path())
            .status();
        assert!(status.unwrap().success(), "a tmpfs cannot be mounted: run the tests as root");
        Self(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_storage_refuses_senders_serves_nodes_and_recovers() {
    let small = Small::mount(1_024);
    let ballast = small.path().join("ballast");
    std::fs::write(&ballast, vec![0; 400 * 1024]).unwrap();
    let own = tempfile::tempdir().unwrap();
    let a = Relay::start(small.path(), "a", None, &["--own", own.path().to_str().unwrap()]);
    let sender = Sender::start(SenderOptions::new("s", &a.address));
    send_upto(&sender, 50).await;
    let filler = Sender::start(SenderOptions::new("filler", &a.address));
    for _ in 0..40 {
        filler.send(vec![1; 50_000]).await.unwrap();
    }
    let watch = Stopwatch::start();
    while filler.state().refused != Some(Why::StorageFull) {
        assert!(watch.elapsed() < PATIENCE, "{:?}", filler.state());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let taken = filler.state().acknowledged;
    assert!(taken < 40);
    // A large message did not fit; a small one may, until none does.
    let mut refused = None;
    for n in 0..1_000 {
        match a.ask(&Request::Probe { id: format!("{n}{}", "x".repeat(1_000)) }).await {
            Answer::Ok { .. } => {}
            other => {
                refused = Some(other);
                break;
            }
        }
    }
    assert!(matches!(refused, Some(Answer::Refused { reason: Reason::StorageFull, .. })), "{refused:?}");
    let mut node = NodeClient::start(NodeOptions::from_the_beginning("n", &a.address));
    let mut got = Got::default();
    while got.last("s") < 50 {
        assert!(watch.elapsed() < PATIENCE);
        if let Ok(Some(coroner::relay::client::Arrival::Messages(messages))) =
            tokio::time::timeout(Duration::from_millis(100), node.next()).await
        {
            let ours = messages.into_iter().filter(|m| m.sender == "s").collect();
            got.take(coroner::relay::client::Arrival::Messages(ours));
        }
    }
    assert_eq!(a.status().await.role, Role::Primary);
    std::fs::remove_file(&ballast).unwrap();
    assert!(is_ok(&a.ask(&Request::Probe { id: "p".into() }).await));
    let watch = Stopwatch::start();
    while filler.state().acknowledged == taken {
        assert!(watch.elapsed() < PATIENCE, "{:?}", filler.state());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(a.status().await.corrupt, 0);
    drop(filler);
    let mut a = a;
    let address = a.address.clone();
    a.kill();
    let kept = Relay::try_start(small.path(), "a", &address, None, &["--own", own.path().to_str().unwrap()]).unwrap();
    let mut node = NodeClient::start(NodeOptions::from_the_beginning("n2", &kept.address));
    let mut all = Got::default();
    let only_ours = async {
        while all.last("s") < 50 {
            if let Some(coroner::relay::client::Arrival::Messages(messages)) = node.next().await {
                let ours = messages.into_iter().filter(|m| m.sender == "s").collect();
                all.take(coroner::relay::client::Arrival::Messages(ours));
            }
        }
    };
    tokio::time::timeout(PATIENCE, only_ours).await.unwrap();
    all.assert_exact("s");
}

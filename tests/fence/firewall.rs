//! The `firewall` method against real nftables and real connections, in a network namespace of its own.

use coroner::{
    fence::{AnyFence, firewall::Firewall},
    model::{FenceVerdict, Proof},
};

use crate::lab::{LONG, Namespace, build, order_at, target};

/// Echoes lines on a port, IPv4 and IPv6, each connection in its own thread; prints the port.
const SERVER: &str = r#"
import socket, threading
s = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
print(s.getsockname()[1])
def talk(c):
    f = c.makefile("rw")
    for line in f:
        f.write(line); f.flush()
while True:
    c, _ = s.accept()
    threading.Thread(target=talk, args=(c,), daemon=True).start()
"#;

/// Opens a connection and says `open`; then answers each line with `echo`, or with `silence` after a second.
const CLIENT: &str = r#"
import socket, sys
source = (sys.argv[3], 0) if len(sys.argv) > 3 else None
try:
    c = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=1, source_address=source)
    print("open")
except OSError:
    print("closed")
    sys.exit()
f = c.makefile("rw")
for line in sys.stdin:
    try:
        f.write(line); f.flush()
        print("echo" if f.readline() == line else "silence")
    except OSError:
        print("silence")
"#;

#[tokio::test]
async fn h2_established_and_new_connections_are_cut_over_both_protocols() {
    let namespace = Namespace::new().await;
    let mut server = namespace.python(SERVER, &[]);
    let port = server.hear();
    let connect = |address: &str, source: &[&str]| {
        let mut client = namespace.python(CLIENT, &[&[address, &port], source].concat());
        let state = client.hear();
        (client, state)
    };
    let mut open: Vec<_> = ["127.0.0.1", "::1"].iter().map(|address| connect(address, &[]).0).collect();
    let mut arbiter = connect("127.0.0.1", &["127.0.0.2"]).0;
    assert!(open.iter_mut().all(|c| c.say("before") == "echo"));

    let address = format!("127.0.0.1:{port}");
    let config =
        Firewall { via: namespace.via(), allow: vec!["127.0.0.2".into(), "fd00::/64".into()], ..Firewall::default() };
    let fence = build(AnyFence::Firewall(config.clone()));
    let health = fence.check(&target(&address), LONG).await;
    assert_eq!(health.usable, Some(true), "{}", health.detail);
    assert_eq!(namespace.output(&["nft", "list", "ruleset"]), "", "a check leaves nothing behind");
    assert!(open.iter_mut().all(|c| c.say("checked") == "echo"));

    let report = fence.fence(&order_at(&address, 7), LONG).await;
    assert_eq!((report.verdict, report.proof), (FenceVerdict::Confirmed, Proof::Gate), "{}", report.detail);
    for client in &mut open {
        assert_eq!(client.say("after"), "silence");
    }
    for address in ["127.0.0.1", "::1"] {
        assert_eq!(connect(address, &[]).1, "closed", "{address}");
    }
    assert_eq!(arbiter.say("after"), "silence", "the arbiter meets what clients meet: its forbidden write shows it");
    assert_eq!(connect("127.0.0.1", &["127.0.0.2"]).1, "closed");

    // Another process knows the epoch from the comment alone.
    let other = build(AnyFence::Firewall(config));
    let ruleset = namespace.output(&["nft", "list", "ruleset"]);
    assert!(ruleset.contains("coroner_fence_orders_broker_a") && ruleset.contains("epoch=7"), "{ruleset}");
    let old = other.fence(&order_at(&address, 6), LONG).await;
    assert_eq!(old.verdict, FenceVerdict::Refuted, "{}", old.detail);
    assert!(!other.unfence(&order_at(&address, 6), LONG).await.unwrap_err().may_have_happened);
    let again = other.fence(&order_at(&address, 7), LONG).await;
    assert_eq!((again.verdict, again.proof), (FenceVerdict::Confirmed, Proof::Gate), "{}", again.detail);
    assert_eq!(namespace.output(&["nft", "list", "ruleset"]), ruleset);

    // After the promotion the arbiter is let in, twice as once, and nobody else.
    assert!(!other.admit(&order_at(&address, 6), LONG).await.unwrap_err().may_have_happened);
    for _ in 0..2 {
        other.admit(&order_at(&address, 7), LONG).await.unwrap();
        assert_eq!(connect("127.0.0.1", &["127.0.0.2"]).1, "open");
        assert_eq!(connect("127.0.0.1", &[]).1, "closed");
        assert_eq!(connect("::1", &[]).1, "closed");
    }

    // Somebody weakened it: that is seen, and put right.
    namespace.output(&["nft", "flush", "chain", "inet", "coroner_fence_orders_broker_a", "input"]);
    let repaired = other.fence(&order_at(&address, 8), LONG).await;
    assert_eq!(repaired.verdict, FenceVerdict::Confirmed, "{}", repaired.detail);
    assert_eq!(connect("127.0.0.1", &[]).1, "closed");

    for _ in 0..2 {
        other.unfence(&order_at(&address, 8), LONG).await.unwrap();
        assert_eq!(namespace.output(&["nft", "list", "ruleset"]), "");
    }
    assert_eq!(connect("127.0.0.1", &[]).1, "open");
}

/// A lying `nft`: exit 0, nothing done. What is read back counts.
#[tokio::test]
async fn h2_an_nft_that_does_nothing_is_refuted() {
    let namespace = Namespace::new().await;
    let dir = tempfile::tempdir().unwrap();
    let lie = crate::lab::script(
        dir.path(),
        "lie",
        &format!("#!/bin/sh\ncase \"$*\" in *-f*) exit 0;; esac\nexec {} \"$@\"\n", namespace.via().join(" ")),
    );
    let fence = build(AnyFence::Firewall(Firewall { via: vec![lie], ..Firewall::default() }));
    let report = fence.fence(&order_at("127.0.0.1:6379", 1), LONG).await;
    assert_eq!(report.verdict, FenceVerdict::Refuted, "{}", report.detail);
}

#[tokio::test]
async fn a_table_of_somebody_elses_is_left_alone() {
    let namespace = Namespace::new().await;
    let fence = build(AnyFence::Firewall(Firewall { via: namespace.via(), ..Firewall::default() }));
    let mut first = order_at("127.0.0.1:6379", 1);
    first.target.member = "broker-a".into();
    let mut second = order_at("127.0.0.1:6380", 9);
    second.target.member = "broker_a".into();
    assert_eq!(fence.fence(&first, LONG).await.verdict, FenceVerdict::Confirmed);
    let before = namespace.output(&["nft", "list", "ruleset"]);
    let report = fence.fence(&second, LONG).await;
    assert_eq!(report.verdict, FenceVerdict::Refuted, "{}", report.detail);
    assert!(report.detail.contains("belongs to orders/broker-a"), "{}", report.detail);
    assert!(fence.unfence(&second, LONG).await.is_err());
    assert_eq!(namespace.output(&["nft", "list", "ruleset"]), before);
}

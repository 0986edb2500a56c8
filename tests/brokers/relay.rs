//! The same promises of the kind `relay`, on real relay processes over one storage.

use std::{
    io::Write as _,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use coroner::{
    broker::{Ask, Listen, relay::Relay},
    model::{FenceVerdict, Proof, Role, WriteOutcome},
    relay::client::{Sender, SenderOptions},
    sys::clock::Stopwatch,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use super::{freeze::freeze, *};

const ALL: [Ask; 5] = [Ask::Ping, Ask::Role, Ask::Position, Ask::ReplicationLink, Ask::Write];

/// A relay process in a session of its own; killed when dropped.
struct Member {
    name: &'static str,
    address: SocketAddr,
    child: Child,
}

impl Member {
    fn start(dir: &Path, name: &'static str, follow: Option<SocketAddr>) -> Self {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        Self { name, address: port, child: spawn(dir, name, port, follow) }
    }

    fn target(&self) -> Target {
        Target { cluster: "messages".into(), member: self.name.into(), address: self.address.to_string() }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    fn freeze(&self) {
        freeze(self.child.id());
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn restart(&mut self, dir: &Path) {
        self.kill();
        self.child = spawn(dir, self.name, self.address, None);
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(dir: &Path, name: &str, at: SocketAddr, follow: Option<SocketAddr>) -> Child {
    let mut command = Command::new("setsid");
    command.arg(env!("CARGO_BIN_EXE_coroner")).args([
        "relay",
        "serve",
        "--name",
        name,
        "--listen",
        &at.to_string(),
        "--storage",
    ]);
    command.arg(dir.join("storage")).stdin(Stdio::null());
    if let Some(primary) = follow {
        command.args(["--follow", &primary.to_string()]);
    }
    let log = std::fs::File::options().create(true).append(true).open(dir.join(format!("{name}.log"))).unwrap();
    command.stdout(log.try_clone().unwrap()).stderr(log);
    command.spawn().expect("setsid is needed: apt-get install util-linux")
}

fn kind() -> Box<dyn Broker> {
    AnyBroker::Relay(Relay {}).build().unwrap()
}

/// A primary `a` and its linked shadow `b`.
async fn pair() -> (TempDir, Member, Member) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("storage")).unwrap();
    let a = Member::start(dir.path(), "a", None);
    is(&a, Role::Primary).await;
    let b = Member::start(dir.path(), "b", Some(a.address));
    linked(&b).await;
    (dir, a, b)
}

async fn is(member: &Member, role: Role) {
    eventually(&format!("{} is {role}", member.name), || async {
        matches!(kind().ask(Ask::Role, &member.target(), SOON).await, Outcome::Fact(Fact::Role(r)) if r.role == role)
    })
    .await;
}

async fn linked(member: &Member) {
    eventually(&format!("{} is linked", member.name), || async {
        matches!(
            kind().ask(Ask::ReplicationLink, &member.target(), SOON).await,
            Outcome::Fact(Fact::Link { up: true, .. })
        )
    })
    .await;
}

async fn position(member: &Member) -> u64 {
    let Fact::Position { position } = fact(kind().ask(Ask::Position, &member.target(), SOON).await) else { panic!() };
    position
}

/// Sends messages and waits until all are acknowledged.
async fn send(to: &Member, name: &str, count: u64) {
    let sender = Sender::start(SenderOptions::new(name, &to.address.to_string()));
    let mut last = 0;
    for n in 0..count {
        last = sender.send(format!("message {n}")).await.unwrap();
    }
    assert!(sender.wait_for(last, SOON).await, "{:?}", sender.state());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_pair_tells_what_it_is() {
    let (_dir, a, b) = pair().await;
    let (broker, at_a, at_b) = (kind(), a.target(), b.target());
    assert!(matches!(fact(broker.ask(Ask::Ping, &at_a, SOON).await), Fact::Ok { latency } if latency < SOON));
    let Fact::Role(primary) = fact(broker.ask(Ask::Role, &at_a, SOON).await) else { panic!() };
    let Fact::Role(shadow) = fact(broker.ask(Ask::Role, &at_b, SOON).await) else { panic!() };
    assert_eq!((primary.role, primary.epoch, primary.link_up), (Role::Primary, Some(Epoch(1)), None));
    assert_eq!((shadow.role, shadow.epoch, shadow.link_up), (Role::Standby, Some(Epoch(1)), Some(true)));
    assert_eq!(shadow.follows, Some(at_a.address.clone()));
    assert_eq!(fact(broker.ask(Ask::Write, &at_a, SOON).await), Fact::Writable(true));
    assert_eq!(fact(broker.ask(Ask::Write, &at_b, SOON).await), Fact::Writable(false));
    send(&a, "s", 100).await;
    let end = position(&a).await;
    assert!(end > 100, "{end}");
    eventually("the shadow replays", || async { position(&b).await >= end }).await;
    assert_eq!(
        fact(broker.ask(Ask::ReplicationLink, &at_a, SOON).await),
        Fact::Link { up: false, last_io: None },
        "a primary follows nobody"
    );
    assert!(broker.send_canary(&at_a, "canary", SOON).await.is_ok());
    assert_eq!(broker.send_canary(&at_b, "canary", SOON).await.unwrap_err().kind, FailureKind::ReadOnly);
    assert_eq!(broker.stored_epoch(&at_b, SOON).await, Some(Epoch(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_and_strange_ones_are_told_apart() {
    let (_dir, mut a, b) = pair().await;
    let (broker, at_a, at_b) = (kind(), a.target(), b.target());
    a.kill();
    for ask in ALL {
        assert_eq!(failure(broker.ask(ask, &at_a, SOON).await), FailureKind::Refused, "{ask:?}");
    }
    assert_eq!(broker.stored_epoch(&at_a, SOON).await, None);
    eventually("the link is down", || async {
        matches!(fact(broker.ask(Ask::ReplicationLink, &at_b, SOON).await), Fact::Link { up: false, .. })
    })
    .await;
    // Who answers in other words says nothing of the relay.
    let stranger = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let at = Target { address: stranger.local_addr().unwrap().to_string(), ..at_a };
    std::thread::spawn(move || {
        for client in stranger.incoming() {
            let mut client = client.unwrap();
            client.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
            // Read to the end: closing with bytes unread would reset the connection before they arrive.
            let _ = std::io::copy(&mut client, &mut std::io::sink());
        }
    });
    for ask in ALL {
        assert_eq!(failure(broker.ask(ask, &at, SOON).await), FailureKind::Parse, "{ask:?}");
    }
}

/// P5, H1: a frozen process still accepts connections. Every call ends by its deadline, and nothing was done.
#[tokio::test(flavor = "multi_thread")]
async fn p5_every_call_ends_by_its_deadline_on_a_frozen_relay() {
    let (_dir, a, b) = pair().await;
    let (broker, at_a, at_b) = (kind(), a.target(), b.target());
    let order_of = |at: &Target| Order { target: at.clone(), epoch: Epoch(2), incident: "01TEST".into() };
    broker.hold_open(&at_a, SOON).await;
    a.freeze();
    let watch = Stopwatch::start();
    for ask in ALL {
        assert_eq!(failure(broker.ask(ask, &at_a, SHORT).await), FailureKind::TimedOut, "{ask:?}");
    }
    assert_eq!(broker.send_canary(&at_a, "x", SHORT).await.unwrap_err().kind, FailureKind::TimedOut);
    for _ in 0..2 {
        let attempt = broker.forbidden_write(&order_of(&at_a), SHORT).await;
        assert_eq!((attempt.on_new, attempt.on_open), (WriteOutcome::NoAnswer, Some(WriteOutcome::NoAnswer)));
    }
    assert_eq!(broker.make_read_only(&order_of(&at_a), SHORT).await.verdict, FenceVerdict::Refuted);
    for act in [
        broker.make_writable(&order_of(&at_a), SHORT).await,
        broker.catch_up(&order_of(&at_a), None, SHORT).await,
        broker.promote(&order_of(&at_a), SHORT).await,
        broker.follow(&order_of(&at_a), &at_b, None, SHORT).await,
        broker.follow(&order_of(&at_b), &at_a, None, SHORT).await,
    ] {
        assert!(!act.unwrap_err().may_have_happened);
    }
    assert!(watch.elapsed() < SHORT * 25, "{:?}", watch.elapsed());
    a.signal(Signal::SIGCONT);
    assert!(matches!(fact(broker.ask(Ask::Ping, &at_a, SOON).await), Fact::Ok { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_flag_binds_new_and_open_connections_and_a_stale_order_moves_nothing() {
    let (dir, mut a, b) = pair().await;
    let (broker, at_a) = (kind(), a.target());
    let order = |epoch| Order { target: a.target(), epoch: Epoch(epoch), incident: "01TEST".into() };
    broker.hold_open(&at_a, SOON).await;
    let before = broker.forbidden_write(&order(2), SOON).await;
    assert_eq!((before.on_new, before.on_open), (WriteOutcome::Accepted, Some(WriteOutcome::Accepted)));
    let report = broker.make_read_only(&order(1), SOON).await;
    assert_eq!(report.verdict, FenceVerdict::Refuted, "in the name of its own epoch: {report:?}");
    for _ in 0..2 {
        let report = broker.make_read_only(&order(2), SOON).await;
        assert_eq!((report.verdict, report.proof), (FenceVerdict::Confirmed, Proof::ReadBack), "{report:?}");
        assert!(broker.forbidden_write(&order(2), SOON).await.is_refused_twice());
    }
    assert_eq!(fact(broker.ask(Ask::Write, &at_a, SOON).await), Fact::Writable(false));
    assert!(!broker.make_writable(&order(1), SOON).await.unwrap_err().may_have_happened, "a stale order");
    for _ in 0..2 {
        broker.make_writable(&order(2), SOON).await.unwrap();
        assert_eq!(fact(broker.ask(Ask::Write, &at_a, SOON).await), Fact::Writable(true));
    }
    // A connection that broke before the fence proves nothing afterwards.
    a.restart(dir.path());
    eventually("it answers again", || async { broker.stored_epoch(&at_a, SOON).await.is_some() }).await;
    broker.hold_open(&at_a, SOON).await;
    let order = Order { target: b.target(), epoch: Epoch(2), incident: "01TEST".into() };
    assert_eq!(broker.forbidden_write(&order, SOON).await.on_open, None, "none was held at the shadow");
}

/// Promotion, the way back, and what the old one had written for nobody.
#[tokio::test(flavor = "multi_thread")]
async fn promotion_stores_the_epoch_and_the_old_one_follows() {
    let (dir, mut a, mut b) = pair().await;
    let (broker, at_a, at_b) = (kind(), a.target(), b.target());
    let order = |at: &Target, epoch| Order { target: at.clone(), epoch: Epoch(epoch), incident: "01TEST".into() };
    send(&a, "s", 200).await;
    let end = position(&a).await;
    a.kill();
    let caught_up = broker.catch_up(&order(&at_b, 2), Some(end), SOON).await.unwrap();
    assert!(caught_up.position >= Some(end), "{caught_up:?}");
    // What is not in the log is not waited for beyond the deadline.
    let short = broker.catch_up(&order(&at_b, 2), Some(end * 2), SHORT).await.unwrap();
    assert!(short.detail.contains("short of"), "{short:?}");
    let done = broker.promote(&order(&at_b, 2), SOON).await.unwrap();
    assert!(done.position > Some(end), "{done:?}");
    is(&b, Role::Primary).await;
    broker.promote(&order(&at_b, 2), SOON).await.unwrap();
    let error = broker.promote(&order(&at_b, 1), SOON).await.unwrap_err();
    assert!(!error.may_have_happened && error.detail.contains("epoch 2"), "{error}");

    // A restart keeps it; the old one comes back and is nobody.
    b.restart(dir.path());
    is(&b, Role::Primary).await;
    assert_eq!(broker.stored_epoch(&at_b, SOON).await, Some(Epoch(2)));
    a.restart(dir.path());
    is(&a, Role::Standby).await;
    assert_eq!(fact(broker.ask(Ask::Write, &at_a, SOON).await), Fact::Writable(false));
    let error = broker.promote(&order(&at_a, 2), SOON).await.unwrap_err();
    assert!(!error.may_have_happened, "another is primary of this epoch: {error}");

    for (order, primary) in [(order(&at_b, 2), &at_a), (order(&at_a, 2), &at_a), (order(&at_a, 1), &at_b)] {
        let error = broker.follow(&order, primary, None, SOON).await.unwrap_err();
        assert!(!error.may_have_happened, "{error}");
    }
    let followed = broker.follow(&order(&at_a, 2), &at_b, done.position, SOON).await.unwrap();
    assert_eq!(followed.divergent, Some(0), "{followed:?}");
    linked(&a).await;
    let again = broker.follow(&order(&at_a, 2), &at_b, done.position, SOON).await.unwrap();
    assert!(again.detail.contains("already"), "{again:?}");
    // And back.
    broker.promote(&order(&at_a, 3), SOON).await.unwrap();
    is(&a, Role::Primary).await;
    broker.follow(&order(&at_b, 3), &at_a, None, SOON).await.unwrap();
    send(&a, "t", 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn listening_counts_what_a_node_gets_and_ends_with_the_primary() {
    let (_dir, mut a, b) = pair().await;
    let (broker, came) = (kind(), AtomicU64::new(0));
    let all = Listen::Channels(vec!["any".into()]);
    let count = |n| {
        came.fetch_add(n, Relaxed);
    };
    let at_a = a.target();
    let work = async {
        // Whoever listens hears from now on: sent until something is heard.
        for round in 0..200 {
            send(&a, &format!("s{round}"), 5).await;
            if came.load(Relaxed) > 0 {
                break;
            }
        }
        assert!(came.load(Relaxed) > 0);
        a.kill();
    };
    let (ended, ()) = futures::join!(tokio::time::timeout(SOON, broker.listen(&at_a, &all, &count)), work);
    assert!(ended.is_ok(), "the end of the primary is found out");
    let failure = tokio::time::timeout(SOON, broker.listen(&b.target(), &all, &count)).await.unwrap();
    assert!(failure.text.contains("no primary"), "{failure}");
}

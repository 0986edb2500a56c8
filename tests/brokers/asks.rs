//! Questions: facts when it is well, failures under their own name when it is not.

use coroner::{broker::Ask, model::Role};

use super::*;

const ALL: [Ask; 5] = [Ask::Ping, Ask::Role, Ask::Position, Ask::ReplicationLink, Ask::Write];

#[tokio::test]
async fn a_healthy_pair_tells_what_it_is() {
    let (a, b) = pair();
    let (at_a, at_b) = (target("a", &a), target("b", &b));
    let broker = broker();

    assert!(matches!(fact(broker.ask(Ask::Ping, &at_a, SOON).await), Fact::Ok { latency } if latency < SOON));
    let Fact::Role(primary) = fact(broker.ask(Ask::Role, &at_a, SOON).await) else { panic!() };
    let Fact::Role(standby) = fact(broker.ask(Ask::Role, &at_b, SOON).await) else { panic!() };
    assert_eq!((primary.role, primary.epoch), (Role::Primary, None));
    assert_eq!(standby.role, Role::Standby);
    assert_eq!(standby.follows.as_deref(), Some(&*a.address()));
    assert_eq!((standby.link_up, standby.priority), (Some(true), Some(100)));
    assert!(primary.lineage.is_some() && primary.lineage == standby.lineage);
    assert!(primary.position.unwrap() > 0);
    assert!(standby.position.unwrap() > 0);

    assert_eq!(fact(broker.ask(Ask::Write, &at_a, SOON).await), Fact::Writable(true));
    assert_eq!(fact(broker.ask(Ask::Write, &at_b, SOON).await), Fact::Writable(false));
    assert!(matches!(fact(broker.ask(Ask::Position, &at_b, SOON).await), Fact::Position { position } if position > 0));
    assert!(matches!(
        fact(broker.ask(Ask::ReplicationLink, &at_b, SOON).await),
        Fact::Link { up: true, last_io: Some(_) }
    ));
    assert_eq!(
        fact(broker.ask(Ask::ReplicationLink, &at_a, SOON).await),
        Fact::Link { up: false, last_io: None },
        "a primary follows nobody"
    );
}

#[tokio::test]
async fn a_link_goes_down_with_its_primary() {
    let (mut a, b) = pair();
    a.kill();
    let (broker, at_b) = (broker(), target("b", &b));
    eventually("the link is down", || async {
        matches!(fact(broker.ask(Ask::ReplicationLink, &at_b, SOON).await), Fact::Link { up: false, .. })
    })
    .await;
    // What it has it still knows.
    assert!(matches!(fact(broker.ask(Ask::Position, &at_b, SOON).await), Fact::Position { position } if position > 0));
}

#[tokio::test]
async fn nothing_listening_is_refused() {
    let mut a = RedisServer::start();
    let at_a = target("a", &a);
    a.kill();
    for ask in ALL {
        assert_eq!(failure(broker().ask(ask, &at_a, SOON).await), FailureKind::Refused, "{ask:?}");
    }
    assert_eq!(broker().stored_epoch(&at_a, SOON).await, None);
}

/// P5, H1: a frozen process still accepts connections. Every call ends by its deadline.
#[tokio::test]
async fn p5_every_call_ends_by_its_deadline_on_a_frozen_server() {
    let (a, b) = pair();
    let (at_a, at_b) = (target("a", &a), target("b", &b));
    a.freeze();
    let broker = broker();
    let order_a = order(&at_a, 2);
    let watch = coroner::sys::clock::Stopwatch::start();
    for ask in ALL {
        assert_eq!(failure(broker.ask(ask, &at_a, SHORT).await), FailureKind::TimedOut, "{ask:?}");
    }
    assert_eq!(broker.send_canary(&at_a, "x", SHORT).await.unwrap_err().kind, FailureKind::TimedOut);
    broker.hold_open(&at_a, SHORT).await;
    assert_eq!(broker.stored_epoch(&at_a, SHORT).await, None);
    let attempt = broker.forbidden_write(&order_a, SHORT).await;
    assert!(!attempt.is_accepted() && !attempt.is_refused_twice(), "{attempt:?}");
    let fence = broker.make_read_only(&order_a, SHORT).await;
    assert_eq!(fence.verdict, coroner::model::FenceVerdict::Refuted, "{fence:?}: nothing was done");
    for act in [
        broker.make_writable(&order_a, SHORT).await,
        broker.catch_up(&order_a, None, SHORT).await,
        broker.promote(&order_a, SHORT).await,
        broker.follow(&order_a, &at_b, None, SHORT).await,
        broker.follow(&order(&at_b, 2), &at_a, None, SHORT).await,
    ] {
        assert!(!act.unwrap_err().may_have_happened);
    }
    assert!(watch.elapsed() < SHORT * 20, "{:?}", watch.elapsed());
    a.thaw();
    assert!(matches!(fact(broker.ask(Ask::Ping, &at_a, SOON).await), Fact::Ok { .. }));
}

#[tokio::test]
async fn passwords() {
    let a = RedisServer::with_password("right");
    let at_a = target("a", &a);
    let with = |user: Option<&str>, password: &str| {
        broker_of(Redis {
            user: user.map(Into::into),
            password: Some(Secret::new(password.into())),
            ..Redis::default()
        })
    };
    for broker in [with(None, "right"), with(Some("default"), "right")] {
        assert_eq!(fact(broker.ask(Ask::Write, &at_a, SOON).await), Fact::Writable(true));
    }
    for broker in [broker(), with(None, "wr0ng"), with(Some("nobody"), "right")] {
        for ask in ALL {
            let outcome = broker.ask(ask, &at_a, SOON).await;
            assert!(!format!("{outcome:?}").contains("wr0ng"), "the secret is not told");
            assert_eq!(failure(outcome), FailureKind::Auth, "{ask:?}");
        }
    }
    // A user that may only look.
    a.command(&["ACL", "SETUSER", "looker", "on", ">right", "~*", "+ping", "+info"]);
    let looker = with(Some("looker"), "right");
    assert!(matches!(fact(looker.ask(Ask::Role, &at_a, SOON).await), Fact::Role(_)));
    assert_eq!(failure(looker.ask(Ask::Write, &at_a, SOON).await), FailureKind::Auth);
    let error = looker.promote(&order(&at_a, 1), SOON).await.unwrap_err();
    assert!(!error.may_have_happened, "{error}");
    // A password where none is asked for.
    let open = RedisServer::start();
    let at_open = target("open", &open);
    assert_eq!(failure(with(Some("someone"), "right").ask(Ask::Ping, &at_open, SOON).await), FailureKind::Auth);
}

/// P9: it answers those who are connected already, but nobody new.
#[tokio::test]
async fn p9_a_connection_limit_is_overload() {
    let a = RedisServer::start();
    let mut first = a.client();
    assert!(first.command(&["CONFIG", "SET", "maxclients", "1"]).unwrap().contains("OK"));
    let at_a = target("a", &a);
    for _ in 0..5 {
        assert_eq!(failure(broker().ask(Ask::Ping, &at_a, SOON).await), FailureKind::Overloaded);
    }
}

/// P9: reading works, writing does not.
#[tokio::test]
async fn p9_full_memory_is_full_and_not_read_only() {
    let a = RedisServer::start();
    a.command(&["CONFIG", "SET", "maxmemory", "1"]);
    let at_a = target("a", &a);
    assert!(matches!(fact(broker().ask(Ask::Ping, &at_a, SOON).await), Fact::Ok { .. }));
    assert_eq!(failure(broker().ask(Ask::Write, &at_a, SOON).await), FailureKind::Full);
    let error = broker().promote(&order(&at_a, 1), SOON).await.unwrap_err();
    assert!(error.may_have_happened && error.detail.contains("takes no write"), "{error}");
}

#[tokio::test]
async fn what_is_not_redis_is_a_parse_failure() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serve = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt as _;
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await;
            tokio::spawn(async move { tokio::io::copy(&mut stream, &mut tokio::io::sink()).await });
        }
    });
    let at = Target { cluster: "orders".into(), member: "a".into(), address };
    assert_eq!(failure(broker().ask(Ask::Ping, &at, SOON).await), FailureKind::Parse);
    serve.abort();
}

#[tokio::test]
async fn canaries_reach_subscribers_and_streams() {
    let a = RedisServer::start();
    let at_a = target("a", &a);
    let mut subscriber = a.client();
    subscriber.command(&["SUBSCRIBE", "coroner:canary"]).unwrap();
    broker().send_canary(&at_a, "id-1", SOON).await.unwrap();
    // Any command's reply is the next message.
    let message = subscriber.command(&["PING"]).unwrap();
    assert!(message.contains("id-1"), "{message}");

    let stream = broker_of(Redis { canary_stream: Some("canaries".into()), ..Redis::default() });
    for n in 0..3 {
        stream.send_canary(&at_a, &format!("id-{n}"), SOON).await.unwrap();
    }
    assert!(a.command(&["XLEN", "canaries"]).contains(":3"));
}

#[tokio::test]
async fn tls_with_certificates_on_both_sides() {
    let dir = tempfile::tempdir().unwrap();
    let files = TlsFiles::make(dir.path(), false);
    let (a, b) = (RedisServer::with_tls(&files), RedisServer::with_tls(&files));
    b.replica_of(&a);
    let (at_a, at_b) = (target("a", &a), target("b", &b));
    let path = |p: &std::path::Path| Some(p.display().to_string());
    let tls = Tls { ca: path(&files.ca), cert: path(&files.cert), key: path(&files.key), server_name: None };
    let with = |tls: Tls| broker_of(Redis { tls: Some(tls), ..Redis::default() });

    let right = with(tls.clone());
    assert_eq!(fact(right.ask(Ask::Write, &at_a, SOON).await), Fact::Writable(true));
    right.hold_open(&at_a, SOON).await;
    assert!(right.forbidden_write(&order(&at_a, 1), SOON).await.is_accepted());
    right.promote(&order(&at_b, 1), SOON).await.unwrap();

    let named = with(Tls { server_name: Some("localhost".into()), ..tls.clone() });
    assert!(matches!(fact(named.ask(Ask::Ping, &at_a, SOON).await), Fact::Ok { .. }));
    for wrong in [
        Tls { server_name: Some("other.example".into()), ..tls.clone() },
        Tls { cert: None, key: None, ..tls.clone() },
        Tls { ca: None, ..tls.clone() },
    ] {
        assert_eq!(failure(with(wrong).ask(Ask::Ping, &at_a, SOON).await), FailureKind::Tls);
    }
    // TLS towards a plain port.
    let plain = RedisServer::start();
    assert_ne!(failure(right.ask(Ask::Ping, &target("plain", &plain), SHORT).await), FailureKind::Refused);
    // Files that cannot be used are told before anything runs.
    let missing = Redis { tls: Some(Tls { ca: Some("/nonexistent/ca.pem".into()), ..tls }), ..Redis::default() };
    assert!(AnyBroker::Redis(missing).build().err().unwrap().contains("/nonexistent/ca.pem"));
}

#[tokio::test]
async fn f4_an_expired_certificate_is_not_a_death() {
    let dir = tempfile::tempdir().unwrap();
    let files = TlsFiles::make(dir.path(), true);
    let a = RedisServer::with(Options {
        tls: Some(files.clone()),
        lines: vec!["tls-auth-clients no".into()],
        ..Options::default()
    });
    let tls = Tls { ca: Some(files.ca.display().to_string()), ..Tls::default() };
    let broker = broker_of(Redis { tls: Some(tls), ..Redis::default() });
    let kind = failure(broker.ask(Ask::Ping, &target("a", &a), SOON).await);
    assert_eq!(kind, FailureKind::Tls);
    assert!(!kind.is_evidence());
}

//! Questions and acts, each against the stand-in.

use std::time::Duration;

use coroner::{
    broker::{AnyBroker, Ask, Broker},
    model::{Fact, Failure, FailureKind, FenceVerdict, Outcome, Proof, Role, Target, WriteOutcome},
};
use serde_json::{Value, json};

use crate::lab::{Lab, SOON, broker, eventually, order, target};

async fn fact(broker: &dyn Broker, ask: Ask, target: &Target) -> Fact {
    match broker.ask(ask, target, SOON).await {
        Outcome::Fact(fact) => fact,
        Outcome::Failure(failure) => panic!("{ask:?} at {}: {failure}", target.member),
    }
}

async fn failure(broker: &dyn Broker, ask: Ask, target: &Target) -> Failure {
    match broker.ask(ask, target, SOON).await {
        Outcome::Failure(failure) => failure,
        Outcome::Fact(fact) => panic!("{fact:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_question_has_its_answer_by_post_and_by_get() {
    let lab = Lab::start();
    let (at_a, at_b) = (lab.target("master-1"), lab.target("master-2"));
    for by_get in [false, true] {
        let mut config = lab.config();
        config["reads_by_get"] = json!(by_get);
        let broker = broker(config);
        assert!(matches!(fact(&*broker, Ask::Ping, &at_a).await, Fact::Ok { .. }));
        let Fact::Role(first) = fact(&*broker, Ask::Role, &at_a).await else { panic!() };
        assert_eq!((first.role, first.position, first.link_up), (Role::Primary, Some(3), None));
        let Fact::Role(second) = fact(&*broker, Ask::Role, &at_b).await else { panic!() };
        assert_eq!((second.role, second.position, second.link_up), (Role::Standby, Some(3), Some(true)));
        assert_eq!(fact(&*broker, Ask::Position, &at_b).await, Fact::Position { position: 3 });
        assert!(matches!(fact(&*broker, Ask::ReplicationLink, &at_b).await, Fact::Link { up: true, .. }));
        assert_eq!(fact(&*broker, Ask::Write, &at_a).await, Fact::Writable(true));
        assert_eq!(fact(&*broker, Ask::Write, &at_b).await, Fact::Writable(false));
    }
    assert_eq!(lab.a.position(), 3, "the tried write changes nothing");
    let version = lab.a.jolokia(&json!({"type": "version"}));
    assert!(version["value"]["info"]["product"].as_str().unwrap().contains("stand-in"));
}

/// Who has no right, asks for what is not there, or asks what takes too long inside, has learned nothing of its health.
#[tokio::test(flavor = "multi_thread")]
async fn errors_inside_a_200_are_no_evidence_of_a_death() {
    let lab = Lab::start();
    let at_a = lab.target("master-1");
    let with = |key: &str, value: Value| {
        let mut config = lab.config();
        config[key] = value;
        broker(config)
    };
    let no_bean = with("mbean", json!("ReplicationCluster:name=ClusterInfo/other"));
    assert_eq!(failure(&*no_bean, Ask::Ping, &at_a).await.kind, FailureKind::NotFound);
    assert_eq!(failure(&*no_bean, Ask::Role, &at_a).await.kind, FailureKind::NotFound);
    let no_attribute = with("position", json!({"attribute": "NoSuch"}));
    assert_eq!(failure(&*no_attribute, Ask::Position, &at_a).await.kind, FailureKind::NotFound);
    // The rest of the role is told all the same.
    let Fact::Role(report) = fact(&*no_attribute, Ask::Role, &at_a).await else { panic!() };
    assert_eq!((report.role, report.position), (Role::Primary, None));
    let no_number = with("position", json!({"attribute": "SyncPeers"}));
    assert_eq!(failure(&*no_number, Ask::Position, &at_a).await.kind, FailureKind::Parse);
    let inside = with("position", json!({"attribute": "About", "path": ["of", "what/ever"]}));
    assert_eq!(fact(&*inside, Ask::Position, &at_a).await, Fact::Position { position: 1 });
    let odd = with("position", json!({"attribute": "About", "path": ["of", "q\"uote!"]}));
    assert_eq!(fact(&*odd, Ask::Position, &at_a).await, Fact::Position { position: 2 });
    let elsewhere = with("url", json!("http://{address}/not-here"));
    assert_eq!(failure(&*elsewhere, Ask::Ping, &at_a).await.kind, FailureKind::NotFound);
    let small = with("max_answer", json!(40));
    assert_eq!(failure(&*small, Ask::Ping, &at_a).await.kind, FailureKind::Parse);
    // Nobody listens: this is evidence.
    let nobody = failure(&*lab.broker(), Ask::Ping, &target("master-1", 1)).await;
    assert!(nobody.kind.is_evidence() && nobody.kind == FailureKind::Refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_are_told_as_such() {
    let lab = Lab::with(Some("coroner:right"));
    let at_a = lab.target("master-1");
    let with = |user: Value, password: &str| {
        let mut config = lab.config();
        config["user"] = user;
        config["password"] = json!(password);
        config
    };
    assert!(matches!(fact(&*broker(with(json!("coroner"), "right")), Ask::Ping, &at_a).await, Fact::Ok { .. }));
    let wrong = broker(with(json!("coroner"), "hunter2"));
    for ask in [Ask::Ping, Ask::Role, Ask::ReplicationLink] {
        let failure = failure(&*wrong, ask, &at_a).await;
        assert!(failure.kind == FailureKind::Auth && !failure.kind.is_evidence(), "{failure}");
        assert!(!failure.text.contains("hunter2"));
    }
    let error = wrong.promote(&order(&lab.target("master-2"), 2), SOON).await.unwrap_err();
    assert!(!error.may_have_happened && error.detail.contains("auth"), "{error}");
    let missing = serde_json::from_value(with(Value::Null, "x")).unwrap();
    assert!(AnyBroker::Jolokia(missing).build().err().unwrap().contains("without `user`"));
}

#[test]
fn a_file_that_cannot_work_is_refused_with_its_remedy() {
    let refused = |config: Value| AnyBroker::Jolokia(serde_json::from_value(config).unwrap()).build().err().unwrap();
    assert!(refused(json!({})).contains("`primary` is missing"));
    assert!(refused(json!({"preset": "graphdb"})).contains("repository"));
    assert!(refused(json!({"preset": "graphdb", "repository": "r", "members": {"a": {}, "b": {}}})).contains("`node`"));
    let primary = json!({"attribute": "Leader", "is": true});
    assert!(
        refused(json!({"primary": primary, "promote": [{"name": "x", "exec": {"operation": "o"}}]})).contains("until")
    );
    let other = json!([{"name": "x", "at": "other", "until": {"attribute": "a", "is": 1}}]);
    assert!(refused(json!({"primary": primary, "promote": other})).contains("may be dead"));
    assert!(refused(json!({"primary": {"attribute": "x"}})).contains("exactly one"));
}

/// The step that the runbook calls optional is not: peered, the second waits for the first.
#[tokio::test(flavor = "multi_thread")]
async fn unpeered_it_serves_and_peered_it_would_wait() {
    let mut lab = Lab::start();
    lab.a.kill();
    eventually("the second misses its peer", || lab.b.read("PeerStatus").to_string().contains("[OFF]"));
    let at_b = lab.target("master-2");
    let mut config = lab.config();
    config["promote"] = json!([{"name": "set read-only to false", "write": {"attribute": "ReadOnly", "value": false}}]);
    let blindly = broker(config).promote(&order(&at_b, 2), SOON).await.unwrap();
    assert!(blindly.detail.contains("not known yet"), "{}", blindly.detail);
    assert_eq!(lab.b.write("INSERT x").unwrap().0, 503);

    let done = lab.broker().promote(&order(&at_b, 2), SOON).await.unwrap();
    assert_eq!(done.position, Some(3), "{}", done.detail);
    assert!(done.detail.contains("unpeer the other master: done and read back"), "{}", done.detail);
    assert_eq!(lab.b.write("INSERT x").unwrap().0, 200);
    // Twice is like once.
    let again = lab.broker().promote(&order(&at_b, 2), SOON).await.unwrap();
    assert!(again.detail.contains("already so"), "{}", again.detail);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_read_only_flag_is_proved_by_a_write() {
    let lab = Lab::start();
    let (broker, at_a) = (lab.broker(), lab.target("master-1"));
    let before = broker.forbidden_write(&order(&at_a, 2), SOON).await;
    assert_eq!((before.on_new, before.on_open), (WriteOutcome::Accepted, None));
    for _ in 0..2 {
        let report = broker.make_read_only(&order(&at_a, 2), SOON).await;
        assert_eq!((report.verdict, report.proof), (FenceVerdict::Confirmed, Proof::ReadBack), "{report:?}");
    }
    assert_eq!(lab.writers(), 0);
    let after = broker.forbidden_write(&order(&at_a, 2), SOON).await;
    assert_eq!(after.on_new, WriteOutcome::Refused);
    // Given back during a split, it does not wait for the other one.
    lab.split(true);
    eventually("they miss each other", || lab.a.read("PeerStatus").to_string().contains("[OFF]"));
    for _ in 0..2 {
        broker.make_writable(&order(&at_a, 2), SOON).await.unwrap();
        assert_eq!(lab.writers(), 1);
        assert_eq!(lab.a.read("SyncPeers"), json!([lab.b.node()]));
    }
    lab.split(false);
    lab.wait_synced();
    // Without a write of the service, a flag is a claim.
    let mut config = lab.config();
    config["try_write"] = json!({"url": "http://127.0.0.1:1/", "content_type": "text/plain", "body": ""});
    let report = self::broker(config).make_read_only(&order(&at_a, 2), SOON).await;
    assert_eq!((report.verdict, report.proof), (FenceVerdict::Confirmed, Proof::Claim), "{report:?}");
    let gone = broker.make_read_only(&order(&target("master-1", 1), 2), Duration::from_secs(5)).await;
    assert_eq!(gone.verdict, FenceVerdict::Refuted, "{gone:?}");
}

/// What the cut at the workers' side is for: a master that reaches none of them acknowledges nothing, whatever it believes.
#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_reaches_no_worker_acknowledges_nothing() {
    let lab = Lab::start();
    let (broker, at_a) = (lab.broker(), lab.target("master-1"));
    for worker in &lab.workers[..2] {
        worker.drop_traffic(&["master-1"]);
    }
    assert_eq!(lab.a.write("INSERT by one worker").unwrap().0, 200, "two of three are no fence");
    lab.workers[2].drop_traffic(&["master-1"]);
    assert_eq!(lab.a.write("INSERT by none").unwrap().0, 503);
    let attempt = broker.forbidden_write(&order(&at_a, 2), SOON).await;
    // It does not say that it is read-only, so that this alone proves nothing either.
    assert_eq!(attempt.on_new, WriteOutcome::NoAnswer, "{attempt:?}");
    assert_eq!(lab.a.read("ReadOnly"), false);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_follows_one_that_is_no_primary() {
    let lab = Lab::start();
    let (broker, at_a, at_b) = (lab.broker(), lab.target("master-1"), lab.target("master-2"));
    let error = broker.follow(&order(&at_a, 2), &at_b, None, SOON).await.unwrap_err();
    assert!(!error.may_have_happened && error.detail.contains("is no primary"), "{error}");
    assert_eq!((lab.writers(), lab.a.read("ReadOnly")), (1, json!(false)));
    let caught_up = broker.catch_up(&order(&at_b, 2), Some(3), SOON).await.unwrap();
    assert_eq!(caught_up.position, Some(3));
    lab.split(true);
    lab.a.write("INSERT alone").unwrap();
    let short = broker.catch_up(&order(&at_b, 2), Some(4), SOON).await.unwrap();
    assert_eq!(short.position, Some(3));
    assert!(short.detail.contains("1 short of 4") && short.detail.contains("apart"), "{}", short.detail);
}

//! With tokio's own time paused: a minute of looking takes no time.

use std::{sync::Mutex, time::Duration};

use async_trait::async_trait;
use tokio::time::sleep;

use super::*;
use crate::{
    broker::Ask,
    model::{
        ActError, Done, Epoch, Fact, Failure, FailureKind, FenceReport, NodeTarget, Observer, Order, Outcome, Target,
        WriteAttempt,
        policy::{Observers, Subjects},
    },
    probe::{AnyProbe, prometheus::Prometheus},
};

const SECOND: Duration = Duration::from_secs(1);

/// Answers at once, and remembers what it was asked to send and hold.
#[derive(Default)]
struct Scripted {
    sent: Mutex<Vec<(String, String)>>,
    held: Mutex<Vec<String>>,
    send_fails: Mutex<Option<Failure>>,
    /// Hands receipts in while the canary is being sent, as a quick subscriber does.
    quick: Mutex<Option<(Receipts, Vec<NodeName>)>>,
}

#[async_trait]
impl Broker for Scripted {
    fn kind(&self) -> &'static str {
        "scripted"
    }
    async fn ask(&self, _: Ask, _: &Target, _: Duration) -> Outcome {
        Outcome::Fact(Fact::Ok { latency: Duration::ZERO })
    }
    async fn send_canary(&self, target: &Target, id: &str, _: Duration) -> Result<(), Failure> {
        if let Some(failure) = self.send_fails.lock().unwrap().clone() {
            return Err(failure);
        }
        self.sent.lock().unwrap().push((target.member.to_string(), id.into()));
        if let Some((receipts, nodes)) = &*self.quick.lock().unwrap() {
            for node in nodes {
                assert!(receipts.received(&"orders".into(), node, id));
                assert!(!receipts.received(&"orders".into(), node, id), "a second time is a replay");
            }
        }
        Ok(())
    }
    async fn hold_open(&self, target: &Target, _: Duration) {
        self.held.lock().unwrap().push(target.member.to_string());
    }
    async fn forbidden_write(&self, _: &Order, _: Duration) -> WriteAttempt {
        unreachable!("no source writes")
    }
    async fn make_read_only(&self, _: &Order, _: Duration) -> FenceReport {
        unreachable!("no source acts")
    }
    async fn make_writable(&self, _: &Order, _: Duration) -> Result<Done, ActError> {
        unreachable!("no source acts")
    }
    async fn catch_up(&self, _: &Order, _: Option<u64>, _: Duration) -> Result<Done, ActError> {
        unreachable!("no source acts")
    }
    async fn promote(&self, _: &Order, _: Duration) -> Result<Done, ActError> {
        unreachable!("no source acts")
    }
    async fn follow(&self, _: &Order, _: &Target, _: Option<u64>, _: Duration) -> Result<Done, ActError> {
        unreachable!("no source acts")
    }
    async fn stored_epoch(&self, _: &Target, _: Duration) -> Option<Epoch> {
        None
    }
}

struct Lab {
    running: Running,
    broker: Arc<Scripted>,
    receipts: Receipts,
    primary: watch::Sender<PrimaryView>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

fn view(primary: Option<&str>) -> PrimaryView {
    PrimaryView { cluster: "orders".into(), epoch: Epoch(1), primary: primary.map(Into::into), address: None }
}

fn lab(sources: &[(&str, Source)]) -> Lab {
    let member = |name: &str| Target { cluster: "orders".into(), member: name.into(), address: format!("{name}:1") };
    let node = |name: &str| NodeTarget { node: name.into(), address: Some("127.0.0.1:1".into()) };
    let config = ClusterConfig {
        broker: None,
        members: vec![member("a"), member("b")],
        nodes: vec![node("n1"), node("n2")],
        sources: sources.iter().map(|(name, source)| ((*name).into(), source.clone())).collect(),
        fence: Vec::new(),
        guards: BTreeMap::new(),
        observes: BTreeMap::new(),
        redirect: Vec::new(),
    };
    let broker = Arc::new(Scripted::default());
    let (primary, watch) = watch::channel(view(Some("a")));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let receipts = Receipts::default();
    let sink = Arc::clone(&seen);
    let brokers = [("orders".into(), Arc::clone(&broker) as Arc<dyn Broker>)].into();
    let observe = Arc::new(move |what| {
        let mut seen = sink.lock().unwrap();
        seen.push(what);
        seen.len() <= 1_000
    });
    let running = start_with([("orders".into(), &config, watch)], &brokers, &receipts, observe);
    Lab { running, broker, receipts, primary, seen }
}

impl Lab {
    /// What was seen since the last time.
    fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }

    fn members(&self) -> Vec<String> {
        self.take().iter().map(|seen| seen.subject.as_ref().unwrap().to_string()).collect()
    }

    fn kinds(&self) -> Vec<(String, Option<FailureKind>)> {
        let mut all: Vec<_> = self
            .take()
            .into_iter()
            .map(|seen| {
                assert_eq!(seen.subject, None);
                let kind = match seen.outcome {
                    Outcome::Fact(_) => None,
                    Outcome::Failure(failure) => Some(failure.kind),
                };
                (seen.observer.to_string(), kind)
            })
            .collect();
        all.sort();
        all
    }
}

fn ask(subjects: Subjects) -> Source {
    Source::Broker { ask: Ask::Ping, subjects, every: SECOND, timeout: SECOND / 2 }
}

fn canary() -> Source {
    Source::Canary { every: SECOND, timeout: SECOND / 2 }
}

#[tokio::test(start_paused = true)]
async fn looks_follow_the_roles() {
    let lab = lab(&[("ping", ask(Subjects::Primary))]);
    sleep(10 * SECOND).await;
    let seen = lab.members();
    assert!((9..=11).contains(&seen.len()), "{seen:?}");
    assert!(seen.iter().all(|name| name == "a"));
    lab.primary.send_replace(view(Some("b")));
    // The first look after a change does not wait for a period.
    sleep(SECOND / 100).await;
    assert_eq!(lab.members(), ["b"]);
    sleep(10 * SECOND).await;
    assert!(lab.members().iter().all(|name| name == "b"));
    lab.primary.send_replace(view(None));
    sleep(10 * SECOND).await;
    assert_eq!(lab.members().len(), 0, "nobody is primary");
    lab.running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn standbys_members_and_one_member() {
    for (subjects, expected) in [
        (Subjects::Standbys, &["b"][..]),
        (Subjects::Members, &["a", "b"]),
        (Subjects::Member("b".into()), &["b"]),
        (Subjects::Member("nobody".into()), &[]),
    ] {
        let lab = lab(&[("s", ask(subjects.clone()))]);
        sleep(5 * SECOND).await;
        let mut seen = lab.members();
        seen.sort();
        seen.dedup();
        assert_eq!(seen, expected, "{subjects:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn dropping_ends_all_and_a_full_queue_is_counted() {
    let lab = lab(&[("ping", ask(Subjects::Members))]);
    sleep(2_000 * SECOND).await;
    assert!(lab.running.dropped() > 100, "{}", lab.running.dropped());
    drop(lab.running);
    sleep(SECOND).await;
    lab.seen.lock().unwrap().clear();
    sleep(10 * SECOND).await;
    assert!(lab.seen.lock().unwrap().is_empty());
}

/// A connection from before the fence exists before there is a fence.
#[tokio::test(start_paused = true)]
async fn a_connection_to_the_primary_is_held_open() {
    let lab = lab(&[]);
    sleep(3 * SECOND).await;
    assert!(lab.broker.held.lock().unwrap().len() >= 2);
    lab.primary.send_replace(view(Some("b")));
    sleep(SECOND / 100).await;
    assert_eq!(lab.broker.held.lock().unwrap().last().unwrap(), "b");
}

#[tokio::test(start_paused = true)]
async fn canaries_that_arrive_are_facts() {
    let lab = lab(&[("canary", canary())]);
    *lab.broker.quick.lock().unwrap() = Some((lab.receipts.clone(), vec!["n1".into(), "n2".into()]));
    sleep(SECOND * 3 / 2).await;
    let kinds = lab.kinds();
    assert_eq!(kinds.len() % 2, 0);
    assert!(!kinds.is_empty() && kinds.iter().all(|(_, kind)| kind.is_none()), "{kinds:?}");
}

/// P8, P27: what did not arrive at a living node is a failure; a node that is itself silent proves nothing.
#[tokio::test(start_paused = true)]
async fn p27_canaries_that_do_not_arrive_count_only_at_living_nodes() {
    let lab = lab(&[("canary", canary())]);
    let receipts = lab.receipts.clone();
    let reports = tokio::spawn(async move {
        loop {
            receipts.node_reported(&"orders".into(), &"n1".into());
            sleep(SECOND / 10).await;
        }
    });
    sleep(SECOND * 8 / 5).await;
    let kinds = lab.kinds();
    assert!(kinds.len() >= 2, "{kinds:?}");
    for (node, kind) in kinds {
        let expected = if node == "n1" { FailureKind::TimedOut } else { FailureKind::Local };
        assert_eq!(kind, Some(expected), "{node}");
    }
    reports.abort();
}

#[tokio::test(start_paused = true)]
async fn a_canary_that_could_not_be_sent_keeps_its_kind() {
    let lab = lab(&[("canary", canary())]);
    *lab.broker.send_fails.lock().unwrap() = Some(Failure::new(FailureKind::Full, "OOM"));
    sleep(SECOND * 3 / 2).await;
    let kinds = lab.kinds();
    assert!(!kinds.is_empty() && kinds.iter().all(|(_, kind)| *kind == Some(FailureKind::Full)), "{kinds:?}");
    // Nobody is primary: none is sent, and none fails.
    lab.primary.send_replace(view(None));
    sleep(SECOND).await;
    lab.take();
    sleep(10 * SECOND).await;
    assert_eq!(lab.kinds(), []);
}

/// Forged and late receipts leave nothing behind.
#[tokio::test(start_paused = true)]
async fn receipts_stay_bounded() {
    let lab = lab(&[("canary", canary())]);
    sleep(SECOND / 10).await;
    for n in 0..10_000 {
        let (cluster, node) = (format!("cluster-{n}").into(), format!("node-{n}").into());
        assert!(!lab.receipts.received(&cluster, &node, &format!("id-{n}")));
        assert!(!lab.receipts.received(&"orders".into(), &node, &format!("id-{n}")));
    }
    sleep(600 * SECOND).await;
    let ids: Vec<_> = lab.broker.sent.lock().unwrap().iter().map(|(_, id)| id.clone()).collect();
    assert!(ids.len() > 500);
    assert!(!lab.receipts.received(&"orders".into(), &"n1".into(), &ids[0]), "too late");
    let text = format!("{:?}", lab.receipts);
    assert!(text.len() < 2_000, "{text}");
    drop(lab.running);
    sleep(SECOND).await;
    assert!(!format!("{:?}", lab.receipts).contains("waiting"), "nothing is under way any more");
}

#[tokio::test(start_paused = true)]
async fn a_nodes_counter_that_cannot_be_read_is_no_evidence() {
    let scrape =
        Prometheus { url: "http://{address}/metrics".into(), metric: Some("m".into()), ..Prometheus::default() };
    let probe = |probe: Prometheus, observers| Source::Probe {
        probe: AnyProbe::Prometheus(probe),
        subjects: Subjects::Service,
        observers,
        every: SECOND,
        timeout: SECOND / 2,
    };
    let nodes = Observers::Nodes(vec!["n1".into(), "n2".into()]);
    let lab = lab(&[("arrivals", probe(scrape, nodes)), ("broken", probe(Prometheus::default(), Observers::Arbiter))]);
    for _ in 0..200 {
        sleep(SECOND / 10).await;
    }
    let seen = lab.take();
    let observers: std::collections::BTreeSet<_> = seen.iter().map(|seen| seen.observer.to_string()).collect();
    assert_eq!(observers.into_iter().collect::<Vec<_>>(), ["arbiter", "n1", "n2"]);
    for seen in seen {
        assert!(matches!(&seen.outcome, Outcome::Failure(f) if f.kind == FailureKind::Local), "{seen:?}");
        assert!(matches!(seen.observer, Observer::Arbiter | Observer::Node(_)));
    }
}

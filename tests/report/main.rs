//! Does every report reach every reporter, whatever hangs, fails or restarts?
//!
//! Real HTTP servers in this process, a real SQLite store, the real outbox with short times.

#![expect(clippy::unwrap_used, reason = "a test says by a panic that something is not as it must be")]

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, atomic::Ordering::Relaxed},
    time::Duration,
};

use async_trait::async_trait;
use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use coroner::{
    arbiter::outbox::{Outbox, Timing},
    model::{Report, Secret, Time, WallAnchor, report::ReportSubject},
    report::{AnyReport, Reporter, SendError, alertmanager::Alertmanager, webhook::Webhook},
    store::{
        Store,
        sqlite::{Bounds, SqliteStore},
    },
};
use sqlx::Connection as _;

const TIMING: Timing = Timing {
    deadline: Duration::from_millis(400),
    spool_within: Duration::from_secs(5),
    backoff_min: Duration::from_millis(20),
    backoff_max: Duration::from_millis(100),
    read_again: Duration::from_millis(100),
};

fn report(key: &str, text: &str) -> Report {
    Report {
        key: key.into(),
        at: Time::from_millis(9_000),
        anchor: WallAnchor { boot: Time::ZERO, unix_ms: 1_785_000_000_000 },
        arbiter: "arbiter-1".into(),
        subject: ReportSubject::Warning { cluster: Some("orders".into()), what: "tilt".into(), text: text.into() },
        resolved: false,
    }
}

fn resolved(key: &str) -> Report {
    Report { resolved: true, ..report(key, "over") }
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "in vain: {what}");
}

async fn store(dir: &tempfile::TempDir) -> Arc<SqliteStore> {
    // The former life's workers may hold the store for a moment longer than its outbox.
    let mut tries = 0;
    loop {
        match SqliteStore::open(dir.path().join("coroner.db"), Bounds::default()).await {
            Ok(store) => return Arc::new(store),
            Err(e) => assert!(tries < 1_000, "{e}"),
        }
        tries += 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A server on loopback that keeps what it gets and answers as it is told.
#[derive(Clone)]
struct Server {
    address: SocketAddr,
    got: Arc<Mutex<Vec<serde_json::Value>>>,
    answers: Arc<Mutex<Vec<StatusCode>>>,
}

impl Server {
    /// Answers with these one after the other, then with 200.
    async fn start(answers: &[StatusCode]) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            got: Arc::default(),
            answers: Arc::new(Mutex::new(answers.iter().rev().copied().collect())),
        };
        let take = async |State(server): State<Self>, body: Bytes| {
            let answer = server.answers.lock().unwrap().pop().unwrap_or(StatusCode::OK);
            if answer == StatusCode::OK {
                server.got.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
            }
            (answer, "as told")
        };
        let app = Router::new().route("/hook", post(take)).route("/api/v2/alerts", post(take));
        let app = app.with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        server
    }

    fn webhook(&self) -> Box<dyn Reporter> {
        webhook(self.address)
    }

    fn alertmanager(&self) -> Box<dyn Reporter> {
        let alertmanager = Alertmanager {
            url: format!("http://{}", self.address),
            labels: [("team".to_owned(), "messaging".to_owned())].into(),
            headers: BTreeMap::new(),
        };
        AnyReport::Alertmanager(alertmanager).build().unwrap()
    }

    fn texts(&self) -> Vec<String> {
        self.got.lock().unwrap().iter().map(|v| v["subject"]["warning"]["text"].as_str().unwrap().to_owned()).collect()
    }

    fn count(&self) -> usize {
        self.got.lock().unwrap().len()
    }
}

fn webhook(address: SocketAddr) -> Box<dyn Reporter> {
    let webhook = Webhook { url: Secret::new(format!("http://{address}/hook")), ..Webhook::default() };
    AnyReport::Webhook(webhook).build().unwrap()
}

#[tokio::test]
async fn reports_arrive_in_order_and_are_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let (store, server) = (store(&dir).await, Server::start(&[]).await);
    let outbox = Outbox::start_with(store.clone(), vec![server.webhook()], TIMING);
    let wanted: Vec<String> = (0..20).map(|n| format!("report {n}")).collect();
    for (n, text) in wanted.iter().enumerate() {
        outbox.send(report(&format!("k{n}"), text));
    }
    until("all arrive", || server.count() >= 20).await;
    assert_eq!(server.texts(), wanted);
    let label = format!("webhook {}", server.address);
    let mut left = usize::MAX;
    while left > 0 {
        left = store.spooled(&label).await.unwrap().len();
    }
    let stats = outbox.stats();
    assert_eq!(stats.reporters[0].label, label);
    assert_eq!(stats.reporters[0].sent.load(Relaxed), 20);
    assert_eq!(stats.reporters[0].spooled.load(Relaxed), 20);
    assert_eq!(server.count(), 20, "each once");
}

/// H13.
#[tokio::test]
async fn h13_a_reporter_that_hangs_delays_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let (store, server) = (store(&dir).await, Server::start(&[]).await);
    // Takes connections and never answers.
    let hanging = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let reporters = vec![webhook(hanging.local_addr().unwrap()), Box::new(Deaf) as Box<dyn Reporter>, server.webhook()];
    let outbox = Outbox::start_with(store, reporters, Timing { deadline: Duration::from_secs(30), ..TIMING });
    for n in 0..50 {
        outbox.send(report(&format!("k{n}"), "text"));
    }
    until("the healthy one has all", || server.count() >= 50).await;
    let stats = outbox.stats();
    assert_eq!(stats.reporters[0].sent.load(Relaxed) + stats.reporters[1].sent.load(Relaxed), 0);
}

/// A reporter that does not keep its deadline.
struct Deaf;

#[async_trait]
impl Reporter for Deaf {
    fn label(&self) -> String {
        "deaf".into()
    }

    async fn send(&self, _: &Report, _: Duration) -> Result<(), SendError> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn a_deadline_holds_for_a_reporter_that_ignores_it() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = Outbox::start_with(store(&dir).await, vec![Box::new(Deaf)], TIMING);
    outbox.send(report("k", "text"));
    let stats = outbox.stats();
    until("two tries failed", || stats.reporters[0].failed.load(Relaxed) >= 2).await;
}

#[tokio::test]
async fn what_failed_is_tried_again_and_holds_nothing_up() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&[StatusCode::BAD_GATEWAY, StatusCode::TOO_MANY_REQUESTS]).await;
    let outbox = Outbox::start_with(store(&dir).await, vec![server.webhook()], TIMING);
    outbox.send(report("k1", "one"));
    outbox.send(report("k2", "two"));
    until("both arrive", || server.count() >= 2).await;
    let mut texts = server.texts();
    texts.sort();
    assert_eq!(texts, ["one", "two"]);
    assert_eq!(outbox.stats().reporters[0].failed.load(Relaxed), 2);
}

#[tokio::test]
async fn a_report_that_is_refused_for_good_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let (store, server) = (store(&dir).await, Server::start(&[StatusCode::BAD_REQUEST]).await);
    let outbox = Outbox::start_with(store.clone(), vec![server.webhook()], TIMING);
    let stats = outbox.stats();
    outbox.send(report("k1", "bad"));
    until("it is refused", || stats.reporters[0].refused.load(Relaxed) == 1).await;
    outbox.send(report("k2", "good"));
    until("the next arrives", || server.count() == 1).await;
    assert_eq!(server.texts(), ["good"]);
}

#[tokio::test]
async fn the_spool_survives_a_restart_and_the_newest_report_of_a_key_wins() {
    let dir = tempfile::tempdir().unwrap();
    // An address at which nothing listens yet.
    let reserved = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = reserved.local_addr().unwrap();
    drop(reserved);
    let first = store(&dir).await;
    let outbox = Outbox::start_with(first.clone(), vec![webhook(address)], TIMING);
    for (key, text) in [("k1", "one"), ("k2", "two"), ("k1", "one, newer")] {
        outbox.send(report(key, text));
        assert!(outbox.flush(Duration::from_secs(20)).await, "it is spooled");
    }
    drop(outbox);
    drop(first);

    let second = store(&dir).await;
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    let got: Arc<Mutex<Vec<Report>>> = Arc::default();
    let app = Router::new().route(
        "/hook",
        post({
            let got = got.clone();
            async move |body: Bytes| got.lock().unwrap().push(serde_json::from_slice(&body).unwrap())
        }),
    );
    tokio::spawn(async move { axum::serve(listener, app).await });
    let _outbox = Outbox::start_with(second, vec![webhook(address)], TIMING);
    until("both arrive", || got.lock().unwrap().len() >= 2).await;
    assert_eq!(*got.lock().unwrap(), [report("k2", "two"), report("k1", "one, newer")]);
}

#[tokio::test]
async fn a_locked_store_does_not_stop_reports() {
    let dir = tempfile::tempdir().unwrap();
    let (store, server) = (store(&dir).await, Server::start(&[]).await);
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(store.path());
    let mut other = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql("BEGIN EXCLUSIVE").execute(&mut other).await.unwrap();
    let outbox = Outbox::start_with(store, vec![server.webhook()], TIMING);
    let stats = outbox.stats();
    let within = Duration::from_secs(10);
    assert!(!outbox.send_and_keep(report("k1", "from memory"), within).await, "no store holds it");
    until("it arrives", || server.count() == 1).await;
    assert_eq!(stats.reporters[0].unspooled.load(Relaxed), 1);
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    assert!(outbox.send_and_keep(report("k1", "from the spool"), within).await, "the store holds it");
    until("it arrives", || server.count() == 2).await;
    assert_eq!(server.texts(), ["from memory", "from the spool"]);
}

/// A17: a damaged report in the spool holds up no other.
#[tokio::test]
async fn a_spool_that_cannot_be_read_does_not_stop_reports() {
    let dir = tempfile::tempdir().unwrap();
    let (store, server) = (store(&dir).await, Server::start(&[]).await);
    let label = format!("webhook {}", server.address);
    store.spool(&label, &report("k0", "damaged")).await.unwrap();
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(store.path());
    let mut other = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql("UPDATE spool SET json = '{'").execute(&mut other).await.unwrap();
    assert!(store.spooled(&label).await.unwrap_err().to_string().contains("k0"));
    let outbox = Outbox::start_with(store, vec![server.webhook()], TIMING);
    for text in ["one", "two"] {
        outbox.send(report("k1", text));
        let wanted = server.count() + 1;
        until("it arrives", || server.count() == wanted).await;
    }
    assert_eq!(server.texts(), ["one", "two"]);
}

#[tokio::test]
async fn sending_never_waits_and_memory_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = Outbox::start_with(store(&dir).await, vec![Box::new(Deaf)], TIMING);
    // No await in between: nothing is taken from the queue meanwhile.
    for n in 0..5_000 {
        outbox.send(report(&format!("k{n}"), "text"));
    }
    assert_eq!(outbox.stats().overflowed.load(Relaxed), 4_000);
}

#[tokio::test]
async fn alertmanager_gets_one_alert_that_stays_until_it_is_resolved() {
    let dir = tempfile::tempdir().unwrap();
    let (store, server) = (store(&dir).await, Server::start(&[]).await);
    let outbox = Outbox::start_with(store.clone(), vec![server.alertmanager()], TIMING);
    outbox.send(report("warning/orders/tilt", "the loop was late by 300ms"));
    until("it arrives", || server.count() == 1).await;

    let alerts = server.got.lock().unwrap()[0].clone();
    let alert = &alerts[0];
    let labels = serde_json::json!({
        "alertname": "CoronerTilt", "cluster": "orders", "coroner_key": "warning/orders/tilt", "severity": "warning",
        "team": "messaging",
    });
    assert_eq!(alert["labels"], labels);
    assert_eq!(alert["annotations"]["summary"], "orders: tilt: the loop was late by 300ms");
    assert_eq!(alert["annotations"]["description"], "the loop was late by 300ms");
    assert!(alert["annotations"]["runbook"].as_str().unwrap().starts_with("coroner "));
    assert_eq!(alert["startsAt"], "2026-07-25T17:20:09Z");
    assert_eq!(alert["endsAt"], "2026-08-24T17:20:09Z", "far ahead: it stays while the arbiter is away");

    // A restart: the alert is active still, so it is sent again.
    drop(outbox);
    let outbox = Outbox::start_with(store.clone(), vec![server.alertmanager()], TIMING);
    until("it is sent again", || server.count() == 2).await;
    outbox.send(resolved("warning/orders/tilt"));
    until("the end arrives", || server.count() == 3).await;
    let last = server.got.lock().unwrap()[2][0].clone();
    assert_eq!(last["labels"], labels);
    assert_eq!(last["endsAt"], "2026-07-25T17:20:09Z");
    let label = format!("alertmanager {}", server.address);
    while !store.spooled(&label).await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Counts, and wants active reports again and again.
struct Repeating(Arc<Mutex<Vec<(String, bool)>>>);

#[async_trait]
impl Reporter for Repeating {
    fn label(&self) -> String {
        "repeating".into()
    }

    async fn send(&self, report: &Report, _: Duration) -> Result<(), SendError> {
        self.0.lock().unwrap().push((report.key.clone(), report.resolved));
        Ok(())
    }

    fn repeats_every(&self) -> Option<Duration> {
        Some(Duration::from_millis(30))
    }
}

#[tokio::test]
async fn active_reports_are_sent_again_until_they_are_resolved() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir).await;
    let seen: Arc<Mutex<Vec<(String, bool)>>> = Arc::default();
    let outbox = Outbox::start_with(store.clone(), vec![Box::new(Repeating(seen.clone()))], TIMING);
    let count =
        |key: &str, resolved: bool| seen.lock().unwrap().iter().filter(|(k, r)| k == key && *r == resolved).count();
    outbox.send(report("a", "text"));
    outbox.send(report("b", "text"));
    until("both are repeated", || count("a", false) >= 3 && count("b", false) >= 3).await;
    outbox.send(resolved("a"));
    until("the end is told", || count("a", true) == 1).await;
    let (a, b) = (count("a", false), count("b", false));
    until("the other goes on", || count("b", false) >= b + 3).await;
    assert_eq!((count("a", false), count("a", true)), (a, 1), "what is over is not repeated");
    assert_eq!(store.spooled("repeating").await.unwrap().len(), 1);
}

#[tokio::test]
async fn two_reporters_of_one_label_both_get_everything() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&[]).await;
    let outbox = Outbox::start_with(store(&dir).await, vec![server.webhook(), server.webhook()], TIMING);
    outbox.send(report("k", "text"));
    until("it arrives twice", || server.count() == 2).await;
    assert!(outbox.stats().reporters[1].label.ends_with(" #2"));
}

//! HTTP over TCP and the Unix socket.

use std::{os::unix::fs::PermissionsExt as _, sync::atomic::Ordering, time::Duration};

use coroner::{
    api::{Limits, Options, limit},
    model::{Epoch, Fact, Notice, Observer, Outcome},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use crate::lab::{Lab, parse, timed, until};

const BEAT: &str = r#"{"cluster":"orders","member":"broker-a","seq":7}"#;

#[tokio::test]
async fn a_heartbeat_is_taken_and_answered_with_whom_to_follow() {
    let lab = Lab::start().await;
    let answer = lab.post("/v1/heartbeat", "token-a", BEAT).await;
    assert_eq!(answer.code, 200, "{answer:?}");
    assert_eq!(
        answer.json(),
        serde_json::json!({"seq": 7, "epoch": 3, "primary": "broker-a", "address": "broker-a:6379"})
    );
    until("the heartbeat", || lab.seen.lock().unwrap().len() == 1).await;
    let seen = lab.seen.lock().unwrap()[0].clone();
    assert_eq!(seen.observer, Observer::Member("broker-a".into()));
    assert_eq!(seen.outcome, Outcome::Fact(Fact::Beat { seq: 7, echoed: true }));
}

#[tokio::test]
async fn arrivals_and_canaries_are_taken() {
    let lab = Lab::start().await;
    let body = r#"{"cluster":"orders","node":"node-1","received":12,"last_age_ms":40.5,"attempted":3,"acknowledged":2,
                   "primary":"broker-a","epoch":3,"canaries":["c1","c2"]}"#;
    let answer = lab.post("/v1/arrivals", "token-nodes", body).await;
    assert_eq!((answer.code, answer.json()["epoch"].as_u64()), (200, Some(3)), "{answer:?}");
    let answer = lab.post("/v1/canary", "token-nodes", r#"{"cluster":"orders","node":"node-2","id":"c3"}"#).await;
    assert_eq!(answer.code, 200, "{answer:?}");
    until("the report", || lab.seen.lock().unwrap().len() == 1).await;
    let outcome = lab.seen.lock().unwrap()[0].outcome.clone();
    let Outcome::Fact(Fact::Arrivals(arrivals)) = outcome else { panic!("{outcome:?}") };
    assert_eq!((arrivals.received, arrivals.last_age), (12, Some(Duration::from_micros(40_500))));
    let received = lab.receipts.received.lock().unwrap().clone();
    let expected = [("node-1", "c1"), ("node-1", "c2"), ("node-2", "c3")];
    assert_eq!(received, expected.map(|(node, id)| (node.to_owned(), id.to_owned())));
    assert_eq!(*lab.receipts.reported.lock().unwrap(), ["node-1", "node-2"]);
}

#[tokio::test]
async fn an_array_says_what_became_of_each() {
    let lab = Lab::start().await;
    let body =
        r#"[{"cluster":"orders","node":"node-1","received":1},{"cluster":"orders","node":"node-9","received":1}]"#;
    let answer = lab.post("/v1/arrivals", "token-nodes", body).await;
    assert_eq!(answer.code, 207, "{answer:?}");
    assert_eq!(answer.json()[0]["epoch"], 3);
    assert!(answer.json()[1]["error"].as_str().unwrap().contains("node-9"), "{answer:?}");
}

#[tokio::test]
async fn malformed_bodies_are_refused_with_what_was_expected() {
    let lab = Lab::start().await;
    let cases = [
        ("/v1/heartbeat", "", "EOF"),
        ("/v1/heartbeat", "{", "EOF"),
        ("/v1/heartbeat", r#"{"cluster":"orders","member":"broker-a"}"#, "missing field `seq`"),
        ("/v1/heartbeat", r#"{"cluster":"orders","member":"broker-a","seq":-1}"#, "seq"),
        (
            "/v1/heartbeat",
            r#"{"cluster":"orders","member":"broker-a","seq":1,"sequence":1}"#,
            "unknown field `sequence`",
        ),
        (
            "/v1/arrivals",
            r#"{"cluster":"orders","node":"node-1","received":1,"last_age":5}"#,
            "unknown field `last_age`",
        ),
        ("/v1/arrivals", r#"{"cluster":"orders","node":"node-1","received":1,"last_age_ms":-5}"#, "negative"),
        ("/v1/arrivals", r#"{"cluster":"orders","node":"node-1","received":1,"canaries":[""]}"#, "canary"),
        ("/v1/alerts", r#"{"alerts":[{"status":"burning","labels":{}}]}"#, "burning"),
        ("/v1/canary", "[[[[[[[[[[", "canary"),
    ];
    for (path, body, expected) in cases {
        let token = if path == "/v1/heartbeat" { "token-a" } else { "token-nodes" };
        let answer = lab.post(path, token, body).await;
        assert_eq!(answer.code, 400, "{body}: {answer:?}");
        assert!(answer.error().contains(expected), "{expected}: {answer:?}");
    }
    let deep = "[".repeat(50_000);
    assert_eq!(lab.post("/v1/heartbeat", "token-a", &deep).await.code, 400);
    assert_eq!(lab.rejected("http", "malformed"), cases.len() as u64 + 1);
    assert!(lab.seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn oversized_bodies_headers_and_arrays_are_refused() {
    let lab = Lab::start().await;
    let answer = lab.post("/v1/heartbeat", "token-a", &" ".repeat(limit::MAX_BODY + 1)).await;
    assert_eq!(answer.code, 413, "{answer:?}");
    let chunked =
        "POST /v1/heartbeat HTTP/1.1\r\nhost: x\r\nauthorization: Bearer token-a\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut io = lab.tcp().await;
    io.write_all(chunked.as_bytes()).await.unwrap();
    for _ in 0..20 {
        let _ = io.write_all(format!("2000\r\n{}\r\n", " ".repeat(0x2000)).as_bytes()).await;
    }
    let mut raw = vec![0; 4096];
    let length = timeout(Duration::from_secs(10), io.read(&mut raw)).await.unwrap().unwrap();
    assert_eq!(parse(&String::from_utf8_lossy(&raw[..length])).code, 413);
    assert_eq!(lab.rejected("http", "oversized"), 2);

    let element = r#"{"cluster":"orders","member":"broker-a","seq":1},"#;
    let mut array = format!("[{}", element.repeat(limit::MAX_BATCH + 1));
    array.truncate(array.len() - 1);
    array.push(']');
    assert!(array.len() < limit::MAX_BODY);
    assert_eq!(lab.post("/v1/heartbeat", "token-a", &array).await.code, 413);

    let answer = lab.get(&format!("/v1/status?{}", "x".repeat(40_000)), "token-view").await;
    assert!(matches!(answer.code, 414 | 431), "{answer:?}");
}

#[tokio::test]
async fn nobody_comes_in_without_an_identity() {
    let lab = Lab::start().await;
    for (path, token) in
        [("/v1/heartbeat", ""), ("/v1/heartbeat", "wrong"), ("/v1/command", ""), ("/v1/command", "token")]
    {
        let answer = lab.post(path, token, BEAT).await;
        assert_eq!(answer.code, 401, "{path} {token:?}");
        assert!(answer.error().contains("Authorization: Bearer"), "{answer:?}");
        assert!(answer.head.contains("www-authenticate"), "{answer:?}");
    }
    assert_eq!(lab.get("/v1/status", "").await.code, 401);
    assert_eq!(lab.get("/v1/clusters/orders/primary", "").await.code, 401);
    assert_eq!(lab.rejected("http", "unauthenticated"), 6);
    assert!(lab.seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_empty_access_list_closes_tcp_and_says_how_to_open_it() {
    let lab = Lab::with(Options::default(), |config| config.arbiter.access.clear()).await;
    let answer = lab.get("/v1/status", "token-view").await;
    assert_eq!(answer.code, 401);
    assert!(answer.error().contains("arbiter.access"), "{answer:?}");
    for path in ["/livez", "/metrics"] {
        assert_eq!(lab.get(path, "").await.code, 200, "{path}");
    }
}

#[tokio::test]
async fn identities_report_only_under_their_own_names() {
    let lab = Lab::start().await;
    let forged = BEAT.replace("broker-a", "broker-b");
    let answer = lab.post("/v1/heartbeat", "token-a", &forged).await;
    assert_eq!(answer.code, 403);
    assert!(answer.error().contains("reports_as"), "{answer:?}");
    let report = r#"{"cluster":"orders","node":"node-1","received":1}"#;
    assert_eq!(lab.post("/v1/arrivals", "token-a", report).await.code, 403);
    assert_eq!(lab.post("/v1/canary", "token-a", r#"{"cluster":"orders","node":"node-1","id":"x"}"#).await.code, 403);
    assert_eq!(lab.rejected("http", "forbidden"), 3);
    assert!(lab.seen.lock().unwrap().is_empty() && lab.receipts.received.lock().unwrap().is_empty());
    assert_eq!(lab.post("/v1/heartbeat", "token-a", &BEAT.replace("orders", "other")).await.code, 404);
}

#[tokio::test]
async fn roles_are_kept() {
    let lab = Lab::start().await;
    let resume = r#"{"command":"resume"}"#;
    for token in ["token-a", "token-view"] {
        let answer = lab.post("/v1/command", token, resume).await;
        assert_eq!(answer.code, 403, "{token}");
        assert!(answer.error().contains("operate"), "{answer:?}");
        assert_eq!(lab.post("/v1/reload", token, "").await.code, 403);
    }
    assert_eq!(lab.get("/v1/status", "token-a").await.code, 403);
    assert_eq!(lab.get("/v1/events", "token-a").await.code, 403);
    assert_eq!(lab.post("/v1/heartbeat", "token-operate", BEAT).await.code, 403);
    assert_eq!(lab.get("/v1/status", "token-operate").await.code, 200);
    let answer = lab.post("/v1/command", "token-operate", resume).await;
    assert_eq!((answer.code, answer.json()["text"].as_str()), (200, Some("done for alice")), "{answer:?}");
    let answer = lab.post("/v1/command", "token-operate", r#"{"command":"explode"}"#).await;
    assert!(answer.code == 400 && answer.error().contains("explode"), "{answer:?}");
    let answer = lab.post("/v1/reload", "token-operate", "").await;
    assert!(answer.code == 422 && answer.error().contains("line 3"), "{answer:?}");
}

#[tokio::test]
async fn fences_are_tested_by_operators_and_the_doctor_is_asked_by_viewers() {
    let lab = Lab::start().await;
    let path = "/v1/clusters/orders/fence-test";
    for token in ["token-a", "token-view"] {
        assert_eq!(lab.post(path, token, "{}").await.code, 403, "{token}");
    }
    assert_eq!(lab.get(path, "token-operate").await.code, 405);
    assert_eq!(lab.post(path, "token-operate", "").await.code, 200);
    let answer = lab.post(path, "token-operate", r#"{"member":"broker-a"}"#).await;
    assert_eq!((answer.code, &answer.json()["members"][0]["reaches"]), (200, &false.into()), "{answer:?}");
    let answer = lab.post(path, "token-operate", r#"{"members":[]}"#).await;
    assert!(answer.code == 400 && answer.error().contains("`member` and `method`"), "{answer:?}");

    assert_eq!(lab.get("/v1/doctor", "token-a").await.code, 403);
    let answer = lab.get("/v1/doctor?cluster=orders", "token-view").await;
    assert_eq!((answer.code, answer.json()["arbiter"].as_str()), (200, Some("arbiter-1")), "{answer:?}");
    let findings = answer.json()["findings"].as_array().unwrap().clone();
    assert!(
        findings.iter().any(|f| f["level"] == "fail" && f["text"] == "no_fence: ipmi does not answer"),
        "{answer:?}"
    );
    assert_eq!(lab.get("/v1/doctor?cluster=other", "token-view").await.code, 404);
    assert_eq!(lab.get("/v1/doctor?clutser=orders", "token-view").await.code, 400);
}

#[tokio::test]
async fn a_member_cannot_raise_an_alert_and_an_alert_system_can() {
    let lab = Lab::start().await;
    let body =
        r#"{"version":"4","alerts":[{"status":"firing","labels":{"alertname":"DiskFull","host":"a"},"startsAt":"x"}]}"#;
    assert_eq!(lab.post("/v1/alerts", "token-a", body).await.code, 403);
    assert!(lab.seen.lock().unwrap().is_empty());
    let answer = lab.post("/v1/alerts", "token-alerts", body).await;
    assert_eq!((answer.code, answer.json()["signals"].as_u64()), (200, Some(1)), "{answer:?}");
    until("the alert", || lab.seen.lock().unwrap().len() == 1).await;
    assert_eq!(lab.seen.lock().unwrap()[0].outcome, Outcome::Fact(Fact::Alert { firing: true }));
    let other = body.replace("DiskFull", "Other");
    assert_eq!(lab.post("/v1/alerts", "token-alerts", &other).await.json()["signals"], 0);
}

#[tokio::test]
async fn a_number_seen_before_is_refused() {
    let lab = Lab::start().await;
    let body = r#"{"cluster":"orders","member":"broker-a","seq":7,"session":1}"#;
    assert_eq!(lab.post("/v1/heartbeat", "token-a", body).await.code, 200);
    let answer = lab.post("/v1/heartbeat", "token-a", body).await;
    assert!(answer.code == 409 && answer.error().contains("seen before"), "{answer:?}");
    assert_eq!(lab.rejected("http", "replayed"), 1);
}

#[tokio::test]
async fn a_flood_is_cut_off_and_counted_and_others_are_not_hurt() {
    let lab = Lab::start().await;
    let element = r#"{"cluster":"orders","member":"nobody","seq":1},"#;
    let mut array = format!("[{}", element.repeat(limit::MAX_BATCH));
    array.truncate(array.len() - 1);
    array.push(']');
    let mut codes = Vec::new();
    for _ in 0..30 {
        codes.push(lab.post("/v1/heartbeat", "token-a", &array).await.code);
        if codes.last() == Some(&429) {
            break;
        }
    }
    assert_eq!(codes.last(), Some(&429), "{codes:?}");
    assert!(lab.rejected("http", "flood") >= 1);
    let other = BEAT.replace("broker-a", "broker-b");
    assert_eq!(lab.post("/v1/heartbeat", "token-b", &other).await.code, 200);
}

#[tokio::test]
async fn a_decision_that_is_behind_is_told_to_the_sender() {
    let lab = Lab::start().await;
    lab.stuck.store(true, Ordering::Relaxed);
    let mut answer = lab.post("/v1/heartbeat", "token-a", BEAT).await;
    for _ in 0..100 {
        if answer.code != 200 {
            break;
        }
        answer = lab.post("/v1/heartbeat", "token-a", BEAT).await;
    }
    assert!(answer.code == 503 && answer.head.contains("retry-after"), "{answer:?}");
    assert!(lab.rejected("http", "overloaded") >= 1);
    lab.stuck.store(false, Ordering::Relaxed);
    until("the queue is empty", || lab.seen.lock().unwrap().len() >= 64).await;
    assert_eq!(lab.post("/v1/heartbeat", "token-a", BEAT).await.code, 200);
}

#[tokio::test]
async fn a_long_poll_returns_when_the_epoch_grows() {
    let lab = Lab::start().await;
    let path = "/v1/clusters/orders/primary";
    assert_eq!(lab.get(path, "token-nodes").await.json()["primary"], "broker-a");
    assert_eq!(lab.get(&format!("{path}?epoch=2&wait=30s"), "token-nodes").await.code, 200);
    assert_eq!(lab.get(&format!("{path}?epoch=3&wait=20ms"), "token-nodes").await.code, 304);
    assert_eq!(lab.get(&format!("{path}?epoch=3&wait=30"), "token-nodes").await.code, 400);
    assert_eq!(lab.get("/v1/clusters/nope/primary", "token-nodes").await.code, 404);
    lab.primary.send_modify(|view| (view.epoch, view.primary) = (Epoch(4), None));
    let none = lab.get(&format!("{path}?epoch=3&wait=20ms"), "token-nodes").await;
    assert_eq!((none.code, none.json()["primary"].is_null()), (200, true));
    let path = format!("{path}?epoch=3&wait=30s");
    let waiting = lab.get(&path, "token-nodes");
    let promoted = async {
        until("the waiter", || lab.metrics.api_waiters.get() == 1).await;
        lab.primary.send_modify(|view| view.primary = Some("broker-b".into()));
    };
    let (answer, ()) = tokio::join!(waiting, promoted);
    assert_eq!(answer.json()["primary"], "broker-b");
    assert_eq!(lab.metrics.api_waiters.get(), 0);
}

#[tokio::test]
async fn waiters_are_bounded() {
    let limits = Limits { waiters: 1, ..Limits::default() };
    let lab = Lab::with(Options { limits, ..Options::default() }, |_| {}).await;
    let path = "/v1/clusters/orders/primary?epoch=3&wait=30s";
    let first = lab.get(path, "token-nodes");
    let second = async {
        until("the waiter", || lab.metrics.api_waiters.get() == 1).await;
        let answer = lab.get(path, "token-nodes").await;
        lab.primary.send_modify(|view| view.epoch = Epoch(4));
        answer
    };
    let (first, second) = tokio::join!(first, second);
    assert_eq!((first.code, second.code), (200, 503));
}

#[tokio::test]
async fn health_says_what_is_missing() {
    let lab = Lab::start().await;
    assert_eq!(lab.get("/livez", "").await.code, 200);
    let answer = lab.get("/readyz", "").await;
    assert_eq!(answer.code, 503);
    assert!(answer.body.contains("orders: no_fence: ipmi does not answer"), "{answer:?}");
    lab.ready.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(250)).await;
    assert_eq!(lab.get("/readyz", "").await.code, 200);
    let text = lab.get("/metrics", "").await.body;
    for line in [
        "coroner_failover_ready{cluster=\"orders\"} 1",
        "coroner_guard{cluster=\"orders\",guard=\"no_fence\"} 0",
        "coroner_incidents_unacknowledged{cluster=\"orders\"} 1",
        "coroner_signal_age_seconds{cluster=\"orders\",observer=\"broker-a\",signal=\"heartbeat\",subject=\"broker-a\"} 0.25",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

#[tokio::test]
async fn health_fails_when_the_decision_loop_hangs() {
    let limits = Limits { answer: Duration::from_millis(50), ..Limits::default() };
    let lab = Lab::with(Options { limits, ..Options::default() }, |_| {}).await;
    lab.stuck.store(true, Ordering::Relaxed);
    let _ = lab.get("/livez", "").await;
    assert_eq!(lab.get("/livez", "").await.code, 503);
    assert_eq!(lab.get("/readyz", "").await.code, 503);
    assert!(lab.get("/metrics", "").await.body.contains("coroner_scrape_refreshed 0"));
    assert_eq!(lab.get("/v1/status", "token-view").await.code, 503);
}

#[tokio::test]
async fn wrong_routes_and_methods_are_explained() {
    let lab = Lab::start().await;
    let answer = lab.get("/v2/status", "token-view").await;
    assert!(answer.code == 404 && answer.error().contains("/v1/"), "{answer:?}");
    let answer = lab.get("/v1/heartbeat", "token-a").await;
    assert!(answer.code == 405 && answer.head.contains("allow: post"), "{answer:?}");
    assert!(answer.error().contains("GET"), "{answer:?}");
    let answer = lab.get("/v1/incidents?limit=many", "token-view").await;
    assert!(answer.code == 400 && answer.error().contains("limit=NUMBER"), "{answer:?}");
    assert_eq!(lab.get("/v1/incidents?limit=1", "token-view").await.json()[0]["id"], "01INCIDENT");
    assert_eq!(lab.get("/v1/incidents/nope", "token-view").await.code, 404);
    assert_eq!(lab.get("/v1/clusters/nope/why", "token-view").await.code, 404);
    assert_eq!(lab.get("/v1/epoch", "token-nodes").await.json()["orders"]["epoch"], 3);
}

#[tokio::test]
async fn notices_stream_as_events() {
    let lab = Lab::start().await;
    let mut io = lab.tcp().await;
    let request = "GET /v1/events?cluster=orders HTTP/1.1\r\nhost: x\r\nauthorization: Bearer token-view\r\n\r\n";
    io.write_all(request.as_bytes()).await.unwrap();
    until("the subscriber", || lab.metrics.api_waiters.get() == 1).await;
    for cluster in ["other", "orders"] {
        let primary = Some("broker-b".into());
        lab.notices.send(timed(Notice::PrimaryChanged { cluster: cluster.into(), primary, epoch: Epoch(9) })).unwrap();
    }
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while !text.contains("primary_changed") {
        let length = timeout(Duration::from_secs(10), io.read(&mut buffer)).await.unwrap().unwrap();
        assert!(length > 0, "{text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    assert!(text.contains("text/event-stream") && text.contains("event: notice"), "{text}");
    assert!(!text.contains("other"), "{text}");
    drop(io);
    until("the subscriber is gone", || lab.metrics.api_waiters.get() == 0).await;
}

#[tokio::test]
async fn slow_clients_are_closed() {
    let short = Duration::from_millis(100);
    let limits = Limits { first_request: short, header: short, body: short, ..Limits::default() };
    let lab = Lab::with(Options { limits, ..Options::default() }, |_| {}).await;
    for half in ["", "GET /livez HTTP/1.1\r\nhost: x\r\nx-slow"] {
        let mut io = lab.tcp().await;
        io.write_all(half.as_bytes()).await.unwrap();
        let mut raw = Vec::new();
        timeout(Duration::from_secs(10), io.read_to_end(&mut raw)).await.expect("still open").ok();
    }
    assert_eq!(lab.metrics.api_refused.with_label_values(&["slow"]).get(), 2);
    let mut io = lab.tcp().await;
    let request =
        "POST /v1/heartbeat HTTP/1.1\r\nhost: x\r\nauthorization: Bearer token-a\r\ncontent-length: 9\r\n\r\n{";
    io.write_all(request.as_bytes()).await.unwrap();
    let mut raw = Vec::new();
    timeout(Duration::from_secs(10), io.read_to_end(&mut raw)).await.expect("still open").ok();
    assert_eq!(parse(&String::from_utf8_lossy(&raw)).code, 408);
    until("all are closed", || lab.metrics.api_connections.with_label_values(&["tcp"]).get() == 0).await;
}

#[tokio::test]
async fn connections_are_bounded() {
    let limits = Limits { connections: 2, ..Limits::default() };
    let lab = Lab::with(Options { limits, ..Options::default() }, |_| {}).await;
    let _held = (lab.tcp().await, lab.tcp().await);
    until("two are open", || lab.metrics.api_connections.with_label_values(&["tcp"]).get() == 2).await;
    let mut third = lab.tcp().await;
    let mut raw = Vec::new();
    timeout(Duration::from_secs(10), third.read_to_end(&mut raw)).await.expect("still open").ok();
    assert_eq!(lab.metrics.api_refused.with_label_values(&["full"]).get(), 1);

    let limits = Limits { connections_per_address: 1, ..Limits::default() };
    let lab = Lab::with(Options { limits, ..Options::default() }, |_| {}).await;
    let _held = lab.tcp().await;
    until("one is open", || lab.metrics.api_connections.with_label_values(&["tcp"]).get() == 1).await;
    let mut second = lab.tcp().await;
    timeout(Duration::from_secs(10), second.read_to_end(&mut raw)).await.expect("still open").ok();
    assert_eq!(lab.metrics.api_refused.with_label_values(&["address"]).get(), 1);
}

#[tokio::test]
async fn the_unix_socket_serves_its_own_user_and_is_closed_to_others() {
    let lab = Lab::start().await;
    let mode = std::fs::metadata(&lab.running.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let answer = lab.ask_socket("POST", "/v1/command", r#"{"command":"resume"}"#).await;
    assert!(answer.code == 200 && answer.body.contains("on the control socket"), "{answer:?}");
    assert_eq!(lab.ask_socket("POST", "/v1/heartbeat", BEAT).await.code, 200);
    assert_eq!(lab.ask_socket("GET", "/v1/status", "").await.code, 200);
    let socket = lab.stop().await;
    assert!(!socket.exists(), "the socket's file stays behind");
}

#[tokio::test]
async fn other_users_of_the_host_need_to_be_named() {
    const NOBODY: u32 = 65_534;
    assert!(nix::unistd::Uid::effective().is_root(), "this test changes users: run it as root");
    for (operators, expected) in [(vec![1], 403), (vec![NOBODY], 200)] {
        let lab = Lab::with(Options::default(), |config| {
            config.arbiter.socket_operators = operators;
            config.arbiter.socket =
                std::env::temp_dir().join(format!("coroner-api-{expected}-{}.sock", std::process::id()));
        })
        .await;
        // curl as another user: the kernel says who connects.
        let output = tokio::process::Command::new("curl")
            .args(["-s", "-w", "\n%{http_code}", "--unix-socket"])
            .arg(&lab.running.socket)
            .arg("http://x/v1/status")
            .uid(NOBODY)
            .output()
            .await
            .expect("curl is needed: apt-get install curl");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.ends_with(&expected.to_string()), "{text}");
        assert_eq!(text.contains("socket_operators"), expected == 403, "{text}");
        lab.stop().await;
    }
}

#[tokio::test]
async fn a_socket_that_answers_is_not_taken_over_and_a_stale_one_is() {
    use coroner::api::{StartError, serve};
    let lab = Lab::start().await;
    let serve_again = || {
        let receipts = std::sync::Arc::new(crate::lab::Receipts::default());
        let mut config = (*lab.handle.config()).clone();
        (config.arbiter.http, config.arbiter.udp) = (None, None);
        lab.config.store(std::sync::Arc::new(config));
        serve(lab.handle.clone(), receipts, std::sync::Arc::clone(&lab.metrics), std::future::pending())
    };
    let error = serve_again().await.unwrap_err();
    assert!(matches!(error, StartError::Listen { .. }) && error.to_string().contains("another process"), "{error}");

    let directory = tempfile::tempdir().unwrap();
    let stale = directory.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    let mut config = (*lab.handle.config()).clone();
    config.arbiter.socket = stale.clone();
    lab.config.store(std::sync::Arc::new(config));
    assert_eq!(serve_again().await.unwrap().socket, stale);
}

#[tokio::test]
async fn a_reload_changes_who_may_come_in() {
    let lab = Lab::start().await;
    let mut config = (*lab.handle.config()).clone();
    config.arbiter.access.retain(|access| access.name != "broker-a");
    lab.config.store(std::sync::Arc::new(config));
    assert_eq!(lab.post("/v1/heartbeat", "token-a", BEAT).await.code, 401);
}

#[tokio::test]
async fn a_shutdown_ends_streams_and_long_polls() {
    let lab = Lab::start().await;
    let mut poll = lab.tcp().await;
    let request =
        "GET /v1/clusters/orders/primary?epoch=3&wait=60s HTTP/1.1\r\nhost: x\r\nauthorization: Bearer token-a\r\n\r\n";
    poll.write_all(request.as_bytes()).await.unwrap();
    until("the waiter", || lab.metrics.api_waiters.get() == 1).await;
    lab.stop().await;
    let mut raw = Vec::new();
    timeout(Duration::from_secs(10), poll.read_to_end(&mut raw)).await.expect("still open").unwrap();
    assert_eq!(parse(&String::from_utf8_lossy(&raw)).code, 304);
}

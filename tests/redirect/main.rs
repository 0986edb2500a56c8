//! Does every node learn the new primary, and is it told truly who did not?

#![expect(clippy::unwrap_used, reason = "a test that meets what it did not expect has failed")]

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, extract::State, http::StatusCode, routing::post};
use coroner::{
    model::{Epoch, NodeTarget, Order, Secret, StepResult, Target},
    redirect::{AnyRedirect, Redirect, exec::Exec, file::File, http::Http},
    sys::clock::Stopwatch,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

const LONG: Duration = Duration::from_secs(20);

fn order(epoch: u64) -> Order {
    let target = Target { cluster: "orders".into(), member: "broker-b".into(), address: "10.0.0.12:6379".into() };
    Order { target, epoch: Epoch(epoch), incident: "01JTEST".into() }
}

fn build(redirect: AnyRedirect) -> Box<dyn Redirect> {
    redirect.build().unwrap()
}

fn node(name: &str, address: Option<String>) -> NodeTarget {
    NodeTarget { node: name.into(), address }
}

/// How a node answers.
#[derive(Clone, Default)]
struct Node {
    /// Refuses so many times first.
    refusals: usize,
    /// Then this status; 0 stands for no answer at all.
    status: u16,
    asked: Arc<AtomicUsize>,
    heard: Arc<Mutex<Vec<Value>>>,
}

async fn notice(State(node): State<Node>, headers: axum::http::HeaderMap, body: String) -> StatusCode {
    assert_eq!(headers["authorization"], "Bearer hunter2");
    if node.asked.fetch_add(1, Ordering::SeqCst) < node.refusals {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    if node.status == 0 {
        std::future::pending::<()>().await;
    }
    node.heard.lock().unwrap().push(serde_json::from_str(&body).unwrap());
    StatusCode::from_u16(node.status).unwrap()
}

async fn listen(node: &Node) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let app = Router::new().route("/primary", post(notice)).with_state(node.clone());
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    address
}

fn http() -> Http {
    let headers = [("authorization".to_owned(), Secret::new("Bearer hunter2".into()))].into();
    Http { headers, ..Http::default() }
}

/// H10: some nodes cannot be told; each is named with its reason, and nobody waits for the slowest one.
#[tokio::test]
async fn h10_each_node_is_told_and_the_laggards_are_named() {
    let (good, slow, ahead, silent, forbidden) = (
        Node { status: 204, ..Node::default() },
        Node { status: 200, refusals: 2, ..Node::default() },
        Node { status: 409, ..Node::default() },
        Node::default(),
        Node { status: 403, ..Node::default() },
    );
    let nodes = [
        node("good", Some(listen(&good).await)),
        node("slow", Some(listen(&slow).await)),
        node("ahead", Some(listen(&ahead).await)),
        node("silent", Some(listen(&silent).await)),
        node("forbidden", Some(listen(&forbidden).await)),
        node("closed", Some("127.0.0.1:1".into())),
        node("asks for itself", None),
    ];
    let watch = Stopwatch::start();
    let deadline = Duration::from_secs(2);
    let result = build(AnyRedirect::Http(http())).redirect(&order(7), &nodes, deadline).await;
    assert!(watch.elapsed() < deadline + Duration::from_secs(1), "{:?}", watch.elapsed());
    let StepResult::Told { acknowledged, failed } = result else { panic!("{result:?}") };
    assert_eq!(acknowledged, ["good".into(), "slow".into()]);
    let failed: BTreeMap<String, String> = failed.into_iter().map(|(n, why)| (n.to_string(), why)).collect();
    assert_eq!(failed.keys().collect::<Vec<_>>(), ["ahead", "closed", "forbidden", "silent"]);
    assert!(failed["ahead"].contains("larger epoch"), "{failed:?}");
    assert!(failed["closed"].contains("refused"), "{failed:?}");
    assert!(failed["silent"].contains("no answer within"), "{failed:?}");
    assert!(failed["forbidden"].contains("403"), "{failed:?}");
    // Who refuses for good is not asked again.
    assert_eq!((ahead.asked.load(Ordering::SeqCst), forbidden.asked.load(Ordering::SeqCst)), (1, 1));
    let said = json!({
        "cluster": "orders", "primary": "broker-b", "address": "10.0.0.12:6379", "epoch": 7, "incident": "01JTEST"
    });
    assert_eq!(*good.heard.lock().unwrap(), [said]);
}

#[tokio::test]
async fn a_proxy_may_be_told_in_its_own_words() {
    let proxy = Node { status: 200, ..Node::default() };
    let address = listen(&proxy).await;
    let config = Http {
        urls: vec![format!("http://{address}/primary?token=hunter2")],
        body: Some(r#"{"server": "{{ host }}:{{ port }}", "version": {{ epoch }}}"#.into()),
        ..http()
    };
    let result = build(AnyRedirect::Http(config)).redirect(&order(7), &[], LONG).await;
    let StepResult::Told { acknowledged, failed } = result else { panic!("{result:?}") };
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(acknowledged, [format!("http://{address}/primary").as_str().into()]);
    assert_eq!(*proxy.heard.lock().unwrap(), [json!({"server": "10.0.0.12:6379", "version": 7})]);
}

#[tokio::test]
async fn nobody_to_tell_is_done_and_an_older_epoch_is_not_announced() {
    let redirect = build(AnyRedirect::Http(http()));
    let result = redirect.redirect(&order(7), &[node("n", None)], LONG).await;
    assert!(matches!(result, StepResult::Done(_)), "{result:?}");
    let result = redirect.redirect(&order(6), &[], LONG).await;
    assert!(matches!(&result, StepResult::Failed(e) if !e.may_have_happened), "{result:?}");
}

#[tokio::test]
async fn h1_a_program_tells_and_its_failure_is_uncertain() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let sh = |text: String| Exec { command: vec!["sh".into(), "-c".into(), text], ..Exec::default() };
    let text = format!("echo $CORONER_ACTION $CORONER_MEMBER $CORONER_ADDRESS $CORONER_EPOCH > {}", log.display());
    let result = build(AnyRedirect::Exec(sh(text))).redirect(&order(7), &[], LONG).await;
    assert!(matches!(result, StepResult::Done(_)), "{result:?}");
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "redirect broker-b 10.0.0.12:6379 7\n");
    for text in ["exit 1", "sleep 306"] {
        let watch = Stopwatch::start();
        let result = build(AnyRedirect::Exec(sh(text.into()))).redirect(&order(7), &[], Duration::from_secs(1)).await;
        assert!(matches!(&result, StepResult::Failed(e) if e.may_have_happened), "{result:?}");
        assert!(watch.elapsed() < Duration::from_secs(3));
    }
    let missing = Exec { command: vec!["/no/such/program".into()], ..Exec::default() };
    let result = build(AnyRedirect::Exec(missing)).redirect(&order(7), &[], LONG).await;
    assert!(matches!(&result, StepResult::Failed(e) if !e.may_have_happened), "{result:?}");
}

#[tokio::test]
async fn a_file_is_written_whole_and_the_reload_runs() {
    let dir = tempfile::tempdir().unwrap();
    let (path, log) = (dir.path().join("haproxy.cfg"), dir.path().join("log"));
    let reload = format!("cat {} >> {}", path.display(), log.display());
    let config = File {
        path: path.to_str().unwrap().into(),
        template: Some("server {{ member }} {{ address }} # {{ epoch }}\n".into()),
        reload: vec!["sh".into(), "-c".into(), reload],
        ..File::default()
    };
    let redirect = build(AnyRedirect::File(config.clone()));
    for _ in 0..2 {
        let result = redirect.redirect(&order(7), &[], LONG).await;
        assert!(matches!(result, StepResult::Done(_)), "{result:?}");
    }
    let line = "server broker-b 10.0.0.12:6379 # 7\n";
    assert_eq!(std::fs::read_to_string(&path).unwrap(), line);
    assert_eq!(std::fs::read_to_string(&log).unwrap(), line.repeat(2));

    let failing = File { reload: vec!["false".into()], ..config.clone() };
    let result = build(AnyRedirect::File(failing)).redirect(&order(8), &[], LONG).await;
    assert!(matches!(&result, StepResult::Failed(e) if e.may_have_happened), "{result:?}");
    let unknown = File { template: Some("{{ primry }}".into()), ..config.clone() };
    let result = build(AnyRedirect::File(unknown)).redirect(&order(9), &[], LONG).await;
    assert!(matches!(&result, StepResult::Failed(e) if !e.may_have_happened), "{result:?}");
    assert!(std::fs::read_to_string(&path).unwrap().contains("# 8"), "a failed template leaves the file alone");

    for bad in [
        File { template: Some("{{ member".into()), ..config.clone() },
        File { template: None, ..config.clone() },
        File { template_file: Some("/no/such/file".into()), template: None, ..config.clone() },
        File { path: String::new(), ..config },
    ] {
        assert!(AnyRedirect::File(bad).build().is_err());
    }
}

//! Bodies over HTTP, by the real routes to the real engine: answered in JSON whatever comes, and nothing told or done by
//! whom it is not allowed to.
//!
//! An input is a list of requests, separated by the byte 0xff, which no JSON holds. The first byte of each says which route
//! and whose token.

use std::time::Duration;

use axum::{
    body::Body,
    http::{Request, StatusCode},
};
use coroner::{
    api::limit::{MAX_BATCH, MAX_CANARIES},
    arbiter::handle::Seen,
    model::{Fact, Observer, Outcome},
};
use serde_json::Value;

use super::{
    Reached,
    house::{CONFIG, House, may_report_as, token_of},
};

const ROUTES: [&str; 8] = [
    "/v1/heartbeat",
    "/v1/arrivals",
    "/v1/canary",
    "/v1/alerts",
    "/v1/command",
    "/v1/clusters/orders/fence-test",
    "/v1/reload",
    "/v1/nothing",
];
const WHO: [&str; 8] = ["redis-a", "redis-b", "nodes", "alertmanager", "grafana", "alice", "nobody", ""];
/// What an input may ask.
const REQUESTS: usize = 32;

pub fn run(input: &[u8]) -> Reached {
    let mut house = House::new();
    let mut is_taken = false;
    for chunk in input.split(|byte| *byte == 0xff).take(REQUESTS) {
        let Some((choice, body)) = chunk.split_first() else { continue };
        // Above the choices: time.
        if *choice >= 64 && body.len() < 4 {
            house.pass(Duration::from_millis(u64::from(*choice) * 100));
            continue;
        }
        let (route, who) = (ROUTES[usize::from(choice % 8)], WHO[usize::from(choice / 8 % 8)]);
        is_taken |= ask(&mut house, route, who, body);
        house.pass(Duration::from_millis(10));
    }
    Reached::of(is_taken)
}

fn request(route: &str, who: &str, body: &[u8]) -> Request<Body> {
    let mut request = Request::post(route);
    if !who.is_empty() {
        request = request.header("authorization", format!("Bearer {}", token_of(who)));
    }
    request.body(Body::from(body.to_vec())).expect("a request")
}

fn ask(house: &mut House, route: &str, who: &str, body: &[u8]) -> bool {
    let (response, answer) = house.answer(request(route, who, body));
    let status = response.status();
    let (seen, commanded, receipts) = (house.take_seen(), house.take_commanded(), house.take_receipts());
    let place = format!("{route} by {who:?}: {status}");

    let json: Value = serde_json::from_slice(&answer).unwrap_or_else(|e| panic!("{place}: the answer is no JSON: {e}"));
    assert!(status != StatusCode::INTERNAL_SERVER_ERROR, "{place}: {json}");
    if !status.is_success() {
        let text = json["error"].as_str().unwrap_or_default();
        assert!(!text.is_empty(), "{place}: refused without a word: {json}");
        assert!(
            answer.len() < 8 * body.len() + 4_096,
            "{place}: an answer of {} bytes to {}",
            answer.len(),
            body.len()
        );
    }
    // Who is nobody is told so, and nothing else happens.
    if who.is_empty() || who == "nobody" {
        let expected = if route == "/v1/nothing" { StatusCode::NOT_FOUND } else { StatusCode::UNAUTHORIZED };
        assert_eq!(status, expected, "{place}: {json}");
        assert!(seen.is_empty() && commanded.is_empty() && receipts.is_empty(), "{place}: {seen:?} {commanded:?}");
    }
    assert!(commanded.is_empty() || (who == "alice" && route == "/v1/command"), "{place}: {commanded:?}");
    assert!(seen.len() <= MAX_BATCH, "{place}: {} were told", seen.len());
    assert!(receipts.len() <= MAX_BATCH * MAX_CANARIES, "{place}");
    for one in &seen {
        check_seen(one, route, who);
    }
    for (node, id) in &receipts {
        assert!(may_report_as(who, node.as_str()), "{place}: receipts of {node}");
        assert!((1..=128).contains(&id.len()), "{place}: a canary of {} bytes", id.len());
    }
    if !status.is_success() && status != StatusCode::MULTI_STATUS {
        // Alerts are told one by one, and the queue has room for all.
        assert!(seen.is_empty() && receipts.is_empty(), "{place}: refused, and told all the same: {seen:?}");
    }
    // A number counts once in its session.
    let is_numbered = |body: &Value| body["session"].is_u64() && body["seq"].is_u64();
    let is_pushed = route == "/v1/heartbeat" || route == "/v1/arrivals";
    if is_pushed && status == StatusCode::OK && serde_json::from_slice(body).is_ok_and(|body: Value| is_numbered(&body))
    {
        let (again, _) = house.answer(request(route, who, body));
        assert_eq!(again.status(), StatusCode::CONFLICT, "{place}: taken twice");
        assert!(house.take_seen().is_empty());
        let _ = house.take_receipts();
    }
    !seen.is_empty() || !commanded.is_empty() || !receipts.is_empty()
}

/// Told by whom it may be, of what there is.
fn check_seen(seen: &Seen, route: &str, who: &str) {
    let place = format!("{route} by {who}: {seen:?}");
    let policy = CONFIG.policy.clusters.get(&seen.cluster).unwrap_or_else(|| panic!("{place}: no such cluster"));
    assert!(policy.signals.contains_key(&seen.signal), "{place}: no such signal");
    match (&seen.observer, &seen.outcome) {
        (Observer::Member(member), Outcome::Fact(Fact::Beat { .. })) => {
            assert!(route == "/v1/heartbeat" && may_report_as(who, member.as_str()), "{place}");
            assert!(policy.member(member).is_some() && seen.subject.as_ref() == Some(member), "{place}");
        }
        (Observer::Node(node), Outcome::Fact(Fact::Arrivals(_))) => {
            assert!(route == "/v1/arrivals" && may_report_as(who, node.as_str()), "{place}");
            assert!(policy.nodes.contains(node) && seen.subject.is_none(), "{place}");
        }
        (Observer::Arbiter, Outcome::Fact(Fact::Alert { .. })) => {
            assert!(route == "/v1/alerts" && who == "alertmanager", "{place}");
        }
        _ => panic!("{place}: nobody pushes that"),
    }
}

//! What people are told, and when it ends: Alertmanager, Markdown, files.

use serde_json::Value;

use crate::{
    http::{Answer, Server},
    world::{Options, World},
};

/// The newest state of the alert on a failover, as Alertmanager would hold it, and how many labelsets there were.
fn failover_alert(alertmanager: &Server) -> (Option<Value>, usize) {
    let alerts: Vec<Value> = alertmanager
        .requests()
        .iter()
        .filter(|request| request.path == "/api/v2/alerts")
        .flat_map(|request| request.json().as_array().cloned().unwrap_or_default())
        .filter(|alert| alert["labels"]["alertname"] == "CoronerFailover")
        .collect();
    let mut labels: Vec<String> = alerts.iter().map(|alert| alert["labels"].to_string()).collect();
    labels.sort();
    labels.dedup();
    (alerts.last().cloned(), labels.len())
}

fn ends_in_the_future(alert: &Value) -> bool {
    let moment = |name: &str| alert[name].as_str().unwrap_or_default().to_owned();
    // Both are written alike, so that they compare as texts; an open alert ends a month after it began.
    moment("endsAt") > moment("startsAt") && !is_resolved(alert)
}

fn is_resolved(alert: &Value) -> bool {
    let (Some(starts), Some(ends)) = (alert["startsAt"].as_str(), alert["endsAt"].as_str()) else { return false };
    // Resolved within this test: on the same day, or the next one.
    let starts: jiff::Timestamp = starts.parse().unwrap();
    let ends: jiff::Timestamp = ends.parse().unwrap();
    ends.as_second() - starts.as_second() < 86_400
}

#[test]
fn one_alert_updates_and_fires_until_somebody_takes_note() {
    let alertmanager = Server::start(|_| Answer::Status(200, String::new()));
    let report =
        format!("- {{ alertmanager: {{ url: \"http://{}\", labels: {{ team: messaging }} }} }}", alertmanager.address);
    let mut world = World::start(Options { report, ..Options::default() });
    world.member_mut("broker-a").kill();
    world.wait_primary("broker-b");
    world.wait_until("the end of the failover is told", |_| {
        failover_alert(&alertmanager).0.is_some_and(|alert| alert["annotations"].to_string().contains("is done"))
    });
    let (alert, labelsets) = failover_alert(&alertmanager);
    let alert = alert.unwrap();
    assert_eq!(labelsets, 1, "one alert");
    assert!(ends_in_the_future(&alert), "it fires still, though the failover is over: {alert:#}");
    assert_eq!((&alert["labels"]["cluster"], &alert["labels"]["team"]), (&"orders".into(), &"messaging".into()));
    assert_eq!(world.metric("coroner_incidents_unacknowledged{cluster=\"orders\"}"), Some(1.0));
    world.cli(&["incidents", "ack", "last", "--note", "looked at it"]).ok();
    world.wait_until("it is resolved", |_| failover_alert(&alertmanager).0.is_some_and(|alert| is_resolved(&alert)));
    assert_eq!(failover_alert(&alertmanager).1, 1, "it is the same alert that is resolved");
}

#[test]
fn an_alert_that_alertmanager_did_not_take_is_sent_after_a_restart_of_the_arbiter() {
    let alertmanager = Server::start(|_| Answer::Status(503, String::new()));
    let report = format!("- {{ alertmanager: {{ url: \"http://{}\" }} }}", alertmanager.address);
    let mut world = World::start(Options { report, ..Options::default() });
    world.member_mut("broker-a").kill();
    world.wait_primary("broker-b");
    world.wait_until("something was tried", |_| !alertmanager.requests().is_empty());
    world.kill_arbiter();
    let before = alertmanager.requests().len();
    alertmanager.answer(|_| Answer::Status(200, String::new()));
    world.run(&[]);
    world.wait_until("it is sent", |_| {
        let requests = alertmanager.requests();
        requests[before..].iter().any(|request| request.json().to_string().contains("CoronerFailover"))
    });
}

#[test]
fn the_report_of_a_failover_is_one_that_a_stranger_understands() {
    let mut world = World::start(Options::default());
    world.member_mut("broker-a").kill();
    world.wait_primary("broker-b");
    let text = world.cli_text(&["incidents", "show", "last"]).ok().out;
    for part in [
        "# Failover of orders: broker-a → broker-b",
        "the port is closed",
        "## Outage",
        "## Timeline",
        "## Steps",
        "fence broker-a by signal",
        "promote broker-b",
        "node-1",
        "Connection refused",
        "1 → 2",
    ] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
    let dir = world.dir().join("exported");
    let ran = world.cli(&["incidents", "export", "last", "--dir", &dir.display().to_string()]).ok();
    let files = ran.json().as_array().unwrap().len();
    assert_eq!(files, 2);
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("broker-b"));
        if path.extension().is_some_and(|e| e == "json") {
            let all: Value = serde_json::from_str(&text).unwrap();
            assert!(all["log"].as_array().unwrap().len() > 5, "the saga's log is in it");
        }
    }
}

//! The operator's verbs against the live arbiter, with their exit codes.

use std::time::Duration;

use crate::{
    http,
    node::token_of,
    world::{Options, World},
};

#[test]
fn a_healthy_cluster_as_every_verb_shows_it() {
    let mut world = World::start(Options::default());
    let text = world.cli_text(&["status"]).ok().out;
    for part in ["orders", "alive", "primary broker-a", "epoch 1", "ready", "node-3", "standby"] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
    let nagios = world.cli_text(&["status", "--nagios"]).ok().out;
    assert!(nagios.starts_with("CORONER OK"), "{nagios}");
    assert_eq!(world.cli(&["status"]).ok().json()["clusters"][0]["ready"], true);
    assert_eq!(world.cli(&["status", "payments"]).code, 65);
    assert_eq!(world.cli(&["why", "payments"]).code, 65);

    let why_not = world.cli(&["why-not", "orders"]).ok().json();
    assert_eq!(why_not["ready"], true);
    let epoch = world.cli_text(&["epoch"]).ok().out;
    assert_eq!(epoch.trim(), format!("1 broker-a {}", world.member("broker-a").address()));
    assert_eq!(world.cli(&["incidents", "list"]).ok().json(), serde_json::json!([]));
    assert_eq!(world.cli(&["incidents", "show", "last"]).code, 65);
    assert_eq!(world.cli(&["reload"]).code, 0);
    assert_eq!(world.cli(&["failover", "--dry-run"]).code, 0);

    // What makes no sense now.
    assert_eq!(world.cli(&["abort", "--yes"]).code, 75);
    assert_eq!(world.cli(&["continue"]).code, 75);
    assert_eq!(world.cli(&["rejoin", "broker-b"]).code, 75);
    assert_eq!(world.cli(&["rejoin", "broker-x"]).code, 65);
    assert_eq!(world.cli(&["adopt", "broker-x", "--yes"]).code, 65);
    assert_eq!(world.cli(&["fence", "confirm", "--checked", "the plug", "--yes"]).code, 75);
    assert_eq!(world.cli(&["switchover", "--to", "broker-a", "--yes"]).code, 107);
    assert_eq!(world.cli(&["failover", "--yes", "--skip-guard", "no_fence"]).code, 64);
    assert_eq!(world.cli(&["no-such-verb"]).code, 64);
    world.stays_untouched(Duration::from_millis(300));
    world.wait_ready();

    world.kill_arbiter();
    assert_eq!(world.cli(&["status"]).code, 69);
    assert_eq!(world.cli_text(&["status", "--nagios"]).code, 3);
}

#[test]
fn a_switchover_that_is_waited_for_loses_nothing_and_there_is_a_way_back() {
    let mut world = World::start(Options::default());
    world.member("broker-a").command(&["SET", "before", "1"]);
    assert_eq!(world.cli(&["switchover"]).code, 64, "a script has to say --yes");
    let ended = world.cli(&["switchover", "--yes", "--wait", "--reason", "new disk"]).ok();
    assert_eq!(ended.json()["state"], "resolved");
    world.wait_primary("broker-b");
    world.wait_standby("broker-a");
    assert_eq!(world.member("broker-b").command(&["GET", "before"]), "$1\r\n1\r\n");
    let incident = world.incident(&world.failovers()[0]["id"]);
    assert_eq!(incident["trigger"]["operator"]["reason"], "new disk");
    assert_eq!(incident["loss"]["behind"], 0, "{:#}", incident["loss"]);
    world.wait_ready();
    let text = world.cli_text(&["switchover", "--yes", "--wait", "--to", "broker-a"]).ok().out;
    assert!(text.contains("Resolved") && text.contains("epoch 3"), "{text}");
    world.wait_primary("broker-a");
    world.wait_standby("broker-b");
}

#[test]
fn an_old_primary_is_brought_back_when_a_person_says_so() {
    let mut world = World::start(Options { rejoin: "ask", ..Options::default() });
    world.member_mut("broker-a").kill();
    world.wait_primary("broker-b");
    world.member_mut("broker-a").restart();
    world.stays("it is left as it is", Duration::from_secs(2), |world| world.role("broker-a") == Some("master"));
    let ran = world.cli(&["rejoin", "broker-a", "--wait"]).ok();
    assert_eq!(ran.json()["kind"], "rejoin");
    world.wait_standby("broker-a");
}

#[test]
fn over_tcp_roles_decide_who_may_what() {
    let mut world = World::start(Options::default());
    let url = format!("http://{}", world.http);
    let file = |name: &str| world.dir().join(format!("{name}.token")).display().to_string();
    let (viewer, alice, node) = (file("viewer"), file("alice"), file("node-1"));
    let as_ = |token: &str, words: &[&str]| {
        let mut all = vec!["--url", &url, "--token-file", token];
        all.extend(words);
        world.cli(&all).code
    };
    assert_eq!(as_(&viewer, &["status"]), 0);
    assert_eq!(as_(&viewer, &["pause", "--reason", "mischief"]), 77);
    assert_eq!(as_(&node, &["status"]), 77);
    assert_eq!(as_(&alice, &["pause", "--reason", "work", "--for", "1h"]), 0);
    assert_eq!(world.cli(&["--url", &url, "status"]).code, 77);
    let pause = world.cluster().unwrap()["pause"].clone();
    assert!(pause["owner"].as_str().unwrap().contains("alice"), "{pause}");
    assert_eq!(as_(&alice, &["resume"]), 0);
    let forged = br#"{"command": "failover", "cluster": "orders", "reason": "mischief"}"#;
    let refused = |token: Option<&str>| http::tcp(world.http, "POST", "/v1/command", token, forged).unwrap().0;
    assert_eq!((refused(None), refused(Some(&token_of("viewer"))), refused(Some("guess"))), (401, 403, 401));
    world.stays_untouched(Duration::from_millis(500));
}

#[test]
fn a15_a_file_that_puts_the_arbiter_beside_a_member_is_refused_unless_it_says_so() {
    let world = World::start(Options { start: false, ..Options::default() });
    let text = std::fs::read_to_string(&world.config).unwrap();
    // Loopback is no sign of one host among several; an address of its own is.
    let text = text.replace(&format!("http: \"{}\"", world.http), "http: \"192.0.2.1:7400\"");
    let text = text.replace(&format!("127.0.0.1:{}", world.member("broker-a").port), "192.0.2.1:6379");
    std::fs::write(&world.config, &text).unwrap();
    let path = world.config.display().to_string();
    let ran = world.cli_text(&["check", &path]);
    let told = format!("{}{}", ran.out, ran.err);
    assert_eq!(ran.code, 78, "{told}");
    assert!(told.contains("put it on a third host"), "{told}");
    let text = text.replacen("arbiter:\n", "arbiter:\n  unsafe_colocated: true\n", 1);
    assert!(text.contains("unsafe_colocated"), "{text}");
    std::fs::write(&world.config, text).unwrap();
    let ran = world.cli_text(&["check", &path]);
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
}

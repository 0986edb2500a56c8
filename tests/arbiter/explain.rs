//! `why` and `why-not` during a live suspicion say what the incident records; modes decide who acts.

use std::time::Duration;

use serde_json::{Value, json};

use crate::world::{Options, RULES, World};

/// What a tree asks, and what it answers, without the values that change from moment to moment.
fn shape(tree: &Value) -> Value {
    let children: Vec<Value> = tree["children"].as_array().into_iter().flatten().map(shape).collect();
    json!([tree["asked"], tree["truth"], tree["observer"], tree["subject"], children])
}

fn leaves<'a>(tree: &'a Value, found: &mut Vec<&'a Value>) {
    match tree["children"].as_array().filter(|list| !list.is_empty()) {
        Some(children) => children.iter().for_each(|child| leaves(child, found)),
        None => found.push(tree),
    }
}

fn rule<'a>(view: &'a Value, name: &str) -> &'a Value {
    view["rules"].as_array().unwrap().iter().find(|r| r["rule"] == name).unwrap()
}

#[test]
fn why_says_during_a_suspicion_what_the_incident_records() {
    let mut world = World::start(Options::default());
    world.cli(&["pause", "--reason", "to look at it"]).ok();
    world.member("broker-a").freeze();
    // A starved machine makes silences of its own, which end: what counts is what comes to stay.
    let why = world.wait_for("it is believed dead, and `why` says so", |world| {
        let why = world.cli(&["why"]).ok().json();
        let said = (&why["primary"], &why["verdict"], &why["rule"]);
        (said == (&json!("broker-a"), &json!("dead"), &json!("silent to everyone"))).then_some(why)
    });
    let seen = rule(&why, "silent to everyone").clone();
    let mut all = Vec::new();
    leaves(&seen["tree"], &mut all);
    assert_eq!(all.len(), 4, "a ping and three nodes: {seen:#}");
    for leaf in all {
        assert!(leaf["age_ms"].as_f64().is_some_and(|age| age < 30_000.0), "{leaf:#}");
        assert!(leaf["observer"].is_string() && !leaf["seen"].as_str().unwrap().is_empty(), "{leaf:#}");
    }
    let text = world.cli_text(&["why"]).ok().out;
    assert!(text.contains("silent to everyone") && text.contains("node-2") && text.contains("last arrival"), "{text}");

    let why_not = world.wait_for("the pause alone stands in the way", |world| {
        let why_not = world.cli(&["why-not"]).ok().json();
        let guards = why_not["guards"].as_array().unwrap();
        let blocking: Vec<&Value> = guards.iter().filter(|g| g["blocks"] == true).map(|g| &g["guard"]).collect();
        (blocking == [&json!("paused")]).then(|| why_not.clone())
    });
    assert_eq!(why_not["ready"], false);
    let guards = why_not["guards"].as_array().unwrap();
    assert_eq!(guards.len(), 15, "all of them are listed");
    assert!(guards.iter().all(|g| !g["reason"].as_str().unwrap().is_empty()), "each with its reason: {guards:#?}");
    assert_eq!(why_not["candidates"][0]["member"], "broker-b");
    assert_eq!(why_not["candidates"][0]["rejected"], json!([]));
    assert!(why_not["least_change"].as_str().unwrap().contains("paused"), "{why_not:#}");

    world.cli(&["resume"]).ok();
    world.wait_primary("broker-b");
    let incident = world.incident(&world.failovers()[0]["id"]);
    let recorded = &incident["trigger"]["rule"];
    assert_eq!(recorded["rule"], why["rule"]);
    assert_eq!(shape(&recorded["tree"]), shape(&seen["tree"]));
    assert_eq!((&recorded["verdict"], &recorded["then"]), (&seen["verdict"], &seen["then"]));
    let guards = incident["guards"].as_array().unwrap();
    assert!(guards.len() == 15 && guards.iter().all(|g| g["blocks"] == false), "{guards:#?}");
}

#[test]
fn why_says_of_a_rule_that_does_not_hold_what_is_missing() {
    let mut world = World::start(Options::default());
    // The arbiter alone is cut off from it, as far as it can tell: the nodes still receive.
    for node in &world.nodes[..2] {
        node.lies(true);
    }
    world.wait_until("two nodes are silent", |world| {
        let why = world.get("/v1/clusters/orders/why").unwrap();
        rule(&why, "the port is closed")["tree"].to_string().contains("2 of 3")
    });
    let why = world.get("/v1/clusters/orders/why").unwrap();
    let found = rule(&why, "the port is closed");
    assert_eq!(found["truth"], "false");
    assert_eq!(found["tree"]["children"][0]["truth"], "false", "the ping: {found:#}");
    assert_eq!(found["tree"]["children"][2]["truth"], "true", "the nodes: {found:#}");
    world.stays_untouched(Duration::from_secs(1));
}

#[test]
fn in_manual_mode_a_person_approves() {
    let mut world = World::start(Options { mode: "manual", start: false, ..Options::default() });
    world.run(&[]);
    world.wait_until("all is known", |world| world.cluster().is_some_and(|c| c["verdict"] == "alive"));
    world.wait_until("the standby and the nodes are known", |world| world.blocking() == ["approval"]);
    world.member_mut("broker-a").kill();
    world.wait_until("it is believed dead", |world| world.cluster().is_some_and(|c| c["verdict"] == "dead"));
    world.stays_untouched(Duration::from_secs(2));
    let why_not = world.cli_text(&["why-not"]).ok().out;
    assert!(why_not.contains("`coroner failover` approves"), "{why_not}");
    assert!(world.metric("coroner_act_blocked_total{cluster=\"orders\",guard=\"approval\"}") >= Some(1.0));
    assert_eq!(world.cli(&["failover"]).code, 64, "a script has to say --yes");
    let ran = world.cli(&["failover", "--yes", "--wait", "--reason", "approved by me"]).ok();
    assert_eq!(ran.json()["state"], "resolved");
    world.wait_primary("broker-b");
    let incident = world.incident(&world.failovers()[0]["id"]);
    assert_eq!(incident["trigger"]["operator"]["reason"], "approved by me");
    assert!(incident["trigger"]["operator"]["by"].as_str().unwrap().contains("uid"));
}

#[test]
fn in_shadow_mode_it_judges_and_counts_and_never_acts() {
    let mut world = World::start(Options { mode: "shadow", start: false, ..Options::default() });
    world.run(&[]);
    world.wait_until("all is known", |world| world.cluster().is_some_and(|c| c["verdict"] == "alive"));
    world.member_mut("broker-a").kill();
    world.wait_until("it is believed dead", |world| world.cluster().is_some_and(|c| c["verdict"] == "dead"));
    world.stays_untouched(Duration::from_secs(3));
    let fired = "coroner_rule_fired_total{cluster=\"orders\",rule=\"the port is closed\",shadow=\"true\"}";
    assert!(world.metric(fired) >= Some(1.0));
}

#[test]
fn a_shadow_rule_is_counted_and_never_acts_beside_rules_that_do() {
    let rules = RULES.replace("then: failover", "then: failover\n  mode: shadow");
    let mut world = World::start(Options { rules, ..Options::default() });
    world.member_mut("broker-a").kill();
    let fired = "coroner_rule_fired_total{cluster=\"orders\",rule=\"the port is closed\",shadow=\"true\"}";
    world.wait_until("it is counted", |world| world.metric(fired) >= Some(1.0));
    world.stays_untouched(Duration::from_secs(2));
}

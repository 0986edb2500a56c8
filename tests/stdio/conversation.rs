//! Conversations, told word by word.

use serde_json::{Value, json};

use crate::{fake::converse, form};

const INIT: &str =
    r#"{"src":"c0","dest":"n1","body":{"type":"init","msg_id":1,"node_id":"n1","node_ids":["n1","n2"]}}"#;
const INIT_OK: &str = r#"{"src": "n1", "dest": "c0", "body": {"type": "init_ok", "in_reply_to": 1, "msg_id": 0}}"#;

/// Sends lines and gives back the bodies of the answers.
fn bodies(lines: &[&str]) -> Vec<Value> {
    let answers = converse(lines.join("\n").as_bytes());
    assert_eq!(answers.len(), lines.len(), "{answers:?}");
    answers.iter().zip(0..).map(|(line, msg_id)| form::check(line, msg_id)["body"].take()).collect()
}

/// A line from `c1` to `n1`.
fn line(msg_id: u64, mut body: Value) -> String {
    body["msg_id"] = msg_id.into();
    json!({ "src": "c1", "dest": "n1", "body": body }).to_string()
}

#[test]
fn the_published_samples_are_answered_byte_by_byte() {
    let status = r#"{"src":"c1","dest":"n1","body":{"type":"shadow_status","msg_id":2}}"#;
    assert_eq!(
        converse(format!("{INIT}\n{status}\n").as_bytes()),
        [
            INIT_OK,
            r#"{"src": "n1", "dest": "c1", "body": {"type": "shadow_status_ok", "in_reply_to": 2, "msg_id": 1, "primary": "n1", "shadow": "n2", "wal_lag_entries": 0, "wal_lag_ms": 0}}"#,
        ]
    );
    let failover = r#"{"src":"c1","dest":"n1","body":{"type":"trigger_failover","msg_id":2,"failed_master":"n1"}}"#;
    assert_eq!(
        converse(format!("{INIT}\n{failover}\n").as_bytes()),
        [
            INIT_OK,
            r#"{"src": "n1", "dest": "c1", "body": {"type": "trigger_failover_ok", "in_reply_to": 2, "msg_id": 1, "new_primary": "n2", "wal_entries_replayed": 0, "failover_time_ms": 450, "epoch": 2}}"#,
        ]
    );
}

#[test]
fn lag_is_created_and_a_failover_replays_it() {
    let mut lines = vec![INIT.to_owned(), line(2, json!({ "type": "pause_shadow" }))];
    lines.extend((3..8).map(|n| line(n, json!({ "type": "append", "key": "k", "message": { "n": n } }))));
    lines.push(line(8, json!({ "type": "shadow_status" })));
    lines.push(line(9, json!({ "type": "trigger_failover", "failed_master": "n1" })));
    lines.push(line(10, json!({ "type": "append", "value": "after" })));
    lines.push(line(11, json!({ "type": "read", "limit": 5 })));
    lines.push(line(12, json!({ "type": "read", "from": 6 })));
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let bodies = bodies(&lines);
    assert_eq!(bodies[1]["shadow"], "n2");
    assert_eq!((&bodies[2]["sequence"], &bodies[6]["sequence"]), (&json!(1), &json!(5)));
    assert_eq!((&bodies[7]["wal_lag_entries"], &bodies[7]["wal_lag_ms"]), (&json!(5), &json!(50)));
    assert_eq!((&bodies[8]["wal_entries_replayed"], &bodies[8]["new_primary"]), (&json!(5), &json!("n2")));
    assert_eq!((&bodies[9]["sequence"], &bodies[9]["epoch"]), (&json!(6), &json!(2)));
    assert_eq!(bodies[10]["messages"].as_array().unwrap().len(), 5);
    assert_eq!(bodies[10]["messages"][4], json!({ "sequence": 5, "epoch": 1, "key": "k", "message": { "n": 7 } }));
    assert_eq!(bodies[10]["next"], 6);
    assert_eq!(bodies[11]["messages"], json!([{ "sequence": 6, "epoch": 2, "message": "after" }]));
    assert_eq!(bodies[11]["next"], Value::Null);
}

#[test]
fn what_cannot_be_done_is_an_error_with_its_code_and_the_process_lives_on() {
    let failover = |failed: &str| line(2, json!({ "type": "trigger_failover", "failed_master": failed }));
    let elsewhere = r#"{"src":"c1","dest":"n7","body":{"type":"shadow_status","msg_id":2}}"#;
    let lines = [
        line(2, json!({ "type": "shadow_status" })),
        r#"{"src":"c0","dest":"n2","body":{"type":"init","msg_id":1,"node_id":"n1","node_ids":["n1"]}}"#.to_owned(),
        INIT.to_owned(),
        INIT.to_owned(),
        r#"{"src":"c0","dest":"n1","body":{"type":"init","msg_id":1,"node_id":"n1","node_ids":["n1"]}}"#.to_owned(),
        line(2, json!({ "type": "gossip" })),
        "{".to_owned(),
        elsewhere.to_owned(),
        failover("n3"),
        failover("n2"),
        failover("n1"),
        failover("n1"),
        failover("n2"),
        line(2, json!({ "type": "shadow_status" })),
    ];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let bodies = bodies(&lines);
    let code = |at: usize| bodies[at]["code"].as_u64();
    let codes: Vec<Option<u64>> = (0..bodies.len()).map(code).collect();
    let expected = [
        Some(11), // before `init`
        Some(12), // an `init` for somebody else
        None,
        None,     // said again: it is so already
        Some(22), // another `init`
        Some(10),
        Some(12),
        Some(1),
        Some(1),
        Some(22), // not the master
        None,
        Some(22), // a second one
        Some(11), // no shadow is left
        None,
    ];
    assert_eq!(codes, expected, "{bodies:#?}");
    assert_eq!((&bodies[13]["primary"], &bodies[13]["shadow"]), (&json!("n2"), &Value::Null));
    assert_eq!(bodies[13]["wal_lag_entries"], Value::Null);
}

#[test]
fn an_error_goes_to_whoever_can_be_read() {
    let answers = converse(b"garbage\n{\"src\":\"c7\",\"dest\":\"n1\",\"body\":{\"msg_id\":9,\xff\n\n  \n7");
    let heads: Vec<(Value, Value)> = answers
        .iter()
        .zip(0..)
        .map(|(line, msg_id)| {
            let mut answer = form::check(line, msg_id);
            assert_eq!(answer["body"]["code"], 12, "{line}");
            (json!([answer["src"].take(), answer["dest"].take()]), answer["body"]["in_reply_to"].take())
        })
        .collect();
    let unknown = (json!(["unknown", "unknown"]), Value::Null);
    assert_eq!(heads, [unknown.clone(), (json!(["n1", "c7"]), json!(9)), unknown]);
}

#[test]
fn answers_come_from_the_node_that_was_asked() {
    let answers = converse(format!("{INIT}\n{}", line(2, json!({"type":"read"})).replace("n1", "n2")).as_bytes());
    assert_eq!(form::check(&answers[1], 1)["src"], "n2");
}

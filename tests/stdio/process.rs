//! The binary itself, with real relays and a real arbiter behind it.

use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

use crate::talk::{Talk, processes_of, processes_with, until};

const INIT: &str =
    r#"{"src":"c0","dest":"n1","body":{"type":"init","msg_id":1,"node_id":"n1","node_ids":["n1","n2"]}}"#;
const INIT_OK: &str = r#"{"src": "n1", "dest": "c0", "body": {"type": "init_ok", "in_reply_to": 1, "msg_id": 0}}"#;

/// Sends two lines and the end of the input, as the published samples do; gives the second answer back.
fn sample(second: &str) -> Value {
    let mut talk = Talk::start(&[]);
    // Without an end of the last line: the end of the input is one.
    talk.send(format!("{INIT}\n{second}").as_bytes());
    talk.close();
    assert_eq!(talk.line(), INIT_OK, "byte by byte");
    let second = crate::form::check(&talk.line(), 1);
    assert_eq!(talk.ended(), Some(0));
    second
}

#[test]
fn the_first_published_sample() {
    let answer = sample(r#"{"src":"c1","dest":"n1","body":{"type":"shadow_status","msg_id":2}}"#);
    assert_eq!((&answer["src"], &answer["dest"]), (&json!("n1"), &json!("c1")));
    let body = &answer["body"];
    assert_eq!((&body["type"], &body["in_reply_to"]), (&json!("shadow_status_ok"), &json!(2)), "{body}");
    assert_eq!((&body["primary"], &body["shadow"]), (&json!("n1"), &json!("n2")), "{body}");
    assert!(body["wal_lag_entries"].is_u64() && body["wal_lag_ms"].is_u64(), "{body}");
}

#[test]
fn the_second_published_sample() {
    let answer =
        sample(r#"{"src":"c1","dest":"n1","body":{"type":"trigger_failover","msg_id":2,"failed_master":"n1"}}"#);
    let body = &answer["body"];
    assert_eq!((&body["type"], &body["in_reply_to"]), (&json!("trigger_failover_ok"), &json!(2)), "{body}");
    assert_eq!((&body["new_primary"], &body["wal_entries_replayed"]), (&json!("n2"), &json!(0)), "{body}");
    // A process was killed, seen dead, and another promoted: that takes some time, and not ten seconds.
    assert!(body["failover_time_ms"].as_u64().is_some_and(|ms| (1..30_000).contains(&ms)), "{body}");
}

#[test]
fn a_conversation_with_lag_and_a_failover_loses_nothing() {
    let mut talk = Talk::of(&["n1", "n2"], &[]);
    let mut written: Vec<Value> = Vec::new();
    let mut sequences: Vec<u64> = Vec::new();
    let mut append = |talk: &mut Talk, epoch: u64| {
        let message = json!({ "n": written.len(), "text": "ü\u{2028}\n", "numbers": [1.5, u64::MAX] });
        let appended = talk.done("append", json!({ "key": "k", "message": message.clone() }));
        assert_eq!(appended["epoch"], epoch);
        sequences.push(appended["sequence"].as_u64().unwrap());
        assert!(sequences.is_sorted_by(|a, b| a < b), "{sequences:?}");
        written.push(message);
    };
    let epoch = talk.done("append", json!({ "value": "first" }))["epoch"].as_u64().unwrap();
    for _ in 0..3 {
        append(&mut talk, epoch);
    }
    until("a shadow that has everything", || {
        (talk.done("shadow_status", json!({}))["wal_lag_entries"] == 0).then_some(())
    });

    assert_eq!(talk.done("pause_shadow", json!({}))["shadow"], "n2");
    let idle = talk.done("shadow_status", json!({}));
    assert_eq!((&idle["wal_lag_entries"], &idle["wal_lag_ms"]), (&json!(0), &json!(0)), "{idle}");
    for _ in 0..5 {
        append(&mut talk, epoch);
    }
    let behind = talk.done("shadow_status", json!({}));
    assert_eq!((&behind["wal_lag_entries"], &behind["primary"]), (&json!(5), &json!("n1")), "{behind}");
    let grown = until("a lag that grows", || {
        let ms = talk.done("shadow_status", json!({}))["wal_lag_ms"].as_u64().unwrap();
        (ms > behind["wal_lag_ms"].as_u64().unwrap()).then_some(ms)
    });
    assert!(grown > 0);

    talk.send(b"this is no line of the protocol\n");
    assert_eq!(talk.answer()["body"]["code"], 12);
    assert_eq!(talk.refused("trigger_failover", json!({ "failed_master": "n2" })).0, 22, "not the master");
    assert_eq!(talk.refused("trigger_failover", json!({ "failed_master": "n3" })).0, 1, "no such node");

    let done = talk.done("trigger_failover", json!({ "failed_master": "n1" }));
    assert_eq!((&done["new_primary"], &done["wal_entries_replayed"]), (&json!("n2"), &json!(5)), "{done}");
    assert_eq!(done["epoch"], epoch + 1, "{done}");

    let status = talk.done("shadow_status", json!({}));
    assert_eq!((&status["primary"], &status["shadow"]), (&json!("n2"), &Value::Null), "{status}");
    append(&mut talk, epoch + 1);
    let (code, text) = talk.refused("trigger_failover", json!({ "failed_master": "n1" }));
    assert_eq!(code, 22, "a second failover: {text}");
    let (code, text) = talk.refused("trigger_failover", json!({ "failed_master": "n2" }));
    assert_eq!(code, 11, "no shadow is left: {text}");
    assert_eq!(talk.refused("pause_shadow", json!({})).0, 11);

    written.insert(0, json!("first"));
    assert_eq!(talk.read_all(), written, "everything, once, in order");
    let last = talk.done("read", json!({ "from": sequences.last().unwrap() }));
    assert_eq!(last["messages"].as_array().unwrap().len(), 1);
    assert_eq!((&last["messages"][0]["key"], &last["messages"][0]["epoch"]), (&json!("k"), &json!(epoch + 1)));
    assert_eq!(talk.done("read", json!({ "from": u64::MAX }))["messages"], json!([]));
    talk.finish();
}

#[test]
fn of_three_nodes_two_may_fail_and_a_killed_one_is_failed_over() {
    let mut talk = Talk::of(&["n1", "n2", "n3"], &[]);
    talk.done("append", json!({ "message": 1 }));
    assert_eq!(talk.done("pause_shadow", json!({}))["shadow"], "n2");
    talk.done("append", json!({ "message": 2 }));
    assert_eq!(talk.done("resume_shadow", json!({}))["shadow"], "n2");
    until("a shadow that caught up", || (talk.done("shadow_status", json!({}))["wal_lag_entries"] == 0).then_some(()));

    // A real death: the fence finds nobody to stop.
    let dir = talk.dir.path().display().to_string();
    let master = processes_of(talk.dir.path()).into_iter().find(|pid| processes_with("--name n1 ").contains(pid));
    kill(nix::unistd::Pid::from_raw(master.expect(&dir)), Signal::SIGKILL).unwrap();
    assert_eq!(talk.done("trigger_failover", json!({ "failed_master": "n1" }))["new_primary"], "n2");
    talk.done("append", json!({ "message": 3 }));
    let status = talk.done("shadow_status", json!({}));
    assert_eq!((&status["primary"], &status["shadow"]), (&json!("n2"), &json!("n3")), "{status}");

    assert_eq!(talk.done("trigger_failover", json!({ "failed_master": "n2" }))["new_primary"], "n3");
    talk.done("append", json!({ "message": 4 }));
    assert_eq!(talk.refused("trigger_failover", json!({ "failed_master": "n3" })).0, 11);
    assert_eq!(talk.read_all(), [1, 2, 3, 4]);
    talk.finish();
}

#[test]
fn one_node_alone_serves_and_cannot_be_failed_over() {
    let mut talk = Talk::of(&["n1"], &[]);
    talk.done("append", json!({ "message": "alone" }));
    let status = talk.done("shadow_status", json!({}));
    assert_eq!((&status["primary"], &status["shadow"]), (&json!("n1"), &Value::Null), "{status}");
    assert_eq!(talk.refused("trigger_failover", json!({ "failed_master": "n1" })).0, 11);
    let too_large = "x".repeat(300 * 1024);
    assert_eq!(talk.refused("append", json!({ "message": too_large })).0, 12);
    assert_eq!(talk.read_all(), ["alone"]);
    talk.finish();
}

#[test]
fn a_running_deployment_is_spoken_for_and_not_stopped() {
    let own = tempfile::tempdir().unwrap();
    let stage = own.path().join("stage");
    let mut owner = Talk::of(&["n1", "n2"], &["--keep", stage.to_str().unwrap()]);
    owner.done("append", json!({ "message": "of the owner" }));

    let file = stage.join("coroner.yaml");
    let mut guest = Talk::start(&["--attach", file.to_str().unwrap()]);
    let init = |nodes: Value| json!({ "node_id": "n1", "node_ids": nodes });
    assert_eq!(guest.refused("init", init(json!(["n1", "n7"]))).0, 1, "no member");
    guest.done("init", init(json!(["n1", "n2"])));
    let status = guest.done("shadow_status", json!({}));
    assert_eq!((&status["primary"], &status["shadow"]), (&json!("n1"), &json!("n2")), "{status}");
    guest.done("append", json!({ "message": "of the guest" }));
    assert_eq!(guest.refused("pause_shadow", json!({})).0, 10);
    assert_eq!(guest.done("trigger_failover", json!({ "failed_master": "n1" }))["new_primary"], "n2");
    guest.done("append", json!({ "message": "after" }));
    let all = [json!("of the owner"), json!("of the guest"), json!("after")];
    assert_eq!(guest.read_all(), all);
    guest.finish();

    assert_eq!(owner.done("shadow_status", json!({}))["primary"], "n2");
    assert_eq!(owner.read_all(), all);
    owner.finish();
    assert_eq!(processes_of(own.path()), [0; 0], "what the owner started ends with it");
    assert!(file.exists(), "and what was to be kept is kept");
}

#[test]
fn a_signal_ends_it_at_any_moment_and_nothing_is_left_behind() {
    // Before anything; while the pair comes up; with a stopped shadow.
    for stage in 0..3 {
        let mut talk = Talk::start(&[]);
        if stage == 0 {
            talk.send(b"x\n");
            assert_eq!(talk.answer()["body"]["code"], 12);
        } else {
            talk.done("init", json!({ "node_id": "n1", "node_ids": ["n1", "n2"] }));
        }
        match stage {
            1 => until("a relay", || (!processes_of(talk.dir.path()).is_empty()).then_some(())),
            2 => drop(talk.done("pause_shadow", json!({}))),
            _ => {}
        }
        talk.signal(Signal::SIGTERM);
        assert_eq!(talk.ended(), Some(143), "stage {stage}");
    }
}

#[test]
fn what_it_started_ends_even_if_it_is_killed() {
    let mut talk = Talk::of(&["n1", "n2"], &[]);
    talk.done("append", json!({ "message": 1 }));
    assert!(processes_of(talk.dir.path()).len() >= 3, "two relays and an arbiter");
    talk.signal(Signal::SIGKILL);
    until("the end of what it started", || processes_of(talk.dir.path()).is_empty().then_some(()));
}

//! The kept inputs that are made, not found: one of each kind that a target is there for, good and bad.
//!
//! What a fuzzer found is kept beside them under a name that says what it was.

use bytes::Bytes;
use coroner::{
    mesh::message::{Body, DeedOrder, Life, Message},
    model::{
        Action, Epoch, FenceReport, Operator, Proof, StepResult,
        agent::{Deed, OrderId},
        record::{ClusterState, LogEntry, Overrides, SagaKind},
    },
    relay::{
        entry::{Entry, EntryKind},
        wire::{self, Hello, Kind},
    },
};
use serde_json::json;

use crate::{Random, targets::journal::one_incident};

type Seed = (&'static str, &'static str, Vec<u8>);

/// All of them: the target, the name, the input.
pub(crate) fn all() -> Vec<Seed> {
    [beats(), configs(), controls(), ingests(), jolokias(), journals(), meshes(), redises(), stdios(), wals(), wires()]
        .concat()
}

/// A beat of a good sender, as the target draws it: session, number, the number that was echoed.
fn beat(session: u8, seq: u8, echoed: u8) -> Vec<u8> {
    vec![2, 0, 1, 0, 0, 0, session, 1, seq, echoed, 1]
}

fn beats() -> Vec<Seed> {
    let talk = [beat(1, 1, 0), beat(1, 2, 1), vec![1, 0], beat(1, 3, 2), beat(2, 1, 0), vec![1, 1]].concat();
    // Signed by the other one; for a member that is another's; damaged; a number of the end.
    let forged = vec![2, 0, 0, 1, 0, 0, 0, 1, 1, 1, 0, 1];
    let of_another = vec![2, 0, 1, 0, 1, 0, 1, 1, 1, 0, 1];
    let torn = vec![2, 0, 1, 0, 0, 0, 1, 1, 1, 0, 0, 5, 0, 1];
    let last = vec![2, 0, 1, 0, 0, 0, 1, 1, 240, 240, 1];
    let raw = [&[0, 60, 0][..], b"CRN1\x01", &[1; 55]].concat();
    vec![
        ("beat", "talk", talk),
        ("beat", "forged", forged),
        ("beat", "of-another-member", of_another),
        ("beat", "torn", torn),
        ("beat", "the-last-number", [last.clone(), last].concat()),
        ("beat", "raw", raw),
    ]
}

fn configs() -> Vec<Seed> {
    let text = |text: &str| text.as_bytes().to_vec();
    vec![
        ("config", "empty", Vec::new()),
        ("config", "lines-of-old-macs", text("arbiter:\r  name: a\r  wrong: 1\rclusters: {}\r")),
        ("config", "anchors", text("a: &a [1, 2]\nb: *a\nc: { <<: *a }\narbiter: { name: *a }\n")),
        ("config", "secrets", text("arbiter: { name: \"${env:NAME}\", store: \"${file:x\", access: \"$${\" }\n")),
    ]
}

fn controls() -> Vec<Seed> {
    let of = |kind: u8, json: serde_json::Value| [&[kind], json.to_string().as_bytes()].concat();
    vec![
        ("control", "question-start", of(0, json!({ "start": { "cluster": "orders", "within_ms": 5000 } }))),
        ("control", "question-status", of(0, json!("status"))),
        ("control", "command-pause", of(1, json!({ "command": "pause", "reason": "work", "for_ms": 1500.5 }))),
        (
            "control",
            "command-failover",
            of(
                1,
                json!({ "command": "failover", "cluster": "orders", "reason": "it is dead", "skip_guards": ["cooldown"] }),
            ),
        ),
        ("control", "fence-test", of(2, json!({ "member": "redis-a" }))),
        ("control", "relay-promote", of(3, json!({ "ask": "promote", "epoch": 7, "within_ms": 1000 }))),
        ("control", "relay-hello", of(4, json!({ "hello": "node", "name": "n", "after": 7, "epoch": 3 }))),
        (
            "control",
            "relay-refusal",
            of(6, json!({ "why": { "too_far_behind": { "oldest": 9 } }, "detail": "", "epoch": 1 })),
        ),
        ("control", "no-json", b"\x00{".to_vec()),
    ]
}

fn ingests() -> Vec<Seed> {
    let [heartbeat, arrivals, canary, alerts, command, fence_test] = [0, 1, 2, 3, 4, 5];
    let ask = |route: u8, who: u8, json: serde_json::Value| [&[route + 8 * who], json.to_string().as_bytes()].concat();
    let (redis_a, nodes, alertmanager, alice, nobody) = (0, 2, 3, 5, 6);
    let beat = json!({ "cluster": "orders", "member": "redis-a", "seq": 1, "session": 4 });
    let report = |received: u64| {
        json!({ "cluster": "orders", "node": "node-1", "received": received, "last_age_ms": 10.5, "attempted": received,
                "acknowledged": 1, "primary": "redis-a", "epoch": 3, "canaries": ["01X"], "session": 1, "seq": received })
    };
    let fire = json!({ "version": "4", "alerts": [
        { "status": "firing", "labels": { "alertname": "OrdersDown" } }, { "status": "resolved", "labels": {} } ] });
    let failover = json!({ "command": "failover", "cluster": "orders", "reason": "why not" });
    let pushed = [
        ask(heartbeat, redis_a, beat.clone()),
        ask(arrivals, nodes, json!([report(1), report(2), report(1)])),
        ask(canary, nodes, json!({ "cluster": "orders", "node": "node-2", "id": "01X" })),
        ask(alerts, alertmanager, fire.clone()),
    ];
    // Nobody is heard any more: the rule fires.
    let silence = vec![vec![255_u8 - 1, 0], vec![254, 0], vec![254, 0]];
    let until_dead: Vec<Vec<u8>> = pushed.iter().cloned().chain(silence).collect();
    let commands = [
        ask(command, alice, failover.clone()),
        ask(command, alice, json!({ "command": "pause", "reason": "r", "for_ms": 1e21 })),
        ask(fence_test, alice, json!({})),
    ];
    let strangers = [
        ask(heartbeat, nobody, beat.clone()),
        ask(arrivals, redis_a, report(1)),
        ask(alerts, redis_a, fire),
        ask(command, redis_a, failover),
        ask(heartbeat, redis_a, json!({ "cluster": "orders", "member": "redis-b", "seq": 1 })),
    ];
    vec![
        ("ingest", "pushed", pushed.join(&0xff)),
        ("ingest", "until-dead", until_dead.join(&0xff)),
        ("ingest", "commands", commands.join(&0xff)),
        ("ingest", "strangers", strangers.join(&0xff)),
        (
            "ingest",
            "an-age-without-end",
            ask(
                arrivals,
                nodes,
                json!({ "cluster": "orders", "node": "node-1", "received": 1, "last_age_ms": 1.8e22 }),
            ),
        ),
    ]
}

fn jolokias() -> Vec<Seed> {
    let of = |status: u8, json: serde_json::Value| [&[0, status], json.to_string().as_bytes()].concat();
    let answer = |read_only: serde_json::Value| {
        json!([{ "status": 200, "value": read_only },
               { "status": 200, "value": ["http://10.0.0.2:7200/repositories/r"] }])
    };
    let error =
        json!({ "status": 404, "error_type": "javax.management.InstanceNotFoundException", "error": "no such bean" });
    vec![
        ("jolokia", "a-primary", of(0, answer(json!(false)))),
        ("jolokia", "a-standby", of(0, answer(json!(true)))),
        ("jolokia", "a-word", of(0, answer(json!("false")))),
        ("jolokia", "an-error", of(0, json!([error, { "status": 500, "error": "read-only" }]))),
        ("jolokia", "one-error-for-all", of(0, error)),
        ("jolokia", "a-proxy", [&[0, 12], &b"<html>"[..]].concat()),
        ("jolokia", "names", b"\x07a/b!c\"d\x01e".to_vec()),
    ]
}

fn failover_log() -> Vec<LogEntry> {
    let fence = Action::Fence { level: 0, method: 0 };
    let confirmed = StepResult::Fenced(FenceReport::confirmed(Proof::Gate, "closed"));
    let took = std::time::Duration::from_millis(120);
    vec![
        LogEntry::Opened {
            kind: SagaKind::Failover,
            epoch: Epoch(4),
            old_primary: "redis-a".into(),
            candidate: "redis-b".into(),
            overrides: Overrides::default(),
            last_position: Some(100),
        },
        LogEntry::Started { act: 1, action: fence, member: "redis-a".into() },
        LogEntry::Ended { act: 1, result: confirmed, took },
        LogEntry::Started { act: 2, action: Action::ForbiddenWrite { level: 0 }, member: "redis-a".into() },
        LogEntry::Started {
            act: 3,
            action: Action::CatchUp { upto: Some(100), exact_from: None },
            member: "redis-b".into(),
        },
    ]
}

fn lines(log: &[LogEntry]) -> Vec<u8> {
    let lines: Vec<String> = log.iter().map(|entry| serde_json::to_string(entry).unwrap()).collect();
    [&[1], lines.join("\n").as_bytes()].concat()
}

fn journals() -> Vec<Seed> {
    let log = failover_log();
    let twice = [log.clone(), vec![log[0].clone()]].concat();
    let confirmed = LogEntry::FenceConfirmed { by: Operator("alice".into()), checked: "it is off".into() };
    let mut held = log[..1].to_vec();
    held.extend([LogEntry::Held { reason: "no fence".into() }, confirmed]);
    let state = ClusterState {
        cluster: "orders".into(),
        epoch: Epoch(4),
        primary: Some("redis-a".into()),
        primary_epoch: Epoch(3),
        failovers_unix_ms: vec![i64::MIN, i64::MAX],
        ..ClusterState::default()
    };
    let whole = serde_json::to_vec(&one_incident(state, log.clone())).unwrap();
    let mut seeds = vec![
        ("journal", "half-a-failover", lines(&log)),
        ("journal", "opened-twice", lines(&twice)),
        ("journal", "held-and-confirmed", lines(&held)),
        ("journal", "not-understood", b"\x01{\"opened\":1}".to_vec()),
        ("journal", "a-store", [&[0], whole.as_slice()].concat()),
    ];
    for (name, seed) in [("drawn-1", 1), ("drawn-2", 2), ("drawn-3", 3), ("drawn-4", 4)] {
        let mut random = Random(seed);
        let drawn = (0..240).map(|_| (random.next() >> 56) as u8);
        seeds.push(("journal", name, [2].into_iter().chain(drawn).collect()));
    }
    seeds
}

fn meshes() -> Vec<Seed> {
    let message = |body: Body| {
        let message =
            Message { from: "arbiter".into(), from_life: Life(1), to: "a".into(), to_life: Life(77), seq: 3, body };
        serde_json::to_vec(&message).unwrap()
    };
    let order = Body::Order(Box::new(DeedOrder {
        id: OrderId { incident: "i".into(), number: 1 },
        cluster: "orders".into(),
        member: "a".into(),
        epoch: Epoch(1),
        challenge: 5,
        deed: Deed::Appoint,
        deadline: std::time::Duration::from_secs(1),
    }));
    let of = |choice: u8, bytes: Vec<u8>| [vec![choice], bytes].concat();
    let hello = message(Body::Hello { number: 1 });
    // The agent of `a`: time for a beat, an appointment by the arbiter, two grants, more time, an order to fence.
    let appoint = [0, 2, 0, 1, 12, 1, 0, 1, 0, 0, 1, 200, 0];
    let granted = |peer: u8| [peer, 2, 0, 1, 7, 1, 1];
    let told = [0, 11, 0, 1, 1, 1, 0];
    let fence = [0, 2, 0, 1, 12, 1, 3, 2, 0, 0, 2, 200, 0];
    let life = [
        &[1, 0][..],
        &[0, 0, 100],
        &told,
        &appoint,
        &granted(0),
        &granted(2),
        &[0, 0, 40],
        &granted(0),
        &[0, 8, 3, 0],
        &[0, 9, 2, 0, 90, 0, 1],
        &fence,
        &[0, 0, 250],
    ]
    .concat();
    // The arbiter: a beat of `a`, a seal that two answer, an order.
    let beat = [1, 2, 0, 1, 4, 9, 1];
    let sealing =
        [&[0, 0][..], &beat, &[0, 11, 4, 5, 0], &[1, 2, 0, 1, 10, 5, 0], &[2, 2, 0, 1, 10, 5, 0], &[1, 0, 60]].concat();
    // Only what must be refused.
    let forged = [&[1, 0xff][..], &[0, 6, 0, 1, 12, 1, 0, 1, 0, 0, 1, 200, 0, 0], &[0, 10, 0, 0, 1, 2, 3]].concat();
    vec![
        ("mesh", "hello", of(3, hello.clone())),
        ("mesh", "order", of(0x12, message(order))),
        ("mesh", "too-many-hops", of(4, hello)),
        ("mesh", "garbage", of(0x80, b"CRN\x01\x03garbage".to_vec())),
        ("mesh_signed", "an-agents-life", life),
        ("mesh_signed", "an-arbiter-seals", sealing),
        ("mesh_signed", "forged", forged),
    ]
}

fn redises() -> Vec<Seed> {
    let primary = "# Replication\r\nrole:master\r\nconnected_slaves:1\r\nmaster_replid:8c6e\r\nmaster_replid2:0000\r\n\
                   master_repl_offset:77\r\nsecond_repl_offset:-1\r\nrepl_backlog_active:1\r\n";
    let standby = "role:slave\r\nmaster_host:fd00::1\r\nmaster_port:6379\r\nmaster_link_status:up\r\n\
                   master_last_io_seconds_ago:1\r\nslave_read_repl_offset:9\r\nslave_repl_offset:9\r\nslave_priority:100\r\n";
    let of = |choice: u8, bytes: &[u8]| [&[choice], bytes].concat();
    vec![
        (
            "redis",
            "replies",
            of(0, b"+PONG\r\n$3\r\nabc\r\n*2\r\n$1\r\na\r\n:5\r\n-READONLY You can't write\r\n$-1\r\n*0\r\n"),
        ),
        ("redis", "errors", of(0, b"-ERR a\nb\r\n-\r\n*1\r\n-LOADING x\r\n:x\r\n$1\r\nab\r\n")),
        ("redis", "deep", of(0, "*1\r\n".repeat(12).as_bytes())),
        ("redis", "too-long", of(2, b"$65\r\n")),
        ("redis", "not-redis", of(0, b"HTTP/1.1 400 Bad Request\r\n\r\n")),
        ("redis", "a-primary", of(1, primary.as_bytes())),
        ("redis", "a-standby", of(1, standby.as_bytes())),
        ("redis", "a-sentinel", of(1, b"role:sentinel\r\n")),
    ]
}

fn stdios() -> Vec<Seed> {
    let line = |body: serde_json::Value| json!({ "src": "c0", "dest": "n1", "body": body }).to_string();
    let talk = [
        line(json!({ "type": "init", "msg_id": 1, "node_id": "n1", "node_ids": ["n1", "n2"] })),
        line(json!({ "type": "append", "msg_id": 2, "key": "k", "message": { "ü": [1.5, null] } })),
        line(json!({ "type": "pause_shadow", "msg_id": 3 })),
        line(json!({ "type": "append", "msg_id": 4, "value": "next: \u{2028}" })),
        line(json!({ "type": "shadow_status", "msg_id": 5 })),
        line(json!({ "type": "read", "msg_id": 6, "from": 1, "limit": 1 })),
        line(json!({ "type": "trigger_failover", "msg_id": 7, "failed_master": "n1" })),
        line(json!({ "type": "resume_shadow", "msg_id": 8 })),
    ];
    let bad = "\n \r\n{}\n[1]\n{\"src\":\"c0\",\"dest\":\"n1\",\"body\":{\"msg_id\":4,\"msg_id\":5}}\n\
               {\"src\":\"a\",\"src\":\"b\"}\n{\"src\":\"c0\",\"dest\":\"n1\",\"body\":{\"msg_id\":-1,\"type\":7}}\n\"";
    vec![
        ("stdio", "a-talk", [&[7], talk.join("\n").as_bytes()].concat()),
        ("stdio", "bad-lines", [&[0], bad.as_bytes()].concat()),
    ]
}

fn wals() -> Vec<Seed> {
    // A segment whose checksums the target makes fit: a header of epoch 1 from sequence 1 on, and entries.
    let mut segment = vec![0; 49];
    (segment[16], segment[24]) = (1, 1);
    for sequence in 1..=3 {
        let entry = Entry {
            epoch: 1,
            sequence,
            number: sequence,
            time_ms: 1,
            kind: EntryKind::Message,
            sender: "s",
            payload: b"x",
        };
        entry.write(&mut segment);
    }
    let torn = segment[..segment.len() - 5].to_vec();
    let mut gap = segment.clone();
    gap[49 + 44 + 16] = 9;
    let mut from_the_end = segment.clone();
    from_the_end[24..32].fill(0xff);
    let mut from_nothing = segment.clone();
    from_nothing[24] = 0;
    let raw = |choice: [u8; 3], bytes: Vec<u8>| [choice.to_vec(), bytes].concat();
    // Built: two segments of one epoch and one of the next, then cut, changed, longer, or one of them gone.
    let built = |damage: &[u8]| {
        let entries = [3, 1, 10, 0, 2, 20, 1, 3, 30, 2, 4, 40, 3];
        [&[2, 2][..], &entries, &[0], &entries, &[1, 1], &entries, damage].concat()
    };
    vec![
        ("wal", "a-segment", raw([1, 200, 0], segment.clone())),
        ("wal", "a-segment-and-a-new-epoch", raw([1, 2, 1], segment)),
        ("wal", "a-torn-segment", raw([0, 2, 0], torn)),
        ("wal", "a-gap", raw([1, 9, 0], gap)),
        ("wal", "from-the-last-number", raw([1, 9, 0], from_the_end)),
        ("wal", "from-no-number", raw([1, 9, 0], from_nothing)),
        ("wal", "no-header", raw([0, 9, 0], b"CRNWAL01".to_vec())),
        ("wal", "cut", built(&[2, 0, 9, 0])),
        ("wal", "changed", built(&[1, 1, 9, 0, 1])),
        ("wal", "longer", built(&[2, 2, 1, 2, 3, 4, 5, 6, 7, 8, 9])),
        ("wal", "one-is-gone", built(&[1, 3])),
    ]
}

fn wires() -> Vec<Seed> {
    let payloads = [Bytes::from_static(b"one"), Bytes::new(), Bytes::from_static(b"three")];
    let mut entries = Vec::new();
    Entry { epoch: 2, sequence: 7, number: 1, time_ms: 5, kind: EntryKind::Message, sender: "s", payload: b"hello" }
        .write(&mut entries);
    let hello = Hello::Sender { name: "s".into(), epoch: 3 };
    let frames = [
        wire::json(Kind::Hello, &hello).unwrap(),
        wire::messages(7, payloads.iter()),
        wire::numbers(Kind::Acked, [9, 2]),
        wire::frame(Kind::Entries, &entries),
        wire::frame(Kind::Ask, br#"{"ask":"status"}"#),
    ]
    .concat();
    let of = |choice: [u8; 2], bytes: &[u8]| [&choice, bytes].concat();
    vec![
        ("wire", "frames", of([2, 4], &frames)),
        ("wire", "half-a-frame", of([2, 0], &frames[..frames.len() - 3])),
        ("wire", "too-long", of([0, 0], &wire::frame(Kind::Beat, &[0; 64]))),
        ("wire", "unknown", of([1, 0], &[1, 0, 0, 0, 99])),
        ("wire", "numbers-without-room", of([2, 0], &wire::messages(u64::MAX, payloads.iter()))),
    ]
}

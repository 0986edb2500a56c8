//! Whatever is sent: one valid line for each that is not blank, numbered without a gap.

use coroner::stdio::LINE_MAX;
use proptest::{collection::vec, prelude::*, sample::select, strategy::ValueTree as _, test_runner::TestRunner};
use serde_json::{Map, Value, json};

use crate::{fake::converse, form, talk::Talk};

/// Bytes that a line may have, chosen so that JSON comes about by accident.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let json_like = select(b"{}[]\":,\\ue0123456789-+.truefalsnl \r\t\x00\x7f\xc3\xbc\xff".to_vec());
    prop_oneof![vec(any::<u8>(), 0..64), vec(json_like, 0..200)]
}

/// Numbers as text, some of which no machine word holds.
fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i64>().prop_map(|n| n.to_string()),
        any::<u64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_map(|n| n.to_string()),
        "-?[0-9]{1,60}(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,6})?",
        select(vec!["-0", "1e999", "01", "+1", "NaN", "Infinity", "0x10", "18446744073709551616"])
            .prop_map(str::to_owned),
    ]
}

/// JSON of any shape, or almost JSON.
fn json_text() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        number(),
        any::<String>().prop_map(|text| Value::from(text).to_string()),
        select(vec!["null", "true", "false", "\"\"", "\"\\ud800\"", "\"\\u0000\"", "'x'", ""]).prop_map(str::to_owned),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        let keys = select(vec!["a", "a", "type", "msg_id", "src", "\\u0061"]);
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(|items| format!("[{}]", items.join(","))),
            vec((keys, inner), 0..6).prop_map(|fields| {
                let fields: Vec<String> = fields.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
                format!("{{{}}}", fields.join(","))
            }),
        ]
    })
}

/// A line that is right.
fn valid() -> impl Strategy<Value = String> {
    let names = || select(vec!["n1", "n2", "n3", "c1", ""]);
    let kinds = select(vec![
        "init",
        "shadow_status",
        "trigger_failover",
        "append",
        "read",
        "pause_shadow",
        "resume_shadow",
        "gossip",
    ]);
    (names(), names(), kinds, 0_u64..4, names()).prop_map(|(src, dest, kind, msg_id, failed)| {
        let mut body = json!({ "type": kind, "msg_id": msg_id });
        match kind {
            "init" => body["node_ids"] = json!(["n1", "n2", "n3"]),
            "trigger_failover" => body["failed_master"] = failed.into(),
            "append" => body["message"] = json!({ "of": src, "ü": [1.5, null] }),
            _ => {}
        }
        if kind == "init" {
            body["node_id"] = dest.into();
        }
        json!({ "src": src, "dest": dest, "body": body }).to_string()
    })
}

/// A line that was right before something was done to it.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let cut =
        (valid(), any::<prop::sample::Index>()).prop_map(|(line, at)| line.as_bytes()[..at.index(line.len())].to_vec());
    let flipped = (valid(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(line, at, byte)| {
        let mut bytes = line.into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        bytes
    });
    let twice = (valid(), valid()).prop_map(|(a, b)| format!("{a}{b}").into_bytes());
    let doubled =
        (valid(), select(vec!["src", "dest", "body", "type", "msg_id"]), json_text()).prop_map(|(line, key, value)| {
            line.replacen(&format!("\"{key}\":"), &format!("\"{key}\":{value},\"{key}\":"), 1).into_bytes()
        });
    let replaced = (valid(), select(vec!["src", "dest", "body"]), json_text()).prop_map(|(line, key, value)| {
        let mut fields: Map<String, Value> = serde_json::from_str(&line).unwrap();
        let rest: Vec<String> = {
            fields.remove(key);
            fields.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect()
        };
        format!("{{\"{key}\":{value},{}}}", rest.join(",")).into_bytes()
    });
    let in_body = (
        valid(),
        select(vec!["type", "msg_id", "node_ids", "failed_master", "message", "value", "key", "from", "limit"]),
        json_text(),
    )
        .prop_map(|(line, key, value)| {
            line.replacen("\"body\":{", &format!("\"body\":{{\"{key}\":{value},"), 1).into_bytes()
        });
    prop_oneof![cut, flipped, twice, doubled, replaced, in_body]
}

fn line() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => valid().prop_map(String::into_bytes),
        3 => mutated(),
        1 => bytes(),
        1 => json_text().prop_map(String::into_bytes),
        1 => (1_usize..3_000, select(vec!["[", "{\"a\":", "[{\"body\":"])).prop_map(|(depth, open)| open.repeat(depth).into_bytes()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_line_that_is_not_blank_gets_one_valid_line(lines in vec(line(), 0..24)) {
        let input = lines.join(&b'\n');
        let expected = input.split(|byte| *byte == b'\n').filter(|line| !line.iter().all(u8::is_ascii_whitespace)).count();
        let answers = converse(&input);
        prop_assert_eq!(answers.len(), expected);
        for (answer, msg_id) in answers.iter().zip(0..) {
            form::check(answer, msg_id);
        }
    }
}

#[test]
fn a_line_that_is_too_long_gets_one_as_well() {
    let head = r#"{"src":"c0","dest":"n1","body":{"msg_id":7,"type":"append","message":""#;
    let whole = format!("{head}{}\"}}}}", "x".repeat(LINE_MAX));
    // Right as far as it is kept: what is cut off could have changed its meaning.
    let padded =
        format!(r#"{{"src":"c0","dest":"n1","body":{{"msg_id":8,"type":"shadow_status"}}}}{}"#, " ".repeat(LINE_MAX));
    let answers = converse(format!("{whole}\n{padded}\n{}\n\"", "y".repeat(3 * LINE_MAX)).as_bytes());
    assert_eq!(answers.len(), 4);
    for ((answer, msg_id), (dest, reply_to)) in answers.iter().zip(0..).zip([
        ("c0", json!(7)),
        ("c0", json!(8)),
        ("unknown", Value::Null),
        ("unknown", Value::Null),
    ]) {
        let answer = form::check(answer, msg_id);
        assert_eq!((&answer["dest"], &answer["body"]["in_reply_to"]), (&dest.into(), &reply_to), "{answer}");
        assert_eq!(answer["body"]["code"], 12);
    }
}

#[test]
fn the_binary_answers_garbage_as_well_and_lives_on() {
    let mut runner = TestRunner::deterministic();
    let mut talk = Talk::of(&["n1", "n2", "n3"], &[]);
    let mut sent = 0;
    for _ in 0..6 {
        let lines = vec(line(), 20).new_tree(&mut runner).unwrap().current();
        let mut input = lines.join(&b'\n');
        input.push(b'\n');
        talk.send(&input);
        let expected = input.split(|b| *b == b'\n').filter(|line| !line.iter().all(u8::is_ascii_whitespace)).count();
        for _ in 0..expected {
            talk.answer();
        }
        sent += expected;
    }
    assert!(sent > 80, "{sent}");
    talk.done("append", json!({ "message": "still here" }));
    assert_eq!(talk.read_all().last(), Some(&json!("still here")));
    talk.finish();
}

//! The JSON line protocol: each line that is not blank gets one line back, whole, in the published form and order, under
//! the next number; and it is the same however the bytes come in pieces.

use coroner::stdio::{Line, Lines, Session};
use futures::FutureExt as _;
use serde_json::Value;

use super::Reached;

// The imagined pair and the published form are those of the protocol's own tests.
#[path = "../../tests/stdio/fake.rs"]
mod fake;
#[path = "../../tests/stdio/form.rs"]
pub mod form;

pub fn run(input: &[u8]) -> Reached {
    let Some((size, bytes)) = input.split_first() else { return Reached::Refused };
    let lines = split(bytes, bytes.len().max(1));
    assert_eq!(lines, split(bytes, usize::from(*size % 61) + 1), "in pieces other lines come");
    let blank = |line: &&[u8]| !line.iter().all(u8::is_ascii_whitespace);
    assert_eq!(lines.len(), bytes.split(|byte| *byte == b'\n').filter(blank).count());

    let mut session = Session::new(fake::Fake::default());
    let mut is_taken = false;
    for (line, number) in lines.iter().zip(0..) {
        let answer = session.answer(line).now_or_never().expect("an imagined pair never waits");
        is_taken |= check(line, &answer, number);
    }
    assert_eq!(fake::converse(bytes).len(), lines.len());
    Reached::of(is_taken)
}

fn split(bytes: &[u8], size: usize) -> Vec<Line> {
    let mut lines = Lines::default();
    let mut found = Vec::new();
    for piece in bytes.chunks(size) {
        lines.push(piece, |line| found.push(line));
    }
    found.extend(lines.end());
    found
}

/// Whether the line was carried out.
pub fn check(line: &Line, answer: &str, number: u64) -> bool {
    let object = form::check(answer, number);
    let body = object["body"].as_object().expect("a body");
    let kind = body["type"].as_str().expect("a type");
    let published: &[&str] = match kind {
        "init_ok" => &[],
        "shadow_status_ok" => &["primary", "shadow", "wal_lag_entries", "wal_lag_ms"],
        "trigger_failover_ok" => &["new_primary", "wal_entries_replayed", "failover_time_ms", "epoch"],
        "append_ok" => &["sequence", "epoch"],
        "read_ok" => &["messages", "next"],
        "pause_shadow_ok" | "resume_shadow_ok" => &["shadow"],
        "error" => &["code", "text"],
        other => panic!("{other} is no answer"),
    };
    let is_reply = body.contains_key("in_reply_to");
    let head: &[&str] = if is_reply { &["type", "in_reply_to", "msg_id"] } else { &["type", "msg_id"] };
    assert_eq!(body.len(), head.len() + published.len(), "{answer}");
    // `Value` sorts its keys; the line has them in their order. What a person sent may hold any of them, so that only
    // where they stand at first counts.
    let mut at = answer.find("\"body\": {").expect("a body");
    for key in head.iter().chain(published) {
        let found = answer[at..].find(&format!("\"{key}\": "));
        at += found.unwrap_or_else(|| panic!("{answer}: `{key}` does not stand in its place"));
    }
    // To whom it goes, and to what it is an answer, is what a whole line said.
    let Line::Whole(bytes) = line else { return false };
    if kind != "error" {
        // Beside the body anything may stand that nobody reads, deeper or larger than this reader goes.
        let Ok(sent) = serde_json::from_slice::<Value>(bytes) else { return true };
        assert_eq!(object["dest"], sent["src"], "{answer}");
        assert_eq!(body["in_reply_to"], sent["body"]["msg_id"], "{answer}");
        let asked = sent["body"]["type"].as_str().expect("a type");
        assert_eq!(kind, format!("{asked}_ok"), "{answer}");
    }
    kind != "error"
}

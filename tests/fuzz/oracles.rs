//! A check that cannot fail is none: what the targets look at, given something that is not so.

use std::panic::{AssertUnwindSafe, catch_unwind};

use coroner::{
    config::{Diagnostic, Mistakes, Severity},
    stdio::Line,
};

use crate::targets::{config::check_mistakes, stdio};

fn fails(what: &str, check: impl FnOnce()) {
    assert!(catch_unwind(AssertUnwindSafe(check)).is_err(), "it is not noticed: {what}");
}

fn mistake(line: u32, column: u32, message: &str) -> Mistakes {
    let found = Diagnostic {
        severity: Severity::Error,
        file: "fuzz.yaml".into(),
        line,
        column,
        end_column: column + 1,
        message: message.into(),
        suggestion: None,
        snippet: String::new(),
    };
    Mistakes { list: vec![found] }
}

#[test]
fn mistakes_without_a_place_or_with_a_secret_are_noticed() {
    check_mistakes("a: b\n", &mistake(1, 1, "no"));
    fails("no mistake at all", || check_mistakes("a: b\n", &Mistakes::default()));
    fails("no line", || check_mistakes("a: b\n", &mistake(0, 1, "no")));
    fails("a line behind the end", || check_mistakes("a: b\n", &mistake(9, 1, "no")));
    fails("no column", || check_mistakes("a: b\n", &mistake(1, 0, "no")));
    fails("no words", || check_mistakes("a: b\n", &mistake(1, 1, " ")));
    fails("a secret", || check_mistakes("a: b\n", &mistake(1, 1, "tops3cret-tops3cret is bad")));
}

#[test]
fn answers_in_another_form_are_noticed() {
    let line = Line::Whole(br#"{"src":"c0","dest":"n1","body":{"type":"pause_shadow","msg_id":4}}"#.to_vec());
    let good = r#"{"src": "n1", "dest": "c0", "body": {"type": "pause_shadow_ok", "in_reply_to": 4, "msg_id": 0, "shadow": "n2"}}"#;
    assert!(stdio::check(&line, good, 0));
    for (from, to) in [
        ("\"in_reply_to\": 4", "\"in_reply_to\": 5"),
        ("\"dest\": \"c0\"", "\"dest\": \"c1\""),
        ("pause_shadow_ok", "resume_shadow_ok"),
        ("\"msg_id\": 0, \"shadow\": \"n2\"", "\"shadow\": \"n2\", \"msg_id\": 0"),
        ("\"msg_id\": 0", "\"msg_id\": 1"),
        (", \"shadow\"", ",\"shadow\""),
        (", \"shadow\": \"n2\"", ""),
        ("\"shadow\": \"n2\"", "\"shadow\": \"n2\", \"more\": 1"),
        ("n2", "ü"),
        ("}}", "}} "),
    ] {
        let other = good.replacen(from, to, 1);
        assert_ne!(other, good);
        fails(&other, || {
            let _ = stdio::check(&line, &other, 0);
        });
    }
}

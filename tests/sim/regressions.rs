//! What the simulator found, each with its story. They stay.

use std::time::Duration;

use coroner::sim::{Schedule, run_told};

use crate::settings;

fn schedule(text: &str) -> Schedule {
    serde_json::from_str(text).unwrap()
}

/// The store took two seconds over the opening of a failover. Meanwhile a supervisor had started the primary again, and
/// the arbiter slept; when it woke, the record was answered, and it fenced a primary that served everybody, because of
/// what it had seen eight seconds before. The opening is looked at once more when it is durable, and taken back.
#[test]
fn an_arbiter_that_slept_over_its_opening_fences_nobody() {
    let schedule = schedule(
        r#"{"seed":884,"faults":[
            {"at_ms":1000,"fault":{"store":{"mode":"slow"}}},
            {"at_ms":3000,"fault":{"kill_broker":{"member":0}}},
            {"at_ms":4000,"fault":{"pause_host":{"host":0}}}],"heal_after_ms":11307}"#,
    );
    let outcome = run_told(&settings::agents(&["a", "b"]), &schedule);
    let story = outcome.story.join("\n");
    assert_eq!(outcome.violations, [], "{story}");
    assert_eq!((outcome.false_failovers, outcome.promotions), (0, 0), "{story}");
    assert_eq!(outcome.aborted, 1, "{story}");
}

/// The same without the sleep: the answer alone took long.
#[test]
fn an_opening_that_took_long_is_taken_back_if_the_rule_holds_no_more() {
    let schedule = schedule(
        r#"{"seed":884,"faults":[
            {"at_ms":1000,"fault":{"store":{"mode":"slow"}}},
            {"at_ms":3000,"fault":{"kill_broker":{"member":0}}}],"heal_after_ms":11307}"#,
    );
    let outcome = run_told(&settings::agents(&["a", "b"]), &schedule);
    let story = outcome.story.join("\n");
    assert_eq!((outcome.violations.len(), outcome.promotions, outcome.aborted), (0, 0, 1), "{story}");
    assert!(outcome.outage_ns < Duration::from_secs(3).as_nanos() as u64, "{story}");
}

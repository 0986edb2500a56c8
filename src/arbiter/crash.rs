//! Crash points: places at which the arbiter kills itself when asked to by `CORONER_CRASH_AT`, so that recovery can
//! be tested step by step, by us and by users. Redis Sentinel has the like (`SIMULATE-FAILURE`).
//!
//! `CORONER_CRASH_AT=after-persist:7` dies after the seventh record was made durable and before anything follows;
//! `before-act:promote` and `after-act:promote` die before and after that act. Without the variable this costs
//! one look at a cell.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

use crate::model::{Action, Record};

static AT: OnceLock<Option<(String, String)>> = OnceLock::new();
static RECORDS: AtomicU64 = AtomicU64::new(0);

fn wanted() -> Option<&'static (String, String)> {
    AT.get_or_init(|| {
        let text = std::env::var("CORONER_CRASH_AT").ok()?;
        let (place, which) = text.split_once(':')?;
        Some((place.to_owned(), which.to_owned()))
    })
    .as_ref()
}

/// Dies here if asked to, for this act.
pub(super) fn point(place: &str, action: &Action) {
    if let Some((wanted_place, which)) = wanted()
        && wanted_place == place
        && *which == word(action)
    {
        die(place, which);
    }
}

/// Dies here if asked to, after that many records of sagas.
pub(super) fn point_records(place: &str, records: &[Record]) {
    let Some((wanted_place, which)) = wanted() else { return };
    let is_saga = records.iter().any(|r| matches!(r, Record::Log { .. }));
    if wanted_place == place && is_saga {
        let number = RECORDS.fetch_add(1, Ordering::Relaxed) + 1;
        if which.parse() == Ok(number) {
            die(place, which);
        }
    }
}

/// The word for an act: `fence`, `forbidden_write`, `catch_up`, `promote`, `redirect`, `rejoin`, …
fn word(action: &Action) -> String {
    match serde_json::to_value(action) {
        Ok(serde_json::Value::String(word)) => word,
        Ok(serde_json::Value::Object(map)) => map.keys().next().cloned().unwrap_or_default(),
        _ => String::new(),
    }
}

fn die(place: &str, which: &str) -> ! {
    tracing::error!(place, which, "dying here, as CORONER_CRASH_AT asks");
    std::process::abort()
}

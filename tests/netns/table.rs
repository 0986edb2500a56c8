//! What has to come of a fault, what comes of it, and the table of both.

use std::{fmt::Write as _, thread::sleep, time::Duration};

use coroner::sys::clock::Stopwatch;

use crate::{checker::Findings, client::Ack, lab::Lab};

/// What has to come of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Required {
    Hold,
    HoldAndAlarm,
    Switchover,
    Failover,
    /// Nobody serves while it lasts, the old primary least of all.
    SelfFence,
}

impl Required {
    pub(crate) fn parse(text: &str) -> Self {
        match text {
            text if text.starts_with("HOLD+ALARM") => Self::HoldAndAlarm,
            text if text.starts_with("HOLD") => Self::Hold,
            text if text.starts_with("SWITCHOVER") => Self::Switchover,
            text if text.starts_with("FAILOVER") => Self::Failover,
            text if text.starts_with("SELF-FENCE") => Self::SelfFence,
            other => panic!("{other:?} is no outcome"),
        }
    }

    const fn moves(self) -> bool {
        matches!(self, Self::Switchover | Self::Failover)
    }
}

/// What came of a fault.
pub(crate) struct Row {
    pub(crate) name: String,
    required: Required,
    observed: String,
    pub(crate) is_as_required: bool,
    span: (u64, u64),
}

/// Longer than the rules and the lease need.
const LOOK_FOR: Duration = Duration::from_millis(2_500);

/// Strikes, and looks at what comes of it; heals, and waits until all is whole. `may_stop_itself`: the oracle asks for a
/// hold with an alarm, and a primary that reaches nobody shuts itself by its lease all the same; no node loses by it what
/// it had. `strike` may take its time, and may leave the arbiter dead; `mend` undoes what healing does not.
pub(crate) fn observe(
    lab: &Lab,
    (name, required, may_stop_itself): (&str, Required, bool),
    strike: impl FnOnce(&str),
    mend: impl FnOnce(&str),
) -> Row {
    let before = lab.status();
    let primary = before.primary.as_ref().unwrap().as_str().to_owned();
    let begun = lab.now();
    strike(&primary);
    let mut has_alarm = false;
    let look = Stopwatch::start();
    let mut after = lab.try_status().unwrap_or_else(|| before.clone());
    // A move is looked for until it is done; that nothing moves has to be looked at for the whole time.
    while look.elapsed() < if required.moves() { 4 * LOOK_FOR } else { LOOK_FOR } {
        // An arbiter that does not answer is an alarm of those who watch it.
        let said = lab.try_status();
        has_alarm |= said.is_none();
        after = said.unwrap_or(after);
        // Nodes that nobody hears are `CoronerSignalStale`.
        has_alarm |= after.nodes.iter().all(|node| node.seen.is_none_or(|seen| seen > Duration::from_secs(1)));
        has_alarm |= !after.blocking.is_empty() || after.verdict != coroner::model::Verdict::Alive;
        if required.moves() && after.primary != before.primary && after.incident.is_none() {
            break;
        }
        sleep(Duration::from_millis(50));
    }
    if after.primary != before.primary {
        // What it acknowledged before it was stopped is behind by then.
        sleep(Duration::from_millis(700));
    }
    let ended = lab.now();
    // Whether the old primary still acknowledges anything to anybody, its own host included.
    let late = |ack: &&Ack| ack.server == primary && ack.acked > ended - 500_000_000 && ack.acked <= ended;
    let serves = lab.findings().acks.iter().filter(late).count() > 0;
    let has_moved = after.primary != before.primary;
    let kind = if !has_moved { None } else { lab.incidents().pop() };
    // Graceful: it stepped down when it was told to, whatever became of the rest.
    let is_switchover = kind.is_some_and(|i| {
        let steps = i["incident"]["steps"].as_array().cloned().unwrap_or_default();
        steps.iter().any(|step| {
            let text = step.to_string();
            text.contains("read-only") && text.contains("confirmed")
        })
    });
    let observed = match (has_moved, serves) {
        (true, false) if is_switchover => "SWITCHOVER".to_owned(),
        (true, false) => "FAILOVER".to_owned(),
        (true, true) => "MOVED, AND THE OLD PRIMARY SERVES".to_owned(),
        (false, true) if has_alarm => "HOLD+ALARM".to_owned(),
        (false, true) => "HOLD".to_owned(),
        (false, false) if has_alarm => "SELF-FENCE+ALARM".to_owned(),
        (false, false) => "SELF-FENCE".to_owned(),
    };
    let is_as_required = match required {
        Required::Hold => observed.starts_with("HOLD"),
        Required::HoldAndAlarm => observed == "HOLD+ALARM" || (observed == "SELF-FENCE+ALARM" && may_stop_itself),
        Required::Switchover => observed == "SWITCHOVER",
        Required::Failover => observed == "FAILOVER",
        Required::SelfFence => observed.starts_with("SELF-FENCE"),
    };
    let why = if is_as_required { String::new() } else { lab.story() };
    mend(&primary);
    lab.heal();
    lab.whole();
    println!("{name:20} required {required:?}, observed {observed}");
    if !is_as_required {
        println!("{why}");
    }
    Row { name: name.to_owned(), required, observed, is_as_required, span: (begun, lab.now()) }
}

/// The table, which is also printed; written to the file that this variable names, if it does.
pub(crate) fn print(rows: &[Row], found: &Findings, what: &str, variable: &str) {
    let mut table = format!("| {what} | required | observed | outage | overlap |\n|---|---|---|---|---|\n");
    for row in rows {
        let outage = found.outage(row.span.0, row.span.1).as_millis();
        let mark = if row.is_as_required { "" } else { " **differs**" };
        let (name, required, observed) = (&row.name, row.required, &row.observed);
        let overlap = found.overlap.as_millis();
        let _ = writeln!(table, "| {name} | {required:?} | {observed}{mark} | {outage} ms | {overlap} ms |");
    }
    println!("{table}");
    if let Ok(path) = std::env::var(variable) {
        std::fs::write(path, &table).unwrap();
    }
}

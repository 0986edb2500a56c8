//! `coroner instances`.

use std::time::Duration;

use serde::Serialize;

use super::{Context, Exit, Failure, elect::Store, exit::Code, status::wall, style::Paint, table::Table};
use crate::registry::Instance;

/// How long the database is waited for.
const WITHIN: Duration = Duration::from_secs(10);

/// Show who stood for election: each start with its id, which is its epoch, and its last heartbeat.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    store: Store,
    /// One group only.
    #[arg(long, env = "CORONER_GROUP", value_name = "NAME")]
    group: Option<String>,
    /// The newest so many.
    #[arg(long, default_value_t = 50, value_name = "N")]
    limit: u32,
}

/// One start, as programs read it.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    instance: &'a Instance,
    state: &'static str,
}

pub(super) async fn run(context: &Context, args: &Args) -> Result<Exit, Failure> {
    let registry = args.store.open(WITHIN)?;
    let unavailable =
        |error| Failure::new(Code::Unavailable, format!("{} cannot be asked: {error}.", registry.label()));
    registry.prepare().await.map_err(unavailable)?;
    let rows = registry.instances(args.group.as_deref(), args.limit).await.map_err(unavailable)?;
    let shown: Vec<Shown<'_>> = rows.iter().map(|row| Shown { instance: row, state: state(row) }).collect();
    context.emit(&shown, |paint| render(&shown, paint))
}

/// What its row says of a start. Whether its program runs, only its own machine knows.
const fn state(row: &Instance) -> &'static str {
    match row {
        Instance { is_valid: true, is_leader: true, .. } => "leader",
        Instance { is_valid: true, is_leader: false, .. } => "standby",
        Instance { valid_for_ms: 0, .. } => "left",
        _ => "lapsed",
    }
}

fn render(rows: &[Shown<'_>], paint: Paint) -> String {
    if rows.is_empty() {
        return "No instances.\n".into();
    }
    let mut table =
        Table::new(paint, 0, &["ID>", "GROUP", "INSTANCE", "STARTED", "LAST HEARTBEAT", "BEATS>", "STATE", "LED LAST"]);
    for Shown { instance, state } in rows {
        table.row([
            instance.id.to_string().as_str(),
            &instance.group,
            &instance.instance,
            &wall(instance.start_time_ms),
            &wall(instance.heartbeat_ms),
            &instance.beats.to_string(),
            state,
            if instance.is_leader { "yes" } else { "" },
        ]);
        table.paint_last(6, |paint, text| match *state {
            "leader" => paint.good(text),
            "lapsed" => paint.warn(text),
            _ => text.to_owned(),
        });
    }
    table.to_text()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_shown_with_its_state() {
        let row = |id, is_valid, is_leader, valid_for_ms| Instance {
            id,
            group: "app".into(),
            instance: format!("app{id}"),
            start_time_ms: 1_470_056_400_000,
            heartbeat_ms: 1_470_056_460_000,
            valid_for_ms,
            is_valid,
            is_leader,
            beats: 61,
        };
        let rows = [
            row(4, true, false, 5_000),
            row(3, true, true, 5_000),
            row(2, false, false, 5_000),
            row(1, false, false, 0),
        ];
        let states: Vec<&str> = rows.iter().map(state).collect();
        assert_eq!(states, ["standby", "leader", "lapsed", "left"]);
        let shown: Vec<Shown<'_>> = rows.iter().map(|row| Shown { instance: row, state: state(row) }).collect();
        let text = render(&shown, Paint::OFF);
        assert!(
            text.lines().nth(2).is_some_and(|line| line.contains("app3") && line.ends_with("leader   yes")),
            "{text}"
        );
        let json = serde_json::to_value(&shown).unwrap();
        assert_eq!((json[1]["id"].as_u64(), json[1]["state"].as_str()), (Some(3), Some("leader")));
    }
}

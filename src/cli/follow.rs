//! `--wait`: an incident, followed to its end or to where it is held.

use std::time::Duration;

use super::{
    Context,
    client::Client,
    exit::{Code, Exit, Failure},
    print,
};
use crate::{
    model::{
        Incident, IncidentId, Span,
        incident::{IncidentState, StepRecord},
        time::human,
    },
    sys::clock::Stopwatch,
};

/// Whether and how long to follow.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct Wait {
    /// Follow the incident until it is closed or held.
    #[arg(long)]
    pub(super) wait: bool,
    /// Follow it no longer than this.
    #[arg(long, default_value = "5m", value_parser = Span::parse, value_name = "DURATION")]
    pub(super) wait_for: Span,
}

/// How often the incident is asked for.
const EVERY: Duration = Duration::from_millis(200);

/// Prints each step as it ends; at the end, JSON prints the incident.
pub(super) async fn follow(context: &Context, client: &Client, id: &IncidentId, wait: &Wait) -> Result<Exit, Failure> {
    let watch = Stopwatch::start();
    let mut printed = 0;
    loop {
        let incident = client.incident(id).await?.incident;
        if !context.is_json() {
            let lines: Vec<String> = lines(&incident);
            for line in lines.iter().skip(printed) {
                print(&format!("{line}\n"))?;
            }
            printed = lines.len().max(printed);
        }
        if incident.is_closed() || incident.state == IncidentState::Held {
            return end(context, &incident);
        }
        if watch.elapsed() > wait.wait_for.0 {
            let text = format!("Incident {id} is still {} after {}. It goes on.", incident.state, wait.wait_for);
            return Err(Failure::new(Code::Temporary, text));
        }
        tokio::time::sleep(EVERY).await;
    }
}

fn end(context: &Context, incident: &Incident) -> Result<Exit, Failure> {
    let reason = incident.state_reason.as_deref().unwrap_or("no reason recorded");
    if context.is_json() {
        print(&format!("{}\n", super::json(incident)?))?;
    }
    match incident.state {
        IncidentState::Held => Err(Failure::new(
            Code::Temporary,
            format!("Incident {} is held: {reason}. See `coroner incidents show {0}`.", incident.id),
        )),
        IncidentState::Aborted => {
            Err(Failure::new(Code::Temporary, format!("Incident {} was aborted: {reason}.", incident.id)))
        }
        _ if context.is_json() => Ok(Exit::OK),
        _ => {
            let took =
                incident.closed.map_or_else(String::new, |t| format!(" after {}", human(t.since(incident.opened))));
            let text = context.paint.good(&format!("Resolved{took}: {} is primary", incident.candidate));
            print(&format!("{text}, epoch {}.\n", incident.epoch))
        }
    }
}

/// The steps that have ended, one line each, in the order of their ends.
fn lines(incident: &Incident) -> Vec<String> {
    let mut ended: Vec<(&StepRecord, Duration)> =
        incident.steps.iter().filter_map(|s| s.took.map(|took| (s, took))).collect();
    ended.sort_by_key(|(step, took)| step.started + *took);
    ended.into_iter().map(|(step, _)| step_line(incident, step)).collect()
}

/// One step, one line: `+ 120ms  fence broker-a: signal (level 1)  confirmed  3ms  detail`.
#[must_use]
pub(super) fn step_line(incident: &Incident, step: &StepRecord) -> String {
    let took = step.took.map_or_else(|| "…".to_owned(), human);
    let at = human(step.started.since(incident.opened));
    let mut line = format!("+{at:<8} {:<9} {took:>7}  {}", step.outcome, step.label);
    if !step.detail.is_empty() {
        line.push_str(": ");
        line.push_str(&step.detail);
    }
    line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

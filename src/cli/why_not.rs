//! `coroner why-not`.

use std::fmt::Write as _;

use super::{
    Context,
    client::{Client, segment},
    exit::{Exit, Failure},
    style::Paint,
    why::render_rule,
};
use crate::model::{ClusterName, explain::CandidateView, status::WhyNot};

/// Explain what stands between now and a failover.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The cluster. May be left out if there is only one.
    cluster: Option<String>,
}

pub(super) async fn run(context: &Context, args: &Args) -> Result<Exit, Failure> {
    let client = context.client()?;
    let cluster = client.cluster(args.cluster.as_deref()).await?;
    let view = fetch(&client, &cluster).await?;
    context.emit(&view, |paint| render(&view, paint))
}

/// Asks for the view.
pub(super) async fn fetch(client: &Client, cluster: &ClusterName) -> Result<WhyNot, Failure> {
    client.get(&format!("/v1/clusters/{}/why-not", segment(cluster.as_str()))).await
}

/// Every guard, every standby, every rule that could act, and the least that would have to change.
#[must_use]
pub fn render(view: &WhyNot, paint: Paint) -> String {
    let mut out = String::new();
    let ready = if view.ready {
        paint.good("a failover would be done at once if a rule asked for it")
    } else {
        paint.warn("no failover can be done now")
    };
    let _ = writeln!(out, "{}: {ready}.", paint.bold(view.cluster.as_str()));
    let _ = writeln!(out, "{}\n", view.least_change);

    let _ = writeln!(out, "{}", paint.bold("Guards"));
    let width = view.guards.iter().map(|g| g.guard.as_str().len()).max().unwrap_or(0);
    for state in &view.guards {
        let sign = if state.blocks { paint.bad("✘") } else { paint.good("✔") };
        let _ = writeln!(out, "  {sign} {:width$}  {}", state.guard, state.reason);
    }

    let _ = writeln!(out, "\n{}", paint.bold("Candidates"));
    if view.candidates.is_empty() {
        out.push_str("  none: there is no standby\n");
    }
    for candidate in &view.candidates {
        out.push_str(&candidate_line(candidate, paint));
    }

    if !view.rules.is_empty() {
        let _ = writeln!(out, "\n{}", paint.bold("Rules that could act and do not hold"));
        for rule in &view.rules {
            for line in render_rule(rule, paint).lines() {
                let _ = writeln!(out, "  {line}");
            }
        }
    }
    out
}

fn candidate_line(candidate: &CandidateView, paint: Paint) -> String {
    let sign = if candidate.rejected.is_empty() { paint.good("✔") } else { paint.bad("✘") };
    let mut line = format!("  {sign} {}", candidate.member);
    if let Some(rank) = candidate.rank {
        let _ = write!(line, ", rank {rank}");
    }
    let _ = write!(line, ", priority {}", candidate.priority);
    match candidate.behind {
        Some(0) => line.push_str(", up to date"),
        Some(behind) => {
            let _ = write!(line, ", {behind} behind");
        }
        None => line.push_str(", position unknown"),
    }
    for reason in &candidate.rejected {
        let _ = write!(line, "\n      {reason}");
    }
    for warning in &candidate.warnings {
        let _ = write!(line, "\n      warning: {warning}");
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::explain::{Guard, GuardState};

    #[test]
    fn guards_and_candidates_say_why() {
        let view = WhyNot {
            cluster: "orders".into(),
            ready: false,
            guards: vec![
                GuardState { guard: Guard::Paused, blocks: true, reason: "by ada until 14:00: new switch".into() },
                GuardState { guard: Guard::Tilt, blocks: false, reason: "the loop was never late".into() },
            ],
            candidates: vec![CandidateView {
                member: "broker-b".into(),
                rank: None,
                rejected: vec!["not heard of for 12s".into()],
                warnings: vec!["its gate is not proven".into()],
                position: Some(7),
                behind: Some(100),
                priority: 100,
            }],
            rules: vec![],
            least_change: "Resume the cluster, and broker-b has to be heard of again.".into(),
        };
        let text = render(&view, Paint::OFF);
        assert_eq!(
            text,
            "orders: no failover can be done now.\n\
             Resume the cluster, and broker-b has to be heard of again.\n\n\
             Guards\n  ✘ paused  by ada until 14:00: new switch\n  ✔ tilt    the loop was never late\n\n\
             Candidates\n  ✘ broker-b, priority 100, 100 behind\n      not heard of for 12s\n      \
             warning: its gate is not proven\n"
        );
    }
}

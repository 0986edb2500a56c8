//! `coroner fence confirm`, `coroner fence test`.

use std::{fmt::Write as _, time::Duration};

use clap::Subcommand;

use super::{
    Context,
    client::{Client, segment},
    confirm,
    exit::{Exit, Failure},
    status::dash,
    style::Paint,
    table::Table,
};
use crate::model::{
    Command, Proof,
    doctor::{FenceTest, FenceTestReport},
    time::human,
};

/// Rehearse fences, or say that one was checked by eye.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Say that you have checked with your own eyes that the old primary is stopped. If it is not, there will be
    /// two primaries.
    Confirm {
        /// The cluster. May be left out if there is only one.
        cluster: Option<String>,
        /// What you checked, in your words; it stands in the incident.
        #[arg(long)]
        checked: String,
        #[command(flatten)]
        yes: confirm::Yes,
    },
    /// Rehearse the fences now, without harm: status calls, dry runs, a sacrificial process, a gate on a scratch port.
    /// The arbiter does so by itself all the time.
    ///
    /// Exits with 1 if the proof that a promotion needs could not be reached at some member.
    Test {
        /// The cluster. May be left out if there is only one.
        cluster: Option<String>,
        /// Only at this member.
        #[arg(long)]
        member: Option<String>,
        /// Only this method: its whole name, or one word of it such as `gate`.
        #[arg(long)]
        method: Option<String>,
        /// Exit with 1 also where it cannot be told whether the proof would be reached, or only by the end of a lease.
        #[arg(long)]
        strict: bool,
    },
}

/// A rehearsal has its own deadlines; the answer comes after the slowest.
const TEST_WITHIN: Duration = Duration::from_secs(120);

pub(super) async fn run(context: &Context, args: Args) -> Result<Exit, Failure> {
    match args.verb {
        Verb::Confirm { cluster, checked, yes } => {
            let client = context.client()?;
            let cluster = client.cluster(cluster.as_deref()).await?;
            let what = format!(
                "You vouch that the old primary of `{cluster}` is stopped and stays so; a standby will be promoted"
            );
            confirm::confirm(yes, &what, cluster.as_str())?;
            context.reply(&client.command(&Command::FenceConfirm { cluster, checked }).await?)
        }
        Verb::Test { cluster, member, method, strict } => {
            let cluster = context.client()?.cluster(cluster.as_deref()).await?;
            let mut connect = context.connect.clone();
            connect.timeout.0 = connect.timeout.0.max(TEST_WITHIN);
            let test = FenceTest { member: member.map(Into::into), method };
            let path = format!("/v1/clusters/{}/fence-test", segment(cluster.as_str()));
            let report: FenceTestReport = Client::new(&connect)?.post(&path, &test).await?;
            context.emit(&report, |paint| render(&report, paint))?;
            Ok(if is_reached(&report, strict) { Exit::OK } else { Exit::FOUND })
        }
    }
}

fn is_reached(report: &FenceTestReport, strict: bool) -> bool {
    report.members.iter().all(|member| match member.reaches {
        Some(true) => true,
        None => !strict,
        Some(false) => !strict && by_lease(report),
    })
}

fn by_lease(report: &FenceTestReport) -> bool {
    report.has_lease && Proof::LeaseOver.meets(report.proof_needed)
}

/// Every rehearsal, then what they add up to.
#[must_use]
pub fn render(report: &FenceTestReport, paint: Paint) -> String {
    let mut table = Table::new(paint, 0, &["MEMBER", "LEVEL>", "METHOD", "USABLE", "TOOK>", "BEST PROOF", "DETAIL"]);
    for rehearsal in &report.rehearsals {
        let (word, how): (&str, fn(Paint, &str) -> String) = match rehearsal.usable {
            Some(true) => ("yes", Paint::good),
            Some(false) => ("no", Paint::bad),
            None => ("unknown", Paint::warn),
        };
        table.row([
            rehearsal.member.as_str(),
            &rehearsal.level.to_string(),
            &rehearsal.method,
            word,
            &dash(rehearsal.took.map(human)),
            &rehearsal.best_proof.to_string(),
            &rehearsal.detail,
        ]);
        table.paint_last(3, how);
    }
    let mut out = if report.rehearsals.is_empty() { "No fences.\n".to_owned() } else { table.to_text() };
    out.push('\n');
    for member in &report.members {
        let (name, needed) = (&member.member, report.proof_needed);
        let text = match member.reaches {
            Some(true) => paint.good(&format!("{name} can be fenced with proof {}; needed is {needed}.", member.best)),
            None => {
                paint.warn(&format!("Whether {name} can be fenced with proof {needed} cannot be told without harm."))
            }
            Some(false) if by_lease(report) => {
                paint.warn(&format!("{name} cannot be fenced with proof {needed}, only by the end of its lease."))
            }
            Some(false) => {
                paint.bad(&format!("{name} cannot be fenced with proof {needed}: the best is {}.", member.best))
            }
        };
        let _ = writeln!(out, "{text}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::doctor::{FenceReach, Rehearsal};

    fn report(usable: Option<bool>, has_lease: bool) -> FenceTestReport {
        let rehearsals = vec![Rehearsal {
            cluster: "orders".into(),
            member: "broker-a".into(),
            level: 1,
            method: "agent gate".into(),
            usable,
            detail: "proved on two paths".into(),
            best_proof: Proof::Gate,
            took: Some(Duration::from_millis(12)),
            age: Some(Duration::ZERO),
            proof_age: None,
        }];
        let members = vec![FenceReach::of(&"broker-a".into(), &rehearsals, Proof::Gate, false)];
        FenceTestReport { cluster: "orders".into(), proof_needed: Proof::Gate, has_lease, rehearsals, members }
    }

    #[test]
    fn a_test_reads_as_a_table() {
        assert_eq!(
            render(&report(Some(true), false), Paint::OFF),
            "MEMBER    LEVEL  METHOD      USABLE  TOOK  BEST PROOF       DETAIL\n\
             broker-a      1  agent gate  yes     12ms  3 (gate closed)  proved on two paths\n\n\
             broker-a can be fenced with proof 3 (gate closed); needed is 3 (gate closed).\n"
        );
    }

    #[test]
    fn what_cannot_be_reached_is_told_by_the_exit_code() {
        let codes = |usable, has_lease| {
            let report = report(usable, has_lease);
            (is_reached(&report, false), is_reached(&report, true))
        };
        assert_eq!(codes(Some(true), false), (true, true));
        assert_eq!(codes(None, false), (true, false));
        assert_eq!(codes(Some(false), true), (true, false));
        assert_eq!(codes(Some(false), false), (false, false));
    }
}

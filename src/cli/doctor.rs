//! `coroner doctor`.

use std::fmt::Write as _;

use super::{
    Context,
    client::segment,
    exit::{Code, Exit, Failure},
    style::Paint,
    table::Table,
};
use crate::model::{
    doctor::{DoctorReport, Finding, Level, Section, Timeline, TimelineStep},
    time::human,
};

/// Examine the whole deployment: the file, the arbiter, the links, leases, gates, fences, brokers and nodes, each finding
/// with its remedy; and how long a failover takes.
///
/// Exits with 1 if something fails, or with --strict if something is to be warned of.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only this cluster, beside what concerns all.
    cluster: Option<String>,
    /// A warning is a failure too.
    #[arg(long)]
    strict: bool,
    /// Do not print what is as it should be.
    #[arg(long)]
    problems: bool,
}

pub(super) async fn run(context: &Context, args: &Args) -> Result<Exit, Failure> {
    let client = context.client()?;
    let query = args.cluster.as_deref().map_or_else(String::new, |name| format!("?cluster={}", segment(name)));
    let asked = client.get::<DoctorReport>(&format!("/v1/doctor{query}")).await;
    let mut report = asked.map_err(|failure| match failure.code {
        Code::Data if failure.text.contains("/v1/doctor") => {
            Failure::new(Code::Data, "This arbiter is too old to be examined: it knows no `/v1/doctor`.")
        }
        _ => failure,
    })?;
    let worst = report.worst();
    if args.problems {
        report.findings.retain(|finding| finding.level > Level::Ok);
    }
    context.emit(&report, |paint| render(&report, worst, paint))?;
    let is_bad = worst == Level::Fail || (args.strict && worst == Level::Warn);
    Ok(if is_bad { Exit::FOUND } else { Exit::OK })
}

/// The findings by section, then the timelines.
#[must_use]
pub fn render(report: &DoctorReport, worst: Level, paint: Paint) -> String {
    let hash = report.policy_hash.get(..12).unwrap_or(&report.policy_hash);
    let mut out = format!("{}  version {}  policy {hash}\n", paint.bold(&report.arbiter), report.version);
    // With one cluster its name would stand in every line.
    let is_named = report.timelines.len() > 1;
    for section in Section::ALL {
        let of_section: Vec<&Finding> = report.findings.iter().filter(|f| f.section == section).collect();
        if of_section.is_empty() {
            continue;
        }
        let _ = writeln!(out, "\n{}", paint.bold(&section.to_string()));
        for finding in of_section {
            out.push_str(&line(finding, is_named, paint));
        }
    }
    for timeline in &report.timelines {
        out.push('\n');
        out.push_str(&render_timeline(timeline, paint));
    }
    let count = |level| report.findings.iter().filter(|finding| finding.level == level).count();
    let plural = |count: usize, one: &str, many: &str| format!("{count} {}", if count == 1 { one } else { many });
    let (fails, warns) =
        (plural(count(Level::Fail), "failure", "failures"), plural(count(Level::Warn), "warning", "warnings"));
    let _ = match worst {
        Level::Ok => writeln!(out, "\n{}", paint.good("All is as it should be.")),
        Level::Warn => writeln!(out, "\n{}", paint.warn(&format!("{warns}."))),
        Level::Fail => writeln!(out, "\n{}", paint.bad(&format!("{fails}, {warns}."))),
    };
    out
}

fn line(finding: &Finding, is_named: bool, paint: Paint) -> String {
    let word = match finding.level {
        Level::Ok => paint.good("ok  "),
        Level::Warn => paint.warn("warn"),
        Level::Fail => paint.bad("fail"),
    };
    let cluster = finding.cluster.as_ref().filter(|_| is_named).map_or_else(String::new, |name| format!("{name}: "));
    let clean = |text: &str| text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
    let mut out = format!("  {word}  {cluster}{}\n", clean(&finding.text));
    if let Some(remedy) = &finding.remedy {
        let _ = writeln!(out, "        → {}", clean(remedy));
    }
    out
}

fn render_timeline(timeline: &Timeline, paint: Paint) -> String {
    let mut out = format!("{}\n", paint.bold(&format!("A failover of {}, step by step", timeline.cluster)));
    let mut table = Table::new(paint, 2, &["STEP", "AT WORST>", "LAST>", "MEASURED IN", "NOTE"]);
    for step in &timeline.steps {
        table.row([
            step.step.as_str(),
            &worst(step),
            &step.measured.map_or_else(|| "-".into(), human),
            step.measured_in.as_deref().unwrap_or_default(),
            &step.note,
        ]);
    }
    let bound = timeline.worst.map_or_else(|| "unknown".into(), human);
    let measured = timeline.measured.map_or_else(|| "-".into(), human);
    let place = timeline.measured_in.as_ref().map(ToString::to_string).unwrap_or_default();
    table.row(["in all", &bound, &measured, &place, "the slowest rule, and each step once; (…) is not in the sum"]);
    out.push_str(&table.to_text());
    out
}

fn worst(step: &TimelineStep) -> String {
    let text = match step.worst {
        None => "?".into(),
        Some(worst) if worst.is_zero() => "at once".into(),
        Some(worst) => human(worst),
    };
    if step.counts { text } else { format!("({text})") }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn findings_have_their_remedies_and_the_timeline_its_sum() {
        let finding = |section, level, text: &str, remedy: Option<&str>| Finding {
            section,
            level,
            cluster: Some("orders".into()),
            text: text.into(),
            remedy: remedy.map(Into::into),
        };
        let step = |step: &str, counts, worst, note: &str| TimelineStep {
            step: step.into(),
            counts,
            worst,
            measured: None,
            measured_in: None,
            note: note.into(),
        };
        let ms = Duration::from_millis;
        let report = DoctorReport {
            arbiter: "arbiter-1".into(),
            version: "0.1.0".into(),
            policy_hash: "0123456789abcdef".into(),
            findings: vec![
                finding(Section::Arbiter, Level::Ok, "the store is\x1b quick", None),
                finding(Section::Fences, Level::Fail, "kill would not work", Some("mend it")),
            ],
            timelines: vec![Timeline {
                cluster: "orders".into(),
                steps: vec![
                    step("detect: gone", true, Some(ms(200)), ""),
                    step("detect: odd", false, None, "by rhythm"),
                    step("detect: exited", false, Some(ms(0)), ""),
                ],
                worst: Some(ms(200)),
                measured: Some(ms(150)),
                measured_in: Some("01J0".into()),
            }],
            ..DoctorReport::default()
        };
        assert_eq!(
            render(&report, report.worst(), Paint::OFF),
            "arbiter-1  version 0.1.0  policy 0123456789ab\n\n\
             Arbiter\n  ok    the store is  quick\n\n\
             Fences\n  fail  kill would not work\n        → mend it\n\n\
             A failover of orders, step by step\n\
             \x20 STEP             AT WORST   LAST  MEASURED IN  NOTE\n\
             \x20 detect: gone        200ms      -\n\
             \x20 detect: odd           (?)      -               by rhythm\n\
             \x20 detect: exited  (at once)      -\n\
             \x20 in all              200ms  150ms  01J0         the slowest rule, and each step once; (…) is not in the sum\n\n\
             1 failure, 0 warnings.\n"
        );
    }
}

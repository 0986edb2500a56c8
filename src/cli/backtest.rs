//! `coroner backtest`.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _, Write as _},
    path::PathBuf,
    time::Duration,
};

use super::{
    Context, Format,
    exit::{Code, Exit, Failure},
    status::{dash, wall},
    style::Paint,
    table::Table,
    when,
};
use crate::{
    backtest::{self, BacktestError, ClusterReport, Event, Question, Report, RuleTally, Side, Sight, Sighting},
    config::{self, WithoutSecrets},
    journal::Journal,
    model::{ClusterName, Span, time::human},
    sys::clock,
};

/// Lines of a list, for people.
const SHOWN: usize = 20;

/// Replay recorded observations through other rules: when would they have fired, how much earlier or later than those in
/// force, and how often falsely. Nothing is done, and no arbiter is asked.
#[derive(Debug, clap::Args)]
#[command(
    after_long_help = "A firing is false if most nodes went on receiving, true if they did not although somebody sent, or if a \
failover was recorded. The pages `src/docs/backtest.md` say what that can and cannot know."
)]
pub(super) struct Args {
    /// The file in force. No secrets are read.
    #[arg(default_value = "/etc/coroner/coroner.yaml", env = "CORONER_CONFIG")]
    config: PathBuf,
    /// The other rules: a whole file, or one that holds only `clusters`, and in each `death_rules` (and `signals`).
    #[arg(long, value_name = "FILE")]
    rules: PathBuf,
    /// From when on: `30d`, or a date.
    #[arg(long, default_value = "30d", value_name = "TIME", value_parser = when::check)]
    since: String,
    /// Until when. Default: now.
    #[arg(long, value_name = "TIME", value_parser = when::check)]
    until: Option<String>,
    /// The journal. Default: the one of the file in force.
    #[arg(long, value_name = "DIR")]
    journal: Option<PathBuf>,
    /// Only this cluster.
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// What lies no further apart is about the same event.
    #[arg(long, default_value = "60s", value_parser = Span::parse)]
    window: Span,
    /// A node that received nothing for longer was without service.
    #[arg(long, default_value = "3s", value_parser = Span::parse)]
    outage: Span,
    /// A recorded failover that was a false alarm; may be given several times. A beginning of its name is enough.
    #[arg(long, value_name = "INCIDENT")]
    false_alarm: Vec<String>,
    /// Exit with 1 if new rules that act fired falsely, or missed something that was true.
    #[arg(long)]
    strict: bool,
    /// The same as `-o json`.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<Exit, Failure> {
    let mistakes = |mistakes: config::Mistakes| Failure::new(Code::Config, mistakes.to_string());
    let in_force = config::load_with(&args.config, &WithoutSecrets).map_err(mistakes)?;
    let other = config::load_with_rules(&args.config, &args.rules, &WithoutSecrets).map_err(mistakes)?;
    let dir = args.journal.clone().unwrap_or_else(|| in_force.arbiter.journal.path.clone());
    let journal = Journal::open(&dir).map_err(|e| {
        let text = format!("The journal {} cannot be read: {e}. Say where it is with --journal.", dir.display());
        Failure::new(Code::Io, text)
    })?;
    let now_ms = clock::anchor().unix_ms;
    let moment = |text: &str| when::parse(text, now_ms).map_err(|e| Failure::new(Code::Usage, e));
    let clusters = match &args.cluster {
        None => in_force.policy.clusters.keys().filter(|c| other.policy.clusters.contains_key(*c)).cloned().collect(),
        Some(name) => {
            let name = ClusterName::from(name.as_str());
            if !in_force.policy.clusters.contains_key(&name) || !other.policy.clusters.contains_key(&name) {
                return Err(Failure::new(Code::Data, format!("There is no cluster `{name}` in both files.")));
            }
            vec![name]
        }
    };
    let question = Question {
        in_force: &in_force.policy,
        other: &other.policy,
        clusters,
        from_unix_ms: moment(&args.since)?,
        to_unix_ms: args.until.as_deref().map_or(Ok(now_ms), moment)?,
        window: args.window.0,
        outage: args.outage.0,
        disowned: args.false_alarm.clone(),
        threads: std::thread::available_parallelism().map_or(2, usize::from),
    };
    let shows = io::stderr().is_terminal() && !context.is_json() && !args.json;
    let report = backtest::run(&journal, &question, &|share| {
        if shows {
            // Nobody misses a progress that cannot be shown.
            let _ = write!(io::stderr(), "\r{:3.0} %", share * 100.0);
        }
    });
    if shows {
        let _ = write!(io::stderr(), "\r     \r");
    }
    let report = report.map_err(|error| match error {
        BacktestError::Read { .. } => Failure::new(Code::Io, format!("The journal cannot be read: {error}.")),
        BacktestError::Nothing => {
            Failure::new(Code::Data, format!("The journal {} holds nothing of that time.", dir.display()))
        }
    })?;
    let context = Context { format: if args.json { Format::Json } else { context.format }, ..context.clone() };
    context.emit(&report, |paint| render(&report, paint))?;
    Ok(if args.strict && report.is_worse_than_wished { Exit::FOUND } else { Exit::OK })
}

/// The whole answer as text.
#[must_use]
pub fn render(report: &Report, paint: Paint) -> String {
    let mut out = String::new();
    for cluster in &report.clusters {
        render_cluster(&mut out, report, cluster, paint);
    }
    for trouble in &report.troubles {
        let _ = writeln!(out, "{} {trouble}", paint.warn("journal:"));
    }
    if !report.troubles.is_empty() {
        out.push('\n');
    }
    let verdict = if report.is_worse_than_wished {
        paint.bad("The new rules fired falsely, or missed something.")
    } else {
        paint.good("The new rules that act neither fired falsely nor missed anything.")
    };
    let _ = writeln!(out, "{verdict}");
    out
}

fn render_cluster(out: &mut String, report: &Report, cluster: &ClusterReport, paint: Paint) {
    let _ = writeln!(
        out,
        "{}  {} observations from {} to {}, {} of it recorded{}",
        paint.bold(cluster.cluster.as_str()),
        grouped(cluster.observations),
        wall(report.from_unix_ms),
        wall(report.to_unix_ms),
        human(cluster.covered),
        match cluster.holes {
            0 => String::new(),
            1 => ", in two parts".into(),
            n => format!(", in {} parts", n + 1),
        }
    );
    out.push('\n');
    let headings =
        ["RULE", "FILE", "THEN", "FIRED>", "TRUE>", "FALSE>", "UNCLEAR>", "HELD BACK>", "LONGEST>", "ALL IN ALL>"];
    let mut table = Table::new(paint, 2, &headings);
    for rule in &cluster.rules {
        table.row(rule_row(rule));
        if rule.side == Side::New && rule.falsely.is_some_and(|n| n > 0) {
            table.paint_last(5, Paint::bad);
        }
    }
    out.push_str(&table.to_text());
    out.push('\n');
    render_events(out, &cluster.events, paint);
    render_sights(out, "False firings of the new rules", &cluster.false_firings, paint);
    render_sights(out, "Firings of the new rules of which nobody can say", &cluster.unclear_firings, paint);
    for remark in &cluster.remarks {
        let _ = writeln!(out, "{} {remark}", paint.warn("note:"));
    }
    if !cluster.remarks.is_empty() {
        out.push('\n');
    }
}

fn rule_row(rule: &RuleTally) -> [String; 10] {
    let file = match rule.side {
        Side::InForce => "in force",
        Side::New => "new",
    };
    let shadow = if rule.shadow { ", shadow" } else { "" };
    let span = |d: Duration| if d.is_zero() { "-".to_owned() } else { human(d) };
    [
        rule.rule.to_string(),
        file.into(),
        format!("{}{shadow}", rule.then),
        grouped(rule.fired),
        dash(rule.truly),
        dash(rule.falsely),
        dash(rule.unclear),
        grouped(rule.held_back),
        span(rule.longest),
        span(rule.total),
    ]
}

fn render_events(out: &mut String, events: &[Event], paint: Paint) {
    if events.is_empty() {
        out.push_str("Nothing happened that a rule that acts should have seen.\n\n");
        return;
    }
    let _ = writeln!(out, "{}", paint.bold("What happened, and who would have acted first"));
    let mut table = Table::new(paint, 2, &["AT", "IN FORCE", "NEW", "NEW IS", "OUTAGE>", "WHAT"]);
    for event in events.iter().take(SHOWN) {
        let is = match (event.earlier_ms, &event.in_force, &event.new) {
            (Some(0), ..) => "as early".to_owned(),
            (Some(ms), ..) if ms > 0 => format!("{} earlier", human(Duration::from_millis(ms.unsigned_abs()))),
            (Some(ms), ..) => format!("{} later", human(Duration::from_millis(ms.unsigned_abs()))),
            (None, Some(_), None) => "missing it".to_owned(),
            (None, None, Some(_)) => "alone to see it".to_owned(),
            _ => "missing it, too".to_owned(),
        };
        let seen = |sighting: &Option<Sighting>| match sighting {
            None => "-".to_owned(),
            Some(s) => {
                let off = Duration::from_millis(s.unix_ms.saturating_sub(event.unix_ms).unsigned_abs());
                format!("+{} {}", human(off), s.rule)
            }
        };
        table.row([
            when::precise(event.unix_ms),
            seen(&event.in_force),
            seen(&event.new),
            is,
            dash(event.outage.map(human)),
            event.what.clone(),
        ]);
        if event.new.is_none() {
            table.paint_last(3, Paint::bad);
        }
    }
    out.push_str(&table.to_text());
    more(out, events.len());
    out.push('\n');
}

fn render_sights(out: &mut String, title: &str, sights: &[Sight], paint: Paint) {
    if sights.is_empty() {
        return;
    }
    let _ = writeln!(out, "{}", paint.bold(title));
    let mut table = Table::new(paint, 2, &["AT", "RULE", "FOR>", "GUARDS", "WHY"]);
    for sight in sights.iter().take(SHOWN) {
        let guards: Vec<&str> = sight.firing.guards.iter().map(|guard| guard.as_str()).collect();
        table.row([
            when::precise(sight.firing.from_unix_ms),
            sight.firing.rule.to_string(),
            human(sight.firing.length),
            if guards.is_empty() { "-".into() } else { guards.join(", ") },
            sight.why.clone(),
        ]);
    }
    out.push_str(&table.to_text());
    more(out, sights.len());
    out.push('\n');
}

fn more(out: &mut String, count: usize) {
    if count > SHOWN {
        let _ = writeln!(out, "  … and {} more: see them with -o json", count - SHOWN);
    }
}

/// A number with its thousands apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_stand_apart() {
        assert_eq!([0, 999, 1_000, 15_552_000].map(grouped), ["0", "999", "1,000", "15,552,000"]);
    }
}

//! The tests of a file: played, and what failed shown with the rules explained as `coroner why` does.

use std::fmt::Write as _;

use serde::Serialize;

use crate::{
    cli::{
        exit::{Code, Failure},
        style::Paint,
        why,
    },
    config::Config,
    model::{Verdict, trial::moment},
    trial::{self, Miss, Outcome, Scene},
};

/// What came of the tests.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Played {
    pub(super) passed: usize,
    pub(super) failed: usize,
    /// Each test, in the order of the file.
    pub(super) tests: Vec<Outcome>,
}

/// Plays all tests, or the one of that name.
///
/// # Errors
/// There is no test of that name.
pub(super) fn play(config: &Config, only: Option<&str>) -> Result<Played, Failure> {
    if let Some(name) = only
        && !config.tests.iter().any(|test| test.name == name)
    {
        let known: Vec<String> = config.tests.iter().map(|test| format!("\n  {}", test.name)).collect();
        let known = if known.is_empty() { " the file has none.".into() } else { known.concat() };
        return Err(Failure::new(Code::Data, format!("There is no test `{name}`; there is:{known}")));
    }
    let wanted = config.tests.iter().filter(|test| only.is_none_or(|name| test.name == name));
    // Each test names a cluster of the file: it was resolved with it.
    let tests: Vec<Outcome> = wanted.filter_map(|test| trial::play(&config.policy, test)).collect();
    let passed = tests.iter().filter(|outcome| outcome.passed).count();
    Ok(Played { passed, failed: tests.len() - passed, tests })
}

/// The failed ones in full, and how many passed.
pub(super) fn render(played: &Played, file: &str, paint: Paint) -> String {
    let mut out = String::new();
    for outcome in played.tests.iter().filter(|outcome| !outcome.passed) {
        let _ = writeln!(out, "{} {}", paint.bad("✘ test failed:"), paint.bold(&outcome.name));
        let _ = writeln!(out, "    {file}:{}, cluster {}", outcome.line, outcome.cluster);
        for miss in &outcome.misses {
            render_miss(&mut out, miss, paint);
        }
        out.push_str("\n    What was believed, each time that it changed:\n");
        for scene in &outcome.story {
            let _ = writeln!(out, "    {:>8}  {}", moment(scene.at), believed(scene, paint));
        }
        out.push('\n');
    }
    let count = |n: usize| format!("{n} {}", if n == 1 { "test" } else { "tests" });
    let _ = match (played.passed, played.failed) {
        (0, 0) => Ok(()),
        (passed, 0) => writeln!(out, "{}", paint.good(&format!("{} passed.", count(passed)))),
        (passed, failed) => {
            writeln!(out, "{}", paint.bad(&format!("{} failed, {passed} passed.", count(failed))))
        }
    };
    out
}

fn render_miss(out: &mut String, miss: &Miss, paint: Paint) {
    let head = format!("expected, line {}:", miss.line);
    let _ = writeln!(out, "\n    {head} {}", miss.expected);
    let _ = writeln!(out, "    {:width$} {}", "came:", miss.came, width = head.len());
    let _ = writeln!(out, "\n    At {}:", moment(miss.at));
    for line in why::render(&miss.why, paint).lines() {
        let _ = writeln!(out, "{}", format!("    {line}").trim_end());
    }
    if !miss.against.is_empty() {
        out.push_str("\n    Against it:\n");
        for state in &miss.against {
            let _ = writeln!(out, "      {} {}: {}", paint.bad("✘"), state.guard, state.reason);
        }
    }
}

fn believed(scene: &Scene, paint: Paint) -> String {
    let belief = &scene.belief;
    let mut text = paint.verdict(belief.verdict, belief.verdict.as_str());
    if let (Some(rule), true) = (&belief.rule, belief.verdict > Verdict::Alive) {
        let _ = write!(text, ", by `{rule}`");
    }
    let _ = write!(text, " → {}", belief.then);
    if !belief.blocked_by.is_empty() {
        let guards: Vec<&str> = belief.blocked_by.iter().map(|guard| guard.as_str()).collect();
        let _ = write!(text, " ({})", guards.join(", "));
    }
    text
}

//! `coroner why`.

use std::fmt::Write as _;

use super::{
    Context,
    client::segment,
    exit::{Exit, Failure},
    style::{Paint, mark},
};
use crate::model::{
    explain::{RuleExplanation, Truth},
    status::Why,
    time::human,
};

/// Explain what is believed of the primary.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The cluster. May be left out if there is only one.
    cluster: Option<String>,
}

pub(super) async fn run(context: &Context, args: &Args) -> Result<Exit, Failure> {
    let client = context.client()?;
    let cluster = client.cluster(args.cluster.as_deref()).await?;
    let why: Why = client.get(&format!("/v1/clusters/{}/why", segment(cluster.as_str()))).await?;
    context.emit(&why, |paint| render(&why, paint))
}

/// The belief, and every rule with its tree.
#[must_use]
pub fn render(why: &Why, paint: Paint) -> String {
    let mut out = String::new();
    let primary = why.primary.as_ref().map_or_else(|| "no known primary".to_owned(), ToString::to_string);
    let because = why.rule.as_ref().map_or_else(String::new, |rule| format!(", by the rule `{rule}`"));
    let verdict = paint.verdict(why.verdict, why.verdict.as_str());
    let _ = writeln!(out, "{}: {primary} is {verdict}{because}.", paint.bold(why.cluster.as_str()));
    for rule in &why.rules {
        out.push('\n');
        out.push_str(&render_rule(rule, paint));
    }
    out
}

/// One rule with its tree.
#[must_use]
pub fn render_rule(rule: &RuleExplanation, paint: Paint) -> String {
    let sign = mark(rule.truth).to_string();
    let sign = match rule.truth {
        Truth::True => paint.verdict(rule.verdict, &sign),
        Truth::False | Truth::Unknown => paint.dim(&sign),
    };
    let shadow = if rule.shadow { ", shadow: never acts" } else { "" };
    let head = format!(
        "{sign} {} → {}, {}{shadow} ({} for {})\n",
        paint.bold(rule.rule.as_str()),
        rule.verdict,
        rule.then,
        rule.truth,
        human(rule.since)
    );
    let tree = rule.tree.to_text();
    tree.lines().fold(head, |mut out, line| {
        let _ = writeln!(out, "    {line}");
        out
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{Explanation, Verdict, rule::Reaction};

    #[test]
    fn the_verdict_stands_first_and_every_leaf_has_its_age() {
        let leaf = Explanation {
            asked: "ping failing 3 of 5".into(),
            truth: Truth::True,
            seen: "3 of 5 (refused)".into(),
            observer: Some("arbiter".into()),
            subject: Some("broker-a".into()),
            age: Some(Duration::from_millis(120)),
            would_change: None,
            children: vec![],
        };
        let rule = RuleExplanation {
            rule: "refused".into(),
            verdict: Verdict::Dead,
            then: Reaction::Failover,
            shadow: false,
            truth: Truth::True,
            since: Duration::from_millis(900),
            tree: Explanation { asked: "all".into(), seen: String::new(), children: vec![leaf.clone()], ..leaf },
        };
        let why = Why {
            cluster: "orders".into(),
            primary: Some("broker-a".into()),
            verdict: Verdict::Dead,
            rule: Some("refused".into()),
            rules: vec![rule],
        };
        let text = render(&why, Paint::OFF);
        assert!(text.starts_with("orders: broker-a is dead, by the rule `refused`.\n"), "{text}");
        assert!(text.contains("✔ refused → dead, failover (true for 900ms)\n"), "{text}");
        assert!(text.contains("      ✔ ping failing 3 of 5: 3 of 5 (refused) [arbiter] (120ms old)\n"), "{text}");
    }
}

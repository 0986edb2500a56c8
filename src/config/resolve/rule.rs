//! Death rules: read by hand, because what a condition means depends on the signal it is about.

use std::{collections::BTreeMap, time::Duration};

use super::{ClusterView, Resolver, signal::Signal};
use crate::{
    config::{
        Source,
        decode::{decode, unknown},
        diagnostic::did_you_mean,
        schema::{self, Cluster, RuleVerdict},
        shape::{At, Raw},
        yaml::{Id, Value},
    },
    model::{
        Condition, Expr, FailureKind, Role, Rule, RuleName, SignalName, Span, Verdict,
        policy::SignalKind,
        rule::{Count, ExprKind, Reaction, Window},
        time::human,
    },
};

type Signals = BTreeMap<SignalName, Signal>;

/// What the conditions of one cluster are read against.
struct Against<'a> {
    view: &'a ClusterView,
    signals: &'a Signals,
}

const BARE: [&str; 8] = ["ok", "failing", "exited", "firing", "up", "down", "primary", "standby"];
const WITH_VALUE: [&str; 14] = [
    "silent",
    "failing",
    "failed_with",
    "stalled",
    "lag_above",
    "latency_above",
    "above",
    "below",
    "text",
    "role_is",
    "writable",
    "link",
    "unreachable_by",
    "phi_above",
];

impl Resolver<'_> {
    pub(super) fn rules(&mut self, view: &ClusterView, cluster: &At<Cluster>, signals: &Signals) -> Vec<Rule> {
        let against = Against { view, signals };
        let mut names = Vec::new();
        let mut rules = Vec::new();
        for at in &cluster.value.death_rules {
            if let Some(name) = &at.value.name {
                if names.contains(&&name.value) {
                    self.error(name, format!("another rule is named `{}` already", self.shown(name.id)));
                }
                if name.value.trim().is_empty() {
                    self.error(name, "a rule needs a name that says what it is about");
                }
                names.push(&name.value);
            }
            rules.extend(self.rule(&against, cluster, at));
        }
        rules
    }

    fn rule(&mut self, against: &Against<'_>, cluster: &At<Cluster>, at: &At<schema::Rule>) -> Option<Rule> {
        let rule = &at.value;
        let name = self.need(at.id, "name", &rule.name);
        let verdict = self.need(at.id, "verdict", &rule.verdict);
        let then = self.need(at.id, "then", &rule.then);
        let when = self.need(at.id, "when", &rule.when).copied();
        let when = when.and_then(|Raw(id)| self.branch(against, id));
        let hold = self.hold(rule.for_.map(|r| r.0), when.as_ref(), against);
        let window = rule.within.and_then(|r| self.window(r.0));
        if let (Some(verdict), Some(then)) = (verdict, then)
            && verdict.value == RuleVerdict::Suspect
            && matches!(then.value, Reaction::Failover | Reaction::Switchover)
        {
            let help = "write `verdict: dead` (or `gray`) if it is enough to act on, else `then: alert`";
            self.error_help(then, format!("a suspicion alone must not cause a {}", then.value), help);
        }
        if let (Some(own), Some(all)) = (&rule.mode, &cluster.value.mode)
            && own.value > all.value
        {
            let message = format!("a rule cannot be `{}` in a cluster that is `{}`", own.value, all.value);
            self.error_help(own, message, "a rule's mode can only be narrower");
        }
        let mut when = when?;
        if hold.is_some() || window.is_some() {
            if when.hold.is_some() || when.window.is_some() {
                when = Expr::plain(ExprKind::All(vec![when]));
            }
            (when.hold, when.window) = (hold, window);
        }
        Some(Rule {
            name: RuleName::from(name?.value.as_str()),
            when,
            verdict: match verdict?.value {
                RuleVerdict::Suspect => Verdict::Suspect,
                RuleVerdict::Gray => Verdict::Gray,
                RuleVerdict::Dead => Verdict::Dead,
            },
            then: then?.value,
            mode: rule.mode.as_ref().map(|m| m.value),
        })
    }

    /// One branch. All of it is read, also when a part is unsound.
    fn branch(&mut self, against: &Against<'_>, id: Id) -> Option<Expr> {
        let head = self.tree.head(id);
        match &self.tree.node(id).value {
            Value::Map(_) => {}
            Value::Seq(_) => {
                self.notes.error_help(head, "a list does not say how it is meant", "put it under `all:` or `any:`");
                return None;
            }
            _ => {
                let word = self.shown(id).to_owned();
                let help = format!("write `{{ {word}: {{ silent: 10s }} }}`, or another condition");
                self.notes.error_help(head, format!("`{word}` does not say what is to be true of it"), help);
                return None;
            }
        }
        let (mut hold, mut window, mut kinds) = (None, None, Vec::new());
        for &(key, value) in self.tree.entries(id) {
            match self.tree.node(key).text.as_str() {
                "for" => hold = Some(value),
                "within" => window = self.window(value),
                _ => kinds.push((key, value)),
            }
        }
        if let [(first, _), (second, _), ..] = kinds[..] {
            let (a, b) = (&self.tree.node(first).text, &self.tree.node(second).text);
            let message = format!("`{a}` and `{b}` stand side by side");
            let help = format!("say how they belong together: `all: [{{ {a}: … }}, {{ {b}: … }}]`, or `any:`");
            self.notes.error_help(self.tree.place(second), message, help);
        }
        let Some(&(key, value)) = kinds.first() else {
            self.notes.error(head, "the branch holds no condition");
            return None;
        };
        let kind = match self.tree.node(key).text.as_str() {
            word @ ("all" | "any") => {
                let list = self.branches(against, value, word);
                list.map(|l| if word == "all" { ExprKind::All(l) } else { ExprKind::Any(l) })
            }
            "not" => self.branch(against, value).map(|inner| ExprKind::Not(Box::new(inner))),
            "at_least" => self.at_least(against, value),
            _ => {
                let signal = self.signal_name(against, key);
                let condition = self.condition(against, value, signal.as_ref(), key);
                signal.zip(condition).map(|(signal, condition)| ExprKind::Signal { signal, condition })
            }
        };
        let mut branch = Expr::plain(kind?);
        branch.hold = self.hold(hold, Some(&branch), against);
        branch.window = window;
        (kinds.len() == 1).then_some(branch)
    }

    fn branches(&mut self, against: &Against<'_>, id: Id, word: &str) -> Option<Vec<Expr>> {
        let Value::Seq(items) = &self.tree.node(id).value else {
            let help = format!("write `{word}:` and one branch a line, each with `- `");
            self.notes.error_help(self.tree.head(id), format!("`{word}` takes a list"), help);
            return None;
        };
        if items.is_empty() {
            let message = format!("`{word}` of nothing makes no sense");
            self.notes.error(self.tree.head(id), message);
            return None;
        }
        let list: Vec<_> = items.iter().map(|i| self.branch(against, *i)).collect();
        list.into_iter().collect()
    }

    fn at_least(&mut self, against: &Against<'_>, id: Id) -> Option<ExprKind> {
        let known = ["count", "of", "are"];
        for &(key, _) in self.tree.entries(id) {
            let word = self.tree.node(key).text.as_str();
            if !known.contains(&word) {
                unknown(self.notes, self.tree.place(key), "key", word, &known);
            }
        }
        let (count_id, of, are) = (self.tree.get(id, "count"), self.tree.get(id, "of"), self.tree.get(id, "are"));
        let head = self.tree.head(id);
        let help = "write `at_least: { count: majority, of: arrivals, are: { silent: 5s } }`";
        for (word, part) in [("count", count_id), ("of", of)] {
            if part.is_none() {
                self.notes.error_help(head, format!("`{word}` is missing"), help);
            }
        }
        let count = count_id.and_then(|id| self.count(id));
        let of = of?;
        if let Value::Seq(_) = self.tree.node(of).value {
            if let Some(are) = are {
                let place = self.tree.node(are).key.map_or_else(|| self.tree.head(are), |k| self.tree.place(k));
                self.notes.error(place, "`are` belongs to a signal; each branch of a list says itself what it wants");
            }
            let list = self.branches(against, of, "of")?;
            self.check_count(count, count_id, list.len(), "branches");
            return Some(ExprKind::AtLeast { count: count?, of: list });
        }
        let signal = self.signal_name(against, of);
        let Some(are) = are else {
            self.notes.error_help(head, "`are` is missing: what must be true of that many?", help);
            return None;
        };
        let condition = self.condition(against, are, signal.as_ref(), of);
        let signal = signal?;
        let streams = against.signals.get(&signal)?.streams(against.view.members.len());
        self.check_count(count, count_id, streams, "observers");
        Some(ExprKind::Observers { count: count?, signal, are: condition? })
    }

    fn check_count(&mut self, count: Option<Count>, id: Option<Id>, total: usize, what: &str) {
        if let (Some(Count::Number(n)), Some(id)) = (count, id)
            && n as usize > total
        {
            let message = format!("{n} can never be reached: there are {total} {what}");
            self.notes.error_help(self.tree.head(id), message, "write a smaller number, or `majority`");
        }
    }

    /// A signal that exists. One that is named and could not be read is passed over in silence: it was noted.
    fn signal_name(&mut self, against: &Against<'_>, id: Id) -> Option<SignalName> {
        let word = self.tree.node(id).text.as_str();
        if let Some((name, _)) = against.signals.get_key_value(word) {
            return Some(name.clone());
        }
        let declared = self.tree.get(against.view.id, "signals");
        if declared.is_some_and(|signals| self.tree.get(signals, word).is_some()) {
            return None;
        }
        let declared = declared.into_iter().flat_map(|s| self.tree.entries(s)).map(|(k, _)| *k);
        let names: Vec<&str> = declared.map(|k| self.tree.node(k).text.as_str()).collect();
        let words = ["all", "any", "not", "at_least"];
        let help = match crate::config::diagnostic::nearest(word, words) {
            Some(near) if word != near && !names.iter().any(|n| strsim::levenshtein(n, word) < 2) => {
                format!("did you mean `{near}`?")
            }
            _ => did_you_mean(word, names.iter().copied()),
        };
        let message = format!("there is no signal `{}`", self.shown(id));
        self.notes.error_help(self.tree.place(id), message, help);
        None
    }

    /// A condition; checked against the signal if that is known. `named`: where the signal's name stands.
    fn condition(
        &mut self,
        against: &Against<'_>,
        id: Id,
        signal: Option<&SignalName>,
        named: Id,
    ) -> Option<Condition> {
        let signal = signal.and_then(|s| against.signals.get(s));
        let kind = signal.map(|s| s.policy.kind);
        let condition = match &self.tree.node(id).value {
            Value::Map(entries) => match entries[..] {
                [(key, value)] => self.condition_with_value(key, value),
                [_, (second, _), ..] => {
                    let help = "one condition for each branch: put both under `all:`";
                    self.notes.error_help(self.tree.place(second), "a second condition for the same signal", help);
                    None
                }
                [] => {
                    self.notes.error(self.tree.head(id), "the condition is empty");
                    None
                }
            },
            _ => self.bare_condition(id),
        }?;
        let signal = signal?;
        let kind = kind?;
        let place = match self.tree.entries(id).first() {
            Some((key, _)) => self.tree.place(*key),
            None => self.tree.head(id),
        };
        if !kind.accepts(&condition) {
            let name = self.tree.node(named).text.clone();
            let message = format!("`{name}` is a signal of {}, which cannot be `{condition}`", in_words(kind));
            self.notes.error_help(place, message, format!("what fits it: {}", fitting(kind)));
            return None;
        }
        self.check_timing(against, id, signal, &condition);
        Some(condition)
    }

    fn check_timing(&mut self, against: &Against<'_>, id: Id, signal: &Signal, condition: &Condition) {
        let every = signal.policy.every;
        let value = self.tree.entries(id).first().map_or(id, |(_, v)| *v);
        let place = self.tree.head(value);
        match condition {
            Condition::Silent(d) | Condition::Stalled(d) if *d < every.saturating_mul(2) => {
                let word = if matches!(condition, Condition::Silent(_)) { "silent" } else { "stalled" };
                let message = format!(
                    "`{word}: {}` would hold when a single observation is late: they come every {}",
                    human(*d),
                    human(every)
                );
                let help = format!("write {} or more", human(every.saturating_mul(2)));
                self.notes.error_help(place, message, help);
            }
            Condition::LatencyAbove(d) => {
                let timeout = match signal.source {
                    Source::Broker { timeout, .. } | Source::Probe { timeout, .. } | Source::Canary { timeout, .. } => {
                        timeout
                    }
                    _ => Duration::MAX,
                };
                if *d >= timeout {
                    let message = format!(
                        "`latency_above: {}` can never be true: a look ends after its timeout of {}",
                        human(*d),
                        human(timeout)
                    );
                    self.notes.error_help(place, message, "write a longer `timeout`, or a shorter latency");
                }
            }
            Condition::UnreachableBy(count) => {
                let streams = signal.streams(against.view.members.len());
                self.check_count(Some(*count), Some(value), streams, "observers");
            }
            _ => {}
        }
    }

    fn bare_condition(&mut self, id: Id) -> Option<Condition> {
        let node = self.tree.node(id);
        let word = node.text.as_str();
        Some(match word {
            "ok" => Condition::Ok,
            "failing" => Condition::Failing,
            "exited" => Condition::Exited,
            "firing" => Condition::Firing,
            "up" | "down" => Condition::Link(word == "up"),
            "true" | "false" => Condition::Writable(word == "true"),
            "primary" => Condition::RoleIs(Role::Primary),
            "standby" => Condition::RoleIs(Role::Standby),
            _ => {
                let shown = node.shown();
                let place = self.tree.head(id);
                let (message, help) = if matches!(node.value, Value::Seq(_)) {
                    ("a list is no condition".to_owned(), "write one condition for each branch".to_owned())
                } else if WITH_VALUE.contains(&word) {
                    (format!("`{word}` needs a value"), format!("write `{{ {word}: … }}`"))
                } else {
                    let known = BARE.into_iter().chain(WITH_VALUE);
                    (format!("there is no condition `{shown}`"), did_you_mean(word, known))
                };
                self.notes.error_help(place, message, help);
                return None;
            }
        })
    }

    fn condition_with_value(&mut self, key: Id, value: Id) -> Option<Condition> {
        let word = self.tree.node(key).text.as_str();
        let text = self.tree.node(value).text.trim();
        let mut wrong = |expected: &str| {
            let place = self.tree.head(value);
            let found = self.tree.node(value).shown();
            let message = format!("`{word}` takes {expected}, not `{found}`");
            self.notes.error(place, message);
            None
        };
        Some(match word {
            "silent" => Condition::Silent(self.span_at(value)?),
            "stalled" => Condition::Stalled(self.span_at(value)?),
            "latency_above" => Condition::LatencyAbove(self.span_at(value)?),
            "lag_above" => match text.parse() {
                Ok(n) => Condition::LagAbove(n),
                Err(_) => Condition::LagLongerThan(self.span_at(value)?),
            },
            "failing" => {
                let parts = text.split_once("of").map(|(k, n)| (k.trim().parse::<u32>(), n.trim().parse::<u32>()));
                let Some((Ok(failures), Ok(of))) = parts else { return wrong("for example `3 of 5`") };
                if failures == 0 || failures > of || of > 1000 {
                    let place = self.tree.head(value);
                    let message = format!("{failures} of {of} can never be failing");
                    let help = "write the smaller number first: `3 of 5` (at least 1, at most 1000)";
                    self.notes.error_help(place, message, help);
                    return None;
                }
                Condition::FailingOf { failures, of }
            }
            "failed_with" => match decode::<FailureKind>(self.tree, value, self.notes) {
                Some(kind) if !kind.is_evidence() => {
                    let message = format!("`{kind}` says nothing of the subject's health, so that no rule can use it");
                    self.notes.error(self.tree.head(value), message);
                    return None;
                }
                kind => Condition::FailedWith(kind?),
            },
            "above" | "below" | "phi_above" => {
                let Some(n) = text.parse::<f64>().ok().filter(|n| n.is_finite()) else { return wrong("a number") };
                match word {
                    "above" => Condition::Above(n),
                    "below" => Condition::Below(n),
                    _ if n <= 0.0 => return wrong("a number above 0, usually 8 to 12"),
                    _ => Condition::PhiAbove(n),
                }
            }
            "text" if matches!(self.tree.node(value).value, Value::Seq(_) | Value::Map(_)) => return wrong("a text"),
            "text" => Condition::TextIs(self.tree.node(value).text.clone()),
            "role_is" => match text {
                "primary" => Condition::RoleIs(Role::Primary),
                "standby" => Condition::RoleIs(Role::Standby),
                _ => return wrong("`primary` or `standby`"),
            },
            "writable" => match text {
                "true" | "false" => Condition::Writable(text == "true"),
                _ => return wrong("`true` or `false`"),
            },
            "link" => match text {
                "up" | "down" => Condition::Link(text == "up"),
                _ => return wrong("`up` or `down`"),
            },
            "unreachable_by" => Condition::UnreachableBy(self.count(value)?),
            "ok" | "exited" | "firing" => {
                let help = format!("write `{word}` alone");
                self.notes.error_help(self.tree.place(key), format!("`{word}` takes no value"), help);
                return None;
            }
            _ => {
                let help = did_you_mean(word, WITH_VALUE.into_iter().chain(BARE));
                self.notes.error_help(self.tree.place(key), format!("there is no condition `{word}`"), help);
                return None;
            }
        })
    }

    fn count(&mut self, id: Id) -> Option<Count> {
        let text = self.tree.node(id).text.trim();
        let count = match text {
            "majority" => Some(Count::Majority),
            "all" => Some(Count::All),
            _ => match text.strip_suffix('%') {
                Some(share) => share.trim().parse().ok().filter(|p| *p > 0.0 && *p <= 100.0).map(Count::Percent),
                None => text.parse().ok().filter(|n| *n > 0).map(Count::Number),
            },
        };
        if count.is_none() {
            let message = format!("`{}` is no number of observers", self.shown(id));
            let help = "write a number from 1, a share such as `60%`, `majority`, or `all`";
            self.notes.error_help(self.tree.head(id), message, help);
        }
        count
    }

    fn span_at(&mut self, id: Id) -> Option<Duration> {
        decode::<Span>(self.tree, id, self.notes).map(|s| s.0)
    }

    /// `for:`: at least one period of something below it, or it would say nothing that one look does not.
    fn hold(&mut self, id: Option<Id>, of: Option<&Expr>, against: &Against<'_>) -> Option<Duration> {
        let id = id?;
        let hold = self.span_at(id)?;
        let mut shortest: Option<(Duration, SignalName)> = None;
        of?.walk(&mut |branch| {
            if let ExprKind::Signal { signal, .. } | ExprKind::Observers { signal, .. } = &branch.kind
                && let Some(found) = against.signals.get(signal).filter(|s| s.policy.kind != SignalKind::Alert)
                && shortest.as_ref().is_none_or(|(every, _)| found.policy.every < *every)
            {
                shortest = Some((found.policy.every, signal.clone()));
            }
        });
        if let Some((every, signal)) = shortest
            && hold < every
        {
            let message =
                format!("`for: {}` is shorter than the period of `{signal}`, which is {}", human(hold), human(every));
            let help = format!("write {} or more, or look more often", human(every));
            self.notes.error_help(self.tree.head(id), message, help);
        }
        Some(hold)
    }

    fn window(&mut self, id: Id) -> Option<Window> {
        let window: schema::Window = decode(self.tree, id, self.notes)?;
        let (true_for, of) =
            (self.need(id, "true_for", &window.true_for).cloned(), self.need(id, "of", &window.of).cloned());
        let (true_for, of) = (true_for?, of?);
        if true_for.value.0.is_zero() || true_for.value > of.value {
            let message = format!("{} out of {} can never be true", human(true_for.value.0), human(of.value.0));
            self.error_help(&true_for, message, "make `true_for` shorter than `of`, and not zero");
            return None;
        }
        Some(Window { true_for: true_for.value.0, of: of.value.0 })
    }
}

const fn in_words(kind: SignalKind) -> &'static str {
    match kind {
        SignalKind::Heartbeat => "heartbeats",
        SignalKind::Arrivals => "arrivals",
        SignalKind::Canary => "canaries",
        SignalKind::Check => "checks",
        SignalKind::Role => "roles",
        SignalKind::Position => "positions",
        SignalKind::Link => "replication links",
        SignalKind::Write => "writes",
        SignalKind::Process => "processes",
        SignalKind::Value => "numbers",
        SignalKind::Text => "texts",
        SignalKind::Alert => "alerts",
    }
}

/// The conditions that fit a kind of signal, by asking it.
fn fitting(kind: SignalKind) -> String {
    let second = Duration::from_secs(1);
    let all = [
        ("ok", Condition::Ok),
        ("failing", Condition::Failing),
        ("failed_with", Condition::FailedWith(FailureKind::Refused)),
        ("silent", Condition::Silent(second)),
        ("stalled", Condition::Stalled(second)),
        ("lag_above: <number>", Condition::LagAbove(1)),
        ("lag_above: <duration>", Condition::LagLongerThan(second)),
        ("latency_above", Condition::LatencyAbove(second)),
        ("above", Condition::Above(1.0)),
        ("below", Condition::Below(1.0)),
        ("text", Condition::TextIs(String::new())),
        ("role_is", Condition::RoleIs(Role::Primary)),
        ("writable", Condition::Writable(true)),
        ("up, down", Condition::Link(true)),
        ("exited", Condition::Exited),
        ("firing", Condition::Firing),
        ("unreachable_by", Condition::UnreachableBy(Count::All)),
        ("phi_above", Condition::PhiAbove(1.0)),
    ];
    let fit = all.iter().filter(|(_, condition)| kind.accepts(condition)).map(|(word, _)| format!("`{word}`"));
    fit.collect::<Vec<_>>().join(", ")
}

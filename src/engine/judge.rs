//! Judging: one rule's tree against the view, three-valued, with `for:` and windows, and explained on demand.
//!
//! Judging and explaining are one traversal, so that an explanation can never differ from the decision. Every
//! branch is visited every time, because `for:` and windows must see every change below them.

use std::{collections::VecDeque, hash::Hasher, time::Duration};

use super::{
    condition::{self, Answer, Context},
    view::{Stream, View},
};
use crate::{
    failover::Print,
    model::{
        ClusterPolicy, Condition, Explanation, Expr, MemberName, Observer, Outcome, Rule, SignalName, Time, Truth,
        policy::{Observers, Subjects},
        rule::{Count, ExprKind, Window},
        time::human,
    },
};

/// What a rule remembers between judgements.
#[derive(Clone, Debug)]
pub(super) struct RuleState {
    pub(super) truth: Truth,
    pub(super) since: Time,
    /// One for each branch, in the order of `Expr::walk`.
    slots: Vec<Slot>,
}

/// What one branch remembers.
#[derive(Clone, Debug, Default)]
struct Slot {
    /// Since when what is asked has been true without interruption, before the window is applied.
    true_since: Option<Time>,
    /// The same after it: what `for:` counts from.
    held_since: Option<Time>,
    /// Ended spans of truth that still reach into the window; oldest first.
    spans: VecDeque<(Time, Time)>,
}

/// What a judgement may look at.
pub(super) struct Evidence<'a> {
    pub(super) now: Time,
    pub(super) policy: &'a ClusterPolicy,
    pub(super) view: &'a View,
    pub(super) primary: Option<&'a MemberName>,
    /// The primary's last known position.
    primary_position: Option<u64>,
}

impl<'a> Evidence<'a> {
    pub(super) fn new(now: Time, policy: &'a ClusterPolicy, view: &'a View, primary: Option<&'a MemberName>) -> Self {
        let primary_position = primary.and_then(|p| view.position(p)).map(|(_, position)| position);
        Self { now, policy, view, primary, primary_position }
    }

    /// All streams that the signal should have now, heard of or not: what is configured makes up the whole.
    pub(super) fn streams(&self, signal: &SignalName) -> Vec<(Observer, Option<MemberName>, Option<&'a Stream>)> {
        let Evidence { policy, view, primary, .. } = *self;
        let Some(signal_policy) = policy.signals.get(signal) else { return Vec::new() };
        let subjects: Vec<Option<MemberName>> = match &signal_policy.subjects {
            Subjects::Service => vec![None],
            Subjects::Member(name) => vec![Some(name.clone())],
            Subjects::Primary => primary.cloned().map(Some).into_iter().collect(),
            Subjects::Members => policy.members.iter().map(|m| Some(m.name.clone())).collect(),
            Subjects::Standbys => {
                policy.members.iter().filter(|m| Some(&m.name) != primary).map(|m| Some(m.name.clone())).collect()
            }
        };
        let mut all = Vec::new();
        for subject in subjects {
            let observers: Vec<Observer> = match (&signal_policy.observers, &subject) {
                (Observers::Arbiter, _) => vec![Observer::Arbiter],
                (Observers::Nodes(nodes), _) => nodes.iter().cloned().map(Observer::Node).collect(),
                (Observers::Members, Some(member)) => vec![Observer::Member(member.clone())],
                (Observers::Members, None) => Vec::new(),
            };
            for observer in observers {
                let stream = view.find(signal, &observer, subject.as_ref());
                all.push((observer, subject.clone(), stream));
            }
        }
        all
    }
}

impl RuleState {
    pub(super) fn new(rule: &Rule, now: Time) -> Self {
        let mut branches = 0;
        rule.when.walk(&mut |_| branches += 1);
        Self { truth: Truth::Unknown, since: now, slots: vec![Slot::default(); branches] }
    }

    pub(super) fn fingerprint<H: Hasher>(&self, print: &mut Print<'_, H>) {
        print.plain(self.truth);
        for slot in &self.slots {
            print.perhaps(slot.true_since);
            print.perhaps(slot.held_since);
            print.count(slot.spans.len());
            for (from, to) in &slot.spans {
                print.moment(*from);
                print.moment(*to);
            }
        }
    }

    /// Forgets everything that was held or counted.
    pub(super) fn reset(&mut self) {
        self.slots.fill(Slot::default());
    }

    /// Judges the rule now. Returns when the answer may change by itself.
    pub(super) fn judge(&mut self, rule: &Rule, evidence: &Evidence<'_>) -> Option<Time> {
        let answer = Walk { evidence, slots: &mut self.slots, next: 0, is_still: false }.branch(&rule.when, None);
        if answer.truth != self.truth {
            self.truth = answer.truth;
            self.since = evidence.now;
        }
        answer.changes_at
    }

    /// When a `for:` or a window changes the answer, if all that is asked of signals stays as it is now; `None`: never.
    /// Right after [`RuleState::judge`] at the same moment.
    pub(super) fn held_until(&self, rule: &Rule, evidence: &Evidence<'_>) -> Option<Time> {
        let mut slots = self.slots.clone();
        Walk { evidence, slots: &mut slots, next: 0, is_still: true }.branch(&rule.when, None).changes_at
    }

    /// Explains the rule now, without changing what it remembers.
    pub(super) fn explain(&self, rule: &Rule, evidence: &Evidence<'_>) -> Explanation {
        let mut slots = self.slots.clone();
        let mut out = Vec::new();
        Walk { evidence, slots: &mut slots, next: 0, is_still: false }.branch(&rule.when, Some(&mut out));
        // `branch` pushes exactly one explanation for the root.
        out.pop().unwrap_or_else(|| leaf("nothing asked".into(), Answer::UNKNOWN))
    }
}

struct Walk<'a> {
    evidence: &'a Evidence<'a>,
    slots: &'a mut [Slot],
    next: usize,
    /// What is asked of signals is taken to stay as it is.
    is_still: bool,
}

impl Walk<'_> {
    fn branch(&mut self, expr: &Expr, out: Option<&mut Vec<Explanation>>) -> Answer {
        let slot = self.next;
        self.next += 1;
        let mut explained = out.is_some().then(Vec::new);
        let raw = self.asked(expr, explained.as_mut());
        let answer = self.hold(slot, expr, raw);
        if let Some(out) = out {
            let mut own = explained.and_then(|mut list| list.pop()).unwrap_or_else(|| leaf(String::new(), raw));
            self.explain_hold(&mut own, slot, expr, answer);
            out.push(own);
        }
        answer
    }

    /// What the branch asks, before `for:` and window.
    fn asked(&mut self, expr: &Expr, out: Option<&mut Vec<Explanation>>) -> Answer {
        let wants = out.is_some();
        let mut below = wants.then(Vec::new);
        let (answer, asked, seen) = match &expr.kind {
            ExprKind::All(list) => {
                let answers: Vec<Answer> = list.iter().map(|e| self.branch(e, below.as_mut())).collect();
                (count(&answers, answers.len()), "all of".to_owned(), tally(&answers))
            }
            ExprKind::Any(list) => {
                let answers: Vec<Answer> = list.iter().map(|e| self.branch(e, below.as_mut())).collect();
                (count(&answers, 1), "any of".to_owned(), tally(&answers))
            }
            ExprKind::Not(inner) => {
                let answer = self.branch(inner, below.as_mut());
                (Answer { truth: !answer.truth, turns_true: false, ..answer }, "not".to_owned(), String::new())
            }
            ExprKind::AtLeast { count: needed, of } => {
                let answers: Vec<Answer> = of.iter().map(|e| self.branch(e, below.as_mut())).collect();
                (count(&answers, needed.of(answers.len())), format!("at least {needed} of"), tally(&answers))
            }
            ExprKind::Observers { count: needed, signal, are } => {
                let (answer, seen) = self.observers(*needed, signal, are, below.as_mut());
                (answer, format!("at least {needed} of {signal} {are}"), seen)
            }
            ExprKind::Signal { signal, condition } => return self.signal(signal, condition, out),
        };
        if let Some(out) = out {
            let seen = if wants { seen } else { String::new() };
            out.push(Explanation { seen, children: below.unwrap_or_default(), ..leaf(asked, answer) });
        }
        answer
    }

    /// A condition over a signal. Several streams mean any of them; `unreachable_by` counts them itself.
    fn signal(&self, signal: &SignalName, condition: &Condition, out: Option<&mut Vec<Explanation>>) -> Answer {
        let streams = self.streams(signal);
        if let (Condition::UnreachableBy(needed), [(Observer::Arbiter, subject, _)]) = (condition, streams.as_slice())
            && self.evidence.view.of_peers(signal, subject.as_ref(), self.evidence.now).next().is_some()
        {
            return self.unreachable_by_arbiters(*needed, signal, condition, &streams, out);
        }
        if let [(observer, subject, stream)] = streams.as_slice() {
            let answer = self.judge_one(signal, condition, *stream);
            if let Some(out) = out {
                out.push(self.explain_one(signal, condition, observer, subject.as_ref(), *stream, answer));
            }
            return answer;
        }
        let needed = if let Condition::UnreachableBy(needed) = condition { *needed } else { Count::Number(1) };
        let mut below = out.is_some().then(Vec::new);
        let (answer, seen) = self.observers(needed, signal, condition, below.as_mut());
        if let Some(out) = out {
            let asked = format!("{signal} {condition}");
            out.push(Explanation { seen, children: below.unwrap_or_default(), ..leaf(asked, answer) });
        }
        answer
    }

    /// Several arbiters look: all of them that are heard make up the whole.
    fn unreachable_by_arbiters(
        &self,
        needed: Count,
        signal: &SignalName,
        condition: &Condition,
        own: &[(Observer, Option<MemberName>, Option<&Stream>)],
        out: Option<&mut Vec<Explanation>>,
    ) -> Answer {
        let Evidence { now, view, .. } = *self.evidence;
        let mut below = Vec::new();
        let mut answers = Vec::new();
        for (observer, subject, stream) in own {
            let answer = self.judge_one(signal, condition, *stream);
            below.push(self.explain_one(signal, condition, observer, subject.as_ref(), *stream, answer));
            answers.push(answer);
            for (peer, newest) in view.of_peers(signal, subject.as_ref(), now) {
                let answer = condition::unreachable_by_peer(newest);
                let seen = match newest {
                    Some((_, Outcome::Fact(_))) => "reached".to_owned(),
                    Some((_, Outcome::Failure(failure))) => failure.to_string(),
                    None => "nothing of late".to_owned(),
                };
                below.push(Explanation {
                    seen,
                    observer: Some(peer.to_owned()),
                    subject: subject.as_ref().map(ToString::to_string),
                    age: newest.map(|(at, _)| now.since(at)),
                    ..leaf(format!("{signal} {condition}"), answer)
                });
                answers.push(answer);
            }
        }
        let answer = count(&answers, needed.of(answers.len()));
        if let Some(out) = out {
            let asked = format!("{signal} {condition}");
            out.push(Explanation { seen: tally(&answers), children: below, ..leaf(asked, answer) });
        }
        answer
    }

    fn observers(
        &self,
        needed: Count,
        signal: &SignalName,
        condition: &Condition,
        mut out: Option<&mut Vec<Explanation>>,
    ) -> (Answer, String) {
        let streams = self.streams(signal);
        let mut answers = Vec::with_capacity(streams.len());
        for (observer, subject, stream) in &streams {
            let answer = self.judge_one(signal, condition, *stream);
            if let Some(out) = out.as_deref_mut() {
                out.push(self.explain_one(signal, condition, observer, subject.as_ref(), *stream, answer));
            }
            answers.push(answer);
        }
        (count(&answers, needed.of(answers.len())), tally(&answers))
    }

    fn judge_one(&self, signal: &SignalName, condition: &Condition, stream: Option<&Stream>) -> Answer {
        let answer = match self.context(signal) {
            Some(context) => condition::judge(condition, stream, &context),
            None => Answer::UNKNOWN,
        };
        if self.is_still { Answer { changes_at: None, turns_true: false, ..answer } } else { answer }
    }

    fn context(&self, signal: &SignalName) -> Option<Context<'_>> {
        let Evidence { now, policy, view, primary_position, .. } = *self.evidence;
        Some(Context { now, view, signal: policy.signals.get(signal)?, primary_position })
    }

    fn streams(&self, signal: &SignalName) -> Vec<(Observer, Option<MemberName>, Option<&Stream>)> {
        self.evidence.streams(signal)
    }

    /// Applies `for:` and `within:` to what was asked.
    fn hold(&mut self, slot: usize, expr: &Expr, raw: Answer) -> Answer {
        if expr.hold.is_none() && expr.window.is_none() {
            return raw;
        }
        let now = self.evidence.now;
        let Some(slot) = self.slots.get_mut(slot) else { return raw };
        match (raw.truth, slot.true_since) {
            (Truth::True, None) => slot.true_since = Some(now),
            (Truth::True, Some(_)) => {}
            (_, since) => {
                if let (Some(since), Some(window)) = (since, expr.window) {
                    slot.spans.push_back((since, now));
                    let begin = now.before(window.of);
                    slot.spans.retain(|(_, end)| *end > begin);
                }
                slot.true_since = None;
            }
        }
        let mut answer = raw;
        if let Some(window) = expr.window {
            answer = within(slot, window, raw, now);
        }
        slot.held_since = if answer.truth.is_true() { slot.held_since.or(Some(now)) } else { None };
        if let (Some(hold), Some(since)) = (expr.hold, slot.held_since) {
            let due = since + hold;
            if now < due {
                let changes_at = earliest(answer.changes_at, Some(due));
                answer = Answer { truth: Truth::False, changes_at, turns_true: changes_at == Some(due) };
            }
        }
        answer
    }

    fn explain_hold(&self, own: &mut Explanation, slot: usize, expr: &Expr, answer: Answer) {
        let now = self.evidence.now;
        let Some(slot) = self.slots.get(slot) else { return };
        if let Some(hold) = expr.hold {
            own.asked = format!("{} (for {})", own.asked, human(hold));
            if let Some(since) = slot.held_since {
                own.seen = join(&own.seen, &format!("true for {} of {}", human(now.since(since)), human(hold)));
            }
        }
        if let Some(window) = expr.window {
            own.asked = format!("{} ({} within {})", own.asked, human(window.true_for), human(window.of));
            own.seen = join(&own.seen, &format!("true for {} of the window", human(true_time(slot, window, now))));
        }
        own.truth = answer.truth;
        if let (Some(at), true, Some(_)) = (answer.changes_at, answer.turns_true, expr.hold) {
            own.would_change = Some(format!("true in {} if it stays so", human(at.since(now))));
        }
    }

    fn explain_one(
        &self,
        signal: &SignalName,
        condition: &Condition,
        observer: &Observer,
        subject: Option<&MemberName>,
        stream: Option<&Stream>,
        answer: Answer,
    ) -> Explanation {
        let now = self.evidence.now;
        let seen = match self.context(signal) {
            Some(context) => condition::describe(condition, stream, &context),
            None => "no such signal".into(),
        };
        Explanation {
            seen,
            observer: Some(observer.to_string()),
            subject: subject.map(ToString::to_string),
            age: stream.and_then(|s| s.newest.as_ref()).map(|(at, _)| now.since(*at)),
            would_change: answer
                .changes_at
                .filter(|_| answer.turns_true)
                .map(|at| format!("true in {} unless something is heard", human(at.since(now)))),
            ..leaf(format!("{signal} {condition}"), answer)
        }
    }
}

fn within(slot: &Slot, window: Window, raw: Answer, now: Time) -> Answer {
    let true_for = true_time(slot, window, now);
    if true_for >= window.true_for {
        let slides = (raw.truth != Truth::True).then(|| slides_out(slot, window, true_for - window.true_for, now));
        let changes_at = earliest(raw.changes_at, slides.flatten());
        return Answer { truth: Truth::True, changes_at, turns_true: false };
    }
    let truth = if raw.truth == Truth::Unknown { Truth::Unknown } else { Truth::False };
    let due = (raw.truth == Truth::True).then(|| now + (window.true_for - true_for));
    Answer { truth, changes_at: earliest(raw.changes_at, due), turns_true: false }
}

/// When so much of the ended spans has slid out of the window that less than enough is left.
fn slides_out(slot: &Slot, window: Window, mut spare: Duration, now: Time) -> Option<Time> {
    let begin = now.before(window.of);
    for (from, to) in &slot.spans {
        let from = (*from).max(begin);
        let inside = to.since(from);
        if inside > spare {
            return Some(from + spare + window.of + Duration::from_nanos(1));
        }
        spare -= inside;
    }
    None
}

fn true_time(slot: &Slot, window: Window, now: Time) -> Duration {
    let begin = now.before(window.of);
    let ended: Duration = slot.spans.iter().map(|(from, to)| to.since((*from).max(begin))).sum();
    ended + slot.true_since.map_or(Duration::ZERO, |since| now.since(since.max(begin)))
}

/// Kleene's `at least`: true with enough trues, false when the unknown ones could not make up the number.
fn count(answers: &[Answer], needed: usize) -> Answer {
    let trues = answers.iter().filter(|a| a.truth == Truth::True).count();
    let unknowns = answers.iter().filter(|a| a.truth == Truth::Unknown).count();
    let truth = if answers.is_empty() || needed == 0 {
        // Nobody to ask: no primary yet, or no standby. That is not a no, which `not` would turn into a yes.
        Truth::Unknown
    } else if trues >= needed {
        Truth::True
    } else if trues + unknowns < needed {
        Truth::False
    } else {
        Truth::Unknown
    };
    Answer { truth, changes_at: answers.iter().filter_map(|a| a.changes_at).min(), turns_true: false }
}

fn tally(answers: &[Answer]) -> String {
    let of = |truth| answers.iter().filter(|a| a.truth == truth).count();
    match of(Truth::Unknown) {
        0 => format!("{} of {} true", of(Truth::True), answers.len()),
        unknown => format!("{} of {} true, {unknown} unknown", of(Truth::True), answers.len()),
    }
}

fn earliest(a: Option<Time>, b: Option<Time>) -> Option<Time> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn join(a: &str, b: &str) -> String {
    if a.is_empty() { b.to_owned() } else { format!("{a}; {b}") }
}

const fn leaf(asked: String, answer: Answer) -> Explanation {
    Explanation {
        asked,
        truth: answer.truth,
        seen: String::new(),
        observer: None,
        subject: None,
        age: None,
        would_change: None,
        children: Vec::new(),
    }
}

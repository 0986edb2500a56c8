//! Conditions over one stream: one file per family. Each answers three-valued, says when its answer changes by
//! itself, and can put in words what it saw. No data is always *unknown*.

mod outcome;
pub(super) use outcome::{unreachable_by_peer, words};
mod progress;
mod silence;
mod state;
mod value;

use std::time::Duration;

use super::view::{Stream, View};
use crate::model::{
    Condition, Outcome, Time, Truth,
    policy::{SignalPolicy, Traffic},
};

/// What a condition may look at besides its stream.
pub(super) struct Context<'a> {
    pub(super) now: Time,
    pub(super) view: &'a View,
    pub(super) signal: &'a SignalPolicy,
    /// The primary's last known position.
    pub(super) primary_position: Option<u64>,
}

impl Context<'_> {
    fn fresh_for(&self) -> Duration {
        self.signal.fresh_for
    }

    /// The newest outcome, if it is fresh and was seen since the floor: what was seen before the arbiter's own
    /// clock faltered, or of another primary's time, is no evidence any more.
    fn fresh<'s>(&self, stream: &'s Stream) -> Option<(Time, &'s Outcome)> {
        stream.fresh(self.now, self.fresh_for()).filter(|(at, _)| *at >= self.view.floor)
    }

    fn is_constant(&self) -> bool {
        self.signal.traffic == Traffic::Constant
    }
}

/// What a condition says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) truth: Truth,
    /// When the answer changes though nothing is seen; `None`: never.
    pub(super) changes_at: Option<Time>,
    /// Whether it is true then, as a silence is; else it is unknown then, because what was seen is stale.
    pub(super) turns_true: bool,
}

impl Answer {
    pub(super) const UNKNOWN: Self = Self::steady(Truth::Unknown);

    pub(super) const fn steady(truth: Truth) -> Self {
        Self { truth, changes_at: None, turns_true: false }
    }

    const fn until(truth: Truth, changes_at: Time) -> Self {
        Self { truth, changes_at: Some(changes_at), turns_true: false }
    }

    /// False until `due`, then true; what was seen is stale from `stale` on.
    fn due(now: Time, due: Time, stale: Option<Time>) -> Self {
        if now >= due {
            return Self { truth: Truth::True, changes_at: stale, turns_true: false };
        }
        let turns_true = stale.is_none_or(|stale| due < stale);
        let changes_at = Some(stale.map_or(due, |stale| due.min(stale)));
        Self { truth: Truth::False, changes_at, turns_true }
    }
}

/// Judges one stream. `None`: the stream does not exist yet.
pub(super) fn judge(condition: &Condition, stream: Option<&Stream>, context: &Context<'_>) -> Answer {
    let Some(stream) = stream else { return Answer::UNKNOWN };
    match condition {
        Condition::Ok => outcome::ok(stream, context),
        Condition::Failing => outcome::failing(stream, context),
        Condition::FailingOf { failures, of } => outcome::failing_of(stream, context, *failures, *of),
        Condition::FailedWith(kind) => outcome::failed_with(stream, context, *kind),
        Condition::UnreachableBy(_) => outcome::unreachable(stream, context),
        Condition::Silent(limit) => silence::silent(stream, context, *limit),
        Condition::PhiAbove(limit) => silence::phi_above(stream, context, *limit),
        Condition::Stalled(limit) => progress::stalled(stream, context, *limit),
        Condition::LagAbove(limit) => progress::lag_above(stream, context, *limit),
        Condition::LagLongerThan(limit) => progress::lag_longer_than(stream, context, *limit),
        Condition::LatencyAbove(limit) => value::latency_above(stream, context, *limit),
        Condition::Above(limit) => value::compare(stream, context, |v| v > *limit),
        Condition::Below(limit) => value::compare(stream, context, |v| v < *limit),
        Condition::TextIs(text) => value::text_is(stream, context, text),
        Condition::RoleIs(role) => state::role_is(stream, context, *role),
        Condition::Writable(want) => state::writable(stream, context, *want),
        Condition::Link(up) => state::link(stream, context, *up),
        Condition::Exited => state::exited(stream, context),
        Condition::Firing => state::firing(stream, context),
    }
}

/// What a stream shows, in words, as far as it matters to the condition.
pub(super) fn describe(condition: &Condition, stream: Option<&Stream>, context: &Context<'_>) -> String {
    let Some(stream) = stream else { return "never heard of".into() };
    match condition {
        Condition::Silent(_) => silence::describe(stream, context),
        Condition::PhiAbove(_) => silence::describe_phi(stream, context),
        Condition::FailingOf { .. } => outcome::describe_recent(stream, context),
        Condition::Stalled(_) | Condition::LagAbove(_) => progress::describe(stream, context),
        _ => outcome::describe(stream, context),
    }
}

/// Answers from the newest fact if it is fresh: `test` says whether the fact satisfies, or `None` if it is not of
/// the kind asked for. A failure that counts gives `on_failure`, one that does not is unknown.
fn from_fresh_fact(
    stream: &Stream,
    context: &Context<'_>,
    on_failure: Truth,
    test: impl Fn(&crate::model::Fact) -> Option<bool>,
) -> Answer {
    let Some((at, outcome)) = context.fresh(stream) else { return Answer::UNKNOWN };
    let truth = match outcome {
        Outcome::Fact(fact) => test(fact).map_or(Truth::Unknown, Truth::of),
        Outcome::Failure(failure) if failure.kind.is_evidence() => on_failure,
        Outcome::Failure(_) => Truth::Unknown,
    };
    Answer::until(truth, stale_at(at, context))
}

/// The first moment at which an outcome of `at` is no longer fresh.
fn stale_at(at: Time, context: &Context<'_>) -> Time {
    at + context.fresh_for() + Duration::from_nanos(1)
}

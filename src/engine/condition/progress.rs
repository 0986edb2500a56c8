//! `stalled`, `lag_above`: answers come, but nothing moves, or not fast enough.

use std::time::Duration;

use super::{Answer, Context, from_fresh_fact, stale_at};
use crate::{
    engine::view::{Progress, Stream},
    model::{Fact, Outcome, Truth, time::human},
};

/// Fresh answers whose counter has not moved. Without attempts a counter of arrivals has no reason to move, so the
/// stall of arrivals counts like their silence.
pub(super) fn stalled(stream: &Stream, context: &Context<'_>, limit: Duration) -> Answer {
    let Some((at, Outcome::Fact(_))) = context.fresh(stream) else { return Answer::UNKNOWN };
    let Some((moved, _)) = &stream.progress else { return Answer::UNKNOWN };
    let moved = (*moved).max(context.view.floor);
    let stale = stale_at(at, context);
    let is_arrivals = context.signal.kind == crate::model::policy::SignalKind::Arrivals;
    let since = if is_arrivals && !context.is_constant() {
        match context.view.first_attempt_after(moved) {
            Some(attempt) => attempt,
            None => return Answer::until(Truth::Unknown, stale),
        }
    } else {
        moved
    };
    Answer::due(context.now, since + limit, Some(stale))
}

pub(super) fn lag_above(stream: &Stream, context: &Context<'_>, limit: u64) -> Answer {
    let Some(ahead) = context.primary_position else { return Answer::UNKNOWN };
    from_fresh_fact(stream, context, Truth::Unknown, |fact| Some(ahead.saturating_sub(position(fact)?) > limit))
}

pub(super) fn lag_longer_than(stream: &Stream, context: &Context<'_>, limit: Duration) -> Answer {
    from_fresh_fact(stream, context, Truth::Unknown, |fact| match fact {
        Fact::Link { last_io: Some(age), .. } => Some(*age > limit),
        Fact::Arrivals(report) => report.last_age.map(|age| age > limit),
        _ => None,
    })
}

const fn position(fact: &Fact) -> Option<u64> {
    match fact {
        Fact::Position { position } => Some(*position),
        Fact::Role(report) => report.position,
        _ => None,
    }
}

pub(super) fn describe(stream: &Stream, context: &Context<'_>) -> String {
    let moved = match &stream.progress {
        Some((at, Progress::Number(n))) => format!("at {n}, moved {} ago", human(context.now.since(*at))),
        Some((at, Progress::Text(t))) => format!("at {t:?}, changed {} ago", human(context.now.since(*at))),
        None => super::outcome::describe(stream, context),
    };
    match (context.primary_position, stream.success.as_ref().and_then(|(_, fact)| position(fact))) {
        (Some(ahead), Some(own)) => format!("{moved}, {} behind the primary", ahead.saturating_sub(own)),
        _ => moved,
    }
}

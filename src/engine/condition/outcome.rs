//! `ok`, `failing`, `failing: k of n`, `failed_with`, `unreachable_by`: what became of the newest looks.

use super::{Answer, Context, from_fresh_fact, stale_at};
use crate::{
    engine::view::{PEER_HEARD_WITHIN, Stream},
    model::{Fact, FailureKind, Outcome, Time, Truth, time::human},
};

pub(super) fn ok(stream: &Stream, context: &Context<'_>) -> Answer {
    from_fresh_fact(stream, context, Truth::False, |_| Some(true))
}

pub(super) fn failing(stream: &Stream, context: &Context<'_>) -> Answer {
    from_fresh_fact(stream, context, Truth::True, |_| Some(false))
}

pub(super) fn failed_with(stream: &Stream, context: &Context<'_>, kind: FailureKind) -> Answer {
    let Some((at, outcome)) = context.fresh(stream) else { return Answer::UNKNOWN };
    let truth = match outcome {
        Outcome::Failure(failure) => Truth::of(failure.kind == kind),
        Outcome::Fact(_) => Truth::False,
    };
    Answer::until(truth, stale_at(at, context))
}

/// True when enough of the newest `of` outcomes are failures that count; false when even the outcomes that are
/// neither could not make up the number. Too few outcomes are unknown, and so is a stream that dried up.
pub(super) fn failing_of(stream: &Stream, context: &Context<'_>, failures: u32, of: u32) -> Answer {
    let Some((at, _)) = context.fresh(stream) else { return Answer::UNKNOWN };
    let of = of as usize;
    let newest = stream.recent.iter().rev().take(of);
    let failed = newest.clone().filter(|o| **o == Some(false)).count();
    let succeeded = newest.filter(|o| **o == Some(true)).count();
    let needed = failures as usize;
    let truth = if failed >= needed {
        Truth::True
    } else if of - succeeded < needed {
        Truth::False
    } else {
        Truth::Unknown
    };
    Answer::until(truth, stale_at(at, context))
}

/// One observer's part of `unreachable_by`: no connection, or no answer.
pub(super) fn unreachable(stream: &Stream, context: &Context<'_>) -> Answer {
    let Some((at, outcome)) = context.fresh(stream) else {
        // What is pushed says by its absence that the way is cut, once it was heard at all.
        return if context.signal.kind == crate::model::policy::SignalKind::Heartbeat && stream.is_known() {
            super::silence::silent(stream, context, context.signal.fresh_for)
        } else {
            Answer::UNKNOWN
        };
    };
    Answer::until(is_unreachable(outcome), stale_at(at, context))
}

/// Another arbiter's part of it. What that did not tell of late is unknown.
pub(in crate::engine) fn unreachable_by_peer(newest: Option<(Time, &Outcome)>) -> Answer {
    match newest {
        Some((at, outcome)) => Answer::until(is_unreachable(outcome), at + PEER_HEARD_WITHIN),
        None => Answer::UNKNOWN,
    }
}

const fn is_unreachable(outcome: &Outcome) -> Truth {
    match outcome {
        Outcome::Fact(_) => Truth::False,
        Outcome::Failure(failure) => match failure.kind {
            FailureKind::Refused | FailureKind::TimedOut | FailureKind::Unreachable | FailureKind::Reset => Truth::True,
            kind if kind.is_evidence() => Truth::False,
            _ => Truth::Unknown,
        },
    }
}

pub(super) fn describe(stream: &Stream, context: &Context<'_>) -> String {
    let Some((at, outcome)) = &stream.newest else {
        return if stream.heard_before { "heard before this arbiter started".into() } else { "never heard".into() };
    };
    let said = match outcome {
        Outcome::Failure(failure) if failure.kind.is_evidence() => failure.to_string(),
        Outcome::Failure(failure) => format!("{failure} (no evidence)"),
        Outcome::Fact(fact) => words(fact),
    };
    let age = context.now.since(*at);
    if age > context.fresh_for() {
        format!("{said}, but that is stale")
    } else if *at < context.view.floor {
        format!("{said}, but that was before all was looked at anew")
    } else {
        said
    }
}

pub(super) fn describe_recent(stream: &Stream, context: &Context<'_>) -> String {
    let marks: String = stream
        .recent
        .iter()
        .map(|o| match o {
            Some(true) => '+',
            Some(false) => '-',
            None => '?',
        })
        .collect();
    format!("{}; newest last: {marks}", describe(stream, context))
}

/// A fact in words.
pub(in crate::engine) fn words(fact: &Fact) -> String {
    match fact {
        Fact::Beat { seq, .. } => format!("beat {seq}"),
        Fact::Arrivals(a) => {
            let last = a.last_age.map_or_else(|| "nothing yet".into(), |age| format!("last {} before", human(age)));
            format!("{} received, {last}, epoch {}", a.received, a.epoch)
        }
        Fact::Ok { latency } => format!("ok in {}", human(*latency)),
        Fact::Role(report) => format!("says it is {}", report.role),
        Fact::Position { position } => format!("position {position}"),
        Fact::Link { up, .. } => if *up { "link up" } else { "link down" }.into(),
        Fact::Writable(yes) => if *yes { "writable" } else { "refuses writes" }.into(),
        Fact::Value(value) => format!("{value}"),
        Fact::Text(text) => format!("{text:?}"),
        Fact::Process { running, detail } => {
            format!(
                "{}{}{detail}",
                if *running { "running" } else { "ended" },
                if detail.is_empty() { "" } else { ": " }
            )
        }
        Fact::Canary { latency } => format!("canary in {}", human(*latency)),
        Fact::Alert { firing } => if *firing { "firing" } else { "not firing" }.into(),
        Fact::Agent(report) => format!("agent, epoch {}", report.epoch),
        Fact::Reaches(parties) => format!("reaches {} others", parties.len()),
    }
}

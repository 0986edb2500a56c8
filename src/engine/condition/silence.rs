//! `silent`, `phi_above`: nothing was heard for too long.

use std::time::Duration;

use super::{Answer, Context, stale_at};
use crate::{
    engine::view::Stream,
    model::{Fact, Outcome, Time, Truth, observation::Arrivals, policy::SignalKind, time::human},
};

pub(super) fn silent(stream: &Stream, context: &Context<'_>, limit: Duration) -> Answer {
    match context.signal.kind {
        SignalKind::Heartbeat => by_absence(stream, context, limit),
        SignalKind::Arrivals => by_report(stream, context, limit),
        _ => by_failure(stream, context, limit),
    }
}

/// Heartbeats: absence itself is the evidence, but only of a stream that was ever heard. What was heard before the
/// arbiter started counts from its start.
fn by_absence(stream: &Stream, context: &Context<'_>, limit: Duration) -> Answer {
    if !stream.is_known() {
        return Answer::UNKNOWN;
    }
    Answer::due(context.now, last_heard(stream, context) + limit, None)
}

/// Arrivals: a live node says, freshly, that nothing reached it. A node that is itself silent is unknown. Unless
/// traffic is constant, the silence counts from the first attempt that somebody is known to have made in it: no
/// attempts is not silence.
fn by_report(stream: &Stream, context: &Context<'_>, limit: Duration) -> Answer {
    let Some((at, outcome)) = context.fresh(stream) else { return Answer::UNKNOWN };
    let Outcome::Fact(Fact::Arrivals(report)) = outcome else { return Answer::UNKNOWN };
    let Some(since) = silence_began(at, report, context) else {
        let (quiet, stale) = (last_arrival(at, report, context) + limit, stale_at(at, context));
        return if context.now < quiet {
            Answer::until(Truth::False, quiet.min(stale))
        } else {
            Answer::until(Truth::Unknown, stale)
        };
    };
    Answer::due(context.now, since + limit, Some(stale_at(at, context)))
}

/// Everything that is asked for: no success for so long, and the asking goes on and fails with evidence.
fn by_failure(stream: &Stream, context: &Context<'_>, limit: Duration) -> Answer {
    let Some((at, outcome)) = context.fresh(stream) else { return Answer::UNKNOWN };
    match outcome {
        Outcome::Fact(_) => Answer::until(Truth::False, stale_at(at, context)),
        Outcome::Failure(failure) if !failure.kind.is_evidence() => {
            Answer::until(Truth::Unknown, stale_at(at, context))
        }
        // A primary that was promoted a moment ago was asked this for the first time perhaps: it is enough that
        // anything at all was heard of it.
        Outcome::Failure(_) if !stream.is_known() && !was_ever_seen(stream, context) => {
            Answer::until(Truth::Unknown, stale_at(at, context))
        }
        Outcome::Failure(_) => {
            Answer::due(context.now, last_heard(stream, context) + limit, Some(stale_at(at, context)))
        }
    }
}

fn was_ever_seen(stream: &Stream, context: &Context<'_>) -> bool {
    stream.subject.as_ref().is_some_and(|member| context.view.member_seen(member).is_some())
}

pub(super) fn phi_above(stream: &Stream, context: &Context<'_>, limit: f64) -> Answer {
    if !stream.is_known() {
        return Answer::UNKNOWN;
    }
    let since = last_heard(stream, context);
    match stream.rhythm.silence_for(limit, context.signal.every) {
        None => Answer::UNKNOWN,
        Some(silence) => Answer::due(context.now, since + silence, None),
    }
}

fn last_heard(stream: &Stream, context: &Context<'_>) -> Time {
    stream.success.as_ref().map_or(context.view.floor, |(at, _)| (*at).max(context.view.floor))
}

fn last_arrival(at: Time, report: &Arrivals, context: &Context<'_>) -> Time {
    report.last_age.map_or(context.view.floor, |age| at.before(age).max(context.view.floor))
}

/// When the silence that counts began: the last arrival, or the first attempt after it. `None`: nobody attempted.
fn silence_began(at: Time, report: &Arrivals, context: &Context<'_>) -> Option<Time> {
    let last = last_arrival(at, report, context);
    if context.is_constant() { Some(last) } else { context.view.first_attempt_after(last) }
}

pub(super) fn describe(stream: &Stream, context: &Context<'_>) -> String {
    match (&context.signal.kind, &stream.newest) {
        (SignalKind::Arrivals, Some((at, Outcome::Fact(Fact::Arrivals(report))))) => {
            if context.now.since(*at) > context.fresh_for() {
                return format!("the node itself has not reported for {}", human(context.now.since(*at)));
            }
            let last = match report.last_age {
                Some(_) => format!("last arrival {} ago", human(context.now.since(last_arrival(*at, report, context)))),
                None => "nothing arrived yet".into(),
            };
            match silence_began(*at, report, context) {
                Some(since) if context.is_constant() || since > last_arrival(*at, report, context) => {
                    format!("{last}, attempts unanswered for {}", human(context.now.since(since)))
                }
                Some(_) => last,
                None => format!("{last}, nobody attempted since"),
            }
        }
        (SignalKind::Heartbeat, _) if stream.is_known() => match &stream.success {
            Some((at, _)) => format!("last heard {} ago", human(context.now.since(*at))),
            None => format!("not heard since the arbiter started {} ago", human(context.now.since(context.view.floor))),
        },
        _ => super::outcome::describe(stream, context),
    }
}

pub(super) fn describe_phi(stream: &Stream, context: &Context<'_>) -> String {
    let silence = context.now.since(last_heard(stream, context));
    match stream.rhythm.phi(silence, context.signal.every) {
        Some(phi) => format!("phi {phi:.1} after {}", human(silence)),
        None => "too few heartbeats to know their rhythm".into(),
    }
}

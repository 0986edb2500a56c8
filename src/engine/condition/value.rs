//! `above`, `below`, `latency_above`, `text`: what the newest answer holds.

use std::time::Duration;

use super::{Answer, Context, from_fresh_fact};
use crate::{
    engine::view::Stream,
    model::{Fact, Truth},
};

pub(super) fn compare(stream: &Stream, context: &Context<'_>, test: impl Fn(f64) -> bool) -> Answer {
    from_fresh_fact(stream, context, Truth::Unknown, |fact| match fact {
        // Not a number is no number: neither above nor below.
        Fact::Value(value) if !value.is_nan() => Some(test(*value)),
        #[expect(clippy::cast_precision_loss, reason = "a threshold does not tell positions apart beyond 2^52")]
        Fact::Position { position } => Some(test(*position as f64)),
        _ => None,
    })
}

/// A look that failed was not quick, but its latency is not known.
pub(super) fn latency_above(stream: &Stream, context: &Context<'_>, limit: Duration) -> Answer {
    from_fresh_fact(stream, context, Truth::Unknown, |fact| match fact {
        Fact::Ok { latency } | Fact::Canary { latency } => Some(*latency > limit),
        _ => None,
    })
}

pub(super) fn text_is(stream: &Stream, context: &Context<'_>, text: &str) -> Answer {
    from_fresh_fact(stream, context, Truth::Unknown, |fact| match fact {
        Fact::Text(seen) => Some(seen == text),
        _ => None,
    })
}

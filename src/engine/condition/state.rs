//! `role_is`, `writable`, `link`, `exited`, `firing`: what the subject is.

use super::{Answer, Context, from_fresh_fact};
use crate::{
    engine::view::Stream,
    model::{Fact, Outcome, Role, Truth},
};

pub(super) fn role_is(stream: &Stream, context: &Context<'_>, role: Role) -> Answer {
    from_fresh_fact(stream, context, Truth::Unknown, |fact| match fact {
        Fact::Role(report) => Some(report.role == role),
        _ => None,
    })
}

/// A write that failed with evidence was not taken.
pub(super) fn writable(stream: &Stream, context: &Context<'_>, want: bool) -> Answer {
    from_fresh_fact(stream, context, Truth::of(!want), |fact| match fact {
        Fact::Writable(is) => Some(*is == want),
        _ => None,
    })
}

/// A standby that does not answer says nothing of its link.
pub(super) fn link(stream: &Stream, context: &Context<'_>, up: bool) -> Answer {
    from_fresh_fact(stream, context, Truth::Unknown, |fact| match fact {
        Fact::Link { up: is, .. } => Some(*is == up),
        Fact::Role(report) => report.link_up.map(|is| is == up),
        _ => None,
    })
}

/// A process that ended stays ended until somebody says that it runs: this does not go stale.
pub(super) fn exited(stream: &Stream, context: &Context<'_>) -> Answer {
    match &stream.newest {
        Some((at, Outcome::Fact(Fact::Process { running: false, .. }))) if *at >= context.view.floor => {
            Answer::steady(Truth::True)
        }
        _ => from_fresh_fact(stream, context, Truth::Unknown, |fact| match fact {
            Fact::Process { running, .. } => Some(!running),
            _ => None,
        }),
    }
}

/// An alert stands until it is resolved; Alertmanager repeats it, and `every` says how often.
pub(super) fn firing(stream: &Stream, context: &Context<'_>) -> Answer {
    from_fresh_fact(stream, context, Truth::Unknown, |fact| match fact {
        Fact::Alert { firing } => Some(*firing),
        _ => None,
    })
}

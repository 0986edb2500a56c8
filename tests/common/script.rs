//! What executors of a bench do with an act, and how a test names one.

use std::time::Duration;

use coroner::model::{Action, effect::Run};

/// How an executor behaves, once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Script {
    /// Does it and says so.
    Work,
    /// Does it slowly and says so.
    Slow(Duration),
    /// Does not do it, and says so.
    Refuse,
    /// Does not do it, and cannot say.
    Unknown,
    /// Does it, and cannot say.
    DoneUnknown,
    /// Does not do it, and says that it did.
    Lie,
    /// Does not do it: a voter has sealed this larger epoch.
    Outbid(u64),
    /// Does not do it, and never answers.
    Hang,
    /// Does it, and never answers.
    DoneHang,
    /// Catching up: says that it got only this far.
    Reached(u64),
}

/// The act in words, by which scripts name it.
pub fn label(run: &Run) -> String {
    let member = &run.order.target.member;
    match &run.action {
        Action::Seal => "seal".into(),
        Action::AwaitLease => "await lease".into(),
        Action::Fence { level, method } => format!("fence {member} {level}.{method}"),
        Action::Admit { level, method } => format!("admit {member} {level}.{method}"),
        Action::Unfence { level, method } => format!("unfence {member} {level}.{method}"),
        Action::ForbiddenWrite { level } => format!("forbidden write {level}"),
        Action::MakeReadOnly => format!("read-only {member}"),
        Action::MakeWritable => format!("writable {member}"),
        Action::CatchUp { .. } => format!("catch up {member}"),
        Action::Promote => format!("promote {member}"),
        Action::Repoint { .. } => format!("repoint {member}"),
        Action::Redirect { method } => format!("redirect {method}"),
        Action::Rejoin { .. } => format!("rejoin {member}"),
    }
}

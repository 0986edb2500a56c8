//! The nouns: plain data that every other part speaks in.
//!
//! Nothing here decides, acts, sleeps, reads a clock, opens a file or a socket. The engine and the
//! saga are written in these words, the edges answer in them, the store keeps them, the API prints
//! them. `tests/tidy.rs` holds this module to that.

pub mod agent;
pub mod command;
pub mod doctor;
pub mod edge;
pub mod effect;
pub mod event;
pub mod explain;
pub mod id;
pub mod incident;
pub mod observation;
pub mod policy;
pub mod record;
pub mod report;
pub mod rule;
pub mod scalar;
pub mod status;
pub mod time;
pub mod trial;

pub use command::{Command, CommandError, CommandReply, Operator};
pub use edge::{
    ActError, Done, FenceHealth, FenceReport, FenceVerdict, NodeTarget, Order, Proof, Target, WriteAttempt,
    WriteOutcome,
};
pub use effect::{Action, Effect, Notice, StepToken};
pub use event::{Event, StepResult};
pub use explain::{Explanation, Truth};
pub use id::{ClusterName, Epoch, IncidentId, MemberName, NodeName, PartyName, RuleName, SignalName};
pub use incident::Incident;
pub use observation::{Fact, Failure, FailureKind, Observation, Observer, Outcome, Role};
pub use policy::{ClusterPolicy, Mode, Policy};
pub use record::Record;
pub use report::Report;
pub use rule::{Condition, Expr, Rule, Verdict};
pub use scalar::{Secret, Size, Span};
pub use time::{Time, WallAnchor};
pub use trial::Trial;

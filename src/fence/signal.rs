//! Signals to a local process, its group or its control group.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::model::Span;

/// TERM, then KILL. Exactly one of `pid_file`, `cgroup` or `command_line` says which process.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Signal {
    /// File with the process id. `{member}` and `{port}` are put in.
    pub pid_file: Option<String>,
    /// Control group below the cgroup2 mount: all of it is killed, and has to be empty afterwards.
    pub cgroup: Option<String>,
    /// The process whose whole command line equals this text, with single blanks between the words.
    pub command_line: Option<String>,
    /// The executable's file name must be this; guards against a recycled id. Default: none checked beyond the
    /// identity (boot id, pid, start time) seen when the fence was last checked.
    pub executable: Option<String>,
    /// Wait this long after TERM before KILL. Default 0s: KILL at once, because a primary believed dead is not
    /// asked to shut down.
    pub term_for: Option<Span>,
    /// What restarts the process when it dies. Without a word on this, a kill is a claim and no more.
    pub supervisor: Option<Supervisor>,
}

/// What restarts a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Supervisor {
    /// Nothing does: the operator says so, and the report repeats it.
    None,
    /// Something does: combine this method with one that inhibits it.
    Other,
}

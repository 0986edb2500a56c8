//! Who leads, by a table of instances, pure: when to beat, when to claim, and until when a leader may act.
//!
//! The leader acts only within the lease that it measured itself: from *before* it sent a heartbeat, for as long as that
//! is valid, shortened by the bound on clock rates (`valid_for · (1 − ρ)`), on the clock that runs on in suspend. Who wants
//! to follow it claims only once the database says that every smaller row lapsed **and** an own clock saw each of their
//! heartbeats unchanged for `valid_for · (1 + ρ)`: so no clock step of the database makes two leaders.
//!
//! The [`Candidate`] is driven by `crate::elect::keeper`, or by a test that has its own time: [`Candidate::poll_action`] says
//! what to ask of the database, `handle_*` takes the answer, [`Candidate::poll_timeout`] says when to come again.
//!
//! Not promised: a database that loses what it acknowledged (a replica promoted without its last transactions) can let two
//! lead for as long as what it lost; a machine that is paused as a whole acts before it looks at a clock.

mod arithmetic;
mod candidate;
mod rows;

pub use arithmetic::{Settings, Unsafe};
pub use candidate::{Action, Candidate, Notice};

use crate::model::time::Moment;

/// Where an instance stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has no valid heartbeat: the database cannot be used, or it has not begun.
    Outside {
        /// Why.
        reason: String,
    },
    /// Somebody else leads, or nobody yet.
    Standby {
        /// Its own row.
        id: u64,
        /// Who leads.
        leader: Option<String>,
    },
    /// It leads, until then at most, by its own clock; later heartbeats move it.
    Leader {
        /// Its row's id.
        epoch: u64,
        /// The end of the lease.
        until: Moment,
    },
}

//! Who leads, by a table of instances, pure: when to beat, when to claim, and until when a leader may act.
//!
//! The leader acts only within the lease that it measured itself: from *before* it sent a heartbeat, for as long as that
//! is valid, shortened by the bound on clock rates (`valid_for · (1 − ρ)`), on the clock that runs on in suspend. Who wants
//! to follow it claims only once the database says that every smaller row lapsed **and** an own clock saw each of their
//! heartbeats unchanged for `valid_for · (1 + ρ)`: so no clock step of the database makes two leaders.

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

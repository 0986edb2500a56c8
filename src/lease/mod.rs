//! Leases: how long a primary that nobody can reach may go on, and when another may take its place. Pure.
//!
//! The voters are the arbiters and the agents of the members that may become primary. The primary's agent holds a lease
//! of length `L`, renewed every `L/4`, as long as a majority of the voters, itself counted, grants it.
//!
//! - The **holder** asks, never the voter. Its deadline counts from *before* the request was sent, on its
//!   CLOCK_BOOTTIME; an answer to an older request extends only to that request's time. ([`holder`])
//! - A **voter** that grants promises, for `W` after it *received* the request on its CLOCK_MONOTONIC, neither to promote
//!   nor to help to. A voter that starts has forgotten its grants, and waits `W` before it may act. ([`voter`])
//! - A promotion needs a majority of voters that have **sealed** the new epoch (durably refuse to grant an older one, for
//!   ever) and either a proof of level 3 or more, or `W` over on each of them. Two majorities share a voter, so there is
//!   never a lease and a promotion at once.
//! - `W >= (1+rho) * (L/(1-rho) + T_enf)`: [`arithmetic`]. Nobody converts another machine's time.
//!
//! Not promised: a virtual machine that is paused as a whole wakes up with an old clock, and may send what lay in its
//! queues before any check of its own. There only receivers that refuse an older epoch help.

pub mod arithmetic;
pub mod holder;
pub mod voter;

//! The simulator: a small world around the decision, from one seed. Pure.
//!
//! Arbiters, agents, brokers, nodes that write and receive, a store: each a state machine, over the real
//! [`crate::engine`], the real saga, and the real holders and voters of leases ([`crate::lease`]). Around them a network
//! that cuts one way or both, loses, repeats, delays and overtakes; clocks that run at different rates and sleep; disks
//! that fail and forget; acts that hang, lie and come late. The same [`Setting`] and [`Schedule`] give the same run, event
//! for event.
//!
//! After every event it is checked what must never be so ([`check`]): no two members that could acknowledge a write, no
//! promotion without the proof that the file demands, epochs that only grow, no acknowledged write lost where replication
//! is synchronous, no act while the arbiter distrusts itself; and at the end that every incident came to one, and that
//! somebody serves.
//!
//! What is simplified, and therefore not shown by it:
//! - Messages between parties are values, not datagrams: signatures, sequence numbers and the routing of relays are
//!   the business of `tests/mesh`, which plays the real [`crate::mesh`] over its own network. Here a relayed message arrives
//!   if some party is reached by one and reaches the other.
//! - Several arbiters elect by a row with a lease in the store; the table of instances itself is played in
//!   `tests/election`.
//! - A broker is a role, a flag and a log. What a kind of broker does beyond that is tested against the real one; the relay's
//!   own log on shared storage has a world of its own (`src/relay/core/chance.rs`).
//! - A virtual machine that is stopped as a whole and wakes with an old clock is outside of what leases promise, and outside
//!   of this world.
//!
//! To use it: [`Setting::new`] from a policy, [`Schedule::random`] or one of [`fault::singles`], then [`run`].

mod agent;
mod arbiter;
pub mod check;
mod clients;
pub mod coverage;
mod draw;
pub mod explore;
pub mod fault;
mod hands;
mod host;
mod leading;
mod look;
mod member;
mod node;
mod orders;
mod random;
pub mod run;
mod sealing;
mod setting;
mod shrink;
mod store;
mod strike;
mod world;

pub use check::{Invariant, Violation};
pub use coverage::Coverage;
pub use fault::{Fault, Schedule};
pub use random::Random;
pub use run::{Outcome, run, run_told};
pub use setting::{Method, Replication, Setting, Source};
pub use shrink::shrink;

//! The saga: a failover, a switchover or a rejoin as a fixed sequence of idempotent steps. Pure.
//!
//! - [`state`] is a fold over the log: what is known of the saga is what its log says, and nothing else. So a saga
//!   recovered from any prefix of its log stands exactly where the log stands.
//! - [`plan`] looks at the state and says what comes next. It is the table of the steps.
//! - [`saga`] joins both: results in, log entries and acts out, and the incident's story on the side.
//!
//! ```text
//! failover     fence (levels) → forbidden write → catch up → loss? → promote → redirect, repoint → follow → resolved
//!              └ lease: seal, await lease, beside the levels from the start; no promotion before a majority sealed
//! switchover   read-only → catch up exactly → (lease: seal, await lease) → promote → redirect, repoint, rejoin → …
//! rejoin       demote and follow → lift the fences → resolved
//! ```
//!
//! Where the primary has a lease, the promotion needs a majority of voters that have sealed the saga's epoch, and either
//! the proof that the policy needs or the end of the old lease by their count. What is given up after that leaves the
//! old primary primary, but in the saga's epoch: its own may be sealed.
//!
//! `Started` is durable before the act. A crash between it and `Ended` leaves the act unknown: it is looked at and
//! done again under the same number. A failover may be aborted only before its first fence act; a switchover until
//! its promotion starts. After that: forward, or held for a person. Nothing is un-fenced or un-promoted by itself.

mod plan;
mod print;
mod saga;
mod state;

pub use plan::{World, deadline_of};
pub use print::Print;
pub(crate) use saga::frozen;
pub use saga::{Opening, Saga, Steps};
pub use state::SagaState;

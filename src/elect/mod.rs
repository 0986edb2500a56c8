//! Election in a process: the keeper that runs a candidate over a database, and the program that runs where it is elected.
//!
//! Three processes hold the promise that the program is dead before the lease ends:
//!
//! - `coroner elect` itself ([`runner`]): beats, starts, renews, stops.
//! - The **guard** ([`guard`]), one for each run, in a session of its own: it holds the deadline on CLOCK_BOOTTIME, and kills
//!   when nobody renewed it, or when the first one died. It is what its descendants fall back to, so that nothing that the
//!   program started escapes it.
//! - The **launcher**, which becomes the program: it looks at the clock once more, and asks the kernel to kill it when the
//!   guard dies.

pub mod guard;
pub mod keeper;
mod program;
pub mod runner;
mod tree;

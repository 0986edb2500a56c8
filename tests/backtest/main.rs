//! Is what was recorded what happened, and is the fast way through it the same as the slow one?
//!
//! | file | asks |
//! |---|---|
//! | `format` | does every fact come back; what becomes of torn, corrupt, foreign files; rotation, bounds, restarts, losses |
//! | `equivalence` | does `engine::Shadow` tell the same as the plain engine fed one by one, on random rules and journals |
//! | `verdicts` | is a firing called true, false or unclear as it should be, and the difference between two files |
//! | `program` | golden output of `coroner backtest` and `coroner replay`, exit codes, a journal of a real arbiter |
//!
//! `CORONER_BACKTEST_CASES` sets how many random cases `equivalence` plays (default 100).

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../common/policy.rs"]
mod policy;

mod equivalence;
mod format;
mod generator;
mod program;
mod verdicts;

//! What does a program that speaks the line protocol get back?
//!
//! The conversation first, over a pair that is only imagined, and all the garbage that a generator can think of; then
//! the binary, with real processes behind it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod conversation;
mod fake;
mod form;
mod garbage;
mod process;
mod talk;

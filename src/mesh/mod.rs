//! The mesh: signed messages between arbiters and agents, over whatever path is left. Pure.
//!
//! [`message`] is the vocabulary, [`envelope`] its signed form, [`keys`] who may sign as whom, [`route`] the choice of
//! paths and the relaying, and [`party`] the state machine of one process that takes part: sessions, leases, votes,
//! orders. Threads, sockets, clocks and files are `agent`'s and `arbiter`'s business.
//!
//! What an envelope promises its receiver: the party named as sender signed it, in this life of the receiver (so nothing
//! recorded earlier can be played to it again), and it is handled once. It says nothing of the path it took.

pub mod envelope;
pub mod keys;
pub mod message;
pub mod party;
pub mod route;
mod session;

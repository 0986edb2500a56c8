//! `relay`: a small, real message broker. It receives messages, makes them durable in a log on shared storage, and sends
//! them to all nodes; a shadow replays the log and takes over.
//!
//! - A **sender** numbers its messages; name and number are the idempotency key. It is acknowledged once the message is
//!   durable, and repeats what was not. A number that is already in the log is acknowledged again and not delivered again.
//! - A **node** says which sequence it had last, gets everything after it, in order, once, with the epoch on each message,
//!   and refuses a smaller epoch than it has seen.
//! - The **log** lies on storage that primary and shadow share. Each primary writes segments of its own epoch. Whoever
//!   promotes first raises the epoch file (durably), then reads the former segments to their end, and writes down where
//!   its own epoch begins; the former primary looks at the epoch file after each commit and *before* it acknowledges:
//!   what it acknowledged lies before that beginning, what it did not may lie beyond it, is read by nobody, and is put
//!   into a side file when the member comes back.
//! - The **shadow** replays all the time and serves nobody; it knows how far it is behind, in entries and milliseconds.
//!
//! One port for all: the first frame says who comes. What a controller asks is in [`control`].

mod apart;
pub mod client;
pub mod control;
mod core;
mod disk;
pub mod entry;
mod epoch;
mod reader;
mod segment;
mod server;
mod shared;
mod table;
pub mod wire;
mod writer;

pub use apart::{Part, Report};
pub use epoch::{EpochFile, read as read_epoch};
pub use reader::{ReadError, Reader};
pub use segment::{Begins, Header, Listing, Segment, Span, history, list};
pub use server::{Options, Server};
pub use table::Table;
pub use wire::{MAX_NAME, MAX_PAYLOAD, Why};
pub use writer::Writer;

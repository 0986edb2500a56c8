//! The process beside a broker, or beside a node.
//!
//! Next to a broker it watches what the kernel knows of it ([`evidence`]), holds its lease and its gate, and carries out
//! what only its host can. Next to a node it tells what arrives there, and keeps a fenced primary's traffic out.

pub mod acts;
pub mod driver;
pub mod durable;
pub mod evidence;
pub mod gate;
pub mod host;
pub mod observe;
pub mod preserve;
pub mod progress;
pub mod realtime;
pub mod setup;
pub mod spec;
pub mod state;

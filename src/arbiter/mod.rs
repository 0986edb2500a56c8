//! The arbiter process: the driver that owns the engine, the only clock, the journal, and the effects.

pub mod handle;
pub mod outbox;

//! The agent: its thread of leases, with fakes and for real.

mod thread;

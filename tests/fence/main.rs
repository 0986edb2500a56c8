//! Does each fence method stop what it says it stops, say only what it has seen, and harm nobody else?
//!
//! Real processes, real process groups and control groups, real nftables in network namespaces of their own, hooks
//! that lie, hang and flood. Needs root (for namespaces, nftables and control groups), `sh`, `python3`, `nft`,
//! `unshare`, `nsenter`, `setsid` and `ip`. The `systemd` method against a running systemd is tested with the units.

#![expect(clippy::unwrap_used, reason = "a test that meets what it did not expect has failed")]

mod conformance;
mod firewall;
mod hooks;
mod lab;
mod signal;

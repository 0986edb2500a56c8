//! The gate against a real kernel, with a real broker and real clients, in network namespaces of the test's own.

mod boot;
mod cut;
mod drill;
mod lab;
mod nodes;
mod process;
mod watch;

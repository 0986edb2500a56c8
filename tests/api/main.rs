//! What comes in over HTTP, UDP and the Unix socket: taken from those who may, refused from all others, bounded always.

#![expect(clippy::unwrap_used, reason = "a test may stop")]

mod http;
mod lab;
mod mtls;
mod udp;

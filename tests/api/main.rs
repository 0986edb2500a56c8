//! What comes in over HTTP, UDP and the Unix socket: taken from those who may, refused from all others, bounded always.

mod http;
mod lab;
mod mtls;
mod udp;

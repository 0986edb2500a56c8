//! What the edges share towards the operating system: children with bounds, HTTP clients, processes, files. A leaf:
//! it knows nothing of ours but `model`.

pub mod clock;
pub mod command;
pub mod file;
pub mod hook;
pub mod http;
pub mod net;
pub mod process;
pub mod properties;
pub mod systemd;
pub(crate) mod tls;

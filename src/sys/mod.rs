//! What the edges share towards the operating system: children with bounds, HTTP clients. A leaf: it knows nothing
//! of ours but `model`.

pub mod command;
pub mod http;

//! Log, metrics, operator-visible events.
//!
//! Names of the metrics begin with `coroner_`, use base units, and carry `cluster`, never an incident's name, so that
//! their number stays bounded by the configuration.

pub mod agents;
pub mod events;
pub mod log;
pub mod metrics;

pub use metrics::Metrics;

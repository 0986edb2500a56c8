//! Coroner: an external failover arbiter for message brokers and databases.

pub mod api;
pub mod arbiter;
pub mod broker;
pub mod cli;
pub mod config;
pub mod engine;
pub mod failover;
pub mod fence;
pub mod model;
pub mod probe;
pub mod redirect;
pub mod report;
pub mod store;
pub mod sys;
pub mod telemetry;

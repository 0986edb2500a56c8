//! Coroner: an external failover arbiter for message brokers and databases.
//!
//! The map, from the middle outwards. Imports run one way, and `tests/tidy.rs` holds that.
//!
//! - [`model`]: the nouns, plain data. Everybody speaks in them.
//! - [`engine`]: **the decision**, pure: what is known, what is believed because of it, what stands in the way.
//! - [`failover`]: the saga, pure: the steps of a failover as a fold over its log.
//! - [`trial`]: the tests of a file's rules, played against the engine, pure.
//! - [`lease`]: the arithmetic of leases, their holder, their voters, pure. [`mesh`]: signed messages between arbiters and
//!   agents over whatever path is left, pure.
//! - [`election`]: who leads among several processes, by a table of instances, pure. [`registry`]: the databases that hold
//!   that table and what the processes share. [`elect`]: the keeper that runs the one over the other, and any program where
//!   it is elected. [`relay`]: a small broker with a log on shared storage, and its shadow.
//! - [`probe`], [`broker`], [`fence`], [`redirect`], [`report`], [`store`]: the edges. One folder per ability, one file per
//!   method; to add a method is one file and one line in its folder's enum.
//! - [`sys`]: what the edges share towards the operating system.
//! - [`config`]: a YAML file in, a resolved configuration out, or all its mistakes at once.
//! - [`arbiter`]: the process: the driver that owns the engine, the only clock, the effects.
//! - [`agent`]: the process beside a broker or a node: evidence, the gate, fences that only the host can do.
//! - [`journal`]: what was seen and decided, recorded in small segments; [`backtest`]: the same through other rules.
//! - [`api`], [`telemetry`]: HTTP, UDP and the Unix socket; log and metrics.
//! - [`stdio`]: the JSON line protocol, pure. [`sim`]: a world with faults around the decision, pure: for tests, and for
//!   operators' own files.
//! - [`cli`]: one file per verb.
//!
//! How the pieces move: an observation reaches the driver's one queue through [`arbiter::handle::Handle`]; the driver hands
//! it to [`engine::Engine::handle`] with the time and drains [`engine::Engine::poll_effect`]; records go to the store, and
//! what the engine put behind them comes out only once they are durable; acts run as tasks whose results come back as
//! events. Why it is so: `src/docs/decisions`.

pub mod agent;
pub mod api;
pub mod arbiter;
pub mod backtest;
pub mod broker;
pub mod cli;
pub mod config;
pub mod elect;
pub mod election;
pub mod engine;
pub mod failover;
pub mod fence;
pub mod journal;
pub mod lease;
pub mod mesh;
pub mod model;
pub mod probe;
pub mod redirect;
pub mod registry;
pub mod relay;
pub mod report;
pub mod sim;
pub mod stdio;
pub mod store;
pub mod sys;
pub mod telemetry;
pub mod trial;

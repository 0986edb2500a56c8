//! The configuration file: text in, a resolved [`Config`] out, or all its mistakes at once, each with its place.
//!
//! Parse, don't validate: what comes out has its names resolved, its timings consistent, its secrets read. The
//! decision gets [`Config::policy`] and never sees the rest; the drivers get the rest and never decide.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use crate::{
    agent::spec::{Guard, Observe},
    broker::{AnyBroker, Ask},
    fence::AnyFence,
    model::{
        ClusterName, MemberName, NodeName, NodeTarget, PartyName, Policy, Secret, SignalName, Target, Trial,
        agent::Watch,
        policy::{Observers, Subjects},
    },
    probe::AnyProbe,
    redirect::AnyRedirect,
    report::AnyReport,
};

mod decode;
mod diagnostic;
mod graft;
mod interpolate;
pub mod lint;
mod resolve;
mod schema;
mod shape;
mod yaml;

pub use diagnostic::{Diagnostic, Mistakes, Severity};
pub use graft::load_with_rules;
pub(crate) use resolve::store::{endpoint, endpoints};

pub use interpolate::{AgentEnvironment, Environment, ProcessEnvironment, Reader, WithoutSecrets};

/// A file, resolved.
#[derive(Clone, Debug)]
pub struct Config {
    /// What the engine decides by.
    pub policy: Policy,
    /// The arbiter's own part.
    pub arbiter: ArbiterConfig,
    /// The clusters' working parts.
    pub clusters: BTreeMap<ClusterName, ClusterConfig>,
    /// The mesh of arbiters and agents; `None`: there are no agents.
    pub mesh: Option<MeshConfig>,
    /// How people are told, for all clusters.
    pub reports: Vec<AnyReport>,
    /// Tests of the death rules; no part of the policy.
    pub tests: Vec<Trial>,
    /// What is legal and probably not meant; each rendered with its place.
    pub warnings: Vec<String>,
}

/// The arbiter's own part.
#[derive(Clone, Debug)]
pub struct ArbiterConfig {
    /// Its name.
    pub name: String,
    /// TCP address of the HTTP interface; `None`: none.
    pub http: Option<SocketAddr>,
    /// UDP address for heartbeats; `None`: none.
    pub udp: Option<SocketAddr>,
    /// Unix socket for control and local heartbeats.
    pub socket: PathBuf,
    /// TLS on the HTTP interface.
    pub tls: Option<TlsConfig>,
    /// Who may do what over TCP and UDP.
    pub access: Vec<Access>,
    /// Users (uid) that may operate over the Unix socket, besides root and the arbiter's own.
    pub socket_operators: Vec<u32>,
    /// The SQLite file: everything, or beside a shared store what is this arbiter's own.
    pub store: PathBuf,
    /// The store that several arbiters share; `None`: this is the only one.
    pub shared: Option<SharedStoreConfig>,
    /// Where what was seen and decided is recorded, and how much of it is kept.
    pub journal: JournalConfig,
    /// How often fence paths are checked without harm.
    pub check_fences_every: Duration,
}

/// The journal of what was seen and decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JournalConfig {
    /// Its directory.
    pub path: PathBuf,
    /// What is older goes.
    pub keep_for: Duration,
    /// The oldest goes when all of it is larger.
    pub most_bytes: u64,
}

/// The store that several arbiters share, and how they elect who leads.
#[derive(Clone, Debug)]
pub struct SharedStoreConfig {
    /// Where it is: `postgres://…`, `redis://…`.
    pub url: Secret,
    /// This arbiter's name among them; `None`: as the command line says, or the host's name.
    pub instance: Option<String>,
    /// How often an arbiter tells the store that it lives.
    pub heartbeat: Duration,
    /// For how long that is valid: after so long without one, another arbiter may lead.
    pub valid_for: Duration,
}

impl Config {
    /// This process is that one of the arbiters: by its name it signs, takes part in the mesh, and stands in incidents.
    /// The hash of the policy stays: it says what the file means, not who reads it.
    pub fn become_instance(&mut self, name: &str) {
        self.policy.arbiter.name = name.to_owned();
        self.arbiter.name = name.to_owned();
    }
}

/// The mesh of arbiters and agents.
#[derive(Clone, Debug)]
pub struct MeshConfig {
    /// The private key of the process that reads the file; `None` where none can be read (then no agent can run here).
    pub key: Option<Secret>,
    /// Everyone.
    pub parties: BTreeMap<PartyName, PartyConfig>,
    /// Whether messages are passed on for others.
    pub relays: bool,
    /// How often links are tried.
    pub ping_every: Duration,
    /// How often an unchanged beat is repeated.
    pub beat_every: Duration,
    /// How long an agent's challenge is good for.
    pub order_valid_for: Duration,
    /// Directory for what must survive a restart of an agent: epochs, and what was preserved.
    pub state: PathBuf,
    /// Unix socket of the agent, for `coroner gate` and the local verbs; `{name}` is the party.
    pub socket: PathBuf,
    /// Real-time priority and locked memory for the thread of leases, where permitted.
    pub is_real_time: bool,
}

/// One of the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartyConfig {
    /// Ed25519 public key.
    pub public_key: [u8; 32],
    /// `host:port` (UDP) where it is reached and listens.
    pub address: String,
    /// What it is.
    pub part: Part,
}

/// What a party is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// An arbiter: may give orders.
    Arbiter,
    /// The agent of these members, by cluster.
    Members(Vec<(ClusterName, MemberName)>),
    /// The agent of these nodes, by cluster.
    Nodes(Vec<(ClusterName, NodeName)>),
}

/// TLS on the HTTP interface.
#[derive(Clone, Debug)]
pub struct TlsConfig {
    /// PEM file of the certificate chain.
    pub cert: PathBuf,
    /// PEM file of the key.
    pub key: PathBuf,
    /// PEM file of the authorities whose client certificates are accepted.
    pub client_ca: Option<PathBuf>,
}

/// One who may come in.
#[derive(Clone, Debug)]
pub struct Access {
    /// Its name: for `report`, the member or node it may report as (empty `as_names`: any of its own name); for
    /// people, what stands in the incident. With mutual TLS, a DNS name of the certificate.
    pub name: String,
    /// What it may do.
    pub role: AccessRole,
    /// Bearer token, and key of the HMAC over UDP.
    pub token: Option<Secret>,
    /// The members and nodes it may report as. Default: its own name.
    pub reports_as: Vec<String>,
}

/// What somebody may do. Each includes nothing of the others but `operate`, which includes `view`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AccessRole {
    /// Push heartbeats and arrivals; learn the primary.
    Report,
    /// Read everything.
    View,
    /// Command.
    Operate,
}

/// One cluster's working parts, parallel to its policy.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// The broker kind.
    pub broker: Option<AnyBroker>,
    /// The members with their addresses, in the policy's order.
    pub members: Vec<Target>,
    /// The nodes.
    pub nodes: Vec<NodeTarget>,
    /// Where each signal comes from.
    pub sources: BTreeMap<SignalName, Source>,
    /// The fence methods, at the policy's places.
    pub fence: Vec<Vec<AnyFence>>,
    /// How the agents of members guard their brokers; empty without agents.
    pub guards: BTreeMap<MemberName, Guard>,
    /// What the agents of nodes do; empty without agents.
    pub observes: BTreeMap<NodeName, Observe>,
    /// The redirect methods, at the policy's places.
    pub redirect: Vec<AnyRedirect>,
}

/// Where a signal comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// Heartbeats pushed by members.
    Heartbeats,
    /// Reports pushed by nodes.
    Arrivals,
    /// An Alertmanager webhook; alerts with all of these labels.
    Alert {
        /// The labels that an alert must have.
        labels: BTreeMap<String, String>,
    },
    /// Evidence of the members' agents.
    Agent {
        /// What they watch.
        watch: Watch,
    },
    /// A question to the broker kind.
    Broker {
        /// The question.
        ask: Ask,
        /// About whom.
        subjects: Subjects,
        /// How often.
        every: Duration,
        /// How long one look may take.
        timeout: Duration,
    },
    /// A probe.
    Probe {
        /// The probe.
        probe: AnyProbe,
        /// About whom; used when `observers` is the arbiter.
        subjects: Subjects,
        /// `Nodes`: the counter is read at each node, which counts as the observer.
        observers: Observers,
        /// How often.
        every: Duration,
        /// How long one look may take.
        timeout: Duration,
    },
    /// A canary message through the broker, received at the nodes.
    Canary {
        /// How often.
        every: Duration,
        /// A canary that a live node has not received by then failed.
        timeout: Duration,
    },
}

/// Reads and resolves a file with this process's own environment.
///
/// # Errors
/// All mistakes of the file.
pub fn load(path: &std::path::Path) -> Result<Config, Mistakes> {
    load_with(path, &ProcessEnvironment)
}

/// The same in other surroundings, such as [`WithoutSecrets`].
///
/// # Errors
/// As [`load`].
pub fn load_with(path: &std::path::Path, env: &dyn Environment) -> Result<Config, Mistakes> {
    load_text(&read_text(path)?, &path.display().to_string(), env)
}

/// The text of a file.
fn read_text(path: &std::path::Path) -> Result<String, Mistakes> {
    let name = path.display().to_string();
    let refuse = |message: String| {
        let mut notes = diagnostic::Notes::new(&name, "");
        notes.error(diagnostic::Place::default(), message);
        Mistakes { list: notes.take(Severity::Error) }
    };
    let bytes = std::fs::read(path).map_err(|e| refuse(format!("the file cannot be read: {e}")))?;
    String::from_utf8(bytes).map_err(|e| {
        let line = e.as_bytes()[..e.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
        refuse(format!("line {line} is not UTF-8: save the file in that encoding"))
    })
}

/// Resolves a text. `file_name` stands in messages, and its directory is where relative `${file:…}` count from.
///
/// # Errors
/// All mistakes of the text.
pub fn load_text(text: &str, file_name: &str, env: &dyn Environment) -> Result<Config, Mistakes> {
    let mut notes = diagnostic::Notes::new(file_name, text);
    let config = yaml::parse(text, &mut notes).and_then(|mut tree| {
        let directory = std::path::Path::new(file_name).parent().unwrap_or_else(|| std::path::Path::new(""));
        interpolate::interpolate(&mut tree, directory, env, &mut notes);
        resolve::resolve(&tree, &mut notes)
    });
    finish(config, notes)
}

fn finish(config: Option<Config>, mut notes: diagnostic::Notes) -> Result<Config, Mistakes> {
    match config {
        Some(mut config) if !notes.is_refused() => {
            config.warnings = notes.take(Severity::Warning).iter().map(ToString::to_string).collect();
            Ok(config)
        }
        _ => {
            if !notes.is_refused() {
                // Cannot be: what is not resolved was noted. Better a vague refusal than a policy nobody wrote.
                notes.error(diagnostic::Place::default(), "the file could not be understood");
            }
            Err(Mistakes { list: notes.take(Severity::Error) })
        }
    }
}

/// The JSON Schema of the file, for editors.
#[must_use]
pub fn schema_json() -> serde_json::Value {
    schemars::schema_for!(schema::File).into()
}

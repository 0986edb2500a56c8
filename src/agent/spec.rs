//! How an agent guards a broker, or serves a node: the file's words, resolved. `{member}` and the like are expanded.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::Deserialize;

use crate::{fence::AnyFence, model::MemberName};

/// How the agent beside a member guards its broker.
#[derive(Clone, Debug, PartialEq)]
pub struct Guard {
    /// The member.
    pub member: MemberName,
    /// What is watched, and killed.
    pub broker: Guarded,
    /// The gate before its port; `None`: none, and the agent offers no proof 3.
    pub gate: Option<GateSpec>,
    /// Fences of the host's own, by name, beside `gate`, `kill` and `read_only`.
    pub fences: BTreeMap<String, AnyFence>,
    /// Where its data lies; watched for full and read-only.
    pub data: Option<PathBuf>,
    /// Copied before the broker, once fenced, is started again.
    pub keep: Vec<PathBuf>,
    /// The broker is asked this often whether it answers, over the loopback.
    pub progress_every: Duration,
    /// Without an answer for this long, the lease is not renewed.
    pub progress_timeout: Duration,
    /// See [`crate::mesh::party::ClusterSetup::restart_grace`].
    pub restart_grace: Duration,
    /// `coroner gate` waits at most this long for a grant.
    pub start_within: Duration,
    /// A second line behind the gate.
    pub watchdog: Option<PathBuf>,
    /// A unit that fails: stop the broker if the gate cannot be restored within a quarter of the lease.
    pub stop_without_gate: bool,
}

/// The broker's process, as its host knows it.
#[derive(Clone, Debug, PartialEq)]
pub enum Guarded {
    /// A unit of systemd: its control group, its main process, its restarts.
    Unit(String),
    /// A file with its process number; the executable's name is checked if given.
    PidFile {
        /// The file.
        path: PathBuf,
        /// `/proc/PID/exe`'s last part.
        executable: Option<String>,
    },
    /// A control group, as a path below `/sys/fs/cgroup`.
    Cgroup(PathBuf),
}

/// The gate before a broker's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateSpec {
    /// Name of the nftables table; distinct per cluster and member.
    pub table: String,
    /// The broker's ports.
    pub ports: Vec<u16>,
    /// Whether clients on this host itself are kept out too. The agent's own loopback look is by a mark, or needs `open`.
    pub local: LocalClients,
    /// Who always passes, so that replication goes on: the other members.
    pub peers: Vec<IpAddr>,
    /// Who passes while the member is a standby, to look at it and to promote it: the arbiters. They are kept out of a
    /// primary like all clients, for the forbidden write has to meet what clients meet. Never clients.
    pub admit: Vec<IpAddr>,
}

/// Clients on the broker's own host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LocalClients {
    /// They pass always: the operator knows that there are none that write.
    #[default]
    Open,
    /// They are kept out like all others. Then nothing on the host reaches the broker while the gate is shut, the agent
    /// and `redis-cli` included, but root's processes in the agent's own control group.
    Closed,
}

/// What the agent beside a node does.
#[derive(Clone, Debug, PartialEq)]
pub struct Observe {
    /// How arrivals are learned.
    pub arrivals: ArrivalsFrom,
    /// Whether traffic of a fenced member is dropped by the node's own nftables set.
    pub enforce: bool,
    /// All TCP of its host, and not only what goes to and comes from its port.
    pub whole_host: bool,
}

/// How the agent of a node learns what arrives.
#[derive(Clone, Debug, PartialEq)]
pub enum ArrivalsFrom {
    /// It subscribes to these channels of the broker itself.
    Channels(Vec<String>),
    /// It reads these streams of the broker itself.
    Streams(Vec<String>),
    /// A counter of the application, as a Prometheus metric.
    Metric {
        /// Where.
        url: String,
        /// Its name.
        metric: String,
    },
    /// A counter of the application: the first number in a file.
    File(PathBuf),
    /// None: the node is a relay and a drop list only.
    Nothing,
}

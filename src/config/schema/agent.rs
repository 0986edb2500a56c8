//! The mesh and the agents, as they are written.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    agent::spec::LocalClients,
    config::shape::{At, Entries, WordOrMap},
    fence::AnyFence,
    model::{Secret, Span, agent::Watch},
};

/// Arbiters and agents talk over UDP, signed, over whatever path is left.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Mesh {
    /// The private key of the process that reads the file (`coroner key new`). It may be missing where no agent runs.
    #[schemars(required)]
    pub(in crate::config) key: Option<At<Secret>>,
    /// Everyone who takes part, by name: the arbiter's, a member's, or a node's.
    #[schemars(required)]
    pub(in crate::config) parties: Option<At<Entries<Party>>>,
    /// Whether messages are passed on for others. Default true.
    pub(in crate::config) relay: Option<bool>,
    /// How often links are tried. Default 250ms.
    pub(in crate::config) ping_every: Option<At<Span>>,
    /// How often an agent repeats what did not change. Default 250ms.
    pub(in crate::config) beat_every: Option<At<Span>>,
    /// How long an order may be on its way, from the beat that it answers. Default 2s.
    pub(in crate::config) order_valid_for: Option<At<Span>>,
    /// Directory for what must survive a restart of an agent. Default `/var/lib/coroner`.
    pub(in crate::config) state: Option<At<String>>,
    /// Unix socket of an agent; `{name}` is the party. Default `/run/coroner/agent-{name}.sock`.
    pub(in crate::config) socket: Option<At<String>>,
    /// Real-time priority and locked memory for the thread of leases, where permitted. Default true.
    pub(in crate::config) real_time: Option<bool>,
}

/// One of the mesh.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Party {
    /// Its public key, as `coroner key show` prints it.
    #[schemars(required)]
    pub(in crate::config) key: Option<At<String>>,
    /// `ip:port` (UDP) at which it listens and is reached.
    #[schemars(required)]
    pub(in crate::config) address: Option<At<String>>,
    /// One more arbiter, besides the one that the file names.
    pub(in crate::config) arbiter: Option<At<bool>>,
}

/// How the agents of a cluster's members guard their brokers. `{cluster}`, `{member}`, `{address}`, `{host}` and
/// `{port}` are put in.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Agent {
    /// The broker's process, as its host knows it: a unit, a file with its number, or a control group.
    #[schemars(required)]
    pub(in crate::config) broker: Option<At<Guarded>>,
    /// The gate before its ports. Without it, its agent can prove less, and there is no lease.
    pub(in crate::config) gate: Option<At<Gate>>,
    /// Where its data lies; watched for full and read-only.
    pub(in crate::config) data: Option<At<String>>,
    /// Files and directories that are copied before a fenced broker is started again, such as its transaction log: what it
    /// had and nobody else got can be salvaged from them.
    pub(in crate::config) keep: Vec<At<String>>,
    /// How its agent learns that it still makes progress.
    pub(in crate::config) progress: Progress,
    /// Further fences on its host, by name, for `{ agent: NAME }` under `failover.fence`.
    pub(in crate::config) fences: Entries<AnyFence>,
    /// A broker that exits and is started again within this keeps its epoch, unless a failover began. Default 2s.
    pub(in crate::config) restart_grace: Option<At<Span>>,
    /// `coroner gate` waits at most this long for a grant. Default 30s.
    pub(in crate::config) start_within: Option<At<Span>>,
    /// A watchdog device, as a second line behind the gate.
    pub(in crate::config) watchdog: Option<At<String>>,
    /// Stop the broker if the gate was altered and cannot be restored within a quarter of the lease. Default true.
    pub(in crate::config) stop_without_gate: Option<bool>,
}

/// The broker's process: exactly one of `unit`, `pid_file`, `cgroup`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Guarded {
    /// A unit of systemd: its control group, its main process, its restarts.
    pub(in crate::config) unit: Option<At<String>>,
    /// A file with its process number.
    pub(in crate::config) pid_file: Option<At<String>>,
    /// The name of its executable, against a number that was given anew.
    pub(in crate::config) executable: Option<At<String>>,
    /// A control group, as a path below `/sys/fs/cgroup`.
    pub(in crate::config) cgroup: Option<At<String>>,
}

/// The gate before a broker's ports.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Gate {
    /// The ports. Default: the one of the member's address.
    pub(in crate::config) ports: Vec<At<u16>>,
    /// Whether clients on the broker's own host pass: `open` or `closed`. Default `open`.
    pub(in crate::config) local: Option<LocalClients>,
    /// Who passes while the member is a standby, besides the arbiters: IP addresses, never those of clients. The other
    /// members pass always.
    pub(in crate::config) admit: Vec<At<String>>,
}

/// How an agent learns that its broker makes progress.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Progress {
    /// It is asked this often, over the loopback. Default 50ms.
    pub(in crate::config) every: Option<At<Span>>,
    /// Without an answer for this long, its lease is not renewed. Default 200ms.
    pub(in crate::config) timeout: Option<At<Span>>,
}

/// What the agents of nodes do. At most one of `channels`, `streams`, `metric`, `file`; `{cluster}`, `{node}`,
/// `{address}` and `{host}` are put in.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Observe {
    /// Arrivals: the agent subscribes to these channels of the broker itself.
    pub(in crate::config) channels: Option<At<Vec<At<String>>>>,
    /// Arrivals: it reads these streams of the broker itself.
    pub(in crate::config) streams: Option<At<Vec<At<String>>>>,
    /// Arrivals: a counter of the application, as a Prometheus metric.
    pub(in crate::config) metric: Option<At<Metric>>,
    /// Arrivals: a counter of the application, the first number in a file.
    pub(in crate::config) file: Option<At<String>>,
    /// Whether traffic of a fenced primary is dropped at the node. Default false.
    pub(in crate::config) enforce: Option<bool>,
    /// With `enforce`: drop all TCP of its host, and not only what goes to and comes from its port. For a primary that opens
    /// the connections to the nodes itself. Default false.
    pub(in crate::config) whole_host: Option<At<bool>>,
}

/// A counter on a Prometheus page.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Metric {
    /// Where.
    #[schemars(required)]
    pub(in crate::config) url: Option<At<String>>,
    /// Its name.
    #[schemars(required)]
    pub(in crate::config) name: Option<At<String>>,
}

/// Evidence of the members' agents.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct AgentWatch {
    /// What they watch.
    #[schemars(required)]
    pub(in crate::config) watch: Option<At<Watch>>,
    /// Whose: `primary`, `standbys`, `members`, or a member's name.
    #[schemars(required)]
    pub(in crate::config) of: Option<At<String>>,
}

/// The lease: its length alone, or more.
pub(in crate::config) type LeaseText = WordOrMap<Lease, Span>;

/// The lease of a cluster's primary.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Lease {
    /// How long a grant lasts.
    #[schemars(required)]
    pub(in crate::config) length: Option<At<Span>>,
    /// How often it is renewed. Default: a quarter of `length`.
    pub(in crate::config) renew_every: Option<At<Span>>,
    /// How far the rates of two hosts' clocks may lie apart. Default `10%`.
    pub(in crate::config) clock_rate: Option<At<String>>,
    /// From the lease's end until nothing leaves the host any more. Default 20ms.
    pub(in crate::config) enforced_within: Option<At<Span>>,
    /// How long the others wait before they may promote. Default: what follows from the above.
    pub(in crate::config) wait: Option<At<Span>>,
}

//! The file as it is written. Nothing here is checked against anything else; `resolve` does that.
//!
//! What a file must hold is optional here all the same, so that one missing key does not hide the mistakes of the
//! rest; `resolve` asks for it. `schemars(required)` tells editors.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use super::{
    AccessRole,
    shape::{At, Entries, ListOrMap, OneOrMany, Raw, Tagged, WordOrMap, WordOrWords},
};
use crate::{
    broker::{AnyBroker, Ask},
    fence::AnyFence,
    model::{
        Mode, Secret, Size, Span,
        policy::{Traffic, UnknownLoss},
        rule::Reaction,
    },
    probe::{exec::Exec, file, http, prometheus, tcp},
    redirect::AnyRedirect,
    report::AnyReport,
};

mod agent;
mod trial;

pub(super) use agent::{Agent, AgentWatch, Gate, Guarded, Lease, LeaseText, Mesh, Observe, Party};
pub(super) use trial::{Expect, Test};

/// Coroner's configuration: one file for every host.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct File {
    /// The arbiter's own part.
    #[schemars(required)]
    pub(super) arbiter: Option<At<Arbiter>>,
    /// The mesh of arbiters and agents. Without it, there are no agents.
    pub(super) mesh: Option<At<Mesh>>,
    /// The watched services, by name.
    #[schemars(required)]
    pub(super) clusters: Option<At<Entries<Cluster>>>,
    /// How people are told, for all clusters.
    pub(super) report: Vec<At<AnyReport>>,
    /// Tests of the death rules, run by `coroner check`. They change nothing that an arbiter does.
    pub(super) tests: Vec<At<Test>>,
}

/// The arbiter's own part.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Arbiter {
    /// Its name, in reports.
    #[schemars(required)]
    pub(super) name: Option<At<String>>,
    /// `ip:port` of the HTTP interface, or a map for more. Without it, the Unix socket alone.
    pub(super) listen: Option<WordOrMap<Listen>>,
    /// Where intents are kept. `sqlite:/var/lib/coroner/coroner.db` for one arbiter; for several that share one:
    /// `postgres://…`, `mysql://…`, `redis://…`, `mongodb://…`, `etcd://…`.
    #[schemars(required)]
    pub(super) store: Option<At<String>>,
    /// Which of several arbiters this is. Default: `coroner arbiter --instance`, or the host's name.
    pub(super) instance: Option<At<String>>,
    /// The SQLite file for what is this arbiter's own, beside a shared store. Default
    /// `/var/lib/coroner/local.db`.
    pub(super) local: Option<At<String>>,
    /// How several arbiters agree on who leads.
    pub(super) leadership: Option<At<Leadership>>,
    /// Who may do what over TCP and UDP.
    pub(super) access: Vec<At<Access>>,
    /// Users (uid) that may operate over the Unix socket, besides root and the arbiter's own.
    pub(super) socket_operators: Vec<u32>,
    /// Where what was seen and decided is recorded, and how much of it is kept.
    pub(super) journal: Journal,
    /// When the arbiter stops to trust its own clock and speed.
    pub(super) tilt: Tilt,
    /// When too many clusters die at once to be believed.
    pub(super) storm: Storm,
    /// How often fence paths are checked without harm. Default 1m.
    pub(super) check_fences_every: Option<At<Span>>,
    /// Allows the arbiter on a member's host, and two voters on one host.
    pub(super) unsafe_colocated: bool,
}

/// How several arbiters agree on who leads.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Leadership {
    /// How often each tells the store that it lives. Default 1s.
    pub(super) heartbeat: Option<At<Span>>,
    /// For how long that is valid. Default 3s.
    pub(super) valid_for: Option<At<Span>>,
}

/// Where the arbiter listens.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Listen {
    /// `ip:port` for HTTP.
    pub(super) http: Option<At<String>>,
    /// `ip:port` for heartbeats over UDP.
    pub(super) udp: Option<At<String>>,
    /// The Unix socket for control and local heartbeats. Default `/run/coroner/coroner.sock`.
    pub(super) socket: Option<At<String>>,
    /// TLS on the HTTP interface.
    pub(super) tls: Option<At<Tls>>,
}

/// TLS on the HTTP interface.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Tls {
    /// PEM file of the certificate chain.
    #[schemars(required)]
    pub(super) cert: Option<String>,
    /// PEM file of the key.
    #[schemars(required)]
    pub(super) key: Option<String>,
    /// PEM file of the authorities whose client certificates are accepted.
    pub(super) client_ca: Option<String>,
}

/// One who may come in.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Access {
    /// Its name; for `report`, the member or node that it is. With mutual TLS, a DNS name of its certificate.
    #[schemars(required)]
    pub(super) name: Option<At<String>>,
    /// `report`: push heartbeats and arrivals; `view`: read everything; `operate`: command.
    #[schemars(required)]
    pub(super) role: Option<At<AccessRole>>,
    /// Bearer token, and key of the HMAC over UDP. Not needed with mutual TLS.
    pub(super) token: Option<At<Secret>>,
    /// The members and nodes that it may report as; for an alert system, the alerts that it pushes. Default: its own name.
    pub(super) reports_as: Vec<At<String>>,
}

/// The journal of what was seen and decided: for `coroner backtest` and `coroner replay`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Journal {
    /// Its directory, this arbiter's own. Default: beside the SQLite file, named like it, ending in `.journal`.
    pub(super) path: Option<At<String>>,
    /// For how long it is kept. Default 30d.
    pub(super) keep_for: Option<At<Span>>,
    /// How large it may grow; then the oldest part goes. At least 16MiB. Default 1GiB.
    pub(super) max_size: Option<At<Size>>,
}

/// When the arbiter stops to trust its own clock and speed.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Tilt {
    /// Its own loop later than this, or a clock gap longer than this. Default 500ms.
    pub(super) after: Option<At<Span>>,
    /// For how long nothing is done after that. Default 5s.
    #[serde(rename = "for")]
    pub(super) for_: Option<At<Span>>,
}

/// When too many clusters die at once to be believed.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Storm {
    /// More clusters than this. Default 3.
    pub(super) clusters: Option<At<u32>>,
    /// Within this time. Default 1m.
    pub(super) within: Option<At<Span>>,
}

/// One watched service.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Cluster {
    /// `shadow`: judge and tell; `manual`: act once a person approved; `auto`: act. There is no default.
    #[schemars(required)]
    pub(super) mode: Option<At<Mode>>,
    /// The kind of broker, and how to talk to it.
    pub(super) broker: Option<At<AnyBroker>>,
    /// The instances that can be primary or standby, by name.
    #[schemars(required)]
    pub(super) members: Option<At<Entries<Member>>>,
    /// The consumers and producers of the service: a list of names, or names with what belongs to them.
    pub(super) nodes: Option<At<ListOrMap<Node>>>,
    /// Who is primary when nothing is stored yet and no broker kind can tell.
    pub(super) primary: Option<At<String>>,
    /// The streams of observations, by name.
    pub(super) signals: Option<At<Entries<Tagged<SignalSource, SignalModifiers>>>>,
    /// When the primary is dead, and what is done then.
    pub(super) death_rules: Vec<At<Rule>>,
    /// How a failover is done.
    pub(super) failover: Option<At<Failover>>,
    /// How the agents of the members guard their brokers.
    pub(super) agent: Option<At<Agent>>,
    /// What the agents of the nodes do.
    pub(super) observe: Option<At<Observe>>,
}

/// One instance.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Member {
    /// `host:port`, as nodes are told it.
    #[schemars(required)]
    pub(super) address: Option<At<String>>,
    /// Higher is preferred; 0 is never promoted. Default 100.
    pub(super) priority: Option<u32>,
    /// Where it stands.
    pub(super) zone: Option<String>,
}

/// One node.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Node {
    /// `host:port` at which it takes notices of redirection.
    pub(super) address: Option<At<String>>,
}

/// Where a signal comes from.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum SignalSource {
    /// Pushed by members (heartbeats), by nodes (arrivals), or by Alertmanager (an alert).
    Push(At<Push>),
    /// A webhook of Alertmanager.
    Alert(Alert),
    /// A question to the broker kind.
    Broker(BrokerAsk),
    /// A message sent through the broker and received at the nodes.
    Canary(Canary),
    /// A TCP connection.
    Tcp(tcp::Tcp),
    /// An HTTP request.
    Http(http::Http),
    /// A program.
    Exec(Exec),
    /// A Prometheus query, or a scrape of a counter.
    Prometheus(prometheus::Prometheus),
    /// A file.
    File(file::File),
    /// What the members' agents see on their hosts.
    Agent(AgentWatch),
}

/// What stands beside the kind of a probe.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct SignalModifiers {
    /// Whom it is about: `primary`, `standbys`, `members`, a member's name; `nodes` to read it at each node.
    pub(super) of: Option<At<String>>,
    /// How often.
    pub(super) every: Option<At<Span>>,
    /// How long one look may take. Default: half of `every`, at most 1s.
    pub(super) timeout: Option<At<Span>>,
    /// For a counter of arrivals: `attempted` or `constant`, as with pushed arrivals.
    pub(super) traffic: Option<At<Traffic>>,
}

/// What is pushed, and by whom.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Push {
    /// `primary`, `members` or a member's name: heartbeats. `nodes` or a list of nodes: arrivals.
    pub(super) from: Option<At<WordOrWords>>,
    /// The period at which it is expected.
    pub(super) every: Option<At<Span>>,
    /// For arrivals: `attempted`: silence counts only while someone attempted; `constant`: messages are always
    /// expected. Default `attempted`.
    pub(super) traffic: Option<At<Traffic>>,
    /// A webhook of Alertmanager instead.
    pub(super) alert: Option<Alert>,
}

/// A webhook of Alertmanager.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Alert {
    /// The labels that the alert must have.
    #[schemars(required)]
    pub(super) labels: BTreeMap<String, String>,
}

/// A question to the broker kind.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct BrokerAsk {
    /// What is asked.
    #[schemars(required)]
    pub(super) ask: Option<At<Ask>>,
    /// Whom: `primary`, `standbys`, `members`, or a member's name.
    #[schemars(required)]
    pub(super) of: Option<At<String>>,
    /// How often.
    #[schemars(required)]
    pub(super) every: Option<At<Span>>,
    /// How long one look may take. Default: half of `every`, at most 1s.
    pub(super) timeout: Option<At<Span>>,
}

/// A message sent through the broker and received at the nodes.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Canary {
    /// `nodes`, or a list of some.
    #[schemars(required)]
    pub(super) to: Option<At<WordOrWords>>,
    /// How often.
    #[schemars(required)]
    pub(super) every: Option<At<Span>>,
    /// A canary that a live node has not received by then failed. Default: half of `every`, at most 1s.
    pub(super) timeout: Option<At<Span>>,
}

/// One death rule.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Rule {
    /// Its name, unique in the cluster.
    #[schemars(required)]
    pub(super) name: Option<At<String>>,
    /// The condition tree.
    #[schemars(required, with = "Option<Branch>")]
    pub(super) when: Option<Raw>,
    /// The tree must have held for this long without interruption.
    #[serde(rename = "for")]
    #[schemars(with = "Option<Span>")]
    pub(super) for_: Option<Raw>,
    /// The tree must have held for so much of a window.
    #[schemars(with = "Option<Window>")]
    pub(super) within: Option<Raw>,
    /// What the primary is then said to be.
    #[schemars(required)]
    pub(super) verdict: Option<At<RuleVerdict>>,
    /// What is then done.
    #[schemars(required)]
    pub(super) then: Option<At<Reaction>>,
    /// The rule's own mode, where it is narrower than the cluster's.
    pub(super) mode: Option<At<Mode>>,
}

/// What a rule may say of the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RuleVerdict {
    /// Something is odd.
    Suspect,
    /// Alive for probes, useless for the service.
    Gray,
    /// Dead.
    Dead,
}

/// How much of a window must have been true.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Window {
    /// True for so long…
    #[schemars(required)]
    pub(super) true_for: Option<At<Span>>,
    /// …out of the last so long.
    #[schemars(required)]
    pub(super) of: Option<At<Span>>,
}

/// One branch of a condition tree; read by hand, described here for editors.
pub(super) enum Branch {}

impl JsonSchema for Branch {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Branch".into()
    }

    fn json_schema(g: &mut SchemaGenerator) -> Schema {
        let branch = g.subschema_for::<Self>();
        let condition = g.subschema_for::<ConditionText>();
        let count = serde_json::json!({
            "description": "A number, a share such as `60%`, `majority`, or `all`.",
            "anyOf": [
                { "type": "integer", "minimum": 1 },
                { "type": "string", "pattern": r"^(\d+(\.\d+)?%|majority|all)$" }
            ]
        });
        json_schema!({
            "description": "One of `all`, `any`, `not`, `at_least`, or `<signal>: <condition>`; with `for` and `within` beside it.",
            "type": "object",
            "minProperties": 1,
            "maxProperties": 3,
            "properties": {
                "all": { "type": "array", "minItems": 1, "items": branch },
                "any": { "type": "array", "minItems": 1, "items": branch },
                "not": branch,
                "at_least": {
                    "type": "object",
                    "additionalProperties": false,
                    "required": ["count", "of"],
                    "properties": {
                        "count": count,
                        "of": {
                            "description": "The name of a signal with `are`, or a list of branches.",
                            "anyOf": [{ "type": "string" }, { "type": "array", "minItems": 1, "items": branch }]
                        },
                        "are": condition
                    }
                },
                "for": g.subschema_for::<Span>(),
                "within": g.subschema_for::<Window>()
            },
            "additionalProperties": condition
        })
    }
}

/// A condition; read by hand, described here for editors.
pub(super) enum ConditionText {}

impl JsonSchema for ConditionText {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Condition".into()
    }

    fn json_schema(g: &mut SchemaGenerator) -> Schema {
        let span = g.subschema_for::<Span>();
        let kinds = g.subschema_for::<crate::model::FailureKind>();
        json_schema!({
            "description": "What a signal must satisfy.",
            "anyOf": [
                { "type": "string", "enum": ["ok", "failing", "exited", "firing", "up", "down", "primary", "standby"] },
                { "type": "boolean" },
                {
                    "type": "object",
                    "minProperties": 1,
                    "maxProperties": 1,
                    "additionalProperties": false,
                    "properties": {
                        "silent": span,
                        "failing": { "type": "string", "pattern": r"^\s*\d+\s+of\s+\d+\s*$" },
                        "failed_with": kinds,
                        "stalled": span,
                        "lag_above": { "anyOf": [{ "type": "integer", "minimum": 0 }, span] },
                        "latency_above": span,
                        "above": { "type": "number" },
                        "below": { "type": "number" },
                        "text": { "type": "string" },
                        "role_is": { "type": "string", "enum": ["primary", "standby"] },
                        "writable": { "type": "boolean" },
                        "link": { "type": "string", "enum": ["up", "down"] },
                        "unreachable_by": {
                            "anyOf": [
                                { "type": "integer", "minimum": 1 },
                                { "type": "string", "pattern": r"^(\d+(\.\d+)?%|majority|all)$" }
                            ]
                        },
                        "phi_above": { "type": "number" }
                    }
                }
            ]
        })
    }
}

/// How a failover is done.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Failover {
    /// Levels of fence methods: within a level all, between levels fall through.
    #[schemars(required)]
    pub(super) fence: Option<At<Vec<At<OneOrMany<FenceEntry>>>>>,
    /// The proof without which nobody is promoted. Default `gate`.
    pub(super) proof: Option<At<NeededProof>>,
    /// Allows a `proof` below `gate`. Stands in every report.
    #[serde(rename = "unsafe")]
    pub(super) unsafe_: Option<At<bool>>,
    /// How long the standby may replay before promotion. Default 5s.
    pub(super) catch_up: Limit,
    /// How long a promotion may take, verification included. Default 5s.
    pub(super) promote: Limit,
    /// Loss beyond this refuses the promotion: `{ entries: 0 }`, `{ bytes: 1000 }`, or `any`. There is no default.
    #[schemars(required)]
    pub(super) max_loss: Option<At<MaxLoss>>,
    /// What happens when the loss cannot be estimated. Default `hold`.
    pub(super) unknown_loss: Option<UnknownLoss>,
    /// How nodes and clients are moved; all methods side by side.
    pub(super) redirect: Vec<At<Tagged<AnyRedirect, RedirectModifiers>>>,
    /// How long nodes may take to say that they follow. Default 10s.
    pub(super) redirect_within: Option<At<Span>>,
    /// How the old primary comes back. Default `ask`.
    pub(super) rejoin: Option<At<Rejoin>>,
    /// What a standby must be to be promoted.
    pub(super) candidate: Candidate,
    /// No automatic failover for this long after one. Default 10m, or more if a failover may take longer.
    pub(super) cooldown: Option<At<Span>>,
    /// How many automatic failovers there may be in which time. Default 3 in 1d.
    pub(super) budget: Budget,
    /// The lease of the primary: its length, or a map for more. When it is over, that is a proof too.
    pub(super) lease: Option<At<LeaseText>>,
    /// Evidence of the dying primary, gathered by its agent before it is killed. Default: within 300ms; `0s`: none.
    pub(super) preserve: Limit,
}

/// One fence method with its modifiers.
pub(super) type FenceEntry = At<Tagged<AnyFence, FenceModifiers>>;

/// What stands beside a fence method.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct FenceModifiers {
    /// How long it may take, once. Default: by kind, 2s to 1m.
    pub(super) deadline: Option<At<Span>>,
    /// The members that it can be used on. Default: all.
    pub(super) members: Vec<At<String>>,
}

/// What stands beside a redirect method.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RedirectModifiers {
    /// How long it may take. Default 5s.
    pub(super) deadline: Option<At<Span>>,
}

/// The proofs that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum NeededProof {
    /// 1: a method says so. Unsafe.
    Claim,
    /// 2: a method says so, and it was read back, a forbidden write among it. Unsafe, but for a broker kind whose
    /// read-only flag binds everyone.
    ReadBack,
    /// 3: its port is closed, read back.
    Gate,
    /// 4: its whole control group is empty, and nothing restarts it.
    Stopped,
    /// 5: its power is off, read back.
    PowerOff,
}

/// A bound in time.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Limit {
    /// How long it may take.
    #[schemars(required)]
    pub(super) within: Option<At<Span>>,
}

/// How much may be lost.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum MaxLoss {
    /// So many entries, for a broker kind that counts entries.
    Entries(u64),
    /// So many bytes, for a broker kind that counts bytes.
    Bytes(u64),
    /// Whatever is lost.
    Any,
}

/// How the old primary comes back.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Rejoin {
    /// It is made to follow as soon as it is seen again; its divergent tail is counted first.
    Follow,
    /// It stays quarantined until a person says `coroner rejoin`.
    Ask,
    /// Coroner never brings it back.
    Never,
}

/// What a standby must be to be promoted.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Candidate {
    /// It must have been heard of this recently. Default 5s, or more if it is asked more rarely.
    pub(super) fresh_for: Option<At<Span>>,
    /// It must not be further behind than this, in the broker kind's unit. Default: no bound.
    pub(super) lag_max: Option<u64>,
}

/// How many automatic failovers there may be.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Budget {
    /// So many. Default 3.
    pub(super) failovers: Option<At<u32>>,
    /// In this time. Default 1d.
    pub(super) per: Option<At<Span>>,
}

//! One process that takes part: its sessions with the others, its votes, its leases, its orders. Pure.
//!
//! The driver (a thread of its own, at real-time priority where allowed) feeds it datagrams, what the host tells, and
//! time, and carries out what it asks for, in this order: everything behind a [`Output::Persist`] waits for
//! [`Input::Persisted`], but [`Output::Gate`] with `until: None` (closing never waits for a disk).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::message::{Beat, DeedOrder, Life};
use crate::model::{
    ClusterName, Epoch, MemberName, NodeName, PartyName, Time,
    agent::{DeedResult, LeaseState, OrderId},
    policy::LeasePolicy,
    time::Moment,
};

/// What a party is told once.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Its own name.
    pub me: PartyName,
    /// Drawn anew at every start.
    pub life: Life,
    /// Everyone, this party too.
    pub parties: BTreeMap<PartyName, PeerSetup>,
    /// The clusters that it takes part in.
    pub clusters: BTreeMap<ClusterName, ClusterSetup>,
    /// Whether messages are passed on for others, and through others.
    pub relays: bool,
    /// How often links are tried directly.
    pub ping_every: Duration,
    /// How often an unchanged beat is repeated.
    pub beat_every: Duration,
    /// How long a challenge is good for.
    pub order_valid_for: Duration,
}

/// One of the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSetup {
    /// Ed25519 public key.
    pub public_key: [u8; 32],
    /// Where its datagrams go, resolved beforehand.
    pub address: SocketAddr,
    /// Whether it may give orders and seal.
    pub is_arbiter: bool,
}

/// One cluster, as this party takes part in it.
#[derive(Clone, Debug)]
pub struct ClusterSetup {
    /// The lease; `None`: the cluster has none, and the party only tells and obeys.
    pub lease: Option<LeasePolicy>,
    /// The member that this party guards.
    pub guards: Option<MemberName>,
    /// The node that this party observes for.
    pub observes_for: Option<NodeName>,
    /// The parties of the members; who may hold a lease.
    pub members: BTreeMap<MemberName, PartyName>,
    /// A process that exits and is started again within this keeps its epoch.
    pub restart_grace: Duration,
}

/// What survives a restart of this party.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Durable {
    /// By cluster.
    pub clusters: BTreeMap<ClusterName, DurableCluster>,
}

/// What survives of one cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DurableCluster {
    /// The largest epoch seen or sealed: nothing older is granted or obeyed.
    pub sealed: Epoch,
    /// Whom that epoch was granted to first. Nobody else gets it.
    pub holder: Option<MemberName>,
    /// The epoch in which the guarded member was appointed, while it is.
    pub appointed: Option<Epoch>,
}

/// What the driver tells.
#[derive(Clone, Debug)]
pub enum Input {
    /// A datagram came.
    Datagram {
        /// Its bytes.
        bytes: Vec<u8>,
        /// From where.
        source: SocketAddr,
    },
    /// What [`Output::Persist`] asked for is durable.
    Persisted(u64),
    /// What the host knows of a guarded member changed, or is told again. A change is beaten out at once.
    Member {
        /// The cluster.
        cluster: ClusterName,
        /// The report; `epoch`, `appointed`, `lease` are filled in by the party.
        report: Box<crate::model::agent::MemberReport>,
        /// Whether the evidence lets the lease be renewed: the broker runs and makes progress.
        may_renew: bool,
    },
    /// What a node counted.
    Node {
        /// The cluster.
        cluster: ClusterName,
        /// The count.
        arrivals: crate::model::observation::Arrivals,
    },
    /// The guarded member's gate was closed by a local fence, an order or a shutdown: give the lease up and ask no more
    /// in this appointment.
    GiveUp {
        /// The cluster.
        cluster: ClusterName,
    },
    /// Arbiter: have a majority seal this epoch. Repeated by the party until done or withdrawn.
    Seal {
        /// The cluster.
        cluster: ClusterName,
        /// The new epoch.
        epoch: Epoch,
    },
    /// Arbiter: no longer.
    WithdrawSeal {
        /// The cluster.
        cluster: ClusterName,
    },
    /// Arbiter: give this order. Repeated by the party, each time with the newest challenge, until an answer other than
    /// `Taken` came or its deadline is over. `challenge` is filled in by the party.
    Order {
        /// To whom.
        to: PartyName,
        /// What.
        order: Box<DeedOrder>,
    },
    /// Agent: what came of an order that was handed out by [`Output::Ordered`].
    Answered {
        /// Which.
        id: OrderId,
        /// What.
        result: DeedResult,
    },
}

/// What the party asks for, or tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Send these bytes there.
    Send {
        /// The address.
        to: SocketAddr,
        /// The datagram.
        bytes: Vec<u8>,
    },
    /// Make this durable, then say `Persisted`.
    Persist {
        /// Number of the answer.
        id: u64,
        /// The whole state.
        durable: Durable,
    },
    /// Program the gate of the guarded member: open until that moment and no longer, or closed now.
    Gate {
        /// The cluster.
        cluster: ClusterName,
        /// On this host's CLOCK_BOOTTIME.
        until: Option<Time>,
    },
    /// The lease ran out, or is about to within the time of a local fence: stop the broker from serving by what the
    /// file says, besides the gate.
    LeaseOver {
        /// The cluster.
        cluster: ClusterName,
        /// Why.
        why: String,
    },
    /// Agent: an order that may be carried out: signed by an arbiter, fresh, not too old an epoch, not yet done.
    Ordered(Box<DeedOrder>),
    /// Arbiter: a beat was heard.
    Heard {
        /// From whom.
        from: PartyName,
        /// What.
        beat: Box<Beat>,
        /// Whether it came without a detour.
        is_direct: bool,
    },
    /// Arbiter: what came of an order.
    Answer {
        /// By whom.
        from: PartyName,
        /// Which.
        id: OrderId,
        /// What.
        result: DeedResult,
    },
    /// Arbiter: how far the sealing is. Told at every change.
    Sealing(Sealing),
}

/// How far a majority is with sealing an epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealing {
    /// The cluster.
    pub cluster: ClusterName,
    /// The epoch.
    pub epoch: Epoch,
    /// Voters that have sealed it.
    pub sealed: BTreeSet<PartyName>,
    /// Those of them by whose count no older lease runs.
    pub over: BTreeSet<PartyName>,
    /// A majority has sealed it: no older lease will be granted.
    pub is_sealed: bool,
    /// And by the count of a majority of voters, each of which sealed it, no older lease runs: proof T.
    pub is_over: bool,
    /// A voter has sealed a larger epoch: this one will never be granted.
    pub larger: Option<Epoch>,
}

/// The state machine. All methods are total: wrong input is dropped and counted.
#[derive(Debug)]
pub struct Party {}

impl Party {
    /// A party that just started. `keys` signs for `setup.me`.
    #[must_use]
    pub fn new(now: Moment, setup: Setup, keys: super::keys::PrivateKey, durable: Durable) -> Self {
        let _ = (now, setup, keys, durable);
        todo!()
    }

    /// Something happened.
    pub fn handle(&mut self, now: Moment, input: Input) {
        let _ = (now, input);
        todo!()
    }

    /// The time asked for by [`Self::poll_timeout`] has come, or more.
    pub fn handle_timeout(&mut self, now: Moment) {
        let _ = now;
        todo!()
    }

    /// When [`Self::handle_timeout`] is wanted next. The moment is on CLOCK_BOOTTIME; waits that count on
    /// CLOCK_MONOTONIC are looked at again then.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        todo!()
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        todo!()
    }

    /// The lease of the guarded member, now.
    #[must_use]
    pub fn lease(&self, now: Moment, cluster: &ClusterName) -> LeaseState {
        let _ = (now, cluster);
        todo!()
    }

    /// The largest epoch seen, and whether the guarded member is appointed in it and its lease held: the grant that
    /// `coroner gate` asks for.
    #[must_use]
    pub fn may_start(&self, now: Moment, cluster: &ClusterName) -> MayStart {
        let _ = (now, cluster);
        todo!()
    }

    /// Counters and link ages, for metrics and `coroner doctor`.
    #[must_use]
    pub fn health(&self, now: Moment) -> Health {
        let _ = now;
        todo!()
    }
}

/// Whether the guarded broker may start serving.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MayStart {
    /// As the primary of this epoch: the lease is held.
    AsPrimary(Epoch),
    /// It is no primary; it may run behind its closed gate, as a standby.
    AsStandby(Epoch),
    /// It was appointed, and a majority has not granted the lease yet.
    NotYet(Epoch),
    /// It was fenced in this epoch and was not brought back.
    No(Epoch),
}

/// Counters and ages of one party.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// By peer: age of the last direct answer, of the last message by any path, and the round trip, in milliseconds.
    pub links: BTreeMap<PartyName, LinkHealth>,
    /// Messages by what became of them: `handled`, `relayed`, `replayed`, `bad_signature`, `unknown_party`,
    /// `wrong_life`, `too_large`, `hops_used_up`, …
    pub counts: BTreeMap<String, u64>,
    /// By cluster: requests sent, granted, the smallest time that was left when a renewal came, in milliseconds.
    pub renewals: BTreeMap<ClusterName, RenewalHealth>,
}

/// One link.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LinkHealth {
    /// Age of the newest direct answer.
    pub direct_age_ms: Option<f64>,
    /// Age of the newest message by any path.
    pub any_age_ms: Option<f64>,
    /// The newest round trip of a direct ping.
    pub round_trip_ms: Option<f64>,
}

/// How the renewals go.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RenewalHealth {
    /// Rounds of requests.
    pub rounds: u64,
    /// Rounds that a majority granted in time.
    pub granted: u64,
    /// The least that was left of the lease when it was extended, since the start.
    pub least_left_ms: Option<f64>,
}

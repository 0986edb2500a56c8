//! One process that takes part: its sessions with the others, its votes, its leases, its orders. Pure.
//!
//! The driver (a thread of its own, at real-time priority where allowed) feeds it datagrams, what the host tells, and
//! time, and carries out what it asks for, in this order: everything behind a [`Output::Persist`] waits for
//! [`Input::Persisted`], but [`Output::Gate`] with `until: None` (closing never waits for a disk).

mod agent;
mod arbiter;
mod cluster;
mod leases;
mod queue;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use self::{
    agent::{Beats, Challenges, TakenOrders},
    arbiter::{GivenOrder, HeardBeat},
    cluster::Cluster,
    queue::Queue,
};
use super::{
    message::{Beat, Body, DeedOrder, Life},
    route::{Datagram, Incoming, Route},
};
pub use crate::model::agent::RenewalHealth;
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
    /// The epoch in which the guarded member was fenced, until it is brought back.
    #[serde(default)]
    pub fenced: Option<Epoch>,
    /// See [`crate::lease::voter::Memory::is_unproven`].
    #[serde(default)]
    pub is_unproven: bool,
    /// See [`crate::lease::voter::Memory::longest_wait`], in nanoseconds.
    #[serde(default)]
    pub longest_wait_ns: u64,
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
    /// What the host knows of a guarded member changed, or is told again. A change is beaten out at once. Until it was
    /// told once, no lease is asked for.
    Member {
        /// The cluster.
        cluster: ClusterName,
        /// The report; `epoch`, `appointed`, `lease` are filled in by the party.
        report: Box<crate::model::agent::MemberReport>,
        /// Whether the evidence lets the lease be renewed: the broker runs and makes progress.
        may_renew: bool,
    },
    /// The service manager is about to start the guarded broker, which does not run: ask for its lease all the same,
    /// if it ran within `restart_grace`.
    Starting {
        /// The cluster.
        cluster: ClusterName,
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
    /// Program the gate of the guarded member: open until that moment and no longer, or closed now. In a cluster without
    /// leases, an appointed member's gate is open until the end of time.
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
pub struct Party {
    setup: Setup,
    is_arbiter: bool,
    route: Route,
    clusters: BTreeMap<ClusterName, Cluster>,
    queue: Queue,
    beats: Beats,
    challenges: Challenges,
    taken: TakenOrders,
    heard: BTreeMap<PartyName, HeardBeat>,
    given: BTreeMap<OrderId, GivenOrder>,
}

impl Party {
    /// A party that just started. `keys` signs for `setup.me`.
    #[must_use]
    pub fn new(now: Moment, setup: Setup, keys: super::keys::PrivateKey, durable: Durable) -> Self {
        let is_arbiter = setup.parties.get(&setup.me).is_some_and(|me| me.is_arbiter);
        let challenges = Challenges::new(&keys, setup.life);
        let mut durable = durable;
        let clusters = setup.clusters.iter().map(|(name, cluster)| {
            let kept = durable.clusters.remove(name).unwrap_or_default();
            (name.clone(), Cluster::new(now, &setup.me, cluster.clone(), kept))
        });
        let clusters = clusters.collect();
        let route = Route::new(now.boot, &setup, keys);
        let mut party = Self {
            is_arbiter,
            route,
            clusters,
            queue: Queue::default(),
            beats: Beats::new(now.boot),
            challenges,
            taken: TakenOrders::default(),
            heard: BTreeMap::new(),
            given: BTreeMap::new(),
            setup,
        };
        // Clusters that this process no longer takes part in keep what they sealed.
        party.queue.others = durable;
        party.start(now);
        party
    }

    /// Something happened.
    pub fn handle(&mut self, now: Moment, input: Input) {
        // What ran out while nobody looked is over before anything new is believed.
        self.expire(now);
        match input {
            Input::Datagram { bytes, source } => self.datagram(now, &bytes, source),
            Input::Persisted(id) => self.queue.persisted(id),
            Input::Member { cluster, report, may_renew } => self.member(now, &cluster, *report, may_renew),
            Input::Starting { cluster } => self.starting(now, &cluster),
            Input::Node { cluster, arrivals } => {
                if let Some(cluster) = self.clusters.get_mut(&cluster) {
                    cluster.arrivals = Some((now.boot, arrivals));
                }
            }
            Input::GiveUp { cluster } => self.give_up(now, &cluster),
            Input::Seal { cluster, epoch } => self.begin_seal(now, &cluster, epoch),
            Input::WithdrawSeal { cluster } => {
                if let Some(cluster) = self.clusters.get_mut(&cluster) {
                    cluster.sealing = None;
                }
            }
            Input::Order { to, order } => self.give_order(now, to, *order),
            Input::Answered { id, result } => self.finish(now, &id, result),
        }
        self.advance(now);
    }

    /// The time asked for by [`Self::poll_timeout`] has come, or more.
    pub fn handle_timeout(&mut self, now: Moment) {
        self.expire(now);
        self.advance(now);
    }

    /// When [`Self::handle_timeout`] is wanted next. The moment is on CLOCK_BOOTTIME; waits that count on
    /// CLOCK_MONOTONIC are looked at again then.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        let own = [Some(self.route.next_ping()), (!self.is_arbiter).then_some(self.beats.due)];
        let clusters = self.clusters.values().flat_map(Cluster::timeouts);
        let given = self.given.values().map(|order| order.send_at.min(order.ends_at));
        own.into_iter().flatten().chain(clusters).chain(given).min()
    }

    /// The next thing to do. Nothing that depends on a [`Output::Persist`] comes out before it was [`Input::Persisted`].
    pub fn poll_output(&mut self) -> Option<Output> {
        self.queue.pop()
    }

    /// The lease of the guarded member, now.
    #[must_use]
    pub fn lease(&self, now: Moment, cluster: &ClusterName) -> LeaseState {
        self.clusters.get(cluster).map_or(LeaseState::None, |cluster| cluster.lease_state(now.boot))
    }

    /// The largest epoch seen, and whether the guarded member is appointed in it and its lease held: the grant that
    /// `coroner gate` asks for.
    #[must_use]
    pub fn may_start(&self, now: Moment, cluster: &ClusterName) -> MayStart {
        self.clusters.get(cluster).map_or(MayStart::No(Epoch::ZERO), |cluster| cluster.may_start(now.boot))
    }

    /// Counters and link ages, for metrics and `coroner doctor`.
    #[must_use]
    pub fn health(&self, now: Moment) -> Health {
        let mut health = Health::default();
        self.route.report(now.boot, &mut health);
        for (name, cluster) in &self.clusters {
            if let Some(guard) = &cluster.guard {
                health.renewals.insert(name.clone(), guard.health.clone());
            }
        }
        health
    }

    /// Everything of it that must survive.
    #[must_use]
    pub fn durable(&self) -> Durable {
        let mut durable = self.queue.others.clone();
        durable.clusters.extend(self.clusters.iter().map(|(name, cluster)| (name.clone(), cluster.durable())));
        durable
    }

    fn datagram(&mut self, now: Moment, bytes: &[u8], source: SocketAddr) {
        let incoming = self.route.receive(now.boot, bytes, source);
        self.flush_urgent();
        match incoming {
            None => {}
            Some(Incoming::Learned(peer)) => self.learned(now, &peer),
            Some(Incoming::Message { from, seq, body, is_direct }) => self.message(now, &from, seq, body, is_direct),
        }
    }

    fn message(&mut self, now: Moment, from: &PartyName, seq: u64, body: Body, is_direct: bool) {
        match body {
            Body::Beat(beat) => self.beat_came(now, from, seq, beat, is_direct),
            Body::BeatHeard { seq } => self.beats.heard(from, seq),
            Body::Renew(renew) => self.renew_came(now, from, &renew),
            Body::Granted { cluster, epoch, request } => self.granted(now, from, &cluster, epoch, request),
            Body::Refused { cluster, request, sealed, why } => self.refused(now, from, &cluster, request, sealed, why),
            Body::Seal { cluster, epoch, safety } => self.seal_came(now, from, &cluster, epoch, safety),
            Body::Sealed { cluster, epoch, wait } => self.sealed_came(from, &cluster, epoch, wait),
            Body::Order(order) => self.order_came(now, from, *order),
            Body::Answer { id, result } => self.answer_came(now, from, &id, result),
            // The route keeps these to itself.
            Body::Hello { .. } | Body::Welcome { .. } | Body::Ping { .. } | Body::Pong { .. } => {}
        }
    }

    /// A peer's life became known: whatever waited for that goes out now.
    fn learned(&mut self, now: Moment, peer: &PartyName) {
        // Challenges of its former life are worthless.
        self.heard.remove(peer);
        if self.setup.parties.get(peer).is_some_and(|peer| peer.is_arbiter) {
            self.beats.soon(now.boot);
        }
        for cluster in self.clusters.values_mut() {
            cluster.learned(now.boot);
        }
    }

    /// All that is due.
    fn advance(&mut self, now: Moment) {
        self.route.handle_timeout(now.boot);
        self.flush_urgent();
        let names: Vec<_> = self.clusters.keys().cloned().collect();
        for name in &names {
            self.drive_lease(now, name);
            self.drive_wait(now, name);
            self.drive_seal(now, name);
        }
        self.drive_orders(now);
        self.drive_beats(now);
    }

    /// Sends, behind whatever is to be made durable first.
    fn post(&mut self, now: Moment, to: &PartyName, body: Body, is_doubted: bool) -> Option<u64> {
        let sent = match self.route.send(now.boot, to, body.clone(), is_doubted) {
            Ok(sent) => sent,
            Err(_) => queue::shortened(body).and_then(|body| self.route.send(now.boot, to, body, is_doubted).ok())?,
        };
        for Datagram { to, bytes } in self.route.take_outgoing() {
            self.queue.push(Output::Send { to, bytes });
        }
        sent
    }

    /// Pings, greetings and others' messages depend on nothing durable.
    fn flush_urgent(&mut self) {
        for Datagram { to, bytes } in self.route.take_outgoing() {
            self.queue.push_urgent(Output::Send { to, bytes });
        }
    }

    fn persist(&mut self) {
        let durable = self.durable();
        self.queue.persist(durable);
    }

    fn is_order_giver(&self, peer: &PartyName) -> bool {
        self.setup.parties.get(peer).is_some_and(|peer| peer.is_arbiter)
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
    /// Whether the direct link answered of late.
    #[serde(default)]
    pub is_up: bool,
    /// It is heard directly, and does not answer directly: what is sent to it is lost on the way.
    #[serde(default)]
    pub is_one_way: bool,
    /// Age of the newest message in its name that another key had signed.
    #[serde(default)]
    pub bad_signature_age_ms: Option<f64>,
    /// Age of the newest sign that its file and this one disagree on what keeps leases safe.
    #[serde(default)]
    pub differs_age_ms: Option<f64>,
}

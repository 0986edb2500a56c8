//! What parties say to each other.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{
    ClusterName, Epoch, MemberName, NodeName, PartyName,
    agent::{Deed, DeedResult, MemberReport, OrderId},
    observation::Arrivals,
    time::millis,
};

/// One life of a process: a random number, never zero. Whoever names ours has heard us in this life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Life(pub u64);

impl Life {
    /// The receiver's life is not known yet: allowed for [`Body::Hello`] alone.
    pub const UNKNOWN: Self = Self(0);
}

/// A message with its sender and receiver. Signed as a whole by the sender.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Who says it.
    pub from: PartyName,
    /// In which life.
    pub from_life: Life,
    /// To whom.
    pub to: PartyName,
    /// The receiver's life, as the sender knows it. A receiver refuses another than its own.
    pub to_life: Life,
    /// Grows within the sender's life. Each number is handled once.
    pub seq: u64,
    /// What.
    pub body: Body,
}

/// What is said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// I do not know your life: tell me. Also what a message for a former life is answered with.
    Hello {
        /// Number of the question.
        number: u64,
    },
    /// Answer to `Hello`, with its number: the sender lives this life, later than the question was asked. Nothing else
    /// teaches a life, so nothing recorded or delayed can bring a former one back.
    Welcome {
        /// Number of the question.
        number: u64,
    },
    /// Directly only, never relayed: is this link up? Answered by `Pong` with the same number.
    Ping {
        /// Number of the question.
        number: u64,
    },
    /// Answer to `Ping`.
    Pong {
        /// Number of the question.
        number: u64,
    },
    /// What an agent knows, to the arbiters; at once when it changed.
    Beat(Box<Beat>),
    /// A beat was heard: only this proves the way both ways.
    BeatHeard {
        /// The `seq` of the beat's message.
        seq: u64,
    },
    /// May my member serve on?
    Renew(Renew),
    /// It may, as far as I am asked.
    Granted {
        /// The cluster.
        cluster: ClusterName,
        /// The epoch asked for.
        epoch: Epoch,
        /// The number of the request.
        request: u64,
    },
    /// It may not.
    Refused {
        /// The cluster.
        cluster: ClusterName,
        /// The number of the request.
        request: u64,
        /// The epoch that the voter has sealed.
        sealed: Epoch,
        /// Why.
        why: GrantRefusal,
    },
    /// From an arbiter to a voter: refuse older epochs, for ever. Asked again until a majority answered.
    Seal {
        /// The cluster.
        cluster: ClusterName,
        /// The new epoch.
        epoch: Epoch,
        /// See [`Renew::safety`]: a voter whose file disagrees does not seal either, for its wait may be too short.
        safety: u64,
    },
    /// Sealed, durably.
    Sealed {
        /// The cluster.
        cluster: ClusterName,
        /// The epoch sealed: the one asked for, or a larger one that was sealed before.
        epoch: Epoch,
        /// How long an older lease may yet run by this voter's count; zero: it is over.
        #[serde(with = "millis", rename = "wait_ms")]
        wait: Duration,
    },
    /// From an arbiter to an agent: do this.
    Order(Box<DeedOrder>),
    /// What came of it.
    Answer {
        /// Which order.
        id: OrderId,
        /// The outcome.
        result: DeedResult,
    },
}

/// What an agent tells the arbiters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Beat {
    /// Issued by this agent just now; an order must name it, and expires with it on the agent's own clock.
    pub challenge: u64,
    /// The parties whose answers to `Ping` reached this one directly of late.
    pub reaches: Vec<PartyName>,
    /// The parties that it hears directly, and that do not answer it directly: links that carry one way only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub one_way: Vec<PartyName>,
    /// The members it guards.
    pub members: Vec<(ClusterName, MemberName, MemberReport)>,
    /// The nodes it observes for.
    pub nodes: Vec<(ClusterName, NodeName, Arrivals)>,
}

/// A request for a lease.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Renew {
    /// The cluster.
    pub cluster: ClusterName,
    /// The member that serves.
    pub member: MemberName,
    /// The epoch in which it was appointed.
    pub epoch: Epoch,
    /// Numbers the requests of one life of the holder.
    pub request: u64,
    /// Hash of what both must agree on: length, wait, voters ([`crate::lease::arithmetic::Safety`]).
    pub safety: u64,
}

/// Why a voter does not grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum GrantRefusal {
    /// A larger epoch is sealed.
    #[error("a larger epoch is sealed")]
    Sealed,
    /// Another member was granted this epoch first.
    #[error("the epoch was granted to another member")]
    Other,
    /// The two files disagree on what keeps leases safe.
    #[error("the two files disagree on the lease's length, wait or voters")]
    SafetyDiffers,
    /// This voter learned of the epoch by no arbiter's seal, and by its own count an older lease may still run.
    #[error("an older lease may still run")]
    LeaseRuns,
    /// Not a voter of this cluster, or the member may not be primary.
    #[error("not a matter of this voter")]
    NotMine,
}

/// An order to an agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeedOrder {
    /// Which: the same over repetitions, and done once.
    pub id: OrderId,
    /// The cluster.
    pub cluster: ClusterName,
    /// The member that it is about; for a node's order, the primary.
    pub member: MemberName,
    /// In whose name. Refused below the largest epoch that the agent has seen.
    pub epoch: Epoch,
    /// A challenge that the agent issued in a beat.
    pub challenge: u64,
    /// What.
    pub deed: Deed,
    /// How long it may take, from its arrival.
    #[serde(with = "millis", rename = "deadline_ms")]
    pub deadline: Duration,
}

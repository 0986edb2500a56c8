//! Names and numbers that identify things.

use std::{borrow::Borrow, fmt, sync::Arc};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

macro_rules! name {
    ($(#[$doc:meta])* $Name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(transparent)]
        pub struct $Name(Arc<str>);

        impl $Name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $Name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl From<String> for $Name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }

        impl Borrow<str> for $Name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $Name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $Name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

name! {
    /// One watched service: a primary, its standbys, and the nodes that depend on it.
    ClusterName
}
name! {
    /// One broker or database instance that can be primary or standby.
    MemberName
}
name! {
    /// One consumer or producer of the service: the ones for whom it exists.
    NodeName
}
name! {
    /// One named stream of observations, as written under `signals:`.
    SignalName
}
name! {
    /// One death rule, as written under `death_rules:`.
    RuleName
}
name! {
    /// One incident. A ULID, so that names sort by the time of opening.
    IncidentId
}

name! {
    /// One process that takes part in leases, evidence and orders: an arbiter, the agent of a member, the agent of a
    /// node. Named like the arbiter, member or node it serves; the names of one file are distinct.
    PartyName
}

impl From<&MemberName> for PartyName {
    fn from(member: &MemberName) -> Self {
        Self(Arc::clone(&member.0))
    }
}

impl From<&NodeName> for PartyName {
    fn from(node: &NodeName) -> Self {
        Self(Arc::clone(&node.0))
    }
}

/// The switch-over version number of a cluster.
///
/// It grows by one per failover or switchover, by compare-and-swap in the store, and never shrinks.
/// Whoever receives an order or a message with a smaller epoch than the largest it has seen refuses it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch before the first primary is known.
    pub const ZERO: Self = Self(0);

    /// The epoch of the next failover. Saturates, which no real system reaches.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

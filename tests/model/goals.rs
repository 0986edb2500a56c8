//! What has to be reached at some time: a checker that never sees a failover proves nothing about failovers.

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Goal {
    FailsOver,
    SwitchesOver,
    Aborts,
    Holds,
    Rejoins,
    /// One arbiter ends what the other began.
    TakesOver,
    /// An order of an arbiter that leads no more is refused for its epoch.
    RefusesStale,
    /// A former leader's write is refused.
    RefusesWrite,
    /// A promotion on the end of a lease.
    ProvedByLease,
    /// A promotion on a fence.
    ProvedByFence,
    /// A write went through at a member that a fence claims to have stopped, or while its lease ran.
    WriteAccepted,
    /// A leader handed out an act once more that another one had begun.
    Repeats,
    /// A voter does not grant, because an older lease may run or another epoch is sealed.
    RefusesGrant,
}

impl Goal {
    pub const ALL: [Self; 13] = [
        Self::FailsOver,
        Self::SwitchesOver,
        Self::Aborts,
        Self::Holds,
        Self::Rejoins,
        Self::TakesOver,
        Self::RefusesStale,
        Self::RefusesWrite,
        Self::ProvedByLease,
        Self::ProvedByFence,
        Self::WriteAccepted,
        Self::Repeats,
        Self::RefusesGrant,
    ];

    pub const fn bit(self) -> u32 {
        1 << self as u8
    }

    /// Those of a set, by name.
    pub fn names(set: u32) -> Vec<String> {
        Self::ALL.into_iter().filter(|goal| set & goal.bit() != 0).map(|goal| format!("{goal:?}")).collect()
    }

    pub fn set(goals: &[Self]) -> u32 {
        goals.iter().fold(0, |all, goal| all | goal.bit())
    }
}

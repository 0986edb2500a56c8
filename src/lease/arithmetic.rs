//! How long a voter waits, and what makes a lease unsafe. Exact: whole nanoseconds, rounded up.
//!
//! The holder reads its clock at true time `s`, asks, and serves until its clock has gone `L` further. A clock runs
//! between `1-rho` and `1+rho` seconds per true second, so that is at most `L/(1-rho)` of true time; nothing leaves the
//! host any more `T_enf` later. A voter received the request at `a >= s` and waits until its own clock has gone `W`
//! further, which is at least `W/(1+rho)` of true time. The lease is over before the wait is if
//! `a + W/(1+rho) >= s + L/(1-rho) + T_enf`, for which it suffices that
//!
//! ```text
//! W >= (1+rho) * (L/(1-rho) + T_enf)
//! ```
//!
//! What the formula cannot hold: a clock that jumps (a live migration, a virtual machine paused as a whole) has no rate.

use std::{collections::BTreeSet, time::Duration};

use ring::digest;

use crate::model::{PartyName, policy::LeasePolicy, time::human};

/// The smallest `W` that is safe. [`Duration::MAX`] if no wait is: a clock rate of 1000 thousandths or more.
#[must_use]
pub fn wait(length: Duration, enforced_within: Duration, clock_rate_permille: u32) -> Duration {
    let rate = u128::from(clock_rate_permille);
    if rate >= 1_000 {
        return Duration::MAX;
    }
    let (fast, slow) = (1_000 + rate, 1_000 - rate);
    // A Duration has fewer than 2^95 nanoseconds, so none of these products reaches 2^128.
    let numerator = fast * (1_000 * length.as_nanos() + slow * enforced_within.as_nanos());
    from_nanos(numerator.div_ceil(1_000 * slow))
}

fn from_nanos(ns: u128) -> Duration {
    const SECOND: u128 = 1_000_000_000;
    // The remainder is below 2^30; seconds beyond 64 bits mean "for ever".
    match (u64::try_from(ns / SECOND), u32::try_from(ns % SECOND)) {
        (Ok(secs), Ok(rest)) => Duration::new(secs, rest),
        _ => Duration::MAX,
    }
}

/// How many of the voters are a majority.
#[must_use]
pub const fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// Why a lease's numbers are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsafe {
    /// No time at all.
    #[error("the lease's length and its renewal must be longer than zero")]
    Zero,
    /// Clocks that may stand still bound nothing.
    #[error("clock rates may differ by less than 1000 thousandths, not by {0}: write a smaller `clock_rate`")]
    Rate(u32),
    /// The voter would not wait long enough: an old lease could run while a standby is promoted.
    #[error(
        "the voters wait {}, but an old lease may run for {}: leave `wait` out, or write at least that",
        human(*.wait),
        human(*.needed)
    )]
    ShortWait {
        /// As written.
        wait: Duration,
        /// As needed.
        needed: Duration,
    },
    /// One lost message would stop a healthy primary.
    #[error(
        "a lease of {} renewed every {} ends when a single renewal is lost: the length must be at least {}, two renewals \
         and the time of a local fence",
        human(*.length),
        human(*.renew_every),
        human(*.needed)
    )]
    RareRenewal {
        /// As written.
        length: Duration,
        /// As written.
        renew_every: Duration,
        /// As needed.
        needed: Duration,
    },
    /// Without voters nobody grants.
    #[error("a lease needs voters: the arbiters, and the agents of the members that may become primary")]
    NoVoters,
    /// A party counted twice makes majorities that do not meet.
    #[error("the voter {0} is named twice: name each once")]
    TwiceVoter(PartyName),
}

/// Whether these numbers keep what leases promise.
///
/// # Errors
/// They do not; the first reason found.
pub fn check(policy: &LeasePolicy) -> Result<(), Unsafe> {
    let LeasePolicy { length, renew_every, enforced_within, clock_rate_permille, wait: written, ref voters } = *policy;
    if length.is_zero() || renew_every.is_zero() {
        return Err(Unsafe::Zero);
    }
    if clock_rate_permille >= 1_000 {
        return Err(Unsafe::Rate(clock_rate_permille));
    }
    let needed = wait(length, enforced_within, clock_rate_permille);
    if written < needed {
        return Err(Unsafe::ShortWait { wait: written, needed });
    }
    // One round may be lost, and the local fence begins that long before the end.
    let needed = renew_every.saturating_mul(2).saturating_add(enforced_within);
    if length < needed {
        return Err(Unsafe::RareRenewal { length, renew_every, needed });
    }
    if voters.is_empty() {
        return Err(Unsafe::NoVoters);
    }
    let mut seen = BTreeSet::new();
    for voter in voters {
        if !seen.insert(voter) {
            return Err(Unsafe::TwiceVoter(voter.clone()));
        }
    }
    Ok(())
}

/// A short form of everything that a holder and its voters must agree on. Two files that disagree grant nothing.
pub type Safety = u64;

/// The same number for the same length, wait, fence time, clock rate and set of voters, in every process and version.
#[must_use]
pub fn safety_hash(policy: &LeasePolicy) -> Safety {
    let mut text = format!(
        "coroner lease 1;{};{};{};{}",
        policy.length.as_nanos(),
        policy.wait.as_nanos(),
        policy.enforced_within.as_nanos(),
        policy.clock_rate_permille
    );
    for voter in policy.voters.iter().collect::<BTreeSet<_>>() {
        // The length before the name: no two lists of names read the same.
        text.push_str(&format!(";{}:{voter}", voter.as_str().len()));
    }
    let digest = digest::digest(&digest::SHA256, text.as_bytes());
    digest.as_ref().iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

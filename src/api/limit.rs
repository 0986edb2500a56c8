//! Bounds on what may come in, and how fast.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::sys::clock::Stopwatch;

/// Items (requests, or elements of an array) that one identity may push over HTTP each second.
pub const HTTP_ITEMS_PER_SECOND: f64 = 10_000.0;
/// Datagrams that one identity may send each second.
pub const UDP_BEATS_PER_SECOND: f64 = 200_000.0;
/// The longest body of a request.
pub const MAX_BODY: usize = 64 * 1024;
/// The longest array of heartbeats or reports.
pub const MAX_BATCH: usize = 1_000;
/// The most canaries that one report may confirm.
pub const MAX_CANARIES: usize = 1_000;

/// What a listener allows. The defaults are generous; tests tighten them.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections over TCP at once.
    pub connections: usize,
    /// Connections over TCP at once from one address.
    pub connections_per_address: usize,
    /// Connections over the Unix socket at once.
    pub socket_connections: usize,
    /// A TLS handshake takes no longer.
    pub handshake: Duration,
    /// The first request is complete by then.
    pub first_request: Duration,
    /// The header of a later request is complete by then, counted from the end of the former one.
    pub header: Duration,
    /// A body is complete by then.
    pub body: Duration,
    /// Long polls and event streams at once.
    pub waiters: usize,
    /// The longest wait of a long poll.
    pub wait: Duration,
    /// The decision loop answers a question by then.
    pub answer: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4_096,
            connections_per_address: 512,
            socket_connections: 256,
            handshake: Duration::from_secs(2),
            first_request: Duration::from_secs(5),
            header: Duration::from_secs(60),
            body: Duration::from_secs(5),
            waiters: 1_024,
            wait: Duration::from_secs(60),
            answer: Duration::from_secs(5),
        }
    }
}

/// A token bucket that holds one second's worth.
#[derive(Debug)]
pub(super) struct Bucket {
    per_second: f64,
    level: Mutex<(f64, Duration)>,
}

impl Bucket {
    pub(super) const fn new(per_second: f64) -> Self {
        Self { per_second, level: Mutex::new((per_second, Duration::ZERO)) }
    }

    /// Takes `count` tokens, all or none; `now` is the time since a fixed moment.
    pub(super) fn take(&self, now: Duration, count: f64) -> bool {
        let mut level = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        let (tokens, then) = *level;
        let filled = now.saturating_sub(then).as_secs_f64().mul_add(self.per_second, tokens).min(self.per_second);
        let taken = filled >= count;
        *level = (if taken { filled - count } else { filled }, now.max(then));
        taken
    }
}

/// Lets something through once a second and counts what it held back: for log lines that an attacker can cause.
#[derive(Debug)]
pub(super) struct Throttle {
    /// The second of the last line, plus one; 0: none yet.
    last: AtomicU64,
    held_back: AtomicU64,
}

impl Throttle {
    pub(super) const fn new() -> Self {
        Self { last: AtomicU64::new(0), held_back: AtomicU64::new(0) }
    }

    /// `Some(number held back since)` if a line may be written now.
    pub(super) fn pass(&self, clock: &Stopwatch) -> Option<u64> {
        let second = clock.elapsed().as_secs() + 1;
        if self.last.swap(second, Ordering::Relaxed) == second {
            self.held_back.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(self.held_back.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_refills_and_never_overflows() {
        let bucket = Bucket::new(10.0);
        let at = Duration::from_millis;
        assert!(bucket.take(at(0), 10.0));
        assert!(!bucket.take(at(0), 1.0));
        assert!(bucket.take(at(100), 1.0));
        assert!(!bucket.take(at(100), 1.0));
        assert!(bucket.take(at(60_000), 10.0));
        assert!(!bucket.take(at(60_000), 1.0));
        assert!(!bucket.take(at(0), 1.0), "a clock that goes back fills nothing");
    }

    #[test]
    fn a_throttle_lets_one_through() {
        let (throttle, clock) = (Throttle::new(), Stopwatch::start());
        assert_eq!(throttle.pass(&clock), Some(0));
        let passed = (0..100).filter_map(|_| throttle.pass(&clock)).count();
        assert!(passed <= 1, "{passed}");
    }
}

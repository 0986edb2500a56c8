//! Refuses pushed reports over HTTP that were seen before, where the sender numbers them.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
};

use crate::model::{ClusterName, SignalName};

/// Sessions remembered per stream.
const SESSIONS: usize = 4;

/// A stream: whose names stand in the configuration, so that their number is bounded by it.
type Stream = (ClusterName, SignalName, Box<str>);

/// Keeps the largest number of each session.
#[derive(Debug, Default)]
pub(super) struct Replays(Mutex<HashMap<Stream, VecDeque<(u64, u64)>>>);

impl Replays {
    /// Whether `seq` is new within `session`. A session that nobody remembers is new: over a connection without TLS,
    /// whoever can record a report can read the token as well.
    pub(super) fn is_new(
        &self,
        cluster: &ClusterName,
        signal: &SignalName,
        from: &str,
        session: u64,
        seq: u64,
    ) -> bool {
        let mut streams = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sessions = streams.entry((cluster.clone(), signal.clone(), from.into())).or_default();
        if let Some((_, newest)) = sessions.iter_mut().find(|(id, _)| *id == session) {
            let is_new = seq > *newest;
            *newest = seq.max(*newest);
            return is_new;
        }
        if sessions.len() == SESSIONS {
            sessions.pop_front();
        }
        sessions.push_back((session, seq));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_counts_once_per_session_and_memory_is_bounded() {
        let replays = Replays::default();
        let (cluster, signal) = ("orders".into(), "heartbeat".into());
        let is_new = |session, seq| replays.is_new(&cluster, &signal, "broker-a", session, seq);
        assert!(is_new(1, 5) && !is_new(1, 5) && !is_new(1, 4) && is_new(1, 6));
        for session in 2..100 {
            assert!(is_new(session, 1));
        }
        assert_eq!(replays.0.lock().unwrap().values().next().unwrap().len(), SESSIONS);
    }
}

//! Heartbeats over UDP: authenticated, numbered, echoed, and merged when the decision is behind.
//!
//! One task owns the socket and all sessions. Memory is bounded by the configuration: a stream for each member and
//! heartbeat signal, and at most [`SESSIONS`] sessions for each stream.

use std::{collections::HashMap, io, net::SocketAddr, sync::Arc, time::Duration};

use nix::sys::socket::{setsockopt, sockopt};
use prometheus::IntCounter;
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::{net::UdpSocket, sync::watch, time::sleep};

use super::{
    Shared, StartError,
    auth::AccessTable,
    beat::{Beat, ECHO_LEN, Echo, MAX_BEAT, Refused, Unverified, encode_echo},
    limit::Throttle,
};
use crate::{
    arbiter::handle::Seen,
    config::{Config, Source},
    model::{ClusterName, Fact, MemberName, Observer, Outcome, SignalName, status::PrimaryView},
};

/// Live sessions of one stream: a member whose agent restarts begins a new one.
const SESSIONS: usize = 4;
/// Datagrams taken before what they said is handed on.
const BATCH: usize = 256;
/// What the kernel may keep for us while we are busy.
const RECEIVE_BUFFER: usize = 4 << 20;
/// When the decision's queue was full, what is left over is tried again after this.
const RETRY: Duration = Duration::from_millis(1);

pub(super) async fn bind(address: SocketAddr) -> Result<UdpSocket, StartError> {
    let socket = UdpSocket::bind(address).await.map_err(|source| StartError::Listen {
        on: format!("udp {address} (arbiter.udp)"),
        remedy: "choose an address of this host whose port is free",
        source,
    })?;
    // The kernel caps it at net.core.rmem_max; less only means that a burst loses more.
    let _ = setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER);
    Ok(socket)
}

/// Takes heartbeats until the arbiter stops.
pub(super) async fn run(socket: UdpSocket, shared: Arc<Shared>) {
    let mut listener = Listener::new(shared);
    // One byte more than allowed, so that an oversized datagram shows.
    let mut buffer = [0; MAX_BEAT + 1];
    loop {
        let readable = tokio::select! {
            () = listener.shared.stopping.cancelled() => return,
            readable = socket.readable() => readable,
            () = sleep(RETRY), if !listener.pending.is_empty() => Ok(()),
        };
        if readable.is_err() {
            sleep(RETRY).await;
            continue;
        }
        listener.refresh();
        let now = listener.shared.clock.elapsed();
        let mut is_flood = true;
        for _ in 0..BATCH {
            match socket.try_recv_from(&mut buffer) {
                Ok((length, from)) => {
                    if let Some(echo) = listener.take(now, buffer.get(..length).unwrap_or_default()) {
                        // A full send buffer loses the echo, as the network may.
                        let _ = socket.try_send_to(&echo, from);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    is_flood = false;
                    break;
                }
                // An ICMP error of an earlier echo; it says nothing of the next datagram.
                Err(_) => {}
            }
        }
        listener.flush();
        if is_flood {
            tokio::task::yield_now().await;
        }
    }
}

/// One member's heartbeat signal.
struct Stream {
    cluster: ClusterName,
    member: MemberName,
    signal: SignalName,
    sessions: Vec<Session>,
    /// The newest beat that the decision has not taken yet, and whether any since was echoed.
    pending: Option<(u64, bool)>,
}

/// One life of a sender.
#[derive(Clone, Copy, Debug)]
struct Session {
    id: u64,
    seq: u64,
    challenge: u64,
    echoed: u64,
    used: u64,
}

struct ClusterBeats {
    view: Option<watch::Receiver<PrimaryView>>,
    /// The heartbeat signals; a stream's place is the member's plus the signal's.
    signals: Vec<SignalName>,
    members: HashMap<MemberName, usize>,
}

struct Counters {
    taken: IntCounter,
    refused: [(IntCounter, Throttle); Refused::ALL.len()],
}

pub(super) struct Listener {
    shared: Arc<Shared>,
    access: Arc<AccessTable>,
    clusters: HashMap<ClusterName, ClusterBeats>,
    streams: Vec<Stream>,
    /// The streams that have something pending.
    pending: Vec<usize>,
    counters: Counters,
    random: SystemRandom,
    uses: u64,
}

impl Listener {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let refused = Refused::ALL
            .map(|reason| (shared.metrics.rejected.with_label_values(&["udp", reason.as_str()]), Throttle::new()));
        let taken = shared.metrics.ingested.with_label_values(&["udp", "heartbeat"]);
        let mut new = Self {
            access: shared.access(),
            shared,
            clusters: HashMap::new(),
            streams: Vec::new(),
            pending: Vec::new(),
            counters: Counters { taken, refused },
            random: SystemRandom::new(),
            uses: 0,
        };
        new.rebuild();
        new
    }

    /// Takes one datagram for itself, and hands on at once what it told.
    pub(super) fn take_now(&mut self, datagram: &[u8]) -> Option<[u8; ECHO_LEN]> {
        self.refresh();
        let echo = self.take(self.shared.clock.elapsed(), datagram);
        self.flush();
        echo
    }

    /// Follows a reload. Sessions live on, so that what was recorded before it cannot be replayed after it.
    fn refresh(&mut self) {
        let access = self.shared.access();
        if !Arc::ptr_eq(&access, &self.access) {
            self.access = access;
            self.rebuild();
        }
    }

    fn rebuild(&mut self) {
        let mut old: HashMap<_, _> = self
            .streams
            .drain(..)
            .map(|stream| ((stream.cluster, stream.member, stream.signal), stream.sessions))
            .collect();
        self.pending.clear();
        self.clusters.clear();
        let config: Arc<Config> = Arc::clone(&self.access.config);
        for (cluster, policy) in &config.policy.clusters {
            let Some(parts) = config.clusters.get(cluster) else { continue };
            let heartbeats = parts.sources.iter().filter(|(_, source)| matches!(source, Source::Heartbeats));
            let signals: Vec<_> = heartbeats.map(|(signal, _)| signal.clone()).collect();
            let mut members = HashMap::new();
            for member in &policy.members {
                members.insert(member.name.clone(), self.streams.len());
                for signal in &signals {
                    let key = (cluster.clone(), member.name.clone(), signal.clone());
                    let sessions = old.remove(&key).unwrap_or_default();
                    let (cluster, member, signal) = key;
                    self.streams.push(Stream { cluster, member, signal, sessions, pending: None });
                }
            }
            let view = self.shared.handle.primary(cluster);
            self.clusters.insert(cluster.clone(), ClusterBeats { view, signals, members });
        }
        self.count_sessions();
    }

    fn count_sessions(&self) {
        let count: usize = self.streams.iter().map(|stream| stream.sessions.len()).sum();
        self.shared.metrics.udp_sessions.set(count.try_into().unwrap_or(i64::MAX));
    }

    /// Takes one datagram; the echo, if it deserves one.
    fn take(&mut self, now: Duration, datagram: &[u8]) -> Option<[u8; ECHO_LEN]> {
        match self.judge(now, datagram) {
            Ok(echo) => {
                self.counters.taken.inc();
                Some(echo)
            }
            Err(refused) => {
                if let Some((counter, throttle)) = self.counters.refused.get(refused as usize) {
                    counter.inc();
                    if let Some(held_back) = throttle.pass(&self.shared.clock) {
                        tracing::warn!(reason = %refused, held_back, "A heartbeat over UDP was refused.");
                    }
                }
                None
            }
        }
    }

    fn judge(&mut self, now: Duration, datagram: &[u8]) -> Result<[u8; ECHO_LEN], Refused> {
        let unverified = Unverified::parse(datagram)?;
        let access = Arc::clone(&self.access);
        let identity = access.named(unverified.sender()).ok_or(Refused::UnknownSender)?;
        let key = identity.key.as_ref().ok_or(Refused::UnknownSender)?;
        let beat = unverified.verify(key)?;
        if !identity.udp.take(now, 1.0) {
            return Err(Refused::Flood);
        }
        if !identity.may_report_as(beat.member) {
            return Err(Refused::Forbidden);
        }
        let cluster = self.clusters.get(beat.cluster).ok_or(Refused::UnknownName)?;
        let first = *cluster.members.get(beat.member).ok_or(Refused::UnknownName)?;
        let place = match (beat.signal, cluster.signals.len()) {
            ("", 1) => 0,
            (named, _) => cluster.signals.iter().position(|s| s.as_str() == named).ok_or(Refused::UnknownName)?,
        };
        let epoch = cluster.view.as_ref().map_or(0, |view| view.borrow().epoch.0);
        self.uses += 1;
        let index = first + place;
        let stream = self.streams.get_mut(index).ok_or(Refused::UnknownName)?;
        let before = stream.sessions.len();
        let (echoed, challenge) = accept(&mut stream.sessions, &beat, self.uses, || fresh(&self.random))?;
        let grown = stream.sessions.len() != before;
        match &mut stream.pending {
            None => {
                stream.pending = Some((beat.seq, echoed));
                self.pending.push(index);
            }
            Some((seq, any_echoed)) => {
                *seq = beat.seq;
                *any_echoed |= echoed;
                self.shared.metrics.coalesced.inc();
            }
        }
        if grown {
            self.count_sessions();
        }
        Ok(encode_echo(key, &Echo { session: beat.session, seq: beat.seq, challenge, epoch }))
    }

    /// Hands on the newest beat of each stream; what the queue does not take waits, and newer beats replace it.
    fn flush(&mut self) {
        while let Some(&index) = self.pending.last() {
            let Some(stream) = self.streams.get_mut(index) else { break };
            if let Some((seq, echoed)) = stream.pending {
                let seen = Seen {
                    cluster: stream.cluster.clone(),
                    signal: stream.signal.clone(),
                    observer: Observer::Member(stream.member.clone()),
                    subject: Some(stream.member.clone()),
                    outcome: Outcome::Fact(Fact::Beat { seq, echoed }),
                };
                if self.shared.handle.observe(seen).is_err() {
                    return;
                }
                stream.pending = None;
            }
            self.pending.pop();
        }
    }
}

/// A challenge that nobody can guess. Without randomness, 0: no beat counts as echoed then.
fn fresh(random: &SystemRandom) -> u64 {
    let mut bytes = [0; 8];
    if random.fill(&mut bytes).is_err() {
        return 0;
    }
    u64::from_be_bytes(bytes)
}

/// Takes a verified beat into its session. Returns whether it proves the link both ways, and the session's challenge.
fn accept(
    sessions: &mut Vec<Session>,
    beat: &Beat<'_>,
    used: u64,
    challenge: impl FnOnce() -> u64,
) -> Result<(bool, u64), Refused> {
    if let Some(session) = sessions.iter_mut().find(|session| session.id == beat.session) {
        if beat.seq <= session.seq {
            return Err(Refused::Replayed);
        }
        let returned = session.challenge != 0 && beat.challenge == session.challenge;
        let echoed = returned && beat.echoed > session.echoed && beat.echoed <= session.seq;
        if echoed {
            session.echoed = beat.echoed;
        }
        session.seq = beat.seq;
        session.used = used;
        return Ok((echoed, session.challenge));
    }
    if sessions.len() == SESSIONS {
        // A replay of an old session must not push out a live one: first go those that proved nothing.
        let oldest = sessions.iter().enumerate().min_by_key(|(_, session)| (session.echoed > 0, session.used));
        if let Some((place, _)) = oldest {
            sessions.swap_remove(place);
        }
    }
    let challenge = challenge();
    sessions.push(Session { id: beat.session, seq: beat.seq, challenge, echoed: 0, used });
    Ok((false, challenge))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(session: u64, seq: u64, echoed: u64, challenge: u64) -> Beat<'static> {
        Beat { sender: "a", cluster: "c", member: "a", signal: "", session, seq, echoed, challenge }
    }

    #[test]
    fn only_our_own_challenge_and_a_new_echo_prove_the_link() {
        let mut sessions = Vec::new();
        let mut take = |beat: &Beat<'_>| accept(&mut sessions, beat, 0, || 77);
        assert_eq!(take(&beat(1, 1, 0, 0)), Ok((false, 77)));
        assert_eq!(take(&beat(1, 2, 1, 77)), Ok((true, 77)));
        assert_eq!(take(&beat(1, 3, 1, 77)), Ok((false, 77)), "the echo of 1 proves nothing twice");
        assert_eq!(take(&beat(1, 4, 3, 78)), Ok((false, 77)), "the challenge of another life");
        assert_eq!(take(&beat(1, 5, 9, 77)), Ok((false, 77)), "9 was never echoed");
        assert_eq!(take(&beat(1, 5, 4, 77)), Err(Refused::Replayed));
        assert_eq!(take(&beat(1, 6, 5, 77)), Ok((true, 77)));
    }

    #[test]
    fn replayed_sessions_do_not_push_out_a_live_one() {
        let mut sessions = Vec::new();
        accept(&mut sessions, &beat(1, 1, 0, 0), 1, || 7).unwrap();
        accept(&mut sessions, &beat(1, 2, 1, 7), 2, || 7).unwrap();
        for (used, session) in (3..).zip(100..200) {
            accept(&mut sessions, &beat(session, 1, 0, 0), used, || 8).unwrap();
        }
        assert_eq!(sessions.len(), SESSIONS);
        assert_eq!(accept(&mut sessions, &beat(1, 3, 2, 7), 999, || 9), Ok((true, 7)));
    }

    #[test]
    fn refusals_stand_in_the_order_of_their_counters() {
        for (place, reason) in Refused::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place);
        }
    }
}

//! Paths and sessions: which links are up, who lives which life, how a message travels, what is passed on for others.
//!
//! A message always goes directly. Where the direct link is in doubt, a copy goes through every other party whose direct
//! link is fresh; each passes it on once, and the hops count down. The receiver handles the first copy.
//!
//! A peer's life is learned only from its answer to our own `Hello`, and a message is handled only if it names our life
//! and comes from the peer's present one: nothing recorded earlier, and nothing that lay in a queue over a restart of
//! either side, is ever handled.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use super::{
    envelope::{self, Bad, Envelope},
    keys::{PrivateKey, PublicKey},
    message::{Body, Life, Message},
    party::{Health, LinkHealth, Setup},
    session::{PassedOn, Window},
};
use crate::model::{PartyName, Time};

/// `Hello` and `Welcome` go to one peer at most this often: nobody makes us talk by playing old messages to us.
const GREET_EVERY: Duration = Duration::from_millis(10);

/// Questions remembered per peer.
const QUESTIONS: usize = 16;

/// Bytes, and where they go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// The address.
    pub to: SocketAddr,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// What came of a datagram.
#[derive(Debug)]
pub enum Incoming {
    /// A peer answered for the first time in its present life.
    Learned(PartyName),
    /// A message for this party, handled once: signed, for this life, from the peer's present life.
    Message {
        /// From whom.
        from: PartyName,
        /// Its number.
        seq: u64,
        /// What.
        body: Body,
        /// Whether nobody passed it on.
        is_direct: bool,
    },
}

#[derive(Debug)]
struct Peer {
    key: PublicKey,
    address: SocketAddr,
    life: Option<Life>,
    window: Window,
    hellos: VecDeque<u64>,
    hello_at: Option<Time>,
    welcome_at: Option<Time>,
    pings: VecDeque<(u64, Time)>,
    /// When the newest `Ping` that was answered directly had been sent.
    direct_at: Option<Time>,
    round_trip: Option<Duration>,
    any_at: Option<Time>,
    /// When anything of it came last that nobody had passed on, its questions among it.
    heard_direct_at: Option<Time>,
    /// When somebody last signed in its name with another key than the file's.
    bad_signature_at: Option<Time>,
    /// When it last turned out that its file and ours disagree on what keeps leases safe.
    differs_at: Option<Time>,
    /// The newest message of it came through another: so may the answer have to.
    is_detoured: bool,
}

/// The paths and sessions of one party.
#[derive(Debug)]
pub struct Route {
    me: PartyName,
    life: Life,
    keys: PrivateKey,
    relays: bool,
    ping_every: Duration,
    ping_due: Time,
    peers: BTreeMap<PartyName, Peer>,
    newest_seq: u64,
    passed_on: PassedOn,
    outgoing: Vec<Datagram>,
    counts: BTreeMap<&'static str, u64>,
}

impl Route {
    /// Knows nobody's life yet.
    #[must_use]
    pub fn new(now: Time, setup: &Setup, keys: PrivateKey) -> Self {
        let peer = |(name, peer): (&PartyName, &super::party::PeerSetup)| {
            let peer = Peer {
                key: PublicKey(peer.public_key),
                address: peer.address,
                life: None,
                window: Window::default(),
                hellos: VecDeque::new(),
                hello_at: None,
                welcome_at: None,
                pings: VecDeque::new(),
                direct_at: None,
                round_trip: None,
                any_at: None,
                heard_direct_at: None,
                bad_signature_at: None,
                differs_at: None,
                is_detoured: false,
            };
            (name.clone(), peer)
        };
        Self {
            me: setup.me.clone(),
            life: setup.life,
            keys,
            relays: setup.relays,
            ping_every: setup.ping_every.max(Duration::from_millis(1)),
            ping_due: now,
            peers: setup.parties.iter().filter(|(name, _)| **name != setup.me).map(peer).collect(),
            newest_seq: 0,
            passed_on: PassedOn::default(),
            outgoing: Vec::new(),
            counts: BTreeMap::new(),
        }
    }

    /// Counts what became of something.
    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// A peer's file and ours disagree on what keeps leases safe.
    pub fn note_difference(&mut self, now: Time, peer: &PartyName) {
        self.count("safety_differs");
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.differs_at = Some(now);
        }
    }

    /// What is to be sent, since this was last asked.
    pub fn take_outgoing(&mut self) -> Vec<Datagram> {
        std::mem::take(&mut self.outgoing)
    }

    /// When links are tried next.
    #[must_use]
    pub const fn next_ping(&self) -> Time {
        self.ping_due
    }

    /// Tries the links, if it is time.
    pub fn handle_timeout(&mut self, now: Time) {
        if self.ping_due > now {
            return;
        }
        self.ping_due = now + self.ping_every;
        let names: Vec<_> = self.peers.keys().cloned().collect();
        for name in names {
            let Some(peer) = self.peers.get(&name) else { continue };
            let Some(life) = peer.life else {
                self.hello(now, &name);
                continue;
            };
            let number = self.newest_seq + 1;
            let Some((_, bytes)) = self.sign(&name, life, Body::Ping { number }) else { continue };
            let Some(peer) = self.peers.get_mut(&name) else { continue };
            remember(&mut peer.pings, (number, now));
            self.outgoing.push(Datagram { to: peer.address, bytes });
        }
    }

    /// Sends a message, by a detour too where the direct link is in doubt or the caller has reason to doubt it. The
    /// number of the message; `Err(TooLarge)`: nothing was sent; `Ok(None)`: its life is not known, a `Hello` went out.
    ///
    /// # Errors
    /// The message is too large.
    pub fn send(&mut self, now: Time, to: &PartyName, body: Body, is_doubted: bool) -> Result<Option<u64>, Bad> {
        let Some(peer) = self.peers.get(to) else {
            self.count("unknown_party");
            return Ok(None);
        };
        let Some(life) = peer.life else {
            self.hello(now, to);
            return Ok(None);
        };
        let is_doubted = is_doubted || peer.is_detoured;
        let (seq, bytes) = self.write(to, life, body)?;
        self.dispatch(now, to, bytes, is_doubted);
        Ok(Some(seq))
    }

    /// A datagram came.
    pub fn receive(&mut self, now: Time, bytes: &[u8], source: SocketAddr) -> Option<Incoming> {
        let envelope = match Envelope::read(bytes) {
            Ok(envelope) => envelope,
            Err(bad) => {
                self.count(match bad {
                    Bad::TooLarge => "too_large",
                    Bad::NotOurs => "not_ours",
                    Bad::Hops => "too_many_hops",
                    Bad::Malformed => "malformed",
                });
                return None;
            }
        };
        let from = envelope.message.from.clone();
        let Some(peer) = self.peers.get(&from) else {
            self.count("unknown_party");
            return None;
        };
        // A copy that took another path costs no verification: whoever wrote it, nothing would come of it.
        let Message { from_life, to, to_life, seq, .. } = &envelope.message;
        if *to != self.me && self.passed_on.is_known(&from, *from_life, *seq) {
            self.count("relayed_before");
            return None;
        }
        let is_present = *to == self.me && *to_life == self.life && peer.life == Some(*from_life);
        if is_present && peer.window.is_known(*seq) {
            self.count("replayed");
            return None;
        }
        if !envelope.is_signed_by(&peer.key) {
            self.count("bad_signature");
            if let Some(peer) = self.peers.get_mut(&from) {
                peer.bad_signature_at = Some(now);
            }
            return None;
        }
        if envelope.message.to != self.me {
            self.pass_on(now, &envelope, source);
            return None;
        }
        self.accept(now, envelope)
    }

    fn accept(&mut self, now: Time, envelope: Envelope) -> Option<Incoming> {
        let is_direct = envelope.is_direct();
        let Message { from, from_life, to_life, seq, body, .. } = envelope.message;
        let is_for_me = to_life == self.life;
        let peer = self.peers.get_mut(&from)?;
        match body {
            Body::Hello { number } => {
                if is_direct {
                    peer.heard_direct_at = Some(now);
                }
                let is_known = peer.life == Some(from_life);
                let is_due = peer.welcome_at.is_none_or(|at| at + GREET_EVERY <= now);
                if !is_due {
                    self.count("greeted_enough");
                    return None;
                }
                peer.welcome_at = Some(now);
                // The question goes first, so that the answer comes before whatever our welcome sets off.
                if !is_known {
                    self.hello(now, &from);
                }
                if let Ok((_, bytes)) = self.write(&from, from_life, Body::Welcome { number }) {
                    self.dispatch(now, &from, bytes, !is_direct);
                }
                return None;
            }
            Body::Welcome { number } => {
                if !is_for_me || !peer.hellos.contains(&number) {
                    self.count("replayed");
                    return None;
                }
                peer.hellos.retain(|asked| *asked > number);
                peer.any_at = Some(now);
                if is_direct {
                    peer.heard_direct_at = Some(now);
                }
                peer.is_detoured = !is_direct;
                if peer.life == Some(from_life) {
                    return None;
                }
                peer.life = Some(from_life);
                peer.window = Window::default();
                peer.pings.clear();
                // The link is tried at once: others may wait for this one to pass their messages on.
                self.ping_due = now;
                return Some(Incoming::Learned(from));
            }
            _ => {}
        }
        if !is_for_me || peer.life != Some(from_life) {
            self.count("wrong_life");
            self.hello(now, &from);
            return None;
        }
        if !peer.window.is_new(seq) {
            self.count("replayed");
            return None;
        }
        peer.any_at = Some(now);
        if is_direct {
            peer.heard_direct_at = Some(now);
        }
        match body {
            Body::Ping { number } => {
                if let (true, Some((_, bytes))) = (is_direct, self.sign(&from, from_life, Body::Pong { number })) {
                    let to = self.peers.get(&from)?.address;
                    self.outgoing.push(Datagram { to, bytes });
                }
                None
            }
            Body::Pong { number } => {
                let sent = peer.pings.iter().find(|(asked, _)| *asked == number).map(|(_, at)| *at)?;
                peer.pings.retain(|(asked, _)| *asked > number);
                if is_direct {
                    peer.direct_at = peer.direct_at.max(Some(sent));
                    peer.round_trip = Some(now.since(sent));
                }
                None
            }
            body => {
                peer.is_detoured = !is_direct;
                self.count("handled");
                Some(Incoming::Message { from, seq, body, is_direct })
            }
        }
    }

    /// Asks for a peer's life, not too often.
    fn hello(&mut self, now: Time, to: &PartyName) {
        let number = self.newest_seq + 1;
        let Some(peer) = self.peers.get_mut(to) else { return };
        if peer.hello_at.is_some_and(|at| at + GREET_EVERY > now) {
            return;
        }
        peer.hello_at = Some(now);
        remember(&mut peer.hellos, number);
        let is_doubted = peer.is_detoured;
        if let Some((_, bytes)) = self.sign(to, Life::UNKNOWN, Body::Hello { number }) {
            self.dispatch(now, to, bytes, is_doubted);
        }
    }

    fn pass_on(&mut self, now: Time, envelope: &Envelope, source: SocketAddr) {
        let message = &envelope.message;
        if !self.relays || matches!(message.body, Body::Ping { .. } | Body::Pong { .. }) {
            return self.count("not_relayed");
        }
        let Some(address) = self.peers.get(&message.to).map(|peer| peer.address) else {
            return self.count("unknown_party");
        };
        let Some(bytes) = envelope.passed_on() else {
            return self.count("hops_used_up");
        };
        if !self.passed_on.is_new(&message.from, message.from_life, message.seq) {
            return self.count("relayed_before");
        }
        self.count("relayed");
        if !self.is_fresh(now, &message.to) {
            let ways = self.peers.iter().filter(|(name, peer)| {
                **name != message.from && **name != message.to && peer.address != source && self.is_up(now, peer)
            });
            let copies: Vec<_> = ways.map(|(_, peer)| Datagram { to: peer.address, bytes: bytes.clone() }).collect();
            self.outgoing.extend(copies);
        }
        self.outgoing.push(Datagram { to: address, bytes });
    }

    fn dispatch(&mut self, now: Time, to: &PartyName, bytes: Vec<u8>, is_doubted: bool) {
        let Some(address) = self.peers.get(to).map(|peer| peer.address) else { return };
        if self.relays && (is_doubted || !self.is_fresh(now, to)) {
            let ways = self.peers.iter().filter(|(name, peer)| *name != to && self.is_up(now, peer));
            let copies: Vec<_> = ways.map(|(_, peer)| Datagram { to: peer.address, bytes: bytes.clone() }).collect();
            self.outgoing.extend(copies);
        }
        self.outgoing.push(Datagram { to: address, bytes });
    }

    fn sign(&mut self, to: &PartyName, to_life: Life, body: Body) -> Option<(u64, Vec<u8>)> {
        self.write(to, to_life, body).ok()
    }

    fn write(&mut self, to: &PartyName, to_life: Life, body: Body) -> Result<(u64, Vec<u8>), Bad> {
        let seq = self.newest_seq + 1;
        let message = Message { from: self.me.clone(), from_life: self.life, to: to.clone(), to_life, seq, body };
        let bytes = envelope::write(&message, &self.keys)?;
        self.newest_seq = seq;
        Ok((seq, bytes))
    }

    fn is_up(&self, now: Time, peer: &Peer) -> bool {
        // Three tries without an answer, and half a period for the way back.
        peer.direct_at.is_some_and(|at| now.since(at) <= self.ping_every * 7 / 2)
    }

    /// Whether the direct link answered of late.
    #[must_use]
    pub fn is_fresh(&self, now: Time, peer: &PartyName) -> bool {
        self.peers.get(peer).is_some_and(|peer| self.is_up(now, peer))
    }

    /// The peers whose direct links answered of late.
    #[must_use]
    pub fn reaches(&self, now: Time) -> Vec<PartyName> {
        self.peers.iter().filter(|(_, peer)| self.is_up(now, peer)).map(|(name, _)| name.clone()).collect()
    }

    fn is_one_way(&self, now: Time, peer: &Peer) -> bool {
        // Less than what makes a link up: one that is cut both ways falls silent before its answers are missed.
        let is_heard = peer.heard_direct_at.is_some_and(|at| now.since(at) <= self.ping_every * 5 / 2);
        is_heard && !self.is_up(now, peer)
    }

    /// The peers that are heard directly and do not answer directly: what is sent to them is lost on the way.
    #[must_use]
    pub fn one_way(&self, now: Time) -> Vec<PartyName> {
        self.peers.iter().filter(|(_, peer)| self.is_one_way(now, peer)).map(|(name, _)| name.clone()).collect()
    }

    /// The peer's life, if it is known.
    #[must_use]
    pub fn life_of(&self, peer: &PartyName) -> Option<Life> {
        self.peers.get(peer).and_then(|peer| peer.life)
    }

    /// Fills in links and counts.
    pub fn report(&self, now: Time, health: &mut Health) {
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        let age = |at: Option<Time>| at.map(|at| ms(now.since(at)));
        for (name, peer) in &self.peers {
            let link = LinkHealth {
                direct_age_ms: age(peer.direct_at),
                any_age_ms: age(peer.any_at),
                round_trip_ms: peer.round_trip.map(ms),
                is_up: self.is_up(now, peer),
                is_one_way: self.is_one_way(now, peer),
                bad_signature_age_ms: age(peer.bad_signature_at),
                differs_age_ms: age(peer.differs_at),
            };
            health.links.insert(name.clone(), link);
        }
        health.counts = self.counts.iter().map(|(what, count)| ((*what).to_owned(), *count)).collect();
    }
}

fn remember<T>(known: &mut VecDeque<T>, new: T) {
    if known.len() >= QUESTIONS {
        known.pop_front();
    }
    known.push_back(new);
}

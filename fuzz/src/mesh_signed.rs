//! Real, signed datagrams among known parties, and what others make of them: signed by the wrong one, played again,
//! damaged, for another life, out of order. One party is asked; this target holds the keys of all others.

use std::{collections::BTreeSet, time::Duration};

use coroner::{
    lease::arithmetic::safety_hash,
    mesh::{
        envelope::{self, Envelope, SIZE_LIMIT},
        message::{Beat, Body, DeedOrder, GrantRefusal, Life, Message, Renew},
        party::{Durable, Input, Output, Party},
    },
    model::{
        ClusterName, Done, Epoch, PartyName, StepResult,
        agent::{Deed, DeedResult, GateState, MemberReport, OrderId, Refusal},
        observation::Arrivals,
        time::Moment,
    },
};

use super::{
    Reached,
    draw::Draw,
    mesh::{CLUSTER, MY_LIFE, NAMES, address, begin, key_of, lease, own_key, public_key_of, setup},
};

/// What one thing that happens may set off.
const OUTPUTS: usize = 96;

/// Somebody else, played by the input.
struct Peer {
    life: u64,
    seq: u64,
    /// The number of its question to this peer that is not answered yet.
    asked: Option<u64>,
}

/// A datagram that somebody signed rightly.
struct Sent {
    bytes: Vec<u8>,
    from: usize,
    body: Body,
    is_for_me: bool,
    /// One that came before its sender's life was known was not, and may be when it comes again.
    was_handled: bool,
}

struct World {
    me: usize,
    party: Party,
    now: Moment,
    peers: Vec<Peer>,
    sent: Vec<Sent>,
    /// The challenges that the party issued in its beats.
    challenges: BTreeSet<u64>,
    /// The orders that it handed out.
    ordered: BTreeSet<OrderId>,
    sealed: Epoch,
    /// What was said to it last, if it may be believed: by whom, and what.
    said: Option<(usize, Body)>,
    is_taken: bool,
}

pub fn run(input: &[u8]) -> Reached {
    let mut draw = Draw::new(input);
    let me = draw.below(NAMES.len());
    let now = begin();
    let mut world = World {
        me,
        party: Party::new(now, setup(me), own_key(me), Durable::default()),
        now,
        peers: (0..NAMES.len() as u64).map(|index| Peer { life: 100 + index, seq: 0, asked: None }).collect(),
        sent: Vec::new(),
        challenges: BTreeSet::new(),
        ordered: BTreeSet::new(),
        sealed: Epoch::ZERO,
        said: None,
        is_taken: false,
    };
    world.drain();
    // Whom it knows from the start.
    let known = draw.byte();
    for peer in (0..NAMES.len()).filter(|peer| known >> peer & 1 == 0) {
        world.welcome(peer);
    }
    for _ in 0..96 {
        if draw.is_empty() {
            break;
        }
        world.step(&mut draw);
    }
    Reached::of(world.is_taken)
}

impl World {
    fn step(&mut self, draw: &mut Draw<'_>) {
        let peer = match draw.below(NAMES.len()) {
            peer if peer == self.me => (peer + 1) % NAMES.len(),
            peer => peer,
        };
        match draw.below(12) {
            0 => {
                self.said = None;
                self.now = self.now + Duration::from_millis(u64::from(draw.byte()));
                self.party.handle_timeout(self.now);
                self.drain();
            }
            1 => self.welcome(peer),
            2..=5 => {
                let body = self.body(draw);
                self.say(peer, self.me, peer, None, body);
            }
            // In somebody else's name.
            6 => {
                let body = self.body(draw);
                let liar = (peer + 1 + draw.below(NAMES.len() - 1)) % NAMES.len();
                // It signs for the others as well as it can; its own key nobody has.
                let bytes = self.write(peer, self.me, liar, None, body);
                self.must_be_refused(bytes);
            }
            7 => {
                let body = self.body(draw);
                let life = draw.number();
                if life != MY_LIFE {
                    let bytes = self.write(peer, self.me, peer, Some(life), body);
                    self.must_be_refused(bytes);
                }
            }
            8 if !self.sent.is_empty() => {
                let at = usize::from(draw.short()) % self.sent.len();
                let Sent { bytes, from, body, is_for_me, was_handled } = &self.sent[at];
                let (bytes, told) = (bytes.clone(), (*from, body.clone()));
                if *was_handled || !is_for_me {
                    self.must_be_refused(bytes);
                } else {
                    self.sent[at].was_handled = self.tell(&bytes, told);
                }
            }
            9 if !self.sent.is_empty() => {
                let at = usize::from(draw.short()) % self.sent.len();
                let mut bytes = self.sent[at].bytes.clone();
                let (place, change) = (usize::from(draw.short()) % bytes.len(), draw.byte());
                // The hops are nobody's to sign: whoever passes it on counts them down.
                if place != 4 && change != 0 {
                    bytes[place] ^= change;
                    self.must_be_refused(bytes);
                }
            }
            10 => self.pass_by(draw, peer),
            _ => self.happen(draw),
        }
    }

    /// The peer tells its life, if it was asked.
    fn welcome(&mut self, peer: usize) {
        if let Some(number) = self.peers[peer].asked.take() {
            self.say(peer, self.me, peer, None, Body::Welcome { number });
        }
    }

    fn write(&mut self, from: usize, to: usize, key: usize, to_life: Option<u64>, body: Body) -> Vec<u8> {
        self.peers[from].seq += 1;
        let (from_life, seq) = (Life(self.peers[from].life), self.peers[from].seq);
        let to_life = to_life.unwrap_or(if to == self.me { MY_LIFE } else { self.peers[to].life });
        let message =
            Message { from: NAMES[from].into(), from_life, to: NAMES[to].into(), to_life: Life(to_life), seq, body };
        envelope::write(&message, key_of(key)).unwrap_or_default()
    }

    /// Said rightly, by who it is.
    fn say(&mut self, from: usize, to: usize, key: usize, to_life: Option<u64>, body: Body) {
        let bytes = self.write(from, to, key, to_life, body.clone());
        let was_handled = self.tell(&bytes, (from, body.clone()));
        if !bytes.is_empty() {
            self.sent.push(Sent { bytes, from, body, is_for_me: true, was_handled });
        }
    }

    /// Something that may be believed comes. Answers whether it was handled.
    fn tell(&mut self, bytes: &[u8], said: (usize, Body)) -> bool {
        let before = self.handled();
        self.said = Some(said);
        self.feed(bytes);
        assert!(self.handled() <= before + 1, "handled twice");
        self.is_taken |= self.handled() > before;
        self.handled() > before
    }

    /// A message that is not for this party: passed on or not, and never handled.
    fn pass_by(&mut self, draw: &mut Draw<'_>, peer: usize) {
        let to = (self.me + 1 + draw.below(NAMES.len() - 1)) % NAMES.len();
        let body = self.body(draw);
        let bytes = self.write(peer, to, peer, None, body.clone());
        let before = self.handled();
        self.said = None;
        self.feed(&bytes);
        assert_eq!(self.handled(), before, "handled, though it is for {}", NAMES[to]);
        if !bytes.is_empty() {
            self.sent.push(Sent { bytes, from: peer, body, is_for_me: false, was_handled: false });
        }
    }

    /// Whatever it is, it is handled by nobody, and changes nothing that is remembered.
    fn must_be_refused(&mut self, bytes: Vec<u8>) {
        let (before, durable) = (self.handled(), self.party.durable());
        self.said = None;
        self.feed(&bytes);
        assert_eq!(self.handled(), before, "handled, though it must not be");
        assert_eq!(self.party.durable(), durable, "remembered, though it must not be");
    }

    fn feed(&mut self, bytes: &[u8]) {
        self.party.handle(self.now, Input::Datagram { bytes: bytes.to_vec(), source: address(3) });
        self.drain();
    }

    fn handled(&self) -> u64 {
        self.party.health(self.now).counts.get("handled").copied().unwrap_or(0)
    }

    /// Something happens on the party's own host.
    fn happen(&mut self, draw: &mut Draw<'_>) {
        let cluster = || CLUSTER.into();
        let input = match draw.below(8) {
            0 | 1 => {
                let report = MemberReport {
                    gate: if draw.flag() { GateState::Open } else { GateState::Closed },
                    role_age: draw.flag().then(|| Duration::from_millis(draw.number())),
                    ..MemberReport::default()
                };
                Input::Member { cluster: cluster(), report: Box::new(report), may_renew: draw.below(4) != 0 }
            }
            2 => Input::Starting { cluster: cluster() },
            3 => Input::GiveUp { cluster: cluster() },
            4 => Input::Seal { cluster: cluster(), epoch: Epoch(draw.number()) },
            5 => Input::WithdrawSeal { cluster: cluster() },
            6 => {
                let order = self.order(draw);
                Input::Order { to: NAMES[draw.below(NAMES.len())].into(), order: Box::new(order) }
            }
            _ => {
                let arrivals = Arrivals {
                    received: draw.number(),
                    last_age: draw.flag().then(|| Duration::from_millis(draw.number())),
                    ..Arrivals::default()
                };
                Input::Node { cluster: cluster(), arrivals }
            }
        };
        self.said = None;
        self.party.handle(self.now, input);
        self.drain();
        if draw.flag()
            && let Some(id) = self.ordered.first().cloned()
        {
            let result = DeedResult::Ended(Box::new(StepResult::Done(Done::new("done"))));
            self.party.handle(self.now, Input::Answered { id, result });
            self.drain();
        }
    }

    fn order(&self, draw: &mut Draw<'_>) -> DeedOrder {
        let challenge = match draw.below(4) {
            0 => draw.number(),
            _ => self.challenges.last().copied().unwrap_or(1),
        };
        let deed = match draw.below(9) {
            0..=2 => Deed::Appoint,
            3 => Deed::Fence { name: "gate".into(), preserve: Duration::ZERO },
            4 => Deed::Unfence { name: "gate".into() },
            5 => Deed::Promote,
            6 => Deed::Position,
            7 => Deed::MakeReadOnly,
            _ => Deed::Redirect { primary: "a".into(), address: "10.0.0.2:1".into(), fenced: vec!["b".into()] },
        };
        DeedOrder {
            id: OrderId { incident: "i".into(), number: u32::from(draw.byte()) },
            cluster: if draw.below(8) == 7 { "other".into() } else { CLUSTER.into() },
            member: draw.one_of(&["a", "a", "b", "node-1"]).into(),
            epoch: Epoch(draw.number()),
            challenge,
            deed,
            deadline: Duration::from_millis(u64::from(draw.short())),
        }
    }

    fn body(&self, draw: &mut Draw<'_>) -> Body {
        let cluster: ClusterName = if draw.below(16) == 15 { "other".into() } else { CLUSTER.into() };
        let safety = if draw.below(8) == 0 { draw.number() } else { safety_hash(&lease()) };
        match draw.below(13) {
            0 => Body::Hello { number: draw.number() },
            1 => Body::Welcome { number: draw.number() },
            2 => Body::Ping { number: draw.number() },
            3 => Body::Pong { number: draw.number() },
            4 => Body::Beat(Box::new(Beat {
                challenge: draw.number(),
                reaches: vec!["arbiter".into()],
                one_way: Vec::new(),
                members: vec![(
                    cluster,
                    "a".into(),
                    MemberReport { epoch: Epoch(draw.number()), ..MemberReport::default() },
                )],
                nodes: Vec::new(),
            })),
            5 => Body::BeatHeard { seq: draw.number() },
            6 => Body::Renew(Renew {
                cluster,
                member: draw.one_of(&["a", "b", "node-1"]).into(),
                epoch: Epoch(draw.number()),
                request: draw.number(),
                safety,
            }),
            7 => Body::Granted { cluster, epoch: Epoch(draw.number()), request: draw.number() },
            8 => Body::Refused {
                cluster,
                request: draw.number(),
                sealed: Epoch(draw.number()),
                why: GrantRefusal::Sealed,
            },
            9 => Body::Seal { cluster, epoch: Epoch(draw.number()), safety },
            10 => Body::Sealed { cluster, epoch: Epoch(draw.number()), wait: Duration::from_millis(draw.number()) },
            11 => Body::Answer {
                id: OrderId { incident: "i".into(), number: u32::from(draw.byte()) },
                result: match draw.below(3) {
                    0 => DeedResult::Taken,
                    1 => DeedResult::Refused { why: Refusal::Expired, epoch: Epoch(draw.number()) },
                    _ => DeedResult::Ended(Box::new(StepResult::Done(Done::new("done")))),
                },
            },
            _ => Body::Order(Box::new(self.order(draw))),
        }
    }

    /// Takes what comes out, and looks at all of it.
    fn drain(&mut self) {
        let mut count = 0;
        while let Some(output) = self.party.poll_output() {
            count += 1;
            assert!(count <= OUTPUTS, "one thing that happened set off {count} others, and more");
            match output {
                Output::Send { bytes, .. } => self.look_at_sent(&bytes),
                Output::Persist { id, durable } => {
                    let sealed = durable.clusters.get(CLUSTER).map_or(Epoch::ZERO, |cluster| cluster.sealed);
                    assert!(sealed >= self.sealed, "the sealed epoch went back from {} to {sealed}", self.sealed);
                    self.sealed = sealed;
                    self.party.handle(self.now, Input::Persisted(id));
                }
                Output::Gate { until, .. } => {
                    assert!(NAMES[self.me].len() == 1, "{} has no gate", NAMES[self.me]);
                    let bound = self.now.boot + lease().length;
                    assert!(until.is_none_or(|until| until <= bound), "a gate stays open beyond the lease: {until:?}");
                }
                Output::Ordered(order) => {
                    assert!(
                        matches!(&self.said, Some((0, Body::Order(said))) if **said == *order),
                        "{order:?}: nobody ordered it"
                    );
                    assert!(self.challenges.contains(&order.challenge), "{order:?}: not a challenge of ours");
                    assert!(order.epoch >= self.sealed, "{order:?}: epoch {} is sealed", self.sealed);
                    assert!(self.ordered.insert(order.id.clone()), "{order:?}: handed out twice");
                }
                Output::Heard { from, beat, .. } => {
                    let told = self.said.as_ref().map(|(from, body)| (PartyName::from(NAMES[*from]), body));
                    assert!(self.me == 0 && told == Some((from, &Body::Beat(beat))), "nobody told that");
                }
                Output::Answer { .. } => assert!(self.me == 0, "only an arbiter has orders answered"),
                Output::Sealing(sealing) => {
                    assert!(self.me == 0, "only an arbiter seals");
                    assert!(sealing.over.is_subset(&sealing.sealed), "{sealing:?}");
                    assert_eq!(sealing.is_sealed, sealing.sealed.len() >= 2, "{sealing:?}");
                }
                Output::LeaseOver { .. } => {}
            }
        }
    }

    fn look_at_sent(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= SIZE_LIMIT, "{} bytes were sent", bytes.len());
        let sent = Envelope::read(bytes).expect("what is sent is an envelope");
        let from = NAMES.iter().position(|name| *name == sent.message.from.as_str()).expect("a known sender");
        assert!(sent.is_signed_by(public_key_of(from)), "what is sent nobody signed: {:?}", sent.message);
        if from != self.me {
            let came = self.sent.iter().map(|sent| (&sent.bytes, sent.is_for_me)).collect::<Vec<_>>();
            let is_known = came.iter().any(|(came, is_for_me)| !is_for_me && came[5..] == bytes[5..]);
            // The one that is just being passed on is not written down yet.
            assert!(is_known || sent.message.to.as_str() != NAMES[self.me], "what was for us is passed on");
            return;
        }
        let to = NAMES.iter().position(|name| *name == sent.message.to.as_str()).expect("a known receiver");
        assert_eq!(sent.message.from_life, Life(MY_LIFE));
        match sent.message.body {
            Body::Hello { number } => self.peers[to].asked = Some(number),
            Body::Beat(beat) => {
                self.challenges.insert(beat.challenge);
            }
            _ => {}
        }
    }
}

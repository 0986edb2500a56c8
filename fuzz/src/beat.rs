//! Heartbeats over UDP: no datagram is believed that its named sender did not sign, none twice, and no link is called good
//! both ways on the word of anybody but who got our challenge.

use std::collections::HashMap;

use coroner::{
    api::beat::{Beat, BeatKey, ECHO_LEN, MAX_BEAT, decode_echo, encode_beat},
    model::{Fact, Observer, Outcome},
};
use ring::hmac;

use super::{
    Reached,
    draw::Draw,
    house::{House, IDENTITIES, is_member, may_report_as, token_of},
};

const SENDERS: [&str; 8] = ["redis-a", "redis-b", "nodes", "alertmanager", "grafana", "alice", "nobody", ""];
const CLUSTERS: [&str; 4] = ["orders", "orders", "orders", "other"];
const MEMBERS: [&str; 6] = ["redis-a", "redis-b", "redis-c", "node-1", "nodes", "nobody"];
const SIGNALS: [&str; 4] = ["", "heartbeat", "arrivals", "nothing"];

/// What this side of the wire knows: which challenge it got in which session, and what it sent.
#[derive(Default)]
struct Sender {
    challenges: HashMap<(String, String, u64), u64>,
    sent: Vec<Vec<u8>>,
}

pub fn run(input: &[u8]) -> Reached {
    let mut draw = Draw::new(input);
    let (mut house, mut sender) = (House::new(), Sender::default());
    let mut is_taken = false;
    for _ in 0..64 {
        if draw.is_empty() {
            break;
        }
        let datagram = match draw.below(4) {
            0 => {
                let length = usize::from(draw.short()) % (MAX_BEAT + 64);
                draw.bytes(length).to_vec()
            }
            1 => match sender.sent.len() {
                0 => continue,
                count => sender.sent[draw.below(count)].clone(),
            },
            _ => made(&mut draw, &sender),
        };
        is_taken |= take(&mut house, &mut sender, &datagram);
    }
    Reached::of(is_taken)
}

/// A beat with a good signature, by whoever's key; perhaps damaged after that.
fn made(draw: &mut Draw<'_>, sender: &Sender) -> Vec<u8> {
    let name = draw.one_of(&SENDERS);
    let key = if draw.below(4) == 0 { draw.one_of(&SENDERS) } else { name };
    let (cluster, member, signal) = (draw.one_of(&CLUSTERS), draw.one_of(&MEMBERS), draw.one_of(&SIGNALS));
    let session = draw.number() % 8;
    let got = sender.challenges.get(&(cluster.to_owned(), member.to_owned(), session)).copied();
    let challenge = match draw.below(4) {
        0 => draw.number(),
        _ => got.unwrap_or(0),
    };
    let beat =
        Beat { sender: name, cluster, member, signal, session, seq: draw.number(), echoed: draw.number(), challenge };
    let mut datagram = encode_beat(&BeatKey::new(&token_of(key)), &beat).unwrap_or_default();
    if draw.below(4) == 0 && !datagram.is_empty() {
        let at = usize::from(draw.short()) % datagram.len();
        datagram[at] ^= draw.byte();
    }
    datagram
}

fn take(house: &mut House, sender: &mut Sender, datagram: &[u8]) -> bool {
    let echo = house.datagram(datagram);
    let seen = house.take_seen();
    let Some(echo) = echo else {
        assert!(seen.is_empty(), "nothing was echoed, and this was told: {seen:?}");
        return false;
    };
    let text = |from: usize, length: usize| std::str::from_utf8(&datagram[from..from + length]).expect("a name");
    let number = |at: usize| u64::from_be_bytes(datagram[at..at + 8].try_into().unwrap());
    assert!(datagram.len() <= MAX_BEAT && datagram.len() > ECHO_LEN, "an echo is shorter than what it answers");
    let lengths: Vec<usize> = datagram[5..9].iter().map(|length| usize::from(*length)).collect();
    let name = text(41, lengths[0]);
    let cluster = text(41 + lengths[0], lengths[1]);
    let member = text(41 + lengths[0] + lengths[1], lengths[2]);
    let (session, seq, echoed, challenge) = (number(9), number(17), number(25), number(33));

    // Not by the code that is asked: the signature is that of the named sender's token, over all before it.
    assert!(IDENTITIES.iter().any(|(known, names)| *known == name && !names.is_empty()), "{name} may not report");
    let (signed, mac) = datagram.split_at(datagram.len() - 32);
    let key = hmac::Key::new(hmac::HMAC_SHA256, token_of(name).as_bytes());
    hmac::verify(&key, signed, mac).expect("a datagram was taken that its sender did not sign");
    assert!(may_report_as(name, member), "{name} reported as {member}");
    assert!(cluster == "orders" && is_member(&member.into()), "{cluster}, {member}: there is no such thing");

    let read = decode_echo(&BeatKey::new(&token_of(name)), &echo).expect("the sender cannot read its echo");
    assert_eq!((read.session, read.seq), (session, seq));
    let stream = (cluster.to_owned(), member.to_owned(), session);
    let [told] = seen.as_slice() else { panic!("one beat told {seen:?}") };
    assert_eq!(told.observer, Observer::Member(member.into()));
    assert_eq!(told.subject, Some(member.into()));
    let Outcome::Fact(Fact::Beat { seq: told_seq, echoed: is_echoed }) = told.outcome else { panic!("{told:?}") };
    assert_eq!(told_seq, seq);
    if is_echoed {
        assert!(challenge != 0 && echoed != 0, "a link was called good without an echo");
        assert_eq!(sender.challenges.get(&stream), Some(&challenge), "a link was called good on a challenge not ours");
    }
    sender.challenges.insert(stream, read.challenge);
    sender.sent.push(datagram.to_vec());
    assert!(house.datagram(datagram).is_none() && house.take_seen().is_empty(), "it was taken twice");
    true
}

//! The heartbeat datagram: its format, for senders and for us.
//!
//! All numbers are big-endian. A beat, at most [`MAX_BEAT`] bytes:
//!
//! | offset | bytes | |
//! |---|---|---|
//! | 0 | 4 | `CRN1`: magic and version |
//! | 4 | 1 | 1: a beat |
//! | 5 | 4 | lengths of the four names |
//! | 9 | 8 | session: chosen at random whenever the sender starts |
//! | 17 | 8 | seq: from 1, growing within the session |
//! | 25 | 8 | the seq of the newest echo that reached the sender, 0 before the first |
//! | 33 | 8 | the challenge in that echo, 0 before the first |
//! | 41 | … | sender (the name under `access`), cluster, member, signal (empty: the only heartbeat signal) |
//! | end | 32 | HMAC-SHA256 over all before it, with the sender's token as key |
//!
//! An echo, [`ECHO_LEN`] bytes and always shorter than a beat, so that nothing is amplified:
//!
//! | offset | bytes | |
//! |---|---|---|
//! | 0 | 4 | `CRN1` |
//! | 4 | 1 | 2: an echo |
//! | 5 | 8 | session |
//! | 13 | 8 | the seq that is echoed |
//! | 21 | 8 | challenge: chosen at random by the arbiter for this session |
//! | 29 | 8 | the cluster's epoch |
//! | 37 | 32 | HMAC-SHA256 over all before it, with the same key |
//!
//! A beat proves the link both ways only if it carries back the challenge of this session and an echoed seq that is
//! newer than the one before. Datagrams recorded earlier cannot do that: the challenge is new for every session and for
//! every life of the arbiter. They can still look like beats of a sender whom our echoes do not reach; therefore a beat
//! that is not echoed proves nothing.

use ring::hmac;

/// The longest beat.
pub const MAX_BEAT: usize = 512;
/// The length of an echo.
pub const ECHO_LEN: usize = 69;

const MAGIC: &[u8; 4] = b"CRN1";
const KIND_BEAT: u8 = 1;
const KIND_ECHO: u8 = 2;
const NAMES_AT: usize = 41;
const MAC_LEN: usize = 32;

/// The key of one identity, prepared once.
#[derive(Clone, Debug)]
pub struct BeatKey(hmac::Key);

impl BeatKey {
    /// Prepares the key from the identity's token.
    #[must_use]
    pub fn new(token: &str) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, token.as_bytes()))
    }
}

/// One beat; the names are borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat<'a> {
    /// The identity under `access`.
    pub sender: &'a str,
    /// The cluster.
    pub cluster: &'a str,
    /// The member whose heart beats.
    pub member: &'a str,
    /// The signal; empty: the cluster's only heartbeat signal.
    pub signal: &'a str,
    /// Random, new whenever the sender starts.
    pub session: u64,
    /// From 1, growing.
    pub seq: u64,
    /// The seq of the newest echo that arrived; 0: none yet.
    pub echoed: u64,
    /// The challenge of that echo; 0: none yet.
    pub challenge: u64,
}

/// The answer to a beat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Echo {
    /// The sender's session.
    pub session: u64,
    /// The seq that arrived.
    pub seq: u64,
    /// To be carried back in the next beat.
    pub challenge: u64,
    /// The cluster's epoch.
    pub epoch: u64,
}

/// Why a datagram was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refused {
    /// Longer than any beat.
    #[error("it is longer than {MAX_BEAT} bytes")]
    Oversized,
    /// Not a beat of this version.
    #[error("it is not a heartbeat of this version")]
    Malformed,
    /// No such identity, or it has no token.
    #[error("the sender is not under `access`, or has no token")]
    UnknownSender,
    /// The signature is wrong.
    #[error("the signature does not fit the sender's token")]
    BadMac,
    /// An old or repeated seq of its session.
    #[error("its sequence number was seen before")]
    Replayed,
    /// The identity may not report as that member.
    #[error("the sender may not report as this member (see `reports_as`)")]
    Forbidden,
    /// No such cluster, member, or heartbeat signal.
    #[error("there is no such cluster, member or heartbeat signal")]
    UnknownName,
    /// Too many from this identity.
    #[error("the sender sends too many")]
    Flood,
}

impl Refused {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Oversized,
        Self::Malformed,
        Self::UnknownSender,
        Self::BadMac,
        Self::Replayed,
        Self::Forbidden,
        Self::UnknownName,
        Self::Flood,
    ];

    /// The label in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Oversized => "oversized",
            Self::Malformed => "malformed",
            Self::UnknownSender => "unknown_sender",
            Self::BadMac => "bad_mac",
            Self::Replayed => "replayed",
            Self::Forbidden => "forbidden",
            Self::UnknownName => "unknown_name",
            Self::Flood => "flood",
        }
    }
}

/// Writes and signs a beat. `None`: a name is longer than 255 bytes, or all together do not fit [`MAX_BEAT`].
#[must_use]
pub fn encode_beat(key: &BeatKey, beat: &Beat<'_>) -> Option<Vec<u8>> {
    let names = [beat.sender, beat.cluster, beat.member, beat.signal];
    let mut out = Vec::with_capacity(128);
    out.extend_from_slice(MAGIC);
    out.push(KIND_BEAT);
    for name in names {
        out.push(u8::try_from(name.len()).ok()?);
    }
    for number in [beat.session, beat.seq, beat.echoed, beat.challenge] {
        out.extend_from_slice(&number.to_be_bytes());
    }
    for name in names {
        out.extend_from_slice(name.as_bytes());
    }
    out.extend_from_slice(hmac::sign(&key.0, &out).as_ref());
    (out.len() <= MAX_BEAT).then_some(out)
}

/// A beat whose signature is not checked yet.
#[derive(Clone, Copy, Debug)]
pub struct Unverified<'a> {
    beat: Beat<'a>,
    signed: &'a [u8],
    mac: &'a [u8],
}

impl<'a> Unverified<'a> {
    /// Reads a beat.
    ///
    /// # Errors
    /// It is too long, or not a beat.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, Refused> {
        if datagram.len() > MAX_BEAT {
            return Err(Refused::Oversized);
        }
        parse(datagram).ok_or(Refused::Malformed)
    }

    /// Whom it says it is from.
    #[must_use]
    pub const fn sender(&self) -> &'a str {
        self.beat.sender
    }

    /// Checks the signature.
    ///
    /// # Errors
    /// It does not fit the key.
    pub fn verify(self, key: &BeatKey) -> Result<Beat<'a>, Refused> {
        hmac::verify(&key.0, self.signed, self.mac).map_err(|_| Refused::BadMac)?;
        Ok(self.beat)
    }
}

fn parse(datagram: &[u8]) -> Option<Unverified<'_>> {
    let (signed, mac) = datagram.split_at_checked(datagram.len().checked_sub(MAC_LEN)?)?;
    let (head, mut names) = signed.split_at_checked(NAMES_AT)?;
    if !head.starts_with(MAGIC) || head[4] != KIND_BEAT {
        return None;
    }
    let mut name = |length: u8| {
        let (name, rest) = names.split_at_checked(length.into())?;
        names = rest;
        std::str::from_utf8(name).ok()
    };
    let beat = Beat {
        sender: name(head[5])?,
        cluster: name(head[6])?,
        member: name(head[7])?,
        signal: name(head[8])?,
        session: number(head, 9)?,
        seq: number(head, 17)?,
        echoed: number(head, 25)?,
        challenge: number(head, 33)?,
    };
    (names.is_empty() && beat.seq > 0).then_some(Unverified { beat, signed, mac })
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_be_bytes)
}

/// Writes and signs an echo.
#[must_use]
pub fn encode_echo(key: &BeatKey, echo: &Echo) -> [u8; ECHO_LEN] {
    let mut out = [0; ECHO_LEN];
    out[..4].copy_from_slice(MAGIC);
    out[4] = KIND_ECHO;
    for (place, number) in [echo.session, echo.seq, echo.challenge, echo.epoch].into_iter().enumerate() {
        let at = 5 + place * 8;
        out[at..at + 8].copy_from_slice(&number.to_be_bytes());
    }
    let (signed, mac) = out.split_at_mut(ECHO_LEN - MAC_LEN);
    mac.copy_from_slice(hmac::sign(&key.0, signed).as_ref());
    out
}

/// Reads an echo and checks its signature. The sender checks that session and seq are its own.
///
/// # Errors
/// It is not an echo, or the signature does not fit.
pub fn decode_echo(key: &BeatKey, datagram: &[u8]) -> Result<Echo, Refused> {
    if datagram.len() != ECHO_LEN || !datagram.starts_with(MAGIC) || datagram[4] != KIND_ECHO {
        return Err(Refused::Malformed);
    }
    let (signed, mac) = datagram.split_at(ECHO_LEN - MAC_LEN);
    hmac::verify(&key.0, signed, mac).map_err(|_| Refused::BadMac)?;
    let read = |at| number(signed, at).ok_or(Refused::Malformed);
    Ok(Echo { session: read(5)?, seq: read(13)?, challenge: read(21)?, epoch: read(29)? })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BEAT: Beat<'static> = Beat {
        sender: "broker-a",
        cluster: "orders",
        member: "broker-a",
        signal: "heartbeat",
        session: 0xdead_beef,
        seq: 3,
        echoed: 2,
        challenge: 9,
    };

    #[test]
    fn a_beat_and_its_echo_come_back_as_they_were() {
        let key = BeatKey::new("token");
        let wire = encode_beat(&key, &BEAT).unwrap();
        assert_eq!(Unverified::parse(&wire).unwrap().verify(&key), Ok(BEAT));
        let echo = Echo { session: 1, seq: 2, challenge: 3, epoch: 4 };
        assert_eq!(decode_echo(&key, &encode_echo(&key, &echo)), Ok(echo));
        assert!(wire.len() > ECHO_LEN);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let key = BeatKey::new("token");
        let wire = encode_beat(&key, &BEAT).unwrap();
        for bit in 0..wire.len() * 8 {
            let mut forged = wire.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert!(Unverified::parse(&forged).and_then(|beat| beat.verify(&key)).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn names_that_do_not_fit_are_not_cut() {
        let long = "x".repeat(250);
        let beat = Beat { cluster: &long, member: &long, ..BEAT };
        assert_eq!(encode_beat(&BeatKey::new("token"), &beat), None);
    }

    proptest! {
        #[test]
        fn anything_at_all_is_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..700)) {
            let key = BeatKey::new("token");
            let mut framed = MAGIC.to_vec();
            framed.push(KIND_BEAT);
            framed.extend_from_slice(&bytes);
            for datagram in [&bytes, &framed] {
                prop_assert!(Unverified::parse(datagram).and_then(|beat| beat.verify(&key)).is_err());
                prop_assert!(decode_echo(&key, datagram).is_err());
            }
        }
    }
}

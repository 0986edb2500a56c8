//! A message in its signed form: the bytes of one datagram.
//!
//! | bytes | what |
//! |---|---|
//! | 0..3 | `CRN` |
//! | 3 | version: 1 |
//! | 4 | how many times it may yet be passed on; not signed, for whoever passes it on counts it down |
//! | 5..69 | Ed25519 signature over bytes 0..4 and the body |
//! | 69.. | the message as JSON; signed as it stands, never written anew on the way |
//!
//! Reading is total: any bytes are a message or a [`Bad`].

use std::iter;

use super::{
    keys::{PrivateKey, PublicKey, SIGNATURE},
    message::Message,
};

/// A datagram is no longer than this.
pub const SIZE_LIMIT: usize = 4_096;

/// A message is passed on at most this many times.
pub const HOP_LIMIT: u8 = 3;

const HEAD: &[u8; 4] = b"CRN\x01";
const HOPS: usize = 4;
const BODY: usize = HOPS + 1 + SIGNATURE;

/// What is wrong with a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    /// Beyond [`SIZE_LIMIT`].
    #[error("longer than {SIZE_LIMIT} bytes")]
    TooLarge,
    /// Not ours, or of another version.
    #[error("no message of this version")]
    NotOurs,
    /// It names more hops than anyone sends.
    #[error("more hops than {HOP_LIMIT}")]
    Hops,
    /// The body is no message.
    #[error("the body cannot be read")]
    Malformed,
}

/// A datagram that was read. Nothing is believed before [`Self::is_signed_by`].
#[derive(Clone, Debug)]
pub struct Envelope {
    /// How many times it may yet be passed on.
    pub hops: u8,
    /// What it says.
    pub message: Message,
    signature: [u8; SIGNATURE],
    signed: Vec<u8>,
}

impl Envelope {
    /// Reads a datagram.
    ///
    /// # Errors
    /// It is none of ours.
    pub fn read(bytes: &[u8]) -> Result<Self, Bad> {
        if bytes.len() > SIZE_LIMIT {
            return Err(Bad::TooLarge);
        }
        let (head, rest) = bytes.split_at_checked(HOPS).ok_or(Bad::NotOurs)?;
        let (hops, rest) = rest.split_first().ok_or(Bad::NotOurs)?;
        let (signature, body) = rest.split_first_chunk::<SIGNATURE>().ok_or(Bad::NotOurs)?;
        if head != HEAD {
            return Err(Bad::NotOurs);
        }
        if *hops > HOP_LIMIT {
            return Err(Bad::Hops);
        }
        let message = serde_json::from_slice(body).map_err(|_| Bad::Malformed)?;
        Ok(Self { hops: *hops, message, signature: *signature, signed: signed(body) })
    }

    /// Whether that party signed it.
    #[must_use]
    pub fn is_signed_by(&self, key: &PublicKey) -> bool {
        key.verify(&self.signed, &self.signature)
    }

    /// Whether nobody passed it on. Not signed: good for choosing a path, not for believing anything.
    #[must_use]
    pub const fn is_direct(&self) -> bool {
        self.hops == HOP_LIMIT
    }

    /// The same message once more passed on; `None`: it was passed on often enough.
    #[must_use]
    pub fn passed_on(&self) -> Option<Vec<u8>> {
        let hops = self.hops.checked_sub(1)?;
        Some(assemble(hops, &self.signature, self.signed.get(HEAD.len()..)?))
    }
}

/// Signs a message and makes a datagram of it.
///
/// # Errors
/// It is too large.
pub fn write(message: &Message, key: &PrivateKey) -> Result<Vec<u8>, Bad> {
    // Plain data with text keys: it can always be written.
    let body = serde_json::to_vec(message).map_err(|_| Bad::Malformed)?;
    if BODY + body.len() > SIZE_LIMIT {
        return Err(Bad::TooLarge);
    }
    Ok(assemble(HOP_LIMIT, &key.sign(&signed(&body)), &body))
}

fn signed(body: &[u8]) -> Vec<u8> {
    [HEAD.as_slice(), body].concat()
}

fn assemble(hops: u8, signature: &[u8; SIGNATURE], body: &[u8]) -> Vec<u8> {
    let head = HEAD.iter().copied().chain(iter::once(hops));
    head.chain(signature.iter().copied()).chain(body.iter().copied()).collect()
}

//! Who may sign as whom: Ed25519.
//!
//! Each party has a private key of its own, in a file that only it reads; everyone's file holds the public keys of all.
//! A key is text: `ed25519-private:` or `ed25519:`, and 32 bytes in base64.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use ring::{
    hmac,
    rand::{SecureRandom as _, SystemRandom},
    signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey},
};

const PRIVATE: &str = "ed25519-private:";
const PUBLIC: &str = "ed25519:";

/// Length of a signature in bytes.
pub const SIGNATURE: usize = 64;

/// Why a text is no key. Never holds any of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It begins with nothing that was expected.
    #[error("a private key begins with `ed25519-private:`; make one with `coroner key`")]
    NotPrivate,
    /// It begins with nothing that was expected.
    #[error("a public key begins with `ed25519:`; `coroner key` prints it beside the private one")]
    NotPublic,
    /// A private key stands where everyone can read it.
    #[error("this is a private key where the public one belongs: replace both, for it may have been read")]
    PrivateInPublic,
    /// Not base64, or not 32 bytes of it.
    #[error("behind `ed25519:` or `ed25519-private:` come 32 bytes in base64, 44 characters that end in `=`")]
    Malformed,
    /// The system's source of randomness failed.
    #[error("the system gave no random bytes for a new key")]
    NoRandomness,
}

/// Signs in the name of one party.
pub struct PrivateKey {
    pair: Ed25519KeyPair,
    seed: [u8; 32],
}

impl PrivateKey {
    /// A new one.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn generate() -> Result<Self, KeyError> {
        let mut seed = [0; 32];
        SystemRandom::new().fill(&mut seed).map_err(|_| KeyError::NoRandomness)?;
        Self::from_seed(seed)
    }

    /// The key of this seed.
    ///
    /// # Errors
    /// None is known for 32 bytes; `ring` may refuse.
    pub fn from_seed(seed: [u8; 32]) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| KeyError::Malformed)?;
        Ok(Self { pair, seed })
    }

    /// Reads `ed25519-private:BASE64`; white space around it does not matter.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let rest = text.trim().strip_prefix(PRIVATE).ok_or(KeyError::NotPrivate)?;
        Self::from_seed(decode(rest)?)
    }

    /// The secret itself, for the file that keeps it.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!("{PRIVATE}{}", BASE64.encode(self.seed))
    }

    /// The other half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        let mut bytes = [0; 32];
        // Both are 32 bytes; were they not, the key would verify nothing.
        for (to, from) in bytes.iter_mut().zip(self.pair.public_key().as_ref()) {
            *to = *from;
        }
        PublicKey(bytes)
    }

    /// Signs.
    #[must_use]
    pub fn sign(&self, bytes: &[u8]) -> [u8; SIGNATURE] {
        let mut signature = [0; SIGNATURE];
        // Both are 64 bytes; were they not, nobody would accept the signature.
        for (to, from) in signature.iter_mut().zip(self.pair.sign(bytes).as_ref()) {
            *to = *from;
        }
        signature
    }

    /// A keyed hash that nobody else can foretell, for this purpose.
    #[must_use]
    pub fn derive(&self, purpose: &[u8]) -> [u8; 32] {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &self.seed), purpose);
        let mut bytes = [0; 32];
        for (to, from) in bytes.iter_mut().zip(tag.as_ref()) {
            *to = *from;
        }
        bytes
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey(of {})", self.public())
    }
}

/// Verifies what one party signed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// Reads `ed25519:BASE64`; white space around it does not matter.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let text = text.trim();
        if text.starts_with(PRIVATE) {
            return Err(KeyError::PrivateInPublic);
        }
        Ok(Self(decode(text.strip_prefix(PUBLIC).ok_or(KeyError::NotPublic)?)?))
    }

    /// Whether that party signed these bytes.
    #[must_use]
    pub fn verify(&self, bytes: &[u8], signature: &[u8; SIGNATURE]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(bytes, signature).is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PUBLIC}{}", BASE64.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn decode(text: &str) -> Result<[u8; 32], KeyError> {
    BASE64.decode(text).ok().and_then(|bytes| bytes.try_into().ok()).ok_or(KeyError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_was_written() {
        let key = PrivateKey::generate().unwrap();
        let again = PrivateKey::parse(&format!(" {}\n", key.reveal())).unwrap();
        assert_eq!(again.public(), key.public());
        assert_eq!(PublicKey::parse(&key.public().to_string()), Ok(key.public()));
    }

    #[test]
    fn only_its_own_words_verify() {
        let (key, other) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
        let signature = key.sign(b"words");
        assert!(key.public().verify(b"words", &signature));
        assert!(!key.public().verify(b"other words", &signature));
        assert!(!other.public().verify(b"words", &signature));
    }

    #[test]
    fn wrong_texts_are_told_apart_and_no_secret_is_printed() {
        let key = PrivateKey::generate().unwrap();
        let secret = key.reveal();
        assert_eq!(PublicKey::parse(&secret), Err(KeyError::PrivateInPublic));
        assert_eq!(PublicKey::parse("ssh-ed25519 AAAA"), Err(KeyError::NotPublic));
        assert_eq!(PublicKey::parse("ed25519:short"), Err(KeyError::Malformed));
        assert_eq!(PrivateKey::parse("ed25519-private:AAAA").map(|_| ()), Err(KeyError::Malformed));
        assert_eq!(PrivateKey::parse(&key.public().to_string()).map(|_| ()), Err(KeyError::NotPrivate));
        assert!(!format!("{key:?}").contains(&secret[PRIVATE.len()..]));
    }
}

//! Who may sign as whom: Ed25519.

/// Signs.
#[derive(Debug)]
pub struct PrivateKey {}

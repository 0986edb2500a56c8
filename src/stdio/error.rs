//! Errors of the protocol: Maelstrom's codes, with words.

/// Maelstrom's error codes. Those below 1000 are reserved to it; this protocol has none of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Code {
    /// It did not end in time. It may have happened.
    Timeout = 0,
    /// There is no such node.
    NodeNotFound = 1,
    /// There is no such type of request, or not in this deployment.
    NotSupported = 10,
    /// Not now: it has not happened, and may work later.
    TemporarilyUnavailable = 11,
    /// The line cannot be understood. It has not happened.
    MalformedRequest = 12,
    /// Something failed half-way. It may have happened.
    Crash = 13,
    /// It was given up. It has not happened.
    Abort = 14,
    /// There is no such key.
    KeyDoesNotExist = 20,
    /// There is such a key already.
    KeyAlreadyExists = 21,
    /// The state is another one than the request supposes. It has not happened.
    PreconditionFailed = 22,
    /// Another transaction stood in the way. It has not happened.
    TxnConflict = 30,
}

impl Code {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Timeout,
        Self::NodeNotFound,
        Self::NotSupported,
        Self::TemporarilyUnavailable,
        Self::MalformedRequest,
        Self::Crash,
        Self::Abort,
        Self::KeyDoesNotExist,
        Self::KeyAlreadyExists,
        Self::PreconditionFailed,
        Self::TxnConflict,
    ];

    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// Whether it is certain that the request was not carried out.
    #[must_use]
    pub const fn is_definite(self) -> bool {
        !matches!(self, Self::Timeout | Self::Crash)
    }
}

/// Why a request was not answered with what it asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The code.
    pub code: Code,
    /// In words, with the remedy.
    pub text: String,
}

impl Refusal {
    /// A refusal, in words.
    pub fn new(code: Code, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    /// A line that cannot be understood.
    pub(super) fn malformed(text: impl Into<String>) -> Self {
        Self::new(Code::MalformedRequest, text)
    }
}

/// So much of what somebody sent is quoted back in words.
const QUOTED_MAX: usize = 80;

/// Something that somebody sent, for an error's words: in backquotes, on one line, not too long.
pub(super) fn quoted(text: &str) -> String {
    let mut out: String = text.chars().take(QUOTED_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(QUOTED_MAX).is_some() {
        out.push('…');
    }
    format!("`{out}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_maelstroms() {
        let numbers: Vec<u16> = Code::ALL.iter().map(|code| code.number()).collect();
        assert_eq!(numbers, [0, 1, 10, 11, 12, 13, 14, 20, 21, 22, 30]);
        let indefinite: Vec<u16> = Code::ALL.iter().filter(|c| !c.is_definite()).map(|c| c.number()).collect();
        assert_eq!(indefinite, [0, 13], "as Maelstrom says");
    }

    #[test]
    fn what_is_quoted_stays_short_and_on_one_line() {
        assert_eq!(quoted("a\nb"), "`a b`");
        assert!(quoted(&"ü".repeat(1_000_000)).len() < 200);
    }
}

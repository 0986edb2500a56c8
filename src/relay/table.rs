//! The last number of each sender: what tells a repeated message from a new one.

use std::{collections::HashMap, sync::Arc};

use super::entry::{Entry, EntryKind, u64_at};

/// So many senders are remembered at most; a new one is refused then. Names are never forgotten: forgetting one would let
/// its repeated messages in as new ones.
pub(super) const MOST_SENDERS: usize = 16_384;

/// The table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    last: HashMap<Arc<str>, u64>,
}

impl Table {
    /// The last number of a sender; 0: it has sent nothing yet.
    #[must_use]
    pub fn last(&self, sender: &str) -> u64 {
        self.last.get(sender).copied().unwrap_or(0)
    }

    /// Whether a sender of this name can be taken.
    pub(super) fn has_room_for(&self, sender: &str) -> bool {
        self.last.len() < MOST_SENDERS || self.last.contains_key(sender)
    }

    pub(super) fn set(&mut self, sender: &str, number: u64) {
        match self.last.get_mut(sender) {
            Some(last) => *last = number,
            None => {
                self.last.insert(sender.into(), number);
            }
        }
    }

    /// Takes an entry of the log into account. Answers whether it could be.
    pub(super) fn apply(&mut self, entry: &Entry<'_>) -> bool {
        match entry.kind {
            EntryKind::Message => self.set(entry.sender, entry.number),
            EntryKind::Snapshot => match Self::decode(entry.payload) {
                Some(table) => *self = table,
                None => return false,
            },
            EntryKind::Canary | EntryKind::Probe | EntryKind::EpochBegin => {}
        }
        true
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.last.len() * 24);
        for (name, number) in &self.last {
            // Names are bounded where they come in.
            out.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(&number.to_le_bytes());
        }
        out
    }

    fn decode(mut bytes: &[u8]) -> Option<Self> {
        let mut last = HashMap::new();
        while let Some((length, rest)) = bytes.split_first() {
            let (name, rest) = rest.split_at_checked(usize::from(*length))?;
            last.insert(std::str::from_utf8(name).ok()?.into(), u64_at(rest, 0)?);
            bytes = rest.get(8..)?;
        }
        Some(Self { last })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_says_what_the_table_says() {
        let mut table = Table::default();
        table.set("a", 4);
        table.set("longer-name", u64::MAX);
        table.set("a", 5);
        assert_eq!(Table::decode(&table.encode()), Some(table.clone()));
        assert_eq!(Table::decode(&table.encode()[1..]), None);
        assert_eq!((table.last("a"), table.last("nobody")), (5, 0));
    }
}

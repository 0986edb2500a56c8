//! A table of our own: what it is to be, how it gets there in one transaction, and whether it still is.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use rustix::io::Errno;

use super::{
    GateError,
    expression::{self, Expression},
    netlink::{Batch, Parsed, Socket, flag, op},
};

/// What a set holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// Ports.
    Port,
    /// IPv4 addresses.
    V4,
    /// IPv6 addresses.
    V6,
    /// IPv4 addresses with a port.
    V4Port,
    /// IPv6 addresses with a port.
    V6Port,
}

impl Key {
    /// The number by which `nft` knows how to print it, and the bytes.
    const fn kind_and_length(self) -> (u32, u32) {
        const PORT: u32 = 13;
        const V4: u32 = 7;
        const V6: u32 = 8;
        match self {
            Self::Port => (PORT, 2),
            Self::V4 => (V4, 4),
            Self::V6 => (V6, 16),
            // Parts of a joined key are filled up to four bytes each.
            Self::V4Port => (V4 << 6 | PORT, 8),
            Self::V6Port => (V6 << 6 | PORT, 20),
        }
    }
}

/// A key of a port.
pub(super) fn port_key(port: u16) -> Vec<u8> {
    port.to_be_bytes().to_vec()
}

/// A key of an address, and whether it is an IPv4 one. One that is mapped into IPv6 is IPv4 on the wire.
pub(super) fn address_key(address: IpAddr) -> (bool, Vec<u8>) {
    match address.to_canonical() {
        IpAddr::V4(v4) => (true, v4.octets().to_vec()),
        IpAddr::V6(v6) => (false, v6.octets().to_vec()),
    }
}

/// A named set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Set {
    pub(super) name: &'static str,
    pub(super) key: Key,
    /// What it holds for good; `None`: elements come and go, each with its time if `timed`.
    pub(super) fixed: Option<BTreeSet<Vec<u8>>>,
    pub(super) timed: bool,
}

/// Where a chain hangs (`enum nf_inet_hooks`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Hook {
    Input = 1,
    Forward = 2,
    Output = 3,
}

/// Before connection tracking and everything else that filters: what others accept later does not open what is dropped
/// here, and what is dropped here costs them nothing.
const PRIORITY: i32 = -300;
const POLICY_ACCEPT: u32 = 1;

/// A chain and its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) name: &'static str,
    pub(super) hook: Option<Hook>,
    pub(super) rules: Vec<Vec<Expression>>,
}

/// What a table is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) name: String,
    pub(super) sets: Vec<Set>,
    pub(super) chains: Vec<Chain>,
}

/// One element that stands in a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) key: Vec<u8>,
    /// What is left of its time; `None`: it stays.
    pub(super) left: Option<Duration>,
}

// `enum nft_*_attributes`.
const TABLE_NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const CHAIN_FLAGS: u16 = 10;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const SET_TABLE: u16 = 1;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LENGTH: u16 = 5;
const SET_ID: u16 = 10;
const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_TIMEOUT: u16 = 4;
const ELEMENT_EXPIRATION: u16 = 5;
const DATA_VALUE: u16 = 1;

const FLAG_TIMEOUT: u32 = 0x10;
/// `NFT_CHAIN_BASE`, which kernels list where there is a hook.
const FLAG_BASE: u32 = 1;

/// Adds elements to a set.
pub(super) fn add_elements<'k>(
    batch: &mut Batch,
    table: &str,
    set: &str,
    keys: impl Iterator<Item = &'k Vec<u8>>,
    timeout: Option<Duration>,
) {
    batch.add("add elements to a set", op::NEW_SET_ELEMENT, flag::CREATE, |a| {
        a.text(LIST_TABLE, table).text(LIST_SET, set).nest(LIST_ELEMENTS, |a| {
            for key in keys {
                a.nest(1, |a| {
                    if let Some(timeout) = timeout {
                        // Down to whole milliseconds: never longer than asked.
                        a.long(ELEMENT_TIMEOUT, u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
                    }
                    a.nest(ELEMENT_KEY, |a| {
                        a.bytes(DATA_VALUE, key);
                    });
                });
            }
        });
    });
}

/// Empties a set. An element that expired a moment ago is no error, as it would be if it were deleted by name.
pub(super) fn flush(batch: &mut Batch, table: &str, set: &str) {
    batch.add("empty a set", op::DEL_SET_ELEMENT, 0, |a| {
        a.text(LIST_TABLE, table).text(LIST_SET, set);
    });
}

/// Deletes a table, whether it is there or not.
pub(super) fn delete(batch: &mut Batch, table: &str) {
    batch.add("make a table", op::NEW_TABLE, flag::CREATE, |a| {
        a.text(TABLE_NAME, table).number(TABLE_FLAGS, 0);
    });
    batch.add("delete a table", op::DEL_TABLE, 0, |a| {
        a.text(TABLE_NAME, table);
    });
}

impl Layout {
    /// Makes the table anew within a transaction: whatever stood under its name is gone, elements included.
    pub(super) fn write(&self, batch: &mut Batch) {
        let table = self.name.as_str();
        delete(batch, table);
        batch.add("make a table", op::NEW_TABLE, flag::CREATE, |a| {
            a.text(TABLE_NAME, table).number(TABLE_FLAGS, 0);
        });
        for (id, set) in (1..).zip(&self.sets) {
            let (kind, length) = set.key.kind_and_length();
            batch.add("make a set", op::NEW_SET, flag::CREATE, |a| {
                a.text(SET_TABLE, table)
                    .text(SET_NAME, set.name)
                    .number(SET_FLAGS, set.flags())
                    .number(SET_KEY_TYPE, kind)
                    .number(SET_KEY_LENGTH, length)
                    .number(SET_ID, id);
            });
            if let Some(fixed) = set.fixed.as_ref().filter(|fixed| !fixed.is_empty()) {
                add_elements(batch, table, set.name, fixed.iter(), None);
            }
        }
        for chain in &self.chains {
            batch.add("make a chain", op::NEW_CHAIN, flag::CREATE, |a| {
                a.text(CHAIN_TABLE, table).text(CHAIN_NAME, chain.name);
                if let Some(hook) = chain.hook {
                    a.nest(CHAIN_HOOK, |a| {
                        a.number(HOOK_NUMBER, hook as u32).number(HOOK_PRIORITY, PRIORITY.cast_unsigned());
                    })
                    .number(CHAIN_POLICY, POLICY_ACCEPT)
                    .text(CHAIN_TYPE, "filter");
                }
            });
        }
        for chain in &self.chains {
            for rule in &chain.rules {
                let doing = if rule.contains(&Expression::SocketMark) {
                    "make a rule with `socket mark` (`local: closed` needs the kernel's nft_socket)"
                } else {
                    "make a rule"
                };
                batch.add(doing, op::NEW_RULE, flag::CREATE | flag::APPEND, |a| {
                    a.text(RULE_TABLE, table).text(RULE_CHAIN, chain.name).nest(RULE_EXPRESSIONS, |a| {
                        rule.iter().for_each(|expression| expression.write(a));
                    });
                });
            }
        }
    }

    /// Compares with what the kernel lists.
    pub(super) fn verify(&self, socket: &mut Socket) -> Result<(), GateError> {
        for _ in 0..DUMPS {
            match self.verify_once(socket) {
                // Somebody changed rules, of whatever table, while we read.
                Err(GateError::Kernel { errno: Errno::INTR, .. }) => {}
                result => return result,
            }
        }
        self.verify_once(socket)
    }

    fn verify_once(&self, socket: &mut Socket) -> Result<(), GateError> {
        let altered = |what: String| Err(GateError::Altered { table: self.name.clone(), what });
        let mut flags = None;
        socket.dump(
            "list tables",
            op::GET_TABLE,
            |_| {},
            |a| {
                if a.text(TABLE_NAME).as_deref() == Some(&self.name) {
                    flags = a.number(TABLE_FLAGS).or(Some(0));
                }
            },
        )?;
        match flags {
            None => return altered("it is not there".into()),
            Some(0) => {}
            // Dormant: all its hooks are off.
            Some(flags) => return altered(format!("it carries the flags {flags:#x}")),
        }
        let mut chains = Vec::new();
        socket.dump(
            "list chains",
            op::GET_CHAIN,
            |_| {},
            |a| {
                if a.text(CHAIN_TABLE).as_deref() == Some(&self.name) {
                    chains.push(read_chain(a));
                }
            },
        )?;
        let mut wanted: Vec<_> = self.chains.iter().map(Chain::listed).collect();
        wanted.sort();
        chains.sort();
        if chains != wanted {
            return altered(format!("its chains are {chains:?} rather than {wanted:?}"));
        }
        let mut rules: Vec<(String, Option<Vec<Expression>>)> = Vec::new();
        socket.dump(
            "list rules",
            op::GET_RULE,
            |a| {
                a.text(RULE_TABLE, &self.name);
            },
            |a| {
                if a.text(RULE_TABLE).as_deref() == Some(&self.name) {
                    let expressions = a.get(RULE_EXPRESSIONS).and_then(expression::read);
                    rules.push((a.text(RULE_CHAIN).unwrap_or_default(), expressions));
                }
            },
        )?;
        for chain in &self.chains {
            let listed: Vec<_> = rules.iter().filter(|(name, _)| name == chain.name).collect();
            if listed.len() != chain.rules.len() {
                return altered(format!(
                    "its chain `{}` has {} rules rather than {}",
                    chain.name,
                    listed.len(),
                    chain.rules.len()
                ));
            }
            let odd = listed.iter().zip(&chain.rules).position(|((_, own), wanted)| own.as_ref() != Some(wanted));
            if let Some(index) = odd {
                return altered(format!("rule {} of its chain `{}` is another one", index + 1, chain.name));
            }
        }
        self.verify_sets(socket)
    }

    fn verify_sets(&self, socket: &mut Socket) -> Result<(), GateError> {
        let altered = |what: String| Err(GateError::Altered { table: self.name.clone(), what });
        let mut sets = Vec::new();
        socket.dump(
            "list sets",
            op::GET_SET,
            |a| {
                a.text(SET_TABLE, &self.name);
            },
            |a| {
                if a.text(SET_TABLE).as_deref() == Some(&self.name) {
                    let length = a.number(SET_KEY_LENGTH).unwrap_or(0);
                    sets.push((a.text(SET_NAME).unwrap_or_default(), a.number(SET_FLAGS).unwrap_or(0), length));
                }
            },
        )?;
        let mut wanted: Vec<_> =
            self.sets.iter().map(|set| (set.name.to_owned(), set.flags(), set.key.kind_and_length().1)).collect();
        wanted.sort();
        sets.sort();
        if sets != wanted {
            return altered(format!("its sets are {sets:?} rather than {wanted:?}"));
        }
        for set in &self.sets {
            let elements = elements(socket, &self.name, set.name)?;
            if let Some(fixed) = &set.fixed {
                let listed: BTreeSet<_> = elements.into_iter().map(|element| element.key).collect();
                if listed != *fixed {
                    return altered(format!("its set `{}` holds something else", set.name));
                }
            } else if set.timed && elements.iter().any(|element| element.left.is_none()) {
                return altered(format!("its set `{}` holds an element that never expires", set.name));
            }
        }
        Ok(())
    }
}

/// How often a list is read again that changed while it was read.
const DUMPS: u32 = 4;

/// A chain as it is compared: name, hook number, priority, policy, and flags that are not the base chain's.
type Listed = (String, Option<(u32, i32, u32)>, u32);

impl Chain {
    fn listed(&self) -> Listed {
        (self.name.to_owned(), self.hook.map(|hook| (hook as u32, PRIORITY, POLICY_ACCEPT)), 0)
    }
}

fn read_chain(a: &Parsed<'_>) -> Listed {
    let hook = a.nested(CHAIN_HOOK).map(|hook| {
        let priority = hook.number(HOOK_PRIORITY).unwrap_or(0).cast_signed();
        (hook.number(HOOK_NUMBER).unwrap_or(u32::MAX), priority, a.number(CHAIN_POLICY).unwrap_or(u32::MAX))
    });
    (a.text(CHAIN_NAME).unwrap_or_default(), hook, a.number(CHAIN_FLAGS).unwrap_or(0) & !FLAG_BASE)
}

impl Set {
    const fn flags(&self) -> u32 {
        if self.timed { FLAG_TIMEOUT } else { 0 }
    }
}

/// What stands in a set now. Elements whose time is over are not listed.
pub(super) fn elements(socket: &mut Socket, table: &str, set: &str) -> Result<Vec<Element>, GateError> {
    let mut attempt = 0;
    loop {
        let mut found = Vec::new();
        let result = socket.dump(
            "list the elements of a set",
            op::GET_SET_ELEMENT,
            |a| {
                a.text(LIST_TABLE, table).text(LIST_SET, set);
            },
            |a| {
                let Some(list) = a.nested(LIST_ELEMENTS) else { return };
                for element in list.each().map(|(_, element)| Parsed::of(element)) {
                    let key = element.nested(ELEMENT_KEY).and_then(|key| key.get(DATA_VALUE)).unwrap_or_default();
                    // The time that is left; only where there is none at all does it stay.
                    let left = element.long(ELEMENT_EXPIRATION).or_else(|| element.long(ELEMENT_TIMEOUT));
                    found.push(Element { key: key.to_vec(), left: left.map(Duration::from_millis) });
                }
            },
        );
        attempt += 1;
        match result {
            Err(GateError::Kernel { errno: Errno::INTR, .. }) if attempt < DUMPS => {}
            result => return result.map(|()| found),
        }
    }
}

//! The expressions that our rules are made of, written for the kernel and read back from it.
//!
//! Only what we write ourselves can be read: anything else in a chain of ours was put there by somebody else.

use super::netlink::{Attributes, Parsed};

const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
/// `NFTA_LIST_ELEM`.
const LIST_ELEMENT: u16 = 1;

const VERDICT_REGISTER: u32 = 0;
/// The first register of 16 bytes.
pub(super) const REGISTER: u32 = 1;
/// Four bytes behind the beginning of the first register: the second part of an IPv4 key.
pub(super) const BEHIND_FOUR: u32 = 9;
/// Sixteen bytes behind: the second part of an IPv6 key.
pub(super) const BEHIND_SIXTEEN: u32 = 2;

const GOTO: i32 = -4;
const DROP: i32 = 0;
const ACCEPT: i32 = 1;

/// What is known of a packet beside its bytes (`enum nft_meta_keys`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Meta {
    Mark = 3,
    InInterface = 4,
    OutInterface = 5,
    Family = 15,
    Transport = 16,
}

impl Meta {
    fn of(key: u32) -> Option<Self> {
        [Self::Mark, Self::InInterface, Self::OutInterface, Self::Family, Self::Transport]
            .into_iter()
            .find(|own| *own as u32 == key)
    }
}

/// Which header an offset counts from (`enum nft_payload_bases`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Header {
    Network = 1,
    Transport = 2,
}

/// One step of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expression {
    /// Loads what is known of the packet.
    Meta(Meta),
    /// Loads the mark of the local socket that the packet is for.
    SocketMark,
    /// Loads bytes of the packet.
    Payload { header: Header, offset: u32, length: u32, register: u32 },
    /// Goes on if the first register holds this.
    Equal(Vec<u8>),
    /// Goes on if the set has what the registers hold.
    In(String),
    /// Counts; its numbers are not compared.
    Count,
    /// Lets it pass this table.
    Accept,
    /// Drops it.
    Drop,
    /// The rest is decided there.
    Goto(String),
}

impl Expression {
    const fn name(&self) -> &'static str {
        match self {
            Self::Meta(_) => "meta",
            Self::SocketMark => "socket",
            Self::Payload { .. } => "payload",
            Self::Equal(_) => "cmp",
            Self::In(_) => "lookup",
            Self::Count => "counter",
            Self::Accept | Self::Drop | Self::Goto(_) => "immediate",
        }
    }

    /// Writes it as an element of a list.
    pub(super) fn write(&self, attributes: &mut Attributes<'_>) {
        attributes.nest(LIST_ELEMENT, |a| {
            a.text(EXPRESSION_NAME, self.name()).nest(EXPRESSION_DATA, |a| self.write_data(a));
        });
    }

    fn write_data(&self, a: &mut Attributes<'_>) {
        let verdict = |a: &mut Attributes<'_>, code: i32, chain: Option<&str>| {
            a.number(1, VERDICT_REGISTER).nest(2, |a| {
                a.nest(DATA_VERDICT, |a| {
                    a.number(VERDICT_CODE, code.cast_unsigned());
                    if let Some(chain) = chain {
                        a.text(VERDICT_CHAIN, chain);
                    }
                });
            });
        };
        match self {
            Self::Meta(key) => {
                a.number(1, REGISTER).number(2, *key as u32);
            }
            Self::SocketMark => {
                a.number(1, 1).number(2, REGISTER);
            }
            Self::Payload { header, offset, length, register } => {
                a.number(1, *register).number(2, *header as u32).number(3, *offset).number(4, *length);
            }
            Self::Equal(value) => {
                a.number(1, REGISTER).number(2, 0).nest(3, |a| {
                    a.bytes(DATA_VALUE, value);
                });
            }
            Self::In(set) => {
                a.text(1, set).number(2, REGISTER);
            }
            Self::Count => {}
            Self::Accept => verdict(a, ACCEPT, None),
            Self::Drop => verdict(a, DROP, None),
            Self::Goto(chain) => verdict(a, GOTO, Some(chain)),
        }
    }

    /// Reads one as the kernel lists it; `None`: none of ours.
    fn read(element: &[u8]) -> Option<Self> {
        let element = Parsed::of(element);
        let name = element.text(EXPRESSION_NAME)?;
        let data = element.nested(EXPRESSION_DATA).unwrap_or_default();
        // Attributes that would change the meaning and that we never write.
        let is_plain = |most: u16| data.each().all(|(kind, _)| kind <= most);
        match name.as_str() {
            "meta" if is_plain(2) && data.number(1)? == REGISTER => Meta::of(data.number(2)?).map(Self::Meta),
            "socket" if is_plain(2) && data.number(1)? == 1 && data.number(2)? == REGISTER => Some(Self::SocketMark),
            "payload" if is_plain(4) => {
                let header = match data.number(2)? {
                    1 => Header::Network,
                    2 => Header::Transport,
                    _ => return None,
                };
                let (register, offset, length) = (data.number(1)?, data.number(3)?, data.number(4)?);
                Some(Self::Payload { header, offset, length, register })
            }
            "cmp" if data.number(1)? == REGISTER && data.number(2)? == 0 => {
                Some(Self::Equal(data.nested(3)?.get(DATA_VALUE)?.to_vec()))
            }
            // 3: into a register, that is a map; 5: flags, inverted.
            "lookup" if data.number(2)? == REGISTER && data.get(3).is_none() && data.number(5).unwrap_or(0) == 0 => {
                data.text(1).map(Self::In)
            }
            "counter" => Some(Self::Count),
            "immediate" if data.number(1)? == VERDICT_REGISTER => {
                let verdict = data.nested(2)?.nested(DATA_VERDICT)?;
                match verdict.number(VERDICT_CODE)?.cast_signed() {
                    ACCEPT => Some(Self::Accept),
                    DROP => Some(Self::Drop),
                    GOTO => verdict.text(VERDICT_CHAIN).map(Self::Goto),
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

/// Reads a rule's list of expressions; `None`: there is one that is none of ours.
pub(super) fn read(list: &[u8]) -> Option<Vec<Expression>> {
    Parsed::of(list).each().filter(|(kind, _)| *kind == LIST_ELEMENT).map(|(_, one)| Expression::read(one)).collect()
}

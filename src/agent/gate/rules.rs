//! The rules of the gate, from the file's words.
//!
//! ```text
//! table inet NAME {
//!   set ports  { type inet_service }                 the broker's
//!   set open   { type inet_service; flags timeout }  open while an element stands here
//!   set peers4 { type ipv4_addr }  set peers6 { type ipv6_addr }
//!   set admit4 { type ipv4_addr; flags timeout }  set admit6 { … }    while the member is a standby
//!   chain input  { hook input,  priority -300: tcp dport @ports goto to_broker }
//!   chain output { hook output, priority -300: tcp sport @ports goto from_broker }
//!   chain to_broker   { iif lo accept; saddr @peers accept; saddr @admit accept; tcp dport @open accept; counter drop }
//!   chain from_broker { oif lo accept; daddr @peers accept; daddr @admit accept; tcp sport @open accept; counter drop }
//! }
//! ```
//!
//! No rule asks connection tracking, so a connection that stands is cut like one that begins, in both directions: a
//! queued acknowledgement cannot leave. Packets are dropped, not rejected: a lease that came a moment too late is then
//! a pause that TCP heals, and no reset tells clients what did not happen. They are told where to go by the redirect.
//!
//! With `local: closed`, both directions on the loopback are judged where they come in: towards the broker by the
//! packet's mark, back from it by the mark of the socket that it is for. Only who has CAP_NET_ADMIN can set a mark.
//!
//! What goes through this host to somebody else (the forward hook) is left alone: cutting a port there would cut the
//! clients on this host from the *new* primary. A broker in a network namespace of its own (a container) has its gate
//! in that namespace: [`super::Gate::install_in`].

use std::collections::BTreeSet;

use super::{
    GateError, OWN_MARK,
    expression::{BEHIND_FOUR, BEHIND_SIXTEEN, Expression, Header, Meta, REGISTER},
    table::{Chain, Hook, Key, Layout, Set, address_key, port_key},
};
use crate::agent::spec::{GateSpec, LocalClients};

/// The set whose elements open the ports.
pub(super) const OPEN: &str = "open";

/// The kernel's name for `lo` in every network namespace.
const LOOPBACK_INDEX: u32 = 1;
const TCP: u8 = 6;
const FAMILY_V4: u8 = 2;
const FAMILY_V6: u8 = 10;
/// `NFT_NAME_MAXLEN`, its end included.
const NAME_MAX: usize = 255;

/// Source or destination.
#[derive(Clone, Copy)]
pub(super) enum Side {
    Source,
    Destination,
}

const fn payload(header: Header, offset: u32, length: u32) -> Expression {
    Expression::Payload { header, offset, length, register: REGISTER }
}

const fn port_of(side: Side, register: u32) -> Expression {
    let offset = match side {
        Side::Source => 0,
        Side::Destination => 2,
    };
    Expression::Payload { header: Header::Transport, offset, length: 2, register }
}

fn is_tcp() -> [Expression; 2] {
    [Expression::Meta(Meta::Transport), Expression::Equal(vec![TCP])]
}

const fn address_of(side: Side, is_v4: bool) -> Expression {
    match (is_v4, side) {
        (true, Side::Source) => payload(Header::Network, 12, 4),
        (true, Side::Destination) => payload(Header::Network, 16, 4),
        (false, Side::Source) => payload(Header::Network, 8, 16),
        (false, Side::Destination) => payload(Header::Network, 24, 16),
    }
}

fn is_family(is_v4: bool) -> [Expression; 2] {
    [Expression::Meta(Meta::Family), Expression::Equal(vec![if is_v4 { FAMILY_V4 } else { FAMILY_V6 }])]
}

/// `tcp dport @set`, or its like.
fn tcp_port(side: Side, set: &str, then: Expression) -> Vec<Expression> {
    is_tcp().into_iter().chain([port_of(side, REGISTER), Expression::In(set.into()), then]).collect()
}

fn address(side: Side, is_v4: bool, set: &str, then: Expression) -> Vec<Expression> {
    is_family(is_v4).into_iter().chain([address_of(side, is_v4), Expression::In(set.into()), then]).collect()
}

/// `ip daddr . tcp dport @set`, or its like.
pub(super) fn address_and_port(side: Side, is_v4: bool, set: &str, then: &[Expression]) -> Vec<Expression> {
    let behind = if is_v4 { BEHIND_FOUR } else { BEHIND_SIXTEEN };
    is_family(is_v4)
        .into_iter()
        .chain(is_tcp())
        .chain([address_of(side, is_v4), port_of(side, behind), Expression::In(set.into())])
        .chain(then.iter().cloned())
        .collect()
}

/// `ip daddr @set` for TCP, or its like.
pub(super) fn tcp_address(side: Side, is_v4: bool, set: &str, then: &[Expression]) -> Vec<Expression> {
    is_family(is_v4)
        .into_iter()
        .chain(is_tcp())
        .chain([address_of(side, is_v4), Expression::In(set.into())])
        .chain(then.iter().cloned())
        .collect()
}

/// An interface's index, and a mark, are numbers in the host's order.
fn equal_number(number: u32) -> Expression {
    Expression::Equal(number.to_ne_bytes().to_vec())
}

fn admitted(side: Side) -> [Vec<Expression>; 4] {
    [("peers4", true), ("peers6", false), ADMIT_V4, ADMIT_V6]
        .map(|(set, is_v4)| address(side, is_v4, set, Expression::Accept))
}

/// The sets of those who pass while the member is a standby, and whether they hold IPv4 addresses.
pub(super) const ADMIT_V4: (&str, bool) = ("admit4", true);
pub(super) const ADMIT_V6: (&str, bool) = ("admit6", false);

/// The table of a gate, closed.
pub(super) fn layout(spec: &GateSpec) -> Result<Layout, GateError> {
    let bad = |why: String| Err(GateError::Spec { why });
    if spec.table.is_empty() || spec.table.len() > NAME_MAX || spec.table.contains('\0') {
        return bad(format!("`{}` is no name for a table: 1 to {NAME_MAX} characters", spec.table));
    }
    if spec.ports.is_empty() || spec.ports.contains(&0) {
        return bad("a gate needs the broker's ports, and 0 is none".into());
    }
    let (v4, v6): (Vec<_>, Vec<_>) = spec.peers.iter().map(|a| address_key(*a)).partition(|(is_v4, _)| *is_v4);
    let keys = |all: Vec<(bool, Vec<u8>)>| Some(all.into_iter().map(|(_, key)| key).collect::<BTreeSet<_>>());
    let sets = vec![
        Set {
            name: "ports",
            key: Key::Port,
            fixed: Some(spec.ports.iter().map(|port| port_key(*port)).collect()),
            timed: false,
        },
        Set { name: OPEN, key: Key::Port, fixed: None, timed: true },
        Set { name: "peers4", key: Key::V4, fixed: keys(v4), timed: false },
        Set { name: "peers6", key: Key::V6, fixed: keys(v6), timed: false },
        Set { name: ADMIT_V4.0, key: Key::V4, fixed: None, timed: true },
        Set { name: ADMIT_V6.0, key: Key::V6, fixed: None, timed: true },
    ];
    let closed = spec.local == LocalClients::Closed;
    let from_loopback = || [Expression::Meta(Meta::InInterface), equal_number(LOOPBACK_INDEX)];
    let end = || vec![Expression::Count, Expression::Drop];

    let mut local = from_loopback().to_vec();
    if closed {
        local.extend([Expression::Meta(Meta::Mark), equal_number(OWN_MARK)]);
    }
    local.push(Expression::Accept);
    let mut to_broker = vec![local];
    to_broker.extend(admitted(Side::Source));
    to_broker.extend([tcp_port(Side::Destination, OPEN, Expression::Accept), end()]);

    let out_loopback = vec![Expression::Meta(Meta::OutInterface), equal_number(LOOPBACK_INDEX), Expression::Accept];
    let mut from_broker = vec![out_loopback];
    from_broker.extend(admitted(Side::Destination));
    from_broker.extend([tcp_port(Side::Source, OPEN, Expression::Accept), end()]);

    let mut input = vec![tcp_port(Side::Destination, "ports", Expression::Goto("to_broker".into()))];
    let mut chains = vec![
        Chain { name: "to_broker", hook: None, rules: to_broker },
        Chain { name: "from_broker", hook: None, rules: from_broker },
    ];
    if closed {
        let mut to_local = vec![vec![Expression::SocketMark, equal_number(OWN_MARK), Expression::Accept]];
        to_local.extend(admitted(Side::Destination));
        to_local.extend([tcp_port(Side::Source, OPEN, Expression::Accept), end()]);
        chains.push(Chain { name: "to_local", hook: None, rules: to_local });
        let answers = tcp_port(Side::Source, "ports", Expression::Goto("to_local".into()));
        input.push(from_loopback().into_iter().chain(answers).collect());
    }
    let output = vec![tcp_port(Side::Source, "ports", Expression::Goto("from_broker".into()))];
    chains.push(Chain { name: "input", hook: Some(Hook::Input), rules: input });
    chains.push(Chain { name: "output", hook: Some(Hook::Output), rules: output });
    Ok(Layout { name: spec.table.clone(), sets, chains })
}

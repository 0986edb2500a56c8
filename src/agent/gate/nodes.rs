//! At a node: what a fenced primary still sends does not arrive, and nothing reaches it.

use std::{collections::BTreeSet, net::SocketAddr};

use super::{
    GateError,
    expression::Expression,
    netlink::{Batch, Socket},
    rules::{Side, address_and_port, tcp_address},
    table::{self, Chain, Hook, Key, Layout, Set, address_key},
};

/// The sets, with whether they hold IPv4 addresses, and whether ports stand beside them.
const SETS: [(&str, bool, bool); 4] =
    [("fenced4", true, true), ("fenced6", false, true), ("hosts4", true, false), ("hosts6", false, false)];

/// Addresses of fenced members that this node does not speak with, connections that stand included. Programs on the node
/// and, unlike the gate, what the node forwards (its containers): the addresses are exact.
///
/// An address with port 0 stands for all TCP of that host: for members that open the connections to the nodes themselves,
/// from ports that nobody knows. The mesh is UDP, and goes on.
///
/// Like the gate, the table outlives the process: a node that starts again does not fall back to an old primary.
#[derive(Debug)]
pub struct DropSet {
    socket: Socket,
    layout: Layout,
}

impl DropSet {
    /// Sees to it that the table `inet coroner_node_<name>` stands. One that stands keeps its members; one that was altered
    /// is replaced, with its members kept where they can be read.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn install(name: &str) -> Result<Self, GateError> {
        let word: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let mut own = Self { socket: Socket::open(0)?, layout: layout(format!("coroner_node_{word}")) };
        own.ensure()?;
        Ok(own)
    }

    /// Restores the table if it was altered, members included as far as the kernel still lists them. Says whether it had to.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn ensure(&mut self) -> Result<bool, GateError> {
        match self.layout.verify(&mut self.socket) {
            Ok(()) => return Ok(false),
            Err(GateError::Altered { .. }) => {}
            Err(e) if e.is_absence() => {}
            Err(e) => return Err(e),
        }
        let before = self.get().unwrap_or_default();
        let mut batch = Batch::default();
        self.layout.write(&mut batch);
        self.fill(&mut batch, &before);
        self.socket.commit(&batch)?;
        Ok(true)
    }

    /// These members and no others, in one transaction.
    ///
    /// # Errors
    /// The kernel refused, or the table is gone: see [`DropSet::ensure`].
    pub fn set(&mut self, members: &[SocketAddr]) -> Result<(), GateError> {
        let mut batch = Batch::default();
        for (name, ..) in SETS {
            table::flush(&mut batch, &self.layout.name, name);
        }
        self.fill(&mut batch, &members.iter().copied().collect());
        self.socket.commit(&batch)
    }

    /// Nobody is dropped any more.
    ///
    /// # Errors
    /// As [`DropSet::set`].
    pub fn clear(&mut self) -> Result<(), GateError> {
        self.set(&[])
    }

    /// Who is dropped, as the kernel lists it.
    ///
    /// # Errors
    /// The kernel refused, or the table is gone.
    pub fn get(&mut self) -> Result<BTreeSet<SocketAddr>, GateError> {
        let mut found = BTreeSet::new();
        for (name, _, has_port) in SETS {
            let elements = table::elements(&mut self.socket, &self.layout.name, name)?;
            found.extend(elements.iter().filter_map(|element| read(&element.key, has_port)));
        }
        Ok(found)
    }

    /// Takes the table away.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn remove(mut self) -> Result<(), GateError> {
        let mut batch = Batch::default();
        table::delete(&mut batch, &self.layout.name);
        self.socket.commit(&batch)
    }

    /// The table's name.
    #[must_use]
    pub fn table(&self) -> &str {
        &self.layout.name
    }

    /// The kernel's number of this socket, for [`super::GateWatch::ignore`].
    #[must_use]
    pub const fn port_id(&self) -> u32 {
        self.socket.port()
    }

    fn fill(&self, batch: &mut Batch, members: &BTreeSet<SocketAddr>) {
        for (name, wants_v4, has_port) in SETS {
            let of_this = members.iter().filter(|m| (m.port() != 0) == has_port).map(|m| key(*m));
            let keys: BTreeSet<Vec<u8>> = of_this.filter(|(is_v4, _)| *is_v4 == wants_v4).map(|(_, key)| key).collect();
            if !keys.is_empty() {
                table::add_elements(batch, &self.layout.name, name, keys.iter(), None);
            }
        }
    }
}

fn key(member: SocketAddr) -> (bool, Vec<u8>) {
    let (is_v4, mut key) = address_key(member.ip());
    if member.port() == 0 {
        return (is_v4, key);
    }
    key.extend(member.port().to_be_bytes());
    key.extend([0, 0]);
    (is_v4, key)
}

fn read(key: &[u8], has_port: bool) -> Option<SocketAddr> {
    let (address, port) = key.split_at_checked(key.len().checked_sub(if has_port { 4 } else { 0 })?)?;
    let port = if has_port { u16::from_be_bytes([port[0], port[1]]) } else { 0 };
    if let Ok(v4) = <[u8; 4]>::try_from(address) {
        return Some((v4, port).into());
    }
    <[u8; 16]>::try_from(address).ok().map(|v6| (v6, port).into())
}

fn layout(name: String) -> Layout {
    let set = |name, key| Set { name, key, fixed: None, timed: false };
    let end = [Expression::Count, Expression::Drop];
    let rule = |side, (set, is_v4, has_port): (&str, bool, bool)| match has_port {
        true => address_and_port(side, is_v4, set, &end),
        false => tcp_address(side, is_v4, set, &end),
    };
    let from: Vec<_> = SETS.into_iter().map(|set| rule(Side::Source, set)).collect();
    let to: Vec<_> = SETS.into_iter().map(|set| rule(Side::Destination, set)).collect();
    let chain = |name, hook, rules| Chain { name, hook: Some(hook), rules };
    let key_of = |is_v4, has_port| match (is_v4, has_port) {
        (true, true) => Key::V4Port,
        (false, true) => Key::V6Port,
        (true, false) => Key::V4,
        (false, false) => Key::V6,
    };
    let both = from.iter().chain(&to).cloned().collect();
    Layout {
        name,
        sets: SETS.into_iter().map(|(name, is_v4, has_port)| set(name, key_of(is_v4, has_port))).collect(),
        chains: vec![
            chain("input", Hook::Input, from),
            chain("output", Hook::Output, to),
            chain("forward", Hook::Forward, both),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_back() {
        for text in ["10.0.0.1:6379", "[2001:db8::1]:6380"] {
            let member: SocketAddr = text.parse().unwrap();
            assert_eq!(read(&key(member).1, true), Some(member));
            let host = SocketAddr::new(member.ip(), 0);
            assert_eq!(read(&key(host).1, false), Some(host));
        }
        assert_eq!(key("[::ffff:10.0.0.1]:1".parse().unwrap()), key("10.0.0.1:1".parse().unwrap()));
        assert_eq!(read(&[1, 2], true), None);
    }
}

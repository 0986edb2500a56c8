//! From the file to what a party is told: who it is, who the others are, what it takes part in.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, ToSocketAddrs as _, UdpSocket},
};

use crate::{
    config::{Config, MeshConfig, Part},
    mesh::{
        message::Life,
        party::{ClusterSetup, PeerSetup, Setup},
    },
    model::{ClusterName, MemberName, NodeName, PartyName},
};

/// The file does not say enough to take part.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// There is no mesh.
    #[error("the file has no `mesh`: an agent needs one, with itself and the arbiters in it")]
    NoMesh,
    /// No party fits.
    #[error("{0}")]
    WhoAmI(String),
    /// The address of a party is of no use.
    #[error(
        "the address {address} of {party} cannot be resolved: {why}. Write an IP address: names are not asked later"
    )]
    Address {
        /// Whose.
        party: PartyName,
        /// What is written.
        address: String,
        /// Why.
        why: String,
    },
}

/// Which party of the file this process is: the one named; else the one named like this host; else the only agent whose
/// address is this host's.
///
/// # Errors
/// None fits, or more than one.
pub fn who_am_i(mesh: &MeshConfig, given: Option<&str>) -> Result<PartyName, SetupError> {
    let names = || {
        let agents =
            mesh.parties.iter().filter(|(_, party)| party.part != Part::Arbiter).map(|(name, _)| name.as_str());
        agents.collect::<Vec<_>>().join(", ")
    };
    if let Some(given) = given {
        return match mesh.parties.get_key_value(given) {
            Some((name, party)) if party.part != Part::Arbiter => Ok(name.clone()),
            Some(_) => Err(SetupError::WhoAmI(format!("{given} is an arbiter; the file's agents are: {}", names()))),
            None => Err(SetupError::WhoAmI(format!("the file knows no agent {given}; it knows: {}", names()))),
        };
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    let short = host.split('.').next().unwrap_or(host);
    for name in [host, short] {
        if let Some((name, party)) = mesh.parties.get_key_value(name)
            && party.part != Part::Arbiter
        {
            return Ok(name.clone());
        }
    }
    let agents = mesh.parties.iter().filter(|(_, party)| party.part != Part::Arbiter);
    let local: Vec<_> = agents.filter(|(_, party)| is_local(&party.address)).map(|(name, _)| name.clone()).collect();
    match local.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(SetupError::WhoAmI(format!(
            "no agent of the file is named like this host ({host}) or has one of its addresses; say which with --name: {}",
            names()
        ))),
        several => Err(SetupError::WhoAmI(format!(
            "several agents of the file have an address of this host ({}); say which with --name",
            several.iter().map(PartyName::as_str).collect::<Vec<_>>().join(", ")
        ))),
    }
}

/// Only an address of this host can be bound.
fn is_local(address: &str) -> bool {
    resolve(address).is_ok_and(|address| UdpSocket::bind((address.ip(), 0)).is_ok())
}

fn resolve(address: &str) -> Result<SocketAddr, String> {
    let mut found = address.to_socket_addrs().map_err(|error| error.to_string())?;
    found.next().ok_or_else(|| "the name has no address".into())
}

/// What a party is told, the arbiter's too.
///
/// # Errors
/// There is no mesh, or an address cannot be resolved.
pub fn setup(config: &Config, me: &PartyName, life: Life) -> Result<Setup, SetupError> {
    let mesh = config.mesh.as_ref().ok_or(SetupError::NoMesh)?;
    let mut parties = BTreeMap::new();
    for (name, party) in &mesh.parties {
        let address = resolve(&party.address).map_err(|why| SetupError::Address {
            party: name.clone(),
            address: party.address.clone(),
            why,
        })?;
        let is_arbiter = party.part == Part::Arbiter;
        parties.insert(name.clone(), PeerSetup { public_key: party.public_key, address, is_arbiter });
    }
    let part = mesh.parties.get(me).map(|party| &party.part);
    let clusters = config.policy.clusters.iter().filter_map(|(cluster, policy)| {
        let (guards, observes_for) = match part? {
            Part::Arbiter => (None, None),
            Part::Members(of) => (Some(of.iter().find(|(c, _)| c == cluster)?.1.clone()), None),
            Part::Nodes(of) => (None, Some(of.iter().find(|(c, _)| c == cluster)?.1.clone())),
        };
        let restart_grace = guards.as_ref().and_then(|member| config.clusters.get(cluster)?.guards.get(member));
        let setup = ClusterSetup {
            lease: policy.failover.lease.clone(),
            restart_grace: restart_grace.map(|guard| guard.restart_grace).unwrap_or_default(),
            guards,
            observes_for,
            members: members(mesh, cluster),
        };
        Some((cluster.clone(), setup))
    });
    Ok(Setup {
        me: me.clone(),
        life,
        clusters: clusters.collect(),
        parties,
        relays: mesh.relays,
        ping_every: mesh.ping_every,
        beat_every: mesh.beat_every,
        order_valid_for: mesh.order_valid_for,
    })
}

/// The agents of a cluster's members.
fn members(mesh: &MeshConfig, cluster: &ClusterName) -> BTreeMap<MemberName, PartyName> {
    let mut found = BTreeMap::new();
    for (name, party) in &mesh.parties {
        if let Part::Members(of) = &party.part {
            let of = of.iter().filter(|(c, _)| c == cluster);
            found.extend(of.map(|(_, member)| (member.clone(), name.clone())));
        }
    }
    found
}

/// The members that this party guards.
#[must_use]
pub fn guarded(mesh: &MeshConfig, me: &PartyName) -> Vec<(ClusterName, MemberName)> {
    match mesh.parties.get(me).map(|party| &party.part) {
        Some(Part::Members(of)) => of.clone(),
        _ => Vec::new(),
    }
}

/// The nodes that this party observes for.
#[must_use]
pub fn observed(mesh: &MeshConfig, me: &PartyName) -> Vec<(ClusterName, NodeName)> {
    match mesh.parties.get(me).map(|party| &party.part) {
        Some(Part::Nodes(of)) => of.clone(),
        _ => Vec::new(),
    }
}

/// The sockets of a cluster's brokers, for a node that drops the traffic of some.
#[must_use]
pub fn broker_sockets(config: &Config, cluster: &ClusterName) -> BTreeMap<MemberName, Vec<SocketAddr>> {
    let members = config.clusters.get(cluster).map(|cluster| cluster.members.as_slice()).unwrap_or_default();
    let sockets = |address: &str| address.to_socket_addrs().map(Iterator::collect).unwrap_or_default();
    members.iter().map(|target| (target.member.clone(), sockets(&target.address))).collect()
}

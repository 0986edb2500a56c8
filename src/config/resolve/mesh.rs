//! The mesh: who takes part, as what, and whether its times fit together.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::{Resolver, as_ip};
use crate::{
    config::{
        ArbiterConfig, MeshConfig, Part, PartyConfig,
        diagnostic::did_you_mean,
        schema::{self, Cluster, Mesh, Party},
        shape::{At, Entries},
        yaml::{Id, Tree},
    },
    mesh::keys::{KeyError, PublicKey},
    model::{ClusterName, MemberName, NodeName, PartyName, Span, time::human},
};

/// What is known of the mesh while clusters are resolved: what the file names, sound or not.
#[derive(Debug, Default)]
pub(super) struct MeshView {
    /// All parties, with their addresses where they can be read.
    parties: BTreeMap<String, Option<SocketAddr>>,
    /// Those of them that are arbiters.
    pub(super) arbiters: Vec<PartyName>,
    /// How often an unchanged beat is repeated.
    pub(super) beat_every: Duration,
}

const BEAT_EVERY: Duration = Duration::from_millis(250);

impl MeshView {
    /// `None`: there is no mesh.
    pub(super) fn of(tree: &Tree, root: Id) -> Option<Self> {
        let mesh = tree.get(root, "mesh")?;
        let text = |id: Id, key: &str| tree.get(id, key).map(|id| tree.node(id).text.as_str());
        let arbiter = tree.get(root, "arbiter").and_then(|id| text(id, "name"));
        let beat_every = text(mesh, "beat_every").and_then(|t| Span::parse(t).ok());
        let mut view = Self { beat_every: beat_every.map_or(BEAT_EVERY, |s| s.0), ..Self::default() };
        for &(key, party) in tree.get(mesh, "parties").map(|id| tree.entries(id)).unwrap_or_default() {
            let name = tree.node(key).text.as_str();
            if arbiter == Some(name) || text(party, "arbiter") == Some("true") {
                view.arbiters.push(name.into());
            }
            view.parties.insert(name.to_owned(), text(party, "address").and_then(|t| t.parse().ok()));
        }
        Some(view)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.parties.contains_key(name)
    }

    /// Where the party is reached.
    pub(super) fn ip(&self, name: &str) -> Option<IpAddr> {
        self.parties.get(name).copied().flatten().map(|a| a.ip())
    }
}

/// Whom the file knows by one name.
#[derive(Debug, Default)]
struct Known {
    is_arbiter: bool,
    members: Vec<(ClusterName, MemberName)>,
    /// Whether one of these clusters says how its agents guard.
    is_guarded: bool,
    nodes: Vec<(ClusterName, NodeName)>,
}

impl Resolver<'_> {
    pub(super) fn mesh(
        &mut self,
        at: &At<Mesh>,
        arbiter: Option<&ArbiterConfig>,
        clusters: Option<&At<Entries<Cluster>>>,
    ) -> Option<MeshConfig> {
        let m = &at.value;
        // What could not be read here, because another host has it, was emptied; see `interpolate`.
        let is_elsewhere = self.tree.get(at.id, "key").is_some_and(|id| self.tree.node(id).raw.is_some());
        if m.key.is_none() && !is_elsewhere {
            let help = "make one on each host with `coroner key new /etc/coroner/mesh.key`, and write `key: \"${file:mesh.key}\"`";
            self.error_help(at, "`key` is missing: whoever takes part signs with a key of its own", help);
        }
        let known = self.known_by_name(arbiter, clusters);
        let parties = self.need(at.id, "parties", &m.parties).map(|list| self.parties(list, &known));
        let is_shared = arbiter.is_some_and(|a| a.shared.is_some());
        if let Some(list) = m.parties.as_ref().filter(|_| is_shared)
            && self.mesh.as_ref().is_some_and(|mesh| mesh.arbiters.is_empty())
        {
            let help =
                "add each by its instance's name: `NAME: { key: \"ed25519:…\", address: \"ip:port\", arbiter: true }`";
            self.error_help(list, "none of the parties is an arbiter", help);
        }
        if let (Some(list), Some(arbiter), false) = (&m.parties, arbiter, is_shared)
            && self.tree.get(list.id, &arbiter.name).is_none()
        {
            let help = format!("add `{}: {{ key: \"ed25519:…\", address: \"ip:port\" }}`", arbiter.name);
            self.error_help(list, format!("the arbiter `{}` is not among the parties", arbiter.name), help);
        }
        let ping_every = self.span(&m.ping_every, BEAT_EVERY);
        let beat_every = self.span(&m.beat_every, BEAT_EVERY);
        let order_valid_for = self.span(&m.order_valid_for, Duration::from_secs(2));
        let twice = beat_every.saturating_mul(2);
        if let Some(at) = m.order_valid_for.as_ref().or(m.beat_every.as_ref()).filter(|_| order_valid_for < twice) {
            let message = format!(
                "an order answers a beat and is good for {}, and beats come every {}: most orders would come too late",
                human(order_valid_for),
                human(beat_every)
            );
            self.error_help(at, message, format!("write `order_valid_for: {}` or more", human(twice)));
        }
        if let Some(at) = m.order_valid_for.as_ref().filter(|_| order_valid_for > Duration::from_secs(30)) {
            let help = "write at most 30s: what is carried out later was decided on what was true then";
            self.error_help(at, "an arbiter that slept for so long could still act on an old decision", help);
        }
        if let (Some(own), Some(udp)) = (arbiter.and_then(|a| parties.as_ref()?.get(a.name.as_str())), arbiter?.udp)
            && own.address.parse() == Ok(udp)
        {
            let place = self.place_of_party(at.id, &arbiter?.name);
            let message = format!("heartbeats come to {udp} already (`arbiter.listen.udp`)");
            self.notes.error_help(place, message, "give the mesh a port of its own");
        }
        Some(MeshConfig {
            key: m.key.as_ref().map(|k| k.value.clone()),
            parties: parties?,
            relays: m.relay.unwrap_or(true),
            ping_every,
            beat_every,
            order_valid_for,
            state: m.state.as_ref().map_or("/var/lib/coroner", |s| &s.value).into(),
            socket: m.socket.as_ref().map_or("/run/coroner/agent-{name}.sock", |s| &s.value).into(),
            is_real_time: m.real_time.unwrap_or(true),
        })
    }

    fn place_of_party(&self, mesh: Id, name: &str) -> crate::config::diagnostic::Place {
        let party = self.tree.get(mesh, "parties").and_then(|list| self.tree.get(list, name));
        party.map_or_else(|| self.tree.head(mesh), |id| self.tree.head(id))
    }

    fn known_by_name(
        &self,
        arbiter: Option<&ArbiterConfig>,
        clusters: Option<&At<Entries<Cluster>>>,
    ) -> BTreeMap<String, Known> {
        let mut known: BTreeMap<String, Known> = BTreeMap::new();
        // Of several, each has a name of its own among the parties.
        if let Some(arbiter) = arbiter.filter(|a| a.shared.is_none()) {
            known.entry(arbiter.name.clone()).or_default().is_arbiter = true;
        }
        for (name, cluster) in clusters.iter().flat_map(|c| &c.value.0) {
            let view = self.view(cluster);
            let cluster = ClusterName::from(name.value.as_str());
            for member in view.members {
                let entry = known.entry(member.to_string()).or_default();
                entry.is_guarded |= view.has_agent_section;
                entry.members.push((cluster.clone(), member));
            }
            for node in view.nodes {
                known.entry(node.to_string()).or_default().nodes.push((cluster.clone(), node));
            }
        }
        known
    }

    fn parties(
        &mut self,
        list: &At<Entries<Party>>,
        known: &BTreeMap<String, Known>,
    ) -> BTreeMap<PartyName, PartyConfig> {
        let mut parties: BTreeMap<PartyName, PartyConfig> = BTreeMap::new();
        for (name, at) in &list.value.0 {
            self.check_name(name, "a party's name");
            let part = self.part(name, at, known.get(&name.value), known);
            let key = self.need(at.id, "key", &at.value.key).and_then(|key| self.public_key(key));
            let address = self.need(at.id, "address", &at.value.address).cloned();
            let is_sound = address.as_ref().and_then(|a| self.socket_address(a)).is_some_and(|a| {
                let is_reachable = a.port() != 0 && !a.ip().is_unspecified();
                if let (false, Some(at)) = (is_reachable, &address) {
                    let help = "write the address by which the others reach it";
                    self.error_help(at, format!("nobody can send to `{a}`"), help);
                }
                is_reachable
            });
            for (other, party) in &parties {
                if key == Some(party.public_key)
                    && let Some(at) = &at.value.key
                {
                    let help = "make one for each with `coroner key new`";
                    self.error_help(
                        at,
                        format!("`{other}` has the same key, so that one could speak as the other"),
                        help,
                    );
                }
                if let Some(at) = address.as_ref().filter(|a| a.value == party.address) {
                    let help = "give each process a port of its own";
                    self.error_help(at, format!("`{}` has the address of `{other}`", name.value), help);
                }
            }
            if let (Some(part), Some(public_key), Some(address), true) = (part, key, address, is_sound) {
                parties.insert(name.value.as_str().into(), PartyConfig { public_key, address: address.value, part });
            }
        }
        parties
    }

    /// What the party is. One name must mean one thing, because a party may speak for whatever has its name.
    fn part(
        &mut self,
        name: &At<String>,
        at: &At<Party>,
        named: Option<&Known>,
        known: &BTreeMap<String, Known>,
    ) -> Option<Part> {
        let is_marked = at.value.arbiter.as_ref().is_some_and(|a| a.value);
        let nobody = Known::default();
        let named = named.unwrap_or(&nobody);
        let is_arbiter = named.is_arbiter || is_marked;
        if let Some(word) = at.value.arbiter.as_ref().filter(|a| !a.value && named.is_arbiter) {
            self.error(word, format!("`{}` is the arbiter's name", name.value));
        }
        let kinds =
            [(is_arbiter, "an arbiter"), (!named.members.is_empty(), "a member"), (!named.nodes.is_empty(), "a node")];
        let is: Vec<&str> = kinds.iter().filter(|(is, _)| *is).map(|(_, word)| *word).collect();
        match is[..] {
            [] => {
                let near = did_you_mean(&name.value, known.keys().map(String::as_str));
                let help = format!("{near} If it is one more arbiter, write `arbiter: true` beside its key");
                let message = format!("`{}` is neither the arbiter nor a member or a node", self.shown(name.id));
                self.error_help(name, message, help);
                return None;
            }
            [_] => {}
            [first, second, ..] => {
                let message = format!("`{}` is {first} and {second}, and a party speaks for its name", name.value);
                self.error_help(name, message, "give one of them another name");
                return None;
            }
        }
        if is_arbiter {
            return Some(Part::Arbiter);
        }
        if named.members.is_empty() {
            return Some(Part::Nodes(named.nodes.clone()));
        }
        if !named.is_guarded {
            let clusters: Vec<&str> = named.members.iter().map(|(c, _)| c.as_str()).collect();
            let message = format!(
                "`{}` is a member of `{}`, which does not say how its agent guards it",
                name.value,
                clusters.join("`, `")
            );
            self.error_help(name, message, "add `agent: { broker: … }` to the cluster");
        }
        Some(Part::Members(named.members.clone()))
    }

    fn public_key(&mut self, at: &At<String>) -> Option<[u8; 32]> {
        let help = "write the line that `coroner key show FILE` prints on its host: `ed25519:…`";
        match PublicKey::parse(&at.value) {
            Ok(key) => Some(key.0),
            Err(KeyError::PrivateInPublic) => {
                let help = "make a new one with `coroner key new`, and write the public line here";
                self.error_help(at, "this is a private key, and everyone who reads the file could sign with it", help);
                None
            }
            Err(_) => {
                self.error_help(at, format!("`{}` is no public key", self.shown(at.id)), help);
                None
            }
        }
    }

    /// One host for two that must not fail together.
    pub(super) fn colocated(&mut self, file: &schema::File, arbiter: &ArbiterConfig) {
        if file.arbiter.as_ref().is_some_and(|a| a.value.unsafe_colocated) {
            return;
        }
        let is_a_host = |ip: &IpAddr| !ip.is_unspecified() && !ip.is_loopback();
        let mut own: Vec<IpAddr> = [arbiter.http, arbiter.udp].into_iter().flatten().map(|a| a.ip()).collect();
        own.extend(self.mesh.iter().flat_map(|m| m.arbiters.iter().filter_map(|name| m.ip(name.as_str()))));
        own.retain(is_a_host);
        let help = "put it on a third host; or write `unsafe_colocated: true` under `arbiter`";
        for (_, cluster) in file.clusters.iter().flat_map(|c| &c.value.0) {
            let mut voters: Vec<(IpAddr, &str)> = Vec::new();
            let has_lease = self.tree.get(cluster.id, "failover").is_some_and(|f| self.tree.get(f, "lease").is_some());
            for (name, member) in cluster.value.members.iter().flat_map(|m| &m.value.0) {
                let written = member.value.address.as_ref().and_then(|a| as_ip(&a.value));
                let party = self.mesh.as_ref().and_then(|m| m.ip(&name.value));
                let hosts = [written, party].into_iter().flatten().filter(is_a_host).collect::<Vec<_>>();
                if hosts.iter().any(|ip| own.contains(ip)) {
                    let message = format!(
                        "the arbiter stands on the host of `{}`: they die together, and fencing that host fences the arbiter",
                        name.value
                    );
                    self.error_help(name, message, help);
                }
                if member.value.priority == Some(0) || !has_lease {
                    continue;
                }
                if let Some(ip) = party.filter(is_a_host) {
                    if let Some((_, other)) = voters.iter().find(|(host, _)| *host == ip) {
                        let message =
                            format!("`{}` and `{other}` vote on the lease, and stand on one host", name.value);
                        let help = "put them on two hosts; or write `unsafe_colocated: true` under `arbiter`";
                        self.error_help(name, message, help);
                    }
                    voters.push((ip, &name.value));
                }
            }
        }
    }
}

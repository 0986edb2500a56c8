//! What agents guard, observe, watch and stop, put in for each member and node.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{ClusterView, Resolver, as_ip, fence::best_proof, signal::Signal};
use crate::{
    agent::spec::{ArrivalsFrom, GateSpec, Guard, Guarded, Observe},
    broker::AnyBroker,
    config::{
        Source,
        diagnostic::{Place, did_you_mean},
        schema::{self, Cluster},
        shape::At,
        yaml::Id,
    },
    fence::{AnyFence, agent::Agent},
    model::{
        MemberName, NodeName, NodeTarget, Proof, Target,
        agent::Watch,
        policy::{Observers, SignalPolicy, Subjects, Traffic},
        time::human,
    },
};

/// Fences that every agent has.
const OWN: [&str; 3] = [Agent::GATE, Agent::KILL, Agent::READ_ONLY];

/// So many beats may be lost before what an agent said is unknown; and a hiccup.
const BEATS_LOST: u32 = 4;
const HICCUP: Duration = Duration::from_millis(500);

impl Resolver<'_> {
    /// How the agents of the members guard.
    pub(super) fn guards(
        &mut self,
        view: &ClusterView,
        cluster: &At<Cluster>,
        targets: &[Target],
    ) -> BTreeMap<MemberName, Guard> {
        let Some(at) = &cluster.value.agent else { return BTreeMap::new() };
        let a = &at.value;
        if self.mesh.is_none() {
            let help = "add `mesh` with the keys and addresses of the arbiter and of the members";
            self.error_help(at, "the file has no `mesh` by which agents could be reached", help);
        } else if view.agents.is_empty() {
            let help = "add the members to `mesh.parties`";
            self.error_help(at, "no member of the cluster has an agent", help);
        }
        let broker = self.need(at.id, "broker", &a.broker);
        if let Some(broker) = broker {
            self.check_guarded(broker);
        }
        if let Some(gate) = &a.gate {
            self.check_gate(view, gate, targets);
        }
        let progress_every = self.span(&a.progress.every, Duration::from_millis(50));
        let default = Duration::from_millis(200).max(progress_every.saturating_mul(4));
        let progress_timeout = self.span(&a.progress.timeout, default);
        if let Some(at) = a.progress.timeout.as_ref().filter(|_| progress_timeout < progress_every.saturating_mul(2)) {
            let message = format!(
                "a broker that is asked every {} would lose its lease by one answer that comes late",
                human(progress_every)
            );
            let help = format!("write {} or more", human(progress_every.saturating_mul(2)));
            self.error_help(at, message, help);
        }
        let restart_grace = match &a.restart_grace {
            // None is a choice here: every restart then needs a new grant.
            Some(grace) => grace.value.0,
            None => Duration::from_secs(2),
        };
        let start_within = self.span(&a.start_within, Duration::from_secs(30));
        for path in [&a.data, &a.watchdog].into_iter().flatten().chain(&a.keep) {
            self.check_path(path);
        }
        for (name, fence) in &a.fences.0 {
            self.check_name(name, "a fence's name");
            if OWN.contains(&name.value.as_str()) {
                self.error(name, format!("every agent has a fence `{}` already", name.value));
            }
            match &fence.value {
                AnyFence::Agent(_) | AnyFence::Gate(_) | AnyFence::Kill(_) | AnyFence::Nodes(_) => {
                    self.error(fence, "a fence of the agent cannot be an order to an agent");
                }
                AnyFence::ReadOnly(_) => {
                    self.error(fence, "every agent has a fence `read_only` already: write `{ agent: read_only }`");
                }
                other => self.check_fence(view, fence.id, other),
            }
        }
        let fences: BTreeMap<String, AnyFence> =
            a.fences.0.iter().map(|(name, fence)| (name.value.clone(), fence.value.clone())).collect();
        let mut guards = BTreeMap::new();
        for target in targets.iter().filter(|t| view.agents.contains(&t.member)) {
            let path = |text: &At<String>| PathBuf::from(target.expand(&text.value));
            let Some(broker) = broker.and_then(|b| guarded(&b.value, target)) else { continue };
            let guard = Guard {
                member: target.member.clone(),
                broker,
                gate: a.gate.as_ref().map(|gate| self.gate_of(&gate.value, target, targets)),
                fences: fences.clone(),
                data: a.data.as_ref().map(path),
                keep: a.keep.iter().map(path).collect(),
                progress_every,
                progress_timeout,
                restart_grace,
                start_within,
                watchdog: a.watchdog.as_ref().map(path),
                stop_without_gate: a.stop_without_gate.unwrap_or(true),
            };
            guards.insert(target.member.clone(), guard);
        }
        guards
    }

    fn check_path(&mut self, at: &At<String>) {
        if !Path::new(&at.value).is_absolute() {
            self.error(at, format!("`{}` is no absolute path", self.shown(at.id)));
        }
    }

    fn check_guarded(&mut self, at: &At<schema::Guarded>) {
        let b = &at.value;
        let ways: Vec<_> = [&b.unit, &b.pid_file, &b.cgroup].into_iter().flatten().collect();
        if ways.len() != 1 && !["unit", "pid_file", "cgroup"].iter().any(|w| self.is_unsound(at.id, w)) {
            let place = ways.get(1).map_or_else(|| self.tree.head(at.id), |w| self.tree.head(w.id));
            self.notes.error_help(
                place,
                "the broker is known by exactly one of `unit`, `pid_file` and `cgroup`",
                "a unit of systemd is best: it names the control group, the main process and the restarts",
            );
        }
        if let Some(unit) = b.unit.as_ref().filter(|u| !u.value.contains('.')) {
            self.error_help(unit, "the unit has no ending", format!("write `{}.service`", unit.value));
        }
        if let Some(path) = &b.pid_file {
            self.check_path(path);
        } else if let Some(word) = &b.executable {
            self.error(word, "`executable` belongs to `pid_file`");
        }
        if let Some(group) = b.cgroup.as_ref().filter(|g| is_outside(&g.value)) {
            let help = "write for example `system.slice/redis.service`, as in `/proc/PID/cgroup`";
            self.error_help(group, format!("`{}` is no control group", self.shown(group.id)), help);
        }
    }

    /// Whether the key stands there and could not be read, which was noted.
    fn is_unsound(&self, id: Id, key: &str) -> bool {
        self.tree.get(id, key).is_some_and(|id| matches!(self.tree.node(id).value, crate::config::yaml::Value::Map(_)))
    }

    fn check_gate(&mut self, view: &ClusterView, at: &At<schema::Gate>, targets: &[Target]) {
        let g = &at.value;
        for port in g.ports.iter().filter(|p| p.value == 0) {
            self.error(port, "there is no port 0");
        }
        for word in &g.admit {
            if word.value.parse::<IpAddr>().is_err() {
                let help = "names are not resolved: the gate must not depend on a name service";
                self.error_help(word, format!("`{}` is no IP address", self.shown(word.id)), help);
            }
        }
        for target in targets {
            let by_party = self.mesh.as_ref().and_then(|m| m.ip(target.member.as_str()));
            if view.members.len() > 1 && as_ip(&target.address).is_none() && by_party.is_none() {
                let message = format!(
                    "the gate lets the other members in by IP address, and `{}` has only the name `{}`",
                    target.member,
                    target.host()
                );
                self.error_help(at, message, "write its address as an IP, or add its agent to `mesh.parties`");
            }
        }
    }

    fn gate_of(&self, gate: &schema::Gate, target: &Target, targets: &[Target]) -> GateSpec {
        let others = targets.iter().filter(|t| t.member != target.member);
        let mesh = self.mesh.as_ref();
        let mut admit: Vec<IpAddr> = gate.admit.iter().filter_map(|a| a.value.parse().ok()).collect();
        admit.extend(mesh.iter().flat_map(|m| m.arbiters.iter().filter_map(|name| m.ip(name.as_str()))));
        let mut peers: Vec<IpAddr> = others.clone().filter_map(|t| as_ip(&t.address)).collect();
        peers.extend(others.filter_map(|t| mesh?.ip(t.member.as_str())));
        // The loopback is the gate's `local`; let in by its address, every client on the host would come in.
        admit.retain(|ip| !ip.is_loopback() || gate.admit.iter().any(|a| a.value.parse() == Ok(*ip)));
        peers.retain(|ip| !ip.is_loopback());
        for list in [&mut admit, &mut peers] {
            list.sort_unstable();
            list.dedup();
        }
        let mut ports: Vec<u16> = gate.ports.iter().map(|p| p.value).collect();
        if ports.is_empty() {
            ports.extend(target.port());
        }
        let table = format!("coroner_gate_{}_{}", target.cluster, target.member);
        GateSpec { table: plain(&table), ports, local: gate.local.unwrap_or_default(), peers, admit }
    }

    /// Tables of one name would be one table.
    pub(super) fn check_tables(
        &mut self,
        clusters: &BTreeMap<crate::model::ClusterName, crate::config::ClusterConfig>,
    ) {
        let mut tables = BTreeMap::new();
        for (cluster, parts) in clusters {
            for guard in parts.guards.values() {
                let Some(gate) = &guard.gate else { continue };
                let whose = format!("{cluster}/{}", guard.member);
                if let Some(other) = tables.insert(gate.table.clone(), whose.clone()) {
                    let message = format!("the gates of {other} and {whose} would both be the table `{}`", gate.table);
                    let root = self.tree.root.unwrap_or(Id(0));
                    let place = self.place_of(root, Some(cluster), None);
                    self.notes.error_help(
                        place,
                        message,
                        "rename one of them: `-`, `.` and `_` are all `_` in a table",
                    );
                }
            }
        }
    }

    /// What the agents of the nodes do.
    pub(super) fn observes(
        &mut self,
        cluster: &At<Cluster>,
        name: &str,
        nodes: &[NodeTarget],
    ) -> BTreeMap<NodeName, Observe> {
        let has_agent = |r: &Self, node: &NodeTarget| r.mesh.as_ref().is_some_and(|m| m.has(node.node.as_str()));
        let served: Vec<&NodeTarget> = nodes.iter().filter(|n| has_agent(self, n)).collect();
        let observe = cluster.value.observe.as_ref();
        if let Some(at) = observe {
            if served.is_empty() {
                let help = "add the nodes to `mesh.parties`";
                self.error_help(at, "no node of the cluster has an agent", help);
            }
            self.check_observe(cluster, at);
        }
        let nothing = schema::Observe::default();
        let o = observe.map_or(&nothing, |at| &at.value);
        let mut out = BTreeMap::new();
        for node in served {
            // A node stands in the member's place, as it does for probes.
            let target = Target {
                cluster: name.into(),
                member: node.node.as_str().into(),
                address: node.address.clone().unwrap_or_default(),
            };
            let expand = |text: &str| target.expand(&text.replace("{node}", node.node.as_str()));
            let list = |words: &At<Vec<At<String>>>| words.value.iter().map(|w| expand(&w.value)).collect();
            let arrivals = if let Some(words) = &o.channels {
                ArrivalsFrom::Channels(list(words))
            } else if let Some(words) = &o.streams {
                ArrivalsFrom::Streams(list(words))
            } else if let Some(m) = &o.metric {
                let text = |t: &Option<At<String>>| t.as_ref().map(|t| expand(&t.value)).unwrap_or_default();
                ArrivalsFrom::Metric { url: text(&m.value.url), metric: text(&m.value.name) }
            } else if let Some(path) = &o.file {
                ArrivalsFrom::File(expand(&path.value).into())
            } else {
                ArrivalsFrom::Nothing
            };
            let whole_host = o.whole_host.as_ref().is_some_and(|w| w.value);
            out.insert(node.node.clone(), Observe { arrivals, enforce: o.enforce.unwrap_or(false), whole_host });
        }
        out
    }

    fn check_observe(&mut self, cluster: &At<Cluster>, at: &At<schema::Observe>) {
        let o = &at.value;
        let ways: Vec<Id> = [
            o.channels.as_ref().map(|w| w.id),
            o.streams.as_ref().map(|w| w.id),
            o.metric.as_ref().map(|w| w.id),
            o.file.as_ref().map(|w| w.id),
        ]
        .into_iter()
        .flatten()
        .collect();
        if let [_, second, ..] = ways[..] {
            let message = "arrivals are learned in one way: `channels`, `streams`, `metric` or `file`";
            self.notes.error(self.tree.head(second), message);
        }
        for words in [&o.channels, &o.streams].into_iter().flatten() {
            if words.value.is_empty() {
                self.error(words, "the list is empty");
            }
            match &cluster.value.broker {
                None if self.tree.get(cluster.id, "broker").is_none() => {
                    self.error(words, "the cluster has no `broker` kind to subscribe at");
                }
                Some(At { value: AnyBroker::Jolokia(_), .. }) => {
                    self.error(words, "nothing can be subscribed to over Jolokia: write `metric` or `file`");
                }
                Some(At { value: AnyBroker::Redis(_) | AnyBroker::Relay(_), .. }) | None => {}
            }
        }
        if let Some(at) = o.whole_host.as_ref().filter(|w| w.value && o.enforce != Some(true)) {
            self.error_help(at, "nothing is dropped, so neither is a whole host", "write `enforce: true` beside it");
        }
        if let Some(metric) = &o.metric {
            self.need(metric.id, "url", &metric.value.url);
            self.need(metric.id, "name", &metric.value.name);
        }
        if let Some(file) = &o.file {
            self.check_path(file);
        }
    }

    /// Evidence of the members' agents as a signal.
    pub(super) fn agent_signal(
        &mut self,
        view: &ClusterView,
        cluster: &At<Cluster>,
        id: Id,
        agent: &schema::AgentWatch,
    ) -> Option<Signal> {
        let watch = self.need(id, "watch", &agent.watch);
        let subjects = self.need(id, "of", &agent.of).and_then(|of| self.subjects(view, of));
        if self.needs_agents(view, self.tree.head(id), "evidence comes from agents")
            && let (Some(Subjects::Member(member)), Some(of)) = (&subjects, &agent.of)
            && !view.agents.contains(member)
        {
            self.error_help(of, format!("`{member}` has no agent"), "add it to `mesh.parties`");
        }
        self.warn_of_silence(view, subjects.as_ref(), agent.of.as_ref());
        let guard = cluster.value.agent.as_ref().map(|a| &a.value);
        let broker = guard.and_then(|g| g.broker.as_ref()).map(|b| &b.value);
        if let (Some(at), Some(guard), Some(broker)) = (watch, guard, broker) {
            let lacks = match at.value {
                Watch::Unit if broker.unit.is_none() => Some("`unit` under the cluster's `agent.broker`"),
                Watch::Cgroup if broker.pid_file.is_some() => {
                    Some("`unit` or `cgroup` under the cluster's `agent.broker`")
                }
                Watch::Disk if guard.data.is_none() => {
                    Some("`data` under the cluster's `agent`: the directory to look at")
                }
                _ => None,
            };
            if let Some(lacks) = lacks {
                self.error_help(at, format!("the agents have no `{}` to watch", at.value), format!("add {lacks}"));
            }
        }
        let (watch, subjects) = (watch?.value, subjects?);
        let every = self.mesh.as_ref()?.beat_every;
        let policy = SignalPolicy {
            kind: watch.kind(),
            observers: Observers::Members,
            subjects,
            every,
            fresh_for: every.saturating_mul(BEATS_LOST).saturating_add(HICCUP),
            traffic: Traffic::default(),
        };
        Some(Signal { policy, source: Source::Agent { watch } })
    }

    /// Some of those that the signal is about have no agent.
    fn warn_of_silence(&mut self, view: &ClusterView, subjects: Option<&Subjects>, of: Option<&At<String>>) {
        let several = matches!(subjects, Some(Subjects::Primary | Subjects::Standbys | Subjects::Members));
        let silent: Vec<&str> =
            view.members.iter().filter(|m| !view.agents.contains(*m)).map(MemberName::as_str).collect();
        if let (true, Some(of), false, false) = (several, of, silent.is_empty(), view.agents.is_empty()) {
            let message = format!("of `{}` nothing will be known: it has no agent", silent.join("`, `"));
            self.notes.warning(self.tree.head(of.id), message);
        }
    }

    /// Whether the cluster has agents; else it is a mistake at that place.
    fn needs_agents(&mut self, view: &ClusterView, place: Place, what: &str) -> bool {
        let (lacks, help) = if self.mesh.is_none() {
            ("the file has no `mesh`", "add `mesh` to the file and `agent` to the cluster")
        } else if !view.has_agent_section {
            ("the cluster has no `agent`", "add `agent: { broker: … }` to the cluster")
        } else {
            // That none of its members is a party was noted at `agent`.
            return true;
        };
        self.notes.error_help(place, format!("{what}, and {lacks}"), help);
        false
    }

    /// A fence of the agent, as the cluster's `agent` defines it.
    pub(super) fn check_agent_fence(&mut self, view: &ClusterView, cluster: &At<Cluster>, id: Id, name: &str) {
        let place = self.place_of_fence(id);
        if !self.needs_agents(view, place, &format!("`{name}` is done by the agent")) {
            return;
        }
        let named = || cluster.value.agent.iter().flat_map(|a| &a.value.fences.0);
        match name {
            Agent::GATE if !view.has_gate => {
                self.notes.error_help(
                    place,
                    "the agents have no gate to close",
                    "add `gate: {}` to the cluster's `agent`",
                );
            }
            Agent::READ_ONLY if !view.has_broker => {
                self.notes.error(place, "`read_only` asks the broker kind, and the cluster has no `broker`");
            }
            Agent::GATE | Agent::KILL | Agent::READ_ONLY => {}
            _ if named().any(|(n, _)| n.value == name) => {}
            // It stands there and could not be read, which was noted.
            _ if self.names_under(cluster.id, "fences").iter().any(|n| n == name) => {}
            _ => {
                let known = OWN.into_iter().chain(named().map(|(n, _)| n.value.as_str()));
                let help = did_you_mean(name, known);
                self.notes.error_help(place, format!("the agents have no fence `{name}`"), help);
            }
        }
    }

    fn names_under(&self, cluster: Id, field: &str) -> Vec<String> {
        let list = self.tree.get(cluster, "agent").and_then(|a| self.tree.get(a, field));
        let keys = list.map(|id| self.tree.entries(id)).unwrap_or_default();
        keys.iter().map(|(key, _)| self.tree.node(*key).text.clone()).collect()
    }

    /// Where the method's own word stands.
    fn place_of_fence(&self, id: Id) -> Place {
        let kind = |key: &Id| ["agent", "gate", "kill"].contains(&self.tree.node(*key).text.as_str());
        match self.tree.entries(id).iter().find(|(key, _)| kind(key)) {
            Some((key, value)) if self.tree.node(*key).text == "agent" => self.tree.head(*value),
            Some((key, _)) => self.tree.place(*key),
            None => self.tree.head(id),
        }
    }
}

impl Resolver<'_> {
    /// The `nodes` fence needs an agent at each of them that drops traffic.
    pub(super) fn check_nodes_fence(&mut self, view: &ClusterView, cluster: &At<Cluster>, id: Id) {
        let place = self.tree.head(id);
        if view.nodes.is_empty() {
            self.notes.error_help(place, "`nodes` needs nodes, and the cluster has none", "add `nodes: [worker-1, …]`");
            return;
        }
        let has_agent = |node: &&NodeName| self.mesh.as_ref().is_some_and(|m| m.has(node.as_str()));
        let without: Vec<&str> = view.nodes.iter().filter(|n| !has_agent(n)).map(NodeName::as_str).collect();
        if !without.is_empty() {
            let message =
                format!("`nodes` is done by the agents of all nodes; without one: `{}`", without.join("`, `"));
            self.notes.error_help(place, message, "add the nodes to `mesh.parties`");
        }
        if cluster.value.observe.as_ref().is_none_or(|o| o.value.enforce != Some(true)) {
            let help = "add `observe: { enforce: true }` to the cluster";
            self.notes.error_help(place, "`nodes` has the nodes drop traffic, and they may not", help);
        }
    }
}

/// Whether an agent's own fence says what role the member starts in.
pub(super) fn has_role_flag(cluster: &Cluster) -> bool {
    let fences = cluster.agent.iter().flat_map(|a| &a.value.fences.0);
    fences.into_iter().any(|(_, fence)| matches!(&fence.value, AnyFence::FileFlag(flag) if flag.follows_role))
}

/// The best proof of a fence of the agent.
pub(super) fn best_agent_proof(cluster: &Cluster, agent: &Agent) -> Proof {
    let named = cluster.agent.iter().flat_map(|a| &a.value.fences.0).find(|(name, _)| name.value == agent.name);
    agent.best_proof().or_else(|| named.map(|(_, fence)| best_proof(&fence.value))).unwrap_or(Proof::Claim)
}

fn guarded(broker: &schema::Guarded, target: &Target) -> Option<Guarded> {
    let text = |at: &At<String>| target.expand(&at.value);
    if let Some(unit) = &broker.unit {
        return Some(Guarded::Unit(text(unit)));
    }
    if let Some(path) = &broker.pid_file {
        return Some(Guarded::PidFile { path: text(path).into(), executable: broker.executable.as_ref().map(text) });
    }
    broker.cgroup.as_ref().map(|group| Guarded::Cgroup(below_root(&text(group)).into()))
}

fn below_root(group: &str) -> &str {
    group.strip_prefix("/sys/fs/cgroup").unwrap_or(group).trim_start_matches('/')
}

/// Nothing, the root of all groups, or a way out of them.
fn is_outside(group: &str) -> bool {
    let group = below_root(group);
    group.is_empty() || Path::new(group).components().any(|c| !matches!(c, std::path::Component::Normal(_)))
}

/// Letters, digits and `_` only.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).collect()
}

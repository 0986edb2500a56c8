//! From the file as it is written to the policy and the drivers' parts: names resolved, timings held against each
//! other, everything that makes no sense noted at its place. Nothing stops at the first mistake.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::{
    Access, AccessRole, ArbiterConfig, ClusterConfig, Config, TlsConfig,
    decode::decode,
    diagnostic::{Notes, Place},
    lint,
    schema::{self, Cluster},
    shape::{At, Entries, ListOrMap, WordOrMap},
    yaml::{Id, Tree, Value},
};
use crate::mesh::keys::{KeyError, PublicKey};
use crate::model::{
    ClusterName, ClusterPolicy, MemberName, NodeName, NodeTarget, Policy, SignalName, Span, Target,
    policy::{ArbiterPolicy, MemberPolicy},
};

mod agent;
mod failover;
pub(super) mod fence;
mod lease;
mod mesh;
mod rule;
pub(super) mod signal;
pub(crate) mod store;
mod trial;

use mesh::MeshView;

/// Resolves the whole file; `None` when too little of it could be read.
pub(super) fn resolve(tree: &Tree, notes: &mut Notes) -> Option<Config> {
    let root = tree.root?;
    mask_secrets_in_clear(tree, notes);
    let file: schema::File = decode(tree, root, notes)?;
    let mut r = Resolver { tree, notes, mesh: MeshView::of(tree, root) };

    let arbiter = r.need(root, "arbiter", &file.arbiter).and_then(|a| r.arbiter(a));
    let mut clusters = BTreeMap::new();
    let mut policies = BTreeMap::new();
    if let Some(list) = r.need(root, "clusters", &file.clusters) {
        if r.tree.entries(list.id).is_empty() {
            r.notes.error(r.tree.head(list.id), "there is no cluster: name at least one service to watch");
        }
        for (name, cluster) in &list.value.0 {
            r.check_name(name, "a cluster's name");
            if let Some((policy, parts)) = r.cluster(name, cluster) {
                policies.insert(policy.name.clone(), policy);
                clusters.insert(ClusterName::from(name.value.as_str()), parts);
            }
        }
    }
    let mesh = file.mesh.as_ref().and_then(|m| {
        let arbiter = arbiter.as_ref().map(|(config, _)| config);
        r.mesh(m, arbiter, file.clusters.as_ref())
    });
    r.check_tables(&clusters);
    for report in &file.report {
        r.check_report(report);
    }
    if let Some((config, _)) = &arbiter {
        r.colocated(&file, config);
        r.store_is_no_member(&file);
    }
    if let (Some((config, _)), Some(list)) = (&arbiter, &file.clusters) {
        r.check_access(&file, config, &list.value);
    }
    let tests = {
        let own = arbiter.as_ref().map_or("arbiter", |(config, _)| config.name.as_str());
        let resolved = trial::Resolved { policies: &policies, parts: &clusters, arbiter: own };
        r.trials(&file.tests, file.clusters.as_ref(), &resolved)
    };
    if r.notes.is_refused() {
        return None;
    }
    let (arbiter, limits) = arbiter?;
    let mut policy = Policy { hash: String::new(), arbiter: limits, clusters: policies };
    policy.hash = hash(&policy);
    let reports = file.report.into_iter().map(|r| r.value).collect();
    let config = Config { policy, arbiter, clusters, mesh, reports, tests, warnings: Vec::new() };
    for finding in lint::lint(&config) {
        let place = r.place_of(root, finding.cluster.as_ref(), finding.rule.as_ref().map(|n| n.as_str()));
        r.notes.warning(place, finding.message);
    }
    Some(config)
}

/// A hash of what the policy means: the same for the same meaning, however the file is written.
fn hash(policy: &Policy) -> String {
    // A policy is plain data with text keys: it always serializes.
    let text = serde_json::to_vec(policy).unwrap_or_default();
    let digest = ring::digest::digest(&ring::digest::SHA256, &text);
    digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Secrets that stand in the file in clear: they are masked wherever their line is shown, and warned of.
fn mask_secrets_in_clear(tree: &Tree, notes: &mut Notes) {
    for id in tree.ids() {
        let node = tree.node(id);
        // A private key of the mesh, wherever it stands: in the place of a public one, everybody would be shown it.
        if PublicKey::parse(&node.text) == Err(KeyError::PrivateInPublic) && node.raw.is_none() {
            notes.mask(node.place);
            notes.hide(&node.text, "********");
            let message =
                "a private key stands here in clear: use `${file:…}`; if others could read it, make a new one";
            notes.warning(node.key.map_or(node.place, |key| tree.place(key)), message);
        }
        for &(key, value) in tree.entries(id) {
            let (word, node) = (tree.node(key).text.to_lowercase(), tree.node(value));
            let is_url = word == "url" && tree.node(id).key.is_some_and(|k| tree.node(k).text == "webhook");
            // A URL is shown without what stands before its host.
            if word == "store"
                && let Some(credentials) = store::credentials_in_clear(node)
            {
                notes.mask(node.place);
                notes.hide(credentials, "********");
                notes.warning(
                    tree.place(key),
                    "a password stands here in clear: use `${file:…}`, `${env:…}` or `${credential:…}`",
                );
            }
            let is_secret = ["password", "passwd", "token", "secret", "authorization", "api_key", "api-key"]
                .iter()
                .any(|s| word.contains(s));
            let is_text = !matches!(node.value, Value::Seq(_) | Value::Map(_) | Value::Null | Value::Bool(_));
            if (is_url || is_secret) && is_text && node.raw.is_none() && !node.text.contains("${") {
                notes.mask(node.place);
                notes.hide(&node.text, "********");
                if is_secret {
                    let message = format!(
                        "the value of `{word}` stands here in clear: use `${{file:…}}`, `${{env:…}}` or `${{credential:…}}`"
                    );
                    notes.warning(tree.place(key), message);
                }
            }
        }
    }
}

fn is_empty(value: &Value, text: &str) -> bool {
    match value {
        Value::Seq(items) => items.is_empty(),
        Value::Map(entries) => entries.is_empty(),
        _ => text.is_empty(),
    }
}

/// The host of a `host:port`, if it is written as an IP address.
fn as_ip(address: &str) -> Option<IpAddr> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

struct Resolver<'a> {
    tree: &'a Tree,
    notes: &'a mut Notes,
    mesh: Option<MeshView>,
}

/// What is known of a cluster while its parts are resolved.
struct ClusterView {
    /// The cluster's node.
    id: Id,
    /// All members that the file names, sound or not.
    members: Vec<MemberName>,
    /// All nodes.
    nodes: Vec<NodeName>,
    has_broker: bool,
    /// Whether the cluster says how its agents guard.
    has_agent_section: bool,
    /// Whether they have a gate.
    has_gate: bool,
    /// The members that have an agent.
    agents: BTreeSet<MemberName>,
}

impl Resolver<'_> {
    /// The value, or a mistake if the key does not stand there. If it does and is unsound, it was noted.
    fn need<'v, T>(&mut self, parent: Id, field: &str, value: &'v Option<T>) -> Option<&'v T> {
        if value.is_none() {
            match self.tree.get(parent, field) {
                None => self.notes.error(self.tree.head(parent), format!("`{field}` is missing")),
                Some(id) if self.tree.node(id).value == Value::Null => {
                    self.notes.error(self.tree.head(id), format!("`{field}` is empty"));
                }
                Some(_) => {}
            }
        }
        value.as_ref()
    }

    /// The text as it may be shown.
    fn shown(&self, id: Id) -> &str {
        self.tree.node(id).shown()
    }

    fn error<T>(&mut self, at: &At<T>, message: impl Into<String>) {
        self.notes.error(self.tree.head(at.id), message);
    }

    fn error_help<T>(&mut self, at: &At<T>, message: impl Into<String>, help: impl Into<String>) {
        self.notes.error_help(self.tree.head(at.id), message, help);
    }

    /// Names stand in metrics, paths and firewall tables.
    fn check_name(&mut self, name: &At<String>, what: &str) {
        let is_fit = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.value.is_empty() || name.value.len() > 63 || !name.value.chars().all(is_fit) {
            self.error_help(
                name,
                format!("`{}` cannot be {what}", self.shown(name.id)),
                "use 1 to 63 of the characters a-z, A-Z, 0-9, `-`, `_` and `.`",
            );
        }
    }

    /// A duration that must not be zero, or the default.
    fn span(&mut self, span: &Option<At<Span>>, default: Duration) -> Duration {
        let Some(at) = span else { return default };
        if at.value.0.is_zero() {
            self.error(at, "a duration of zero makes no sense here");
        }
        at.value.0
    }

    /// `host:port` with both parts.
    fn check_address(&mut self, at: &At<String>) {
        let text = &at.value;
        let host_and_port = text.rsplit_once(':').filter(|(host, port)| {
            let is_bare_v6 = host.contains(':') && !host.starts_with('[');
            !host.is_empty() && !is_bare_v6 && port.parse::<u16>().is_ok_and(|p| p > 0)
        });
        if host_and_port.is_none() || text.contains(char::is_whitespace) || text.contains('/') {
            let help = "write for example `10.0.0.11:6379` or `[fd00::11]:6379`";
            self.error_help(at, format!("`{}` is not `host:port`", self.shown(at.id)), help);
        }
    }

    fn socket_address(&mut self, at: &At<String>) -> Option<SocketAddr> {
        let address = at.value.parse().ok();
        if address.is_none() {
            let help = "write an address and a port, such as `10.0.0.13:7400` or `[::]:7400`; names are not resolved";
            self.error_help(at, format!("`{}` is not `ip:port`", self.shown(at.id)), help);
        }
        address
    }

    fn arbiter(&mut self, at: &At<schema::Arbiter>) -> Option<(ArbiterConfig, ArbiterPolicy)> {
        let a = &at.value;
        let default = ArbiterPolicy::default();
        let name = self.need(at.id, "name", &a.name).map(|n| {
            self.check_name(n, "the arbiter's name");
            n.value.clone()
        });
        let store = self.need(at.id, "store", &a.store).and_then(|s| self.store(s, a));
        let no_listen = schema::Listen::default();
        let (mut http, listen) = match &a.listen {
            None => (None, &no_listen),
            Some(WordOrMap::Word(word)) => (self.socket_address(word), &no_listen),
            Some(WordOrMap::Map(listen)) => (None, listen),
        };
        if let Some(text) = &listen.http {
            http = self.socket_address(text);
        }
        let udp = listen.udp.as_ref().and_then(|text| self.socket_address(text));
        let tls = listen.tls.as_ref().and_then(|tls| {
            if http.is_none() && listen.http.is_none() {
                self.error(tls, "`tls` protects HTTP, and there is no `http` beside it");
            }
            let (cert, key) = (self.need(tls.id, "cert", &tls.value.cert), self.need(tls.id, "key", &tls.value.key));
            let client_ca = tls.value.client_ca.as_ref().map(Into::into);
            Some(TlsConfig { cert: cert?.into(), key: key?.into(), client_ca })
        });
        let access = a.access.iter().filter_map(|entry| self.access(entry)).collect();
        let storm_clusters = a.storm.clusters.as_ref().map_or(default.storm_clusters, |n| n.value);
        if let Some(at) = a.storm.clusters.as_ref().filter(|n| n.value == 0) {
            self.error(at, "with `clusters: 0` no failover would ever be done: write `mode: shadow` for that");
        }
        let limits = ArbiterPolicy {
            name: name.clone().unwrap_or_default(),
            tilt_after: self.span(&a.tilt.after, default.tilt_after),
            tilt_for: self.span(&a.tilt.for_, default.tilt_for),
            storm_clusters,
            storm_within: self.span(&a.storm.within, default.storm_within),
            check_fences_every: self.span(&a.check_fences_every, default.check_fences_every),
        };
        let (store, shared) = store?;
        let journal = self.journal(&a.journal, &store);
        let config = ArbiterConfig {
            name: name?,
            http,
            udp,
            socket: listen.socket.as_ref().map_or("/run/coroner/coroner.sock", |s| &s.value).into(),
            tls,
            access,
            socket_operators: a.socket_operators.clone(),
            store,
            shared,
            journal,
            check_fences_every: limits.check_fences_every,
        };
        Some((config, limits))
    }

    fn access(&mut self, at: &At<schema::Access>) -> Option<Access> {
        let a = &at.value;
        let (name, role) = (self.need(at.id, "name", &a.name), self.need(at.id, "role", &a.role));
        if let Some(token) = &a.token
            && token.value.expose().chars().count() < 16
        {
            let help = "make one with `openssl rand -hex 32`";
            self.error_help(token, "a token needs at least 16 characters", help);
        }
        if let (Some(first), Some(role)) = (a.reports_as.first(), role)
            && role.value != AccessRole::Report
        {
            self.error(first, "`reports_as` belongs to the role `report`");
        }
        Some(Access {
            name: name?.value.clone(),
            role: role?.value,
            token: a.token.as_ref().map(|t| t.value.clone()),
            reports_as: a.reports_as.iter().map(|n| n.value.clone()).collect(),
        })
    }

    /// What can be said of access only once the clusters are known.
    fn check_access(&mut self, file: &schema::File, config: &ArbiterConfig, clusters: &Entries<Cluster>) {
        let Some(arbiter) = &file.arbiter else { return };
        let mut reporters = BTreeSet::new();
        for (_, cluster) in &clusters.0 {
            let view = self.view(cluster);
            reporters.extend(view.members.iter().map(ToString::to_string));
            reporters.extend(view.nodes.iter().map(ToString::to_string));
            reporters.extend(self.pushed_alerts(cluster));
        }
        let has_client_ca = config.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        let mut names = BTreeSet::new();
        let mut tokens = Vec::new();
        for entry in &arbiter.value.access {
            let a = &entry.value;
            let Some(name) = &a.name else { continue };
            if !names.insert(&name.value) {
                self.error(name, format!("`{}` stands in `access` twice", self.shown(name.id)));
            }
            match &a.token {
                Some(token) if tokens.contains(&token.value.expose()) => {
                    self.error(token, "somebody else has the same token, so that nobody could tell them apart");
                }
                Some(token) => tokens.push(token.value.expose()),
                None if self.tree.get(entry.id, "token").is_none() && !has_client_ca => {
                    let message = format!("`{}` has no token, and there is no `client_ca` to know it by", name.value);
                    self.error_help(name, message, "add `token: \"${file:…}\"`, or `client_ca` under `listen.tls`");
                }
                None => {}
            }
            if a.role.as_ref().is_some_and(|r| r.value == AccessRole::Report) {
                let default = [name.clone()];
                let list = if a.reports_as.is_empty() { &default[..] } else { &a.reports_as[..] };
                for who in list.iter().filter(|w| !reporters.contains(&w.value)) {
                    let message =
                        format!("no cluster has a member, node or pushed alert `{}` to report as", self.shown(who.id));
                    let help = super::diagnostic::did_you_mean(&who.value, reporters.iter().map(String::as_str));
                    self.error_help(who, message, help);
                }
            }
        }
    }

    /// The signals that an alert system pushes: whoever is neither a member nor a node reports under their names.
    fn pushed_alerts(&self, cluster: &At<Cluster>) -> Vec<String> {
        let signals = self.tree.get(cluster.id, "signals");
        let below = |id: Id, key: &str| self.tree.get(id, key);
        let is_alert =
            |id: Id| below(id, "alert").is_some() || below(id, "push").and_then(|p| below(p, "alert")).is_some();
        let entries = signals.map(|id| self.tree.entries(id)).unwrap_or_default();
        let alerts = entries.iter().filter(|(_, value)| is_alert(*value));
        alerts.map(|(key, _)| self.tree.node(*key).text.clone()).collect()
    }

    fn check_report(&mut self, at: &At<crate::report::AnyReport>) {
        use crate::report::AnyReport as R;
        let missing = match &at.value {
            R::Alertmanager(r) if r.url.is_empty() => "url",
            R::Webhook(r) if r.url.expose().is_empty() => "url",
            R::Exec(r) if r.command.is_empty() => "command",
            _ => return,
        };
        self.missing_in_kind(at.id, missing);
    }

    /// A key that is missing or empty in the one kind below `id`, pointing at the kind.
    fn missing_in_kind(&mut self, id: Id, field: &str) {
        let kind = self.tree.entries(id).iter().find(|(_, v)| matches!(self.tree.node(*v).value, Value::Map(_)));
        let place = kind.map_or_else(|| self.tree.head(id), |(key, _)| self.tree.place(*key));
        match kind.and_then(|(_, value)| self.tree.get(*value, field)) {
            None => self.notes.error(place, format!("`{field}` is missing")),
            Some(value) if is_empty(&self.tree.node(value).value, &self.tree.node(value).text) => {
                self.notes.error(self.tree.head(value), format!("`{field}` is empty"));
            }
            // It stands there and could not be read, which was noted.
            Some(_) => {}
        }
    }

    /// The names that the cluster declares, whether or not what belongs to them is sound.
    fn view(&self, cluster: &At<Cluster>) -> ClusterView {
        let keys = |field: &str| {
            let under = self.tree.get(cluster.id, field);
            under.map(|id| self.tree.entries(id).iter().map(|(k, _)| self.tree.node(*k).text.as_str()).collect())
        };
        let members: Vec<&str> = keys("members").unwrap_or_default();
        let nodes = match self.tree.get(cluster.id, "nodes").map(|id| &self.tree.node(id).value) {
            Some(Value::Seq(items)) => items.iter().map(|i| self.tree.node(*i).text.as_str()).collect(),
            _ => keys("nodes").unwrap_or_default(),
        };
        let section = self.tree.get(cluster.id, "agent");
        let has_agent = |name: &&&str| section.is_some() && self.mesh.as_ref().is_some_and(|m| m.has(name));
        ClusterView {
            id: cluster.id,
            agents: members.iter().filter(has_agent).map(|name| MemberName::from(*name)).collect(),
            members: members.into_iter().map(MemberName::from).collect(),
            nodes: nodes.into_iter().map(NodeName::from).collect(),
            has_broker: self.tree.get(cluster.id, "broker").is_some(),
            has_agent_section: section.is_some(),
            has_gate: section.is_some_and(|id| self.tree.get(id, "gate").is_some()),
        }
    }

    fn cluster(&mut self, name: &At<String>, at: &At<Cluster>) -> Option<(ClusterPolicy, ClusterConfig)> {
        let c = &at.value;
        let view = self.view(at);
        if self.tree.get(at.id, "mode").is_none() {
            self.notes.error_help(
                self.tree.place(name.id),
                "`mode` is missing, and there is no default",
                "write `mode: shadow` (judge and tell, never act), `manual` (act once a person approved) or `auto` (act)",
            );
        }
        let cluster_name = ClusterName::from(name.value.as_str());
        let (members, targets) = self.members(&cluster_name, &view, at)?;
        let nodes = self.nodes(c);
        let guards = self.guards(&view, at, &targets);
        let observes = self.observes(at, &name.value, &nodes);
        let initial_primary = c.primary.as_ref().and_then(|p| self.member_name(&view, p));
        if c.primary.is_none() && !view.has_broker && members.len() > 1 {
            let help = "add `primary: <member>`, or a `broker` kind that can be asked";
            self.notes.error_help(self.tree.place(name.id), "nothing says who is primary at first", help);
        }
        let signals = self.signals(&view, at);
        let role_signal =
            signals.iter().find(|(_, s)| signal::asks_role_of_members(&s.source)).map(|(name, _)| name.clone());
        let rules = self.rules(&view, at, &signals);
        let (failover, fence, redirect) = self.failover(&view, at, &signals, role_signal.as_ref())?;
        let (policies, sources) = signals
            .into_iter()
            .map(|(n, s)| ((n.clone(), s.policy), (n, s.source)))
            .unzip::<_, _, BTreeMap<SignalName, _>, _>();
        let policy = ClusterPolicy {
            name: cluster_name,
            mode: c.mode.as_ref()?.value,
            members,
            nodes: view.nodes,
            initial_primary,
            has_broker: view.has_broker,
            signals: policies,
            role_signal,
            rules,
            failover,
        };
        let broker = c.broker.as_ref().map(|b| b.value.clone());
        Some((policy, ClusterConfig { broker, members: targets, nodes, sources, fence, guards, observes, redirect }))
    }

    fn members(
        &mut self,
        cluster: &ClusterName,
        view: &ClusterView,
        at: &At<Cluster>,
    ) -> Option<(Vec<MemberPolicy>, Vec<Target>)> {
        let list = self.need(at.id, "members", &at.value.members)?;
        if self.tree.entries(list.id).is_empty() {
            self.error(list, "there is no member: name at least the primary");
        }
        let (mut policies, mut targets): (Vec<MemberPolicy>, Vec<Target>) = (Vec::new(), Vec::new());
        for (name, member) in &list.value.0 {
            self.check_name(name, "a member's name");
            if let "primary" | "standbys" | "members" | "nodes" = name.value.as_str() {
                self.error(
                    name,
                    format!("`{}` means something else in `of` and `from`: give another name", name.value),
                );
            }
            if view.nodes.iter().any(|n| n.as_str() == name.value) {
                self.error(
                    name,
                    format!("`{}` is the name of a node too, so that reports could not be told apart", name.value),
                );
            }
            let Some(address) = self.need(member.id, "address", &member.value.address) else { continue };
            self.check_address(address);
            if let Some(other) = targets.iter().find(|t| t.address == address.value) {
                let message = format!("`{}` has the address of `{}`", name.value, other.member);
                self.error_help(address, message, "two members on one address would be fenced and promoted as one");
            }
            let member_name = MemberName::from(name.value.as_str());
            targets.push(Target {
                cluster: cluster.clone(),
                member: member_name.clone(),
                address: address.value.clone(),
            });
            policies.push(MemberPolicy {
                has_agent: view.agents.contains(&member_name),
                name: member_name,
                address: address.value.clone(),
                priority: member.value.priority.unwrap_or(100),
                zone: member.value.zone.clone(),
            });
        }
        Some((policies, targets))
    }

    fn nodes(&mut self, cluster: &Cluster) -> Vec<NodeTarget> {
        let mut out: Vec<NodeTarget> = Vec::new();
        let mut add = |r: &mut Self, name: &At<String>, address: Option<&At<String>>| {
            r.check_name(name, "a node's name");
            if out.iter().any(|n| n.node.as_str() == name.value) {
                r.error(name, format!("the node `{}` stands here twice", r.shown(name.id)));
            }
            if let Some(address) = address {
                r.check_address(address);
            }
            let node = NodeName::from(name.value.as_str());
            out.push(NodeTarget { node, address: address.map(|a| a.value.clone()) });
        };
        match cluster.nodes.as_ref().map(|n| &n.value) {
            None => {}
            Some(ListOrMap::List(names)) => names.iter().for_each(|name| add(self, name, None)),
            Some(ListOrMap::Map(entries)) => {
                entries.0.iter().for_each(|(name, node)| add(self, name, node.value.address.as_ref()));
            }
        }
        out
    }

    /// A member by name.
    fn member_name(&mut self, view: &ClusterView, at: &At<String>) -> Option<MemberName> {
        let found = view.members.iter().find(|m| m.as_str() == at.value).cloned();
        if found.is_none() {
            let help = super::diagnostic::did_you_mean(&at.value, view.members.iter().map(MemberName::as_str));
            self.error_help(at, format!("there is no member `{}`", self.shown(at.id)), help);
        }
        found
    }

    /// Where a rule, or else its cluster, stands.
    fn place_of(&self, root: Id, cluster: Option<&ClusterName>, rule: Option<&str>) -> Place {
        let clusters = self.tree.get(root, "clusters");
        let Some(cluster) = clusters.and_then(|c| self.tree.get(c, cluster?.as_str())) else {
            return self.tree.get(root, "arbiter").map_or_else(Place::default, |id| self.tree.head(id));
        };
        let rules = self.tree.get(cluster, "death_rules").map(|id| &self.tree.node(id).value);
        if let (Some(Value::Seq(list)), Some(rule)) = (rules, rule) {
            let names = list.iter().filter_map(|id| self.tree.get(*id, "name"));
            if let Some(id) = names.into_iter().find(|id| self.tree.node(*id).text == rule) {
                return self.tree.place(id);
            }
        }
        self.tree.get(cluster, "failover").map_or_else(|| self.tree.head(cluster), |id| self.tree.head(id))
    }
}

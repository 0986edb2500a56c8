//! Signals: where each comes from, who looks, whom it is about, and for how long an answer is fresh.

use std::{collections::BTreeMap, time::Duration};

use super::{ClusterView, Resolver};
use crate::{
    broker::Ask,
    config::{
        Source,
        diagnostic::did_you_mean,
        schema::{Cluster, Push, SignalModifiers, SignalSource},
        shape::{At, OneOrMany, Tagged, WordOrWords},
        yaml::Id,
    },
    model::{
        NodeName, SignalName, Span,
        policy::{Observers, SignalKind, SignalPolicy, Subjects, Traffic},
        time::human,
    },
    probe::AnyProbe,
};

/// A signal, resolved.
pub(super) struct Signal {
    pub(super) policy: SignalPolicy,
    pub(super) source: Source,
}

impl Signal {
    /// How many streams it has in a cluster of that many members.
    pub(super) fn streams(&self, members: usize) -> usize {
        streams(&self.policy, members)
    }
}

/// How many streams a signal has in a cluster of that many members.
pub(crate) fn streams(policy: &SignalPolicy, members: usize) -> usize {
    match (&policy.observers, &policy.subjects) {
        (Observers::Nodes(nodes), _) => nodes.len(),
        (_, Subjects::Members) => members,
        (_, Subjects::Standbys) => members.saturating_sub(1),
        (_, Subjects::Primary | Subjects::Member(_) | Subjects::Service) => 1,
    }
}

/// Whether this source tells the role of every member.
pub(super) fn asks_role_of_members(source: &Source) -> bool {
    matches!(source, Source::Broker { ask: Ask::Role, subjects: Subjects::Members, .. })
}

/// Words that rules use themselves.
const RESERVED: [&str; 6] = ["all", "any", "not", "at_least", "for", "within"];

const fn kind_of(ask: Ask) -> SignalKind {
    match ask {
        Ask::Ping => SignalKind::Check,
        Ask::Role => SignalKind::Role,
        Ask::Position => SignalKind::Position,
        Ask::ReplicationLink => SignalKind::Link,
        Ask::Write => SignalKind::Write,
    }
}

/// An answer stays fresh while one look may be missed: the next but one decides.
fn fresh(every: Duration, timeout: Duration) -> Duration {
    every.saturating_mul(2).saturating_add(timeout)
}

type Timing = (Duration, Duration);

impl Resolver<'_> {
    pub(super) fn signals(&mut self, view: &ClusterView, cluster: &At<Cluster>) -> BTreeMap<SignalName, Signal> {
        let mut signals = BTreeMap::new();
        for (name, entry) in cluster.value.signals.iter().flat_map(|s| &s.value.0) {
            self.check_name(name, "a signal's name");
            if RESERVED.contains(&name.value.as_str()) {
                self.error(name, format!("`{}` is a word of the rules: give the signal another name", name.value));
            }
            if let Some(signal) = self.signal(view, cluster, entry) {
                signals.insert(SignalName::from(name.value.as_str()), signal);
            }
        }
        if view.has_broker && !signals.values().any(|s| asks_role_of_members(&s.source)) {
            let declared =
                |name: &str| self.tree.get(view.id, "signals").is_some_and(|id| self.tree.get(id, name).is_some());
            let name = ["role", "member_role", "coroner_role"].into_iter().find(|n| !declared(n));
            let (every, timeout) = (Duration::from_secs(1), Duration::from_millis(500));
            let subjects = Subjects::Members;
            let policy = polled(SignalKind::Role, Observers::Arbiter, subjects.clone(), every, timeout);
            let source = Source::Broker { ask: Ask::Role, subjects, every, timeout };
            if let Some(name) = name {
                signals.insert(name.into(), Signal { policy, source });
            }
        }
        signals
    }

    fn signal(
        &mut self,
        view: &ClusterView,
        cluster: &At<Cluster>,
        at: &At<Tagged<SignalSource, SignalModifiers>>,
    ) -> Option<Signal> {
        let (kind, modifiers) = (&at.value.kind, &at.value.modifiers);
        let inner = |r: &Self| {
            let is_kind = |id: Id| !["of", "every", "timeout", "traffic"].contains(&r.tree.node(id).text.as_str());
            r.tree.entries(at.id).iter().find(|(key, _)| is_kind(*key)).map_or(at.id, |(_, value)| *value)
        };
        let probe = match kind {
            SignalSource::Tcp(p) => AnyProbe::Tcp(p.clone()),
            SignalSource::Http(p) => AnyProbe::Http(p.clone()),
            SignalSource::Exec(p) => AnyProbe::Exec(p.clone()),
            SignalSource::Prometheus(p) => AnyProbe::Prometheus(p.clone()),
            SignalSource::File(p) => AnyProbe::File(p.clone()),
            other => {
                self.no_modifiers(modifiers);
                let id = inner(self);
                return match other {
                    SignalSource::Push(push) => self.push(view, push),
                    SignalSource::Alert(alert) => self.alert(id, &alert.labels),
                    SignalSource::Agent(agent) => self.agent_signal(view, cluster, id, agent),
                    SignalSource::Broker(ask) => {
                        if !view.has_broker {
                            self.notes
                                .error(self.tree.head(id), "the cluster has no `broker` kind that could be asked");
                        }
                        let question = self.need(id, "ask", &ask.ask);
                        let subjects = self.need(id, "of", &ask.of).and_then(|of| self.subjects(view, of));
                        let (every, timeout) = self.timing(id, &ask.every, &ask.timeout)?;
                        let (question, subjects) = (question?.value, subjects?);
                        let policy = polled(kind_of(question), Observers::Arbiter, subjects.clone(), every, timeout);
                        Some(Signal { policy, source: Source::Broker { ask: question, subjects, every, timeout } })
                    }
                    SignalSource::Canary(canary) => {
                        if !view.has_broker {
                            self.notes.error(self.tree.head(id), "the cluster has no `broker` kind to send through");
                        }
                        let nodes = self.need(id, "to", &canary.to).and_then(|to| self.node_names(view, to));
                        let (every, timeout) = self.timing(id, &canary.every, &canary.timeout)?;
                        let observers = Observers::Nodes(nodes?);
                        let policy = polled(SignalKind::Canary, observers, Subjects::Service, every, timeout);
                        Some(Signal { policy, source: Source::Canary { every, timeout } })
                    }
                    _ => None,
                };
            }
        };
        self.probe(view, at, probe)
    }

    fn probe(
        &mut self,
        view: &ClusterView,
        at: &At<Tagged<SignalSource, SignalModifiers>>,
        probe: AnyProbe,
    ) -> Option<Signal> {
        let m = &at.value.modifiers;
        let missing = match &probe {
            AnyProbe::Http(p) if p.url.is_empty() => Some("url"),
            AnyProbe::Exec(p) if p.command.is_empty() => Some("command"),
            AnyProbe::Prometheus(p) if p.url.is_empty() => Some("url"),
            AnyProbe::Prometheus(p) if p.query.is_none() && p.metric.is_none() => Some("query"),
            AnyProbe::File(p) if p.path.is_empty() => Some("path"),
            _ => None,
        };
        if let Some(field) = missing {
            self.missing_in_kind(at.id, field);
        }
        if let AnyProbe::Prometheus(p) = &probe
            && p.query.is_some()
            && p.metric.is_some()
        {
            self.error(at, "`query` asks a server and `metric` reads a page: write one of them");
        }
        let of = self.need(at.id, "of", &m.of);
        let (every, timeout) = self.timing(at.id, &m.every, &m.timeout)?;
        let of = of?;
        let (observers, subjects) = if of.value == "nodes" {
            if view.nodes.is_empty() {
                self.error(of, "the cluster has no nodes");
            }
            if !matches!(probe, AnyProbe::Prometheus(_) | AnyProbe::Http(_) | AnyProbe::Exec(_)) {
                self.error(of, "only `prometheus`, `http` and `exec` can read something at each node");
            }
            (Observers::Nodes(view.nodes.clone()), Subjects::Service)
        } else {
            (Observers::Arbiter, self.subjects(view, of)?)
        };
        let kind = probe.signal_kind();
        if let Some(traffic) = m.traffic.as_ref().filter(|_| kind != SignalKind::Arrivals) {
            self.error(traffic, "`traffic` belongs to arrivals: this signal counts none");
        }
        let mut policy = polled(kind, observers.clone(), subjects.clone(), every, timeout);
        policy.traffic = m.traffic.as_ref().map_or_else(Traffic::default, |t| t.value);
        Some(Signal { policy, source: Source::Probe { probe, subjects, observers, every, timeout } })
    }

    fn no_modifiers(&mut self, modifiers: &SignalModifiers) {
        let SignalModifiers { of, every, timeout, traffic } = modifiers;
        let ids = [
            ("of", of.as_ref().map(|m| m.id)),
            ("every", every.as_ref().map(|m| m.id)),
            ("timeout", timeout.as_ref().map(|m| m.id)),
            ("traffic", traffic.as_ref().map(|m| m.id)),
        ];
        for (word, id) in ids {
            if let Some(id) = id {
                let help = "probes (`tcp`, `http`, …) take it beside their kind, the others inside";
                self.notes.error_help(
                    self.tree.place(id),
                    format!("`{word}` belongs inside the braces of the kind"),
                    help,
                );
            }
        }
    }

    fn push(&mut self, view: &ClusterView, at: &At<Push>) -> Option<Signal> {
        let push = &at.value;
        if let Some(alert) = &push.alert {
            if push.from.is_some() || push.every.is_some() {
                self.error(at, "an alert has neither `from` nor `every`: Alertmanager pushes it when it fires");
            }
            return self.alert(self.tree.get(at.id, "alert").unwrap_or(at.id), &alert.labels);
        }
        let (from, every) = (self.need(at.id, "from", &push.from), self.need(at.id, "every", &push.every));
        let every = every.map(|e| self.span(&Some(e.clone()), Duration::ZERO));
        let from = from?;
        let from_nodes = match &from.value {
            OneOrMany::Many(_) => true,
            OneOrMany::One(word) => word.value == "nodes" || view.nodes.iter().any(|n| n.as_str() == word.value),
        };
        let (kind, observers, subjects, source) = if from_nodes {
            let nodes = self.node_names(view, from)?;
            (SignalKind::Arrivals, Observers::Nodes(nodes), Subjects::Service, Source::Arrivals)
        } else {
            let OneOrMany::One(word) = &from.value else { return None };
            let subjects = self.subjects(view, word)?;
            (SignalKind::Heartbeat, Observers::Members, subjects, Source::Heartbeats)
        };
        if let Some(traffic) = push.traffic.as_ref().filter(|_| kind != SignalKind::Arrivals) {
            self.error(traffic, "`traffic` belongs to arrivals: heartbeats come at any rate");
        }
        let every = every?;
        let traffic = push.traffic.as_ref().map_or_else(Traffic::default, |t| t.value);
        let policy = SignalPolicy { kind, observers, subjects, every, fresh_for: every.saturating_mul(3), traffic };
        Some(Signal { policy, source })
    }

    fn alert(&mut self, id: Id, labels: &BTreeMap<String, String>) -> Option<Signal> {
        if labels.is_empty() {
            let help = "write for example `labels: { alertname: BrokerDown, cluster: orders }`";
            self.notes.error_help(self.tree.head(id), "`labels` is missing: any alert at all would count", help);
        }
        // Alertmanager repeats a firing alert by its own `repeat_interval`; what it last said stays true.
        let forever = Duration::from_secs(10 * 365 * 86_400);
        let policy = SignalPolicy {
            kind: SignalKind::Alert,
            observers: Observers::Arbiter,
            subjects: Subjects::Service,
            every: forever,
            fresh_for: forever,
            traffic: Traffic::default(),
        };
        Some(Signal { policy, source: Source::Alert { labels: labels.clone() } })
    }

    fn timing(&mut self, id: Id, every: &Option<At<Span>>, timeout: &Option<At<Span>>) -> Option<Timing> {
        let written = self.need(id, "every", every)?;
        let every = self.span(&Some(written.clone()), Duration::ZERO);
        let timeout_default = (every / 2).min(Duration::from_secs(1));
        let is_contrary = timeout.as_ref().is_some_and(|t| t.value.0 >= every);
        let span = self.span(timeout, timeout_default);
        if let Some(at) = timeout.as_ref().filter(|_| is_contrary) {
            let (long, period) = (human(at.value.0), human(every));
            self.error_help(
                at,
                format!("a look may take {long}, and the next one begins after {period}"),
                "make `timeout` shorter than `every`",
            );
        }
        Some((every, span))
    }

    pub(super) fn subjects(&mut self, view: &ClusterView, of: &At<String>) -> Option<Subjects> {
        Some(match of.value.as_str() {
            "primary" => Subjects::Primary,
            "standbys" => {
                if view.members.len() < 2 {
                    self.error(of, "the cluster has one member, so that there is no standby");
                }
                Subjects::Standbys
            }
            "members" => Subjects::Members,
            word => {
                if let Some(member) = view.members.iter().find(|m| m.as_str() == word) {
                    return Some(Subjects::Member(member.clone()));
                }
                let known = ["primary", "standbys", "members"].into_iter();
                let known = known.chain(view.members.iter().map(|m| m.as_str()));
                let help = did_you_mean(word, known);
                self.error_help(of, format!("`{}` is no one to look at", self.shown(of.id)), help);
                return None;
            }
        })
    }

    fn node_names(&mut self, view: &ClusterView, at: &At<WordOrWords>) -> Option<Vec<NodeName>> {
        let list = match &at.value {
            OneOrMany::One(word) if word.value == "nodes" => {
                if view.nodes.is_empty() {
                    self.error_help(at, "the cluster has no nodes", "add `nodes: [node-1, …]` to the cluster");
                    return None;
                }
                return Some(view.nodes.clone());
            }
            OneOrMany::One(word) => std::slice::from_ref(word),
            OneOrMany::Many(list) => list,
        };
        if list.is_empty() {
            self.error(at, "the list is empty");
        }
        let mut out = Vec::new();
        for word in list {
            match view.nodes.iter().find(|n| n.as_str() == word.value) {
                Some(node) if out.contains(node) => self.error(word, format!("`{}` stands here twice", word.value)),
                Some(node) => out.push(node.clone()),
                None => {
                    let help = did_you_mean(&word.value, view.nodes.iter().map(NodeName::as_str));
                    self.error_help(word, format!("there is no node `{}`", self.shown(word.id)), help);
                }
            }
        }
        (!out.is_empty()).then_some(out)
    }
}

fn polled(
    kind: SignalKind,
    observers: Observers,
    subjects: Subjects,
    every: Duration,
    timeout: Duration,
) -> SignalPolicy {
    SignalPolicy { kind, observers, subjects, every, fresh_for: fresh(every, timeout), traffic: Traffic::default() }
}

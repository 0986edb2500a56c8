//! Fence methods: what each must hold, how long it takes unless written, and the best proof it can give by itself.

use std::time::Duration;

use super::{
    ClusterView, Resolver,
    agent::{best_agent_proof, has_role_flag},
};
use crate::{
    config::{
        schema::{Cluster, FenceEntry},
        shape::At,
        yaml::{Id, Value},
    },
    fence::{AnyFence, agent::Agent, signal::Supervisor},
    model::{Proof, policy::MethodPolicy, time::human},
};

/// The best proof that a method can give by itself. What an independent forbidden write adds is not in it.
pub(crate) fn best_proof(fence: &AnyFence) -> Proof {
    match fence {
        // Without a word on what restarts it, a kill is a claim: it may be back before it is looked at.
        AnyFence::Signal(f) if f.supervisor == Some(Supervisor::None) => Proof::Stopped,
        AnyFence::Signal(_) | AnyFence::FileFlag(_) => Proof::Claim,
        AnyFence::Systemd(_) => Proof::Stopped,
        AnyFence::Firewall(_) => Proof::Gate,
        AnyFence::ReadOnly(_) => Proof::ReadBack,
        AnyFence::Exec(f) if !f.status.is_empty() => f.proof.unwrap_or(Proof::Claim),
        AnyFence::Http(f) if f.status.is_some() => f.proof.unwrap_or(Proof::Claim),
        AnyFence::Exec(_) | AnyFence::Http(_) => Proof::Claim,
        AnyFence::FenceAgent(f) if f.action.as_deref().is_none_or(|a| a == "off") => Proof::PowerOff,
        AnyFence::FenceAgent(_) => Proof::Claim,
        // What stands in the cluster's `agent` is in `agent::best_agent_proof`.
        AnyFence::Agent(f) => f.best_proof().unwrap_or(Proof::Claim),
        AnyFence::Gate(_) | AnyFence::Nodes(_) => Proof::Gate,
        AnyFence::Kill(_) => Proof::Stopped,
    }
}

/// Whether the method works only with the consent of what it stops. Even a proof by exit code does not change that.
pub(crate) fn is_cooperative(label: &str, best_proof: Proof) -> bool {
    let kind = label.split(' ').next().unwrap_or(label);
    matches!(kind, "read_only" | "file_flag") || label == "agent read_only" || best_proof <= Proof::Claim
}

const fn kind(fence: &AnyFence) -> (&'static str, u64) {
    // The second: the default deadline in seconds, a generous multiple of what the method usually takes.
    match fence {
        AnyFence::Signal(_) => ("signal", 10),
        AnyFence::Systemd(_) => ("systemd", 30),
        AnyFence::Firewall(_) => ("firewall", 5),
        AnyFence::ReadOnly(_) => ("read_only", 2),
        AnyFence::FileFlag(_) => ("file_flag", 10),
        AnyFence::Exec(_) => ("exec", 30),
        AnyFence::Http(_) => ("http", 10),
        AnyFence::FenceAgent(_) => ("fence_agent", 60),
        AnyFence::Agent(_) | AnyFence::Kill(_) => ("agent", 10),
        AnyFence::Gate(_) => ("agent", 2),
        AnyFence::Nodes(_) => ("nodes", 5),
    }
}

/// A URL without what may be secret in it: user, password, query.
pub(super) fn plain_url(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (host, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    if scheme.is_empty() { format!("{host}{path}") } else { format!("{scheme}://{host}{path}") }
}

impl Resolver<'_> {
    /// The one method below `id`, as the policy knows it.
    pub(super) fn fence_method(
        &mut self,
        view: &ClusterView,
        cluster: &At<Cluster>,
        entry: &FenceEntry,
    ) -> MethodPolicy {
        let fence = &entry.value.kind;
        let modifiers = &entry.value.modifiers;
        self.check_fence(view, entry.id, fence);
        let (kind, default) = kind(fence);
        let deadline = self.span(&modifiers.deadline, Duration::from_secs(default));
        if let AnyFence::Signal(f) = fence
            && let Some(term_for) = f.term_for
            && term_for.0 >= deadline
        {
            let place = self.field_place(entry.id, "term_for");
            let message = format!(
                "waiting {} after TERM leaves no time for KILL: the method's deadline is {}",
                human(term_for.0),
                human(deadline)
            );
            self.notes.error_help(place, message, "make `term_for` shorter, or `deadline` longer");
        }
        let mut only_for: Vec<_> = modifiers.members.iter().filter_map(|m| self.member_name(view, m)).collect();
        if matches!(fence, AnyFence::Nodes(_)) {
            self.check_nodes_fence(view, cluster, entry.id);
        }
        let agent = fence.as_agent();
        if let Some(agent) = &agent {
            self.check_agent_fence(view, cluster, entry.id, &agent.name);
            for at in &modifiers.members {
                if view.members.iter().any(|m| m.as_str() == at.value) && !view.agents.contains(at.value.as_str()) {
                    self.error_help(at, format!("`{}` has no agent", at.value), "add it to `mesh.parties`");
                }
            }
            // It can be used where there are agents, and nowhere else.
            if only_for.is_empty() && view.agents.len() < view.members.len() {
                only_for = view.members.iter().filter(|m| view.agents.contains(*m)).cloned().collect();
            }
        }
        let more = match fence {
            AnyFence::Systemd(f) => f.unit.clone(),
            AnyFence::FileFlag(f) => f.path.clone(),
            AnyFence::Exec(f) => self.first_word(entry.id, "command", f.command.first()),
            AnyFence::Http(f) => plain_url(&f.fence.url),
            AnyFence::FenceAgent(f) => f.name.clone(),
            AnyFence::Agent(f) => f.name.clone(),
            AnyFence::Gate(_) => Agent::GATE.into(),
            AnyFence::Kill(_) => Agent::KILL.into(),
            AnyFence::Signal(_) | AnyFence::Firewall(_) | AnyFence::ReadOnly(_) | AnyFence::Nodes(_) => String::new(),
        };
        let label = if more.is_empty() { kind.to_owned() } else { format!("{kind} {more}") };
        // Behind a gate that stays shut what an agent stopped may run again, to be made a standby.
        let is_behind_gate = view.has_gate && agent.as_ref().is_some_and(|agent| agent.name != Agent::GATE);
        // So may what starts as a standby, whoever starts it: its agent sees to that before it lets it run.
        let is_kill = agent.as_ref().is_some_and(|agent| agent.name == Agent::KILL);
        let admits = is_behind_gate
            || (is_kill && has_role_flag(&cluster.value))
            || matches!(fence, AnyFence::Firewall(firewall) if !firewall.allow.is_empty());
        let is_by_agent = agent.as_ref().is_some_and(|a| [Agent::GATE, Agent::KILL].contains(&a.name.as_str()));
        let best_proof = agent.map_or_else(|| best_proof(fence), |a| best_agent_proof(&cluster.value, &a));
        MethodPolicy { label, deadline, best_proof, only_for, admits, is_by_agent }
    }

    /// A program's name, as it stands in the file: a secret has no place in a label.
    pub(super) fn first_word(&self, id: Id, field: &str, word: Option<&String>) -> String {
        let list = self.tree.entries(id).iter().find_map(|(_, kind)| self.tree.get(*kind, field));
        let first = list.and_then(|l| match &self.tree.node(l).value {
            Value::Seq(items) => items.first().copied(),
            _ => None,
        });
        first.map_or_else(|| word.cloned().unwrap_or_default(), |id| self.shown(id).to_owned())
    }

    /// Where a field of the one kind below `id` stands, or else the kind.
    fn field_place(&self, id: Id, field: &str) -> crate::config::diagnostic::Place {
        let found = self.tree.entries(id).iter().find_map(|(_, kind)| self.tree.get(*kind, field));
        found.map_or_else(|| self.tree.head(id), |id| self.tree.head(id))
    }

    pub(super) fn check_fence(&mut self, view: &ClusterView, id: Id, fence: &AnyFence) {
        let mut missing = Vec::new();
        let mut proof = None;
        match fence {
            AnyFence::Signal(f) => {
                let ways = [&f.pid_file, &f.cgroup, &f.command_line].into_iter().flatten().count();
                if ways != 1 {
                    let message = "`signal` needs exactly one of `pid_file`, `cgroup` and `command_line`";
                    self.notes.error(
                        self.tree
                            .entries(id)
                            .first()
                            .map_or_else(|| self.tree.head(id), |(key, _)| self.tree.place(*key)),
                        message,
                    );
                }
            }
            AnyFence::Systemd(f) => {
                if f.unit.is_empty() {
                    missing.push("unit");
                } else if !f.unit.contains('.') {
                    let place = self.field_place(id, "unit");
                    self.notes.error_help(place, "the unit has no ending", format!("write `{}.service`", f.unit));
                }
            }
            AnyFence::ReadOnly(_) if !view.has_broker => {
                self.notes
                    .error(self.tree.head(id), "`read_only` asks the broker kind, and the cluster has no `broker`");
            }
            AnyFence::FileFlag(f) => {
                let fields = [("path", &f.path), ("key", &f.key), ("fenced", &f.fenced)];
                missing.extend(fields.iter().filter(|(_, text)| text.is_empty()).map(|(name, _)| *name));
                if f.follows_role && f.unfenced.is_none() {
                    missing.push("unfenced");
                }
            }
            AnyFence::Exec(f) => {
                if f.command.is_empty() {
                    missing.push("command");
                }
                proof = f.proof.map(|p| (p, !f.status.is_empty()));
            }
            AnyFence::Http(f) => {
                if f.fence.url.is_empty() {
                    missing.push("fence");
                }
                proof = f.proof.map(|p| (p, f.status.is_some()));
            }
            AnyFence::FenceAgent(f) => {
                if f.name.is_empty() {
                    missing.push("name");
                }
                if let Some(action) = f.action.as_deref().filter(|a| !matches!(*a, "off" | "reboot")) {
                    let place = self.field_place(id, "action");
                    self.notes.error_help(place, format!("`{action}` fences nothing"), "write `off`, or `reboot`");
                }
            }
            AnyFence::ReadOnly(_)
            | AnyFence::Firewall(_)
            | AnyFence::Agent(_)
            | AnyFence::Gate(_)
            | AnyFence::Kill(_)
            | AnyFence::Nodes(_) => {}
        }
        for field in missing {
            self.missing_in_kind(id, field);
        }
        match proof {
            Some((Proof::LeaseOver | Proof::Sealed | Proof::Nothing, _)) => {
                let place = self.field_place(id, "proof");
                let help = "write `claim`, `read_back`, `gate`, `stopped` or `power_off`";
                self.notes.error_help(place, "no method can give this proof by itself", help);
            }
            Some((_, false)) => {
                let place = self.field_place(id, "proof");
                self.notes.error(place, "a `proof` without `status` proves nothing: say how it is read back");
            }
            _ => {}
        }
    }
}

//! How a failover is done, and whether its times fit together.

use std::{collections::BTreeMap, time::Duration};

use super::{ClusterView, Resolver, signal::Signal};
use crate::{
    config::{
        schema::{self, Cluster, MaxLoss, NeededProof},
        shape::{At, OneOrMany},
        yaml::Id,
    },
    fence::{AnyFence, agent::Agent},
    model::{
        Mode, Proof, SignalName,
        policy::{FailoverPolicy, MethodPolicy, Rejoin},
        rule::Reaction,
        time::human,
    },
    redirect::AnyRedirect,
};

type Parts = (FailoverPolicy, Vec<Vec<AnyFence>>, Vec<AnyRedirect>);

const SECOND: Duration = Duration::from_secs(1);

impl Resolver<'_> {
    pub(super) fn failover(
        &mut self,
        view: &ClusterView,
        cluster: &At<Cluster>,
        signals: &BTreeMap<SignalName, Signal>,
        role_signal: Option<&SignalName>,
    ) -> Option<Parts> {
        self.check_reactions(view, cluster);
        let Some(at) = &cluster.value.failover else {
            return self.tree.get(cluster.id, "failover").is_none().then(nothing_to_do);
        };
        let f = &at.value;
        let lease = f.lease.as_ref().and_then(|lease| self.lease(view, cluster, lease));
        let (fence, fence_kinds) = self.fence_levels(view, cluster, at.id, f);
        let preserve_within = self.preserve(f, &fence, &fence_kinds);
        let proof_needed = f.proof.as_ref().map_or(Proof::Gate, |p| match p.value {
            NeededProof::Claim => Proof::Claim,
            NeededProof::ReadBack => Proof::ReadBack,
            NeededProof::Gate => Proof::Gate,
            NeededProof::Stopped => Proof::Stopped,
            NeededProof::PowerOff => Proof::PowerOff,
        });
        let is_lowered = self.is_lowered(f, proof_needed, &fence_kinds);
        if self.tree.get(at.id, "max_loss").is_none() {
            self.notes.error_help(
                self.tree.head(at.id),
                "`max_loss` is missing, and there is no default",
                "write `max_loss: { entries: 0 }`, `{ bytes: 0 }`, or `any` to promote whatever is lost",
            );
        }
        let max_loss = f.max_loss.as_ref().map(|m| match m.value {
            MaxLoss::Entries(n) | MaxLoss::Bytes(n) => Some(n),
            MaxLoss::Any => None,
        });
        let (redirect, redirect_kinds) = self.redirects(f);

        let catch_up_within = self.span(&f.catch_up.within, 5 * SECOND);
        let promote_within = self.span(&f.promote.within, 5 * SECOND);
        let redirect_within = self.span(&f.redirect_within, 10 * SECOND);
        // The wait for the lease runs beside the methods.
        let fence_time: Duration = fence.iter().flatten().map(|m| m.deadline).sum();
        let fence_time = fence_time.max(lease.as_ref().map_or(Duration::ZERO, |l| l.wait));
        let whole = fence_time + catch_up_within + promote_within + redirect_within;
        let cooldown = self.span(&f.cooldown, whole.max(600 * SECOND));
        if let Some(at) = f.cooldown.as_ref().filter(|_| cooldown < whole) {
            self.error_help(
                at,
                format!("the cooldown of {} is shorter than a failover may take", human(cooldown)),
                format!(
                    "fencing {}, catching up {}, promoting {}, redirecting {}: write {} or more",
                    human(fence_time),
                    human(catch_up_within),
                    human(promote_within),
                    human(redirect_within),
                    human(whole)
                ),
            );
        }
        let asked_for = role_signal.and_then(|n| signals.get(n)).map_or(Duration::ZERO, |s| s.policy.fresh_for);
        let candidate_fresh_for = self.span(&f.candidate.fresh_for, asked_for.max(5 * SECOND));
        if let Some(at) = f.candidate.fresh_for.as_ref().filter(|_| candidate_fresh_for < asked_for) {
            let help = format!("write {} or more, or ask the role more often", human(asked_for));
            self.error_help(at, "standbys are asked too rarely to be that fresh", help);
        }
        if let Some(at) = f.budget.failovers.as_ref().filter(|n| n.value == 0) {
            self.error(at, "a budget of 0 forbids every failover: write `mode: shadow` or `mode: manual` for that");
        }
        let policy = FailoverPolicy {
            fence,
            lease,
            preserve_within,
            proof_needed,
            is_unsafe: is_lowered,
            catch_up_within,
            promote_within,
            max_loss: max_loss?,
            unknown_loss: f.unknown_loss.unwrap_or_default(),
            redirect,
            redirect_within,
            rejoin: f.rejoin.as_ref().map_or(Rejoin::Ask, |r| match r.value {
                schema::Rejoin::Follow => Rejoin::Follow,
                schema::Rejoin::Ask => Rejoin::Ask,
                schema::Rejoin::Never => Rejoin::Never,
            }),
            candidate_fresh_for,
            candidate_lag_max: f.candidate.lag_max,
            cooldown,
            budget: f.budget.failovers.as_ref().map_or(3, |n| n.value),
            budget_per: self.span(&f.budget.per, 86_400 * SECOND),
        };
        Some((policy, fence_kinds, redirect_kinds))
    }

    /// What the rules and the mode ask for, and what the cluster lacks for it.
    fn check_reactions(&mut self, view: &ClusterView, cluster: &At<Cluster>) {
        let c = &cluster.value;
        let mode = c.mode.as_ref().map(|m| m.value);
        let acts = |t: &At<Reaction>| matches!(t.value, Reaction::Failover | Reaction::Switchover);
        let acting = c.death_rules.iter().filter_map(|r| r.value.then.as_ref()).find(|t| acts(t));
        let has_failover = self.tree.get(cluster.id, "failover").is_some();
        let redirects = c.failover.as_ref().is_some_and(|f| !f.value.redirect.is_empty());
        let redirecting = |t: &&At<Reaction>| t.value == Reaction::Redirect && !redirects;
        if let Some(then) = c.death_rules.iter().filter_map(|r| r.value.then.as_ref()).find(redirecting) {
            self.error_help(then, "there is no way to redirect anybody", "add `redirect` to the cluster's `failover`");
        }
        if let Some(then) = acting {
            if view.members.len() < 2 {
                let message = format!("`{}` needs somebody to promote, and the cluster has one member", then.value);
                self.error(then, message);
            }
            if !view.has_broker && mode != Some(Mode::Shadow) {
                self.error(then, format!("`{}` needs a `broker` kind to promote with", then.value));
            }
            if !has_failover {
                let help = "add `failover:` with at least `fence` and `max_loss`";
                self.error_help(then, "the cluster does not say how a failover is done", help);
            }
        } else if let (Some(at), false) = (c.mode.as_ref().filter(|m| m.value != Mode::Shadow), has_failover) {
            let help = "add `failover:` with at least `fence` and `max_loss`, or write `mode: shadow`";
            self.error_help(at, format!("`mode: {}` needs a `failover`", at.value), help);
        }
    }

    fn fence_levels(
        &mut self,
        view: &ClusterView,
        cluster: &At<Cluster>,
        id: Id,
        f: &schema::Failover,
    ) -> (Vec<Vec<MethodPolicy>>, Vec<Vec<AnyFence>>) {
        let (mut policies, mut kinds) = (Vec::new(), Vec::new());
        let Some(levels) = self.need(id, "fence", &f.fence) else { return (policies, kinds) };
        if levels.value.is_empty() && self.tree.entries(levels.id).is_empty() {
            let is_bare =
                matches!(&self.tree.node(levels.id).value, crate::config::yaml::Value::Seq(l) if l.is_empty());
            if is_bare {
                let help = "add a method: nobody is promoted before the old primary is provably stopped";
                self.error_help(levels, "there is no fence", help);
            }
        }
        for level in &levels.value {
            let methods = match &level.value {
                OneOrMany::One(method) => std::slice::from_ref(method),
                OneOrMany::Many(list) => list,
            };
            policies.push(methods.iter().map(|m| self.fence_method(view, cluster, m)).collect());
            let kind =
                |m: &schema::FenceEntry| m.value.kind.as_agent().map_or_else(|| m.value.kind.clone(), AnyFence::Agent);
            kinds.push(methods.iter().map(kind).collect());
        }
        (policies, kinds)
    }

    /// How long the agent may gather evidence of the dying before it kills.
    fn preserve(&mut self, f: &schema::Failover, fence: &[Vec<MethodPolicy>], kinds: &[Vec<AnyFence>]) -> Duration {
        let methods = fence.iter().flatten().zip(kinds.iter().flatten());
        let kills =
            methods.filter(|(_, k)| k.as_agent().is_some_and(|a| a.name == Agent::KILL)).map(|(m, _)| m.deadline);
        let deadline = kills.min();
        let Some(at) = &f.preserve.within else {
            let default = Duration::from_millis(300);
            return deadline.map_or(Duration::ZERO, |d| default.min(d / 2));
        };
        match deadline {
            None if !at.value.0.is_zero() => {
                let help = "add `kill` to `fence`, or leave `preserve` out";
                self.error_help(at, "evidence is preserved by the agent before its `kill`, and there is none", help);
            }
            Some(deadline) if at.value.0 >= deadline => {
                let message = format!("this leaves no time to kill: the deadline of `kill` is {}", human(deadline));
                self.error_help(at, message, "make it shorter, or the `deadline` beside `kill` longer");
            }
            _ => {}
        }
        at.value.0
    }

    /// Whether the proof is lowered, and whether the file says so.
    fn is_lowered(&mut self, f: &schema::Failover, needed: Proof, kinds: &[Vec<AnyFence>]) -> bool {
        let is_flag = |k: &AnyFence| match k {
            AnyFence::ReadOnly(_) => true,
            AnyFence::Agent(agent) => agent.name == Agent::READ_ONLY,
            _ => false,
        };
        let binds_everyone = kinds.iter().flatten().any(is_flag);
        let is_lowered = needed < Proof::Gate && !(needed == Proof::ReadBack && binds_everyone);
        let says_so = f.unsafe_.as_ref().is_some_and(|u| u.value);
        match (&f.proof, &f.unsafe_) {
            (Some(proof), _) if is_lowered && !says_so => self.error_help(
                proof,
                "with this proof alone, two primaries may take writes at once",
                "ask for `gate` or more; or add `unsafe: true`, which stands in every report",
            ),
            (_, Some(word)) if says_so && !is_lowered => {
                let place = self.tree.head(word.id);
                self.notes.warning(place, "`unsafe: true` allows nothing here, because the proof is not lowered");
            }
            _ => {}
        }
        is_lowered
    }

    fn redirects(&mut self, f: &schema::Failover) -> (Vec<MethodPolicy>, Vec<AnyRedirect>) {
        let mut policies = Vec::new();
        for entry in &f.redirect {
            let (kind, more) = match &entry.value.kind {
                AnyRedirect::Http(r) => ("http", r.path.clone().unwrap_or_default()),
                AnyRedirect::Exec(r) => {
                    if r.command.is_empty() {
                        self.missing_in_kind(entry.id, "command");
                    }
                    ("exec", self.first_word(entry.id, "command", r.command.first()))
                }
                AnyRedirect::File(r) => {
                    if r.path.is_empty() {
                        self.missing_in_kind(entry.id, "path");
                    }
                    if r.template.is_some() == r.template_file.is_some() {
                        self.error(entry, "`file` needs exactly one of `template` and `template_file`");
                    }
                    ("file", r.path.clone())
                }
            };
            let label = if more.is_empty() { kind.to_owned() } else { format!("{kind} {more}") };
            let deadline = self.span(&entry.value.modifiers.deadline, 5 * SECOND);
            policies.push(MethodPolicy {
                label,
                deadline,
                best_proof: Proof::Nothing,
                only_for: Vec::new(),
                admits: false,
                is_by_agent: false,
            });
        }
        (policies, f.redirect.iter().map(|r| r.value.kind.clone()).collect())
    }
}

/// The failover of a cluster that never does one.
fn nothing_to_do() -> Parts {
    let policy = FailoverPolicy {
        fence: Vec::new(),
        lease: None,
        preserve_within: Duration::ZERO,
        proof_needed: Proof::Gate,
        is_unsafe: false,
        catch_up_within: 5 * SECOND,
        promote_within: 5 * SECOND,
        max_loss: Some(0),
        unknown_loss: crate::model::policy::UnknownLoss::Hold,
        redirect: Vec::new(),
        redirect_within: 10 * SECOND,
        rejoin: Rejoin::Ask,
        candidate_fresh_for: 5 * SECOND,
        candidate_lag_max: None,
        cooldown: 600 * SECOND,
        budget: 3,
        budget_per: 86_400 * SECOND,
    };
    (policy, Vec::new(), Vec::new())
}

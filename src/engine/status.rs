//! Views of the engine for people: status, why, why-not.

use super::{cluster::Cluster, condition, own::Own, view::AGENT_HEARD_WITHIN};
use crate::model::{
    Explanation, Expr, Fact, MemberName, Outcome, Role, Time, Truth,
    explain::{Guard, RuleExplanation},
    policy::{Mode, Subjects},
    rule::{ExprKind, Reaction},
    status::{
        AgentStatus, ClusterStatus, IncidentBrief, MemberStatus, NodeStatus, PrimaryView, RuleStatus, SignalStatus,
        Why, WhyNot,
    },
};

impl Cluster {
    pub(super) fn status(&self, now: Time, own: &Own) -> ClusterStatus {
        let candidates = self.candidates(now);
        let blocking: Vec<_> =
            self.guards(now, own, self.policy.mode, &candidates).into_iter().filter(|g| g.blocks).collect();
        let fresh = self.longest_fresh();
        let members = self.policy.members.iter().map(|member| {
            let report = self.view.role(&self.policy, &member.name, now, fresh).map(|(_, r)| r);
            MemberStatus {
                member: member.name.clone(),
                address: member.address.clone(),
                role: if self.state.primary.as_ref() == Some(&member.name) { Role::Primary } else { Role::Standby },
                claims: report.map(|r| r.role),
                quarantined: self.state.quarantined.contains_key(&member.name),
                position: self.view.position(&member.name).map(|(_, p)| p),
                seen: self.view.member_seen(&member.name).map(|at| now.since(at)),
                agent: member.has_agent.then(|| self.agent_status(&member.name, now)),
            }
        });
        let nodes = self.policy.nodes.iter().map(|node| {
            let arrivals = self.view.arrivals(node);
            NodeStatus {
                node: node.clone(),
                seen: self.view.node_seen(node).map(|at| now.since(at)),
                received: arrivals.map(|(_, a)| a.received),
                last_arrival: arrivals.and_then(|(at, a)| Some(now.since(at.before(a.last_age?)))),
                follows: arrivals.and_then(|(_, a)| a.primary.clone()),
                epoch: arrivals.map(|(_, a)| a.epoch),
            }
        });
        ClusterStatus {
            cluster: self.policy.name.clone(),
            mode: self.policy.mode,
            primary: self.state.primary.clone(),
            epoch: self.state.primary_epoch,
            verdict: self.verdict,
            verdict_since: now.since(self.verdict_since),
            rule: self.deciding_rule.clone(),
            // Approval is part of how a manual cluster works, not a reason why it could not.
            ready: blocking.iter().all(|g| g.guard == Guard::Approval && self.policy.mode == Mode::Manual),
            blocking,
            pause: self.state.pause.clone(),
            members: members.collect(),
            nodes: nodes.collect(),
            incident: self.incident().map(IncidentBrief::from),
            rules: (0..self.policy.rules.len()).map(|index| self.rule_status(index, now)).collect(),
        }
    }

    /// The counts are kept where notices are: they are no part of a decision.
    fn rule_status(&self, index: usize, now: Time) -> RuleStatus {
        let (rule, state) = (&self.policy.rules[index], &self.rules[index]);
        RuleStatus {
            rule: rule.name.clone(),
            verdict: rule.verdict,
            then: rule.then,
            shadow: self.only_watches(rule),
            truth: state.truth,
            since: now.since(state.since),
            fired: 0,
            would_have_acted: 0,
            held_back_by: Vec::new(),
            last_fired: None,
        }
    }

    fn agent_status(&self, member: &MemberName, now: Time) -> AgentStatus {
        let seen = self.view.agent_seen(member).map(|at| now.since(at));
        let is_heard = seen.is_some_and(|age| age <= AGENT_HEARD_WITHIN);
        let Some((_, report)) = self.view.agent(member) else {
            return AgentStatus { seen, is_heard, ..AgentStatus::default() };
        };
        AgentStatus {
            seen,
            is_heard,
            lease: report.lease,
            renewals: report.renewals.clone(),
            gate: report.gate,
            epoch: report.epoch,
            appointed: report.appointed,
            evidence: report.evidence.iter().map(|evidence| (evidence.watch, evidence.is_so)).collect(),
        }
    }

    pub(super) fn why(&self, now: Time) -> Why {
        Why {
            cluster: self.policy.name.clone(),
            primary: self.state.primary.clone(),
            verdict: self.verdict,
            rule: self.deciding_rule.clone(),
            rules: (0..self.policy.rules.len()).map(|i| self.explain(i, now)).collect(),
        }
    }

    pub(super) fn why_not(&self, now: Time, own: &Own) -> WhyNot {
        let candidates = self.candidates(now);
        let guards = self.guards(now, own, self.policy.mode, &candidates);
        let acts = |then| matches!(then, Reaction::Failover | Reaction::Switchover);
        let rules: Vec<(usize, RuleExplanation)> = (0..self.policy.rules.len())
            .filter(|i| acts(self.policy.rules[*i].then))
            .map(|i| (i, self.explain(i, now)))
            .collect();
        let blocking: Vec<String> =
            guards.iter().filter(|g| g.blocks).map(|g| format!("{}: {}", g.guard, g.reason)).collect();
        let nearest = rules
            .iter()
            .filter(|(_, e)| !e.shadow)
            .map(|(i, e)| (flips(&self.policy.rules[*i].when, &e.tree, Truth::True), &e.rule))
            .min_by_key(|(flips, _)| flips.len());
        let least_change = match nearest {
            Some((flips, rule)) if flips.is_empty() && blocking.is_empty() => {
                format!("nothing: the rule “{rule}” holds and no guard stands against it")
            }
            Some((flips, rule)) if flips.is_empty() => {
                format!("the rule “{rule}” holds; these guards stand against it: {}", blocking.join("; "))
            }
            Some((flips, rule)) => {
                let missing = format!("the rule “{rule}” would hold with: {}", flips.join(" and "));
                if blocking.is_empty() { missing } else { format!("{missing}; and then: {}", blocking.join("; ")) }
            }
            None => "no rule of this cluster acts".into(),
        };
        WhyNot {
            cluster: self.policy.name.clone(),
            ready: blocking.is_empty(),
            guards,
            candidates,
            rules: rules.into_iter().map(|(_, e)| e).filter(|e| !e.truth.is_true()).collect(),
            least_change,
        }
    }

    pub(super) fn signals(&self, now: Time) -> Vec<SignalStatus> {
        let streams = self.view.all().map(|(signal, stream)| SignalStatus {
            signal: signal.clone(),
            observer: stream.observer.to_string(),
            subject: stream.subject.clone(),
            up: stream.newest.as_ref().map(|(_, outcome)| matches!(outcome, Outcome::Fact(_))),
            age: stream.newest.as_ref().map(|(at, _)| now.since(*at)),
            seen: match &stream.newest {
                None => "nothing yet".into(),
                Some((_, Outcome::Fact(fact))) => condition::words(fact),
                Some((_, Outcome::Failure(failure))) => failure.to_string(),
            },
            value: stream.success.as_ref().and_then(|(_, fact)| number(fact)),
        });
        let unheard = self.policy.signals.iter().filter(|(name, _)| self.view.streams(name).is_empty());
        let unheard = unheard.map(|(signal, policy)| SignalStatus {
            signal: signal.clone(),
            observer: String::new(),
            subject: match &policy.subjects {
                Subjects::Member(name) => Some(name.clone()),
                _ => None,
            },
            up: None,
            age: None,
            seen: "nothing yet".into(),
            value: None,
        });
        streams.chain(unheard).collect()
    }

    pub(super) fn primary_view(&self) -> PrimaryView {
        let primary = self.state.primary.clone();
        let address = primary.as_ref().and_then(|p| self.policy.member(p)).map(|m| m.address.clone());
        PrimaryView { cluster: self.policy.name.clone(), epoch: self.state.primary_epoch, primary, address }
    }
}

/// The smallest set of answers that would have to be different for the branch to be `want`; ties go to the first.
fn flips(expr: &Expr, explained: &Explanation, want: Truth) -> Vec<String> {
    if explained.truth == want {
        return Vec::new();
    }
    // What is asked holds already, and only `for:` or a window is not over.
    let raw_below: Vec<Truth> = explained.children.iter().map(|c| c.truth).collect();
    let leaf = || vec![format!("{} ({})", explained.asked, explained.seen)];
    let pairs = || expr.children().iter().zip(&explained.children);
    let cheapest = |needed: usize, want: Truth| {
        let mut each: Vec<Vec<String>> = pairs().map(|(e, x)| flips(e, x, want)).collect();
        each.sort_by_key(Vec::len);
        each.into_iter().take(needed).flatten().collect::<Vec<_>>()
    };
    let total = raw_below.len();
    let wants_true = want == Truth::True;
    let found = match &expr.kind {
        ExprKind::Not(inner) => match explained.children.first() {
            Some(child) => flips(inner, child, !want),
            None => leaf(),
        },
        ExprKind::All(_) => cheapest(if wants_true { total } else { 1 }, want),
        ExprKind::Any(_) => cheapest(if wants_true { 1 } else { total }, want),
        ExprKind::AtLeast { count, .. } => {
            let needed = count.of(total);
            cheapest(if wants_true { needed } else { total + 1 - needed.min(total) }, want)
        }
        ExprKind::Observers { count, .. } => {
            let needed = count.of(total);
            let (have, needed) = (
                raw_below.iter().filter(|t| **t == want).count(),
                if wants_true { needed } else { total + 1 - needed.min(total) },
            );
            let others = explained.children.iter().filter(|c| c.truth != want);
            others
                .take(needed.saturating_sub(have))
                .map(|c| {
                    let who = c.observer.as_deref().unwrap_or_default();
                    format!("{} [{who}] ({})", c.asked, c.seen)
                })
                .collect()
        }
        ExprKind::Signal { .. } => leaf(),
    };
    if found.is_empty() { leaf() } else { found }
}

fn number(fact: &Fact) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "a gauge for people")]
    match fact {
        Fact::Arrivals(a) => Some(a.received as f64),
        Fact::Ok { latency } | Fact::Canary { latency } => Some(latency.as_secs_f64()),
        Fact::Role(report) => report.position.map(|p| p as f64),
        Fact::Position { position } => Some(*position as f64),
        Fact::Link { up, .. } => Some(f64::from(u8::from(*up))),
        Fact::Writable(yes) => Some(f64::from(u8::from(*yes))),
        Fact::Value(value) => Some(*value),
        Fact::Process { running, .. } => Some(f64::from(u8::from(*running))),
        Fact::Alert { firing } => Some(f64::from(u8::from(*firing))),
        Fact::Beat { .. } | Fact::Text(_) | Fact::Agent(_) | Fact::Reaches(_) => None,
    }
}

//! What is legal and dangerous: first of all, rules that could fire when only the arbiter is cut off.
//!
//! The method: assume that the arbiter is isolated and everybody else is well. Each condition then can have some
//! of the three truth values, and a rule's tree is evaluated over those *sets* of values. A rule whose tree can be
//! true kills a healthy primary whenever somebody trips over the arbiter's network cable. The guard `isolated`
//! stands against that too; a rule should not need it.

use serde::Serialize;

use super::{
    Config,
    resolve::{fence, signal::streams},
};
use crate::model::{
    ClusterName, ClusterPolicy, Condition, Expr, FailureKind, Proof, Rule, RuleName,
    policy::{Observers, SignalKind, SignalPolicy},
    rule::{ExprKind, Reaction},
};

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is about.
    pub kind: FindingKind,
    /// Where: the cluster; `None`: the arbiter's own part.
    pub cluster: Option<ClusterName>,
    /// Where: the rule.
    pub rule: Option<RuleName>,
    /// In words, with the remedy.
    pub message: String,
}

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// The rule acts and can become true when only the arbiter is cut off.
    FiresWhenIsolated,
    /// A bare condition over a signal with several streams means any of them.
    AnyOfSeveral,
    /// The fence methods can never give the proof that is asked for.
    ProofOutOfReach,
    /// The proof that is asked for is lowered.
    LoweredProof,
    /// The arbiter stands on a member's host.
    Colocated,
}

/// Everything worth a warning, in the order of clusters and rules.
#[must_use]
pub fn lint(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    colocated(config, &mut findings);
    for cluster in config.policy.clusters.values() {
        for rule in &cluster.rules {
            isolated(cluster, rule, &mut findings);
            bare(cluster, rule, &rule.when, true, &mut findings);
        }
        proof(cluster, &mut findings);
    }
    findings
}

fn colocated(config: &Config, findings: &mut Vec<Finding>) {
    let listens = [config.arbiter.http, config.arbiter.udp].into_iter().flatten().map(|a| a.ip());
    let own: Vec<_> = listens.filter(|ip| !ip.is_unspecified() && !ip.is_loopback()).collect();
    for (name, cluster) in &config.clusters {
        for member in &cluster.members {
            if member.host().parse().is_ok_and(|ip| own.contains(&ip)) {
                let message = format!(
                    "the arbiter listens on the host of `{}`: it dies together with it, and fencing that host fences the arbiter; put it on a third host",
                    member.member
                );
                let cluster = Some(name.clone());
                findings.push(Finding { kind: FindingKind::Colocated, cluster, rule: None, message });
            }
        }
    }
}

fn isolated(cluster: &ClusterPolicy, rule: &Rule, findings: &mut Vec<Finding>) {
    let acts = matches!(rule.then, Reaction::Failover | Reaction::Switchover);
    if acts && truths(cluster, &rule.when).may_be_true {
        let message = format!(
            "the rule `{}` (then: {}) could become true when only the arbiter is cut off; add what a cut-off arbiter cannot know, such as `not: {{ link: up }}` or `at_least: {{ count: majority, of: arrivals, are: {{ silent: … }} }}`, under `all:`",
            rule.name, rule.then
        );
        let (cluster, rule) = (Some(cluster.name.clone()), Some(rule.name.clone()));
        findings.push(Finding { kind: FindingKind::FiresWhenIsolated, cluster, rule, message });
    }
}

/// A bare condition over several streams, where it speaks for an act. Under `not` it then means none of them,
/// which is what people mean.
fn bare(cluster: &ClusterPolicy, rule: &Rule, branch: &Expr, is_positive: bool, findings: &mut Vec<Finding>) {
    match &branch.kind {
        ExprKind::Not(inner) => bare(cluster, rule, inner, !is_positive, findings),
        ExprKind::Signal { signal, condition } if is_positive && rule.then >= Reaction::Failover => {
            let Some(policy) = cluster.signals.get(signal) else { return };
            let several = streams(policy, cluster.members.len());
            if several > 1 && !matches!(condition, Condition::UnreachableBy(_)) {
                let message = format!(
                    "`{signal}: {condition}` is true as soon as any one of {several} says so; write `at_least: {{ count: majority, of: {signal}, are: … }}` if more are meant"
                );
                let (cluster, rule) = (Some(cluster.name.clone()), Some(rule.name.clone()));
                findings.push(Finding { kind: FindingKind::AnyOfSeveral, cluster, rule, message });
            }
        }
        _ => branch.children().iter().for_each(|child| bare(cluster, rule, child, is_positive, findings)),
    }
}

fn proof(cluster: &ClusterPolicy, findings: &mut Vec<Finding>) {
    let failover = &cluster.failover;
    let mut find = |kind, message| {
        findings.push(Finding { kind, cluster: Some(cluster.name.clone()), rule: None, message });
    };
    if failover.is_unsafe {
        let message = format!(
            "a standby is promoted on a proof of {} alone: two primaries may take writes at once; this stands in every report",
            failover.proof_needed
        );
        find(FindingKind::LoweredProof, message);
    }
    if failover.fence.is_empty() {
        return;
    }
    for member in &cluster.members {
        // The end of its lease is a proof that nothing has to be reached for.
        if failover.lease.is_some() && member.has_agent && Proof::LeaseOver.meets(failover.proof_needed) {
            continue;
        }
        let methods: Vec<_> = failover.fence.iter().flatten().filter(|m| m.applies_to(&member.name)).collect();
        // With a broker kind, the forbidden write raises a claim to a proof that was read back.
        let raised = |p: Proof| if cluster.has_broker && p == Proof::Claim { Proof::ReadBack } else { p };
        let best = methods.iter().map(|m| raised(m.best_proof)).max().unwrap_or_default();
        if best.meets(failover.proof_needed) {
            continue;
        }
        let only_cooperative = methods.iter().all(|m| fence::is_cooperative(&m.label, m.best_proof));
        let why = match (methods.is_empty(), only_cooperative) {
            (true, _) => "no fence method can be used on it",
            (_, true) => "its fence methods need its cooperation, which a broken primary does not give",
            _ => "its fence methods prove less",
        };
        let message = format!(
            "`{}` can never be proved to be stopped as far as `proof: {}` asks: {why} (at best {best}); no failover away from it will be done",
            member.name, failover.proof_needed
        );
        find(FindingKind::ProofOutOfReach, message);
    }
}

/// Which truth values something can have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Truths {
    may_be_true: bool,
    may_be_false: bool,
    may_be_unknown: bool,
}

impl Truths {
    const TRUE: Self = Self { may_be_true: true, may_be_false: false, may_be_unknown: false };
    const FALSE: Self = Self { may_be_true: false, may_be_false: true, may_be_unknown: false };
    const UNKNOWN: Self = Self { may_be_true: false, may_be_false: false, may_be_unknown: true };
    const NOT_TRUE: Self = Self { may_be_true: false, may_be_false: true, may_be_unknown: true };
    const TRUE_OR_FALSE: Self = Self { may_be_true: true, may_be_false: true, may_be_unknown: false };

    const fn not(self) -> Self {
        Self { may_be_true: self.may_be_false, may_be_false: self.may_be_true, ..self }
    }

    /// At least `need` of these are true. The branches are taken as independent, which finds too much rather than
    /// too little.
    fn at_least(need: usize, of: &[Self]) -> Self {
        let count = |is: fn(&Self) -> bool| of.iter().filter(|t| is(t)).count();
        let may_be_true = count(|t| t.may_be_true);
        let must_be_true = count(|t| !t.may_be_false && !t.may_be_unknown);
        let must_not_be_false = count(|t| !t.may_be_false);
        let may_be_unknown = count(|t| t.may_be_unknown);
        let may_not_be_false = count(|t| t.may_be_true || t.may_be_unknown);
        Self {
            may_be_true: may_be_true >= need,
            may_be_false: must_not_be_false < need,
            may_be_unknown: may_be_unknown > 0 && must_be_true < need && may_not_be_false >= need,
        }
    }
}

/// The truth values that a branch can have while only the arbiter is cut off.
fn truths(cluster: &ClusterPolicy, branch: &Expr) -> Truths {
    let all = |list: &[Expr]| list.iter().map(|b| truths(cluster, b)).collect::<Vec<_>>();
    let leaf = |signal, condition: &Condition| {
        cluster.signals.get(signal).map_or(Truths::UNKNOWN, |policy| when_isolated(policy, condition))
    };
    let of = match &branch.kind {
        ExprKind::All(list) => Truths::at_least(list.len().max(1), &all(list)),
        ExprKind::Any(list) => Truths::at_least(1, &all(list)),
        ExprKind::AtLeast { count, of } => Truths::at_least(count.of(of.len()), &all(of)),
        ExprKind::Not(inner) => truths(cluster, inner).not(),
        ExprKind::Signal { signal, condition } => leaf(signal, condition),
        ExprKind::Observers { count, signal, are } => {
            let total = cluster.signals.get(signal).map_or(0, |policy| streams(policy, cluster.members.len()));
            Truths::at_least(count.of(total), &vec![leaf(signal, are); total])
        }
    };
    // What must hold for a while is, until then, not yet true.
    if of.may_be_true && (branch.hold.is_some() || branch.window.is_some()) {
        Truths { may_be_false: true, may_be_unknown: true, ..of }
    } else {
        of
    }
}

/// The truth values of one condition while only the arbiter is cut off: its own looks fail, and what others push
/// does not arrive.
fn when_isolated(signal: &SignalPolicy, condition: &Condition) -> Truths {
    match (signal.kind, &signal.observers) {
        // Nodes push these. Without a fresh report nothing is known, whatever it said before.
        (SignalKind::Arrivals | SignalKind::Canary, Observers::Nodes(_)) => node_report(signal.kind, condition),
        // Pushed by Alertmanager. What fired before the cut is not due to the cut.
        (SignalKind::Alert, Observers::Arbiter | Observers::Nodes(_)) => Truths::NOT_TRUE,
        // Pushed by members or their agents, over whatever path is left: they stop, and that is all there is. What an
        // agent's kernel proved needs a fresh beat, and there is none.
        (_, Observers::Members) => match condition {
            Condition::Silent(_) | Condition::PhiAbove(_) | Condition::UnreachableBy(_) => Truths::TRUE,
            _ => Truths::UNKNOWN,
        },
        // The arbiter looks itself, at members or at each node, and its looks fail.
        (_, Observers::Arbiter | Observers::Nodes(_)) => match condition {
            Condition::Failing | Condition::FailingOf { .. } | Condition::Silent(_) | Condition::UnreachableBy(_) => {
                Truths::TRUE
            }
            Condition::FailedWith(kind) => match kind {
                // Which of these a cut gives depends on who cuts; programs answer with a wrong exit code.
                FailureKind::TimedOut
                | FailureKind::Unreachable
                | FailureKind::Refused
                | FailureKind::Reset
                | FailureKind::WrongAnswer => Truths::TRUE_OR_FALSE,
                _ => Truths::FALSE,
            },
            Condition::Ok => Truths::FALSE,
            // These need a fresh answer, and there is none.
            _ => Truths::UNKNOWN,
        },
    }
}

/// Arrivals may also be read by the arbiter at each node, and then a look can fail; what it would have told is
/// unknown all the same.
const fn node_report(kind: SignalKind, condition: &Condition) -> Truths {
    match (kind, condition) {
        (SignalKind::Arrivals, Condition::Failing | Condition::FailingOf { .. } | Condition::FailedWith(_)) => {
            Truths { may_be_true: true, may_be_false: true, may_be_unknown: true }
        }
        _ => Truths::UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::config::{Environment, load_text};

    struct Nothing;
    impl Environment for Nothing {
        fn var(&self, _: &str) -> Option<String> {
            None
        }
        fn read(&self, _: &Path) -> Result<String, String> {
            Err("none".into())
        }
        fn credentials_directory(&self) -> Option<PathBuf> {
            None
        }
    }

    const SIGNALS: &str = r#"
      heartbeat: { push: { from: primary, every: 1s } }
      beats: { push: { from: members, every: 1s } }
      arrivals: { push: { from: nodes, every: 1s } }
      alarm: { alert: { labels: { alertname: X } } }
      canary: { canary: { to: nodes, every: 1s } }
      ping: { broker: { ask: ping, of: primary, every: 1s } }
      pings: { broker: { ask: ping, of: members, every: 1s } }
      roles: { broker: { ask: role, of: members, every: 1s } }
      link: { broker: { ask: replication_link, of: standbys, every: 1s } }
      write: { broker: { ask: write, of: primary, every: 1s } }
      port: { tcp: {}, of: primary, every: 1s }
      script: { exec: { command: [/bin/x] }, of: primary, every: 1s }
      load: { prometheus: { url: "http://{address}/", metric: m }, of: nodes, every: 1s }
      process: { agent: { watch: process, of: primary } }
      processes: { agent: { watch: process, of: members } }
      frozen: { agent: { watch: frozen, of: primary } }
"#;

    /// A public key: which one does not matter here.
    fn key(first: char) -> String {
        format!("ed25519:{first}{}=", "A".repeat(42))
    }

    fn findings(when: &str, failover: &str) -> Vec<Finding> {
        let text = format!(
            r#"
arbiter: {{ name: a1, listen: "10.0.0.13:7400", store: "sqlite:/x" }}
mesh:
  key: "${{file:none}}"
  parties:
    a1: {{ key: "{0}", address: "10.0.0.13:1" }}
    a: {{ key: "{1}", address: "10.0.0.11:1" }}
    b: {{ key: "{2}", address: "10.0.0.12:1" }}
clusters:
  c:
    mode: auto
    broker: {{ redis: {{}} }}
    agent: {{ broker: {{ unit: x.service }}, gate: {{}}, fences: {{ flag: {{ file_flag: {{ path: /x, key: k, fenced: v }} }} }} }}
    members: {{ a: {{ address: "10.0.0.11:1" }}, b: {{ address: "10.0.0.12:1" }} }}
    nodes: [n1, n2, n3]
    signals: {SIGNALS}
    death_rules:
      - {{ name: r, when: {when}, verdict: dead, then: failover }}
    failover: {{ {failover} }}
"#,
            key('A'),
            key('E'),
            key('I'),
        );
        let config = load_text(&text, "t.yaml", &Nothing).unwrap_or_else(|m| panic!("{when}: {m}"));
        let findings = lint(&config);
        assert_eq!(config.warnings.len(), findings.len(), "every finding is a warning with its place");
        findings
    }

    const SOUND: &str = "fence: [{ firewall: {} }], max_loss: any";

    fn fires_when_isolated(when: &str) -> bool {
        findings(when, SOUND).iter().any(|f| f.kind == FindingKind::FiresWhenIsolated)
    }

    #[test]
    fn a_rule_that_a_cut_cable_of_the_arbiter_can_make_true_is_named() {
        for when in [
            "{ heartbeat: { silent: 10s } }",
            "{ heartbeat: { phi_above: 8 } }",
            "{ ping: failing }",
            "{ ping: { failing: 3 of 5 } }",
            "{ ping: { failed_with: timed_out } }",
            "{ script: { failed_with: wrong_answer } }",
            "{ not: { ping: ok } }",
            "{ all: [{ heartbeat: { silent: 10s } }, { port: { silent: 10s } }, { write: failing }] }",
            "{ any: [{ ping: failing }, { arrivals: { silent: 5s } }] }",
            "{ at_least: { count: majority, of: pings, are: failing } }",
            "{ at_least: { count: 2, of: [{ ping: failing }, { port: failing }, { link: up }] } }",
            "{ pings: { unreachable_by: all } }",
            "{ load: failing }",
            "{ ping: failing, for: 10s }",
            "{ not: { not: { ping: failing } } }",
            "{ not: { all: [{ ping: ok }, { link: up }] } }",
            "{ not: { ping: failing, for: 5s } }",
            "{ process: { silent: 5s } }",
            "{ at_least: { count: all, of: processes, are: { unreachable_by: 1 } } }",
        ] {
            assert!(fires_when_isolated(when), "{when}");
        }
    }

    #[test]
    fn a_rule_that_needs_what_a_cut_off_arbiter_cannot_know_is_sound() {
        for when in [
            "{ arrivals: { silent: 5s } }",
            "{ at_least: { count: majority, of: arrivals, are: { silent: 5s } } }",
            "{ at_least: { count: majority, of: canary, are: { failing: 5 of 5 } } }",
            "{ alarm: firing }",
            "{ ping: ok }",
            "{ link: down }",
            "{ process: exited }",
            "{ not: { process: exited } }",
            "{ frozen: firing }",
            "{ not: { frozen: firing } }",
            "{ at_least: { count: all, of: processes, are: exited } }",
            "{ not: { link: up } }",
            "{ roles: { role_is: standby } }",
            "{ roles: { lag_above: 10 } }",
            "{ write: { writable: false } }",
            "{ load: { above: 1 } }",
            "{ not: { heartbeat: ok } }",
            "{ ping: { failed_with: loading } }",
            "{ not: { ping: failing } }",
            "{ all: [{ heartbeat: { silent: 10s } }, { at_least: { count: majority, of: arrivals, are: { silent: 5s } } }, { not: { link: up } }] }",
            "{ at_least: { count: 2, of: [{ ping: failing }, { link: down }, { arrivals: { silent: 5s } }] } }",
            "{ at_least: { count: all, of: pings, are: ok } }",
            "{ not: { any: [{ ping: failing }, { arrivals: { silent: 5s } }] } }",
        ] {
            assert!(!fires_when_isolated(when), "{when}");
        }
    }

    #[test]
    fn sets_of_truths_count_like_their_members() {
        let (t, f, u) = (Truths::TRUE, Truths::FALSE, Truths::UNKNOWN);
        for (need, of, expected) in [
            (1, vec![t, f, u], t),
            (2, vec![t, f, u], u),
            (3, vec![t, f, u], f),
            (2, vec![t, t, u], t),
            (1, vec![f, f], f),
            (1, vec![u, f], u),
            (1, vec![], f),
            (1, vec![Truths::TRUE_OR_FALSE], Truths::TRUE_OR_FALSE),
            (1, vec![Truths::NOT_TRUE, f], Truths::NOT_TRUE),
            (2, vec![Truths::TRUE_OR_FALSE, u], Truths::NOT_TRUE),
        ] {
            assert_eq!(Truths::at_least(need, &of), expected, "{need} of {of:?}");
        }
    }

    fn kinds(when: &str, failover: &str) -> Vec<FindingKind> {
        findings(when, failover).iter().map(|f| f.kind).collect()
    }

    #[test]
    fn a_bare_condition_over_several_is_named_unless_it_is_denied() {
        assert_eq!(kinds("{ arrivals: { silent: 5s } }", SOUND), [FindingKind::AnyOfSeveral]);
        assert_eq!(kinds("{ not: { pings: ok } }", SOUND), [FindingKind::FiresWhenIsolated]);
        assert_eq!(kinds("{ link: down }", SOUND), []);
    }

    #[test]
    fn a_proof_that_can_never_be_reached_is_named() {
        let out_of_reach = |fence: &str| kinds("{ link: down }", &format!("fence: {fence}, max_loss: any"));
        assert_eq!(out_of_reach("[read_only]"), [FindingKind::ProofOutOfReach; 2]);
        assert_eq!(out_of_reach("[{ file_flag: { path: /x, key: k, fenced: v } }]"), [FindingKind::ProofOutOfReach; 2]);
        assert_eq!(out_of_reach("[{ signal: { pid_file: /x } }]"), [FindingKind::ProofOutOfReach; 2]);
        assert_eq!(out_of_reach("[{ signal: { pid_file: /x, supervisor: none } }]"), []);
        assert_eq!(out_of_reach("[{ firewall: {}, members: [a] }]"), [FindingKind::ProofOutOfReach]);
        assert_eq!(out_of_reach("[read_only, { fence_agent: { name: f } }]"), []);
        assert_eq!(out_of_reach("[read_only], proof: read_back"), []);
        assert_eq!(out_of_reach("[gate]"), []);
        assert_eq!(out_of_reach("[kill], proof: stopped"), []);
        assert_eq!(out_of_reach("[gate], proof: stopped"), [FindingKind::ProofOutOfReach; 2]);
        assert_eq!(out_of_reach("[{ agent: read_only }]"), [FindingKind::ProofOutOfReach; 2]);
        assert_eq!(out_of_reach("[{ agent: flag }]"), [FindingKind::ProofOutOfReach; 2]);
        assert_eq!(out_of_reach("[{ agent: flag }], lease: 200ms"), [], "the end of its lease is a proof");
        assert_eq!(
            out_of_reach("[{ exec: { command: [/x] } }], proof: claim, unsafe: true"),
            [FindingKind::LoweredProof]
        );
    }

    #[test]
    fn a15_an_arbiter_on_a_members_host_is_named() {
        let text = include_str!("../../config/examples/redis.yaml").replace("10.0.0.13:7400", "10.0.0.12:7400");
        let text = text.replace("  name: arbiter-1\n", "  name: arbiter-1\n  unsafe_colocated: true\n");
        let text = text.replace("${file:", "0123456789abcdef $${");
        let config = load_text(&text, "t.yaml", &Nothing).map_err(|m| m.to_string()).unwrap();
        assert_eq!(lint(&config).iter().map(|f| f.kind).collect::<Vec<_>>(), [FindingKind::Colocated]);
        assert!(config.warnings.iter().any(|w| w.contains("third host")), "{:?}", config.warnings);
    }
}

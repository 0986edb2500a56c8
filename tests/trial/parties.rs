//! What becomes of somebody, as everyone who looks sees it.

use coroner::model::trial::Response;

use super::{all, file, load, shown};

const RULES: &str = "
      - name: dead to everyone
        when:
          all:
            - any: [{ ping: { failing: 3 of 3 } }, { heartbeat: { silent: 5s } }]
            - at_least: { count: majority, of: arrivals, are: { silent: 3s } }
            - any: [{ not: { link: up } }, { link: { lag_above: 5s } }]
        for: 1s
        verdict: dead
        then: failover
      - { name: its process has ended, when: { process: exited }, verdict: dead, then: failover }
      - { name: frozen, when: { frozen: firing }, for: 2s, verdict: dead, then: failover }
      - { name: odd, when: { any: [{ ping: failing }, { heartbeat: { silent: 3s } }] }, verdict: suspect, then: alert }
";

fn passes(given: &str, expect: &str) {
    let tests = format!("  - {{ name: t, given: {given}, expect: {expect} }}");
    let outcome = all(&load(&file("auto", RULES, &tests))).remove(0);
    assert!(outcome.passed, "given {given}, expect {expect}:\n{}", shown(&outcome));
}

#[test]
fn a_cut_cable_to_the_arbiter_alone_kills_nobody() {
    passes(
        "{ arbiter: cut off for 60s }",
        "{ verdict: suspect, then: alert, rule: odd, never: [dead, failover, blocked] }",
    );
    passes("{ arbiter-1: cut off for 60s }", "{ verdict: suspect, never: dead }");
    // What happens behind its back is not seen, whatever it is.
    passes("{ arbiter: cut off, primary: dead from 10s }", "{ never: dead }");
    passes(
        "{ arbiter: cut off until 30s, primary: dead from 10s }",
        "[{ never: dead, until: 29s }, { then: failover, by: 40s }]",
    );
}

#[test]
fn a_primary_can_be_dead_frozen_or_cut_off() {
    passes("{ primary: dead }", "{ then: failover, rule: its process has ended, by: 0s }");
    passes("{ primary: dead, process: silent }", "{ then: failover, rule: dead to everyone, by: 5s }");
    passes("{ primary: frozen }", "{ then: failover, rule: frozen, not_before: 2s, by: 2s }");
    passes("{ primary: frozen, frozen: not firing }", "{ then: failover, rule: dead to everyone, by: 10s }");
    passes(
        "{ a: cut off }",
        "{ then: failover, rule: dead to everyone, by: 5s, never: { rule: its process has ended } }",
    );
    passes("{ primary: fresh }", "{ verdict: alive }");
    passes("{ primary: frozen from 5s until 6s }", "[{ at: 5500ms, then: alert }, { never: dead }, { then: nothing }]");
}

/// The agent itself lives on when its broker does not; it is unheard only where its host is cut off, or it is gone itself.
#[test]
fn an_agent_is_heard_unless_its_host_is_cut_off() {
    let rules = "\n      - { name: unheard, when: { host: { silent: 2s } }, verdict: suspect, then: alert }\n";
    let holds = |given: &str, expect: &str| {
        let tests = format!("  - {{ name: t, given: {given}, expect: {expect} }}");
        let outcome = all(&load(&file("auto", rules, &tests))).remove(0);
        assert!(outcome.passed, "given {given}, expect {expect}:\n{}", shown(&outcome));
    };
    holds("{ primary: dead }", "{ never: suspect }");
    holds("{ primary: frozen }", "{ never: suspect }");
    holds("{ primary: cut off from 5s }", "{ rule: unheard, verdict: suspect, not_before: 6s, by: 8s }");
    holds("{ host: silent from 5s }", "{ rule: unheard, verdict: suspect, not_before: 6s, by: 8s }");
}

#[test]
fn a_standby_or_a_node_that_goes_is_no_death_of_the_primary() {
    passes("{ standbys: dead }", "{ verdict: alive, never: [dead, suspect] }");
    passes("{ b: cut off, c: frozen }", "{ verdict: alive }");
    passes("{ nodes: dead }", "{ verdict: alive }");
    passes("{ nodes: cut off, primary: dead from 20s }", "{ then: blocked, blocked_by: isolated, verdict: dead }");
    passes("{ n1: dead, primary: dead }", "{ then: failover }");
}

#[test]
fn what_is_said_of_a_signal_goes_before_what_is_said_of_somebody() {
    passes("{ primary: dead, process: running, arrivals: fresh }", "{ then: alert, never: failover }");
    passes(
        "{ primary: dead, process: running, arrivals: { n1: silent, others: fresh } }",
        "{ then: alert, never: failover }",
    );
    let tests = "  - { name: t, given: { primary: dead }, expect: { then: alert } }";
    let outcome = all(&load(&file("auto", RULES, tests))).remove(0);
    assert!(!outcome.passed && outcome.story.last().is_some_and(|scene| scene.belief.then == Response::Failover));
}

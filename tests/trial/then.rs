//! What would be done: the rules' word, after the guards, whatever the mode.

use coroner::{
    model::{explain::Guard, trial::Response},
    trial::Outcome,
};

use super::{all, file, load, shown};

const RULES: &str = "
      - { name: gone, when: { process: exited }, verdict: dead, then: failover }
      - { name: useless, when: { at_least: { count: majority, of: canary, are: { failing: 3 of 3 } } }, verdict: gray, then: switchover }
      - { name: full, when: { write: { writable: false } }, verdict: suspect, then: redirect }
      - { name: odd, when: { ping: failing }, verdict: suspect, then: alert }
      - { name: hands off, when: { pager: firing }, verdict: suspect, then: hold }
      - { name: only watched, when: { frozen: firing }, verdict: dead, then: failover, mode: shadow }
      - { name: a person decides, when: { port: { failing: 3 of 3 } }, verdict: dead, then: failover, mode: manual }
";

fn play_in(mode: &str, given: &str, expect: &str) -> Outcome {
    // A rule's mode may not be wider than the cluster's.
    let rules = if mode == "shadow" { RULES.replace("mode: manual", "mode: shadow") } else { RULES.to_owned() };
    let tests = format!("  - {{ name: t, given: {given}, expect: {expect} }}");
    all(&load(&file(mode, &rules, &tests))).remove(0)
}

fn passes(given: &str, expect: &str) {
    for mode in ["auto", "manual", "shadow"] {
        let outcome = play_in(mode, given, expect);
        assert!(outcome.passed, "{mode}, given {given}, expect {expect}:\n{}", shown(&outcome));
    }
}

#[test]
fn each_reaction_has_its_word() {
    passes("{}", "{ verdict: alive, then: nothing, never: [alert, blocked, failover] }");
    passes("{ ping: refused }", "{ verdict: suspect, then: alert, rule: odd }");
    passes("{ write: not writable }", "{ verdict: suspect, then: redirect, rule: full }");
    passes("{ ping: refused, write: not writable }", "{ then: redirect, rule: full, fires: [full, odd] }");
    passes("{ pager: firing }", "{ verdict: suspect, then: hold, rule: hands off }");
    passes(
        "{ process: exited }",
        "{ verdict: dead, then: failover, rule: gone, candidate: b, never: [hold, blocked] }",
    );
    passes(
        "{ canary: timed_out }",
        "{ verdict: gray, then: switchover, rule: useless, candidate: b, not_before: 2s, by: 2s }",
    );
    // A failover goes before a switchover.
    passes(
        "{ canary: timed_out, process: exited from 10s }",
        "[{ at: 9s, then: switchover }, { then: failover, verdict: dead, not_before: 10s, by: 10s }]",
    );
}

#[test]
fn who_is_not_heard_cannot_be_asked_to_step_down() {
    passes("{ primary: cut off, port: absent }", "{ then: failover, rule: useless, verdict: gray }");
    passes(
        "{ primary: frozen, frozen: not firing, port: absent }",
        "{ then: switchover, rule: useless, verdict: gray }",
    );
}

#[test]
fn guards_stand_between() {
    passes("{ process: exited, pager: firing }", "{ verdict: dead, then: hold, rule: gone, blocked_by: held_by_rule }");
    passes(
        "{ process: exited from 20s, role: { standbys: absent } }",
        "{ verdict: dead, then: blocked, blocked_by: no_candidate, never: failover }",
    );
    passes("{ process: exited from 20s, nodes: dead }", "{ then: blocked, blocked_by: [isolated] }");
    passes("{ process: exited from 20s, agents: silent }", "{ then: blocked, blocked_by: [no_lease, no_candidate] }");
    passes("{ process: exited from 20s, agents: { \"a, b\": silent } }", "{ then: failover, candidate: c }");
}

#[test]
fn the_candidate_is_the_one_that_the_arbiter_would_choose() {
    passes(
        "{ process: exited, role: { b: 500 behind }, position: { b: 500 behind } }",
        "{ then: failover, candidate: c }",
    );
    passes("{ process: exited from 20s, agents: { b: silent } }", "{ then: failover, candidate: c }");
    passes("{ process: exited, role: { b: primary } }", "{ then: blocked, blocked_by: primary_unclear }");
    // It changes while nothing else does.
    passes(
        "{ process: exited, role: { b: 500 behind from 20s }, position: { b: 500 behind from 20s } }",
        "[{ at: 10s, candidate: b }, { at: 25s, candidate: c }]",
    );
}

#[test]
fn a_rule_that_only_watches_fires_and_does_nothing() {
    for mode in ["auto", "manual"] {
        let outcome = play_in(mode, "{ frozen: firing }", "{ verdict: alive, then: nothing, fires: only watched }");
        assert!(outcome.passed, "{mode}: {}", shown(&outcome));
    }
    // Where everything only watches, it is one among equals.
    let outcome = play_in("shadow", "{ frozen: firing }", "{ verdict: dead, then: failover, rule: only watched }");
    assert!(outcome.passed, "{}", shown(&outcome));
}

#[test]
fn a_persons_approval_is_no_matter_of_the_rules() {
    for mode in ["auto", "manual"] {
        let outcome = play_in(mode, "{ port: refused }", "{ verdict: dead, then: failover, rule: a person decides }");
        assert!(outcome.passed, "{mode}: {}", shown(&outcome));
        assert!(outcome.story.iter().all(|scene| !scene.belief.blocked_by.contains(&Guard::Approval)));
    }
}

#[test]
fn another_member_can_be_primary() {
    let tests = "  - { name: t, primary: b, given: { primary: dead }, expect: { then: failover, candidate: a } }\n  \
                 - { name: u, primary: b, given: { a: dead }, expect: { then: nothing, never: dead } }";
    let rules = "      - { name: r, when: { ping: { failing: 3 of 3 } }, verdict: dead, then: failover }";
    for outcome in all(&load(&file("auto", rules, tests))) {
        assert!(outcome.passed, "{}", shown(&outcome));
    }
}

#[test]
fn what_was_missed_is_explained_at_its_moment() {
    let outcome = play_in(
        "auto",
        "{ process: exited from 20s, role: { standbys: absent } }",
        "{ verdict: gray, then: failover }",
    );
    let [miss] = outcome.misses.as_slice() else { panic!("{}", shown(&outcome)) };
    assert!(miss.expected.ends_with(": verdict gray, then failover"), "{}", miss.expected);
    assert_eq!(miss.came, "verdict dead, then blocked (by no_candidate)");
    assert_eq!(miss.why.rule, Some("gone".into()));
    assert!(miss.why.rules[0].tree.to_text().contains("process exited"), "{:?}", miss.why);
    assert!(
        miss.against.iter().any(|state| state.guard == Guard::NoCandidate && state.reason.contains("role")),
        "{:?}",
        miss.against
    );
    let then: Vec<Response> = outcome.story.iter().map(|scene| scene.belief.then).collect();
    assert_eq!(then, [Response::Nothing, Response::Blocked]);

    let outcome = play_in("auto", "{ ping: refused from 5s }", "{ never: alert }");
    assert_eq!(outcome.misses[0].at.as_secs(), 5, "{}", shown(&outcome));
    let outcome = play_in("auto", "{ ping: refused from 5s }", "{ then: alert, not_before: 7s, by: 9s }");
    assert_eq!(outcome.misses[0].came, "it was so at 5s already");
    let outcome = play_in("auto", "{ ping: refused from 5s }", "[{ then: alert, by: 4s }, { at: 9s, then: alert }]");
    assert_eq!(outcome.misses[0].came, "then nothing; it came at 5s");
}

/// The same file gives the same story, and a thousand rules of a minute are no matter of patience.
#[test]
fn stories_repeat_exactly() {
    let config =
        load(&file("auto", RULES, "  - { name: t, given: { primary: frozen for 60s }, expect: { then: failover } }"));
    assert_eq!(all(&config), all(&config));
}

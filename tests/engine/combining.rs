//! `all`, `any`, `not`, `at_least` over three values; `for:` and `within:` on any branch.

use coroner::model::{
    Condition, Expr, Fact, FailureKind, Mode, Observer, Outcome, Rule,
    Truth::{self, False, True, Unknown},
    Verdict,
    policy::{Observers, SignalKind, Subjects},
    rule::{Count, Reaction},
};

use crate::{
    court::Court,
    policy::{NS, all, any, at_least, bare, held, is, not, observers, rule, secs, signal, within},
};

/// Signals x, y, z that are true, false or unknown as asked.
fn over(when: Expr, truths: [Truth; 3]) -> Court {
    let mut cluster = bare(&["a", "b"]);
    for name in ["x", "y", "z"] {
        cluster.signals.insert(name.into(), signal(SignalKind::Alert, Observers::Arbiter, Subjects::Service));
    }
    cluster.rules = vec![rule("r", when, Verdict::Dead, Reaction::Alert)];
    let mut court = Court::of(cluster);
    for (name, truth) in ["x", "y", "z"].into_iter().zip(truths) {
        if truth != Unknown {
            let fact = Fact::Alert { firing: truth == True };
            court.sees(name, Observer::Arbiter, None, Outcome::Fact(fact));
        }
    }
    court
}

fn x() -> Expr {
    is("x", Condition::Firing)
}
fn y() -> Expr {
    is("y", Condition::Firing)
}
fn z() -> Expr {
    is("z", Condition::Firing)
}

const VALUES: [Truth; 3] = [True, False, Unknown];

/// Kleene's tables, all of them.
#[test]
fn three_values_combine_as_kleene_said() {
    for a in VALUES {
        assert_eq!(over(not(x()), [a, Unknown, Unknown]).truth(), !a);
        for b in VALUES {
            for c in VALUES {
                let set = [a, b, c];
                let trues = set.iter().filter(|t| **t == True).count();
                let unknowns = set.iter().filter(|t| **t == Unknown).count();
                let needs = |k: usize| match () {
                    () if trues >= k => True,
                    () if trues + unknowns < k => False,
                    () => Unknown,
                };
                let list = || vec![x(), y(), z()];
                for (when, expected) in [
                    (all(list()), needs(3)),
                    (any(list()), needs(1)),
                    (at_least(Count::Number(1), list()), needs(1)),
                    (at_least(Count::Number(2), list()), needs(2)),
                    (at_least(Count::Number(3), list()), needs(3)),
                    (at_least(Count::Number(4), list()), needs(4)),
                    (at_least(Count::Number(0), list()), needs(1)),
                    (at_least(Count::Majority, list()), needs(2)),
                    (at_least(Count::All, list()), needs(3)),
                    (at_least(Count::Percent(33.0), list()), needs(1)),
                    (at_least(Count::Percent(34.0), list()), needs(2)),
                    (at_least(Count::Percent(67.0), list()), needs(3)),
                    (at_least(Count::Percent(100.0), list()), needs(3)),
                    (not(all(list())), !needs(3)),
                    (not(not(any(list()))), needs(1)),
                    (all(vec![any(vec![x(), y()]), z()]), {
                        let either = match (a, b) {
                            (True, _) | (_, True) => True,
                            (False, False) => False,
                            _ => Unknown,
                        };
                        match (either, c) {
                            (False, _) | (_, False) => False,
                            (True, True) => True,
                            _ => Unknown,
                        }
                    }),
                ] {
                    assert_eq!(over(when.clone(), set).truth(), expected, "{when:?} of {set:?}");
                }
            }
        }
    }
}

#[test]
fn the_tree_shows_every_branch() {
    let court = over(all(vec![x(), not(y()), at_least(Count::Majority, vec![x(), z()])]), [True, True, Unknown]);
    let tree = court.tree();
    assert_eq!((tree.asked.as_str(), tree.truth, tree.seen.as_str()), ("all of", False, "1 of 3 true, 1 unknown"));
    assert_eq!(tree.children.len(), 3);
    assert_eq!(tree.children[0].truth, True);
    assert_eq!((tree.children[1].asked.as_str(), tree.children[1].truth), ("not", False));
    assert_eq!(tree.children[1].children[0].truth, True);
    assert_eq!((tree.children[2].asked.as_str(), tree.children[2].truth), ("at least a majority of", Unknown));
    let text = tree.to_text();
    assert_eq!(text.lines().count(), 7, "{text}");
    assert!(text.starts_with("✘ all of"), "{text}");
    let of_nodes = Court::about(
        signal(SignalKind::Check, crate::policy::nodes(&["n1", "n2"]), Subjects::Primary),
        observers(Count::All, "s", Condition::Ok),
    );
    assert_eq!(of_nodes.tree().asked, "at least all of s ok");
    assert_eq!(of_nodes.tree().children.len(), 2);
}

fn alert(court: &mut Court, at: std::time::Duration, firing: bool) -> Truth {
    court.at(at).sees("s", Observer::Arbiter, None, Outcome::Fact(Fact::Alert { firing }));
    court.truth()
}

fn alarm(when: Expr) -> Court {
    let mut policy = signal(SignalKind::Alert, Observers::Arbiter, Subjects::Service);
    policy.fresh_for = secs(60);
    Court::about(policy, when)
}

fn s() -> Expr {
    is("s", Condition::Firing)
}

#[test]
fn for_counts_from_when_it_became_true_and_any_interruption_ends_it() {
    let mut court = alarm(held(s(), secs(5)));
    assert_eq!(court.truth(), Unknown);
    assert_eq!(alert(&mut court, secs(1), true), False, "true, but not for long enough");
    let tree = court.tree();
    assert!(tree.asked.ends_with("(for 5s)"), "{}", tree.asked);
    assert!(tree.would_change.is_some());
    court.at(secs(6) - NS);
    assert_eq!(court.truth(), False);
    court.at(secs(6));
    assert_eq!(court.truth(), True);
    assert_eq!(alert(&mut court, secs(7), false), False);
    assert_eq!(alert(&mut court, secs(8), true), False);
    assert_eq!(alert(&mut court, secs(12), true), False, "repeated, not begun anew");
    court.at(secs(13));
    assert_eq!(court.truth(), True, "five seconds since it became true again");
    // Unknown interrupts as well: stale evidence holds nothing.
    court.at(secs(73));
    assert_eq!(court.truth(), Unknown);
    assert_eq!(alert(&mut court, secs(74), true), False);
    court.failure(FailureKind::Auth);
}

#[test]
fn for_stands_on_branches_and_below_not() {
    // Not held yet is false, so that `not` of it is true: it is said of the branch as a whole.
    let mut court = alarm(not(held(s(), secs(5))));
    assert_eq!(court.truth(), Unknown);
    assert_eq!(alert(&mut court, secs(1), true), True);
    court.at(secs(6));
    assert_eq!(court.truth(), False);
    let mut court = alarm(all(vec![held(s(), secs(2)), held(s(), secs(4))]));
    alert(&mut court, secs(1), true);
    court.at(secs(3));
    assert_eq!(court.tree().children.iter().map(|c| c.truth).collect::<Vec<_>>(), [True, False]);
    court.at(secs(5));
    assert_eq!(court.truth(), True);
    let mut court = alarm(held(all(vec![s()]), secs(4)));
    alert(&mut court, secs(1), true);
    court.at(secs(5) - NS);
    assert_eq!(court.truth(), False);
    court.at(secs(5));
    assert_eq!(court.truth(), True);
}

#[test]
fn a_window_counts_how_long_it_was_true() {
    let mut court = alarm(within(s(), secs(6), secs(10)));
    assert_eq!(court.truth(), Unknown);
    assert_eq!(alert(&mut court, secs(10), true), False);
    assert_eq!(alert(&mut court, secs(14), false), False, "4 of 10");
    assert_eq!(alert(&mut court, secs(16), true), False);
    court.at(secs(18) - NS);
    assert_eq!(court.truth(), False);
    court.at(secs(18));
    assert_eq!(court.truth(), True, "4 and 2 of the last 10");
    assert!(court.tree().asked.contains("(6s within 10s)"), "{}", court.tree().asked);
    assert!(court.tree().seen.contains("true for 6s of the window"), "{}", court.tree().seen);
    assert_eq!(alert(&mut court, secs(19), false), True, "7 of 10: false now, but within the window");
    // The first span slides out: at 21s one second of it is gone.
    court.at(secs(21));
    assert_eq!(court.truth(), True, "exactly 6 of 10");
    court.at(secs(21) + NS);
    assert_eq!(court.truth(), False, "a nanosecond less");
    court.at(secs(40));
    assert_eq!(court.truth(), False);
}

#[test]
fn a_window_and_a_hold_count_one_after_the_other() {
    let mut court = alarm(held(within(s(), secs(2), secs(10)), secs(3)));
    alert(&mut court, secs(10), true);
    assert_eq!(alert(&mut court, secs(13), false), False, "the window holds since 12s");
    court.at(secs(15) - NS);
    assert_eq!(court.truth(), False);
    court.at(secs(15));
    assert_eq!(court.truth(), True, "three seconds since the window was first satisfied");
}

/// A rule that is true, false and unknown tells so once each.
#[test]
fn rules_tell_when_they_fire_and_clear() {
    use coroner::model::Notice;
    let mut court = alarm(s());
    alert(&mut court, secs(1), true);
    alert(&mut court, secs(2), true);
    alert(&mut court, secs(5), false);
    let told: Vec<String> = court
        .told
        .iter()
        .filter_map(|n| match n {
            Notice::RuleFired { explanation, .. } => Some(format!("fired {} {}", explanation.rule, explanation.truth)),
            Notice::RuleCleared { rule, after, .. } => Some(format!("cleared {rule} after {after:?}")),
            _ => None,
        })
        .collect();
    assert_eq!(told, ["fired r true", "cleared r after 4s"]);
}

#[test]
fn one_rule_of_a_mode_of_its_own() {
    let shadow = Rule { mode: Some(Mode::Shadow), ..rule("r", s(), Verdict::Dead, Reaction::Alert) };
    assert_eq!(shadow.mode, Some(Mode::Shadow));
}

/// Half is no majority: of four, two on each side of a cut must not both decide.
#[test]
fn a_majority_is_more_than_half_of_any_number() {
    for (total, needed) in [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4), (7, 4)] {
        assert_eq!(Count::Majority.of(total), needed, "of {total}");
    }
}

//! `ok`, `failing`, `failing: k of n`, `failed_with`, `unreachable_by`.

use coroner::model::{
    Condition, Failure, FailureKind, Outcome,
    Truth::{self, False, True, Unknown},
    observation::Observer,
    policy::{Observers, SignalKind, SignalPolicy, Subjects},
    rule::Count,
};

use crate::{
    court::{Court, ok},
    policy::{NS, any, is, ms, nodes, secs, signal},
};

fn ping() -> SignalPolicy {
    signal(SignalKind::Check, Observers::Arbiter, Subjects::Primary)
}

fn court(condition: Condition) -> Court {
    Court::about(ping(), is("s", condition))
}

/// What each condition says of each newest outcome. F4: our own credentials, certificates and mistakes are no evidence.
#[test]
fn the_newest_outcome_decides() {
    use FailureKind as F;
    let kinds: [(F, [Truth; 4]); 14] = [
        // ok, failing, failed_with: refused, unreachable_by
        (F::Refused, [False, True, True, True]),
        (F::TimedOut, [False, True, False, True]),
        (F::Unreachable, [False, True, False, True]),
        (F::Reset, [False, True, False, True]),
        (F::WrongAnswer, [False, True, False, False]),
        (F::Full, [False, True, False, False]),
        (F::ReadOnly, [False, True, False, False]),
        (F::Loading, [False, True, False, False]),
        (F::Overloaded, [False, True, False, False]),
        (F::Auth, [Unknown, Unknown, False, Unknown]),
        (F::Tls, [Unknown, Unknown, False, Unknown]),
        (F::Parse, [Unknown, Unknown, False, Unknown]),
        (F::NotFound, [Unknown, Unknown, False, Unknown]),
        (F::Local, [Unknown, Unknown, False, Unknown]),
    ];
    let conditions = || {
        [
            Condition::Ok,
            Condition::Failing,
            Condition::FailedWith(F::Refused),
            Condition::UnreachableBy(Count::Majority),
        ]
    };
    for (kind, expected) in kinds {
        for (condition, expected) in conditions().into_iter().zip(expected) {
            let mut court = court(condition.clone());
            assert_eq!(court.truth(), Unknown, "{condition} without any look");
            court.at(secs(1)).failure(kind);
            assert_eq!(court.truth(), expected, "{condition} after {kind}");
            // Exactly as old as is fresh, it counts; a nanosecond more, it does not.
            court.at(secs(1) + ms(1500));
            assert_eq!(court.truth(), expected, "{condition} after {kind}, just fresh");
            court.at(secs(1) + ms(1500) + NS);
            assert_eq!(court.truth(), Unknown, "{condition} after {kind}, stale");
            let tree = court.tree();
            assert!(tree.seen.contains("that is stale"), "{}", tree.seen);
        }
    }
    for (condition, expected) in conditions().into_iter().zip([True, False, False, False]) {
        let mut court = court(condition.clone());
        court.at(secs(1)).fact(ok());
        assert_eq!(court.truth(), expected, "{condition} after a success");
        court.at(secs(1) + ms(1500) + NS);
        assert_eq!(court.truth(), Unknown, "{condition} after a stale success");
    }
}

/// `+` success, `-` a failure that counts, `?` one that does not.
fn after(condition: Condition, looks: &str) -> Court {
    let mut court = court(condition);
    for (i, look) in looks.chars().enumerate() {
        court.at(ms(500) * u32::try_from(i).unwrap());
        match look {
            '+' => court.fact(ok()),
            '-' => court.failure(FailureKind::TimedOut),
            _ => court.failure(FailureKind::Auth),
        };
    }
    court
}

#[test]
fn k_of_n_counts_the_newest_n() {
    let table: [(&str, Truth); 18] = [
        ("", Unknown),
        ("-", Unknown),
        ("--", Unknown),
        ("---", True),
        ("+", Unknown),
        ("++", Unknown),
        ("+++", False),
        ("--+", Unknown),
        ("-+-+", Unknown),
        ("-+-+-", True),
        ("--+++", False),
        ("---++", True),
        ("---+++", False),
        ("??", Unknown),
        ("--?", Unknown),
        ("--???", Unknown),
        ("--?-", True),
        ("+++??", False),
    ];
    for (looks, expected) in table {
        let court = after(Condition::FailingOf { failures: 3, of: 5 }, looks);
        assert_eq!(court.truth(), expected, "failing 3 of 5 after {looks:?}");
        if !looks.is_empty() {
            assert!(court.tree().seen.ends_with(&looks[looks.len().saturating_sub(5)..]), "{}", court.tree().seen);
        }
    }
}

/// A stream keeps what the largest window of all rules needs; the others look no further back for that.
#[test]
fn k_of_n_counts_its_own_n_where_another_keeps_more() {
    let of = |failures, of| is("s", Condition::FailingOf { failures, of });
    let mut court = Court::about(ping(), any(vec![of(2, 2), of(5, 5)]));
    court.failure(FailureKind::TimedOut).fact(ok()).failure(FailureKind::TimedOut);
    assert_eq!(court.truth(), False, "one of the newest two failed: {}", court.tree().to_text());
    court.failure(FailureKind::TimedOut);
    assert_eq!(court.truth(), True);
}

#[test]
fn k_of_n_of_a_stream_that_dried_up_is_unknown() {
    let mut court = after(Condition::FailingOf { failures: 3, of: 5 }, "---");
    court.at(secs(1) + ms(1500));
    assert_eq!(court.truth(), True);
    court.at(secs(1) + ms(1500) + NS);
    assert_eq!(court.truth(), Unknown);
}

/// P28: one observer is not a majority; those that say nothing might still be.
#[test]
fn unreachable_by_counts_observers() {
    // What n1, n2, n3 see; `?` nothing at all.
    let table = [
        ("???", [Unknown, Unknown, Unknown]),
        ("---", [True, True, True]),
        ("+++", [False, False, False]),
        ("-??", [True, Unknown, Unknown]),
        ("--?", [True, True, Unknown]),
        ("--+", [True, True, False]),
        ("-++", [True, False, False]),
        ("+??", [Unknown, Unknown, False]),
        ("++?", [Unknown, False, False]),
    ];
    for (seen, expected) in table {
        for (count, expected) in [Count::Number(1), Count::Majority, Count::All].into_iter().zip(expected) {
            let policy = signal(SignalKind::Check, nodes(&["n1", "n2", "n3"]), Subjects::Primary);
            let mut court = Court::about(policy, is("s", Condition::UnreachableBy(count)));
            for (node, what) in ["n1", "n2", "n3"].into_iter().zip(seen.chars()) {
                let outcome = match what {
                    '+' => Outcome::Fact(ok()),
                    '-' => Outcome::Failure(Failure::new(FailureKind::Refused, "refused")),
                    _ => continue,
                };
                court.sees("s", Observer::Node(node.into()), Some("a"), outcome);
            }
            assert_eq!(court.truth(), expected, "unreachable by {count} when {seen}");
            let tree = court.tree();
            assert_eq!(tree.children.len(), 3, "all that are configured are shown");
            assert_eq!(tree.children[1].observer.as_deref(), Some("n2"));
        }
    }
}

/// A heartbeat that stays away says that the way is cut, once it was heard at all.
#[test]
fn a_heartbeat_that_stays_away_is_unreachable() {
    let policy =
        SignalPolicy { fresh_for: secs(3), ..signal(SignalKind::Heartbeat, Observers::Members, Subjects::Primary) };
    let mut court = Court::about(policy, is("s", Condition::UnreachableBy(Count::Number(1))));
    court.at(secs(60));
    assert_eq!(court.truth(), Unknown, "never heard");
    court.beat(1);
    assert_eq!(court.truth(), False);
    court.at(secs(63));
    assert_eq!(court.truth(), False);
    court.at(secs(63) + NS);
    assert_eq!(court.truth(), True);
}

#[test]
fn what_was_seen_stands_in_the_explanation() {
    let mut court = court(Condition::Failing);
    assert_eq!(court.tree().seen, "never heard of");
    court.at(secs(1)).failure(FailureKind::Refused).at(ms(1400));
    let tree = court.tree();
    assert_eq!(tree.asked, "s failing");
    assert_eq!(tree.seen, "refused: as scripted");
    assert_eq!((tree.observer.as_deref(), tree.subject.as_deref()), (Some("arbiter"), Some("a")));
    assert_eq!(tree.age, Some(ms(400)));
    court.failure(FailureKind::Auth);
    assert_eq!(court.tree().seen, "auth: as scripted (no evidence)");
    court.fact(ok());
    assert_eq!(court.tree().seen, "ok in 1ms");
}

//! `silent`: heartbeats by absence, arrivals by what nodes say, probes by failures that go on.

use coroner::model::{
    Condition, Epoch, Fact, FailureKind, Observer, Outcome,
    Truth::{False, True, Unknown},
    observation::Arrivals,
    policy::{Observers, SignalKind, SignalPolicy, Subjects, Traffic},
    record::{ClusterState, Recovered},
    rule::Count,
};

use crate::{
    court::{Court, arrived, ok},
    policy::{NS, bare, is, ms, nodes, observers, policy, rule, secs, signal},
};

fn heartbeat() -> SignalPolicy {
    SignalPolicy {
        every: secs(1),
        fresh_for: secs(3),
        ..signal(SignalKind::Heartbeat, Observers::Members, Subjects::Primary)
    }
}

#[test]
fn a_heartbeat_is_silent_exactly_at_its_limit() {
    let mut court = Court::about(heartbeat(), is("s", Condition::Silent(secs(10))));
    court.at(secs(100));
    assert_eq!(court.truth(), Unknown, "a stream that was never heard cannot fall silent");
    court.beat(1);
    assert_eq!(court.truth(), False);
    court.at(secs(110) - NS);
    assert_eq!(court.truth(), False);
    let tree = court.tree();
    assert!(tree.would_change.as_deref().unwrap().starts_with("true in"), "{tree:?}");
    court.at(secs(110));
    assert_eq!(court.truth(), True);
    assert_eq!(court.tree().seen, "last heard 10s ago");
    court.at(secs(120)).beat(2);
    assert_eq!(court.truth(), False);
}

/// G25 to G36: a heartbeat whose echo is not proved may come over a link that carries one way only.
#[test]
fn a_heartbeat_without_its_echo_is_not_heard() {
    let mut court = Court::about(heartbeat(), is("s", Condition::Silent(secs(10))));
    let a = || Observer::Member("a".into());
    court.sees("s", a(), Some("a"), Outcome::Fact(Fact::Beat { seq: 1, echoed: false }));
    court.at(secs(60));
    assert_eq!(court.truth(), Unknown);
    court.beat(2).at(secs(69)).sees("s", a(), Some("a"), Outcome::Fact(Fact::Beat { seq: 3, echoed: false }));
    court.at(secs(70));
    assert_eq!(court.truth(), True);
}

/// After a restart of the arbiter, silence of what was heard before counts from the restart, not from never.
#[test]
fn what_was_heard_in_an_earlier_life_counts_from_the_start() {
    let mut cluster = bare(&["a", "b"]);
    cluster.signals.insert("s".into(), heartbeat());
    cluster.rules = vec![rule(
        "r",
        is("s", Condition::Silent(secs(10))),
        coroner::model::Verdict::Dead,
        coroner::model::rule::Reaction::Alert,
    )];
    let state = ClusterState {
        cluster: "orders".into(),
        epoch: Epoch(3),
        primary: Some("a".into()),
        primary_epoch: Epoch(3),
        heard: vec![("s".into(), Observer::Member("a".into()), Some("a".into()))],
        ..ClusterState::default()
    };
    let mut court = Court::over(policy(vec![cluster]), Recovered { clusters: vec![state], open: Vec::new() });
    assert_eq!(court.truth(), False);
    assert!(court.tree().seen.contains("not heard since the arbiter started"), "{}", court.tree().seen);
    court.at(secs(10) - NS);
    assert_eq!(court.truth(), False);
    court.at(secs(10));
    assert_eq!(court.truth(), True);
}

fn arrivals(traffic: Traffic) -> SignalPolicy {
    SignalPolicy {
        every: secs(1),
        fresh_for: secs(3),
        traffic,
        ..signal(SignalKind::Arrivals, nodes(&["n1"]), Subjects::Service)
    }
}

#[test]
fn constant_traffic_needs_no_witness() {
    let mut court = Court::about(arrivals(Traffic::Constant), is("s", Condition::Silent(secs(5))));
    assert_eq!(court.truth(), Unknown);
    court.at(secs(10)).report("n1", arrived(7, Some(secs(1)), None));
    assert_eq!(court.truth(), False);
    court.at(secs(12)).report("n1", arrived(7, Some(secs(3)), None));
    court.at(secs(14) - NS);
    assert_eq!(court.truth(), False);
    court.at(secs(14));
    assert_eq!(court.truth(), True, "the last arrival was at 9s");
    assert!(court.tree().seen.contains("last arrival 5s ago"), "{}", court.tree().seen);
    // P27: a node that is itself silent is no witness.
    court.at(secs(15) + NS);
    assert_eq!(court.truth(), Unknown);
    assert!(court.tree().seen.contains("the node itself has not reported"), "{}", court.tree().seen);
}

/// A node that never received anything counts from the floor.
#[test]
fn nothing_ever_counts_from_the_beginning() {
    let mut court = Court::about(arrivals(Traffic::Constant), is("s", Condition::Silent(secs(5))));
    court.at(secs(4)).report("n1", arrived(0, None, None));
    assert_eq!(court.truth(), False);
    court.at(secs(5));
    assert_eq!(court.truth(), True);
    assert!(court.tree().seen.contains("nothing arrived yet"), "{}", court.tree().seen);
}

/// P26: an idle night kills nobody, and the first attempt after it does not kill at once.
#[test]
fn no_attempts_is_not_silence() {
    let mut court = Court::about(arrivals(Traffic::Attempted), is("s", Condition::Silent(secs(5))));
    for s in 0..3600 {
        court.at(secs(s)).report("n1", arrived(7, Some(secs(s)), Some(3)));
        if s >= 5 {
            assert_eq!(court.truth(), Unknown, "idle at {s}s");
        }
    }
    assert!(court.tree().seen.contains("nobody attempted since"), "{}", court.tree().seen);
    // Morning: somebody sends, and nothing arrives.
    court.at(secs(3600)).report("n1", arrived(7, Some(secs(3600)), Some(4)));
    assert_ne!(court.truth(), True, "the first attempt after an idle night");
    for s in 3601..3604 {
        court.at(secs(s)).report("n1", arrived(7, Some(secs(s)), Some(4 + s)));
        assert_ne!(court.truth(), True, "{s}s");
    }
    court.at(secs(3606)).report("n1", arrived(7, Some(secs(3606)), Some(9000)));
    assert_eq!(court.truth(), True, "unanswered for long enough");
    assert!(court.tree().seen.contains("attempts unanswered"), "{}", court.tree().seen);
    // And it arrives again.
    court.at(secs(3607)).report("n1", arrived(8, Some(ms(1)), Some(9001)));
    assert_eq!(court.truth(), False);
}

/// A counter that rose between two reports says of the attempt only that it lies between them: what arrived meanwhile may
/// have answered it.
#[test]
fn an_attempt_that_may_have_been_answered_is_no_witness() {
    let mut court = Court::about(arrivals(Traffic::Attempted), is("s", Condition::Silent(secs(5))));
    court.at(secs(1)).report("n1", arrived(7, Some(secs(0)), Some(3)));
    // Sent between 1s and 3s; what arrived at 2.5s may be it.
    court.at(secs(3)).report("n1", arrived(8, Some(ms(500)), Some(4)));
    for s in 4..12 {
        court.at(secs(s)).report("n1", arrived(8, Some(secs(s) - ms(2_500)), Some(4)));
        assert_ne!(court.truth(), True, "nobody is known to have sent anything since, at {s}s");
    }
}

/// The report that begins a sender's count says nothing of when its attempts were; a restart of the node counts anew.
#[test]
fn the_first_count_of_a_sender_is_no_attempt() {
    let mut court = Court::about(arrivals(Traffic::Attempted), is("s", Condition::Silent(secs(5))));
    court.at(secs(1)).report("n1", arrived(7, Some(secs(0)), Some(5000)));
    court.at(secs(10)).report("n1", arrived(7, Some(secs(9)), Some(5000)));
    assert_eq!(court.truth(), Unknown);
    court.at(secs(11)).report("n1", arrived(0, None, Some(3)));
    court.at(secs(20)).report("n1", arrived(0, None, Some(3)));
    assert_ne!(court.truth(), True, "a smaller count is another life of the node");
}

/// P27, P28: over nodes, those that are themselves silent might be on either side.
#[test]
fn a_majority_of_nodes_is_counted_over_all_that_are_configured() {
    let policy = SignalPolicy {
        traffic: Traffic::Constant,
        fresh_for: secs(3),
        ..signal(SignalKind::Arrivals, nodes(&["n1", "n2", "n3"]), Subjects::Service)
    };
    let when = || observers(Count::Majority, "s", Condition::Silent(secs(5)));
    // Seconds since the last arrival at each node, as it says; None: the node is silent itself.
    let table = [
        ([Some(9), Some(9), Some(9)], True),
        ([Some(9), Some(9), Some(0)], True),
        ([Some(9), Some(0), Some(0)], False),
        ([Some(9), Some(9), None], True),
        ([Some(9), None, None], Unknown),
        ([Some(9), Some(0), None], Unknown),
        ([Some(0), Some(0), None], False),
        ([None, None, None], Unknown),
    ];
    for (ages, expected) in table {
        let mut court = Court::about(policy.clone(), when());
        court.at(secs(60));
        for (node, age) in ["n1", "n2", "n3"].into_iter().zip(ages) {
            if let Some(age) = age {
                court.report(node, arrived(1, Some(secs(age)), None));
            }
        }
        assert_eq!(court.truth(), expected, "{ages:?}");
    }
}

#[test]
fn a_probe_is_silent_while_its_looks_go_on_and_fail() {
    let probe = || signal(SignalKind::Check, Observers::Arbiter, Subjects::Primary);
    let mut court = Court::about(probe(), is("s", Condition::Silent(secs(2))));
    court.at(secs(1)).failure(FailureKind::TimedOut).at(secs(2)).failure(FailureKind::TimedOut).at(secs(10));
    court.failure(FailureKind::TimedOut);
    assert_eq!(court.truth(), Unknown, "it never answered: perhaps we ask wrongly");
    court.fact(ok());
    assert_eq!(court.truth(), False);
    court.at(secs(11)).failure(FailureKind::TimedOut);
    assert_eq!(court.truth(), False);
    court.at(secs(12) - NS);
    assert_eq!(court.truth(), False);
    court.at(secs(12));
    assert_eq!(court.truth(), True);
    court.failure(FailureKind::Tls);
    assert_eq!(court.truth(), Unknown, "F4: our certificate is no evidence");
    court.failure(FailureKind::Refused);
    assert_eq!(court.truth(), True);
    court.at(secs(12) + ms(1500) + NS);
    assert_eq!(court.truth(), Unknown, "nobody looks any more");
}

/// Strangers and wrong subjects are not taken in, and memory stays bounded.
#[test]
fn what_the_policy_does_not_name_is_dropped() {
    let mut court = Court::about(arrivals(Traffic::Constant), is("s", Condition::Silent(secs(5))));
    court.at(secs(60));
    let silent = || Outcome::Fact(Fact::Arrivals(Arrivals { last_age: Some(secs(50)), ..Arrivals::default() }));
    for n in 0..100 {
        court.sees("s", Observer::Node(format!("stranger-{n}").into()), None, silent());
        court.sees(&format!("signal-{n}"), Observer::Node("n1".into()), None, silent());
    }
    court.sees("s", Observer::Node("n1".into()), Some("a"), silent());
    court.sees("s", Observer::Arbiter, None, silent());
    court.sees("s", Observer::Member("a".into()), None, silent());
    assert_eq!(court.truth(), Unknown);
    assert_eq!(court.engine.signals(court.now, &"orders".into()).unwrap().len(), 1);

    // A member speaks for itself only.
    let mut court = Court::about(heartbeat(), is("s", Condition::Silent(secs(5))));
    let beat = || Outcome::Fact(Fact::Beat { seq: 1, echoed: true });
    court.sees("s", Observer::Member("b".into()), Some("a"), beat());
    court.sees("s", Observer::Member("x".into()), Some("x"), beat());
    court.at(secs(60));
    assert_eq!(court.truth(), Unknown);
}

/// A primary that was just promoted, or adopted, may freeze before the first look at it succeeded. That another signal
/// has heard it is enough to call it silent; before, it was watched for ever and never failed over.
#[test]
fn a_new_primary_that_freezes_at_once_is_silent_if_anything_was_ever_heard_of_it() {
    let mut cluster = bare(&["a", "b"]);
    cluster.signals.insert("s".into(), signal(SignalKind::Check, Observers::Arbiter, Subjects::Primary));
    cluster.signals.insert("other".into(), signal(SignalKind::Check, Observers::Arbiter, Subjects::Members));
    let when = is("s", Condition::Silent(secs(2)));
    cluster.rules = vec![rule("r", when, coroner::model::Verdict::Dead, coroner::model::rule::Reaction::Alert)];
    let mut court = Court::of(cluster);
    court.sees("other", Observer::Arbiter, Some("b"), Outcome::Fact(ok()));
    court.at(secs(3)).failure(FailureKind::TimedOut);
    assert_eq!(court.truth(), Unknown, "of somebody else it says nothing");
    court.sees("other", Observer::Arbiter, Some("a"), Outcome::Fact(ok()));
    assert_eq!(court.truth(), True);
}

/// Looking at arrivals failed: the node says nothing, which is no silence.
#[test]
fn a_failed_look_at_a_node_is_no_silence() {
    use coroner::model::Failure;
    let mut court = Court::about(arrivals(Traffic::Constant), is("s", Condition::Silent(secs(5))));
    court.report("n1", arrived(7, None, None)).at(secs(6));
    let failure = Failure::new(FailureKind::Refused, "x");
    court.report("n1", arrived(7, None, None));
    assert_eq!(court.truth(), True);
    court.sees("s", Observer::Node("n1".into()), None, Outcome::Failure(failure));
    assert_eq!(court.truth(), Unknown);
    assert_eq!(court.tree().seen, "refused: x");
}

/// What turns true by itself says so; what goes stale first does not, for then it is unknown.
#[test]
fn only_what_turns_true_by_itself_says_when() {
    let mut court = Court::about(arrivals(Traffic::Constant), is("s", Condition::Silent(secs(5))));
    // Fresh for three seconds.
    let in_3s = Some("true in 3s unless something is heard");
    for (age, says) in [(secs(2), in_3s), (ms(1999), None), (secs(1), None)] {
        court.at(secs(60)).report("n1", arrived(7, Some(age), None));
        assert_eq!(court.truth(), False);
        assert_eq!(court.tree().would_change.as_deref(), says, "last arrival {age:?} before");
    }
}

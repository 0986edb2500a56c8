//! What proves that the old primary is stopped, entry by entry of a log: no word of a method, of a member or of a voter is
//! worth more than it says.

use std::time::Duration;

use coroner::{
    failover::SagaState,
    model::{
        Action, Epoch, FenceReport, FenceVerdict, Proof, StepResult, WriteAttempt, WriteOutcome,
        policy::FailoverPolicy,
        record::{LogEntry, Overrides, SagaKind},
    },
};

use crate::{
    bench::{Bench, Script},
    policy::{failover_policy, full, method, ms, policy, secs},
};

const FENCE: Action = Action::Fence { level: 0, method: 0 };
const WRITE: Action = Action::ForbiddenWrite { level: 0 };

fn two_levels() -> FailoverPolicy {
    FailoverPolicy {
        fence: vec![vec![method("one", secs(1), Proof::PowerOff)], vec![method("two", secs(1), Proof::PowerOff)]],
        ..failover_policy()
    }
}

fn opened() -> LogEntry {
    LogEntry::Opened {
        kind: SagaKind::Failover,
        epoch: Epoch(4),
        old_primary: "a".into(),
        candidate: "b".into(),
        overrides: Overrides::default(),
        last_position: Some(7),
    }
}

/// A saga in which these acts about the old primary began and ended, one after the other.
fn after(acts: &[(Action, StepResult)]) -> SagaState {
    let mut state = SagaState::from_log(&[opened()]).unwrap();
    for (action, result) in acts {
        let act = state.next_act();
        state.apply(&LogEntry::Started { act, action: action.clone(), member: "a".into() });
        state.apply(&LogEntry::Ended { act, result: result.clone(), took: Duration::ZERO });
    }
    state
}

fn confirmed(proof: Proof) -> StepResult {
    StepResult::Fenced(FenceReport::confirmed(proof, "it says so"))
}

fn write(on_new: WriteOutcome, on_open: Option<WriteOutcome>) -> StepResult {
    StepResult::WriteTried(WriteAttempt { on_new, on_open, detail: "tried".into() })
}

/// A connection that was open already is another vantage point: what a new one is refused, its clients may go on doing.
#[test]
fn only_two_refusals_make_a_read_back_and_any_write_that_goes_through_makes_nothing() {
    use WriteOutcome::{Accepted, NoAnswer, Refused};
    let table = [
        (Refused, Some(Refused), Proof::ReadBack),
        (Refused, None, Proof::Claim),
        (Refused, Some(NoAnswer), Proof::Claim),
        (NoAnswer, Some(Refused), Proof::Claim),
        (NoAnswer, None, Proof::Claim),
        (Accepted, Some(Refused), Proof::Nothing),
        (Refused, Some(Accepted), Proof::Nothing),
        (NoAnswer, Some(Accepted), Proof::Nothing),
    ];
    for (on_new, on_open, expected) in table {
        let state = after(&[(FENCE, confirmed(Proof::Claim)), (WRITE, write(on_new, on_open))]);
        assert_eq!(state.proof(&two_levels()), expected, "{on_new:?} on a new connection, {on_open:?} on an open one");
    }
}

/// A member that refuses writes may take them the next moment: only a fence that says that it acted is read back.
#[test]
fn a_member_that_refuses_writes_is_not_fenced_by_that() {
    let refused = || write(WriteOutcome::Refused, Some(WriteOutcome::Refused));
    let reports = [FenceReport::unknown("no answer"), FenceReport::refuted("it runs")];
    for report in reports {
        let state = after(&[(FENCE, StepResult::Fenced(report.clone())), (WRITE, refused())]);
        assert_eq!(state.proof(&two_levels()), Proof::Nothing, "{report:?}");
    }
    let read_only = after(&[(Action::MakeReadOnly, confirmed(Proof::ReadBack)), (WRITE, refused())]);
    assert_eq!(read_only.proof(&two_levels()), Proof::Nothing, "drained is not fenced");
}

/// A verdict comes before its proof: what is not confirmed proves nothing, whatever else the report holds.
#[test]
fn what_is_not_confirmed_proves_nothing_whatever_it_names() {
    for verdict in [FenceVerdict::Unknown, FenceVerdict::Refuted] {
        for action in [FENCE, Action::AwaitLease] {
            let proof = if action == FENCE { Proof::PowerOff } else { Proof::LeaseOver };
            let report = FenceReport { verdict, proof, detail: "both at once".into() };
            let state = after(&[(action.clone(), StepResult::Fenced(report))]);
            assert_eq!(state.proof(&two_levels()), Proof::Nothing, "{verdict:?} of {action:?}");
            assert!(!state.is_sealed());
        }
    }
}

/// A seal, and a wait, are of one epoch: in a larger one another may have held the lease meanwhile.
#[test]
fn a_lease_that_was_over_in_a_smaller_epoch_is_not_over_in_a_larger_one() {
    let mut state = after(&[(Action::AwaitLease, confirmed(Proof::LeaseOver))]);
    assert_eq!((state.proof(&two_levels()), state.is_sealed()), (Proof::LeaseOver, true));
    state.apply(&LogEntry::EpochRaised { epoch: Epoch(9) });
    assert_eq!((state.proof(&two_levels()), state.is_sealed()), (Proof::Nothing, false));
}

/// H2: an agent whose gate a write came through is not believed any more: the write of the next level is waited for, as
/// for any other method.
#[test]
fn an_agent_that_was_found_out_shortens_no_wait() {
    let mut cluster = full(&["a", "b"]);
    let mut gate = method("gate", secs(2), Proof::Gate);
    gate.is_by_agent = true;
    cluster.failover.fence = vec![vec![gate], vec![method("power", secs(2), Proof::PowerOff)]];
    let mut bench = Bench::settled(policy(vec![cluster]));
    bench.script("fence a 0.0", &[Script::Lie]);
    bench.script("forbidden write 0", &[Script::Refuse]);
    bench.script("forbidden write 1", &[Script::Slow(ms(250))]);
    bench.member("a").frozen = true;
    bench.run_until(secs(30), "it is over", Bench::is_over);
    let incident = bench.store.newest().unwrap().0;
    let step = |what: &str| incident.steps.iter().rfind(|s| s.label.starts_with(what)).unwrap();
    let waited = step("promote").started.since(step("try a forbidden write").started);
    assert!(waited >= ms(250), "promoted {waited:?} after the write was begun, which takes 250ms");
    assert_eq!(bench.writers(), ["b"]);
}

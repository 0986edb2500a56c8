//! Records to write.

use coroner::model::{
    Action, Epoch, Incident, Mode, Operator, Policy, Proof, Record, Report, StepResult, Time, WallAnchor,
    edge::Done,
    incident::{IncidentState, Outage, Trigger},
    observation::Observer,
    record::{ClusterState, LogEntry, Overrides, SagaKind},
    report::ReportSubject,
};

pub(crate) const ANCHOR: WallAnchor = WallAnchor { boot: Time::from_millis(1_000), unix_ms: 1_785_000_000_000 };

pub(crate) fn cluster(name: &str, epoch: u64) -> ClusterState {
    ClusterState {
        cluster: name.into(),
        epoch: Epoch(epoch),
        primary: Some("broker-a".into()),
        heard: vec![("ping".into(), Observer::Arbiter, Some("broker-a".into()))],
        ..ClusterState::default()
    }
}

pub(crate) fn take(name: &str, expected: u64, epoch: u64) -> Record {
    Record::Cluster { expected: Epoch(expected), state: cluster(name, epoch) }
}

pub(crate) fn incident(id: &str, cluster: &str, state: IncidentState) -> Incident {
    Incident {
        id: id.into(),
        cluster: cluster.into(),
        arbiter: "arbiter-1".into(),
        kind: SagaKind::Failover,
        state,
        state_reason: None,
        opened: Time::from_millis(5_000),
        anchor: ANCHOR,
        closed: matches!(state, IncidentState::Resolved | IncidentState::Aborted).then(|| Time::from_millis(6_500)),
        mode: Mode::Auto,
        policy_hash: "abc".into(),
        trigger: Trigger::Operator { by: Operator("uid 0".into()), reason: "a drill".into() },
        epoch_before: Epoch(1),
        epoch: Epoch(2),
        old_primary: "broker-a".into(),
        candidate: "broker-b".into(),
        candidates: Vec::new(),
        guards: Vec::new(),
        bypassed: Vec::new(),
        steps: Vec::new(),
        proof: Proof::Nothing,
        loss: None,
        timeline: Vec::new(),
        outage: Outage::default(),
        rejoin: None,
        acknowledged: None,
        untold: false,
    }
}

pub(crate) fn record(id: &str, state: IncidentState) -> Record {
    Record::Incident(Box::new(incident(id, "orders", state)))
}

pub(crate) fn policy(id: &str) -> Record {
    Record::IncidentPolicy { incident: id.into(), policy: Box::new(Policy { hash: "abc".into(), ..Policy::default() }) }
}

pub(crate) fn opened() -> LogEntry {
    LogEntry::Opened {
        kind: SagaKind::Failover,
        epoch: Epoch(2),
        old_primary: "broker-a".into(),
        candidate: "broker-b".into(),
        overrides: Overrides::default(),
        last_position: Some(42),
    }
}

pub(crate) fn started(act: u32) -> LogEntry {
    LogEntry::Started { act, action: Action::Promote, member: "broker-b".into() }
}

pub(crate) fn ended(act: u32) -> LogEntry {
    let result = StepResult::Done(Done::new("promoted"));
    LogEntry::Ended { act, result, took: std::time::Duration::from_micros(12_345) }
}

pub(crate) fn log(id: &str, number: u32, entry: LogEntry) -> Record {
    Record::Log { incident: id.into(), cluster: "orders".into(), number, entry }
}

/// What the engine writes when an incident opens.
pub(crate) fn opening(id: &str, expected: u64) -> Vec<Record> {
    vec![take("orders", expected, expected + 1), record(id, IncidentState::Fencing), policy(id), log(id, 1, opened())]
}

pub(crate) fn report(key: &str, text: &str) -> Report {
    Report {
        key: key.into(),
        at: Time::from_millis(9_000),
        anchor: ANCHOR,
        arbiter: "arbiter-1".into(),
        subject: ReportSubject::Warning { cluster: Some("orders".into()), what: "tilt".into(), text: text.into() },
        resolved: false,
    }
}

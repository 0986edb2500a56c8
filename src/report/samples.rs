//! A realistic incident for the tests of this folder.

use std::time::Duration;

use crate::model::{
    Epoch, Explanation, Incident, Mode, Proof, Report, Time, Truth, Verdict, WallAnchor,
    explain::{CandidateView, Guard, GuardState, RuleExplanation},
    incident::{IncidentState, LossEstimate, Outage, RejoinRecord, StepRecord, Trigger},
    record::SagaKind,
    report::ReportSubject,
    rule::Reaction,
};

/// Milliseconds after the incident was opened, or before.
fn at(ms: i64) -> Time {
    Time::from_millis(u64::try_from(5_000_000 + ms).unwrap())
}

fn leaf(asked: &str, truth: Truth, seen: &str, observer: &str, age_ms: u64) -> Explanation {
    Explanation {
        asked: asked.into(),
        truth,
        seen: seen.into(),
        observer: Some(observer.into()),
        subject: Some("broker-a".into()),
        age: Some(Duration::from_millis(age_ms)),
        would_change: None,
        children: Vec::new(),
    }
}

fn branch(asked: &str, truth: Truth, seen: &str, children: Vec<Explanation>) -> Explanation {
    Explanation {
        asked: asked.into(),
        truth,
        seen: seen.into(),
        observer: None,
        subject: None,
        age: None,
        would_change: None,
        children,
    }
}

pub(crate) fn rule() -> RuleExplanation {
    let arrivals = vec![
        leaf("arrivals silent for 1s", Truth::True, "nothing for 1.4s, 37 attempts", "node-1", 200),
        leaf("arrivals silent for 1s", Truth::True, "nothing for 1.3s, 35 attempts", "node-2", 400),
        leaf("arrivals silent for 1s", Truth::Unknown, "no report for 9s", "node-3", 9_000),
    ];
    let tree = branch(
        "all",
        Truth::True,
        "",
        vec![
            leaf("heartbeat silent for 1s", Truth::True, "last heard 1.5s ago", "broker-a", 1_500),
            branch("at least a majority of arrivals", Truth::True, "2 of 3", arrivals),
            branch("not", Truth::True, "", vec![leaf("link up", Truth::False, "down", "broker-b", 300)]),
        ],
    );
    RuleExplanation {
        rule: "silent to everyone".into(),
        verdict: Verdict::Dead,
        then: Reaction::Failover,
        shadow: false,
        truth: Truth::True,
        since: Duration::from_millis(500),
        tree,
    }
}

pub(crate) fn incident() -> Incident {
    let mut incident = Incident {
        id: "01K0ZX6Q1MABCDEFGHJKMNPQRS".into(),
        cluster: "orders".into(),
        arbiter: "arbiter-1".into(),
        kind: SagaKind::Failover,
        state: IncidentState::Resolved,
        state_reason: None,
        opened: at(0),
        anchor: WallAnchor { boot: at(-1_000_000), unix_ms: 1_785_000_000_123 },
        closed: Some(at(1_140)),
        mode: Mode::Auto,
        policy_hash: "3f2a90c1".into(),
        trigger: Trigger::Rule(Box::new(rule())),
        epoch_before: Epoch(7),
        epoch: Epoch(8),
        old_primary: "broker-a".into(),
        candidate: "broker-b".into(),
        candidates: vec![
            CandidateView {
                member: "broker-b".into(),
                rank: Some(1),
                rejected: Vec::new(),
                warnings: Vec::new(),
                position: Some(48_213),
                behind: Some(120),
                priority: 100,
            },
            CandidateView {
                member: "broker-c".into(),
                rank: None,
                rejected: vec!["lag 9000 is above 1000".into(), "last heard 40s ago".into()],
                warnings: Vec::new(),
                position: None,
                behind: None,
                priority: 50,
            },
        ],
        guards: vec![
            GuardState { guard: Guard::Paused, blocks: false, reason: "nobody paused it".into() },
            GuardState { guard: Guard::Cooldown, blocks: true, reason: "the last failover was 4m ago".into() },
        ],
        bypassed: vec!["guard cooldown: alice skipped it by `--skip-guard cooldown`".into()],
        steps: Vec::new(),
        proof: Proof::Stopped,
        loss: Some(LossEstimate {
            primary_position: Some(48_333),
            candidate_position: Some(48_213),
            behind: Some(120),
            blind: Some(Duration::from_millis(480)),
            detail: "120 bytes of the old primary's log did not reach broker-b".into(),
        }),
        timeline: Vec::new(),
        outage: Outage {
            last_good: Some(at(-1_510)),
            first_new: Some(at(801)),
            following: vec![("node-1".into(), at(612)), ("node-2".into(), at(640))],
            laggards: vec!["node-3".into()],
        },
        rejoin: Some(RejoinRecord {
            member: "broker-a".into(),
            seen: Some(at(60_000)),
            done: Some(at(61_200)),
            divergent: Some(120),
            detail: "its tail is kept in /var/lib/coroner/tails/01K0ZX6Q1M-broker-a.aof".into(),
        }),
        acknowledged: None,
        untold: false,
    };
    for (act, label, started, took, outcome, detail) in [
        (1, "fence broker-a: read_only (level 1)", 3, Some(302), "unknown", "no answer within 300ms"),
        (2, "fence broker-a: signal (level 2)", 306, Some(41), "confirmed", "process group 4711 is empty"),
        (3, "forbidden write to broker-a", 348, Some(2), "done", "refused on a new and on an open connection"),
        (4, "promote broker-b", 352, Some(38), "done", "role primary, wrote epoch 8 and read it back"),
        (5, "redirect: http", 391, None, "unknown", "the arbiter was restarted meanwhile"),
    ] {
        incident.steps.push(StepRecord {
            act,
            label: label.into(),
            started: at(started),
            took: took.map(Duration::from_millis),
            outcome: outcome.into(),
            detail: detail.into(),
        });
    }
    incident.tell(at(-1_500), "the last heartbeat of broker-a");
    incident.tell(at(0), "the rule “silent to everyone” fired; broker-b was chosen");
    incident.tell(at(347), "broker-a is stopped: proof 4");
    incident.tell(at(390), "broker-b is primary in epoch 8");
    incident.tell(at(1_140), "2 of 3 nodes follow broker-b; the time for node-3 is over");
    incident
}

pub(crate) fn incident_report() -> Report {
    let incident = incident();
    Report {
        key: format!("incident/{}", incident.id),
        at: at(61_300),
        anchor: incident.anchor,
        arbiter: incident.arbiter.clone(),
        subject: ReportSubject::Incident(Box::new(incident)),
        resolved: false,
    }
}

//! What agents tell, as gauges: from their beats through the engine to the scrape.

use std::time::Duration;

use coroner::{
    model::{
        Epoch, Fact, Observer, Outcome, Proof,
        agent::{Certainty, Evidence, GateState, LeaseState, MemberReport, RenewalHealth, Watch},
        doctor::{LinkView, MeshView, PartyView, Rehearsal},
        observation::AGENTS_SIGNAL,
    },
    telemetry::{Metrics, agents, events},
};

use crate::{
    court::Court,
    policy::{leased, ms, secs},
};

fn report() -> MemberReport {
    let evidence = |watch, is_so| Evidence { watch, certainty: Certainty::Proven, is_so, detail: String::new() };
    MemberReport {
        epoch: Epoch(7),
        appointed: Some(Epoch(7)),
        lease: LeaseState::Held { left: ms(150) },
        renewals: Some(RenewalHealth { rounds: 40, granted: 39, least_left_ms: Some(90.0) }),
        gate: GateState::Open,
        evidence: vec![evidence(Watch::Process, false), evidence(Watch::Disk, true)],
        ..MemberReport::default()
    }
}

fn scrape(court: &Court, mesh: Option<&MeshView>) -> String {
    let metrics = Metrics::new();
    let status = court.engine.status(court.now);
    let policy = court.engine.policy();
    metrics.scrape(|metrics| {
        events::refresh(metrics, &status, &[]);
        agents::refresh_mesh(metrics, &policy, &status, mesh);
    })
}

#[track_caller]
fn has(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(text.lines().any(|found| found == *line), "{line}\n{text}");
    }
}

#[test]
fn beats_become_gauges_and_silence_does_too() {
    let mut court = Court::of(leased(&["a", "b"]));
    let fact = Fact::Agent(Box::new(report()));
    court.sees(AGENTS_SIGNAL, Observer::Member("a".into()), Some("a"), Outcome::Fact(fact));
    let mesh = MeshView {
        me: "arbiter-1".into(),
        parties: vec![PartyView {
            party: "a".into(),
            is_agent: true,
            heard: Some(ms(1)),
            beat: Some(ms(1)),
            is_direct: Some(false),
            bad_signature: None,
            differs: None,
        }],
        links: vec![LinkView {
            from: "arbiter-1".into(),
            to: "a".into(),
            is_up: false,
            is_one_way: true,
            round_trip: Some(ms(2)),
        }],
        counts: [("relayed".to_owned(), 12)].into(),
        ..MeshView::default()
    };
    let text = scrape(&court, Some(&mesh));
    has(
        &text,
        &[
            "coroner_agent_heard{cluster=\"orders\",member=\"a\"} 1",
            "coroner_agent_heard{cluster=\"orders\",member=\"b\"} 0",
            "coroner_agent_epoch{cluster=\"orders\",member=\"a\"} 7",
            "coroner_agent_direct{cluster=\"orders\",member=\"a\"} 0",
            "coroner_agent_evidence{cluster=\"orders\",member=\"a\",watch=\"disk\"} 1",
            "coroner_agent_evidence{cluster=\"orders\",member=\"a\",watch=\"process\"} 0",
            "coroner_lease_held{cluster=\"orders\",member=\"a\"} 1",
            "coroner_lease_left_seconds{cluster=\"orders\",member=\"a\"} 0.15",
            "coroner_lease_least_left_seconds{cluster=\"orders\",member=\"a\"} 0.09",
            "coroner_lease_length_seconds{cluster=\"orders\"} 0.2",
            "coroner_lease_renewals{cluster=\"orders\",member=\"a\",result=\"granted\"} 39",
            "coroner_gate{cluster=\"orders\",member=\"a\",state=\"open\"} 1",
            "coroner_gate{cluster=\"orders\",member=\"a\",state=\"unproven\"} 0",
            "coroner_voters{cluster=\"orders\"} 3",
            "coroner_voters_heard{cluster=\"orders\"} 2",
            "coroner_mesh_link_one_way{from=\"arbiter-1\",to=\"a\"} 1",
            "coroner_mesh_link_up{from=\"arbiter-1\",to=\"a\"} 0",
            "coroner_mesh_messages_total{result=\"relayed\"} 12",
        ],
    );
    assert!(!text.contains("coroner_gate{cluster=\"orders\",member=\"b\""), "it told nothing yet:\n{text}");

    court.at(secs(5));
    let text = scrape(&court, None);
    has(
        &text,
        &[
            "coroner_agent_heard{cluster=\"orders\",member=\"a\"} 0",
            "coroner_agent_beat_age_seconds{cluster=\"orders\",member=\"a\"} 5",
            "coroner_voters_heard{cluster=\"orders\"} 1",
        ],
    );
    assert!(!text.contains("coroner_lease_held{"), "what a silent agent holds is not known:\n{text}");
}

#[test]
fn rehearsals_become_gauges() {
    let metrics = Metrics::new();
    let court = Court::of(leased(&["a", "b"]));
    let rehearsal = |member: &str, usable, proof_age| Rehearsal {
        cluster: "orders".into(),
        member: member.into(),
        level: 1,
        method: "gate".into(),
        usable,
        detail: String::new(),
        best_proof: Proof::Gate,
        took: Some(ms(3)),
        age: Some(secs(2)),
        proof_age,
    };
    let all = [rehearsal("a", Some(true), Some(secs(2))), rehearsal("b", None, None::<Duration>)];
    agents::refresh_fences(&metrics, &court.engine.policy(), &all);
    let text = metrics.render();
    has(
        &text,
        &[
            "coroner_fence_check_interval_seconds 60",
            "coroner_fence_usable{cluster=\"orders\",level=\"1\",member=\"a\",method=\"gate\"} 1",
            "coroner_fence_proof_age_seconds{cluster=\"orders\",level=\"1\",member=\"a\",method=\"gate\"} 2",
            "coroner_fence_rehearsal_age_seconds{cluster=\"orders\",level=\"1\",member=\"b\",method=\"gate\"} 2",
        ],
    );
    assert!(!text.contains("coroner_fence_usable{cluster=\"orders\",level=\"1\",member=\"b\""), "{text}");
    assert!(!text.contains("coroner_fence_proof_age_seconds{cluster=\"orders\",level=\"1\",member=\"b\""), "{text}");
}

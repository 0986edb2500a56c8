//! How long a decision takes, for a cluster of 100 nodes and 50 conditions: from the last observation that the rule
//! needs to the first effect that must be carried out (the record of the opening), the cost of an observation that
//! changes nothing, and a whole failover through the pure code.
//!
//! `cargo bench --bench decision`. Quantiles are from own samples; Criterion's tables follow.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, reason = "a benchmark may stop")]

#[path = "common/mod.rs"]
mod common;

use std::{fmt::Write as _, hint::black_box, time::Duration};

use coroner::{
    config::{self, ProcessEnvironment},
    engine::Engine,
    model::{
        ActError, Action, ClusterName, Done, Effect, Event, Fact, Failure, FailureKind, FenceReport, Observation,
        Observer, Outcome, Policy, Proof, Role, StepResult, Time, WallAnchor, WriteAttempt, WriteOutcome,
        effect::Run,
        observation::{Arrivals, RoleReport},
        record::Recovered,
    },
    sys::clock::Stopwatch,
};
use criterion::{BatchSize, Criterion};

const NODES: usize = 100;
const SAMPLES: usize = 2_000;

/// 50 conditions: the rule that decides, and others over all nodes and members that are true, false and unknown.
fn policy() -> Policy {
    let mut text = String::from(
        "arbiter: { name: bench, store: \"sqlite:/nowhere/coroner.db\" }\nclusters:\n  orders:\n    mode: auto\n    \
         broker: { redis: {} }\n    members:\n      a: { address: \"127.0.0.1:1\" }\n      b: { address: \
         \"127.0.0.1:2\" }\n      c: { address: \"127.0.0.1:3\" }\n    nodes: [",
    );
    (0..NODES).for_each(|n| write!(text, "node-{n}, ").unwrap());
    text.push_str(
        "]\n    signals:\n      heartbeat: { push: { from: primary, every: 1s } }\n      arrivals: { push: { from: \
         nodes, every: 1s, traffic: constant } }\n      ping: { broker: { ask: ping, of: primary, every: 1s, timeout: \
         300ms } }\n      role: { broker: { ask: role, of: members, every: 1s, timeout: 500ms } }\n      link: { \
         broker: { ask: replication_link, of: standbys, every: 1s, timeout: 300ms } }\n    death_rules:\n      - \
         name: silent to everyone\n        when:\n          all:\n            - heartbeat: { silent: 10s }\n            \
         - at_least: { count: majority, of: arrivals, are: { silent: 5s } }\n            - ping: { failing: 3 of 5 \
         }\n            - not: { link: up }\n        verdict: dead\n        then: failover\n",
    );
    // Four conditions above; each of these has two.
    for n in 0..23 {
        let (over_nodes, over_members) = match n % 4 {
            0 => (format!("at_least: {{ count: majority, of: arrivals, are: {{ silent: {}s }} }}", n + 20), "ping: ok"),
            1 => (format!("at_least: {{ count: 90%, of: arrivals, are: {{ stalled: {}s }} }}", n + 20), "link: down"),
            2 => (format!("heartbeat: {{ silent: {}s }}", n + 20), "role: { role_is: unknown }"),
            _ => (format!("heartbeat: {{ phi_above: {} }}", n + 5), "ping: { failing: 5 of 5 }"),
        };
        let over_members = over_members.replace("{ role_is: unknown }", "{ lag_above: 1000000 }");
        writeln!(
            text,
            "      - {{ name: rule {n}, when: {{ all: [{{ {over_nodes} }}, {{ {over_members} }}] }}, for: 30s, verdict: \
             suspect, then: alert }}"
        )
        .unwrap();
    }
    text.push_str(
        "    failover:\n      fence: [{ exec: { command: [/bin/true], status: [/bin/true], proof: gate }, deadline: 5s \
         }]\n      max_loss: any\n      rejoin: ask\n",
    );
    let config = config::load_text(&text, "bench.yaml", &ProcessEnvironment).unwrap_or_else(|e| panic!("{e}\n{text}"));
    config.policy
}

struct Lab {
    engine: Engine,
    now: Time,
    cluster: ClusterName,
    received: u64,
}

impl Lab {
    fn see(&mut self, signal: &str, observer: Observer, subject: Option<&str>, outcome: Outcome) {
        let event = self.seen(signal, observer, subject, outcome);
        self.engine.handle(self.now, event);
    }

    fn seen(&self, signal: &str, observer: Observer, subject: Option<&str>, outcome: Outcome) -> Event {
        Event::Observed(Observation {
            at: self.now,
            cluster: self.cluster.clone(),
            signal: signal.into(),
            observer,
            subject: subject.map(Into::into),
            outcome,
        })
    }

    /// One second of a cluster: with a healthy primary, or with one that is gone for all.
    fn second(&mut self, healthy: bool) {
        self.now = self.now + Duration::from_secs(1);
        self.engine.handle_timeout(self.now);
        self.received += u64::from(healthy);
        for node in 0..NODES {
            let report = self.report(healthy);
            self.see("arrivals", Observer::Node(format!("node-{node}").as_str().into()), None, report);
        }
        let refused = || Outcome::Failure(Failure::new(FailureKind::Refused, "refused"));
        if healthy {
            let beat = Outcome::Fact(Fact::Beat { seq: self.now.0, echoed: true });
            self.see("heartbeat", Observer::Member("a".into()), Some("a"), beat);
            self.see("ping", Observer::Arbiter, Some("a"), Outcome::Fact(Fact::Ok { latency: Duration::ZERO }));
        } else {
            self.see("ping", Observer::Arbiter, Some("a"), refused());
        }
        for (member, role) in [("a", Role::Primary), ("b", Role::Standby), ("c", Role::Standby)] {
            let report = RoleReport {
                role,
                position: Some(1_000),
                link_up: None,
                follows: None,
                lineage: None,
                epoch: None,
                priority: None,
            };
            let outcome = if member == "a" && !healthy { refused() } else { Outcome::Fact(Fact::Role(report)) };
            self.see("role", Observer::Arbiter, Some(member), outcome);
        }
        for member in ["b", "c"] {
            self.see("link", Observer::Arbiter, Some(member), Outcome::Fact(Fact::Link { up: true, last_io: None }));
        }
        self.settle();
    }

    fn report(&self, healthy: bool) -> Outcome {
        let last_age = if healthy { Duration::ZERO } else { Duration::from_secs(30) };
        Outcome::Fact(Fact::Arrivals(Arrivals {
            received: self.received,
            last_age: Some(last_age),
            ..Arrivals::default()
        }))
    }

    /// Answers every record; returns the acts.
    fn settle(&mut self) -> Vec<Run> {
        let mut runs = Vec::new();
        while let Some(effect) = self.engine.poll_effect() {
            match effect {
                Effect::Persist { id, .. } => self.engine.handle(self.now, Event::Persisted(id)),
                Effect::Run(run) => runs.push(*run),
                Effect::Tell(_) | Effect::Reply { .. } => {}
            }
        }
        runs
    }

    /// Everything is known but one thing: that the last link is down.
    fn on_the_brink() -> Self {
        let now = Time::from_millis(1_000_000);
        let engine = Engine::new(now, WallAnchor::default(), 1, policy(), Recovered::default());
        let mut lab = Self { engine, now, cluster: "orders".into(), received: 0 };
        (0..30).for_each(|_| lab.second(true));
        (0..15).for_each(|_| lab.second(false));
        let down = lab.link_down("b");
        lab.engine.handle(lab.now, down);
        assert!(lab.settle().is_empty(), "it decided too early: {:?}", lab.engine.why(lab.now, &lab.cluster));
        lab
    }

    fn link_down(&self, member: &str) -> Event {
        self.seen("link", Observer::Arbiter, Some(member), Outcome::Fact(Fact::Link { up: false, last_io: None }))
    }
}

/// Until the record of the opening is handed out.
fn decide(engine: &mut Engine, now: Time, last: Event) {
    engine.handle(now, last);
    loop {
        match engine.poll_effect().expect("it decides") {
            Effect::Persist { .. } => return,
            _ => continue,
        }
    }
}

fn result_of(run: &Run) -> StepResult {
    match &run.action {
        Action::Fence { .. } => StepResult::Fenced(FenceReport::confirmed(Proof::Gate, "cut")),
        Action::ForbiddenWrite { .. } => StepResult::WriteTried(WriteAttempt {
            on_new: WriteOutcome::NoAnswer,
            on_open: None,
            detail: String::new(),
        }),
        Action::Redirect { .. } => StepResult::Failed(ActError::nothing_done("redirect", "not in this benchmark")),
        _ => StepResult::Done(Done { position: Some(1_000), ..Done::new("done") }),
    }
}

/// From the last observation through all steps and their records until the standby is primary.
fn whole_failover(mut lab: Lab, last: Event) -> usize {
    lab.engine.handle(lab.now, last);
    let mut acts = 0;
    loop {
        let runs = lab.settle();
        if runs.is_empty() {
            break;
        }
        for run in runs {
            acts += 1;
            let result = result_of(&run);
            lab.engine.handle(lab.now, Event::StepEnded { token: run.token, result });
        }
    }
    let primary = lab.engine.primaries().pop().unwrap().primary.unwrap();
    assert!(primary.as_str() != "a", "nobody was promoted");
    acts
}

fn main() {
    let brink = Lab::on_the_brink();
    let again = || Lab {
        engine: brink.engine.clone(),
        now: brink.now,
        cluster: brink.cluster.clone(),
        received: brink.received,
    };
    let samples = if common::is_test() { 20 } else { SAMPLES };
    println!("a cluster of {NODES} nodes and 50 conditions");

    let decisions = (0..samples).map(|_| {
        let mut lab = again();
        let last = lab.link_down("c");
        let watch = Stopwatch::start();
        decide(&mut lab.engine, lab.now, last);
        watch.elapsed()
    });
    common::row("last needed observation to first effect", decisions.collect());

    let mut lab = again();
    let observations = (0..samples).map(|n| {
        lab.now = lab.now + Duration::from_micros(10);
        let node = Observer::Node(format!("node-{}", n % NODES).as_str().into());
        let event = lab.seen("arrivals", node, None, lab.report(false));
        let watch = Stopwatch::start();
        lab.engine.handle(lab.now, event);
        let took = watch.elapsed();
        lab.settle();
        took
    });
    common::row("taking one observation", observations.collect());

    let mut lab = again();
    let judgements = (0..samples).map(|n| {
        lab.now = lab.now + Duration::from_micros(10);
        let node = Observer::Node(format!("node-{}", n % NODES).as_str().into());
        let event = lab.seen("arrivals", node, None, lab.report(false));
        lab.engine.handle(lab.now, event);
        let watch = Stopwatch::start();
        while let Some(effect) = lab.engine.poll_effect() {
            black_box(effect);
        }
        watch.elapsed()
    });
    common::row("judging the cluster anew", judgements.collect());

    let sagas = (0..samples / 4).map(|_| {
        let lab = again();
        let last = lab.link_down("c");
        let watch = Stopwatch::start();
        black_box(whole_failover(lab, last));
        watch.elapsed()
    });
    common::row("a whole failover, pure", sagas.collect());

    let mut criterion = Criterion::default().configure_from_args();
    criterion.bench_function("decision: last observation to first effect", |bencher| {
        bencher.iter_batched(
            again,
            |mut lab| {
                let last = lab.link_down("c");
                decide(&mut lab.engine, lab.now, last);
                lab
            },
            BatchSize::LargeInput,
        );
    });
    criterion.bench_function("decision: a whole failover, pure", |bencher| {
        bencher.iter_batched(
            again,
            |lab| {
                let last = lab.link_down("c");
                whole_failover(lab, last)
            },
            BatchSize::LargeInput,
        );
    });
    criterion.final_summary();
}

//! A court: one engine, one cluster, one rule. Evidence in, verdict out, time by hand.
#![allow(dead_code, unreachable_pub, reason = "each test crate uses its part")]

use std::time::Duration;

use coroner::{
    engine::Engine,
    model::{
        ClusterPolicy, Effect, Epoch, Event, Expr, Fact, Failure, FailureKind, Notice, Observation, Observer, Outcome,
        Policy, Time, Truth, Verdict, WallAnchor,
        explain::Explanation,
        observation::{Arrivals, RoleReport},
        record::Recovered,
        rule::Reaction,
        status::{Why, WhyNot},
    },
};

use crate::policy::{bare, policy, rule};

/// The moment at which every court opens. Not zero, so that ages before it can be told from ages of nothing.
pub const OPENS: Time = Time(1_000_000_000_000);

pub const ANCHOR: WallAnchor = WallAnchor { boot: OPENS, unix_ms: 1_700_000_000_000 };

pub struct Court {
    pub engine: Engine,
    pub now: Time,
    pub told: Vec<Notice>,
    pub runs: usize,
}

impl Court {
    /// A court over this policy, with what the store kept.
    pub fn over(policy: Policy, recovered: Recovered) -> Self {
        let engine = Engine::new(OPENS, ANCHOR, 1, policy, recovered);
        let mut court = Self { engine, now: OPENS, told: Vec::new(), runs: 0 };
        court.settle();
        court
    }

    pub fn of(cluster: ClusterPolicy) -> Self {
        Self::over(policy(vec![cluster]), Recovered::default())
    }

    /// A court over one signal called `s` and one rule about it.
    pub fn about(signal: coroner::model::policy::SignalPolicy, when: Expr) -> Self {
        let mut cluster = bare(&["a", "b"]);
        cluster.nodes = ["n1", "n2", "n3"].map(Into::into).to_vec();
        cluster.signals.insert("s".into(), signal);
        cluster.rules = vec![rule("r", when, Verdict::Dead, Reaction::Alert)];
        Self::of(cluster)
    }

    /// Goes to `after` the opening, stopping wherever the engine wants to be woken.
    pub fn at(&mut self, after: Duration) -> &mut Self {
        let target = OPENS + after;
        assert!(target >= self.now, "time does not go back");
        for _ in 0..1_000_000 {
            match self.engine.poll_timeout() {
                Some(wake) if wake <= target => {
                    assert!(wake > self.now || wake == target, "woken at {wake} though it is {} already", self.now);
                    self.now = self.now.max(wake);
                    self.engine.handle_timeout(self.now);
                    self.settle();
                    if wake == target {
                        break;
                    }
                }
                _ => break,
            }
        }
        self.now = target;
        self
    }

    /// Goes to `after` the opening in one leap, and looks there whatever the engine said of waking.
    pub fn leap(&mut self, after: Duration) -> &mut Self {
        self.now = OPENS + after;
        self.engine.handle_timeout(self.now);
        self.settle();
        self
    }

    pub fn event(&mut self, event: Event) -> &mut Self {
        self.engine.handle(self.now, event);
        self.settle();
        self
    }

    pub fn settle(&mut self) {
        while let Some(effect) = self.engine.poll_effect() {
            match effect {
                Effect::Persist { id, .. } => self.engine.handle(self.now, Event::Persisted(id)),
                Effect::Tell(notice) => self.told.push(*notice),
                Effect::Run(_) => self.runs += 1,
                Effect::Reply { .. } => {}
            }
        }
    }

    pub fn sees(&mut self, signal: &str, observer: Observer, subject: Option<&str>, outcome: Outcome) -> &mut Self {
        let seen = Observation {
            at: self.now,
            cluster: "orders".into(),
            signal: signal.into(),
            observer,
            subject: subject.map(Into::into),
            outcome,
        };
        self.event(Event::Observed(seen))
    }

    /// The arbiter sees this fact of `a` by the signal `s`.
    pub fn fact(&mut self, fact: Fact) -> &mut Self {
        self.sees("s", Observer::Arbiter, Some("a"), Outcome::Fact(fact))
    }

    /// The arbiter's look at `a` by the signal `s` fails.
    pub fn failure(&mut self, kind: FailureKind) -> &mut Self {
        self.sees("s", Observer::Arbiter, Some("a"), Outcome::Failure(Failure::new(kind, "as scripted")))
    }

    /// `a` sends a heartbeat by the signal `s`.
    pub fn beat(&mut self, seq: u64) -> &mut Self {
        self.sees("s", Observer::Member("a".into()), Some("a"), Outcome::Fact(Fact::Beat { seq, echoed: true }))
    }

    /// A node reports by the signal `s`.
    pub fn report(&mut self, node: &str, arrivals: Arrivals) -> &mut Self {
        self.sees("s", Observer::Node(node.into()), None, Outcome::Fact(Fact::Arrivals(arrivals)))
    }

    pub fn why(&self) -> Why {
        self.engine.why(self.now, &"orders".into()).unwrap()
    }

    pub fn why_not(&self) -> WhyNot {
        self.engine.why_not(self.now, &"orders".into()).unwrap()
    }

    /// What the first rule says now; the explanation must say the same.
    pub fn truth(&self) -> Truth {
        let why = self.why();
        assert_eq!(why.rules[0].truth, why.rules[0].tree.truth, "explained otherwise: {}", why.rules[0].tree.to_text());
        why.rules[0].truth
    }

    pub fn tree(&self) -> Explanation {
        self.why().rules[0].tree.clone()
    }

    pub fn verdict(&self) -> Verdict {
        self.why().verdict
    }
}

pub fn ok() -> Fact {
    Fact::Ok { latency: Duration::from_millis(1) }
}

pub fn role(role: coroner::model::Role, position: u64) -> RoleReport {
    RoleReport {
        role,
        position: Some(position),
        link_up: None,
        follows: None,
        lineage: None,
        epoch: None,
        priority: None,
    }
}

pub fn arrived(received: u64, last_age: Option<Duration>, attempted: Option<u64>) -> Arrivals {
    Arrivals { received, last_age, attempted, acknowledged: attempted, primary: None, epoch: Epoch(1) }
}

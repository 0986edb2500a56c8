//! Small worlds that are recorded as an arbiter would, and the files that they are judged by.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "tests and the benchmark each use a part of it")]

use std::{fmt::Write as _, path::Path, time::Duration};

use coroner::{
    journal::{Bounds, IncidentMark, Known, Life, Mark, Recorder},
    model::{
        Epoch, Fact, Failure, FailureKind, MemberName, Notice, Observation, Observer, Outcome, Role, Time, WallAnchor,
        incident::IncidentState,
        observation::{Arrivals, RoleReport},
        record::SagaKind,
        status::IncidentBrief,
    },
};

/// 2026-11-01T00:00:00Z.
pub const BEGAN_MS: i64 = 1_793_491_200_000;
pub const BOOT: Time = Time(5_000_000_000_000);
pub const ANCHOR: WallAnchor = WallAnchor { boot: BOOT, unix_ms: BEGAN_MS };

/// The rules of a careful operator: they wait for ten seconds, and ask everybody.
pub const CAREFUL: &str = "
      - name: silent to everyone
        when:
          all:
            - heartbeat: { silent: 10s }
            - ping: { failing: 3 of 5 }
            - at_least: { count: majority, of: arrivals, are: { silent: 5s } }
        for: 1s
        verdict: dead
        then: failover
      - { name: late, when: { heartbeat: { silent: 2500ms } }, verdict: suspect, then: alert }
";

/// Those of a hasty one: four seconds, and the heartbeat alone.
pub const HASTY: &str = "
      - { name: no heartbeat, when: { heartbeat: { silent: 4s } }, verdict: dead, then: failover }
";

/// A whole file with these rules. The journal lies in `dir`.
pub fn file(dir: &Path, rules: &str) -> String {
    let mut text = String::new();
    write!(
        text,
        "arbiter:
  name: arbiter-1
  store: \"sqlite:{0}/coroner.db\"
clusters:
  orders:
    mode: auto
    broker: {{ redis: {{}} }}
    members:
      broker-a: {{ address: \"10.0.0.11:6379\" }}
      broker-b: {{ address: \"10.0.0.12:6379\" }}
    nodes: [node-1, node-2]
    signals:
      heartbeat: {{ push: {{ from: primary, every: 1s }} }}
      arrivals: {{ push: {{ from: nodes, every: 1s }} }}
      ping: {{ broker: {{ ask: ping, of: primary, every: 1s, timeout: 300ms }} }}
      role: {{ broker: {{ ask: role, of: members, every: 1s, timeout: 500ms }} }}
    death_rules:{rules}
    failover:
      fence: [{{ signal: {{ command_line: \"redis-server *:6379\", supervisor: none }} }}]
      max_loss: {{ bytes: 0 }}
",
        dir.display()
    )
    .unwrap();
    text
}

/// A file of rules alone.
pub fn rules(rules: &str) -> String {
    format!("clusters:\n  orders:\n    death_rules:{rules}")
}

/// How the world is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// All is well.
    Fair,
    /// The primary is gone for everybody, and somebody sends.
    Dead,
    /// Only the arbiter does not hear the primary; nodes go on receiving.
    Cut,
    /// Nobody sends.
    Idle,
    /// The primary is gone, and nobody sends.
    DeadAndIdle,
}

/// A world of one cluster, recorded second by second.
pub struct World {
    pub recorder: Recorder,
    pub now: Time,
    pub primary: &'static str,
    pub observations: u64,
    sent: u64,
    received: u64,
    last_arrival: Time,
    seed: u64,
    epoch: Epoch,
    flushed: Time,
}

pub fn life(began: Time, anchor: WallAnchor) -> Life {
    let known = Known {
        cluster: "orders".into(),
        primary: Some("broker-a".into()),
        epoch: Epoch(1),
        heard: vec![("heartbeat".into(), Observer::Member("broker-a".into()), Some("broker-a".into()))],
    };
    Life {
        arbiter: "arbiter-1".into(),
        policy: "feedbeef".into(),
        boot_id: "a-boot".into(),
        began,
        anchor,
        clusters: vec![known],
    }
}

impl World {
    pub fn begin(dir: &Path, bounds: Bounds) -> Self {
        Self::live(dir, bounds, BOOT)
    }

    /// A life that begins then.
    pub fn live(dir: &Path, bounds: Bounds, began: Time) -> Self {
        let anchor = WallAnchor { boot: began, unix_ms: ANCHOR.unix_ms_at(began) };
        let recorder = Recorder::open(dir, bounds, life(began, anchor)).unwrap();
        Self {
            recorder,
            now: began,
            primary: "broker-a",
            observations: 0,
            sent: 1_000,
            received: 1_000,
            last_arrival: began,
            seed: 7,
            epoch: Epoch(1),
            flushed: began,
        }
    }

    fn jitter(&mut self, most_us: u64) -> Duration {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Duration::from_micros((self.seed >> 33) % most_us)
    }

    pub fn see(&mut self, signal: &str, observer: Observer, subject: Option<&str>, outcome: Outcome) {
        let seen = Observation {
            at: self.now,
            cluster: "orders".into(),
            signal: signal.into(),
            observer,
            subject: subject.map(Into::into),
            outcome,
        };
        self.recorder.seen(self.now, &seen);
        self.observations += 1;
    }

    /// One second of that weather.
    pub fn second(&mut self, weather: Weather) {
        let began = self.now;
        let (is_heard, is_served, is_sent) = match weather {
            Weather::Fair => (true, true, true),
            Weather::Dead => (false, false, true),
            Weather::Cut => (false, true, true),
            Weather::Idle => (true, true, false),
            Weather::DeadAndIdle => (false, false, false),
        };
        let primary = self.primary;
        let standby = if primary == "broker-a" { "broker-b" } else { "broker-a" };
        self.sent += if is_sent { 40 + self.sent % 3 } else { 0 };
        if is_served && is_sent {
            self.last_arrival = began;
            self.received = self.sent;
        }
        if is_heard {
            let seq = self.sent;
            let beat = Outcome::Fact(Fact::Beat { seq: seq / 40, echoed: true });
            self.see("heartbeat", Observer::Member(primary.into()), Some(primary), beat);
        }
        self.now = began + Duration::from_millis(150) + self.jitter(900);
        let latency = Duration::from_micros(300) + self.jitter(200);
        let refused = || Outcome::Failure(Failure::new(FailureKind::TimedOut, "no answer within 300ms"));
        let ping = if is_heard { Outcome::Fact(Fact::Ok { latency }) } else { refused() };
        self.see("ping", Observer::Arbiter, Some(primary), ping);
        for (member, role) in [(primary, Role::Primary), (standby, Role::Standby)] {
            self.now = self.now + Duration::from_millis(160) + self.jitter(900);
            let is_primary = role == Role::Primary;
            let report = RoleReport {
                role,
                position: Some(self.sent * 100),
                link_up: (!is_primary).then_some(is_heard),
                follows: (!is_primary).then(|| "10.0.0.11:6379".to_owned()),
                lineage: Some("8371b4fb1155b71f4a04d3e1bc3e18c4a990aeeb".into()),
                epoch: Some(self.epoch),
                priority: Some(100),
            };
            let outcome = if is_primary && !is_heard { refused() } else { Outcome::Fact(Fact::Role(report)) };
            self.see("role", Observer::Arbiter, Some(member), outcome);
        }
        for node in ["node-1", "node-2"] {
            self.now = self.now + Duration::from_millis(170) + self.jitter(900);
            let report = Arrivals {
                received: self.received,
                last_age: Some(self.now.since(self.last_arrival)),
                attempted: Some(self.sent),
                acknowledged: None,
                primary: Some(primary.into()),
                epoch: self.epoch,
            };
            self.see("arrivals", Observer::Node(node.into()), None, Outcome::Fact(Fact::Arrivals(report)));
        }
        self.now = began + Duration::from_secs(1) + self.jitter(1_000);
        if self.now.since(self.flushed) >= Duration::from_secs(2) {
            self.flush();
        }
    }

    pub fn seconds(&mut self, count: u64, weather: Weather) -> &mut Self {
        (0..count).for_each(|_| self.second(weather));
        self
    }

    pub fn flush(&mut self) {
        self.flushed = self.now;
        self.recorder.flush(true).unwrap();
    }

    /// A failover was done just now.
    pub fn fail_over(&mut self, id: &str) -> &mut Self {
        let (old, new) = (self.primary, if self.primary == "broker-a" { "broker-b" } else { "broker-a" });
        let opened = self.now;
        self.epoch = self.epoch.next();
        let brief = |state, closed| IncidentBrief {
            id: id.into(),
            cluster: "orders".into(),
            kind: SagaKind::Failover,
            state,
            state_reason: None,
            opened_unix_ms: ANCHOR.unix_ms_at(opened),
            closed_unix_ms: closed,
            old_primary: old.into(),
            candidate: new.into(),
            epoch: self.epoch,
            acknowledged: false,
        };
        let told =
            |brief, text: &str| Mark::Incident(Box::new(IncidentMark { brief, said: vec![(opened, text.into())] }));
        let mark = told(brief(IncidentState::Fencing, None), &format!("{old} is to be fenced, {new} is the candidate"));
        self.recorder.mark(self.now, &mark);
        self.now = self.now + Duration::from_millis(400);
        let closed = Some(ANCHOR.unix_ms_at(self.now));
        let mark = told(brief(IncidentState::Resolved, closed), &format!("{new} is promoted, it took a write"));
        self.recorder.mark(self.now, &mark);
        self.primary = new;
        self.primary_is(new);
        self
    }

    pub fn primary_is(&mut self, primary: &str) {
        let primary = Some(MemberName::from(primary));
        let notice = Notice::PrimaryChanged { cluster: "orders".into(), primary, epoch: self.epoch };
        self.recorder.mark(self.now, &Mark::Told(Box::new(notice)));
    }
}

/// The story that the tests of verdicts and of the program judge: a minute of each thing that may happen.
pub fn stormy_day(dir: &Path) -> World {
    let mut world = World::begin(dir, Bounds::default());
    world.seconds(120, Weather::Fair);
    // Only the arbiter's cable is out for six seconds: nodes go on receiving.
    world.seconds(6, Weather::Cut).seconds(180, Weather::Fair);
    // The primary dies; the failover comes with the careful rule, after twelve seconds.
    world.seconds(12, Weather::Dead).fail_over("01JSTORM").seconds(200, Weather::Fair);
    // It hangs for twenty seconds and comes back by itself: nobody did anything.
    world.seconds(20, Weather::Dead).seconds(180, Weather::Fair);
    // At night nobody sends; the heartbeat is lost for five seconds.
    world
        .seconds(100, Weather::Idle)
        .seconds(5, Weather::DeadAndIdle)
        .seconds(100, Weather::Idle)
        .seconds(60, Weather::Fair);
    world.flush();
    world
}

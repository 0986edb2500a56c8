//! What an arbiter goes on from: clusters, open incidents and their logs, whatever they say. Nobody panics; a log that no
//! saga wrote stops the arbiter's hands; any other is gone on with, by the rules: no promotion without the proof, no epoch
//! that shrinks, no act handed out twice, and what is written then is again a log that one can go on from.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use coroner::{
    engine::Engine,
    failover::SagaState,
    model::{
        ActError, Action, ClusterName, Command, Done, Effect, Epoch, Event, Fact, FenceReport, Incident, IncidentId,
        MemberName, Mode, Observation, Observer, Operator, Outcome, Policy, Proof, Record, Role, StepResult, StepToken,
        Time, WriteAttempt,
        edge::WriteOutcome,
        effect::Run,
        incident::{IncidentState, Outage, Trigger},
        observation::RoleReport,
        record::{ClusterState, LogEntry, OpenIncident, Overrides, Pause, Quarantine, Recovered, SagaKind},
    },
};

use super::{
    Reached,
    draw::Draw,
    house::{ANCHOR, BEGIN, CONFIG},
};

const MEMBERS: [&str; 4] = ["redis-a", "redis-b", "redis-c", "nobody"];
/// How often the engine is looked at; each time a second at most has passed.
const TURNS: usize = 32;

pub fn run(input: &[u8]) -> Reached {
    let mut draw = Draw::new(input);
    match draw.below(8) {
        0 => match recovered(draw.rest()) {
            Some(recovered) => go_on(recovered, &mut Draw::new(&[])),
            None => Reached::Refused,
        },
        1 => match entries(draw.rest()) {
            Some(log) => go_on(
                one_incident(ClusterState { cluster: "orders".into(), ..ClusterState::default() }, log),
                &mut Draw::new(&[]),
            ),
            None => Reached::Refused,
        },
        _ => {
            let state = cluster(&mut draw);
            let log = log(&mut draw);
            check_log(&log);
            go_on(one_incident(state, log), &mut draw)
        }
    }
}

// ---- what is kept, as JSON -------------------------------------------------------------------------------------------

fn recovered(json: &[u8]) -> Option<Recovered> {
    let read: Recovered = serde_json::from_slice(json).ok()?;
    let written = serde_json::to_vec(&read).expect("what was read can be written");
    serde_json::from_slice::<Recovered>(&written).expect("what was written can be read");
    // The store keeps one row for each name, and a cluster has one incident at a time.
    let names: BTreeSet<_> = read.clusters.iter().map(|state| &state.cluster).collect();
    let incidents: BTreeSet<_> = read.open.iter().map(|open| &open.incident.id).collect();
    let busy: BTreeSet<_> = read.open.iter().map(|open| &open.incident.cluster).collect();
    let (clusters, open) = (read.clusters.len(), read.open.len());
    ((names.len(), incidents.len(), busy.len()) == (clusters, open, open)).then_some(read)
}

/// One entry a line. A line that is not understood is damage: nothing is skipped.
fn entries(lines: &[u8]) -> Option<Vec<LogEntry>> {
    let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let log: Vec<LogEntry> = lines.map(|line| serde_json::from_slice(line).ok()).collect::<Option<_>>()?;
    check_log(&log);
    Some(log)
}

/// The state is a fold: in one go, or entry by entry over a record that was written and read, it is the same.
fn check_log(log: &[LogEntry]) {
    let kept: Vec<LogEntry> = log
        .iter()
        .map(|entry| {
            let text = serde_json::to_string(entry).expect("an entry can be written");
            serde_json::from_str(&text).expect("what was written can be read")
        })
        .collect();
    let Some(whole) = SagaState::from_log(&kept) else { return };
    let mut stepwise = SagaState::from_log(&kept[..1]).expect("it opens");
    for entry in &kept[1..] {
        stepwise.apply(entry);
    }
    assert_eq!(stepwise, whole, "the log means something else entry by entry");
}

// ---- what is kept, drawn -----------------------------------------------------------------------------------------------

fn member(draw: &mut Draw<'_>) -> MemberName {
    draw.one_of(&MEMBERS).into()
}

fn moment_ms(draw: &mut Draw<'_>) -> i64 {
    match draw.below(4) {
        0 => ANCHOR.unix_ms,
        1 => ANCHOR.unix_ms - i64::from(draw.short()) * 1_000,
        2 => i64::from_ne_bytes(draw.number().to_ne_bytes()),
        _ => i64::MIN,
    }
}

fn cluster(draw: &mut Draw<'_>) -> ClusterState {
    let mut state = ClusterState {
        cluster: "orders".into(),
        epoch: Epoch(draw.number()),
        primary: draw.flag().then(|| member(draw)),
        primary_epoch: Epoch(draw.number()),
        cooldown_over: draw.flag(),
        ..ClusterState::default()
    };
    if draw.below(4) == 3 {
        let until_unix_ms = draw.flag().then(|| moment_ms(draw));
        state.pause = Some(Pause { owner: "somebody".into(), reason: "work".into(), until_unix_ms });
    }
    for _ in 0..draw.below(4) {
        state.failovers_unix_ms.push(moment_ms(draw));
    }
    for _ in 0..draw.below(3) {
        let quarantine = Quarantine {
            incident: "01OLD".into(),
            epoch: Epoch(draw.number()),
            fences: vec![(draw.below(4), draw.below(4))],
            labels: if draw.flag() { vec!["exec /bin/fence".into()] } else { Vec::new() },
            promoted_at: draw.flag().then(|| draw.number()),
        };
        state.quarantined.insert(member(draw), quarantine);
    }
    for _ in 0..draw.below(3) {
        let observer = Observer::Node(draw.one_of(&["node-1", "node-2", "other"]).into());
        state.heard.push((draw.one_of(&["arrivals", "other"]).into(), observer, None));
    }
    state
}

fn log(draw: &mut Draw<'_>) -> Vec<LogEntry> {
    let mut log = Vec::new();
    let mut acts = 0;
    // Nearly all logs begin as they must.
    if draw.below(16) != 15 {
        log.push(LogEntry::Opened {
            kind: draw.one_of(&[SagaKind::Failover, SagaKind::Failover, SagaKind::Switchover, SagaKind::Rejoin]),
            epoch: Epoch(draw.number()),
            old_primary: member(draw),
            candidate: member(draw),
            overrides: Overrides { accept_loss: draw.flag(), skipped_guards: Vec::new() },
            last_position: draw.flag().then(|| draw.number()),
        });
    }
    for _ in 0..draw.byte() % 24 {
        let entry = entry(draw, &mut acts);
        log.push(entry);
    }
    log
}

fn entry(draw: &mut Draw<'_>, acts: &mut u32) -> LogEntry {
    let reason = || "so it is".to_owned();
    match draw.below(20) {
        0..=4 => {
            *acts += 1;
            // Now and then under a number that nobody would give.
            let act = if draw.below(32) == 31 { draw.number() as u32 } else { *acts };
            LogEntry::Started { act, action: action(draw), member: member(draw) }
        }
        5..=10 => LogEntry::Ended {
            act: if draw.flag() { *acts } else { u32::from(draw.byte() % 12) },
            result: result(draw),
            took: Duration::from_millis(draw.number()),
        },
        11 => LogEntry::FenceConfirmed { by: Operator("alice".into()), checked: "it is off".into() },
        12 => LogEntry::CandidateChanged { to: member(draw), reason: reason() },
        13 => LogEntry::AbortRequested { reason: reason() },
        14 => LogEntry::BecameFailover { reason: reason() },
        15 => LogEntry::EpochRaised { epoch: Epoch(draw.number()) },
        16 => LogEntry::Held { reason: reason() },
        17 => LogEntry::Released { reason: reason(), accept_loss: draw.flag() },
        18 => LogEntry::Promoted { position: draw.flag().then(|| draw.number()) },
        _ => match draw.below(16) {
            0..=12 => LogEntry::Followed { nodes: vec!["node-1".into()], laggards: vec!["node-2".into()] },
            13 => LogEntry::Aborted { reason: reason() },
            14 => LogEntry::Resolved,
            _ => LogEntry::Opened {
                kind: SagaKind::Failover,
                epoch: Epoch(1),
                old_primary: member(draw),
                candidate: member(draw),
                overrides: Overrides::default(),
                last_position: None,
            },
        },
    }
}

fn action(draw: &mut Draw<'_>) -> Action {
    let (level, method) = (draw.below(4), draw.below(3));
    match draw.below(15) {
        0..=2 => Action::Fence { level, method },
        3 => Action::Seal,
        4 => Action::AwaitLease,
        5 => Action::ForbiddenWrite { level },
        6 => Action::MakeReadOnly,
        7 => Action::MakeWritable,
        8 => Action::CatchUp { upto: draw.flag().then(|| draw.number()), exact_from: None },
        9 => Action::Promote,
        10 => Action::Repoint { primary: member(draw) },
        11 => Action::Redirect { method },
        12 => Action::Rejoin { primary: member(draw), promoted_at: draw.flag().then(|| draw.number()) },
        13 => Action::Admit { level, method },
        _ => Action::Unfence { level, method },
    }
}

fn result(draw: &mut Draw<'_>) -> StepResult {
    let proofs = [Proof::PowerOff, Proof::Gate, Proof::Claim, Proof::ReadBack, Proof::Nothing, Proof::LeaseOver];
    match draw.below(12) {
        0 | 1 => StepResult::Done(Done {
            detail: "done".into(),
            position: draw.flag().then(|| draw.number()),
            divergent: draw.flag().then(|| draw.number()),
        }),
        2..=4 => StepResult::Fenced(FenceReport::confirmed(draw.one_of(&proofs), "it is")),
        5 => StepResult::Fenced(FenceReport::refuted("it is not")),
        6 => StepResult::Fenced(FenceReport::unknown("who knows")),
        7 => {
            let outcomes = [WriteOutcome::Refused, WriteOutcome::Accepted, WriteOutcome::NoAnswer];
            let on_open = draw.flag().then(|| draw.one_of(&outcomes));
            StepResult::WriteTried(WriteAttempt { on_new: draw.one_of(&outcomes), on_open, detail: "tried".into() })
        }
        8 => StepResult::Told { acknowledged: vec!["node-1".into()], failed: Vec::new() },
        9 => StepResult::Outbid { sealed: Epoch(draw.number()) },
        10 => StepResult::FellShort { reached: draw.flag().then(|| draw.number()), end: draw.number() },
        _ if draw.flag() => StepResult::Failed(ActError::uncertain("act", "no answer")),
        _ => StepResult::Failed(ActError::nothing_done("act", "refused")),
    }
}

pub fn one_incident(state: ClusterState, log: Vec<LogEntry>) -> Recovered {
    let id = IncidentId::from("01JFUZZ");
    let (kind, epoch, old_primary, candidate) = match log.first() {
        Some(LogEntry::Opened { kind, epoch, old_primary, candidate, .. }) => {
            (*kind, *epoch, old_primary.clone(), candidate.clone())
        }
        _ => (SagaKind::Failover, Epoch(1), "redis-a".into(), "redis-b".into()),
    };
    let incident = Incident {
        id,
        cluster: "orders".into(),
        arbiter: "arbiter-1".into(),
        kind,
        state: IncidentState::Fencing,
        state_reason: None,
        opened: BEGIN,
        anchor: ANCHOR,
        closed: None,
        mode: Mode::Auto,
        policy_hash: String::new(),
        trigger: Trigger::SeenAgain,
        epoch_before: Epoch(0),
        epoch,
        old_primary,
        candidate,
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
    };
    Recovered { clusters: vec![state], open: vec![OpenIncident { incident, policy: CONFIG.policy.clone(), log }] }
}

// ---- going on ------------------------------------------------------------------------------------------------------------

/// What the judge knows.
struct Judge {
    policies: BTreeMap<IncidentId, Policy>,
    logs: BTreeMap<IncidentId, Vec<LogEntry>>,
    /// What the logs say, entry by entry.
    states: BTreeMap<IncidentId, SagaState>,
    /// Incidents whose promotion had begun before.
    promoting: BTreeSet<IncidentId>,
    epochs: BTreeMap<ClusterName, Epoch>,
    handed_out: BTreeSet<StepToken>,
    /// Clusters in which nothing may be done.
    stopped: BTreeSet<ClusterName>,
}

impl Judge {
    fn new(recovered: &Recovered) -> Self {
        let is_promotion = |entry: &LogEntry| matches!(entry, LogEntry::Started { action: Action::Promote, .. });
        let of = |open: &OpenIncident| open.incident.id.clone();
        Self {
            policies: recovered.open.iter().map(|open| (of(open), open.policy.clone())).collect(),
            logs: recovered.open.iter().map(|open| (of(open), open.log.clone())).collect(),
            states: recovered
                .open
                .iter()
                .filter_map(|open| Some((of(open), SagaState::from_log(&open.log)?)))
                .collect(),
            promoting: recovered.open.iter().filter(|open| open.log.iter().any(is_promotion)).map(of).collect(),
            epochs: recovered.clusters.iter().map(|state| (state.cluster.clone(), state.epoch)).collect(),
            handed_out: BTreeSet::new(),
            stopped: recovered
                .open
                .iter()
                .filter(|open| SagaState::from_log(&open.log).is_none())
                .map(|open| open.incident.cluster.clone())
                .collect(),
        }
    }

    fn record(&mut self, record: &Record) {
        if matches!(record, Record::Cluster { .. } | Record::Log { .. }) {
            let text = serde_json::to_string(record).expect("a record can be written");
            serde_json::from_str::<Record>(&text).expect("what was written can be read");
        }
        match record {
            Record::Cluster { expected, state } => {
                let known = self.epochs.get(&state.cluster).copied().unwrap_or_default();
                assert_eq!(*expected, known, "the record supposes another epoch than is stored");
                assert!(state.epoch >= known, "the epoch shrinks from {known} to {}", state.epoch);
                self.epochs.insert(state.cluster.clone(), state.epoch);
            }
            Record::Log { incident, number, entry, cluster } => {
                assert!(!self.stopped.contains(cluster), "{entry:?}: something was begun where nothing may be");
                let log = self.logs.entry(incident.clone()).or_default();
                assert_eq!(*number as usize, log.len() + 1, "{entry:?}: the log has a gap, or a number twice");
                log.push(entry.clone());
                match self.states.get_mut(incident) {
                    Some(state) => state.apply(entry),
                    None => {
                        let state = SagaState::from_first(entry).expect("a log opens");
                        self.states.insert(incident.clone(), state);
                    }
                }
            }
            Record::IncidentPolicy { incident, policy } => {
                self.policies.insert(incident.clone(), (**policy).clone());
            }
            Record::Incident(_) => {}
        }
    }

    fn run(&mut self, run: &Run) {
        let cluster = &run.token.cluster;
        assert!(!self.stopped.contains(cluster), "{run:?}: something is done where nothing may be");
        assert!(self.handed_out.insert(run.token.clone()), "{run:?}: handed out twice in one life");
        let log = self.logs.get(&run.token.incident).expect("an act of an incident that was written down");
        let is_begun =
            log.iter().any(|entry| matches!(entry, LogEntry::Started { act, .. } if *act == run.token.number));
        assert!(is_begun, "{run:?}: it is not written down that it begins");
        if run.action != Action::Promote || self.promoting.contains(&run.token.incident) {
            return;
        }
        let state = self.states.get(&run.token.incident).expect("a log that opens");
        let policy = self.policies.get(&run.token.incident).and_then(|policy| policy.clusters.get(cluster));
        let failover = &policy.expect("the policy that it began with").failover;
        if state.kind == SagaKind::Failover {
            let proof = state.proof(failover);
            assert!(proof.meets(failover.proof_needed), "{run:?}: with proof {proof} only");
            assert!(failover.lease.is_none() || state.is_sealed(), "{run:?}: nobody sealed epoch {}", state.epoch);
        }
    }
}

impl Judge {
    /// Whoever comes next can go on from all that was written.
    fn end(&self) {
        for (incident, state) in &self.states {
            let again = SagaState::from_log(&self.logs[incident]);
            assert_eq!(again.as_ref(), Some(state), "nobody could go on from the log of {incident}");
        }
    }
}

fn go_on(recovered: Recovered, draw: &mut Draw<'_>) -> Reached {
    let mut judge = Judge::new(&recovered);
    let is_known = recovered.open.iter().any(|open| SagaState::from_log(&open.log).is_some());
    let policy = CONFIG.policy.clone();
    let mut now = BEGIN;
    let mut engine = Engine::new(now, ANCHOR, 9, policy, recovered);
    let mut spins = 0;
    for turn in 0..TURNS {
        let mut runs = Vec::new();
        let mut count = 0;
        while let Some(effect) = engine.poll_effect() {
            count += 1;
            assert!(count < 5_000, "the engine has no end of effects at one moment");
            match effect {
                Effect::Persist { id, records } => {
                    records.iter().for_each(|record| judge.record(record));
                    engine.handle(now, Event::Persisted(id));
                }
                Effect::Run(run) => {
                    judge.run(&run);
                    runs.push(*run);
                }
                Effect::Tell(_) | Effect::Reply { .. } => {}
            }
        }
        for run in runs {
            // Some never answer. At the input's end all work as they should.
            if draw.below(8) != 7 {
                let result = if draw.is_empty() { works(&run.action) } else { result(draw) };
                engine.handle(now, Event::StepEnded { token: run.token, result });
            }
        }
        happen(&mut engine, now, turn, draw);
        match engine.poll_timeout() {
            Some(at) if at <= now => {
                spins += 1;
                assert!(spins < 16, "it wants to be looked at again at {at}, and it is {now}");
            }
            next => {
                spins = 0;
                now = next.unwrap_or(now).min(now + Duration::from_secs(1)).max(now + Duration::from_millis(1));
            }
        }
        engine.handle_timeout(now);
    }
    for cluster in CONFIG.policy.clusters.keys() {
        let _ = (engine.why(now, cluster), engine.why_not(now, cluster), engine.signals(now, cluster));
    }
    let _ = engine.status(now);
    judge.end();
    Reached::of(is_known)
}

/// The result of an executor that does what it is for.
fn works(action: &Action) -> StepResult {
    match action {
        Action::Fence { .. } | Action::MakeReadOnly | Action::AwaitLease => {
            StepResult::Fenced(FenceReport::confirmed(Proof::PowerOff, "it is off"))
        }
        Action::ForbiddenWrite { .. } => StepResult::WriteTried(WriteAttempt {
            on_new: WriteOutcome::Refused,
            on_open: Some(WriteOutcome::Refused),
            detail: "refused".into(),
        }),
        Action::Redirect { .. } => StepResult::Told { acknowledged: vec!["node-1".into()], failed: Vec::new() },
        _ => StepResult::Done(Done { detail: "done".into(), position: Some(100), divergent: None }),
    }
}

/// What is seen and asked meanwhile.
fn happen(engine: &mut Engine, now: Time, turn: usize, draw: &mut Draw<'_>) {
    let cluster = || ClusterName::from("orders");
    for name in ["redis-b", "redis-c"] {
        let report = RoleReport {
            role: Role::Standby,
            position: Some(100),
            link_up: Some(false),
            follows: None,
            lineage: None,
            epoch: None,
            priority: None,
        };
        let observation = Observation {
            at: now,
            cluster: cluster(),
            signal: "role".into(),
            observer: Observer::Arbiter,
            subject: Some(name.into()),
            outcome: Outcome::Fact(Fact::Role(report)),
        };
        engine.handle(now, Event::Observed(observation));
    }
    let reason = || "so it is".to_owned();
    let command = match draw.byte() {
        1 => Command::Failover {
            cluster: cluster(),
            to: None,
            reason: reason(),
            accept_loss: true,
            skip_guards: Vec::new(),
        },
        2 => Command::Continue { cluster: cluster(), accept_loss: draw.flag() },
        3 => Command::Abort { cluster: cluster() },
        4 => Command::FenceConfirm { cluster: cluster(), checked: "it is off".into() },
        5 => Command::Adopt { cluster: cluster(), primary: member(draw), reason: reason() },
        6 => Command::Rejoin { cluster: cluster(), member: member(draw) },
        7 => Command::Switchover { cluster: cluster(), to: None, reason: reason(), skip_guards: Vec::new() },
        8 => Command::Pause {
            cluster: None,
            owner: String::new(),
            reason: reason(),
            for_: Some(Duration::from_millis(draw.number())),
        },
        9 => Command::Resume { cluster: None },
        _ => return,
    };
    let by = Operator("alice".into());
    engine.handle(now, Event::Commanded { by, command, reply_to: turn as u64 });
}

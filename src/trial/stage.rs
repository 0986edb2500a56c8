//! The engine in the world of a test, and what is believed at each moment.

use std::{sync::Arc, time::Duration};

use schemars::JsonSchema;
use serde::Serialize;

use super::{Scene, world::World};
use crate::{
    engine::Engine,
    model::{
        ClusterName, Effect, Epoch, Event, Incident, MemberName, Mode, Notice, Policy, Record, Rule, RuleName, Time,
        Trial, Verdict, WallAnchor,
        explain::{Guard, GuardState},
        record::{ClusterState, Recovered, SagaKind},
        rule::Reaction,
        status::Why,
        trial::{Claim, Response},
    },
};

/// The beginning of every story. What comes before it needs room.
const ZERO: Time = Time(1_000_000_000_000_000_000);

/// What is believed of the primary at a moment, and what would be done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Belief {
    /// The verdict.
    pub verdict: Verdict,
    /// The rule that decides it.
    pub rule: Option<RuleName>,
    /// What would be done.
    pub then: Response,
    /// The rules that hold, those that only watch among them, in the order of the file.
    pub fires: Vec<RuleName>,
    /// The guards that stand against what a rule wants. A person's approval is not among them.
    pub blocked_by: Vec<Guard>,
    /// Who would be promoted, if anybody would.
    pub candidate: Option<MemberName>,
}

/// One engine, one cluster, one story.
pub(super) struct Stage {
    engine: Engine,
    world: World,
    /// The policy in `mode: auto`: what would be done is asked of it.
    acting: Policy,
    cluster: ClusterName,
    /// The rules as the file has them.
    rules: Arc<[Rule]>,
    /// Everything in the cluster only watches.
    is_shadow: bool,
    now: Time,
    is_true: Vec<bool>,
    verdict: Verdict,
    /// The rule that wants to act, and what stands against it besides approval.
    wants: Option<(RuleName, Vec<Guard>)>,
    /// What would be opened now.
    opening: Option<(SagaKind, MemberName)>,
    /// The candidate is asked for, and may change while nothing else does.
    asks_candidate: bool,
    story: Vec<Scene>,
}

impl Stage {
    /// The stage before the story. `None`: the policy has no such cluster.
    pub(super) fn new(policy: &Policy, trial: &Trial) -> Option<Self> {
        let cluster = policy.clusters.get(&trial.cluster)?;
        let mut watching = cluster.clone();
        let is_shadow = cluster.mode == Mode::Shadow;
        for rule in &mut watching.rules {
            // Of a cluster that only watches, no rule is less than the others; where a person approves, all is judged alike.
            if is_shadow || rule.mode != Some(Mode::Shadow) {
                rule.mode = None;
            }
        }
        let rules: Arc<[Rule]> = cluster.rules.as_slice().into();
        let mut arbiter = policy.arbiter.clone();
        arbiter.name.clone_from(&trial.arbiter);
        let of = |mode: Mode| {
            let mut watching = watching.clone();
            watching.mode = mode;
            let clusters = [(trial.cluster.clone(), watching)].into();
            Policy { hash: policy.hash.clone(), arbiter: arbiter.clone(), clusters }
        };
        let (world, begins) = World::new(&watching, trial, ZERO);
        let known = ClusterState {
            cluster: trial.cluster.clone(),
            epoch: Epoch(1),
            primary: Some(trial.primary.clone()),
            primary_epoch: Epoch(1),
            ..ClusterState::default()
        };
        let anchor = WallAnchor { boot: ZERO, unix_ms: 0 };
        let recovered = Recovered { clusters: vec![known], open: Vec::new() };
        // Nothing is ever opened here, so that judging goes on undisturbed: a person would have to approve.
        let engine = Engine::new(begins, anchor, 1, of(Mode::Manual), recovered);
        let mut stage = Self {
            engine,
            world,
            acting: of(Mode::Auto),
            cluster: trial.cluster.clone(),
            is_true: vec![false; rules.len()],
            rules,
            is_shadow,
            now: begins,
            verdict: Verdict::Unknown,
            wants: None,
            opening: None,
            asks_candidate: trial
                .expect
                .iter()
                .any(|expectation| expectation.claims.iter().any(|claim| matches!(claim, Claim::Candidate(_)))),
            story: Vec::new(),
        };
        stage.settle();
        Some(stage)
    }

    /// Lets the story go on until `at`, that moment included.
    pub(super) fn play(&mut self, at: Duration) {
        let end = ZERO + at;
        loop {
            let wake = self.engine.poll_timeout();
            let Some(next) = wake.into_iter().chain(self.world.due()).min().filter(|next| *next <= end) else { break };
            self.step(next.max(self.now), wake);
        }
        self.step(end, Some(end));
    }

    /// All that happens at one moment is taken before anything is made of it.
    fn step(&mut self, now: Time, wake: Option<Time>) {
        self.now = now;
        for seen in self.world.look(now) {
            self.engine.handle(now, Event::Observed(seen));
        }
        if wake.is_some_and(|wake| wake <= now) {
            self.engine.handle_timeout(now);
        }
        self.settle();
    }

    fn settle(&mut self) {
        let mut is_new = false;
        while let Some(effect) = self.engine.poll_effect() {
            match effect {
                Effect::Persist { id, .. } => self.engine.handle(self.now, Event::Persisted(id)),
                Effect::Tell(notice) => is_new |= self.hear(*notice),
                // Nothing is begun, and nobody commands.
                Effect::Run(_) | Effect::Reply { .. } => {}
            }
        }
        match &self.wants {
            Some((name, guards)) if guards.is_empty() => {
                // A switchover becomes a failover when its primary is not heard any more, which changes no rule.
                let is_planned = self.rules.iter().any(|rule| rule.name == *name && rule.then == Reaction::Switchover);
                if is_new || is_planned || self.asks_candidate || self.opening.is_none() {
                    self.opening = self.would_open();
                }
            }
            _ => self.opening = None,
        }
        self.tell();
    }

    /// `true`: what would be done may be another thing now.
    fn hear(&mut self, notice: Notice) -> bool {
        match notice {
            Notice::RuleFired { explanation, .. } => self.set(&explanation.rule, true),
            Notice::RuleCleared { rule, .. } => self.set(&rule, false),
            Notice::VerdictChanged { to, .. } => self.verdict = to,
            Notice::ActBlocked { rule, guards, .. } => {
                let against = guards.iter().map(|(guard, _)| *guard).filter(|guard| *guard != Guard::Approval);
                // An empty list says that nothing is wanted any more: approval is always in it here.
                self.wants = (!guards.is_empty()).then(|| (rule, against.collect()));
            }
            _ => return false,
        }
        true
    }

    fn set(&mut self, name: &RuleName, is_true: bool) {
        for (rule, truth) in self.rules.iter().zip(&mut self.is_true) {
            if rule.name == *name {
                *truth = is_true;
            }
        }
    }

    /// What the arbiter would open at this moment, by its own code.
    fn would_open(&self) -> Option<(SagaKind, MemberName)> {
        let mut engine = self.engine.clone();
        engine.handle(self.now, Event::PolicyLoaded(Box::new(self.acting.clone())));
        while let Some(effect) = engine.poll_effect() {
            let Effect::Persist { id, records } = effect else { continue };
            let opened = records.into_iter().find_map(|record| match record {
                Record::Incident(incident) => Some(*incident),
                _ => None,
            });
            if let Some(Incident { kind, candidate, .. }) = opened {
                return Some((kind, candidate));
            }
            engine.handle(self.now, Event::Persisted(id));
        }
        None
    }

    /// Writes down what is believed, if it is something new.
    fn tell(&mut self) {
        let belief = self.belief();
        let at = self.now.since(ZERO);
        match self.story.last_mut() {
            // Before the story there is only its beginning.
            Some(last) if last.at == at || self.now <= ZERO => *last = Scene { at, belief },
            Some(last) if last.belief == belief => {}
            _ => self.story.push(Scene { at, belief }),
        }
    }

    /// What is believed now.
    fn belief(&self) -> Belief {
        let held = || self.rules.iter().zip(&self.is_true).filter(|(_, is_true)| **is_true).map(|(rule, _)| rule);
        let counts = |rule: &&Rule| self.is_shadow || rule.mode != Some(Mode::Shadow);
        let asked = |then: Reaction| held().filter(counts).any(|rule| rule.then == then);
        let then = match &self.wants {
            _ if asked(Reaction::Hold) => Response::Hold,
            Some((_, guards)) if !guards.is_empty() => Response::Blocked,
            Some((name, _)) => match &self.opening {
                Some((SagaKind::Switchover, _)) => Response::Switchover,
                Some(_) => Response::Failover,
                // It is opened at the next moment at the latest.
                None => held().find(|rule| rule.name == *name).map_or(Response::Nothing, |rule| rule.then.into()),
            },
            None if asked(Reaction::Redirect) => Response::Redirect,
            None if asked(Reaction::Alert) => Response::Alert,
            None => Response::Nothing,
        };
        // As the engine has it: the gravest, and of those the first in the file.
        let deciding = held().filter(counts).find(|rule| rule.verdict == self.verdict);
        Belief {
            verdict: self.verdict,
            rule: deciding.map(|rule| rule.name.clone()),
            then,
            fires: held().map(|rule| rule.name.clone()).collect(),
            blocked_by: self.wants.as_ref().map(|(_, guards)| guards.clone()).unwrap_or_default(),
            candidate: self.opening.as_ref().map(|(_, member)| member.clone()),
        }
    }

    /// What was believed, each time that it changed.
    pub(super) fn story(self) -> Vec<Scene> {
        self.story
    }

    /// The rules as they stand now, and the guards that stand against an act that a rule wants.
    pub(super) fn explain(&self) -> Option<(Why, Vec<GuardState>)> {
        let mut why = self.engine.why(self.now, &self.cluster)?;
        for (rule, explained) in self.rules.iter().zip(&mut why.rules) {
            explained.shadow = self.is_shadow || rule.mode == Some(Mode::Shadow);
        }
        let against = self.wants.as_ref().map(|(_, guards)| guards.as_slice()).unwrap_or_default();
        let guards = if against.is_empty() { Vec::new() } else { self.engine.why_not(self.now, &self.cluster)?.guards };
        Some((why, guards.into_iter().filter(|state| against.contains(&state.guard)).collect()))
    }
}

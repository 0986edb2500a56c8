//! One file's rules over one cluster's recordings.

use std::{collections::BTreeMap, time::Duration};

use schemars::JsonSchema;
use serde::Serialize;

use super::{BacktestError, Question};
use crate::{
    engine::{Shadow, StreamKey},
    journal::{Header, Mark, Reader, Segment, Trouble, What},
    model::{
        ClusterName, MemberName, Notice, Observation, Policy, RuleName, SignalName, Time, Verdict, WallAnchor,
        explain::Guard,
        policy::Mode,
        record::{ClusterState, SagaKind},
        rule::Reaction,
        status::IncidentBrief,
        time::millis,
    },
};

/// A span in which a rule was true.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Firing {
    /// The rule.
    pub rule: RuleName,
    /// What it says.
    pub verdict: Verdict,
    /// What it asks for.
    pub then: Reaction,
    /// Whether it only watches, by the file.
    pub shadow: bool,
    /// From when, in milliseconds since 1970.
    pub from_unix_ms: i64,
    /// For how long.
    #[serde(with = "millis", rename = "for_ms")]
    #[schemars(with = "f64")]
    pub length: Duration,
    /// How it ended.
    pub ended: Ended,
    /// Who was primary.
    pub primary: Option<MemberName>,
    /// The guards that stood against acting when it began, as far as observations tell.
    pub guards: Vec<Guard>,
    /// The rule's tree when it became true.
    pub because: String,
}

/// How a firing ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// The rule was no longer true.
    Cleared,
    /// The arbiter stopped, or the time that was asked about was over.
    Cut,
}

/// What was recorded when it happened.
#[derive(Debug, Default)]
pub(super) struct Recorded {
    /// How often each rule fired then.
    pub(super) fired: BTreeMap<RuleName, u64>,
    /// Failovers and switchovers, as they stood last.
    pub(super) incidents: BTreeMap<String, IncidentBrief>,
    /// The policies that were in force.
    pub(super) policies: Vec<String>,
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Judged {
    pub(super) firings: Vec<Firing>,
    pub(super) observations: u64,
    pub(super) covered: Duration,
    pub(super) holes: u64,
    pub(super) recorded: Recorded,
    /// Observations of each signal of the cluster.
    pub(super) signals: BTreeMap<SignalName, u64>,
    pub(super) troubles: Vec<Trouble>,
}

/// What becomes of a stream's observations.
enum Feed {
    /// Another cluster's.
    Skip,
    /// To the judging.
    Judge(StreamKey),
    /// An agent's word: the newest is enough, for guards.
    Keep(StreamKey),
}

struct Run<'a> {
    policy: &'a Policy,
    cluster: &'a ClusterName,
    from_unix_ms: i64,
    to_unix_ms: i64,
    shadow: Option<Shadow>,
    anchor: WallAnchor,
    /// True rules, with when they became so.
    open: BTreeMap<RuleName, Firing>,
    agents: BTreeMap<usize, (Time, StreamKey, Observation)>,
    judged: Judged,
}

pub(super) fn judge(
    segments: &[Segment],
    policy: &Policy,
    cluster: &ClusterName,
    question: &Question<'_>,
    step: &dyn Fn(),
) -> Result<Judged, BacktestError> {
    let mut run = Run {
        policy,
        cluster,
        from_unix_ms: question.from_unix_ms,
        to_unix_ms: question.to_unix_ms,
        shadow: None,
        anchor: WallAnchor::default(),
        open: BTreeMap::new(),
        agents: BTreeMap::new(),
        judged: Judged::default(),
    };
    let mut before: Option<Header> = None;
    for segment in segments {
        let read = |source| BacktestError::Read { path: segment.path.display().to_string(), source };
        let bytes = segment.read().map_err(read)?;
        before = run.segment(segment, &bytes, before);
        step();
    }
    run.end_life();
    Ok(run.judged)
}

impl Run<'_> {
    /// Judges one segment; what the next one may follow.
    fn segment(&mut self, segment: &Segment, bytes: &[u8], before: Option<Header>) -> Option<Header> {
        let mut reader = match Reader::over(bytes) {
            Ok(reader) => reader,
            Err(fault) => {
                self.judged.troubles.push(Trouble::of(&segment.path, format!("{fault}; all of it is skipped")));
                return None;
            }
        };
        let header = reader.header().clone();
        if !self.judged.recorded.policies.contains(&header.policy) {
            self.judged.recorded.policies.push(header.policy.clone());
        }
        self.begin(&header, before.as_ref());
        self.anchor = header.anchor;
        let mut feeds: Vec<Feed> = Vec::new();
        let mut streams: Vec<SignalName> = Vec::new();
        let mut counts: Vec<u64> = Vec::new();
        let mut is_whole = true;
        let to = self.moment_of(self.to_unix_ms);
        while let Some(seen) = reader.next_entry() {
            let now = seen.now;
            if now > to {
                break;
            }
            match seen.what {
                What::Mark(mark) => self.mark(now, *mark),
                What::Seen(raw) => {
                    let Some(shadow) = &mut self.shadow else { continue };
                    let stream = raw.stream;
                    if stream == feeds.len() {
                        let name = raw.name();
                        feeds.push(if name.cluster != *self.cluster {
                            Feed::Skip
                        } else if raw.is_of_agent() {
                            Feed::Keep(shadow.stream(&name.signal, &name.observer, name.subject.as_ref()))
                        } else {
                            Feed::Judge(shadow.stream(&name.signal, &name.observer, name.subject.as_ref()))
                        });
                        streams.push(name.signal.clone());
                        counts.push(0);
                    }
                    match feeds.get(stream) {
                        Some(Feed::Judge(key)) => {
                            let Some(observation) = raw.observation() else { continue };
                            shadow.observe(now, *key, observation);
                            counts[stream] += 1;
                        }
                        Some(Feed::Keep(key)) => {
                            if let Some(observation) = raw.observation() {
                                self.agents.insert(stream, (now, *key, observation));
                            }
                        }
                        Some(Feed::Skip) | None => continue,
                    }
                }
            }
            self.take_told();
        }
        for (signal, count) in streams.into_iter().zip(counts).filter(|(_, count)| *count > 0) {
            *self.judged.signals.entry(signal).or_default() += count;
            self.judged.observations += count;
        }
        if let Some(fault) = reader.fault() {
            is_whole = matches!(fault, crate::journal::decode::Fault::Torn(_));
            let skipped = if is_whole { "" } else { "; what follows in it is skipped" };
            self.judged.troubles.push(Trouble::of(&segment.path, format!("{fault}{skipped}")));
        }
        let (from, to) = (self.from_unix_ms.max(header.began_unix_ms()), self.anchor.unix_ms_at(reader.now()));
        let covered_ms = to.min(self.to_unix_ms).saturating_sub(from);
        self.judged.covered += Duration::from_millis(u64::try_from(covered_ms).unwrap_or(0));
        self.agents.clear();
        is_whole.then_some(header)
    }

    /// Goes on, begins anew, or skips what is missing.
    fn begin(&mut self, header: &Header, before: Option<&Header>) {
        if before.is_some_and(|before| header.follows(before)) && self.shadow.is_some() {
            return;
        }
        let known = header.clusters.iter().find(|known| known.cluster == *self.cluster);
        let is_same_life = before.is_some_and(|before| before.life == header.life);
        if is_same_life && let Some(shadow) = &mut self.shadow {
            self.judged.holes += 1;
            shadow.skip_to(header.began);
            if let Some(known) = known {
                shadow.primary_is(header.began, known.primary.clone(), known.epoch);
            }
            return;
        }
        self.judged.holes += u64::from(self.shadow.is_some());
        self.end_life();
        let state = ClusterState {
            cluster: self.cluster.clone(),
            primary: known.and_then(|known| known.primary.clone()),
            epoch: known.map(|known| known.epoch).unwrap_or_default(),
            primary_epoch: known.map(|known| known.epoch).unwrap_or_default(),
            heard: known.map(|known| known.heard.clone()).unwrap_or_default(),
            ..ClusterState::default()
        };
        self.shadow = Shadow::new(header.began, header.anchor, self.policy, state);
    }

    fn mark(&mut self, now: Time, mark: Mark) {
        match mark {
            Mark::Wall(anchor) => self.anchor = anchor,
            Mark::RanLate { by, detail } => {
                if let Some(shadow) = &mut self.shadow {
                    shadow.ran_late(now, by, detail);
                }
            }
            Mark::Incident(incident) if incident.brief.cluster == *self.cluster => {
                let brief = incident.brief;
                if brief.kind != SagaKind::Rejoin {
                    self.judged.recorded.incidents.insert(brief.id.to_string(), brief);
                }
            }
            Mark::Told(notice) => match *notice {
                Notice::PrimaryChanged { cluster, primary, epoch } if cluster == *self.cluster => {
                    if let Some(shadow) = &mut self.shadow {
                        shadow.primary_is(now, primary, epoch);
                    }
                }
                Notice::RuleFired { cluster, explanation }
                    if cluster == *self.cluster && self.is_asked_about(self.anchor.unix_ms_at(now)) =>
                {
                    *self.judged.recorded.fired.entry(explanation.rule).or_default() += 1;
                }
                _ => {}
            },
            _ => {}
        }
    }

    fn is_asked_about(&self, unix_ms: i64) -> bool {
        (self.from_unix_ms..=self.to_unix_ms).contains(&unix_ms)
    }

    /// A wall time on the clock of this segment.
    fn moment_of(&self, unix_ms: i64) -> Time {
        let off_ms = unix_ms.saturating_sub(self.anchor.unix_ms);
        let off = Duration::from_millis(off_ms.unsigned_abs());
        if off_ms >= 0 { self.anchor.boot + off } else { self.anchor.boot.before(off) }
    }

    /// Takes what the judging told.
    #[inline]
    fn take_told(&mut self) {
        while let Some((at, notice)) = self.shadow.as_mut().and_then(Shadow::poll_told) {
            self.told(at, notice);
        }
    }

    #[cold]
    fn told(&mut self, at: Time, notice: Notice) {
        match notice {
            Notice::RuleFired { explanation, .. } => {
                let is_acting = matches!(explanation.then, Reaction::Failover | Reaction::Switchover);
                let guards = if is_acting { self.guards() } else { Vec::new() };
                let rule = self.policy.clusters.get(self.cluster);
                let rule = rule.and_then(|c| c.rules.iter().find(|rule| rule.name == explanation.rule));
                let firing = Firing {
                    rule: explanation.rule.clone(),
                    verdict: explanation.verdict,
                    then: explanation.then,
                    shadow: rule.is_some_and(|rule| rule.mode == Some(Mode::Shadow)),
                    from_unix_ms: self.anchor.unix_ms_at(at),
                    length: Duration::ZERO,
                    ended: Ended::Cut,
                    primary: self.shadow.as_ref().and_then(|shadow| shadow.primary().cloned()),
                    guards,
                    because: explanation.tree.to_text(),
                };
                self.open.insert(explanation.rule, firing);
            }
            Notice::RuleCleared { rule, after, .. } => {
                if let Some(firing) = self.open.remove(&rule) {
                    self.keep(Firing { length: after, ended: Ended::Cleared, ..firing });
                }
            }
            _ => {}
        }
    }

    /// The guards as they stand now. What agents said last is told to the judging first.
    fn guards(&mut self) -> Vec<Guard> {
        let Some(shadow) = &mut self.shadow else { return Vec::new() };
        let now = shadow.now();
        for (_, key, observation) in self.agents.values() {
            shadow.observe(now, *key, observation.clone());
        }
        shadow.guards().into_iter().map(|state| state.guard).collect()
    }

    fn keep(&mut self, firing: Firing) {
        let length_ms = i64::try_from(firing.length.as_millis()).unwrap_or(i64::MAX);
        let to_unix_ms = firing.from_unix_ms.saturating_add(length_ms);
        if to_unix_ms >= self.from_unix_ms && firing.from_unix_ms <= self.to_unix_ms {
            self.judged.firings.push(firing);
        }
    }

    /// The recording of a life, or of the whole, is over: rules that are true were so until here.
    fn end_life(&mut self) {
        let Some(mut shadow) = self.shadow.take() else { return };
        let end = shadow.now();
        shadow.finish(end);
        self.shadow = Some(shadow);
        self.take_told();
        for firing in std::mem::take(&mut self.open).into_values() {
            let end_ms = self.anchor.unix_ms_at(end).min(self.to_unix_ms);
            let length_ms = u64::try_from(end_ms.saturating_sub(firing.from_unix_ms)).unwrap_or(0);
            self.keep(Firing { length: Duration::from_millis(length_ms), ended: Ended::Cut, ..firing });
        }
        self.shadow = None;
        self.judged.firings.sort_by(|a, b| (a.from_unix_ms, &a.rule).cmp(&(b.from_unix_ms, &b.rule)));
    }
}

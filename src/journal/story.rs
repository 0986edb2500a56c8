//! The journal as a story: what changed, in the order in which the decision loop saw it.
//!
//! Of observations, what a stream shows is told when it changes its kind (an answer becomes a refusal, a link goes down), when
//! it comes back after a silence, and its first word. Its numbers are told with that, and not by themselves.

use std::{collections::HashMap, time::Duration};

use serde::Serialize;

use super::{
    decode::{Seen, StreamName, What},
    mark::Mark,
    segment::{Header, Segment, Trouble},
};
use crate::model::{
    ClusterName, Fact, Notice, Outcome, Time, WallAnchor, explain::Guard, status::IncidentBrief, time::human,
};

/// A stream that was away for so many times its rhythm was silent.
const SILENT_TIMES: u32 = 4;
/// And for at least this.
const SILENT_AT_LEAST: Duration = Duration::from_secs(2);

/// One line of the story.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// When, in milliseconds since 1970.
    pub unix_ms: i64,
    /// The cluster; `None`: the arbiter itself.
    pub cluster: Option<ClusterName>,
    /// `life`, `seen`, `rule`, `verdict`, `guard`, `primary`, `incident`, `own`, `command`, `hole`.
    pub kind: &'static str,
    /// What.
    pub text: String,
    /// More of it: the tree of a rule. Empty: nothing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub more: String,
}

/// What of the story is wanted.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// From then on, in milliseconds since 1970.
    pub from_unix_ms: i64,
    /// Until then.
    pub to_unix_ms: i64,
    /// Only this cluster, and the arbiter itself.
    pub cluster: Option<ClusterName>,
    /// Every observation, changed or not.
    pub all: bool,
}

impl Wanted {
    fn is(&self, unix_ms: i64, cluster: Option<&ClusterName>) -> bool {
        let is_of_cluster = cluster.is_none() || self.cluster.is_none() || self.cluster.as_ref() == cluster;
        (self.from_unix_ms..=self.to_unix_ms).contains(&unix_ms) && is_of_cluster
    }
}

/// What is known of a stream while the story is told.
#[derive(Debug)]
struct Stream {
    at: Time,
    class: String,
    /// How far apart its words are, roughly.
    rhythm: Duration,
}

/// Tells the story of segments, one after the other.
#[derive(Debug, Default)]
pub struct Teller {
    wanted: Wanted,
    streams: HashMap<StreamName, Stream>,
    before: Option<Header>,
    anchor: WallAnchor,
}

impl Teller {
    /// A teller of what is wanted.
    #[must_use]
    pub fn new(wanted: Wanted) -> Self {
        Self { wanted, ..Self::default() }
    }

    /// Tells one segment to `tell`, which says whether it wants more; what is wrong with it to `trouble`.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn segment(
        &mut self,
        segment: &Segment,
        tell: &mut dyn FnMut(Line) -> bool,
        trouble: &mut dyn FnMut(Trouble),
    ) -> std::io::Result<()> {
        let bytes = segment.read()?;
        let mut reader = match super::Reader::over(&bytes) {
            Ok(reader) => reader,
            Err(fault) => {
                trouble(Trouble::of(&segment.path, fault));
                return Ok(());
            }
        };
        let header = reader.header().clone();
        self.anchor = header.anchor;
        let began = self.begins(&header);
        self.before = Some(header);
        if let Some((kind, text)) = began
            && let Some(line) = self.line(segment.header.began, None, kind, text, String::new())
            && !tell(line)
        {
            return Ok(());
        }
        while let Some(seen) = reader.next_entry() {
            let line = self.entry(&seen);
            if line.is_some_and(|line| !tell(line)) {
                return Ok(());
            }
            if self.anchor.unix_ms_at(seen.now) > self.wanted.to_unix_ms {
                return Ok(());
            }
        }
        if let Some(fault) = reader.fault() {
            trouble(Trouble::of(&segment.path, fault));
        }
        Ok(())
    }

    fn begins(&mut self, header: &Header) -> Option<(&'static str, String)> {
        if self.before.as_ref().is_some_and(|before| header.follows(before)) {
            return None;
        }
        let is_new = self.before.as_ref().is_none_or(|before| before.life != header.life);
        if is_new || header.lost > 0 {
            self.streams.clear();
        }
        if header.part == 0 && header.lost == 0 {
            let known: Vec<String> = header
                .clusters
                .iter()
                .filter_map(|known| {
                    Some(format!("{} has {} in epoch {}", known.cluster, known.primary.as_ref()?, known.epoch))
                })
                .collect();
            let known = if known.is_empty() { "no primary is known".to_owned() } else { known.join(", ") };
            let text =
                format!("arbiter {} {} started, policy {}; {known}", header.arbiter, header.program, header.policy);
            return Some(("life", text));
        }
        if header.lost > 0 {
            return Some((
                "hole",
                format!("{} observations are missing before this: they could not be recorded", header.lost),
            ));
        }
        let is_hole = self.before.is_some();
        is_hole.then(|| ("hole", "a part of the journal is missing before this".to_owned()))
    }

    fn line(
        &self,
        at: Time,
        cluster: Option<&ClusterName>,
        kind: &'static str,
        text: String,
        more: String,
    ) -> Option<Line> {
        let unix_ms = self.anchor.unix_ms_at(at);
        let is_wanted = self.wanted.is(unix_ms, cluster);
        is_wanted.then(|| Line { unix_ms, cluster: cluster.cloned(), kind, text, more })
    }

    fn entry(&mut self, seen: &Seen<'_>) -> Option<Line> {
        match &seen.what {
            What::Mark(mark) => {
                if let Mark::Wall(anchor) = &**mark {
                    let by_ms = anchor.unix_ms - self.anchor.unix_ms_at(anchor.boot);
                    self.anchor = *anchor;
                    let text = format!("the wall clock moved by {by_ms} ms");
                    return self.line(seen.now, None, "own", text, String::new()).filter(|_| by_ms.abs() >= 500);
                }
                let (kind, text, more) = told(mark)?;
                self.line(seen.now, mark.cluster(), kind, text, more)
            }
            What::Seen(raw) => {
                let name = raw.name();
                if self.wanted.cluster.as_ref().is_some_and(|only| *only != name.cluster) {
                    return None;
                }
                let outcome = raw.outcome()?;
                let (class, words) = class_and_words(&outcome);
                let is_of_agent = raw.is_of_agent();
                let (text, is_news) = match self.streams.get_mut(name) {
                    None => {
                        let stream = Stream { at: seen.now, class, rhythm: Duration::ZERO };
                        self.streams.insert(name.clone(), stream);
                        (format!("first: {words}"), true)
                    }
                    Some(stream) => {
                        let gap = seen.now.since(stream.at);
                        let is_back = gap > stream.rhythm.saturating_mul(SILENT_TIMES).max(SILENT_AT_LEAST)
                            && !stream.rhythm.is_zero();
                        if !is_back {
                            let weighted = stream.rhythm.saturating_mul(7).saturating_add(gap) / 8;
                            stream.rhythm = if stream.rhythm.is_zero() { gap } else { weighted };
                        }
                        stream.at = seen.now;
                        let is_other = stream.class != class;
                        stream.class = class;
                        match (is_back, is_other) {
                            (true, _) => (format!("again after {} of silence: {words}", human(gap)), true),
                            (false, true) => (words, true),
                            (false, false) => (words, false),
                        }
                    }
                };
                if !self.wanted.all && (!is_news || is_of_agent) {
                    return None;
                }
                let subject = name.subject.as_ref().filter(|s| s.as_str() != name.observer.to_string());
                let of = subject.map_or_else(String::new, |s| format!(" of {s}"));
                let text = format!("{}{of} [{}]: {text}", name.signal, name.observer);
                self.line(seen.now, Some(&name.cluster), "seen", text, String::new())
            }
        }
    }
}

/// A mark in words; `None`: nothing worth a line.
fn told(mark: &Mark) -> Option<(&'static str, String, String)> {
    let none = String::new();
    Some(match mark {
        Mark::Told(notice) => return told_notice(notice),
        Mark::Incident(incident) => {
            let said: Vec<&str> = incident.said.iter().map(|(_, text)| text.as_str()).collect();
            ("incident", incident_words(&incident.brief), said.join("\n"))
        }
        Mark::WouldAct { rule, guards, .. } if guards.is_empty() => {
            ("rule", format!("the rule “{rule}” only watches; it would have acted now"), none)
        }
        Mark::WouldAct { rule, guards, .. } => {
            let guards: Vec<&str> = guards.iter().copied().map(Guard::as_str).collect();
            let text =
                format!("the rule “{rule}” only watches; it would have acted, held back by: {}", guards.join(", "));
            ("rule", text, none)
        }
        Mark::RanLate { by, detail } => ("own", format!("ran {} late: {detail}", human(*by)), none),
        Mark::Commanded { by, what } => ("command", format!("{by} asked: {what}"), none),
        Mark::Wall(_) => return None,
    })
}

fn incident_words(brief: &IncidentBrief) -> String {
    let kind = match brief.kind {
        crate::model::record::SagaKind::Failover => "failover",
        crate::model::record::SagaKind::Switchover => "switchover",
        crate::model::record::SagaKind::Rejoin => "rejoin",
    };
    let reason = brief.state_reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
    format!(
        "{kind} {} from {} to {} in epoch {} is {}{reason}",
        brief.id, brief.old_primary, brief.candidate, brief.epoch, brief.state
    )
}

fn told_notice(notice: &Notice) -> Option<(&'static str, String, String)> {
    let none = String::new();
    Some(match notice {
        Notice::VerdictChanged { member, from, to, rule, .. } => {
            let by = rule.as_ref().map_or_else(String::new, |rule| format!(", by the rule “{rule}”"));
            let who = member.as_ref().map_or_else(|| "the primary".to_owned(), ToString::to_string);
            ("verdict", format!("{who}: {from} → {to}{by}"), none)
        }
        Notice::RuleFired { explanation, .. } => {
            let shadow = if explanation.shadow { " (it only watches)" } else { "" };
            let text = format!(
                "the rule “{}” became true: {}, then {}{shadow}",
                explanation.rule, explanation.verdict, explanation.then
            );
            ("rule", text, explanation.tree.to_text())
        }
        Notice::RuleCleared { rule, after, .. } => {
            ("rule", format!("the rule “{rule}” holds no more, after {}", human(*after)), none)
        }
        Notice::ActBlocked { rule, guards, .. } => {
            let text = if guards.is_empty() {
                format!("nothing stands against the rule “{rule}” any more, or it no longer wants to act")
            } else {
                let names: Vec<&str> = guards.iter().map(|(guard, _)| guard.as_str()).collect();
                format!("the rule “{rule}” wants to act, and guards stand against it: {}", names.join(", "))
            };
            let more: Vec<String> = guards.iter().map(|(guard, why)| format!("{guard}: {why}")).collect();
            ("guard", text, more.join("\n"))
        }
        Notice::GuardChanged { guard, blocks: true, reason, .. } => {
            ("guard", format!("{guard} stands: {reason}"), none)
        }
        Notice::GuardChanged { guard, .. } => ("guard", format!("{guard} stands no more"), none),
        Notice::PrimaryChanged { primary: Some(primary), epoch, .. } => {
            ("primary", format!("{primary} is primary in epoch {epoch}"), none)
        }
        Notice::PrimaryChanged { epoch, .. } => ("primary", format!("nobody is primary, epoch {epoch}"), none),
        Notice::TwoPrimaries { members, now, .. } => {
            let names: Vec<&str> = members.iter().map(crate::model::MemberName::as_str).collect();
            let text = if *now { "all claim to be primary" } else { "no longer all claim to be primary" };
            ("primary", format!("{} {text}", names.join(" and ")), none)
        }
        // Told as marks of their own.
        Notice::IncidentUpdated(_) => return None,
        Notice::Own { what, ok, detail } => {
            let sign = if *ok { "well" } else { "unwell" };
            ("own", format!("{what}, {sign}: {detail}"), none)
        }
    })
}

/// What does not change while nothing changes, and the whole in words.
fn class_and_words(outcome: &Outcome) -> (String, String) {
    let fact = match outcome {
        Outcome::Failure(failure) => return (failure.kind.as_str().to_owned(), format!("FAILED, {failure}")),
        Outcome::Fact(fact) => fact,
    };
    let same = |words: &str| (words.to_owned(), words.to_owned());
    match fact {
        Fact::Beat { seq, echoed: true } => ("beat".into(), format!("beat {seq}")),
        Fact::Beat { seq, echoed: false } => {
            ("unechoed".into(), format!("beat {seq}, without a proof that it hears us"))
        }
        Fact::Arrivals(report) => {
            let of = report.primary.as_ref().map_or_else(String::new, |p| format!(" from {p}"));
            let age = report.last_age.map_or_else(String::new, |age| format!(", the last {} before", human(age)));
            let class = format!("arrivals{of} {}", report.epoch);
            (class, format!("{} received{of} in epoch {}{age}", report.received, report.epoch))
        }
        Fact::Ok { latency } => ("ok".into(), format!("ok in {}", human(*latency))),
        Fact::Role(report) => {
            let of = report.follows.as_ref().map_or_else(String::new, |of| format!(" of {of}"));
            let link = match report.link_up {
                Some(true) => ", link up",
                Some(false) => ", link down",
                None => "",
            };
            let class = format!("{}{of}{link}", report.role);
            let position = report.position.map_or_else(String::new, |p| format!(", position {p}"));
            (class.clone(), format!("says it is {class}{position}"))
        }
        Fact::Position { position } => ("position".into(), format!("position {position}")),
        Fact::Link { up, .. } => same(if *up { "link up" } else { "link down" }),
        Fact::Writable(yes) => same(if *yes { "writable" } else { "refuses writes" }),
        Fact::Value(value) => ("value".into(), format!("{value}")),
        Fact::Text(text) => (format!("text {text}"), format!("{text:?}")),
        Fact::Process { running, detail } => {
            let word = if *running { "running" } else { "ended" };
            (word.into(), if detail.is_empty() { word.into() } else { format!("{word}: {detail}") })
        }
        Fact::Canary { latency } => ("canary".into(), format!("canary in {}", human(*latency))),
        Fact::Alert { firing } => same(if *firing { "firing" } else { "not firing" }),
        Fact::Agent(report) => ("agent".into(), format!("agent, epoch {}", report.epoch)),
        Fact::Reaches(parties) => ("reaches".into(), format!("reaches {} others", parties.len())),
    }
}

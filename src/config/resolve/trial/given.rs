//! What is given: each key is a signal or somebody, each value a word, words one after the other, or words by observer.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    Resolver, Scene,
    phrase::{About, Extent, Plight, extent},
};
use crate::{
    config::{
        Source,
        diagnostic::{Place, did_you_mean, nearest, one_of},
        shape::{At, Raw},
        yaml::{Id, Value},
    },
    model::{
        FailureKind, MemberName, NodeName, Observer,
        agent::Watch,
        observation::AGENTS_SIGNAL,
        policy::{Observers, SignalKind},
        trial::{Phase, Sight, StreamId, moment},
    },
};

/// What was said of something, as it was written.
#[derive(Clone, Debug)]
pub(super) struct Said<S> {
    place: Place,
    what: What<S>,
}

#[derive(Clone, Debug)]
enum What<S> {
    One(S, Extent),
    /// One after the other, from the beginning; the last goes on.
    List(Vec<(S, Option<Duration>)>),
}

/// Whom a state is said of.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Party {
    Arbiter,
    Member(MemberName),
    Node(NodeName),
}

/// Everything that a test says is given.
#[derive(Debug, Default)]
pub(super) struct Given {
    streams: Vec<(Vec<StreamId>, Said<Sight>)>,
    parties: Vec<(Party, Said<Plight>)>,
}

impl<S> Said<S> {
    /// How long it lasts at the end of the story, if that is how it was said.
    fn last(&self) -> Option<Duration> {
        match self.what {
            What::One(_, Extent::Last(last)) => Some(last),
            _ => None,
        }
    }

    /// When it changes for the last time, as far as that is said.
    fn changes(&self) -> Duration {
        match &self.what {
            What::One(_, Extent::From(from, until)) => until.unwrap_or(*from),
            What::One(..) => Duration::ZERO,
            What::List(list) => list.iter().filter_map(|(_, lasts)| *lasts).sum(),
        }
    }
}

impl Given {
    /// The longest `for …` at the end of the story: the end is when that is over.
    pub(super) fn last(&self) -> Option<Duration> {
        let streams = self.streams.iter().filter_map(|(_, said)| said.last());
        streams.chain(self.parties.iter().filter_map(|(_, said)| said.last())).max()
    }

    /// The last moment at which anything changes, as far as that is said.
    pub(super) fn changes(&self) -> Duration {
        let streams = self.streams.iter().map(|(_, said)| said.changes());
        streams.chain(self.parties.iter().map(|(_, said)| said.changes())).max().unwrap_or_default()
    }
}

impl Resolver<'_> {
    /// Reads what is given; what is wrong is noted and left out.
    pub(super) fn given(&mut self, scene: &Scene<'_>, entries: &[(At<String>, At<Raw>)]) -> Given {
        let mut given = Given::default();
        for (key, At { value: Raw(value), .. }) in entries {
            let word = key.value.as_str();
            if scene.policy.signals.contains_key(word) || (word == AGENTS_SIGNAL && scene.has_agents()) {
                self.of_signal(scene, key, *value, &mut given);
                continue;
            }
            let parties = scene.parties(word);
            if !parties.is_empty() {
                let is_arbiter = parties == [Party::Arbiter];
                if let Some(said) = self.plight(word, *value, is_arbiter) {
                    given.parties.extend(parties.into_iter().map(|party| (party, said.clone())));
                }
                continue;
            }
            // A signal that could not be read was noted where it stands.
            let declared = self.tree.get(scene.id, "signals");
            if declared.is_some_and(|signals| self.tree.get(signals, word).is_some()) {
                continue;
            }
            let signals = scene.policy.signals.keys().map(|name| name.as_str());
            let others = scene.policy.members.iter().map(|m| m.name.as_str());
            let others = others.chain(scene.policy.nodes.iter().map(NodeName::as_str)).chain(["primary", "arbiter"]);
            let help = match nearest(word, signals.clone().chain(others)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("{}; or a member, a node, `primary`, `arbiter`", one_of(signals)),
            };
            let message = format!("there is no signal `{}` in {}", self.shown(key.id), scene.policy.name);
            self.notes.error_help(self.tree.place(key.id), message, help);
        }
        given
    }

    fn of_signal(&mut self, scene: &Scene<'_>, key: &At<String>, value: Id, given: &mut Given) {
        let signal = key.value.as_str();
        let streams: Vec<StreamId> = scene.streams.iter().filter(|id| id.signal.as_str() == signal).cloned().collect();
        let about = match scene.policy.signals.get(signal) {
            Some(spec) => About::of(spec, scene.counters.iter().any(|name| name.as_str() == signal)),
            None => About::Agents,
        };
        let entries = self.tree.entries(value);
        if entries.is_empty() {
            if let Some(said) = self.sight(signal, about, value) {
                given.streams.push((streams, said));
            }
            return;
        }
        let mut named: BTreeSet<StreamId> = BTreeSet::new();
        let mut others = None;
        for &(name, state) in entries {
            let Some(said) = self.sight(signal, about, state) else { continue };
            let words = self.tree.node(name).text.clone();
            if words == "others" {
                others = Some(said);
                continue;
            }
            for word in words.split(',').map(str::trim) {
                let found: Vec<StreamId> = streams.iter().filter(|id| scene.is_named(id, word)).cloned().collect();
                if found.is_empty() {
                    let known = scene.names_of(&streams);
                    let help = did_you_mean(word, known.iter().map(String::as_str).chain(["others"]));
                    let message = format!("`{signal}` is not seen by or of `{word}`");
                    self.notes.error_help(self.tree.place(name), message, help);
                    continue;
                }
                if found.iter().any(|id| named.contains(id)) {
                    self.notes.error(self.tree.place(name), format!("`{word}` is said twice"));
                }
                named.extend(found.iter().cloned());
                given.streams.push((found, said.clone()));
            }
        }
        if let Some(said) = others {
            let left: Vec<StreamId> = streams.into_iter().filter(|id| !named.contains(id)).collect();
            given.streams.push((left, said));
        }
    }

    fn sight(&mut self, signal: &str, about: About, id: Id) -> Option<Said<Sight>> {
        let is_text = about.words().contains(&"any text");
        self.said(id, is_text, |r, id, text| {
            let sight = about.sight(text);
            if sight.is_none() {
                let words = about.words();
                let help = did_you_mean(text, words.iter().copied());
                let shown = r.shown(id).to_owned();
                let message = format!("`{shown}` is nothing that `{signal}` can show");
                r.notes.error_help(r.tree.head(id), message, help);
            }
            sight
        })
    }

    fn plight(&mut self, who: &str, id: Id, is_arbiter: bool) -> Option<Said<Plight>> {
        self.said(id, false, |r, id, text| {
            let plight = Plight::read(text);
            let words = if is_arbiter { &Plight::WORDS_OF_ARBITER[..] } else { &Plight::WORDS };
            let found = plight.filter(|p| !is_arbiter || matches!(p, Plight::Well | Plight::CutOff));
            if found.is_none() {
                let help = did_you_mean(text, words.iter().copied());
                let message = format!("`{who}` cannot be `{}`", r.shown(id));
                r.notes.error_help(r.tree.head(id), message, help);
            }
            found
        })
    }

    /// One state with its time, or a list of them.
    fn said<S>(
        &mut self,
        id: Id,
        is_text: bool,
        mut read: impl FnMut(&mut Self, Id, &str) -> Option<S>,
    ) -> Option<Said<S>> {
        let place = self.tree.head(id);
        let items = match &self.tree.node(id).value {
            Value::Seq(items) => items,
            Value::Null => {
                self.notes.error(place, "what is seen is missing");
                return None;
            }
            Value::Map(_) => {
                self.notes.error(place, "a map is nothing that can be seen: write a word, or a list of words");
                return None;
            }
            _ => {
                let (text, extent) = self.phrase(id, is_text)?;
                let what = What::One(read(self, id, &text)?, extent);
                return Some(Said { place, what });
            }
        };
        if items.is_empty() {
            self.notes.error(place, "the list is empty");
            return None;
        }
        let mut list = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let place = self.tree.head(*item);
            if matches!(self.tree.node(*item).value, Value::Seq(_) | Value::Map(_) | Value::Null) {
                self.notes.error(place, "write a word for what is seen then");
                return None;
            }
            let (text, extent) = self.phrase(*item, is_text)?;
            let lasts = match extent {
                Extent::Last(lasts) => Some(lasts),
                Extent::Throughout => None,
                Extent::From(..) => {
                    let help = "in a list one begins when the one before ends: write `for …`";
                    self.notes.error_help(place, "`from` and `until` do not belong into a list", help);
                    return None;
                }
            };
            if lasts.is_none() && index + 1 < items.len() {
                let help = format!("write `{} for 10s`, or how long it lasts", self.tree.node(*item).shown());
                self.notes.error_help(place, "how long? Another one follows it", help);
                return None;
            }
            list.push((read(self, *item, &text)?, lasts));
        }
        Some(Said { place, what: What::List(list) })
    }

    fn phrase(&mut self, id: Id, is_text: bool) -> Option<(String, Extent)> {
        match extent(&self.tree.node(id).text, is_text) {
            Ok((text, extent)) => Some((text.to_owned(), extent)),
            Err(why) => {
                self.notes.error(self.tree.head(id), why);
                None
            }
        }
    }

    /// The phases of every stream, in a story of that length.
    pub(super) fn phases(
        &mut self,
        scene: &Scene<'_>,
        given: &Given,
        lasts: Duration,
    ) -> BTreeMap<StreamId, Vec<Phase>> {
        let mut all: BTreeMap<StreamId, Vec<Phase>> = BTreeMap::new();
        // Members before nodes before the arbiter: what does not reach whoever looks is not seen, whatever it is.
        let rank = |party: &Party| match party {
            Party::Member(_) => 0,
            Party::Node(_) => 1,
            Party::Arbiter => 2,
        };
        let mut parties: Vec<_> = given.parties.iter().collect();
        parties.sort_by_key(|(party, _)| rank(party));
        for (party, said) in parties {
            for id in &scene.streams {
                let sight_of = |plight: &Plight| scene.effect(id, party, *plight).unwrap_or(Sight::Well);
                let over = self.timeline(said, lasts, sight_of);
                if over.iter().any(|phase| phase.sight != Sight::Well) {
                    let under = all.remove(id).unwrap_or_default();
                    all.insert(id.clone(), overlay(&under, &over));
                }
            }
        }
        for (streams, said) in &given.streams {
            let phases = self.timeline(said, lasts, Sight::clone);
            for id in streams {
                all.insert(id.clone(), phases.clone());
            }
        }
        all
    }

    fn timeline<S>(&mut self, said: &Said<S>, lasts: Duration, sight: impl Fn(&S) -> Sight) -> Vec<Phase> {
        let too_long = |r: &mut Self, at: Duration| {
            let message = format!("it lies at {}, and the story ends at {}", moment(at), moment(lasts));
            r.notes.error_help(said.place, message, "make the story longer with `for: …` beside `name`");
        };
        match &said.what {
            What::One(state, Extent::Throughout) => vec![Phase { from: Duration::ZERO, sight: sight(state) }],
            What::One(state, Extent::Last(last)) => {
                if *last > lasts {
                    let message = format!("it lasts {}, and the story only {}", moment(*last), moment(lasts));
                    self.notes.error(said.place, message);
                }
                vec![Phase { from: lasts.saturating_sub(*last), sight: sight(state) }]
            }
            What::One(state, Extent::From(from, until)) => {
                let mut phases = vec![Phase { from: *from, sight: sight(state) }];
                if let Some(until) = until {
                    if until <= from {
                        let message = format!("from {} until {} is no time at all", moment(*from), moment(*until));
                        self.notes.error(said.place, message);
                        return Vec::new();
                    }
                    phases.push(Phase { from: *until, sight: Sight::Well });
                }
                let last = until.unwrap_or(*from);
                if last > lasts {
                    too_long(self, last);
                }
                phases
            }
            What::List(list) => {
                let mut from = Duration::ZERO;
                let mut phases = Vec::new();
                for (state, time) in list {
                    phases.push(Phase { from, sight: sight(state) });
                    from += time.unwrap_or_default();
                }
                if from > lasts {
                    too_long(self, from);
                }
                phases.dedup_by(|next, before| next.sight == before.sight);
                phases
            }
        }
    }
}

/// What is seen of a stream when something lies over it: what is well there lets through what is below.
fn overlay(under: &[Phase], over: &[Phase]) -> Vec<Phase> {
    let at = |phases: &[Phase], moment: Duration| {
        phases.iter().take_while(|p| p.from <= moment).last().map_or(Sight::Well, |p| p.sight.clone())
    };
    let moments: BTreeSet<Duration> = under.iter().chain(over).map(|phase| phase.from).collect();
    let mut phases: Vec<Phase> = moments
        .into_iter()
        .map(|from| {
            let above = at(over, from);
            Phase { from, sight: if above == Sight::Well { at(under, from) } else { above } }
        })
        .collect();
    phases.dedup_by(|next, before| next.sight == before.sight);
    phases
}

impl Scene<'_> {
    fn has_agents(&self) -> bool {
        self.policy.members.iter().any(|m| m.has_agent)
    }

    /// Whom a key means that is no signal; nobody: it means nothing.
    fn parties(&self, word: &str) -> Vec<Party> {
        let members = || self.policy.members.iter().map(|m| &m.name);
        let nodes = || self.policy.nodes.iter().cloned().map(Party::Node);
        match word {
            "arbiter" => vec![Party::Arbiter],
            "primary" => vec![Party::Member(self.primary.clone())],
            "standbys" => members().filter(|m| *m != self.primary).cloned().map(Party::Member).collect(),
            "nodes" => nodes().collect(),
            _ if word == self.arbiter => vec![Party::Arbiter],
            _ => {
                let member = members().find(|m| m.as_str() == word).cloned().map(Party::Member);
                member
                    .or_else(|| nodes().find(|n| matches!(n, Party::Node(n) if n.as_str() == word)))
                    .into_iter()
                    .collect()
            }
        }
    }

    /// Whether that stream is meant by that name: its observer's, or its subject's.
    fn is_named(&self, id: &StreamId, word: &str) -> bool {
        let by = match &id.observer {
            Observer::Arbiter => word == "arbiter" || (word == self.arbiter && !self.peers.is_empty()),
            Observer::Peer(name) => word == name,
            Observer::Member(name) => word == name.as_str(),
            Observer::Node(name) => word == name.as_str(),
        };
        let of = id.subject.as_ref().is_some_and(|member| {
            let is_primary = member == self.primary;
            word == member.as_str() || (word == "primary" && is_primary) || (word == "standbys" && !is_primary)
        });
        by || of
    }

    fn names_of(&self, streams: &[StreamId]) -> Vec<String> {
        let mut names = Vec::new();
        for id in streams {
            let observer = match &id.observer {
                Observer::Arbiter if self.peers.is_empty() => None,
                Observer::Arbiter => Some(self.arbiter.to_owned()),
                other => Some(other.to_string()),
            };
            names.extend(observer.into_iter().chain(id.subject.as_ref().map(ToString::to_string)));
        }
        let known: BTreeSet<String> = names.into_iter().collect();
        known.into_iter().collect()
    }

    /// What a stream shows when that has become of somebody. `None`: it is not touched.
    fn effect(&self, id: &StreamId, party: &Party, plight: Plight) -> Option<Sight> {
        if plight == Plight::Well {
            return None;
        }
        match party {
            Party::Arbiter => self.effect_of_own_cut(id),
            Party::Node(node) => self.effect_of_node(id, node),
            Party::Member(member) => self.effect_of_member(id, member, plight),
        }
    }

    fn kind(&self, id: &StreamId) -> Option<(SignalKind, &Observers)> {
        self.policy.signals.get(&id.signal).map(|spec| (spec.kind, &spec.observers))
    }

    /// The arbiter's own cable: its looks fail, and what others push does not arrive.
    fn effect_of_own_cut(&self, id: &StreamId) -> Option<Sight> {
        if matches!(id.observer, Observer::Peer(_)) {
            return Some(Sight::Absent);
        }
        let Some((kind, observers)) = self.kind(id) else { return Some(Sight::Silent) };
        Some(match (kind, observers) {
            // Alertmanager's word does not come either; what it said stands.
            (SignalKind::Alert, Observers::Arbiter) => return None,
            (_, Observers::Arbiter) => Sight::Failing(FailureKind::TimedOut),
            (_, Observers::Members) => Sight::Silent,
            (SignalKind::Arrivals, Observers::Nodes(_)) if !self.counters.contains(&id.signal) => Sight::Absent,
            (_, Observers::Nodes(_)) => Sight::Failing(FailureKind::Local),
        })
    }

    /// A node that is gone, for whatever reason, tells nothing, and proves nothing.
    fn effect_of_node(&self, id: &StreamId, node: &NodeName) -> Option<Sight> {
        if id.observer != Observer::Node(node.clone()) {
            return None;
        }
        let (kind, _) = self.kind(id)?;
        let is_pushed = kind == SignalKind::Arrivals && !self.counters.contains(&id.signal);
        Some(if is_pushed { Sight::Absent } else { Sight::Failing(FailureKind::Local) })
    }

    fn effect_of_member(&self, id: &StreamId, member: &MemberName, plight: Plight) -> Option<Sight> {
        let is_dead = plight == Plight::Dead;
        let is_cut_off = plight == Plight::CutOff;
        let Some((kind, observers)) = self.kind(id) else {
            // Its agent lives on its host.
            return (is_cut_off && id.subject.as_ref() == Some(member)).then_some(Sight::Silent);
        };
        let no_answer = Sight::Failing(if is_dead { FailureKind::Refused } else { FailureKind::TimedOut });
        let is_its_own = id.subject.as_ref() == Some(member);
        let is_primary = member == self.primary;
        match (kind, observers) {
            // An agent says that of itself: it lives on though its broker does not.
            (SignalKind::Heartbeat, _) if self.is_agents(id) => (is_its_own && is_cut_off).then_some(Sight::Silent),
            (SignalKind::Heartbeat, _) => is_its_own.then_some(Sight::Silent),
            (SignalKind::Process | SignalKind::Alert, Observers::Members) if is_its_own => match plight {
                Plight::CutOff => Some(Sight::Silent),
                _ => self.evidence(id, plight),
            },
            (
                SignalKind::Check | SignalKind::Role | SignalKind::Position | SignalKind::Link | SignalKind::Write,
                Observers::Arbiter,
            ) if is_its_own => Some(no_answer),
            // What a standby sees of a primary that is gone. Of a frozen one, the link stays up, and nothing comes.
            (SignalKind::Link, _) if is_primary => {
                Some(if plight == Plight::Frozen { Sight::Quiet } else { Sight::Link(false) })
            }
            (SignalKind::Role, _) if is_primary && plight != Plight::Frozen => Some(Sight::Link(false)),
            (SignalKind::Arrivals, _) => is_primary.then_some(Sight::Silent),
            (SignalKind::Canary, _) => is_primary.then_some(no_answer),
            // What others count, or what a third party says, stays as it is.
            _ => None,
        }
    }

    /// What the agent on the host of a dead or frozen broker sees.
    fn evidence(&self, id: &StreamId, plight: Plight) -> Option<Sight> {
        let Some(Source::Agent { watch }) = self.parts.sources.get(&id.signal) else { return None };
        let is_dead = plight == Plight::Dead;
        match watch {
            Watch::Process | Watch::Cgroup | Watch::Unit | Watch::Listener => is_dead.then_some(Sight::Running(false)),
            Watch::Progress => Some(Sight::Firing(true)),
            Watch::Frozen => (!is_dead).then_some(Sight::Firing(true)),
            Watch::Stuck | Watch::Pressure | Watch::Disk | Watch::Rebooted | Watch::Beat => None,
        }
    }

    fn is_agents(&self, id: &StreamId) -> bool {
        matches!(self.parts.sources.get(&id.signal), Some(Source::Agent { .. }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_well_above_lets_through_what_is_below() {
        let secs = Duration::from_secs;
        let phase = |from, sight| Phase { from: secs(from), sight };
        let under = [phase(0, Sight::Silent), phase(20, Sight::Well)];
        let over = [phase(5, Sight::Absent), phase(10, Sight::Well)];
        let expected =
            [phase(0, Sight::Silent), phase(5, Sight::Absent), phase(10, Sight::Silent), phase(20, Sight::Well)];
        assert_eq!(overlay(&under, &over), expected);
        assert_eq!(overlay(&[], &over), over);
    }
}

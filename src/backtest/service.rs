//! What the nodes went through, as they told it: did they go on receiving?

use std::{collections::BTreeMap, time::Duration};

use super::BacktestError;
use crate::{
    journal::{Mark, Reader, Segment, What},
    model::{ClusterName, ClusterPolicy, Fact, NodeName, Observer, Outcome, SignalName, policy::Traffic, time::human},
};

/// Whether the primary served at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Served {
    /// Most nodes that reported went on receiving.
    Yes,
    /// Most of them received nothing for too long, though somebody sent.
    No,
    /// Nobody can say.
    Unclear,
}

/// What a node told.
#[derive(Clone, Copy, Debug)]
struct Point {
    unix_ms: i64,
    received: u64,
    /// When the last thing arrived, if the node said so.
    arrived_ms: Option<i64>,
    attempted: Option<u64>,
}

/// What all nodes of a cluster told in some spans of time.
#[derive(Debug, Default)]
pub(super) struct Service {
    nodes: BTreeMap<NodeName, Vec<Point>>,
    /// Messages are always expected.
    is_constant: bool,
}

/// Spans that overlap become one.
fn merged(mut spans: Vec<(i64, i64)>) -> Vec<(i64, i64)> {
    spans.sort_unstable();
    let mut out: Vec<(i64, i64)> = Vec::new();
    for (from, to) in spans {
        match out.last_mut() {
            Some((_, end)) if from <= *end => *end = (*end).max(to),
            _ => out.push((from, to)),
        }
    }
    out
}

impl Service {
    /// Reads what the nodes told around these moments.
    pub(super) fn read(
        segments: &[Segment],
        cluster: &ClusterName,
        policy: Option<&ClusterPolicy>,
        moments: impl Iterator<Item = i64>,
        around_ms: i64,
    ) -> Result<Self, BacktestError> {
        let spans = merged(moments.map(|at| (at.saturating_sub(around_ms), at.saturating_add(around_ms))).collect());
        let mut service = Self::default();
        for (place, segment) in segments.iter().enumerate() {
            let from = segment.header.began_unix_ms();
            let to = segments.get(place + 1).map_or(i64::MAX, |next| next.header.began_unix_ms());
            let after = spans.partition_point(|(_, end)| *end < from);
            // Clocks are set back, too: a segment that ends before it begins is read.
            if spans.get(after).is_none_or(|(begin, _)| *begin > to.max(from)) {
                continue;
            }
            let read = |source| BacktestError::Read { path: segment.path.display().to_string(), source };
            let bytes = segment.read().map_err(read)?;
            service.segment(&bytes, cluster, policy, &spans);
        }
        for points in service.nodes.values_mut() {
            points.sort_by_key(|point| point.unix_ms);
        }
        Ok(service)
    }

    fn segment(&mut self, bytes: &[u8], cluster: &ClusterName, policy: Option<&ClusterPolicy>, spans: &[(i64, i64)]) {
        // What is wrong with it was said by the judging.
        let Ok(mut reader) = Reader::over(bytes) else { return };
        let mut anchor = reader.header().anchor;
        let mut wanted: Vec<bool> = Vec::new();
        while let Some(seen) = reader.next_entry() {
            let unix_ms = anchor.unix_ms_at(seen.now);
            let raw = match &seen.what {
                What::Mark(mark) => {
                    if let Mark::Wall(new) = &**mark {
                        anchor = *new;
                    }
                    continue;
                }
                What::Seen(raw) => raw,
            };
            if raw.stream == wanted.len() {
                let name = raw.name();
                wanted
                    .push(name.cluster == *cluster && matches!(name.observer, Observer::Node(_)) && !raw.is_of_agent());
            }
            let after = spans.partition_point(|(_, end)| *end < unix_ms);
            let is_inside = spans.get(after).is_some_and(|(begin, _)| *begin <= unix_ms);
            if !is_inside || wanted.get(raw.stream) != Some(&true) {
                continue;
            }
            let (Observer::Node(node), Some(outcome)) = (&raw.name().observer, raw.outcome()) else { continue };
            self.is_constant |= is_constant(policy, &raw.name().signal);
            if let Some(point) = point(unix_ms, &outcome) {
                self.nodes.entry(node.clone()).or_default().push(point);
            }
        }
    }

    /// Whether the primary served at that moment, and how that is known. `until`: a failover was begun then, and what arrived
    /// later came from another primary.
    pub(super) fn at(
        &self,
        at_ms: i64,
        around_ms: i64,
        outage: Duration,
        until: Option<i64>,
    ) -> (Served, String, Option<Duration>) {
        let (from, to) = (at_ms.saturating_sub(around_ms), at_ms.saturating_add(around_ms));
        let outage_ms = i64::try_from(outage.as_millis()).unwrap_or(i64::MAX);
        let mut gaps: Vec<(i64, i64)> = Vec::new();
        for points in self.nodes.values() {
            let inside = within(points, from, to);
            if !inside.is_empty() {
                let (begin, end) = gap(inside, at_ms, from, to);
                // That it was short says nothing of the old primary, if a new one ended it.
                let is_ended_by_another = until.is_some_and(|until| end > until);
                gaps.push((
                    begin,
                    if is_ended_by_another { end.max(begin.saturating_add(outage_ms + 1)) } else { end },
                ));
            }
        }
        let reported = gaps.len();
        if reported == 0 {
            return (Served::Unclear, "no node reported then".into(), None);
        }
        gaps.sort_by_key(|(begin, end)| end - begin);
        let served = gaps.iter().filter(|(begin, end)| end - begin <= outage_ms).count();
        let span = |ms: i64| Duration::from_millis(u64::try_from(ms).unwrap_or(0));
        // The node in the middle: half of them waited no longer, half no less.
        let (begin, end) = gaps[reported / 2];
        let middle = span(end - begin);
        if served * 2 > reported {
            let longest = gaps.iter().take(served).map(|(begin, end)| end - begin).max().unwrap_or(0);
            let text = format!(
                "{served} of {reported} nodes went on receiving, none of them waited longer than {}",
                human(span(longest))
            );
            return (Served::Yes, text, Some(middle));
        }
        let first_end = gaps.iter().map(|(_, end)| *end).min().unwrap_or(end);
        if !self.is_constant && !self.attempted(begin, first_end) {
            let text = format!(
                "nothing arrived at {} of {reported} nodes, and nobody is known to have sent",
                reported - served
            );
            return (Served::Unclear, text, Some(middle));
        }
        let lasting = if end >= to { " or longer" } else { "" };
        let text =
            format!("{} of {reported} nodes received nothing, for {}{lasting}", reported - served, human(middle));
        (Served::No, text, Some(middle))
    }

    /// Whether somebody sent in that time, before the first thing arrived again.
    fn attempted(&self, from: i64, to: i64) -> bool {
        self.nodes.values().any(|points| {
            let inside = within(points, from, to.saturating_sub(1));
            let mut counts = inside.iter().filter_map(|point| point.attempted);
            counts.next().is_some_and(|first| counts.any(|count| count > first))
        })
    }
}

fn within(points: &[Point], from: i64, to: i64) -> &[Point] {
    let begin = points.partition_point(|point| point.unix_ms < from);
    let end = points.partition_point(|point| point.unix_ms <= to);
    points.get(begin..end.max(begin)).unwrap_or_default()
}

/// From the last arrival before that moment to the first one after it, within these bounds.
fn gap(points: &[Point], at_ms: i64, from: i64, to: i64) -> (i64, i64) {
    let (mut before, mut after) = (from, to);
    let mut received: Option<u64> = None;
    for point in points {
        let has_grown = received.is_some_and(|before| point.received > before);
        received = Some(point.received);
        let arrived = point.arrived_ms.or_else(|| has_grown.then_some(point.unix_ms));
        match arrived {
            Some(arrived) if arrived <= at_ms => before = before.max(arrived),
            Some(arrived) => after = after.min(arrived),
            None => {}
        }
    }
    (before, after)
}

fn point(unix_ms: i64, outcome: &Outcome) -> Option<Point> {
    let none = Point { unix_ms, received: 0, arrived_ms: None, attempted: None };
    match outcome {
        Outcome::Fact(Fact::Arrivals(report)) => {
            let age = report.last_age.map(|age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
            let arrived_ms = age.map(|age| unix_ms.saturating_sub(age));
            Some(Point { received: report.received, arrived_ms, attempted: report.attempted, ..none })
        }
        Outcome::Fact(Fact::Canary { .. }) => Some(Point { arrived_ms: Some(unix_ms), ..none }),
        _ => None,
    }
}

fn is_constant(policy: Option<&ClusterPolicy>, signal: &SignalName) -> bool {
    policy.and_then(|policy| policy.signals.get(signal)).is_some_and(|signal| signal.traffic == Traffic::Constant)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(nodes: &[&[(i64, i64, u64)]]) -> Service {
        let mut service = Service::default();
        for (number, points) in nodes.iter().enumerate() {
            let points = points.iter().map(|(unix_ms, arrived, attempted)| Point {
                unix_ms: *unix_ms,
                received: 0,
                arrived_ms: Some(*arrived),
                attempted: Some(*attempted),
            });
            service.nodes.insert(format!("node-{number}").into(), points.collect());
        }
        service
    }

    const OUTAGE: Duration = Duration::from_secs(3);

    #[test]
    fn nodes_that_receive_speak_for_the_primary() {
        let steady: Vec<(i64, i64, u64)> =
            (0_i64..60).map(|s| (s * 1_000, s * 1_000 - 200, s.unsigned_abs())).collect();
        let silent: Vec<(i64, i64, u64)> =
            (0_i64..60).map(|s| (s * 1_000, (s * 1_000).min(20_000), s.unsigned_abs())).collect();
        let (served, text, _) = service(&[&steady, &steady, &silent]).at(30_000, 25_000, OUTAGE, None);
        assert_eq!(served, Served::Yes, "{text}");
        let (served, text, middle) = service(&[&steady, &silent, &silent]).at(30_000, 25_000, OUTAGE, None);
        assert_eq!((served, middle), (Served::No, Some(Duration::from_secs(35))), "{text}");
        // What arrived after a failover was begun says nothing of the old primary.
        assert_eq!(service(&[&steady]).at(30_000, 25_000, OUTAGE, Some(30_400)).0, Served::No);
        assert_eq!(service(&[&steady]).at(30_000, 25_000, OUTAGE, Some(31_000)).0, Served::Yes);
    }

    #[test]
    fn an_idle_night_is_no_outage() {
        let idle: Vec<(i64, i64, u64)> = (0_i64..60).map(|s| (s * 1_000, 5_000, 7)).collect();
        assert_eq!(service(&[&idle, &idle]).at(30_000, 25_000, OUTAGE, None).0, Served::Unclear);
        // The first message after it ends it; that it was attempted is no evidence against the time before.
        let woken: Vec<(i64, i64, u64)> =
            (0_i64..60).map(|s| if s < 40 { (s * 1_000, 5_000, 7) } else { (s * 1_000, s * 1_000, 8) }).collect();
        assert_eq!(service(&[&woken, &woken]).at(30_000, 25_000, OUTAGE, None).0, Served::Unclear);
        assert_eq!(Service::default().at(30_000, 25_000, OUTAGE, None).0, Served::Unclear);
    }
}

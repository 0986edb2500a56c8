//! Outcomes as a shape and some numbers. What stays the same from one look to the next is the shape; what moves are numbers.

use std::time::Duration;

use crate::model::{
    Epoch, Fact, Failure, FailureKind, MemberName, Outcome, PartyName, Role,
    agent::{LeaseState, MemberReport},
    observation::{Arrivals, RoleReport},
};

/// Numbers of one outcome, at most.
const MOST: usize = 5;

/// What stays the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) tag: u8,
    pub(super) flags: u8,
    /// Places in the dictionary, from 1; 0: none.
    pub(super) texts: [u32; 2],
}

/// What moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Numbers {
    count: u8,
    values: [u64; MOST],
}

impl Numbers {
    fn of<const N: usize>(values: [u64; N]) -> Self {
        let mut numbers = Self::default();
        values.into_iter().for_each(|value| numbers.push(value));
        numbers
    }

    pub(super) fn push(&mut self, value: u64) {
        if let Some(place) = self.values.get_mut(usize::from(self.count)) {
            *place = value;
            self.count += 1;
        }
    }

    pub(super) fn all(&self) -> &[u64] {
        self.values.get(..usize::from(self.count)).unwrap_or_default()
    }

    pub(super) fn all_mut(&mut self) -> &mut [u64] {
        self.values.get_mut(..usize::from(self.count)).unwrap_or_default()
    }

    fn at(&self, place: usize) -> u64 {
        self.all().get(place).copied().unwrap_or_default()
    }
}

const FAILURE: u8 = 0;
const BEAT: u8 = 1;
const ARRIVALS: u8 = 2;
const OK: u8 = 3;
const ROLE: u8 = 4;
const POSITION: u8 = 5;
const LINK: u8 = 6;
const WRITABLE: u8 = 7;
const WHOLE: u8 = 8;
const REAL: u8 = 9;
const TEXT: u8 = 10;
const PROCESS: u8 = 11;
const CANARY: u8 = 12;
const ALERT: u8 = 13;
const AGENT: u8 = 14;
const REACHES: u8 = 15;

/// How many texts and numbers a shape has; `None`: there is no such shape.
pub(super) const fn sizes(tag: u8, flags: u8) -> Option<(usize, usize)> {
    Some(match tag {
        FAILURE => (1, 0),
        BEAT => (0, 1),
        ARRIVALS => (1, 2 + bits(flags, 0b111)),
        OK | POSITION | CANARY | WHOLE | REAL => (0, 1),
        ROLE => (2, bits(flags, 0b1_0110)),
        LINK => (0, bits(flags, 0b10)),
        WRITABLE | ALERT => (0, 0),
        TEXT | PROCESS | AGENT | REACHES => (1, 0),
        _ => return None,
    })
}

const fn bits(flags: u8, mask: u8) -> usize {
    (flags & mask).count_ones() as usize
}

/// Words of [`FailureKind`], by their place: the file's numbers, so that places are never given anew.
const KINDS: [FailureKind; 14] = [
    FailureKind::Refused,
    FailureKind::TimedOut,
    FailureKind::Unreachable,
    FailureKind::Reset,
    FailureKind::WrongAnswer,
    FailureKind::Full,
    FailureKind::ReadOnly,
    FailureKind::Loading,
    FailureKind::Overloaded,
    FailureKind::Auth,
    FailureKind::Tls,
    FailureKind::Parse,
    FailureKind::NotFound,
    FailureKind::Local,
];

/// The largest whole number that a float holds exactly, and all below it.
const EXACT: f64 = 9_007_199_254_740_992.0;

pub(super) fn micros(d: Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}

fn flag(is: bool, place: u8) -> u8 {
    u8::from(is) << place
}

/// Takes an outcome apart. `text` gives a text its place in the dictionary.
pub(super) fn apart(outcome: &Outcome, text: &mut impl FnMut(&str) -> u32) -> (Shape, Numbers) {
    let none = Numbers::default();
    let plain = |tag, flags| Shape { tag, flags, texts: [0; 2] };
    let fact = match outcome {
        Outcome::Fact(fact) => fact,
        Outcome::Failure(failure) => {
            let kind = KINDS.iter().position(|kind| *kind == failure.kind).unwrap_or(KINDS.len() - 1);
            let flags = u8::try_from(kind).unwrap_or_default();
            return (Shape { texts: [text(&failure.text), 0], ..plain(FAILURE, flags) }, none);
        }
    };
    match fact {
        Fact::Beat { seq, echoed } => (plain(BEAT, flag(*echoed, 0)), Numbers::of([*seq])),
        Fact::Arrivals(report) => arrivals(report, text),
        Fact::Ok { latency } => (plain(OK, 0), Numbers::of([micros(*latency)])),
        Fact::Role(report) => role(report, text),
        Fact::Position { position } => (plain(POSITION, 0), Numbers::of([*position])),
        Fact::Link { up, last_io } => {
            let mut numbers = none;
            last_io.iter().for_each(|age| numbers.push(micros(*age)));
            (plain(LINK, flag(*up, 0) | flag(last_io.is_some(), 1)), numbers)
        }
        Fact::Writable(yes) => (plain(WRITABLE, flag(*yes, 0)), none),
        Fact::Value(value) => value_of(*value),
        Fact::Text(words) => (Shape { texts: [text(words), 0], ..plain(TEXT, 0) }, none),
        Fact::Process { running, detail } => {
            (Shape { texts: [text(detail), 0], ..plain(PROCESS, flag(*running, 0)) }, none)
        }
        Fact::Canary { latency } => (plain(CANARY, 0), Numbers::of([micros(*latency)])),
        Fact::Alert { firing } => (plain(ALERT, flag(*firing, 0)), none),
        Fact::Agent(report) => (Shape { texts: [text(&json(&lasting(report))), 0], ..plain(AGENT, 0) }, none),
        Fact::Reaches(parties) => (Shape { texts: [text(&json(parties)), 0], ..plain(REACHES, 0) }, none),
    }
}

fn arrivals(report: &Arrivals, text: &mut impl FnMut(&str) -> u32) -> (Shape, Numbers) {
    let flags = flag(report.last_age.is_some(), 0)
        | flag(report.attempted.is_some(), 1)
        | flag(report.acknowledged.is_some(), 2)
        | flag(report.primary.is_some(), 3);
    let of = report.primary.as_ref().map_or(0, |primary| text(primary.as_str()));
    let mut numbers = Numbers::of([report.received, report.epoch.0]);
    let optional = [report.last_age.map(micros), report.attempted, report.acknowledged];
    optional.into_iter().flatten().for_each(|number| numbers.push(number));
    (Shape { tag: ARRIVALS, flags, texts: [of, 0] }, numbers)
}

fn role(report: &RoleReport, text: &mut impl FnMut(&str) -> u32) -> (Shape, Numbers) {
    let flags = flag(report.role == Role::Primary, 0)
        | flag(report.position.is_some(), 1)
        | flag(report.epoch.is_some(), 2)
        | flag(report.link_up.is_some(), 3)
        | flag(report.priority.is_some(), 4)
        | flag(report.link_up == Some(true), 5)
        | flag(report.follows.is_some(), 6)
        | flag(report.lineage.is_some(), 7);
    let mut place = |words: &Option<String>| words.as_ref().map_or(0, |words| text(words));
    let texts = [place(&report.follows), place(&report.lineage)];
    let mut numbers = Numbers::default();
    let optional = [report.position, report.epoch.map(|epoch| epoch.0), report.priority.map(u64::from)];
    optional.into_iter().flatten().for_each(|number| numbers.push(number));
    (Shape { tag: ROLE, flags, texts }, numbers)
}

/// Whole numbers move by small steps, others by their bits.
fn value_of(value: f64) -> (Shape, Numbers) {
    let is_whole = value.fract() == 0.0 && value.abs() <= EXACT && !(value == 0.0 && value.is_sign_negative());
    if is_whole {
        #[expect(clippy::cast_possible_truncation, reason = "whole, and within the bounds of an i64")]
        let whole = value as i64;
        return (Shape { tag: WHOLE, ..Shape::default() }, Numbers::of([whole.cast_unsigned()]));
    }
    (Shape { tag: REAL, ..Shape::default() }, Numbers::of([value.to_bits()]))
}

/// What of an agent's report does not change with every beat.
fn lasting(report: &MemberReport) -> MemberReport {
    let lease = match report.lease {
        LeaseState::Held { .. } => LeaseState::Held { left: Duration::ZERO },
        other => other,
    };
    MemberReport { lease, renewals: None, role: None, role_age: None, ..report.clone() }
}

fn json(value: &impl serde::Serialize) -> String {
    // Plain data with text keys always serializes.
    serde_json::to_string(value).unwrap_or_default()
}

/// Puts an outcome together again; `None`: it cannot be what was written. `text` looks up the dictionary, from 1.
pub(super) fn together<'t>(
    shape: &Shape,
    numbers: &Numbers,
    text: impl Fn(u32) -> Option<&'t MemberName>,
) -> Option<Outcome> {
    let Shape { flags, texts: [first, second], .. } = *shape;
    let is = |place: u8| flags >> place & 1 == 1;
    let words = || Some(text(first)?.as_str().to_owned());
    let span = |place| Duration::from_micros(numbers.at(place));
    // Numbers that may be missing follow one another.
    let mut next = 0;
    let mut optional = |has: bool| {
        has.then(|| {
            next += 1;
            numbers.at(next - 1)
        })
    };
    Some(Outcome::Fact(match shape.tag {
        FAILURE => return Some(Outcome::Failure(Failure { kind: *KINDS.get(usize::from(flags))?, text: words()? })),
        BEAT => Fact::Beat { seq: numbers.at(0), echoed: is(0) },
        ARRIVALS => {
            let (received, epoch) = (optional(true)?, optional(true)?);
            Fact::Arrivals(Arrivals {
                received,
                last_age: optional(is(0)).map(Duration::from_micros),
                attempted: optional(is(1)),
                acknowledged: optional(is(2)),
                primary: if is(3) { Some(text(first)?.clone()) } else { None },
                epoch: Epoch(epoch),
            })
        }
        OK => Fact::Ok { latency: span(0) },
        ROLE => {
            let place =
                |has: bool, place: u32| if has { Some(Some(text(place)?.as_str().to_owned())) } else { Some(None) };
            Fact::Role(RoleReport {
                role: if is(0) { Role::Primary } else { Role::Standby },
                position: optional(is(1)),
                epoch: optional(is(2)).map(Epoch),
                priority: optional(is(4)).map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
                link_up: is(3).then(|| is(5)),
                follows: place(is(6), first)?,
                lineage: place(is(7), second)?,
            })
        }
        POSITION => Fact::Position { position: numbers.at(0) },
        LINK => Fact::Link { up: is(0), last_io: optional(is(1)).map(Duration::from_micros) },
        WRITABLE => Fact::Writable(is(0)),
        #[expect(clippy::cast_precision_loss, reason = "written from a float that held it exactly")]
        WHOLE => Fact::Value(numbers.at(0).cast_signed() as f64),
        REAL => Fact::Value(f64::from_bits(numbers.at(0))),
        TEXT => Fact::Text(words()?),
        PROCESS => Fact::Process { running: is(0), detail: words()? },
        CANARY => Fact::Canary { latency: span(0) },
        ALERT => Fact::Alert { firing: is(0) },
        AGENT => Fact::Agent(Box::new(serde_json::from_str(text(first)?.as_str()).ok()?)),
        REACHES => Fact::Reaches(serde_json::from_str::<Vec<PartyName>>(text(first)?.as_str()).ok()?),
        _ => return None,
    }))
}

/// Whether the shape is an agent's own word, which no rule sees.
pub(super) const fn is_of_agent(shape: &Shape) -> bool {
    matches!(shape.tag, AGENT | REACHES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_what_is_written() {
        let report = |n: u8| RoleReport {
            role: Role::Standby,
            position: (n & 1 > 0).then_some(7),
            link_up: (n & 2 > 0).then_some(n & 4 > 0),
            follows: (n & 8 > 0).then(|| "a:1".into()),
            lineage: (n & 16 > 0).then(|| "x".into()),
            epoch: (n & 32 > 0).then_some(Epoch(3)),
            priority: (n & 64 > 0).then_some(9),
        };
        for n in 0..128 {
            let outcome = Outcome::Fact(Fact::Role(report(n)));
            let mut texts: Vec<MemberName> = Vec::new();
            let (shape, numbers) = apart(&outcome, &mut |words| {
                texts.push(words.into());
                u32::try_from(texts.len()).unwrap()
            });
            assert_eq!(sizes(shape.tag, shape.flags), Some((2, numbers.all().len())), "{n}");
            let back = together(&shape, &numbers, |place| texts.get(place as usize - 1));
            assert_eq!(back, Some(outcome));
        }
    }
}

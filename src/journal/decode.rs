//! Reading one segment, entry by entry, with nothing allocated for what stays as it was.

use super::{
    code::{self, Numbers, Shape},
    encode::{AGED, FULL, Last, MAGIC, MARKS, PREDICTED, STEPS, VERSION, checksum},
    mark::Mark,
    segment::Header,
    words::{Bytes, unzigzag},
};
use crate::model::{ClusterName, MemberName, Observation, Observer, Outcome, SignalName, Time};

/// A frame longer than this is none.
const MOST_FRAME: u64 = 64 << 20;

/// One signal as seen by one observer of one subject.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamName {
    /// The cluster.
    pub cluster: ClusterName,
    /// The signal.
    pub signal: SignalName,
    /// Who looks.
    pub observer: Observer,
    /// At whom.
    pub subject: Option<MemberName>,
}

/// What went wrong in a segment. What came before it is good.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The last frame is cut off: the arbiter stopped in the middle of it, or writes it just now.
    #[error("its last {0} bytes are cut off")]
    Torn(usize),
    /// A checksum is wrong, or what has a right one cannot be understood.
    #[error("from byte {at} on it is corrupt: {what}")]
    Corrupt {
        /// Where the frame begins.
        at: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// It is not a segment.
    #[error("it does not begin like a segment of a journal")]
    Foreign,
    /// Another version wrote it.
    #[error("it was written in version {0} of the format, and this program knows version 1")]
    Version(u8),
}

/// One entry.
#[derive(Debug)]
pub struct Seen<'r> {
    /// When the decision loop took it.
    pub now: Time,
    /// What it is.
    pub what: What<'r>,
}

/// What an entry is.
#[derive(Debug)]
pub enum What<'r> {
    /// An observation.
    Seen(Raw<'r>),
    /// Something else.
    Mark(Box<Mark>),
}

/// An observation, not put together yet.
#[derive(Debug)]
pub struct Raw<'r> {
    /// The stream's number in this segment, from 0; they are met in order.
    pub stream: usize,
    /// When it was seen.
    pub at: Time,
    parts: &'r Parts,
}

impl Raw<'_> {
    /// The stream.
    #[must_use]
    pub fn name(&self) -> &StreamName {
        // The reader hands out numbers of streams that it has.
        &self.parts.streams[self.stream].0
    }

    /// Whether it is an agent's own word, which no rule sees.
    #[must_use]
    pub fn is_of_agent(&self) -> bool {
        code::is_of_agent(&self.parts.streams[self.stream].1.shape)
    }

    /// What was seen; `None`: it cannot be what was written.
    #[must_use]
    #[inline]
    pub fn outcome(&self) -> Option<Outcome> {
        let Last { shape, numbers, .. } = &self.parts.streams[self.stream].1;
        code::together(shape, numbers, |place| self.parts.text(place))
    }

    /// The whole of it.
    #[must_use]
    #[inline]
    pub fn observation(&self) -> Option<Observation> {
        let name = self.name();
        Some(Observation {
            at: self.at,
            cluster: name.cluster.clone(),
            signal: name.signal.clone(),
            observer: name.observer.clone(),
            subject: name.subject.clone(),
            outcome: self.outcome()?,
        })
    }
}

#[derive(Debug, Default)]
struct Parts {
    streams: Vec<(StreamName, Last)>,
    /// Texts are kept as names, which are cheap to clone.
    texts: Vec<MemberName>,
}

impl Parts {
    fn text(&self, place: u32) -> Option<&MemberName> {
        self.texts.get((place as usize).checked_sub(1)?)
    }
}

/// Reads a segment.
#[derive(Debug)]
pub struct Reader<'a> {
    header: Header,
    /// Where the frame that is read ends, and the next begins.
    end: usize,
    bytes: &'a [u8],
    frame: Bytes<'a>,
    /// Where the frame that is read begins.
    at: usize,
    newest_us: u64,
    parts: Parts,
    fault: Option<Fault>,
}

impl<'a> Reader<'a> {
    /// Reads the header.
    ///
    /// # Errors
    /// It is no segment, or not even its header is whole.
    pub fn over(bytes: &'a [u8]) -> Result<Self, Fault> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(Fault::Foreign)?;
        match rest.first() {
            None => return Err(Fault::Torn(bytes.len())),
            Some(&VERSION) => {}
            Some(other) => return Err(Fault::Version(*other)),
        }
        let start = MAGIC.len() + 1;
        let (payload, end) = frame(bytes, start)?.ok_or(Fault::Torn(bytes.len()))?;
        let corrupt = |_| Fault::Corrupt { at: start, what: "its header is not understood" };
        let header: Header = serde_json::from_slice(payload).map_err(corrupt)?;
        let newest_us = header.began.0 / 1_000;
        let parts = Parts::default();
        Ok(Self { header, end, bytes, frame: Bytes::new(&[]), at: end, newest_us, parts, fault: None })
    }

    /// What the segment says of itself.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// The moment of the entry read last.
    #[must_use]
    pub const fn now(&self) -> Time {
        Time(self.newest_us.saturating_mul(1_000))
    }

    /// How many bytes are good, as far as was read.
    #[must_use]
    pub const fn good(&self) -> usize {
        self.at
    }

    /// What ended the reading; `None`: the segment's end, or nothing yet.
    #[must_use]
    pub const fn fault(&self) -> Option<&Fault> {
        self.fault.as_ref()
    }

    /// The next entry; `None`: there is none, see [`Reader::fault`].
    #[inline]
    pub fn next_entry(&mut self) -> Option<Seen<'_>> {
        if self.frame.is_empty() && !self.next_frame() {
            return None;
        }
        match self.entry() {
            Some(Entry::Mark(mark)) => Some(Seen { now: self.now(), what: What::Mark(mark) }),
            Some(Entry::Seen(stream, age_us)) => {
                let now = self.now();
                let at = Time(now.0.saturating_sub(age_us.saturating_mul(1_000)));
                Some(Seen { now, what: What::Seen(Raw { stream, at, parts: &self.parts }) })
            }
            None => {
                self.fault = Some(Fault::Corrupt { at: self.at, what: "an entry is not understood" });
                self.frame = Bytes::new(&[]);
                None
            }
        }
    }

    fn next_frame(&mut self) -> bool {
        while self.fault.is_none() {
            self.at = self.end;
            if self.end == self.bytes.len() {
                return false;
            }
            match frame(self.bytes, self.end) {
                Ok(Some((payload, end))) => {
                    (self.frame, self.end) = (Bytes::new(payload), end);
                    if !payload.is_empty() {
                        return true;
                    }
                }
                Ok(None) => self.fault = Some(Fault::Torn(self.bytes.len() - self.end)),
                Err(fault) => self.fault = Some(fault),
            }
        }
        false
    }

    #[inline]
    fn entry(&mut self) -> Option<Entry> {
        let head = self.frame.number()?;
        self.newest_us = self.newest_us.checked_add(self.frame.number()?)?;
        let (stream, mut form) = (head >> 2, head & 3);
        if stream == MARKS {
            let length = self.frame.number()?;
            let mark = serde_json::from_slice(self.frame.take(length)?).ok()?;
            return Some(Entry::Mark(Box::new(mark)));
        }
        let index = usize::try_from(stream - 1).ok()?;
        if index == self.parts.streams.len() {
            let name = self.defined()?;
            self.parts.streams.push((name, Last::default()));
        }
        let mut age_us = 0;
        if form == AGED {
            age_us = self.frame.number()?;
            form = self.frame.number()?;
        }
        match form {
            PREDICTED => {
                let (_, last) = self.parts.streams.get_mut(index)?;
                for (number, step) in last.numbers.all_mut().iter_mut().zip(last.steps) {
                    *number = number.wrapping_add(step);
                }
            }
            STEPS => {
                let (_, last) = self.parts.streams.get_mut(index)?;
                for (number, step) in last.numbers.all_mut().iter_mut().zip(&mut last.steps) {
                    *step = unzigzag(self.frame.number()?).cast_unsigned();
                    *number = number.wrapping_add(*step);
                }
            }
            FULL => {
                let last = self.full()?;
                self.parts.streams.get_mut(index)?.1 = last;
            }
            _ => return None,
        }
        Some(Entry::Seen(index, age_us))
    }

    #[cold]
    fn defined(&mut self) -> Option<StreamName> {
        let tag = self.frame.byte()?;
        let cluster = self.text()?;
        let signal = self.text()?;
        let observer = self.text()?;
        let subject = self.text()?;
        let name = |place: u32| self.parts.text(place).map(MemberName::as_str);
        Some(StreamName {
            cluster: name(cluster)?.into(),
            signal: name(signal)?.into(),
            observer: match tag & 0xf {
                0 => Observer::Arbiter,
                1 => Observer::Member(name(observer)?.into()),
                2 => Observer::Node(name(observer)?.into()),
                3 => Observer::Peer(name(observer)?.into()),
                _ => return None,
            },
            subject: if tag >> 4 == 1 { Some(name(subject)?.into()) } else { None },
        })
    }

    #[cold]
    fn full(&mut self) -> Option<Last> {
        let mut shape = Shape { tag: self.frame.byte()?, flags: self.frame.byte()?, texts: [0; 2] };
        let (texts, count) = code::sizes(shape.tag, shape.flags)?;
        for place in shape.texts.iter_mut().take(texts) {
            *place = self.text()?;
        }
        let mut numbers = Numbers::default();
        for _ in 0..count {
            numbers.push(self.frame.number()?);
        }
        Some(Last { shape, numbers, steps: [0; 5] })
    }

    /// A place in the dictionary, 0 for none; a new text gets the next one.
    fn text(&mut self) -> Option<u32> {
        let word = self.frame.number()?;
        if word & 1 == 0 {
            let place = u32::try_from(word >> 1).ok()?;
            return (place as usize <= self.parts.texts.len()).then_some(place);
        }
        let text = std::str::from_utf8(self.frame.take(word >> 1)?).ok()?;
        self.parts.texts.push(text.into());
        u32::try_from(self.parts.texts.len()).ok()
    }
}

enum Entry {
    Mark(Box<Mark>),
    Seen(usize, u64),
}

/// The payload of the frame at `at`, and where it ends. `None`: it is cut off.
fn frame(bytes: &[u8], at: usize) -> Result<Option<(&[u8], usize)>, Fault> {
    let corrupt = |what| Fault::Corrupt { at, what };
    let mut rest = Bytes::new(bytes.get(at..).unwrap_or_default());
    let before = rest.len();
    let Some(length) = rest.number() else {
        // A number is no longer than ten bytes.
        return if before < 10 { Ok(None) } else { Err(corrupt("the length of a frame is impossible")) };
    };
    if length > MOST_FRAME {
        return Err(corrupt("the length of a frame is impossible"));
    }
    let Some(sum) = rest.take(4) else { return Ok(None) };
    let Some(payload) = rest.take(length) else { return Ok(None) };
    if checksum(payload).to_le_bytes() != sum {
        // The last one may have been written in part, with the rest of its place still empty.
        return if rest.is_empty() { Ok(None) } else { Err(corrupt("a checksum is wrong")) };
    }
    Ok(Some((payload, bytes.len() - rest.len())))
}

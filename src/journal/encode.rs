//! Writing one segment: its dictionary, its streams, its frames.

use std::{
    collections::{BTreeSet, HashMap},
    fmt::Write as _,
    sync::Arc,
};

use crc::{CRC_32_ISCSI, Crc, Table};

use super::{
    code::{self, Numbers, Shape},
    decode::StreamName,
    mark::Mark,
    segment::Header,
    words::{put, zigzag},
};
use crate::model::{Fact, Observation, Observer, Outcome, Time};

pub(super) const MAGIC: &[u8; 8] = b"CORONERJ";
/// The only version so far.
pub(super) const VERSION: u8 = 1;
/// Texts longer than this are cut, at a character.
pub const MOST_TEXT: usize = 16 * 1024;
/// A frame is begun anew after this many bytes. One entry more may stand in it.
const FULL_FRAME: usize = 64 * 1024;

static CRC: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

pub(super) fn checksum(bytes: &[u8]) -> u32 {
    CRC.checksum(bytes)
}

/// The stream of marks.
pub(super) const MARKS: u64 = 0;

/// How an entry says what it says.
pub(super) const PREDICTED: u64 = 0;
pub(super) const STEPS: u64 = 1;
pub(super) const FULL: u64 = 2;
pub(super) const AGED: u64 = 3;

/// The last outcome of a stream, and how far its numbers moved.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Last {
    pub(super) shape: Shape,
    pub(super) numbers: Numbers,
    pub(super) steps: [u64; 5],
}

/// One segment as it is written.
#[derive(Debug)]
pub struct Encoder {
    streams: HashMap<StreamName, usize>,
    last: Vec<Option<Last>>,
    texts: Texts,
    /// Texts that readers know; larger places are new.
    texts_written: u32,
    newest_us: u64,
    /// The entries of the frame that is not complete yet.
    payload: Vec<u8>,
    /// Observations in it.
    count: u64,
    /// Complete frames that were not taken.
    frames: Vec<u8>,
    /// Streams in which something succeeded.
    heard: BTreeSet<StreamName>,
}

impl Encoder {
    /// A segment with this header.
    #[must_use]
    pub fn new(header: &Header) -> Self {
        let mut encoder = Self {
            streams: HashMap::new(),
            last: Vec::new(),
            texts: Texts::default(),
            texts_written: 0,
            newest_us: micros(header.began),
            // A header is plain data with text keys: it always serializes.
            payload: serde_json::to_vec(header).unwrap_or_default(),
            count: 0,
            frames: Vec::new(),
            heard: BTreeSet::new(),
        };
        encoder.frames.extend_from_slice(MAGIC);
        encoder.frames.push(VERSION);
        encoder.end_frame();
        encoder
    }

    /// Adds an observation that the decision loop took at `now`.
    pub fn seen(&mut self, now: Time, seen: &Observation) {
        let name = StreamName {
            cluster: seen.cluster.clone(),
            signal: seen.signal.clone(),
            observer: seen.observer.clone(),
            subject: seen.subject.clone(),
        };
        let known = self.streams.get(&name).copied();
        let index = known.unwrap_or(self.last.len());
        // Readers give places to texts in the order in which they meet them: the names stand first.
        let names = known.is_none().then(|| self.places_of(&name));
        let texts = &mut self.texts;
        let (shape, numbers) = code::apart(&seen.outcome, &mut |text| texts.place_of(text));
        let before = self.last.get(index).copied().flatten();
        let age_us = micros(now).saturating_sub(micros(seen.at));

        let (form, steps) = match before {
            Some(last) if last.shape == shape => {
                let mut steps = [0; 5];
                let moved = numbers.all().iter().zip(last.numbers.all());
                for (step, (new, old)) in steps.iter_mut().zip(moved) {
                    *step = new.wrapping_sub(*old);
                }
                (if steps == last.steps { PREDICTED } else { STEPS }, steps)
            }
            _ => (FULL, [0; 5]),
        };
        self.head(index as u64 + 1, if age_us > 0 { AGED } else { form }, now);
        if let Some((tag, places)) = names {
            self.payload.push(tag);
            places.into_iter().for_each(|place| self.text(place));
            self.last.push(None);
            self.streams.insert(name.clone(), index);
        }
        if age_us > 0 {
            put(&mut self.payload, age_us);
            put(&mut self.payload, form);
        }
        match form {
            PREDICTED => {}
            STEPS => {
                for step in &steps[..numbers.all().len()] {
                    put(&mut self.payload, zigzag(step.cast_signed()));
                }
            }
            _ => self.full(&shape, &numbers),
        }
        if let Some(place) = self.last.get_mut(index) {
            *place = Some(Last { shape, numbers, steps });
        }
        // The first success of a stream has another shape than what was before it.
        if form == FULL && is_heard(seen) {
            self.heard.insert(name);
        }
        self.count += 1;
        self.end_full_frame();
    }

    /// Adds a mark.
    pub fn mark(&mut self, now: Time, mark: &Mark) {
        self.head(MARKS, PREDICTED, now);
        let json = serde_json::to_vec(mark).unwrap_or_default();
        put(&mut self.payload, json.len() as u64);
        self.payload.extend_from_slice(&json);
        self.end_full_frame();
    }

    /// How many observations wait in frames that were not taken, or not ended.
    #[must_use]
    pub const fn waiting(&self) -> u64 {
        self.count
    }

    /// Whether there is anything to be written.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.payload.is_empty() && self.frames.is_empty()
    }

    /// Ends the frame, and gives all frames that were not taken yet.
    pub fn take(&mut self) -> Vec<u8> {
        self.end_frame();
        self.count = 0;
        std::mem::take(&mut self.frames)
    }

    /// The streams of this segment in which something succeeded.
    #[must_use]
    pub const fn heard(&self) -> &BTreeSet<StreamName> {
        &self.heard
    }

    fn head(&mut self, stream: u64, form: u64, now: Time) {
        put(&mut self.payload, stream << 2 | form);
        let now_us = micros(now);
        // The loop's clock never goes back; if it did, the entry would be put at the newest moment.
        put(&mut self.payload, now_us.saturating_sub(self.newest_us));
        self.newest_us = self.newest_us.max(now_us);
    }

    /// What stands before a stream's first entry.
    fn places_of(&mut self, name: &StreamName) -> (u8, [u32; 4]) {
        let (tag, observer) = match &name.observer {
            Observer::Arbiter => (0, ""),
            Observer::Member(member) => (1, member.as_str()),
            Observer::Node(node) => (2, node.as_str()),
            Observer::Peer(peer) => (3, peer.as_str()),
        };
        let subject = name.subject.as_ref().map(|subject| subject.as_str());
        let texts = [name.cluster.as_str(), name.signal.as_str(), observer, subject.unwrap_or_default()];
        (tag | u8::from(subject.is_some()) << 4, texts.map(|text| self.texts.place_of(text)))
    }

    fn full(&mut self, shape: &Shape, numbers: &Numbers) {
        self.payload.push(shape.tag);
        self.payload.push(shape.flags);
        let (texts, _) = code::sizes(shape.tag, shape.flags).unwrap_or_default();
        shape.texts.iter().take(texts).for_each(|place| self.text(*place));
        for number in numbers.all() {
            put(&mut self.payload, *number);
        }
    }

    /// A place that readers know, or the text that gets the next one.
    fn text(&mut self, place: u32) {
        if place <= self.texts_written {
            put(&mut self.payload, u64::from(place) << 1);
            return;
        }
        let text = self.texts.at(place);
        put(&mut self.payload, (text.len() as u64) << 1 | 1);
        self.payload.extend_from_slice(text.as_bytes());
        self.texts_written += 1;
    }

    fn end_full_frame(&mut self) {
        if self.payload.len() >= FULL_FRAME {
            self.end_frame();
        }
    }

    fn end_frame(&mut self) {
        if self.payload.is_empty() {
            return;
        }
        put(&mut self.frames, self.payload.len() as u64);
        self.frames.extend_from_slice(&checksum(&self.payload).to_le_bytes());
        self.frames.append(&mut self.payload);
    }
}

/// The dictionary.
#[derive(Debug, Default)]
struct Texts {
    places: HashMap<Arc<str>, u32>,
    list: Vec<Arc<str>>,
}

impl Texts {
    /// The place of a text, from 1; the next one if it has none.
    fn place_of(&mut self, text: &str) -> u32 {
        let text = cut(text);
        if let Some(place) = self.places.get(text) {
            return *place;
        }
        let text: Arc<str> = text.into();
        self.list.push(Arc::clone(&text));
        // A segment ends long before there are so many.
        let place = u32::try_from(self.list.len()).unwrap_or(u32::MAX);
        self.places.insert(text, place);
        place
    }

    fn at(&self, place: u32) -> Arc<str> {
        let text = (place as usize).checked_sub(1).and_then(|place| self.list.get(place));
        text.map_or_else(|| "".into(), Arc::clone)
    }
}

/// Whether a stream counts as heard by this: a heartbeat whose echo is not proved does not.
const fn is_heard(seen: &Observation) -> bool {
    match &seen.outcome {
        Outcome::Failure(_) | Outcome::Fact(Fact::Agent(_) | Fact::Reaches(_) | Fact::Beat { echoed: false, .. }) => {
            false
        }
        Outcome::Fact(_) => !matches!(seen.observer, Observer::Peer(_)),
    }
}

fn cut(text: &str) -> &str {
    if text.len() <= MOST_TEXT {
        return text;
    }
    &text[..text.floor_char_boundary(MOST_TEXT)]
}

pub(super) const fn micros(at: Time) -> u64 {
    at.0 / 1_000
}

/// The name of a segment's file: its number, and when it began, for people.
pub(super) fn file_name(sequence: u64, unix_ms: i64) -> String {
    let mut name = format!("{sequence:010}");
    let at = jiff::Timestamp::from_millisecond(unix_ms).unwrap_or_default();
    // Writing to a string does not fail.
    let _ = write!(name, "-{}.journal", at.strftime("%Y%m%dT%H%M%SZ"));
    name
}

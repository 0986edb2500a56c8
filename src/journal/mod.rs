//! What the arbiter saw and decided, recorded: an append-only journal in small binary segments.
//!
//! It is read by `coroner backtest` (the same observations through other rules) and `coroner replay` (the same as a story).
//! It is the only history of observations and verdicts; what must survive a crash is in the store, and nothing is ever decided
//! by what stands here.
//!
//! # What is recorded
//!
//! Everything that the judging of the rules is made of, each thing with the moment at which the decision loop took it:
//! observations (with the age that they had then), moments at which the loop ran late, who became primary. And what came of it,
//! for people: rules that became true, with their whole explanation; verdicts; guards; commands; the story lines of incidents;
//! steps of the wall clock.
//!
//! # What is not
//!
//! - The last seconds before a `kill -9` (at most [`recorder::FRAME_EVERY`] and the batch of the loop), and what the operating
//!   system had not written in a power cut: nothing here is synced before a segment is complete.
//! - What the disk was too slow or too full for. How many observations those were stands in the next segment's header, which
//!   then begins anew: readers know that there is a hole, and judge nothing across it.
//! - Less than a microsecond, of moments and of durations. Texts longer than [`encode::MOST_TEXT`] are cut.
//! - Of an agent's own report: numbers that change with every beat (what is left of a lease, counts of renewals), and the role,
//!   which is an observation of its own. No rule sees any of that.
//! - Pauses, cooldowns, health of fences and of the store, except as the guards that they raised.
//! - The policy: only its hash. Backtests take the rules in force from a file.
//!
//! # The files
//!
//! `<sequence>-<time>.journal` in a directory of their own; sequences grow by one and are never reused. A segment is complete
//! in itself: its header says who wrote it, in which life and boot, who was primary and which streams had been heard, and ties
//! its moments (nanoseconds since boot) to the wall clock. All names and texts are in a dictionary that it builds up by itself.
//! A segment ends at 4 MiB, after 6 hours, when something was lost, and with the life of its arbiter.
//!
//! ```text
//! segment  = "CORONERJ" version:u8 frame*
//! frame    = length:varint crc32c:u32le payload        the first payload is the header, as JSON
//! payload  = entry*                                    entries do not cross frames
//! entry    = head:varint after:varint what             after: microseconds since the entry before
//! head     = stream << 2 | form                        stream 0: a mark, as length:varint JSON
//! ```
//!
//! | form | what |
//! |---|---|
//! | 0 | the same as last time, each number grown by the same step: nothing follows |
//! | 1 | the same but for its numbers: their steps follow, as zigzag varints |
//! | 2 | anything: the kind, its flags, its texts and numbers. A stream's first entry is preceded by its names |
//! | 3 | it was older than its entry: its age in microseconds, then one of the forms above |
//!
//! So a heartbeat or an unchanged position costs four bytes, most of it its time; times are evidence, and are not thinned out.
//!
//! # Torn, corrupt, read while written
//!
//! A frame is written with one call. The last frame of a segment may be cut off: that is how a life ends, and readers stop
//! there; the next arbiter that records there cuts it. A frame whose checksum is wrong ends its segment, because all that
//! follows rests on it: that is reported, and the next segment is read. A reader that runs while the arbiter writes sees whole
//! frames only. A version that is not known is reported, and skipped.

mod code;
pub mod decode;
pub mod encode;
pub mod mark;
pub mod recorder;
pub mod segment;
pub mod story;
mod words;

pub use decode::{Reader, Seen, StreamName, What};
pub use mark::{IncidentMark, Mark};
pub use recorder::{Bounds, Life, Recorder};
pub use segment::{Header, Journal, Known, Segment, Trouble};

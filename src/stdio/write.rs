//! Answers, in the exact form of the published samples: a space after each `:` and `,`, the keys in their order, ASCII
//! alone. So one line is one line for every reader: some split at U+2028 or U+0085 as well.

use std::io;

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::{Appended, FailoverDone, Message, Page, ShadowStatus, error::Refusal};

/// What is answered.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Answer {
    InitOk,
    ShadowStatusOk(ShadowStatus),
    TriggerFailoverOk(FailoverDone),
    AppendOk(Appended),
    ReadOk(Page),
    PauseShadowOk { shadow: String },
    ResumeShadowOk { shadow: String },
    Error(Refusal),
}

/// One answer with its envelope.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Reply<'a> {
    pub(super) src: &'a str,
    pub(super) dest: &'a str,
    pub(super) in_reply_to: Option<u64>,
    pub(super) msg_id: u64,
    pub(super) answer: &'a Answer,
}

impl Reply<'_> {
    /// The line, without its end.
    pub(super) fn line(&self) -> String {
        let mut bytes = Vec::with_capacity(128);
        let mut json = serde_json::Serializer::with_formatter(&mut bytes, Samples);
        // Writing to memory does not fail, all keys are strings, and numbers that are none cannot be read in; the
        // formatter writes ASCII. Were it ever otherwise, a line without content would still be no line too few.
        let written = self.serialize(&mut json).map(|()| String::from_utf8(bytes).unwrap_or_default());
        written.unwrap_or_default()
    }
}

impl Serialize for Reply<'_> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let mut map = out.serialize_map(Some(3))?;
        map.serialize_entry("src", self.src)?;
        map.serialize_entry("dest", self.dest)?;
        map.serialize_entry("body", &Body(self))?;
        map.end()
    }
}

struct Body<'a>(&'a Reply<'a>);

impl Serialize for Body<'_> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let reply = self.0;
        let mut map = out.serialize_map(None)?;
        map.serialize_entry("type", reply.answer.kind())?;
        if let Some(id) = reply.in_reply_to {
            map.serialize_entry("in_reply_to", &id)?;
        }
        map.serialize_entry("msg_id", &reply.msg_id)?;
        match reply.answer {
            Answer::InitOk => {}
            Answer::ShadowStatusOk(status) => {
                map.serialize_entry("primary", &status.primary)?;
                map.serialize_entry("shadow", &status.shadow)?;
                map.serialize_entry("wal_lag_entries", &status.wal_lag_entries)?;
                map.serialize_entry("wal_lag_ms", &status.wal_lag_ms)?;
            }
            Answer::TriggerFailoverOk(done) => {
                map.serialize_entry("new_primary", &done.new_primary)?;
                map.serialize_entry("wal_entries_replayed", &done.wal_entries_replayed)?;
                map.serialize_entry("failover_time_ms", &done.failover_time_ms)?;
                map.serialize_entry("epoch", &done.epoch)?;
            }
            Answer::AppendOk(appended) => {
                map.serialize_entry("sequence", &appended.sequence)?;
                map.serialize_entry("epoch", &appended.epoch)?;
            }
            Answer::ReadOk(page) => {
                map.serialize_entry("messages", &page.messages)?;
                map.serialize_entry("next", &page.next)?;
            }
            Answer::PauseShadowOk { shadow } | Answer::ResumeShadowOk { shadow } => {
                map.serialize_entry("shadow", shadow)?;
            }
            Answer::Error(refusal) => {
                map.serialize_entry("code", &refusal.code.number())?;
                map.serialize_entry("text", &refusal.text)?;
            }
        }
        map.end()
    }
}

impl Answer {
    const fn kind(&self) -> &'static str {
        match self {
            Self::InitOk => "init_ok",
            Self::ShadowStatusOk(_) => "shadow_status_ok",
            Self::TriggerFailoverOk(_) => "trigger_failover_ok",
            Self::AppendOk(_) => "append_ok",
            Self::ReadOk(_) => "read_ok",
            Self::PauseShadowOk { .. } => "pause_shadow_ok",
            Self::ResumeShadowOk { .. } => "resume_shadow_ok",
            Self::Error(_) => "error",
        }
    }
}

impl Serialize for Message {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let mut map = out.serialize_map(None)?;
        map.serialize_entry("sequence", &self.sequence)?;
        map.serialize_entry("epoch", &self.epoch)?;
        if let Some(key) = &self.entry.key {
            map.serialize_entry("key", key)?;
        }
        map.serialize_entry("message", &self.entry.message)?;
        map.end()
    }
}

/// The form of the samples.
struct Samples;

fn separate<W: ?Sized + io::Write>(out: &mut W, is_first: bool) -> io::Result<()> {
    if is_first { Ok(()) } else { out.write_all(b", ") }
}

impl serde_json::ser::Formatter for Samples {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, out: &mut W, is_first: bool) -> io::Result<()> {
        separate(out, is_first)
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, out: &mut W, is_first: bool) -> io::Result<()> {
        separate(out, is_first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }

    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, out: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(|c: char| !c.is_ascii()) {
            out.write_all(&rest.as_bytes()[..at])?;
            let mut chars = rest[at..].chars();
            let mut units = [0; 2];
            for unit in chars.next().map_or(&mut [][..], |c| c.encode_utf16(&mut units)) {
                write!(out, "\\u{unit:04x}")?;
            }
            rest = chars.as_str();
        }
        out.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::stdio::{Code, Entry};

    fn line(answer: &Answer, in_reply_to: Option<u64>) -> String {
        Reply { src: "n1", dest: "c0", in_reply_to, msg_id: 0, answer }.line()
    }

    #[test]
    fn answers_have_the_form_of_the_samples() {
        assert_eq!(
            line(&Answer::InitOk, Some(1)),
            r#"{"src": "n1", "dest": "c0", "body": {"type": "init_ok", "in_reply_to": 1, "msg_id": 0}}"#
        );
        let status = ShadowStatus {
            primary: "master1".into(),
            shadow: Some("master2".into()),
            wal_lag_entries: Some(5),
            wal_lag_ms: Some(200),
        };
        assert_eq!(
            line(&Answer::ShadowStatusOk(status), Some(1)),
            r#"{"src": "n1", "dest": "c0", "body": {"type": "shadow_status_ok", "in_reply_to": 1, "msg_id": 0, "primary": "master1", "shadow": "master2", "wal_lag_entries": 5, "wal_lag_ms": 200}}"#
        );
        let done =
            FailoverDone { new_primary: "master2".into(), wal_entries_replayed: 5, failover_time_ms: 450, epoch: 2 };
        assert_eq!(
            line(&Answer::TriggerFailoverOk(done), Some(2)),
            r#"{"src": "n1", "dest": "c0", "body": {"type": "trigger_failover_ok", "in_reply_to": 2, "msg_id": 0, "new_primary": "master2", "wal_entries_replayed": 5, "failover_time_ms": 450, "epoch": 2}}"#
        );
        assert_eq!(
            line(&Answer::Error(Refusal::new(Code::MalformedRequest, "no")), None),
            r#"{"src": "n1", "dest": "c0", "body": {"type": "error", "msg_id": 0, "code": 12, "text": "no"}}"#
        );
    }

    #[test]
    fn text_comes_back_whole_and_in_ascii() {
        let text = "a\"\\\u{0}\u{1f}\u{7f}ü\u{85}\u{2028}€😀\n";
        let entry = Entry { key: Some("ä".into()), message: json!({ text: [text, 1.5, u64::MAX, i64::MIN] }) };
        let page =
            Page { messages: vec![Message { sequence: 1, epoch: 2, entry: entry.clone() }; 2], next: Some(u64::MAX) };
        let line = line(&Answer::ReadOk(page), Some(u64::MAX));
        assert!(line.is_ascii() && !line.contains('\n'), "{line}");
        assert!(line.contains(r"\ud83d\ude00"), "{line}");
        let read: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(read["body"]["messages"][1]["message"], entry.message);
        assert_eq!(read["body"]["messages"][0]["key"], "ä");
        assert_eq!(read["body"]["next"], u64::MAX);
    }
}

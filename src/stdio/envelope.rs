//! The envelope, read as far as it goes: who sent a line and under which number is kept even when the rest is broken, so
//! that the error reaches whoever waits for it.

use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::error::{Refusal, quoted};

/// What a line said.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Envelope {
    /// Who sent it.
    pub(super) src: Option<String>,
    /// To whom.
    pub(super) dest: Option<String>,
    /// Under which number.
    pub(super) msg_id: Option<u64>,
    /// The rest of the body.
    pub(super) body: Option<Map<String, Value>>,
}

impl Envelope {
    /// Reads a line. What could be read comes back in any case; beside it the first thing that is wrong, if anything is.
    pub(super) fn read(line: &[u8]) -> (Self, Option<Refusal>) {
        let mut seen = Seen::default();
        let mut json = serde_json::Deserializer::from_slice(line);
        let read = EnvelopeSeed(&mut seen).deserialize(&mut json).and_then(|()| json.end());
        let Seen { envelope, fault } = seen;
        let fault = match read {
            Err(error) => Some(format!("this is no line of the protocol: {error}")),
            Ok(()) => fault.or_else(|| {
                if envelope.src.is_none() {
                    Some("`src` is missing: who sends this?".to_owned())
                } else if envelope.dest.is_none() {
                    Some("`dest` is missing: to whom is this sent?".to_owned())
                } else if envelope.body.is_none() {
                    Some("`body` is missing".to_owned())
                } else if envelope.msg_id.is_none() {
                    Some("`msg_id` is missing in the body: nothing is done that could not be answered".to_owned())
                } else {
                    None
                }
            }),
        };
        (envelope, fault.map(|text| Refusal::malformed(format!("{text}."))))
    }
}

#[derive(Default)]
struct Seen {
    envelope: Envelope,
    /// The first thing that is wrong, apart from what ends the reading.
    fault: Option<String>,
}

impl Seen {
    fn fault(&mut self, text: String) {
        self.fault.get_or_insert(text);
    }

    /// Takes a name, once.
    fn name(&mut self, key: &str, value: Value, into: impl FnOnce(&mut Envelope) -> &mut Option<String>) {
        let Value::String(text) = value else {
            return self.fault(format!("`{key}` is no string"));
        };
        let place = into(&mut self.envelope);
        if place.is_some() {
            return self.fault(format!("`{key}` stands there twice"));
        }
        *place = Some(text);
    }
}

struct EnvelopeSeed<'a>(&'a mut Seen);

impl<'de> DeserializeSeed<'de> for EnvelopeSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for EnvelopeSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `src`, `dest` and `body`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let seen = self.0;
        let mut bodies = 0_u32;
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "src" => seen.name("src", map.next_value::<Unique>()?.0, |envelope| &mut envelope.src),
                "dest" => seen.name("dest", map.next_value::<Unique>()?.0, |envelope| &mut envelope.dest),
                "body" => {
                    bodies += 1;
                    if bodies > 1 {
                        map.next_value::<IgnoredAny>()?;
                        seen.fault("`body` stands there twice".to_owned());
                    } else {
                        map.next_value_seed(BodySeed(seen))?;
                    }
                }
                // Maelstrom adds an `id`, and others may add what they like.
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

struct BodySeed<'a>(&'a mut Seen);

impl<'de> DeserializeSeed<'de> for BodySeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for BodySeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a `body` that is an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let seen = self.0;
        let mut body = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let Unique(value) = map.next_value()?;
            if key == "msg_id" {
                match (value.as_u64(), seen.envelope.msg_id) {
                    (Some(id), None) => seen.envelope.msg_id = Some(id),
                    (Some(_), Some(_)) => seen.fault("`msg_id` stands there twice".to_owned()),
                    (None, _) => seen.fault(format!("`msg_id` is no whole number from 0 to {}", u64::MAX)),
                }
            } else if body.contains_key(&key) {
                seen.fault(format!("{} stands in the body twice", quoted(&key)));
            } else {
                body.insert(key, value);
            }
        }
        seen.envelope.body = Some(body);
        Ok(())
    }
}

/// Any JSON in which no object has a key twice: of two values, nobody could say which was meant.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_any(UniqueVisitor).map(Self)
    }
}

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Unique(value)) = seq.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if values.contains_key(&key) {
                return Err(A::Error::custom(format!("{} stands in one object twice", quoted(&key))));
            }
            let Unique(value) = map.next_value()?;
            values.insert(key, value);
        }
        Ok(Value::Object(values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> (Envelope, String) {
        let (envelope, fault) = Envelope::read(line.as_bytes());
        (envelope, fault.map_or_else(String::new, |fault| fault.text))
    }

    #[test]
    fn a_good_line_is_read() {
        let (envelope, fault) = read(r#" {"id":7,"src":"c0","dest":"n1","body":{"type":"x","msg_id":1,"a":[1,{}]}} "#);
        assert_eq!(fault, "");
        assert_eq!(
            (envelope.src.as_deref(), envelope.dest.as_deref(), envelope.msg_id),
            (Some("c0"), Some("n1"), Some(1))
        );
        assert_eq!(Value::Object(envelope.body.unwrap()), serde_json::json!({ "type": "x", "a": [1, {}] }));
    }

    #[test]
    fn of_a_broken_line_what_stands_before_the_break_is_kept() {
        for (line, src, msg_id, words) in [
            ("", None, None, "EOF"),
            ("[1]", None, None, "expected an object with `src`"),
            (r#"{"src":"c0","dest":"n1","body":{"msg_id":4,"type":"in"#, Some("c0"), Some(4), "EOF"),
            (r#"{"src":"c0","dest":"n1","body":{"msg_id":4}} {}"#, Some("c0"), Some(4), "trailing"),
            (r#"{"src":"c0","body":{"msg_id":4}}"#, Some("c0"), Some(4), "`dest` is missing"),
            (r#"{"dest":"n1","body":{"msg_id":4}}"#, None, Some(4), "`src` is missing"),
            (r#"{"src":7,"dest":"n1","body":{"msg_id":4}}"#, None, Some(4), "`src` is no string"),
            (
                r#"{"src":"a","src":"b","dest":"n1","body":{"msg_id":4}}"#,
                Some("a"),
                Some(4),
                "`src` stands there twice",
            ),
            (r#"{"src":"a","dest":"n1","body":{"msg_id":4,"msg_id":5}}"#, Some("a"), Some(4), "`msg_id` stands"),
            (r#"{"src":"a","dest":"n1","body":{"msg_id":-4}}"#, Some("a"), None, "no whole number"),
            (r#"{"src":"a","dest":"n1","body":{"msg_id":1e3}}"#, Some("a"), None, "no whole number"),
            (r#"{"src":"a","dest":"n1","body":{"msg_id":18446744073709551616}}"#, Some("a"), None, "no whole number"),
            (r#"{"src":"a","dest":"n1","body":{"msg_id":1e999}}"#, Some("a"), None, "out of range"),
            (r#"{"src":"a","dest":"n1","body":{"type":"x"}}"#, Some("a"), None, "`msg_id` is missing"),
            (r#"{"src":"a","dest":"n1","body":7}"#, Some("a"), None, "a `body` that is an object"),
            (r#"{"src":"a","dest":"n1"}"#, Some("a"), None, "`body` is missing"),
            (r#"{"src":"a","dest":"n1","body":{"msg_id":1},"body":{"msg_id":2}}"#, Some("a"), Some(1), "`body` stands"),
            (r#"{"src":"a","dest":"n1","body":{"msg_id":1,"x":{"y":1,"y":2}}}"#, Some("a"), Some(1), "twice"),
            (r#"{"src":"\ud800","dest":"n1","body":{"msg_id":1}}"#, None, None, "hex escape"),
        ] {
            let (envelope, fault) = read(line);
            assert_eq!((envelope.src.as_deref(), envelope.msg_id), (src, msg_id), "{line}");
            assert!(fault.contains(words), "{line}: {fault}");
        }
    }

    #[test]
    fn depth_and_bytes_that_are_no_text_are_faults() {
        let deep = format!(r#"{{"src":"a","dest":"n1","body":{{"msg_id":1,"x":{}"#, "[".repeat(100_000));
        let (envelope, fault) = read(&deep);
        assert_eq!(envelope.msg_id, Some(1));
        assert!(fault.contains("recursion"), "{fault}");
        let (envelope, fault) = Envelope::read(b"{\"src\":\"a\",\"dest\":\"\xff\"}");
        assert_eq!(envelope.src.as_deref(), Some("a"));
        assert!(fault.is_some());
    }
}

//! A serde deserializer over the tree that finds all mistakes in one go.
//!
//! serde stops at the first error. Here, the node that failed is noted and *poisoned*, and decoding is tried again
//! without it (a map loses the key, a list the element), until it succeeds or nothing is left. What fails only
//! because a poisoned part is missing is not noted. Unknown fields are noted and skipped at once.

use std::{
    cell::{Cell, RefCell},
    collections::HashSet,
    fmt,
};

use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, Visitor},
    forward_to_deserialize_any,
};

use super::{
    diagnostic::{Notes, Place, belongs_elsewhere, did_you_mean, nearest, of_a_later_release},
    shape,
    yaml::{Id, Tree, Value},
};

/// Decodes the node. Mistakes go to `notes`; what could be decoded without them comes back.
pub(super) fn decode<T: DeserializeOwned>(tree: &Tree, id: Id, notes: &mut Notes) -> Option<T> {
    let cx = Context { tree, poisoned: RefCell::default(), notes: RefCell::new(notes) };
    loop {
        let error = match T::deserialize(Decoder { cx: &cx, id, view: View::Whole }) {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        let node = error.node.unwrap_or(id);
        cx.note(node, &error);
        // Each round poisons a node that was not poisoned before, so that the loop ends.
        if node == id || !cx.poisoned.borrow_mut().insert(node) {
            return None;
        }
    }
}

struct Context<'t, 'n> {
    tree: &'t Tree,
    poisoned: RefCell<HashSet<Id>>,
    notes: RefCell<&'n mut Notes>,
}

impl Context<'_, '_> {
    fn is_poisoned(&self, id: Id) -> bool {
        self.poisoned.borrow().contains(&id)
    }

    fn note(&self, id: Id, error: &Error) {
        let node = self.tree.node(id);
        let place = error.place.unwrap_or_else(|| self.tree.head(id));
        let mut notes = self.notes.borrow_mut();
        match &error.kind {
            Kind::Silent => {}
            Kind::Missing(field) => {
                // A key that stands there and failed was noted already.
                if self.tree.get(id, field).is_none() {
                    notes.error(place, format!("`{field}` is missing"));
                }
            }
            Kind::Unknown { word, known, what } => unknown(&mut notes, place, what, word, known),
            // A message may quote the value, and the value may be a secret.
            Kind::Message(_) if node.raw.is_some() => {
                notes.error(place, format!("what `{}` gives is not accepted here", node.shown()));
            }
            Kind::Message(text) => notes.error(place, text.clone()),
            Kind::WrongType { found, expected } => {
                let found = node.raw.as_ref().map_or_else(|| found.clone(), |raw| format!("`{raw}`"));
                notes.error(place, format!("expected {expected}, found {found}"));
            }
        }
    }

    fn unknown(&self, key: Id, what: &'static str, known: &[&str]) {
        let word = &self.tree.node(key).text;
        unknown(&mut self.notes.borrow_mut(), self.tree.place(key), what, word, known);
    }
}

/// Notes a word that is not among the known ones.
pub(super) fn unknown(notes: &mut Notes, place: Place, what: &str, word: &str, known: &[&str]) {
    match of_a_later_release(word) {
        Some(later) => notes.error(place, format!("`{word}` {later}")),
        None => {
            let help = match (nearest(word, known.iter().copied()), belongs_elsewhere(word)) {
                (None, Some(help)) => help.to_owned(),
                _ => did_you_mean(word, known.iter().copied()),
            };
            notes.error_help(place, format!("there is no {what} `{word}`"), help);
        }
    }
}

/// Why decoding stopped, and where.
#[derive(Debug)]
struct Error {
    kind: Kind,
    /// The node to be poisoned; the innermost that saw the error.
    node: Option<Id>,
    /// Where to point, if not at the node.
    place: Option<Place>,
}

#[derive(Debug)]
enum Kind {
    /// Noted already, or a consequence of what was.
    Silent,
    Message(String),
    Missing(&'static str),
    Unknown {
        word: String,
        known: Vec<&'static str>,
        what: &'static str,
    },
    WrongType {
        found: String,
        expected: String,
    },
}

impl Error {
    const fn new(kind: Kind) -> Self {
        Self { kind, node: None, place: None }
    }

    const fn at(mut self, id: Id) -> Self {
        if self.node.is_none() {
            self.node = Some(id);
        }
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.kind)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(text: T) -> Self {
        Self::new(Kind::Message(text.to_string()))
    }

    fn invalid_type(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        use de::Unexpected as U;
        let found = match found {
            U::Bool(b) => format!("`{b}`"),
            U::Unsigned(n) => format!("`{n}`"),
            U::Signed(n) => format!("`{n}`"),
            U::Float(n) => format!("`{n}`"),
            U::Str(s) => format!("`{s}`"),
            U::Map => "a map".into(),
            U::Seq => "a list".into(),
            U::Unit | U::Option => "nothing".into(),
            other => other.to_string(),
        };
        Self::new(Kind::WrongType { found, expected: in_yaml_words(&expected.to_string()) })
    }

    fn invalid_value(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(Kind::Missing(field))
    }

    fn unknown_variant(word: &str, known: &'static [&'static str]) -> Self {
        Self::new(Kind::Unknown { word: word.into(), known: known.into(), what: "choice" })
    }

    fn unknown_field(word: &str, known: &'static [&'static str]) -> Self {
        Self::new(Kind::Unknown { word: word.into(), known: known.into(), what: "key" })
    }
}

/// serde's words for types, in the words of the file.
fn in_yaml_words(expected: &str) -> String {
    match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number".into(),
        "i8" | "i16" | "i32" | "i64" | "isize" => "an integer".into(),
        "f32" | "f64" => "a number".into(),
        "a string" | "string" => "text".into(),
        "a boolean" => "`true` or `false`".into(),
        "a sequence" => "a list".into(),
        _ if expected.starts_with("struct ") => "a map".into(),
        _ => expected.into(),
    }
}

/// Which part of a node is decoded.
#[derive(Clone, Copy)]
enum View<'a> {
    /// All of it.
    Whole,
    /// Of a map, the keys that the struct knows, which are left in the cell; of anything else, nothing.
    Modifiers(&'a Cell<&'static [&'static str]>),
    /// Of a map, all keys but these.
    Except(&'static [&'static str]),
    /// Nothing: what a bare word says beyond its name.
    Nothing,
}

#[derive(Clone, Copy)]
struct Decoder<'a, 't, 'n> {
    cx: &'a Context<'t, 'n>,
    id: Id,
    view: View<'a>,
}

impl<'t> Decoder<'_, 't, '_> {
    fn value(&self) -> &'t Value {
        &self.cx.tree.node(self.id).value
    }

    fn text(&self) -> &'t str {
        &self.cx.tree.node(self.id).text
    }

    fn is_scalar(&self) -> bool {
        !matches!(self.value(), Value::Null | Value::Seq(_) | Value::Map(_))
    }

    fn child(&self, id: Id) -> Self {
        Self { id, view: View::Whole, ..*self }
    }

    /// The entries that this view shows and that are not poisoned.
    fn entries(&self, known: Option<&'static [&'static str]>) -> Vec<(Id, Id)> {
        let is_shown = |key: Id| match self.view {
            View::Whole => true,
            View::Modifiers(_) => known.is_some_and(|k| k.contains(&self.cx.tree.node(key).text.as_str())),
            View::Except(fields) => !fields.contains(&self.cx.tree.node(key).text.as_str()),
            View::Nothing => false,
        };
        let is_sound = |id| !self.cx.is_poisoned(id);
        let entries = self.cx.tree.entries(self.id).iter().copied();
        entries.filter(|(k, v)| is_shown(*k) && is_sound(*k) && is_sound(*v)).collect()
    }

    /// Visits a scalar as a number, also when it was put in as text.
    fn number<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if let (Value::Str, Some(_)) = (self.value(), &self.cx.tree.node(self.id).raw) {
            let text = self.text().trim();
            if let Ok(n) = text.parse::<u64>() {
                return visitor.visit_u64(n).map_err(|e: Error| e.at(self.id));
            }
            if let Ok(n) = text.parse::<f64>() {
                return visitor.visit_f64(n).map_err(|e: Error| e.at(self.id));
            }
        }
        self.deserialize_any(visitor)
    }
}

macro_rules! numbers {
    ($($method:ident)*) => { $(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            self.number(visitor)
        }
    )* };
}

macro_rules! texts {
    ($($method:ident)*) => { $(
        // A number or a truth value where text is expected is its text: `port: 623`, `lanplus: true`.
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            if self.is_scalar() {
                return visitor.visit_str(self.text()).map_err(|e: Error| e.at(self.id));
            }
            self.deserialize_any(visitor)
        }
    )* };
}

impl<'de> Deserializer<'de> for Decoder<'_, '_, '_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if let View::Nothing = self.view {
            return visitor.visit_unit().map_err(|e: Error| e.at(self.id));
        }
        let visited = match self.value() {
            Value::Null => visitor.visit_unit(),
            Value::Bool(b) => visitor.visit_bool(*b),
            Value::Int(n) if *n < 0 => visitor.visit_i64(*n),
            Value::Int(n) => visitor.visit_u64(n.unsigned_abs()),
            Value::Float(n) => visitor.visit_f64(*n),
            Value::Str => visitor.visit_str(self.text()),
            Value::Seq(items) => return self.items(items, visitor),
            Value::Map(_) => return self.map(visitor),
        };
        visited.map_err(|e: Error| e.at(self.id))
    }

    numbers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
        deserialize_f32 deserialize_f64
    }
    texts! { deserialize_char deserialize_str deserialize_string deserialize_identifier }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.text() {
            text @ ("true" | "false") if self.is_scalar() => {
                visitor.visit_bool(text == "true").map_err(|e: Error| e.at(self.id))
            }
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let visited = match self.value() {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        };
        visited.map_err(|e: Error| e.at(self.id))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Error> {
        let visited = match name {
            shape::NODE => visitor.visit_u64(self.id.0.into()),
            shape::AT => visitor.visit_seq(Pair::new(self, Step::Id)),
            shape::SHAPED => visitor.visit_seq(Pair::new(self, Step::Shape)),
            shape::TAGGED => visitor.visit_seq(Pair::new(self, Step::Modifiers)),
            _ => visitor.visit_newtype_struct(self),
        };
        visited.map_err(|e: Error| e.at(self.id))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value() {
            Value::Map(_) | Value::Null => self.map(visitor),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let is_empty = match self.view {
            View::Modifiers(cell) => {
                cell.set(fields);
                true
            }
            View::Nothing => true,
            _ => *self.value() == Value::Null,
        };
        if !is_empty && !matches!(self.value(), Value::Map(_)) {
            return self.deserialize_any(visitor);
        }
        let mut entries = self.entries(Some(fields));
        entries.retain(|(key, _)| {
            let is_known = fields.contains(&self.cx.tree.node(*key).text.as_str());
            if !is_known {
                self.cx.unknown(*key, "key", fields);
            }
            is_known
        });
        visitor.visit_map(Entries { of: self, entries, next: 0 }).map_err(|e: Error| e.at(self.id))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let fail = |kind| Err(Error::new(kind).at(self.id));
        if self.is_scalar() {
            if !variants.contains(&self.text()) {
                let (word, known) = (self.cx.tree.node(self.id).shown().to_owned(), variants.to_vec());
                return fail(Kind::Unknown { word, known, what: "choice" });
            }
            let choice = Choice { word: self, value: Self { view: View::Nothing, ..self } };
            return visitor.visit_enum(choice).map_err(|e: Error| e.at(self.id));
        }
        if !matches!(self.value(), Value::Map(_)) {
            let found = if *self.value() == Value::Null { "nothing" } else { "a list" };
            let expected = format!("one of {}", listed(variants));
            return fail(Kind::WrongType { found: found.into(), expected });
        }
        let modifiers = if let View::Except(fields) = self.view { fields } else { &[] };
        let text = |key: Id| self.cx.tree.node(key).text.as_str();
        let (mut kinds, mut is_noted) = (Vec::new(), false);
        for &(key, value) in self.cx.tree.entries(self.id) {
            if variants.contains(&text(key)) {
                kinds.push((key, value));
            } else if !modifiers.contains(&text(key)) {
                let known: Vec<&str> = variants.iter().chain(modifiers).copied().collect();
                self.cx.unknown(key, "choice", &known);
                is_noted = true;
            }
        }
        match kinds[..] {
            [] if is_noted => fail(Kind::Silent),
            [] => fail(Kind::Message(format!("it does not say which: write one of {}", listed(variants)))),
            [(key, value)] if self.cx.is_poisoned(key) || self.cx.is_poisoned(value) => fail(Kind::Silent),
            [(key, value)] => visitor
                .visit_enum(Choice { word: self.child(key), value: self.child(value) })
                .map_err(|e: Error| e.at(self.id)),
            [(first, _), (second, _), ..] => {
                let message = format!("`{}` and `{}` are two things: write one of them", text(first), text(second));
                let place = Some(self.cx.tree.place(second));
                Err(Error { kind: Kind::Message(message), node: Some(self.id), place })
            }
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        i128 u128 bytes byte_buf unit unit_struct seq tuple tuple_struct
    }
}

fn listed(words: &[&str]) -> String {
    words.iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(", ")
}

impl<'a, 't, 'n> Decoder<'a, 't, 'n> {
    fn items<'de, V: Visitor<'de>>(self, items: &[Id], visitor: V) -> Result<V::Value, Error> {
        let items = items.iter().copied().filter(|i| !self.cx.is_poisoned(*i)).collect();
        visitor.visit_seq(Items { of: self, items, next: 0 }).map_err(|e: Error| e.at(self.id))
    }

    fn map<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let entries = self.entries(None);
        visitor.visit_map(Entries { of: self, entries, next: 0 }).map_err(|e: Error| e.at(self.id))
    }
}

struct Items<'a, 't, 'n> {
    of: Decoder<'a, 't, 'n>,
    items: Vec<Id>,
    next: usize,
}

impl<'de> de::SeqAccess<'de> for Items<'_, '_, '_> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        let Some(&id) = self.items.get(self.next) else { return Ok(None) };
        self.next += 1;
        seed.deserialize(self.of.child(id)).map(Some).map_err(|e| e.at(id))
    }
}

struct Entries<'a, 't, 'n> {
    of: Decoder<'a, 't, 'n>,
    entries: Vec<(Id, Id)>,
    next: usize,
}

impl<'de> de::MapAccess<'de> for Entries<'_, '_, '_> {
    type Error = Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        let Some(&(key, _)) = self.entries.get(self.next) else { return Ok(None) };
        seed.deserialize(self.of.child(key)).map(Some).map_err(|e| e.at(key))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let Some(&(_, value)) = self.entries.get(self.next) else { return Err(Error::new(Kind::Silent)) };
        self.next += 1;
        seed.deserialize(self.of.child(value)).map_err(|e| e.at(value))
    }
}

/// A chosen variant: its word, and what stands below it.
struct Choice<'a, 't, 'n> {
    word: Decoder<'a, 't, 'n>,
    value: Decoder<'a, 't, 'n>,
}

impl<'de> de::EnumAccess<'de> for Choice<'_, '_, '_> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), Error> {
        let word: de::value::StrDeserializer<'_, Error> = self.word.text().into_deserializer();
        Ok((seed.deserialize(word)?, self))
    }
}

impl<'de> de::VariantAccess<'de> for Choice<'_, '_, '_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        match self.value.view {
            View::Nothing => Ok(()),
            _ if *self.value.value() == Value::Null => Ok(()),
            _ => Err(Error::new(Kind::Message(format!("write `{}` alone", self.word.text())))),
        }
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Error> {
        seed.deserialize(self.value)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.value.deserialize_any(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        self.value.deserialize_struct("", fields, visitor)
    }
}

/// What comes first in a [`Pair`].
#[derive(Clone, Copy, PartialEq)]
enum Step {
    /// The node's id, then its value.
    Id,
    /// 0 scalar, 1 list, 2 map; then its value.
    Shape,
    /// The keys of a struct, then an enum of the other ones.
    Modifiers,
    /// The second part.
    Last,
}

/// How the types of [`shape`] are served: as two elements.
struct Pair<'a, 't, 'n> {
    of: Decoder<'a, 't, 'n>,
    step: Step,
    fields: &'static [&'static str],
}

impl<'a, 't, 'n> Pair<'a, 't, 'n> {
    const fn new(of: Decoder<'a, 't, 'n>, step: Step) -> Self {
        Self { of, step, fields: &[] }
    }
}

impl<'de> de::SeqAccess<'de> for Pair<'_, '_, '_> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        let step = std::mem::replace(&mut self.step, Step::Last);
        let small = |n: u32| IntoDeserializer::<Error>::into_deserializer(n);
        match step {
            Step::Id => seed.deserialize(small(self.of.id.0)),
            Step::Shape => seed.deserialize(small(match self.of.value() {
                Value::Seq(_) => 1,
                Value::Map(_) => 2,
                _ => 0,
            })),
            Step::Modifiers => {
                let cell = Cell::new(self.fields);
                let value = seed.deserialize(Decoder { view: View::Modifiers(&cell), ..self.of });
                self.fields = cell.get();
                value
            }
            Step::Last if self.fields.is_empty() => seed.deserialize(self.of),
            Step::Last => seed.deserialize(Decoder { view: View::Except(self.fields), ..self.of }),
        }
        .map(Some)
    }
}

/// So that `At<String>` and the like work for keys and values alike.
impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl Visitor<'_> for V {
            type Value = Id;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a node")
            }
            fn visit_u64<E: de::Error>(self, n: u64) -> Result<Id, E> {
                u32::try_from(n).map(Id).map_err(E::custom)
            }
            fn visit_u32<E: de::Error>(self, n: u32) -> Result<Id, E> {
                Ok(Id(n))
            }
        }
        d.deserialize_newtype_struct(shape::NODE, V)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::{
        Severity,
        shape::{At, Entries, OneOrMany, Tagged},
        yaml,
    };

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Inner {
        n: Option<u32>,
        text: Option<String>,
        list: Vec<u8>,
        map: BTreeMap<String, f64>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Strict {
        must: u32,
        inner: Inner,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Kind {
        One(Inner),
        Two(Strict),
        Unit,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Beside {
        deadline: Option<u32>,
    }

    fn read<T: DeserializeOwned>(text: &str) -> (Option<T>, Vec<String>) {
        let mut notes = Notes::new("t", text);
        let tree = yaml::parse(text, &mut notes).unwrap();
        let value = decode(&tree, tree.root.unwrap(), &mut notes);
        let list = notes.take(Severity::Error);
        (value, list.iter().map(|d| format!("{}:{} {}", d.line, d.column, d.message)).collect())
    }

    #[test]
    fn all_mistakes_are_found_and_the_rest_is_kept() {
        let (value, mistakes) = read::<Inner>("n: x\ntext: 5\nlist: [1, 300, a, 4]\nmap: { a: 1, b: c }\nother: 1\n");
        assert_eq!(
            mistakes,
            [
                "1:4 expected a whole number, found `x`",
                "3:11 expected a whole number, found `300`",
                "3:16 expected a whole number, found `a`",
                "4:17 expected a number, found `c`",
                "5:1 there is no key `other`",
            ]
        );
        let value = value.unwrap();
        assert_eq!((value.n, value.text.as_deref(), value.list), (None, Some("5"), vec![1, 4]));
        assert_eq!(value.map, BTreeMap::from([("a".into(), 1.0)]));
    }

    #[test]
    fn what_is_missing_only_because_it_was_wrong_is_not_noted() {
        let (value, mistakes) = read::<BTreeMap<String, Strict>>(
            "a: { must: x, inner: {} }\nb: { inner: { n: y } }\nc: { must: 1, inner: {} }\n",
        );
        assert_eq!(
            mistakes,
            [
                "1:12 expected a whole number, found `x`",
                "2:1 `must` is missing",
                "2:18 expected a whole number, found `y`"
            ]
        );
        assert_eq!(value.unwrap().into_keys().collect::<Vec<_>>(), ["c"]);
    }

    #[test]
    fn kinds_are_one_key_maps_or_words_with_modifiers_beside() {
        type Methods = Vec<At<Tagged<Kind, Beside>>>;
        let (value, mistakes) = read::<Methods>("[{ one: { n: 1 }, deadline: 2 }, one, unit, { unit: }]");
        assert_eq!(mistakes, [""; 0]);
        let value = value.unwrap();
        assert_eq!(value[0].value.modifiers.deadline, Some(2));
        assert_eq!(value[0].value.kind, Kind::One(Inner { n: Some(1), ..Inner::default() }));
        assert_eq!(value[1].value.kind, Kind::One(Inner::default()));
        assert_eq!((&value[2].value.kind, &value[3].value.kind), (&Kind::Unit, &Kind::Unit));

        let (_, mistakes) = read::<Methods>(
            "- { one: {}, two: {} }\n- { deadline: 1 }\n- { eno: {} }\n- two\n- { one: {}, daedline: 1 }\n- []\n- { one: {}, deadline: x }\n- { unit: 5 }\n",
        );
        assert_eq!(
            mistakes,
            [
                "1:14 `one` and `two` are two things: write one of them",
                "2:3 it does not say which: write one of `one`, `two`, `unit`",
                "3:5 there is no choice `eno`",
                "4:3 `must` is missing",
                "5:14 there is no choice `daedline`",
                "6:3 expected one of `one`, `two`, `unit`, found a list",
                "7:24 expected a whole number, found `x`",
                "8:3 write `unit` alone",
            ]
        );
    }

    #[test]
    fn places_are_kept() {
        let (value, _) = read::<Entries<OneOrMany<At<String>>>>("a: x\nb: [y, z]\n");
        let entries = value.unwrap().0;
        assert_eq!((entries[0].0.value.as_str(), entries[1].0.value.as_str()), ("a", "b"));
        assert!(matches!(&entries[0].1.value, OneOrMany::One(x) if x.value == "x"));
        assert!(matches!(&entries[1].1.value, OneOrMany::Many(list) if list.len() == 2 && list[0].id != list[1].id));
    }
}

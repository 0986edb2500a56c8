//! Shapes that serde has no derive for: a value with its place, a kind with modifiers beside it, one or many.
//!
//! They are served by this module's own deserializer only, under names that no other type has.

use std::{borrow::Cow, fmt, marker::PhantomData};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};
use serde_json::{Value as Json, json};

use super::yaml::Id;

pub(super) const NODE: &str = "$coroner::node";
pub(super) const AT: &str = "$coroner::at";
pub(super) const SHAPED: &str = "$coroner::shaped";
pub(super) const TAGGED: &str = "$coroner::tagged";

/// A value, and where it stands.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) id: Id,
    pub(super) value: T,
}

/// A node left as it is, to be read by hand.
#[derive(Clone, Copy, Debug)]
pub(super) struct Raw(pub(super) Id);

/// A map with its keys' places, in the order of the file.
#[derive(Clone, Debug)]
pub(super) struct Entries<T>(pub(super) Vec<(At<String>, At<T>)>);

impl<T> Default for Entries<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

/// One kind key with modifiers beside it: `{ exec: {…}, deadline: 5s }`.
#[derive(Clone, Debug)]
pub(super) struct Tagged<K, M> {
    pub(super) kind: K,
    pub(super) modifiers: M,
}

/// One thing, or a list of them.
#[derive(Clone, Debug)]
pub(super) enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

/// A list of words, or a map of them to something.
#[derive(Clone, Debug)]
pub(super) enum ListOrMap<T> {
    List(Vec<At<String>>),
    Map(Entries<T>),
}

/// A word, or a map.
#[derive(Clone, Debug)]
pub(super) enum WordOrMap<T, W = String> {
    Word(At<W>),
    Map(T),
}

/// A word, or a list of them.
pub(super) type WordOrWords = OneOrMany<At<String>>;

/// Visits the two elements by which the deserializer serves these shapes.
struct Two<A, F, T>(F, PhantomData<fn(A) -> T>);

impl<'de, A, F, T> de::Visitor<'de> for Two<A, F, T>
where
    A: Deserialize<'de>,
    F: ReadSecond<'de, A, T>,
{
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value of the configuration's own deserializer")
    }

    fn visit_seq<S: de::SeqAccess<'de>>(self, mut seq: S) -> Result<T, S::Error> {
        let first = seq.next_element()?.ok_or_else(|| de::Error::custom("there is no first part"))?;
        self.0.read(first, &mut seq)
    }
}

/// How the second part is read, once the first is known.
trait ReadSecond<'de, A, T> {
    fn read<S: de::SeqAccess<'de>>(self, first: A, seq: &mut S) -> Result<T, S::Error>;
}

fn second<'de, T: Deserialize<'de>, S: de::SeqAccess<'de>>(seq: &mut S) -> Result<T, S::Error> {
    seq.next_element()?.ok_or_else(|| de::Error::custom("there is no second part"))
}

struct ReadAt;
impl<'de, T: Deserialize<'de>> ReadSecond<'de, u32, At<T>> for ReadAt {
    fn read<S: de::SeqAccess<'de>>(self, id: u32, seq: &mut S) -> Result<At<T>, S::Error> {
        Ok(At { id: Id(id), value: second(seq)? })
    }
}

struct ReadTagged;
impl<'de, K: Deserialize<'de>, M> ReadSecond<'de, M, Tagged<K, M>> for ReadTagged {
    fn read<S: de::SeqAccess<'de>>(self, modifiers: M, seq: &mut S) -> Result<Tagged<K, M>, S::Error> {
        Ok(Tagged { kind: second(seq)?, modifiers })
    }
}

struct ReadShape;
impl<'de, T: Deserialize<'de>> ReadSecond<'de, u32, OneOrMany<T>> for ReadShape {
    fn read<S: de::SeqAccess<'de>>(self, shape: u32, seq: &mut S) -> Result<OneOrMany<T>, S::Error> {
        if shape == 1 { second(seq).map(OneOrMany::Many) } else { second(seq).map(OneOrMany::One) }
    }
}
impl<'de, T: Deserialize<'de>> ReadSecond<'de, u32, ListOrMap<T>> for ReadShape {
    fn read<S: de::SeqAccess<'de>>(self, shape: u32, seq: &mut S) -> Result<ListOrMap<T>, S::Error> {
        if shape == 2 { second(seq).map(ListOrMap::Map) } else { second(seq).map(ListOrMap::List) }
    }
}
impl<'de, T: Deserialize<'de>, W: Deserialize<'de>> ReadSecond<'de, u32, WordOrMap<T, W>> for ReadShape {
    fn read<S: de::SeqAccess<'de>>(self, shape: u32, seq: &mut S) -> Result<WordOrMap<T, W>, S::Error> {
        if shape == 2 { second(seq).map(WordOrMap::Map) } else { second(seq).map(WordOrMap::Word) }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for At<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_newtype_struct(AT, Two(ReadAt, PhantomData))
    }
}

impl<'de, K: Deserialize<'de>, M: Deserialize<'de>> Deserialize<'de> for Tagged<K, M> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_newtype_struct(TAGGED, Two(ReadTagged, PhantomData))
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Id::deserialize(d).map(Self)
    }
}

macro_rules! shaped {
    ($($Name:ident)*) => { $(
        impl<'de, T: Deserialize<'de>> Deserialize<'de> for $Name<T> {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                d.deserialize_newtype_struct(SHAPED, Two(ReadShape, PhantomData))
            }
        }
    )* };
}
shaped! { OneOrMany ListOrMap }

impl<'de, T: Deserialize<'de>, W: Deserialize<'de>> Deserialize<'de> for WordOrMap<T, W> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_newtype_struct(SHAPED, Two(ReadShape, PhantomData))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Entries<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> de::Visitor<'de> for V<T> {
            type Value = Entries<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of names")
            }
            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Entries<T>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        d.deserialize_map(V(PhantomData))
    }
}

macro_rules! inline_schema {
    ($(<$($T:ident),*> $Name:ty: |$generator:ident| $schema:expr;)*) => { $(
        impl<$($T: JsonSchema),*> JsonSchema for $Name {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> Cow<'static, str> {
                Cow::Owned(format!("{}{}", stringify!($Name), [$($T::schema_name()),*].concat()))
            }
            fn json_schema($generator: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    )* };
}

inline_schema! {
    <T> At<T>: |g| g.subschema_for::<T>();
    <T> Entries<T>: |g| json_schema!({ "type": "object", "additionalProperties": g.subschema_for::<T>() });
    <T> OneOrMany<T>: |g| {
        let one = g.subschema_for::<T>();
        json_schema!({ "anyOf": [one, { "type": "array", "items": one }] })
    };
    <T> ListOrMap<T>: |g| {
        let words = json!({ "type": "array", "items": { "type": "string" } });
        json_schema!({ "anyOf": [words, g.subschema_for::<Entries<T>>()] })
    };
    <T, W> WordOrMap<T, W>: |g| json_schema!({ "anyOf": [g.subschema_for::<W>(), g.subschema_for::<T>()] });
    <K, M> Tagged<K, M>: |g| tagged_schema(K::json_schema(g), &M::json_schema(g));
}

/// Lets every one-key map of the kinds take the modifiers beside its key, and a bare word stand for an empty map.
fn tagged_schema(kinds: Schema, modifiers: &Schema) -> Schema {
    let mut kinds = Json::from(kinds);
    let more = modifiers.as_object().and_then(|m| m.get("properties")).and_then(Json::as_object);
    let mut words = Vec::new();
    for variant in kinds.get_mut("oneOf").and_then(Json::as_array_mut).into_iter().flatten() {
        let Some(properties) = variant.get_mut("properties").and_then(Json::as_object_mut) else { continue };
        words.extend(properties.keys().cloned());
        for (key, schema) in more.into_iter().flatten() {
            properties.insert(key.clone(), schema.clone());
        }
    }
    if let Some(variants) = kinds.get_mut("oneOf").and_then(Json::as_array_mut) {
        variants.push(json!({ "type": "string", "enum": words }));
    }
    Schema::try_from(kinds).unwrap_or_default()
}

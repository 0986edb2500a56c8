//! The updates of a group's document: pipelines that the server evaluates in one step, by its own clock.
//!
//! Each begins by writing the server's `$$NOW` into the document, so that all of it speaks of one moment, goes on to
//! `ok`, which is the answer, and changes something only if that is true. Names that people gave are `$literal`: one that
//! begins with a `$` is a name all the same.

use mongodb::bson::{Bson, Document, doc};

/// One update.
pub(super) type Pipeline = Vec<Document>;

/// A row: its heartbeat is not over.
fn beats() -> Bson {
    doc! { "$gt": [{ "$add": ["$$row.heartbeat", "$$row.valid_for_ms"] }, "$now"] }.into()
}

/// That, and it does not lie further ahead than it lasts, as one does that was written before the clock was set back.
fn valid() -> Bson {
    doc! { "$and": [beats(), { "$lte": ["$$row.heartbeat", { "$add": ["$now", "$$row.valid_for_ms"] }] }] }.into()
}

fn is(id: i64) -> Bson {
    doc! { "$eq": ["$$row.id", id] }.into()
}

/// Whether there is a row of which all of it holds.
fn any(conditions: Vec<Bson>) -> Bson {
    doc! { "$gt": [{ "$size": { "$filter": { "input": "$rows", "as": "row", "cond": { "$and": conditions } } } }, 0] }
        .into()
}

/// The rows, with a change of one of them.
fn with(id: i64, change: Document) -> Bson {
    doc! { "$map": { "input": "$rows", "as": "row", "in": {
        "$cond": [is(id), { "$mergeObjects": ["$$row", change] }, "$$row"]
    } } }
    .into()
}

fn if_ok(then: impl Into<Bson>, otherwise: &str) -> Bson {
    doc! { "$cond": ["$ok", then.into(), otherwise] }.into()
}

/// `floor`: the least count of changes that this process saw of the group.
fn pipeline(floor: i64, mut conditions: Vec<Bson>, change: Document) -> Pipeline {
    conditions.push(doc! { "$gte": ["$changes", floor] }.into());
    vec![
        doc! { "$set": {
            "now": "$$NOW",
            "changes": { "$ifNull": ["$changes", 0_i64] },
            "leader": { "$ifNull": ["$leader", 0_i64] },
            "rows": { "$ifNull": ["$rows", []] },
        } },
        doc! { "$set": { "ok": { "$and": conditions } } },
        doc! { "$set": change },
    ]
}

/// A heartbeat of a row that did not lapse.
pub(super) fn touch(floor: i64, id: i64, instance: &str, valid_for_ms: i64) -> Pipeline {
    let own = any(vec![is(id), doc! { "$eq": ["$$row.instance", { "$literal": instance }] }.into(), beats()]);
    let change = doc! {
        "heartbeat": "$now",
        "valid_for_ms": valid_for_ms,
        "beats": { "$add": ["$$row.beats", 1_i64] },
    };
    pipeline(floor, vec![own], doc! { "rows": if_ok(with(id, change), "$rows") })
}

/// A new row, unless a larger one is written down as the leader already.
pub(super) fn insert(floor: i64, id: i64, instance: &str, valid_for_ms: i64) -> Pipeline {
    let row = doc! {
        "id": id,
        "instance": { "$literal": instance },
        "start_time": "$now",
        "heartbeat": "$now",
        "valid_for_ms": valid_for_ms,
        "beats": 1_i64,
    };
    let is_new: Bson = doc! { "$gt": [id, "$leader"] }.into();
    let change = doc! {
        "rows": if_ok(doc! { "$concatArrays": ["$rows", [row]] }, "$rows"),
        "changes": if_ok(doc! { "$add": ["$changes", 1_i64] }, "$changes"),
    };
    pipeline(floor, vec![is_new], change)
}

/// The row is written down as the leader.
pub(super) fn claim(floor: i64, id: i64) -> Pipeline {
    let before =
        any(vec![doc! { "$gte": ["$$row.id", "$leader"] }.into(), doc! { "$lt": ["$$row.id", id] }.into(), valid()]);
    let conditions =
        vec![any(vec![is(id), valid()]), doc! { "$lte": ["$leader", id] }.into(), doc! { "$not": [before] }.into()];
    let change = doc! {
        "leader": if_ok(id, "$leader"),
        "changes": if_ok(doc! { "$add": ["$changes", 1_i64] }, "$changes"),
    };
    pipeline(floor, conditions, change)
}

/// The row lapses.
pub(super) fn leave(floor: i64, id: i64) -> Pipeline {
    pipeline(floor, Vec::new(), doc! { "rows": if_ok(with(id, doc! { "valid_for_ms": 0_i64 }), "$rows") })
}

/// The row is the leader and did not lapse; and whoever claims at the same time comes after, or this one does.
pub(super) fn lead(floor: i64, id: i64) -> Pipeline {
    let conditions = vec![doc! { "$eq": ["$leader", id] }.into(), any(vec![is(id), beats()])];
    pipeline(floor, conditions, doc! { "changes": if_ok(doc! { "$add": ["$changes", 1_i64] }, "$changes") })
}

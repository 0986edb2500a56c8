//! The statements, once for all dialects.
//!
//! | table | a row is |
//! |---|---|
//! | `…_instances` | a start of a program: `id`, `grp`, `instance`, `start_time`, `heartbeat`, `valid_for_ms`, `beats` |
//! | `…_leaders` | a group, and the largest id that ever led it (0: none) |
//! | `…_documents` | a document with its version |
//! | `…_counters` | `instances`: the newest id; `documents`: how often any was written; `schema`: 1 |
//!
//! The published question works on it, in PostgreSQL's words:
//! `SELECT MIN(id) FROM coroner_instances WHERE grp = 'orders' AND heartbeat > NOW() - INTERVAL '3 s'`. The leader is
//! who is written down in `coroner_leaders`, as long as its heartbeat is valid. Times are UTC, in milliseconds.

/// What a dialect says in its own way.
pub(in crate::registry) struct Words {
    /// Begins a transaction that writes.
    pub(in crate::registry) begin: &'static str,
    /// The time, in the type of the columns.
    pub(in crate::registry) now: &'static str,
    /// Milliseconds since 1970 of such a time, which stands for `{}`.
    pub(in crate::registry) milliseconds: &'static str,
    /// Keeps the row that a SELECT read until the end of the transaction.
    pub(in crate::registry) lock: &'static str,
    /// Whether parameters are `$1`, not `?`.
    pub(in crate::registry) is_numbered: bool,
    /// Makes the tables, and the rows of the counters, where they are missing.
    pub(in crate::registry) schema: &'static str,
}

/// The statements of one dialect.
pub(in crate::registry) struct Statements {
    /// Whether everything is there: the schema's number.
    pub(super) probe: String,
    /// Makes what is missing.
    pub(super) schema: String,
    /// A heartbeat. What was not valid is not touched, nor what stands before the leader: it could never lead again.
    pub(super) touch: String,
    /// How often a row beat.
    pub(super) beats: String,
    /// A group as it stands.
    pub(super) look: String,
    /// Heartbeats of the future, which are left behind by a clock that was set back, are of now at the latest.
    pub(super) restamp: String,
    /// The newest rows of one group, and of all.
    pub(super) newest: String,
    pub(super) newest_of_all: String,
    /// The number of a counter, which is kept.
    pub(super) counter: String,
    pub(super) set_counter: String,
    /// The largest id that is to be found anywhere, should somebody have edited the counter.
    pub(super) largest: String,
    pub(super) insert: String,
    /// The row from which on a group's history goes, and how it goes.
    pub(super) oldest: String,
    pub(super) trim: String,
    /// Who is written down, which is kept.
    pub(super) leader: String,
    pub(super) first_leader: String,
    pub(super) set_leader: String,
    /// Whether a row is valid.
    pub(super) is_valid: String,
    pub(super) leave: String,
    pub(super) get: String,
    pub(super) list: String,
    pub(super) insert_document: String,
    pub(super) update_document: String,
    pub(super) delete_document: String,
    pub(super) has_document: String,
}

const COLUMNS: &str = "id, grp, instance, {start_ms}, {heartbeat_ms}, valid_for_ms, \
                       CASE WHEN {valid} THEN {one} ELSE {zero} END, beats, {leader}, {now_ms}, \
                       (SELECT value FROM {p}_counters WHERE name = 'instances')";

impl Statements {
    pub(super) fn new(words: &Words, prefix: &str) -> Self {
        let milliseconds = |of: &str| words.milliseconds.replace("{}", of);
        let make = |template: &str| {
            let text = template
                .replace("{columns}", COLUMNS)
                .replace("{valid}", "(valid_for_ms > 0 AND {heartbeat_ms} + valid_for_ms > {now_ms})")
                .replace(
                    "{leader}",
                    "COALESCE((SELECT l.leader FROM {p}_leaders l WHERE l.grp = {p}_instances.grp), 0)",
                )
                .replace("{now_ms}", &milliseconds(words.now))
                .replace("{start_ms}", &milliseconds("start_time"))
                .replace("{heartbeat_ms}", &milliseconds("heartbeat"))
                .replace("{now}", words.now)
                .replace("{one}", "CAST(1 AS {int})")
                .replace("{zero}", "CAST(0 AS {int})")
                .replace("{int}", if words.begin.starts_with("START") { "SIGNED" } else { "BIGINT" })
                .replace("{lock}", words.lock)
                .replace("{p}", prefix);
            if words.is_numbered { numbered(&text) } else { text }
        };
        Self {
            probe: make(
                "SELECT (SELECT value FROM {p}_counters WHERE name = 'schema'), \
                 (SELECT COUNT(*) FROM {p}_counters WHERE name IN ('instances', 'documents')), \
                 (SELECT MAX(beats) FROM {p}_instances WHERE id = 0), (SELECT MAX(leader) FROM {p}_leaders WHERE grp = ''), \
                 (SELECT MAX(version) FROM {p}_documents WHERE doc_key = '')",
            ),
            schema: words.schema.replace("{p}", prefix),
            touch: make(
                "UPDATE {p}_instances SET heartbeat = {now}, valid_for_ms = ?, beats = beats + 1 \
                 WHERE id = ? AND grp = ? AND {valid} AND id >= {leader}",
            ),
            beats: make("SELECT beats FROM {p}_instances WHERE id = ? AND grp = ?"),
            look: make("SELECT {columns} FROM {p}_instances WHERE grp = ? AND id >= {leader} ORDER BY id"),
            restamp: make(
                "UPDATE {p}_instances SET heartbeat = {now} WHERE grp = ? AND id >= {leader} \
                 AND {heartbeat_ms} > {now_ms} + 1000",
            ),
            newest: make("SELECT {columns} FROM {p}_instances WHERE grp = ? ORDER BY id DESC LIMIT ?"),
            newest_of_all: make("SELECT {columns} FROM {p}_instances ORDER BY id DESC LIMIT ?"),
            counter: make("SELECT value FROM {p}_counters WHERE name = ?{lock}"),
            set_counter: make("UPDATE {p}_counters SET value = ? WHERE name = ?"),
            largest: make(
                "SELECT (SELECT MAX(id) FROM {p}_instances), (SELECT MAX(leader) FROM {p}_leaders WHERE leader > 0)",
            ),
            insert: make(
                "INSERT INTO {p}_instances (id, grp, instance, start_time, heartbeat, valid_for_ms, beats) \
                 VALUES (?, ?, ?, {now}, {now}, ?, 1)",
            ),
            oldest: make("SELECT id FROM {p}_instances WHERE grp = ? ORDER BY id DESC LIMIT 1 OFFSET 1000"),
            trim: make("DELETE FROM {p}_instances WHERE grp = ? AND id <= ? AND NOT {valid} AND id <> {leader}"),
            leader: make("SELECT leader FROM {p}_leaders WHERE grp = ?{lock}"),
            first_leader: make("INSERT INTO {p}_leaders (grp, leader) VALUES (?, 0)"),
            set_leader: make("UPDATE {p}_leaders SET leader = ? WHERE grp = ?"),
            is_valid: make(
                "SELECT CASE WHEN {valid} THEN {one} ELSE {zero} END FROM {p}_instances WHERE id = ? AND grp = ?",
            ),
            leave: make("UPDATE {p}_instances SET valid_for_ms = 0 WHERE id = ? AND grp = ?"),
            get: make(
                "SELECT c.value, d.doc_key, d.version, d.doc FROM {p}_counters c \
                 LEFT JOIN {p}_documents d ON d.doc_key = ? WHERE c.name = 'documents'",
            ),
            list: make(
                "SELECT c.value, d.doc_key, d.version, d.doc FROM {p}_counters c \
                 LEFT JOIN {p}_documents d ON d.doc_key >= ? AND d.doc_key < ? \
                 WHERE c.name = 'documents' ORDER BY d.doc_key",
            ),
            insert_document: make("INSERT INTO {p}_documents (doc_key, version, doc) VALUES (?, 1, ?)"),
            update_document: make(
                "UPDATE {p}_documents SET version = version + 1, doc = ? WHERE doc_key = ? AND version = ?",
            ),
            delete_document: make("DELETE FROM {p}_documents WHERE doc_key = ? AND version = ?"),
            has_document: make("SELECT version FROM {p}_documents WHERE doc_key = ?"),
        }
    }
}

/// `?` as `$1`, `$2`, …; no statement here holds a `?` of another meaning.
fn numbered(text: &str) -> String {
    let mut parts = text.split('?');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for (index, part) in parts.enumerate() {
        out.push_str(&format!("${}{part}", index + 1));
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn parameters_are_numbered() {
        assert_eq!(super::numbered("a = ? AND b = ?"), "a = $1 AND b = $2");
        assert_eq!(super::numbered("a"), "a");
    }
}

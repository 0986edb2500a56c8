CREATE TABLE clusters (
    cluster        TEXT NOT NULL PRIMARY KEY,
    epoch          INTEGER NOT NULL,
    primary_member TEXT,
    quarantined    TEXT,
    paused_by      TEXT,
    json           TEXT NOT NULL,
    sha256         TEXT NOT NULL,
    written        TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
) STRICT;

CREATE TABLE incidents (
    id             TEXT NOT NULL PRIMARY KEY,
    cluster        TEXT NOT NULL,
    kind           TEXT NOT NULL,
    state          TEXT NOT NULL,
    state_reason   TEXT,
    opened         TEXT NOT NULL,
    opened_unix_ms INTEGER NOT NULL,
    closed         TEXT,
    closed_unix_ms INTEGER,
    old_primary    TEXT NOT NULL,
    candidate      TEXT NOT NULL,
    epoch          INTEGER NOT NULL,
    acknowledged   INTEGER NOT NULL,
    json           TEXT NOT NULL,
    sha256         TEXT NOT NULL,
    written        TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
) STRICT;
CREATE INDEX incidents_by_cluster ON incidents (cluster, opened_unix_ms);

CREATE TABLE saga_log (
    incident TEXT NOT NULL,
    number   INTEGER NOT NULL,
    cluster  TEXT NOT NULL,
    kind     TEXT NOT NULL,
    entry    TEXT NOT NULL,
    sha256   TEXT NOT NULL,
    written  TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    UNIQUE (incident, number)
) STRICT;

CREATE TABLE incident_policies (
    incident TEXT NOT NULL PRIMARY KEY,
    hash     TEXT NOT NULL,
    json     TEXT NOT NULL,
    sha256   TEXT NOT NULL,
    written  TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
) STRICT;

CREATE TABLE spool (
    number   INTEGER PRIMARY KEY AUTOINCREMENT,
    reporter TEXT NOT NULL,
    key      TEXT NOT NULL,
    json     TEXT NOT NULL,
    sha256   TEXT NOT NULL,
    written  TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    UNIQUE (reporter, key)
) STRICT;

CREATE TABLE health (
    id      INTEGER PRIMARY KEY CHECK (id = 1),
    checked TEXT NOT NULL
) STRICT;

CREATE VIEW v_clusters AS
SELECT cluster, epoch, primary_member AS "primary", quarantined, paused_by, written AS changed FROM clusters;

CREATE VIEW v_incidents AS
SELECT id AS incident, cluster, kind, state, state_reason AS reason, opened, closed,
       round((closed_unix_ms - opened_unix_ms) / 1000.0, 3) AS seconds,
       old_primary, candidate AS new_primary, epoch,
       CASE acknowledged WHEN 1 THEN 'yes' ELSE 'no' END AS acknowledged
FROM incidents ORDER BY opened_unix_ms DESC;

CREATE VIEW v_timeline AS
SELECT i.id AS incident, i.cluster AS cluster,
       strftime('%Y-%m-%dT%H:%M:%fZ',
                (json_extract(i.json, '$.anchor.unix_ms')
                 + (json_extract(t.value, '$.at') - json_extract(i.json, '$.anchor.boot')) / 1000000) / 1000.0,
                'unixepoch') AS at,
       json_extract(t.value, '$.text') AS what
FROM incidents AS i, json_each(i.json, '$.timeline') AS t
ORDER BY i.opened_unix_ms, json_extract(t.value, '$.at'), t.key;

CREATE VIEW v_steps AS
SELECT i.id AS incident, i.cluster AS cluster,
       json_extract(s.value, '$.act') AS act,
       json_extract(s.value, '$.label') AS step,
       json_extract(s.value, '$.took_ms') AS took_ms,
       json_extract(s.value, '$.outcome') AS outcome,
       json_extract(s.value, '$.detail') AS detail
FROM incidents AS i, json_each(i.json, '$.steps') AS s
ORDER BY i.opened_unix_ms, act;

-- One row per incarnation of a gateway process. A restarted process registers again with a new epoch.
CREATE TABLE workers (
    epoch          INTEGER PRIMARY KEY AUTOINCREMENT,  -- AUTOINCREMENT: an epoch is never reused
    worker_id      TEXT NOT NULL,
    host           TEXT NOT NULL,
    boot_id        TEXT NOT NULL,               -- of the host's kernel
    pid            INTEGER NOT NULL,
    proof          TEXT,                        -- which gate file proves that its process lives; NULL = none does
    version        TEXT NOT NULL,               -- of the program
    assistants     TEXT NOT NULL DEFAULT '[]',  -- JSON array: their waiting portable runs can be executed by this worker
    state          TEXT NOT NULL CHECK (state IN ('live', 'draining', 'dead')),
    hb_seq         INTEGER NOT NULL DEFAULT 0,  -- heartbeats so far; a reaper compares it
    ttl_ms         INTEGER NOT NULL CHECK (ttl_ms > 0),
    lease_until    INTEGER NOT NULL,
    started_at     INTEGER NOT NULL,
    drain_asked_at INTEGER,                     -- when an operator requested this drain
    drain_grace_ms INTEGER,                     -- NULL = the grace of the worker's own settings
    fenced_by      INTEGER,                     -- the epoch that declared this one dead; its own where it retired
    fenced_at      INTEGER,
    fenced_actor   TEXT                         -- who declared the worker dead; NULL = no operator did
) STRICT;

CREATE INDEX workers_alive ON workers (epoch) WHERE state <> 'dead';
